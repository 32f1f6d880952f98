//! What must hold for any bytes that reach a client's decoders from the relay, a member or a stranger. The
//! fuzz target `client` and the replay of its corpus (client-lib/tests/corpus.rs) share this file.

use posthorn_client::content::{Content, InboxMessage};
use posthorn_client::envelope::{EnvelopeKey, Slot};
use posthorn_client::group::UnverifiedKeyPackage;
use posthorn_client::identity::{ContactLink, Identity, RelayUrl, UnverifiedCard, UnverifiedCredential};
use posthorn_client::inbox::{InboxAddress, InboxSecret};
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{DeviceId, MailboxId, PostId};

/// Gives bytes to a decoder and checks what comes of it; whether they were understood.
type Decoder = fn(&[u8]) -> bool;

/// What the first byte of an input chooses.
pub(crate) const DECODERS: [(&str, Decoder); 10] = [
    ("card", card),
    ("credential", credential),
    ("inbox address", inbox_address),
    ("contact link", contact_link),
    ("key package", key_package),
    ("envelope", envelope),
    ("inbox seal", inbox_seal),
    ("inbox message", inbox_message),
    ("content", content),
    ("invitation", invitation),
];

/// Unix milliseconds at which everything is looked at.
pub(crate) const NOW: u64 = 1_800_000_000_000;
/// Whom invitations are for: this device, and the identity of this seed.
pub(crate) const RECIPIENT: (DeviceId, [u8; 32]) = (DeviceId([3; 16]), [5; 32]);

const SLOT: Slot = Slot { mailbox: MailboxId([1; 16]), post: PostId([2; 16]), turn: TurnHash::NONE };

/// Gives an input to its decoder. Whether it was understood; panics if a property breaks.
pub(crate) fn decode(input: &[u8]) -> bool {
    let [which, rest @ ..] = input else { return false };
    DECODERS[usize::from(*which) % DECODERS.len()].1(rest)
}

fn card(bytes: &[u8]) -> bool {
    let Ok(card) = UnverifiedCard::new(bytes).and_then(|card| card.verify(None, NOW)) else { return false };
    assert_eq!(card.encoded(), bytes, "a card is kept as it was signed");
    assert!(card.devices().iter().all(|device| device.credential.identity() == card.identity()));
    true
}

fn credential(bytes: &[u8]) -> bool {
    let [key @ .., _] = &[bytes, &[0; 33]].concat()[..33] else { return false };
    UnverifiedCredential::parse(bytes).is_ok_and(|credential| {
        assert!(
            credential.verify(key).is_err(),
            "nobody has signed for a key that is the credential's own first bytes"
        );
        true
    })
}

fn inbox_address(bytes: &[u8]) -> bool {
    let Ok(address) = InboxAddress::decode(bytes) else { return false };
    assert_eq!(InboxAddress::decode(&address.encode()).as_ref(), Ok(&address));
    // Whether the key is a point is found when something is sealed to it.
    let _ = address.key.is_valid();
    true
}

fn contact_link(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let _ = RelayUrl::parse(text).map(|url| assert_eq!(RelayUrl::parse(url.as_str()).as_ref(), Ok(&url)));
    let Ok(link) = text.parse::<ContactLink>() else { return false };
    assert_eq!(link.to_string().parse().as_ref(), Ok(&link), "a link says the same again");
    true
}

fn key_package(bytes: &[u8]) -> bool {
    UnverifiedKeyPackage::parse(bytes).is_ok()
}

fn envelope(bytes: &[u8]) -> bool {
    EnvelopeKey::from_bytes([3; 32]).open(&SLOT, bytes).is_ok()
}

fn inbox_seal(bytes: &[u8]) -> bool {
    InboxSecret::from_seed([4; 32]).open(&SLOT.mailbox, &SLOT.post, bytes).is_ok()
}

fn inbox_message(bytes: &[u8]) -> bool {
    match InboxMessage::decode(bytes) {
        Ok(InboxMessage::WelcomeRefused(refused)) => {
            assert!(refused.cause.len() <= 64 && refused.cause.is_ascii());
            assert!(InboxMessage::decode(&refused.encode()).is_ok());
            true
        }
        Ok(InboxMessage::Invitation(_) | InboxMessage::Help(_)) => true,
        Ok(InboxMessage::Unknown) | Err(_) => false,
    }
}

fn content(bytes: &[u8]) -> bool {
    let Ok(content) = Content::decode(bytes) else { return false };
    assert_eq!(Content::decode(&content.encode()).as_ref(), Ok(&content), "content says the same again");
    let line = content.said.read().line();
    assert!(!line.contains('\n') && line.chars().count() <= 161, "it is told in one line: {line:?}");
    true
}

fn invitation(bytes: &[u8]) -> bool {
    let Ok(InboxMessage::Invitation(unverified)) = InboxMessage::decode(bytes) else { return false };
    let (device, seed) = RECIPIENT;
    let identity = Identity::from_seed(&seed);
    unverified.verify(device, &identity.key(), NOW).is_ok_and(|invitation| {
        assert_eq!(invitation.recipient, (device, identity.key()), "it is for nobody else");
        true
    })
}
