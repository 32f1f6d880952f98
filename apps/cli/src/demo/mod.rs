//! stub
use crate::args::DemoRelay;
use crate::problem::Problem;
use std::process::ExitCode;
pub(crate) async fn run() -> Result<ExitCode, Problem> {
    Ok(ExitCode::SUCCESS)
}
pub(crate) async fn relay_process(_: DemoRelay) -> Result<ExitCode, Problem> {
    Ok(ExitCode::SUCCESS)
}
