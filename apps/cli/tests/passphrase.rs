//! The passphrase and the keyring.

mod common;

use common::{errors, good, posthorn, prepare, run};

/// Without a passphrase in the environment, and with nobody to ask.
fn unasked(home: &std::path::Path) -> std::process::Output {
    posthorn(home, &["--json", "passphrase", "--remember"])
        .env_remove("POSTHORN_PASSPHRASE")
        .output()
        .expect("posthorn starts")
}

/// Some logins have no keyring: then that is said, and nothing else changes.
#[test]
fn the_keyring_takes_the_passphrase_and_gives_it_back() {
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path());
    let remembered = run(folder.path(), &["--json", "passphrase", "--remember"]);
    if !remembered.status.success() {
        assert!(errors(&remembered).contains("NO_KEYRING"), "{remembered:?}");
    } else {
        assert!(unasked(folder.path()).status.success(), "it is not asked for");
        let forgotten = good(folder.path(), &["--json", "passphrase", "--forget"]);
        assert_eq!(forgotten, "{\"changed\":false,\"keyring\":false}\n");
        assert!(good(folder.path(), &["passphrase", "--forget"]).contains("did not have"));
    }
    let asked = unasked(folder.path());
    assert!(errors(&asked).contains("NO_PASSPHRASE"), "{asked:?}");
}
