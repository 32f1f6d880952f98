//! Members: they hold the group's keys, and can say and commit what they want.

use posthorn_proto::chain::Chain;
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{DeviceId, Handle, KeyHash, MailboxId, PostId, ReadKey, Reader, ReaderId, Turn};

use super::desk::{Desk, alarms, elsewhere, link, relay, seals};
use crate::content::{Content, Leave, Receipt, Said, Text, WelcomeRefused};
use crate::conversation::{
    Body, Candidate, Cause, ConversationState, EntryState, GroupId, Intent, MessageId, Notice, Package,
    Unreadable,
};
use crate::engine::talk::slot::AuthorSlot;
use crate::engine::{Command, Effect, Error, Event, Link};
use crate::envelope::Slot;
use crate::group::{
    Change, Group, GroupError, GroupInfo, KeyPackageKind, Provider, Refusal, UnverifiedKeyPackage,
};
use crate::identity::PersonId;
use crate::outbox::{self, Parcel};
use crate::people::pin;

pub(super) const TALK: GroupId = GroupId([0x77; 16]);
pub(super) const PLACE: MailboxId = MailboxId([0x66; 16]);
/// What invitations of the desk say that was there when they were made.
const BEGINNING: (u64, Chain) = (1, Chain([4; 32]));

/// Puts bob and carol into mallory's conversation; their reading begins behind seq 1.
fn together(mallory: &mut Desk, bob: &mut Desk, carol: &mut Desk) -> Vec<Cause> {
    let (bobs, carols) = (bob.card(), carol.card());
    let packages =
        [(bob.package(KeyPackageKind::OneTime), &bobs), (carol.package(KeyPackageKind::OneTime), &carols)];
    let made = mallory.group(TALK, PLACE, &packages);
    let mut alarms = Vec::new();
    for (desk, card) in [(bob, &bobs), (carol, &carols)] {
        let invitation = mallory.invitation(TALK, &made, card);
        let sealed = mallory.sealed(&invitation, card, PostId([1; 16]));
        alarms.extend(desk.takes(PostId([1; 16]), sealed));
    }
    alarms
}

pub(super) fn three() -> (Desk, Desk, Desk) {
    let (mut mallory, mut bob, mut carol) = (Desk::new("mallory"), Desk::new("bob"), Desk::new("carol"));
    assert_eq!(together(&mut mallory, &mut bob, &mut carol), []);
    (mallory, bob, carol)
}

fn content(message: u8, said: Said) -> Content {
    Content { message: MessageId([message; 16]), sent_at: 1, receipt: Receipt::default(), said }
}

fn text(words: &str) -> Content {
    content(7, Said::new(Text::new(words)).expect("fits"))
}

/// The envelope in which a member says something.
pub(super) fn says(desk: &mut Desk, content: &Content, post: PostId) -> Vec<u8> {
    says_at(desk, content, post, BEGINNING)
}

/// Likewise, with what the member says that it has seen.
fn says_at(desk: &mut Desk, content: &Content, post: PostId, (seq, chain): (u64, Chain)) -> Vec<u8> {
    desk.in_group(&TALK, |group, own, rng| {
        let aad = AuthorSlot { mailbox: PLACE, post, readers: TurnHash::NONE, seq, chain }.encode();
        let encrypted = group.encrypt(own, &content.encode(), &aad)?;
        let slot = Slot { mailbox: PLACE, post, turn: TurnHash::NONE };
        Ok(group.keys()?.envelope.seal(&slot, &encrypted, rng).expect("fits"))
    })
}

