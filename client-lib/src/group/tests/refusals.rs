//! A member that breaks our rules with valid MLS: it holds the group's keys and OpenMLS itself, without our
//! checks. Everybody refuses, stays where it was, and goes on.

use openmls::group::Initial;
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{
    Capabilities, Ciphersuite, CommitBuilder, Credential as MlsCredential, CredentialWithKey, Extension,
    ExtensionType, Extensions, GroupId, KeyPackage as Mls, LeafNodeIndex, LeafNodeParameters, Lifetime,
    MlsGroup, RequiredCapabilitiesExtension, UnknownExtension,
};
use openmls_traits::OpenMlsProvider as _;
use posthorn_proto::{DeviceId, Handle, MailboxId};
use prost::Message as _;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::party::{Me, NOW, Party, TALK, gather, info, relay};
use crate::group::info::{
    CREDENTIAL_TYPE, LEAF_RULES_EXTENSION, LIFETIME_EXTENSION, capabilities, leaf_extensions,
};
use crate::group::key_package::unlimited;
use crate::group::{
    Change, Group, GroupError, GroupInfo, KNOWN_RULES, KeyPackageError, MOVING_RULES, NAME_BYTES, OwnLeaf,
    PendingJoin, Provider, ReaderSecret, Received, Refusal, SUITE, UnverifiedKeyPackage, wire,
};
use crate::identity::{Credential, Device, Identity};

/// The three at the start; mallory is leaf 1.
pub(super) fn three() -> [Party; 3] {
    let mut parties = ["alice", "mallory", "carol"].map(Party::new);
    gather(&mut parties);
    parties
}

/// The group as OpenMLS has it, past our checks.
pub(super) fn raw_group(provider: &Provider<'_>) -> MlsGroup {
    let group = MlsGroup::load(provider.storage(), &GroupId::from_slice(&TALK.0));
    group.expect("reads").expect("stored")
}

/// Makes a commit past our checks: (commit, welcome).
pub(super) fn raw_commit(
    party: &mut Party,
    build: impl for<'a> FnOnce(CommitBuilder<'a, Initial>, &Me) -> CommitBuilder<'a, Initial>,
) -> (Vec<u8>, Option<Vec<u8>>) {
    party.act(|provider, me| {
        let mut group = raw_group(provider);
        let bundle = build(group.commit_builder(), me)
            .load_psks(provider.storage())
            .expect("none")
            .use_ratchet_tree_extension(true)
            .build(provider.rand(), provider.crypto(), &me.leaf(), |_| true)
            .expect("valid MLS")
            .stage_commit(provider)
            .expect("stages");
        let (commit, welcome, _) = bundle.into_messages();
        (commit.to_bytes().expect("bytes"), welcome.map(|welcome| welcome.to_bytes().expect("bytes")))
    })
}

/// Both others refuse for that reason, and the conversation goes on.
pub(super) fn all_refuse(parties: &mut [Party; 3], commit: &[u8], reason: Refusal) {
    let [alice, _, carol] = parties;
    for party in [&mut *alice, &mut *carol] {
        party.talk(|session, _| {
            let refused = session.receive(commit, &[]);
            assert!(
                matches!(refused, Err(GroupError::Refused(why)) if why == reason),
                "{reason:?}: {refused:?}"
            );
            assert_eq!(session.epoch(), 1);
        });
    }
    let message = alice.say(b"still here");
    carol.hear(&message).expect("decrypts");
}

/// What a key package claims.
struct Claim {
    device: Device,
    credential: Vec<u8>,
    lifetime: bool,
    inbox: bool,
    /// Something more in its leaf.
    more: Option<Extension>,
    capabilities: Capabilities,
    /// MLS's own lifetime.
    clock: Lifetime,
}

impl Claim {
    fn honest(identity: &Identity, device: Device) -> Self {
        let handle = Handle::parse("dave").expect("a handle");
        let credential = Credential::issue(identity, &device, &handle, &relay().identity).encoded().to_vec();
        Self {
            device,
            credential,
            lifetime: true,
            inbox: false,
            more: None,
            capabilities: capabilities(),
            clock: unlimited(),
        }
    }

