//! What a device does about a conversation that cannot go on, as a part of the conversation's row.

use serde::{Deserialize, Serialize};

use super::Cause;
use crate::content::Repaired;
use crate::identity::PersonId;

/// Requests of a device that an answer may still come to.
const REQUESTS: usize = 4;
/// An answer may come for this long after another one did, milliseconds.
const ANSWERED_WITHIN: u64 = 10 * 60_000;

/// What can be done about a cause, without anybody's help or wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The mailbox is no place to go on in: the conversation moves to another, with everybody who finds the
    /// same. (Who is alone with what it found is taken back in by the others.)
    Repair,
    /// This device alone has lost the thread: the others take it out and in again.
    Return,
}

impl Cause {
    /// What heals it; none for what passes by itself, or is the person's to decide.
    pub(crate) fn remedy(self) -> Option<Remedy> {
        match self {
            Self::MailboxGone
            | Self::RelayRolledBack
            | Self::KeyMismatch
            | Self::BadTurn
            | Self::BadCommit
            | Self::ChainMismatch
            | Self::Gap
            | Self::Damaged => Some(Remedy::Repair),
            Self::Lapsed | Self::RolledBack | Self::Evicted | Self::ReadKeyRefused => Some(Remedy::Return),
            _ => None,
        }
    }
}

impl Cause {
    /// What is being done about it without anybody's help, for people: the end of a sentence. Empty where
    /// only waiting helps, or a decision.
    pub fn what_is_done(self) -> &'static str {
        match self.remedy() {
            Some(Remedy::Repair) => {
                "it goes on in another mailbox within minutes, with whoever finds the same"
            }
            Some(Remedy::Return) => "the others take this device in again as soon as one of them is online",
            None => "",
        }
    }
}

/// How far that has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Healing {
    /// When the next thing is done, unix milliseconds; 0 = nothing is planned.
    pub(crate) due: u64,
    /// What was tried since it could not go on.
    pub(crate) tries: u32,
    /// Requests sent to the others: the day, and how many on it.
    pub(crate) asked_today: (u64, u32),
    /// The requests that an invitation may answer: the latest few.
    pub(crate) asked: Vec<Asked>,
    /// The repair by which this device came to where it is.
    pub(crate) followed: Option<Repaired>,
    /// That repair has lost against this one, of which we heard later, or against those who repaired nothing:
    /// we wait to be taken in there.
    pub(crate) lost_to: Option<Repaired>,
    /// Of these nobody was heard yet where our own repair led: it may be that all others go on elsewhere.
    pub(crate) alone_without: Option<Vec<PersonId>>,
    /// Until then nobody may have followed our own repair, so that invitations back wait, unix milliseconds.
    pub(crate) alone_until: u64,
    /// Repairs followed on the word of the only other person: the day, and how many on it.
    pub(crate) on_a_word: (u64, u32),
}

/// A request for a way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Names the key package that was sent with it: who uses it answers the request.
    pub(crate) package: [u8; 32],
    /// What leads to this epoch or an earlier one is no way on.
    pub(crate) above: u64,
    /// When, unix milliseconds.
    pub(crate) at: u64,
}

impl Healing {
    /// One more request was sent. Returns those that are not to be answered any more.
    pub(crate) fn has_asked(&mut self, asked: Asked) -> Vec<Asked> {
        self.asked.insert(0, asked);
        self.asked.split_off(REQUESTS.min(self.asked.len()))
    }

    /// Whether an answer leads on: not to where a repair has lost to one that we know, and not back from a
    /// repair that others have followed, too.
    pub(crate) fn leads_on(&self, there: Option<Repaired>) -> bool {
        let best = self.lost_to.or(self.followed);
        match (best, there) {
            (Some(best), Some(there)) => !best.beats(&there),
            (Some(_), None) => self.lost_to.is_some() || self.alone_without.is_some(),
            (None, _) => true,
        }
    }

    /// Takes the requests that are not to be answered any more: all may be while we wait, and for a while
    /// after one was, because others may have begun to answer another.
    pub(crate) fn take_closed(&mut self, waits: bool, now: u64) -> Vec<Asked> {
        if waits || self.lost_to.is_some() || self.alone_without.is_some() {
            return Vec::new();
        }
        self.asked.extract_if(.., |asked| now.saturating_sub(asked.at) >= ANSWERED_WITHIN).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn of(leaf: u32) -> Repaired {
        Repaired { epoch: 8, leaf, hash: [1; 32] }
    }

    #[test]
    fn an_answer_leads_to_no_loser_and_not_back_from_others() {
        let plain = Healing::default();
        assert!(plain.leads_on(None) && plain.leads_on(Some(of(3))));
        let followed = Healing { followed: Some(of(2)), ..Healing::default() };
        assert!(followed.leads_on(Some(of(1))) && followed.leads_on(Some(of(2))));
        assert!(!followed.leads_on(Some(of(3))), "to a loser");
        assert!(!followed.leads_on(None), "back, although others are here");
        let alone = Healing { alone_without: Some(vec![]), ..followed.clone() };
        assert!(alone.leads_on(None) && !alone.leads_on(Some(of(3))));
        let lost = Healing { lost_to: Some(of(1)), ..followed };
        assert!(lost.leads_on(Some(of(1))) && lost.leads_on(None));
        assert!(!lost.leads_on(Some(of(2))), "to where it lost");
    }

    #[test]
    fn requests_are_closed_by_number_and_by_time() {
        let asked = |at: u64| Asked { package: [at as u8; 32], above: 1, at };
        let mut healing = Healing::default();
        for at in 0..REQUESTS as u64 {
            assert_eq!(healing.has_asked(asked(at)), []);
        }
        assert_eq!(healing.has_asked(asked(HOUR)), [asked(0)], "the oldest makes room");
        assert_eq!(healing.take_closed(true, 2 * HOUR), [], "whoever waits takes any answer");
        assert_eq!(healing.take_closed(false, HOUR + 1), [asked(3), asked(2), asked(1)]);
        healing.lost_to = Some(of(1));
        assert_eq!(healing.take_closed(false, 9 * HOUR), []);
        healing.lost_to = None;
        assert_eq!(healing.take_closed(false, 9 * HOUR), [asked(HOUR)]);
        assert_eq!(healing.asked, []);
    }
}
