//! The proxy that refuses everything.
//!
//! Tools without a network retry for minutes and then blame the internet. With a proxy that answers at once, they fail in a second and
//! show why. The listener was made by init on the sandbox's own loopback, so nothing outside can reach it; it never connects anywhere.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
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

/// Answers on `listener`, in the name of a policy. Tells each host that was asked for, with its port, before it answers: what
/// finds no room in the channel is not told.
pub fn serve(listener: OwnedFd, policy: &str, told: mpsc::Sender<String>) -> Refusal {
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
            task: Some(tokio::spawn(accept(listener, Arc::from(answer), told))),
        },
        Err(error) => {
            tracing::warn!(%error, "no refusing proxy for a sandbox");
            Refusal { task: None }
        }
    }
}

async fn accept(listener: TcpListener, answer: Arc<str>, told: mpsc::Sender<String>) {
    // Aborting this task drops the set, which aborts what it holds.
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if answering.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(answering.spawn(refuse(stream, Arc::clone(&answer), told.clone()))),
                // Out of descriptors, most likely: the next one may do.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = answering.join_next() => {}
        }
    }
}

/// Reads a request's head, so that no client sees a reset before it has sent it, and answers.
async fn refuse(mut stream: TcpStream, answer: Arc<str>, told: mpsc::Sender<String>) {
    let mut head = Vec::new();
    let read = async {
        while head.len() < MAX_HEAD_BYTES && !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        if let Some(address) = address(&head) {
            let _ = told.try_send(address);
        }
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(HEAD_TIMEOUT, read).await;
}

/// Longest host with its port that is told, in bytes: a name of RFC 1035, a colon and five digits.
const MAX_ADDRESS_BYTES: usize = 253 + 6;

/// What a proxy request asks for (RFC 9112, 3.2.2 and 3.2.3), as `host:port`; `None` for what is no such request.
fn address(head: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\r' || *byte == b'\n').next()?).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (authority, port) = if method == "CONNECT" {
        (target, 443)
    } else {
        let (scheme, rest) = target.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let port = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => 443,
            "ftp" => 21,
            _ => 80,
        };
        // What stands before the host signs somebody in.
        (authority.rsplit('@').next()?, port)
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]%".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(is_plain) {
        return None;
    }
    // The colons of an IPv6 address stand in brackets.
    let has_port = authority.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    let address = match has_port {
        true => authority.to_owned(),
        false => format!("{authority}:{port}"),
    };
    (address.len() <= MAX_ADDRESS_BYTES).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_host_and_port() {
        let cases = [
            (
                "CONNECT registry.npmjs.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
                Some("registry.npmjs.org:443"),
            ),
            ("CONNECT example.com HTTP/1.1\r\n\r\n", Some("example.com:443")),
            (
                "CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n\r\n",
                Some("[2001:db8::1]:8443"),
            ),
            ("GET http://example.com/a?b HTTP/1.1\r\n\r\n", Some("example.com:80")),
            ("GET http://[2001:db8::1]/ HTTP/1.1\r\n\r\n", Some("[2001:db8::1]:80")),
            (
                "GET https://u:secret@example.com HTTP/1.1\r\n\r\n",
                Some("example.com:443"),
            ),
            ("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", None),
            ("CONNECT \u{1b}[2Jx:1 HTTP/1.1\r\n\r\n", None),
            ("CONNECT", None),
            ("\u{16}\u{3}\u{1}", None),
            ("", None),
        ];
        for (head, right) in cases {
            assert_eq!(address(head.as_bytes()).as_deref(), right, "{head:?}");
        }
        assert_eq!(
            address(format!("CONNECT {}:443 HTTP/1.1", "x".repeat(300)).as_bytes()),
            None
        );
        assert_eq!(address(b"CONNECT \xff:443 HTTP/1.1"), None);
    }
}
