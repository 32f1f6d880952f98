//! OpenMLS's storage: rows of the table `mls`, inside the caller's transaction.
//!
//! A row's key is the HMAC of its kind and name, its value the MessagePack of what OpenMLS gave, sealed for
//! that key. (MessagePack with field names: OpenMLS evolves its formats by name; postcard and bincode cannot
//! read them back.) Owns the table `mls`; opens no transaction and decides nothing. Lists (own leaf nodes,
//! proposals) are one row.
//!
//! OpenMLS joins a group by writing it, and deletes the Welcome's key package before the Welcome has been
//! looked at. So writes can be held back: between [`Storage::hold`] and [`Storage::take_held`] they go to
//! memory, where reads find them, and reach the table only by [`Storage::release`]. A Welcome that is refused
//! costs nothing then.

use std::cell::RefCell;
use std::collections::BTreeMap;

use openmls_traits::storage::{CURRENT_VERSION as V, StorageProvider, traits};
use rusqlite::OptionalExtension;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::conversation::ConversationId;
use crate::store::{Place, StoreError, Transaction};

const TABLE: &str = "mls";

/// The kinds of rows. Part of the stored format: numbers are never reused.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    JoinConfig = 1,
    OwnLeafNodes = 2,
    Proposals = 3,
    Tree = 4,
    InterimTranscriptHash = 5,
    GroupContext = 6,
    ConfirmationTag = 7,
    GroupState = 8,
    MessageSecrets = 9,
    ResumptionPsks = 10,
    OwnLeafIndex = 11,
    EpochSecrets = 12,
    ExportTree = 13,
    SignatureKeyPair = 14,
    EncryptionKeyPair = 15,
    EpochKeyPairs = 16,
    KeyPackage = 17,
    Psk = 18,
}

impl Kind {
    /// Keys by which others reach this device belong to no conversation.
    fn is_of_a_group(self) -> bool {
        !matches!(self, Self::SignatureKeyPair | Self::EncryptionKeyPair | Self::KeyPackage | Self::Psk)
    }
}

/// Why a row was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// OpenMLS gave something that has no MessagePack.
    #[error("cannot encode an MLS row: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    /// A row that OpenMLS cannot read back.
    #[error("cannot decode an MLS row: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

type RowKey = [u8; 32];

/// The table `mls` of one transaction.
pub struct Storage<'t> {
    tx: &'t Transaction<'t>,
    /// Whose groups these are: two conversations may have groups of one MLS id, one of them a stranger's.
    scope: Option<ConversationId>,
    held: RefCell<Option<Held>>,
}

/// Writes that were held back: sealed values, or deletions.
#[derive(Default)]
pub(super) struct Held(BTreeMap<RowKey, Option<Vec<u8>>>);

impl<'t> Storage<'t> {
    pub(super) fn new(tx: &'t Transaction<'t>, scope: Option<ConversationId>) -> Self {
        Self { tx, scope, held: RefCell::new(None) }
    }

    /// From now on writes are held back.
    pub(super) fn hold(&self) {
        self.held.replace(Some(Held::default()));
    }

    /// Ends [`Storage::hold`]; gives what was held back, to be released or dropped.
    pub(super) fn take_held(&self) -> Held {
        self.held.take().unwrap_or_default()
    }

    /// Writes what was held back.
    pub(super) fn release(&self, held: Held) -> Result<(), RowError> {
        held.0.into_iter().try_for_each(|(key, value)| self.write(key, value))
    }

    /// How many private keys of the tree are held in an epoch.
    pub(super) fn epoch_key_pairs(
        &self,
        group: &impl traits::GroupId<V>,
        epoch: impl traits::EpochKey<V>,
        leaf: u32,
    ) -> Result<usize, RowError> {
        let name = (group, epoch, leaf);
        let pairs: Option<Vec<serde::de::IgnoredAny>> = self.get(Kind::EpochKeyPairs, &name)?;
        Ok(pairs.map_or(0, |pairs| pairs.len()))
    }

