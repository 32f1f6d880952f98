//! What records say of the directory.

use posthorn_proto::KeyHash;
use posthorn_proto::frame::TokenPurpose;

use super::{Ledger, RowKey};
use crate::directory::accounts::Account;
use crate::directory::cards::StoredCard;
use crate::directory::change::DirectoryChange;
use crate::directory::digest;
use crate::directory::invites::Invite;
use crate::directory::key_packages::{LastResort, OneTime, package_digest};
use crate::directory::tokens::{Drawn, Tokens};
use crate::mailbox::At;
use crate::mailbox::log::Freed;

impl<L: Clone + PartialEq> Ledger<L> {
    /// Makes the change of a record that lies at `place`.
    pub(super) fn apply_directory(
        &mut self,
        change: &DirectoryChange,
        at: At,
        place: L,
        freed: Freed<'_, L>,
    ) {
        let (added, mut gone) = (change.body().map_or(0, bytes::Bytes::len) as u64, 0);
        let freed = &mut |place, bytes| {
            gone += u64::from(bytes);
            freed(place, bytes);
        };
        match change {
            DirectoryChange::Registered { handle, identity_key, device, device_key, invite } => {
                let (identity_key, devices) = (*identity_key, vec![(*device, *device_key)]);
                let account = Account { identity_key, devices, place: Some(place) };
                self.accounts.enter(handle, account);
                self.mark(|| RowKey::Account(handle.clone()));
                if let Some((hash, left)) = invite {
                    self.invites.left(hash, *left, at.version);
                    self.mark(|| RowKey::Invite(*hash));
                }
            }
            DirectoryChange::AccountRemoved { handle, devices } => {
                for device in devices {
                    self.accounts.remove(*device, place.clone());
                    self.packages.remove(device, freed);
                    self.mark_all([RowKey::Gone(*device), RowKey::Packages(*device)]);
                }
                let card = self.cards.remove(handle, at.version);
                card.into_iter().for_each(|card| freed(card.place, card.bytes));
                self.mark_all([RowKey::Account(handle.clone()), RowKey::Card(handle.clone())]);
            }
            DirectoryChange::CardPublished { handle, card_version, card } => {
                let (version, stated, digest, bytes) =
                    (*card_version, at.version, digest(card), card.len() as u32);
                let old = self.cards.put(handle, StoredCard { version, stated, digest, bytes, place });
                old.into_iter().for_each(|old| freed(old.place, old.bytes));
                self.mark(|| RowKey::Card(handle.clone()));
            }
            DirectoryChange::KeyPackageAdded { .. }
            | DirectoryChange::KeyPackageMark { .. }
            | DirectoryChange::LastResort { .. }
            | DirectoryChange::KeyPackagesTaken { .. } => self.apply_packages(change, at, place, freed),
            DirectoryChange::InviteMinted { hash, uses, expires } => {
                self.invites.put(*hash, Invite { uses: *uses, expires: *expires, version: at.version });
                self.mark(|| RowKey::Invite(*hash));
            }
            DirectoryChange::InviteGone { hash } => {
                self.invites.remove(hash, at.version);
                self.mark(|| RowKey::Invite(*hash));
            }
            tokens => self.apply_tokens(tokens, at.version),
        }
        // A start counts again once all is there; until then this may be anything.
        self.directory_bytes = self.directory_bytes.wrapping_add(added).wrapping_sub(gone);
    }

    fn apply_packages(&mut self, change: &DirectoryChange, at: At, place: L, freed: Freed<'_, L>) {
        let (DirectoryChange::KeyPackageAdded { device, .. }
        | DirectoryChange::KeyPackageMark { device, .. }
        | DirectoryChange::LastResort { device, .. }
        | DirectoryChange::KeyPackagesTaken { device, .. }) = change
        else {
            return;
        };
        if self.accounts.gone(device).is_some() {
            freed(place, change.body().map_or(0, |body| body.len() as u32));
            return;
        }
        let packages = self.packages.of(*device);
        match change {
            DirectoryChange::KeyPackageAdded { number, key_package, .. } => {
                let place = Some((place, key_package.len() as u32));
                packages.enter(*number, OneTime { digest: package_digest(key_package), place }, freed);
            }
            DirectoryChange::KeyPackageMark { number, digest, .. } => {
                packages.enter(*number, OneTime { digest: *digest, place: None }, freed);
            }
            DirectoryChange::LastResort { key_package, .. } => {
                let (digest, bytes) = (package_digest(key_package), key_package.len() as u32);
                let package = LastResort { version: at.version, since: at.time, digest, bytes, place };
                packages.put_last_resort(package, freed);
            }
            DirectoryChange::KeyPackagesTaken { first, .. } => packages.taken(*first, freed),
            _ => {}
        }
        self.mark(|| RowKey::Packages(*device));
    }

    fn apply_tokens(&mut self, change: &DirectoryChange, version: u64) {
        use TokenPurpose::{CreateMailbox, UploadBlob};
        match change {
            DirectoryChange::TokensDrawn { day, hashes } => {
                self.enter_tokens(CreateMailbox, hashes, *day, None, version);
            }
            DirectoryChange::UploadTokensDrawn { day, hashes } => {
                self.enter_tokens(UploadBlob, hashes, *day, None, version);
            }
            DirectoryChange::TokenSpentOn { day, token, mailbox } => {
                self.enter_tokens(CreateMailbox, &[*token], *day, Some(mailbox.0), version);
            }
            DirectoryChange::UploadTokenSpentOn { day, token, blob } => {
                self.enter_tokens(UploadBlob, &[*token], *day, Some(blob.0), version);
            }
            DirectoryChange::TokenSpent { token } => self.paid(CreateMailbox, token, version),
            DirectoryChange::UploadTokenSpent { token } => self.paid(UploadBlob, token, version),
            DirectoryChange::TokensExpired { before } => {
                self.tokens.void(*before);
                self.uploads.void(*before);
            }
            _ => {}
        }
    }

    fn enter_tokens(
        &mut self,
        purpose: TokenPurpose,
        hashes: &[KeyHash],
        day: u32,
        on: Option<[u8; 16]>,
        version: u64,
    ) {
        for hash in hashes {
            let drawn = Drawn { version, day, on: on.map(Box::new) };
            self.tokens_for(purpose).enter(*hash, drawn);
            self.mark(|| RowKey::of_token(purpose, *hash));
        }
    }

    /// The record of this version created something, and this token has paid for it.
    pub(super) fn paid(&mut self, purpose: TokenPurpose, token: &KeyHash, version: u64) {
        self.tokens_for(purpose).paid(token, version);
        self.mark(|| RowKey::of_token(purpose, *token));
    }

    /// The tokens that were drawn for this.
    pub(super) fn tokens(&self, purpose: TokenPurpose) -> &Tokens {
        match purpose {
            TokenPurpose::CreateMailbox => &self.tokens,
            TokenPurpose::UploadBlob => &self.uploads,
        }
    }

    pub(super) fn tokens_for(&mut self, purpose: TokenPurpose) -> &mut Tokens {
        match purpose {
            TokenPurpose::CreateMailbox => &mut self.tokens,
            TokenPurpose::UploadBlob => &mut self.uploads,
        }
    }
}
