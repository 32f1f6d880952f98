//! What Posthorn adds to MLS objects: the conversation's info, reader ids, the leaf's inbox, capabilities.
//!
//! The extension numbers and the capability list are fixed from the first version: adding one later needs
//! every leaf to be updated first, so some are reserved.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use openmls::prelude::{
    Capabilities, CredentialType, Extension, ExtensionType, Extensions, GroupContext, LeafNode, ProposalType,
    ProtocolVersion, RequiredCapabilitiesExtension, UnknownExtension,
};
use posthorn_proto::{MailboxId, ReaderId, RelayIdentity};
use prost::Message;
use rand::CryptoRng;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{GroupError, Refusal, SUITE, wire};
use crate::identity::{RelayAddress, RelayUrl};
use crate::inbox::InboxAddress;

/// The version of the rules by which commits of a new group are judged (fine print, rule 6). The lowest, so
/// that whoever has an older version can be added; it rises when something needs more.
pub const RULES: u32 = 1;
/// The highest version that is known here.
pub const KNOWN_RULES: u32 = 2;
/// The first version by which a commit may move the conversation (rule 34).
pub const MOVING_RULES: u32 = 2;
/// Longest name of a conversation, in bytes.
pub const NAME_BYTES: usize = 256;

/// Group context extension: [`Place`].
const PLACE_EXTENSION: u16 = 0xF001;
/// Leaf extension: the private [`InboxAddress`].
pub(super) const INBOX_EXTENSION: u16 = 0xF002;
/// Key package extension: its lifetime.
pub(super) const LIFETIME_EXTENSION: u16 = 0xF003;
/// Group context extension: the version of the rules.
const RULES_EXTENSION: u16 = 0xF006;
/// Group context extension: [`About`].
const ABOUT_EXTENSION: u16 = 0xF007;
/// Leaf extension: the highest rules that its device knows.
pub(super) const LEAF_RULES_EXTENSION: u16 = 0xF008;
/// Every private extension that all leaves say they bear; those without a name are reserved.
const EXTENSIONS: std::ops::RangeInclusive<u16> = 0xF001..=0xF010;
/// Longest extension of a group context, and all of them, in bytes (rule 29).
const MOST_EXTENSION_BYTES: usize = 1024;
const MOST_EXTENSIONS_BYTES: usize = 4096;
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
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key length");
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

/// Where a conversation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// 1 for the first mailbox of the conversation, one more with each move: seqs of two places have nothing
    /// to do with each other (rule 34).
    pub number: u32,
    /// The relay.
    pub relay: RelayAddress,
    /// The mailbox there.
    pub mailbox: MailboxId,
    /// Makes reader ids.
    pub reader_secret: ReaderSecret,
}

/// What a conversation is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// May be empty. At most [`NAME_BYTES`].
    pub name: String,
}

/// What all members of a conversation agree on. Changed only by commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// The version of the rules by which commits are judged.
    pub rules: u32,
    /// Where it is.
    pub place: Place,
    /// What it is called.
    pub about: About,
    /// Extensions of later versions, by number: carried as they are (rule 32).
    pub others: Vec<(u16, Vec<u8>)>,
}

impl Place {
    fn encode(&self) -> Vec<u8> {
        wire::Place {
            number: self.number,
            relay_url: self.relay.url.as_str().to_owned(),
            relay_identity: self.relay.identity.0.to_vec(),
            mailbox_id: self.mailbox.0.to_vec(),
            reader_secret: self.reader_secret.0.to_vec(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let raw: wire::Place = canonical(bytes)?;
        (raw.number > 0).then_some(())?;
        Some(Self {
            number: raw.number,
            relay: RelayAddress {
                url: RelayUrl::parse(&raw.relay_url).ok()?,
                identity: RelayIdentity::try_from(&raw.relay_identity[..]).ok()?,
            },
            mailbox: MailboxId::try_from(&raw.mailbox_id[..]).ok()?,
            reader_secret: ReaderSecret(raw.reader_secret.try_into().ok()?),
        })
    }

    /// The context of every exported key: keys of one mailbox open no other (fine print, rule 4).
    pub(super) fn exporter_context(&self) -> Vec<u8> {
        [&self.relay.identity.0[..], &self.mailbox.0].concat()
    }
}

impl About {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let raw: wire::About = canonical(bytes)?;
        (raw.name.len() <= NAME_BYTES).then_some(Self { name: raw.name })
    }
}

impl GroupInfo {
    /// This, moved to another mailbox and changed in nothing else; with rules by which that may be.
    pub fn moved(&self, relay: RelayAddress, mailbox: MailboxId, reader_secret: ReaderSecret) -> Self {
        let number = self.place.number.saturating_add(1);
        let place = Place { number, relay, mailbox, reader_secret };
        Self { rules: self.rules.max(MOVING_RULES), place, ..self.clone() }
    }

    /// Whether a commit may lead from these to `next`, which is at another place: one step further, to a
    /// mailbox and readers that are new, and nothing else changes (rule 34).
    pub(super) fn may_move_to(&self, next: &Self) -> bool {
        let (here, there) = (&self.place, &next.place);
        let rest = Self { rules: next.rules, place: here.clone(), ..next.clone() };
        next.rules >= MOVING_RULES
            && Some(there.number) == here.number.checked_add(1)
            && there.mailbox != here.mailbox
            && there.reader_secret != here.reader_secret
            && rest == Self { rules: next.rules, ..self.clone() }
    }

