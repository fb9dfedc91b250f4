//! Lines for a shell: how one is started, and what it leaves for the next line of its session.
//!
//! A line is executed by a shell that first enters the directory and takes on what the last line left, then evaluates the line, and on its
//! EXIT trap writes down what there is: into a memory file, descriptor 63, and never by way of output. The daemon makes the file, reads it when the
//! shell has ended, and believes nothing of it: a command may have written there. What it could claim is what any line could do, so what is
//! carried is held against the policy like the request's own: variables as if they were written before the command, functions and the like as
//! text before the line, which must be whole by itself.
//!
//! **Nothing of ours runs by way of a variable.** Rules about commands are held against the line, so what surrounds it must not run what the line
//! hid in data: the line stands in the script as a literal, the trap is a constant, and once the line runs we neither set nor expand a
//! variable, whose name the line could have made a reference or a number (`declare -n`, `-i`), and use no word that an alias could stand
//! for.
//!
//! ```text
//! 0           what the shell leaves: records, each with a NUL behind it
//!   fumehood-2
//!   e, then NAME=value ... of every exported variable, then an empty record: of sh
//!   d (declare -p ...): of bash
//!   f (functions)  a (aliases): of bash, where everything is wanted
//!   end
//! 1 MiB       what the shell is to take on: text and a NUL
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, ftruncate, lseek};
use sha2::{Digest, Sha256};

mod declare;

use declare::Declared;

/// The most that a shell can leave, and the most that it can be given; in bytes.
pub const MAX_STATE_BYTES: usize = 1 << 20;

/// A path is no longer (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4095;

/// Longest variable that the kernel takes (`MAX_ARG_STRLEN`), with its name, `=` and NUL.
const MAX_VARIABLE_BYTES: usize = 131_072;

/// Where the working directories of lines begin that were in one that is gone.
const GONE: &[u8] = b"/tmp/.fumehood-";

/// What our variables in a shell begin with.
const OURS: &[u8] = b"__fumehood_";

/// The first record.
const HEADER: &[u8] = b"fumehood-2";

/// Variables that each shell has of its own, or that the working directory says.
const OF_THE_SHELL: [&[u8]; 4] = [b"_", b"SHLVL", b"PWD", b"OLDPWD"];

/// Where shells are looked for, the better first. By their path: a carried PATH does not say which.
const BASH: [&str; 3] = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"];
const POSIX: &str = "/bin/sh";

/// What runs a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// The program.
    path: PathBuf,
    /// Whether it is bash, which can carry everything.
    bash: bool,
}

/// What of a shell's state the next line finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// What was there before.
    Nothing,
    /// The working directory and the exported variables.
    Environment,
    /// Also functions, aliases, options and other variables; of bash only.
    Everything,
}

impl Shell {
    /// The one that a sandbox has; `shows` says whether it has a file, by a path without links.
    pub fn choose(shows: impl Fn(&Path) -> bool) -> Shell {
        let there = |path: &&&str| Path::new(path).canonicalize().is_ok_and(|real| shows(&real));
        match BASH.iter().find(there) {
            Some(path) => Shell {
                path: path.into(),
                bash: true,
            },
            None => Shell {
                path: POSIX.into(),
                bash: false,
            },
        }
    }

