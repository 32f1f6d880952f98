//! `posthorn-server`: see [`posthorn_server::cli_main`].

use std::process::ExitCode;

fn main() -> ExitCode {
    posthorn_server::cli_main(std::env::args_os())
}
