//! Our provider and an independent implementation of suite 0x004D (OpenMLS's libcrux provider) in one group.

use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::{
    Extension, Extensions, KeyPackage as Mls, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageIn,
    ProcessedMessageContent, ProtocolMessage, StagedWelcome, UnknownExtension,
};
use openmls_traits::OpenMlsProvider as _;
use prost::Message as _;

use super::party::{NOW, Party};
use crate::group::info::{LIFETIME_EXTENSION, capabilities, leaf_extensions};
use crate::group::key_package::unlimited;
use crate::group::seat::join_config;
use crate::group::{Change, SUITE, UnverifiedKeyPackage, wire};

fn protocol_message(bytes: &[u8]) -> ProtocolMessage {
    MlsMessageIn::tls_deserialize_exact(bytes).expect("decodes").try_into_protocol_message().expect("one")
}

#[test]
fn libcrux_joins_talks_and_commits() {
    let libcrux = openmls_libcrux_crypto::Provider::new().expect("a provider");
    let (mut alice, bob) = (Party::new("alice"), Party::new("bob"));
    alice.start();

    // Bob lives on libcrux and MLS alone; only the form of his leaf is ours.
    let lifetime = wire::KeyPackageLifetime { not_before: NOW / 1000, not_after: NOW / 1000 + 1 };
    let extension = Extension::Unknown(LIFETIME_EXTENSION, UnknownExtension(lifetime.encode_to_vec()));
    let package = Mls::builder()
        .key_package_lifetime(unlimited())
        .leaf_node_capabilities(capabilities())
        .leaf_node_extensions(leaf_extensions(None).expect("fits"))
        .key_package_extensions(Extensions::single(extension).expect("one"))
        .build(SUITE, &libcrux, &bob.me.leaf(), bob.me.leaf().credential_with_key())
        .expect("libcrux lists the suite");
    let bytes = package.key_package().tls_serialize_detached().expect("bytes");
    let add = alice.act(|provider, _| {
        let package = UnverifiedKeyPackage::parse(&bytes).expect("well formed");
        vec![package.verify(provider, &bob.me.credential.identity(), NOW).expect("good")]
    });
    let staged = alice.stage(&Change { add, ..Change::default() }).expect("stages");
    alice.merge();

    let message = MlsMessageIn::tls_deserialize_exact(staged.welcome.expect("added")).expect("decodes");
    let MlsMessageBodyIn::Welcome(welcome) = message.extract() else { panic!("a welcome") };
    let mut group = StagedWelcome::new_from_welcome(&libcrux, &join_config(), welcome, None)
        .and_then(|staged| staged.into_group(&libcrux))
        .expect("joins");
    let keys = alice.talk(|session, _| session.keys().expect("keys"));
    let context = super::party::info("talk").place.exporter_context();
    let post = group.export_secret(libcrux.crypto(), "posthorn post key", &context, 32).expect("exports");
    assert_eq!(keys.post.expose()[..], post);

    // Both ways, in three epochs: after the join, after libcrux's commit, after ours.
    let talk = |alice: &mut Party, group: &mut MlsGroup| {
        let from_bob = group.create_message(&libcrux, &bob.me.leaf(), b"from libcrux").expect("encrypts");
        let heard = alice.hear(&from_bob.to_bytes().expect("bytes")).expect("decrypts");
        assert_eq!(heard, ("bob".to_owned(), b"from libcrux".to_vec()));
        let from_alice = alice.say(b"from RustCrypto");
        let processed = group.process_message(&libcrux, protocol_message(&from_alice)).expect("decrypts");
        let ProcessedMessageContent::ApplicationMessage(heard) = processed.into_content() else {
            panic!("a message")
        };
        assert_eq!(heard.into_bytes(), b"from RustCrypto");
    };
    talk(&mut alice, &mut group);

    let inbox = leaf_extensions(Some(&bob.me.inbox)).expect("fits");
    let parameters = LeafNodeParameters::builder().with_extensions(inbox).build();
    let bundle = group.self_update(&libcrux, &bob.me.leaf(), parameters).expect("commits");
    alice.follow(&bundle.into_commit().to_bytes().expect("bytes")).expect("applies");
    group.merge_pending_commit(&libcrux).expect("merges");
    talk(&mut alice, &mut group);

    let staged = alice.stage(&Change { update_self: true, ..Change::default() }).expect("stages");
    alice.merge();
    let processed = group.process_message(&libcrux, protocol_message(&staged.commit)).expect("valid");
    let ProcessedMessageContent::StagedCommitMessage(commit) = processed.into_content() else {
        panic!("a commit")
    };
    group.merge_staged_commit(&libcrux, *commit).expect("merges");
    talk(&mut alice, &mut group);
}
