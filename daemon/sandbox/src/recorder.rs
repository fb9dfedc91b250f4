//! What a command asks for, noted: the calls that name files and addresses wait until init has read what they name, and then go on.
//!
//! A hint and no protection. Init looks at the caller's memory, which another thread can change before the kernel looks, and whether the call
//! succeeds is not known; so nothing is decided here, and every call that is noted goes on as if nobody had looked. What came of it:
//! whether the path was there when it was first asked for.
//!
//! A call that was noted before costs its round trip and one read of the caller's memory (about 10 µs together); one that is new some ten
//! calls more. What the kernel opens by itself makes no call: of an executed file, the interpreter that its first line names and its
//! loader are noted here.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};

use crate::command::DEFAULT_PATH;
use crate::event::{Event, Observation, Purpose, Target};
use crate::guard::{Caller, of_caller};
use crate::ports;
use crate::processes;
use crate::seccomp::{Arch, Call, Notify, When};
use crate::spec::CommandSpec;
use crate::sys::notify::Notification;

/// What is kept, at most: a build of a large project asks for some ten thousand paths.
const MAX_OBSERVATIONS: usize = 65_536;

/// The same in bytes of paths.
const MAX_BYTES: usize = 8 << 20;

/// What is told in one event, in bytes of paths and about so much for the rest: well below the bound of a message.
const BATCH_BYTES: usize = 16 << 10;
const OVERHEAD_BYTES: usize = 32;

/// Longest name of a program that is told, in bytes.
const MAX_PROGRAM_BYTES: usize = 64;

/// How often the processes are counted, at most.
const COUNT_PERIOD: Duration = Duration::from_millis(20);

/// Part of an executed file that is read: the first line of a script (`BINPRM_BUF_SIZE` of linux/binfmts.h is 256), the headers of a program.
const HEAD_BYTES: usize = 4096;

/// Interpreters of interpreters that are followed (`fs/exec.c` follows five).
const MAX_INTERPRETERS: usize = 5;

/// Symbolic links on one way, at most (`MAXSYMLINKS` of the kernel).
const MAX_LINKS: usize = 40;

/// A row that always holds.
const fn always(call: Call) -> Notify {
    Notify { call, when: &[] }
}

/// The calls that are looked at. Where a descriptor alone is asked about (`AT_EMPTY_PATH`: every fstat(2) of the C library), no name is
/// given and nothing waits.
pub(crate) const WATCHED: &[Notify] = &[
    always(Call::open),
    always(Call::openat),
    always(Call::openat2),
    always(Call::creat),
    always(Call::stat),
    always(Call::lstat),
    always(Call::access),
    always(Call::faccessat),
    always(Call::faccessat2),
    Notify {
        call: Call::newfstatat,
        when: &[When::Masked(3, libc::AT_EMPTY_PATH as u32, 0)],
    },
    Notify {
        call: Call::statx,
        when: &[When::Masked(2, libc::AT_EMPTY_PATH as u32, 0)],
    },
    always(Call::readlink),
    always(Call::readlinkat),
    always(Call::chdir),
    always(Call::execve),
    always(Call::execveat),
    always(Call::mkdir),
    always(Call::mkdirat),
    always(Call::mknod),
    always(Call::mknodat),
    always(Call::rmdir),
    always(Call::unlink),
    always(Call::unlinkat),
    always(Call::rename),
    always(Call::renameat),
    always(Call::renameat2),
    always(Call::link),
    always(Call::linkat),
    always(Call::symlink),
    always(Call::symlinkat),
    always(Call::truncate),
    always(Call::chmod),
    always(Call::fchmodat),
    always(Call::fchmodat2),
    always(Call::chown),
    always(Call::lchown),
    always(Call::fchownat),
    always(Call::utime),
    always(Call::utimes),
    always(Call::futimesat),
    Notify {
        call: Call::utimensat,
        when: &[When::NotNull(1)],
    },
    always(Call::setxattr),
    always(Call::lsetxattr),
    always(Call::removexattr),
    always(Call::lremovexattr),
    always(Call::connect),
    always(Call::bind),
];

