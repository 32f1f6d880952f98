//! A group as this device holds it: its seat there, for the span of one transaction.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{
    ContentType, GroupId as MlsGroupId, LeafNodeIndex, LeafNodeParameters,
    MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup, MlsGroupJoinConfig, MlsGroupStateError, MlsMessageBodyIn,
    MlsMessageIn, ProcessMessageError, ProcessedMessageContent, Proposal, ProtocolMessage, Sender,
    SenderRatchetConfiguration, StageCommitError, StagedCommit, ValidationError, WireFormatPolicy,
};
use openmls_traits::OpenMlsProvider as _;
use posthorn_proto::{ReadKey, Reader, ReaderId};

use super::commit::{judge, stored_member, stored_members};
use super::info::{capabilities, leaf_extensions};
use super::key_package::unlimited;
use super::keys::claim_key;
use super::member::check_key;
use super::provider::Provider;
use super::storage::RowError;
use super::{
    Change, EpochKeys, GroupError, GroupId, GroupInfo, MOST_BYTES, Member, Outcome, OwnLeaf, Refusal, SUITE,
    Staged, StagedChange,
};

/// Messages encrypted, handshakes not (inside our own envelope): so that our own commit is known when it
/// comes back.
const WIRE_FORMAT: WireFormatPolicy = MIXED_PLAINTEXT_WIRE_FORMAT_POLICY;
/// The relay orders everything, so a member's messages arrive in order unless some were lost: (generations
/// kept back, generations skipped ahead). Skipping that many costs some 20 ms, which bounds what a forged
/// generation costs us.
const RATCHET: (u32, u32) = (32, 10_000);

/// What an MLS message turned out to be.
#[derive(Debug)]
pub enum Received {
    /// A message of a member.
    Message {
        /// Who signed it.
        sender: Box<Member>,
        /// What was encrypted.
        plaintext: Vec<u8>,
        /// What the sender signed beside it.
        aad: Vec<u8>,
    },
    /// A commit of another member, to be looked at and then applied or dropped.
    Commit(Box<StagedChange>),
    /// Our own pending commit, read back; time for [`Group::merge_pending`].
    OwnCommit,
    /// A message that says it is our own. Not authenticated: only what we sent ourselves counts.
    OwnMessage,
}

/// This device's seat in a group. Lives no longer than the provider's transaction.
pub struct Group<'p> {
    provider: &'p Provider<'p>,
    group: MlsGroup,
    info: GroupInfo,
    /// Of this epoch, once they were asked for.
    members: OnceCell<Arc<[Member]>>,
    keys: OnceCell<EpochKeys>,
    /// Set when the group could not be loaded again after an error; nothing works any more then.
    broken: bool,
}

/// A group between two transactions. It is what the last one committed; after one that was not, it must be
/// dropped, or message keys would serve twice.
pub struct KeptGroup {
    group: MlsGroup,
    info: GroupInfo,
    members: OnceCell<Arc<[Member]>>,
    keys: OnceCell<EpochKeys>,
}

impl KeptGroup {
    /// Goes on with it in the next transaction.
    pub fn resume<'p>(self, provider: &'p Provider<'p>) -> Group<'p> {
        let Self { group, info, members, keys } = self;
        Group { provider, group, info, members, keys, broken: false }
    }
}

impl fmt::Debug for KeptGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptGroup")
    }
}

impl<'p> Group<'p> {
    /// Makes a group of this device alone. Errors: [`GroupError::Invalid`] when the conversation exists.
    pub fn create(
        provider: &'p Provider<'p>,
        own: &OwnLeaf<'_>,
        id: GroupId,
        info: &GroupInfo,
    ) -> Result<Self, GroupError> {
        let extensions = info.to_extensions()?;
        let leaf = leaf_extensions(Some(own.inbox))?;
        atomically(provider, || {
            let group = MlsGroup::builder()
                .with_group_id(MlsGroupId::from_slice(&id.0))
                .ciphersuite(SUITE)
                .with_wire_format_policy(WIRE_FORMAT)
                .max_past_epochs(0)
                .sender_ratchet_configuration(SenderRatchetConfiguration::new(RATCHET.0, RATCHET.1))
                .use_ratchet_tree_extension(false)
                .lifetime(unlimited())
                .with_capabilities(capabilities())
                .with_group_context_extensions(extensions)
                .with_leaf_node_extensions(leaf)
                .map_err(GroupError::library)?
                .build(provider, own, own.credential_with_key())
                .map_err(invalid)?;
            Self::of(provider, group)
        })
    }

