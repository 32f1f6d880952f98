//! By what the repeat of a post is recognised (rule 2): 16 bytes that stand for the keys that were presented,
//! the envelope and the turn. They never leave the relay.
//!
//! What has to be excluded is that a post is taken for the repeat of another. Of the post id 12 bytes are
//! the poster's random ones, so only who knows it, and repeats it, gets as far as this comparison.
//! Whoever does not have the post key cannot make what fits, because the hash is keyed with it; and
//! whoever has it gains nothing but that the relay takes two posts of theirs, which they made for that,
//! for one. So this need not be a hash in which nobody finds two posts alike, as SHA-256 is, which costs
//! three times as much, and was a twelfth of what a message costs altogether.

use std::hash::Hasher;

use posthorn_proto::KeyHash;
use posthorn_proto::chain::Fingerprint;
use posthorn_proto::turn::TurnHash;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::Append;
use crate::mailbox::change::ShortFingerprint;

impl Append {
    /// The append with its fingerprint, for whoever hands it to the store.
    pub(crate) fn with_fingerprint(self) -> Self {
        let (turn_key, turn_hash) = self.hashes();
        let (key, rest) = self.post_key.0.split_first_chunk().expect("a hash is longer than 16 bytes");
        let mut hasher = SipHasher13::new_with_key(key);
        hasher.write(rest);
        hasher.write(&turn_key.unwrap_or(KeyHash([0; 32])).0);
        hasher.write(&turn_hash.0);
        hasher.write(&self.envelope);
        Self { fingerprint: hasher.finish128().as_bytes(), ..self }
    }

    /// Whether this is the post of which that is known.
    pub(crate) fn is_known_as(&self, known: &ShortFingerprint) -> bool {
        self.fingerprint == *known || self.first_form() == *known
    }

    /// The fingerprint as it was at first, for posts that were taken then. Nearly nobody asks for it: for who
    /// repeats a post is known by the other.
    pub(crate) fn first_form(&self) -> ShortFingerprint {
        let (turn_key, turn_hash) = self.hashes();
        let whole = Fingerprint::of(&self.post_key, turn_key.as_ref(), &turn_hash, &self.envelope);
        std::array::from_fn(|at| whole.0[at])
    }

    fn hashes(&self) -> (Option<KeyHash>, TurnHash) {
        let (key, turn) = self.turn.as_ref().map(|(key, turn)| (*key, turn)).unzip();
        (key, TurnHash::of(turn))
    }
}

#[cfg(test)]
mod tests {
    use posthorn_proto::{MailboxId, PostId, Turn};

    use super::*;

    #[test]
    fn it_depends_on_all_of_the_post() {
        let key = |n| KeyHash(std::array::from_fn(|at| at as u8 + n));
        let turn = |n| Turn { post_key_hash: key(n), turn_key_hash: key(3), admit: vec![], evict: vec![] };
        let base = Append {
            mailbox: MailboxId([1; 16]),
            post_id: PostId([2; 16]),
            post_key: key(1),
            envelope: (0..100).collect::<Vec<u8>>().into(),
            turn: Some((key(2), turn(7))),
            fingerprint: [0; 16],
        };
        let of = |append: &Append| append.clone().with_fingerprint().fingerprint;
        assert_eq!(of(&base), of(&Append { fingerprint: [9; 16], ..base.clone() }));
        let mut others = vec![
            Append { turn: None, ..base.clone() },
            Append { turn: Some((key(3), turn(7))), ..base.clone() },
            Append { turn: Some((key(2), turn(8))), ..base.clone() },
            Append { envelope: base.envelope.slice(..99), ..base.clone() },
        ];
        for at in 0..32 {
            let mut post_key = base.post_key;
            post_key.0[at] ^= 1;
            others.push(Append { post_key, ..base.clone() });
        }
        for at in 0..100 {
            let mut envelope = base.envelope.to_vec();
            envelope[at] ^= 1;
            others.push(Append { envelope: envelope.into(), ..base.clone() });
        }
        for other in others {
            assert_ne!(of(&base), of(&other), "{other:?}");
            assert!(!other.clone().with_fingerprint().is_known_as(&of(&base)));
            assert!(!other.with_fingerprint().is_known_as(&base.first_form()));
        }
        // As it stands in journals (computed by another implementation).
        let stands = 0xaf43_ea7d_0a9d_9884_0664_dc5f_a4e3_a42c_u128;
        assert_eq!(of(&base), stands.to_be_bytes());
    }
}
