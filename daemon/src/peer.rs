//! Who is at the other end of a connection.
//!
//! An identity is learnt once, when the connection is made, from the kernel (`SO_PEERCRED`) or from the client's certificate,
//! and stays for the connection's life. `SO_PEERCRED` names the process that called `connect`: whoever gets that descriptor
//! passed on speaks for that process. The pid is information, since pids are reused; one thing looks at it, and says what that is worth:
//! who sits at a terminal (`approvals/judge.rs`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The one at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// Whether it may use the daemon. A connection of one that may not is served only so far that every call is answered
    /// with a refusal it can understand.
    pub allowed: bool,
}

/// Who a peer is, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// A process of this machine; the kernel says so.
    Unix {
        /// Its effective user id when it connected.
        uid: u32,
        /// Its effective group id when it connected.
        gid: u32,
        /// Its process id; `None` when it is in a pid namespace that the daemon cannot see into.
        pid: Option<i32>,
    },
    /// The holder of a certificate that the configured authority signed.
    Certificate {
        /// The certificate's first name; printable, 1 to 256 bytes.
        name: String,
    },
}

impl fmt::Display for Identity {
    /// `uid:1000` or `cert:NAME`: the form in the audit log and in the API.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Unix { uid, .. } => write!(f, "uid:{uid}"),
            Identity::Certificate { name } => write!(f, "cert:{name}"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity.fmt(f)
    }
}

/// Why a request is not from somebody who may make it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer may not use the daemon.
    #[error("{0} may not use this daemon; its configuration names who may in allowed_uids")]
    NotAllowed(Peer),
    /// The request did not come through a connection of [`crate::listen`].
    #[error("the peer of this request is not known")]
    Unknown,
}

impl Peer {
    /// The peer that made a request, if it may.
    ///
    /// # Errors
    /// [`PeerError::NotAllowed`] names a peer that may not; `PERMISSION_DENIED` is its status.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Peer, PeerError> {
        let peer = request.extensions().get::<Peer>().ok_or(PeerError::Unknown)?;
        if peer.allowed {
            Ok(peer)
        } else {
            Err(PeerError::NotAllowed(peer.clone()))
        }
    }

    /// Whether it is the same user, or the holder of a certificate of the same name.
    pub fn same_as(&self, other: &Peer) -> bool {
        match (&self.identity, &other.identity) {
            (Identity::Unix { uid, .. }, Identity::Unix { uid: other, .. }) => uid == other,
            (Identity::Certificate { name }, Identity::Certificate { name: other }) => name == other,
            _ => false,
        }
    }

    /// `id@uid:1000`: an id that this peer chose, unlike every one that another peer can choose. No id holds an `@`.
    pub fn qualified(&self, id: &str) -> String {
        format!("{id}@{self}")
    }

    /// An id that this peer chose, in the audit log, where those of all peers stand side by side: the plain one for the daemon's own user,
    /// else with the peer's name, `build@uid:1001`.
    pub fn recorded(&self, id: &str) -> String {
        match self.is_user(nix::unistd::geteuid().as_raw()) {
            true => id.to_owned(),
            false => self.qualified(id),
        }
    }

    /// Whether it is a process of this user on this machine.
    pub fn is_user(&self, user: u32) -> bool {
        matches!(self.identity, Identity::Unix { uid, .. } if uid == user)
    }

    /// The process id at the time of connecting, if there is one; information only.
    pub fn pid(&self) -> Option<i32> {
        match self.identity {
            Identity::Unix { pid, .. } => pid,
            Identity::Certificate { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_have_one_written_form() {
        let unix = Identity::Unix {
            uid: 1000,
            gid: 100,
            pid: Some(7),
        };
        assert_eq!(
            Peer {
                identity: unix,
                allowed: true
            }
            .to_string(),
            "uid:1000"
        );
        assert_eq!(
            Identity::Certificate {
                name: "ci.example".into()
            }
            .to_string(),
            "cert:ci.example"
        );
    }

    #[test]
    fn a_request_without_an_allowed_peer_is_refused() {
        let mut request = tonic::Request::new(());
        assert_eq!(Peer::of(&request), Err(PeerError::Unknown));
        let stranger = Peer {
            identity: Identity::Unix {
                uid: 7,
                gid: 7,
                pid: None,
            },
            allowed: false,
        };
        request.extensions_mut().insert(stranger.clone());
        assert_eq!(Peer::of(&request), Err(PeerError::NotAllowed(stranger.clone())));
        let friend = Peer {
            allowed: true,
            ..stranger
        };
        request.extensions_mut().insert(friend.clone());
        assert_eq!(Peer::of(&request), Ok(&friend));
    }
}
