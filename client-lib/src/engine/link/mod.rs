//! Connections to relays: which are wanted, when to try again, and who is at the other end.
//!
//! A relay names its key in `Hello` and proves it on every connection before anything is asked there (finding
//! of the design: a read key shown to the wrong relay is lost). One relay identity has one URL on this
//! device.

mod gone;
mod greet;
pub(super) mod known;
pub(super) mod request;
pub(super) mod route;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use posthorn_proto::MailboxId;
use posthorn_proto::frame::{Refusal, Request, ServerBody, ServerFrame};
use rand::Rng as _;

use super::live::HeldBack;
use super::mailbox::reading::Reading;
use super::{Effect, Error, Event, Link, LinkId, Step, Waiting};
use crate::identity::RelayUrl;
use request::Pending;
use state::Due;
pub(super) use state::{LinkState, Opening};

/// First wait after a connection ended, milliseconds; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: u64 = 500;
const LONGEST_WAIT: u64 = 60_000;
/// Whoever waits for a connection makes it try again sooner, but no sooner than this, milliseconds.
const SHORTEST_WAIT: u64 = 2_000;
/// Somebody at another relay cannot be found if that cannot be reached in so many tries, some 15 seconds.
const DIRECTORY_TRIES: u32 = 5;
/// A relay's advice on when to come back is taken up to here, milliseconds: 10 minutes.
pub(super) const LONGEST_ADVICE: u64 = 600_000;
/// Longest words of a relay that are passed on, in characters.
const MOST_WORDS: usize = 300;

