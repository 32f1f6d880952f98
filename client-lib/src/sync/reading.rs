//! Readings: mailboxes that this device reads, how far it got, and the chain there (rule 12).

use posthorn_proto::chain::Chain;
use posthorn_proto::{Incarnation, MailboxId, ReadKey, ReaderId};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use crate::conversation::{Cause, ConversationId};
use crate::store::{StoreError, Transaction, record};

const TABLE: &str = "reading";

/// How many chain values are kept for checking members' positions. Older references are unverifiable, not
/// alarms.
const CHAINS_KEPT: u64 = 4096;

/// What is read there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    Conversation(ConversationId),
    /// On the account connection (rule 13).
    PublicInbox,
    PrivateInbox,
}

/// One mailbox that is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reading {
    pub(super) purpose: Purpose,
    /// The relay's URL.
    pub(super) relay: String,
    pub(super) reader: ReaderId,
    read_key: record::Secret,
    /// The invitation's one-time key, until the relay has replaced it (rule 11).
    claim: Option<record::Secret>,
    chain: [u8; 32],
    /// The relay's life in which we read last.
    pub(super) incarnation: Option<Incarnation>,
    /// Why it is not opened any more.
    pub(super) stopped: Option<Cause>,
    /// The newest seq applied. Stands in a column of its own.
    #[serde(skip)]
    pub(super) seq: u64,
}

impl Reading {
    pub(super) fn new(purpose: Purpose, relay: &str, reader: ReaderId, read_key: &ReadKey) -> Self {
        Self {
            purpose,
            relay: relay.to_owned(),
            reader,
            read_key: record::Secret(*read_key.expose()),
            claim: None,
            chain: Chain::START.0,
            incarnation: None,
            stopped: None,
            seq: 0,
        }
    }

    /// Begins at a place that an invitation names, with its one-time key.
    pub(super) fn invited(mut self, claim: &ReadKey, seq: u64, chain: &Chain) -> Self {
        self.claim = Some(record::Secret(*claim.expose()));
        self.seq = seq;
        self.chain = chain.0;
        self
    }

    pub(super) fn read_key(&self) -> ReadKey {
        ReadKey::from_bytes(self.read_key.0)
    }

    pub(super) fn claim(&self) -> Option<ReadKey> {
        self.claim.as_ref().map(|claim| ReadKey::from_bytes(claim.0))
    }

    pub(super) fn claimed(&mut self) -> bool {
        self.claim.take().is_some()
    }

    pub(super) fn chain(&self) -> Chain {
        Chain(self.chain)
    }

    /// Moves on by one envelope.
    pub(super) fn advance(
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
        self.save(tx, mailbox)
    }

    /// Goes on behind a hole: the chain of what is in it is not known.
    pub(super) fn skip_to(
        &mut self,
        tx: &Transaction<'_>,
        mailbox: &MailboxId,
        seq: u64,
    ) -> Result<(), StoreError> {
        tx.sql().prepare_cached("DELETE FROM chain WHERE mailbox = ?1")?.execute([&mailbox.0[..]])?;
        self.seq = seq;
        self.chain = Chain::START.0;
        self.save(tx, mailbox)
    }

    pub(super) fn load(tx: &Transaction<'_>, mailbox: &MailboxId) -> Result<Option<Self>, StoreError> {
        let row: Option<(u64, Vec<u8>)> = tx
            .sql()
            .prepare_cached("SELECT seq, value FROM reading WHERE mailbox = ?1")?
            .query_row([&mailbox.0[..]], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        row.map(|(seq, value)| {
            let mut reading: Self = record::open(tx, TABLE, &mailbox.0, &value)?;
            reading.seq = seq;
            Ok(reading)
        })
        .transpose()
    }

    pub(super) fn all(tx: &Transaction<'_>) -> Result<Vec<(MailboxId, Self)>, StoreError> {
        let mut statement =
            tx.sql().prepare_cached("SELECT mailbox, seq, value FROM reading ORDER BY mailbox")?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, u64>(1)?, row.get::<_, Vec<u8>>(2)?))
        })?;
        rows.map(|row| {
            let (mailbox, seq, value) = row?;
            let mailbox = MailboxId::try_from(&mailbox[..]).map_err(|_| StoreError::Damaged(TABLE))?;
            let mut reading: Self = record::open(tx, TABLE, &mailbox.0, &value)?;
            reading.seq = seq;
            Ok((mailbox, reading))
        })
        .collect()
    }

    pub(super) fn save(&self, tx: &Transaction<'_>, mailbox: &MailboxId) -> Result<(), StoreError> {
        let value = record::seal(tx, TABLE, &mailbox.0, self);
        tx.sql()
            .prepare_cached(
                "INSERT INTO reading (mailbox, seq, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (mailbox) DO UPDATE SET seq = excluded.seq, value = excluded.value",
            )?
            .execute((&mailbox.0[..], self.seq, value))?;
        Ok(())
    }

    pub(super) fn delete(tx: &Transaction<'_>, mailbox: &MailboxId) -> Result<(), StoreError> {
        tx.sql().prepare_cached("DELETE FROM reading WHERE mailbox = ?1")?.execute([&mailbox.0[..]])?;
        tx.sql().prepare_cached("DELETE FROM chain WHERE mailbox = ?1")?.execute([&mailbox.0[..]])?;
        Ok(())
    }
}

/// Keeps the chain at a seq.
pub(super) fn keep_chain(
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
pub(super) fn chain_at(
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
