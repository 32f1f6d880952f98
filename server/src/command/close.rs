//! Close: ends an opening; the cursor stays where the last ack put it.

use posthorn_proto::frame::{Refusal, ServerBody};
use posthorn_proto::{ErrorCode, MailboxId};

use super::{Call, Reply};
use crate::live::opening::closing_words;

pub(super) fn close(call: &Call, mailbox: &MailboxId) -> Reply {
    if call.peer.unseat(mailbox) {
        Ok(ServerBody::Done)
    } else {
        Err(Refusal::new(ErrorCode::NotOpen, closing_words(ErrorCode::NotOpen)))
    }
}
