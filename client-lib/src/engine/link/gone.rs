//! Relays that are gone: others than our own that have not answered for days, while our own did. What lives
//! at one goes on elsewhere (rule 7).
//!
//! A device goes by its own clock and by what it saw itself. That the network works, it knows by its own
//! relay: without that it can tell nothing, and could make no mailbox either.

use serde::{Deserialize, Serialize};

use super::Step;
use crate::conversation::{Cause, Conversation, ConversationState};
use crate::engine::{Error, Link, LinkId};
use crate::identity::RelayUrl;
use crate::store::table::Table;
use crate::store::{StoreError, Transaction};

const TABLE: Table<[u8; 32], Down> = Table::new("down");

const HOUR: u64 = 3600 * 1000;
const DAY: u64 = 24 * HOUR;
/// A relay that has not answered for so long is gone, milliseconds.
const GONE_AFTER: u64 = 3 * DAY;
/// A longer time between two tries counts as this much, milliseconds: a device that is asleep sees nothing.
const ASLEEP: u64 = 12 * HOUR;
/// What was not tried for so long is forgotten, milliseconds.
const KEPT: u64 = 30 * DAY;

/// A relay that cannot be reached.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Down {
    /// The last try, unix milliseconds.
    last: u64,
    /// For how long it has not answered, milliseconds.
    lasts: u64,
}

impl Down {
    fn again(&mut self, now: u64) {
        // A clock that was put back takes nothing away, and forward it adds no more than sleep does.
        self.lasts += now.saturating_sub(self.last).min(ASLEEP);
        self.last = now;
    }

    fn is_gone(&self) -> bool {
        self.lasts >= GONE_AFTER
    }
}

fn key(tx: &Transaction<'_>, relay: &RelayUrl) -> [u8; 32] {
    TABLE.hidden(tx, relay.as_str().as_bytes())
}

impl Step<'_> {
    /// Another relay than our own could not be reached.
    pub(super) fn note_down(&mut self, relay: &RelayUrl) -> Result<(), Error> {
        let Some(own) = self.live.own_url.clone() else { return Ok(()) };
        let has_network = [Link::Account, Link::Mailboxes, Link::Inbox]
            .into_iter()
            .any(|link| self.live.known(&LinkId { relay: own.clone(), link }).is_some());
        // Of a proxy for one relay our own relay says nothing.
        if !has_network || self.live.route(relay) != self.live.route(&own) {
            return Ok(());
        }
        let (key, now) = (key(self.tx, relay), self.now);
        let mut down = match TABLE.get(self.tx, &key)? {
            Some(down) => down,
            None => {
                self.forget_old(now)?;
                Down { last: now, ..Down::default() }
            }
        };
        down.again(now);
        TABLE.put(self.tx, &key, &down)?;
        if down.is_gone() {
            self.leave(relay, down.lasts / DAY)?;
        }
        Ok(())
    }

    /// A relay answers. Whoever went on alone, because the others could not be reached there, asks them.
    pub(super) fn note_up(&mut self, relay: &RelayUrl) -> Result<(), Error> {
        let key = key(self.tx, relay);
        let Some(down) = TABLE.get(self.tx, &key)? else { return Ok(()) };
        TABLE.remove(self.tx, &key)?;
        if !down.is_gone() {
            return Ok(());
        }
        self.flush()?;
        for (id, record) in Conversation::all(self.tx)? {
            if record.state == ConversationState::Active && record.healing.is_unsure(self.now) {
                self.talk(&id, |talk| {
                    talk.ask_anew();
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// It is reached in another way from now on: what was found of it says nothing any more.
    pub(super) fn reached_otherwise(&mut self, relay: &RelayUrl) -> Result<(), StoreError> {
        TABLE.remove(self.tx, &key(self.tx, relay)).map(drop)
    }

    fn forget_old(&mut self, now: u64) -> Result<(), StoreError> {
        for (key, down) in TABLE.all(self.tx)? {
            if down.last.saturating_add(KEPT) < now {
                TABLE.remove(self.tx, &key)?;
            }
        }
        Ok(())
    }

    /// What lives at a relay that is gone cannot go on there. Whoever led this device there lately has
    /// reached it.
    fn leave(&mut self, relay: &RelayUrl, days: u64) -> Result<(), Error> {
        self.flush()?;
        let now = self.now;
        let lives_there = |record: &Conversation| {
            matches!(record.state, ConversationState::Active | ConversationState::Leaving)
                && record.epoch > 0
                && record.relay_url == relay.as_str()
                && now.abs_diff(record.here_since()) >= GONE_AFTER
        };
        let all = Conversation::all(self.tx)?.into_iter().filter(|(_, record)| lives_there(record));
        let text =
            format!("{relay} has not answered for {days} days: the conversation goes on at another relay");
        for (id, record) in all.collect::<Vec<_>>() {
            if record.state == ConversationState::Leaving {
                // Nobody is there to make it true.
                self.talk(&id, |talk| {
                    talk.note_own_leave(None)?;
                    talk.end(ConversationState::Left)
                })?;
            } else {
                self.suspend_talk(&id, Cause::RelayGone, &text)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn a_relay_is_gone_after_three_days_that_this_device_was_awake() {
        let begun = Down { last: DAY, ..Down::default() };
        let mut asleep = begun.clone();
        asleep.again(40 * DAY);
        for minute in 1..=120 {
            asleep.again(40 * DAY + minute * MINUTE);
        }
        assert!(!asleep.is_gone(), "what it slept through says nothing");
        let mut seldom = begun.clone();
        for day in 2..4 {
            seldom.again(day * DAY);
        }
        assert!(!seldom.is_gone());
        let mut awake = begun.clone();
        while awake.last < 4 * DAY - 10 * MINUTE {
            awake.again(awake.last + 10 * MINUTE);
        }
        assert!(!awake.is_gone());
        awake.again(4 * DAY);
        assert!(awake.is_gone());
        // A clock that is put back makes it neither younger nor older.
        awake.again(2 * DAY);
        assert!(awake.is_gone());
        assert_eq!(awake.lasts, 3 * DAY);
    }
}
