//! The bytes of records and rows: what was written is read back, and nothing else is taken for it.

use bytes::Bytes;
use posthorn_proto::{BlobId, DeviceId, Handle, KeyHash, MailboxId, PostId, Reader, ReaderId, Turn};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::blob::change::{BlobChange, Held};
use crate::directory::change::DirectoryChange;
use crate::mailbox::change::{MailboxChange, Snapshot};
use crate::store::codec::{Parser, Writer};
use crate::store::ledger::{Change, Passed, Place, Rebuild, Record, RowKey};
use crate::store::{OpeningNumber, StorePolicy};

fn body() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn hash() -> impl Strategy<Value = KeyHash> {
    any::<[u8; 32]>().prop_map(KeyHash)
}

fn readers() -> impl Strategy<Value = Vec<Reader>> {
    vec((any::<[u8; 16]>(), hash()).prop_map(|(id, key_hash)| Reader { id: ReaderId(id), key_hash }), 0..4)
}

fn turn() -> impl Strategy<Value = Turn> {
    (hash(), hash(), readers(), vec(any::<[u8; 16]>().prop_map(ReaderId), 0..4)).prop_map(
        |(post_key_hash, turn_key_hash, admit, evict)| Turn { post_key_hash, turn_key_hash, admit, evict },
    )
}

fn handle() -> impl Strategy<Value = Handle> {
    "[a-z][a-z0-9_.-]{1,31}".prop_map(|text| Handle::parse(&text).expect("the pattern is that of handles"))
}

/// A snapshot whose seqs are in order, made by way of its bytes.
fn snapshot() -> impl Strategy<Value = Snapshot> {
    let numbers = (any::<u64>(), 0..3u64);
    (any::<u32>(), any::<u32>(), any::<u32>(), readers(), readers(), numbers).prop_map(
        |(a, b, c, one, two, (n, opening))| {
            let (forgotten, trimmed, kept) = (u64::from(a), u64::from(b), u64::from(c));
            let mut out = Vec::new();
            let mut w = Writer(&mut out);
            w.number(forgotten + trimmed + kept).number(forgotten + trimmed + 1).number(forgotten);
            w.fixed([1; 32]).fixed([2; 32]).number(n).fixed([3; 8]).number(7).number(8);
            w.number(one.len() as u64);
            for reader in &one {
                w.fixed(reader.id).fixed(reader.key_hash).number(n);
            }
            w.number(two.len() as u64);
            for reader in &two {
                w.fixed(reader.id).fixed(reader.key_hash).number(1).number(n);
            }
            if opening > 0 {
                one.iter().chain(&two).for_each(|_| {
                    w.number(opening);
                });
            }
            Snapshot::decode(&mut Parser::new(out.into())).expect("it is well formed")
        },
    )
}

fn mailbox_change() -> impl Strategy<Value = MailboxChange> {
    let id = any::<[u8; 16]>;
    prop_oneof![
        (any::<u64>(), any::<u64>(), id(), id(), proptest::option::of(turn()), body()).prop_map(
            |(seq, oldest, post, fingerprint, turn, envelope)| MailboxChange::Posted {
                seq,
                oldest,
                post_id: PostId(post),
                fingerprint,
                turn: turn.map(Into::into),
                envelope
            }
        ),
        (any::<u64>(), id(), id()).prop_map(|(seq, post, fingerprint)| MailboxChange::Mark {
            seq,
            post_id: PostId(post),
            fingerprint
        }),
        (id(), any::<u64>(), any::<u64>(), proptest::option::of(any::<u64>())).prop_map(
            |(reader, cursor, oldest, opening)| MailboxChange::Advanced {
                reader: ReaderId(reader),
                cursor,
                oldest,
                opening: opening.map(OpeningNumber)
            }
        ),
        (id(), hash()).prop_map(|(reader, key)| MailboxChange::Claimed { reader: ReaderId(reader), key }),
        any::<u32>().prop_map(|day| MailboxChange::Opened { day }),
        (any::<u64>(), any::<u64>()).prop_map(|(oldest, forgotten)| MailboxChange::Cut { oldest, forgotten }),
        Just(MailboxChange::Removed),
        snapshot().prop_map(|snapshot| MailboxChange::Snapshot(Box::new(snapshot))),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Clock),
        any::<[u64; 6]>().prop_map(|[made, at, since, first, number, entries]| {
            Change::Passed(Passed { made, at, since, first, number, entries })
        }),
        (any::<[u8; 16]>(), hash(), hash(), hash(), readers(), any::<u32>(), any::<u64>()).prop_map(
            |(mailbox, token, post_key, turn_key, readers, expiry, quota)| Change::Created {
                mailbox: MailboxId(mailbox),
                token,
                post_key,
                turn_key,
                readers,
                expiry,
                quota
            }
        ),
        (any::<[u8; 16]>(), any::<u64>(), mailbox_change()).prop_map(|(mailbox, life, change)| {
            Change::Mailbox { mailbox: MailboxId(mailbox), life, change }
        }),
        directory_change().prop_map(Change::Directory),
        blob_change().prop_map(Change::Blob),
    ]
}

