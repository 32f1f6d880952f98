//! What the system knows of this program: `completions` for shells, `man` for the manual. Both are made of
//! [`Args`], so that they say what the program does.

use std::fs;

use clap::CommandFactory as _;

use crate::args::{Args, Completions, Man};
use crate::print::{line, tell};
use crate::problem::Problem;

/// `completions`.
pub(crate) fn completions(arguments: &Completions) {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Args::command(), "posthorn", &mut script);
    line(String::from_utf8_lossy(&script).trim_end());
}

/// `man`: a page for the program, and one for each command.
pub(crate) fn man(arguments: &Man) -> Result<(), Problem> {
    let folder = &arguments.folder;
    let written = fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Args::command(), folder));
    written.map_err(|error| {
        Problem::new("NOT_WRITTEN", format!("no pages were written to {}: {error}", folder.display()))
    })?;
    tell(&format!("the pages are in {}: begin with posthorn.1", folder.display()));
    Ok(())
}
