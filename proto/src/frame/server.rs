//! Frames from the relay to the client.

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{BadField, FrameError, array, copy, number, seq};
use crate::auth::{Challenge, Proof};
use crate::code::ErrorCode;
use crate::generated as wire;
use crate::generated::server_frame::Body;
use crate::id::{DeviceId, Incarnation, KeyHash, MailboxId, PostId, RelayIdentity};
use crate::limits::Limits;
use crate::turn::Turn;

/// One message from the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFrame {
    /// The request that this answers; 0 if it was pushed.
    pub request: u64,
    /// The answer, or what was pushed.
    pub body: ServerBody,
}

/// What a relay can say. The schema documents each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerBody {
    /// Pushed first on every connection.
    Hello(Hello),
    /// The request was refused.
    Error(Refusal),
    /// The mailbox exists, on stable storage.
    Created,
    /// The envelope is on stable storage at this seq.
    Posted {
        /// Where it stands in the mailbox's order: from 1 on, without holes.
        seq: u64,
    },
    /// What was asked is done, and there is nothing more to say.
    Done,
    /// One result for each opening, in order.
    Opened(Vec<Opened>),
    /// The relay proves its identity.
    RelayProven(Proof),
    /// The account exists, and the relay proves itself.
    Registered(Proof),
    /// The device's proof is accepted, and the relay proves itself.
    Authenticated(Proof),
    /// A contact card.
    Card(CardAnswer),
    /// The key packages that were taken.
    KeyPackages(Vec<KeyPackage>),
    /// Which key packages the relay still has for the device.
    KeyPackageStock {
        /// One-time packages left.
        one_time: u32,
        /// When the last-resort package was published, unix seconds; 0 = there is none.
        last_resort_since: u64,
    },
    /// How many of the drawn tokens were accepted, from the front.
    TokensDrawn(u32),
    /// Pushed: an envelope.
    Delivery(Delivery),
    /// Pushed: a signal.
    Signalled {
        /// The opened mailbox that it was sent to.
        mailbox: MailboxId,
        /// The sender's bytes, as they were sent.
        payload: Bytes,
    },
    /// Pushed: an opening ended.
    Closed {
        /// The mailbox that is no longer open here.
        mailbox: MailboxId,
        /// Why the relay ended the opening.
        reason: Refusal,
    },
    /// Pushed: an envelope that was stored and will never be delivered; delivery goes on behind it.
    Lost {
        /// The mailbox it was posted to.
        mailbox: MailboxId,
        /// The seq that it had.
        seq: u64,
        /// Why it cannot be delivered.
        reason: Refusal,
    },
    /// Pushed: the relay is stopping.
    GoingAway {
        /// Milliseconds to wait before reconnecting.
        reconnect_after_ms: u32,
    },
}

/// How the relay introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The version of the protocol that it speaks.
    pub version: u32,
    /// Identity, ephemeral key and nonce, for authentication.
    pub challenge: Challenge,
    /// This life of the store.
    pub incarnation: Incarnation,
    /// What the relay accepts.
    pub limits: Limits,
    /// The clock by which the relay judges the times in post ids, unix seconds. It never goes back.
    pub time: u64,
    /// Software name and version.
    pub software: String,
}

/// Why a request failed or an opening ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code; `None` if it is newer than this library.
    pub code: Option<ErrorCode>,
    /// One line for a person.
    pub message: String,
    /// Milliseconds to wait before a retry; 0 = no advice.
    pub retry_after_ms: u32,
    /// With [`ErrorCode::PostIdTime`], the time by which the relay judges post ids, unix seconds; else 0.
    pub time: u64,
}

/// The result of opening one mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The mailbox that was to be opened.
    pub mailbox: MailboxId,
    /// Its state, or why it was not opened.
    pub result: Result<OpenState, Refusal>,
}

/// A mailbox as its reader finds it (rule 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenState {
    /// Seq of the newest envelope; 0 = none yet.
    pub head: u64,
    /// Seq of the oldest stored envelope; head + 1 if none.
    pub oldest: u64,
    /// The seq up to which this reader has acknowledged.
    pub cursor: u64,
    /// Hash of the current post key.
    pub post_key_hash: KeyHash,
    /// Hash of the current turn key.
    pub turn_key_hash: KeyHash,
    /// This life of the store.
    pub incarnation: Incarnation,
}

/// A contact card from the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardAnswer {
    /// The account's identity key, as registered.
    pub identity_key: [u8; 32],
    /// 0 = none published yet.
    pub version: u64,
    /// Opaque to the relay.
    pub card: Bytes,
}

