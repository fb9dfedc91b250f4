//! Which changes of a git configuration are harmless to the git of somebody outside.
//!
//! A command in the sandbox may change its repository's configuration; the user's own git reads it later, without a
//! sandbox. [`check`] compares two contents and accepts only changes that can make no program run and send no push
//! elsewhere. Pure: bytes in, a judgement out.
//!
//! * A variable of the allow-list (`harmless.rs`) may be added and changed to a harmless value, and removed.
//! * Every other variable is kept: the old ones must all be there, in their order (the last one wins, and an empty one
//!   resets a list), and there may be no more of them.
//! * What a section is about may go or be renamed as a whole: a remote, a branch, a submodule. `git remote rename`
//!   carries along what only the user may have set there.
//! * A remote that was there before the run stays, under its name; one that has an address keeps it, and a branch that is connected to a remote stays with remotes of before.
//!
//! One comparison cannot see what two changes do together: to remove a remote and to add another of the same name is
//! harmless twice and a hijack in sum. So each new content is also compared with the one at the start of the run, by
//! [`check_run`].
//!
//! Deliberately absent: the files that a configuration includes, and other files that git reads as configuration or as
//! addresses (`config.worktree`, `.git/remotes/*`, `.git/branches/*`, `commondir`), which the caller guards.

mod harmless;
mod parse;
mod programs;
#[cfg(test)]
mod tests;
mod url;

use std::collections::{HashMap, HashSet};

use harmless::{Removal, Values};
use parse::Entry;

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub(crate) struct Refused {
    /// The variable, in git's flat spelling and fit for a terminal; `config` when the file as a whole is refused.
    pub key: String,
    /// The reason in words for people: a clause that stands alone.
    pub why: String,
}

/// What the judgement needs to know about paths; the caller resolves them.
pub(crate) struct Place<'a> {
    /// May `core.worktree` name this path (bytes as written, relative to the git directory)?
    pub worktree_allowed: &'a dyn Fn(&[u8]) -> bool,
    /// May `core.worktree` be taken away or changed where it named this path?
    pub worktree_was_its_own: &'a dyn Fn(&[u8]) -> bool,
    /// Whether the repository was made by this run: nobody relies on how it is yet.
    pub made_here: bool,
    /// Whether the repository may be without a working tree.
    pub bare_allowed: bool,
    /// May a remote or submodule be this repository on this machine? Gets the address as written: `../x`, `/x`, or
    /// `file:///x`, in the last of which there are no `%` codes.
    pub local_url_allowed: &'a dyn Fn(&[u8]) -> bool,
}

/// Says whether git outside may read `new` where it read `old` (`None`: there was no configuration).
///
/// # Errors
/// The first variable that may not be what it is in `new`. A content that git could not read, that holds NUL, or that
/// is longer than 1 MiB or 16384 entries is refused as a whole.
pub(crate) fn check(old: Option<&[u8]>, new: &[u8], place: &Place<'_>) -> Result<(), Refused> {
    compare(old, new, place, Span::Change)
}

/// Says whether the changes of a run are harmless in sum: `start` is the content when it began, `new` the one that
/// [`check`] accepts as its latest change. Only adds to [`check`], never takes its place.
///
/// # Errors
/// As for [`check`].
pub(crate) fn check_run(start: Option<&[u8]>, new: &[u8], place: &Place<'_>) -> Result<(), Refused> {
    compare(start, new, place, Span::Run)
}

/// What lies between the two contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Span {
    Change,
    /// Several changes, each of them judged. In the middle of `git remote rename` a branch names what the run added and
    /// no longer exists, which only the comparison of the single change can tell from a name made up.
    Run,
}

fn compare(old: Option<&[u8]>, new: &[u8], place: &Place<'_>, span: Span) -> Result<(), Refused> {
    let whole = |why: String| Refused {
        key: "config".to_owned(),
        why,
    };
    let old = parse::parse(old.unwrap_or_default()).map_err(|error| {
        whole(format!(
            "the present configuration cannot be read: {error}; mend it first"
        ))
    })?;
    let new = parse::parse(new).map_err(|error| whole(format!("the new configuration cannot be read: {error}")))?;
    let change = Change {
        moved: Moved::between(&old, &new),
        old: Known::of(&old),
        new: Known::of(&new),
        place,
        span,
    };
    change.kept_are_kept(&old, &new)?;
    change.free_are_harmless(&old, &new)?;
    change.remotes_stay(&old)?;
    change.no_remote_is_left_dangling(&new)
}