    /// The reader that a device would be in this conversation.
    pub fn reader_of(&self, package: &super::KeyPackage) -> ReaderId {
        self.place.reader_secret.reader_id(&package.signature_key())
    }

    /// The whole list of group context extensions; MLS replaces them all at once.
    pub(super) fn to_extensions(&self) -> Result<Extensions<GroupContext>, Refusal> {
        if self.about.name.len() > NAME_BYTES {
            return Err(Refusal::Info);
        }
        let rules = wire::Rules { version: self.rules }.encode_to_vec();
        let about = wire::About { name: self.about.name.clone() }.encode_to_vec();
        let mut all: BTreeMap<u16, Vec<u8>> = self.others.iter().cloned().collect();
        all.extend([
            (PLACE_EXTENSION, self.place.encode()),
            (RULES_EXTENSION, rules),
            (ABOUT_EXTENSION, about),
        ]);
        let ours = all.into_iter().map(|(number, bytes)| Extension::Unknown(number, UnknownExtension(bytes)));
        Extensions::from_vec(std::iter::once(required_capabilities()).chain(ours).collect())
            .map_err(|_| Refusal::Info)
    }

    /// The info of a group, whose context has no extensions but ours and reserved ones. Errors:
    /// [`Refusal::Info`]; [`GroupError::RulesTooNew`].
    pub(super) fn of(context: &GroupContext) -> Result<Self, GroupError> {
        let (mut found, mut has_capabilities, mut total) = (BTreeMap::new(), false, 0);
        for extension in context.extensions().iter() {
            match extension {
                Extension::Unknown(number, UnknownExtension(bytes))
                    if EXTENSIONS.contains(number) && bytes.len() <= MOST_EXTENSION_BYTES =>
                {
                    total += bytes.len();
                    found.insert(*number, bytes.clone());
                }
                other if *other == required_capabilities() => has_capabilities = true,
                _ => return Err(Refusal::Info.into()),
            }
        }
        let mut take = |number| found.remove(&number).ok_or(Refusal::Info);
        let (place, rules, about) = (take(PLACE_EXTENSION)?, take(RULES_EXTENSION)?, take(ABOUT_EXTENSION)?);
        let rules: wire::Rules = canonical(&rules).ok_or(Refusal::Info)?;
        if rules.version > KNOWN_RULES {
            return Err(GroupError::RulesTooNew { rules: rules.version });
        }
        if rules.version == 0 || !has_capabilities || total > MOST_EXTENSIONS_BYTES {
            return Err(Refusal::Info.into());
        }
        Ok(Self {
            rules: rules.version,
            place: Place::decode(&place).ok_or(Refusal::Info)?,
            about: About::decode(&about).ok_or(Refusal::Info)?,
            others: found.into_iter().collect(),
        })
    }
}

/// The rules that a context asks for, known to us or not.
pub(super) fn rules_of(context: &GroupContext) -> Result<u32, Refusal> {
    let rules = context.extensions().unknown(RULES_EXTENSION).and_then(|rules| canonical(&rules.0));
    rules.map(|rules: wire::Rules| rules.version).ok_or(Refusal::Info)
}

/// What the bytes say, if they are the one encoding of it: in another something could be hidden.
pub(super) fn canonical<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    let raw = M::decode(bytes).ok()?;
    (raw.encode_to_vec() == bytes).then_some(raw)
}

fn required_capabilities() -> Extension {
    let extensions: Vec<_> = EXTENSIONS.map(ExtensionType::Unknown).collect();
    Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(
        &extensions,
        &[ProposalType::SelfRemove],
        &[CREDENTIAL_TYPE],
    ))
}

/// What every leaf of ours bears, spelled out: OpenMLS's default list would grow with its versions.
pub(super) fn capabilities() -> Capabilities {
    let mut extensions: Vec<_> = EXTENSIONS.map(ExtensionType::Unknown).collect();
    extensions.push(ExtensionType::LastResort);
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[SUITE]),
        Some(&extensions),
        Some(&[ProposalType::SelfRemove]),
        Some(&[CREDENTIAL_TYPE]),
    )
}

/// The extensions of a leaf: the rules that its device knows, and, in leaves that it made itself, its private
/// inbox.
pub(super) fn leaf_extensions(inbox: Option<&InboxAddress>) -> Result<Extensions<LeafNode>, Refusal> {
    let rules = wire::LeafRules { highest: KNOWN_RULES }.encode_to_vec();
    let inbox = inbox.map(|inbox| Extension::Unknown(INBOX_EXTENSION, UnknownExtension(inbox.encode())));
    let rules = Extension::Unknown(LEAF_RULES_EXTENSION, UnknownExtension(rules));
    Extensions::from_vec(inbox.into_iter().chain([rules]).collect()).map_err(|_| Refusal::Leaf)
}

/// The highest rules that a leaf announces.
pub(super) fn leaf_rules(bytes: &[u8]) -> Option<u32> {
    canonical::<wire::LeafRules>(bytes).map(|rules| rules.highest).filter(|highest| *highest > 0)
}