    fn make(&self, party: &mut Party) -> Mls {
        party.act(|provider, me| {
            let mut builder = Mls::builder()
                .key_package_lifetime(self.clock)
                .leaf_node_capabilities(self.capabilities.clone());
            let inbox = self.inbox.then_some(&me.inbox);
            let mut extensions: Vec<_> = leaf_extensions(inbox).expect("fits").iter().cloned().collect();
            extensions.extend(self.more.clone());
            builder = builder.leaf_node_extensions(Extensions::from_vec(extensions).expect("valid MLS"));
            if self.lifetime {
                let now = NOW / 1000;
                let lifetime =
                    wire::KeyPackageLifetime { not_before: now, not_after: now + 1 }.encode_to_vec();
                let extension = Extension::Unknown(LIFETIME_EXTENSION, UnknownExtension(lifetime));
                builder = builder.key_package_extensions(Extensions::single(extension).expect("one"));
            }
            let signer = OwnLeaf { device: &self.device, credential: &me.credential, inbox: &me.inbox };
            let credential = CredentialWithKey {
                credential: MlsCredential::new(CREDENTIAL_TYPE, self.credential.clone()),
                signature_key: self.device.signature_key()[..].into(),
            };
            builder.build(SUITE, provider, &signer, credential).expect("builds").into_key_package()
        })
    }
}

fn some_device(seed: u8) -> Device {
    Device::from_seeds(DeviceId([seed; 16]), &[seed; 32], &[seed; 32])
}

#[test]
fn bad_newcomers_are_refused_by_who_takes_the_key_package_and_by_everybody_else() {
    let dave = Identity::from_seed(&[0xd; 32]);
    let unknown = |length| Extension::Unknown(0xF009, UnknownExtension(vec![7; length]));
    let forged = Claim::honest(&dave, some_device(2)).credential;
    let cases = [
        (
            Claim { credential: forged, ..Claim::honest(&dave, some_device(1)) },
            KeyPackageError::Credential,
            Refusal::Credential,
        ),
        (
            Claim { credential: b"dave".to_vec(), ..Claim::honest(&dave, some_device(1)) },
            KeyPackageError::Credential,
            Refusal::Credential,
        ),
        (
            Claim { lifetime: false, ..Claim::honest(&dave, some_device(1)) },
            KeyPackageError::Malformed,
            Refusal::KeyPackage,
        ),
        (
            Claim { inbox: true, ..Claim::honest(&dave, some_device(1)) },
            KeyPackageError::Inbox,
            Refusal::Inbox,
        ),
        (
            Claim { more: Some(unknown(16)), ..Claim::honest(&dave, some_device(1)) },
            KeyPackageError::Malformed,
            Refusal::Leaf,
        ),
        (
            Claim { more: Some(unknown(4096)), ..Claim::honest(&dave, some_device(1)) },
            KeyPackageError::Malformed,
            Refusal::Leaf,
        ),
        (
            Claim { capabilities: more_capabilities(), ..Claim::honest(&dave, some_device(1)) },
            KeyPackageError::Malformed,
            Refusal::Leaf,
        ),
        // Good today, and not when somebody reads the commit next year: the members would part there.
        (
            Claim { clock: Lifetime::new(3600), ..Claim::honest(&dave, some_device(1)) },
            KeyPackageError::Malformed,
            Refusal::KeyPackage,
        ),
    ];
    for (claim, at_adding, in_the_group) in cases {
        let mut parties = three();
        let package = claim.make(&mut Party::new("dave"));
        let bytes = package.tls_serialize_detached().expect("bytes");
        let refused = parties[0].act(|provider, _| {
            UnverifiedKeyPackage::parse(&bytes).expect("well formed").verify(provider, &dave.key(), NOW)
        });
        assert_eq!(refused.err(), Some(at_adding));
        let (commit, _) = raw_commit(&mut parties[1], |builder, _| builder.propose_adds([package]));
        all_refuse(&mut parties, &commit, in_the_group);
    }
}

#[test]
fn a_device_cannot_come_in_twice() {
    // Carol's identity (from her seed, as `Party::new` makes it) signs another key for the same device.
    let mut parties = three();
    let mut seed = [0; 32];
    seed[..5].copy_from_slice(b"carol");
    let carol = Identity::generate(&mut ChaCha20Rng::from_seed(seed));
    let twin = Device::from_seeds(parties[2].device_id(), &[3; 32], &[3; 32]);
    let package = Claim::honest(&carol, twin).make(&mut Party::new("dave"));
    let (commit, _) = raw_commit(&mut parties[1], |builder, _| builder.propose_adds([package]));
    all_refuse(&mut parties, &commit, Refusal::Duplicate);
}

