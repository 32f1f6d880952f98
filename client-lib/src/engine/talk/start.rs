//! Beginning a conversation of our own: the group is made at once; its mailbox and its members follow when
//! the relay is there.

use posthorn_proto::{MailboxId, ReadKey};

use super::Talk;
use crate::conversation::{
    Candidate, Conversation, ConversationId, ConversationState, GroupId, Intent, put_intent,
};
use crate::engine::live::Waiter;
use crate::engine::mailbox::reading::{Pause, Purpose, Reading};
use crate::engine::people;
use crate::engine::{Error, Reply, Step, Who};
use crate::group::{About, Group, GroupInfo, NAME_BYTES, Place, Provider, RULES, ReaderSecret};
use crate::identity::PersonId;
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
        record.leaf_since = now;
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
            Intent::Add(wanted) => matches!(&wanted[..], [only] if only.handle == one.handle),
            _ => false,
        };
        for (id, record) in Conversation::all(self.tx)? {
            let is_open = matches!(record.state, ConversationState::Creating | ConversationState::Active);
            if !is_open || !record.name.is_empty() {
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
        let relay = own.relay()?.clone();
        let mut candidates: Vec<Candidate> = Vec::new();
        for who in members {
            let (handle, person) = match who {
                // Whom the relay named once is who is meant.
                Who::Handle(handle) => {
                    let known = pin::pinned(self.tx, &relay.identity, &handle)?;
                    (handle.to_string(), known)
                }
                Who::Person(person) => {
                    let contact = people::load(self.tx, &person)?;
                    let contact = contact.ok_or_else(|| Error::UnknownPerson(person.to_string()))?;
                    if contact.relay != Some(relay.identity) {
                        let (handle, relay) = (contact.handle, "another relay".to_owned());
                        return Err(Error::OtherRelay { handle, relay });
                    }
                    (contact.handle, Some(person))
                }
                Who::Link(link) if link.relay != relay.url => {
                    let (handle, relay) = (link.handle.to_string(), link.relay.to_string());
                    return Err(Error::OtherRelay { handle, relay });
                }
                Who::Link(link) => {
                    let (handle, person) = (&link.handle, PersonId::from(&link.identity));
                    // A link is compared by people, so that its word stands, unless another came first.
                    if let Pinned::Other(known) = pin::pin(self.tx, &relay.identity, handle, &person)? {
                        let reason = format!(
                            "the link names another key ({}) than the one that is known as {handle} ({})",
                            person.short(),
                            known.short()
                        );
                        return Err(Error::Failed { cause: "NAME_TWICE", reason });
                    }
                    (handle.to_string(), Some(person))
                }
            };
            if handle == own.profile.handle()?.as_str() || person == Some(own.person) {
                return Err(Error::Yourself);
            }
            if !candidates.iter().any(|known| known.handle == handle) {
                candidates.push(Candidate { handle, person, card: None, packages: Vec::new() });
            }
        }
        if candidates.is_empty() { Err(Error::Nobody) } else { Ok(candidates) }
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
