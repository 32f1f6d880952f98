//! ProveRelay: the relay proves its identity, whoever asks.

use posthorn_proto::ErrorCode;
use posthorn_proto::auth::Challenge;
use posthorn_proto::frame::{ProveRelay, Refusal, ServerBody};
use posthorn_proto::proof;

use super::{Call, Reply};

pub(super) fn prove_relay(call: &Call, ask: &ProveRelay) -> Reply {
    if !call.peer.may_ask_for_proof() {
        // No time helps: it is the connection that has had all of its proofs.
        let message = "this connection has had all of its proofs: ask on another one";
        return Err(Refusal::new(ErrorCode::RateLimited, message));
    }
    let (ephemeral, nonce) = call.peer.challenge();
    let challenge = Challenge { relay_identity: call.context.identity(), ephemeral: ephemeral.public, nonce };
    let proof = proof::prove(call.context.identity.secret(), &challenge, &ask.ephemeral);
    proof.map(ServerBody::RelayProven).map_err(|_| {
        Refusal::new(ErrorCode::BadRequest, "the ephemeral key is of low order: make a fresh one")
    })
}