    fn name(&self) -> &'static str {
        if self.bash { "bash" } else { "sh" }
    }

    /// The argument vector that a line stands for: to decisions, records and lists.
    pub fn argv(&self, line: &[u8]) -> Vec<Vec<u8>> {
        vec![self.name().into(), b"-c".to_vec(), line.to_vec()]
    }

    /// What is executed for a line by itself.
    pub fn alone(&self, line: &[u8]) -> Vec<Vec<u8>> {
        let path = self.path.as_os_str().as_bytes().to_vec();
        // What stands behind the line is `$0`.
        vec![path, b"-c".to_vec(), line.to_vec(), self.name().into()]
    }

    /// What is executed for a line in a session. `cwd`: the directory to enter, where the process does not begin in it.
    pub fn within(&self, line: &[u8], begin: &Carried, cwd: Option<&Path>, carry: Carry) -> Vec<Vec<u8>> {
        let builtin: &[u8] = if self.bash { b"\\builtin" } else { b"\\command" };
        // In one line, and a group that is read as a whole: a line with a quote too few must not swallow what follows it, and lines count from 1.
        let mut script = b"{ ".to_vec();
        if let Some(cwd) = cwd {
            enter(cwd, builtin, &mut script);
        }
        if let Some(previous) = &begin.previous_cwd {
            script.extend_from_slice(b"OLDPWD=");
            quote(previous.as_os_str().as_bytes(), &mut script);
            script.extend_from_slice(b"; ");
        }
        let takes_text = self.bash && !begin.text.is_empty();
        if self.bash && carry == Carry::Everything {
            script.extend_from_slice(BEFORE);
        }
        let end = match (self.bash, carry) {
            (_, Carry::Nothing) => None,
            (true, Carry::Environment) => Some(END_OF_BASH),
            (true, Carry::Everything) => Some(END_OF_BASH_WITH_EVERYTHING),
            (false, _) => Some(END_OF_SH),
        };
        if let Some(end) = end {
            script.extend_from_slice(builtin);
            script.extend_from_slice(b" trap ");
            let traces = takes_text && !shows(&begin.text).1.is_empty();
            quote(&trap(end, traces || may_trace(line)), &mut script);
            script.extend_from_slice(b" EXIT; ");
        }
        if takes_text {
            script.extend_from_slice(TAKE_TEXT);
            if end.is_none() {
                script.extend_from_slice(b"\\exec 63>&-; ");
            }
        }
        script.extend_from_slice(EVAL[usize::from(self.bash)]);
        if takes_text {
            script.extend_from_slice(shows(&begin.text).1);
        }
        quote(line, &mut script);
        script.extend_from_slice(b"; }");
        let path = self.path.as_os_str().as_bytes().to_vec();
        vec![path, b"-c".to_vec(), script, self.name().into()]
    }

    /// Whether a line needs the descriptor: to leave something, or to be given text.
    pub fn needs_state(&self, begin: &Carried, carry: Carry) -> bool {
        carry != Carry::Nothing || (self.bash && !begin.text.is_empty())
    }
}

/// The line is evaluated: of sh, of bash. What follows is its literal.
const EVAL: [&[u8]; 2] = [b"\\command eval ", b"\\builtin eval "];

/// Options by which bash shows what it does, as they end a text that is carried; and what switches them on in front of a line, on the same line
/// of the script. The text itself may not: bash would show our `eval` too.
const SHOWS: [(&[u8], &[u8]); 2] = [
    (b"set -o verbose\nset -o xtrace\n", b"\"\\\\builtin set -xv;\" "),
    (b"set -o xtrace\n", b"\"\\\\builtin set -x;\" "),
];

/// A text without those [options](SHOWS), and what switches them on.
fn shows(text: &[u8]) -> (&[u8], &'static [u8]) {
    let cut = SHOWS.iter().find_map(|(options, on)| {
        let rest = text.strip_suffix(*options)?;
        (rest.is_empty() || rest.ends_with(b"\n")).then_some((rest, *on))
    });
    cut.unwrap_or((text, b""))
}

/// Options as they are before the line, in variables that a line can neither change nor make into references.
const BEFORE: &[u8] = b"\\builtin readonly __fumehood_b=\"$BASHOPTS\" __fumehood_o=\"$SHELLOPTS\"; ";

/// Takes on the text. It begins with the removal of the variable that it is read into. Bash stops where it cannot read on.
const TAKE_TEXT: &[u8] =
    b"IFS= \\builtin read -r -d \"\" -u 63 __fumehood_n; \\builtin eval \"$__fumehood_n\" 2>/dev/null \
    || \\builtin echo \"fumehood: not all functions, aliases and settings of earlier lines could be taken on; \
a reset of the session drops them\" >&2; ";