/// The last value of a variable, given by its flat name; of a file that git cannot read, in the part before the error.
pub fn value(config: &[u8], name: &str) -> Option<Vec<u8>> {
    let (entries, _) = parse::parse_prefix(config);
    let entry = entries.into_iter().rfind(|entry| entry.name == name.as_bytes())?;
    Some(entry.value.unwrap_or_else(|| b"true".to_vec()))
}

/// All values of a variable, given by its flat name. `None` for a file that git cannot read to its end.
pub(super) fn values(config: &[u8], name: &str) -> Option<Vec<Vec<u8>>> {
    let entries = parse::parse(config).ok()?.into_iter();
    let named = entries.filter(|entry| entry.name == name.as_bytes());
    Some(named.map(|entry| entry.value.unwrap_or_default()).collect())
}

/// Whether a configuration says that there is no working tree.
pub(crate) fn is_bare(config: &[u8]) -> bool {
    value(config, "core.bare").is_some_and(|value| harmless::is_true(Some(&value)))
}

/// How many addresses a configuration gives to remotes.
pub(super) fn addresses(config: &[u8]) -> usize {
    let (entries, _) = parse::parse_prefix(config);
    let address = |entry: &&Entry| matches!(entry.parts(), (b"remote", Some(_), b"url" | b"pushurl"));
    entries.iter().filter(address).count()
}

/// Every value of a configuration that names a program, a directory of programs or more configuration, with its key:
/// so that files of the project that it names can be protected. Of a file that git cannot read, the part before the
/// error.
pub fn programs(config: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (entries, _) = parse::parse_prefix(config);
    entries
        .into_iter()
        .filter(programs::names_program)
        .map(|entry| (shown(&entry.name), entry.value.unwrap_or_default()))
        .collect()
}

/// The words of a value that names a program, without what a shell takes for quotes and signs between commands.
pub fn words(value: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let plain = |word: &[u8]| {
        word.iter()
            .copied()
            .filter(|byte| !b"'\"!;&|()".contains(byte))
            .collect()
    };
    value.split(u8::is_ascii_whitespace).map(plain)
}

/// Judges a change of configuration: what was there before, a NUL byte, what is to be there. Panics when one is accepted that makes another
/// program run than before, that would be refused if it were made once more, or that leaves a control character in a
/// refusal. For fuzzing.
pub fn try_change(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (old, new) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let nowhere = Place {
        worktree_allowed: &|_| false,
        worktree_was_its_own: &|_| false,
        made_here: false,
        bare_allowed: false,
        local_url_allowed: &|_| false,
    };
    if let Err(refused) = check(Some(old), new, &nowhere) {
        assert!(!refused.to_string().contains(char::is_control), "{refused:?}");
        return;
    }
    // What a section is about may have another name now: its programs are the same.
    let all = |config| {
        let unnamed = |(key, value): (String, Vec<u8>)| {
            let (section, last) = (key.split('.').next(), key.rsplit('.').next());
            (section.map(str::to_owned), last.map(str::to_owned), value)
        };
        programs(config).into_iter().map(unnamed).collect::<Vec<_>>()
    };
    let mut before = all(old);
    for program in all(new) {
        let known = before.iter().position(|known| *known == program);
        let known = known.unwrap_or_else(|| panic!("{program:?} was let in"));
        before.remove(known);
    }
    check(Some(new), new, &nowhere).expect("no change at all");
}

/// A name for people: nothing in it can steer a terminal.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(200)
        .collect()
}

fn refuse<T>(entry: &Entry, why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused {
        key: shown(&entry.name),
        why: why.into(),
    })
}

/// The sections whose subsections come and go as a whole.
const WHOLE: [&[u8]; 3] = [b"remote", b"branch", b"submodule"];

type Subsection<'a> = (&'a [u8], &'a [u8]);

