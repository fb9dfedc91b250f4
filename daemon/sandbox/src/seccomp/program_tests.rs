//! The compiled programs are run by an interpreter of classic BPF, for both architectures and both profiles: every call
//! number with every argument that a condition looks at, against the table read directly.

use std::collections::{BTreeMap, BTreeSet};

use super::groups::GROUPS;
use super::*;

const PROFILES: [Syscalls; 2] = [Syscalls::Default, Syscalls::Strict];
const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

/// `struct seccomp_data` of linux/seccomp.h.
fn data(arch: u32, number: u32, args: &[u64; 6]) -> [u8; 64] {
    let mut data = [0; 64];
    data[0..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (place, arg) in data[16..].chunks_exact_mut(8).zip(args) {
        place.copy_from_slice(&arg.to_le_bytes());
    }
    data
}

/// Runs a program as the kernel does; returns the value and how many instructions it took.
fn run(program: &[seccompiler::sock_filter], data: &[u8; 64]) -> (u32, usize) {
    let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0);
    loop {
        let instruction = &program[at];
        (at, steps) = (at + 1, steps + 1);
        let jump = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
        let k = instruction.k;
        match u32::from(instruction.code) {
            // BPF_LD | BPF_W | BPF_ABS
            0x20 => accumulator = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            // BPF_ALU | BPF_AND | BPF_K
            0x54 => accumulator &= k,
            // BPF_JMP | BPF_JA, JEQ, JGT, JGE, JSET
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x45 => at += jump(accumulator & k != 0),
            // BPF_RET | BPF_K
            0x06 => return (k, steps),
            other => panic!("instruction {other:#x} at {}", at - 1),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// For each argument, values at and around everything that a condition compares it with, with and without high halves.
fn interesting(rows: &[&'static [When]]) -> Vec<[u64; 6]> {
    let mut values: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for when in rows.iter().copied().flatten() {
        let (argument, near) = match *when {
            When::Is(argument, value) | When::IsNot(argument, value) | When::Above(argument, value) => (
                argument,
                vec![value, value.wrapping_add(1), value.wrapping_sub(1), value ^ 0x8000_0000],
            ),
            When::Masked(argument, mask, value) => (argument, vec![value, mask, value | !mask, !mask, value ^ mask]),
            When::NotNull(argument) => (argument, vec![1]),
            When::Any(argument, bits) => {
                let each = (0..32).map(|bit| 1 << bit).filter(|bit| bits & bit != 0);
                (argument, each.chain([bits, !bits, bits | 1]).collect())
            }
        };
        let values = values.entry(argument.into()).or_default();
        for value in near.into_iter().chain([0, u32::MAX]) {
            values.extend([
                u64::from(value),
                1 << 32 | u64::from(value),
                !0 << 32 | u64::from(value),
            ]);
        }
    }
    let mut all = vec![[0; 6], [u64::MAX; 6], [1 << 32; 6]];
    let mut product = vec![[0u64; 6]];
    for (argument, values) in values {
        product = product
            .iter()
            .flat_map(|args| {
                values.iter().map(move |value| {
                    let mut args = *args;
                    args[argument] = *value;
                    args
                })
            })
            .collect();
    }
    all.extend(product);
    all
}

/// All rows about a call, of any profile.
fn rows(call: Option<Call>, notify: &[Notify]) -> Vec<&'static [When]> {
    let refusals = conditions::STRICT
        .iter()
        .chain(conditions::BOTH)
        .chain([&conditions::NESTED_LISTENER]);
    refusals
        .map(|row| (row.call, row.when))
        .chain(notify.iter().map(|row| (row.call, row.when)))
        .filter(|row| Some(row.0) == call)
        .map(|row| row.1)
        .collect()
}

/// What the table says, without the compiler.
fn expected(arch: Arch, profile: Syscalls, notify: &[Notify], number: u32, args: &[u64; 6]) -> u32 {
    let call = Call::of(arch, number);
    let holds = |(row_of, when): (Call, &[When])| Some(row_of) == call && when.iter().all(|when| when.holds(args));
    let nested = &conditions::NESTED_LISTENER;
    if let Some(refused) = refusal_on(arch, profile, &Except::default(), number, args) {
        ERRNO | refused.errno as u32
    } else if !notify.is_empty() && holds((nested.call, nested.when)) {
        ERRNO | nested.errno as u32
    } else if notify.iter().any(|row| holds((row.call, row.when))) {
        NOTIFY
    } else {
        ALLOW
    }
}

/// Numbers of the table, around its end, of x32, and those that a debugger uses for "none".
fn numbers() -> impl Iterator<Item = u32> {
    (0..LAST_KNOWN + 40)
        .chain([1023, 1024, 0xffff, 0x4000_0000 - 1, u32::MAX, u32::MAX - 1, 0x8000_0000])
        .chain((0..600).map(|n| X32 + n))
}

fn compare(arch: Arch, profile: Syscalls, notify: &[Notify]) {
    let program = compile_answering(arch, profile, notify, |errno| errno).unwrap();
    let mut tried = 0;
    for number in numbers() {
        for args in interesting(&rows(Call::of(arch, number), notify)) {
            let (value, _) = run(&program.filter, &data(arch.audit(), number, &args));
            let right = expected(arch, profile, notify, number, &args);
            assert_eq!(
                value,
                right,
                "{arch:?} {profile:?} {number} {} {args:x?}: {value:#x}",
                describe(number)
            );
            tried += 1;
        }
    }
    assert!(tried > 5000, "{tried}");
}

const NOTIFIED: &[Notify] = &[
    Notify {
        call: Call::rename,
        when: &[],
    },
    Notify {
        call: Call::renameat2,
        when: &[],
    },
    Notify {
        call: Call::openat,
        when: &[When::Any(2, 0o103)],
    },
    Notify {
        call: Call::open,
        when: &[When::Any(1, 0o103)],
    },
    // Two rows of one call; one that is refused; one that only some architectures have.
    Notify {
        call: Call::fchmodat,
        when: &[When::Masked(2, 0o111, 0o111)],
    },
    Notify {
        call: Call::fchmodat,
        when: &[When::Is(0, 7)],
    },
    Notify {
        call: Call::utimensat,
        when: &[When::NotNull(1)],
    },
    Notify {
        call: Call::utimensat,
        when: &[When::Is(3, 0x100), When::NotNull(2), When::Any(0, 3)],
    },
    Notify {
        call: Call::mount,
        when: &[],
    },
];

#[test]
fn every_number_with_every_interesting_argument_is_answered_as_the_table_says() {
    for arch in ARCHES {
        for profile in PROFILES {
            compare(arch, profile, &[]);
            compare(arch, profile, NOTIFIED);
        }
    }
}

#[test]
fn what_is_told_is_refused_by_the_table_and_nothing_else_changes() {
    let (mut told, mut untold) = (0, 0);
    for (arch, profile) in ARCHES
        .into_iter()
        .flat_map(|arch| PROFILES.map(|profile| (arch, profile)))
    {
        for notify in [&[][..], NOTIFIED] {
            let program = compile_told_for(arch, profile, &Except::default(), notify).unwrap();
            for number in numbers() {
                let call = Call::of(arch, number);
                for args in interesting(&rows(call, notify)) {
                    let (value, _) = run(&program.filter, &data(arch.audit(), number, &args));
                    let nested = &conditions::NESTED_LISTENER;
                    let right = match refusal_on(arch, profile, &Except::default(), number, &args) {
                        Some(refused) if is_told(call, refused.errno) => NOTIFY,
                        None if Some(nested.call) == call && nested.when.iter().all(|when| when.holds(&args)) => {
                            ERRNO | nested.errno as u32
                        }
                        _ => expected(arch, profile, notify, number, &args),
                    };
                    assert_eq!(value, right, "{arch:?} {profile:?} {} {args:x?}", describe(number));
                    match (value, refusal_on(arch, profile, &Except::default(), number, &args)) {
                        (NOTIFY, Some(_)) => told += 1,
                        (_, Some(_)) => untold += 1,
                        _ => {}
                    }
                }
            }
        }
    }
    assert!(told > 500 && untold > 500, "{told} {untold}");
}

#[test]
fn calls_that_programs_probe_are_not_told() {
    let untold = [
        Call::clone3,
        Call::openat2,
        Call::io_uring_setup,
        Call::statmount,
        Call::kcmp,
    ];
    for (call, profile) in untold
        .into_iter()
        .flat_map(|call| PROFILES.map(|profile| (call, profile)))
    {
        let program = compile_told_for(Arch::X86_64, profile, &Except::default(), &[]).unwrap();
        let number = call.number(Arch::X86_64).unwrap();
        let (value, _) = run(&program.filter, &data(Arch::X86_64.audit(), number, &[0; 6]));
        assert_ne!(value, NOTIFY, "{} {profile:?}", call.name());
    }
}

#[test]
fn other_architectures_end_the_process() {
    for (arch, foreign) in [
        (Arch::X86_64, [0x4000_0003, 0xc000_00b7]),
        (Arch::Aarch64, [0x4000_0028, 0xc000_003e]),
    ] {
        let program = compile_answering(arch, Syscalls::Default, &[], |errno| errno).unwrap();
        for audit in foreign {
            for number in numbers() {
                assert_eq!(run(&program.filter, &data(audit, number, &[0; 6])).0, KILL_PROCESS);
            }
        }
    }
}

#[test]
fn every_call_stands_in_one_group() {
    for call in Call::ALL {
        let groups: Vec<_> = GROUPS
            .iter()
            .filter(|group| group.calls.contains(call))
            .map(|group| group.purpose)
            .collect();
        let times: usize = GROUPS
            .iter()
            .flat_map(|group| group.calls)
            .filter(|other| *other == call)
            .count();
        assert_eq!(times, 1, "{} stands in {groups:?}", call.name());
    }
}

#[test]
fn strict_allows_nothing_that_default_refuses() {
    for group in GROUPS {
        if group.default != Answer::Allow {
            assert_eq!(group.strict, group.default, "{}", group.purpose);
        }
    }
}

#[test]
fn conditions_are_about_calls_that_some_profile_allows() {
    for row in conditions::BOTH.iter().chain(conditions::STRICT) {
        let group = GROUPS.iter().find(|group| group.calls.contains(&row.call)).unwrap();
        assert_eq!(group.default, Answer::Allow, "{}", row.call.name());
        assert!(!row.when.is_empty(), "{}", row.call.name());
    }
}

#[test]
fn numbers_are_told_apart_and_within_the_table() {
    for arch in ARCHES {
        let numbers: Vec<_> = Call::ALL.iter().filter_map(|call| call.number(arch)).collect();
        assert_eq!(numbers.len(), numbers.iter().collect::<BTreeSet<_>>().len());
        assert_eq!(numbers.iter().max(), Some(&LAST_KNOWN));
    }
    // 64-bit ARM lacks what x86-64 keeps for old programs, and has nothing of its own.
    assert_eq!(Call::openat.number(Arch::Aarch64), Some(56));
    assert_eq!(Call::open.number(Arch::Aarch64), None);
    assert!(Call::ALL.iter().all(|call| call.number(Arch::X86_64).is_some()));
}

/// Calls of both architectures that libc names on each of them: its constants are the second source.
macro_rules! libc_numbers {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        &[$($(#[$attribute])* (stringify!($name), libc::$name)),*]
    };
}

const LIBC: &[(&str, libc::c_long)] = libc_numbers! {
    SYS_read SYS_write SYS_close SYS_fstat SYS_lseek SYS_mmap SYS_mprotect SYS_munmap SYS_brk SYS_rt_sigaction
    SYS_rt_sigprocmask SYS_rt_sigreturn SYS_ioctl SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_sched_yield
    SYS_mremap SYS_msync SYS_mincore SYS_madvise SYS_shmget SYS_shmat SYS_shmctl SYS_dup SYS_nanosleep SYS_getitimer
    SYS_setitimer SYS_getpid SYS_sendfile SYS_socket SYS_connect SYS_accept SYS_sendto SYS_recvfrom SYS_sendmsg
    SYS_recvmsg SYS_shutdown SYS_bind SYS_listen SYS_getsockname SYS_getpeername SYS_socketpair SYS_setsockopt
    SYS_getsockopt SYS_clone SYS_execve SYS_exit SYS_wait4 SYS_kill SYS_uname SYS_semget SYS_semop SYS_semctl
    SYS_shmdt SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_fcntl SYS_flock SYS_fsync SYS_fdatasync SYS_truncate
    SYS_ftruncate SYS_getcwd SYS_chdir SYS_fchdir SYS_fchmod SYS_fchown SYS_umask SYS_gettimeofday SYS_getrusage
    SYS_sysinfo SYS_times SYS_ptrace SYS_getuid SYS_syslog SYS_getgid SYS_setuid SYS_setgid SYS_geteuid SYS_getegid
    SYS_setpgid SYS_getppid SYS_setsid SYS_setreuid SYS_setregid SYS_getgroups SYS_setgroups SYS_setresuid
    SYS_getresuid SYS_setresgid SYS_getresgid SYS_getpgid SYS_setfsuid SYS_setfsgid SYS_getsid SYS_capget SYS_capset
    SYS_rt_sigpending SYS_rt_sigtimedwait SYS_rt_sigqueueinfo SYS_rt_sigsuspend SYS_sigaltstack SYS_personality
    SYS_statfs SYS_fstatfs SYS_getpriority SYS_setpriority SYS_sched_setparam SYS_sched_getparam
    SYS_sched_setscheduler SYS_sched_getscheduler SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_rr_get_interval SYS_mlock SYS_munlock SYS_mlockall SYS_munlockall SYS_vhangup SYS_pivot_root SYS_prctl
    SYS_adjtimex SYS_chroot SYS_sync SYS_acct SYS_settimeofday SYS_mount SYS_umount2 SYS_swapon SYS_swapoff SYS_reboot
    SYS_sethostname SYS_setdomainname SYS_init_module SYS_delete_module SYS_quotactl SYS_nfsservctl SYS_gettid
    SYS_readahead SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr
    SYS_llistxattr SYS_flistxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_tkill SYS_futex
    SYS_sched_setaffinity SYS_sched_getaffinity SYS_io_setup SYS_io_destroy SYS_io_getevents SYS_io_submit
    SYS_io_cancel SYS_lookup_dcookie SYS_remap_file_pages SYS_getdents64 SYS_set_tid_address SYS_restart_syscall
    SYS_semtimedop SYS_fadvise64 SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun
    SYS_timer_delete SYS_clock_settime SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_exit_group
    SYS_epoll_ctl SYS_tgkill SYS_mbind SYS_set_mempolicy SYS_get_mempolicy SYS_mq_open SYS_mq_unlink SYS_mq_timedsend
    SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr SYS_kexec_load SYS_waitid SYS_add_key SYS_request_key
    SYS_keyctl SYS_ioprio_set SYS_ioprio_get SYS_inotify_add_watch SYS_inotify_rm_watch SYS_migrate_pages SYS_openat
    SYS_mkdirat SYS_mknodat SYS_fchownat SYS_newfstatat SYS_unlinkat SYS_linkat SYS_symlinkat SYS_readlinkat
    SYS_fchmodat SYS_faccessat SYS_pselect6 SYS_ppoll SYS_unshare SYS_set_robust_list SYS_get_robust_list SYS_splice
    SYS_tee SYS_vmsplice SYS_move_pages SYS_utimensat SYS_epoll_pwait SYS_timerfd_create SYS_fallocate
    SYS_timerfd_settime SYS_timerfd_gettime SYS_accept4 SYS_signalfd4 SYS_eventfd2 SYS_epoll_create1 SYS_dup3
    SYS_pipe2 SYS_inotify_init1 SYS_preadv SYS_pwritev SYS_rt_tgsigqueueinfo SYS_perf_event_open SYS_recvmmsg
    SYS_fanotify_init SYS_fanotify_mark SYS_prlimit64 SYS_name_to_handle_at SYS_open_by_handle_at SYS_clock_adjtime
    SYS_syncfs SYS_sendmmsg SYS_setns SYS_getcpu SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp SYS_finit_module
    SYS_sched_setattr SYS_sched_getattr SYS_renameat2 SYS_seccomp SYS_getrandom SYS_memfd_create SYS_kexec_file_load
    SYS_bpf SYS_execveat SYS_userfaultfd SYS_membarrier SYS_mlock2 SYS_copy_file_range SYS_preadv2 SYS_pwritev2
    SYS_pkey_mprotect SYS_pkey_alloc SYS_pkey_free SYS_statx SYS_rseq SYS_pidfd_send_signal SYS_io_uring_setup
    SYS_io_uring_enter SYS_io_uring_register SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount
    SYS_fspick SYS_pidfd_open SYS_clone3 SYS_close_range SYS_openat2 SYS_pidfd_getfd SYS_faccessat2
    SYS_process_madvise SYS_epoll_pwait2 SYS_mount_setattr SYS_quotactl_fd SYS_landlock_create_ruleset
    SYS_landlock_add_rule SYS_landlock_restrict_self SYS_memfd_secret SYS_process_mrelease SYS_futex_waitv
    SYS_set_mempolicy_home_node SYS_mseal
    // Only x86-64 has them, or libc names them only there.
    #[cfg(target_arch = "x86_64")] SYS_open
    #[cfg(target_arch = "x86_64")] SYS_stat
    #[cfg(target_arch = "x86_64")] SYS_lstat
    #[cfg(target_arch = "x86_64")] SYS_poll
    #[cfg(target_arch = "x86_64")] SYS_access
    #[cfg(target_arch = "x86_64")] SYS_pipe
    #[cfg(target_arch = "x86_64")] SYS_select
    #[cfg(target_arch = "x86_64")] SYS_dup2
    #[cfg(target_arch = "x86_64")] SYS_pause
    #[cfg(target_arch = "x86_64")] SYS_alarm
    #[cfg(target_arch = "x86_64")] SYS_fork
    #[cfg(target_arch = "x86_64")] SYS_vfork
    #[cfg(target_arch = "x86_64")] SYS_getdents
    #[cfg(target_arch = "x86_64")] SYS_rename
    #[cfg(target_arch = "x86_64")] SYS_mkdir
    #[cfg(target_arch = "x86_64")] SYS_rmdir
    #[cfg(target_arch = "x86_64")] SYS_creat
    #[cfg(target_arch = "x86_64")] SYS_link
    #[cfg(target_arch = "x86_64")] SYS_unlink
    #[cfg(target_arch = "x86_64")] SYS_symlink
    #[cfg(target_arch = "x86_64")] SYS_readlink
    #[cfg(target_arch = "x86_64")] SYS_chmod
    #[cfg(target_arch = "x86_64")] SYS_chown
    #[cfg(target_arch = "x86_64")] SYS_lchown
    #[cfg(target_arch = "x86_64")] SYS_getrlimit
    #[cfg(target_arch = "x86_64")] SYS_getpgrp
    #[cfg(target_arch = "x86_64")] SYS_utime
    #[cfg(target_arch = "x86_64")] SYS_mknod
    #[cfg(target_arch = "x86_64")] SYS_uselib
    #[cfg(target_arch = "x86_64")] SYS_ustat
    #[cfg(target_arch = "x86_64")] SYS_sysfs
    #[cfg(target_arch = "x86_64")] SYS_modify_ldt
    #[cfg(target_arch = "x86_64")] SYS__sysctl
    #[cfg(target_arch = "x86_64")] SYS_arch_prctl
    #[cfg(target_arch = "x86_64")] SYS_setrlimit
    #[cfg(target_arch = "x86_64")] SYS_iopl
    #[cfg(target_arch = "x86_64")] SYS_ioperm
    #[cfg(target_arch = "x86_64")] SYS_getpmsg
    #[cfg(target_arch = "x86_64")] SYS_putpmsg
    #[cfg(target_arch = "x86_64")] SYS_afs_syscall
    #[cfg(target_arch = "x86_64")] SYS_tuxcall
    #[cfg(target_arch = "x86_64")] SYS_security
    #[cfg(target_arch = "x86_64")] SYS_time
    #[cfg(target_arch = "x86_64")] SYS_set_thread_area
    #[cfg(target_arch = "x86_64")] SYS_get_thread_area
    #[cfg(target_arch = "x86_64")] SYS_epoll_create
    #[cfg(target_arch = "x86_64")] SYS_epoll_ctl_old
    #[cfg(target_arch = "x86_64")] SYS_epoll_wait_old
    #[cfg(target_arch = "x86_64")] SYS_epoll_wait
    #[cfg(target_arch = "x86_64")] SYS_utimes
    #[cfg(target_arch = "x86_64")] SYS_vserver
    #[cfg(target_arch = "x86_64")] SYS_inotify_init
    #[cfg(target_arch = "x86_64")] SYS_futimesat
    #[cfg(target_arch = "x86_64")] SYS_renameat
    #[cfg(target_arch = "x86_64")] SYS_sync_file_range
    #[cfg(target_arch = "x86_64")] SYS_signalfd
    #[cfg(target_arch = "x86_64")] SYS_eventfd
    #[cfg(target_arch = "x86_64")] SYS_fchmodat2
};

#[test]
fn the_native_numbers_are_those_of_libc() {
    for (name, number) in LIBC {
        let name = name.strip_prefix("SYS_").unwrap();
        let call = Call::ALL
            .iter()
            .find(|call| call.name() == name)
            .unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(
            call.number(Arch::NATIVE).map(libc::c_long::from),
            Some(*number),
            "{name}"
        );
    }
    assert!(LIBC.len() > 290, "{}", LIBC.len());
}

#[test]
fn programs_and_their_paths_are_short() {
    for arch in ARCHES {
        for profile in PROFILES {
            for notify in [&[][..], NOTIFIED] {
                let program = compile_answering(arch, profile, notify, |errno| errno).unwrap();
                let steps: Vec<_> = (0..=LAST_KNOWN)
                    .map(|number| run(&program.filter, &data(arch.audit(), number, &[0; 6])).1)
                    .collect();
                let (longest, sum) = (steps.iter().max().unwrap(), steps.iter().sum::<usize>());
                println!(
                    "{arch:?} {profile:?}: {} instructions, path {longest} at most, {} on average",
                    program.instructions(),
                    sum / steps.len()
                );
                assert!(program.instructions() < 600 && *longest < 60 && sum / steps.len() < 16);
            }
        }
    }
}

#[test]
fn a_refusal_says_which_call_and_why() {
    let say = |call: Call, args: [u64; 6]| {
        refusal(Syscalls::Default, call.number(Arch::NATIVE).unwrap(), &args).map(|refused| refused.to_string())
    };
    assert_eq!(
        say(Call::io_uring_setup, [0; 6]).unwrap(),
        "system call io_uring_setup is refused by the profile default: it is for asynchronous access past every filter"
    );
    assert_eq!(
        say(Call::socket, [38, 5, 0, 0, 0, 0]).unwrap(),
        "system call socket: a socket family that sandboxes do not have is refused by the profile default"
    );
    assert_eq!(say(Call::socket, [1, 1, 0, 0, 0, 0]), None);
    assert_eq!(
        refusal(Syscalls::Strict, 470, &[0; 6]).unwrap().to_string(),
        "system call 470 (a call that this version does not know) is refused by the profile strict"
    );
}

#[test]
fn a_program_that_is_too_long_is_an_error() {
    // Each row is a load, a comparison and a return; 1400 of them do not fit.
    let many = vec![
        Notify {
            call: Call::read,
            when: &[When::Is(0, 1)]
        };
        1400
    ];
    assert!(
        matches!(compile(Syscalls::Default, &many), Err(SeccompError::TooLong { instructions }) if instructions > 4096)
    );
    let wrong = [Notify {
        call: Call::read,
        when: &[When::Is(6, 1)],
    }];
    assert!(matches!(
        compile(Syscalls::Default, &wrong),
        Err(SeccompError::NoSuchArgument { argument: 6 })
    ));
    // Longer than a conditional jump reaches, on both sides of it.
    let long = vec![
        Notify {
            call: Call::read,
            when: &[When::Is(0, 1), When::Any(1, 6)]
        };
        200
    ];
    for arch in ARCHES {
        compare(arch, Syscalls::Default, &long);
    }
}
