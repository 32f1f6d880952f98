//! What others ask of a conversation (rule 7): whoever cannot go on is taken out and in again; whoever moved
//! it is followed, or taken back; and of those who are elsewhere it is judged who goes where (`judge`).

use rand::Rng as _;

use super::Talk;
use super::heal::{AGAIN, DAY, LONGEST};
use super::judge::Judged;
use crate::content::{Help, Repaired};
use crate::conversation::heard::{Heard, heard, note_added, put_heard, remove_heard, update_heard};
use crate::conversation::{Conversation, ConversationState, Intent, put_intent};
use crate::engine::{Error, Step};
use crate::group::{Member, UnverifiedKeyPackage};
use crate::identity::PersonId;

/// How often one device is taken out and in again for the asking in a day, by one other.
const ANSWERED: u32 = 6;
/// Each of those who could answer waits this much longer than the one before, milliseconds.
const STEP: u64 = 3_000;
/// For so long others may second a repair that we see no reason for, milliseconds.
const SECONDED_WITHIN: u64 = 3 * 60_000;
/// After we looked at the mailbox ourselves, what we see is known after this long, milliseconds.
const LOOK: u64 = 20_000;
/// A device that was added within this time may have asked before it knew of that, milliseconds.
const JUST_ADDED: u64 = 5 * 60_000;
/// A request counts for so long, milliseconds, by the clocks of relays: three days.
pub(in crate::engine) const ASKED_WITHIN: u64 = 3 * DAY;
/// What is said to be of later than this is of the future, milliseconds.
const AHEAD: u64 = 3600 * 1000;

/// Whether a request that was made then counts.
fn is_of_now(at: u64, relay_now: u64) -> bool {
    at.saturating_add(ASKED_WITHIN) >= relay_now
}

impl Heard {
    fn is_of(&self, member: &Member) -> bool {
        let person = PersonId::from(&member.credential.identity());
        (person, member.credential.device()) == (self.person, self.device)
    }
}

/// The first by leaf answers first, and the others see it done: after how long, milliseconds.
fn turn(members: &[Member], own_leaf: u32, asker: &Member) -> u64 {
    let before = members.iter().filter(|member| member.leaf < own_leaf && member.leaf != asker.leaf).count();
    before.min(40) as u64 * STEP
}

impl Step<'_> {
    /// A device asks for help, by this message. Only members of what we take part in are heard.
    pub(in crate::engine) fn help_asked(&mut self, help: &Help, message: &[u8]) -> Result<(), Error> {
        self.flush()?;
        let all = Conversation::all(self.tx)?;
        let ours = |record: &Conversation| record.group == help.group && record.is_read();
        // Groups of strangers may have the same id.
        for (id, _) in all.into_iter().filter(|(_, record)| ours(record)) {
            self.talk_known(&id, |talk| talk.hear(help, message))?;
        }
        Ok(())
    }
}

impl Talk<'_, '_> {
    fn hear(&mut self, help: &Help, message: &[u8]) -> Result<(), Error> {
        let (now, own) = (self.step.now, self.step.own()?.device()?.id());
        // Whoever still waits asks again: an old request is a repeat, by whomever, and nobody's is to stand
        // for ever because it says that it is of the future.
        let (relay_now, skew) = (self.step.relay_now(), self.step.relay_now().abs_diff(now));
        let since = self.record().came;
        // Of what was asked before we came, we do not know whether it is answered.
        let is_before_us = since <= now && help.at.saturating_add(skew) < since;
        let is_old = is_before_us || !is_of_now(help.at, relay_now);
        // What leads on from where we are is of use however old it is, to whoever was away for longer.
        let is_from_here = help.repair.is_some() && help.epoch == self.record().epoch;
        // A relay that was put back may show an old time until its operator confirms the new one.
        let is_ahead = help.at > relay_now.max(now).saturating_add(AHEAD);
        if is_ahead || (is_old && !is_from_here) || help.device == own {
            return Ok(());
        }
        let (members, own_leaf) = self.group(|group, _| Ok((group.members()?, group.own_leaf())))?;
        let asks = |member: &&Member| {
            member.credential.identity() == help.identity && member.credential.device() == help.device
        };
        let Some(asker) = members.iter().find(asks) else { return Ok(()) };
        let due = now + turn(&members, own_leaf, asker) + self.step.rng.random_range(500..STEP);
        let new = Heard {
            person: PersonId::from(&help.identity),
            device: help.device,
            at: help.at,
            answered_by: 0,
            epoch: help.epoch,
            key_package: help.key_package.clone(),
            repair: help.repair.clone(),
            is_at: help.is_at(),
            leaves: help.led_by.is_some() && !help.stays,
            stays: help.stays,
            word: if help.stays { message.to_vec() } else { Vec::new() },
            came: now,
            due,
            looked: false,
            added: (0, 0),
            answered: (0, 0),
        };
        let (person, is_at) = (new.person, new.is_at);
        if put_heard(self.step.tx, &self.id, new)? {
            if !self.is_where(is_at) {
                self.change().healing.note_elsewhere(&person, now);
            }
            self.step.wake_talk(self.id, due);
            self.look_again();
        }
        Ok(())
    }

