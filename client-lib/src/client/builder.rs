//! Opening or making a profile.

use std::path::PathBuf;

use rand::TryRngCore as _;
use rand::rngs::OsRng;

use super::Client;
use crate::engine::{Consent, Error};
use crate::store::{Database, KdfCost, Location, Passphrase, StoreError};

/// The database's name in a profile's folder.
const DATABASE: &str = "posthorn.db";

/// How a profile is opened or made.
#[derive(Debug)]
pub struct Builder {
    folder: PathBuf,
    passphrase: String,
    consent: Consent,
}

impl Builder {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, passphrase: String::new(), consent: Consent::default() }
    }

    /// What encrypts the profile on this device. Without one, whoever has the file has everything.
    #[must_use]
    pub fn passphrase(mut self, passphrase: impl Into<String>) -> Self {
        self.passphrase = passphrase.into();
        self
    }

    /// Follows everybody's invitations into conversations at relays that are in use: for programs that answer
    /// anybody.
    #[must_use]
    pub fn accept_everybody(mut self) -> Self {
        self.consent = Consent::Everybody;
        self
    }

    /// Opens the profile that is there. Errors: those of the store, among them a wrong passphrase.
    pub async fn open(self) -> Result<Client, Error> {
        self.begin(Some(false)).await
    }

    /// Makes a new profile.
    pub async fn create(self) -> Result<Client, Error> {
        self.begin(Some(true)).await
    }

    /// Opens the profile that is there, or makes one.
    pub async fn open_or_create(self) -> Result<Client, Error> {
        self.begin(None).await
    }

    /// From now on this encrypts the profile, in place of the passphrase that was given before; no process
    /// may have it open. Whoever kept a copy of the file can still open that with the old one.
    pub async fn change_passphrase(self, new: impl Into<String>) -> Result<(), Error> {
        let new = Passphrase::new(new);
        let changed = tokio::task::spawn_blocking(move || {
            let path = self.folder.join(DATABASE);
            let mut database = Database::open(Location::File(&path), &Passphrase::new(&self.passphrase))?;
            database.change_passphrase(&new, KdfCost::DEFAULT, &mut OsRng.unwrap_err())
        });
        Ok(changed.await.map_err(|_| Error::Stopped)??)
    }

    /// Makes this profile of a backup that was made under this passphrase ([`Client::backup`]). It is as it
    /// was then: what the relay has handed out since is not there, and conversations in which that matters
    /// say so (`ROLLED_BACK`). Whatever has the newer profile must not be used beside it.
    pub async fn restore(self, backup: impl Into<PathBuf>) -> Result<(), Error> {
        let backup = backup.into();
        let restored = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&self.folder).map_err(|error| StoreError::io(&self.folder, error))?;
            Database::restore(&backup, &self.folder.join(DATABASE), &Passphrase::new(&self.passphrase))
        });
        Ok(restored.await.map_err(|_| Error::Stopped)??)
    }

    /// Key derivation and SQLite take their time: on a thread where waiting hurts nobody.
    ///
    /// Without a word whether to make the profile, it is made where there is none.
    async fn begin(self, create: Option<bool>) -> Result<Client, Error> {
        let consent = self.consent;
        let client = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&self.folder).map_err(|error| StoreError::io(&self.folder, error))?;
            let path = self.folder.join(DATABASE);
            let (location, passphrase) = (Location::File(&path), Passphrase::new(&self.passphrase));
            let create = create.map_or_else(|| Database::exists(location).map(|exists| !exists), Ok)?;
            let database = match create {
                true => Database::create(location, &passphrase, KdfCost::DEFAULT, &mut OsRng.unwrap_err())?,
                false => Database::open(location, &passphrase)?,
            };
            Client::with_database(database)
        });
        let client = client.await.map_err(|_| Error::Stopped)??;
        client.consent(consent).await?;
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_changed_by_who_knows_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let profile = |passphrase: &str| Builder::new(folder.path().to_owned()).passphrase(passphrase);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            profile("old").create().await.expect("makes one").close().await.expect("closes");
            let refused = profile("guessed").change_passphrase("mine").await;
            assert_eq!(refused.expect_err("not by anybody").code(), "WRONG_PASSPHRASE");
            profile("old").change_passphrase("new").await.expect("changes it");
            let refused = profile("old").open().await;
            assert_eq!(refused.expect_err("not any more").code(), "WRONG_PASSPHRASE");
            profile("new").open().await.expect("opens").close().await.expect("closes");
        });
    }
}