/// See [`TAKE_TEXT`].
const TEXT_BEGINS: &[u8] = b"\\builtin unset -v __fumehood_n\n";

/// The EXIT traps: the last that a shell does, so its output may go elsewhere for good. Without single quotes. Each in two parts; see [`trap`].
const END_OF_BASH: [&[u8]; 2] = [
    b"\\builtin trap - DEBUG ERR; \\builtin test -k /proc/self/fd/63 || \\builtin exit",
    b"; \\exec 1<>/proc/self/fd/63 2>/dev/null; \\builtin printf \"fumehood-2\\0d\"; \
    \\builtin declare -p PWD || \\builtin true; \\builtin declare -p OLDPWD || \\builtin true; \\builtin declare -px; \
    \\builtin printf \"\\0end\\0\"",
];
const END_OF_BASH_WITH_EVERYTHING: [&[u8]; 2] = [
    END_OF_BASH[0],
    b"; \\exec 1<>/proc/self/fd/63 2>/dev/null; \\builtin printf \"fumehood-2\\0d\"; \\builtin declare -p; \
    \\builtin printf \"\\0f\"; \\builtin declare -f; \\builtin printf \"\\0a\"; \\builtin alias -p; \
    \\builtin printf \"\\0end\\0\"",
];
const END_OF_SH: [&[u8]; 2] = [
    b"\\command test -k /proc/self/fd/63 || \\exit",
    b"; \\exec 1<>/proc/self/fd/63 2>/dev/null \
    && \\command printf \"fumehood-2\\0e\\0\" && \\command -p env -0 && \\command printf \"\\0end\\0\"",
];

/// An EXIT trap. After a line that may have said `set -x` it is a subshell, of which nothing is shown: a group would do too, but an alias can stand
/// for `{`. After others it is none: where no more processes may be, bash waits for one and then ends with another exit code. It exits with 0,
/// as an ERR trap of the line's own is not for us.
fn trap(parts: [&[u8]; 2], may_trace: bool) -> Vec<u8> {
    match may_trace {
        true => [b"(", parts[0], b" 0", parts[1], b"; \\exit 0) 2>/dev/null"].concat(),
        false => parts.concat(),
    }
}

/// Whether a line may switch on tracing. No more than that nothing of ours is shown depends on it.
fn may_trace(line: &[u8]) -> bool {
    find(line, b"xtrace").is_some() || find(line, b"set").is_some() && line.contains(&b'x')
}

/// Enters a directory. One that is gone becomes an empty one that is gone too, so that nothing of the line happens elsewhere.
fn enter(cwd: &Path, builtin: &[u8], script: &mut Vec<u8>) {
    let cwd = cwd.as_os_str().as_bytes();
    let said = |end: &str| [b"fumehood: the working directory ".as_slice(), cwd, end.as_bytes()].concat();
    let mut word = |words: &[&[u8]], literal: Option<&[u8]>| {
        for word in words {
            script.extend_from_slice(word);
        }
        if let Some(literal) = literal {
            quote(literal, script);
        }
    };
    word(&[builtin, b" cd -- "], Some(cwd));
    word(
        &[b" 2>/dev/null || { \\command -p mkdir -m 700 -- \"/tmp/.fumehood-$$\" 2>/dev/null && "],
        None,
    );
    word(
        &[
            builtin,
            b" cd -- \"/tmp/.fumehood-$$\" && \\command -p rmdir -- \"/tmp/.fumehood-$$\" || { ",
        ],
        None,
    );
    word(&[builtin, b" echo "], Some(&said(" cannot be entered; name another")));
    word(&[b" >&2; ", builtin, b" exit 126; }; ", builtin, b" echo "], None);
    word(
        &[],
        Some(&said(
            " cannot be entered; this line begins in one that is empty and removed",
        )),
    );
    word(&[b" >&2; PWD="], Some(cwd));
    word(&[b"; }; "], None);
}

