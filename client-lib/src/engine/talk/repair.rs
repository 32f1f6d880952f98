//! Repairs (rules 7 and 8): a move that does not go through the mailbox, because that is what is broken. The
//! commit goes to every member's inbox instead, with a request for a way back in case nobody follows.

use posthorn_proto::turn::TurnHash;
use posthorn_proto::{MailboxId, PostId};

use super::Talk;
use super::slot::AuthorSlot;
use crate::content::{MOST_REPAIR, ReceiptOnly, Repaired, Said};
use crate::conversation::heard::heard;
use crate::conversation::{Cause, MessageId, history};
use crate::engine::Error;
use crate::engine::mailbox::reading::chain_at;
use crate::group::{Change, GroupError, Outcome, ReaderSecret, Received, StagedChange};
use crate::identity::PersonId;
use crate::outbox::{self, Parcel};

/// For so long whoever repaired follows nobody's invitation back, milliseconds: the others may be following.
const ALONE: u64 = 5 * 60_000;
/// The most of our own messages that are sent again after a repair.
const SENT_AGAIN: usize = 512;
/// In larger conversations nobody says what they have: then all of the last days are sent again,
/// milliseconds.
const SENT_AGAIN_SINCE: u64 = 30 * 24 * 3600 * 1000;

impl Talk<'_, '_> {
    /// Begins a repair of our own: a mailbox on our own relay. False if no such commit can be made.
    pub(super) fn stage_repair(&mut self) -> Result<bool, Error> {
        let own = self.step.own()?;
        let (leaf, relay) = (own.leaf()?, own.relay()?.clone());
        self.give_up_repair()?;
        let Some(aad) = self.slot_of_repair() else { return Ok(false) };
        let (mailbox, secret) = (MailboxId::random(self.step.rng), ReaderSecret::generate(self.step.rng));
        let staged = self.group(|group, _| {
            let info = group.info().moved(relay, mailbox, secret);
            Ok(group.stage(&leaf, &Change { info: Some(info), ..Change::default() }, &aad))
        })?;
        let staged = match staged {
            Ok(staged) => staged,
            Err(error) if error.is_storage() => return Err(error.into()),
            // Somebody's device does not know the rules yet, or a key is bad: asking is what is left.
            Err(_) => return Ok(false),
        };
        if staged.commit.len() > MOST_REPAIR {
            self.group(|group, _| group.clear_pending())?;
            return Ok(false);
        }
        let Some(place) = self.place_of(&staged)? else { return Ok(false) };
        let parcel = Parcel::Repair { commit: staged.commit, place };
        let row = outbox::put(self.step.tx, &self.open.record.mailbox, &parcel)?;
        self.change().commit_row = Some(row);
        self.make_place(row)?;
        Ok(true)
    }

    /// What is signed with a repair: the mailbox that it leaves, and the last good place in it.
    fn slot_of_repair(&self) -> Option<Vec<u8>> {
        let (seq, chain) = self.reading().map(|reading| (reading.seq, reading.chain()))?;
        let mailbox = self.record().mailbox;
        Some(AuthorSlot { mailbox, post: PostId([0; 16]), readers: TurnHash::NONE, seq, chain }.encode())
    }

    pub(super) fn is_repair(&self, row: i64) -> Result<bool, Error> {
        Ok(matches!(outbox::get(self.step.tx, row)?, Some(Parcel::Repair { .. })))
    }

    /// Its mailbox is there: it is true now for us, and the others are told.
    pub(super) fn finish_repair(&mut self, row: i64, commit: Vec<u8>) -> Result<(), Error> {
        if !self.record().is_suspended() {
            // The reason has passed meanwhile.
            return self.give_up_repair();
        }
        let epoch = self.record().epoch;
        let outcome = self.group(|group, _| group.merge_pending())?;
        outbox::remove(self.step.tx, row)?;
        let now = self.step.now;
        let record = self.change();
        record.commit_row = None;
        (record.leaf_since, record.updated_at) = (now, now);
        let repaired = Repaired::by(epoch, outcome.committer.leaf, &commit);
        // Who is asked, and where they can be reached, is as it was before we go.
        self.ask_for_help(Some((repaired, commit)), &[])?;
        self.go_on(&outcome, repaired)?;
        self.look_for_others(&[])?;
        self.say_here()?;
        self.change().healing.alone_until = now + ALONE;
        self.step.wake_talk(self.id, now + ALONE);
        Ok(())
    }

    /// Follows the repair of this epoch that wins among those that we heard of. Whether there was one.
    pub(super) fn follow_repair(&mut self) -> Result<bool, Error> {
        let epoch = self.record().epoch;
        let mut best: Option<(Repaired, i64)> = None;
        for (row, asked) in heard(self.step.tx, &self.id)? {
            let is_of_now = asked.is_at.is_some_and(|repair| repair.epoch == epoch);
            let Some(commit) = asked.repair.filter(|_| is_of_now) else { continue };
            let Some((change, _)) = self.read_repair(&commit)? else { continue };
            let repaired = Repaired::by(epoch, change.outcome().committer.leaf, &commit);
            if best.as_ref().is_none_or(|(known, _)| repaired.beats(known)) {
                best = Some((repaired, row));
            }
        }
        let Some((repaired, row)) = best else { return Ok(false) };
        let Some((_, asked)) = heard(self.step.tx, &self.id)?.into_iter().find(|(at, _)| *at == row) else {
            return Ok(false);
        };
        let Some((change, slot)) =
            asked.repair.as_ref().map(|commit| self.read_repair(commit)).transpose()?.flatten()
        else {
            return Ok(false);
        };
        if !asked.looked {
            self.compare_history(&slot)?;
        }
        let outcome = self.group(|group, _| group.apply(change))?;
        self.give_up_commit()?;
        let commit = asked.repair.clone().unwrap_or_default();
        self.settle(row, asked)?;
        self.second(repaired, commit)?;
        self.go_on(&outcome, repaired)?;
        self.look_for_others(&[PersonId::from(&outcome.committer.credential.identity())])?;
        self.say_here()?;
        Ok(true)
    }

