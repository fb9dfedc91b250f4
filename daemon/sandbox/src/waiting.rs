//! Calls that wait in the kernel for init's answer (seccomp user notification).
//!
//! First comes what the profile refuses: number and arguments of a notification are copies in the kernel, so init answers as the
//! filter itself would have, and tells. Only then may others look at a call: who tells of refused ports, and the guard. Whatever
//! else waits is let go on: the filter notifies nothing but refusals and what these two and the recorder asked for. The recorder sees
//! every waiting call first and has no say in its answer.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::WaitStatus;

use crate::command::Report;
use crate::event::{Denial, Event, Subject};
use crate::guard::{self, Guard, Refusal};
use crate::ports::Ports;
use crate::recorder::Recorder;
use crate::seccomp::Except;
use crate::seccomp::{self, Call, Notify};
use crate::spec::{CommandSpec, Syscalls};
use crate::sys::notify::{self, Answer, Notification};
use crate::sys::{self, Forked};
use crate::wire;

/// Refusals that are told, at most: the first ones say what is wrong, and a loop must not flood the daemon.
const MAX_TOLD: usize = 32;

/// Longest path that is told, in bytes (`PATH_MAX` of linux/limits.h).
const MAX_PATH_BYTES: usize = 4096;

/// How long the child that tries has until its call waits, in milliseconds.
const TRIAL_MS: u16 = 2000;

/// Longest rule that is told, in characters: names of settings stand in some, and the command chose those.
const MAX_RULE_CHARS: usize = 512;

/// Answers the waiting calls of one sandbox.
#[derive(Debug)]
pub(crate) struct Waiting {
    profile: Syscalls,
    exceptions: Except,
    guard: Option<Guard>,
    ports: Option<Ports>,
    recorder: Option<Recorder>,
}

/// What was refused to one run, and told of it.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// What was told already.
    told: HashSet<Denial>,
    count: u64,
}

impl Refusals {
    /// How often something was refused so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Counts a refusal. What is to be told of it: each is once, and the first ones only.
    pub(crate) fn note(&mut self, denial: Denial) -> Option<Denial> {
        self.count += 1;
        (self.told.len() < MAX_TOLD && self.told.insert(denial.clone())).then_some(denial)
    }
}

impl Waiting {
    pub(crate) fn new(
        profile: Syscalls,
        exceptions: Except,
        guard: Option<Guard>,
        ports: Option<Ports>,
        recorder: Option<Recorder>,
    ) -> Self {
        Waiting {
            profile,
            exceptions,
            guard,
            ports,
            recorder,
        }
    }

    /// Answers the next waiting call of a listener that poll(2) found readable. Returns what was refused.
    pub(crate) fn serve(&mut self, listener: BorrowedFd<'_>) -> Option<Denial> {
        // ENOENT: the caller was killed meanwhile.
        let call = notify::receive(listener).ok()?;
        if let Some(recorder) = &mut self.recorder {
            recorder.note(listener, &call);
        }
        let port = || self.ports.as_ref()?.refused(listener, &call);
        if let Some((errno, denial)) = judge(self.profile, &self.exceptions, &call) {
            let _ = notify::answer(listener, call.id, Answer::Error(errno));
            Some(denial)
        } else if let Some(denial) = port() {
            // Landlock refuses it.
            let _ = notify::answer(listener, call.id, Answer::Continue);
            Some(denial)
        } else if let Some(guard) = self.guard.as_mut().filter(|_| guard::watches(&call)) {
            guard.serve(listener, call).map(of_path)
        } else {
            let _ = notify::answer(listener, call.id, Answer::Continue);
            None
        }
    }

    /// Takes note of the command that is about to be executed.
    pub(crate) fn note_command(&mut self, command: &CommandSpec) {
        if let Some(recorder) = &mut self.recorder {
            recorder.note_command(command);
        }
    }

    /// What was recorded and is to be told now; with `all`, however little.
    pub(crate) fn recorded(&mut self, all: bool) -> Option<Event> {
        self.recorder.as_mut().and_then(|recorder| recorder.take(all))
    }

    /// Readable when the guard has something to settle.
    pub(crate) fn unsettled(&self) -> Option<BorrowedFd<'_>> {
        self.guard.as_ref().and_then(Guard::unsettled)
    }

    /// Lets the guard settle what was written meanwhile. Returns what was refused.
    pub(crate) fn settle(&mut self) -> Vec<Denial> {
        let refused = self.guard.as_mut().map(Guard::settle).unwrap_or_default();
        refused.into_iter().map(of_path).collect()
    }
}

