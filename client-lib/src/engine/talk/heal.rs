//! What heals itself (rule 7): a conversation that cannot go on here asks for a way back, or is repaired; and
//! one that goes on where others may not be says to all where it is. `answer` does what others ask.
//!
//! Nothing of it happens at once: what is suspended is looked at again first, and everybody waits a random
//! time, so that mostly one device does what all could do. Everything is bounded for each device and day.

use rand::Rng as _;

use super::Talk;
use crate::content::{Help, InboxMessage, Repaired};
use crate::conversation::ConversationState;
use crate::conversation::healing::{Asked, Remedy};
use crate::conversation::heard::heard;
use crate::engine::Error;
use crate::engine::account::profile;
use crate::group::{KeyPackage, KeyPackageKind, KeyPackageRef, Member, Provider};
use crate::identity::PersonId;
use crate::outbox::Errand;

/// What cannot go on is repaired at the earliest after this long, milliseconds: the next look has found the
/// same then, and a relay that was started on a wrong folder for a minute moves nobody.
const PATIENCE: u64 = 120_000;
/// Each waits for up to this much longer, milliseconds (rule 7).
const JITTER: u64 = 60_000;
/// What did not help is tried again after this long, milliseconds; doubled up to [`LONGEST`].
pub(super) const AGAIN: u64 = 10 * 60_000;
pub(super) const LONGEST: u64 = 24 * HOUR;
/// Requests that a device sends to the members of one conversation in a day; and beside them, how often it
/// only says where it is.
const ASKED: u32 = 12;
/// Whoever is alone asks at once when it hears of a better place, but not again within this time,
/// milliseconds.
const BETTER: u64 = 2 * HOUR;
const HOUR: u64 = 3600 * 1000;
pub(super) const DAY: u64 = 24 * HOUR;

/// How long to wait after so many tries, milliseconds.
fn wait_after(tries: u32) -> u64 {
    AGAIN.saturating_mul(1 << tries.min(8)).min(LONGEST)
}

impl Talk<'_, '_> {
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

    /// What a conversation that goes on still asks for itself: the repair that led to where it is may have
    /// lost, or others may be elsewhere.
    pub(super) fn ask_on(&mut self) -> Result<(), Error> {
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
        Ok(())
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
        let led_by = healing.led_by().filter(|_| goes_on);
        let lost_to = healing.lost_to(self.step.now).filter(|_| goes_on);
        let has_lost_touch = repair.is_none() && healing.has_lost_touch();
        let stays = goes_on && lost_to.is_none() && (!healing.is_alone() || has_lost_touch);
        let is_sure = stays && !healing.is_unsure(self.step.now);
        if !self.may_ask(stays) {
            return Ok(());
        }
        *self.asked_today(stays) += 1;
        let own = self.step.own()?;
        // What came after that was ours alone: for the others we are where we left them.
        let from = repair.as_ref().map(|(repaired, _)| *repaired).or(led_by).or(lost_to);
        let here = self.record().epoch;
        let epoch = from.map_or(here, |repaired| repaired.epoch.min(here));
        // Nobody knows how far those have come whom this device has lost.
        let epoch = if has_lost_touch { 0 } else { epoch };
        // Whoever is where all go on opens no way to elsewhere.
        let key_package = if is_sure { Vec::new() } else { self.open_request(epoch)? };
        let group = self.record().group;
        let help = Help {
            group,
            identity: own.key,
            device: own.device()?.id(),
            at: now,
            epoch,
            key_package,
            committer: repair.as_ref().map_or(0, |(repaired, _)| repaired.leaf),
            repair: repair.map(|(_, commit)| commit),
            led_by,
            stays,
        };
        self.tell_all(&help, and)
    }

    /// Leaves a request in an inbox of every member's devices, and of these.
    fn tell_all(&mut self, help: &Help, and: &[Member]) -> Result<(), Error> {
        let own = self.step.own()?;
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
        let second = if help.stays { self.second_word(help.is_at())? } else { None };
        for (identity, device) in devices {
            let Some(inbox) = self.step.inboxes_of(&identity, &device)?.into_iter().next() else { continue };
            let (since, person) = (self.step.now, PersonId::from(&identity));
            if self.step.replace_waiting(&inbox.mailbox, help)? {
                let data = data.clone();
                let errand = Errand { conversation: None, person, device, since, tries: 0, data };
                self.step.post_to_inbox(&inbox, errand)?;
            }
            if let Some((theirs, word)) = &second
                && (theirs.identity, theirs.device) != (identity, device)
                && self.step.replace_waiting(&inbox.mailbox, theirs)?
            {
                // It is not ours to be dated anew, or to be tried elsewhere.
                let errand =
                    Errand { conversation: None, person, device, since, tries: 1, data: word.clone() };
                self.step.post_to_inbox(&inbox, errand)?;
            }
        }
        Ok(())
    }

