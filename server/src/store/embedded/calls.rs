//! The calls of the [`Store`] trait: what changes something goes to the committer, what only looks asks the
//! ledger and waits until what it saw is durable.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{BlobId, DeviceId, Handle, Incarnation, KeyHash, MailboxId};

use super::EmbeddedStore;
use super::acknowledged::Acknowledgement;
use super::committer::posted;
use super::journal::Position;
use super::queue::{Ask, Asker, Request, units_of};
use super::shared::State;
use crate::store::ledger::{Command, Ledger};
use crate::store::{
    Advance, Append, BlobView, Blobs, CardRecord, DeviceRecord, Directory, KeyPackageStock, Later, Mailboxes,
    NewAccount, NewBlob, NewInvite, NewMailbox, OpenReader, ReadRange, ReaderView, Spent, SpentOn, Stats,
    Store, StoreError, Stored, TakenKeyPackage, Ticket,
};

impl EmbeddedStore {
    fn of_blob(&self, command: Command) -> Later<'_, BlobView, StoreError> {
        Box::pin(async move { Ok(self.run(command).await?.blob()) })
    }
}

impl Blobs for EmbeddedStore {
    fn may_create_blob(&self, new: NewBlob) -> Later<'_, Option<BlobView>, StoreError> {
        Box::pin(async move { self.shared.look_whether(|ledger| ledger.may_create_blob(&new)).await })
    }

    fn create_blob(&self, new: NewBlob, spent: Spent) -> Later<'_, BlobView, StoreError> {
        self.of_blob(Command::CreateBlob(new, spent))
    }

    fn blob(&self, blob: BlobId) -> Later<'_, BlobView, StoreError> {
        Box::pin(async move { self.shared.blob(&blob).await })
    }

    fn extend_blob(&self, blob: BlobId, holder: KeyHash, seconds: u32) -> Later<'_, BlobView, StoreError> {
        self.of_blob(Command::ExtendBlob { blob, holder, seconds })
    }

    fn delete_blob(&self, blob: BlobId, holder: KeyHash) -> Later<'_, (), StoreError> {
        self.quiet(Command::DeleteBlob { blob, holder })
    }
}

impl Mailboxes for EmbeddedStore {
    fn may_create(&self, new: NewMailbox) -> Later<'_, bool, StoreError> {
        Box::pin(async move {
            let there = |ledger: &Ledger<_>| Ok((!ledger.may_create(&new)?).then_some(()));
            Ok(self.shared.look_whether(there).await?.is_none())
        })
    }

    fn create(&self, new: NewMailbox, spent: Spent) -> Later<'_, (), StoreError> {
        self.quiet(Command::Create(new, spent))
    }

    fn append(&self, append: Append) -> Later<'_, u64, StoreError> {
        Box::pin(async move {
            let asked = append.clone();
            match posted(self.run(Command::Append(append)).await) {
                Err(StoreError::PostIdTime { now }) => self.recall(&asked, now).await,
                posted => posted,
            }
        })
    }

    fn posts_time(&self) -> u64 {
        self.shared.now(self.clock.as_ref()).posts
    }

    fn append_soon(&self, append: Append, ticket: Ticket) -> Option<(Append, Ticket)> {
        // Whoever has to look it up waits. If it may be new as yet, the ledger still holds what it knows of
        // it when its turn comes: it is asked to forget only behind this.
        let _asking = self.forgetting.read();
        let new_ids = self.policy.new_ids(self.shared.past.made(), self.shared.posts_time());
        if !new_ids.contain(&append.post_id) {
            return Some((append, ticket));
        }
        let command = Command::Append(append);
        let units = units_of(&command);
        self.shared.awaits(self.clock.as_ref());
        let request = Request { ask: Ask::Command(Box::new(command)), asker: Asker::Told(ticket), units };
        // If the store has stopped, the ticket was dropped, and has told so.
        let back = self.hand_over_now(request).ok().flatten()?;
        self.shared.told(1);
        match (back.ask, back.asker) {
            (Ask::Command(command), Asker::Told(ticket)) => match *command {
                Command::Append(append) => Some((append, ticket)),
                _ => None,
            },
            _ => None,
        }
    }

    fn may_open(&self, open: OpenReader) -> Later<'_, (), StoreError> {
        Box::pin(async move {
            let refused = |ledger: &Ledger<_>| ledger.may_open(&open).map(|()| None::<()>);
            self.shared.look_whether(refused).await.map(drop)
        })
    }

    fn open(&self, open: OpenReader) -> Later<'_, ReaderView, StoreError> {
        Box::pin(async move { Ok(self.run(Command::Open(open)).await?.opened()) })
    }

    fn read(&self, mailbox: MailboxId, range: ReadRange) -> Later<'_, Vec<Stored>, StoreError> {
        Box::pin(async move { self.shared.read(&mailbox, range).await })
    }

    fn advance(&self, to: Advance) -> Later<'_, (), StoreError> {
        self.quiet(Command::Advance(to))
    }

    fn advance_soon(&self, to: Advance) {
        let version = self.shared.version();
        self.shared.acknowledged.note(Acknowledgement { to, version });
    }

    fn signal(&self, mailbox: MailboxId, post_key: KeyHash, payload: Bytes) -> Later<'_, usize, StoreError> {
        let nowhere = Position { segment: 0, offset: 0 };
        Box::pin(async move {
            let check = |ledger: &Ledger<_>| Ok((ledger.check_post_key(&mailbox, &post_key)?, nowhere));
            self.shared.look_into(&mailbox, check).await?;
            Ok(self.published.signalled(&mailbox, &payload))
        })
    }

    fn destroy(&self, mailbox: MailboxId, turn_key: KeyHash) -> Later<'_, (), StoreError> {
        self.quiet(Command::Destroy { mailbox, turn_key })
    }
}

