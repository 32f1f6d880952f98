//! Commits: what they would change, and whether they may. One judgement for our own and for others'.

use std::collections::HashSet;

use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{LeafNodeIndex, MlsGroup, OpenMlsCrypto, Proposal, Sender, StagedCommit};
use posthorn_proto::{KeyHash, Reader, ReaderId, Turn};

use super::info::{GroupInfo, Place, rules_of};
use super::key_package::{is_unlimited, lifetime};
use super::member::{Bearer, Member, check_key};
use super::{EpochKeys, GroupError, KeyPackage, MOST_LEAVES, Refusal};

/// What to change in a group; at least one thing.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Devices to add.
    pub add: Vec<KeyPackage>,
    /// Leaves to remove.
    pub remove: Vec<u32>,
    /// Proposals by which members of this epoch say that they leave ([`super::Group::propose_leave`]).
    pub leaves: Vec<Vec<u8>>,
    /// New info.
    pub info: Option<GroupInfo>,
    /// Fresh keys for our own leaf. Removing and changing the info do that too; only adding does not.
    pub update_self: bool,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.add.is_empty() && !self.has_path()
    }

    /// Whether the commit carries fresh keys of the committer: always, unless it only adds (RFC 9420 section
    /// 12.4).
    pub(super) fn has_path(&self) -> bool {
        self.update_self || self.info.is_some() || !self.remove.is_empty() || !self.leaves.is_empty()
    }
}

/// What a commit makes of the group.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The epoch that it begins.
    pub epoch: u64,
    /// Who made it.
    pub committer: Member,
    /// Who comes in, with the leaves and readers that they get.
    pub added: Vec<Member>,
    /// Who goes.
    pub removed: Vec<Member>,
    /// The info from then on; compare with [`super::Group::info`] to see what changed.
    pub info: GroupInfo,
    /// The next epoch's keys; none if the commit removes us.
    pub keys: Option<EpochKeys>,
    /// To what the commit turns the lock of the mailbox that it stands in: to the next epoch's keys there,
    /// which are the same unless it moves the conversation. Then nobody posts with them.
    lock: Option<[KeyHash; 2]>,
    /// Whether the committer's leaf got fresh keys.
    pub updates_committer: bool,
}

/// A commit of ours, pending until it is read back or lost its race.
#[derive(Debug, Clone)]
pub struct Staged {
    /// What is posted (sealed under the epoch that it ends).
    pub commit: Vec<u8>,
    /// What the added devices need to join, with the tree; leaves once the commit was read back.
    pub welcome: Option<Vec<u8>>,
    /// What it makes of the group.
    pub outcome: Outcome,
    /// If it moves the conversation: the readers that the new mailbox begins with, which are all members,
    /// each with the one-time key that it finds by itself ([`super::Group::claim_key`]).
    pub readers: Vec<Reader>,
}

/// A commit of another member: valid, judged, not applied. Dropping it refuses it.
pub struct StagedChange {
    pub(super) staged: Box<StagedCommit>,
    pub(super) outcome: Outcome,
    pub(super) aad: Vec<u8>,
}

impl Outcome {
    /// Whether a turn is the one of this commit (rule 1). Read keys are the committer's to choose.
    pub fn fits(&self, turn: &Turn) -> bool {
        let sorted = |mut ids: Vec<ReaderId>| {
            ids.sort_unstable();
            ids
        };
        let readers = |members: &[Member]| sorted(members.iter().map(|member| member.reader).collect());
        let keys_fit = self.lock.is_none_or(|lock| lock == [turn.post_key_hash, turn.turn_key_hash]);
        keys_fit
            && sorted(turn.admit.iter().map(|reader| reader.id).collect()) == readers(&self.added)
            && sorted(turn.evict.clone()) == readers(&self.removed)
    }
}

impl Outcome {
    /// The hashes of the post and turn keys that the commit turns the lock to; none if it removes us.
    pub fn lock(&self) -> Option<[KeyHash; 2]> {
        self.lock
    }
}

