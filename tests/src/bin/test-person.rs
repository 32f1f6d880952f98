//! A person as a process that the tests start and kill: `test-person <profile folder>`, orders on its input.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(profile) = std::env::args_os().nth(1) else {
        eprintln!("usage: test-person <profile folder>");
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(posthorn_tests::puppet::act(profile.as_ref())))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("test-person: {error:#}");
            ExitCode::FAILURE
        }
    }
}
