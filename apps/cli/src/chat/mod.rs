//! `chat`: the full-screen program.
//!
//! Reading order: `app` is the state (what happens goes in, orders come out: `exchange`) with `keys`, `slash`
//! and `reading`; `editor`, `unread` and `wrap` are its parts; `view`, `entries`, `links`, `invited` and
//! `popup` draw it, out of the `palette`; this file is the thin driver between terminal, client and state.
//! `screen` gives the terminal back whatever happens.

mod app;
mod editor;
mod entries;
mod exchange;
mod invited;
mod keyboard;
mod keys;
mod links;
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
use posthorn_client::client::{Client, EventStream};
use posthorn_client::conversation::ConversationId;
use posthorn_client::engine::{ConversationSummary, Error, Event, MemberSummary, Page, Person};
use posthorn_client::identity::SafetyNumber;
use tokio::task::JoinSet;

use crate::args::{Chat, Global};
use crate::command::{blocked_text, verified_text};
use crate::output::{member_line, person_line, safety_rows};
use crate::plain::plain_line;
use crate::problem::Problem;
use crate::profile::{self, Session};
use crate::signal::{Signal, Signals};
use crate::{advice, clock, invitation, name};
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
    let mut session = profile::open(global, profile::TURN).await?;
    session.share(global)?;
    if let Some(wanted) = &arguments.conversation {
        let list = session.client.conversations().await?;
        if let Err(problem) = name::find(&list, session.me(), wanted) {
            session.close().await;
            return Err(problem);
        }
    }
    let app =
        App::new(&session.account, clock::local_zone(), clock::now_ms(), arguments.conversation.clone());
    let done = Driver::new(app, session.client.clone(), arguments.quiet).run().await;
    let done = done.map_err(|problem| session.explained(problem, Some("start it again")));
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
    session.close().await;
}

fn terminal_problem(error: &io::Error) -> Problem {
    Problem::new("NO_TERMINAL", format!("the terminal does not work: {error}"))
}

struct Driver {
    app: App,
    client: Client,
    events: EventStream,
    /// Calls that wait for others.
    slow: JoinSet<Happening>,
    /// Neither a title nor a bell.
    quiet: bool,
}

