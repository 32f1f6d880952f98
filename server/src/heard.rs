//! What the log says, for tests.

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::Config;

/// Gathers a log.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<Vec<u8>>>);

impl Write for Ears {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is logged at the default level while this is done.
pub(crate) fn heard(work: impl Future<Output = ()>) -> String {
    heard_of(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work);
    })
}

/// The same of what needs no runtime.
pub(crate) fn heard_of(work: impl FnOnce()) -> String {
    let ears = Ears::default();
    let writer = ears.clone();
    let log = tracing_subscriber::fmt()
        .with_env_filter(Config::default().log.level)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(log, work);
    let heard = ears.0.lock();
    String::from_utf8_lossy(&heard).into_owned()
}