/// A leaf of this device with somebody's credential.
fn leaf_of(me: &Me, credential: &Credential) -> LeafNodeParameters {
    LeafNodeParameters::builder()
        .with_credential_with_key(CredentialWithKey {
            credential: MlsCredential::new(CREDENTIAL_TYPE, credential.encoded().to_vec()),
            signature_key: me.device.signature_key()[..].into(),
        })
        .with_extensions(leaf_extensions(Some(&me.inbox)).expect("fits"))
        .build()
}

#[test]
fn a_committer_stays_who_it_is() {
    let mut parties = three();
    // Another identity signs for mallory's device and key: a valid credential, but not mallory's.
    let eve = Identity::from_seed(&[0xe; 32]);
    let (commit, _) = raw_commit(&mut parties[1], |builder, me| {
        let credential = Credential::issue(&eve, &me.device, me.credential.handle(), &relay().identity);
        builder.leaf_node_parameters(leaf_of(me, &credential))
    });
    all_refuse(&mut parties, &commit, Refusal::Identity);
    // Nor does it take another's name.
    let mut seed = [0; 32];
    seed[..7].copy_from_slice(b"mallory");
    let mallory = Identity::generate(&mut ChaCha20Rng::from_seed(seed));
    let mut parties = three();
    let (commit, _) = raw_commit(&mut parties[1], |builder, me| {
        let handle = Handle::parse("alice").expect("a handle");
        let credential = Credential::issue(&mallory, &me.device, &handle, &relay().identity);
        builder.leaf_node_parameters(leaf_of(me, &credential))
    });
    all_refuse(&mut parties, &commit, Refusal::Identity);
}

#[test]
fn a_fresh_leaf_names_its_inbox() {
    let mut parties = three();
    let (commit, _) = raw_commit(&mut parties[1], |builder, _| builder.force_self_update(true));
    all_refuse(&mut parties, &commit, Refusal::Inbox);
}

#[test]
fn the_info_stays_in_form() {
    let good: Vec<Extension> = info("x").to_extensions().expect("fits").iter().cloned().collect();
    let [required, place, rules, about] = good.try_into().expect("four");
    let unknown = |number, bytes| Extension::Unknown(number, UnknownExtension(bytes));
    let reserved = |number| unknown(number, vec![7; 1000]);
    let Extension::Unknown(_, UnknownExtension(named)) = &about else { panic!("ours") };
    let ours = [0xF001, 0xF006, 0xF007].map(ExtensionType::Unknown);
    let fewer = RequiredCapabilitiesExtension::new(&ours, &[], &[CREDENTIAL_TYPE]);
    for bent in [
        // Each missing; something beside them; capabilities that a later device might not have.
        vec![required.clone(), rules.clone(), about.clone()],
        vec![required.clone(), place.clone(), about.clone()],
        vec![required.clone(), place.clone(), rules.clone()],
        vec![
            required.clone(),
            place.clone(),
            rules.clone(),
            about.clone(),
            Extension::ExternalSenders(vec![]),
        ],
        vec![Extension::RequiredCapabilities(fewer), place.clone(), rules.clone(), about.clone()],
        // Another encoding of the same; a field that nobody knows; too long a name.
        vec![required.clone(), place.clone(), unknown(0xF006, vec![8, 1, 8, 1]), about.clone()],
        vec![
            required.clone(),
            place.clone(),
            rules.clone(),
            unknown(0xF007, [named, &[0x10, 1][..]].concat()),
        ],
        vec![required.clone(), place.clone(), rules.clone(), named_at_length(NAME_BYTES + 1)],
        // One too large; all together too large.
        vec![required.clone(), place.clone(), rules.clone(), about.clone(), unknown(0xF009, vec![7; 1025])],
        [required, place, rules, about].into_iter().chain((0xF009..0xF00D).map(reserved)).collect(),
    ] {
        let mut parties = three();
        let commit = commit_context(&mut parties[1], bent);
        all_refuse(&mut parties, &commit, Refusal::Info);
    }
}

fn named_at_length(length: usize) -> Extension {
    let about = wire::About { name: "x".repeat(length) }.encode_to_vec();
    Extension::Unknown(0xF007, UnknownExtension(about))
}

