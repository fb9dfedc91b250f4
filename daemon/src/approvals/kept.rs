//! The file of answers for always: `approvals/always.toml` beside the audit log.
//!
//! TOML that people can read, in a directory of its own (mode 0700) that no command ever sees. It is read again before each use, so what an
//! administrator or another daemon of this user takes out of it holds no longer; changes are made under a lock beside it, to a new
//! file that takes the old one's place. The narrow rule itself is not in it: it is made anew from the command, so that the file can
//! hold no wide one. What an answer is bound to is in it as digests; an entry without them, of an older version, is listed and lets nothing pass.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fumehood_policies::Digest;
use fumehood_policies::command::CommandRules;
use serde::{Deserialize, Serialize};

use super::given::{Bound, Given, Lasting, MAX_RULES};
use super::model::Means;

/// Largest file that is read, in bytes: 1024 answers with the longest commands that rules can hold are less.
const MAX_BYTES: u64 = 16 << 20;

const HEAD: &str = "# Answers \"always\" to questions of policies, written by fumehoodd. An answer that is taken out no longer holds;\n\
                    # `fumehood approve --forget ID` does that too, and writes it to the audit log.\n";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// There is no directory for it.
    #[error("this daemon has no directory for answers that last")]
    NoPlace,
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could change it.
    #[error("{} belongs to uid {uid} and has mode {mode:04o}; make it the daemon user's and `chmod go-rwx` it", path.display())]
    Loose {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// It is not what this daemon writes.
    #[error("{} is not understood: {why}; mend it or take it away", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    #[serde(default)]
    rules: Vec<RuleForm>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RuleForm {
    id: String,
    command: Vec<String>,
    policy: String,
    /// 64 hexadecimal digits, as `environment`.
    #[serde(default)]
    policy_digest: String,
    #[serde(default)]
    environment: String,
    workspace: String,
    #[serde(default)]
    cwd: String,
    peer: String,
    by: String,
    means: String,
    at: String,
    #[serde(default)]
    reason: String,
}

/// The file.
#[derive(Debug)]
pub(super) struct Kept {
    directory: PathBuf,
}

impl Kept {
    /// Makes the directory now, so that it can be kept out of every sandbox's view; where it cannot be made, keeping an answer says why.
    pub fn new(directory: PathBuf) -> Kept {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        if let Err(error) = made {
            tracing::warn!(directory = %directory.display(), %error, "answers for always cannot be kept");
        }
        Kept { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("always.toml")
    }

    /// The answers in it, oldest first. One of which no narrow rule can be made does not hold.
    pub fn read(&self) -> Result<Vec<Arc<Given>>, KeptError> {
        let form = self.form()?;
        Ok(form.rules.into_iter().filter_map(given).map(Arc::new).collect())
    }

    /// Adds one. False when as many are in it as may be.
    pub fn add(&self, given: &Given) -> Result<bool, KeptError> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
        let command: Result<Vec<String>, _> = given.argv.iter().map(|word| text(word)).collect();
        let path = |path: &Path| text(path.as_os_str().as_bytes());
        let Some(bound) = &given.bound else {
            return Err(self.broken("an answer is bound to nothing".to_owned()));
        };
        let (Ok(command), Ok(workspace), Ok(cwd)) = (command, path(&given.workspace), path(&bound.cwd)) else {
            return Err(self.broken("a command, workspace or directory is no text".to_owned()));
        };
        let rule = RuleForm {
            id: given.id.clone(),
            command,
            policy: given.policy.clone(),
            policy_digest: bound.policy.to_string(),
            environment: bound.environment.to_string(),
            workspace,
            cwd,
            peer: given.peer.clone(),
            by: given.by.clone(),
            means: given.means.name().to_owned(),
            at: given.at.clone(),
            reason: given.reason.clone(),
        };
        let _lock = self.lock()?;
        let mut form = self.form()?;
        if form.rules.len() >= MAX_RULES {
            return Ok(false);
        }
        form.rules.push(rule);
        self.write(&form).map(|()| true)
    }

    /// Takes one out; one that is not in it is none the worse.
    pub fn remove(&self, id: &str) -> Result<(), KeptError> {
        let _lock = self.lock()?;
        let mut form = self.form()?;
        let before = form.rules.len();
        form.rules.retain(|rule| rule.id != id);
        match form.rules.len() < before {
            true => self.write(&form),
            false => Ok(()),
        }
    }

    fn form(&self) -> Result<Form, KeptError> {
        let path = self.file();
        let fail = |source| KeptError::Io {
            what: "read",
            path: path.clone(),
            source,
        };
        // O_NONBLOCK: a FIFO must hold nothing up.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Form {
                    version: 1,
                    rules: Vec::new(),
                });
            }
            opened => opened.map_err(fail)?,
        };
        let found = file.metadata().map_err(fail)?;
        let own = nix::unistd::geteuid().as_raw();
        if !found.is_file() || found.uid() != own || found.mode() & 0o077 != 0 {
            return Err(KeptError::Loose {
                path,
                uid: found.uid(),
                mode: found.mode() & 0o7777,
            });
        }
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(self.broken(format!("it has more than {MAX_BYTES} bytes")));
        }
        let form: Form = toml::from_str(&text).map_err(|error| self.broken(error.to_string().trim_end().to_owned()))?;
        match form.version {
            1 => Ok(form),
            version => Err(self.broken(format!("version {version} is not 1"))),
        }
    }

    fn broken(&self, why: String) -> KeptError {
        KeptError::Broken { path: self.file(), why }
    }

    /// One at a time, whichever daemon of this user it is. Free when it is dropped.
    fn lock(&self) -> Result<File, KeptError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| KeptError::Io { what, path, source }
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(io("make the directory", &self.directory))?;
        let path = self.directory.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
            .open(&path)
            .map_err(io("open", &path))?;
        lock.lock().map_err(io("lock", &path))?;
        Ok(lock)
    }

    /// Puts a new file in the place of the old one, durably.
    fn write(&self, form: &Form) -> Result<(), KeptError> {
        let (path, new) = (self.file(), self.directory.join("always.toml.new"));
        let fail = |source| KeptError::Io {
            what: "write",
            path: path.clone(),
            source,
        };
        let body = toml::to_string(form).map_err(|error| self.broken(error.to_string()))?;
        // One that a crash left behind.
        let _ = std::fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_CLOEXEC)
            .open(&new)
            .map_err(fail)?;
        file.write_all(format!("{HEAD}{body}").as_bytes()).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        std::fs::rename(&new, &path).map_err(fail)?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(fail)
    }
}