/// The envelope in which a member commits a change, with the turn that it demands.
pub(super) fn commits(
    desk: &mut Desk,
    post: PostId,
    change: impl FnOnce(&Group<'_>) -> Change,
) -> (Vec<u8>, Turn) {
    commits_with(desk, post, BEGINNING, change, |_| {})
}

/// Likewise in another mailbox, with what its author has seen there.
pub(super) fn commits_at(
    desk: &mut Desk,
    at: (MailboxId, PostId),
    seen: (u64, Chain),
    change: impl FnOnce(&Group<'_>) -> Change,
) -> (Vec<u8>, Turn) {
    commits_in(desk, at, seen, change, |_| {})
}

/// Likewise, with what its author says to have seen, and a turn that says something else.
fn commits_with(
    desk: &mut Desk,
    post: PostId,
    seen: (u64, Chain),
    change: impl FnOnce(&Group<'_>) -> Change,
    bend: impl FnOnce(&mut Turn),
) -> (Vec<u8>, Turn) {
    commits_in(desk, (PLACE, post), seen, change, bend)
}

fn commits_in(
    desk: &mut Desk,
    (mailbox, post): (MailboxId, PostId),
    (seq, chain): (u64, Chain),
    change: impl FnOnce(&Group<'_>) -> Change,
    bend: impl FnOnce(&mut Turn),
) -> (Vec<u8>, Turn) {
    desk.in_group(&TALK, |group, own, rng| {
        let change = change(group);
        let keys = group.keys()?;
        let reader = |leaf: &u32| group.member(*leaf).expect("is in").reader;
        let admit = change.add.iter().map(|package| group.info().reader_of(package));
        let mut turn = Turn {
            post_key_hash: KeyHash([0; 32]),
            turn_key_hash: KeyHash([0; 32]),
            admit: admit.map(|id| Reader { id, key_hash: ReadKey::from_bytes([3; 32]).hash() }).collect(),
            evict: change.remove.iter().map(reader).collect(),
        };
        let readers = AuthorSlot::readers(Some(&turn));
        let aad = AuthorSlot { mailbox, post, readers, seq, chain }.encode();
        let staged = group.stage(own, &change, &aad)?;
        [turn.post_key_hash, turn.turn_key_hash] = staged.outcome.lock().expect("stays a member");
        bend(&mut turn);
        let slot = Slot { mailbox, post, turn: TurnHash::of(Some(&turn)) };
        let envelope = keys.envelope.seal(&slot, &staged.commit, rng).expect("fits");
        group.merge_pending()?;
        Ok((envelope, turn))
    })
}

/// Reads an envelope as the next one: why the conversation does not go on, if it does not, and the alarms.
pub(super) fn reads(
    desk: &mut Desk,
    post: PostId,
    envelope: Vec<u8>,
    turn: Option<Turn>,
) -> (Option<Cause>, Vec<Cause>) {
    let effects = desk.delivers(&TALK, post, envelope, turn);
    let over = match desk.state(&TALK).expect("is known") {
        ConversationState::Suspended(suspension) => Some(suspension.cause),
        ConversationState::Removed => Some(Cause::Removed),
        _ => None,
    };
    (over, alarms(&effects))
}

pub(super) fn leaf_of(group: &Group<'_>, handle: &str) -> u32 {
    let members = group.members().expect("loads");
    members.iter().find(|member| member.credential.handle().as_str() == handle).expect("is in").leaf
}

pub(super) fn removes(handle: &str) -> impl Fn(&Group<'_>) -> Change {
    move |group| Change { remove: vec![leaf_of(group, handle)], ..Change::default() }
}

#[test]
fn what_members_say_is_read() {
    let (mut mallory, mut bob, _) = three();
    let post = PostId([2; 16]);
    let envelope = says(&mut mallory, &text("hi"), post);
    assert_eq!(reads(&mut bob, post, envelope, None), (None, vec![]));
    assert_eq!(bob.texts(&TALK), ["hi"]);
}

/// Rule 12: a place whose chain is not kept any more can neither be checked nor be held against anybody.
#[test]
fn a_reference_that_is_too_old_is_no_alarm() {
    for (kept, expected) in [(true, vec![Cause::ChainMismatch]), (false, vec![])] {
        let (mut mallory, mut bob, _) = three();
        let first = says(&mut mallory, &text("first"), PostId([2; 16]));
        assert_eq!(reads(&mut bob, PostId([2; 16]), first, None), (None, vec![]));
        if !kept {
            bob.step(|step| Ok(step.tx.sql().execute("DELETE FROM chain", [])?));
        }
        let said = content(8, Said::new(Text::new("second")).expect("fits"));
        let second = says_at(&mut mallory, &said, PostId([3; 16]), (1, Chain([9; 32])));
        assert_eq!(reads(&mut bob, PostId([3; 16]), second, None), (None, expected));
    }
}

/// Finding 4: a member makes another group of the same id, with the same people, in the same place or
/// another, at a later epoch, and invites bob to it: he would talk there, alone with mallory, and think that
/// nothing happened. What is live is not touched.
#[test]
fn a_member_cannot_move_another_to_a_group_of_its_own() {
    for (mailbox, conversations) in [(MailboxId([0x99; 16]), 2), (PLACE, 1)] {
        let (mut honest, mut bob, _) = three();
        // The same mallory, with another group.
        let mut mallory = Desk::new("mallory");
        let card = bob.card();
        let package = bob.package(KeyPackageKind::OneTime);
        let mut made = mallory.group(TALK, mailbox, &[(package, &card)]);
        let again = bob.package(KeyPackageKind::OneTime);
        made.welcome = {
            let now = mallory.now;
            mallory.in_group(&TALK, |group, own, _| {
                let remove = vec![leaf_of(group, "bob")];
                group.stage(own, &Change { remove, ..Change::default() }, b"")?;
                group.merge_pending()?;
                let package = UnverifiedKeyPackage::parse(&again).expect("well formed");
                let package = verified(package, &card, now);
                let staged = group.stage(own, &Change { add: vec![package], ..Change::default() }, b"")?;
                group.merge_pending()?;
                Ok(staged.welcome.expect("somebody is added"))
            })
        };
        let mut invitation = mallory.invitation(TALK, &made, &card);
        invitation.seq = 9;
        let before = (bob.find(&TALK), bob.reading(&PLACE).map(|reading| (reading.seq, reading.read_key())));
        let sealed = mallory.sealed(&invitation, &card, PostId([3; 16]));
        assert_eq!(bob.takes(PostId([3; 16]), sealed), []);
        let after = bob.reading(&PLACE).map(|reading| (reading.seq, reading.read_key()));
        assert_eq!((before.0, before.1), (bob.find(&TALK), after));
        assert_eq!(bob.rows("conversation"), conversations, "another place is another conversation");
        // And what is said in the true one is read.
        let envelope = says(&mut honest, &text("still here"), PostId([4; 16]));
        assert_eq!(reads_as_first(&mut bob, PostId([4; 16]), envelope), (None, vec![]));
    }
}

/// Reads in the conversation that is read at [`PLACE`].
fn reads_as_first(desk: &mut Desk, post: PostId, envelope: Vec<u8>) -> (Option<Cause>, Vec<Cause>) {
    let id = desk.engine.live.places[&PLACE];
    let reading = desk.reading(&PLACE).expect("reads it");
    let delivery = posthorn_proto::frame::Delivery {
        mailbox: PLACE,
        seq: reading.seq + 1,
        post_id: post,
        envelope: envelope.into(),
        turn: None,
    };
    let at = reading.link().expect("goes on");
    let (_, effects) = desk.step(|step| step.talk_delivery(&id, &at, &delivery));
    (None, alarms(&effects))
}

fn verified(
    package: UnverifiedKeyPackage,
    card: &crate::identity::Card,
    now: u64,
) -> crate::group::KeyPackage {
    let mut judge = Desk::new("judge");
    judge
        .step(|step| {
            let provider = Provider::new(step.tx, None);
            Ok(package.verify(&provider, &card.identity(), now).expect("good"))
        })
        .0
}

/// The relay keeps an invitation and delivers it again when the conversation has ended. With a last-resort
/// key package the Welcome would open once more, with keys that served already (C1: MLS state never rolls
/// back).
#[test]
fn an_old_invitation_revives_nothing() {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::LastResort));
    let made = mallory.group(TALK, PLACE, &[(package, &card)]);
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, PostId([1; 16]));
    assert_eq!(bob.takes(PostId([1; 16]), sealed.clone()), []);
    let first = bob.find(&TALK).expect("joined");
    let post = PostId([2; 16]);
    let (commit, turn) = commits(&mut mallory, post, removes("bob"));
    assert_eq!(reads(&mut bob, post, commit, Some(turn)).0, Some(Cause::Removed));
    assert_eq!(bob.takes(PostId([1; 16]), sealed.clone()), [Cause::BadInvitation], "not a second time");
    bob.engine.live.promised.consent = crate::engine::Consent::Ask;
    assert_eq!(bob.takes(PostId([1; 16]), sealed), []);
    let old = bob.step(|step| Ok(crate::conversation::Conversation::load(step.tx, &first)?)).0;
    assert_eq!(old.expect("known").state, ConversationState::Removed);
    assert_eq!(bob.state(&TALK), Some(ConversationState::Invited), "the other asks");
    let id = bob.find(&TALK).expect("it waits");
    let accepted = bob.does(|reply| Command::Accept { conversation: id, foreign_relay: false, reply });
    assert_eq!(accepted.expect_err("nor then").code(), "BAD_INVITATION");
}

/// A commit that changes a part of the place: newcomers would be sent elsewhere, and nobody's reader could be
/// evicted any more. No member can even make one (a whole move is another matter: `moves`); a name may
/// change.
#[test]
fn a_commit_moves_nothing_by_half() {
    let moves: [fn(&mut GroupInfo); 3] = [
        |info| info.place.mailbox = MailboxId([0x99; 16]),
        |info| info.place.relay.identity.0 = [9; 32],
        |info| info.place.number = 2,
    ];
    let (mut mallory, mut bob, _) = three();
    for change in moves {
        let staged = mallory.in_group(&TALK, |group, own, _| {
            let mut info = group.info().clone();
            change(&mut info);
            Ok(group.stage(own, &Change { info: Some(info), ..Change::default() }, b"").map(drop))
        });
        assert!(matches!(staged, Err(GroupError::Refused(Refusal::Moved))), "{staged:?}");
    }
    let post = PostId([2; 16]);
    let (commit, turn) = commits(&mut mallory, post, |group| {
        let mut info = group.info().clone();
        info.about.name = "garden".to_owned();
        Change { info: Some(info), ..Change::default() }
    });
    assert_eq!(reads(&mut bob, post, commit, Some(turn)), (None, vec![]));
    assert_eq!(bob.conversation(&TALK).expect("in it").name, "garden");
}

/// Rule 1: the relay turns the lock as the post says, and the members go on as the commit says.
#[test]
fn a_turn_says_what_its_commit_says() {
    let bends: [fn(&mut Turn); 5] = [
        |turn| turn.post_key_hash = KeyHash([9; 32]),
        |turn| turn.turn_key_hash = KeyHash([9; 32]),
        |turn| turn.admit.push(Reader { id: ReaderId([9; 16]), key_hash: KeyHash([9; 32]) }),
        |turn| turn.evict.clear(),
        |turn| turn.evict[0] = ReaderId([9; 16]),
    ];
    for bend in bends {
        let (mut mallory, mut bob, _) = three();
        let post = PostId([2; 16]);
        let (commit, turn) = commits_with(&mut mallory, post, BEGINNING, removes("carol"), bend);
        assert_eq!(reads(&mut bob, post, commit, Some(turn)), (Some(Cause::BadTurn), vec![Cause::BadTurn]));
        assert_eq!(bob.in_group(&TALK, |group, _, _| Ok(group.epoch())), 1);
        assert_eq!(bob.reading(&PLACE).map(|reading| reading.seq), Some(1), "the last good place");
    }
}

/// Device ids are chosen by devices. Mallory's has carol's.
#[test]
fn a_borrowed_device_id_confirms_nothing_for_another() {
    let (mut bob, mut carol) = (Desk::new("bob"), Desk::new("carol"));
    let borrowed: DeviceId = carol.profile().device().id();
    let mut mallory = Desk::made("mallory", &relay(), |profile| profile.borrow_device_id(borrowed));
    assert_eq!(together(&mut mallory, &mut bob, &mut carol), []);
    let (post, mut content) = (PostId([2; 16]), text("all is read"));
    content.receipt = Receipt { delivered: 2, read: 2 };
    let envelope = says(&mut mallory, &content, post);
    assert_eq!(reads(&mut bob, post, envelope, None), (None, vec![]));
    let everyone = bob.conversation(&TALK).expect("in it").everyone;
    assert_eq!(everyone, Receipt::default(), "carol has said nothing yet");
}

/// Whose safety number was compared has the name, and nobody else has the mark.
#[test]
fn of_two_with_one_name_the_one_who_is_verified_has_it() {
    let (mut bob, mut carol) = (Desk::new("bob"), Desk::new("carol"));
    let mut mallory = Desk::made("mallory", &relay(), |profile| profile.borrow_handle("carol"));
    together(&mut mallory, &mut bob, &mut carol);
    let (mallory, carol) = (mallory.person(), carol.person());
    let mark = |bob: &mut Desk, person, verified| {
        bob.asks(|reply| Command::Verify { person, verified, reply })
            .0
            .recv()
            .expect("at once")
            .expect("known")
    };
    let seen = |bob: &mut Desk| {
        let mut list = bob.asks(Command::Conversations).0.recv().expect("at once").expect("a list");
        let members = list.remove(0).members.into_iter();
        let mut seen: Vec<_> = members
            .filter(|member| member.person != bob.person())
            .map(|member| (member.person == carol, member.handle == "carol", member.verified))
            .collect();
        seen.sort();
        seen
    };
    mark(&mut bob, mallory, true);
    assert_eq!(seen(&mut bob), [(false, true, true), (true, false, false)], "whom one marks has the name");
    mark(&mut bob, carol, true);
    assert_eq!(seen(&mut bob), [(false, false, false), (true, true, true)], "and the other loses both");
    mark(&mut bob, carol, false);
    assert_eq!(seen(&mut bob), [(false, false, false), (true, true, false)]);
}

/// Finding 5: two who call themselves alike: one of them is not who they say. Both are shown apart, and whom
/// to remove is said by key.
#[test]
fn of_two_with_one_name_one_is_shown_apart() {
    let (mut bob, mut carol) = (Desk::new("bob"), Desk::new("carol"));
    let mut mallory = Desk::made("mallory", &relay(), |profile| profile.borrow_handle("carol"));
    assert_eq!(together(&mut mallory, &mut bob, &mut carol), [Cause::NameTwice; 2], "both are warned");
    let conversation = bob.find(&TALK).expect("in it");
    let members = bob.conversation(&TALK).expect("in it").members;
    let (one, other) = (&members[0].handle, &members[2].handle);
    assert!(one != other && one.starts_with("carol") && other.starts_with("carol"), "{members:?}");
    // Carol herself knows who she is.
    let mine = carol.conversation(&TALK).expect("in it").members;
    let person = carol.person();
    for who in &mine {
        assert_eq!(who.handle == "carol", who.person == person, "{mine:?}");
    }
    let person = mallory.person();
    let (answer, _) = bob.asks(|reply| Command::Remove { conversation, person: members[0].person, reply });
    assert!(answer.try_recv().is_err(), "it is under way");
    assert_eq!(members[0].person, person);
    let removal = |intent: &Intent| matches!(intent, Intent::Remove { person: who, .. } if *who == person);
    assert!(bob.intents(&TALK).iter().any(removal));
}

/// Somebody of another relay, whose name nobody vouches for here, is shown apart. That is no alarm, unless
/// somebody else is known by the name.
#[test]
fn who_comes_from_another_relay_is_like_nobody() {
    for is_known in [false, true] {
        let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
        let mut carol = Desk::at("carol", &elsewhere());
        if is_known {
            let (handle, person) = (Handle::parse("carol").expect("a handle"), PersonId([9; 32]));
            bob.step(|step| Ok(pin::pin(step.tx, &relay().identity, &handle, &person)?));
        }
        let (bobs, carols) = (bob.card(), carol.card());
        let packages = [
            (bob.package(KeyPackageKind::OneTime), &bobs),
            (carol.package(KeyPackageKind::OneTime), &carols),
        ];
        let made = mallory.group(TALK, PLACE, &packages);
        let invitation = mallory.invitation(TALK, &made, &bobs);
        let sealed = mallory.sealed(&invitation, &bobs, PostId([1; 16]));
        let expected = if is_known { vec![Cause::NameTwice] } else { vec![] };
        assert_eq!(bob.takes(PostId([1; 16]), sealed), expected);
        let members = bob.conversation(&TALK).expect("in it").members;
        assert!(members.iter().any(|who| who.handle.starts_with("carol#")), "{members:?}");
    }
}

pub(super) fn refused(desk: &mut Desk) -> WelcomeRefused {
    let device = desk.profile().device().id();
    let key_package = desk.package(KeyPackageKind::OneTime);
    WelcomeRefused { group: TALK, device, key_package, cause: String::new() }
}

/// "My Welcome does not open", again and again: each would be two commits. And anybody can send that answer,
/// with a key package from the directory: a device that has been heard of stays (rule 14).
#[test]
fn a_device_is_readmitted_once_at_a_time_and_never_if_it_was_heard_of() {
    let (mut mallory, mut bob, mut carol) = three();
    let card = bob.card();
    for number in 0..5 {
        let post = PostId([number; 16]);
        for desk in [&mut carol, &mut mallory] {
            let sealed = seals(&refused(desk).encode(), &card, post);
            assert_eq!(bob.takes(post, sealed), []);
        }
    }
    let wanted = bob.intents(&TALK);
    let readmitted: Vec<_> = wanted
        .iter()
        .filter_map(|intent| match intent {
            Intent::Readmit { person, .. } => Some(*person),
            _ => None,
        })
        .collect();
    assert_eq!(readmitted, [carol.person()]);
}

/// What was to be said in a conversation that ends is not queued for ever: it has failed, and says why (C2,
/// C3). What is only suspended keeps it (finding 12).
#[test]
fn what_was_queued_is_kept_until_the_conversation_ends() {
    let (mut mallory, mut bob, _) = three();
    let conversation = bob.find(&TALK).expect("in it");
    let said = Said::new(Text::new("too late")).expect("fits");
    bob.does(|reply| Command::Send { conversation, id: None, said, reply }).expect("it is queued");
    bob.step(|step| step.suspend_talk(&conversation, Cause::Evicted, "the relay says so"));
    let own =
        |bob: &mut Desk| bob.history(&TALK).into_iter().find(|entry| entry.mine).expect("his text").state;
    assert_eq!((own(&mut bob), bob.rows("outbox")), (EntryState::Queued, 1));
    // The commit that did it comes after all.
    let post = PostId([2; 16]);
    let (commit, turn) = commits(&mut mallory, post, removes("bob"));
    assert_eq!(reads(&mut bob, post, commit, Some(turn)).0, Some(Cause::Removed));
    assert_eq!((own(&mut bob), bob.rows("outbox")), (EntryState::Failed(Cause::Removed), 0));
    let person = bob.person();
    let removed =
        |body: &Body| matches!(body, Body::Notice(Notice::Removed { who, .. }) if who[0].person == person);
    assert!(bob.history(&TALK).iter().any(|entry| removed(&entry.body)));
}

fn leave(desk: &mut Desk, message: u8, post: PostId) -> Vec<u8> {
    let proposal = desk.in_group(&TALK, |group, own, _| group.propose_leave(own, b""));
    says(desk, &content(message, Said::new(Leave { proposal }).expect("fits")), post)
}

/// Finding 7: bob leaves, is taken out, and is added again; carol reads all three at once. Her wish to take
/// him out was about the leaf that he had.
#[test]
fn who_left_and_came_back_is_not_thrown_out() {
    let (mut mallory, mut bob, mut carol) = three();
    let posts = [PostId([2; 16]), PostId([3; 16]), PostId([4; 16])];
    let left = leave(&mut bob, 9, posts[0]);
    let (removal, removed) = commits(&mut mallory, posts[1], removes("bob"));
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::OneTime));
    let package = verified(UnverifiedKeyPackage::parse(&package).expect("well formed"), &card, bob.now);
    let (addition, added) =
        commits(&mut mallory, posts[2], |_| Change { add: vec![package.clone()], ..Change::default() });
    assert_eq!(reads(&mut carol, posts[0], left, None), (None, vec![]));
    let is_removal = |intent: &Intent| matches!(intent, Intent::Remove { .. });
    assert!(carol.intents(&TALK).iter().any(is_removal));
    assert_eq!(reads(&mut carol, posts[1], removal, Some(removed)), (None, vec![]));
    assert_eq!(reads(&mut carol, posts[2], addition, Some(added)), (None, vec![]));
    carol.now += 600_000;
    carol.tick();
    assert!(!carol.intents(&TALK).iter().any(is_removal));
    let person = bob.person();
    let members = carol.conversation(&TALK).expect("in it").members;
    assert!(members.iter().any(|member| member.person == person));
    let removed = |body: &Body| matches!(body, Body::Notice(Notice::Removed { .. }));
    assert!(!carol.history(&TALK).iter().any(|entry| removed(&entry.body)), "he left: nobody removed him");
}