/// One device's key package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPackage {
    /// The device that published it.
    pub device: DeviceId,
    /// Opaque to the relay.
    pub key_package: Bytes,
    /// Whether it is the one for the last resort, which others may have been given too.
    pub last_resort: bool,
}

/// An envelope on its way to a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The mailbox it was posted to.
    pub mailbox: MailboxId,
    /// Where it stands in the mailbox's order.
    pub seq: u64,
    /// The post id that its sender chose.
    pub post_id: PostId,
    /// The bytes that were posted.
    pub envelope: Bytes,
    /// The turn that the append carried.
    pub turn: Option<Turn>,
}

impl Refusal {
    /// A refusal with a code of this version, without advice on waiting.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: Some(code), message: message.into(), retry_after_ms: 0, time: 0 }
    }
}

impl ServerFrame {
    /// A pushed frame.
    pub fn push(body: ServerBody) -> Self {
        Self { request: 0, body }
    }

    /// The frame as bytes, ready to be sent.
    pub fn encode(&self) -> Bytes {
        let frame = wire::ServerFrame { request: self.request, body: Some(Body::from(&self.body)) };
        frame.encode_to_vec().into()
    }

    /// Parses and checks a frame. Byte fields of the result share `bytes`' memory.
    pub fn decode(bytes: Bytes) -> Result<Self, FrameError> {
        let frame = wire::ServerFrame::decode(bytes).map_err(|e| FrameError::Malformed(e.to_string()))?;
        let request = frame.request;
        let body = frame.body.ok_or(FrameError::UnknownBody { request })?;
        let body = ServerBody::try_from(body)
            .map_err(|problem| FrameError::BadField { request, problem: problem.to_string() })?;
        Ok(Self { request, body })
    }
}

impl Delivery {
    /// The frame that pushes it up to the envelope, which comes last unless there is a turn behind it: then
    /// there is no such head. Envelopes are long, and one goes to many readers: with this it is not copied to
    /// become part of a frame.
    pub fn head(&self) -> Option<Vec<u8>> {
        if self.turn.is_some() || self.envelope.is_empty() || self.seq == 0 {
            return None;
        }
        let length = self.envelope.len() as u64;
        let ids = 2 * (2 + MailboxId::LEN);
        let fields = ids + 1 + encoded_len_varint(self.seq) + 1 + encoded_len_varint(length);
        let mut head = Vec::with_capacity(fields + 2 + 10);
        encode_key(DELIVERY, WireType::LengthDelimited, &mut head);
        encode_varint(fields as u64 + length, &mut head);
        put_id(1, &self.mailbox.0, &mut head);
        encode_key(2, WireType::Varint, &mut head);
        encode_varint(self.seq, &mut head);
        put_id(3, &self.post_id.0, &mut head);
        encode_key(4, WireType::LengthDelimited, &mut head);
        encode_varint(length, &mut head);
        Some(head)
    }
}

/// The number of a delivery among what a relay can say.
const DELIVERY: u32 = 50;

fn put_id(field: u32, id: &[u8; 16], out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(id.len() as u64, out);
    out.extend_from_slice(id);
}

impl TryFrom<Body> for ServerBody {
    type Error = BadField;

    fn try_from(body: Body) -> Result<Self, BadField> {
        Ok(match body {
            Body::Hello(hello) => Self::Hello(hello.try_into()?),
            Body::Error(error) => Self::Error(error.try_into()?),
            Body::Created(wire::Created {}) => Self::Created,
            Body::Posted(posted) => Self::Posted { seq: seq("seq", posted.seq)? },
            Body::Done(wire::Done {}) => Self::Done,
            Body::Opened(opened) => {
                Self::Opened(opened.results.into_iter().map(Opened::try_from).collect::<Result<_, _>>()?)
            }
            Body::RelayProven(proven) => Self::RelayProven(Proof(array("proof", &proven.proof)?)),
            Body::Registered(registered) => Self::Registered(Proof(array("proof", &registered.proof)?)),
            Body::Authenticated(done) => Self::Authenticated(Proof(array("proof", &done.proof)?)),
            Body::Card(card) => Self::Card(CardAnswer {
                identity_key: array("identity_key", &card.identity_key)?,
                version: number("version", card.version)?,
                card: card.card,
            }),
            Body::KeyPackages(taken) => Self::KeyPackages(
                taken.packages.into_iter().map(KeyPackage::try_from).collect::<Result<_, _>>()?,
            ),
            Body::KeyPackageStock(stock) => Self::KeyPackageStock {
                one_time: stock.one_time,
                last_resort_since: number("last_resort_since", stock.last_resort_since)?,
            },
            Body::TokensDrawn(drawn) => Self::TokensDrawn(drawn.accepted),
            Body::Delivery(delivery) => Self::Delivery(delivery.try_into()?),
            Body::Signalled(signalled) => Self::Signalled {
                mailbox: signalled.mailbox.as_ref().try_into()?,
                payload: signalled.payload,
            },
            Body::Closed(closed) => Self::Closed {
                mailbox: closed.mailbox.as_ref().try_into()?,
                reason: closed.reason.ok_or(BadField::Missing("reason"))?.try_into()?,
            },
            Body::Lost(lost) => Self::Lost {
                mailbox: lost.mailbox.as_ref().try_into()?,
                seq: seq("seq", lost.seq)?,
                reason: lost.reason.ok_or(BadField::Missing("reason"))?.try_into()?,
            },
            Body::GoingAway(going) => Self::GoingAway { reconnect_after_ms: going.reconnect_after_ms },
        })
    }
}

