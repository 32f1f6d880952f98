//! The directory: whom it names, and what follows for those who are to be added.

use posthorn_proto::frame::{
    CardAnswer, Delivery, KeyPackage as Offered, Refusal, Request, ServerBody, ServerFrame,
};
use posthorn_proto::{ErrorCode, Handle, MailboxId};

use super::accounts::serves;
use super::desk::{Desk, alarms, all_opened, elsewhere, link, relay, requests};
use crate::content::{Said, Text};
use crate::conversation::{Cause, Conversation, ConversationId, ConversationState, Intent};
use crate::engine::people;
use crate::engine::{Command, Effect, Link, LinkId, Who};
use crate::group::KeyPackageKind;
use crate::identity::RelayAddress;

type Started = std::sync::mpsc::Receiver<Result<ConversationId, crate::engine::Error>>;

pub(super) fn start(desk: &mut Desk, id: Option<ConversationId>, names: &[&str]) -> (Started, Vec<Effect>) {
    let who = |name: &&str| Who::Handle(Handle::parse(name).expect("a handle"));
    let members = names.iter().map(who).collect();
    desk.asks(|reply| Command::Start { id, name: "g".to_owned(), members, again: false, reply })
}

/// The answer of a directory that knows these people.
fn directory(desk: &mut Desk, effects: &[Effect], known: &mut [(&str, &mut Desk)]) -> Vec<Effect> {
    directory_on(desk, &link(Link::Account), effects, known)
}

/// Likewise, of the one that is asked on this connection.
pub(super) fn directory_on(
    desk: &mut Desk,
    link: &LinkId,
    effects: &[Effect],
    known: &mut [(&str, &mut Desk)],
) -> Vec<Effect> {
    let mut more = Vec::new();
    for frame in requests(effects, link) {
        let (handle, wants_card) = match &frame.body {
            Request::LookUp(handle) => (handle.clone(), true),
            Request::TakeKeyPackages(handle) => (handle.clone(), false),
            _ => continue,
        };
        let found = known.iter_mut().find(|(name, _)| *name == handle.as_str());
        let body = match found {
            None => ServerBody::Error(Refusal::new(ErrorCode::HandleUnknown, "no such account")),
            Some((_, person)) if wants_card => {
                let card = person.card();
                let version = card.version();
                let identity_key = *card.identity().as_bytes();
                ServerBody::Card(CardAnswer { identity_key, version, card: card.encoded().to_vec().into() })
            }
            Some((_, person)) => {
                let device = person.profile().device().id();
                let key_package = person.package(KeyPackageKind::OneTime).into();
                ServerBody::KeyPackages(vec![Offered { device, key_package, last_resort: false }])
            }
        };
        more.extend(desk.answers(link, frame.request, body));
    }
    more
}

/// F2 of the bug hunt: a start with one name that nobody has is no start; and who began it hears so.
#[test]
fn a_start_with_an_unknown_name_fails_whole() {
    let (mut desk, mut alice) = (Desk::new("bob"), Desk::new("alice"));
    desk.authenticates();
    let (answer, effects) = start(&mut desk, None, &["alice", "nosuchperson"]);
    assert_eq!(desk.rows("conversation"), 1);
    directory(&mut desk, &effects, &mut [("alice", &mut alice)]);
    let failed = answer.try_recv().expect("it is over").expect_err("not without nosuchperson");
    assert_eq!(failed.code(), "CANNOT_ADD");
    assert!(failed.to_string().contains("nosuchperson"), "{failed}");
    for table in ["conversation", "reading", "intent", "mls"] {
        let rest = if table == "reading" { 2 } else { 0 };
        assert_eq!(desk.rows(table), rest, "{table}");
    }
}

/// Rule 25: whom we begin to talk with need not be accepted again, once the directory says who that is.
#[test]
fn whom_we_begin_with_is_accepted() {
    let (mut desk, mut alice) = (Desk::new("bob"), Desk::new("alice"));
    desk.authenticates();
    let (_started, effects) = start(&mut desk, None, &["alice"]);
    let people = |desk: &mut Desk| desk.does(Command::People).expect("has an account");
    assert!(people(&mut desk).is_empty(), "nobody knows yet who that is");
    directory(&mut desk, &effects, &mut [("alice", &mut alice)]);
    let [met] = &people(&mut desk)[..] else { panic!("one") };
    assert!(met.person == alice.person() && met.accepted, "{met:?}");
}

