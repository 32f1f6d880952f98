//! The profile: one folder, one database, one account.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use posthorn_client::client::Client;
#[cfg(unix)]
use posthorn_client::client::Share;
use posthorn_client::engine::{Account, Error};
use posthorn_client::identity::PersonId;
use posthorn_client::store::{Database, KdfCost, Location, StoreError};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::args::Global;
use crate::passphrase::{self, Found};
use crate::print::tell;
use crate::problem::{self, Problem};
use crate::signal::Signal;
use crate::{advice, disk};

/// How long a command waits for another that has the profile open and does not share it, unless `--wait` says
/// so: those end by themselves.
pub(crate) const TURN: Duration = Duration::from_secs(30);
/// What others have asked of this process gets this long at its end.
#[cfg(unix)]
const FAREWELL: Duration = Duration::from_secs(3);
/// How often it looks whether that has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Nothing is shared here.
#[cfg(not(unix))]
struct Share;

/// A profile that is online, and whose it is.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) account: Account,
    /// Another process has the profile, and does what is asked here.
    pub(crate) is_guest: bool,
    /// For other processes, where this one has the profile for long.
    share: Option<Share>,
    /// What becomes of what was asked, should a signal end the waiting for it; empty while nothing is.
    kept: RefCell<String>,
}

impl Session {
    /// Whose profile it is.
    pub(crate) fn me(&self) -> &PersonId {
        &self.account.person
    }

    /// From now on other processes need not wait until this one has ended. Whoever is a guest leaves that to
    /// the holder.
    pub(crate) fn share(&mut self, global: &Global) -> Result<(), Problem> {
        #[cfg(unix)]
        if !self.is_guest {
            let home = home(global)?;
            match self.client.share(&home) {
                Ok(share) => self.share = Some(share),
                Err(error) => tell(&format!("other commands on this profile have to wait: {error}")),
            }
        }
        Ok(())
    }

    /// Ends with the profile closed, so that nothing of used keys stays in its log; what others have asked is
    /// answered before, if that is soon.
    pub(crate) async fn close(self) {
        #[cfg(unix)]
        if let Some(share) = self.share {
            share.end(FAREWELL).await;
        }
        close(self.client).await;
    }

    /// What a command failed of, where another process has the profile: that it has ended, and what becomes
    /// of what was asked: `known`, or what the command keeps.
    pub(crate) fn explained(&self, problem: Problem, known: Option<&str>) -> Problem {
        match problem.code() {
            "STOPPED" if self.is_guest => Problem::holder_gone(known.unwrap_or(&self.kept.borrow())),
            _ => problem,
        }
    }

    /// A command waits from now on, and this is what becomes of what was asked if it is interrupted. An empty
    /// text ends that.
    pub(crate) fn keeps(&self, text: impl Into<String>) {
        self.kept.replace(text.into());
    }

    /// A signal has ended the command.
    pub(crate) fn interrupted(&self, signal: Signal) -> Result<ExitCode, Problem> {
        let kept = self.kept.take();
        if kept.is_empty() { Ok(signal.into()) } else { Err(Problem::interrupted(signal, &kept)) }
    }
}

