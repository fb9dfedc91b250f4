//! What paths with `*` and `?` match, name by name, and when all that one matches lies inside another.

use crate::model::PathPattern;

/// Whether a name is matched by a pattern of one name: `*` is any part of it, `?` any character.
///
/// Takes time with the product of the lengths, which are at most 255 bytes each.
pub fn matches_name(pattern: &str, name: &str) -> bool {
    if !pattern.contains(['*', '?']) {
        return pattern == name;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last `*` does not match: it takes one character more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The names of a path, the root having none.
pub(crate) fn names_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// Whether a path is what a pattern of names matches, or lies below such a path.
pub(crate) fn is_at_or_below<'p>(path: impl Iterator<Item = &'p str>, pattern: &str) -> bool {
    let mut path = path;
    names_of(pattern).all(|wanted| path.next().is_some_and(|name| matches_name(wanted, name)))
}

impl PathPattern {
    /// The path below its base: from the root, the home or the workspace.
    pub fn rest(&self) -> &str {
        match self {
            PathPattern::Absolute(path) | PathPattern::Home(path) | PathPattern::Workspace(path) => path,
        }
    }

    /// Whether it has `*` or `?` in it, and stands for what is there when a run starts.
    pub fn has_wildcards(&self) -> bool {
        self.rest().contains(['*', '?'])
    }

    /// As a file spells it: `${home}/.cargo`.
    pub fn spelled(&self) -> String {
        crate::parse::spelled(self)
    }

    /// Whether every path that `other` stands for is surely one that this one stands for, or lies below one. Paths of different bases are
    /// never sure, and of two wildcards only equal ones and a lone `*` are.
    pub fn covers(&self, other: &PathPattern) -> bool {
        if std::mem::discriminant(self) != std::mem::discriminant(other) {
            return false;
        }
        let mut inner = names_of(other.rest());
        names_of(self.rest()).all(|outer| {
            inner.next().is_some_and(|inner| match inner.contains(['*', '?']) {
                true => outer == inner || outer == "*",
                false => matches_name(outer, inner),
            })
        })
    }

    /// Whether some path that `other` stands for may be one that this one stands for, or lie below one. Sure to be said of those where it is so.
    pub(crate) fn may_hold(&self, other: &PathPattern) -> bool {
        if std::mem::discriminant(self) != std::mem::discriminant(other) {
            return true;
        }
        let mut inner = names_of(other.rest());
        names_of(self.rest()).all(|outer| {
            inner.next().is_some_and(|inner| {
                inner.contains(['*', '?']) && outer.contains(['*', '?'])
                    || matches_name(outer, inner)
                    || matches_name(inner, outer)
            })
        })
    }

    /// The path below this one.
    pub(crate) fn join(&self, below: &str) -> PathPattern {
        let joined = |path: &str| match path {
            "" => below.to_owned(),
            path => format!("{path}/{below}"),
        };
        match self {
            PathPattern::Absolute(path) => PathPattern::Absolute(joined(path)),
            PathPattern::Home(path) => PathPattern::Home(joined(path)),
            PathPattern::Workspace(path) => PathPattern::Workspace(joined(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathPattern::{Absolute, Home};

    #[test]
    fn a_name_is_matched_as_a_shell_would() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("a", "a", true),
            ("a", "b", false),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*a*b", "xaxbab", true),
            ("?", "ä", true),
            ("?", "", false),
            ("a?", "ab", true),
            ("jdk-*", "jdk-21", true),
            (".*", ".x", true),
        ] {
            assert_eq!(matches_name(pattern, name), expected, "{pattern} {name}");
        }
        assert!(
            !matches_name(&"*a".repeat(120), &"a".repeat(100)),
            "many stars end soon"
        );
    }

    #[test]
    fn a_pattern_covers_what_surely_lies_in_it() {
        let path = |text: &str| match text.strip_prefix('~') {
            Some(rest) => Home(rest.trim_start_matches('/').to_owned()),
            None => Absolute(text.to_owned()),
        };
        for (outer, inner, expected) in [
            ("/usr", "/usr", true),
            ("/usr", "/usr/lib", true),
            ("/usr/lib", "/usr", false),
            ("/usr", "/usrlocal", false),
            ("~", "~/x", true),
            ("/home", "~/x", false),
            ("/opt/*", "/opt/x/y", true),
            ("/opt/*", "/opt", false),
            ("/opt/*/b", "/opt/a?/b", true),
            ("/opt/a*", "/opt/a*/c", true),
            ("/opt/a*", "/opt/ab*", false),
            ("/opt/a", "/opt/*", false),
        ] {
            assert_eq!(path(outer).covers(&path(inner)), expected, "{outer} {inner}");
            assert!(!expected || path(outer).may_hold(&path(inner)), "{outer} {inner}");
        }
    }
}
