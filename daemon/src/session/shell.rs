//! Lines for a shell: how one is started, and what it leaves for the next line of its session.
//!
//! A line is executed by a shell that first enters the directory and takes on what the last line left, then evaluates the line, and at its
//! end writes down what there is: into a memory file, descriptor 63, and never by way of output. The daemon makes the file, reads it when the shell
//! has ended, and believes nothing of it: a command may have written there. What it could claim is what any line could do, so what is carried is
//! held against the policy like the request's own: variables as if they were written before the command, functions and the like as text
//! before the line.
//!
//! ```text
//! 0           what the shell leaves: records, each with a NUL behind it
//!   fumehood-1, the working directory, the one before it
//!   NAME=value ... of every exported variable, then an empty record
//!   of bash, where everything is wanted: b B o O (options before and after)  v (NAME=value)  d (declare ...)  f (functions)  a (aliases)
//!   end
//! 1 MiB       what the shell is to take on: text and a NUL
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{Whence, ftruncate, lseek};

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
const HEADER: &[u8] = b"fumehood-1";

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
        let (first, last, builtin) = match self.bash {
            true => (
                include_str!("shell/begin.bash"),
                include_str!("shell/end.bash"),
                "\\builtin",
            ),
            false => (
                include_str!("shell/begin.sh"),
                include_str!("shell/end.sh"),
                "\\command",
            ),
        };
        // In one line, and a group: a line with a quote too few must not swallow what follows it, and lines count from 1.
        let script = format!(
            "{{ {builtin} eval \"$2\"; {builtin} eval \"$__fumehood_line\"; \
             {{ {builtin} eval \"$__fumehood_left\"; {builtin} exit \"$__fumehood_status\"; }} 2>/dev/null; }}"
        );
        let mode = [
            (!begin.text.is_empty() && self.bash, 'r'),
            (carry != Carry::Nothing, 's'),
            (carry == Carry::Everything && self.bash, 'e'),
        ];
        let mode: String = mode.iter().filter(|(is, _)| *is).map(|(_, letter)| *letter).collect();
        let path = |path: Option<&Path>| {
            path.map(|path| path.as_os_str().as_bytes().to_vec())
                .unwrap_or_default()
        };
        vec![
            self.path.as_os_str().as_bytes().to_vec(),
            b"-c".to_vec(),
            script.into_bytes(),
            self.name().into(),
            line.to_vec(),
            first.into(),
            last.replace("@NAMES@", &every_name()).into_bytes(),
            path(cwd),
            path(begin.previous_cwd.as_deref()),
            mode.into_bytes(),
        ]
    }

    /// Whether a line needs the descriptor: to leave something, or to be given text.
    pub fn needs_state(&self, begin: &Carried, carry: Carry) -> bool {
        carry != Carry::Nothing || (self.bash && !begin.text.is_empty())
    }
}

/// What bash makes into the names of all variables, without a process: each letter that a name can begin with.
fn every_name() -> String {
    let letters = ('a'..='z').chain('A'..='Z').chain(['_']);
    letters.fold(String::new(), |mut all, letter| {
        let _ = write!(all, "\"${{!{letter}@}}\" ");
        all
    })
}

/// A command line as the process table has it: of a shell that runs a line, what the line stands for.
pub fn plain_command_line(command_line: &[u8]) -> Vec<u8> {
    let words: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    match words.as_slice() {
        [_, b"-c", script, name, line, ..] if script.windows(17).any(|part| part == b"\"$__fumehood_line") => {
            [name, &b"-c"[..], line, b""].join(&0)
        }
        _ => command_line.to_vec(),
    }
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

    /// What follows it, when a line that began with it and was `given` these variables has left something. `base` is what every run of the
    /// session gets; `removed` says what no run may have.
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
        Carried {
            cwd: cwd.filter(|cwd| !stayed(cwd)).or_else(|| self.cwd.clone()),
            previous_cwd: previous_cwd.or_else(|| self.previous_cwd.clone()),
            variables,
            text: text.unwrap_or_else(|| self.text.clone()),
        }
    }
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

