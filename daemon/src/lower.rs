//! From grants to a sandbox: the one place where policy and mechanism meet.
//!
//! Pure: grants and facts in, a spec out. Where a policy's meaning is in doubt, it can be read here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use fumehood_policies as policies;
use fumehood_policies::{GitAccess, Grants, Home, PathPattern, SyscallProfile, WorkspaceAccess};
use fumehood_sandbox::spec::{
    Access, CommandSpec, Guard, Limits, Network, Protection, SandboxSpec, Syscalls, View, ViewEntry,
};

use crate::run::Host;
pub use reach::{Reach, reach};

mod reach;

/// Where the refusing proxy listens on the sandbox's own loopback: a port of the private range that no tool uses by default.
pub const REFUSAL_PORT: u16 = 61_127;

/// The host name inside.
const HOSTNAME: &str = "fumehood";

/// Size of `/run`, in bytes: sockets and pid files.
const RUN_BYTES: u64 = 64 << 20;

/// Directories that hold the machine's list of name servers: systemd-resolved, resolvconf, NetworkManager, ConnMan.
const RESOLVERS: &[&str] = &[
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
];

/// PATH when neither request nor policy gives one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The sandbox for a run. `name` names its cgroup and scratch directory.
pub fn sandbox(name: &str, grants: &Grants, host: &Host) -> SandboxSpec {
    SandboxSpec {
        name: name.to_owned(),
        identity: host.identity,
        view: View {
            entries: view(grants, host),
        },
        guard: guard(grants, host),
        hostname: HOSTNAME.to_owned(),
        network: network(grants),
        syscalls: match grants.syscalls {
            SyscallProfile::Default => Syscalls::Default,
            SyscallProfile::Strict => Syscalls::Strict,
        },
        limits: limits(&grants.limits),
        required: grants.required.iter().map(|required| protection(*required)).collect(),
        record: false,
    }
}

/// Makes a sandbox one to learn in: it is recorded, and what it writes vanishes, also in the workspace. Nothing is shown in it that was not
/// before. A writable place that is no directory can only be read; `is_directory` says which is.
pub fn make_throwaway(spec: &mut SandboxSpec, is_directory: impl Fn(&Path) -> bool) {
    spec.record = true;
    for (number, entry) in spec.view.entries.iter_mut().enumerate() {
        let ViewEntry::Bind {
            source,
            target,
            access,
            optional: _,
        } = entry
        else {
            continue;
        };
        let guarded = match access {
            Access::Read | Access::ReadExecute => continue,
            Access::Write => false,
            Access::Guarded => true,
        };
        if is_directory(source) {
            *entry = ViewEntry::Overlay {
                lower: std::mem::take(source),
                target: std::mem::take(target),
                scratch: format!("throwaway-{number}"),
                hide: Vec::new(),
                guarded,
            };
        } else {
            *access = Access::ReadExecute;
        }
    }
}

/// What is protected in writable trees.
fn guard(grants: &Grants, host: &Host) -> Guard {
    Guard {
        protected: grants.filesystem.protect.iter().map(PathBuf::from).collect(),
        git: grants.filesystem.git == GitAccess::Guarded,
        programs: host.programs.clone(),
    }
}

/// The access to a writable tree.
fn writable(grants: &Grants) -> Access {
    match grants.filesystem.protect.is_empty() && grants.filesystem.git != GitAccess::Guarded {
        true => Access::Write,
        false => Access::Guarded,
    }
}

/// The command in it. `own_env` are the request's own variables, which win over everything.
pub fn command(
    argv: &[Vec<u8>],
    umask: u32,
    own_env: &[(Vec<u8>, Vec<u8>)],
    grants: &Grants,
    host: &Host,
) -> CommandSpec {
    let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    CommandSpec {
        argv: argv.iter().map(|argument| os(argument)).collect(),
        env: environment(own_env, grants, host)
            .iter()
            .map(|(name, value)| (os(name), os(value)))
            .collect(),
        cwd: host.cwd.clone(),
        umask,
    }
}