    /// Runs SQL that changes no rows: savepoints.
    pub(super) fn control(&self, sql: &'static str) -> Result<(), RowError> {
        self.tx.sql().prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    fn row_key(&self, kind: Kind, name: &impl Serialize) -> Result<RowKey, RowError> {
        let mut bytes = vec![kind as u8];
        if let Some(scope) = self.scope.filter(|_| kind.is_of_a_group()) {
            bytes.extend(scope.0);
        }
        bytes.extend(rmp_serde::to_vec(name)?);
        Ok(self.tx.hidden_name(TABLE, &bytes))
    }

    fn put(&self, kind: Kind, name: &impl Serialize, value: &impl Serialize) -> Result<(), RowError> {
        let key = self.row_key(kind, name)?;
        let value = Zeroizing::new(rmp_serde::to_vec_named(value)?);
        let sealed = self.tx.seal(Place { table: TABLE, column: "v", key: &key }, &value);
        self.write(key, Some(sealed))
    }

    /// Puts a sealed value, or deletes.
    fn write(&self, key: RowKey, value: Option<Vec<u8>>) -> Result<(), RowError> {
        if let Some(held) = self.held.borrow_mut().as_mut() {
            held.0.insert(key, value);
            return Ok(());
        }
        let sql = self.tx.sql();
        match value {
            Some(sealed) => sql
                .prepare_cached(
                    "INSERT INTO mls (k, v) VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
                )?
                .execute((&key[..], sealed))?,
            None => sql.prepare_cached("DELETE FROM mls WHERE k = ?1")?.execute([&key[..]])?,
        };
        Ok(())
    }

    fn read(&self, key: &RowKey) -> Result<Option<Vec<u8>>, RowError> {
        if let Some(value) = self.held.borrow().as_ref().and_then(|held| held.0.get(key)) {
            return Ok(value.clone());
        }
        let mut statement = self.tx.sql().prepare_cached("SELECT v FROM mls WHERE k = ?1")?;
        Ok(statement.query_row([&key[..]], |row| row.get(0)).optional()?)
    }

    fn get<T: DeserializeOwned>(&self, kind: Kind, name: &impl Serialize) -> Result<Option<T>, RowError> {
        let key = self.row_key(kind, name)?;
        let Some(sealed) = self.read(&key)? else {
            return Ok(None);
        };
        let value = Zeroizing::new(self.tx.open(Place { table: TABLE, column: "v", key: &key }, &sealed)?);
        Ok(Some(rmp_serde::from_slice(&value)?))
    }

    fn delete(&self, kind: Kind, name: &impl Serialize) -> Result<(), RowError> {
        self.write(self.row_key(kind, name)?, None)
    }
}

/// `write(group, value)` of one row per group.
macro_rules! group_row {
    ($($write:ident, $value:ident => $kind:ident;)*) => {$(
        fn $write<G: traits::GroupId<V>, T: traits::$value<V>>(&self, group: &G, value: &T) -> Result<(), RowError> {
            self.put(Kind::$kind, group, value)
        }
    )*};
}

/// `read(group)` of one row per group.
macro_rules! group_read {
    ($($read:ident, $value:ident => $kind:ident;)*) => {$(
        fn $read<G: traits::GroupId<V>, T: traits::$value<V>>(&self, group: &G) -> Result<Option<T>, RowError> {
            self.get(Kind::$kind, group)
        }
    )*};
}

/// `delete(group)` of one row per group.
macro_rules! group_delete {
    ($($delete:ident => $kind:ident;)*) => {$(
        fn $delete<G: traits::GroupId<V>>(&self, group: &G) -> Result<(), RowError> {
            self.delete(Kind::$kind, group)
        }
    )*};
}

/// Write and delete of one row per key object.
macro_rules! object_row {
    ($($write:ident, $delete:ident, $name:ident, $value:ident => $kind:ident;)*) => {$(
        fn $write<K: traits::$name<V>, T: traits::$value<V>>(&self, name: &K, value: &T) -> Result<(), RowError> {
            self.put(Kind::$kind, name, value)
        }

        fn $delete<K: traits::$name<V>>(&self, name: &K) -> Result<(), RowError> {
            self.delete(Kind::$kind, name)
        }
    )*};
}

impl StorageProvider<V> for Storage<'_> {
    type Error = RowError;

