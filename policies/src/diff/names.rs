//! The variables of two policies, compared by names made from the patterns of both.

use std::collections::BTreeSet;

use super::{Diff, Group};
use crate::environment::pass_covers;
use crate::error::quoted;
use crate::model::Policy;

/// At most so many names are tried.
const MAX_NAMES: usize = 1 << 14;
/// What stands for the rest of a name that no pattern goes on about.
const REST: &str = "_zz";

pub(super) fn compare(a: &Policy, b: &Policy, diff: &mut Diff) {
    let (old, new) = (&a.environment, &b.environment);
    if (&old.pass, &old.never, &old.remove) != (&new.pass, &new.never, &new.remove) {
        passed(a, b, diff);
        removed(a, b, diff);
    }
    for (name, value) in &new.set {
        let text = match old.set.get(name) {
            None => format!("{name} is set to \"{}\"", quoted(value)),
            Some(before) if before != value => {
                format!(
                    "{name} is set to \"{}\" instead of \"{}\"",
                    quoted(value),
                    quoted(before)
                )
            }
            Some(_) => continue,
        };
        diff.also(Group::Environment, text);
    }
    for name in old.set.keys().filter(|name| !new.set.contains_key(*name)) {
        diff.also(Group::Environment, format!("{name} is not set"));
    }
}

fn passed(a: &Policy, b: &Policy, diff: &mut Diff) {
    let (old, new) = (&a.environment, &b.environment);
    let patterns: BTreeSet<&String> = old.pass.iter().chain(&new.pass).collect();
    let taking: BTreeSet<&String> = [&old.never, &old.remove, &new.never, &new.remove]
        .into_iter()
        .flatten()
        .collect();
    let mut tried = 0;
    // What is already told of a pattern is not told again of those inside it.
    let mut told: Vec<(&str, bool)> = Vec::new();
    let differs = |name: &str| {
        let (before, after) = (old.passes(name.as_bytes()), new.passes(name.as_bytes()));
        (before != after).then_some(after)
    };
    for pattern in patterns {
        let Some(start) = pattern.strip_suffix('*') else {
            if let Some(wider) = differs(pattern)
                && !told
                    .iter()
                    .any(|(outer, way)| *way == wider && pass_covers(outer, pattern))
            {
                diff.note(wider, Group::Environment, format!("pass {pattern}"));
            }
            continue;
        };
        let whole = differs(&format!("{start}{REST}"));
        if let Some(wider) = whole
            && !told
                .iter()
                .any(|(outer, way)| *way == wider && pass_covers(outer, pattern))
        {
            diff.note(wider, Group::Environment, format!("pass {pattern}"));
            told.push((pattern, wider));
        }
        for taken in &taking {
            for name in both(start, taken) {
                tried += 1;
                if tried > MAX_NAMES {
                    diff.complete = false;
                    return;
                }
                if let Some(wider) = differs(&name)
                    && whole != Some(wider)
                {
                    diff.note(wider, Group::Environment, format!("pass {pattern} where it is {taken}"));
                    break;
                }
            }
        }
    }
}

/// Names that begin with `start` and that a pattern of `never` or `remove` matches.
fn both(start: &str, taken: &str) -> BTreeSet<String> {
    let (open_start, rest) = taken.strip_prefix('*').map_or((false, taken), |rest| (true, rest));
    let (open_end, core) = rest.strip_suffix('*').map_or((false, rest), |rest| (true, rest));
    let end = if open_end { REST } else { "" };
    let mut names = BTreeSet::new();
    let begins = |long: &str, short: &str| {
        long.get(..short.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(short))
    };
    if begins(core, start) {
        names.insert(format!("{start}{}{end}", &core[start.len()..]));
    }
    if open_start {
        names.insert(format!("{start}{core}{end}"));
        // The end of the one may be the beginning of the other.
        for shared in 1..core.len() {
            let tail = start.len().checked_sub(shared).and_then(|at| start.get(at..));
            if tail.is_some_and(|tail| begins(core, tail))
                && let Some(rest) = core.get(shared..)
            {
                names.insert(format!("{start}{rest}{end}"));
            }
        }
    }
    names
}

/// Variables that a request may set in one of them only.
fn removed(a: &Policy, b: &Policy, diff: &mut Diff) {
    let (old, new) = (&a.environment, &b.environment);
    for pattern in old.remove.iter().chain(&new.remove).collect::<BTreeSet<_>>() {
        let name = match pattern.as_str() {
            "*" => "zz".to_owned(),
            pattern => pattern.replace('*', "zz"),
        };
        let (before, after) = (old.removes(name.as_bytes()), new.removes(name.as_bytes()));
        if before != after {
            diff.note(before, Group::Environment, format!("have {pattern}, set by a request"));
        }
    }
}
