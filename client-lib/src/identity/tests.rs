//! Frozen vectors, forgeries, and what `Debug` shows.

use data_encoding::HEXLOWER;
use posthorn_proto::{DeviceId, Handle, MailboxId, PostKey, RelayIdentity};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::inbox::{InboxAddress, InboxSecret};

/// Unix milliseconds; small, so that versions can lie before and after it.
const NOW: u64 = 10;

fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

fn device(seed: u8) -> Device {
    Device::from_seeds(DeviceId([seed; 16]), &[seed; 32], &[seed; 32])
}

fn handle() -> Handle {
    Handle::parse("alice").expect("a handle")
}

fn relay() -> RelayAddress {
    RelayAddress {
        url: RelayUrl::parse("wss://relay.example:443").expect("a URL"),
        identity: RelayIdentity([5; 32]),
    }
}

fn card_device(identity: &Identity, seed: u8) -> CardDevice {
    let device = device(seed);
    CardDevice {
        credential: Credential::issue(identity, &device, &handle(), &relay().identity),
        signature_key: device.signature_key(),
        public_inbox: InboxAddress {
            relay: relay(),
            mailbox: MailboxId([seed; 16]),
            post_key: PostKey::from_bytes([seed; 32]),
            key: InboxSecret::from_seed([seed; 32]).key(),
        },
    }
}

fn card(version: u64) -> Card {
    let identity = identity(1);
    let devices = vec![card_device(&identity, 2), card_device(&identity, 3)];
    Card::issue(&identity, version, handle(), relay(), devices).expect("fits")
}

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.trim().as_bytes()).expect("hex")
}

#[test]
fn keys_are_those_of_rfc_8032() {
    // RFC 8032 section 7.1, test 1.
    let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let identity = Identity::from_seed(&seed.try_into().expect("32 bytes"));
    let key = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    assert_eq!(identity.key().as_bytes()[..], key[..]);
    assert_eq!(identity.expose_seed()[..2], [0x9d, 0x61]);
}

#[test]
fn a_signature_serves_one_purpose_and_one_list_of_fields() {
    let identity = identity(1);
    let signature = identity.sign("posthorn v1 test", &[b"ab", b"c"]);
    let key = identity.key();
    assert!(key.has_signed("posthorn v1 test", &[b"ab", b"c"], &signature));
    assert!(!key.has_signed("posthorn v1 other", &[b"ab", b"c"], &signature));
    assert!(!key.has_signed("posthorn v1 test", &[b"a", b"bc"], &signature));
    assert!(!key.has_signed("posthorn v1 test", &[b"abc"], &signature));
    assert!(!key.has_signed("posthorn v1 test", &[b"ab", b"c"], &signature[..63]));
    let frozen = include_str!("vectors/signature.hex").trim();
    assert_eq!(HEXLOWER.encode(&signature), frozen);
}

#[test]
fn keys_of_small_order_are_none() {
    let mut identity_point = [0; 32];
    identity_point[0] = 1;
    let mut no_point = [0; 32];
    no_point[0] = 2;
    for bad in [&identity_point[..], &[0; 32], &no_point, &[1; 31]] {
        assert_eq!(IdentityKey::try_from(bad), Err(BadIdentityKey));
    }
}

#[test]
fn credentials_are_frozen_and_bound() {
    let (identity, device) = (identity(1), device(2));
    let credential = Credential::issue(&identity, &device, &handle(), &relay().identity);
    assert_eq!(HEXLOWER.encode(credential.encoded()), include_str!("vectors/credential.hex").trim());
    assert!(credential.encoded().len() < 200);

    let parsed = || UnverifiedCredential::parse(credential.encoded()).expect("well formed");
    assert_eq!(parsed().verify(&device.signature_key()), Ok(credential.clone()));
    assert_eq!(parsed().verify(&self::device(3).signature_key()), Err(CredentialError::Signature));

    let tampered = |change: fn(&mut wire::Credential)| {
        let mut raw = wire::Credential::decode(credential.encoded()).expect("decodes");
        change(&mut raw);
        UnverifiedCredential::parse(&raw.encode_to_vec())
            .and_then(|credential| credential.verify(&self::device(2).signature_key()))
    };
    // A field that nobody knows: bytes in which something could be hidden.
    let more = [credential.encoded(), &[0x78, 1]].concat();
    assert_eq!(UnverifiedCredential::parse(&more).err(), Some(CredentialError::Malformed("not canonical")));
    assert_eq!(tampered(|raw| raw.generation = 1), Err(CredentialError::Malformed("generation")));
    assert_eq!(tampered(|raw| raw.handle = "mallory".into()), Err(CredentialError::Signature));
    assert_eq!(tampered(|raw| raw.device_id[0] ^= 1), Err(CredentialError::Signature));
    assert_eq!(
        tampered(|raw| raw.identity_key = self::identity(9).key().as_bytes().to_vec()),
        Err(CredentialError::Signature)
    );
    assert_eq!(tampered(|raw| raw.handle = "Alice".into()), Err(CredentialError::Malformed("handle")));
    assert_eq!(tampered(|raw| raw.signature.truncate(1)), Err(CredentialError::Malformed("signature")));
    assert_eq!(UnverifiedCredential::parse(&[0; 513]).err(), Some(CredentialError::Malformed("too long")));
}

