//! Makes mailboxes on a relay: devices register, draw tokens, and spend them on connections that never
//! authenticate.
//!
//! Owns that procedure, which is that of any client: nothing gets into the relay by a side door.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::bail;
use posthorn_proto::auth::AccountKey;
use posthorn_proto::frame::{ClientFrame, Create, Register, Request, ServerBody, TokenPurpose};
use posthorn_proto::{DeviceId, Handle, KeyHash, MailboxId, PostKey, ReadKey, Reader, Token, TurnKey};
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::task::JoinSet;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::host::Host;
use crate::wire::posthorn::{POST_KEY, READ_KEY, hear, reader};
use crate::wire::socket::{Door, Socket, message};

/// Tokens that one device may draw in a day.
const TOKENS: usize = 200;
/// Devices that register at the same time.
const WORKERS: usize = 16;
/// How many devices have registered, because handles must differ over the life of a relay.
static DEVICES: AtomicUsize = AtomicUsize::new(0);

/// Makes mailboxes with this many readers each (see [`reader`] for their names) that keep envelopes for as
/// long as a relay may.
pub(crate) async fn mailboxes(host: &Host, count: usize, readers: usize) -> anyhow::Result<Vec<MailboxId>> {
    expiring(host, count, readers, posthorn_proto::limits::EXPIRY_SECONDS).await
}

/// The same, but they keep envelopes for this many seconds.
pub(crate) async fn expiring(
    host: &Host,
    count: usize,
    readers: usize,
    expiry: u32,
) -> anyhow::Result<Vec<MailboxId>> {
    let readers = (0..readers)
        .map(|index| Reader { id: reader(index), key_hash: ReadKey::from_bytes(READ_KEY).hash() });
    let form = Arc::new(Form {
        door: host.door(),
        post_key_hash: PostKey::from_bytes(POST_KEY).hash(),
        turn_key_hash: TurnKey::from_bytes([4; 32]).hash(),
        readers: readers.collect(),
        expiry,
        left: AtomicUsize::new(count),
    });
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS.min(count.div_ceil(TOKENS)) {
        workers.spawn(Arc::clone(&form).work());
    }
    let mut mailboxes = Vec::with_capacity(count);
    while let Some(made) = workers.join_next().await {
        mailboxes.extend(made??);
    }
    Ok(mailboxes)
}

/// Draws tokens that pay for this many blobs, by a device of its own.
pub(crate) async fn upload_tokens(host: &Host, count: usize) -> anyhow::Result<Vec<Token>> {
    draw(&host.door(), TokenPurpose::UploadBlob, count, &mut ChaCha20Rng::from_os_rng()).await
}

/// What all mailboxes have in common.
struct Form {
    door: Door,
    post_key_hash: KeyHash,
    turn_key_hash: KeyHash,
    readers: Vec<Reader>,
    expiry: u32,
    /// How many mailboxes nobody has begun to make.
    left: AtomicUsize,
}

impl Form {
    async fn work(self: Arc<Self>) -> anyhow::Result<Vec<MailboxId>> {
        let mut rng = ChaCha20Rng::from_os_rng();
        let mut socket = Socket::connect(&self.door, 16 * 1024).await?;
        let mut mailboxes = Vec::new();
        loop {
            let take = |left: usize| Some(left.saturating_sub(TOKENS));
            let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or(0);
            if left == 0 {
                return Ok(mailboxes);
            }
            let purpose = TokenPurpose::CreateMailbox;
            let tokens = draw(&self.door, purpose, left.min(TOKENS), &mut rng).await?;
            let expected = mailboxes.len() + tokens.len();
            for token in tokens {
                let mailbox = MailboxId::random(&mut rng);
                mailboxes.push(mailbox);
                self.ask(&mut socket, mailboxes.len() as u64, mailbox, token);
            }
            socket.flush().await?;
            let mut created = expected - left.min(TOKENS);
            while created < expected {
                match hear(&mut socket).await? {
                    ServerBody::Created => created += 1,
                    ServerBody::Hello(_) => {}
                    other => bail!("creating a mailbox: {other:?}"),
                }
            }
        }
    }

    fn ask(&self, socket: &mut Socket, request: u64, mailbox: MailboxId, token: Token) {
        let create = Create {
            mailbox,
            token,
            post_key_hash: self.post_key_hash,
            turn_key_hash: self.turn_key_hash,
            readers: self.readers.clone(),
            expiry: self.expiry,
            quota: 0,
        };
        message(&mut socket.out, &ClientFrame { request, body: Request::Create(create) }.encode());
    }
}

/// Registers a device and draws tokens.
async fn draw(
    door: &Door,
    purpose: TokenPurpose,
    count: usize,
    rng: &mut ChaCha20Rng,
) -> anyhow::Result<Vec<Token>> {
    let mut account = Socket::connect(door, 4096).await?;
    let ServerBody::Hello(hello) = hear(&mut account).await? else { bail!("no hello") };
    let mut secret = [0; 32];
    rng.fill_bytes(&mut secret);
    let secret = StaticSecret::from(secret);
    let register = Request::Register(Register {
        invite: String::new(),
        handle: Handle::parse(&format!("bench{}", DEVICES.fetch_add(1, Ordering::Relaxed)))?,
        identity_key: [7; 32],
        device: DeviceId::random(rng),
        device_key: PublicKey::from(&secret).to_bytes(),
        proof: AccountKey::of_device(&secret, &hello.challenge)?.device_proof(),
    });
    match ask(&mut account, 1, register).await? {
        ServerBody::Registered(_) => {}
        other => bail!("registering: {other:?}"),
    }
    let tokens: Vec<Token> = (0..count).map(|_| Token::random(rng)).collect();
    let hashes = tokens.iter().map(Token::hash).collect();
    match ask(&mut account, 2, Request::DrawTokens { purpose, hashes }).await? {
        ServerBody::TokensDrawn(accepted) if accepted as usize == count => {}
        other => bail!("drawing {count} tokens: {other:?}"),
    }
    account.close().await?;
    Ok(tokens)
}

async fn ask(socket: &mut Socket, request: u64, body: Request) -> anyhow::Result<ServerBody> {
    message(&mut socket.out, &ClientFrame { request, body }.encode());
    socket.flush().await?;
    hear(socket).await
}
