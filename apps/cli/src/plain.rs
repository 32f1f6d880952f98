//! The guard between strangers and the terminal: text that came from others is printed only through here.
//!
//! What drives terminals, what cannot be seen, and what takes more room than a sign has, all become visible,
//! and small: so that no message acts, hides something, or floods the screen, and no two names look the same
//! because of what cannot be seen in one of them.

use unicode_segmentation::UnicodeSegmentation as _;

/// Characters that one sign may consist of; the longest that people use (a couple with two tones of skin) has
/// ten.
const MOST_IN_A_SIGN: usize = 16;
/// From here on scripts need joiners and marks of direction for themselves: Hebrew is the first.
const NEEDS_MARKS: char = '\u{590}';
/// The flag that tags after it turn into England's, Scotland's or Wales's.
const BLACK_FLAG: char = '\u{1f3f4}';

/// The text, made harmless. Line breaks stay; tabs become spaces.
pub(crate) fn plain(text: &str) -> String {
    // Below the combining marks there is nothing that would take a second look.
    if text.chars().all(|c| c < '\u{300}' && !is_invisible(c)) {
        return text.chars().map(picture).collect();
    }
    bounded(&visible(text))
}

/// The same, on one line.
pub(crate) fn plain_line(text: &str) -> String {
    plain(text).split('\n').map(str::trim_end).collect::<Vec<_>>().join(" ⏎ ")
}

/// Control characters, which drive terminals, as pictures of them.
fn picture(c: char) -> char {
    match c {
        '\n' => '\n',
        '\t' => ' ',
        '\0'..='\u{1f}' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        c => c,
    }
}

/// Nothing is drawn for it (Unicode's `Default_Ignorable_Code_Point`, and the marks between annotations).
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Invisible characters that do their work where they stand remain; those that would do harm beside letters
/// of scripts that are full of them vanish; all others become their number, and how many follow: `⟨200b+2⟩`.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    let (mut before, mut in_flag) = (None, false);
    while let Some(c) = rest.next() {
        if !is_invisible(c) {
            out.push(picture(c));
            (before, in_flag) = (Some(c), c == BLACK_FLAG);
            continue;
        }
        let mut run = vec![c];
        while let Some(next) = rest.next_if(|next| is_invisible(*next)) {
            run.push(next);
        }
        let needs = |neighbour: Option<char>| neighbour.is_some_and(|c| c >= NEEDS_MARKS);
        let after = rest.peek().copied();
        match run[..] {
            // A sign of several: emoji, or letters that join or shall not.
            ['\u{200c}' | '\u{200d}'] | ['\u{fe0f}', '\u{200d}'] if needs(before) && needs(after) => {
                out.extend(&run);
            }
            // How the sign before it is drawn.
            ['\u{fe00}'..='\u{fe0f}'] if before.is_some_and(takes_variation) => out.push(c),
            ['\u{e0061}'..='\u{e007a}' | '\u{e0030}'..='\u{e0039}', .., '\u{e007f}']
                if in_flag && run.len() < 8 =>
            {
                out.extend(&run);
            }
            // A place where a long word may break.
            ['\u{ad}'] => {}
            // A direction, a break, a joiner without something to join.
            ['\u{200b}'..='\u{200f}' | '\u{61c}' | '\u{2066}'..='\u{2069}' | '\u{2060}']
                if needs(before) || needs(after) => {}
            _ => {
                let more = if run.len() > 1 { format!("+{}", run.len() - 1) } else { String::new() };
                out.push_str(&format!("⟨{:x}{more}⟩", c as u32));
            }
        }
        in_flag = false;
    }
    out
}

/// Signs with more than one look: emoji, and the characters of keycaps.
fn takes_variation(c: char) -> bool {
    c >= '\u{a9}' || matches!(c, '0'..='9' | '#' | '*')
}

/// No sign has more than so many characters: the others become one `…`.
fn bounded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.graphemes(true) {
        match sign.char_indices().nth(MOST_IN_A_SIGN) {
            Some((end, _)) => {
                out.push_str(&sign[..end]);
                out.push('…');
            }
            None => out.push_str(sign),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_drives_the_terminal_from_afar() {
        assert_eq!(plain("a\u{1b}[2Jb\u{7}c\u{9b}d\re\tf"), "a␛[2Jb␇c\u{fffd}d␍e f");
        assert_eq!(plain_line("one\ntwo"), "one ⏎ two");
        assert_eq!(plain("pay\u{202e}lap"), "pay⟨202e⟩lap", "what turns the direction of writing is seen");
    }

    #[test]
    fn what_people_write_is_left_alone() {
        for text in [
            "héllo 👩‍👩‍👧 日本",
            "Hội bạn, decomposed: Ho\u{323}\u{302}i ba\u{323}n",
            "❤️ 1️⃣ ©️ 👍🏽 🇻🇳 🏳️‍🌈 👨🏽‍❤️‍💋‍👨🏽",
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "می\u{200c}خواهم",
            "क्\u{200d}ष ക്\u{200d}",
        ] {
            let text = text.trim_end_matches('\u{200d}');
            assert_eq!(plain(text), text);
        }
        assert_eq!(
            plain("שלום\u{200f}, \u{2067}שלום\u{2069}"),
            "שלום, שלום",
            "marks that their script needs"
        );
        assert_eq!(plain("Donau\u{ad}dampf"), "Donaudampf");
    }

    #[test]
    fn what_cannot_be_seen_is_seen_and_small() {
        assert_eq!(plain("week\u{200b}end"), "week⟨200b⟩end");
        assert_eq!(plain("weekend\u{feff}"), "weekend⟨feff⟩");
        assert_eq!(plain("a\u{200e}\u{200f}\u{61c}b"), "a⟨200e+2⟩b");
        assert_eq!(plain("weekend\u{fe0f}"), "weekend⟨fe0f⟩");
        assert_eq!(plain(&"\u{200b}".repeat(30_000)), "⟨200b+29999⟩");
        let hidden: String = "obey".chars().filter_map(|c| char::from_u32(0xe0000 + c as u32)).collect();
        assert_eq!(plain(&format!("hi{hidden}")), "hi⟨e006f+3⟩");
        assert_eq!(plain(&format!("🏴{hidden}")), "🏴⟨e006f+3⟩", "no flag");
    }

    #[test]
    fn a_sign_has_an_end() {
        let pile = format!("a{}b", "\u{301}".repeat(32_000));
        assert_eq!(plain(&pile), format!("a{}…b", "\u{301}".repeat(15)));
        let family = ["👩"; 100].join("\u{200d}");
        assert!(plain(&family).chars().count() <= MOST_IN_A_SIGN + 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn whatever_comes_is_harmless_and_bounded(
            text in "[a\u{301}\u{200b}-\u{200f}\u{202a}-\u{202e}\u{fe0f}\u{1b}\n\u{e0020}-\u{e007f}👩🏴日שक्\\PC]{0,60}",
        ) {
            let shown = plain(&text);
            prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
            let turns = shown.contains(['\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{200b}']);
            prop_assert!(!turns);
            prop_assert!(shown.graphemes(true).all(|sign| sign.chars().count() <= MOST_IN_A_SIGN + 1));
            prop_assert!(shown.len() <= 12 * text.len() + 12);
        }
    }
}