/// Finding 7: "I leave", ten thousand times.
#[test]
fn leaving_again_and_again_is_one_leaving() {
    let (_, mut bob, mut carol) = three();
    let first = leave(&mut bob, 9, PostId([2; 16]));
    reads(&mut carol, PostId([2; 16]), first, None);
    let rows = |desk: &mut Desk| (desk.rows("intent"), desk.rows("entry"), desk.rows("outbox"));
    let before = rows(&mut carol);
    for number in 0..200u8 {
        let mut post = [9; 16];
        post[0] = number;
        let again = leave(&mut bob, number, PostId(post));
        assert_eq!(reads(&mut carol, PostId(post), again, None), (None, vec![]));
    }
    assert_eq!(rows(&mut carol), before);
    assert_eq!(carol.conversation(&TALK).expect("in it").leaving.len(), 1);
}

/// Finding 15: whoever holds the epoch's key can put what another said into another envelope.
#[test]
fn what_is_put_into_another_slot_is_misplaced() {
    let (mut mallory, mut bob, mut carol) = three();
    let (first, second) = (PostId([2; 16]), PostId([3; 16]));
    let envelope = says(&mut mallory, &text("at two"), first);
    // Carol opens it and seals it anew.
    let moved = carol.in_group(&TALK, |group, _, rng| {
        let slot = |post| Slot { mailbox: PLACE, post, turn: TurnHash::NONE };
        let keys = group.keys()?;
        let data = keys.envelope.open(&slot(first), &envelope).expect("she may");
        Ok(keys.envelope.seal(&slot(second), &data, rng).expect("fits"))
    });
    assert_eq!(reads(&mut bob, second, moved, None), (None, vec![Cause::Misplaced]));
    assert!(bob.texts(&TALK).is_empty());
    let unreadable = |body: &Body| matches!(body, Body::Unreadable(run) if run.cause == Cause::Misplaced);
    assert!(bob.history(&TALK).iter().any(|entry| unreadable(&entry.body)));
    // A commit with other readers' keys: the newcomer's would be another's.
    let (mut mallory, mut bob, mut carol) = three();
    let (commit, turn) = commits(&mut mallory, first, |_| Change { update_self: true, ..Change::default() });
    let moved = carol.in_group(&TALK, |group, _, rng| {
        let keys = group.keys()?;
        let slot = |post| Slot { mailbox: PLACE, post, turn: TurnHash::of(Some(&turn)) };
        let data = keys.envelope.open(&slot(first), &commit).expect("she may");
        Ok(keys.envelope.seal(&slot(second), &data, rng).expect("fits"))
    });
    let (over, causes) = reads(&mut bob, second, moved, Some(turn));
    assert_eq!((over, causes), (Some(Cause::BadTurn), vec![Cause::Misplaced, Cause::BadTurn]));
}

