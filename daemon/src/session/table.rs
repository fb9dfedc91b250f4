//! Every session that is known, and how many there may be.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};

use super::actor::Actor;
use super::handle::{Session, Shared};
use super::model::{Activity, Close, Ended, SessionEnd, SessionPhase, SessionRequest, SessionSnapshot};
use crate::handover::Claims;
use crate::lower;
use crate::peer::Peer;
use crate::run::{Surroundings, may_see};

/// Requests that may wait for a session's task; more make their senders wait.
const COMMANDS: usize = 16;

/// How many sessions there may be.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// That are not closed.
    pub living: usize,
    /// Those of one peer.
    pub of_peer: usize,
    /// Closed ones kept.
    pub retained: usize,
    /// How long those are kept.
    pub retain_for: Duration,
}

/// Why a session is not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The daemon stops taking them.
    #[error("the daemon is draining and makes no more sessions")]
    Draining,
    /// There are as many as may be.
    #[error("{0} sessions are open, as many as may; close one")]
    Full(usize),
    /// One peer has as many as one may.
    #[error("{0} sessions of yours are open, as many as one of several users may have; close one")]
    FullOfOne(usize),
    /// The id is taken by a session of the same peer with another request.
    #[error("session id {0:?} is taken by a session with another request; choose another id, or close that one")]
    Exists(String),
    /// The daemon was taken over from.
    #[error("another daemon has taken over; ask again over a new connection")]
    Elsewhere,
}

/// The table of sessions; clones share it.
#[derive(Clone, Debug)]
pub struct SessionTable {
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    bounds: SessionBounds,
    sessions: Mutex<Sessions>,
    draining: AtomicBool,
    /// Sessions that are not closed.
    living: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Sessions {
    /// By [`Peer::qualified`] id.
    by_id: HashMap<String, Arc<Session>>,
    next_number: u64,
    /// When each of the closed ones was, with its key and number, in that order.
    closed: VecDeque<(Instant, String, u64)>,
    /// While another daemon serves in this one's place.
    claims: Option<Claims>,
}

impl Sessions {
    fn may_begin(&self, key: &str) -> Result<(), CreateError> {
        let forbids = |claims: &Claims| claims.forbids(key, Instant::now());
        match self.claims.as_ref().is_some_and(forbids) {
            true => Err(CreateError::Elsewhere),
            false => Ok(()),
        }
    }
}

impl SessionTable {
    /// An empty table.
    pub fn new(bounds: SessionBounds) -> SessionTable {
        SessionTable {
            table: Arc::new(Table {
                bounds,
                sessions: Mutex::default(),
                draining: AtomicBool::new(false),
                living: watch::channel(0).0,
            }),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        let mut sessions = self.table.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        self.table.forget_old(&mut sessions);
        sessions
    }

    /// Looks whether a request would make a session: gives the one it made before, if that lives.
    ///
    /// # Errors
    /// As [`SessionTable::create`].
    pub fn look(&self, peer: &Peer, id: &str, digest: &[u8; 32]) -> Result<Option<Arc<Session>>, CreateError> {
        let sessions = self.sessions();
        if let Some(known) = sessions.by_id.get(&peer.qualified(id))
            && known.snapshot().phase != SessionPhase::Closed
        {
            return match known.request.digest == *digest {
                true => Ok(Some(Arc::clone(known))),
                false => Err(CreateError::Exists(id.to_owned())),
            };
        }
        if self.table.draining.load(Ordering::SeqCst) {
            return Err(CreateError::Draining);
        }
        sessions.may_begin(&peer.qualified(id))?;
        self.table.has_room(&sessions, peer)?;
        Ok(None)
    }

    /// Makes a session and starts its task. The second value is true when the same request had made it before.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn create(
        &self,
        request: SessionRequest,
        surroundings: Surroundings,
    ) -> Result<(Arc<Session>, bool), CreateError> {
        if let Some(known) = self.look(&request.peer, &request.id, &request.digest)? {
            return Ok((known, true));
        }
        let mut sessions = self.sessions();
        let key = request.peer.qualified(&request.id);
        // Between the two looks somebody else may have come.
        let lives = |known: &&Arc<Session>| known.snapshot().phase != SessionPhase::Closed;
        if let Some(known) = sessions.by_id.get(&key).filter(lives) {
            return match known.request.digest == request.digest {
                true => Ok((Arc::clone(known), true)),
                false => Err(CreateError::Exists(request.id)),
            };
        }
        sessions.may_begin(&key)?;
        self.table.has_room(&sessions, &request.peer)?;
        self.table.living.send_modify(|living| *living += 1);
        let (session, actor) = prepare(request, surroundings, sessions.next_number);
        sessions.next_number += 1;
        sessions.by_id.insert(key, Arc::clone(&session));
        drop(sessions);
        tokio::spawn(self.clone().supervise(Arc::clone(&session), actor));
        Ok((session, false))
    }

    async fn supervise(self, session: Arc<Session>, actor: Actor) {
        // A task of its own, so that a panic in it is seen here, and the session counts as closed.
        if let Err(error) = tokio::spawn(actor.run()).await {
            tracing::error!(session = session.id(), %error, "the task of a session failed");
            session.snapshot.send_modify(|snapshot| {
                snapshot.phase = SessionPhase::Closed;
                snapshot.ended = Some(Ended::lost("the daemon failed; this is a defect of it"));
                snapshot.closed_at = Some(SystemTime::now());
            });
        }
        let key = session.request.peer.qualified(session.id());
        self.sessions().closed.push_back((Instant::now(), key, session.number));
        // Its last bound is the table's.
        drop(self.sessions());
        self.table.living.send_modify(|living| *living -= 1);
    }

