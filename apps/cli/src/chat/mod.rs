//! `chat`: the full-screen program.
//!
//! Reading order: `app` is the state (what happens goes in, orders come out: `exchange`) with `keys`, `slash`
//! and `reading`; `editor`, `unread` and `wrap` are its parts; `view`, `entries` and `popup` draw it, out of
//! the `palette`; this file is the thin driver between terminal, client and state. `screen` gives the
//! terminal back whatever happens.

mod app;
mod editor;
mod entries;
mod exchange;
mod keyboard;
mod keys;
mod palette;
mod popup;
mod reading;
mod screen;
mod slash;
#[cfg(test)]
mod tests;
mod unread;
mod view;
pub(crate) mod wrap;

use std::collections::VecDeque;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use crossterm::event::Event as Typed;
use posthorn_client::client::{Client, ClientError};
use posthorn_client::sync::Event;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinSet;

use crate::args::{Chat, Global};
use crate::output::{member_line, safety_rows};
use crate::plain::plain_line;
use crate::problem::Problem;
use crate::profile::{self, Session};
use crate::signal::{Signal, Signals};
use crate::{advice, clock, name};
use app::{App, PAGE};
use exchange::{Happening, Order, Popup};
use keyboard::Keyboard;
use screen::Screen;

/// Events that are taken before the screen is drawn again.
const BURST: usize = 512;
/// How long the last receipts and messages get to leave at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs until the person quits.
pub(crate) async fn run(global: &Global, arguments: &Chat) -> Result<ExitCode, Problem> {
    if global.json {
        return Err(Problem::new(
            "USAGE",
            format!(
                "chat is for people: programs use {} and {}",
                advice::command("listen --json"),
                advice::command("send")
            ),
        ));
    }
    if !screen::is_there() {
        return Err(Problem::new(
            "NO_TERMINAL",
            format!(
                "chat needs a terminal: {} and {} work without",
                advice::command("listen"),
                advice::command("send")
            ),
        ));
    }
    let session = profile::open(global).await?;
    if let Some(wanted) = &arguments.conversation {
        let list = session.client.conversations().await?;
        if let Err(problem) = name::find(&list, &session.account.handle, wanted) {
            session.client.close().await;
            return Err(problem);
        }
    }
    let app =
        App::new(&session.account, clock::local_zone(), clock::now_ms(), arguments.conversation.clone());
    let done = Driver::new(app, session.client.clone()).run().await;
    farewell(session).await;
    done.map(ExitCode::from)
}

/// Why the chat ends.
enum End {
    Quit,
    Signal(Signal),
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        match end {
            End::Quit => Self::SUCCESS,
            End::Signal(signal) => signal.into(),
        }
    }
}

async fn farewell(session: Session) {
    if session.client.state().await.is_ok_and(|state| state.connected) {
        // What does not leave in time leaves the next time.
        let _ = session.client.settled(FAREWELL).await;
    }
    session.client.close().await;
}

fn terminal_problem(error: &io::Error) -> Problem {
    Problem::new("NO_TERMINAL", format!("the terminal does not work: {error}"))
}

struct Driver {
    app: App,
    client: Client,
    events: Receiver<Event>,
    /// Calls that wait for others.
    slow: JoinSet<Happening>,
}

impl Driver {
    fn new(app: App, client: Client) -> Self {
        Self { app, events: client.subscribe(), client, slow: JoinSet::new() }
    }

    async fn run(mut self) -> Result<End, Problem> {
        match self.run_on(&mut Screen::enter().map_err(|error| terminal_problem(&error))?).await {
            // Whatever failed on a terminal that is gone failed because of that.
            Err(_) if !screen::is_there() => Ok(End::Signal(Signal::Hangup)),
            ended => ended,
        }
    }

    async fn run_on(&mut self, screen: &mut Screen) -> Result<End, Problem> {
        let mut signals = Signals::new().map_err(|error| terminal_problem(&error))?;
        let mut keyboard = Keyboard::new().map_err(|error| terminal_problem(&error))?;
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let mut orders = vec![Order::LoadConversations, Order::AskOnline];
        loop {
            if self.obey(screen, orders).await? {
                return Ok(End::Quit);
            }
            screen
                .draw(|frame| view::draw(frame, &mut self.app))
                .map_err(|error| terminal_problem(&error))?;
            orders = self.app.on(Happening::Drawn);
            if !orders.is_empty() {
                continue;
            }
            orders = tokio::select! {
                typed = keyboard.next() => match typed {
                    Some(Ok(typed)) => match translate(typed) {
                        Some(happening) => self.app.on(happening),
                        None => Vec::new(),
                    },
                    Some(Err(error)) => return Err(terminal_problem(&error)),
                    None => return Ok(End::Quit),
                },
                event = self.events.recv() => match event {
                    Ok(event) => self.burst(event),
                    Err(RecvError::Lagged(_)) => self.app.on(Happening::Missed),
                    Err(RecvError::Closed) => return Err(ClientError::Stopped.into()),
                },
                Some(done) = self.slow.join_next() => match done {
                    Ok(happening) => self.app.on(happening),
                    Err(_) => Vec::new(),
                },
                _ = seconds.tick() => {
                    // Whoever is not the terminal's first process may not be told that it is gone.
                    if !screen::is_there() {
                        return Ok(End::Signal(Signal::Hangup));
                    }
                    self.app.on(Happening::Time(clock::now_ms()))
                }
                signal = signals.next() => return Ok(End::Signal(signal)),
            };
        }
    }

    /// Takes what else has happened already, so that a flood of messages is drawn once.
    fn burst(&mut self, first: Event) -> Vec<Order> {
        let mut orders = self.app.on(Happening::Client(first));
        orders.extend(self.waiting(BURST));
        orders
    }

