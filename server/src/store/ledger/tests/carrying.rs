//! Rule 18, one case each: what a removed segment leaves behind. (Random cases run in the memory engine's
//! tests.)

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{BlobId, DeviceId, KeyHash, MailboxId, PostId, Reader, ReaderId, Turn};

use crate::directory::change::DirectoryChange;
use crate::mailbox::change::MailboxChange;
use crate::store::ledger::{Change, Command, Forget, Keep, Ledger, Outcome, Passed, Rebuild, Record, RowKey};
use crate::store::{
    Advance, Append, NewAccount, NewBlob, NewInvite, NewMailbox, OpenReader, OpeningNumber, Spent, SpentOn,
    StoreError, StorePolicy,
};

const NOW: u64 = 1_700_000_000;
const MAILBOX: MailboxId = MailboxId([1; 16]);
const DEVICE: DeviceId = DeviceId([2; 16]);
/// The life of the mailbox that [`Journaled::new`] makes.
const LIFE: u64 = 4;

fn key(n: u8) -> KeyHash {
    KeyHash([n; 32])
}

fn reader(n: u8) -> Reader {
    Reader { id: ReaderId([n; 16]), key_hash: key(n) }
}

/// A ledger and its journal; places are positions in it.
struct Journaled {
    ledger: Ledger<u32>,
    journal: Vec<Record>,
}

impl Journaled {
    /// Begins with a device, and token 9 spent on the mailbox, whose readers are 1 and 2.
    fn new() -> Self {
        let mut all = Self { ledger: Ledger::new(StorePolicy::default(), [1, 2]), journal: Vec::new() };
        all.run(Command::Register(NewAccount {
            invite: None,
            handle: posthorn_proto::Handle::parse("alice").expect("well formed"),
            identity_key: [0; 32],
            device: DEVICE,
            device_key: [0; 32],
        }));
        all.run(Command::DrawTokens {
            device: DEVICE,
            purpose: TokenPurpose::CreateMailbox,
            hashes: vec![key(8), key(9)],
        });
        all.create(9);
        all
    }

    fn create(&mut self, token: u8) {
        let new = NewMailbox {
            mailbox: MAILBOX,
            token: key(token),
            post_key: key(100),
            turn_key: key(200),
            readers: vec![reader(1), reader(2)],
            expiry: 1000,
            quota: 1 << 20,
        };
        let spent = self.spend(token, SpentOn::Mailbox(MAILBOX));
        self.run(Command::Create(new, spent));
    }

    fn spend(&mut self, token: u8, on: SpentOn) -> Spent {
        match self.run(Command::Spend { token: key(token), on }) {
            Outcome::Spent(spent) => spent,
            other => panic!("not spent: {other:?}"),
        }
    }

    fn run(&mut self, command: Command) -> Outcome<u32> {
        let decision = self.ledger.decide(command, NOW).expect("the command is good");
        for record in decision.records {
            self.ledger.apply(&record, self.journal.len() as u32, &mut |_, _| ());
            self.journal.push(record);
        }
        decision.outcome
    }

    fn post(&mut self, n: u8, turn: Option<Turn>) {
        let (append, envelope) = (turn.map(|turn| (key(200), turn)), Bytes::from(vec![n; 10]));
        let post_id = PostId::at(NOW, [n; 12]);
        let fingerprint = [n; 16];
        self.run(Command::Append(Append {
            mailbox: MAILBOX,
            post_id,
            post_key: key(100),
            envelope,
            turn: append,
            fingerprint,
        }));
    }

    fn advance(&mut self, n: u8, seq: u64) {
        self.advance_by(0, n, seq);
    }

    fn advance_by(&mut self, opening: u64, n: u8, seq: u64) {
        let (reader, opening) = (ReaderId([n; 16]), OpeningNumber(opening));
        self.run(Command::Advance(Advance { mailbox: MAILBOX, reader, opening, seq }));
    }

    /// What is kept of the record at this place.
    fn keep(&self, at: usize, floor: u64) -> Keep {
        self.ledger.keep(&self.journal[at], &(at as u32), floor)
    }

    /// The place of the newest record.
    fn last(&self) -> usize {
        self.journal.len() - 1
    }
}

