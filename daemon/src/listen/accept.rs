//! Accepting: one task for each endpoint, handshakes beside it, and one stream of what came through.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::Stream as AsyncStream;

use super::connection::{Connection, Preface, Stream};
use super::tls;
use super::{HANDSHAKE_TIMEOUT, MAX_CONNECTIONS, MAX_HANDSHAKES, MAX_REFUSED_CONNECTIONS};
use crate::audit::{AuditLog, PeerDenied};
use crate::peer::{Identity, Peer};

/// Connections that are through and wait for the server to take them.
const READY: usize = 16;

/// How long accepting pauses when the process or the machine has no descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// How long connections stay as they are when nothing more is accepted, before their clients are told to make new ones: a client that has
/// just connected gets its first calls through.
const LINGER: Duration = Duration::from_secs(2);

/// Refused peers are recorded one by one up to so many in [`DENIED_PERIOD`], and counted beyond.
const DENIED_RECORDS: u32 = 10;
const DENIED_PERIOD: Duration = Duration::from_secs(60);

/// Where connections come from.
#[derive(Debug)]
pub enum Endpoint {
    /// A Unix socket, of [`super::unix::bind`] or from systemd.
    Unix(UnixListener),
    /// TCP with mutual TLS.
    Tls(TcpListener, tls::Acceptor),
}

/// Who is let in, and where it is recorded who was not.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The user ids that may use the daemon over a Unix socket.
    pub allowed_uids: Vec<u32>,
    /// Gets a `peer_denied` record for each refused connection (10 a minute; more are counted).
    pub audit: Option<AuditLog>,
    /// Gets the connections of processes of the daemon's own user that want to take over; while one is being heard, no other is.
    pub successors: Option<mpsc::Sender<UnixStream>>,
}

/// The connections that are through their handshake. Dropping it ends the accepting and closes the endpoints.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<Connection>,
    places: Places,
    closing: Arc<watch::Sender<bool>>,
}

/// Closes the endpoints.
#[derive(Clone, Debug)]
pub struct Closing(Arc<watch::Sender<bool>>);

impl Closing {
    /// Accepts nothing more; connections that were accepted still come through, and a moment later there are no more.
    pub fn close(&self) {
        self.0.send_replace(true);
    }
}

impl Incoming {
    /// What ends the accepting without dropping what was accepted.
    pub fn closing(&self) -> Closing {
        Closing(Arc::clone(&self.closing))
    }

    /// How many connections are being served; changes wake the receiver. For a daemon that ends when nobody is there.
    pub fn connections(&self) -> watch::Receiver<usize> {
        self.places.served.subscribe()
    }
}

impl AsyncStream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// Accepts on all endpoints, from within a tokio runtime, until the result is dropped.
pub fn incoming(endpoints: Vec<Endpoint>, admission: Admission) -> Incoming {
    let (through, ready) = mpsc::channel(READY);
    let places = Places::new();
    let closing = Arc::new(watch::Sender::new(false));
    let gate = Arc::new(Gate {
        admission,
        places: places.clone(),
        denials: Mutex::new(Denials::default()),
    });
    for endpoint in endpoints {
        tokio::spawn(accept(endpoint, gate.clone(), through.clone(), closing.subscribe()));
    }
    Incoming { ready, places, closing }
}

/// What all handshakes share.
#[derive(Debug)]
struct Gate {
    admission: Admission,
    places: Places,
    denials: Mutex<Denials>,
}

async fn accept(
    endpoint: Endpoint,
    gate: Arc<Gate>,
    through: mpsc::Sender<Connection>,
    mut closing: watch::Receiver<bool>,
) {
    // Dropping the set ends its tasks.
    let mut handshakes = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept_one(&endpoint, &gate) => accepted,
            Some(_) = handshakes.join_next(), if !handshakes.is_empty() => continue,
            () = through.closed() => return,
            Ok(_) = closing.wait_for(|closing| *closing) => break,
        };
        let handshake = match accepted {
            Ok(handshake) => handshake,
            Err(error) => {
                // A connection that was gone before it was taken is the usual case; anything else passes with time.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                ) {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                continue;
            }
        };
        oldest_first.retain(|handshake| !handshake.is_finished());
        if oldest_first.len() >= MAX_HANDSHAKES
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        let through = through.clone();
        oldest_first.push_back(handshakes.spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Some(connection)) => {
                    let _ = through.send(connection).await;
                }
                Ok(None) => {}
                Err(_) => tracing::debug!("a connection said nothing and was closed"),
            }
        }));
    }
    drop(endpoint);
    let linger = tokio::time::sleep(LINGER);
    while handshakes.join_next().await.is_some() {}
    linger.await;
}

