//! What every engine of [`Parts`] does, and what a folder is after a kill.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use posthorn_proto::BlobId;
use posthorn_proto::limits::BLOB_PART_BYTES;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::folder::FolderParts;
use super::memory::MemoryParts;
use super::sweep::Sweep;
use super::*;
use crate::clock::SystemClock;
use crate::store::conformance::names::{UPLOAD, account, blob, device, expect, holder, new_blob, token};
use crate::store::memory::MemoryStore;
use crate::store::paying::create_blob;
use crate::store::{Blobs as _, Directory as _, StorePolicy, Unheard};

const OWNER: Owner = Owner { blob: BlobId([0xab; 16]), life: 7 };
/// How long its blob is: it has three parts, of which the last has 5 bytes.
const LENGTH: u64 = 2 * BLOB_PART_BYTES as u64 + 5;

/// Each engine, and whatever it lives in. S3 is one of them if there is a server: `cargo xtask conformance
/// s3` starts one.
async fn engines() -> Vec<(Box<dyn Parts>, Option<tempfile::TempDir>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = FolderParts::open(folder.path(), 0).expect("opened");
    #[allow(unused_mut, reason = "not without the feature s3")]
    let mut engines: Vec<(Box<dyn Parts>, _)> =
        vec![(Box::new(MemoryParts::default()), None), (Box::new(parts), Some(folder))];
    #[cfg(feature = "s3")]
    if let Some(config) = s3::tests::server() {
        let parts = s3::tests::parts(&config);
        expect(parts.look().await);
        engines.push((Box::new(parts), None));
    }
    engines
}

async fn put(parts: &dyn Parts, owner: Owner, part: u32, bytes: &[u8]) -> Result<(), PartError> {
    let mut arriving = parts.begin(Box::new(())).await?;
    for some in bytes.chunks(1000) {
        arriving.write(some.to_vec()).await?;
    }
    arriving.store(owner, part).await
}

fn some(fill: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| fill.wrapping_add(at as u8)).collect()
}

#[test]
fn a_blob_is_divided() {
    let part = u64::from(BLOB_PART_BYTES);
    assert_eq!((count(1), count(part), count(part + 1), count(part * 65_536)), (1, 1, 2, 65_536));
    assert_eq!(span(part + 5, 0), Some(0..part));
    assert_eq!(span(part + 5, 1), Some(part..part + 5));
    assert_eq!((span(part + 5, 2), span(part, 1)), (None, None));
}

#[tokio::test]
async fn what_is_put_is_read() {
    for (parts, _folder) in engines().await {
        let parts = parts.as_ref();
        let len = BLOB_PART_BYTES;
        let bytes = some(1, len as usize);
        assert_eq!(parts.first_missing(OWNER, LENGTH, 0..3).await, Ok(Some(0)));
        assert_eq!(parts.read(OWNER, 0, 0..1).await, Err(PartError::Missing));
        assert_eq!(put(parts, OWNER, 0, &bytes).await, Ok(()));
        assert_eq!(put(parts, OWNER, 2, &some(2, 5)).await, Ok(()));
        assert_eq!(parts.first_missing(OWNER, LENGTH, 0..3).await, Ok(Some(1)));
        assert_eq!(parts.first_missing(OWNER, LENGTH, 2..3).await, Ok(None));
        assert_eq!(parts.read(OWNER, 0, 0..len).await.expect("read"), bytes);
        let end = len - 10;
        assert_eq!(parts.read(OWNER, 0, end..len).await.expect("read"), bytes[end as usize..]);
        assert_eq!(parts.read(OWNER, 0, end..len + 1).await, Err(PartError::Failed), "there is no more");
        let other_life = Owner { life: 8, ..OWNER };
        assert_eq!(parts.read(other_life, 0, 0..1).await, Err(PartError::Missing));
    }
}

#[tokio::test]
async fn a_part_is_stored_once() {
    for (parts, _folder) in engines().await {
        let parts = parts.as_ref();
        let bytes = some(1, 200_000);
        for _ in 0..2 {
            assert_eq!(put(parts, OWNER, 0, &bytes).await, Ok(()));
        }
        let mut other = bytes.clone();
        other[199_999] ^= 1;
        assert_eq!(put(parts, OWNER, 0, &other).await, Err(PartError::Differs));
        assert_eq!(parts.read(OWNER, 0, 0..200_000).await.expect("read"), bytes);
    }
}