impl Directory for EmbeddedStore {
    fn mint_invite(&self, invite: NewInvite) -> Later<'_, (), StoreError> {
        self.quiet(Command::MintInvite(invite))
    }

    fn register(&self, new: NewAccount) -> Later<'_, (), StoreError> {
        self.quiet(Command::Register(new))
    }

    fn remove_account(&self, handle: Handle) -> Later<'_, (), StoreError> {
        self.quiet(Command::RemoveAccount(handle))
    }

    fn device(&self, device: DeviceId) -> Later<'_, DeviceRecord, StoreError> {
        Box::pin(async move { self.shared.look(|ledger| ledger.device(&device)).await })
    }

    fn publish_card(&self, device: DeviceId, version: u64, card: Bytes) -> Later<'_, (), StoreError> {
        self.quiet(Command::PublishCard { device, version, card })
    }

    fn publish_key_packages(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
    ) -> Later<'_, KeyPackageStock, StoreError> {
        Box::pin(async move {
            Ok(self.run(Command::PublishKeyPackages { device, one_time, last_resort }).await?.stock())
        })
    }

    fn card(&self, handle: Handle) -> Later<'_, CardRecord, StoreError> {
        Box::pin(async move { self.shared.card(&handle).await })
    }

    fn take_key_packages(&self, handle: Handle) -> Later<'_, Vec<TakenKeyPackage>, StoreError> {
        Box::pin(async move {
            let all = self.run(Command::TakeKeyPackages(handle)).await?.taken();
            self.shared.key_packages(all).await
        })
    }

    fn draw_tokens(
        &self,
        device: DeviceId,
        purpose: TokenPurpose,
        hashes: Vec<KeyHash>,
    ) -> Later<'_, u32, StoreError> {
        Box::pin(async move { Ok(self.run(Command::DrawTokens { device, purpose, hashes }).await?.drawn()) })
    }

    fn spend(&self, token: KeyHash, on: SpentOn) -> Later<'_, Spent, StoreError> {
        Box::pin(async move { Ok(self.run(Command::Spend { token, on }).await?.spent()) })
    }

    fn give_back(&self, spent: Spent) -> Later<'_, (), StoreError> {
        self.quiet(Command::GiveBack(spent))
    }
}

impl Store for EmbeddedStore {
    fn incarnation(&self) -> Incarnation {
        *self.incarnation.lock()
    }

    fn renew(&self, next: Incarnation) -> Later<'_, (), StoreError> {
        Box::pin(async move {
            self.run(Command::Restored).await?;
            if let Some(folder) = self.folder.clone() {
                let start = self.start;
                let written = tokio::task::spawn_blocking(move || folder.write(next, start)).await;
                written.map_err(|_| StoreError::Stopped)?.map_err(|error| {
                    tracing::error!(%error, "the new incarnation cannot be written");
                    StoreError::Unavailable
                })?;
            }
            *self.incarnation.lock() = next;
            Ok(())
        })
    }

    fn failed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if self.shared.stopped().await != State::Failed {
                std::future::pending::<()>().await;
            }
        })
    }

    fn expire(&self) -> Later<'_, (), StoreError> {
        Box::pin(self.expire_all())
    }

    fn confirm_clock(&self) -> Later<'_, (), StoreError> {
        self.quiet(Command::ConfirmClock)
    }

    fn stats(&self) -> Stats {
        self.shared.stats(self.clock.as_ref())
    }

    fn close(&self) -> Later<'_, (), StoreError> {
        Box::pin(async move {
            // Closing twice is no error.
            match self.ask(Ask::Close, 0).await {
                Ok(_) => Ok(()),
                Err(_) if self.shared.stopped().await == State::Closed => Ok(()),
                Err(error) => Err(error),
            }
        })
    }
}
