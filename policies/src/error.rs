//! What is wrong with a policy file, and where.

use std::fmt;

/// At most so many errors of one file are kept; the others are counted.
pub(crate) const MAX_ERRORS: usize = 100;
/// Of a longer line only a window of so many characters is kept.
const MAX_LINE_CHARS: usize = 160;
/// Of a longer name or value only so many characters are quoted in a message.
const MAX_QUOTED_CHARS: usize = 80;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1. One past the end of the line when something is missing there.
    pub column: u32,
    /// The line without its end. Control and direction characters are replaced one for one, so that it is safe on a
    /// terminal; of a line longer than 160 characters it is the part around the column, with `…` where it was cut.
    pub line_text: String,
    /// The key as a path into the file: `limits.wall`, `filesystem.read[2]`. Empty when the file is not TOML at all.
    pub path: String,
    /// What is wrong, a lower-case fragment that goes well after the path.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Characters of `line_text` before the caret.
    caret: usize,
}

/// Everything that is wrong with one file: at least one error, sorted by position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseErrors {
    origin: String,
    errors: Vec<ParseError>,
    omitted: usize,
    extended: Vec<ParseErrors>,
}

impl std::error::Error for ParseErrors {}

impl ParseErrors {
    /// The name the caller gave to the bytes: a path or the name of a built-in policy.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The errors, sorted by line and column. Never empty, at most 100.
    pub fn errors(&self) -> &[ParseError] {
        &self.errors
    }

    /// The errors with the names of their files: this one's first, then those of files that it extends.
    pub fn all(&self) -> Vec<(&str, &ParseError)> {
        let own = self.errors.iter().map(|error| (self.origin(), error));
        own.chain(self.extended.iter().flat_map(ParseErrors::all)).collect()
    }

    /// The errors of this file and of one that it extends.
    pub(crate) fn and_of(mut self, extended: ParseErrors) -> ParseErrors {
        self.extended.push(extended);
        self
    }

    /// The errors of both; of one file, sorted by position.
    pub(crate) fn and(mut self, more: ParseErrors) -> ParseErrors {
        if self.origin != more.origin {
            return self.and_of(more);
        }
        self.omitted += more.omitted;
        self.errors.extend(more.errors);
        self.errors.sort_by_key(|error| (error.line, error.column));
        self.omitted += self.errors.len().saturating_sub(MAX_ERRORS);
        self.errors.truncate(MAX_ERRORS);
        self.extended.extend(more.extended);
        self
    }

    /// How many more there were beyond the 100 that are kept.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.errors.iter().enumerate() {
            if n > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{}:{error}", printable(&self.origin))?;
        }
        if self.omitted > 0 {
            write!(f, "\n\n{}: and {} more errors", printable(&self.origin), self.omitted)?;
        }
        self.extended.iter().try_for_each(|errors| write!(f, "\n\n{errors}"))
    }
}

/// `line:column: path: message`, the line with a caret under the place, and the help. The origin is the caller's to add.
impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            line_text,
            path,
            message,
            help,
            caret,
        } = self;
        write!(f, "{line}:{column}: ")?;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        let line = line.to_string();
        let gutter = line.len();
        write!(f, "{message}\n{line} | {line_text}\n{:gutter$} | {:caret$}^", "", "")?;
        if let Some(help) = help {
            write!(f, "\nhelp: {help}")?;
        }
        Ok(())
    }
}

/// Collects errors by byte offset and turns them into lines and columns at the end.
pub(crate) struct Collector<'s> {
    source: &'s str,
    found: Vec<(usize, ParseError)>,
    omitted: usize,
}

impl<'s> Collector<'s> {
    pub(crate) fn new(source: &'s str) -> Self {
        Self {
            source,
            found: Vec::new(),
            omitted: 0,
        }
    }

    /// Notes an error at a byte offset. `help` is only asked for while errors are kept: finding it may cost.
    pub(crate) fn push(
        &mut self,
        offset: usize,
        path: &str,
        message: impl Into<String>,
        help: impl FnOnce() -> Option<String>,
    ) {
        if self.found.len() >= MAX_ERRORS {
            self.omitted += 1;
            return;
        }
        let mut error = locate(self.source, offset);
        error.path = path.to_owned();
        error.message = message.into();
        error.help = help();
        self.found.push((offset, error));
    }

    /// The errors, if there are any.
    pub(crate) fn finish(mut self, origin: &str) -> Option<ParseErrors> {
        if self.found.is_empty() {
            return None;
        }
        // Stable: of two errors at one place the one found first comes first.
        self.found.sort_by_key(|(offset, _)| *offset);
        let errors = self.found.into_iter().map(|(_, error)| error).collect();
        Some(ParseErrors {
            origin: origin.to_owned(),
            errors,
            omitted: self.omitted,
            extended: Vec::new(),
        })
    }
}

/// One error of a file that could not be read far enough to collect more.
pub(crate) fn single(source: &str, origin: &str, offset: usize, message: String, help: Option<String>) -> ParseErrors {
    let error = ParseError {
        message,
        help,
        ..locate(source, offset)
    };
    ParseErrors {
        origin: origin.to_owned(),
        errors: vec![error],
        omitted: 0,
        extended: Vec::new(),
    }
}