/// Finding 5: card, key package and the name that was asked for agree, or nobody is added.
#[test]
fn a_directory_that_names_another_adds_nobody() {
    // Mallory's card and key packages under alice's name.
    let (mut desk, mut mallory) = (Desk::new("bob"), Desk::new("mallory"));
    desk.authenticates();
    let (answer, effects) = start(&mut desk, None, &["alice"]);
    directory(&mut desk, &effects, &mut [("alice", &mut mallory)]);
    assert_eq!(answer.try_recv().expect("it is over").expect_err("not her").code(), "CANNOT_ADD");
    // Alice's card, and key packages of a device that is not on it.
    let (mut desk, mut alice) = (Desk::new("bob"), Desk::new("alice"));
    desk.authenticates();
    let (answer, effects) = start(&mut desk, None, &["alice"]);
    let effects = directory(&mut desk, &effects, &mut [("alice", &mut alice)]);
    let mut other = Desk::made("alice", &relay(), |profile| {
        profile.borrow_device_id(posthorn_proto::DeviceId([9; 16]));
    });
    directory(&mut desk, &effects, &mut [("alice", &mut other)]);
    assert_eq!(answer.try_recv().expect("it is over").expect_err("not it").code(), "CANNOT_ADD");
    // Another alice than the one whom the directory named before: she stays.
    let (mut desk, mut alice) = (Desk::new("bob"), Desk::new("alice"));
    desk.authenticates();
    let (handle, person) = (Handle::parse("alice").expect("a handle"), Desk::new("alicia").person());
    desk.step(|step| Ok(crate::people::pin::pin(step.tx, &relay().identity, &handle, &person)?));
    let (answer, effects) = start(&mut desk, None, &["alice"]);
    directory(&mut desk, &effects, &mut [("alice", &mut alice)]);
    assert_eq!(answer.try_recv().expect("it is over").expect_err("another").code(), "CANNOT_ADD");
    let pin = desk.step(|step| Ok(crate::people::pin::pinned(step.tx, &relay().identity, &handle)?)).0;
    assert_eq!(pin, Some(person));
    // Until our user compares her number, and says so.
    let alice = alice.person();
    let marks = desk.asks(|reply| Command::Verify { person: alice, verified: true, reply }).0;
    marks.try_recv().expect("at once").expect("she was met");
    let pin = desk.step(|step| Ok(crate::people::pin::pinned(step.tx, &relay().identity, &handle)?)).0;
    assert_eq!(pin, Some(alice));
}

