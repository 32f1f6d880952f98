//! Envelopes open where they were sealed and nowhere else; the bytes are frozen.

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;

fn slot() -> Slot {
    Slot { mailbox: MailboxId([1; 16]), post: PostId([2; 16]), turn: TurnHash([3; 32]) }
}

fn key() -> EnvelopeKey {
    EnvelopeKey::from_bytes([7; 32])
}

#[test]
fn the_bytes_are_frozen() {
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let envelope = key().seal(&slot(), b"ein Posthorn", &mut rng).expect("fits");
    let vector = include_str!("vectors/envelope.hex").trim();
    assert_eq!(HEXLOWER.encode(&envelope), vector);
    let frozen = HEXLOWER.decode(vector.as_bytes()).expect("hex");
    assert_eq!(key().open(&slot(), &frozen).expect("opens"), b"ein Posthorn");
}

#[test]
fn it_opens_only_in_its_slot() {
    let mut rng = ChaCha20Rng::from_seed([0; 32]);
    let envelope = key().seal(&slot(), b"x", &mut rng).expect("fits");
    for elsewhere in [
        Slot { mailbox: MailboxId([9; 16]), ..slot() },
        Slot { post: PostId([9; 16]), ..slot() },
        Slot { turn: TurnHash::NONE, ..slot() },
    ] {
        assert_eq!(key().open(&elsewhere, &envelope), Err(EnvelopeError::Seal));
    }
    let other = EnvelopeKey::from_bytes([8; 32]);
    assert_eq!(other.open(&slot(), &envelope), Err(EnvelopeError::Seal));
}

#[test]
fn odd_lengths_and_bad_padding_are_told_apart() {
    assert_eq!(key().open(&slot(), &[]), Err(EnvelopeError::Length { got: 0 }));
    assert_eq!(key().open(&slot(), &[0; 257]), Err(EnvelopeError::Length { got: 257 }));
    // A length that points past the end, and a byte that is not zero, sealed by one who has the key.
    for bad in [vec![0xff; 256 - 40], {
        let mut padded = pad(b"x", 256 - 40);
        padded[200] = 1;
        padded
    }] {
        let nonce = [0; 24];
        let sealed = XChaCha20Poly1305::new((&[7; 32]).into())
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: &bad, aad: &slot().associated_data() })
            .expect("short");
        let envelope = [&nonce[..], &sealed].concat();
        assert_eq!(key().open(&slot(), &envelope), Err(EnvelopeError::Padding));
    }
}

#[test]
fn the_limit_is_exact() {
    let mut rng = ChaCha20Rng::from_seed([0; 32]);
    let envelope = key().seal(&slot(), &vec![1; MOST_DATA], &mut rng).expect("fits");
    assert_eq!(envelope.len(), LONGEST);
    assert_eq!(
        key().seal(&slot(), &vec![1; MOST_DATA + 1], &mut rng),
        Err(EnvelopeError::TooLong { got: MOST_DATA + 1 })
    );
}

#[test]
fn debug_hides_the_key() {
    assert_eq!(format!("{:?}", EnvelopeKey::from_bytes([0x41; 32])), "EnvelopeKey(secret)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens(data in proptest::collection::vec(any::<u8>(), 0..9000), seed: [u8; 32]) {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let envelope = key().seal(&slot(), &data, &mut rng).expect("fits");
        prop_assert!(is_standard_length(envelope.len()));
        prop_assert_eq!(key().open(&slot(), &envelope).expect("opens"), data);
    }

    #[test]
    fn a_flipped_bit_is_noticed(bit in 0usize..256 * 8) {
        let mut rng = ChaCha20Rng::from_seed([5; 32]);
        let mut envelope = key().seal(&slot(), b"data", &mut rng).expect("fits");
        envelope[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(key().open(&slot(), &envelope), Err(EnvelopeError::Seal));
    }
}
