//! Which variables a command gets.

use std::collections::BTreeMap;

use crate::model::Environment;

/// A name, or a part of names: `*` at an end stands for any rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NamePattern<'a> {
    open_start: bool,
    open_end: bool,
    core: &'a [u8],
}

impl<'a> NamePattern<'a> {
    /// Splits what the parser has checked.
    fn new(pattern: &'a str) -> Self {
        let (open_start, rest) = pattern.strip_prefix('*').map_or((false, pattern), |rest| (true, rest));
        let (open_end, core) = rest.strip_suffix('*').map_or((false, rest), |rest| (true, rest));
        // A lone `*` is open on both sides of nothing.
        Self {
            open_start,
            open_end: open_end || pattern == "*",
            core: core.as_bytes(),
        }
    }

    /// Environment names are bytes; only ASCII letters have two cases.
    fn matches(&self, name: &[u8], same: fn(&[u8], &[u8]) -> bool) -> bool {
        let Self {
            open_start,
            open_end,
            core,
        } = *self;
        match (open_start, open_end) {
            (false, false) => same(name, core),
            (false, true) => name.get(..core.len()).is_some_and(|head| same(head, core)),
            (true, false) => name.len() >= core.len() && same(&name[name.len() - core.len()..], core),
            (true, true) => core.is_empty() || name.windows(core.len()).any(|part| same(part, core)),
        }
    }
}

fn same_case(a: &[u8], b: &[u8]) -> bool {
    a == b
}

