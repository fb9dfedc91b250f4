//! What is left of a policy under a ceiling: the meet of two policies. No way of writing the lower one exceeds the ceiling.

use crate::builtin;
use crate::environment::pass_covers;
use crate::model::{
    Approvals, Audit, Environment, Filesystem, Home, Limits, NetworkMode, PathPattern, Policy, Protection, Protections,
    Syscalls, WorkspaceAccess,
};
use crate::statement::Value;

/// More names to be kept from change than this are not written out one by one: what they lie in is not given then.
const MAX_KEPT: usize = 1 << 16;

impl Policy {
    /// The policy under a ceiling: what both give, with the restrictions of both. Name and description stay.
    ///
    /// Grants are cut to what surely lies inside the ceiling's: of two wildcards, and of two paths that begin with different variables, that
    /// is not sure, and nothing is given. Variables that either sets are set, the ceiling's value before the policy's: a request may set its
    /// own anyway.
    ///
    /// Everything that the result [allows](Policy::allows), both allow; the sandbox's own loopback counts as a part of the machine's network.
    #[must_use]
    pub fn narrowed_by(&self, ceiling: &Policy) -> Policy {
        let permitted = |name: &&String| self.calls(name) && ceiling.calls(name);
        let calls = joined(&self.syscalls.allow, &ceiling.syscalls.allow);
        let network = self.network.within(&ceiling.network);
        let mut required = joined(&self.protections.required, &ceiling.protections.required);
        // One of them may have given up the protection of the network for the machine's own, which the other does not give.
        if network.mode() != NetworkMode::Host && !required.is_empty() {
            required = joined(&required, &of_default());
        }
        let mut preferred = joined(&self.protections.preferred, &ceiling.protections.preferred);
        preferred.retain(|protection| !required.contains(protection));
        let mut set = self.environment.set.clone();
        set.extend(ceiling.environment.set.clone());
        Policy {
            name: self.name.clone(),
            description: self.description.clone(),
            tools: self
                .tools
                .iter()
                .filter(|tool| ceiling.tools.contains(tool))
                .copied()
                .collect(),
            filesystem: self.filesystem_under(ceiling),
            network,
            syscalls: Syscalls {
                profile: self.syscalls.profile.min(ceiling.syscalls.profile),
                allow: calls.iter().filter(permitted).cloned().collect(),
                deny: joined(&self.syscalls.deny, &ceiling.syscalls.deny),
            },
            limits: self.limits.within(&ceiling.limits),
            environment: Environment {
                pass: meet(&self.environment.pass, &ceiling.environment.pass, |a, b| {
                    pass_covers(a, b)
                }),
                never: joined(&self.environment.never, &ceiling.environment.never),
                remove: joined(&self.environment.remove, &ceiling.environment.remove),
                set,
            },
            protections: Protections { required, preferred },
            commands: self.commands.under(&ceiling.commands),
            approvals: Approvals {
                wait: self.approvals.wait.min(ceiling.approvals.wait),
                own: self.approvals.own.min(ceiling.approvals.own),
            },
            audit: Audit {
                arguments: self.audit.arguments.min(ceiling.audit.arguments),
            },
            digest: self.digest,
        }
        .with_digest()
    }

    fn filesystem_under(&self, ceiling: &Policy) -> Filesystem {
        let (own, above) = (Given::of(self), Given::of(ceiling));
        let (a, b) = (&self.filesystem, &ceiling.filesystem);
        let workspace = a.workspace.min(b.workspace);
        let home = a.home.min(b.home);
        let in_workspace = PathPattern::Workspace(String::new());
        let in_home = (home == Home::CopyOnWrite).then(|| PathPattern::Home(String::new()));

        let mut write = meet(&own.write, &above.write, PathPattern::covers);
        let written = (workspace == WorkspaceAccess::Write).then(|| in_workspace.clone());
        drop_covered(&mut write, written.as_slice());
        let mut copy_on_write = meet(&own.copied, &above.copied, PathPattern::covers);
        drop_covered(
            &mut copy_on_write,
            &[&write[..], written.as_slice(), in_home.as_slice()].concat(),
        );
        let mut execute = meet(&own.execute, &above.execute, PathPattern::covers);
        drop_covered(&mut execute, &[&[in_workspace][..], in_home.as_slice()].concat());
        let mut read = meet(&own.read, &above.read, PathPattern::covers);
        let more = [
            &write[..],
            &copy_on_write,
            &execute,
            written.as_slice(),
            in_home.as_slice(),
        ]
        .concat();
        drop_covered(&mut read, &more);
        drop_covered(&mut read, &[PathPattern::Workspace(String::new())]);

        let mut read_only = joined(&a.read_only, &b.read_only);
        let tmp = a.tmp && b.tmp;
        let own_places = ["/run", "/tmp", "/var/tmp", "/dev", "/proc", "/sys"];
        let own_places = own_places.map(|path| PathPattern::Absolute(path.to_owned()));
        let reached = [
            &write[..],
            &copy_on_write,
            written.as_slice(),
            in_home.as_slice(),
            &own_places,
        ]
        .concat();
        let kept = [self, ceiling].into_iter().try_fold(Vec::new(), |mut kept, policy| {
            policy.keep(&write, workspace, &reached, &mut kept).then_some(kept)
        });
        match kept {
            Some(kept) => read_only = joined(&read_only, &kept),
            None => {
                write.clear();
                copy_on_write.clear();
            }
        }
        Filesystem {
            workspace,
            home,
            execute,
            read,
            write,
            copy_on_write,
            tmp,
            hide: joined(&a.hide, &b.hide),
            read_only,
            protect: joined(&a.protect, &b.protect),
            git: a.git.min(b.git),
            shm_bytes: a.shm_bytes.min(b.shm_bytes),
        }
    }

