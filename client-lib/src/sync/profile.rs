//! The device's own account: its secrets, its inboxes, its stock of tokens, the people it met.

use posthorn_proto::{
    DeviceId, Handle, KeyHash, MailboxId, PostKey, ReadKey, ReaderId, RelayIdentity, Token, TurnKey,
};
use rand::CryptoRng;
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use crate::identity::{
    Card, Credential, Device, Identity, IdentityKey, RelayAddress, RelayUrl, UnverifiedCard,
};
use crate::inbox::{InboxAddress, InboxSecret};
use crate::session::{KeyPackageRef, MadeKeyPackage};
use crate::store::{StoreError, Transaction, record};

const SETTING: &str = "setting";
const TOKEN: &str = "token";
const CONTACT: &str = "contact";
const PROFILE_KEY: &str = "profile";

/// One of the device's two inboxes (rule 13).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Inbox {
    pub(super) mailbox: MailboxId,
    pub(super) reader: ReaderId,
    seed: record::Secret,
    post: record::Secret,
    turn: record::Secret,
    read: record::Secret,
    /// The relay has it.
    pub(super) created: bool,
    /// The token that its creation was tried with; the same again after a crash.
    pub(super) token: Option<record::Secret>,
}

/// The account and this device of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Profile {
    relay_url: String,
    /// Learnt at registration and pinned from then on.
    pub(super) relay_identity: Option<RelayIdentity>,
    handle: String,
    /// Until registered.
    pub(super) invite: String,
    pub(super) registered: bool,
    identity: record::Secret,
    device_id: DeviceId,
    signature: record::Secret,
    account: record::Secret,
    pub(super) public_inbox: Inbox,
    pub(super) private_inbox: Inbox,
    /// Version of the card that the relay has; 0 = none.
    pub(super) card_version: u64,
    /// Unix seconds of the last-resort key package; 0 = none.
    pub(super) last_resort_since: u64,
}

impl Inbox {
    fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut secret = || {
            let mut bytes = [0; 32];
            rng.fill_bytes(&mut bytes);
            record::Secret(bytes)
        };
        let (seed, post, turn, read) = (secret(), secret(), secret(), secret());
        Self {
            mailbox: MailboxId::random(rng),
            reader: ReaderId::random(rng),
            seed,
            post,
            turn,
            read,
            created: false,
            token: None,
        }
    }

    pub(super) fn secret(&self) -> InboxSecret {
        InboxSecret::from_seed(self.seed.0)
    }

    pub(super) fn post_key(&self) -> PostKey {
        PostKey::from_bytes(self.post.0)
    }

    pub(super) fn turn_key(&self) -> TurnKey {
        TurnKey::from_bytes(self.turn.0)
    }

    pub(super) fn read_key(&self) -> ReadKey {
        ReadKey::from_bytes(self.read.0)
    }

    pub(super) fn address(&self, relay: &RelayAddress) -> InboxAddress {
        InboxAddress {
            relay: relay.clone(),
            mailbox: self.mailbox,
            post_key: self.post_key(),
            key: self.secret().key(),
        }
    }
}

impl Profile {
    /// A fresh identity with its first device, to be registered.
    pub(super) fn generate(
        relay: &RelayUrl,
        handle: &Handle,
        invite: String,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let identity = Identity::generate(rng);
        let device = Device::generate(rng);
        let seeds = device.expose_seeds();
        Self {
            relay_url: relay.as_str().to_owned(),
            relay_identity: None,
            handle: handle.as_str().to_owned(),
            invite,
            registered: false,
            identity: record::Secret(*identity.expose_seed()),
            device_id: device.id(),
            signature: record::Secret(seeds[0]),
            account: record::Secret(seeds[1]),
            public_inbox: Inbox::generate(rng),
            private_inbox: Inbox::generate(rng),
            card_version: 0,
            last_resort_since: 0,
        }
    }

    pub(super) fn load(tx: &Transaction<'_>) -> Result<Option<Self>, StoreError> {
        let row: Option<Vec<u8>> = tx
            .sql()
            .prepare_cached("SELECT value FROM setting WHERE key = ?1")?
            .query_row([PROFILE_KEY], |row| row.get(0))
            .optional()?;
        row.map(|row| record::open(tx, SETTING, PROFILE_KEY.as_bytes(), &row)).transpose()
    }

