//! Real proxies, as processes, with the configurations of the documentation.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::super::now;
use crate::wire::PATIENCE;

/// The certificate of the relay's own tests, and its key.
pub(in crate::faults) const CERTIFICATE: &str =
    include_str!("../../../../server/src/gateway/tests/tls/certificate.pem");
pub(in crate::faults) const KEY: &str = include_str!("../../../../server/src/gateway/tests/tls/key.pem");

const NGINX: &str = include_str!("../../../../docs/nginx.conf");
const HAPROXY: &str = include_str!("../../../../docs/haproxy.cfg");

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::faults) enum Kind {
    Nginx,
    Haproxy,
}

impl Kind {
    pub(in crate::faults) fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// Whether it is installed.
    pub(in crate::faults) fn is_there(self) -> bool {
        let mut asked = std::process::Command::new(self.program());
        asked.arg("-v").stdout(Stdio::null()).stderr(Stdio::null());
        asked.status().is_ok_and(|status| status.success())
    }
}

/// A change of a documented configuration: what stands there, and what stands there instead.
pub(in crate::faults) type Change = (&'static str, &'static str);

/// A running proxy.
pub(in crate::faults) struct Front {
    kind: Kind,
    child: Child,
    pub(in crate::faults) address: SocketAddr,
    folder: TempDir,
}

impl Front {
    /// Starts a proxy before a relay, and waits until it listens.
    pub(in crate::faults) async fn start(
        kind: Kind,
        relay: SocketAddr,
        changes: &[Change],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("certificate.pem"), CERTIFICATE)?;
        std::fs::write(path("key.pem"), KEY)?;
        std::fs::write(path("both.pem"), format!("{CERTIFICATE}{KEY}"))?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
        let mut text = match kind {
            Kind::Nginx => NGINX,
            Kind::Haproxy => HAPROXY,
        }
        .to_owned();
        for (from, to) in changes {
            text = changed(&text, from, to)?;
        }
        let (listen, relay) = (address.to_string(), relay.to_string());
        let (certificate, key, both) = (path("certificate.pem"), path("key.pem"), path("both.pem"));
        let places: &[(&str, &str)] = match kind {
            // More connections than a test may open files for.
            Kind::Nginx => &[
                ("worker_rlimit_nofile 40000;\n", ""),
                ("worker_connections 20000", "worker_connections 200"),
                ("127.0.0.1:4100;", &format!("{relay};")),
                ("listen 443 ", &format!("listen {listen} ")),
                ("/etc/letsencrypt/live/relay.example/fullchain.pem", &certificate),
                ("/etc/letsencrypt/live/relay.example/privkey.pem", &key),
            ],
            Kind::Haproxy => &[
                ("maxconn 20000", "maxconn 200"),
                ("relay 127.0.0.1:4100", &format!("relay {relay}")),
                ("bind :443", &format!("bind {listen}")),
            ],
        };
        for (from, to) in places {
            text = changed(&text, from, to)?;
        }
        text = text.replace("/etc/haproxy/relay.example.pem", &both);
        std::fs::write(path("config"), &text)?;
        let mut command = Command::new(kind.program());
        match kind {
            Kind::Nginx => {
                let globals = format!("daemon off; pid {}; user root; error_log stderr notice;", path("pid"));
                command.args(["-e", "stderr", "-p", &path(""), "-c", &path("config"), "-g", &globals])
            }
            Kind::Haproxy => command.args(["-W", "-f", &path("config")]),
        };
        let log = std::fs::File::create(path("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // The workers are to end with it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", kind.program()))?;
        let mut front = Self { kind, child, address, folder };
        let until = now() + PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            let ended = front.child.try_wait()?;
            ensure!(ended.is_none() && now() < until, "{} does not listen: {}", kind.program(), front.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(front)
    }

    /// Changes the configuration, and makes the proxy read it again.
    pub(in crate::faults) async fn reload(&self, changes: &[Change]) -> anyhow::Result<()> {
        let path = self.folder.path().join("config");
        let mut text = std::fs::read_to_string(&path)?;
        for (from, to) in changes {
            text = changed(&text, from, to)?;
        }
        std::fs::write(&path, text)?;
        let (signal, heard) = match self.kind {
            Kind::Nginx => (Signal::HUP, "reconfiguring"),
            Kind::Haproxy => (Signal::USR2, "Reloading HAProxy"),
        };
        let until = now() + PATIENCE;
        // HAProxy listens for a moment before it hears signals.
        while !self.log().contains(heard) {
            ensure!(now() < until, "{} hears no signal: {}", self.kind.program(), self.log());
            kill_process(self.id().context("it has ended")?, signal).context("cannot signal the proxy")?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// What it printed.
    pub(in crate::faults) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn id(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()?).ok()?)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(id) = self.id() {
            // It may have ended by itself.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

/// The text with something else in one place, which must be there.
fn changed(text: &str, from: &str, to: &str) -> anyhow::Result<String> {
    ensure!(text.contains(from), "the documented configuration no longer has {from:?}");
    Ok(text.replacen(from, to, 1))
}
