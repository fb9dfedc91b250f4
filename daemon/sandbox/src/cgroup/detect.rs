//! Finding out what this process may do with cgroups, by doing it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};

use super::leaf::{self, Leaf};
use super::proc::{self, Membership, Mount};
use super::{Backend, CgroupError, Controller, Detail, InForce, PREFIX, Version, limits};
use crate::spec::Limits;

/// The leaf that the daemon's own processes are moved into: a v2 cgroup that hands controllers to its children may hold
/// no process itself.
const DAEMON_LEAF: &str = "fumehood-daemon";
/// Every limit, so that every file is tried, on a cgroup that is made for it and removed.
const PROBE_LIMITS: Limits = Limits {
    memory_bytes: Some(64 << 20),
    processes: Some(16),
    cpu_millis: Some(100),
    open_files_soft: 0,
    open_files_hard: 0,
    file_bytes: None,
    disk_bytes: None,
    files: None,
};

/// What the kernel says about this process.
struct Machine {
    mounts: Vec<Mount>,
    memberships: Vec<Membership>,
}

pub(super) fn detect(instance: &str, own: &[libc::pid_t]) -> (Backend, Detail) {
    if instance.is_empty()
        || !instance
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return none(
            vec![format!(
                "the instance name {instance:?} is not made of letters, digits and '-'"
            )],
            Vec::new(),
        );
    }
    let machine = match (fs::read("/proc/self/mountinfo"), fs::read("/proc/self/cgroup")) {
        (Ok(mountinfo), Ok(cgroup)) => Machine {
            mounts: proc::mounts(&mountinfo),
            memberships: proc::memberships(&cgroup),
        },
        (Err(error), _) => return none(vec![format!("cannot read /proc/self/mountinfo: {error}")], Vec::new()),
        (_, Err(error)) => return none(vec![format!("cannot read /proc/self/cgroup: {error}")], Vec::new()),
    };
    let folder = format!("{PREFIX}{instance}");
    // On a hybrid machine the v2 mount has no controllers that limit anything, and v1 is what there is.
    let unified = unified(&machine);
    let limiting = unified.as_ref().is_some_and(|(_, base)| !available(base).is_empty());
    if !limiting && machine.mounts.iter().any(|mount| !mount.v2) {
        return detect_v1(&machine, &folder);
    }
    match unified {
        Some((root, base)) => detect_v2(&root, &base, &folder, own),
        None => none(
            vec!["no cgroup file system is mounted where this process can see it".to_owned()],
            vec![mount_remedy(&machine.memberships, is_bare(Path::new(CGROUP_ROOT)))],
        ),
    }
}

/// Where cgroup file systems belong.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// How to mount what is not mounted. `bare` says that nothing is mounted over sysfs there: version 1 needs a place for directories.
pub(super) fn mount_remedy(memberships: &[Membership], bare: bool) -> String {
    let limiting: Vec<_> = memberships
        .iter()
        .filter(|member| {
            let ours = [
                Controller::Memory,
                Controller::Pids,
                Controller::Cpu,
                Controller::CpuAccounting,
            ];
            let is_ours = |name: &String| ours.iter().any(|controller| name == controller.name());
            member.controllers.iter().any(is_ours)
        })
        .map(|member| member.controllers.join(","))
        .collect();
    let elsewhere = "or start it outside of the container or mount namespace that hides them";
    if limiting.is_empty() && memberships.iter().all(|member| !member.controllers.is_empty()) {
        return "boot a kernel with control groups: CONFIG_MEMCG, CONFIG_CGROUP_PIDS and CONFIG_CFS_BANDWIDTH"
            .to_owned();
    }
    if limiting.is_empty() {
        return format!(
            "mount control groups before the daemon is started, as root: mount -t cgroup2 cgroup2 {CGROUP_ROOT}; {elsewhere}"
        );
    }
    let place = match bare {
        true => format!("mount -t tmpfs cgroups {CGROUP_ROOT} && "),
        false => String::new(),
    };
    format!(
        "mount control groups before the daemon is started, as root: {place}for c in {}; do \
         mkdir -p {CGROUP_ROOT}/$c && mount -t cgroup -o $c cgroup {CGROUP_ROOT}/$c; done; {elsewhere}",
        limiting.join(" ")
    )
}

fn is_bare(directory: &Path) -> bool {
    rustix::fs::statfs(directory).is_ok_and(|found| found.f_type == SYSFS)
}