impl TryFrom<wire::Error> for Refusal {
    type Error = BadField;

    fn try_from(error: wire::Error) -> Result<Self, BadField> {
        Ok(Self {
            code: ErrorCode::from_number(error.code),
            message: error.message,
            retry_after_ms: error.retry_after_ms,
            time: number("time", error.time)?,
        })
    }
}

impl From<&Refusal> for wire::Error {
    fn from(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code.map_or(0, |code| code as i32),
            message: refusal.message.clone(),
            retry_after_ms: refusal.retry_after_ms,
            time: refusal.time,
        }
    }
}

impl TryFrom<wire::Hello> for Hello {
    type Error = BadField;

    fn try_from(hello: wire::Hello) -> Result<Self, BadField> {
        Ok(Self {
            version: hello.version,
            challenge: Challenge {
                relay_identity: RelayIdentity(array("relay_identity", &hello.relay_identity)?),
                ephemeral: array("ephemeral", &hello.ephemeral)?,
                nonce: array("nonce", &hello.nonce)?,
            },
            incarnation: hello.incarnation.as_ref().try_into()?,
            limits: limits(hello.limits.ok_or(BadField::Missing("limits"))?)?,
            time: number("time", hello.time)?,
            software: hello.software,
        })
    }
}

impl TryFrom<wire::OpenResult> for Opened {
    type Error = BadField;

    fn try_from(result: wire::OpenResult) -> Result<Self, BadField> {
        let mailbox = result.mailbox.as_ref().try_into()?;
        if let Some(error) = result.error {
            return Ok(Self { mailbox, result: Err(error.try_into()?) });
        }
        let state = OpenState {
            head: number("head", result.head)?,
            oldest: number("oldest", result.oldest)?,
            cursor: number("cursor", result.cursor)?,
            post_key_hash: result.post_key_hash.as_ref().try_into()?,
            turn_key_hash: result.turn_key_hash.as_ref().try_into()?,
            incarnation: result.incarnation.as_ref().try_into()?,
        };
        Ok(Self { mailbox, result: Ok(state) })
    }
}

impl TryFrom<wire::KeyPackage> for KeyPackage {
    type Error = BadField;

    fn try_from(package: wire::KeyPackage) -> Result<Self, BadField> {
        Ok(Self {
            device: package.device.as_ref().try_into()?,
            key_package: package.key_package,
            last_resort: package.last_resort,
        })
    }
}

impl TryFrom<wire::Delivery> for Delivery {
    type Error = BadField;

    fn try_from(delivery: wire::Delivery) -> Result<Self, BadField> {
        Ok(Self {
            mailbox: delivery.mailbox.as_ref().try_into()?,
            seq: seq("seq", delivery.seq)?,
            post_id: delivery.post_id.as_ref().try_into()?,
            envelope: delivery.envelope,
            turn: delivery.turn.map(Turn::try_from).transpose()?,
        })
    }
}

