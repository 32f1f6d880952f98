//! What the person asks. Everything that has to last is durable before the answer; what takes others goes on
//! by itself.

use posthorn_proto::{MailboxId, ReadKey};

use super::account::OwnDevice;
use super::profile::{Contact as Known, Profile};
use super::reading::{Purpose, Reading};
use super::receive::name_among;
use super::{
    Answer, Command, CommandError, CommandId, Contact, ConversationSummary, EngineError, Event, Link,
    MemberSummary, Step, SyncState,
};
use crate::content::{ContentBody, TEXT_BYTES};
use crate::conversation::{
    Body, Candidate, Cause, Conversation, ConversationId, ConversationState, Intent, MessageId, NewMessage,
    history, intents, last_message, mark_read, newest_seq, put_intent, unread_count,
};
use crate::identity::{IdentityKey, safety_number};
use crate::outbox::{self, Parcel};
use crate::session::{GroupInfo, Member, NAME_BYTES, Provider, ReaderSecret, Session, SessionError};

/// An answer, or why not; or the database failed.
type Done = Result<Result<Answer, CommandError>, EngineError>;

/// Gives up with a command's error.
macro_rules! refuse {
    ($error:expr) => {
        return Ok(Err($error))
    };
}

/// The value, or the command's error.
macro_rules! granted {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => refuse!(error),
        }
    };
}

