//! What bash evaluates once more: a variable's value in arithmetic, in an index, where it names a variable.
//!
//! `y='x[$(rm z)]'; (( y ))` runs `rm`: arithmetic takes the value of a name for arithmetic again, and what stands in an index is expanded. So where
//! values come from is noted with every word ([`Origin`]), every variable's are put together whatever the order in which the line
//! sets them, and in the end each place that evaluates must reach nothing but text that is known and holds none of the characters by which an index
//! or an expansion is written. A variable that nobody sets is empty, which is zero.

use std::collections::{BTreeMap, BTreeSet};

use super::read::{Context, Reading};
use super::word::Word;

/// Where the text of a word comes from, as far as it matters to who evaluates it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Of some of it nothing is known, or it holds what makes an index or an expansion.
    unknown: bool,
    /// Names that have to do with it.
    names: BTreeSet<(Use, String)>,
}

/// What a name is to a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// The value of the variable stands in it; `@` is the parameters, `!a` the keys of `a`, `f()` what a program prints unless a function has its name.
    Copy,
    /// Some letters of the variable's value stand in it.
    Part,
    /// It stands in it as it is, and arithmetic would read it.
    Word,
}

impl Origin {
    /// Anything.
    pub fn unknown() -> Self {
        Self {
            unknown: true,
            ..Self::default()
        }
    }

    /// The value of a variable.
    pub(super) fn of(name: &str) -> Self {
        Self {
            names: [(Use::Copy, name.to_owned())].into(),
            ..Self::default()
        }
    }

    /// Letters of the value of a variable.
    pub(super) fn part_of(name: &str) -> Self {
        Self {
            names: [(Use::Part, name.to_owned())].into(),
            ..Self::default()
        }
    }

    /// A text that is data.
    pub(super) fn text(bytes: &[u8]) -> Self {
        let mut trace = Trace::default();
        trace.data(bytes);
        trace.finish()
    }

    /// An arithmetic text without expansions.
    pub(super) fn expression(text: &str) -> Self {
        let mut trace = Trace::of_expression();
        trace.known(text.as_bytes());
        trace.finish()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.unknown |= other.unknown;
        self.names.extend(other.names.iter().cloned());
    }
}

/// Puts the origin of a word together from its pieces.
#[derive(Default)]
pub(super) struct Trace {
    origin: Origin,
    /// The name that is being read.
    name: String,
    /// The piece before was an expansion: a name that touches it is one that is not known.
    expanded: bool,
    /// What is written is arithmetic itself, in which an index may stand.
    expression: bool,
}

impl Trace {
    pub(super) fn of_expression() -> Self {
        Self {
            expression: true,
            ..Self::default()
        }
    }

    /// What is written in the word.
    pub(super) fn known(&mut self, bytes: &[u8]) {
        self.bytes(bytes, self.expression);
    }

    /// What is known of a value.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        self.bytes(bytes, false);
    }

    fn bytes(&mut self, bytes: &[u8], written: bool) {
        for &byte in bytes {
            if byte.is_ascii_alphanumeric() || byte == b'_' {
                self.origin.unknown |= self.expanded;
                self.name.push(char::from(byte));
                continue;
            }
            self.end_of_name();
            self.expanded = false;
            self.origin.unknown |= match byte {
                b'$' | b'\\' | b'`' => true,
                b'[' | b']' | b'(' | b'{' | b'\'' | b'"' => !written,
                _ => false,
            };
        }
    }

    /// A decimal number.
    pub(super) fn number(&mut self) {
        self.data(b"0");
    }

    pub(super) fn expansion(&mut self, origin: &Origin) {
        // What begins with a digit becomes no name.
        let touches = self.name.starts_with(|c: char| !c.is_ascii_digit());
        self.origin.unknown |= touches || self.expanded;
        self.name.clear();
        self.expanded = true;
        self.origin.add(origin);
    }

    fn end_of_name(&mut self) {
        let name = std::mem::take(&mut self.name);
        if name.starts_with(|c: char| !c.is_ascii_digit()) {
            self.origin.names.insert((Use::Word, name));
        }
    }

    pub(super) fn finish(mut self) -> Origin {
        self.end_of_name();
        self.origin
    }
}

