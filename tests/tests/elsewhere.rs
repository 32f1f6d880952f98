//! People of several relays talk: each has an account at one of them, and knows nobody at the others but
//! people.

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use common::relay_program;
use posthorn_client::conversation::{ConversationState, EntryState, GroupId};
use posthorn_client::engine::{Known, Who};
use posthorn_client::identity::{PersonId, RelayUrl, Route};
use posthorn_proto::Handle;
use posthorn_tests::person::Person;
use posthorn_tests::relay::RelayProcess;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Outcome = anyhow::Result<()>;

async fn relay() -> anyhow::Result<RelayProcess> {
    RelayProcess::start(&relay_program(), &[]).await
}

/// Somebody at another relay, as their contact link names them.
async fn by_link(person: &Person) -> anyhow::Result<Who> {
    let account = person.client().account().await?.ok_or_else(|| anyhow::anyhow!("no account"))?;
    Ok(Who::Link(account.link.parse()?))
}

/// Likewise, by their handle there.
fn by_handle(person: &Person, relay: &RelayProcess) -> anyhow::Result<Who> {
    Ok(Who::Elsewhere(Handle::parse(&person.name)?, RelayUrl::parse(&relay.client_url())?))
}

/// Waits until these are the members, whatever they are called.
async fn sees(person: &mut Person, group: GroupId, members: &[PersonId]) -> Outcome {
    let wanted: BTreeSet<_> = members.iter().copied().collect();
    let what = format!("{} sees {} members", person.name, members.len());
    person
        .until(&what, async |person| {
            let Some(summary) = person.summary(group).await? else { return Ok(false) };
            let seen: BTreeSet<_> = summary.members.iter().map(|member| member.person).collect();
            Ok(matches!(summary.state, ConversationState::Active) && seen == wanted)
        })
        .await
}

/// Accepts the invitation that waits, and the relay that it leads to.
async fn accepts(person: &mut Person) -> Outcome {
    let invited = person.is_invited().await?;
    let conversation = person.client().conversation(invited);
    let refused = conversation.accept(false).await.expect_err("the relay takes a word of its own");
    assert_eq!(refused.code(), "FOREIGN_RELAY");
    Ok(conversation.accept(true).await?)
}

#[tokio::test]
async fn two_people_of_two_relays_talk() -> Outcome {
    let (here, there) = (relay().await?, relay().await?);
    let mut alice = Person::register(&here, "alice").await?;
    let mut carol = Person::register_shy(&there, "carol").await?;
    let both = [alice.id().await?, carol.id().await?];
    let group = alice.client().start("", vec![by_link(&carol).await?]).await?.summary().await?.group;
    accepts(&mut carol).await?;
    for person in [&mut alice, &mut carol] {
        sees(person, group, &both).await?;
    }
    alice.say(group, "from here").await?;
    carol.reads(group, "from here").await?;
    carol.say(group, "from there").await?;
    alice.reads(group, "from there").await?;
    // Her relay vouches for her name; of alice nobody has asked hers.
    let shown = alice.client().people().await?;
    assert_eq!((&shown[0].handle, shown[0].known), (&format!("carol@{}", there.address()), Known::Pinned));
    let summary = carol.summary(group).await?.expect("is");
    assert_eq!(summary.relay, here.client_url());
    let relays = carol.client().relays().await?;
    let seen: Vec<_> =
        relays.iter().map(|known| (known.relay.clone(), known.own, known.conversations)).collect();
    assert_eq!(seen, [(there.client_url(), true, 0), (here.client_url(), false, 1)]);
    // Carol is out and comes back, by her handle this time: relay and person are accepted already.
    alice.conversation(group).await?.remove(both[1]).await?;
    sees(&mut alice, group, &both[..1]).await?;
    carol
        .until("carol is out", async |carol| {
            Ok(matches!(carol.summary(group).await?.map(|it| it.state), Some(ConversationState::Removed)))
        })
        .await?;
    alice.conversation(group).await?.add(vec![by_handle(&carol, &there)?]).await?;
    sees(&mut carol, group, &both).await?;
    carol.say(group, "here again").await?;
    alice.reads(group, "here again").await
}

#[tokio::test]
async fn people_of_three_relays_are_in_one_group_and_a_dead_one_delays_only_its_own() -> Outcome {
    let (mut first, second, mut third) = (relay().await?, relay().await?, relay().await?);
    let mut alice = Person::register(&first, "alice").await?;
    let mut bob = Person::register_shy(&second, "bob").await?;
    let mut carol = Person::register_shy(&third, "carol").await?;
    let all = [alice.id().await?, bob.id().await?, carol.id().await?];
    let members = vec![by_link(&bob).await?, by_handle(&carol, &third)?];
    let group = alice.client().start("all of us", members).await?.summary().await?.group;
    accepts(&mut bob).await?;
    accepts(&mut carol).await?;
    for person in [&mut alice, &mut bob, &mut carol] {
        sees(person, group, &all).await?;
    }
    // One who is not the first adds another, whose relay is a third one for her.
    let mut dave = Person::register_shy(&second, "dave").await?;
    carol.conversation(group).await?.add(vec![by_link(&dave).await?]).await?;
    accepts(&mut dave).await?;
    let four = [all[0], all[1], all[2], dave.id().await?];
    for person in [&mut alice, &mut bob, &mut carol, &mut dave] {
        sees(person, group, &four).await?;
    }
    bob.say(group, "hello everybody").await?;
    for person in [&mut alice, &mut carol, &mut dave] {
        person.reads(group, "hello everybody").await?;
    }
    // Carol's own relay dies: what lives at the first goes on, for her, too.
    third.kill().await?;
    carol.say(group, "my relay is gone").await?;
    alice.reads(group, "my relay is gone").await?;
    // Then the first one dies: bob's own is there, nothing of his hangs, and he is told what waits.
    let home = bob.client().start("", vec![dave.contact()?]).await?.summary().await?.group;
    first.kill().await?;
    bob.until("the other relay is missed", async |bob| {
        Ok(!bob.client().state().await?.unreachable.is_empty())
    })
    .await?;
    let state = async |bob: &Person| {
        Ok::<_, anyhow::Error>(bob.history(group).await?.last().map(|entry| entry.state))
    };
    bob.say(group, "is anybody there?").await?;
    bob.say(home, "the other relay is gone").await?;
    bob.settle().await?;
    assert_eq!(state(&bob).await?, Some(EntryState::Queued));
    let missed = bob.client().state().await?;
    assert!(missed.connected && missed.unreachable[0].relay == first.client_url(), "{missed:?}");
    first.restart().await?;
    for person in [&mut alice, &mut dave] {
        person.reads(group, "is anybody there?").await?;
    }
    bob.until("nothing is missed", async |bob| Ok(bob.client().state().await?.unreachable.is_empty())).await
}