/// The place of a byte offset, without a message yet. An offset past the end or inside a character is moved down.
fn locate(source: &str, offset: usize) -> ParseError {
    let mut offset = offset.min(source.len());
    while !source.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &source[..offset];
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let rest = &source[start..];
    let text = rest.split('\n').next().unwrap_or_default();
    let text = text.strip_suffix('\r').unwrap_or(text);
    // A byte order mark is not a character of the first line.
    let (text, start) = match text.strip_prefix('\u{feff}') {
        Some(without) if start == 0 => (without, '\u{feff}'.len_utf8()),
        _ => (text, start),
    };
    let column = source.get(start..offset).unwrap_or_default().chars().count();
    let (line_text, caret) = window(text, column);
    ParseError {
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column + 1).unwrap_or(u32::MAX),
        line_text,
        path: String::new(),
        message: String::new(),
        help: None,
        caret,
    }
}

/// Line and column of a byte offset, both from 1.
pub(crate) fn position(source: &str, offset: usize) -> (u32, u32) {
    let place = locate(source, offset);
    (place.line, place.column)
}

/// The part of a line around a column, and the column in it.
fn window(text: &str, column: usize) -> (String, usize) {
    let length = text.chars().count();
    if length <= MAX_LINE_CHARS {
        return (printable(text), column);
    }
    let from = column.saturating_sub(MAX_LINE_CHARS / 2).min(length - MAX_LINE_CHARS);
    let mut cut: String = text.chars().skip(from).take(MAX_LINE_CHARS).collect();
    let mut caret = column - from;
    if from + MAX_LINE_CHARS < length {
        cut.push('…');
    }
    if from > 0 {
        cut.insert(0, '…');
        caret += 1;
    }
    (printable(&cut), caret)
}

/// A name or value of the file as it may stand in a message: one line, no control characters, not too long.
pub(crate) fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(MAX_QUOTED_CHARS).collect();
    let more = if chars.next().is_some() { "…" } else { "" };
    format!("{}{more}", printable(&head))
}

/// Replaces, one for one, what would move the cursor, colour the terminal or turn the direction of the text.
fn printable(text: &str) -> String {
    let safe = |c: char| match c {
        '\t' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(source: &str, offset: usize) -> (u32, u32, String, usize) {
        let error = locate(source, offset);
        (error.line, error.column, error.line_text, error.caret)
    }

    #[test]
    fn a_position_counts_characters_from_one() {
        assert_eq!(at("ä = 1\nüö = 2", "ä = 1\nü".len()), (2, 2, "üö = 2".into(), 1));
        assert_eq!(at("", 0), (1, 1, String::new(), 0));
        assert_eq!(at("a\r\nb\r\n", 3), (2, 1, "b".into(), 0));
        assert_eq!(at("a\nb", 99), (2, 2, "b".into(), 1));
    }

    #[test]
    fn an_offset_inside_a_character_is_that_character() {
        assert_eq!(at("aä", 2), (1, 2, "aä".into(), 1));
    }

    #[test]
    fn a_byte_order_mark_is_no_character() {
        assert_eq!(at("\u{feff}ab", 4), (1, 2, "ab".into(), 1));
        assert_eq!(at("\u{feff}ab", 0), (1, 1, "ab".into(), 0));
    }

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let line = format!("{}X{}", "a".repeat(1000), "b".repeat(1000));
        let (_, column, text, caret) = at(&line, 1000);
        assert_eq!(column, 1001);
        assert_eq!(text.chars().count(), MAX_LINE_CHARS + 2);
        assert_eq!(text.chars().nth(caret), Some('X'));
        let (_, _, text, caret) = at(&line, line.len());
        assert!(text.starts_with('…') && !text.ends_with('…'));
        assert_eq!(caret, text.chars().count());
    }

    #[test]
    fn what_is_shown_cannot_command_a_terminal() {
        assert_eq!(quoted("a\x1b[31m\u{202e}\tb\n"), "a\u{fffd}[31m\u{fffd} b\u{fffd}");
        assert_eq!(quoted(&"x".repeat(500)).chars().count(), MAX_QUOTED_CHARS + 1);
    }

    #[test]
    fn an_error_shows_place_line_caret_and_help() {
        let source = "version = 1\n  wal = 2\n";
        let mut collector = Collector::new(source);
        collector.push(14, "wal", "unknown key", || Some("did you mean `wall`?".into()));
        let errors = collector.finish("p.toml").unwrap();
        assert_eq!(
            errors.to_string(),
            "p.toml:2:3: wal: unknown key\n2 |   wal = 2\n  |   ^\nhelp: did you mean `wall`?"
        );
    }

    #[test]
    fn errors_past_the_bound_are_counted() {
        let mut collector = Collector::new("x");
        for _ in 0..MAX_ERRORS + 7 {
            collector.push(0, "", "no", || None);
        }
        let errors = collector.finish("o").unwrap();
        assert_eq!((errors.errors().len(), errors.omitted()), (MAX_ERRORS, 7));
        assert!(errors.to_string().ends_with("o: and 7 more errors"));
    }
}