/// Finding 15: a commit says what its author has seen, as a message does.
#[test]
fn a_commit_of_another_history_is_an_alarm() {
    let (mut mallory, mut bob, _) = three();
    let (post, seen) = (PostId([2; 16]), (1, Chain([5; 32])));
    let renewal = |_: &Group<'_>| Change { update_self: true, ..Change::default() };
    let (commit, turn) = commits_with(&mut mallory, post, seen, renewal, |_| {});
    assert_eq!(reads(&mut bob, post, commit, Some(turn)), (None, vec![Cause::ChainMismatch]));
    assert_eq!(bob.conversation(&TALK).expect("in it").epoch, 2, "it is followed all the same");
}

/// Who can be added does not depend on the order in which people were named.
#[test]
fn a_key_package_that_ran_out_is_told_whoever_else_is_added() {
    for last in [false, true] {
        let (_, mut bob, _) = three();
        let (mut dave, mut erin) = (Desk::new("dave"), Desk::new("erin"));
        let candidate = |desk: &mut Desk| Candidate {
            handle: desk.card().handle().to_string(),
            relay: None,
            person: Some(desk.person()),
            card: None,
            packages: vec![Package {
                device: DeviceId([1; 16]),
                bytes: desk.package(KeyPackageKind::OneTime),
            }],
        };
        let mut candidates = vec![candidate(&mut dave)];
        let later = 85 * 24 * 3600 * 1000;
        (bob.now, erin.now) = (bob.now + later, erin.now + later);
        candidates.insert(usize::from(!last), candidate(&mut erin));
        let id = bob.find(&TALK).expect("in it");
        let (_, effects) = bob.step(|step| {
            crate::conversation::remove_intents(step.tx, &id)?;
            crate::conversation::put_intent(step.tx, &id, &Intent::Add(candidates))?;
            step.talk(&id, |talk| talk.stage_commit(&link(Link::Mailboxes)))
        });
        assert_eq!(alarms(&effects), [Cause::CannotAdd], "dave is named last: {last}");
        assert_eq!(bob.intents(&TALK).len(), 0);
    }
}

