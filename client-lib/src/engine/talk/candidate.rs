//! Finding out about people who are to be added: their card first, then a key package of each device on it.
//! Card, key package and the name that was asked for must agree (rule 26).

use posthorn_proto::frame::{CardAnswer, KeyPackage as Offered, Refusal, Request};
use posthorn_proto::{DeviceId, Handle, RelayIdentity};

use super::Talk;
use crate::conversation::{
    Candidate, Cause, Conversation, Intent, Package, get_intent, intents, update_intent,
};
use crate::engine::link::request::{Asked, Pending, is_passing};
use crate::engine::live::HeldBack;
use crate::engine::people;
use crate::engine::{Error, Link, LinkId, Step};
use crate::group::{Provider, UnverifiedKeyPackage};
use crate::identity::{PersonId, UnverifiedCard};
use crate::people::pin::{self, Pinned};

impl Talk<'_, '_> {
    /// Asks the directories about candidates of whom something is not known yet: our own relay's on the
    /// account's connection, another's on one that is made for it.
    pub(in crate::engine) fn resolve_candidates(&mut self) -> Result<(), Error> {
        let account = self.step.own()?.link(Link::Account)?;
        for (row, intent) in intents(self.step.tx, &self.id)? {
            let Intent::Add(candidates) = intent else { continue };
            for candidate in candidates.into_iter().filter(|candidate| candidate.packages.is_empty()) {
                let link = directory_of(&candidate, &account);
                if self.step.is_held_back(&link) {
                    continue;
                }
                if link != account {
                    self.step.live.want(link.clone(), self.step.now);
                }
                if self.step.live.ready(&link, self.step.now).is_some() {
                    self.ask_about(&link, row, &candidate);
                }
            }
        }
        Ok(())
    }

    fn ask_about(&mut self, link: &LinkId, row: i64, candidate: &Candidate) {
        let Ok(handle) = Handle::parse(&candidate.handle) else { return };
        let asked = Asked {
            conversation: self.id,
            intent: row,
            handle: candidate.handle.clone(),
            relay: candidate.relay.clone(),
        };
        let same = |pending: &Pending| match pending {
            Pending::LookUp(other) | Pending::TakeKeyPackages(other) => *other == asked,
            _ => false,
        };
        if self.step.live.asked(link, same) {
            return;
        }
        if candidate.card.is_none() {
            self.step.request(link, Request::LookUp(handle), Pending::LookUp(asked));
        } else {
            self.step.request(link, Request::TakeKeyPackages(handle), Pending::TakeKeyPackages(asked));
        }
    }

    fn card_found(&mut self, from: &LinkId, asked: &Asked, answer: &CardAnswer) -> Result<(), Error> {
        let Some(relay) = self.step.live.identity_behind(from) else { return Ok(()) };
        let result = if answer.version == 0 {
            Err("the account has no contact card yet; it has to be online once".to_owned())
        } else {
            self.change_candidate(asked, |talk, candidate| talk.take_card(candidate, &relay, &answer.card))?
        };
        self.resolved(asked, result)
    }

