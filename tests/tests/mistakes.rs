//! Every mistake of who runs a relay gets one line that says what is wrong, and a status that is not 0.

mod common;

use std::process::{Command, Stdio};

use common::relay_program;
use posthorn_proto::frame::{Request, ServerBody};
use posthorn_tests::mailbox::BareDevice;
use posthorn_tests::relay::RelayProcess;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use rustix::process::Signal;

fn relay(arguments: &[&str]) -> String {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(relay_program().program);
    if !arguments.contains(&"--data") {
        command.arg("--data").arg(data.path());
    }
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("the relay starts");
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    assert_ne!(output.status.code(), Some(101), "it panicked: {output:?}");
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    // Log lines have a time in front; what is told about the mistake has the program's name.
    let told: Vec<&str> = error.lines().filter(|line| line.starts_with("posthorn-server: ")).collect();
    assert_eq!(told.len(), 1, "{arguments:?}: {error}");
    told[0].to_owned()
}

#[tokio::test]
async fn a_mistake_gets_one_line() -> anyhow::Result<()> {
    let mut running = RelayProcess::start(&relay_program(), &[]).await?;
    let port_in_use = running.address().to_string();
    let data_in_use = running.data().display().to_string();
    let folder = tempfile::tempdir()?;
    let torn = folder.path().join("posthorn.toml").display().to_string();
    std::fs::write(&torn, "# The end is missing.\n[limits\n")?;
    let mistakes: &[(&[&str], &str)] = &[
        (&["--listen", &port_in_use], &port_in_use),
        (&["--listen", "127.0.0.1:0", "--data", &data_in_use], "in use"),
        (&["--listen", &port_in_use], "--listen ADDRESS:PORT"),
        (&["--listen", "localhost:4100"], "127.0.0.1:4100"),
        (&["--set", "limits.no_such_key=1"], "no_such_key"),
        (&["--set", "limits.idle_second=9"], "did you mean limits.idle_seconds?"),
        (&["--set", "limits.idle_seconds=-1"], "idle_seconds"),
        (&["--set", "novalue"], "KEY=VALUE"),
        (&["--config", "no/such/file.toml"], "no/such/file.toml"),
        (&["--config", &torn, "check-config"], "at line 2, column 8: unclosed"),
        (&["--tls-certificate", "no/such.pem"], "tls"),
        (&["--tls-certificate", "no/such.pem", "--tls-key", "no/such.key", "check-config"], "no/such.pem"),
        (&["invite"], "relay"),
    ];
    for (arguments, named) in mistakes {
        let told = relay(arguments);
        assert!(
            told.to_lowercase().contains(&named.to_lowercase()),
            "{arguments:?} does not name {named:?}: {told}"
        );
    }
    running.alive()
}

/// What it says at a start is true: once somebody has an account, the first invite was used.
#[tokio::test]
async fn the_first_invite_is_spoken_of_until_it_is_used() -> anyhow::Result<()> {
    let mut relay = RelayProcess::start(&relay_program(), &[]).await?;
    relay.stop().await?;
    relay.restart().await?;
    let mut wire = relay.connect().await?;
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    BareDevice::new(&mut rng).register(&mut wire, "alice", relay.invite()).await?;
    let said = all_that_it_said(&mut relay).await?;
    let line = said.lines().find(|line| line.starts_with("first invite: ")).expect("it is spoken of");
    assert!(line.contains(&relay_program().program.display().to_string()), "as it can be typed: {line}");
    relay.restart().await?;
    let said = all_that_it_said(&mut relay).await?;
    assert!(said.contains("\nanother invite: ") && !said.contains("first invite"), "{said}");
    Ok(())
}

/// Ends a relay.
async fn all_that_it_said(relay: &mut RelayProcess) -> anyhow::Result<String> {
    relay.signal(Signal::TERM)?;
    let (status, said) = relay.ended().await?;
    anyhow::ensure!(status.success(), "{status}: {said}");
    Ok(said)
}

fn posthorn_server(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(relay_program().program);
    command.args(arguments).stdin(Stdio::null()).output().expect("the program starts")
}

