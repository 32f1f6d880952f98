//! One connection as a value: whether it is up, what is asked on it, when to try again.

use std::collections::BTreeMap;

use posthorn_proto::frame::{ClientFrame, Hello, Request};
use posthorn_proto::{KeyHash, MailboxId, RelayIdentity};

use super::request::Pending;
use crate::engine::live::Live;
use crate::engine::{Link, LinkId, Waiting};

/// A connection on which nothing was sent for this long is pinged, milliseconds; sooner where the relay
/// closes silent ones sooner.
const PING_AFTER: u64 = 25_000;
/// A connection on which nothing came for this long although something was asked is given up, milliseconds.
const DEAD_AFTER: u64 = 20_000;
/// A connection that is not made within this time is given up, milliseconds.
const CONNECT_WITHIN: u64 = 30_000;

/// An opened mailbox on a connection.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Opening {
    /// The head that the relay told when it was opened.
    pub(in crate::engine) head: u64,
    /// Told and applied: nothing known is outstanding.
    pub(in crate::engine) caught_up: bool,
    /// The hashes of post key and turn key at that head.
    pub(in crate::engine) lock: [KeyHash; 2],
}

/// A connection.
pub(in crate::engine) enum LinkState {
    /// Try again at this time; sooner if a person waits for it, but not before that time.
    Down {
        retry_at: u64,
        not_before: u64,
        attempts: u32,
    },
    /// Asked for; `None` once it was given up.
    Connecting {
        attempts: u32,
        until: Option<u64>,
    },
    Up(Box<Up>),
}

/// A connection that is up.
pub(in crate::engine) struct Up {
    pub(in crate::engine) hello: Option<Hello>,
    /// The relay's clock when it was last told, unix seconds, and ours then, unix milliseconds.
    told: (u64, u64),
    /// The relay proved that it has the key that it names.
    pub(in crate::engine) proven: bool,
    /// We proved that we are the device.
    pub(in crate::engine) authenticated: bool,
    /// Tries since something went well on this link.
    pub(super) attempts: u32,
    next_request: u64,
    pub(in crate::engine) pending: BTreeMap<u64, Pending>,
    pub(in crate::engine) openings: BTreeMap<MailboxId, Opening>,
    /// No requests before this time: the relay said so.
    pub(in crate::engine) not_before: u64,
    pub(super) refusals: u32,
    /// What it said, if nothing went well since.
    pub(in crate::engine) refused: Option<Waiting>,
    last_sent: u64,
    /// Since when an answer is outstanding and nothing came.
    waiting_since: Option<u64>,
    /// The relay said when to come back.
    pub(super) reconnect_after: Option<u64>,
}

/// What is due on a connection.
pub(super) enum Due {
    Nothing,
    Connect,
    GiveUp,
    Ping,
    /// The relay's patience is over.
    Resume,
}

impl LinkState {
    pub(super) fn connected(attempts: u32, now: u64) -> Self {
        Self::Up(Box::new(Up {
            hello: None,
            told: (0, now),
            proven: false,
            authenticated: false,
            attempts,
            next_request: 1,
            pending: BTreeMap::new(),
            openings: BTreeMap::new(),
            not_before: 0,
            refusals: 0,
            refused: None,
            last_sent: now,
            waiting_since: Some(now),
            reconnect_after: None,
        }))
    }

    /// Changes every time that is kept.
    pub(in crate::engine) fn shift(&mut self, shift: impl Fn(&mut u64)) {
        match self {
            Self::Down { retry_at, not_before, .. } => [retry_at, not_before].into_iter().for_each(shift),
            Self::Connecting { until, .. } => until.iter_mut().for_each(shift),
            Self::Up(up) => {
                shift(&mut up.last_sent);
                shift(&mut up.told.1);
                up.waiting_since.iter_mut().for_each(&shift);
                if up.not_before > 0 {
                    shift(&mut up.not_before);
                    up.not_before = up.not_before.max(1);
                }
            }
        }
    }

    pub(super) fn attempts(&self) -> u32 {
        match self {
            Self::Down { attempts, .. } | Self::Connecting { attempts, .. } => *attempts,
            Self::Up(up) => up.attempts,
        }
    }

    pub(in crate::engine) fn wake_at(&self) -> Option<u64> {
        match self {
            Self::Down { retry_at, .. } => Some(*retry_at),
            Self::Connecting { until, .. } => *until,
            Self::Up(up) => {
                let dead = up.waiting_since.map(|since| since + DEAD_AFTER);
                let resume = (up.not_before > 0).then_some(up.not_before);
                [up.ping_at(), dead, resume].into_iter().flatten().min()
            }
        }
    }

