//! `posthorn-server`: see [`posthorn_server::cli_main`].

use std::process::ExitCode;

/// Chosen by measurement: a tenth less processor time under load, and two fifths less when thousands of clients come back
/// at once, with less memory in both.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    posthorn_server::cli_main(std::env::args_os())
}
