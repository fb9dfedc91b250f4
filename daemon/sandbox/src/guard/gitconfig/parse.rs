//! The syntax of a git configuration file, read exactly as git's own `config.c` reads it.
//!
//! An entry that git sees and we do not see would be a way round every rule, so this is git's state machine, character by
//! character, and not a grammar of our own; a test compares the two over many generated files. Names stay flat
//! (`section.sub section.key`) as in git, for which `[a.b]` and `[a "b"]` are the same section.

/// Bytes a configuration may have. Real ones have a few kilobytes; a thousand branches make about 100 KiB.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Entries a configuration may have: three for each of five thousand branches.
pub(super) const MAX_ENTRIES: usize = 16_384;

/// One `key = value` of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    /// The flat name: section and key in lower case, the subsection as written.
    pub name: Vec<u8>,
    /// `None` for a key without `=`, which git reads as true.
    pub value: Option<Vec<u8>>,
}

impl Entry {
    /// Section, subsection and key: git cuts at the first and at the last dot.
    pub fn parts(&self) -> (&[u8], Option<&[u8]>, &[u8]) {
        let first = self.name.iter().position(|&b| b == b'.');
        let last = self.name.iter().rposition(|&b| b == b'.');
        match (first, last) {
            (Some(first), Some(last)) if first < last => (
                &self.name[..first],
                Some(&self.name[first + 1..last]),
                &self.name[last + 1..],
            ),
            (Some(dot), _) => (&self.name[..dot], None, &self.name[dot + 1..]),
            _ => (b"", None, &self.name),
        }
    }

    /// The value, and the empty string for a key without one.
    pub fn text(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }
}

/// Why a file is no configuration that we would let git read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SyntaxError {
    #[error("the file is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the file has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// Git's own code treats the rest of such a name or value as absent, at some places and not at others.
    #[error("line {0} holds a NUL byte")]
    Nul(usize),
    #[error("line {0} is no configuration that git can read")]
    Line(usize),
}

/// Reads a whole file; an error anywhere refuses all of it, as git does.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, SyntaxError> {
    match parse_prefix(bytes) {
        (entries, None) => Ok(entries),
        (_, Some(error)) => Err(error),
    }
}

/// Reads as far as the file can be read, and says what ended it.
pub(super) fn parse_prefix(bytes: &[u8]) -> (Vec<Entry>, Option<SyntaxError>) {
    if bytes.len() > MAX_BYTES {
        return (Vec::new(), Some(SyntaxError::TooLong));
    }
    let mut entries = Vec::new();
    let mut source = Source {
        bytes,
        at: 0,
        end: false,
    };
    let error = read(&mut source, &mut entries).err().map(|stop| {
        let line = bytes[..source.at].iter().filter(|&&b| b == b'\n').count();
        // The newline that ended the bad line was read already.
        let line = if source.at > 0 && bytes[source.at - 1] == b'\n' {
            line
        } else {
            line + 1
        };
        match stop {
            Stop::TooMany => SyntaxError::TooManyEntries,
            Stop::Nul => SyntaxError::Nul(line),
            Stop::Syntax => SyntaxError::Line(line),
        }
    });
    (entries, error)
}

enum Stop {
    Syntax,
    Nul,
    TooMany,
}

struct Source<'a> {
    bytes: &'a [u8],
    at: usize,
    end: bool,
}

impl Source<'_> {
    /// `get_next_char`: CR LF is one newline, the end of the file is a newline and remembered.
    fn next(&mut self) -> Result<u8, Stop> {
        let Some(&byte) = self.bytes.get(self.at) else {
            self.end = true;
            return Ok(b'\n');
        };
        self.at += 1;
        match byte {
            0 => Err(Stop::Nul),
            b'\r' if self.bytes.get(self.at) == Some(&b'\n') => {
                self.at += 1;
                Ok(b'\n')
            }
            _ => Ok(byte),
        }
    }
}

