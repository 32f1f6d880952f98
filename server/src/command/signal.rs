//! Signal: forwards a payload to whoever has the mailbox open now. Stored nowhere; may be lost (rule 21).

use posthorn_proto::frame::{ServerBody, Signal};

use super::{Call, Reply, cost_of_forwarding, within};

pub(super) async fn signal(call: Call, signal: Signal) -> Reply {
    within("signal in bytes", signal.payload.len(), call.context.limits.signal_bytes)?;
    let (mailbox, key) = (signal.mailbox, signal.post_key.hash());
    let openings = call.context.mailboxes.signal(mailbox, key, signal.payload).await?;
    call.peer.owe(cost_of_forwarding(openings));
    Ok(ServerBody::Done)
}