/// Commits these extensions of the group context, whatever they are.
fn commit_context(party: &mut Party, context: Vec<Extension>) -> Vec<u8> {
    let extensions = Extensions::from_vec(context).expect("valid MLS");
    raw_commit(party, |builder, me| {
        builder
            .leaf_node_parameters(leaf(me))
            .propose_group_context_extensions(extensions)
            .expect("valid MLS")
    })
    .0
}

/// What is in form for a fresh leaf.
pub(super) fn leaf(me: &Me) -> LeafNodeParameters {
    LeafNodeParameters::builder().with_extensions(leaf_extensions(Some(&me.inbox)).expect("fits")).build()
}

/// How the group would be after an honest move.
fn moved() -> GroupInfo {
    let secret = ReaderSecret::generate(&mut ChaCha20Rng::from_seed([1; 32]));
    info("talk").moved(relay(), MailboxId([9; 16]), secret)
}

/// A move is one step, to what is new, and nothing beside it.
#[test]
fn a_commit_moves_the_conversation_by_one_step_or_not_at_all() {
    let here = info("talk");
    let bends: [&dyn Fn(&mut GroupInfo); 7] = [
        &|info| info.place.number = 1,
        &|info| info.place.number = 3,
        &|info| info.place.mailbox = here.place.mailbox,
        &|info| info.place.reader_secret = here.place.reader_secret.clone(),
        &|info| info.rules = MOVING_RULES - 1,
        &|info| info.about.name = "elsewhere".to_owned(),
        &|info| info.others.push((0xF009, vec![1])),
    ];
    for bend in bends {
        let mut parties = three();
        let mut moved = moved();
        bend(&mut moved);
        let refused = parties[1].stage(&Change { info: Some(moved.clone()), ..Change::default() });
        assert!(matches!(refused, Err(GroupError::Refused(Refusal::Moved))), "{refused:?}");
        let context = moved.to_extensions().expect("fits").iter().cloned().collect();
        let commit = commit_context(&mut parties[1], context);
        all_refuse(&mut parties, &commit, Refusal::Moved);
    }
    let mut parties = three();
    let carol = parties[1].talk(|group, _| group.members().expect("loads")[2].leaf);
    let also_removes = Change { info: Some(moved()), remove: vec![carol], ..Change::default() };
    let refused = parties[1].stage(&also_removes);
    assert!(matches!(refused, Err(GroupError::Refused(Refusal::Moved))), "{refused:?}");
}

/// Whoever follows a move finds the key that the mailbox admits it by; the lock that is left behind fits the
/// place where it is, and nobody else's keys.
#[test]
fn who_follows_a_move_finds_its_key_by_itself() {
    let mut parties = three();
    let before = parties[0].talk(|group, _| group.keys().expect("a member").lock());
    let staged = parties[1].stage(&Change { info: Some(moved()), ..Change::default() }).expect("stages");
    assert_eq!(staged.readers.len(), 3);
    let left_behind = staged.outcome.lock().expect("stays");
    parties[1].merge();
    for party in [0, 2] {
        parties[party].follow(&staged.commit).expect("follows");
    }
    let mut claimed = std::collections::BTreeSet::new();
    for party in &mut parties {
        let (reader, key) = party.talk(|group, _| group.claim_key().expect("a member"));
        let made = staged.readers.iter().find(|one| one.id == reader).expect("is admitted");
        assert_eq!(made.key_hash, key.hash());
        assert!(claimed.insert(reader));
        let lock = party.talk(|group, _| group.keys().expect("a member").lock());
        assert!(lock != left_behind && lock != before && before != left_behind);
        party.talk(|group, _| assert_eq!((group.info().rules, group.info().place.number), (MOVING_RULES, 2)));
    }
}

/// Were they followed, one member could stop everybody's conversation until an update that never comes.
#[test]
fn rules_that_somebody_does_not_know_are_refused_and_so_are_lower_ones() {
    for rules in [KNOWN_RULES + 1, u32::MAX, 0] {
        let mut parties = three();
        let asked = GroupInfo { rules, ..info("talk") };
        let refused = parties[1].stage(&Change { info: Some(asked.clone()), ..Change::default() });
        assert!(matches!(refused, Err(GroupError::Refused(Refusal::Rules))), "{refused:?}");
        let context = asked.to_extensions().expect("fits").iter().cloned().collect();
        let commit = commit_context(&mut parties[1], context);
        all_refuse(&mut parties, &commit, Refusal::Rules);
    }
}

