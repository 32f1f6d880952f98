//! The credential: an identity's statement that a device, with its MLS signature key, is its own.
//!
//! It stands in every MLS leaf (credential type 0xF003) and in the contact card. MLS libraries carry it
//! without looking; whether it may be believed is decided here.

use posthorn_proto::{DeviceId, Handle, RelayIdentity};
use prost::Message;

use super::wire;
use super::{Device, Identity, IdentityKey};

/// Domain separation of the signature.
const LABEL: &str = "posthorn v2 device credential";
/// Longest encoding that is looked at, in bytes.
const MOST_BYTES: usize = 512;
/// Of the key that signs (rule 17): the identity key itself, the only one so far.
const GENERATION: [u8; 4] = 0u32.to_be_bytes();

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
    relay: RelayIdentity,
    encoded: Vec<u8>,
}

impl Credential {
    /// Signs for a device of the account `handle` at this relay.
    pub fn issue(identity: &Identity, device: &Device, handle: &Handle, relay: &RelayIdentity) -> Self {
        let signature =
            identity.sign(LABEL, &fields(&device.id(), &device.signature_key(), handle, relay, &GENERATION));
        let encoded = wire::Credential {
            identity_key: identity.key().as_bytes().to_vec(),
            device_id: device.id().0.to_vec(),
            handle: handle.as_str().to_owned(),
            generation: 0,
            signature: signature.to_vec(),
            relay_identity: relay.0.to_vec(),
        }
        .encode_to_vec();
        Self { identity: identity.key(), device: device.id(), handle: handle.clone(), relay: *relay, encoded }
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

    /// The relay on which the handle is the identity's: names of two relays have nothing in common.
    pub fn relay(&self) -> RelayIdentity {
        self.relay
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
        // Only identity keys sign so far (rule 17): a number that means nothing yet must not be accepted.
        if raw.generation != 0 {
            return Err(Malformed("generation"));
        }
        // Exactly one encoding, so that nothing can be hidden in it (rule 29).
        if raw.encode_to_vec() != bytes {
            return Err(Malformed("not canonical"));
        }
        Ok(Self {
            claimed: Credential {
                identity: IdentityKey::try_from(&raw.identity_key[..])
                    .map_err(|_| Malformed("identity key"))?,
                device: DeviceId::try_from(&raw.device_id[..]).map_err(|_| Malformed("device id"))?,
                handle: Handle::parse(&raw.handle).map_err(|_| Malformed("handle"))?,
                relay: RelayIdentity::try_from(&raw.relay_identity[..])
                    .map_err(|_| Malformed("relay identity"))?,
                encoded: bytes.to_vec(),
            },
            signature: raw.signature,
        })
    }

    /// Checks that the identity signed for this device with this MLS signature key. Errors:
    /// [`CredentialError::Signature`].
    pub fn verify(self, signature_key: &[u8]) -> Result<Credential, CredentialError> {
        let claimed = self.claimed;
        let fields = fields(&claimed.device, signature_key, &claimed.handle, &claimed.relay, &GENERATION);
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
    relay: &'a RelayIdentity,
    generation: &'a [u8; 4],
) -> [&'a [u8]; 5] {
    [&device.0, signature_key, handle.as_str().as_bytes(), &relay.0, generation]
}
