//! HPKE (RFC 9180) base mode with X-Wing draft-06, HKDF-SHA256 and ChaCha20-Poly1305.
//!
//! The library's own `seal` takes its randomness from the system; ours comes in as a parameter, so the
//! encapsulation is done here with X-Wing itself and the library does the rest of RFC 9180 (key schedule,
//! nonces, AEAD). One message per encapsulation, no associated data.

use hpke_rs::hpke_types::{AeadAlgorithm, KdfAlgorithm, KemAlgorithm};
use hpke_rs::{Context, Hpke, HpkePrivateKey, Mode};
use hpke_rs_rust_crypto::HpkeRustCrypto;
use x_wing::{DecapsulationKey, EncapsulationKey, KeyExport, TryKeyInit};
use zeroize::Zeroizing;

pub(super) const PUBLIC_BYTES: usize = 1216;
pub(super) const ENCAPSULATED_BYTES: usize = 1120;
pub(super) const RANDOMNESS_BYTES: usize = 64;
pub(super) const TAG_BYTES: usize = 16;

fn suite() -> Hpke<HpkeRustCrypto> {
    Hpke::new(
        Mode::Base,
        KemAlgorithm::XWingDraft06,
        KdfAlgorithm::HkdfSha256,
        AeadAlgorithm::ChaCha20Poly1305,
    )
}

/// X-Wing's encapsulation with given randomness: (encapsulated key, shared secret), or `None` if `public` is
/// no key. The randomness must be fresh and uniform each time.
pub(crate) fn encapsulate(
    public: &[u8],
    randomness: &[u8; RANDOMNESS_BYTES],
) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let key = EncapsulationKey::new_from_slice(public).ok()?;
    let (encapsulated, shared) = key.encapsulate_deterministic(randomness.into());
    Some((encapsulated.to_vec(), Zeroizing::new(shared.to_vec())))
}

/// `encapsulated key || ciphertext`, or `None` if `public` is no key.
pub(super) fn seal(
    public: &[u8],
    info: &[u8],
    plaintext: &[u8],
    randomness: &[u8; RANDOMNESS_BYTES],
) -> Option<Vec<u8>> {
    let (encapsulated, shared) = encapsulate(public, randomness)?;
    let mut context: Context<HpkeRustCrypto> = suite().key_schedule(&shared, info, &[], &[]).ok()?;
    let ciphertext = context.seal(&[], plaintext).ok()?;
    Some([encapsulated, ciphertext].concat())
}

/// The plaintext, or `None` if anything does not fit.
pub(super) fn open(seed: &[u8; 32], info: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (encapsulated, ciphertext) = sealed.split_at_checked(ENCAPSULATED_BYTES)?;
    let secret = HpkePrivateKey::from(&seed[..]);
    suite().open(encapsulated, &secret, info, &[], ciphertext, None, None, None).ok()
}

/// The public key of a seed.
pub(super) fn public_key(seed: &[u8; 32]) -> [u8; PUBLIC_BYTES] {
    let mut bytes = [0; PUBLIC_BYTES];
    bytes
        .copy_from_slice(&x_wing::Decapsulator::encapsulation_key(&DecapsulationKey::from(*seed)).to_bytes());
    bytes
}

/// Whether these bytes are a key (ML-KEM's modulus check, FIPS 203 section 7.2).
pub(crate) fn is_public_key(bytes: &[u8]) -> bool {
    EncapsulationKey::new_from_slice(bytes).is_ok()
}