/// How much of a value is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// As arithmetic, with the names in it.
    Arithmetic,
    /// As the name of a variable, with its index.
    Name,
    /// Some letters of it, as arithmetic: what names they make is not known.
    Letters,
    /// As an option by which a builtin sets a variable: `-v`.
    Option,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    what: String,
    origin: Origin,
    mode: Mode,
    /// The array that this is an index of, if that seems to be an associative one, whose indices are texts.
    map: Option<String>,
}

/// Values of variables, and the places where they are evaluated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Values {
    holds: BTreeMap<String, Origin>,
    places: Vec<Place>,
    integers: BTreeSet<String>,
    references: BTreeSet<String>,
    arrays: BTreeSet<String>,
    /// Given as one word to a builtin that declares: of an array, a list whose indices are evaluated.
    lists: Vec<(String, Origin)>,
    /// Associative arrays that are made before anything else has their name; those that may be something else at times.
    maps: BTreeSet<String>,
    spoiled: BTreeSet<String>,
    /// A variable whose name is not known is set, or taken away.
    anything: bool,
    anything_spoiled: bool,
}

/// Arithmetic with more variables than these that refer to others is not looked into.
const MAX_REFERENCES: usize = 64;

/// What assigning to them evaluates, in bash: they count.
const INTEGERS: &[&str] = &[
    "RANDOM",
    "SRANDOM",
    "SECONDS",
    "LINENO",
    "OPTIND",
    "HISTCMD",
    "BASHPID",
    "EPOCHSECONDS",
    "EPOCHREALTIME",
];

/// Variables that hold what was read, what is executed and where; in bash, beside those that begin with [`OF_BASH`].
const DATA: &[&str] = &[
    "PWD", "OLDPWD", "DIRSTACK", "_", "-", "REPLY", "OPTARG", "MAPFILE", "FUNCNAME",
];

const OF_BASH: &[&str] = &["BASH_", "COMP_", "READLINE_"];

const NUMBERS_OF_BASH: &[&str] = &[
    "BASH_LINENO",
    "BASH_SUBSHELL",
    "BASH_VERSINFO",
    "BASH_VERSION",
    "COMP_CWORD",
];

fn is_data(name: &str) -> bool {
    DATA.contains(&name) || (OF_BASH.iter().any(|begin| name.starts_with(begin)) && !NUMBERS_OF_BASH.contains(&name))
}

impl Values {
    pub(super) fn hold(&mut self, name: &str, origin: &Origin) {
        self.holds.entry(name.to_owned()).or_default().add(origin);
    }

    /// A variable that is given a value which is not known.
    pub(super) fn hold_anything(&mut self, name: &str) {
        self.hold(name, &Origin::unknown());
    }

    /// A variable whose name is not known is given such a value.
    pub(super) fn anything(&mut self) {
        self.anything = true;
    }

    pub(super) fn evaluates(&mut self, what: &str, origin: Origin, mode: Mode) {
        self.index(what, origin, mode, None);
    }

    fn index(&mut self, what: &str, origin: Origin, mode: Mode, map: Option<String>) {
        if origin != Origin::default() {
            let what = what.chars().take(super::read::MAX_SHOWN_CHARS + 1).collect();
            self.places.push(Place {
                what,
                origin,
                mode,
                map,
            });
        }
    }

    /// A word that a builtin was given to declare: its letters among the builtin's options, its name and its value.
    pub(super) fn declare(&mut self, options: &str, name: &str, value: Option<&Origin>) {
        let sets = [
            ("i", &mut self.integers),
            ("n", &mut self.references),
            ("aA", &mut self.arrays),
        ];
        for (letters, set) in sets {
            if options.contains(|letter| letters.contains(letter)) {
                set.insert(name.to_owned());
            }
        }
        if options.contains('A') {
            self.hold_anything(&format!("!{name}"));
        } else {
            self.spoiled.insert(name.to_owned());
        }
        if let Some(value) = value {
            self.lists.push((name.to_owned(), value.clone()));
        }
    }

