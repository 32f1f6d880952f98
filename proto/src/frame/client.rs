//! Frames from the client to the relay.

use bytes::Bytes;
use prost::Message as _;

use super::{BadField, FrameError, array, copy, not_empty, number};
use crate::auth::Proof;
use crate::generated as wire;
use crate::generated::client_frame::Body;
use crate::id::{DeviceId, Handle, KeyHash, MailboxId, PostId, ReaderId};
use crate::key::{PostKey, ReadKey, Token, TurnKey};
use crate::turn::{Reader, TurnRequest};

/// One message from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFrame {
    /// Chosen by the client and repeated in the answer. 0 only for an ack that wants no answer.
    pub request: u64,
    /// What is asked.
    pub body: Request,
}

/// What a client can ask. The schema documents each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Create a mailbox.
    Create(Create),
    /// Append an envelope, perhaps with a turn.
    Post(Post),
    /// Forward without storing.
    Signal(Signal),
    /// Open mailboxes for delivery.
    Open(Open),
    /// Acknowledge and give credit.
    Ack(Ack),
    /// End an opening.
    Close(MailboxId),
    /// Remove a mailbox.
    Destroy {
        /// The mailbox to remove.
        mailbox: MailboxId,
        /// Its current turn key.
        turn_key: TurnKey,
    },
    /// Show that both ends of the connection are alive.
    Ping,
    /// Is it the relay that it says?
    ProveRelay(ProveRelay),
    /// Make an account and its first device.
    Register(Register),
    /// Prove to be a registered device.
    Authenticate(Authenticate),
    /// Replace the contact card.
    PublishCard(PublishCard),
    /// Add key packages.
    PublishKeyPackages(PublishKeyPackages),
    /// Ask for a contact card.
    LookUp(Handle),
    /// Take a key package of each device of an account.
    TakeKeyPackages(Handle),
    /// Remove the account.
    RemoveAccount,
    /// Deposit the hashes of tokens.
    DrawTokens {
        /// What they shall pay for.
        purpose: TokenPurpose,
        /// SHA-256 of each.
        hashes: Vec<KeyHash>,
    },
}

impl Request {
    /// Deposits the hashes of tokens that pay for mailboxes.
    pub fn creation_tokens(hashes: Vec<KeyHash>) -> Self {
        Self::DrawTokens { purpose: TokenPurpose::CreateMailbox, hashes }
    }
}

/// What a token pays for. One that was drawn for one purpose is good for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenPurpose {
    /// The creation of one mailbox.
    CreateMailbox,
    /// The upload of one blob.
    UploadBlob,
}

/// Creates a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// The new mailbox's random name, chosen by the client.
    pub mailbox: MailboxId,
    /// The creation token that pays for it.
    pub token: Token,
    /// Hash of the first post key.
    pub post_key_hash: KeyHash,
    /// Hash of the first turn key.
    pub turn_key_hash: KeyHash,
    /// The first readers; their cursor is 0.
    pub readers: Vec<Reader>,
    /// Seconds after which an envelope is dropped; at least 1.
    pub expiry: u32,
    /// Bytes; 0 = the relay's limit.
    pub quota: u64,
}

/// Appends an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// The mailbox to append to.
    pub mailbox: MailboxId,
    /// Names this append across retries.
    pub post_id: PostId,
    /// The current post key.
    pub post_key: PostKey,
    /// The bytes to store; never empty.
    pub envelope: Bytes,
    /// Turns the lock in the same step.
    pub turn: Option<TurnRequest>,
}

/// Forwards a payload to whoever has the mailbox open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// The mailbox whose openings get it.
    pub mailbox: MailboxId,
    /// The current post key.
    pub post_key: PostKey,
    /// The bytes to forward; never empty.
    pub payload: Bytes,
}

/// Opens mailboxes for delivery on this connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The mailboxes to open; each gets one result, in this order.
    pub openings: Vec<Opening>,
}

/// One mailbox to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The mailbox to open.
    pub mailbox: MailboxId,
    /// The reader to open it as.
    pub reader: ReaderId,
    /// The reader's key.
    pub read_key: ReadKey,
    /// An invitation's one-time key, to be replaced by `read_key`.
    pub claim: Option<ReadKey>,
    /// How many envelopes may be delivered before more credit is given.
    pub credit: u32,
}