fn drop_it() -> Keep {
    Keep { copy: false, write: vec![] }
}

fn copy_it() -> Keep {
    Keep { copy: true, write: vec![] }
}

/// The kinds of what is written instead of a record.
fn written(keep: &Keep) -> Vec<&'static str> {
    assert!(!keep.copy);
    keep.write
        .iter()
        .map(|record| match &record.change {
            Change::Mailbox { change: MailboxChange::Snapshot(_), .. } => "snapshot",
            Change::Mailbox { change: MailboxChange::Mark { .. }, .. } => "mark",
            Change::Directory(DirectoryChange::TokenSpent { .. }) => "spent",
            Change::Directory(DirectoryChange::TokensDrawn { .. }) => "drawn",
            Change::Directory(DirectoryChange::KeyPackageMark { .. }) => "package mark",
            _ => "other",
        })
        .collect()
}

#[test]
fn a_stored_envelope_is_copied_from_its_place_only() {
    let mut all = Journaled::new();
    all.post(1, None);
    let at = all.last();
    assert_eq!(all.keep(at, 0), copy_it());
    let record = all.journal[at].clone();
    assert_eq!(all.ledger.keep(&record, &999, 0), drop_it(), "it lies elsewhere by now");
    let mut freed = Vec::new();
    all.ledger.apply(&record, 999, &mut |place, bytes| freed.push((place, bytes)));
    assert_eq!(freed, [(at as u32, 10)], "a copy frees the original");
    assert_eq!(all.ledger.keep(&record, &999, 0), copy_it());
}

#[test]
fn a_trimmed_post_leaves_a_mark_until_it_is_forgotten() {
    let mut all = Journaled::new();
    all.post(1, None);
    let at = all.last();
    all.post(2, None);
    all.advance(1, 1);
    all.advance(2, 1);
    assert_eq!(written(&all.keep(at, 0)), ["mark"]);
    let mark = all.keep(at, 0).write[0].clone();
    assert_eq!(
        (mark.version, mark.time),
        (all.journal[at].version, all.journal[at].time),
        "of the post, for its age"
    );
    assert_eq!(all.ledger.keep(&mark, &5, 0).write, std::slice::from_ref(&mark));
    let later = NOW + StorePolicy::default().post_id_seconds as u64;
    let decision = all.ledger.decide(Command::Expire, later).expect("expiry");
    decision.records.iter().for_each(|record| all.ledger.apply(record, 77, &mut |_, _| ()));
    let decision = all.ledger.decide(Command::Expire, later).expect("what is past");
    let Outcome::Expired { past, .. } = decision.outcome else { panic!("an expiry") };
    let forget =
        Command::Forget { posts: Forget::all(&past), passed: Passed { made: 7, ..Passed::default() } };
    let decision = all.ledger.decide(forget, later).expect("forgets");
    decision.records.iter().for_each(|record| all.ledger.apply(record, 78, &mut |_, _| ()));
    assert_eq!(all.keep(at, 0), drop_it(), "a later post names the head");
    let head = at + 1;
    assert_eq!(written(&all.keep(head, 0)), ["snapshot"], "nothing else names the head");
}

/// Or a start would not know what should be there, and take ids for new that are not.
#[test]
fn how_far_posts_have_left_is_carried() {
    let mut all = Journaled::new();
    all.post(1, None);
    let mut records = Vec::new();
    for (made, place) in [(7, 60), (8, 61)] {
        let passed = Passed { made, ..Passed::default() };
        let forget = Command::Forget { posts: Vec::new(), passed };
        let decision = all.ledger.decide(forget.clone(), NOW).expect("noted");
        decision.records.iter().for_each(|record| all.ledger.apply(record, place, &mut |_, _| ()));
        assert_eq!(all.ledger.passed(), passed);
        assert_eq!(all.ledger.decide(forget, NOW).expect("noted").records, [], "it says so already");
        records.extend(decision.records);
    }
    let late = Command::Forget { posts: Vec::new(), passed: Passed { made: 5, ..Passed::default() } };
    assert_eq!(all.ledger.decide(late, NOW).expect("noted").records, [], "what has left stays old");
    all.post(2, None);
    let kept = records.iter().map(|record| all.ledger.keep(record, &60, u64::MAX));
    assert_eq!(kept.collect::<Vec<_>>(), [drop_it(), copy_it()]);
    all.ledger.apply(&records[0], 62, &mut |_, _| ());
    assert_eq!(all.ledger.passed().made, 8, "a copy that comes late");
}