    pub(super) fn save(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        let value = record::seal(tx, SETTING, PROFILE_KEY.as_bytes(), self);
        tx.sql()
            .prepare_cached(
                "INSERT INTO setting (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?
            .execute((PROFILE_KEY, value))?;
        Ok(())
    }

    pub(super) fn delete(tx: &Transaction<'_>) -> Result<(), StoreError> {
        tx.sql().prepare_cached("DELETE FROM setting WHERE key = ?1")?.execute([PROFILE_KEY])?;
        Ok(())
    }

    pub(super) fn handle(&self) -> Result<Handle, StoreError> {
        Handle::parse(&self.handle).map_err(|_| StoreError::Damaged(SETTING))
    }

    pub(super) fn relay_url(&self) -> Result<RelayUrl, StoreError> {
        RelayUrl::parse(&self.relay_url).map_err(|_| StoreError::Damaged(SETTING))
    }

    /// The relay, once its key is known.
    pub(super) fn relay(&self) -> Result<RelayAddress, StoreError> {
        let identity = self.relay_identity.ok_or(StoreError::Damaged(SETTING))?;
        Ok(RelayAddress { url: self.relay_url()?, identity })
    }

    pub(super) fn identity(&self) -> Identity {
        Identity::from_seed(&self.identity.0)
    }

    pub(super) fn device(&self) -> Device {
        Device::from_seeds(self.device_id, &self.signature.0, &self.account.0)
    }

    /// A device may give itself any id.
    #[cfg(test)]
    pub(super) fn borrow_device_id(&mut self, id: DeviceId) {
        self.device_id = id;
    }

    /// An identity may call itself as it likes, outside of its relay's directory.
    #[cfg(test)]
    pub(super) fn borrow_handle(&mut self, handle: &str) {
        handle.clone_into(&mut self.handle);
    }

    pub(super) fn credential(&self) -> Result<Credential, StoreError> {
        Ok(Credential::issue(&self.identity(), &self.device(), &self.handle()?, 0))
    }
}

/// Keeps tokens that the relay has not confirmed yet.
pub(super) fn put_tokens(tx: &Transaction<'_>, tokens: &[Token]) -> Result<(), StoreError> {
    for token in tokens {
        let hash = token.hash();
        let value = record::seal(tx, TOKEN, &hash.0, &record::Secret(*token.expose()));
        tx.sql()
            .prepare_cached("INSERT OR IGNORE INTO token (hash, drawn, value) VALUES (?1, 0, ?2)")?
            .execute((&hash.0[..], value))?;
    }
    Ok(())
}

/// Hashes of the tokens that the relay has not confirmed.
pub(super) fn undrawn_tokens(tx: &Transaction<'_>) -> Result<Vec<KeyHash>, StoreError> {
    let mut statement = tx.sql().prepare_cached("SELECT hash FROM token WHERE drawn = 0 ORDER BY hash")?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|hash| KeyHash::try_from(&hash?[..]).map_err(|_| StoreError::Damaged(TOKEN))).collect()
}

/// The relay confirmed these.
pub(super) fn drawn_tokens(tx: &Transaction<'_>, hashes: &[KeyHash]) -> Result<(), StoreError> {
    for hash in hashes {
        tx.sql().prepare_cached("UPDATE token SET drawn = 1 WHERE hash = ?1")?.execute([&hash.0[..]])?;
    }
    Ok(())
}

/// How many are ready to be spent.
pub(super) fn count_tokens(tx: &Transaction<'_>) -> Result<usize, StoreError> {
    let count: i64 = tx
        .sql()
        .prepare_cached("SELECT COUNT(*) FROM token WHERE drawn = 1")?
        .query_row([], |row| row.get(0))?;
    Ok(count as usize)
}

/// Takes one out for good; the caller keeps it with what it pays for.
pub(super) fn take_token(tx: &Transaction<'_>) -> Result<Option<Token>, StoreError> {
    let found: Option<(Vec<u8>, Vec<u8>)> = tx
        .sql()
        .prepare_cached("SELECT hash, value FROM token WHERE drawn = 1 ORDER BY hash LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((hash, value)) = found else { return Ok(None) };
    tx.sql().prepare_cached("DELETE FROM token WHERE hash = ?1")?.execute([&hash[..]])?;
    let secret: record::Secret = record::open(tx, TOKEN, &hash, &value)?;
    Ok(Some(Token::from_bytes(secret.0)))
}

/// Notes a key package of ours, so that its secrets are deleted when it has run out.
pub(super) fn note_key_package(tx: &Transaction<'_>, made: &MadeKeyPackage) -> Result<(), StoreError> {
    tx.sql()
        .prepare_cached("INSERT OR REPLACE INTO key_package (reference, not_after) VALUES (?1, ?2)")?
        .execute((&made.reference.0[..], made.not_after))?;
    Ok(())
}

/// Key packages of ours that ran out before `seconds`; they are not noted any more.
pub(super) fn take_expired_key_packages(
    tx: &Transaction<'_>,
    seconds: u64,
) -> Result<Vec<KeyPackageRef>, StoreError> {
    let mut statement =
        tx.sql().prepare_cached("DELETE FROM key_package WHERE not_after < ?1 RETURNING reference")?;
    let rows = statement.query_map([seconds], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|row| row?.try_into().map(KeyPackageRef).map_err(|_| StoreError::Damaged("key_package")))
        .collect()
}

/// Somebody we met: their newest card, and the private inboxes of their devices that stood in leaves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Contact {
    pub(super) handle: String,
    pub(super) identity: [u8; 32],
    card: Option<Vec<u8>>,
    private: Vec<(DeviceId, Vec<u8>)>,
    /// Our relay's directory gave this card for this handle once; a card that came by an invitation names
    /// itself.
    #[serde(default)]
    looked_up: bool,
}

