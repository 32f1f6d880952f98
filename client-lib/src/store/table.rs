//! Tables of sealed records: the one place that writes, seals, opens and lists them.
//!
//! A [`Table`] has a record for each key; a [`Queue`] has records in the order in which they came, each of an
//! owner. What is not such a record (the history, the chain, MLS's rows) has statements of its own.

use std::marker::PhantomData;

use rusqlite::OptionalExtension as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, Transaction, record};

/// Records `V` by key `K`, in the columns `key` and `value`. Keys stand in clear: they are random, or hashes,
/// or hidden ([`Transaction::hidden_name`]).
pub(crate) struct Table<K, V> {
    name: &'static str,
    types: PhantomData<fn(K) -> V>,
}

impl<K: AsRef<[u8]>, V: Serialize + DeserializeOwned> Table<K, V> {
    /// The table of this name.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The key that tells nothing about `name` to one without the passphrase.
    pub(crate) fn hidden(&self, tx: &Transaction<'_>, name: &[u8]) -> [u8; 32] {
        tx.hidden_name(self.name, name)
    }

    /// The record of a key.
    pub(crate) fn get(&self, tx: &Transaction<'_>, key: &K) -> Result<Option<V>, StoreError> {
        let key = key.as_ref();
        let value: Option<Vec<u8>> = tx
            .sql()
            .prepare_cached(&format!("SELECT value FROM {} WHERE key = ?1", self.name))?
            .query_row([key], |row| row.get(0))
            .optional()?;
        value.map(|value| record::open(tx, self.name, key, &value)).transpose()
    }

    /// Writes the record of a key, in place of one that is there.
    pub(crate) fn put(&self, tx: &Transaction<'_>, key: &K, value: &V) -> Result<(), StoreError> {
        let key = key.as_ref();
        let value = record::seal(tx, self.name, key, value);
        let sql = format!(
            "INSERT INTO {} (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            self.name
        );
        tx.sql().prepare_cached(&sql)?.execute((key, value))?;
        Ok(())
    }

    /// Deletes the record of a key; whether there was one.
    pub(crate) fn remove(&self, tx: &Transaction<'_>, key: &K) -> Result<bool, StoreError> {
        let sql = format!("DELETE FROM {} WHERE key = ?1", self.name);
        Ok(tx.sql().prepare_cached(&sql)?.execute([key.as_ref()])? > 0)
    }

    /// Deletes every record whose key begins like this.
    pub(crate) fn remove_prefixed(&self, tx: &Transaction<'_>, prefix: &[u8]) -> Result<(), StoreError> {
        // No key of ours goes on for longer than this behind a prefix.
        let last = [prefix, &[0xff; 64]].concat();
        let sql = format!("DELETE FROM {} WHERE key BETWEEN ?1 AND ?2", self.name);
        tx.sql().prepare_cached(&sql)?.execute((prefix, last))?;
        Ok(())
    }

    /// Every key, in order.
    pub(crate) fn keys(&self, tx: &Transaction<'_>) -> Result<Vec<K>, StoreError>
    where
        K: for<'k> TryFrom<&'k [u8]>,
    {
        let mut statement =
            tx.sql().prepare_cached(&format!("SELECT key FROM {} ORDER BY key", self.name))?;
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|key| K::try_from(&key?).map_err(|_| StoreError::Damaged(self.name))).collect()
    }

