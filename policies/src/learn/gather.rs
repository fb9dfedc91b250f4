//! From observations to grants.

use std::collections::{BTreeMap, BTreeSet};

use super::places::{self, Place, is_hidden, may_be_whole, parent, within, written};
use super::{Facts, Observation, Purpose, Reach, Target, Watched};

/// So many entries of a directory may be granted each by itself; with more, the directory is.
const SIBLINGS: usize = 6;

/// Names of programs that are kept for one grant.
const PROGRAMS: usize = 3;

/// Notes of one kind, at most; the rest is counted.
const NOTES: usize = 12;

/// What is granted of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Read,
    Execute,
    CopyOnWrite,
}

/// A path that is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub kind: Kind,
    /// Whether something of it was executed, or mapped to be.
    pub executed: bool,
    /// Who asked for it.
    pub programs: BTreeSet<String>,
    /// Whether what was asked for is below it, and not it.
    pub whole: bool,
}

/// What a proposal says.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// By path.
    pub grants: BTreeMap<String, Grant>,
    /// Who wrote into the workspace.
    pub workspace_written: BTreeSet<String>,
    /// Who used `/tmp`.
    pub tmp: BTreeSet<String>,
    /// Who used loopback.
    pub loopback: BTreeSet<String>,
    /// Ports of other hosts, with who connected to them, where the machine's network was given.
    pub ports: BTreeMap<u16, BTreeSet<String>>,
    /// Ports of the machine that were listened on.
    pub listened: BTreeMap<u16, BTreeSet<String>>,
    /// Whether the profile `strict` was not enough.
    pub default_profile: bool,
    /// The programs that were executed.
    pub executed: BTreeSet<String>,
    /// For people.
    pub notes: Vec<String>,
}

/// Everything that a path was asked for for.
#[derive(Debug, Default)]
struct Asked {
    purposes: BTreeSet<Purpose>,
    existed: bool,
    directory: bool,
    programs: BTreeSet<String>,
}

pub(super) fn gather(facts: &Facts, watched: &Watched, proofs: &[Watched]) -> Gathered {
    let mut gathered = Gathered {
        default_profile: proofs.iter().any(|proof| proof.missed_calls),
        ..Gathered::default()
    };
    let asked = by_path(&watched.observations);
    let missed = missed(&asked, proofs, facts);
    let mut notes = Notes::default();
    let executed = asked
        .iter()
        .filter(|(_, asked)| asked.existed && asked.purposes.contains(&Purpose::Execute));
    gathered.executed = executed.map(|(path, _)| name_of(path).to_owned()).collect();
    for (path, asked) in &asked {
        one_path(
            path,
            asked,
            missed.contains(path.as_str()),
            facts,
            &mut gathered,
            &mut notes,
        );
    }
    generalise(&mut gathered.grants, &asked, facts);
    // Most caches are content to be read only. Which are not, a proof shows.
    if !proofs.is_empty() {
        copy_on_write(&asked, proofs, facts, &mut gathered.grants);
    }
    gathered
        .grants
        .retain(|path, _| places::is_shown(path, facts) && !is_hidden(path, facts));
    addresses(&watched.observations, facts, &mut gathered, &mut notes);
    if proofs.iter().any(|proof| proof.missed_network) && facts.network >= Reach::Loopback {
        gathered.loopback.insert("a run under an earlier proposal".to_owned());
    }
    let unnamed = watched
        .observations
        .iter()
        .filter(|observation| match &observation.target {
            Target::Path(path) => !can_be_written(path),
            Target::Address(_) => false,
        });
    let unnamed = unnamed.count();
    if unnamed > 0 {
        let things = if unnamed == 1 { "thing was" } else { "things were" };
        notes.always.push(format!(
            "{unnamed} {things} asked for whose names no policy can hold: they have `*`, `?`, `${{` or control characters"
        ));
    }
    if watched.lost > 0 {
        notes.always.push(format!(
            "{} more paths were asked for than are kept: the proposal may lack some; try a smaller command",
            watched.lost
        ));
    }
    gathered.notes = notes.lines();
    gathered
}

