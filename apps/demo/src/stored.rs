//! What the relay has on disk, seen with a stranger's eyes: the journal's segments read by the format that
//! `docs/storage.md` tells, and every file searched for words that must not be there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// First bytes of a segment, and sizes of the headers, from the format.
const MAGIC: &[u8] = b"PHJSEG\0\0";
const SEGMENT_HEADER: usize = 72;
const MARKER: std::ops::Range<usize> = 32..40;
const BATCH_HEADER: usize = 40;
const FRAME_HEADER: usize = 9;
/// A record of this kind is an envelope that was posted.
const POSTED: u8 = 10;

/// An envelope as the relay stored it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope {
    /// It turned the lock: among people, a change of members or keys.
    pub(super) turned: bool,
    pub(super) bytes: Vec<u8>,
}

/// Envelopes by mailbox and seq.
pub(super) type Mailboxes = BTreeMap<[u8; 16], BTreeMap<u64, Envelope>>;

/// All envelopes in the journal of a relay that does not run.
pub(super) fn envelopes(data: &Path) -> io::Result<Mailboxes> {
    let mut mailboxes = Mailboxes::new();
    for path in files(data)? {
        if path.extension().is_some_and(|extension| extension == "seg") {
            let segment = fs::read(path)?;
            for record in records(&segment) {
                if let Some((mailbox, seq, envelope)) = posted(record) {
                    mailboxes.entry(mailbox).or_default().insert(seq, envelope);
                }
            }
        }
    }
    Ok(mailboxes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

/// The records of a segment, batch after batch, as long as batches follow.
fn records(segment: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    if segment.len() < SEGMENT_HEADER || !segment.starts_with(MAGIC) {
        return records;
    }
    let marker = &segment[MARKER];
    let mut at = SEGMENT_HEADER;
    while let Some(header) = segment.get(at..at + BATCH_HEADER).filter(|header| header.starts_with(marker)) {
        let (Some(length), Some(count)) = (u32_at(header, 16), u32_at(header, 20)) else { break };
        let mut frame = at + BATCH_HEADER;
        for _ in 0..count {
            let Some(size) = u32_at(segment, frame) else { return records };
            let Some(record) = segment.get(frame + FRAME_HEADER..frame + FRAME_HEADER + size) else {
                return records;
            };
            records.push(record);
            frame += FRAME_HEADER + size;
        }
        at += (BATCH_HEADER + length).next_multiple_of(8);
    }
    records
}

/// Takes values from the front of a record.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

/// `format kind version time mailbox life seq oldest post_id fingerprint turn envelope`.
fn posted(record: &[u8]) -> Option<([u8; 16], u64, Envelope)> {
    let mut reader = Reader(record);
    if reader.bytes(2)?[1] != POSTED {
        return None;
    }
    let _version_and_time = (reader.number()?, reader.number()?);
    let mailbox = reader.bytes(16)?.try_into().ok()?;
    let _life = reader.number()?;
    let seq = reader.number()?;
    let _oldest = reader.number()?;
    let _post_id_and_fingerprint = reader.bytes(32)?;
    let turned = reader.number()? == 1;
    if turned {
        let _keys = reader.bytes(64)?;
        let admitted = usize::try_from(reader.number()?).ok()?;
        let _readers = reader.bytes(admitted.checked_mul(48)?)?;
        let evicted = usize::try_from(reader.number()?).ok()?;
        let _ids = reader.bytes(evicted.checked_mul(16)?)?;
    }
    Some((mailbox, seq, Envelope { turned, bytes: reader.0.to_vec() }))
}

/// Every file below a folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// What a search looked at and found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    pub(super) files: usize,
    pub(super) bytes: usize,
    /// Which words, and in which file.
    pub(super) found: Vec<(String, PathBuf)>,
}

impl Search {
    /// Counts another search to this one.
    pub(super) fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.found.extend(other.found);
    }
}

/// Searches every file below a folder for words of at least two bytes, as UTF-8.
pub(super) fn search<'w>(folder: &Path, words: impl Iterator<Item = &'w str> + Clone) -> io::Result<Search> {
    let mut result = Search::default();
    // Which two bytes a word begins with, so that almost every place is passed by with one look.
    let mut beginnings = vec![false; 1 << 16];
    for word in words.clone().map(str::as_bytes).filter(|word| word.len() > 1) {
        beginnings[usize::from(u16::from_be_bytes([word[0], word[1]]))] = true;
    }
    for path in files(folder)? {
        let bytes = fs::read(&path)?;
        result.files += 1;
        result.bytes += bytes.len();
        let mut there: BTreeSet<&str> = BTreeSet::new();
        for at in 0..bytes.len() {
            let rest = &bytes[at..];
            if rest.len() > 1 && beginnings[usize::from(u16::from_be_bytes([rest[0], rest[1]]))] {
                there.extend(words.clone().filter(|word| rest.starts_with(word.as_bytes())));
            }
        }
        result.found.extend(there.into_iter().map(|word| (word.to_owned(), path.clone())));
    }
    Ok(result)
}

/// Powers of two from 256 to 4,096 bytes, above that Padmé: of the length's bits, only as many may be set as
/// its logarithm's logarithm says.
pub(super) fn is_standard_length(bytes: usize) -> bool {
    if bytes <= 4096 {
        return bytes >= 256 && bytes.is_power_of_two();
    }
    let exponent = bytes.ilog2();
    let kept = exponent.ilog2() + 1;
    bytes.trailing_zeros() >= exponent - kept
}

/// How far the bytes are from evenly spread: chi-squared with 255 degrees of freedom, so about 255 for random
/// bytes and, in one of a billion cases, more than 400.
pub(super) fn unevenness<'b>(chunks: impl Iterator<Item = &'b [u8]>) -> f64 {
    let mut counts = [0u64; 256];
    chunks.flatten().for_each(|byte| counts[usize::from(*byte)] += 1);
    let expected = counts.iter().sum::<u64>() as f64 / 256.0;
    counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for standard in [256, 512, 4096, 4608, 5120, 65536] {
            assert!(is_standard_length(standard), "{standard}");
        }
        for other in [0, 255, 257, 384, 4097, 5000, 65537] {
            assert!(!is_standard_length(other), "{other}");
        }
    }

    #[test]
    fn text_is_uneven_and_every_byte_once_is_not() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unevenness([&all[..], &all[..]].into_iter()), 0.0);
        assert!(
            unevenness(["the quick brown fox jumps over the lazy dog".repeat(20).as_bytes()].into_iter())
                > 1000.0
        );
    }

    #[test]
    fn a_search_finds_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("below")).expect("a folder below");
        fs::write(folder.path().join("below/file"), "....needle in hay").expect("a file");
        let found = search(folder.path(), ["needle", "pin"].into_iter()).expect("readable");
        assert_eq!((found.files, found.bytes, found.found.len()), (1, 17, 1));
        assert_eq!(found.found[0].0, "needle");
    }

    #[test]
    fn damaged_segments_are_no_panic() {
        let mut segment = [MAGIC, &[7; 64 + 40][..]].concat();
        assert!(records(&segment).len() <= 1);
        segment.truncate(90);
        assert_eq!(records(&segment).len(), 0);
        assert_eq!(posted(&[1, POSTED, 0x80]), None);
    }
}
