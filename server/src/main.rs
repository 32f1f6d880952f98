//! `posthorn-server`: see [`posthorn_server::cli_main`].

use std::process::ExitCode;

/// Takes a third less memory for each retained envelope than the C library's allocator, and less processor
/// time when thousands of clients come back at once (docs/configuration.md, "Memory").
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    posthorn_server::cli_main(std::env::args_os())
}
