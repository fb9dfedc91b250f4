//! Protected paths: what must not change in a tree that the command may write.
//!
//! A project holds files by which programs *outside* are made to run something: git's hooks and configuration, settings of editors and agents.
//! No layer of the kernel's can except names from a writable tree, least of all names that do not exist yet. Mounting over them
//! makes git fail half-way (it replaces its files by rename) and leaves stubs behind. So the tree is mounted read-only for the command, and
//! the calls that would change it wait in the kernel (seccomp user notification) until init, which alone holds the tree's writable
//! mount, has carried them out, or refused to.
//!
//! Init never lets such a call go on by itself after a look at its arguments, which another thread might change meanwhile: it makes
//! the change and answers with the result, or for open(2) with the descriptor. What lies outside guarded trees goes on in the kernel;
//! were it to lead into one after all, it would meet the read-only mount. What init does not know how to do fails the same way.
//!
//! ```text
//! caller.rs     the waiting call's memory, working directory, descriptors
//! place.rs      where its paths lead
//! rules.rs      what may change there
//! repository.rs configuration of git repositories: read, judged, written anew
//! gitconfig.rs  which configuration is harmless
//! roots.rs      repositories that are met on the way, and what theirs names
//! state.rs      what git notes about something unfinished
//! aliases.rs    protected files that have other names as well
//! drafts.rs     configuration that a program writes itself
//! locks.rs      one change at a time, also beside other sandboxes
//! act.rs        the change itself
//! ```

mod act;
mod aliases;
mod caller;
mod drafts;
mod gitconfig;
mod index;
mod locks;
mod place;
mod repository;
mod roots;
mod rules;
mod state;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;

use crate::seccomp::{Arch, Call};
use crate::spec::Guard as Spec;
use crate::sys::notify::{self, Answer, Notification};
pub(crate) use act::WATCHED;
use act::{Done, Operation};
use aliases::Aliases;
pub(crate) use caller::{Caller, of_caller};
use drafts::Drafts;
pub use gitconfig::{programs as named_programs, try_change, value, words};
use locks::Locks;
pub(crate) use place::Tree;
use repository::Started;
use roots::Roots;
use rules::Rules;

/// Guards the trees of a sandbox.
#[derive(Debug)]
pub(crate) struct Guard {
    trees: Vec<Tree>,
    locks: Locks,
    rules: Rules,
    started: Started,
    aliases: Aliases,
    /// `None` where there can be no watch on files: such files are not opened for writing then.
    drafts: Option<Drafts>,
}

/// A change that was refused, for the one whom it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What was to be changed, as seen inside.
    pub path: PathBuf,
    /// The rule.
    pub rule: String,
    /// Whether it is what had been written already, which whoever wrote it was not told.
    pub dropped: bool,
}

/// The rule for what lies under another mount of the view.
const COVERED: &str = "the sandbox has something else mounted there";

