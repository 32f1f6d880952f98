//! Lists of [operations](super::operations) that once failed.

use super::operations::{Gen, Op};

pub(super) fn named() -> Vec<(&'static str, Vec<Op>)> {
    let turn = |post, admit: &[u8], evict: &[u8]| Op::Turn {
        mailbox: 1,
        post,
        generation: Gen::Current,
        admit: admit.to_vec(),
        evict: evict.to_vec(),
    };
    let post = |post| Op::Post { mailbox: 1, post, generation: Gen::Current, len: 1 };
    let advance = |reader, seq| Op::Advance { mailbox: 1, reader, seq, before: 0 };
    vec![
        (
            "an evicted reader that is done must not return by a replay of its eviction",
            vec![turn(1, &[], &[2]), post(2), advance(2, 1), Op::Restart, advance(2, 1), Op::Restart],
        ),
        (
            "everybody evicted, then a newcomer: nobody waits for what came before it",
            vec![post(1), turn(2, &[], &[1, 2]), post(3), turn(4, &[5], &[]), Op::Restart, advance(5, 9)],
        ),
        (
            "posts forgotten behind a reader that slept through everything",
            vec![
                post(1),
                Op::Pass { seconds: 11_000 },
                post(2),
                Op::Expire,
                Op::Restart,
                post(1),
                advance(1, 3),
            ],
        ),
    ]
}