/// Acknowledges up to `seq` and adds credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The opened mailbox.
    pub mailbox: MailboxId,
    /// Everything up to here is safe with the client.
    pub seq: u64,
    /// How many more envelopes may be delivered.
    pub credit: u32,
}

/// Asks the relay to prove its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProveRelay {
    /// A fresh X25519 public key.
    pub ephemeral: [u8; 32],
}

/// Makes an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// The invite code; empty where registration is open.
    pub invite: String,
    /// The account's name.
    pub handle: Handle,
    /// The account's Ed25519 identity key.
    pub identity_key: [u8; 32],
    /// Its first device.
    pub device: DeviceId,
    /// The device's X25519 public key.
    pub device_key: [u8; 32],
    /// Proof of holding the device's secret key.
    pub proof: Proof,
}

/// Authenticates the connection as a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authenticate {
    /// The device that this connection claims to be.
    pub device: DeviceId,
    /// Proof of holding its secret key.
    pub proof: Proof,
}

/// Replaces the contact card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishCard {
    /// Must be higher than that of the stored card.
    pub version: u64,
    /// Opaque to the relay; never empty.
    pub card: Bytes,
}

/// Adds key packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishKeyPackages {
    /// Each is handed out once.
    pub one_time: Vec<Bytes>,
    /// Handed out once no one-time package is left; `None` keeps the one that is there.
    pub last_resort: Option<Bytes>,
}

impl ClientFrame {
    /// The frame as bytes, ready to be sent.
    pub fn encode(&self) -> Bytes {
        let frame = wire::ClientFrame { request: self.request, body: Some(Body::from(&self.body)) };
        frame.encode_to_vec().into()
    }

    /// Parses and checks a frame. Byte fields of the result share `bytes`' memory.
    pub fn decode(bytes: Bytes) -> Result<Self, FrameError> {
        let frame = wire::ClientFrame::decode(bytes).map_err(|e| FrameError::Malformed(e.to_string()))?;
        let request = frame.request;
        let body = frame.body.ok_or(FrameError::UnknownBody { request })?;
        if request == 0 && !matches!(body, Body::Ack(_)) {
            return Err(FrameError::NumberMissing);
        }
        let body = Request::try_from(body)
            .map_err(|problem| FrameError::BadField { request, problem: problem.to_string() })?;
        Ok(Self { request, body })
    }
}

impl TryFrom<Body> for Request {
    type Error = BadField;

    fn try_from(body: Body) -> Result<Self, BadField> {
        Ok(match body {
            Body::Create(create) => Self::Create(create.try_into()?),
            Body::Post(post) => Self::Post(post.try_into()?),
            Body::Signal(signal) => Self::Signal(Signal {
                mailbox: signal.mailbox.as_ref().try_into()?,
                post_key: signal.post_key.as_ref().try_into()?,
                payload: not_empty("payload", signal.payload)?,
            }),
            Body::Open(open) => Self::Open(Open {
                openings: open.openings.into_iter().map(Opening::try_from).collect::<Result<_, _>>()?,
            }),
            Body::Ack(ack) => Self::Ack(Ack {
                mailbox: ack.mailbox.as_ref().try_into()?,
                seq: number("seq", ack.seq)?,
                credit: ack.credit,
            }),
            Body::Close(close) => Self::Close(close.mailbox.as_ref().try_into()?),
            Body::Destroy(destroy) => Self::Destroy {
                mailbox: destroy.mailbox.as_ref().try_into()?,
                turn_key: destroy.turn_key.as_ref().try_into()?,
            },
            Body::Ping(wire::Ping {}) => Self::Ping,
            Body::ProveRelay(prove) => {
                Self::ProveRelay(ProveRelay { ephemeral: array("ephemeral", &prove.ephemeral)? })
            }
            Body::Register(register) => Self::Register(register.try_into()?),
            Body::Authenticate(authenticate) => Self::Authenticate(Authenticate {
                device: authenticate.device.as_ref().try_into()?,
                proof: Proof(array("proof", &authenticate.proof)?),
            }),
            Body::PublishCard(publish) => Self::PublishCard(PublishCard {
                version: number("version", publish.version)?,
                card: not_empty("card", publish.card)?,
            }),
            Body::PublishKeyPackages(publish) => Self::PublishKeyPackages(PublishKeyPackages {
                one_time: publish
                    .one_time
                    .into_iter()
                    .map(|package| not_empty("key package", package))
                    .collect::<Result<_, _>>()?,
                last_resort: Some(publish.last_resort).filter(|package| !package.is_empty()),
            }),
            Body::LookUp(look_up) => Self::LookUp(Handle::parse(&look_up.handle)?),
            Body::TakeKeyPackages(take) => Self::TakeKeyPackages(Handle::parse(&take.handle)?),
            Body::RemoveAccount(wire::RemoveAccount {}) => Self::RemoveAccount,
            Body::DrawTokens(draw) => Self::DrawTokens {
                purpose: match wire::TokenPurpose::try_from(draw.purpose) {
                    Ok(wire::TokenPurpose::CreateMailbox) => TokenPurpose::CreateMailbox,
                    Ok(wire::TokenPurpose::UploadBlob) => TokenPurpose::UploadBlob,
                    Err(_) => return Err(BadField::Range("purpose")),
                },
                hashes: draw
                    .token_hashes
                    .iter()
                    .map(|hash| hash.as_ref().try_into())
                    .collect::<Result<_, _>>()?,
            },
        })
    }
}

