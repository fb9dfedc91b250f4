//! The project's own file, `.fumehood.toml` at the workspace's root.
//!
//! It is written by whoever writes to the repository, the agent among them. So it is read without following any link, only if it belongs to the
//! workspace's owner, the caller, the daemon's user or root, and it is worth nothing more than narrowing until the user trusts its digest.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use fumehood_policies::{LoadError, Policy, PolicyFile, Reference};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use sha2::{Digest as _, Sha256};

use super::counted::read_bounded;
use super::hex;
use super::store::{MAX_POLICY_BYTES, PolicyStore, StoreError};
use super::trust::Trusted;

/// Its name.
pub const PROJECT_FILE: &str = ".fumehood.toml";
/// Longest such file, in bytes, and longest one that it extends by path.
pub const MAX_PROJECT_BYTES: u64 = 64 << 10;

/// A file outside the policy directories, with its policy.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Where it is, without links.
    pub path: PathBuf,
    /// Its policy, as it would hold if it were trusted.
    pub policy: Policy,
    /// Digest of its bytes and of those that it extends by path.
    pub file_digest: [u8; 32],
}

impl Outside {
    /// The entry by which this content is trusted from now on.
    pub fn trusted_now(&self, by: &str) -> Trusted {
        Trusted {
            path: self.path.clone(),
            name: self.policy.name.clone(),
            policy_digest: self.policy.digest.to_string(),
            file_digest: hex(&self.file_digest),
            at: crate::audit::now(),
            by: by.to_owned(),
        }
    }
}

/// Why a project's file does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It belongs to somebody who has nothing to do with the workspace.
    #[error("{} belongs to uid {uid}, who is neither the workspace's owner nor the caller: remove it, or name a policy", path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose.
        uid: u32,
    },
    /// It is wrong.
    #[error(transparent)]
    Wrong(#[from] StoreError),
    /// It is wrong, and not for everybody to read.
    #[error("{place}: it is wrong; `fumehood policy check` says why to whoever may read it")]
    WrongSomewhere {
        /// File, line and column.
        place: String,
    },
}

impl ProjectError {
    /// The same without any text of files.
    pub fn without_text(self) -> ProjectError {
        let place = match &self {
            ProjectError::Wrong(StoreError::Parse(errors)) => match errors.errors() {
                [first, ..] => format!("{}:{}:{}", errors.origin(), first.line, first.column),
                [] => errors.origin().to_owned(),
            },
            ProjectError::Wrong(_) => PROJECT_FILE.to_owned(),
            _ => return self,
        };
        ProjectError::WrongSomewhere { place }
    }
}

/// A directory that was walked to without following a link.
struct Workspace<'a> {
    fd: OwnedFd,
    path: &'a Path,
    /// Whose files are read; the workspace's owner is among them.
    owners: Vec<u32>,
}

impl Workspace<'_> {
    fn open<'a>(path: &'a Path, owners: &[u32]) -> Result<Workspace<'a>, ProjectError> {
        let failed = |errno: Errno| ProjectError::Read {
            path: path.to_owned(),
            source: errno.into(),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut fd = open("/", flags, Mode::empty()).map_err(failed)?;
        for component in path.components() {
            if let Component::Normal(name) = component {
                fd = openat(&fd, name, flags, Mode::empty()).map_err(failed)?;
            }
        }
        let owner = fstat(&fd).map_err(failed)?.st_uid;
        let owners = owners.iter().copied().chain([owner, 0]).collect();
        Ok(Workspace { fd, path, owners })
    }

    /// Reads a file below the workspace; no name on the way may be a link. `None`: it does not exist.
    fn read(&self, relative: &Path) -> Result<Option<Vec<u8>>, ProjectError> {
        let path = self.path.join(relative);
        let failed = |source: io::Error| ProjectError::Read {
            path: path.clone(),
            source,
        };
        let errno = |errno: Errno| match errno {
            Errno::ELOOP => failed(io::Error::other(
                "a symbolic link is not followed here; put the file itself there",
            )),
            other => failed(other.into()),
        };
        let way = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let last = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut names = relative.components().peekable();
        let mut above: Option<OwnedFd> = None;
        while let Some(component) = names.next() {
            let flags = if names.peek().is_some() { way } else { last };
            let here = above.as_ref().unwrap_or(&self.fd);
            match openat(here, component.as_os_str(), flags, Mode::empty()) {
                Err(Errno::ENOENT) => return Ok(None),
                // What a link with O_DIRECTORY says.
                Err(Errno::ENOTDIR) => return Err(errno(Errno::ELOOP)),
                opened => above = Some(opened.map_err(errno)?),
            }
        }
        let Some(file) = above else { return Ok(None) };
        let stat = fstat(&file).map_err(errno)?;
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        if !self.owners.contains(&stat.st_uid) {
            return Err(ProjectError::Owner { path, uid: stat.st_uid });
        }
        read_bounded(file, MAX_PROJECT_BYTES).map(Some).map_err(failed)
    }
}

