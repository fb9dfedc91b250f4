//! The program itself, so that cargo builds it for the tests of this package and tells them where it is.
//!
//! With `FUMEHOOD_TEST_WITHOUT` it first takes a feature of the kernel away from itself and everything it starts, by making the calls that
//! lead to it fail as they do where it is missing.

use std::process::ExitCode;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

fn main() -> ExitCode {
    let without = std::env::var("FUMEHOOD_TEST_WITHOUT").unwrap_or_default();
    if !without.is_empty() {
        let filter = filter(&without).expect("a feature that this program knows");
        seccompiler::apply_filter(&filter).expect("install the filter");
    }
    fumehood::main()
}

fn filter(feature: &str) -> Option<BpfProgram> {
    use nix::libc::{EBUSY, ENOSYS, EPERM};
    let bit = |argument, bit: u64| {
        let condition =
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bit), bit).ok()?;
        Some(vec![SeccompRule::new(vec![condition]).ok()?])
    };
    let (calls, errno): (Vec<(i64, Vec<SeccompRule>)>, i32) = match feature {
        // A kernel without it, or one that was booted without it.
        "landlock" => (vec![(nix::libc::SYS_landlock_create_ruleset, vec![])], ENOSYS),
        // Another sandbox around this one that lets calls wait: there is one listener for a process.
        "waiting-calls" => {
            let listener = nix::libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
            (vec![(nix::libc::SYS_seccomp, bit(1, listener)?)], EBUSY)
        }
        // A container whose filter refuses namespaces. Threads are made by clone then, which has always been there.
        "namespaces" => (vec![(nix::libc::SYS_clone3, vec![])], ENOSYS),
        // A container in which nothing may be mounted.
        "mounts" => (
            vec![(nix::libc::SYS_mount, vec![]), (nix::libc::SYS_fsopen, vec![])],
            EPERM,
        ),
        _ => return None,
    };
    let answer = SeccompAction::Errno(errno.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().ok()?;
    let filter = SeccompFilter::new(calls.into_iter().collect(), SeccompAction::Allow, answer, architecture).ok()?;
    filter.try_into().ok()
}
