//! What became of a run: how it ended, and what it wrote.

use std::collections::VecDeque;
use std::fmt;

use fumehood_proto::convert::signal_name;
use fumehood_proto::v1::{Denial, Finished, Usage, ending::Kind};

/// How a run ended. That a command failed, or was stopped, is data and no [`crate::Error`].
#[derive(Debug, Clone, PartialEq)]
pub struct ExitStatus {
    kind: Option<Kind>,
    shell_code: i32,
}

impl ExitStatus {
    pub(crate) fn of(finished: &Finished) -> Self {
        Self {
            kind: finished.ending.as_ref().and_then(|ending| ending.kind.clone()),
            shell_code: finished.shell_code,
        }
    }

    /// Whether the command exited with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code() == Some(0)
    }

    /// The exit code; none when it did not exit by itself.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match &self.kind {
            Some(Kind::Exited(exited)) => Some(exited.code),
            _ => None,
        }
    }

    /// The signal that ended it, when that was not Fumehood's doing.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        match &self.kind {
            Some(Kind::Signaled(signaled)) => Some(signaled.signal),
            _ => None,
        }
    }

    /// Whether a time limit ended it.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        matches!(self.kind, Some(Kind::TimedOut(_)))
    }

    /// Whether it was ended because somebody asked for that: by a kill, its session's end, a lost connection, or the daemon's end.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        matches!(self.kind, Some(Kind::Cancelled(_)))
    }

    /// Whether it ended for want of memory.
    #[must_use]
    pub fn out_of_memory(&self) -> bool {
        matches!(self.kind, Some(Kind::OutOfMemory(_)))
    }

    /// Whether its policy, or a person whom that asked, did not let it run.
    #[must_use]
    pub fn denied(&self) -> bool {
        matches!(self.kind, Some(Kind::Denied(_)))
    }

    /// Whether how it ended is not known: its daemon or sandbox ended before it.
    #[must_use]
    pub fn lost(&self) -> bool {
        matches!(self.kind, Some(Kind::Lost(_)))
    }

    /// The ending in full; none of a kind that this library does not know.
    #[must_use]
    pub fn ending(&self) -> Option<&Kind> {
        self.kind.as_ref()
    }

    /// As a shell would say it: the exit code, 128+n for a signal, 124 for a time limit, 125 for a failure of Fumehood or its policy, 126
    /// and 127 for what could not be executed or found, 137 when it was killed or reached another limit.
    #[must_use]
    pub fn shell_code(&self) -> i32 {
        self.shell_code
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            Some(Kind::Exited(exited)) => return write!(f, "exited with code {}", exited.code),
            Some(Kind::Signaled(signaled)) => {
                return match signal_name(signaled.signal) {
                    Some(name) => write!(f, "was ended by {name}"),
                    None => write!(f, "was ended by signal {}", signaled.signal),
                };
            }
            Some(Kind::TimedOut(_)) => "reached a time limit",
            Some(Kind::Cancelled(_)) => "was cancelled",
            Some(Kind::OutOfMemory(_)) => "ran out of memory",
            Some(Kind::OutputLimit(_)) => "wrote more than its limit of output",
            Some(Kind::DiskLimit(_)) => "took more of the disk than its limit",
            Some(Kind::Denied(_)) => "was denied by its policy",
            Some(Kind::SpawnFailed(_)) => "could not be executed",
            Some(Kind::SandboxFailed(_)) => "had no sandbox",
            Some(Kind::Lost(_)) => "was lost",
            None => return write!(f, "ended with shell code {}", self.shell_code),
        })
    }
}

/// What is missing in the middle of captured output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Omitted {
    /// The index in the captured bytes at which they are missing.
    pub at: usize,
    /// How many are missing.
    pub bytes: u64,
}

/// Everything about a run that has ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output; of a terminal or with merged output, everything.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
    /// What is missing in `stdout`.
    pub stdout_omitted: Option<Omitted>,
    /// What is missing in `stderr`.
    pub stderr_omitted: Option<Omitted>,
    /// What it consumed; none where it never started.
    pub usage: Option<Usage>,
    /// What the sandbox refused, each once, at most 32.
    pub denials: Vec<Denial>,
    /// How often it refused something.
    pub denial_count: u64,
}

impl Output {
    pub(crate) fn of(finished: Finished, stdout: Capture, stderr: Capture) -> Self {
        let status = ExitStatus::of(&finished);
        let ((stdout, stdout_omitted), (stderr, stderr_omitted)) = (stdout.take(), stderr.take());
        Self {
            status,
            stdout,
            stderr,
            stdout_omitted,
            stderr_omitted,
            usage: finished.usage,
            denials: finished.denials,
            denial_count: finished.denial_count,
        }
    }
}

/// The beginning and the end of a stream, in bounded memory.
#[derive(Debug)]
pub(crate) struct Capture {
    /// Of each half.
    limit: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    /// Bytes between head and tail.
    omitted: u64,
    /// The stream's length so far.
    length: u64,
    /// What comes goes to the tail.
    head_is_over: bool,
}

