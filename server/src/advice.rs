//! What somebody can type next, or scan: the programs by the names by which they are found from here, and
//! invites as links.

use std::path::Path;

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// This program as it was typed, for the shell.
pub(crate) fn relay(program: &Path) -> String {
    quoted(&program.to_string_lossy())
}

/// The client: it lies beside the relay, unless both are where the shell looks.
pub(crate) fn client(program: &Path) -> String {
    let beside = program.with_file_name("posthorn");
    let is_named_by_folder = program.parent().is_some_and(|folder| !folder.as_os_str().is_empty());
    if is_named_by_folder && beside.is_file() { relay(&beside) } else { "posthorn".to_owned() }
}

/// An invite with the relay that it is for, as one word: `posthorn://relay.example/?invite=CODE`.
pub(crate) fn link(relay: &str, code: &str) -> String {
    let (scheme, authority) = match relay.split_once("://") {
        Some(("wss", authority)) => ("posthorn", authority),
        Some((_, authority)) => ("posthorn+ws", authority),
        None => ("posthorn", relay),
    };
    format!("{scheme}://{}/?invite={code}", authority.trim_end_matches('/'))
}

/// A QR code for terminals, which are mostly dark: the light modules are drawn.
pub(crate) fn picture(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    Some(code.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

/// A word for the shell.
pub(crate) fn quoted(word: &str) -> String {
    // No argument has the byte that no shell can take.
    shlex::try_quote(word).unwrap_or_default().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invite_is_one_word() {
        assert_eq!(link("wss://relay.example", "ab-cd"), "posthorn://relay.example/?invite=ab-cd");
        assert_eq!(link("ws://127.0.0.1:4100", "ab-cd"), "posthorn+ws://127.0.0.1:4100/?invite=ab-cd");
        let rows = picture(&link("ws://127.0.0.1:4100", "abcd-efgh-ijkl-mnop")).expect("short enough");
        assert!(rows.lines().all(|row| row.chars().count() <= 60), "it fits in a window: {rows}");
    }

    #[test]
    fn programs_are_named_as_they_are_found() {
        let folder = tempfile::tempdir().expect("temp dir");
        let program = folder.path().join("posthorn-server");
        assert_eq!(client(&program), "posthorn", "it is not beside");
        std::fs::write(folder.path().join("posthorn"), "").expect("a file");
        assert_eq!(client(&program), quoted(&folder.path().join("posthorn").to_string_lossy()));
        assert_eq!(client(Path::new("posthorn-server")), "posthorn", "both are where the shell looks");
        assert_eq!(relay(Path::new("my programs/posthorn-server")), "'my programs/posthorn-server'");
        assert_eq!((quoted("it's"), quoted("")), (r#""it's""#.to_owned(), "''".to_owned()));
    }
}
