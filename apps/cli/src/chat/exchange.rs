//! What goes into the chat's state, and what comes out of it.

use posthorn_client::conversation::{ConversationId, Message};
use posthorn_client::sync::{Contact, ConversationSummary, Event, SyncState};

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
    /// Events were missed: look at everything again.
    Missed,
    Conversations(Vec<ConversationSummary>),
    History {
        conversation: ConversationId,
        before: Option<u64>,
        messages: Vec<Message>,
    },
    State(SyncState),
    /// The screen shows what the state says.
    Drawn,
    Started(ConversationId),
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
    MarkRead(ConversationId),
    Send {
        conversation: ConversationId,
        text: String,
    },
    Start {
        members: Vec<Contact>,
        name: String,
    },
    Add {
        conversation: ConversationId,
        members: Vec<Contact>,
    },
    Remove {
        conversation: ConversationId,
        handle: String,
    },
    Leave(ConversationId),
    ShowSafetyNumber(String),
    ShowMembers(ConversationId),
    Redraw,
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
