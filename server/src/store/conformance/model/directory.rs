//! The directory of the model.

use std::collections::BTreeMap;

use bytes::Bytes;
use posthorn_proto::frame::TokenPurpose;
use posthorn_proto::{DeviceId, Handle, KeyHash};

use super::{DAY, Model, ModelDevice, ModelToken};
use crate::store::{
    CardRecord, KeyPackageStock, NewAccount, NewInvite, SpentOn, StoreError, TakenKeyPackage,
};

impl Model {
    pub(crate) fn mint_invite(&mut self, invite: NewInvite) {
        self.invites.insert(invite.hash, invite);
    }

    pub(crate) fn register(&mut self, new: NewAccount) -> Result<(), StoreError> {
        let without_invite = |account: &NewAccount| NewAccount { invite: None, ..account.clone() };
        let same =
            |device: &ModelDevice| device.account.as_ref().map(without_invite) == Some(without_invite(&new));
        if self.accounts.get(&new.handle).is_some_and(same) {
            return Ok(());
        }
        if let Some(hash) = new.invite {
            let invite =
                self.invites.get(&hash).filter(|invite| invite.uses > 0 && self.now < invite.expires);
            invite.ok_or(StoreError::InviteInvalid)?;
        }
        if self.accounts.contains_key(&new.handle) {
            return Err(StoreError::HandleTaken);
        }
        if self.device(new.device).is_ok() || self.gone.contains(&new.device) {
            return Err(StoreError::DeviceTaken);
        }
        if self.accounts.len() as u64 >= self.policy.accounts {
            return Err(StoreError::Quota("accounts"));
        }
        if let Some(invite) = new.invite.and_then(|hash| self.invites.get_mut(&hash)) {
            invite.uses -= 1;
        }
        self.accounts
            .insert(new.handle.clone(), ModelDevice { account: Some(new), ..ModelDevice::default() });
        Ok(())
    }

    pub(crate) fn remove_account(&mut self, handle: &Handle) -> Result<(), StoreError> {
        let account = self.accounts.remove(handle).ok_or(StoreError::HandleUnknown)?.account;
        self.gone.extend(account.map(|account| account.device));
        Ok(())
    }

    fn device(&mut self, device: DeviceId) -> Result<&mut ModelDevice, StoreError> {
        let mut all = self.accounts.values_mut();
        let found = all.find(|found| found.account.as_ref().is_some_and(|account| account.device == device));
        found.ok_or(StoreError::DeviceUnknown)
    }

    pub(crate) fn publish_card(
        &mut self,
        device: DeviceId,
        version: u64,
        card: Bytes,
    ) -> Result<(), StoreError> {
        let held = self.held();
        let total = self.policy.total_bytes;
        let device = self.device(device)?;
        let new = Some((version, card));
        if new == device.card {
            return Ok(());
        }
        if version <= device.card.as_ref().map_or(0, |(version, _)| *version) {
            return Err(StoreError::CardStale);
        }
        if held + new.as_ref().map_or(0, |(_, card)| card.len() as u64) > total {
            return Err(StoreError::Quota("bytes"));
        }
        device.card = new;
        Ok(())
    }

    pub(crate) fn card(&mut self, handle: &Handle) -> Result<CardRecord, StoreError> {
        let device = self.accounts.get(handle).ok_or(StoreError::HandleUnknown)?;
        let (version, card) = device.card.clone().unwrap_or_default();
        let identity_key = device.account.as_ref().map_or([0; 32], |account| account.identity_key);
        Ok(CardRecord { identity_key, version, card })
    }

