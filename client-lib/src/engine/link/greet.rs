//! The beginning of a connection: the relay greets and proves who it is.

use posthorn_proto::auth::Proof;
use posthorn_proto::frame::{Hello, ProveRelay, Refusal, Request};
use posthorn_proto::proof::RelayCheck;
use posthorn_proto::{PostId, RelayIdentity};

use super::request::Pending;
use super::{LinkState, Step};
use crate::conversation::Cause;
use crate::engine::{Effect, Error, Event, Link, LinkId};

/// Our clock is told to be wrong when it is off by more than this, milliseconds: key packages allow for an
/// hour.
const SKEW_TOLD: i64 = 30 * 60 * 1000;

impl Step<'_> {
    pub(super) fn greeted(&mut self, id: &LinkId, hello: Hello) -> Result<(), Error> {
        let announced = hello.challenge.relay_identity;
        if self.identity_at(&id.relay)?.is_some_and(|known| known != announced) {
            return self.not_the_relay(id);
        }
        let Some(LinkState::Up(up)) = self.live.links.get_mut(id) else { return Ok(()) };
        if up.hello.is_some() {
            // A relay greets once.
            self.effects.push(Effect::Disconnect(id.clone()));
            return Ok(());
        }
        let time = hello.time;
        up.tells_time(time, self.now);
        up.hello = Some(hello);
        // Whichever of the connections to our own relay comes up first: the others' words are judged by it.
        if let Some(own) = self.own_or_none()?
            && own.profile.relay_url()? == id.relay
        {
            self.note_time(time);
        }
        if id.link == Link::Account {
            // What the directory has may be another's store by now.
            self.live.stock = None;
        }
        let check = RelayCheck::new(self.rng);
        let request = Request::ProveRelay(ProveRelay { ephemeral: check.ephemeral() });
        self.request(id, request, Pending::Prove(check));
        Ok(())
    }

    pub(in crate::engine) fn relay_proven(
        &mut self,
        id: &LinkId,
        check: &RelayCheck,
        proof: &Proof,
    ) -> Result<(), Error> {
        let Some(LinkState::Up(up)) = self.live.links.get_mut(id) else { return Ok(()) };
        let Some(challenge) = up.hello.as_ref().map(|hello| hello.challenge) else { return Ok(()) };
        if check.verify(&challenge, proof).is_err() {
            return self.not_the_relay(id);
        }
        up.proven = true;
        self.went_well(id);
        self.pin_relay(id, challenge.relay_identity)?;
        self.can_reach(&id.relay);
        self.note_up(&id.relay)?;
        // The account's connection is of use, and told, once it is authenticated.
        if matches!(id.link, Link::Mailboxes | Link::Inbox) && self.is_own_relay(id)? {
            self.event(Event::Connected);
        }
        self.look_everywhere()
    }

    pub(in crate::engine) fn proof_refused(&mut self, id: &LinkId, refusal: &Refusal) -> Result<(), Error> {
        let text = format!("the relay at {} does not prove its identity: {}", id.relay, refusal.message);
        self.alarm(None, Cause::RelayChanged, None, text);
        self.effects.push(Effect::Disconnect(id.clone()));
        Ok(())
    }

    /// The first key that a relay proves is the one that it has from then on.
    fn pin_relay(&mut self, id: &LinkId, identity: RelayIdentity) -> Result<(), Error> {
        let Some(own) = self.own_or_none()? else { return Ok(()) };
        if own.profile.relay_identity.is_none() && own.profile.relay_url()? == id.relay {
            self.change_profile(|profile| profile.relay_identity = Some(identity))?;
        }
        self.pin_chosen(&id.relay, identity)
    }

    fn not_the_relay(&mut self, id: &LinkId) -> Result<(), Error> {
        let text = format!(
            "the relay at {} is not the one that this device knows there: nothing is sent to it",
            id.relay
        );
        self.alarm(None, Cause::RelayChanged, None, text);
        self.effects.push(Effect::Disconnect(id.clone()));
        Ok(())
    }

    /// Takes the relay's time, by which key packages are judged: everybody who adds somebody at this relay
    /// has the same then, whatever their own clocks say.
    fn note_time(&mut self, seconds: u64) {
        let theirs = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
        self.live.skew = theirs.saturating_sub(i64::try_from(self.now).unwrap_or(i64::MAX));
        if self.live.skew.abs() <= SKEW_TOLD {
            self.live.skew_told = false;
        } else if !std::mem::replace(&mut self.live.skew_told, true) {
            let hours = self.live.skew.unsigned_abs() as f64 / 3_600_000.0;
            let side = if self.live.skew > 0 { "behind" } else { "ahead of" };
            let (many, unit) = if hours < 48.0 { (hours, "hours") } else { (hours / 24.0, "days") };
            let text = format!(
                "this device's clock is {many:.1} {unit} {side} the relay's: set it, or times are shown wrong"
            );
            self.alarm(None, Cause::ClockWrong, None, text);
        }
    }

    /// A post id of now, for a post that leaves by this link: by its relay's clock, or by what is known of
    /// our own relay's while it is not up.
    pub(in crate::engine) fn new_post_id(&mut self, link: &LinkId) -> PostId {
        let seconds = self.live.relay_seconds(link, self.now);
        PostId::drawn_at(seconds.unwrap_or(self.relay_now() / 1000), self.rng)
    }

    /// The relay found a post id not to be of now: from here on they are made by the clock that it told.
    pub(in crate::engine) fn correct_time(&mut self, link: &LinkId, refusal: &Refusal) {
        let now = self.now;
        if let Some(up) = self.live.links.get_mut(link).and_then(LinkState::up_mut)
            && refusal.time > 0
        {
            up.tells_time(refusal.time, now);
        }
        // Not at once: a relay that always says so is not to keep us busy.
        self.back_off(link, refusal);
    }

    /// The time by the relay's clock, unix milliseconds; by ours as long as none is known.
    pub(in crate::engine) fn relay_now(&self) -> u64 {
        self.now.saturating_add_signed(self.live.skew)
    }

    /// The time by which whatever cannot be taken back is done: by neither clock it is sooner.
    pub(in crate::engine) fn earlier_clock(&self) -> u64 {
        self.relay_now().min(self.now)
    }
}
