//! Deliveries that end the process. Each is noted before it is handled and cleared with what it did, so that
//! one which panics or exhausts memory is found noted after the start, and is passed over after a few tries
//! (rule 28).

use posthorn_proto::MailboxId;
use serde::{Deserialize, Serialize};

use super::table::Table;
use super::{StoreError, Transaction};

const TABLE: Table<MailboxId, Front> = Table::new("poison");

/// The delivery of a mailbox that was begun last.
#[derive(Serialize, Deserialize)]
struct Front {
    seq: u64,
    tries: u32,
}

/// Notes that the delivery at `seq` is about to be handled, and how often it was begun by now, this time
/// included. Must be committed before the handling begins.
pub(crate) fn note(tx: &Transaction<'_>, mailbox: &MailboxId, seq: u64) -> Result<u32, StoreError> {
    let known = TABLE.get(tx, mailbox)?.filter(|front| front.seq == seq);
    let tries = known.map_or(1, |front| front.tries.saturating_add(1));
    TABLE.put(tx, mailbox, &Front { seq, tries })?;
    Ok(tries)
}

/// The delivery was handled, or recorded and passed over.
pub(crate) fn clear(tx: &Transaction<'_>, mailbox: &MailboxId) -> Result<(), StoreError> {
    TABLE.remove(tx, mailbox).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::within;

    #[test]
    fn tries_are_counted_for_one_delivery_of_a_mailbox() {
        let (here, there) = (MailboxId([1; 16]), MailboxId([2; 16]));
        within(|tx| {
            assert_eq!((note(tx, &here, 7)?, note(tx, &here, 7)?, note(tx, &there, 7)?), (1, 2, 1));
            assert_eq!(note(tx, &here, 8)?, 1, "another delivery");
            clear(tx, &there)?;
            assert_eq!((note(tx, &here, 8)?, note(tx, &there, 7)?), (2, 1));
            Ok(())
        });
    }
}