/// The file tree, in the order in which it is mounted: system, private places, home, grants, then what hides and what is written for
/// the sandbox, and the workspace over all of it.
fn view(grants: &Grants, host: &Host) -> Vec<ViewEntry> {
    let filesystem = &grants.filesystem;
    let mut entries = vec![
        ViewEntry::Proc,
        ViewEntry::Sys,
        ViewEntry::Dev {
            shm_bytes: filesystem.shm_bytes,
        },
    ];
    let bind = |pattern: &PathPattern, access| {
        let path = resolve(pattern, host);
        ViewEntry::Bind {
            source: path.clone(),
            target: path,
            access,
            optional: true,
        }
    };
    let system = |pattern: &&PathPattern| matches!(pattern, PathPattern::Absolute(_));
    // First: a grant may lie below it.
    entries.push(ViewEntry::Tmpfs {
        target: "/run".into(),
        size_bytes: RUN_BYTES,
        mode: 0o755,
        writable: true,
    });
    entries.push(ViewEntry::Directory {
        target: runtime_directory(host),
        mode: 0o700,
    });
    entries.extend(
        filesystem
            .read
            .iter()
            .filter(system)
            .map(|pattern| bind(pattern, Access::ReadExecute)),
    );

    if filesystem.tmp {
        for (target, scratch) in [("/tmp", "tmp"), ("/var/tmp", "var-tmp")] {
            entries.push(ViewEntry::Scratch {
                target: target.into(),
                scratch: scratch.into(),
                mode: 0o1777,
                guarded: false,
            });
        }
    }
    entries.push(match filesystem.home {
        Home::CopyOnWrite if host.home_exists => ViewEntry::Overlay {
            lower: host.home.clone(),
            target: host.home.clone(),
            scratch: "home".into(),
            hide: filesystem
                .hide_in_home
                .iter()
                .map(PathBuf::from)
                .chain(private_in_home(host))
                .collect(),
            guarded: false,
        },
        _ => ViewEntry::Scratch {
            target: host.home.clone(),
            scratch: "home".into(),
            mode: 0o700,
            guarded: false,
        },
    });

    let below = |pattern: &&PathPattern| !matches!(pattern, PathPattern::Absolute(_));
    entries.extend(
        filesystem
            .read
            .iter()
            .filter(below)
            .map(|pattern| bind(pattern, Access::ReadExecute)),
    );
    entries.extend(filesystem.write.iter().map(|pattern| bind(pattern, writable(grants))));
    // The overlay hides; a grant that holds a hidden place is mounted over it and must not bring it back.
    let granted: Vec<_> = filesystem
        .read
        .iter()
        .chain(&filesystem.write)
        .map(|pattern| resolve(pattern, host))
        .collect();
    let uncovered = hidden_in_home(grants, host).filter(|hidden| granted.iter().any(|path| hidden.starts_with(path)));
    entries.extend(uncovered.map(|target| ViewEntry::Mask { target }));
    entries.extend(filesystem.hide.iter().map(|pattern| ViewEntry::Mask {
        target: resolve(pattern, host),
    }));
    // Whatever is granted, the daemon's own places are not; those in the home are hidden there as well.
    entries.extend(host.private.iter().map(|path| ViewEntry::Mask { target: path.clone() }));
    let machines = matches!(grants.network, policies::Network::Host(_));
    if machines {
        // Where /etc/resolv.conf leads on machines that write it anew at each start.
        entries.extend(RESOLVERS.iter().map(|path| ViewEntry::Bind {
            source: path.into(),
            target: path.into(),
            access: Access::Read,
            optional: true,
        }));
    }
    entries.extend(
        written_files(host, machines)
            .into_iter()
            .map(|(target, contents)| ViewEntry::File {
                target: target.into(),
                contents: contents.into_bytes(),
            }),
    );
    let access = match filesystem.workspace {
        WorkspaceAccess::Read => Access::ReadExecute,
        WorkspaceAccess::Write => writable(grants),
    };
    let visible = |path: &&PathBuf| hidden(grants, host).all(|(_, hidden)| !meet(path, &hidden));
    for path in host.repository.iter().filter(visible).chain([&host.workspace]) {
        entries.push(ViewEntry::Bind {
            source: path.clone(),
            target: path.clone(),
            access,
            optional: false,
        });
    }
    entries
}

fn hidden_in_home(grants: &Grants, host: &Host) -> impl Iterator<Item = PathBuf> {
    grants.filesystem.hide_in_home.iter().map(|path| host.home.join(path))
}

/// The hidden paths that the workspace is, lies in or holds, each with the rule that hides it. The workspace is mounted over everything, so
/// such a run would be given what its policy hides; a link that an earlier command left in the project is enough to be sent there.
/// Those it would hold need not exist.
pub fn hidden_by_workspace(grants: &Grants, host: &Host) -> Vec<(&'static str, PathBuf)> {
    hidden(grants, host)
        .filter(|(_, hidden)| meet(&host.workspace, hidden))
        .collect()
}

/// Everything that the policy hides, each with the rule that does.
pub fn hidden<'a>(grants: &'a Grants, host: &'a Host) -> impl Iterator<Item = (&'static str, PathBuf)> + 'a {
    let in_home = hidden_in_home(grants, host).map(|path| ("filesystem.hide-in-home", path));
    let elsewhere = grants
        .filesystem
        .hide
        .iter()
        .map(|pattern| ("filesystem.hide", resolve(pattern, host)));
    in_home.chain(elsewhere)
}

