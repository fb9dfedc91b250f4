//! The file trees of two policies, compared where something may change: at the paths that either of them names.
//!
//! What a policy says of a path depends only on which of its patterns match the path or something above it. So a walk along the names of
//! all patterns, with an example for each wildcard, meets every case; between those places nothing changes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Diff, Group};
use crate::allows::{Access, Facts, OWN, TMP, names_in};
use crate::error::quoted;
use crate::model::{PathPattern, Policy};
use crate::pattern::{matches_name, names_of};

/// Places times patterns: beyond that the rest is not compared. About a second.
const MAX_WORK: usize = 4 << 20;
/// Protected names of all written trees together.
const MAX_PROTECTED: usize = 1 << 14;
/// So many exceptions are told of one difference.
const MAX_EXCEPTIONS: usize = 8;

/// What may be done with a path: one bit each.
type Rights = u8;
const READ: Rights = 1;
const EXECUTE: Rights = 2;
const WRITE: Rights = 4;
const KEEP: Rights = 8;
const KINDS: [Rights; 4] = [READ, EXECUTE, WRITE, KEEP];

/// A difference that begins at a path.
struct Begins {
    path: String,
    rights: Rights,
    except: Vec<String>,
}

/// A place that is still to be visited.
struct Visit {
    path: String,
    shown: String,
    /// The patterns whose first names match it.
    alive: Vec<usize>,
    depth: usize,
    /// What each direction has more above it, and where that began.
    above: [(Rights, [Option<usize>; 4]); 2],
}

pub(super) fn compare(a: &Policy, b: &Policy, facts: Facts<'_>, diff: &mut Diff) {
    if a.filesystem == b.filesystem {
        return;
    }
    let (patterns, all) = patterns(a, b, facts);
    diff.complete &= all;
    let mut begins: [Vec<Begins>; 2] = [Vec::new(), Vec::new()];
    let mut stack = vec![Visit {
        path: String::new(),
        shown: "/".to_owned(),
        alive: (0..patterns.len()).collect(),
        depth: 0,
        above: [(0, [None; 4]); 2],
    }];
    let mut work = 0;
    while let Some(visit) = stack.pop() {
        let ends = visit.depth == 0 || visit.alive.iter().any(|index| patterns[*index].len() == visit.depth);
        let mut above = visit.above;
        if ends {
            work += patterns.len();
            let path = if visit.depth == 0 { "/" } else { &visit.path };
            let (old, new) = (rights(a, path, facts), rights(b, path, facts));
            for (direction, more) in [new & !old, old & !new].into_iter().enumerate() {
                step(&mut begins[direction], &mut above[direction], more, &visit.shown);
            }
        }
        if work > MAX_WORK {
            diff.complete = false;
            break;
        }
        let mut children = next(&patterns, &visit);
        // The last comes off the stack first.
        children.reverse();
        for (name, shown) in children {
            let matching = |index: &&usize| {
                patterns[**index]
                    .get(visit.depth)
                    .is_some_and(|wanted| matches_name(wanted, &name))
            };
            let path = format!("{}/{name}", visit.path);
            let spelled = match visit.depth {
                0 => format!("/{shown}"),
                _ => format!("{}/{shown}", visit.shown),
            };
            stack.push(Visit {
                path,
                shown: spelled,
                alive: visit.alive.iter().filter(matching).copied().collect(),
                depth: visit.depth + 1,
                above,
            });
        }
    }
    let protected: BTreeSet<&str> = [a, b]
        .iter()
        .flat_map(|policy| policy.filesystem.protect.iter().map(String::as_str))
        .collect();
    for (direction, found) in begins.into_iter().enumerate() {
        let list = if direction == 0 {
            &mut diff.wider
        } else {
            &mut diff.narrower
        };
        list.extend(found.iter().map(|begin| told(begin, &protected, facts)));
    }
}

/// What begins and what ends at a place, in one direction.
fn step(begins: &mut Vec<Begins>, above: &mut (Rights, [Option<usize>; 4]), more: Rights, shown: &str) {
    let (before, owners) = above;
    let (new, gone) = (more & !*before, *before & !more);
    for (kind, owner) in KINDS.iter().zip(owners.iter_mut()) {
        if gone & kind != 0
            && let Some(begin) = owner.take().and_then(|owner| begins.get_mut(owner))
            && !begin.except.iter().any(|known| known == shown)
        {
            begin.except.push(shown.to_owned());
        }
    }
    if new != 0 {
        for (kind, owner) in KINDS.iter().zip(owners.iter_mut()) {
            if new & kind != 0 {
                *owner = Some(begins.len());
            }
        }
        begins.push(Begins {
            path: shown.to_owned(),
            rights: new,
            except: Vec::new(),
        });
    }
    *before = more;
}