impl Left {
    /// Reads it. `None`: it is not whole, or nothing that our end of a line writes.
    pub fn parse(bytes: &[u8]) -> Option<Left> {
        let mut records = bytes.split(|byte| *byte == 0);
        if records.next()? != HEADER {
            return None;
        }
        let mut left = Left {
            cwd: directory(records.next()?),
            previous_cwd: directory(records.next()?),
            ..Left::default()
        };
        loop {
            let record = records.next()?;
            if record.is_empty() {
                break;
            }
            let at = record.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&record[..at], &record[at + 1..]);
            // What a command could not be started with is left behind.
            if is_name(name) && record.len() < MAX_VARIABLE_BYTES {
                left.variables.insert(name.to_vec(), value.to_vec());
            }
        }
        let mut extra = Extra::default();
        let mut some = false;
        loop {
            // What is behind the mark is no record, so one more must follow.
            match records.next()? {
                b"end" if records.next().is_some() => break,
                [kind, rest @ ..] => {
                    some = true;
                    extra.take(*kind, rest)?;
                }
                [] => return None,
            }
        }
        left.text = some.then(|| extra.text());
        Some(left)
    }
}

fn directory(bytes: &[u8]) -> Option<PathBuf> {
    let usable = bytes.starts_with(b"/") && bytes.len() <= MAX_PATH_BYTES && !bytes.starts_with(GONE);
    usable.then(|| PathBuf::from(OsStr::from_bytes(bytes)))
}

/// What bash left beyond its environment.
#[derive(Default)]
struct Extra<'a> {
    options: BTreeMap<u8, Vec<&'a str>>,
    variables: Vec<u8>,
    functions: &'a [u8],
    aliases: &'a [u8],
}

impl<'a> Extra<'a> {
    fn take(&mut self, kind: u8, rest: &'a [u8]) -> Option<()> {
        match kind {
            b'b' | b'B' | b'o' | b'O' => {
                let list = std::str::from_utf8(rest).ok()?;
                let names = list.split(':').filter(|name| !name.is_empty());
                let plain = |name: &&str| {
                    name.bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
                };
                self.options.insert(kind, names.filter(plain).collect());
            }
            b'v' => {
                let at = rest.iter().position(|byte| *byte == b'=')?;
                let (name, value) = (&rest[..at], &rest[at + 1..]);
                let usual = matches!((name, value), (b"IFS", b" \t\n") | (b"PS4", b"+ "));
                if is_name(name) && !usual {
                    self.variables.extend_from_slice(name);
                    self.variables.push(b'=');
                    quote(value, &mut self.variables);
                    self.variables.push(b'\n');
                }
            }
            b'd' => self.variables.extend_from_slice(rest),
            b'f' => self.functions = rest,
            b'a' => self.aliases = rest,
            _ => return None,
        }
        Some(())
    }

    /// As bash takes it on: what changes how text is read comes before the functions, what could break off comes last.
    fn text(&self) -> Vec<u8> {
        let names = |kind: u8| self.options.get(&kind).map(Vec::as_slice).unwrap_or_default();
        let changed = |before: u8, after: u8, on: &str, off: &str| {
            let (before, after) = (names(before), names(after));
            let new = after
                .iter()
                .filter(|name| !before.contains(name))
                .map(|name| format!("{on} {name}\n"));
            let gone = before
                .iter()
                .filter(|name| !after.contains(name))
                .map(|name| format!("{off} {name}\n"));
            new.chain(gone).collect::<String>()
        };
        let mut text = changed(b'b', b'B', "shopt -s", "shopt -u").into_bytes();
        text.extend_from_slice(self.functions);
        text.extend_from_slice(&self.variables);
        text.extend_from_slice(self.aliases);
        text.extend(changed(b'o', b'O', "set -o", "set +o").into_bytes());
        text
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
        if text.len() >= MAX_STATE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
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

    /// What the shell left, if that is whole.
    pub fn left(&self) -> Option<Left> {
        // Most leave little. A copy: who still has the file open may go on writing.
        for most in [1 << 16, MAX_STATE_BYTES] {
            let mut bytes = vec![0; most];
            let mut read = 0;
            while read < most {
                match pread(&self.0, &mut bytes[read..], read as i64) {
                    Ok(0) => break,
                    Ok(more) => read += more,
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(_) => return None,
                }
            }
            if let Some(left) = Left::parse(&bytes[..read]) {
                return Some(left);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
