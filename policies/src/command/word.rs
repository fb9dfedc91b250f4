//! A word of a command: its bytes, or what is known of them.

use super::values::{Origin, Trace};

/// A word after quoting, as far as it can be known without running anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Exactly these bytes.
    Known(Vec<u8>),
    /// Holds an expansion, pattern, brace, tilde or substitution.
    Dynamic {
        /// What every word that it may become begins with.
        prefix: Vec<u8>,
        /// What every word that it may become ends with.
        suffix: Vec<u8>,
        /// Whether it may become several words, or none.
        many: bool,
        /// Where its text comes from.
        origin: Origin,
    },
}

impl Word {
    /// A known word.
    pub fn known(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Known(bytes.into())
    }

    /// A word of which nothing is known, not even whether it is one.
    pub fn anything() -> Self {
        Self::Dynamic {
            prefix: Vec::new(),
            suffix: Vec::new(),
            many: true,
            origin: Origin::unknown(),
        }
    }

    /// Where its text comes from.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Known(bytes) => Origin::text(bytes),
            Self::Dynamic { origin, .. } => origin.clone(),
        }
    }

    /// Its bytes, if they are known.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Known(bytes) => Some(bytes),
            Self::Dynamic { .. } => None,
        }
    }

    /// Its text, if it is known and UTF-8.
    pub fn text(&self) -> Option<&str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// Whether it may become several words, or none.
    pub fn is_many(&self) -> bool {
        matches!(self, Self::Dynamic { many: true, .. })
    }

    /// The word with every `marker` in it replaced by something unknown.
    pub(super) fn without(self, marker: &[u8], many: bool) -> Self {
        let Self::Known(bytes) = &self else { return self };
        let find = |from: &[u8]| from.windows(marker.len().max(1)).position(|window| window == marker);
        let Some(first) = find(bytes) else { return self };
        let mut rest = &bytes[first..];
        while let Some(at) = find(rest) {
            rest = &rest[at + marker.len()..];
        }
        Self::Dynamic {
            prefix: bytes[..first].to_vec(),
            suffix: rest.to_vec(),
            many,
            origin: Origin::unknown(),
        }
    }

    /// As a shell would be told it; what is not known is `…`.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Known(bytes) => quote(bytes),
            Self::Dynamic { prefix, suffix, .. } => {
                format!("{}…{}", printable(prefix), printable(suffix))
            }
        }
    }
}

/// Put together from the pieces of a shell's word.
#[derive(Default)]
pub(super) struct Builder {
    /// Up to the first unknown piece.
    prefix: Vec<u8>,
    /// After the last one. `None`: there was none yet.
    suffix: Option<Vec<u8>>,
    many: bool,
    /// Something unquoted that is split: then begin and end are not known either.
    split: bool,
    quoted: bool,
    trace: Trace,
}

impl Builder {
    /// Of an arithmetic text.
    pub(super) fn of_expression() -> Self {
        Self {
            trace: Trace::of_expression(),
            ..Self::default()
        }
    }

    pub(super) fn known(&mut self, bytes: &[u8]) {
        self.trace.known(bytes);
        self.suffix
            .as_mut()
            .unwrap_or(&mut self.prefix)
            .extend_from_slice(bytes);
    }

    /// The known value of an expansion.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        self.trace.data(bytes);
        self.suffix
            .as_mut()
            .unwrap_or(&mut self.prefix)
            .extend_from_slice(bytes);
    }

    /// Where the unknown piece that stands here comes from; `None`: it is a number.
    pub(super) fn comes_from(&mut self, origin: Option<&Origin>) {
        match origin {
            Some(origin) => self.trace.expansion(origin),
            None => self.trace.number(),
        }
    }

    /// Quotes stand here, so an empty word is a word.
    pub(super) fn quote(&mut self) {
        self.quoted = true;
    }

    /// A piece that stays in one word.
    pub(super) fn unknown(&mut self) {
        self.suffix = Some(Vec::new());
    }

    /// A pattern: any number of words, each with the same begin and end.
    pub(super) fn pattern(&mut self) {
        self.unknown();
        self.many = true;
    }

    /// A piece that is split into words.
    pub(super) fn splits(&mut self) {
        self.pattern();
        self.split = true;
    }

    /// `None`: there is no word, as from nothing unquoted.
    pub(super) fn finish(self) -> Option<Word> {
        let origin = self.trace.finish();
        match self.suffix {
            None if self.prefix.is_empty() && !self.quoted => None,
            None => Some(Word::Known(self.prefix)),
            Some(_) if self.split => Some(Word::Dynamic {
                prefix: Vec::new(),
                suffix: Vec::new(),
                many: true,
                origin,
            }),
            Some(suffix) => Some(Word::Dynamic {
                prefix: self.prefix,
                suffix,
                many: self.many,
                origin,
            }),
        }
    }

    /// Where its text comes from.
    pub(super) fn finish_origin(self) -> Origin {
        self.trace.finish()
    }
}

/// Quoted for a POSIX shell where needed; control characters and what is not UTF-8 are escaped for reading.
pub(super) fn quote(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./=:,@%+^".contains(byte);
    let text = printable(bytes);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// One line that does not command a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => shown.push('\u{fffd}'),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_makes_a_word_unknown_between_its_ends() {
        let word = Word::known("a{}b{}c").without(b"{}", false);
        assert_eq!(
            word,
            Word::Dynamic {
                prefix: b"a".to_vec(),
                suffix: b"c".to_vec(),
                many: false,
                origin: Origin::unknown(),
            }
        );
        assert_eq!(Word::known("ab").without(b"{}", true), Word::known("ab"));
    }

    #[test]
    fn what_is_shown_is_quoted_and_harmless() {
        assert_eq!(quote(b"a/b"), "a/b");
        assert_eq!(quote(b""), "''");
        assert_eq!(quote(b"a'b"), "'a'\\''b'");
        assert_eq!(quote(b"\x1b[31m"), "'\\u{1b}[31m'");
    }
}
