//! Blocked people: they leave no trace (rule 25).

use crate::identity::PersonId;
use crate::store::table::Table;
use crate::store::{StoreError, Transaction};

const TABLE: Table<[u8; 32], PersonId> = Table::new("blocked");

/// Nothing more from this person.
pub(crate) fn block(tx: &Transaction<'_>, person: &PersonId) -> Result<(), StoreError> {
    TABLE.put(tx, &TABLE.hidden(tx, &person.0), person)
}

/// Whatever this person says is wanted again; whether it was not.
pub(crate) fn unblock(tx: &Transaction<'_>, person: &PersonId) -> Result<bool, StoreError> {
    TABLE.remove(tx, &TABLE.hidden(tx, &person.0))
}

/// Whether nothing from this person is wanted.
pub(crate) fn is_blocked(tx: &Transaction<'_>, person: &PersonId) -> Result<bool, StoreError> {
    Ok(TABLE.get(tx, &TABLE.hidden(tx, &person.0))?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::within;

    #[test]
    fn who_is_blocked_is_until_unblocked() {
        let (ann, eve) = (PersonId([3; 32]), PersonId([4; 32]));
        within(|tx| {
            block(tx, &eve)?;
            block(tx, &eve)?;
            assert_eq!((is_blocked(tx, &eve)?, is_blocked(tx, &ann)?), (true, false));
            assert_eq!((unblock(tx, &eve)?, unblock(tx, &eve)?), (true, false));
            assert!(!is_blocked(tx, &eve)?);
            Ok(())
        });
    }
}
