//! Nobody holds the ledger for long, however much is stored: what each kind of command touches while it is
//! decided and applied is counted, in ledgers where much could be touched, and is bounded.

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{DeviceId, Handle, KeyHash, MailboxId, PostId, Reader, ReaderId, Turn};

use crate::directory::change::DirectoryChange;
use crate::mailbox::retention::CUT_AT_ONCE;
use crate::store::effort::taken;
use crate::store::ledger::{Change, Command, Forget, Ledger, Listing, Outcome, Record, RowKey, Rows};
use crate::store::{
    Advance, Append, NewAccount, NewMailbox, OpenReader, OpeningNumber, SpentOn, StorePolicy,
};

const NOW: u64 = 1_700_000_000;
const EXPIRY: u32 = 1000;
const DAY: u64 = 86_400;
const MAILBOX: MailboxId = MailboxId([1; 16]);
const DEVICE: DeviceId = DeviceId([2; 16]);
/// Much more than what may be touched at once.
const MANY: u64 = 100_000;
/// The most that may be touched at once: for each entry that goes, looking at it, taking it out of the log
/// and out of the index. (Of a mailbox's readers, at most 4,096, all may be looked at.)
const BOUND: usize = 5 * CUT_AT_ONCE as usize;

fn key(n: u8) -> KeyHash {
    KeyHash([n; 32])
}

fn name(n: u64) -> [u8; 16] {
    std::array::from_fn(|at| (n >> (at % 8 * 8)) as u8)
}

fn reader(n: u64) -> Reader {
    Reader { id: ReaderId(name(n)), key_hash: key(3) }
}

/// A ledger, what its holds have touched at most, and what was freed.
struct Held {
    ledger: Ledger<u64>,
    now: u64,
    most: usize,
    freed: u64,
}

impl Held {
    /// With a mailbox that has these readers, and that nobody has posted to yet.
    fn new(readers: u64) -> Self {
        let policy = StorePolicy {
            total_bytes: 1 << 40,
            fresh_seconds: EXPIRY,
            tokens_per_device: 1 << 20,
            ..StorePolicy::default()
        };
        let mut ledger = Ledger::new(policy, [1, 2]);
        ledger.track();
        let mut held = Self { ledger, now: NOW, most: 0, freed: 0 };
        held.run(Command::Register(NewAccount {
            invite: None,
            handle: Handle::parse("alice").expect("well formed"),
            identity_key: [0; 32],
            device: DEVICE,
            device_key: [0; 32],
        }));
        held.run(Command::DrawTokens {
            device: DEVICE,
            purpose: TokenPurpose::CreateMailbox,
            hashes: vec![key(9)],
        });
        let spend = Command::Spend { token: key(9), on: SpentOn::Mailbox(MAILBOX) };
        let Outcome::Spent(spent) = held.run(spend) else { panic!("it is drawn") };
        let new = NewMailbox {
            mailbox: MAILBOX,
            token: key(9),
            post_key: key(100),
            turn_key: key(200),
            readers: (0..readers).map(reader).collect(),
            expiry: EXPIRY,
            quota: 1 << 36,
        };
        held.run(Command::Create(new, spent));
        held
    }

    fn full(readers: u64) -> Self {
        let mut held = Self::new(readers);
        (0..MANY).for_each(|n| held.post(n, None));
        held
    }

    /// One hold of the lock.
    fn hold<T>(&mut self, step: impl FnOnce(&mut Ledger<u64>, &mut u64) -> T) -> T {
        taken();
        let result = step(&mut self.ledger, &mut self.freed);
        self.most = self.most.max(taken());
        result
    }

    fn run(&mut self, command: Command) -> Outcome<u64> {
        let now = self.now;
        let kind = format!("{command:?}").chars().take(10).collect::<String>();
        let decision = self.hold(|ledger, _| ledger.decide(command, now)).expect("the command is good");
        self.hold(|ledger, freed| {
            for record in &decision.records {
                ledger.apply(record, record.version, &mut |_, _| *freed += 1);
            }
            ledger.carried_out(&decision.unrecorded);
        });
        self.clear(1);
        assert!(self.most <= BOUND, "{} entries were touched at once by {kind}", self.most);
        decision.outcome
    }

    /// Takes a few steps of clearing up. Returns whether there is more.
    fn clear(&mut self, steps: usize) -> bool {
        (0..steps).all(|_| self.hold(|ledger, freed| ledger.clear(&mut |_, _| *freed += 1)))
    }

    fn post(&mut self, n: u64, turn: Option<Turn>) {
        self.post_to(MAILBOX, n, turn);
    }

