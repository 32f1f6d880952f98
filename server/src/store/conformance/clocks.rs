//! Rule 20: a jump of the clock stops expiry until it is taken back or the operator confirms it.

use super::names::{self, expect, post};
use super::{EXPIRY, Fixture};
use crate::store::Clock as _;

const WEEK: u64 = 7 * 86_400;
/// After this, in seconds, a step is no longer a clock that is set right at a start.
const GROWN: u64 = 15 * 60 + 1;
/// For so long, in seconds, a clock that stepped must agree again.
const HEALED: u64 = 10 * 60;

/// Whether the only envelope of mailbox 1 survives `expire`.
async fn survives(f: &Fixture) -> bool {
    expect(f.store.expire().await);
    !f.stored(super::mailbox(1)).await.is_empty()
}

pub(crate) async fn a_jump_stops_expiry(f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    f.clock.pass(GROWN);
    expect(f.store.append(post(m, 1, 0)).await);
    f.clock.jump(i64::from(EXPIRY));
    assert!(survives(&f).await, "the clock says that it expired, but the clock jumped");
    assert!(f.store.stats().expiry_paused);
    f.clock.pass(u64::from(EXPIRY));
    assert!(survives(&f).await, "not even what has truly expired");
    assert_eq!(f.store.append(post(m, 2, 0)).await, Ok(2), "all else goes on");
    expect(f.store.confirm_clock().await);
    assert!(!f.store.stats().expiry_paused);
    expect(f.store.expire().await);
    assert_eq!(
        f.stored(m).await,
        [0; 0],
        "posted at what was thought to be the time, long before the one confirmed"
    );
}

pub(crate) async fn a_jump_back_stops_expiry(f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    f.clock.jump(-3601);
    f.clock.pass(u64::from(EXPIRY) + 3601);
    assert!(survives(&f).await);
    assert!(f.store.stats().expiry_paused);
    f.clock.jump(3601);
    assert!(survives(&f).await, "it may go wrong again at once");
    f.clock.pass(HEALED - 1);
    assert!(survives(&f).await);
    f.clock.pass(1);
    assert!(!survives(&f).await, "nobody has to come for what has healed");
    assert!(!f.store.stats().expiry_paused);
}

/// Boards without a clock begin with the time of the shutdown.
pub(crate) async fn a_clock_that_is_set_right_after_a_start_is_believed(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    f.restart().await;
    f.clock.jump(6 * 86_400);
    expect(f.store.expire().await);
    assert!(!f.store.stats().expiry_paused);
    f.clock.pass(GROWN);
    f.clock.jump(6 * 86_400);
    expect(f.store.expire().await);
    assert!(f.store.stats().expiry_paused);
}

pub(crate) async fn a_long_sleep_stops_expiry(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    expect(f.store.expire().await);
    f.clock.pass(WEEK + 1);
    f.restart().await;
    assert!(f.store.stats().expiry_paused);
    assert!(survives(&f).await);
    // By what clients are told, which does not follow a clock that is in doubt.
    assert!(f.store.posts_time() < f.clock.unix_seconds() - WEEK + 60);
    expect(f.store.append(names::at(post(m, 2, 0), f.store.posts_time())).await);
    f.clock.pass(60);
    f.restart().await;
    assert!(f.store.stats().expiry_paused, "another start does not confirm it, nor what was posted since");
    expect(f.store.expire().await);
    assert_eq!(f.stored(m).await, [1, 2]);
    expect(f.store.confirm_clock().await);
    f.clock.pass(1);
    expect(f.store.expire().await);
    assert_eq!(f.stored(m).await, [2], "posted at the time that was confirmed");
}

/// An envelope posted while the clock is in doubt is not dropped early when the clock is set right.
pub(crate) async fn stamps_ignore_the_jump(f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    f.clock.jump(-1_000_000);
    expect(f.store.append(post(m, 1, 0)).await);
    f.clock.jump(1_000_000);
    expect(f.store.confirm_clock().await);
    f.clock.pass(u64::from(EXPIRY) - 1);
    assert!(survives(&f).await);
    f.clock.pass(1);
    assert!(!survives(&f).await);
}

pub(crate) async fn a_confirmed_clock_stays_confirmed(mut f: Fixture) {
    let m = f.mailbox(1, &[1]).await;
    expect(f.store.append(post(m, 1, 0)).await);
    f.clock.pass(2 * WEEK);
    f.restart().await;
    expect(f.store.confirm_clock().await);
    f.restart().await;
    assert!(!f.store.stats().expiry_paused);
    f.clock.jump(-2 * WEEK as i64);
    f.restart().await;
    assert!(f.store.stats().expiry_paused, "the clock stands before what is recorded");
    f.clock.jump(2 * WEEK as i64);
    f.restart().await;
    assert!(!f.store.stats().expiry_paused, "set right again");
    assert!(!survives(&f).await);
}
