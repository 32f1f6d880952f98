//! The contact card: what an identity shows to those who have its link. The relay keeps it and hands it out;
//! it cannot change it.

use posthorn_proto::{Handle, MailboxId, PostKey, RelayIdentity};
use prost::Message;

use super::wire;
use super::{Credential, Identity, IdentityKey, RelayAddress, RelayUrl, UnverifiedCredential};
use crate::inbox::{InboxAddress, InboxKey};

/// Domain separation of the signature.
const LABEL: &str = "posthorn v1 contact card";

/// Why a card is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Longer than 16 KiB, encoded.
    #[error("the contact card has {got} bytes, at most {} fit", Card::MOST_BYTES)]
    TooLong {
        /// Its length in bytes.
        got: usize,
    },
    /// Not a card, or one with a field that is out of form.
    #[error("the contact card is malformed: {0}")]
    Malformed(&'static str),
    /// Signed by another identity than the one expected.
    #[error("the contact card is of another identity than the link names")]
    WrongIdentity,
    /// Not signed by the identity that it names.
    #[error("the contact card's signature is wrong")]
    Signature,
    /// It names a device that the identity did not sign for.
    #[error("the contact card names a device without a valid credential")]
    Device,
}

impl CardError {
    /// A stable name for logs, events and records.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "CARD_TOO_LONG",
            Self::Malformed(_) => "CARD_MALFORMED",
            Self::WrongIdentity => "CARD_WRONG_IDENTITY",
            Self::Signature => "CARD_SIGNATURE",
            Self::Device => "CARD_DEVICE",
        }
    }
}

/// One device on a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardDevice {
    /// That it belongs to the identity.
    pub credential: Credential,
    /// The MLS signature key that the credential speaks of.
    pub signature_key: [u8; 32],
    /// Where strangers reach it.
    pub public_inbox: InboxAddress,
}

/// How far a card's version, which is the time of its making, may lie ahead, milliseconds: 1 day.
const MOST_AHEAD: u64 = 24 * 3600 * 1000;

/// A card as it came.
#[derive(Debug, Clone)]
pub struct UnverifiedCard(Vec<u8>);

/// A card that its identity has signed, with devices that it has signed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    version: u64,
    identity: IdentityKey,
    handle: Handle,
    relay: RelayAddress,
    devices: Vec<CardDevice>,
    encoded: Vec<u8>,
}

impl Card {
    /// The longest card, in bytes; about ten devices.
    pub const MOST_BYTES: usize = posthorn_proto::limits::CARD_BYTES;

    /// Makes and signs a card. The devices' inboxes must be on the card's relay. Errors:
    /// [`CardError::TooLong`], [`CardError::Device`].
    pub fn issue(
        identity: &Identity,
        version: u64,
        handle: Handle,
        relay: RelayAddress,
        devices: Vec<CardDevice>,
    ) -> Result<Self, CardError> {
        let ours = |device: &CardDevice| {
            device.credential.identity() == identity.key() && device.public_inbox.relay == relay
        };
        if !devices.iter().all(ours) {
            return Err(CardError::Device);
        }
        let body = wire::CardBody {
            version,
            identity_key: identity.key().as_bytes().to_vec(),
            handle: handle.as_str().to_owned(),
            relay_url: relay.url.as_str().to_owned(),
            relay_identity: relay.identity.0.to_vec(),
            devices: devices.iter().map(CardDevice::to_wire).collect(),
        }
        .encode_to_vec();
        let signature = identity.sign(LABEL, &[&body]).to_vec();
        let encoded = wire::Card { body, signature }.encode_to_vec();
        if encoded.len() > Self::MOST_BYTES {
            return Err(CardError::TooLong { got: encoded.len() });
        }
        Ok(Self { version, identity: identity.key(), handle, relay, devices, encoded })
    }

    /// Grows with every new card of the identity; an older one than was seen before must not replace it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whose card it is.
    pub fn identity(&self) -> IdentityKey {
        self.identity
    }