#[tokio::test]
async fn programs_get_flat_objects_and_errors_that_they_can_read() -> anyhow::Result<()> {
    let running = RelayProcess::start(&relay_program(), &[]).await?;
    let data = running.data().display().to_string();
    let invite = posthorn_server(&["invite", "--json", "--uses", "3", "--data", &data]);
    let invite: serde_json::Value = serde_json::from_slice(&invite.stdout)?;
    assert!(
        invite["code"].is_string() && invite["expires"].is_u64() && invite["relay"].is_string(),
        "{invite}"
    );
    assert_eq!(invite["uses"], 3);
    let empty = tempfile::tempdir()?;
    let nobody = empty.path().display().to_string();
    for (arguments, code) in [
        (&["invite", "--json", "--data", nobody.as_str()][..], "NOT_RUNNING"),
        (&["invite", "--json", "--uses", "0", "--data", data.as_str()], "REFUSED"),
        (&["restored", "--json", "--data", nobody.as_str()], "FAILED"),
        (&["restored", "--json", "--data", data.as_str()], "FAILED"),
        (&["stats", "--json", "--set", "colour=red"], "CONFIGURATION"),
        (&["invite", "--json", "--dance"], "USAGE"),
    ] {
        let output = posthorn_server(arguments);
        let error: serde_json::Value = serde_json::from_slice(&output.stderr)?;
        assert_eq!(error["error"]["code"], code, "{error}");
        assert!(!output.status.success() && error["error"]["message"].is_string(), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_hangup_ends_no_relay() -> anyhow::Result<()> {
    let mut relay = RelayProcess::start(&relay_program(), &[]).await?;
    let mut wire = relay.connect().await?;
    relay.signal(Signal::HUP)?;
    // Whom it ended would answer nothing after it.
    assert_eq!(wire.ask(Request::Ping).await?, ServerBody::Done);
    relay.stop().await
}

#[test]
fn what_is_allowed_and_hardly_meant_is_warned_of() {
    let warned = |arguments: &[&str]| {
        let output = posthorn_server(&[&["check-config"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    let warning = warned(&["--listen", "0.0.0.0:4100"]);
    assert!(warning.contains("warning") && warning.contains("TLS"), "{warning}");
    assert_eq!(warning.trim_end().lines().count(), 1, "{warning}");
    assert_eq!(warned(&["--listen", "127.0.0.1:4100"]), "");
    let output = posthorn_server(&["check-config", "--json", "--listen", "0.0.0.0:4100"]);
    let checked: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!((&checked["good"], &output.stderr[..]), (&true.into(), &b""[..]), "{checked}");
    assert!(checked["warnings"][0].as_str().is_some_and(|text| text.contains("without TLS")), "{checked}");
    let behind = ["--listen", "0.0.0.0:4100", "--public-url", "wss://relay.example"];
    let warning = warned(&behind);
    assert!(warning.contains("warning") && warning.contains("trusted_proxies"), "{warning}");
    assert_eq!(warning.trim_end().lines().count(), 1, "{warning}");
    assert_eq!(warned(&[&behind[..], &["--set", "trusted_proxies=[\"127.0.0.1\"]"]].concat()), "");
    let warning = warned(&[&behind[..], &["--set", "trusted_proxies=[\"0.0.0.0/0\"]"]].concat());
    assert!(warning.contains("every address"), "{warning}");
    assert_eq!(warning.trim_end().lines().count(), 1, "{warning}");
}

#[test]
fn shells_and_the_manual_know_its_commands() -> anyhow::Result<()> {
    let script = String::from_utf8(posthorn_server(&["completions", "bash"]).stdout)?;
    let folder = tempfile::tempdir()?;
    assert!(posthorn_server(&["man", &folder.path().display().to_string()]).status.success());
    for command in ["serve", "invite", "stats", "remove-account", "check-config"] {
        let page = std::fs::read_to_string(folder.path().join(format!("posthorn-server-{command}.1")))?;
        assert!(script.contains(command) && page.contains("\\-\\-config"), "{command}");
    }
    Ok(())
}

/// The unit for systemd in the documentation starts a relay that takes those arguments.
#[test]
fn the_documented_service_starts_a_relay() -> anyhow::Result<()> {
    let unit = include_str!("../../docs/posthorn-server.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it starts something");
    let mut words = line.split_whitespace();
    assert!(words.next().is_some_and(|program| program.ends_with("/posthorn-server")), "{line}");
    // The folder of the service is not there.
    let data = tempfile::tempdir()?.path().display().to_string();
    let here = words.map(|word| if word.starts_with("/var/") { &data } else { word });
    let output = posthorn_server(&["check-config"].into_iter().chain(here).collect::<Vec<_>>());
    assert!(output.status.success(), "{output:?}");
    assert!(unit.contains("StateDirectory=posthorn-server") && line.contains("/var/lib/posthorn-server"));
    Ok(())
}

#[test]
fn a_reader_that_goes_away_is_no_mistake() {
    let mut command = Command::new(relay_program().program);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command.arg("check-config").stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let output = command.spawn().expect("the program starts").wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(141), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
