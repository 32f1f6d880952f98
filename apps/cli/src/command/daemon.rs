//! `daemon`: what other programs ask, on standard input and by the profile's socket.

use std::process::ExitCode;

use posthorn_client::engine::Error;

use super::listen;
use crate::args::Daemon;
use crate::problem::Problem;
use crate::profile::Session;
use crate::signal::Signals;

/// What shells say of a program whose reader went away.
const READER_GONE: u8 = 141;

/// `daemon`. By now the profile is shared, if it is ours.
pub(super) async fn daemon(session: &Session, arguments: &Daemon) -> Result<ExitCode, Problem> {
    if session.is_guest && arguments.socket_only {
        let message = "another process has this profile and does what is asked by its socket: nothing is left to do here";
        return Err(Problem::new("PROFILE_IN_USE", message));
    }
    let mut signals = Signals::new()
        .map_err(|error| Problem::new("SIGNALS", format!("cannot listen for signals: {error}")))?;
    let mut events = session.client.events();
    if arguments.accept {
        listen::accept_everybody(session).await?;
    }
    let speaking = async {
        match arguments.socket_only {
            true => std::future::pending().await,
            false => session.client.serve(tokio::io::stdin(), tokio::io::stdout()).await,
        }
    };
    tokio::pin!(speaking);
    loop {
        tokio::select! {
            spoken = &mut speaking => return match spoken {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::from(READER_GONE)),
                Err(error) => Err(Problem::new("STDIN", format!("cannot speak to whoever started this: {error}"))),
            },
            signal = signals.next() => return Ok(signal.into()),
            event = events.next() => match event {
                Some(event) if arguments.accept && session.is_guest => listen::follow(session, &event).await?,
                Some(_) => {}
                None => return Err(Error::Stopped.into()),
            },
        }
    }
}