/// A path that a call names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    directory: i32,
    address: u64,
    purposes: &'static [Purpose],
    /// Whether a symbolic link at its end is meant itself.
    link_itself: bool,
}

/// What is known of a path.
#[derive(Debug)]
struct Known {
    /// A bit for each purpose that was told.
    told: u8,
    existed: bool,
    directory: bool,
}

/// Notes what one sandbox's command asks for.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Paths as they were given, absolute, with the purposes that were noted: what is asked for again needs no further look.
    given: HashMap<PathBuf, u8>,
    known: HashMap<PathBuf, Known>,
    addresses: HashMap<(SocketAddr, Purpose), ()>,
    bytes: usize,
    waiting: Vec<Observation>,
    waiting_bytes: usize,
    lost: u64,
    lost_told: u64,
    tasks: u32,
    tasks_told: u32,
    counted: Option<Instant>,
}

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder {
            given: HashMap::new(),
            known: HashMap::new(),
            addresses: HashMap::new(),
            bytes: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            lost: 0,
            lost_told: 0,
            tasks: 0,
            tasks_told: 0,
            counted: None,
        }
    }

    /// What is to be told now: enough for an event, or with `all` whatever there is.
    pub(crate) fn take(&mut self, all: bool) -> Option<Event> {
        let counts = self.lost > self.lost_told || self.tasks > self.tasks_told;
        if self.waiting_bytes < BATCH_BYTES && !(all && (counts || !self.waiting.is_empty())) {
            return None;
        }
        (self.lost_told, self.tasks_told) = (self.lost, self.tasks);
        // No more than a message takes; the rest goes with the next call.
        let mut bytes = 0;
        let fits = |observation: &&Observation| {
            bytes += cost(observation);
            bytes <= BATCH_BYTES + OVERHEAD_BYTES + libc::PATH_MAX as usize
        };
        let count = self.waiting.iter().take_while(fits).count();
        let observations: Vec<_> = self.waiting.drain(..count).collect();
        self.waiting_bytes -= observations.iter().map(cost).sum::<usize>();
        Some(Event::Recorded {
            observations,
            lost: self.lost,
            tasks: self.tasks,
        })
    }

    /// Notes a call. What cannot be read is passed over: the kernel will not be able to either.
    pub(crate) fn note(&mut self, listener: BorrowedFd<'_>, call: &Notification) {
        let caller = Caller {
            thread: call.thread,
            listener,
            id: call.id,
        };
        let name = u32::try_from(call.number)
            .ok()
            .and_then(|number| Call::of(Arch::NATIVE, number));
        let Some(name) = name else { return };
        self.count_tasks();
        if matches!(name, Call::connect | Call::bind) {
            self.note_address(caller, name, call.arguments);
        }
        for named in named(name, call.arguments, |address| flags_of_how(caller, address)) {
            self.note_path(caller, named);
        }
    }

    fn note_path(&mut self, caller: Caller<'_>, named: Named) {
        let Ok(path) = caller.string(named.address) else { return };
        if path.is_empty() {
            return;
        }
        let given = OsStr::from_bytes(path.to_bytes());
        let path = match given.as_bytes().starts_with(b"/") {
            true => PathBuf::from(of_caller(caller, given)),
            false => match caller.base(named.directory) {
                Ok(base) => base.join(given),
                Err(_) => return,
            },
        };
        self.note_absolute(Some(caller), path, named.purposes, named.link_itself);
    }

    /// Notes the command itself: what execvp(3) is going to try until it finds `program`. Its execve cannot be looked at: until then its
    /// memory is a copy of init's, which nobody may read.
    pub(crate) fn note_command(&mut self, command: &CommandSpec) {
        let Some(program) = command.argv.first().filter(|program| !program.is_empty()) else {
            return;
        };
        if program.as_bytes().contains(&b'/') {
            return self.note_absolute(None, command.cwd.join(program), &[Purpose::Execute], false);
        }
        let path = command.env.iter().rev().find(|(name, _)| name == "PATH");
        let directories = path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value.as_os_str());
        for directory in directories.as_bytes().split(|byte| *byte == b':') {
            let candidate = command.cwd.join(OsStr::from_bytes(directory)).join(program);
            let found = Found::at(&candidate, false).file.is_some();
            self.note_absolute(None, candidate, &[Purpose::Execute], false);
            if found {
                return;
            }
        }
    }

    /// Without a caller, it is init that asks for the command.
    fn note_absolute(&mut self, caller: Option<Caller<'_>>, given: PathBuf, purposes: &[Purpose], link_itself: bool) {
        let bits = purposes.iter().fold(0, |bits, purpose| bits | bit(*purpose));
        if self.given.get(&given).is_some_and(|known| known & bits == bits) {
            return;
        }
        // A file system of the kernel's own says nothing about what is on disk.
        if ["/proc", "/sys", "/dev"].iter().any(|own| given.starts_with(own)) {
            return;
        }
        if self.given.len() >= MAX_OBSERVATIONS && !self.given.contains_key(&given) {
            self.lost += 1;
            return;
        }
        let found = Found::at(&given, link_itself);
        // Whoever waits no more may have left its number to another, whose memory was read.
        if caller.is_some_and(|caller| !caller.waits()) {
            return;
        }
        let mut paths = vec![match has_parent_part(&given) {
            // Where a part is a link, `..` leads elsewhere than the text says.
            true => found.real.clone().unwrap_or_else(|| normal(&given)),
            false => normal(&given),
        }];
        let is_elsewhere = found.real.as_ref().is_some_and(|real| *real != paths[0]);
        if purposes != [Purpose::Look] && is_elsewhere {
            let link = Found {
                existed: true,
                directory: false,
                real: None,
                file: None,
            };
            for path in links(&given) {
                self.keep(caller, &path, Purpose::Read, &link);
            }
        }
        paths.extend(found.real.clone().filter(|_| is_elsewhere));
        for path in paths {
            for purpose in purposes {
                let purpose = match purpose {
                    Purpose::Read if found.directory => Purpose::List,
                    other => *other,
                };
                self.keep(caller, &path, purpose, &found);
            }
        }
        if purposes.contains(&Purpose::Execute)
            && let Some(file) = &found.file
        {
            self.note_interpreters(caller, file);
        }
        *self.given.entry(given).or_default() |= bits;
    }

    fn keep(&mut self, caller: Option<Caller<'_>>, path: &Path, purpose: Purpose, found: &Found) {
        if let Some(known) = self.known.get_mut(path) {
            if known.told & bit(purpose) != 0 {
                return;
            }
            known.told |= bit(purpose);
        } else {
            let bytes = path.as_os_str().len();
            if self.known.len() >= MAX_OBSERVATIONS || self.bytes + bytes > MAX_BYTES {
                self.lost += 1;
                return;
            }
            self.bytes += bytes;
            let known = Known {
                told: bit(purpose),
                existed: found.existed,
                directory: found.directory,
            };
            self.known.insert(path.to_owned(), known);
        }
        let Some(known) = self.known.get(path) else { return };
        let observation = Observation {
            target: Target::Path(path.as_os_str().as_bytes().to_vec()),
            purpose,
            existed: known.existed,
            directory: known.directory,
            program: caller.map(program).unwrap_or_default(),
        };
        self.push(observation);
    }

    fn push(&mut self, observation: Observation) {
        self.waiting_bytes += cost(&observation);
        self.waiting.push(observation);
    }

    /// The interpreter that a script's first line names, the loader that a program names, and theirs.
    fn note_interpreters(&mut self, caller: Option<Caller<'_>>, file: &OwnedFd) {
        let mut head = head(file);
        for _ in 0..MAX_INTERPRETERS {
            let Some(path) = head.as_deref().and_then(interpreter) else {
                return;
            };
            let found = Found::at(&path, false);
            self.keep(caller, &normal(&path), Purpose::Execute, &found);
            if let Some(real) = found.real.as_ref().filter(|real| **real != path) {
                self.keep(caller, real, Purpose::Execute, &found);
                for link in links(&path) {
                    self.keep(caller, &link, Purpose::Execute, &found);
                }
            }
            head = found.file.as_ref().and_then(self::head);
        }
    }

    fn note_address(&mut self, caller: Caller<'_>, name: Call, [_, address, length, ..]: [u64; 6]) {
        let purpose = if name == Call::bind {
            Purpose::Bind
        } else {
            Purpose::Connect
        };
        // `sizeof(struct sockaddr_un)`.
        let length = usize::try_from(length).unwrap_or(0).min(110);
        let Ok(bytes) = caller.bytes(address, length) else {
            return;
        };
        let Some(family) = bytes
            .first_chunk()
            .map(|bytes| libc::sa_family_t::from_ne_bytes(*bytes))
        else {
            return;
        };
        if i32::from(family) == libc::AF_UNIX {
            let path = bytes[2..].split(|byte| *byte == 0).next().unwrap_or_default();
            // One with an abstract name begins with NUL and is the sandbox's own.
            if path.is_empty() {
                return;
            }
            let path = OsStr::from_bytes(path);
            let path = match path.as_bytes().starts_with(b"/") {
                true => PathBuf::from(path),
                false => match caller.base(libc::AT_FDCWD) {
                    Ok(base) => base.join(path),
                    Err(_) => return,
                },
            };
            let purposes: &[_] = if purpose == Purpose::Bind {
                &[Purpose::Write]
            } else {
                &[Purpose::Connect]
            };
            self.note_absolute(Some(caller), path, purposes, true);
            return;
        }
        let Some(address) = ports::parse(&bytes[..length.min(ports::ADDRESS_BYTES)]) else {
            return;
        };
        if !caller.waits() || self.addresses.contains_key(&(address, purpose)) {
            return;
        }
        if self.addresses.len() >= MAX_OBSERVATIONS {
            self.lost += 1;
            return;
        }
        self.addresses.insert((address, purpose), ());
        self.push(Observation {
            target: Target::Address(address),
            purpose,
            existed: true,
            directory: false,
            program: program(caller),
        });
    }

    /// Counts processes and threads, now and then.
    fn count_tasks(&mut self) {
        let now = Instant::now();
        if self.counted.is_some_and(|counted| now < counted + COUNT_PERIOD) {
            return;
        }
        // `num_threads` is field 20 of proc_pid_stat(5); `fields` begins with field 3. Init itself is none of the command's.
        let tasks: u32 = processes::all()
            .filter(|(pid, _)| *pid != 1)
            .filter_map(|(_, stat)| stat.fields.get(17)?.parse::<u32>().ok())
            .sum();
        self.tasks = self.tasks.max(tasks);
        // Counting many takes its time, and is no reason to hold everybody up.
        self.counted = Some(now + now.elapsed() * 10);
    }
}