    /// The stored group of the provider's conversation. Errors: [`GroupError::Unknown`];
    /// [`GroupError::RulesTooNew`].
    pub fn load(provider: &'p Provider<'p>, id: &GroupId) -> Result<Self, GroupError> {
        let group = MlsGroup::load(provider.storage(), &MlsGroupId::from_slice(&id.0))?;
        Self::of(provider, group.ok_or(GroupError::Unknown)?)
    }

    pub(super) fn of(provider: &'p Provider<'p>, group: MlsGroup) -> Result<Self, GroupError> {
        let info = GroupInfo::of(group.public_group().group_context())?;
        Ok(Self { provider, group, info, members: OnceCell::new(), keys: OnceCell::new(), broken: false })
    }

    /// Deletes the group: the conversation was left for good.
    pub fn delete(mut self) -> Result<(), GroupError> {
        let storage = self.provider.storage();
        atomically(self.provider, || Ok(self.group.delete(storage)?))
    }

    /// Keeps it for the next transaction; to be dropped if this one is not committed.
    pub fn keep(self) -> KeptGroup {
        KeptGroup { group: self.group, info: self.info, members: self.members, keys: self.keys }
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        GroupId::try_from(self.group.group_id().as_slice()).unwrap_or(GroupId([0; 16]))
    }

    /// The current epoch; grows by one with every commit.
    pub fn epoch(&self) -> u64 {
        self.group.epoch().as_u64()
    }

    /// What the members agree on.
    pub fn info(&self) -> &GroupInfo {
        &self.info
    }

    /// Whether we are still in the group.
    pub fn is_member(&self) -> bool {
        self.group.is_active()
    }

    /// Our own leaf.
    pub fn own_leaf(&self) -> u32 {
        self.group.own_leaf_index().u32()
    }

    /// All members, by leaf.
    pub fn members(&self) -> Result<Arc<[Member]>, GroupError> {
        if let Some(members) = self.members.get() {
            return Ok(Arc::clone(members));
        }
        let members: Arc<[Member]> = stored_members(&self.group, &self.info)?.into();
        Ok(Arc::clone(self.members.get_or_init(|| members)))
    }

    /// The member of a leaf. Errors: [`GroupError::NoMember`].
    pub fn member(&self, leaf: u32) -> Result<Member, GroupError> {
        stored_member(&self.group, LeafNodeIndex::new(leaf), &self.info)
            .map_err(|_| GroupError::NoMember(leaf))
    }

    /// The keys of the current epoch. Errors: [`GroupError::Evicted`].
    pub fn keys(&self) -> Result<EpochKeys, GroupError> {
        if !self.is_member() {
            return Err(GroupError::Evicted);
        }
        if let Some(keys) = self.keys.get() {
            return Ok(keys.clone());
        }
        let keys = EpochKeys::derive(&self.info.place, |label, context, length| {
            self.group.export_secret(self.provider.crypto(), label, context, length)
        })?;
        Ok(self.keys.get_or_init(|| keys).clone())
    }

    /// Our own reader here, and the one-time key by which it is claimed where the commit that began this
    /// epoch has moved the conversation. Errors: [`GroupError::NoMember`].
    pub fn claim_key(&self) -> Result<(ReaderId, ReadKey), GroupError> {
        let reader = self.member(self.own_leaf())?.reader;
        let key = claim_key(&self.info.place, &reader, |label, context, length| {
            self.group.export_secret(self.provider.crypto(), label, context, length)
        })?;
        Ok((reader, key))
    }

