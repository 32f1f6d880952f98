//! The book: what a load has asked for, how it was answered, and what must therefore be found afterwards.
//!
//! Owns the rules by which a relay is judged, in one place for all programs: [`Shelf::check`] compares one
//! mailbox, as it was found over the wire or in a store that was opened on an image of the disk, with what
//! had been answered by some moment (a *mark*). It never asks a relay anything itself.
//!
//! - What was answered is there: in its place, intact, once; R1, R2.
//! - What was asked for and not answered is there once or not at all; what was refused is not there.
//! - Cursor and keys are those of the newest answer, or of something asked since.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use posthorn_proto::frame::Request;
use posthorn_proto::{KeyHash, PostId, Token};
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use crate::mailbox::{BareDevice, BareMailbox};

/// The mark after everything, by which all answers count.
pub const ALWAYS: u64 = u64::MAX;

/// The answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No answer came.
    Open,
    /// It was answered by this mark.
    Answered(u64),
    /// It was refused: it has not happened and never will.
    Refused,
}

impl Fate {
    /// Whether the answer was there by this mark.
    pub fn answered_by(self, mark: u64) -> bool {
        matches!(self, Self::Answered(at) if at <= mark)
    }
}

/// A post that was sent, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// The generation of keys under which it was posted.
    pub generation: usize,
    /// The generation to which it turned the lock, if it did.
    pub turned_to: Option<usize>,
    /// Length of the envelope, bytes.
    pub len: usize,
    /// What became of it.
    pub fate: Fate,
    /// The seq that it was answered with, or found at.
    pub seq: Option<u64>,
}

/// Everything that is known about one mailbox.
#[derive(Debug)]
pub struct Shelf {
    /// Its keys by generation; each turn that was asked for adds one.
    pub keys: Vec<BareMailbox>,
    /// The generation that posts are made under.
    pub generation: usize,
    /// What became of its creation.
    pub created: Fate,
    /// What became of its destruction, once that was asked for.
    pub destroyed: Option<Fate>,
    /// Whether it was looked for after its destruction, and was gone.
    pub gone: bool,
    /// Every post that was ever sent.
    pub posts: HashMap<PostId, Sent>,
    /// The posts in the order in which they were sent.
    pub order: Vec<PostId>,
    /// Acknowledgements: seq, and what became of it.
    pub acks: Vec<(u64, Fate)>,
}

/// A mailbox as it was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The newest seq; 0 = none yet.
    pub head: u64,
    /// Oldest stored seq.
    pub oldest: u64,
    /// The seq up to which the reader has acknowledged.
    pub cursor: u64,
    /// Hash of the current post key.
    pub post_key: KeyHash,
    /// Hash of the current turn key.
    pub turn_key: KeyHash,
    /// All stored envelopes from max(cursor + 1, oldest) on, or from `oldest` on.
    pub envelopes: Vec<(u64, PostId, Bytes)>,
}

/// The envelope that a post with this id and length carries.
pub fn envelope(id: &PostId, len: usize) -> Bytes {
    let seed = std::array::from_fn(|at| id.0[at % 16]);
    let mut bytes = vec![0; len];
    ChaCha20Rng::from_seed(seed).fill_bytes(&mut bytes);
    bytes.into()
}

/// Fails with this message unless the condition holds.
macro_rules! must {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}

impl Shelf {
    /// A mailbox that is about to be created.
    pub fn new(mailbox: BareMailbox) -> Self {
        Self {
            keys: vec![mailbox],
            generation: 0,
            created: Fate::Open,
            destroyed: None,
            gone: false,
            posts: HashMap::new(),
            order: Vec::new(),
            acks: Vec::new(),
        }
    }

    /// The request by which a post was made, byte for byte.
    pub fn request(&self, id: &PostId) -> Option<Request> {
        let sent = self.posts.get(id)?;
        let (keys, envelope) = (self.keys.get(sent.generation)?, envelope(id, sent.len));
        Some(match sent.turned_to {
            Some(next) => keys.turning(self.keys.get(next)?, *id, envelope),
            None => keys.posting(*id, envelope),
        })
    }

