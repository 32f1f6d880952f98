//! File descriptors: each connection takes one, and the store must never be without.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that no connection gets: segments that are written and read, the index, the sockets,
/// connections that are being turned away.
const RESERVE: u32 = 256;

/// Files that one transfer may have open at a time: a part, and another or a folder for as long as it is
/// stored.
const FILES: u32 = 2;

/// Raises this process's limit as far as it may.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// How many connections there can be, of `wanted`, and how many of `transfers` of blobs, each of which has a
/// file open.
pub(crate) fn admit(wanted: u32, transfers: u32) -> (u32, u32) {
    let limit = getrlimit(Resource::Nofile).current;
    let (most, transfers) = most(limit, transfers);
    if most < wanted {
        tracing::warn!(
            limit,
            "at most {most} connections instead of {wanted}: raise the limit of open files (LimitNOFILE= of \
             systemd, `ulimit -n` of a shell) or lower connections.total"
        );
    }
    (wanted.min(most), transfers)
}

fn most(limit: Option<u64>, transfers: u32) -> (u32, u32) {
    let limit = limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX));
    let transfers = transfers.min(limit / 16).max(1);
    let left = limit.saturating_sub(RESERVE).saturating_sub(transfers.saturating_mul(FILES));
    (left.max(limit / 4).max(1), transfers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_has_its_reserve() {
        for (limit, transfers, expected) in [
            (None, 128, (u32::MAX - RESERVE - 256, 128)),
            (Some(4096), 128, (3584, 128)),
            (Some(1024), 128, (640, 64)),
            (Some(1024), 1, (766, 1)),
            (Some(300), 128, (75, 18)),
            (Some(0), 128, (1, 1)),
        ] {
            assert_eq!(most(limit, transfers), expected, "{limit:?}");
        }
    }
}
