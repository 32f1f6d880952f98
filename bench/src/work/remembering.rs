//! W7m: what it costs to remember posts for long. Twenty million posts at 5,000 a second, read and
//! acknowledged as they come, with all that concerns post ids as it is by default: so the envelopes are
//! soon gone and the ids must stay recognisable for 72 hours. Measures whether memory stays flat, and
//! latency with it. Memory is looked at twice a second, because a checkpoint takes some while it is written:
//! the lowest tenth is what there is between two, the highest what there is during one.
//!
//! The relay keeps ids of the last minutes in memory, and all others on disk. In the quick size these minutes
//! are one minute, and a second has 20,000 posts, so that as many ids as memory ever holds pass through it
//! twice.

use std::time::Duration;

use super::Bench;
use super::arena::{Contestant, Rounds, note};
use super::paced::{GAP, SHARES, connect, round};
use super::saturated::PAIRS;
use crate::host::{Host, Kind, Programs};
use crate::measure::quantile;
use crate::setup;
use crate::table::{Row, Target};

/// Memory in the end may be this many times what it was when it had been filled for the first time.
const FLAT: f64 = 1.1;

/// How much is posted.
struct Size {
    /// Windows, and how many posts each has.
    windows: usize,
    posts: usize,
    gap: Duration,
    /// From this window on, ids leave memory as fast as they come.
    filled: usize,
    /// How many windows' memory is taken together.
    together: usize,
    settings: Vec<&'static str>,
}

impl Size {
    fn of(bench: &Bench) -> Self {
        if bench.quick {
            let settings = vec!["store.post_id_fresh_seconds=60"];
            let gap = Duration::from_micros(50);
            Self { windows: 12, posts: 200_000, gap, filled: 7, together: 2, settings }
        } else {
            let settings = Vec::new();
            Self { windows: 201, posts: 100_000, gap: GAP, filled: 20, together: 20, settings }
        }
    }
}

pub(super) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let size = Size::of(bench);
    let programs = Programs { settings: size.settings.clone(), ..bench.programs.clone() };
    let mut host = Host::start(Kind::Posthorn, &programs).await?;
    host.mailboxes = setup::mailboxes(&host, PAIRS, 1).await?;
    let mut contestant = Contestant { load: connect(&host).await?, host };
    let (mut memory, mut cpu) = (Vec::new(), Rounds::new());
    let mut latency = [(); 3].map(|()| Rounds::new());
    let watch = contestant.host.process.watch();
    for window in 0..size.windows {
        let work = round(&mut contestant, size.posts, size.gap);
        let ((cost, latencies), seen) = watch.during(work).await?;
        memory.push(seen);
        note(&mut cpu, Kind::Posthorn, cost.cpu / size.posts as f64 * 1e5);
        for (rounds, (_, share)) in latency.iter_mut().zip(SHARES) {
            note(rounds, Kind::Posthorn, quantile(&latencies, share) / 1e3);
        }
        if window % 20 == 19 {
            let [low, high] = extremes(&memory[window + 1 - size.together..=window]);
            eprintln!("W7m: {} posts, {low:.0} to {high:.0} MiB", (window + 1) * size.posts);
        }
    }
    let filled = extremes(&memory[size.filled..size.filled + size.together]);
    let ended = extremes(&memory[size.windows - size.together..]);
    let mut row = |figure: &str, target, value| {
        bench.table.push(Row::new("W7m", figure, target).with(Kind::Posthorn, value));
    };
    row("posts", Target::None, (size.windows * size.posts) as f64);
    for (at, when) in ["between checkpoints", "during a checkpoint"].into_iter().enumerate() {
        let full = "once memory holds what it ever holds of ids";
        row(&format!("RSS MiB {when}, {full}"), Target::None, filled[at]);
        row(&format!("RSS MiB {when}, in the end"), Target::AtMost(filled[at] * FLAT), ended[at]);
    }
    bench.table.push(Row::new("W7m", "server CPU s / 100k messages", Target::None).rounds(&cpu));
    for (rounds, (name, _)) in latency.iter().zip(SHARES) {
        let figure = format!("latency {name} ms, of the windows");
        bench.table.push(Row::new("W7m", figure, Target::None).rounds(rounds));
    }
    Ok(())
}

/// The lowest tenth, and the highest, of what was seen in these windows.
fn extremes(windows: &[Vec<f64>]) -> [f64; 2] {
    let mut all = windows.concat();
    all.sort_by(f64::total_cmp);
    [all.get(all.len() / 10), all.last()].map(|value| value.copied().unwrap_or(f64::NAN))
}
