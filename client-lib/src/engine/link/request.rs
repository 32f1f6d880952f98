//! Requests on their way: what each answer is for, and who takes it.

use posthorn_proto::auth::AccountKey;
use posthorn_proto::frame::{Refusal, ServerBody};
use posthorn_proto::proof::RelayCheck;
use posthorn_proto::{ErrorCode, KeyHash, MailboxId};

use crate::conversation::ConversationId;
use crate::engine::{Error, Link, LinkId, Step};
use crate::group::KeyPackageRef;

/// What an answer will be for. Each belongs to the folder whose module it names.
pub(in crate::engine) enum Pending {
    /// `link::greet`.
    Prove(RelayCheck),
    /// `account::register`.
    Register(AccountKey),
    /// `account::register`.
    Authenticate(AccountKey),
    /// `account::inboxes`.
    CreateInbox(Link),
    /// `account::stock`.
    DrawTokens(Vec<KeyHash>),
    /// `account::stock`; whether anything was given, and the last-resort package among it.
    PublishKeyPackages { any: bool, last_resort: Option<KeyPackageRef> },
    /// `account::stock`; the card's version.
    PublishCard(u64),
    /// `account::remove`.
    RemoveAccount,
    /// `talk::create`.
    CreateMailbox(ConversationId),
    /// `talk::candidate`.
    LookUp(Asked),
    /// `talk::candidate`.
    TakeKeyPackages(Asked),
    /// `mailbox::open`.
    Open(Vec<MailboxId>),
    /// `talk::post`.
    Post { row: i64, mailbox: MailboxId, conversation: ConversationId },
    /// `inbox::post`.
    PostToInbox { row: i64, mailbox: MailboxId },
    /// Nobody: that it comes is all.
    Ping,
}

/// About whom the directory was asked, and for which intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Asked {
    pub(in crate::engine) conversation: ConversationId,
    pub(in crate::engine) intent: i64,
    pub(in crate::engine) handle: String,
    /// At which relay, if not at our own.
    pub(in crate::engine) relay: Option<String>,
}

impl Step<'_> {
    /// An answer to a request, to the one function that takes it.
    pub(super) fn answered(&mut self, id: &LinkId, pending: Pending, body: ServerBody) -> Result<(), Error> {
        use ServerBody as Body;
        if !matches!(pending, Pending::Prove(_)) {
            self.went_well(id);
        }
        match (pending, body) {
            (Pending::Prove(check), Body::RelayProven(proof)) => self.relay_proven(id, &check, &proof),
            (Pending::Register(key), Body::Registered(proof)) => self.authenticated(id, &key, &proof),
            (Pending::Authenticate(key), Body::Authenticated(proof)) => self.authenticated(id, &key, &proof),
            (Pending::CreateInbox(link), Body::Created) => self.inbox_created(link),
            (Pending::DrawTokens(hashes), Body::TokensDrawn(accepted)) => {
                self.tokens_drawn(&hashes, accepted)
            }
            (
                Pending::PublishKeyPackages { any, last_resort },
                Body::KeyPackageStock { one_time, last_resort_since },
            ) => self.key_packages_published(any, last_resort, one_time, last_resort_since),
            (Pending::PublishCard(version), Body::Done) => self.card_published(version),
            (Pending::RemoveAccount, Body::Done) => {
                self.account_removed();
                Ok(())
            }
            (Pending::CreateMailbox(conversation), Body::Created) => self.mailbox_created(&conversation),
            (Pending::LookUp(asked), Body::Card(answer)) => self.card_found(id, &asked, &answer),
            (Pending::TakeKeyPackages(asked), Body::KeyPackages(packages)) => {
                self.key_packages_taken(id, &asked, packages)
            }
            (Pending::Open(asked), Body::Opened(results)) => self.opened(id, &asked, results),
            (Pending::Post { row, conversation, .. }, Body::Posted { seq }) => {
                self.posted(&conversation, row, seq)
            }
            (Pending::PostToInbox { row, .. }, Body::Posted { .. }) => self.left_in_inbox(row),
            (Pending::Ping, _) => Ok(()),
            // An answer to another question: asking again at once would go on for ever.
            _ => {
                self.back_off(id, &Refusal::new(ErrorCode::Internal, "its answer is to another question"));
                Ok(())
            }
        }
    }

    /// A refusal of a request, likewise.
    pub(super) fn refused(&mut self, id: &LinkId, pending: Pending, refusal: Refusal) -> Result<(), Error> {
        match pending {
            Pending::Prove(_) => self.proof_refused(id, &refusal),
            Pending::Register(_) => self.registration_refused(id, &refusal),
            Pending::Authenticate(_) => self.authentication_refused(id, &refusal),
            Pending::CreateInbox(link) => self.inbox_refused(id, link, &refusal),
            Pending::DrawTokens(_) => self.tokens_refused(&refusal),
            Pending::PublishKeyPackages { .. } | Pending::PublishCard(_) => self.stock_refused(id, &refusal),
            Pending::RemoveAccount => {
                self.removal_refused(id, &refusal);
                Ok(())
            }
            Pending::CreateMailbox(conversation) => self.creation_refused(id, &conversation, &refusal),
            Pending::LookUp(asked) | Pending::TakeKeyPackages(asked) => {
                self.look_up_refused(id, &asked, &refusal)
            }
            Pending::Open(_) => {
                self.back_off(id, &refusal);
                self.live.openings_dirty = true;
                Ok(())
            }
            Pending::Post { row, mailbox, conversation } => {
                self.post_refused(id, &conversation, row, mailbox, &refusal)
            }
            Pending::PostToInbox { row, mailbox } => self.inbox_post_refused(id, row, mailbox, &refusal),
            Pending::Ping => Ok(()),
        }
    }
}

/// Whether the same request may succeed later by itself: the relay is busy, not unwilling.
pub(in crate::engine) fn is_passing(refusal: &Refusal) -> bool {
    matches!(
        refusal.code,
        Some(
            ErrorCode::Busy
                | ErrorCode::RateLimited
                | ErrorCode::StoreUnavailable
                | ErrorCode::Internal
                | ErrorCode::ShuttingDown
        )
    )
}
