//! What a command prints, made fit for the terminal of a person.
//!
//! A terminal takes orders from what is printed on it: it puts text on the clipboard (OSC 52), changes its title, types answers to questions
//! as if the user had, renders over what was there. A command that is not trusted must not have that. Text, colours, and what moves the
//! cursor or clears lines pass, as progress bars and compilers need them; everything else that begins with an escape does not.
//! Only where standard output or error is a terminal: pipes and files get every byte.
//!
//! A command that has a terminal (`run --tty`) gets more: the other screen, mouse, focus and paste reports, application keys, scroll regions, line
//! drawing, and three questions: where the cursor is (DSR), what kind of terminal it is (DA), which modes are on (DECRQM). Their answers are digits and
//! a letter, nothing the command chose and no end of line, so that one that comes too late is no command to the shell. Not let through
//! are titles, window size and position, the clipboard, links, and the questions whose answers hold what was asked (DECRQSS, XTGETTCAP,
//! XTVERSION, colours, titles): a program out there would take such an answer for keys.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use anstyle_parse::{DefaultCharAccumulator, Params, Parser, Perform};

/// Takes the bytes of a stream as they come, also in the middle of a character or sequence.
#[derive(Default)]
pub struct Tame {
    parser: Parser<DefaultCharAccumulator>,
    fit: Fit,
}

impl Tame {
    /// For a command that has a terminal.
    pub fn interactive() -> Self {
        let mut tame = Self::default();
        tame.fit.interactive = true;
        tame
    }

    /// What of `bytes`, and of what was left in the middle before, a terminal may get.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.fit.out.reserve(bytes.len());
        let mut rest = bytes;
        while let [byte, after @ ..] = rest {
            // Most output is text: between two sequences it passes as it is.
            if self.fit.in_text {
                let plain = rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len());
                if plain > 0 {
                    let (text, others) = rest.split_at(plain);
                    self.fit.out.extend_from_slice(text);
                    rest = others;
                    continue;
                }
            }
            self.fit.in_text = false;
            self.parser.advance(&mut self.fit, *byte);
            rest = after;
        }
        std::mem::take(&mut self.fit.out)
    }
}

#[derive(Default)]
struct Fit {
    out: Vec<u8>,
    interactive: bool,
    /// The parser has just given a character, so it is in no sequence.
    in_text: bool,
}

/// What means the same to every terminal when it is in no sequence.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t')
}

/// Whether the command has switched the terminal to its other screen, for whoever tidies up.
static OTHER_SCREEN: AtomicBool = AtomicBool::new(false);

/// See [`OTHER_SCREEN`].
pub fn on_other_screen() -> bool {
    OTHER_SCREEN.load(Ordering::SeqCst)
}

/// Modes that programs with a terminal switch: application keys, origin, other screen, mouse, focus, paste, meta key.
const INTERACTIVE_MODES: &[u16] = &[
    1, 6, 7, 12, 25, 47, 1000, 1002, 1003, 1004, 1006, 1034, 1047, 1048, 1049, 2004, 2026,
];

