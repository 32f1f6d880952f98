//! What the ledger costs in memory: the sizes that its bounds are computed from.

use bytes::Bytes;
use posthorn_proto::{KeyHash, MailboxId, PostId, Reader, ReaderId};

use crate::mailbox::Mailbox;
use crate::mailbox::log::Entry;
use crate::mailbox::readers::Active;
use crate::store::conformance::names::{account, device};
use crate::store::ledger::{Change, Command, Ledger, Record};
use crate::store::{Append, StorePolicy};

/// A place as small as the embedded engine's: segment, offset, length.
type Small = (std::num::NonZeroU32, u32, u32);

#[test]
fn a_retained_envelope_is_small() {
    // Post id, fingerprint, time, bytes, place.
    assert_eq!(size_of::<Entry<Small>>(), 16 + 16 + 4 + 4 + 12);
    // Room to grow, for which a quarter is allowed; and an index that holds 4 bytes and a control byte for
    // each entry, at a load of at least 7/16.
    let worst = size_of::<Entry<Small>>() as f64 * 1.25 + 5.0 * 16.0 / 7.0;
    assert!(worst <= 100.0, "{worst} bytes of memory for an envelope");
}

#[test]
fn an_idle_mailbox_is_small() {
    // With two readers, and a slot in the map and an entry in the schedule at their usual load.
    let map = (16.0 + 8.0 + 1.0) / 0.6;
    let schedule = 20.0 / 0.6;
    let bytes = size_of::<Mailbox<Small>>() as f64 + 2.0 * size_of::<Active>() as f64 + map + schedule;
    assert!(bytes <= 450.0, "{bytes} bytes of memory for a mailbox");
}

/// Upkeep takes for long a journal that is twice what is held, so everything large that is held must count.
#[test]
fn what_is_held_counts_as_what_it_takes() {
    let place = (std::num::NonZeroU32::MIN, 0, 0);
    let mut ledger: Ledger<Small> = Ledger::new(StorePolicy::default(), [1, 2]);
    let card = Bytes::from(vec![7; 5000]);
    let before = ledger.recorded_bytes(76);
    for command in
        [Command::Register(account(1)), Command::PublishCard { device: device(1), version: 1, card }]
    {
        let decision = ledger.decide(command, 2000).expect("there is room");
        decision.records.iter().for_each(|record| ledger.apply(record, place, &mut |_, _| ()));
    }
    assert!(ledger.recorded_bytes(76) >= before + 5000, "a card");
    let (mailbox, key) = (MailboxId([1; 16]), KeyHash([1; 32]));
    let readers = (0..100).map(|n| Reader { id: ReaderId([n; 16]), key_hash: key }).collect();
    let change = Change::Created {
        mailbox,
        token: key,
        post_key: key,
        turn_key: key,
        readers,
        expiry: 86_400,
        quota: 64 << 20,
    };
    ledger.apply(&Record { version: ledger.version() + 1, time: 2000, change }, place, &mut |_, _| ());
    let present = ledger.mailboxes.get(&mailbox).expect("created");
    let (mut stated, estimate) = (Vec::new(), ledger.statement_bytes(&mailbox));
    ledger.state(&mailbox, present).encode(&mut stated);
    assert!(
        (stated.len() as u64..2 * stated.len() as u64).contains(&estimate),
        "{estimate}, {}",
        stated.len()
    );
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// A measurement to be run by hand, alone:
/// `cargo test -p posthorn-server memory_of -- --ignored --nocapture`.
#[test]
#[ignore = "measures memory and time; nothing else may run beside it"]
fn memory_of_a_full_relay() {
    let place = (std::num::NonZeroU32::MIN, 0, 0);
    let name =
        |n: u64| std::array::from_fn(|at| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at % 8 * 8)) as u8);
    let policy = StorePolicy { mailboxes: 1 << 40, total_bytes: 1 << 50, ..StorePolicy::default() };
    let mut ledger: Ledger<Small> = Ledger::new(policy, [1, 2]);
    let key = KeyHash([1; 32]);
    let start = resident();
    for n in 0..200_000 {
        let readers = (1..3).map(|n| Reader { id: ReaderId([n; 16]), key_hash: key }).collect();
        let mailbox = MailboxId(name(n));
        let (version, expiry, quota) = (ledger.version() + 1, 86_400, 64 << 20);
        let change =
            Change::Created { mailbox, token: key, post_key: key, turn_key: key, readers, expiry, quota };
        ledger.apply(&Record { version, time: 1000, change }, place, &mut |_, _| ());
    }
    let mailboxes = resident();
    println!("{} bytes for a mailbox with two readers", (mailboxes - start) / 200_000);
    for n in 0..1_000_000 {
        let append = Append {
            mailbox: MailboxId(name(n % 2000)),
            post_id: PostId::at(2000, std::array::from_fn(|at| name(n)[at])),
            post_key: key,
            envelope: Bytes::from_static(&[7; 256]),
            turn: None,
            fingerprint: [1; 16],
        };
        let decision = ledger.decide(Command::Append(append), 2000).expect("there is room");
        decision.records.iter().for_each(|record| ledger.apply(record, place, &mut |_, _| ()));
    }
    println!("{} bytes for a retained envelope", (resident() - mailboxes) / 1_000_000);
    assert_eq!(ledger.stats().envelopes, 1_000_000);
}
