//! A member that breaks our rules with valid MLS: it holds the group's keys and OpenMLS itself, without our
//! checks. Everybody refuses, stays where it was, and goes on.

use openmls::group::Initial;
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{
    CommitBuilder, Credential as MlsCredential, CredentialWithKey, Extension, ExtensionType, Extensions,
    GroupId, KeyPackage as Mls, LeafNodeIndex, LeafNodeParameters, Lifetime, MlsGroup,
    RequiredCapabilitiesExtension, UnknownExtension,
};
use openmls_traits::OpenMlsProvider as _;
use posthorn_proto::{DeviceId, Handle};
use prost::Message as _;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::party::{Me, NOW, Party, TALK, gather, info};
use crate::identity::{Credential, Device, Identity};
use crate::session::info::{CREDENTIAL_TYPE, LIFETIME_EXTENSION, capabilities, leaf_extensions};
use crate::session::key_package::unlimited;
use crate::session::{
    KeyPackageError, OwnLeaf, PendingJoin, Provider, Received, Refusal, SUITE, SessionError,
    UnverifiedKeyPackage, wire,
};

/// The three at the start; mallory is leaf 1.
fn three() -> [Party; 3] {
    let mut parties = ["alice", "mallory", "carol"].map(Party::new);
    gather(&mut parties);
    parties
}