    /// What is due now; what is found due is taken note of.
    pub(super) fn due(&mut self, now: u64) -> Due {
        match self {
            Self::Down { retry_at, attempts, .. } if *retry_at <= now => {
                *self = Self::Connecting { attempts: *attempts, until: Some(now + CONNECT_WITHIN) };
                Due::Connect
            }
            Self::Connecting { until, .. } if until.is_some_and(|until| until <= now) => {
                *until = None;
                Due::GiveUp
            }
            Self::Up(up) => up.due(now),
            Self::Down { .. } | Self::Connecting { .. } => Due::Nothing,
        }
    }

    /// The connection, if it is up and greeted.
    pub(in crate::engine) fn up(&self) -> Option<&Up> {
        match self {
            Self::Up(up) if up.hello.is_some() => Some(up),
            _ => None,
        }
    }

    pub(in crate::engine) fn up_mut(&mut self) -> Option<&mut Up> {
        match self {
            Self::Up(up) if up.hello.is_some() => Some(up),
            _ => None,
        }
    }

    pub(in crate::engine) fn request(
        &mut self,
        request: Request,
        pending: Pending,
        now: u64,
    ) -> Option<ClientFrame> {
        let up = self.up_mut()?;
        let number = up.next_request;
        up.next_request += 1;
        up.pending.insert(number, pending);
        up.last_sent = now;
        up.waiting_since.get_or_insert(now);
        Some(ClientFrame { request: number, body: request })
    }
}

impl Up {
    /// Takes what an answer is for; the relay is alive.
    pub(super) fn answered(&mut self, request: u64, now: u64) -> Option<Pending> {
        let pending = self.pending.remove(&request);
        self.waiting_since = (!self.pending.is_empty()).then_some(now);
        pending
    }

    /// Takes what the relay's clock shows, unix seconds.
    pub(super) fn tells_time(&mut self, seconds: u64, now: u64) {
        self.told = (seconds, now);
    }

    /// The time by the relay's clock, unix seconds.
    fn relay_seconds(&self, now: u64) -> u64 {
        self.told.0.saturating_add(now.saturating_sub(self.told.1) / 1000)
    }

    fn ping_at(&self) -> Option<u64> {
        let hello = self.hello.as_ref()?;
        // A third of what the relay takes, so that one lost ping costs nothing.
        let idle = u64::from(hello.limits.idle_seconds).max(3) * 1000 / 3;
        Some(self.last_sent + PING_AFTER.min(idle))
    }

    fn due(&mut self, now: u64) -> Due {
        if self.waiting_since.is_some_and(|since| since + DEAD_AFTER <= now) {
            self.waiting_since = None;
            return Due::GiveUp;
        }
        if self.not_before > 0 && self.not_before <= now {
            self.not_before = 0;
            return Due::Resume;
        }
        if self.ping_at().is_some_and(|at| at <= now) { Due::Ping } else { Due::Nothing }
    }
}

impl Live {
    /// A connection is wanted, from this time on.
    pub(in crate::engine) fn want(&mut self, id: LinkId, at: u64) {
        self.links.entry(id).or_insert(LinkState::Down { retry_at: at, not_before: at, attempts: 0 });
    }

    /// A person wants something from the relay: connections that wait try again as soon as they may.
    pub(in crate::engine) fn hurry(&mut self) {
        for state in self.links.values_mut() {
            if let LinkState::Down { retry_at, not_before, .. } = state {
                *retry_at = (*retry_at).min(*not_before);
            }
        }
    }

    /// The link if requests may go out on it now.
    pub(in crate::engine) fn ready(&self, id: &LinkId, now: u64) -> Option<&Up> {
        self.known(id).filter(|up| up.not_before <= now)
    }

    /// The link if both ends know who is there, whether or not the relay asks for patience.
    pub(in crate::engine) fn known(&self, id: &LinkId) -> Option<&Up> {
        let up = self.links.get(id)?.up()?;
        (up.proven && (id.link != Link::Account || up.authenticated)).then_some(up)
    }

    /// The relay at the other end, once it has proved who it is.
    pub(in crate::engine) fn identity_behind(&self, id: &LinkId) -> Option<RelayIdentity> {
        let up = self.links.get(id)?.up().filter(|up| up.proven)?;
        up.hello.as_ref().map(|hello| hello.challenge.relay_identity)
    }

    /// The time by the clock of the relay at the other end, unix seconds, if it is known.
    pub(in crate::engine) fn relay_seconds(&self, id: &LinkId, now: u64) -> Option<u64> {
        Some(self.links.get(id)?.up()?.relay_seconds(now))
    }

    /// Whether a request like this is unanswered.
    pub(in crate::engine) fn asked(&self, id: &LinkId, like: impl Fn(&Pending) -> bool) -> bool {
        self.links.get(id).and_then(LinkState::up).is_some_and(|up| up.pending.values().any(like))
    }
}
