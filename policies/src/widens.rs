//! What a policy gives beyond another one, in words: what is lost when the other is its ceiling.
//!
//! Nothing is decided by it: what holds is [`Policy::narrowed_by`], whatever is said here. A restriction of the other that this policy does
//! not state counts only where this policy gives something that it restricts.

use std::fmt;

use crate::diff::Diff;
use crate::environment::{matches_any, pass_covers};
use crate::keys::{Kind, key_named};
use crate::model::{Home, Network, PathPattern, Policy, WorkspaceAccess};
use crate::narrow::Given;
use crate::statement::Value;

/// One thing that a policy gives and another does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Widening {
    /// The key: `filesystem.write`.
    pub key: &'static str,
    /// What it says, as a file spells it.
    pub value: String,
    /// In which way it is more.
    pub more: More,
}

/// In which way something is more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum More {
    /// It is given, and the other does not give it.
    Given,
    /// The other restricts it, and this policy does not.
    Unrestricted,
    /// It goes further than this value of the other's.
    Beyond(String),
    /// Commands are judged less strictly; the value says which and how.
    Judged,
}

impl fmt::Display for Widening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Widening { key, value, more } = self;
        match more {
            More::Given => write!(f, "{key} gives {value}"),
            More::Unrestricted => write!(f, "{key} lacks {value}"),
            More::Judged => write!(f, "{key}: {value}"),
            More::Beyond(bound) => write!(f, "{key} = {value}, where {bound} is the most"),
        }
    }
}

impl Policy {
    /// What this policy gives that `base` does not, in the order of the keys of a file's sections. Empty: it only narrows.
    ///
    /// Variables that it sets are not looked at: a request may set its own anyway.
    #[must_use]
    pub fn widens(&self, base: &Policy) -> Vec<Widening> {
        let mut found = Found::default();
        for tool in self.tools.iter().filter(|tool| !base.tools.contains(tool)) {
            found.add("tools", Value::Word(tool.name()), More::Given);
        }
        self.files_beyond(base, &mut found);
        self.network_beyond(base, &mut found);
        let (own, above) = (&self.syscalls, &base.syscalls);
        found.word("syscalls.profile", own.profile, above.profile, |word| word.name());
        let allowed = own
            .allow
            .iter()
            .filter(|call| self.calls(call) && !base.calls(call) && !above.deny.contains(call));
        found.texts("syscalls.allow", allowed, &More::Given);
        let undenied = above.deny.iter().filter(|call| self.calls(call));
        found.texts("syscalls.deny", undenied, &More::Unrestricted);
        self.limits_beyond(base, &mut found);
        let (own, above) = (&self.environment, &base.environment);
        let passed = own
            .pass
            .iter()
            .filter(|name| !above.pass.iter().any(|outer| pass_covers(outer, name)));
        found.texts("environment.pass", passed, &More::Given);
        // A pattern of `pass` may let through what the missing one takes out.
        let lets = |never: &str| {
            let passes = |name: &String| {
                name.ends_with('*') || matches_any(std::slice::from_ref(&never.to_owned()), name.as_bytes())
            };
            own.pass.iter().any(passes)
        };
        let never = above
            .never
            .iter()
            .filter(|name| !own.never.contains(name) && lets(name));
        found.texts("environment.never", never, &More::Unrestricted);
        let removed = above.remove.iter().filter(|name| !own.remove.contains(name));
        found.texts("environment.remove", removed, &More::Unrestricted);
        for protection in &base.protections.required {
            if !self.protections.required.contains(protection) {
                let word = Value::Word(protection.name());
                found.add("protections.required", word, More::Unrestricted);
            }
        }
        for value in Diff::wider_commands(base, self) {
            found.0.push(Widening {
                key: "commands",
                value,
                more: More::Judged,
            });
        }
        let (own, above) = (&self.approvals, &base.approvals);
        let wait = |wait: std::time::Duration| u64::try_from(wait.as_millis()).ok();
        found.amount("approvals.wait", wait(own.wait), wait(above.wait));
        found.word("approvals.self", own.own, above.own, |word| word.name());
        let (own, above) = (self.audit.arguments, base.audit.arguments);
        found.word("audit.arguments", own, above, |word| word.name());
        found.0
    }

