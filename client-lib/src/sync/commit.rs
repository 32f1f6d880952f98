//! Commits: an intent becomes one, it is posted with its turn, and merged only when it is read back (rule 3).
//! A lost race drops the commit and keeps the intent, which is judged anew in the next epoch (C3).

use posthorn_proto::turn::TurnHash;
use posthorn_proto::{DeviceId, KeyHash, PostId, ReadKey, Reader, ReaderId, Turn};

use super::account::OwnDevice;
use super::profile::{Contact, Profile};
use super::reading::Reading;
use super::receive::{After, Arrival, name_among, receipt_name};
use super::{Answer, CommandError, EngineError, Event, Link, LinkId, Step};
use crate::content::{Invitation, Receipt};
use crate::conversation::{
    Cause, Conversation, ConversationId, Intent, Notice, Package, get_intent, intents, last_message,
    remove_intent, remove_intents, set_receipt,
};
use crate::envelope::Slot;
use crate::identity::{Credential, IdentityKey};
use crate::inbox::{InboxAddress, MOST_DATA};
use crate::outbox::{self, Invitee, Parcel, SealedPost, SealedTurn};
use crate::session::{
    Change, EpochKeys, Member, Outcome, Provider, Session, SessionError, Staged, StagedChange,
    UnverifiedKeyPackage,
};
use crate::store::record::Secret;

/// What an invitation needs beside its Welcome, bytes: the card and the fixed fields, generously.
const INVITATION_OVERHEAD: usize = 20 * 1024;

/// What an intent comes down to in the present epoch.
enum Wanted {
    /// This change.
    Change(Box<Change>),
    /// It is true already.
    Nothing,
}

