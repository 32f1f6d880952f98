//! Who people and devices are, and how they prove it.
//!
//! In reading order: [`Identity`] signs (`key.rs`); a [`Device`] holds a device's own keys (`device.rs`); a
//! [`Credential`] says that a device belongs to an identity (`credential.rs`); a [`Card`] is what an identity
//! shows strangers (`card.rs`); a [`ContactLink`] is how people pass it on (`link.rs`); [`safety_number`] is
//! what two people compare (`safety.rs`). Everything else names people by their [`PersonId`] (`person.rs`).
//! What came from outside is `Unverified*` until verifying consumed it. Relays have a [`RelayUrl`] and are
//! reached by a [`Route`].
//!
//! This module makes no randomness, reads no clock, stores nothing and sends nothing.

mod card;
mod credential;
mod device;
mod key;
mod link;
mod person;
mod relay;
mod route;
mod safety;
#[cfg(test)]
mod tests;

pub use card::{Card, CardDevice, CardError, UnverifiedCard};
pub use credential::{Credential, CredentialError, UnverifiedCredential};
pub use device::Device;
pub use key::{BadIdentityKey, Identity, IdentityKey, SIGNATURE_BYTES};
pub use link::{ContactLink, LinkError};
pub use person::{BadPersonId, PersonId};
pub use relay::{BadRelayUrl, RelayAddress, RelayUrl};
pub use route::{BadRoute, Route};
pub use safety::{SafetyNumber, safety_number};

pub(crate) mod wire {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated from the schema, which is documented"
    )]
    include!(concat!(env!("OUT_DIR"), "/posthorn.identity.v1.rs"));
}
