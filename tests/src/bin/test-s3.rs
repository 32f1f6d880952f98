//! A real S3 server for `cargo xtask conformance s3`. It prints one line, the endpoint and the file of the
//! credentials, and ends when its standard input does.

use anyhow::Context as _;
use posthorn_tests::seaweed::Seaweed;
use tokio::io::AsyncReadExt as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let here = std::env::current_exe()?;
    let target = here.parent().and_then(|debug| debug.parent()).context("it lies in the build's folder")?;
    let server = Seaweed::start(&Seaweed::fetched(target).await?).await?;
    println!("{} {}", server.endpoint(), server.credentials().display());
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