type Handshake = Pin<Box<dyn Future<Output = Option<Connection>> + Send>>;

async fn accept_one(endpoint: &Endpoint, gate: &Arc<Gate>) -> io::Result<Handshake> {
    let gate = gate.clone();
    Ok(match endpoint {
        Endpoint::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            // At once: whoever closes before saying anything is to be recorded too.
            let peer = gate.unix_peer(&stream)?;
            Box::pin(async move { gate.let_in(Stream::Unix(stream), peer).await })
        }
        Endpoint::Tls(listener, acceptor) => {
            let (stream, address) = listener.accept().await?;
            let acceptor = acceptor.clone();
            Box::pin(async move {
                // Small messages must not wait for the acknowledgement of the ones before (Nagle).
                let _ = stream.set_nodelay(true);
                match acceptor.accept(stream).await {
                    Ok((stream, name)) => {
                        let peer = Peer {
                            identity: Identity::Certificate { name },
                            allowed: true,
                        };
                        gate.let_in(Stream::Tls(Box::new(stream)), peer).await
                    }
                    Err(error) => {
                        gate.denied("tcp", format!("tcp:{address}"), None, error.to_string());
                        None
                    }
                }
            })
        }
    })
}

impl Gate {
    fn unix_peer(&self, stream: &UnixStream) -> io::Result<Peer> {
        let cred = stream.peer_cred()?;
        let identity = Identity::Unix {
            uid: cred.uid(),
            gid: cred.gid(),
            pid: cred.pid(),
        };
        let allowed = self.admission.allowed_uids.contains(&cred.uid());
        let peer = Peer { identity, allowed };
        if !allowed {
            self.denied(
                "unix",
                peer.to_string(),
                peer.pid(),
                "the uid is not in allowed_uids".to_owned(),
            );
        }
        Ok(peer)
    }

    /// Waits for the first bytes of HTTP/2 and finds a place.
    async fn let_in(&self, mut stream: Stream, peer: Peer) -> Option<Connection> {
        match stream.read_preface().await {
            Ok(Preface::Http2) => {}
            Ok(Preface::HandOver) => {
                let own = peer.is_user(nix::unistd::geteuid().as_raw());
                if let (true, Stream::Unix(stream), Some(successors)) = (own, stream, &self.admission.successors) {
                    // Without a place it is closed, which is an answer.
                    let _ = successors.try_send(stream);
                }
                return None;
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a connection ended before it was HTTP/2");
                return None;
            }
        }
        let Some(place) = self.places.take(peer.allowed) else {
            tracing::warn!(%peer, most = MAX_CONNECTIONS, "too many connections: one was closed");
            return None;
        };
        Some(Connection::new(stream, peer, place))
    }

    fn denied(&self, listener: &'static str, peer: String, peer_pid: Option<i32>, reason: String) {
        let counted = self
            .denials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .count(Instant::now());
        let Some(suppressed) = counted else { return };
        tracing::warn!(peer, listener, reason, suppressed, "a peer was refused");
        if let Some(audit) = &self.admission.audit {
            audit.peer_denied(&PeerDenied {
                peer,
                peer_pid,
                listener,
                reason,
                suppressed,
            });
        }
    }
}

/// How many peers were refused of late.
#[derive(Debug, Default)]
struct Denials {
    since: Option<Instant>,
    recorded: u32,
    suppressed: u64,
}

