//! What the protocols have in common: posting numbered payloads, and checking those that come.
//!
//! Owns the form of the payload. Never touches a socket.

use anyhow::ensure;

use crate::clock;

/// Length of every payload, in bytes.
pub(crate) const PAYLOAD: usize = 1024;

/// One side of a protocol on one connection. Whatever it says is appended to `out`, which leaves in one write
/// after a burst.
pub(crate) trait Speaker: Send {
    /// Says what comes first on a connection.
    fn begin(&mut self, out: &mut Vec<u8>);

    /// Posts a payload.
    fn post(&mut self, payload: &[u8], out: &mut Vec<u8>);

    /// Takes one WebSocket message.
    fn hear(&mut self, message: &[u8], out: &mut Vec<u8>, heard: &mut Heard) -> anyhow::Result<()>;

    /// Says what is to be said once after everything that came at the same time.
    fn after_burst(&mut self, _out: &mut Vec<u8>) {}

    /// Acknowledges what was delivered and is not acknowledged yet, in a protocol where that may wait.
    fn acknowledge(&mut self, _out: &mut Vec<u8>) {}
}

/// What has been heard on a connection.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Whether the beginning is over, so that posting may begin, or deliveries will come.
    pub(crate) ready: bool,
    /// How many posts were answered.
    pub(crate) answered: u64,
    /// How many payloads were delivered, which is also the number of the next one from a single source.
    pub(crate) delivered: u64,
    /// Time of each payload from post to delivery, in microseconds; only if `timed`.
    pub(crate) latencies: Vec<u32>,
    pub(crate) timed: bool,
}

impl Heard {
    /// Takes a delivered payload, which must be whole, and the next one.
    pub(crate) fn payload(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        self.payload_of(self.delivered, payload)
    }

    /// The same where there are several sources, of which each has numbers of its own.
    pub(crate) fn payload_of(&mut self, expected: u64, payload: &[u8]) -> anyhow::Result<()> {
        ensure!(payload.len() == PAYLOAD, "a payload of {} bytes", payload.len());
        let (number, time, end) = (word(payload, 0), word(payload, 8), word(payload, PAYLOAD - 8));
        ensure!(number == end, "a payload begins as number {number} and ends as {end}");
        ensure!(number == expected, "payload {number} came instead of {expected}");
        self.delivered += 1;
        if self.timed {
            self.latencies.push((clock::nanos().saturating_sub(time) / 1000) as u32);
        }
        Ok(())
    }
}

/// One of the numbers in a payload; the first is the payload's own.
pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// A payload to be numbered.
pub(crate) fn blank() -> Vec<u8> {
    // Not all the same, so that nothing on the way can take it for zeros.
    (0..PAYLOAD).map(|at| (at * 31 % 251) as u8).collect()
}

/// Makes `payload` number `number`, posted at `time` (see [`clock::nanos`]).
pub(crate) fn number(payload: &mut [u8], number: u64, time: u64) {
    let end = payload.len() - 8;
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload[8..16].copy_from_slice(&time.to_le_bytes());
    payload[end..].copy_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_come_once_in_order_and_whole() {
        let (mut heard, mut payload) = (Heard::default(), blank());
        number(&mut payload, 0, 0);
        heard.payload(&payload).expect("the first");
        assert!(heard.payload(&payload).is_err(), "repeated");
        number(&mut payload, 2, 0);
        assert!(heard.payload(&payload).is_err(), "skipped");
        number(&mut payload, 1, 0);
        assert!(heard.payload(&payload[..PAYLOAD - 1]).is_err(), "cut");
        payload[PAYLOAD - 1] ^= 1;
        assert!(heard.payload(&payload).is_err(), "changed");
        payload[PAYLOAD - 1] ^= 1;
        heard.payload(&payload).expect("the second");
        assert_eq!(heard.delivered, 2);
    }
}
