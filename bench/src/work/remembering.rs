//! W7m: what it costs to remember posts for long. Twenty million posts at 5,000 a second, read and
//! acknowledged as they come, with all that concerns post ids as it is by default: so the envelopes are
//! soon gone and the ids must stay recognisable for 72 hours. Measures whether memory stays flat, and
//! latency with it.
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
use crate::measure::{median, quantile};
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
    for window in 0..size.windows {
        let (cost, latencies) = round(&mut contestant, size.posts, size.gap).await?;
        memory.push(contestant.host.process.memory()? as f64 / f64::from(1 << 20));
        note(&mut cpu, Kind::Posthorn, cost.cpu / size.posts as f64 * 1e5);
        for (rounds, (_, share)) in latency.iter_mut().zip(SHARES) {
            note(rounds, Kind::Posthorn, quantile(&latencies, share) / 1e3);
        }
        if window % 20 == 19 {
            eprintln!("W7m: {} posts, {:.0} MiB", (window + 1) * size.posts, memory[window]);
        }
    }
    let filled = median(memory[size.filled..size.filled + size.together].to_vec());
    let ended = median(memory[size.windows - size.together..].to_vec());
    let mut row = |figure: &str, target, value| {
        bench.table.push(Row::new("W7m", figure, target).with(Kind::Posthorn, value));
    };
    row("posts", Target::None, (size.windows * size.posts) as f64);
    row("RSS MiB once memory holds what it ever holds of ids", Target::None, filled);
    row("RSS MiB in the end", Target::AtMost(filled * FLAT), ended);
    bench.table.push(Row::new("W7m", "server CPU s / 100k messages", Target::None).rounds(&cpu));
    for (rounds, (name, _)) in latency.iter().zip(SHARES) {
        let figure = format!("latency {name} ms, of the windows");
        bench.table.push(Row::new("W7m", figure, Target::None).rounds(rounds));
    }
    Ok(())
}