    /// Whether anything may still be asked of it.
    pub fn is_open(&self) -> bool {
        matches!(self.created, Fate::Answered(_)) && self.destroyed.is_none()
    }

    /// The newest seq whose acknowledgement was answered by a mark; without a mark, the newest whose
    /// acknowledgement was ever asked for.
    fn acknowledged(&self, by: Option<u64>) -> u64 {
        let counts = |fate: &Fate| by.map_or(*fate != Fate::Refused, |mark| fate.answered_by(mark));
        self.acks.iter().filter(|(_, fate)| counts(fate)).map(|(seq, _)| *seq).max().unwrap_or(0)
    }

    /// Compares what was found (`None`: the relay does not know the mailbox) with what had been answered by
    /// `mark`.
    pub fn check(&self, found: Option<&Found>, mark: u64) -> Result<(), String> {
        let Some(found) = found else {
            let may_be_gone = self.destroyed.is_some_and(|fate| fate != Fate::Refused);
            must!(
                may_be_gone || !self.created.answered_by(mark),
                "a mailbox whose creation was answered is gone"
            );
            return Ok(());
        };
        must!(self.created != Fate::Refused, "a mailbox exists whose creation was refused");
        must!(
            !self.destroyed.is_some_and(|fate| fate.answered_by(mark)),
            "a mailbox is there whose destruction was answered"
        );
        self.check_place(found, mark)?;
        self.check_keys(found, mark)?;
        self.check_envelopes(found, mark)
    }

    fn check_place(&self, found: &Found, mark: u64) -> Result<(), String> {
        let answered = self.posts.values().filter(|sent| sent.fate.answered_by(mark));
        let newest = answered.filter_map(|sent| sent.seq).max().unwrap_or(0);
        must!(found.head >= newest, "seq {newest} was answered, and the head is {}", found.head);
        let (least, most) = (self.acknowledged(Some(mark)), self.acknowledged(None));
        must!(
            (least..=most).contains(&found.cursor),
            "the cursor is {}; {least} was answered, {most} asked for",
            found.cursor
        );
        must!(
            found.oldest <= most + 1,
            "everything below {} is gone, but only {most} was acknowledged",
            found.oldest
        );
        Ok(())
    }

    fn check_keys(&self, found: &Found, mark: u64) -> Result<(), String> {
        let has = |keys: &BareMailbox| {
            (keys.post_key.hash(), keys.turn_key.hash()) == (found.post_key, found.turn_key)
        };
        let Some(generation) = self.keys.iter().position(has) else {
            return Err("the keys are none that were ever asked for".to_owned());
        };
        let turned =
            self.posts.values().filter(|sent| sent.fate.answered_by(mark)).filter_map(|sent| sent.turned_to);
        let least = turned.max().unwrap_or(0);
        must!(
            generation >= least,
            "the keys are of generation {generation}, and the turn to {least} was answered"
        );
        Ok(())
    }

    fn check_envelopes(&self, found: &Found, mark: u64) -> Result<(), String> {
        let first = found.envelopes.first().map_or(found.head + 1, |(seq, ..)| *seq);
        must!(
            first <= found.oldest.max(found.cursor + 1),
            "the first envelope is {first}, the oldest {}, the cursor {}",
            found.oldest,
            found.cursor
        );
        let mut seen = HashSet::new();
        for (next, (seq, id, bytes)) in (first..).zip(&found.envelopes) {
            must!(*seq == next, "after {} comes {seq}", next - 1);
            let Some(sent) = self.posts.get(id) else {
                return Err(format!("nobody posted what is at {seq}"));
            };
            must!(*bytes == envelope(id, sent.len), "what is at {seq} is not what was posted");
            must!(
                sent.seq.is_none_or(|answered| answered == *seq),
                "at {seq} is what was answered {:?}",
                sent.seq
            );
            must!(sent.fate != Fate::Refused, "at {seq} is what was refused");
            must!(seen.insert(*id), "what is at {seq} is there twice");
        }
        let last = found.envelopes.last().map_or(first - 1, |(seq, ..)| *seq);
        must!(last == found.head, "the head is {}, and the last envelope {last}", found.head);
        for (id, sent) in self.posts.iter().filter(|(_, sent)| sent.fate.answered_by(mark)) {
            let Some(seq) = sent.seq.filter(|seq| *seq >= first) else { continue };
            must!(seen.contains(id), "the post that was answered {seq} is not there");
        }
        Ok(())
    }

