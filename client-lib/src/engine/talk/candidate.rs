//! Finding out about people who are to be added: their card first, then a key package of each device on it.
//! Card, key package and the name that was asked for must agree (rule 26).

use posthorn_proto::frame::{CardAnswer, KeyPackage as Offered, Refusal, Request};
use posthorn_proto::{DeviceId, Handle};

use super::Talk;
use crate::conversation::{Candidate, Cause, Intent, Package, get_intent, intents, update_intent};
use crate::engine::link::request::{Asked, Pending, is_passing};
use crate::engine::live::HeldBack;
use crate::engine::people;
use crate::engine::{Error, Link, Step};
use crate::group::{Provider, UnverifiedKeyPackage};
use crate::identity::{PersonId, UnverifiedCard};
use crate::people::pin::{self, Pinned};

impl Talk<'_, '_> {
    /// Asks the directory about candidates of whom something is not known yet.
    pub(in crate::engine) fn resolve_candidates(&mut self) -> Result<(), Error> {
        let own = self.step.own()?;
        let account = own.link(Link::Account)?;
        let held = self.step.live.held_back.contains_key(&HeldBack::Directory);
        if held || self.step.live.ready(&account, self.step.now).is_none() {
            return Ok(());
        }
        for (row, intent) in intents(self.step.tx, &self.id)? {
            let Intent::Add(candidates) = intent else { continue };
            for candidate in candidates.into_iter().filter(|candidate| candidate.packages.is_empty()) {
                let Ok(handle) = Handle::parse(&candidate.handle) else { continue };
                let asked = Asked { conversation: self.id, intent: row, handle: candidate.handle.clone() };
                let same = |pending: &Pending| match pending {
                    Pending::LookUp(other) | Pending::TakeKeyPackages(other) => *other == asked,
                    _ => false,
                };
                if self.step.live.asked(&account, same) {
                    continue;
                }
                if candidate.card.is_none() {
                    self.step.request(&account, Request::LookUp(handle), Pending::LookUp(asked));
                } else {
                    let pending = Pending::TakeKeyPackages(asked);
                    self.step.request(&account, Request::TakeKeyPackages(handle), pending);
                }
            }
        }
        Ok(())
    }

    fn card_found(&mut self, asked: &Asked, answer: &CardAnswer) -> Result<(), Error> {
        let result = if answer.version == 0 {
            Err("the account has no contact card yet; it has to be online once".to_owned())
        } else {
            self.change_candidate(asked, |talk, candidate| talk.take_card(candidate, &answer.card))?
        };
        self.resolved(asked, result)
    }

