//! Who says something, and what they are called.

use data_encoding::BASE32_NOPAD;
use posthorn_proto::DeviceId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::identity::PersonId;

/// Who said something, by which device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Who.
    pub person: PersonId,
    /// By which device; 26 characters of base32 in text.
    #[serde(serialize_with = "device_text", deserialize_with = "device_of_text")]
    pub device: DeviceId,
}

/// Somebody, with what they were called when it was noted: for showing, never for addressing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Who.
    pub person: PersonId,
    /// What they called themselves then.
    pub handle: String,
}

/// A device's id as text: 26 characters of base32.
pub(crate) fn device_text<S: Serializer>(device: &DeviceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE32_NOPAD.encode(&device.0).to_ascii_lowercase())
}

/// Reads [`device_text`].
pub(crate) fn device_of_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DeviceId, D::Error> {
    let text = String::deserialize(deserializer)?.to_ascii_uppercase();
    let bytes = BASE32_NOPAD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
    DeviceId::try_from(&bytes[..]).map_err(serde::de::Error::custom)
}