    pub(super) fn is_array(&mut self, name: &str) {
        self.arrays.insert(name.to_owned());
    }

    /// A variable that is taken away; `None`: of a name that is not known.
    pub(super) fn unset(&mut self, name: Option<&str>) {
        match name {
            Some(name) => drop(self.spoiled.insert(name.to_owned())),
            None => self.anything_spoiled = true,
        }
    }

    /// Whether nothing has been said of a variable.
    pub(super) fn is_new(&self, name: &str) -> bool {
        !self.holds.contains_key(name) && !self.arrays.contains(name) && !self.spoiled.contains(name)
    }

    pub(super) fn map(&mut self, name: String) {
        self.maps.insert(name);
    }

    /// The first place that may evaluate what is not known, and the variable by which it comes there.
    fn evaluated(mut self, functions: &[String]) -> Option<(String, Option<String>)> {
        for name in INTEGERS.iter().filter(|name| self.holds.contains_key(**name)) {
            self.integers.insert((*name).to_owned());
        }
        for function in functions {
            self.hold_anything(&format!("{function}()"));
        }
        for name in std::mem::take(&mut self.integers) {
            self.evaluates(&name, Origin::of(&name), Mode::Arithmetic);
        }
        let lists = std::mem::take(&mut self.lists);
        for (name, origin) in lists {
            if self.arrays.contains(&name) {
                self.evaluates(&name, origin, Mode::Arithmetic);
            }
        }
        let references = std::mem::take(&mut self.references);
        if references.len() > MAX_REFERENCES {
            return Some((String::new(), None));
        }
        self.anything_spoiled |= !references.is_empty();
        for name in &references {
            self.evaluates(name, Origin::of(name), Mode::Name);
            // What is given to it goes to what it stands for.
            let mut seen = BTreeSet::new();
            let _ = self.reach(&Origin::of(name), Mode::Arithmetic, &mut seen);
            for (other, _) in seen.iter().filter(|(other, _)| other != name) {
                self.hold(other, &Origin::of(name));
            }
        }
        let mut seen = BTreeSet::new();
        for place in &self.places {
            let map = |map: &String| {
                self.maps.contains(map) && !self.spoiled.contains(map) && !self.anything_spoiled && !self.anything
            };
            if place.map.as_ref().is_some_and(map) {
                continue;
            }
            if let Err(by) = self.reach(&place.origin, place.mode, &mut seen) {
                return Some((place.what.clone(), by));
            }
        }
        None
    }

    /// Goes through everything that evaluating it reads, but what was `seen`. `Err`: it comes to what is not known, by this variable.
    fn reach(&self, from: &Origin, mode: Mode, seen: &mut BTreeSet<(String, Mode)>) -> Result<(), Option<String>> {
        let mut open: Vec<(String, Mode)> = Vec::new();
        let mut step = |origin: &Origin, mode: Mode, by: Option<&str>, open: &mut Vec<(String, Mode)>| {
            let mut words = origin.names.iter().filter(|(what, _)| *what == Use::Word);
            let bad = match mode {
                Mode::Letters => words.next().is_some(),
                Mode::Option => words.any(|(_, word)| word.starts_with('v')),
                Mode::Arithmetic | Mode::Name => false,
            };
            if origin.unknown || bad {
                return Err(by.map(str::to_owned));
            }
            for (what, name) in &origin.names {
                let mode = match what {
                    Use::Part => Mode::Letters,
                    Use::Word if mode != Mode::Arithmetic => continue,
                    _ => mode,
                };
                if is_data(name) || self.anything && !name.ends_with("()") {
                    return Err(Some(name.clone()));
                }
                let next = (name.clone(), mode);
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
            Ok(())
        };
        step(from, mode, None, &mut open)?;
        while let Some((name, mode)) = open.pop() {
            if let Some(origin) = self.holds.get(&name) {
                step(origin, mode, Some(&name), &mut open)?;
            }
        }
        Ok(())
    }
}

impl Reading {
    /// Looks at what was evaluated, when everything has been read.
    pub(super) fn settle(&mut self) {
        // Bash calls it with words that it does not know as a command.
        if self.functions.iter().any(|name| name == "command_not_found_handle") {
            self.values.hold_anything("@");
        }
        let calls = std::mem::take(&mut self.commands);
        for call in &calls {
            if let Some(name) = call.program.text()
                && self.functions.iter().any(|function| function == name)
            {
                for word in &call.args {
                    self.values.hold("@", &word.origin());
                }
            }
        }
        self.commands = calls;
        let Some((what, by)) = std::mem::take(&mut self.values).evaluated(&self.functions) else {
            return;
        };
        let by = by.filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
        match by {
            Some(name) => self.cannot(
                what,
                format!("the shell evaluates the value of `{name}` here, which is not known to be a number"),
            ),
            None => self.cannot(what, "the shell evaluates this, and what it holds is not known"),
        }
    }

