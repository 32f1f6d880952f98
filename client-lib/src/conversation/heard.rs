//! What members' devices asked of this one because they cannot go on (rule 7): the latest of each device,
//! kept until a later one comes, the device is taken out, or its bytes are of no use any more.

use posthorn_proto::DeviceId;
use serde::{Deserialize, Serialize};

use super::ConversationId;
use crate::content::Repaired;
use crate::identity::PersonId;
use crate::store::table::Queue;
use crate::store::{StoreError, Transaction};

const TABLE: Queue<ConversationId, Heard> = Queue::new("heard");

/// What is older than the adding by no more than this may be of after it, milliseconds.
const LEEWAY: u64 = 10 * 60_000;

/// A request of a member's device. Its signature was checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub(crate) person: PersonId,
    pub(crate) device: DeviceId,
    /// Its own number, unix milliseconds: of one device the latest counts.
    pub(crate) at: u64,
    /// When it was added, unix milliseconds by the relay's clock: what it asked for before is answered.
    #[serde(default)]
    pub(crate) answered_by: u64,
    /// The epoch that it could not go on in, or left.
    pub(crate) epoch: u64,
    #[serde(with = "serde_bytes")]
    pub(crate) key_package: Vec<u8>,
    /// Its commit out of that epoch, if it moved the conversation.
    #[serde(default)]
    pub(crate) repair: Option<Vec<u8>>,
    /// The repair by which it says to be where it is.
    #[serde(default)]
    pub(crate) is_at: Option<Repaired>,
    /// It cannot stay there.
    #[serde(default)]
    pub(crate) leaves: bool,
    /// It goes on there, and only says so.
    #[serde(default)]
    pub(crate) stays: bool,
    /// As it came, if it only says so: others may have to hear it from us.
    #[serde(default, with = "serde_bytes")]
    pub(crate) word: Vec<u8>,
    /// When it came, unix milliseconds; 0 if the device never asked.
    pub(crate) came: u64,
    /// When to answer it, unix milliseconds; 0 once that is done.
    pub(crate) due: u64,
    /// We have looked at the mailbox ourselves since.
    pub(crate) looked: bool,
    /// When the device was added last, unix milliseconds, and in which epoch.
    #[serde(default)]
    pub(crate) added: (u64, u64),
    /// How often it was answered: the day, and how many times on it.
    pub(crate) answered: (u64, u32),
}

/// Keeps a request in place of an earlier one of the device; false if that was later.
pub(crate) fn put_heard(
    tx: &Transaction<'_>,
    id: &ConversationId,
    mut new: Heard,
) -> Result<bool, StoreError> {
    let label = TABLE.hidden(tx, &[&new.person.0[..], &new.device.0].concat());
    // Clocks differ: what says where a device is, it may have said right after it was added.
    let leeway = if new.stays { LEEWAY } else { 0 };
    let is_known = |known: &Heard| new.at <= known.at || new.at.saturating_add(leeway) <= known.answered_by;
    match TABLE.find(tx, id, &label)? {
        Some((_, known)) if is_known(&known) => Ok(false),
        Some((row, known)) => {
            if new.at <= known.answered_by {
                // What was asked with it may be answered: it only tells.
                (new.key_package, new.repair) = (Vec::new(), None);
            }
            // A repair is said once, and still counts while the device says that it goes on there.
            let is_there = new.is_at == known.is_at && !new.leaves;
            let repair = new.repair.clone().or(known.repair.filter(|_| is_there));
            let Heard { answered, added, answered_by, .. } = known;
            let new = Heard { answered, added, answered_by, repair, ..new };
            TABLE.update(tx, row, Some(&label[..]), &new).map(|()| true)
        }
        None => TABLE.put(tx, id, Some(&label[..]), &new).map(|_| true),
    }
}

/// A device was added: what it asked for before that is answered.
pub(crate) fn note_added(
    tx: &Transaction<'_>,
    id: &ConversationId,
    (person, device): (PersonId, DeviceId),
    (at, now, epoch): (u64, u64, u64),
) -> Result<(), StoreError> {
    let label = TABLE.hidden(tx, &[&person.0[..], &device.0].concat());
    let known = TABLE.find(tx, id, &label)?;
    let answered = known.as_ref().map_or((0, 0), |(_, known)| known.answered);
    let (answered_by, at) = (at, known.as_ref().map_or(0, |(_, known)| known.at));
    let new = Heard {
        person,
        device,
        at,
        answered_by,
        epoch,
        key_package: Vec::new(),
        repair: None,
        is_at: None,
        leaves: false,
        stays: false,
        word: Vec::new(),
        came: known.as_ref().map_or(0, |(_, known)| known.came),
        due: 0,
        looked: false,
        added: (now, epoch),
        answered,
    };
    match known {
        Some((row, _)) => TABLE.update(tx, row, Some(&label[..]), &new),
        None => TABLE.put(tx, id, Some(&label[..]), &new).map(drop),
    }
}

/// Forgets one.
pub(crate) fn remove_heard(tx: &Transaction<'_>, row: i64) -> Result<(), StoreError> {
    TABLE.remove(tx, row)
}

/// All that is kept, the oldest first.
pub(crate) fn heard(tx: &Transaction<'_>, id: &ConversationId) -> Result<Vec<(i64, Heard)>, StoreError> {
    TABLE.oldest(tx, id, usize::MAX)
}

/// Replaces one.
pub(crate) fn update_heard(tx: &Transaction<'_>, row: i64, heard: &Heard) -> Result<(), StoreError> {
    let label = TABLE.hidden(tx, &[&heard.person.0[..], &heard.device.0].concat());
    TABLE.update(tx, row, Some(&label[..]), heard)
}

/// Forgets all.
pub(crate) fn forget_heard(tx: &Transaction<'_>, id: &ConversationId) -> Result<(), StoreError> {
    TABLE.remove_all(tx, id)
}