#[test]
fn a_turn_needs_a_snapshot_unless_a_later_one_is_in_the_journal() {
    let mut all = Journaled::new();
    let turn = Turn {
        post_key_hash: key(101),
        turn_key_hash: key(201),
        admit: vec![reader(3)],
        evict: vec![ReaderId([2; 16])],
    };
    all.post(1, Some(turn));
    let at = all.last();
    let keep = all.keep(at, 0);
    assert!(keep.copy, "its envelope");
    assert_eq!(written(&Keep { copy: false, ..keep.clone() }), ["snapshot"], "its turn");
    all.ledger.apply(&keep.write[0], 50, &mut |_, _| ());
    assert_eq!(all.keep(at, 0), copy_it(), "the snapshot says the rest");
}

#[test]
fn the_newest_cursor_is_copied_and_older_ones_are_not() {
    let mut all = Journaled::new();
    all.post(1, None);
    all.post(2, None);
    all.advance(1, 1);
    let old = all.last();
    all.advance(1, 2);
    assert_eq!(all.keep(old, 0), drop_it());
    assert_eq!(all.keep(all.last(), 0), copy_it());
}

/// The opening that owns a reader is named by the first record of it only.
#[test]
fn the_record_that_names_the_opening_is_kept_with_the_newest_cursor() {
    let mut all = Journaled::new();
    (1..=3).for_each(|n| all.post(n, None));
    all.advance_by(8, 1, 1);
    let named = all.last();
    assert_eq!(all.keep(named, 0), copy_it());
    all.advance_by(8, 1, 2);
    let keep = all.keep(named, 0);
    assert_eq!((keep.copy, keep.write.len()), (false, 1));
    let change = MailboxChange::Advanced {
        reader: ReaderId([1; 16]),
        cursor: 2,
        oldest: 1,
        opening: Some(OpeningNumber(8)),
    };
    let restated = keep.write[0].clone();
    assert_eq!(restated.change, Change::Mailbox { mailbox: MAILBOX, life: LIFE, change });
    all.advance_by(9, 1, 3);
    assert_eq!(all.keep(named, 0), drop_it(), "a later opening owns the reader");
    assert_eq!(all.ledger.keep(&restated, &9, 0), drop_it());
    let late = Advance { mailbox: MAILBOX, reader: ReaderId([1; 16]), opening: OpeningNumber(8), seq: 3 };
    assert_eq!(all.ledger.decide(Command::Advance(late), NOW), Err(StoreError::OpenedElsewhere));
}

/// While one reader is away, expiry cuts again and again. These records must not pile up.
#[test]
fn of_many_cuts_one_is_kept() {
    let mut all = Journaled::new();
    (1..=3).for_each(|n| all.post(n, None));
    let cut = |oldest, forgotten, version| Record {
        version,
        time: NOW as u32,
        change: Change::Mailbox {
            mailbox: MAILBOX,
            life: LIFE,
            change: MailboxChange::Cut { oldest, forgotten },
        },
    };
    let cuts = [cut(2, 0, 11), cut(3, 0, 12), cut(3, 1, 13)];
    let keep = |all: &Journaled, n: usize| all.ledger.keep(&cuts[n], &0, 0);
    for record in &cuts[..2] {
        all.ledger.apply(record, 0, &mut |_, _| ());
    }
    assert_eq!(keep(&all, 1), copy_it());
    assert_eq!(written(&keep(&all, 0)), ["snapshot"]);
    all.ledger.apply(&cuts[2], 0, &mut |_, _| ());
    assert_eq!([keep(&all, 0), keep(&all, 1), keep(&all, 2)], [drop_it(), drop_it(), copy_it()]);
    all.ledger.apply(&all.ledger.keep(&all.journal[3], &3, 0).write[0].clone(), 0, &mut |_, _| ());
    assert_eq!(keep(&all, 2), drop_it(), "the snapshot says it");
}