/// A command line as the process table has it: of a shell that runs a line, what the line stands for. It may be cut off.
pub fn plain_command_line(command_line: &[u8]) -> Vec<u8> {
    let mut words = command_line.splitn(4, |byte| *byte == 0);
    let (Some(_), Some(b"-c"), Some(script)) = (words.next(), words.next(), words.next()) else {
        return command_line.to_vec();
    };
    if !script.starts_with(b"{ ") {
        return command_line.to_vec();
    }
    let ways = [
        (true, SHOWS[0].1),
        (true, SHOWS[1].1),
        (true, b"".as_slice()),
        (false, b""),
    ];
    let begins = ways.map(|(bash, on)| (bash, [EVAL[usize::from(bash)], on, b"'"].concat()));
    let found = begins.iter().filter_map(|(bash, begin)| {
        let at = find(script, begin)?;
        Some((at, *bash, &script[at + begin.len()..]))
    });
    let Some((_, bash, literal)) = found.min_by_key(|(at, ..)| *at) else {
        return command_line.to_vec();
    };
    let literal = literal.strip_suffix(b"'; }").unwrap_or(literal);
    let mut line = Vec::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(at) = find(rest, b"'\\''") {
        line.extend_from_slice(&rest[..at]);
        line.push(b'\'');
        rest = &rest[at + 4..];
    }
    line.extend_from_slice(rest);
    let name: &[u8] = if bash { b"bash" } else { b"sh" };
    [name, b"-c", &line, b""].join(&0)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// What a line finds of those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The working directory; `None`: the session's first.
    pub cwd: Option<PathBuf>,
    /// The one before it, for `cd -`.
    pub previous_cwd: Option<PathBuf>,
    /// Variables that differ from what every run of the session gets; `None`: it is not there.
    pub variables: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Functions, aliases, options and variables that are not exported, as bash reads them.
    pub text: Vec<u8>,
}

impl Carried {
    /// Variables as they would be written before a command; one that is gone is empty there.
    pub fn assignments(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        let pairs = self.variables.iter();
        pairs.map(|(name, value)| (name.clone(), value.clone().unwrap_or_default()))
    }

    /// What follows it, when a line that was `given` these variables has left something. It need not be what the line began with: what the line
    /// did not change stays as others have made it meanwhile. `base` is what every run of the session gets; `removed` says what no run
    /// may have.
    pub fn after(
        &self,
        left: Left,
        given: &BTreeMap<Vec<u8>, Vec<u8>>,
        base: &BTreeMap<Vec<u8>, Vec<u8>>,
        removed: impl Fn(&[u8]) -> bool,
    ) -> Carried {
        let Left {
            cwd,
            previous_cwd,
            variables: exported,
            text,
        } = left;
        let mut variables = self.variables.clone();
        let ours = |name: &[u8]| OF_THE_SHELL.contains(&name) || name.starts_with(OURS) || removed(name);
        // What it did not change stays as it was before: the run's own variables are the run's.
        for (name, value) in exported.iter().filter(|(name, value)| given.get(*name) != Some(value)) {
            match base.get(name) {
                _ if ours(name) => {}
                Some(same) if same == value => drop(variables.remove(name)),
                _ => drop(variables.insert(name.clone(), Some(value.clone()))),
            }
        }
        // Shells know no other names, and do not hand them on.
        for name in given
            .keys()
            .filter(|name| is_name(name) && !exported.contains_key(*name) && !ours(name))
        {
            match base.contains_key(name) {
                true => drop(variables.insert(name.clone(), None)),
                false => drop(variables.remove(name)),
            }
        }
        let stayed =
            |cwd: &PathBuf| given.get(b"PWD".as_slice()).map(Vec::as_slice) == Some(cwd.as_os_str().as_bytes());
        let cwd = cwd.filter(|cwd| !stayed(cwd));
        let moved = cwd.is_some();
        Carried {
            cwd: cwd.or_else(|| self.cwd.clone()),
            previous_cwd: previous_cwd.filter(|_| moved).or_else(|| self.previous_cwd.clone()),
            variables,
            text: text.unwrap_or_else(|| self.text.clone()),
        }
    }

