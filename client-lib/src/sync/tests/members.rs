//! Members: they hold the group's keys, and can say and commit what they want.

use posthorn_proto::chain::Chain;
use posthorn_proto::frame::Delivery;
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{DeviceId, KeyHash, MailboxId, PostId, Reader, ReaderId, Turn};

use super::desk::{Desk, alarms, relay};
use crate::content::{Content, ContentBody, InboxMessage, Position, Receipt, WelcomeRefused};
use crate::conversation::{
    Body, Cause, ConversationId, ConversationState, Intent, MessageId, MessageState, Notice, intents,
};
use crate::envelope::Slot;
use crate::session::{
    Change, GroupInfo, KeyPackageKind, Provider, ReaderSecret, Session, UnverifiedKeyPackage,
};
use crate::sync::reading::Reading;
use crate::sync::receive::{After, Arrival};
use crate::sync::{Answer, Command, CommandError, CommandId, Effect, Input};

const TALK: ConversationId = ConversationId([0x77; 16]);
const PLACE: MailboxId = MailboxId([0x66; 16]);

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

fn three() -> (Desk, Desk, Desk) {
    let (mut mallory, mut bob, mut carol) = (Desk::new("mallory"), Desk::new("bob"), Desk::new("carol"));
    assert_eq!(together(&mut mallory, &mut bob, &mut carol), []);
    (mallory, bob, carol)
}

fn text(words: &str) -> Content {
    Content {
        message: MessageId([7; 16]),
        sent_at: 1,
        position: Position { seq: 1, chain: Chain([4; 32]) },
        receipt: Receipt::default(),
        body: ContentBody::Text(words.to_owned()),
    }
}

/// The envelope in which a member says something.
fn says(desk: &mut Desk, content: &Content, post: PostId) -> Vec<u8> {
    desk.session(&TALK, |session, own, rng| {
        let encrypted = session.encrypt(own, &content.encode())?;
        let slot = Slot { mailbox: PLACE, post, turn: TurnHash::NONE };
        Ok(session.keys()?.envelope.seal(&slot, &encrypted, rng).expect("fits"))
    })
}