/// Finding 13: a message of this device that it does not know, as an older copy of it or a member could have
/// made. Nothing is said in this epoch any more, and one update is wanted, however many come.
#[test]
fn an_own_message_that_is_not_known_closes_the_epoch_once() {
    let (_, mut bob, _) = three();
    let mut raised = Vec::new();
    for number in 2..5 {
        let post = PostId([number; 16]);
        let envelope = says(&mut bob, &text("not mine"), post);
        let (over, alarms) = reads(&mut bob, post, envelope, None);
        assert_eq!(over, None);
        raised.extend(alarms);
    }
    assert_eq!(raised, [Cause::RolledBack]);
    assert_eq!(bob.conversation(&TALK).expect("in it").doubtful, Some(1));
    let updates: Vec<_> = bob.intents(&TALK).iter().map(Intent::not_before).collect();
    assert!(updates.len() == 1 && updates[0] <= bob.now + 30_000, "{updates:?}");
    assert!(bob.texts(&TALK).is_empty());
}

/// Finding 18: rubbish, a thousand times.
#[test]
fn a_thousand_unreadable_envelopes_are_one_entry() {
    let (_, mut bob, _) = three();
    let before = bob.rows("entry");
    let mut raised = 0;
    for number in 0..1000u16 {
        let mut post = [9; 16];
        post[..2].copy_from_slice(&number.to_be_bytes());
        let (over, alarms) = reads(&mut bob, PostId(post), vec![1; 256], None);
        assert_eq!(over, None);
        raised += alarms.len();
    }
    assert_eq!(bob.rows("entry"), before + 1);
    assert!((1..=16).contains(&raised), "{raised}");
    let run = Body::Unreadable(Unreadable { cause: Cause::EnvelopeUnreadable, count: 1000, to: 1001 });
    assert_eq!(bob.history(&TALK).last().expect("is").body, run);
}

