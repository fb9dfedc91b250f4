//! The self-test: everything that must not work is tried, in a process confined like a command.
//!
//! A kernel that says it has a protection and a protection that has an effect are two things. The daemon asks for this once at
//! its start, in a throwaway sandbox; what does not hold is reported as such, and a required protection that does not hold
//! stops the daemon from serving.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::command::{self, Confinement, Descriptors, Domain, Report};
use crate::event::Finding;
use crate::spec::{CommandSpec, Protection};
use crate::sys::{self, Forked};
use crate::waiting::Waiting;
use crate::{rights, wire};

/// Where the tree is that must be guarded, in the view that is tested.
pub const GUARDED: &str = "/guarded";
/// What is protected in it.
pub const PROTECTED: &str = ".protected";

/// An address that no test network routes: TEST-NET-1 (RFC 5737). Nothing is sent, because there is no route.
const NOWHERE: ([u8; 4], u16) = ([192, 0, 2, 1], 80);

/// Runs the tests in a child and returns what they found. Problems on the way are findings that did not hold.
pub(crate) fn run(confinement: Confinement, waiting: Waiting) -> Vec<Finding> {
    let broken = |detail: String| {
        vec![Finding {
            protection: Protection::Processes,
            name: "run the self-test".into(),
            held: false,
            detail,
        }]
    };
    let (reader, writer) = match wire::pair() {
        Ok(pair) => pair,
        Err(error) => return broken(error.to_string()),
    };
    match sys::fork() {
        Err(error) => broken(error.to_string()),
        Ok(Forked::Child) => {
            let findings = in_child(confinement, writer).unwrap_or_else(broken);
            if let Ok(fd) = sys::adopt(3) {
                let _ = wire::send(fd.as_fd(), &Report::SelfTest(findings), &[]);
            }
            std::process::exit(0)
        }
        Ok(Forked::Parent(_)) => {
            drop(writer);
            findings_of(&reader, waiting).unwrap_or_else(broken)
        }
    }
}

