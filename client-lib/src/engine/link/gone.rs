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
use crate::store::Transaction;
use crate::store::table::Table;

const TABLE: Table<[u8; 32], Down> = Table::new("down");

/// A relay that has not answered for so long is gone, milliseconds: three days.
const GONE_AFTER: u64 = 3 * 24 * 3600 * 1000;
/// For so much of that time this device must have tried, milliseconds: one that is asleep sees nothing.
const TRIED: u64 = 3600 * 1000;
/// A try counts for so long at most, milliseconds.
const BETWEEN: u64 = 15 * 60_000;

/// A relay that cannot be reached, and since when.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Down {
    /// The first try that failed, unix milliseconds, and the last.
    since: u64,
    last: u64,
    /// How much of the time between them this device tried, milliseconds.
    tried: u64,
}

impl Down {
    fn again(&mut self, now: u64) {
        // What a clock that was put back takes away, it takes away from both ends.
        self.since = self.since.saturating_sub(self.last.saturating_sub(now));
        self.tried += now.saturating_sub(self.last).min(BETWEEN);
        self.last = now;
    }

    fn lasts(&self) -> u64 {
        self.last.saturating_sub(self.since)
    }

    fn is_gone(&self) -> bool {
        self.lasts() >= GONE_AFTER && self.tried >= TRIED
    }
}

fn key(tx: &Transaction<'_>, relay: &RelayUrl) -> [u8; 32] {
    TABLE.hidden(tx, relay.as_str().as_bytes())
}

impl Step<'_> {
    /// Another relay than our own could not be reached.
    pub(super) fn not_reached(&mut self, relay: &RelayUrl) -> Result<(), Error> {
        let Some(own) = self.live.own_url.clone() else { return Ok(()) };
        let has_network = [Link::Account, Link::Mailboxes, Link::Inbox]
            .into_iter()
            .any(|link| self.live.known(&LinkId { relay: own.clone(), link }).is_some());
        if !has_network {
            return Ok(());
        }
        let (key, now) = (key(self.tx, relay), self.now);
        let mut down = TABLE.get(self.tx, &key)?.unwrap_or(Down { since: now, last: now, tried: 0 });
        down.again(now);
        TABLE.put(self.tx, &key, &down)?;
        if down.is_gone() {
            self.leave(relay, down.lasts())?;
        }
        Ok(())
    }

    /// A relay answers. Whoever went on alone, because the others could not be reached there, asks them.
    pub(super) fn answers_again(&mut self, relay: &RelayUrl) -> Result<(), Error> {
        if !self.is_down(relay)? {
            return Ok(());
        }
        self.is_there(relay)?;
        self.flush()?;
        for (id, record) in Conversation::all(self.tx)? {
            if record.state == ConversationState::Active && record.healing.is_unsure(self.now) {
                self.talk(&id, |talk| talk.ask_those_back())?;
            }
        }
        Ok(())
    }

    /// A member says that a relay answers: if it is gone, that is found out anew.
    pub(in crate::engine) fn is_there(&mut self, relay: &RelayUrl) -> Result<(), Error> {
        Ok(TABLE.remove(self.tx, &key(self.tx, relay)).map(drop)?)
    }

    /// Whether a relay could not be reached when it was tried last.
    pub(in crate::engine) fn is_down(&self, relay: &RelayUrl) -> Result<bool, Error> {
        Ok(TABLE.get(self.tx, &key(self.tx, relay))?.is_some())
    }

    /// What lives at a relay that is gone cannot go on there.
    fn leave(&mut self, relay: &RelayUrl, lasts: u64) -> Result<(), Error> {
        self.flush()?;
        let lives_there = |record: &Conversation| {
            record.state == ConversationState::Active
                && record.epoch > 0
                && record.relay_url == relay.as_str()
        };
        let all = Conversation::all(self.tx)?.into_iter().filter(|(_, record)| lives_there(record));
        let days = lasts / (24 * 3600 * 1000);
        let text =
            format!("{relay} has not answered for {days} days: the conversation goes on at another relay");
        for (id, _) in all.collect::<Vec<_>>() {
            self.suspend_talk(&id, Cause::RelayGone, &text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const DAY: u64 = 24 * 60 * MINUTE;

    #[test]
    fn a_relay_is_gone_after_three_days_of_which_an_hour_was_tried() {
        let begun = Down { since: DAY, last: DAY, tried: 0 };
        let mut asleep = begun.clone();
        asleep.again(40 * DAY);
        assert!(!asleep.is_gone(), "one that slept has seen two tries");
        for minute in 1..60 {
            asleep.again(40 * DAY + minute * MINUTE);
        }
        assert!(asleep.is_gone());
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
        assert_eq!(awake.lasts(), 3 * DAY);
    }
}
