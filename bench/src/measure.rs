//! What a stretch of work cost a server.

use std::time::Instant;

use crate::clock;
use crate::host::Host;

/// The counters of a server at the beginning of a stretch.
pub(crate) struct Meter {
    begun: Instant,
    cpu: f64,
    written: u64,
    writes: u64,
}

/// What a stretch took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Real time, seconds.
    pub(crate) seconds: f64,
    /// The server's processor time, seconds.
    pub(crate) cpu: f64,
    /// Bytes that the server caused to be written to disk.
    pub(crate) written: u64,
    /// Its calls of the system that write, whatever to.
    pub(crate) writes: u64,
}

impl Meter {
    pub(crate) fn start(host: &Host) -> anyhow::Result<Self> {
        let (cpu, written, writes) = (host.process.cpu()?, host.process.written()?, host.process.writes()?);
        Ok(Self { cpu, written, writes, begun: clock::now() })
    }

    pub(crate) fn stop(&self, host: &Host) -> anyhow::Result<Cost> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let written = host.process.written()?.saturating_sub(self.written);
        let writes = host.process.writes()?.saturating_sub(self.writes);
        Ok(Cost { seconds, cpu: host.process.cpu()? - self.cpu, written, writes })
    }
}

/// The middle value; of two in the middle, their mean.
pub(crate) fn median(mut of: Vec<f64>) -> f64 {
    if of.is_empty() {
        return f64::NAN;
    }
    of.sort_by(f64::total_cmp);
    (of[(of.len() - 1) / 2] + of[of.len() / 2]) / 2.0
}

/// The value below which this share of the sorted values lies.
pub(crate) fn quantile(sorted: &[u32], share: f64) -> f64 {
    match sorted {
        [] => f64::NAN,
        _ => f64::from(sorted[((sorted.len() - 1) as f64 * share).round() as usize]),
    }
}

/// How long one `fdatasync` of a small append takes in the folder where servers put their data: the median,
/// in seconds.
pub(crate) fn sync_seconds() -> anyhow::Result<f64> {
    use std::io::Write as _;
    let folder = tempfile::Builder::new().prefix("bench").tempdir()?;
    let mut file = std::fs::File::create_new(folder.path().join("sync"))?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20)?;
    let mut took = Vec::new();
    for _ in 0..200 {
        file.write_all(&[7; 1200])?;
        let begun = clock::now();
        file.sync_data()?;
        took.push(begun.elapsed().as_secs_f64());
    }
    Ok(median(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
        assert_eq!(quantile(&[1, 2, 3, 4, 100], 0.5), 3.0);
        assert_eq!(quantile(&[1, 2, 3, 4, 100], 1.0), 100.0);
    }
}
