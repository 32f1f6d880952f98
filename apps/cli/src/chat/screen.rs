//! The terminal, taken over and given back: at the end, after an error, after a panic, when the system asks
//! to end, and while the chat is suspended.
//!
//! Two things are never done here. The terminal is never asked where its cursor is: the answer comes among
//! the keys, which another thread reads, and some terminals do not answer. And nothing complains on standard
//! error, which may be the terminal that is gone.

use std::io::{self, IsTerminal as _};
use std::mem::ManuallyDrop;
use std::time::Duration;

use crossterm::cursor::Show;
use crossterm::event::{DisableBracketedPaste, DisableFocusChange, EnableBracketedPaste, EnableFocusChange};
use crossterm::execute;
use crossterm::style::Print;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, SetTitle, disable_raw_mode, enable_raw_mode,
};
use data_encoding::BASE64;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Position, Rect};
use ratatui::{DefaultTerminal, Frame, Terminal};
#[cfg(unix)]
use rustix::process::{Signal, kill_current_process_group};
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};

/// A program that still runs after this was not stopped.
#[cfg(unix)]
const NOT_STOPPED: Duration = Duration::from_millis(200);

/// The title of the window is put aside, and taken back (XTWINOPS): it is not ours.
const KEEP_TITLE: Print<&str> = Print("\x1b[22;2t");
const TITLE_AS_BEFORE: Print<&str> = Print("\x1b[23;2t");

/// The full screen. Dropping it restores the terminal.
pub(super) struct Screen {
    /// Its own drop would show the cursor, which [`leave`] does, and panic if the terminal is gone.
    terminal: ManuallyDrop<DefaultTerminal>,
    /// The number in the title.
    entitled: Option<u64>,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            hook(info);
        }));
        let terminal = enter_modes().and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        let terminal = ManuallyDrop::new(terminal.inspect_err(|_| leave())?);
        let mut screen = Self { terminal, entitled: None };
        // Not every terminal gives an empty second screen.
        screen.clear()?;
        Ok(screen)
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }

    /// Puts the number of unread messages into the title of the window; nobody's words ever stand there.
    pub(super) fn entitle(&mut self, unread: u64) {
        if self.entitled.replace(unread) != Some(unread) {
            let title = if unread == 0 { "Posthorn".to_owned() } else { format!("Posthorn ({unread})") };
            let _ = execute!(io::stdout(), SetTitle(title));
        }
    }

    /// The bell.
    pub(super) fn ring(&mut self) {
        let _ = execute!(io::stdout(), Print('\x07'));
    }

    /// Puts a text into the clipboard (OSC 52), over ssh too. Not every terminal allows it, and none says so.
    pub(super) fn copy(&mut self, text: &str) {
        let encoded = BASE64.encode(text.as_bytes());
        let _ = execute!(io::stdout(), Print(format!("\x1b]52;c;{encoded}\x07")));
    }

    /// Wipes the screen; the next drawing draws every cell. Not by `Terminal::clear`, which asks for the
    /// cursor; a resize to the same size does the same to a full screen.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }
}

#[cfg(unix)]
impl Screen {
    /// Gives the terminal to the shell until somebody wants the chat back (`fg`). Where no shell waits for
    /// it, the system does not stop it, and it goes on at once.
    pub(super) async fn suspend(&mut self) -> io::Result<()> {
        let mut continued = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
        leave();
        kill_current_process_group(Signal::TSTP)?;
        // The time counts only while it is not stopped; the signal may take a moment to stop all of it.
        let _ = tokio::time::timeout(NOT_STOPPED, continued.recv()).await;
        enter_modes()?;
        self.entitled = None;
        self.clear()
    }
}

#[cfg(not(unix))]
impl Screen {
    /// Here programs are not suspended.
    pub(super) async fn suspend(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Whether the terminal is still there: where a terminal was closed, nothing is one.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

fn enter_modes() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), KEEP_TITLE, EnterAlternateScreen, EnableBracketedPaste, EnableFocusChange)
}

/// Gives the terminal back. A terminal that is gone needs no restoring, so errors are no matter.
fn leave() {
    let _ = disable_raw_mode();
    let _ = execute!(
        io::stdout(),
        DisableBracketedPaste,
        DisableFocusChange,
        LeaveAlternateScreen,
        TITLE_AS_BEFORE,
        Show
    );
}
