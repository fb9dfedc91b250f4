//! A planned restart, on both sides: taking over from a daemon, and going on for one that took over.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::ServeError;
use super::end::Server;
use super::listening::Listening;
use crate::audit::AuditLog;
use crate::handover::{Control, Fate, Handed, Successor, TakeOver, bytes, path};
use crate::run::{RunTable, SpillStore};
use crate::service::{Calls, Forward, Moved};
use crate::session::SessionTable;

/// Why a run ended that the daemon before this one was running.
pub(super) const LOST: &str = "the daemon was killed, or its machine failed; what had been saved of the run is there";

/// How long the kernel may take to close what a dead process had open.
const DEATH: Duration = Duration::from_millis(500);

/// After this time nobody begins to follow something over a connection that was made before: its client was told to make another.
const SETTLED: Duration = Duration::from_millis(2500);

/// How long connections may go on after that over which nothing is asked.
const CONNECTIONS_PATIENCE: Duration = Duration::from_secs(5);

/// What a daemon that takes over needs to take what the other one leaves.
#[derive(Clone)]
pub(super) struct Taking {
    pub finish: bool,
    pub runs: RunTable,
    pub store: Option<SpillStore>,
    pub audit: Option<AuditLog>,
    /// How long a daemon takes to end, at most, whose successor has died.
    pub drain: Duration,
    /// Where this one listens over TCP.
    pub tcp: Option<SocketAddr>,
}

impl Taking {
    /// Takes over, when everything else is ready: from here on the other daemon accepts nothing. Its calls go to it over `forward`, until what
    /// it had is here.
    pub(super) async fn take(self, there: TakeOver, forward: &Forward) -> Result<Arc<Control>, ServeError> {
        let TakeOver { offer, control, .. } = there;
        let (control, finish) = (Arc::new(control), self.finish);
        let (asking, own) = (Arc::clone(&control), self.audit.as_ref().map(AuditLog::instance));
        let own = own.unwrap_or_default().to_owned();
        let tcp = self.tcp.is_some() && self.tcp == offer.tcp;
        let taken = tokio::task::spawn_blocking(move || asking.take(finish, &own, tcp)).await;
        let channel = taken.map_err(|error| ServeError::Serve(error.to_string()))??;
        tracing::info!(
            instance = offer.instance,
            survive = channel.is_some(),
            "took over from the daemon before"
        );
        if let Some(audit) = &self.audit
            && let Err(error) = audit.go_on().await
        {
            tracing::error!(error = %crate::telemetry::chain(&error), "the audit log does not yet say that this daemon goes on with it");
        }
        let Some(channel) = channel else {
            self.adopt(&offer.instance, true).await;
            return Ok(control);
        };
        let (say, gone) = watch::channel(false);
        forward
            .begin(channel, gone)
            .await
            .map_err(|error| ServeError::Serve(error.to_string()))?;
        let (told, ended) = oneshot::channel();
        let listening = Arc::clone(&control);
        // A thread of its own, which nothing waits for: it lasts as long as the other daemon.
        std::thread::Builder::new()
            .name("predecessor".to_owned())
            .spawn(move || told.send(listening.ended()))
            .map_err(ServeError::Runtime)?;
        tokio::spawn(async move {
            let in_order = ended.await.unwrap_or(false);
            self.adopt(&offer.instance, in_order).await;
            say.send_replace(true);
            if !in_order {
                // Whoever kept something for that one is reached by nobody, and ends.
                tokio::time::sleep(self.drain).await;
                self.adopt_files().await;
            }
        });
        Ok(control)
    }

    /// Takes what another daemon left, by its instance; one that died may hold its lock for a moment yet.
    pub(super) async fn adopt(&self, instance: &str, in_order: bool) {
        if !in_order {
            tracing::error!(instance, "another daemon died; what it had is taken over");
            if let Some(audit) = &self.audit
                && let Err(error) = audit.interrupt(instance).await
            {
                tracing::error!(%error, "its runs are not closed in the audit log; the next daemon does it");
            }
            tokio::time::sleep(DEATH).await;
        }
        self.adopt_files().await;
    }

    async fn adopt_files(&self) {
        let Some(store) = self.store.clone() else { return };
        let adopting = store.clone();
        if let Ok(left) = tokio::task::spawn_blocking(move || adopting.adopt()).await {
            self.runs.restore(left, &store, LOST);
        }
    }
}

/// What a daemon goes on with that another one took over from.
pub(super) struct Custody<'a> {
    pub runs: &'a RunTable,
    pub sessions: &'a SessionTable,
    pub forward: &'a Forward,
    pub calls: &'a Calls,
    /// How long those may go on that read what is over.
    pub patience: Duration,
}

/// How custody ends.
pub(super) enum Left {
    /// All of it is over; those that still read have until then.
    Over(Instant),
    /// The successor died, and was the last in line.
    Alone,
    /// Nobody can reach what is kept.
    Unreachable,
}