/// What a failing disk has cut is not there, and can be put again.
#[tokio::test]
async fn a_part_that_was_cut_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = FolderParts::open(folder.path(), 0).expect("opened");
    expect(put(&parts, OWNER, 2, b"whole").await);
    let path = fs::read_dir(folder.path().join("blobs/ab")).expect("a shelf").next().expect("a blob");
    fs::write(path.expect("readable").path().join("2"), "who").expect("cut");
    assert_eq!(parts.first_missing(OWNER, LENGTH, 2..3).await, Ok(Some(2)));
    expect(put(&parts, OWNER, 2, b"whole").await);
    assert_eq!(parts.first_missing(OWNER, LENGTH, 2..3).await, Ok(None));
}

/// Whoever hangs up does not give the place back while the disk is still busy with what was sent.
#[tokio::test]
async fn a_place_is_taken_until_the_disk_is_done() {
    for (parts, _folder) in engines().await {
        let place = Arc::new(());
        let mut arriving = parts.begin(Box::new(place.clone())).await.expect("room");
        let mut writing = arriving.write(some(1, 10));
        let _ = (&mut writing).now_or_never();
        drop(writing);
        drop(arriving);
        while Arc::strong_count(&place) > 1 {
            tokio::task::yield_now().await;
        }
        if let Some(folder) = &_folder {
            assert_eq!(incoming(folder.path()), 0, "its file goes first");
        }
    }
}

#[tokio::test]
async fn of_two_at_once_one_stays() {
    for (parts, _folder) in engines().await {
        let parts: Arc<dyn Parts> = parts.into();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..16u8 {
            let parts = parts.clone();
            tasks.spawn(async move { (n, put(parts.as_ref(), OWNER, 3, &some(n % 4, 3000)).await) });
        }
        let stored: Vec<u8> =
            tasks.join_all().await.into_iter().filter(|(_, put)| put.is_ok()).map(|(n, _)| n % 4).collect();
        assert_eq!(stored.len(), 4, "one content, by whoever brought it");
        assert!(stored.iter().all(|n| *n == stored[0]), "{stored:?}");
        assert_eq!(parts.read(OWNER, 3, 0..3000).await.expect("read"), some(stored[0], 3000));
    }
}