fn by_path(observations: &[Observation]) -> BTreeMap<String, Asked> {
    let mut paths: BTreeMap<String, Asked> = BTreeMap::new();
    for observation in observations {
        let Target::Path(path) = &observation.target else {
            continue;
        };
        if !can_be_written(path) {
            continue;
        }
        let asked = paths.entry(path.clone()).or_insert_with(|| Asked {
            existed: observation.existed,
            directory: observation.directory,
            ..Asked::default()
        });
        asked.purposes.insert(observation.purpose);
        if asked.programs.len() < PROGRAMS && !observation.program.is_empty() {
            asked.programs.insert(observation.program.clone());
        }
    }
    paths
}

/// What was there in the first run and not in one that should have passed; where that says nothing, and from the second such run on,
/// everything that was looked at.
fn missed<'a>(asked: &'a BTreeMap<String, Asked>, proofs: &[Watched], facts: &Facts) -> BTreeSet<&'a str> {
    let mut missed = BTreeSet::new();
    for proof in proofs {
        for (path, then) in by_path(&proof.observations) {
            if let Some((path, first)) = asked.get_key_value(&path)
                && first.existed
                && !then.existed
            {
                missed.insert(path.as_str());
            }
        }
    }
    if proofs.len() > 1 || (!proofs.is_empty() && missed.is_empty()) {
        missed.extend(
            asked
                .iter()
                .filter(|(_, asked)| asked.existed)
                .map(|(path, _)| path.as_str()),
        );
    }
    missed.retain(|path| !within(&facts.workspace, path) && !within(&facts.home, path));
    missed
}

