//! What goes into the chat's state, and what comes out of it.

use posthorn_client::content::Target;
use posthorn_client::conversation::{ConversationId, Entry};
use posthorn_client::engine::{ConversationSummary, Event, SyncState, Who};

/// What comes in.
#[derive(Debug)]
pub(super) enum Happening {
    Key(crossterm::event::KeyEvent),
    Paste(String),
    /// Whether somebody looks at this terminal.
    Focus(bool),
    /// The screen has another size.
    Resize,
    /// Unix milliseconds.
    Time(u64),
    Client(Event),
    Conversations(Vec<ConversationSummary>),
    History {
        conversation: ConversationId,
        before: Option<u64>,
        entries: Vec<Entry>,
    },
    State(SyncState),
    /// The screen shows what the state says.
    Drawn,
    Started(ConversationId),
    /// An invitation was followed: what stands there now is the conversation.
    Joined(ConversationId),
    /// Something was done, in words.
    Done(String),
    /// Something was not, in words.
    Problem(String),
    /// The text goes back to where it was written.
    NotSent {
        conversation: ConversationId,
        text: String,
        problem: String,
    },
    Show(Popup),
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Order {
    LoadConversations,
    LoadHistory {
        conversation: ConversationId,
        before: Option<u64>,
    },
    AskOnline,
    MarkRead {
        conversation: ConversationId,
        /// Up to this row.
        up_to: u64,
    },
    Send {
        conversation: ConversationId,
        text: String,
    },
    Start {
        members: Vec<Who>,
        name: String,
        /// Although there is one with the same person.
        again: bool,
    },
    Add {
        conversation: ConversationId,
        members: Vec<Who>,
    },
    Remove {
        conversation: ConversationId,
        handle: String,
    },
    Leave(ConversationId),
    /// To our own relay.
    Move(ConversationId),
    Accept {
        conversation: ConversationId,
        /// Also to a relay that is not used yet.
        foreign_relay: bool,
    },
    /// An invitation, or a conversation that has ended.
    Forget(ConversationId),
    Archive {
        conversation: ConversationId,
        archived: bool,
    },
    Block {
        /// A handle or an id.
        who: String,
        blocked: bool,
    },
    React {
        conversation: ConversationId,
        target: Target,
        /// "" takes it back.
        emoji: String,
    },
    Verify {
        /// A handle or an id.
        who: String,
        verified: bool,
    },
    ShowPeople,
    ShowSafetyNumber(String),
    ShowMembers(ConversationId),
    Redraw,
    /// The terminal's bell: somebody looks elsewhere.
    Ring,
    /// Into the clipboard of whoever sits at the terminal.
    Copy(String),
    /// Back to the shell, for a while.
    Suspend,
    Quit,
}

/// Something over the screen, until Esc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Popup {
    pub(super) title: String,
    pub(super) lines: Vec<String>,
    /// Rows that are worth something only all together and unbroken: a QR code.
    pub(super) picture: Vec<String>,
}

impl Popup {
    /// One of text alone.
    pub(super) fn of_text(title: impl Into<String>, lines: Vec<String>) -> Self {
        Self { title: title.into(), lines, picture: Vec::new() }
    }
}
