//! The proxy that refuses everything.
//!
//! Tools without a network retry for minutes and then blame the internet. With a proxy that answers at once, they fail in a second and
//! show why. The listener was made by init on the sandbox's own loopback, so nothing outside can reach it; it never connects anywhere.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Longest request head that is read, in bytes.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// How long a client may take to send its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections answered at once for one sandbox; more wait in the kernel's queue.
const CONNECTIONS: usize = 32;

/// Answers while it lives. The listener holds the sandbox's network namespace, so this must not outlive the sandbox.
#[derive(Debug)]
pub struct Refusal {
    task: Option<JoinHandle<()>>,
}

impl Refusal {
    /// Stops answering and lets go of the listener.
    pub async fn stop(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Answers on `listener`, in the name of a policy.
pub fn serve(listener: OwnedFd, policy: &str) -> Refusal {
    let body = format!(
        "fumehood: policy `{policy}` gives this command no network (rule `network.mode`). \
         A policy with a network grant would allow it.\n"
    );
    let answer = format!(
        "HTTP/1.1 403 Blocked-by-sandbox-policy\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let listener = std::net::TcpListener::from(listener);
    match listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
    {
        Ok(listener) => Refusal {
            task: Some(tokio::spawn(accept(listener, Arc::from(answer)))),
        },
        Err(error) => {
            tracing::warn!(%error, "no refusing proxy for a sandbox");
            Refusal { task: None }
        }
    }
}

async fn accept(listener: TcpListener, answer: Arc<str>) {
    // Aborting this task drops the set, which aborts what it holds.
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if answering.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(answering.spawn(refuse(stream, Arc::clone(&answer)))),
                // Out of descriptors, most likely: the next one may do.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = answering.join_next() => {}
        }
    }
}

/// Reads a request's head, so that no client sees a reset before it has sent it, and answers.
async fn refuse(mut stream: TcpStream, answer: Arc<str>) {
    let mut head = Vec::new();
    let read = async {
        while head.len() < MAX_HEAD_BYTES && !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(HEAD_TIMEOUT, read).await;
}
