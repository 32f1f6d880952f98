//! File descriptors: each connection takes one, and the store must never be without.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that no connection gets: segments that are written and read, the index, the sockets,
/// connections that are being turned away.
const RESERVE: u32 = 256;

/// Raises this process's limit as far as it may.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// How many connections there can be, of `wanted`.
pub(crate) fn admit(wanted: u32) -> u32 {
    let limit = getrlimit(Resource::Nofile).current;
    let most = most(limit);
    if most < wanted {
        tracing::warn!(
            limit,
            "at most {most} connections instead of {wanted}: raise the limit of open files (LimitNOFILE= of \
             systemd, `ulimit -n` of a shell) or lower connections.total"
        );
    }
    wanted.min(most)
}

fn most(limit: Option<u64>) -> u32 {
    let limit = limit.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX));
    limit.saturating_sub(RESERVE).max(limit / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_has_its_reserve() {
        let cases = [(None, u32::MAX - RESERVE), (Some(1024), 768), (Some(300), 75), (Some(0), 1)];
        for (limit, connections) in cases {
            assert_eq!(most(limit), connections, "{limit:?}");
        }
    }
}