impl StagedChange {
    /// What it would make of the group.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// What its author signed beside it.
    pub fn aad(&self) -> &[u8] {
        &self.aad
    }
}

impl std::fmt::Debug for StagedChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StagedChange").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

/// Judges a commit that is valid MLS. A pure function of group and commit.
pub(super) fn judge(
    crypto: &impl OpenMlsCrypto,
    group: &MlsGroup,
    staged: &StagedCommit,
    committer: LeafNodeIndex,
) -> Result<Outcome, GroupError> {
    let before = GroupInfo::of(group.public_group().group_context())?;
    let (joining, removed) = proposals(group, staged, committer, &before)?;
    // Before the info is read: rules that somebody here does not know are the committer's fault, and no
    // reason to wait for an update.
    check_rules(group, &before, rules_of(staged.group_context())?, &removed, &joining)?;
    let info = GroupInfo::of(staged.group_context())?;
    let moves = info.place != before.place;
    if moves && !(before.may_move_to(&info) && joining.is_empty() && removed.is_empty()) {
        return Err(Refusal::Moved.into());
    }
    let stored = stored_member(group, committer, &before)?;
    let committer = match staged.update_path_leaf_node() {
        None => stored,
        Some(leaf) => {
            let bearer = Bearer::verify(leaf)?;
            let is_same = stored.is_same_device(&bearer.credential)
                && bearer.credential.handle() == stored.credential.handle()
                && bearer.credential.relay() == stored.credential.relay()
                && bearer.signature_key == stored.signature_key;
            if !is_same {
                return Err(Refusal::Identity.into());
            }
            if bearer.inbox.is_none() {
                return Err(Refusal::Inbox.into());
            }
            bearer.at(stored.leaf, &info.place.reader_secret)
        }
    };
    let added = seat(group, &removed, joining, &info);
    refuse_duplicates(group, &before, &removed, &added)?;
    if group.members().count() + added.len() > MOST_LEAVES + removed.len() {
        return Err(Refusal::Crowd.into());
    }
    if staged.update_path_leaf_node().is_some() {
        check_path(crypto, group, staged)?;
    }
    let keys_at = |place: &Place| {
        EpochKeys::derive(place, |label, context, length| {
            staged.export_secret(crypto, label, context, length)
        })
    };
    let (keys, lock) = match staged.self_removed() {
        true => (None, None),
        false => {
            let keys = keys_at(&info.place)?;
            let lock = if moves { keys_at(&before.place)?.lock() } else { keys.lock() };
            (Some(keys), Some(lock))
        }
    };
    Ok(Outcome {
        epoch: staged.group_context().epoch().as_u64(),
        updates_committer: staged.update_path_leaf_node().is_some(),
        committer,
        added,
        removed,
        info,
        keys,
        lock,
    })
}

/// Who is proposed to be added and removed. Errors: [`Refusal::Proposal`], and what makes a joiner
/// unacceptable.
fn proposals(
    group: &MlsGroup,
    staged: &StagedCommit,
    committer: LeafNodeIndex,
    info: &GroupInfo,
) -> Result<(Vec<Bearer>, Vec<Member>), Refusal> {
    let (mut joining, mut removed) = (Vec::new(), Vec::new());
    for queued in staged.queued_proposals() {
        if let (Proposal::SelfRemove, Sender::Member(leaver)) = (queued.proposal(), queued.sender()) {
            // Its own signature is on it; whoever commits it only does what was asked for.
            removed.push(stored_member(group, *leaver, info)?);
            continue;
        }
        if *queued.sender() != Sender::Member(committer) {
            return Err(Refusal::Proposal);
        }
        match queued.proposal() {
            Proposal::Add(add) => {
                let package = add.key_package();
                lifetime(package).filter(|_| is_unlimited(package)).ok_or(Refusal::KeyPackage)?;
                check_key(package.hpke_init_key())?;
                let bearer = Bearer::verify(package.leaf_node())?;
                if bearer.inbox.is_some() {
                    return Err(Refusal::Inbox);
                }
                joining.push(bearer);
            }
            Proposal::Remove(remove) => removed.push(stored_member(group, remove.removed(), info)?),
            Proposal::GroupContextExtensions(_) => {}
            _ => return Err(Refusal::Proposal),
        }
    }
    Ok((joining, removed))
}

