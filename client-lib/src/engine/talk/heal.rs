//! What heals itself (rule 7): a conversation that cannot go on here asks for a way back, or is repaired; one
//! that goes on answers those who ask; and those who went on in different places find together.
//!
//! Nothing of it happens at once: what is suspended is looked at again first, and everybody waits a random
//! time, so that mostly one device does what all could do. Everything is bounded for each device and day.

use std::collections::BTreeSet;

use rand::Rng as _;

use super::Talk;
use crate::content::{Help, Repaired};
use crate::conversation::healing::{Asked, Remedy};
use crate::conversation::heard::{Heard, heard, note_added, put_heard, remove_heard, update_heard};
use crate::conversation::{Conversation, ConversationState, Intent, put_intent};
use crate::engine::account::profile;
use crate::engine::{Error, Step};
use crate::group::{KeyPackage, KeyPackageKind, KeyPackageRef, Member, Provider, UnverifiedKeyPackage};
use crate::identity::PersonId;
use crate::outbox::Errand;

/// What cannot go on is repaired at the earliest after this long, milliseconds: the next look has found the
/// same then, and a relay that was started on a wrong folder for a minute moves nobody.
const PATIENCE: u64 = 120_000;
/// Each waits for up to this much longer, milliseconds (rule 7).
const JITTER: u64 = 60_000;
/// What did not help is tried again after this long, milliseconds; doubled up to [`LONGEST`].
const AGAIN: u64 = 10 * 60_000;
const LONGEST: u64 = 24 * 3600 * 1000;
/// Requests that a device sends to the members of one conversation in a day; and beside them, how often it
/// only says where it is.
const ASKED: u32 = 12;
/// Whoever is alone asks at once when it hears of a better place, but not again within this time,
/// milliseconds.
const BETTER: u64 = 2 * HOUR;
/// How often one device is taken out and in again for the asking in a day, by one other.
const ANSWERED: u32 = 6;
/// Repairs that are followed in a day on the word of the only other person.
const ON_A_WORD: u32 = 6;
/// Each of those who could answer waits this much longer than the one before, milliseconds.
const STEP: u64 = 3_000;
/// For so long others may second a repair that we see no reason for, milliseconds.
const SECONDED_WITHIN: u64 = 3 * 60_000;
/// After we looked at the mailbox ourselves, what we see is known after this long, milliseconds.
const LOOK: u64 = 20_000;
/// A device that was added within this time may have asked before it knew of that, milliseconds.
const JUST_ADDED: u64 = 5 * 60_000;
/// A request counts for so long, milliseconds, by the clocks of relays: three days.
const ASKED_WITHIN: u64 = 3 * DAY;
const HOUR: u64 = 3600 * 1000;
const DAY: u64 = 24 * HOUR;

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

/// How long to wait after so many tries, milliseconds.
fn wait_after(tries: u32) -> u64 {
    AGAIN.saturating_mul(1 << tries.min(8)).min(LONGEST)
}

impl Step<'_> {
    /// A device asks for help. Only members of what we take part in are heard.
    pub(in crate::engine) fn help_asked(&mut self, help: &Help) -> Result<(), Error> {
        self.flush()?;
        let all = Conversation::all(self.tx)?;
        let ours = |record: &Conversation| record.group == help.group && record.is_read();
        // Groups of strangers may have the same id.
        for (id, _) in all.into_iter().filter(|(_, record)| ours(record)) {
            self.talk_known(&id, |talk| talk.hear(help))?;
        }
        Ok(())
    }
}

