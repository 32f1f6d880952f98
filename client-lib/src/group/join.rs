//! Joining a group by Welcome: looked at first, then finished or dropped.

use std::collections::HashSet;
use std::fmt;

use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _, VLBytes};
use openmls::prelude::{MlsGroup, MlsMessageBodyIn, MlsMessageIn, StagedWelcome, Welcome, WelcomeError};
use openmls::treesync::ParentNode;
use openmls_traits::OpenMlsProvider as _;

use super::member::{Bearer, check_key};
use super::seat::{atomically, join_config};
use super::storage::{Held, RowError};
use super::{
    EpochKeys, Group, GroupError, GroupId, GroupInfo, KeyPackageRef, MOST_BYTES, MOST_EPOCHS, MOST_LEAVES,
    Member, OwnLeaf, Provider, Refusal,
};

/// A group that a Welcome invites us to: valid, with every member verified, not joined. Dropping it leaves
/// everything as it was, the key package that it is for included.
pub struct PendingJoin<'p> {
    provider: &'p Provider<'p>,
    group: Group<'p>,
    held: Held,
    id: GroupId,
    members: Vec<Member>,
    inviter: u32,
    keys: EpochKeys,
    by_last_resort: bool,
    package: Option<KeyPackageRef>,
}

impl<'p> PendingJoin<'p> {
    /// Reads a Welcome. Errors: [`GroupError::NoKeyPackage`], [`GroupError::Malformed`],
    /// [`GroupError::Invalid`], [`GroupError::Refused`].
    pub fn new(provider: &'p Provider<'p>, own: &OwnLeaf<'_>, welcome: &[u8]) -> Result<Self, GroupError> {
        if welcome.len() > MOST_BYTES {
            return Err(GroupError::Malformed);
        }
        let message = MlsMessageIn::tls_deserialize_exact(welcome).map_err(|_| GroupError::Malformed)?;
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
            return Err(GroupError::Malformed);
        };
        provider.rows().hold();
        let joined = join(provider, welcome);
        let held = provider.rows().take_held();
        let (group, inviter, package, by_last_resort) = joined?;

        let id = GroupId::try_from(group.group_id().as_slice()).map_err(|_| GroupError::Malformed)?;
        let info = GroupInfo::of(group.public_group().group_context())?;
        let members = group
            .treesync()
            .full_leaves()
            .map(|(leaf, node)| Ok(Bearer::verify(node)?.at(leaf.u32(), &info.place.reader_secret)))
            .collect::<Result<Vec<Member>, Refusal>>()?;
        if members.len() > MOST_LEAVES || group.epoch().as_u64() > MOST_EPOCHS {
            return Err(Refusal::Crowd.into());
        }
        refuse_impostors(&members, group.own_leaf_index().u32(), own)?;
        for (_, node) in group.treesync().full_parents() {
            check_key(node)?;
        }
        let group = Group::of(provider, group)?;
        let keys = group.keys()?;
        Ok(Self { provider, group, held, id, members, inviter, keys, by_last_resort, package })
    }

    /// Joins, and uses up the key package.
    pub fn finish(self) -> Result<Group<'p>, GroupError> {
        atomically(self.provider, || Ok(self.provider.rows().release(self.held)?))?;
        Ok(self.group)
    }

    /// Which group. Whoever made the Welcome chose it.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The epoch that we join in.
    pub fn epoch(&self) -> u64 {
        self.group.epoch()
    }

    /// What the members agree on.
    pub fn info(&self) -> &GroupInfo {
        self.group.info()
    }

    /// All members, ourselves included. Every credential is verified.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Our own leaf.
    pub fn own_leaf(&self) -> u32 {
        self.group.own_leaf()
    }

    /// Who made the Welcome: the leaf that signed it.
    pub fn inviter(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.leaf == self.inviter)
    }

    /// The keys of the epoch that we join in.
    pub fn keys(&self) -> &EpochKeys {
        &self.keys
    }

    /// The key package of ours that it was made for.
    pub fn package(&self) -> Option<KeyPackageRef> {
        self.package
    }

    /// Whether our key package was one for the last resort: update the own leaf at once then (fine print,
    /// rule 15).
    pub fn by_last_resort(&self) -> bool {
        self.by_last_resort
    }
}

