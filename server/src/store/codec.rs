//! Reading and writing the few shapes that records and checkpoint rows are made of: varints, fixed arrays,
//! counted lists.
//!
//! It owns no format: the ledger's records and rows, and the changes that records carry, say what stands
//! where. Reading never panics, and never allocates more than the input could fill.

use std::sync::Arc;

use bytes::Bytes;
use posthorn_proto::{Handle, KeyHash, Reader, ReaderId, Turn};

/// Bytes that are not what this version of the program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record of this format: {0}")]
pub(crate) struct BadRecord(pub(crate) &'static str);

/// Appends values to a buffer.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    /// A number as LEB128: seven bits to a byte, the low ones first.
    pub(crate) fn number(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    /// Bytes whose length the format fixes.
    pub(crate) fn fixed(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    /// A length, then the bytes.
    pub(crate) fn counted(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64).fixed(bytes)
    }

    /// A count, then each reader's id and key hash.
    pub(crate) fn readers(&mut self, readers: &[Reader]) -> &mut Self {
        self.number(readers.len() as u64);
        for reader in readers {
            self.fixed(reader.id).fixed(reader.key_hash);
        }
        self
    }

    /// 0, or 1 and the turn.
    pub(crate) fn turn(&mut self, turn: Option<&Turn>) -> &mut Self {
        let Some(turn) = turn else { return self.number(0) };
        self.number(1).fixed(turn.post_key_hash).fixed(turn.turn_key_hash).readers(&turn.admit);
        self.number(turn.evict.len() as u64);
        for id in &turn.evict {
            self.fixed(id);
        }
        self
    }
}

/// Takes values from the front of a buffer.
pub(crate) struct Parser {
    all: Bytes,
    /// How many bytes were taken.
    at: usize,
}

impl Parser {
    /// A parser at the front of the bytes.
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { all: bytes, at: 0 }
    }

    fn left(&self) -> &[u8] {
        self.all.get(self.at..).unwrap_or_default()
    }

    /// The next `len` bytes, without copying them.
    pub(crate) fn bytes(&mut self, len: usize) -> Result<Bytes, BadRecord> {
        if len > self.left().len() {
            return Err(BadRecord("it ends too early"));
        }
        self.at += len;
        Ok(self.all.slice(self.at - len..self.at))
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> Bytes {
        let rest = self.all.slice(self.at..);
        self.at = self.all.len();
        rest
    }

    /// A fixed array.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        let array = *self.left().first_chunk().ok_or(BadRecord("it ends too early"))?;
        self.at += N;
        Ok(array)
    }

    /// A key hash.
    pub(crate) fn key(&mut self) -> Result<KeyHash, BadRecord> {
        self.array().map(KeyHash)
    }

    /// Key hashes with their count.
    pub(crate) fn keys(&mut self) -> Result<Vec<KeyHash>, BadRecord> {
        let count = self.count(KeyHash::LEN)?;
        (0..count).map(|_| self.key()).collect()
    }

    /// A varint. Each value has exactly one form.
    pub(crate) fn number(&mut self) -> Result<u64, BadRecord> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 { Err(BadRecord("an overlong number")) } else { Ok(value) };
            }
        }
        Err(BadRecord("an overlong number"))
    }

    /// A varint that fits 32 bits.
    pub(crate) fn small(&mut self) -> Result<u32, BadRecord> {
        u32::try_from(self.number()?).map_err(|_| BadRecord("a number over 32 bits"))
    }

    /// A count of items of at least `size` bytes each, which the input is long enough to hold.
    pub(crate) fn count(&mut self, size: usize) -> Result<usize, BadRecord> {
        let count = usize::try_from(self.number()?).map_err(|_| BadRecord("a count over its input"))?;
        if count.checked_mul(size.max(1)).is_none_or(|bytes| bytes > self.left().len()) {
            return Err(BadRecord("a count over its input"));
        }
        Ok(count)
    }

    /// A flag: 0 or 1.
    pub(crate) fn flag(&mut self) -> Result<bool, BadRecord> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadRecord("a flag that is neither 0 nor 1")),
        }
    }

    /// A handle with its length.
    pub(crate) fn handle(&mut self) -> Result<Handle, BadRecord> {
        let len = self.count(1)?;
        let bytes = self.bytes(len)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| BadRecord("a handle that is not text"))?;
        Handle::parse(text).map_err(|_| BadRecord("a handle with other characters"))
    }

    /// Readers with their count.
    pub(crate) fn readers(&mut self) -> Result<Vec<Reader>, BadRecord> {
        let count = self.count(ReaderId::LEN + KeyHash::LEN)?;
        (0..count).map(|_| Ok(Reader { id: ReaderId(self.array()?), key_hash: self.key()? })).collect()
    }

    /// A turn, or none.
    pub(crate) fn turn(&mut self) -> Result<Option<Arc<Turn>>, BadRecord> {
        if !self.flag()? {
            return Ok(None);
        }
        let (post_key_hash, turn_key_hash, admit) = (self.key()?, self.key()?, self.readers()?);
        let count = self.count(ReaderId::LEN)?;
        let evict = (0..count).map(|_| self.array().map(ReaderId)).collect::<Result<_, _>>()?;
        Ok(Some(Arc::new(Turn { post_key_hash, turn_key_hash, admit, evict })))
    }

    /// Checks that nothing is left.
    pub(crate) fn end(&self) -> Result<(), BadRecord> {
        if self.left().is_empty() { Ok(()) } else { Err(BadRecord("it goes on too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            Writer(&mut out).number(value);
            let mut parser = Parser::new(out.into());
            assert_eq!(parser.number(), Ok(value));
            assert_eq!(parser.end(), Ok(()));
        }
        for bad in [
            &[0x80u8, 0][..],
            &[0x80],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert!(Parser::new(Bytes::copy_from_slice(bad)).number().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_count_over_the_input_allocates_nothing() {
        let mut out = Vec::new();
        Writer(&mut out).number(u64::MAX / 64);
        assert_eq!(Parser::new(out.into()).readers(), Err(BadRecord("a count over its input")));
    }
}