    /// Encrypts a message to the group. The result must be stored in the same transaction, before it is
    /// posted: after a rollback the same key would serve again. Works while a commit is pending.
    pub fn encrypt(
        &mut self,
        own: &OwnLeaf<'_>,
        plaintext: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, GroupError> {
        self.changing(|group, provider| {
            group.set_aad(aad.to_vec());
            let message = group.create_message(provider, own, plaintext).map_err(GroupError::library)?;
            message.to_bytes().map_err(GroupError::library)
        })
    }

    /// Makes a commit and keeps it pending. Post it, then read on: [`Group::merge_pending`] when it comes
    /// back, [`Group::apply`] of another's that came first (which drops ours), or
    /// [`Group::clear_pending`]. Errors: [`GroupError::Pending`], [`GroupError::Empty`],
    /// [`GroupError::NoMember`], [`GroupError::Refused`].
    pub fn stage(&mut self, own: &OwnLeaf<'_>, change: &Change, aad: &[u8]) -> Result<Staged, GroupError> {
        if self.has_pending() {
            return Err(GroupError::Pending);
        }
        if change.is_empty() {
            return Err(GroupError::Empty);
        }
        for leaf in &change.remove {
            self.member(*leaf)?;
        }
        let extensions = change.info.as_ref().map(GroupInfo::to_extensions).transpose()?;
        let leaf = leaf_extensions(Some(own.inbox))?;
        let staged = self.changing(|group, provider| {
            for leave in &change.leaves {
                hear_leave(group, provider, leave)?;
            }
            group.set_aad(aad.to_vec());
            let mut builder = group
                .commit_builder()
                .force_self_update(change.update_self)
                .propose_adds(change.add.iter().map(|package| package.mls.clone()))
                .propose_removals(change.remove.iter().map(|leaf| LeafNodeIndex::new(*leaf)));
            // Every fresh leaf names our inbox as it is now.
            if change.has_path() {
                builder =
                    builder.leaf_node_parameters(LeafNodeParameters::builder().with_extensions(leaf).build());
            }
            if let Some(extensions) = extensions {
                builder = builder.propose_group_context_extensions(extensions).map_err(invalid)?;
            }
            let bundle = builder
                .load_psks(provider.storage())
                .map_err(invalid)?
                .use_ratchet_tree_extension(!change.add.is_empty())
                .create_group_info(!change.add.is_empty())
                .build(provider.rand(), provider.crypto(), own, |_| true)
                .map_err(invalid)?
                .stage_commit(provider)
                .map_err(GroupError::library)?;
            let (commit, welcome, _) = bundle.into_messages();
            group.clear_pending_proposals(provider.storage())?;
            let pending = group.pending_commit().ok_or(GroupError::NotPending)?;
            let outcome = judge(provider.crypto(), group, pending, group.own_leaf_index())?;
            Ok(Staged {
                readers: readers_moved(group, pending, provider, &outcome)?,
                outcome,
                commit: commit.to_bytes().map_err(GroupError::library)?,
                welcome: welcome
                    .map(|welcome| welcome.to_bytes())
                    .transpose()
                    .map_err(GroupError::library)?,
            })
        });
        match staged {
            Err(GroupError::Invalid(text)) => Err(self.bad_key().unwrap_or(GroupError::Invalid(text))),
            staged => staged,
        }
    }

    /// The leaf that nothing can be encrypted to, if there is one: groups that were made before keys were
    /// checked, or by somebody who did not.
    fn bad_key(&self) -> Option<GroupError> {
        let mut leaves = self.group.treesync().full_leaves();
        let bad = leaves.find(|(_, node)| check_key(node.encryption_key()).is_err())?;
        Some(GroupError::BadKey { leaf: bad.0.u32() })
    }

    /// A proposal by which this device says that it leaves, to be committed by somebody else in this epoch.
    /// It is not kept here: a stored proposal would keep us from sending.
    pub fn propose_leave(&mut self, own: &OwnLeaf<'_>, aad: &[u8]) -> Result<Vec<u8>, GroupError> {
        self.changing(|group, provider| {
            group.set_aad(aad.to_vec());
            let proposal = group.leave_group_via_self_remove(provider, own).map_err(invalid)?;
            group.clear_pending_proposals(provider.storage())?;
            proposal.to_bytes().map_err(GroupError::library)
        })
    }

    /// Whose wish to leave this is, if it is one of this epoch.
    pub fn check_leave(&mut self, proposal: &[u8]) -> Result<Member, GroupError> {
        let info = self.info.clone();
        self.changing(|group, provider| {
            let leaver = hear_leave(group, provider, proposal)?;
            group.clear_pending_proposals(provider.storage())?;
            Ok(stored_member(group, leaver, &info)?)
        })
    }

    /// Whether a commit of ours is pending.
    pub fn has_pending(&self) -> bool {
        self.group.pending_commit().is_some()
    }

    /// Applies our pending commit, now that it was read back. Errors: [`GroupError::NotPending`].
    pub fn merge_pending(&mut self) -> Result<Outcome, GroupError> {
        self.changing(|group, provider| {
            let pending = group.pending_commit().ok_or(GroupError::NotPending)?;
            let outcome = judge(provider.crypto(), group, pending, group.own_leaf_index())?;
            group.merge_pending_commit(provider).map_err(GroupError::library)?;
            Ok(outcome)
        })
    }

    /// Drops our pending commit: it will never be read back. No error if there is none.
    pub fn clear_pending(&mut self) -> Result<(), GroupError> {
        self.changing(|group, provider| Ok(group.clear_pending_commit(provider.storage())?))
    }

    /// Takes an MLS message of this conversation. Message keys that it used are gone with the transaction's
    /// commit. Errors tell why it was refused; the group is then as before, and may go on.
    ///
    /// `leaves` are proposals of this epoch by which members said that they leave; a commit may refer to
    /// them.
    pub fn receive(&mut self, bytes: &[u8], leaves: &[Vec<u8>]) -> Result<Received, GroupError> {
        let message = self.parse(bytes)?;
        let info = self.info.clone();
        let is_commit = message.content_type() == ContentType::Commit;
        self.changing(|group, provider| {
            for leave in leaves.iter().filter(|_| is_commit) {
                hear_leave(group, provider, leave)?;
            }
            let processed = group.process_message(provider, message).map_err(refused)?;
            let sender = *match processed.sender() {
                Sender::Member(leaf) => leaf,
                _ => return Err(Refusal::Outsider.into()),
            };
            let aad = processed.aad().to_vec();
            if is_commit {
                group.clear_pending_proposals(provider.storage())?;
            }
            match processed.into_content() {
                ProcessedMessageContent::ApplicationMessage(message) => Ok(Received::Message {
                    sender: Box::new(stored_member(group, sender, &info)?),
                    plaintext: message.into_bytes(),
                    aad,
                }),
                ProcessedMessageContent::StagedCommitMessage(staged) => {
                    let outcome = judge(provider.crypto(), group, &staged, sender)?;
                    Ok(Received::Commit(Box::new(StagedChange { staged, outcome, aad })))
                }
                ProcessedMessageContent::OwnPendingCommit => Ok(Received::OwnCommit),
                ProcessedMessageContent::OwnPrivateMessage => Ok(Received::OwnMessage),
                _ => Err(Refusal::Proposal.into()),
            }
        })
    }

    /// Applies another's commit; a pending one of ours is dropped with that. Errors:
    /// [`GroupError::WrongEpoch`] when the group went on since it was staged,
    /// [`GroupError::WrongConversation`] when another group staged it.
    pub fn apply(&mut self, change: StagedChange) -> Result<Outcome, GroupError> {
        let (got, ours) = (change.outcome.epoch, self.epoch() + 1);
        if change.staged.group_context().group_id() != self.group.group_id() {
            return Err(GroupError::WrongConversation);
        }
        if got != ours {
            return Err(GroupError::WrongEpoch { got, ours });
        }
        self.changing(|group, provider| {
            group.merge_staged_commit(provider, *change.staged).map_err(GroupError::library)
        })?;
        Ok(change.outcome)
    }

    /// The message in the bytes, if it is of this conversation and epoch and of a kind that we take.
    fn parse(&self, bytes: &[u8]) -> Result<ProtocolMessage, GroupError> {
        if bytes.len() > MOST_BYTES {
            return Err(GroupError::Malformed);
        }
        let message = MlsMessageIn::tls_deserialize_exact(bytes).map_err(|_| GroupError::Malformed)?;
        let message = match message.extract() {
            MlsMessageBodyIn::PublicMessage(message) => ProtocolMessage::from(message),
            MlsMessageBodyIn::PrivateMessage(message) => ProtocolMessage::from(message),
            _ => return Err(GroupError::Malformed),
        };
        if message.content_type() == ContentType::Proposal {
            return Err(Refusal::Proposal.into());
        }
        if message.group_id() != self.group.group_id() {
            return Err(GroupError::WrongConversation);
        }
        let (got, ours) = (message.epoch().as_u64(), self.epoch());
        if got != ours { Err(GroupError::WrongEpoch { got, ours }) } else { Ok(message) }
    }

    /// Runs something that changes the group: all of it, or, after an error, none of it.
    fn changing<T>(
        &mut self,
        change: impl FnOnce(&mut MlsGroup, &Provider<'p>) -> Result<T, GroupError>,
    ) -> Result<T, GroupError> {
        if self.broken {
            return Err(GroupError::Unknown);
        }
        if !self.is_member() {
            return Err(GroupError::Evicted);
        }
        let epoch = self.group.epoch();
        let (provider, group) = (self.provider, &mut self.group);
        let result = atomically(provider, || change(group, provider));
        if result.is_err() {
            self.broken = true;
            let id = self.group.group_id().clone();
            self.group = MlsGroup::load(self.provider.storage(), &id)?.ok_or(GroupError::Unknown)?;
            self.broken = false;
        }
        if self.group.epoch() != epoch || result.is_err() {
            (self.members, self.keys) = (OnceCell::new(), OnceCell::new());
        }
        self.info = GroupInfo::of(self.group.public_group().group_context())?;
        result
    }
}

impl fmt::Debug for Group<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.id()).field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

/// Everybody as a reader of the mailbox that a commit of ours moves the conversation to; nobody if it does
/// not.
fn readers_moved(
    group: &MlsGroup,
    pending: &StagedCommit,
    provider: &Provider<'_>,
    outcome: &Outcome,
) -> Result<Vec<Reader>, GroupError> {
    let (before, info) = (GroupInfo::of(group.public_group().group_context())?, &outcome.info);
    if before.place == info.place {
        return Ok(Vec::new());
    }
    let reader = |member: Member| {
        let key = claim_key(&info.place, &member.reader, |label, context, length| {
            pending.export_secret(provider.crypto(), label, context, length)
        })?;
        Ok(Reader { id: member.reader, key_hash: key.hash() })
    };
    stored_members(group, info)?.into_iter().map(reader).collect()
}

/// Puts somebody's wish to leave where a commit finds it; whose it is.
fn hear_leave(
    group: &mut MlsGroup,
    provider: &Provider<'_>,
    proposal: &[u8],
) -> Result<LeafNodeIndex, GroupError> {
    let message = MlsMessageIn::tls_deserialize_exact(proposal).map_err(|_| GroupError::Malformed)?;
    let MlsMessageBodyIn::PublicMessage(message) = message.extract() else {
        return Err(GroupError::Malformed);
    };
    let processed = group.process_message(provider, message).map_err(refused)?;
    let Sender::Member(leaver) = *processed.sender() else { return Err(Refusal::Outsider.into()) };
    match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(queued) if *queued.proposal() == Proposal::SelfRemove => {
            group.store_pending_proposal(provider.storage(), *queued)?;
            Ok(leaver)
        }
        _ => Err(Refusal::Proposal.into()),
    }
}

