//! What this run knows beside the database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use posthorn_proto::MailboxId;

use super::account::Own;
use super::account::profile::Profile;
use super::api::{Consent, LinkId, Reply, Unreachable, Waiting};
use super::link::LinkState;
use super::mailbox::reading::{Purpose, Reading};
use super::talk::Open;
use super::{Account, Error, Randomness, careful};
use crate::conversation::{Conversation, ConversationId, intents};
use crate::identity::{RelayUrl, Route};
use crate::store::{Database, Transaction};

/// Conversations that are kept loaded between steps: state, place and group of each, some 100 KiB for a
/// hundred members.
const KEPT_OPEN: usize = 32;

#[derive(Default)]
pub(super) struct Live {
    pub(super) links: BTreeMap<LinkId, LinkState>,
    /// The account and this device, as the database has them.
    pub(super) own: Option<Arc<Own>>,
    /// Conversations that are loaded. Between steps all of it is what was committed last.
    pub(super) talks: BTreeMap<ConversationId, Open>,
    /// Whose each mailbox is. Inboxes are not among them.
    pub(super) places: BTreeMap<MailboxId, ConversationId>,
    /// Conversations to look at in this pass.
    pub(super) dirty: BTreeSet<ConversationId>,
    /// Look at parcels for inboxes in this pass.
    pub(super) inbox_posts_dirty: bool,
    /// Look for invitations that wait for us to be out of where they lead.
    pub(super) held_dirty: bool,
    /// Look for mailboxes to open in this pass.
    pub(super) openings_dirty: bool,
    /// Look which connections are wanted in this pass.
    pub(super) links_dirty: bool,
    /// When a suspended mailbox is looked at again.
    pub(super) look_again_at: Option<u64>,
    /// Conversations to look at later, by unix milliseconds.
    pub(super) timers: BTreeSet<(u64, ConversationId)>,
    /// When parcels for inboxes leave (unix milliseconds), so that it is not at once after something else.
    pub(super) inbox_posts_at: Option<u64>,
    pub(super) promised: Promised,
    /// Tokens that can be spent, if none came or went since they were counted.
    pub(super) tokens: Option<usize>,
    /// One-time key packages at the relay, once it told.
    pub(super) stock: Option<u32>,
    /// Conversations whose lock turned before we read it, since when (unix milliseconds).
    pub(super) turned: BTreeMap<ConversationId, u64>,
    /// Mailboxes that refuse for now, until when.
    pub(super) paused: BTreeMap<MailboxId, u64>,
    /// Kinds of requests that the relay refuses for now, until when.
    pub(super) held_back: BTreeMap<HeldBack, Waiting>,
    /// Relays other than our own that cannot be reached, and why.
    pub(super) unreachable: BTreeMap<RelayUrl, String>,
    /// How the person wants relays to be reached, as the database has it.
    pub(super) routes: BTreeMap<RelayUrl, Route>,
    /// Where our own relay is, as far as routes depend on it.
    pub(super) own_url: Option<RelayUrl>,
    /// Mailboxes of ours of which it was told that the relay calls an opening malformed.
    pub(super) malformed: BTreeSet<MailboxId>,
    /// The relay's clock less ours, milliseconds, once it greeted us.
    pub(super) skew: i64,
    /// That it is wrong was told.
    pub(super) skew_told: bool,
    /// Deliveries to be handled one at a time (`careful`).
    pub(super) careful: u32,
    /// Counts steps, for what was used last.
    pub(super) steps: u64,
    /// Our clock at the last step.
    clock: u64,
}

/// What the app was promised in this run, and what it said. It outlives a failure of the database.
#[derive(Debug, Default)]
pub(super) struct Promised {
    /// Who waits for an intent to become true, by its row.
    pub(super) waiters: BTreeMap<i64, Vec<Waiter>>,
    /// Who asked to register.
    pub(super) registering: Vec<Reply<Account>>,
    /// Who asked to remove the account, and whether the relay has said that it is.
    pub(super) removing: Vec<Reply<()>>,
    pub(super) removed: bool,
    pub(super) consent: Consent,
}

/// What of that is durable: the intents, and whether there is an account or will be one.
pub(super) struct Kept {
    intents: BTreeSet<i64>,
    has_profile: bool,
}

impl Promised {
    /// Only what is durable goes on; who asked for the rest hears that it was not taken.
    pub(super) fn of(mut self, kept: &Kept) -> Self {
        self.waiters.retain(|row, _| kept.intents.contains(row));
        if !kept.has_profile {
            self.registering.clear();
        }
        self
    }
}

