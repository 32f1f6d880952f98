//! The poison guard (rule 28): a delivery that kills the process again and again is passed over.
//!
//! After a start that follows a death, each of the first deliveries is noted durably before it is handled,
//! and the note goes with the transaction that handled it. What is found noted three times killed three
//! processes.

use posthorn_proto::MailboxId;
use posthorn_proto::frame::{ServerBody, ServerFrame};

use super::{Effect, Engine, Error, Input, LinkId};
use crate::store::table::Table;
use crate::store::{Transaction, poison};

/// Deliveries after a start that follows a death which are handled one at a time.
const FIRST: u32 = 64;
/// Deaths that one delivery may cause.
const DEATHS: u32 = 3;
const TABLE: Table<&str, bool> = Table::new("setting");
const KEY: &str = "ended_well";

/// Deliveries to be handled with care in this run. Notes that it began.
pub(super) fn begin(tx: &Transaction<'_>) -> Result<u32, Error> {
    let ended_well: bool = TABLE.get(tx, &KEY)?.unwrap_or(true);
    TABLE.put(tx, &KEY, &false)?;
    Ok(if ended_well { 0 } else { FIRST })
}

/// Notes that the run ended in order.
pub(super) fn ended_well(tx: &Transaction<'_>) -> Result<(), Error> {
    Ok(TABLE.put(tx, &KEY, &true)?)
}

impl Engine {
    /// Each delivery in a transaction of its own, noted before it is looked at. When the database fails, what
    /// was committed before is carried out first.
    pub(super) fn handle_carefully(&mut self, inputs: Vec<Input>, now: u64) -> Result<Vec<Effect>, Error> {
        let mut effects = Vec::new();
        for (at, input) in inputs.into_iter().flat_map(one_by_one).enumerate() {
            let done = match input {
                Input::Frames(id, mut frames) if frames.len() == 1 => {
                    self.take_carefully(&id, frames.remove(0), now)
                }
                input => self.run(now, |step| step.input(input)),
            };
            match done {
                Ok(more) => effects.extend(more),
                Err(error) if at == 0 => return Err(error),
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
        }
        Ok(effects)
    }

    fn take_carefully(&mut self, id: &LinkId, frame: ServerFrame, now: u64) -> Result<Vec<Effect>, Error> {
        let ServerBody::Delivery(delivery) = &frame.body else {
            return self.run(now, |step| step.input(Input::Frames(id.clone(), vec![frame])));
        };
        self.live.careful = self.live.careful.saturating_sub(1);
        let (mailbox, seq) = (delivery.mailbox, delivery.seq);
        let tries = self.note(&mailbox, seq)?;
        self.run(now, |step| {
            step.passing_over = tries > DEATHS;
            step.input(Input::Frames(id.clone(), vec![frame]))?;
            step.passing_over = false;
            Ok(poison::clear(step.tx, &mailbox)?)
        })
    }

    /// Notes a delivery; how often it was begun by now, this time included.
    fn note(&mut self, mailbox: &MailboxId, seq: u64) -> Result<u32, Error> {
        let tx = self.database.transaction(&mut self.rng)?;
        let tries = poison::note(&tx, mailbox, seq)?;
        tx.commit()?;
        Ok(tries)
    }
}

fn one_by_one(input: Input) -> Vec<Input> {
    match input {
        Input::Frames(id, frames) => {
            frames.into_iter().map(|frame| Input::Frames(id.clone(), vec![frame])).collect()
        }
        input => vec![input],
    }
}
