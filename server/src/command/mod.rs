//! What clients can ask: one file per request. Each checks policy, makes one call into the store, and
//! replies.
//!
//! The frame is already decoded and its lengths are right; what is left to check are this relay's limits, who
//! is asking, and how often: [`context`] is the relay as they see it, [`peer`] the connection that asks,
//! [`rate`] how often something may happen, and [`neighbourhood`] what counts as one address. No command
//! touches a socket. Rules of mailboxes and of the directory are not here but in the store's ledger.
//!
//! | file | needs |
//! |---|---|
//! | [`create`] | a creation token |
//! | [`post`], [`signal`] | the post key |
//! | [`open`], [`ack`], [`close`] | a read key |
//! | [`destroy`] | the turn key |
//! | [`prove_relay`] | nothing: anybody may ask, a few times |
//! | [`register`] | an invite, and the device's key |
//! | [`authenticate`] | the device's key |
//! | [`look_up`], [`take_key_packages`] | an authenticated device or, if the directory is open, nothing ([`asker`]) |
//! | [`publish_card`], [`publish_key_packages`], [`draw_tokens`], [`remove_account`] | an authenticated device |

mod ack;
mod asker;
mod authenticate;
mod close;
mod context;
mod create;
mod destroy;
mod draw_tokens;
mod look_up;
pub(crate) mod neighbourhood;
mod open;
pub(crate) mod peer;
mod post;
mod prove_relay;
mod publish_card;
mod publish_key_packages;
pub(crate) mod rate;
mod register;
mod remove_account;
mod signal;
mod take_key_packages;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use posthorn_proto::ErrorCode;
use posthorn_proto::frame::{Refusal, Request, ServerBody};

pub use context::{Context, ContextParts};

use self::peer::{Asked, Peer};
use crate::store::StoreError;

/// What remains to be done for one request. It answers into the session's outbox by itself. Its first poll is
/// what hands the request to the store, so poll it once before the session gets another frame. (A post is
/// usually with the store already, and has none: the store answers it, and wakes the outbox.)
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a request comes to.
pub(crate) type Reply = Result<ServerBody, Refusal>;

/// What a command works with.
#[derive(Clone)]
pub(crate) struct Call {
    /// The relay.
    pub(crate) context: Arc<Context>,
    /// Who asks.
    pub(crate) peer: Arc<Peer>,
    /// Steady milliseconds.
    pub(crate) now: u64,
}

/// Begins a request. `None` if it is over already.
pub(crate) fn begin(call: Call, asked: Asked, request: Request) -> Option<Work> {
    Some(match request {
        Request::Create(create) => answer(asked, create::create(call, create)),
        Request::Post(post) => return post::post(call, asked, post),
        Request::Signal(signal) => answer(asked, signal::signal(call, signal)),
        Request::Open(open) => Box::pin(open::open(call, asked, open)),
        Request::Ack(ack) => return ack::ack(call, asked, ack),
        Request::Close(mailbox) => {
            asked.answer(close::close(&call, &mailbox));
            return None;
        }
        Request::Destroy { mailbox, turn_key } => answer(asked, destroy::destroy(call, mailbox, turn_key)),
        Request::Ping => {
            asked.answer(Ok(ServerBody::Done));
            return None;
        }
        Request::ProveRelay(ask) => {
            asked.answer(prove_relay::prove_relay(&call, &ask));
            return None;
        }
        Request::Register(register) => answer(asked, register::register(call, register)),
        Request::Authenticate(proof) => answer(asked, authenticate::authenticate(call, proof)),
        Request::PublishCard(publish) => answer(asked, publish_card::publish_card(call, publish)),
        Request::PublishKeyPackages(publish) => {
            answer(asked, publish_key_packages::publish_key_packages(call, publish))
        }
        Request::LookUp(handle) => answer(asked, look_up::look_up(call, handle)),
        Request::TakeKeyPackages(handle) => answer(asked, take_key_packages::take_key_packages(call, handle)),
        Request::RemoveAccount => answer(asked, remove_account::remove_account(call)),
        Request::DrawTokens { purpose, hashes } => {
            answer(asked, draw_tokens::draw_tokens(call, purpose, hashes))
        }
    })
}

