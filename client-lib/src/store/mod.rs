//! The local database: one SQLite file, sealed values, one transaction at a time.
//!
//! Owns opening, the passphrase, backups, the schema's versions, sealing, and the lock that keeps a second
//! process out. It knows no conversation and no MLS: other modules bring their tables as migrations
//! (`schema.rs`) and write them through a [`Transaction`], most of them as records of a `Table` or a `Queue`
//! (`table.rs`). Nothing here reads a clock or makes randomness.
//!
//! What a thief of the file learns: which tables have how many rows of which size, and columns that a table
//! leaves in clear. What it cannot do: read or swap sealed values without the passphrase. With the passphrase
//! too, it may find values that were deleted lately (used message keys among them) in the write-ahead log: up
//! to 1,000 pages (4 MiB) until the next checkpoint, none after a clean close.

#[cfg(not(target_family = "wasm"))]
mod backup;
mod create;
mod error;
#[cfg(not(target_family = "wasm"))]
mod lock;
mod passphrase;
pub(crate) mod poison;
pub(crate) mod record;
mod schema;
mod seal;
pub(crate) mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use rand::{CryptoRng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};

pub use error::StoreError;
pub use passphrase::{KdfCost, Passphrase};
pub use seal::Place;

use passphrase::DatabaseKey;
use seal::Sealer;

mod wire {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated from the schema, which is documented"
    )]
    include!(concat!(env!("OUT_DIR"), "/posthorn.store.v1.rs"));
}

/// Where a database lives.
#[derive(Debug, Clone, Copy)]
pub enum Location<'a> {
    /// In memory; gone with the [`Database`]. For tests and simulations.
    Memory,
    /// In this file, with its companions `-wal`, `-shm` and `.lock` beside it.
    File(&'a Path),
}

/// An open database. Its one connection is the only writer there is.
pub struct Database {
    conn: Connection,
    sealer: Sealer,
    key: DatabaseKey,
    #[cfg(not(target_family = "wasm"))]
    _lock: Option<lock::ProfileLock>,
}

impl Database {
    /// Makes a new database with a fresh random key, wrapped under `passphrase`. It is there whole or not at
    /// all: a file is made under another name and renamed when it is complete, so that whatever a crash left
    /// is in nobody's way. Errors: [`StoreError::AlreadyExists`] unless the file that is there was never
    /// written to.
    pub fn create(
        location: Location<'_>,
        passphrase: &Passphrase,
        cost: KdfCost,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, StoreError> {
        #[cfg(not(target_family = "wasm"))]
        let lock = take_lock(location)?;
        let key = DatabaseKey::random(rng);
        let wrapped = key.wrap(passphrase, cost, rng)?;
        let conn = create::create(location, |conn| put_wrapped_key(conn, &wrapped))?;
        Ok(Self {
            conn,
            sealer: Sealer::new(&key),
            key,
            #[cfg(not(target_family = "wasm"))]
            _lock: lock,
        })
    }

    /// Whether there is a database, whole: what was never written to is none, and [`Database::create`] takes
    /// it over. Told without a passphrase, as it is told that another process has it open.
    pub fn exists(location: Location<'_>) -> Result<bool, StoreError> {
        if !path_of(location).exists() {
            return Ok(false);
        }
        #[cfg(not(target_family = "wasm"))]
        let _lock = take_lock(location)?;
        let conn = connect(location, OpenFlags::empty()).map_err(|error| foreign(location, error))?;
        Ok(!schema::is_empty(&conn)?)
    }

    /// Opens an existing file. A database in memory cannot be opened, it is [`StoreError::NotFound`].
    pub fn open(location: Location<'_>, passphrase: &Passphrase) -> Result<Self, StoreError> {
        let path = path_of(location);
        if !path.exists() {
            return Err(StoreError::NotFound { path });
        }
        #[cfg(not(target_family = "wasm"))]
        let lock = take_lock(location)?;
        let mut conn = connect(location, OpenFlags::empty()).map_err(|error| foreign(location, error))?;
        if schema::is_empty(&conn)? {
            return Err(StoreError::NotFound { path });
        }
        if !schema::is_ours(&conn)? {
            return Err(StoreError::NotOurs { path });
        }
        schema::check_version(&conn)?;
        let wrapped: Vec<u8> = conn
            .query_row("SELECT v FROM meta WHERE k = 'key'", [], |row| row.get(0))
            .optional()?
            .ok_or(StoreError::Damaged("no wrapped key"))?;
        let key = DatabaseKey::unwrap(&wrapped, passphrase)?;
        schema::migrate(&mut conn, |_| Ok(()))?;
        Ok(Self {
            conn,
            sealer: Sealer::new(&key),
            key,
            #[cfg(not(target_family = "wasm"))]
            _lock: lock,
        })
    }

    /// Wraps the database key anew. Whoever kept a copy of the file can still open that with the old
    /// passphrase.
    pub fn change_passphrase(
        &mut self,
        passphrase: &Passphrase,
        cost: KdfCost,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), StoreError> {
        let wrapped = self.key.wrap(passphrase, cost, rng)?;
        put_wrapped_key(&self.conn, &wrapped)?;
        // The old record must not linger in the log.
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    /// Writes all of the profile into one file, as it is at this moment, encrypted: the passphrase that it
    /// has now opens it ([`Database::restore`]). It is there whole or not at all. An earlier backup of this
    /// name is replaced, and no other file: [`StoreError::NotABackup`].
    #[cfg(not(target_family = "wasm"))]
    pub fn backup(&self, file: &Path, rng: &mut dyn CryptoRng) -> Result<(), StoreError> {
        backup::backup(self, file, rng)
    }

    /// Makes a profile of a backup. It is there whole or not at all, and no other is replaced. Errors:
    /// [`StoreError::AlreadyExists`], [`StoreError::NotABackup`], [`StoreError::WrongPassphrase`], and
    /// [`StoreError::Damaged`] if the file is not what was written.
    #[cfg(not(target_family = "wasm"))]
    pub fn restore(backup: &Path, database: &Path, passphrase: &Passphrase) -> Result<(), StoreError> {
        backup::restore(backup, database, passphrase)
    }

    /// Begins the one transaction through which everything is read and written. Dropping it rolls back.
    ///
    /// `rng` gives the seed for the nonces of what is sealed in it, and is not kept.
    #[cfg_attr(not(inside), doc(hidden))]
    pub fn transaction(&mut self, rng: &mut dyn CryptoRng) -> Result<Transaction<'_>, StoreError> {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Ok(Transaction {
            inner: self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?,
            sealer: &self.sealer,
            nonces: RefCell::new(ChaCha20Rng::from_seed(seed)),
        })
    }

    /// For looking without writing.
    #[cfg_attr(not(inside), doc(hidden))]
    pub fn view(&self) -> View<'_> {
        View { conn: &self.conn, sealer: &self.sealer }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.conn.path()).finish_non_exhaustive()
    }
}

