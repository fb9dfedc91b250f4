//! From grants to a sandbox that can take a command: what a run, and a call that works on files, do alike.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use fumehood_policies::Grants;
use fumehood_sandbox::event as sandbox_event;
use fumehood_sandbox::spec::{Enforced, Protection, SandboxSpec};

use super::Host;
use super::find::{self, FindError, find};
use super::model::Ending;
use crate::launch::{Launching, Watched};
use crate::{lower, remedy};

/// How long one waits for a launcher that died to be replaced, and how often it looks.
const LAUNCHER_PATIENCE: Duration = Duration::from_secs(5);
const LAUNCHER_PAUSE: Duration = Duration::from_millis(20);

/// Looks for what the patterns of the policy stand for; most have none.
pub async fn find_all(grants: Box<Grants>, host: &mut Host, launching: &Launching) -> Result<Box<Grants>, FindError> {
    if !find::is_needed(&grants) {
        return Ok(grants);
    }
    let facts = host.clone();
    let launching = launching.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let mut lister = None;
        let found = find(&grants, &facts, &mut |directory, max| {
            let lister = match &lister {
                Some(lister) => lister,
                None => lister.insert(launching.lister()?),
            };
            lister.names(directory, max)
        });
        (grants, found)
    });
    match looked.await {
        Ok((grants, found)) => {
            host.found = found?;
            Ok(grants)
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Which rule hides something that the workspace would show, and what to do about it.
pub fn shows_hidden(policy: &str, grants: &Grants, host: &Host) -> Option<(&'static str, String)> {
    let (rule, hidden) = lower::hidden_by_workspace(grants, host)
        .into_iter()
        .find(|(_, path)| path.symlink_metadata().is_ok())?;
    let explanation = format!(
        "policy `{policy}` hides {}, and the workspace {} would show it; name another directory, or a policy that does not hide it",
        hidden.display(),
        host.workspace.display()
    );
    Some((rule, explanation))
}

/// What a policy's denial is to add where others stand over it: it may be one of those that says so.
pub fn standing_under(layers: &[String]) -> String {
    match layers {
        [] | [_] => String::new(),
        [_, above @ ..] => format!("; this policy stands under {}", above.join(" under ")),
    }
}

/// The end of what needs a protection that the self-test found without effect.
pub fn missing(spec: &SandboxSpec, launching: &Launching) -> Option<Ending> {
    let (protection, why) = launching.missing(spec)?;
    let hint = format!(
        "the policy requires `{}`, which the self-test found without effect on this machine; {}",
        protection.name(),
        advice(launching.remedy(protection), "see `fumehood doctor`")
    );
    Some(failed(Some(protection), &why, 0, hint))
}

/// Asks for a sandbox, again and again while the launcher is being replaced.
pub async fn create_sandbox(spec: &SandboxSpec, launching: &Launching) -> std::io::Result<Watched> {
    let until = Instant::now() + LAUNCHER_PATIENCE;
    loop {
        match launching.create(spec) {
            Err(error) if is_launcher_gone(&error) && Instant::now() < until => {
                tokio::time::sleep(LAUNCHER_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Whether the launcher died: there is none now, or nobody reads its socket.
fn is_launcher_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | BrokenPipe | ConnectionReset)
}

/// The end of what could not have its sandbox. `errno` is 0 where the kernel said nothing.
pub fn failed(protection: Option<Protection>, stage: &str, errno: i32, hint: String) -> Ending {
    Ending::SandboxFailed {
        protection,
        stage: stage.to_owned(),
        errno,
        path: Vec::new(),
        hint,
    }
}

/// Waits until the sandbox can take a command. An error is the run's ending.
pub async fn ready(
    sandbox: &mut Watched,
    memory_limit: Option<u64>,
    launching: &Launching,
) -> Result<(Vec<Enforced>, Option<OwnedFd>), Ending> {
    loop {
        match sandbox.receive().await {
            Ok(Some((sandbox_event::Event::Created, _))) => {}
            Ok(Some((sandbox_event::Event::Ready { enforcement }, mut fds))) => return Ok((enforcement, fds.pop())),
            Ok(Some((sandbox_event::Event::Failed(failure), _))) => return Err(sandbox_failed(failure, launching)),
            Ok(Some((sandbox_event::Event::Gone { usage, .. }, _))) if usage.oom_kills > 0 => {
                return Err(Ending::OutOfMemory {
                    limit_bytes: memory_limit.unwrap_or(0),
                });
            }
            Ok(Some((sandbox_event::Event::Gone { init_status, .. }, _))) => {
                return Err(Ending::Lost {
                    why: format!("init ended with {init_status} before it was ready"),
                });
            }
            Ok(Some((event, _))) => {
                return Err(Ending::Lost {
                    why: format!("init sent {event:?} before it was ready"),
                });
            }
            Ok(None) => {
                return Err(Ending::Lost {
                    why: "the launcher died".to_owned(),
                });
            }
            Err(error) => {
                return Err(Ending::Lost {
                    why: format!("the sandbox's socket broke: {error}"),
                });
            }
        }
    }
}

/// The same of what the launcher or init says, with what would help.
pub fn sandbox_failed(failure: sandbox_event::Failure, launching: &Launching) -> Ending {
    let sandbox_event::Failure {
        protection,
        stage,
        errno,
        path,
    } = failure;
    let hint = match (errno, protection) {
        (0, Some(protection)) => {
            format!(
                "the policy requires `{}` to be active; {}",
                protection.name(),
                advice(
                    launching.remedy(protection),
                    "`fumehood doctor` says what this machine lacks"
                )
            )
        }
        // What machines and containers answer that do not let this user make namespaces.
        (nix::libc::ENOSPC | nix::libc::EPERM | nix::libc::EACCES | nix::libc::ENOSYS, Some(_)) => {
            format!(
                "this machine may restrict user namespaces; {}",
                advice(
                    remedy::namespaces(),
                    "`fumehood doctor` says what is missing and how to mend it"
                )
            )
        }
        _ => String::new(),
    };
    Ending::SandboxFailed {
        protection,
        stage,
        errno,
        path,
        hint,
    }
}

/// What helps, or where to look when nothing is known to.
fn advice(remedy: String, otherwise: &str) -> String {
    match remedy.as_str() {
        "" => otherwise.to_owned(),
        remedy => format!("what helps: {remedy}"),
    }
}
