//! TakeKeyPackages: one key package of each device of an account. Takes are limited per asker and per target,
//! so that nobody can use up somebody's one-time packages (rule 15).

use posthorn_proto::Handle;
use posthorn_proto::frame::{KeyPackage, ServerBody};

use super::{Call, Reply, rate_limited};

pub(super) async fn take_key_packages(call: Call, handle: Handle) -> Reply {
    let asker = call.peer.authenticated()?;
    // The operator may have removed the account since.
    call.context.directory.device(asker).await?;
    let rates = &call.context.rates;
    // Before anything is remembered of a target: there are more names than can be remembered.
    let known = call.context.directory.card(handle.clone()).await;
    if let Err(error) = known {
        rates.takes_by_asker.take(asker, call.now).map_err(rate_limited)?;
        return Err(error.into());
    }
    // The narrowest first: one asker must not use up what the target grants to everybody.
    rates.takes_by_asker_of_target.take((asker, &handle), call.now).map_err(rate_limited)?;
    rates.takes_by_asker.take(asker, call.now).map_err(rate_limited)?;
    rates.takes_of_target.take(&handle, call.now).map_err(rate_limited)?;
    let taken = call.context.directory.take_key_packages(handle).await?;
    let packages = taken
        .into_iter()
        .map(|taken| KeyPackage {
            device: taken.device,
            key_package: taken.key_package,
            last_resort: taken.last_resort,
        })
        .collect();
    Ok(ServerBody::KeyPackages(packages))
}
