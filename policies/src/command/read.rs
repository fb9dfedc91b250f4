//! Reads an argument vector as far as it says which programs will be run.
//!
//! The text after `sh -c` is cut into commands by `script.rs`; programs that start other programs are seen through by `unwrap.rs`.
//! What cannot be read is said, never guessed. Bounds, all checked before the parser crate is called:
//! 32 KiB to one script and 128 KiB to all of a line's, 8 levels of compound commands in one script (a grammar without memory
//! takes time that doubles with each), 16 levels of scripts and wrappers in each other, 512 commands, 4096 words.

use std::collections::BTreeMap;

use super::shell::is_git_command;
use super::values::{Origin, Values};
use super::word::{Word, printable};

/// Longest script, in bytes.
pub(super) const MAX_SCRIPT_BYTES: usize = 32 << 10;
/// All scripts of a line together, in bytes: a substitution is read once where it stands and once by itself.
const MAX_ALL_BYTES: usize = 128 << 10;
/// Scripts, wrappers and substitutions in each other.
const MAX_DEPTH: usize = 16;
const MAX_COMMANDS: usize = 512;
const MAX_WORDS: usize = 4096;
const MAX_UNREADABLE: usize = 64;
/// So many variables are named.
const MAX_NAMES: usize = 8;
/// Of what cannot be read so many characters are shown.
pub(super) const MAX_SHOWN_CHARS: usize = 160;

/// What an argument vector or a shell line runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Every simple command, in the order in which they were found; wrappers before what they run. At most 512.
    pub commands: Vec<SimpleCommand>,
    /// What was not understood. At most 64.
    pub unreadable: Vec<Unreadable>,
    /// A variable was set that later commands may see and that may change what they are.
    pub(super) changed_environment: bool,
    /// Names of such variables, at most eight, for those who ask why.
    pub(super) variables: Vec<String>,
    /// Variables of which the value was read already.
    pub(super) looked_at: Vec<Assignment>,
    /// Functions that were defined: their arguments may be what arithmetic in them runs.
    pub(super) functions: Vec<String>,
    /// Variables of the environment that the values of others set where arithmetic reads them, and whether any arithmetic does.
    pub(super) counted: Vec<String>,
    pub(super) counts: bool,
    /// Where a shell looks for what it reads at its start may have been changed.
    pub(super) startup: bool,
    /// Values of variables, and where they are evaluated; empty when everything has been read.
    pub(super) values: Values,
    /// Scripts, wrappers and substitutions around the first script.
    pub(super) first_via: usize,
    /// Everything that it takes to read more.
    budget: Budget,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Budget {
    bytes: usize,
    words: usize,
}

/// One program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimpleCommand {
    /// The program as it was named: a name or a path.
    pub program: Word,
    /// Its arguments.
    pub args: Vec<Word>,
    /// Variables that are set for it.
    pub assignments: Vec<Assignment>,
    /// Its redirections to files.
    pub redirects: Vec<Redirect>,
    /// Indices of arguments by which it writes a file or runs a script out of one: `sort -o`, `sed -i`. A rule that allows has to name them.
    pub doors: Vec<usize>,
    /// What it was read out of, outermost first: `bash -c`, `xargs`, `find -exec`.
    pub via: Vec<String>,
    /// It does nothing but start what follows it in the list: `nice`, `env`, `sh -c`.
    pub transparent: bool,
}

/// A variable that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Word,
}

/// A redirection to or from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The file.
    pub target: Word,
    /// Whether it is opened for writing.
    pub writes: bool,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The text, escaped and cut to 160 characters.
    pub what: String,
    /// Why it cannot be read, a lower-case fragment.
    pub why: String,
}

/// What a command reads from descriptor 0.
#[derive(Clone, Debug, Default)]
pub(super) enum Input {
    /// The caller's, a pipe or a file.
    #[default]
    Unknown,
    /// This text, from a here-document.
    Text(String),
}

/// Which shell reads a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Bash,
    /// `sh` and its kin, where bash's own constructs may mean something else.
    Posix,
    Zsh,
}

/// Where a command stands.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) via: Vec<String>,
    pub(super) dialect: Dialect,
    /// `$0`, `$1` and so on, where they are known.
    pub(super) positional: Option<Vec<Word>>,
    pub(super) depth: usize,
}

impl Context {
    pub(super) fn top() -> Self {
        Self {
            via: Vec::new(),
            dialect: Dialect::Bash,
            positional: None,
            depth: 0,
        }
    }

    pub(super) fn inside(&self, via: &str) -> Self {
        let mut inner = self.clone();
        inner.via.push(via.to_owned());
        inner.depth += 1;
        inner
    }
}

/// Reads an argument vector as `execvp` would start it.
pub fn read(argv: &[Vec<u8>]) -> Reading {
    read_with(argv, &[], &BTreeMap::new())
}