impl Contact {
    pub(super) fn load(tx: &Transaction<'_>, identity: &IdentityKey) -> Result<Option<Self>, StoreError> {
        let name = tx.hidden_name(CONTACT, identity.as_bytes());
        let value: Option<Vec<u8>> = tx
            .sql()
            .prepare_cached("SELECT value FROM contact WHERE name = ?1")?
            .query_row([&name[..]], |row| row.get(0))
            .optional()?;
        value.map(|value| record::open(tx, CONTACT, &name, &value)).transpose()
    }

    pub(super) fn all(tx: &Transaction<'_>) -> Result<Vec<Self>, StoreError> {
        let mut statement = tx.sql().prepare_cached("SELECT name, value FROM contact ORDER BY name")?;
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        rows.map(|row| {
            let (name, value) = row?;
            record::open(tx, CONTACT, &name, &value)
        })
        .collect()
    }

    fn save(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        let name = tx.hidden_name(CONTACT, &self.identity);
        let value = record::seal(tx, CONTACT, &name, self);
        tx.sql()
            .prepare_cached(
                "INSERT INTO contact (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            )?
            .execute((&name[..], value))?;
        Ok(())
    }

    /// Keeps a verified card unless a newer one is known.
    pub(super) fn meet(tx: &Transaction<'_>, card: &Card) -> Result<(), StoreError> {
        let mut contact = Self::load(tx, &card.identity())?.unwrap_or_default();
        if contact.card().is_some_and(|known| known.version() > card.version()) {
            return Ok(());
        }
        contact.handle = card.handle().to_string();
        contact.identity = *card.identity().as_bytes();
        contact.card = Some(card.encoded().to_vec());
        contact.save(tx)
    }

    /// Keeps a verified card that our relay's directory gave for its handle.
    pub(super) fn found(tx: &Transaction<'_>, card: &Card) -> Result<(), StoreError> {
        Self::meet(tx, card)?;
        let Some(mut contact) = Self::load(tx, &card.identity())? else { return Ok(()) };
        contact.looked_up = true;
        contact.save(tx)
    }

    /// The identity that the directory gave for a handle before: the relay must not give another one later,
    /// unseen.
    pub(super) fn known_as(tx: &Transaction<'_>, handle: &Handle) -> Result<Option<[u8; 32]>, StoreError> {
        let mut all = Self::all(tx)?.into_iter();
        Ok(all
            .find(|contact| contact.looked_up && contact.handle == handle.as_str())
            .map(|contact| contact.identity))
    }

    /// Keeps what a member's leaf says.
    pub(super) fn meet_member(
        tx: &Transaction<'_>,
        credential: &Credential,
        inbox: Option<&InboxAddress>,
    ) -> Result<(), StoreError> {
        let known = Self::load(tx, &credential.identity())?;
        let is_known = known.is_some();
        let mut contact = known.unwrap_or_default();
        contact.handle = credential.handle().to_string();
        contact.identity = *credential.identity().as_bytes();
        let encoded = inbox.map(InboxAddress::encode);
        let held =
            contact.private.iter().find(|(device, _)| *device == credential.device()).map(|(_, inbox)| inbox);
        if is_known && (encoded.is_none() || held == encoded.as_ref()) {
            return Ok(());
        }
        if let Some(encoded) = encoded {
            contact.private.retain(|(device, _)| *device != credential.device());
            contact.private.push((credential.device(), encoded));
        }
        contact.save(tx)
    }

    /// The card that we hold; it was verified before it was stored.
    pub(super) fn card(&self) -> Option<Card> {
        self.card.as_ref().and_then(|card| UnverifiedCard::new(card).ok()?.verify(None).ok())
    }

    /// Where to reach a device: its private inbox if a leaf told us, else the public one of its card.
    pub(super) fn inbox(&self, device: &DeviceId) -> Option<InboxAddress> {
        let private = self.private.iter().find(|(id, _)| id == device);
        if let Some(address) = private.and_then(|(_, bytes)| InboxAddress::decode(bytes).ok()) {
            return Some(address);
        }
        let card = self.card()?;
        let found = card.devices().iter().find(|found| found.credential.device() == *device)?;
        Some(found.public_inbox.clone())
    }
}
