//! What strangers may cost in a day. Anybody who has a contact link can leave anything in the public inbox,
//! as often as the relay lets them: whatever makes rows, connections or noise on this device is counted.

use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use super::{EngineError, Step};
use crate::conversation::{Cause, ConversationId};
use crate::store::record;

/// Alarms about what lay in an inbox.
pub(super) const ALARMS: u32 = 64;
/// Answers to Welcomes that do not open (rule 14): each is a key package of ours and a post.
pub(super) const ANSWERS: u32 = 16;
/// Conversations that begin by an invitation: each is a group, a mailbox to be opened and perhaps a
/// connection.
pub(super) const CONVERSATIONS: u32 = 256;

const DAY: u64 = 24 * 3600 * 1000;
const KEY: &str = "strangers";
const TABLE: &str = "setting";

/// How often each happened today.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Today {
    day: u64,
    pub(super) alarms: u32,
    pub(super) answers: u32,
    pub(super) conversations: u32,
}

impl Step<'_> {
    /// Counts one; false if there were as many as there may be today.
    pub(super) fn strangers(
        &mut self,
        count: impl FnOnce(&mut Today) -> &mut u32,
        most: u32,
    ) -> Result<bool, EngineError> {
        let row: Option<Vec<u8>> = self
            .tx
            .sql()
            .prepare_cached("SELECT value FROM setting WHERE key = ?1")?
            .query_row([KEY], |row| row.get(0))
            .optional()?;
        let known: Option<Today> =
            row.map(|row| record::open(self.tx, TABLE, KEY.as_bytes(), &row)).transpose()?;
        let day = self.now / DAY;
        let mut today = known.filter(|today| today.day == day).unwrap_or(Today { day, ..Today::default() });
        let count = count(&mut today);
        if *count >= most {
            return Ok(false);
        }
        *count += 1;
        let value = record::seal(self.tx, TABLE, KEY.as_bytes(), &today);
        self.tx
            .sql()
            .prepare_cached(
                "INSERT INTO setting (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            )?
            .execute((KEY, value))?;
        Ok(true)
    }

    /// An alarm about what lay in an inbox, unless there were too many today.
    pub(super) fn inbox_alarm(
        &mut self,
        conversation: Option<ConversationId>,
        cause: Cause,
        text: impl Into<String>,
    ) -> Result<(), EngineError> {
        if self.strangers(|today| &mut today.alarms, ALARMS)? {
            self.alarm(conversation, cause, None, text);
        }
        Ok(())
    }
}
