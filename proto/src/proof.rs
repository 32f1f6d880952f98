//! How a relay proves its identity to somebody who does not say who he is: on the connection for mailboxes,
//! where no device authenticates.
//!
//! The client sends a fresh public key. The relay derives a key from the Diffie-Hellman result of its
//! identity with that one, and answers with a MAC under it. What the connection's `Hello` said is in the
//! derivation, so a proof is good for one connection. As in [`crate::auth`] there is no signature (the client
//! could have made the proof itself), and what is proven is the connection's beginning: its bytes are TLS's
//! to protect.
//!
//! The labels differ from those of [`crate::auth`]: no proof of one kind can be asked for as one of the
//! other.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac};
use rand::CryptoRng;
use sha2::Sha256;
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::auth::{Challenge, Proof, WrongProof};

/// Domain separation of the key derivation.
const LABEL: &[u8] = b"posthorn v1 relay";
/// MACed by the relay.
const IDENTITY_PROOF: &[u8] = b"identity";

/// A client's question whether the relay holds the secret of its identity. Good for one connection.
#[derive(ZeroizeOnDrop)]
pub struct RelayCheck(StaticSecret);

impl std::fmt::Debug for RelayCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RelayCheck(secret)")
    }
}

impl RelayCheck {
    /// A question with a fresh key.
    pub fn new(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Self(StaticSecret::from(*bytes))
    }

    /// The public key, for `ProveRelay`.
    pub fn ephemeral(&self) -> [u8; 32] {
        PublicKey::from(&self.0).to_bytes()
    }

    /// Checks, in constant time, that the relay holds the secret of the identity that `challenge` names.
    /// Whether that is the identity of the relay that was meant, is the caller's to compare.
    pub fn verify(&self, challenge: &Challenge, proof: &Proof) -> Result<(), WrongProof> {
        let shared = self.0.diffie_hellman(&PublicKey::from(challenge.relay_identity.0));
        mac(challenge, &self.ephemeral(), &shared)?.verify_slice(&proof.0).map_err(|_| WrongProof)
    }
}

/// The relay's answer: its proof to whoever holds the secret of `ephemeral`, on the connection whose `Hello`
/// said `challenge`. An error if `ephemeral` is of low order.
pub fn prove(
    identity: &StaticSecret,
    challenge: &Challenge,
    ephemeral: &[u8; 32],
) -> Result<Proof, WrongProof> {
    let shared = identity.diffie_hellman(&PublicKey::from(*ephemeral));
    Ok(Proof(mac(challenge, ephemeral, &shared)?.finalize().into_bytes().into()))
}

