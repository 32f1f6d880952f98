//! Registering an account, and proving on each new connection to be its device.

use posthorn_proto::Handle;
use posthorn_proto::auth::{AccountKey, Proof};
use posthorn_proto::code::Retry;
use posthorn_proto::frame::{Authenticate, Refusal, Register, Request};

use super::Own;
use super::profile::Profile;
use crate::conversation::Cause;
use crate::engine::link::request::Pending;
use crate::engine::live::HeldBack;
use crate::engine::{Account, Effect, Error, Event, LinkId, Reply, Step};
use crate::identity::RelayUrl;

impl Step<'_> {
    pub(in crate::engine) fn register(
        &mut self,
        relay: &RelayUrl,
        handle: &Handle,
        invite: String,
        reply: Reply<Account>,
    ) -> Result<(), Error> {
        if let Some(own) = self.own_or_none()? {
            let profile = &own.profile;
            let same = profile.handle()? == *handle && profile.relay_url()? == *relay;
            if same && (profile.unknown || !profile.complete()) {
                self.change_profile(|profile| match profile.unknown {
                    true => profile.begin_again(invite),
                    // The same registration, cut off before: it goes on.
                    false => profile.invite = invite,
                })?;
                self.live.promised.registering.push(reply);
                return Ok(());
            }
            // From a relay that has proven itself the account may have been asked for already, and its keys
            // must not be lost.
            if profile.registered || profile.relay_identity.is_some() {
                let name = format!("{} at {}", profile.handle()?, profile.relay_url()?);
                self.answer(reply, Err(Error::AccountExists(name)));
                return Ok(());
            }
            // No relay knows of it: what was mistyped is put right.
            self.forget_registration()?;
        }
        Profile::generate(relay, handle, invite, self.rng).save(self.tx)?;
        self.live.own = None;
        self.live.promised.registering.push(reply);
        self.live.links_dirty = true;
        Ok(())
    }

    /// Registers, or proves to be the device.
    pub(super) fn introduce(&mut self, own: &Own, account: &LinkId) -> Result<(), Error> {
        let Some(up) = self.live.links.get(account).and_then(|link| link.up()) else { return Ok(()) };
        let asked = up.pending.values().any(|p| matches!(p, Pending::Register(_) | Pending::Authenticate(_)));
        if !up.proven || up.authenticated || asked || up.not_before > self.now {
            return Ok(());
        }
        let Some(challenge) = up.hello.as_ref().map(|hello| hello.challenge) else { return Ok(()) };
        let device = own.device()?;
        let Ok(key) = AccountKey::of_device(device.account_secret(), &challenge) else {
            self.effects.push(Effect::Disconnect(account.clone()));
            return Ok(());
        };
        let proof = key.device_proof();
        if own.profile.registered {
            let request = Request::Authenticate(Authenticate { device: device.id(), proof });
            self.request(account, request, Pending::Authenticate(key));
        } else {
            let request = Request::Register(Register {
                invite: own.profile.invite.clone(),
                handle: own.profile.handle()?,
                identity_key: *own.key.as_bytes(),
                device: device.id(),
                device_key: device.account_key(),
                proof,
            });
            self.request(account, request, Pending::Register(key));
        }
        Ok(())
    }

    pub(in crate::engine) fn authenticated(
        &mut self,
        id: &LinkId,
        key: &AccountKey,
        proof: &Proof,
    ) -> Result<(), Error> {
        if key.check_relay(proof).is_err() {
            let text =
                format!("the relay at {} could not prove its identity: nothing is sent to it", id.relay);
            self.alarm(None, Cause::RelayChanged, None, text);
            self.effects.push(Effect::Disconnect(id.clone()));
            return Ok(());
        }
        self.change_profile(|profile| {
            (profile.registered, profile.unknown) = (true, false);
            profile.invite.clear();
        })?;
        if let Some(up) = self.live.links.get_mut(id).and_then(|link| link.up_mut()) {
            up.authenticated = true;
        }
        self.event(Event::Connected);
        self.look_everywhere()
    }

    pub(in crate::engine) fn registration_refused(
        &mut self,
        id: &LinkId,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        // Busy is not no. What an earlier try may have stored must not lose its keys.
        if refusal.code.is_some_and(|code| matches!(code.retry(), Retry::Later | Retry::Reconnect)) {
            self.back_off(id, refusal);
            self.hold_back(HeldBack::Registration, refusal);
            return Ok(());
        }
        if self.own()?.profile.unknown {
            // What this profile has is somebody's, and its keys make the same account there one day.
            self.change_profile(|profile| (profile.registered, profile.invite) = (true, String::new()))?;
        } else {
            self.forget_registration()?;
        }
        let replies = std::mem::take(&mut self.live.promised.registering);
        if replies.is_empty() {
            self.alarm(None, Cause::Refused, None, format!("registration: {}", refused(refusal)));
        }
        for reply in replies {
            self.answer(reply, Err(refused(refusal)));
        }
        Ok(())
    }

    pub(in crate::engine) fn authentication_refused(
        &mut self,
        id: &LinkId,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        if !self.live.promised.removing.is_empty() {
            self.removal_refused(id, refusal);
        } else if !crate::engine::link::request::is_passing(refusal) && !self.own()?.profile.unknown {
            self.change_profile(|profile| profile.unknown = true)?;
            let text = "the relay does not know this account (any more): it was restored from a backup that is \
                        older than the account, or the account was removed there; registering again under the \
                        same name gives it back, and what is here stays";
            self.alarm(None, Cause::AuthenticationFailed, None, text);
        }
        self.back_off(id, refusal);
        Ok(())
    }

    /// Answers who registered, once the relay has everything.
    pub(super) fn registration_goes_on(&mut self) -> Result<(), Error> {
        let own = self.own()?;
        if own.profile.complete() {
            for reply in std::mem::take(&mut self.live.promised.registering) {
                let account = own.summary()?;
                self.answer(reply, Ok(account));
            }
        }
        Ok(())
    }

    /// Lets go of an account that no relay has.
    fn forget_registration(&mut self) -> Result<(), Error> {
        Profile::delete(self.tx)?;
        self.live.own = None;
        self.live.links_dirty = true;
        Ok(())
    }
}

/// A refusal as an answer to a command.
pub(in crate::engine) fn refused(refusal: &Refusal) -> Error {
    Error::Refused {
        code: refusal.code.map_or_else(|| "UNKNOWN".to_owned(), |code| code.to_string()),
        message: refusal.message.clone(),
    }
}
