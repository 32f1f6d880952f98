//! The device's own account: its secrets, its inboxes, its stock of tokens, the people it met.

use posthorn_proto::{
    DeviceId, Handle, KeyHash, MailboxId, PostId, PostKey, ReadKey, ReaderId, RelayIdentity, Token, TurnKey,
};
use rand::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::group::{KeyPackageKind, KeyPackageRef, MadeKeyPackage};
use crate::identity::{Credential, Device, Identity, RelayAddress, RelayUrl};
use crate::inbox::{InboxAddress, InboxSecret};
use crate::store::table::Table;
use crate::store::{StoreError, Transaction, record};

const TABLE: Table<&str, Profile> = Table::new("setting");
const TOKENS: Table<KeyHash, Held> = Table::new("token");
const PROFILE_KEY: &str = "profile";
/// A seed of an inbox that was replaced is kept for this long, milliseconds: what was sealed to it lives for
/// 30 days, and cards and leaves that name it for about as long.
const OLD_SEED: u64 = 60 * 24 * 3600 * 1000;
/// An inbox gets a fresh key after this long, milliseconds: 30 days (rule 31).
const SEED_AGE: u64 = 30 * 24 * 3600 * 1000;

/// One of the device's two inboxes (rule 13).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::engine) struct Inbox {
    pub(in crate::engine) mailbox: MailboxId,
    pub(in crate::engine) reader: ReaderId,
    seed: record::Secret,
    /// Former seeds, and until when what is sealed to them is opened, unix milliseconds.
    old_seeds: Vec<(record::Secret, u64)>,
    post: record::Secret,
    turn: record::Secret,
    read: record::Secret,
    /// The relay has it.
    pub(in crate::engine) created: bool,
    /// The token that its creation was tried with; the same again after a crash.
    pub(in crate::engine) token: Option<record::Secret>,
}

/// The account and this device of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::engine) struct Profile {
    relay_url: String,
    /// Learnt at registration and pinned from then on.
    pub(in crate::engine) relay_identity: Option<RelayIdentity>,
    handle: String,
    /// Until registered.
    pub(in crate::engine) invite: String,
    pub(in crate::engine) registered: bool,
    identity: record::Secret,
    device_id: DeviceId,
    signature: record::Secret,
    account: record::Secret,
    pub(in crate::engine) public_inbox: Inbox,
    pub(in crate::engine) private_inbox: Inbox,
    /// Version of the card that the relay has; 0 = none.
    pub(in crate::engine) card_version: u64,
    /// What the card says has changed since.
    pub(in crate::engine) card_due: bool,
    /// Since when the relay has our last-resort key package, unix seconds by its clock.
    pub(in crate::engine) last_resort_since: Option<u64>,
    /// When both inboxes got their keys, unix milliseconds.
    pub(in crate::engine) seeds_since: u64,
    /// The relay had everything once: what is here is somebody's, whatever became of it there.
    #[serde(default)]
    pub(in crate::engine) established: bool,
    /// The relay said last that it does not know this account (any more).
    #[serde(default)]
    pub(in crate::engine) unknown: bool,
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
            old_seeds: Vec::new(),
            post,
            turn,
            read,
            created: false,
            token: None,
        }
    }

    /// Opens what was sealed to this inbox, under its key or a former one.
    pub(in crate::engine) fn open(
        &self,
        mailbox: &MailboxId,
        post: &PostId,
        sealed: &[u8],
    ) -> Option<Vec<u8>> {
        let former = self.old_seeds.iter().map(|(seed, _)| seed);
        std::iter::once(&self.seed)
            .chain(former)
            .find_map(|seed| InboxSecret::from_seed(seed.0).open(mailbox, post, sealed).ok())
    }

    /// A fresh key; the former ones still open what is under way.
    fn renew(&mut self, now: u64, rng: &mut dyn CryptoRng) {
        let mut seed = record::Secret([0; 32]);
        rng.fill_bytes(&mut seed.0);
        self.old_seeds.retain(|(_, until)| *until > now);
        self.old_seeds.push((std::mem::replace(&mut self.seed, seed), now + OLD_SEED));
    }

    pub(in crate::engine) fn post_key(&self) -> PostKey {
        PostKey::from_bytes(self.post.0)
    }

    pub(in crate::engine) fn turn_key(&self) -> TurnKey {
        TurnKey::from_bytes(self.turn.0)
    }

    pub(in crate::engine) fn read_key(&self) -> ReadKey {
        ReadKey::from_bytes(self.read.0)
    }

    pub(in crate::engine) fn address(&self, relay: &RelayAddress) -> InboxAddress {
        InboxAddress {
            relay: relay.clone(),
            mailbox: self.mailbox,
            post_key: self.post_key(),
            key: InboxSecret::from_seed(self.seed.0).key(),
        }
    }
}

