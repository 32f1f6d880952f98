//! Invitations that wait: for the person's consent (rule 25), or for the end of what this device reads where
//! they lead (rule 27). Kept whole, so that following them needs nobody's help; bounded, each sort by itself,
//! so that strangers can neither fill the disk nor crowd out others.

use posthorn_proto::MailboxId;
use serde::{Deserialize, Serialize};

use super::{ConversationId, GroupId};
use crate::identity::PersonId;
use crate::store::table::Table;
use crate::store::{StoreError, Transaction};

const TABLE: Table<ConversationId, Invited> = Table::new("invited");
/// The most that wait. What is already shown to the person stays, what comes above is not kept.
pub(crate) const MOST_INVITED: usize = 64;
/// The most of one inviter.
pub(crate) const MOST_OF_ONE: usize = 4;
/// The most that wait for one mailbox to be free; one of each inviter.
const MOST_HELD: usize = 8;
/// The most that wait for mailboxes to be free which other groups are said to have.
const MOST_ELSEWHERE: usize = 32;

/// An invitation that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invited {
    /// Who invites; their signature was checked.
    pub(crate) inviter: PersonId,
    /// Into which MLS group.
    pub(crate) group: GroupId,
    /// It came by the public inbox, so that the conversation is read on a connection of its own.
    pub(crate) apart: bool,
    /// The invitation as it was opened.
    #[serde(with = "serde_bytes")]
    pub(crate) invitation: Vec<u8>,
    /// Unix milliseconds.
    pub(crate) received_at: u64,
    /// It waits for the end of what this device reads in this mailbox, not for the person.
    pub(crate) held_for: Option<Held>,
}

/// Where an invitation leads, while something is read there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) mailbox: MailboxId,
    /// Into the group that is read there, by a member of it.
    pub(crate) again: bool,
}

/// Keeps an invitation under the id that its conversation will have here, in place of an earlier one of that
/// id. False if there are too many.
pub(crate) fn put_invited(
    tx: &Transaction<'_>,
    id: &ConversationId,
    invited: &Invited,
) -> Result<bool, StoreError> {
    let waiting = TABLE.all(tx)?;
    let others = || waiting.iter().filter(|(known, other)| known != id && other.held_for.is_none());
    let of_one = others().filter(|(_, known)| known.inviter == invited.inviter).count();
    if others().count() >= MOST_INVITED || of_one >= MOST_OF_ONE {
        return Ok(false);
    }
    TABLE.put(tx, id, invited).map(|()| true)
}

/// Keeps an invitation until the mailbox that it leads to is free, in place of an earlier one of the same
/// inviter. False if there are too many.
pub(crate) fn hold_invited(
    tx: &Transaction<'_>,
    id: &ConversationId,
    held_for: Held,
    invited: &Invited,
) -> Result<bool, StoreError> {
    let all = TABLE.all(tx)?;
    let alike = || all.iter().filter(|(_, other)| other.held_for == Some(held_for));
    for (earlier, _) in alike().filter(|(_, other)| other.inviter == invited.inviter) {
        TABLE.remove(tx, earlier)?;
    }
    let others = alike().filter(|(_, other)| other.inviter != invited.inviter).count();
    let elsewhere = all.iter().filter(|(_, other)| other.held_for.is_some_and(|held| !held.again)).count();
    if others >= MOST_HELD || (!held_for.again && elsewhere >= MOST_ELSEWHERE) {
        return Ok(false);
    }
    TABLE.put(tx, id, &Invited { held_for: Some(held_for), ..invited.clone() }).map(|()| true)
}

/// One that waits.
pub(crate) fn get_invited(tx: &Transaction<'_>, id: &ConversationId) -> Result<Option<Invited>, StoreError> {
    TABLE.get(tx, id)
}

/// All that wait, newest first.
pub(crate) fn list_invited(tx: &Transaction<'_>) -> Result<Vec<(ConversationId, Invited)>, StoreError> {
    let mut all = TABLE.all(tx)?;
    all.sort_by_key(|(id, invited)| (std::cmp::Reverse(invited.received_at), *id));
    Ok(all)
}

/// Forgets one: it was accepted, declined, or is too old.
pub(crate) fn remove_invited(tx: &Transaction<'_>, id: &ConversationId) -> Result<bool, StoreError> {
    TABLE.remove(tx, id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::within;

    fn by(person: u8, received_at: u64) -> Invited {
        Invited {
            inviter: PersonId([person; 32]),
            group: GroupId([person; 16]),
            apart: false,
            invitation: vec![person; 100],
            received_at,
            held_for: None,
        }
    }

    #[test]
    fn they_are_bounded_for_one_and_for_all() {
        let id = |n: usize| ConversationId([n as u8; 16]);
        within(|tx| {
            for n in 0..MOST_OF_ONE {
                assert!(put_invited(tx, &id(n), &by(1, n as u64))?);
            }
            assert!(!put_invited(tx, &id(100), &by(1, 9))?, "one person fills it with no more than that");
            assert!(put_invited(tx, &id(0), &by(1, 50))?, "the same again takes no more room");
            for n in MOST_OF_ONE..MOST_INVITED {
                assert!(put_invited(tx, &id(n), &by(n as u8, n as u64))?);
            }
            assert!(!put_invited(tx, &id(100), &by(200, 9))?);
            assert_eq!(list_invited(tx)?.len(), MOST_INVITED);
            assert_eq!(list_invited(tx)?[0].0, id(MOST_INVITED - 1), "newest first");
            assert_eq!(get_invited(tx, &id(0))?, Some(by(1, 50)));
            assert_eq!((remove_invited(tx, &id(0))?, remove_invited(tx, &id(0))?), (true, false));
            assert!(put_invited(tx, &id(100), &by(200, 9))?);
            Ok(())
        });
    }

    #[test]
    fn what_is_held_crowds_out_nobody() {
        let id = |n: usize| ConversationId([n as u8; 16]);
        let held = |mailbox: u8, again| Held { mailbox: MailboxId([mailbox; 16]), again };
        within(|tx| {
            for n in 0..MOST_HELD {
                assert!(hold_invited(tx, &id(n), held(1, false), &by(n as u8, 1))?);
                assert!(hold_invited(tx, &id(n), held(1, false), &by(n as u8, 2))?, "the later counts");
            }
            assert!(!hold_invited(tx, &id(99), held(1, false), &by(99, 1))?);
            assert!(hold_invited(tx, &id(99), held(1, true), &by(99, 1))?, "members have room of their own");
            for n in MOST_HELD..MOST_ELSEWHERE {
                assert!(hold_invited(tx, &id(n + 100), held(n as u8, false), &by(50, 1))?);
            }
            assert!(!hold_invited(tx, &id(98), held(200, false), &by(98, 1))?);
            assert_eq!(list_invited(tx)?.len(), MOST_ELSEWHERE + 1);
            assert!(put_invited(tx, &id(97), &by(97, 1))?, "the person's own are another matter");
            Ok(())
        });
    }
}