/// Reads an argument vector that is started with variables, as if they were written before it: `NAME=value program`. What is `given` beside
/// those says no more than what a shell evaluates where it evaluates variables.
pub fn read_with(argv: &[Vec<u8>], env: &[(Vec<u8>, Vec<u8>)], given: &BTreeMap<Vec<u8>, Vec<u8>>) -> Reading {
    let mut reading = Reading::default();
    for (name, value) in given {
        let name = String::from_utf8_lossy(name);
        reading.values.hold(&name, &Origin::text(value));
    }
    let words = argv.iter().map(|word| Word::Known(word.clone())).collect();
    let assignments = env
        .iter()
        .map(|(name, value)| Assignment {
            name: String::from_utf8_lossy(name).into_owned(),
            value: Word::Known(value.clone()),
        })
        .collect();
    reading.command(&Context::top(), words, assignments, Vec::new(), Input::Unknown);
    reading.settle();
    reading
}

/// Reads a line as bash would read it.
pub fn read_line(line: &str) -> Reading {
    let mut reading = Reading::default();
    reading.script(&Context::top(), line);
    reading.settle();
    reading
}

impl Reading {
    /// Whether everything was read.
    pub fn is_complete(&self) -> bool {
        self.unreadable.is_empty()
    }

    pub(super) fn cannot(&mut self, what: impl AsRef<[u8]>, why: impl Into<String>) {
        if self.unreadable.len() < MAX_UNREADABLE {
            let what = what.as_ref();
            let shown = printable(&what[..what.len().min(4 * MAX_SHOWN_CHARS)]);
            let mut chars = shown.chars();
            let mut what: String = chars.by_ref().take(MAX_SHOWN_CHARS).collect();
            if chars.next().is_some() {
                what.push('…');
            }
            let why = why.into();
            let unreadable = Unreadable { what, why };
            if !self.unreadable.contains(&unreadable) {
                self.unreadable.push(unreadable);
            }
        }
    }

    /// Takes so many bytes of script from the budget. `false`: there are not so many left, and that was noted.
    pub(super) fn may_parse(&mut self, context: &Context, text: &str) -> bool {
        let why = if text.len() > MAX_SCRIPT_BYTES {
            format!("a script of {} bytes, more than {MAX_SCRIPT_BYTES}", text.len())
        } else if self.budget.bytes + text.len() > MAX_ALL_BYTES {
            format!("more than {MAX_ALL_BYTES} bytes of scripts in each other")
        } else if context.depth > MAX_DEPTH {
            format!("more than {MAX_DEPTH} levels of scripts in each other")
        } else {
            self.budget.bytes += text.len();
            return true;
        };
        self.cannot(text, why);
        false
    }

    /// Whether no script has been read yet.
    pub(super) fn begins(&self) -> bool {
        self.budget.bytes == 0
    }