#[test]
fn tombstones_stay_while_an_older_segment_may_hold_their_victim() {
    let mut all = Journaled::new();
    let created = all.last();
    all.post(1, None);
    let posted = all.last();
    all.run(Command::Destroy { mailbox: MAILBOX, turn_key: key(200) });
    let removed = all.last();
    let version = all.journal[removed].version;
    all.run(Command::MintInvite(NewInvite { hash: key(1), uses: 1, expires: NOW + 1 }));
    assert_eq!(all.keep(posted, 0), drop_it());
    assert_eq!(all.keep(removed, version - 1), copy_it());
    assert_eq!(all.keep(removed, version), drop_it());
    assert_eq!(written(&all.keep(created, 0)), ["spent"], "the draw of its token may still stand somewhere");
    assert_eq!(all.keep(created, version), drop_it());
    assert_eq!(all.keep(created - 1, 0), drop_it(), "what it paid for says that it is spent");
    let drawn = created - 2;
    assert_eq!(written(&all.keep(drawn, 0)), ["drawn"]);
    assert_eq!(
        all.keep(drawn, 0).write[0].change,
        Change::Directory(DirectoryChange::TokensDrawn { day: (NOW / 86_400) as u32, hashes: vec![key(8)] }),
        "only what is not spent"
    );
}

#[test]
fn the_last_opening_is_copied() {
    let mut all = Journaled::new();
    let opened = |day, version| Record {
        version,
        time: NOW as u32,
        change: Change::Mailbox { mailbox: MAILBOX, life: LIFE, change: MailboxChange::Opened { day } },
    };
    let today = (NOW / 86_400) as u32;
    let records = [opened(today + 1, 10), opened(today + 2, 11)];
    records.iter().for_each(|record| all.ledger.apply(record, 0, &mut |_, _| ()));
    assert_eq!(all.ledger.keep(&records[0], &0, 0), drop_it());
    assert_eq!(all.ledger.keep(&records[1], &0, 0), copy_it());
}

/// The newest record stays, whatever it says, so that no version is given out twice.
#[test]
fn versions_are_never_given_out_twice() {
    let mut all = Journaled::new();
    all.run(Command::Destroy { mailbox: MAILBOX, turn_key: key(200) });
    assert_eq!(all.keep(all.last(), u64::MAX), copy_it());
}

/// A copy of the creation behind what happened since would come too late: the whole state is written instead.
#[test]
fn a_mailbox_with_a_history_is_stated_anew() {
    let mut all = Journaled::new();
    let created = all.last();
    assert_eq!(all.keep(created, 0), copy_it());
    let claim = OpenReader { mailbox: MAILBOX, reader: ReaderId([1; 16]), key: key(77), claim: Some(key(1)) };
    all.run(Command::Open(claim));
    assert_eq!(written(&all.keep(created, 0)), ["snapshot", "spent"]);
    assert_eq!(written(&all.keep(all.last(), 0)), ["snapshot"]);
}

/// A removed mailbox must not come back when its records are replayed in whatever order compaction left.
#[test]
fn copies_of_an_old_life_do_not_reach_a_new_one() {
    let mut all = Journaled::new();
    all.post(1, None);
    all.run(Command::Destroy { mailbox: MAILBOX, turn_key: key(200) });
    let old: Vec<Record> = all.journal.clone();
    all.create(8);
    all.post(2, None);
    let new: Vec<Record> = all.journal[old.len()..].to_vec();
    let mut rebuild = Rebuild::new(StorePolicy::default(), [3, 4]);
    let tombstone = old.last().expect("the removal");
    for (at, record) in new.iter().rev().chain([tombstone]).chain(&old[..old.len() - 1]).enumerate() {
        rebuild.apply(record, at as u32);
    }
    let (ledger, missing) = rebuild.finish();
    assert_eq!(missing, []);
    let all = crate::store::ReadRange { from: 0, to: 9, bytes: 999 };
    let held = ledger.read(&MAILBOX, all).expect("it exists");
    assert_eq!(
        held.iter().map(|held| (held.seq, held.post_id)).collect::<Vec<_>>(),
        [(1, PostId::at(NOW, [2; 12]))]
    );
    assert_eq!(ledger.stats().posts, 1);
}