/// Retry-safe starting, and finding 17: an invitation that one inbox refuses is tried at the other, and then
/// the device is taken out again.
#[test]
fn an_invitation_that_cannot_be_left_is_an_obligation_with_an_end() {
    let (mut desk, mut alice) = (Desk::new("bob"), Desk::new("alice"));
    // Her leaf in another conversation named her private inbox.
    knows_inbox(&mut desk, &mut alice, &relay());
    let (id, mailboxes, post) = (ConversationId([3; 16]), link(Link::Mailboxes), link(Link::Post));
    let mut effects = desk.authenticates();
    effects.extend(desk.connects(&mailboxes));
    serves(&mut desk, effects, 16);
    let (first, effects) = start(&mut desk, Some(id), &["alice"]);
    let (second, more) = start(&mut desk, Some(id), &["alice"]);
    assert!(requests(&more, &link(Link::Account)).is_empty(), "it is asked already");
    assert_eq!(desk.rows("conversation"), 1);
    // The mailbox is made and opened, alice is found, and the commit goes out.
    let group = desk.step(|step| Ok(Conversation::load(step.tx, &id)?)).0.expect("is").group;
    let create = requests(&effects, &mailboxes).into_iter().find(|f| matches!(f.body, Request::Create(_)));
    let mut out = directory(&mut desk, &effects, &mut [("alice", &mut alice)]);
    out.extend(desk.answers(&mailboxes, create.expect("it makes one").request, ServerBody::Created));
    let state = desk.locked(&group, 0, 0);
    let opens = all_opened(&requests(&out, &mailboxes), |_| state);
    let mut more = directory(&mut desk, &out, &mut [("alice", &mut alice)]);
    more.extend(desk.frames(&mailboxes, vec![opens]));
    let commit = reads_back(&mut desk, &more, 1);
    assert_eq!(first.try_recv().expect("it stands").expect("begun"), id);
    assert_eq!(second.try_recv().expect("it stands").expect("begun"), id);
    assert_eq!(start(&mut desk, Some(id), &["alice"]).0.try_recv().expect("at once").expect("stands"), id);
    // It goes a little later, on a connection that says nothing else: to the inbox that her leaf named, then,
    // as that is gone, to the one on her card.
    assert!(requests(&commit, &post).is_empty());
    desk.now += 1_000;
    desk.tick();
    let mut effects = desk.connects(&post);
    for mailbox in [alice.profile().private_inbox.mailbox, alice.profile().public_inbox.mailbox] {
        let (request, to) = inbox_post(&effects, &post).expect("it is tried");
        assert_eq!(to, mailbox);
        assert!(!desk.intents(&group).iter().any(|intent| matches!(intent, Intent::Remove { .. })));
        let gone = Refusal::new(ErrorCode::MailboxUnknown, "no such inbox");
        effects = desk.answers(&post, request, ServerBody::Error(gone));
        desk.now += 1_000;
        effects.extend(desk.tick());
    }
    assert_eq!(inbox_post(&effects, &post), None);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Disconnect(link) if *link == post)));
    let person = alice.person();
    let taken = |intent: &Intent| matches!(intent, Intent::Remove { person: who, .. } if *who == person);
    assert!(desk.intents(&group).iter().any(taken));
    assert_eq!(desk.rows("outbox"), 1, "the commit that takes her out");
}

fn inbox_post(effects: &[Effect], on: &LinkId) -> Option<(u64, MailboxId)> {
    requests(effects, on).into_iter().find_map(|frame| match frame.body {
        Request::Post(post) => Some((frame.request, post.mailbox)),
        _ => None,
    })
}

/// The relay takes the post among these effects and delivers it back.
fn reads_back(desk: &mut Desk, effects: &[Effect], seq: u64) -> Vec<Effect> {
    let id = link(Link::Mailboxes);
    let found = requests(effects, &id).into_iter().find_map(|frame| match frame.body {
        Request::Post(post) => Some((frame.request, post)),
        _ => None,
    });
    let (request, post) = found.expect("it posts");
    let back = Delivery {
        mailbox: post.mailbox,
        seq,
        post_id: post.post_id,
        envelope: post.envelope,
        turn: post.turn.map(|turn| turn.turn),
    };
    let mut effects = desk.answers(&id, request, ServerBody::Posted { seq });
    effects.extend(desk.frames(&id, vec![ServerFrame::push(ServerBody::Delivery(back))]));
    effects
}

/// A leaf of this person named their private inbox, as if it were at this relay.
fn knows_inbox(desk: &mut Desk, person: &mut Desk, at: &RelayAddress) {
    let (card, inbox) = (person.card(), person.profile().private_inbox.address(at));
    let credential = card.devices()[0].credential.clone();
    desk.step(|step| Ok(people::meet_member(step.tx, &credential, Some(&inbox))?));
}

/// Finding 2: a member's leaf names an inbox on any host: that is no consent to connect there.
#[test]
fn an_inbox_at_a_foreign_relay_is_none() {
    let (mut desk, mut alice) = (Desk::new("bob"), Desk::new("alice"));
    let card = alice.card();
    desk.step(|step| Ok(people::meet(step.tx, &card)?));
    knows_inbox(&mut desk, &mut alice, &elsewhere());
    let device = card.devices()[0].credential.device();
    let inboxes = desk.step(|step| step.inboxes_of(&card.identity(), &device)).0;
    assert_eq!(inboxes, [card.devices()[0].public_inbox.clone()]);
    // One that is known keeps the address that it is known by.
    let url = crate::identity::RelayUrl::parse("ws://192.168.1.1:80").expect("a URL");
    knows_inbox(&mut desk, &mut alice, &RelayAddress { url, ..relay() });
    let inboxes = desk.step(|step| step.inboxes_of(&card.identity(), &device)).0;
    assert!(inboxes.len() == 2 && inboxes.iter().all(|inbox| inbox.relay == relay()));
}