#[test]
fn a_group_of_higher_rules_asks_for_an_update() {
    let (mut mallory, mut carol) = (Party::new("mallory"), Party::new("carol"));
    let package = carol.offer(&mut mallory);
    let newer = GroupInfo { rules: KNOWN_RULES + 1, ..info("talk") };
    mallory.act(|provider, me| {
        let made = Group::create(provider, &me.leaf(), TALK, &newer);
        assert!(
            matches!(made, Err(GroupError::RulesTooNew { rules }) if rules == KNOWN_RULES + 1),
            "{made:?}"
        );
        let left = Group::load(provider, &TALK);
        assert!(matches!(left, Err(GroupError::Unknown)), "{left:?}");
    });
    mallory.start();
    let (_, welcome) = raw_commit(&mut mallory, |builder, me| {
        builder
            .leaf_node_parameters(leaf(me))
            .propose_adds([package.mls.clone()])
            .propose_group_context_extensions(newer.to_extensions().expect("fits"))
            .expect("valid MLS")
    });
    let refused = carol.join(&welcome.expect("added"));
    assert!(
        matches!(refused, Err(GroupError::RulesTooNew { rules }) if rules == KNOWN_RULES + 1),
        "{refused:?}"
    );
    // As stored by a later version, which was then replaced by this one.
    mallory.act(|provider, _| {
        let mut group = raw_group(provider);
        group.merge_pending_commit(provider).expect("merges");
        let refused = Group::load(provider, &TALK);
        assert!(matches!(refused, Err(GroupError::RulesTooNew { .. })), "{refused:?}");
    });
}

#[test]
fn a_fresh_leaf_has_our_form() {
    let good = |me: &Me| -> Vec<Extension> {
        leaf_extensions(Some(&me.inbox)).expect("fits").iter().cloned().collect()
    };
    let with = |me: &Me, number, bytes: Vec<u8>| {
        let more = Extension::Unknown(number, UnknownExtension(bytes));
        good(me).into_iter().chain([more]).collect::<Vec<_>>()
    };
    let rules = |bytes: &[u8]| Extension::Unknown(LEAF_RULES_EXTENSION, UnknownExtension(bytes.to_vec()));
    type Make<'a> = &'a dyn Fn(&Me) -> Vec<Extension>;
    let extensions: [Make<'_>; 6] = [
        &|me| with(me, 0xF009, vec![]),
        &|me| with(me, 0xF009, vec![7; 4096]),
        &|me| good(me).into_iter().rev().collect(),
        &|me| vec![good(me).remove(0)],
        &|me| vec![good(me).remove(0), rules(&[8, 1, 8, 1])],
        &|me| vec![good(me).remove(0), rules(&[])],
    ];
    for bent in extensions {
        let mut parties = three();
        let (commit, _) = raw_commit(&mut parties[1], |builder, me| {
            let extensions = Extensions::from_vec(bent(me)).expect("valid MLS");
            let parameters = LeafNodeParameters::builder().with_extensions(extensions).build();
            builder.force_self_update(true).leaf_node_parameters(parameters)
        });
        all_refuse(&mut parties, &commit, Refusal::Leaf);
    }
    let mut parties = three();
    let (commit, _) = raw_commit(&mut parties[1], |builder, me| {
        let parameters = LeafNodeParameters::builder()
            .with_extensions(leaf_extensions(Some(&me.inbox)).expect("fits"))
            .with_capabilities(more_capabilities())
            .build();
        builder.force_self_update(true).leaf_node_parameters(parameters)
    });
    all_refuse(&mut parties, &commit, Refusal::Leaf);
}

/// Ours, and one suite beside it.
fn more_capabilities() -> Capabilities {
    let ours = capabilities();
    Capabilities::new(
        Some(ours.versions()),
        Some(&[SUITE, Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519]),
        Some(ours.extensions()),
        Some(ours.proposals()),
        Some(ours.credentials()),
    )
}

#[test]
fn proposals_stand_inside_commits_only() {
    let mut parties = three();
    let proposal = parties[1].act(|provider, me| {
        let mut group = raw_group(provider);
        let (message, _) =
            group.propose_remove_member(provider, &me.leaf(), LeafNodeIndex::new(2)).expect("proposes");
        message.to_bytes().expect("bytes")
    });
    all_refuse(&mut parties, &proposal, Refusal::Proposal);
    // A commit by reference to a proposal that nobody took does not even stage.
    let (commit, _) = raw_commit(&mut parties[1], |builder, me| {
        builder.leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_extensions(leaf_extensions(Some(&me.inbox)).expect("fits"))
                .build(),
        )
    });
    let refused = parties[0].talk(|session, _| session.receive(&commit, &[]).map(|_| ()));
    assert!(matches!(refused, Err(GroupError::Invalid(_) | GroupError::Refused(_))), "{refused:?}");
}

