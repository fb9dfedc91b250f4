//! The policies a request may name: the built-in ones and the files of the policy directories, as they were when they were last read.
//!
//! A user's file that does not count ([`super::counted`]) has no effect and is listed with the reason. One that counts and has an error is an error of
//! the whole, and so is one of the machine's that does not count: a policy that is silently absent is a policy that is silently not applied.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fumehood_policies::{
    LoadError, ParseErrors, Policy, PolicyFile, Reference, Resolved, builtin, builtin_file, builtin_names, read,
    resolve,
};

use super::counted::{CountError, Directory, Uncounted, read_path};

/// Longest policy file, in bytes.
pub const MAX_POLICY_BYTES: u64 = 1 << 20;

/// The machine's own policy directory.
pub const SYSTEM_DIR: &str = "/etc/fumehood/policies";

/// A policy with where it came from.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its text as written.
    pub text: Arc<str>,
    /// The file; `None` for a built-in.
    pub origin: Option<PathBuf>,
    /// Whether it comes from the machine's own directory.
    pub system: bool,
    /// Whether it holds over every other one.
    pub ceiling: bool,
}

/// A file or directory that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Which.
    pub path: PathBuf,
    /// Why, in words.
    pub reason: String,
}

/// Where policies come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The machine's own directories: what they hold comes first, and they may set ceilings.
    pub system: Vec<PathBuf>,
    /// The user's; the first that has a name wins.
    pub user: Vec<PathBuf>,
    /// The policy of requests that name none.
    pub default: String,
    /// The daemon's user.
    pub uid: u32,
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
    /// A ceiling from where none can come.
    #[error(
        "{place}: `ceiling = true` counts in a file of {SYSTEM_DIR} only, which an administrator writes; remove it here"
    )]
    Ceiling {
        /// File and line.
        place: String,
    },
    /// Something in the machine's own directory does not count: it may be a ceiling, and without it there would be none.
    #[error("{0}; the machine's own policies hold over all others, so all of them must count")]
    Uncounted(Uncounted),
    /// The default does not exist.
    #[error("default_policy `{name}` does not exist; there are: {known}")]
    NoDefault {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A rule about access names a policy that does not exist.
    #[error("{rule} names the policy `{name}`, which does not exist{}; there are: {known}", if *.system { " in the machine's own directory" } else { "" })]
    NoSuchPolicy {
        /// The rule, with its file.
        rule: String,
        /// The name.
        name: String,
        /// Whether it must be the machine's own.
        system: bool,
        /// The names there are.
        known: String,
    },
}

/// What files state by themselves, by name, for those that extend them.
type Files = BTreeMap<String, Read>;

/// A file that was read.
#[derive(Clone, Debug)]
struct Read {
    path: PathBuf,
    file: PolicyFile,
    system: bool,
}

/// The policies by name, as they were read at one time. Clones share them.
#[derive(Clone, Debug)]
pub struct PolicyStore {
    by_name: Arc<BTreeMap<String, Stored>>,
    files: Arc<Files>,
    ignored: Arc<[Ignored]>,
    default: String,
    uid: u32,
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

    /// The built-in policies alone.
    pub fn built_in() -> PolicyStore {
        PolicyStore::of(Files::new(), Vec::new(), "default", 0).unwrap_or_else(|error| panic!("built-in: {error}"))
    }

