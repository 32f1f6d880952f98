//! Destroying, lives of mailboxes with the same id, and the life of the store itself.

use posthorn_proto::Incarnation;

use super::names::{device, envelope, expect, handle_of, post, sized, turn_key, turning, upto};
use super::{Event, Fixture, new_mailbox};
use crate::store::{NewMailbox, ReadRange, StoreError};

pub(crate) async fn destroying_needs_the_turn_key(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.append(turning(post(m, 2, 0), 0, &[], &[])).await);
    f.heard.take();
    assert_eq!(f.store.destroy(m, turn_key(0)).await, Err(StoreError::KeyTurned));
    assert_eq!(f.store.destroy(super::mailbox(2), turn_key(0)).await, Err(StoreError::MailboxUnknown));
    assert_eq!(f.heard.take(), []);
    expect(f.store.destroy(m, turn_key(1)).await);
    assert_eq!(f.heard.take(), [Event::Destroyed(m)]);
    for _ in 0..2 {
        assert_eq!(f.view(m, 1).await, Err(StoreError::MailboxUnknown));
        assert_eq!(f.store.append(post(m, 1, 0)).await, Err(StoreError::MailboxUnknown));
        assert_eq!(f.store.advance(upto(m, 1, 1)).await, Err(StoreError::MailboxUnknown));
        assert_eq!(f.store.destroy(m, turn_key(1)).await, Err(StoreError::MailboxUnknown));
        f.restart().await;
    }
}

pub(crate) async fn a_new_life_knows_nothing_of_the_old(mut f: Fixture) {
    let m = f.mailbox(1, &[1, 2]).await;
    expect(f.store.append(turning(post(m, 1, 0), 0, &[3], &[2])).await);
    expect(f.store.append(post(m, 2, 1)).await);
    expect(f.store.destroy(m, turn_key(1)).await);
    expect(f.create(NewMailbox { mailbox: m, ..new_mailbox(2, &[1]) }).await);
    for _ in 0..2 {
        assert_eq!(f.view(m, 1).await, Ok((0, 1, 0, None)));
        for gone in [2, 3] {
            assert_eq!(f.view(m, gone).await, Err(StoreError::ReaderUnknown));
        }
        assert_eq!(f.stored(m).await, [0; 0]);
        let stats = f.store.stats();
        assert_eq!((stats.mailboxes, stats.envelopes, stats.envelope_bytes, stats.posts), (1, 0, 0, 0));
        f.restart().await;
    }
    assert_eq!(f.store.append(sized(m, 2, 0, 7)).await, Ok(1), "post ids are new too");
}

pub(crate) async fn the_incarnation_stays(mut f: Fixture) {
    let incarnation = f.store.incarnation();
    f.restart().await;
    assert_eq!(f.store.incarnation(), incarnation);
}

/// R10, while it runs: what may have been given out since a backup is discarded, everything else stays.
pub(crate) async fn a_renewed_store_is_another(f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    let packages = vec![envelope(1, 50), envelope(2, 50)];
    expect(f.store.publish_key_packages(device(1), packages, Some(envelope(9, 50))).await);
    let next = Incarnation([0x5a; 16]);
    assert_ne!(f.store.incarnation(), next);
    for _ in 0..2 {
        assert_eq!(f.store.renew(next).await, Ok(()), "again is harmless");
        assert_eq!(f.store.incarnation(), next);
    }
    let taken = expect(f.store.take_key_packages(handle_of(1)).await);
    assert_eq!((taken[0].last_resort, &taken[0].key_package), (true, &envelope(9, 50)));
    assert_eq!(f.stored(m).await, [1]);
}

pub(crate) async fn a_closed_store_says_so(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.close().await);
    assert_eq!(f.store.append(post(m, 2, 0)).await, Err(StoreError::Stopped));
    assert_eq!(f.view(m, 1).await, Err(StoreError::Stopped));
    let range = ReadRange { from: 0, to: 9, bytes: 9 };
    assert_eq!(f.store.read(m, range).await, Err(StoreError::Stopped));
    assert_eq!(f.store.expire().await, Err(StoreError::Stopped));
    f.restart().await;
    assert_eq!(f.view(m, 1).await, Ok((1, 1, 0, None)));
}

pub(crate) async fn first_readers_are_checked(f: Fixture) {
    f.tokens(1).await;
    for readers in [&[1, 1][..], &[1, 2, 3, 4, 5]] {
        let refused = f.create(new_mailbox(1, readers)).await;
        assert!(matches!(refused, Err(StoreError::BadTurn(_))), "{readers:?}");
    }
    expect(f.create(new_mailbox(1, &[1, 2, 3, 4])).await);
}