impl From<&ServerBody> for Body {
    fn from(body: &ServerBody) -> Self {
        match body {
            ServerBody::Hello(hello) => Self::Hello(hello.into()),
            ServerBody::Error(refusal) => Self::Error(refusal.into()),
            ServerBody::Created => Self::Created(wire::Created {}),
            ServerBody::Posted { seq } => Self::Posted(wire::Posted { seq: *seq }),
            ServerBody::Done => Self::Done(wire::Done {}),
            ServerBody::Opened(results) => {
                Self::Opened(wire::Opened { results: results.iter().map(wire::OpenResult::from).collect() })
            }
            ServerBody::RelayProven(proof) => Self::RelayProven(wire::RelayProven { proof: copy(proof.0) }),
            ServerBody::Registered(proof) => Self::Registered(wire::Registered { proof: copy(proof.0) }),
            ServerBody::Authenticated(proof) => {
                Self::Authenticated(wire::Authenticated { proof: copy(proof.0) })
            }
            ServerBody::Card(card) => Self::Card(wire::Card {
                identity_key: copy(card.identity_key),
                version: card.version,
                card: card.card.clone(),
            }),
            ServerBody::KeyPackages(packages) => Self::KeyPackages(wire::KeyPackages {
                packages: packages
                    .iter()
                    .map(|package| wire::KeyPackage {
                        device: copy(package.device),
                        key_package: package.key_package.clone(),
                        last_resort: package.last_resort,
                    })
                    .collect(),
            }),
            ServerBody::KeyPackageStock { one_time, last_resort_since } => {
                Self::KeyPackageStock(wire::KeyPackageStock {
                    one_time: *one_time,
                    last_resort_since: *last_resort_since,
                })
            }
            ServerBody::TokensDrawn(accepted) => Self::TokensDrawn(wire::TokensDrawn { accepted: *accepted }),
            ServerBody::Delivery(delivery) => Self::Delivery(wire::Delivery {
                mailbox: copy(delivery.mailbox),
                seq: delivery.seq,
                post_id: copy(delivery.post_id),
                envelope: delivery.envelope.clone(),
                turn: delivery.turn.as_ref().map(wire::Turn::from),
            }),
            ServerBody::Signalled { mailbox, payload } => {
                Self::Signalled(wire::Signalled { mailbox: copy(mailbox), payload: payload.clone() })
            }
            ServerBody::Closed { mailbox, reason } => {
                Self::Closed(wire::Closed { mailbox: copy(mailbox), reason: Some(reason.into()) })
            }
            ServerBody::Lost { mailbox, seq, reason } => {
                Self::Lost(wire::Lost { mailbox: copy(mailbox), seq: *seq, reason: Some(reason.into()) })
            }
            ServerBody::GoingAway { reconnect_after_ms } => {
                Self::GoingAway(wire::GoingAway { reconnect_after_ms: *reconnect_after_ms })
            }
        }
    }
}

impl From<&Hello> for wire::Hello {
    fn from(hello: &Hello) -> Self {
        Self {
            version: hello.version,
            relay_identity: copy(hello.challenge.relay_identity),
            incarnation: copy(hello.incarnation),
            ephemeral: copy(hello.challenge.ephemeral),
            nonce: copy(hello.challenge.nonce),
            limits: Some((&hello.limits).into()),
            time: hello.time,
            software: hello.software.clone(),
        }
    }
}

impl From<&Opened> for wire::OpenResult {
    fn from(opened: &Opened) -> Self {
        let mailbox = copy(opened.mailbox);
        match &opened.result {
            Err(refusal) => Self { mailbox, error: Some(refusal.into()), ..Self::default() },
            Ok(state) => Self {
                mailbox,
                error: None,
                head: state.head,
                oldest: state.oldest,
                cursor: state.cursor,
                post_key_hash: copy(state.post_key_hash),
                turn_key_hash: copy(state.turn_key_hash),
                incarnation: copy(state.incarnation),
            },
        }
    }
}

fn limits(limits: wire::Limits) -> Result<Limits, BadField> {
    number("mailbox_bytes", limits.mailbox_bytes)?;
    number("blob_bytes", limits.blob_bytes)?;
    Ok(limits.into())
}

macro_rules! limits {
    ($($field:ident),* $(,)?) => {
        impl From<wire::Limits> for Limits {
            fn from(wire: wire::Limits) -> Self {
                Self { $($field: wire.$field),* }
            }
        }

        impl From<&Limits> for wire::Limits {
            fn from(limits: &Limits) -> Self {
                Self { $($field: limits.$field),* }
            }
        }
    };
}

limits!(
    frame_bytes,
    envelope_bytes,
    signal_bytes,
    card_bytes,
    key_package_bytes,
    openings_per_request,
    openings_per_connection,
    requests_in_flight,
    readers_per_mailbox,
    mailbox_bytes,
    expiry_seconds,
    idle_seconds,
    key_packages_per_device,
    tokens_per_device,
    blob_bytes,
    blob_seconds,
    upload_tokens_per_device,
);
