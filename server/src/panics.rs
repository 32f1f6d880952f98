//! Panics of libraries that are caught where they happen: what is written of one is a line for the operator
//! by whoever caught it, not a stack trace that reads as if the relay had died.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

thread_local! {
    /// Of each call of [`caught`] that this thread is in, what the panic in it has said.
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs work that may panic. What it says then is the error: a line, with where in which file it was.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            let is_caught = SAID.with_borrow_mut(|said| said.last_mut().map(|said| *said = line(panic)));
            match is_caught {
                Some(()) => {}
                // Its own threads go on after one; whoever waits for what they did hears of it.
                None if std::thread::current().name().is_some_and(|name| name.starts_with("sled-")) => {
                    tracing::warn!("sled: {}", line(panic));
                }
                None => usual(panic),
            }
        }));
    });
    SAID.with_borrow_mut(|said| said.push(String::new()));
    let done = catch_unwind(AssertUnwindSafe(work));
    let said = SAID.with_borrow_mut(Vec::pop).unwrap_or_default();
    done.map_err(|panic| match (said.is_empty(), panic.downcast_ref::<String>()) {
        // The program that we are part of has set a hook of its own since.
        (true, Some(text)) => text.clone(),
        (true, None) => panic.downcast_ref::<&str>().unwrap_or(&"without a word").to_string(),
        (false, _) => said,
    })
}

fn line(panic: &PanicHookInfo<'_>) -> String {
    let what = panic.payload_as_str().unwrap_or("without a word").replace('\n', " ");
    let place = panic.location().map(|at| (Path::new(at.file()).file_name().unwrap_or_default(), at.line()));
    place.map_or_else(|| what.clone(), |(file, line)| format!("{what} ({}:{line})", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_caught_is_a_line_with_its_place_and_the_next_work_goes_on() {
        let inner = caught(|| {
            let inner = caught(|| panic!("one\ntwo"));
            inner.expect_err("it panicked")
        });
        let said = inner.expect("the outer one did not");
        assert!(said.starts_with("one two (panics.rs:") && said.ends_with(')'), "{said}");
        let outer: Result<(), String> = caught(|| panic!("something"));
        assert!(outer.expect_err("it panicked").starts_with("something (panics.rs:"));
        assert_eq!(caught(|| 1), Ok(1));
    }
}
