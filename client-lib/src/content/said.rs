//! What is said, in the one form in which it travels, waits in the outbox and stands in the history: a kind's
//! number, its class, and the kind's own bytes (rule 33).

use serde::{Deserialize, Serialize};

use super::kind::{self, Kind, Unknown};
use crate::conversation::MessageId;
use crate::identity::PersonId;

/// The longest bytes of a kind: [`super::TEXT_BYTES`] of text, and what protobuf puts around them.
pub const BODY_BYTES: usize = super::TEXT_BYTES + 64;
/// The longest fallback, bytes of UTF-8.
pub const FALLBACK_BYTES: usize = 1024;

/// What becomes of something that is said, whether or not its kind is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It stands in the history.
    Entry,
    /// It alters an entry, and is kept also when it comes before that.
    Change,
    /// It is for the clients, and not shown.
    Quiet,
}

/// The entry that a change alters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Who said it.
    pub person: PersonId,
    /// Its message id.
    pub message: MessageId,
}

/// Something that is said. Every value keeps the bounds, so that it always fits one envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    kind: u32,
    class: Class,
    target: Option<Target>,
    fallback: String,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

/// Why something cannot be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SaidError {
    /// Too short or too long.
    #[error("{what} has {least} to {most} bytes, this one has {got}")]
    Length {
        /// What, with its article.
        what: &'static str,
        /// The fewest bytes.
        least: usize,
        /// The most bytes.
        most: usize,
        /// Its length in bytes.
        got: usize,
    },
    /// Not what the kind takes; the text says what it does take.
    #[error("{0}")]
    Form(&'static str),
    /// A change that names no entry.
    #[error("a change needs an entry that it alters")]
    NoTarget,
    /// A target of something that is no change.
    #[error("only a change names another entry")]
    StrayTarget,
    /// A kind in a class that is not its own.
    #[error("this kind is never of that class")]
    WrongClass,
}

/// An error unless `got` is within bounds, which are inclusive.
pub(super) fn check_length(
    what: &'static str,
    got: usize,
    (least, most): (usize, usize),
) -> Result<(), SaidError> {
    if (least..=most).contains(&got) { Ok(()) } else { Err(SaidError::Length { what, least, most, got }) }
}

impl Said {
    /// An entry, or something quiet. Errors: the kind's own bounds; [`SaidError::NoTarget`].
    pub fn new(kind: impl Into<Kind>) -> Result<Self, SaidError> {
        Self::build(&kind.into(), None, "")
    }

    /// A change of `target`. Errors: the kind's own bounds; [`SaidError::StrayTarget`].
    pub fn change(kind: impl Into<Kind>, target: Target) -> Result<Self, SaidError> {
        Self::build(&kind.into(), Some(target), "")
    }

    /// With a line for people whose client does not know the kind.
    pub fn with_fallback(mut self, fallback: &str) -> Result<Self, SaidError> {
        fallback.clone_into(&mut self.fallback);
        self.check()?;
        Ok(self)
    }

    fn build(kind: &Kind, target: Option<Target>, fallback: &str) -> Result<Self, SaidError> {
        let (number, class, bytes) = kind.parts().ok_or(SaidError::Form("an unknown kind is not said"))?;
        kind.check()?;
        Self::from_parts(number, class, target, fallback.to_owned(), bytes)
    }

    /// What came, of a known kind or not.
    pub(super) fn from_parts(
        kind: u32,
        class: Class,
        target: Option<Target>,
        fallback: String,
        bytes: Vec<u8>,
    ) -> Result<Self, SaidError> {
        let said = Self { kind, class, target, fallback, bytes };
        said.check()?;
        Ok(said)
    }

    fn check(&self) -> Result<(), SaidError> {
        check_length("a message", self.bytes.len(), (0, BODY_BYTES))?;
        check_length("a fallback", self.fallback.len(), (0, FALLBACK_BYTES))?;
        match (self.class, self.target) {
            (Class::Change, None) => Err(SaidError::NoTarget),
            (Class::Entry | Class::Quiet, Some(_)) => Err(SaidError::StrayTarget),
            _ if self.kind == 0 => Err(SaidError::Form("0 is no kind")),
            _ if kind::permits(self.kind, self.class) == Some(false) => Err(SaidError::WrongClass),
            _ => Ok(()),
        }
    }

    /// The kind's number.
    pub fn kind(&self) -> u32 {
        self.kind
    }

    /// What becomes of it.
    pub fn class(&self) -> Class {
        self.class
    }

    /// What it alters; always there for a change, never otherwise.
    pub fn target(&self) -> Option<Target> {
        self.target
    }

    /// The line for people whose client does not know the kind; may be empty.
    pub fn fallback(&self) -> &str {
        &self.fallback
    }

    /// The kind's own bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What is said; [`Kind::Unknown`] if this version does not know the kind, or not this form of it.
    pub fn read(&self) -> Kind {
        self.read_with(kind::is_known)
    }

    /// Likewise, as a version would read it that knows these kinds.
    pub(crate) fn read_with(&self, known: fn(u32) -> bool) -> Kind {
        let kind = known(self.kind).then(|| Kind::decode(self.kind, self.class, &self.bytes)).flatten();
        kind.unwrap_or_else(|| {
            let fallback = self.fallback.clone();
            Kind::Unknown(Unknown { number: self.kind, class: self.class, fallback })
        })
    }
}
