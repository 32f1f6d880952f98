//! Writing to standard output and standard error.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::plain::plain_line;

/// What shells say of a program whose reader went away: 128 and SIGPIPE.
const READER_GONE: i32 = 141;

/// Something was printed: a command must not be run again then.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// Whether anything stands on standard output.
pub(crate) fn has_printed() -> bool {
    PRINTED.load(Ordering::Relaxed)
}

/// Prints a line; a reader that went away (`| head`) is a reason to stop in silence, not to panic.
pub(crate) fn line(text: &str) {
    PRINTED.store(true, Ordering::Relaxed);
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(READER_GONE),
        Err(error) => {
            tell(&format!("cannot write to standard output: {error}"));
            std::process::exit(1);
        }
    }
}

/// A line on standard error. When the terminal was closed nobody can read it: that is no reason to panic.
pub(crate) fn error_line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says something to the person, beside what a command prints.
pub(crate) fn tell(text: &str) {
    error_line(&format!("posthorn: {}", plain_line(text)));
}

/// Prints a JSON object on a line of its own.
pub(crate) fn object(value: &Value) {
    line(&value.to_string());
}
