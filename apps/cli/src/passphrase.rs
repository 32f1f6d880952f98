//! Where the passphrase comes from: a file, the environment, the keyring, or the person. Never from an
//! argument, which other processes can read.

use std::io::IsTerminal as _;
use std::path::Path;

use posthorn_client::store::Passphrase;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use crate::args::Global;
use crate::print::tell;
use crate::problem::Problem;
use crate::signal::{self, Signal};
use crate::{advice, keyring};

const VARIABLE: &str = "POSTHORN_PASSPHRASE";
/// How the passphrase of a profile is given where nobody can be asked.
const GIVEN_BY: &str = "set POSTHORN_PASSPHRASE, use --passphrase-file";
/// What Windows' editors put before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// How often somebody who is asked may answer.
const TRIES: usize = 3;
/// Whoever chooses fewer characters is warned.
const SHORT: usize = 8;

/// What unlocks the database, as text for the keyring.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) text: Zeroizing<String>,
}

impl Found {
    pub(crate) fn passphrase(&self) -> Passphrase {
        Passphrase::new(self.text.as_str())
    }
}

/// For a profile that exists: opens it. Who is asked may err, [`TRIES`] times.
pub(crate) fn unlock<T>(
    global: &Global,
    home: &Path,
    mut open: impl FnMut(&Found) -> Result<T, Problem>,
) -> Result<(T, Found), Problem> {
    let silently = match given(global)? {
        Some(text) => Some(text),
        None => keyring::get(home),
    };
    match silently {
        Some(text) => open_with(&text, &mut open),
        None => ask_until(|| ask("Passphrase: ", GIVEN_BY), open),
    }
}

fn ask_until<T>(
    mut ask: impl FnMut() -> Result<Zeroizing<String>, Problem>,
    mut open: impl FnMut(&Found) -> Result<T, Problem>,
) -> Result<(T, Found), Problem> {
    let mut left = TRIES;
    loop {
        let text = ask()?;
        left -= 1;
        match open_with(&text, &mut open) {
            Err(problem) if problem.code() == "WRONG_PASSPHRASE" && left > 0 => {
                tell("that is not the passphrase of this profile");
            }
            done => return done,
        }
    }
}

/// Tries the passphrase as it is meant, and then as it was given: profiles may have been made with that.
fn open_with<T>(
    text: &Zeroizing<String>,
    open: &mut impl FnMut(&Found) -> Result<T, Problem>,
) -> Result<(T, Found), Problem> {
    let meant = Found { text: meant(text) };
    match open(&meant) {
        Err(problem) if problem.code() == "WRONG_PASSPHRASE" && *meant.text != **text => {
            let found = Found { text: text.clone() };
            Ok((open(&found)?, found))
        }
        done => Ok((done?, meant)),
    }
}

/// One passphrase has one form, whatever keyboard or editor it comes from: composed (NFC), and without the
/// mark that some editors put before a text.
fn meant(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).nfc().collect())
}

/// For a profile that is being made.
pub(crate) fn fresh(global: &Global) -> Result<Found, Problem> {
    chosen(given(global)?, GIVEN_BY)
}

/// In place of the one that a profile has.
pub(crate) fn other(file: Option<&Path>) -> Result<Found, Problem> {
    chosen(file.map(from_file).transpose()?, "use --new-passphrase-file")
}

/// One that is new, asked for twice unless it is given.
fn chosen(given: Option<Zeroizing<String>>, given_by: &str) -> Result<Found, Problem> {
    let text = match given {
        Some(text) => text,
        None => {
            let text = ask("New passphrase for this profile: ", given_by)?;
            if !text.is_empty() && *ask("The same again: ", given_by)? != *text {
                return Err(Problem::new("PASSPHRASE_DIFFERS", "the two passphrases differ: try again"));
            }
            text
        }
    };
    if text.starts_with(BYTE_ORDER_MARK) {
        tell("the passphrase begins with a byte order mark, which an editor wrote: it is left out");
    }
    let text = meant(&text);
    if text.is_empty() {
        let message = "an empty passphrase protects nothing: choose one (several words are good)";
        return Err(Problem::new("EMPTY_PASSPHRASE", message));
    }
    if text.chars().count() < SHORT {
        let change = advice::command("passphrase");
        tell(&format!(
            "a passphrase of fewer than {SHORT} characters is soon guessed by whoever gets the file: several \
             words are better, {change} changes it"
        ));
    }
    Ok(Found { text })
}

