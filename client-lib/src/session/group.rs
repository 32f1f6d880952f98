//! A session: this device's seat in one group, for the span of one transaction.

use std::fmt;

use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{
    ContentType, GroupId, LeafNodeIndex, LeafNodeParameters, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY, MlsGroup,
    MlsGroupJoinConfig, MlsGroupStateError, MlsMessageBodyIn, MlsMessageIn, ProcessMessageError,
    ProcessedMessageContent, ProtocolMessage, Sender, SenderRatchetConfiguration, StageCommitError,
    ValidationError, WireFormatPolicy,
};
use openmls_traits::OpenMlsProvider as _;

use super::commit::{judge, stored_member, stored_members};
use super::info::{capabilities, leaf_extensions};
use super::key_package::unlimited;
use super::provider::Provider;
use super::storage::RowError;
use super::{
    Change, ConversationId, EpochKeys, GroupInfo, MOST_BYTES, Member, Outcome, OwnLeaf, Refusal, SUITE,
    SessionError, Staged, StagedChange,
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
    },
    /// A commit of another member, to be looked at and then applied or dropped.
    Commit(Box<StagedChange>),
    /// Our own pending commit, read back; time for [`Session::merge_pending`].
    OwnCommit,
    /// A message that says it is our own. Not authenticated: only what we sent ourselves counts.
    OwnMessage,
}

/// This device's seat in a group. Lives no longer than the provider's transaction.
pub struct Session<'p> {
    provider: &'p Provider<'p>,
    group: MlsGroup,
    info: GroupInfo,
    /// Set when the group could not be loaded again after an error; nothing works any more then.
    broken: bool,
}

impl<'p> Session<'p> {
    /// Makes a group of this device alone. Errors: [`SessionError::Invalid`] when the conversation exists.
    pub fn create(
        provider: &'p Provider<'p>,
        own: &OwnLeaf<'_>,
        id: ConversationId,
        info: &GroupInfo,
    ) -> Result<Self, SessionError> {
        let extensions = info.to_extensions()?;
        let leaf = leaf_extensions(own.inbox)?;
        let group = atomically(provider, || {
            MlsGroup::builder()
                .with_group_id(GroupId::from_slice(&id.0))
                .ciphersuite(SUITE)
                .with_wire_format_policy(WIRE_FORMAT)
                .max_past_epochs(0)
                .sender_ratchet_configuration(SenderRatchetConfiguration::new(RATCHET.0, RATCHET.1))
                .use_ratchet_tree_extension(false)
                .lifetime(unlimited())
                .with_capabilities(capabilities())
                .with_group_context_extensions(extensions)
                .with_leaf_node_extensions(leaf)
                .map_err(SessionError::library)?
                .build(provider, own, own.credential_with_key())
                .map_err(|error| SessionError::Invalid(error.to_string()))
        })?;
        Self::of(provider, group)
    }

    /// The stored session of a conversation. Errors: [`SessionError::Unknown`].
    pub fn load(provider: &'p Provider<'p>, id: &ConversationId) -> Result<Self, SessionError> {
        let group = MlsGroup::load(provider.storage(), &GroupId::from_slice(&id.0))?;
        Self::of(provider, group.ok_or(SessionError::Unknown)?)
    }

    pub(super) fn of(provider: &'p Provider<'p>, group: MlsGroup) -> Result<Self, SessionError> {
        let info = GroupInfo::of(group.public_group().group_context())?;
        Ok(Self { provider, group, info, broken: false })
    }

    /// Deletes the session: the conversation was left for good.
    pub fn delete(mut self) -> Result<(), SessionError> {
        let storage = self.provider.storage();
        atomically(self.provider, || Ok(self.group.delete(storage)?))
    }

