//! A profile in one file: `backup`, `restore`.

use posthorn_client::store::{Database, StoreError};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;

use crate::args::{Backup, Global};
use crate::print::{line, object};
use crate::problem::{self, Problem};
use crate::profile::{self, Turn};
use crate::{advice, passphrase};

/// `backup`. Nothing goes to the relay for it, so that the copy is not older than what the relay knows.
pub(super) async fn backup(global: &Global, arguments: &Backup) -> Result<(), Problem> {
    let home = profile::home(global)?;
    let file = whole(arguments)?;
    match profile::reach(global, &home, profile::TURN)? {
        Turn::Ours(database) => database
            .backup(&file, &mut StdRng::from_os_rng())
            .map_err(|error| problem::of_store(&error, &home))?,
        Turn::Shared(client) => client.backup(&file).await?,
    }
    if global.json {
        object(&json!({"file": file}));
        return Ok(());
    }
    line(&format!(
        "The profile is in {}, encrypted: the passphrase that it has now opens that.",
        file.display()
    ));
    line("Use it when this profile is lost, and never beside it: both would suspend their conversations.");
    Ok(())
}

/// `restore`.
pub(super) fn restore(global: &Global, arguments: &Backup) -> Result<(), Problem> {
    let (home, file) = (profile::home(global)?, whole(arguments)?);
    let database = profile::database_path(&home);
    if profile::is_there(&home, profile::TURN)? {
        let there = StoreError::AlreadyExists { path: database };
        return Err(problem::of_store(&there, &home));
    }
    profile::make_private_folder(&home).map_err(|error| {
        Problem::new("NO_HOME", format!("cannot make the folder {}: {error}", home.display()))
    })?;
    passphrase::unlock(global, &home, |found| {
        Database::restore(&file, &database, &found.passphrase()).map_err(|error| match error {
            StoreError::WrongPassphrase => Problem::new(
                error.cause(),
                format!("that is not the passphrase under which {} was made: try again", file.display()),
            ),
            error => problem::of_store(&error, &home),
        })
    })?;
    if global.json {
        object(&json!({"restored": true, "home": home}));
        return Ok(());
    }
    line(&format!("The profile is in {} again, as it was when the backup was made.", home.display()));
    line(&format!(
        "What came since, the relay still has or not: {} tells.",
        advice::command("conversations")
    ));
    line(&format!(
        "A conversation that was begun since cannot come back: {} begins another, or they do, with start YOU --again.",
        advice::command("start NAME --again")
    ));
    Ok(())
}

/// Another process may do it, and have another working folder.
fn whole(arguments: &Backup) -> Result<std::path::PathBuf, Problem> {
    std::path::absolute(&arguments.file).map_err(|error| {
        Problem::new("NOT_WRITTEN", format!("cannot use {}: {error}", arguments.file.display()))
    })
}
