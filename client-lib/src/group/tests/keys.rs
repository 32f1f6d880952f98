//! Keys that nothing can be encrypted to, and Welcomes without the secrets of the joiner's path. Mallory runs
//! OpenMLS on a provider that spoils them.

use std::sync::atomic::{AtomicUsize, Ordering};

use openmls::prelude::tls_codec::{Deserialize as _, SecretVLBytes, Serialize as _, VLBytes};
use openmls::prelude::{
    Ciphersuite, Extension, Extensions, KeyPackage as Mls, KeyPackageBundle, MlsMessageBodyIn, MlsMessageIn,
    UnknownExtension,
};
use openmls_traits::OpenMlsProvider;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::types::{
    AeadType, CryptoError, ExporterSecret, HashType, HpkeCiphertext, HpkeConfig, HpkeKeyPair, KemOutput,
    SignatureScheme,
};
use prost::Message as _;

use super::party::{NOW, Party, gather};
use super::refusals::{leaf, raw_group, three};
use crate::group::info::{LIFETIME_EXTENSION, capabilities, leaf_extensions};
use crate::group::key_package::unlimited;
use crate::group::provider::{Crypto, Rand};
use crate::group::storage::Storage;
use crate::group::{
    Change, GroupError, KeyPackageError, Provider, Refusal, SUITE, UnverifiedKeyPackage, wire,
};

/// So many keys are not made.
const NEVER: usize = 1 << 20;

/// A provider that spoils one of the HPKE keys that it makes: coefficients above ML-KEM's modulus (FIPS 203
/// section 7.2).
struct Spoiling<'a, 't> {
    inner: &'a Provider<'t>,
    crypto: SpoilingCrypto<'a>,
}

struct SpoilingCrypto<'a> {
    inner: &'a Crypto,
    /// So many keys are made well before.
    good: AtomicUsize,
}

impl<'a, 't> Spoiling<'a, 't> {
    fn after(good: usize, inner: &'a Provider<'t>) -> Self {
        Self { inner, crypto: SpoilingCrypto { inner: inner.crypto(), good: AtomicUsize::new(good) } }
    }
}

impl<'a, 't> OpenMlsProvider for Spoiling<'a, 't> {
    type CryptoProvider = SpoilingCrypto<'a>;
    type RandProvider = Rand;
    type StorageProvider = Storage<'t>;

    fn storage(&self) -> &Storage<'t> {
        self.inner.storage()
    }

    fn crypto(&self) -> &SpoilingCrypto<'a> {
        &self.crypto
    }

    fn rand(&self) -> &Rand {
        self.inner.rand()
    }
}

/// `name(arguments) -> result`, as the honest provider does it.
macro_rules! honest {
    ($($name:ident($($argument:ident: $of:ty),*) -> $result:ty;)*) => {$(
        fn $name(&self, $($argument: $of),*) -> $result {
            self.inner.$name($($argument),*)
        }
    )*};
}