impl Talk<'_, '_> {
    fn hear(&mut self, help: &Help) -> Result<(), Error> {
        let (now, own) = (self.step.now, self.step.own()?.device()?.id());
        // Whoever still waits asks again: an old request is a repeat, by whomever, and nobody's is to stand
        // for ever because it says that it is of the future.
        let (relay_now, skew) = (self.step.relay_now(), self.step.relay_now().abs_diff(now));
        let since = self.record().came;
        // Of what was asked before we came, we do not know whether it is answered.
        let is_before_us = since <= now && help.at.saturating_add(skew) < since;
        let is_of_now =
            help.at <= relay_now.saturating_add(HOUR) && help.at.saturating_add(ASKED_WITHIN) >= relay_now;
        if !is_of_now || is_before_us || help.device == own {
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
            epoch: help.epoch,
            key_package: help.key_package.clone(),
            repair: help.repair.clone(),
            is_at: help.is_at(),
            leaves: help.led_by.is_some() && !help.stays,
            stays: help.stays,
            came: now,
            due,
            looked: false,
            added: (0, 0),
            answered: (0, 0),
        };
        let (person, is_at) = (new.person, new.is_at);
        if put_heard(self.step.tx, &self.id, new)? {
            if !self.is_where(is_at) {
                self.change().healing.is_elsewhere(&person, now);
            }
            self.step.wake_talk(self.id, due);
            self.look_again();
        }
        Ok(())
    }

    /// What a suspended conversation does by itself.
    pub(super) fn heal(&mut self) -> Result<(), Error> {
        let ConversationState::Suspended(why) = self.record().state.clone() else { return Ok(()) };
        let Some(remedy) = why.cause.remedy().filter(|_| !why.leaving && self.record().epoch > 0) else {
            return Ok(());
        };
        // We see ourselves that something is wrong: whoever found the same before us is followed.
        if remedy == Remedy::Repair && self.follow_repair()? {
            return Ok(());
        }
        if let Some(row) = self.record().commit_row
            && self.is_repair(row)?
        {
            return self.make_place(row);
        }
        let now = self.step.now;
        if self.record().healing.due == 0 {
            let due = now + PATIENCE + self.step.rng.random_range(0..JITTER);
            (self.change().healing.due, self.change().healing.tries) = (due, 0);
        }
        if !self.is_next_due() {
            return Ok(());
        }
        self.plan_next();
        if !self.may_ask(false) {
            // A repair that nobody is told of would leave us alone.
            return Ok(());
        }
        if remedy == Remedy::Return || !self.stage_repair()? {
            self.ask_for_help(None, &[])?;
        }
        Ok(())
    }

    /// Whether a time has come; if not, it is looked at again then. One that is further away than what was
    /// planned was planned by a clock that has been put back since.
    fn is_due(&mut self, due: u64, planned: u64) -> bool {
        let waits = (1..=planned).contains(&due.saturating_sub(self.step.now));
        if waits {
            self.step.wake_talk(self.id, due);
        }
        !waits
    }

    /// Whether to try what comes next.
    fn is_next_due(&mut self) -> bool {
        let healing = &self.record().healing;
        let (due, before) = (healing.due, healing.tries.saturating_sub(1));
        self.is_due(due, wait_after(before) + JITTER)
    }

    fn plan_next(&mut self) {
        let (now, jitter) = (self.step.now, self.step.rng.random_range(0..JITTER));
        let healing = &mut self.change().healing;
        healing.due = now + wait_after(healing.tries) + jitter;
        healing.tries += 1;
        let due = healing.due;
        self.step.wake_talk(self.id, due);
    }

    /// A repair led here, and these are here, too. Whoever took this device in may be on the way to where
    /// another led: who else is here shows when they say something. Until then this device asks on.
    pub(in crate::engine) fn look_for_others(&mut self, than: &[PersonId]) -> Result<(), Error> {
        let own = self.step.own()?.person;
        let members = self.record().members.iter().map(|member| member.person);
        let others = members.filter(|person| *person != own).collect();
        let here = than.iter().copied().filter(|person| *person != own).collect();
        self.change().healing.look_for(others, here);
        self.plan_next();
        Ok(())
    }

    /// Whether this repair led here; none: whether none did.
    fn is_where(&self, repair: Option<Repaired>) -> bool {
        self.record().healing.followed.map(|(repaired, _)| repaired) == repair
    }

    /// Whether one more request may be sent today, or told where this device is.
    fn may_ask(&mut self, stays: bool) -> bool {
        let count = self.asked_today(stays);
        *count < ASKED
    }

    fn asked_today(&mut self, stays: bool) -> &mut u32 {
        let today = self.step.now / DAY;
        let healing = &mut self.change().healing;
        let (day, count) = if stays { &mut healing.told_today } else { &mut healing.asked_today };
        if *day != today {
            (*day, *count) = (today, 0);
        }
        count
    }

