//! A relay that lies (C4): every lie that it can tell about deliveries is noticed, with its cause.

use posthorn_client::conversation::{Cause, GroupId};
use posthorn_proto::frame::{Delivery, ServerBody, ServerFrame};
use posthorn_proto::{KeyHash, ReaderId};

use super::scenario::{add, people, start};
use super::world::World;

/// A lie, and what it must be called. Told to bob about what alice posts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// An envelope is left out, and the later ones keep their seqs.
    Drop,
    /// An envelope is left out, and the later ones move up.
    DropAndRenumber,
    /// Two envelopes change places.
    Swap,
    /// One bit of an envelope is turned.
    Tamper,
    /// An envelope comes again as the next one.
    Replay,
    /// An envelope that was read comes again with other content.
    Rewrite,
    /// A commit comes without its turn.
    StripTurn,
    /// A commit's turn names another key.
    ForgeKey,
    /// A commit's turn admits a reader more.
    ForgeReader,
    /// The turn of the reader's own commit names another key.
    ForgeOwn,
    /// A turn is put on a message.
    AddTurn,
}

/// All lies, each with the causes of which one must be alarmed.
pub const LIES: &[(Lie, &[Cause])] = &[
    (Lie::Drop, &[Cause::Gap]),
    (Lie::DropAndRenumber, &[Cause::ChainMismatch, Cause::BadPosition]),
    (Lie::Swap, &[Cause::ChainMismatch]),
    (Lie::Tamper, &[Cause::EnvelopeUnreadable, Cause::EchoDiffers]),
    (Lie::Replay, &[Cause::MessageUnreadable, Cause::RolledBack]),
    (Lie::Rewrite, &[Cause::ChainMismatch]),
    (Lie::StripTurn, &[Cause::EnvelopeUnreadable]),
    (Lie::ForgeKey, &[Cause::BadTurn]),
    (Lie::ForgeReader, &[Cause::BadTurn]),
    (Lie::ForgeOwn, &[Cause::BadTurn]),
    (Lie::AddTurn, &[Cause::BadTurn]),
];

const ALICE: usize = 0;
const BOB: usize = 1;

/// Tells a lie to bob and returns the causes of his alarms.
pub fn lie(lie: Lie, seed: u64) -> Result<Vec<Cause>, String> {
    let mut world = World::new(seed);
    people(&mut world, &["alice", "bob", "carol"])?;
    let conversation = start(&mut world, "", &["bob"])?;
    world.tamper = Some(tamper(lie));
    for text in ["one", "two", "three", "four"] {
        say(&mut world, ALICE, conversation, text)?;
    }
    let adds = if lie == Lie::ForgeOwn { BOB } else { ALICE };
    add(&mut world, adds, conversation, "carol");
    run(&mut world);
    for text in ["five", "six"] {
        say(&mut world, ALICE, conversation, text)?;
    }
    let causes = world.devices[BOB].alarms.iter().map(|(_, cause, _)| *cause).collect();
    Ok(causes)
}

fn say(world: &mut World, device: usize, conversation: GroupId, text: &str) -> Result<(), String> {
    super::scenario::say(world, device, conversation, text)?;
    run(world);
    Ok(())
}

fn run(world: &mut World) {
    for _ in 0..300 {
        world.step();
    }
}

/// Changes what bob is told of his conversation. Deliveries to inboxes carry sealed bytes of other lengths
/// and come before.
fn tamper(lie: Lie) -> super::world::Tamper {
    let mut messages = 0;
    let mut held: Option<Delivery> = None;
    let mut told = false;
    Box::new(move |device, frame| {
        let ServerBody::Delivery(delivery) = &frame.body else { return vec![frame] };
        if device != BOB {
            return vec![frame];
        }
        let mut delivery = delivery.clone();
        messages += u32::from(delivery.turn.is_none());
        let second = messages == 2 && delivery.turn.is_none();
        let push = |delivery: Delivery| ServerFrame::push(ServerBody::Delivery(delivery));
        match lie {
            Lie::Drop if second && !told => {
                told = true;
                vec![]
            }
            Lie::DropAndRenumber => {
                if second && !told {
                    told = true;
                    return vec![];
                }
                delivery.seq -= u64::from(told);
                vec![push(delivery)]
            }
            Lie::Swap => match (second && !told, held.take()) {
                (true, _) => {
                    told = true;
                    held = Some(delivery);
                    vec![]
                }
                (false, Some(mut earlier)) => {
                    std::mem::swap(&mut earlier.seq, &mut delivery.seq);
                    vec![push(delivery), push(earlier)]
                }
                (false, None) => vec![push(delivery)],
            },
            Lie::Tamper if second => {
                let mut bytes = delivery.envelope.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                delivery.envelope = bytes.into();
                vec![push(delivery)]
            }
            Lie::Replay if second && !told => {
                told = true;
                let mut again = delivery.clone();
                again.seq += 1;
                vec![push(delivery), push(again)]
            }
            Lie::Rewrite if second => {
                let mut again = delivery.clone();
                again.envelope = vec![7; 256].into();
                vec![push(delivery), push(again)]
            }
            Lie::StripTurn => {
                delivery.turn = None;
                vec![push(delivery)]
            }
            Lie::ForgeKey | Lie::ForgeReader | Lie::ForgeOwn
                if delivery.turn.is_some() && !(lie == Lie::ForgeOwn && told) =>
            {
                told = true;
                if let Some(turn) = &mut delivery.turn {
                    match lie {
                        Lie::ForgeKey | Lie::ForgeOwn => turn.post_key_hash = KeyHash([9; 32]),
                        _ => turn.evict.push(ReaderId([9; 16])),
                    }
                }
                vec![push(delivery)]
            }
            Lie::AddTurn if second => {
                delivery.turn = Some(posthorn_proto::Turn {
                    post_key_hash: KeyHash([1; 32]),
                    turn_key_hash: KeyHash([2; 32]),
                    admit: vec![],
                    evict: vec![],
                });
                vec![push(delivery)]
            }
            _ => vec![frame],
        }
    })
}