    fn files_beyond(&self, base: &Policy, found: &mut Found) {
        let (own, above) = (&self.filesystem, &base.filesystem);
        found.word("filesystem.workspace", own.workspace, above.workspace, |word| {
            word.name()
        });
        found.word("filesystem.home", own.home, above.home, |word| word.name());
        let (given, bound) = (Given::of(self), Given::of(base));
        let in_home = PathPattern::Home(String::new());
        let by_home = |path: &PathPattern| {
            own.home == Home::CopyOnWrite && above.home == Home::CopyOnWrite && in_home.covers(path)
        };
        for (key, list, bound) in [
            ("filesystem.execute", &own.execute, &bound.execute),
            ("filesystem.read", &own.read, &bound.read),
            ("filesystem.write", &own.write, &bound.write),
            ("filesystem.copy-on-write", &own.copy_on_write, &bound.copied),
        ] {
            let covered = |path: &PathPattern| bound.iter().any(|outer| outer.covers(path));
            let more = list
                .iter()
                .filter(|path| !(covered(path) || key != "filesystem.write" && by_home(path)));
            found.paths(key, more, &More::Given);
        }
        if own.tmp && !above.tmp {
            found.add("filesystem.tmp", Value::Flag(true), More::Given);
        }
        let reached = |lists: &[&[PathPattern]], place: &PathPattern| {
            let meets =
                |grant: &PathPattern| may_meet(grant, place) && (grant.may_hold(place) || place.may_hold(grant));
            lists.iter().any(|list| list.iter().any(meets))
        };
        // The workspace is not among them: nothing is hidden in it.
        let own_grants: &[&[PathPattern]] = &[&own.read, &own.execute, &own.write, &own.copy_on_write];
        let home = [in_home.clone()];
        let seen: Vec<&[PathPattern]> = match own.home {
            Home::CopyOnWrite => own_grants.iter().copied().chain([&home[..]]).collect(),
            Home::Empty => own_grants.to_vec(),
        };
        let missing = |path: &&PathPattern, list: &[PathPattern]| !list.iter().any(|outer| outer.covers(path));
        let shown = above
            .hide
            .iter()
            .filter(|path| missing(path, &own.hide) && reached(&seen, path));
        found.paths("filesystem.hide", shown, &More::Unrestricted);
        let written: &[&[PathPattern]] = &[&given.copied];
        let writable = above
            .read_only
            .iter()
            .filter(|path| missing(path, &own.read_only) && reached(written, path));
        found.paths("filesystem.read-only", writable, &More::Unrestricted);
        let writes = own.workspace == WorkspaceAccess::Write || !own.write.is_empty();
        if writes {
            let unprotected = above.protect.iter().filter(|name| !own.protect.contains(name));
            found.texts("filesystem.protect", unprotected, &More::Unrestricted);
            found.word("filesystem.git", own.git, above.git, |word| word.name());
        }
        found.amount("filesystem.shm", Some(own.shm_bytes), Some(above.shm_bytes));
    }

    fn network_beyond(&self, base: &Policy, found: &mut Found) {
        let (own, above) = (&self.network, &base.network);
        found.word("network.mode", own.mode(), above.mode(), |word| word.name());
        let (Network::Host(own), Network::Host(above)) = (own, above) else {
            return;
        };
        for (key, own, above) in [
            ("network.tcp-connect", &own.connect, &above.connect),
            ("network.tcp-bind", &own.bind, &above.bind),
        ] {
            match (own, above) {
                (_, None) => {}
                (None, Some(_)) => found.0.push(Widening {
                    key,
                    value: "every port".to_owned(),
                    more: More::Given,
                }),
                (Some(own), Some(above)) => {
                    for port in own.iter().filter(|port| !above.contains(port)) {
                        found.add(key, Value::Port(*port), More::Given);
                    }
                }
            }
        }
    }

    fn limits_beyond(&self, base: &Policy, found: &mut Found) {
        for ((key, own), (_, above)) in self.limits.amounts().into_iter().zip(base.limits.amounts()) {
            found.amount(key, own, above);
        }
        let files = |policy: &Policy| (policy.limits.open_files_soft, policy.limits.open_files_hard);
        let ((soft, hard), (most_soft, most_hard)) = (files(self), files(base));
        if soft > most_soft || hard > most_hard {
            let bound = spelled("limits.open-files", &Value::SoftHard(most_soft, most_hard));
            found.add("limits.open-files", Value::SoftHard(soft, hard), More::Beyond(bound));
        }
    }
}

/// Where homes usually lie.
const HOMES: [&str; 3] = ["/home", "/root", "/var/home"];

/// Whether two places are worth comparing: of the same base, or one in the home and the other where homes lie.
fn may_meet(a: &PathPattern, b: &PathPattern) -> bool {
    let near_homes = |path: &PathPattern| {
        HOMES.iter().any(|home| {
            let home = PathPattern::Absolute((*home).to_owned());
            home.may_hold(path) || path.may_hold(&home)
        })
    };
    match (a, b) {
        (PathPattern::Home(_), PathPattern::Absolute(_)) => near_homes(b),
        (PathPattern::Absolute(_), PathPattern::Home(_)) => near_homes(a),
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

#[derive(Default)]
struct Found(Vec<Widening>);

impl Found {
    fn add(&mut self, key: &'static str, value: Value, more: More) {
        let value = spelled(key, &value);
        self.0.push(Widening { key, value, more });
    }

    fn texts<'a>(&mut self, key: &'static str, texts: impl Iterator<Item = &'a String>, more: &More) {
        texts.for_each(|text| self.add(key, Value::Text(text.clone()), more.clone()));
    }

    fn paths<'a>(&mut self, key: &'static str, paths: impl Iterator<Item = &'a PathPattern>, more: &More) {
        paths.for_each(|path| self.add(key, Value::Path(path.clone()), more.clone()));
    }

    /// The words of a key stand in the order of their strictness.
    fn word<T: Ord + Copy>(&mut self, key: &'static str, own: T, above: T, name: fn(&T) -> &'static str) {
        if own > above {
            let bound = spelled(key, &Value::Word(name(&above)));
            self.add(key, Value::Word(name(&own)), More::Beyond(bound));
        }
    }

    fn amount(&mut self, key: &'static str, own: Option<u64>, above: Option<u64>) {
        if above.is_some_and(|above| own.is_none_or(|own| own > above)) {
            let bound = spelled(key, &Value::Amount(above));
            self.add(key, Value::Amount(own), More::Beyond(bound));
        }
    }
}

