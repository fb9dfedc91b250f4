//! Who may use which policies, and under which ceiling: the `[[access]]` rules of the configuration.
//!
//! All rules that match hold together, the strictest wins: what one does not give, no other gives back. Of each file that has rules at least
//! one must match, else the peer gets nothing. Pure.
//!
//! A rule knows a peer by what the kernel says when it connects: its user and its primary group. Supplementary groups are not among that.

use std::collections::BTreeMap;

use fumehood_policies::matches_name;

use crate::peer::{Identity, Peer};

/// Which policies of their own requests may bring. The order is that of strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Inline {
    /// None.
    None,
    /// Those whose digest the daemon's user has trusted.
    Trusted,
    /// Those too that only narrow what the peer gets without.
    #[default]
    Narrow,
    /// Every one, under the ceilings.
    Any,
}

impl Inline {
    /// The words of a configuration file.
    pub const WORDS: [(&'static str, Inline); 4] = [
        ("none", Inline::None),
        ("trusted", Inline::Trusted),
        ("narrow", Inline::Narrow),
        ("any", Inline::Any),
    ];
}

/// One rule. Of what selects, everything that is there must match; a rule without any matches every peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// User ids.
    pub uid: Option<Vec<u32>>,
    /// Primary group ids.
    pub gid: Option<Vec<u32>>,
    /// Names of certificates; `*` at an end stands for any rest.
    pub certificate: Option<Vec<String>>,
    /// Labels that the request must have.
    pub label: BTreeMap<String, String>,
    /// The policies that may be named; `None`: all of them.
    pub policies: Option<Vec<String>>,
    /// The policy of requests that name none.
    pub default: Option<String>,
    /// A policy that holds over every other.
    pub ceiling: Option<String>,
    /// Which policies requests may bring.
    pub inline: Option<Inline>,
}

impl Rule {
    /// The names of policies that the rule holds.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        let listed = self.policies.iter().flatten();
        listed.chain(&self.default).chain(&self.ceiling)
    }

    fn matches(&self, peer: &Peer, labels: &BTreeMap<String, String>) -> bool {
        self.is_about(peer) && self.label.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether the rule is about a peer, whatever labels its requests have.
    fn is_about(&self, peer: &Peer) -> bool {
        let (uid, gid, certificate) = match &peer.identity {
            Identity::Unix { uid, gid, .. } => (Some(*uid), Some(*gid), None),
            Identity::Certificate { name } => (None, None, Some(name.as_str())),
        };
        let one_of = |list: &Option<Vec<u32>>, id: Option<u32>| {
            list.as_ref().is_none_or(|list| id.is_some_and(|id| list.contains(&id)))
        };
        let named = self.certificate.as_ref().is_none_or(|patterns| {
            certificate.is_some_and(|name| patterns.iter().any(|pattern| matches_name(pattern, name)))
        });
        one_of(&self.uid, uid) && one_of(&self.gid, gid) && named
    }
}

/// The rules of one configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The file, for messages.
    pub origin: String,
    /// Whether they are the machine's: then the policies they name are its own as well.
    pub system: bool,
    /// The rules in the order of the file.
    pub rules: Vec<Rule>,
}

/// What a peer may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowance<'a> {
    /// The policies that may be named; `None`: all of them.
    pub policies: Option<Vec<&'a str>>,
    /// The policies of requests that name none: what all of these give. Empty: the daemon's default.
    pub defaults: Vec<&'a str>,
    /// The policies that hold over every other.
    pub ceilings: Vec<&'a str>,
    /// Which policies requests may bring.
    pub inline: Inline,
}

