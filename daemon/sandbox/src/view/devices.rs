//! `/proc`, `/sys` and `/dev` of a sandbox.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::{BASE, Builder, READ_ONLY, Right, attach, clone_tree, fail, new_mount, open_directory, resolve, tmpfs};
use crate::event::Failure;
use crate::sys;

/// Read-only in `/proc`: they configure the kernel, and a command whose files belong to root may write some of them without any
/// capability. `1` is init: not being dumpable makes its files root's, and thus that command's.
const PROC_READ_ONLY: &[&str] = &["1", "bus", "fs", "irq", "pressure", "sys", "sysrq-trigger"];

/// Not seen in `/proc`: kernel memory and logs, keys, timers of other processes, the machine's hardware.
const PROC_MASKED: &[&str] = &[
    "acpi",
    "asound",
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "pagetypeinfo",
    "sched_debug",
    "scsi",
    "slabinfo",
    "timer_list",
    "vmallocinfo",
    "vmcore",
];

/// What there is of `/sys`. The rest describes the machine, and a file system of thousands of files that only root may read is not for
/// a command whose files belong to root: among them are the registers of PCI devices, which reading can change.
const SYS: &[&str] = &[
    "devices/system",                 // lscpu, nproc, hwloc, the JVM: processors and NUMA nodes
    "devices/virtual/net",            // what the links of class/net lead to
    "class/net",                      // getifaddrs of Java and Node.js
    "fs/cgroup",                      // runtimes look whether limits can be read there; it is empty
    "kernel/mm/transparent_hugepage", // the JVM, Go, jemalloc, databases
    "kernel/mm/hugepages",            // the same
];

/// Device files that exist in `/dev`.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Most pseudo-terminals of a sandbox: the kernel's stock of 3072 for all but the machine's own is shared by everybody.
const PTYS: &str = "64";

/// Links in `/dev`.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

impl Builder<'_> {
    /// Mounts proc of the own pid namespace. Must come while the old root's proc is still there: the kernel lets a user namespace
    /// mount proc only where a fully visible one is.
    pub(super) fn proc(&mut self) -> Result<(), Failure> {
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = new_mount("proc", &[], attributes).map_err(fail("mount proc", "/proc"))?;
        let point = self.directory(Path::new("/proc"), 0o555)?;
        attach(&proc, point.as_fd()).map_err(fail("mount proc", "/proc"))?;
        // No user namespace below this one, ever, whatever the system-call filter says. The limit is this namespace's own. A
        // kernel without the file is covered by the filter alone.
        for (file, value) in [("sys/user/max_user_namespaces", "0"), ("self/oom_score_adj", "0")] {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            if let Ok(fd) = rustix::fs::openat(&proc, file, flags, Mode::empty()) {
                let _ = std::fs::File::from(fd).write_all(value.as_bytes());
            }
        }
        for name in PROC_READ_ONLY {
            let path = Path::new("/proc").join(name);
            let fd = match resolve(&self.new, &path, OFlags::empty()) {
                Err(Errno::NOENT) => continue,
                result => result.map_err(fail("open", &path))?,
            };
            let tree = clone_tree(fd.as_fd(), true).map_err(fail("open_tree", &path))?;
            sys::mount_set_attributes(tree.as_fd(), BASE | READ_ONLY | libc::MOUNT_ATTR_NOEXEC, true)
                .map_err(fail("mount_setattr", &path))?;
            attach(&tree, fd.as_fd()).map_err(fail("make read-only", &path))?;
        }
        for name in PROC_MASKED {
            self.mask(&Path::new("/proc").join(name))?;
        }
        self.built.rules.push(("/proc".into(), Right::Use));
        Ok(())
    }

    /// Mounts [`SYS`] of a sysfs of the own network namespace, so that the machine's network interfaces do not show. Where the kernel
    /// refuses, an empty directory.
    pub(super) fn sysfs(&mut self) -> Result<(), Failure> {
        self.directory(Path::new("/sys"), 0o755)?;
        self.built.rules.push(("/sys".into(), Right::Read));
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_RDONLY;
        let sysfs = match new_mount("sysfs", &[], attributes) {
            Err(Errno::PERM) => return Ok(()),
            result => result.map_err(fail("mount sysfs", "/sys"))?,
        };
        // A mount that is attached nowhere cannot be copied before Linux 6.15. The base root is let go of later.
        rustix::fs::mkdirat(&self.base, "sysfs", Mode::from_raw_mode(0o700)).map_err(fail("make", "sysfs"))?;
        let point = open_directory(self.base.as_fd(), "sysfs").map_err(fail("open", "sysfs"))?;
        attach(&sysfs, point.as_fd()).map_err(fail("mount sysfs", "/sys"))?;
        for name in SYS {
            let target = Path::new("/sys").join(name);
            let source = match resolve(&sysfs, Path::new(name), OFlags::DIRECTORY) {
                Err(Errno::NOENT) => continue,
                result => result.map_err(fail("open", &target))?,
            };
            let tree = clone_tree(source.as_fd(), false).map_err(fail("open_tree", &target))?;
            let point = self.directory(&target, 0o755)?;
            attach(&tree, point.as_fd()).map_err(fail("mount", &target))?;
        }
        Ok(())
    }

    pub(super) fn dev(&mut self, shm_bytes: u64) -> Result<(), Failure> {
        let dev = tmpfs("64k", "755").map_err(fail("mount tmpfs", "/dev"))?;
        let point = self.directory(Path::new("/dev"), 0o755)?;
        attach(&dev, point.as_fd()).map_err(fail("mount tmpfs", "/dev"))?;
        for name in DEVICES {
            let path = Path::new("/dev").join(name);
            let source = resolve(&self.old, &path, OFlags::NOFOLLOW).map_err(fail("open", &path))?;
            let tree = clone_tree(source.as_fd(), false).map_err(fail("open_tree", &path))?;
            // Read-only, which for a device means its owner, mode and times: it can be written to, but a command whose files belong to
            // root cannot close /dev/null to the machine.
            let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC | READ_ONLY;
            sys::mount_set_attributes(tree.as_fd(), attributes, false).map_err(fail("mount_setattr", &path))?;
            let file = self.empty_file(&path)?;
            attach(&tree, file.as_fd()).map_err(fail("mount", &path))?;
            self.built.rules.push((path, Right::Use));
        }
        for (name, link) in LINKS {
            rustix::fs::symlinkat(*link, &dev, *name).map_err(fail("make the link", name))?;
        }
        // Each mount of devpts is an instance of its own: pseudo-terminals of the machine cannot be reached.
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let pts = new_mount(
            "devpts",
            &[("ptmxmode", "0666"), ("mode", "0620"), ("max", PTYS)],
            attributes,
        )
        .map_err(fail("mount devpts", "/dev/pts"))?;
        let point = self.directory(Path::new("/dev/pts"), 0o755)?;
        attach(&pts, point.as_fd()).map_err(fail("mount devpts", "/dev/pts"))?;
        self.built.rules.push(("/dev/pts".into(), Right::Use));
        self.tmpfs(Path::new("/dev/shm"), shm_bytes, 0o1777, true)?;
        self.built.rules.push(("/dev".into(), Right::Read));
        self.seal.push(dev);
        Ok(())
    }
}