/// Makes a commit past our checks: (commit, welcome).
fn raw_commit(
    party: &mut Party,
    build: impl for<'a> FnOnce(CommitBuilder<'a, Initial>, &Me) -> CommitBuilder<'a, Initial>,
) -> (Vec<u8>, Option<Vec<u8>>) {
    party.act(|provider, me| {
        let mut group = MlsGroup::load(provider.storage(), &GroupId::from_slice(&TALK.0))
            .expect("reads")
            .expect("stored");
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
fn all_refuse(parties: &mut [Party; 3], commit: &[u8], reason: Refusal) {
    let [alice, _, carol] = parties;
    for party in [&mut *alice, &mut *carol] {
        party.talk(|session, _| {
            let refused = session.receive(commit);
            assert!(
                matches!(refused, Err(SessionError::Refused(why)) if why == reason),
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
    /// MLS's own lifetime.
    clock: Lifetime,
}

impl Claim {
    fn honest(identity: &Identity, device: Device) -> Self {
        let handle = Handle::parse("dave").expect("a handle");
        let credential = Credential::issue(identity, &device, &handle, 0).encoded().to_vec();
        Self { device, credential, lifetime: true, inbox: false, clock: unlimited() }
    }

    fn make(&self, party: &mut Party) -> Mls {
        party.act(|provider, me| {
            let mut builder =
                Mls::builder().key_package_lifetime(self.clock).leaf_node_capabilities(capabilities());
            if self.inbox {
                builder = builder.leaf_node_extensions(leaf_extensions(&me.inbox).expect("fits"));
            }
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

#[test]
fn a_committer_stays_who_it_is() {
    let mut parties = three();
    // Another identity signs for mallory's device and key: a valid credential, but not mallory's.
    let eve = Identity::from_seed(&[0xe; 32]);
    let (commit, _) = raw_commit(&mut parties[1], |builder, me| {
        let credential = Credential::issue(&eve, &me.device, me.credential.handle(), 0);
        builder.leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_credential_with_key(CredentialWithKey {
                    credential: MlsCredential::new(CREDENTIAL_TYPE, credential.encoded().to_vec()),
                    signature_key: me.device.signature_key()[..].into(),
                })
                .with_extensions(leaf_extensions(&me.inbox).expect("fits"))
                .build(),
        )
    });
    all_refuse(&mut parties, &commit, Refusal::Identity);
    // Nor does it take another's name.
    let mut seed = [0; 32];
    seed[..7].copy_from_slice(b"mallory");
    let mallory = Identity::generate(&mut ChaCha20Rng::from_seed(seed));
    let mut parties = three();
    let (commit, _) = raw_commit(&mut parties[1], |builder, me| {
        let handle = Handle::parse("alice").expect("a handle");
        let credential = Credential::issue(&mallory, &me.device, &handle, 0);
        builder.leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_credential_with_key(CredentialWithKey {
                    credential: MlsCredential::new(CREDENTIAL_TYPE, credential.encoded().to_vec()),
                    signature_key: me.device.signature_key()[..].into(),
                })
                .with_extensions(leaf_extensions(&me.inbox).expect("fits"))
                .build(),
        )
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
    let [required, stated] = good.try_into().expect("two");
    let unknown = |number, bytes| Extension::Unknown(number, UnknownExtension(bytes));
    let fewer =
        RequiredCapabilitiesExtension::new(&[ExtensionType::Unknown(0xF001)], &[], &[CREDENTIAL_TYPE]);
    for bent in [
        // No info; of other rules; something beside it; capabilities that a later device might not have.
        vec![required.clone()],
        vec![required.clone(), unknown(0xF001, vec![8, 2])],
        vec![required, stated.clone(), unknown(0xF004, vec![])],
        vec![Extension::RequiredCapabilities(fewer), stated],
    ] {
        let mut parties = three();
        let extensions = Extensions::from_vec(bent).expect("valid MLS");
        let (commit, _) = raw_commit(&mut parties[1], |builder, me| {
            builder
                .leaf_node_parameters(
                    LeafNodeParameters::builder()
                        .with_extensions(leaf_extensions(&me.inbox).expect("fits"))
                        .build(),
                )
                .propose_group_context_extensions(extensions)
                .expect("valid MLS")
        });
        all_refuse(&mut parties, &commit, Refusal::Info);
    }
}

#[test]
fn proposals_stand_inside_commits_only() {
    let mut parties = three();
    let proposal = parties[1].act(|provider, me| {
        let mut group = MlsGroup::load(provider.storage(), &GroupId::from_slice(&TALK.0))
            .expect("reads")
            .expect("stored");
        let (message, _) =
            group.propose_remove_member(provider, &me.leaf(), LeafNodeIndex::new(2)).expect("proposes");
        message.to_bytes().expect("bytes")
    });
    all_refuse(&mut parties, &proposal, Refusal::Proposal);
    // A commit by reference to a proposal that nobody took does not even stage.
    let (commit, _) = raw_commit(&mut parties[1], |builder, me| {
        builder.leaf_node_parameters(
            LeafNodeParameters::builder().with_extensions(leaf_extensions(&me.inbox).expect("fits")).build(),
        )
    });
    let refused = parties[0].talk(|session, _| session.receive(&commit).map(|_| ()));
    assert!(matches!(refused, Err(SessionError::Invalid(_) | SessionError::Refused(_))), "{refused:?}");
}

#[test]
fn outsiders_do_not_commit() {
    let mut parties = three();
    let group_info = parties[1].act(|provider, me| {
        let group = MlsGroup::load(provider.storage(), &GroupId::from_slice(&TALK.0))
            .expect("reads")
            .expect("stored");
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
        .with_config(crate::session::group::join_config())
        .skip_lifetime_validation()
        .build_group(provider, info, me.leaf().credential_with_key())
        .expect("builds")
        .leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_capabilities(capabilities())
                .with_extensions(leaf_extensions(&me.inbox).expect("fits"))
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
    assert!(matches!(refused, Err(SessionError::Refused(Refusal::Credential))), "{refused:?}");

    // The key package still serves in a good group.
    let mut alice = Party::new("alice");
    alice.start();
    let staged =
        alice.stage(&crate::session::Change { add: vec![package], ..Default::default() }).expect("stages");
    carol.join(&staged.welcome.expect("added")).expect("joins");
}

#[test]
fn a_welcome_for_another_of_our_own_keys_is_refused() {
    let (mut alice, mut bob) = (Party::new("alice"), Party::new("bob"));
    alice.start();
    let add = vec![bob.offer(&mut alice)];
    let staged = alice.stage(&crate::session::Change { add, ..Default::default() }).expect("stages");
    let welcome = staged.welcome.expect("added");
    // The device has got a new identity since it made the key package.
    bob.me.device = some_device(9);
    bob.act(|provider, me| {
        let refused = PendingJoin::new(provider, &me.leaf(), &welcome).map(|_| ());
        assert!(matches!(refused, Err(SessionError::Refused(Refusal::Identity))), "{refused:?}");
    });
}

#[test]
fn refusing_is_what_the_caller_may_do_too() {
    let mut parties = three();
    let staged = {
        let [_, mallory, _] = &mut parties;
        mallory.stage(&crate::session::Change { remove: vec![0], ..Default::default() }).expect("stages")
    };
    let [alice, _, carol] = &mut parties;
    carol.talk(|session, _| {
        let Ok(Received::Commit(change)) = session.receive(&staged.commit) else { panic!("a commit") };
        drop(change);
        assert_eq!(session.epoch(), 1);
    });
    let message = alice.say(b"x");
    carol.hear(&message).expect("decrypts");
}