/// What the rules of all files give a peer with these labels; `inline` where none of them says. `None`: no rule of a file that has rules is
/// about this peer.
pub fn allowance<'a>(
    files: &'a [Rules],
    inline: Inline,
    peer: &Peer,
    labels: &BTreeMap<String, String>,
) -> Option<Allowance<'a>> {
    let mut allowed = Allowance {
        inline,
        ..Allowance::default()
    };
    let (mut own, mut machine): (Option<Inline>, Option<Inline>) = (None, None);
    for file in files.iter().filter(|file| !file.rules.is_empty()) {
        let mut matching = file.rules.iter().filter(|rule| rule.matches(peer, labels)).peekable();
        matching.peek()?;
        for rule in matching {
            if let Some(policies) = &rule.policies {
                let listed = |name: &&str| policies.iter().any(|policy| policy == name);
                allowed.policies = Some(match allowed.policies.take() {
                    None => policies.iter().map(String::as_str).collect(),
                    Some(known) => known.into_iter().filter(listed).collect(),
                });
            }
            push(&mut allowed.defaults, rule.default.as_deref());
            push(&mut allowed.ceilings, rule.ceiling.as_deref());
            let said = if file.system { &mut machine } else { &mut own };
            *said = match (*said, rule.inline) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (one, None) | (None, one) => one,
            };
        }
    }
    // The machine's file only narrows what the user's own says.
    allowed.inline = own.unwrap_or(inline).min(machine.unwrap_or(Inline::Any));
    Some(allowed)
}

/// Whether a peer may look at a policy: one that it may name, gets otherwise or stands under, with whatever labels. `None`: no rule of a file
/// that has rules is about this peer.
pub fn may_see(files: &[Rules], peer: &Peer, policy: &str) -> Option<bool> {
    let mut seen = true;
    for file in files.iter().filter(|file| !file.rules.is_empty()) {
        let mut about = file.rules.iter().filter(|rule| rule.is_about(peer)).peekable();
        about.peek()?;
        seen &= about.any(|rule| rule.policies.is_none() || rule.names().any(|name| name == policy));
    }
    Some(seen)
}

