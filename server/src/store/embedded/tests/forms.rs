//! Every form in which this version writes something into a data folder is in a folder that is kept beside
//! this file, and that later versions open: see [`super::format`], whose `version-1/` has what requests wrote
//! at first. `version-1-all/` has the rest: blobs, openings, tokens that are spent on a name, what upkeep
//! carries forward, posts that left memory, and an incarnation with a count and a checksum.
//!
//! A new form (a kind of record) makes [`every_form_is_in_a_kept_folder`] fail. Then write another folder:
//! add what brings the form about to a copy of [`fill`], and run `POSTHORN_FIXTURE=folder cargo test -p
//! posthorn-server write_all_forms -- --ignored`. Those that are there stay as they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::super::journal::format::{
    BATCH_HEADER, BatchHeader, CARRIED, FRAME_HEADER, Ident, REMOVED, ROSTER, SEGMENT_HEADER, SegmentHeader,
    frame,
};
use super::super::{KIND_MARK, KIND_RECORD};
use super::format::{copy, kept, write_fixture};
use super::*;
use crate::store::codec::BadRecord;
use crate::store::conformance::names::{
    CREATE, UPLOAD, account, at, blob, device, envelope, expect, handle_of, holder, invite, mailbox,
    new_blob, open, post, post_key, read_key, sized, token, turn_key, turning, upto,
};
use crate::store::conformance::{Fixture, START, new_mailbox, small_policy};
use crate::store::ledger::Record;
use crate::store::{Advance, NewAccount, NewBlob, NewInvite, OpenReader, SpentOn};

const NAME: &str = "version-1-all";
/// The folders that are kept.
const KEPT: [&str; 2] = ["version-1", NAME];
const DAY: u64 = 86_400;
/// How long filling the folder takes, in seconds.
const TAKES: u64 = 8 * DAY + DAY + 2 * 10_000;

/// A folder with segments and slices that are so small that some are emptied and ended.
struct InSmall(tempfile::TempDir);

impl InSmall {
    fn new() -> Self {
        Self(quick_dir())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }
}

impl Engine for InSmall {
    fn open<'a>(&'a mut self, setup: &'a Setup) -> Opening<'a> {
        let (config, setup) = (config(self.path(), setup), setup.clone());
        let open = move || {
            let mut rng = StdRng::seed_from_u64(7);
            let site = Site { slice: 5, ..Site::of(&config, &mut rng).expect("ours") };
            EmbeddedStore::open_at(site, &config, SMALL, setup.clock, setup.heard, &mut rng).expect("opens")
        };
        // A start may wait for its own first command, which no thread of a runtime may.
        let store = std::thread::spawn(open).join().expect("it ran");
        Box::pin(async move { Arc::new(store) as Arc<dyn Store> })
    }
}

/// The kinds of all frames in the segments of a folder, and of the ledger's records among them.
fn forms(data: &Path) -> BTreeSet<(u8, Option<u8>)> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(data.join("journal")).expect("there") {
        let bytes = fs::read(entry.expect("readable").path()).expect("read");
        let segment = u32::from_le_bytes(bytes[12..16].try_into().expect("four"));
        let header = SegmentHeader::decode(&bytes, segment).expect("a segment");
        let ident = Ident { segment, marker: header.marker };
        let mut at = SEGMENT_HEADER;
        while let Some(batch) = BatchHeader::decode(&bytes, ident, at) {
            let mut from = at + BATCH_HEADER;
            for _ in 0..batch.count {
                let (kind, payload, _) = frame(&bytes[from..], ident, from as u32).expect("intact");
                all.insert((kind, (kind == KIND_RECORD).then(|| payload[1])));
                from += FRAME_HEADER + payload.len();
            }
            at += batch.stride();
        }
    }
    all
}

/// The forms that this version writes, of which none is in these.
fn missing(there: &BTreeSet<(u8, Option<u8>)>) -> Vec<(u8, Option<u8>)> {
    let is_known = |kind: &u8| {
        let decoded = Record::decode([&[1, *kind][..], &[0; 300]].concat().into());
        decoded != Err(BadRecord("an unknown kind"))
    };
    let records = (0..=u8::MAX).filter(is_known).map(|kind| (KIND_RECORD, Some(kind)));
    let others = [KIND_MARK, ROSTER, REMOVED, CARRIED].map(|kind| (kind, None));
    records.chain(others).filter(|form| !there.contains(form)).collect()
}

