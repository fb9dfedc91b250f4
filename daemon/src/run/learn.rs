//! What a run to learn from asked for, and what a proposal has to know beside it.

use std::path::Path;

use fumehood_policies as policies;
use fumehood_policies::learn::{self, Facts, Measures, Watched};
use fumehood_policies::{Grants, Home, PathPattern, WorkspaceAccess};
use fumehood_sandbox::event as sandbox_event;

use super::denials::OF_PROFILE;
use super::model::{Denials, Operation, Request, Subject, Usage};
use crate::lower;

/// Paths kept of a run at most, whatever init sends.
const MAX_OBSERVATIONS: usize = 4 * 65_536;
/// The same in bytes of paths.
const MAX_BYTES: usize = 32 << 20;

/// What a run asked for.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// In the order in which it was asked for.
    pub watched: Watched,
    /// Where and under what.
    pub facts: Facts,
    /// Memory that this takes, in bytes, about.
    pub bytes: usize,
}

/// Collects what init tells.
#[derive(Debug, Default)]
pub(super) struct Recording {
    watched: Watched,
    tasks: u32,
    unreadable: u64,
    beyond: u64,
    bytes: usize,
}

impl Recording {
    /// Takes one event's contents.
    pub fn take(&mut self, observations: Vec<sandbox_event::Observation>, lost: u64, tasks: u32) {
        self.watched.lost = lost;
        self.tasks = self.tasks.max(tasks);
        for observation in observations {
            let path_bytes = match &observation.target {
                sandbox_event::Target::Path(path) => path.len(),
                sandbox_event::Target::Address(_) => 0,
            };
            if self.watched.observations.len() >= MAX_OBSERVATIONS || self.bytes + path_bytes > MAX_BYTES {
                self.beyond += 1;
                continue;
            }
            match observed(observation) {
                Some(observation) => {
                    self.bytes += path_bytes + size_of::<learn::Observation>();
                    self.watched.observations.push(observation);
                }
                None => self.unreadable += 1,
            }
        }
    }

    /// What was collected, once the run is over.
    pub fn finish(mut self, mut facts: Facts, usage: &Usage, denials: &Denials) -> Recorded {
        // A name that is no UTF-8 cannot stand in a policy either.
        self.watched.lost += self.beyond + self.unreadable;
        for denial in &denials.list {
            match (&denial.subject, denial.operation) {
                (Subject::SystemCall(_), _) if denial.remedy == OF_PROFILE => self.watched.missed_calls = true,
                (Subject::Address(_), _) => self.watched.missed_network = true,
                (Subject::Path(path), Operation::Write) => {
                    let path = String::from_utf8_lossy(path).into_owned();
                    self.watched.missed_writes.push(path);
                }
                _ => {}
            }
        }
        facts.measured = Measures {
            wall: Some(usage.wall),
            memory_bytes: Some(usage.memory_peak_bytes).filter(|bytes| *bytes > 0),
            processes: Some(self.tasks).filter(|tasks| *tasks > 0),
        };
        Recorded {
            watched: self.watched,
            facts,
            bytes: self.bytes,
        }
    }
}

fn observed(observation: sandbox_event::Observation) -> Option<learn::Observation> {
    use sandbox_event::Purpose as Told;
    let sandbox_event::Observation {
        target,
        purpose,
        existed,
        directory,
        program,
    } = observation;
    Some(learn::Observation {
        target: match target {
            sandbox_event::Target::Path(path) => learn::Target::Path(String::from_utf8(path).ok()?),
            sandbox_event::Target::Address(address) => learn::Target::Address(address),
        },
        purpose: match purpose {
            Told::Look => learn::Purpose::Look,
            Told::Read => learn::Purpose::Read,
            Told::List => learn::Purpose::List,
            Told::Execute => learn::Purpose::Execute,
            Told::Write => learn::Purpose::Write,
            Told::Connect => learn::Purpose::Connect,
            Told::Bind => learn::Purpose::Bind,
        },
        existed,
        directory,
        program: String::from_utf8_lossy(&program).into_owned(),
    })
}