impl Step<'_> {
    pub(super) fn link_connected(&mut self, id: &LinkId) {
        let Some(attempts) = self.live.links.get(id).map(LinkState::attempts) else {
            // It was not wanted any more by the time that it came up.
            self.effects.push(Effect::Disconnect(id.clone()));
            return;
        };
        self.live.links.insert(id.clone(), LinkState::connected(attempts + 1, self.now));
    }

    pub(super) fn link_disconnected(&mut self, id: &LinkId, reason: String) -> Result<(), Error> {
        let Some(state) = self.live.links.get_mut(id) else { return Ok(()) };
        let (attempts, hint) = match state {
            LinkState::Down { attempts, .. } | LinkState::Connecting { attempts, .. } => {
                (*attempts + 1, None)
            }
            LinkState::Up(up) => (up.attempts, up.reconnect_after),
        };
        // It went well for a while, or it never came so far.
        let was_proven = state.up().is_some_and(|up| up.proven);
        let backoff = (FIRST_WAIT << attempts.min(7)).min(LONGEST_WAIT);
        // Half of it is random, so that a restarted relay is not met by everybody at once.
        let advice = hint.unwrap_or(0).min(LONGEST_ADVICE);
        let wait = advice + backoff / 2 + self.rng.random_range(0..=backoff / 2);
        let not_before = self.now + advice + SHORTEST_WAIT;
        *state = LinkState::Down { retry_at: self.now + wait, not_before, attempts };
        self.live.links_dirty = true;
        if self.is_own_relay(id)? {
            // People have one relay, not five connections to it: what `SyncState::connected` is made of is
            // told.
            if matches!(id.link, Link::Account | Link::Mailboxes | Link::Inbox) {
                self.event(Event::Disconnected { reason, retry_in_ms: wait });
            }
            return Ok(());
        }
        if !was_proven {
            self.cannot_reach(&id.relay, &reason);
            self.note_down(&id.relay)?;
        }
        if id.link == Link::Directory && attempts >= DIRECTORY_TRIES {
            self.directory_unreachable(id, &reason)?;
        }
        Ok(())
    }

    /// Whether a connection is to our own relay.
    fn is_own_relay(&mut self, id: &LinkId) -> Result<bool, Error> {
        Ok(self
            .own_or_none()?
            .map(|own| own.profile.relay_url())
            .transpose()?
            .is_none_or(|own| own == id.relay))
    }

    /// Another relay than our own does not answer: what concerns it waits, and nothing else does.
    fn cannot_reach(&mut self, relay: &RelayUrl, reason: &str) {
        if self.live.unreachable.insert(relay.clone(), reason.to_owned()).is_none() {
            let (relay, unreachable) = (relay.to_string(), Some(reason.to_owned()));
            self.event(Event::Relay { relay, unreachable });
        }
    }

    fn can_reach(&mut self, relay: &RelayUrl) {
        if self.live.unreachable.remove(relay).is_some() {
            self.event(Event::Relay { relay: relay.to_string(), unreachable: None });
        }
    }

    /// Connects what is due, pings what is silent, gives up what is dead, drops what nothing needs.
    pub(super) fn progress_links(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.live.links_dirty) {
            self.want_links()?;
        }
        let due: Vec<(LinkId, Due)> =
            self.live.links.iter_mut().map(|(id, state)| (id.clone(), state.due(self.now))).collect();
        for (id, due) in due {
            match due {
                Due::Nothing => {}
                Due::Connect => self.effects.push(Effect::Connect(id)),
                Due::GiveUp => self.effects.push(Effect::Disconnect(id)),
                Due::Ping => self.request(&id, Request::Ping, Pending::Ping),
                Due::Resume => self.look_everywhere()?,
            }
        }
        Ok(())
    }

    /// Wants the connections that something needs, and no others.
    fn want_links(&mut self) -> Result<(), Error> {
        self.flush()?;
        let mut wanted = BTreeSet::new();
        if let Some(own) = self.own_or_none()? {
            let relay = own.profile.relay_url()?;
            self.live.own_url = Some(relay.clone());
            for link in [Link::Account, Link::Mailboxes, Link::Inbox] {
                wanted.insert(LinkId { relay: relay.clone(), link });
            }
        }
        for (_, reading) in Reading::all(self.tx)? {
            wanted.extend(reading.link().filter(|_| reading.wants_link(self.now)));
        }
        if self.live.links.keys().any(|id| id.link == Link::Directory) {
            wanted.extend(self.directories_asked()?);
        }
        // Those for inboxes come and go with what is to be left there (`progress_inbox_posts`).
        let needless: Vec<LinkId> = self
            .live
            .links
            .keys()
            .filter(|id| id.link != Link::Post && !wanted.contains(*id))
            .cloned()
            .collect();
        for id in needless {
            if !matches!(self.live.links.remove(&id), Some(LinkState::Down { .. }) | None) {
                self.effects.push(Effect::Disconnect(id));
            }
        }
        for id in wanted {
            self.live.want(id, self.now);
        }
        // Of a relay to which nothing leads any more it does not matter.
        let links = &self.live.links;
        self.live.unreachable.retain(|relay, _| links.keys().any(|id| id.relay == *relay));
        Ok(())
    }

    /// Takes one frame of a link.
    pub(super) fn frame(
        &mut self,
        id: &LinkId,
        frame: ServerFrame,
        moved: &mut BTreeMap<MailboxId, u32>,
    ) -> Result<(), Error> {
        let Some(LinkState::Up(up)) = self.live.links.get_mut(id) else { return Ok(()) };
        let pending = up.answered(frame.request, self.now);
        match (&up.hello, &frame.body) {
            (None, ServerBody::Hello(_)) | (Some(_), _) => {}
            // Nothing can be asked before the greeting, and nothing else is waited for.
            (None, _) => {
                self.effects.push(Effect::Disconnect(id.clone()));
                return Ok(());
            }
        }
        match frame.body {
            ServerBody::Delivery(delivery) => self.delivered(id, delivery, moved),
            ServerBody::GoingAway { reconnect_after_ms } => {
                up.reconnect_after = Some(u64::from(reconnect_after_ms));
                Ok(())
            }
            // Signals carry typing and calls, which this version does not speak.
            ServerBody::Signalled { .. } => Ok(()),
            body => {
                // An answer may come from a relay that lies, or find something that changed meanwhile.
                let done = self.attempt(|step| match (body, pending) {
                    (ServerBody::Hello(hello), _) => step.greeted(id, hello),
                    (ServerBody::Closed { mailbox, reason }, _) => {
                        step.opening_ended(id, &mailbox, plain(reason))
                    }
                    (ServerBody::Lost { mailbox, seq, reason }, _) => {
                        step.lost(id, &mailbox, seq, &plain(reason))
                    }
                    (ServerBody::Error(refusal), Some(pending)) => step.refused(id, pending, plain(refusal)),
                    (body, Some(pending)) => step.answered(id, pending, body),
                    // An answer that nothing waits for: the relay repeats itself or lies; either is harmless.
                    (_, None) => Ok(()),
                })?;
                self.note_failure(done)
            }
        }
    }

    /// Something that had to go on by itself did not: told, and tried again with whatever comes next.
    pub(super) fn note_failure(&mut self, done: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = done {
            self.alarm(None, crate::conversation::Cause::Internal, None, error.to_string());
        }
        Ok(())
    }

    /// The relay asks for patience, on the whole link. What it says is told once, until something goes well.
    pub(super) fn back_off(&mut self, id: &LinkId, refusal: &Refusal) {
        let now = self.now;
        let Some(up) = self.live.links.get_mut(id).and_then(LinkState::up_mut) else { return };
        up.refusals = (up.refusals + 1).min(6);
        let wait = u64::from(refusal.retry_after_ms).min(LONGEST_ADVICE).max(500 << up.refusals);
        up.not_before = now + wait;
        let waiting = Waiting::of(refusal, up.not_before);
        let known = up.refused.replace(waiting.clone());
        if known.is_none_or(|known| known.code != waiting.code) {
            self.event(Event::Waiting(waiting));
        }
    }

    /// The relay asks for patience with one kind of request: the others go on, and people are told.
    pub(super) fn hold_back(&mut self, what: HeldBack, refusal: &Refusal) {
        let wait = u64::from(refusal.retry_after_ms).clamp(5_000, LONGEST_ADVICE);
        let waiting = Waiting::of(refusal, self.now + wait);
        self.live.held_back.insert(what, waiting.clone());
        self.event(Event::Waiting(waiting));
    }

    /// Something went well: patience starts anew.
    pub(super) fn went_well(&mut self, id: &LinkId) {
        if let Some(up) = self.live.links.get_mut(id).and_then(LinkState::up_mut) {
            up.refusals = 0;
            up.refused = None;
            up.attempts = 0;
        }
    }
}

impl Waiting {
    fn of(refusal: &Refusal, until: u64) -> Self {
        let code = refusal.code.map_or_else(|| "UNKNOWN".to_owned(), |code| code.to_string());
        Self { code, text: refusal.message.clone(), until }
    }
}

/// A relay's words, fit to be shown: without control characters, and not too many.
fn plain(mut refusal: Refusal) -> Refusal {
    refusal.message = refusal.message.chars().filter(|c| !c.is_control()).take(MOST_WORDS).collect();
    refusal
}
