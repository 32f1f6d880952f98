//! The table that comes out: one row for each figure, one column for each server, a target, and whether it
//! was met.
//!
//! Owns the form; says nothing about what the figures mean.

use std::collections::BTreeMap;

use crate::host::Kind;

/// How a figure is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// Posthorn's figure is at most this many times that of another column.
    Times(f64, Kind),
    /// Posthorn's figure is at least this many times that of another column.
    Share(f64, Kind),
    AtMost(f64),
    AtLeast(f64),
    /// There is no target.
    None,
}

/// One figure of all servers.
#[derive(Debug)]
pub(crate) struct Row {
    workload: &'static str,
    figure: String,
    target: Target,
    values: BTreeMap<Kind, f64>,
    /// The median of the rounds' own ratios if there were rounds, else the ratio of the values.
    ratio: Option<f64>,
    /// Why a server was not run.
    reasons: BTreeMap<Kind, String>,
}

impl Row {
    pub(crate) fn new(workload: &'static str, figure: impl Into<String>, target: Target) -> Self {
        let (values, reasons) = (BTreeMap::new(), BTreeMap::new());
        Self { workload, figure: figure.into(), target, values, ratio: None, reasons }
    }

    pub(crate) fn with(mut self, kind: Kind, value: f64) -> Self {
        self.set(kind, value);
        self
    }

    pub(crate) fn set(&mut self, kind: Kind, value: f64) {
        self.values.insert(kind, value);
    }

    /// Adds the values of all servers, and the ratio to the target's column, from rounds in which the servers
    /// took turns.
    pub(crate) fn rounds(mut self, rounds: &BTreeMap<Kind, Vec<f64>>) -> Self {
        for (kind, values) in rounds {
            self.values.insert(*kind, crate::measure::median(values.clone()));
        }
        if let Target::Times(_, base) | Target::Share(_, base) = self.target
            && let (Some(base), Some(own)) = (rounds.get(&base), rounds.get(&Kind::Posthorn))
        {
            let ratios = own.iter().zip(base).map(|(own, base)| own / base).collect();
            self.ratio = Some(crate::measure::median(ratios));
        }
        self
    }

    fn ratio(&self) -> Option<f64> {
        let (Target::Times(_, base) | Target::Share(_, base)) = self.target else { return None };
        self.ratio.or_else(|| Some(self.values.get(&Kind::Posthorn)? / self.values.get(&base)?))
    }

    /// Whether the target is met; `None` if there is none.
    fn met(&self) -> Option<bool> {
        let own = self.values.get(&Kind::Posthorn).copied().unwrap_or(f64::NAN);
        match self.target {
            Target::Times(most, _) => Some(self.ratio().unwrap_or(f64::NAN) <= most),
            Target::Share(least, _) => Some(self.ratio().unwrap_or(f64::NAN) >= least),
            Target::AtMost(most) => Some(own <= most),
            Target::AtLeast(least) => Some(own >= least),
            Target::None => None,
        }
    }

