//! Pins: who a handle was, when a relay's directory or a contact link first named somebody under it (rule
//! 26). The first word stands, until the person says otherwise.

use posthorn_proto::{Handle, RelayIdentity};

use crate::identity::PersonId;
use crate::store::table::Table;
use crate::store::{StoreError, Transaction};

const TABLE: Table<[u8; 32], PersonId> = Table::new("pin");

/// What was known when somebody was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pinned {
    /// Nobody was: this is who the handle is from now on.
    New,
    /// The same.
    Same,
    /// Somebody else, who stays. Whoever named another now may be lying.
    Other(PersonId),
}

/// Notes that the directory of `relay`, or a contact link, named `person` under this handle there.
pub(crate) fn pin(
    tx: &Transaction<'_>,
    relay: &RelayIdentity,
    handle: &Handle,
    person: &PersonId,
) -> Result<Pinned, StoreError> {
    match pinned(tx, relay, handle)? {
        Some(known) if known == *person => Ok(Pinned::Same),
        Some(known) => Ok(Pinned::Other(known)),
        None => TABLE.put(tx, &key(tx, relay, handle), person).map(|()| Pinned::New),
    }
}

/// From now on the handle is this person: somebody compared their key. Who it was before, if somebody else.
pub(crate) fn repin(
    tx: &Transaction<'_>,
    relay: &RelayIdentity,
    handle: &Handle,
    person: &PersonId,
) -> Result<Option<PersonId>, StoreError> {
    let before = pinned(tx, relay, handle)?;
    TABLE.put(tx, &key(tx, relay, handle), person)?;
    Ok(before.filter(|before| before != person))
}

/// Who a handle is, if that was ever said.
pub(crate) fn pinned(
    tx: &Transaction<'_>,
    relay: &RelayIdentity,
    handle: &Handle,
) -> Result<Option<PersonId>, StoreError> {
    TABLE.get(tx, &key(tx, relay, handle))
}

fn key(tx: &Transaction<'_>, relay: &RelayIdentity, handle: &Handle) -> [u8; 32] {
    TABLE.hidden(tx, &[&relay.0[..], handle.as_str().as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::within;

    #[test]
    fn the_first_word_stands() {
        let (here, there) = (RelayIdentity([1; 32]), RelayIdentity([2; 32]));
        let (ann, eve) = (PersonId([3; 32]), PersonId([4; 32]));
        let handle = |text| Handle::parse(text).expect("a handle");
        within(|tx| {
            assert_eq!(pinned(tx, &here, &handle("ann"))?, None);
            assert_eq!(pin(tx, &here, &handle("ann"), &ann)?, Pinned::New);
            assert_eq!(pin(tx, &here, &handle("ann"), &ann)?, Pinned::Same);
            assert_eq!(pin(tx, &here, &handle("ann"), &eve)?, Pinned::Other(ann));
            assert_eq!(pinned(tx, &here, &handle("ann"))?, Some(ann));
            // Another relay's ann is somebody else's business, and one person may have two handles.
            assert_eq!(pin(tx, &there, &handle("ann"), &eve)?, Pinned::New);
            assert_eq!(pin(tx, &here, &handle("ann2"), &ann)?, Pinned::New);
            assert_eq!(repin(tx, &here, &handle("ann"), &ann)?, None);
            assert_eq!(repin(tx, &here, &handle("ann"), &eve)?, Some(ann));
            assert_eq!(pin(tx, &here, &handle("ann"), &ann)?, Pinned::Other(eve));
            Ok(())
        });
    }
}
