//! Names, keys and requests for tests, made of small numbers so that a failing list of operations can be
//! read.

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{BlobId, DeviceId, Handle, KeyHash, MailboxId, PostId, Reader, ReaderId, Turn};

use super::START;
use crate::store::{Advance, Append, NewAccount, NewBlob, OpenReader, OpeningNumber};

/// Of tokens for mailboxes, and for blobs.
pub(crate) const CREATE: TokenPurpose = TokenPurpose::CreateMailbox;
pub(crate) const UPLOAD: TokenPurpose = TokenPurpose::UploadBlob;

/// The value of a result that must be `Ok`.
#[track_caller]
pub(crate) fn expect<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.expect("the store does it")
}

/// Mailbox `n`.
pub(crate) fn mailbox(n: u8) -> MailboxId {
    MailboxId([n; 16])
}

/// Post `n`, as if it were made when tests begin.
pub(crate) fn post_id(n: u16) -> PostId {
    made_at(n, START)
}

/// Post `n`, made at this time.
pub(crate) fn made_at(n: u16, seconds: u64) -> PostId {
    PostId::at(seconds, std::array::from_fn(|at| if at < 2 { n.to_be_bytes()[at] } else { 7 }))
}

/// The same append, as if its id were made at this time.
pub(crate) fn at(append: Append, seconds: u64) -> Append {
    let random = std::array::from_fn(|at| append.post_id.0[at + 4]);
    Append { post_id: PostId::at(seconds, random), ..append }
}

fn key(kind: u8, n: u8) -> KeyHash {
    let mut hash = [n; 32];
    hash[0] = kind;
    KeyHash(hash)
}

/// The post key of generation `n`.
pub(crate) fn post_key(n: u8) -> KeyHash {
    key(1, n)
}

/// The turn key of generation `n`.
pub(crate) fn turn_key(n: u8) -> KeyHash {
    key(2, n)
}

/// The read key of reader `n`.
pub(crate) fn read_key(n: u8) -> KeyHash {
    key(3, n)
}

/// Token `n`.
pub(crate) fn token(n: u8) -> KeyHash {
    key(4, n)
}

/// Invite `n`.
pub(crate) fn invite(n: u8) -> KeyHash {
    key(5, n)
}

/// The key of holder `n`.
pub(crate) fn holder(n: u8) -> KeyHash {
    key(6, n)
}

/// Blob `n`.
pub(crate) fn blob(n: u8) -> BlobId {
    BlobId([n; 16])
}

/// Blob `n` of holder `n`, paid with token `n`: 1,000 bytes for 5,000 seconds.
pub(crate) fn new_blob(n: u8) -> NewBlob {
    NewBlob { blob: blob(n), token: token(n), holder: holder(n), length: 1000, seconds: 5000 }
}

/// Reader `n`'s name.
pub(crate) fn reader_id(n: u8) -> ReaderId {
    ReaderId([n; 16])
}

/// Reader `n`.
pub(crate) fn reader(n: u8) -> Reader {
    Reader { id: reader_id(n), key_hash: read_key(n) }
}

/// Device `n`.
pub(crate) fn device(n: u8) -> DeviceId {
    DeviceId([n; 16])
}

/// The name of account `n`.
pub(crate) fn handle_of(n: u8) -> Handle {
    expect(Handle::parse(&format!("account{n}")))
}

/// Account `n` with device `n`, without an invite.
pub(crate) fn account(n: u8) -> NewAccount {
    NewAccount {
        invite: None,
        handle: handle_of(n),
        identity_key: [n; 32],
        device: device(n),
        device_key: [n ^ 0x80; 32],
    }
}

/// An envelope of this length, filled with a byte.
pub(crate) fn envelope(fill: u8, len: usize) -> Bytes {
    vec![fill; len].into()
}

/// Opens as reader `n` with its own key.
pub(crate) fn open(mailbox: MailboxId, n: u8) -> OpenReader {
    OpenReader { mailbox, reader: reader_id(n), key: read_key(n), claim: None }
}

/// That reader `n` has read up to `seq`, by an opening that came before any other.
pub(crate) fn upto(mailbox: MailboxId, n: u8, seq: u64) -> Advance {
    Advance { mailbox, reader: reader_id(n), opening: OpeningNumber::default(), seq }
}

/// Post `n` with the key of this generation.
pub(crate) fn post(mailbox: MailboxId, n: u16, generation: u8) -> Append {
    sized(mailbox, n, generation, 100)
}

/// Post `n` with an envelope of this length.
pub(crate) fn sized(mailbox: MailboxId, n: u16, generation: u8, len: usize) -> Append {
    finger(Append {
        mailbox,
        post_id: post_id(n),
        post_key: post_key(generation),
        envelope: envelope(n as u8, len),
        turn: None,
        fingerprint: [0; 16],
    })
}

/// The same append, which also turns the lock from its generation to the next and admits and evicts these
/// readers.
pub(crate) fn turning(append: Append, generation: u8, admit: &[u8], evict: &[u8]) -> Append {
    let turn = Turn {
        post_key_hash: post_key(generation + 1),
        turn_key_hash: turn_key(generation + 1),
        admit: admit.iter().map(|n| reader(*n)).collect(),
        evict: evict.iter().map(|n| reader_id(*n)).collect(),
    };
    finger(Append { turn: Some((turn_key(generation), turn)), ..append })
}

/// The append with the fingerprint that it should have.
pub(crate) fn finger(append: Append) -> Append {
    append.with_fingerprint()
}
