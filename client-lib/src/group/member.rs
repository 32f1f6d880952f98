//! Members: leaves of the group, read as devices of people.

use openmls::prelude::tls_codec::{Serialize, Size as _};
use openmls::prelude::{
    Credential as MlsCredential, CredentialWithKey, Extension, ExtensionType, LeafNode, SignatureScheme,
};
use openmls_traits::signatures::{Signer, SignerError};
use posthorn_proto::ReaderId;

use super::Refusal;
use super::info::{
    CREDENTIAL_TYPE, INBOX_EXTENSION, LEAF_RULES_EXTENSION, ReaderSecret, capabilities, leaf_rules,
};
use crate::identity::{Credential, Device, UnverifiedCredential};
use crate::inbox::{InboxAddress, InboxKey, is_public_key};

/// A device in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its place in the tree. Stays its own until it is removed; is then given to another.
    pub leaf: u32,
    /// Whose device it is. Verified.
    pub credential: Credential,
    /// Its Ed25519 key.
    pub signature_key: [u8; 32],
    /// Where Welcomes and repairs for it can be left. None until the device's first own commit: key packages
    /// lie in the directory in clear and do not name it, so that a relay cannot link an account to its
    /// private inbox.
    pub inbox: Option<InboxAddress>,
    /// What the relay calls it in the conversation's mailbox.
    pub reader: ReaderId,
    /// The highest rules that it knows.
    pub rules: u32,
}

/// This device, as it stands in its leaves.
#[derive(Debug, Clone, Copy)]
pub struct OwnLeaf<'a> {
    /// Its keys.
    pub device: &'a Device,
    /// That it belongs to the identity.
    pub credential: &'a Credential,
    /// Its private inbox.
    pub inbox: &'a InboxAddress,
}

/// What a leaf says, once believed.
pub(super) struct Bearer {
    pub(super) credential: Credential,
    pub(super) signature_key: [u8; 32],
    pub(super) inbox: Option<InboxAddress>,
    /// The highest rules that the device knows.
    pub(super) rules: u32,
}

impl Bearer {
    /// Of a leaf that comes from outside. Errors: [`Refusal::Credential`], [`Refusal::Inbox`].
    pub(super) fn verify(leaf: &LeafNode) -> Result<Self, Refusal> {
        let (claimed, signature_key, inbox) = parse(leaf)?;
        if inbox.as_ref().is_some_and(|inbox| !inbox.key.is_valid()) {
            return Err(Refusal::Inbox);
        }
        check_form(leaf, inbox.is_some())?;
        check_key(leaf.encryption_key())?;
        let credential = claimed.verify(&signature_key).map_err(|_| Refusal::Credential)?;
        Ok(Self { credential, signature_key, inbox, rules: rules_of(leaf)? })
    }

    /// Of a leaf in a stored group, which was verified on its way in.
    pub(super) fn stored(leaf: &LeafNode) -> Result<Self, Refusal> {
        let (claimed, signature_key, inbox) = parse(leaf)?;
        let rules = rules_of(leaf)?;
        Ok(Self { credential: claimed.verified_when_stored(), signature_key, inbox, rules })
    }

    pub(super) fn at(self, leaf: u32, secret: &ReaderSecret) -> Member {
        let reader = secret.reader_id(&self.signature_key);
        let Self { credential, signature_key, inbox, rules } = self;
        Member { leaf, credential, signature_key, inbox, reader, rules }
    }
}

impl Member {
    /// Whether both are the same device of the same identity.
    pub fn is_same_device(&self, other: &Credential) -> bool {
        self.credential.identity() == other.identity() && self.credential.device() == other.device()
    }
}

/// Longest leaf, in bytes (rule 29).
const MOST_LEAF_BYTES: usize = 4096;

/// A leaf has exactly what our leaves have: whatever else stands in it, everybody would have to carry.
fn check_form(leaf: &LeafNode, with_inbox: bool) -> Result<(), Refusal> {
    let numbers: Vec<_> = leaf.extensions().iter().map(Extension::extension_type).collect();
    let rules = ExtensionType::Unknown(LEAF_RULES_EXTENSION);
    let ours = match with_inbox {
        true => vec![ExtensionType::Unknown(INBOX_EXTENSION), rules],
        false => vec![rules],
    };
    let fits = leaf.tls_serialized_len() <= MOST_LEAF_BYTES;
    (fits && numbers == ours && *leaf.capabilities() == capabilities()).then_some(()).ok_or(Refusal::Leaf)
}

/// Whether anything can be encrypted to an HPKE key. MLS takes any bytes; a key that fails would stop every
/// commit that has to reach it.
pub(super) fn check_key(key: &impl Serialize) -> Result<(), Refusal> {
    let encoded = key.tls_serialize_detached().map_err(|_| Refusal::Key)?;
    let key = encoded.strip_prefix(&KEY_HEADER).ok_or(Refusal::Key)?;
    key.get(..InboxKey::LEN).is_some_and(is_public_key).then_some(()).ok_or(Refusal::Key)
}

/// The length of an X-Wing public key as MLS writes it (RFC 9420 section 2.1.2): 1,216 in two bytes.
const KEY_HEADER: [u8; 2] = [0x44, 0xC0];

fn rules_of(leaf: &LeafNode) -> Result<u32, Refusal> {
    leaf.extensions()
        .unknown(LEAF_RULES_EXTENSION)
        .and_then(|rules| leaf_rules(&rules.0))
        .ok_or(Refusal::Leaf)
}

fn parse(leaf: &LeafNode) -> Result<(UnverifiedCredential, [u8; 32], Option<InboxAddress>), Refusal> {
    let credential = leaf.credential();
    if credential.credential_type() != CREDENTIAL_TYPE {
        return Err(Refusal::Credential);
    }
    let claimed =
        UnverifiedCredential::parse(credential.serialized_content()).map_err(|_| Refusal::Credential)?;
    let signature_key = leaf.signature_key().as_slice().try_into().map_err(|_| Refusal::Credential)?;
    let inbox = leaf.extensions().unknown(INBOX_EXTENSION).map(|inbox| InboxAddress::decode(&inbox.0));
    let inbox = inbox.transpose().map_err(|_| Refusal::Inbox)?;
    Ok((claimed, signature_key, inbox))
}

impl OwnLeaf<'_> {
    pub(super) fn credential_with_key(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: MlsCredential::new(CREDENTIAL_TYPE, self.credential.encoded().to_vec()),
            signature_key: self.device.signature_key()[..].into(),
        }
    }
}

impl Signer for OwnLeaf<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.device.sign_for_mls(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}
