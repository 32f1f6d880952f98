//! Commits of ours: a wish becomes one, it is posted with its turn, and merged only when it is read back
//! (rule 3). A lost race drops the commit and keeps the wish, which is judged anew in the next epoch (C3).

use posthorn_proto::turn::TurnHash;
use posthorn_proto::{PostId, ReadKey, Reader, Turn};

use super::Talk;
use super::deliver::After;
use super::slot::AuthorSlot;
use super::wish::waits;
use crate::conversation::{Cause, ConversationState, Intent, intents};
use crate::engine::mailbox::Arrival;
use crate::engine::{Error, LinkId};
use crate::envelope::Slot;
use crate::group::{Change, EpochKeys, Group, GroupError, Member, Provider, Staged, UnverifiedKeyPackage};
use crate::identity::{IdentityKey, PersonId};
use crate::inbox::MOST_DATA;
use crate::outbox::{self, Invitee, Parcel, SealedPost, SealedTurn};
use crate::store::record::Secret;

/// What an invitation needs beside its Welcome, bytes: the card and the fixed fields, generously.
const INVITATION_OVERHEAD: usize = 20 * 1024;
/// An epoch whose keys may have served before is ended within this time, milliseconds.
pub(in crate::engine) const DOUBT_WITHIN: u64 = 10_000;