    /// Asks every member's devices, and these, for a way back, and perhaps to follow a repair of ours; or
    /// tells them where this one is.
    pub(in crate::engine) fn ask_for_help(
        &mut self,
        repair: Option<(Repaired, Vec<u8>)>,
        and: &[Member],
    ) -> Result<(), Error> {
        let now = self.step.relay_now();
        let goes_on = !self.record().is_suspended() && repair.is_none();
        let healing = &self.record().healing;
        let led_by = healing.followed(self.step.now).filter(|_| goes_on);
        let stays = goes_on && healing.lost_to(self.step.now).is_none() && !healing.is_alone();
        if !self.may_ask(stays) {
            return Ok(());
        }
        *self.asked_today(stays) += 1;
        let own = self.step.own()?;
        let provider = Provider::new(self.step.tx, None);
        let made = KeyPackage::make(&provider, &own.leaf()?, KeyPackageKind::OneTime, now)?;
        profile::note_key_package(self.step.tx, &made)?;
        let from = repair.as_ref().map(|(repaired, _)| *repaired).or(led_by);
        let epoch = from.map_or(self.record().epoch, |repaired| repaired.epoch);
        let at = self.step.now;
        let asked = Asked { package: made.reference.0, above: epoch, at };
        let closed = self.change().healing.note_asked(asked);
        self.close_requests(closed)?;
        let group = self.record().group;
        let help = Help {
            group,
            identity: own.key,
            device: own.device()?.id(),
            at: now,
            epoch,
            key_package: made.bytes,
            committer: repair.as_ref().map_or(0, |(repaired, _)| repaired.leaf),
            repair: repair.map(|(_, commit)| commit),
            led_by,
            stays,
        };
        let data = help.encode(&own.profile.identity());
        let members = self.group(|group, _| group.members())?;
        let mut devices: Vec<_> = members
            .iter()
            .chain(and)
            .map(|member| (member.credential.identity(), member.credential.device()))
            .filter(|one| *one != (own.key, help.device))
            .collect();
        devices.sort_by_key(|(identity, device)| (*identity.as_bytes(), device.0));
        devices.dedup();
        for (identity, device) in devices {
            if let Some(inbox) = self.step.inboxes_of(&identity, &device)?.first() {
                let person = PersonId::from(&identity);
                let (since, data) = (self.step.now, data.clone());
                let errand = Errand { conversation: None, person, device, since, tries: 0, data };
                self.step.post_to_inbox(inbox, errand)?;
            }
        }
        Ok(())
    }