/// What a proposal has to know of a run, before anything was measured. `policy` is the run's without the ceilings over it.
pub(super) fn facts(policy: &policies::Policy, grants: &Grants, request: &Request, passed: Vec<String>) -> Facts {
    let Request { argv, host, .. } = request;
    let filesystem = &grants.filesystem;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let places = |lists: &[&Vec<PathPattern>]| -> Vec<String> {
        let patterns = lists.iter().flat_map(|list| list.iter());
        let found = patterns.flat_map(|pattern| lower::resolve(pattern, host));
        let copied_home = (filesystem.home == Home::CopyOnWrite).then(|| host.home.clone());
        found.chain(copied_home).map(|path| text(&path)).collect()
    };
    let policies::Filesystem {
        read,
        execute,
        write,
        copy_on_write,
        ..
    } = filesystem;
    let hidden = lower::hidden(grants, host)
        .map(|(_, path)| text(&path))
        .chain(host.private.iter().map(|path| text(path)));
    let command: Vec<_> = argv.iter().map(|argument| String::from_utf8_lossy(argument)).collect();
    let built_in = policies::builtin("default").map(|(_, policy)| policy);
    Facts {
        command: command.join(" "),
        policy: policy.name.clone(),
        home: text(&host.home),
        workspace: text(&host.workspace),
        repository: host.repository.as_deref().map(text),
        shown: places(&[read, execute, write, copy_on_write]),
        executable: places(&[execute]),
        changeable: places(&[write, copy_on_write]),
        presets: presets(policy),
        hidden: hidden.collect(),
        restated_hide: built_in
            .as_ref()
            .map(|built_in| more_hidden(policy, built_in))
            .unwrap_or_default(),
        restated_required: built_in
            .as_ref()
            .and_then(|built_in| restated_required(policy, built_in)),
        rules: built_in.map(|built_in| rules(policy, &built_in)).unwrap_or_default(),
        workspace_writable: filesystem.workspace == WorkspaceAccess::Write,
        tmp: filesystem.tmp,
        network: match &grants.network {
            policies::Network::None => learn::Reach::None,
            policies::Network::Loopback | policies::Network::LoopbackSilent => learn::Reach::Loopback,
            policies::Network::Host(_) => learn::Reach::Host,
        },
        refusal_port: lower::REFUSAL_PORT,
        passed,
        set: policy.environment.set.clone(),
        limits: Measures {
            wall: grants.limits.wall,
            memory_bytes: grants.limits.memory_bytes,
            processes: grants.limits.processes,
        },
        measured: Measures::default(),
    }
}

/// The protections that a file has to state for requiring what a policy does: what it states is joined with those of the built-in default,
/// but for an empty list.
fn restated_required(policy: &policies::Policy, built_in: &policies::Policy) -> Option<Vec<String>> {
    let required = &policy.protections.required;
    if required.is_empty() {
        return Some(Vec::new());
    }
    let more = required
        .iter()
        .filter(|required| !built_in.protections.required.contains(required));
    let more: Vec<_> = more.map(|required| required.name().to_owned()).collect();
    (!more.is_empty()).then_some(more)
}

/// What a policy says beside its grants, where it is other than what the built-in default says.
fn rules(policy: &policies::Policy, built_in: &policies::Policy) -> String {
    let sections = ["commands", "approvals", "audit"];
    let other = sections
        .into_iter()
        .filter(|section| policy.sections(&[section]) != built_in.sections(&[section]));
    policy.sections(&other.collect::<Vec<_>>())
}

/// What a policy hides, as patterns, that the built-in default does not: what a file states is joined with that.
fn more_hidden(policy: &policies::Policy, built_in: &policies::Policy) -> Vec<String> {
    let known = &built_in.filesystem.hide;
    let hide = policy.filesystem.hide.iter().filter(|pattern| !known.contains(pattern));
    hide.map(PathPattern::spelled).collect()
}

/// The presets that a policy gives all files and variables of.
fn presets(policy: &policies::Policy) -> Vec<String> {
    let gives =
        |key: &str| key == "environment.pass" || (key.starts_with("filesystem.") && key != "filesystem.workspace");
    let within = |name: &&&str| {
        policies::builtin(name).is_some_and(|(_, preset)| !preset.widens(policy).iter().any(|more| gives(more.key)))
    };
    policies::builtin_names()
        .iter()
        .filter(within)
        .map(|name| (*name).to_owned())
        .collect()
}