/// A post that the journal lost is reported as damaged; what stands before and behind it is served.
#[test]
fn a_lost_post_is_told() {
    let mut all = Journaled::new();
    (1..=3).for_each(|n| all.post(n, None));
    let lost = all.journal.len() - 2;
    let mut rebuild = Rebuild::new(StorePolicy::default(), [3, 4]);
    for (at, record) in all.journal.iter().enumerate().filter(|(at, _)| *at != lost) {
        rebuild.apply(record, at as u32);
    }
    let (ledger, missing) = rebuild.finish();
    assert_eq!(missing.iter().map(|missing| missing.seq).collect::<Vec<_>>(), [2]);
    let read = |from| {
        let held = ledger.read(&MAILBOX, crate::store::ReadRange { from, to: 9, bytes: 999 });
        held.map(|held| held.iter().map(|held| held.seq).collect::<Vec<_>>())
    };
    assert_eq!(read(1), Ok(vec![1]));
    assert_eq!(read(2), Err(crate::store::StoreError::Damaged));
    assert_eq!(read(3), Ok(vec![3]));
}

/// A row in which some but not all posts were forgotten goes with its mailbox; otherwise it would stay in the
/// index for ever.
#[test]
fn a_removed_mailbox_leaves_no_rows() {
    let mut all = Journaled::new();
    (1..=2).for_each(|n| all.post(n, None));
    all.ledger.track();
    let about = |change, version| Record {
        version,
        time: NOW as u32,
        change: Change::Mailbox { mailbox: MAILBOX, life: LIFE, change },
    };
    all.ledger.apply(&about(MailboxChange::Cut { oldest: 3, forgotten: 2 }, 11), 0, &mut |_, _| ());
    all.ledger.take_dirty();
    all.ledger.apply(&about(MailboxChange::Removed, 12), 0, &mut |_, _| ());
    assert!(all.ledger.take_dirty().get(&RowKey::Chunk(MAILBOX, 0)).is_some());
}

/// Which rows were noted last the mailbox says itself, and that must not outlast a checkpoint.
#[test]
fn what_changes_is_noted_for_each_checkpoint_anew() {
    let mut all = Journaled::new();
    all.ledger.track();
    let noted = |all: &mut Journaled| {
        let rows = all.ledger.take_dirty();
        let of = [RowKey::Mailbox(MAILBOX), RowKey::Chunk(MAILBOX, 0), RowKey::Chunk(MAILBOX, 1)];
        of.map(|row| rows.get(&row).is_some())
    };
    assert_eq!(noted(&mut all), [false; 3]);
    (1..=2).for_each(|n| all.post(n, None));
    assert_eq!(noted(&mut all), [true, true, false]);
    all.advance_by(1, 1, 1);
    assert_eq!(noted(&mut all), [true, false, false]);
    all.post(3, None);
    assert_eq!(noted(&mut all), [true, true, false]);
    (4..=64).for_each(|n| all.post(n, None));
    assert_eq!(noted(&mut all), [true; 3]);
    assert_eq!(noted(&mut all), [false; 3]);
    // Copies of posts, in any order.
    let posts: Vec<Record> = all.journal.iter().filter(|record| record.stored().is_some()).cloned().collect();
    for at in [0, 63, 1] {
        all.ledger.apply(&posts[at], 1000 + at as u32, &mut |_, _| ());
    }
    assert_eq!(noted(&mut all), [true; 3]);
}

/// Posts whose mailbox the journal no longer mentions are reported as missing, too.
#[test]
fn posts_of_a_lost_mailbox_are_told() {
    let mut all = Journaled::new();
    (1..=3).for_each(|n| all.post(n, None));
    let mut rebuild = Rebuild::new(StorePolicy::default(), [3, 4]);
    let created = |record: &Record| matches!(record.change, Change::Created { .. });
    for (at, record) in all.journal.iter().enumerate().filter(|(_, record)| !created(record)) {
        rebuild.apply(record, at as u32);
    }
    let (ledger, missing) = rebuild.finish();
    assert_eq!(ledger.stats().mailboxes, 0);
    assert_eq!(missing.iter().map(|missing| missing.seq).collect::<Vec<_>>(), [1, 2, 3]);
}

