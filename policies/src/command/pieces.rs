//! A shell's word, cut at its quotes and expansions.
//!
//! Of our own, because the parser crate's takes time that doubles with each unclosed brace, and ends a substitution at the first
//! parenthesis that a `case` in it has. This one goes over the text once; what it is not sure of is unreadable.

use super::read::{Context, Dialect, Reading};
use super::values::{Mode, Origin, printed_number};
use super::word::{Builder, Word};

/// Quotes and expansions in each other, within one word.
const MAX_NESTED: usize = 24;

impl Reading {
    /// The words that a word becomes.
    pub(super) fn expand(&mut self, context: &Context, text: &str) -> Vec<Word> {
        // Alone it is the name of a test, and no pattern.
        if text == "[" || is_plain(text) && !(context.dialect == Dialect::Zsh && text.starts_with('=')) {
            return vec![Word::known(text)];
        }
        if matches!(text, "\"$@\"" | "\"${@}\"") {
            return match &context.positional {
                Some(words) => words.iter().skip(1).cloned().collect(),
                None => vec![Word::Dynamic {
                    prefix: Vec::new(),
                    suffix: Vec::new(),
                    many: true,
                    origin: Origin::of("@"),
                }],
            };
        }
        self.pieces(context, text).into_iter().collect()
    }

    /// A word where there is no splitting: a value, a file name.
    pub(super) fn expand_one(&mut self, context: &Context, text: &str) -> Word {
        if is_plain(text) {
            return Word::known(text);
        }
        self.pieces(context, text).unwrap_or_else(|| Word::known(""))
    }

    /// Reads only what a text substitutes: a here-document, the inside of `${…}`. Gives where it comes from.
    pub(super) fn substitutions(&mut self, context: &Context, text: &str) -> Origin {
        self.cut_inside(context, text, Builder::default())
    }

    /// Reads what an arithmetic text substitutes, and gives where what is evaluated comes from.
    pub(super) fn expression(&mut self, context: &Context, text: &str) -> Origin {
        match text.contains(['$', '`', '\\']) {
            true => self.cut_inside(context, text, Builder::of_expression()),
            false => Origin::expression(text),
        }
    }

    fn cut_inside(&mut self, context: &Context, text: &str, word: Builder) -> Origin {
        let mut cut = Cut {
            reading: self,
            context,
            text,
            at: 0,
            nested: 0,
            word,
        };
        match cut.inside(None) {
            Ok(()) => cut.word.finish_origin(),
            Err(why) => {
                self.cannot(text, why);
                Origin::unknown()
            }
        }
    }

    /// A word where there is no splitting, cut at its quotes and expansions.
    pub(super) fn pieces(&mut self, context: &Context, text: &str) -> Option<Word> {
        let mut cut = Cut {
            reading: self,
            context,
            text,
            at: 0,
            nested: 0,
            word: Builder::default(),
        };
        match cut.unquoted() {
            Ok(()) => cut.word.finish(),
            Err(why) => {
                self.cannot(text, why);
                Some(Word::anything())
            }
        }
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-./=:,@%+^".contains(&byte))
}

/// `{1..3}`, which becomes numbers.
fn is_range(text: &str) -> bool {
    let range = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    range.is_some_and(|range| {
        let number = |text: &str| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        range.contains("..") && range.split("..").all(number)
    })
}

/// Whether what follows a name in `${…}` takes letters out of its value.
fn is_offset(rest: &str) -> bool {
    rest.strip_prefix(':')
        .is_some_and(|rest| !rest.starts_with(['-', '=', '+', '?']))
}

struct Cut<'a> {
    reading: &'a mut Reading,
    context: &'a Context,
    text: &'a str,
    at: usize,
    nested: usize,
    word: Builder,
}

type Why = &'static str;

