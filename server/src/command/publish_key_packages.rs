//! PublishKeyPackages: adds one-time key packages, and may replace the last-resort one.

use posthorn_proto::frame::{PublishKeyPackages, ServerBody};

use super::{Call, Reply, within};

pub(super) async fn publish_key_packages(call: Call, publish: PublishKeyPackages) -> Reply {
    let device = call.peer.authenticated()?;
    for package in publish.one_time.iter().chain(&publish.last_resort) {
        within("key package in bytes", package.len(), call.context.limits.key_package_bytes)?;
    }
    let stock =
        call.context.directory.publish_key_packages(device, publish.one_time, publish.last_resort).await?;
    Ok(ServerBody::KeyPackageStock { one_time: stock.one_time, last_resort_since: stock.last_resort_since })
}