    group_row! {
        write_tree, TreeSync => Tree;
        write_interim_transcript_hash, InterimTranscriptHash => InterimTranscriptHash;
        write_context, GroupContext => GroupContext;
        write_confirmation_tag, ConfirmationTag => ConfirmationTag;
        write_message_secrets, MessageSecrets => MessageSecrets;
        write_resumption_psk_store, ResumptionPskStore => ResumptionPsks;
        write_own_leaf_index, LeafNodeIndex => OwnLeafIndex;
        write_group_epoch_secrets, GroupEpochSecrets => EpochSecrets;
        write_application_export_tree, ApplicationExportTree => ExportTree;
        write_mls_join_config, MlsGroupJoinConfig => JoinConfig;
    }

    group_read! {
        tree, TreeSync => Tree;
        interim_transcript_hash, InterimTranscriptHash => InterimTranscriptHash;
        group_context, GroupContext => GroupContext;
        confirmation_tag, ConfirmationTag => ConfirmationTag;
        message_secrets, MessageSecrets => MessageSecrets;
        resumption_psk_store, ResumptionPskStore => ResumptionPsks;
        own_leaf_index, LeafNodeIndex => OwnLeafIndex;
        group_epoch_secrets, GroupEpochSecrets => EpochSecrets;
        application_export_tree, ApplicationExportTree => ExportTree;
        mls_group_join_config, MlsGroupJoinConfig => JoinConfig;
    }

    group_delete! {
        delete_own_leaf_nodes => OwnLeafNodes;
        delete_group_config => JoinConfig;
        delete_tree => Tree;
        delete_confirmation_tag => ConfirmationTag;
        delete_group_state => GroupState;
        delete_context => GroupContext;
        delete_interim_transcript_hash => InterimTranscriptHash;
        delete_message_secrets => MessageSecrets;
        delete_all_resumption_psk_secrets => ResumptionPsks;
        delete_own_leaf_index => OwnLeafIndex;
        delete_group_epoch_secrets => EpochSecrets;
    }

    object_row! {
        write_signature_key_pair, delete_signature_key_pair, SignaturePublicKey, SignatureKeyPair => SignatureKeyPair;
        write_encryption_key_pair, delete_encryption_key_pair, EncryptionKey, HpkeKeyPair => EncryptionKeyPair;
        write_psk, delete_psk, PskId, PskBundle => Psk;
    }

    // What follows differs in the order of the trait's type parameters, or is a list.

    fn write_group_state<T: traits::GroupState<V>, G: traits::GroupId<V>>(
        &self,
        group: &G,
        value: &T,
    ) -> Result<(), RowError> {
        self.put(Kind::GroupState, group, value)
    }

    fn group_state<T: traits::GroupState<V>, G: traits::GroupId<V>>(
        &self,
        group: &G,
    ) -> Result<Option<T>, RowError> {
        self.get(Kind::GroupState, group)
    }

    fn delete_application_export_tree<G: traits::GroupId<V>, T: traits::ApplicationExportTree<V>>(
        &self,
        group: &G,
    ) -> Result<(), RowError> {
        self.delete(Kind::ExportTree, group)
    }

    fn signature_key_pair<K: traits::SignaturePublicKey<V>, T: traits::SignatureKeyPair<V>>(
        &self,
        name: &K,
    ) -> Result<Option<T>, RowError> {
        self.get(Kind::SignatureKeyPair, name)
    }

    fn encryption_key_pair<T: traits::HpkeKeyPair<V>, K: traits::EncryptionKey<V>>(
        &self,
        name: &K,
    ) -> Result<Option<T>, RowError> {
        self.get(Kind::EncryptionKeyPair, name)
    }

    fn psk<T: traits::PskBundle<V>, K: traits::PskId<V>>(&self, name: &K) -> Result<Option<T>, RowError> {
        self.get(Kind::Psk, name)
    }

    fn write_key_package<K: traits::HashReference<V>, T: traits::KeyPackage<V>>(
        &self,
        name: &K,
        value: &T,
    ) -> Result<(), RowError> {
        self.put(Kind::KeyPackage, name, value)
    }

