//! One pass: the inputs that wait, inside one transaction, and everything that follows from them.

use std::collections::BTreeMap;

use posthorn_proto::frame::{Request, ServerFrame};
use rand::CryptoRng;

use super::link::request::Pending;
use super::live::{Live, places};
use super::talk::Open;
use super::{Effect, Error, Event, Input, LinkId, Reply};
use crate::conversation::{Cause, Conversation, ConversationId};
use crate::store::Transaction;

pub(super) struct Step<'a> {
    pub(super) tx: &'a Transaction<'a>,
    pub(super) live: &'a mut Live,
    pub(super) rng: &'a mut dyn CryptoRng,
    pub(super) now: u64,
    pub(super) effects: Vec<Effect>,
    /// The delivery that comes next killed too many processes.
    pub(super) passing_over: bool,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        tx: &'a Transaction<'a>,
        live: &'a mut Live,
        rng: &'a mut dyn CryptoRng,
        now: u64,
    ) -> Self {
        live.steps += 1;
        live.note_clock(now);
        Self { tx, live, rng, now, effects: Vec::new(), passing_over: false }
    }

    pub(super) fn input(&mut self, input: Input) -> Result<(), Error> {
        match input {
            Input::Tick => Ok(()),
            Input::Connected(id) => {
                self.link_connected(&id);
                Ok(())
            }
            Input::Disconnected(id, reason) => self.link_disconnected(&id, reason),
            Input::Frames(id, frames) => self.frames(&id, frames),
            Input::Command(command) => self.command(command),
        }
    }

    /// Everything that can be done now, until nothing more can.
    pub(super) fn progress(&mut self) -> Result<(), Error> {
        self.wake()?;
        self.progress_links()?;
        self.progress_account()?;
        self.progress_openings()?;
        self.progress_held()?;
        while let Some(id) = self.live.dirty.pop_first() {
            self.progress_talk(&id)?;
        }
        self.progress_inbox_posts()?;
        // What was begun may want connections.
        self.progress_links()
    }

    /// Writes what changed in memory; what is to be done after the commit.
    pub(super) fn finish(mut self) -> Result<Vec<Effect>, Error> {
        self.flush()?;
        self.live.close_unused();
        Ok(self.effects)
    }

    /// Saves every conversation that was changed in memory.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        for (id, open) in &mut self.live.talks {
            open.save(self.tx, id)?;
        }
        Ok(())
    }

    /// Runs `work`: all of it, or, after an error that is not of the database, none of it.
    pub(super) fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<Result<T, Error>, Error> {
        self.flush()?;
        let before = self.mark()?;
        let result = work(self).and_then(|done| self.flush().map(|()| done));
        let result = self.keep_or_undo(before, result)?;
        if result.is_err() {
            self.live.talks.clear();
        }
        Ok(result)
    }

    /// Begins what `keep_or_undo` ends: how many effects there are.
    pub(super) fn mark(&self) -> Result<usize, Error> {
        self.tx.control("SAVEPOINT attempt")?;
        Ok(self.effects.len())
    }

    /// Keeps what was written since the mark, or, after an error that is not of the database, nothing of it.
    /// The talks in memory are the caller's.
    pub(super) fn keep_or_undo<T>(
        &mut self,
        before: usize,
        result: Result<T, Error>,
    ) -> Result<Result<T, Error>, Error> {
        match &result {
            Ok(_) => {}
            Err(error) if error.is_fatal() => return result.map(Ok),
            Err(error) => {
                self.tx.control("ROLLBACK TO attempt")?;
                self.take_back(before, error);
                (self.live.own, self.live.tokens) = (None, None);
                self.live.places = places(self.tx)?;
            }
        }
        self.tx.control("RELEASE attempt")?;
        Ok(result)
    }

    /// Takes back effects whose reasons were rolled back: nothing may be sent that is not durable.
    fn take_back(&mut self, before: usize, error: &Error) {
        for effect in self.effects.split_off(before) {
            match effect {
                Effect::Send(id, frame) => {
                    if let Some(up) = self.live.links.get_mut(&id).and_then(|link| link.up_mut()) {
                        up.pending.remove(&frame.request);
                    }
                }
                // Whoever waited is told all the same: what was answered did not come about.
                Effect::Answer(answer) => self.effects.push(Effect::Answer(answer.withdrawn(error))),
                _ => {}
            }
        }
    }

    fn wake(&mut self) -> Result<(), Error> {
        while let Some((at, id)) = self.live.timers.first().copied() {
            if at > self.now {
                break;
            }
            self.live.timers.remove(&(at, id));
            self.live.dirty.insert(id);
        }
        if self.live.look_again_at.is_some_and(|at| at <= self.now) {
            self.live.look_again_at = None;
            self.live.openings_dirty = true;
            self.live.links_dirty = true;
        }
        if self.live.inbox_posts_at.is_some_and(|at| at <= self.now) {
            self.live.inbox_posts_at = None;
            self.live.inbox_posts_dirty = true;
        }
        let (paused, held) = (self.live.paused.len(), self.live.held_back.len());
        self.live.paused.retain(|_, until| *until > self.now);
        self.live.held_back.retain(|_, waiting| waiting.until > self.now);
        if (paused, held) != (self.live.paused.len(), self.live.held_back.len()) {
            self.look_everywhere()?;
        }
        Ok(())
    }

    /// Looks at a conversation again at a time.
    pub(super) fn wake_talk(&mut self, id: ConversationId, at: u64) {
        self.live.timers.insert((at, id));
    }

    /// A link came up or a refusal ended: everything may be able to go on.
    pub(super) fn look_everywhere(&mut self) -> Result<(), Error> {
        self.live.inbox_posts_dirty = true;
        self.live.openings_dirty = true;
        self.live.dirty.extend(Conversation::ids(self.tx)?);
        Ok(())
    }

    /// Takes frames of a link in order, then acknowledges once for each mailbox that moved.
    fn frames(&mut self, id: &LinkId, frames: Vec<ServerFrame>) -> Result<(), Error> {
        let mut moved = BTreeMap::new();
        for frame in frames {
            self.frame(id, frame, &mut moved)?;
        }
        for (mailbox, delivered) in moved {
            self.acknowledge(id, &mailbox, delivered)?;
        }
        Ok(())
    }

    pub(super) fn event(&mut self, event: Event) {
        self.effects.push(Effect::Event(event));
    }

    pub(super) fn alarm(
        &mut self,
        conversation: Option<ConversationId>,
        cause: Cause,
        seq: Option<u64>,
        text: impl Into<String>,
    ) {
        self.event(Event::Alarm { conversation, cause, seq, text: text.into() });
    }

    pub(super) fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, result: Result<T, Error>) {
        self.effects.push(Effect::Answer(reply.with(result)));
    }

    /// Sends a request on a link that is up, and remembers what its answer is for.
    pub(super) fn request(&mut self, id: &LinkId, request: Request, pending: Pending) {
        let link = self.live.links.get_mut(id);
        if let Some(frame) = link.and_then(|link| link.request(request, pending, self.now)) {
            self.effects.push(Effect::Send(id.clone(), frame));
        }
    }

    /// The conversation in memory, if it is; where nobody may change it.
    pub(super) fn peek(&self, id: &ConversationId) -> Option<&Open> {
        self.live.talks.get(id)
    }
}
