//! System calls a sandbox allows, as one classic BPF program that the command's process installs on itself.
//!
//! An allow-list: what no group of the profile names is refused. Namespaces, Landlock and the missing capabilities bound what
//! the allowed calls do; the list takes away what those layers do not cover (the terminal of the caller, set-uid bits,
//! `AF_VSOCK`, keyrings), kernel code that nobody needs and that has a history (`io_uring`, `bpf`, nested user
//! namespaces), and everything that will be added to the kernel after it was written.
//!
//! ```text
//! calls.rs        names and numbers, per architecture
//! groups.rs       which calls a profile allows, and who needs them
//! conditions.rs   arguments for which an allowed call is refused
//! bpf.rs          decisions per number in, one program out
//! ```
//!
//! A caller may have calls *notified*: the kernel then stops the process and asks whoever holds the listener that
//! [`Program::install`] returns. Such a listener must not let a call go on after it has looked at memory that the process
//! can change meanwhile.
//!
//! The types of a program, and its installation where there is no listener, are seccompiler's. Its compiler is not used: it writes
//! linear lists with one answer each (five programs instead of one, four times slower to install), does not know x32
//! numbers (they carry the native architecture), notification, or calls newer than Linux 6.12.

mod bpf;
mod calls;
mod conditions;
mod groups;
#[cfg(test)]
mod program_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use seccompiler::BpfProgram;

use crate::spec::{Exceptions, Syscalls};
use crate::sys;
use bpf::{Action, Decision};
pub use calls::{Arch, Call, LAST_KNOWN};
use conditions::Condition;

/// Why a profile could not be turned into a program.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The kernel takes at most 4096 instructions.
    #[error("the system call filter has {instructions} instructions, more than the 4096 that the kernel takes")]
    TooLong {
        /// How many it would have.
        instructions: usize,
    },
    /// A jump over a list of conditions has 8 bits.
    #[error("a row of the system call filter has more conditions than a jump can pass over")]
    TooManyConditions,
    /// System calls have arguments 0 to 5.
    #[error("a row of the system call filter names argument {argument}, and the last is 5")]
    NoSuchArgument {
        /// The number in the table.
        argument: u8,
    },
}

/// A condition on one argument, which is compared as the kernel uses it: but for pointers these are all `int` or narrower, so
/// only the low 32 bits count. Comparing 64 would let `TIOCSTI | 1 << 32` through (CVE-2019-10063, CVE-2019-7303).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Argument (0 to 5), value.
    Is(u8, u32),
    /// Argument, value.
    IsNot(u8, u32),
    /// Argument, value: unsigned.
    Above(u8, u32),
    /// Argument, mask, value of the masked bits.
    Masked(u8, u32, u32),
    /// Argument, bits of which at least one is set.
    Any(u8, u32),
    /// Argument that is a pointer, and not null. All 64 bits: an address may well have a low half of zeroes.
    NotNull(u8),
}

impl When {
    pub(crate) fn holds(self, args: &[u64; 6]) -> bool {
        let low = |argument: u8| args[usize::from(argument)] as u32;
        match self {
            When::Is(argument, value) => low(argument) == value,
            When::IsNot(argument, value) => low(argument) != value,
            When::Above(argument, value) => low(argument) > value,
            When::Masked(argument, mask, value) => low(argument) & mask == value,
            When::Any(argument, bits) => low(argument) & bits != 0,
            When::NotNull(argument) => args[usize::from(argument)] != 0,
        }
    }
}

/// What a profile answers to the calls of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Allow,
    Errno(i32),
}

/// Calls about which the listener is asked. A refusal of the profile comes first: a call that it refuses is not notified.
#[derive(Clone, Copy, Debug)]
pub struct Notify {
    /// The call; one that an architecture does not have is passed over there.
    pub call: Call,
    /// All must hold; none means always. Several rows of one call: any.
    pub when: &'static [When],
}

/// The filter of one profile, ready to be installed.
#[derive(Clone, Debug)]
pub struct Program {
    filter: BpfProgram,
    notifies: bool,
    /// The same profile without a listener, for a machine that gives none, where nothing but refusals is notified.
    plain: Option<BpfProgram>,
}