    /// Takes events that are here already.
    fn waiting(&mut self, most: usize) -> Vec<Order> {
        let mut orders = Vec::new();
        for _ in 0..most {
            orders.extend(match self.events.try_recv() {
                Ok(event) => self.app.on(Happening::Client(event)),
                Err(TryRecvError::Lagged(_)) => self.app.on(Happening::Missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            });
        }
        orders
    }

    /// Carries orders out, and those that follow from them; true = quit.
    async fn obey(&mut self, screen: &mut Screen, orders: Vec<Order>) -> Result<bool, Problem> {
        let mut queue: VecDeque<Order> = VecDeque::new();
        push_new(&mut queue, orders);
        while let Some(order) = queue.pop_front() {
            let happening = match order {
                Order::Quit => return Ok(true),
                Order::Redraw => {
                    screen.clear().map_err(|error| terminal_problem(&error))?;
                    continue;
                }
                Order::Suspend => {
                    screen.suspend().await.map_err(|error| terminal_problem(&error))?;
                    continue;
                }
                Order::AskOnline => {
                    let state = self.client.state().await;
                    // What came before that state is taken before it: once everything is read, what comes is
                    // news.
                    push_new(&mut queue, self.waiting(usize::MAX));
                    Some(happened(state.map(Happening::State)))
                }
                order => self.carry_out(order).await,
            };
            if let Some(happening) = happening {
                push_new(&mut queue, self.app.on(happening));
            }
        }
        Ok(false)
    }

    async fn carry_out(&mut self, order: Order) -> Option<Happening> {
        let client = self.client.clone();
        let done = match order {
            Order::LoadConversations => client.conversations().await.map(Happening::Conversations),
            Order::LoadHistory { conversation, before } => {
                let known = self.app.conversations.iter().find(|known| known.id == conversation);
                let limit =
                    known.filter(|_| before.is_none()).map_or(PAGE, |known| unread::page(known.unread, PAGE));
                let messages = client.history(conversation, before, limit).await;
                messages.map(|messages| Happening::History { conversation, before, messages })
            }
            Order::MarkRead(conversation) => return complaint(client.mark_read(conversation).await),
            Order::Leave(conversation) => {
                let left = || Happening::Done("you left; the history stays here".to_owned());
                client.leave(conversation).await.map(|()| left())
            }
            Order::Send { conversation, text } => {
                return match client.send(conversation, text.clone()).await {
                    Ok(_) => None,
                    Err(error) => Some(Happening::NotSent { conversation, text, problem: words(error) }),
                };
            }
            Order::ShowMembers(conversation) => {
                client.members(conversation).await.map(|list| Happening::Show(members(&list)))
            }
            Order::ShowSafetyNumber(handle) => {
                let me = self.app.me.clone();
                client
                    .safety_number(handle.clone())
                    .await
                    .map(|number| Happening::Show(safety(&me, &handle, &number)))
            }
            Order::Start { members, name } => {
                self.slow
                    .spawn(async move { invited(client.start(name, members).await.map(Happening::Started)) });
                return None;
            }
            Order::Add { conversation, members } => {
                let added = || Happening::Done("added".to_owned());
                self.slow
                    .spawn(async move { invited(client.add(conversation, members).await.map(|()| added())) });
                return None;
            }
            Order::Remove { conversation, handle } => {
                self.slow.spawn(async move {
                    let done = Happening::Done(format!("{handle} is not a member any more"));
                    happened(client.remove(conversation, handle).await.map(|()| done))
                });
                return None;
            }
            Order::Quit | Order::Redraw | Order::Suspend | Order::AskOnline => return None,
        };
        Some(happened(done))
    }
}

/// Adds orders that are not in the queue already.
fn push_new(queue: &mut VecDeque<Order>, orders: Vec<Order>) {
    for order in orders {
        if !queue.contains(&order) {
            queue.push_back(order);
        }
    }
}

fn words(error: ClientError) -> String {
    Problem::in_chat(error).message().to_owned()
}

/// The same, where somebody was to be invited.
fn invited(done: Result<Happening, ClientError>) -> Happening {
    done.unwrap_or_else(|error| {
        Happening::Problem(Problem::in_chat(error).if_inviting().message().to_owned())
    })
}

fn happened(done: Result<Happening, ClientError>) -> Happening {
    done.unwrap_or_else(|error| Happening::Problem(words(error)))
}

fn complaint(done: Result<(), ClientError>) -> Option<Happening> {
    done.err().map(|error| Happening::Problem(words(error)))
}

fn translate(typed: Typed) -> Option<Happening> {
    match typed {
        Typed::Key(key) => Some(Happening::Key(key)),
        Typed::Paste(text) => Some(Happening::Paste(text)),
        Typed::FocusGained => Some(Happening::Focus(true)),
        Typed::FocusLost => Some(Happening::Focus(false)),
        Typed::Resize(..) => Some(Happening::Resize),
        Typed::Mouse(_) => None,
    }
}

fn members(list: &[posthorn_client::sync::MemberSummary]) -> Popup {
    let lines = list.iter().map(|member| member_line(member, 20)).collect();
    Popup::of_text("Members", lines)
}

fn safety(me: &str, handle: &str, number: &posthorn_client::identity::SafetyNumber) -> Popup {
    let mut lines = safety_rows(number.groups());
    lines.push(String::new());
    lines.push(format!("Compare it with what {handle} sees for you."));
    lines.push("Equal: nobody stands between you.".to_owned());
    Popup::of_text(format!("Safety number of {me} and {}", plain_line(handle)), lines)
}
