//! The corpus of the fuzz target `client`, replayed: what was found once is not lost again. Write the inputs
//! below anew with `POSTHORN_CORPUS=write cargo test -p posthorn-client --test corpus`.

#[path = "../../fuzz/properties/client.rs"]
mod client;

use std::path::Path;

use client::{DECODERS, NOW, RECIPIENT, decode};
use posthorn_client::content::{Content, Invitation, Receipt, Said, Text, WelcomeRefused};
use posthorn_client::conversation::{GroupId, MessageId};
use posthorn_client::envelope::{EnvelopeKey, Slot};
use posthorn_client::group::{KeyPackage, KeyPackageKind, OwnLeaf, Provider};
use posthorn_client::identity::{
    Card, CardDevice, ContactLink, Credential, Device, Identity, RelayAddress, RelayUrl,
};
use posthorn_client::inbox::{InboxAddress, InboxSecret};
use posthorn_client::store::{Database, KdfCost, Location, Passphrase};
use posthorn_proto::chain::Chain;
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{DeviceId, Handle, MailboxId, PostId, PostKey, ReadKey, ReaderId, RelayIdentity};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/client");

#[test]
fn the_corpus_is_survived() {
    if std::env::var_os("POSTHORN_CORPUS").is_some() {
        for (number, (name, seed)) in seeds().into_iter().enumerate() {
            assert_eq!(DECODERS[number].0, name);
            let input = [&[number as u8], &seed[..]].concat();
            std::fs::write(Path::new(CORPUS).join(name.replace(' ', "_")), input).expect("written");
        }
    }
    let entries = std::fs::read_dir(CORPUS).expect("the corpus is checked in");
    let inputs: Vec<Vec<u8>> =
        entries.map(|entry| std::fs::read(entry.expect("entry").path()).expect("readable")).collect();
    let mut understood = [false; DECODERS.len()];
    for input in &inputs {
        understood[usize::from(input[0]) % DECODERS.len()] |= decode(input);
        // Cut anywhere, and with a damaged byte anywhere, it is survived as well.
        for at in (1..input.len()).step_by(37) {
            decode(&input[..at]);
            let mut damaged = input.clone();
            damaged[at] ^= 0x15;
            decode(&damaged);
        }
    }
    let missing: Vec<_> =
        DECODERS.iter().zip(understood).filter(|(_, seen)| !seen).map(|((name, _), _)| name).collect();
    assert!(missing.is_empty(), "the corpus has nothing that these understand: {missing:?}");
}

/// One good input for each decoder.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    let handle = Handle::parse("alice").expect("a handle");
    let relay = RelayAddress {
        url: RelayUrl::parse("wss://relay.example").expect("a URL"),
        identity: RelayIdentity([7; 32]),
    };
    let (identity, device) = (Identity::generate(&mut rng), Device::generate(&mut rng));
    let credential = Credential::issue(&identity, &device, &handle, &relay.identity);
    let secret = InboxSecret::from_seed([4; 32]);
    let inbox = InboxAddress {
        relay: relay.clone(),
        mailbox: MailboxId([1; 16]),
        post_key: PostKey::from_bytes([6; 32]),
        key: secret.key(),
    };
    let slot = Slot { mailbox: MailboxId([1; 16]), post: PostId([2; 16]), turn: TurnHash::NONE };
    let seen = CardDevice {
        credential: credential.clone(),
        signature_key: device.signature_key(),
        public_inbox: inbox.clone(),
    };
    let card = Card::issue(&identity, 3, handle.clone(), relay.clone(), vec![seen]).expect("a card");
    let link = ContactLink::new(handle, relay.url, identity.key()).expect("a link");
    let mut database = Database::create(Location::Memory, &Passphrase::new("x"), KdfCost::CHEAP, &mut rng)
        .expect("a database");
    let tx = database.transaction(&mut rng).expect("begins");
    let own = OwnLeaf { device: &device, credential: &credential, inbox: &inbox };
    let package =
        KeyPackage::make(&Provider::new(&tx, None), &own, KeyPackageKind::OneTime, NOW).expect("made");
    let invitation = Invitation {
        recipient: (RECIPIENT.0, Identity::from_seed(&RECIPIENT.1).key()),
        inviter: card.clone(),
        group: GroupId([9; 16]),
        relay: inbox.relay.clone(),
        mailbox: MailboxId([2; 16]),
        reader: ReaderId([3; 16]),
        read_key: ReadKey::from_bytes([4; 32]),
        seq: 4,
        chain: Chain([2; 32]),
        welcome: b"a welcome".to_vec(),
        repaired: None,
    };
    let envelope = EnvelopeKey::from_bytes([3; 32]).seal(&slot, b"hello", &mut rng).expect("fits");
    let sealed = inbox.key.seal(&slot.mailbox, &slot.post, b"hello", &mut rng).expect("seals");
    let refused = WelcomeRefused {
        group: GroupId([9; 16]),
        device: DeviceId([3; 16]),
        key_package: vec![1; 32],
        cause: "WELCOME".to_owned(),
    };
    let content = Content {
        message: MessageId([5; 16]),
        sent_at: NOW,
        receipt: Receipt { delivered: 4, read: 3 },
        said: Said::new(Text::new("Grüße")).expect("fits"),
    };
    vec![
        ("card", card.encoded().to_vec()),
        ("credential", credential.encoded().to_vec()),
        ("inbox address", inbox.encode()),
        ("contact link", link.to_string().into_bytes()),
        ("key package", package.bytes),
        ("envelope", envelope),
        ("inbox seal", sealed),
        ("inbox message", refused.encode()),
        ("content", content.encode()),
        ("invitation", invitation.encode(&identity)),
    ]
}