    /// Takes over what was found just now: whatever was unanswered and is there has happened.
    pub fn settle(&mut self, found: &Found, answered: Fate) {
        for (seq, id, _) in &found.envelopes {
            if let Some(sent) = self.posts.get_mut(id).filter(|sent| sent.seq.is_none()) {
                sent.seq = Some(*seq);
            }
        }
        if self.created == Fate::Open {
            self.created = answered;
        }
        let has = |keys: &BareMailbox| keys.post_key.hash() == found.post_key;
        self.generation = self.keys.iter().position(has).unwrap_or(self.generation);
        // The relay may not take back what it says now.
        self.acks.push((found.cursor, answered));
    }
}

/// An account that a load made.
#[derive(Clone)]
pub struct Account {
    /// The device that registered it.
    pub device: BareDevice,
    /// The handle that it has.
    pub handle: String,
    /// What became of its registration.
    pub registered: Fate,
}

/// Everything that the load knows.
#[derive(Default)]
pub struct Pages {
    /// Mailboxes, in the order in which they were asked for.
    pub shelves: Vec<Shelf>,
    /// Accounts, in the same way.
    pub accounts: Vec<Account>,
    /// Tokens that were drawn, as an answer says, and not used yet.
    pub tokens: Vec<Token>,
}

/// The pages, shared by all connections of a load.
pub struct Book {
    pages: Mutex<Pages>,
    /// The mark of this moment: how long the record of the relay's file operations is.
    mark: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Default for Book {
    fn default() -> Self {
        Self::new(|| 0)
    }
}

impl Book {
    /// An empty book, whose answers are marked by this function.
    pub fn new(mark: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { pages: Mutex::default(), mark: Box::new(mark) }
    }

    /// The pages, to be held for a moment only.
    pub fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().expect("nothing panics while it holds this lock")
    }

    /// The fate of something that was answered just now.
    pub fn answered(&self) -> Fate {
        Fate::Answered((self.mark)())
    }

    /// Takes over what another book says, as answered before everything else.
    pub fn begin_with(&self, other: &Self) {
        *self.pages() = std::mem::take(&mut *other.pages());
    }

    /// The power went at this mark, and the disk is used again. What was answered later may not have
    /// happened; what was answered by then was answered before everything that follows.
    pub fn cut(&self, mark: u64) {
        let again = |fate: &mut Fate| {
            *fate = match *fate {
                Fate::Answered(at) if at <= mark => Fate::Answered(0),
                Fate::Answered(_) => Fate::Open,
                other => other,
            }
        };
        let mut pages = self.pages();
        for page in &mut pages.shelves {
            again(&mut page.created);
            page.destroyed.iter_mut().for_each(again);
            for sent in page.posts.values_mut() {
                again(&mut sent.fate);
                sent.seq = sent.seq.filter(|_| sent.fate != Fate::Open);
            }
            page.acks.iter_mut().for_each(|(_, fate)| again(fate));
        }
        pages.accounts.iter_mut().for_each(|account| again(&mut account.registered));
        // Nobody knows which of the drawn tokens are still there.
        pages.tokens.clear();
    }

    /// Some posts of a mailbox that were answered or found, to be asked for again.
    pub fn sample(&self, shelf: usize, most: usize, rng: &mut ChaCha20Rng) -> Vec<PostId> {
        let pages = self.pages();
        let shelf = &pages.shelves[shelf];
        // The newest are the most likely to be lost.
        let from = shelf.order.len().saturating_sub(8 * most);
        let newest = &shelf.order[from..];
        let picked = (0..most.min(newest.len())).map(|_| newest[rng.random_range(0..newest.len())]);
        // What was refused may be taken by now.
        picked.filter(|id| shelf.posts.get(id).is_none_or(|sent| sent.fate != Fate::Refused)).collect()
    }
}