/// Reads the project's file of a workspace, which is a path without links, with what it extends: policies of `store` by name, files in the
/// workspace by path. `owners` may own it beside root and the workspace's owner. `None`: there is none.
///
/// # Errors
/// When it is there and cannot be read, is somebody else's, or is wrong: a run is refused then, since what it narrows is not known.
pub fn read_project(store: &PolicyStore, workspace: &Path, owners: &[u32]) -> Result<Option<Outside>, ProjectError> {
    let opened = Workspace::open(workspace, owners)?;
    let Some(bytes) = opened.read(Path::new(PROJECT_FILE))? else {
        return Ok(None);
    };
    let path = workspace.join(PROJECT_FILE);
    let digest = RefCell::new(Sha256::new());
    let add = |path: &Path, bytes: &[u8]| {
        use std::os::unix::ffi::OsStrExt as _;
        let name = path.as_os_str().as_bytes();
        let mut digest = digest.borrow_mut();
        for part in [name, bytes] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
    };
    add(Path::new(PROJECT_FILE), &bytes);
    let policy = store.elsewhere(&bytes, &path.display().to_string(), &|reference| {
        if !reference.is_path() {
            return store.by_reference(reference);
        }
        let (relative, bytes) = beside(&opened, reference)?;
        add(&relative, &bytes);
        let origin = workspace.join(relative).display().to_string();
        let file = PolicyFile::parse(&bytes, &origin)?;
        match file.ceiling() {
            Some(place) => Err(LoadError::Missing {
                message: format!("{place} says `ceiling = true`, which only an administrator's file can"),
                help: None,
            }),
            None => Ok(file),
        }
    })?;
    let file_digest = digest.into_inner().finalize().into();
    Ok(Some(Outside {
        path,
        policy,
        file_digest,
    }))
}

/// A file that is extended by a path relative to the one that says so.
fn beside(workspace: &Workspace<'_>, reference: &Reference) -> Result<(PathBuf, Vec<u8>), LoadError> {
    let missing = |message: String| LoadError::Missing {
        message,
        help: Some("name a policy file in the workspace, or a policy of the daemon".to_owned()),
    };
    let from = Path::new(reference.place.origin());
    let from = from.strip_prefix(workspace.path).ok().and_then(Path::parent);
    // Names only, so that `..` can be taken by the letter: no link is followed.
    let mut relative = from.unwrap_or(Path::new("")).to_path_buf();
    for component in Path::new(&reference.text).components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            _ if component == Component::ParentDir && relative.pop() => {}
            _ => return Err(missing(format!("`{}` leads out of the workspace", reference.text))),
        }
    }
    match workspace.read(&relative) {
        Ok(Some(bytes)) => Ok((relative, bytes)),
        Ok(None) => Err(missing(format!("there is no file `{}`", reference.text))),
        Err(error) => Err(missing(error.to_string())),
    }
}

/// A policy file that a request brings or that is to be trusted for requests: it extends policies of the daemon by name only.
///
/// # Errors
/// What is wrong with it.
pub fn read_inline(store: &PolicyStore, path: &Path, bytes: &[u8]) -> Result<Outside, StoreError> {
    let policy = store.inline(bytes, &path.display().to_string())?;
    Ok(Outside {
        path: path.to_owned(),
        policy,
        file_digest: Sha256::digest(bytes).into(),
    })
}

