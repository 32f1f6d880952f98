//! What the person asks. Everything that has to last is durable before the answer; what takes others goes on
//! by itself.

use super::live::Waiter;
use super::{Command, Error, Event, Reply, Step, Who};
use crate::content::{Class, Said};
use crate::conversation::{Conversation, ConversationId, Intent, MessageId, NewEntry, history};
use crate::engine::people;
use crate::identity::{IdentityKey, PersonId, SafetyNumber, safety_number};

impl Step<'_> {
    pub(super) fn command(&mut self, command: Command) -> Result<(), Error> {
        if command.wants_the_relay() {
            self.live.hurry();
        }
        match command {
            Command::Register { relay, handle, invite, reply } => {
                self.register(&relay, &handle, invite, reply)
            }
            Command::Start { id, name, members, again, reply } => self.start(id, name, members, again, reply),
            Command::Add { conversation, members, reply } => self.add(&conversation, members, reply),
            Command::Remove { conversation, person, reply } => self.remove(&conversation, &person, reply),
            Command::Move { conversation, relay, reply } => {
                self.move_to(&conversation, relay.as_ref(), reply)
            }
            Command::RemoveAccount(reply) => self.remove_account(reply),
            Command::Account(reply) => self.reply(reply, Self::account_summary),
            Command::Consent(consent, reply) => {
                self.live.promised.consent = consent;
                self.answer(reply, Ok(()));
                Ok(())
            }
            Command::Send { conversation, id, said, reply } => {
                self.reply(reply, |step| step.send(&conversation, id, said))
            }
            Command::Leave(id, reply) => self.reply(reply, |step| step.talk_known(&id, |talk| talk.leave())),
            Command::Accept { conversation, foreign_relay, reply } => {
                let done = self.attempt(|step| step.accept(&conversation, foreign_relay))?;
                self.answer(reply, done.flatten());
                Ok(())
            }
            Command::Forget(id, reply) => {
                self.reply(reply, |step| step.talk_known(&id, |talk| talk.forget_what_is_over()))
            }
            Command::Archive { conversation, archived, reply } => {
                self.reply(reply, |step| step.talk_known(&conversation, |talk| talk.archive(archived)))
            }
            Command::Block { person, blocked, reply } => {
                self.reply(reply, |step| step.block(&person, blocked))
            }
            Command::Verify { person, verified, reply } => {
                self.reply(reply, |step| step.verify(&person, verified))
            }
            Command::Conversations(reply) => self.reply(reply, Self::conversations),
            Command::Members(id, reply) => self.reply(reply, |step| step.members(&id)),
            Command::People(reply) => self.reply(reply, |step| {
                let own = step.own()?;
                people::all(step.tx, &own)
            }),
            Command::History { conversation, page, reply } => {
                self.reply(reply, |step| step.history(&conversation, page))
            }
            Command::MarkRead { conversation, up_to, reply } => {
                self.reply(reply, |step| step.talk_known(&conversation, |talk| talk.mark_read(up_to)))
            }
            Command::SafetyNumber(person, reply) => self.reply(reply, |step| step.safety_number(&person)),
            Command::Relays(reply) => self.reply(reply, Self::relays),
            Command::UseRelay(relay, reply) => self.reply(reply, |step| step.use_relay(&relay, None, true)),
            Command::Route { relay, route, reply } => self.reply(reply, |step| step.set_route(&relay, route)),
            Command::State(reply) => self.reply(reply, Self::state),
        }
    }

    /// Does what is answered at once: all of it, or nothing.
    fn reply<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<(), Error> {
        let result = self.attempt(work)?;
        self.answer(reply, result);
        Ok(())
    }

    fn send(
        &mut self,
        conversation: &ConversationId,
        id: Option<MessageId>,
        said: Said,
    ) -> Result<MessageId, Error> {
        let own = self.own()?;
        let (author, handle) = (own.author()?, own.profile.handle()?.to_string());
        self.talk_known(conversation, |talk| {
            if let Some(id) = id
                && let Some(known) = history::said(talk.step.tx, &talk.id, &own.person, &id)?
            {
                // Said before, by a caller that did not hear the answer.
                return if known == said { Ok(id) } else { Err(Error::IdTaken) };
            }
            talk.takes_messages()?;
            let id = id.unwrap_or_else(|| MessageId::random(talk.step.rng));
            let sent_at = talk.step.now;
            if said.class() != Class::Quiet {
                let said = said.clone();
                talk.insert(&NewEntry {
                    id,
                    author,
                    handle,
                    mine: true,
                    said,
                    sent_at,
                    place: None,
                    unread: false,
                })?;
            }
            talk.say(id, said)?;
            Ok(id)
        })
    }

    fn add(
        &mut self,
        conversation: &ConversationId,
        members: Vec<Who>,
        reply: Reply<()>,
    ) -> Result<(), Error> {
        let wanted = self.attempt(|step| {
            step.talk_known(conversation, |talk| talk.takes_changes())?;
            Ok(Intent::Add(step.candidates(members)?))
        })?;
        self.wish(conversation, wanted, reply)
    }

    fn remove(
        &mut self,
        conversation: &ConversationId,
        person: &PersonId,
        reply: Reply<()>,
    ) -> Result<(), Error> {
        let wanted = self.attempt(|step| {
            if step.own()?.person == *person {
                return Err(Error::Yourself);
            }
            step.talk_known(conversation, |talk| {
                talk.takes_changes()?;
                talk.wish_to_remove(person)
            })
        })?;
        self.wish(conversation, wanted, reply)
    }

    /// Answers when a wish has come true, or that there is none.
    pub(super) fn wish(
        &mut self,
        conversation: &ConversationId,
        wanted: Result<Intent, Error>,
        reply: Reply<()>,
    ) -> Result<(), Error> {
        match wanted {
            Ok(intent) => self.talk_known(conversation, |talk| talk.wish(&intent, Waiter::Done(reply))),
            Err(error) => {
                self.answer(reply, Err(error));
                Ok(())
            }
        }
    }

    fn block(&mut self, person: &PersonId, blocked: bool) -> Result<(), Error> {
        people::block(self.tx, person, blocked)?;
        if blocked {
            // What they invited us to goes with them.
            self.flush()?;
            for (id, record) in Conversation::all(self.tx)? {
                if record.is_invited_by(person) {
                    self.talk_known(&id, |talk| talk.forget())?;
                    self.event(Event::Conversation { conversation: id });
                }
            }
        }
        Ok(())
    }

    fn verify(&mut self, person: &PersonId, verified: bool) -> Result<(), Error> {
        self.known_person(person)?;
        people::verify(self.tx, person, verified)?;
        // What a name stands on is shown with every conversation that they are in.
        self.flush()?;
        for (id, record) in Conversation::all(self.tx)? {
            if record.members.iter().any(|member| member.person == *person) {
                self.event(Event::Conversation { conversation: id });
            }
        }
        Ok(())
    }

    fn safety_number(&mut self, person: &PersonId) -> Result<SafetyNumber, Error> {
        let own = self.own()?;
        if own.person == *person {
            return Err(Error::Yourself);
        }
        self.known_person(person)?;
        let theirs = IdentityKey::try_from(&person.0[..]);
        let theirs = theirs.map_err(|_| Error::UnknownPerson(person.to_string()))?;
        Ok(safety_number(&own.key, &theirs))
    }
}