    /// Which conversation.
    pub fn id(&self) -> ConversationId {
        ConversationId::try_from(self.group.group_id().as_slice()).unwrap_or(ConversationId([0; 16]))
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

    /// Ourselves, as the others see us.
    pub fn me(&self) -> Result<Member, SessionError> {
        self.member(self.own_leaf())
    }

    /// All members, by leaf.
    pub fn members(&self) -> Result<Vec<Member>, SessionError> {
        Ok(stored_members(&self.group, &self.info)?)
    }

    /// The member of a leaf. Errors: [`SessionError::NoMember`].
    pub fn member(&self, leaf: u32) -> Result<Member, SessionError> {
        stored_member(&self.group, LeafNodeIndex::new(leaf), &self.info)
            .map_err(|_| SessionError::NoMember(leaf))
    }

    /// The keys of the current epoch. Errors: [`SessionError::Evicted`].
    pub fn keys(&self) -> Result<EpochKeys, SessionError> {
        if !self.is_member() {
            return Err(SessionError::Evicted);
        }
        EpochKeys::derive(&self.info, |label, context, length| {
            self.group.export_secret(self.provider.crypto(), label, context, length)
        })
    }

    /// Encrypts a message to the group. The result must be stored in the same transaction, before it is
    /// posted: after a rollback the same key would serve again. Works while a commit is pending.
    pub fn encrypt(&mut self, own: &OwnLeaf<'_>, plaintext: &[u8]) -> Result<Vec<u8>, SessionError> {
        self.changing(|group, provider| {
            let message = group.create_message(provider, own, plaintext).map_err(SessionError::library)?;
            message.to_bytes().map_err(SessionError::library)
        })
    }

    /// Makes a commit and keeps it pending. Post it, then read on: [`Session::merge_pending`] when it comes
    /// back, [`Session::apply`] of another's that came first (which drops ours), or
    /// [`Session::clear_pending`]. Errors: [`SessionError::Pending`], [`SessionError::Empty`],
    /// [`SessionError::NoMember`], [`SessionError::Refused`].
    pub fn stage(&mut self, own: &OwnLeaf<'_>, change: &Change) -> Result<Staged, SessionError> {
        if self.has_pending() {
            return Err(SessionError::Pending);
        }
        if change.is_empty() {
            return Err(SessionError::Empty);
        }
        for leaf in &change.remove {
            self.member(*leaf)?;
        }
        let extensions = change.info.as_ref().map(GroupInfo::to_extensions).transpose()?;
        let leaf = leaf_extensions(own.inbox)?;
        self.changing(|group, provider| {
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
                .map_err(SessionError::library)?;
            let (commit, welcome, _) = bundle.into_messages();
            let pending = group.pending_commit().ok_or(SessionError::NotPending)?;
            Ok(Staged {
                outcome: judge(provider.crypto(), group, pending, group.own_leaf_index())?,
                commit: commit.to_bytes().map_err(SessionError::library)?,
                welcome: welcome
                    .map(|welcome| welcome.to_bytes())
                    .transpose()
                    .map_err(SessionError::library)?,
            })
        })
    }

    /// Whether a commit of ours is pending.
    pub fn has_pending(&self) -> bool {
        self.group.pending_commit().is_some()
    }

    /// Applies our pending commit, now that it was read back. Errors: [`SessionError::NotPending`].
    pub fn merge_pending(&mut self) -> Result<Outcome, SessionError> {
        self.changing(|group, provider| {
            let pending = group.pending_commit().ok_or(SessionError::NotPending)?;
            let outcome = judge(provider.crypto(), group, pending, group.own_leaf_index())?;
            group.merge_pending_commit(provider).map_err(SessionError::library)?;
            Ok(outcome)
        })
    }

    /// Drops our pending commit: it will never be read back. No error if there is none.
    pub fn clear_pending(&mut self) -> Result<(), SessionError> {
        self.changing(|group, provider| Ok(group.clear_pending_commit(provider.storage())?))
    }

    /// Takes an MLS message of this conversation. Message keys that it used are gone with the transaction's
    /// commit. Errors tell why it was refused; the session is then as before, and may go on.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Received, SessionError> {
        let message = self.parse(bytes)?;
        let info = self.info.clone();
        self.changing(|group, provider| {
            let processed = group.process_message(provider, message).map_err(refused)?;
            let sender = *match processed.sender() {
                Sender::Member(leaf) => leaf,
                _ => return Err(Refusal::Outsider.into()),
            };
            match processed.into_content() {
                ProcessedMessageContent::ApplicationMessage(message) => Ok(Received::Message {
                    sender: Box::new(stored_member(group, sender, &info)?),
                    plaintext: message.into_bytes(),
                }),
                ProcessedMessageContent::StagedCommitMessage(staged) => {
                    let outcome = judge(provider.crypto(), group, &staged, sender)?;
                    Ok(Received::Commit(Box::new(StagedChange { staged, outcome })))
                }
                ProcessedMessageContent::OwnPendingCommit => Ok(Received::OwnCommit),
                ProcessedMessageContent::OwnPrivateMessage => Ok(Received::OwnMessage),
                _ => Err(Refusal::Proposal.into()),
            }
        })
    }

