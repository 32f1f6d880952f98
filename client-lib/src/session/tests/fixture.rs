//! Formats that must stay readable: a profile written by version 1, with a session in it, and what was sent
//! to it.
//!
//! Nothing outside pins the bytes of suite 0x004D (no RFC has vectors for it), so these do: the rows of the
//! database, a key package, a Welcome, a message and a commit.

use std::fs;

use crate::session::{Change, KeyPackageKind, PendingJoin, Received, Session};
use crate::store::{Database, KdfCost, Location, Passphrase};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::party::{Me, Party, TALK, gather};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/session/tests/vectors");

fn passphrase() -> Passphrase {
    Passphrase::new("fixture")
}

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([0xf1; 32])
}

/// Bob, but with his database in a file.
fn bob(db: Database) -> Party {
    let Party { rng, me: Me { device, credential, inbox }, .. } = Party::new("bob");
    Party { db, rng, me: Me { device, credential, inbox } }
}

#[test]
fn sessions_of_version_1_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bob.db");
    fs::write(&path, include_bytes!("vectors/bob.db")).expect("writes");
    let mut bob = bob(Database::open(Location::File(&path), &passphrase()).expect("opens"));

    // A session with a message and a commit of alice's unread.
    assert_eq!(bob.talk(|session, _| (session.epoch(), session.members().expect("members").len())), (2, 2));
    assert_eq!(bob.hear(include_bytes!("vectors/message.bin")).expect("decrypts").1, b"from version 1");
    bob.talk(|session, _| {
        let Ok(Received::Commit(change)) = session.receive(include_bytes!("vectors/commit.bin")) else {
            panic!("a commit")
        };
        let outcome = session.apply(*change).expect("applies");
        assert_eq!(outcome.info.name, "renamed");
    });

    // A key package whose Welcome, to another conversation, was not read yet.
    bob.act(|provider, me| {
        Session::load(provider, &TALK).expect("stored").delete().expect("deletes");
        let join =
            PendingJoin::new(provider, &me.leaf(), include_bytes!("vectors/welcome.bin")).expect("reads");
        assert_eq!(join.members().len(), 2);
        join.finish().map(|_| ()).expect("joins");
    });
}

/// Writes the fixture; run by hand when a version that changes a format is released, under a new name.
#[test]
#[ignore = "writes a fixture"]
fn write_fixture() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bob.db");
    let db =
        Database::create(Location::File(&path), &passphrase(), KdfCost::CHEAP, &mut rng()).expect("creates");
    let mut parties = [Party::new("alice"), bob(db)];
    gather(&mut parties);
    let [mut alice, mut bob] = parties;
    let update = bob.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    bob.merge();
    alice.follow(&update.commit).expect("applies");
    let message = alice.say(b"from version 1");
    let renamed = Change { info: Some(super::party::info("renamed")), ..Change::default() };
    let commit = alice.stage(&renamed).expect("stages").commit;

    let mut carol = Party::new("carol");
    carol.start();
    let package = bob.offer(&mut carol);
    let welcome = carol.stage(&Change { add: vec![package], ..Change::default() }).expect("stages").welcome;

    drop(bob);
    fs::copy(&path, format!("{FOLDER}/bob.db")).expect("copies");
    fs::write(format!("{FOLDER}/message.bin"), message).expect("writes");
    fs::write(format!("{FOLDER}/commit.bin"), commit).expect("writes");
    fs::write(format!("{FOLDER}/welcome.bin"), welcome.expect("added")).expect("writes");
}

/// Key packages lie in directories for weeks.
#[test]
fn key_packages_of_version_1_verify() {
    let mut alice = Party::new("alice");
    let bob = Party::new("bob");
    let package = include_bytes!("vectors/key_package.bin");
    let package = alice.verified(package, &bob);
    assert_eq!(package.credential(), &bob.me.credential);
    assert!(package.is_last_resort());
}

/// Writes the fixture of [`key_packages_of_version_1_verify`].
#[test]
#[ignore = "writes a fixture"]
fn write_key_package() {
    let package = Party::new("bob").key_package(KeyPackageKind::LastResort);
    fs::write(format!("{FOLDER}/key_package.bin"), package).expect("writes");
}
