//! A member that keeps to MLS and to nothing else: it commits with OpenMLS itself, past what this library
//! checks. For those who look at what becomes of everybody else.

use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{
    Extension, Extensions, GroupId as MlsGroupId, KeyPackageIn, LeafNodeIndex, LeafNodeParameters, MlsGroup,
    ProtocolVersion, UnknownExtension,
};
use openmls_traits::OpenMlsProvider as _;

use super::commit::judge;
use super::info::leaf_extensions;
use super::seat::atomically;
use super::{GroupError, GroupId, Outcome, OwnLeaf, Provider};

/// Extensions in place of those that would be there, by number; without bytes, none of that number.
pub(crate) type Edits = Vec<(u16, Option<Vec<u8>>)>;

/// What such a commit changes.
#[derive(Debug, Default)]
pub(crate) struct RawChange {
    /// Key packages.
    pub(crate) add: Vec<Vec<u8>>,
    /// Leaves.
    pub(crate) remove: Vec<u32>,
    /// Of the group context; `None` leaves it as it is.
    pub(crate) context: Option<Edits>,
    /// Of the fresh leaf; `None` makes none, unless one is needed.
    pub(crate) leaf: Option<Edits>,
}

/// A commit that is pending now.
pub(crate) struct RawCommit {
    pub(crate) commit: Vec<u8>,
    pub(crate) welcome: Option<Vec<u8>>,
    /// What it comes to, if it is one that everybody follows.
    pub(crate) outcome: Option<Outcome>,
}

/// Makes a commit, if MLS lets it; else nothing is changed.
pub(crate) fn raw_commit(
    provider: &Provider<'_>,
    own: &OwnLeaf<'_>,
    id: &GroupId,
    change: &RawChange,
    aad: &[u8],
) -> Result<RawCommit, GroupError> {
    atomically(provider, || {
        let id = MlsGroupId::from_slice(&id.0);
        let mut group = MlsGroup::load(provider.storage(), &id)?.ok_or(GroupError::Unknown)?;
        group.set_aad(aad.to_vec());
        let context: Vec<Extension> = group.extensions().iter().cloned().collect();
        let mut add = Vec::new();
        for package in &change.add {
            let package = KeyPackageIn::tls_deserialize_exact(package).map_err(no)?;
            add.push(package.validate(provider.crypto(), ProtocolVersion::Mls10).map_err(no)?);
        }
        let mut builder = group
            .commit_builder()
            .force_self_update(change.leaf.is_some())
            .propose_adds(add)
            .propose_removals(change.remove.iter().map(|leaf| LeafNodeIndex::new(*leaf)));
        let leaf: Vec<Extension> = leaf_extensions(Some(own.inbox))?.iter().cloned().collect();
        let leaf = edited(leaf, change.leaf.as_deref().unwrap_or_default());
        let leaf = Extensions::from_vec(leaf).map_err(no)?;
        builder = builder.leaf_node_parameters(LeafNodeParameters::builder().with_extensions(leaf).build());
        if let Some(edits) = &change.context {
            let context = Extensions::from_vec(edited(context, edits)).map_err(no)?;
            builder = builder.propose_group_context_extensions(context).map_err(no)?;
        }
        let bundle = builder
            .load_psks(provider.storage())
            .map_err(no)?
            .use_ratchet_tree_extension(!change.add.is_empty())
            .create_group_info(!change.add.is_empty())
            .build(provider.rand(), provider.crypto(), own, |_| true)
            .map_err(no)?
            .stage_commit(provider)
            .map_err(no)?;
        let (commit, welcome, _) = bundle.into_messages();
        group.clear_pending_proposals(provider.storage())?;
        let pending = group.pending_commit().ok_or(GroupError::NotPending)?;
        let outcome = judge(provider.crypto(), &group, pending, group.own_leaf_index()).ok();
        let welcome = welcome.map(|welcome| welcome.to_bytes()).transpose().map_err(no)?;
        Ok(RawCommit { commit: commit.to_bytes().map_err(no)?, welcome, outcome })
    })
}

fn edited(extensions: Vec<Extension>, edits: &[(u16, Option<Vec<u8>>)]) -> Vec<Extension> {
    let is_edited = |extension: &Extension| edits.iter().any(|(at, _)| is_number(extension, *at));
    let mut extensions: Vec<_> = extensions.into_iter().filter(|one| !is_edited(one)).collect();
    for (number, bytes) in edits {
        let unknown = bytes.clone().map(|bytes| Extension::Unknown(*number, UnknownExtension(bytes)));
        extensions.extend(unknown);
    }
    extensions
}

fn is_number(extension: &Extension, number: u16) -> bool {
    u16::from(extension.extension_type()) == number
}

fn no(error: impl std::fmt::Display) -> GroupError {
    GroupError::Invalid(error.to_string())
}
