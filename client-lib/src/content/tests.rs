//! The form of a message: golden bytes, bounds, and what is not content.

use data_encoding::HEXLOWER;
use posthorn_proto::{MailboxId, PostId, turn::TurnHash};
use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;
use crate::envelope::{EnvelopeKey, Slot};

fn content(said: Said) -> Content {
    Content {
        message: MessageId([5; 16]),
        sent_at: 1_800_000_000_000,
        receipt: Receipt { delivered: 4, read: 3 },
        said,
    }
}

fn target() -> Target {
    Target { person: PersonId([6; 32]), message: MessageId([7; 16]) }
}

#[test]
fn its_bytes_are_golden() {
    let text = content(Said::new(Text::new("hi")).expect("fits"));
    let head = "0a10050505050505050505050505050505051080a0f1c2b134220408041003";
    assert_eq!(HEXLOWER.encode(&text.encode()), format!("{head}28014a040a026869"));
    let said = Said::change(Reaction::new("x"), target()).expect("fits");
    let reaction = content(said.with_fallback("x!").expect("fits"));
    let tail = "280430013a340a2006060606060606060606060606060606060606060606060606060606060606061210\
                0707070707070707070707070707070742027821\
                4a030a0178";
    assert_eq!(HEXLOWER.encode(&reaction.encode()), format!("{head}{tail}"));
    for content in [text, reaction] {
        assert_eq!(Content::decode(&content.encode()).expect("decodes"), content);
    }
}

#[test]
fn an_unknown_kind_is_kept_whole_whatever_its_class() {
    for (class, target) in [(Class::Entry, None), (Class::Change, Some(target())), (Class::Quiet, None)] {
        let said = Said::from_parts(999, class, target, "newer".to_owned(), vec![0xff; 40]).expect("kept");
        let decoded = Content::decode(&content(said.clone()).encode()).expect("is content");
        assert_eq!(decoded.said, said);
        let unknown = Unknown { number: 999, class, fallback: "newer".to_owned() };
        assert_eq!(decoded.said.read(), Kind::Unknown(unknown));
    }
    // A form of a known kind that this version cannot read is kept likewise.
    let said = Said::from_parts(1, Class::Entry, None, String::new(), vec![0xff]).expect("kept");
    assert!(matches!(said.read(), Kind::Unknown(Unknown { number: 1, .. })));
}

#[test]
fn what_is_not_content_is_an_error() {
    let good = content(Said::new(Text::new("hi")).expect("fits"));
    let with = |change: fn(&mut wire::Content)| {
        let mut raw = wire::Content::decode(&good.encode()[..]).expect("decodes");
        change(&mut raw);
        Content::decode(&raw.encode_to_vec())
    };
    with(|_| {}).expect("is good");
    with(|raw| raw.receipt = None).expect("says nothing of what was read");
    let malformed: [fn(&mut wire::Content); 5] = [
        |raw| raw.class = 3,
        |raw| raw.class = -1,
        |raw| raw.sent_at = MOST_NUMBER + 1,
        |raw| raw.receipt.as_mut().expect("is there").read = u64::MAX,
        |raw| raw.message_id.truncate(15),
    ];
    for change in malformed {
        with(change).expect_err("is not content");
    }
    type Bend = fn(&mut wire::Content);
    let said: [(Bend, SaidError); 5] = [
        (|raw| raw.kind = 0, SaidError::Form("0 is no kind")),
        (|raw| raw.class = 1, SaidError::NoTarget),
        (|raw| raw.target = Some((&target()).into()), SaidError::StrayTarget),
        // A known kind is of its class alone.
        (|raw| raw.class = 2, SaidError::WrongClass),
        (
            |raw| raw.fallback = "x".repeat(1025),
            SaidError::Length { what: "a fallback", least: 0, most: 1024, got: 1025 },
        ),
    ];
    for (change, error) in said {
        assert_eq!(with(change), Err(ContentError::Said(error)));
    }
    assert_eq!(Content::decode(b"hello"), Err(ContentError::Malformed));
    // Fields that are not known are passed over, up to the bound of the whole.
    let longer = |extra: usize| {
        let mut bytes = good.encode();
        prost::encoding::bytes::encode(99, &vec![0u8; extra], &mut bytes);
        Content::decode(&bytes)
    };
    assert_eq!(longer(1000).expect("decodes"), good);
    assert_eq!(longer(CONTENT_BYTES), Err(ContentError::Malformed));
}

#[test]
fn the_longest_fits_its_bound_and_an_envelope() {
    let target = Some(target());
    let said =
        Said::from_parts(u32::MAX, Class::Change, target, "x".repeat(FALLBACK_BYTES), vec![0; BODY_BYTES])
            .expect("is the longest");
    let longest = Content {
        sent_at: MOST_NUMBER,
        receipt: Receipt { delivered: MOST_NUMBER, read: MOST_NUMBER },
        ..content(said)
    };
    let bytes = longest.encode();
    assert!(bytes.len() <= CONTENT_BYTES, "{}", bytes.len());
    assert_eq!(Content::decode(&bytes), Ok(longest));
    let slot = Slot { mailbox: MailboxId([1; 16]), post: PostId([2; 16]), turn: TurnHash::NONE };
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([8; 32]);
    // With what MLS adds, generously.
    let encrypted = [bytes, vec![0; 4096]].concat();
    EnvelopeKey::from_bytes([3; 32]).seal(&slot, &encrypted, &mut rng).expect("seals");
}

impl From<&Target> for wire::Target {
    fn from(target: &Target) -> Self {
        Self { person: target.person.0.to_vec(), message: target.message.0.to_vec() }
    }
}

proptest! {
    #[test]
    fn whatever_decodes_encodes_to_what_decodes_alike(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(content) = Content::decode(&bytes) {
            prop_assert_eq!(Content::decode(&content.encode()), Ok(content));
        }
    }

    #[test]
    fn every_said_comes_back_as_it_went(
        kind in 1u32..200,
        class in prop_oneof![Just(Class::Entry), Just(Class::Change), Just(Class::Quiet)],
        fallback in "\\PC{0,40}",
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        at in 0u64..=MOST_NUMBER,
    ) {
        let target = (class == Class::Change).then(target);
        if let Ok(said) = Said::from_parts(kind, class, target, fallback, bytes) {
            let content = Content { sent_at: at, ..content(said) };
            let decoded = Content::decode(&content.encode());
            prop_assert_eq!(decoded.as_ref(), Ok(&content));
            // Reading never fails, and what it reads can be said again.
            let kind = content.said.read();
            prop_assert!(!kind.line().contains('\n'));
            if let Some((number, class, _)) = kind.parts() {
                prop_assert_eq!((number, class), (content.said.kind(), content.said.class()));
            }
        } else {
            prop_assert_eq!(kind::permits(kind, class), Some(false));
        }
    }
}