/// `SYSFS_MAGIC` of linux/magic.h.
const SYSFS: rustix::fs::FsWord = 0x6265_6572;

fn none(missing: Vec<String>, remedy: Vec<String>) -> (Backend, Detail) {
    (
        Backend {
            version: None,
            places: Vec::new(),
        },
        Detail {
            version: None,
            in_force: InForce::default(),
            missing,
            remedy,
        },
    )
}

/// Whether a leaf can be made there with every limit in force; what holds, and the first thing that does not.
fn try_out(version: Version, places: &[(Controller, PathBuf)]) -> Result<InForce, CgroupError> {
    let name = format!("probe-{}", std::process::id());
    let leaf = Leaf::create(version, places, &name, &PROBE_LIMITS)?;
    let in_force = leaf.in_force();
    leaf.remove()?;
    Ok(in_force)
}

fn swap_note(in_force: InForce) -> Option<String> {
    (in_force.memory && !in_force.swap)
        .then(|| "swap is not bounded: this kernel does not account it (boot with swapaccount=1)".to_owned())
}

// --- v2 ---

/// The v2 mount's directory and our own cgroup in it.
fn unified(machine: &Machine) -> Option<(PathBuf, PathBuf)> {
    let member = machine
        .memberships
        .iter()
        .find(|member| member.controllers.is_empty())?;
    let mounts = machine.mounts.iter().rev().filter(|mount| mount.v2);
    let found = mounts.map(|mount| (mount.point.clone(), proc::directory(mount, &member.path)));
    let (root, base) = found
        .filter_map(|(root, base)| Some((root, base?)))
        .find(|(_, base)| base.is_dir())?;
    // A daemon that found its place before (or its child) sits in the leaf beside the instances.
    if base.file_name().is_some_and(|name| name == DAEMON_LEAF) {
        return Some((root, base.parent()?.to_owned()));
    }
    Some((root, base))
}

fn detect_v2(root: &Path, base: &Path, folder: &str, own: &[libc::pid_t]) -> (Backend, Detail) {
    let mut candidates = vec![base];
    // Root may make a cgroup at the top when its own belongs to somebody else (a login session with a shell in it).
    if geteuid().is_root() && root != base {
        candidates.push(root);
    }
    let mut missing = Vec::new();
    let mut remedy = Vec::new();
    for candidate in candidates {
        match enter_v2(candidate, folder, own) {
            Ok((places, in_force)) => {
                let absent = [Controller::Memory, Controller::Pids, Controller::Cpu]
                    .into_iter()
                    .filter(|controller| !places.iter().any(|(place, _)| place == controller));
                missing = absent
                    .map(|controller| {
                        let (name, path) = (controller.name(), candidate.display());
                        format!("the controller {name} is not available in {path}/cgroup.controllers")
                    })
                    .chain(swap_note(in_force))
                    .collect();
                let detail = Detail {
                    version: Some(Version::V2),
                    in_force,
                    missing,
                    remedy: Vec::new(),
                };
                return (
                    Backend {
                        version: Some(Version::V2),
                        places,
                    },
                    detail,
                );
            }
            Err(error) => {
                remedy.push(mend_v2(candidate, &error));
                missing.push(error.to_string());
            }
        }
    }
    remedy.dedup();
    none(missing, remedy)
}

/// Makes the instance's directory below `base` with controllers enabled down to its children, and tries it out. Undoes
/// what it did when that fails.
fn enter_v2(
    base: &Path,
    folder: &str,
    own: &[libc::pid_t],
) -> Result<(Vec<(Controller, PathBuf)>, InForce), CgroupError> {
    let wanted = available(base);
    if wanted.is_empty() {
        let path = base.join("cgroup.controllers");
        return Err(CgroupError::new("find memory, pids or cpu in", libc::ENOENT, path));
    }
    // Moving a process between two cgroups needs write access to their common ancestor's list, which is this one.
    let list = base.join("cgroup.procs");
    access(&list, AccessFlags::W_OK).map_err(|errno| CgroupError::new("write", errno as i32, &list))?;
    let directory = base.join(folder);
    create_directory(&directory)?;
    let mut moved = Vec::new();
    let result = evacuate(base, own, &mut moved)
        .and_then(|()| enable(base, &wanted))
        .and_then(|enabled| enable(&directory, &enabled))
        .and_then(|enabled| {
            let places: Vec<_> = enabled
                .into_iter()
                .map(|controller| (controller, directory.clone()))
                .collect();
            Ok((try_out(Version::V2, &places)?, places))
        });
    match result {
        Ok((in_force, places)) => Ok((places, in_force)),
        Err(error) => {
            // The reason for giving up is what counts; a process that cannot go back stays where it is, unharmed.
            let _ = leaf::remove_directory(&directory);
            for pid in moved {
                let _ = leaf::write_existing(&list, &pid.to_string());
            }
            let _ = fs::remove_dir(base.join(DAEMON_LEAF));
            Err(error)
        }
    }
}

