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