/// Finding 18, of several kinds in turns: each begins a run of its own, and the alarms end at 16 a day.
#[test]
fn alarms_of_a_conversation_end_for_the_day() {
    let (mut mallory, mut bob, _) = three();
    let mut raised = 0;
    for number in 0..40u8 {
        let post = PostId([number; 16]);
        let envelope = match number % 2 {
            0 => vec![1; 256],
            _ => says_at(
                &mut mallory,
                &content(number, Said::new(Text::new("x")).expect("fits")),
                post,
                (99, Chain([9; 32])),
            ),
        };
        raised += reads(&mut bob, post, envelope, None).1.len();
    }
    assert_eq!(raised, 16);
    bob.now += 24 * 3600 * 1000;
    assert_eq!(reads(&mut bob, PostId([99; 16]), vec![1; 256], None).1.len(), 1, "tomorrow is another day");
}

/// Finding 8: nobody who copied a device's keys reads on for ever.
#[test]
fn a_leaf_is_renewed_within_seven_days() {
    let (_, mut bob, _) = three();
    let id = bob.find(&TALK).expect("in it");
    let is_update = |intent: &Intent| matches!(intent, Intent::Update { .. });
    // As if the update of the joiner had been made.
    bob.step(|step| Ok(crate::conversation::remove_intents(step.tx, &id)?));
    bob.now += 5 * 24 * 3600 * 1000;
    bob.tick();
    assert!(!bob.intents(&TALK).iter().any(is_update));
    for _ in 0..2 * 24 {
        bob.now += 3600 * 1000;
        bob.tick();
    }
    let (wanted, now) = (bob.intents(&TALK), bob.now);
    assert!(wanted.iter().any(|intent| is_update(intent) && intent.not_before() <= now), "{wanted:?}");
}