/// One that exists already is as good: the daemon was here before.
fn create_directory(directory: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(CgroupError::io("create", directory)),
    }
}

/// The controllers that can be handed to children of this cgroup, memory first: see [`enable`].
fn available(base: &Path) -> Vec<Controller> {
    listed(&base.join("cgroup.controllers"))
}

fn listed(file: &Path) -> Vec<Controller> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let all = [Controller::Memory, Controller::Pids, Controller::Cpu];
    all.into_iter()
        .filter(|controller| text.split_whitespace().any(|name| name == controller.name()))
        .collect()
}

/// Moves our processes out of `base`, unless it may keep them (the root of the hierarchy) or hands out controllers already.
/// Refuses when somebody else's are there: they are not ours to move.
fn evacuate(base: &Path, own: &[libc::pid_t], moved: &mut Vec<libc::pid_t>) -> Result<(), CgroupError> {
    let is_root = !base.join("cgroup.type").exists();
    let members = leaf::members(base)?;
    if is_root || members.is_empty() {
        return Ok(());
    }
    let this = std::process::id() as libc::pid_t;
    if members.iter().any(|pid| *pid != this && !own.contains(pid)) {
        return Err(CgroupError::new(
            "divide among sandboxes, as other programs' processes are in it,",
            libc::EBUSY,
            base,
        ));
    }
    let refuge = base.join(DAEMON_LEAF);
    create_directory(&refuge)?;
    let list = refuge.join("cgroup.procs");
    for pid in members {
        leaf::write_existing(&list, &pid.to_string()).map_err(CgroupError::io("move the daemon to", &list))?;
        moved.push(pid);
    }
    Ok(())
}

/// Enables controllers for the children of a cgroup and returns those that really are.
///
/// All in one write, because it fails as a whole with `EBUSY` where a process is left in the cgroup. Enabling cpu and
/// pids alone would succeed there and turn the cgroup into a threaded domain, whose children have no `memory.max` and
/// take no processes.
fn enable(directory: &Path, wanted: &[Controller]) -> Result<Vec<Controller>, CgroupError> {
    let file = directory.join("cgroup.subtree_control");
    let write = |controllers: &[Controller]| {
        let text: Vec<_> = controllers
            .iter()
            .map(|controller| format!("+{}", controller.name()))
            .collect();
        leaf::write_existing(&file, &text.join(" ")).map_err(CgroupError::io("enable controllers in", &file))
    };
    let missing = |wanted: &[Controller]| {
        let enabled = listed(&file);
        wanted
            .iter()
            .copied()
            .filter(|controller| !enabled.contains(controller))
            .collect::<Vec<_>>()
    };
    let lacking = missing(wanted);
    if !lacking.is_empty()
        && let Err(error) = write(&lacking)
    {
        if error.errno == libc::EBUSY || lacking.len() == 1 {
            return Err(error);
        }
        // One of them is refused for a reason of its own (cpu, where real-time tasks exist): take the others.
        for controller in lacking {
            let _ = write(&[controller]);
        }
    }
    let enabled: Vec<_> = listed(&file)
        .into_iter()
        .filter(|controller| wanted.contains(controller))
        .collect();
    if enabled.is_empty() {
        Err(CgroupError::new("enable controllers in", libc::ENOTSUP, &file))
    } else {
        Ok(enabled)
    }
}

fn mend_v2(base: &Path, error: &CgroupError) -> String {
    let path = base.display();
    match error.errno {
        libc::EROFS => "the container must be started with a writable cgroup file system".to_owned(),
        _ if !geteuid().is_root() && Path::new("/run/systemd/system").is_dir() => {
            "systemd-run --user --scope -p Delegate=yes fumehood daemon   (starts the daemon in a cgroup of its own)"
                .to_owned()
        }
        libc::EBUSY => format!(
            "start the daemon in a cgroup of its own, or move the others out: mkdir {path}/others && \
             for pid in $(cat {path}/cgroup.procs); do echo $pid > {path}/others/cgroup.procs; done"
        ),
        libc::EACCES | libc::EPERM if !geteuid().is_root() => {
            let uid = geteuid();
            format!(
                "give the daemon a cgroup, as root: mkdir {path}/fumehood && chown -R {uid} {path}/fumehood && \
                 echo PID-OF-ITS-SHELL > {path}/fumehood/cgroup.procs"
            )
        }
        _ => format!("the cgroup {path} must be writable and its cgroup.controllers list memory, pids and cpu"),
    }
}

