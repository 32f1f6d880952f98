//! A page in a real browser, which does what a test says (`page.js`), by way of a driver (`drive.mjs`).

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use posthorn_proto::SUBPROTOCOL;
use posthorn_proto::frame::{ClientFrame, Hello, Request, ServerBody, ServerFrame};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::http::hex;
use crate::wire::PATIENCE;

/// What drives both browsers.
const PUPPETEER: &str = "puppeteer-core@25.16.0";

/// Which browser.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Chromium,
    Firefox,
}

impl Kind {
    /// Its name for the driver, and what its program may be called.
    fn names(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Chromium => ("chrome", &["chromium", "google-chrome", "chrome"]),
            Self::Firefox => ("firefox", &["firefox-esr", "firefox"]),
        }
    }

    /// Where its program is, if it is installed.
    pub(super) fn program(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let (_, names) = self.names();
        let programs = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        programs.into_iter().find(|program| program.is_file())
    }
}

/// What an answer to `fetch` was.
#[derive(Debug, Deserialize)]
pub(super) struct Fetched {
    /// Without an answer: the name of the error that the page gets.
    #[serde(default)]
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) status: u16,
    /// Those that the page may read.
    #[serde(default)]
    pub(super) headers: std::collections::BTreeMap<String, String>,
    /// In hexadecimal digits.
    #[serde(default)]
    pub(super) body: String,
}

impl Fetched {
    /// A header, if the page may read it.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The words of a refusal.
    pub(super) fn words(&self) -> String {
        let text = bytes(&self.body).unwrap_or_default();
        format!("{} {}", self.status, String::from_utf8_lossy(&text).trim())
    }
}

/// What happens to a WebSocket.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Happened {
    Opened { protocol: String, extensions: String },
    Bytes(String),
    Closed { code: u16, reason: String, clean: bool },
}

/// A page in a browser of its own.
pub(super) struct Page {
    /// Ends with its input, and the browser with it: nothing else would end the browser.
    driver: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    begun: u32,
    /// As the browser names itself.
    pub(super) version: String,
}

impl Page {
    /// Starts the browser.
    pub(super) async fn start(kind: Kind, program: &Path, driver: &Path) -> anyhow::Result<Self> {
        let mut node = Command::new("node");
        node.arg(driver.join("drive.mjs")).arg(kind.names().0).arg(program).arg(driver.join("page.js"));
        // Both keep something there, and nothing of a person's is to be touched.
        node.env("HOME", driver).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = node.spawn().context("node is not installed")?;
        let input = child.stdin.take().context("stdin is piped")?;
        let output = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
        let mut page = Self { driver: child, input, output, begun: 0, version: String::new() };
        page.version = serde_json::from_value(page.answer().await.context("the browser does not start")?)?;
        Ok(page)
    }

