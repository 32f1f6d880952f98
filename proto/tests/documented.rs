//! docs/protocol.md tells the truth: its test vectors, error table and limits are those of the code.

use data_encoding::HEXLOWER;
use posthorn_proto::auth::{AccountKey, Challenge};
use posthorn_proto::chain::{Chain, Fingerprint};
use posthorn_proto::code::Retry;
use posthorn_proto::turn::TurnHash;
use posthorn_proto::{
    ErrorCode, KeyHash, Limits, PostId, PostKey, Reader, ReaderId, RelayIdentity, Turn, TurnKey,
};
use x25519_dalek::{PublicKey, StaticSecret};

const DOCS: &str = include_str!("../../docs/protocol.md");
/// What only the relay computes.
const STORAGE: &str = include_str!("../../docs/storage.md");

fn row(name: &str, bytes: impl AsRef<[u8]>) -> String {
    format!("| {name} | `{}` |", HEXLOWER.encode(bytes.as_ref()))
}

fn documented(name: &str, bytes: impl AsRef<[u8]>) {
    let row = row(name, bytes);
    assert!(DOCS.contains(&row), "docs/protocol.md lacks {row}");
}

#[test]
fn the_proof() {
    let [identity, ephemeral, device] = [1, 2, 3].map(|byte| StaticSecret::from([byte; 32]));
    let public = |secret: &StaticSecret| PublicKey::from(secret).to_bytes();
    let relay_identity = RelayIdentity(public(&identity));
    let challenge = Challenge { relay_identity, ephemeral: public(&ephemeral), nonce: [4; 16] };
    documented("I", public(&identity));
    documented("E", public(&ephemeral));
    documented("D", public(&device));
    let key = AccountKey::of_device(&device, &challenge).expect("good keys");
    documented("device's proof", key.device_proof().0);
    documented("relay's proof", key.relay_proof().0);
    let asked = public(&StaticSecret::from([5; 32]));
    documented("C", asked);
    let proof = posthorn_proto::proof::prove(&identity, &challenge, &asked).expect("a good key");
    documented("proof of the identity", proof.0);
}

#[test]
fn the_hashes() {
    let turn = Turn {
        post_key_hash: KeyHash([1; 32]),
        turn_key_hash: KeyHash([2; 32]),
        admit: vec![Reader { id: ReaderId([3; 16]), key_hash: KeyHash([4; 32]) }],
        evict: vec![ReaderId([5; 16])],
    };
    documented("turn hash", turn.hash().0);
    let first = Chain::START.next(1, &PostId([6; 16]), &TurnHash::NONE, b"envelope");
    documented("chain(1)", first.0);
    documented("chain(2)", first.next(2, &PostId([7; 16]), &turn.hash(), b"commit").0);
    let (post_key, turn_key) = (PostKey::from_bytes([8; 32]).hash(), TurnKey::from_bytes([9; 32]).hash());
    let first = Fingerprint::of(&post_key, Some(&turn_key), &turn.hash(), b"commit");
    let row = row("first fingerprint", first.0);
    assert!(STORAGE.contains(&row), "docs/storage.md lacks {row}");
}

#[test]
fn the_errors() {
    for code in ErrorCode::ALL {
        let start = format!("| {} | {} | ", *code as i32, code.name());
        let retry = DOCS.lines().find_map(|line| line.strip_prefix(&start));
        let retry = retry.unwrap_or_else(|| panic!("docs/protocol.md lacks {}", code.name()));
        let word = match code.retry() {
            Retry::Never => "never",
            Retry::AfterReading => "after reading",
            Retry::Later => "later",
            Retry::Reconnect => "reconnect",
        };
        assert!(retry.starts_with(word), "{}: {retry}", code.name());
    }
}

#[test]
fn the_limits() {
    let limits = Limits::default();
    let digits = |number: u64| {
        let text = number.to_string();
        let groups: Vec<&str> =
            text.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
        groups.join(",")
    };
    for (name, value) in [
        ("frame_bytes", limits.frame_bytes.into()),
        ("envelope_bytes", limits.envelope_bytes.into()),
        ("signal_bytes", limits.signal_bytes.into()),
        ("card_bytes", limits.card_bytes.into()),
        ("key_package_bytes", limits.key_package_bytes.into()),
        ("openings_per_request", limits.openings_per_request.into()),
        ("openings_per_connection", limits.openings_per_connection.into()),
        ("requests_in_flight", limits.requests_in_flight.into()),
        ("readers_per_mailbox", limits.readers_per_mailbox.into()),
        ("mailbox_bytes", limits.mailbox_bytes),
        ("expiry_seconds", limits.expiry_seconds.into()),
        ("idle_seconds", limits.idle_seconds.into()),
        ("key_packages_per_device", limits.key_packages_per_device.into()),
        ("tokens_per_device", u64::from(limits.tokens_per_device)),
        ("blob_bytes", limits.blob_bytes),
        ("blob_seconds", limits.blob_seconds.into()),
        ("upload_tokens_per_device", limits.upload_tokens_per_device.into()),
    ] {
        assert!(DOCS.contains(&format!("| {name} | {}", digits(value))), "{name} = {value}");
    }
}
