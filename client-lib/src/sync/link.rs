//! One connection to a relay, as the engine sees it: whether it is up, what is asked on it, when to try
//! again.

use std::collections::BTreeMap;

use posthorn_proto::auth::AccountKey;
use posthorn_proto::frame::{ClientFrame, Hello, Refusal, Request, ServerBody, ServerFrame};
use posthorn_proto::{KeyHash, MailboxId};
use rand::Rng as _;

use super::profile::Profile;
use super::{EngineError, Event, Link, LinkId, Live, Step};
use crate::conversation::{Cause, ConversationId};
use crate::identity::RelayUrl;
use crate::sync::Effect;

/// First wait after a connection ended, milliseconds; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: u64 = 500;
const LONGEST_WAIT: u64 = 60_000;
/// A relay's advice on when to come back is taken up to here, milliseconds: 10 minutes.
pub(super) const LONGEST_ADVICE: u64 = 600_000;
/// Longest words of a relay that are passed on, in characters.
const MOST_WORDS: usize = 300;
/// A connection on which nothing was sent for this long is pinged, milliseconds.
const PING_AFTER: u64 = 25_000;
/// A connection on which nothing came for this long although something was asked is given up, milliseconds.
const DEAD_AFTER: u64 = 20_000;

/// What an answer will be for.
pub(super) enum Pending {
    Register(AccountKey),
    Authenticate(AccountKey),
    CreateInbox(Link),
    CreateConversation(ConversationId),
    DrawTokens(Vec<KeyHash>),
    PublishKeyPackages,
    PublishCard(u64),
    LookUp {
        conversation: ConversationId,
        intent: i64,
        handle: String,
    },
    TakeKeyPackages {
        conversation: ConversationId,
        intent: i64,
        handle: String,
    },
    Open(Vec<MailboxId>),
    /// A parcel, by its row.
    Post {
        row: i64,
        mailbox: MailboxId,
        conversation: Option<ConversationId>,
    },
    Ping,
}

/// An opened mailbox on a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    /// The head that the relay told when it was opened.
    pub(super) head: u64,
    /// Told and applied: nothing known is outstanding.
    pub(super) caught_up: bool,
    /// The hashes of post key and turn key at that head.
    pub(super) lock: [KeyHash; 2],
}

/// A connection.
pub(super) enum LinkState {
    /// Try again at this time.
    Down {
        retry_at: u64,
        attempts: u32,
    },
    /// Asked for.
    Connecting {
        attempts: u32,
    },
    Up(Box<Up>),
}

/// A connection that is up.
pub(super) struct Up {
    pub(super) hello: Option<Hello>,
    /// Tries since something went well on this link.
    attempts: u32,
    pub(super) authenticated: bool,
    next_request: u64,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) openings: BTreeMap<MailboxId, Opening>,
    /// No requests before this time: the relay said so.
    pub(super) not_before: u64,
    refusals: u32,
    last_sent: u64,
    /// Since when an answer is outstanding and nothing came.
    waiting_since: Option<u64>,
    /// The relay said when to come back.
    reconnect_after: Option<u64>,
}

impl LinkState {
    pub(super) fn wake_at(&self) -> Option<u64> {
        match self {
            Self::Down { retry_at, .. } => Some(*retry_at),
            Self::Connecting { .. } => None,
            Self::Up(up) => {
                let dead = up.waiting_since.map(|since| since + DEAD_AFTER);
                let resume = (up.not_before > 0).then_some(up.not_before);
                [Some(up.last_sent + PING_AFTER), dead, resume].into_iter().flatten().min()
            }
        }
    }

    /// The connection, if it is up and greeted.
    pub(super) fn up(&self) -> Option<&Up> {
        match self {
            Self::Up(up) if up.hello.is_some() => Some(up),
            _ => None,
        }
    }

    pub(super) fn up_mut(&mut self) -> Option<&mut Up> {
        match self {
            Self::Up(up) if up.hello.is_some() => Some(up),
            _ => None,
        }
    }