    /// Says something where a repair led: whoever is there sees that it is not alone.
    pub(in crate::engine) fn say_here(&mut self) -> Result<(), Error> {
        let said = Said::new(ReceiptOnly {}).map_err(|error| Error::BadContent(error.to_string()))?;
        let message = MessageId::random(self.step.rng);
        self.say(message, said)
    }

    /// Says it, too, if we find the same ourselves and only one person has said so: who finds nothing wrong
    /// follows the word of two.
    fn second(&mut self, repaired: Repaired, commit: Vec<u8>) -> Result<(), Error> {
        let heard = heard(self.step.tx, &self.id)?.into_iter();
        let mut people: Vec<_> = heard
            .filter(|(_, asked)| asked.repair.as_ref() == Some(&commit))
            .map(|(_, asked)| asked.person)
            .collect();
        people.dedup();
        if people.len() > 1 || self.record().members.len() < 3 || !self.record().is_suspended() {
            return Ok(());
        }
        self.ask_for_help(Some((repaired, commit)), &[])
    }

    /// Whether a commit is a repair that could be applied here.
    pub(super) fn can_follow(&mut self, commit: &[u8]) -> Result<bool, Error> {
        Ok(self.read_repair(commit)?.is_some())
    }

    /// The repair in a commit, if it is one of this epoch that leads from here to somewhere new, and what its
    /// author had seen.
    pub(super) fn read_repair(&mut self, commit: &[u8]) -> Result<Option<(StagedChange, AuthorSlot)>, Error> {
        let received = self.group(|group, _| Ok(group.receive(commit, &[])))?;
        let change = match received {
            Ok(Received::Commit(change)) => *change,
            Err(error) if error.is_storage() => return Err(error.into()),
            _ => return Ok(None),
        };
        let place = change.outcome().info.place.clone();
        let Some(slot) = AuthorSlot::decode(change.aad()) else { return Ok(None) };
        let here = self.record().mailbox;
        let is_repair = slot.mailbox == here
            && slot.post == PostId([0; 16])
            && place.number != self.record().place
            && !self.leads_astray(&place)?;
        Ok(Some((change, slot)).filter(|_| is_repair))
    }

    /// What a member saw who repaired the conversation must be what we saw, where we saw both (C4).
    pub(super) fn compare_history(&mut self, slot: &AuthorSlot) -> Result<(), Error> {
        let here = self.record().mailbox;
        if let Some(ours) = chain_at(self.step.tx, &here, slot.seq)?
            && ours != slot.chain
        {
            let text = "the relay showed a member who repaired the conversation a different history than us";
            self.alarm(Cause::ChainMismatch, Some(slot.seq), text);
        }
        Ok(())
    }

    /// A repair is true: on to where it leads, and everything that somebody may lack is said again there.
    fn go_on(&mut self, outcome: &Outcome, repaired: Repaired) -> Result<(), Error> {
        if outcome.keys.is_none() {
            return Err(GroupError::Evicted.into());
        }
        let seq = self.reading().map_or(0, |reading| reading.seq);
        let (place, lacking) = (self.record().place, self.record().everyone.delivered);
        self.epoch_began(outcome, Vec::new(), Vec::new(), seq, true)?;
        self.resume();
        let now = self.step.now;
        let healing = &mut self.change().healing;
        (healing.due, healing.tries, healing.lost_to) = (0, 0, None);
        healing.followed = Some((repaired, now));
        self.end_exchanges_at(repaired)?;
        let again = self.lacking(place, lacking)?;
        self.follow_with(again)
    }

    /// Our own messages of a place that some member may not have: those above what everybody confirmed.
    pub(in crate::engine) fn lacking(&mut self, place: u32, above: u64) -> Result<Vec<Parcel>, Error> {
        let since = self.step.now.saturating_sub(SENT_AGAIN_SINCE);
        // Whoever came later is not to read what was said before (a promise to all others).
        let (newest, seq) = self.record().healing.newest;
        if newest > place {
            return Ok(Vec::new());
        }
        let above = if newest == place { above.max(seq) } else { above };
        let mailbox = self.record().mailbox;
        let mut waiting = Vec::new();
        for (_, parcel) in outbox::all(self.step.tx, &mailbox)? {
            if let Parcel::Message { message, .. } = parcel {
                waiting.push(message);
            }
        }
        let said = history::own_said_above(self.step.tx, &self.id, place, above, SENT_AGAIN)?;
        let lacking =
            said.into_iter().filter(|(message, sent_at, _)| *sent_at >= since && !waiting.contains(message));
        let parcel = |(message, sent_at, said)| Parcel::Message { message, sent_at, said, sealed: None };
        Ok(lacking.map(parcel).collect())
    }
}