    /// Notes a command, and what it starts.
    pub(super) fn command(
        &mut self,
        context: &Context,
        mut words: Vec<Word>,
        assignments: Vec<Assignment>,
        redirects: Vec<Redirect>,
        input: Input,
    ) {
        self.look_at_values(&assignments);
        self.look_at_variables(context, &assignments);
        if words.is_empty() {
            // `PATH=/x` alone stays for what comes after it; so do exported variables.
            for assignment in assignments.iter().filter(|assignment| !is_local(&assignment.name)) {
                self.sets(&assignment.name);
            }
            if !redirects.iter().any(Redirect::changes_something) {
                return;
            }
            // `> x` is what `: > x` is.
            words.push(Word::known(":"));
        }
        self.budget.words += words.len();
        if self.commands.len() >= MAX_COMMANDS || self.budget.words > MAX_WORDS && self.commands.len() > 1 {
            self.cannot("", format!("more than {MAX_COMMANDS} commands or {MAX_WORDS} words"));
            return;
        }
        if context.depth > MAX_DEPTH {
            self.cannot(
                words[0].show(),
                format!("more than {MAX_DEPTH} programs that start each other"),
            );
            return;
        }
        let args = words.split_off(1);
        let program = words.remove(0);
        let index = self.commands.len();
        if let Some(name) = program.text()
            && (name == "set" || self.functions.iter().any(|function| function == name))
        {
            for word in args.iter().filter(|word| word.bytes().is_some_and(substitutes)) {
                self.cannot(
                    word.show(),
                    format!("`{name}` takes a substitution that arithmetic may run later"),
                );
            }
        }
        if program.bytes() == Some(b"set") {
            for word in &args {
                self.values.hold("@", &word.origin());
            }
        }
        if program.bytes() == Some(b"set")
            && let Some(at) = args.iter().position(|word| {
                let text = word.text().unwrap_or_default();
                text == "keyword" || (text.starts_with('-') && !text.starts_with("--") && text.contains('k'))
            })
        {
            self.cannot(
                format!("set {}", args[at].show()),
                "after it arguments may be variables that are set",
            );
        }
        self.commands.push(SimpleCommand {
            program,
            args,
            assignments,
            redirects,
            doors: Vec::new(),
            via: context.via.clone(),
            transparent: false,
        });
        let command = self.commands[index].clone();
        let Some(path) = command.program.bytes() else {
            self.cannot(command.program.show(), "the program's name is not known before it runs");
            return;
        };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path).to_vec();
        if let Ok(name) = std::str::from_utf8(&name) {
            let name = name
                .strip_prefix("git-")
                .map_or(name, |sub| if is_git_command(sub) { "git" } else { name });
            self.commands[index].doors = self.look_at_doors(name, &command);
        }
        let transparent = self.unwrap(context, &name, &command, input);
        self.commands[index].transparent = transparent;
    }

    /// Notes a variable that later commands may see.
    pub(super) fn sets(&mut self, name: &str) {
        self.changed_environment = true;
        self.startup |= super::variables::STARTUP.contains(&name);
        if self.variables.len() < MAX_NAMES && !self.variables.iter().any(|known| known == name) {
            self.variables.push(name.to_owned());
        }
    }

    /// Notes what an arithmetic text sets: itself, and by the values of the variables that it reads.
    pub(super) fn look_at_arithmetic(&mut self, text: &str) {
        for name in super::arithmetic::set_in(text) {
            if !is_local(name) {
                self.sets(name);
                self.look_at_name(name);
            }
        }
        self.counts |= super::arithmetic::reads(text);
        self.sets_counted();
    }

    /// Once there is arithmetic, what values set in it is set.
    fn sets_counted(&mut self) {
        if self.counts {
            for name in std::mem::take(&mut self.counted) {
                self.sets(&name);
                self.look_at_name(&name);
            }
        }
    }

    /// Notes values of variables.
    pub(super) fn look_at_values(&mut self, assignments: &[Assignment]) {
        for Assignment { name, value } in assignments {
            // `a[1]`, and `a+` of `declare a+=b`.
            let variable = name.split(['[', '+']).next().unwrap_or_default();
            self.values.hold(variable, &value.origin());
            if name.ends_with('+') {
                self.values.hold(variable, &Origin::part_of(variable));
                self.look_at_name(variable);
            }
            let set = value.text().map(super::arithmetic::set_in).unwrap_or_default();
            if !set.is_empty() {
                self.counted.extend(
                    set.into_iter()
                        .filter(|name| !is_local(name))
                        .take(MAX_NAMES)
                        .map(str::to_owned),
                );
                self.sets_counted();
            }
        }
    }
}

/// Whether a text holds what a shell would run, were it read once more.
pub(super) fn substitutes(bytes: &[u8]) -> bool {
    bytes.contains(&b'`') || bytes.windows(2).any(|two| two == b"$(")
}

impl SimpleCommand {
    /// Names of the variables that are set for it and may change what it runs, as a shell would be told them, but without their values, which may be secret.
    pub(super) fn show_variables(&self) -> String {
        let mut names = self
            .assignments
            .iter()
            .map(|one| &one.name)
            .filter(|name| !harmless(name));
        let mut shown: String = names
            .by_ref()
            .take(MAX_NAMES)
            .map(|name| format!("{}=… ", printable(name.as_bytes())))
            .collect();
        if names.next().is_some() {
            shown.push_str("… ");
        }
        shown
    }

    /// As a shell would be told it, without assignments and redirections; at most `chars` characters.
    pub fn show(&self, chars: usize) -> String {
        let mut shown = self.program.show();
        for arg in &self.args {
            if shown.len() > 4 * chars {
                break;
            }
            shown.push(' ');
            shown.push_str(&arg.show());
        }
        match shown.char_indices().nth(chars) {
            Some((at, _)) => format!("{}…", &shown[..at]),
            None => shown,
        }
    }
}

/// Variables of a script's own, which programs do not see: lower case, but for the few that programs do look at.
pub(super) fn is_local(name: &str) -> bool {
    harmless(name)
        || (name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && !name.contains("proxy")
            && !name.starts_with("npm_")
            && name != "path")
}

/// Variables that change how output looks and not what runs. A list of the dangerous ones could not be complete.
pub(super) fn harmless(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "LANG",
        "TZ",
        "TERM",
        "COLUMNS",
        "LINES",
        "NO_COLOR",
        "FORCE_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "CI",
        "DEBUG",
        "VERBOSE",
        "RUST_BACKTRACE",
        "RUST_LOG",
        "NODE_ENV",
        "PYTHONUNBUFFERED",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONIOENCODING",
        "DEBIAN_FRONTEND",
        "GIT_TERMINAL_PROMPT",
        "CARGO_TERM_COLOR",
        "CARGO_NET_OFFLINE",
    ];
    NAMES.contains(&name) || name.starts_with("LC_")
}