    /// What a line finds, and the variables that it does nothing but unset. It is started without those, so that one that no rule lets pass can be
    /// taken away.
    pub fn before(self: &Arc<Self>, line: &[u8]) -> (Arc<Carried>, Vec<Vec<u8>>) {
        let is_set = |name: &&[u8]| self.variables.get(*name).is_some_and(Option::is_some);
        let dropped: Vec<Vec<u8>> = unset_alone(line).filter(is_set).map(<[u8]>::to_vec).collect();
        if dropped.is_empty() {
            return (Arc::clone(self), dropped);
        }
        let mut carried = Carried::clone(self);
        for name in &dropped {
            carried.variables.insert(name.clone(), None);
        }
        (Arc::new(carried), dropped)
    }

    /// How what was left is dropped, for somebody who was refused for it with this explanation.
    pub fn how_to_drop(&self, session: &str, explanation: &str) -> String {
        let named = |name: &&str| {
            [format!("`{name}`"), format!("{name}=")]
                .iter()
                .any(|shown| explanation.contains(shown))
        };
        let set = self.variables.iter().filter(|(_, value)| value.is_some());
        let names = set.filter_map(|(name, _)| std::str::from_utf8(name).ok()).filter(named);
        let names: Vec<&str> = names.take(NAMES_TOLD).collect();
        let begin = format!(
            "; this is not because of the line itself, but of what earlier lines of its session left it ({})",
            self.summary()
        );
        let reset = format!("`fumehood session reset {session}` drops all of it");
        match names.as_slice() {
            [] => format!("{begin}: {reset}"),
            names => format!(
                "{begin}: `unset {}` as a line of its own drops that, {reset}",
                names.join(" ")
            ),
        }
    }

    /// What an approver has to know of it, in a few words; empty when there is nothing.
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        if !self.text.is_empty() {
            let digest: [u8; 32] = Sha256::digest(&self.text).into();
            let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            let mut names: Vec<_> = functions(&self.text).take(NAMES_TOLD + 1).collect();
            let more = if names.len() > NAMES_TOLD { ", ..." } else { "" };
            names.truncate(NAMES_TOLD);
            let names = match names.as_slice() {
                [] => String::new(),
                names => format!(", functions {}{more}", names.join(", ")),
            };
            parts.push(format!(
                "{} bytes of functions, aliases and settings (sha256 {digest}...{names})",
                self.text.len()
            ));
        }
        if !self.variables.is_empty() {
            let names = self.variables.keys().take(NAMES_TOLD);
            let names: Vec<_> = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            let more = if self.variables.len() > NAMES_TOLD { ", ..." } else { "" };
            parts.push(format!("variables {}{more}", names.join(", ")));
        }
        parts.join(" and ")
    }
}

/// The names in a line that is nothing but `unset NAME...`; none of any other.
fn unset_alone(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut words = line.split(blank).filter(|word| !word.is_empty()).peekable();
    let unset = words.next() == Some(b"unset");
    words.next_if_eq(&b"-v".as_slice());
    let names = words.collect::<Vec<_>>();
    let alone = unset && names.iter().all(|name| is_name(name));
    names.into_iter().filter(move |_| alone)
}

/// Functions and variables named in a [summary](Carried::summary), at most.
const NAMES_TOLD: usize = 16;

