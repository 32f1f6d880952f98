//! One suite that every engine passes: each sentence of the [`Store`] trait's documentation, as tests over a
//! [`Fixture`], and a model against which random operations run ([`model`]).
//!
//! An engine joins by `conformance!(MyEngine::new())` in a test module, where the expression makes a fresh
//! [`Engine`]. The tests read no clock and wait for nothing but the store.

pub(crate) mod accounts;
pub(crate) mod blobs;
pub(crate) mod clocks;
pub(crate) mod expiry;
pub(crate) mod key_packages;
pub(crate) mod lifecycle;
pub(crate) mod model;
pub(crate) mod names;
pub(crate) mod operations;
pub(crate) mod posts;
pub(crate) mod quotas;
pub(crate) mod readers;
mod reproductions;
pub(crate) mod tokens;
pub(crate) mod turns;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_proto::{MailboxId, ReaderId};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::memory::MemoryStore;
use super::paying::{create_blob, create_mailbox};
use super::{
    BlobView, Clock, NewBlob, NewInvite, NewMailbox, Published, ReadRange, Standing, Store, StoreError,
    StorePolicy, Stored, Unheard,
};
use names::{CREATE, account, expect, handle_of, invite, mailbox, post_key, reader, token, turn_key};

/// When every test begins, unix seconds: at noon, so that small steps stay within one day.
pub(crate) const START: u64 = 20_000 * 86_400 + 43_200;

/// A clock that only tests move.
#[derive(Debug)]
pub(crate) struct ManualClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl ManualClock {
    fn new() -> Self {
        Self { wall: AtomicU64::new(START), steady: AtomicU64::new(1000) }
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, seconds: u64) {
        self.wall.fetch_add(seconds, Ordering::SeqCst);
        self.steady.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Sets the wall clock, without time passing.
    pub(crate) fn jump(&self, seconds: i64) {
        let wall = self.wall.load(Ordering::SeqCst).saturating_add_signed(seconds);
        self.wall.store(wall, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_seconds(&self) -> u64 {
        self.wall.load(Ordering::SeqCst)
    }

    fn monotonic_seconds(&self) -> u64 {
        self.steady.load(Ordering::SeqCst)
    }
}

/// What a store told its live side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// This envelope became durable.
    Appended(MailboxId, Stored),
    /// A mailbox is gone.
    Destroyed(MailboxId),
    /// Somebody said this to whoever has the mailbox open.
    Signalled(MailboxId, Bytes),
}

/// Remembers what a store told its live side.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    /// The events since the last call.
    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Published for Recorder {
    fn appended(&self, mailbox: &MailboxId, stored: &Stored) {
        self.0.lock().push(Event::Appended(*mailbox, stored.clone()));
    }

    fn destroyed(&self, mailbox: &MailboxId) {
        self.0.lock().push(Event::Destroyed(*mailbox));
    }

    fn signalled(&self, mailbox: &MailboxId, payload: &Bytes) -> usize {
        self.0.lock().push(Event::Signalled(*mailbox, payload.clone()));
        7
    }

    fn resynced(&self, _: &dyn Fn(&MailboxId, &ReaderId) -> Result<Standing, StoreError>) {
        unreachable!("no engine of one process falls behind");
    }
}

/// What a store is opened with, the same before and after a restart.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) policy: StorePolicy,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) heard: Arc<Recorder>,
}

impl Setup {
    /// At the beginning, with nobody who has heard anything.
    pub(crate) fn new(policy: StorePolicy) -> Self {
        Self { policy, clock: Arc::new(ManualClock::new()), heard: Arc::new(Recorder::default()) }
    }
}

/// A store being opened.
pub(crate) type Opening<'a> = Pin<Box<dyn Future<Output = Arc<dyn Store>> + 'a>>;

/// An engine under test.
pub(crate) trait Engine {
    /// Opens the engine's store, which is empty at first. Each later call first ends the store (by `close` or
    /// as a power cut would, whichever the engine wants tested) and opens it again on what is durable.
    fn open<'a>(&'a mut self, setup: &'a Setup) -> Opening<'a>;
}

/// A store with its surroundings.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) heard: Arc<Recorder>,
    engine: Box<dyn Engine>,
    setup: Setup,
}

/// Small bounds, so that tests reach them.
pub(crate) fn small_policy() -> StorePolicy {
    StorePolicy {
        total_bytes: 64 << 20,
        mailboxes: 8,
        readers: 64,
        accounts: 4,
        readers_per_mailbox: 4,
        post_id_seconds: 40_000,
        fresh_seconds: 10_000,
        unopened_seconds: 30 * 86_400,
        key_packages_per_device: 3,
        tokens_per_device: 20,
        upload_tokens_per_device: 10,
        tokens: 40,
        blobs: 4,
        blob_bytes: 10_000,
        late_seconds: 0,
    }
}

