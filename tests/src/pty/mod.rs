//! The terminal client as a person meets it: the real program in a real pseudo-terminal, with a real relay.
//! `cargo xtask pty` runs the cases.
//!
//! Reading guide: [`terminal`] is a terminal with a program in it; a [`stage`] has the relay, the people and
//! their terminals, and the steps that many cases begin with. The cases: [`walk`] is the README's walk and
//! what two people do; [`asking`] what is asked before something is done; [`beside`] other processes beside a
//! chat; [`beyond`] what else a terminal does; [`offline`] a relay that is not there; [`elsewhere`] other
//! relays; [`ending`] every way in which the program or its terminal ends; [`poor`] terminals that can do
//! less than others.
//!
//! Invariant: a case waits for what stands on a screen, never for a length of time; the exceptions are the
//! pace of typing, and hands that are kept off the keys because *that* is what is tried.

pub mod asking;
pub mod beside;
pub mod beyond;
pub mod elsewhere;
pub mod ending;
pub mod offline;
pub mod poor;
pub mod stage;
pub mod terminal;
pub mod walk;

use stage::{Programs, Stage};

use crate::faults::Tally;

/// Plays every case whose name contains `wanted`.
pub async fn run(programs: &Programs, wanted: &str, tally: &mut Tally) {
    macro_rules! cases {
        ($($case:path),* $(,)?) => {$(
            let name = stringify!($case).replace("::", ": ").replace('_', " ").replace(": ", ", ");
            if name.contains(wanted) {
                tally.count(&name, played(programs, async |stage| $case(stage).await).await);
            }
        )*};
    }
    cases!(
        walk::the_readme_from_registering_to_the_other_screen,
        walk::an_idle_chat_gets_its_first_conversation,
        walk::the_readme_shows_what_is_seen,
        walk::a_long_paste_arrives_whole,
        walk::an_invitation_is_accepted,
        walk::an_invitation_is_declined,
        walk::a_message_forges_no_line_of_another,
        walk::a_reaction_is_seen_on_the_other_screen,
        asking::leaving_is_asked_about,
        asking::a_passphrase_is_changed,
        asking::a_safety_number_is_compared_and_marked,
        beside::a_message_is_sent_beside_an_open_chat,
        beside::a_chat_beside_a_chat,
        beside::a_command_works_after_a_chat_was_killed,
        beyond::a_title_and_a_bell,
        beyond::a_quiet_chat,
        beyond::a_message_is_copied_and_its_link_can_be_opened,
        offline::what_is_begun_offline_goes_out_later,
        elsewhere::somebody_of_another_relay_is_talked_with,
        elsewhere::another_relay_goes_and_comes_back,
        elsewhere::a_relay_without_tls_is_named_first,
        elsewhere::a_conversation_that_moved_is_followed,
        poor::a_qr_code_that_does_not_fit,
        poor::a_terminal_that_answers_nothing,
        poor::a_window_that_becomes_small_and_large_again,
        poor::a_disk_that_takes_nothing,
        poor::keys_in_the_middle_of_a_resize,
        ending::the_chat_ends_by_its_key,
        ending::the_chat_ends_by_signals,
        ending::the_chat_ends_with_its_window,
        ending::the_chat_ends_with_its_window_in_the_middle_of_something,
        ending::the_chat_is_suspended_and_comes_back,
        ending::the_chat_is_not_suspended_for_nobody,
        ending::a_question_for_the_passphrase_can_be_broken_off,
        ending::listen_ends_by_its_key,
        ending::listen_ends_by_sigterm,
        ending::listen_ends_with_its_window,
        ending::a_command_that_reads_ends_at_once,
    );
}

/// Plays a case on a stage of its own. A failure shows every screen.
async fn played(
    programs: &Programs,
    case: impl AsyncFnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let begun = tokio::time::Instant::now();
    let mut stage = Stage::set(programs).await?;
    match case(&mut stage).await {
        Ok(()) => Ok(format!("{:.1} s", begun.elapsed().as_secs_f64())),
        Err(error) => Err(anyhow::anyhow!("{error:#}\n{}", stage.screens())),
    }
}
