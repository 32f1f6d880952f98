//! Records: Rust values as sealed rows, MessagePack inside (self-describing, so that fields can be added).

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Place, StoreError, Transaction};

/// 32 secret bytes inside a record: hidden from `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, serde::Deserialize)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Seals `value` for the row `key` of `table`, column `value`.
pub(crate) fn seal<T: Serialize>(
    tx: &Transaction<'_>,
    table: &'static str,
    key: &[u8],
    value: &T,
) -> Vec<u8> {
    let bytes = Zeroizing::new(
        rmp_serde::to_vec_named(value).expect("records are plain data, which MessagePack holds"),
    );
    tx.seal(Place { table, column: "value", key }, &bytes)
}

/// Opens what [`seal`] made for the same place.
pub(crate) fn open<T: DeserializeOwned>(
    tx: &Transaction<'_>,
    table: &'static str,
    key: &[u8],
    sealed: &[u8],
) -> Result<T, StoreError> {
    let bytes = Zeroizing::new(tx.open(Place { table, column: "value", key }, sealed)?);
    rmp_serde::from_slice(&bytes).map_err(|_| StoreError::Damaged(table))
}