    fn post_to(&mut self, mailbox: MailboxId, n: u64, turn: Option<Turn>) {
        self.run(Command::Append(Append {
            mailbox,
            post_id: PostId::at(self.now, std::array::from_fn(|at| name(n)[at])),
            post_key: key(100),
            envelope: Bytes::from_static(&[7; 10]),
            turn: turn.map(|turn| (key(200), turn)),
            fingerprint: [1; 16],
        }));
    }

    /// Another mailbox.
    fn create(&mut self, n: u64) {
        let version = self.ledger.version() + 1;
        let change = Change::Created {
            mailbox: MailboxId(name(n)),
            token: key(9),
            post_key: key(100),
            turn_key: key(200),
            readers: vec![reader(1)],
            expiry: EXPIRY,
            quota: 1 << 20,
        };
        self.hold(|ledger, _| {
            ledger.apply(&Record { version, time: NOW as u32, change }, 0, &mut |_, _| ());
        });
    }

    fn advance(&mut self, n: u64, seq: u64) {
        let (reader, opening) = (ReaderId(name(n)), OpeningNumber(1));
        self.run(Command::Advance(Advance { mailbox: MAILBOX, reader, opening, seq }));
    }

    /// Expires until there is no more, and forgets what may be forgotten. Returns how many expiries that
    /// took.
    fn expire(&mut self) -> u64 {
        for commands in 1.. {
            let Outcome::Expired { more, past } = self.run(Command::Expire) else { panic!("an expiry") };
            if !past.is_empty() {
                assert!(past.len() as u64 <= CUT_AT_ONCE);
                self.run(Command::Forget { posts: Forget::all(&past), passed: Default::default() });
            } else if !more {
                return commands;
            }
        }
        unreachable!("it ends")
    }

    fn stored(&self) -> (u64, u64) {
        let stats = self.ledger.stats();
        (stats.envelopes, stats.posts)
    }
}

#[test]
fn posting_to_a_large_mailbox_and_opening_it() {
    let mut held = Held::full(1);
    assert_eq!(held.stored(), (MANY, MANY));
    // No table is moved as a whole when it grows, and no list.
    assert!(held.most < BOUND / 2, "{}", held.most);
    held.run(Command::Open(OpenReader {
        mailbox: MAILBOX,
        reader: ReaderId(name(0)),
        key: key(3),
        claim: None,
    }));
}

#[test]
fn acknowledging_very_much() {
    let mut held = Held::full(2);
    held.advance(0, MANY);
    assert_eq!(held.stored(), (MANY, MANY), "the other reader may still come");
    held.advance(1, MANY);
    assert_eq!(held.stored(), (MANY - CUT_AT_ONCE, MANY), "a part goes with the acknowledgement");
    let commands = held.expire();
    assert_eq!((held.stored(), held.freed), ((0, MANY), MANY), "and the rest at once behind it");
    assert!((40..100).contains(&commands), "{commands}");
    assert_eq!(held.expire(), 1, "then there is nothing to do");
}

#[test]
fn many_readers() {
    let mut held = Held::new(4096);
    (0..50).for_each(|n| held.post(n, None));
    // The reader that everybody waits for has the highest id, or one in the middle.
    for late in [4095, 2000] {
        held.most = 0;
        (0..4096).filter(|n| *n != late).for_each(|n| held.advance(n, 20 + u64::from(late == 2000)));
        held.advance(late, 20);
        assert!(held.most < 100, "{} entries for one acknowledgement", held.most);
    }
    assert_eq!(held.stored().0, 30);
}

#[test]
fn evicting_the_reader_that_everybody_waited_for() {
    let mut held = Held::full(4096);
    (0..4095).for_each(|n| held.advance(n, MANY));
    assert_eq!(held.stored(), (MANY, MANY));
    let turn = Turn {
        post_key_hash: key(101),
        turn_key_hash: key(201),
        admit: vec![reader(5000)],
        evict: vec![ReaderId(name(4095))],
    };
    held.post(MANY, Some(turn));
    assert_eq!(held.stored(), (MANY + 1 - CUT_AT_ONCE, MANY + 1));
    held.expire();
    assert_eq!(held.stored(), (1, MANY + 1));
}

#[test]
fn expiry_of_very_much() {
    let mut held = Held::full(1);
    held.now += u64::from(EXPIRY) + 60;
    let commands = held.expire();
    assert_eq!((held.stored(), held.freed), ((0, 0), MANY));
    assert!((90..300).contains(&commands), "{commands}");
}

#[test]
fn expiry_goes_on_behind_a_jump_of_the_rest() {
    // What was acknowledged by all but one is trimmed when expiry overtakes that one.
    let mut held = Held::full(2);
    held.now += 600;
    held.post(MANY, None);
    held.advance(0, MANY);
    held.now += 460;
    held.expire();
    assert_eq!(held.stored().0, 1, "the late reader holds nothing back");
}