    /// Answers those who asked, as far as it is time.
    pub(super) fn answer_heard(&mut self) -> Result<(), Error> {
        self.tidy_heard()?;
        for (row, asked) in heard(self.step.tx, &self.id)? {
            if asked.due == 0 || !self.is_due(asked.due, AGAIN) {
                continue;
            }
            let epoch = self.record().epoch;
            self.answer(row, asked)?;
            if self.record().epoch != epoch || self.record().state != ConversationState::Active {
                // We followed it: everything is to be looked at anew.
                self.look_again();
                return Ok(());
            }
        }
        Ok(())
    }

    fn answer(&mut self, row: i64, asked: Heard) -> Result<(), Error> {
        let members = self.group(|group, _| group.members())?;
        let Some(member) = members.iter().find(|member| asked.is_of(member)).cloned() else {
            return self.settle(row, asked);
        };
        // Whoever is here, too, is no way on, and needs nothing of what they asked for from elsewhere.
        if (asked.is_at.is_some() || asked.stays) && self.is_where(asked.is_at) {
            if !asked.leaves {
                self.end_exchanges(&[member])?;
            }
            return self.settle(row, asked);
        }
        if let Some(repaired) = asked.is_at.filter(|_| !asked.leaves) {
            let own_leaf = self.group(|group, _| Ok(group.own_leaf()))?;
            let late = asked.came + SECONDED_WITHIN + turn(&members, own_leaf, &member);
            match self.judge_repair(&repaired, &asked, late)? {
                Judged::Follow if self.follow_repair()? => return Ok(()),
                Judged::Follow | Judged::Look => return self.look(row, asked),
                Judged::Wait => return Ok(()),
                Judged::Better => {
                    self.settle(row, asked)?;
                    self.ask_soon();
                    return Ok(());
                }
                Judged::Lost => {
                    self.settle(row, asked)?;
                    self.note_lost(repaired);
                    return Ok(());
                }
                Judged::Answer => {}
            }
        }
        self.take_back(row, asked, &member)
    }

    /// A request needs nothing more of us, until the device asks again.
    pub(super) fn settle(&mut self, row: i64, mut asked: Heard) -> Result<(), Error> {
        asked.due = 0;
        Ok(update_heard(self.step.tx, row, &asked)?)
    }

    /// So do all of these.
    pub(in crate::engine) fn settle_all(&mut self, which: impl Fn(&Heard) -> bool) -> Result<(), Error> {
        for (row, asked) in heard(self.step.tx, &self.id)? {
            if asked.due > 0 && which(&asked) {
                self.settle(row, asked)?;
            }
        }
        Ok(())
    }

    /// Whoever says to be where this led is not to be taken out and in there for what they asked before.
    pub(super) fn end_exchanges_at(&mut self, repaired: Repaired) -> Result<(), Error> {
        let asked = heard(self.step.tx, &self.id)?;
        let is_here = |member: &&Member| {
            asked.iter().any(|(_, asked)| asked.is_at == Some(repaired) && asked.is_of(member))
        };
        let members = self.group(|group, _| group.members())?;
        let here: Vec<Member> = members.iter().filter(is_here).cloned().collect();
        self.end_exchanges(&here)
    }

    /// Opens the mailbox anew: the relay has to say what it has.
    fn look(&mut self, row: i64, mut asked: Heard) -> Result<(), Error> {
        if asked.looked {
            // The relay has not answered yet. If it cannot be reached, we look again when it can.
            if self.link().is_some_and(|link| self.step.live.known(&link).is_some()) {
                self.step.wake_talk(self.id, self.step.now + LOOK);
            }
            return Ok(());
        }
        if let Some(link) = self.link() {
            let mailbox = self.record().mailbox;
            self.step.close(&link, &mailbox);
            self.step.live.openings_dirty = true;
        }
        if let Some((_, slot)) =
            asked.repair.as_ref().map(|commit| self.read_repair(commit)).transpose()?.flatten()
        {
            self.compare_history(&slot)?;
        }
        asked.looked = true;
        asked.due = self.step.now + LOOK;
        self.step.wake_talk(self.id, asked.due);
        Ok(update_heard(self.step.tx, row, &asked)?)
    }