/// Accounts and their removals stay for good, so copies of them must not add up (finding M4), and the invite
/// that a removed account used stays used.
#[test]
fn one_copy_of_an_account_and_of_its_removal_is_kept() {
    let mut all = Journaled::new();
    let mint = |uses| Command::MintInvite(NewInvite { hash: key(50), uses, expires: NOW + 1000 });
    all.run(mint(2));
    let bob = posthorn_proto::Handle::parse("bob").expect("well formed");
    let account = NewAccount {
        invite: Some(key(50)),
        handle: bob.clone(),
        identity_key: [1; 32],
        device: DeviceId([77; 16]),
        device_key: [1; 32],
    };
    all.run(Command::Register(account.clone()));
    let at = all.journal.len() - 1;
    let copy = |all: &mut Journaled, at: usize| {
        let record = all.journal[at].clone();
        all.ledger.apply(&record, all.journal.len() as u32, &mut |_, _| ());
        all.journal.push(record);
    };
    assert_eq!(all.keep(at, 0), Keep { copy: true, write: vec![] });
    copy(&mut all, at);
    assert_eq!(all.keep(at, 0), drop_it(), "its copy is further on");
    assert_eq!(all.keep(all.journal.len() - 1, 0), Keep { copy: true, write: vec![] });
    all.run(Command::RemoveAccount(bob));
    let removed = all.journal.len() - 1;
    assert_eq!(all.keep(removed, u64::MAX), Keep { copy: true, write: vec![] }, "for good");
    copy(&mut all, removed);
    assert_eq!(all.keep(removed, u64::MAX), drop_it());
    let left = all.keep(at, 0).write;
    assert!(
        matches!(
            &left[..],
            [Record { change: Change::Directory(DirectoryChange::InviteMinted { uses: 1, .. }), .. }]
        ),
        "{left:?}"
    );
    all.run(mint(0));
    assert_eq!(all.keep(at, u64::MAX), drop_it(), "nothing older is left that it could bury");
}

/// The removal of an account may have been carried behind the registration of another with its name, while
/// the first one's registration is still there.
#[test]
fn the_later_account_of_a_name_stays_in_whatever_order_the_journal_says_it() {
    let mut all = Journaled::new();
    let bob = posthorn_proto::Handle::parse("bob").expect("well formed");
    let account = |n: u8| NewAccount {
        invite: None,
        handle: bob.clone(),
        identity_key: [n; 32],
        device: DeviceId([n; 16]),
        device_key: [n; 32],
    };
    let first = all.journal.len();
    all.run(Command::Register(account(7)));
    all.run(Command::PublishCard { device: DeviceId([7; 16]), version: 5, card: Bytes::from_static(b"old") });
    all.run(Command::RemoveAccount(bob.clone()));
    all.run(Command::Register(account(8)));
    all.run(Command::PublishCard { device: DeviceId([8; 16]), version: 1, card: Bytes::from_static(b"new") });
    let removed = first + 2;
    let in_order: Vec<usize> = (0..all.journal.len()).collect();
    let mut carried: Vec<usize> = in_order.iter().copied().filter(|at| *at != removed).collect();
    carried.push(removed);
    for order in [in_order, carried] {
        let mut rebuild = Rebuild::new(StorePolicy::default(), [1, 2]);
        for (place, at) in (0..).zip(order) {
            rebuild.apply(&all.journal[at], place);
        }
        let (ledger, _) = rebuild.finish();
        assert_eq!(ledger.device(&DeviceId([8; 16])).map(|found| found.handle), Ok(bob.clone()));
        assert_eq!(ledger.device(&DeviceId([7; 16])).map(drop), Err(StoreError::DeviceUnknown));
        assert_eq!(ledger.card(&bob).map(|card| (card.identity_key, card.version)), Ok(([8; 32], 1)));
    }
}

