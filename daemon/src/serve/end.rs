//! How the daemon ends: its runs, its sessions, its connections, and what asks for it.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::run::RunTable;
use crate::service::Forward;
use crate::session::SessionTable;

/// What background processes of sessions have after the stop signal when the daemon ends.
const SESSIONS_GRACE: Duration = Duration::from_secs(2);

/// How long ended runs may take to be gone.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    stop: Option<oneshot::Sender<()>>,
    /// Ends when it is stopped and all that was asked over its connections is answered.
    pub task: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Server {
    /// One that ends when `stop` says so.
    pub(super) fn new(stop: oneshot::Sender<()>, task: JoinHandle<Result<(), tonic::transport::Error>>) -> Server {
        Server { stop: Some(stop), task }
    }

    /// Takes no new connections, tells those there are to end, and lets what is under way come to its end.
    pub(super) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits until it has ended by itself, or until then. Whether it has.
    pub(super) async fn has_ended(&mut self, until: Instant) -> bool {
        if !self.task.is_finished() {
            let _ = tokio::time::timeout_at(until.into(), &mut self.task).await;
        }
        self.task.is_finished()
    }
}

/// Waits for the runs to be over; when the grace or the patience is, ends them.
pub(super) async fn drain(runs: &RunTable, signals: &mut Signals, grace: Duration) {
    let mut active = runs.active();
    let over = |active: &mut watch::Receiver<usize>| {
        let mut active = active.clone();
        async move { active.wait_for(|active| *active == 0).await.is_ok() }
    };
    if *active.borrow() > 0 {
        tracing::info!(runs = *active.borrow(), ?grace, "draining");
    }
    let hurried = tokio::select! {
        _ = over(&mut active) => return,
        () = tokio::time::sleep(grace) => false,
        () = signals.next() => true,
    };
    let grace = if hurried {
        Duration::ZERO
    } else {
        Duration::from_secs(2)
    };
    tracing::info!(runs = *active.borrow(), hurried, "ending the runs that are left");
    runs.end_all(grace).await;
    let ended = tokio::select! {
        _ = over(&mut active) => true,
        () = async { signals.next().await; runs.end_all(Duration::ZERO).await; std::future::pending().await } => true,
        () = tokio::time::sleep(END_TIMEOUT) => false,
    };
    if !ended {
        tracing::error!(
            runs = *active.borrow(),
            "some runs did not end; the launcher's end takes them along"
        );
    }
}

/// Closes the sessions, whose runs are over.
pub(super) async fn close_all(sessions: &SessionTable) {
    sessions.end_all(SESSIONS_GRACE);
    let mut living = sessions.living();
    let closed = living.wait_for(|living| *living == 0);
    if tokio::time::timeout(SESSIONS_GRACE + END_TIMEOUT, closed)
        .await
        .is_err()
    {
        tracing::error!("some sessions did not end; the launcher's end takes them along");
    }
}

/// Resolves when nothing ran, no session was open and nobody was connected for `period`; never without one.
pub(super) async fn idle(
    period: Option<Duration>,
    mut active: watch::Receiver<usize>,
    mut sessions: watch::Receiver<usize>,
    mut connections: watch::Receiver<usize>,
    forward: &Forward,
) {
    let Some(period) = period else {
        return std::future::pending().await;
    };
    loop {
        forward.gone().await;
        let busy = [&mut active, &mut sessions, &mut connections].map(|count| *count.borrow_and_update() > 0);
        let busy = busy.contains(&true);
        let changed = async {
            tokio::select! {
                result = active.changed() => result.is_ok(),
                result = sessions.changed() => result.is_ok(),
                result = connections.changed() => result.is_ok(),
            }
        };
        if busy {
            if !changed.await {
                return;
            }
        } else if tokio::time::timeout(period, changed).await.is_err() {
            tracing::info!(?period, "nothing to do; ending");
            return;
        }
    }
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of either.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