fn rights(policy: &Policy, path: &str, facts: Facts<'_>) -> Rights {
    let has = |access| policy.allows(access, facts);
    let all = [
        (READ, has(Access::Read(path))),
        (EXECUTE, has(Access::Execute(path))),
        (WRITE, has(Access::Write(path))),
        (KEEP, has(Access::Keep(path))),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(right, _)| right).sum()
}

/// `read and execute /opt, but not /opt/licences`.
fn told(begin: &Begins, protected: &BTreeSet<&str>, facts: Facts<'_>) -> Change {
    let Begins { path, rights, except } = begin;
    let spelled = |path: &str| quoted(&facts.spelled(path));
    let mut verbs = Vec::new();
    if rights & READ != 0 {
        verbs.push("read");
    }
    if rights & EXECUTE != 0 {
        verbs.push("execute");
    }
    if rights & (WRITE | KEEP) != 0 {
        verbs.push("write");
    }
    let verbs = match verbs.as_slice() {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        all => all.concat(),
    };
    let how = match (rights & WRITE != 0, rights & KEEP != 0) {
        (true, false) => " (changes vanish with the sandbox)",
        (false, true) => " (changes stay)",
        _ => "",
    };
    let mut text = format!("{verbs} {}{how}", spelled(path));
    // Protected names are many, and the same everywhere.
    let is_protected = |below: &&String| {
        let rest = below
            .strip_prefix(path.as_str())
            .and_then(|rest| rest.strip_prefix('/'));
        rest.is_some_and(|rest| protected.contains(rest))
    };
    let (names, except): (Vec<&String>, Vec<&String>) = except.iter().partition(is_protected);
    if !except.is_empty() || !names.is_empty() {
        let mut shown: Vec<String> = except.iter().take(MAX_EXCEPTIONS).map(|path| spelled(path)).collect();
        if !names.is_empty() {
            shown.insert(0, "what is protected in it".to_owned());
        }
        text += &format!(", but not {}", shown.join(", "));
        if except.len() > MAX_EXCEPTIONS {
            text += &format!(" and {} more", except.len() - MAX_EXCEPTIONS);
        }
    }
    Change {
        group: Group::Files,
        text,
    }
}

/// The names of every pattern that decides anything, and whether these are all.
fn patterns(a: &Policy, b: &Policy, facts: Facts<'_>) -> (Vec<Vec<String>>, bool) {
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let mut complete = true;
    for policy in [a, b] {
        let fs = &policy.filesystem;
        for list in [
            &fs.read,
            &fs.execute,
            &fs.write,
            &fs.copy_on_write,
            &fs.hide,
            &fs.read_only,
        ] {
            found.extend(list.iter().map(|pattern| owned(names_in(pattern, facts))));
        }
        let roots: Vec<PathPattern> = policy.written_roots().collect();
        if roots.len().saturating_mul(fs.protect.len()) > MAX_PROTECTED {
            complete = false;
            continue;
        }
        for root in &roots {
            let below = |name: &String| {
                let names = names_in(root, facts).into_iter().chain(names_of(name));
                owned(names.collect())
            };
            found.extend(fs.protect.iter().map(below));
        }
    }
    let places = OWN.iter().chain(&TMP).chain([&facts.home, &facts.workspace]);
    found.extend(places.map(|place| owned(names_of(place).collect())));
    found.remove(&Vec::new());
    (found.into_iter().collect(), complete)
}

/// The names to go on with below a place, and how they are shown.
fn next(patterns: &[Vec<String>], visit: &Visit) -> Vec<(String, String)> {
    let names: BTreeSet<&str> = visit
        .alive
        .iter()
        .filter_map(|index| patterns[*index].get(visit.depth))
        .map(String::as_str)
        .collect();
    let wild: Vec<&str> = names.iter().filter(|name| name.contains(['*', '?'])).copied().collect();
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for name in &names {
        found.insert(example(name, "zz"), (*name).to_owned());
    }
    // What two wildcards both match.
    for one in &wild {
        for other in wild.iter().filter(|other| *other != one) {
            let both = example(one, &example(other, "zz"));
            if matches_name(one, &both) && matches_name(other, &both) {
                found.entry(both).or_insert_with(|| format!("({one} and {other})"));
            }
        }
        if found.len() > MAX_WORK >> 8 {
            break;
        }
    }
    found.into_iter().collect()
}

/// A name that a pattern matches.
fn example(pattern: &str, rest: &str) -> String {
    pattern.replace('*', rest).replace('?', "z")
}
