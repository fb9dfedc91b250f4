//! The index of a repository (gitformat-index(5)), read before it takes its name.
//!
//! Git trusts its own index: `git checkout .` and `git restore .` make every file that it names and that is not there, by the path as it stands.
//! One that names `.git/hooks/post-checkout` or `../../.profile` plants a program when the user types the most harmless of
//! commands. So each name is looked at as git does when it adds one (`verify_path` of git's read-cache.c).
//!
//! The length of a hash is not in the file: names are looked at with each length with which the whole file is well-formed. A file that is no
//! index to git either is left alone, as is what an index says beside its entries.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::rules::same_name;

/// Longest index, in bytes: about a million files.
pub(super) const MAX_BYTES: u64 = 128 << 20;

/// Bytes of an object's name: SHA-1, SHA-256.
const HASHES: [usize; 2] = [20, 32];

/// Bytes before an object's name: times, device, inode, mode, owner, size.
const STAT_BYTES: usize = 40;

/// Signature, version, number of entries.
const HEADER_BYTES: usize = 12;

/// In the flags of an entry: two more bytes of flags follow.
const EXTENDED: u16 = 0x4000;

/// In the flags of an entry: the length of its name, or this where that is no shorter.
const LENGTH: u16 = 0x0fff;

/// Whether a name is that of an index, or of the part of one that several share.
pub(super) fn is_index(name: &OsStr) -> bool {
    let start = name.as_bytes().get(..b"sharedindex.".len());
    same_name(name, "index") || start.is_some_and(|start| start.eq_ignore_ascii_case(b"sharedindex."))
}

/// Whether git outside would make no file from it that it would not add by itself.
pub(super) fn judge(contents: &[u8]) -> Result<(), String> {
    for hash in HASHES {
        let mut wrong = None;
        let mut look = |name: &[u8]| {
            if wrong.is_none() && !is_harmless(name) {
                wrong = Some(String::from_utf8_lossy(name).chars().take(200).collect::<String>());
            }
        };
        if entries(contents, hash, &mut look).is_some()
            && let Some(name) = wrong
        {
            return Err(format!(
                "git: an index that names {name:?} makes git outside write there at `git checkout .`"
            ));
        }
    }
    Ok(())
}

/// A name that git itself would add: relative, without `.`, `..` and `.git`. A directory of a sparse index ends in a slash, and an entry that
/// only changes one of a shared index has no name.
fn is_harmless(name: &[u8]) -> bool {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let of_git = |part: &[u8]| same_name(OsStr::from_bytes(part), ".git");
    name.is_empty()
        || name
            .split(|byte| *byte == b'/')
            .all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0) && !of_git(part))
}

/// Calls `look` with each entry's name. `None`: with hashes of this length it is no index.
fn entries(bytes: &[u8], hash: usize, look: &mut impl FnMut(&[u8])) -> Option<()> {
    let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    if bytes.get(..4)? != b"DIRC" {
        return None;
    }
    let (version, count) = (number(4)?, number(8)?);
    if !(2..=4).contains(&version) {
        return None;
    }
    // The checksum of the whole stands at the end.
    let end = bytes.len().checked_sub(hash)?;
    let mut at = HEADER_BYTES;
    let mut previous: Vec<u8> = Vec::new();
    for _ in 0..count {
        let start = at;
        at += STAT_BYTES + hash;
        let flags = u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
        at += 2;
        if flags & EXTENDED != 0 {
            at += 2;
        }
        let mut kept = 0;
        if version == 4 {
            let (stripped, length) = variable(bytes.get(at..end)?)?;
            at += length;
            kept = previous.len().checked_sub(stripped)?;
        }
        let rest = bytes.get(at..end)?;
        let length = match usize::from(flags & LENGTH) {
            length if length < usize::from(LENGTH) => length.checked_sub(kept)?,
            _ => rest.iter().position(|byte| *byte == 0)?,
        };
        previous.truncate(kept);
        previous.extend_from_slice(rest.get(..length)?);
        look(&previous);
        at += length;
        // At least one NUL; before version 4 as many as make the entry a multiple of eight bytes long.
        at = match version {
            4 => at + 1,
            _ => start + (at - start + 8) / 8 * 8,
        };
    }
    // Extensions: a signature, a length, so many bytes.
    while at < end {
        at = at.checked_add(8)?.checked_add(number(at + 4)? as usize)?;
    }
    (at == end).then_some(())
}

/// A number of variable length, as in a pack's offsets, and its own length.
fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = usize::from(bytes.first()? & 0x7f);
    let mut length = 1;
    while bytes[length - 1] & 0x80 != 0 {
        let next = *bytes.get(length)?;
        value = value
            .checked_add(1)?
            .checked_mul(128)?
            .checked_add(usize::from(next & 0x7f))?;
        length += 1;
    }
    Some((value, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The index that git itself makes with these names, in one version and hash.
    fn made_by_git(names: &[&str], version: &str, hash: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let done = Command::new("git")
                .args(["-c", "init.defaultBranch=main", "-c", "core.hooksPath=/dev/null"])
                .args(arguments)
                .current_dir(directory.path())
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        git(&["init", "-q", &format!("--object-format={hash}")]);
        for name in names {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        git(&["add", "."]);
        git(&["update-index", "--index-version", version]);
        std::fs::read(directory.path().join(".git/index")).unwrap()
    }

    fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let at = bytes
            .windows(from.len())
            .position(|part| part == from.as_bytes())
            .unwrap();
        let mut bytes = bytes.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    }

    #[test]
    fn every_form_that_git_writes_is_read() {
        for hash in ["sha1", "sha256"] {
            for version in ["2", "3", "4"] {
                let deep = format!("{}/file", "long-directory-name/".repeat(12).trim_end_matches('/'));
                let names = ["a", "git", "src/x.rs", "src/y.rs", "zgit/hooks/post-checkout", &deep];
                let index = made_by_git(&names, version, hash);
                let mut seen = Vec::new();
                let width = if hash == "sha1" { 20 } else { 32 };
                entries(&index, width, &mut |name| {
                    seen.push(String::from_utf8(name.to_vec()).unwrap())
                })
                .unwrap();
                let mut expected = names.map(str::to_owned).to_vec();
                expected.sort();
                assert_eq!(seen, expected, "{hash} {version}");
                assert_eq!(judge(&index), Ok(()));
                // The name is whole in these versions.
                let evil = replaced(&index, "zgit/hooks", ".git/hooks");
                assert!(judge(&evil).is_err(), "{hash} {version}");
            }
        }
    }

    #[test]
    fn names_that_git_would_not_add_are_told() {
        for name in [
            ".git",
            ".git/config",
            "a/.GIT/hooks/x",
            "../x",
            "a/../../x",
            "/etc/x",
            "a//b",
            "./a",
            "a\0/b",
        ] {
            assert!(!is_harmless(name.as_bytes()), "{name:?}");
        }
        for name in ["", "a", ".github/workflows/x", ".gitignore", "a.git/b", "dir/", "..."] {
            assert!(is_harmless(name.as_bytes()), "{name:?}");
        }
    }

    #[test]
    fn what_is_no_index_is_left_alone() {
        for bytes in [
            &b""[..],
            b"DIRC",
            b"DIRC\0\0\0\x02\xff\xff\xff\xff",
            b"<html>",
            &[0xff; 200],
        ] {
            assert_eq!(judge(bytes), Ok(()));
        }
    }
}
