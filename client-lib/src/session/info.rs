//! What Posthorn adds to MLS objects: the conversation's info, reader ids, the leaf's inbox, capabilities.
//!
//! The extension numbers and the capability list are fixed from the first version: adding one later needs
//! every leaf to be updated first, so some are reserved.

use std::fmt;

use hmac::{Hmac, Mac};
use openmls::prelude::{
    Capabilities, CredentialType, Extension, ExtensionType, Extensions, GroupContext, LeafNode,
    ProtocolVersion, RequiredCapabilitiesExtension, UnknownExtension,
};
use posthorn_proto::{MailboxId, ReaderId, RelayIdentity};
use prost::Message;
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Refusal, SUITE, wire};
use crate::identity::{RelayAddress, RelayUrl};
use crate::inbox::InboxAddress;

/// The version of the rules by which commits are judged (fine print, rule 6).
pub const RULES: u32 = 1;
/// Longest name of a conversation, in bytes.
pub const NAME_BYTES: usize = 256;

/// Group context extension: [`GroupInfo`].
pub(super) const INFO_EXTENSION: u16 = 0xF001;
/// Leaf extension: the private [`InboxAddress`].
pub(super) const INBOX_EXTENSION: u16 = 0xF002;
/// Key package extension: its lifetime.
pub(super) const LIFETIME_EXTENSION: u16 = 0xF003;
/// Every private extension that all leaves say they bear; those without a name are reserved.
const EXTENSIONS: std::ops::RangeInclusive<u16> = 0xF001..=0xF008;
/// MLS credential type of [`crate::identity::Credential`].
pub(super) const CREDENTIAL_TYPE: CredentialType = CredentialType::Other(0xF003);

/// The key of the HMAC that makes reader ids. Known to the members; the relay, which sees the ids, cannot
/// link them to accounts or across conversations.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ReaderSecret([u8; 32]);

impl ReaderSecret {
    /// A fresh secret, for a new conversation.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut secret = Self([0; 32]);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    /// The reader of a leaf: the first 16 bytes of HMAC-SHA256 of its signature key.
    pub fn reader_id(&self, signature_key: &[u8; 32]) -> ReaderId {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes any key length");
        mac.update(signature_key);
        let tag: [u8; 32] = mac.finalize().into_bytes().into();
        ReaderId(*tag.first_chunk().expect("32 is more than 16"))
    }
}

impl fmt::Debug for ReaderSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReaderSecret(secret)")
    }
}

/// What all members of a conversation agree on. Changed only by commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Where the conversation's mailbox is.
    pub relay: RelayAddress,
    /// The mailbox there.
    pub mailbox: MailboxId,
    /// Makes reader ids.
    pub reader_secret: ReaderSecret,
    /// What the conversation is called; may be empty. At most [`NAME_BYTES`].
    pub name: String,
}

impl GroupInfo {
    /// The context of every exported key: keys of one mailbox open no other (fine print, rule 4).
    pub(super) fn exporter_context(&self) -> Vec<u8> {
        [&self.relay.identity.0[..], &self.mailbox.0].concat()
    }

    /// Whether both name the same mailbox on the same relay, and its readers alike.
    pub fn is_same_place(&self, other: &Self) -> bool {
        (&self.relay, &self.mailbox, &self.reader_secret)
            == (&other.relay, &other.mailbox, &other.reader_secret)
    }

    fn encode(&self) -> Vec<u8> {
        wire::ConversationInfo {
            rules: RULES,
            relay_url: self.relay.url.as_str().to_owned(),
            relay_identity: self.relay.identity.0.to_vec(),
            mailbox_id: self.mailbox.0.to_vec(),
            reader_secret: self.reader_secret.0.to_vec(),
            name: self.name.clone(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let raw = wire::ConversationInfo::decode(bytes).ok()?;
        if raw.rules != RULES || raw.name.len() > NAME_BYTES {
            return None;
        }
        Some(Self {
            relay: RelayAddress {
                url: RelayUrl::parse(&raw.relay_url).ok()?,
                identity: RelayIdentity::try_from(&raw.relay_identity[..]).ok()?,
            },
            mailbox: MailboxId::try_from(&raw.mailbox_id[..]).ok()?,
            reader_secret: ReaderSecret(raw.reader_secret.try_into().ok()?),
            name: raw.name,
        })
    }

    /// The whole list of group context extensions; MLS replaces them all at once.
    pub(super) fn to_extensions(&self) -> Result<Extensions<GroupContext>, Refusal> {
        if self.name.len() > NAME_BYTES {
            return Err(Refusal::Info);
        }
        Extensions::from_vec(vec![
            required_capabilities(),
            Extension::Unknown(INFO_EXTENSION, UnknownExtension(self.encode())),
        ])
        .map_err(|_| Refusal::Info)
    }

    /// The info of a group, whose context must have exactly our extensions. Errors: [`Refusal::Info`].
    pub(super) fn of(context: &GroupContext) -> Result<Self, Refusal> {
        let extensions = context.extensions();
        let info = extensions.unknown(INFO_EXTENSION).and_then(|info| Self::decode(&info.0));
        let only_ours =
            extensions.iter().count() == 2 && extensions.iter().any(|one| *one == required_capabilities());
        info.filter(|_| only_ours).ok_or(Refusal::Info)
    }
}

fn required_capabilities() -> Extension {
    let extensions: Vec<_> = EXTENSIONS.map(ExtensionType::Unknown).collect();
    Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(&extensions, &[], &[CREDENTIAL_TYPE]))
}

/// What every leaf of ours bears, spelled out: OpenMLS's default list would grow with its versions.
pub(super) fn capabilities() -> Capabilities {
    let mut extensions: Vec<_> = EXTENSIONS.map(ExtensionType::Unknown).collect();
    extensions.push(ExtensionType::LastResort);
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[SUITE]),
        Some(&extensions),
        Some(&[]),
        Some(&[CREDENTIAL_TYPE]),
    )
}

/// The leaf extensions of a device: its private inbox.
pub(super) fn leaf_extensions(inbox: &InboxAddress) -> Result<Extensions<LeafNode>, Refusal> {
    Extensions::single(Extension::Unknown(INBOX_EXTENSION, UnknownExtension(inbox.encode())))
        .map_err(|_| Refusal::Inbox)
}