#[test]
fn cards_are_frozen_and_verified() {
    let frozen = hex(include_str!("vectors/card.hex"));
    assert_eq!(card(7).encoded(), frozen);
    let read =
        UnverifiedCard::new(&frozen).expect("fits").verify(Some(&identity(1).key()), NOW).expect("verifies");
    assert_eq!(read, card(7));
    assert_eq!((read.version(), read.devices().len(), read.handle().as_str()), (7, 2, "alice"));
    let wrong = UnverifiedCard::new(&frozen).expect("fits").verify(Some(&identity(9).key()), NOW);
    assert_eq!(wrong, Err(CardError::WrongIdentity));
}

/// Finding 21: no later card could take the place of one with the highest number.
#[test]
fn a_card_of_the_far_future_is_refused() {
    const DAY: u64 = 24 * 3600 * 1000;
    let verify =
        |version| UnverifiedCard::new(card(version).encoded()).expect("fits").verify(None, NOW).map(|_| ());
    assert_eq!(verify(NOW + DAY), Ok(()));
    for version in [NOW + DAY + 1, u64::MAX] {
        assert_eq!(verify(version), Err(CardError::Malformed("version")));
    }
}

#[test]
fn forged_cards_are_refused() {
    let verify = |raw: wire::Card| UnverifiedCard::new(&raw.encode_to_vec()).expect("fits").verify(None, NOW);
    let raw = || wire::Card::decode(card(7).encoded()).expect("decodes");
    let mut bent = raw();
    bent.signature[5] ^= 1;
    assert_eq!(verify(bent), Err(CardError::Signature));
    let mut bent = raw();
    let last = bent.body.len() - 1;
    bent.body[last] ^= 1;
    assert_eq!(verify(bent), Err(CardError::Signature));

    // Signed by the identity itself, but with a device of somebody else's.
    let resigned = |change: fn(&mut wire::CardBody)| {
        let mut body = wire::CardBody::decode(&raw().body[..]).expect("decodes");
        change(&mut body);
        let body = body.encode_to_vec();
        let signature = identity(1).sign("posthorn v1 contact card", &[&body]).to_vec();
        verify(wire::Card { body, signature })
    };
    assert_eq!(
        resigned(
            |body| body.devices[0].credential = card_device(&identity(9), 2).credential.encoded().to_vec()
        ),
        Err(CardError::Device)
    );
    assert_eq!(resigned(|body| body.devices[0].device_id[0] ^= 1), Err(CardError::Device));
    assert_eq!(resigned(|body| body.devices[0].signature_key[0] ^= 1), Err(CardError::Device));
    assert_eq!(
        resigned(|body| body.devices[0].public_inbox = None),
        Err(CardError::Malformed("public inbox"))
    );
    assert_eq!(resigned(|body| body.relay_url = "http://x".into()), Err(CardError::Malformed("relay url")));
    assert!(resigned(|body| body.version = 8).is_ok());
}

#[test]
fn cards_have_a_limit() {
    let identity = identity(1);
    let devices = (0..12).map(|seed| card_device(&identity, seed)).collect();
    let card = Card::issue(&identity, 1, handle(), relay(), devices);
    assert!(matches!(card, Err(CardError::TooLong { got }) if got > Card::MOST_BYTES), "{card:?}");
    assert!(UnverifiedCard::new(&vec![0; Card::MOST_BYTES + 1]).is_err());
    let foreign = vec![card_device(&self::identity(9), 2)];
    assert_eq!(Card::issue(&identity, 1, handle(), relay(), foreign), Err(CardError::Device));
}