/// Groups that we join are configured like those that we make.
pub(super) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(WIRE_FORMAT)
        .max_past_epochs(0)
        .sender_ratchet_configuration(SenderRatchetConfiguration::new(RATCHET.0, RATCHET.1))
        .use_ratchet_tree_extension(false)
        .build()
}

/// Runs `write` between savepoints: after an error its rows are as before.
pub(super) fn atomically<T>(
    provider: &Provider<'_>,
    write: impl FnOnce() -> Result<T, GroupError>,
) -> Result<T, GroupError> {
    let rows = provider.rows();
    rows.control("SAVEPOINT mls")?;
    let result = write();
    if result.is_err() {
        rows.control("ROLLBACK TO mls")?;
    }
    rows.control("RELEASE mls")?;
    result
}

fn invalid(error: impl fmt::Display) -> GroupError {
    GroupError::Invalid(error.to_string())
}

fn refused(error: ProcessMessageError<RowError>) -> GroupError {
    match error {
        // Not the message's fault: it must not be recorded as one that cannot be read.
        ProcessMessageError::StorageError(error) => error.into(),
        ProcessMessageError::InvalidCommit(StageCommitError::OwnCommitMismatch) => GroupError::OwnCommitLost,
        ProcessMessageError::LibraryError(error) => GroupError::library(error),
        ProcessMessageError::GroupStateError(MlsGroupStateError::UseAfterEviction) => GroupError::Evicted,
        ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(_)) => GroupError::Decrypt,
        error => GroupError::Invalid(error.to_string()),
    }
}