fn whole_subsection(entry: &Entry) -> Option<Subsection<'_>> {
    let (section, sub, _) = entry.parts();
    sub.filter(|_| WHOLE.contains(&section)).map(|sub| (section, sub))
}

fn is_kept(entry: &Entry) -> bool {
    harmless::rule(entry).is_none_or(|(_, removal)| removal == Removal::Kept)
}

/// The subsections that are no longer there, with their new names where they were only renamed.
struct Moved<'a> {
    gone: HashMap<Subsection<'a>, Option<&'a [u8]>>,
}

impl<'a> Moved<'a> {
    fn between(old: &'a [Entry], new: &'a [Entry]) -> Self {
        let (before, after) = (kept_by_subsection(old), kept_by_subsection(new));
        let mut fresh: Vec<Subsection<'a>> = Vec::new();
        let mut seen = HashSet::new();
        for sub in new.iter().filter_map(whole_subsection) {
            if !before.contains_key(&sub) && seen.insert(sub) {
                fresh.push(sub);
            }
        }
        let mut gone = HashMap::new();
        for sub in old.iter().filter_map(whole_subsection) {
            if after.contains_key(&sub) || gone.contains_key(&sub) {
                continue;
            }
            // Same kind, same kept variables with the same values in the same order.
            let kept = &before[&sub];
            let twin = fresh
                .iter()
                .position(|twin| twin.0 == sub.0 && !kept.is_empty() && after[twin] == *kept);
            gone.insert(sub, twin.map(|at| fresh.remove(at).1));
        }
        Moved { gone }
    }

    /// What the remote is called now, or `None` for one that was removed.
    fn remote_now<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]>
    where
        'a: 'n,
    {
        match self.gone.get(&(&b"remote"[..], name)) {
            None => Some(name),
            Some(renamed) => *renamed,
        }
    }
}

type Kept<'a> = Vec<(&'a [u8], &'a Option<Vec<u8>>)>;

fn kept_by_subsection(entries: &[Entry]) -> HashMap<Subsection<'_>, Kept<'_>> {
    let mut all: HashMap<_, Kept<'_>> = HashMap::new();
    for entry in entries {
        if let Some(sub) = whole_subsection(entry) {
            let kept = all.entry(sub).or_default();
            if is_kept(entry) {
                kept.push((entry.parts().2, &entry.value));
            }
        }
    }
    all
}

/// What one of the two contents says about remotes and branches.
struct Known<'a> {
    names: HashSet<&'a [u8]>,
    /// Addresses by remote.
    remotes: HashMap<&'a [u8], Vec<&'a [u8]>>,
    /// Remotes that fetch something, and whether all of it is into the same places: what a mirror does.
    fetching: HashMap<&'a [u8], bool>,
    /// Branches that are connected to a remote.
    connected: HashSet<&'a [u8]>,
}

impl<'a> Known<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let mut known = Known {
            names: HashSet::new(),
            remotes: HashMap::new(),
            fetching: HashMap::new(),
            connected: HashSet::new(),
        };
        for entry in entries {
            known.names.insert(&entry.name);
            match entry.parts() {
                (b"remote", Some(remote), key) => {
                    let addresses = known.remotes.entry(remote).or_default();
                    if matches!(key, b"url" | b"pushurl") {
                        addresses.push(entry.text());
                    } else if key == b"fetch" {
                        *known.fetching.entry(remote).or_insert(true) &= entry.text() == b"+refs/*:refs/*";
                    }
                }
                (b"branch", Some(branch), b"remote" | b"pushremote" | b"merge") => {
                    known.connected.insert(branch);
                }
                _ => {}
            }
        }
        known
    }

    /// Git takes the name of a remote without an address for a path, and a repository there would run its hooks.
    fn is_remote(&self, name: &[u8]) -> bool {
        self.remotes.get(name).is_some_and(|addresses| !addresses.is_empty())
    }

    fn is_network_remote(&self, name: &[u8]) -> bool {
        self.remotes.get(name).is_some_and(|addresses| {
            !addresses.is_empty()
                && addresses
                    .iter()
                    .all(|address| url::read(address) == Ok(url::Address::Network))
        })
    }
}