impl TryFrom<wire::Create> for Create {
    type Error = BadField;

    fn try_from(create: wire::Create) -> Result<Self, BadField> {
        if create.expiry == 0 {
            return Err(BadField::Range("expiry"));
        }
        Ok(Self {
            mailbox: create.mailbox.as_ref().try_into()?,
            token: Token::try_from(create.token.as_ref())?,
            post_key_hash: create.post_key_hash.as_ref().try_into()?,
            turn_key_hash: create.turn_key_hash.as_ref().try_into()?,
            readers: create.readers.into_iter().map(Reader::try_from).collect::<Result<_, _>>()?,
            expiry: create.expiry,
            quota: number("quota", create.quota)?,
        })
    }
}

impl TryFrom<wire::Post> for Post {
    type Error = BadField;

    fn try_from(post: wire::Post) -> Result<Self, BadField> {
        Ok(Self {
            mailbox: post.mailbox.as_ref().try_into()?,
            post_id: post.post_id.as_ref().try_into()?,
            post_key: post.post_key.as_ref().try_into()?,
            envelope: not_empty("envelope", post.envelope)?,
            turn: post.turn.map(TurnRequest::try_from).transpose()?,
        })
    }
}

impl TryFrom<wire::TurnRequest> for TurnRequest {
    type Error = BadField;

    fn try_from(request: wire::TurnRequest) -> Result<Self, BadField> {
        Ok(Self {
            key: request.turn_key.as_ref().try_into()?,
            turn: request.turn.ok_or(BadField::Missing("turn"))?.try_into()?,
        })
    }
}

impl TryFrom<wire::Opening> for Opening {
    type Error = BadField;

    fn try_from(opening: wire::Opening) -> Result<Self, BadField> {
        let claim = Some(opening.claim).filter(|claim| !claim.is_empty());
        Ok(Self {
            mailbox: opening.mailbox.as_ref().try_into()?,
            reader: opening.reader.as_ref().try_into()?,
            read_key: opening.read_key.as_ref().try_into()?,
            claim: claim.map(|claim| claim.as_ref().try_into()).transpose()?,
            credit: opening.credit,
        })
    }
}

impl TryFrom<wire::Register> for Register {
    type Error = BadField;

    fn try_from(register: wire::Register) -> Result<Self, BadField> {
        Ok(Self {
            invite: register.invite,
            handle: Handle::parse(&register.handle)?,
            identity_key: array("identity_key", &register.identity_key)?,
            device: register.device.as_ref().try_into()?,
            device_key: array("device_key", &register.device_key)?,
            proof: Proof(array("proof", &register.proof)?),
        })
    }
}