impl Profile {
    /// A fresh identity with its first device, to be registered.
    pub(in crate::engine) fn generate(
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
            card_due: false,
            last_resort_since: None,
            seeds_since: 0,
            established: false,
            unknown: false,
        }
    }

    pub(in crate::engine) fn load(tx: &Transaction<'_>) -> Result<Option<Self>, StoreError> {
        TABLE.get(tx, &PROFILE_KEY)
    }

    pub(in crate::engine) fn save(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        TABLE.put(tx, &PROFILE_KEY, self)
    }

    pub(in crate::engine) fn delete(tx: &Transaction<'_>) -> Result<(), StoreError> {
        TABLE.remove(tx, &PROFILE_KEY).map(drop)
    }

    pub(in crate::engine) fn handle(&self) -> Result<Handle, StoreError> {
        Handle::parse(&self.handle).map_err(|_| StoreError::Damaged("setting"))
    }

    pub(in crate::engine) fn relay_url(&self) -> Result<RelayUrl, StoreError> {
        RelayUrl::parse(&self.relay_url).map_err(|_| StoreError::Damaged("setting"))
    }

    pub(in crate::engine) fn identity(&self) -> Identity {
        Identity::from_seed(&self.identity.0)
    }

    pub(in crate::engine) fn device(&self) -> Device {
        Device::from_seeds(self.device_id, &self.signature.0, &self.account.0)
    }

    /// A device may give itself any id.
    #[cfg(test)]
    pub(in crate::engine) fn borrow_device_id(&mut self, id: DeviceId) {
        self.device_id = id;
    }

    /// An identity may call itself as it likes, outside of its relay's directory.
    #[cfg(test)]
    pub(in crate::engine) fn borrow_handle(&mut self, handle: &str) {
        handle.clone_into(&mut self.handle);
    }

    pub(in crate::engine) fn credential(&self, relay: &RelayIdentity) -> Result<Credential, StoreError> {
        Ok(Credential::issue(&self.identity(), &self.device(), &self.handle()?, relay))
    }

    /// The relay has everything that others need to write to us.
    pub(in crate::engine) fn complete(&self) -> bool {
        self.registered
            && self.card_version > 0
            && self.last_resort_since.is_some()
            && self.private_inbox.created
    }

    /// The relay lost it all: it is to be told everything again.
    pub(in crate::engine) fn begin_again(&mut self, invite: String) {
        self.established |= self.complete();
        (self.invite, self.registered) = (invite, false);
        (self.card_due, self.last_resort_since) = (true, None);
    }

    /// Gives both inboxes fresh keys when theirs are old; the card has to be published anew then.
    pub(in crate::engine) fn renew_seeds(&mut self, now: u64, rng: &mut dyn CryptoRng) {
        if self.seeds_since == 0 {
            self.seeds_since = now;
            return;
        }
        if now.abs_diff(self.seeds_since) < SEED_AGE {
            return;
        }
        self.public_inbox.renew(now, rng);
        self.private_inbox.renew(now, rng);
        (self.seeds_since, self.card_due) = (now, true);
    }
}

/// A token of ours.
#[derive(Serialize, Deserialize)]
struct Held {
    /// The relay has confirmed it.
    drawn: bool,
    token: record::Secret,
}

/// Keeps tokens that the relay has not confirmed yet.
pub(in crate::engine) fn put_tokens(tx: &Transaction<'_>, tokens: &[Token]) -> Result<(), StoreError> {
    let held = |token: &Token| Held { drawn: false, token: record::Secret(*token.expose()) };
    tokens.iter().try_for_each(|token| TOKENS.put(tx, &token.hash(), &held(token)))
}

/// Hashes of the tokens that the relay has not confirmed.
pub(in crate::engine) fn undrawn_tokens(tx: &Transaction<'_>) -> Result<Vec<KeyHash>, StoreError> {
    let all = TOKENS.all(tx)?;
    Ok(all.into_iter().filter(|(_, held)| !held.drawn).map(|(hash, _)| hash).collect())
}

/// The relay confirmed these.
pub(in crate::engine) fn drawn_tokens(tx: &Transaction<'_>, hashes: &[KeyHash]) -> Result<(), StoreError> {
    for hash in hashes {
        if let Some(held) = TOKENS.get(tx, hash)? {
            TOKENS.put(tx, hash, &Held { drawn: true, ..held })?;
        }
    }
    Ok(())
}

/// How many can be spent.
pub(in crate::engine) fn count_tokens(tx: &Transaction<'_>) -> Result<usize, StoreError> {
    Ok(TOKENS.all(tx)?.into_iter().filter(|(_, held)| held.drawn).count())
}

/// Takes one out for good; the caller keeps it with what it pays for.
pub(in crate::engine) fn take_token(tx: &Transaction<'_>) -> Result<Option<Token>, StoreError> {
    let found = TOKENS.all(tx)?.into_iter().find(|(_, held)| held.drawn);
    let Some((hash, held)) = found else { return Ok(None) };
    TOKENS.remove(tx, &hash)?;
    Ok(Some(Token::from_bytes(held.token.0)))
}

/// Notes a key package of ours, so that its secrets are deleted when it has run out.
pub(in crate::engine) fn note_key_package(
    tx: &Transaction<'_>,
    made: &MadeKeyPackage,
) -> Result<(), StoreError> {
    tx.sql().prepare_cached("INSERT OR REPLACE INTO key_package VALUES (?1, ?2, ?3)")?.execute((
        &made.reference.0[..],
        made.not_after,
        made.kind == KeyPackageKind::LastResort,
    ))?;
    Ok(())
}

/// The relay gives out `newest` for the last resort: the former ones run out at `seconds` at the latest.
pub(in crate::engine) fn replace_last_resort(
    tx: &Transaction<'_>,
    newest: &KeyPackageRef,
    seconds: u64,
) -> Result<(), StoreError> {
    tx.sql()
        .prepare_cached(
            "UPDATE key_package SET not_after = min(not_after, ?2) WHERE last_resort AND reference != ?1",
        )?
        .execute((&newest.0[..], seconds))?;
    Ok(())
}

/// Key packages of ours that ran out before `seconds`; they are not noted any more.
pub(in crate::engine) fn take_expired_key_packages(
    tx: &Transaction<'_>,
    seconds: u64,
) -> Result<Vec<KeyPackageRef>, StoreError> {
    let mut statement =
        tx.sql().prepare_cached("DELETE FROM key_package WHERE not_after < ?1 RETURNING reference")?;
    let rows = statement.query_map([seconds], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|row| row?.try_into().map(KeyPackageRef).map_err(|_| StoreError::Damaged("key_package")))
        .collect()
}
