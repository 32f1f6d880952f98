//! What the fuzz targets `record` and `segment`, and the replays of their corpora, do with an input.

use bytes::Bytes;

use super::embedded::journal;
use super::ledger::Record;

/// Whether the bytes are a record of the journal. Panics if they are a second encoding of one.
#[doc(hidden)]
pub fn record(bytes: &[u8]) -> bool {
    let Ok(record) = Record::decode(Bytes::copy_from_slice(bytes)) else { return false };
    let mut again = Vec::new();
    record.encode(&mut again);
    assert_eq!(again, bytes, "an accepted record is exactly its encoding");
    true
}

/// Damages a segment of the journal as the bytes say, and returns how many of its records can still be read.
/// Panics if one is read that was never written.
#[doc(hidden)]
pub fn segment(edits: &[u8]) -> usize {
    journal::survey(edits)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::ledger::tests::format::samples;
    use super::*;

    fn folder(target: &str) -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus")).join(target)
    }

    fn corpus(target: &str, seeds: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        if std::env::var_os("POSTHORN_CORPUS").is_some() {
            for (number, seed) in seeds.iter().enumerate() {
                std::fs::write(folder(target).join(number.to_string()), seed).expect("written");
            }
        }
        let entries = std::fs::read_dir(folder(target)).expect("the corpus is checked in");
        entries.map(|entry| std::fs::read(entry.expect("entry").path()).expect("readable")).collect()
    }

    fn sample_edits() -> Vec<Vec<u8>> {
        let overwrite_a_header = vec![0, 72, 0xfc, 0, 1, 0, 0xfc, 0xff];
        let flip_a_payload = vec![0, 200, 1, 1, 2, 0, 1, 0x80];
        let cut_and_repeat = vec![2, 0, 2, 0, 0, 72, 3, 255];
        vec![vec![], overwrite_a_header, flip_a_payload, cut_and_repeat]
    }

    /// An input as it is, and cut or with one byte damaged at places spread over it.
    fn variants(input: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        (0..input.len()).step_by(input.len() / 64 + 1).flat_map(|at| {
            let mut damaged = input.to_vec();
            damaged[at] ^= 0x15;
            [input[..at].to_vec(), damaged]
        })
    }

    #[test]
    fn the_corpus_of_records_is_survived() {
        let inputs = corpus("record", samples());
        assert!(inputs.iter().filter(|input| record(input)).count() >= 15, "the corpus has records");
        inputs.iter().flat_map(|input| variants(input)).for_each(|input| {
            record(&input);
        });
    }

    #[test]
    fn the_corpus_of_segments_is_survived() {
        let inputs = corpus("segment", sample_edits());
        let (most, least) = (
            inputs.iter().map(|input| segment(input)).max(),
            inputs.iter().map(|input| segment(input)).min(),
        );
        assert!(most > least, "the corpus has harmless and harmful damage");
        inputs.iter().flat_map(|input| variants(input)).for_each(|input| {
            segment(&input);
        });
    }
}
