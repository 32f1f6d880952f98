//! The tables, as numbered migrations. `PRAGMA user_version` counts how many of them a database has seen.

use rusqlite::Connection;

use super::StoreError;

/// Marks our files in SQLite's header: "PoHo".
const APPLICATION_ID: i32 = 0x506F_486F;

/// In order, never changed once released; the next one is appended. Each runs in one transaction with its
/// version.
const MIGRATIONS: &[&str] =
    &[include_str!("schema/0001_base.sql"), include_str!("schema/0002_conversations.sql")];

/// Brings the tables of an open database to what this version knows, and writes `also`, all in one
/// transaction.
pub(super) fn migrate(
    conn: &mut Connection,
    also: impl FnOnce(&Connection) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as u32;
    let tx = conn.transaction()?;
    let found: u32 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    for sql in &MIGRATIONS[found as usize..] {
        tx.execute_batch(sql)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", known)?;
    also(&tx)?;
    Ok(tx.commit()?)
}

/// Whether nothing was ever written to the database behind the connection.
pub(super) fn is_empty(conn: &Connection) -> Result<bool, StoreError> {
    let objects: u32 = conn.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    Ok(objects == 0)
}

/// Whether the file behind the connection is one of ours.
pub(super) fn is_ours(conn: &Connection) -> Result<bool, StoreError> {
    let id: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok(id == APPLICATION_ID)
}