    /// What a conversation that goes on does for those who asked, and for itself where it came by a repair:
    /// that may have lost, or others may be elsewhere.
    pub(super) fn answer_heard(&mut self) -> Result<(), Error> {
        self.tidy_heard()?;
        if self.record().healing.sought.is_some() {
            let now = self.step.now;
            self.change().healing.end_search(now);
        }
        let healing = &self.record().healing;
        let looks = healing.alone_until == 0 && healing.is_unsure(self.step.now);
        if healing.lost_to(self.step.now).is_some() || looks {
            if self.record().healing.due == 0 {
                self.plan_next();
            } else if self.is_next_due() {
                self.plan_next();
                self.ask_for_help(None, &[])?;
            }
        } else if self.record().healing.due > 0 {
            self.change().healing.due = 0;
        }
        if self.record().healing.alone_until > 0 && self.is_due(self.record().healing.alone_until, AGAIN) {
            let soon = self.step.now + 1;
            let healing = &mut self.change().healing;
            (healing.alone_until, healing.due, healing.tries) = (0, soon, 0);
            self.step.live.held_dirty = true;
            self.step.wake_talk(self.id, soon);
        }
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
        // Whoever is here, too, is no way on.
        if (asked.is_at.is_some() || asked.stays) && self.is_where(asked.is_at) {
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
                    return self.has_lost(repaired);
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

    /// What to make of somebody who is where another repair led, where we go on ourselves.
    /// Until `late` others may say the same.
    fn judge_repair(&mut self, repair: &Repaired, asked: &Heard, late: u64) -> Result<Judged, Error> {
        let healing = &self.record().healing;
        let (ours, is_alone) = (healing.followed(self.step.now), healing.is_alone());
        let all = heard(self.step.tx, &self.id)?;
        if repair.epoch == self.record().epoch && self.leads_on(&all, repair)? {
            if self.is_confirmed(&all)? {
                return Ok(Judged::Follow);
            }
            // We see nothing wrong, and nobody else says so: whoever moved away is taken back.
            let is_late = self.is_due(late, AGAIN);
            let is_known = is_late && asked.looked && self.is_caught_up();
            return Ok(if is_known { Judged::Answer } else { Judged::Look });
        }
        // What cannot be checked is a claim: it takes two persons to make us leave others.
        let wins = ours.is_none_or(|ours| repair.beats(&ours));
        Ok(if wins && self.people_at(&all, repair)? >= 2 {
            Judged::Lost
        } else if wins && is_alone {
            Judged::Better
        } else if wins && asked.stays && !self.is_due(late, AGAIN) {
            Judged::Wait
        } else {
            Judged::Answer
        })
    }

    /// Whether somebody has sent us this repair, and we could follow it.
    fn leads_on(&mut self, all: &[(i64, Heard)], repair: &Repaired) -> Result<bool, Error> {
        let mut there = all.iter().filter(|(_, asked)| asked.is_at == Some(*repair));
        match there.find_map(|(_, asked)| asked.repair.as_ref()) {
            Some(commit) => self.can_follow(commit),
            None => Ok(false),
        }
    }

    /// How many others say that they are where this repair leads.
    fn people_at(&mut self, all: &[(i64, Heard)], repair: &Repaired) -> Result<usize, Error> {
        let (own, now) = (self.step.own()?.person, self.step.now);
        let there = all
            .iter()
            .filter(|(_, asked)| asked.is_at == Some(*repair) && !asked.leaves)
            .filter(|(_, asked)| asked.person != own && now.saturating_sub(asked.came) < DAY);
        Ok(there.map(|(_, asked)| asked.person).collect::<BTreeSet<_>>().len())
    }

    /// Whether a repair of this epoch is to be followed although we see nothing wrong ourselves: two others
    /// say so; or, bounded, the only other person does.
    fn is_confirmed(&mut self, all: &[(i64, Heard)]) -> Result<bool, Error> {
        let (own, epoch) = (self.step.own()?.person, self.record().epoch);
        let (mut people, mut checked) = (BTreeSet::new(), Vec::new());
        for (_, asked) in all.iter().filter(|(_, asked)| asked.person != own && !asked.leaves) {
            let Some(repair) = asked.is_at.filter(|repair| repair.epoch == epoch) else { continue };
            let known = checked.iter().find(|(one, _)| *one == repair).map(|(_, leads_on)| *leads_on);
            let leads_on = known.map_or_else(|| self.leads_on(all, &repair), Ok)?;
            checked.push((repair, leads_on));
            if leads_on {
                people.insert(asked.person);
            }
            if people.len() >= 2 {
                return Ok(true);
            }
        }
        let today = self.step.now / DAY;
        let is_two = self.record().members.len() == 2;
        let healing = &mut self.change().healing;
        if healing.on_a_word.0 != today {
            healing.on_a_word = (today, 0);
        }
        let is_enough = is_two && people.len() == 1 && healing.on_a_word.1 < ON_A_WORD;
        healing.on_a_word.1 += u32::from(is_enough);
        Ok(is_enough)
    }

    fn is_caught_up(&self) -> bool {
        let up = self.link().and_then(|link| self.step.live.ready(&link, self.step.now));
        let opening = up.and_then(|up| up.openings.get(&self.record().mailbox));
        opening.is_some_and(|opening| opening.caught_up)
    }

    /// Opens the mailbox anew: the relay has to say what it has.
    fn look(&mut self, row: i64, mut asked: Heard) -> Result<(), Error> {
        if asked.looked {
            // The relay has not answered yet.
            self.step.wake_talk(self.id, self.step.now + LOOK);
            return Ok(());
        }
        if let Some(link) = self.link() {
            let mailbox = self.record().mailbox;
            self.step.close(&link, &mailbox);
            self.step.live.openings_dirty = true;
        }
        asked.looked = true;
        asked.due = self.step.now + LOOK;
        self.step.wake_talk(self.id, asked.due);
        Ok(update_heard(self.step.tx, row, &asked)?)
    }

    /// The repair by which we are here has lost, or we are behind one: those who are there take us in.
    fn has_lost(&mut self, to: Repaired) -> Result<(), Error> {
        let (now, jitter) = (self.step.now, self.step.rng.random_range(0..JITTER));
        let healing = &mut self.change().healing;
        let known = healing.lost_to(now);
        if known.is_none_or(|known| to.beats(&known)) {
            healing.lost_to = Some((to, now));
        }
        if known.is_some() {
            return Ok(());
        }
        // They may have answered what we asked before.
        (healing.tries, healing.due, healing.alone_until) = (0, now + jitter, 0);
        self.step.live.held_dirty = true;
        self.step.wake_talk(self.id, now + jitter);
        Ok(())
    }

    /// Somebody says to be where it is better than to be alone here. The only other one may be believed at
    /// once; else those who may follow our own repair have their time.
    fn ask_soon(&mut self) {
        let soon = self.step.now + self.step.rng.random_range(0..JITTER);
        let is_two = self.record().members.len() == 2;
        let healing = &mut self.change().healing;
        if is_two && healing.alone_until > soon {
            healing.alone_until = soon;
        }
        let asked = healing.asked.first().map_or(0, |asked| asked.at);
        let next = soon.max(asked + BETTER);
        if healing.alone_until == 0 && healing.due > next {
            healing.due = next;
        }
        self.step.wake_talk(self.id, soon);
        self.step.wake_talk(self.id, next);
    }

    /// Whether an answer to a request of ours may still come.
    pub(in crate::engine) fn has_open_requests(&mut self) -> Result<bool, Error> {
        if self.record().healing.asked.is_empty() {
            return Ok(false);
        }
        let waits = self.record().is_suspended();
        let now = self.step.now;
        let closed = self.change().healing.take_closed(waits, now);
        self.close_requests(closed)?;
        Ok(!self.record().healing.asked.is_empty())
    }

    /// Requests that an answer is too late for: their key packages open no Welcome any more, which would
    /// begin another conversation.
    fn close_requests(&mut self, closed: Vec<Asked>) -> Result<(), Error> {
        let provider = Provider::new(self.step.tx, None);
        for asked in closed {
            KeyPackage::forget(&provider, &KeyPackageRef(asked.package))?;
        }
        Ok(())
    }

    /// Takes a device out and in again that asked for it.
    fn take_back(&mut self, row: i64, mut asked: Heard, member: &Member) -> Result<(), Error> {
        let (today, now) = (self.step.now / DAY, self.step.relay_now());
        let (added_at, added_in) = asked.added;
        // It was further than we are: it is not ours to let in.
        let is_ahead = asked.repair.is_none() && asked.epoch > self.record().epoch;
        // It asked before it knew that it is back. If that is not so, it asks again.
        let is_back = asked.epoch < added_in && self.step.now.saturating_sub(added_at) < JUST_ADDED;
        if is_ahead || is_back {
            return self.settle(row, asked);
        }
        if asked.answered.0 != today {
            asked.answered = (today, 0);
        }
        // Whoever cannot be reached from here would be out for good.
        let identity = member.credential.identity();
        let can_tell = !self.step.inboxes_of(&identity, &asked.device)?.is_empty();
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
            if (is_answered || !is_member) && (asked.repair.is_some() || !asked.key_package.is_empty()) {
                (asked.repair, asked.due) = (None, 0);
                asked.key_package.clear();
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

enum Judged {
    /// Go where it leads.
    Follow,
    /// Look at the mailbox ourselves first.
    Look,
    /// Somebody else may say so, too.
    Wait,
    /// It would win, says one person; and nobody is where we are.
    Better,
    /// It wins against where we are.
    Lost,
    /// It leads nowhere: whoever made it is taken back.
    Answer,
}
