//! What must be true of every frame that a device sends, whatever it does: looked at on the wire, in every
//! scenario.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use posthorn_client::engine::Link;
use posthorn_proto::frame::{ClientFrame, Post, Request, ServerBody, ServerFrame};
use posthorn_proto::{KeyHash, MailboxId, PostId, PostKey, Token};

use super::world::Wire;

/// What went to a mailbox, as whoever may post there knows it.
pub(super) struct Shelf {
    /// On which kind of connection.
    link: Link,
    /// The post key that was used last.
    pub(super) key: Option<PostKey>,
    /// In the order in which they went out, repeats included.
    pub(super) envelopes: Vec<Bytes>,
}

impl Shelf {
    fn new(link: Link) -> Self {
        Self { link, key: None, envelopes: Vec::new() }
    }

    /// Whether it is somebody's inbox.
    pub(super) fn is_inbox(&self) -> bool {
        self.link == Link::Post
    }
}

#[derive(Default)]
pub(super) struct Watch {
    /// Every mailbox to which something was posted.
    pub(super) shelves: BTreeMap<MailboxId, Shelf>,
    /// Mailboxes that were created on the account connection: public inboxes.
    public: BTreeSet<MailboxId>,
    /// On which connections each device asked for each mailbox to be opened.
    opened: BTreeMap<(usize, MailboxId), BTreeSet<Link>>,
    /// What each device said on its connections that carry no account.
    apart: BTreeMap<(usize, Link), BTreeSet<MailboxId>>,
    /// What each token was to pay for.
    tokens: BTreeMap<[u8; 32], MailboxId>,
    /// Every post, by its name.
    posts: BTreeMap<(MailboxId, PostId), Post>,
    /// What the relay has opened on each connection that is up.
    open: BTreeMap<Wire, BTreeSet<MailboxId>>,
    /// Posts to mailboxes in the order in which they went out first: by which device, where, with a turn.
    pub(super) posted: Vec<(usize, MailboxId, bool)>,
    /// How many last-resort key packages each device has published.
    pub(super) last_resorts: BTreeMap<usize, u32>,
    /// How far each device has acknowledged each mailbox.
    pub(super) acknowledged: BTreeMap<(usize, MailboxId), u64>,
    /// The turn keys that each mailbox was to be locked by, in order.
    pub(super) turned: BTreeMap<MailboxId, Vec<KeyHash>>,
    /// Bytes left in inboxes, repeats included.
    pub(super) inbox_bytes: u64,
    /// What was wrong.
    wrong: Vec<String>,
}

