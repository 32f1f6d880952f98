//! Commands against the present state: one function for each, which says what would change, and changes
//! nothing. So a command may be decided as often as one likes, and by any process that has applied the same
//! records (which differ only in what no record says: day counts, and numbers of openings).

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{BlobId, DeviceId, Handle, KeyHash, MailboxId};

use super::{Change, Command, Decision, Forget, Ledger, Outcome, Passed, Past, Record, Taken, Unrecorded};
use crate::blob::change::{BlobChange, Held};
use crate::directory::change::DirectoryChange;
use crate::directory::tokens::Drawn;
use crate::mailbox::change::MailboxChange;
use crate::mailbox::log::Entry;
use crate::mailbox::retention::{CUT_AT_ONCE, Expiry, turn_cost};
use crate::mailbox::{Mailbox, Verdict, check_first_readers, day};
use crate::store::clock::Now;
use crate::store::{
    Append, BlobView, NewAccount, NewBlob, NewInvite, NewMailbox, Spent, SpentOn, StoreError,
};
use posthorn_proto::limits::POST_OVERHEAD_BYTES;

/// What looking at one mailbox costs of what one `Expire` may do, in entries that it could trim instead.
const LOOK: u64 = 8;
/// Most invites that one `Expire` removes.
const INVITES_AT_ONCE: usize = 256;
/// Most blobs that one `Expire` removes.
const BLOBS_AT_ONCE: usize = 256;

type Decided<L> = Result<Decision<L>, StoreError>;

impl<L: Clone + PartialEq> Ledger<L> {
    /// Checks a command and says what it comes to at this time.
    pub(crate) fn decide(&self, command: Command, at: impl Into<Now>) -> Decided<L> {
        let at = at.into();
        let now = at.time;
        match command {
            Command::Create(new, spent) => self.decide_create(new, &spent, now),
            Command::Append(append) => self.decide_append(append, at),
            Command::Open(open) => {
                let (view, changes) = self.mailbox(&open.mailbox)?.open(&open, self.newest_opening, now)?;
                let decision = self.decided(Outcome::Opened(view), self.about(open.mailbox, changes), now);
                Ok(Decision { unrecorded: Unrecorded::Opened(view.opening), ..decision })
            }
            Command::Advance(to) => {
                let change = self.mailbox(&to.mailbox)?.advance(&to)?;
                Ok(self.done(self.about(to.mailbox, change), now))
            }
            Command::Destroy { mailbox, turn_key } => {
                self.mailbox(&mailbox)?.lock.check_turn_key(&turn_key)?;
                Ok(self.done(self.about(mailbox, [MailboxChange::Removed]), now))
            }
            Command::Expire => Ok(self.decide_expire(at)),
            Command::Forget { posts, passed } => Ok(self.decide_forget(&posts, passed, now)),
            Command::ConfirmClock => Ok(self.done([Change::Clock], now)),
            Command::MintInvite(invite) => Ok(self.decide_mint(invite, now)),
            Command::Register(new) => self.decide_register(new, now),
            Command::RemoveAccount(handle) => {
                let devices = self.accounts.get(&handle)?.devices.iter().map(|(device, _)| *device).collect();
                let change = DirectoryChange::AccountRemoved { handle, devices };
                Ok(self.done([Change::Directory(change)], now))
            }
            Command::PublishCard { device, version, card } => self.decide_card(&device, version, card, now),
            Command::PublishKeyPackages { device, one_time, last_resort } => {
                self.decide_publish(device, one_time, last_resort, now)
            }
            Command::TakeKeyPackages(handle) => self.decide_take(&handle, now),
            Command::DrawTokens { device, purpose, hashes } => self.decide_draw(device, purpose, hashes, now),
            Command::Spend { token, on } => self.decide_spend(token, on, now),
            Command::GiveBack(spent) => Ok(self.decide_give_back(&spent, now)),
            Command::CreateBlob(new, spent) => self.decide_create_blob(&new, &spent, now),
            Command::ExtendBlob { blob, holder, seconds } => {
                self.decide_extend_blob(blob, &holder, seconds, now)
            }
            Command::DeleteBlob { blob, holder } => {
                let present = self.blobs.get(&blob).ok_or(StoreError::BlobUnknown)?;
                present.check_holder(&holder)?;
                let change = BlobChange::Removed { blob, life: present.life };
                Ok(self.done([Change::Blob(change)], now))
            }
            Command::Restored => {
                let all = self.packages.devices().filter_map(|id| self.packages.get(id)?.discard(*id));
                Ok(self.done(all.map(Change::Directory).collect::<Vec<_>>(), now))
            }
        }
    }