    /// Every record, in order of key.
    pub(crate) fn all(&self, tx: &Transaction<'_>) -> Result<Vec<(K, V)>, StoreError>
    where
        K: for<'k> TryFrom<&'k [u8]>,
    {
        let sql = format!("SELECT key, value FROM {} ORDER BY key", self.name);
        let mut statement = tx.sql().prepare_cached(&sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.map(|row| {
            let (key, value): (Vec<u8>, Vec<u8>) = row?;
            let value = record::open(tx, self.name, &key, &value)?;
            Ok((K::try_from(&key).map_err(|_| StoreError::Damaged(self.name))?, value))
        })
        .collect()
    }
}

/// Records `V` in the order in which they came, each of an owner `O`, in the columns `row`, `owner`, `label`
/// and `value`. A label names a record among its owner's, in clear; a record may have none.
pub(crate) struct Queue<O, V> {
    name: &'static str,
    types: PhantomData<fn(O) -> V>,
}

type Raw = (i64, Vec<u8>, Option<Vec<u8>>, Vec<u8>);

impl<O: AsRef<[u8]>, V: Serialize + DeserializeOwned> Queue<O, V> {
    /// The table of this name.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The label that tells nothing about `name` to one without the passphrase.
    pub(crate) fn hidden(&self, tx: &Transaction<'_>, name: &[u8]) -> [u8; 32] {
        tx.hidden_name(self.name, name)
    }

    /// Appends a record; its row.
    pub(crate) fn put(
        &self,
        tx: &Transaction<'_>,
        owner: &O,
        label: Option<&[u8]>,
        value: &V,
    ) -> Result<i64, StoreError> {
        let sql = format!("INSERT INTO {} (owner, value) VALUES (?1, x'')", self.name);
        tx.sql().prepare_cached(&sql)?.execute([owner.as_ref()])?;
        let row = tx.sql().last_insert_rowid();
        self.update(tx, row, label, value)?;
        Ok(row)
    }

    /// Replaces the record of a row and its label; nothing happens if it is gone.
    pub(crate) fn update(
        &self,
        tx: &Transaction<'_>,
        row: i64,
        label: Option<&[u8]>,
        value: &V,
    ) -> Result<(), StoreError> {
        let sql = format!("SELECT owner FROM {} WHERE row = ?1", self.name);
        let owner: Option<Vec<u8>> =
            tx.sql().prepare_cached(&sql)?.query_row([row], |row| row.get(0)).optional()?;
        let Some(owner) = owner else { return Ok(()) };
        let value = record::seal(tx, self.name, &place(row, &owner, label), value);
        let sql = format!("UPDATE {} SET label = ?2, value = ?3 WHERE row = ?1", self.name);
        tx.sql().prepare_cached(&sql)?.execute((row, label, value))?;
        Ok(())
    }

    /// The record of a row.
    pub(crate) fn get(&self, tx: &Transaction<'_>, row: i64) -> Result<Option<V>, StoreError> {
        Ok(self.select(tx, "row = ?1", [row])?.pop().map(|(_, value)| value))
    }

    /// The record of an owner that has this label.
    pub(crate) fn find(
        &self,
        tx: &Transaction<'_>,
        owner: &O,
        label: &[u8],
    ) -> Result<Option<(i64, V)>, StoreError> {
        Ok(self.select(tx, "owner = ?1 AND label = ?2", (owner.as_ref(), label))?.pop())
    }

    /// The oldest records of an owner.
    pub(crate) fn oldest(
        &self,
        tx: &Transaction<'_>,
        owner: &O,
        limit: usize,
    ) -> Result<Vec<(i64, V)>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.select(tx, "owner = ?1 ORDER BY row LIMIT ?2", (owner.as_ref(), limit))
    }

    /// Deletes the record of a row.
    pub(crate) fn remove(&self, tx: &Transaction<'_>, row: i64) -> Result<(), StoreError> {
        tx.sql().prepare_cached(&format!("DELETE FROM {} WHERE row = ?1", self.name))?.execute([row])?;
        Ok(())
    }

    /// Deletes every record of an owner.
    pub(crate) fn remove_all(&self, tx: &Transaction<'_>, owner: &O) -> Result<(), StoreError> {
        let sql = format!("DELETE FROM {} WHERE owner = ?1", self.name);
        tx.sql().prepare_cached(&sql)?.execute([owner.as_ref()])?;
        Ok(())
    }

    /// Who has any, in order.
    pub(crate) fn owners(&self, tx: &Transaction<'_>) -> Result<Vec<O>, StoreError>
    where
        O: for<'o> TryFrom<&'o [u8]>,
    {
        let sql = format!("SELECT DISTINCT owner FROM {} ORDER BY owner", self.name);
        let mut statement = tx.sql().prepare_cached(&sql)?;
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|owner| O::try_from(&owner?).map_err(|_| StoreError::Damaged(self.name))).collect()
    }

    /// How many records an owner has.
    pub(crate) fn count(&self, tx: &Transaction<'_>, owner: &O) -> Result<u64, StoreError> {
        let sql = format!("SELECT COUNT(*) FROM {} WHERE owner = ?1", self.name);
        Ok(tx.sql().prepare_cached(&sql)?.query_row([owner.as_ref()], |row| row.get(0))?)
    }

    fn select(
        &self,
        tx: &Transaction<'_>,
        which: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<(i64, V)>, StoreError> {
        let sql = format!("SELECT row, owner, label, value FROM {} WHERE {which}", self.name);
        let mut statement = tx.sql().prepare_cached(&sql)?;
        let rows = statement
            .query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        rows.map(|row| {
            let (row, owner, label, value): Raw = row?;
            Ok((row, record::open(tx, self.name, &place(row, &owner, label.as_deref()), &value)?))
        })
        .collect()
    }
}

/// What a queued record is bound to: nobody can give it another row, owner or label.
fn place(row: i64, owner: &[u8], label: Option<&[u8]>) -> Vec<u8> {
    let mut place = row.to_be_bytes().to_vec();
    place.extend_from_slice(&(owner.len() as u64).to_be_bytes());
    place.extend_from_slice(owner);
    place.extend_from_slice(label.unwrap_or_default());
    place
}