/// Names of the functions in a text, as bash prints them: `name () ` at the beginning of a line.
fn functions(text: &[u8]) -> impl Iterator<Item = String> + '_ {
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(|line| {
        let name = line.strip_suffix(b" () ")?;
        Some(String::from_utf8_lossy(name.strip_prefix(b"function ").unwrap_or(name)).into_owned())
    })
}

/// Whether a shell can have a variable so named.
fn is_name(name: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.first().is_some_and(letter) && name.iter().all(|byte| letter(byte) || byte.is_ascii_digit())
}

/// What a shell left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    cwd: Option<PathBuf>,
    previous_cwd: Option<PathBuf>,
    variables: BTreeMap<Vec<u8>, Vec<u8>>,
    text: Option<Vec<u8>>,
}

/// What is not carried on, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLeft {
    /// The shell ended without a word: it was replaced (`exec`), its line had an EXIT trap of its own or closed descriptor 63.
    #[error("everything, as the shell ended without saying what it had (`exec`, an EXIT trap of the line's own)")]
    Nothing,
    /// It was ended.
    #[error("everything, as the shell was ended by a signal or a limit")]
    Killed,
    /// There is no end to it.
    #[error("everything, as it is more than {MAX_STATE_BYTES} bytes, with the names of variables")]
    TooLong,
    /// Our end of a line writes nothing like it.
    #[error("everything, as what the shell wrote down cannot be read")]
    Unreadable,
    /// Rules about commands could be evaded by it.
    #[error(
        "everything, as functions or aliases were not understood as a script, and the policy has rules about commands"
    )]
    NotUnderstood,
    /// Everything was wanted of a shell that cannot say it.
    #[error(
        "functions, aliases, options and variables that are not exported: only bash says which it has, and the sandbox has none"
    )]
    OnlyEnvironment,
}

impl Left {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not whole, or nothing that our end of a line writes.
    pub fn parse(bytes: &[u8]) -> Result<Left, NotLeft> {
        // Behind the last mark is no record: it was cut off there, or is the beginning of what was not written.
        let whole = bytes.iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
        let mut records = bytes[..whole]
            .split_inclusive(|byte| *byte == 0)
            .map(|record| &record[..record.len() - 1]);
        match records.next() {
            Some(header) if header == HEADER => {}
            Some(b"") | None => return Err(NotLeft::Nothing),
            Some(_) => return Err(NotLeft::Unreadable),
        }
        let mut left = Left::default();
        let mut extra = Extra::default();
        loop {
            match records.next().ok_or(NotLeft::TooLong)? {
                b"end" => break,
                b"e" => loop {
                    let record = records.next().ok_or(NotLeft::TooLong)?;
                    if record.is_empty() {
                        break;
                    }
                    let at = record.iter().position(|byte| *byte == b'=');
                    let at = at.ok_or(NotLeft::Unreadable)?;
                    left.exported(&record[..at], &record[at + 1..]);
                },
                [b'd', list @ ..] => {
                    let mut rest = list;
                    while !rest.is_empty() {
                        let (declared, next) = declare::read(rest).ok_or(NotLeft::Unreadable)?;
                        rest = next;
                        left.declared(declared, &mut extra);
                    }
                }
                [b'f', functions @ ..] => extra.functions = Some(functions),
                [b'a', aliases @ ..] => extra.aliases = aliases,
                _ => return Err(NotLeft::Unreadable),
            }
        }
        left.text = extra.functions.map(|functions| extra.text(functions));
        Ok(left)
    }

    /// Keeps what is wanted, and says what of that the shell did not leave.
    pub fn keep(&mut self, carry: Carry) -> Option<NotLeft> {
        if carry != Carry::Everything {
            self.text = None;
            return None;
        }
        self.text.is_none().then_some(NotLeft::OnlyEnvironment)
    }

    /// Whether its text is a script by itself, so that what follows it is read as if it stood alone.
    pub fn is_understood(&self) -> bool {
        let text = self.text.as_deref().unwrap_or_default();
        std::str::from_utf8(text).is_ok_and(fumehood_policies::command::stands_alone)
    }