/// Waits for the child's findings and answers its calls meanwhile.
fn findings_of(reader: &OwnedFd, mut waiting: Waiting) -> Result<Vec<Finding>, String> {
    let mut listener: Option<OwnedFd> = None;
    loop {
        let mut fds = vec![PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            listener
                .iter()
                .map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.to_string()),
            Ok(_) => {}
        }
        let readable: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if readable.get(1) == Some(&true)
            && let Some(listener) = &listener
        {
            let _ = waiting.serve(listener.as_fd());
        }
        if readable[0] {
            match wire::receive::<Report>(reader.as_fd()) {
                Ok(Some((Report::Listener, mut fds))) => listener = fds.pop(),
                Ok(Some((Report::SelfTest(findings), _))) => return Ok(findings),
                Ok(Some((Report::Failed(error), _))) => return Err(error.stage),
                Ok(None) => return Err("the test process died".into()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn in_child(confinement: Confinement, reports: OwnedFd) -> Result<Vec<Finding>, String> {
    let descriptors = Descriptors {
        stdio: command::no_stdio().map_err(|error| format!("open /dev/null: {error}"))?,
        state: None,
        reports,
    };
    let command = CommandSpec {
        argv: vec!["self-test".into()],
        env: Vec::new(),
        cwd: "/".into(),
        umask: 0o022,
        terminal: None,
        state: false,
    };
    // A command is dumpable once it was executed, and init reads the arguments of its waiting calls. This one is not executed.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .map_err(|error| format!("become dumpable: {error}"))?;
    command::confine(&command, &descriptors, &confinement, Domain::Own)
        .map_err(|error| format!("{}: {}", error.stage, Errno::from_raw(error.errno)))?;
    Ok(findings())
}

/// What one attempt shows: `Ok` with how it was stopped, `Err` with what got through.
type Attempt = Result<String, String>;

fn findings() -> Vec<Finding> {
    use Protection::{
        FilesystemRights, FilesystemView, Ipc, Network, Privileges, Processes, ProtectedPaths, SystemCalls,
    };
    let tests: [(Protection, &str, Attempt); 12] = [
        (
            FilesystemView,
            "write to a system path",
            refused(std::fs::write("/usr/.fumehood-self-test", "")),
        ),
        (FilesystemView, "reach the machine's root", old_root()),
        (Processes, "see processes outside", only_own_processes()),
        (
            Processes,
            "read the memory of init",
            refused(std::fs::File::open("/proc/1/mem")),
        ),
        (Network, "connect to the outside", unroutable()),
        (Ipc, "see System V shared memory outside", no_shared_memory()),
        (Privileges, "hold a capability or uid 0", no_privileges()),
        (
            Privileges,
            "make a user namespace",
            refused(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)),
        ),
        (
            SystemCalls,
            "mount a file system",
            refused(rustix::mount::mount(
                "none",
                "/tmp",
                "tmpfs",
                rustix::mount::MountFlags::empty(),
                c"",
            )),
        ),
        (SystemCalls, "open a kernel key ring", key_ring()),
        (ProtectedPaths, "make a protected path", protected_path()),
        (
            FilesystemRights,
            "create a file where Landlock gives no right",
            landlock(),
        ),
    ];
    tests
        .into_iter()
        .map(|(protection, name, attempt)| {
            let (held, detail) = match attempt {
                Ok(detail) => (true, detail),
                Err(detail) => (false, detail),
            };
            Finding {
                protection,
                name: name.into(),
                held,
                detail,
            }
        })
        .collect()
}

/// An attempt that must fail.
fn refused<T, E: std::fmt::Display>(result: Result<T, E>) -> Attempt {
    match result {
        Ok(_) => Err("it worked".into()),
        Err(error) => Ok(error.to_string()),
    }
}

fn old_root() -> Attempt {
    match [Path::new("/old"), Path::new("/new")].iter().find(|path| path.exists()) {
        Some(path) => Err(format!("{} exists", path.display())),
        None => Ok("it is not mounted".into()),
    }
}

fn only_own_processes() -> Attempt {
    let processes = std::fs::read_dir("/proc").map_err(|error| format!("cannot look: {error}"))?;
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    match pids.filter(|pid| *pid != 1 && *pid != Pid::this().as_raw()).count() {
        0 => Ok("only init and the test itself are there".into()),
        others => Err(format!("{others} other processes are visible")),
    }
}

fn unroutable() -> Attempt {
    let address = SocketAddr::from(NOWHERE);
    match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => Ok(error.to_string()),
        Err(error) => Err(format!("there is a route: {error}")),
        Ok(_) => Err("it connected".into()),
    }
}

fn no_shared_memory() -> Attempt {
    match std::fs::read_to_string("/proc/sysvipc/shm") {
        Ok(text) if text.lines().count() <= 1 => Ok("none is there".into()),
        Ok(_) => Err("segments are visible".into()),
        Err(error) => Ok(error.to_string()),
    }
}

fn no_privileges() -> Attempt {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|rest| rest.trim().to_owned())
            .unwrap_or_default()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        if !field(set).trim_matches('0').is_empty() {
            return Err(format!("{set} {}", field(set)));
        }
    }
    if field("NoNewPrivs:") != "1" {
        return Err("no_new_privs is not set".into());
    }
    if rustix::process::geteuid().is_root() {
        return Err("the uid is 0".into());
    }
    Ok("none, and none can be gained".into())
}

/// What is not protected must work, or the tree would only be read-only.
fn protected_path() -> Attempt {
    let tree = Path::new(GUARDED);
    std::fs::write(tree.join("plain"), "").map_err(|error| format!("what is not protected fails: {error}"))?;
    refused(std::fs::create_dir(tree.join(PROTECTED)))
}

fn key_ring() -> Attempt {
    // SAFETY: KEYCTL_GET_KEYRING_ID takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3i32, 0) };
    refused(Errno::result(result))
}

/// Last: it takes a further Landlock layer on.
fn landlock() -> Attempt {
    if sys::landlock_abi() == 0 {
        return Err("this kernel has no Landlock".into());
    }
    let target = "/dev/shm/fumehood-self-test";
    std::fs::write(target, "").map_err(|error| format!("cannot try: {error}"))?;
    let _ = std::fs::remove_file(target);
    rights::forbid_creation()?;
    refused(std::fs::write(target, ""))
}