    /// Takes a device out and in again that asked for it.
    fn take_back(&mut self, row: i64, mut asked: Heard, member: &Member) -> Result<(), Error> {
        if asked.stays && asked.key_package.is_empty() {
            // It does not mean to come: it is to know that others are elsewhere. Whoever is not sure says so
            // by itself, and is not to spend its requests on this.
            self.settle(row, asked)?;
            let (healing, now) = (&self.record().healing, self.step.now);
            let is_sure = healing.lost_to(now).is_none() && !healing.is_unsure(now);
            return if is_sure { self.ask_for_help(None, &[]) } else { Ok(()) };
        }
        let (today, now) = (self.step.now / DAY, self.step.relay_now());
        let (added_at, added_in) = asked.added;
        // It was further than we are: it is not ours to let in.
        let is_ahead = asked.repair.is_none() && asked.epoch > self.record().epoch;
        // It asked before it knew that it is back. If that is not so, it asks again.
        let is_back = asked.epoch < added_in && self.step.now.saturating_sub(added_at) < JUST_ADDED;
        if is_ahead || is_back || !is_of_now(asked.at, now) {
            return self.settle(row, asked);
        }
        if asked.answered.0 != today {
            asked.answered = (today, 0);
        }
        // Whoever cannot be reached from here would be out for good.
        let identity = member.credential.identity();
        let inboxes = self.step.inboxes_of(&identity, &asked.device)?;
        let can_tell = inboxes.iter().any(|inbox| !self.step.live.unreachable.contains_key(&inbox.relay.url));
        if !can_tell && !inboxes.is_empty() {
            asked.due = self.step.now + AGAIN;
            self.step.wake_talk(self.id, asked.due);
            return Ok(update_heard(self.step.tx, row, &asked)?);
        }
        let package = asked.key_package.clone();
        let is_good = self.group(|_, provider| {
            let package = UnverifiedKeyPackage::parse(&package)
                .and_then(|package| package.verify(provider, &member.credential.identity(), now));
            Ok(package.is_ok_and(|package| package.credential() == &member.credential))
        })?;
        if is_good
            && can_tell
            && asked.answered.1 < ANSWERED
            && self.record().state == ConversationState::Active
        {
            asked.answered.1 += 1;
            let intent = Intent::Readmit { device: asked.device, person: asked.person, key_package: package };
            put_intent(self.step.tx, &self.id, &intent)?;
            self.look_again();
        }
        self.settle(row, asked)
    }

    /// Whether a device has asked to be taken back, lately.
    pub(super) fn has_asked(&mut self, member: &Member) -> Result<bool, Error> {
        Ok(self.asked_lately(member)?.is_some())
    }

    /// Whether a device asks to be taken back, and was not since.
    pub(super) fn asks(&mut self, member: &Member) -> Result<bool, Error> {
        Ok(self.asked_lately(member)?.is_some_and(|asked| asked.came > asked.added.0))
    }

    /// What a device has asked for lately: the latest counts.
    fn asked_lately(&mut self, member: &Member) -> Result<Option<Heard>, Error> {
        let since = self.step.now.saturating_sub(2 * LONGEST);
        let known = heard(self.step.tx, &self.id)?.into_iter().map(|(_, asked)| asked);
        Ok(known.filter(|asked| asked.came >= since).find(|asked| asked.is_of(member)))
    }

    /// These devices came in: what they asked for before is answered.
    pub(super) fn were_added(&mut self, added: &[Member]) -> Result<(), Error> {
        let (now, epoch) = (self.step.now, self.record().epoch);
        if self.record().healing.sought.is_some() {
            // Whoever was taken in here since has not found for itself that this is where to go on.
            // But for those who had asked: they left where they were.
            let mut strangers = Vec::new();
            for member in added {
                if !self.has_asked(member)? {
                    strangers.push(PersonId::from(&member.credential.identity()));
                }
            }
            let others = self.change().healing.sought.iter_mut();
            others.for_each(|others| others.retain(|other| !strangers.contains(other)));
        }
        let at = self.step.relay_now();
        for member in added {
            let who = (PersonId::from(&member.credential.identity()), member.credential.device());
            note_added(self.step.tx, &self.id, who, (at, now, epoch))?;
        }
        Ok(())
    }

    /// Forgets what cannot be of use any more: who asked and is no member since a day, and the bytes of what
    /// is answered.
    pub(super) fn tidy_heard(&mut self) -> Result<(), Error> {
        let (now, epoch) = (self.step.now, self.record().epoch);
        let all = heard(self.step.tx, &self.id)?;
        if all.is_empty() {
            return Ok(());
        }
        let members = self.group(|group, _| group.members())?;
        for (row, mut asked) in all {
            let is_member = members.iter().any(|member| asked.is_of(member));
            if !is_member && now.saturating_sub(asked.came) >= DAY {
                remove_heard(self.step.tx, row)?;
                continue;
            }
            if !is_member {
                self.step.wake_talk(self.id, asked.came + DAY);
            }
            let left = asked.is_at.map_or(asked.epoch, |repair| repair.epoch);
            let is_answered = asked.due == 0 && left < epoch;
            let has_bytes = asked.repair.is_some() || !asked.key_package.is_empty();
            if (is_answered && has_bytes) || (!is_member && (has_bytes || !asked.word.is_empty())) {
                (asked.repair, asked.due) = (None, 0);
                asked.key_package.clear();
                asked.word.clear();
                update_heard(self.step.tx, row, &asked)?;
            }
        }
        Ok(())
    }

    /// Another member took these devices out: whatever they asked for is answered by that.
    pub(super) fn answered_by_another(&mut self, removed: &[Member]) -> Result<(), Error> {
        self.settle_all(|asked| removed.iter().any(|member| asked.is_of(member)))
    }
}