    /// Applies another's commit; a pending one of ours is dropped with that. Errors:
    /// [`SessionError::WrongEpoch`] when the group went on since it was staged,
    /// [`SessionError::WrongConversation`] when another session staged it.
    pub fn apply(&mut self, change: StagedChange) -> Result<Outcome, SessionError> {
        let (got, ours) = (change.outcome.epoch, self.epoch() + 1);
        if change.staged.group_context().group_id() != self.group.group_id() {
            return Err(SessionError::WrongConversation);
        }
        if got != ours {
            return Err(SessionError::WrongEpoch { got, ours });
        }
        self.changing(|group, provider| {
            group.merge_staged_commit(provider, *change.staged).map_err(SessionError::library)
        })?;
        Ok(change.outcome)
    }

    /// The message in the bytes, if it is of this conversation and epoch and of a kind that we take.
    fn parse(&self, bytes: &[u8]) -> Result<ProtocolMessage, SessionError> {
        if bytes.len() > MOST_BYTES {
            return Err(SessionError::Malformed);
        }
        let message = MlsMessageIn::tls_deserialize_exact(bytes).map_err(|_| SessionError::Malformed)?;
        let message = match message.extract() {
            MlsMessageBodyIn::PublicMessage(message) => ProtocolMessage::from(message),
            MlsMessageBodyIn::PrivateMessage(message) => ProtocolMessage::from(message),
            _ => return Err(SessionError::Malformed),
        };
        if message.content_type() == ContentType::Proposal {
            return Err(Refusal::Proposal.into());
        }
        if message.group_id() != self.group.group_id() {
            return Err(SessionError::WrongConversation);
        }
        let (got, ours) = (message.epoch().as_u64(), self.epoch());
        if got != ours { Err(SessionError::WrongEpoch { got, ours }) } else { Ok(message) }
    }

    /// Runs something that changes the group: all of it, or, after an error, none of it.
    fn changing<T>(
        &mut self,
        change: impl FnOnce(&mut MlsGroup, &Provider<'p>) -> Result<T, SessionError>,
    ) -> Result<T, SessionError> {
        if self.broken {
            return Err(SessionError::Unknown);
        }
        if !self.is_member() {
            return Err(SessionError::Evicted);
        }
        let (provider, group) = (self.provider, &mut self.group);
        let result = atomically(provider, || change(group, provider));
        if result.is_err() {
            self.broken = true;
            let id = self.group.group_id().clone();
            self.group = MlsGroup::load(self.provider.storage(), &id)?.ok_or(SessionError::Unknown)?;
            self.broken = false;
        }
        self.info = GroupInfo::of(self.group.public_group().group_context())?;
        result
    }
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
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
    write: impl FnOnce() -> Result<T, SessionError>,
) -> Result<T, SessionError> {
    let rows = provider.rows();
    rows.control("SAVEPOINT session")?;
    let result = write();
    if result.is_err() {
        rows.control("ROLLBACK TO session")?;
    }
    rows.control("RELEASE session")?;
    result
}

fn invalid(error: impl fmt::Display) -> SessionError {
    SessionError::Invalid(error.to_string())
}

fn refused(error: ProcessMessageError<RowError>) -> SessionError {
    match error {
        // Not the message's fault: it must not be recorded as one that cannot be read.
        ProcessMessageError::StorageError(error) => error.into(),
        ProcessMessageError::InvalidCommit(StageCommitError::OwnCommitMismatch) => {
            SessionError::OwnCommitLost
        }
        ProcessMessageError::LibraryError(error) => SessionError::library(error),
        ProcessMessageError::GroupStateError(MlsGroupStateError::UseAfterEviction) => SessionError::Evicted,
        ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(_)) => SessionError::Decrypt,
        error => SessionError::Invalid(error.to_string()),
    }
}