    /// The latest that somebody else said of being here, too, as it came: they may not use the relays of all
    /// to whom we say it, and one person's word moves nobody.
    fn second_word(&mut self, here: Option<Repaired>) -> Result<Option<(Help, Vec<u8>)>, Error> {
        let (own, now) = (self.step.own()?.person, self.step.now);
        let said = heard(self.step.tx, &self.id)?.into_iter().map(|(_, heard)| heard);
        let lately = said.filter(|one| {
            one.stays && one.is_at == here && one.person != own && now.saturating_sub(one.came) < DAY
        });
        let latest = lately.max_by_key(|one| one.came).map(|one| one.word);
        Ok(latest.and_then(|word| match InboxMessage::decode(&word) {
            Ok(InboxMessage::Help(help)) => help.verify().ok().map(|help| (help, word)),
            _ => None,
        }))
    }

    /// Makes the key package of a request. An answer that leads to this epoch or an earlier one is none.
    fn open_request(&mut self, above: u64) -> Result<Vec<u8>, Error> {
        let (own, now) = (self.step.own()?, self.step.relay_now());
        let provider = Provider::new(self.step.tx, None);
        let made = KeyPackage::make(&provider, &own.leaf()?, KeyPackageKind::OneTime, now)?;
        profile::note_key_package(self.step.tx, &made)?;
        let asked = Asked { package: made.reference.0, above, at: self.step.now };
        let closed = self.change().healing.note_asked(asked);
        self.close_requests(closed)?;
        Ok(made.bytes)
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
    pub(super) fn close_requests(&mut self, closed: Vec<Asked>) -> Result<(), Error> {
        let provider = Provider::new(self.step.tx, None);
        for asked in closed {
            KeyPackage::forget(&provider, &KeyPackageRef(asked.package))?;
        }
        Ok(())
    }

    /// A repair led here, and these are here, too. Whoever took this device in may be on the way to where
    /// another led: who else is here shows when they say something. Until then this device asks on.
    pub(in crate::engine) fn look_for_others(&mut self, than: &[PersonId]) -> Result<(), Error> {
        let (own, others) = (self.step.own()?.person, self.others()?);
        let here = than.iter().copied().filter(|person| *person != own).collect();
        self.change().healing.look_for(others, here);
        self.plan_next();
        Ok(())
    }

    pub(in crate::engine) fn others(&mut self) -> Result<Vec<PersonId>, Error> {
        let own = self.step.own()?.person;
        let members = self.record().members.iter().map(|member| member.person);
        Ok(members.filter(|person| *person != own).collect())
    }

    /// This device was away for so long that it may have missed where the others went: it says to all where
    /// it is, and those who are elsewhere take it in there.
    pub(in crate::engine) fn lose_touch(&mut self) -> Result<(), Error> {
        let (others, now) = (self.others()?, self.step.now);
        self.change().healing.lose_touch(others, now);
        if !self.record().is_suspended() {
            // A relay that was started on a wrong folder has lost inboxes, too, and is to move nobody.
            let due = now + PATIENCE + self.step.rng.random_range(0..JITTER);
            let healing = &mut self.change().healing;
            // Holes without end are not to put it off.
            if healing.due == 0 || healing.due > due {
                (healing.due, healing.tries) = (due, 0);
            }
            self.step.wake_talk(self.id, due);
        }
        self.look_again();
        Ok(())
    }

    /// It may help now to ask: soon, and not all in the same second.
    pub(in crate::engine) fn ask_anew(&mut self) {
        let due = self.step.now + self.step.rng.random_range(0..JITTER);
        (self.change().healing.due, self.change().healing.tries) = (due, 0);
        self.step.wake_talk(self.id, due);
    }

    /// The repair by which we are here has lost, or we are behind one: those who are there take us in.
    pub(super) fn note_lost(&mut self, to: Repaired) {
        let now = self.step.now;
        let healing = &mut self.change().healing;
        let known = healing.lost_to(now);
        if known.is_none_or(|known| to.beats(&known)) {
            healing.lost_to = Some((to, now));
        }
        if known.is_none() {
            // They may have answered what we asked before.
            healing.alone_until = 0;
            self.step.live.held_dirty = true;
            self.ask_anew();
        }
    }

    /// Somebody says to be where it is better than to be alone here. The only other one may be believed at
    /// once; else those who may follow our own repair have their time.
    pub(super) fn ask_soon(&mut self) {
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

    /// Whether this repair led here; none: whether none did.
    pub(super) fn is_where(&self, repair: Option<Repaired>) -> bool {
        self.record().healing.led_by() == repair
    }

    /// Whether a time has come; if not, it is looked at again then. One that is further away than what was
    /// planned was planned by a clock that has been put back since.
    pub(super) fn is_due(&mut self, due: u64, planned: u64) -> bool {
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
}
