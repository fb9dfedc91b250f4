//! Who may answer whose questions.
//!
//! Another identity than the one that asked: root, the daemon's own user, and certificates that the configuration names. Whoever asked only
//! where the policy says so. `approvals.self = "terminal"` looks at processes: the one that answers has a controlling terminal and is in another
//! session (setsid(2)) than the one that asked. That keeps an agent from answering itself by mistake, or by a command it was told to run.
//! It does not stop a program of the same user that means to: that one can open a terminal of its own (openpty(3)), or write to the user's. Who
//! needs more leaves `approvals.self` at `"never"` and lets another identity answer.

use crate::peer::{Identity, Peer};
use fumehood_policies::SelfApproval;

use super::model::{Asked, Means};

/// The session of a process and its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The session's id.
    pub session: i32,
    /// The device number of its controlling terminal; 0 without one.
    pub terminal: i32,
}

impl Seat {
    /// That of the process that connected, as it is now; `None` when it is gone, is no process of this machine, or cannot be looked at. A pid
    /// that was taken by another process meanwhile gives that one's.
    pub fn of(peer: &Peer) -> Option<Seat> {
        let pid = peer.pid().filter(|pid| *pid > 0)?;
        Seat::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Out of the text of `/proc/PID/stat` (proc_pid_stat(5)): after the name in parentheses, which may hold anything, state, ppid, pgrp,
    /// session, tty_nr.
    fn parse(stat: &str) -> Option<Seat> {
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(3);
        let mut number = || fields.next()?.parse().ok();
        Some(Seat {
            session: number()?,
            terminal: number()?,
        })
    }
}

/// Why a peer may not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYours {
    /// It asked.
    #[error(
        "{peer} asked, and policy `{policy}` lets nobody answer themselves; another identity has to (approvals.self = \"terminal\" or \"always\" in the policy would change that)"
    )]
    Own {
        /// Who.
        peer: String,
        /// The policy.
        policy: String,
    },
    /// It asked, and does not answer from a terminal.
    #[error("{peer} asked, and policy `{policy}` lets them answer from a terminal only: {why}")]
    NoTerminal {
        /// Who.
        peer: String,
        /// The policy.
        policy: String,
        /// What is missing.
        why: &'static str,
    },
    /// Somebody else asked, and this one is none of those who answer.
    #[error(
        "{peer} is neither root nor the daemon's own user, and no certificate that the daemon's configuration names in `approvers`"
    )]
    NoApprover {
        /// Who.
        peer: String,
    },
}

/// Who may answer the questions of others.
#[derive(Clone, Debug)]
pub struct Judges {
    /// The daemon's own user.
    pub own_uid: u32,
    /// Names of certificates.
    pub approvers: Vec<String>,
}

impl Judges {
    /// Whether a peer sees the questions and answers of everybody, and may answer those of others.
    pub fn sees_all(&self, peer: &Peer) -> bool {
        match &peer.identity {
            Identity::Unix { uid, .. } => *uid == 0 || *uid == self.own_uid,
            Identity::Certificate { name } => self.approvers.contains(name),
        }
    }

    /// Whether a peer sees the questions of another: its own, and all if it may answer them.
    pub fn may_see(&self, peer: &Peer, asking: &Peer) -> bool {
        peer.same_as(asking) || self.sees_all(peer)
    }

    /// Whether a peer may answer as far as identities say; where it must be at a terminal, that is not looked at.
    ///
    /// # Errors
    /// Why not.
    pub fn identity_may_resolve(&self, peer: &Peer, asked: &Asked) -> Result<Means, NotYours> {
        if !peer.same_as(&asked.peer) {
            return match self.sees_all(peer) {
                true => Ok(Means::Other),
                false => Err(NotYours::NoApprover { peer: peer.to_string() }),
            };
        }
        match (asked.policy.approvals.own, &peer.identity) {
            (SelfApproval::Always, _) => Ok(Means::Own),
            (SelfApproval::Terminal, Identity::Unix { .. }) => Ok(Means::Terminal),
            (SelfApproval::Terminal, Identity::Certificate { .. }) => Err(NotYours::NoTerminal {
                peer: peer.to_string(),
                policy: asked.policy.name.clone(),
                why: "a connection over TCP is none",
            }),
            (SelfApproval::Never, _) => Err(NotYours::Own {
                peer: peer.to_string(),
                policy: asked.policy.name.clone(),
            }),
        }
    }

    /// Whether a peer may answer. Looks at processes where the policy asks for a terminal.
    ///
    /// # Errors
    /// Why not.
    pub fn may_resolve(&self, peer: &Peer, asked: &Asked) -> Result<Means, NotYours> {
        let means = self.identity_may_resolve(peer, asked)?;
        if means == Means::Terminal {
            at_a_terminal(Seat::of(peer), asked.seat).map_err(|why| NotYours::NoTerminal {
                peer: peer.to_string(),
                policy: asked.policy.name.clone(),
                why,
            })?;
        }
        Ok(means)
    }
}

/// Whether who sits here may answer who sat there.
fn at_a_terminal(answering: Option<Seat>, asking: Option<Seat>) -> Result<(), &'static str> {
    let answering = answering.ok_or("the process that answers cannot be looked at")?;
    if answering.terminal == 0 {
        return Err("the process that answers has no controlling terminal");
    }
    let asking = asking.ok_or("the process that asked could not be looked at")?;
    if answering.session == asking.session {
        return Err("the process that answers is in the session of the one that asked; use another terminal");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_read_behind_whatever_the_name_holds() {
        let seat = |session, terminal| Some(Seat { session, terminal });
        assert_eq!(Seat::parse("7 (sh) S 1 7 5 34816 9 4194560"), seat(5, 34816));
        assert_eq!(Seat::parse("7 (a) R 1 2 (3) S 1 7 6 0 -1"), seat(6, 0));
        for broken in ["", "7 (sh", "7 (sh) S 1 7", "7 (sh) S 1 7 x 0", "7 (sh) S 1 7 5"] {
            assert_eq!(Seat::parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_terminal_of_another_session_is_needed() {
        let seat = |session, terminal| Some(Seat { session, terminal });
        assert_eq!(at_a_terminal(seat(2, 34816), seat(1, 0)), Ok(()));
        assert_eq!(at_a_terminal(seat(2, 34816), seat(1, 34817)), Ok(()));
        for (answering, asking) in [
            (seat(2, 0), seat(1, 0)),
            (seat(1, 34816), seat(1, 34816)),
            (seat(2, 34816), None),
            (None, seat(1, 0)),
        ] {
            assert!(at_a_terminal(answering, asking).is_err(), "{answering:?} {asking:?}");
        }
    }
}
