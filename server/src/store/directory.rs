//! The role of a store that keeps accounts, cards, key packages, tokens and invites.

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{DeviceId, Handle, KeyHash};

use super::{
    CardRecord, DeviceRecord, KeyPackageStock, Later, NewAccount, NewInvite, Spent, SpentOn, StoreError,
    TakenKeyPackage,
};

/// Who is at this relay: what an authenticated device may ask for, and what the operator does about it.
pub trait Directory: Send + Sync + 'static {
    /// Stores an invite, in place of one with the same hash if there is one. With 0 uses that one is revoked.
    fn mint_invite(&self, invite: NewInvite) -> Later<'_, (), StoreError>;

    /// Makes an account with its first device and uses the invite, both or neither. The identical call again
    /// is `Ok`, whatever the invite. Refuses with `InviteInvalid`, `HandleTaken`, `DeviceTaken`, `Quota`, in
    /// this order, so that whoever has no invite learns no names.
    fn register(&self, new: NewAccount) -> Later<'_, (), StoreError>;

    /// Removes an account with its card and its key packages, for the operator (`HandleUnknown`). Its name is
    /// free from then on; its device is `DeviceUnknown`, and cannot register again (`DeviceTaken`).
    fn remove_account(&self, handle: Handle) -> Later<'_, (), StoreError>;

    /// Finds a device, for authentication.
    fn device(&self, device: DeviceId) -> Later<'_, DeviceRecord, StoreError>;

    /// Replaces the card of the device's account. The identical card at the same version is `Ok`.
    fn publish_card(&self, device: DeviceId, version: u64, card: Bytes) -> Later<'_, (), StoreError>;

    /// Adds key packages to a device; over the limit the oldest one-time packages make room for new ones.
    /// Packages in stock, and the newest 100 of those that are gone, are recognised and not added again, so
    /// that a repeated call offers nothing twice. With nothing to add it only returns the stock.
    fn publish_key_packages(
        &self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
    ) -> Later<'_, KeyPackageStock, StoreError>;

    /// A card by handle.
    fn card(&self, handle: Handle) -> Later<'_, CardRecord, StoreError>;

    /// Takes one key package of each device of an account, one-time packages first and each given out once.
    fn take_key_packages(&self, handle: Handle) -> Later<'_, Vec<TakenKeyPackage>, StoreError>;

    /// Stores the hashes of tokens for this purpose, without the device's name; returns how many were
    /// accepted, from the front. A hash that is there already counts as accepted. How many a device drew
    /// today is counted in memory only, because on disk the count would link the device to the hashes.
    /// `Quota` if the relay has room for not even one.
    fn draw_tokens(
        &self,
        device: DeviceId,
        purpose: TokenPurpose,
        hashes: Vec<KeyHash>,
    ) -> Later<'_, u32, StoreError>;

    /// Spends a token on this, and on nothing else from then on (`TokenUnknown`). The same again gives the
    /// same, so that whoever was cut off can go on, until it has paid, is given back, or is as old as a token
    /// may be.
    ///
    /// See [`paying`](super::paying) for who calls this, and how it is kept by more than one machine.
    fn spend(&self, token: KeyHash, on: SpentOn) -> Later<'_, Spent, StoreError>;

    /// The token may be spent again, on anything, because what this was to pay for was refused. Nothing
    /// happens if it has paid, or was given back before.
    fn give_back(&self, spent: Spent) -> Later<'_, (), StoreError>;
}