#[test]
fn links_go_round() {
    let key = identity(1).key();
    for (url, text) in [
        ("wss://relay.example:443", "posthorn://alice@relay.example:443/?k="),
        ("wss://relay.example", "posthorn://alice@relay.example/?k="),
        ("ws://127.0.0.1:7443", "posthorn+ws://alice@127.0.0.1:7443/?k="),
        ("ws://[::1]:7443", "posthorn+ws://alice@[::1]:7443/?k="),
    ] {
        let link = ContactLink::new(handle(), RelayUrl::parse(url).expect(url), key).expect("a link");
        let written = link.to_string();
        assert!(written.starts_with(text), "{written}");
        assert_eq!(written.parse(), Ok(link.clone()));
        assert_eq!(format!("  {written}\n").parse(), Ok(link.clone()));
        let (front, base32) = written.split_once("k=").expect("a key");
        assert_eq!(format!("{front}k={}", base32.to_ascii_uppercase()).parse(), Ok(link));
    }
    let with_path = RelayUrl::parse("wss://relay.example/posthorn").expect("a URL");
    assert_eq!(ContactLink::new(handle(), with_path, key), Err(LinkError::Relay));
}

#[test]
fn bad_links_say_in_one_line_what_to_do() {
    let good = ContactLink::new(handle(), relay().url, identity(1).key()).expect("a link").to_string();
    let key = good.split_once("k=").expect("a key").1;
    for (text, error) in [
        ("", LinkError::Scheme),
        ("https://relay.example", LinkError::Scheme),
        ("posthorn://relay.example/?k=", LinkError::Handle),
        ("posthorn://Alice@relay.example/?k=", LinkError::Handle),
        ("posthorn://alice@/?k=", LinkError::Relay),
        ("posthorn://alice@Relay.Example/?k=", LinkError::Relay),
        ("posthorn://alice@relay.example:0/?k=", LinkError::Relay),
        ("posthorn://alice@relay.example:99999/?k=", LinkError::Relay),
        ("posthorn://alice@relay.example:+80/?k=", LinkError::Relay),
        ("posthorn://alice@[::1/?k=", LinkError::Relay),
        ("posthorn://alice@relay.example", LinkError::Key),
        ("posthorn://alice@relay.example/?k=abc", LinkError::Key),
        (&format!("posthorn://alice@relay.example/?k={key}a"), LinkError::Key),
        (&format!("posthorn://alice@relay.example/?x={key}"), LinkError::Key),
    ] {
        assert_eq!(text.parse::<ContactLink>(), Err(error), "{text}");
        assert!(!error.to_string().contains('\n'));
    }
}

#[test]
fn safety_numbers_are_frozen_and_symmetric() {
    let (alice, bob, eve) = (identity(1).key(), identity(2).key(), identity(3).key());
    let number = safety_number(&alice, &bob);
    assert_eq!(number, safety_number(&bob, &alice));
    assert_ne!(number, safety_number(&alice, &eve));
    assert_eq!(number.to_string(), include_str!("vectors/safety_number.txt").trim());
    assert_eq!(number.digits().len(), 60);
    assert!(number.groups().all(|group| group.len() == 5 && group.bytes().all(|b| b.is_ascii_digit())));
}

#[test]
fn debug_hides_secrets() {
    let identity = identity(0x41);
    assert_eq!(format!("{identity:?}"), "Identity(secret)");
    assert_eq!(format!("{:?}", device(0x41)), "Device { id: DeviceId(4141..), .. }");
    let shown = format!("{:?}", card(1));
    assert!(shown.contains("PostKey(secret)") && !shown.contains("alice"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn parsers_survive_anything(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,80}") {
        let _ = UnverifiedCredential::parse(&bytes).map(|one| one.verify(&[1; 32]));
        let _ = UnverifiedCard::new(&bytes).map(|one| one.verify(None, NOW));
        let _ = InboxAddress::decode(&bytes);
        let _ = text.parse::<ContactLink>();
        let _ = format!("posthorn://{text}").parse::<ContactLink>();
        let _ = RelayUrl::parse(&format!("ws://{text}"));
    }

    #[test]
    fn no_bent_card_verifies(at in 0usize..4096, bit in 0u8..8) {
        let mut bytes = card(7).encoded().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(UnverifiedCard::new(&bytes).expect("fits").verify(Some(&identity(1).key()), NOW).is_err());
    }
}
