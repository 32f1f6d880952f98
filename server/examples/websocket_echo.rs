//! Echoes WebSocket messages by the relay's own decoder, for `cargo xtask conformance websocket`. The first
//! line that it prints is the address on which it listens. It ends when its standard input does.

use anyhow::Context as _;
use posthorn_server::gateway::conformance::echo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen")?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(echo(stream));
            }
            // A suite breaks connections on purpose.
            Some(_) = connections.join_next() => {}
        }
    }
}
