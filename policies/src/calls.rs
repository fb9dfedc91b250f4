//! The system calls that a policy may name. The sandbox has the table by which they are let through; a test of the daemon, which knows both,
//! holds them equal.

/// What a policy can say of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// It can be allowed and denied.
    Choice,
    /// Without it no command can be started: it cannot be denied.
    Needed,
    /// It reaches what no sandbox gives: it cannot be allowed.
    Never,
}

/// Every call with its kind.
pub fn calls() -> impl Iterator<Item = (&'static str, CallKind)> {
    let of = |names: &'static [&'static str], kind| names.iter().map(move |name| (*name, kind));
    of(CHOICE, CallKind::Choice)
        .chain(of(NEEDED, CallKind::Needed))
        .chain(of(NEVER, CallKind::Never))
}

/// What can be said of a call; `None`: there is none so named.
pub fn call_kind(name: &str) -> Option<CallKind> {
    let found = calls().find(|(known, _)| *known == name);
    found.map(|(_, kind)| kind)
}

/// In the profile `default`.
#[rustfmt::skip]
const CHOICE: &[&str] = &[
    "accept", "accept4", "access", "alarm", "arch_prctl", "bind", "capget", "capset", "chdir", "chmod", "chown",
    "clock_getres", "clock_gettime", "clock_nanosleep", "clone", "connect", "copy_file_range", "creat", "dup",
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd", "eventfd2",
    "faccessat", "faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown",
    "fchownat", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat",
    "fstatfs", "fsync", "ftruncate", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "futimesat",
    "get_mempolicy", "get_robust_list", "getcpu", "getcwd", "getdents", "getdents64", "getegid", "geteuid", "getgid",
    "getgroups", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom",
    "getresgid", "getresuid", "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt", "gettid",
    "gettimeofday", "getuid", "getxattr", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit", "ioctl", "ioprio_get",
    "ioprio_set", "kcmp", "kill", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown",
    "lgetxattr", "link", "linkat", "listen", "listxattr", "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat",
    "madvise", "map_shadow_stack", "mbind", "membarrier", "memfd_create", "mincore", "mkdir", "mkdirat", "mknod",
    "mknodat", "mlock", "mlock2", "mlockall", "move_pages", "mq_getsetattr", "mq_notify", "mq_open",
    "mq_timedreceive", "mq_timedsend", "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd",
    "msync", "munlock", "munlockall", "name_to_handle_at", "nanosleep", "newfstatat", "open", "openat", "pause",
    "personality", "pidfd_getfd", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc", "pkey_free",
    "pkey_mprotect", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "process_vm_readv", "pselect6", "ptrace",
    "pwrite64", "pwritev", "pwritev2", "readahead", "readlink", "readlinkat", "readv", "recvfrom", "recvmmsg",
    "removexattr", "rename", "renameat", "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigpending",
    "rt_sigqueueinfo", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
    "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    "sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop", "sendfile", "sendmmsg", "sendto",
    "set_mempolicy", "set_robust_list", "set_tid_address", "setfsgid", "setfsuid", "setgid", "setgroups", "setitimer",
    "setpgid", "setpriority", "setregid", "setresgid", "setresuid", "setreuid", "setrlimit", "setsid", "setsockopt",
    "setuid", "setxattr", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4",
    "socket", "socketpair", "splice", "stat", "statfs", "statx", "symlink", "symlinkat", "sync", "sync_file_range",
    "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
    "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime", "times", "tkill", "truncate", "umask",
    "uname", "unlink", "unlinkat", "unshare", "uprobe", "uretprobe", "utime", "utimensat", "utimes", "vfork",
    "vmsplice", "wait4", "waitid", "writev",
];

/// Those without which a command cannot be started.
#[rustfmt::skip]
const NEEDED: &[&str] = &[
    "brk", "close", "close_range", "dup2", "dup3", "execve", "execveat", "exit", "exit_group", "fcntl", "futex",
    "mmap", "mprotect", "munmap", "poll", "ppoll", "read", "recvmsg", "rt_sigaction", "rt_sigprocmask",
    "rt_sigreturn", "sendmsg", "write",
];

/// Those that no profile has.
#[rustfmt::skip]
const NEVER: &[&str] = &[
    "_sysctl", "acct", "add_key", "adjtimex", "afs_syscall", "bpf", "cachestat", "chroot", "clock_adjtime",
    "clock_settime", "clone3", "create_module", "delete_module", "epoll_ctl_old", "epoll_wait_old", "fanotify_init",
    "fanotify_mark", "file_getattr", "file_setattr", "finit_module", "fsconfig", "fsmount", "fsopen", "fspick",
    "get_kernel_syms", "get_thread_area", "getpmsg", "getxattrat", "init_module", "io_uring_enter",
    "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kexec_file_load", "kexec_load", "keyctl", "listmount",
    "listxattrat", "lookup_dcookie", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "memfd_secret",
    "migrate_pages", "modify_ldt", "mount", "mount_setattr", "move_mount", "nfsservctl", "open_by_handle_at",
    "open_tree", "open_tree_attr", "openat2", "perf_event_open", "pivot_root", "process_madvise", "process_mrelease",
    "process_vm_writev", "putpmsg", "query_module", "quotactl", "quotactl_fd", "reboot", "remap_file_pages",
    "removexattrat", "request_key", "security", "set_mempolicy_home_node", "set_thread_area", "setdomainname",
    "sethostname", "setns", "settimeofday", "setxattrat", "statmount", "swapoff", "swapon", "sysfs", "syslog",
    "tuxcall", "umount2", "uselib", "userfaultfd", "ustat", "vhangup", "vserver",
];