fn any_case(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Whether one of the patterns matches, in any case.
pub(crate) fn matches_any(patterns: &[String], name: &[u8]) -> bool {
    patterns
        .iter()
        .any(|pattern| NamePattern::new(pattern).matches(name, any_case))
}

/// Whether one pattern matches a name; `exact`: with the case of its letters.
pub(crate) fn name_matches(pattern: &str, name: &str, exact: bool) -> bool {
    NamePattern::new(pattern).matches(name.as_bytes(), if exact { same_case } else { any_case })
}

/// Whether every name that `inner` of `pass` matches is matched by `outer`.
pub(crate) fn pass_covers(outer: &str, inner: &str) -> bool {
    match (outer.strip_suffix('*'), inner.strip_suffix('*')) {
        (None, None) => outer == inner,
        (None, Some(_)) => false,
        (Some(start), inner_start) => inner_start.unwrap_or(inner).starts_with(start),
    }
}

impl Environment {
    /// Whether no command may have a variable, whoever sets it.
    pub fn removes(&self, name: &[u8]) -> bool {
        matches_any(&self.remove, name)
    }

    /// Whether a variable of the caller is passed on: some `pass` matches and no `never` and no `remove` does.
    ///
    /// `pass` matches exactly; `never` ignores the case of ASCII letters, because `http_proxy_password` is as secret
    /// as `HTTP_PROXY_PASSWORD`.
    pub fn passes(&self, name: &[u8]) -> bool {
        self.pass
            .iter()
            .any(|pattern| NamePattern::new(pattern).matches(name, same_case))
            && !matches_any(&self.never, name)
            && !self.removes(name)
    }

    /// The variables of a command: the request's own over `set` over what passes of the caller's. Within one list a
    /// later entry of the same name wins.
    pub fn build(&self, caller: &[(Vec<u8>, Vec<u8>)], request: &[(Vec<u8>, Vec<u8>)]) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let passed = caller.iter().filter(|(name, _)| self.passes(name)).cloned();
        let set = self
            .set
            .iter()
            .map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()));
        let all = passed.chain(set).chain(request.iter().cloned());
        all.filter(|(name, _)| !self.removes(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pass: &[&str], never: &[&str], set: &[(&str, &str)]) -> Environment {
        let list = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let set = set
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        Environment {
            pass: list(pass),
            never: list(never),
            remove: Vec::new(),
            set,
        }
    }

    fn variables(list: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
        list.iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn a_pattern_matches_what_it_says_and_no_more() {
        // pass, never, name, whether it is passed
        let table: &[(&str, &str, &[u8], bool)] = &[
            ("PATH", "", b"PATH", true),
            ("PATH", "", b"PATHS", false),
            ("PATH", "", b"MYPATH", false),
            ("PATH", "", b"path", false),
            ("PATH", "", b"", false),
            ("LC_*", "", b"LC_ALL", true),
            ("LC_*", "", b"LC_", true),
            ("LC_*", "", b"LC", false),
            ("LC_*", "", b"XLC_ALL", false),
            ("LC_*", "", b"LC_\xff\xfe", true),
            ("LC_*", "", b"lc_all", false),
            ("A*", "A_TOKEN", b"A_TOKEN", false),
            ("A*", "A_TOKEN", b"A_TOKENS", true),
            ("A*", "*_TOKEN", b"A_TOKEN", false),
            ("A*", "*_TOKEN", b"A_token", false),
            ("A*", "*_TOKEN", b"A_TOKEN_FILE", true),
            ("A*", "*_TOKEN", b"ATOKEN", true),
            ("A*", "AWS_*", b"AWS_REGION", false),
            ("A*", "aws_*", b"AWS_REGION", false),
            ("A*", "AWS_*", b"AWS", true),
            ("A*", "*SECRET*", b"A_SECRET_B", false),
            ("A*", "*SECRET*", b"ASecret", false),
            ("A*", "*SECRET*", b"A_SECRE", true),
            ("A*", "*SECRET*", b"A", true),
            ("A*", "*SECRET*", b"A\xffsecret\xff", false),
            ("A*", "*", b"A", false),
        ];
        for (pass, never, name, expected) in table {
            let never: &[&str] = if never.is_empty() { &[] } else { &[never] };
            let shown = String::from_utf8_lossy(name);
            assert_eq!(
                environment(&[pass], never, &[]).passes(name),
                *expected,
                "{pass} {never:?} {shown}"
            );
        }
    }

    #[test]
    fn nothing_is_passed_unless_it_is_listed() {
        let environment = environment(&[], &[], &[]);
        assert!(
            environment
                .build(&variables(&[("PATH", "/bin"), ("HOME", "/h")]), &[])
                .is_empty()
        );
    }

    #[test]
    fn the_request_comes_before_set_and_set_before_the_caller() {
        let environment = environment(&["A", "B", "C", "D"], &["D"], &[("B", "set"), ("C", "set")]);
        let caller = variables(&[
            ("A", "old"),
            ("A", "caller"),
            ("B", "caller"),
            ("C", "caller"),
            ("D", "secret"),
        ]);
        let request = variables(&[("C", "first"), ("C", "request"), ("E", "request")]);
        let expected = variables(&[("A", "caller"), ("B", "set"), ("C", "request"), ("E", "request")]);
        assert_eq!(
            environment.build(&caller, &request).into_iter().collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn never_is_about_the_caller_and_not_about_the_request() {
        let environment = environment(&["A_TOKEN"], &["*_TOKEN"], &[]);
        let token = variables(&[("A_TOKEN", "x")]);
        assert!(environment.build(&token, &[]).is_empty());
        assert_eq!(environment.build(&[], &token).len(), 1);
    }

    #[test]
    fn what_is_removed_is_in_no_environment() {
        let removing = Environment {
            remove: vec!["PAGER".into(), "X_*".into()],
            ..environment(&["PAGER", "x_1", "A"], &[], &[("X_2", "set"), ("B", "set")])
        };
        let caller = variables(&[("PAGER", "less"), ("x_1", "caller"), ("A", "caller")]);
        let built = removing.build(&caller, &variables(&[("pager", "more")]));
        assert_eq!(built.into_keys().collect::<Vec<_>>(), [b"A".to_vec(), b"B".to_vec()]);
    }

    #[test]
    fn one_pattern_covers_another() {
        for (outer, inner, expected) in [
            ("A", "A", true),
            ("A", "B", false),
            ("A*", "AB", true),
            ("A*", "A*", true),
            ("A*", "AB*", true),
            ("AB*", "A*", false),
            ("A", "A*", false),
        ] {
            assert_eq!(pass_covers(outer, inner), expected, "{outer} {inner}");
        }
    }
}
