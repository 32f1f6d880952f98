//! `cargo xtask sim --seeds N [--seed S] [--profile plain|hostile|repair|gone]`: plays the simulation for
//! many seeds. The last line is `N passed, M failed`.

use std::process::ExitCode;

use clap::Parser;
use posthorn_tests::sim::{LIES, STEPS, Scenario, gone, lie, repair, run, siege};

/// Deterministic simulation of devices, a relay, and a network on which much goes wrong.
#[derive(Parser)]
struct Args {
    /// How many seeds to play.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first seed; to replay a failure, its seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of three concurrent commits each, played once with the first seed; 0 leaves it out. 500 take
    /// some minutes.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// What is played: people while much goes wrong, a siege by all who mean harm, what does not pass by
    /// itself and is repaired, or a relay that is gone for days.
    #[arg(long, value_enum, default_value_t = Profile::Plain)]
    profile: Profile,
    /// With `--profile repair`: nobody can be asked for help, so that a seed has to fail to pass.
    #[arg(long)]
    helpless: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    Plain,
    Hostile,
    Repair,
    Gone,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (mut passed, mut failed) = (0, 0);
    let mut count = |name: String, replay: String, result: Result<String, String>| match result {
        Ok(text) => {
            passed += 1;
            println!("ok   {name}: {text}");
        }
        Err(error) => {
            failed += 1;
            println!("FAIL {name}: {error}\n     replay: {replay}");
        }
    };
    for seed in args.seed..args.seed + args.seeds {
        let replay = format!("cargo xtask sim --seeds 1 --seed {seed}");
        if args.profile == Profile::Repair {
            let result = caught(move || repair(seed, args.helpless)).map(|healed| format!("{healed:?}"));
            let result = match (args.helpless, result) {
                (true, Ok(text)) => Err(format!("it healed without help: {text}")),
                (true, Err(error)) => Ok(format!("fails as it should: {}", &error[..error.len().min(80)])),
                (false, result) => result,
            };
            count(format!("repair, seed {seed}"), format!("{replay} --profile repair"), result);
        } else if args.profile == Profile::Gone {
            let result = caught(move || gone(seed)).map(|healed| format!("{healed:?}"));
            count(format!("gone, seed {seed}"), format!("{replay} --profile gone"), result);
        } else if args.profile == Profile::Plain {
            let result = caught(move || run(Scenario::Talk, seed)).map(|report| format!("{report:?}"));
            count(format!("talk, seed {seed}"), replay, result);
        } else {
            let result = caught(move || siege(seed)).map(|report| format!("{report:?}"));
            let replay = format!("{replay} --profile hostile");
            count(format!("siege, seed {seed}"), replay.clone(), result);
            #[cfg(feature = "fuzzing")]
            {
                let result = caught(move || Ok(format!("{} bytes", posthorn_tests::sim::member(seed))));
                count(format!("member, seed {seed}"), replay, result);
            }
        }
    }
    if args.profile != Profile::Plain {
        println!("{passed} passed, {failed} failed");
        return if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    for (kind, causes) in LIES {
        let result = caught(move || lie(*kind, args.seed)).and_then(|found| {
            let noticed = found.iter().any(|cause| causes.contains(cause));
            if noticed {
                Ok(format!("{found:?}"))
            } else {
                Err(format!("expected one of {causes:?}, alarms: {found:?}"))
            }
        });
        count(format!("lie {kind:?}"), format!("cargo xtask sim --seeds 0 --seed {}", args.seed), result);
    }
    for (name, step) in STEPS {
        let result = caught(move || step(args.seed)).map(|()| "holds".to_owned());
        count(format!("rule {name}"), format!("cargo xtask sim --seeds 0 --seed {}", args.seed), result);
    }
    if args.rounds > 0 {
        let (rounds, seed) = (args.rounds, args.seed);
        let result = caught(move || run(Scenario::Commits(rounds), seed)).map(|report| format!("{report:?}"));
        let replay = format!("cargo xtask sim --seeds 0 --seed {seed} --rounds {rounds}");
        count(format!("{rounds} rounds of concurrent commits, seed {seed}"), replay, result);
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A panic is a failure like any other: it says what it says, and the next seed is played.
fn caught<T: Send + 'static>(play: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    std::thread::spawn(play).join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or("panicked".to_owned()))
    })
}
