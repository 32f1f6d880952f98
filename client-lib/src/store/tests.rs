//! Opening, passphrases, damage, and what a thief of the file sees.

use std::fs;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([4; 32])
}

fn good() -> Passphrase {
    Passphrase::new("correct horse")
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("profile.db")
    }

    fn create(&self) -> Database {
        Database::create(Location::File(&self.path()), &good(), KdfCost::CHEAP, &mut rng()).expect("creates")
    }

    fn open(&self, passphrase: &str) -> Result<Database, StoreError> {
        Database::open(Location::File(&self.path()), &Passphrase::new(passphrase))
    }
}

fn put(db: &mut Database, name: &str, value: &[u8]) {
    let tx = db.transaction(&mut rng()).expect("begins");
    put_in(&tx, name, value);
    tx.commit().expect("commits");
}

fn put_in(tx: &Transaction<'_>, name: &str, value: &[u8]) {
    let sealed = tx.seal(Place { table: "meta", column: "v", key: name.as_bytes() }, value);
    tx.sql().execute("INSERT OR REPLACE INTO meta (k, v) VALUES (?1, ?2)", (name, sealed)).expect("writes");
}

fn get(db: &Database, name: &str) -> Option<Vec<u8>> {
    let sealed: Option<Vec<u8>> = db
        .view()
        .sql()
        .query_row("SELECT v FROM meta WHERE k = ?1", [name], |row| row.get(0))
        .optional()
        .expect("reads");
    sealed.map(|sealed| {
        db.view().open(Place { table: "meta", column: "v", key: name.as_bytes() }, &sealed).expect("opens")
    })
}

#[test]
fn it_is_all_there_after_reopening() {
    let folder = Folder::new();
    put(&mut folder.create(), "x", b"value");
    let db = folder.open("correct horse").expect("opens");
    assert_eq!(get(&db, "x").expect("is there"), b"value");
}

#[test]
fn errors_of_opening_are_told_apart() {
    let folder = Folder::new();
    assert!(matches!(folder.open("correct horse"), Err(StoreError::NotFound { .. })));
    assert!(!folder.path().with_extension("db.lock").exists(), "a failed open leaves nothing behind");
    let db = folder.create();
    assert!(matches!(folder.open("correct horse"), Err(StoreError::AlreadyOpen { .. })));
    drop(db);
    assert!(matches!(folder.open("wrong"), Err(StoreError::WrongPassphrase)));
    assert!(matches!(folder.open(""), Err(StoreError::WrongPassphrase)));
    let again = Database::create(Location::File(&folder.path()), &good(), KdfCost::CHEAP, &mut rng());
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })));
    folder.open("correct horse").expect("the lock was given back each time");
}

#[test]
fn what_a_crash_left_of_a_creation_is_taken_over() {
    let folder = Folder::new();
    // SQLite was opened, in WAL mode, and nothing was committed.
    connect(Location::File(&folder.path()), OpenFlags::SQLITE_OPEN_CREATE).expect("opens");
    assert!(folder.path().exists());
    assert!(matches!(folder.open("x"), Err(StoreError::NotFound { .. })));
    let exists = || Database::exists(Location::File(&folder.path()));
    assert!(!exists().expect("looks"));
    let database = folder.create();
    assert!(matches!(exists(), Err(StoreError::AlreadyOpen { .. })));
    drop(database);
    assert!(exists().expect("looks"));
    folder.open("correct horse").expect("opens");
}

#[test]
fn foreign_files_are_refused() {
    let folder = Folder::new();
    fs::write(folder.path(), vec![0x55; 8192]).expect("writes");
    assert!(matches!(folder.open("x"), Err(StoreError::NotOurs { .. })));
    fs::remove_file(folder.path()).expect("removes");
    Connection::open(folder.path())
        .and_then(|conn| conn.execute_batch("CREATE TABLE t (x)"))
        .expect("another database");
    assert!(matches!(folder.open("x"), Err(StoreError::NotOurs { .. })));
}

#[test]
fn a_later_schema_is_refused() {
    let folder = Folder::new();
    drop(folder.create());
    Connection::open(folder.path())
        .and_then(|conn| conn.pragma_update(None, "user_version", 999))
        .expect("bumps");
    assert!(matches!(folder.open("correct horse"), Err(StoreError::NewerSchema { found: 999, .. })));
}

#[test]
fn the_passphrase_changes_and_the_data_stays() {
    let folder = Folder::new();
    let mut db = folder.create();
    put(&mut db, "x", b"value");
    db.change_passphrase(&Passphrase::new("battery staple"), KdfCost::CHEAP, &mut rng()).expect("changes");
    drop(db);
    assert!(matches!(folder.open("correct horse"), Err(StoreError::WrongPassphrase)));
    assert_eq!(get(&folder.open("battery staple").expect("opens"), "x").expect("is there"), b"value");
}

