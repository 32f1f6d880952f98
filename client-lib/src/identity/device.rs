//! A device's own keys: the MLS signature key of its leaves and the key by which it proves itself to its
//! relay.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey};
use posthorn_proto::DeviceId;
use rand::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The secrets of one device. They never leave it.
#[derive(Clone)]
pub struct Device {
    id: DeviceId,
    signature: SigningKey,
    account: StaticSecret,
}

impl Device {
    /// A fresh device.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut seeds = Zeroizing::new([[0; 32]; 2]);
        rng.fill_bytes(&mut seeds[0]);
        rng.fill_bytes(&mut seeds[1]);
        Self::from_seeds(DeviceId::random(rng), &seeds[0], &seeds[1])
    }

    /// A stored device: the seeds of its signature key and of its account key.
    pub fn from_seeds(id: DeviceId, signature: &[u8; 32], account: &[u8; 32]) -> Self {
        Self { id, signature: SigningKey::from_bytes(signature), account: StaticSecret::from(*account) }
    }

    /// Its name.
    pub fn id(&self) -> DeviceId {
        self.id
    }

    /// The Ed25519 key that stands in its MLS leaves.
    pub fn signature_key(&self) -> [u8; 32] {
        self.signature.verifying_key().to_bytes()
    }

    /// The X25519 key that its relay knows it by.
    pub fn account_key(&self) -> [u8; 32] {
        PublicKey::from(&self.account).to_bytes()
    }

    /// The secret half of [`Device::account_key`], for `posthorn_proto::auth`.
    pub fn account_secret(&self) -> &StaticSecret {
        &self.account
    }

    /// The secret seeds of the signature key and of the account key, for storing them sealed.
    pub fn expose_seeds(&self) -> Zeroizing<[[u8; 32]; 2]> {
        Zeroizing::new([self.signature.to_bytes(), self.account.to_bytes()])
    }

    /// Signs what MLS gives it, which separates its domains itself (RFC 9420 section 5.1.2).
    pub(crate) fn sign_for_mls(&self, payload: &[u8]) -> [u8; 64] {
        self.signature.sign(payload).to_bytes()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("id", &self.id).finish_non_exhaustive()
    }
}