/// Whether calls can be made to wait and be answered with a descriptor: tried in a child, once per launcher. Another sandbox around this one
/// may use up what the kernel has of it (one listener per process).
pub(crate) fn available() -> bool {
    /// A call that the child makes, and nothing on the way to it.
    const TRIED: &[Notify] = &[Notify {
        call: Call::getpgid,
        when: &[],
    }];
    let (Ok((ours, theirs)), Ok(filters)) = (wire::pair(), seccomp::compile(Syscalls::Default, TRIED)) else {
        return false;
    };
    match sys::fork() {
        Err(_) => false,
        Ok(Forked::Child) => {
            drop(ours);
            let told = match filters.install() {
                Ok(Some(listener)) => wire::send(theirs.as_fd(), &Report::Listener, &[listener.as_fd()]),
                _ => Err(std::io::ErrorKind::Unsupported.into()),
            };
            // The answer is a descriptor's number and not a process group's.
            let is_null = |number| {
                std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|to| to == Path::new("/dev/null"))
            };
            let opened = told.is_ok() && nix::unistd::getpgid(None).is_ok_and(is_null);
            std::process::exit(i32::from(!opened))
        }
        Ok(Forked::Parent(child)) => {
            drop(theirs);
            let _ = hand_over_null(&ours);
            nix::sys::wait::waitpid(child, None).is_ok_and(|status| matches!(status, WaitStatus::Exited(_, 0)))
        }
    }
}

/// Answers the one call of the child that tries.
fn hand_over_null(socket: &OwnedFd) -> std::io::Result<()> {
    let Some((Report::Listener, mut fds)) = wire::receive::<Report>(socket.as_fd())? else {
        return Ok(());
    };
    let Some(listener) = fds.pop() else { return Ok(()) };
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    if poll(&mut waiting, PollTimeout::from(TRIAL_MS))? == 1 {
        let call = notify::receive(listener.as_fd())?;
        let null = std::fs::File::open("/dev/null")?;
        if notify::answer_with_descriptor(listener.as_fd(), call.id, null.as_fd(), true).is_err() {
            notify::answer(listener.as_fd(), call.id, Answer::Error(libc::ENOSYS))?;
        }
    }
    Ok(())
}

/// What is told of a change that the guard refused.
fn of_path(refusal: Refusal) -> Denial {
    let mut path = refusal.path.into_os_string().into_vec();
    path.truncate(MAX_PATH_BYTES);
    Denial {
        subject: match refusal.dropped {
            true => Subject::Dropped(path),
            false => Subject::Path(path),
        },
        rule: refusal.rule.chars().take(MAX_RULE_CHARS).collect(),
    }
}

/// What the profile answers to a call that it refuses, and what is told of it.
fn judge(profile: Syscalls, exceptions: &Except, call: &Notification) -> Option<(i32, Denial)> {
    // The filter ends programs of other architectures, whose numbers these are not.
    let Ok(number) = u32::try_from(call.number) else {
        return None;
    };
    let refused = seccomp::refusal_except(profile, exceptions, number, &call.arguments)?;
    let denial = Denial {
        subject: Subject::SystemCall {
            name: seccomp::describe(number).to_owned(),
            default_allows: seccomp::refusal(Syscalls::Default, number, &call.arguments).is_none()
                && refused.reason != seccomp::Reason::Denied,
        },
        rule: refused.rule(),
    };
    Some((refused.errno, denial))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(number: libc::c_long, arguments: [u64; 6]) -> Notification {
        Notification {
            id: 1,
            thread: 1,
            number,
            arguments,
        }
    }

    #[test]
    fn a_refused_call_is_answered_by_the_table_and_named() {
        let (errno, denial) = judge(Syscalls::Default, &Except::default(), &waiting(libc::SYS_mount, [0; 6])).unwrap();
        assert_eq!(errno, libc::EPERM);
        let subject = Subject::SystemCall {
            name: "mount".to_owned(),
            default_allows: false,
        };
        assert_eq!(denial.subject, subject);
        assert_eq!(denial.rule, "the profile default refuses it: it is for mounting");
        let (_, denial) = judge(Syscalls::Strict, &Except::default(), &waiting(libc::SYS_ptrace, [0; 6])).unwrap();
        assert!(
            matches!(
                denial.subject,
                Subject::SystemCall {
                    default_allows: true,
                    ..
                }
            ),
            "{denial:?}"
        );
    }

    #[test]
    fn only_the_refused_use_of_a_call_is_refused() {
        let namespaces = [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0];
        let (errno, denial) = judge(
            Syscalls::Default,
            &Except::default(),
            &waiting(libc::SYS_unshare, namespaces),
        )
        .unwrap();
        assert_eq!(errno, libc::EPERM);
        assert_eq!(denial.rule, "the profile default refuses creating a namespace");
        assert_eq!(
            judge(
                Syscalls::Default,
                &Except::default(),
                &waiting(libc::SYS_unshare, [0; 6])
            ),
            None
        );
        assert_eq!(
            judge(
                Syscalls::Default,
                &Except::default(),
                &waiting(libc::SYS_renameat2, [0; 6])
            ),
            None
        );
    }

    #[test]
    fn each_refusal_is_told_once_and_a_flood_is_only_counted() {
        let mut refusals = Refusals::default();
        let denial = |n: usize| Denial {
            subject: Subject::Path(n.to_string().into_bytes()),
            rule: "rule".to_owned(),
        };
        let told = (0..1000).filter_map(|n| refusals.note(denial(n % 100))).count();
        assert_eq!((told, refusals.told.len()), (MAX_TOLD, MAX_TOLD));
        assert_eq!(refusals.count(), 1000);
    }
}