    /// The decision with the changes as records, numbered and stamped.
    fn decided(
        &self,
        outcome: Outcome<L>,
        changes: impl IntoIterator<Item = Change>,
        now: u64,
    ) -> Decision<L> {
        let time = u32::try_from(now).unwrap_or(u32::MAX);
        let versions = self.newest.version + 1..;
        let records =
            versions.zip(changes).map(|(version, change)| Record { version, time, change }).collect();
        Decision { outcome, records, unrecorded: Unrecorded::Nothing }
    }

    fn done(&self, changes: impl IntoIterator<Item = Change>, now: u64) -> Decision<L> {
        self.decided(Outcome::Done, changes, now)
    }

    /// Changes to the mailbox in its present life.
    fn about<C: IntoIterator<Item = MailboxChange>>(
        &self,
        mailbox: MailboxId,
        changes: C,
    ) -> impl Iterator<Item = Change> + use<C, L> {
        let life = self.life(&mailbox);
        changes.into_iter().map(move |change| Change::Mailbox { mailbox, life, change })
    }

    /// Whether this mailbox would be made; `false` if it is there, as this would make it.
    pub(crate) fn may_create(&self, new: &NewMailbox) -> Result<bool, StoreError> {
        if let Some(present) = self.mailboxes.get(&new.mailbox) {
            return if present.is_as_created(new) { Ok(false) } else { Err(StoreError::MailboxExists) };
        }
        check_first_readers(&new.readers, self.policy.readers_per_mailbox)?;
        if self.mailboxes.len() as u64 >= self.policy.mailboxes {
            return Err(StoreError::Quota("mailboxes"));
        }
        self.check_room_for_readers(new.readers.len())?;
        Ok(true)
    }

    fn decide_create(&self, new: NewMailbox, spent: &Spent, now: u64) -> Decided<L> {
        if !self.may_create(&new)? {
            return Ok(self.done([], now));
        }
        self.check_spent(spent, &new.token, SpentOn::Mailbox(new.mailbox))?;
        let NewMailbox { mailbox, token, post_key, turn_key, readers, expiry, quota } = new;
        Ok(self.done([Change::Created { mailbox, token, post_key, turn_key, readers, expiry, quota }], now))
    }

    fn check_room_for_readers(&self, more: usize) -> Result<(), StoreError> {
        let fits = self.totals.readers + more as u64 <= self.policy.readers;
        if more == 0 || fits { Ok(()) } else { Err(StoreError::Quota("readers")) }
    }

    fn check_room_for_bytes(&self, more: u64) -> Result<(), StoreError> {
        let fits = self.held_bytes() + more <= self.policy.total_bytes;
        if more == 0 || fits { Ok(()) } else { Err(StoreError::Quota("bytes")) }
    }

    fn decide_append(&self, append: Append, at: Now) -> Decided<L> {
        let (mailbox, now) = (append.mailbox, at.time);
        let present = self.mailbox(&mailbox)?;
        let new_ids = self.policy.new_ids(self.passed().made, at.posts);
        let change = match present.append(append, &new_ids, &self.keyed, &self.policy)? {
            Verdict::Repeated(seq) => return Ok(self.decided(Outcome::Posted(seq), [], now)),
            Verdict::Accepted(change) => change,
        };
        let MailboxChange::Posted { seq, turn, envelope, .. } = &change else {
            return Err(StoreError::Damaged);
        };
        let (seq, turn) = (*seq, turn.as_deref());
        let bytes = envelope.len() as u64 + POST_OVERHEAD_BYTES + turn.map_or(0, turn_cost);
        self.check_room_for_bytes(bytes)?;
        self.check_room_for_readers(turn.map_or(0, |turn| turn.admit.len()))?;
        let life = present.life;
        Ok(self.decided(Outcome::Posted(seq), [Change::Mailbox { mailbox, life, change }], now))
    }

