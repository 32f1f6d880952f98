//! Key packages: what a device publishes so that others can add it to groups while it is away.
//!
//! OpenMLS compares MLS's own lifetime with the system's clock, even when it processes a commit that adds
//! somebody; a device that reads such a commit months later would refuse what all others accepted. So that
//! field is left unlimited, and ours stands in an extension that the key package's signature covers; it is
//! checked by whoever adds, with a given time (fine print, rule 6).

use std::fmt;

use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::{
    Extension, Extensions, KeyPackage as MlsKeyPackage, KeyPackageIn, KeyPackageRef as MlsKeyPackageRef,
    Lifetime, ProtocolVersion, UnknownExtension,
};
use openmls_traits::OpenMlsProvider as _;
use openmls_traits::storage::StorageProvider as _;
use prost::Message;

use super::info::{LIFETIME_EXTENSION, canonical, capabilities, leaf_extensions};
use super::member::{Bearer, check_key};
use super::provider::Provider;
use super::{GroupError, OwnLeaf, Refusal, SUITE, wire};
use crate::identity::{Credential, IdentityKey};

/// How long a key package is good, in seconds: 84 days.
pub const LIFETIME_SECONDS: u64 = 84 * 24 * 3600;
/// How far clocks may differ, in seconds: 1 hour.
const SKEW_SECONDS: u64 = 3600;

/// Why a key package is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyPackageError {
    /// Not a key package, not of our suite, or badly signed.
    #[error("the key package is malformed or badly signed")]
    Malformed,
    /// Its credential is not good.
    #[error("the key package's device is not signed by the identity that it claims")]
    Credential,
    /// It is of another identity than the one asked for: the relay, or whoever passed it on, swapped it.
    #[error("the key package is of another identity than the one asked for")]
    WrongIdentity,
    /// It names a private inbox, in clear.
    #[error("the key package names a private inbox, which does not belong there")]
    Inbox,
    /// It is too old, or of the future.
    #[error("the key package is expired or not yet good")]
    Lifetime,
}

impl KeyPackageError {
    /// A stable name for logs, events and records.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Malformed => "KEY_PACKAGE_MALFORMED",
            Self::Credential => "KEY_PACKAGE_CREDENTIAL",
            Self::WrongIdentity => "KEY_PACKAGE_WRONG_IDENTITY",
            Self::Inbox => "KEY_PACKAGE_INBOX",
            Self::Lifetime => "KEY_PACKAGE_LIFETIME",
        }
    }
}

/// How often a key package may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPackageKind {
    /// Once; its secrets are gone after the join.
    OneTime,
    /// When no other is left. Whoever joined by it updates its leaf at once (fine print, rule 15).
    LastResort,
}

/// Names a stored key package (RFC 9420 section 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPackageRef(pub [u8; 32]);

