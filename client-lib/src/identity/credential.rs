//! The credential: an identity's statement that a device, with its MLS signature key, is its own.
//!
//! It stands in every MLS leaf (credential type 0xF003) and in the contact card. MLS libraries carry it
//! without looking; whether it may be believed is decided here.

use posthorn_proto::{DeviceId, Handle};
use prost::Message;

use super::wire;
use super::{Device, Identity, IdentityKey};

/// Domain separation of the signature.
const LABEL: &str = "posthorn v1 device credential";
/// Longest encoding that is looked at, in bytes.
const MOST_BYTES: usize = 512;

/// Why a credential is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not a credential, or one with a field that is out of form.
    #[error("the credential is malformed: {0}")]
    Malformed(&'static str),
    /// The identity did not sign this device with this key.
    #[error("the credential is not signed by the identity that it names")]
    Signature,
}

/// A credential as it came. Says nothing yet.
#[derive(Debug, Clone)]
pub struct UnverifiedCredential {
    claimed: Credential,
    signature: Vec<u8>,
}

/// A device that an identity has signed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    identity: IdentityKey,
    device: DeviceId,
    handle: Handle,
    generation: u32,
    encoded: Vec<u8>,
}

impl Credential {
    /// Signs for a device.
    pub fn issue(identity: &Identity, device: &Device, handle: &Handle, generation: u32) -> Self {
        let signature = identity
            .sign(LABEL, &fields(&device.id(), &device.signature_key(), handle, &generation.to_be_bytes()));
        let encoded = wire::Credential {
            identity_key: identity.key().as_bytes().to_vec(),
            device_id: device.id().0.to_vec(),
            handle: handle.as_str().to_owned(),
            generation,
            signature: signature.to_vec(),
        }
        .encode_to_vec();
        Self { identity: identity.key(), device: device.id(), handle: handle.clone(), generation, encoded }
    }

    /// Whose device it is.
    pub fn identity(&self) -> IdentityKey {
        self.identity
    }

    /// Which device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// What the identity calls itself on its relay. Only the relay vouches for it being unique.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Generation of the key that signed (fine print, rule 17). 0 while identity keys sign themselves.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The bytes, as they stand in a leaf.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

impl UnverifiedCredential {
    /// Checks the form. Errors: [`CredentialError::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CredentialError> {
        use CredentialError::Malformed;
        if bytes.len() > MOST_BYTES {
            return Err(Malformed("too long"));
        }
        let raw = wire::Credential::decode(bytes).map_err(|_| Malformed("encoding"))?;
        if raw.signature.len() != super::SIGNATURE_BYTES {
            return Err(Malformed("signature"));
        }
        Ok(Self {
            claimed: Credential {
                identity: IdentityKey::try_from(&raw.identity_key[..])
                    .map_err(|_| Malformed("identity key"))?,
                device: DeviceId::try_from(&raw.device_id[..]).map_err(|_| Malformed("device id"))?,
                handle: Handle::parse(&raw.handle).map_err(|_| Malformed("handle"))?,
                generation: raw.generation,
                encoded: bytes.to_vec(),
            },
            signature: raw.signature,
        })
    }

    /// Checks that the identity signed for this device with this MLS signature key. Errors:
    /// [`CredentialError::Signature`].
    pub fn verify(self, signature_key: &[u8]) -> Result<Credential, CredentialError> {
        let claimed = self.claimed;
        let generation = claimed.generation.to_be_bytes();
        let fields = fields(&claimed.device, signature_key, &claimed.handle, &generation);
        if claimed.identity.has_signed(LABEL, &fields, &self.signature) {
            Ok(claimed)
        } else {
            Err(CredentialError::Signature)
        }
    }

    /// For what was verified before it was stored in our own sealed database, where checking again would cost
    /// a signature check per member and load.
    pub(crate) fn verified_when_stored(self) -> Credential {
        self.claimed
    }
}

fn fields<'a>(
    device: &'a DeviceId,
    signature_key: &'a [u8],
    handle: &'a Handle,
    generation: &'a [u8; 4],
) -> [&'a [u8]; 4] {
    [&device.0, signature_key, handle.as_str().as_bytes(), generation]
}