    /// Looks at the mailboxes that are due, at invites and at tokens, as far as one command may go. While the
    /// clock is in doubt nothing expires, but memory is kept small.
    fn decide_expire(&self, now: Now) -> Decision<L> {
        let (mut changes, mut idle, mut past) = (Vec::new(), Vec::new(), Vec::new());
        let mut left = CUT_AT_ONCE;
        // By the clock that never goes back, or what is to leave memory would wait for the other to catch up.
        let mut due = self.due.iter().take_while(|(at, _)| u64::from(*at) <= now.posts).peekable();
        // Something must be left for what is found: whatever was looked at counts as dealt with.
        while left > LOOK
            && let Some((_, id)) = due.next()
        {
            left -= LOOK;
            let Some(mailbox) = self.mailboxes.get(id) else { continue };
            let (stored, remembered) = (mailbox.log.oldest(), mailbox.log.remembered());
            let expiry = match now.paused {
                true => Expiry::Keep { oldest: stored },
                false => mailbox.expire(now.time, &self.policy, left),
            };
            let change = match expiry {
                Expiry::Remove => {
                    left -= remembered.min(left);
                    MailboxChange::Removed
                }
                // What is past is looked for at the next look, which a cut brings at once.
                Expiry::Keep { oldest } if oldest > stored => {
                    left -= oldest - stored;
                    MailboxChange::Cut { oldest, forgotten: mailbox.log.forgotten() }
                }
                Expiry::Keep { .. } => {
                    let found = self.past(*id, mailbox, now, left);
                    left -= found.len() as u64;
                    past.extend(found);
                    idle.push(*id);
                    continue;
                }
            };
            changes.extend(self.about(*id, [change]));
        }
        let mut more = due.peek().is_some();
        if !more && !now.paused {
            let (others, again) = self.expire_others(now.time);
            changes.extend(others);
            more = again;
        }
        let has_cut = changes.iter().any(|change| matches!(change, Change::Mailbox { .. }));
        let outcome = Outcome::Expired { more: more || has_cut || left <= LOOK, past };
        // Applying a cut finds the mailbox's next time; nothing else would move the others out of the way.
        let unrecorded = Unrecorded::Idle { mailboxes: idle, now: now.posts };
        Decision { unrecorded, ..self.decided(outcome, changes, now.time) }
    }

    /// The posts that a mailbox need not hold, at most so many.
    fn past(&self, id: MailboxId, mailbox: &Mailbox<L>, now: Now, most: u64) -> Vec<Past> {
        if mailbox.past_due(&self.policy).is_none_or(|due| due > now.posts) {
            return Vec::new();
        }
        let life = mailbox.life;
        let of = |(seq, entry): (u64, &Entry<L>)| {
            let (post_id, fingerprint) = (entry.post_id, entry.fingerprint);
            Past { mailbox: id, life, seq, post_id, fingerprint }
        };
        mailbox
            .past(now.posts, &self.policy)
            .take(usize::try_from(most).unwrap_or(usize::MAX))
            .map(of)
            .collect()
    }

    /// What has expired beside mailboxes, and whether there may be more.
    fn expire_others(&self, now: u64) -> (Vec<Change>, bool) {
        let gone = self.invites.expired(now).take(INVITES_AT_ONCE);
        let gone = gone.map(|hash| DirectoryChange::InviteGone { hash });
        let void = self.tokens.expire(day(now)).max(self.uploads.expire(day(now)));
        let void = void.map(|before| DirectoryChange::TokensExpired { before });
        let mut changes: Vec<Change> = gone.chain(void).map(Change::Directory).collect();
        let before = changes.len();
        let ended = self.blobs.ended(now).take(BLOBS_AT_ONCE);
        changes.extend(ended.map(|(blob, life)| Change::Blob(BlobChange::Removed { blob, life })));
        let more = changes.len() - before == BLOBS_AT_ONCE;
        // Once a day the journal notes that the time is believed; the next start compares with that.
        if day(now) != day(u64::from(self.believed.time)) {
            changes.push(Change::Clock);
        }
        (changes, more)
    }

    /// Forgets posts whose repeats are recognised elsewhere. What is stored, or stood in an earlier life of
    /// its mailbox, is not concerned.
    fn decide_forget(&self, posts: &[Forget], passed: Passed, now: u64) -> Decision<L> {
        // What has left stays old, whoever says late how far that had come.
        let passed = Passed { made: passed.made.max(self.passed().made), ..passed };
        let mut changes: Vec<Change> =
            (passed != self.passed()).then_some(Change::Passed(passed)).into_iter().collect();
        for Forget { mailbox, life, to } in posts {
            let Some(present) = self.mailboxes.get(mailbox).filter(|present| present.life == *life) else {
                continue;
            };
            let (oldest, forgotten) = (present.log.oldest(), (*to).min(present.log.oldest() - 1));
            if forgotten > present.log.forgotten() {
                changes.extend(self.about(*mailbox, [MailboxChange::Cut { oldest, forgotten }]));
            }
        }
        self.done(changes, now)
    }