    pub(super) fn request(&mut self, request: Request, pending: Pending, now: u64) -> Option<ClientFrame> {
        let up = self.up_mut()?;
        let number = up.next_request;
        up.next_request += 1;
        up.pending.insert(number, pending);
        up.last_sent = now;
        up.waiting_since.get_or_insert(now);
        Some(ClientFrame { request: number, body: request })
    }
}

impl Live {
    /// Both connections to our own relay are wanted.
    pub(super) fn want_links(&mut self, profile: &Profile, now: u64) -> Result<(), EngineError> {
        let relay = profile.relay_url()?;
        for link in [Link::Account, Link::Mailboxes] {
            self.want(LinkId { relay: relay.clone(), link }, now);
        }
        Ok(())
    }

    /// A connection for mailboxes at a relay is wanted.
    pub(super) fn want_relay(&mut self, relay: &str, now: u64) {
        if let Ok(relay) = RelayUrl::parse(relay) {
            self.want(LinkId { relay, link: Link::Mailboxes }, now);
        }
    }

    fn want(&mut self, id: LinkId, now: u64) {
        self.links.entry(id).or_insert(LinkState::Down { retry_at: now, attempts: 0 });
    }

    /// The link if requests may go out on it now.
    pub(super) fn ready(&self, id: &LinkId, now: u64) -> Option<&Up> {
        let up = self.links.get(id)?.up()?;
        let greeted = id.link == Link::Mailboxes || up.authenticated;
        (greeted && up.not_before <= now).then_some(up)
    }

    /// Whether a request like this is unanswered.
    pub(super) fn asked(&self, id: &LinkId, like: impl Fn(&Pending) -> bool) -> bool {
        self.links.get(id).and_then(LinkState::up).is_some_and(|up| up.pending.values().any(like))
    }
}

