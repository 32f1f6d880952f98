//! Buffers of messages, used again.
//!
//! An envelope of a standard length is just too long for the part of the system's allocator that is quick, so
//! making and freeing a buffer for each message cost more than copying it. Each thread keeps a few that
//! nobody uses. A buffer goes to the thread where the last part of its message was dropped.

use std::cell::RefCell;

use bytes::Bytes;

/// The lengths of buffers that are kept: shorter ones are cheap to make, and longer ones rare.
const KEPT: std::ops::RangeInclusive<usize> = 1024..=8192;
/// Most buffers that a thread keeps.
const MOST: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer for a message of which all bytes have come. It has at most twice the room, so that
/// messages take at most twice what is charged for them.
pub(super) fn buffer(len: usize) -> Vec<u8> {
    let spare = if KEPT.contains(&len) { SPARE.with_borrow_mut(Vec::pop) } else { None };
    match spare {
        Some(spare) if (len..=2 * len).contains(&spare.capacity()) => spare,
        _ => Vec::with_capacity(len),
    }
}

/// A message, whose buffer is used again once nobody holds any part of it.
pub(super) fn message(bytes: Vec<u8>) -> Bytes {
    if KEPT.contains(&bytes.capacity()) { Bytes::from_owner(Recycled(bytes)) } else { bytes.into() }
}

struct Recycled(Vec<u8>);

impl AsRef<[u8]> for Recycled {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Recycled {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        // A thread that is ending keeps nothing.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(len: usize, byte: u8) -> Bytes {
        let mut bytes = buffer(len);
        bytes.resize(len, byte);
        message(bytes)
    }

    #[test]
    fn a_buffer_is_used_again_when_nobody_holds_its_message() {
        let one = filled(1100, 1);
        let (at, part) = (one.as_ptr(), one.slice(500..));
        drop(one);
        let two = filled(1100, 2);
        assert!(two.as_ptr() != at && part.iter().all(|byte| *byte == 1), "a part of it is still held");
        drop(part);
        let three = filled(1050, 3);
        assert_eq!((three.as_ptr(), three.len()), (at, 1050));
        assert!(three.iter().all(|byte| *byte == 3));
        assert!(two.iter().all(|byte| *byte == 2));
    }

    #[test]
    fn little_is_kept_and_none_is_far_too_long() {
        drop((0..100).map(|_| filled(8192, 1)).collect::<Vec<_>>());
        assert_eq!(SPARE.with_borrow(Vec::len), MOST);
        assert!(buffer(1024).capacity() < 2048, "of the others");
        drop([filled(10, 1), filled(100_000, 1)]);
        assert!(SPARE.with_borrow(|spare| spare.iter().all(|buffer| KEPT.contains(&buffer.capacity()))));
    }
}