#[tokio::test]
async fn a_closed_directory_is_told_and_people_there_can_still_invite() -> Outcome {
    let here = relay().await?;
    let closed = RelayProcess::start(&relay_program(), &["--set", "open_directory=false"]).await?;
    let mut alice = Person::register(&here, "alice").await?;
    let carol = Person::register(&closed, "carol").await?;
    let refused = alice.client().start("", vec![by_link(&carol).await?]).await.expect_err("it is closed");
    assert_eq!(refused.code(), "CANNOT_ADD");
    assert!(refused.to_string().contains("have the person invite you"), "{refused}");
    // Alice named somebody there: the relay is in use, and she takes everybody's invitations to such.
    let group = carol.client().start("", vec![by_link(&alice).await?]).await?.summary().await?.group;
    let both = [carol.id().await?, alice.id().await?];
    sees(&mut alice, group, &both).await?;
    carol.say(group, "welcome").await?;
    alice.reads(group, "welcome").await
}

/// A SOCKS5 proxy (RFC 1928 and 1929) that knows one name; who asked for what.
struct Proxy {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    _serving: JoinSet<()>,
}

impl Proxy {
    async fn start(to: std::net::SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, asked) = (listener.local_addr()?, Arc::new(Mutex::new(Vec::new())));
        let (mut serving, seen) = (JoinSet::new(), asked.clone());
        serving.spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = seen.clone();
                // Whoever hangs up in the middle has what it wanted.
                carried.spawn(async move { drop(carry(stream, to, &seen).await) });
            }
        });
        Ok(Self { address, asked, _serving: serving })
    }
}

async fn carry(
    mut stream: TcpStream,
    to: std::net::SocketAddr,
    asked: &Mutex<Vec<(String, String)>>,
) -> std::io::Result<()> {
    let text = async |stream: &mut TcpStream| {
        let mut bytes = vec![0; stream.read_u8().await?.into()];
        stream.read_exact(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    assert_eq!(stream.read_u8().await?, 5);
    assert!(text(&mut stream).await?.contains(&2), "it offers credentials");
    stream.write_all(&[5, 2]).await?;
    assert_eq!(stream.read_u8().await?, 1);
    let name = String::from_utf8(text(&mut stream).await?).expect("UTF-8");
    text(&mut stream).await?;
    stream.write_all(&[1, 0]).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    assert_eq!(head, [5, 1, 0, 3], "a connection to a name, which the proxy resolves");
    let host = String::from_utf8(text(&mut stream).await?).expect("UTF-8");
    stream.read_u16().await?;
    asked.lock().expect("not poisoned").push((name, host));
    let mut there = TcpStream::connect(to).await?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut there).await?;
    Ok(())
}

#[tokio::test]
async fn a_relay_behind_a_proxy_is_reached_by_its_name_there_each_time_as_somebody_else() -> Outcome {
    let (here, there) = (relay().await?, relay().await?);
    let proxy = Proxy::start(there.address()).await?;
    let alice = Person::register(&here, "alice").await?;
    let mut carol = Person::register_shy(&there, "carol").await?;
    let hidden = RelayUrl::parse("ws://relay.hidden.test:80")?;
    let route: Route = format!("socks5://{}", proxy.address).parse()?;
    alice.client().route(hidden.clone(), Some(route.clone())).await?;
    let who = Who::Elsewhere(Handle::parse("carol")?, hidden.clone());
    let refused = alice.client().start("", vec![who.clone()]).await.expect_err("it has no TLS");
    assert_eq!(refused.code(), "PLAIN_RELAY");
    alice.client().use_relay(hidden.clone()).await?;
    let group = alice.client().start("", vec![who]).await?.summary().await?.group;
    accepts(&mut carol).await?;
    alice.say(group, "from behind").await?;
    carol.reads(group, "from behind").await?;
    let asked = proxy.asked.lock().expect("not poisoned").clone();
    assert!(asked.len() >= 2, "for her name, and with the invitation: {asked:?}");
    assert!(asked.iter().all(|(_, host)| host == "relay.hidden.test"), "{asked:?}");
    let names: BTreeSet<_> = asked.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), asked.len(), "no two connections have one name");
    let relays = alice.client().relays().await?;
    let routes: Vec<_> = relays.iter().map(|known| (known.own, known.route.clone())).collect();
    assert_eq!(routes, [(true, "direct".to_owned()), (false, route.to_string())]);
    // A relay without a word of its own goes the way of our own.
    alice.client().route(RelayUrl::parse(&here.client_url())?, Some(route.clone())).await?;
    alice.client().route(hidden, None).await?;
    assert!(alice.client().relays().await?.iter().all(|known| known.route == route.to_string()));
    Ok(())
}