    fn key_package<K: traits::HashReference<V>, T: traits::KeyPackage<V>>(
        &self,
        name: &K,
    ) -> Result<Option<T>, RowError> {
        self.get(Kind::KeyPackage, name)
    }

    fn delete_key_package<K: traits::HashReference<V>>(&self, name: &K) -> Result<(), RowError> {
        self.delete(Kind::KeyPackage, name)
    }

    fn write_encryption_epoch_key_pairs<
        G: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        T: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &G,
        epoch: &E,
        leaf_index: u32,
        pairs: &[T],
    ) -> Result<(), RowError> {
        self.put(Kind::EpochKeyPairs, &(group, epoch, leaf_index), &pairs)
    }

    fn encryption_epoch_key_pairs<
        G: traits::GroupId<V>,
        E: traits::EpochKey<V>,
        T: traits::HpkeKeyPair<V>,
    >(
        &self,
        group: &G,
        epoch: &E,
        leaf_index: u32,
    ) -> Result<Vec<T>, RowError> {
        Ok(self.get(Kind::EpochKeyPairs, &(group, epoch, leaf_index))?.unwrap_or_default())
    }

    fn delete_encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>>(
        &self,
        group: &G,
        epoch: &E,
        leaf_index: u32,
    ) -> Result<(), RowError> {
        self.delete(Kind::EpochKeyPairs, &(group, epoch, leaf_index))
    }

    fn append_own_leaf_node<G: traits::GroupId<V>, T: traits::LeafNode<V>>(
        &self,
        group: &G,
        leaf: &T,
    ) -> Result<(), RowError> {
        let mut leaves: Vec<Row> = self.get(Kind::OwnLeafNodes, group)?.unwrap_or_default();
        leaves.push(Row::of(leaf)?);
        self.put(Kind::OwnLeafNodes, group, &leaves)
    }

    fn own_leaf_nodes<G: traits::GroupId<V>, T: traits::LeafNode<V>>(
        &self,
        group: &G,
    ) -> Result<Vec<T>, RowError> {
        let leaves: Vec<Row> = self.get(Kind::OwnLeafNodes, group)?.unwrap_or_default();
        leaves.iter().map(Row::read).collect()
    }

    fn queue_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>, T: traits::QueuedProposal<V>>(
        &self,
        group: &G,
        reference: &R,
        proposal: &T,
    ) -> Result<(), RowError> {
        let mut queue: Vec<(Row, Row)> = self.get(Kind::Proposals, group)?.unwrap_or_default();
        let reference = Row::of(reference)?;
        queue.retain(|(queued, _)| *queued != reference);
        queue.push((reference, Row::of(proposal)?));
        self.put(Kind::Proposals, group, &queue)
    }

    fn queued_proposal_refs<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Result<Vec<R>, RowError> {
        let queue: Vec<(Row, Row)> = self.get(Kind::Proposals, group)?.unwrap_or_default();
        queue.iter().map(|(reference, _)| reference.read()).collect()
    }

    fn queued_proposals<G: traits::GroupId<V>, R: traits::ProposalRef<V>, T: traits::QueuedProposal<V>>(
        &self,
        group: &G,
    ) -> Result<Vec<(R, T)>, RowError> {
        let queue: Vec<(Row, Row)> = self.get(Kind::Proposals, group)?.unwrap_or_default();
        queue.iter().map(|(reference, proposal)| Ok((reference.read()?, proposal.read()?))).collect()
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
        reference: &R,
    ) -> Result<(), RowError> {
        let mut queue: Vec<(Row, Row)> = self.get(Kind::Proposals, group)?.unwrap_or_default();
        let reference = Row::of(reference)?;
        queue.retain(|(queued, _)| *queued != reference);
        self.put(Kind::Proposals, group, &queue)
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
    ) -> Result<(), RowError> {
        self.delete(Kind::Proposals, group)
    }
}

/// One value inside a row that holds a list.
#[derive(PartialEq, Eq, Serialize, serde::Deserialize)]
struct Row(Vec<u8>);

impl Row {
    fn of(value: &impl Serialize) -> Result<Self, RowError> {
        Ok(Self(rmp_serde::to_vec_named(value)?))
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, RowError> {
        Ok(rmp_serde::from_slice(&self.0)?)
    }
}