/// Gives the joiners their leaves: the leftmost free ones, after the removals (RFC 9420 sections 7.7 and
/// 12.4.2).
fn seat(group: &MlsGroup, removed: &[Member], joining: Vec<Bearer>, info: &GroupInfo) -> Vec<Member> {
    let mut taken: Vec<u32> = group
        .members()
        .map(|member| member.index.u32())
        .filter(|leaf| removed.iter().all(|gone| gone.leaf != *leaf))
        .collect();
    taken.sort_unstable();
    let mut free = (0u32..).filter(move |leaf| taken.binary_search(leaf).is_err());
    joining
        .into_iter()
        .map(|bearer| {
            bearer.at(free.next().expect("a tree has fewer than 2^32 leaves"), &info.place.reader_secret)
        })
        .collect()
}

/// Every key that a commit puts into the tree must be one that something can be encrypted to. Those that were
/// there before were checked when they came.
fn check_path(
    crypto: &impl OpenMlsCrypto,
    group: &MlsGroup,
    staged: &StagedCommit,
) -> Result<(), GroupError> {
    let before: HashSet<Vec<u8>> =
        group.treesync().full_parents().filter_map(|(_, node)| node.tls_serialize_detached().ok()).collect();
    let after =
        staged.export_ratchet_tree(crypto, group.export_ratchet_tree()).map_err(GroupError::library)?;
    let Some(after) = after else { return Ok(()) };
    for node in after.parents() {
        let encoded = node.tls_serialize_detached().map_err(GroupError::library)?;
        if !before.contains(&encoded) {
            check_key(node)?;
        }
    }
    Ok(())
}

/// Rules may rise to what every member knows, and never sink (rule 32).
fn check_rules(
    group: &MlsGroup,
    before: &GroupInfo,
    rules: u32,
    removed: &[Member],
    joining: &[Bearer],
) -> Result<(), Refusal> {
    let members = stored_members(group, before)?;
    let staying = members.iter().filter(|member| removed.iter().all(|gone| gone.leaf != member.leaf));
    let mut known = staying.map(|member| member.rules).chain(joining.iter().map(|bearer| bearer.rules));
    let fits = rules >= before.rules && known.all(|highest| highest >= rules);
    fits.then_some(()).ok_or(Refusal::Rules)
}

/// No device may stand in two leaves.
fn refuse_duplicates(
    group: &MlsGroup,
    info: &GroupInfo,
    removed: &[Member],
    added: &[Member],
) -> Result<(), GroupError> {
    if added.is_empty() {
        return Ok(());
    }
    let key = |member: &Member| (*member.credential.identity().as_bytes(), member.credential.device());
    let mut seen: HashSet<_> = stored_members(group, info)?
        .iter()
        .filter(|member| removed.iter().all(|gone| gone.leaf != member.leaf))
        .map(key)
        .collect();
    match added.iter().all(|member| seen.insert(key(member))) {
        true => Ok(()),
        false => Err(Refusal::Duplicate.into()),
    }
}

/// A member of a stored group.
pub(super) fn stored_member(
    group: &MlsGroup,
    leaf: LeafNodeIndex,
    info: &GroupInfo,
) -> Result<Member, Refusal> {
    let node = group.public_group().leaf(leaf).ok_or(Refusal::Proposal)?;
    Ok(Bearer::stored(node)?.at(leaf.u32(), &info.place.reader_secret))
}

/// All members of a stored group, by leaf.
pub(super) fn stored_members(group: &MlsGroup, info: &GroupInfo) -> Result<Vec<Member>, Refusal> {
    group
        .treesync()
        .full_leaves()
        .map(|(leaf, node)| Ok(Bearer::stored(node)?.at(leaf.u32(), &info.place.reader_secret)))
        .collect()
}
