//! What a sandbox does with a path: the view's meaning, asked for one place. Read against `view`, whose order of mounts it follows from
//! the last one back, and like it pure: whether the path exists is not looked at.

use std::path::Path;

use fumehood_policies::{Grants, Home, PathPattern};

use super::{in_workspace, resolve, resolved, workspace_is_written};
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
    let below = |patterns: &[PathPattern]| resolved(patterns, host).iter().any(|place| path.starts_with(place));
    let kept = |pattern: &&PathPattern| resolve(pattern, host).iter().any(|place| path.starts_with(place));
    if let Some(pattern) = filesystem.read_only.iter().find(kept) {
        return read_only(&format!("filesystem.read-only without {}", pattern.spelled()));
    }
    let bound = host.repository.iter().chain([&host.workspace]);
    if bound.into_iter().any(|bound| path.starts_with(bound)) {
        let open = workspace_is_written(grants, host)
            || below(&filesystem.write)
            || below(&in_workspace(&filesystem.copy_on_write));
        return match open {
            true => Reach::Open,
            false => read_only("filesystem.workspace = \"write\""),
        };
    }
    if host.private.iter().any(|private| path.starts_with(private)) {
        return Reach::Hidden { rule: None };
    }
    let in_home = path.starts_with(&host.home);
    let granted = [
        &filesystem.read,
        &filesystem.execute,
        &filesystem.write,
        &filesystem.copy_on_write,
    ]
    .into_iter()
    .any(|list| below(list));
    // What an empty home hides is missing anyway, and what would show it is another home.
    if let Some(pattern) = filesystem.hide.iter().find(kept)
        && (!in_home || granted || filesystem.home == Home::CopyOnWrite)
    {
        let rule = Some(format!("filesystem.hide: {}", pattern.spelled()));
        return Reach::Hidden { rule };
    }
    let tmp = filesystem.tmp && ["/tmp", "/var/tmp"].iter().any(|tmp| path.starts_with(tmp));
    let copied_home = in_home && filesystem.home == Home::CopyOnWrite;
    if copied_home || tmp || below(&filesystem.write) || below(&filesystem.copy_on_write) {
        return Reach::Open;
    }
    if granted {
        return read_only("filesystem.write with this path");
    }
    if in_home {
        // What is written there stays there; what the real one holds is missing.
        let remedy = "filesystem.home = \"copy-on-write\"";
        return absent([remedy, remedy]);
    }
    if ["/tmp", "/var/tmp"].iter().any(|tmp| path.starts_with(tmp)) {
        return absent(["filesystem.tmp = true", "filesystem.tmp = true"]);
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
