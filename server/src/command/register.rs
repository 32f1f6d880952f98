//! Register: makes an account with its first device, against an invite, and authenticates the connection as
//! that device.

use posthorn_proto::frame::{Register, ServerBody};

use super::authenticate::{prove, succeed};
use super::{Call, Reply, rate_limited, within};
use crate::admin::invite;
use crate::store::NewAccount;

/// Longest text that is taken for an invite code, in bytes.
const INVITE_BYTES: u32 = 64;

pub(super) async fn register(call: Call, register: Register) -> Reply {
    within("invite code in bytes", register.invite.len(), INVITE_BYTES)?;
    if let Some(address) = call.peer.address {
        call.context.rates.registrations.take(address, 1, call.now).map_err(rate_limited)?;
    }
    let key = prove(&call, &register.device, &register.device_key, &register.proof)?;
    let invite = (!call.context.open_registration).then(|| invite::hash(&register.invite));
    let new = NewAccount {
        invite,
        handle: register.handle,
        identity_key: register.identity_key,
        device: register.device,
        device_key: register.device_key,
    };
    call.context.directory.register(new).await?;
    succeed(&call, register.device)?;
    Ok(ServerBody::Registered(key.relay_proof()))
}
