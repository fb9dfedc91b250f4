//! What is on the machine for the patterns of a policy, when a run starts.
//!
//! `*` and `?` stand for parts of one name. Directories are read in byte order, symbolic links are not followed (the last name may be one),
//! and what is not there is passed over.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use fumehood_policies::{Grants, PathPattern, matches_name};

use super::Host;

/// How many paths the patterns of one policy may stand for, all together: each may become a mount.
const MAX_PATHS: usize = 1024;

/// How many names are looked at for them. Reading as many takes tenths of a second.
const MAX_LOOKED_AT: usize = 100_000;

/// What was not found for a reason.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is too much.
    #[error(
        "the patterns of {rule} stand for more than {MAX_PATHS} paths, at \"{pattern}\"; write one that holds fewer, or the directory above"
    )]
    TooMany {
        /// The key.
        rule: &'static str,
        /// The pattern at which it was too much.
        pattern: String,
    },
    /// Too much would have to be looked at.
    #[error(
        "more than {MAX_LOOKED_AT} names would have to be looked at for \"{pattern}\" of {rule}; write fewer `*` in it"
    )]
    TooLong {
        /// The key.
        rule: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// A directory cannot be listed: what lies in it is not known, and a restriction that were passed over would hold for nothing.
    #[error(
        "the daemon cannot list \"{}\" for \"{pattern}\" of {rule}; write the paths without `*` and `?`", .directory.display()
    )]
    Unlisted {
        /// The key.
        rule: &'static str,
        /// The pattern.
        pattern: String,
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why one pattern was not expanded.
#[derive(Debug)]
enum Stop {
    TooLong,
    Unlisted(PathBuf, io::Error),
}

impl FindError {
    /// The key whose pattern it was.
    pub fn rule(&self) -> &'static str {
        match self {
            FindError::TooMany { rule, .. } | FindError::TooLong { rule, .. } | FindError::Unlisted { rule, .. } => {
                rule
            }
        }
    }
}

/// The names in a directory, as many as asked for at most.
pub type Names<'a> = dyn FnMut(&Path, usize) -> io::Result<Vec<OsString>> + 'a;

/// Whether there is anything to look for; most policies have nothing.
pub fn is_needed(grants: &Grants) -> bool {
    let mut lists = lists(grants).into_iter();
    lists.any(|(rule, patterns)| patterns.iter().any(|pattern| is_looked_for(rule, pattern)))
}

/// Read-only names of the workspace hold before they exist.
fn is_looked_for(rule: &str, pattern: &PathPattern) -> bool {
    let inside = matches!(pattern, PathPattern::Workspace(rest) if !rest.is_empty());
    pattern.has_wildcards() || inside && rule != "filesystem.read-only"
}