    /// The account's name on its relay.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The account's relay.
    pub fn relay(&self) -> &RelayAddress {
        &self.relay
    }

    /// The identity's devices.
    pub fn devices(&self) -> &[CardDevice] {
        &self.devices
    }

    /// The bytes, as the relay keeps them.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

impl UnverifiedCard {
    /// Takes bytes from outside. Errors: [`CardError::TooLong`].
    pub fn new(bytes: &[u8]) -> Result<Self, CardError> {
        if bytes.len() > Card::MOST_BYTES {
            return Err(CardError::TooLong { got: bytes.len() });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Checks form, signature and every device's credential, and that it is the card of `expected`, if
    /// somebody in particular is expected.
    ///
    /// `now` in unix milliseconds: a card of the far future is refused, for no later one could replace it.
    pub fn verify(self, expected: Option<&IdentityKey>, now: u64) -> Result<Card, CardError> {
        use CardError::Malformed;
        let card = wire::Card::decode(&self.0[..]).map_err(|_| Malformed("encoding"))?;
        let body = wire::CardBody::decode(&card.body[..]).map_err(|_| Malformed("body"))?;
        let identity =
            IdentityKey::try_from(&body.identity_key[..]).map_err(|_| Malformed("identity key"))?;
        if expected.is_some_and(|expected| *expected != identity) {
            return Err(CardError::WrongIdentity);
        }
        if !identity.has_signed(LABEL, &[&card.body], &card.signature) {
            return Err(CardError::Signature);
        }
        if body.version > now.saturating_add(MOST_AHEAD) {
            return Err(Malformed("version"));
        }
        let relay = RelayAddress {
            url: RelayUrl::parse(&body.relay_url).map_err(|_| Malformed("relay url"))?,
            identity: RelayIdentity::try_from(&body.relay_identity[..])
                .map_err(|_| Malformed("relay identity"))?,
        };
        let devices = body
            .devices
            .into_iter()
            .map(|device| CardDevice::from_wire(device, &identity, &relay))
            .collect::<Result<_, _>>()?;
        Ok(Card {
            version: body.version,
            identity,
            handle: Handle::parse(&body.handle).map_err(|_| Malformed("handle"))?,
            relay,
            devices,
            encoded: self.0,
        })
    }
}

impl CardDevice {
    fn to_wire(&self) -> wire::CardDevice {
        wire::CardDevice {
            device_id: self.credential.device().0.to_vec(),
            credential: self.credential.encoded().to_vec(),
            signature_key: self.signature_key.to_vec(),
            public_inbox: Some(wire::PublicInbox {
                mailbox_id: self.public_inbox.mailbox.0.to_vec(),
                post_key: self.public_inbox.post_key.expose().to_vec(),
                public_key: self.public_inbox.key.as_bytes().to_vec(),
            }),
        }
    }

    fn from_wire(
        raw: wire::CardDevice,
        identity: &IdentityKey,
        relay: &RelayAddress,
    ) -> Result<Self, CardError> {
        use CardError::Malformed;
        let signature_key: [u8; 32] = raw.signature_key.try_into().map_err(|_| Malformed("signature key"))?;
        let credential = UnverifiedCredential::parse(&raw.credential)
            .and_then(|credential| credential.verify(&signature_key))
            .map_err(|_| CardError::Device)?;
        if credential.identity() != *identity || credential.device().0[..] != raw.device_id[..] {
            return Err(CardError::Device);
        }
        let inbox = raw.public_inbox.ok_or(Malformed("public inbox"))?;
        Ok(Self {
            credential,
            signature_key,
            public_inbox: InboxAddress {
                relay: relay.clone(),
                mailbox: MailboxId::try_from(&inbox.mailbox_id[..]).map_err(|_| Malformed("mailbox id"))?,
                post_key: PostKey::try_from(&inbox.post_key[..]).map_err(|_| Malformed("post key"))?,
                key: InboxKey::try_from(&inbox.public_key[..])
                    .ok()
                    .filter(InboxKey::is_valid)
                    .ok_or(Malformed("inbox key"))?,
            },
        })
    }
}
