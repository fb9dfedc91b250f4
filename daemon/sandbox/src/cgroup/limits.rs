//! Writing limits with cgroups-rs, and reading them back.
//!
//! The controllers of cgroups-rs are built on the leaf's own directory, which passes by the traps of its `Cgroup`: that
//! one assumes `/sys/fs/cgroup`, starts at the root of each v1 hierarchy and enables v2 controllers without looking at the
//! result.

use std::fs;
use std::path::Path;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{MaxValue, Subsystem};

use super::{CgroupError, Controller, InForce, Version};
use crate::spec::Limits;

/// Above the memory of any machine; the kernel answers larger limits with "unlimited".
const MAX_MEMORY_BYTES: u64 = 1 << 60;
/// PID_MAX_LIMIT of linux/threads.h: `pids.max` takes no more.
const MAX_PROCESSES: u32 = 4 * 1024 * 1024;
/// The kernel's default period in microseconds. Quotas below 1 ms are refused, hence the longer one for small limits.
const PERIOD_US: u64 = 100_000;
const LONG_PERIOD_US: u64 = 1_000_000;

fn subsystem(controller: Controller, version: Version, directory: &Path) -> Subsystem {
    let (path, base, v2) = (directory.to_owned(), Default::default(), version == Version::V2);
    match controller {
        Controller::Memory => Subsystem::Mem(MemController::new(path, base, v2)),
        Controller::Pids => Subsystem::Pid(PidController::new(path, base, v2)),
        Controller::Cpu => Subsystem::Cpu(CpuController::new(path, base, v2)),
        Controller::CpuAccounting => Subsystem::CpuAcct(CpuAcctController::new(path, base)),
    }
}

/// Makes the directory of one controller (and, for the first leaf of an instance, its parent).
pub(super) fn create(controller: Controller, version: Version, directory: &Path) -> Result<(), CgroupError> {
    subsystem(controller, version, directory)
        .to_controller()
        .create()
        .map_err(failed("create", directory))
}

/// Sets the limits of one controller and marks in `in_force` which of them hold.
pub(super) fn apply(
    controller: Controller,
    version: Version,
    directory: &Path,
    limits: &Limits,
    in_force: &mut InForce,
) -> Result<(), CgroupError> {
    match subsystem(controller, version, directory) {
        Subsystem::Mem(memory) => {
            in_force.swap = true;
            if let Some(bytes) = limits.memory_bytes {
                in_force.swap = apply_memory(&memory, version, directory, bytes.min(MAX_MEMORY_BYTES))?;
            }
            in_force.memory = true;
        }
        Subsystem::Pid(pids) => {
            if let Some(processes) = limits.processes {
                let file = directory.join("pids.max");
                let processes = processes.min(MAX_PROCESSES);
                pids.set_pid_max(MaxValue::Value(processes.into()))
                    .map_err(failed("write", &file))?;
                verify(&file, &processes.to_string())?;
            }
            in_force.processes = true;
        }
        Subsystem::Cpu(cpu) => {
            if let Some(millis) = limits.cpu_millis {
                let period = if millis < 10 { LONG_PERIOD_US } else { PERIOD_US };
                apply_cpu(&cpu, version, directory, u64::from(millis) * period / 1000, period)?;
            }
            in_force.cpu = true;
        }
        _ => {}
    }
    Ok(())
}

/// Returns whether swap is bounded too.
fn apply_memory(memory: &MemController, version: Version, directory: &Path, bytes: u64) -> Result<bool, CgroupError> {
    let (file, swap_file, swap_limit) = match version {
        Version::V1 => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
        Version::V2 => ("memory.max", "memory.swap.max", 0),
    };
    let file = directory.join(file);
    memory.set_limit(bytes as i64).map_err(failed("write", &file))?;
    verify_bytes(&file, bytes)?;
    // v1's counts memory and swap together and must not be below the first, so it comes second. Neither file exists
    // when the kernel does not account swap.
    let swap_file = directory.join(swap_file);
    if !swap_file.exists() {
        return Ok(false);
    }
    memory
        .set_memswap_limit(swap_limit as i64)
        .map_err(failed("write", &swap_file))?;
    verify_bytes(&swap_file, swap_limit)?;
    Ok(true)
}

fn apply_cpu(
    cpu: &CpuController,
    version: Version,
    directory: &Path,
    quota: u64,
    period: u64,
) -> Result<(), CgroupError> {
    if version == Version::V2 {
        let file = directory.join("cpu.max");
        if quota == 0 {
            // cgroups-rs would write "max" for it; the kernel refuses a quota of nothing, and so does v1 below.
            return Err(CgroupError::new("write", libc::EINVAL, file));
        }
        cpu.set_cfs_quota_and_period(Some(quota as i64), Some(period))
            .map_err(failed("write", &file))?;
        return verify(&file, &format!("{quota} {period}"));
    }
    // The crate writes the quota first, which the old period may forbid: so in two calls.
    let file = directory.join("cpu.cfs_period_us");
    cpu.set_cfs_period(period).map_err(failed("write", &file))?;
    verify(&file, &period.to_string())?;
    let file = directory.join("cpu.cfs_quota_us");
    match cpu.set_cfs_quota(quota as i64).map_err(failed("write", &file)) {
        Ok(()) => verify(&file, &quota.to_string()),
        // v1 refuses more than an ancestor has; the ancestor's limit, which is tighter, holds then.
        Err(error) if error.errno == libc::EINVAL && ancestor_is_tighter(directory, quota, period) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a cgroup above allows less CPU than `quota` in `period`.
fn ancestor_is_tighter(directory: &Path, quota: u64, period: u64) -> bool {
    let number = |directory: &Path, file| {
        fs::read_to_string(directory.join(file))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    directory.ancestors().skip(1).any(|above| {
        // An unlimited quota is -1 and does not parse.
        let limit = (number(above, "cpu.cfs_quota_us"), number(above, "cpu.cfs_period_us"));
        matches!(limit, (Some(q), Some(p)) if u128::from(q) * u128::from(period) < u128::from(quota) * u128::from(p))
    })
}

/// A write that the kernel accepted and did not act on is as bad as one it refused.
fn verify(file: &Path, expected: &str) -> Result<(), CgroupError> {
    let found = fs::read_to_string(file).map_err(CgroupError::io("read back", file))?;
    if found.trim() == expected {
        Ok(())
    } else {
        Err(CgroupError::new("read back the limit from", libc::EIO, file))
    }
}

/// The kernel counts memory in pages and rounds down.
fn verify_bytes(file: &Path, expected: u64) -> Result<(), CgroupError> {
    let found = fs::read_to_string(file).map_err(CgroupError::io("read back", file))?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096) as u64;
    match found.trim().parse::<u64>() {
        Ok(found) if found <= expected && expected - found < page => Ok(()),
        _ => Err(CgroupError::new("read back the limit from", libc::EIO, file)),
    }
}

/// cgroups-rs keeps the kernel's error number in the cause.
fn failed(stage: &'static str, path: &Path) -> impl FnOnce(cgroups_rs::fs::error::Error) -> CgroupError {
    move |error| {
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
        CgroupError::new(
            stage,
            cause.and_then(std::io::Error::raw_os_error).unwrap_or(libc::EIO),
            path,
        )
    }
}
