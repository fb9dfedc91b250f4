//! The policies a request may name: the built-in ones and the files of the configured directories.
//!
//! Read once, at start. A file that has an error keeps the daemon from starting: a policy that is silently absent is a policy that is
//! silently not applied.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fumehood_policies::{
    LoadError, ParseErrors, Policy, PolicyFile, Reference, Resolved, builtin, builtin_file, builtin_names, resolve,
};

use crate::lower;

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
    /// A file names system calls that it cannot.
    #[error("policy {origin}: {}", wrong.join("; "))]
    Calls {
        /// The file.
        origin: String,
        /// What is wrong with each.
        wrong: Vec<String>,
    },
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
    /// What the files state by themselves, for those that extend them.
    files: Arc<BTreeMap<String, (PathBuf, PolicyFile)>>,
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
        let mut read_files = BTreeMap::new();
        for directory in directories {
            for path in files(directory)? {
                let file = read(&path)?;
                named_after_its_file(&path, &file)?;
                read_files.entry(file.name().to_owned()).or_insert((path, file));
            }
        }
        let mut by_name = BTreeMap::new();
        for (name, (path, file)) in &read_files {
            let stored = Stored {
                policy: Arc::new(put_together(file, &|reference| {
                    from_files(&read_files, reference, true)
                })?),
                text: file.text().into(),
                origin: Some(path.clone()),
            };
            by_name.insert(name.clone(), stored);
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
            files: Arc::new(read_files),
            default: default.to_owned(),
        })
    }

    /// A policy by its name; the empty name is the default.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.by_name
            .get(if name.is_empty() { self.default.as_str() } else { name })
    }

    /// The policy of a request that brings its own file. It may extend policies of this store by name.
    pub fn inline(&self, bytes: &[u8], origin: &str) -> Result<Policy, StoreError> {
        let file = PolicyFile::parse(bytes, origin).map_err(StoreError::Parse)?;
        put_together(&file, &|reference| from_files(&self.files, reference, false))
    }

    /// A policy with where each part of it comes from, by its name; the empty name is the default. `None`: there is none so named.
    ///
    /// # Errors
    /// A file that it extends was changed since the daemon read it, and is wrong now.
    pub fn resolved(&self, name: &str) -> Option<Result<Resolved, StoreError>> {
        let name = if name.is_empty() { self.default.as_str() } else { name };
        let file = match builtin_file(name) {
            Some(file) => file,
            None => &self.files.get(name)?.1,
        };
        let resolved = resolve(file, &|reference| from_files(&self.files, reference, true));
        Some(resolved.map_err(StoreError::Parse))
    }

    /// What a file that somebody sends comes to. It may extend policies of this store by name.
    ///
    /// # Errors
    /// As [`inline`](Self::inline).
    pub fn check(&self, bytes: &[u8], origin: &str) -> Result<(PolicyFile, Resolved), StoreError> {
        let file = PolicyFile::parse(bytes, origin).map_err(StoreError::Parse)?;
        let load = |reference: &Reference| from_files(&self.files, reference, false);
        let resolved = resolve(&file, &load).map_err(StoreError::Parse)?;
        let wrong = lower::wrong_calls(&resolved.policy);
        match wrong.is_empty() {
            true => Ok((file, resolved)),
            false => Err(StoreError::Calls {
                origin: origin.to_owned(),
                wrong,
            }),
        }
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

/// A file with what it extends.
fn put_together(
    file: &PolicyFile,
    load: &dyn Fn(&Reference) -> Result<PolicyFile, LoadError>,
) -> Result<Policy, StoreError> {
    let policy = resolve(file, load).map_err(StoreError::Parse)?.policy;
    let wrong = lower::wrong_calls(&policy);
    match wrong.is_empty() {
        true => Ok(policy),
        false => Err(StoreError::Calls {
            origin: file.origin().to_owned(),
            wrong,
        }),
    }
}

/// What is extended: a file of the directories by name, or where `paths` are followed one relative to the file that says so.
fn from_files(
    files: &BTreeMap<String, (PathBuf, PolicyFile)>,
    reference: &Reference,
    paths: bool,
) -> Result<PolicyFile, LoadError> {
    let missing = |message: String, help: String| LoadError::Missing {
        message,
        help: Some(help),
    };
    if !reference.is_path() {
        let names: Vec<_> = builtin_names()
            .iter()
            .copied()
            .chain(files.keys().map(String::as_str))
            .collect();
        let file = files.get(&reference.text).map(|(_, file)| file.clone());
        return file.ok_or_else(|| {
            let message = format!("there is no policy `{}`", reference.text);
            missing(message, format!("there are: {}", names.join(", ")))
        });
    }
    if !paths {
        return Err(missing(
            "a policy that comes with a request extends others by name only".to_owned(),
            "write the name of a policy of this daemon".to_owned(),
        ));
    }
    let directory = Path::new(reference.place.origin()).parent().unwrap_or(Path::new("/"));
    let path = directory.join(&reference.text);
    let path = path.canonicalize().unwrap_or(path);
    match read(&path) {
        Ok(file) => Ok(file),
        Err(StoreError::Parse(errors)) => Err(errors.into()),
        Err(error) => {
            let why = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            Err(missing(format!("{error}{why}"), "name a policy file".to_owned()))
        }
    }
}

fn read(path: &Path) -> Result<PolicyFile, StoreError> {
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
    PolicyFile::parse(&bytes, &path.display().to_string()).map_err(StoreError::Parse)
}

fn named_after_its_file(path: &Path, file: &PolicyFile) -> Result<(), StoreError> {
    let (path, name) = (path.to_owned(), file.name().to_owned());
    if builtin_names().contains(&name.as_str()) {
        return Err(StoreError::Builtin { path, name });
    }
    if path.file_stem().is_none_or(|stem| stem != name.as_str()) {
        return Err(StoreError::Name { path, name });
    }
    Ok(())
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
    fn files_extend_one_another_by_name_and_by_path() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            fs::write(directory.path().join(format!("{name}.toml")), policy(name) + text).unwrap();
        };
        write("base", "extends = [\"default\"]\n[limits]\nwall = \"5m\"\n");
        write("ci", "extends = [\"base\", \"./more.toml\"]\n");
        write("more", "[environment]\npass = [\"MORE\"]\n");
        let directories = [directory.path().to_owned()];
        let store = PolicyStore::load(&directories, "ci").unwrap();
        let ci = &store.get("ci").unwrap().policy;
        assert_eq!(ci.limits.wall, Some(std::time::Duration::from_secs(300)));
        assert!(ci.environment.passes(b"MORE") && ci.environment.passes(b"PATH"));
        let inline = store
            .inline(b"version = 1\nname = \"x\"\nextends = [\"more\"]\n", "request")
            .unwrap();
        assert!(inline.environment.passes(b"MORE"));
        let error = store
            .inline(b"version = 1\nname = \"x\"\nextends = [\"./more.toml\"]\n", "request")
            .unwrap_err();
        assert!(error.to_string().contains("by name only"), "{error}");

        write("more", "extends = [\"ci\"]\n");
        let error = PolicyStore::load(&directories, "ci").unwrap_err().to_string();
        assert!(error.contains("it extends itself"), "{error}");
        write("more", "extends = [\"cj\"]\n");
        let error = PolicyStore::load(&directories, "ci").unwrap_err().to_string();
        assert!(
            error.contains("there is no policy `cj`") && error.contains("base, ci, more"),
            "{error}"
        );
    }

    #[test]
    fn system_calls_are_named_as_the_kernel_does() {
        let store = PolicyStore::load(&[], "default").unwrap();
        let error = |calls: &str| {
            let text = policy("x") + "[syscalls]\n" + calls;
            store
                .inline(text.as_bytes(), "request")
                .err()
                .map(|error| error.to_string())
        };
        assert_eq!(error("allow = [\"ptrace\"]\ndeny = [\"socket\"]"), None);
        let said = error("deny = [\"ptrce\"]").unwrap();
        assert!(
            said.contains("no system call `ptrce`; did you mean `ptrace`?"),
            "{said}"
        );
        assert!(error("allow = [\"mount\"]").unwrap().contains("no policy can allow"));
        assert!(
            error("deny = [\"execve\"]")
                .unwrap()
                .contains("no command can be started")
        );
    }

    #[test]
    fn a_default_that_does_not_exist_is_named_with_those_that_do() {
        let missing = PathBuf::from("/nowhere/at/all");
        assert!(PolicyStore::load(std::slice::from_ref(&missing), "default").is_ok());
        let error = PolicyStore::expect(&[missing]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all does not exist"), "{error}");
        let error = PolicyStore::load(&[], "strict").unwrap_err().to_string();
        assert!(error.contains("`strict`") && error.contains("java, locked"), "{error}");
    }
}
