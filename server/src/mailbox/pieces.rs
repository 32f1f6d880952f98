//! A queue in pieces of a thousand, so that neither growing nor shrinking it ever moves more than one of
//! them, however long it is. A short queue is one piece, and costs what a `VecDeque` costs.

use std::collections::VecDeque;
use std::iter::once;

use crate::store::effort::touched;

/// How many values a piece holds.
const PIECE: usize = 1024;

/// A queue.
#[derive(Debug, Clone)]
pub(crate) struct Pieces<T> {
    /// Full pieces, of which only the first may have lost some of its front.
    older: VecDeque<VecDeque<T>>,
    /// Where values are added.
    newest: VecDeque<T>,
}

impl<T> Pieces<T> {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        Self { older: VecDeque::new(), newest: VecDeque::new() }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        let older = self.older.front().map_or(0, |first| first.len() + (self.older.len() - 1) * PIECE);
        older + self.newest.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.older.is_empty() && self.newest.is_empty()
    }

    /// Which piece holds this value, and where in it. The newest piece comes after the older ones.
    fn place(&self, at: usize) -> (usize, usize) {
        let first = self.older.front().map_or(0, VecDeque::len);
        if self.older.is_empty() || at < first {
            return (0, at);
        }
        let (piece, within) = ((at - first) / PIECE + 1, (at - first) % PIECE);
        let newest = self.older.len();
        if piece <= newest { (piece, within) } else { (newest, within + (piece - newest) * PIECE) }
    }

    /// A value by its place in the queue.
    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        let (piece, within) = self.place(at);
        self.older.get(piece).unwrap_or(&self.newest).get(within)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        touched(1);
        let (piece, within) = self.place(at);
        match self.older.get_mut(piece) {
            Some(piece) => piece.get_mut(within),
            None => self.newest.get_mut(within),
        }
    }

    /// The values from this place on.
    pub(crate) fn from(&self, at: usize) -> impl Iterator<Item = &T> {
        let (piece, within) = self.place(at);
        let mut pieces = self.older.iter().chain(once(&self.newest)).skip(piece);
        let first = pieces.next().into_iter().flat_map(move |piece| piece.range(within.min(piece.len())..));
        first.chain(pieces.flatten()).inspect(|_| touched(1))
    }

    /// Adds a value behind the others.
    pub(crate) fn push(&mut self, value: T) {
        touched(1);
        if self.newest.len() == PIECE {
            self.older.push_back(std::mem::take(&mut self.newest));
        }
        if self.newest.len() == self.newest.capacity() {
            touched(self.newest.len());
            // Growing by an eighth of all, rather than doubling, keeps long queues within their budget.
            let more = (self.len() / 8).max(2).min(PIECE - self.newest.len());
            self.newest.reserve_exact(more);
        }
        self.newest.push_back(value);
    }

    /// Takes the first value out.
    pub(crate) fn pop(&mut self) -> Option<T> {
        touched(1);
        let Some(first) = self.older.front_mut() else { return self.newest.pop_front() };
        let value = first.pop_front();
        if first.is_empty() {
            self.older.pop_front();
        }
        value
    }

    /// Gives room back, after values were taken out.
    pub(crate) fn shrink(&mut self) {
        if self.older.capacity() > 4 * self.older.len() {
            self.older.shrink_to(self.older.len() * 2);
        }
        if self.older.is_empty()
            && self.newest.capacity() > 8
            && self.newest.len() < self.newest.capacity() / 4
        {
            touched(self.newest.len());
            self.newest.shrink_to(self.newest.len() * 2);
        }
    }

    /// How many values there is room for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.older.iter().chain(once(&self.newest)).map(VecDeque::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_queue() {
        let (mut pieces, mut plain, mut next) = (Pieces::new(), VecDeque::new(), 0);
        // Grows over several pieces, falls back to a part of one, and again.
        for (push, pop) in [(5, 2), (1100, 50), (3000, 3900), (40, 190), (900, 0), (2200, 3103), (1030, 6)] {
            for _ in 0..push {
                pieces.push(next);
                plain.push_back(next);
                next += 1;
            }
            for _ in 0..pop {
                assert_eq!(pieces.pop(), plain.pop_front());
                pieces.shrink();
            }
            assert_eq!((pieces.len(), pieces.is_empty()), (plain.len(), plain.is_empty()));
            for at in (0..plain.len() + 3).step_by(7).chain([0, 1023, 1024, 1025, 2048]) {
                assert_eq!(pieces.get(at), plain.get(at), "{at} of {}", plain.len());
                assert_eq!(pieces.get_mut(at).copied(), plain.get(at).copied(), "{at} of {}", plain.len());
                assert!(pieces.from(at).eq(plain.iter().skip(at)), "from {at} of {}", plain.len());
            }
            assert!(
                pieces.capacity() <= plain.len() * 4 + 2 * PIECE,
                "{} of {}",
                pieces.capacity(),
                plain.len()
            );
        }
    }
}