/// A blob stays by one record, whichever was the last, and its token stays spent for as long as its drawing
/// may still be read.
#[test]
fn one_record_of_a_blob_is_kept() {
    let mut all = Journaled::new();
    all.run(Command::DrawTokens { device: DEVICE, purpose: TokenPurpose::UploadBlob, hashes: vec![key(30)] });
    let (blob, holder) = (BlobId([5; 16]), key(31));
    let spent = all.spend(30, SpentOn::Blob(blob));
    let created = all.journal.len();
    all.run(Command::CreateBlob(NewBlob { blob, token: key(30), holder, length: 7, seconds: 100 }, spent));
    assert_eq!(all.keep(created, u64::MAX), Keep { copy: true, write: vec![] });
    all.run(Command::ExtendBlob { blob, holder, seconds: 200 });
    let spent = |keep: Keep| {
        let is_tombstone = |record: &Record| matches!(&record.change, Change::Directory(DirectoryChange::UploadTokenSpent { token }) if *token == key(30));
        !keep.copy && keep.write.iter().all(is_tombstone) && keep.write.len() == 1
    };
    assert!(spent(all.keep(created, 0)), "the extension says how it is");
    assert_eq!(all.keep(created, u64::MAX), drop_it());
    assert_eq!(all.keep(created + 1, u64::MAX), Keep { copy: true, write: vec![] });
    let copied = all.journal[created + 1].clone();
    all.ledger.apply(&copied, all.journal.len() as u32, &mut |_, _| ());
    all.journal.push(copied);
    assert_eq!(all.keep(created + 1, u64::MAX), drop_it(), "its copy is further on");
    let removed = all.journal.len();
    all.run(Command::DeleteBlob { blob, holder });
    all.run(Command::ConfirmClock);
    assert_eq!(all.keep(removed - 1, 0), drop_it());
    assert_eq!(all.keep(removed, 0), Keep { copy: true, write: vec![] }, "it buries what is older");
    assert_eq!(all.keep(removed, u64::MAX), drop_it());
    let mut rebuild = Rebuild::new(StorePolicy::default(), [1, 2]);
    for (place, record) in (0..).zip(&all.journal) {
        rebuild.apply(record, place);
    }
    assert_eq!(rebuild.finish().0.blob(&blob), Err(StoreError::BlobUnknown));
}

/// Whether a token is spent on something stands in one record, the newest that says how the token is.
#[test]
fn one_record_says_what_a_token_is_spent_on() {
    let mut all = Journaled::new();
    let (on, drawn) = (SpentOn::Mailbox(MailboxId([7; 16])), 1);
    let spent = all.spend(8, on);
    let spending = all.last();
    assert_eq!(all.keep(spending, u64::MAX), copy_it(), "it stays for as long as it is so");
    assert_eq!(all.keep(drawn, 0), drop_it(), "none of these can be spent any more");
    all.run(Command::GiveBack(spent));
    let returned = all.last();
    all.run(Command::ConfirmClock);
    assert_eq!(all.keep(spending, 0), drop_it());
    assert_eq!(written(&all.keep(returned, u64::MAX)), ["drawn"]);
    let second = all.spend(8, on);
    assert_ne!(second, spent);
    // Whatever was copied when, and is read before or behind the rest: the newest record counts.
    for order in [[drawn, spending, returned], [returned, spending, drawn], [spending, drawn, returned]] {
        let mut rebuild = Rebuild::new(StorePolicy::default(), [3, 4]);
        for at in order {
            rebuild.apply(&all.journal[at], at as u32);
        }
        rebuild.apply(&all.journal[all.last()], 0);
        for at in order {
            rebuild.apply(&all.journal[at], at as u32);
        }
        let ledger = rebuild.finish().0;
        let again = ledger.decide(Command::Spend { token: key(8), on }, NOW).expect("it is spent on this");
        assert_eq!((again.outcome, again.records), (Outcome::Spent(second), vec![]));
        let other = SpentOn::Mailbox(MailboxId([6; 16]));
        let refused = ledger.decide(Command::Spend { token: key(8), on: other }, NOW);
        assert_eq!(refused.map(drop), Err(StoreError::TokenUnknown));
    }
}