struct Change<'a, 'p> {
    moved: Moved<'a>,
    old: Known<'a>,
    new: Known<'a>,
    place: &'p Place<'p>,
    span: Span,
}

impl Change<'_, '_> {
    /// The kept variables of `old` are a subsequence of those of `new`, and what `new` has besides is allowed.
    fn kept_are_kept(&self, old: &[Entry], new: &[Entry]) -> Result<(), Refused> {
        const GONE: &str = "a sandboxed command may not remove, change or reorder this variable";
        let expected = || {
            old.iter()
                .filter(|entry| is_kept(entry))
                .filter_map(|entry| self.under_new_name(entry))
        };
        // Said first, because the entries after a missing one match nothing and would be blamed for it.
        if let Some(gone) = expected().find(|entry| !self.new.names.contains(entry.name.as_slice())) {
            return refuse(&gone, GONE);
        }
        let mut expected = expected().peekable();
        for entry in new.iter().filter(|entry| is_kept(entry)) {
            if expected.peek() == Some(entry) {
                expected.next();
            } else {
                self.may_be_added(entry)?;
            }
        }
        match expected.next() {
            None => Ok(()),
            Some(entry) => refuse(&entry, GONE),
        }
    }

    /// An old entry as it has to be in the new content; `None` when its whole subsection was removed.
    fn under_new_name(&self, entry: &Entry) -> Option<Entry> {
        let renamed = whole_subsection(entry).and_then(|sub| self.moved.gone.get(&sub));
        match renamed {
            None => Some(entry.clone()),
            Some(None) => None,
            Some(Some(now)) => {
                let (section, _, key) = entry.parts();
                Some(Entry {
                    name: [section, b".", now, b".", key].concat(),
                    value: entry.value.clone(),
                })
            }
        }
    }

    /// Free variables may go, and may come with a harmless value, in any order and number.
    fn free_are_harmless(&self, old: &[Entry], new: &[Entry]) -> Result<(), Refused> {
        let mut before: HashMap<&Entry, usize> = HashMap::new();
        for entry in old.iter().filter(|entry| !is_kept(entry)) {
            *before.entry(entry).or_default() += 1;
        }
        for entry in new.iter().filter(|entry| !is_kept(entry)) {
            match before.get_mut(entry) {
                Some(count) if *count > 0 => *count -= 1,
                _ => self.may_be_added(entry)?,
            }
        }
        let gone = old.iter().find(|entry| {
            before.get(entry).is_some_and(|&count| count > 0)
                && matches!(harmless::rule(entry), Some((Values::Worktree, _)))
                && !(self.place.worktree_was_its_own)(entry.text())
        });
        gone.map_or(Ok(()), |entry| {
            refuse(
                entry,
                "it says where the working tree is, and that place is not this run's",
            )
        })
    }

    /// What a remote of the run's start is called can be given to another one by nobody: not by this run, which the comparison sees, and not by
    /// the next one, which would find the name free.
    fn remotes_stay(&self, old: &[Entry]) -> Result<(), Refused> {
        if self.span != Span::Run {
            return Ok(());
        }
        let gone = old.iter().find(|entry| match entry.parts() {
            (b"remote", Some(remote), b"url" | b"pushurl") => self.old.is_remote(remote) && !self.new.is_remote(remote),
            _ => false,
        });
        gone.map_or(Ok(()), |entry| {
            refuse(
                entry,
                "a sandboxed command may neither remove nor rename a remote that was there before it",
            )
        })
    }

    /// A branch that pulls from a remote by a name that no longer is one takes the name for a path, and a repository
    /// there would run its hooks.
    fn no_remote_is_left_dangling(&self, new: &[Entry]) -> Result<(), Refused> {
        for entry in new {
            let names_remote = matches!(
                entry.parts(),
                (b"branch", Some(_), b"remote" | b"pushremote") | (b"remote", None, b"pushdefault")
            );
            if names_remote && self.moved.remote_now(entry.text()).is_none() {
                return refuse(entry, "it names a remote that this change removes");
            }
        }
        Ok(())
    }

