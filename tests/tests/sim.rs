//! The simulation in its short form; `cargo xtask sim --seeds N` plays as many seeds as there is time for.

use posthorn_tests::sim::{LIES, STEPS, Scenario, gone, lie, repair, run};

#[test]
fn people_talk_while_much_goes_wrong() {
    for seed in 1..=4 {
        let report = run(Scenario::Talk, seed).unwrap_or_else(|error| {
            panic!("seed {seed}: {error}\nreplay: cargo xtask sim --seeds 1 --seed {seed}");
        });
        assert!(report.compared > 20, "seed {seed} compared only {} messages", report.compared);
    }
}

#[test]
fn what_does_not_pass_by_itself_heals() {
    for seed in 1..=2 {
        let healed = repair(seed, false).unwrap_or_else(|error| {
            panic!("seed {seed}: {error}\nreplay: cargo xtask sim --seeds 1 --seed {seed} --profile repair");
        });
        assert!(healed.compared > 20, "{healed:?}");
    }
}

#[test]
fn what_lives_at_a_relay_that_is_gone_goes_on_elsewhere() {
    for seed in 1..=2 {
        let healed = gone(seed).unwrap_or_else(|error| {
            panic!("seed {seed}: {error}\nreplay: cargo xtask sim --seeds 1 --seed {seed} --profile gone");
        });
        assert!(healed.compared > 20, "{healed:?}");
    }
}

/// What heals, heals because others are asked.
#[test]
fn nothing_heals_where_nobody_can_be_asked() {
    for seed in 1..=2 {
        assert!(repair(seed, true).is_err(), "seed {seed} shows nothing");
    }
}

#[test]
fn three_commit_at_once() {
    let report = run(Scenario::Commits(31), 1).unwrap_or_else(|error| panic!("{error}"));
    assert!(report.compared > 200, "{report:?}");
}

#[test]
fn every_lie_is_noticed() {
    for (kind, causes) in LIES {
        let found = lie(*kind, 1).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        let noticed = found.iter().any(|cause| causes.contains(cause));
        assert!(noticed, "{kind:?}: expected one of {causes:?}, alarms: {found:?}");
    }
}

#[test]
fn every_rule_has_a_step() {
    for (name, step) in STEPS {
        step(1).unwrap_or_else(|error| {
            panic!("rule {name}: {error}\nreplay: cargo xtask sim --seeds 0 --seed 1")
        });
    }
}