impl fmt::Debug for KeyPackageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPackageRef({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// A key package of our own, to be published.
#[derive(Debug, Clone)]
pub struct MadeKeyPackage {
    /// What is published; about 3 KiB.
    pub bytes: Vec<u8>,
    /// Names its secrets, for [`KeyPackage::forget`].
    pub reference: KeyPackageRef,
    /// How often it may be used.
    pub kind: KeyPackageKind,
    /// After this its secrets can be forgotten. Unix seconds.
    pub not_after: u64,
}

/// A key package as it came.
#[derive(Debug, Clone)]
pub struct UnverifiedKeyPackage(KeyPackageIn);

/// A key package that may be added: signed, in time, of a device whose identity signed for it.
#[derive(Debug, Clone)]
pub struct KeyPackage {
    pub(super) mls: MlsKeyPackage,
    credential: Credential,
    signature_key: [u8; 32],
}

impl UnverifiedKeyPackage {
    /// Checks the form. Errors: [`KeyPackageError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyPackageError> {
        if bytes.len() > posthorn_proto::limits::KEY_PACKAGE_BYTES {
            return Err(KeyPackageError::Malformed);
        }
        KeyPackageIn::tls_deserialize_exact(bytes).map(Self).map_err(|_| KeyPackageError::Malformed)
    }

    /// Checks everything, and that it is of `expected`; `now_ms` in unix milliseconds.
    pub fn verify(
        self,
        provider: &Provider<'_>,
        expected: &IdentityKey,
        now_ms: u64,
    ) -> Result<KeyPackage, KeyPackageError> {
        let mls = self
            .0
            .validate(provider.crypto(), ProtocolVersion::Mls10)
            .map_err(|_| KeyPackageError::Malformed)?;
        if mls.ciphersuite() != SUITE || check_key(mls.hpke_init_key()).is_err() {
            return Err(KeyPackageError::Malformed);
        }
        let bearer = Bearer::verify(mls.leaf_node()).map_err(|refusal| match refusal {
            Refusal::Inbox => KeyPackageError::Inbox,
            Refusal::Leaf | Refusal::Key => KeyPackageError::Malformed,
            _ => KeyPackageError::Credential,
        })?;
        if bearer.inbox.is_some() {
            return Err(KeyPackageError::Inbox);
        }
        if bearer.credential.identity() != *expected {
            return Err(KeyPackageError::WrongIdentity);
        }
        let lifetime = lifetime(&mls).filter(|_| is_unlimited(&mls)).ok_or(KeyPackageError::Malformed)?;
        let now = now_ms / 1000;
        let is_short =
            lifetime.not_after.saturating_sub(lifetime.not_before) <= LIFETIME_SECONDS + SKEW_SECONDS;
        if !is_short || now < lifetime.not_before || now >= lifetime.not_after {
            return Err(KeyPackageError::Lifetime);
        }
        Ok(KeyPackage { mls, credential: bearer.credential, signature_key: bearer.signature_key })
    }
}

impl KeyPackage {
    /// Makes a key package of this device and stores its secrets; `now_ms` in unix milliseconds.
    pub fn make(
        provider: &Provider<'_>,
        own: &OwnLeaf<'_>,
        kind: KeyPackageKind,
        now_ms: u64,
    ) -> Result<MadeKeyPackage, GroupError> {
        let now = now_ms / 1000;
        let lifetime = wire::KeyPackageLifetime {
            not_before: now.saturating_sub(SKEW_SECONDS),
            not_after: now + LIFETIME_SECONDS,
        };
        let extension = Extension::Unknown(LIFETIME_EXTENSION, UnknownExtension(lifetime.encode_to_vec()));
        let mut builder = MlsKeyPackage::builder()
            .key_package_lifetime(unlimited())
            .leaf_node_capabilities(capabilities())
            .leaf_node_extensions(leaf_extensions(None)?)
            .key_package_extensions(Extensions::single(extension).map_err(GroupError::library)?);
        if kind == KeyPackageKind::LastResort {
            builder = builder.mark_as_last_resort();
        }
        let bundle =
            builder.build(SUITE, provider, own, own.credential_with_key()).map_err(GroupError::library)?;
        let mls = bundle.key_package();
        let reference = mls.hash_ref(provider.crypto()).map_err(GroupError::library)?;
        Ok(MadeKeyPackage {
            bytes: mls.tls_serialize_detached().map_err(GroupError::library)?,
            reference: KeyPackageRef(reference.as_slice().try_into().map_err(GroupError::library)?),
            kind,
            not_after: lifetime.not_after,
        })
    }

    /// Deletes the secrets of a key package of ours: one that expired or was replaced. Unknown ones are no
    /// error.
    pub fn forget(provider: &Provider<'_>, reference: &KeyPackageRef) -> Result<(), GroupError> {
        // OpenMLS has no other way to a reference than its encoding: a length and the hash.
        let encoded = [&[32], &reference.0[..]].concat();
        let reference = MlsKeyPackageRef::tls_deserialize_exact(encoded).map_err(GroupError::library)?;
        Ok(provider.storage().delete_key_package(&reference)?)
    }

    /// Whose device it adds.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The Ed25519 key of the device, by which its leaf is signed.
    pub(super) fn signature_key(&self) -> [u8; 32] {
        self.signature_key
    }

    /// Whether it is one for the last resort.
    pub fn is_last_resort(&self) -> bool {
        self.mls.last_resort()
    }
}

/// The lifetime that we gave a key package, or `None` if it has none.
pub(super) fn lifetime(mls: &MlsKeyPackage) -> Option<wire::KeyPackageLifetime> {
    canonical(&mls.extensions().unknown(LIFETIME_EXTENSION)?.0)
}

/// Whether MLS's own field is left unlimited. With any other value a commit that adds it would be valid for
/// who reads it early and not for who reads it late (fine print, rule 6).
pub(super) fn is_unlimited(mls: &MlsKeyPackage) -> bool {
    *mls.life_time() == unlimited()
}

/// For MLS's own field.
pub(super) fn unlimited() -> Lifetime {
    Lifetime::init(0, u64::MAX)
}