    fn take_card(&mut self, candidate: &mut Candidate, card: &[u8]) -> Result<Result<(), String>, Error> {
        let expected = candidate.identity_key();
        let now = self.step.relay_now();
        let own = self.step.own()?;
        let card = match UnverifiedCard::new(card).and_then(|card| card.verify(expected.as_ref(), now)) {
            Ok(card) => card,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let relay = own.relay()?;
        if card.handle().as_str() != candidate.handle || card.relay().identity != relay.identity {
            return Ok(Err("the relay gave the card of somebody else".to_owned()));
        }
        let person = PersonId::from(&card.identity());
        if let Pinned::Other(known) = pin::pin(self.step.tx, &relay.identity, card.handle(), &person)? {
            let text = format!(
                "the relay names another key ({}) than the one that is known by this name ({}): verify it first",
                person.short(),
                known.short()
            );
            return Ok(Err(text));
        }
        people::meet(self.step.tx, &card)?;
        // Whom we begin to talk with, or add, is one whose invitations are followed (rule 25).
        people::accept(self.step.tx, &person)?;
        candidate.person = Some(person);
        candidate.card = Some(card.encoded().to_vec());
        Ok(Ok(()))
    }

    fn key_packages_taken(&mut self, asked: &Asked, packages: Vec<Offered>) -> Result<(), Error> {
        let packages: Vec<Vec<u8>> =
            packages.into_iter().map(|package| package.key_package.to_vec()).collect();
        let result =
            self.change_candidate(asked, |talk, candidate| talk.take_packages(candidate, packages))?;
        self.resolved(asked, result)
    }

    fn take_packages(
        &mut self,
        candidate: &mut Candidate,
        packages: Vec<Vec<u8>>,
    ) -> Result<Result<(), String>, Error> {
        let Some(identity) = candidate.identity_key() else {
            return Ok(Err("their identity is not known".to_owned()));
        };
        let own = self.step.own()?;
        let devices = people::devices(self.step.tx, &identity)?;
        let (now, relay) = (self.step.relay_now(), own.relay()?.identity);
        let provider = Provider::new(self.step.tx, None);
        let mut why = None;
        for bytes in packages {
            // The relay can offer what it wants; only devices on the card of who was looked up count.
            let verified =
                UnverifiedKeyPackage::parse(&bytes).and_then(|p| p.verify(&provider, &identity, now));
            let package = match verified {
                Ok(package) => package,
                Err(error) => {
                    why = Some(error.to_string());
                    continue;
                }
            };
            let credential = package.credential();
            let device: DeviceId = credential.device();
            let agrees = credential.handle().as_str() == candidate.handle
                && credential.relay() == relay
                && devices.contains(&device);
            if agrees && candidate.packages.iter().all(|known| known.device != device) {
                candidate.packages.push(Package { device, bytes });
            }
        }
        if candidate.packages.is_empty() {
            let why = why.unwrap_or_else(|| "no key package of a device on their card".to_owned());
            return Ok(Err(why));
        }
        Ok(Ok(()))
    }

    fn change_candidate(
        &mut self,
        asked: &Asked,
        change: impl FnOnce(&mut Self, &mut Candidate) -> Result<Result<(), String>, Error>,
    ) -> Result<Result<(), String>, Error> {
        let Some(Intent::Add(mut candidates)) = get_intent(self.step.tx, asked.intent)? else {
            return Ok(Ok(()));
        };
        let Some(candidate) = candidates.iter_mut().find(|candidate| candidate.handle == asked.handle) else {
            return Ok(Ok(()));
        };
        let result = change(self, candidate)?;
        update_intent(self.step.tx, asked.intent, &Intent::Add(candidates))?;
        Ok(result)
    }

    /// One step of finding out about a candidate is over. If somebody waits for the change, it is all or
    /// nothing; if nobody does any more, who cannot be added is left out, with an alarm.
    fn resolved(&mut self, asked: &Asked, result: Result<(), String>) -> Result<(), Error> {
        self.look_again();
        let Err(reason) = result else { return Ok(()) };
        let Some(Intent::Add(mut candidates)) = get_intent(self.step.tx, asked.intent)? else {
            return Ok(());
        };
        candidates.retain(|candidate| candidate.handle != asked.handle);
        let text = format!("{} cannot be added: {reason}", asked.handle);
        if candidates.is_empty() || self.is_waited_for(asked.intent) {
            return self.intent_failed(asked.intent, Cause::CannotAdd, &text);
        }
        update_intent(self.step.tx, asked.intent, &Intent::Add(candidates))?;
        self.alarm(Cause::CannotAdd, None, text);
        Ok(())
    }

    fn look_up_refused(&mut self, asked: &Asked, refusal: &Refusal) -> Result<(), Error> {
        if is_passing(refusal) {
            self.step.hold_back(HeldBack::Directory, refusal);
            self.step.wake_talk(self.id, self.step.now + u64::from(refusal.retry_after_ms).max(5_000));
            return Ok(());
        }
        self.resolved(asked, Err(refusal.message.clone()))
    }
}

impl Step<'_> {
    pub(in crate::engine) fn card_found(&mut self, asked: &Asked, answer: &CardAnswer) -> Result<(), Error> {
        self.talk(&asked.conversation, |talk| talk.card_found(asked, answer)).map(drop)
    }

    pub(in crate::engine) fn key_packages_taken(
        &mut self,
        asked: &Asked,
        packages: Vec<Offered>,
    ) -> Result<(), Error> {
        self.talk(&asked.conversation, |talk| talk.key_packages_taken(asked, packages)).map(drop)
    }

    pub(in crate::engine) fn look_up_refused(
        &mut self,
        asked: &Asked,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        self.talk(&asked.conversation, |talk| talk.look_up_refused(asked, refusal)).map(drop)
    }
}