    /// Takes the card that the directory of `relay` gave.
    fn take_card(
        &mut self,
        candidate: &mut Candidate,
        relay: &RelayIdentity,
        card: &[u8],
    ) -> Result<Result<(), String>, Error> {
        let expected = candidate.identity_key();
        let now = self.step.relay_now();
        let card = match UnverifiedCard::new(card).and_then(|card| card.verify(None, now)) {
            Ok(card) => card,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if card.handle().as_str() != candidate.handle || card.relay().identity != *relay {
            return Ok(Err("the relay gave the card of somebody else".to_owned()));
        }
        let person = PersonId::from(&card.identity());
        let known = match expected.filter(|expected| *expected != card.identity()) {
            Some(expected) => Some(PersonId::from(&expected)),
            None => match pin::pin(self.step.tx, relay, card.handle(), &person)? {
                Pinned::Other(known) => Some(known),
                Pinned::New | Pinned::Same => None,
            },
        };
        if let Some(known) = known {
            // Who it is can be compared, and then marked: that gives them the name.
            people::meet(self.step.tx, &card)?;
            let text = format!(
                "the relay names another key ({}) than the one that is known by this name ({}): write nothing \
                 secret before you have compared the safety number with them, and marked it",
                person.short(),
                people::known_key(self.step.tx, &known)?
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

    fn key_packages_taken(
        &mut self,
        from: &LinkId,
        asked: &Asked,
        packages: Vec<Offered>,
    ) -> Result<(), Error> {
        let Some(relay) = self.step.live.identity_behind(from) else { return Ok(()) };
        let packages: Vec<Vec<u8>> =
            packages.into_iter().map(|package| package.key_package.to_vec()).collect();
        let result =
            self.change_candidate(asked, |talk, candidate| talk.take_packages(candidate, &relay, packages))?;
        self.resolved(asked, result)
    }

    fn take_packages(
        &mut self,
        candidate: &mut Candidate,
        relay: &RelayIdentity,
        packages: Vec<Vec<u8>>,
    ) -> Result<Result<(), String>, Error> {
        let Some(identity) = candidate.identity_key() else {
            return Ok(Err("their identity is not known".to_owned()));
        };
        let devices = people::devices(self.step.tx, &identity)?;
        let now = self.step.relay_now();
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
                && credential.relay() == *relay
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
        let Some(candidate) = candidates.iter_mut().find(|candidate| asked.is_about(candidate)) else {
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
        // Nothing else may be to ask there.
        self.step.live.links_dirty |= asked.relay.is_some();
        let Err(reason) = result else { return Ok(()) };
        let Some(Intent::Add(mut candidates)) = get_intent(self.step.tx, asked.intent)? else {
            return Ok(());
        };
        let Some(at) = candidates.iter().position(|candidate| asked.is_about(candidate)) else {
            return Ok(());
        };
        let text = format!("{} cannot be added: {reason}", candidates.remove(at).name());
        if candidates.is_empty() || self.is_waited_for(asked.intent) {
            return self.intent_failed(asked.intent, Cause::CannotAdd, &text);
        }
        update_intent(self.step.tx, asked.intent, &Intent::Add(candidates))?;
        self.alarm(Cause::CannotAdd, None, text);
        Ok(())
    }

    fn look_up_refused(&mut self, from: &LinkId, asked: &Asked, refusal: &Refusal) -> Result<(), Error> {
        if is_passing(refusal) {
            self.step.hold_back(HeldBack::Directory(from.relay.clone()), refusal);
            self.step.live.links_dirty = true;
            self.step.wake_talk(self.id, self.step.now + u64::from(refusal.retry_after_ms).max(5_000));
            return Ok(());
        }
        self.resolved(asked, Err(refusal.message.clone()))
    }
}

impl Asked {
    fn is_about(&self, candidate: &Candidate) -> bool {
        candidate.is(&self.handle, self.relay.as_deref())
    }
}

/// Whom to ask about a candidate.
fn directory_of(candidate: &Candidate, account: &LinkId) -> LinkId {
    match candidate.elsewhere() {
        Some(relay) => LinkId { relay, link: Link::Directory },
        None => account.clone(),
    }
}

impl Step<'_> {
    pub(in crate::engine) fn card_found(
        &mut self,
        from: &LinkId,
        asked: &Asked,
        answer: &CardAnswer,
    ) -> Result<(), Error> {
        self.talk(&asked.conversation, |talk| talk.card_found(from, asked, answer)).map(drop)
    }

    pub(in crate::engine) fn key_packages_taken(
        &mut self,
        from: &LinkId,
        asked: &Asked,
        packages: Vec<Offered>,
    ) -> Result<(), Error> {
        self.talk(&asked.conversation, |talk| talk.key_packages_taken(from, asked, packages)).map(drop)
    }

    pub(in crate::engine) fn look_up_refused(
        &mut self,
        from: &LinkId,
        asked: &Asked,
        refusal: &Refusal,
    ) -> Result<(), Error> {
        self.talk(&asked.conversation, |talk| talk.look_up_refused(from, asked, refusal)).map(drop)
    }

    /// Whether the relay of this connection wants nothing to be asked of its directory for now.
    fn is_held_back(&self, directory: &LinkId) -> bool {
        self.live.held_back.contains_key(&HeldBack::Directory(directory.relay.clone()))
    }

    /// Whoever is still to be found out about, by the connection on which that is asked.
    fn unresolved(&mut self) -> Result<Vec<(LinkId, Asked)>, Error> {
        let account = self.own()?.link(Link::Account)?;
        let mut all = Vec::new();
        for conversation in Conversation::ids(self.tx)? {
            for (intent, wanted) in intents(self.tx, &conversation)? {
                let Intent::Add(candidates) = wanted else { continue };
                for candidate in candidates.into_iter().filter(|candidate| candidate.packages.is_empty()) {
                    let link = directory_of(&candidate, &account);
                    let Candidate { handle, relay, .. } = candidate;
                    all.push((link, Asked { conversation, intent, handle, relay }));
                }
            }
        }
        Ok(all)
    }

    /// The connections to directories elsewhere of which something is to be asked now.
    pub(in crate::engine) fn directories_asked(&mut self) -> Result<Vec<LinkId>, Error> {
        let links = self.unresolved()?.into_iter().map(|(link, _)| link);
        Ok(links.filter(|link| link.link == Link::Directory && !self.is_held_back(link)).collect())
    }

    /// A directory elsewhere cannot be asked: whoever is there is not added, so that the others wait no
    /// longer, and a wrong name is told. While our own relay cannot be reached either, it may be us.
    pub(in crate::engine) fn directory_unreachable(
        &mut self,
        link: &LinkId,
        reason: &str,
    ) -> Result<(), Error> {
        let account = self.own()?.link(Link::Account)?;
        if self.live.known(&account).is_none() {
            return Ok(());
        }
        for (_, asked) in self.unresolved()?.into_iter().filter(|(of, _)| of == link) {
            let why = Err(format!("{} cannot be reached ({reason})", link.relay));
            self.talk(&asked.conversation, |talk| talk.resolved(&asked, why))?;
        }
        self.forget_unproven_relay(&link.relay)
    }
}