    fn decide_mint(&self, invite: NewInvite, now: u64) -> Decision<L> {
        let NewInvite { hash, uses, expires } = invite;
        let change = match uses {
            0 => DirectoryChange::InviteGone { hash },
            _ => DirectoryChange::InviteMinted { hash, uses, expires },
        };
        self.done(self.invites.is_new(&invite).then_some(Change::Directory(change)), now)
    }

    fn decide_register(&self, new: NewAccount, now: u64) -> Decided<L> {
        if self.accounts.is_registered(&new) {
            return Ok(self.done([], now));
        }
        let invite = match new.invite {
            Some(hash) => Some((hash, self.invites.use_one(&hash, now)?)),
            None => None,
        };
        self.accounts.check_free(&new)?;
        if self.accounts.len() as u64 >= self.policy.accounts {
            return Err(StoreError::Quota("accounts"));
        }
        let NewAccount { handle, identity_key, device, device_key, .. } = new;
        let change = DirectoryChange::Registered { handle, identity_key, device, device_key, invite };
        Ok(self.done([Change::Directory(change)], now))
    }

    fn decide_card(&self, device: &DeviceId, card_version: u64, card: Bytes, now: u64) -> Decided<L> {
        let handle = self.accounts.owner(device)?.clone();
        let new = self.cards.check(&handle, card_version, &card)?;
        self.check_room_for_bytes(if new { card.len() as u64 } else { 0 })?;
        let change = DirectoryChange::CardPublished { handle, card_version, card };
        Ok(self.done(new.then_some(Change::Directory(change)), now))
    }

    fn decide_publish(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
        now: u64,
    ) -> Decided<L> {
        self.accounts.owner(&device)?;
        let (none, limit) = (Default::default(), self.policy.key_packages_per_device);
        let packages = self.packages.get(&device).unwrap_or(&none);
        let changes = packages.publish(device, one_time, last_resort, limit);
        let bodies = changes.iter().filter_map(DirectoryChange::body);
        self.check_room_for_bytes(bodies.map(|body| body.len() as u64).sum())?;
        let mut stock = packages.stock();
        for change in &changes {
            match change {
                DirectoryChange::KeyPackageAdded { .. } => stock.one_time += 1,
                DirectoryChange::KeyPackagesTaken { .. } => stock.one_time = stock.one_time.min(limit as u32),
                DirectoryChange::LastResort { .. } => stock.last_resort_since = now,
                _ => {}
            }
        }
        Ok(self.decided(Outcome::Stock(stock), changes.into_iter().map(Change::Directory), now))
    }

    fn decide_take(&self, handle: &Handle, now: u64) -> Decided<L> {
        let (mut taken, mut changes) = (Vec::new(), Vec::new());
        for (device, _) in &self.accounts.get(handle)?.devices {
            let found = self.packages.get(device).and_then(|packages| packages.take(*device));
            if let Some((place, last_resort, change)) = found {
                taken.push(Taken { device: *device, last_resort, place });
                changes.extend(change.map(Change::Directory));
            }
        }
        if taken.is_empty() {
            return Err(StoreError::NoKeyPackage);
        }
        Ok(self.decided(Outcome::Taken(taken), changes, now))
    }

    fn decide_draw(
        &self,
        device: DeviceId,
        purpose: TokenPurpose,
        hashes: Vec<KeyHash>,
        now: u64,
    ) -> Decided<L> {
        self.accounts.owner(&device)?;
        let (tokens, per_device) = match purpose {
            TokenPurpose::CreateMailbox => (&self.tokens, self.policy.tokens_per_device),
            TokenPurpose::UploadBlob => (&self.uploads, self.policy.upload_tokens_per_device),
        };
        let day = day(now);
        let (accepted, hashes) = tokens.draw(device, hashes, day, per_device, self.policy.tokens)?;
        let unrecorded = Unrecorded::Drew { device, purpose, day, fresh: hashes.len() as u32 };
        // A clock that was ahead has made older days void for good: what is drawn now is good all the same.
        let day = day.max(tokens.void_before());
        let change = (!hashes.is_empty()).then(|| match purpose {
            TokenPurpose::CreateMailbox => DirectoryChange::TokensDrawn { day, hashes },
            TokenPurpose::UploadBlob => DirectoryChange::UploadTokensDrawn { day, hashes },
        });
        let decision = self.decided(Outcome::Drawn(accepted), change.map(Change::Directory), now);
        Ok(Decision { unrecorded, ..decision })
    }

