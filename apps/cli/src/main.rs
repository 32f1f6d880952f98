//! `posthorn`: the terminal client. `docs/cli.md` tells every command.
//!
//! Reading guide, in the order of a call: `args` says what can be typed; `profile` finds the folder and opens
//! it (`passphrase`, `keyring`); `command/` has one file per family of commands, each of them a few calls of
//! the client library; `name` finds what a person means by "family" or "bob"; `output` is what it looks like
//! for people, `invitation` what an invitation means, and `print` writes it; `problem` is every way to fail,
//! `signal` what ends a command from outside, `advice` what to type next. `chat/` is the full-screen program,
//! `demo` starts the tour, `manual` writes what shells and `man` know of all that.
//!
//! Invariants: nothing here knows cryptography, the wire or the database; text that came from others is
//! printed only through [`plain`], so that nobody's message can drive somebody else's terminal.

mod advice;
mod args;
mod chat;
mod clock;
mod command;
mod demo;
mod disk;
mod invitation;
mod keyring;
mod manual;
mod name;
mod output;
mod passphrase;
mod plain;
mod print;
mod problem;
mod profile;
mod qr;
mod signal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use args::{Args, What};
use problem::Problem;

fn main() -> ExitCode {
    let typed: Vec<OsString> = std::env::args_os().collect();
    let wants_json = typed.iter().any(|arg| arg == "--json");
    let args = match Args::try_parse_from(&typed) {
        Ok(args) => args,
        Err(error)
            if wants_json
                && error.use_stderr()
                && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Problem::new("USAGE", line).print(true);
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    start_log(&args.what);
    let home = typed.iter().any(|word| word.to_string_lossy().starts_with("--home"));
    advice::remember(typed.first().map(OsString::as_os_str), args.global.home.as_deref().filter(|_| home));
    let json = args.global.json;
    match run(args) {
        Ok(code) => code,
        Err(problem) => {
            problem.print(json);
            ExitCode::from(problem.exit_status())
        }
    }
}

fn run(args: Args) -> Result<ExitCode, Problem> {
    match &args.what {
        What::Demo => return demo::run(),
        What::Completions(arguments) => {
            manual::completions(arguments);
            return Ok(ExitCode::SUCCESS);
        }
        What::Man(arguments) => return manual::man(arguments).map(|()| ExitCode::SUCCESS),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Problem::new("THREAD", format!("cannot start: {error}")))?;
    let done = runtime.block_on(command::run(&args.global, args.what));
    // Somebody may be reading from standard input for a command that has ended: that is not waited for.
    runtime.shutdown_background();
    done
}

/// Warnings of the libraries go to standard error if `POSTHORN_LOG` asks for them; never over the full-screen
/// chat.
fn start_log(what: &What) {
    if let Ok(filter) = std::env::var("POSTHORN_LOG")
        && !matches!(what, What::Chat(_))
    {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}
