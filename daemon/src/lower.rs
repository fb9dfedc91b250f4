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
    Access, CommandSpec, Exceptions, Guard, Limits, Network, Protection, SandboxSpec, Syscalls, TerminalSize, View,
    ViewEntry,
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
        syscalls: match grants.syscalls.profile {
            SyscallProfile::Default => Syscalls::Default,
            SyscallProfile::Strict => Syscalls::Strict,
        },
        exceptions: Exceptions {
            allow: grants.syscalls.allow.clone(),
            deny: grants.syscalls.deny.clone(),
        },
        limits: limits(&grants.limits),
        required: grants.required.iter().map(|required| protection(*required)).collect(),
        record: false,
        session: false,
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
            optional,
        } = entry
        else {
            continue;
        };
        if !access.writes() {
            continue;
        }
        let execute = matches!(access, Access::Write | Access::Guarded);
        if is_directory(source) {
            *entry = ViewEntry::Overlay {
                lower: std::mem::take(source),
                target: std::mem::take(target),
                scratch: format!("throwaway-{number}"),
                hide: Vec::new(),
                execute,
                optional: *optional,
                guarded: access.is_guarded(),
            };
        } else {
            *access = if execute { Access::ReadExecute } else { Access::Read };
        }
    }
}

/// The protections that a run should have.
pub fn preferred(grants: &Grants) -> Vec<fumehood_sandbox::spec::Protection> {
    grants
        .preferred
        .iter()
        .map(|preferred| protection(*preferred))
        .collect()
}

/// What is protected in writable trees.
fn guard(grants: &Grants, host: &Host) -> Guard {
    Guard {
        protected: grants.filesystem.protect.iter().map(PathBuf::from).collect(),
        read_only: resolved(&grants.filesystem.read_only, host),
        // In the workspace nothing is hidden.
        hidden: hidden(grants, host)
            .map(|(_, path)| path)
            .chain(host.private.iter().cloned())
            .filter(|path| !path.starts_with(&host.workspace))
            .collect(),
        git: grants.filesystem.git == GitAccess::Guarded,
        programs: host.programs.clone(),
    }
}

/// The access to a writable tree.
fn writable(guarded: bool, execute: bool) -> Access {
    match (guarded, execute) {
        (true, true) => Access::Guarded,
        (true, false) => Access::GuardedNoExecute,
        (false, true) => Access::Write,
        (false, false) => Access::WriteNoExecute,
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
        terminal: None,
        state: false,
    }
}

/// TERM where neither the request nor the policy says one: what terminals have in common today.
const DEFAULT_TERM: &str = "xterm-256color";

/// Gives the command a terminal. TERM is the request's own variable, else `term`, else what the policy passed on.
pub fn give_terminal(command: &mut CommandSpec, size: TerminalSize, term: &str, own_env: &[(Vec<u8>, Vec<u8>)]) {
    command.terminal = Some(size);
    if own_env.iter().any(|(name, _)| name == b"TERM") {
        return;
    }
    let known = command.env.iter().any(|(name, _)| name == "TERM");
    let term = match term {
        "" if known => return,
        "" => DEFAULT_TERM,
        term => term,
    };
    command.env.retain(|(name, _)| name != "TERM");
    command.env.push(("TERM".into(), term.into()));
}