impl Step<'_> {
    /// Stages a commit for the first intent that is due. Returns whether there is one now.
    pub(super) fn stage_commit(
        &mut self,
        id: &ConversationId,
        record: &mut Conversation,
        reading: &Reading,
    ) -> Result<bool, EngineError> {
        for (row, intent) in intents(self.tx, id)? {
            if intent.not_before() > self.now {
                self.wake_conversation(*id, intent.not_before());
                continue;
            }
            if !intent.resolved() {
                continue;
            }
            let provider = Provider::new(self.tx);
            let mut session = Session::load(&provider, id)?;
            match wanted(&provider, &session, &intent, self.now)? {
                Wanted::Nothing => self.intent_done(row, Ok(Answer::Done))?,
                Wanted::Change(change) => {
                    if self.stage(id, record, reading, &mut session, row, &change)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Makes the commit, its turn and its parcel, all in this transaction (rule 3).
    fn stage(
        &mut self,
        id: &ConversationId,
        record: &mut Conversation,
        reading: &Reading,
        session: &mut Session<'_>,
        intent: i64,
        change: &Change,
    ) -> Result<bool, EngineError> {
        let Some(profile) = Profile::load(self.tx)? else { return Ok(false) };
        let keys = session.keys()?;
        let staged = match session.stage(&OwnDevice::of(&profile)?.leaf(), change) {
            Ok(staged) => staged,
            Err(error @ (SessionError::Store(_) | SessionError::Row(_) | SessionError::Unknown)) => {
                return Err(error.into());
            }
            Err(error) => {
                self.intent_failed(id, intent, Cause::CannotAdd, &error.to_string())?;
                return Ok(false);
            }
        };
        let Some(next) = &staged.outcome.keys else { return Ok(false) };
        let invitees = self.invitees(&staged)?;
        let turn = turn_of(&staged, next, &invitees);
        let post = PostId::random(self.rng);
        let slot = Slot { mailbox: record.mailbox, post, turn: TurnHash::of(Some(&turn)) };
        let fits =
            staged.welcome.as_ref().is_none_or(|welcome| welcome.len() + INVITATION_OVERHEAD <= MOST_DATA);
        let envelope = keys.envelope.seal(&slot, &staged.commit, self.rng);
        let (Ok(envelope), true) = (envelope, fits) else {
            session.clear_pending()?;
            self.intent_failed(
                id,
                intent,
                Cause::TooLarge,
                "the change does not fit one envelope; add fewer at once",
            )?;
            return Ok(false);
        };
        let handles =
            |members: &[Member]| members.iter().map(|m| m.credential.handle().to_string()).collect();
        let parcel = Parcel::Commit {
            intent,
            sealed: SealedPost::new(post, &keys.post, envelope, session.epoch()),
            turn: SealedTurn::new(&keys.turn, &turn),
            added: handles(&staged.outcome.added),
            removed: handles(&staged.outcome.removed),
            welcome: staged.welcome,
            invitees,
        };
        debug_assert_eq!(reading.stopped, None);
        record.commit_row = Some(outbox::put(self.tx, &record.mailbox, &parcel)?);
        record.save(self.tx, id)?;
        Ok(true)
    }

    /// A one-time read key and an inbox for everybody who is added.
    fn invitees(&mut self, staged: &Staged) -> Result<Vec<Invitee>, EngineError> {
        let mut invitees = Vec::new();
        for member in &staged.outcome.added {
            let identity = member.credential.identity();
            let device = member.credential.device();
            let inbox = Contact::load(self.tx, &identity)?.and_then(|contact| contact.inbox(&device));
            let read_key = ReadKey::random(self.rng);
            invitees.push(Invitee {
                device,
                identity: *identity.as_bytes(),
                inbox: inbox.as_ref().map(InboxAddress::encode).unwrap_or_default(),
                reader: member.reader,
                read_key: Secret(*read_key.expose()),
            });
        }
        Ok(invitees)
    }

    /// Our commit was read back: it is true now. Invitations leave only here.
    pub(super) fn own_commit(
        &mut self,
        id: &ConversationId,
        session: &mut Session<'_>,
        row: i64,
        parcel: Parcel,
        arrival: &Arrival<'_>,
    ) -> Result<After, EngineError> {
        let Parcel::Commit { intent, turn, welcome, invitees, added, removed, .. } = parcel else {
            return Ok(After::Go);
        };
        if arrival.delivery.turn.as_ref() != Some(&turn.turn()) || !session.has_pending() {
            return Ok(After::Stop(Cause::BadTurn, "the relay turned the lock in another way than we asked"));
        }
        session.merge_pending()?;
        outbox::remove(self.tx, row)?;
        let Some(profile) = Profile::load(self.tx)? else { return Ok(After::Go) };
        self.newcomers(id, session, &invitees, arrival.delivery.seq)?;
        for invitee in invitees {
            if let Some(welcome) = &welcome {
                self.invite(id, &profile, session, invitee, welcome.clone(), arrival)?;
            }
        }
        let committer = profile.handle()?.to_string();
        self.epoch_began(id, session, &committer, added, removed, arrival.delivery.seq)?;
        let still_wanted = intents(self.tx, id)?.into_iter().any(|(kept, wish)| {
            kept == intent
                && matches!(wish, Intent::Readmit { device, identity, .. } if !has_device(session, &identity, &device))
        });
        if !still_wanted {
            self.intent_done(intent, Ok(Answer::Done))?;
        }
        Ok(After::Go)
    }

    /// Another member's commit: its turn must say what it says (rule 1), then it is applied, and ours has
    /// lost its race.
    pub(super) fn foreign_commit(
        &mut self,
        id: &ConversationId,
        session: &mut Session<'_>,
        change: StagedChange,
        turn: &Turn,
        arrival: &Arrival<'_>,
    ) -> Result<After, EngineError> {
        let outcome = change.outcome().clone();
        if !session.info().is_same_place(&outcome.info) {
            let text = "a commit moves the conversation, which only a repair may do";
            self.unreadable(id, arrival, Cause::BadCommit)?;
            return Ok(After::Stop(Cause::BadTurn, text));
        }
        if !turn_fits(turn, &outcome) {
            return Ok(After::Stop(
                Cause::BadTurn,
                "the lock was turned in another way than its commit says",
            ));
        }
        session.apply(change)?;
        if let Some(mut record) = Conversation::load(self.tx, id)?
            && let Some(row) = record.commit_row.take()
        {
            outbox::remove(self.tx, row)?;
            record.save(self.tx, id)?;
        }
        let handles =
            |members: &[Member]| members.iter().map(|m| m.credential.handle().to_string()).collect();
        for member in &outcome.added {
            self.newcomer(id, &member.credential, arrival.delivery.seq)?;
        }
        let committer = outcome.committer.credential.handle().to_string();
        let (added, removed) = (handles(&outcome.added), handles(&outcome.removed));
        self.epoch_began(id, session, &committer, added, removed, arrival.delivery.seq)?;
        if outcome.keys.is_none() {
            return Ok(After::Stop(Cause::Removed, "a member removed this device"));
        }
        Ok(After::Go)
    }

    /// Nobody waits for newcomers to get what was said before they came.
    fn newcomer(
        &mut self,
        id: &ConversationId,
        credential: &Credential,
        seq: u64,
    ) -> Result<(), EngineError> {
        Ok(set_receipt(self.tx, id, &receipt_name(credential), Receipt { delivered: seq, read: seq })?)
    }

    /// Likewise those whom our own commit added.
    fn newcomers(
        &mut self,
        id: &ConversationId,
        session: &Session<'_>,
        invitees: &[Invitee],
        seq: u64,
    ) -> Result<(), EngineError> {
        for member in
            session.members()?.iter().filter(|m| invitees.iter().any(|invitee| invitee.reader == m.reader))
        {
            self.newcomer(id, &member.credential, seq)?;
        }
        Ok(())
    }

    /// What follows from any commit, whoever made it.
    fn epoch_began(
        &mut self,
        id: &ConversationId,
        session: &Session<'_>,
        committer: &str,
        mut added: Vec<String>,
        mut removed: Vec<String>,
        seq: u64,
    ) -> Result<(), EngineError> {
        self.live.turned.remove(id);
        let Some(mut record) = Conversation::load(self.tx, id)? else { return Ok(()) };
        let Some(profile) = Profile::load(self.tx)? else { return Ok(()) };
        record.commit_row = None;
        record.epoch = session.epoch();
        if session.is_member() {
            self.note_members(session, &mut record)?;
            record.everyone = self.everyone(id, session, &profile.identity().key())?;
        }
        record.save(self.tx, id)?;
        added.dedup();
        removed.dedup();
        // Somebody whose device is exchanged neither comes nor goes.
        removed.retain(|handle| !record.members.contains(handle) || !session.is_member());
        // Who left was not removed, whoever committed it: the history says already that they left.
        let left = self.leavers(id)?;
        removed.retain(|handle| !left.contains(handle));
        let by = committer.to_owned();
        if !removed.is_empty() {
            self.notice(id, Some(seq), Notice::Removed { by: by.clone(), who: removed })?;
        }
        if !added.is_empty() {
            self.notice(id, Some(seq), Notice::Added { by, who: added })?;
        }
        self.live.dirty.insert(*id);
        self.event(Event::Conversation { conversation: *id });
        Ok(())
    }

    /// Handles of those who said that they leave and whom somebody has yet to take out.
    fn leavers(&self, id: &ConversationId) -> Result<Vec<String>, EngineError> {
        let mut handles = Vec::new();
        for (_, intent) in intents(self.tx, id)? {
            // One that a person asked for has no time to wait for.
            if let Intent::Remove { identity, not_before: 1.. } = intent
                && let Ok(identity) = IdentityKey::try_from(&identity[..])
                && let Some(contact) = Contact::load(self.tx, &identity)?
            {
                handles.push(contact.handle);
            }
        }
        Ok(handles)
    }

    /// Copies who the members are, and keeps what their leaves say.
    pub(super) fn note_members(
        &mut self,
        session: &Session<'_>,
        record: &mut Conversation,
    ) -> Result<(), EngineError> {
        let members = session.members()?;
        let names: Vec<String> = members.iter().map(|member| name_among(&members, member)).collect();
        if let Some(name) = names.iter().find(|name| name.contains('#') && !record.members.contains(name)) {
            let text =
                format!("several members claim one handle, one of them is {name}: compare safety numbers");
            self.alarm(Some(session.id()), Cause::NameTwice, None, text);
        }
        record.members = names;
        record.members.dedup();
        record.name.clone_from(&session.info().name);
        for member in &members {
            Contact::meet_member(self.tx, &member.credential, member.inbox.as_ref())?;
        }
        Ok(())
    }

    /// Seals an invitation and puts it into the outbox (rules 11 and 14).
    fn invite(
        &mut self,
        id: &ConversationId,
        profile: &Profile,
        session: &Session<'_>,
        invitee: Invitee,
        welcome: Vec<u8>,
        arrival: &Arrival<'_>,
    ) -> Result<(), EngineError> {
        let identity = IdentityKey::try_from(&invitee.identity[..]);
        let (Ok(identity), Ok(inbox)) = (identity, InboxAddress::decode(&invitee.inbox)) else {
            self.alarm(
                Some(*id),
                Cause::CannotAdd,
                None,
                "a new member has no inbox where the invitation could be left",
            );
            return Ok(());
        };
        let invitation = Invitation {
            recipient: (invitee.device, identity),
            inviter: super::account::own_card(profile, profile.card_version)?,
            conversation: *id,
            relay: session.info().relay.clone(),
            mailbox: session.info().mailbox,
            reader: invitee.reader,
            read_key: ReadKey::from_bytes(invitee.read_key.0),
            seq: arrival.delivery.seq,
            chain: arrival.chain,
            welcome,
        };
        self.post_to_inbox(&inbox, &invitation.encode(&profile.identity()))
    }

    /// Puts something sealed to an inbox into the outbox.
    pub(super) fn post_to_inbox(&mut self, inbox: &InboxAddress, data: &[u8]) -> Result<(), EngineError> {
        let post = PostId::random(self.rng);
        match inbox.key.seal(&inbox.mailbox, &post, data, self.rng) {
            Ok(sealed) => {
                let sealed = SealedPost::new(post, &inbox.post_key, sealed, 0);
                let parcel = Parcel::Inbox { relay: inbox.relay.url.to_string(), sealed };
                outbox::put(self.tx, &inbox.mailbox, &parcel)?;
                self.live.want_relay(inbox.relay.url.as_str(), self.now);
                self.live.inbox_posts_dirty = true;
            }
            Err(error) => self.alarm(None, Cause::TooLarge, None, error.to_string()),
        }
        Ok(())
    }

    /// Our pending commit will never be: the relay refuses it for good.
    pub(super) fn drop_commit(
        &mut self,
        id: &ConversationId,
        row: i64,
        intent: i64,
        why: &str,
    ) -> Result<(), EngineError> {
        let provider = Provider::new(self.tx);
        Session::load(&provider, id)?.clear_pending()?;
        outbox::remove(self.tx, row)?;
        if let Some(mut record) = Conversation::load(self.tx, id)? {
            record.commit_row = None;
            record.save(self.tx, id)?;
        }
        self.intent_failed(id, intent, Cause::Refused, why)
    }

    fn intent_done(&mut self, row: i64, answer: Result<Answer, CommandError>) -> Result<(), EngineError> {
        remove_intent(self.tx, row)?;
        if let Some(command) = self.live.asked.remove(&row) {
            let started = self.live.starting.remove(&command);
            let answer = match (answer, started) {
                (Ok(_), Some(id)) => Ok(Answer::Started(id)),
                (answer, _) => answer,
            };
            self.answer(command, answer);
        }
        Ok(())
    }

    /// An intent can not become true. Whoever asked is told; if nobody of this run did, the app is.
    pub(super) fn intent_failed(
        &mut self,
        id: &ConversationId,
        row: i64,
        cause: Cause,
        why: &str,
    ) -> Result<(), EngineError> {
        let never_began = self.never_began(id, row)?;
        if self.live.asked.contains_key(&row) {
            let error = CommandError::Failed { cause: cause.name(), reason: why.to_owned() };
            self.intent_done(row, Err(error))?;
        } else {
            remove_intent(self.tx, row)?;
            self.alarm((!never_began).then_some(*id), cause, None, why);
        }
        if never_began { self.discard(id) } else { Ok(()) }
    }

    /// Whether this intent was to give a conversation its first other member, and nothing has happened there.
    fn never_began(&self, id: &ConversationId, row: i64) -> Result<bool, EngineError> {
        let Some(record) = Conversation::load(self.tx, id)? else { return Ok(false) };
        let is_only_wish = intents(self.tx, id)?.iter().all(|(other, _)| *other == row);
        let is_start = matches!(get_intent(self.tx, row)?, Some(Intent::Add(_)));
        Ok(is_start
            && is_only_wish
            && record.epoch == 0
            && last_message(self.tx, id, &record.everyone)?.is_none())
    }

    /// Forgets a conversation of which nobody else knows. Its mailbox, if it has one, goes when nobody opens
    /// it.
    fn discard(&mut self, id: &ConversationId) -> Result<(), EngineError> {
        let Some(record) = Conversation::load(self.tx, id)? else { return Ok(()) };
        let link = LinkId { relay: record.relay()?.url, link: Link::Mailboxes };
        self.close(&link, &record.mailbox);
        Reading::delete(self.tx, &record.mailbox)?;
        outbox::remove_all(self.tx, &record.mailbox)?;
        Conversation::delete(self.tx, id)?;
        let provider = Provider::new(self.tx);
        match Session::load(&provider, id) {
            Ok(session) => session.delete()?,
            Err(SessionError::Unknown) => {}
            Err(error) => return Err(error.into()),
        }
        self.live.openings_dirty = true;
        self.event(Event::Conversation { conversation: *id });
        Ok(())
    }

    /// Forgets what is still wanted of a conversation that has ended.
    pub(super) fn abandon_intents(
        &mut self,
        id: &ConversationId,
        record: &mut Conversation,
    ) -> Result<(), EngineError> {
        for (row, _) in intents(self.tx, id)? {
            if self.live.asked.contains_key(&row) {
                self.intent_done(row, Err(CommandError::NotActive("it ended meanwhile")))?;
            }
        }
        remove_intents(self.tx, id)?;
        record.commit_row = None;
        record.save(self.tx, id)?;
        let provider = Provider::new(self.tx);
        match Session::load(&provider, id) {
            // The secrets of what is over are not kept.
            Ok(session) if record.has_ended() => session.delete()?,
            Ok(mut session) if session.is_member() => session.clear_pending()?,
            Ok(_) | Err(SessionError::Unknown) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// What an intent comes down to now: people who are members meanwhile are not added, who is gone is not
/// removed.
fn wanted(
    provider: &Provider<'_>,
    session: &Session<'_>,
    intent: &Intent,
    now: u64,
) -> Result<Wanted, EngineError> {
    let mut change = Change::default();
    match intent {
        Intent::Add(candidates) => {
            for candidate in candidates {
                let Some(identity) = candidate.identity_key() else { continue };
                let missing = |package: &&Package| !has_device(session, identity.as_bytes(), &package.device);
                for package in candidate.packages.iter().filter(missing) {
                    // Verified when it was taken; by now it may have run out, and then only this device is
                    // left out.
                    let parsed = UnverifiedKeyPackage::parse(&package.bytes);
                    change.add.extend(parsed.and_then(|p| p.verify(provider, &identity, now)).ok());
                }
            }
        }
        Intent::Remove { identity, .. } => {
            let members = session.members()?;
            let leaves = members.iter().filter(|member| member.credential.identity().as_bytes() == identity);
            change.remove = leaves.map(|member| member.leaf).collect();
        }
        Intent::Update { .. } => change.update_self = true,
        Intent::Readmit { device, identity, key_package } => {
            let members = session.members()?;
            match members.iter().find(|member| is_device(member, identity, device)) {
                // Its reader has the same id: it must be gone before it can be admitted anew.
                Some(member) => change.remove = vec![member.leaf],
                None => {
                    let identity = IdentityKey::try_from(&identity[..]).ok();
                    let parsed = UnverifiedKeyPackage::parse(key_package).ok();
                    let verified =
                        parsed.zip(identity).map(|(p, identity)| p.verify(provider, &identity, now));
                    change.add.extend(verified.and_then(Result::ok));
                }
            }
        }
    }
    let nothing = change.add.is_empty() && change.remove.is_empty() && !change.update_self;
    Ok(if nothing { Wanted::Nothing } else { Wanted::Change(Box::new(change)) })
}

fn has_device(session: &Session<'_>, identity: &[u8; 32], device: &DeviceId) -> bool {
    session.members().is_ok_and(|members| members.iter().any(|member| is_device(member, identity, device)))
}

/// Devices choose their ids: only with the identity they name somebody.
fn is_device(member: &Member, identity: &[u8; 32], device: &DeviceId) -> bool {
    member.credential.identity().as_bytes() == identity && member.credential.device() == *device
}

fn turn_of(staged: &Staged, next: &EpochKeys, invitees: &[Invitee]) -> Turn {
    let key_hash = |invitee: &Invitee| ReadKey::from_bytes(invitee.read_key.0).hash();
    Turn {
        post_key_hash: next.post.hash(),
        turn_key_hash: next.turn.hash(),
        admit: invitees
            .iter()
            .map(|invitee| Reader { id: invitee.reader, key_hash: key_hash(invitee) })
            .collect(),
        evict: staged.outcome.removed.iter().map(|member| member.reader).collect(),
    }
}

/// Whether a turn is the one of this commit (rule 1). Read keys are the committer's to choose.
fn turn_fits(turn: &Turn, outcome: &Outcome) -> bool {
    let sorted = |mut ids: Vec<ReaderId>| {
        ids.sort_unstable();
        ids
    };
    let readers = |members: &[Member]| sorted(members.iter().map(|member| member.reader).collect());
    let keys_fit = outcome.keys.as_ref().is_none_or(|keys| {
        let hashes: [KeyHash; 2] = [keys.post.hash(), keys.turn.hash()];
        hashes == [turn.post_key_hash, turn.turn_key_hash]
    });
    keys_fit
        && sorted(turn.admit.iter().map(|reader| reader.id).collect()) == readers(&outcome.added)
        && sorted(turn.evict.clone()) == readers(&outcome.removed)
}
