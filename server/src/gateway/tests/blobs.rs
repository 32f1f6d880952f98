//! Blobs over real sockets: what HTTP clients do, and what they should not.

use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use posthorn_proto::frame::{Request, ServerBody, TokenPurpose};
use posthorn_proto::{BlobId, HolderKey, Token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::sockets::{PATIENCE, Wire, relay};
use super::support::registration;
use crate::config::{Config, Engine, Networks};
use crate::heard::heard;
use crate::relay::Relay;

const MIB: usize = 1 << 20;
const HOLDER: [u8; 32] = [9; 32];

/// An HTTP connection.
struct Http {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The code in the first word.
    fn code(&self) -> String {
        String::from_utf8_lossy(&self.body).split(':').next().unwrap_or_default().to_owned()
    }
}

impl Http {
    async fn to(relay: &Relay) -> Self {
        Self::at(relay.address()).await
    }

    async fn at(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("connected"), read: Vec::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// The next answer; `None` if the relay closes instead.
    async fn answer(&mut self, is_head: bool) -> Option<Answer> {
        let ends = |read: &[u8]| read.windows(4).position(|four| four == b"\r\n\r\n");
        while ends(&self.read).is_none() {
            self.more().await?;
        }
        let end = ends(&self.read)? + 4;
        let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
        self.read.drain(..end);
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let answer = Answer { status, head, body: Vec::new() };
        let length = answer.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let length: usize = if is_head { 0 } else { length };
        while self.read.len() < length {
            self.more().await?;
        }
        Some(Answer { body: self.read.drain(..length).collect(), ..answer })
    }

    async fn more(&mut self) -> Option<()> {
        let mut chunk = vec![0; 64 * 1024];
        let read = timeout(PATIENCE, self.stream.read(&mut chunk)).await.expect("in time").ok()?;
        self.read.extend_from_slice(&chunk[..read]);
        (read > 0).then_some(())
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(&request(method, path, headers, body.len())).await;
        // A relay that refuses may close before it has everything.
        let _ = self.stream.write_all(body).await;
        self.answer(method == "HEAD").await.expect("an answer")
    }

    async fn get(&mut self, path: &str, range: Option<&str>) -> Answer {
        let range: Vec<_> = range.map(|range| ("Range", range)).into_iter().collect();
        self.ask("GET", path, &range, b"").await
    }

    async fn put(&mut self, path: &str, body: &[u8]) -> Answer {
        self.ask("PUT", path, &[("Authorization", &bearer(&HOLDER))], body).await
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n");
    headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    text += &format!("Content-Length: {length}\r\n\r\n");
    text.into_bytes()
}

fn bearer(secret: &[u8; 32]) -> String {
    format!("Bearer {}", HEXLOWER.encode(secret))
}

fn path(blob: u8) -> String {
    format!("/v1/blob/{}", HEXLOWER.encode(&BlobId([blob; 16]).0))
}

fn token(n: u8) -> Token {
    Token::from_bytes([n; 32])
}

/// Draws upload tokens 1 to 8.
async fn draw(relay: &Relay) {
    let (mut alice, hello) = Wire::connect(relay.address()).await.expect("connected");
    let asked = alice.ask(registration(&hello, 1, "alice", "")).await;
    assert!(matches!(asked, ServerBody::Registered(_)), "{asked:?}");
    let hashes = (1..=8).map(|n| token(n).hash()).collect();
    let drawn = alice.ask(Request::DrawTokens { purpose: TokenPurpose::UploadBlob, hashes }).await;
    assert_eq!(drawn, ServerBody::TokensDrawn(8));
}

/// Creates blob `n` of this length with token `n`.
async fn create(http: &mut Http, n: u8, length: usize) -> Answer {
    let (holder, length) = (HEXLOWER.encode(&HolderKey::from_bytes(HOLDER).hash().0), length.to_string());
    let headers = [
        ("Authorization", &bearer(token(n).expose())[..]),
        ("Posthorn-Blob-Length", &length),
        ("Posthorn-Blob-Holder", &holder),
        ("Posthorn-Blob-Lease", "600"),
    ];
    http.ask("POST", &path(n), &headers, b"").await
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 / 7) as u8).collect()
}

/// A relay with a folder, and the folder.
async fn on_disk(change: impl FnOnce(&mut Config)) -> (Relay, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    (reopened(&dir, change).await, dir)
}

/// A relay on this folder.
async fn reopened(dir: &tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Relay {
    let relay = relay(|config| {
        in_folder(config, dir);
        change(config);
    });
    relay.await
}

fn in_folder(config: &mut Config, dir: &tempfile::TempDir) {
    (config.engine, config.data) = (Engine::Embedded, dir.path().to_owned());
    config.store.headroom_bytes = 0;
}

#[tokio::test]
async fn what_is_put_is_got_whole_and_by_ranges() {
    let (relay, _dir) = on_disk(|_| {}).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    let whole = bytes(MIB + 1000);
    let created = create(&mut http, 1, whole.len()).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.header("posthorn-blob-length"), Some("1049576"));
    let (first, second) = (path(1) + "/0", path(1) + "/1");
    assert_eq!(http.get(&path(1), None).await.code(), "PART_MISSING");
    for _ in 0..2 {
        assert_eq!(http.put(&first, &whole[..MIB]).await.status, 201);
    }
    let early = http.get(&path(1), Some("bytes=1000-1048575")).await;
    assert_eq!((early.status, &early.body[..]), (206, &whole[1000..MIB]), "of parts that are there");
    assert_eq!(http.get(&path(1), Some("bytes=1000-1048576")).await.code(), "PART_MISSING");
    assert_eq!(http.put(&second, &whole[MIB..]).await.status, 201);
    let all = http.get(&path(1), None).await;
    assert_eq!((all.status, all.body == whole, all.header("accept-ranges")), (200, true, Some("bytes")));
    let tag = all.header("etag").expect("a tag").to_owned();
    for (range, wanted) in [
        ("bytes=0-0", 0..1),
        ("bytes=1048570-1048585", MIB - 6..MIB + 10),
        ("bytes=-5", MIB + 995..MIB + 1000),
        ("bytes=1048576-", MIB..MIB + 1000),
    ] {
        let some = http.get(&path(1), Some(range)).await;
        assert_eq!((some.status, &some.body[..]), (206, &whole[wanted.clone()]), "{range}");
        let told = format!("bytes {}-{}/{}", wanted.start, wanted.end - 1, whole.len());
        assert_eq!(some.header("content-range"), Some(&told[..]));
    }
    let part = http.get(&second, Some("bytes=10-19")).await;
    assert_eq!((part.status, &part.body[..]), (206, &whole[MIB + 10..MIB + 20]));
    assert_eq!(part.header("content-range"), Some("bytes 10-19/1000"));
    let beyond = http.get(&path(1), Some("bytes=2000000-")).await;
    assert_eq!((beyond.status, beyond.code()), (416, "RANGE_WRONG".to_owned()));
    assert_eq!(beyond.header("content-range"), Some("bytes */1049576"));
    let head = http.ask("HEAD", &path(1), &[], b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1049576")));
    let head = http.ask("HEAD", &path(1), &[("Range", "bytes=0-9")], b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1049576")), "ranges are for GET");
    for (if_range, status) in [(&tag[..], 206), ("\"another\"", 200)] {
        let asked = http.ask("GET", &path(1), &[("Range", "bytes=0-9"), ("If-Range", if_range)], b"").await;
        assert_eq!(asked.status, status, "{if_range}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_a_code() {
    let relay = relay(|config| config.limits.blob_bytes = 2 * MIB as u64).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    assert_eq!(create(&mut http, 99, 10).await.code(), "TOKEN_UNKNOWN");
    assert_eq!(create(&mut http, 1, 0).await.code(), "BAD_REQUEST");
    let large = create(&mut http, 1, 2 * MIB + 1).await;
    assert_eq!((large.status, large.code()), (413, "TOO_LARGE".to_owned()));
    for _ in 0..2 {
        assert_eq!(create(&mut http, 1, MIB + 5).await.status, 201);
    }
    let other = create(&mut http, 1, MIB + 6).await;
    assert_eq!((other.status, other.code()), (409, "BLOB_EXISTS".to_owned()));
    let (first, second, third) = (path(1) + "/0", path(1) + "/1", path(1) + "/2");
    let missing = http.ask("HEAD", &first, &[], b"").await;
    assert_eq!((missing.status, missing.header("posthorn-error")), (404, Some("PART_MISSING")));
    assert_eq!(http.put(&second, b"12345").await.status, 201);
    assert_eq!(http.put(&second, b"12345").await.status, 201, "the same again");
    let changed = http.put(&second, b"12346").await;
    assert_eq!((changed.status, changed.code()), (409, "PART_DIFFERS".to_owned()));
    assert_eq!(http.put(&second, b"1234").await.code(), "BAD_REQUEST", "too short");
    assert_eq!(http.put(&second, b"123456").await.code(), "BAD_REQUEST", "too long");
    assert_eq!(http.put(&third, b"").await.code(), "BAD_REQUEST", "no such part");
    assert_eq!(http.put(&(path(2) + "/0"), b"1").await.code(), "BLOB_UNKNOWN");
    let wrong = [("Authorization", &bearer(&[8; 32])[..])];
    let refused = http.ask("PUT", &second, &wrong, b"12345").await;
    assert_eq!((refused.status, refused.code()), (403, "HOLDER_KEY_WRONG".to_owned()));
    assert_eq!(http.ask("DELETE", &path(1), &wrong, b"").await.code(), "HOLDER_KEY_WRONG");
    assert_eq!(http.ask("PUT", &second, &[], b"12345").await.code(), "BAD_REQUEST", "no key");
    for (path, status) in [("/v1/blob/", 404), ("/v1/blob/zz", 404), ("/v1/blob", 404)] {
        assert_eq!(http.get(path, None).await.status, status, "{path}");
    }
    let method = http.ask("PATCH", &path(1), &[], b"").await;
    assert_eq!((method.status, method.header("allow")), (405, Some("POST, GET, HEAD, DELETE, OPTIONS")));
    assert_eq!(http.get(&second, None).await.body, b"12345", "all of it changed nothing");
}

/// Who takes creating for putting loses no token.
#[tokio::test]
async fn a_blob_is_created_without_a_body() {
    let relay = relay(|_| {}).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    let refused = http.ask("POST", &path(1), &[("Authorization", &bearer(&HOLDER))], b"all of it").await;
    assert_eq!((refused.status, refused.code()), (400, "BAD_REQUEST".to_owned()));
    assert_eq!(create(&mut http, 1, 9).await.status, 201);
}

#[tokio::test]
async fn leases_end_are_extended_and_blobs_are_deleted() {
    let (relay, dir) = on_disk(|_| {}).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    let created = create(&mut http, 1, 5).await;
    assert_eq!(http.put(&(path(1) + "/0"), b"12345").await.status, 201);
    let until =
        |answer: &Answer| answer.header("posthorn-blob-until").and_then(|text| text.parse::<u64>().ok());
    let key = bearer(&HOLDER);
    let extend = |seconds| [("Authorization", &key[..]), ("Posthorn-Blob-Lease", seconds)];
    let longer = http.ask("PUT", &(path(1) + "/lease"), &extend("6000"), b"").await;
    assert!(longer.status == 200 && until(&longer) > until(&created), "{longer:?}");
    let too_long = http.ask("PUT", &(path(1) + "/lease"), &extend("999999999"), b"").await;
    assert_eq!(too_long.code(), "TOO_LARGE");
    relay.sweep().await;
    assert_eq!(http.get(&path(1), None).await.body, b"12345");
    assert_eq!(http.ask("DELETE", &path(1), &extend("1"), b"").await.status, 204);
    assert_eq!(http.get(&path(1), None).await.code(), "BLOB_UNKNOWN");
    assert_eq!(http.ask("DELETE", &path(1), &extend("1"), b"").await.code(), "BLOB_UNKNOWN");
    relay.sweep().await;
    assert_eq!(
        std::fs::read_dir(dir.path().join("blobs/01")).expect("a shelf").count(),
        0,
        "no space is taken"
    );
    assert_eq!(relay.numbers().blobs, 0);
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on() {
    let (relay, dir) = on_disk(|_| {}).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    let whole = bytes(2 * MIB);
    assert_eq!(create(&mut http, 1, whole.len()).await.status, 201);
    assert_eq!(http.put(&(path(1) + "/0"), &whole[..MIB]).await.status, 201);
    let key = bearer(&HOLDER);
    http.send(&request("PUT", &(path(1) + "/1"), &[("Authorization", &key)], MIB)).await;
    http.send(&whole[MIB..MIB + 300_000]).await;
    drop(http);
    let mut http = Http::to(&relay).await;
    assert_eq!(http.ask("HEAD", &(path(1) + "/0"), &[], b"").await.status, 200);
    assert_eq!(http.ask("HEAD", &(path(1) + "/1"), &[], b"").await.status, 404);
    assert_eq!(http.put(&(path(1) + "/1"), &whole[MIB..]).await.status, 201);
    assert!(http.get(&path(1), None).await.body == whole);
    let incoming = dir.path().join("blobs/incoming");
    while std::fs::read_dir(&incoming).expect("it is there").count() > 0 {
        tokio::task::yield_now().await;
    }
    drop(relay);
}

#[tokio::test]
async fn quotas_and_counts_are_kept() {
    let relay = relay(|config| {
        config.blobs.bytes = MIB as u64;
        config.blobs.transfers = 1;
        config.blobs.transfers_per_address = 1;
    });
    let relay = relay.await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    assert_eq!(create(&mut http, 1, MIB).await.status, 201);
    let full = create(&mut http, 2, 1).await;
    assert_eq!((full.status, full.code()), (507, "QUOTA".to_owned()));
    let key = bearer(&HOLDER);
    let part = path(1) + "/0";
    let mut slow = Http::to(&relay).await;
    slow.send(&request("PUT", &part, &[("Authorization", &key), ("Expect", "100-continue")], MIB)).await;
    assert_eq!(slow.answer(false).await.expect("told to go on").status, 100);
    let busy = http.put(&part, &bytes(MIB)).await;
    assert_eq!((busy.status, busy.code(), busy.header("retry-after")), (503, "BUSY".to_owned(), Some("10")));
    slow.send(&bytes(MIB)).await;
    assert_eq!(slow.answer(false).await.expect("stored").status, 201);
    assert_eq!(http.get(&part, None).await.status, 200, "there is room again");
}

/// Nobody is told to go on who is refused.
#[tokio::test]
async fn who_waits_for_a_word_is_refused_before_sending() {
    let relay = relay(|_| {}).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    assert_eq!(create(&mut http, 1, MIB).await.status, 201);
    let headers = [("Authorization", &bearer(&[8; 32])[..]), ("Expect", "100-continue")];
    http.send(&request("PUT", &(path(1) + "/0"), &headers, MIB)).await;
    let refused = http.answer(false).await.expect("an answer");
    assert_eq!((refused.status, refused.code()), (403, "HOLDER_KEY_WRONG".to_owned()));
}

#[tokio::test]
async fn slow_transfers_end() {
    let relay = relay(|config| config.blobs.slow_seconds = 1).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    let (whole, part) = (bytes(MIB), path(1) + "/0");
    assert_eq!(create(&mut http, 1, MIB).await.status, 201);
    let mut slow = Http::to(&relay).await;
    slow.send(&request("PUT", &part, &[("Authorization", &bearer(&HOLDER))], MIB)).await;
    slow.send(&whole[..10_000]).await;
    let ended = slow.answer(false).await.expect("told");
    assert_eq!((ended.status, ended.code()), (408, "TOO_SLOW".to_owned()));
    assert_eq!(
        slow.more().await,
        None,
        "and closed, because the rest of the part would be taken for a request"
    );
    assert_eq!(http.put(&part, &whole).await.status, 201);
    drop(http);
    // Whoever asks for much and takes nothing of it is cut off.
    let mut lazy = Http::to(&relay).await;
    let many: Vec<u8> = (0..40).flat_map(|_| request("GET", &path(1), &[], 0)).collect();
    lazy.send(&many).await;
    timeout(PATIENCE, async {
        while relay.numbers().connections > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("cut off");
    let mut got = 0;
    while let Some(answer) = lazy.answer(false).await {
        got += answer.body.len();
    }
    assert!(got < 40 * MIB, "{got} bytes");
}

#[tokio::test]
async fn a_transfer_may_take_longer_than_a_handshake() {
    let relay = relay(|config| config.connections.handshake_seconds = 3).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    assert_eq!(create(&mut http, 1, MIB).await.status, 201);
    let mut steady = Http::to(&relay).await;
    steady.send(&request("PUT", &(path(1) + "/0"), &[("Authorization", &bearer(&HOLDER))], MIB)).await;
    for chunk in bytes(MIB).chunks(MIB / 8) {
        steady.send(chunk).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(steady.answer(false).await.expect("stored").status, 201);
    assert_eq!(steady.more().await, None, "between requests it is closed when it is silent");
}

#[tokio::test]
async fn pages_of_other_origins_may_ask() {
    let relay = relay(|_| {}).await;
    let mut http = Http::to(&relay).await;
    let asked = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    let allowed = http.ask("OPTIONS", &(path(1) + "/0"), &asked, b"").await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (204, Some("*")));
    let list = |name| allowed.header(name).unwrap_or_default().to_owned();
    assert!(list("access-control-allow-methods").contains("PUT"), "{allowed:?}");
    assert!(list("access-control-allow-headers").contains("authorization"), "{allowed:?}");
    let refused = http.get(&path(1), None).await;
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"), "errors can be read, too");
    let nameless = http.ask("OPTIONS", "/v1/blob/nothing", &asked, b"").await;
    assert_eq!(nameless.status, 204, "else a page could not read why it is refused");
    let health = http.get("/health", None).await;
    assert_eq!(health.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn an_address_asks_so_often() {
    let relay = relay(|config| {
        config.rates.blob_requests_per_address_per_second = 1;
        config.rates.exempt = Networks::default();
    });
    let relay = relay.await;
    let mut http = Http::to(&relay).await;
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(http.get(&path(1), None).await);
    }
    let limited = codes.iter().find(|answer| answer.status == 429).expect("limited");
    assert_eq!((limited.code(), limited.header("retry-after")), ("RATE_LIMITED".to_owned(), Some("1")));
    assert_eq!(codes[0].code(), "BLOB_UNKNOWN");
    // Who is still sending hears of it, too.
    let mut sender = Http::to(&relay).await;
    for _ in 0..4 {
        sender.send(&request("PUT", &(path(1) + "/0"), &[("Authorization", &bearer(&HOLDER))], MIB)).await;
        sender.send(&bytes(MIB)).await;
        let refused = sender.answer(false).await.expect("an answer");
        assert_eq!((refused.status, refused.code()), (429, "RATE_LIMITED".to_owned()));
    }
}

#[tokio::test]
async fn a_relay_without_blobs_says_so() {
    let relay = relay(|config| config.limits.blob_bytes = 0).await;
    let (mut alice, hello) = Wire::connect(relay.address()).await.expect("connected");
    assert_eq!(hello.limits.blob_bytes, 0);
    alice.ask(registration(&hello, 1, "alice", "")).await;
    let hashes = vec![token(1).hash()];
    let drawn = alice.ask(Request::DrawTokens { purpose: TokenPurpose::UploadBlob, hashes }).await;
    assert!(matches!(drawn, ServerBody::Error(_)), "{drawn:?}");
    let mut http = Http::to(&relay).await;
    assert_eq!(create(&mut http, 1, 5).await.code(), "TOO_LARGE");
}

#[tokio::test]
async fn a_transfer_that_is_under_way_ends_before_the_relay_does() {
    let (relay, _dir) = on_disk(|_| {}).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    assert_eq!(create(&mut http, 1, MIB).await.status, 201);
    let key = bearer(&HOLDER);
    let headers = [("Authorization", &key[..]), ("Expect", "100-continue")];
    http.send(&request("PUT", &(path(1) + "/0"), &headers, MIB)).await;
    assert_eq!(http.answer(false).await.expect("told to go on").status, 100);
    let idle = Http::to(&relay).await;
    let mut stopping = JoinSet::new();
    stopping.spawn(relay.shutdown());
    http.send(&bytes(MIB)).await;
    assert_eq!(http.answer(false).await.expect("stored").status, 201);
    assert_eq!(http.more().await, None, "and then it is closed");
    drop(idle);
    stopping.join_all().await.pop().expect("one").expect("closed");
}

/// While the disk has no room for blobs, nobody spends a token on one, and the operator can see why.
#[tokio::test]
async fn who_cannot_put_is_told_before_paying() {
    let (relay, dir) = on_disk(|_| {}).await;
    draw(&relay).await;
    assert!(!relay.numbers().blobs_refused);
    relay.shutdown().await.expect("closed");
    let stat = rustix::fs::statvfs(dir.path()).expect("a file system");
    let free = stat.f_bavail * stat.f_frsize;
    // Enough for the journal, and not for blobs, which leave twice as much.
    let nearly = reopened(&dir, |config| config.store.headroom_bytes = free / 3 * 2).await;
    let mut http = Http::to(&nearly).await;
    let refused = create(&mut http, 1, 5).await;
    assert_eq!((refused.status, refused.code()), (503, "STORE_UNAVAILABLE".to_owned()));
    let health = http.get("/health", None).await;
    let health = String::from_utf8_lossy(&health.body);
    assert!(health.contains("degraded") && health.contains("\"blobs_refused\":true"), "{health}");
    let numbers = nearly.numbers();
    assert_eq!((numbers.blobs_refused, numbers.disk_full), (true, false), "{numbers:?}");
    nearly.shutdown().await.expect("closed");
    let relay = reopened(&dir, |_| {}).await;
    let mut http = Http::to(&relay).await;
    assert_eq!(create(&mut http, 1, 5).await.status, 201, "the token is unspent");
}

#[test]
fn a_start_says_that_parts_are_missing() {
    let mut dir = None;
    let told = heard(async {
        let (relay, folder) = on_disk(|_| {}).await;
        draw(&relay).await;
        assert_eq!(create(&mut Http::to(&relay).await, 1, 5).await.status, 201);
        relay.shutdown().await.expect("closed");
        drop(reopened(&folder, |_| {}).await);
        dir = Some(folder);
    });
    assert!(!told.contains("blobs/ is missing"), "{told}");
    let dir = dir.expect("made");
    std::fs::remove_dir_all(dir.path().join("blobs")).expect("removed");
    let told = heard(async {
        let relay = reopened(&dir, |_| {}).await;
        let missing = Http::to(&relay).await.get(&path(1), None).await;
        assert_eq!((missing.status, missing.code()), (404, "PART_MISSING".to_owned()));
    });
    assert!(told.contains("blobs/ is missing") && told.contains("blobs=1"), "{told}");
    assert!(!heard(async { drop(reopened(&dir, |_| {}).await) }).contains("blobs/ is missing"), "said once");
}

/// Such as one to a disk that is not mounted.
#[test]
fn a_link_to_no_folder_of_blobs_is_refused_and_nothing_else_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let (blobs, away) = (dir.path().join("blobs"), dir.path().join("away"));
    let start = async || {
        let mut config = Config::for_tests();
        in_folder(&mut config, &dir);
        Relay::start(config).await
    };
    let told = heard(async {
        let relay = reopened(&dir, |_| {}).await;
        draw(&relay).await;
        assert_eq!(create(&mut Http::to(&relay).await, 1, 5).await.status, 201);
        relay.shutdown().await.expect("closed");
        std::fs::rename(&blobs, &away).expect("moved");
        std::os::unix::fs::symlink(dir.path().join("unmounted"), &blobs).expect("linked");
        let refused = start().await.err().expect("refused").to_string();
        assert!(refused.contains("blobs cannot be used: it is a link to"), "{refused}");
        assert!(refused.contains("unmounted") && refused.contains("mount the disk"), "{refused}");
        std::fs::remove_file(&blobs).expect("removed");
        std::os::unix::fs::symlink(&away, &blobs).expect("linked");
        drop(start().await.expect("it is there"));
    });
    assert!(!told.contains("blobs/ is missing"), "{told}");
}

/// A blob that was deleted and made anew under its name is another one to whoever goes on with a download.
#[tokio::test]
async fn a_blob_in_another_life_has_another_tag() {
    let relay = relay(|_| {}).await;
    draw(&relay).await;
    let mut http = Http::to(&relay).await;
    let mut tags = Vec::new();
    for (nth, body) in [b"12345", b"abcde"].into_iter().enumerate() {
        let holder = HEXLOWER.encode(&HolderKey::from_bytes(HOLDER).hash().0);
        let headers = [
            ("Authorization", &bearer(token(nth as u8 + 1).expose())[..]),
            ("Posthorn-Blob-Length", "5"),
            ("Posthorn-Blob-Holder", &holder),
            ("Posthorn-Blob-Lease", "600"),
        ];
        assert_eq!(http.ask("POST", &path(1), &headers, b"").await.status, 201);
        assert_eq!(http.put(&(path(1) + "/0"), body).await.status, 201);
        for part in ["", "/0"] {
            let got = http.get(&(path(1) + part), None).await;
            assert_eq!(got.body, body);
            tags.push(got.header("etag").expect("a tag").to_owned());
        }
        if nth == 0 {
            let key = [("Authorization", &bearer(&HOLDER)[..])];
            assert_eq!(http.ask("DELETE", &path(1), &key, b"").await.status, 204);
        }
    }
    assert_eq!((&tags[0], &tags[2]), (&tags[1], &tags[3]), "of one life");
    assert_ne!(tags[0], tags[2]);
    let on = [("Range", "bytes=3-"), ("If-Range", &tags[0][..])];
    let again = http.ask("GET", &path(1), &on, b"").await;
    assert_eq!((again.status, &again.body[..]), (200, &b"abcde"[..]), "from its beginning");
}
