//! What a sandbox does with a path: the view's meaning, asked for one place. Read against `view`, whose order of mounts it follows from
//! the last one back, and like it pure: whether the path exists is not looked at.

use std::path::Path;

use fumehood_policies::{Grants, Home, PathPattern, WorkspaceAccess};

use super::resolve;
use crate::run::Host;

/// What a command can do with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Write, as far as the file's own mode and protected paths go; or nothing is known.
    Open,
    /// Read. What would let it write.
    ReadOnly {
        /// The policy's key and value, in words.
        remedy: String,
    },
    /// Nothing: the policy takes it away from what it grants.
    Hidden {
        /// The key that hides it; `None` for the daemon's own places.
        rule: Option<String>,
    },
    /// Nothing: no grant names it.
    Absent {
        /// What would show it; with what would let it write.
        remedies: [String; 2],
    },
}

/// What a command can do with an absolute, normalised path.
pub fn reach(path: &Path, grants: &Grants, host: &Host) -> Reach {
    let filesystem = &grants.filesystem;
    let below = |patterns: &[PathPattern]| patterns.iter().any(|pattern| path.starts_with(resolve(pattern, host)));
    let bound = host.repository.iter().chain([&host.workspace]);
    if bound.into_iter().any(|bound| path.starts_with(bound)) {
        return match filesystem.workspace {
            WorkspaceAccess::Write => Reach::Open,
            WorkspaceAccess::Read => read_only("filesystem.workspace = \"write\""),
        };
    }
    if host.private.iter().any(|private| path.starts_with(private)) {
        return Reach::Hidden { rule: None };
    }
    let hides = |pattern: &&PathPattern| path.starts_with(resolve(pattern, host));
    if let Some(pattern) = filesystem.hide.iter().find(hides) {
        let rule = format!("filesystem.hide: {}", resolve(pattern, host).display());
        return Reach::Hidden { rule: Some(rule) };
    }
    let in_home = path.strip_prefix(&host.home).ok();
    if let Some(inside) = in_home
        && let Some(hidden) = filesystem.hide_in_home.iter().find(|hidden| inside.starts_with(hidden))
        && (filesystem.home == Home::CopyOnWrite || below(&filesystem.read) || below(&filesystem.write))
    {
        let rule = Some(format!("filesystem.hide-in-home: {hidden}"));
        return Reach::Hidden { rule };
    }
    if below(&filesystem.write) {
        return Reach::Open;
    }
    let granted_in_home = filesystem
        .read
        .iter()
        .filter(|pattern| !matches!(pattern, PathPattern::Absolute(_)));
    if granted_in_home
        .map(|pattern| resolve(pattern, host))
        .any(|grant| path.starts_with(grant))
    {
        return read_only("filesystem.write with this path");
    }
    if in_home.is_some() {
        return match filesystem.home {
            Home::CopyOnWrite => Reach::Open,
            // What is written there stays there; what the real one holds is missing.
            Home::Empty => absent([
                "filesystem.home = \"copy-on-write\"",
                "filesystem.home = \"copy-on-write\"",
            ]),
        };
    }
    if ["/tmp", "/var/tmp"].iter().any(|tmp| path.starts_with(tmp)) {
        return match filesystem.tmp {
            true => Reach::Open,
            false => absent(["filesystem.tmp = true", "filesystem.tmp = true"]),
        };
    }
    if below(&filesystem.read) {
        return read_only("filesystem.write with this path");
    }
    // The sandbox's own; what is refused there, no policy gives.
    if ["/proc", "/sys", "/dev", "/run"]
        .iter()
        .any(|own| path.starts_with(own))
    {
        return Reach::Open;
    }
    absent(["filesystem.read with this path", "filesystem.write with this path"])
}

fn read_only(remedy: &str) -> Reach {
    Reach::ReadOnly {
        remedy: remedy.to_owned(),
    }
}

fn absent(remedies: [&str; 2]) -> Reach {
    Reach::Absent {
        remedies: remedies.map(str::to_owned),
    }
}
