//! Joining a group by Welcome: looked at first, then finished or dropped.

use std::collections::HashSet;
use std::fmt;

use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{MlsGroup, MlsMessageBodyIn, MlsMessageIn, StagedWelcome, Welcome, WelcomeError};
use openmls_traits::OpenMlsProvider as _;

use super::group::{atomically, join_config};
use super::member::Bearer;
use super::storage::{Held, RowError};
use super::{
    ConversationId, EpochKeys, GroupInfo, MOST_BYTES, Member, OwnLeaf, Provider, Refusal, Session,
    SessionError,
};

/// A group that a Welcome invites us to: valid, with every member verified, not joined. Dropping it leaves
/// everything as it was, the key package that it is for included.
pub struct PendingJoin<'p> {
    provider: &'p Provider<'p>,
    session: Session<'p>,
    held: Held,
    id: ConversationId,
    members: Vec<Member>,
    inviter: u32,
    keys: EpochKeys,
    by_last_resort: bool,
    replaces: bool,
}

impl<'p> PendingJoin<'p> {
    /// Reads a Welcome. Errors: [`SessionError::NoKeyPackage`], [`SessionError::Malformed`],
    /// [`SessionError::Invalid`], [`SessionError::Refused`].
    pub fn new(provider: &'p Provider<'p>, own: &OwnLeaf<'_>, welcome: &[u8]) -> Result<Self, SessionError> {
        if welcome.len() > MOST_BYTES {
            return Err(SessionError::Malformed);
        }
        let message = MlsMessageIn::tls_deserialize_exact(welcome).map_err(|_| SessionError::Malformed)?;
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
            return Err(SessionError::Malformed);
        };
        provider.rows().hold();
        let joined = join(provider, welcome);
        let held = provider.rows().take_held();
        let (group, inviter, by_last_resort) = joined?;

        let id =
            ConversationId::try_from(group.group_id().as_slice()).map_err(|_| SessionError::Malformed)?;
        let info = GroupInfo::of(group.public_group().group_context())?;
        let members = group
            .treesync()
            .full_leaves()
            .map(|(leaf, node)| Ok(Bearer::verify(node)?.at(leaf.u32(), &info.reader_secret)))
            .collect::<Result<Vec<Member>, Refusal>>()?;
        refuse_impostors(&members, group.own_leaf_index().u32(), own)?;
        let replaces = MlsGroup::load(provider.storage(), group.group_id())?.is_some();
        let session = Session::of(provider, group)?;
        let keys = session.keys()?;
        Ok(Self { provider, session, held, id, members, inviter, keys, by_last_resort, replaces })
    }

    /// Joins, in place of an older session of the conversation if there is one, and uses up the key package.
    pub fn finish(self) -> Result<Session<'p>, SessionError> {
        atomically(self.provider, || Ok(self.provider.rows().release(self.held)?))?;
        Ok(self.session)
    }

    /// Which conversation. Whoever made the Welcome chose it; see [`PendingJoin::replaces`].
    pub fn id(&self) -> ConversationId {
        self.id
    }

    /// The epoch that we join in.
    pub fn epoch(&self) -> u64 {
        self.session.epoch()
    }

    /// What the members agree on.
    pub fn info(&self) -> &GroupInfo {
        self.session.info()
    }

    /// All members, ourselves included. Every credential is verified.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Our own leaf.
    pub fn own_leaf(&self) -> u32 {
        self.session.own_leaf()
    }

    /// Who made the Welcome: the leaf that signed it.
    pub fn inviter(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.leaf == self.inviter)
    }

    /// The keys of the epoch that we join in.
    pub fn keys(&self) -> &EpochKeys {
        &self.keys
    }

    /// Whether our key package was one for the last resort: update the own leaf at once then (fine print,
    /// rule 15).
    pub fn by_last_resort(&self) -> bool {
        self.by_last_resort
    }

    /// Whether finishing would replace a session that we have. A stranger can make a Welcome for a group with
    /// any id, so this must be refused unless the inviter was a member of that session.
    pub fn replaces(&self) -> bool {
        self.replaces
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

/// Makes the group, its rows held back: (group, leaf of the inviter, whether by a last-resort key package).
fn join(provider: &Provider<'_>, welcome: Welcome) -> Result<(MlsGroup, u32, bool), SessionError> {
    let builder = StagedWelcome::build_from_welcome(provider, &join_config(), welcome).map_err(refused)?;
    let by_last_resort =
        builder.processed_welcome().own_key_package().is_some_and(|package| package.last_resort());
    // Lifetimes are judged by who adds; an old leaf must not keep newcomers out.
    let staged = builder.skip_lifetime_validation().replace_old_group().build().map_err(refused)?;
    let inviter = staged.welcome_sender_index().u32();
    if let Some(mut old) = MlsGroup::load(provider.storage(), staged.group_context().group_id())? {
        old.delete(provider.storage())?;
    }
    let group = staged.into_group(provider).map_err(refused)?;
    Ok((group, inviter, by_last_resort))
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

fn refused(error: WelcomeError<RowError>) -> SessionError {
    match error {
        WelcomeError::StorageError(error) => error.into(),
        WelcomeError::LibraryError(error) => SessionError::library(error),
        WelcomeError::NoMatchingKeyPackage | WelcomeError::JoinerSecretNotFound => SessionError::NoKeyPackage,
        error => SessionError::Invalid(error.to_string()),
    }
}