    fn exported(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"PWD" => self.cwd = directory(value),
            b"OLDPWD" => self.previous_cwd = directory(value),
            // What a command could not be started with is left behind.
            _ if is_name(name) && name.len() + value.len() + 2 <= MAX_VARIABLE_BYTES => {
                self.variables.insert(name.to_vec(), value.to_vec());
            }
            _ => {}
        }
    }

    fn declared<'a>(&mut self, declared: Declared<'a>, extra: &mut Extra<'a>) {
        let scalar = declared.scalar();
        match (declared.name, &scalar) {
            (b"PWD" | b"OLDPWD", Some(value)) => self.exported(declared.name, value),
            (name, Some(value)) if declared.has(b'x') => {
                self.exported(name, value);
                extra.variable(&declared, Some(value));
            }
            (b"BASHOPTS", Some(value)) => extra.note(1, value),
            (b"SHELLOPTS", Some(value)) => extra.note(3, value),
            (b"__fumehood_b", Some(value)) => extra.note(0, value),
            (b"__fumehood_o", Some(value)) => extra.note(2, value),
            _ => extra.variable(&declared, scalar.as_deref()),
        }
    }
}

fn directory(bytes: &[u8]) -> Option<PathBuf> {
    let usable = bytes.starts_with(b"/") && bytes.len() <= MAX_PATH_BYTES && !bytes.starts_with(GONE);
    usable.then(|| PathBuf::from(OsStr::from_bytes(bytes)))
}

/// Variables that bash has by itself, or that are no line's to hand on; those that begin with `BASH`, `COMP_` and `EPOCH` too.
const OF_BASH: &[&[u8]] = &[
    b"DIRSTACK",
    b"EUID",
    b"FUNCNAME",
    b"GROUPS",
    b"HISTCMD",
    b"HOSTNAME",
    b"HOSTTYPE",
    b"LINENO",
    b"MACHTYPE",
    b"OPTERR",
    b"OPTIND",
    b"OSTYPE",
    b"PIPESTATUS",
    b"PPID",
    b"RANDOM",
    b"SECONDS",
    b"SHELL",
    b"SHLVL",
    b"SRANDOM",
    b"TERM",
    b"UID",
    b"_",
];

/// What bash left beyond its environment.
#[derive(Default)]
struct Extra<'a> {
    /// Options of shopt before and after, of set before and after.
    options: [Vec<String>; 4],
    variables: Vec<u8>,
    functions: Option<&'a [u8]>,
    aliases: &'a [u8],
}

impl Extra<'_> {
    fn note(&mut self, which: usize, list: &[u8]) {
        let list = String::from_utf8_lossy(list);
        let plain = |name: &&str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        self.options[which] = list.split(':').filter(plain).map(str::to_owned).collect();
    }

    fn variable(&mut self, declared: &Declared<'_>, scalar: Option<&[u8]>) {
        let name = declared.name;
        let of_bash = OF_BASH.contains(&name)
            || [OURS, b"BASH", b"COMP_", b"EPOCH"]
                .iter()
                .any(|begin| name.starts_with(begin));
        let usual = matches!((name, scalar), (b"IFS", Some(b" \t\n")) | (b"PS4", Some(b"+ ")));
        // A number's value is evaluated when it is set, and a reference stands for another.
        // Whatever its environment says, bash begins with an IFS of its own.
        let from_environment = declared.has(b'x') && name != b"IFS";
        if of_bash || usual || from_environment || declared.has(b'n') || declared.has(b'i') && !declared.is_numbers() {
            return;
        }
        match scalar {
            Some(value) if declared.is_plain() => {
                self.variables.extend_from_slice(name);
                self.variables.push(b'=');
                quote(value, &mut self.variables);
                self.variables.push(b'\n');
            }
            _ => self.variables.extend_from_slice(declared.raw),
        }
    }

    /// As bash takes it on: what changes how text is read comes before the functions, what could break off comes last.
    fn text(&self, functions: &[u8]) -> Vec<u8> {
        let changed = |before: usize, after: usize, on: &str, off: &str| {
            let (before, after) = (&self.options[before], &self.options[after]);
            let new = after.iter().filter(|name| !before.contains(name));
            let gone = before.iter().filter(|name| !after.contains(name));
            let gone = gone.map(|name| format!("{off} {name}\n"));
            // In this order; see [`SHOWS`].
            let (mut new, shown): (Vec<_>, Vec<_>) =
                new.partition(|name| !["verbose", "xtrace"].contains(&name.as_str()));
            new.extend(shown);
            gone.chain(new.iter().map(|name| format!("{on} {name}\n")))
                .collect::<String>()
        };
        let mut text = changed(0, 1, "shopt -s", "shopt -u").into_bytes();
        extend_readable(functions, &mut text);
        text.extend_from_slice(&self.variables);
        text.extend_from_slice(self.aliases);
        text.extend(changed(2, 3, "set -o", "set +o").into_bytes());
        text
    }
}