    fn decide_spend(&self, token: KeyHash, on: SpentOn, now: u64) -> Decided<L> {
        let drawn = self.tokens(on.purpose()).get(&token).ok_or(StoreError::TokenUnknown)?;
        let (day, number) = (drawn.day, self.newest.version + 1);
        let (number, change) = match (&drawn.on, on) {
            (Some(name), _) if **name == on.name() => (drawn.version, None),
            (Some(_), _) => return Err(StoreError::TokenUnknown),
            (None, SpentOn::Mailbox(mailbox)) => {
                (number, Some(DirectoryChange::TokenSpentOn { day, token, mailbox }))
            }
            (None, SpentOn::Blob(blob)) => {
                (number, Some(DirectoryChange::UploadTokenSpentOn { day, token, blob }))
            }
        };
        let spent = Outcome::Spent(Spent { token, on, number });
        Ok(self.decided(spent, change.map(Change::Directory), now))
    }

    fn decide_give_back(&self, spent: &Spent, now: u64) -> Decision<L> {
        let change = self.good(spent).map(|drawn| {
            let (day, hashes) = (drawn.day, vec![spent.token]);
            match spent.on {
                SpentOn::Mailbox(_) => DirectoryChange::TokensDrawn { day, hashes },
                SpentOn::Blob(_) => DirectoryChange::UploadTokensDrawn { day, hashes },
            }
        });
        self.done(change.map(Change::Directory), now)
    }

    /// The token, if it is spent as this, and has not paid yet.
    fn good(&self, spent: &Spent) -> Option<&Drawn> {
        let drawn = self.tokens(spent.on.purpose()).get(&spent.token)?;
        let is_on = drawn.on.as_deref() == Some(&spent.on.name());
        (is_on && drawn.version == spent.number).then_some(drawn)
    }

    /// Whether this token is spent as this, on what is to be created.
    fn check_spent(&self, spent: &Spent, token: &KeyHash, on: SpentOn) -> Result<(), StoreError> {
        let pays = (spent.token, spent.on) == (*token, on) && self.good(spent).is_some();
        if pays { Ok(()) } else { Err(StoreError::TokenUnknown) }
    }

    /// The blob, if it is there as this would make it; `None` if it would be made.
    pub(crate) fn may_create_blob(&self, new: &NewBlob) -> Result<Option<BlobView>, StoreError> {
        if let Some(present) = self.blobs.get(&new.blob) {
            let same = present.is_as_created(new);
            return if same { Ok(Some(present.view())) } else { Err(StoreError::BlobExists) };
        }
        if self.blobs.all().len() as u64 >= self.policy.blobs {
            return Err(StoreError::Quota("blobs"));
        }
        if self.blobs.bytes().saturating_add(new.length) > self.policy.blob_bytes {
            return Err(StoreError::Quota("bytes of blobs"));
        }
        Ok(None)
    }

    fn decide_create_blob(&self, new: &NewBlob, spent: &Spent, now: u64) -> Decided<L> {
        if let Some(present) = self.may_create_blob(new)? {
            return Ok(self.decided(Outcome::Blob(present), [], now));
        }
        self.check_spent(spent, &new.token, SpentOn::Blob(new.blob))?;
        let held = Held { length: new.length, holder: new.holder, until: ends(new.seconds, now) };
        let created = BlobChange::Created { blob: new.blob, token: new.token, held };
        let life = self.newest.version + 1;
        Ok(self.decided(Outcome::Blob(held.view(life)), [Change::Blob(created)], now))
    }

    fn decide_extend_blob(&self, blob: BlobId, holder: &KeyHash, seconds: u32, now: u64) -> Decided<L> {
        let present = self.blobs.get(&blob).ok_or(StoreError::BlobUnknown)?;
        present.check_holder(holder)?;
        let (life, held) = (present.life, present.held);
        let until = ends(seconds, now);
        if until <= held.until {
            return Ok(self.decided(Outcome::Blob(present.view()), [], now));
        }
        let held = Held { until, ..held };
        let extended = Change::Blob(BlobChange::Extended { blob, life, held });
        Ok(self.decided(Outcome::Blob(held.view(life)), [extended], now))
    }
}

/// When a lease of so many seconds ends that is given now.
fn ends(seconds: u32, now: u64) -> u32 {
    u32::try_from(now.saturating_add(u64::from(seconds))).unwrap_or(u32::MAX)
}