impl Perform for Fit {
    fn print(&mut self, character: char) {
        self.in_text = true;
        // U+0080 to U+009F are the one-character forms of escapes.
        if !character.is_control() {
            self.out
                .extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn execute(&mut self, byte: u8) {
        if matches!(byte, b'\n' | b'\r' | b'\t' | 0x07 | 0x08 | 0x0b | 0x0c)
            || (self.interactive && matches!(byte, 0x0e | 0x0f))
        {
            self.out.push(byte);
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: u8) {
        let mode = |wanted: &[u16]| {
            params
                .iter()
                .all(|param| param.iter().all(|value| wanted.contains(value)))
        };
        let fit = match (intermediates, action) {
            // Colours; cursor; lines and characters erased, inserted, removed, scrolled; position kept and taken up.
            ([], b'm' | b'A'..=b'H' | b'J' | b'K' | b'L' | b'M' | b'P' | b'S' | b'T' | b'X' | b'@') => true,
            ([], b'd' | b'f' | b'`' | b'a' | b'e' | b's' | b'u') => true,
            // Line wrap (7), blinking (12) and showing (25) of the cursor, output at once (2026).
            (b"?", b'h' | b'l') => mode(if self.interactive {
                INTERACTIVE_MODES
            } else {
                &[7, 12, 25, 2026]
            }),
            // Insert mode; scroll region, tabs, repetition; the shape of the cursor; the questions.
            ([], b'h' | b'l') if self.interactive => mode(&[4, 34]),
            ([], b'r' | b'I' | b'Z' | b'g' | b'b' | b'c') | (b" ", b'q') | (b">", b'c') => self.interactive,
            ([], b'n') | (b"?", b'n') => self.interactive && mode(&[5, 6]),
            (b"?$", b'p') => self.interactive,
            _ => false,
        };
        if ignore || !fit {
            return;
        }
        if intermediates == b"?" && params.iter().flatten().any(|value| matches!(value, 47 | 1047 | 1049)) {
            OTHER_SCREEN.store(action == b'h', Ordering::SeqCst);
        }
        // `?` and `>` stand before the numbers, ` ` and `$` after them.
        let (before, after): (Vec<u8>, Vec<u8>) = intermediates.iter().partition(|byte| **byte >= 0x3c);
        self.out.extend_from_slice(b"\x1b[");
        self.out.extend_from_slice(&before);
        for (index, param) in params.iter().enumerate() {
            if index > 0 {
                self.out.push(b';');
            }
            for (index, value) in param.iter().enumerate() {
                let colon = if index > 0 { ":" } else { "" };
                // Cannot fail: it is memory.
                let _ = write!(self.out, "{colon}{value}");
            }
        }
        self.out.extend_from_slice(&after);
        self.out.push(action);
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _ignore: bool, byte: u8) {
        // Position kept (7) and taken up (8), one line up (M): as old programs say it.
        if intermediates.is_empty() && matches!(byte, b'7' | b'8' | b'M') {
            self.out.extend_from_slice(&[0x1b, byte]);
        }
        // Keypad, lines and tabs; line drawing and back.
        match (intermediates, byte) {
            ([], b'=' | b'>' | b'D' | b'E' | b'H') if self.interactive => self.out.extend_from_slice(&[0x1b, byte]),
            ([set @ (b'(' | b')')], b'0' | b'B' | b'A') if self.interactive => {
                self.out.extend_from_slice(&[0x1b, *set, byte]);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(bytes: &[u8]) -> String {
        String::from_utf8(Tame::default().pass(bytes)).unwrap()
    }

    #[test]
    fn text_colours_and_progress_bars_pass() {
        for text in [
            "plain ünïcödé \u{1f980}\n",
            "\x1b[1m\x1b[38;5;12merror\x1b[0m: x\r\n",
            "\x1b[38:2:1:2:3mtrue colour\x1b[m",
            "\r\x1b[K 10 % \x1b[2A\x1b[?25l\x1b[?25h\x1b7\x1b8\t\x08\x07",
        ] {
            let expected = text.replace("\x1b[m", "\x1b[0m").replace("\x1b[K", "\x1b[0K");
            assert_eq!(pass(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn orders_to_the_terminal_do_not() {
        for (order, left) in [
            ("a\x1b]52;c;YmF0\x07b", "ab"),
            ("a\x1b]52;c;YmF0\x1b\\b", "ab"),
            ("a\x1b]0;owned\x07b", "ab"),
            ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
            ("a\x1b[?2004$pb", "ab"),
            ("a\x1b[6nb", "ab"),
            ("a\x1b[cb\x1b[>c\x1b[=c", "ab"),
            ("a\x1b[21tb", "ab"),
            ("a\x1b[?1049hb\x1b[?1000h", "ab"),
            ("a\x1bP$q\"p\x1b\\b", "ab"),
            ("a\x1b_G...\x1b\\b", "ab"),
            ("a\x1b^x\x1b\\b\x1bXy\x1b\\", "ab"),
            ("a\x1bcb\x1b(0", "ab"),
            ("a\u{9d}52;c;x\u{9c}b\u{9b}6n", "a52;c;xb6n"),
            ("a\x0e\x0f\x05b", "ab"),
        ] {
            assert_eq!(pass(order.as_bytes()), left, "{order:?}");
        }
    }

    #[test]
    fn a_command_with_a_terminal_gets_what_editors_need_and_no_more() {
        let pass = |text: &str| String::from_utf8(Tame::interactive().pass(text.as_bytes())).unwrap();
        for text in [
            "\x1b[?1000h\x1b[?2004h\x1b[?1h\x1b=\x1b[1;24r\x1b(0\x0e\x0f\x1b(B",
            "\x1b[6n\x1b[0c\x1b[>0c\x1b[?2026$p\x1b[4h\x1b[2 q",
        ] {
            assert_eq!(pass(text), text);
        }
        for order in [
            "\x1b]52;c;YmF0\x07",
            "\x1b]0;t\x07",
            "\x1b]11;?\x1b\\",
            "\x1bP$qm\x1b\\",
            "\x1bP+q544e\x1b\\",
            "\x1b[21t",
            "\x1b[18t",
            "\x1b[>0q",
            "\x1b[?3h",
            "\x05",
            "\x1b]8;;http://x\x1b\\",
        ] {
            assert_eq!(pass(order), "", "{order:?}");
        }
    }

    #[test]
    fn sequences_and_characters_may_come_in_pieces() {
        let whole = "é\x1b[31mx\x1b]52;c;AA\x07\u{1f980}".as_bytes();
        for split in 0..=whole.len() {
            let mut tame = Tame::default();
            let mut out = tame.pass(&whole[..split]);
            out.extend(tame.pass(&whole[split..]));
            assert_eq!(String::from_utf8(out).unwrap(), "é\x1b[31mx\u{1f980}", "{split}");
        }
    }

    #[test]
    fn text_that_passes_at_once_comes_out_as_byte_by_byte() {
        let alphabet = b"ab \n\t\x07\x0e\x1b\x1b\x1b[[]0;m?hHPX\\\x9b\xc3\xa9\xff\x7f\x18";
        let mut seed = 7_u32;
        for _ in 0..2000 {
            let mut next = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                alphabet[(seed >> 16) as usize % alphabet.len()]
            };
            let bytes: Vec<u8> = (0..40).map(|_| next()).collect();
            let (mut at_once, mut slow) = (Tame::interactive(), Tame::interactive());
            let each = bytes.iter().flat_map(|byte| {
                slow.fit.in_text = false;
                slow.pass(&[*byte])
            });
            let each: Vec<u8> = each.collect();
            assert_eq!(at_once.pass(&bytes), each, "{bytes:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_left_out() {
        assert_eq!(pass(b"a\xffb"), "ab");
    }
}