fn mac(
    challenge: &Challenge,
    ephemeral: &[u8; 32],
    shared: &SharedSecret,
) -> Result<Hmac<Sha256>, WrongProof> {
    // A low-order key would make the result known to everybody (RFC 7748, section 6.1).
    if !shared.was_contributory() {
        return Err(WrongProof);
    }
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(&challenge.nonce), shared.as_bytes())
        .expand_multi_info(
            &[LABEL, challenge.relay_identity.as_ref(), &challenge.ephemeral, ephemeral],
            &mut *key,
        )
        .expect("32 bytes are within HKDF's bound of 255 * 32");
    let mut mac = Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes keys of any length");
    mac.update(IDENTITY_PROOF);
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AccountKey;
    use crate::id::RelayIdentity;

    fn public(seed: u8) -> [u8; 32] {
        PublicKey::from(&StaticSecret::from([seed; 32])).to_bytes()
    }

    /// What the relay whose identity is made of `seed` says first.
    fn challenge(seed: u8) -> Challenge {
        Challenge { relay_identity: RelayIdentity(public(seed)), ephemeral: public(2), nonce: [4; 16] }
    }

    fn check() -> RelayCheck {
        RelayCheck(StaticSecret::from([5; 32]))
    }

    fn proof(identity: u8, challenge: &Challenge) -> Proof {
        prove(&StaticSecret::from([identity; 32]), challenge, &check().ephemeral()).expect("a good key")
    }

    /// Gives the bytes 0, 1, 2...
    struct Counting(u8);

    impl rand::RngCore for Counting {
        fn next_u32(&mut self) -> u32 {
            unreachable!("keys are filled")
        }

        fn next_u64(&mut self) -> u64 {
            unreachable!("keys are filled")
        }

        fn fill_bytes(&mut self, bytes: &mut [u8]) {
            bytes.fill_with(|| {
                self.0 += 1;
                self.0 - 1
            });
        }
    }

    impl CryptoRng for Counting {}

    #[test]
    fn the_right_relay_is_believed() {
        check().verify(&challenge(1), &proof(1, &challenge(1))).expect("it holds the key");
        assert_eq!(
            data_encoding::HEXLOWER.encode(&proof(1, &challenge(1)).0),
            "ab1085177efc9461748859ebb6c686294bcbf853b95ba178e56a8a2ce90819fb"
        );
    }

    #[test]
    fn a_relay_without_the_identity_key_is_noticed() {
        assert_eq!(check().verify(&challenge(1), &proof(9, &challenge(1))), Err(WrongProof));
        assert_eq!(check().verify(&challenge(1), &proof(9, &challenge(9))), Err(WrongProof));
        assert_eq!(check().verify(&challenge(1), &Proof([0; 32])), Err(WrongProof));
    }

    #[test]
    fn a_proof_is_good_for_one_challenge_and_one_question() {
        let good = challenge(1);
        for other in [Challenge { nonce: [6; 16], ..good }, Challenge { ephemeral: public(6), ..good }] {
            assert_eq!(check().verify(&other, &proof(1, &good)), Err(WrongProof));
            check().verify(&other, &proof(1, &other)).expect("it has a proof of its own");
        }
        let question = RelayCheck(StaticSecret::from([6; 32]));
        assert_eq!(question.verify(&good, &proof(1, &good)), Err(WrongProof));
    }

    #[test]
    fn low_order_points_are_refused() {
        // 0, 1, p - 1, p and one of order 8: the points of small order, RFC 7748.
        let mut one = [0; 32];
        one[0] = 1;
        let mut p = [0xff; 32];
        (p[0], p[31]) = (0xed, 0x7f);
        let mut below = p;
        below[0] -= 1;
        let eight = public_point("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800");
        for point in [[0; 32], one, below, p, eight] {
            assert_eq!(prove(&StaticSecret::from([1; 32]), &challenge(1), &point), Err(WrongProof));
            let low = Challenge { relay_identity: RelayIdentity(point), ..challenge(1) };
            for proof in [proof(1, &low), Proof([0; 32])] {
                assert_eq!(check().verify(&low, &proof), Err(WrongProof));
            }
        }
    }

    fn public_point(hex: &str) -> [u8; 32] {
        data_encoding::HEXLOWER.decode(hex.as_bytes()).expect("hex").try_into().expect("32 bytes")
    }

    #[test]
    fn it_is_no_proof_of_the_account_connection() {
        // Whoever asks with a device's public key gets nothing that passes for the account's proof.
        let device = StaticSecret::from([3; 32]);
        let key = AccountKey::of_device(&device, &challenge(1)).expect("good keys");
        let proof = prove(&StaticSecret::from([1; 32]), &challenge(1), &public(3)).expect("a good key");
        assert_eq!(key.check_relay(&proof), Err(WrongProof));
        assert_eq!(key.check_device(&proof), Err(WrongProof));
    }

    #[test]
    fn the_key_is_fresh_and_hidden() {
        let mut rng = Counting(0);
        let (first, second) = (RelayCheck::new(&mut rng), RelayCheck::new(&mut rng));
        let bytes: [u8; 32] = std::array::from_fn(|at| at as u8);
        assert_eq!(first.ephemeral(), PublicKey::from(&StaticSecret::from(bytes)).to_bytes());
        assert_ne!(first.ephemeral(), second.ephemeral());
        assert_eq!(format!("{first:?}"), "RelayCheck(secret)");
    }
}
