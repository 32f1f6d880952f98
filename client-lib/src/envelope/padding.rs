//! Standard lengths: powers of two from 256 bytes to 4 KiB, Padmé above (fine print, rule 24).
//!
//! Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs",
//! PoPETs 2019, section 4.2) lets a length tell at most O(log log n) bits and wastes less than 12 %.

/// The shortest standard length, in bytes.
pub const SHORTEST: usize = 256;
/// The longest standard length, in bytes; what a relay takes.
pub const LONGEST: usize = posthorn_proto::limits::ENVELOPE_BYTES;
/// Up to here lengths are powers of two.
const POWERS_END: usize = 4096;
/// Length of the length.
pub(crate) const LENGTH_BYTES: usize = 4;

/// The smallest standard length that holds `length` bytes, or `None` above [`LONGEST`].
pub fn standard_length(length: usize) -> Option<usize> {
    let padded = match length {
        0..=SHORTEST => SHORTEST,
        _ if length <= POWERS_END => length.next_power_of_two(),
        _ if length <= LONGEST => padme(length),
        _ => return None,
    };
    (padded <= LONGEST).then_some(padded)
}

/// Whether something of this length may be an envelope.
pub fn is_standard_length(length: usize) -> bool {
    standard_length(length) == Some(length)
}

/// Rounds up so that only the highest `floor(log2(floor(log2 length))) + 1` bits below the leading one may be
/// set.
fn padme(length: usize) -> usize {
    let exponent = length.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    let mask = (1usize << (exponent - kept_bits)) - 1;
    (length + mask) & !mask
}

/// `length || data || zeros`, `total` bytes in all. The caller has made sure that they fit.
pub(crate) fn pad(data: &[u8], total: usize) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("checked against LONGEST by the caller");
    let mut padded = Vec::with_capacity(total);
    padded.extend_from_slice(&length.to_be_bytes());
    padded.extend_from_slice(data);
    padded.resize(total, 0);
    padded
}

/// The data in what [`pad`] made, or `None` if the length is wrong or anything but zeros follows.
pub(crate) fn unpad(mut padded: Vec<u8>) -> Option<Vec<u8>> {
    let (length, rest) = padded.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let zeros = rest.get(length..)?;
    if zeros.iter().any(|byte| *byte != 0) {
        return None;
    }
    padded.truncate(LENGTH_BYTES + length);
    padded.drain(..LENGTH_BYTES);
    Some(padded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_few_and_known() {
        let all: Vec<usize> = (0..=LONGEST).filter(|n| is_standard_length(*n)).collect();
        assert_eq!(all.len(), 133);
        assert_eq!(all[..8], [256, 512, 1024, 2048, 4096, 4352, 4608, 4864]);
        assert_eq!(all.last(), Some(&LONGEST));
        assert_eq!(standard_length(LONGEST + 1), None);
        // The worked example of the paper: 9 bits of exponent 20 leave steps of 2^15.
        assert_eq!(padme((1 << 20) + 1), (1 << 20) + (1 << 15));
    }

    proptest! {
        #[test]
        fn padding_is_little_and_stable(length in 0..=LONGEST) {
            let padded = standard_length(length).expect("within the limit");
            prop_assert!(padded >= length);
            prop_assert!(is_standard_length(padded));
            if length > POWERS_END {
                prop_assert!((padded - length) * 100 <= length * 12);
            }
        }

        #[test]
        fn unpad_inverts_pad(data in proptest::collection::vec(any::<u8>(), 0..600), spare in 0usize..300) {
            let padded = pad(&data, data.len() + LENGTH_BYTES + spare);
            prop_assert_eq!(unpad(padded), Some(data));
        }

        #[test]
        fn unpad_survives_anything(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = unpad(bytes);
        }
    }
}