impl Capture {
    /// Of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit / 2,
            head: Vec::new(),
            tail: VecDeque::new(),
            omitted: 0,
            length: 0,
            head_is_over: false,
        }
    }

    /// Takes the bytes at `offset`. What was taken already is passed over.
    pub(crate) fn push(&mut self, offset: u64, data: &[u8]) {
        self.end(offset);
        let known = usize::try_from(self.length - offset).unwrap_or(usize::MAX);
        let data = data.get(known..).unwrap_or_default();
        self.length += data.len() as u64;
        let room = if self.head_is_over {
            0
        } else {
            self.limit - self.head.len()
        };
        let (head, tail) = data.split_at(room.min(data.len()));
        self.head.extend_from_slice(head);
        self.tail.extend(tail);
        self.head_is_over |= !tail.is_empty();
        let over = self.tail.len().saturating_sub(self.limit);
        self.tail.drain(..over);
        self.omitted += over as u64;
    }

    /// The stream is this long: what has not come by now is missing.
    pub(crate) fn end(&mut self, length: u64) {
        if length > self.length {
            // With a hole in it, the tail would not be one piece.
            self.omitted += length - self.length + self.tail.len() as u64;
            self.tail.clear();
            self.length = length;
            self.head_is_over = true;
        }
    }

    fn take(self) -> (Vec<u8>, Option<Omitted>) {
        let mut all = self.head;
        let omitted = (self.omitted > 0).then_some(Omitted {
            at: all.len(),
            bytes: self.omitted,
        });
        all.extend(self.tail);
        (all, omitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(limit: usize, pieces: &[(u64, &str)], length: u64) -> (String, Option<Omitted>) {
        let mut capture = Capture::new(limit);
        for (offset, piece) in pieces {
            capture.push(*offset, piece.as_bytes());
        }
        capture.end(length);
        let (bytes, omitted) = capture.take();
        (String::from_utf8(bytes).unwrap(), omitted)
    }

    #[test]
    fn what_fits_is_kept_whole() {
        assert_eq!(
            captured(10, &[(0, "abcde"), (5, "fghij")], 10),
            ("abcdefghij".to_owned(), None)
        );
        assert_eq!(
            captured(10, &[(0, "abc"), (1, "bcd")], 4),
            ("abcd".to_owned(), None),
            "a repetition"
        );
    }

    #[test]
    fn of_what_does_not_fit_the_middle_is_counted_exactly() {
        let omitted = |at, bytes| Some(Omitted { at, bytes });
        assert_eq!(
            captured(4, &[(0, "abcdefghij")], 10),
            ("abij".to_owned(), omitted(2, 6))
        );
        assert_eq!(
            captured(4, &[(0, "a"), (1, "bc"), (3, "defg")], 7),
            ("abfg".to_owned(), omitted(2, 3))
        );
        // A gap, behind the head and in the tail.
        assert_eq!(
            captured(8, &[(0, "ab"), (10, "kl")], 12),
            ("abkl".to_owned(), omitted(2, 8))
        );
        assert_eq!(
            captured(4, &[(0, "abcd"), (10, "kl")], 12),
            ("abkl".to_owned(), omitted(2, 8))
        );
        // The end is missing.
        assert_eq!(captured(4, &[(0, "abcd")], 9), ("ab".to_owned(), omitted(2, 7)));
        assert_eq!(captured(0, &[(0, "abcd")], 4), (String::new(), omitted(0, 4)));
    }

    #[test]
    fn an_end_is_told_in_words() {
        let status = |kind, shell_code| ExitStatus {
            kind: Some(kind),
            shell_code,
        };
        use fumehood_proto::v1::{Exited, Signaled};
        let exited = status(Kind::Exited(Exited { code: 3 }), 3);
        assert_eq!(
            (exited.to_string().as_str(), exited.code(), exited.success()),
            ("exited with code 3", Some(3), false)
        );
        let signaled = status(
            Kind::Signaled(Signaled {
                signal: 9,
                ..Signaled::default()
            }),
            137,
        );
        assert_eq!(
            (signaled.to_string().as_str(), signaled.code()),
            ("was ended by SIGKILL", None)
        );
        use fumehood_proto::v1::{Cancelled, Denied, Lost, OutOfMemory};
        for (kind, asked) in [
            (Kind::Cancelled(Cancelled::default()), [true, false, false, false]),
            (Kind::OutOfMemory(OutOfMemory::default()), [false, true, false, false]),
            (Kind::Denied(Denied::default()), [false, false, true, false]),
            (Kind::Lost(Lost::default()), [false, false, false, true]),
        ] {
            let status = status(kind, 137);
            let said = [
                status.cancelled(),
                status.out_of_memory(),
                status.denied(),
                status.lost(),
            ];
            assert_eq!(said, asked, "{status}");
            assert!(!status.success() && !status.timed_out());
        }
    }
}
