//! The policies a request may name: the built-in ones and the files of the configured directories.
//!
//! Read once, at start. A file that has an error keeps the daemon from starting: a policy that is silently absent is a policy that is
//! silently not applied.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fumehood_policies::{ParseErrors, Policy, builtin, builtin_names};

/// Longest policy file, in bytes.
pub const MAX_POLICY_BYTES: u64 = 1 << 20;

/// A policy with where it came from.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its text as written.
    pub text: Arc<str>,
    /// The file; `None` for a built-in.
    pub origin: Option<PathBuf>,
}

/// Why there are no policies.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory or file cannot be read.
    #[error("policy {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory that was named does not exist.
    #[error("the policy directory {} does not exist; make it, or leave out its --policy-dir", .0.display())]
    NoDirectory(PathBuf),
    /// A file has errors.
    #[error("{0}")]
    Parse(ParseErrors),
    /// A file's policy has another name than the file.
    #[error("policy {}: its name is `{name}`, so its file must be called {name}.toml", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// The name in it.
        name: String,
    },
    /// A file has the name of a built-in.
    #[error("policy {}: `{name}` is the name of a built-in policy; choose another", path.display())]
    Builtin {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The default does not exist.
    #[error("default_policy `{name}` does not exist; there are: {known}")]
    NoDefault {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
}

/// The policies by name.
#[derive(Clone, Debug)]
pub struct PolicyStore {
    by_name: Arc<BTreeMap<String, Stored>>,
    default: String,
}

impl PolicyStore {
    /// Fails for the first of directories that somebody named and that is not there.
    pub fn expect(directories: &[PathBuf]) -> Result<(), StoreError> {
        let missing = |directory: &&PathBuf| matches!(fs::metadata(directory), Err(error) if error.kind() == io::ErrorKind::NotFound);
        match directories.iter().find(missing) {
            Some(missing) => Err(StoreError::NoDirectory(missing.clone())),
            None => Ok(()),
        }
    }

    /// Reads every `*.toml` of the directories; the first directory that has a name wins, missing directories are passed over.
    pub fn load(directories: &[PathBuf], default: &str) -> Result<PolicyStore, StoreError> {
        let mut by_name = BTreeMap::new();
        for directory in directories {
            for path in files(directory)? {
                let stored = read(&path)?;
                by_name.entry(stored.policy.name.clone()).or_insert(stored);
            }
        }
        for name in builtin_names() {
            if let Some((text, policy)) = builtin(name) {
                let stored = Stored {
                    policy: Arc::new(policy),
                    text: text.into(),
                    origin: None,
                };
                by_name.insert((*name).to_owned(), stored);
            }
        }
        if !by_name.contains_key(default) {
            let known = by_name.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(StoreError::NoDefault {
                name: default.to_owned(),
                known,
            });
        }
        Ok(PolicyStore {
            by_name: Arc::new(by_name),
            default: default.to_owned(),
        })
    }

    /// A policy by its name; the empty name is the default.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.by_name
            .get(if name.is_empty() { self.default.as_str() } else { name })
    }

    /// Every policy in the order of the names, and whether it is the default.
    pub fn all(&self) -> impl Iterator<Item = (&Stored, bool)> {
        self.by_name
            .iter()
            .map(|(name, stored)| (stored, *name == self.default))
    }

    /// Whether this is the default's name.
    pub fn is_default(&self, name: &str) -> bool {
        name == self.default
    }

    /// The names there are, for messages.
    pub fn names(&self) -> String {
        self.by_name.keys().cloned().collect::<Vec<_>>().join(", ")
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let wrong = |source| StoreError::Read {
        path: directory.to_owned(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(wrong)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<Stored, StoreError> {
    let wrong = |source| StoreError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(wrong)?;
    if !metadata.is_file() {
        return Err(wrong(io::Error::other("it is no regular file")));
    }
    if metadata.len() > MAX_POLICY_BYTES {
        return Err(wrong(io::Error::other(format!(
            "it is longer than {MAX_POLICY_BYTES} bytes"
        ))));
    }
    let bytes = fs::read(path).map_err(wrong)?;
    let policy = Policy::parse(&bytes, &path.display().to_string()).map_err(StoreError::Parse)?;
    if builtin_names().contains(&policy.name.as_str()) {
        return Err(StoreError::Builtin {
            path: path.to_owned(),
            name: policy.name,
        });
    }
    if path.file_stem().is_none_or(|stem| stem != policy.name.as_str()) {
        return Err(StoreError::Name {
            path: path.to_owned(),
            name: policy.name,
        });
    }
    // What parses is UTF-8.
    let text = String::from_utf8_lossy(&bytes).into();
    Ok(Stored {
        policy: Arc::new(policy),
        text,
        origin: Some(path.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str) -> String {
        format!("version = 1\nname = \"{name}\"\n")
    }

    #[test]
    fn files_are_found_by_name_and_the_first_directory_wins() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(first.path().join("ci.toml"), policy("ci") + "description = \"first\"\n").unwrap();
        fs::write(
            second.path().join("ci.toml"),
            policy("ci") + "description = \"second\"\n",
        )
        .unwrap();
        fs::write(second.path().join("notes.txt"), "nothing").unwrap();
        let directories = [first.path().to_owned(), "/nonexistent".into(), second.path().to_owned()];
        let store = PolicyStore::load(&directories, "ci").unwrap();
        assert_eq!(store.get("ci").unwrap().policy.description, "first");
        assert_eq!(store.get("").unwrap().policy.name, "ci");
        assert!(store.get("default").unwrap().origin.is_none());
        assert!(store.get("nothing").is_none());
    }

    #[test]
    fn a_wrong_file_keeps_the_daemon_from_starting() {
        let directory = tempfile::tempdir().unwrap();
        let directories = [directory.path().to_owned()];
        let file = directory.path().join("ci.toml");
        fs::write(&file, policy("other")).unwrap();
        assert!(matches!(
            PolicyStore::load(&directories, "default"),
            Err(StoreError::Name { .. })
        ));
        fs::write(&file, "version = 1\nnmae = \"ci\"\n").unwrap();
        let error = PolicyStore::load(&directories, "default").unwrap_err().to_string();
        assert!(error.contains("ci.toml:2:1"), "{error}");
        fs::remove_file(&file).unwrap();
        fs::write(directory.path().join("default.toml"), policy("default")).unwrap();
        assert!(matches!(
            PolicyStore::load(&directories, "default"),
            Err(StoreError::Builtin { .. })
        ));
    }

    #[test]
    fn a_default_that_does_not_exist_is_named_with_those_that_do() {
        let missing = PathBuf::from("/nowhere/at/all");
        assert!(PolicyStore::load(std::slice::from_ref(&missing), "default").is_ok());
        let error = PolicyStore::expect(&[missing]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all does not exist"), "{error}");
        let error = PolicyStore::load(&[], "strict").unwrap_err().to_string();
        assert!(
            error.contains("`strict`") && error.contains("default, locked"),
            "{error}"
        );
    }
}