/// What is at a path, as the sandbox shows it to init: the same tree, and the same user.
struct Found {
    existed: bool,
    directory: bool,
    /// Without symbolic links; for what does not exist, as far as its parent leads.
    real: Option<PathBuf>,
    /// Where it is a regular file.
    file: Option<OwnedFd>,
}

impl Found {
    fn at(path: &Path, link_itself: bool) -> Found {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let nofollow = if link_itself { OFlags::NOFOLLOW } else { OFlags::empty() };
        let open = |path: &Path, flags| rustix::fs::open(path, flags, Mode::empty()).ok();
        let Some(file) = open(path, flags | nofollow) else {
            let parent = path.parent().and_then(|parent| open(parent, flags));
            let real = parent.as_ref().and_then(path_of).zip(path.file_name());
            return Found {
                existed: false,
                directory: false,
                real: real.map(|(parent, name)| parent.join(name)),
                file: None,
            };
        };
        let kind = rustix::fs::fstat(&file)
            .ok()
            .map(|stat| FileType::from_raw_mode(stat.st_mode));
        Found {
            existed: true,
            directory: kind == Some(FileType::Directory),
            real: path_of(&file),
            file: Some(file).filter(|_| kind == Some(FileType::RegularFile)),
        }
    }
}

fn path_of(fd: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
}