fn one_path(path: &str, asked: &Asked, missed: bool, facts: &Facts, gathered: &mut Gathered, notes: &mut Notes) {
    let has = |purpose| asked.purposes.contains(&purpose);
    let writes = has(Purpose::Write);
    let only_looked = asked.purposes.iter().all(|purpose| *purpose == Purpose::Look);
    match places::place(path, facts) {
        Place::Own => {}
        Place::Workspace if writes => join(&mut gathered.workspace_written, &asked.programs),
        Place::Workspace => {}
        Place::Tmp if writes || (asked.existed && !only_looked) => join(&mut gathered.tmp, &asked.programs),
        Place::Tmp => {}
        Place::Hidden if only_looked => {}
        Place::Hidden => notes.hidden.push(line(path, asked, facts)),
        Place::Absent => {
            // Who looks for a project's settings or modules asks in every directory above it.
            let above = |path| within(&facts.workspace, parent(path));
            let asked_for = path.split("/node_modules/").next().unwrap_or(path);
            let upwards = within(&facts.workspace, path)
                || above(path)
                || above(parent(path))
                || within(&facts.workspace, asked_for);
            // A program that was found elsewhere was only looked for here.
            let searched = gathered.executed.contains(name_of(path));
            if !only_looked && !upwards && !searched {
                notes.absent.push(line(path, asked, facts));
            }
        }
        Place::Tree(_) | Place::Single if !asked.existed => {
            if writes && !within(path, &facts.home) {
                notes.unwritten.push(line(path, asked, facts));
            }
        }
        Place::Tree(tree) => {
            // Looking at a part of a tree needs no tree: what is not there is not read either.
            if !only_looked || missed {
                grant(gathered, tree, kind(path, asked), asked, true);
            }
        }
        Place::Single if !only_looked && places::looks_secret(path) => notes.secret.push(line(path, asked, facts)),
        Place::Single => {
            if writes && !within(path, &facts.home) {
                notes.unwritten.push(line(path, asked, facts));
            }
            if only_looked && !missed {
                return;
            }
            if has(Purpose::Connect) {
                notes.sockets.push(line(path, asked, facts));
                return;
            }
            if asked.directory {
                // Who may list may read all that is in it: that is granted once a proof has shown that it is needed.
                match (may_be_whole(path, facts) && missed, has(Purpose::List) || missed) {
                    (true, true) => grant(gathered, path.to_owned(), kind(path, asked), asked, false),
                    (false, true) if !within(&facts.workspace, path) && !may_be_whole(path, facts) => {
                        notes.listed.push(line(path, asked, facts))
                    }
                    _ => {}
                }
                return;
            }
            // Never a home or what holds one, whatever it was seen to be.
            if within(&facts.home, path) || within(&facts.workspace, path) {
                return;
            }
            // What is written in the home is made anew in an empty one, and mostly that is enough: locks, caches.
            if writes && !missed {
                return;
            }
            if has(Purpose::Read) || has(Purpose::Execute) || missed {
                grant(gathered, path.to_owned(), kind(path, asked), asked, false);
            }
        }
    }
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Whether a policy can name a path: it takes no control characters, and some others stand for more than themselves.
fn can_be_written(path: &str) -> bool {
    !path.chars().any(|c| c.is_control() || c == '*' || c == '?') && !path.contains("${")
}

fn kind(path: &str, asked: &Asked) -> Kind {
    match asked.purposes.contains(&Purpose::Execute) || is_library(path) {
        true => Kind::Execute,
        false => Kind::Read,
    }
}

/// Whether a file's name is that of one that is mapped to be executed: the loader only opens it.
fn is_library(path: &str) -> bool {
    let name = name_of(path);
    let version = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    name.ends_with(".so") || name.ends_with(".node") || name.split(".so.").skip(1).any(version)
}

fn grant(gathered: &mut Gathered, path: String, kind: Kind, asked: &Asked, whole: bool) {
    let grant = gathered.grants.entry(path).or_insert_with(|| Grant {
        kind,
        executed: false,
        programs: BTreeSet::new(),
        whole,
    });
    grant.kind = grant.kind.max(kind);
    grant.executed |= kind == Kind::Execute;
    join(&mut grant.programs, &asked.programs);
}

fn join(programs: &mut BTreeSet<String>, more: &BTreeSet<String>) {
    for program in more {
        if programs.len() < PROGRAMS {
            programs.insert(program.clone());
        }
    }
}

/// Many entries of one directory become the directory, again and again; what lies below a grant of the same kind goes.
fn generalise(grants: &mut BTreeMap<String, Grant>, asked: &BTreeMap<String, Asked>, facts: &Facts) {
    let secrets: Vec<&str> = asked
        .keys()
        .map(String::as_str)
        .filter(|path| places::looks_secret(path))
        .collect();
    let holds_secret = |directory: &str| secrets.iter().any(|path| within(path, directory));
    loop {
        let mut directories: BTreeMap<&str, usize> = BTreeMap::new();
        for path in grants.keys() {
            *directories.entry(parent(path)).or_default() += 1;
        }
        let full: Vec<String> = directories
            .into_iter()
            .filter(|(directory, count)| {
                *count > SIBLINGS && may_be_whole(directory, facts) && !holds_secret(directory)
            })
            .map(|(directory, _)| directory.to_owned())
            .filter(|directory| !grants.contains_key(directory))
            .collect();
        for directory in &full {
            grants.insert(
                directory.clone(),
                Grant {
                    kind: Kind::Read,
                    executed: false,
                    programs: BTreeSet::new(),
                    whole: true,
                },
            );
        }
        absorb(grants);
        if full.is_empty() {
            return;
        }
    }
}

/// Takes what lies below a grant into it.
fn absorb(grants: &mut BTreeMap<String, Grant>) {
    let paths: Vec<String> = grants.keys().cloned().collect();
    for path in &paths {
        let above = paths
            .iter()
            .find(|above| *above != path && within(path, above) && grants.contains_key(*above));
        if let Some(above) = above
            && let Some(below) = grants.remove(path)
            && let Some(grant) = grants.get_mut(above)
        {
            grant.kind = grant.kind.max(below.kind);
            grant.executed |= below.executed;
            join(&mut grant.programs, &below.programs);
            grant.whole = true;
        }
    }
}

/// Below the home, a granted directory that was also written needs its changes to be possible; they vanish with the sandbox.
fn copy_on_write(
    asked: &BTreeMap<String, Asked>,
    proofs: &[Watched],
    facts: &Facts,
    grants: &mut BTreeMap<String, Grant>,
) {
    let written = asked
        .iter()
        .filter(|(_, asked)| asked.purposes.contains(&Purpose::Write))
        .map(|(path, asked)| (path.as_str(), asked.programs.clone()));
    let refused = proofs
        .iter()
        .flat_map(|proof| &proof.missed_writes)
        .map(|path| (path.as_str(), BTreeSet::new()));
    for (path, programs) in written.chain(refused).filter(|(path, _)| within(path, &facts.home)) {
        let above = grants.iter_mut().find(|(granted, _)| within(path, granted));
        if let Some((_, grant)) = above {
            grant.kind = Kind::CopyOnWrite;
            join(&mut grant.programs, &programs);
        }
    }
    // A file cannot be one: its directory is.
    let files: Vec<String> = grants
        .iter()
        .filter(|(path, grant)| {
            grant.kind == Kind::CopyOnWrite && asked.get(*path).is_some_and(|asked| !asked.directory)
        })
        .map(|(path, _)| path.clone())
        .collect();
    for file in files {
        let directory = parent(&file);
        let Some(mut grant) = grants.remove(&file) else {
            continue;
        };
        if may_be_whole(directory, facts) {
            grant.whole = true;
            grants.insert(directory.to_owned(), grant);
        } else {
            grant.kind = Kind::Read;
            grants.insert(file, grant);
        }
    }
    absorb(grants);
}

fn addresses(observations: &[Observation], facts: &Facts, gathered: &mut Gathered, notes: &mut Notes) {
    for observation in observations {
        let Target::Address(address) = &observation.target else {
            continue;
        };
        let listens = observation.purpose == Purpose::Bind;
        let own = address.ip().is_loopback() || address.ip().is_unspecified();
        let programs: BTreeSet<_> = [observation.program.clone()]
            .into_iter()
            .filter(|name| !name.is_empty())
            .collect();
        match facts.network {
            // Nobody listens on a port of the machine by binding a socket to none.
            Reach::Host if listens && address.port() != 0 => {
                join(gathered.listened.entry(address.port()).or_default(), &programs);
            }
            Reach::Host if !listens && address.port() != 0 => {
                join(gathered.ports.entry(address.port()).or_default(), &programs);
            }
            Reach::Loopback if own => join(&mut gathered.loopback, &programs),
            Reach::Loopback | Reach::None if !listens => {
                notes.hosts.push(format!("{address} ({})", names(&programs)));
            }
            _ => {}
        }
    }
}

fn line(path: &str, asked: &Asked, facts: &Facts) -> String {
    format!("{} ({})", plain(&written(path, facts)), names(&asked.programs))
}

/// Names for people, in order.
pub(super) fn names(programs: &BTreeSet<String>) -> String {
    let names: Vec<_> = programs.iter().map(|name| plain(name)).collect();
    match names.is_empty() {
        true => "the command itself".to_owned(),
        false => names.join(", "),
    }
}

/// Without what could make a line two, or move the cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What is told of what was asked for.
#[derive(Default)]
struct Notes {
    hidden: Vec<String>,
    secret: Vec<String>,
    absent: Vec<String>,
    unwritten: Vec<String>,
    listed: Vec<String>,
    sockets: Vec<String>,
    hosts: Vec<String>,
    always: Vec<String>,
}

impl Notes {
    fn lines(self) -> Vec<String> {
        let kinds = [
            ("a secret, and never proposed", self.hidden),
            ("called like a secret: add it yourself if it is none", self.secret),
            ("not shown by the policy that it was watched under", self.absent),
            (
                "to be written outside workspace and home, which nothing lets it",
                self.unwritten,
            ),
            ("to be listed, and holds too much to be given whole", self.listed),
            ("a socket outside the sandbox", self.sockets),
            ("a host outside the sandbox", self.hosts),
        ];
        let mut lines = Vec::new();
        for (what, found) in kinds {
            let more = found.len().saturating_sub(NOTES);
            lines.extend(
                found
                    .into_iter()
                    .take(NOTES)
                    .map(|found| format!("asked for, not proposed: {found}: {what}")),
            );
            if more > 0 {
                lines.push(format!("asked for, not proposed: {more} more: {what}"));
            }
        }
        lines.extend(self.always);
        lines
    }
}
