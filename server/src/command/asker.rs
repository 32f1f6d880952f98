//! Who asks the directory: a device with an account here, or a stranger, who mostly has one at another relay.
//!
//! Both are told the same. A stranger is limited by address, and all strangers together may take less of one
//! account's key packages than is granted to everybody, so that no number of addresses keeps the people of
//! this relay from each other (rule 15).

use std::net::IpAddr;

use ipnet::IpNet;
use posthorn_proto::frame::Refusal;
use posthorn_proto::{DeviceId, ErrorCode, Handle};

use super::neighbourhood::Neighbourhood;
use super::{Call, rate_limited};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    /// An authenticated device.
    Device(DeviceId),
    /// Somebody at this address; without one, no limit by address concerns them.
    Stranger(Option<IpAddr>),
}

/// What one asker may take of one account is counted under this.
#[derive(Debug, Hash)]
pub(super) enum Counted {
    Device(DeviceId),
    Network(IpNet),
}

impl Asker {
    /// Who asks on this connection, if the directory answers them at all.
    pub(super) async fn of(call: &Call) -> Result<Self, Refusal> {
        match call.peer.device() {
            Some(device) => {
                // The operator may have removed the account since.
                call.context.directory.device(device).await?;
                Ok(Self::Device(device))
            }
            None if call.context.open_directory => Ok(Self::Stranger(call.peer.address)),
            None => {
                let message = "this relay's directory answers only who has an account here: \
                               have the person invite you";
                Err(Refusal::new(ErrorCode::AccountNeeded, message))
            }
        }
    }

    /// Pays for looking somebody up. Devices do so by what any request costs.
    pub(super) fn pay_for_look_up(self, call: &Call) -> Result<(), Refusal> {
        match self {
            Self::Device(_) | Self::Stranger(None) => Ok(()),
            Self::Stranger(Some(address)) => {
                call.context.rates.strangers.take(address, 1, call.now).map_err(rate_limited)
            }
        }
    }

    /// Pays for a take of nobody's key packages. Nothing is remembered of a name that is nobody's: there are
    /// more than can be remembered.
    pub(super) fn pay_for_nothing(self, call: &Call) -> Result<(), Refusal> {
        match self {
            Self::Device(device) => {
                call.context.rates.takes_by_asker.take(device, call.now).map_err(rate_limited)
            }
            Self::Stranger(_) => self.pay_for_look_up(call),
        }
    }

    /// Pays for a take of the key packages of somebody who is there. The narrowest limit comes first: one
    /// asker must not use up what the target grants to everybody.
    pub(super) fn pay_for_take(self, call: &Call, target: &Handle) -> Result<(), Refusal> {
        let (rates, now) = (&call.context.rates, call.now);
        if let Some(asker) = self.counted() {
            rates.takes_by_asker_of_target.take((asker, target), now).map_err(rate_limited)?;
        }
        self.pay_for_nothing(call)?;
        if matches!(self, Self::Stranger(_)) {
            rates.takes_of_target_by_strangers.take(target, now).map_err(rate_limited)?;
        }
        rates.takes_of_target.take(target, now).map_err(rate_limited)
    }

    fn counted(self) -> Option<Counted> {
        match self {
            Self::Device(device) => Some(Counted::Device(device)),
            Self::Stranger(address) => {
                address.map(|address| Counted::Network(Neighbourhood::of(address).near))
            }
        }
    }
}