#[test]
fn outsiders_do_not_commit() {
    let mut parties = three();
    let group_info = parties[1].act(|provider, me| {
        let group = raw_group(provider);
        let info = group.export_group_info(provider.crypto(), &me.leaf(), true).expect("exports");
        info.to_bytes().expect("bytes")
    });
    let mut eve = Party::new("eve");
    let commit = eve.act(|provider, me| external_commit(provider, me, &group_info));
    all_refuse(&mut parties, &commit, Refusal::Outsider);
}

fn external_commit(provider: &Provider<'_>, me: &Me, group_info: &[u8]) -> Vec<u8> {
    use openmls::prelude::tls_codec::Deserialize as _;
    use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn};
    let message = MlsMessageIn::tls_deserialize_exact(group_info).expect("decodes");
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else { panic!("a group info") };
    let (_, bundle) = MlsGroup::external_commit_builder()
        .with_config(crate::group::seat::join_config())
        .skip_lifetime_validation()
        .build_group(provider, info, me.leaf().credential_with_key())
        .expect("builds")
        .leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_capabilities(capabilities())
                .with_extensions(leaf_extensions(Some(&me.inbox)).expect("fits"))
                .build(),
        )
        .load_psks(provider.storage())
        .expect("none")
        .build(provider.rand(), provider.crypto(), &me.leaf(), |_| true)
        .expect("valid MLS")
        .finalize(provider)
        .expect("finalizes");
    bundle.into_messages().0.to_bytes().expect("bytes")
}

#[test]
fn a_welcome_into_a_bad_group_is_refused_and_costs_nothing() {
    // Mallory's own group has a member that its identity did not sign for; carol is invited to it.
    let (mut mallory, mut carol) = (Party::new("mallory"), Party::new("carol"));
    mallory.start();
    let dave = Identity::from_seed(&[0xd; 32]);
    let claim = Claim { credential: b"dave".to_vec(), ..Claim::honest(&dave, some_device(1)) };
    let ghost = claim.make(&mut Party::new("dave"));
    let package = carol.offer(&mut mallory);
    let (_, welcome) =
        raw_commit(&mut mallory, |builder, _| builder.propose_adds([ghost, package.mls.clone()]));
    let refused = carol.join(&welcome.expect("two were added"));
    assert!(matches!(refused, Err(GroupError::Refused(Refusal::Credential))), "{refused:?}");

    // The key package still serves in a good group.
    let mut alice = Party::new("alice");
    alice.start();
    let staged = alice.stage(&Change { add: vec![package], ..Default::default() }).expect("stages");
    carol.join(&staged.welcome.expect("added")).expect("joins");
}

#[test]
fn a_welcome_for_another_of_our_own_keys_is_refused() {
    let (mut alice, mut bob) = (Party::new("alice"), Party::new("bob"));
    alice.start();
    let add = vec![bob.offer(&mut alice)];
    let staged = alice.stage(&Change { add, ..Default::default() }).expect("stages");
    let welcome = staged.welcome.expect("added");
    // The device has got a new identity since it made the key package.
    bob.me.device = some_device(9);
    bob.act(|provider, me| {
        let refused = PendingJoin::new(provider, &me.leaf(), &welcome).map(|_| ());
        assert!(matches!(refused, Err(GroupError::Refused(Refusal::Identity))), "{refused:?}");
    });
}

#[test]
fn refusing_is_what_the_caller_may_do_too() {
    let mut parties = three();
    let staged = {
        let [_, mallory, _] = &mut parties;
        mallory.stage(&Change { remove: vec![0], ..Default::default() }).expect("stages")
    };
    let [alice, _, carol] = &mut parties;
    carol.talk(|session, _| {
        let Ok(Received::Commit(change)) = session.receive(&staged.commit, &[]) else { panic!("a commit") };
        drop(change);
        assert_eq!(session.epoch(), 1);
    });
    let message = alice.say(b"x");
    carol.hear(&message).expect("decrypts");
}
