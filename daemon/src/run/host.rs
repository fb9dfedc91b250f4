//! Facts about this machine and this caller that a sandbox is made from. Looked up once per run; `lower.rs` is pure and gets them as
//! data.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fumehood_policies::PathPattern;
use fumehood_sandbox::spec::{Identity, Program};
use nix::unistd::{Gid, Group, Uid, User};

use super::{programs, worktree};
use crate::peer::{Identity as PeerIdentity, Peer};

/// The ids a command sees when its files belong to root: the first ordinary user of most systems, so that tools that look at ids find
/// nothing odd.
const INSIDE_FOR_ROOT: u32 = 1000;

/// Directories that cannot be a workspace: the command would get the machine's own files to write, or the view could not be built.
const NOT_WORKSPACES: &[&str] = &[
    "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/run", "/sbin", "/sys", "/tmp",
    "/usr", "/var", "/var/tmp",
];

/// What `lower.rs` needs to know beside the grants.
#[derive(Clone, Debug)]
pub struct Host {
    /// As whom the command runs.
    pub identity: Identity,
    /// That user's name.
    pub user: String,
    /// That group's name.
    pub group: String,
    /// The home directory's path.
    pub home: PathBuf,
    /// Whether it exists on this machine.
    pub home_exists: bool,
    /// The workspace, without symbolic links.
    pub workspace: PathBuf,
    /// The repository that the workspace is checked out from, where that lies elsewhere and the two name each other.
    pub repository: Option<PathBuf>,
    /// What git outside is made to run by configuration that the sandbox does not see, as far as it could lie in the workspace.
    pub programs: Vec<Program>,
    /// The working directory: absolute.
    pub cwd: PathBuf,
    /// Places of the daemon's own that no command may reach: its socket, audit log, configuration, policies, scratch directory.
    pub private: Arc<[PathBuf]>,
    /// What was found for the patterns of a policy that stand for what is there: those with `*` and `?`, and those in the workspace, which
    /// must not lead out of it. See [`find`](super::find).
    pub found: BTreeMap<PathPattern, Vec<PathBuf>>,
}

/// Why a directory cannot be a workspace.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// It cannot be looked at.
    #[error("{}: {source}; name an existing directory", path.display())]
    Look {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// It holds what the daemon keeps for itself, or lies in it.
    #[error(
        "{} and the daemon's own {} lie in one another; a command must not reach it: choose another workspace, or another place for it",
        workspace.display(), private.display()
    )]
    Private {
        /// The workspace.
        workspace: PathBuf,
        /// What is the daemon's.
        private: PathBuf,
    },
    /// It holds too much.
    #[error(
        "{} would give the command your home directory or the system itself; change to a project's directory, or name one",
        .0.display()
    )]
    TooWide(PathBuf),
    /// It is the machine's, not a project's.
    #[error(
        "{} is no place for files but for what the kernel is asked and told (proc, sysfs, cgroup, devices and the like); change to a project's directory, or name one",
        .0.display()
    )]
    Kernel(PathBuf),
}

/// Who asks for what, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who.
    pub peer: &'a Peer,
    /// The workspace: absolute.
    pub workspace: &'a Path,
    /// The working directory: absolute, or relative to the workspace; empty for the workspace.
    pub cwd: &'a Path,
    /// The caller's environment.
    pub caller_env: &'a [(Vec<u8>, Vec<u8>)],
    /// Places of the daemon's own.
    pub private: &'a Arc<[PathBuf]>,
}

