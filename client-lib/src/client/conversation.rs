//! A handle for one conversation.

use super::Client;
use crate::content::{Reaction, Said, SaidError, Target, Text};
use crate::conversation::{ConversationId, Entry, MessageId};
use crate::engine::{Command, ConversationSummary, Error, MemberSummary, Page, Who};
use crate::identity::{PersonId, RelayUrl};

/// A conversation of this client. Holding it costs nothing.
#[derive(Clone, Debug)]
pub struct Conversation {
    client: Client,
    id: ConversationId,
}

impl From<SaidError> for Error {
    fn from(error: SaidError) -> Self {
        Self::BadContent(error.to_string())
    }
}

impl Conversation {
    pub(super) fn new(client: Client, id: ConversationId) -> Self {
        Self { client, id }
    }

    /// Its id on this device.
    pub fn id(&self) -> ConversationId {
        self.id
    }

    /// How it stands. Errors: [`Error::UnknownConversation`].
    pub async fn summary(&self) -> Result<ConversationSummary, Error> {
        let all = self.client.conversations().await?;
        all.into_iter().find(|summary| summary.id == self.id).ok_or(Error::UnknownConversation)
    }

    /// Queues a text, durably (C2).
    pub async fn send_text(&self, text: &str) -> Result<MessageId, Error> {
        self.send(Said::new(Text::new(text))?).await
    }

    /// Queues anything that can be said, durably (C2).
    pub async fn send(&self, said: Said) -> Result<MessageId, Error> {
        self.send_as(None, said).await
    }

    /// Likewise, under an id of the caller's choice, so that the call can be repeated after a crash.
    pub async fn send_as(&self, id: Option<MessageId>, said: Said) -> Result<MessageId, Error> {
        let conversation = self.id;
        self.client.ask(|reply| Command::Send { conversation, id, said, reply }).await
    }

    /// A sign beside an entry, in place of an earlier one of ours; "" takes it back.
    pub async fn react(&self, target: Target, emoji: &str) -> Result<MessageId, Error> {
        self.send(Said::change(Reaction::new(emoji), target)?).await
    }

    /// A page of the history, oldest first.
    pub async fn history(&self, page: Page) -> Result<Vec<Entry>, Error> {
        let conversation = self.id;
        self.client.ask(|reply| Command::History { conversation, page, reply }).await
    }

    /// Everything was seen, or everything up to a row.
    pub async fn mark_read(&self, up_to: Option<u64>) -> Result<(), Error> {
        let conversation = self.id;
        self.client.ask(|reply| Command::MarkRead { conversation, up_to, reply }).await
    }

    /// The members' devices.
    pub async fn members(&self) -> Result<Vec<MemberSummary>, Error> {
        self.client.ask(|reply| Command::Members(self.id, reply)).await
    }

    /// Adds people; answers when they are members.
    pub async fn add(&self, members: Vec<Who>) -> Result<(), Error> {
        let conversation = self.id;
        self.client.ask(|reply| Command::Add { conversation, members, reply }).await
    }

    /// Removes a person; answers when they are not a member any more.
    pub async fn remove(&self, person: PersonId) -> Result<(), Error> {
        let conversation = self.id;
        self.client.ask(|reply| Command::Remove { conversation, person, reply }).await
    }

    /// Goes on in a fresh mailbox of this account's relay; answers when everybody who reads on will follow
    /// there. `relay` says which one that is meant to be. Errors: [`Error::Failed`] with `OTHER_RELAY` where
    /// there is no account, `TOO_MANY` after a few in a day, `OVERTAKEN`.
    pub async fn move_to(&self, relay: Option<RelayUrl>) -> Result<(), Error> {
        let conversation = self.id;
        self.client.ask(|reply| Command::Move { conversation, relay, reply }).await
    }

    /// Leaves; the others see it when the relay can be reached.
    pub async fn leave(&self) -> Result<(), Error> {
        self.client.ask(|reply| Command::Leave(self.id, reply)).await
    }

    /// Puts it away, or takes it out again; what is new in it takes it out, too.
    pub async fn archive(&self, archived: bool) -> Result<(), Error> {
        let conversation = self.id;
        self.client.ask(|reply| Command::Archive { conversation, archived, reply }).await
    }

    /// Follows an invitation (rule 25); `foreign_relay` also to a relay that this device does not use yet.
    pub async fn accept(&self, foreign_relay: bool) -> Result<(), Error> {
        let conversation = self.id;
        self.client.ask(|reply| Command::Accept { conversation, foreign_relay, reply }).await
    }

    /// Forgets an invitation, or a conversation that has ended, with its history. Error: [`Error::StillIn`].
    pub async fn forget(&self) -> Result<(), Error> {
        self.client.ask(|reply| Command::Forget(self.id, reply)).await
    }
}