/// Finding 8: nor in a week in which very much is said.
#[test]
fn a_leaf_is_renewed_after_ten_thousand_envelopes() {
    let (_, mut bob, _) = three();
    let id = bob.find(&TALK).expect("in it");
    let updates = |bob: &mut Desk, read: u64| {
        bob.step(|step| {
            crate::conversation::remove_intents(step.tx, &id)?;
            step.talk(&id, |talk| {
                talk.change().leaf_seq = 1;
                talk.change_reading().expect("reads").seq = read;
                talk.renew_leaf()
            })
        });
        bob.intents(&TALK).iter().filter(|intent| matches!(intent, Intent::Update { .. })).count()
    };
    assert_eq!(updates(&mut bob, 10_000), 0);
    assert_eq!(updates(&mut bob, 10_001), 1);
}

/// Finding 6: a group that was made before keys were checked has a leaf that nothing can be encrypted to. Who
/// wants a change is told whose it is.
#[test]
fn a_key_that_stops_a_commit_is_told_with_its_owner() {
    let (_, mut bob, _) = three();
    let id = bob.find(&TALK).expect("in it");
    let leaf = bob.in_group(&TALK, |group, _, _| Ok(leaf_of(group, "carol")));
    let (_, effects) = bob.step(|step| {
        step.talk(&id, |talk| {
            let intent = Intent::Add(Vec::new());
            let row = crate::conversation::put_intent(talk.step.tx, &id, &intent)?;
            talk.cannot_stage(row, &intent, &GroupError::BadKey { leaf })
        })
    });
    let told = |effect: &Effect| match effect {
        Effect::Event(Event::Alarm { text, .. }) => text.contains("a device of carol has a key"),
        _ => false,
    };
    assert!(effects.iter().any(told), "{effects:?}");
}

/// Finding 19: seqs of two mailboxes have nothing to do with each other. What was got in the second says
/// nothing of what was sent in the first, nor the other way round.
#[test]
fn receipts_of_one_place_mark_nothing_in_another() {
    let (mut mallory, mut bob, _) = three();
    let id = bob.find(&TALK).expect("in it");
    let own = bob.person();
    let author = |desk: &mut Desk| desk.step(|step| step.own()?.author()).0;
    let mallorys = author(&mut mallory);
    let sent = |bob: &mut Desk, message: MessageId, place: (u32, u64)| {
        let said = Said::new(Text::new("x")).expect("fits");
        bob.does(|reply| Command::Send { conversation: id, id: Some(message), said, reply }).expect("queued");
        let set = crate::conversation::history::set_place;
        bob.step(|step| Ok(set(step.tx, &id, &own, &message, place)?)).0.expect("is there");
    };
    sent(&mut bob, MessageId([1; 16]), (1, 5));
    sent(&mut bob, MessageId([2; 16]), (2, 3));
    let (got, read) = bob
        .step(|step| {
            let (first, second) = (Receipt { delivered: 9, read: 9 }, Receipt { delivered: 3, read: 0 });
            crate::conversation::set_receipt(step.tx, &id, &mallorys, 1, first)?;
            let place = crate::conversation::receipt_of(step.tx, &id, &mallorys, 2)?;
            crate::conversation::set_receipt(step.tx, &id, &mallorys, 2, second)?;
            Ok((place, crate::conversation::receipt_of(step.tx, &id, &mallorys, 1)?))
        })
        .0;
    assert_eq!((got, read), (Receipt::default(), Receipt { delivered: 9, read: 9 }));
    bob.step(|step| {
        step.talk(&id, |talk| {
            (talk.change().place, talk.change().everyone) = (2, Receipt { delivered: 3, read: 0 });
            Ok(())
        })
    });
    let states: Vec<_> = bob.history(&TALK).iter().filter(|entry| entry.mine).map(|e| e.state).collect();
    assert_eq!(states, [EntryState::Sent, EntryState::Delivered]);
}