    /// Protected names are relative to what is written. Where less is written than this policy gives, what it protects in the rest is kept
    /// as paths that are read-only. False: these are too many.
    fn keep(
        &self,
        write: &[PathPattern],
        workspace: WorkspaceAccess,
        reached: &[PathPattern],
        kept: &mut Vec<PathPattern>,
    ) -> bool {
        let whole = PathPattern::Workspace(String::new());
        let stays = |root: &PathPattern| write.contains(root) || *root == whole && workspace == WorkspaceAccess::Write;
        let roots: Vec<PathPattern> = self.written_roots().filter(|root| !stays(root)).collect();
        let protect = &self.filesystem.protect;
        if roots.len().saturating_mul(protect.len()).saturating_mul(reached.len()) > MAX_KEPT * 16
            || roots.len().saturating_mul(protect.len()) > MAX_KEPT
        {
            return false;
        }
        for root in &roots {
            let paths = protect.iter().map(|name| root.join(name));
            kept.extend(paths.filter(|path| reached.iter().any(|place| place.may_hold(path) || path.may_hold(place))));
        }
        true
    }
}

/// What `default` requires: a policy that requires anything requires that.
fn of_default() -> Vec<Protection> {
    let stated = builtin::default_file().statements();
    let protection = |value: &Value| match value {
        Value::Word(word) => Protection::of(word),
        _ => None,
    };
    stated.values("protections.required").filter_map(protection).collect()
}

/// What a policy gives of the file tree, with what `workspace` and `home` give as paths.
pub(crate) struct Given {
    pub(crate) read: Vec<PathPattern>,
    pub(crate) execute: Vec<PathPattern>,
    pub(crate) write: Vec<PathPattern>,
    /// What can be written at all, for good or not.
    pub(crate) copied: Vec<PathPattern>,
}

impl Given {
    pub(crate) fn of(policy: &Policy) -> Given {
        let fs = &policy.filesystem;
        let workspace = PathPattern::Workspace(String::new());
        let home = (fs.home == Home::CopyOnWrite).then(|| PathPattern::Home(String::new()));
        let write: Vec<_> = policy.written_roots().collect();
        let copied = [&fs.copy_on_write[..], &write, home.as_slice()].concat();
        let execute = [&fs.execute[..], &[workspace], home.as_slice()].concat();
        let read = [&fs.read[..], &copied, &execute].concat();
        Given {
            read,
            execute,
            write,
            copied,
        }
    }
}

impl Limits {
    fn within(&self, other: &Limits) -> Limits {
        Limits {
            wall: least(self.wall, other.wall),
            idle: least(self.idle, other.idle),
            cpu_time: least(self.cpu_time, other.cpu_time),
            grace: self.grace.min(other.grace),
            memory_bytes: least(self.memory_bytes, other.memory_bytes),
            processes: least(self.processes, other.processes),
            cpu_millis: least(self.cpu_millis, other.cpu_millis),
            // Each soft limit is at most its hard one, so the lesser ones are as well.
            open_files_soft: self.open_files_soft.min(other.open_files_soft),
            open_files_hard: self.open_files_hard.min(other.open_files_hard),
            file_bytes: least(self.file_bytes, other.file_bytes),
            disk_bytes: least(self.disk_bytes, other.disk_bytes),
            files: least(self.files, other.files),
            output_bytes: least(self.output_bytes, other.output_bytes),
        }
    }
}

/// The lesser bound, none being unlimited.
fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

/// Both lists together, sorted.
fn joined<T: Ord + Clone>(a: &[T], b: &[T]) -> Vec<T> {
    let mut all = [a, b].concat();
    all.sort();
    all.dedup();
    all
}

/// Of each pair the one that lies in the other. Sorted, without what lies in another entry.
fn meet<T: Ord + Clone>(a: &[T], b: &[T], covers: impl Fn(&T, &T) -> bool) -> Vec<T> {
    let below = |inner: &[T], outer: &[T]| -> Vec<T> {
        let covered = inner
            .iter()
            .filter(|item| outer.iter().any(|above| covers(above, item)));
        covered.cloned().collect()
    };
    let mut met = joined(&below(a, b), &below(b, a));
    let all = met.clone();
    met.retain(|item| !all.iter().any(|other| other != item && covers(other, item)));
    met
}

fn drop_covered(list: &mut Vec<PathPattern>, by: &[PathPattern]) {
    list.retain(|item| !by.iter().any(|outer| outer.covers(item)));
}
