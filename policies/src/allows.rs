//! Whether a policy allows one thing: for expectations, for explanations, and for the promise that a ceiling is never exceeded.
//!
//! What is answered is what the policy says. The kernel's own permissions, what git's guard refuses by a file's contents, and whether a
//! path exists are not looked at.

use crate::command::Verdict;
use crate::file::{Expected, Subject};
use crate::model::{GitAccess, Home, Network, NetworkMode, PathPattern, Policy, SyscallProfile, Tool, WorkspaceAccess};
use crate::pattern::{is_at_or_below, names_of};

/// Where paths that begin with a variable lie.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The home directory: absolute.
    pub home: &'a str,
    /// The workspace: absolute, and no directory above the home.
    pub workspace: &'a str,
}

impl Facts<'_> {
    /// Where a path lies.
    pub fn place(&self, pattern: &PathPattern) -> String {
        match pattern {
            PathPattern::Absolute(path) => path.clone(),
            PathPattern::Home(rest) => below(self.home, rest),
            PathPattern::Workspace(rest) => below(self.workspace, rest),
        }
    }

    /// A path as a policy would spell it: `${workspace}/src`, `${home}/.cargo`.
    pub fn spelled(&self, path: &str) -> String {
        for (variable, base) in [("${workspace}", self.workspace), ("${home}", self.home)] {
            let rest = path.strip_prefix(base.trim_end_matches('/'));
            if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
                return format!("{variable}{rest}");
            }
        }
        path.to_owned()
    }
}

