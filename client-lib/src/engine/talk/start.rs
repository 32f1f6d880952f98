//! Beginning a conversation of our own: the group is made at once; its mailbox and its members follow when
//! the relay is there.

use posthorn_proto::{Handle, MailboxId, ReadKey};

use super::Talk;
use crate::conversation::{
    Candidate, Conversation, ConversationId, ConversationState, GroupId, Intent, put_intent,
};
use crate::engine::link::known;
use crate::engine::live::Waiter;
use crate::engine::mailbox::reading::{Pause, Purpose, Reading};
use crate::engine::people;
use crate::engine::{Error, Reply, Step, Who};
use crate::group::{About, Group, GroupInfo, NAME_BYTES, Place, Provider, RULES, ReaderSecret};
use crate::identity::{ContactLink, PersonId, RelayUrl};
use crate::people::pin::{self, Pinned};

/// What starting came to.
enum Begun {
    /// It is there already, and stands.
    Stands(ConversationId),
    /// It goes on when this intent has come true.
    Waits(ConversationId, i64),
}

impl Step<'_> {
    pub(in crate::engine) fn start(
        &mut self,
        id: Option<ConversationId>,
        name: String,
        members: Vec<Who>,
        again: bool,
        reply: Reply<ConversationId>,
    ) -> Result<(), Error> {
        match self.attempt(|step| step.begin(id, name, members, again))? {
            Err(error) => self.answer(reply, Err(error)),
            Ok(Begun::Stands(conversation)) => self.answer(reply, Ok(conversation)),
            Ok(Begun::Waits(conversation, row)) => {
                let waiter = Waiter::Started(conversation, reply);
                self.live.promised.waiters.entry(row).or_default().push(waiter);
            }
        }
        Ok(())
    }

    fn begin(
        &mut self,
        id: Option<ConversationId>,
        name: String,
        members: Vec<Who>,
        again: bool,
    ) -> Result<Begun, Error> {
        let own = self.own()?;
        if !own.profile.registered {
            return Err(Error::NoAccount);
        }
        if name.len() > NAME_BYTES {
            return Err(Error::BadName { limit: NAME_BYTES });
        }
        if let Some(id) = id
            && let Some(begun) = self.talk(&id, |talk| match talk.record().inviter {
                None => talk.begun_before(),
                Some(_) => Err(Error::IdTaken),
            })?
        {
            return Ok(begun);
        }
        let candidates = self.candidates(members)?;
        if let Some(known) = self.talk_with(&name, &candidates)?.filter(|_| !again) {
            return Ok(known);
        }
        let id = id.unwrap_or_else(|| ConversationId::random(self.rng));
        self.make(id, name, candidates)
    }

    fn make(&mut self, id: ConversationId, name: String, candidates: Vec<Candidate>) -> Result<Begun, Error> {
        let own = self.own()?;
        let (relay, now) = (own.relay()?.clone(), self.now);
        let place = Place {
            number: 1,
            relay: relay.clone(),
            mailbox: MailboxId::random(self.rng),
            reader_secret: ReaderSecret::generate(self.rng),
        };
        let reader = place.reader_secret.reader_id(&own.device()?.signature_key());
        let info = GroupInfo { rules: RULES, place, about: About { name }, others: Vec::new() };
        let (mailbox, group) = (info.place.mailbox, GroupId::random(self.rng));
        let leaf = own.leaf()?;
        let provider = Provider::new(self.tx, Some(id));
        Group::create(&provider, &leaf, group, &info)?;
        let mut record = Conversation::new(group, &relay, mailbox, ConversationState::Creating);
        (record.came, record.leaf_since) = (now, now);
        let read_key = ReadKey::random(self.rng);
        let mut reading = Reading::new(Purpose::Conversation(id), relay.url.as_str(), reader, &read_key);
        reading.pause = Some(Pause::NotMade);
        self.begin_talk(id, record, |talk| {
            talk.set_reading(reading);
            talk.note_members()?;
            let row = put_intent(talk.step.tx, &talk.id, &Intent::Add(candidates))?;
            talk.look_again();
            talk.tell();
            Ok(Begun::Waits(talk.id, row))
        })
    }

    /// A conversation without a name that we have with this one person already, or have begun with whoever
    /// has this handle: a second would only be in the way.
    fn talk_with(&mut self, name: &str, candidates: &[Candidate]) -> Result<Option<Begun>, Error> {
        let ([one], "") = (candidates, name) else { return Ok(None) };
        self.flush()?;
        let is_it = |intent: &Intent| match intent {
            Intent::Add(wanted) => {
                matches!(&wanted[..], [only] if only.is(&one.handle, one.relay.as_deref()))
            }
            _ => false,
        };
        for (id, record) in Conversation::all(self.tx)? {
            // One that is suspended goes on with what is said in it now.
            let goes_on = record.state.takes_messages() && !record.is_leaving();
            if !goes_on || !record.name.is_empty() {
                continue;
            }
            let is_with_them = match record.members.len() {
                1 => crate::conversation::intents(self.tx, &id)?.iter().any(|(_, intent)| is_it(intent)),
                2 => record.members.iter().any(|who| Some(who.person) == one.person),
                _ => false,
            };
            if is_with_them {
                return self.talk(&id, |talk| talk.begun_before());
            }
        }
        Ok(None)
    }

    /// The people to be added, each once.
    pub(in crate::engine) fn candidates(&mut self, members: Vec<Who>) -> Result<Vec<Candidate>, Error> {
        let own = self.own()?;
        let mut candidates: Vec<Candidate> = Vec::new();
        for who in members {
            let candidate = match who {
                Who::Handle(handle) => self.by_handle(&handle, None)?,
                Who::Elsewhere(handle, relay) => self.by_handle(&handle, Some(relay))?,
                Who::Person(person) => self.by_identity(&person)?,
                Who::Link(link) => self.by_link(&link)?,
            };
            let is_own_name = candidate.is(own.profile.handle()?.as_str(), None);
            if is_own_name || candidate.person == Some(own.person) {
                return Err(Error::Yourself);
            }
            if !candidates.iter().any(|known| known.is(&candidate.handle, candidate.relay.as_deref())) {
                candidates.push(candidate);
            }
        }
        if candidates.is_empty() { Err(Error::Nobody) } else { Ok(candidates) }
    }

    /// Whom the relay named once is who is meant.
    fn by_handle(&mut self, handle: &Handle, relay: Option<RelayUrl>) -> Result<Candidate, Error> {
        let relay = self.other_relay(relay)?;
        let identity = match &relay {
            None => Some(self.own()?.relay()?.identity),
            Some(relay) => self.identity_at(relay)?,
        };
        let known = identity.map(|identity| pin::pinned(self.tx, &identity, handle)).transpose()?;
        Ok(Candidate::new(handle.to_string(), relay.as_ref(), known.flatten()))
    }

    /// Somebody who was met: at the relay that their card names, unless that is known by another address.
    fn by_identity(&mut self, person: &PersonId) -> Result<Candidate, Error> {
        let unknown = || Error::UnknownPerson(person.to_string());
        let contact = people::load(self.tx, person)?.ok_or_else(unknown)?;
        let identity = contact.relay.ok_or_else(unknown)?;
        let on_card = contact.address().filter(|relay| relay.identity == identity);
        let Some(relay) = self.address_in_use(&identity)?.or(on_card) else {
            let relay = data_encoding::HEXLOWER.encode(&identity.0[..8]);
            return Err(Error::OtherRelay { handle: contact.handle, relay });
        };
        let relay = self.other_relay(Some(relay.url))?;
        Ok(Candidate::new(contact.handle, relay.as_ref(), Some(*person)))
    }

    /// A link is compared by people, so that its word stands, unless another came first.
    fn by_link(&mut self, link: &ContactLink) -> Result<Candidate, Error> {
        let relay = self.other_relay(Some(link.relay.clone()))?;
        let (handle, person) = (&link.handle, PersonId::from(&link.identity));
        let identity = match &relay {
            None => Some(self.own()?.relay()?.identity),
            // Of a relay that was never spoken to, the card says it.
            Some(relay) => self.identity_at(relay)?,
        };
        if let Some(identity) = identity
            && let Pinned::Other(known) = pin::pin(self.tx, &identity, handle, &person)?
        {
            let reason = format!(
                "the link names another key ({}) than the one that is known as {handle} ({})",
                person.short(),
                people::known_key(self.tx, &known)?
            );
            return Err(Error::Failed { cause: "NAME_TWICE", reason });
        }
        Ok(Candidate::new(handle.to_string(), relay.as_ref(), Some(person)))
    }

    /// A relay that the person named somebody at, unless it is our own: it is in use from now on. One that is
    /// known keeps its address, however its host was written.
    fn other_relay(&mut self, relay: Option<RelayUrl>) -> Result<Option<RelayUrl>, Error> {
        let own = self.own()?.relay()?.url.clone();
        let Some(relay) = relay.filter(|relay| relay.host() != own.host()) else { return Ok(None) };
        let relay = known::url_at(self.tx, relay.host())?.unwrap_or(relay);
        self.use_relay(&relay, None, false)?;
        Ok(Some(relay))
    }
}

impl Talk<'_, '_> {
    /// What an earlier start of this conversation has come to.
    fn begun_before(&mut self) -> Result<Begun, Error> {
        let wanted = crate::conversation::intents(self.step.tx, &self.id)?;
        let adding = wanted.iter().find(|(_, intent)| matches!(intent, Intent::Add(_)));
        Ok(match adding {
            Some((row, _)) if self.record().epoch == 0 => Begun::Waits(self.id, *row),
            _ => Begun::Stands(self.id),
        })
    }
}
