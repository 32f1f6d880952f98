//! Accounts and their devices. An account is made once, with its first device, and does not change
//! afterwards.

use hashbrown::HashMap;
use posthorn_proto::{DeviceId, Handle};

use crate::store::keyed::Keyed;
use crate::store::{DeviceRecord, NewAccount, StoreError};

/// What is kept of an account beside its card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// An Ed25519 key, which the relay stores and never checks.
    pub(crate) identity_key: [u8; 32],
    /// Its devices with their X25519 keys; the first is the one that registered.
    pub(crate) devices: Vec<(DeviceId, [u8; 32])>,
}

/// All accounts, by name and by device.
#[derive(Debug)]
pub(crate) struct Accounts {
    by_handle: HashMap<Handle, Account, Keyed>,
    by_device: HashMap<DeviceId, Handle, Keyed>,
}

impl Accounts {
    /// No accounts yet.
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { by_handle: HashMap::with_hasher(keyed), by_device: HashMap::with_hasher(keyed) }
    }

    /// How many accounts there are.
    pub(crate) fn len(&self) -> usize {
        self.by_handle.len()
    }

    /// The names of all accounts.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.by_handle.keys()
    }

    /// Whether exactly this account was registered before.
    pub(crate) fn is_registered(&self, new: &NewAccount) -> bool {
        self.by_handle.get(&new.handle).is_some_and(|account| {
            account.identity_key == new.identity_key
                && account.devices.first() == Some(&(new.device, new.device_key))
        })
    }

    /// Whether the names are free.
    pub(crate) fn check_free(&self, new: &NewAccount) -> Result<(), StoreError> {
        if self.by_handle.contains_key(&new.handle) {
            return Err(StoreError::HandleTaken);
        }
        if self.by_device.contains_key(&new.device) { Err(StoreError::DeviceTaken) } else { Ok(()) }
    }

    /// The account of this name.
    pub(crate) fn get(&self, handle: &Handle) -> Result<&Account, StoreError> {
        self.by_handle.get(handle).ok_or(StoreError::HandleUnknown)
    }

    /// The account that a device belongs to.
    pub(crate) fn owner(&self, device: &DeviceId) -> Result<&Handle, StoreError> {
        self.by_device.get(device).ok_or(StoreError::DeviceUnknown)
    }

    /// What authenticating as a device needs.
    pub(crate) fn device(&self, device: &DeviceId) -> Result<DeviceRecord, StoreError> {
        let handle = self.owner(device)?;
        let (_, device_key) =
            self.get(handle)?.devices.iter().find(|(id, _)| id == device).ok_or(StoreError::DeviceUnknown)?;
        Ok(DeviceRecord { handle: handle.clone(), device_key: *device_key })
    }

    /// Adds an account. One that is there already stays as it is.
    pub(crate) fn enter(&mut self, handle: &Handle, account: Account) {
        for (device, _) in &account.devices {
            self.by_device.entry(*device).or_insert_with(|| handle.clone());
        }
        self.by_handle.entry(handle.clone()).or_insert(account);
    }
}
