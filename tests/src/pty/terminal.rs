//! A terminal with a program in it: a real pseudo-terminal, and a screen that shows what the program draws.
//!
//! Owns the process, both ends of the pseudo-terminal and the screen. What is typed goes in as a keyboard
//! sends it; what is asserted is what a person would see.

use std::num::NonZeroU16;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, bail};
use pty_process::{Command, OwnedReadPty, OwnedWritePty, Size};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::termios::LocalModes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::wire::PATIENCE;

/// Between two keys of somebody who types: the program draws after each.
const TYPING: Duration = Duration::from_millis(80);

/// Between two looks at a terminal's modes.
const LOOK: Duration = Duration::from_millis(2);

/// What a terminal does when a program asks it where its cursor is (`ESC [ 6 n`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// It answers, as almost all do.
    AtOnce,
    /// It does not: some consoles, and a line that is slower than anybody waits.
    Never,
}

/// Keys that are not letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "they stand on the keyboard")]
pub enum Key {
    Enter,
    Escape,
    Tab,
    PageUp,
    /// With Ctrl held down.
    Ctrl(char),
}

impl Key {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Enter => b"\r".to_vec(),
            Self::Escape => b"\x1b".to_vec(),
            Self::Tab => b"\t".to_vec(),
            Self::PageUp => b"\x1b[5~".to_vec(),
            Self::Ctrl(letter) => vec![letter.to_ascii_uppercase() as u8 & 0x1f],
        }
    }
}

/// What the program had the terminal do beyond its screen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beyond {
    /// The title of the window.
    pub title: String,
    /// How often the bell rang.
    pub bells: usize,
    /// What was put into the clipboard last.
    pub copied: String,
    /// Links that were opened, and closed ("").
    pub links: Vec<String>,
    /// Titles that were put aside and not taken back.
    titles: usize,
}

/// What the program asked of the terminal beyond drawing.
#[derive(Debug, Default)]
struct Asked {
    /// Where the cursor is, in total.
    cursor: usize,
    /// Answers that are to be sent.
    answers: Vec<u8>,
    /// To be told when the window is looked at.
    focus: bool,
    beyond: Beyond,
}

impl vt100::Callbacks for Asked {
    fn unhandled_csi(
        &mut self,
        screen: &mut vt100::Screen,
        first: Option<u8>,
        _: Option<u8>,
        parameters: &[&[u16]],
        last: char,
    ) {
        match (first, parameters, last) {
            (None, [[6]], 'n') => {
                let (row, column) = screen.cursor_position();
                self.cursor += 1;
                self.answers.extend(format!("\x1b[{};{}R", row + 1, column + 1).bytes());
            }
            (None, [[22], [2]], 't') => self.beyond.titles += 1,
            (None, [[23], [2]], 't') => {
                self.beyond.titles = self.beyond.titles.saturating_sub(1);
                self.beyond.title.clear();
            }
            (Some(b'?'), parameters, 'h' | 'l') if parameters.contains(&&[1004][..]) => {
                self.focus = last == 'h';
            }
            _ => {}
        }
    }

    fn set_window_title(&mut self, _: &mut vt100::Screen, title: &[u8]) {
        self.beyond.title = String::from_utf8_lossy(title).into_owned();
    }

    fn audible_bell(&mut self, _: &mut vt100::Screen) {
        self.beyond.bells += 1;
    }

    fn copy_to_clipboard(&mut self, _: &mut vt100::Screen, _: &[u8], data: &[u8]) {
        let text = data_encoding::BASE64.decode(data).unwrap_or_default();
        self.beyond.copied = String::from_utf8_lossy(&text).into_owned();
    }

    fn unhandled_osc(&mut self, _: &mut vt100::Screen, parameters: &[&[u8]]) {
        if let [b"8", _, link @ ..] = parameters {
            self.beyond.links.push(String::from_utf8_lossy(&link.join(&b';')).into_owned());
        }
    }
}

/// What the reader and the test share.
struct Seen {
    parser: Mutex<vt100::Parser<Asked>>,
    /// Told after everything that the program writes; true = it will write no more.
    over: watch::Sender<bool>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, vt100::Parser<Asked>> {
        self.parser.lock().expect("nothing panics while it holds this lock")
    }
}

/// The screen of a terminal, to be shown when a case fails.
#[derive(Clone)]
pub struct View {
    name: String,
    seen: Arc<Seen>,
}

impl View {
    /// The screen in a frame, under the terminal's name.
    pub fn framed(&self) -> String {
        let parser = self.seen.lock();
        let columns = parser.screen().size().1.get();
        let rows: String = parser.screen().rows(0, columns).map(|row| format!("    |{row}\n")).collect();
        // What stands below is empty.
        let rows = rows.trim_end_matches(['\n', ' ', '|']);
        format!("    +-- {} {}\n{rows}\n", self.name, "-".repeat(columns.into()))
    }
}

