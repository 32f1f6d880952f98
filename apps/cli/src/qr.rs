//! QR codes in the terminal, two modules per character.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// The code as lines of half blocks, with the four light modules around it that the standard wants; `None` if
/// the text is too long.
///
/// Terminals are mostly dark, and a code must be dark on light: the *light* modules are drawn.
pub(crate) fn lines(text: &str) -> Option<Vec<String>> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let drawn = code.render().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Some(drawn.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_dark_on_light_with_a_margin_of_four() {
        let lines = lines("posthorn://alice@relay.example/?k=abc").expect("short enough");
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width));
        assert_eq!(lines.len(), width.div_ceil(2));
        // Four light rows above, then the upper edge of the finder pattern: seven dark modules.
        assert!(lines[..2].iter().all(|line| line.chars().all(|half| half == '█')));
        assert!(lines[2].starts_with("████ ▄▄▄▄▄ █"), "{}", lines[2]);
    }

    #[test]
    fn a_text_that_is_too_long_is_refused() {
        assert_eq!(lines(&"x".repeat(4000)), None);
    }
}