fn blob_change() -> impl Strategy<Value = BlobChange> {
    let id = || any::<[u8; 16]>().prop_map(BlobId);
    let held = || {
        let parts = (any::<u64>(), hash(), any::<u32>());
        parts.prop_map(|(length, holder, until)| Held { length, holder, until })
    };
    prop_oneof![
        (id(), hash(), held()).prop_map(|(blob, token, held)| BlobChange::Created { blob, token, held }),
        (id(), any::<u64>(), held()).prop_map(|(blob, life, held)| BlobChange::Extended { blob, life, held }),
        (id(), any::<u64>()).prop_map(|(blob, life)| BlobChange::Removed { blob, life }),
    ]
}

fn directory_change() -> impl Strategy<Value = DirectoryChange> {
    let id = || any::<[u8; 16]>().prop_map(DeviceId);
    prop_oneof![
        (handle(), any::<[u8; 32]>(), id(), any::<[u8; 32]>(), proptest::option::of((hash(), any::<u32>())))
            .prop_map(|(handle, identity_key, device, device_key, invite)| DirectoryChange::Registered {
                handle,
                identity_key,
                device,
                device_key,
                invite
            }),
        (handle(), any::<u64>(), body()).prop_map(|(handle, card_version, card)| {
            DirectoryChange::CardPublished { handle, card_version, card }
        }),
        (id(), any::<u64>(), body()).prop_map(|(device, number, key_package)| {
            DirectoryChange::KeyPackageAdded { device, number, key_package }
        }),
        (id(), any::<u64>(), any::<u64>())
            .prop_map(|(device, number, digest)| DirectoryChange::KeyPackageMark { device, number, digest }),
        (id(), body()).prop_map(|(device, key_package)| DirectoryChange::LastResort { device, key_package }),
        (id(), any::<u64>()).prop_map(|(device, first)| DirectoryChange::KeyPackagesTaken { device, first }),
        (handle(), vec(id(), 0..3))
            .prop_map(|(handle, devices)| DirectoryChange::AccountRemoved { handle, devices }),
        (any::<u32>(), vec(hash(), 0..5))
            .prop_map(|(day, hashes)| DirectoryChange::TokensDrawn { day, hashes }),
        hash().prop_map(|token| DirectoryChange::TokenSpent { token }),
        (any::<u32>(), vec(hash(), 0..5))
            .prop_map(|(day, hashes)| DirectoryChange::UploadTokensDrawn { day, hashes }),
        hash().prop_map(|token| DirectoryChange::UploadTokenSpent { token }),
        (any::<u32>(), hash(), any::<[u8; 16]>()).prop_map(|(day, token, name)| {
            DirectoryChange::TokenSpentOn { day, token, mailbox: MailboxId(name) }
        }),
        (any::<u32>(), hash(), any::<[u8; 16]>()).prop_map(|(day, token, name)| {
            DirectoryChange::UploadTokenSpentOn { day, token, blob: BlobId(name) }
        }),
        any::<u32>().prop_map(|before| DirectoryChange::TokensExpired { before }),
        (hash(), any::<u32>(), any::<u64>())
            .prop_map(|(hash, uses, expires)| DirectoryChange::InviteMinted { hash, uses, expires }),
        hash().prop_map(|hash| DirectoryChange::InviteGone { hash }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    (any::<u64>(), any::<u32>(), change()).prop_map(|(version, time, change)| Record {
        version,
        time,
        change,
    })
}

/// Some records of each kind, the same in every run, for a fuzzer to start from.
pub(in crate::store) fn samples() -> Vec<Vec<u8>> {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..40)
        .map(|_| encoded(&record().new_tree(&mut runner).expect("nothing is filtered").current()))
        .collect()
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.encode(&mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_come_back(record in record()) {
        prop_assert_eq!(Record::decode(encoded(&record).into()), Ok(record));
    }

    /// Whatever the damage, the result is an error or a record whose encoding is exactly the damaged bytes.
    #[test]
    fn damage_is_told_or_harmless(record in record(), at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = encoded(&record);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = to }
        if let Ok(other) = Record::decode(bytes.clone().into()) {
            prop_assert_eq!(encoded(&other), bytes);
        }
    }

    #[test]
    fn noise_is_no_record(mut bytes in vec(any::<u8>(), 0..200), kind in 0..50u8) {
        if bytes.len() > 2 {
            (bytes[0], bytes[1]) = (1, kind);
        }
        if let Ok(record) = Record::decode(bytes.clone().into()) {
            prop_assert_eq!(encoded(&record), bytes);
        }
    }

    /// Rows come from an index that may be torn in any way.
    #[test]
    fn noise_is_no_row(tag in 0..13u8, name in vec(any::<u8>(), 0..40), value in vec(any::<u8>(), 0..200)) {
        let mut rebuild = Rebuild::<Nowhere>::new(StorePolicy::default(), [1, 2]);
        let key = [&[tag], &name[..]].concat();
        let _ = rebuild.import(&key, &value);
        let _ = rebuild.import(&key, &[&[1], &value[..]].concat());
        let (ledger, _) = rebuild.finish();
        for key in ledger.rows() {
            prop_assert!(ledger.export(&key).is_some());
        }
    }
}

/// A place that takes no bytes.
#[derive(Debug, Clone, PartialEq)]
struct Nowhere;

impl Place for Nowhere {
    fn put(&self, _: &mut Vec<u8>) {}

    fn take(_: &mut &[u8]) -> Option<Self> {
        Some(Self)
    }
}

/// Released formats stay readable: these bytes are format 1 for ever.
#[test]
fn format_1_is_fixed() {
    let posted = Record {
        version: 300,
        time: 1_800_000_000,
        change: Change::Mailbox {
            mailbox: MailboxId([0xaa; 16]),
            life: 2,
            change: MailboxChange::Posted {
                seq: 5,
                oldest: 4,
                post_id: PostId([0xbb; 16]),
                fingerprint: [0xcc; 16],
                turn: None,
                envelope: Bytes::from_static(b"sealed"),
            },
        },
    };
    let hex: String = encoded(&posted).iter().map(|byte| format!("{byte:02x}")).collect();
    let (a, b, c) = ("aa".repeat(16), "bb".repeat(16), "cc".repeat(16));
    assert_eq!(hex, format!("010aac0280a4a7da06{a}020504{b}{c}007365616c6564"));
    let about = |change| Record {
        version: 1,
        time: 0,
        change: Change::Mailbox { mailbox: MailboxId([0xaa; 16]), life: 2, change },
    };
    let reader = ReaderId([0xbb; 16]);
    for (opening, hex) in [
        (None, format!("010c0100{a}02{b}0504")),
        (Some(OpeningNumber(300)), format!("01120100{a}02{b}0504ac02")),
    ] {
        let advanced = about(MailboxChange::Advanced { reader, cursor: 5, oldest: 4, opening });
        assert_eq!(encoded(&advanced).iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
    }
    let taken = Record {
        version: 1,
        time: 0,
        change: Change::Directory(DirectoryChange::KeyPackagesTaken {
            device: DeviceId([0xdd; 16]),
            first: 9,
        }),
    };
    let hex: String = encoded(&taken).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, format!("01230100{}09", "dd".repeat(16)));
    let passed = Passed { made: 300, at: 2, since: 3, first: 4, number: 5, entries: 6 };
    let record = Record { version: 1, time: 0, change: Change::Passed(passed) };
    let hex: String = encoded(&record).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "01030100ac020203040506");
    let (blob, held) = (BlobId([0xee; 16]), Held { length: 300, holder: KeyHash([0xff; 32]), until: 7 });
    let (id, key, token) = ("ee".repeat(16), "ff".repeat(32), "aa".repeat(32));
    let (day, mailbox) = (300, MailboxId([0xdd; 16]));
    for (change, expected) in [
        (
            DirectoryChange::TokenSpentOn { day, token: KeyHash([0xaa; 32]), mailbox },
            format!("012f0801ac02{token}{}", "dd".repeat(16)),
        ),
        (
            DirectoryChange::UploadTokenSpentOn { day, token: KeyHash([0xaa; 32]), blob },
            format!("01300801ac02{token}{id}"),
        ),
    ] {
        let record = Record { version: 8, time: 1, change: Change::Directory(change) };
        let hex: String = encoded(&record).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }
    for (change, expected) in [
        (
            BlobChange::Created { blob, token: KeyHash([0xaa; 32]), held },
            format!("01140801{id}{token}ac02{key}07"),
        ),
        (BlobChange::Extended { blob, life: 6, held }, format!("01150801{id}06ac02{key}07")),
        (BlobChange::Removed { blob, life: 6 }, format!("01160801{id}06")),
    ] {
        let record = Record { version: 8, time: 1, change: Change::Blob(change) };
        let hex: String = encoded(&record).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }
}

#[test]
fn other_formats_are_refused() {
    let mut bytes = encoded(&Record { version: 1, time: 1, change: Change::Clock });
    assert!(Record::decode(bytes.clone().into()).is_ok());
    bytes[0] = 2;
    assert!(Record::decode(bytes.into()).is_err());
    let key = RowKey::Meta.bytes();
    let mut rebuild = Rebuild::<Nowhere>::new(StorePolicy::default(), [1, 2]);
    assert!(rebuild.import(&key, &[1, 0, 0, 0, 0, 0]).is_ok(), "as it was before posts left");
    assert!(rebuild.import(&key, &[1, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]).is_ok());
    assert_eq!(
        rebuild.finish().0.passed(),
        Passed { made: 2, at: 3, since: 4, first: 5, number: 6, entries: 7 }
    );
    let mut rebuild = Rebuild::<Nowhere>::new(StorePolicy::default(), [1, 2]);
    assert!(rebuild.import(&key, &[2, 0, 0, 0, 0, 0]).is_err());
}