impl From<&Request> for Body {
    fn from(request: &Request) -> Self {
        match request {
            Request::Create(create) => Self::Create(create.into()),
            Request::Post(post) => Self::Post(post.into()),
            Request::Signal(signal) => Self::Signal(wire::Signal {
                mailbox: copy(signal.mailbox),
                post_key: copy(signal.post_key.expose()),
                payload: signal.payload.clone(),
            }),
            Request::Open(open) => {
                Self::Open(wire::Open { openings: open.openings.iter().map(wire::Opening::from).collect() })
            }
            Request::Ack(ack) => {
                Self::Ack(wire::Ack { mailbox: copy(ack.mailbox), seq: ack.seq, credit: ack.credit })
            }
            Request::Close(mailbox) => Self::Close(wire::Close { mailbox: copy(mailbox) }),
            Request::Destroy { mailbox, turn_key } => {
                Self::Destroy(wire::Destroy { mailbox: copy(mailbox), turn_key: copy(turn_key.expose()) })
            }
            Request::Ping => Self::Ping(wire::Ping {}),
            Request::ProveRelay(prove) => {
                Self::ProveRelay(wire::ProveRelay { ephemeral: copy(prove.ephemeral) })
            }
            Request::Register(register) => Self::Register(register.into()),
            Request::Authenticate(authenticate) => Self::Authenticate(wire::Authenticate {
                device: copy(authenticate.device),
                proof: copy(authenticate.proof.0),
            }),
            Request::PublishCard(publish) => {
                Self::PublishCard(wire::PublishCard { version: publish.version, card: publish.card.clone() })
            }
            Request::PublishKeyPackages(publish) => Self::PublishKeyPackages(wire::PublishKeyPackages {
                one_time: publish.one_time.clone(),
                last_resort: publish.last_resort.clone().unwrap_or_default(),
            }),
            Request::LookUp(handle) => Self::LookUp(wire::LookUp { handle: handle.to_string() }),
            Request::TakeKeyPackages(handle) => {
                Self::TakeKeyPackages(wire::TakeKeyPackages { handle: handle.to_string() })
            }
            Request::RemoveAccount => Self::RemoveAccount(wire::RemoveAccount {}),
            Request::DrawTokens { purpose, hashes } => Self::DrawTokens(wire::DrawTokens {
                token_hashes: hashes.iter().map(copy).collect(),
                purpose: match purpose {
                    TokenPurpose::CreateMailbox => wire::TokenPurpose::CreateMailbox,
                    TokenPurpose::UploadBlob => wire::TokenPurpose::UploadBlob,
                }
                .into(),
            }),
        }
    }
}

impl From<&Create> for wire::Create {
    fn from(create: &Create) -> Self {
        Self {
            mailbox: copy(create.mailbox),
            token: copy(create.token.expose()),
            post_key_hash: copy(create.post_key_hash),
            turn_key_hash: copy(create.turn_key_hash),
            readers: create.readers.iter().map(wire::Reader::from).collect(),
            expiry: create.expiry,
            quota: create.quota,
        }
    }
}

impl From<&Post> for wire::Post {
    fn from(post: &Post) -> Self {
        Self {
            mailbox: copy(post.mailbox),
            post_id: copy(post.post_id),
            post_key: copy(post.post_key.expose()),
            envelope: post.envelope.clone(),
            turn: post.turn.as_ref().map(|request| wire::TurnRequest {
                turn_key: copy(request.key.expose()),
                turn: Some((&request.turn).into()),
            }),
        }
    }
}

impl From<&Opening> for wire::Opening {
    fn from(opening: &Opening) -> Self {
        Self {
            mailbox: copy(opening.mailbox),
            reader: copy(opening.reader),
            read_key: copy(opening.read_key.expose()),
            claim: opening.claim.as_ref().map(|claim| copy(claim.expose())).unwrap_or_default(),
            credit: opening.credit,
        }
    }
}

impl From<&Register> for wire::Register {
    fn from(register: &Register) -> Self {
        Self {
            invite: register.invite.clone(),
            handle: register.handle.to_string(),
            identity_key: copy(register.identity_key),
            device: copy(register.device),
            device_key: copy(register.device_key),
            proof: copy(register.proof.0),
        }
    }
}
