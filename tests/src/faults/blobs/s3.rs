//! The same with parts in S3: now the relay is killed, now the server, now both. While there is no server,
//! parts are refused and messages go on; once it is back, so are blobs, by themselves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use posthorn_proto::frame::{Request, ServerBody};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use super::book::{Book, Expected, compare, draw, strays, thin_out};
use super::{KEPT, Run, SWEPT, Tally, crowd, now};
use crate::faults::kill::SMALL;
use crate::http::{BareBlob, Http};
use crate::relay::{RelayProcess, RelayProgram};
use crate::seaweed::Seaweed;
use crate::wire::PATIENCE;

/// What the names of the relay's objects begin with.
const PREFIX: &str = "relays/one";

pub(super) async fn run(run: &Run, tally: &mut Tally) {
    let target = run.relay.parent().and_then(Path::parent).unwrap_or(&run.relay);
    let program = match Seaweed::fetched(target).await {
        Ok(program) => program,
        Err(error) => return Tally::skip("blobs: S3", &format!("{error:#}")),
    };
    let cycles = if run.long { 60 } else { 6 };
    let name = format!("blobs: S3, {cycles} kills, seed {}", run.seed);
    tally.count(&name, kills(run, &program, cycles).await);
    tally.count("blobs: S3 is away", away(run, &program).await);
}

/// A server, and a relay that keeps its blobs there.
async fn both(run: &Run, program: &Path) -> anyhow::Result<(Seaweed, RelayProcess)> {
    let server = Seaweed::start(program).await?;
    let settings = server.options(PREFIX);
    let options: Vec<&str> = SMALL.iter().copied().chain(settings.iter().map(String::as_str)).collect();
    let relay = RelayProcess::start(&RelayProgram::new(&run.relay), &options).await?;
    // The relay speaks before it has looked at the server.
    back(relay.address()).await?;
    Ok((server, relay))
}

/// What `/health` says.
async fn health(relay: SocketAddr) -> anyhow::Result<String> {
    Ok(Http::connect(relay).await?.ask("GET", "/health", &[], b"").await?.words())
}

/// Waits until the relay has noticed that the server is there.
async fn back(relay: SocketAddr) -> anyhow::Result<()> {
    let begun = now();
    while health(relay).await?.contains("\"blobs_refused\":true") {
        ensure!(begun.elapsed() < PATIENCE, "the server is there, and blobs are refused");
        // It looks every second, and tells nobody.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Waits until nothing is there that belongs to nobody.
async fn swept(server: &Seaweed, book: &Book) -> anyhow::Result<()> {
    let begun = now();
    loop {
        let strays = strays(server.blobs(PREFIX).await?, book);
        if strays.is_empty() {
            return Ok(());
        }
        ensure!(begun.elapsed() < SWEPT, "{strays:?} belong to nobody");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn kills(run: &Run, program: &Path, cycles: u64) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let (mut server, mut relay) = both(run, program).await?;
    let book = Arc::new(Book::default());
    let (mut compared, mut thinned) = (0, 0);
    for cycle in 1..=cycles {
        let context = || format!("kill {cycle} of {cycles}");
        let workers = crowd(run, &relay, &book, cycle, Expected::Away).await.with_context(context)?;
        // How long this sleeps is the fault that is injected; nothing is waited for.
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..1_500_000))).await;
        let (relay_dies, server_dies) = [(true, false), (false, true), (true, true)][cycle as usize % 3];
        if server_dies {
            server.kill().await?;
        }
        if relay_dies {
            relay.kill().await?;
        }
        for ended in workers.join_all().await {
            ended.with_context(context)?;
        }
        if relay_dies {
            // Without a server it starts all the same, and sweeps when there is one.
            relay.restart().await.with_context(context)?;
        }
        if server_dies {
            server.restart().await.with_context(context)?;
        }
        back(relay.address()).await.with_context(context)?;
        if relay_dies {
            swept(&server, &book).await.with_context(context)?;
        }
        compared += compare(relay.address(), &book).await.with_context(context)?;
        thinned += thin_out(relay.address(), &book, KEPT).await.with_context(context)?;
    }
    relay.stop().await?;
    Ok(format!("{} blobs, {compared} parts compared", book.pages().len() + thinned))
}

async fn away(run: &Run, program: &Path) -> anyhow::Result<String> {
    let mut rng = ChaCha20Rng::seed_from_u64(run.seed);
    let (mut server, mut relay) = both(run, program).await?;
    let tokens = draw(&relay, "alice", &mut rng).await?;
    let mut http = Http::connect(relay.address()).await?;
    let blob = BareBlob::new(3 << 20, &mut rng);
    ensure!(blob.create(&mut http, &tokens[0]).await?.status == 201, "it is created");
    ensure!(blob.put(&mut http, 0).await?.status == 201, "it is put");
    server.kill().await?;
    let refused = |answer: &crate::http::Answer, what: &str| {
        let words = answer.words();
        ensure!(answer.status == 503 && words.contains("STORE_UNAVAILABLE"), "{what}: {words}");
        Ok(())
    };
    refused(&blob.put(&mut http, 1).await?, "putting")?;
    let begun = now();
    refused(&blob.put(&mut http, 1).await?, "putting again")?;
    refused(&BareBlob::new(5, &mut rng).create(&mut http, &tokens[1]).await?, "creating")?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "whoever comes later is refused at once");
    refused(&blob.get(&mut http, 0).await?, "getting")?;
    let health = health(relay.address()).await?;
    ensure!(health.contains("\"blobs_refused\":true"), "{health}");
    relay.kill().await?;
    relay.restart().await?;
    let answer = relay.connect().await?.ask(Request::Ping).await?;
    ensure!(answer == ServerBody::Done, "messages go on: {answer:?}");
    relay.says("s3.endpoint").await?;
    server.restart().await?;
    back(relay.address()).await?;
    relay.says("blobs are taken again").await?;
    let mut http = Http::connect(relay.address()).await?;
    for part in 0..3 {
        ensure!(blob.put(&mut http, part).await?.status == 201, "part {part} can be put");
        ensure!(blob.get(&mut http, part).await?.body == blob.bytes(part), "part {part} is another");
    }
    ensure!(
        BareBlob::new(5, &mut rng).create(&mut http, &tokens[1]).await?.status == 201,
        "the token is unspent"
    );
    relay.stop().await?;
    Ok("parts are refused, messages go on, and blobs are back by themselves".to_owned())
}
