//! What a device does about a conversation that cannot go on, as a part of the conversation's row.

use serde::{Deserialize, Serialize};

use super::Cause;
use crate::content::Repaired;
use crate::identity::PersonId;

/// Requests of a device that an answer may still come to.
const REQUESTS: usize = 4;
/// An answer may come for this long after another one did, milliseconds.
const ANSWERED_WITHIN: u64 = 10 * 60_000;
/// Rivals find out within this time where others are, milliseconds.
const ALONE_FOR: u64 = 10 * 60_000;
/// What was said so long before may have been said since, by clocks that differ, milliseconds.
const SKEW: u64 = 3600 * 1000;
/// Repairs of one trouble are made within this time, milliseconds.
const RIVALS_WITHIN: u64 = 24 * 3600 * 1000;

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
            | Self::RelayGone
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
    /// Where somebody came who had not been there before: what was said up to there is not said again.
    pub(crate) newest: (u32, u64),
    /// When the next thing is done, unix milliseconds; 0 = nothing is planned.
    pub(crate) due: u64,
    /// What was tried since it could not go on.
    pub(crate) tries: u32,
    /// Requests sent to the others: the day, and how many on it.
    pub(crate) asked_today: (u64, u32),
    /// Those that only say where this device is, likewise.
    #[serde(default)]
    pub(crate) told_today: (u64, u32),
    /// The requests that an invitation may answer: the latest few.
    pub(crate) asked: Vec<Asked>,
    /// The repair by which this device came to where it is, and when, unix milliseconds.
    pub(crate) followed: Option<(Repaired, u64)>,
    /// That repair has lost against this one, of which we heard later, or against those who repaired nothing:
    /// we wait to be taken in there. And since when.
    pub(crate) lost_to: Option<(Repaired, u64)>,
    /// Who is looked for where a repair led: they tell by speaking that they go on there, too.
    #[serde(rename = "alone_without")]
    pub(crate) sought: Option<Vec<PersonId>>,
    /// Until then nobody may have followed our own repair, so that invitations back wait, unix milliseconds.
    pub(crate) alone_until: u64,
    /// Repairs followed on the word of the only other person: the day, and how many on it.
    pub(crate) on_a_word: (u64, u32),
    /// Those who go on where the repair led, as far as we look for them: until it is sure that this is where
    /// all go on.
    #[serde(default)]
    pub(crate) here: Vec<PersonId>,
    /// When this device found that it was away for longer than inboxes keep what is left there, so that it
    /// may have missed where the others went, unix milliseconds; 0 = it was not, or has found them.
    #[serde(default)]
    pub(crate) lost_touch: u64,
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

/// Rivals are of one day: what somebody only says about repairs binds nobody for longer.
fn recent(known: Option<(Repaired, u64)>, now: u64) -> Option<Repaired> {
    known.filter(|(_, at)| now.abs_diff(*at) < RIVALS_WITHIN).map(|(repaired, _)| repaired)
}

impl Healing {
    /// One more request was sent. Returns those that are not to be answered any more.
    pub(crate) fn note_asked(&mut self, asked: Asked) -> Vec<Asked> {
        self.asked.insert(0, asked);
        self.asked.split_off(REQUESTS.min(self.asked.len()))
    }

    /// Whether an answer leads on: not to where a repair has lost to one that we know, and not back from a
    /// repair that others have followed, too, unless this device waits there.
    pub(crate) fn leads_on(&self, there: Option<Repaired>, waits: bool, now: u64) -> bool {
        match (self.lost_to(now), self.followed(now), there) {
            (Some(best), _, Some(there)) => !best.beats(&there),
            (Some(_), _, None) => true,
            // Nobody has come to where we are: anything is better.
            _ if self.is_alone() && self.is_old(now) => true,
            (None, Some(ours), Some(there)) => !ours.beats(&there),
            (None, Some(_), None) => waits || self.is_alone(),
            (None, None, _) => true,
        }
    }

    /// Here a repair led. Others may go on elsewhere until enough of them are heard here: one may be in two
    /// places at once, and only says so by speaking in one of them.
    pub(crate) fn look_for(&mut self, others: Vec<PersonId>, here: Vec<PersonId>) {
        (self.sought, self.here) = (Some(others).filter(|others| !others.is_empty()), here);
        self.lost_touch = 0;
    }

    /// The others may have gone on elsewhere long ago, and what they said of it is not to be had any more.
    pub(crate) fn lose_touch(&mut self, others: Vec<PersonId>, now: u64) {
        self.look_for(others, Vec::new());
        self.lost_touch = now;
    }