/// A terminal in which a program runs. Dropping it ends the program.
pub struct Terminal {
    view: View,
    writer: Arc<tokio::sync::Mutex<OwnedWritePty>>,
    /// The same terminal, for its modes.
    modes: OwnedFd,
    /// Feeds the screen until the program has ended.
    reader: JoinSet<()>,
    child: Child,
}

impl Terminal {
    /// Opens a terminal of 80 columns and 24 rows and starts a program in it.
    pub fn start(name: &str, command: Command, answers: Answers) -> anyhow::Result<Self> {
        let (pty, pts) = pty_process::open().context("no pseudo-terminal can be had")?;
        let (rows, columns) = (size(24)?, size(80)?);
        pty.resize(Size::new(rows.get(), columns.get()))?;
        let modes = pty.as_fd().try_clone_to_owned()?;
        let child =
            command.kill_on_drop(true).spawn(pts).with_context(|| format!("{name} does not start"))?;
        let parser = vt100::Parser::new_with_callbacks(rows, columns, 0, Asked::default());
        let seen = Arc::new(Seen { parser: Mutex::new(parser), over: watch::Sender::new(false) });
        let (from, writer) = pty.into_split();
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        let mut reader = JoinSet::new();
        let to = (answers == Answers::AtOnce).then(|| Arc::clone(&writer));
        reader.spawn(read(from, to, Arc::clone(&seen)));
        Ok(Self { view: View { name: name.to_owned(), seen }, writer, modes, reader, child })
    }

    /// Its screen, for whoever outlives it.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// What stands on the screen: rows, without the blanks at their ends.
    pub fn screen(&self) -> String {
        self.view.seen.lock().screen().contents()
    }

    /// Types as a person does, a key at a time.
    pub async fn type_slowly(&self, text: &str) -> anyhow::Result<()> {
        for letter in text.chars() {
            self.send(letter.encode_utf8(&mut [0; 4]).as_bytes()).await?;
            // The pace is part of what is tested.
            tokio::time::sleep(TYPING).await;
        }
        Ok(())
    }

    /// Presses a key.
    pub async fn press(&self, key: Key) -> anyhow::Result<()> {
        self.send(&key.bytes()).await
    }

    /// Pastes a text, as terminals do for programs that want to know.
    pub async fn paste(&self, text: &str) -> anyhow::Result<()> {
        let wants_to_know = self.view.seen.lock().screen().bracketed_paste();
        let (before, after) = if wants_to_know { ("\x1b[200~", "\x1b[201~") } else { ("", "") };
        self.send(format!("{before}{text}{after}").as_bytes()).await
    }