/// What goes wrong before a conversation has its mailbox does not make it one that was lost: it is begun
/// later.
#[test]
fn what_cannot_be_begun_is_begun_later() {
    let mut desk = Desk::new("bob");
    let id = ConversationId([3; 16]);
    start(&mut desk, Some(id), &["alice"]);
    let (_, effects) = desk.step(|step| step.suspend_talk(&id, Cause::Internal, "odd"));
    assert_eq!(alarms(&effects), [Cause::Internal]);
    let record = desk.step(|step| step.talk_known(&id, |talk| Ok(talk.record().state.clone()))).0;
    assert_eq!(record, ConversationState::Creating);
    assert!(desk.engine.live.timers.contains(&(desk.now + 60_000, id)));
}

/// Without a relay nobody knows yet who that is; what was begun is begun once all the same.
#[test]
fn a_conversation_that_is_begun_twice_offline_is_one() {
    let mut ann = Desk::new("ann");
    let mut start = |who: &str, again: bool| {
        let members = vec![Who::Handle(Handle::parse(who).expect("a handle"))];
        let (id, name) = (None, String::new());
        drop(ann.asks(|reply| Command::Start { id, name, members, again, reply }));
        ann.does(Command::Conversations).expect("has an account").len()
    };
    assert_eq!(
        [start("bob", false), start("bob", false), start("carol", false), start("bob", true)],
        [1, 1, 2, 3]
    );
    let list = ann.does(Command::Conversations).expect("has an account");
    let mut with: Vec<_> = list.into_iter().flat_map(|known| known.adding).collect();
    with.sort();
    assert_eq!(with, ["bob", "bob", "carol"], "it is told with whom");
}

/// What is said while the first people are still looked up is for them, too.
#[test]
fn what_is_said_at_the_beginning_waits_for_the_first_people() {
    let (mut desk, mut alice) = (Desk::new("bob"), Desk::new("alice"));
    let (id, mailboxes) = (ConversationId([3; 16]), link(Link::Mailboxes));
    let mut effects = desk.authenticates();
    effects.extend(desk.connects(&mailboxes));
    serves(&mut desk, effects, 16);
    let (_started, begun) = start(&mut desk, Some(id), &["alice"]);
    let group = desk.step(|step| Ok(Conversation::load(step.tx, &id)?)).0.expect("is").group;
    // The mailbox is there before the directory has answered.
    let create = requests(&begun, &mailboxes).into_iter().find(|f| matches!(f.body, Request::Create(_)));
    let made = desk.answers(&mailboxes, create.expect("it makes one").request, ServerBody::Created);
    let state = desk.locked(&group, 0, 0);
    let opens = all_opened(&requests(&made, &mailboxes), |_| state);
    let mut out = desk.frames(&mailboxes, vec![opens]);
    let said = Said::new(Text::new("are you there?")).expect("fits");
    out.extend(desk.asks(|reply| Command::Send { conversation: id, id: None, said, reply }).1);
    assert_eq!(posts(&out, &mailboxes), 0, "nobody could read it");
    let found = directory(&mut desk, &begun, &mut [("alice", &mut alice)]);
    let added = directory(&mut desk, &found, &mut [("alice", &mut alice)]);
    assert_eq!(posts(&added, &mailboxes), 1, "the commit");
    let after = reads_back(&mut desk, &added, 1);
    assert_eq!(posts(&after, &mailboxes), 1, "and then what was said");
}

fn posts(effects: &[Effect], on: &LinkId) -> usize {
    requests(effects, on).iter().filter(|frame| matches!(frame.body, Request::Post(_))).count()
}