impl Denials {
    /// Counts one more. `Some`, with how many were not recorded since the last that was, when this one is to be recorded.
    fn count(&mut self, now: Instant) -> Option<u64> {
        if self
            .since
            .is_none_or(|since| now.duration_since(since) >= DENIED_PERIOD)
        {
            (self.since, self.recorded) = (Some(now), 0);
        }
        if self.recorded == DENIED_RECORDS {
            self.suppressed += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// The places for connections that are served.
#[derive(Clone, Debug)]
struct Places {
    served: watch::Sender<usize>,
    /// The part of `served` that is of peers who may not use the daemon.
    refused: watch::Sender<usize>,
    /// Those that have not made a call yet, the oldest first; when all places are taken, they are the first to lose theirs.
    silent: Arc<Mutex<VecDeque<Weak<Held>>>>,
}

/// One taken place; dropping it frees it.
#[derive(Debug)]
pub(super) struct Place(Arc<Held>);

#[derive(Debug)]
struct Held(Mutex<Hold>);

#[derive(Debug)]
struct Hold {
    /// Where it counts; nowhere any more once it is lost.
    counts: Vec<watch::Sender<usize>>,
    /// Whether it can be lost.
    silent: bool,
    waker: Option<Waker>,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Hold> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    fn free(&mut self) {
        for count in self.counts.drain(..) {
            count.send_modify(|count| *count -= 1);
        }
    }
}

impl Places {
    fn new() -> Places {
        Places {
            served: watch::Sender::new(0),
            refused: watch::Sender::new(0),
            silent: Arc::default(),
        }
    }

    fn take(&self, allowed: bool) -> Option<Place> {
        let mut place = Place(Arc::new(Held(Mutex::new(Hold {
            counts: Vec::with_capacity(2),
            silent: true,
            waker: None,
        }))));
        let bounds = [
            (&self.refused, MAX_REFUSED_CONNECTIONS, !allowed),
            (&self.served, MAX_CONNECTIONS, true),
        ];
        for (count, most, _) in bounds.into_iter().filter(|(_, _, applies)| *applies) {
            let mut taken = place.count(count, most);
            if !taken && allowed {
                self.drop_oldest_silent();
                taken = place.count(count, most);
            }
            if !taken {
                return None;
            }
        }
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.len() >= MAX_CONNECTIONS {
            silent.retain(|held| held.upgrade().is_some_and(|held| held.lock().silent));
        }
        silent.push_back(Arc::downgrade(&place.0));
        Some(place)
    }

    fn drop_oldest_silent(&self) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(oldest) = silent.pop_front() {
            let Some(oldest) = oldest.upgrade() else { continue };
            let mut hold = oldest.lock();
            if hold.silent && !hold.counts.is_empty() {
                hold.free();
                if let Some(waker) = hold.waker.take() {
                    waker.wake();
                }
                return;
            }
        }
    }
}

impl Place {
    fn count(&mut self, count: &watch::Sender<usize>, most: usize) -> bool {
        let taken = count.send_if_modified(|count| {
            let free = *count < most;
            *count += usize::from(free);
            free
        });
        if taken {
            self.0.lock().counts.push(count.clone());
        }
        taken
    }

    /// The connection made a call: nobody takes its place any more.
    pub(super) fn keep(&self) {
        let mut hold = self.0.lock();
        (hold.silent, hold.waker) = (false, None);
    }

    /// Whether the place was given to another connection; if not, `waker` is woken when it is.
    pub(super) fn is_lost(&self, waker: &Waker) -> bool {
        let mut hold = self.0.lock();
        if hold.counts.is_empty() {
            return true;
        }
        if hold.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            hold.waker = Some(waker.clone());
        }
        false
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_recorded_ten_a_minute_and_counted_beyond() {
        let start = Instant::now();
        let mut denials = Denials::default();
        for _ in 0..DENIED_RECORDS {
            assert_eq!(denials.count(start), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(denials.count(start + Duration::from_secs(59)), None);
        }
        assert_eq!(denials.count(start + Duration::from_secs(60)), Some(5));
        assert_eq!(denials.count(start + Duration::from_secs(60)), Some(0));
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let places = Places::new();
        let refused: Vec<_> = (0..MAX_REFUSED_CONNECTIONS)
            .map(|_| places.take(false).unwrap())
            .collect();
        assert!(places.take(false).is_none());
        let allowed: Vec<_> = (0..MAX_CONNECTIONS - refused.len())
            .map(|_| places.take(true).unwrap())
            .collect();
        allowed.iter().for_each(Place::keep);
        refused.iter().for_each(Place::keep);
        assert!(places.take(true).is_none());
        drop(refused);
        assert!(places.take(false).is_some());
        drop(allowed);
        assert_eq!(*places.served.borrow(), 0);
    }

    #[test]
    fn the_oldest_that_made_no_call_gives_its_place_up() {
        let places = Places::new();
        let all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| places.take(true).unwrap()).collect();
        all[0].keep();
        let lost = |place: &Place| place.is_lost(Waker::noop());
        let another = places.take(true).unwrap();
        assert!(!lost(&all[0]) && lost(&all[1]) && !lost(&all[2]) && !lost(&another));
        assert_eq!(*places.served.borrow(), MAX_CONNECTIONS);
        drop((all, another));
        assert_eq!(*places.served.borrow(), 0, "nothing is counted down twice");
    }
}
