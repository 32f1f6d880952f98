//! How a device proves itself to the relay of its account, and the relay to the device.
//!
//! Both derive one key from two Diffie-Hellman results (device static with the relay's ephemeral, device
//! static with the relay's identity) and exchange MACs under it. There is no signature: the relay gets
//! nothing that it could show to somebody else as proof that the device was there. Replays fail, because the
//! connection's nonce is fresh.
//!
//! It authenticates the start of the connection, not the bytes that follow. Protecting those is up to TLS,
//! and the account connection carries nothing on whose secrecy a conversation rests.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::id::RelayIdentity;

/// Separates this key derivation from every other use of the same secrets.
const LABEL: &[u8] = b"posthorn v1 account";
/// What the device authenticates to prove itself.
const DEVICE_PROOF: &[u8] = b"client";
/// What the relay authenticates to prove itself.
const RELAY_PROOF: &[u8] = b"relay";

/// What a connection's `Hello` contributes to the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// The relay's long-term key.
    pub relay_identity: RelayIdentity,
    /// The relay's ephemeral key.
    pub ephemeral: [u8; 32],
    /// Random, and unique to the connection.
    pub nonce: [u8; 16],
}

/// A 32-byte MAC that proves one side to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof(pub [u8; 32]);

/// One side's proof was wrong, or a public key was of low order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not fit the key")]
pub struct WrongProof;

/// The key that both sides share for one connection.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct AccountKey([u8; 32]);

impl std::fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccountKey(secret)")
    }
}

impl AccountKey {
    /// The device's derivation.
    pub fn of_device(device: &StaticSecret, challenge: &Challenge) -> Result<Self, WrongProof> {
        let with_ephemeral = device.diffie_hellman(&PublicKey::from(challenge.ephemeral));
        let with_identity = device.diffie_hellman(&PublicKey::from(challenge.relay_identity.0));
        Self::derive(challenge, &PublicKey::from(device), &with_ephemeral, &with_identity)
    }

    /// The relay's derivation, from the secrets of its two keys.
    pub fn of_relay(
        identity: &StaticSecret,
        ephemeral: &StaticSecret,
        nonce: [u8; 16],
        device: &[u8; 32],
    ) -> Result<Self, WrongProof> {
        let device = PublicKey::from(*device);
        let challenge = Challenge {
            relay_identity: RelayIdentity(PublicKey::from(identity).to_bytes()),
            ephemeral: PublicKey::from(ephemeral).to_bytes(),
            nonce,
        };
        Self::derive(
            &challenge,
            &device,
            &ephemeral.diffie_hellman(&device),
            &identity.diffie_hellman(&device),
        )
    }

    fn derive(
        challenge: &Challenge,
        device: &PublicKey,
        with_ephemeral: &SharedSecret,
        with_identity: &SharedSecret,
    ) -> Result<Self, WrongProof> {
        // A low-order key would make the result known to everybody (RFC 7748, section 6.1).
        if !with_ephemeral.was_contributory() || !with_identity.was_contributory() {
            return Err(WrongProof);
        }
        let mut ikm = [0; 64];
        ikm[..32].copy_from_slice(with_ephemeral.as_bytes());
        ikm[32..].copy_from_slice(with_identity.as_bytes());
        let mut key = Self([0; 32]);
        Hkdf::<Sha256>::new(Some(&challenge.nonce), &ikm)
            .expand_multi_info(
                &[LABEL, challenge.relay_identity.as_ref(), &challenge.ephemeral, device.as_bytes()],
                &mut key.0,
            )
            .expect("32 bytes are within HKDF's bound of 255 * 32");
        ikm.zeroize();
        Ok(key)
    }

    /// The proof that the device sends.
    pub fn device_proof(&self) -> Proof {
        Proof(self.mac(DEVICE_PROOF).finalize().into_bytes().into())
    }

    /// The proof that the relay answers with.
    pub fn relay_proof(&self) -> Proof {
        Proof(self.mac(RELAY_PROOF).finalize().into_bytes().into())
    }

    /// Checks the device's proof in constant time.
    pub fn check_device(&self, proof: &Proof) -> Result<(), WrongProof> {
        self.mac(DEVICE_PROOF).verify_slice(&proof.0).map_err(|_| WrongProof)
    }

    /// Checks the relay's proof in constant time.
    pub fn check_relay(&self, proof: &Proof) -> Result<(), WrongProof> {
        self.mac(RELAY_PROOF).verify_slice(&proof.0).map_err(|_| WrongProof)
    }

    fn mac(&self, what: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(what);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sides(relay_seed: u8) -> (AccountKey, AccountKey) {
        let identity = StaticSecret::from([relay_seed; 32]);
        let ephemeral = StaticSecret::from([2; 32]);
        let device = StaticSecret::from([3; 32]);
        let challenge = Challenge {
            relay_identity: RelayIdentity(PublicKey::from(&StaticSecret::from([1; 32])).to_bytes()),
            ephemeral: PublicKey::from(&ephemeral).to_bytes(),
            nonce: [4; 16],
        };
        let ours = AccountKey::of_device(&device, &challenge).expect("good keys");
        let theirs =
            AccountKey::of_relay(&identity, &ephemeral, [4; 16], PublicKey::from(&device).as_bytes());
        (ours, theirs.expect("good keys"))
    }

    #[test]
    fn both_sides_agree() {
        let (device, relay) = sides(1);
        relay.check_device(&device.device_proof()).expect("device proves itself");
        device.check_relay(&relay.relay_proof()).expect("relay proves itself");
        assert_eq!(relay.check_device(&relay.relay_proof()), Err(WrongProof), "a reflected proof is refused");
        assert_eq!(
            data_encoding::HEXLOWER.encode(&device.device_proof().0),
            "2a15d9430a1858a698c38ba275fd2053833ce245d1c1fb9cd92050f71e57d8c5"
        );
    }

    #[test]
    fn a_relay_without_the_identity_key_is_noticed() {
        let (device, impostor) = sides(9);
        assert_eq!(device.check_relay(&impostor.relay_proof()), Err(WrongProof));
    }

    #[test]
    fn low_order_keys_are_refused() {
        let (identity, ephemeral) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]));
        assert_eq!(AccountKey::of_relay(&identity, &ephemeral, [0; 16], &[0; 32]).err(), Some(WrongProof));
    }
}