impl Program {
    /// Installs the filter on the calling thread, for good: its children inherit it and nothing takes it away. Sets
    /// `no_new_privs` as well.
    ///
    /// Returns the listener (close-on-exec) if calls are notified. From then on a notified call of this process waits for
    /// whoever has the listener: it has to reach another process by calls that are not notified.
    ///
    /// Makes system calls only, two or three, and does not allocate unless one fails, so it may run between fork and exec. After
    /// an error the filter is not in force: the process must not go on.
    pub fn install(&self) -> io::Result<Option<OwnedFd>> {
        if !self.notifies {
            return apply(&self.filter);
        }
        match (sys::install_filter_with_listener(&self.filter), &self.plain) {
            (Ok(listener), _) => Ok(Some(listener)),
            // EBUSY: whoever started the daemon holds a listener already, and the kernel gives a process one at most. EINVAL, ENOSYS:
            // no notification (before Linux 5.0, or not built in). The refusals hold all the same; only nobody hears of them.
            (Err(error), Some(plain)) if matches!(sys::errno_of(&error), libc::EBUSY | libc::EINVAL | libc::ENOSYS) => {
                apply(plain)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Length in BPF instructions; the kernel takes 4096.
    pub fn instructions(&self) -> usize {
        self.filter.len()
    }
}

fn apply(filter: &BpfProgram) -> io::Result<Option<OwnedFd>> {
    seccompiler::apply_filter(filter).map_err(|error| match error {
        seccompiler::Error::Prctl(source) | seccompiler::Error::Seccomp(source) => source,
        other => io::Error::other(other),
    })?;
    Ok(None)
}

/// Compiles a profile for this machine. Allocates; to be done before the command's process is forked.
pub fn compile(profile: Syscalls, notify: &[Notify]) -> Result<Program, SeccompError> {
    compile_answering(Arch::NATIVE, profile, notify, |errno| errno)
}

/// As [`compile`], but refusals that [are told](is_told) are notified as well, and the listener's holder must answer each with what
/// [`refusal`] says: it asks that first, before it looks at a call in any other way, and never lets a call go on for which there
/// is an answer. Number and arguments in a notification are copies in the kernel, so the answer is the filter's own. A notified call
/// without a listener gets `ENOSYS` from the kernel.
pub fn compile_told(profile: Syscalls, notify: &[Notify]) -> Result<Program, SeccompError> {
    compile_told_except(profile, &Except::default(), notify)
}

/// As [`compile_told`], with exceptions; the holder of the listener asks [`refusal_except`] with the same.
pub fn compile_told_except(profile: Syscalls, except: &Except, notify: &[Notify]) -> Result<Program, SeccompError> {
    let mut program = compile_told_for(Arch::NATIVE, profile, except, notify)?;
    if notify.is_empty() {
        let plain = compile_with(Arch::NATIVE, profile, except, notify, false, |_, errno| {
            Action::Errno(errno)
        })?;
        program.plain = Some(plain.filter);
    }
    Ok(program)
}

fn compile_told_for(
    arch: Arch,
    profile: Syscalls,
    except: &Except,
    notify: &[Notify],
) -> Result<Program, SeccompError> {
    compile_with(arch, profile, except, notify, true, |call, errno| {
        match is_told(call, errno) {
            true => Action::Notify,
            false => Action::Errno(errno),
        }
    })
}

/// [`Exceptions`] whose names were looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Except {
    allow: Vec<Call>,
    deny: Vec<Call>,
}

impl Except {
    /// Looks the names up. One that is not in the table means nothing, nor does allowing what no profile allows.
    pub fn of(exceptions: &Exceptions) -> Except {
        let calls = |names: &[String]| -> Vec<Call> { names.iter().filter_map(|name| Call::named(name)).collect() };
        let mut except = Except {
            allow: calls(&exceptions.allow),
            deny: calls(&exceptions.deny),
        };
        except.allow.retain(|call| call.is_allowed_by_default());
        except
    }

    /// What the profile answers to a call of a group, exceptions considered.
    fn answer(&self, group: &groups::Group, profile: Syscalls, call: Call) -> Answer {
        if self.deny.contains(&call) {
            Answer::Errno(libc::EPERM)
        } else if self.allow.contains(&call) {
            Answer::Allow
        } else {
            of_profile(group, profile)
        }
    }
}

/// What the sandbox itself calls between installing the filter and executing the command, and what no program does without.
const NEEDED: &[Call] = &[
    Call::brk,
    Call::close,
    Call::close_range,
    Call::dup2,
    Call::dup3,
    Call::execve,
    Call::execveat,
    Call::exit,
    Call::exit_group,
    Call::fcntl,
    Call::futex,
    Call::mmap,
    Call::mprotect,
    Call::munmap,
    Call::poll,
    Call::ppoll,
    Call::read,
    Call::recvmsg,
    Call::rt_sigaction,
    Call::rt_sigprocmask,
    Call::rt_sigreturn,
    Call::sendmsg,
    Call::write,
];

impl Call {
    /// A call by the kernel's name for it.
    pub fn named(name: &str) -> Option<Call> {
        Call::ALL.iter().copied().find(|call| call.name() == name)
    }

    /// Whether [`Syscalls::Default`] allows it.
    pub fn is_allowed_by_default(self) -> bool {
        let group = groups::GROUPS.iter().find(|group| group.calls.contains(&self));
        group.is_some_and(|group| group.default == Answer::Allow)
    }

    /// Whether no command could be started if it were refused.
    pub fn is_needed(self) -> bool {
        NEEDED.contains(&self)
    }
}

/// Whether a refusal says "no" to somebody who meant it. `ENOSYS` and the answers about families and protocols of sockets are part of how
/// programs find out what a machine has; so is `EPERM` to calls that libraries try whatever the program does.
fn is_told(call: Option<Call>, errno: i32) -> bool {
    errno == libc::EPERM && call.is_some_and(|call| !PROBED.contains(&call))
}

/// Calls that are tried on the way to something else: by graphics libraries (`kcmp`), systemd's (`name_to_handle_at`), runtimes
/// that raise a thread's priority where they may, and unwinders that read memory which may not be there.
const PROBED: &[Call] = &[
    Call::kcmp,
    Call::name_to_handle_at,
    Call::process_vm_readv,
    Call::sched_setscheduler,
    Call::sched_setparam,
    Call::sched_setattr,
];

/// As [`compile`], with every answer passed through `answer`. The tests use it to tell a filter's refusal from the kernel's.
fn compile_answering(
    arch: Arch,
    profile: Syscalls,
    notify: &[Notify],
    answer: impl Fn(i32) -> i32,
) -> Result<Program, SeccompError> {
    compile_with(
        arch,
        profile,
        &Except::default(),
        notify,
        !notify.is_empty(),
        |_, errno| Action::Errno(answer(errno)),
    )
}

fn compile_with(
    arch: Arch,
    profile: Syscalls,
    except: &Except,
    notify: &[Notify],
    notifies: bool,
    refuse: impl Fn(Option<Call>, i32) -> Action,
) -> Result<Program, SeccompError> {
    let missing = refuse(None, libc::ENOSYS);
    let mut decisions = vec![Decision::always(missing); LAST_KNOWN as usize + 1];
    let mut decide = |call: Call, change: &mut dyn FnMut(&mut Decision)| {
        if let Some(decision) = call.number(arch).and_then(|number| decisions.get_mut(number as usize)) {
            change(decision);
        }
    };
    for group in groups::GROUPS {
        for &call in group.calls {
            let otherwise = match except.answer(group, profile, call) {
                Answer::Allow => Action::Allow,
                Answer::Errno(errno) => refuse(Some(call), errno),
            };
            decide(call, &mut |decision| decision.otherwise = otherwise);
        }
    }
    // The first row that holds decides, so the order here is the precedence: refusals, then notification, then the rest. A call
    // that is refused anyway needs no rows.
    let refusals =
        conditions(profile, except, notifies).map(|row| (row.call, row.when, refuse(Some(row.call), row.errno)));
    let notified = notify.iter().map(|row| (row.call, row.when, Action::Notify));
    for (call, when, action) in refusals.chain(notified) {
        decide(call, &mut |decision| {
            if decision.otherwise == Action::Allow {
                decision.rows.push((when, action));
            }
        });
    }
    Ok(Program {
        filter: bpf::program(arch, &decisions, missing)?,
        notifies,
        plain: None,
    })
}

fn of_profile(group: &groups::Group, profile: Syscalls) -> Answer {
    match profile {
        Syscalls::Default => group.default,
        Syscalls::Strict => group.strict,
    }
}

/// The conditions of a profile. A call that is allowed as an exception has those of the other one.
fn conditions(profile: Syscalls, except: &Except, notifies: bool) -> impl Iterator<Item = &'static Condition> {
    let strict: &[Condition] = match profile {
        Syscalls::Default => &[],
        Syscalls::Strict => conditions::STRICT,
    };
    let strict = strict.iter().filter(|row| !except.allow.contains(&row.call));
    let nested = notifies.then_some(&conditions::NESTED_LISTENER);
    strict.chain(conditions::BOTH).chain(nested)
}

/// The kernel's name of a call of this machine, for people.
pub fn describe(number: u32) -> &'static str {
    match Call::of(Arch::NATIVE, number) {
        Some(call) => call.name(),
        None if number >= X32 => "(a call of the x32 ABI)",
        None => "(a call that this version does not know)",
    }
}