    /// A session by its id, if this peer may see it: its own before those of others, and of these the newest.
    pub fn get(&self, peer: &Peer, id: &str) -> Option<Arc<Session>> {
        let sessions = self.sessions();
        if let Some(own) = sessions.by_id.get(&peer.qualified(id)) {
            return Some(Arc::clone(own));
        }
        let others = sessions.by_id.values();
        let others = others.filter(|session| session.id() == id && may_see(peer, &session.request.peer));
        others.max_by_key(|session| session.number).cloned()
    }

    /// Another daemon serves in this one's place, or no longer does.
    pub fn set_succeeded(&self, succeeded: bool) {
        self.sessions().claims = succeeded.then(|| Claims::new(Instant::now()));
    }

    /// Asks in the name of the daemon that took over for a session of this very peer's that is not closed. Where there is none, there will be none here
    /// any more.
    pub fn claim(&self, peer: &Peer, id: &str) -> Option<Arc<Session>> {
        let mut sessions = self.sessions();
        let key = peer.qualified(id);
        let lives = |known: &&Arc<Session>| known.snapshot().phase != SessionPhase::Closed;
        let known = sessions.by_id.get(&key).filter(lives).cloned();
        if let (None, Some(claims)) = (&known, &mut sessions.claims) {
            claims.leave(key, Instant::now());
        }
        known
    }

    /// Whether this very peer has a session of this id that is not closed.
    pub fn has_own(&self, peer: &Peer, id: &str) -> bool {
        let sessions = self.sessions();
        let known = sessions.by_id.get(&peer.qualified(id));
        known.is_some_and(|known| known.snapshot().phase != SessionPhase::Closed)
    }

    /// The sessions this peer may see, newest first.
    pub fn list(&self, peer: &Peer) -> Vec<Arc<Session>> {
        let sessions = self.sessions();
        let visible = sessions
            .by_id
            .values()
            .filter(|session| may_see(peer, &session.request.peer));
        let mut list: Vec<_> = visible.cloned().collect();
        drop(sessions);
        list.sort_by_key(|session| std::cmp::Reverse(session.number));
        list
    }

    /// How many sessions are not closed; changes can be waited for.
    pub fn living(&self) -> watch::Receiver<usize> {
        self.table.living.subscribe()
    }

    /// Makes no more sessions.
    pub fn drain(&self) {
        self.table.draining.store(true, Ordering::SeqCst);
    }

    /// Ends every session, because the daemon ends.
    pub fn end_all(&self, grace: Duration) {
        let all: Vec<_> = self.sessions().by_id.values().cloned().collect();
        for session in all {
            session.ask_to_close(Close {
                ended: Ended {
                    end: SessionEnd::Drain,
                    by: String::new(),
                    detail: "the daemon is stopping".to_owned(),
                },
                grace,
            });
        }
    }
}

impl Table {
    fn has_room(&self, sessions: &Sessions, peer: &Peer) -> Result<(), CreateError> {
        let SessionBounds { living, of_peer, .. } = self.bounds;
        // Not by the count of tasks: who has heard that a session is closed finds room.
        let all = sessions.by_id.values();
        let open: Vec<_> = all
            .filter(|session| session.snapshot().phase != SessionPhase::Closed)
            .collect();
        if open.len() >= living {
            return Err(CreateError::Full(living));
        }
        let own = open.iter().filter(|session| session.request.peer.same_as(peer));
        match own.count() >= of_peer {
            true => Err(CreateError::FullOfOne(of_peer)),
            false => Ok(()),
        }
    }

    /// Forgets closed sessions that are too many or too old.
    fn forget_old(&self, sessions: &mut Sessions) {
        while let Some((at, key, number)) = sessions.closed.front() {
            if sessions.closed.len() <= self.bounds.retained && at.elapsed() < self.bounds.retain_for {
                return;
            }
            // The id may have been taken again.
            if sessions.by_id.get(key).is_some_and(|known| known.number == *number) {
                sessions.by_id.remove(key);
            }
            sessions.closed.pop_front();
        }
    }
}

fn prepare(request: SessionRequest, surroundings: Surroundings, number: u64) -> (Arc<Session>, Actor) {
    let (commands_sender, commands) = mpsc::channel(COMMANDS);
    let (close_sender, close) = watch::channel(None);
    let (now, now_at) = (Instant::now(), SystemTime::now());
    let (activity_sender, activity) = watch::channel(Activity {
        active: 0,
        total: 0,
        used: now,
        used_at: now_at,
    });
    let (snapshot, _) = watch::channel(SessionSnapshot {
        phase: SessionPhase::Starting,
        ended: None,
        closed_at: None,
        enforcement: Arc::from([]),
        resets: 0,
    });
    let session = Arc::new(Session {
        base_env: lower::environment(&request.env, &request.grants, &request.host),
        request,
        number,
        created_at: now_at,
        created: now,
        snapshot,
        activity: activity_sender,
        commands: commands_sender,
        close: close_sender,
        shared: Mutex::new(Shared::default()),
        background: Default::default(),
    });
    let actor = Actor {
        session: Arc::clone(&session),
        surroundings,
        commands,
        close,
        activity,
        recorded: false,
    };
    (session, actor)
}