impl Talk<'_, '_> {
    /// Stages a commit for the first wish that is due. Returns whether there is one now.
    pub(in crate::engine) fn stage_commit(&mut self, link: &LinkId) -> Result<bool, Error> {
        for (row, intent) in intents(self.step.tx, &self.id)? {
            if waits(&intent, self.step.now) {
                self.step.wake_talk(self.id, intent.not_before());
                continue;
            }
            if !intent.resolved() {
                continue;
            }
            match self.wanted(&intent)? {
                Wanted::Nothing => self.intent_done(row)?,
                Wanted::Never(why) => self.intent_failed(row, Cause::CannotAdd, &why)?,
                Wanted::Change(change) => {
                    if self.stage(link, row, &intent, &change)? {
                        return Ok(true);
                    }
                }
            }
            if self.gone {
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn wanted(&mut self, intent: &Intent) -> Result<Wanted, Error> {
        let now = self.step.relay_now();
        if let Intent::Move { relay_url, relay_identity } = intent {
            return self.moving(relay_url, *relay_identity);
        }
        let epoch = self.record().epoch;
        let leaves = self.leave_proposals_of(intent, epoch);
        self.group(|group, provider| wanted(provider, group, intent, leaves, now))
    }

    /// Makes the commit, its turn and its parcel, all in this transaction (rule 3).
    fn stage(&mut self, link: &LinkId, intent: i64, wish: &Intent, change: &Change) -> Result<bool, Error> {
        let own = self.step.own()?;
        let leaf = own.leaf()?;
        let mailbox = self.record().mailbox;
        let Some((seq, chain)) = self.reading().map(|reading| (reading.seq, reading.chain())) else {
            return Ok(false);
        };
        // The author's slot is signed with the commit, so that the readers' keys are drawn before it.
        let post = self.step.new_post_id(link);
        let invitees = self.invitees(change)?;
        let evicted = self.group(|group, _| {
            let mut evicted = Vec::new();
            for leave in &change.leaves {
                evicted.push(group.check_leave(leave)?.reader);
            }
            for leaf in &change.remove {
                evicted.push(group.member(*leaf)?.reader);
            }
            Ok(evicted)
        })?;
        let admitted = invitees.iter().map(|invitee| Reader {
            id: invitee.reader,
            key_hash: ReadKey::from_bytes(invitee.read_key.0).hash(),
        });
        let mut turn = Turn {
            post_key_hash: posthorn_proto::KeyHash([0; 32]),
            turn_key_hash: posthorn_proto::KeyHash([0; 32]),
            admit: admitted.collect(),
            evict: evicted,
        };
        let readers = AuthorSlot::readers(Some(&turn));
        let aad = AuthorSlot { mailbox, post, readers, seq, chain }.encode();
        let staged = self.group(|group, _| {
            let keys = group.keys()?;
            Ok(group.stage(&leaf, change, &aad).map(|staged| (keys, group.epoch(), staged)))
        })?;
        let (keys, epoch, staged) = match staged {
            Ok(staged) => staged,
            Err(error) if error.is_storage() => return Err(error.into()),
            Err(error) => return self.cannot_stage(intent, wish, &error),
        };
        let Some(lock) = staged.outcome.lock() else { return Ok(false) };
        [turn.post_key_hash, turn.turn_key_hash] = lock;
        if !staged.outcome.fits(&turn) {
            self.group(|group, _| group.clear_pending())?;
            self.intent_failed(intent, Cause::CannotAdd, "the change does not come out as it was asked for")?;
            return Ok(false);
        }
        self.keep_commit(intent, &keys, epoch, staged, turn, post, invitees)
    }

    #[expect(clippy::too_many_arguments, reason = "one call site; the parts of one parcel")]
    fn keep_commit(
        &mut self,
        intent: i64,
        keys: &EpochKeys,
        epoch: u64,
        staged: Staged,
        turn: Turn,
        post: PostId,
        invitees: Vec<Invitee>,
    ) -> Result<bool, Error> {
        let mailbox = self.record().mailbox;
        let slot = Slot { mailbox, post, turn: TurnHash::of(Some(&turn)) };
        let welcome = staged.welcome.as_ref();
        let fits = welcome.is_none_or(|welcome| welcome.len() + INVITATION_OVERHEAD <= MOST_DATA);
        let envelope = keys.envelope.seal(&slot, &staged.commit, self.step.rng);
        let (Ok(envelope), true) = (envelope, fits) else {
            self.group(|group, _| group.clear_pending())?;
            let text = "the change does not fit one envelope; add fewer at once";
            self.intent_failed(intent, Cause::TooLarge, text)?;
            return Ok(false);
        };
        let place = self.place_of(&staged)?;
        let parcel = Parcel::Commit {
            intent,
            sealed: SealedPost::new(post, &keys.post, envelope, epoch),
            turn: SealedTurn::new(&keys.turn, &turn),
            added: self.named_all(&staged.outcome.added)?,
            removed: self.named_all(&staged.outcome.removed)?,
            welcome: staged.welcome,
            invitees,
            place,
        };
        let row = outbox::put(self.step.tx, &mailbox, &parcel)?;
        self.change().commit_row = Some(row);
        Ok(true)
    }

    /// MLS does not take the change. What the device itself wants is tried again later; it must not be lost
    /// because of somebody else's key.
    pub(in crate::engine) fn cannot_stage(
        &mut self,
        intent: i64,
        wish: &Intent,
        error: &GroupError,
    ) -> Result<bool, Error> {
        let text = match error {
            GroupError::BadKey { leaf } => {
                let member = self.group(|group, _| Ok(group.member(*leaf)))?;
                let who = match member {
                    Ok(member) => self.named(&member.credential)?.handle,
                    Err(_) => format!("leaf {leaf}"),
                };
                format!("a device of {who} has a key that nothing can be encrypted to: remove them first")
            }
            error => error.to_string(),
        };
        match wish {
            Intent::Update { .. } => self.update_later(intent, &text)?,
            _ => self.intent_failed(intent, Cause::CannotAdd, &text)?,
        }
        Ok(false)
    }

    /// Fresh keys cannot be had now; that they are wanted does not pass (rules 15 and 31).
    fn update_later(&mut self, intent: i64, why: &str) -> Result<(), Error> {
        self.alarm(Cause::CannotUpdate, None, why);
        crate::conversation::remove_intent(self.step.tx, intent)?;
        self.wish_to_update(DOUBT_WITHIN * 60)
    }

    /// A one-time read key and an inbox for everybody who is to be added.
    fn invitees(&mut self, change: &Change) -> Result<Vec<Invitee>, Error> {
        let mut invitees = Vec::new();
        for package in &change.add {
            let credential = package.credential();
            let inboxes = self.step.inboxes_of(&credential.identity(), &credential.device())?;
            let read_key = ReadKey::random(self.step.rng);
            let reader = self.group(|group, _| Ok(group.info().reader_of(package)))?;
            invitees.push(Invitee {
                device: credential.device(),
                identity: *credential.identity().as_bytes(),
                inbox: inboxes.first().map(crate::inbox::InboxAddress::encode).unwrap_or_default(),
                reader,
                read_key: Secret(*read_key.expose()),
            });
        }
        Ok(invitees)
    }

    /// Our commit was read back: it is true now. Invitations leave only here.
    pub(in crate::engine) fn own_commit(
        &mut self,
        row: i64,
        parcel: Parcel,
        arrival: &Arrival<'_>,
    ) -> Result<After, Error> {
        let Parcel::Commit { intent, turn, welcome, invitees, added, removed, .. } = parcel else {
            return Ok(After::Go);
        };
        let pending = self.group(|group, _| Ok(group.has_pending()))?;
        if arrival.delivery.turn.as_ref() != Some(&turn.turn()) || !pending {
            let text = "the relay turned the lock in another way than we asked";
            return Ok(After::Suspend(Cause::BadTurn, text));
        }
        let outcome = self.group(|group, _| group.merge_pending())?;
        outbox::remove(self.step.tx, row)?;
        let has_moved = outcome.info.place.number != self.record().place;
        let (seq, now) = (arrival.delivery.seq, self.step.now);
        if outcome.updates_committer {
            let record = self.change();
            (record.leaf_since, record.leaf_seq, record.updated_at) = (now, seq, now);
        }
        for member in &outcome.added {
            self.newcomer(member, seq)?;
        }
        for invitee in invitees {
            if let Some(welcome) = &welcome {
                self.invite(invitee, welcome.clone(), arrival)?;
            }
        }
        self.change().commit_row = None;
        self.epoch_began(&outcome, added, removed, seq, false)?;
        if !self.still_wanted(intent)? {
            self.intent_done(intent)?;
        }
        Ok(if has_moved { After::Moved } else { After::Go })
    }

    /// Whether one wish takes more than the commit that was made for it: an exchange is two.
    fn still_wanted(&mut self, row: i64) -> Result<bool, Error> {
        let Some(intent) = crate::conversation::get_intent(self.step.tx, row)? else { return Ok(false) };
        let members = self.group(|group, _| group.members())?;
        Ok(match intent {
            Intent::Readmit { device, person, .. } => !members.iter().any(|member| {
                PersonId::from(&member.credential.identity()) == person
                    && member.credential.device() == device
            }),
            _ => false,
        })
    }

    /// Our pending commit will never be: the relay refuses it for good.
    pub(in crate::engine) fn drop_commit(&mut self, intent: i64, why: &str) -> Result<(), Error> {
        self.group(|group, _| group.clear_pending())?;
        self.give_up_commit()?;
        match crate::conversation::get_intent(self.step.tx, intent)? {
            Some(Intent::Update { .. }) => self.update_later(intent, why),
            _ => self.intent_failed(intent, Cause::Refused, why),
        }
    }

    /// Whether changes can be made here. Errors: [`Error::NotActive`].
    pub(in crate::engine) fn takes_changes(&self) -> Result<(), Error> {
        match &self.record().state {
            ConversationState::Creating | ConversationState::Active => Ok(()),
            state => Err(Error::NotActive(state.in_words().to_owned())),
        }
    }
}

/// What a wish comes down to in the present epoch.
pub(super) enum Wanted {
    /// This change.
    Change(Box<Change>),
    /// It is true already.
    Nothing,
    /// It cannot be.
    Never(String),
}

/// What an intent comes down to now: people who are members meanwhile are not added, who is gone is not
/// removed, and a leaf that was given to another is not the one that was meant.
fn wanted(
    provider: &Provider<'_>,
    group: &mut Group<'_>,
    intent: &Intent,
    leaves: Vec<Vec<u8>>,
    now: u64,
) -> Result<Wanted, GroupError> {
    let mut change = Change::default();
    let members = group.members()?;
    match intent {
        Intent::Add(candidates) => {
            for candidate in candidates {
                let Some(identity) = candidate.identity_key() else { continue };
                let mut refused = None;
                let before = change.add.len();
                for package in &candidate.packages {
                    if members.iter().any(|member| is_device(member, &identity, package)) {
                        continue;
                    }
                    // Verified when it was taken; it may have run out since.
                    let parsed = UnverifiedKeyPackage::parse(&package.bytes);
                    match parsed.and_then(|package| package.verify(provider, &identity, now)) {
                        Ok(package) => change.add.push(package),
                        Err(error) => refused = Some(error),
                    }
                }
                if let Some(error) = refused.filter(|_| change.add.len() == before) {
                    return Ok(Wanted::Never(format!("{} cannot be added: {error}", candidate.name())));
                }
            }
        }
        Intent::Remove { leaf, signature_key, .. } => {
            let is_meant = |member: &&Member| member.leaf == *leaf && member.signature_key == *signature_key;
            if members.iter().any(|member| is_meant(&member)) {
                match leaves.is_empty() {
                    true => change.remove = vec![*leaf],
                    false => change.leaves = leaves,
                }
            }
        }
        Intent::Update { .. } => change.update_self = true,
        Intent::Readmit { device, person, key_package } => {
            let is_it = |member: &&Member| {
                PersonId::from(&member.credential.identity()) == *person
                    && member.credential.device() == *device
            };
            match members.iter().find(is_it) {
                // Its reader has the same id: it must be gone before it can be admitted anew.
                Some(member) => change.remove = vec![member.leaf],
                None => {
                    let identity = IdentityKey::try_from(&person.0[..]).ok();
                    let parsed = UnverifiedKeyPackage::parse(key_package).ok();
                    let verified =
                        parsed.zip(identity).map(|(p, identity)| p.verify(provider, &identity, now));
                    change.add.extend(verified.and_then(Result::ok));
                }
            }
        }
        Intent::Move { .. } => {}
    }
    let nothing =
        change.add.is_empty() && change.remove.is_empty() && change.leaves.is_empty() && !change.update_self;
    Ok(if nothing { Wanted::Nothing } else { Wanted::Change(Box::new(change)) })
}

/// Devices choose their ids: only with the identity they name somebody.
fn is_device(member: &Member, identity: &IdentityKey, package: &crate::conversation::Package) -> bool {
    member.credential.identity() == *identity && member.credential.device() == package.device
}