/// What a relay rations on its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HeldBack {
    Registration,
    Tokens,
    /// Of our own relay, or of another one.
    Directory(RelayUrl),
}

/// Who waits for an intent.
#[derive(Debug)]
pub(super) enum Waiter {
    Done(Reply<()>),
    Started(ConversationId, Reply<ConversationId>),
}

/// Whose each mailbox of a conversation is, as the database has it.
pub(super) fn places(tx: &Transaction<'_>) -> Result<BTreeMap<MailboxId, ConversationId>, Error> {
    let all = Reading::all(tx)?.into_iter();
    let of_talk = |(mailbox, reading): (MailboxId, Reading)| match reading.purpose {
        Purpose::Conversation(id) => Some((mailbox, id)),
        Purpose::PublicInbox | Purpose::PrivateInbox => None,
    };
    Ok(all.filter_map(of_talk).collect())
}

impl Live {
    /// What the database says is to be done.
    pub(super) fn begin(
        database: &mut Database,
        rng: &mut Randomness,
        now: u64,
    ) -> Result<(Self, Kept), Error> {
        let mut live = Self {
            inbox_posts_dirty: true,
            openings_dirty: true,
            links_dirty: true,
            held_dirty: true,
            ..Self::default()
        };
        let tx = database.transaction(rng)?;
        live.careful = careful::begin(&tx)?;
        let mut kept = Kept { intents: BTreeSet::new(), has_profile: Profile::load(&tx)?.is_some() };
        for (id, _) in Conversation::all(&tx)? {
            live.dirty.insert(id);
            kept.intents.extend(intents(&tx, &id)?.into_iter().map(|(row, _)| row));
        }
        live.places = places(&tx)?;
        live.routes = super::link::route::all(&tx)?;
        live.own_url = Profile::load(&tx)?.map(|profile| profile.relay_url()).transpose()?;
        live.inbox_posts_at = Some(now);
        tx.commit()?;
        Ok((live, kept))
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        let links = self.links.values().filter_map(LinkState::wake_at);
        let timers = self.timers.first().map(|(at, _)| *at);
        let held = self.held_back.values().map(|waiting| waiting.until);
        let paused = self.paused.values().copied();
        let others = [self.look_again_at, self.inbox_posts_at, timers];
        links.chain(others.into_iter().flatten()).chain(held).chain(paused).min()
    }

    /// Takes our clock. When it was put back, everything that waits goes with it: nothing waits for days
    /// because a clock was wrong.
    pub(super) fn note_clock(&mut self, now: u64) {
        let back = std::mem::replace(&mut self.clock, now).saturating_sub(now);
        if back == 0 {
            return;
        }
        let shift = |at: &mut u64| *at = at.saturating_sub(back);
        self.links.values_mut().for_each(|link| link.shift(shift));
        self.look_again_at.iter_mut().chain(&mut self.inbox_posts_at).for_each(shift);
        self.turned.values_mut().chain(self.paused.values_mut()).for_each(shift);
        self.held_back.values_mut().for_each(|waiting| shift(&mut waiting.until));
        let timers = std::mem::take(&mut self.timers);
        self.timers = timers.into_iter().map(|(at, id)| (at.saturating_sub(back), id)).collect();
        // The relay's clock was not put back.
        self.skew = self.skew.saturating_add_unsigned(back);
    }

    /// Why a relay elsewhere cannot be reached, if it cannot.
    pub(super) fn why_unreachable(&self, relay: &str) -> Option<&String> {
        self.unreachable.iter().find(|(known, _)| known.as_str() == relay).map(|(_, why)| why)
    }

    pub(super) fn all_unreachable(&self) -> Vec<Unreachable> {
        let one = |(relay, reason): (&RelayUrl, &String)| Unreachable {
            relay: relay.to_string(),
            reason: reason.clone(),
        };
        self.unreachable.iter().map(one).collect()
    }

    /// Closes what was not used for longest.
    pub(super) fn close_unused(&mut self) {
        while self.talks.len() > KEPT_OPEN {
            let oldest = self.talks.iter().min_by_key(|(_, open)| open.used).map(|(id, _)| *id);
            if oldest.and_then(|id| self.talks.remove(&id)).is_none() {
                return;
            }
        }
    }

    /// Looks at a suspended mailbox again, at this time.
    pub(super) fn look_again(&mut self, at: u64) {
        self.look_again_at = Some(self.look_again_at.map_or(at, |known| known.min(at)));
    }
}
