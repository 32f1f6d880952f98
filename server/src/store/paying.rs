//! Creating what a token pays for. It takes two roles, and touches one of them at a time: the token is spent
//! on the name of what is to be created, durably; then that is created with what it was spent as.
//!
//! - Whoever is cut off in between, by a crash or a lost connection, has a token that is spent on this name,
//!   and asks the same again: that goes on from there. Nobody can spend it on anything else, and it ends as
//!   tokens do.
//! - What would be refused is refused before the token is spent. If it is refused afterwards all the same,
//!   because somebody else was faster, the token is given back.
//! - A token pays once. In one ledger the record that creates something also ends its token.
//!
//! In a store that is spread over machines, each role has a log of its own, and none waits for the other.
//! Whoever keeps mailboxes (or blobs) then remembers each [`Spent`](super::Spent) that has paid or was
//! refused there, for as long as tokens are good, and refuses it from then on: so a mailbox that is gone is
//! not made again, and what was given back pays for nothing under its former number. That it has paid is told
//! to the directory some time later, which forgets the token then. If that is lost, the token ends by its
//! age.

use super::{BlobView, Blobs, Directory, Mailboxes, NewBlob, NewMailbox, SpentOn, StoreError};

/// Creates a mailbox and spends its token, or neither. The identical call again is `Ok` while the mailbox is
/// still as it was created, and spends nothing. Refuses with `MailboxExists`, `BadTurn`, `Quota`,
/// `TokenUnknown`, in this order.
pub async fn create_mailbox(
    directory: &(impl Directory + ?Sized),
    mailboxes: &(impl Mailboxes + ?Sized),
    new: NewMailbox,
) -> Result<(), StoreError> {
    if !mailboxes.may_create(new.clone()).await? {
        return Ok(());
    }
    let spent = directory.spend(new.token, SpentOn::Mailbox(new.mailbox)).await?;
    let created = mailboxes.create(new, spent).await;
    if created.is_err_and(leaves_token) {
        // If this fails, the identical creation may still use it.
        let _ = directory.give_back(spent).await;
    }
    created
}

/// The same for a blob. Returns what is there. Refuses with `BlobExists`, `Quota`, `TokenUnknown`, in this
/// order.
pub async fn create_blob(
    directory: &(impl Directory + ?Sized),
    blobs: &(impl Blobs + ?Sized),
    new: NewBlob,
) -> Result<BlobView, StoreError> {
    if let Some(present) = blobs.may_create_blob(new).await? {
        return Ok(present);
    }
    let spent = directory.spend(new.token, SpentOn::Blob(new.blob)).await?;
    let created = blobs.create_blob(new, spent).await;
    if created.is_err_and(leaves_token) {
        let _ = directory.give_back(spent).await;
    }
    created
}

/// Whether what was refused in this way was refused for certain, and has taken no token.
fn leaves_token(error: StoreError) -> bool {
    use StoreError::{BadTurn, BlobExists, MailboxExists, Quota};
    matches!(error, MailboxExists | BlobExists | BadTurn(_) | Quota(_))
}
