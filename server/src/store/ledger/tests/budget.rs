//! What the ledger costs in memory: the sizes that its bounds are computed from.

use crate::mailbox::Mailbox;
use crate::mailbox::log::Entry;
use crate::mailbox::readers::Active;

/// A place as small as the embedded engine's: segment, offset, length.
type Small = (std::num::NonZeroU32, u32, u32);

#[test]
fn a_retained_envelope_is_small() {
    // Post id, fingerprint, time, bytes, place.
    assert_eq!(size_of::<Entry<Small>>(), 16 + 16 + 4 + 4 + 12);
    // The log grows by quarters, and its index holds 4 bytes and a control byte at a load of at least 7/16.
    let worst = size_of::<Entry<Small>>() as f64 * 1.25 + 5.0 * 16.0 / 7.0;
    assert!(worst <= 100.0, "{worst} bytes of memory for an envelope");
}

#[test]
fn an_idle_mailbox_is_small() {
    // With two readers; map slot and schedule entry at their usual load.
    let map = (16.0 + 8.0 + 1.0) / 0.6;
    let schedule = 20.0 / 0.6;
    let bytes = size_of::<Mailbox<Small>>() as f64 + 2.0 * size_of::<Active>() as f64 + map + schedule;
    assert!(bytes <= 450.0, "{bytes} bytes of memory for a mailbox");
}