impl Custody<'_> {
    /// Serves the successor's calls and the connections there are, the `servers`, until all of it is over or the successor is gone. The server that
    /// `serve` makes of the channel is added to them. `listening` is given up when somebody else will serve should the successor die.
    pub(super) async fn keep(
        &self,
        successor: &Successor,
        servers: &mut Vec<Server>,
        listening: &mut Option<Listening>,
        serve: impl FnOnce(UnixStream) -> Server,
    ) -> Left {
        // Before it is told: what it asks from then on is asked of one that was taken over from.
        self.set_succeeded(true);
        let (say, mut fates) = mpsc::channel(1);
        let channel = || -> io::Result<_> {
            let (own, theirs) = UnixStream::pair()?;
            let mut fate = successor.fate()?;
            successor.taken(Some(theirs.as_fd()))?;
            let wait = move || {
                loop {
                    let fate = fate();
                    if say.blocking_send(fate).is_err() || fate != Fate::Passed {
                        return;
                    }
                }
            };
            std::thread::Builder::new().name("successor".to_owned()).spawn(wait)?;
            Ok(own)
        };
        let own = match channel() {
            Ok(own) => own,
            Err(error) => {
                tracing::error!(%error, "the hand-over failed");
                return Left::Alone;
            }
        };
        servers.push(serve(own));
        tracing::info!(
            runs = *self.runs.active().borrow(),
            sessions = *self.sessions.living().borrow(),
            "another daemon took over; what there is goes on here"
        );
        let settle = async {
            tokio::time::sleep(SETTLED).await;
            self.forward.set_moved(Moved::Clients);
            std::future::pending::<()>().await;
        };
        // The last is the channel, which lasts.
        let old = servers.len() - 1;
        let (mut over, mut settle) = (std::pin::pin!(self.over(&mut servers[..old])), std::pin::pin!(settle));
        let mut last = true;
        loop {
            tokio::select! {
                until = &mut over => {
                    self.forward.set_moved(Moved::Everybody);
                    return Left::Over(until);
                }
                () = &mut settle => {}
                fate = fates.recv() => match fate.unwrap_or(Fate::Died) {
                    Fate::Passed => {
                        *listening = None;
                        last = false;
                    }
                    Fate::Died if last => return Left::Alone,
                    Fate::Died | Fate::GivenUp => {
                        tracing::warn!("the daemon that took over is gone or ending");
                        *listening = None;
                        return Left::Unreachable;
                    }
                }
            }
        }
    }

    /// Whether another daemon serves.
    pub(super) fn set_succeeded(&self, succeeded: bool) {
        self.runs.set_succeeded(succeeded);
        self.sessions.set_succeeded(succeeded);
        if !succeeded {
            self.forward.set_moved(Moved::Nobody);
        }
    }

    /// Returns when nothing goes on here any more and nobody reads what is over, or when those that do have had their time; gives its end.
    async fn over(&self, servers: &mut [Server]) -> Instant {
        let (mut active, mut living, mut calls) = (self.runs.active(), self.sessions.living(), self.calls.number());
        let settled = Instant::now() + SETTLED + CONNECTIONS_PATIENCE;
        loop {
            let _ = active.wait_for(|active| *active == 0).await;
            let _ = living.wait_for(|living| *living == 0).await;
            self.forward.gone().await;
            let until = Instant::now() + self.patience;
            let through = calls.wait_for(|calls| *calls == 0);
            let through = tokio::time::timeout_at(until.into(), through).await.is_ok();
            // What was begun over a connection before it ended is seen here, because it was begun before.
            for server in &mut *servers {
                server.has_ended(settled).await;
            }
            let empty = |count: &watch::Receiver<usize>| *count.borrow() == 0;
            if empty(&active) && empty(&living) && (empty(&calls) || !through) {
                return until;
            }
        }
    }
}

/// Waits for another daemon that takes over, and offers it all there is. `behind` is how many go on behind this one while one does.
pub(super) async fn hand_over(
    mut asking: mpsc::Receiver<UnixStream>,
    mut handed: Handed,
    audit: Option<&AuditLog>,
    forward: &Forward,
    behind: u32,
) -> Successor {
    handed.offer.instance = audit.map(|audit| audit.instance().to_owned()).unwrap_or_default();
    handed.offer.audit = audit.map(|audit| bytes(audit.path()));
    let mut handed = Arc::new(handed);
    loop {
        let Some(stream) = asking.recv().await else {
            return std::future::pending().await;
        };
        let log = match audit {
            Some(audit) => audit.lend().await.ok(),
            None => None,
        };
        if let Some(handed) = Arc::get_mut(&mut handed) {
            handed.offer.predecessors = if forward.is_living() { behind } else { 0 };
        }
        let handed = Arc::clone(&handed);
        let offer = move || handed.offer(stream.into_std()?, log);
        match tokio::task::spawn_blocking(offer).await {
            Ok(Ok(Some(successor))) => {
                // Before it is told that it may write.
                if let Some(audit) = audit
                    && let Err(error) = audit.share().await
                {
                    tracing::error!(%error, "the audit log cannot be shared");
                }
                return successor;
            }
            Ok(Ok(None)) => tracing::debug!("another daemon asked what there is, and did not take over"),
            Ok(Err(error)) => {
                tracing::warn!(error = %crate::telemetry::chain(&error), "another daemon did not take over");
            }
            Err(error) => tracing::error!(%error, "a hand-over failed"),
        }
    }
}

/// The audit log that was handed over, if there is one.
pub(super) fn handed_audit(
    take_over: Option<&mut TakeOver>,
) -> Option<impl Future<Output = Result<AuditLog, ServeError>>> {
    let there = take_over?;
    let at = path(there.offer.audit.clone()?);
    let (file, before) = (there.audit.take()?, there.offer.instance.clone());
    let open = move || AuditLog::take_over(file, &at, &RunTable::new_id(), &before);
    Some(async move {
        let opened = tokio::task::spawn_blocking(open).await;
        Ok(opened.map_err(|error| ServeError::Serve(error.to_string()))??)
    })
}