/// Reads of a database outside of a transaction.
#[derive(Clone, Copy)]
pub struct View<'d> {
    conn: &'d Connection,
    sealer: &'d Sealer,
}

impl<'d> View<'d> {
    /// For queries only.
    pub fn sql(&self) -> &'d Connection {
        self.conn
    }

    /// Opens a sealed value. Errors: [`StoreError::Damaged`].
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.sealer.open(place, sealed)
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

/// A unit of work: all of it lasts after [`Transaction::commit`], or none of it.
pub struct Transaction<'d> {
    inner: rusqlite::Transaction<'d>,
    sealer: &'d Sealer,
    nonces: RefCell<ChaCha20Rng>,
}

impl Transaction<'_> {
    /// For statements; use `prepare_cached`.
    pub fn sql(&self) -> &Connection {
        &self.inner
    }

    /// Runs SQL that changes no rows: savepoints.
    pub(crate) fn control(&self, sql: &'static str) -> Result<(), StoreError> {
        self.inner.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Seals a value for its place.
    pub fn seal(&self, place: Place<'_>, value: &[u8]) -> Vec<u8> {
        self.sealer.seal(place, value, &mut *self.nonces.borrow_mut())
    }

    /// Opens a sealed value. Errors: [`StoreError::Damaged`].
    pub fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.sealer.open(place, sealed)
    }

    /// A row key that tells nothing about `name` to one without the passphrase: HMAC-SHA256.
    pub fn hidden_name(&self, table: &'static str, name: &[u8]) -> [u8; 32] {
        self.sealer.name(table, name)
    }

    /// A random source of this transaction's own, for OpenMLS.
    pub(crate) fn draw_seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.nonces.borrow_mut().fill_bytes(&mut seed);
        seed
    }

    /// Makes everything last: on return it is on stable storage (`synchronous=FULL`).
    pub fn commit(self) -> Result<(), StoreError> {
        Ok(self.inner.commit()?)
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transaction")
    }
}

#[cfg(not(target_family = "wasm"))]
fn take_lock(location: Location<'_>) -> Result<Option<lock::ProfileLock>, StoreError> {
    match location {
        Location::Memory => Ok(None),
        Location::File(path) => lock::ProfileLock::take(path).map(Some),
    }
}

fn path_of(location: Location<'_>) -> PathBuf {
    match location {
        Location::Memory => PathBuf::from(":memory:"),
        Location::File(path) => path.to_owned(),
    }
}

/// Says plainly that a file is no database at all.
fn foreign(location: Location<'_>, error: StoreError) -> StoreError {
    match error {
        StoreError::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
            StoreError::NotOurs { path: path_of(location) }
        }
        error => error,
    }
}

fn connect(location: Location<'_>, extra: OpenFlags) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | extra;
    let conn = match location {
        Location::Memory => Connection::open_in_memory()?,
        Location::File(path) => Connection::open_with_flags(path, flags)?,
    };
    // Deleted keys must vanish from the file; an answered write must survive a power cut (fine print, rule
    // 10).
    conn.pragma_update(None, "secure_delete", "ON")?;
    #[cfg(not(target_family = "wasm"))]
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", "ON")?;
    // A statement is planned once, whatever is bound to it: else many are prepared anew at each use.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

fn put_wrapped_key(conn: &Connection, wrapped: &[u8]) -> Result<(), StoreError> {
    conn.execute(
        "INSERT INTO meta (k, v) VALUES ('key', ?1) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
        [wrapped],
    )?;
    Ok(())
}
