//! QR codes in the terminal, two modules per character.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code; the standard wants four, and readers are content with two.
const QUIET: usize = 2;

/// The code as lines of half blocks, drawn for light text on a dark ground; `None` if the text is too long.
///
/// Terminals are mostly dark, and a code must be dark on light: the *light* modules are drawn.
pub(crate) fn lines(text: &str) -> Option<Vec<String>> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (width, colors) = (code.width(), code.to_colors());
    let side = width + 2 * QUIET;
    let light = |x: usize, y: usize| {
        let inside = (QUIET..QUIET + width).contains(&x) && (QUIET..QUIET + width).contains(&y);
        !inside || colors[(y - QUIET) * width + (x - QUIET)] == Color::Light
    };
    let row = |y: usize| {
        let half = |x: usize| match (light(x, y), y + 1 < side && light(x, y + 1)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        };
        (0..side).map(half).collect()
    };
    Some((0..side).step_by(2).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_the_same_width_and_the_corners_are_there() {
        let lines = lines("posthorn://alice@relay.example/?k=abc").expect("short enough");
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width));
        assert_eq!(lines.len(), width.div_ceil(2));
        // Two light lines above, then the upper edge of the finder pattern: seven dark modules.
        assert!(lines[0].chars().all(|half| half == '█'));
        assert!(lines[1].starts_with("██ ▄▄▄▄▄ █"), "{}", lines[1]);
    }

    #[test]
    fn a_text_that_is_too_long_is_refused() {
        assert_eq!(lines(&"x".repeat(4000)), None);
    }
}