/// The folder: `--home`, `POSTHORN_HOME` (through clap), or the system's place.
pub(crate) fn home(global: &Global) -> Result<PathBuf, Problem> {
    if let Some(home) = &global.home {
        return std::path::absolute(home)
            .map_err(|error| Problem::new("NO_HOME", format!("cannot use {}: {error}", home.display())));
    }
    system_home(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
        .ok_or_else(|| {
            Problem::new("NO_HOME", "no home folder is known: say where the profile is with --home FOLDER")
        })
}

fn system_home(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if cfg!(windows) {
        return Some(variable("APPDATA")?.join("posthorn"));
    }
    // The XDG specification: a relative path is to be ignored.
    let data = variable("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let data = match data {
        Some(data) => data,
        None if cfg!(target_os = "macos") => variable("HOME")?.join("Library/Application Support"),
        None => variable("HOME")?.join(".local/share"),
    };
    Some(data.join("posthorn"))
}

/// The database's file.
pub(crate) fn database_path(home: &Path) -> PathBuf {
    home.join("posthorn.db")
}

/// Closes a profile. One that stopped by itself is closed already, and told of that.
pub(crate) async fn close(client: Client) {
    let _ = client.close().await;
}

/// Opens the profile and begins to sync; or asks another process to do so, which needs no passphrase.
pub(crate) async fn open(global: &Global, patience: Duration) -> Result<Session, Problem> {
    let home = home(global)?;
    disk::remember(&home);
    let (client, is_guest, account) = loop {
        let (client, is_guest) = begin(global, &home, patience)?;
        match client.account().await {
            // Whoever had the profile has just ended: it is the next one's.
            Err(Error::Stopped) if is_guest => {}
            account => break (client, is_guest, account?),
        }
    };
    match account {
        Some(account) if account.registered => {
            Ok(Session { client, account, is_guest, share: None, kept: RefCell::default() })
        }
        Some(account) => {
            close(client).await;
            let (relay, handle) = (account.relay, account.handle);
            let again = advice::command(&format!("register --relay {relay} --handle {handle}"));
            let message = format!("the registration of {handle} was cut off: finish it with {again}");
            Err(Problem::new("NOT_REGISTERED", message))
        }
        None => {
            close(client).await;
            Err(Problem::no_profile(&home))
        }
    }
}

/// A client, and whether it is the guest of another process.
fn begin(global: &Global, home: &Path, patience: Duration) -> Result<(Client, bool), Problem> {
    Ok(match reach(global, home, patience)? {
        Turn::Ours(database) => (Client::with_database(database)?, false),
        Turn::Shared(client) => (client, true),
    })
}

/// The database, or whoever has it.
pub(crate) fn reach(global: &Global, home: &Path, patience: Duration) -> Result<Turn<Database>, Problem> {
    let path = database_path(home);
    Ok(match turn(home, patience, || Database::exists(Location::File(&path)))? {
        Turn::Shared(client) => Turn::Shared(client),
        Turn::Ours(false) => return Err(Problem::no_profile(home)),
        Turn::Ours(true) => {
            let open = |found: &Found| {
                turn(home, patience, || Database::open(Location::File(&path), &found.passphrase()))
            };
            passphrase::unlock(global, home, open)?.0
        }
    })
}

/// Whose turn it is.
pub(crate) enum Turn<T> {
    /// The profile is free, or was until it was opened.
    Ours(T),
    /// Another process has it, and does what it is asked.
    Shared(Client),
}

/// Waits until the profile is shared by whoever has it, or free.
fn turn<T>(
    home: &Path,
    patience: Duration,
    mut open: impl FnMut() -> Result<T, StoreError>,
) -> Result<Turn<T>, Problem> {
    let turn = in_turn(patience, || match attached(home) {
        Some(client) => Ok(Turn::Shared(client)),
        None => open().map(Turn::Ours),
    });
    turn.map_err(|error| problem::of_store(&error, home))
}

/// A client of whoever has the profile and shares it, if somebody does. Whatever else is wrong is told by
/// opening the profile.
#[cfg(unix)]
fn attached(home: &Path) -> Option<Client> {
    Client::attach(home).ok().flatten()
}

/// Only Unix sockets are known here.
#[cfg(not(unix))]
fn attached(_: &Path) -> Option<Client> {
    None
}

/// Whether there is a profile that this process can have for itself; what was cut off before it was made is
/// none.
pub(crate) fn is_there(home: &Path, patience: Duration) -> Result<bool, Problem> {
    disk::remember(home);
    let path = database_path(home);
    // Whoever shares it keeps it for long.
    let patience = if attached(home).is_some() { Duration::ZERO } else { patience };
    in_turn(patience, || Database::exists(Location::File(&path)))
        .map_err(|error| problem::of_store(&error, home))
}

/// Waits for as long while another process has the profile open.
fn in_turn<T>(
    mut patience: Duration,
    mut open: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    loop {
        match open() {
            Err(StoreError::AlreadyOpen { .. }) if !patience.is_zero() => {
                std::thread::sleep(LOOK);
                patience = patience.saturating_sub(LOOK);
            }
            done => return done,
        }
    }
}

/// Opens the database of a profile that exists, and tells with what.
pub(crate) fn open_database(
    global: &Global,
    home: &Path,
    patience: Duration,
) -> Result<(Database, Found), Problem> {
    let path = database_path(home);
    passphrase::unlock(global, home, |found| {
        in_turn(patience, || Database::open(Location::File(&path), &found.passphrase()))
            .map_err(|error| problem::of_store(&error, home))
    })
}

/// Makes the folder and an empty database in it.
pub(crate) fn create_database(global: &Global, home: &Path) -> Result<(Database, Found), Problem> {
    let found = passphrase::fresh(global)?;
    make_private_folder(home).map_err(|error| {
        Problem::new("NO_HOME", format!("cannot make the folder {}: {error}", home.display()))
    })?;
    let path = database_path(home);
    let mut rng = StdRng::from_os_rng();
    let database = Database::create(Location::File(&path), &found.passphrase(), KdfCost::DEFAULT, &mut rng)
        .map_err(|error| problem::of_store(&error, home))?;
    Ok((database, found))
}

/// Takes back what [`create_database`] made, after the relay refused the account that it was for.
pub(crate) fn remove_database(home: &Path) -> Result<(), StoreError> {
    for companion in ["", "-wal", "-shm", ".lock"] {
        let mut path = database_path(home).into_os_string();
        path.push(companion);
        let path = PathBuf::from(path);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Io { path, error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Only its owner may look into a new folder; one that exists is left as it is.
pub(crate) fn make_private_folder(home: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_folder_follows_xdg() {
        let with = |xdg: Option<&'static str>| {
            system_home(move |name| match name {
                "XDG_DATA_HOME" => xdg.map(PathBuf::from),
                "HOME" => Some(PathBuf::from("/home/a")),
                _ => None,
            })
        };
        assert_eq!(with(Some("/data")), Some(PathBuf::from("/data/posthorn")));
        assert_eq!(with(Some("data")), Some(PathBuf::from("/home/a/.local/share/posthorn")));
        assert_eq!(with(None), Some(PathBuf::from("/home/a/.local/share/posthorn")));
        assert_eq!(system_home(|_| None), None);
    }
}