impl Driver {
    fn new(app: App, client: Client, quiet: bool) -> Self {
        Self { app, events: client.events(), client, slow: JoinSet::new(), quiet }
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
            if !self.quiet {
                screen.entitle(self.app.unread());
            }
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
                event = self.events.next() => match event {
                    Some(event) => self.burst(event),
                    None => return Err(Error::Stopped.into()),
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
            let Some(event) = self.events.try_next() else { break };
            orders.extend(self.app.on(Happening::Client(event)));
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
                Order::Ring => {
                    if !self.quiet {
                        screen.ring();
                    }
                    continue;
                }
                Order::Copy(text) => {
                    screen.copy(&text);
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
        let client = &self.client;
        let done = match order {
            Order::LoadConversations => client.conversations().await.map(Happening::Conversations),
            Order::LoadHistory { conversation, before } => {
                return self.load_history(conversation, before).await;
            }
            Order::MarkRead { conversation, up_to } => {
                return match client.conversation(conversation).mark_read(Some(up_to)).await {
                    Ok(()) | Err(Error::UnknownConversation) => None,
                    Err(error) => Some(Happening::Problem(words(error))),
                };
            }
            Order::Leave(conversation) => {
                let left = || Happening::Done("you left; the history stays here".to_owned());
                client.conversation(conversation).leave().await.map(|()| left())
            }
            Order::Accept { conversation, foreign_relay } => {
                let joined = client.conversation(conversation).accept(foreign_relay).await;
                joined.map(|()| Happening::Joined(conversation))
            }
            Order::Forget(conversation) => {
                let done = match self.known(conversation).filter(|known| name::is_invitation(known)) {
                    Some(invited) => format!("declined; {} is not told", invitation::inviter(invited)),
                    None => "forgotten, with its history".to_owned(),
                };
                client.conversation(conversation).forget().await.map(|()| Happening::Done(done))
            }
            Order::Archive { conversation, archived } => {
                let done = client.conversation(conversation).archive(archived).await;
                return done.err().map(|error| Happening::Problem(words(error)));
            }
            Order::Block { who, blocked } => return Some(self.block(&who, blocked).await),
            Order::Verify { who, verified } => return Some(self.verify(&who, verified).await),
            Order::React { conversation, target, emoji } => {
                let done = client.conversation(conversation).react(target, &emoji).await;
                return done.err().map(|error| Happening::Problem(words(error)));
            }
            Order::Send { conversation, text } => {
                let done = client.conversation(conversation).send_text(&text).await;
                let not_sent = |error| Happening::NotSent { conversation, text, problem: words(error) };
                return done.err().map(not_sent);
            }
            Order::ShowMembers(conversation) => {
                let list = client.conversation(conversation).members().await;
                list.map(|list| Happening::Show(members(&list)))
            }
            Order::ShowPeople => client.people().await.map(|list| Happening::Show(people(&list))),
            Order::ShowSafetyNumber(who) => return Some(self.safety_number(&who).await),
            Order::Start { .. } | Order::Add { .. } | Order::Remove { .. } | Order::Move(_) => {
                return self.begin(order);
            }
            Order::Quit
            | Order::Redraw
            | Order::Suspend
            | Order::Ring
            | Order::Copy(_)
            | Order::AskOnline => return None,
        };
        Some(happened(done))
    }

    /// Begins what waits for the relay and for others; what came of it happens later.
    fn begin(&mut self, order: Order) -> Option<Happening> {
        let client = self.client.clone();
        match order {
            Order::Start { members, name, again } => self.slow.spawn(async move {
                let started = client.start_as(None, &name, members, again).await;
                invited(started.map(|conversation| Happening::Started(conversation.id())))
            }),
            Order::Add { conversation, members } => self.slow.spawn(async move {
                let done = client.conversation(conversation).add(members).await;
                let added = || "added: they see it when they accept the invitation".to_owned();
                invited(done.map(|()| Happening::Done(added())))
            }),
            Order::Move(conversation) => self.slow.spawn(async move {
                let done = client.conversation(conversation).move_to(None).await;
                happened(done.map(|()| Happening::Done("moved: everybody follows by themselves".to_owned())))
            }),
            Order::Remove { conversation, handle } => {
                let known = self.known(conversation);
                let person = match name::person(known.iter().flat_map(|known| &known.members), &handle) {
                    Ok(person) => person.person,
                    Err(problem) => return Some(Happening::Problem(in_chat(problem, &handle))),
                };
                self.slow.spawn(async move {
                    let done = client.conversation(conversation).remove(person).await;
                    happened(done.map(|()| Happening::Done(format!("{handle} is not a member any more"))))
                })
            }
            _ => return None,
        };
        None
    }

    fn known(&self, conversation: ConversationId) -> Option<&ConversationSummary> {
        self.app.conversations.iter().find(|known| known.id == conversation)
    }

    async fn load_history(&self, conversation: ConversationId, before: Option<u64>) -> Option<Happening> {
        let known = self.known(conversation).filter(|_| before.is_none());
        let limit = known.map_or(PAGE, |known| unread::page(known.unread, PAGE));
        let page = Page { before, limit, ..Page::default() };
        match self.client.conversation(conversation).history(page).await {
            // It was forgotten in the meantime: the list tells.
            Err(Error::UnknownConversation) => None,
            entries => {
                Some(happened(entries.map(|entries| Happening::History { conversation, before, entries })))
            }
        }
    }

    async fn safety_number(&self, who: &str) -> Happening {
        let person = match self.person(who).await {
            Ok(person) => person,
            Err(problem) => return Happening::Problem(problem.message().to_owned()),
        };
        let number = self.client.safety_number(person.person).await;
        happened(number.map(|number| Happening::Show(safety(&self.app.handle, &person.handle, &number))))
    }

    /// Whom a word means, among everybody who was met.
    async fn person(&self, who: &str) -> Result<Person, Problem> {
        let people = self.client.people().await?;
        let found = name::person(&people, who).cloned();
        found.map_err(|problem| Problem::new(problem.code(), in_chat(problem.clone(), who)))
    }

    async fn verify(&self, who: &str, verified: bool) -> Happening {
        let mut person = match self.person(who).await {
            Ok(person) => person,
            Err(problem) => return Happening::Problem(problem.message().to_owned()),
        };
        let done = self.client.verify(person.person, verified).await;
        person.verified = verified;
        happened(done.map(|()| Happening::Done(verified_text(&person))))
    }

    async fn block(&self, who: &str, blocked: bool) -> Happening {
        let person = match self.person(who).await {
            Ok(person) => person,
            Err(problem) => return Happening::Problem(problem.message().to_owned()),
        };
        let done = self.client.block(person.person, blocked).await;
        happened(done.map(|()| Happening::Done(blocked_text(&person, blocked))))
    }
}

/// A person is not known: what to type in the chat.
fn in_chat(problem: Problem, who: &str) -> String {
    match problem.code() {
        "UNKNOWN_PERSON" => Problem::unknown_in_chat(who).message().to_owned(),
        _ => problem.message().to_owned(),
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

fn words(error: Error) -> String {
    Problem::in_chat(error).message().to_owned()
}

/// The same, where somebody was to be invited.
fn invited(done: Result<Happening, Error>) -> Happening {
    done.unwrap_or_else(|error| {
        Happening::Problem(Problem::in_chat(error).if_inviting().message().to_owned())
    })
}

fn happened(done: Result<Happening, Error>) -> Happening {
    done.unwrap_or_else(|error| Happening::Problem(words(error)))
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

fn members(list: &[MemberSummary]) -> Popup {
    let lines = list.iter().map(|member| member_line(member, 20)).collect();
    Popup::of_text("Members", lines)
}

fn people(list: &[Person]) -> Popup {
    let lines = match list {
        [] => vec!["You have not met anybody yet.".to_owned()],
        list => list.iter().map(|person| person_line(person, 12)).collect(),
    };
    Popup::of_text("People", lines)
}

fn safety(me: &str, handle: &str, number: &SafetyNumber) -> Popup {
    let handle = plain_line(handle);
    let mut lines = safety_rows(number.groups());
    lines.push(String::new());
    lines.push(format!("Compare it with what {handle} sees for you."));
    lines.push("Equal: nobody stands between you, and /verify --mark keeps that.".to_owned());
    Popup::of_text(format!("Safety number of {me} and {handle}"), lines)
}