/// The others have it where it was said first, and its mark counts where it lies now.
#[test]
fn what_is_said_again_stays_where_it_is_shown() {
    use crate::conversation::history::{own_rows_between, own_said_above, set_place};
    let (_, mut bob, _) = three();
    let id = bob.find(&TALK).expect("in it");
    let own = bob.person();
    for (text, at) in [("first", 5), ("second", 6), ("third", 7)] {
        let said = Said::new(Text::new(text)).expect("fits");
        let message = MessageId([at; 16]);
        bob.does(|reply| Command::Send { conversation: id, id: Some(message), said, reply }).expect("queued");
        let place = (1, u64::from(at));
        bob.step(|step| Ok(set_place(step.tx, &id, &own, &message, place)?)).0.expect("is there");
    }
    for (at, seq) in [(5, 9), (6, 3)] {
        let place = (if at == 5 { 1 } else { 2 }, seq);
        let again = |step: &mut crate::engine::step::Step<'_>| {
            Ok(set_place(step.tx, &id, &own, &MessageId([at; 16]), place)?)
        };
        assert!(bob.step(again).0.is_some(), "news");
        assert!(bob.step(again).0.is_none(), "no news any more");
    }
    let ids = |found: Vec<(MessageId, u64, Said)>| found.into_iter().map(|(id, ..)| id.0[0]).collect();
    let (first, newest, second, marked): (Vec<u8>, Vec<u8>, Vec<u8>, usize) = bob
        .step(|step| {
            let above = |place, seq, most| own_said_above(step.tx, &id, place, seq, most).map(ids);
            let marked = own_rows_between(step.tx, &id, 1, 7, 9)?.len();
            Ok((above(1, 5, 9)?, above(1, 0, 1)?, above(2, 0, 9)?, marked))
        })
        .0;
    assert_eq!((first, newest, second, marked), (vec![7, 5], vec![5], vec![6], 1));
    bob.step(|step| {
        step.talk(&id, |talk| {
            (talk.change().place, talk.change().everyone) = (2, Receipt { delivered: 3, read: 0 });
            Ok(())
        })
    });
    let own = bob.history(&TALK).into_iter().filter(|entry| entry.mine);
    let seen: Vec<_> = own.map(|entry| (entry.place, entry.seq, entry.state)).collect();
    let shown = |seq, state| (Some(1), Some(seq), state);
    assert_eq!(
        seen,
        [shown(5, EntryState::Sent), shown(6, EntryState::Delivered), shown(7, EntryState::Sent)]
    );
}

/// Whoever is taken in again gets what was said since it stopped, although the conversation has moved
/// meanwhile; and nothing of before somebody new came.
#[test]
fn what_somebody_lacks_is_looked_for_in_earlier_places_too() {
    use crate::conversation::history::set_place;
    let (mut mallory, mut bob, mut carol) = three();
    let id = bob.find(&TALK).expect("in it");
    let own = bob.person();
    for (number, place) in [(1, (1, 5)), (2, (1, 6)), (3, (2, 4)), (4, (3, 2))] {
        let said = Said::new(Text::new("x")).expect("fits");
        let message = Some(MessageId([number; 16]));
        bob.does(|reply| Command::Send { conversation: id, id: message, said, reply }).expect("queued");
        bob.step(|step| Ok(set_place(step.tx, &id, &own, &MessageId([number; 16]), place)?));
    }
    let mallorys = mallory.step(|step| step.own()?.author()).0;
    let carols = carol.step(|step| step.own()?.author()).0;
    let mut lacks = |author, newest| {
        bob.step(|step| {
            let confirmed = Receipt { delivered: 5, read: 0 };
            crate::conversation::set_receipt(step.tx, &id, &mallorys, 1, confirmed)?;
            outbox::remove_all(step.tx, &PLACE)?;
            step.talk(&id, |talk| {
                let earlier = [1, 2].map(|place| (place, Receipt::default()));
                (talk.change().place, talk.change().earlier) = (3, earlier.to_vec());
                talk.change().healing.newest = newest;
                talk.lacked_by(&author)
            })
        })
        .0
        .into_iter()
        .flatten()
        .map(|parcel| match parcel {
            Parcel::Message { message, .. } => message.0[0],
            other => panic!("{other:?}"),
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(lacks(mallorys, (0, 0)), [2, 3, 4]);
    assert_eq!(lacks(mallorys, (2, 1)), [3, 4], "somebody came");
    assert_eq!(lacks(carols, (0, 0)), [4], "who confirmed nothing may have been no member");
}

/// Retry-safe sending: who did not hear the answer says the same again.
#[test]
fn what_is_sent_twice_under_one_id_is_said_once() {
    let (_, mut bob, _) = three();
    let conversation = bob.find(&TALK).expect("in it");
    let id = MessageId([5; 16]);
    for _ in 0..3 {
        let said = Said::new(Text::new("once")).expect("fits");
        let sent = bob.does(|reply| Command::Send { conversation, id: Some(id), said, reply });
        assert_eq!(sent.expect("it is queued"), id);
    }
    assert_eq!((bob.texts(&TALK).len(), bob.rows("outbox")), (1, 1));
    let said = Said::new(Text::new("something else")).expect("fits");
    let sent = bob.does(|reply| Command::Send { conversation, id: Some(id), said, reply });
    assert_eq!(sent.expect_err("it stands for the other").code(), "ID_TAKEN");
    let members = vec![crate::engine::Who::Handle(posthorn_proto::Handle::parse("alice").expect("a handle"))];
    let (id, name, again) = (Some(conversation), String::new(), false);
    let started = bob.does(|reply| Command::Start { id, name, members, again, reply });
    assert_eq!(started.expect_err("an invitation made it").code(), "ID_TAKEN");
    assert_eq!((bob.texts(&TALK).len(), bob.rows("outbox")), (1, 1));
    assert!(matches!(
        bob.does(|reply| Command::Leave(crate::conversation::ConversationId([1; 16]), reply)),
        Err(Error::UnknownConversation)
    ));
    let _: Vec<Effect> = bob.tick();
}