/// How many bytes a request holds, about, until it is answered.
pub(crate) fn request_bytes(request: &Request) -> usize {
    const FIXED: usize = 256;
    FIXED
        + match request {
            Request::Create(create) => 48 * create.readers.len(),
            Request::Post(post) => {
                let turn = post.turn.as_ref().map(|request| &request.turn);
                post.envelope.len() + turn.map_or(0, |turn| 48 * turn.admit.len() + 16 * turn.evict.len())
            }
            Request::Signal(signal) => signal.payload.len(),
            Request::Open(open) => 128 * open.openings.len(),
            Request::PublishCard(publish) => publish.card.len(),
            Request::PublishKeyPackages(publish) => {
                publish.one_time.iter().chain(&publish.last_resort).map(bytes::Bytes::len).sum()
            }
            Request::DrawTokens { hashes, .. } => 32 * hashes.len(),
            _ => 0,
        }
}

/// How many bytes the answer may have, for reserving room before the request is begun.
pub(crate) fn answer_bytes(request: &Request, context: &Context) -> usize {
    match request {
        Request::Open(open) => 192 * open.openings.len(),
        Request::LookUp(_) => context.limits.card_bytes as usize,
        Request::TakeKeyPackages(_) => context.limits.key_package_bytes as usize * 2,
        _ => 64,
    }
}

/// So many bytes of a request cost as much as another request.
const BYTES_OF_ONE: usize = 16 * 1024;
/// So many openings that a signal is forwarded to cost as much as another request.
const SIGNALLED_OF_ONE: usize = 8;

/// How many requests a request counts as, which is about what it costs the relay: an opening as much as a
/// post, and bytes what they take of the disk and the network.
pub(crate) fn cost(request: &Request, bytes: usize) -> u32 {
    let units = match request {
        Request::Open(open) => open.openings.len(),
        _ => bytes / BYTES_OF_ONE,
    };
    u32::try_from(1 + units).unwrap_or(u32::MAX)
}

/// What a signal costs beside that, which is known once it was forwarded.
pub(crate) fn cost_of_forwarding(openings: usize) -> u32 {
    u32::try_from(openings / SIGNALLED_OF_ONE).unwrap_or(u32::MAX)
}

/// Whether an `Open` that comes behind this request, and is looked at before it is carried out, might be
/// refused wrongly.
pub(crate) fn may_let_in(request: &Request) -> bool {
    match request {
        Request::Create(_) => true,
        Request::Post(post) => post.turn.is_some(),
        Request::Open(open) => open.openings.iter().any(|opening| opening.claim.is_some()),
        _ => false,
    }
}

fn answer(asked: Asked, reply: impl Future<Output = Reply> + Send + 'static) -> Work {
    Box::pin(async move {
        asked.answer(reply.await);
    })
}

fn too_large(what: &str, got: u64, most: u64) -> Refusal {
    Refusal::new(ErrorCode::TooLarge, format!("{what}: {got}, at most {most} here"))
}

fn within(what: &str, got: usize, most: u32) -> Result<(), Refusal> {
    if got > most as usize { Err(too_large(what, got as u64, most.into())) } else { Ok(()) }
}

pub(crate) fn rate_limited(retry_after_ms: u32) -> Refusal {
    let message = "too many of these requests: wait before the next";
    Refusal { retry_after_ms, ..Refusal::new(ErrorCode::RateLimited, message) }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let retry_after_ms = match error {
            StoreError::Busy => 200,
            StoreError::Unavailable => 5000,
            StoreError::Stopped => 1000,
            _ => 0,
        };
        let time = if let StoreError::PostIdTime { now } = error { now } else { 0 };
        Self { retry_after_ms, time, ..Self::new(error.code(), error.to_string()) }
    }
}
