//! TakeKeyPackages: one key package of each device of an account. Takes are limited per asker and per target,
//! so that nobody can use up somebody's one-time packages (rule 15).

use posthorn_proto::Handle;
use posthorn_proto::frame::{KeyPackage, ServerBody};

use super::asker::Asker;
use super::{Call, Reply};

pub(super) async fn take_key_packages(call: Call, handle: Handle) -> Reply {
    let asker = Asker::of(&call).await?;
    if let Err(error) = call.context.directory.card(handle.clone()).await {
        asker.pay_for_nothing(&call)?;
        return Err(error.into());
    }
    asker.pay_for_take(&call, &handle)?;
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
