//! Landlock: rights on the tree that `view.rs` built, on the objects themselves.
//!
//! Mounts decide what exists and what is read-only; Landlock decides again, by another mechanism of the kernel, and adds what mounts
//! cannot say: which trees may be executed, that `/dev` and `/proc` give no new files, that signals and abstract sockets stay inside.
//! It is applied last, because a Landlock domain may not mount.

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::spec::{Network, State};
use crate::sys;
use crate::view::Right;

/// The newest ABI whose rights are asked for. Older kernels enforce what they know.
const WANTED: ABI = ABI::V6;

/// From this ABI on TCP ports are told apart.
const PORTS_FROM: u32 = 4;

/// From this ABI on abstract sockets outside a domain are out of its reach.
const SCOPES_FROM: u32 = 6;

/// From this ABI on truncation is covered; an older kernel lets a read-only-by-Landlock file be emptied, so the layer counts as degraded.
const COMPLETE_FROM: u32 = 3;

/// A ruleset ready to be applied by a process of the sandbox.
pub(crate) struct Rights {
    ruleset: Option<RulesetCreated>,
    abi: u32,
}

/// Builds the ruleset in the finished view. A rule's path that does not exist is passed over: nothing is granted.
pub(crate) fn prepare(rules: &[(PathBuf, Right)], network: &Network) -> Result<Rights, landlock::RulesetError> {
    let abi = sys::landlock_abi();
    if abi == 0 {
        return Ok(Rights { ruleset: None, abi });
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?;
    let ports = restricted(network);
    for (access, _) in &ports {
        ruleset = ruleset.handle_access(*access)?;
    }
    let mut ruleset = ruleset.create()?;
    for (access, port) in ports
        .iter()
        .flat_map(|(access, ports)| ports.iter().map(|port| (*access, *port)))
    {
        ruleset = ruleset.add_rule(NetPort::new(port, access))?;
    }
    // The root itself may be listed: `ls /` works, and getcwd of shells that walk upwards.
    let root = [(PathBuf::from("/"), AccessFs::ReadDir.into())];
    for (path, access) in rules
        .iter()
        .map(|(path, right)| (path.clone(), access_of(*right)))
        .chain(root)
    {
        let Ok(fd) = PathFd::new(&path) else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, for_kind(&path, access)))?;
    }
    Ok(Rights {
        ruleset: Some(ruleset),
        abi,
    })
}

/// Whether lists of ports are enforced here.
pub(crate) fn tells_ports() -> bool {
    sys::landlock_abi() >= PORTS_FROM
}

/// The TCP accesses that are restricted, with the ports that remain.
fn restricted(network: &Network) -> Vec<(AccessNet, &[u16])> {
    let Network::Host { connect, bind } = network else {
        return Vec::new();
    };
    let connect = connect.as_deref().map(|ports| (AccessNet::ConnectTcp, ports));
    let bind = bind.as_deref().map(|ports| (AccessNet::BindTcp, ports));
    connect.into_iter().chain(bind).collect()
}

fn access_of(right: Right) -> BitFlags<AccessFs> {
    match right {
        Right::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Right::ReadExecute => AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute,
        Right::Write => AccessFs::from_all(WANTED),
        Right::WriteNoExecute => AccessFs::from_all(WANTED) & !BitFlags::from(AccessFs::Execute),
        Right::Use => {
            AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
        }
    }
}

/// The rights that make sense for a file, where `path` is one: the kernel refuses a rule with others.
fn for_kind(path: &std::path::Path, access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(WANTED)
    }
}

impl Rights {
    /// What will hold once applied.
    pub(crate) fn state(&self) -> State {
        match (&self.ruleset, self.abi) {
            (None, _) => {
                State::Off("this kernel has no Landlock, or it is not among the active security modules".into())
            }
            (_, abi) if abi < COMPLETE_FROM => State::Degraded(format!(
                "Landlock ABI {abi}: truncation is not covered before ABI {COMPLETE_FROM}"
            )),
            (_, abi) => State::Active(format!("Landlock ABI {abi}")),
        }
    }

    /// What will hold of the network once applied.
    pub(crate) fn network(&self, network: &Network) -> State {
        match network {
            Network::None => State::Active("own network namespace in which nothing is up".into()),
            Network::Loopback { .. } => State::Active("own network namespace, loopback only".into()),
            Network::Host { .. } if restricted(network).is_empty() => {
                State::Off("the policy gives the machine's own network".into())
            }
            Network::Host { .. } if self.abi < PORTS_FROM => State::Off(format!(
                "the policy gives some ports of the machine's own network; Landlock ABI {} cannot tell ports before ABI {PORTS_FROM}",
                self.abi
            )),
            Network::Host { .. } => State::Degraded(
                "the policy gives some TCP ports of the machine's own network; other protocols are not restricted"
                    .into(),
            ),
        }
    }

    /// What holds of the ways between processes. Sockets with abstract names belong to the network namespace.
    pub(crate) fn ipc(&self, network: &Network) -> State {
        match network {
            Network::Host { .. } if self.abi < SCOPES_FROM => State::Degraded(format!(
                "own ipc namespace; abstract sockets of the machine are in reach, because Landlock has no scopes before ABI {SCOPES_FROM}"
            )),
            _ => State::Active("own ipc namespace".into()),
        }
    }

    /// Confines the calling process, for good. Must come after no_new_privs.
    pub(crate) fn apply(&self) -> Result<(), String> {
        let Some(ruleset) = &self.ruleset else { return Ok(()) };
        // Why is told by the error's number: no more files may be open.
        let ruleset = ruleset
            .try_clone()
            .map_err(|_| "the ruleset's descriptor cannot be copied".to_owned())?;
        let status = ruleset.restrict_self().map_err(|error| error.to_string())?;
        match status.ruleset {
            RulesetStatus::NotEnforced => Err("the kernel enforced none of the rules".into()),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        }
    }
}

/// A further, empty layer: whoever takes it on may create no file anywhere. For the self-test, which must see that rules have an
/// effect and not only that the kernel took them.
pub(crate) fn forbid_creation() -> Result<(), String> {
    let access = AccessFs::MakeReg | AccessFs::WriteFile;
    let ruleset = Ruleset::default()
        .handle_access(access)
        .and_then(Ruleset::create)
        .map_err(|error| error.to_string())?;
    ruleset.restrict_self().map(drop).map_err(|error| error.to_string())
}