/// The file tree, in the order in which it is mounted: the sandbox's own places; private places, the home and grants, each after what it
/// lies in; then what hides and what is written for the sandbox; the workspace over all of it, with what is granted in it; and what is
/// read-only.
fn view(grants: &Grants, host: &Host) -> Vec<ViewEntry> {
    let filesystem = &grants.filesystem;
    let given = Given::of(grants, host);
    let guard = guard(grants, host);
    // A mask moves with what it lies on, and what is written could be moved.
    let masked = !(guard.hidden.is_empty() || filesystem.write.is_empty());
    let guarded = masked || !guard.is_empty();
    let mut entries = vec![
        ViewEntry::Proc,
        ViewEntry::Sys,
        ViewEntry::Dev {
            shm_bytes: filesystem.shm_bytes,
        },
        // First: a grant may lie below it.
        ViewEntry::Tmpfs {
            target: "/run".into(),
            size_bytes: RUN_BYTES,
            mode: 0o755,
            writable: true,
        },
        ViewEntry::Directory {
            target: runtime_directory(host),
            mode: 0o700,
        },
    ];
    let mut places: BTreeMap<PathBuf, Vec<ViewEntry>> = BTreeMap::new();
    if filesystem.tmp {
        for (target, scratch) in [("/tmp", "tmp"), ("/var/tmp", "var-tmp")] {
            let entry = private(target.as_ref(), scratch, 0o1777);
            places.entry(target.into()).or_default().push(entry);
        }
    }
    let copied_home = filesystem.home == Home::CopyOnWrite && host.home_exists;
    // A home that a grant above it shows is shown.
    if copied_home || given.at(&host.home).is_none() {
        let entry = match copied_home {
            true => ViewEntry::Overlay {
                lower: host.home.clone(),
                target: host.home.clone(),
                scratch: "home".into(),
                hide: hidden_below(&host.home, grants, host),
                execute: true,
                optional: false,
                guarded: false,
            },
            false => private(&host.home, "home", 0o700),
        };
        places.entry(host.home.clone()).or_default().push(entry);
    }
    let mut mounted = Vec::new();
    for (path, at) in given.outside(&host.workspace) {
        let in_copy = copied_home && path.starts_with(&host.home) && path != host.home;
        let entry = match at {
            Rights { write: true, .. } => bind(&path, writable(guarded, at.execute || in_copy), true),
            // The copy of the home gives more than reading, and so does the copy of a directory above.
            _ if in_copy => continue,
            Rights { copy: true, .. } if given.is_as_above(&path) => continue,
            Rights { copy: true, .. } => ViewEntry::Overlay {
                lower: path.clone(),
                target: path.clone(),
                scratch: format!("copy-{}", mounted.len()),
                hide: hidden_below(&path, grants, host),
                execute: at.execute,
                optional: true,
                guarded: false,
            },
            Rights { execute: true, .. } => bind(&path, Access::ReadExecute, true),
            _ => bind(&path, Access::Read, true),
        };
        places.entry(path.clone()).or_default().push(entry);
        mounted.push(path);
    }
    entries.extend(places.into_values().flatten());
    // What an overlay hides is not there; a grant that holds a hidden place is mounted over it and must not bring it back.
    let uncovered = resolved(&filesystem.hide, host)
        .into_iter()
        .filter(|hidden| !hidden.starts_with(&host.home) || mounted.iter().any(|path| hidden.starts_with(path)));
    entries.extend(uncovered.map(|target| ViewEntry::Mask { target }));
    // Whatever is granted, the daemon's own places are not; those in the home are hidden there as well.
    entries.extend(host.private.iter().map(|path| ViewEntry::Mask { target: path.clone() }));
    let machines = matches!(grants.network, policies::Network::Host(_));
    if machines {
        // Where /etc/resolv.conf leads on machines that write it anew at each start.
        entries.extend(RESOLVERS.iter().map(|path| bind(path.as_ref(), Access::Read, true)));
    }
    entries.extend(
        written_files(host, machines)
            .into_iter()
            .map(|(target, contents)| ViewEntry::File {
                target: target.into(),
                contents: contents.into_bytes(),
            }),
    );
    entries.extend(workspace(grants, host, &given, guarded));
    let read_only = resolved(&filesystem.read_only, host).into_iter();
    entries.extend(read_only.map(|target| ViewEntry::ReadOnly { target }));
    entries
}

/// The workspace, the repository that it is checked out from, and what is granted in them beyond that.
fn workspace(grants: &Grants, host: &Host, given: &Given, guarded: bool) -> Vec<ViewEntry> {
    let written = workspace_is_written(grants, host);
    let access = match written {
        true => writable(guarded, true),
        false => Access::ReadExecute,
    };
    let visible = |path: &&PathBuf| hidden(grants, host).all(|(_, hidden)| !meet(path, &hidden));
    let repository = host.repository.iter().filter(visible);
    let mut entries: Vec<_> = repository.map(|path| bind(path, access, false)).collect();
    let copies = resolved(&in_workspace(&grants.filesystem.copy_on_write), host);
    let copy = |path: &Path, number: usize| ViewEntry::Overlay {
        lower: path.to_owned(),
        target: path.to_owned(),
        scratch: format!("workspace-{number}"),
        hide: Vec::new(),
        execute: true,
        optional: true,
        guarded: false,
    };
    entries.push(match copies.contains(&host.workspace) && !written {
        true => copy(&host.workspace, 0),
        false => bind(&host.workspace, access, false),
    });
    if written {
        return entries;
    }
    // By a path without symbolic links: the project's own may lead anywhere.
    for (number, (path, at)) in given.inside(&host.workspace).into_iter().enumerate() {
        match at {
            Rights { write: true, .. } => entries.push(bind(&path, writable(guarded, true), false)),
            Rights { copy: true, .. } if copies.contains(&path) => entries.push(copy(&path, number + 1)),
            _ => {}
        }
    }
    entries
}

/// Whether the workspace is written for good: by its own key, or because a grant holds it.
fn workspace_is_written(grants: &Grants, host: &Host) -> bool {
    let holds = |path: &PathBuf| host.workspace.starts_with(path);
    grants.filesystem.workspace == WorkspaceAccess::Write || resolved(&grants.filesystem.write, host).iter().any(holds)
}

fn in_workspace(patterns: &[PathPattern]) -> Vec<PathPattern> {
    let inside = |pattern: &&PathPattern| matches!(pattern, PathPattern::Workspace(_));
    patterns.iter().filter(inside).cloned().collect()
}

