//! A person with one device, for tests.

use posthorn_proto::{DeviceId, Handle, MailboxId, PostKey, RelayIdentity};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::conversation::ConversationId;
use crate::group::{
    About, Change, Group, GroupError, GroupId, GroupInfo, KeyPackage, KeyPackageKind, OwnLeaf, PendingJoin,
    Place, Provider, RULES, ReaderSecret, Received, Staged, UnverifiedKeyPackage,
};
use crate::identity::{Credential, Device, Identity, RelayAddress, RelayUrl};
use crate::inbox::{InboxAddress, InboxSecret};
use crate::store::{Database, KdfCost, Location, Passphrase};

/// 2026-01-01, in unix milliseconds.
pub(super) const NOW: u64 = 1_767_225_600_000;
pub(super) const TALK: GroupId = GroupId([0x77; 16]);
/// The conversation, as each party's own database calls it.
pub(super) const HERE: ConversationId = ConversationId([0x4e; 16]);

pub(super) struct Party {
    pub(super) db: Database,
    pub(super) rng: ChaCha20Rng,
    pub(super) me: Me,
}

/// What a party's leaves say. Apart from the database, so that both can be borrowed.
pub(super) struct Me {
    pub(super) device: Device,
    pub(super) credential: Credential,
    pub(super) inbox: InboxAddress,
}

impl Me {
    pub(super) fn leaf(&self) -> OwnLeaf<'_> {
        OwnLeaf { device: &self.device, credential: &self.credential, inbox: &self.inbox }
    }
}

pub(super) fn relay() -> RelayAddress {
    RelayAddress {
        url: RelayUrl::parse("ws://127.0.0.1:7443").expect("a URL"),
        identity: RelayIdentity([5; 32]),
    }
}

pub(super) fn info(name: &str) -> GroupInfo {
    let mut rng = ChaCha20Rng::from_seed([0x1f; 32]);
    GroupInfo {
        rules: RULES,
        place: Place {
            number: 1,
            relay: relay(),
            mailbox: MailboxId([6; 16]),
            reader_secret: ReaderSecret::generate(&mut rng),
        },
        about: About { name: name.to_owned() },
        others: Vec::new(),
    }
}

impl Party {
    pub(super) fn new(name: &str) -> Self {
        let mut seed = [0; 32];
        seed[..name.len()].copy_from_slice(name.as_bytes());
        let mut rng = ChaCha20Rng::from_seed(seed);
        let identity = Identity::generate(&mut rng);
        let device = Device::generate(&mut rng);
        Self::with(name, &identity, device, rng)
    }

    pub(super) fn with(name: &str, identity: &Identity, device: Device, mut rng: ChaCha20Rng) -> Self {
        let handle = Handle::parse(name).expect("a handle");
        let credential = Credential::issue(identity, &device, &handle, &relay().identity);
        let inbox = InboxAddress {
            relay: relay(),
            mailbox: MailboxId::random(&mut rng),
            post_key: PostKey::random(&mut rng),
            key: InboxSecret::generate(&mut rng).key(),
        };
        let db = Database::create(Location::Memory, &Passphrase::new("x"), KdfCost::CHEAP, &mut rng)
            .expect("in memory");
        Self { db, rng, me: Me { device, credential, inbox } }
    }

    /// Runs `work` in a transaction that lasts.
    pub(super) fn act<T>(&mut self, work: impl FnOnce(&Provider<'_>, &Me) -> T) -> T {
        let tx = self.db.transaction(&mut self.rng).expect("begins");
        let provider = Provider::new(&tx, Some(HERE));
        let result = work(&provider, &self.me);
        drop(provider);
        tx.commit().expect("commits");
        result
    }

    /// Runs `work` in a transaction that is rolled back.
    pub(super) fn pretend<T>(&mut self, work: impl FnOnce(&Provider<'_>, &Me) -> T) -> T {
        let tx = self.db.transaction(&mut self.rng).expect("begins");
        work(&Provider::new(&tx, Some(HERE)), &self.me)
    }

    /// Runs `work` on the session of `TALK`.
    pub(super) fn talk<T>(&mut self, work: impl FnOnce(&mut Group<'_>, &Me) -> T) -> T {
        self.act(|provider, me| work(&mut Group::load(provider, &TALK).expect("stored"), me))
    }

    pub(super) fn start(&mut self) {
        self.act(|provider, me| {
            Group::create(provider, &me.leaf(), TALK, &info("talk")).map(|_| ()).expect("created");
        });
    }

    pub(super) fn key_package(&mut self, kind: KeyPackageKind) -> Vec<u8> {
        self.act(|provider, me| KeyPackage::make(provider, &me.leaf(), kind, NOW).expect("made").bytes)
    }

    pub(super) fn verified(&mut self, key_package: &[u8], owner: &Party) -> KeyPackage {
        let owner = owner.me.credential.identity();
        self.act(|provider, _| {
            UnverifiedKeyPackage::parse(key_package)
                .and_then(|one| one.verify(provider, &owner, NOW))
                .expect("good")
        })
    }

    /// A fresh key package, as `other` takes it.
    pub(super) fn offer(&mut self, other: &mut Party) -> KeyPackage {
        let package = self.key_package(KeyPackageKind::OneTime);
        other.verified(&package, self)
    }

    pub(super) fn stage(&mut self, change: &Change) -> Result<Staged, GroupError> {
        self.talk(|session, me| session.stage(&me.leaf(), change, b""))
    }

    pub(super) fn merge(&mut self) {
        self.talk(|session, _| session.merge_pending().expect("pending"));
    }

    pub(super) fn say(&mut self, text: &[u8]) -> Vec<u8> {
        self.talk(|session, me| session.encrypt(&me.leaf(), text, b"").expect("encrypts"))
    }

    /// Receives a message: (sender's handle, plaintext).
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<(String, Vec<u8>), GroupError> {
        self.talk(|session, _| match session.receive(bytes, &[])? {
            Received::Message { sender, plaintext, .. } => {
                Ok((sender.credential.handle().as_str().to_owned(), plaintext))
            }
            other => panic!("not a message: {other:?}"),
        })
    }

    /// Receives and applies another's commit.
    pub(super) fn follow(&mut self, commit: &[u8]) -> Result<(), GroupError> {
        self.talk(|session, _| match session.receive(commit, &[])? {
            Received::Commit(change) => session.apply(*change).map(|_| ()),
            other => panic!("not a commit: {other:?}"),
        })
    }

    pub(super) fn join(&mut self, welcome: &[u8]) -> Result<(), GroupError> {
        self.act(|provider, me| PendingJoin::new(provider, &me.leaf(), welcome)?.finish().map(|_| ()))
    }

    pub(super) fn device_id(&self) -> DeviceId {
        self.me.device.id()
    }
}

/// The first adds the others in one commit; all join.
pub(super) fn gather(parties: &mut [Party]) {
    let (first, others) = parties.split_first_mut().expect("somebody");
    first.start();
    let add = others.iter_mut().map(|other| other.offer(first)).collect();
    let staged = first.stage(&Change { add, ..Change::default() }).expect("stages");
    first.merge();
    let welcome = staged.welcome.expect("somebody was added");
    for other in others {
        other.join(&welcome).expect("joins");
    }
}