    /// Notes that an arithmetic text, or an index, is evaluated, and reads what it substitutes.
    pub(super) fn evaluates(&mut self, context: &Context, text: &str) {
        let origin = self.expression(context, text);
        self.values.evaluates(text, origin, Mode::Arithmetic);
    }

    /// Notes an index of an array.
    pub(super) fn evaluates_index(&mut self, context: &Context, array: &str, text: &str) {
        let origin = self.expression(context, text);
        // An array of this shell's, and not of one that it starts.
        let here =
            context.via.len() >= self.first_via && context.via[self.first_via..].iter().all(|via| via.ends_with("()"));
        let map = here.then(|| array.to_owned());
        self.values.index(text, origin, Mode::Arithmetic, map);
    }

    /// Notes that a word is evaluated by a builtin.
    pub(super) fn evaluates_word(&mut self, context: &Context, word: &Word, mode: Mode) {
        match (word.text(), mode) {
            (Some(text), Mode::Arithmetic) => self.evaluates(context, text),
            // A name with an index: that is arithmetic, the name is none.
            (Some(text), _) => {
                if let Some((_, index)) = text.split_once('[') {
                    self.evaluates(context, index);
                }
            }
            (None, _) => self.values.evaluates(&word.show(), word.origin(), mode),
        }
    }
}

/// What a command prints, if that is a number whatever it finds. From the manual page of coreutils 9.
pub(super) fn printed_number(script: &str) -> Option<Origin> {
    let last = script.rsplit('|').next()?.trim();
    let alone = !script.contains("||") && !script.contains([';', '&', '\n', '(', ')', '`']);
    let mut words = last.split_whitespace();
    let program = words.next()?;
    let mut origin = Origin::of(&format!("{program}()"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut operands = 0;
    while let Some(word) = words.next() {
        let fits = match program {
            _ if word == "2>/dev/null" => true,
            _ if word == "<" => words.next().is_some_and(|file| !file.contains(['<', '>'])),
            "wc" if word.starts_with('<') => {
                word[1..].starts_with(|c: char| c.is_ascii_alphanumeric() || "\"./$".contains(c))
            }
            "wc" => word
                .strip_prefix('-')
                .is_some_and(|letters| !letters.is_empty() && letters.bytes().all(|letter| b"lwcmL".contains(&letter))),
            "date" => word.strip_prefix('+').is_some_and(|format| {
                !format.is_empty() && format.bytes().all(|byte| b"%sYmdHMSNjuw0123456789".contains(&byte))
            }),
            "id" => matches!(word, "-u" | "-g"),
            "seq" => {
                operands += 1;
                let word = word
                    .strip_prefix('"')
                    .and_then(|word| word.strip_suffix('"'))
                    .unwrap_or(word);
                match word.strip_prefix('$') {
                    Some(name)
                        if !name.is_empty()
                            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
                    {
                        let name = if digits(name) { "@" } else { name };
                        origin.add(&Origin::part_of(name));
                        true
                    }
                    _ => digits(word.strip_prefix('-').unwrap_or(word)),
                }
            }
            _ => false,
        };
        if !fits {
            return None;
        }
    }
    let known = matches!(program, "wc" | "date" | "id" | "nproc") || program == "seq" && operands > 0;
    (alone && known).then_some(origin)
}