#[test]
fn removing_a_large_mailbox() {
    let mut held = Held::full(1);
    held.run(Command::Destroy { mailbox: MAILBOX, turn_key: key(200) });
    assert_eq!(held.stored(), (0, 0), "it is gone at once");
    assert!(held.clear(10), "but what it took goes by and by");
    while held.clear(1) {}
    assert_eq!(held.freed, MANY);
    assert!(held.most <= BOUND, "{}", held.most);

    let mut held = Held::full(1);
    held.now += 200 * DAY;
    held.expire();
    while held.clear(1) {}
    assert_eq!((held.ledger.stats().mailboxes, held.freed), (0, MANY), "nobody has opened it");
    assert!(held.most <= BOUND, "{}", held.most);
}

#[test]
fn many_mailboxes_that_are_due() {
    let mut held = Held::new(1);
    (0..5000).for_each(|n| held.create(n));
    held.now += 200 * DAY;
    let commands = held.expire();
    assert_eq!(held.ledger.stats().mailboxes, 0);
    assert!(commands >= 5000 * 8 / CUT_AT_ONCE, "{commands}: looking costs something, too");
}

/// The last mailbox that one command looked at could find nothing left of what the command may do, and then
/// waited for up to a minute more.
#[test]
fn mailboxes_that_use_up_a_command_exactly() {
    let mut held = Held::new(1);
    // Each costs 8 for looking, and 2 for what is trimmed.
    let count = (CUT_AT_ONCE - 8) / 10 + 1;
    for n in 0..count {
        held.create(n);
        held.post_to(MailboxId(name(n)), n, None);
        held.post_to(MailboxId(name(n)), count + n, None);
    }
    assert_eq!((held.stored().0, (CUT_AT_ONCE - 8) % 10), (2 * count, 0));
    held.now += u64::from(EXPIRY) + 60;
    held.expire();
    assert_eq!(held.stored(), (0, 0));
}

#[test]
fn very_many_tokens() {
    let mut held = Held::new(1);
    let day = (NOW / DAY) as u32;
    for n in 0..MANY / 100 {
        let hashes =
            (0..100).map(|m| KeyHash(std::array::from_fn(|at| name(n * 100 + m)[at % 16]))).collect();
        let change = Change::Directory(DirectoryChange::TokensDrawn { day, hashes });
        let version = held.ledger.version() + 1;
        held.hold(|ledger, _| {
            ledger.apply(&Record { version, time: NOW as u32, change }, 0, &mut |_, _| ());
        });
    }
    assert!(held.most < BOUND, "{}", held.most);
    held.now += 200 * DAY;
    held.expire();
    while held.clear(1) {}
    assert!(held.most < BOUND, "{}", held.most);
}

#[test]
fn very_many_invites() {
    let mut held = Held::new(1);
    for n in 0..MANY {
        let hash = KeyHash(std::array::from_fn(|at| name(n)[at % 16]));
        let change = DirectoryChange::InviteMinted { hash, uses: 1, expires: NOW + 1000 + n };
        let version = held.ledger.version() + 1;
        held.hold(|ledger, _| {
            ledger.apply(
                &Record { version, time: NOW as u32, change: Change::Directory(change) },
                0,
                &mut |_, _| (),
            );
        });
    }
    held.now += 1002;
    held.expire();
    assert!(held.most < BOUND, "{}", held.most);
    let left = held.ledger.rows().filter(|row| matches!(row, RowKey::Invite(_))).count();
    assert_eq!(left as u64, MANY - 3, "those that have expired are gone");
}

#[test]
fn taking_the_changed_rows() {
    let mut held = Held::full(1);
    held.most = 0;
    let rows = held.hold(|ledger, _| ledger.take_dirty());
    assert!(rows.len() as u64 > MANY / 64 && held.most < 8, "{} of {} rows", held.most, rows.len());
}

#[test]
fn listing_all_rows_while_mailboxes_come() {
    let mut held = Held::full(1);
    (0..20_000).for_each(|n| held.create(n));
    held.most = 0;
    let (mut listing, mut listed, mut steps) = (Listing::default(), std::collections::BTreeSet::new(), 0);
    while let Some(rows) = held.hold(|ledger, _| ledger.list(&mut listing)) {
        listed.extend(rows.into_iter().flat_map(Rows::keys));
        steps += 1;
        // The tables go on growing meanwhile.
        if steps < 200 {
            (0..20).for_each(|n| held.create(30_000 + steps * 20 + n));
        }
    }
    assert!(held.most < 1024 && steps > 50, "{} entries in one of {steps} steps", held.most);
    assert!((0..20_000).all(|n| listed.contains(&RowKey::Mailbox(MailboxId(name(n))))));
    assert!((0..=MANY / 64).all(|chunk| listed.contains(&RowKey::Chunk(MAILBOX, chunk))));
}