/// A digest out of 64 hexadecimal digits.
fn digest(text: &str) -> Option<Digest> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(Digest(digest))
}

fn given(form: RuleForm) -> Option<Given> {
    let bound = match (
        digest(&form.policy_digest),
        digest(&form.environment),
        form.cwd.as_str(),
    ) {
        (Some(policy), Some(environment), cwd) if !cwd.is_empty() => Some(Bound {
            policy,
            environment,
            cwd: cwd.into(),
        }),
        _ => None,
    };
    let argv: Vec<Vec<u8>> = form.command.into_iter().map(String::into_bytes).collect();
    let rule = match CommandRules::rule_for(&argv) {
        Ok(rule) => rule,
        Err(error) => {
            tracing::warn!(rule = form.id, %error, "an answer for always is not narrow and does not hold");
            return None;
        }
    };
    let shown = fumehood_policies::command::read(&argv);
    Some(Given {
        id: form.id,
        lasting: Lasting::Always,
        peer: form.peer,
        policy: form.policy,
        workspace: form.workspace.into(),
        bound,
        commands: shown.commands.iter().map(|command| command.show(200)).collect(),
        argv,
        rules: vec![rule],
        by: form.by,
        means: Means::from_name(&form.means)?,
        reason: form.reason,
        at: form.at,
    })
}
