//! The newest entries, as they came: a file that is appended to and synced, and read only by a start.
//!
//! ```text
//! "posthorn recent1", salt 16
//! batches: crc32c u32 of the rest of the batch; number of its entries u32; what a slice of everything so far
//!   would say of itself (24 bytes); entries of 40 bytes
//! ```
//! Numbers are little-endian. What follows a batch that is not whole was never durable.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::super::journal::disk::{Disk, DiskFile};
use super::slice::{Header, UNFINISHED, begin, damaged, entry, put_entry};
use super::{ENTRY, Key, Known, Recent, Salt};

/// What the names of logs end in.
pub(super) const END: &str = ".log";

const LABEL: &[u8; 16] = b"posthorn recent1";
/// Length of label and salt.
const BEGIN: usize = 32;
/// Bytes of a batch before its entries: check, length, header.
const BEFORE: usize = 4 + 4 + HEADER;
const HEADER: usize = 8 + 4 * 4;

/// The name of a log.
pub(super) fn name(number: u64) -> String {
    format!("{number:010}{END}")
}

/// A log that is written to.
pub(super) struct Log {
    file: Arc<dyn DiskFile>,
    end: u64,
}

impl Log {
    /// Begins one that says all this, durably, in place of what an earlier one says.
    pub(super) fn create(
        disk: &dyn Disk,
        number: u64,
        salt: &Salt,
        entries: &BTreeMap<Key, Known>,
        header: &Header,
    ) -> io::Result<Self> {
        let unfinished = format!("{number:010}{UNFINISHED}");
        let file = begin(disk, &unfinished)?;
        file.write_at(&[&LABEL[..], salt].concat(), 0)?;
        let mut log = Self { file, end: BEGIN as u64 };
        let entries: Vec<(Key, Known)> = entries.iter().map(|(key, known)| (*key, *known)).collect();
        log.append(&entries, header)?;
        disk.rename(&unfinished, &name(number))?;
        disk.sync_dir()?;
        Ok(log)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Appends entries, durably.
    pub(super) fn append(&mut self, entries: &[(Key, Known)], header: &Header) -> io::Result<()> {
        let mut batch = vec![0; 4];
        batch.extend_from_slice(&u32::try_from(entries.len()).unwrap_or(u32::MAX).to_le_bytes());
        header.put(&mut batch);
        for (key, known) in entries {
            put_entry(&mut batch, key, known);
        }
        let crc = crc32c::crc32c(&batch[4..]);
        batch[..4].copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(&batch, self.end)?;
        self.file.sync()?;
        self.end += batch.len() as u64;
        Ok(())
    }

    /// What a log says that was left, and its length in bytes; `None` if there is none.
    pub(super) fn read(disk: &dyn Disk, number: u64) -> io::Result<Option<(Recent, u64)>> {
        let file = match disk.open(&name(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let len = file.len()?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| damaged("it is too long"))?];
        file.read_at(&mut bytes, 0)?;
        let begin = bytes.split_at_checked(BEGIN).and_then(|(begin, batches)| {
            let (salt, _) = begin.strip_prefix(LABEL)?.split_first_chunk()?;
            Some((*salt, batches))
        });
        let (salt, mut rest) = begin.ok_or_else(|| damaged("it is no log of this version"))?;
        let mut recent = Recent { salt, ..Recent::default() };
        while let Some((header, entries, behind)) = batch(rest) {
            recent.entries.extend(entries.chunks(ENTRY).filter_map(entry));
            (recent.header, rest) = (header, behind);
        }
        Ok(Some((recent, len)))
    }
}

/// The first batch: its header, its entries, and what is behind it; `None` if there is no whole one.
fn batch(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let (crc, rest) = bytes.split_first_chunk()?;
    let (count, _) = rest.split_first_chunk()?;
    let len = (u32::from_le_bytes(*count) as usize).checked_mul(ENTRY)?.checked_add(BEFORE)?;
    let (batch, behind) = bytes.split_at_checked(len)?;
    if crc32c::crc32c(&batch[4..]) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (mut header, entries) = batch[8..].split_at(HEADER);
    Some((Header::take(&mut header)?, entries, behind))
}
