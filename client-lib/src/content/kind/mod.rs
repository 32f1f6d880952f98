//! The kinds of things that can be said: one file each, and the table of them.
//!
//! A kind's file has its fields, its bounds, its bytes (with golden ones in its tests), the line that it
//! shows, and what it answers where the answer differs from that of its class: whether it counts as unread,
//! whether its sender sees how far it got, who may send it, what it makes of the entry that it alters, what
//! the engine has to do. A new kind is such a file and its line in the table; nothing else in this crate asks
//! for a kind by name.

mod custom;
mod leave;
mod reaction;
mod receipt;
mod text;

use serde::{Deserialize, Serialize};

pub use custom::{CUSTOM_BYTES, Custom};
pub use leave::{Leave, PROPOSAL_BYTES};
pub use reaction::{EMOJI_BYTES, Reaction};
pub use receipt::ReceiptOnly;
pub use text::{TEXT_BYTES, Text};

use super::said::{Class, SaidError};
use crate::content::Author;
use crate::identity::PersonId;

/// Numbers are never given to another kind. From 64 on they are for what apps and not people say.
macro_rules! kinds {
    ($($(#[$doc:meta])* $number:literal $name:ident => $module:ident::$body:ident : $class:ident),* $(,)?) => {
        /// Something that is said, read. `"kind"` in JSON is the name in snake_case.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[$doc])* $name($module::$body),)*
            /// A kind, or a form of one, that this version does not know.
            Unknown(Unknown),
        }

        $(impl From<$module::$body> for Kind {
            fn from(body: $module::$body) -> Self {
                Self::$name(body)
            }
        })*

        /// Whether this version knows a kind.
        pub(crate) fn is_known(number: u32) -> bool {
            [$($number),*].contains(&number)
        }

        /// Whether a kind may be of a class; `None` if this version does not know it.
        pub(super) fn permits(number: u32, class: Class) -> Option<bool> {
            match number {
                $($number => Some(kinds!(@permits $class class)),)*
                _ => None,
            }
        }

        impl Kind {
            /// `None` unless the bytes are what this kind says.
            pub(super) fn decode(number: u32, class: Class, bytes: &[u8]) -> Option<Self> {
                if permits(number, class) != Some(true) {
                    return None;
                }
                let kind = match number {
                    $($number => Self::$name($module::$body::decode(bytes, class)?),)*
                    _ => return None,
                };
                kind.check().is_ok().then_some(kind)
            }

            /// Number, class and bytes; `None` for what is not known.
            pub(super) fn parts(&self) -> Option<(u32, Class, Vec<u8>)> {
                match self {
                    $(Self::$name(body) => Some(($number, kinds!(@class $class body), body.encode())),)*
                    Self::Unknown(_) => None,
                }
            }

            fn body(&self) -> Option<&dyn Body> {
                match self {
                    $(Self::$name(body) => Some(body),)*
                    Self::Unknown(_) => None,
                }
            }
        }
    };
    (@permits Any $class:ident) => { true };
    (@permits $own:ident $class:ident) => { $class == Class::$own };
    (@class Any $body:ident) => { $body.class };
    (@class $own:ident $body:ident) => { Class::$own };
}

kinds! {
    /// Words.
    1 Text => text::Text: Entry,
    /// "I leave."
    2 Leave => leave::Leave: Quiet,
    /// Nothing but the receipt that rides on every message.
    3 Receipt => receipt::ReceiptOnly: Quiet,
    /// A sign beside an entry.
    4 Reaction => reaction::Reaction: Change,
    /// Something that an app understands, and this library does not.
    64 Custom => custom::Custom: Any,
}

/// What every kind answers.
pub(crate) trait Body {
    /// Its own protobuf.
    fn encode(&self) -> Vec<u8>;

    /// `None` if the bytes are not its own. Bounds are for [`Body::check`].
    fn decode(bytes: &[u8], class: Class) -> Option<Self>
    where
        Self: Sized;

    /// Whether it keeps its bounds.
    fn check(&self) -> Result<(), SaidError>;

    /// One line that tells it, for lists and notifications.
    fn line(&self) -> String;

    /// Whether somebody who got it has something to look at.
    fn counts_as_unread(&self, class: Class) -> bool {
        class == Class::Entry
    }

    /// Whether its sender sees when it was delivered and read.
    fn has_marks(&self, class: Class) -> bool {
        class == Class::Entry
    }

    /// Whose change of an entry counts.
    fn sender(&self) -> Sender {
        Sender::Anybody
    }

    /// What a change of this kind makes of its target. `change` is this one, read; those before it are in
    /// `altered` already.
    fn alter(&self, altered: &mut Altered, change: Change) {
        altered.changes.push(change);
    }

    /// What the engine has to do about it.
    fn act(&self) -> Option<Act> {
        None
    }
}

/// A kind, or a form of one, that this version does not know. It is kept, and read again after an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    /// The kind's number.
    pub number: u32,
    /// What becomes of it.
    pub class: Class,
    /// What its sender has people shown who do not know the kind; may be empty.
    pub fallback: String,
}

