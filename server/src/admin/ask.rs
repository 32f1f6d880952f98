//! Asking the running relay.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Answer, Ask, SOCKET};

/// Longest answer that is read, in bytes.
const ANSWER_BYTES: u64 = 64 * 1024;
/// How long the relay may take to answer, before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The relay did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens on the socket.
    #[error("no relay is running on {0}: start it with `posthorn-server --data {0}`")]
    NotRunning(PathBuf),
    /// The socket failed.
    #[error("the running relay cannot be asked: run this as the user that runs it")]
    Socket(#[from] io::Error),
    /// The relay refused; the text is its reason.
    #[error("{0}")]
    Refused(String),
}

/// Asks the relay that runs on a data folder. Blocks until it has answered.
pub fn ask(data: &Path, ask: &Ask) -> Result<Answer, AskError> {
    let mut stream = UnixStream::connect(data.join(SOCKET)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning(data.to_owned()),
        _ => AskError::Socket(error),
    })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(ask).map_err(io::Error::from)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES)).read_line(&mut answer)?;
    let answer: Result<Answer, String> = serde_json::from_str(&answer).map_err(io::Error::from)?;
    answer.map_err(AskError::Refused)
}
