//! What OpenMLS runs on: cryptography, randomness and storage, for the span of one transaction.
//!
//! [`Crypto`] is OpenMLS's RustCrypto provider with one suite more: 0x004D, of which that provider has every
//! primitive but which it does not list (openmls issue 1940). It also does X-Wing encapsulation with our
//! randomness instead of the system's, so that a simulation replays bit for bit. Interoperation with an
//! independent implementation that lists the suite (libcrux) is a test.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

use hpke_rs::{Context, Hpke, Mode, hpke_types};
use hpke_rs_rust_crypto::HpkeRustCrypto;
use openmls::prelude::tls_codec::SecretVLBytes;
use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::random::OpenMlsRand;
use openmls_traits::types::{
    AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeAeadType, HpkeCiphertext, HpkeConfig,
    HpkeKdfType, HpkeKemType, HpkeKeyPair, KemOutput, SignatureScheme,
};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use super::SUITE;
use super::storage::Storage;
use crate::conversation::ConversationId;
use crate::inbox::encapsulate;
use crate::store::Transaction;

/// Everything that OpenMLS needs, bound to one transaction: what it writes lasts if and only if that one
/// commits.
pub struct Provider<'t> {
    crypto: Crypto,
    rand: Rand,
    storage: Storage<'t>,
}

impl<'t> Provider<'t> {
    /// The provider of a transaction, for the groups of one conversation of this device, or for what belongs
    /// to none (key packages). Its randomness comes from the transaction's.
    pub fn new(tx: &'t Transaction<'t>, scope: Option<ConversationId>) -> Self {
        let seeded = || ChaCha20Rng::from_seed(*Zeroizing::new(tx.draw_seed()));
        Self {
            crypto: Crypto { rust: &RUST_CRYPTO, rng: Mutex::new(seeded()) },
            rand: Rand(RefCell::new(seeded())),
            storage: Storage::new(tx, scope),
        }
    }

    pub(super) fn rows(&self) -> &Storage<'t> {
        &self.storage
    }
}

impl fmt::Debug for Provider<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

impl<'t> OpenMlsProvider for Provider<'t> {
    type CryptoProvider = Crypto;
    type RandProvider = Rand;
    type StorageProvider = Storage<'t>;

    fn storage(&self) -> &Storage<'t> {
        &self.storage
    }

    fn crypto(&self) -> &Crypto {
        &self.crypto
    }

    fn rand(&self) -> &Rand {
        &self.rand
    }
}

/// Randomness of one transaction.
pub struct Rand(RefCell<ChaCha20Rng>);

impl OpenMlsRand for Rand {
    type Error = Infallible;

    fn random_array<const N: usize>(&self) -> Result<[u8; N], Infallible> {
        let mut bytes = [0; N];
        self.0.borrow_mut().fill_bytes(&mut bytes);
        Ok(bytes)
    }

    fn random_vec(&self, len: usize) -> Result<Vec<u8>, Infallible> {
        let mut bytes = vec![0; len];
        self.0.borrow_mut().fill_bytes(&mut bytes);
        Ok(bytes)
    }
}

/// One for all: it has no state but a random source, which nothing here draws from.
static RUST_CRYPTO: LazyLock<RustCrypto> = LazyLock::new(RustCrypto::default);

/// RustCrypto, and suite 0x004D. Only that suite is supported: a group of another one is none of ours.
pub struct Crypto {
    rust: &'static RustCrypto,
    rng: Mutex<ChaCha20Rng>,
}

impl Crypto {
    /// RFC 9180's sender side with our randomness. `None` for a configuration other than the suite's, or a
    /// bad key.
    fn setup_sender(
        &self,
        config: HpkeConfig,
        public: &[u8],
        info: &[u8],
    ) -> Option<(Vec<u8>, Context<HpkeRustCrypto>)> {
        let HpkeConfig(HpkeKemType::XWingKemDraft6, HpkeKdfType::HkdfSha256, HpkeAeadType::ChaCha20Poly1305) =
            config
        else {
            return None;
        };
        let mut randomness = Zeroizing::new([0; 64]);
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut *randomness);
        let (encapsulated, shared) = encapsulate(public, &randomness)?;
        let suite = Hpke::<HpkeRustCrypto>::new(
            Mode::Base,
            hpke_types::KemAlgorithm::XWingDraft06,
            hpke_types::KdfAlgorithm::HkdfSha256,
            hpke_types::AeadAlgorithm::ChaCha20Poly1305,
        );
        Some((encapsulated, suite.key_schedule(&shared, info, &[], &[]).ok()?))
    }
}

