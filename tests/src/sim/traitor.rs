//! A member who means harm, and has the relay's help, while others mend what went wrong: the relay tells it
//! alone that mailboxes are gone, so that it repairs again and again what nobody else finds broken; its
//! commits say one thing and their turns another; it moves the conversation all the time; and it leaves in
//! any mailbox and inbox again what it saw there, requests, answers and invitations to repaired places among
//! it.
//!
//! What it can say inside of the encryption is played by `client-lib/src/engine/tests/asking.rs` and
//! `hostile.rs` beside it.

use posthorn_proto::ErrorCode;
use posthorn_proto::frame::{Refusal, Request, ServerBody};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::repair::Story;
use super::scenario::move_here;
use super::siege::{abuse, forge};
use super::world::{Patch, Tamper};

/// How long it goes on once the others have nothing but it to care for, milliseconds.
pub(super) const SPITE: u64 = 3600 * 1000;

impl Story {
    /// It is at it again, if there is one.
    pub(super) fn betray(&mut self) {
        let Some(traitor) = self.traitor else { return };
        self.world.tamper = Some(lies_to(traitor, StdRng::seed_from_u64(self.rng.next_u64())));
        self.world.patch = Some(forges(traitor, StdRng::seed_from_u64(self.rng.next_u64())));
    }

    /// One more of its deeds.
    pub(super) fn spite(&mut self) {
        let Some(traitor) = self.traitor else { return };
        match self.rng.random_range(0..12) {
            0 => drop(move_here(&mut self.world, traitor, self.group)),
            1..4 => abuse(&mut self.world, &mut self.rng, traitor),
            _ => {}
        }
    }

    /// It has had enough.
    pub(super) fn make_peace(&mut self) {
        (self.world.tamper, self.world.patch) = (None, None);
        if let Some(traitor) = self.traitor {
            self.world.cut_all(traitor);
        }
    }
}

/// Some of its commits carry turns that say something else.
fn forges(traitor: usize, mut rng: StdRng) -> Patch {
    Box::new(move |device, frame| {
        if let Request::Post(post) = &mut frame.body
            && device == traitor
            && rng.random_bool(0.3)
        {
            forge(post, &mut rng);
        }
    })
}

/// For a while every mailbox that it opens is gone, and then none is.
fn lies_to(traitor: usize, mut rng: StdRng) -> Tamper {
    let mut lies = false;
    Box::new(move |device, mut frame| {
        if device != traitor {
            return vec![frame];
        }
        lies ^= rng.random_bool(0.02);
        if let ServerBody::Opened(opened) = &mut frame.body
            && lies
        {
            for one in opened {
                one.result = Err(Refusal::new(ErrorCode::MailboxUnknown, "there is no such mailbox"));
            }
        }
        vec![frame]
    })
}
