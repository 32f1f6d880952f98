//! Clients that others wrote, at a real relay: what they offer, how they write frames, and how they close.
//!
//! They are fetched when they are not there (by pip and npm, of one version each, into the build's folder).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use posthorn_proto::frame::{ClientFrame, Request, ServerBody, ServerFrame};
use tokio::process::Command;
use tokio::time::timeout;

use super::super::{Run, Tally};
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::PATIENCE;

const WEBSOCKETS: &str = "websockets==15.0.1";
const WS: &str = "ws@8.18.3";

/// Offers compression by itself, as everybody's client of this kind does.
const IN_PYTHON: &str = r#"
import asyncio, sys, websockets
url, ask, want = sys.argv[1:]
async def talk():
    async with websockets.connect(url, subprotocols=["chat", "posthorn.v1"]) as socket:
        assert socket.subprotocol == "posthorn.v1", socket.subprotocol
        assert isinstance(await socket.recv(), bytes)
        await socket.send(bytes.fromhex(ask))
        assert (await socket.recv()).hex() == want
        await socket.send([bytes.fromhex(ask)[:1], bytes.fromhex(ask)[1:]])
        assert (await socket.recv()).hex() == want
        await (await socket.ping())
    assert socket.close_code == 1000, socket.close_code
asyncio.run(talk())
"#;

const IN_NODE: &str = r#"
const [url, ask, want] = process.argv.slice(1);
const socket = new (require("ws"))(url, ["chat", "posthorn.v1"]);
let heard = 0;
socket.on("message", (data, isBinary) => {
    if (!isBinary) throw "text";
    heard += 1;
    if (heard === 1) socket.send(Buffer.from(ask, "hex"));
    if (heard === 2 && data.toString("hex") !== want) throw data.toString("hex");
    if (heard === 2) socket.ping("there?");
});
socket.on("pong", data => { if (data.toString() !== "there?") throw data; socket.close(1000); });
socket.on("close", code => process.exit(code === 1000 && heard === 2 && socket.protocol === "posthorn.v1" ? 0 : 1));
"#;

/// Runs the cases.
pub(super) async fn run(run: &Run, tally: &mut Tally) {
    for (name, program) in [("curl", "curl"), ("websockets (Python)", "python3"), ("ws (Node.js)", "node")] {
        let name = format!("proxy: others' clients: {name}");
        match fetched(run, program).await {
            Ok(folder) => tally.count(&name, talk(run, program, &folder).await),
            Err(error) => Tally::skip(&name, &format!("{error:#}")),
        }
    }
    tally.count("proxy: others' clients: tungstenite", tungstenite(run).await);
}

/// Where what the client needs is. Not there and not to be had is an error.
async fn fetched(run: &Run, program: &str) -> anyhow::Result<PathBuf> {
    let folder = run.relay.with_file_name("clients");
    let at = |name: &str| folder.join(name).display().to_string();
    let mut fetch = match program {
        "python3" if !folder.join(WEBSOCKETS).join("websockets").exists() => {
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--target", &at(WEBSOCKETS), WEBSOCKETS]);
            pip
        }
        "node" if !folder.join(WS).join("node_modules/ws").exists() => {
            std::fs::create_dir_all(folder.join(WS))?;
            let mut npm = Command::new("npm");
            npm.args(["install", "--silent", "--prefix", &at(WS), WS]);
            npm
        }
        _ => {
            let mut asked = Command::new(program);
            asked.arg("--version");
            asked
        }
    };
    let output = timeout(10 * PATIENCE, fetch.kill_on_drop(true).output()).await?;
    let output = output.with_context(|| format!("{program} is not installed"))?;
    ensure!(
        output.status.success(),
        "{program} has no such client: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(folder)
}

/// One conversation of a client with a relay: a greeting, a ping of the protocol's own, one of WebSocket's, a
/// goodbye.
async fn talk(run: &Run, program: &str, folder: &Path) -> anyhow::Result<String> {
    let mut relay = RelayProcess::start(&RelayProgram::new(&run.relay), &[]).await?;
    let ask = hex(&ClientFrame { request: 1, body: Request::Ping }.encode());
    let want = hex(&ServerFrame { request: 1, body: ServerBody::Done }.encode());
    let mut client = Command::new(program);
    match program {
        "curl" => {
            let url = format!("http://{}{}", relay.address(), posthorn_proto::PATH);
            client.args(["--silent", "--include", "--no-buffer", "--http1.1", "--max-time", "2", &url]);
            for header in [
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Protocol: posthorn.v1",
            ] {
                client.args(["--header", header]);
            }
        }
        "python3" => {
            client.env("PYTHONPATH", folder.join(WEBSOCKETS));
            client.args(["-c", IN_PYTHON, &relay.url(), &ask, &want]);
        }
        _ => {
            client.env("NODE_PATH", folder.join(WS).join("node_modules"));
            client.args(["-e", IN_NODE, &relay.url(), &ask, &want]);
        }
    }
    let output = timeout(PATIENCE, client.kill_on_drop(true).output()).await.context("it does not end")??;
    let told = String::from_utf8_lossy(&output.stderr);
    if program == "curl" {
        // It knows no WebSocket, so it prints what comes until its time is over: a head, and one binary
        // frame.
        let end = output.stdout.windows(4).position(|four| four == b"\r\n\r\n").context("no head")? + 4;
        let (head, frame) = output.stdout.split_at(end);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        ensure!(
            head.starts_with("http/1.1 101 ") && head.contains("sec-websocket-protocol: posthorn.v1"),
            "{head}"
        );
        ensure!(
            head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "the RFC's example: {head}"
        );
        ensure!(frame.first() == Some(&0x82), "no binary frame but {frame:x?}");
    } else {
        ensure!(output.status.success(), "{}: {told}", output.status);
    }
    relay.stop().await?;
    Ok("it is understood, and understands".to_owned())
}

async fn tungstenite(run: &Run) -> anyhow::Result<String> {
    let mut relay = RelayProcess::start(&RelayProgram::new(&run.relay), &[]).await?;
    let mut wire = relay.connect().await?;
    let answer = wire.ask(Request::Ping).await?;
    ensure!(answer == ServerBody::Done, "{answer:?}");
    wire.close().await;
    relay.stop().await?;
    Ok("it is understood, and understands".to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