/// The beginning of a regular file.
fn head(file: &OwnedFd) -> Option<Vec<u8>> {
    let file = std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let mut bytes = vec![0; HEAD_BYTES];
    let length = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// The path of the interpreter that the beginning of a file names: after `#!`, or `PT_INTERP` of a program of 64 bits (elf(5)).
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let path = if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?.trim_ascii_start();
        line.split(|byte| byte.is_ascii_whitespace()).next()?
    } else {
        const CLASS_64: u8 = 2;
        const PT_INTERP: u32 = 3;
        if !head.starts_with(b"\x7fELF") || head.get(4) != Some(&CLASS_64) {
            return None;
        }
        let word = |at: usize| Some(u64::from_ne_bytes(*head.get(at..)?.first_chunk()?));
        let half = |at: usize| Some(u16::from_ne_bytes(*head.get(at..)?.first_chunk()?));
        let (table, size, count) = (usize::try_from(word(32)?).ok()?, half(54)?, half(56)?);
        let row = (0..count)
            .filter_map(|row| table.checked_add(usize::from(row) * usize::from(size)))
            .find(|row| {
                let kind = head.get(*row..).and_then(|bytes| bytes.first_chunk());
                kind.is_some_and(|kind| u32::from_ne_bytes(*kind) == PT_INTERP)
            })?;
        let from = usize::try_from(word(row.checked_add(8)?)?).ok()?;
        let length = usize::try_from(word(row.checked_add(32)?)?).ok()?;
        let bytes = head.get(from..from.checked_add(length)?)?;
        bytes.split(|byte| *byte == 0).next()?
    };
    Some(PathBuf::from(OsStr::from_bytes(path))).filter(|path| path.is_absolute())
}

