#![doc = include_str!("../README.md")]

// The face: what an app holds, says and is told. `public-items.txt` lists all of it, and CI compares.
#[cfg(all(feature = "native", unix))]
#[doc(inline)]
pub use client::Share;
#[cfg(feature = "native")]
#[doc(inline)]
pub use client::{Builder, Client, Clock, Conversation, EventStream};
#[doc(inline)]
pub use content::{
    Author, CUSTOM_BYTES, Change, Class, Custom, EMOJI_BYTES, FALLBACK_BYTES, Kind, Leave, Named, Reaction,
    ReceiptOnly, Said, SaidError, TEXT_BYTES, Target, Text, Unknown,
};
#[doc(inline)]
pub use conversation::{
    BadId, Body, Cause, ConversationId, ConversationState, Entry, EntryState, GroupId, MessageId, Notice,
    Suspension, Unreadable,
};
#[doc(inline)]
pub use engine::{
    Account, Consent, ConversationSummary, Error, Event, Known, MemberSummary, Page, Person, Relay,
    SyncState, Unreachable, Waiting, Who,
};
#[doc(inline)]
pub use identity::{
    BadIdentityKey, BadPersonId, BadRelayUrl, BadRoute, ContactLink, IdentityKey, LinkError, PersonId,
    RelayUrl, Route, SafetyNumber,
};
#[doc(inline)]
pub use posthorn_proto::id::{BadHandle, DeviceId, Handle};
#[doc(inline)]
pub use store::StoreError;

pub mod sans_io {
    //! What a driver of your own needs, where the one behind `Client` cannot be: in a browser, in a
    //! simulation.
    //!
    //! An [`Engine`] is everything that a device does, and does no I/O: give it [`Input`]s and the time,
    //! carry out the [`Effect`]s, and look at [`Engine::wake_at`] for when it wants to be called again.

    #[doc(inline)]
    pub use crate::engine::{
        Answer, Command, Effect, Engine, Failed, Input, Link, LinkId, Randomness, Reply,
    };
    #[doc(inline)]
    pub use crate::store::{Database, KdfCost, Location, Passphrase};
}

// The rest is not part of the face, and may change with any version. It is reachable because this project's
// own tests, simulation, fuzzers and programs look into it. CI documents it too (`--cfg inside`), so that
// its links are checked.
#[cfg(feature = "native")]
#[cfg_attr(not(inside), doc(hidden))]
pub mod client;
#[cfg_attr(not(inside), doc(hidden))]
pub mod content;
#[cfg_attr(not(inside), doc(hidden))]
pub mod conversation;
#[cfg_attr(not(inside), doc(hidden))]
pub mod engine;
#[cfg_attr(not(inside), doc(hidden))]
pub mod envelope;
#[cfg_attr(not(inside), doc(hidden))]
pub mod group;
#[cfg_attr(not(inside), doc(hidden))]
pub mod identity;
#[cfg_attr(not(inside), doc(hidden))]
pub mod inbox;
mod outbox;
mod people;
#[cfg_attr(not(inside), doc(hidden))]
pub mod store;
#[cfg(feature = "native")]
mod transport;