impl Watch {
    /// A device sends a frame.
    pub(super) fn sends(&mut self, wire: &Wire, frame: &ClientFrame) {
        match &frame.body {
            Request::Open(open) => {
                for opening in &open.openings {
                    if opening.claim == Some(opening.read_key.clone()) {
                        self.wrong("an invitation's one-time key is kept (rule 11)");
                    }
                    self.opened.entry((wire.0, opening.mailbox)).or_default().insert(wire.1.link);
                    self.apart.entry((wire.0, wire.1.link)).or_default().insert(opening.mailbox);
                }
            }
            Request::Create(create) => {
                if wire.1.link == Link::Account {
                    self.public.insert(create.mailbox);
                }
                self.token(&create.token, create.mailbox);
                if wire.1.link != Link::Account && wire.1.link != Link::Inbox {
                    self.turned.entry(create.mailbox).or_default().push(create.turn_key_hash);
                }
            }
            Request::Post(post) => {
                let shelf = self.shelves.entry(post.mailbox).or_insert_with(|| Shelf::new(wire.1.link));
                shelf.key = Some(post.post_key.clone());
                shelf.envelopes.push(post.envelope.clone());
                if wire.1.link == Link::Post {
                    self.inbox_bytes += post.envelope.len() as u64;
                }
                if let Some(turn) = &post.turn {
                    self.turned.entry(post.mailbox).or_default().push(turn.turn.turn_key_hash);
                }
                self.post(wire.0, post);
            }
            Request::Ack(ack) => {
                if !self.open.get(wire).is_some_and(|open| open.contains(&ack.mailbox)) {
                    self.wrong("something is acknowledged that is not open on this connection (rule 11)");
                }
                let newest = self.acknowledged.entry((wire.0, ack.mailbox)).or_default();
                *newest = ack.seq.max(*newest);
            }
            Request::PublishKeyPackages(packages) => {
                *self.last_resorts.entry(wire.0).or_default() += u32::from(packages.last_resort.is_some());
            }
            _ => {}
        }
        let of_the_account = matches!(
            frame.body,
            Request::Register(_)
                | Request::Authenticate(_)
                | Request::PublishCard(_)
                | Request::PublishKeyPackages(_)
                | Request::RemoveAccount
                | Request::DrawTokens { .. }
        );
        if of_the_account && wire.1.link != Link::Account {
            self.wrong("the account is named on the connection for mailboxes (rule 16)");
        }
        let of_the_directory = matches!(frame.body, Request::LookUp(_) | Request::TakeKeyPackages(_));
        if of_the_directory && !matches!(wire.1.link, Link::Account | Link::Directory) {
            self.wrong("somebody is looked up on the connection for mailboxes");
        }
        let of_any = matches!(frame.body, Request::Ping | Request::ProveRelay(_));
        if wire.1.link == Link::Directory && !of_the_directory && !of_any {
            self.wrong("something else is asked where another relay's directory is");
        }
        if matches!(frame.body, Request::Post(_)) && wire.1.link == Link::Account {
            self.wrong("something is posted on the account connection");
        }
    }

    fn token(&mut self, token: &Token, pays_for: MailboxId) {
        let before = self.tokens.insert(*token.expose(), pays_for);
        if before.is_some_and(|before| before != pays_for) {
            self.wrong("a token pays for two mailboxes (rule 16)");
        }
    }

    fn post(&mut self, device: usize, post: &Post) {
        match self.posts.get(&(post.mailbox, post.post_id)) {
            Some(before) if before != post => self.wrong("one post id, two posts (rule 2)"),
            Some(_) => {}
            None => {
                self.posts.insert((post.mailbox, post.post_id), post.clone());
                self.posted.push((device, post.mailbox, post.turn.is_some()));
            }
        }
    }

    /// A device gets a frame.
    pub(super) fn receives(&mut self, wire: &Wire, frame: &ServerFrame) {
        let open = self.open.entry(wire.clone()).or_default();
        // `Closed` is left out: what the device acknowledges before it has read that is no fault.
        if let ServerBody::Opened(results) = &frame.body {
            open.extend(results.iter().filter(|one| one.result.is_ok()).map(|one| one.mailbox));
        }
    }

    /// A connection has ended.
    pub(super) fn ended(&mut self, wire: &Wire) {
        self.open.remove(wire);
    }

    fn wrong(&mut self, what: &str) {
        self.wrong.push(what.to_owned());
    }

    /// Everything that was wrong, and what can only be said at the end.
    pub(super) fn verdict(&self) -> Result<(), String> {
        let mut wrong = self.wrong.clone();
        for ((_, mailbox), links) in &self.opened {
            let public = self.public.contains(mailbox);
            // Who comes back after a removal has another conversation in the same mailbox; an inbox has one
            // connection for life.
            let is_inbox = links.contains(&Link::Inbox) || links.contains(&Link::Account);
            if (links.len() > 1 && is_inbox) || links.contains(&Link::Account) != public {
                wrong.push(format!("a mailbox is opened on {links:?} (a public inbox: {public}; rule 13)"));
            }
        }
        for ((device, link), mailboxes) in &self.apart {
            // One that serves a single conversation goes with it from mailbox to mailbox.
            let serves_many = matches!(link, Link::Mailboxes | Link::Apart(_));
            if !serves_many && mailboxes.len() > 1 {
                wrong.push(format!("device {device} opens {} mailboxes on {link:?}", mailboxes.len()));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("on the wire: {wrong:?}")) }
    }
}