/// Whose changes of an entry count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Every member's.
    Anybody,
    /// Only of who said the entry.
    Author,
}

/// What the engine has to do about something quiet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Commit the removal of its sender.
    TakeOut {
        /// An MLS proposal that proves the wish; may be empty.
        proposal: Vec<u8>,
    },
}

/// A change of an entry that is shown beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Who made it.
    pub author: Author,
    /// What they were called when it came.
    pub handle: String,
    /// Whether this account made it.
    pub mine: bool,
    /// Unix milliseconds by the sender's clock.
    pub sent_at: u64,
    /// What.
    pub said: Kind,
}

/// An entry, as its changes are applied in the order of the mailbox.
#[derive(Debug)]
pub(crate) struct Altered {
    /// What is shown.
    pub(crate) said: Kind,
    /// The changes that are shown beside it.
    pub(crate) changes: Vec<Change>,
}

impl Sender {
    fn permits(self, by: &PersonId, author: &PersonId) -> bool {
        self == Self::Anybody || by == author
    }
}

impl Kind {
    /// One line that tells it, for lists and notifications.
    pub fn line(&self) -> String {
        match (self.body(), self) {
            (Some(body), _) => body.line(),
            (None, Self::Unknown(unknown)) if !unknown.fallback.is_empty() => one_line(&unknown.fallback),
            (None, _) => "a kind of message that needs a newer version".to_owned(),
        }
    }

    /// Whether somebody who got it has something to look at.
    pub fn counts_as_unread(&self, class: Class) -> bool {
        self.body().map_or(class == Class::Entry, |body| body.counts_as_unread(class))
    }

    /// Whether its sender sees when it was delivered and read.
    pub fn has_marks(&self, class: Class) -> bool {
        self.body().map_or(class == Class::Entry, |body| body.has_marks(class))
    }

    /// What the engine has to do about it.
    pub(crate) fn act(&self) -> Option<Act> {
        self.body().and_then(Body::act)
    }

    pub(super) fn check(&self) -> Result<(), SaidError> {
        self.body().map_or(Ok(()), Body::check)
    }
}

impl Altered {
    /// Applies one more change, if it counts. What is not known is shown as that.
    pub(crate) fn apply(&mut self, author: &PersonId, change: Change) {
        let said = change.said.clone();
        match said.body() {
            Some(body) if !body.sender().permits(&change.author.person, author) => {}
            Some(body) => body.alter(self, change),
            None => self.changes.push(change),
        }
    }
}

/// The longest line, characters.
const LINE_CHARS: usize = 160;

/// A text on one line, cut.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(LINE_CHARS) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words,
    }
}

#[cfg(test)]
mod tests;
