//! What things cost, by hand:
//! `cargo test -p posthorn-client --release --lib measure -- --ignored --nocapture`.
//!
//! This file reads the clock, which nothing else here may.
#![allow(clippy::disallowed_methods, reason = "a measurement")]

use std::time::{Duration, Instant};

use super::party::{Party, TALK, gather};
use crate::group::{Change, Group, KeyPackageKind};

fn median(mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn load_cost() {
    for size in [2, 10, 100] {
        let mut parties: Vec<Party> = (0..size).map(|number| Party::new(&format!("party{number}"))).collect();
        gather(&mut parties[..]);
        let (alice, others) = parties.split_first_mut().expect("somebody");
        let (mut messages, mut count) =
            ((0..20).map(|_| alice.say(&[7; 200])).collect::<Vec<_>>().into_iter(), 0);
        let bob = &mut others[0];
        let load = median(|| bob.act(|provider, _| drop(Group::load(provider, &TALK).expect("stored"))));
        let empty = median(|| bob.act(|_, _| ()));
        let members = median(|| bob.talk(|session, _| count = session.members().expect("members").len()));
        let hear = median(|| drop(bob.hear(&messages.next().expect("enough")).expect("decrypts")));
        let say = median(|| drop(bob.say(&[7; 200])));
        let change = Change { update_self: true, ..Change::default() };
        let stage = median(|| {
            bob.talk(|session, me| {
                session.clear_pending().expect("clears");
                session.stage(&me.leaf(), &change, b"").expect("stages");
            });
        });
        let bytes = bob.key_package(KeyPackageKind::OneTime).len();
        println!(
            "{count} members: transaction {empty:?}, with load {load:?}, members {members:?}, hear {hear:?}, say {say:?}, \
             stage {stage:?}; key package {bytes} bytes"
        );
        assert!(load < Duration::from_secs(1));
    }
}

#[test]
#[ignore = "a measurement"]
fn passphrase_cost() {
    use crate::store::{Database, KdfCost, Location, Passphrase};
    use rand::SeedableRng;
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([0; 32]);
    let start = Instant::now();
    Database::create(Location::Memory, &Passphrase::new("x"), KdfCost::DEFAULT, &mut rng).expect("creates");
    println!("default passphrase cost: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10));
}