impl Guard {
    /// A guard of trees as they are now: what their repositories' configuration names is looked up here. `locks` is the file that sandboxes
    /// with the same trees share.
    pub(crate) fn new(spec: &Spec, mut trees: Vec<Tree>, locks: Option<OwnedFd>) -> Guard {
        for tree in &mut trees {
            tree.find_covered();
            tree.repository = rules::is_repository_root(tree);
        }
        let outside = match spec.git {
            true => spec.programs.as_slice(),
            false => &[],
        };
        // As they are spelled, and where that leads.
        let spelled = |key: &'static str, paths: &[PathBuf]| -> Vec<(PathBuf, String)> {
            let both = paths.iter().flat_map(|path| {
                let real = std::fs::canonicalize(path).ok().filter(|real| real != path);
                [Some(path.clone()), real]
                    .into_iter()
                    .flatten()
                    .map(move |found| (found, path))
            });
            both.map(|(found, path)| (found, format!("{key}: {}", path.display())))
                .collect()
        };
        let mut restricted = spelled("filesystem.read-only", &spec.read_only);
        restricted.extend(spelled("filesystem.hide", &spec.hidden));
        let restricted = |tree: usize| {
            let Tree {
                path: root, covered, ..
            } = &trees[tree];
            let inside = restricted.iter().filter_map(|(path, why)| {
                let inside = path.strip_prefix(root).ok()?;
                Some((inside.to_owned(), why.clone()))
            });
            // A mount moves with what it lies on, and init sees what is under it.
            let covered = covered.iter().map(|path| (path.clone(), COVERED.to_owned()));
            inside.chain(covered).collect::<Vec<_>>()
        };
        let mut aliases = Aliases::new();
        let programs = (0..trees.len())
            .map(|tree| {
                let named = repository::programs(&trees, tree, spec.git, &spec.protected, outside);
                let restricted = restricted(tree);
                for path in &spec.protected {
                    aliases.look(&trees, tree, path, &rules::by_policy(path));
                }
                for (path, why) in &named {
                    aliases.look(&trees, tree, path, why);
                }
                for (path, why) in &restricted {
                    aliases.look_at_file(&trees, tree, path, why);
                }
                if spec.git {
                    aliases.look_at_git(&trees, tree);
                }
                named.into_iter().chain(restricted).collect()
            })
            .collect();
        let mut roots = Roots::new(outside);
        if spec.git {
            (0..trees.len()).for_each(|tree| roots.meet_checkouts(&trees, tree));
        }
        Guard {
            rules: Rules::new(spec.protected.clone(), spec.git, programs, roots),
            started: Started::new(outside.iter().any(|program| program.path.is_relative())),
            aliases,
            drafts: Drafts::new().ok(),
            locks: Locks::new(locks, &trees),
            trees,
        }
    }

    /// Readable when something is to be settled.
    pub(crate) fn unsettled(&self) -> Option<BorrowedFd<'_>> {
        self.drafts.as_ref().map(Drafts::as_fd)
    }

    /// Gives what was written and closed its name, where that is harmless. Returns what was refused.
    pub(crate) fn settle(&mut self) -> Vec<Refusal> {
        let closed = self.drafts.as_mut().map(Drafts::closed).unwrap_or_default();
        let refused = closed.into_iter().filter_map(|draft| self.publish(draft)).collect();
        self.locks.release();
        refused
    }

    /// Answers a waiting call that the profile allows. Returns what was refused.
    pub(crate) fn serve(&mut self, listener: BorrowedFd<'_>, call: Notification) -> Option<Refusal> {
        let caller = Caller {
            thread: call.thread,
            listener,
            id: call.id,
        };
        let name = u32::try_from(call.number)
            .ok()
            .and_then(|number| Call::of(Arch::NATIVE, number));
        let outcome = match name.and_then(|name| Operation::read(name, call.arguments)) {
            Some(operation) => {
                let outcome = self.locks.begin().and_then(|()| self.carry_out(caller, operation));
                self.locks.release();
                outcome
            }
            None => Ok(Done::Elsewhere),
        };
        let (answer, refusal) = match outcome {
            Ok(Done::Opened(file, close_on_exec)) => return self.hand_over(caller, &file, close_on_exec),
            Ok(Done::Elsewhere) => (Answer::Continue, None),
            Ok(Done::Value(value)) => (Answer::Value(value), None),
            Ok(Done::Refused(refusal)) => (Answer::Error(libc::EPERM), Some(refusal)),
            Err(errno) => (Answer::Error(errno.raw_os_error()), None),
        };
        // ENOENT: the caller was killed meanwhile.
        let _ = notify::answer(listener, call.id, answer);
        refusal
    }

    fn hand_over(&self, caller: Caller<'_>, file: &OwnedFd, close_on_exec: bool) -> Option<Refusal> {
        if let Err(error) = notify::answer_with_descriptor(caller.listener, caller.id, file.as_fd(), close_on_exec) {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let _ = notify::answer(caller.listener, caller.id, Answer::Error(errno.raw_os_error()));
        }
        None
    }
}

/// Whether the guard asked for a call: others may have it wait as well, and those are none of its business.
pub(crate) fn watches(call: &Notification) -> bool {
    let name = u32::try_from(call.number)
        .ok()
        .and_then(|number| Call::of(Arch::NATIVE, number));
    let rows = WATCHED.iter().filter(|row| Some(row.call) == name);
    rows.into_iter()
        .any(|row| row.when.iter().all(|when| when.holds(&call.arguments)))
}

#[cfg(test)]
mod tests;