/// The envelope in which a member commits a change, with the turn that it demands.
fn commits(desk: &mut Desk, post: PostId, change: impl FnOnce(&Session<'_>) -> Change) -> (Vec<u8>, Turn) {
    commits_with(desk, post, change, |_| {})
}

/// Likewise, with a turn that says something else.
fn commits_with(
    desk: &mut Desk,
    post: PostId,
    change: impl FnOnce(&Session<'_>) -> Change,
    bend: impl FnOnce(&mut Turn),
) -> (Vec<u8>, Turn) {
    desk.session(&TALK, |session, own, rng| {
        let change = change(session);
        let keys = session.keys()?;
        let staged = session.stage(own, &change)?;
        let next = staged.outcome.keys.as_ref().expect("stays a member");
        let mut turn = Turn {
            post_key_hash: next.post.hash(),
            turn_key_hash: next.turn.hash(),
            admit: vec![],
            evict: staged.outcome.removed.iter().map(|member| member.reader).collect(),
        };
        bend(&mut turn);
        let slot = Slot { mailbox: PLACE, post, turn: TurnHash::of(Some(&turn)) };
        let envelope = keys.envelope.seal(&slot, &staged.commit, rng).expect("fits");
        session.merge_pending()?;
        Ok((envelope, turn))
    })
}

/// Reads an envelope as the next one: why the mailbox stops, if it does, and the alarms.
fn reads(
    desk: &mut Desk,
    post: PostId,
    envelope: Vec<u8>,
    turn: Option<Turn>,
) -> (Option<Cause>, Vec<Cause>) {
    let (after, effects): (Option<Cause>, Vec<Effect>) = desk.step(|step| {
        let mut reading = Reading::load(step.tx, &PLACE)?.expect("reads it");
        let (hash, seq) = (TurnHash::of(turn.as_ref()), reading.seq + 1);
        let delivery = Delivery { mailbox: PLACE, seq, post_id: post, envelope: envelope.into(), turn };
        let chain = reading.chain().next(seq, &post, &hash, &delivery.envelope);
        let arrival = Arrival { mailbox: PLACE, delivery: &delivery, turn: hash, chain };
        let after = step.conversation_delivery(&TALK, &reading, &arrival)?;
        reading.advance(step.tx, &PLACE, chain)?;
        Ok(match after {
            After::Go => None,
            After::Stop(cause, _) => Some(cause),
        })
    });
    (after, alarms(&effects))
}

fn leaf_of(session: &Session<'_>, handle: &str) -> u32 {
    let members = session.members().expect("loads");
    members.iter().find(|member| member.credential.handle().as_str() == handle).expect("is in").leaf
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
        let mut content = text("second");
        content.position.chain = Chain([9; 32]);
        if !kept {
            bob.step(|step| Ok(step.tx.sql().execute("DELETE FROM chain", [])?));
        }
        let second = says(&mut mallory, &content, PostId([3; 16]));
        assert_eq!(reads(&mut bob, PostId([3; 16]), second, None), (None, expected));
    }
}

/// A member makes another group of the same id, with the same people, and invites bob to it: he would talk
/// there, alone with mallory, and think that nothing happened.
#[test]
fn a_member_cannot_move_another_to_a_group_of_its_own() {
    let (_, mut bob, _) = three();
    // The same mallory, with another group.
    let mut mallory = Desk::new("mallory");
    let card = bob.card();
    let package = bob.package(KeyPackageKind::OneTime);
    let mut made = mallory.group(TALK, MailboxId([0x99; 16]), &[(package, &card)]);
    let again = bob.package(KeyPackageKind::OneTime);
    made.welcome = mallory
        .step(|step| {
            let own = crate::sync::account::OwnDevice::of(
                &crate::sync::profile::Profile::load(step.tx)?.expect("is"),
            )?;
            let provider = Provider::new(step.tx);
            let mut session = Session::load(&provider, &TALK)?;
            let remove = vec![leaf_of(&session, "bob")];
            session.stage(&own.leaf(), &Change { remove, ..Change::default() })?;
            session.merge_pending()?;
            let package = UnverifiedKeyPackage::parse(&again).expect("well formed");
            let add = vec![package.verify(&provider, &card.identity(), step.now).expect("good")];
            let staged = session.stage(&own.leaf(), &Change { add, ..Change::default() })?;
            session.merge_pending()?;
            Ok(staged.welcome.expect("somebody is added"))
        })
        .0;
    let mut invitation = mallory.invitation(TALK, &made, &card);
    invitation.seq = 9;
    let before = bob.conversation(&TALK).expect("in it");
    let sealed = mallory.sealed(&invitation, &card, PostId([3; 16]));
    assert_eq!(bob.takes(PostId([3; 16]), sealed), [Cause::BadInvitation]);
    let after = bob.conversation(&TALK).expect("in it");
    assert_eq!((after.mailbox, after.epoch), (before.mailbox, before.epoch));
    assert!(bob.reading(&PLACE).is_some());
}

/// The relay keeps an invitation and delivers it again when the conversation has ended. With a last-resort
/// key package the Welcome opens once more, into an epoch in which this device has been before (C1: MLS state
/// never rolls back).
#[test]
fn an_old_invitation_leads_nowhere() {
    let (mut mallory, mut bob) = (Desk::new("mallory"), Desk::new("bob"));
    let (card, package) = (bob.card(), bob.package(KeyPackageKind::LastResort));
    let made = mallory.group(TALK, PLACE, &[(package, &card)]);
    let invitation = mallory.invitation(TALK, &made, &card);
    let sealed = mallory.sealed(&invitation, &card, PostId([1; 16]));
    assert_eq!(bob.takes(PostId([1; 16]), sealed.clone()), []);
    let post = PostId([2; 16]);
    let (commit, turn) = commits(&mut mallory, post, |session| Change {
        remove: vec![leaf_of(session, "bob")],
        ..Change::default()
    });
    let id = super::desk::link(crate::sync::Link::Mailboxes);
    bob.connects(&relay());
    bob.step(|step| {
        let reading = Reading::load(step.tx, &PLACE)?.expect("reads it");
        let hash = TurnHash::of(Some(&turn));
        let delivery = Delivery {
            mailbox: PLACE,
            seq: 2,
            post_id: post,
            envelope: commit.into(),
            turn: Some(turn.clone()),
        };
        let chain = reading.chain().next(2, &post, &hash, &delivery.envelope);
        let arrival = Arrival { mailbox: PLACE, delivery: &delivery, turn: hash, chain };
        let After::Stop(cause, text) = step.conversation_delivery(&TALK, &reading, &arrival)? else {
            panic!("he is removed")
        };
        step.stop_reading(&id, &PLACE, reading, cause, text)
    });
    assert_eq!(bob.conversation(&TALK).expect("known").state, ConversationState::Removed);
    assert_eq!(bob.takes(PostId([1; 16]), sealed), [Cause::BadInvitation]);
    assert_eq!(bob.conversation(&TALK).expect("known").state, ConversationState::Removed);
}

/// A commit that moves the conversation, or makes other names for its readers: newcomers would be sent
/// elsewhere, and nobody's reader could be evicted any more.
#[test]
fn a_commit_moves_nothing() {
    let moves: [fn(&mut GroupInfo); 3] = [
        |info| info.mailbox = MailboxId([0x99; 16]),
        |info| info.relay.identity.0 = [9; 32],
        |info| {
            let mut rng: rand_chacha::ChaCha20Rng = rand::SeedableRng::from_seed([1; 32]);
            info.reader_secret = ReaderSecret::generate(&mut rng);
        },
    ];
    for change in moves {
        let (mut mallory, mut bob, _) = three();
        let post = PostId([2; 16]);
        let (commit, turn) = commits(&mut mallory, post, |session| {
            let mut info = session.info().clone();
            change(&mut info);
            Change { info: Some(info), ..Change::default() }
        });
        assert_eq!(reads(&mut bob, post, commit, Some(turn)).0, Some(Cause::BadTurn));
        assert_eq!(bob.session(&TALK, |session, _, _| Ok(session.info().mailbox)), PLACE);
    }
    // A name may change.
    let (mut mallory, mut bob, _) = three();
    let post = PostId([2; 16]);
    let (commit, turn) = commits(&mut mallory, post, |session| {
        let info = GroupInfo { name: "garden".to_owned(), ..session.info().clone() };
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
        let remove =
            |session: &Session<'_>| Change { remove: vec![leaf_of(session, "carol")], ..Change::default() };
        let (commit, turn) = commits_with(&mut mallory, post, remove, bend);
        assert_eq!(reads(&mut bob, post, commit, Some(turn)).0, Some(Cause::BadTurn));
        assert_eq!(bob.session(&TALK, |session, _, _| Ok(session.epoch())), 1);
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

/// Two who call themselves alike: one of them is not who they say.
#[test]
fn of_two_with_one_name_none_is_removed_by_it() {
    let (mut bob, mut carol) = (Desk::new("bob"), Desk::new("carol"));
    let mut mallory = Desk::made("mallory", &relay(), |profile| profile.borrow_handle("carol"));
    assert_eq!(together(&mut mallory, &mut bob, &mut carol), [Cause::NameTwice; 2], "both are warned");
    let answer = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|effect| match effect {
            Effect::Answer(_, answer) => Some(*answer),
            _ => None,
        })
    };
    let members = bob.conversation(&TALK).expect("in it").members;
    assert!(members[0] != members[2] && members[0].starts_with("carol") && members[2].starts_with("carol"));
    let remove = |handle: &str| Command::Remove { conversation: TALK, handle: handle.to_owned() };
    let refused = answer(bob.handle(Input::Command(CommandId(1), remove("carol"))));
    assert!(matches!(refused, Some(Err(CommandError::Failed { cause: "AMBIGUOUS", .. }))), "{refused:?}");
    // By the longer name it is clear who is meant.
    let effects = bob.handle(Input::Command(CommandId(2), remove(&members[0])));
    assert!(answer(effects).is_none(), "it is under way");
    let key = *mallory.profile().identity().key().as_bytes();
    let wanted = bob.step(|step| Ok(intents(step.tx, &TALK)?)).0;
    assert!(
        wanted
            .iter()
            .any(|(_, intent)| matches!(intent, Intent::Remove { identity, .. } if *identity == key))
    );
}

/// "My Welcome does not open", again and again: each would be two commits.
#[test]
fn a_device_is_readmitted_once_at_a_time() {
    let (_, mut bob, mut carol) = three();
    let device = carol.profile().device().id();
    for _ in 0..5 {
        let key_package = carol.package(KeyPackageKind::OneTime);
        let refused = WelcomeRefused { conversation: TALK, device, key_package, cause: String::new() };
        let InboxMessage::WelcomeRefused(refused) =
            InboxMessage::decode(&refused.encode()).expect("well formed")
        else {
            panic!("what was encoded")
        };
        bob.step(|step| step.welcome_refused(&refused));
    }
    let wanted = bob.step(|step| Ok(intents(step.tx, &TALK)?)).0;
    let readmit = wanted.iter().filter(|(_, intent)| matches!(intent, Intent::Readmit { .. })).count();
    assert_eq!(readmit, 1);
}

/// Anybody can send that answer, with a key package from the directory: a device that has been heard of stays
/// (rule 14).
#[test]
fn a_device_that_was_heard_of_is_not_exchanged() {
    let (mut mallory, mut bob, _) = three();
    let device = mallory.profile().device().id();
    let key_package = mallory.package(KeyPackageKind::OneTime);
    let refused = WelcomeRefused { conversation: TALK, device, key_package, cause: String::new() };
    bob.step(|step| step.welcome_refused(&refused));
    let wanted = bob.step(|step| Ok(intents(step.tx, &TALK)?)).0;
    assert!(!wanted.iter().any(|(_, intent)| matches!(intent, Intent::Readmit { .. })));
}

/// What was to be said in a conversation that ends is not queued for ever: it has failed, and says why (C2,
/// C3). And whoever was removed finds that in the conversation, also when the commit that did it is not to be
/// had any more.
#[test]
fn what_was_queued_fails_when_the_conversation_ends() {
    let (_, mut bob, _) = three();
    let sent = bob.handle(Input::Command(
        CommandId(1),
        Command::Send { conversation: TALK, text: "too late".to_owned() },
    ));
    assert!(sent.iter().any(
        |effect| matches!(effect, Effect::Answer(_, answer) if matches!(**answer, Ok(Answer::Queued(_))))
    ));
    let id = super::desk::link(crate::sync::Link::Mailboxes);
    bob.step(|step| {
        let reading = Reading::load(step.tx, &PLACE)?.expect("reads it");
        step.stop_reading(&id, &PLACE, reading, Cause::Evicted, "the relay says so")
    });
    let history = bob.history(&TALK);
    let own = history.iter().find(|message| message.mine).expect("his text");
    assert_eq!(own.state, MessageState::Failed(Cause::Evicted));
    let removed = |body: &Body| matches!(body, Body::Notice(Notice::Removed { who, .. }) if *who == ["bob"]);
    assert!(history.iter().any(|message| removed(&message.body)), "{history:?}");
}