impl fmt::Debug for PendingJoin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingJoin")
            .field("id", &self.id)
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

/// Makes the group, its rows held back: (group, leaf of the inviter, which key package, whether it was for
/// the last resort).
fn join(
    provider: &Provider<'_>,
    welcome: Welcome,
) -> Result<(MlsGroup, u32, Option<KeyPackageRef>, bool), GroupError> {
    let builder = StagedWelcome::build_from_welcome(provider, &join_config(), welcome).map_err(refused)?;
    let package = builder.processed_welcome().own_key_package();
    let by_last_resort = package.is_some_and(|package| package.last_resort());
    let package = package.map(|package| package.hash_ref(provider.crypto())).transpose();
    let package = package.map_err(GroupError::library)?;
    let package = package.and_then(|reference| reference.as_slice().try_into().ok()).map(KeyPackageRef);
    // Lifetimes are judged by who adds; an old leaf must not keep newcomers out.
    let staged = builder.skip_lifetime_validation().build().map_err(refused)?;
    let inviter = staged.welcome_sender_index().u32();
    let group = staged.into_group(provider).map_err(refused)?;
    refuse_missing_secrets(provider, &group)?;
    Ok((group, inviter, package, by_last_resort))
}

/// The private keys of our leaf and of every node above it in which we are not unmerged must have come with
/// the Welcome. MLS does not look, and fails in the next commit that leaves one of these nodes as it is.
fn refuse_missing_secrets(provider: &Provider<'_>, group: &MlsGroup) -> Result<(), GroupError> {
    let own = group.own_leaf_index().u32();
    let mut expected = 1;
    for (parent, node) in group.treesync().full_parents() {
        if is_above(parent.u32(), own) && !unmerged_leaves(node)?.contains(&own) {
            expected += 1;
        }
    }
    let held = provider.rows().epoch_key_pairs(group.group_id(), group.epoch(), own)?;
    if held == expected { Ok(()) } else { Err(Refusal::PathSecrets.into()) }
}

/// Whether a parent is an ancestor of a leaf. In the array form of the tree (RFC 9420 appendix C) leaves
/// stand at even places and a parent in the middle of those below it.
fn is_above(parent: u32, leaf: u32) -> bool {
    let (place, leaf) = (2 * u64::from(parent) + 1, 2 * u64::from(leaf));
    let below = (1 << place.trailing_ones()) - 1;
    (place - below..=place + below).contains(&leaf)
}

/// Leaves that have been added below a node since its key was made: the last field of its encoding (RFC 9420
/// section 7.1), which MLS libraries keep to themselves.
fn unmerged_leaves(node: &ParentNode) -> Result<Vec<u32>, GroupError> {
    let encoded = node.tls_serialize_detached().map_err(GroupError::library)?;
    let mut rest = &encoded[..];
    let mut field = || VLBytes::tls_deserialize(&mut rest).map_err(GroupError::library);
    let (_key, _parent_hash, unmerged) = (field()?, field()?, field()?);
    let leaves = unmerged.as_slice().chunks_exact(4);
    Ok(leaves.map(|leaf| u32::from_be_bytes([leaf[0], leaf[1], leaf[2], leaf[3]])).collect())
}

/// Our leaf must be ours, and no device may stand in two leaves.
fn refuse_impostors(members: &[Member], own_leaf: u32, own: &OwnLeaf<'_>) -> Result<(), Refusal> {
    let ours = members.iter().find(|member| member.leaf == own_leaf).ok_or(Refusal::Identity)?;
    if !ours.is_same_device(own.credential) || ours.signature_key != own.device.signature_key() {
        return Err(Refusal::Identity);
    }
    let mut seen = HashSet::new();
    let key = |member: &Member| (*member.credential.identity().as_bytes(), member.credential.device());
    match members.iter().all(|member| seen.insert(key(member))) {
        true => Ok(()),
        false => Err(Refusal::Duplicate),
    }
}

fn refused(error: WelcomeError<RowError>) -> GroupError {
    match error {
        WelcomeError::StorageError(error) => error.into(),
        WelcomeError::LibraryError(error) => GroupError::library(error),
        WelcomeError::NoMatchingKeyPackage | WelcomeError::JoinerSecretNotFound => GroupError::NoKeyPackage,
        error => GroupError::Invalid(error.to_string()),
    }
}