/// Expiry of the mailboxes that [`Fixture::mailbox`] makes, in seconds.
pub(crate) const EXPIRY: u32 = 5_000;
/// Quota of these mailboxes, in bytes; half of it is the reserve.
pub(crate) const QUOTA: u64 = 100_000;

impl Fixture {
    /// An empty store with [`small_policy`].
    pub(crate) async fn new(engine: impl Engine + 'static) -> Self {
        Self::with(engine, small_policy()).await
    }

    /// An empty store.
    pub(crate) async fn with(engine: impl Engine + 'static, policy: StorePolicy) -> Self {
        Self::boxed(Box::new(engine), policy).await
    }

    /// An empty store of an engine that is only known at run time.
    pub(crate) async fn boxed(mut engine: Box<dyn Engine>, policy: StorePolicy) -> Self {
        let setup = Setup::new(policy);
        let (clock, heard) = (setup.clock.clone(), setup.heard.clone());
        let store = engine.open(&setup).await;
        Self { store, clock, heard, engine, setup }
    }

    /// Ends the store and opens it again on what is durable.
    pub(crate) async fn restart(&mut self) {
        // Stands in, so that nobody holds the former one while it is opened again.
        let mut rng = StdRng::seed_from_u64(0);
        let policy = self.setup.policy;
        self.store = Arc::new(MemoryStore::new(policy, self.clock.clone(), Arc::new(Unheard), &mut rng));
        self.store = self.engine.open(&self.setup).await;
    }

    /// The bounds, from the next restart on.
    pub(crate) fn policy(&self) -> StorePolicy {
        self.setup.policy
    }

    /// Changes the bounds, from the next restart on.
    pub(crate) fn set_policy(&mut self, policy: StorePolicy) {
        self.setup.policy = policy;
    }

    /// Account 1 with its device, and tokens 1 to `count`.
    pub(crate) async fn tokens(&self, count: u8) {
        expect(self.store.mint_invite(NewInvite { hash: invite(0), uses: 9, expires: START * 2 }).await);
        let account = super::NewAccount { invite: Some(invite(0)), ..account(1) };
        expect(self.store.register(account.clone()).await);
        let hashes = (1..=count).map(token).collect();
        assert_eq!(self.store.draw_tokens(account.device, CREATE, hashes).await, Ok(u32::from(count)));
        assert_eq!(handle_of(1), account.handle);
    }

    /// Mailbox `n`, paid with token `n`, with these readers; its keys are of generation 0.
    pub(crate) async fn mailbox(&self, n: u8, readers: &[u8]) -> MailboxId {
        if n == 1 {
            self.tokens(8).await;
        }
        expect(self.create(new_mailbox(n, readers)).await);
        mailbox(n)
    }

    /// Spends the token and creates the mailbox.
    pub(crate) async fn create(&self, new: NewMailbox) -> Result<(), StoreError> {
        create_mailbox(&*self.store, &*self.store, new).await
    }

    /// Spends the upload token and creates the blob.
    pub(crate) async fn create_blob(&self, new: NewBlob) -> Result<BlobView, StoreError> {
        create_blob(&*self.store, &*self.store, new).await
    }

    /// What reader `n` finds: head, oldest, its cursor, and how far it may read if it was evicted.
    pub(crate) async fn view(
        &self,
        mailbox: MailboxId,
        n: u8,
    ) -> Result<(u64, u64, u64, Option<u64>), StoreError> {
        let view = self.store.open(names::open(mailbox, n)).await?;
        Ok((view.head, view.oldest, view.cursor, view.until))
    }

    /// The same append with an id that is made now.
    pub(crate) fn now(&self, append: super::Append) -> super::Append {
        names::at(append, self.clock.unix_seconds())
    }

    /// The seqs that can be read.
    pub(crate) async fn stored(&self, mailbox: MailboxId) -> Vec<u64> {
        let all = ReadRange { from: 0, to: u64::MAX, bytes: usize::MAX };
        expect(self.store.read(mailbox, all).await).into_iter().map(|stored| stored.seq).collect()
    }
}