impl Cut<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn unquoted(&mut self) -> Result<(), Why> {
        let mut braces = false;
        if self.context.dialect == Dialect::Zsh && self.text.starts_with('=') {
            self.word.comes_from(Some(&Origin::unknown()));
            self.word.unknown();
        }
        if is_range(self.text) {
            self.word.comes_from(None);
            self.word.pattern();
            self.at = self.text.len();
        }
        while let Some(c) = self.rest().chars().next() {
            let start = self.at;
            self.at += c.len_utf8();
            match c {
                '\\' => match self.rest().chars().next() {
                    // A line that goes on.
                    Some('\n') => self.at += 1,
                    Some(escaped) => {
                        self.at += escaped.len_utf8();
                        self.word.quote();
                        let mut buffer = [0; 4];
                        self.word.known(escaped.encode_utf8(&mut buffer).as_bytes());
                    }
                    None => self.word.known(b"\\"),
                },
                '\'' => self.single()?,
                '"' => {
                    self.word.quote();
                    self.inside(Some('"'))?;
                }
                '$' if self.rest().starts_with('\'') => self.ansi_c()?,
                '$' if self.rest().starts_with('"') => {}
                '$' => self.dollar(false)?,
                '`' => self.backquoted(false)?,
                '*' | '?' | '[' => self.pattern(),
                '~' if start == 0 || self.text[..start].ends_with(['=', ':']) => {
                    self.word.comes_from(Some(&Origin::unknown()));
                    self.word.unknown();
                }
                '#' | '^' if self.context.dialect == Dialect::Zsh => self.pattern(),
                '{' => {
                    let rest = self.rest();
                    braces |= rest.contains('}') && (rest.contains(',') || rest.contains(".."));
                    if braces {
                        self.pattern();
                    } else {
                        self.word.known(b"{");
                    }
                }
                ',' | '}' if braces => self.pattern(),
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => {
                    return Err("the parts of this word are not clear");
                }
                c => {
                    let mut buffer = [0; 4];
                    self.word.known(c.encode_utf8(&mut buffer).as_bytes());
                }
            }
        }
        Ok(())
    }

    fn single(&mut self) -> Result<(), Why> {
        let end = self.rest().find('\'').ok_or("a single quote is not closed")?;
        let (start, text) = (self.at, self.text);
        self.word.quote();
        self.word.known(&text.as_bytes()[start..start + end]);
        self.at += end + 1;
        Ok(())
    }

    /// Between double quotes, or in a text where quotes mean nothing (`close` is `None`).
    fn inside(&mut self, close: Option<char>) -> Result<(), Why> {
        while let Some(c) = self.rest().chars().next() {
            self.at += c.len_utf8();
            match c {
                c if Some(c) == close => return Ok(()),
                '\\' => {
                    let next = self.rest().chars().next();
                    match next {
                        Some('\n') => {}
                        Some(c @ ('$' | '`' | '"' | '\\')) => self.word.known(&[c as u8]),
                        _ => {
                            self.word.known(b"\\");
                            continue;
                        }
                    }
                    self.at += 1;
                }
                '$' => self.dollar(true)?,
                '`' => self.backquoted(true)?,
                c => {
                    let mut buffer = [0; 4];
                    self.word.known(c.encode_utf8(&mut buffer).as_bytes());
                }
            }
        }
        match close {
            None => Ok(()),
            Some(_) => Err("a double quote is not closed"),
        }
    }

    /// What becomes the names of files, or several words.
    fn pattern(&mut self) {
        self.word.comes_from(Some(&Origin::unknown()));
        self.word.pattern();
    }

    /// An expansion. `origin`: `None` of a number.
    fn dynamic(&mut self, quoted: bool, many: bool, origin: Option<&Origin>) {
        self.word.comes_from(origin);
        match (quoted, many) {
            (false, _) => self.word.splits(),
            (true, true) => self.word.pattern(),
            (true, false) => self.word.unknown(),
        }
    }

    /// What follows a dollar sign.
    fn dollar(&mut self, quoted: bool) -> Result<(), Why> {
        self.nested += 1;
        if self.nested > MAX_NESTED {
            return Err("too many expansions in each other");
        }
        let rest = self.rest();
        match rest.chars().next() {
            Some('(') => {
                let end = close(self.text, self.at + 1, b')', 0)?;
                let body = &self.text[self.at + 1..end];
                self.at = end + 1;
                let arithmetic = body.starts_with('(') && close(body, 1, b')', 0) == Ok(body.len().wrapping_sub(1));
                if arithmetic {
                    self.dynamic(quoted, false, None);
                    self.reading.look_at_index(body);
                    self.evaluates(&body[1..body.len() - 1]);
                } else {
                    let printed = printed_number(body).unwrap_or_else(Origin::unknown);
                    self.dynamic(quoted, false, Some(&printed));
                    self.substitution(body)?;
                }
            }
            Some('[') => {
                let end = close(self.text, self.at + 1, b']', 0)?;
                let body = &self.text[self.at + 1..end];
                self.at = end + 1;
                self.dynamic(quoted, false, None);
                self.reading.look_at_index(body);
                self.evaluates(body);
            }
            Some('{') => {
                let end = close(self.text, self.at + 1, b'}', 0)?;
                let body = &self.text[self.at + 1..end];
                self.at = end + 1;
                self.parameter(body, quoted)?;
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let end = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                let origin = Origin::of(&rest[..end]);
                self.at += end;
                self.dynamic(quoted, false, Some(&origin));
            }
            Some(c) if c.is_ascii_digit() || "@*#?$!-".contains(c) => {
                self.at += 1;
                let body = c.to_string();
                self.parameter(&body, quoted)?;
            }
            _ => self.word.known(b"$"),
        }
        self.nested -= 1;
        Ok(())
    }

    /// `${…}`, without its braces; a special or positional parameter.
    fn parameter(&mut self, body: &str, quoted: bool) -> Result<(), Why> {
        if let (Ok(number), Some(words)) = (body.parse::<usize>(), &self.context.positional) {
            let word = words.get(number).cloned().unwrap_or_else(|| Word::known(""));
            let whole = |value: &[u8]| std::str::from_utf8(value).is_ok_and(is_plain);
            match word.bytes() {
                Some(value) if quoted || whole(value) => self.word.data(value),
                _ => self.dynamic(quoted, false, Some(&word.origin())),
            }
            return Ok(());
        }
        // `${ command; }` and `${|command; }` of newer shells have no name.
        let name = body.trim_start_matches(['!', '#']);
        let name = name.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let special = name.len() == body.len() && body.starts_with(['@', '*', '?', '$', '-']);
        let rest = if special { &name[1..] } else { name };
        if body.is_empty()
            || !(rest.is_empty() || rest.starts_with([':', '-', '=', '+', '?', '%', '#', '/', '^', ',', '@', '[', '*']))
        {
            return Err("not an expansion that is understood");
        }
        if body.contains("@P") || body.contains("<(") || body.contains(">(") || body.starts_with('(') {
            return Err("this expansion may run what a variable holds");
        }
        if rest.starts_with('=') || rest.starts_with(":=") {
            let name = &body[..body.len() - rest.len()];
            self.reading.changed_environment |= !super::read::is_local(name);
            self.reading.look_at_name(name);
        }
        // An index, an offset and a length are arithmetic.
        if is_offset(rest) || rest.contains('[') {
            self.reading.look_at_arithmetic(rest);
        }
        let origin = self.expanded(body)?;
        self.dynamic(quoted, body.contains('@'), origin.as_ref());
        Ok(())
    }

    /// Where the text of `${…}` comes from; `None`: it is a number.
    fn expanded(&mut self, body: &str) -> Result<Option<Origin>, Why> {
        let sign = body.chars().next().filter(|c| body.len() > 1 && "#!".contains(*c));
        let rest = &body[usize::from(sign.is_some())..];
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let (mut name, mut rest) = rest.split_at(end);
        if name.is_empty() {
            match body {
                "#" | "?" | "$" | "!" => return Ok(None),
                _ if sign.is_none() && rest.starts_with(['@', '*']) => rest = &rest[1..],
                "#@" | "#*" => return Ok(None),
                _ => {
                    self.deeper(rest);
                    return Ok(Some(Origin::unknown()));
                }
            }
        }
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            name = "@";
        }
        let mut all = false;
        if rest.starts_with('[') {
            let end = close(rest, 1, b']', 0)?;
            let index = &rest[1..end];
            rest = &rest[end + 1..];
            all = matches!(index, "@" | "*");
            if !all {
                self.within(index, |reading, context| reading.evaluates_index(context, name, index));
            }
        }
        let value = Origin::of(name);
        match sign {
            Some('#') if rest.is_empty() => return Ok(None),
            Some('!') if all && rest.is_empty() => return Ok(Some(Origin::of(&format!("!{name}")))),
            Some('!') if !matches!(rest, "@" | "*") => {
                // The name of a variable.
                self.reading
                    .values
                    .evaluates(&format!("${{{body}}}"), value, Mode::Name);
                // Which one, is not known.
                if rest.starts_with('=') || rest.starts_with(":=") {
                    self.reading.values.anything();
                }
                self.deeper(rest);
                return Ok(Some(Origin::unknown()));
            }
            Some(_) => {
                self.deeper(rest);
                return Ok(Some(Origin::unknown()));
            }
            None if rest.is_empty() => return Ok(Some(value)),
            None => {}
        }
        if is_offset(rest) {
            self.evaluates(&rest[1..]);
            return Ok(Some(if all || name == "@" {
                value
            } else {
                Origin::part_of(name)
            }));
        }
        let other = self.deeper(rest);
        Ok(Some(match rest.as_bytes() {
            [b'%' | b'#', ..] => Origin::part_of(name),
            // A pattern, and behind it what is put in its place: a slash in the pattern makes too much of it.
            [b'/', rest @ ..] => {
                let rest = rest.strip_prefix(b"/").unwrap_or(rest);
                let with = rest.iter().position(|byte| *byte == b'/').map(|at| &rest[at + 1..]);
                let mut origin = Origin::part_of(name);
                match with {
                    None | Some(b"") => {}
                    Some(with) if with.iter().all(u8::is_ascii_digit) => {}
                    Some(_) => origin.add(&Origin::unknown()),
                }
                origin
            }
            [b'-' | b'=' | b'+' | b'?', ..] | [b':', b'-' | b'=' | b'+' | b'?', ..] => {
                let mut origin = value;
                origin.add(&other);
                if rest.starts_with('=') || rest.starts_with(":=") {
                    self.reading.values.hold(name, &other);
                }
                origin
            }
            _ => Origin::unknown(),
        }))
    }

    /// Reads a text within this one, if there may be something to read in it.
    fn within(&mut self, text: &str, read: impl FnOnce(&mut Reading, &Context)) {
        let inner = Context {
            via: self.context.via.clone(),
            ..self.context.inside("")
        };
        if !text.contains(['$', '`']) || self.reading.may_parse(&inner, text) {
            read(self.reading, &inner);
        }
    }

    /// Notes that a text within this one is arithmetic.
    fn evaluates(&mut self, text: &str) {
        self.within(text, |reading, context| reading.evaluates(context, text));
    }

    fn deeper(&mut self, body: &str) -> Origin {
        let mut origin = Origin::unknown();
        if !body.contains(['$', '`']) {
            return Origin::text(body.as_bytes());
        }
        self.within(body, |reading, context| origin = reading.substitutions(context, body));
        origin
    }

    fn substitution(&mut self, body: &str) -> Result<(), Why> {
        // Where a substitution with these ends, shells and parsers see differently.
        let comment = body
            .match_indices('#')
            .any(|(at, _)| at == 0 || body[..at].ends_with([' ', '\t', '\n', ';', '&', '|', '(']));
        if comment || body.contains("case") || body.contains("esac") || body.contains("<<") {
            return Err("a comment, case or here-document in a substitution");
        }
        self.reading.script(&self.context.inside("$()"), body);
        Ok(())
    }

    fn backquoted(&mut self, quoted: bool) -> Result<(), Why> {
        let bytes = self.rest().as_bytes();
        let mut end = 0;
        while *bytes.get(end).ok_or("a backquote is not closed")? != b'`' {
            if bytes[end] == b'\\' {
                return Err("a backslash between backquotes");
            }
            end += 1;
        }
        let body = &self.text[self.at..self.at + end];
        self.at += end + 1;
        let printed = printed_number(body).unwrap_or_else(Origin::unknown);
        self.dynamic(quoted, false, Some(&printed));
        self.substitution(body)
    }

    /// `$'…'`, from its quote on.
    fn ansi_c(&mut self) -> Result<(), Why> {
        self.word.quote();
        self.at += 1;
        let mut decoded = Vec::new();
        loop {
            let c = self.rest().chars().next().ok_or("a single quote is not closed")?;
            self.at += c.len_utf8();
            if c == '\'' {
                break;
            }
            if c != '\\' {
                let mut buffer = [0; 4];
                decoded.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                continue;
            }
            if self.context.dialect == Dialect::Posix && self.rest().starts_with('\'') {
                return Err("`$'` is not a quote in every sh");
            }
            self.ansi_c_escape(&mut decoded)?;
        }
        self.word.known(&decoded);
        Ok(())
    }

    fn ansi_c_escape(&mut self, decoded: &mut Vec<u8>) -> Result<(), Why> {
        let c = self.rest().chars().next().ok_or("a single quote is not closed")?;
        let digits = |text: &str, radix: u32, most: usize| {
            let length = text.chars().take(most).take_while(|c| c.is_digit(radix)).count();
            (u32::from_str_radix(&text[..length], radix).unwrap_or(0), length)
        };
        let (value, length) = match c {
            'x' => digits(&self.rest()[1..], 16, 2),
            'u' => digits(&self.rest()[1..], 16, 4),
            'U' => digits(&self.rest()[1..], 16, 8),
            '0'..='7' => digits(self.rest(), 8, 3),
            _ => (0, 0),
        };
        let simple = match c {
            'n' => b'\n',
            't' => b'\t',
            'r' => b'\r',
            'a' => 7,
            'b' => 8,
            'e' | 'E' => 27,
            'f' => 12,
            'v' => 11,
            '\\' | '\'' | '"' | '?' => c as u8,
            // A NUL ends the word there, and `\c` is rare: neither is worth getting wrong.
            _ if length == 0 || value == 0 => return Err("an escape that is not understood"),
            'x' | '0'..='7' => value as u8,
            _ => {
                let c = char::from_u32(value).ok_or("an escape that is not understood")?;
                decoded.extend_from_slice(c.to_string().as_bytes());
                self.at += 1 + length;
                return Ok(());
            }
        };
        if simple == 0 {
            return Err("an escape that is not understood");
        }
        decoded.push(simple);
        self.at += if c.is_ascii_digit() { length } else { 1 + length };
        Ok(())
    }
}