    async fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut writer = self.writer.lock().await;
        timeout(PATIENCE, writer.write_all(bytes)).await.context("the program reads no keys")??;
        Ok(())
    }

    /// Waits until a text stands on the screen.
    pub async fn wait_for(&self, text: &str) -> anyhow::Result<()> {
        self.wait_until(&format!("{text:?} to appear"), |screen| screen.contents().contains(text)).await
    }

    /// Waits until a text does not stand on the screen any more.
    pub async fn wait_gone(&self, text: &str) -> anyhow::Result<()> {
        self.wait_until(&format!("{text:?} to go"), |screen| !screen.contents().contains(text)).await
    }

    /// Waits until the screen is as it shall be; fails at once if the program ends before that.
    pub async fn wait_until(&self, what: &str, is_so: impl Fn(&vt100::Screen) -> bool) -> anyhow::Result<()> {
        self.wait_seen(what, |seen| is_so(seen.screen())).await
    }

    async fn wait_seen(
        &self,
        what: &str,
        is_so: impl Fn(&vt100::Parser<Asked>) -> bool,
    ) -> anyhow::Result<()> {
        let mut changes = self.view.seen.over.subscribe();
        let waiting = async {
            loop {
                let over = *changes.borrow_and_update();
                if is_so(&self.view.seen.lock()) {
                    return Ok(());
                }
                if over {
                    bail!("{} ended, waiting for {what}", self.view.name);
                }
                changes.changed().await?;
            }
        };
        let late = || format!("{}: waited {} s for {what}", self.view.name, PATIENCE.as_secs());
        timeout(PATIENCE, waiting).await.with_context(late)?
    }

    /// What it was made to do beyond its screen.
    pub fn beyond(&self) -> Beyond {
        self.view.seen.lock().callbacks().beyond.clone()
    }

    /// Waits until that is as it shall be.
    pub async fn wait_beyond(&self, what: &str, is_so: impl Fn(&Beyond) -> bool) -> anyhow::Result<()> {
        let waited = self.wait_seen(what, |seen| is_so(&seen.callbacks().beyond)).await;
        waited.with_context(|| format!("{:?}", self.beyond()))
    }

    /// Somebody turns to another window; terminals tell that whoever wants to know.
    pub async fn look_away(&self) -> anyhow::Result<()> {
        self.send(b"\x1b[O").await
    }

    /// And comes back.
    pub async fn look(&self) -> anyhow::Result<()> {
        self.send(b"\x1b[I").await
    }

    /// Waits until what is typed is not shown. A terminal tells nobody that its modes change, so they are
    /// looked at.
    pub async fn wait_hidden(&self) -> anyhow::Result<()> {
        let hidden = async {
            while rustix::termios::tcgetattr(&self.modes)?.local_modes.contains(LocalModes::ECHO) {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        let late = || format!("{} shows what is typed", self.view.name);
        timeout(PATIENCE, hidden).await.with_context(late)?
    }

    /// Makes the terminal's window another size, as dragging its corner does.
    pub async fn resize(&self, columns: u16, rows: u16) -> anyhow::Result<()> {
        self.view.seen.lock().set_size(size(rows)?, size(columns)?);
        Ok(self.writer.lock().await.resize(Size::new(rows, columns))?)
    }

    /// Sends a signal to the program, and to nothing else.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(rustix::process::kill_process(self.id()?, signal)?)
    }

    /// Whether the program can write to files. While it cannot, it must ignore SIGXFSZ.
    pub fn let_write(&self, may_write: bool) -> anyhow::Result<()> {
        let bytes = if may_write { None } else { Some(0) };
        let limit = Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(Some(self.id()?), Resource::Fsize, limit)?;
        Ok(())
    }

    fn id(&self) -> anyhow::Result<Pid> {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        id.context("the program has ended")
    }

    /// Waits for the program's end; everything that it drew is on the screen then.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let late = || format!("{} does not end", self.view.name);
        let status = timeout(PATIENCE, self.child.wait()).await.with_context(late)??;
        timeout(PATIENCE, self.reader.join_next()).await.with_context(late)?;
        Ok(status)
    }

    /// Closes the window, and waits for the program's end.
    pub async fn close(self) -> anyhow::Result<ExitStatus> {
        let Self { view, writer, modes, mut reader, mut child } = self;
        reader.shutdown().await;
        drop((writer, modes));
        let late = || format!("{} does not end, although its terminal is gone", view.name);
        Ok(timeout(PATIENCE, child.wait()).await.with_context(late)??)
    }

    /// Fails unless the terminal is as a shell wants it: its own screen, a cursor, echo, whole lines.
    pub fn is_restored(&self) -> anyhow::Result<()> {
        let modes = rustix::termios::tcgetattr(&self.modes)?.local_modes;
        let parser = self.view.seen.lock();
        let screen = parser.screen();
        let wrong = [
            (screen.alternate_screen(), "the second screen is shown"),
            (screen.hide_cursor(), "the cursor is hidden"),
            (screen.bracketed_paste(), "pastes are marked"),
            (parser.callbacks().focus, "looking at it is told"),
            (parser.callbacks().beyond.titles > 0, "the title is not its own"),
            (!modes.contains(LocalModes::ICANON), "it is raw"),
            (!modes.contains(LocalModes::ECHO), "it shows nothing that is typed"),
        ];
        match wrong.iter().filter(|(so, _)| *so).map(|(_, text)| *text).collect::<Vec<_>>() {
            wrong if wrong.is_empty() => Ok(()),
            wrong => bail!("{} left its terminal behind so: {}", self.view.name, wrong.join(", ")),
        }
    }

    /// Fails if the program ever asked where the cursor is: not every terminal answers, and none of them in
    /// time that is read.
    pub fn never_asked(&self) -> anyhow::Result<()> {
        match self.view.seen.lock().callbacks().cursor {
            0 => Ok(()),
            times => bail!("{} asked {times} times where the cursor is", self.view.name),
        }
    }
}

fn size(cells: u16) -> anyhow::Result<NonZeroU16> {
    NonZeroU16::new(cells).context("a terminal has a size")
}

/// Feeds the screen, and answers questions if the terminal does.
async fn read(mut from: OwnedReadPty, to: Option<Arc<tokio::sync::Mutex<OwnedWritePty>>>, seen: Arc<Seen>) {
    let mut buffer = [0; 4096];
    // An error is how a terminal says that no program is in it any more.
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let answers = {
            let mut parser = seen.lock();
            parser.process(&buffer[..count]);
            std::mem::take(&mut parser.callbacks_mut().answers)
        };
        if let Some(to) = &to
            && to.lock().await.write_all(&answers).await.is_err()
        {
            break;
        }
        seen.over.send_replace(false);
    }
    seen.over.send_replace(true);
}