#[test]
fn every_form_is_in_a_kept_folder() {
    let there = KEPT.iter().flat_map(|name| forms(&kept(name))).collect();
    assert_eq!(missing(&there), [], "what to do is said at the top of this file");
    let past = fs::read_dir(kept(NAME).join("past")).expect("there");
    let past = past.map(|entry| entry.expect("readable").path().extension().expect("one").to_owned());
    assert_eq!(
        past.collect::<BTreeSet<_>>(),
        ["ids", "log"].map(Into::into).into(),
        "both forms of the past"
    );
    let incarnation = fs::read_to_string(kept(NAME).join("incarnation")).expect("there");
    assert_eq!(incarnation.split_whitespace().count(), 6, "with a count and a checksum");
}

/// The requests whose records are in the folder, and what upkeep does meanwhile.
async fn fill(f: &mut Fixture) {
    // Tokens that become void, and an invite that is revoked.
    f.tokens(3).await;
    for uses in [1, 0] {
        expect(f.store.mint_invite(NewInvite { hash: invite(9), uses, expires: START * 2 }).await);
    }
    f.clock.pass(8 * DAY);
    expect(f.store.expire().await);
    // A segment that stays, so that what is gone of later ones has to be remembered.
    f.restart().await;
    expect(f.store.draw_tokens(device(1), CREATE, (4..=9).map(token).collect()).await);
    expect(f.store.draw_tokens(device(1), UPLOAD, (20..=25).map(token).collect()).await);
    expect(f.store.publish_card(device(1), 4, envelope(4, 2500)).await);
    f.restart().await;
    in_the_directory(f).await;
    let (four, five) = (mailbox(4), mailbox(5));
    for n in 4..=6 {
        expect(f.create(new_mailbox(n, &[1, 2])).await);
    }
    expect(f.store.spend(token(7), SpentOn::Mailbox(mailbox(7))).await);
    f.clock.pass(DAY);
    let claim = OpenReader { key: read_key(8), claim: Some(read_key(1)), ..open(five, 1) };
    let opening = expect(f.store.open(claim).await).opening;
    with_blobs(f).await;
    expect(f.store.destroy(mailbox(6), turn_key(0)).await);
    for n in 1..=3 {
        let seq = expect(f.store.append(f.now(post(five, n, 0))).await);
        expect(f.store.advance(Advance { opening, ..upto(five, 1, seq) }).await);
    }
    expect(f.store.append(f.now(turning(post(four, 1, 0), 0, &[3], &[2]))).await);
    expect(f.store.publish_card(device(2), 2, envelope(8, 30)).await);
    f.restart().await;
    let read = async |f: &Fixture, seq| {
        for n in [1, 3] {
            expect(f.store.advance(upto(four, n, seq)).await);
        }
        for _ in 0..3 {
            expect(f.store.expire().await);
        }
    };
    for round in 0..4 {
        for n in 0..20 {
            let seq = expect(f.store.append(f.now(sized(four, 10 + 20 * round + n, 1, 150))).await);
            if n % 10 == 9 {
                read(f, seq).await;
            }
        }
        f.restart().await;
    }
    // They leave memory, and so do three more after them.
    f.clock.pass(10_000);
    expect(f.store.expire().await);
    let mut seq = 0;
    for n in 200..=202 {
        seq = expect(f.store.append(f.now(post(four, n, 1))).await);
    }
    read(f, seq).await;
    f.clock.pass(10_000);
    expect(f.store.expire().await);
    let opening = expect(f.store.open(open(four, 1)).await).opening;
    for n in 300..=301 {
        let seq = expect(f.store.append(f.now(sized(four, n, 1, 40))).await);
        expect(f.store.advance(Advance { opening, ..upto(four, 1, seq) }).await);
    }
}

/// In a segment of which half is not needed any more soon.
async fn in_the_directory(f: &Fixture) {
    expect(f.store.register(NewAccount { invite: Some(invite(0)), ..account(2) }).await);
    expect(f.store.publish_card(device(2), 1, envelope(7, 2500)).await);
    let packages = |fill: std::ops::Range<u8>| fill.map(|fill| envelope(fill, 50)).collect();
    expect(f.store.publish_key_packages(device(1), packages(1..4), Some(envelope(9, 60))).await);
    assert_eq!(expect(f.store.take_key_packages(handle_of(1)).await)[0].key_package, envelope(1, 50));
    expect(f.store.publish_key_packages(device(1), packages(4..6), None).await);
    expect(f.store.register(NewAccount { invite: Some(invite(0)), ..account(3) }).await);
    expect(f.store.remove_account(handle_of(3)).await);
}

async fn with_blobs(f: &Fixture) {
    for n in 20..=22 {
        expect(f.create_blob(NewBlob { seconds: 50_000, ..new_blob(n) }).await);
    }
    expect(f.store.extend_blob(blob(20), holder(20), 100_000).await);
    expect(f.store.delete_blob(blob(21), holder(21)).await);
    expect(f.store.spend(token(23), SpentOn::Blob(blob(23))).await);
}