/// `__X32_SYSCALL_BIT` of asm/unistd.h.
const X32: u32 = 0x4000_0000;

/// A call that a profile refuses, and why. `Display` is a sentence for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The profile.
    pub profile: Syscalls,
    /// The call's number on this machine.
    pub number: u32,
    /// The error number that the program was given.
    pub errno: i32,
    /// Where only certain arguments are refused, what they ask for; else what the call is for.
    pub reason: Reason,
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The call is not on the profile's list; what it is for.
    Call(&'static str),
    /// The call is allowed, this use of it is not.
    Use(&'static str),
    /// The policy denies the call by name.
    Denied,
    /// The number is not in the table.
    Unknown,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, profile) = (describe(self.number), self.profile.name());
        match self.reason {
            Reason::Call(purpose) => {
                write!(
                    f,
                    "system call {name} is refused by the profile {profile}: it is for {purpose}"
                )
            }
            Reason::Use(what) => write!(f, "system call {name}: {what} is refused by the profile {profile}"),
            Reason::Denied => write!(f, "system call {name} is refused by syscalls.deny"),
            Reason::Unknown => write!(
                f,
                "system call {} {name} is refused by the profile {profile}",
                self.number
            ),
        }
    }
}

impl Refused {
    /// Why, for people who have the call's name already: `the profile default refuses it: it is for mounting`.
    pub fn rule(&self) -> String {
        let profile = self.profile.name();
        match self.reason {
            Reason::Call(purpose) => format!("the profile {profile} refuses it: it is for {purpose}"),
            Reason::Use(what) => format!("the profile {profile} refuses {what}"),
            Reason::Denied => "syscalls.deny names it".to_owned(),
            Reason::Unknown => format!("the profile {profile} does not know it"),
        }
    }
}

