//! The files that the user has trusted: a list beside the audit log, by path and digests.
//!
//! What is trusted is a content, not a name: a file that has changed by one byte, or whose policy comes out differently because something that
//! it extends has changed, is untrusted again. The list is read anew whenever it is asked, because several daemons of one user share it, and is
//! replaced as a whole. A list that cannot be read trusts nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::counted::read_bounded;

/// Its name in the directory of the audit log.
const NAME: &str = "trusted.json";
/// Longest list, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Most entries: each at most 4096 bytes of path, which JSON may double.
const MAX_ENTRIES: usize = 100;

/// A trusted file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trusted {
    /// The file: absolute, without links.
    pub path: PathBuf,
    /// The policy's name.
    pub name: String,
    /// Digest of the resolved policy, in hexadecimal.
    pub policy_digest: String,
    /// Digest of the file's bytes and of those that it extends by path, in hexadecimal.
    pub file_digest: String,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// By whom: `uid:1000`.
    pub by: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    version: u32,
    entries: Vec<Trusted>,
}

/// Why the list cannot be had or changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file system.
    #[error("cannot {action} the list of trusted files {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The list.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content is wrong.
    #[error("the list of trusted files {} is damaged: move it away and trust again", path.display())]
    Damaged {
        /// The list.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Too many.
    #[error("{MAX_ENTRIES} files are trusted already; see `fumehood policy trusted`, and untrust some")]
    Full,
}

/// The list. Clones share it.
#[derive(Clone, Debug)]
pub struct TrustStore {
    path: Arc<PathBuf>,
    /// Held while the list is changed; between daemons, a lock on a file is.
    changing: Arc<Mutex<()>>,
}

impl TrustStore {
    /// The list beside an audit log. An empty one is made where there is none, so that its place can be hidden from commands; where it cannot
    /// be made, nothing is trusted and trusting says why.
    pub fn beside(audit: &Path) -> TrustStore {
        let path = audit.with_file_name(NAME);
        let store = TrustStore {
            path: Arc::new(path),
            changing: Arc::default(),
        };
        if let Err(error) = store.open(true) {
            tracing::warn!(path = %store.path.display(), %error, "files cannot be trusted: there is no list of them");
        }
        store
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn io(&self, action: &'static str) -> impl Fn(io::Error) -> TrustError {
        let path = self.path.to_path_buf();
        move |source| TrustError::Io {
            action,
            path: path.clone(),
            source,
        }
    }

    fn open(&self, create: bool) -> io::Result<File> {
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(create)
            .create(create)
            .truncate(false)
            .mode(0o600);
        let file = options.custom_flags(flags).open(&*self.path)?;
        let found = file.metadata()?;
        let own = found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0;
        match found.is_file() && own {
            true => Ok(file),
            false => Err(io::Error::other(
                "it is not a file that only the daemon's user can write",
            )),
        }
    }

    /// Every trusted file, in the order of trusting.
    ///
    /// # Errors
    /// When the list cannot be read: then nothing is trusted.
    pub fn list(&self) -> Result<Vec<Trusted>, TrustError> {
        let file = match self.open(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.map_err(self.io("read"))?,
        };
        let bytes = read_bounded(OwnedFd::from(file), MAX_BYTES).map_err(self.io("read"))?;
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        let damaged = |source| TrustError::Damaged {
            path: self.path.to_path_buf(),
            source,
        };
        let list: List = serde_json::from_slice(&bytes).map_err(damaged)?;
        Ok(list.entries)
    }

    /// Takes a file into the list, in place of what was said of it before.
    ///
    /// # Errors
    /// When the list cannot be changed; it is then as it was.
    pub fn trust(&self, entry: Trusted) -> Result<(), TrustError> {
        self.change(|entries| {
            entries.retain(|known| known.path != entry.path);
            if entries.len() >= MAX_ENTRIES {
                return Err(TrustError::Full);
            }
            entries.push(entry);
            Ok(())
        })
    }

    /// Takes a file out of the list. False: it was not in it.
    ///
    /// # Errors
    /// As [`TrustStore::trust`].
    pub fn untrust(&self, path: &Path) -> Result<bool, TrustError> {
        let mut found = false;
        self.change(|entries| {
            let before = entries.len();
            entries.retain(|known| known.path != path);
            found = entries.len() < before;
            Ok(())
        })?;
        Ok(found)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Trusted>) -> Result<(), TrustError>) -> Result<(), TrustError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = self.io("write");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
            .open(self.path.with_extension("lock"))
            .map_err(&failed)?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?;
        let mut entries = self.list()?;
        change(&mut entries)?;
        let bytes = serde_json::to_vec_pretty(&List { version: 1, entries }).map_err(|error| failed(error.into()))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(TrustError::Full);
        }
        // Whole or not at all: a daemon that reads meanwhile sees the old list or the new one.
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
            .open(&new)
            .map_err(&failed)?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_data())
            .map_err(&failed)?;
        nix::fcntl::renameat(nix::fcntl::AT_FDCWD, &new, nix::fcntl::AT_FDCWD, &*self.path)
            .map_err(|errno| failed(errno.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, digest: &str) -> Trusted {
        Trusted {
            path: path.into(),
            name: "x".to_owned(),
            policy_digest: digest.to_owned(),
            file_digest: digest.to_owned(),
            at: "2001-01-01T00:00:00.000000Z".to_owned(),
            by: "uid:1".to_owned(),
        }
    }

    #[test]
    fn a_file_is_trusted_once_and_by_its_last_digest() {
        let place = tempfile::tempdir().unwrap();
        let store = TrustStore::beside(&place.path().join("audit.jsonl"));
        assert_eq!(store.list().unwrap(), []);
        store.trust(entry("/a", "1")).unwrap();
        store.trust(entry("/b", "2")).unwrap();
        store.trust(entry("/a", "3")).unwrap();
        // Another daemon of the same user sees the same.
        let other = TrustStore::beside(&place.path().join("audit-2.jsonl"));
        assert_eq!(other.list().unwrap(), [entry("/b", "2"), entry("/a", "3")]);
        assert!(other.untrust(Path::new("/b")).unwrap());
        assert!(!store.untrust(Path::new("/b")).unwrap());
        assert_eq!(store.list().unwrap(), [entry("/a", "3")]);
        let mode = std::fs::metadata(store.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_list_that_others_can_write_or_that_is_damaged_trusts_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().unwrap();
        let store = TrustStore::beside(&place.path().join("audit.jsonl"));
        store.trust(entry("/a", "1")).unwrap();
        std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(store.list().is_err());
        std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(store.path(), "{").unwrap();
        assert!(matches!(store.list(), Err(TrustError::Damaged { .. })));
        assert!(
            store.trust(entry("/b", "1")).is_err(),
            "what is damaged is not overwritten"
        );
    }

    #[test]
    fn there_are_at_most_so_many() {
        let place = tempfile::tempdir().unwrap();
        let store = TrustStore::beside(&place.path().join("audit.jsonl"));
        for number in 0..MAX_ENTRIES {
            store.trust(entry(&format!("/{number}"), "1")).unwrap();
        }
        assert!(matches!(store.trust(entry("/more", "1")), Err(TrustError::Full)));
        store.trust(entry("/7", "2")).unwrap();
    }
}
