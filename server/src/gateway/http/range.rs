//! Ranges of bytes in a request (RFC 9110, section 14): a single one. What is no range, or several, asks for
//! everything, as the RFC allows.

use std::ops::Range;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// All there is.
    Whole,
    /// These bytes.
    Some(Range<u64>),
    /// Bytes of which there is none.
    Beyond,
}

/// Reads a `Range` header, for something of this length, which is at least 1.
pub(super) fn asked(header: Option<&str>, length: u64) -> Asked {
    header.and_then(|header| parse(header, length)).unwrap_or(Asked::Whole)
}

fn parse(header: &str, length: u64) -> Option<Asked> {
    let (unit, set) = header.split_once('=')?;
    let (first, last) = set.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let range = match (first.is_empty(), last.is_empty()) {
        (true, true) => return None,
        (true, false) => length.saturating_sub(number(last)?)..length,
        (false, true) => number(first)?..length,
        (false, false) if number(last)? < number(first)? => return None,
        (false, false) => number(first)?..length.min(number(last)?.saturating_add(1)),
    };
    Some(if range.is_empty() { Asked::Beyond } else { Asked::Some(range) })
}

/// Digits only. What is larger than any length is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges_are_read_and_everything_else_is_everything() {
        for (header, expected) in [
            ("bytes=0-0", Asked::Some(0..1)),
            ("bytes=0-99", Asked::Some(0..100)),
            ("bytes=10-", Asked::Some(10..100)),
            ("bytes=10-1000", Asked::Some(10..100)),
            ("bytes=-1", Asked::Some(99..100)),
            ("bytes=-1000", Asked::Some(0..100)),
            ("Bytes = 5-6", Asked::Some(5..7)),
            ("bytes=0-99999999999999999999999", Asked::Some(0..100)),
            ("bytes=100-", Asked::Beyond),
            ("bytes=99999999999999999999999-", Asked::Beyond),
            ("bytes=100-200", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=6-5", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=0-1,5-6", Asked::Whole),
            ("lines=0-1", Asked::Whole),
            ("", Asked::Whole),
        ] {
            assert_eq!(asked(Some(header), 100), expected, "{header}");
        }
        assert_eq!(asked(None, 100), Asked::Whole);
    }
}