impl OpenMlsCrypto for Crypto {
    fn supports(&self, suite: Ciphersuite) -> Result<(), CryptoError> {
        if suite == SUITE { Ok(()) } else { Err(CryptoError::UnsupportedCiphersuite) }
    }

    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        vec![SUITE]
    }

    fn hpke_seal(
        &self,
        config: HpkeConfig,
        public: &[u8],
        info: &[u8],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        let (encapsulated, mut context) =
            self.setup_sender(config, public, info).ok_or(CryptoError::SenderSetupError)?;
        let ciphertext = context.seal(aad, plaintext).map_err(|_| CryptoError::HpkeEncryptionError)?;
        Ok(HpkeCiphertext { kem_output: encapsulated.into(), ciphertext: ciphertext.into() })
    }

    fn hpke_setup_sender_and_export(
        &self,
        config: HpkeConfig,
        public: &[u8],
        info: &[u8],
        exporter_context: &[u8],
        exporter_length: usize,
    ) -> Result<(KemOutput, ExporterSecret), CryptoError> {
        let (encapsulated, context) =
            self.setup_sender(config, public, info).ok_or(CryptoError::SenderSetupError)?;
        let secret =
            context.export(exporter_context, exporter_length).map_err(|_| CryptoError::ExporterError)?;
        Ok((encapsulated, secret.into()))
    }

    /// Our signature keys are made by [`crate::identity::Device`]; RustCrypto would take randomness from the
    /// system.
    fn signature_key_gen(&self, _: SignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        Err(CryptoError::UnsupportedSignatureScheme)
    }

    // All that follows is RustCrypto's.

    fn hkdf_extract(&self, hash: HashType, salt: &[u8], ikm: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        self.rust.hkdf_extract(hash, salt, ikm)
    }

    fn hmac(&self, hash: HashType, key: &[u8], message: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        self.rust.hmac(hash, key, message)
    }

    fn hkdf_expand(
        &self,
        hash: HashType,
        prk: &[u8],
        info: &[u8],
        len: usize,
    ) -> Result<SecretVLBytes, CryptoError> {
        self.rust.hkdf_expand(hash, prk, info, len)
    }

    fn hash(&self, hash: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.rust.hash(hash, data)
    }

    fn aead_encrypt(
        &self,
        alg: AeadType,
        key: &[u8],
        data: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        self.rust.aead_encrypt(alg, key, data, nonce, aad)
    }

    fn aead_decrypt(
        &self,
        alg: AeadType,
        key: &[u8],
        ct_tag: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        self.rust.aead_decrypt(alg, key, ct_tag, nonce, aad)
    }

    fn verify_signature(
        &self,
        alg: SignatureScheme,
        data: &[u8],
        pk: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        self.rust.verify_signature(alg, data, pk, signature)
    }

    fn sign(&self, alg: SignatureScheme, data: &[u8], key: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.rust.sign(alg, data, key)
    }

    fn hpke_open(
        &self,
        config: HpkeConfig,
        input: &HpkeCiphertext,
        sk_r: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        self.rust.hpke_open(config, input, sk_r, info, aad)
    }

    fn hpke_setup_receiver_and_export(
        &self,
        config: HpkeConfig,
        enc: &[u8],
        sk_r: &[u8],
        info: &[u8],
        exporter_context: &[u8],
        exporter_length: usize,
    ) -> Result<ExporterSecret, CryptoError> {
        self.rust.hpke_setup_receiver_and_export(config, enc, sk_r, info, exporter_context, exporter_length)
    }

    fn derive_hpke_keypair(&self, config: HpkeConfig, ikm: &[u8]) -> Result<HpkeKeyPair, CryptoError> {
        self.rust.derive_hpke_keypair(config, ikm)
    }
}