fn spelled(key: &str, value: &Value) -> String {
    value.spelled(key_named(key).map_or(Kind::Line, |key| key.kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse(format!("version = 1\nname = \"x\"\n{text}").as_bytes(), "x").unwrap()
    }

    fn said(own: &str, base: &str) -> Vec<String> {
        let found = policy(own).widens(&policy(base));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_only_narrows_widens_nothing() {
        let default = "extends = [\"default\"]\n";
        assert!(said(default, default).is_empty());
        assert!(said("", default).is_empty(), "{:?}", said("", default));
        let less = "extends = [\"default\"]\n[limits]\nwall = \"1s\"\n[network]\nmode = \"none\"\n[filesystem]\nhide = [\"/opt\"]\n";
        assert!(said(less, default).is_empty());
        assert!(!said(default, less).is_empty());
        let built_in = |name: &str| crate::builtin(name).unwrap().1;
        let locked: Vec<_> = built_in("locked")
            .widens(&built_in("default"))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(locked.is_empty(), "{locked:?}");
    }

    #[test]
    fn what_a_policy_gives_beyond_another_is_said_in_words() {
        let more = "[filesystem]\nworkspace = \"write\"\nwrite = [\"/srv\"]\nread = [\"/opt/x\"]\nhide = []\n\
                    [network]\nmode = \"host-without-isolation\"\n[limits]\nwall = \"20m\"\n\
                    [environment]\npass = [\"SSH_AUTH_SOCK\"]\n[protections]\nrequired = []\n";
        let base = "[filesystem]\nread = [\"/opt\"]\nhide = [\"/opt/x/y\", \"/far\"]\n[limits]\nwall = \"10m\"\n\
                    [protections]\nrequired = [\"ipc\"]\n";
        let said = said(more, base);
        for words in [
            "filesystem.workspace = \"write\", where \"read\" is the most",
            "filesystem.write gives \"/srv\"",
            "filesystem.hide lacks \"/opt/x/y\"",
            "network.mode = \"host-without-isolation\", where \"loopback\" is the most",
            "limits.wall = \"20m\", where \"10m\" is the most",
            "environment.pass gives \"SSH_AUTH_SOCK\"",
            "protections.required lacks \"ipc\"",
        ] {
            assert!(said.iter().any(|line| line == words), "{words}: {said:?}");
        }
        assert!(
            !said.iter().any(|line| line.contains("/far")),
            "it gives nothing there: {said:?}"
        );
    }

    #[test]
    fn a_policy_without_the_rules_of_another_widens_it() {
        let rules = "[commands]\ndefault = \"allow\"\n[[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\ndecision = \"deny\"\nreason = \"r\"\n";
        let lacks = said("", rules);
        assert!(
            lacks
                .iter()
                .any(|line| line == "commands: `git push`: allow instead of deny"),
            "{lacks:?}"
        );
        assert!(said(rules, "").is_empty() && said(rules, rules).is_empty());
        let (own, base) = (policy(""), policy(rules));
        assert!(own.narrowed_by(&base).widens(&base).is_empty());
        let asks = rules.replace("\"deny\"", "\"ask\"");
        assert!(!said(&asks, rules).is_empty() && said(rules, &asks).is_empty());
    }

    /// What is said to widen nothing loses nothing of what it gives.
    #[test]
    fn a_narrower_policy_loses_no_grant_under_its_base() {
        for name in crate::builtin_names() {
            let (own, base) = (crate::builtin(name).unwrap().1, crate::builtin("default").unwrap().1);
            let narrowed = own.narrowed_by(&base);
            if own.widens(&base).is_empty() {
                assert_eq!(narrowed.network, own.network, "{name}");
                assert_eq!(narrowed.filesystem.write, own.filesystem.write, "{name}");
                assert_eq!(narrowed.limits, own.limits, "{name}");
            }
            assert!(
                narrowed.widens(&base).is_empty(),
                "{name}: {:?}",
                narrowed.widens(&base)
            );
        }
    }
}