#[test]
fn a_damaged_or_hostile_key_record_is_refused() {
    use prost::Message;
    let wrapped = DatabaseKey([1; 32]).wrap(&good(), KdfCost::CHEAP, &mut rng()).expect("wraps");
    assert_eq!(DatabaseKey::unwrap(&wrapped, &good()).expect("unwraps").0, [1; 32]);
    let with = |change: fn(&mut wire::WrappedKey)| {
        let mut record = wire::WrappedKey::decode(&wrapped[..]).expect("decodes");
        change(&mut record);
        DatabaseKey::unwrap(&record.encode_to_vec(), &good()).map(|key| key.0)
    };
    assert!(matches!(with(|record| record.memory_kib = u32::MAX), Err(StoreError::Damaged(_))));
    assert!(matches!(with(|record| record.passes = 0), Err(StoreError::Damaged(_))));
    assert!(matches!(with(|record| record.nonce.clear()), Err(StoreError::Damaged(_))));
    assert!(matches!(with(|record| record.salt.clear()), Err(StoreError::Damaged(_))));
    assert!(matches!(with(|record| record.passes += 1), Err(StoreError::WrongPassphrase)));
    assert!(matches!(with(|record| record.wrapped[0] ^= 1), Err(StoreError::WrongPassphrase)));
    assert!(matches!(DatabaseKey::unwrap(&[0xff], &good()), Err(StoreError::Damaged(_))));
}

#[test]
fn what_is_not_committed_is_gone() {
    let mut db = Folder::new().create();
    {
        let tx = db.transaction(&mut rng()).expect("begins");
        put_in(&tx, "x", b"value");
    }
    assert_eq!(get(&db, "x"), None);
}

#[test]
fn values_open_only_in_their_place() {
    let mut db = Database::create(Location::Memory, &good(), KdfCost::CHEAP, &mut rng()).expect("creates");
    let tx = db.transaction(&mut rng()).expect("begins");
    let here = Place { table: "messages", column: "body", key: b"1" };
    let sealed = tx.seal(here, b"value");
    assert_ne!(sealed, tx.seal(here, b"value"), "nonces differ");
    assert_eq!(tx.open(here, &sealed).expect("opens"), b"value");
    for elsewhere in [
        Place { table: "drafts", ..here },
        Place { column: "name", ..here },
        Place { key: b"2", ..here },
        // The same bytes run together.
        Place { table: "messagesb", column: "ody", key: b"1" },
    ] {
        assert!(matches!(tx.open(elsewhere, &sealed), Err(StoreError::Damaged(_))));
    }
    assert!(tx.open(here, &sealed[..23]).is_err());
    assert_ne!(tx.hidden_name("a", b"bc"), tx.hidden_name("ab", b"c"));
}

#[test]
fn a_thief_of_the_file_reads_nothing() {
    let folder = Folder::new();
    let mut db = folder.create();
    put(&mut db, "x", b"a very secret value");
    let key = db.key.0;
    drop(db);
    for entry in fs::read_dir(folder.0.path()).expect("lists") {
        let bytes = fs::read(entry.expect("entry").path()).expect("reads");
        for secret in [&b"a very secret value"[..], b"correct horse", &key] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
}

#[test]
fn sqlite_is_told_to_be_careful() {
    let folder = Folder::new();
    let db = folder.create();
    let pragma = |name: &str| -> String {
        db.conn
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| format!("{value:?}"))
            .expect(name)
    };
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
    assert_eq!(pragma("synchronous"), "Integer(2)");
    assert_eq!(pragma("secure_delete"), "Integer(1)");
    assert_eq!(pragma("foreign_keys"), "Integer(1)");
}

#[test]
fn debug_hides_secrets() {
    let db = Folder::new().create();
    assert_eq!(format!("{:?}", good()), "Passphrase(secret)");
    assert_eq!(format!("{:?}", db.sealer), "Sealer(secret)");
    assert!(format!("{db:?}").starts_with("Database { path: "));
}

#[test]
fn databases_of_version_1_open() {
    let folder = Folder::new();
    fs::write(folder.path(), include_bytes!("vectors/v1.db")).expect("writes");
    let db = folder.open("correct horse").expect("opens");
    assert_eq!(get(&db, "x").expect("is there"), b"written by version 1");
}

/// Writes the fixture of [`databases_of_version_1_open`]; run by hand when a new version is released.
#[test]
#[ignore = "writes a fixture"]
fn write_fixture() {
    let folder = Folder::new();
    put(&mut folder.create(), "x", b"written by version 1");
    fs::copy(folder.path(), concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/vectors/v1.db")).expect("copies");
}
