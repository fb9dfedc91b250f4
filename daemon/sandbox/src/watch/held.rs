//! Files without a name that the sandbox's processes hold open: memory files, and what was unlinked.
//!
//! A file that is only mapped, or on its way through a socket, is not found; memory that is mapped counts with the processes.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::init;

/// What proc(5) puts behind the name of a file that has none.
const UNLINKED: &[u8] = b" (deleted)";
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

/// Calls `look` with each open descriptor that has no name: what its link says, and the link.
fn each(mut look: impl FnMut(&[u8], &Path)) {
    for pid in init::pids() {
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
    fn memory_files_and_unlinked_ones_are_found_while_they_are_open() {
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