impl OpenMlsCrypto for SpoilingCrypto<'_> {
    fn derive_hpke_keypair(&self, config: HpkeConfig, ikm: &[u8]) -> Result<HpkeKeyPair, CryptoError> {
        let mut pair = self.inner.derive_hpke_keypair(config, ikm)?;
        if self.good.fetch_sub(1, Ordering::Relaxed) == 0 {
            pair.public[..384].fill(0xff);
        }
        Ok(pair)
    }

    /// Goes on where an honest provider fails: what is for a bad key is nothing.
    fn hpke_seal(
        &self,
        config: HpkeConfig,
        key: &[u8],
        info: &[u8],
        aad: &[u8],
        text: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        let nothing = HpkeCiphertext { kem_output: vec![0; 1120].into(), ciphertext: vec![0; 48].into() };
        Ok(self.inner.hpke_seal(config, key, info, aad, text).unwrap_or(nothing))
    }

    honest! {
        supports(suite: Ciphersuite) -> Result<(), CryptoError>;
        supported_ciphersuites() -> Vec<Ciphersuite>;
        hkdf_extract(hash: HashType, salt: &[u8], ikm: &[u8]) -> Result<SecretVLBytes, CryptoError>;
        hmac(hash: HashType, key: &[u8], message: &[u8]) -> Result<SecretVLBytes, CryptoError>;
        hkdf_expand(hash: HashType, prk: &[u8], info: &[u8], len: usize) -> Result<SecretVLBytes, CryptoError>;
        hash(hash: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError>;
        aead_encrypt(alg: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Result<Vec<u8>, CryptoError>;
        aead_decrypt(alg: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Result<Vec<u8>, CryptoError>;
        signature_key_gen(alg: SignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError>;
        verify_signature(alg: SignatureScheme, data: &[u8], key: &[u8], signature: &[u8]) -> Result<(), CryptoError>;
        sign(alg: SignatureScheme, data: &[u8], key: &[u8]) -> Result<Vec<u8>, CryptoError>;
        hpke_open(config: HpkeConfig, input: &HpkeCiphertext, key: &[u8], info: &[u8], aad: &[u8]) -> Result<Vec<u8>, CryptoError>;
        hpke_setup_sender_and_export(config: HpkeConfig, key: &[u8], info: &[u8], context: &[u8], length: usize) -> Result<(KemOutput, ExporterSecret), CryptoError>;
        hpke_setup_receiver_and_export(config: HpkeConfig, enc: &[u8], key: &[u8], info: &[u8], context: &[u8], length: usize) -> Result<ExporterSecret, CryptoError>;
    }
}

/// A path commit of which one key is spoiled, with newcomers: (commit, welcome).
fn spoiled_commit(party: &mut Party, good: usize, add: Vec<Mls>) -> (Vec<u8>, Option<Vec<u8>>) {
    party.act(|provider, me| {
        let spoiling = Spoiling::after(good, provider);
        let mut group = raw_group(provider);
        let bundle = group
            .commit_builder()
            .force_self_update(true)
            .leaf_node_parameters(leaf(me))
            .propose_adds(add)
            .load_psks(provider.storage())
            .expect("none")
            .use_ratchet_tree_extension(true)
            .build(spoiling.rand(), spoiling.crypto(), &me.leaf(), |_| true)
            .expect("valid MLS")
            .stage_commit(&spoiling)
            .expect("stages");
        let (commit, welcome, _) = bundle.into_messages();
        (commit.to_bytes().expect("bytes"), welcome.map(|welcome| welcome.to_bytes().expect("bytes")))
    })
}

/// A key package in our form, after so many good keys.
fn spoiled_package(party: &mut Party, good: usize) -> Mls {
    let lifetime = wire::KeyPackageLifetime { not_before: NOW / 1000, not_after: NOW / 1000 + 1 };
    let lifetime = Extension::Unknown(LIFETIME_EXTENSION, UnknownExtension(lifetime.encode_to_vec()));
    party.act(|provider, me| {
        Mls::builder()
            .key_package_lifetime(unlimited())
            .leaf_node_capabilities(capabilities())
            .leaf_node_extensions(leaf_extensions(None).expect("fits"))
            .key_package_extensions(Extensions::single(lifetime).expect("one"))
            .build(SUITE, &Spoiling::after(good, provider), &me.leaf(), me.leaf().credential_with_key())
            .expect("builds")
            .into_key_package()
    })
}

/// The reason why a member refuses a commit; it must stay where it is.
fn refusal(party: &mut Party, commit: &[u8]) -> GroupError {
    party.talk(|group, _| {
        let epoch = group.epoch();
        let refused = group.receive(commit, &[]).map(|_| ()).expect_err("a spoiled commit");
        assert_eq!(group.epoch(), epoch);
        refused
    })
}

/// Both the init key and the key of the leaf: nobody could send a Welcome to the one, or commit past the
/// other.
#[test]
fn a_newcomer_with_a_bad_key_is_refused_by_who_adds() {
    for good in [0, 1] {
        let (mut alice, mut dave) = (Party::new("alice"), Party::new("dave"));
        let bytes = spoiled_package(&mut dave, good).tls_serialize_detached().expect("bytes");
        let refused = alice.act(|provider, _| {
            let package = UnverifiedKeyPackage::parse(&bytes).expect("well formed");
            package.verify(provider, &dave.me.credential.identity(), NOW)
        });
        assert_eq!(refused.err(), Some(KeyPackageError::Malformed), "{good}");
    }
}

/// Mallory leaves them out of the Welcome, or writes rubbish there.
#[test]
fn a_newcomer_with_a_bad_key_is_refused_by_everybody() {
    for good in [0, 1] {
        let mut parties = three();
        let package = spoiled_package(&mut Party::new("dave"), good);
        let (commit, _) = spoiled_commit(&mut parties[1], NEVER, vec![package]);
        let [alice, _, carol] = &mut parties;
        for party in [&mut *alice, &mut *carol] {
            let refused = refusal(party, &commit);
            assert!(matches!(refused, GroupError::Refused(Refusal::Key)), "{good}: {refused:?}");
        }
        let message = alice.say(b"still here");
        carol.hear(&message).expect("decrypts");
    }
}

/// Mallory's path: the node above her and alice and the root, whose keys OpenMLS makes side by side, then her
/// leaf. Who learns a node's secret compares the keys; carol learns none of the first node, and would find
/// out when she next has to encrypt to it.
#[test]
fn a_path_with_a_bad_key_is_refused() {
    let differs = |error: &GroupError| matches!(error, GroupError::Invalid(_));
    let is_bad = |error: &GroupError| matches!(error, GroupError::Refused(Refusal::Key));
    for (good, is_leaf) in [(0, false), (1, false), (2, true)] {
        let mut parties = three();
        let (commit, _) = spoiled_commit(&mut parties[1], good, Vec::new());
        let [alice, _, carol] = &mut parties;
        let [by_alice, by_carol] = [&mut *alice, &mut *carol].map(|party| refusal(party, &commit));
        let fits = match is_leaf {
            true => is_bad(&by_alice) && is_bad(&by_carol),
            false => differs(&by_alice) && (differs(&by_carol) || is_bad(&by_carol)),
        };
        assert!(fits, "{good}: {by_alice:?}, {by_carol:?}");
        let message = alice.say(b"still here");
        carol.hear(&message).expect("decrypts");
    }
    // Unspoiled, the same commit counts.
    let mut parties = three();
    let (commit, _) = spoiled_commit(&mut parties[1], NEVER, Vec::new());
    parties[0].follow(&commit).expect("applies");
    parties[2].follow(&commit).expect("applies");
}

/// A group that only mallory's devices were in so far: nobody has looked at its keys.
#[test]
fn a_tree_with_a_bad_key_is_not_joined() {
    for (good, is_good) in [(0, false), (2, false), (NEVER, true)] {
        let mut parties = ["mallory", "dave"].map(Party::new);
        gather(&mut parties);
        let mut carol = Party::new("carol");
        let package = carol.offer(&mut parties[0]);
        let (_, welcome) = spoiled_commit(&mut parties[0], good, vec![package.mls.clone()]);
        let joined = carol.join(&welcome.expect("added"));
        let fits = match is_good {
            true => joined.is_ok(),
            // OpenMLS makes the keys of a path side by side, so that it varies which is spoiled: one that the
            // joiner can derive, too, differs from what it derives.
            false => matches!(joined, Err(GroupError::Refused(Refusal::Key) | GroupError::Invalid(_))),
        };
        assert!(fits, "{good}: {joined:?}");
    }
}

/// A Welcome of a path commit, of which the path secret is gone.
fn without_path_secret(joiner: &mut Party, welcome: &[u8]) -> Vec<u8> {
    let message = MlsMessageIn::tls_deserialize_exact(welcome).expect("decodes");
    let MlsMessageBodyIn::Welcome(welcome) = message.extract() else { panic!("a welcome") };
    let [secrets] = welcome.secrets() else { panic!("one joiner") };
    let encoded = welcome.tls_serialize_detached().expect("bytes");
    let old = secrets.tls_serialize_detached().expect("bytes");
    // Welcome: suite, secrets<V>, group info<V>. EncryptedGroupSecrets: reference<V>, then the ciphertext.
    let mut rest = &encoded[2..];
    let mut field = || VLBytes::tls_deserialize(&mut rest).expect("a field");
    let (_, group_info) = (field(), field());
    let mut rest = &old[..];
    VLBytes::tls_deserialize(&mut rest).expect("the reference");
    let sealed = HpkeCiphertext::tls_deserialize_exact(rest).expect("a ciphertext");

    // EncryptWithLabel (RFC 9420 section 5.1.3), whose context is the encrypted group info.
    let label = VLBytes::from(&b"MLS 1.0 Welcome"[..]).tls_serialize_detached().expect("bytes");
    let context =
        [label, VLBytes::from(group_info.as_slice()).tls_serialize_detached().expect("bytes")].concat();
    let sealed = joiner.act(|provider, _| {
        let bundle: KeyPackageBundle =
            openmls_traits::storage::StorageProvider::key_package(provider.storage(), &secrets.new_member())
                .expect("reads")
                .expect("stored");
        let crypto = provider.crypto();
        let open = crypto.hpke_open(SUITE.hpke_config(), &sealed, bundle.init_private_key(), &context, &[]);
        let opened = open.expect("the joiner's own");
        // GroupSecrets: joiner secret<V>, optional path secret<V>, ids of pre-shared keys<V>.
        let mut rest = &opened[..];
        let joiner_secret = VLBytes::tls_deserialize(&mut rest).expect("a secret");
        assert_eq!(rest[0], 1, "a path secret is there");
        let joiner_secret = joiner_secret.tls_serialize_detached().expect("bytes");
        let stripped = [&joiner_secret[..], &[0, 0]].concat();
        let key = bundle.key_package().hpke_init_key().as_slice();
        crypto.hpke_seal(SUITE.hpke_config(), key, &context, &[], &stripped).expect("seals")
    });
    let secrets = openmls::messages::EncryptedGroupSecrets::new(secrets.new_member(), sealed);
    let secrets = VLBytes::from(secrets.tls_serialize_detached().expect("bytes"));
    // As an MlsMessage: version 1, a Welcome.
    [
        &[0, 1, 0, 3][..],
        &encoded[..2],
        &secrets.tls_serialize_detached().expect("bytes"),
        &group_info.tls_serialize_detached().expect("bytes"),
    ]
    .concat()
}

/// It would be joined without alarm, and the next commit that leaves our path as it is could not be applied.
#[test]
fn a_welcome_without_our_path_secret_is_refused() {
    for update_self in [true, false] {
        let mut parties = ["mallory", "dave", "erin"].map(Party::new);
        gather(&mut parties);
        let [mut mallory, ..] = parties;
        let mut carol = Party::new("carol");
        let add = vec![carol.offer(&mut mallory)];
        let staged = mallory.stage(&Change { add, update_self, ..Change::default() }).expect("stages");
        mallory.merge();
        let welcome = staged.welcome.expect("added");
        if update_self {
            let refused = {
                let stripped = without_path_secret(&mut carol, &welcome);
                carol.join(&stripped)
            };
            assert!(matches!(refused, Err(GroupError::Refused(Refusal::PathSecrets))), "{refused:?}");
        }
        // The honest one, with and without a path; then commits that leave carol's path as it is.
        carol.join(&welcome).expect("the key package is still there");
        let mut frank = Party::new("frank");
        let add = vec![frank.offer(&mut mallory)];
        let next = mallory.stage(&Change { add, ..Change::default() }).expect("stages");
        mallory.merge();
        carol.follow(&next.commit).expect("applies");
        frank.join(&next.welcome.expect("added")).expect("joins");
        let update = carol.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
        carol.merge();
        for party in [&mut mallory, &mut frank] {
            party.follow(&update.commit).expect("applies");
        }
        let message = frank.say(b"in");
        carol.hear(&message).expect("decrypts");
    }
}
