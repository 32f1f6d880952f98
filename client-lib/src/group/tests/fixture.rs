//! Formats that must stay readable: a profile written by version 0.2, with a session in it, and what was sent
//! to it.
//!
//! Nothing outside pins the bytes of suite 0x004D (no RFC has vectors for it), so these do: the rows of the
//! database, a key package, a Welcome, a message and a commit.

use std::fs;

use crate::group::{
    Change, Group, GroupError, KeyPackageError, KeyPackageKind, PendingJoin, Received, UnverifiedKeyPackage,
};
use crate::store::{Database, KdfCost, Location, Passphrase};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::party::{Me, NOW, Party, TALK, gather};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/group/tests/vectors");

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
fn groups_of_version_0_2_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bob.db");
    fs::write(&path, include_bytes!("vectors/bob.db")).expect("writes");
    let mut bob = bob(Database::open(Location::File(&path), &passphrase()).expect("opens"));

    // A session with a message and a commit of alice's unread.
    assert_eq!(bob.talk(|session, _| (session.epoch(), session.members().expect("members").len())), (2, 2));
    assert_eq!(bob.hear(include_bytes!("vectors/message.bin")).expect("decrypts").1, b"from version 0.2");
    bob.talk(|session, _| {
        let Ok(Received::Commit(change)) = session.receive(include_bytes!("vectors/commit.bin"), &[]) else {
            panic!("a commit")
        };
        let outcome = session.apply(*change).expect("applies");
        assert_eq!(outcome.info.about.name, "renamed");
    });

    // A key package whose Welcome, to another conversation, was not read yet.
    bob.act(|provider, me| {
        Group::load(provider, &TALK).expect("stored").delete().expect("deletes");
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
    let message = alice.say(b"from version 0.2");
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

/// The formats of 0.1 have ended: what is left of them is refused, and hurts nobody.
#[test]
fn what_version_0_1_made_is_refused() {
    let mut parties = [Party::new("alice"), Party::new("bob")];
    gather(&mut parties);
    let [mut alice, mut bob] = parties;
    let update = alice.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    alice.merge();
    bob.follow(&update.commit).expect("applies");
    bob.talk(|group, _| {
        assert_eq!(group.epoch(), 2, "that of the old commit and message");
        assert!(group.receive(include_bytes!("vectors/0.1/commit.bin"), &[]).is_err());
        assert!(group.receive(include_bytes!("vectors/0.1/message.bin"), &[]).is_err());
    });
    let refused = bob.join(include_bytes!("vectors/0.1/welcome.bin"));
    assert!(matches!(refused, Err(GroupError::NoKeyPackage)), "{refused:?}");
    let owner = bob.me.credential.identity();
    let refused = alice.act(|provider, _| {
        UnverifiedKeyPackage::parse(include_bytes!("vectors/0.1/key_package.bin"))
            .and_then(|package| package.verify(provider, &owner, NOW))
    });
    assert_eq!(refused.err(), Some(KeyPackageError::Credential));
    let message = alice.say(b"on");
    bob.hear(&message).expect("decrypts");
}

/// Key packages lie in directories for weeks.
#[test]
fn key_packages_of_version_0_2_verify() {
    let mut alice = Party::new("alice");
    let bob = Party::new("bob");
    let package = include_bytes!("vectors/key_package.bin");
    let package = alice.verified(package, &bob);
    assert_eq!(package.credential(), &bob.me.credential);
    assert!(package.is_last_resort());
}

/// Writes the fixture of [`key_packages_of_version_0_2_verify`].
#[test]
#[ignore = "writes a fixture"]
fn write_key_package() {
    let package = Party::new("bob").key_package(KeyPackageKind::LastResort);
    fs::write(format!("{FOLDER}/key_package.bin"), package).expect("writes");
}