fn bind(path: &Path, access: Access, optional: bool) -> ViewEntry {
    ViewEntry::Bind {
        source: path.to_owned(),
        target: path.to_owned(),
        access,
        optional,
    }
}

fn private(target: &Path, scratch: &str, mode: u32) -> ViewEntry {
    ViewEntry::Scratch {
        target: target.to_owned(),
        scratch: scratch.into(),
        mode,
        guarded: false,
    }
}

/// What the lists of grants give at a place, all that hold it taken together: grants add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rights {
    execute: bool,
    write: bool,
    copy: bool,
}

/// Every path that a list grants.
struct Given(BTreeMap<PathBuf, Rights>);

impl Given {
    fn of(grants: &Grants, host: &Host) -> Given {
        let filesystem = &grants.filesystem;
        let mut all: BTreeMap<PathBuf, Rights> = BTreeMap::new();
        type Gives = fn(&mut Rights);
        let lists: [(&[PathPattern], Gives); 4] = [
            (&filesystem.read, |_| {}),
            (&filesystem.execute, |rights| rights.execute = true),
            (&filesystem.write, |rights| rights.write = true),
            (&filesystem.copy_on_write, |rights| rights.copy = true),
        ];
        for (patterns, give) in lists {
            for path in resolved(patterns, host) {
                give(all.entry(path).or_default());
            }
        }
        Given(all)
    }

    /// What is given at a place. `None`: nothing.
    fn at(&self, path: &Path) -> Option<Rights> {
        let holding = path.ancestors().filter_map(|above| self.0.get(above));
        holding.copied().reduce(|a, b| Rights {
            execute: a.execute || b.execute,
            write: a.write || b.write,
            copy: a.copy || b.copy,
        })
    }

    fn is_as_above(&self, path: &Path) -> bool {
        path.parent().is_some_and(|above| self.at(above) == self.at(path))
    }

    fn outside(&self, workspace: &Path) -> Vec<(PathBuf, Rights)> {
        self.chosen(|path| !path.starts_with(workspace))
    }

    /// Below the workspace, which itself is left out.
    fn inside(&self, workspace: &Path) -> Vec<(PathBuf, Rights)> {
        self.chosen(|path| path.starts_with(workspace) && path != workspace)
    }

    fn chosen(&self, choose: impl Fn(&Path) -> bool) -> Vec<(PathBuf, Rights)> {
        let paths = self.0.keys().filter(|path| choose(path));
        paths
            .map(|path| (path.clone(), self.at(path).unwrap_or_default()))
            .collect()
    }
}

/// What must not be seen below a directory that is copied, relative to it.
fn hidden_below(directory: &Path, grants: &Grants, host: &Host) -> Vec<PathBuf> {
    let hidden = resolved(&grants.filesystem.hide, host);
    let all = hidden.iter().chain(host.private.iter());
    all.filter_map(|path| Some(path.strip_prefix(directory).ok()?.to_owned()))
        .collect()
}

/// The hidden paths that the workspace is, lies in or holds, each with the rule that hides it. The workspace is mounted over everything, so
/// such a run would be given what its policy hides; a link that an earlier command left in the project is enough to be sent there.
/// Those it would hold need not exist.
pub fn hidden_by_workspace(grants: &Grants, host: &Host) -> Vec<(&'static str, PathBuf)> {
    hidden(grants, host)
        .filter(|(_, hidden)| meet(&host.workspace, hidden))
        .collect()
}

/// Everything that the policy hides, with the rule that does.
pub fn hidden<'a>(grants: &'a Grants, host: &'a Host) -> impl Iterator<Item = (&'static str, PathBuf)> + 'a {
    resolved(&grants.filesystem.hide, host)
        .into_iter()
        .map(|path| ("filesystem.hide", path))
}

/// Whether one of two paths lies in the other.
fn meet(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// The paths that patterns stand for: as written, or what was found on the machine.
fn resolved(patterns: &[PathPattern], host: &Host) -> Vec<PathBuf> {
    patterns.iter().flat_map(|pattern| resolve(pattern, host)).collect()
}

pub fn resolve(pattern: &PathPattern, host: &Host) -> Vec<PathBuf> {
    if let Some(found) = host.found.get(pattern) {
        return found.clone();
    }
    let base: &Path = match pattern {
        PathPattern::Absolute(_) => "/".as_ref(),
        PathPattern::Home(_) => &host.home,
        PathPattern::Workspace(_) => &host.workspace,
    };
    match pattern.rest().trim_start_matches('/') {
        "" => vec![base.to_owned()],
        // Nothing was looked for: nothing is there.
        _ if pattern.has_wildcards() => Vec::new(),
        rest => vec![base.join(rest)],
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
pub fn environment(own: &[(Vec<u8>, Vec<u8>)], grants: &Grants, host: &Host) -> BTreeMap<Vec<u8>, Vec<u8>> {
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
    env.retain(|name, _| !grants.removes(name));
    env
}

#[cfg(test)]
pub(crate) mod tests;
