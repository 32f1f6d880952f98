//! What is different about a bucket: it is somebody else's machine. What every engine does is tested in
//! `parts::tests`, here, too, if there is a server.

use std::sync::atomic::AtomicU64;

use posthorn_proto::BlobId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::heard::heard;

const RELAY: RelayIdentity = RelayIdentity([7; 32]);
const OWNER: Owner = Owner { blob: BlobId([0xab; 16]), life: 7 };
/// Where the server is that `cargo xtask conformance s3` has started, and the file of the credentials.
const SERVER: &str = "POSTHORN_TEST_S3";

/// The server, if there is one, with a prefix that nobody has had.
pub(in crate::parts) fn server() -> Option<S3Config> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let server = std::env::var(SERVER).ok()?;
    let (endpoint, credentials) = server.split_once(' ').expect("two words");
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Some(S3Config {
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".to_owned(),
        bucket: "blobs".to_owned(),
        prefix: format!("test/{}/{number}", std::process::id()),
        credentials: Some(credentials.into()),
    })
}

pub(in crate::parts) fn parts(config: &S3Config) -> S3Parts {
    S3Parts::new(config, RELAY, 0).expect("well formed")
}

/// For tests that cannot do without.
fn needed() -> S3Config {
    server().expect("there is a server: cargo xtask conformance s3")
}

/// A configuration for another server, and its credentials' file.
fn at(endpoint: String) -> (S3Config, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "aws_access_key_id = me\naws_secret_access_key = hidden-secret\n")
        .expect("written");
    let config = S3Config {
        endpoint: Some(endpoint),
        region: "us-east-1".to_owned(),
        bucket: "blobs".to_owned(),
        prefix: "ours".to_owned(),
        credentials: Some(file.path().to_owned()),
    };
    (config, file)
}

/// Nothing is taken, nothing is swept, and the log says it once, in words, without a secret.
fn is_refused(config: &S3Config, relay: RelayIdentity, words: &str) {
    let told = heard(async {
        let parts = S3Parts::new(config, relay, 3).expect("well formed");
        for _ in 0..2 {
            assert_eq!(parts.look().await, Err(PartError::Away));
        }
        assert_eq!(parts.refusal(), Some(PartError::Away));
        assert_eq!(parts.begin(Box::new(())).await.err(), Some(PartError::Away));
        assert_eq!(parts.shelf(0).await, Err(PartError::Away));
    });
    assert_eq!(told.matches("blobs are refused").count(), 1, "{told}");
    assert!(told.contains(words), "{words}: {told}");
    assert!(!told.contains("secret"), "{told}");
}

async fn put(parts: &S3Parts, part: u32, bytes: &[u8]) -> Result<(), PartError> {
    let mut arriving = parts.begin(Box::new(())).await?;
    arriving.write(bytes.to_vec()).await?;
    arriving.store(OWNER, part).await
}

#[test]
fn a_server_that_does_not_answer_is_named() {
    // Nobody listens there any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    is_refused(&at(format!("http://{port}")).0, RELAY, "see to it, or to s3.endpoint");
}

/// A server that says yes to everything, as some old ones do.
async fn careless(mut stream: TcpStream) -> std::io::Result<()> {
    let mark = data_encoding::HEXLOWER.encode(&RELAY.0);
    let mut asked = Vec::new();
    loop {
        let mut some = [0; 4096];
        let read = stream.read(&mut some).await?;
        if read == 0 {
            return Ok(());
        }
        asked.extend_from_slice(&some[..read]);
        // A mark is put with its head, or right behind it.
        let text = String::from_utf8_lossy(&asked).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let is_get = head.starts_with("GET");
        if !is_get && body.len() < mark.len() {
            continue;
        }
        let body = if is_get { mark.as_str() } else { "" };
        let head = "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nLast-Modified: Mon, 30 Nov 2026 00:00:00 GMT\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await?;
        asked.clear();
    }
}

#[test]
fn a_server_that_writes_over_objects_is_not_used() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    listener.set_nonblocking(true).expect("set");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).expect("registered");
            let mut served = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                served.spawn(careless(stream));
            }
        });
    });
    is_refused(&at(endpoint).0, RELAY, "If-None-Match");
}

#[test]
#[ignore = "needs a server: cargo xtask conformance s3"]
fn who_is_not_let_in_is_told() {
    let config = needed();
    let (strangers, _file) = at(config.endpoint.clone().expect("named"));
    is_refused(&strangers, RELAY, "denies access");
    is_refused(&S3Config { bucket: "nowhere".to_owned(), ..config }, RELAY, "no such bucket");
}

/// Two relays under one prefix would remove each other's blobs.
#[test]
#[ignore = "needs a server: cargo xtask conformance s3"]
fn a_prefix_is_one_relays() {
    let config = needed();
    let told = heard(async {
        let parts = S3Parts::new(&config, RELAY, 3).expect("well formed");
        assert_eq!(parts.refusal(), Some(PartError::Away), "nobody has looked");
        assert_eq!((parts.look().await, parts.refusal()), (Ok(()), None));
        assert_eq!(put(&parts, 0, b"ours").await, Ok(()));
        // The relay itself comes back to it.
        let again = S3Parts::new(&config, RELAY, 3).expect("well formed");
        assert_eq!(again.look().await, Ok(()));
        assert_eq!(again.read(OWNER, 0, 0..4).await.expect("read"), &b"ours"[..]);
    });
    assert_eq!(
        told.matches("the prefix is new").count(),
        1,
        "it was, and there should be three blobs: {told}"
    );
    is_refused(&config, RelayIdentity([8; 32]), "another relay's");
}

/// What a server has cut (none should) counts as missing, as it does in a folder.
#[tokio::test]
#[ignore = "needs a server: cargo xtask conformance s3"]
async fn parts_are_listed_by_their_length() {
    let parts = parts(&needed());
    parts.look().await.expect("looked");
    let part_bytes = u64::from(posthorn_proto::limits::BLOB_PART_BYTES);
    let length = 300 * part_bytes;
    let whole = vec![1; part_bytes as usize];
    for part in [0, 1, 2, 15, 16, 17, 255, 256] {
        assert_eq!(put(&parts, part, &whole).await, Ok(()));
    }
    assert_eq!(put(&parts, 3, b"cut").await, Ok(()));
    for (asked, missing) in [
        (0..3, None),
        (0..5, Some(3)),
        (1..2, None),
        (3..4, Some(3)),
        (15..18, None),
        (255..257, None),
        (255..300, Some(257)),
    ] {
        assert_eq!(parts.first_missing(OWNER, length, asked.clone()).await, Ok(missing), "{asked:?}");
    }
}

/// What goes wrong while parts are put is noticed to be over.
#[tokio::test]
#[ignore = "needs a server: cargo xtask conformance s3"]
async fn a_part_that_fails_stops_others_until_somebody_has_looked() {
    let parts = parts(&needed());
    parts.look().await.expect("looked");
    let arriving = parts.begin(Box::new(())).await.expect("begun");
    assert_eq!(
        parts.0.refused(&Error::NotImplemented { operation: String::new(), implementer: String::new() }),
        PartError::Away
    );
    assert_eq!(parts.begin(Box::new(())).await.err(), Some(PartError::Away));
    assert_eq!(arriving.store(OWNER, 0).await, Ok(()), "who has begun is not stopped");
    assert_eq!(parts.look().await, Ok(()));
    assert_eq!(put(&parts, 1, b"x").await, Ok(()));
}
