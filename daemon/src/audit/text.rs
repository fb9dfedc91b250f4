//! Values of unknown content and size, as they go into a record.
//!
//! A value is a JSON string when it is valid UTF-8 and short enough, which is nearly always. Otherwise it is an object:
//!
//! - `{"base64": "..."}` for bytes that are not UTF-8;
//! - `{"text": "...", "omitted_bytes": N, "omitted_sha256": "..."}` (or `base64` in place of `text`) for a value that was too
//!   long: the head, and the length and SHA-256 of the rest, so that a value kept elsewhere can be matched with its record.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::ser::{Serialize, SerializeMap, Serializer};
use sha2::{Digest as _, Sha256};

/// Longest value that is recorded whole, in bytes.
pub const MAX_VALUE_BYTES: usize = 4096;

/// Longest list of values that is recorded whole, in bytes over all; and at most [`MAX_LIST_ITEMS`].
pub const MAX_LIST_BYTES: usize = 32 * 1024;

/// Most values of a list that are recorded.
pub const MAX_LIST_ITEMS: usize = 1024;

/// One value, at most [`MAX_VALUE_BYTES`] of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a>(pub &'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = std::str::from_utf8(self.0).ok();
        let cut = match whole {
            Some(text) if text.len() <= MAX_VALUE_BYTES => return serializer.serialize_str(text),
            Some(text) => (0..=MAX_VALUE_BYTES)
                .rev()
                .find(|&at| text.is_char_boundary(at))
                .unwrap_or(0),
            None => self.0.len().min(MAX_VALUE_BYTES),
        };
        let (kept, omitted) = self.0.split_at(cut);
        let mut map = serializer.serialize_map(None)?;
        match whole {
            Some(text) => map.serialize_entry("text", &text[..cut])?,
            None => map.serialize_entry("base64", &STANDARD.encode(kept))?,
        }
        if !omitted.is_empty() {
            map.serialize_entry("omitted_bytes", &omitted.len())?;
            map.serialize_entry("omitted_sha256", &sha256_hex(omitted))?;
        }
        map.end()
    }
}

/// A list of values. Past [`MAX_LIST_BYTES`] or [`MAX_LIST_ITEMS`] the last item is
/// `{"omitted_items": N, "omitted_sha256": "..."}`, the hash being over the omitted values, each followed by a zero byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextList<'a, T>(pub &'a [T]);

impl<T: AsRef<[u8]>> Serialize for TextList<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq as _;
        let mut bytes = 0usize;
        let kept = self
            .0
            .iter()
            .take(MAX_LIST_ITEMS)
            .take_while(|item| {
                bytes += item.as_ref().len().min(MAX_VALUE_BYTES);
                bytes <= MAX_LIST_BYTES
            })
            .count();
        let (kept, omitted) = self.0.split_at(kept);
        let mut sequence = serializer.serialize_seq(None)?;
        for item in kept {
            sequence.serialize_element(&Text(item.as_ref()))?;
        }
        if !omitted.is_empty() {
            let mut hasher = Sha256::new();
            for item in omitted {
                hasher.update(item.as_ref());
                hasher.update([0]);
            }
            sequence.serialize_element(&OmittedItems {
                omitted_items: omitted.len(),
                omitted_sha256: hex(&hasher.finalize()),
            })?;
        }
        sequence.end()
    }
}

#[derive(serde::Serialize)]
struct OmittedItems {
    omitted_items: usize,
    omitted_sha256: String,
}

/// SHA-256 in lower-case hexadecimal.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Writes JSON in pure ASCII: what is not is escaped as `\uXXXX`. Line separators beyond the newline (U+0085, U+2028),
/// terminal escapes and bidirectional overrides thus reach neither a line splitter nor a terminal.
pub(super) struct AsciiFormatter;

impl serde_json::ser::Formatter for AsciiFormatter {
    fn write_string_fragment<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, text: &str) -> std::io::Result<()> {
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| !(' '..='~').contains(&c)) {
            let (plain, special) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = special.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// The JSON of a value, in pure ASCII and without a newline.
pub(super) fn to_ascii_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut json = Vec::with_capacity(512);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, AsciiFormatter))?;
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn round_trip(bytes: &[u8]) -> (Vec<u8>, Value) {
        let json = to_ascii_json(&Text(bytes)).unwrap();
        let value = serde_json::from_slice(&json).unwrap();
        (json, value)
    }

    #[test]
    fn a_value_stays_on_one_ascii_line_and_comes_back_whole() {
        for text in [
            "",
            "plain",
            "\n{\"seq\":999}\r",
            "\u{1b}[2J",
            "a\u{2028}b\u{85}",
            "\u{202e}txt",
            "\0",
            "😀\u{7f}é\"\\",
        ] {
            let (json, value) = round_trip(text.as_bytes());
            assert!(
                json.iter().all(|b| (b' '..=b'~').contains(b)),
                "{:?}",
                String::from_utf8_lossy(&json)
            );
            assert_eq!(value, json!(text));
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_base64() {
        let (_, value) = round_trip(b"a\xff\xfeb");
        assert_eq!(value, json!({"base64": "Yf/+Yg=="}));
    }

    #[test]
    fn a_long_value_keeps_its_head_and_the_hash_of_the_rest() {
        let mut text = "x".repeat(MAX_VALUE_BYTES - 1);
        text.push_str("é and the rest");
        let (_, value) = round_trip(text.as_bytes());
        assert_eq!(value["text"], json!("x".repeat(MAX_VALUE_BYTES - 1)));
        let rest = "é and the rest".as_bytes();
        assert_eq!(value["omitted_bytes"], json!(rest.len()));
        assert_eq!(value["omitted_sha256"], json!(sha256_hex(rest)));

        let (json, value) = round_trip(&vec![0xff; 1 << 20]);
        assert!(json.len() < 2 * MAX_VALUE_BYTES);
        assert_eq!(value["omitted_bytes"], json!((1 << 20) - MAX_VALUE_BYTES));
    }

    #[test]
    fn a_long_list_ends_with_what_was_left_out() {
        let list: Vec<String> = (0..2000).map(|i| format!("arg{i}")).collect();
        let value: Value = serde_json::from_slice(&to_ascii_json(&TextList(&list)).unwrap()).unwrap();
        let items = value.as_array().unwrap();
        assert_eq!(items.len(), MAX_LIST_ITEMS + 1);
        assert_eq!(items[MAX_LIST_ITEMS]["omitted_items"], json!(2000 - MAX_LIST_ITEMS));
        let rest: String = list[MAX_LIST_ITEMS..].iter().map(|item| format!("{item}\0")).collect();
        assert_eq!(
            items[MAX_LIST_ITEMS]["omitted_sha256"],
            json!(sha256_hex(rest.as_bytes()))
        );

        let big: Vec<Vec<u8>> = (0..100).map(|_| vec![b'x'; MAX_VALUE_BYTES]).collect();
        assert!(to_ascii_json(&TextList(&big)).unwrap().len() < 2 * MAX_LIST_BYTES);
    }
}