    /// Whether this device still looks for those with whom it lost touch.
    pub(crate) fn has_lost_touch(&self) -> bool {
        self.lost_touch > 0 && !self.are_enough()
    }

    /// When there can be no rival any more, and others are here, nobody is looked for.
    pub(crate) fn end_search(&mut self, now: u64) {
        if self.sought.is_some() && !self.is_new_here(now) && !self.is_alone() {
            (self.sought, self.here, self.lost_touch) = (None, Vec::new(), 0);
        }
    }

    /// Somebody speaks here, or did at that time, unix milliseconds.
    pub(crate) fn note_here(&mut self, person: PersonId, at: u64, now: u64) {
        let is_sought = self.sought.as_ref().is_some_and(|others| others.contains(&person));
        let counts = is_sought && at.saturating_add(SKEW) >= self.lost_touch.min(now);
        if counts && !self.are_enough() && !self.here.contains(&person) {
            self.here.push(person);
            self.alone_until = 0;
        }
    }

    /// Somebody asks from elsewhere, or says to be there. Of who has lapsed here it cannot be told apart, but
    /// on the day of a repair.
    pub(crate) fn note_elsewhere(&mut self, person: &PersonId, now: u64) {
        if self.is_new_here(now) {
            self.here.retain(|here| here != person);
        }
    }

    /// Whether nobody goes on where a repair led this device.
    pub(crate) fn is_alone(&self) -> bool {
        self.sought.is_some() && self.here.is_empty()
    }

    /// Whether others may go on elsewhere: for as long as there may be rivals; of whoever is alone, for ever.
    pub(crate) fn is_unsure(&self, now: u64) -> bool {
        self.is_alone() || (!self.are_enough() && self.is_new_here(now))
    }

    /// Whether a repair led here within a day, or this device has come back within one after a long time.
    fn is_new_here(&self, now: u64) -> bool {
        self.followed(now).is_some() || (self.lost_touch > 0 && now.abs_diff(self.lost_touch) < RIVALS_WITHIN)
    }

    fn are_enough(&self) -> bool {
        let Some(others) = &self.sought else { return true };
        self.here.len() >= 2 || (!others.is_empty() && others.iter().all(|other| self.here.contains(other)))
    }

    fn is_old(&self, now: u64) -> bool {
        self.followed.is_none_or(|(_, at)| now.abs_diff(at) >= ALONE_FOR)
    }

    /// The repair by which this device came to where it is: what tells this place from others.
    pub(crate) fn led_by(&self) -> Option<Repaired> {
        self.followed.map(|(repaired, _)| repaired)
    }

    /// Likewise, as long as there may be rivals of it.
    pub(crate) fn followed(&self, now: u64) -> Option<Repaired> {
        recent(self.followed, now)
    }

    /// The one that it has lost to, as long as somebody there may take it in.
    pub(crate) fn lost_to(&self, now: u64) -> Option<Repaired> {
        recent(self.lost_to, now)
    }

