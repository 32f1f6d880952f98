//! Readings: mailboxes that this device reads, how far it got, and the chain there (rule 12).

use posthorn_proto::chain::Chain;
use posthorn_proto::{Incarnation, MailboxId, ReadKey, ReaderId};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use crate::conversation::ConversationId;
use crate::engine::{Link, LinkId};
use crate::identity::RelayUrl;
use crate::store::table::Table;
use crate::store::{StoreError, Transaction, record};

const TABLE: Table<MailboxId, Reading> = Table::new("reading");

/// How many chain values are kept for checking members' positions. Older references are unverifiable, not
/// alarms.
const CHAINS_KEPT: u64 = 4096;

/// A suspended mailbox is looked at again after this long, milliseconds; doubled up to [`LONGEST_LOOK`].
const FIRST_LOOK: u64 = 60_000;
const LONGEST_LOOK: u64 = 3_600_000;

/// What is read there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) enum Purpose {
    Conversation(ConversationId),
    /// On the account connection (rule 13).
    PublicInbox,
    /// On a connection of its own.
    PrivateInbox,
}

/// Why a mailbox is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) enum Pause {
    /// The relay does not have it yet.
    NotMade,
    /// It is at a relay that the person has to agree to first (rule 25).
    Consent,
    /// It contradicted what we know, which may pass: looked at again at this time, unix milliseconds, and
    /// then after twice the wait.
    LookAgain { at: u64, wait: u64 },
}

/// One mailbox that is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::engine) struct Reading {
    pub(in crate::engine) purpose: Purpose,
    /// The relay's URL.
    pub(in crate::engine) relay: String,
    pub(in crate::engine) reader: ReaderId,
    read_key: record::Secret,
    /// The invitation's one-time key, until the relay has replaced it (rule 11).
    claim: Option<record::Secret>,
    chain: [u8; 32],
    /// The relay's life in which we read last.
    pub(in crate::engine) incarnation: Option<Incarnation>,
    /// Why it is not opened.
    pub(in crate::engine) pause: Option<Pause>,
    /// It is read on a connection of its own ([`Link::Apart`]).
    pub(in crate::engine) apart: bool,
    /// The newest seq applied.
    pub(in crate::engine) seq: u64,
}

impl Reading {
    pub(in crate::engine) fn new(
        purpose: Purpose,
        relay: &str,
        reader: ReaderId,
        read_key: &ReadKey,
    ) -> Self {
        Self {
            purpose,
            relay: relay.to_owned(),
            reader,
            read_key: record::Secret(*read_key.expose()),
            claim: None,
            chain: Chain::START.0,
            incarnation: None,
            pause: None,
            apart: false,
            seq: 0,
        }
    }

    /// Begins at a place that an invitation names, with its one-time key.
    pub(in crate::engine) fn invited(mut self, claim: &ReadKey, seq: u64, chain: &Chain) -> Self {
        self.claim = Some(record::Secret(*claim.expose()));
        self.seq = seq;
        self.chain = chain.0;
        self
    }

    /// The connection on which it is read.
    pub(in crate::engine) fn link(&self) -> Option<LinkId> {
        let link = match self.purpose {
            Purpose::PublicInbox => Link::Account,
            Purpose::PrivateInbox => Link::Inbox,
            Purpose::Conversation(id) if self.apart => Link::Apart(id),
            Purpose::Conversation(_) => Link::Mailboxes,
        };
        Some(LinkId { relay: RelayUrl::parse(&self.relay).ok()?, link })
    }

    /// Whether it is to be opened now.
    pub(in crate::engine) fn is_due(&self, now: u64) -> bool {
        match self.pause {
            None => true,
            // Later than ever: the clock was put back since.
            Some(Pause::LookAgain { at, .. }) => at <= now || at > now.saturating_add(LONGEST_LOOK),
            Some(Pause::NotMade | Pause::Consent) => false,
        }
    }

    /// Whether its connection is wanted. One that serves a single conversation is there while that is read,
    /// made or looked at; without consent there is none.
    pub(in crate::engine) fn wants_link(&self, now: u64) -> bool {
        match self.pause {
            Some(Pause::Consent) => false,
            Some(Pause::NotMade) => true,
            _ => !self.apart || self.is_due(now),
        }
    }