#[tokio::test]
#[ignore = "writes a fixture; see the module"]
async fn write_all_forms() {
    let engine = InSmall::new();
    let dir = engine.path();
    let mut f = Fixture::new(engine).await;
    fill(&mut f).await;
    assert_eq!(f.clock.unix_seconds(), START + TAKES);
    let there = forms(&kept("version-1")).union(&forms(&dir)).copied().collect();
    assert_eq!(missing(&there), []);
    write_fixture(&dir);
}

/// Whatever changes, it says the same.
#[tokio::test]
async fn all_forms_are_read() {
    let mut engine = OnFolder::new();
    copy(&kept(NAME), &engine.dir.path().join("data"));
    let setup = Setup::new(small_policy());
    setup.clock.pass(TAKES);
    let store = engine.open(&setup).await;
    let line = fs::read_to_string(kept(NAME).join("incarnation")).expect("there");
    assert!(line.contains(&data_encoding::HEXLOWER.encode(&store.incarnation().0)), "it stays: {line}");
    let stats = store.stats();
    assert_eq!((stats.mailboxes, stats.accounts, stats.blobs, stats.past_since), (2, 2, 2, 0), "{stats:?}");

    let again = |n: u16, time: u64| at(sized(mailbox(4), n, 1, 150), START + time);
    let (first, then) = (9 * DAY, 9 * DAY + 10_000);
    assert_eq!(store.append(again(10, first)).await, Ok(2), "it is in a slice");
    assert_eq!(store.append(again(89, first)).await, Ok(81));
    assert_eq!(store.append(at(post(mailbox(4), 202, 1), START + then)).await, Ok(84), "it is in the log");
    assert!(matches!(store.append(again(90, first)).await, Err(StoreError::PostIdTime { .. })));
    assert_eq!(store.append(at(sized(mailbox(4), 301, 1, 40), START + TAKES)).await, Ok(86), "it is stored");

    let turned = expect(store.open(open(mailbox(4), 3)).await);
    assert_eq!((turned.head, turned.cursor, turned.post_key), (86, 84, post_key(1)));
    assert_eq!(store.open(open(mailbox(4), 2)).await, Err(StoreError::ReaderUnknown), "it was evicted");
    let claimed = expect(store.open(OpenReader { key: read_key(8), ..open(mailbox(5), 1) }).await);
    assert_eq!((claimed.head, claimed.cursor), (3, 3));
    let late = store.advance(upto(mailbox(5), 1, 3)).await;
    assert_eq!(late, Err(StoreError::OpenedElsewhere), "a numbered opening has acknowledged");

    assert_eq!(expect(store.blob(blob(20)).await).until, START + 9 * DAY + 100_000);
    assert_eq!(store.blob(blob(21)).await, Err(StoreError::BlobUnknown));
    let spent = expect(store.spend(token(7), SpentOn::Mailbox(mailbox(7))).await);
    assert_eq!(store.spend(token(7), SpentOn::Mailbox(mailbox(8))).await, Err(StoreError::TokenUnknown));
    expect(store.create(new_mailbox(7, &[1]), spent).await);
    let upload = expect(store.spend(token(23), SpentOn::Blob(blob(23))).await);
    expect(store.create_blob(NewBlob { length: 10, ..new_blob(23) }, upload).await);
    for used in [4, 6] {
        assert_eq!(
            store.spend(token(used), SpentOn::Mailbox(mailbox(9))).await,
            Err(StoreError::TokenUnknown)
        );
    }
    assert_eq!(
        store.spend(token(1), SpentOn::Mailbox(mailbox(9))).await,
        Err(StoreError::TokenUnknown),
        "void"
    );
    assert_eq!(store.spend(token(21), SpentOn::Blob(blob(9))).await, Err(StoreError::TokenUnknown));

    assert_eq!(expect(store.card(handle_of(1)).await).card, envelope(4, 2500));
    for n in 3..6 {
        let taken = expect(store.take_key_packages(handle_of(1)).await);
        assert_eq!(taken[0].key_package, envelope(n, 50), "1 was taken, 2 had to make room");
    }
    let repeated = store.publish_key_packages(device(1), vec![envelope(1, 50)], None).await;
    assert_eq!(expect(repeated).one_time, 0, "it is remembered");
    assert_eq!(store.device(device(3)).await, Err(StoreError::DeviceUnknown));
    let late = NewAccount { invite: Some(invite(9)), ..account(4) };
    assert_eq!(store.register(late).await, Err(StoreError::InviteInvalid), "it was revoked");
}
