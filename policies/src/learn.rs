//! From what a command asked for to the smallest policy that would have let it pass.
//!
//! Pure and deterministic: the same observations give the same text. What was asked for is generalised, because the next run asks for other
//! files of the same places: system paths to their roots, toolchains in the home to theirs, many files of one directory to the
//! directory. Never to the root, to a home, to what holds many programs' files, or to a place that holds something hidden; and never
//! beyond what the policy shows under which the command was watched.
//!
//! ```text
//! learn.rs          what goes in and what comes out
//! learn/places.rs   which paths are whose, and how far each may be generalised
//! learn/gather.rs   from observations to grants
//! learn/print.rs    from grants to the text of a policy
//! ```

mod gather;
mod places;
mod print;

use std::collections::BTreeMap;
use std::time::Duration;

/// Something that a command asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What.
    pub target: Target,
    /// What for.
    pub purpose: Purpose,
    /// Whether it was there when it was first asked for.
    pub existed: bool,
    /// Whether it was a directory.
    pub directory: bool,
    /// The name of the program that asked first.
    pub program: String,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An absolute, normalised path.
    Path(String),
    /// An address. The type of `core`, which can do nothing with it.
    Address(core::net::SocketAddr),
}

/// What something was asked for for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// To see whether and what it is.
    Look,
    /// To read a file.
    Read,
    /// To list a directory.
    List,
    /// To execute it.
    Execute,
    /// To make, change, move or remove it.
    Write,
    /// To connect to it.
    Connect,
    /// To listen on it.
    Bind,
}

/// What a run that was watched tells.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// What it asked for, in order.
    pub observations: Vec<Observation>,
    /// How many more there were.
    pub lost: u64,
    /// Whether its system call profile refused a call that the profile `default` allows.
    pub missed_calls: bool,
    /// Paths that it was refused to write.
    pub missed_writes: Vec<String>,
    /// Whether it was refused a network.
    pub missed_network: bool,
}

/// Where and under what a command was watched. Paths are absolute and normalised.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The command, for people.
    pub command: String,
    /// The policy's name.
    pub policy: String,
    /// The home directory.
    pub home: String,
    /// The workspace.
    pub workspace: String,
    /// The repository that the workspace belongs to, where it lies elsewhere: shown with it.
    pub repository: Option<String>,
    /// What the policy shows outside the workspace: what lies below one of these may be granted. The home stands here if the policy shows it.
    pub shown: Vec<String>,
    /// What of it can be executed.
    pub executable: Vec<String>,
    /// What of it takes changes, kept or not.
    pub changeable: Vec<String>,
    /// The built-in presets that give no files and no variables that the policy does not: those that a proposal may extend.
    pub presets: Vec<String>,
    /// What it hides.
    pub hidden: Vec<String>,
    /// What is to be hidden in the proposal where that is more than the built-in default hides, as patterns.
    pub restated_hide: Vec<String>,
    /// The protections that are to be required where that is other than in the built-in default: those beyond it, or an empty list for none
    /// at all.
    pub restated_required: Option<Vec<String>>,
    /// Its rules about commands, approvals and the audit log as sections of a policy file, where they are other than those of the built-in
    /// default; else empty.
    pub rules: String,
    /// Whether the policy lets the workspace be written.
    pub workspace_writable: bool,
    /// Whether it gives a `/tmp`.
    pub tmp: bool,
    /// What it gives of the network.
    pub network: Reach,
    /// The port of loopback on which requests to other hosts are refused.
    pub refusal_port: u16,
    /// Names of variables that it passed on from the caller.
    pub passed: Vec<String>,
    /// Variables that it sets.
    pub set: BTreeMap<String, String>,
    /// Bounds that the proposal must not pass. `None` is unlimited.
    pub limits: Measures,
    /// What was measured. `None`: nobody measured.
    pub measured: Measures,
}

/// What a policy gives of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// None.
    None,
    /// Loopback of its own.
    Loopback,
    /// The machine's.
    Host,
}

/// Measures of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measures {
    /// Elapsed time.
    pub wall: Option<Duration>,
    /// Memory of the tree, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u32>,
}

/// A proposed policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The text of the policy file.
    pub toml: String,
    /// What is not proposed though it was asked for, and what else to know; a line each.
    pub notes: Vec<String>,
}

/// Proposes a policy called `name` (1 to 64 of `a-z 0-9 -`) for what was `watched`. `proofs` are runs under earlier proposals that did not end
/// as the first: what they missed is granted as well.
#[must_use]
pub fn propose(name: &str, facts: &Facts, watched: &Watched, proofs: &[Watched]) -> Proposal {
    let mut gathered = gather::gather(facts, watched, proofs);
    let notes = std::mem::take(&mut gathered.notes);
    Proposal {
        toml: print::policy(name, facts, &gathered),
        notes,
    }
}