/// Whether one of two paths lies in the other.
fn meet(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn private_in_home(host: &Host) -> impl Iterator<Item = PathBuf> {
    host.private
        .iter()
        .filter_map(|path| Some(path.strip_prefix(&host.home).ok()?.to_owned()))
}

pub fn resolve(pattern: &PathPattern, host: &Host) -> PathBuf {
    let join = |base: &Path, rest: &str| {
        if rest.is_empty() {
            base.to_owned()
        } else {
            base.join(rest)
        }
    };
    match pattern {
        PathPattern::Absolute(path) => path.into(),
        PathPattern::Home(rest) => join(&host.home, rest),
        PathPattern::Workspace(rest) => join(&host.workspace, rest),
    }
}

fn runtime_directory(host: &Host) -> PathBuf {
    format!("/run/user/{}", host.identity.inside_uid).into()
}

/// Files that are written for the sandbox, so that every id has a name, every name of loopback resolves at once and no other one does.
/// With the machine's own network, its own name servers and names are used.
fn written_files(host: &Host, machines_network: bool) -> Vec<(&'static str, String)> {
    let (uid, gid) = (host.identity.inside_uid, host.identity.inside_gid);
    let hosts = if machines_network { "files dns" } else { "files" };
    let (user, group, home) = (&host.user, &host.group, host.home.display());
    let mut files = vec![
        (
            "/etc/passwd",
            format!(
                "root:x:0:0:root:/root:/usr/sbin/nologin\n{user}:x:{uid}:{gid}:{user}:{home}:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        ("/etc/group", format!("root:x:0:\n{group}:x:{gid}:\nnogroup:x:65534:\n")),
        ("/etc/hostname", format!("{HOSTNAME}\n")),
        (
            "/etc/nsswitch.conf",
            format!(
                "passwd: files\ngroup: files\nshadow: files\nhosts: {hosts}\nnetworks: files\nprotocols: files\nservices: files\n"
            ),
        ),
    ];
    if !machines_network {
        files.extend([
            (
                "/etc/hosts",
                format!("127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n"),
            ),
            (
                "/etc/resolv.conf",
                "# There is no name server in this sandbox.\n".to_owned(),
            ),
        ]);
    }
    files
}

fn network(grants: &Grants) -> Network {
    match &grants.network {
        policies::Network::None => Network::None,
        policies::Network::Host(policies::Ports { connect, bind }) => Network::Host {
            connect: connect.clone(),
            bind: bind.clone(),
        },
        policies::Network::Loopback => Network::Loopback {
            refusal_port: Some(REFUSAL_PORT),
        },
        policies::Network::LoopbackSilent => Network::Loopback { refusal_port: None },
    }
}

fn limits(limits: &policies::Limits) -> Limits {
    Limits {
        memory_bytes: limits.memory_bytes,
        processes: limits.processes,
        cpu_millis: limits.cpu_millis,
        open_files_soft: limits.open_files_soft,
        open_files_hard: limits.open_files_hard,
        file_bytes: limits.file_bytes,
        disk_bytes: limits.disk_bytes,
        files: limits.files,
    }
}

/// The same protection in the sandbox's words.
pub fn protection(protection: policies::Protection) -> Protection {
    match protection {
        policies::Protection::FilesystemView => Protection::FilesystemView,
        policies::Protection::FilesystemRights => Protection::FilesystemRights,
        policies::Protection::ProtectedPaths => Protection::ProtectedPaths,
        policies::Protection::Processes => Protection::Processes,
        policies::Protection::Network => Protection::Network,
        policies::Protection::Ipc => Protection::Ipc,
        policies::Protection::SystemCalls => Protection::SystemCalls,
        policies::Protection::Privileges => Protection::Privileges,
        policies::Protection::Resources => Protection::Resources,
        policies::Protection::Descriptors => Protection::Descriptors,
        policies::Protection::Environment => Protection::Environment,
    }
}

/// What the policy and the request say, and what every program expects.
fn environment(own: &[(Vec<u8>, Vec<u8>)], grants: &Grants, host: &Host) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut env = grants.env.clone();
    let runtime = runtime_directory(host);
    // Facts about this sandbox: what the caller's environment said of them is about another place or another user.
    let facts: [(&str, &[u8]); 5] = [
        ("HOME", host.home.as_os_str().as_bytes()),
        ("USER", host.user.as_bytes()),
        ("LOGNAME", host.user.as_bytes()),
        ("PWD", host.cwd.as_os_str().as_bytes()),
        ("XDG_RUNTIME_DIR", runtime.as_os_str().as_bytes()),
    ];
    for (name, value) in facts {
        env.insert(name.into(), value.into());
    }
    let proxy = format!("http://127.0.0.1:{REFUSAL_PORT}");
    let defaults: [(&str, &[u8]); 3] = [
        ("PATH", DEFAULT_PATH.as_bytes()),
        ("LANG", b"C.UTF-8"),
        ("SHELL", b"/bin/sh"),
    ];
    let proxies = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ]
    .map(|name| (name, proxy.as_bytes()));
    let direct = ["NO_PROXY", "no_proxy"].map(|name| (name, b"localhost,127.0.0.1,::1".as_slice()));
    let refuses = matches!(grants.network, policies::Network::Loopback);
    let refusing = proxies.into_iter().chain(direct).filter(|_| refuses);
    for (name, value) in defaults.into_iter().chain(refusing) {
        env.entry(name.into()).or_insert_with(|| value.into());
    }
    env.extend(own.iter().cloned());
    env
}

#[cfg(test)]
mod tests;