fn lists(grants: &Grants) -> [(&'static str, &Vec<PathPattern>); 6] {
    let filesystem = &grants.filesystem;
    [
        ("filesystem.execute", &filesystem.execute),
        ("filesystem.read", &filesystem.read),
        ("filesystem.write", &filesystem.write),
        ("filesystem.copy-on-write", &filesystem.copy_on_write),
        ("filesystem.hide", &filesystem.hide),
        ("filesystem.read-only", &filesystem.read_only),
    ]
}

/// Looks for everything that the grants' patterns stand for, with `names` to list directories. Blocks on the file system, where there is
/// anything to look for.
pub fn find(
    grants: &Grants,
    host: &Host,
    names: &mut Names<'_>,
) -> Result<BTreeMap<PathPattern, Vec<PathBuf>>, FindError> {
    let mut all = BTreeMap::new();
    let (mut paths, mut looked_at) = (0, 0);
    for (rule, patterns) in lists(grants) {
        let grants_it = !matches!(rule, "filesystem.hide" | "filesystem.read-only");
        for pattern in patterns {
            if !is_looked_for(rule, pattern) {
                continue;
            }
            let found = match expand(pattern, host, names, &mut looked_at) {
                // A grant of what the daemon's user may not see gives nothing.
                Err(Stop::Unlisted(_, error)) if grants_it && error.kind() == io::ErrorKind::PermissionDenied => {
                    Ok(Vec::new())
                }
                found => found,
            };
            let spelled = || pattern.spelled();
            let found = found.map_err(|stop| match stop {
                Stop::TooLong => FindError::TooLong {
                    rule,
                    pattern: spelled(),
                },
                Stop::Unlisted(directory, source) => FindError::Unlisted {
                    rule,
                    pattern: spelled(),
                    directory,
                    source,
                },
            })?;
            paths += found.len();
            if paths > MAX_PATHS {
                return Err(FindError::TooMany {
                    rule,
                    pattern: spelled(),
                });
            }
            all.insert(pattern.clone(), found);
        }
    }
    Ok(all)
}

/// What one pattern stands for, in byte order.
fn expand(
    pattern: &PathPattern,
    host: &Host,
    list: &mut Names<'_>,
    looked_at: &mut usize,
) -> Result<Vec<PathBuf>, Stop> {
    let base = match pattern {
        PathPattern::Absolute(_) => Path::new("/"),
        PathPattern::Home(_) => &host.home,
        PathPattern::Workspace(_) => &host.workspace,
    };
    let mut found = vec![base.to_owned()];
    let names: Vec<&str> = pattern.rest().split('/').filter(|name| !name.is_empty()).collect();
    for (index, name) in names.iter().enumerate() {
        let last = index + 1 == names.len();
        let mut next = Vec::new();
        for directory in found {
            let candidates: Vec<PathBuf> = match name.contains(['*', '?']) {
                false => vec![directory.join(name)],
                true => {
                    let mut names = match list(&directory, (MAX_LOOKED_AT + 1).saturating_sub(*looked_at)) {
                        Ok(names) => names,
                        Err(error) if is_nothing(&error) => continue,
                        Err(error) => return Err(Stop::Unlisted(directory, error)),
                    };
                    *looked_at += names.len();
                    if *looked_at > MAX_LOOKED_AT {
                        return Err(Stop::TooLong);
                    }
                    // A name that is no text is matched as it is shown.
                    names.retain(|found| matches_name(name, &found.to_string_lossy()));
                    names.sort();
                    names.into_iter().map(|name| directory.join(name)).collect()
                }
            };
            *looked_at += candidates.len();
            let fits = |path: &PathBuf| {
                let kind = path.symlink_metadata().map(|metadata| metadata.file_type());
                // The workspace's own links lead anywhere.
                kind.is_ok_and(|kind| match last {
                    true => !kind.is_symlink() || !matches!(pattern, PathPattern::Workspace(_)),
                    false => kind.is_dir(),
                })
            };
            next.extend(candidates.into_iter().filter(fits));
        }
        found = next;
        if *looked_at > MAX_LOOKED_AT {
            return Err(Stop::TooLong);
        }
    }
    Ok(found)
}

/// Whether there is no such directory.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::lower::tests::host;

    fn names(directory: &Path, max: usize) -> io::Result<Vec<OsString>> {
        let entries = fs::read_dir(directory)?.take(max);
        entries.map(|entry| Ok(entry?.file_name())).collect()
    }

    #[test]
    fn patterns_stand_for_what_is_there_in_byte_order_and_links_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        for name in ["jdk-21/bin", "jdk-17/bin", "jdk-8", "other/bin"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        symlink("/usr", root.join("jdk-link")).unwrap();
        let host = Host {
            workspace: root.to_owned(),
            ..host()
        };
        let expanded = |rest: &str| {
            let pattern = PathPattern::Absolute(format!("{}/{rest}", root.display()));
            let found = expand(&pattern, &host, &mut names, &mut 0).unwrap();
            found
                .iter()
                .map(|path| path.strip_prefix(root).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(expanded("jdk-*/bin"), ["jdk-17/bin", "jdk-21/bin"]);
        assert_eq!(expanded("jdk-?"), ["jdk-8"]);
        assert_eq!(expanded("jdk-l*"), ["jdk-link"]);
        assert!(expanded("missing/*").is_empty() && expanded("*/*/*").is_empty());
        let inside = PathPattern::Workspace("jdk-link".into());
        assert!(expand(&inside, &host, &mut names, &mut 0).unwrap().is_empty());
    }

    #[test]
    fn too_much_to_look_at_is_told() {
        let mut looked_at = MAX_LOOKED_AT;
        let usr = PathPattern::Absolute("/usr/*".into());
        let stop = expand(&usr, &host(), &mut names, &mut looked_at);
        assert!(matches!(stop, Err(Stop::TooLong)), "{stop:?}");
    }
}