/// Where what was opened before `at` is closed. Goes over the text once.
fn close(text: &str, mut at: usize, closing: u8, nested: usize) -> Result<usize, Why> {
    const OPEN: Why = "an expansion is not closed";
    if nested > MAX_NESTED {
        return Err("too many expansions in each other");
    }
    let bytes = text.as_bytes();
    loop {
        let byte = *bytes.get(at).ok_or(OPEN)?;
        at += 1;
        match byte {
            b'\\' => at += 1,
            b'\'' if closing != b'"' && bytes.get(at.wrapping_sub(2)) == Some(&b'$') => {
                while *bytes.get(at).ok_or(OPEN)? != b'\'' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            // Inside `"${x:-'}"` a single quote is none; where it matters the text is refused for what follows.
            b'\'' if closing == b')' => {
                at += bytes
                    .get(at..)
                    .ok_or(OPEN)?
                    .iter()
                    .position(|b| *b == b'\'')
                    .ok_or(OPEN)?
                    + 1
            }
            b'\'' if closing == b'}' => return Err("a quote inside of an expansion"),
            b'`' => {
                at += bytes
                    .get(at..)
                    .ok_or(OPEN)?
                    .iter()
                    .position(|b| *b == b'`')
                    .ok_or(OPEN)?
                    + 1
            }
            _ if byte == closing => return Ok(at - 1),
            b'"' => at = close(text, at, b'"', nested + 1)? + 1,
            b'(' if closing == b')' => at = close(text, at, b')', nested + 1)? + 1,
            b'[' if closing == b']' => at = close(text, at, b']', nested + 1)? + 1,
            b'$' => match bytes.get(at) {
                Some(b'(') => at = close(text, at + 1, b')', nested + 1)? + 1,
                Some(b'{') => at = close(text, at + 1, b'}', nested + 1)? + 1,
                _ => {}
            },
            _ => {}
        }
    }
}
