//! A slice: many entries in one file, which is written once and never changed.
//!
//! ```text
//! pages of 4096 bytes, each with the crc32c of the rest in its last four
//! page 0: "posthorn past 1\n", salt 16, number of entries u64, and four times u32 (unix seconds): of the oldest
//!   and the newest id, and when it was begun and ended
//! others: 102 entries of 40 bytes each, in order of their keys; the last page is filled with zeros
//! ```
//! Numbers are little-endian. Keys are hashes, so where one lies is known to within some pages without
//! reading any other.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::super::journal::disk::{Disk, DiskFile};
use super::{ENTRY, Key, Known, Salt, gone};

/// What the names of slices end in.
pub(super) const END: &str = ".ids";
/// What the names of slices end in that are being written.
pub(super) const UNFINISHED: &str = ".tmp";

const LABEL: &[u8; 16] = b"posthorn past 1\n";
const PAGE: usize = 4096;
const PER_PAGE: usize = (PAGE - 4) / ENTRY;
/// Pages that are written at once.
const WRITTEN_AT_ONCE: usize = 64;
/// Neighbours of the page where a key should lie that are looked at one by one, before the search is halved.
const NEIGHBOURS: usize = 4;

/// What is known of a slice without reading its entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) entries: u64,
    /// When its ids were made, from the oldest to the newest, as far as they say, unix seconds.
    oldest: u32,
    newest: u32,
    /// When it was written to first and last, by the clock of post ids, unix seconds.
    pub(super) begun: u64,
    pub(super) ended: u64,
}

impl Header {
    /// Notes that ids that were made at these times came in.
    pub(super) fn note(&mut self, made: impl Iterator<Item = u64>, now: u64) {
        for made in made {
            let made = u32::try_from(made).unwrap_or(u32::MAX);
            let is_first = self.entries == 0;
            self.oldest = if is_first { made } else { self.oldest.min(made) };
            self.newest = if is_first { made } else { self.newest.max(made) };
            self.begun = if is_first { now } else { self.begun };
            self.entries += 1;
        }
        self.ended = self.ended.max(now);
    }

    /// The newest time in an id that was certainly old when it came in, as far as the header tells: ids from
    /// before they had a time may say any.
    pub(super) fn newest_old(&self) -> u64 {
        u64::from(self.newest).min(self.ended)
    }

    /// Whether an id that was made then can be in it.
    pub(super) fn covers(&self, made: u64) -> bool {
        (u64::from(self.oldest)..=u64::from(self.newest)).contains(&made)
    }

    fn pages(&self) -> u64 {
        self.entries.div_ceil(PER_PAGE as u64)
    }

    /// The length of the file.
    pub(super) fn bytes(&self) -> u64 {
        (1 + self.pages()) * PAGE as u64
    }

