//! Lines of standard input, each a message of its own. Of none more is kept than a message can have.

use std::io;

use posthorn_client::content::TEXT_BYTES;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Reads them.
pub(super) struct Lines<R> {
    from: R,
    line: Vec<u8>,
    /// How many came before this one.
    number: u64,
    too_long: bool,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn of(from: R) -> Self {
        Self { from, line: Vec::new(), number: 0, too_long: false }
    }

    /// The next line, or what is wrong with it; `None` if there are no more. If it is dropped, nothing is
    /// lost.
    pub(super) async fn next(&mut self) -> io::Result<Option<Result<String, String>>> {
        loop {
            let there = self.from.fill_buf().await?;
            let end = there.iter().position(|byte| *byte == b'\n');
            let part = &there[..end.unwrap_or(there.len())];
            let is_over = there.is_empty();
            // One more may be the CR of a line end.
            let room = (TEXT_BYTES + 1).saturating_sub(self.line.len());
            self.too_long |= part.len() > room;
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            let used = part.len() + usize::from(end.is_some());
            self.from.consume(used);
            if is_over && self.line.is_empty() && !self.too_long {
                return Ok(None);
            }
            if is_over || end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    /// Of the line that comes next; the first is 1.
    pub(super) fn next_number(&self) -> u64 {
        self.number + 1
    }

    fn take(&mut self) -> Result<String, String> {
        self.number += 1;
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if std::mem::take(&mut self.too_long) || line.len() > TEXT_BYTES {
            return Err(format!("line {} has more than the {TEXT_BYTES} bytes of a message", self.number));
        }
        String::from_utf8(line).map_err(|_| format!("line {} is not UTF-8", self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8], pieces: usize) -> Vec<Result<String, String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut lines = Lines::of(tokio::io::BufReader::with_capacity(pieces, input));
            let mut all = Vec::new();
            while let Some(line) = lines.next().await.expect("reads") {
                assert!(lines.line.capacity() <= 2 * (TEXT_BYTES + 1));
                all.push(line);
            }
            all
        })
    }

    #[test]
    fn lines_are_taken_one_by_one_and_bad_ones_named() {
        let long = "x".repeat(TEXT_BYTES);
        let input = [b"one\r\n\ntw\xff\n", long.as_bytes(), b"\r\n", long.as_bytes(), b"y\nlast"].concat();
        for pieces in [1, 7, 100_000] {
            let lines = all(&input, pieces);
            assert_eq!(lines[..2], [Ok("one".to_owned()), Ok(String::new())]);
            assert_eq!(lines[2], Err("line 3 is not UTF-8".to_owned()));
            assert_eq!(lines[3], Ok(long.clone()));
            assert!(lines[4].as_ref().expect_err("too long").starts_with("line 5 has more than"));
            assert_eq!(lines[5..], [Ok("last".to_owned())]);
        }
        assert_eq!(all(b"", 8), []);
        assert_eq!(all(b"\n", 8), [Ok(String::new())]);
    }

    #[test]
    fn a_line_without_end_takes_no_room() {
        let endless = vec![b'x'; 64 * TEXT_BYTES];
        let [Err(told)] = &all(&endless, 8 * 1024)[..] else { panic!("one") };
        assert!(told.starts_with("line 1 has more than"), "{told}");
    }
}
