//! Which system calls each profile allows: every call of the table stands in exactly one group, and each group says who needs
//! it and what both profiles answer. A call that a profile allows may still be refused for certain arguments:
//! [`conditions`](super::conditions).
//!
//! `default` is for everything developers run: compilers, debuggers, virtual machines of languages, browsers, databases.
//! `strict` is for commands that build, test and look (shells, git, compilers, interpreters, package managers): what it
//! leaves out reaches into other processes, changes how the kernel schedules, keeps objects without a name in the file
//! system, or is young.
//!
//! Two answers refuse. [`MISSING`] (`ENOSYS`) where a program expects that an older kernel does not have the call and goes
//! another way: glibc does that for `clone3` with `ENOSYS` only, and aborts on `EPERM`. [`DENIED`] (`EPERM`) for calls that
//! have always existed, where "not implemented" would mislead whoever reads the message. A number that the table does not
//! know is answered as missing.

use super::Answer::{self, Allow, Errno};
use super::calls::Call::{self, *};

/// As if the kernel did not have the call.
const MISSING: Answer = Errno(libc::ENOSYS);
/// Not permitted.
const DENIED: Answer = Errno(libc::EPERM);

/// Calls that the same programs need, and the answer of each profile.
pub(super) struct Group {
    /// What the calls are for; reads well in "it is for …".
    pub purpose: &'static str,
    pub default: Answer,
    pub strict: Answer,
    pub calls: &'static [Call],
}

/// Both profiles allow it.
const fn both(purpose: &'static str, calls: &'static [Call]) -> Group {
    group(purpose, Allow, Allow, calls)
}

/// Only `default` allows it.
const fn default_only(purpose: &'static str, strict: Answer, calls: &'static [Call]) -> Group {
    group(purpose, Allow, strict, calls)
}

/// No profile allows it.
const fn neither(purpose: &'static str, answer: Answer, calls: &'static [Call]) -> Group {
    group(purpose, answer, answer, calls)
}

const fn group(purpose: &'static str, default: Answer, strict: Answer, calls: &'static [Call]) -> Group {
    Group {
        purpose,
        default,
        strict,
        calls,
    }
}

