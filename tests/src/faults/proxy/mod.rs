//! Proxy: real proxies before a real relay, with the configurations of the documentation (`docs/nginx.conf`,
//! `docs/haproxy.cfg`). Whose address counts, what a client can forge, what becomes of the handshake, of
//! silence, and of connections when a proxy is told to read its configuration again.
//!
//! [`others`] has the clients that others wrote, without a proxy.
//!
//! Each client has an address of this machine's own (127.0.0.2 and so on), and the proxy, which is trusted,
//! has 127.0.0.1.

mod client;
pub(super) mod front;
mod others;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;
use posthorn_proto::limits::BLOB_PART_BYTES;
use posthorn_proto::{BLOB_PATH, CLOSE_IDLE};
use tokio_tungstenite::tungstenite::Message;

use self::client::{Client, client, plain};
use self::front::{CERTIFICATE, Change, Front, KEY, Kind};
use super::{Run, Tally, now};
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::PATIENCE;

/// The status of who has too many connections.
const TOO_MANY: u16 = 503;
/// Connections of one address.
const PER_ADDRESS: u16 = 2;
/// A relay that trusts the proxies of this machine, and exempts nobody.
const BEHIND: &[&str] = &[
    "--set",
    "trusted_proxies=[\"127.0.0.1\"]",
    "--set",
    "rates.exempt=[]",
    "--set",
    "connections.per_address=2",
    "--set",
    "limits.idle_seconds=5",
];

/// HAProxy speaks version 1 instead of 2.
const VERSION_1: Change = ("send-proxy-v2\n", "send-proxy\n");
/// HAProxy passes on bytes, and TLS ends at the relay.
const BYTES: &[Change] = &[
    ("mode http", "mode tcp"),
    (" ssl crt /etc/haproxy/relay.example.pem alpn http/1.1", ""),
    ("    timeout http-request 10s\n", ""),
    ("    http-reuse never\n", ""),
];

/// A proxy, and how it is set up.
#[derive(Clone, Copy)]
struct Setup {
    name: &'static str,
    kind: Kind,
    changes: &'static [Change],
    /// Whether the relay has the certificate.
    tls: bool,
}

const NGINX: &str = "nginx, X-Forwarded-For";
const HAPROXY: &str = "HAProxy, PROXY 2";
const SETUPS: &[Setup] = &[
    Setup { name: NGINX, kind: Kind::Nginx, changes: &[], tls: false },
    Setup { name: HAPROXY, kind: Kind::Haproxy, changes: &[], tls: false },
    Setup { name: "HAProxy, PROXY 1", kind: Kind::Haproxy, changes: &[VERSION_1], tls: false },
    Setup { name: "HAProxy, PROXY 2 before TLS", kind: Kind::Haproxy, changes: BYTES, tls: true },
];

/// A case's name, and what came of it.
type Case = (String, anyhow::Result<String>);

/// Runs the program. The proxies stand side by side: most of their time is spent in silence.
pub async fn run(run: &Run, tally: &mut Tally) {
    let (there, missing): (Vec<&Setup>, Vec<&Setup>) = SETUPS.iter().partition(|setup| setup.kind.is_there());
    for setup in missing {
        Tally::skip(&format!("proxy: {}", setup.name), &format!("{} is not installed", setup.kind.program()));
    }
    let played = join_all(there.into_iter().map(|setup| play(run, *setup))).await;
    for (name, outcome) in played.into_iter().flatten() {
        tally.count(&name, outcome);
    }
    others::run(run, tally).await;
}

/// All cases of one proxy.
async fn play(run: &Run, setup: Setup) -> Vec<Case> {
    let (limits, handshakes, silence, reload) =
        tokio::join!(limits(run, setup), handshakes(run, setup), silence(run, setup), reload(run, setup));
    let mut cases = vec![
        ("limits by address", limits),
        ("handshakes", handshakes),
        ("silence", silence),
        ("reading the configuration again", reload),
    ];
    match setup.name {
        NGINX => cases.push(("set up carelessly", careless(run, setup).await)),
        HAPROXY => cases.push(("asking whether the relay is well", health(run, setup).await)),
        _ => {}
    }
    cases.into_iter().map(|(what, outcome)| (format!("proxy: {}: {what}", setup.name), outcome)).collect()
}

/// A relay behind a proxy.
struct Stage {
    relay: RelayProcess,
    front: Front,
    /// TLS ends at the relay, which ends a connection that is too many before there is a status.
    tls: bool,
    /// Where its certificate is, while it has one.
    _files: tempfile::TempDir,
}

impl Stage {
    async fn set(run: &Run, setup: Setup, changes: &[Change]) -> anyhow::Result<Self> {
        let files = tempfile::tempdir()?;
        let path = |name: &str| files.path().join(name).display().to_string();
        std::fs::write(path("certificate.pem"), CERTIFICATE)?;
        std::fs::write(path("key.pem"), KEY)?;
        let (certificate, key) = (path("certificate.pem"), path("key.pem"));
        let mut options = BEHIND.to_vec();
        if setup.tls {
            options.extend(["--tls-certificate", &certificate, "--tls-key", &key]);
        }
        let relay = RelayProcess::start(&RelayProgram::new(&run.relay), &options).await?;
        let changes = [setup.changes, changes].concat();
        let front = Front::start(setup.kind, relay.address(), &changes).await?;
        Ok(Self { relay, front, tls: setup.tls, _files: files })
    }