// --- v1 ---

fn detect_v1(machine: &Machine, folder: &str) -> (Backend, Detail) {
    let mut places = Vec::new();
    let mut in_force = InForce::default();
    let mut missing = Vec::new();
    let mut to_give = Vec::new();
    let mut not_permitted = Vec::new();
    let mut unmounted = false;
    for controller in [
        Controller::Memory,
        Controller::Pids,
        Controller::Cpu,
        Controller::CpuAccounting,
    ] {
        let name = controller.name();
        let Some(base) = hierarchy(machine, controller) else {
            missing.push(format!(
                "no v1 hierarchy of {name} is mounted where this process can see its own cgroup"
            ));
            unmounted = true;
            continue;
        };
        match enter_v1(controller, &base, folder) {
            Ok((place, holds)) => {
                places.push((controller, place));
                in_force.memory |= holds.memory;
                in_force.swap |= holds.swap;
                in_force.processes |= holds.processes;
                in_force.cpu |= holds.cpu;
            }
            Err(error) if matches!(error.errno, libc::EACCES | libc::EPERM) && !geteuid().is_root() => {
                to_give.push(user_base(&base).display().to_string());
                not_permitted.push(name);
            }
            Err(error) => missing.push(error.to_string()),
        }
    }
    to_give.dedup();
    let mut remedy = Vec::new();
    if !to_give.is_empty() {
        let (paths, uid) = (to_give.join(" "), geteuid());
        missing.insert(
            0,
            format!("user {uid} may not make cgroups (v1: {})", not_permitted.join(", ")),
        );
        remedy.push(format!("sudo sh -c 'mkdir -p {paths} && chown {uid} {paths}'"));
    }
    if unmounted {
        remedy.push(mount_remedy(&machine.memberships, is_bare(Path::new(CGROUP_ROOT))));
    }
    missing.extend(swap_note(in_force));
    if !(in_force.memory || in_force.processes || in_force.cpu) {
        let backend = Backend {
            version: Some(Version::V1),
            places,
        };
        // Only accounting is left, which bounds nothing; what was made for it goes.
        missing.extend(backend.remove_instance().err().map(|error| error.to_string()));
        return none(missing, remedy);
    }
    let detail = Detail {
        version: Some(Version::V1),
        in_force,
        missing,
        remedy,
    };
    (
        Backend {
            version: Some(Version::V1),
            places,
        },
        detail,
    )
}

/// Our own cgroup in the v1 hierarchy of a controller.
fn hierarchy(machine: &Machine, controller: Controller) -> Option<PathBuf> {
    let has = |names: &[String]| names.iter().any(|name| name == controller.name());
    let member = machine.memberships.iter().find(|member| has(&member.controllers))?;
    let mounts = machine
        .mounts
        .iter()
        .rev()
        .filter(|mount| !mount.v2 && has(&mount.options));
    mounts
        .filter_map(|mount| proc::directory(mount, &member.path))
        .find(|directory| directory.is_dir())
}

/// Where an administrator makes room for an ordinary user, as [`detect_v1`] proposes.
fn user_base(base: &Path) -> PathBuf {
    base.join(format!("{PREFIX}user-{}", geteuid()))
}

/// Makes the instance's directory in one hierarchy and tries it out. Undoes what it did when that fails.
fn enter_v1(controller: Controller, base: &Path, folder: &str) -> Result<(PathBuf, InForce), CgroupError> {
    let for_user = user_base(base);
    let base = if for_user.is_dir() { &for_user } else { base };
    let place = base.join(folder);
    limits::create(controller, Version::V1, &place)?;
    match try_out(Version::V1, &[(controller, place.clone())]) {
        Ok(holds) => Ok((place, holds)),
        Err(error) => {
            // Where a co-mounted controller shares the directory, it is made again with the first leaf.
            let _ = leaf::remove_directory(&place);
            Err(error)
        }
    }
}
