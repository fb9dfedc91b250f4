//! System calls a sandbox refuses, as classic BPF programs that the command's process installs on itself.
//!
//! A deny-list: what no entry names is allowed, because development tools use nearly everything and namespaces, Landlock
//! and the missing capabilities already bound what it does. The list takes away what those layers do not cover (the
//! terminal of the caller, set-uid bits, `AF_VSOCK`, keyrings) and kernel code that nobody needs and that has a history
//! (`io_uring`, `bpf`, nested user namespaces). The table itself is [`development`].
//!
//! Three rules decide the answer. A call that programs may find missing on an older kernel gets `ENOSYS`, so that they
//! fall back: glibc does that for `clone3` with `ENOSYS` only, and aborts on `EPERM`. A call that has always existed
//! gets `EPERM`. Nothing that thread creation uses is touched.
//!
//! seccompiler knows one answer per filter, so there is one filter per answer and the kernel takes the most severe. It
//! does not know x32 numbers (they carry the native architecture), hence [`guard`], written by hand. Deliberately absent:
//! user notification, which would put a race between the check and the use of every pointer argument.

mod development;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use crate::spec::Syscalls;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;
/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` of linux/audit.h, which seccompiler knows and keeps to itself.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the system call table was checked for x86_64 and aarch64 only");

/// Why a profile could not be turned into programs.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// seccompiler refused the table.
    #[error("cannot compile the system call filter that answers {answer}")]
    Compile {
        /// The error number the filter would answer with.
        answer: i32,
        /// What was wrong.
        source: seccompiler::BackendError,
    },
}

/// The filters of one profile, ready to be installed.
#[derive(Clone, Debug)]
pub struct Program {
    filters: Vec<BpfProgram>,
}

impl Program {
    /// Installs every filter on the calling thread, for good: its children inherit them and nothing takes them away.
    ///
    /// Sets `no_new_privs` as well. Makes two system calls per filter and does not allocate unless one fails, so it may
    /// run between fork and exec. After an error some filters may be in force: the process must not go on.
    pub fn install(&self) -> io::Result<()> {
        for filter in &self.filters {
            seccompiler::apply_filter(filter).map_err(|error| match error {
                seccompiler::Error::Prctl(source) | seccompiler::Error::Seccomp(source) => source,
                other => io::Error::other(other),
            })?;
        }
        Ok(())
    }

    /// Length of each filter in BPF instructions, in the order of installation. The time to install a filter grows with
    /// it: the kernel runs it once per system call number to find those that are always allowed.
    #[cfg(test)]
    fn instructions(&self) -> Vec<usize> {
        self.filters.iter().map(Vec::len).collect()
    }
}

/// Compiles a profile for this machine. Allocates; to be done before the command's process is forked.
pub fn compile(profile: Syscalls) -> Result<Program, SeccompError> {
    compile_answering(profile, |errno| errno)
}

/// As [`compile`], with every answer passed through `answer`. The tests use it to tell a filter's refusal from the kernel's.
fn compile_answering(profile: Syscalls, answer: impl Fn(i32) -> i32) -> Result<Program, SeccompError> {
    let refusals = match profile {
        Syscalls::Development => development::REFUSALS,
    };
    let mut filters = vec![guard(answer(libc::ENOSYS))];
    for refusal in refusals {
        let errno = answer(refusal.answer);
        filters.push(filter(refusal, errno).map_err(|source| SeccompError::Compile { answer: errno, source })?);
    }
    Ok(Program { filters })
}

/// Calls that get one answer.
struct Refusal {
    /// The error number.
    answer: i32,
    /// The calls; a number may appear more than once, each with its own condition.
    calls: &'static [Call],
}

/// One refused call.
struct Call {
    number: libc::c_long,
    /// All must hold for the call to be refused; none means always.
    when: &'static [When],
}

/// A condition on one argument, which is compared as the kernel uses it: these are all `int` or narrower, so only the low
/// 32 bits count. Comparing 64 would let `TIOCSTI | 1 << 32` through (CVE-2019-10063, CVE-2019-7303).
#[derive(Clone, Copy)]
enum When {
    /// Argument, value.
    Is(u8, u32),
    /// Argument, value.
    IsNot(u8, u32),
    /// Argument, value: unsigned.
    Above(u8, u32),
    /// Argument, mask, value of the masked bits.
    Masked(u8, u32, u32),
}

/// A call that is always refused.
const fn always(number: libc::c_long) -> Call {
    Call { number, when: &[] }
}

/// A call that is refused under conditions.
const fn when(number: libc::c_long, when: &'static [When]) -> Call {
    Call { number, when }
}

impl When {
    fn condition(self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (argument, operator, value) = match self {
            When::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
            When::IsNot(argument, value) => (argument, SeccompCmpOp::Ne, value),
            When::Above(argument, value) => (argument, SeccompCmpOp::Gt, value),
            When::Masked(argument, mask, value) => (argument, SeccompCmpOp::MaskedEq(mask.into()), value),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    }
}

/// Turns one row of the table into a program that answers with `errno` and allows the rest.
fn filter(refusal: &Refusal, errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in refusal.calls {
        let rule = rules.entry(call.number).or_default();
        // An empty list of rules is seccompiler's "always"; the table has such a call only once.
        if !call.when.is_empty() {
            let conditions = call
                .when
                .iter()
                .map(|when| when.condition())
                .collect::<Result<Vec<_>, _>>()?;
            rule.push(SeccompRule::new(conditions)?);
        }
    }
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, answer, ARCHITECTURE)?.try_into()
}

/// The last system call number this table was checked against: `file_setattr`, Linux 6.17. The numbers above 424 are the
/// same on every architecture.
const LAST_KNOWN: u32 = 469;

/// Answers `ENOSYS` to every number above [`LAST_KNOWN`]: calls that did not exist when the table was written, and the x32
/// numbers (from 0x4000_0000), which reach the same kernel code under the architecture value of x86-64 and would pass by
/// every rule below. A call of another architecture (`int 0x80`) has its own numbers; every filter of seccompiler ends
/// the process with `SIGSYS` on one, and so does this.
fn guard(enosys: i32) -> BpfProgram {
    // offsetof(struct seccomp_data, nr) and (.., arch), linux/seccomp.h.
    const NR: u32 = 0;
    const ARCH: u32 = 4;

    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let instruction = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    vec![
        instruction(LOAD, 0, 0, ARCH),
        instruction(EQUAL, 1, 0, AUDIT_ARCH),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD, 0, 0, NR),
        instruction(GREATER, 0, 1, LAST_KNOWN),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | enosys.unsigned_abs()),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}
