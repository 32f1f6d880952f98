//! Authenticate: the device proves that it holds its key, and the relay proves itself in the answer.

use posthorn_proto::auth::{AccountKey, Proof};
use posthorn_proto::frame::{Authenticate, Refusal, ServerBody};
use posthorn_proto::{DeviceId, ErrorCode};

use super::{Call, Reply};
use crate::store::StoreError;

pub(super) async fn authenticate(call: Call, ask: Authenticate) -> Reply {
    let record = match call.context.directory.device(ask.device).await {
        Ok(record) => record,
        Err(StoreError::DeviceUnknown) => return Err(refuse(&call)),
        Err(error) => return Err(error.into()),
    };
    let key = prove(&call, &ask.device, &record.device_key, &ask.proof)?;
    succeed(&call, ask.device)?;
    Ok(ServerBody::Authenticated(key.relay_proof()))
}

/// Checks a device's proof. The key returned makes the relay's.
pub(super) fn prove(
    call: &Call,
    device: &DeviceId,
    device_key: &[u8; 32],
    proof: &Proof,
) -> Result<AccountKey, Refusal> {
    if call.peer.device().is_some_and(|known| known != *device) {
        return Err(Refusal::new(ErrorCode::BadRequest, "this connection belongs to another device"));
    }
    let (ephemeral, nonce) = call.peer.challenge();
    AccountKey::of_relay(call.context.identity.secret(), &ephemeral.secret, nonce, device_key)
        .and_then(|key| key.check_device(proof).map(|()| key))
        .map_err(|_| refuse(call))
}

/// From now on the connection speaks for the device.
pub(super) fn succeed(call: &Call, device: DeviceId) -> Result<(), Refusal> {
    if call.peer.authenticate(device) {
        Ok(())
    } else {
        Err(Refusal::new(ErrorCode::BadRequest, "this connection belongs to another device"))
    }
}

/// The same words for an unknown device and a wrong proof.
fn refuse(call: &Call) -> Refusal {
    call.peer.note_failed_proof();
    Refusal::new(ErrorCode::AuthenticationFailed, "unknown device or wrong proof")
}