    /// Takes the requests that are not to be answered any more: all may be while we wait, and for a while
    /// after one was, because others may have begun to answer another.
    pub(crate) fn take_closed(&mut self, waits: bool, now: u64) -> Vec<Asked> {
        if waits || self.lost_to(now).is_some() || self.is_alone() || self.has_lost_touch() {
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
    fn where_all_go_on_is_known_by_two_or_by_all_others() {
        let person = |number: u8| PersonId([number; 32]);
        let mut healing = Healing { followed: Some((of(0), HOUR)), alone_until: HOUR, ..Healing::default() };
        assert!(!healing.is_unsure(HOUR), "nobody is looked for");
        healing.look_for([1, 2, 3].map(person).to_vec(), vec![]);
        healing.note_here(person(9), 0, HOUR);
        assert!(healing.is_alone() && healing.is_unsure(HOUR) && healing.alone_until > 0, "a newcomer");
        healing.note_here(person(1), 0, HOUR);
        healing.note_here(person(1), 0, HOUR);
        assert!(
            !healing.is_alone() && healing.is_unsure(HOUR) && healing.alone_until == 0,
            "and the others?"
        );
        assert!(!healing.is_unsure(HOUR + RIVALS_WITHIN), "there is no rival any more");
        healing.note_elsewhere(&person(1), HOUR);
        assert!(healing.is_alone() && healing.is_unsure(HOUR + RIVALS_WITHIN), "whoever is alone asks on");
        healing.note_here(person(2), 0, HOUR);
        healing.note_here(person(3), 0, HOUR);
        assert!(!healing.is_unsure(HOUR));
        healing.note_elsewhere(&person(2), HOUR);
        assert!(healing.is_unsure(HOUR), "one has gone");
        healing.end_search(HOUR);
        healing.note_elsewhere(&person(3), 2 * RIVALS_WITHIN);
        assert_eq!(healing.here, [person(3)], "a day later nobody who asks is gone");
        healing.end_search(2 * RIVALS_WITHIN);
        assert!(healing.sought.is_none() && !healing.is_alone());
        healing.look_for(vec![person(1)], vec![person(1)]);
        assert!(!healing.is_unsure(HOUR), "there is nobody else");
    }

    #[test]
    fn whoever_lost_touch_is_taken_in_anywhere_until_others_are_heard() {
        let (person, back) = (|number: u8| PersonId([number; 32]), 100 * HOUR);
        let mut healing = Healing { followed: Some((of(1), HOUR)), ..Healing::default() };
        healing.lose_touch([1, 2, 3].map(person).to_vec(), back);
        assert!(healing.is_alone() && healing.has_lost_touch() && healing.is_unsure(back));
        assert!(healing.leads_on(Some(of(3)), false, back) && healing.leads_on(None, false, back));
        healing.note_here(person(1), back - 2 * HOUR, back);
        assert!(healing.is_alone(), "that was said before");
        healing.note_here(person(1), back, back);
        assert!(healing.has_lost_touch() && healing.is_unsure(back) && !healing.is_alone());
        assert_eq!(healing.take_closed(false, 2 * back), [], "answers may still come");
        healing.note_elsewhere(&person(1), back);
        assert!(healing.is_alone(), "and went");
        healing.note_here(person(2), back, back);
        healing.note_here(person(3), back, back);
        assert!(!healing.has_lost_touch() && !healing.is_unsure(back), "two are here");
        healing.note_elsewhere(&person(2), back);
        healing.end_search(back + RIVALS_WITHIN);
        assert_eq!((healing.sought, healing.lost_touch), (None, 0), "and one is enough after a day");
    }

    #[test]
    fn an_answer_leads_to_no_loser_and_not_back_from_others() {
        let plain = Healing::default();
        assert!(plain.leads_on(None, false, HOUR) && plain.leads_on(Some(of(3)), false, HOUR));
        let followed = Healing { followed: Some((of(2), HOUR)), ..Healing::default() };
        assert!(followed.leads_on(Some(of(1)), false, HOUR) && followed.leads_on(Some(of(2)), false, HOUR));
        assert!(!followed.leads_on(Some(of(3)), false, HOUR), "to a loser");
        assert!(!followed.leads_on(None, false, HOUR), "back, although others are here");
        assert!(followed.leads_on(None, true, HOUR), "it cannot stay");
        assert!(followed.leads_on(Some(of(3)), false, 26 * HOUR), "of another trouble");
        let alone = Healing { sought: Some(vec![PersonId([1; 32])]), ..followed.clone() };
        assert!(alone.leads_on(None, false, HOUR) && !alone.leads_on(Some(of(3)), false, HOUR));
        assert!(alone.leads_on(Some(of(3)), false, 2 * HOUR), "nobody came");
        let lost = Healing { lost_to: Some((of(1), HOUR)), ..alone };
        assert!(lost.leads_on(Some(of(1)), false, HOUR) && lost.leads_on(None, false, HOUR));
        assert!(!lost.leads_on(Some(of(2)), false, HOUR), "to where it lost");
    }

    #[test]
    fn requests_are_closed_by_number_and_by_time() {
        let asked = |at: u64| Asked { package: [at as u8; 32], above: 1, at };
        let mut healing = Healing::default();
        for at in 0..REQUESTS as u64 {
            assert_eq!(healing.note_asked(asked(at)), []);
        }
        assert_eq!(healing.note_asked(asked(HOUR)), [asked(0)], "the oldest makes room");
        assert_eq!(healing.take_closed(true, 2 * HOUR), [], "whoever waits takes any answer");
        assert_eq!(healing.take_closed(false, HOUR + 1), [asked(3), asked(2), asked(1)]);
        healing.lost_to = Some((of(1), 9 * HOUR));
        assert_eq!(healing.take_closed(false, 9 * HOUR), []);
        healing.lost_to = None;
        assert_eq!(healing.take_closed(false, 9 * HOUR), [asked(HOUR)]);
        assert_eq!(healing.asked, []);
    }
}