/// The table. The first part is what is allowed, the second what is not.
#[rustfmt::skip]
pub(super) const GROUPS: &[Group] = &[
    // Everyone. What may be opened at all is decided by the view and by Landlock.
    both("reading and writing files", &[
        read, write, open, openat, creat, close, close_range, lseek, pread64, pwrite64, readv, writev, preadv, pwritev,
        preadv2, pwritev2, dup, dup2, dup3, fcntl, ioctl, pipe, pipe2,
    ]),
    // Everyone; `statfs` to know the file system, `fadvise64` and `readahead` by compilers, linkers and databases.
    both("looking at files", &[
        stat, fstat, lstat, newfstatat, statx, access, faccessat, faccessat2, readlink, readlinkat, statfs, fstatfs,
        getdents, getdents64, getcwd, chdir, fchdir, fadvise64, readahead,
    ]),
    // Shells, git, build tools, package managers.
    both("changing files and directories", &[
        rename, renameat, renameat2, mkdir, mkdirat, rmdir, link, linkat, unlink, unlinkat, symlink, symlinkat, mknod,
        mknodat, truncate, ftruncate, fallocate, umask, utime, utimes, futimesat, utimensat, flock,
    ]),
    // tar, install, npm and pip when they unpack. Landlock does not cover these; the mounts do.
    both("owners, modes and extended attributes of files", &[
        chmod, fchmod, fchmodat, fchmodat2, chown, fchown, lchown, fchownat, setxattr, lsetxattr, fsetxattr, getxattr,
        lgetxattr, fgetxattr, listxattr, llistxattr, flistxattr, removexattr, lremovexattr, fremovexattr,
    ]),
    // git and databases, so that a commit survives a crash.
    both("writing files through to the disk", &[sync, syncfs, fsync, fdatasync, sync_file_range, msync]),
    // cp, cat, Go, Node and web servers, for copies inside the kernel.
    both("copying without a buffer", &[sendfile, copy_file_range, splice, tee]),
    // Go and Node's watchers, `tail -f`.
    both("watching files", &[inotify_init, inotify_init1, inotify_add_watch, inotify_rm_watch]),
    // The dynamic linker, allocators, garbage collectors. `pkey_*` is what V8 protects its compiler's pages with.
    both("memory", &[
        mmap, mprotect, munmap, brk, mremap, madvise, mincore, mlock, mlock2, munlock, mlockall, munlockall,
        pkey_mprotect, pkey_alloc, pkey_free, mseal, map_shadow_stack,
    ]),
    // Everyone who starts a program.
    both("processes", &[
        clone, fork, vfork, execve, exit, exit_group, wait4, waitid, getpid, getppid, gettid, setpgid, getpgid, getpgrp,
        setsid, getsid, pidfd_open, set_tid_address, prctl, arch_prctl, personality, restart_syscall,
    ]),
    // The C library's threads; nothing here may be refused under any condition.
    both("threads", &[futex, set_robust_list, get_robust_list, membarrier, rseq, sched_yield, getcpu]),
    // Everyone. Init takes no signal from inside: it is pid 1.
    both("signals", &[
        rt_sigaction, rt_sigprocmask, rt_sigreturn, rt_sigpending, rt_sigtimedwait, rt_sigqueueinfo, rt_tgsigqueueinfo,
        rt_sigsuspend, sigaltstack, kill, tkill, tgkill, pidfd_send_signal, pause, signalfd, signalfd4,
    ]),
    // Shells and event loops.
    both("waiting for descriptors", &[
        poll, ppoll, select, pselect6, epoll_create, epoll_create1, epoll_ctl, epoll_wait, epoll_pwait, epoll_pwait2,
        eventfd, eventfd2,
    ]),
    // Everyone; most of it never reaches the kernel (vDSO).
    both("clocks and timers", &[
        time, gettimeofday, clock_gettime, clock_getres, clock_nanosleep, nanosleep, times, alarm, getitimer, setitimer,
        timer_create, timer_settime, timer_gettime, timer_getoverrun, timer_delete, timerfd_create, timerfd_settime,
        timerfd_gettime,
    ]),
    // Shells, su-like tools that drop rights they do not have, tar. Without capabilities they change nothing.
    both("ids and capabilities of oneself", &[
        getuid, geteuid, getgid, getegid, getgroups, getresuid, getresgid, setuid, setgid, setreuid, setregid, setresuid,
        setresgid, setgroups, setfsuid, setfsgid, capget, capset,
    ]),
    // AddressSanitizer and the JVM set limits of their own; `nice` and `ionice` in build scripts; `taskset`, `nproc`.
    both("limits, priorities and processors", &[
        getrlimit, setrlimit, prlimit64, getrusage, getpriority, setpriority, ioprio_get, ioprio_set, sched_getaffinity,
        sched_setaffinity, sched_getparam, sched_getscheduler, sched_getattr, sched_get_priority_max,
        sched_get_priority_min, sched_rr_get_interval,
    ]),
    // Everyone.
    both("what machine this is, and random numbers", &[uname, sysinfo, getrandom]),
    // Servers under test, browsers, job servers. Which families, say the conditions; which hosts, the network namespace.
    both("sockets", &[
        socket, socketpair, bind, listen, accept, accept4, connect, shutdown, getsockname, getpeername, setsockopt,
        getsockopt, sendto, recvfrom, sendmsg, recvmsg, sendmmsg, recvmmsg,
    ]),
    // `file`, browsers, OpenSSH: programs that confine themselves further.
    both("filters of one's own", &[seccomp]),
    // Landing pads of uprobes that somebody outside has set on a shared library; called by nobody, harmless without.
    both("probes set from outside", &[uretprobe, uprobe]),

    // gdb, strace, LeakSanitizer. Landlock and the pid namespace keep it inside the sandbox.
    default_only("debugging other processes", DENIED, &[ptrace, process_vm_readv, pidfd_getfd, kcmp]),
    // Tests of real-time code, JACK, chrt. Without a capability only lower.
    default_only("scheduling policies", DENIED, &[sched_setscheduler, sched_setparam, sched_setattr]),
    // Databases, numactl, the JVM with +UseNUMA.
    default_only("placing memory on NUMA nodes", MISSING, &[mbind, set_mempolicy, get_mempolicy, move_pages]),
    // PostgreSQL, Xvfb and fakeroot; the namespace is the sandbox's own. `ENOSYS` is a kernel without CONFIG_SYSVIPC.
    default_only("System V IPC", MISSING, &[
        shmget, shmat, shmdt, shmctl, semget, semop, semtimedop, semctl, msgget, msgsnd, msgrcv, msgctl,
    ]),
    // Tests of message queues; glibc and Python name them.
    default_only("POSIX message queues", MISSING, &[
        mq_open, mq_unlink, mq_timedsend, mq_timedreceive, mq_notify, mq_getsetattr,
    ]),
    // MySQL and other databases; the older and simpler way before io_uring.
    default_only("asynchronous disk access", MISSING, &[
        io_setup, io_destroy, io_submit, io_cancel, io_getevents, io_pgetevents,
    ]),
    // Browsers, the JVM, libffi. A file without a path is beyond Landlock, and could be executed; callers fall back to a
    // temporary file, `fexecve` to /proc/self/fd.
    default_only("files without a name", MISSING, &[memfd_create, execveat]),
    // Programs that confine themselves with Landlock; they go on without.
    default_only("Landlock rules of one's own", MISSING, &[
        landlock_create_ruleset, landlock_add_rule, landlock_restrict_self,
    ]),
    // Wine; libraries that try them and fall back to futex.
    default_only("newer futexes", MISSING, &[futex_waitv, futex_wake, futex_wait, futex_requeue]),
    // Nobody important; threads and processes do without.
    default_only("giving up parts of the shared process state", DENIED, &[unshare]),
    // A handle is useless without `open_by_handle_at`, but systemd's tools and `fatrace` compare them.
    default_only("handles of files", DENIED, &[name_to_handle_at]),
    // Fast pipes in tests and in Perl's IO; a page given to a pipe stays the writer's to change.
    default_only("giving memory to pipes", DENIED, &[vmsplice]),

    // Its flags are in memory, where a filter cannot look for CLONE_NEWUSER; glibc, Go and musl fall back to clone.
    neither("creating processes with flags that a filter cannot see", MISSING, &[clone3]),
    // Its mode is in memory too: it could create a set-uid file. Since Linux 5.6; callers fall back to openat.
    neither("opening files with a mode that a filter cannot see", MISSING, &[openat2]),
    // Executes file and socket operations past every seccomp filter; a long line of kernel bugs. libuv, Node and databases
    // fall back to threads.
    neither("asynchronous access past every filter", MISSING, &[io_uring_setup, io_uring_enter, io_uring_register]),
    // The new mount API reaches what mount(2) does not. libmount falls back to mount, and to /proc/self/mountinfo.
    neither("mounting, the new way", MISSING, &[
        open_tree, open_tree_attr, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr, statmount, listmount,
    ]),
    // Young calls whose arguments are in memory, or that act on other processes; all have an older form.
    neither("younger forms of older calls", MISSING, &[
        setxattrat, getxattrat, listxattrat, removexattrat, file_getattr, file_setattr, process_madvise,
        process_mrelease, set_mempolicy_home_node, cachestat, memfd_secret, quotactl_fd,
    ]),
    // Names of security modules; libapparmor and libselinux fall back to /proc.
    neither("attributes of security modules", MISSING, &[lsm_get_self_attr, lsm_set_self_attr, lsm_list_modules]),
    // Numbers whose calls Linux no longer has, or never had on these architectures.
    neither("nothing any more", MISSING, &[
        uselib, ustat, sysfs, _sysctl, create_module, get_kernel_syms, query_module, nfsservctl, getpmsg, putpmsg,
        afs_syscall, tuxcall, security, set_thread_area, get_thread_area, epoll_ctl_old, epoll_wait_old,
        remap_file_pages, vserver,
    ]),

    // Enters namespaces by descriptor. What may not be made is refused by the conditions of clone and unshare.
    neither("entering namespaces", DENIED, &[setns]),
    // The view of the file tree.
    neither("mounting", DENIED, &[mount, umount2, pivot_root, chroot]),
    // Opens a file by its number, past every directory: Docker's "shocker" of 2014.
    neither("opening files by their number", DENIED, &[open_by_handle_at]),
    // Keyrings belong to the user, not to a namespace.
    neither("keyrings", DENIED, &[add_key, request_key, keyctl]),
    // Kernel interfaces with a history and no use here; `perf` stops working.
    neither("programming and measuring the kernel", DENIED, &[bpf, perf_event_open, userfaultfd, lookup_dcookie]),
    // Watches whole mounts; inotify is allowed.
    neither("watching whole file systems", DENIED, &[fanotify_init, fanotify_mark]),
    // Debuggers use ptrace or /proc/PID/mem.
    neither("writing into other processes", DENIED, &[process_vm_writev, migrate_pages]),
    // 16-bit segments (DOS programs) and ports: kernel code with a history.
    neither("old ways of the PC", DENIED, &[modify_ldt, iopl, ioperm]),
    // The kernel refuses most of what follows without a capability; a filter does not depend on that.
    neither("loading kernels and modules", DENIED, &[
        kexec_load, kexec_file_load, init_module, finit_module, delete_module,
    ]),
    neither("administering the machine", DENIED, &[
        reboot, swapon, swapoff, acct, quotactl, syslog, sethostname, setdomainname, vhangup,
    ]),
    neither("setting the clock", DENIED, &[clock_settime, settimeofday, clock_adjtime, adjtimex]),
];
