//! The program `posthorn-server`: arguments in, one relay or one question to the running one out.
//!
//! Owns what is printed and the exit status. Mistakes are told in one line on standard error, with what to
//! do.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::admin::{self, Answer, Ask, AskError};
use crate::advice;
use crate::clock::SystemClock;
use crate::config::{Config, ConfigError, Engine, LogFormat, Sources, default_data};
use crate::gateway::Certificates;
use crate::panics::caught;
use crate::relay::{Relay, StartError};
use crate::store::embedded::EmbeddedStore;

/// What shells say of a program whose reader went away: 128 and SIGPIPE.
const READER_GONE: u8 = 141;

/// Stores and forwards end-to-end encrypted messages that it cannot read.
#[derive(Debug, Parser)]
#[command(name = "posthorn-server", version, args_conflicts_with_subcommands = false)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the relay (the default).
    Serve(Settings),
    /// Mint an invite code at the running relay.
    Invite {
        /// How many accounts it may make.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// For how many days it is valid.
        #[arg(long, default_value_t = 7)]
        days: u32,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print the running relay's numbers.
    Stats {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Tell the running relay that the clock is right after a jump: expiry goes on.
    ConfirmClock,
    /// Remove an account from the running relay, with its card and key packages: there is no way back.
    RemoveAccount {
        /// Its name at this relay.
        handle: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Tell an error as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// After putting back a backup, while no relay runs: begin a new incarnation of the store, so that
    /// clients compare what they know, and discard one-time key packages, which may have been given out.
    Restored {
        /// Tell an error as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// After the disk has lost something, while no relay runs: save what is readable of damaged segments,
    /// remove them, and count what is lost as dealt with.
    ForgetDamage {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Tell an error as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Check the configuration without starting.
    CheckConfig {
        #[command(flatten)]
        settings: Settings,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print what a shell needs to complete the words of this program.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of this program into a folder.
    Man {
        /// Where to: such as man1 in a folder of MANPATH.
        folder: PathBuf,
    },
}

/// Where the relay is, and what is set: every command needs that.
#[derive(Debug, Args)]
struct Place {
    /// Configuration file [default: posthorn.toml in the data folder, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder [default: $XDG_DATA_HOME/posthorn-server or ~/.local/share/posthorn-server]
    #[arg(long, global = true, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Set any key of the configuration, such as limits.idle_seconds=30
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What matters to a relay that is started, or about to be.
#[derive(Debug, Args)]
struct Settings {
    /// Address and port to listen on [default: 127.0.0.1:4100]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// What clients should connect to, such as wss://relay.example
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Let anybody register, without an invite
    #[arg(long)]
    open_registration: bool,
    /// embedded, or memory (which forgets everything)
    #[arg(long)]
    engine: Option<String>,
    /// TLS certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// TLS private key, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// error, warn, info, debug or trace
    #[arg(long)]
    log_level: Option<String>,
    /// text or json
    #[arg(long)]
    log_format: Option<String>,
    /// Limit no rates, and nothing by address: for measurements
    #[arg(long)]
    no_rates: bool,
    /// Mint an invite for this many accounts at start, and print it
    #[arg(long, value_name = "USES", num_args = 0..=1, default_missing_value = "1")]
    print_invite: Option<u32>,
}

/// Runs the program with these arguments, the first of which is its name. Makes its own runtime.
pub fn cli_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let program = arguments.first().map_or_else(|| PathBuf::from("posthorn-server"), PathBuf::from);
    let parsed = Arguments::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) if json && error.use_stderr() => {
            let text = error.render().to_string();
            print_error("USAGE", text.lines().next().unwrap_or_default().trim_start_matches("error: "), true);
            return ExitCode::from(2);
        }
        Err(error) => {
            // Help and version come this way too; clap knows which are mistakes.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(&program, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if reader_is_gone(&error) => ExitCode::from(READER_GONE),
        Err(error) => {
            print_error(code_of(&error), &format!("{error:#}"), json);
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output (`| head`) has enough: nothing to complain about.
fn reader_is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The stable name of what went wrong, for programs.
fn code_of(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref::<AskError>() {
        Some(AskError::NotRunning(_)) => "NOT_RUNNING",
        Some(AskError::Socket(_)) => "SOCKET",
        Some(AskError::Refused(_)) => "REFUSED",
        None if error.is::<ConfigError>() => "CONFIGURATION",
        None => "FAILED",
    }
}

/// One line on standard error.
fn print_error(code: &str, message: &str, json: bool) {
    if json {
        eprintln!("{}", serde_json::json!({"error": {"code": code, "message": message}}));
    } else {
        eprintln!("posthorn-server: {message}");
    }
}

fn run(program: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.task {
        Some(Task::Completions { shell }) => return completions(*shell),
        Some(Task::Man { folder }) => return man(folder),
        _ => {}
    }
    let config = arguments.load()?;
    let Some(task) = &arguments.task else { return serve(program, config, arguments.settings.print_invite) };
    match task {
        Task::Serve(settings) => {
            serve(program, config, settings.print_invite.or(arguments.settings.print_invite))
        }
        Task::Invite { uses, days, json } => match ask(&config, &Ask::Invite { uses: *uses, days: *days })? {
            Answer::Invited { invite, relay } => tell_invite(program, &invite, &relay, *json),
            _ => Err(anyhow!("the relay answered something else: is it of another version?")),
        },
        Task::Stats { json } => match ask(&config, &Ask::Stats)? {
            Answer::Stats(numbers) if *json => print_json(&numbers),
            Answer::Stats(numbers) => {
                let value = serde_json::to_value(&numbers)?;
                let mut rows = value.as_object().into_iter().flatten();
                rows.try_for_each(|(name, value)| {
                    say(&format!("{name:>16}  {}", value.to_string().trim_matches('"')))
                })
            }
            _ => Err(anyhow!("the relay answered something else: is it of another version?")),
        },
        Task::ConfirmClock => {
            ask(&config, &Ask::ConfirmClock)?;
            say("the clock is confirmed")
        }
        Task::RemoveAccount { handle, yes, .. } => {
            let what = format!("{handle} loses its account here, with its card and key packages, for good");
            consent(*yes, &what)?;
            ask(&config, &Ask::RemoveAccount { handle: handle.clone() })?;
            say(&format!("{handle} is removed; the name is free"))
        }
        Task::Restored { .. } => restored(&config),
        Task::ForgetDamage { yes, .. } => forget_damage(&config, *yes),
        Task::CheckConfig { json, .. } => check(&config, *json),
        Task::Completions { .. } | Task::Man { .. } => Ok(()),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "posthorn-server", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

/// A page for the program, and one for each command.
fn man(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), folder))
        .with_context(|| format!("no pages were written to {}", folder.display()))?;
    say(&format!("the pages are in {}: begin with posthorn-server.1", folder.display()))
}

/// Asks before something that cannot be undone.
fn consent(yes: bool, what: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(anyhow!("{what}: say --yes if that is meant"));
    }
    eprint!("{what}. Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(anyhow!("nothing was removed")) }
}

/// Gives up what is damaged, once the operator has seen what that is.
fn forget_damage(config: &Config, yes: bool) -> anyhow::Result<()> {
    const SHOWN: usize = 20;
    let file = needs_store(config, "name the damaged one's folder with --data")?.join("damage");
    start_log(config);
    let clock = std::sync::Arc::new(SystemClock::start());
    let store = EmbeddedStore::examine(&config.embedded(), clock, &mut StdRng::from_os_rng())?;
    let lost = store.damage();
    if lost.is_empty() {
        return say("nothing is damaged: nothing was done");
    }
    lost.iter().take(SHOWN).try_for_each(|line| say(&format!("lost: {line}")))?;
    if lost.len() > SHOWN {
        say(&format!("... and {} more, in {}", lost.len() - SHOWN, file.display()))?;
    }
    consent(yes, "what is readable of damaged segments is saved, and then they are removed for good")?;
    store.forget_damage()?;
    say("the damage is forgotten; readers of lost envelopes are still told")
}

/// The data folder, if there is a store in it; else the error says what to do.
fn needs_store<'a>(config: &'a Config, what_to_do: &str) -> anyhow::Result<&'a Path> {
    let data = &config.data;
    if config.engine == Engine::Memory || !data.join("journal").is_dir() {
        let data = data.display();
        return Err(anyhow!("there is no store in {data}: {what_to_do}"));
    }
    Ok(data)
}

/// Makes another store of a restored one (R10).
fn restored(config: &Config) -> anyhow::Result<()> {
    let what_to_do = "put the backup there, or name another folder with --data";
    let data = needs_store(config, what_to_do)?.display();
    start_log(config);
    let clock = std::sync::Arc::new(SystemClock::start());
    EmbeddedStore::renew_incarnation(&config.embedded(), clock, &mut StdRng::from_os_rng())?;
    say(&format!(
        "the store in {data} has a new incarnation, and one-time key packages are discarded: start the relay"
    ))
}

/// What starting would find wrong, without starting.
fn check(config: &Config, json: bool) -> anyhow::Result<()> {
    Certificates::load(&config.tls)?;
    crate::relay::check_blobs(config)?;
    if json {
        return print_json(&serde_json::json!({"good": true, "warnings": warnings(config)}));
    }
    warn(config);
    say("the configuration is good")
}

fn warn(config: &Config) {
    warnings(config).iter().for_each(|warning| eprintln!("posthorn-server: warning: {warning}"));
}

/// What is allowed and hardly meant, in a line each.
fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.trusted_proxies.names_everybody() {
        let text = "trusted_proxies names every address, so that any client can choose the one that limits count: \
                    name the proxy's alone";
        warnings.push(text.to_owned());
    }
    let behind_proxy = config.public_url.as_ref().is_some_and(|url| url.starts_with("wss://"));
    if config.tls.certificate.is_some() {
        return warnings;
    }
    // Whoever is between reads nothing that is encrypted end to end, but sees the rest, and can take the
    // relay's place.
    if !config.listen.ip().is_loopback() && !behind_proxy {
        warnings.push(format!(
            "{} is open to the network without TLS: set tls.certificate and tls.key, or listen on 127.0.0.1 \
             behind a TLS proxy and set public_url to its wss:// address",
            config.listen
        ));
    }
    if behind_proxy && config.trusted_proxies.is_empty() {
        let text = "public_url is wss:// and there is no certificate, so there is a proxy, but trusted_proxies names \
                    none: all clients count as one address and share its limits; set trusted_proxies to the \
                    proxy's address, such as [\"127.0.0.1\"]";
        warnings.push(text.to_owned());
    }
    warnings
}

/// Why the relay does not start, with what to do about the commonest.
fn not_started(error: StartError) -> anyhow::Error {
    use std::io::ErrorKind;
    let what_to_do = match &error {
        StartError::Listen(_, io) => match io.kind() {
            ErrorKind::AddrInUse => {
                "another program (another relay?) listens there: stop that one, or choose another port with --listen ADDRESS:PORT"
            }
            ErrorKind::AddrNotAvailable => {
                "this machine has no such address: choose one of its own, or 0.0.0.0 for all of them"
            }
            ErrorKind::PermissionDenied => {
                "ports below 1024 are for privileged programs: choose a higher one with --listen ADDRESS:PORT, or allow \
                 this one (AmbientCapabilities=CAP_NET_BIND_SERVICE in its systemd unit, or `sudo setcap \
                 cap_net_bind_service=+ep` and the program's file)"
            }
            _ => return error.into(),
        },
        _ => return error.into(),
    };
    anyhow!("{error}: {what_to_do}")
}

fn ask(config: &Config, ask: &Ask) -> anyhow::Result<Answer> {
    Ok(admin::ask(&config.data, ask)?)
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    say(&serde_json::to_string(value)?)
}

/// One line on standard output, at once: whoever started the program may be waiting for it.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// A value of the configuration as text, under its key. Quoted, or a folder named 42 would be a number.
type Flag = (String, String);

fn flag(key: &str, value: Option<String>) -> Option<Flag> {
    value.map(|value| (key.to_owned(), toml::Value::String(value).to_string()))
}

fn path(path: &Option<PathBuf>) -> Option<String> {
    path.as_ref().map(|path| path.display().to_string())
}

impl Settings {
    fn flags(&self) -> Vec<Flag> {
        let texts = [
            flag("listen", self.listen.clone()),
            flag("public_url", self.public_url.clone()),
            flag("engine", self.engine.clone()),
            flag("tls.certificate", path(&self.tls_certificate)),
            flag("tls.key", path(&self.tls_key)),
            flag("log.level", self.log_level.clone()),
            flag("log.format", self.log_format.clone()),
        ];
        let mut flags: Vec<Flag> = texts.into_iter().flatten().collect();
        if self.open_registration {
            flags.push(("open_registration".to_owned(), "true".to_owned()));
        }
        if self.no_rates {
            let off = crate::config::KEYS
                .iter()
                .filter(|key| key.name.contains("_per_") && key.name.starts_with("rates."));
            flags.extend(off.map(|key| (key.name.to_owned(), "0".to_owned())));
            flags.push(("rates.exempt".to_owned(), "[\"0.0.0.0/0\", \"::/0\"]".to_owned()));
        }
        flags
    }
}

impl Arguments {
    fn load(&self) -> anyhow::Result<Config> {
        let mut flags = self.settings.flags();
        // They may stand before the command as well as behind it.
        if let Some(Task::Serve(settings) | Task::CheckConfig { settings, .. }) = &self.task {
            flags.extend(settings.flags());
        }
        flags.extend(flag("data", path(&self.place.data)));
        for set in &self.place.set {
            let (key, value) =
                set.split_once('=').with_context(|| format!("--set {set}: write KEY=VALUE"))?;
            flags.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        let data = default_data(|name| std::env::var_os(name));
        let data = data
            .or_else(|| self.place.data.clone())
            .context("neither HOME nor XDG_DATA_HOME is set: use --data")?;
        Ok(Config::load(&Sources { file: self.place.config.clone(), flags }, data)?)
    }
}

/// An invite in every form in which somebody can take it.
fn tell_invite(program: &Path, invite: &admin::Invite, relay: &str, json: bool) -> anyhow::Result<()> {
    let (code, link) = (&invite.code, advice::link(relay, &invite.code));
    if json {
        let (uses, expires) = (invite.uses, invite.expires);
        return print_json(&serde_json::json!({"code": code, "uses": uses, "expires": expires,
            "relay": relay, "link": link}));
    }
    say(&format!("invite: {code}"))?;
    let client = advice::client(program);
    say(&format!("{client} register --relay {relay} --handle NAME --invite {code}"))?;
    say(&format!("or, as one word for --invite: {link}"))?;
    match advice::picture(&link).filter(|_| std::io::stdout().is_terminal()) {
        Some(picture) => say(&picture),
        None => Ok(()),
    }
}

fn serve(program: &Path, config: Config, print_invite: Option<u32>) -> anyhow::Result<()> {
    start_log(&config);
    crate::descriptors::raise();
    threads()?.block_on(async {
        // Before starting, so that no signal finds the relay without a handler.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        let data = config.data.display().to_string();
        warn(&config);
        let is_in_memory = config.engine == Engine::Memory;
        let relay = Relay::start(config).await.map_err(not_started)?;
        say(&format!("posthorn-server listens on {}", relay.url()))?;
        say(&format!("data: {data}"))?;
        match print_invite {
            Some(uses) => say(&format!("invite: {}", relay.mint_invite(uses.max(1), 7).await?.code))?,
            None if is_in_memory => say("first invite: start again with --print-invite")?,
            None => {
                // Who has an account has used one.
                let which = if relay.numbers().accounts == 0 { "first invite" } else { "another invite" };
                let (relay, data) = (advice::relay(program), advice::quoted(&data));
                say(&format!("{which}: {relay} invite --data {data}"))?;
            }
        }
        tracing::info!("started");
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => relay.reload().await,
                () = relay.failed() => return Err(anyhow!("the disk failed: stopping, nothing that was answered is lost")),
            }
        }
        tracing::info!("stopping");
        tokio::select! {
            closed = relay.shutdown() => closed.context("the store did not close well")?,
            _ = terminate.recv() => return Err(anyhow!("stopped at once, on the second signal")),
            _ = interrupt.recv() => return Err(anyhow!("stopped at once, on the second signal")),
        }
        tracing::info!("stopped");
        Ok(())
    })
}

/// The runtime. Where the system has no thread for it, tokio panics, which tells nobody what to do.
fn threads() -> anyhow::Result<Runtime> {
    let Ok(runtime) = caught(|| Builder::new_multi_thread().enable_all().build()) else {
        bail!("the system has no more threads: raise TasksMax= of systemd or `ulimit -u`, and start again")
    };
    runtime.context("cannot start threads")
}

/// To standard error. If the program that we are part of has a log already, that one is used.
fn start_log(config: &Config) {
    // Of what goes on with S3 the relay tells itself what matters, once.
    let filter = tracing_subscriber::EnvFilter::new(format!("object_store=error,{}", config.log.level));
    let colour = std::io::stderr().is_terminal();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    // A second subscriber is refused, which is what we want.
    let _ = match config.log.format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_for_the_privileged_can_be_allowed() {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let told = not_started(StartError::Listen(([0, 0, 0, 0], 443).into(), denied)).to_string();
        assert!(told.contains("CAP_NET_BIND_SERVICE") && told.contains("setcap"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }

    #[test]
    fn a_command_has_the_flags_that_mean_something_to_it() {
        let parsed = |words: &[&str]| Arguments::try_parse_from([&["posthorn-server"], words].concat());
        for command in ["invite", "stats", "confirm-clock", "remove-account", "restored", "forget-damage"] {
            let help = parsed(&[command, "--help"]).expect_err("help").to_string();
            assert!(help.contains("--data <FOLDER>") && help.contains("--set <KEY=VALUE>"), "{help}");
            assert!(!help.contains("--listen") && !help.contains("--no-rates"), "{help}");
        }
        assert!(parsed(&["invite", "--listen", "127.0.0.1:1"]).is_err());
        let listens = |words: &[&str]| {
            let config = parsed(words).expect("words").load().expect("a configuration");
            config.listen.to_string()
        };
        let [one, two] = ["127.0.0.1:1", "127.0.0.1:2"];
        assert_eq!(listens(&["--listen", one]), one);
        assert_eq!(listens(&["--listen", one, "serve"]), one);
        assert_eq!(listens(&["--listen", one, "check-config", "--listen", two]), two);
        assert_eq!(listens(&["serve", "--listen", one, "--set", "listen=127.0.0.1:2"]), two);
    }

    #[test]
    fn where_there_is_no_store_the_way_out_is_that_of_the_command() {
        let dir = tempfile::tempdir().expect("temp dir");
        let sources = Sources { file: None, flags: Vec::new() };
        let config = Config::load(&sources, dir.path().to_owned()).expect("the defaults are good");
        let told = |result: anyhow::Result<()>| result.expect_err("there is none").to_string();
        let (restored, forgetting) = (told(restored(&config)), told(forget_damage(&config, true)));
        assert!(restored.contains("put the backup there"), "{restored}");
        assert!(forgetting.ends_with("name the damaged one's folder with --data"), "{forgetting}");
        assert!(!dir.path().join("journal").exists(), "nothing is made");
    }

    /// What a start would refuse, without asking anybody.
    #[cfg(feature = "s3")]
    #[test]
    fn credentials_for_s3_are_looked_at() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("credentials");
        let credentials = file.display().to_string();
        let flags = [("blobs.store", "s3"), ("s3.bucket", "messages"), ("s3.credentials", &credentials)];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let sources = Sources { file: None, flags };
        let config = Config::load(&sources, dir.path().to_owned()).expect("by itself it is good");
        let refused = || check(&config, false).expect_err("they are no good").to_string();
        let told = refused();
        assert!(told.contains(&credentials) && told.contains("cannot be read"), "{told}");
        std::fs::write(&file, "aws_access_key_id = me\n").expect("written");
        let told = refused();
        assert!(told.contains(&credentials) && told.contains("two lines"), "{told}");
        std::fs::write(&file, "aws_access_key_id = me\naws_secret_access_key = hidden\n").expect("written");
        check(&config, false).expect("they may be good");
    }
}