/// What a profile answers to a call of this machine, read from the table: `None` if it lets the call through (or has it notified).
/// Of `args`, only what the conditions look at must be right.
pub fn refusal(profile: Syscalls, number: u32, args: &[u64; 6]) -> Option<Refused> {
    refusal_except(profile, &Except::default(), number, args)
}

/// As [`refusal`], with exceptions.
pub fn refusal_except(profile: Syscalls, except: &Except, number: u32, args: &[u64; 6]) -> Option<Refused> {
    refusal_on(Arch::NATIVE, profile, except, number, args)
}

fn refusal_on(arch: Arch, profile: Syscalls, except: &Except, number: u32, args: &[u64; 6]) -> Option<Refused> {
    let refused = |errno, reason| {
        Some(Refused {
            profile,
            number,
            errno,
            reason,
        })
    };
    let Some(call) = Call::of(arch, number) else {
        return refused(libc::ENOSYS, Reason::Unknown);
    };
    let group = groups::GROUPS.iter().find(|group| group.calls.contains(&call))?;
    if except.deny.contains(&call) {
        return refused(libc::EPERM, Reason::Denied);
    }
    if let Answer::Errno(errno) = except.answer(group, profile, call) {
        return refused(errno, Reason::Call(group.purpose));
    }
    let row = conditions(profile, except, false)
        .find(|row| row.call == call && row.when.iter().all(|when| when.holds(args)))?;
    refused(row.errno, Reason::Use(row.what))
}
