//! Browser: a page in a real Chromium and in a real Firefox, of another origin than the relay, at a relay as
//! it listens and through nginx with TLS. The page has the browser's own WebSocket and `fetch`, and nothing
//! of the client library: what it sends are frames that the test made, and the test looks at every byte that
//! comes back, and at what a page of another origin may read.

mod page;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use posthorn_proto::frame::{Delivery, Request, ServerBody, TokenPurpose};
use posthorn_proto::limits::BLOB_PART_BYTES;
use posthorn_proto::{ErrorCode, PATH, SUBPROTOCOL, Token};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use tokio::io::{AsyncReadExt as _, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::page::{Fetched, Happened, Kind, Page, Socket};
use super::proxy::front::{Front, Kind as Proxy};
use super::{Run, Tally, now};
use crate::http::{BareBlob, hex};
use crate::mailbox::{BareDevice, BareMailbox, numbered};
use crate::relay::{RelayProcess, RelayProgram};
use crate::wire::PATIENCE;

/// nginx says where each connection comes from, and here that is always this machine.
const OPTIONS: &[&str] = &["--set", "trusted_proxies=[\"127.0.0.1\"]"];
/// A relay that counts requests for blobs of this machine, too.
const RATED: &[&str] = &["--set", "rates.exempt=[]", "--set", "rates.blob_requests_per_address_per_second=1"];
/// What an upload gets through before the network stands still: no request's head is as long.
const LET_THROUGH: u64 = 200 * 1024;

/// Runs the program.
pub async fn run(run: &Run, tally: &mut Tally) {
    for (name, kind) in [("Chromium", Kind::Chromium), ("Firefox", Kind::Firefox)] {
        let name = format!("browser: {name}");
        let Some(program) = kind.program() else {
            Tally::skip(&name, "it is not installed");
            continue;
        };
        let driver = match page::driver(&run.relay).await {
            Ok(driver) => driver,
            Err(error) => {
                Tally::skip(&name, &format!("{error:#}"));
                continue;
            }
        };
        match Page::start(kind, &program, &driver).await {
            Ok(mut page) => {
                play(run, &mut page, &name, tally).await;
                let version = page.version.clone();
                tally.count(&name, page.stop().await.map(|()| version));
            }
            Err(error) => tally.count(&name, Err(error)),
        }
    }
}

/// All cases of one browser.
async fn play(run: &Run, page: &mut Page, name: &str, tally: &mut Tally) {
    tally.count(&format!("{name}: talking"), talking(run, page, false).await);
    tally.count(&format!("{name}: being refused"), refused(run, page, false).await);
    tally.count(&format!("{name}: blobs"), blobs(run, page, false).await);
    tally.count(&format!("{name}: an upload that is given up"), given_up(run, page).await);
    tally.count(&format!("{name}: too many requests"), rated(run, page).await);
    if Proxy::Nginx.is_there() {
        tally.count(&format!("{name} behind nginx: talking"), talking(run, page, true).await);
        tally.count(&format!("{name} behind nginx: being refused"), refused(run, page, true).await);
        tally.count(&format!("{name} behind nginx: blobs"), blobs(run, page, true).await);
    } else {
        Tally::skip(&format!("{name} behind nginx"), "nginx is not installed");
    }
}

/// A relay, and how a page reaches it.
struct Site {
    relay: RelayProcess,
    front: Option<Front>,
}

impl Site {
    async fn set(run: &Run, options: &[&str], behind: bool) -> anyhow::Result<Self> {
        let options: Vec<&str> = [OPTIONS, options].concat();
        let relay = RelayProcess::start(&RelayProgram::new(&run.relay), &options).await?;
        let front = match behind {
            true => Some(Front::start(Proxy::Nginx, relay.address(), &[]).await?),
            false => None,
        };
        Ok(Self { relay, front })
    }

    /// The URL of a path, by this scheme; with TLS, by that of the same name with an s.
    fn url(&self, scheme: &str, path: &str) -> String {
        match &self.front {
            Some(front) => format!("{scheme}s://localhost:{}{path}", front.address.port()),
            None => format!("{scheme}://{}{path}", self.relay.address()),
        }
    }

    fn socket(&self) -> String {
        self.url("ws", PATH)
    }
}

/// Registers by the page, and draws tokens for a purpose.
async fn tokens(page: &mut Page, site: &Site, purpose: TokenPurpose) -> anyhow::Result<Vec<Token>> {
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let device = BareDevice::new(&mut rng);
    let (mut socket, hello) = page.connect(&site.socket()).await?;
    let (request, key) = device.registration(&hello, "alice", site.relay.invite())?;
    match page.ask(&mut socket, request).await? {
        ServerBody::Registered(proof) => key.check_relay(&proof)?,
        other => bail!("registering: {other:?}"),
    }
    let tokens: Vec<Token> = (0..4).map(|_| Token::random(&mut rng)).collect();
    let hashes = tokens.iter().map(Token::hash).collect();
    match page.ask(&mut socket, Request::DrawTokens { purpose, hashes }).await? {
        ServerBody::TokensDrawn(4) => {}
        other => bail!("drawing tokens: {other:?}"),
    }
    page.close(&socket, 1000).await?;
    match page.next(&socket).await? {
        Happened::Closed { code: 1000, clean: true, .. } => Ok(tokens),
        other => bail!("a page that closes sees {other:?}"),
    }
}

/// Posts, and waits for the answer and for the delivery, in whichever order they come.
async fn post_and_read(
    page: &mut Page,
    socket: &mut Socket,
    post: Request,
) -> anyhow::Result<(u64, Delivery)> {
    let request = socket.number(post);
    page.send(socket, &request.encode()).await?;
    let (mut posted, mut delivered) = (None, None);
    while posted.is_none() || delivered.is_none() {
        let frame = page.frame(socket).await?;
        match frame.body {
            ServerBody::Posted { seq } if frame.request == request.request => posted = Some(seq),
            ServerBody::Delivery(delivery) => delivered = Some(delivery),
            other => bail!("neither posted nor delivered but {other:?}"),
        }
    }
    posted.zip(delivered).context("both came")
}

/// An account, a mailbox, a post and its delivery; then the relay dies, and the page comes back.
async fn talking(run: &Run, page: &mut Page, behind: bool) -> anyhow::Result<String> {
    let mut site = Site::set(run, &[], behind).await?;
    let token = tokens(page, &site, TokenPurpose::CreateMailbox).await?.remove(0);
    let mailbox = BareMailbox::new(&mut ChaCha20Rng::seed_from_u64(run.seed));
    let (mut socket, _) = page.connect(&site.socket()).await?;
    let created = page.ask(&mut socket, mailbox.creation(token, 0)).await?;
    ensure!(created == ServerBody::Created, "creating: {created:?}");
    let opened = page.ask(&mut socket, mailbox.opening(1 << 20)).await?;
    ensure!(matches!(&opened, ServerBody::Opened(all) if all[0].result.is_ok()), "opening: {opened:?}");

    let (first, second) = (numbered(1), numbered(2));
    // As large as a frame may be that carries an envelope of the largest standard length, and as small.
    let (large, small) = (vec![0xa5; 64 * 1024], b"small".to_vec());
    let (seq, delivery) = post_and_read(page, &mut socket, mailbox.posting(first, large.clone())).await?;
    ensure!((seq, delivery.seq, &delivery.envelope[..]) == (1, 1, &large[..]), "the first is another");
    let acked = page.ask(&mut socket, mailbox.acknowledgement(1, 0)).await?;
    ensure!(acked == ServerBody::Done, "acknowledging: {acked:?}");
    let (seq, _) = post_and_read(page, &mut socket, mailbox.posting(second, small.clone())).await?;
    ensure!(seq == 2, "the second is {seq}");

    site.relay.kill().await?;
    match page.next(&socket).await? {
        Happened::Closed { code: 1006, clean: false, .. } => {}
        other => bail!("of a relay that was killed a page sees {other:?}"),
    }
    // While nobody is there, a page learns no more than that.
    let nobody = page.open(&site.socket(), &[SUBPROTOCOL]).await?;
    match page.next(&nobody).await? {
        Happened::Closed { code: 1006, .. } => {}
        other => bail!("where no relay is a page sees {other:?}"),
    }
    site.relay.restart().await?;
    let (mut socket, _) = page.connect(&site.socket()).await?;
    let again = page.ask(&mut socket, mailbox.posting(second, small.clone())).await?;
    ensure!(again == ServerBody::Posted { seq: 2 }, "posted again: {again:?}");
    let opened = page.ask(&mut socket, mailbox.opening(1 << 20)).await?;
    ensure!(matches!(&opened, ServerBody::Opened(all) if all[0].result.is_ok()), "opening again: {opened:?}");
    match page.frame(&socket).await?.body {
        ServerBody::Delivery(Delivery { seq: 2, envelope, .. }) if envelope == small => {}
        other => bail!("what was not acknowledged does not come again, but {other:?}"),
    }
    site.relay.stop().await?;
    loop {
        match page.next(&socket).await? {
            // The relay says beforehand that it is going.
            Happened::Bytes(_) => {}
            Happened::Closed { code: 1001, reason, clean: true } if reason == "GOING_AWAY" => break,
            other => bail!("of a relay that stops a page sees {other:?}"),
        }
    }
    Ok("posted, delivered, and again after a kill".to_owned())
}

/// What no page should send ends the connection by a code that the page sees.
async fn refused(run: &Run, page: &mut Page, behind: bool) -> anyhow::Result<String> {
    let mut site = Site::set(run, &[], behind).await?;
    let too_large = vec![0; 600 * 1024];
    let cases: [(&str, Option<&[u8]>, u16); 3] = [
        ("TEXT_MESSAGE", None, 1003),
        ("BAD_FRAME", Some(&[0xff; 9]), 1007),
        ("TOO_LARGE", Some(&too_large), 1009),
    ];
    for (word, bytes, expected) in cases {
        let (socket, _) = page.connect(&site.socket()).await?;
        match bytes {
            Some(bytes) => page.send(&socket, bytes).await?,
            None => page.send_text(&socket, "hello").await?,
        }
        match page.next(&socket).await? {
            // Clean it is not: of what follows the relay reads nothing, so nor does it wait for an answer.
            Happened::Closed { code, reason, .. } if code == expected && reason == word => {}
            other => bail!("after {word} a page sees {other:?}"),
        }
    }
    // A handshake that is refused tells a page nothing, whatever the status.
    let socket = page.open(&site.socket(), &["mqtt"]).await?;
    match page.next(&socket).await? {
        Happened::Closed { code: 1006, .. } => {}
        other => bail!("with another subprotocol a page sees {other:?}"),
    }
    let health = page.fetch(("GET", &site.url("http", "/health")), &[], None).await?;
    ensure!(
        health.status == 200 && health.words().contains("\"ok\""),
        "a page may ask for health: {health:?}"
    );
    site.relay.stop().await?;
    Ok("1003, 1007 and 1009 with their words; whether the relay is well can be asked".to_owned())
}

/// A blob, and the URLs of it.
struct Remote {
    blob: BareBlob,
    url: String,
}

impl Remote {
    fn new(site: &Site, length: u64) -> Self {
        let blob = BareBlob::new(length, &mut ChaCha20Rng::seed_from_u64(length));
        let url = site.url("http", &blob.path());
        Self { blob, url }
    }

    async fn create(&self, page: &mut Page, token: &Token) -> anyhow::Result<Fetched> {
        page.fetch(("POST", &self.url), &self.blob.creation(token), None).await
    }

    async fn put(&self, page: &mut Page, part: u32) -> anyhow::Result<Fetched> {
        let url = format!("{}/{part}", self.url);
        page.fetch(("PUT", &url), &[self.blob.held()], Some(&self.blob.bytes(part))).await
    }

    /// Everything, as it should be got.
    fn whole(&self) -> String {
        (0..self.blob.parts()).map(|part| hex(&self.blob.bytes(part))).collect()
    }
}

/// Creating, putting, getting, ranges, heads, refusals, and a download that is given up.
async fn blobs(run: &Run, page: &mut Page, behind: bool) -> anyhow::Result<String> {
    let mut site = Site::set(run, &[], behind).await?;
    let tokens = tokens(page, &site, TokenPurpose::UploadBlob).await?;
    let length = 2 * u64::from(BLOB_PART_BYTES) - 5;
    let remote = Remote::new(&site, length);
    // Whatever a page asks first has a preflight here, because of the headers that it needs.
    let created = remote.create(page, &tokens[0]).await?;
    ensure!(created.status == 201, "creating: {created:?}");
    let until: u64 = created.header("posthorn-blob-until").parse().context("the lease cannot be read")?;
    ensure!(until > 0, "the lease ends at {until}");
    let put = remote.put(page, 1).await?;
    ensure!(put.status == 201, "putting a part: {}", put.words());
    let early = page.fetch(("GET", &remote.url), &[], None).await?;
    ensure!(early.words().starts_with("404 PART_MISSING"), "before all is there: {}", early.words());
    ensure!(remote.put(page, 0).await?.status == 201, "putting the other part");

    let got = page.fetch(("GET", &remote.url), &[], None).await?;
    let whole = remote.whole();
    ensure!(got.status == 200 && got.body == whole, "what comes back is another: {}", got.status);
    let tag = got.header("etag").to_owned();
    let (from, to) = (1_000_000, 1_100_000);
    let range = [("Range", format!("bytes={from}-{}", to - 1)), ("If-Range", tag)];
    let got = page.fetch(("GET", &remote.url), &range, None).await?;
    let expected = format!("bytes {from}-{}/{length}", to - 1);
    ensure!(got.status == 206 && got.header("content-range") == expected, "a range: {:?}", got.headers);
    ensure!(got.body == whole[2 * from..2 * to], "the range is another");
    let head = page.fetch(("HEAD", &remote.url), &[], None).await?;
    let told = (head.status, head.header("posthorn-blob-length"), head.header("content-length"));
    let said = length.to_string();
    ensure!(told == (200, &said, &said) && head.body.is_empty(), "a head: {told:?}");

    refusals(page, &site, &remote, &tokens[0]).await?;

    let number = page.begin(("GET", &remote.url), &[], None, Some(1)).await?;
    let learned = page.abort(number).await?.error;
    ensure!(learned.as_deref() == Some("AbortError"), "a download that is given up: {learned:?}");
    let got = page.fetch(("GET", &remote.url), &[], None).await?;
    ensure!(got.body == whole, "after one was given up: {}", got.status);
    let deleted = page.fetch(("DELETE", &remote.url), &[remote.blob.held()], None).await?;
    ensure!(deleted.status == 204, "deleting: {}", deleted.words());
    site.relay.stop().await?;
    Ok(format!("{length} bytes put and got, a range, heads, refusals, given up"))
}

/// Every refusal can be read: its status, its words, and its code in a header.
async fn refusals(page: &mut Page, site: &Site, remote: &Remote, spent: &Token) -> anyhow::Result<()> {
    let other = Remote::new(site, 100);
    let part = format!("{}/0", remote.url);
    let beyond = [("Range", "bytes=90000000-".to_owned())];
    let nowhere = site.url("http", "/v1/blob/nothing");
    let bytes = other.blob.bytes(0);
    let cases = [
        (other.create(page, spent).await?, 403, ErrorCode::TokenUnknown),
        (
            page.fetch(("PUT", &part), &[other.blob.held()], Some(&bytes)).await?,
            403,
            ErrorCode::HolderKeyWrong,
        ),
        (page.fetch(("PUT", &part), &[remote.blob.held()], Some(&bytes)).await?, 400, ErrorCode::BadRequest),
        (page.fetch(("GET", &other.url), &[], None).await?, 404, ErrorCode::BlobUnknown),
        (page.fetch(("HEAD", &other.url), &[], None).await?, 404, ErrorCode::BlobUnknown),
        (page.fetch(("GET", &remote.url), &beyond, None).await?, 416, ErrorCode::RangeWrong),
        (page.fetch(("PUT", &nowhere), &[other.blob.held()], Some(b"x")).await?, 404, ErrorCode::BadRequest),
    ];
    for (got, status, code) in cases {
        let told = (got.status, got.header("posthorn-error"));
        ensure!(told == (status, code.name()), "instead of {status} {}: {got:?}", code.name());
    }
    Ok(())
}

/// An upload comes to a halt on its way, and the page gives it up: nothing of it is left, and it can be put
/// again.
async fn given_up(run: &Run, page: &mut Page) -> anyhow::Result<String> {
    let mut site = Site::set(run, &[], false).await?;
    let tokens = tokens(page, &site, TokenPurpose::UploadBlob).await?;
    let remote = Remote::new(&site, u64::from(BLOB_PART_BYTES));
    ensure!(remote.create(page, &tokens[0]).await?.status == 201, "creating");
    let halting = Halting::start(site.relay.address()).await?;
    let url = format!("http://{}{}/0", halting.address, remote.blob.path());
    let body = remote.blob.bytes(0);
    let number = page.begin(("PUT", &url), &[remote.blob.held()], Some(&body), None).await?;
    timeout(PATIENCE, halting.halted.notified()).await.context("the upload does not come")?;
    let arriving = site.relay.data().join("blobs/incoming");
    until(|| count(&arriving) == 1).await.context("nothing arrives")?;
    let learned = page.abort(number).await?.error;
    ensure!(learned.as_deref() == Some("AbortError"), "an upload that is given up: {learned:?}");
    until(|| count(&arriving) == 0).await.context("what arrived is left")?;
    let missing = page.fetch(("GET", &remote.url), &[], None).await?;
    ensure!(missing.header("posthorn-error") == "PART_MISSING", "half a part: {}", missing.words());
    ensure!(remote.put(page, 0).await?.status == 201, "put again");
    let got = page.fetch(("GET", &remote.url), &[], None).await?;
    ensure!(got.body == hex(&body), "it is another: {}", got.status);
    site.relay.stop().await?;
    Ok("nothing of it is left, and it is put again".to_owned())
}

/// A page that asks too often reads so, although the browser asks before it whether it may.
async fn rated(run: &Run, page: &mut Page) -> anyhow::Result<String> {
    let mut site = Site::set(run, RATED, false).await?;
    let remote = Remote::new(&site, 100);
    for asked in 1..=20 {
        // Another URL each time, because browsers remember by URL what they may.
        let url = format!("{}/{asked}", remote.url);
        let got = page.fetch(("PUT", &url), &[remote.blob.held()], Some(b"x")).await?;
        match got.header("posthorn-error") {
            "BLOB_UNKNOWN" => {}
            "RATE_LIMITED" => {
                let wait: u32 = got.header("retry-after").parse().context("not for how long")?;
                site.relay.stop().await?;
                return Ok(format!("request {asked} is told to wait {wait} s"));
            }
            _ => bail!("request {asked} is answered {got:?}"),
        }
    }
    bail!("20 requests were not too many")
}

/// A network before the relay that comes to a halt within the first upload.
struct Halting {
    address: SocketAddr,
    /// Told when it has.
    halted: Arc<Notify>,
    _connections: JoinSet<()>,
}

impl Halting {
    async fn start(relay: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, halted) = (listener.local_addr()?, Arc::new(Notify::new()));
        let (mut accepting, tell) = (JoinSet::new(), Arc::clone(&halted));
        accepting.spawn(async move {
            // Browsers open more than they need.
            let mut connections = JoinSet::new();
            while let Ok((page, _)) = listener.accept().await {
                let Ok(relay) = TcpStream::connect(relay).await else { return };
                connections.spawn(pass_on(page, relay, Arc::clone(&tell)));
            }
        });
        Ok(Self { address, halted, _connections: accepting })
    }
}

/// Passes on what a page sends until it is too much, and all that the relay answers. What comes then gets
/// lost, until the page hangs up.
async fn pass_on(page: TcpStream, relay: TcpStream, halted: Arc<Notify>) {
    let (mut from_page, mut to_page) = page.into_split();
    let (mut from_relay, mut to_relay) = relay.into_split();
    let up = async {
        let mut first = (&mut from_page).take(LET_THROUGH);
        copy(&mut first, &mut to_relay).await?;
        if first.limit() == 0 {
            halted.notify_one();
        }
        copy(&mut from_page, &mut sink()).await
    };
    // Either end is the end of both.
    tokio::select! {
        _ = up => {}
        _ = copy(&mut from_relay, &mut to_page) => {}
    }
}

/// How many files are in a folder.
fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Waits until this holds. No event tells what another process does to a disk.
async fn until(holds: impl Fn() -> bool) -> anyhow::Result<()> {
    let end = now() + PATIENCE;
    while !holds() {
        ensure!(now() < end, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
