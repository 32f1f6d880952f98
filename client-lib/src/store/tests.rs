//! Opening, passphrases, damage, and what a thief of the file sees.

use std::fs;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;

/// Runs `work` in a transaction of a fresh database in memory.
pub(crate) fn within<T>(work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>) -> T {
    let mut db = Database::create(Location::Memory, &good(), KdfCost::CHEAP, &mut rng()).expect("creates");
    let tx = db.transaction(&mut rng()).expect("begins");
    work(&tx).expect("the database is as it should be")
}

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

/// Whoever else uses this machine reads no profile, whatever its folder allows.
#[cfg(unix)]
#[test]
fn only_its_owner_may_read_a_database() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut db = folder.create();
    put(&mut db, "a", b"1");
    for suffix in ["", "-wal", "-shm"] {
        let mut path = folder.path().into_os_string();
        path.push(suffix);
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
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
fn what_a_crash_left_of_a_creation_is_in_nobodys_way() {
    let name = |suffix: &str| format!("profile.db{suffix}");
    // Cut off at any moment: nothing yet, half a database under its first name, a journal beside it.
    let leftovers: [&[(&str, &[u8])]; 4] = [
        &[],
        &[("-new", b"")],
        &[("-new", b"SQLite format 3\0 and no more"), ("-new-journal", b"x")],
        &[("", b"")],
    ];
    for files in leftovers {
        let folder = Folder::new();
        for (suffix, bytes) in files {
            fs::write(folder.0.path().join(name(suffix)), bytes).expect("writes");
        }
        assert!(matches!(folder.open("x"), Err(StoreError::NotFound { .. })));
        drop(folder.create());
        folder.open("correct horse").expect("opens");
        let left: Vec<_> = fs::read_dir(folder.0.path())
            .expect("lists")
            .map(|entry| entry.expect("entry").file_name().into_string().expect("text"))
            .filter(|file| file.contains("-new"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    // SQLite was opened here, in WAL mode, and nothing was committed.
    let folder = Folder::new();
    connect(Location::File(&folder.path()), OpenFlags::SQLITE_OPEN_CREATE).expect("opens");
    assert!(folder.path().exists());
    assert!(matches!(folder.open("x"), Err(StoreError::NotFound { .. })));
    drop(folder.create());
    folder.open("correct horse").expect("opens");
}

#[test]
fn a_creation_that_fails_leaves_nothing_behind() {
    let folder = Folder::new();
    let failed = create::create(Location::File(&folder.path()), |_| Err(StoreError::DiskFull));
    assert!(matches!(failed, Err(StoreError::DiskFull)));
    assert_eq!(fs::read_dir(folder.0.path()).expect("lists").count(), 0);
}

#[test]
fn a_full_disk_is_called_that() {
    let mut db = Database::create(Location::Memory, &good(), KdfCost::CHEAP, &mut rng()).expect("creates");
    let pages: u32 = db.conn.pragma_query_value(None, "page_count", |row| row.get(0)).expect("told");
    db.conn.pragma_update(None, "max_page_count", pages).expect("set");
    let tx = db.transaction(&mut rng()).expect("begins");
    let full = tx.sql().execute("INSERT INTO meta (k, v) VALUES ('x', zeroblob(100000))", []);
    let error = StoreError::from(full.expect_err("there is no room"));
    assert_eq!((error.cause(), error.to_string().lines().count()), ("DISK_FULL", 1));
    assert!(error.to_string().contains("full"));
    // What the log's index in shared memory says when a file system is full.
    let failure =
        |code| StoreError::from(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
    assert!(matches!(failure(rusqlite::ffi::SQLITE_IOERR_SHMSIZE), StoreError::DiskFull));
    assert!(matches!(failure(rusqlite::ffi::SQLITE_IOERR_READ), StoreError::Sqlite(_)));
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
    let folder = Folder::new();
    let mut db = folder.create();
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
fn profiles_of_version_0_1_are_refused_in_words() {
    let folder = Folder::new();
    let fixture = include_bytes!("vectors/v1.db");
    for version in [1, 2] {
        fs::write(folder.path(), fixture).expect("writes");
        Connection::open(folder.path())
            .and_then(|conn| conn.pragma_update(None, "user_version", version))
            .expect("another of its versions");
        let error = folder.open("correct horse").expect_err("its formats have ended");
        assert_eq!(error.cause(), "STORE_TOO_OLD");
        assert_eq!(
            error.to_string(),
            "this profile was made by version 0.1, whose formats have ended: keep its folder to read it with 0.1, \
             and register anew in another"
        );
        // It is left as it was, for 0.1.
        let made = Database::create(Location::File(&folder.path()), &good(), KdfCost::CHEAP, &mut rng());
        assert!(matches!(made, Err(StoreError::AlreadyExists { .. })));
    }
}

mod tables {
    use super::super::table::{Queue, Table};
    use super::*;

    const SETTINGS: Table<[u8; 2], String> = Table::new("setting");
    const QUEUE: Queue<[u8; 1], u32> = Queue::new("outbox");

    #[test]
    fn records_come_back_by_key() {
        within(|tx| {
            assert_eq!(SETTINGS.get(tx, b"aa")?, None);
            for (key, value) in [(b"ab", "second"), (b"aa", "first"), (b"ba", "third"), (b"aa", "changed")] {
                SETTINGS.put(tx, key, &value.to_owned())?;
            }
            assert_eq!(SETTINGS.get(tx, b"aa")?.as_deref(), Some("changed"));
            let all: Vec<_> = SETTINGS.all(tx)?.into_iter().map(|(key, _)| key).collect();
            assert_eq!(all, [*b"aa", *b"ab", *b"ba"]);
            SETTINGS.remove_prefixed(tx, b"a")?;
            assert_eq!((SETTINGS.remove(tx, b"ba")?, SETTINGS.remove(tx, b"aa")?), (true, false));
            assert!(SETTINGS.all(tx)?.is_empty());
            Ok(())
        });
    }

    #[test]
    fn a_record_opens_only_under_its_key() {
        within(|tx| {
            SETTINGS.put(tx, b"aa", &"first".to_owned())?;
            SETTINGS.put(tx, b"ab", &"second".to_owned())?;
            let swap = "UPDATE setting SET value = (SELECT value FROM setting WHERE key = x'6162') WHERE key = x'6161'";
            assert_eq!(tx.sql().execute(swap, [])?, 1);
            assert!(matches!(SETTINGS.get(tx, b"aa"), Err(StoreError::Damaged("setting"))));
            assert!(matches!(SETTINGS.all(tx), Err(StoreError::Damaged("setting"))));
            Ok(())
        });
    }

    #[test]
    fn a_queue_keeps_the_order_and_finds_by_label() {
        within(|tx| {
            let first = QUEUE.put(tx, b"a", None, &1)?;
            let second = QUEUE.put(tx, b"a", Some(b"label"), &2)?;
            let other = QUEUE.put(tx, b"b", Some(b"label"), &3)?;
            assert_eq!(QUEUE.oldest(tx, b"a", 9)?, [(first, 1), (second, 2)]);
            assert_eq!(QUEUE.oldest(tx, b"a", 1)?, [(first, 1)]);
            assert_eq!(QUEUE.find(tx, b"b", b"label")?, Some((other, 3)));
            QUEUE.update(tx, first, Some(b"new"), &10)?;
            assert_eq!(QUEUE.find(tx, b"a", b"new")?, Some((first, 10)));
            QUEUE.update(tx, 99, None, &0)?;
            assert_eq!((QUEUE.owners(tx)?, QUEUE.count(tx, b"a")?), (vec![*b"a", *b"b"], 2));
            QUEUE.remove(tx, first)?;
            QUEUE.remove_all(tx, b"b")?;
            assert_eq!((QUEUE.get(tx, first)?, QUEUE.get(tx, second)?), (None, Some(2)));
            assert_eq!(QUEUE.owners(tx)?, [*b"a"]);
            // Rows are never given to another record.
            QUEUE.remove(tx, second)?;
            assert!(QUEUE.put(tx, b"a", None, &4)? > other);
            Ok(())
        });
    }

    #[test]
    fn a_queued_record_opens_only_with_its_owner_and_label() {
        within(|tx| {
            let row = QUEUE.put(tx, b"a", Some(b"label"), &1)?;
            for forged in ["owner = x'62'", "label = x'62'", "label = NULL"] {
                tx.sql().execute(&format!("UPDATE outbox SET {forged}"), [])?;
                assert!(matches!(QUEUE.get(tx, row), Err(StoreError::Damaged("outbox"))), "{forged}");
                tx.sql().execute("UPDATE outbox SET owner = x'61', label = CAST('label' AS BLOB)", [])?;
                assert_eq!(QUEUE.get(tx, row)?, Some(1));
            }
            Ok(())
        });
    }
}