    /// Judges an entry that was not there before.
    fn may_be_added(&self, entry: &Entry) -> Result<(), Refused> {
        let Some((values, removal)) = harmless::rule(entry) else {
            let why = programs::effect(entry).unwrap_or("it is not among the variables a sandboxed command may change");
            return refuse(entry, why);
        };
        let (section, sub, _) = entry.parts();
        if !harmless::is_harmless(values, entry.value.as_deref()) {
            let why = match programs::effect(entry) {
                Some(effect) => format!("{effect} with this value"),
                None => "it may not have this value".to_owned(),
            };
            return refuse(entry, why);
        }
        if removal == Removal::Kept && self.old.names.contains(entry.name.as_slice()) {
            return refuse(entry, "it is set already, and a sandboxed command may not change it");
        }
        let name_is_good = match section {
            b"remote" => sub.is_none_or(harmless::is_remote_name),
            b"branch" | b"submodule" => sub.is_none_or(harmless::is_plain_name),
            _ => true,
        };
        if !name_is_good {
            return refuse(entry, "the name in this variable can be taken for an option or a path");
        }
        self.fits(entry, values)
    }

    /// What a value's text alone does not show.
    fn fits(&self, entry: &Entry, values: Values) -> Result<(), Refused> {
        let value = entry.text();
        let (section, sub, _) = entry.parts();
        let sub = sub.unwrap_or_default();
        // git clone --mirror writes the refspec before it says that the remote is a mirror.
        let can_be_mirror = section == b"remote" && *self.old.fetching.get(sub).unwrap_or(&true);
        match values {
            Values::Address => {
                // A remote made of a push address alone would be given its first fetch address here: changed, not made.
                if section == b"remote" && self.old.is_remote(sub) {
                    return refuse(
                        entry,
                        "the remote has an address already, and a sandboxed command may not add another",
                    );
                }
                match url::read(value) {
                    Ok(url::Address::Network) => Ok(()),
                    Ok(url::Address::Local(path)) if (self.place.local_url_allowed)(path) => Ok(()),
                    Ok(url::Address::Local(_)) => refuse(entry, "it names a place on this machine outside this run's"),
                    Err(why) => refuse(entry, why),
                }
            }
            Values::Refspec if !harmless::is_refspec(value, can_be_mirror) => refuse(
                entry,
                "a remote may fetch into refs/remotes/, refs/tags/ and the like only",
            ),
            Values::Mirror if !can_be_mirror => refuse(entry, "a push would delete what the remote has besides"),
            Values::Promisor if !self.new.is_network_remote(sub) => refuse(
                entry,
                "git would start a transfer by itself from a remote that is not reached by network",
            ),
            Values::PromisorRemote if !self.new.is_network_remote(value) => {
                refuse(entry, "it must name a remote that is reached by network")
            }
            Values::Worktree if !(self.place.worktree_allowed)(value) => {
                refuse(entry, "it names a working tree outside this run's")
            }
            Values::Bare if harmless::is_true(entry.value.as_deref()) && !self.place.bare_allowed => refuse(
                entry,
                "the repository has a working tree, and git would not find it any more",
            ),
            Values::Shared if !self.place.made_here => {
                refuse(entry, "it decides who may write a repository that was there before")
            }
            Values::Remote => {
                let connected = section == b"branch" && self.old.connected.contains(sub);
                self.may_connect(entry, connected)
            }
            // With no remote before there was nowhere to push to, and so nothing to be turned away.
            Values::PushRemote => self.may_connect(entry, !self.old.remotes.is_empty()),
            _ => Ok(()),
        }
    }

    /// `only_old`: the value must be a remote of before, also under a new name.
    fn may_connect(&self, entry: &Entry, only_old: bool) -> Result<(), Refused> {
        let remote = entry.text();
        let of_before = || {
            self.old.is_remote(remote)
                || self
                    .moved
                    .gone
                    .iter()
                    .any(|(sub, now)| sub.0 == b"remote" && *now == Some(remote))
        };
        if remote == b"." || of_before() {
            Ok(())
        } else if !self.new.is_remote(remote) {
            if self.span == Span::Run {
                return Ok(());
            }
            refuse(entry, "it names no remote that has an address in this repository")
        } else if only_old {
            refuse(entry, "the next push would go to a remote that was not there before")
        } else {
            Ok(())
        }
    }
}
