//! Every mistake of who runs a relay gets one line that says what is wrong, and a status that is not 0.

mod common;

use std::process::{Command, Stdio};

use common::relay_program;
use posthorn_tests::relay::RelayProcess;

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
    let mistakes: &[(&[&str], &str)] = &[
        (&["--listen", &port_in_use], &port_in_use),
        (&["--listen", "127.0.0.1:0", "--data", &data_in_use], "in use"),
        (&["--listen", "nonsense"], "listen"),
        (&["--set", "limits.no_such_key=1"], "no_such_key"),
        (&["--set", "limits.idle_seconds=-1"], "idle_seconds"),
        (&["--set", "novalue"], "KEY=VALUE"),
        (&["--config", "no/such/file.toml"], "no/such/file.toml"),
        (&["--tls-certificate", "no/such.pem"], "tls"),
        (&["invite"], "relay"),
    ];
    for (arguments, named) in mistakes {
        let told = relay(arguments);
        assert!(told.to_lowercase().contains(&named.to_lowercase()), "{arguments:?} does not name {named:?}: {told}");
    }
    running.alive()
}
