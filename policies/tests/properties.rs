//! Whatever the bytes: no panic, errors that point into the file, and no decision looser than the policy.

use std::time::Duration;

use fumehood_policies::{Decision, ParseErrors, Policy, Request, RequestedLimits, Tool, builtin};
use proptest::prelude::*;

/// What every answer about bytes must be.
fn check_parse(bytes: &[u8]) -> Option<Policy> {
    match Policy::parse(bytes, "p.toml") {
        Ok(policy) => {
            check_policy(&policy);
            Some(policy)
        }
        Err(errors) => {
            check_errors(&errors, bytes);
            None
        }
    }
}

fn check_policy(policy: &Policy) {
    let limits = policy.limits;
    for bound in [limits.wall, limits.idle, limits.cpu_time].into_iter().flatten() {
        assert!(!bound.is_zero() && bound <= Duration::from_secs(365 * 86_400));
    }
    for bound in [
        limits.memory_bytes,
        limits.file_bytes,
        limits.disk_bytes,
        limits.files,
        limits.output_bytes,
    ]
    .into_iter()
    .flatten()
    {
        assert!((1..=i64::MAX as u64).contains(&bound));
    }
    assert!(policy.filesystem.shm_bytes > 0);
    assert!(limits.processes != Some(0) && limits.cpu_millis.is_none_or(|millis| millis >= 10));
    assert!((1..=limits.open_files_hard).contains(&limits.open_files_soft));
    assert!(policy.environment.set.values().all(|value| !value.contains('\0')));
}

fn check_errors(errors: &ParseErrors, bytes: &[u8]) {
    assert!(!errors.errors().is_empty());
    let lines = String::from_utf8_lossy(bytes).split('\n').count();
    let mut last = (0, 0);
    for error in errors.errors() {
        assert!(
            error.line >= 1 && error.line as usize <= lines && error.column >= 1,
            "{error}"
        );
        assert!((error.line, error.column) >= last, "{errors}");
        last = (error.line, error.column);
        assert!(!error.message.is_empty());
    }
    let shown = errors.to_string();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
}

fn limits() -> impl Strategy<Value = RequestedLimits> {
    let duration = || proptest::option::of((0..10_000u64, 0..1_000_000_000u32).prop_map(|(s, n)| Duration::new(s, n)));
    let size = || proptest::option::of(prop_oneof![Just(0), Just(u64::MAX), 0..1u64 << 34]);
    (
        duration(),
        duration(),
        duration(),
        duration(),
        size(),
        proptest::option::of(0..5000u32),
        size(),
        (size(), size()),
    )
        .prop_map(
            |(wall, idle, cpu_time, grace, memory_bytes, processes, output_bytes, (disk_bytes, files))| {
                RequestedLimits {
                    wall,
                    idle,
                    cpu_time,
                    grace,
                    memory_bytes,
                    processes,
                    output_bytes,
                    disk_bytes,
                    files,
                }
            },
        )
}

fn check_decide(policy: &Policy, limits: RequestedLimits) {
    let request = Request {
        tool: Tool::Shell,
        argv: &[],
        caller_env: &[],
        env: &[],
        limits,
    };
    /// Whether `granted` is as the policy or the request says, whichever is tighter.
    fn is_tightest<T: Ord + Copy + std::fmt::Debug>(own: Option<T>, asked: Option<T>, granted: Option<T>) {
        assert_eq!(granted, own.into_iter().chain(asked).min(), "{own:?} {asked:?}");
    }
    fn is_looser<T: Ord>(own: Option<T>, asked: Option<T>) -> bool {
        matches!((own, asked), (Some(own), Some(asked)) if asked > own)
    }
    let own = policy.limits;
    let looser = [
        ("limits.wall", is_looser(own.wall, limits.wall)),
        ("limits.idle", is_looser(own.idle, limits.idle)),
        ("limits.cpu-time", is_looser(own.cpu_time, limits.cpu_time)),
        ("limits.grace", is_looser(Some(own.grace), limits.grace)),
        ("limits.memory", is_looser(own.memory_bytes, limits.memory_bytes)),
        ("limits.processes", is_looser(own.processes, limits.processes)),
        ("limits.disk", is_looser(own.disk_bytes, limits.disk_bytes)),
        ("limits.files", is_looser(own.files, limits.files)),
        ("limits.output", is_looser(own.output_bytes, limits.output_bytes)),
    ];
    let first = looser.into_iter().find(|(_, looser)| *looser).map(|(rule, _)| rule);
    match policy.decide(&request) {
        Decision::Denied(denial) => {
            assert_eq!(Some(denial.rule.as_str()), first);
            assert!(denial.explanation.contains(&denial.rule) && denial.explanation.contains(&policy.name));
        }
        Decision::Ask(question) => panic!("a policy without command rules asks: {question:?}"),
        Decision::Allowed(grants) => {
            assert_eq!(first, None);
            is_tightest(own.wall, limits.wall, grants.limits.wall);
            is_tightest(own.idle, limits.idle, grants.limits.idle);
            is_tightest(own.cpu_time, limits.cpu_time, grants.limits.cpu_time);
            is_tightest(Some(own.grace), limits.grace, Some(grants.limits.grace));
            is_tightest(own.memory_bytes, limits.memory_bytes, grants.limits.memory_bytes);
            is_tightest(own.processes, limits.processes, grants.limits.processes);
            is_tightest(own.disk_bytes, limits.disk_bytes, grants.limits.disk_bytes);
            is_tightest(own.files, limits.files, grants.limits.files);
            is_tightest(own.output_bytes, limits.output_bytes, grants.limits.output_bytes);
            assert_eq!(grants.filesystem, policy.filesystem);
        }
    }
}