/// Functions as bash prints them, so that it reads them: it takes `a=b ()` and `a[b ()` for assignments, unless `function` stands before.
fn extend_readable(functions: &[u8], into: &mut Vec<u8>) {
    let mut lines = functions.split_inclusive(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let name = line.strip_suffix(b" () \n").unwrap_or_default();
        let odd = name.iter().any(|byte| b"=[".contains(byte)) && !name.contains(&b' ');
        if odd && lines.peek() == Some(&b"{ \n".as_slice()) {
            into.extend_from_slice(b"function ");
        }
        into.extend_from_slice(line);
    }
}

/// A value in single quotes.
fn quote(value: &[u8], into: &mut Vec<u8>) {
    into.push(b'\'');
    for byte in value {
        match byte {
            b'\'' => into.extend_from_slice(b"'\\''"),
            byte => into.push(*byte),
        }
    }
    into.push(b'\'');
}

/// The daemon's end of descriptor 63.
#[derive(Debug)]
pub struct StateFile(OwnedFd);

impl StateFile {
    /// A file of fixed size with the text for a shell to take on.
    ///
    /// # Errors
    /// When the kernel gives no memory, or the text is too long.
    pub fn new(text: &[u8]) -> io::Result<StateFile> {
        if text.len() >= MAX_STATE_BYTES - TEXT_BEGINS.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let text = &[TEXT_BEGINS, shows(text).0].concat()[..];
        let fd = memfd_create(c"fumehood-state", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&fd, 2 * MAX_STATE_BYTES as i64)?;
        // Everybody's, as the command may be another user; and sticky, by which the shell knows it from a file that a line opened in its place.
        fchmod(&fd, Mode::from_bits_truncate(0o1777))?;
        let mut written = 0;
        while written < text.len() {
            written += pwrite(&fd, &text[written..], (MAX_STATE_BYTES + written) as i64)?;
        }
        lseek(&fd, MAX_STATE_BYTES as i64, Whence::SeekSet)?;
        let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(StateFile(fd))
    }

    /// The shell's end.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn for_shell(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    /// What the shell left.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn left(&self) -> Result<Left, NotLeft> {
        // Most leave little. A copy: who still has the file open may go on writing.
        let mut found = Err(NotLeft::Unreadable);
        for most in [1 << 16, MAX_STATE_BYTES] {
            let mut bytes = vec![0; most];
            let mut read = 0;
            while read < most {
                match pread(&self.0, &mut bytes[read..], read as i64) {
                    Ok(0) => break,
                    Ok(more) => read += more,
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(_) => return Err(NotLeft::Unreadable),
                }
            }
            found = Left::parse(&bytes[..read]);
            if matches!(found, Ok(_) | Err(NotLeft::Nothing)) {
                break;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests;
