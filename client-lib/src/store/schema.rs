//! The tables, as numbered migrations. `PRAGMA user_version` is the number of the last that a database has
//! seen.

use rusqlite::Connection;

use super::StoreError;

/// Marks our files in SQLite's header: "PoHo".
const APPLICATION_ID: i32 = 0x506F_486F;

/// The number of the first migration; those below it were version 0.1's, and are not read.
const FIRST: u32 = 100;

/// In order, from [`FIRST`], never changed once released; the next one is appended. Each runs in one
/// transaction with its number.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/0100_base.sql"),
    include_str!("schema/0101_last_resort.sql"),
    include_str!("schema/0102_relay.sql"),
    include_str!("schema/0103_route.sql"),
    include_str!("schema/0104_heard.sql"),
    include_str!("schema/0105_again.sql"),
    include_str!("schema/0106_down.sql"),
];

/// Brings the tables of an open database to what this version knows, and writes `also`, all in one
/// transaction.
pub(super) fn migrate(
    conn: &mut Connection,
    also: impl FnOnce(&Connection) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    check_version(conn)?;
    let tx = conn.transaction()?;
    let found = version(&tx)?;
    for (number, sql) in (FIRST..).zip(MIGRATIONS).filter(|(number, _)| *number > found) {
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", number)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    also(&tx)?;
    Ok(tx.commit()?)
}

/// Errors: [`StoreError::TooOld`], [`StoreError::NewerSchema`].
pub(super) fn check_version(conn: &Connection) -> Result<(), StoreError> {
    let known = FIRST + MIGRATIONS.len() as u32 - 1;
    match version(conn)? {
        0 => Ok(()),
        1..FIRST => Err(StoreError::TooOld),
        found if found > known => Err(StoreError::NewerSchema { found, known }),
        _ => Ok(()),
    }
}

fn version(conn: &Connection) -> Result<u32, StoreError> {
    Ok(conn.pragma_query_value(None, "user_version", |row| row.get(0))?)
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
