//! The relay as a program that the tests of this package can start: `posthorn-server` under another name, so
//! that `cargo test` in a fresh clone builds it without being told to.

fn main() -> std::process::ExitCode {
    posthorn_server::cli_main(std::env::args_os())
}