impl Host {
    /// Looks everything up. Blocks on the file system and the user database.
    pub fn look_up(asked: Asked<'_>) -> Result<Host, WorkspaceError> {
        let look = |source| WorkspaceError::Look {
            path: asked.workspace.to_owned(),
            source,
        };
        let workspace = asked.workspace.canonicalize().map_err(look)?;
        let metadata = workspace.metadata().map_err(look)?;
        if !metadata.is_dir() {
            return Err(WorkspaceError::NotADirectory(workspace));
        }
        let (uid, gid) = owner(asked.peer, metadata.uid(), metadata.gid());
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        // Root's daemon takes an ordinary user's own group, never root's for somebody else; what belongs to root keeps root's.
        let gid = match &user {
            _ if !Uid::effective().is_root() => gid,
            Some(user) => user.gid.as_raw(),
            None if uid != 0 && gid == 0 => uid,
            None => gid,
        };
        let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
        let home = home(asked, uid, user.as_ref());
        if workspace == Path::new("/")
            || NOT_WORKSPACES.iter().any(|path| workspace == Path::new(path))
            || home.starts_with(&workspace)
        {
            return Err(WorkspaceError::TooWide(workspace));
        }
        let is_devices = workspace.starts_with("/dev") && !workspace.starts_with("/dev/shm");
        if is_devices || fumehood_sandbox::is_kernels_file_system(&workspace).map_err(look)? {
            return Err(WorkspaceError::Kernel(workspace));
        }
        let both = |private: &&PathBuf| private.starts_with(&workspace) || workspace.starts_with(private);
        if let Some(private) = asked.private.iter().find(both) {
            return Err(WorkspaceError::Private {
                workspace,
                private: private.clone(),
            });
        }
        let cwd = match asked.cwd {
            cwd if cwd.as_os_str().is_empty() => workspace.clone(),
            cwd if cwd.is_absolute() => cwd.to_owned(),
            cwd => workspace.join(cwd),
        };
        let config_home = said(asked, uid, b"XDG_CONFIG_HOME");
        let programs = programs::programs(programs::Asked {
            workspace: &workspace,
            uid,
            home: &home,
            config_home: config_home.as_deref(),
        });
        let inside = |id: u32| if id == 0 { INSIDE_FOR_ROOT } else { id };
        Ok(Host {
            identity: Identity {
                outside_uid: uid,
                outside_gid: gid,
                inside_uid: inside(uid),
                inside_gid: inside(gid),
            },
            user: not_root(
                user.as_ref()
                    .map_or_else(|| format!("u{uid}"), |user| user.name.clone()),
            ),
            group: not_root(group.map_or_else(|| format!("g{gid}"), |group| group.name)),
            home_exists: home.is_dir(),
            home,
            repository: worktree::repository(&workspace, uid).filter(|path| {
                !asked
                    .private
                    .iter()
                    .any(|own| own.starts_with(path) || path.starts_with(own))
            }),
            programs,
            workspace,
            cwd,
            private: Arc::clone(asked.private),
            found: BTreeMap::new(),
        })
    }
}

/// The name inside of what is root outside: `root` is 0 inside, and the command is not.
fn not_root(name: String) -> String {
    if name == "root" { "fumehood".to_owned() } else { name }
}

/// As whom the command runs: an ordinary daemon can only be itself; root's runs a caller's command as the caller and its own as
/// the workspace's owner.
fn owner(peer: &Peer, workspace_uid: u32, workspace_gid: u32) -> (u32, u32) {
    if !Uid::effective().is_root() {
        return (Uid::effective().as_raw(), Gid::effective().as_raw());
    }
    match peer.identity {
        PeerIdentity::Unix { uid, gid, .. } if uid != 0 => (uid, gid),
        _ => (workspace_uid, workspace_gid),
    }
}

/// A directory of the caller's environment, where the caller is the one the command runs as.
fn said(asked: Asked<'_>, uid: u32, variable: &[u8]) -> Option<PathBuf> {
    let own = matches!(asked.peer.identity, PeerIdentity::Unix { uid: peer, .. } if peer == uid);
    let mut found = asked.caller_env.iter().rev().filter(|(name, _)| name == variable);
    let value = found.next().map(|(_, value)| PathBuf::from(OsStr::from_bytes(value)));
    value.filter(|path| own && path.is_absolute())
}

/// The home directory: what the caller says, where the caller is the one the command runs as; else what the user database says.
fn home(asked: Asked<'_>, uid: u32, user: Option<&User>) -> PathBuf {
    said(asked, uid, b"HOME")
        .or_else(|| user.map(|user| user.dir.clone()))
        .and_then(|home| home.canonicalize().ok().or(Some(home)))
        .filter(|home| home.is_absolute() && home != Path::new("/"))
        .unwrap_or_else(|| PathBuf::from("/home/fumehood"))
}
