//! What holds for every kind.

use data_encoding::HEXLOWER;

use super::*;
use crate::content::{Said, Target};
use crate::conversation::MessageId;

/// What the bytes say as that kind; `None` if it does not read them.
pub(super) fn reads(number: u32, class: Class, bytes: &[u8]) -> Option<Kind> {
    Kind::decode(number, class, bytes)
}

/// The bytes of a kind are these, and read back as it was said.
pub(super) fn golden(body: impl Into<Kind>, hex: &str) {
    let kind = body.into();
    let (number, class, bytes) = kind.parts().expect("known");
    assert_eq!(HEXLOWER.encode(&bytes), hex);
    let target = Target { person: PersonId([7; 32]), message: MessageId([8; 16]) };
    let said = match class {
        Class::Change => Said::change(kind.clone(), target),
        Class::Entry | Class::Quiet => Said::new(kind.clone()),
    };
    let said = said.expect("within bounds");
    assert_eq!((said.kind(), said.class(), said.bytes()), (number, class, &bytes[..]));
    assert_eq!(said.read(), kind);
    assert!(!kind.line().is_empty() && !kind.line().contains('\n'));
}

#[test]
fn a_change_has_a_target_and_nothing_else_has() {
    let target = Target { person: PersonId([7; 32]), message: MessageId([8; 16]) };
    assert_eq!(Said::new(Reaction::new("x")), Err(SaidError::NoTarget));
    assert_eq!(Said::change(Text::new("x"), target), Err(SaidError::StrayTarget));
    let changes = Custom { name: "a.b".to_owned(), class: Class::Change, bytes: vec![] };
    assert_eq!(Said::new(changes.clone()), Err(SaidError::NoTarget));
    assert_eq!(Said::change(changes, target).expect("fits").target(), Some(target));
}

#[test]
fn what_is_not_known_goes_by_its_class_and_tells_its_fallback() {
    let unknown = |class, fallback: &str| {
        let target = (class == Class::Change)
            .then_some(Target { person: PersonId([7; 32]), message: MessageId([8; 16]) });
        Said::from_parts(999, class, target, fallback.to_owned(), vec![1, 2]).expect("kept").read()
    };
    let poll = unknown(Class::Entry, "a poll:\nwhere to?");
    assert_eq!(poll.line(), "a poll: where to?");
    assert_eq!(unknown(Class::Entry, "").line(), "a kind of message that needs a newer version");
    assert!(poll.counts_as_unread(Class::Entry) && poll.has_marks(Class::Entry));
    for class in [Class::Change, Class::Quiet] {
        let kind = unknown(class, "");
        assert!(!kind.counts_as_unread(class) && !kind.has_marks(class) && kind.act().is_none());
    }
    assert_eq!(Said::new(poll), Err(SaidError::Form("an unknown kind is not said")));
}

#[test]
fn only_the_author_may_do_what_is_for_authors() {
    let (ann, bob) = (PersonId([1; 32]), PersonId([2; 32]));
    assert!(Sender::Anybody.permits(&bob, &ann));
    assert!(Sender::Author.permits(&ann, &ann));
    assert!(!Sender::Author.permits(&bob, &ann));
}