    pub(crate) fn publish_key_packages(
        &mut self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
    ) -> Result<KeyPackageStock, StoreError> {
        let (limit, now) = (self.policy.key_packages_per_device, self.now);
        let (held, total) = (self.held(), self.policy.total_bytes);
        let device = self.device(device)?;
        let mut fresh = Vec::new();
        for package in one_time {
            if ![&device.packages, &device.taken, &fresh].into_iter().any(|known| known.contains(&package)) {
                fresh.push(package);
            }
        }
        fresh.drain(..fresh.len().saturating_sub(limit));
        let last = device.last_resort.as_ref().map(|(package, _)| package);
        let new = fresh.iter().chain(last_resort.iter().filter(|new| Some(*new) != last));
        let new: usize = new.map(Bytes::len).sum();
        if new > 0 && held + new as u64 > total {
            return Err(StoreError::Quota("bytes"));
        }
        device.packages.extend(fresh);
        let surplus = device.packages.len().saturating_sub(limit);
        device.taken.extend(device.packages.drain(..surplus));
        device.taken.drain(..device.taken.len().saturating_sub(100));
        if last_resort.is_some()
            && last_resort != device.last_resort.as_ref().map(|(package, _)| package.clone())
        {
            device.last_resort = last_resort.map(|package| (package, now));
        }
        let last_resort_since = device.last_resort.as_ref().map_or(0, |(_, since)| *since);
        Ok(KeyPackageStock { one_time: device.packages.len() as u32, last_resort_since })
    }

    pub(crate) fn take_key_packages(&mut self, handle: &Handle) -> Result<Vec<TakenKeyPackage>, StoreError> {
        let found = self.accounts.get_mut(handle).ok_or(StoreError::HandleUnknown)?;
        let device = found.account.as_ref().map(|account| account.device).ok_or(StoreError::HandleUnknown)?;
        if !found.packages.is_empty() {
            let key_package = found.packages.remove(0);
            found.taken.push(key_package.clone());
            found.taken.drain(..found.taken.len().saturating_sub(100));
            return Ok(vec![TakenKeyPackage { device, key_package, last_resort: false }]);
        }
        let (key_package, _) = found.last_resort.clone().ok_or(StoreError::NoKeyPackage)?;
        Ok(vec![TakenKeyPackage { device, key_package, last_resort: true }])
    }

    pub(crate) fn draw_tokens(
        &mut self,
        device: DeviceId,
        purpose: TokenPurpose,
        hashes: Vec<KeyHash>,
    ) -> Result<u32, StoreError> {
        self.device(device)?;
        let day = self.now / DAY;
        let upload = purpose == TokenPurpose::UploadBlob;
        let (tokens, limit) = match upload {
            true => (&mut self.uploads, self.policy.upload_tokens_per_device),
            false => (&mut self.tokens, self.policy.tokens_per_device),
        };
        let mut accepted = 0;
        for hash in hashes {
            let drawn = self.drawn.entry((device, upload, day)).or_default();
            if !tokens.contains_key(&hash) {
                if *drawn >= limit {
                    break;
                }
                if tokens.len() as u64 >= self.policy.tokens {
                    return if accepted == 0 { Err(StoreError::Quota("tokens")) } else { Ok(accepted) };
                }
                *drawn += 1;
                tokens.insert(hash, ModelToken { day, spent: None });
            }
            accepted += 1;
        }
        Ok(accepted)
    }

    fn tokens_for(&mut self, on: SpentOn) -> &mut BTreeMap<KeyHash, ModelToken> {
        match on {
            SpentOn::Mailbox(_) => &mut self.tokens,
            SpentOn::Blob(_) => &mut self.uploads,
        }
    }

    /// Which spending it is.
    pub(crate) fn spend(&mut self, token: KeyHash, on: SpentOn) -> Result<u64, StoreError> {
        let next = self.spendings + 1;
        let token = self.tokens_for(on).get_mut(&token).ok_or(StoreError::TokenUnknown)?;
        match token.spent {
            Some((there, number)) if there == on => Ok(number),
            Some(_) => Err(StoreError::TokenUnknown),
            None => {
                token.spent = Some((on, next));
                self.spendings = next;
                Ok(next)
            }
        }
    }

    /// The token pays, if this is how it is spent.
    pub(super) fn pay(&mut self, token: KeyHash, on: SpentOn, number: u64) -> Result<(), StoreError> {
        let known = self.tokens_for(on).get(&token).ok_or(StoreError::TokenUnknown)?;
        if known.spent != Some((on, number)) {
            return Err(StoreError::TokenUnknown);
        }
        self.tokens_for(on).remove(&token);
        Ok(())
    }

    pub(crate) fn give_back(&mut self, token: KeyHash, on: SpentOn, number: u64) {
        if let Some(token) = self.tokens_for(on).get_mut(&token)
            && token.spent == Some((on, number))
        {
            token.spent = None;
        }
    }
}