/// One thing that a command may want to do. Paths are absolute and normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// Reading a file or listing a directory.
    Read(&'a str),
    /// Writing, for good or to what vanishes with the sandbox.
    Write(&'a str),
    /// Writing what stays when the sandbox is gone.
    Keep(&'a str),
    /// Executing.
    Execute(&'a str),
    /// Connecting to a TCP port of a host, by name or address.
    Connect(&'a str, u16),
    /// Listening on a TCP port where others can reach it.
    Listen(u16),
    /// Getting a variable from the caller.
    Environment(&'a str),
    /// Being run by a tool.
    Tool(Tool),
    /// Making a system call that `syscalls` names, or any other of profile `default`.
    SystemCall(&'a str),
    /// Taking as much of a limit, by its key and in its smallest unit: see [`Limits::amounts`](crate::Limits::amounts).
    Limit(&'a str, u64),
}

/// The trees that a sandbox makes for itself.
pub(crate) const OWN: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];
/// Those of them that can be written.
pub(crate) const OWN_WRITTEN: [&str; 3] = ["/proc", "/dev", "/run"];
/// Files that are written for every sandbox, whatever its policy shows or hides.
pub(crate) const OWN_FILES: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/hostname", "/etc/nsswitch.conf"];
/// Those that are written where the network is the sandbox's own; on the machine's network its own are shown.
pub(crate) const OWN_NETWORK_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];
pub(crate) const TMP: [&str; 2] = ["/tmp", "/var/tmp"];

impl Policy {
    /// What the policy says to what an expectation is about.
    pub fn answers(&self, subject: &Subject, facts: Facts<'_>) -> Expected {
        let path = |pattern: &PathPattern| facts.place(pattern);
        let allowed = match subject {
            Subject::Read(pattern) => self.shows(Access::Read(&path(pattern)), facts),
            Subject::Write(pattern) => self.shows(Access::Write(&path(pattern)), facts),
            Subject::Execute(pattern) => self.shows(Access::Execute(&path(pattern)), facts),
            Subject::Host(host, port) => self.shows(Access::Connect(host, *port), facts),
            Subject::Environment(name) => self.shows(Access::Environment(name), facts),
            Subject::Command(line) => {
                return match self.commands.judge_line(line).verdict {
                    Verdict::Deny => Expected::Deny,
                    Verdict::Ask => Expected::Ask,
                    Verdict::Allow => Expected::Allow,
                };
            }
        };
        match allowed {
            true => Expected::Allow,
            false => Expected::Deny,
        }
    }

    /// What a run under this policy finds: as [`Self::allows`], but for what is granted below a private `/tmp`. That is shown in the place of
    /// what is private, with what the grants give and no more.
    pub fn shows(&self, access: Access<'_>, facts: Facts<'_>) -> bool {
        match access {
            Access::Read(path) | Access::Write(path) | Access::Keep(path) | Access::Execute(path)
                if self.grants_in_tmp(path, facts) =>
            {
                let mut own = self.clone();
                own.filesystem.tmp = false;
                own.allows(access, facts)
            }
            access => self.allows(access, facts),
        }
    }

    /// Whether a list grants something of a private `/tmp`.
    pub(crate) fn grants_in_tmp(&self, path: &str, facts: Facts<'_>) -> bool {
        let fs = &self.filesystem;
        let lists = [&fs.read, &fs.execute, &fs.write, &fs.copy_on_write];
        fs.tmp && TMP.iter().any(|tree| is_in(path, tree)) && lists.iter().any(|list| covered(list, path, facts))
    }

    /// Whether the policy gives this and nothing in it takes it away.
    pub fn allows(&self, access: Access<'_>, facts: Facts<'_>) -> bool {
        match access {
            Access::Read(path) => self.reads(path, facts),
            Access::Write(path) => self.writes(path, facts),
            Access::Keep(path) => self.keeps(path, facts) && self.writes(path, facts),
            Access::Execute(path) => self.executes(path, facts),
            Access::Connect(host, port) => match &self.network {
                Network::None => false,
                Network::Loopback | Network::LoopbackSilent => is_loopback(host),
                Network::Host(ports) => ports.connect.as_ref().is_none_or(|list| list.contains(&port)),
            },
            Access::Listen(port) => match &self.network {
                Network::Host(ports) => ports.bind.as_ref().is_none_or(|list| list.contains(&port)),
                _ => false,
            },
            Access::Environment(name) => self.environment.passes(name.as_bytes()),
            Access::Tool(tool) => self.tools.contains(&tool),
            Access::SystemCall(name) => self.calls(name),
            Access::Limit(key, amount) => {
                let bound = self.limits.amounts().into_iter().find(|(known, _)| *known == key);
                bound.is_some_and(|(_, bound)| bound.is_none_or(|bound| amount <= bound))
            }
        }
    }

    /// Whether a call that `strict` may not have is allowed.
    pub(crate) fn calls(&self, name: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|call| call == name);
        let profile = self.syscalls.profile == SyscallProfile::Default;
        !named(&self.syscalls.deny) && (profile || named(&self.syscalls.allow))
    }

    fn reads(&self, path: &str, facts: Facts<'_>) -> bool {
        let fs = &self.filesystem;
        if is_in(path, facts.workspace) {
            return true;
        }
        if self.has_file(path) {
            return true;
        }
        if covered(&fs.hide, path, facts) {
            return false;
        }
        self.has_own(path, &OWN, facts)
            || [&fs.read, &fs.execute, &fs.write, &fs.copy_on_write]
                .iter()
                .any(|list| covered(list, path, facts))
    }

    fn executes(&self, path: &str, facts: Facts<'_>) -> bool {
        let fs = &self.filesystem;
        if is_in(path, facts.workspace) {
            return true;
        }
        !covered(&fs.hide, path, facts) && (self.has_own(path, &OWN[3..], facts) || covered(&fs.execute, path, facts))
    }

    fn writes(&self, path: &str, facts: Facts<'_>) -> bool {
        let fs = &self.filesystem;
        if covered(&fs.read_only, path, facts) || self.protects(path, facts) {
            return false;
        }
        if is_in(path, facts.workspace) {
            // The copy of a home is not one of the workspace in it.
            let mut copied = fs
                .copy_on_write
                .iter()
                .filter(|pattern| matches!(pattern, PathPattern::Workspace(_)));
            return fs.workspace == WorkspaceAccess::Write
                || covered(&fs.write, path, facts)
                || copied.any(|pattern| covers(pattern, path, facts));
        }
        if covered(&fs.hide, path, facts) {
            return false;
        }
        self.has_own(path, &OWN_WRITTEN, facts)
            || covered(&fs.write, path, facts)
            || covered(&fs.copy_on_write, path, facts)
    }

    /// Whether what is written there, if anything may be, is written for good.
    pub(crate) fn keeps(&self, path: &str, facts: Facts<'_>) -> bool {
        let workspace = self.filesystem.workspace == WorkspaceAccess::Write && is_in(path, facts.workspace);
        workspace || covered(&self.filesystem.write, path, facts)
    }

    /// Whether the file is one that is written for the sandbox.
    pub(crate) fn has_file(&self, path: &str) -> bool {
        let own_network = !matches!(self.network, Network::Host(_));
        OWN_FILES.contains(&path) || own_network && OWN_NETWORK_FILES.contains(&path)
    }

    /// Whether the place is the sandbox's own: made for it, private, or the copy of the home.
    fn has_own(&self, path: &str, own: &[&str], facts: Facts<'_>) -> bool {
        own.iter().any(|tree| is_in(path, tree))
            || self.filesystem.tmp && TMP.iter().any(|tree| is_in(path, tree))
            || self.filesystem.home == Home::CopyOnWrite && is_in(path, facts.home)
    }

    /// Whether the path has a protected name in a tree that is written for good.
    fn protects(&self, path: &str, facts: Facts<'_>) -> bool {
        let hooks = self.filesystem.git == GitAccess::Guarded && is_hook(path);
        self.in_written(path, facts).any(|rest| {
            let mut names = self.filesystem.protect.iter();
            hooks || names.any(|name| is_at_or_below(rest.iter().copied(), name))
        })
    }

    /// The names of a path below each tree that is written for good and holds it.
    pub(crate) fn in_written<'p>(&self, path: &'p str, facts: Facts<'_>) -> impl Iterator<Item = Vec<&'p str>> {
        self.written_roots().filter_map(move |root| {
            let mut rest = names_of(path);
            let below = names_in(&root, facts)
                .iter()
                .all(|wanted| rest.next().is_some_and(|name| crate::matches_name(wanted, name)));
            below.then(|| rest.collect())
        })
    }

    /// The roots of what is written for good.
    pub(crate) fn written_roots(&self) -> impl Iterator<Item = PathPattern> {
        let workspace = self.filesystem.workspace == WorkspaceAccess::Write;
        let workspace = workspace.then(|| PathPattern::Workspace(String::new()));
        self.filesystem.write.iter().cloned().chain(workspace)
    }
}

/// Whether a path lies in the directory of hooks of a repository that is called `.git`: the one thing of git's that is refused whatever is
/// written there.
pub(crate) fn is_hook(path: &str) -> bool {
    let mut names = names_of(path).skip_while(|name| *name != ".git");
    names.next().is_some() && names.any(|name| name == "hooks")
}

/// Whether a host is this machine by its name or address. On a network of its own that is the sandbox itself.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let address = name
        .parse::<core::net::IpAddr>()
        .is_ok_and(|address| address.is_loopback());
    address || name == "localhost" || name.ends_with(".localhost")
}

pub(crate) fn is_in(path: &str, directory: &str) -> bool {
    let mut names = names_of(path);
    names_of(directory).all(|wanted| names.next() == Some(wanted))
}

pub(crate) fn names_in<'a>(pattern: &'a PathPattern, facts: Facts<'a>) -> Vec<&'a str> {
    let base = match pattern {
        PathPattern::Absolute(_) => "",
        PathPattern::Home(_) => facts.home,
        PathPattern::Workspace(_) => facts.workspace,
    };
    names_of(base).chain(names_of(pattern.rest())).collect()
}

pub(crate) fn covers(pattern: &PathPattern, path: &str, facts: Facts<'_>) -> bool {
    let base = match pattern {
        PathPattern::Absolute(_) => "",
        PathPattern::Home(_) => facts.home,
        PathPattern::Workspace(_) => facts.workspace,
    };
    let mut names = names_of(path);
    names_of(base).all(|wanted| names.next() == Some(wanted)) && is_at_or_below(names, pattern.rest())
}

fn covered(patterns: &[PathPattern], path: &str, facts: Facts<'_>) -> bool {
    patterns.iter().any(|pattern| covers(pattern, path, facts))
}

impl Network {
    /// The stricter of two: what both give. A network of the sandbox's own has nobody else in it, so that its loopback lies within the
    /// machine's network whatever ports that gives.
    pub(crate) fn within(&self, other: &Network) -> Network {
        match (self, other) {
            (Network::Host(a), Network::Host(b)) => Network::Host(crate::Ports {
                connect: both(&a.connect, &b.connect),
                bind: both(&a.bind, &b.bind),
            }),
            _ => match self.mode().min(other.mode()) {
                NetworkMode::None => Network::None,
                NetworkMode::LoopbackSilent => Network::LoopbackSilent,
                NetworkMode::Loopback | NetworkMode::Host => Network::Loopback,
            },
        }
    }
}

pub(crate) fn below(base: &str, rest: &str) -> String {
    match rest {
        "" => base.to_owned(),
        rest => format!("{}/{rest}", base.trim_end_matches('/')),
    }
}

fn both(a: &Option<Vec<u16>>, b: &Option<Vec<u16>>) -> Option<Vec<u16>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.iter().filter(|port| b.contains(port)).copied().collect()),
        (one, None) | (None, one) => one.clone(),
    }
}