/// Mailbox `n` as [`Fixture::mailbox`] makes it.
pub(crate) fn new_mailbox(n: u8, readers: &[u8]) -> NewMailbox {
    NewMailbox {
        mailbox: mailbox(n),
        token: token(n),
        post_key: post_key(0),
        turn_key: turn_key(0),
        readers: readers.iter().map(|n| reader(*n)).collect(),
        expiry: EXPIRY,
        quota: QUOTA,
    }
}

/// Makes the tests of all engines: `conformance!(engine)`.
macro_rules! conformance {
    ($engine:expr) => {
        $crate::store::conformance::conformance! { @each $engine;
            posts { seqs_have_no_holes a_repeat_gets_its_old_seq an_id_stands_for_one_post
                new_ids_are_of_now ids_are_remembered_long_enough old_ids_stand_for_one_post
                another_age_of_new_ids_forgets_nothing
                ids_are_of_one_life what_is_stored_is_recognised_for_ever a_step_back_forgets_nothing
                a_step_back_keeps_nothing_in_memory ids_of_a_clock_that_was_ahead_are_not_new_twice
                a_flood_is_forgotten_and_recognised
                events_come_in_order ids_are_per_mailbox many_posts_are_found
                concurrent_posts_get_seqs_of_their_own no_answer_is_older_than_one_before_it }
            turns { both_keys_are_checked a_turn_replaces_the_keys of_two_turns_one_wins a_refused_turn_changes_nothing
                bad_turns_are_refused the_admitted_begin_behind_the_turn the_evicted_read_up_to_the_turn
                the_evicted_hold_nothing_back the_evicted_go_when_nothing_is_left the_evicted_may_come_back
                the_newest_evicted_are_kept readers_are_limited turns_are_delivered }
            readers { opening_tells_the_state keys_are_checked a_claim_replaces_the_key a_cursor_never_moves_back the_former_opening_moves_nothing
                what_all_passed_is_trimmed without_readers_nothing_is_trimmed ranges_are_kept signals_need_the_post_key }
            quotas { a_post_costs_envelope_and_memory the_reserve_is_for_turns a_full_mailbox_evicts_who_fills_it
                turns_cost_too bytes_are_bounded cards_and_key_packages_are_bounded
                mailboxes_are_bounded readers_are_bounded
                accounts_are_bounded stats_count }
            expiry { envelopes_expire only_prefixes_expire the_late_hold_nothing_back unopened_mailboxes_go
                opening_keeps_a_mailbox invites_expire tokens_expire many_mailboxes_expire }
            clocks { a_jump_stops_expiry a_jump_back_stops_expiry
                a_clock_that_is_set_right_after_a_start_is_believed a_long_sleep_stops_expiry stamps_ignore_the_jump
                a_confirmed_clock_stays_confirmed }
            accounts { an_invite_makes_accounts registering_again_is_harmless names_are_taken_once invites_can_be_revoked
                devices_are_found a_removed_account_is_gone cards_are_versioned }
            key_packages { one_time_packages_are_given_once the_last_resort_is_copied the_oldest_make_room
                a_repeated_publication_adds_nothing the_newest_that_are_gone_are_remembered
                concurrent_takers_get_different_ones strangers_have_none }
            blobs { an_upload_token_pays_once creating_a_blob_again_is_harmless blobs_are_bounded leases_are_extended
                a_blob_goes_with_its_lease only_its_holder_changes_a_blob a_name_may_be_used_again
                upload_tokens_are_drawn_for_themselves }
            tokens { a_token_pays_once creating_again_is_harmless a_different_mailbox_is_refused draws_are_limited
                draws_may_be_repeated a_clock_that_was_ahead_leaves_tokens_to_draw
                a_spent_token_is_for_one_name a_spent_token_is_given_back a_spent_token_ends_as_others_do
                whoever_was_cut_off_goes_on }
            lifecycle { destroying_needs_the_turn_key a_new_life_knows_nothing_of_the_old the_incarnation_stays
                a_renewed_store_is_another
                a_closed_store_says_so first_readers_are_checked }
        }

        #[test]
        fn random_operations_agree_with_the_model() {
            $crate::store::conformance::operations::random(|| Box::new($engine));
        }

        #[test]
        fn found_reproductions_agree_with_the_model() {
            $crate::store::conformance::operations::reproductions(|| Box::new($engine));
        }
    };
    (@each $engine:expr; $($area:ident { $($test:ident)* })*) => {
        $(mod $area {
            #[allow(unused_imports, reason = "the engine's expression names what it needs")]
            use super::*;
            $(#[tokio::test]
            async fn $test() {
                $crate::store::conformance::$area::$test($crate::store::conformance::Fixture::new($engine).await).await;
            })*
        })*
    };
}
pub(crate) use conformance;
