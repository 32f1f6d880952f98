//! Steps for single rules of the design: each failed when its rule was left out of the client of
//! version 0.1 (`docs/testing.md` tells how that was tried).

use posthorn_client::conversation::{Body, Cause, ConversationState, GroupId, Notice};
use posthorn_client::engine::Command;
use posthorn_proto::MailboxId;
use posthorn_proto::frame::{ServerBody, ServerFrame};

use super::check::{consistent, history_of};
use super::scenario::{add, contact, move_here, people, remove, say, start};
use super::world::{Faults, World};

const ALICE: usize = 0;
const BOB: usize = 1;

/// A step: which rule, in words, and how it is played with a seed.
pub type Step = (&'static str, fn(u64) -> Result<(), String>);

/// All steps.
pub const STEPS: &[Step] = &[
    ("2: a message that comes twice is shown once", said_twice),
    ("3: a commit is merged when it is read, not when it is answered", answered_first),
    ("7: what is said again after a repair is not for who came later", not_for_newcomers),
    ("7: who is taken out and in again at once came no later", exchanged_is_no_newcomer),
    ("9: what does not open is recorded, and reading goes on", unreadable),
    ("10: an old copy of the database sends nothing", rolled_back),
    ("10: a copy from before an unread message of its own renews its keys", rolled_back_unread),
    ("10: a copy from before an unread commit of its own stops", rolled_back_commit),
    ("10: of two copies that run, one stops", copied),
    ("13: public inbox and mailboxes are apart", apart),
    ("14: a Welcome whose key package is gone is asked for again", key_package_gone),
    ("14: the same while much goes wrong", key_package_gone_in_a_storm),
    ("15: the last-resort key package is replaced weekly", weekly),
    ("34: a conversation moves, and who was away for weeks follows", moved),
    ("31: every leaf gets fresh keys within seven days, the founder's too", fresh_leaves),
];

fn texts(world: &mut World, device: usize, conversation: GroupId) -> Vec<String> {
    let entries = history_of(world, device, conversation);
    entries.iter().filter_map(|entry| entry.text().map(str::to_owned)).collect()
}

fn state(world: &mut World, device: usize, conversation: GroupId) -> Option<ConversationState> {
    let local = world.local(device, conversation)?;
    world.conversations(device).into_iter().find(|one| one.id == local).map(|one| one.state)
}

/// Why a conversation is suspended on a device.
fn suspended(world: &mut World, device: usize, conversation: GroupId) -> Option<Cause> {
    match state(world, device, conversation) {
        Some(ConversationState::Suspended(suspension)) => Some(suspension.cause),
        _ => None,
    }
}

fn causes(world: &World, device: usize) -> Vec<Cause> {
    world.devices[device].alarms.iter().map(|(_, cause, _)| *cause).collect()
}

fn must(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// Alice, bob, and their conversation, in which each has said something.
fn two(seed: u64) -> Result<(World, GroupId), String> {
    let mut world = World::new(seed);
    people(&mut world, &["alice", "bob"])?;
    let conversation = start(&mut world, "", &["bob"])?;
    say(&mut world, ALICE, conversation, "hello bob")?;
    say(&mut world, BOB, conversation, "hello alice")?;
    world.settle()?;
    Ok((world, conversation))
}

/// The mailbox into which a device posted last.
fn place(world: &World, device: usize) -> Result<MailboxId, String> {
    let mut posts = world.watch.posted.iter().rev();
    posts.find(|(by, ..)| *by == device).map(|(_, mailbox, _)| *mailbox).ok_or("it posted nothing".to_owned())
}

/// Changes the first delivery of a message that a device gets from now on.
fn garble(device: usize, mailbox: MailboxId) -> super::world::Tamper {
    let mut done = false;
    Box::new(move |to, frame| match &frame.body {
        ServerBody::Delivery(delivery)
            if to == device && delivery.mailbox == mailbox && delivery.turn.is_none() && !done =>
        {
            done = true;
            let mut delivery = delivery.clone();
            delivery.envelope = vec![7; delivery.envelope.len()].into();
            vec![ServerFrame::push(ServerBody::Delivery(delivery))]
        }
        _ => vec![frame],
    })
}

/// Alice does not see her own message, and makes it anew; bob has it twice.
fn said_twice(seed: u64) -> Result<(), String> {
    let (mut world, conversation) = two(seed)?;
    let mailbox = place(&world, ALICE)?;
    world.tamper = Some(garble(ALICE, mailbox));
    say(&mut world, ALICE, conversation, "once")?;
    world.run(400);
    world.settle()?;
    let sent =
        world.watch.posted.iter().filter(|(by, to, turn)| *by == ALICE && *to == mailbox && !turn).count();
    must(sent >= 3, || format!("she made it {sent} times, so that the step shows nothing"))?;
    let heard = texts(&mut world, BOB, conversation).into_iter().filter(|text| text == "once").count();
    must(heard == 1, || format!("bob has it {heard} times"))?;
    let own = texts(&mut world, ALICE, conversation).into_iter().filter(|text| text == "once").count();
    must(own == 1, || format!("alice has it {own} times"))?;
    must(causes(&world, ALICE).contains(&Cause::EchoDiffers), || "alice was not warned".to_owned())
}

/// The answer to bob's commit overtakes the commit.
fn answered_first(seed: u64) -> Result<(), String> {
    let (mut world, conversation) = two(seed)?;
    people(&mut world, &["carol"])?;
    let mailbox = place(&world, BOB)?;
    let (mut held, mut done) = (Vec::new(), false);
    world.tamper = Some(Box::new(move |to, frame| match &frame.body {
        ServerBody::Delivery(delivery)
            if to == BOB
                && delivery.mailbox == mailbox
                && (!held.is_empty() || delivery.turn.is_some())
                && !done =>
        {
            held.push(frame);
            vec![]
        }
        ServerBody::Posted { .. } if to == BOB && !held.is_empty() => {
            done = true;
            std::iter::once(frame).chain(held.drain(..)).collect()
        }
        _ => vec![frame],
    }));
    let slot = add(&mut world, BOB, conversation, "carol").ok_or("bob is not in")?;
    world.answered(BOB, &slot)?.map_err(|error| error.to_string())?;
    world.settle()?;
    say(&mut world, BOB, conversation, "welcome carol")?;
    world.settle()?;
    let unexpected = world.unexpected_alarms(&[]);
    must(unexpected.is_empty(), || format!("{unexpected:?}"))?;
    must(texts(&mut world, 2, conversation) == ["welcome carol"], || "carol is not in".to_owned())
}

/// Bob is away when alice says two things, and dave comes between them. Then the mailbox is gone: what bob
/// lacks is said again where it goes on, and everybody there reads it.
fn not_for_newcomers(seed: u64) -> Result<(), String> {
    const DAVE: usize = 2;
    let (mut world, conversation) = two(seed)?;
    people(&mut world, &["dave"])?;
    world.go_away(BOB);
    say(&mut world, ALICE, conversation, "between us")?;
    world.run(100);
    let slot = add(&mut world, ALICE, conversation, "dave").ok_or("alice is not in")?;
    world.answered(ALICE, &slot)?.map_err(|error| error.to_string())?;
    world.run(400);
    say(&mut world, ALICE, conversation, "to all")?;
    world.run(100);
    must(texts(&mut world, DAVE, conversation) == ["to all"], || "dave is not in".to_owned())?;
    world.destroy_busiest();
    world.come_back(BOB);
    let repaired = |body: &Body| matches!(body, Body::Notice(Notice::Repaired { .. }));
    let goes_on = |world: &mut World, device| {
        history_of(world, device, conversation).iter().any(|entry| repaired(&entry.body))
    };
    for _ in 0..20_000 {
        if (0..3).all(|device| goes_on(&mut world, device)) {
            break;
        }
        world.step();
    }
    world.settle()?;
    let read = [BOB, DAVE].map(|device| texts(&mut world, device, conversation));
    must(read[0].last().is_some_and(|text| text == "to all"), || format!("bob reads {:?}", read[0]))?;
    must(read[1] == ["to all"], || format!("dave reads {:?}", read[1]))
}

/// Bob is away when alice says something, and takes dave out and in again, who has read it. Then the mailbox
/// is gone: bob gets what he lacks.
fn exchanged_is_no_newcomer(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    people(&mut world, &["alice", "bob", "dave"])?;
    let conversation = start(&mut world, "", &["bob", "dave"])?;
    world.settle()?;
    world.go_away(BOB);
    say(&mut world, ALICE, conversation, "to all")?;
    world.run(400);
    for change in [remove, add] {
        let slot = change(&mut world, ALICE, conversation, "dave").ok_or("alice is not in")?;
        world.answered(ALICE, &slot)?.map_err(|error| error.to_string())?;
        world.run(400);
    }
    world.destroy_busiest();
    world.come_back(BOB);
    for _ in 0..20_000 {
        if texts(&mut world, BOB, conversation) == ["to all"] {
            return Ok(());
        }
        world.step();
    }
    Err(format!("bob reads {:?}", texts(&mut world, BOB, conversation)))
}

fn unreadable(seed: u64) -> Result<(), String> {
    let (mut world, conversation) = two(seed)?;
    let mailbox = place(&world, ALICE)?;
    world.tamper = Some(garble(BOB, mailbox));
    for text in ["one", "two", "three"] {
        say(&mut world, ALICE, conversation, text)?;
        world.run(100);
    }
    world.settle()?;
    let all = history_of(&mut world, BOB, conversation);
    let recorded = all
        .iter()
        .filter(|m| matches!(m.body, Body::Unreadable(run) if run.cause == Cause::EnvelopeUnreadable))
        .count();
    must(recorded == 1, || format!("recorded {recorded} times: {all:?}"))?;
    let texts = texts(&mut world, BOB, conversation);
    must(texts.ends_with(&["two".to_owned(), "three".to_owned()]), || format!("bob reads {texts:?}"))?;
    // The garbled envelope is in the chain: what alice saw is not what he saw.
    must(causes(&world, BOB).contains(&Cause::ChainMismatch), || "the chain went around it".to_owned())?;
    let newest = all.iter().filter_map(|message| message.seq).max().unwrap_or(0);
    let acknowledged = world.watch.acknowledged.get(&(BOB, mailbox)).copied().unwrap_or(0);
    must(acknowledged >= newest, || format!("seq {newest} is read, {acknowledged} acknowledged"))
}

/// After this, bob's database is as it was before he said and read more.
fn rolled_back(seed: u64) -> Result<(), String> {
    let (mut world, conversation) = two(seed)?;
    let mailbox = place(&world, BOB)?;
    world.devices[BOB].keep_copy();
    for text in ["one", "two"] {
        say(&mut world, BOB, conversation, text)?;
        say(&mut world, ALICE, conversation, text)?;
        world.settle()?;
    }
    let before = world.watch.posted.len();
    world.meanwhile(BOB, |bob| bob.put_back());
    // He says something before he has heard of anything.
    say(&mut world, BOB, conversation, "from the past")?;
    say(&mut world, ALICE, conversation, "three")?;
    world.settle()?;
    let sent = world.watch.posted[before..].iter().filter(|(by, to, _)| *by == BOB && *to == mailbox).count();
    must(sent == 0, || format!("bob posted {sent} times from the old copy"))?;
    let now = suspended(&mut world, BOB, conversation);
    must(now == Some(Cause::RolledBack), || format!("bob's conversation is {now:?}"))?;
    must(causes(&world, BOB).contains(&Cause::RolledBack), || "bob was not told".to_owned())?;
    // What he says is kept until a repair.
    let kept = history_of(&mut world, BOB, conversation).into_iter().any(|entry| {
        entry.text() == Some("from the past")
            && entry.state == posthorn_client::conversation::EntryState::Queued
    });
    must(kept, || "what he said is not kept".to_owned())?;
    must(causes(&world, ALICE).is_empty(), || format!("alice: {:?}", causes(&world, ALICE)))?;
    comes_back(&mut world, BOB, conversation)?;
    must(texts(&mut world, ALICE, conversation).contains(&"from the past".to_owned()), || {
        "what he kept was not said".to_owned()
    })?;
    // Somebody else can still begin something new with him: his inboxes go on.
    let anew = start(&mut world, "anew", &["bob"])?;
    say(&mut world, ALICE, anew, "hello again")?;
    world.settle()?;
    must(texts(&mut world, BOB, anew) == ["hello again"], || "bob cannot be invited any more".to_owned())
}

/// Bob says something; the relay has it, bob has not heard so, and his database is put back to before he said
/// it. Nothing but his own message lying there tells that its keys have served already.
fn rolled_back_unread(seed: u64) -> Result<(), String> {
    let (mut world, conversation) = two(seed)?;
    let mailbox = place(&world, BOB)?;
    world.devices[BOB].keep_copy();
    world.tamper = Some(deaf(BOB, mailbox));
    say(&mut world, BOB, conversation, "first")?;
    world.run(60);
    must(texts(&mut world, ALICE, conversation).contains(&"first".to_owned()), || {
        "the step shows nothing".to_owned()
    })?;
    world.tamper = None;
    let before = world.watch.posted.len();
    world.meanwhile(BOB, |bob| bob.put_back());
    say(&mut world, BOB, conversation, "second")?;
    world.settle()?;
    let first = world.watch.posted[before..].iter().find(|(by, to, _)| *by == BOB && *to == mailbox);
    must(first.is_some_and(|(.., turn)| *turn), || "bob says something before he has fresh keys".to_owned())?;
    let heard = texts(&mut world, ALICE, conversation);
    must(heard.ends_with(&["first".to_owned(), "second".to_owned()]), || format!("alice reads {heard:?}"))?;
    must(causes(&world, ALICE).is_empty(), || format!("alice: {:?}", causes(&world, ALICE)))?;
    must(causes(&world, BOB).contains(&Cause::RolledBack), || "bob was not told".to_owned())
}

/// From here on a device hears nothing of a mailbox.
fn deaf(device: usize, mailbox: MailboxId) -> super::world::Tamper {
    Box::new(move |to, frame| match &frame.body {
        ServerBody::Delivery(delivery) if to == device && delivery.mailbox == mailbox => vec![],
        _ => vec![frame],
    })
}

/// Likewise with a commit, whose secrets are gone with the newer database.
fn rolled_back_commit(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    people(&mut world, &["alice", "bob", "carol"])?;
    let conversation = start(&mut world, "", &["bob", "carol"])?;
    say(&mut world, BOB, conversation, "hello")?;
    world.settle()?;
    let mailbox = place(&world, BOB)?;
    world.devices[BOB].keep_copy();
    world.tamper = Some(deaf(BOB, mailbox));
    remove(&mut world, BOB, conversation, "carol");
    world.run(120);
    let turned = world.watch.posted.iter().any(|(by, to, turn)| *by == BOB && *to == mailbox && *turn);
    must(turned, || "he did not commit, so that the step shows nothing".to_owned())?;
    world.tamper = None;
    world.meanwhile(BOB, |bob| bob.put_back());
    say(&mut world, BOB, conversation, "from the past")?;
    world.settle()?;
    let now = suspended(&mut world, BOB, conversation);
    must(now == Some(Cause::RolledBack), || format!("bob's conversation is {now:?}"))?;
    must(!texts(&mut world, ALICE, conversation).contains(&"from the past".to_owned()), || {
        "he went on".to_owned()
    })?;
    comes_back(&mut world, BOB, conversation)?;
    must(texts(&mut world, ALICE, conversation).contains(&"from the past".to_owned()), || {
        "what he kept was not said".to_owned()
    })
}

/// The others take a device in again that has lost the thread, and it goes on under its old history.
fn comes_back(world: &mut World, device: usize, conversation: GroupId) -> Result<(), String> {
    for _ in 0..20_000 {
        if state(world, device, conversation) == Some(ConversationState::Active) {
            world.settle()?;
            let returned = |body: &Body| matches!(body, Body::Notice(Notice::Returned { .. }));
            let history = history_of(world, device, conversation);
            return must(history.iter().any(|entry| returned(&entry.body)), || {
                "nobody brought it back".to_owned()
            });
        }
        world.step();
    }
    let now = state(world, device, conversation);
    Err(format!("{} does not come back: {now:?}", world.devices[device].name))
}

fn copied(seed: u64) -> Result<(), String> {
    let (mut world, conversation) = two(seed)?;
    let copy = world.add_copy(BOB);
    world.run(200);
    say(&mut world, ALICE, conversation, "which of you?")?;
    world.run(600);
    let states = [suspended(&mut world, BOB, conversation), suspended(&mut world, copy, conversation)];
    let running = states.iter().filter(|cause| cause.is_none()).count();
    let stopped = |cause: &Option<Cause>| {
        matches!(cause, Some(Cause::OpenedElsewhere | Cause::RolledBack | Cause::ReadKeyRefused))
    };
    must(running <= 1 && states.iter().any(stopped), || format!("bob and his copy: {states:?}"))?;
    let warned = [BOB, copy].iter().any(|device| causes(&world, *device).contains(&Cause::OpenedElsewhere));
    must(warned, || "neither was told".to_owned())
}

/// What the watch looks at, in a run in which everything happens that opens mailboxes.
fn apart(seed: u64) -> Result<(), String> {
    let (mut world, conversation) = two(seed)?;
    people(&mut world, &["carol"])?;
    let slot = add(&mut world, BOB, conversation, "carol").ok_or("bob is not in")?;
    world.answered(BOB, &slot)?.map_err(|error| error.to_string())?;
    world.settle()
}

fn key_package_gone(seed: u64) -> Result<(), String> {
    welcome_refused(seed, Faults::NONE)
}

fn key_package_gone_in_a_storm(seed: u64) -> Result<(), String> {
    for more in 0..3 {
        welcome_refused(seed + 1000 * more, Faults::MANY)?;
    }
    Ok(())
}

/// The secrets of bob's key packages are lost; the directory still has them, and alice takes one. Twice: also
/// when he had been removed, and is added again.
fn welcome_refused(seed: u64, faults: Faults) -> Result<(), String> {
    let mut world = World::new(seed);
    people(&mut world, &["alice", "bob", "carol"])?;
    world.settle()?;
    world.meanwhile(BOB, |bob| bob.damage("DELETE FROM mls"));
    world.faults = faults;
    let members = ["bob", "carol"].map(contact).to_vec();
    let slot = world.command(ALICE, |reply| Command::Start {
        id: None,
        name: String::new(),
        members,
        again: true,
        reply,
    });
    world.run(if faults.cut > 0 { 400 } else { 0 });
    let mut conversation = None;
    for _ in 0..20_000 {
        // With crashes the answer may never come, but the conversation does.
        let list = world.conversations(ALICE);
        conversation = list.first().map(|one| one.group);
        if list.first().is_some_and(|one| one.members.len() == 3) || slot.take().is_some() {
            break;
        }
        world.step();
    }
    let conversation = conversation.ok_or("the conversation did not start")?;
    world.settle()?;
    must(causes(&world, BOB).contains(&Cause::WelcomeUnreadable), || {
        format!("every Welcome opened, so that the step shows nothing: {:?}", causes(&world, BOB))
    })?;
    say(&mut world, ALICE, conversation, "welcome")?;
    world.settle()?;
    say(&mut world, BOB, conversation, "at last")?;
    world.settle()?;
    must(texts(&mut world, BOB, conversation) == ["welcome", "at last"], || {
        format!(
            "bob is {:?} and reads {:?}",
            state(&mut world, BOB, conversation),
            texts(&mut world, BOB, conversation)
        )
    })?;
    must(texts(&mut world, ALICE, conversation) == ["welcome", "at last"], || {
        "alice does not hear bob".to_owned()
    })?;
    // For the others he neither came nor went more than once.
    let notices = history_of(&mut world, 2, conversation);
    let news = |body: &Body| matches!(body, Body::Notice(Notice::Removed { who, .. }) if who.iter().any(|named| named.handle == "bob"));
    let gone = notices.iter().filter(|message| news(&message.body)).count();
    must(gone <= 1, || format!("carol sees bob go {gone} times"))?;
    let expected = [Cause::WelcomeUnreadable, Cause::Evicted, Cause::ReadKeyRefused, Cause::ClockWrong];
    let unexpected = world.unexpected_alarms(&expected);
    must(unexpected.is_empty(), || format!("{unexpected:?}"))?;
    let sent = vec![(ALICE, conversation, "welcome".to_owned()), (BOB, conversation, "at last".to_owned())];
    consistent(&mut world, &sent).map(drop)
}

fn weekly(seed: u64) -> Result<(), String> {
    let (mut world, _) = two(seed)?;
    let before = world.watch.last_resorts.clone();
    for _ in 0..8 {
        world.wait(24 * 3600 * 1000);
        world.run(100);
    }
    world.settle()?;
    for device in [ALICE, BOB] {
        let more = world.watch.last_resorts.get(&device).copied().unwrap_or(0)
            - before.get(&device).copied().unwrap_or(0);
        must((1..=2).contains(&more), || {
            format!("{} was replaced {more} times in 8 days", world.devices[device].name)
        })?;
    }
    Ok(())
}

/// Alice moves the conversation while bob is away; he comes back weeks later.
fn moved(seed: u64) -> Result<(), String> {
    const DAY: u64 = 24 * 3600 * 1000;
    let mut world = World::new(seed);
    people(&mut world, &["alice", "bob", "carol"])?;
    let conversation = start(&mut world, "", &["bob", "carol"])?;
    say(&mut world, BOB, conversation, "before")?;
    world.settle()?;
    let before = place(&world, BOB)?;
    world.go_away(BOB);
    say(&mut world, BOB, conversation, "kept")?;
    let slot = move_here(&mut world, ALICE, conversation).ok_or("alice is not in")?;
    world.answered(ALICE, &slot)?.map_err(|error| error.to_string())?;
    say(&mut world, ALICE, conversation, "here we are")?;
    for _ in 0..20 {
        world.wait(DAY);
        world.run(100);
    }
    must(texts(&mut world, 2, conversation).contains(&"here we are".to_owned()), || {
        "carol lost it".to_owned()
    })?;
    world.come_back(BOB);
    world.settle()?;
    for device in 0..3 {
        let heard = texts(&mut world, device, conversation);
        must(heard == ["before", "here we are", "kept"], || format!("{device} reads {heard:?}"))?;
    }
    must(place(&world, BOB)? != before, || "bob still speaks in the old place".to_owned())?;
    let sent = ["before", "here we are", "kept"].map(|text| (BOB, conversation, text.to_owned()));
    consistent(&mut world, &[sent[0].clone(), sent[2].clone()])?;
    let unexpected = world.unexpected_alarms(&[]);
    must(unexpected.is_empty(), || format!("{unexpected:?}"))
}

/// Both were renewed when the conversation began, or soon after; then neither does anything for two weeks.
fn fresh_leaves(seed: u64) -> Result<(), String> {
    const DAY: u64 = 24 * 3600 * 1000;
    let (mut world, conversation) = two(seed)?;
    let mailbox = place(&world, ALICE)?;
    world.wait(DAY);
    world.settle()?;
    for _ in 0..2 {
        let before = world.watch.posted.len();
        for _ in 0..7 {
            world.wait(DAY);
            world.run(100);
        }
        world.settle()?;
        for device in [ALICE, BOB] {
            let turned = world.watch.posted[before..]
                .iter()
                .any(|(by, to, turn)| *by == device && *to == mailbox && *turn);
            let name = &world.devices[device].name;
            must(turned, || format!("{name} made no commit within seven days"))?;
        }
    }
    say(&mut world, ALICE, conversation, "still here")?;
    world.settle()?;
    let heard = texts(&mut world, BOB, conversation);
    must(heard.last().is_some_and(|text| text == "still here"), || format!("bob reads {heard:?}"))
}