    async fn join(
        &self,
        from: Ipv4Addr,
        headers: &[(&'static str, &str)],
    ) -> anyhow::Result<Result<Client, u16>> {
        match Client::connect(self.front.address, from, headers).await {
            Err(_) if self.tls => Ok(Err(TOO_MANY)),
            connected => connected,
        }
    }

    /// Tries until there is room again for one more connection from there.
    async fn join_when_there_is_room(&self, from: Ipv4Addr) -> anyhow::Result<Client> {
        let until = now() + PATIENCE;
        loop {
            match self.join(from, &[]).await? {
                Ok(client) => return Ok(client),
                Err(status) => ensure!(status == TOO_MANY && now() < until, "refused with {status}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(mut self) -> anyhow::Result<()> {
        let said = self.relay.said();
        ensure!(
            !said.contains("BAD_FORWARDED_ADDRESS"),
            "the relay could not read what the proxy says: {said}"
        );
        self.relay.stop().await
    }
}

/// Each client has its own limit, and can claim nobody else's.
async fn limits(run: &Run, setup: Setup) -> anyhow::Result<String> {
    let stage = Stage::set(run, setup, &[]).await?;
    let (alice, bob) = (client(1), client(2));
    let mut open = Vec::new();
    for _ in 0..PER_ADDRESS {
        for from in [alice, bob] {
            open.push(stage.join(from, &[]).await?.map_err(|status| anyhow::anyhow!("{from} got {status}"))?);
        }
    }
    let forged: &[&[(&str, &str)]] = &[
        &[],
        &[("x-forwarded-for", "192.0.2.1")],
        &[("x-forwarded-for", "127.0.0.1, 192.0.2.1")],
        &[("x-forwarded-for", "rubbish")],
        &[("forwarded", "for=192.0.2.1"), ("x-real-ip", "192.0.2.1")],
    ];
    for headers in forged {
        let refused = stage.join(alice, headers).await?.err();
        ensure!(refused == Some(TOO_MANY), "{alice} with {headers:?} got {refused:?}");
    }
    ensure!(
        stage.join(client(3), &[("x-forwarded-for", "127.0.0.2")]).await?.is_ok(),
        "somebody else's limit"
    );
    for client in &mut open {
        client.ping().await?;
    }
    drop(open);
    stage.join_when_there_is_room(alice).await?.ping().await?;
    stage.end().await?;
    Ok(format!("{PER_ADDRESS} connections each, {} claims of another address", forged.len()))
}

/// What clients offer and relays answer comes through unchanged.
async fn handshakes(run: &Run, setup: Setup) -> anyhow::Result<String> {
    let stage = Stage::set(run, setup, &[]).await?;
    let offers = "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame";
    let headers =
        [("sec-websocket-extensions", offers), ("sec-websocket-protocol", "mqtt, posthorn.v1, chat")];
    let mut client_ =
        stage.join(client(1), &headers).await?.map_err(|status| anyhow::anyhow!("got {status}"))?;
    ensure!(client_.agreed == (Some("posthorn.v1".to_owned()), None), "{:?}", client_.agreed);
    client_.ping().await?;
    client_.shout(Message::binary(vec![0; 600 * 1024])).await;
    ensure!(client_.closing().await? == Some(1009), "the close code gets lost");

    let refused = stage.join(client(2), &[("sec-websocket-protocol", "mqtt")]).await?.err();
    ensure!(refused == Some(400), "without the subprotocol: {refused:?}");
    let old = "GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n";
    let answer = plain(stage.front.address, client(3), old).await?;
    ensure!(answer.contains(" 200 ") && answer.contains("{\"status\":\"ok\"}"), "HTTP/1.0: {answer}");
    let (blob, key) = ("ab".repeat(16), "cd".repeat(32));
    let head = format!("PUT {BLOB_PATH}{blob}/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    let length = BLOB_PART_BYTES as usize;
    let put = head
        + &format!("Authorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n")
        + &"x".repeat(length);
    let answer = plain(stage.front.address, client(5), &put).await?;
    ensure!(answer.contains("BLOB_UNKNOWN"), "a whole part of a blob: {answer}");
    let old = "GET /v1/ws HTTP/1.0\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
               Sec-WebSocket-Protocol: posthorn.v1\r\n\r\n";
    let answer = plain(stage.front.address, client(4), old).await?;
    let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
    // nginx makes HTTP/1.1 of it, so that the relay sees nothing wrong.
    let expected = if setup.kind == Kind::Nginx { "101" } else { "505" };
    ensure!(status == expected, "an upgrade by HTTP/1.0: {answer}");
    stage.end().await?;
    Ok(format!("an upgrade by HTTP/1.0 is answered {status}"))
}

/// Silence is ended by the relay, which says so, unless the proxy is less patient.
async fn silence(run: &Run, setup: Setup) -> anyhow::Result<String> {
    let stage = Stage::set(run, setup, &[]).await?;
    let mut silent = Client::welcome(stage.front.address, client(1)).await?;
    let code = silent.closing().await?;
    ensure!(code == Some(CLOSE_IDLE), "it ended with {code:?}");
    stage.end().await?;

    let hasty: &[Change] = match setup.kind {
        Kind::Nginx => &[
            ("proxy_read_timeout 120s", "proxy_read_timeout 2s"),
            ("proxy_send_timeout 120s", "proxy_send_timeout 2s"),
        ],
        Kind::Haproxy => {
            &[("client 120s", "client 2s"), ("server 120s", "server 2s"), ("tunnel 120s", "tunnel 2s")]
        }
    };
    let stage = Stage::set(run, setup, hasty).await?;
    let mut busy = Client::welcome(stage.front.address, client(1)).await?;
    let mut silent = Client::welcome(stage.front.address, client(1)).await?;
    let begun = now();
    while begun.elapsed() < Duration::from_secs(4) {
        busy.ping().await.context("who is busy")?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let code = silent.closing().await?;
    ensure!(code.is_none(), "a hasty proxy says {code:?}");
    busy.ping().await?;
    stage.end().await?;
    Ok("ended by the relay with 4000; by a proxy with a time-out of 2 s without a word, but for who pings"
        .to_owned())
}

/// A proxy that reads its configuration again keeps the connections that it has.
async fn reload(run: &Run, setup: Setup) -> anyhow::Result<String> {
    let stage = Stage::set(run, setup, &[]).await?;
    let mut early = Client::welcome(stage.front.address, client(1)).await?;
    early.ping().await?;
    let changes: &[Change] = match setup.kind {
        Kind::Nginx => &[("location / {", "location /again { return 200 again; }\n        location / {")],
        Kind::Haproxy if setup.tls => {
            &[("bind ", "tcp-request connection reject if { src 127.0.0.9 }\n    bind ")]
        }
        Kind::Haproxy => &[(
            "default_backend",
            "http-request return status 200 content-type text/plain string again if { path /again }\n    default_backend",
        )],
    };
    stage.front.reload(changes).await?;
    let asked = "GET /again HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let until = now() + PATIENCE;
    loop {
        let answer = plain(stage.front.address, client(8), asked).await;
        if answer.map_or(setup.tls, |answer| answer.ends_with("again")) {
            break;
        }
        ensure!(now() < until, "the configuration is not read again: {}", stage.front.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    early.ping().await.context("who was there before")?;
    Client::welcome(stage.front.address, client(1)).await?.ping().await.context("who comes later")?;
    stage.join_when_there_is_room(client(1)).await.context("the second has gone")?;
    early.ping().await?;
    stage.end().await?;
    Ok("who was connected stays so".to_owned())
}

/// What happens with a proxy that was set up carelessly.
async fn careless(run: &Run, setup: Setup) -> anyhow::Result<String> {
    // All of its clients have one address, its own, and share that one's limit.
    let stage = Stage::set(
        run,
        setup,
        &[("            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n", "")],
    )
    .await?;
    let _open = [
        Client::welcome(stage.front.address, client(1)).await?,
        Client::welcome(stage.front.address, client(2)).await?,
    ];
    let refused = stage.join(client(3), &[]).await?.err();
    ensure!(refused == Some(503), "the third of all got {refused:?}");
    // And what they claim would be believed, which is why the documentation insists.
    let claimed = stage.join(client(3), &[("x-forwarded-for", "192.0.2.1")]).await?;
    ensure!(claimed.is_ok(), "a header that nginx passes on as it comes is its own word");
    let refused = stage.join(client(3), &[("x-forwarded-for", "rubbish")]).await?.err();
    ensure!(refused == Some(400), "rubbish got {refused:?}");
    stage.relay.says("BAD_FORWARDED_ADDRESS").await.context("the host is not told")?;

    let stage = Stage::set(run, setup, &[("            proxy_http_version 1.1;\n", "")]).await?;
    let refused = stage.join(client(1), &[]).await?.err();
    ensure!(refused == Some(505), "an upgrade that nginx makes HTTP/1.0 got {refused:?}");
    Ok("one limit for all, rubbish refused with 400, HTTP/1.0 with 505".to_owned())
}

/// A proxy that looks after the relay speaks for itself meanwhile.
async fn health(run: &Run, setup: Setup) -> anyhow::Result<String> {
    let asks = (
        "send-proxy-v2\n",
        "send-proxy-v2 check inter 100ms fall 1\n    option httpchk GET /health\n    http-check expect string ok\n",
    );
    let stage = Stage::set(run, setup, &[asks]).await?;
    let begun = now();
    while begun.elapsed() < Duration::from_secs(1) {
        stage.join_when_there_is_room(client(1)).await?.ping().await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = stage.front.log();
    ensure!(!log.contains("DOWN"), "HAProxy thinks that the relay is not well: {log}");
    stage.end().await?;
    Ok("ten looks a second, and it is well".to_owned())
}