fn push<'a>(list: &mut Vec<&'a str>, name: Option<&'a str>) {
    list.extend(name.filter(|name| !list.contains(name)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(uid: u32, gid: u32) -> Peer {
        Peer {
            identity: Identity::Unix { uid, gid, pid: None },
            allowed: true,
        }
    }

    fn certificate(name: &str) -> Peer {
        Peer {
            identity: Identity::Certificate { name: name.to_owned() },
            allowed: true,
        }
    }

    fn file(system: bool, rules: Vec<Rule>) -> Rules {
        Rules {
            origin: "x".to_owned(),
            system,
            rules,
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_rule_selects_by_everything_that_it_says() {
        let rule = |uid: Option<u32>, gid: Option<u32>, certificate: Option<&str>, label: &[(&str, &str)]| Rule {
            uid: uid.map(|uid| vec![uid]),
            gid: gid.map(|gid| vec![gid]),
            certificate: certificate.map(|name| vec![name.to_owned()]),
            label: labels(label),
            ..Rule::default()
        };
        let task = [("task", "t1")];
        // (rule, peer, the request's labels, whether it matches)
        for (rule, peer, given, matches) in [
            (rule(None, None, None, &[]), unix(1, 1), &[][..], true),
            (rule(None, None, None, &[]), certificate("ci"), &[], true),
            (rule(Some(1), None, None, &[]), unix(1, 9), &[], true),
            (rule(Some(1), None, None, &[]), unix(2, 9), &[], false),
            (rule(Some(1), None, None, &[]), certificate("1"), &[], false),
            (rule(None, Some(9), None, &[]), unix(1, 9), &[], true),
            (rule(Some(1), Some(9), None, &[]), unix(1, 8), &[], false),
            (
                rule(None, None, Some("ci.*"), &[]),
                certificate("ci.example"),
                &[],
                true,
            ),
            (
                rule(None, None, Some("*.example"), &[]),
                certificate("ci.example"),
                &[],
                true,
            ),
            (
                rule(None, None, Some("ci.*"), &[]),
                certificate("cd.example"),
                &[],
                false,
            ),
            (rule(None, None, Some("ci.*"), &[]), unix(1, 1), &[], false),
            (rule(None, None, None, &task), unix(1, 1), &task, true),
            (rule(None, None, None, &task), unix(1, 1), &[("task", "t2")], false),
            (rule(Some(1), None, None, &task), unix(1, 1), &[], false),
            (
                Rule {
                    uid: Some(vec![]),
                    ..Rule::default()
                },
                unix(1, 1),
                &[],
                false,
            ),
        ] {
            assert_eq!(rule.matches(&peer, &labels(given)), matches, "{rule:?} {peer}");
        }
    }

    #[test]
    fn all_rules_that_match_hold_together() {
        let named = |policies: &[&str]| Some(policies.iter().map(|name| (*name).to_owned()).collect());
        let rules = [file(
            false,
            vec![
                Rule {
                    policies: named(&["a", "b"]),
                    default: Some("a".into()),
                    inline: Some(Inline::Any),
                    ..Rule::default()
                },
                Rule {
                    uid: Some(vec![1]),
                    policies: named(&["b", "c"]),
                    ceiling: Some("org".into()),
                    ..Rule::default()
                },
                Rule {
                    uid: Some(vec![2]),
                    inline: Some(Inline::None),
                    default: Some("c".into()),
                    ..Rule::default()
                },
            ],
        )];
        let of = |uid| allowance(&rules, Inline::Narrow, &unix(uid, 0), &BTreeMap::new()).unwrap();
        assert_eq!(of(1).policies, Some(vec!["b"]));
        assert_eq!((of(1).ceilings, of(1).inline), (vec!["org"], Inline::Any));
        assert_eq!((of(2).defaults, of(2).inline), (vec!["a", "c"], Inline::None));
        assert_eq!(of(3).policies, Some(vec!["a", "b"]));
    }

    #[test]
    fn a_peer_sees_what_it_may_use() {
        let rule = |uid: u32, policies: Option<&[&str]>, ceiling: Option<&str>| Rule {
            uid: Some(vec![uid]),
            policies: policies.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
            ceiling: ceiling.map(str::to_owned),
            label: labels(&[("team", "web")]),
            ..Rule::default()
        };
        let files = [file(
            false,
            vec![rule(1, Some(&["a"]), Some("org")), rule(2, None, None)],
        )];
        let sees = |uid, policy| may_see(&files, &unix(uid, 0), policy);
        assert_eq!(
            (sees(1, "a"), sees(1, "org"), sees(1, "b")),
            (Some(true), Some(true), Some(false))
        );
        assert_eq!((sees(2, "b"), sees(3, "a")), (Some(true), None));
        assert_eq!(may_see(&[file(false, vec![])], &unix(9, 9), "x"), Some(true));
    }

    #[test]
    fn without_a_rule_about_a_peer_it_gets_nothing() {
        let one = Rule {
            uid: Some(vec![1]),
            ..Rule::default()
        };
        let none = BTreeMap::new();
        assert!(allowance(&[file(false, vec![one.clone()])], Inline::Any, &unix(2, 2), &none).is_none());
        assert!(
            allowance(
                &[file(true, vec![one.clone()]), file(false, vec![])],
                Inline::Any,
                &unix(2, 2),
                &none
            )
            .is_none()
        );
        assert_eq!(
            allowance(&[file(false, vec![])], Inline::Any, &unix(2, 2), &none)
                .unwrap()
                .inline,
            Inline::Any
        );
        assert!(allowance(&[file(false, vec![one])], Inline::Any, &unix(1, 1), &none).is_some());
    }

    #[test]
    fn the_machines_rules_only_narrow() {
        let system = |inline| {
            file(
                true,
                vec![Rule {
                    inline: Some(inline),
                    ..Rule::default()
                }],
            )
        };
        let of = |files: &[Rules], own| allowance(files, own, &unix(1, 1), &BTreeMap::new()).unwrap().inline;
        assert_eq!(of(&[system(Inline::Any)], Inline::Narrow), Inline::Narrow);
        assert_eq!(of(&[system(Inline::None)], Inline::Any), Inline::None);
        let own = file(
            false,
            vec![Rule {
                inline: Some(Inline::Any),
                ..Rule::default()
            }],
        );
        assert_eq!(of(&[system(Inline::Trusted), own], Inline::None), Inline::Trusted);
    }
}