    /// Ends the browser.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let Self { mut driver, input, .. } = self;
        drop(input);
        let status = timeout(PATIENCE, driver.wait()).await.context("the browser does not end")??;
        ensure!(status.success(), "the driver ended with {status}");
        Ok(())
    }

    async fn call(&mut self, what: &str, argument: Value) -> anyhow::Result<Value> {
        let line = format!("{}\n", json!([what, argument]));
        self.input.write_all(line.as_bytes()).await?;
        self.answer().await.with_context(|| format!("the page: {what}"))
    }

    async fn answer(&mut self) -> anyhow::Result<Value> {
        let line = timeout(PATIENCE, self.output.next_line()).await.context("it says nothing")??;
        let mut told: Value = serde_json::from_str(&line.context("the driver ended")?)?;
        if let Some(failed) = told.get("failed") {
            bail!("{failed}");
        }
        Ok(told["answer"].take())
    }

    fn next_number(&mut self) -> u32 {
        self.begun += 1;
        self.begun
    }

    /// Begins a connection.
    pub(super) async fn open(&mut self, url: &str, protocols: &[&str]) -> anyhow::Result<Socket> {
        let number = self.next_number();
        self.call("open", json!({"number": number, "url": url, "protocols": protocols})).await?;
        Ok(Socket { number, requests: 0 })
    }

    /// Makes a connection on which the relay has said hello.
    pub(super) async fn connect(&mut self, url: &str) -> anyhow::Result<(Socket, Hello)> {
        let socket = self.open(url, &["chat", SUBPROTOCOL]).await?;
        match self.next(&socket).await? {
            Happened::Opened { protocol, extensions } => {
                ensure!(
                    (protocol.as_str(), extensions.as_str()) == (SUBPROTOCOL, ""),
                    "{protocol} {extensions}"
                );
            }
            other => bail!("it is not opened but {other:?}"),
        }
        match self.frame(&socket).await?.body {
            ServerBody::Hello(hello) => Ok((socket, hello)),
            other => bail!("not a hello but {other:?}"),
        }
    }

    /// What happens next.
    pub(super) async fn next(&mut self, socket: &Socket) -> anyhow::Result<Happened> {
        Ok(serde_json::from_value(self.call("next", json!({"number": socket.number})).await?)?)
    }

    /// The next frame.
    pub(super) async fn frame(&mut self, socket: &Socket) -> anyhow::Result<ServerFrame> {
        match self.next(socket).await? {
            Happened::Bytes(digits) => Ok(ServerFrame::decode(bytes(&digits)?.into())?),
            other => bail!("not a frame but {other:?}"),
        }
    }

    /// Sends bytes, whatever they are.
    pub(super) async fn send(&mut self, socket: &Socket, bytes: &[u8]) -> anyhow::Result<()> {
        self.call("send", json!({"number": socket.number, "bytes": hex(bytes)})).await.map(drop)
    }

    /// Sends text.
    pub(super) async fn send_text(&mut self, socket: &Socket, text: &str) -> anyhow::Result<()> {
        self.call("send", json!({"number": socket.number, "text": text})).await.map(drop)
    }

    /// Closes a connection.
    pub(super) async fn close(&mut self, socket: &Socket, code: u16) -> anyhow::Result<()> {
        self.call("close", json!({"number": socket.number, "code": code})).await.map(drop)
    }

    /// Asks, and waits for the answer. Nothing else may come meanwhile.
    pub(super) async fn ask(&mut self, socket: &mut Socket, body: Request) -> anyhow::Result<ServerBody> {
        let number = socket.number(body);
        self.send(socket, &number.encode()).await?;
        let frame = self.frame(socket).await?;
        ensure!(frame.request == socket.requests, "not an answer but {frame:?}");
        Ok(frame.body)
    }

    /// Begins to ask by `fetch`. With `chunks`, only so many of the body are read.
    pub(super) async fn begin(
        &mut self,
        (method, url): (&str, &str),
        headers: &[(&str, String)],
        body: Option<&[u8]>,
        chunks: Option<u32>,
    ) -> anyhow::Result<u32> {
        let number = self.next_number();
        let headers: serde_json::Map<String, Value> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let body = body.map(hex);
        let request = json!({
            "number": number, "method": method, "url": url, "headers": headers, "body": body, "chunks": chunks,
        });
        self.call("begin", request).await?;
        Ok(number)
    }

    /// Waits for the answer.
    pub(super) async fn end(&mut self, number: u32) -> anyhow::Result<Fetched> {
        Ok(serde_json::from_value(self.call("end", json!({"number": number})).await?)?)
    }

    /// Gives up; what the page learns.
    pub(super) async fn abort(&mut self, number: u32) -> anyhow::Result<Fetched> {
        Ok(serde_json::from_value(self.call("abort", json!({"number": number})).await?)?)
    }

    /// Asks by `fetch`.
    pub(super) async fn fetch(
        &mut self,
        request: (&str, &str),
        headers: &[(&str, String)],
        body: Option<&[u8]>,
    ) -> anyhow::Result<Fetched> {
        let number = self.begin(request, headers, body, None).await?;
        self.end(number).await
    }
}

/// A WebSocket of a page.
pub(super) struct Socket {
    number: u32,
    /// The number of the last request.
    requests: u64,
}

impl Socket {
    /// The next request.
    pub(super) fn number(&mut self, body: Request) -> ClientFrame {
        self.requests += 1;
        ClientFrame { request: self.requests, body }
    }
}

/// Makes sure that the driver is there; returns its folder.
pub(super) async fn driver(relay: &Path) -> anyhow::Result<PathBuf> {
    let folder = relay.with_file_name("clients").join(PUPPETEER);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("drive.mjs"), include_str!("drive.mjs"))?;
    std::fs::write(folder.join("page.js"), include_str!("page.js"))?;
    if !folder.join("node_modules/puppeteer-core").exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--ignore-scripts", "--prefix"]).arg(&folder).arg(PUPPETEER);
        let output = timeout(10 * PATIENCE, npm.kill_on_drop(true).output()).await?;
        let output = output.context("npm is not installed")?;
        ensure!(
            output.status.success(),
            "npm does not install {PUPPETEER}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(folder)
}

fn bytes(digits: &str) -> anyhow::Result<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