/// Git's own `isspace`: without the vertical tab and the form feed of C's.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_key_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// `git_parse_source`.
fn read(source: &mut Source<'_>, entries: &mut Vec<Entry>) -> Result<(), Stop> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if source.bytes.starts_with(MARK) {
        source.at = MARK.len();
    }
    let mut section = Vec::new();
    let mut comment = false;
    loop {
        let c = source.next()?;
        match c {
            b'\n' if source.end => return Ok(()),
            b'\n' => comment = false,
            _ if comment || is_space(c) => {}
            b'#' | b';' => comment = true,
            b'[' => section = read_section(source)?,
            _ if c.is_ascii_alphabetic() => {
                let mut name = section.clone();
                name.push(c.to_ascii_lowercase());
                let value = read_entry(source, &mut name)?;
                if entries.len() == MAX_ENTRIES {
                    return Err(Stop::TooMany);
                }
                entries.push(Entry { name, value });
            }
            _ => return Err(Stop::Syntax),
        }
    }
}

/// `get_base_var`: from after `[` to after `]`. The result ends with the dot before the key.
fn read_section(source: &mut Source<'_>) -> Result<Vec<u8>, Stop> {
    let mut name = Vec::new();
    loop {
        let c = source.next()?;
        match c {
            _ if source.end => return Err(Stop::Syntax),
            b']' if name.is_empty() => return Err(Stop::Syntax),
            b']' => break,
            _ if is_space(c) => {
                read_subsection(source, &mut name, c)?;
                break;
            }
            _ if is_key_char(c) || c == b'.' => name.push(c.to_ascii_lowercase()),
            _ => return Err(Stop::Syntax),
        }
    }
    name.push(b'.');
    Ok(name)
}

/// `get_extended_base_var`: ` "sub section"]`, where a backslash takes the next character as it is.
fn read_subsection(source: &mut Source<'_>, name: &mut Vec<u8>, mut c: u8) -> Result<(), Stop> {
    while is_space(c) {
        if c == b'\n' {
            return Err(Stop::Syntax);
        }
        c = source.next()?;
    }
    if c != b'"' {
        return Err(Stop::Syntax);
    }
    name.push(b'.');
    loop {
        let mut c = source.next()?;
        if c == b'"' {
            break;
        }
        if c == b'\\' {
            c = source.next()?;
        }
        if c == b'\n' {
            return Err(Stop::Syntax);
        }
        name.push(c);
    }
    if source.next()? == b']' {
        Ok(())
    } else {
        Err(Stop::Syntax)
    }
}

/// `get_value`: the rest of the key, and what follows it.
fn read_entry(source: &mut Source<'_>, name: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Stop> {
    let mut c = source.next()?;
    while !source.end && is_key_char(c) {
        name.push(c.to_ascii_lowercase());
        c = source.next()?;
    }
    while c == b' ' || c == b'\t' {
        c = source.next()?;
    }
    match c {
        b'\n' => Ok(None),
        b'=' => read_value(source).map(Some),
        _ => Err(Stop::Syntax),
    }
}

/// `parse_value`. Space inside an unquoted value is kept as written, which git does since 2.45; before, each became one
/// blank. No rule depends on the difference: a value with a tab is refused where its text matters.
fn read_value(source: &mut Source<'_>) -> Result<Vec<u8>, Stop> {
    let mut value: Vec<u8> = Vec::new();
    let (mut quoted, mut comment) = (false, false);
    // Where unquoted space at the end began; 0 is none, as in git.
    let mut trimmed = 0;
    loop {
        let c = source.next()?;
        if c == b'\n' {
            if quoted {
                return Err(Stop::Syntax);
            }
            if trimmed > 0 {
                value.truncate(trimmed);
            }
            return Ok(value);
        }
        if comment {
            continue;
        }
        if is_space(c) && !quoted {
            if trimmed == 0 {
                trimmed = value.len();
            }
            if !value.is_empty() {
                value.push(c);
            }
            continue;
        }
        if !quoted && (c == b';' || c == b'#') {
            comment = true;
            continue;
        }
        trimmed = 0;
        match c {
            b'\\' => match source.next()? {
                b'\n' => {}
                b't' => value.push(b'\t'),
                b'b' => value.push(8),
                b'n' => value.push(b'\n'),
                c @ (b'\\' | b'"') => value.push(c),
                _ => return Err(Stop::Syntax),
            },
            b'"' => quoted = !quoted,
            _ => value.push(c),
        }
    }
}
