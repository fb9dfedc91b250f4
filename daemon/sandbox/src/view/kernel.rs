//! File systems by which the kernel is asked and told things. Their files answer whoever the file's owner is, without any capability: a command whose
//! files belong to root would set the machine's `/proc/sys` like root itself. No view has them writable.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Magic numbers of statfs(2), from linux/magic.h (of debugfs, fusectl, mqueue and xenfs from their own sources): proc, sysfs, cgroup, cgroup2,
/// debugfs, tracefs, securityfs, efivarfs, bpf, pstore, configfs, devpts, mqueue, binfmt_misc, selinuxfs, smackfs, nsfs, resctrl, xenfs, fusectl.
const MAGIC: &[u32] = &[
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xde5e_81e4,
    0xcafe_4a11,
    0x6165_676c,
    0x6265_6570,
    0x1cd1,
    0x1980_0202,
    0x4249_4e4d,
    0xf97c_ff8c,
    0x4341_5d53,
    0x6e73_6673,
    0x0765_5821,
    0xabba_1974,
    0x6573_5543,
];

/// What the table of mounts calls them; and devtmpfs, whose magic number is that of any tmpfs.
const NAMES: &[&str] = &[
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "nfsd",
    "nsfs",
    "openpromfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
    "xenfs",
];

/// Whether a path leads into a file system by which the kernel is asked and told things (proc, sysfs, cgroup and the like): no sandbox has one of
/// them writable.
///
/// # Errors
/// As of statfs(2).
pub fn is_kernels_file_system(path: &Path) -> io::Result<bool> {
    Ok(MAGIC.contains(&(rustix::fs::statfs(path)?.f_type as u32)))
}

/// Whether what is open lies in one of them.
pub(super) fn is_kernels(fd: impl AsFd) -> io::Result<bool> {
    let magic = rustix::fs::fstatfs(fd)?.f_type;
    Ok(MAGIC.contains(&(magic as u32)))
}

/// Where this process has them mounted: the table of mounts, before anything is changed in it.
pub(super) fn mounted() -> io::Result<Vec<PathBuf>> {
    Ok(points(&std::fs::read("/proc/self/mountinfo")?))
}

/// The same in the bytes of proc_pid_mountinfo(5).
fn points(table: &[u8]) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let point = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = fields.nth(4)?.to_owned();
        // Optional fields end with a hyphen; the type follows.
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        NAMES
            .iter()
            .any(|name| name.as_bytes() == kind)
            .then(|| PathBuf::from(std::ffi::OsString::from_vec(unescape(&point))))
    };
    table.split(|byte| *byte == b'\n').filter_map(point).collect()
}

/// Blanks, tabs, line feeds and backslashes stand there as a backslash and three octal digits.
fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let [first, after @ ..] = rest {
        let octal = |digits: &[u8]| {
            let digit = |value: u32, byte: &u8| matches!(byte, b'0'..=b'7').then(|| value * 8 + u32::from(byte - b'0'));
            let value = digits.iter().try_fold(0, digit)?;
            u8::try_from(value).ok()
        };
        match (first, after.get(..3).and_then(octal)) {
            (b'\\', Some(byte)) => {
                plain.push(byte);
                rest = &after[3..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// Those that lie below a directory, relative to it.
pub(super) fn below<'a>(points: &'a [PathBuf], directory: &'a Path) -> impl Iterator<Item = &'a Path> {
    let inside = move |point: &'a PathBuf| point.strip_prefix(directory).ok();
    points
        .iter()
        .filter_map(inside)
        .filter(|inside| !inside.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_in_the_table_of_mounts() {
        let table = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
            37 35 0:4 / /proc rw shared:1 master:2 - proc proc rw\n\
            38 35 0:5 / /srv/a\\040b\\134c/sys rw - sysfs none rw\n\
            39 35 0:6 / /srv/proc rw - ext4 proc rw\nnonsense\n40 35 0:7 / /x rw\n";
        let found = points(table);
        assert_eq!(found, ["/proc", "/srv/a b\\c/sys"].map(PathBuf::from));
        let inside: Vec<_> = below(&found, Path::new("/srv")).collect();
        assert_eq!(inside, [Path::new("a b\\c/sys")]);
        assert_eq!(below(&found, Path::new("/proc")).count(), 0);
    }

    #[test]
    fn the_machines_own_are_told_from_others() {
        let is = |path: &str| is_kernels(std::fs::File::open(path).unwrap()).unwrap();
        assert!(is("/proc/self") && is("/sys/kernel"));
        assert!(!is("/") && !is("/tmp"));
        let found = mounted().unwrap();
        assert!(
            ["/proc", "/sys"].iter().all(|path| found.contains(&path.into())),
            "{found:?}"
        );
    }
}