/// Lines of policies, right and wrong, from which files are put together.
fn line() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("wall"),
        Just("idle"),
        Just("memory"),
        Just("processes"),
        Just("cpus"),
        Just("grace"),
        Just("output"),
        Just("file-size"),
        Just("disk"),
        Just("files"),
        Just("open-files"),
        Just("read"),
        Just("write"),
        Just("hide"),
        Just("execute"),
        Just("copy-on-write"),
        Just("read-only"),
        Just("extends"),
        Just("tools"),
        Just("remove"),
        Just("deny"),
        Just("shm"),
        Just("tmp"),
        Just("home"),
        Just("workspace"),
        Just("pass"),
        Just("never"),
        Just("set"),
        Just("required"),
        Just("mode"),
        Just("profile"),
        Just("a.b"),
        Just("\"\\u0000\""),
        Just("version"),
        Just("rules"),
        Just("ceilings"),
        Just("default"),
        Just("program"),
        Just("decision"),
    ];
    let value = prop_oneof![
        Just("\"unlimited\"".to_owned()),
        (0..u64::MAX, "(ms|s|m|h|B|KiB|TiB|TB|)").prop_map(|(n, unit)| format!("\"{n}{unit}\"")),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:?}").to_lowercase()),
        "[ -~]{0,12}".prop_map(|text| format!("'{}'", text.replace('\'', ""))),
        prop_oneof![
            Just("/usr"),
            Just("${home}/x"),
            Just("~"),
            Just("LC_*"),
            Just("*X*"),
            Just("ipc"),
            Just("/a/../b")
        ]
        .prop_map(|text| format!("['{text}', '{text}/']")),
        Just("{ soft = 1, hard = 2 }".to_owned()),
        Just("{ A = 'b' }".to_owned()),
        Just("true".to_owned()),
        Just("\"deny\"".to_owned()),
        Just("[{ program = \"a\", decision = \"ask\" }]".to_owned()),
        Just("[[[]]]".to_owned()),
    ];
    let section = prop_oneof![
        Just("[filesystem]"),
        Just("[limits]"),
        Just("[environment]"),
        Just("[environment.set]"),
        Just("[network]"),
        Just("[protections]"),
        Just("[syscalls]"),
        Just("[commands]"),
        Just("[[commands.rules]]"),
        Just("[[commands.ceilings]]"),
        Just("[[limits]]"),
        Just("[limits.wall]"),
        Just("[x"),
    ];
    prop_oneof![4 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")), 1 => section.prop_map(str::to_owned)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check_parse(&bytes);
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,100}|[\\[\\]{}=.,\"'#a-c \\n\\r]{0,200}") {
        check_parse(text.as_bytes());
    }

    #[test]
    fn any_lines_are_answered(lines in proptest::collection::vec(line(), 0..12), limits in limits()) {
        let text = format!("version = 1\nname = \"x\"\n{}\n", lines.join("\n"));
        if let Some(policy) = check_parse(text.as_bytes()) {
            check_decide(&policy, limits);
        }
    }

    #[test]
    fn a_damaged_policy_is_answered(
        name in prop_oneof![Just("default"), Just("locked")],
        damages in proptest::collection::vec((any::<proptest::sample::Index>(), 0..4u8, any::<u8>(), 0..40usize), 1..4),
        limits in limits(),
    ) {
        let mut bytes = builtin(name).unwrap().0.as_bytes().to_vec();
        for (at, how, byte, count) in damages {
            if bytes.is_empty() { break; }
            let at = at.index(bytes.len());
            let end = (at + count).min(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.drain(at..end)),
                _ => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
        if let Some(policy) = check_parse(&bytes) {
            check_decide(&policy, limits);
        }
    }

    #[test]
    fn no_decision_is_looser_than_its_policy(
        name in prop_oneof![Just("default"), Just("locked")],
        limits in limits(),
    ) {
        check_decide(&builtin(name).unwrap().1, limits);
    }
}
