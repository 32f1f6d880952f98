//! Drills: a conversation moves, or its relay goes back to yesterday's copy, while three people talk all the
//! while, and relay and people are killed in the middle of it. Everything is real: the relay, and each
//! person, are processes. `cargo xtask drill` runs them.
//!
//! Reading guide: [`stage`] has the relay and the people, and compares what they have in the end; [`moves`]
//! is the members' choice of another mailbox, [`restore`] the operator's worst day. Each drill judges by the
//! same rule: everybody has everything that anybody said, once.

pub mod moves;
pub mod restore;
pub mod stage;

use stage::Programs;

use crate::faults::Tally;

/// Runs the drills whose name contains this, at the same time: a restored relay is mostly waited for.
pub async fn run(programs: &Programs, name: &str, tally: &mut Tally) {
    let moves = async { if "move".contains(name) { Some(moves::run(programs).await) } else { None } };
    let restore = async { if "restore".contains(name) { Some(restore::run(programs).await) } else { None } };
    let (moves, restore) = tokio::join!(moves, restore);
    for (name, result) in [("move", moves), ("restore", restore)] {
        if let Some(result) = result {
            tally.count(name, result);
        }
    }
}
