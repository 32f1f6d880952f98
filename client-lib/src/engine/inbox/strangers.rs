//! What strangers may cost in a day. Anybody who has a contact link can leave anything in the public inbox,
//! as often as the relay lets them: whatever makes rows, connections or noise on this device is counted.

use serde::{Deserialize, Serialize};

use crate::conversation::{Cause, ConversationId};
use crate::engine::{Error, Step};
use crate::store::table::Table;

/// Alarms about what lay in an inbox.
pub(in crate::engine) const ALARMS: u32 = 64;
/// Answers to Welcomes that do not open (rule 14): each is a key package of ours and a post.
pub(in crate::engine) const ANSWERS: u32 = 16;
/// Conversations that begin by an invitation without being asked about: each is a group, a mailbox to be
/// opened and perhaps a connection.
pub(in crate::engine) const CONVERSATIONS: u32 = 256;

const DAY: u64 = 24 * 3600 * 1000;
const KEY: &str = "strangers";
const TABLE: Table<&str, Today> = Table::new("setting");

/// How often each happened today.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::engine) struct Today {
    day: u64,
    pub(in crate::engine) alarms: u32,
    pub(in crate::engine) answers: u32,
    pub(in crate::engine) conversations: u32,
}

impl Step<'_> {
    /// Counts one; false if there were as many as there may be today.
    pub(in crate::engine) fn strangers(
        &mut self,
        count: impl FnOnce(&mut Today) -> &mut u32,
        most: u32,
    ) -> Result<bool, Error> {
        let mut today = self.today()?;
        let count = count(&mut today);
        if *count >= most {
            return Ok(false);
        }
        *count += 1;
        TABLE.put(self.tx, &KEY, &today)?;
        Ok(true)
    }

    /// What there was today.
    pub(in crate::engine) fn today(&mut self) -> Result<Today, Error> {
        let day = self.now / DAY;
        let known = TABLE.get(self.tx, &KEY)?.filter(|today| today.day == day);
        Ok(known.unwrap_or(Today { day, ..Today::default() }))
    }

    /// An alarm about what lay in an inbox, unless there were too many today.
    pub(in crate::engine) fn inbox_alarm(
        &mut self,
        conversation: Option<ConversationId>,
        cause: Cause,
        text: impl Into<String>,
    ) -> Result<(), Error> {
        if self.strangers(|today| &mut today.alarms, ALARMS)? {
            self.alarm(conversation, cause, None, text);
        }
        Ok(())
    }
}
