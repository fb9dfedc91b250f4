//! Policies from files, from this program, and from a daemon.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fumehood_policies::{LoadError, ParseErrors, PolicyFile, Reference, Resolved, builtin_file, builtin_names};

use super::{put_together, why};
use crate::args::ConnectArgs;
use crate::failure::Failure;
use crate::start::{self, Connected};

/// Longest policy file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A policy with what it is made of.
pub struct Source {
    /// The file, by itself.
    pub file: PolicyFile,
    /// With what it extends.
    pub resolved: Resolved,
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// A file cannot be read.
    #[error("{}: cannot be read: {}", path.display(), why(source))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has errors.
    #[error("{0}")]
    Parse(ParseErrors),
}

/// Whether a value names a file, and not a policy.
pub fn is_file(value: &str) -> bool {
    value.contains('/') || value.ends_with(".toml")
}

impl Source {
    /// A policy by its name or file: a file is read here, a built-in policy is known here, others are asked of the daemon; so is the
    /// default, by the empty name.
    pub async fn find(value: &str, connect: &ConnectArgs) -> Result<Result<Source, Wrong>, Failure> {
        if is_file(value) {
            return Ok(Source::file(Path::new(value)));
        }
        if let Some(file) = builtin_file(value) {
            return Ok(put_together(file.clone(), &|reference| of_directory(reference)));
        }
        let Connected { client, .. } = start::connect(connect).await?;
        let policy = client.policy(value).await?;
        // The texts of all, for those that it extends by name.
        let mut texts = BTreeMap::new();
        for summary in client.policies().await? {
            if !summary.builtin {
                let text = client.policy(summary.name.as_str()).await?.toml;
                texts.insert(summary.name, (text, summary.origin));
            }
        }
        let summary = policy.summary.unwrap_or_default();
        let origin = match summary.origin.is_empty() {
            true => format!("built-in policy {}", summary.name),
            false => summary.origin,
        };
        let file = match PolicyFile::parse(policy.toml.as_bytes(), &origin) {
            Ok(file) => file,
            Err(errors) => return Ok(Err(Wrong::Parse(errors))),
        };
        Ok(put_together(file, &|reference| match texts.get(&reference.text) {
            Some((text, origin)) => Ok(PolicyFile::parse(text.as_bytes(), origin)?),
            None => of_directory(reference),
        }))
    }

    /// The policy of a file.
    pub fn file(path: &Path) -> Result<Source, Wrong> {
        let bytes = read(path)?;
        let read = fumehood_policies::read(&bytes, &path.display().to_string(), &|reference| {
            of_directory(reference)
        });
        let (file, resolved) = read.map_err(Wrong::Parse)?;
        Ok(Source { file, resolved })
    }
}

/// What a file extends: a path relative to it, or a policy whose file lies beside it.
fn of_directory(reference: &Reference) -> Result<PolicyFile, LoadError> {
    let directory = Path::new(reference.place.origin()).parent().unwrap_or(Path::new(""));
    let path = match reference.is_path() {
        true => directory.join(&reference.text),
        false => directory.join(format!("{}.toml", reference.text)),
    };
    let missing = |message: String| LoadError::Missing {
        message,
        help: Some(match reference.is_path() {
            true => "name a policy file, relative to this one".to_owned(),
            false => format!(
                "write the name of a file beside this one, or of a built-in policy: {}",
                builtin_names().join(", ")
            ),
        }),
    };
    // One file has one name here, by which cycles are found.
    let path = path.components().fold(PathBuf::new(), |mut clean, part| {
        match part {
            std::path::Component::CurDir => {}
            part => clean.push(part),
        }
        clean
    });
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(Wrong::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(missing(format!(
                "there is no policy `{reference}`: {} does not exist",
                path.display()
            )));
        }
        Err(wrong) => return Err(missing(wrong.to_string())),
    };
    Ok(PolicyFile::parse(&bytes, &path.display().to_string())?)
}

/// The bytes of a regular file of at most 1 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, Wrong> {
    let wrong = |source| Wrong::Read {
        path: path.to_owned(),
        source,
    };
    // A pipe without a writer holds nobody up.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path);
    let file: File = opened.map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    if metadata.is_dir() {
        return Err(wrong(io::Error::other("it is a directory; name the files in it")));
    }
    if !metadata.is_file() {
        return Err(wrong(io::Error::other("it is no regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(io::Error::other(format!("it is longer than {MAX_BYTES} bytes"))));
    }
    Ok(bytes)
}