impl Step<'_> {
    pub(super) fn command(&mut self, id: CommandId, command: Command) -> Result<(), EngineError> {
        let done = match command {
            Command::Register { relay, handle, invite } => {
                return self.register(id, &relay, &handle, invite);
            }
            Command::Start { name, members } => return self.start(id, name, members),
            Command::Add { conversation, members } => return self.add(id, &conversation, members),
            Command::Remove { conversation, handle } => return self.remove(id, &conversation, &handle),
            Command::Account => Ok(Profile::load(self.tx)?.map(|profile| profile.summary()).transpose()?)
                .map(|account| Ok(Answer::Account(account))),
            Command::Send { conversation, text } => self.send(&conversation, text),
            Command::Leave(conversation) => self.leave(&conversation),
            Command::Conversations => self.conversations(),
            Command::Members(conversation) => self.members(&conversation),
            Command::History { conversation, before, limit } => self.history(&conversation, before, limit),
            Command::MarkRead(conversation) => self.mark_read(&conversation),
            Command::SafetyNumber(handle) => self.safety_number(&handle),
            Command::State => self.state(),
        }?;
        self.answer(id, done);
        Ok(())
    }

    fn register(
        &mut self,
        id: CommandId,
        relay: &crate::identity::RelayUrl,
        handle: &posthorn_proto::Handle,
        invite: String,
    ) -> Result<(), EngineError> {
        if let Some(mut profile) = Profile::load(self.tx)? {
            let same = profile.handle()? == *handle && profile.relay_url()? == *relay;
            if same && !profile.complete() {
                // The same registration, cut off before: it goes on.
                profile.invite = invite;
                profile.save(self.tx)?;
                self.live.registering = Some(id);
                return Ok(());
            }
            if profile.relay_identity.is_some() {
                let name = format!("{} at {}", profile.handle()?, profile.relay_url()?);
                self.answer(id, Err(CommandError::AccountExists(name)));
                return Ok(());
            }
            // No relay has ever answered, so none knows of it: what was mistyped is put right.
            self.forget_registration(&profile)?;
        }
        let profile = Profile::generate(relay, handle, invite, self.rng);
        profile.save(self.tx)?;
        self.live.registering = Some(id);
        self.live.want_links(&profile, self.now)?;
        self.progress_links();
        Ok(())
    }

    /// The group is made at once; its mailbox and its members follow when the relay is there.
    fn start(&mut self, id: CommandId, name: String, members: Vec<Contact>) -> Result<(), EngineError> {
        match self.prepare_start(name, members)? {
            Err(error) => self.answer(id, Err(error)),
            Ok((conversation, row)) => {
                self.live.asked.insert(row, id);
                self.live.starting.insert(id, conversation);
            }
        }
        Ok(())
    }

    fn prepare_start(
        &mut self,
        name: String,
        members: Vec<Contact>,
    ) -> Result<Result<(ConversationId, i64), CommandError>, EngineError> {
        let Some(profile) = Profile::load(self.tx)? else { refuse!(CommandError::NoAccount) };
        if !profile.registered {
            refuse!(CommandError::NoAccount);
        }
        if name.len() > NAME_BYTES {
            refuse!(CommandError::BadName { limit: NAME_BYTES });
        }
        let candidates = granted!(self.candidates(&profile, members)?);
        let relay = profile.relay()?;
        let (conversation, mailbox) = (ConversationId::random(self.rng), MailboxId::random(self.rng));
        let info = GroupInfo {
            relay: relay.clone(),
            mailbox,
            reader_secret: ReaderSecret::generate(self.rng),
            name,
        };
        let own = OwnDevice::of(&profile)?;
        let provider = Provider::new(self.tx);
        let session = Session::create(&provider, &own.leaf(), conversation, &info)?;
        let reader = info.reader_secret.reader_id(&profile.device().signature_key());
        let mut record = Conversation::new(&relay, mailbox, ConversationState::Creating);
        self.note_members(&session, &mut record)?;
        record.save(self.tx, &conversation)?;
        let read_key = ReadKey::random(self.rng);
        let mut reading =
            Reading::new(Purpose::Conversation(conversation), relay.url.as_str(), reader, &read_key);
        // Nothing to open before the relay has it.
        reading.stopped = Some(Cause::MailboxGone);
        reading.save(self.tx, &mailbox)?;
        let row = put_intent(self.tx, &conversation, &Intent::Add(candidates))?;
        self.live.dirty.insert(conversation);
        self.event(Event::Conversation { conversation });
        Ok(Ok((conversation, row)))
    }

    fn add(
        &mut self,
        id: CommandId,
        conversation: &ConversationId,
        members: Vec<Contact>,
    ) -> Result<(), EngineError> {
        let Some(profile) = Profile::load(self.tx)? else {
            self.answer(id, Err(CommandError::NoAccount));
            return Ok(());
        };
        let wanted = match self.active(conversation)? {
            Ok(_) => self.candidates(&profile, members)?,
            Err(error) => Err(error),
        };
        self.want(id, conversation, wanted.map(Intent::Add))
    }

    fn remove(
        &mut self,
        id: CommandId,
        conversation: &ConversationId,
        handle: &str,
    ) -> Result<(), EngineError> {
        let wanted = self.removal(conversation, handle)?;
        self.want(id, conversation, wanted)
    }

    fn removal(
        &mut self,
        conversation: &ConversationId,
        handle: &str,
    ) -> Result<Result<Intent, CommandError>, EngineError> {
        granted!(self.active(conversation)?);
        let provider = Provider::new(self.tx);
        let session = Session::load(&provider, conversation)?;
        let members = session.members()?;
        // By the handle if only one identity claims it, else by the longer name that the list of members
        // shows.
        let is_meant = |m: &&Member| {
            m.credential.handle().as_str() == handle || name_among(&members, m).as_str() == handle
        };
        let mut meant = members.iter().filter(is_meant);
        let Some(identity) = meant.next().map(|member| member.credential.identity()) else {
            refuse!(CommandError::UnknownPerson(handle.to_owned()));
        };
        if meant.any(|other| other.credential.identity() != identity) {
            refuse!(CommandError::Failed {
                cause: "AMBIGUOUS",
                reason: format!(
                    "several members claim the handle {handle}: name one as the list of members shows it"
                ),
            });
        }
        if Profile::load(self.tx)?.is_some_and(|profile| profile.identity().key() == identity) {
            refuse!(CommandError::Yourself);
        }
        Ok(Ok(Intent::Remove { identity: *identity.as_bytes(), not_before: 0 }))
    }

    /// Keeps an intent, and who waits for it.
    fn want(
        &mut self,
        id: CommandId,
        conversation: &ConversationId,
        wanted: Result<Intent, CommandError>,
    ) -> Result<(), EngineError> {
        match wanted {
            Ok(intent) => {
                let row = put_intent(self.tx, conversation, &intent)?;
                self.live.asked.insert(row, id);
                self.live.dirty.insert(*conversation);
            }
            Err(error) => self.answer(id, Err(error)),
        }
        Ok(())
    }

    fn send(&mut self, conversation: &ConversationId, text: String) -> Done {
        if text.is_empty() || text.len() > TEXT_BYTES {
            let problem = format!("a text has 1 to {TEXT_BYTES} bytes, this one has {}", text.len());
            refuse!(CommandError::BadText(problem));
        }
        let record = granted!(self.active(conversation)?);
        let Some(profile) = Profile::load(self.tx)? else { refuse!(CommandError::NoAccount) };
        let message = MessageId::random(self.rng);
        self.insert(
            conversation,
            NewMessage {
                id: message,
                sender_key: profile.identity().key().as_bytes(),
                sender: profile.handle()?.to_string(),
                mine: true,
                body: Body::Text(text.clone()),
                sent_at: self.now,
                seq: None,
                unread: false,
            },
        )?;
        let body = ContentBody::Text(text);
        outbox::put(
            self.tx,
            &record.mailbox,
            &Parcel::Message { message, sent_at: self.now, body, sealed: None },
        )?;
        self.live.dirty.insert(*conversation);
        Ok(Ok(Answer::Queued(message)))
    }

    fn leave(&mut self, conversation: &ConversationId) -> Done {
        let mut record = granted!(self.active(conversation)?);
        if record.state == ConversationState::Creating {
            // Nobody else has seen it.
            record.state = ConversationState::Left;
            record.save(self.tx, conversation)?;
            self.abandon_intents(conversation, &mut record)?;
            self.abandon_parcels(conversation, &record.mailbox, Cause::Removed)?;
        } else {
            record.state = ConversationState::Leaving;
            record.save(self.tx, conversation)?;
            let message = MessageId::random(self.rng);
            let parcel =
                Parcel::Message { message, sent_at: self.now, body: ContentBody::Leave, sealed: None };
            outbox::put(self.tx, &record.mailbox, &parcel)?;
            self.live.dirty.insert(*conversation);
        }
        self.event(Event::Conversation { conversation: *conversation });
        Ok(Ok(Answer::Done))
    }

    fn conversations(&mut self) -> Done {
        let mut list = Vec::new();
        for (id, record) in Conversation::all(self.tx)? {
            list.push(ConversationSummary {
                id,
                unread: unread_count(self.tx, &id)?,
                last: last_message(self.tx, &id, &record.everyone)?,
                name: record.name,
                members: record.members,
                state: record.state,
                epoch: record.epoch,
            });
        }
        list.sort_by_key(|summary| std::cmp::Reverse(summary.last.as_ref().map(|last| last.row)));
        Ok(Ok(Answer::Conversations(list)))
    }

    fn members(&mut self, conversation: &ConversationId) -> Done {
        if Conversation::load(self.tx, conversation)?.is_none() {
            refuse!(CommandError::UnknownConversation);
        }
        let own = Profile::load(self.tx)?.map(|profile| profile.identity().key());
        let provider = Provider::new(self.tx);
        let members = match Session::load(&provider, conversation) {
            // It is over for us, and who is in it now is not ours to know.
            Err(SessionError::Unknown) => Vec::new(),
            session => session?.members()?,
        };
        let summary = |member: &crate::session::Member| MemberSummary {
            handle: member.credential.handle().to_string(),
            identity_key: *member.credential.identity().as_bytes(),
            device: member.credential.device().0,
            me: Some(member.credential.identity()) == own,
        };
        Ok(Ok(Answer::Members(members.iter().map(summary).collect())))
    }

    fn history(&mut self, conversation: &ConversationId, before: Option<u64>, limit: usize) -> Done {
        let Some(record) = Conversation::load(self.tx, conversation)? else {
            refuse!(CommandError::UnknownConversation);
        };
        Ok(Ok(Answer::History(history(self.tx, conversation, before, limit, &record.everyone)?)))
    }

    fn mark_read(&mut self, conversation: &ConversationId) -> Done {
        let Some(mut record) = Conversation::load(self.tx, conversation)? else {
            refuse!(CommandError::UnknownConversation);
        };
        if mark_read(self.tx, conversation)? {
            record.read = newest_seq(self.tx, conversation)?.max(record.read);
            if record.state == ConversationState::Active && record.receipt_due == 0 {
                record.receipt_due = self.now;
            }
            record.save(self.tx, conversation)?;
            self.live.dirty.insert(*conversation);
            self.event(Event::Conversation { conversation: *conversation });
        }
        Ok(Ok(Answer::Done))
    }

    fn safety_number(&mut self, handle: &str) -> Done {
        let Some(profile) = Profile::load(self.tx)? else { refuse!(CommandError::NoAccount) };
        let own = profile.identity().key();
        let met = Known::all(self.tx)?;
        let mut found =
            met.iter().filter(|contact| contact.handle == handle && contact.identity != *own.as_bytes());
        let Some(contact) = found.next() else { refuse!(CommandError::UnknownPerson(handle.to_owned())) };
        if found.next().is_some() {
            refuse!(CommandError::Failed {
                cause: "AMBIGUOUS",
                reason: format!(
                    "several identities call themselves {handle}: somebody may be posing as them"
                ),
            });
        }
        match IdentityKey::try_from(&contact.identity[..]) {
            Ok(theirs) => Ok(Ok(Answer::SafetyNumber(safety_number(&own, &theirs)))),
            Err(_) => Ok(Err(CommandError::UnknownPerson(handle.to_owned()))),
        }
    }

    fn state(&mut self) -> Done {
        let Some(profile) = Profile::load(self.tx)? else {
            return Ok(Ok(Answer::State(SyncState::default())));
        };
        let links = [profile.link(Link::Account)?, profile.link(Link::Mailboxes)?];
        let connected = links.iter().all(|link| self.live.ready(link, self.now).is_some());
        let mut caught_up = connected;
        for (mailbox, reading) in Reading::all(self.tx)? {
            let open = self
                .live
                .links
                .values()
                .filter_map(|link| link.up())
                .find_map(|up| up.openings.get(&mailbox));
            caught_up &= reading.stopped.is_some() || open.is_some_and(|opening| opening.caught_up);
        }
        let outbox: i64 = self.tx.sql().query_row("SELECT COUNT(*) FROM outbox", [], |row| row.get(0))?;
        let mut wanted = 0;
        for (id, record) in Conversation::all(self.tx)? {
            let due =
                intents(self.tx, &id)?.iter().filter(|(_, intent)| intent.not_before() <= self.now).count();
            wanted += due as u64 + u64::from(record.state == ConversationState::Creating);
        }
        let registered = profile.complete();
        Ok(Ok(Answer::State(SyncState {
            connected,
            caught_up,
            outbox: outbox as u64,
            intents: wanted,
            registered,
        })))
    }

    /// The people to be added, each once.
    fn candidates(
        &self,
        profile: &Profile,
        members: Vec<Contact>,
    ) -> Result<Result<Vec<Candidate>, CommandError>, EngineError> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for contact in members {
            let (handle, identity) = match contact {
                // Whom the relay named once is who is meant.
                Contact::Handle(handle) => {
                    let known = Known::known_as(self.tx, &handle)?;
                    (handle, known)
                }
                Contact::Link(link) if link.relay != profile.relay_url()? => {
                    let (handle, relay) = (link.handle.to_string(), link.relay.to_string());
                    refuse!(CommandError::OtherRelay { handle, relay });
                }
                Contact::Link(link) => (link.handle, Some(*link.identity.as_bytes())),
            };
            if handle == profile.handle()? {
                refuse!(CommandError::Yourself);
            }
            if !candidates.iter().any(|known| known.handle == handle.as_str()) {
                let handle = handle.to_string();
                candidates.push(Candidate { handle, identity, card: None, packages: Vec::new() });
            }
        }
        if candidates.is_empty() {
            refuse!(CommandError::Nobody);
        }
        Ok(Ok(candidates))
    }

    /// The conversation, if it takes messages and changes.
    fn active(&self, id: &ConversationId) -> Result<Result<Conversation, CommandError>, EngineError> {
        Ok(match Conversation::load(self.tx, id)? {
            None => Err(CommandError::UnknownConversation),
            Some(record) => match record.state {
                ConversationState::Creating | ConversationState::Active => Ok(record),
                ConversationState::Leaving | ConversationState::Left => {
                    Err(CommandError::NotActive("you left it"))
                }
                ConversationState::Removed => Err(CommandError::NotActive("you were removed")),
                ConversationState::Stopped(cause) => Err(CommandError::NotActive(cause.name())),
            },
        })
    }
}