impl Step<'_> {
    pub(super) fn link_connected(&mut self, id: &LinkId) {
        let attempts = match self.live.links.get(id) {
            Some(LinkState::Down { attempts, .. } | LinkState::Connecting { attempts }) => *attempts,
            Some(LinkState::Up(up)) => up.attempts,
            None => 0,
        };
        let up = Up {
            hello: None,
            attempts: attempts + 1,
            authenticated: false,
            next_request: 1,
            pending: BTreeMap::new(),
            openings: BTreeMap::new(),
            not_before: 0,
            refusals: 0,
            last_sent: self.now,
            waiting_since: Some(self.now),
            reconnect_after: None,
        };
        self.live.links.insert(id.clone(), LinkState::Up(Box::new(up)));
    }

    pub(super) fn link_disconnected(&mut self, id: &LinkId, reason: String) {
        let Some(state) = self.live.links.get_mut(id) else { return };
        let (attempts, hint) = match state {
            LinkState::Down { attempts, .. } | LinkState::Connecting { attempts } => (*attempts + 1, None),
            LinkState::Up(up) => (up.attempts, up.reconnect_after),
        };
        let backoff = (FIRST_WAIT << attempts.min(7)).min(LONGEST_WAIT);
        // Half of it is random, so that a restarted relay is not met by everybody at once.
        let wait =
            hint.unwrap_or(0).min(LONGEST_ADVICE) + backoff / 2 + self.rng.random_range(0..=backoff / 2);
        *state = LinkState::Down { retry_at: self.now + wait, attempts };
        self.event(Event::Disconnected { reason, retry_in_ms: wait });
    }

    /// Connects what is due, pings what is silent, gives up what is dead.
    pub(super) fn progress_links(&mut self) {
        let mut ping = Vec::new();
        let mut resume = false;
        for (id, state) in &mut self.live.links {
            match state {
                LinkState::Down { retry_at, attempts } if *retry_at <= self.now => {
                    let attempts = *attempts;
                    *state = LinkState::Connecting { attempts };
                    self.effects.push(Effect::Connect(id.clone()));
                }
                LinkState::Up(up) if up.waiting_since.is_some_and(|since| since + DEAD_AFTER <= self.now) => {
                    up.waiting_since = None;
                    self.effects.push(Effect::Disconnect(id.clone()));
                }
                LinkState::Up(up) => {
                    if up.not_before > 0 && up.not_before <= self.now {
                        up.not_before = 0;
                        resume = true;
                    }
                    if up.hello.is_some() && up.last_sent + PING_AFTER <= self.now {
                        ping.push(id.clone());
                    }
                }
                LinkState::Down { .. } | LinkState::Connecting { .. } => {}
            }
        }
        for id in ping {
            self.request(&id, Request::Ping, Pending::Ping);
        }
        if resume {
            self.look_everywhere();
        }
    }

    /// Takes one frame of a link.
    pub(super) fn frame(
        &mut self,
        id: &LinkId,
        frame: ServerFrame,
        moved: &mut BTreeMap<MailboxId, u32>,
    ) -> Result<(), EngineError> {
        let Some(LinkState::Up(up)) = self.live.links.get_mut(id) else { return Ok(()) };
        let pending = up.pending.remove(&frame.request);
        if up.hello.is_none() && !matches!(frame.body, ServerBody::Hello(_)) {
            // Nothing can be asked before the greeting, and nothing else is waited for.
            self.effects.push(Effect::Disconnect(id.clone()));
            return Ok(());
        }
        up.waiting_since = (!up.pending.is_empty()).then_some(self.now);
        match (frame.body, pending) {
            (ServerBody::Hello(hello), _) => self.greeted(id, hello),
            (ServerBody::Delivery(delivery), _) => self.delivered(id, delivery, moved),
            (ServerBody::Closed { mailbox, reason }, _) => self.opening_ended(id, &mailbox, plain(reason)),
            (ServerBody::GoingAway { reconnect_after_ms }, _) => {
                up.reconnect_after = Some(u64::from(reconnect_after_ms));
                Ok(())
            }
            // Signals carry typing and calls, which this version does not speak.
            (ServerBody::Signalled { .. }, _) => Ok(()),
            (ServerBody::Error(refusal), Some(pending)) => self.refused(id, pending, plain(refusal)),
            (body, Some(pending)) => self.answered(id, pending, body),
            // An answer that nothing waits for: the relay repeats itself or lies, and either is harmless.
            (_, None) => Ok(()),
        }
    }

    fn greeted(&mut self, id: &LinkId, hello: Hello) -> Result<(), EngineError> {
        let announced = hello.challenge.relay_identity;
        if let Some(mut profile) = Profile::load(self.tx)?
            && profile.relay_url()? == id.relay
        {
            match profile.relay_identity {
                None => {
                    profile.relay_identity = Some(announced);
                    profile.save(self.tx)?;
                }
                Some(pinned) if pinned != announced => {
                    self.alarm(
                        None,
                        Cause::RelayChanged,
                        None,
                        format!(
                            "the relay at {} is not the one that this account was made at: nothing is sent to it",
                            id.relay
                        ),
                    );
                    self.effects.push(Effect::Disconnect(id.clone()));
                    return Ok(());
                }
                Some(_) => {}
            }
        }
        if let Some(LinkState::Up(up)) = self.live.links.get_mut(id) {
            up.hello = Some(hello);
        }
        match id.link {
            // Of use as it is.
            Link::Mailboxes => self.event(Event::Connected),
            // Of use, and told, once it is authenticated. What the directory has may be another's store by
            // now.
            Link::Account => self.live.stock = None,
        }
        self.look_everywhere();
        Ok(())
    }

    /// The relay asks for patience, on the whole link.
    pub(super) fn back_off(&mut self, id: &LinkId, refusal: &Refusal) {
        let Some(up) = self.live.links.get_mut(id).and_then(LinkState::up_mut) else { return };
        up.refusals = (up.refusals + 1).min(6);
        let wait = u64::from(refusal.retry_after_ms).min(LONGEST_ADVICE).max(500 << up.refusals);
        up.not_before = self.now + wait;
    }

    /// Something went well: patience starts anew.
    pub(super) fn went_well(&mut self, id: &LinkId) {
        if let Some(up) = self.live.links.get_mut(id).and_then(LinkState::up_mut) {
            up.refusals = 0;
            up.attempts = 0;
        }
    }
}

/// A relay's words, fit to be shown: without control characters, and not too many.
fn plain(mut refusal: Refusal) -> Refusal {
    refusal.message = refusal.message.chars().filter(|c| !c.is_control()).take(MOST_WORDS).collect();
    refusal
}