    /// Appends the numbers.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let small = |time: u64| u32::try_from(time).unwrap_or(u32::MAX);
        out.extend_from_slice(&self.entries.to_le_bytes());
        for number in [self.oldest, self.newest, small(self.begun), small(self.ended)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Reads what [`Header::put`] wrote.
    pub(super) fn take(input: &mut &[u8]) -> Option<Self> {
        let (entries, rest) = input.split_first_chunk()?;
        *input = rest;
        let mut small = || {
            let (number, rest) = input.split_first_chunk()?;
            *input = rest;
            Some(u32::from_le_bytes(*number))
        };
        Some(Self {
            entries: u64::from_le_bytes(*entries),
            oldest: small()?,
            newest: small()?,
            begun: small()?.into(),
            ended: small()?.into(),
        })
    }
}

/// A slice.
#[derive(Debug, Clone)]
pub(in super::super) struct Slice {
    pub(super) number: u64,
    pub(super) salt: Salt,
    pub(super) header: Header,
}

/// The name of a slice.
pub(super) fn name(number: u64) -> String {
    format!("{number:010}{END}")
}

pub(super) fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Appends an entry.
pub(super) fn put_entry(out: &mut Vec<u8>, key: &Key, (seq, fingerprint): &Known) {
    out.extend_from_slice(key);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(fingerprint);
}

/// Reads an entry of its length.
pub(super) fn entry(bytes: &[u8]) -> Option<(Key, Known)> {
    let (key, rest) = bytes.split_first_chunk()?;
    let (seq, fingerprint) = rest.split_first_chunk()?;
    Some((*key, (u64::from_le_bytes(*seq), fingerprint.try_into().ok()?)))
}

/// Fills a page and checks it.
fn end_page(out: &mut Vec<u8>) {
    let begin = (out.len() - 1) / PAGE * PAGE;
    out.resize(begin + PAGE - 4, 0);
    let crc = crc32c::crc32c(&out[begin..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

fn read_page(file: &dyn DiskFile, page: u64) -> io::Result<[u8; PAGE]> {
    let mut bytes = [0; PAGE];
    file.read_at(&mut bytes, page * PAGE as u64)?;
    let (rest, crc) = bytes.split_at(PAGE - 4);
    if crc32c::crc32c(rest).to_le_bytes() == crc { Ok(bytes) } else { Err(damaged("a page is damaged")) }
}

/// Begins a file that gets its name once it is whole, in place of what an earlier try left.
pub(super) fn begin(disk: &dyn Disk, name: &str) -> io::Result<Arc<dyn DiskFile>> {
    gone(disk.unlink(name))?;
    disk.create(name)
}

impl Slice {
    /// Writes a slice, durably.
    pub(super) fn write(
        disk: &dyn Disk,
        number: u64,
        salt: &Salt,
        entries: &BTreeMap<Key, Known>,
        header: Header,
    ) -> io::Result<Self> {
        // The same post twice, from before and after a crash, is one entry.
        let header = Header { entries: entries.len() as u64, ..header };
        let unfinished = format!("{number:010}{UNFINISHED}");
        let file = begin(disk, &unfinished)?;
        let mut out = Vec::with_capacity(WRITTEN_AT_ONCE * PAGE);
        out.extend_from_slice(LABEL);
        out.extend_from_slice(salt);
        header.put(&mut out);
        end_page(&mut out);
        let mut at = 0;
        for (count, (key, known)) in entries.iter().enumerate() {
            if count > 0 && count % PER_PAGE == 0 {
                end_page(&mut out);
                if out.len() >= WRITTEN_AT_ONCE * PAGE {
                    file.write_at(&out, at)?;
                    at += out.len() as u64;
                    out.clear();
                }
            }
            put_entry(&mut out, key, known);
        }
        if out.len() % PAGE > 0 {
            end_page(&mut out);
        }
        file.write_at(&out, at)?;
        file.sync()?;
        disk.rename(&unfinished, &name(number))?;
        disk.sync_dir()?;
        Ok(Self { number, salt: *salt, header })
    }

    /// A slice that is there.
    pub(super) fn open(disk: &dyn Disk, number: u64) -> io::Result<Self> {
        let file = disk.open(&name(number))?;
        let page = read_page(file.as_ref(), 0)?;
        let bad = || damaged("it is no slice of this version");
        let rest = page.strip_prefix(LABEL).ok_or_else(bad)?;
        let (salt, mut rest) = rest.split_first_chunk().ok_or_else(bad)?;
        let header = Header::take(&mut rest).ok_or_else(bad)?;
        if file.len()? != header.bytes() {
            return Err(damaged("it has another length than it says"));
        }
        Ok(Self { number, salt: *salt, header })
    }

    /// Looks for an entry.
    pub(super) fn find(&self, disk: &dyn Disk, key: &Key) -> io::Result<Option<Known>> {
        let file = disk.open(&name(self.number))?;
        let (mut low, mut high) = (0, self.header.pages());
        let mut at = self.place(key);
        for looked in 0.. {
            if low >= high {
                return Ok(None);
            }
            at = at.clamp(low, high - 1);
            let page = read_page(file.as_ref(), 1 + at)?;
            let first = at * PER_PAGE as u64;
            let count = usize::try_from(self.header.entries - first).unwrap_or(PER_PAGE).min(PER_PAGE);
            let found: Vec<(Key, Known)> = page[..count * ENTRY].chunks(ENTRY).filter_map(entry).collect();
            match found.binary_search_by(|(present, _)| present.cmp(key)) {
                Ok(place) => return Ok(Some(found[place].1)),
                Err(0) => high = at,
                Err(place) if place == found.len() => low = at + 1,
                Err(_) => return Ok(None),
            }
            // Else the neighbour is next.
            if looked >= NEIGHBOURS {
                at = low + high.saturating_sub(low) / 2;
            }
        }
        Ok(None)
    }

    /// The page where a key should lie.
    fn place(&self, key: &Key) -> u64 {
        let share = u64::from_be_bytes(std::array::from_fn(|at| key[at]));
        let entry = (u128::from(share) * u128::from(self.header.entries)) >> 64;
        entry as u64 / PER_PAGE as u64
    }
}