    fn cells(&self, kinds: &[Kind]) -> Vec<String> {
        let mut cells = vec![self.workload.to_owned(), self.figure.clone()];
        for kind in kinds {
            cells.push(match (self.values.get(kind), self.reasons.contains_key(kind)) {
                (Some(value), _) => shown(*value),
                (None, true) => "not run".to_owned(),
                (None, false) => "-".to_owned(),
            });
        }
        cells.push(self.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
        cells.push(match self.target {
            Target::Times(most, base) => format!("<= {most:.2} x {}", base.name()),
            Target::Share(least, base) => format!(">= {least:.2} x {}", base.name()),
            Target::AtMost(most) => format!("<= {}", shown(most)),
            Target::AtLeast(least) => format!(">= {}", shown(least)),
            Target::None => String::new(),
        });
        cells.push(match self.met() {
            Some(true) => "met".to_owned(),
            Some(false) => "MISSED".to_owned(),
            None => String::new(),
        });
        cells
    }
}

fn shown(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "?".to_owned(),
        size if size >= 100.0 => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (at, digit) in digits.chars().enumerate() {
                let left = digits.len() - at;
                if at > 0 && left % 3 == 0 && !grouped.ends_with('-') {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// All rows of a run.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    /// Workloads that failed, and why.
    failures: Vec<String>,
    /// Why a server is not in a workload's rows.
    not_run: Vec<(&'static str, Kind, String)>,
}

impl Table {
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Notes that a workload could not be finished, which counts as a miss.
    pub(crate) fn failed(&mut self, workload: &str, error: &anyhow::Error) {
        self.failures.push(format!("{workload}: {error:#}"));
    }

    /// Notes that a server did not take part in a workload.
    pub(crate) fn not_run(&mut self, workload: &'static str, kind: Kind, reason: impl Into<String>) {
        self.not_run.push((workload, kind, reason.into()));
    }

    /// Whether no target was missed and no workload failed.
    pub(crate) fn is_met(&self) -> bool {
        self.failures.is_empty() && self.rows.iter().all(|row| row.met() != Some(false))
    }

    /// The table as Markdown, with columns for `kinds`, and what could not be run.
    pub(crate) fn print(mut self, kinds: &[Kind]) -> String {
        for (workload, kind, reason) in &self.not_run {
            for row in self.rows.iter_mut().filter(|row| row.workload == *workload) {
                row.reasons.insert(*kind, reason.clone());
            }
        }
        let mut lines = vec![vec!["workload".to_owned(), "figure".to_owned()]];
        lines[0].extend(kinds.iter().map(|kind| kind.name().to_owned()));
        lines[0].extend(["ratio", "target", ""].map(str::to_owned));
        lines.extend(self.rows.iter().map(|row| row.cells(kinds)));
        let columns = lines[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
                // Words to the left, figures to the right.
                let words = at < 2 || at + 2 >= columns;
                let cell = if words { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
                text.push_str(&format!("| {cell} "));
            }
            text.push_str("|\n");
            if number == 0 {
                text.extend(widths.iter().map(|width| format!("|{}", "-".repeat(width + 2))));
                text.push_str("|\n");
            }
        }
        for (workload, kind, reason) in &self.not_run {
            text.push_str(&format!("not run: {} in {workload}: {reason}\n", kind.name()));
        }
        for failure in &self.failures {
            text.push_str(&format!("FAILED: {failure}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_judged() {
        let row = |target| Row::new("W", "f", target).with(Kind::LimitWal, 2.0).with(Kind::Posthorn, 3.0);
        assert_eq!(row(Target::Times(1.5, Kind::LimitWal)).met(), Some(true));
        assert_eq!(row(Target::Times(1.4, Kind::LimitWal)).met(), Some(false));
        assert_eq!(
            row(Target::Times(9.0, Kind::LimitMem)).met(),
            Some(false),
            "nothing to compare with is a miss"
        );
        assert_eq!(row(Target::Share(1.5, Kind::LimitWal)).met(), Some(true));
        assert_eq!(row(Target::Share(1.6, Kind::LimitWal)).met(), Some(false));
        assert_eq!(row(Target::AtMost(3.0)).met(), Some(true));
        assert_eq!(row(Target::AtLeast(3.1)).met(), Some(false));
        assert_eq!(row(Target::None).met(), None);
        assert_eq!(Row::new("W", "f", Target::AtMost(1.0)).met(), Some(false), "not measured is a miss");
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds() {
        let rounds =
            BTreeMap::from([(Kind::LimitWal, vec![1.0, 2.0, 4.0]), (Kind::Posthorn, vec![1.0, 4.0, 4.0])]);
        let row = Row::new("W", "f", Target::Times(1.0, Kind::LimitWal)).rounds(&rounds);
        assert_eq!(row.ratio(), Some(1.0));
        assert_eq!(row.values[&Kind::Posthorn], 4.0);
    }

    #[test]
    fn a_table() {
        let mut table = Table::default();
        table.push(Row::new("W1", "messages/s", Target::AtLeast(100_000.0)).with(Kind::Posthorn, 123_456.7));
        table.not_run("W1", Kind::Nats, "not installed");
        assert!(table.is_met());
        let text = table.print(&[Kind::Nats, Kind::Posthorn]);
        assert!(text.contains("| W1       | messages/s | not run |  123,457 |"), "{text}");
        assert!(text.contains("| met"), "{text}");
        let mut table = Table::default();
        table.failed("W2", &anyhow::anyhow!("no"));
        assert!(!table.is_met());
    }

    #[test]
    fn figures_of_all_sizes() {
        assert_eq!(
            [0.1234, 9.999, 10.04, 1234.5, 1_234_567.0].map(shown),
            ["0.12", "10.00", "10.0", "1,234", "1,234,567"]
        );
    }
}
