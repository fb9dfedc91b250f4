//! The daemon's own walls: what it opens before they are up, and what it needs after.
//!
//! [`Opened::open`] reads everything that only a starting daemon reads: policies, certificates, and takes the TCP address. Then
//! [`raise`] gives up for good what a serving daemon does not need; `fumehood_sandbox::shed()` says what that is. It has to come before the
//! runtime, because each thread passes on to those it starts what it may do.

use std::fs::DirBuilder;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use fumehood_sandbox::Needs;
use fumehood_sandbox::spec::State;

use crate::config::Config;
use crate::handover::TakeOver;
use crate::listen::{tls, unix};
use crate::policy::{Policies, PolicyStore, Sources, TrustStore};
use crate::serve::ServeError;
use crate::{audit, systemd};

/// What was opened while everything could be.
#[derive(Debug)]
pub struct Opened {
    /// The policies.
    pub policies: Policies,
    /// The TCP listener with what checks certificates, where configured.
    pub tcp: Option<(TcpListener, tls::Acceptor)>,
}

impl Opened {
    /// Opens what the configuration names. The TCP address is taken from the daemon that this one takes over from, where that has it.
    ///
    /// # Errors
    /// When a policy or certificate is wrong or the address cannot be listened on.
    pub fn open(config: &Config, take_over: Option<&mut TakeOver>) -> Result<Opened, ServeError> {
        if config.policy_dirs_named {
            PolicyStore::expect(&config.policy_dirs)?;
        }
        let sources = Sources {
            system: config.system_policy_dirs.clone(),
            user: config.policy_dirs.clone(),
            default: config.default_policy.clone(),
            uid: config.uid,
        };
        // The directory is made here because the walls are built around it, and the list of trusted files needs it before.
        let _ = audit_directory(&config.audit.path);
        let trust = TrustStore::beside(&config.audit.path);
        let policies = Policies::load(sources, config.access.clone(), config.inline_policies, trust)?;
        let handed = take_over.and_then(|there| {
            let same = there.offer.tcp == config.tcp.as_ref().map(|tcp| tcp.listen);
            there.tcp.take().filter(|_| same)
        });
        let tcp = config.tcp.as_ref().map(|tcp| {
            let acceptor = tls::Acceptor::new(tcp)?;
            let listener = match handed {
                Some(listener) => Ok(listener),
                None => TcpListener::bind(tcp.listen),
            };
            let listener = listener.and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            let listener = listener.map_err(|source| ServeError::Tcp {
                address: tcp.listen,
                source,
            })?;
            Ok::<_, ServeError>((listener, acceptor))
        });
        Ok(Opened {
            policies,
            tcp: tcp.transpose()?,
        })
    }
}

/// Raises the walls around this process, and says in the log which stand. `own_socket` is false when systemd holds the socket.
///
/// # Errors
/// When the socket's directory is not the daemon's own, threads run already, or the kernel refuses what it claims to have. What it does
/// not have is told in the log.
pub fn raise(config: &Config, own_socket: bool) -> Result<(), ServeError> {
    let mut write: Vec<&Path> = audit_directory(&config.audit.path).into_iter().collect();
    if own_socket && let Some(directory) = config.socket.parent() {
        unix::own_directory(directory, unix::Reach::of(&config.allowed_uids, config.uid))?;
        write.push(directory);
    }
    // Made here because the walls are built around it. One that cannot be made is told when it is opened.
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(&config.output.dir);
    if config.output.dir.is_dir() {
        write.push(&config.output.dir);
    }
    // Where the audit log goes when nobody chose its place and that cannot be written.
    if audit::default_path().as_ref() == Some(&config.audit.path) {
        write.push(config.scratch_dir.as_path());
    }
    let listed = config.system_policy_dirs.iter().chain(&config.policy_dirs);
    let needs = Needs {
        list: listed.map(|path| nearest(path).to_owned()).collect(),
        write: write.into_iter().map(Path::to_owned).collect(),
        abstract_sockets: systemd::notifies_abstract_socket(),
    };
    let shed = fumehood_sandbox::shed(&needs)?;
    let walls = [
        ("privileges", &shed.privileges),
        ("file system", &shed.rights),
        ("system calls", &shed.syscalls),
    ];
    for (wall, state) in walls {
        match state {
            State::Active(detail) => tracing::info!(wall, detail, "the daemon is confined"),
            State::Degraded(detail) | State::Off(detail) => {
                tracing::warn!(wall, detail, "the daemon is not fully confined");
            }
        }
    }
    Ok(())
}

/// A directory, or the nearest one above it that exists: what is made in it later is listed too.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(path)
}

/// The audit log's directory, made private where it is missing. `None` where there is none and none can be made: opening the log
/// says why.
fn audit_directory(log: &Path) -> Option<&Path> {
    let directory = log.parent()?;
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    directory.is_dir().then_some(directory)
}
