//! Accounts and their devices. An account is made once, with its first device, and does not change
//! afterwards, until the operator removes it. Its name is free then; the ids of its devices never are, so
//! that no record of the former account can become part of a later one.

use posthorn_proto::{DeviceId, Handle};

use crate::store::keyed::Keyed;
use crate::store::tables::Map;
use crate::store::{DeviceRecord, NewAccount, StoreError};

/// What is kept of an account beside its card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account<L> {
    /// An Ed25519 key, which the relay stores and never checks.
    pub(crate) identity_key: [u8; 32],
    /// Its devices with their X25519 keys; the first is the one that registered.
    pub(crate) devices: Vec<(DeviceId, [u8; 32])>,
    /// Where the record lies that says so. `None` if it is from a checkpoint without it.
    pub(crate) place: Option<L>,
}

/// All accounts, by name and by device.
#[derive(Debug)]
pub(crate) struct Accounts<L> {
    by_handle: Map<Handle, Account<L>>,
    by_device: Map<DeviceId, Handle>,
    /// The devices of removed accounts, with the place of the record that says so.
    gone: Map<DeviceId, L>,
}

impl<L: Clone + PartialEq> Accounts<L> {
    /// No accounts yet.
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self { by_handle: Map::new(keyed), by_device: Map::new(keyed), gone: Map::new(keyed) }
    }

    /// How many accounts there are.
    pub(crate) fn len(&self) -> usize {
        self.by_handle.len()
    }

    /// All accounts, by name.
    pub(crate) fn all(&self) -> &Map<Handle, Account<L>> {
        &self.by_handle
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
        if self.by_handle.get(&new.handle).is_some() {
            return Err(StoreError::HandleTaken);
        }
        let known = |device| self.by_device.get(device).is_some() || self.gone.get(device).is_some();
        if known(&new.device) { Err(StoreError::DeviceTaken) } else { Ok(()) }
    }

    /// The account of this name.
    pub(crate) fn get(&self, handle: &Handle) -> Result<&Account<L>, StoreError> {
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

    /// The account that this device made, if it is still there.
    pub(crate) fn made_by(&self, handle: &Handle, device: &DeviceId) -> Option<&Account<L>> {
        let account = self.by_handle.get(handle)?;
        account.devices.iter().any(|(id, _)| id == device).then_some(account)
    }

    /// Where it says that this device's account was removed, if it was.
    pub(crate) fn gone(&self, device: &DeviceId) -> Option<&L> {
        self.gone.get(device)
    }

    /// The devices of removed accounts.
    pub(crate) fn all_gone(&self) -> &Map<DeviceId, L> {
        &self.gone
    }

    /// Adds an account. Of one that is there already only the place is another, and one that was removed does
    /// not come back. Another one of the same name takes its place: the former was removed, or the name would
    /// not have been free, though the record that says so may come later, having been carried forward.
    pub(crate) fn enter(&mut self, handle: &Handle, account: Account<L>) {
        if account.devices.iter().any(|(device, _)| self.gone.get(device).is_some()) {
            return;
        }
        let former = self.by_handle.get_mut(handle);
        if let Some(present) = former
            && present.devices.first() == account.devices.first()
        {
            present.place = account.place;
            return;
        }
        for (device, _) in &account.devices {
            self.by_device.insert(*device, handle.clone());
        }
        let former = self.by_handle.insert(handle.clone(), account);
        for (device, _) in former.iter().flat_map(|former| &former.devices) {
            self.by_device.remove(device);
        }
    }

    /// The account of this device is gone, says the record at this place.
    pub(crate) fn remove(&mut self, device: DeviceId, place: L) {
        if let Some(handle) = self.by_device.remove(&device) {
            self.by_handle.remove(&handle);
        }
        self.gone.insert(device, place);
    }
}
