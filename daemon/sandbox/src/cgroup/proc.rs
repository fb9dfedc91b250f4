//! What `/proc` and cgroupfs say, parsed. Pure: bytes in, data out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A mounted cgroup file system, from a line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// The directory of the hierarchy that the mount shows: `/`, or the container's own cgroup.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// `cgroup2` or `cgroup`.
    pub v2: bool,
    /// Controllers of a v1 hierarchy, among other options of the super block.
    pub options: Vec<String>,
}

/// A line of `/proc/self/cgroup`: where the process is in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    /// Controllers of a v1 hierarchy; empty for v2.
    pub controllers: Vec<String>,
    /// Path below the hierarchy's root, as this cgroup namespace sees it.
    pub path: PathBuf,
}

/// The cgroup mounts, in the order of the file: of two at one point the later is on top.
pub(super) fn mounts(mountinfo: &[u8]) -> Vec<Mount> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// `36 35 98:0 /root /point options... - type source super,options`; proc_pid_mountinfo(5).
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let root = unescape(fields.nth(3)?);
    let point = unescape(fields.next()?);
    fields.find(|field| *field == b"-")?;
    let v2 = match fields.next()? {
        b"cgroup2" => true,
        b"cgroup" => false,
        _ => return None,
    };
    let options = String::from_utf8_lossy(fields.nth(1)?)
        .split(',')
        .map(str::to_owned)
        .collect();
    Some(Mount {
        root,
        point,
        v2,
        options,
    })
}

/// The kernel writes space, tab, newline and backslash in paths as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The memberships of a process. Named hierarchies (`name=systemd`) have no controllers and are left out.
pub(super) fn memberships(cgroup: &[u8]) -> Vec<Membership> {
    let membership = |line: &[u8]| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let id = fields.next()?;
        let controllers = String::from_utf8_lossy(fields.next()?).into_owned();
        let path = PathBuf::from(OsString::from_vec(fields.next()?.to_vec()));
        if controllers.starts_with("name=") || (controllers.is_empty() && id != b"0") {
            return None;
        }
        let controllers = controllers
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        Some(Membership { controllers, path })
    };
    cgroup.split(|byte| *byte == b'\n').filter_map(membership).collect()
}

/// The directory in the file system of a member of the hierarchy that `mount` shows; `None` when it lies outside of what
/// is mounted (a bind mount into a container without a cgroup namespace).
pub(super) fn directory(mount: &Mount, member: &Path) -> Option<PathBuf> {
    let below = member.strip_prefix(&mount.root).ok()?;
    // `/../other`: the process was moved out of its cgroup namespace.
    if below.components().any(|part| part == std::path::Component::ParentDir) {
        return None;
    }
    Some(if below.as_os_str().is_empty() {
        mount.point.clone()
    } else {
        mount.point.join(below)
    })
}

/// Start of a process in clock ticks after boot, from its `/proc/PID/stat`; `None` for a zombie, which is dead to us.
pub(super) fn start_time(stat: &str) -> Option<u64> {
    // The second field, the program's name in parentheses, may itself contain anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    // Field 22; the iterator stands before field 4.
    fields.nth(18)?.parse().ok()
}

/// The number after `key` in a file of `key value` lines (`memory.events`, `cpu.stat`, `memory.oom_control`).
pub(super) fn flat_value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu\\040acct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_mounts_are_found_with_their_controllers() {
        let mounts = mounts(HYBRID);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[0].point, Path::new("/sys/fs/cgroup/cpu acct"));
        assert_eq!(mounts[0].options, ["rw", "cpu", "cpuacct"]);
        assert!(mounts[3].v2 && !mounts[1].v2);
    }

    #[test]
    fn unified_mount_is_found() {
        let text = b"29 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let expected = Mount {
            root: "/".into(),
            point: "/sys/fs/cgroup".into(),
            v2: true,
            options: vec!["rw".into(), "nsdelegate".into(), "memory_recursiveprot".into()],
        };
        assert_eq!(mounts(text), [expected]);
    }

    #[test]
    fn truncated_lines_are_passed_over() {
        for text in [
            "",
            "1 2 3",
            "1 2 3 / /point rw",
            "1 2 3 / /point rw - cgroup",
            "1 2 3 / /p rw - cgroup x",
        ] {
            assert_eq!(mounts(text.as_bytes()), [], "{text:?}");
        }
    }

    #[test]
    fn memberships_leave_named_hierarchies_out() {
        let found =
            memberships(b"9:name=systemd:/\n4:memory:/a:b\n2:cpu,cpuacct:/user.slice\n1::/odd\n0::/init.scope\n");
        let paths: Vec<_> = found
            .iter()
            .map(|member| (member.controllers.join("+"), member.path.clone()))
            .collect();
        let expected = [("memory", "/a:b"), ("cpu+cpuacct", "/user.slice"), ("", "/init.scope")];
        assert_eq!(
            paths,
            expected.map(|(controllers, path)| (controllers.to_owned(), PathBuf::from(path)))
        );
    }

    #[test]
    fn a_member_is_below_the_mounted_root() {
        let mount = |root: &str| Mount {
            root: root.into(),
            point: "/cg".into(),
            v2: false,
            options: vec![],
        };
        let find = |root, member| directory(&mount(root), Path::new(member));
        assert_eq!(find("/", "/"), Some("/cg".into()));
        assert_eq!(find("/", "/a/b"), Some("/cg/a/b".into()));
        assert_eq!(find("/docker/1", "/docker/1"), Some("/cg".into()));
        assert_eq!(find("/docker/1", "/docker/1/x"), Some("/cg/x".into()));
        assert_eq!(find("/docker/1", "/docker/12"), None);
        assert_eq!(find("/", "/../x"), None);
    }

    #[test]
    fn start_time_is_field_22_whatever_the_name() {
        let rest = "1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 98";
        assert_eq!(start_time(&format!("7 (a) b) ) S {rest}")), Some(4711));
        assert_eq!(start_time(&format!("7 (a) Z {rest}")), None);
        assert_eq!(start_time("7 (a) S 1 2"), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn flat_values_match_whole_keys() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(flat_value(text, "oom_kill"), Some(3));
        assert_eq!(flat_value(text, "oom"), None);
    }
}
