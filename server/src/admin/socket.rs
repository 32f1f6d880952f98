//! The relay's side of the admin socket: one JSON line in, one JSON line out.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use posthorn_proto::Handle;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::invite::{self, Invite};
use crate::clock::SystemClock;
use crate::command::Context;
use crate::gateway::doors::Doors;
use crate::parts::Parts;
use crate::store::{Clock as _, NewInvite, Stats, StoreError};

/// Longest request that is read, in bytes.
const ASK_BYTES: u64 = 4096;
/// Most askers that are served at once.
const ASKERS: usize = 16;
/// How long an asker may take from connecting until it has its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest life of an invite, in days.
const INVITE_DAYS: u32 = 3650;

/// What the operator can ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// A new invite.
    Invite {
        /// How many accounts it may make; at least 1.
        uses: u32,
        /// For how many days; 1 to 3650.
        days: u32,
    },
    /// Numbers about the relay.
    Stats,
    /// The operator says that the clock is right, so that expiry goes on (rule 20).
    ConfirmClock,
    /// An account shall be gone.
    RemoveAccount {
        /// Its name at this relay.
        handle: String,
    },
}

/// What the relay answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The invite, and where to use it.
    Invited {
        /// The new invite, with its code.
        invite: Invite,
        /// The relay's URL for clients.
        relay: String,
    },
    /// The numbers that were asked for.
    Stats(Numbers),
    /// What was asked is done.
    Done,
}

/// Numbers of the relay and of its store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "the names are the labels that `posthorn-server stats` prints; Stats documents them"
)]
pub struct Numbers {
    pub version: String,
    pub uptime_seconds: u64,
    pub connections: u64,
    pub openings: u64,
    pub mailboxes: u64,
    pub envelopes: u64,
    pub envelope_bytes: u64,
    pub posts: u64,
    #[serde(default)]
    pub post_id_bytes: u64,
    #[serde(default)]
    pub post_ids_since: u64,
    pub accounts: u64,
    #[serde(default)]
    pub blobs: u64,
    #[serde(default)]
    pub blob_bytes: u64,
    #[serde(default)]
    pub blobs_refused: bool,
    pub disk_bytes: u64,
    pub expiry_paused: bool,
    pub damaged: u64,
    pub disk_full: bool,
    #[serde(default)]
    pub stalled_seconds: u64,
    pub held_bytes: u64,
}

/// Answers the operator.
pub(crate) struct Desk {
    pub(crate) context: Arc<Context>,
    pub(crate) doors: Arc<Doors>,
    pub(crate) clock: SystemClock,
    pub(crate) parts: Arc<dyn Parts>,
    /// The URL that clients connect to.
    pub(crate) url: String,
    /// Makes invite codes.
    pub(crate) rng: Mutex<StdRng>,
}

impl Desk {
    /// Mints an invite, durably.
    pub(crate) async fn mint(&self, uses: u32, days: u32) -> Result<Invite, StoreError> {
        let code = invite::random(&mut *self.rng.lock());
        let expires = self.clock.unix_seconds() + u64::from(days) * 24 * 3600;
        self.context.directory.mint_invite(NewInvite { hash: invite::hash(&code), uses, expires }).await?;
        Ok(Invite { code, uses, expires })
    }

    async fn answer(&self, ask: Ask) -> Result<Answer, String> {
        match ask {
            Ask::Invite { uses, days } if uses == 0 || days == 0 || days > INVITE_DAYS => {
                Err(format!("an invite has at least 1 use and lives for 1 to {INVITE_DAYS} days"))
            }
            Ask::Invite { uses, days } => {
                let invite = self.mint(uses, days).await.map_err(|error| error.to_string())?;
                Ok(Answer::Invited { invite, relay: self.url.clone() })
            }
            Ask::RemoveAccount { handle } => {
                let handle = Handle::parse(&handle).map_err(|error| format!("{handle}: {error}"))?;
                self.context.directory.remove_account(handle).await.map_err(|error| error.to_string())?;
                Ok(Answer::Done)
            }
            Ask::Stats => Ok(Answer::Stats(self.numbers())),
            Ask::ConfirmClock => {
                self.context.store.confirm_clock().await.map_err(|error| error.to_string())?;
                Ok(Answer::Done)
            }
        }
    }

    pub(crate) fn numbers(&self) -> Numbers {
        let Stats {
            mailboxes,
            envelopes,
            envelope_bytes,
            posts,
            past_bytes: post_id_bytes,
            past_since: post_ids_since,
            accounts,
            blobs,
            blob_bytes,
            disk_bytes,
            expiry_paused,
            damaged,
            full,
            stalled_seconds,
        } = self.context.store.stats();
        Numbers {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.clock.monotonic_seconds(),
            connections: self.doors.open(),
            openings: self.context.hub.openings(),
            mailboxes,
            envelopes,
            envelope_bytes,
            posts,
            post_id_bytes,
            post_ids_since,
            accounts,
            blobs,
            blob_bytes,
            blobs_refused: self.parts.refusal().is_some(),
            disk_bytes,
            expiry_paused,
            damaged,
            disk_full: full,
            stalled_seconds,
            held_bytes: self.context.budget.used() as u64,
        }
    }
}

/// Binds the socket of a data folder, for this user only. The store holds the folder's lock, so a socket that
/// is there already was left behind by a relay that died.
pub(crate) fn listen(data: &Path) -> io::Result<UnixListener> {
    let path = data.join(super::SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Desk {
    /// Serves the socket until dropped.
    pub(crate) async fn run(self: Arc<Self>, listener: UnixListener) {
        let mut askers = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if askers.len() < ASKERS => {
                    let Ok((stream, _)) = accepted else { return };
                    let desk = self.clone();
                    askers.spawn(async move {
                        // An asker that goes away, or takes too long, gets nothing; that is its own affair.
                        let _ = timeout(PATIENCE, desk.serve(stream)).await;
                    });
                }
                Some(_) = askers.join_next() => {}
            }
        }
    }

    async fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.split();
        let mut line = String::new();
        BufReader::new(read.take(ASK_BYTES)).read_line(&mut line).await?;
        let answer = match serde_json::from_str(&line) {
            Ok(ask) => self.answer(ask).await,
            Err(error) => Err(format!("not a question: {error}")),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        write.write_all(&line).await
    }
}