/// The name of the caller's program.
fn program(caller: Caller<'_>) -> Vec<u8> {
    let path = std::fs::read_link(format!("/proc/{}/exe", caller.thread)).unwrap_or_default();
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    name[..name.len().min(MAX_PROGRAM_BYTES)].to_vec()
}

fn bit(purpose: Purpose) -> u8 {
    1 << purpose as u8
}

fn cost(observation: &Observation) -> usize {
    let path = match &observation.target {
        Target::Path(path) => path.len(),
        Target::Address(_) => 0,
    };
    path + observation.program.len() + OVERHEAD_BYTES
}

fn has_parent_part(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

/// The symbolic links on the way to where a path leads, each without links before it: who is to follow the path must see them.
fn links(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut at = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = path.components().filter_map(name_of).collect();
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(name);
        if found.len() >= MAX_LINKS {
            break;
        }
        let Ok(target) = std::fs::read_link(&at) else { continue };
        found.push(at.clone());
        if target.is_absolute() {
            at = PathBuf::from("/");
        } else {
            at.pop();
        }
        for name in target.components().rev().filter_map(name_of) {
            rest.push_front(name);
        }
    }
    found
}

fn name_of(part: Component<'_>) -> Option<OsString> {
    matches!(part, Component::Normal(_) | Component::ParentDir).then(|| part.as_os_str().to_owned())
}

/// An absolute path without `.`, `..` and doubled slashes, by its text.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            _ => {}
        }
    }
    normal
}

/// `struct open_how` begins with the flags.
fn flags_of_how(caller: Caller<'_>, address: u64) -> u32 {
    caller.words::<1>(address).map_or(0, |[flags]| flags as u32)
}

/// The purposes of open(2)'s flags.
fn purposes_of(flags: u32) -> &'static [Purpose] {
    let has = |bits: i32| flags & bits as u32 == bits as u32;
    let writes = flags & (libc::O_CREAT | libc::O_TRUNC) as u32 != 0;
    match flags as i32 & libc::O_ACCMODE {
        _ if has(libc::O_PATH) => &[Purpose::Look],
        // A file without a name: in the directory.
        _ if has(libc::O_TMPFILE) => &[Purpose::Write],
        _ if has(libc::O_DIRECTORY) => &[Purpose::List],
        libc::O_WRONLY => &[Purpose::Write],
        libc::O_RDONLY if !writes => &[Purpose::Read],
        _ => &[Purpose::Read, Purpose::Write],
    }
}

