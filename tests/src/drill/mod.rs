//! Drills: a conversation moves while three people talk all the while, and relay and people are killed in the
//! middle of it. Everything is real: the relay, and each person, are processes. `cargo xtask drill` runs
//! them.
//!
//! Reading guide: [`stage`] has the relay and the people, and compares what they have in the end; [`moves`]
//! is the members' choice of another mailbox. Each drill judges by the same rule: everybody has everything
//! that anybody said, once.

pub mod moves;
pub mod stage;

use stage::Programs;

use crate::faults::Tally;

/// Runs the drills whose name contains this.
pub async fn run(programs: &Programs, name: &str, tally: &mut Tally) {
    if "move".contains(name) {
        tally.count("move", moves::run(programs).await);
    }
}