    /// Looks at it again later; when.
    pub(in crate::engine) fn look_again(&mut self, now: u64) -> u64 {
        let wait = match self.pause {
            Some(Pause::LookAgain { wait, .. }) => (wait * 2).min(LONGEST_LOOK),
            _ => FIRST_LOOK,
        };
        self.pause = Some(Pause::LookAgain { at: now + wait, wait });
        now + wait
    }

    pub(in crate::engine) fn read_key(&self) -> ReadKey {
        ReadKey::from_bytes(self.read_key.0)
    }

    pub(in crate::engine) fn claim(&self) -> Option<ReadKey> {
        self.claim.as_ref().map(|claim| ReadKey::from_bytes(claim.0))
    }

    pub(in crate::engine) fn claimed(&mut self) -> bool {
        self.claim.take().is_some()
    }

    pub(in crate::engine) fn chain(&self) -> Chain {
        Chain(self.chain)
    }

    /// Moves on by one envelope; to be saved.
    pub(in crate::engine) fn advance(
        &mut self,
        tx: &Transaction<'_>,
        mailbox: &MailboxId,
        chain: Chain,
    ) -> Result<(), StoreError> {
        self.seq += 1;
        self.chain = chain.0;
        keep_chain(tx, mailbox, self.seq, &chain)?;
        if self.seq.is_multiple_of(256) {
            tx.sql().prepare_cached("DELETE FROM chain WHERE mailbox = ?1 AND seq + ?2 < ?3")?.execute((
                &mailbox.0[..],
                CHAINS_KEPT,
                self.seq,
            ))?;
        }
        Ok(())
    }

    /// Reads on from another place: behind a hole, or where a restored relay stands. What comes once more
    /// is recognized if the chain there is known, that is, if it was read not too long ago.
    pub(in crate::engine) fn go_to(
        &mut self,
        tx: &Transaction<'_>,
        mailbox: &MailboxId,
        seq: u64,
    ) -> Result<(), StoreError> {
        let known = if seq == 0 { Some(Chain::START) } else { chain_at(tx, mailbox, seq)? };
        if known.is_none() {
            tx.sql().prepare_cached("DELETE FROM chain WHERE mailbox = ?1")?.execute([&mailbox.0[..]])?;
            keep_chain(tx, mailbox, seq, &Chain::START)?;
        }
        self.seq = seq;
        self.chain = known.unwrap_or(Chain::START).0;
        self.save(tx, mailbox)
    }

    pub(in crate::engine) fn load(
        tx: &Transaction<'_>,
        mailbox: &MailboxId,
    ) -> Result<Option<Self>, StoreError> {
        TABLE.get(tx, mailbox)
    }

    pub(in crate::engine) fn all(tx: &Transaction<'_>) -> Result<Vec<(MailboxId, Self)>, StoreError> {
        TABLE.all(tx)
    }

    pub(in crate::engine) fn save(
        &self,
        tx: &Transaction<'_>,
        mailbox: &MailboxId,
    ) -> Result<(), StoreError> {
        TABLE.put(tx, mailbox, self)
    }

    pub(in crate::engine) fn delete(tx: &Transaction<'_>, mailbox: &MailboxId) -> Result<(), StoreError> {
        TABLE.remove(tx, mailbox)?;
        tx.sql().prepare_cached("DELETE FROM chain WHERE mailbox = ?1")?.execute([&mailbox.0[..]])?;
        Ok(())
    }
}

/// Keeps the chain at a seq.
pub(in crate::engine) fn keep_chain(
    tx: &Transaction<'_>,
    mailbox: &MailboxId,
    seq: u64,
    chain: &Chain,
) -> Result<(), StoreError> {
    tx.sql()
        .prepare_cached("INSERT OR REPLACE INTO chain (mailbox, seq, chain) VALUES (?1, ?2, ?3)")?
        .execute((&mailbox.0[..], seq, &chain.0[..]))?;
    Ok(())
}

/// Our chain at a seq, if it is still kept.
pub(in crate::engine) fn chain_at(
    tx: &Transaction<'_>,
    mailbox: &MailboxId,
    seq: u64,
) -> Result<Option<Chain>, StoreError> {
    let chain: Option<Vec<u8>> = tx
        .sql()
        .prepare_cached("SELECT chain FROM chain WHERE mailbox = ?1 AND seq = ?2")?
        .query_row((&mailbox.0[..], seq), |row| row.get(0))
        .optional()?;
    chain.map(|chain| chain.try_into().map(Chain).map_err(|_| StoreError::Damaged("chain"))).transpose()
}
