//! The terminal, taken over and given back: at the end, after an error, after a panic, and when the system
//! asks to end.

use std::io;

use crossterm::event::{DisableBracketedPaste, DisableFocusChange, EnableBracketedPaste, EnableFocusChange};
use crossterm::execute;
use ratatui::layout::{Position, Rect};
use ratatui::{DefaultTerminal, Frame};

/// The full screen. Dropping it restores the terminal.
pub(super) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        // ratatui's own hook, installed after this one and run before it, restores the rest.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave_modes();
            hook(info);
        }));
        let terminal = ratatui::try_init()?;
        let mut screen = Self { terminal };
        // Not every terminal gives an empty second screen.
        screen.clear()?;
        execute!(io::stdout(), EnableBracketedPaste, EnableFocusChange)?;
        Ok(screen)
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }

    /// Wipes the screen; the next drawing draws every cell.
    ///
    /// Not by `Terminal::clear`: that asks the terminal where its cursor is, and the answer comes among the
    /// keys, which another thread reads. It was never seen, and the chat ended after two seconds. A resize to
    /// the same size wipes a full screen without asking.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave_modes();
        ratatui::restore();
    }
}

fn leave_modes() {
    // A terminal that is gone needs no restoring.
    let _ = execute!(io::stdout(), DisableBracketedPaste, DisableFocusChange);
}

/// What the system sends to end a program. Ctrl-C is a key here.
pub(super) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    pub(super) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, hangup: signal(SignalKind::hangup())? })
    }

    #[cfg(unix)]
    pub(super) async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    #[cfg(not(unix))]
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    pub(super) async fn end(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
