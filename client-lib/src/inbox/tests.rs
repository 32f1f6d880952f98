//! Sealed messages open in their place and nowhere else; the bytes are frozen.

use data_encoding::HEXLOWER;
use posthorn_proto::{MailboxId, PostId, PostKey, RelayIdentity};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::envelope::is_standard_length;
use crate::identity::{RelayAddress, RelayUrl};

const MAILBOX: MailboxId = MailboxId([1; 16]);
const POST: PostId = PostId([2; 16]);

fn secret() -> InboxSecret {
    InboxSecret::from_seed([7; 32])
}

#[test]
fn the_bytes_are_frozen() {
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let sealed = secret().key().seal(&MAILBOX, &POST, b"an invitation", &mut rng).expect("fits");
    assert_eq!(sealed.len(), 2048);
    let frozen = HEXLOWER.decode(include_str!("vectors/sealed.hex").trim().as_bytes()).expect("hex");
    assert_eq!(sealed, frozen);
    assert_eq!(secret().open(&MAILBOX, &POST, &frozen).expect("opens"), b"an invitation");
}

/// The library's own sender (with the system's randomness) and ours are the same HPKE.
#[test]
fn the_library_seals_what_we_open() {
    use hpke_rs::{Hpke, HpkePublicKey, Mode, hpke_types};
    let mut sender = Hpke::<hpke_rs_rust_crypto::HpkeRustCrypto>::new(
        Mode::Base,
        hpke_types::KemAlgorithm::XWingDraft06,
        hpke_types::KdfAlgorithm::HkdfSha256,
        hpke_types::AeadAlgorithm::ChaCha20Poly1305,
    );
    let key = HpkePublicKey::from(&secret().key().as_bytes()[..]);
    let padded = pad(b"hello", 2048 - 1120 - 16);
    let (encapsulated, ciphertext) =
        sender.seal(&key, &info(&MAILBOX, &POST), &[], &padded, None, None, None).expect("seals");
    let sealed = [encapsulated, ciphertext].concat();
    assert_eq!(secret().open(&MAILBOX, &POST, &sealed).expect("opens"), b"hello");
}

#[test]
fn it_opens_only_for_its_owner_in_its_place() {
    let mut rng = ChaCha20Rng::from_seed([0; 32]);
    let sealed = secret().key().seal(&MAILBOX, &POST, b"x", &mut rng).expect("fits");
    let seal = Err(InboxError::Seal);
    assert_eq!(secret().open(&MailboxId([9; 16]), &POST, &sealed), seal);
    assert_eq!(secret().open(&MAILBOX, &PostId([9; 16]), &sealed), seal);
    assert_eq!(InboxSecret::from_seed([8; 32]).open(&MAILBOX, &POST, &sealed), seal);
    assert_eq!(secret().open(&MAILBOX, &POST, &sealed[..512]), Err(InboxError::Length { got: 512 }));
    assert_eq!(secret().open(&MAILBOX, &POST, &[]), Err(InboxError::Length { got: 0 }));
    for at in [0, 1119, 1120, 2047] {
        let mut bent = sealed.clone();
        bent[at] ^= 1;
        assert_eq!(secret().open(&MAILBOX, &POST, &bent), seal, "{at}");
    }
}

#[test]
fn lengths_and_keys_are_checked() {
    let mut rng = ChaCha20Rng::from_seed([0; 32]);
    let key = secret().key();
    let longest = key.seal(&MAILBOX, &POST, &vec![1; MOST_DATA], &mut rng).expect("fits");
    assert_eq!(longest.len(), LONGEST);
    let too_long = key.seal(&MAILBOX, &POST, &vec![1; MOST_DATA + 1], &mut rng);
    assert_eq!(too_long, Err(InboxError::TooLong { got: MOST_DATA + 1 }));

    assert_eq!(InboxKey::try_from(&[1; 1215][..]), Err(InboxError::Key));
    // Coefficients above ML-KEM's modulus.
    let no_key = InboxKey::try_from(&[0xff; 1216][..]).expect("the length is right");
    assert!(!no_key.is_valid() && key.is_valid());
    assert_eq!(no_key.seal(&MAILBOX, &POST, b"x", &mut rng), Err(InboxError::Key));
}

/// Finding 14: it stands in leaves, and whatever else stood there everybody would have to keep.
#[test]
fn an_address_has_one_encoding() {
    let address = InboxAddress {
        relay: RelayAddress {
            url: RelayUrl::parse("ws://127.0.0.1:4100").expect("a URL"),
            identity: RelayIdentity([7; 32]),
        },
        mailbox: MAILBOX,
        post_key: PostKey::from_bytes([8; 32]),
        key: secret().key(),
    };
    let encoded = address.encode();
    assert_eq!(InboxAddress::decode(&encoded), Ok(address));
    // A field that nobody knows, and one that comes twice.
    for more in [&[0x78, 1][..], &encoded] {
        let bent = [&encoded, more].concat();
        assert_eq!(InboxAddress::decode(&bent), Err(InboxError::Address("encoding")));
    }
}

#[test]
fn debug_hides_the_secret() {
    assert_eq!(format!("{:?}", InboxSecret::from_seed([0x41; 32])), "InboxSecret(secret)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_is_sealed_opens(data in proptest::collection::vec(any::<u8>(), 0..6000), seed: [u8; 32]) {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let sealed = secret().key().seal(&MAILBOX, &POST, &data, &mut rng).expect("fits");
        prop_assert!(is_standard_length(sealed.len()));
        prop_assert_eq!(secret().open(&MAILBOX, &POST, &sealed).expect("opens"), data);
    }
}