/// The bytes of any regular file that a person names; what is longer than a policy may be is an error.
pub(super) fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    match fstat(&file)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() {
        true => read_bounded(file, MAX_POLICY_BYTES),
        false => Err(io::Error::other("it is no regular file")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn read(workspace: &Path) -> Result<Option<Outside>, String> {
        read_project(&PolicyStore::built_in(), workspace, &[me()]).map_err(|error| error.to_string())
    }

    const SHOP: &str = "version = 1\nname = \"shop\"\n";

    #[test]
    fn the_file_is_read_with_what_lies_beside_it_and_has_a_digest_of_both() {
        let place = tempfile::tempdir().unwrap();
        let workspace = place.path().canonicalize().unwrap();
        assert!(read(&workspace).unwrap().is_none());
        let write = |name: &str, text: &str| fs::write(workspace.join(name), text).unwrap();
        fs::create_dir(workspace.join("sub")).unwrap();
        write(
            ".fumehood.toml",
            &format!("{SHOP}extends = [\"default\", \"./sub/more.toml\"]\n"),
        );
        write(
            "sub/more.toml",
            "version = 1\nname = \"more\"\nextends = [\"../base.toml\"]\n",
        );
        write(
            "base.toml",
            "version = 1\nname = \"base\"\n[environment]\npass = [\"MORE\"]\n",
        );
        let first = read(&workspace).unwrap().unwrap();
        assert!(first.policy.environment.passes(b"MORE"));
        assert_eq!(first.path, workspace.join(".fumehood.toml"));
        write(
            "base.toml",
            "version = 1\nname = \"base\"\n# more\n[environment]\npass = [\"MORE\"]\n",
        );
        let second = read(&workspace).unwrap().unwrap();
        assert_eq!(first.policy.digest, second.policy.digest);
        assert_ne!(
            first.file_digest, second.file_digest,
            "a byte of what it extends is a byte of it"
        );
    }

    #[test]
    fn nothing_outside_the_workspace_is_read_and_no_link_followed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let workspace = root.join("work");
        fs::create_dir(&workspace).unwrap();
        fs::write(root.join("out.toml"), "version = 1\nname = \"out\"\n").unwrap();
        let file = workspace.join(".fumehood.toml");
        symlink(root.join("out.toml"), &file).unwrap();
        assert!(read(&workspace).unwrap_err().contains("symbolic link is not followed"));
        fs::remove_file(&file).unwrap();
        symlink(&root, workspace.join("up")).unwrap();
        for (path, says) in [
            ("../out.toml", "leads out of the workspace"),
            ("./a/../../out.toml", "leads out of the workspace"),
            ("./up/out.toml", "symbolic link is not followed"),
            ("./gone.toml", "there is no file"),
        ] {
            fs::write(&file, format!("{SHOP}extends = [\"{path}\"]\n")).unwrap();
            let error = read(&workspace).unwrap_err();
            assert!(
                error.contains(says) && error.contains(".fumehood.toml:3:"),
                "{path}: {error}"
            );
        }
        let error = read(&root.join("work/up")).unwrap_err();
        assert!(error.contains("up"), "a workspace is not reached by a link: {error}");
    }

    #[test]
    fn what_is_no_policy_is_refused_with_its_place() {
        let place = tempfile::tempdir().unwrap();
        let workspace = place.path().canonicalize().unwrap();
        let file = workspace.join(".fumehood.toml");
        fs::write(&file, format!("{SHOP}ceiling = true\n")).unwrap();
        assert!(read(&workspace).unwrap_err().contains("`ceiling = true` counts in"));
        fs::write(&file, format!("{SHOP}denied_patths = []\n")).unwrap();
        assert!(read(&workspace).unwrap_err().contains(".fumehood.toml:3:1"));
        fs::write(&file, vec![b'#'; MAX_PROJECT_BYTES as usize + 1]).unwrap();
        assert!(read(&workspace).unwrap_err().contains("longer than 65536 bytes"));
        fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, Mode::S_IRUSR).unwrap();
        assert!(read(&workspace).unwrap_err().contains("no regular file"));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(read(&workspace).is_err());
        if me() == 0 {
            fs::remove_dir(&file).unwrap();
            fs::write(&file, SHOP).unwrap();
            chown(&file, Some(54_399), None).unwrap();
            assert!(read(&workspace).unwrap_err().contains("belongs to uid 54399"));
            chown(&workspace, Some(54_399), None).unwrap();
            assert!(read(&workspace).unwrap().is_some(), "it is the workspace's owner's");
        }
    }
}
