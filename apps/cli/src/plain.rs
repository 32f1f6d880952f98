//! The guard between strangers and the terminal: text that came from others is printed only through here.

/// Text that came from others, made harmless: control characters (which drive terminals) become visible
/// signs, and those that turn the direction of writing vanish. Line breaks and tabs stay.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .filter_map(|c| match c {
            '\n' => Some('\n'),
            '\t' => Some(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
            c if (c as u32) < 0x20 => char::from_u32(0x2400 + c as u32),
            '\u{7f}' => Some('\u{2421}'),
            '\u{80}'..='\u{9f}' => Some('\u{fffd}'),
            c => Some(c),
        })
        .collect()
}

/// The same, on one line.
pub(crate) fn plain_line(text: &str) -> String {
    plain(text).split('\n').map(str::trim_end).collect::<Vec<_>>().join(" ⏎ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_drives_the_terminal_from_afar() {
        assert_eq!(plain("a\u{1b}[2Jb\u{7}\u{202e}c\u{9b}d\re"), "a␛[2Jb␇c\u{fffd}d␍e");
        assert_eq!(plain_line("one\ntwo"), "one ⏎ two");
        assert_eq!(plain("héllo 👩‍👩‍👧 日本"), "héllo 👩‍👩‍👧 日本");
    }
}