/// The paths that a call names. `how` reads the flags of openat2(2).
fn named(call: Call, arguments: [u64; 6], how: impl Fn(u64) -> u32) -> Vec<Named> {
    use Purpose::{Execute, Look, Read, Write};
    let flag = |argument: usize, bit: i32| arguments[argument] as i32 & bit != 0;
    let at = |directory: Option<usize>, path: usize, purposes: &'static [Purpose], link_itself: bool| Named {
        directory: directory.map_or(libc::AT_FDCWD, |argument| arguments[argument] as i32),
        address: arguments[path],
        purposes,
        link_itself,
    };
    let opened = |directory, path, flags: u32| {
        vec![at(
            directory,
            path,
            purposes_of(flags),
            flags & libc::O_NOFOLLOW as u32 != 0,
        )]
    };
    const NOFOLLOW: i32 = libc::AT_SYMLINK_NOFOLLOW;
    match call {
        Call::open => opened(None, 0, arguments[1] as u32),
        Call::creat => vec![at(None, 0, &[Write], false)],
        Call::openat => opened(Some(0), 1, arguments[2] as u32),
        Call::openat2 => opened(Some(0), 1, how(arguments[2])),
        Call::stat | Call::access | Call::chdir => vec![at(None, 0, &[Look], false)],
        Call::lstat | Call::readlink => vec![at(None, 0, &[Look], true)],
        Call::faccessat => vec![at(Some(0), 1, &[Look], false)],
        Call::faccessat2 | Call::newfstatat => vec![at(Some(0), 1, &[Look], flag(3, NOFOLLOW))],
        Call::statx => vec![at(Some(0), 1, &[Look], flag(2, NOFOLLOW))],
        Call::readlinkat => vec![at(Some(0), 1, &[Look], true)],
        Call::execve => vec![at(None, 0, &[Execute], false)],
        Call::execveat => vec![at(Some(0), 1, &[Execute], flag(4, NOFOLLOW))],
        Call::mkdir | Call::mknod | Call::rmdir | Call::unlink | Call::lchown => vec![at(None, 0, &[Write], true)],
        Call::lsetxattr | Call::lremovexattr => vec![at(None, 0, &[Write], true)],
        Call::mkdirat | Call::mknodat | Call::unlinkat => vec![at(Some(0), 1, &[Write], true)],
        Call::truncate | Call::chmod | Call::chown | Call::utime | Call::utimes => vec![at(None, 0, &[Write], false)],
        Call::setxattr | Call::removexattr => vec![at(None, 0, &[Write], false)],
        Call::fchmodat | Call::futimesat => vec![at(Some(0), 1, &[Write], false)],
        Call::fchmodat2 | Call::utimensat => vec![at(Some(0), 1, &[Write], flag(3, NOFOLLOW))],
        Call::fchownat => vec![at(Some(0), 1, &[Write], flag(4, NOFOLLOW))],
        Call::rename => vec![at(None, 0, &[Write], true), at(None, 1, &[Write], true)],
        Call::renameat | Call::renameat2 => vec![at(Some(0), 1, &[Write], true), at(Some(2), 3, &[Write], true)],
        Call::link => vec![at(None, 0, &[Read], true), at(None, 1, &[Write], true)],
        Call::linkat => vec![at(Some(0), 1, &[Read], true), at(Some(2), 3, &[Write], true)],
        Call::symlink => vec![at(None, 1, &[Write], true)],
        Call::symlinkat => vec![at(Some(1), 2, &[Write], true)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_watched_call_is_read() {
        for row in WATCHED {
            let reads = !named(row.call, [1; 6], |_| 0).is_empty() || matches!(row.call, Call::connect | Call::bind);
            assert!(reads, "{:?}", row.call);
        }
    }

    #[test]
    fn the_flags_of_open_say_what_for() {
        let purposes = |flags: i32| purposes_of(flags as u32);
        assert_eq!(purposes(libc::O_RDONLY | libc::O_CLOEXEC), [Purpose::Read]);
        assert_eq!(purposes(libc::O_WRONLY | libc::O_CREAT), [Purpose::Write]);
        assert_eq!(purposes(libc::O_RDWR), [Purpose::Read, Purpose::Write]);
        assert_eq!(
            purposes(libc::O_RDONLY | libc::O_CREAT),
            [Purpose::Read, Purpose::Write]
        );
        assert_eq!(purposes(libc::O_RDONLY | libc::O_DIRECTORY), [Purpose::List]);
        assert_eq!(purposes(libc::O_PATH | libc::O_DIRECTORY), [Purpose::Look]);
        assert_eq!(purposes(libc::O_TMPFILE | libc::O_RDWR), [Purpose::Write]);
    }

    #[test]
    fn interpreters_are_read_from_scripts_and_programs() {
        let of = |head: &[u8]| interpreter(head).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(of(b"#!/bin/sh\n").as_deref(), Some("/bin/sh"));
        assert_eq!(of(b"#! /usr/bin/env node\nx").as_deref(), Some("/usr/bin/env"));
        assert_eq!(of(b"#!relative\n"), None);
        assert_eq!(of(b"#!"), None);
        assert_eq!(of(b"\x7fELF\x02"), None);
        let own = OwnedFd::from(std::fs::File::open("/bin/sh").unwrap());
        let loader = of(&head(&own).unwrap()).expect("a shell is linked dynamically where tests are");
        assert!(loader.contains("/ld"), "{loader}");
        // Lengths and places that lead nowhere.
        let mut bytes = head(&own).unwrap();
        for at in [32, 54, 56] {
            bytes[at..at + 2].fill(0xff);
            let _ = of(&bytes);
        }
    }

    #[test]
    fn paths_are_normal_by_text() {
        assert_eq!(normal(Path::new("/a/./b//c/../d/")), Path::new("/a/b/d"));
        assert_eq!(normal(Path::new("/../..")), Path::new("/"));
        assert!(has_parent_part(Path::new("/a/../b")) && !has_parent_part(Path::new("/a/..b")));
    }

    #[test]
    fn what_is_there_is_told_from_what_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", root.join("link")).unwrap();
        let link = Found::at(&root.join("link"), false);
        assert!(link.existed && !link.directory && link.file.is_some());
        assert_eq!(link.real, Some(root.join("file")));
        assert_eq!(Found::at(&root.join("link"), true).real, Some(root.join("link")));
        std::os::unix::fs::symlink(".", root.join("here")).unwrap();
        std::os::unix::fs::symlink(root.join("link"), root.join("second")).unwrap();
        let on_the_way = ["here", "second", "link"].map(|name| root.join(name));
        assert_eq!(links(&root.join("here/second")), on_the_way);
        std::os::unix::fs::symlink("round", root.join("round")).unwrap();
        assert_eq!(links(&root.join("round")).len(), MAX_LINKS);
        let missing = Found::at(&root.join("missing"), false);
        assert_eq!((missing.existed, missing.real), (false, Some(root.join("missing"))));
        assert!(Found::at(&root, false).directory);
    }

    #[test]
    fn what_is_told_fits_a_message_and_nothing_is_told_twice() {
        let mut recorder = Recorder::new();
        for number in 0..2000 {
            recorder.push(Observation {
                target: Target::Path(vec![b'x'; 1 + number]),
                purpose: Purpose::Read,
                existed: true,
                directory: false,
                program: b"sh".to_vec(),
            });
        }
        let mut told = 0;
        while let Some(event) = recorder.take(true) {
            assert!(postcard::to_allocvec(&event).unwrap().len() <= crate::event::MAX_MESSAGE_BYTES);
            let Event::Recorded { observations, .. } = event else {
                panic!()
            };
            told += observations.len();
        }
        assert_eq!((told, recorder.waiting_bytes), (2000, 0));
    }
}