#[tokio::test]
async fn what_did_not_arrive_as_a_whole_is_nowhere() {
    for (parts, folder) in engines().await {
        let mut arriving = parts.begin(Box::new(())).await.expect("room");
        arriving.write(some(1, 10)).await.expect("written");
        drop(arriving);
        assert_eq!(parts.first_missing(OWNER, LENGTH, 0..1).await, Ok(Some(0)));
        while let Some(folder) = &folder
            && incoming(folder.path()) > 0
        {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn parts_are_removed_by_and_by() {
    for (parts, _folder) in engines().await {
        let parts = parts.as_ref();
        for part in 0..5 {
            expect(put(parts, OWNER, part, b"x").await);
        }
        expect(put(parts, Owner { life: 8, ..OWNER }, 0, b"x").await);
        let mut shelf = parts.shelf(0xab).await.expect("listed");
        shelf.sort();
        assert_eq!(shelf, [OWNER, Owner { life: 8, ..OWNER }]);
        assert_eq!(parts.shelf(0xac).await, Ok(vec![]));
        assert_eq!(parts.remove(OWNER, 2).await, Ok(true));
        assert_eq!(parts.remove(OWNER, 9).await, Ok(false));
        assert_eq!(parts.remove(OWNER, 9).await, Ok(false), "there is none");
        assert_eq!(parts.first_missing(OWNER, LENGTH, 0..1).await, Ok(Some(0)));
        assert_eq!(parts.shelf(0xab).await, Ok(vec![Owner { life: 8, ..OWNER }]));
    }
}

/// What cannot be removed keeps nothing else from being removed, in no order.
#[tokio::test]
async fn the_sweep_goes_past_a_bad_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = FolderParts::open(folder.path(), 0).expect("opened");
    let mut rng = StdRng::seed_from_u64(1);
    let store =
        MemoryStore::new(StorePolicy::default(), Arc::new(SystemClock::start()), Arc::new(Unheard), &mut rng);
    let stray = |shelf: u8, n: u8| Owner {
        blob: BlobId(std::array::from_fn(|at| if at == 0 { shelf } else { n })),
        life: 1,
    };
    let bad = stray(7, 8);
    for owner in [stray(7, 1), bad, stray(7, 0xff), stray(9, 1)] {
        expect(put(&parts, owner, 0, b"x").await);
    }
    let name = format!("blobs/07/{}-1", data_encoding::HEXLOWER.encode(&bad.blob.0));
    // A folder where a part should be: it is no file, and is not removed as one.
    fs::create_dir_all(folder.path().join(&name).join("1/within")).expect("made");
    assert_eq!(Sweep::default().all(&store, &parts).await, Err(PartError::Failed));
    assert_eq!(parts.shelf(7).await, Ok(vec![bad]), "the others of its shelf are gone");
    assert_eq!(parts.shelf(9).await, Ok(vec![]), "and those of later ones");
    // One after the other, too: every shelf has its turn.
    expect(put(&parts, stray(9, 2), 0, b"x").await);
    let mut sweep = Sweep::default();
    for _ in 0..SHELVES {
        let _ = sweep.step(&store, &parts).await;
    }
    assert_eq!(parts.shelf(9).await, Ok(vec![]));
}

fn incoming(data: &Path) -> usize {
    fs::read_dir(data.join("blobs/incoming")).expect("it is there").count()
}

#[tokio::test]
async fn a_start_keeps_parts_and_drops_what_was_arriving() {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = FolderParts::open(folder.path(), 0).expect("opened");
    expect(put(&parts, OWNER, 0, b"whole").await);
    let mut arriving = parts.begin(Box::new(())).await.expect("room");
    arriving.write(b"half".to_vec()).await.expect("written");
    // As if the process ended here: nothing is dropped.
    std::mem::forget(arriving);
    assert_eq!(incoming(folder.path()), 1);
    let parts = FolderParts::open(folder.path(), 0).expect("opened again");
    assert_eq!(incoming(folder.path()), 0);
    assert_eq!(parts.read(OWNER, 0, 0..5).await.expect("read"), &b"whole"[..]);
}

#[tokio::test]
async fn no_part_is_taken_while_the_disk_is_nearly_full() {
    let folder = tempfile::tempdir().expect("a folder");
    let parts = FolderParts::open(folder.path(), u64::MAX).expect("opened");
    assert_eq!(parts.refusal(), None, "nobody has looked");
    assert_eq!(parts.look().await, Err(PartError::Full));
    assert_eq!(parts.refusal(), Some(PartError::Full));
    assert_eq!(parts.begin(Box::new(())).await.err(), Some(PartError::Full));
}

#[tokio::test]
async fn the_sweep_leaves_what_belongs_to_a_blob() {
    for (parts, _folder) in engines().await {
        let parts = parts.as_ref();
        let mut rng = StdRng::seed_from_u64(1);
        let clock = Arc::new(SystemClock::start());
        let store = MemoryStore::new(StorePolicy::default(), clock, Arc::new(Unheard), &mut rng);
        expect(store.register(account(1)).await);
        expect(store.draw_tokens(device(1), UPLOAD, vec![token(1), token(2)]).await);
        let mut owners = Vec::new();
        for n in [1, 2] {
            let life = expect(create_blob(&store, &store, new_blob(n)).await).life;
            owners.push(Owner { blob: blob(n), life });
        }
        let strays = [Owner { life: owners[0].life + 1, ..owners[0] }, Owner { blob: blob(200), life: 1 }];
        for owner in owners.iter().chain(&strays) {
            expect(put(parts, *owner, 0, b"x").await);
        }
        let left = async || {
            let mut left = Vec::new();
            for shelf in 0..=255 {
                left.extend(parts.shelf(shelf).await.expect("listed"));
            }
            left
        };
        expect(Sweep::default().all(&store, parts).await);
        assert_eq!(left().await, owners);
        expect(store.delete_blob(blob(1), holder(1)).await);
        expect(Sweep::default().all(&store, parts).await);
        assert_eq!(left().await, owners[1..]);
    }
}