    /// Reads every policy file of the directories; the first directory that has a name wins, missing directories are passed over.
    ///
    /// # Errors
    /// What is wrong with the first file that counts and is wrong; nothing is loaded then.
    pub fn load(sources: &Sources) -> Result<PolicyStore, StoreError> {
        let (mut files, mut ignored) = (Files::new(), Vec::new());
        let system = sources.system.iter().map(|directory| (directory, true));
        let user = sources
            .user
            .iter()
            .filter(|directory| !sources.system.contains(directory));
        for (directory, system) in system.chain(user.map(|directory| (directory, false))) {
            let mut ignore = |path: PathBuf, reason: String| ignored.push(Ignored { path, reason });
            let opened = match Directory::open(directory, sources.uid) {
                Ok(None) => continue,
                Ok(Some(opened)) => opened,
                Err(CountError::Uncounted(why)) if !system => {
                    ignore(directory.clone(), why.to_string());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for name in opened.policies()? {
                let path = directory.join(&name);
                let bytes = match opened.read(&name, MAX_POLICY_BYTES) {
                    Ok(bytes) => bytes,
                    Err(CountError::Uncounted(why)) if !system => {
                        ignore(path, why.to_string());
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let origin = opened.path().join(&name).display().to_string();
                let file = PolicyFile::parse(&bytes, &origin).map_err(StoreError::Parse)?;
                named_after_its_file(&path, &file)?;
                if let (false, Some(place)) = (system, file.ceiling()) {
                    return Err(StoreError::Ceiling {
                        place: place.to_string(),
                    });
                }
                match files.get(file.name()) {
                    Some(first) => ignore(path, format!("{} comes before it", first.path.display())),
                    None => drop(files.insert(file.name().to_owned(), Read { path, file, system })),
                }
            }
        }
        PolicyStore::of(files, ignored, &sources.default, sources.uid)
    }

    fn of(files: Files, ignored: Vec<Ignored>, default: &str, uid: u32) -> Result<PolicyStore, StoreError> {
        let mut by_name = BTreeMap::new();
        for (name, read) in &files {
            let known = known_to(&files, read.system);
            let put = put_together(&read.file, &|reference| from_files(&known, reference, Some(uid)))?;
            let stored = Stored {
                policy: Arc::new(put),
                text: read.file.text().into(),
                origin: Some(read.path.clone()),
                system: read.system,
                ceiling: read.file.ceiling().is_some(),
            };
            by_name.insert(name.clone(), stored);
        }
        for name in builtin_names() {
            if let Some((text, policy)) = builtin(name) {
                let stored = Stored {
                    policy: Arc::new(policy),
                    text: text.into(),
                    origin: None,
                    system: true,
                    ceiling: false,
                };
                by_name.insert((*name).to_owned(), stored);
            }
        }
        let store = PolicyStore {
            by_name: Arc::new(by_name),
            files: Arc::new(files),
            ignored: ignored.into(),
            default: default.to_owned(),
            uid,
        };
        match store.by_name.contains_key(default) {
            true => Ok(store),
            false => Err(StoreError::NoDefault {
                name: default.to_owned(),
                known: store.names(),
            }),
        }
    }

    /// A policy by its name; the empty name is the default.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.by_name
            .get(if name.is_empty() { self.default.as_str() } else { name })
    }

    /// The policies that hold over every other one, in the order of their names.
    pub fn ceilings(&self) -> impl Iterator<Item = &Stored> {
        self.by_name.values().filter(|stored| stored.ceiling)
    }

    /// What was found and has no effect.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }

    /// The policy of a request that brings its own file. It may extend policies of this store by name.
    pub fn inline(&self, bytes: &[u8], origin: &str) -> Result<Policy, StoreError> {
        self.elsewhere(bytes, origin, &|reference| from_files(&self.files, reference, None))
    }

    /// The policy of a file that is in no policy directory; what it extends by name comes from this store, the rest from `load`.
    pub(super) fn elsewhere(
        &self,
        bytes: &[u8],
        origin: &str,
        load: &dyn Fn(&Reference) -> Result<PolicyFile, LoadError>,
    ) -> Result<Policy, StoreError> {
        let file = PolicyFile::parse(bytes, origin).map_err(StoreError::Parse)?;
        if let Some(place) = file.ceiling() {
            return Err(StoreError::Ceiling {
                place: place.to_string(),
            });
        }
        put_together(&file, load)
    }

    /// A policy with where each part of it comes from, by its name; the empty name is the default. `None`: there is none so named.
    ///
    /// # Errors
    /// A file that it extends was changed since the daemon read it, and is wrong now.
    pub fn resolved(&self, name: &str) -> Option<Result<Resolved, StoreError>> {
        let name = if name.is_empty() { self.default.as_str() } else { name };
        let (file, system) = match builtin_file(name) {
            Some(file) => (file, true),
            None => self.files.get(name).map(|read| (&read.file, read.system))?,
        };
        let resolved = resolve(file, &|reference| {
            from_files(&known_to(&self.files, system), reference, Some(self.uid))
        });
        Some(resolved.map_err(StoreError::Parse))
    }

    /// What a file that somebody sends comes to. It may extend policies of this store by name.
    ///
    /// # Errors
    /// As [`inline`](Self::inline).
    pub fn check(&self, bytes: &[u8], origin: &str) -> Result<(PolicyFile, Resolved), StoreError> {
        read(bytes, origin, &|reference| from_files(&self.files, reference, None)).map_err(StoreError::Parse)
    }

    /// A policy of this store that a file extends by name.
    pub(super) fn by_reference(&self, reference: &Reference) -> Result<PolicyFile, LoadError> {
        from_files(&self.files, reference, None)
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

    /// The daemon's user, for whom files count.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl From<CountError> for StoreError {
    fn from(error: CountError) -> Self {
        match error {
            CountError::Read { path, source } => StoreError::Read { path, source },
            CountError::Uncounted(why) => StoreError::Uncounted(why),
        }
    }
}

/// The files that one may extend by name. What the machine's own policies extend is the machine's own: no user changes a ceiling by a file
/// that it takes in.
fn known_to(files: &Files, system: bool) -> Cow<'_, Files> {
    match system {
        true => {
            let own = files.iter().filter(|(_, read)| read.system);
            Cow::Owned(own.map(|(name, read)| (name.clone(), read.clone())).collect())
        }
        false => Cow::Borrowed(files),
    }
}

/// A file with what it extends.
fn put_together(
    file: &PolicyFile,
    load: &dyn Fn(&Reference) -> Result<PolicyFile, LoadError>,
) -> Result<Policy, StoreError> {
    Ok(resolve(file, load).map_err(StoreError::Parse)?.policy)
}

/// What is extended: a file of the directories by name, or, for files that count for the user `paths`, one relative to the file that says so.
fn from_files(files: &Files, reference: &Reference, paths: Option<u32>) -> Result<PolicyFile, LoadError> {
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
        let file = files.get(&reference.text).map(|read| read.file.clone());
        return file.ok_or_else(|| {
            let message = format!("there is no policy `{}`", reference.text);
            missing(message, format!("there are: {}", names.join(", ")))
        });
    }
    let Some(uid) = paths else {
        return Err(missing(
            "a policy that comes with a request extends others by name only".to_owned(),
            "write the name of a policy of this daemon".to_owned(),
        ));
    };
    let directory = Path::new(reference.place.origin()).parent().unwrap_or(Path::new("/"));
    match read_path(&directory.join(&reference.text), uid, MAX_POLICY_BYTES) {
        Ok((path, bytes)) => Ok(PolicyFile::parse(&bytes, &path.display().to_string())?),
        Err(error) => {
            let why = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            Err(missing(format!("{error}{why}"), "name a policy file".to_owned()))
        }
    }
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

    fn load(user: &[PathBuf], default: &str) -> Result<PolicyStore, StoreError> {
        PolicyStore::load(&Sources {
            system: Vec::new(),
            user: user.to_vec(),
            default: default.to_owned(),
            uid: nix::unistd::geteuid().as_raw(),
        })
    }

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
        let store = load(&directories, "ci").unwrap();
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
        assert!(matches!(load(&directories, "default"), Err(StoreError::Name { .. })));
        fs::write(&file, "version = 1\nnmae = \"ci\"\n").unwrap();
        let error = load(&directories, "default").unwrap_err().to_string();
        assert!(error.contains("ci.toml:2:1"), "{error}");
        fs::remove_file(&file).unwrap();
        fs::write(directory.path().join("default.toml"), policy("default")).unwrap();
        assert!(matches!(load(&directories, "default"), Err(StoreError::Builtin { .. })));
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
        let store = load(&directories, "ci").unwrap();
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
        let error = load(&directories, "ci").unwrap_err().to_string();
        assert!(error.contains("it extends itself"), "{error}");
        write("more", "extends = [\"cj\"]\n");
        let error = load(&directories, "ci").unwrap_err().to_string();
        assert!(
            error.contains("there is no policy `cj`") && error.contains("base, ci, more"),
            "{error}"
        );
    }

    #[test]
    fn a_default_that_does_not_exist_is_named_with_those_that_do() {
        let missing = PathBuf::from("/nowhere/at/all");
        assert!(load(std::slice::from_ref(&missing), "default").is_ok());
        let error = PolicyStore::expect(&[missing]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all does not exist"), "{error}");
        let error = load(&[], "strict").unwrap_err().to_string();
        assert!(error.contains("`strict`") && error.contains("java, locked"), "{error}");
    }

    #[test]
    fn a_ceiling_comes_from_the_machines_directory_and_takes_in_nothing_of_a_users() {
        let (system, user) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let load = || {
            PolicyStore::load(&Sources {
                system: vec![system.path().to_owned()],
                user: vec![user.path().to_owned()],
                default: "default".to_owned(),
                uid: nix::unistd::geteuid().as_raw(),
            })
        };
        fs::write(system.path().join("org.toml"), policy("org") + "ceiling = true\n").unwrap();
        fs::write(user.path().join("org.toml"), policy("org")).unwrap();
        fs::write(user.path().join("base.toml"), policy("base")).unwrap();
        let store = load().unwrap();
        assert_eq!(
            store
                .ceilings()
                .map(|stored| stored.policy.name.as_str())
                .collect::<Vec<_>>(),
            ["org"]
        );
        assert!(store.get("org").unwrap().system && !store.get("base").unwrap().system);
        let [ignored] = store.ignored() else {
            panic!("{:?}", store.ignored())
        };
        assert!(
            ignored.path.starts_with(user.path()) && ignored.reason.contains("comes before it"),
            "{ignored:?}"
        );

        fs::write(
            system.path().join("org.toml"),
            policy("org") + "ceiling = true\nextends = [\"base\"]\n",
        )
        .unwrap();
        let error = load().unwrap_err().to_string();
        assert!(error.contains("there is no policy `base`"), "{error}");
        fs::remove_file(system.path().join("org.toml")).unwrap();
        fs::write(user.path().join("org.toml"), policy("org") + "ceiling = true\n").unwrap();
        let error = load().unwrap_err().to_string();
        assert!(
            error.contains("org.toml:3: `ceiling = true` counts in a file of /etc/fumehood/policies only"),
            "{error}"
        );
        let error = store
            .inline(b"version = 1\nname = \"x\"\nceiling = true\n", "x.toml")
            .unwrap_err();
        assert!(matches!(error, StoreError::Ceiling { .. }), "{error}");
    }

    #[test]
    fn a_file_of_the_machines_that_does_not_count_is_an_error() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("org.toml");
        fs::write(&file, policy("org") + "ceiling = true\n").unwrap();
        let load = || {
            PolicyStore::load(&Sources {
                system: vec![directory.path().to_owned()],
                user: Vec::new(),
                default: "default".to_owned(),
                uid: nix::unistd::geteuid().as_raw(),
            })
        };
        assert_eq!(load().unwrap().ceilings().count(), 1);
        for (path, mode) in [(file.as_path(), 0o664), (directory.path(), 0o777)] {
            let before = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let error = load().unwrap_err().to_string();
            assert!(
                error.contains("chmod go-w") && error.contains("hold over all others"),
                "{error}"
            );
            fs::set_permissions(path, before).unwrap();
        }
    }

    #[test]
    fn a_file_that_does_not_count_has_no_effect_and_is_listed() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ci.toml");
        fs::write(&file, "not even TOML [").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let store = load(&[directory.path().to_owned()], "default").unwrap();
        assert!(store.get("ci").is_none());
        assert_eq!(store.ignored()[0].path, file);
        assert!(
            store.ignored()[0].reason.contains("others can write"),
            "{:?}",
            store.ignored()
        );
        // Not by the way of another file either.
        fs::write(
            directory.path().join("a.toml"),
            policy("a") + "extends = [\"./ci.toml\"]\n",
        )
        .unwrap();
        let error = load(&[directory.path().to_owned()], "default").unwrap_err().to_string();
        assert!(error.contains("others can write"), "{error}");
    }
}
