//! From decisions per call number to one classic BPF program.
//!
//! The program checks the architecture, then finds the call's range of numbers by binary search, then checks arguments.
//! A list of comparisons would do the same, but the kernel runs the program once per call number when it is installed (to
//! find the calls it need not ask about), and runs it before every call whose answer depends on arguments: the length of a
//! path is what costs. seccompiler writes such lists, and one answer per program only.
//!
//! Every piece of code here jumps forward and ends in a return on every path, so pieces are simply put together.

use seccompiler::{BpfProgram, sock_filter};

use super::calls::{Arch, LAST_KNOWN};
use super::{SeccompError, When};

/// What the kernel is told to do with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(i32),
    Notify,
}

impl Action {
    /// The value that the program returns, linux/seccomp.h.
    pub(super) fn value(self) -> u32 {
        match self {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & libc::SECCOMP_RET_DATA),
            Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
        }
    }
}

/// What is decided about one call: the first row whose conditions all hold, else `otherwise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub rows: Vec<(&'static [When], Action)>,
    pub otherwise: Action,
}

impl Decision {
    pub fn always(action: Action) -> Self {
        Decision {
            rows: Vec::new(),
            otherwise: action,
        }
    }
}

/// `BPF_MAXINSNS` of linux/bpf_common.h: the kernel takes no longer program.
const MAX_INSTRUCTIONS: usize = 4096;

/// offsetof(struct seccomp_data, nr), (.., arch) and (.., args), linux/seccomp.h.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// Writes the program. `decisions[n]` is for call number `n`, 0 to [`LAST_KNOWN`]; every number above, and so every x32 number
/// (from 0x4000_0000: they come under the architecture value of x86-64), gets `beyond`.
///
/// A call of another architecture (`int 0x80`) has its own numbers and ends the process with `SIGSYS`: a whole program of
/// a foreign ABI can do nothing with an error number, not even exit.
pub(super) fn program(arch: Arch, decisions: &[Decision], beyond: Action) -> Result<BpfProgram, SeccompError> {
    debug_assert_eq!(decisions.len(), LAST_KNOWN as usize + 1);
    let beyond = Decision::always(beyond);
    // Numbers in a row with the same decision share one leaf.
    let mut leaves: Vec<(u32, &Decision)> = Vec::new();
    for (number, decision) in (0..).zip(decisions.iter().chain([&beyond])) {
        if leaves.last().is_none_or(|(_, last)| *last != decision) {
            leaves.push((number, decision));
        }
    }
    // Written from the end to the beginning: then the length of what a jump passes over is known when the jump is written.
    let mut backwards = Vec::with_capacity(512);
    search(&leaves, &mut backwards)?;
    backwards.extend([
        instruction(LOAD, 0, 0, NR),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(EQUAL, 1, 0, arch.audit()),
        instruction(LOAD, 0, 0, ARCH),
    ]);
    if backwards.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong {
            instructions: backwards.len(),
        });
    }
    backwards.reverse();
    Ok(backwards)
}

/// Binary search over leaves, each with the first number it is for; the number is in the accumulator.
fn search(leaves: &[(u32, &Decision)], backwards: &mut BpfProgram) -> Result<(), SeccompError> {
    if let [(_, decision)] = leaves {
        return leaf(decision, backwards);
    }
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let pivot = high[0].0;
    search(high, backwards)?;
    let end = backwards.len();
    search(low, backwards)?;
    let length = backwards.len() - end;
    match u8::try_from(length) {
        Ok(length) => backwards.push(instruction(AT_LEAST, length, 0, pivot)),
        // A conditional jump has 8 bits, an unconditional one 32.
        Err(_) => backwards.extend([
            instruction(JUMP, 0, 0, length as u32),
            instruction(AT_LEAST, 0, 1, pivot),
        ]),
    }
    Ok(())
}

/// The code that answers for one decision.
fn leaf(decision: &Decision, backwards: &mut BpfProgram) -> Result<(), SeccompError> {
    backwards.push(instruction(RETURN, 0, 0, decision.otherwise.value()));
    for (when, action) in decision.rows.iter().rev() {
        row(when, *action, backwards)?;
    }
    Ok(())
}

/// Returns `action` if all conditions hold, else goes on behind itself.
fn row(when: &[When], action: Action, backwards: &mut BpfProgram) -> Result<(), SeccompError> {
    let end = backwards.len();
    backwards.push(instruction(RETURN, 0, 0, action.value()));
    for condition in when.iter().rev() {
        let past = u8::try_from(backwards.len() - end).map_err(|_| SeccompError::TooManyConditions)?;
        // The low half, unless both count: both architectures are little-endian.
        let (argument, mask, jump) = match *condition {
            When::Is(argument, value) => (argument, None, instruction(EQUAL, 0, past, value)),
            When::IsNot(argument, value) => (argument, None, instruction(EQUAL, past, 0, value)),
            When::Above(argument, value) => (argument, None, instruction(GREATER, 0, past, value)),
            When::Masked(argument, mask, value) => (argument, Some(mask), instruction(EQUAL, 0, past, value)),
            When::Any(argument, bits) => (argument, None, instruction(ANY_BIT, 0, past, bits)),
            When::NotNull(argument) => {
                // If the low half is zero, the high half decides; else the two instructions for it are passed over.
                backwards.push(instruction(EQUAL, past, 0, 0));
                backwards.push(instruction(LOAD, 0, 0, low_half(argument)? + 4));
                (argument, None, instruction(EQUAL, 0, 2, 0))
            }
        };
        backwards.push(jump);
        backwards.extend(mask.map(|mask| instruction(AND, 0, 0, mask)));
        backwards.push(instruction(LOAD, 0, 0, low_half(argument)?));
    }
    Ok(())
}

/// Where the low 32 bits of an argument are.
fn low_half(argument: u8) -> Result<u32, SeccompError> {
    match argument {
        0..=5 => Ok(ARGS + 8 * u32::from(argument)),
        _ => Err(SeccompError::NoSuchArgument { argument }),
    }
}