fn given(global: &Global) -> Result<Option<Zeroizing<String>>, Problem> {
    if let Some(file) = &global.passphrase_file {
        return from_file(file).map(Some);
    }
    // An empty variable is as good as none: nobody means an empty passphrase by it.
    Ok(std::env::var(VARIABLE).ok().filter(|text| !text.is_empty()).map(Zeroizing::new))
}

fn from_file(file: &Path) -> Result<Zeroizing<String>, Problem> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|error| {
        let message = format!("cannot read the passphrase file {}: {error}", file.display());
        Problem::new("PASSPHRASE_FILE", message)
    })?;
    Ok(first_line(&text))
}

fn first_line(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())
}

/// Asks at the terminal; `given_by` says how else it can be had.
fn ask(prompt: &str, given_by: &str) -> Result<Zeroizing<String>, Problem> {
    if !std::io::stdin().is_terminal() && !std::io::stderr().is_terminal() {
        let message = format!("no passphrase: {given_by}, or run this in a terminal to be asked");
        return Err(Problem::new("NO_PASSPHRASE", message));
    }
    // On Ctrl-C rpassword sends SIGINT to this process. If that ended it, the terminal would stay without
    // echo.
    signal::keep_from_ending_by_interrupt();
    rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| match error.kind() {
        std::io::ErrorKind::Interrupted => Problem::interrupted(Signal::Interrupt, "nothing was done"),
        _ => Problem::new("NO_PASSPHRASE", format!("cannot ask for the passphrase ({error}): {given_by}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_may_err_twice() {
        let wrong = || Problem::new("WRONG_PASSPHRASE", "no");
        let answer = |right: usize| {
            let (mut asked, mut tried) = (0, 0);
            let done = ask_until(
                || {
                    asked += 1;
                    Ok(Zeroizing::new(asked.to_string()))
                },
                |_| {
                    tried += 1;
                    if tried == right { Ok(()) } else { Err(wrong()) }
                },
            );
            (done.map(|((), found)| found.text.to_string()), asked)
        };
        assert_eq!(answer(1), (Ok("1".to_owned()), 1));
        assert_eq!(answer(3), (Ok("3".to_owned()), 3));
        assert_eq!(answer(4), (Err(wrong()), 3));
        let mut asked = 0;
        let damaged = ask_until(
            || {
                asked += 1;
                Ok(Zeroizing::new("x".to_owned()))
            },
            |_| Err::<(), _>(Problem::new("STORE_DAMAGED", "no")),
        );
        assert!(damaged.is_err());
        assert_eq!(asked, 1, "another passphrase repairs nothing");
    }

    #[test]
    fn a_passphrase_is_the_same_from_every_keyboard() {
        let opened = |right: &'static str, typed: &str| {
            let mut tried = 0;
            let done = open_with(&Zeroizing::new(typed.to_owned()), &mut |found: &Found| {
                tried += 1;
                if *found.text == right { Ok(()) } else { Err(Problem::new("WRONG_PASSPHRASE", "")) }
            });
            (done.ok().map(|((), found)| found.text.to_string()), tried)
        };
        let (composed, decomposed) = ("H\u{1ed9}i", "Ho\u{323}\u{302}i");
        assert_eq!(opened(composed, composed), (Some(composed.to_owned()), 1));
        assert_eq!(opened(composed, decomposed), (Some(composed.to_owned()), 1));
        assert_eq!(opened(composed, "\u{feff}H\u{1ed9}i"), (Some(composed.to_owned()), 1));
        assert_eq!(
            opened(decomposed, decomposed),
            (Some(decomposed.to_owned()), 2),
            "made before there was a form"
        );
        assert_eq!(opened("other", decomposed), (None, 2));
        assert_eq!(opened("other", "plain"), (None, 1), "the same is not tried twice");
    }

    #[test]
    fn a_file_counts_by_its_first_line() {
        assert_eq!(*first_line("correct horse\nbattery\n"), "correct horse");
        assert_eq!(*first_line("  spaces stay \r\n"), "  spaces stay ");
        assert_eq!(*first_line(""), "");
    }
}
