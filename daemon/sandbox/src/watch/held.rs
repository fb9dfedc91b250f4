//! Files without a name that the sandbox's processes hold open: memory files, and what was unlinked.
//!
//! A file that is only mapped is not found; memory that is mapped counts with the processes. One that is only on its way through a Unix
//! socket is not found either, but that something is on its way is ([`in_flight`]). What it is could be seen by peeking into the socket
//! through a copy of its descriptor; but a peek moves the offset that SO_PEEK_OFF sets, and a connection that nobody has accepted has
//! no descriptor to copy, so nothing is touched.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::processes;

/// What proc(5) puts behind the name of a file that has none.
const UNLINKED: &[u8] = b" (deleted)";
/// How the link of a socket begins.
const SOCKET: &[u8] = b"socket:";
/// How the link of a memfd_create(2) file begins.
const MEMORY_FILE: &[u8] = b"/memfd:";
/// Shared memory of System V and of MAP_SHARED | MAP_ANONYMOUS: counted elsewhere.
const SHARED_MEMORY: [&[u8]; 2] = [b"/SYSV", b"/dev/zero"];

/// Bytes of memory files that processes hold open.
pub(super) fn memory_files() -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    each(|link, path| {
        if link.starts_with(MEMORY_FILE)
            && let Ok(metadata) = std::fs::metadata(path)
            && seen.insert((metadata.dev(), metadata.ino()))
        {
            bytes += metadata.blocks() * 512;
        }
    });
    bytes
}

/// Bytes and number of unlinked files that processes hold open, but for those on the devices `memory` and memory files.
pub(super) fn unlinked_on_disk(memory: &[u64]) -> (u64, u64) {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    each(|link, path| {
        if !link.starts_with(MEMORY_FILE)
            && !SHARED_MEMORY.iter().any(|begin| link.starts_with(begin))
            && let Ok(metadata) = std::fs::metadata(path)
            && metadata.is_file()
            && metadata.nlink() == 0
            && !memory.contains(&metadata.dev())
            && seen.insert((metadata.dev(), metadata.ino()))
        {
            bytes += metadata.blocks() * 512;
        }
    });
    (bytes, seen.len() as u64)
}

/// Whether descriptors are on their way through Unix sockets of the sandbox (`scm_fds` of proc_pid_fdinfo(5), Linux 5.10), or may be: with
/// `own_sockets`, when every Unix socket of the network namespace is the sandbox's, connections that nobody has accepted count.
///
/// Sockets that are on their way themselves hide nothing: the kernel frees what no open socket leads to, and that one tells.
pub(super) fn in_flight(own_sockets: bool) -> bool {
    let carries = |pid: i32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        descriptors
            .filter(|descriptor| {
                let link = std::fs::read_link(descriptor.path());
                link.is_ok_and(|link| link.as_os_str().as_bytes().starts_with(SOCKET))
            })
            .any(|socket| {
                let info = Path::new("/proc")
                    .join(pid.to_string())
                    .join("fdinfo")
                    .join(socket.file_name());
                std::fs::read_to_string(info).is_ok_and(|info| carried(&info) > 0)
            })
    };
    let unaccepted = || std::fs::read("/proc/self/net/unix").is_ok_and(|table| has_unaccepted(&table));
    processes::pids().any(carries) || (own_sockets && unaccepted())
}

/// How many descriptors wait in a socket, as its fdinfo says.
fn carried(info: &str) -> u64 {
    info.lines()
        .find_map(|line| line.strip_prefix("scm_fds:"))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

/// Whether `/proc/net/unix` lists a socket that is connected and nobody's: its state is 02 (SS_CONNECTING), its inode 0.
fn has_unaccepted(table: &[u8]) -> bool {
    table.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let mut fields = line
            .split(|byte| *byte == b' ')
            .filter(|field| !field.is_empty())
            .skip(5);
        fields.next() == Some(b"02") && fields.next() == Some(b"0")
    })
}

/// Calls `look` with each open descriptor that has no name: what its link says, and the link.
fn each(mut look: impl FnMut(&[u8], &Path)) {
    for pid in processes::pids() {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let path = descriptor.path();
            if let Ok(link) = std::fs::read_link(&path)
                && link.as_os_str().as_bytes().ends_with(UNLINKED)
            {
                look(link.as_os_str().as_bytes(), &path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn descriptors_that_nobody_has_received_are_told() {
        use std::os::fd::{AsFd, AsRawFd};
        let (near, far) = crate::wire::pair().unwrap();
        let carries = || {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", far.as_raw_fd())).unwrap();
            carried(&info)
        };
        assert_eq!(carries(), 0);
        let file = tempfile::tempfile().unwrap();
        crate::wire::send(near.as_fd(), &0u8, &[file.as_fd()]).unwrap();
        assert_eq!(carries(), 1);
        assert!(in_flight(false));
        drop(crate::wire::receive::<u8>(far.as_fd()).unwrap());
        assert_eq!(carries(), 0);
    }

    #[test]
    fn connections_that_nobody_has_accepted_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let connection = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(has_unaccepted(&std::fs::read("/proc/self/net/unix").unwrap()));
        drop((listener, connection));
        let none = b"Num RefCount Protocol Flags Type St Inode Path\n\
            ffff: 00000003 00000000 00000000 0001 03 9411 /02 0\nffff: 00000002 00000000 00010000 0001 01 02 /x\n";
        assert!(!has_unaccepted(none));
    }

    #[test]
    fn memory_files_and_unlinked_ones_are_found_while_they_are_open() {
        let _alone = crate::watch::MEASURING
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Other tests of this process hold files as well: differences, with room for theirs.
        let memory_before = memory_files();
        let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        std::fs::File::from(memory.try_clone().unwrap())
            .write_all(&vec![1; 64 * MIB])
            .unwrap();
        assert!(memory_files() >= memory_before + 60 * MIB as u64);

        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![1; 8 * MIB]).unwrap();
        file.sync_all().unwrap();
        let (bytes, files) = unlinked_on_disk(&[]);
        assert!(bytes >= 8 * MIB as u64 && files >= 1, "{bytes} {files}");
        let device = file.metadata().unwrap().dev();
        let (elsewhere, _) = unlinked_on_disk(&[device]);
        assert!(elsewhere < bytes, "{elsewhere} {bytes}");
    }
}
