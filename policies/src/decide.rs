//! From a policy and a request to grants or a denial.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::command::{Finding, Verdict};
use crate::environment::matches_any;
use crate::model::{Arguments, Filesystem, Limits, Network, Policy, Protection, Syscalls, Tool};

/// What a caller asks, as far as a policy cares.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The tool.
    pub tool: Tool,
    /// The argument vector.
    pub argv: &'a [Vec<u8>],
    /// The caller's environment: candidates for `pass`. Later entries of the same name win.
    pub caller_env: &'a [(Vec<u8>, Vec<u8>)],
    /// The request's own variables.
    pub env: &'a [(Vec<u8>, Vec<u8>)],
    /// Bounds tighter than the policy's.
    pub limits: RequestedLimits,
}

/// Bounds a request asks for. `None`: the policy's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestedLimits {
    /// Elapsed time.
    pub wall: Option<Duration>,
    /// Time without output.
    pub idle: Option<Duration>,
    /// CPU time of the tree.
    pub cpu_time: Option<Duration>,
    /// From the stop signal to SIGKILL.
    pub grace: Option<Duration>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u32>,
    /// Bytes of output.
    pub output_bytes: Option<u64>,
    /// Growth of the disk space in use, in bytes.
    pub disk_bytes: Option<u64>,
    /// Growth in files.
    pub files: Option<u64>,
}

impl RequestedLimits {
    /// These, and where they say nothing, `others`.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        let Self {
            wall,
            idle,
            cpu_time,
            grace,
            memory_bytes,
            processes,
            output_bytes,
            disk_bytes,
            files,
        } = self;
        Self {
            wall: wall.or(others.wall),
            idle: idle.or(others.idle),
            cpu_time: cpu_time.or(others.cpu_time),
            grace: grace.or(others.grace),
            memory_bytes: memory_bytes.or(others.memory_bytes),
            processes: processes.or(others.processes),
            output_bytes: output_bytes.or(others.output_bytes),
            disk_bytes: disk_bytes.or(others.disk_bytes),
            files: files.or(others.files),
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Run it with these grants and no others.
    Allowed(Box<Grants>),
    /// Run it once somebody has approved it.
    Ask(Question),
    /// Do not run it.
    Denied(Denial),
}

/// What has to be approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The rule that asks, as a path into the policy: `commands.rules[3]`, `commands.default`, `commands.unreadable`.
    pub rule: String,
    /// Why, in the rule's words.
    pub reason: String,
    /// The commands that are asked about, as they were read: quoted, escaped, at most 200 characters each.
    pub commands: Vec<String>,
    /// What the run gets when it is approved.
    pub grants: Box<Grants>,
}

/// What an allowed request gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    /// The file tree.
    pub filesystem: Filesystem,
    /// The network.
    pub network: Network,
    /// System calls.
    pub syscalls: Syscalls,
    /// The bounds in force, policy and request taken together.
    pub limits: Limits,
    /// The environment as far as policy and request say; the daemon adds HOME, USER and the like where still missing.
    pub env: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Patterns of names that the command must not have, whoever sets them: see [`removes`](Grants::removes).
    pub remove: Vec<String>,
    /// Required protections.
    pub required: Vec<Protection>,
    /// Protections whose absence is said.
    pub preferred: Vec<Protection>,
    /// What the audit log keeps of the command line.
    pub arguments: Arguments,
}

impl Grants {
    /// Whether a variable is one that the command must not have.
    pub fn removes(&self, name: &[u8]) -> bool {
        matches_any(&self.remove, name)
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The rule, as a path into the policy: `limits.wall`.
    pub rule: String,
    /// What was refused, by which policy, and what would allow it.
    pub explanation: String,
}

impl Policy {
    /// Decides. Pure: the same policy and request give the same answer.
    ///
    /// A request may only tighten: a bound looser than the policy's is denied, never cut down in silence. Where several
    /// are looser the denial names the first as its rule and explains all. A bound of zero is what it says, a bound of
    /// nothing; it does not mean unlimited. Bounds are looked at first, then the command: see [`command`](crate::command).
    /// The request's own variables count as if they were written before the command; the caller's, which the policy chooses from, do not.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let grants = match self.grants(request) {
            Ok(grants) => grants,
            Err(denial) => return Decision::Denied(denial),
        };
        // There is no command: what files may be reached is in the grants, and the file tools are let in or kept out by `tools`.
        if request.tool == Tool::Files {
            return Decision::Allowed(grants);
        }
        let judgement = self.commands.judge_with(request.argv, request.env, &grants.env);
        let why = judgement
            .decisive()
            .map(|finding| (finding.place.clone(), self.why(finding)));
        let (rule, reason) = why.unwrap_or_default();
        if judgement.verdict == Verdict::Deny {
            return Decision::Denied(Denial {
                rule,
                explanation: reason,
            });
        }
        if judgement.verdict == Verdict::Allow {
            return Decision::Allowed(grants);
        }
        // Each once, though its own rules and a ceiling's may ask about the same.
        let mut commands: Vec<String> = Vec::new();
        for finding in judgement.findings {
            if finding.verdict == Verdict::Ask && !commands.contains(&finding.command) {
                commands.push(finding.command);
            }
        }
        Decision::Ask(Question {
            rule,
            reason,
            commands,
            grants,
        })
    }

    /// What a request gets whatever its command is, as far as it may ask for it: for the place that several commands will run in, each
    /// of which is decided about by itself. Its `argv` is not looked at.
    ///
    /// # Errors
    /// Why not: the tool, a variable that the policy takes away, or a bound looser than the policy's.
    pub fn grants(&self, request: &Request<'_>) -> Result<Box<Grants>, Denial> {
        let Request {
            tool,
            argv: _,
            caller_env,
            env,
            limits,
        } = request;
        if let Some(denial) = self.refuses_tool(*tool).or_else(|| self.refuses_variable(env)) {
            return Err(denial);
        }
        let limits = self.tighten(limits)?;
        Ok(Box::new(Grants {
            filesystem: self.filesystem.clone(),
            network: self.network.clone(),
            syscalls: self.syscalls.clone(),
            limits,
            env: self.environment.build(caller_env, env),
            remove: self.environment.remove.clone(),
            required: self.protections.required.clone(),
            preferred: self.protections.preferred.clone(),
            arguments: self.audit.arguments,
        }))
    }

    fn why(&self, finding: &Finding) -> String {
        let Finding {
            command,
            verdict,
            reason,
            place,
            ..
        } = finding;
        let does = match verdict {
            Verdict::Allow => "allows",
            Verdict::Ask => "asks about",
            Verdict::Deny => "denies",
        };
        let reason = if reason.is_empty() {
            String::new()
        } else {
            format!(": {reason}")
        };
        format!("policy `{}` {does} `{command}` ({place}){reason}", self.name)
    }

    fn refuses_tool(&self, tool: Tool) -> Option<Denial> {
        if self.tools.contains(&tool) {
            return None;
        }
        let names: Vec<_> = self.tools.iter().map(|tool| tool.name()).collect();
        let allowed = match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        let (tool, policy) = (tool.name(), &self.name);
        Some(Denial {
            rule: "tools".to_owned(),
            explanation: format!(
                "the request uses the tool `{tool}`, policy `{policy}` allows {allowed}; add \"{tool}\" to tools in the policy"
            ),
        })
    }

    /// A variable that the request sets and the policy takes away: said, not dropped in silence.
    fn refuses_variable(&self, env: &[(Vec<u8>, Vec<u8>)]) -> Option<Denial> {
        let (name, _) = env.iter().find(|(name, _)| self.environment.removes(name))?;
        let name = crate::error::quoted(&String::from_utf8_lossy(name));
        let policy = &self.name;
        Some(Denial {
            rule: "environment.remove".to_owned(),
            explanation: format!(
                "the request sets {name}, which policy `{policy}` lets no command have; ask without it, or take it out of environment.remove"
            ),
        })
    }

    /// The policy's bounds with the request's in their place where those are as tight or tighter.
    fn tighten(&self, asked: &RequestedLimits) -> Result<Limits, Denial> {
        let RequestedLimits {
            wall,
            idle,
            cpu_time,
            grace,
            memory_bytes,
            processes,
            output_bytes,
            disk_bytes,
            files,
        } = *asked;
        let own = self.limits;
        let mut looser = Looser {
            policy: &self.name,
            found: Vec::new(),
        };
        let limits = Limits {
            wall: looser.check("limits.wall", own.wall, wall, duration),
            idle: looser.check("limits.idle", own.idle, idle, duration),
            cpu_time: looser.check("limits.cpu-time", own.cpu_time, cpu_time, duration),
            grace: looser
                .check("limits.grace", Some(own.grace), grace, duration)
                .unwrap_or(own.grace),
            memory_bytes: looser.check("limits.memory", own.memory_bytes, memory_bytes, size),
            processes: looser.check("limits.processes", own.processes, processes, |count| count.to_string()),
            disk_bytes: looser.check("limits.disk", own.disk_bytes, disk_bytes, size),
            files: looser.check("limits.files", own.files, files, |count| count.to_string()),
            output_bytes: looser.check("limits.output", own.output_bytes, output_bytes, size),
            ..own
        };
        let mut found = looser.found.into_iter();
        let Some(Denial { rule, mut explanation }) = found.next() else {
            return Ok(limits);
        };
        for Denial { explanation: more, .. } in found {
            explanation.push_str("; ");
            explanation.push_str(&more);
        }
        Err(Denial { rule, explanation })
    }
}

/// Collects the bounds that a request asks to loosen.
struct Looser<'a> {
    policy: &'a str,
    found: Vec<Denial>,
}

impl Looser<'_> {
    fn check<T: Ord + Copy>(
        &mut self,
        rule: &str,
        own: Option<T>,
        asked: Option<T>,
        show: fn(T) -> String,
    ) -> Option<T> {
        if let (Some(own), Some(asked)) = (own, asked)
            && asked > own
        {
            let (asked, own, policy) = (show(asked), show(own), self.policy);
            self.found.push(Denial {
                rule: rule.to_owned(),
                explanation: format!(
                    "the request asks {asked}, policy `{policy}` allows {own}; \
                     ask for at most {own} or raise {rule} in the policy"
                ),
            });
        }
        asked.or(own)
    }
}

/// A duration as a policy writes it: the largest unit that is exact.
pub(crate) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        _ if !duration.subsec_nanos().is_multiple_of(1_000_000) => format!("{duration:?}"),
        0 => "0s".to_owned(),
        _ if millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis.is_multiple_of(1_000) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

/// A size as a policy writes it: the largest unit that is exact.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    UNITS
        .iter()
        .find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounds that a request may tighten, each set to something finite, and some that it may not touch.
    const LIMITS: &str = r#"
        version = 1
        name = "bounded"
        [limits]
        wall = "10m"
        idle = "1m"
        cpu-time = "5m"
        grace = "5s"
        memory = "1GiB"
        processes = 100
        output = "1MiB"
        cpus = 1.5
        file-size = "2MiB"
        disk = "2GiB"
        files = 5000
    "#;

    fn policy(text: &str) -> Policy {
        Policy::parse(text.as_bytes(), "test").unwrap()
    }

    fn request(limits: RequestedLimits) -> Request<'static> {
        Request {
            tool: Tool::Shell,
            argv: &[],
            caller_env: &[],
            env: &[],
            limits,
        }
    }

    fn allowed(policy: &Policy, limits: RequestedLimits) -> Limits {
        match policy.decide(&request(limits)) {
            Decision::Allowed(grants) => grants.limits,
            other => panic!("{other:?}"),
        }
    }

    fn denied(policy: &Policy, limits: RequestedLimits) -> Denial {
        match policy.decide(&request(limits)) {
            Decision::Denied(denial) => denial,
            other => panic!("{other:?}"),
        }
    }

    const fn secs(secs: u64) -> Option<Duration> {
        Some(Duration::from_secs(secs))
    }

    #[test]
    fn the_tool_for_files_asks_no_rule_about_commands_and_is_kept_out_by_its_name() {
        let rules = "version = 1\nname = \"x\"\ntools = [\"files\"]\n[commands]\ndefault = \"deny\"\n";
        let files = |text: &str| {
            policy(text).decide(&Request {
                tool: Tool::Files,
                ..request(RequestedLimits::default())
            })
        };
        assert!(matches!(files(rules), Decision::Allowed(_)));
        let Decision::Denied(denial) = files(&rules.replace("files", "shell")) else {
            panic!("allowed")
        };
        assert_eq!(denial.rule, "tools");
        assert!(
            denial.explanation.contains("add \"files\" to tools"),
            "{}",
            denial.explanation
        );
        assert!(matches!(files("version = 1\nname = \"x\""), Decision::Allowed(_)));
    }

    #[test]
    fn a_request_that_asks_nothing_gets_the_policys_own() {
        let policy = policy(LIMITS);
        assert_eq!(allowed(&policy, RequestedLimits::default()), policy.limits);
    }

    #[test]
    fn each_bound_can_be_tightened_and_none_loosened() {
        let policy = policy(LIMITS);
        const NONE: RequestedLimits = RequestedLimits {
            wall: None,
            idle: None,
            cpu_time: None,
            grace: None,
            memory_bytes: None,
            processes: None,
            output_bytes: None,
            disk_bytes: None,
            files: None,
        };
        // rule, as tight as the policy, tighter, looser by the smallest step
        let table = [
            ("limits.wall", |v| RequestedLimits { wall: Some(v), ..NONE }, 600_000),
            ("limits.idle", |v| RequestedLimits { idle: Some(v), ..NONE }, 60_000),
            (
                "limits.cpu-time",
                |v| RequestedLimits {
                    cpu_time: Some(v),
                    ..NONE
                },
                300_000,
            ),
            ("limits.grace", |v| RequestedLimits { grace: Some(v), ..NONE }, 5_000),
        ] as [(&str, fn(Duration) -> RequestedLimits, u64); 4];
        for (rule, ask, own) in table {
            let own = Duration::from_millis(own);
            assert_eq!(allowed(&policy, ask(own)), policy.limits, "{rule}");
            for tighter in [own - Duration::from_millis(1), Duration::ZERO] {
                let limits = allowed(&policy, ask(tighter));
                assert_ne!(limits, policy.limits, "{rule}");
                let in_force = [limits.wall, limits.idle, limits.cpu_time, Some(limits.grace)];
                assert!(in_force.contains(&Some(tighter)), "{rule}");
            }
            assert_eq!(denied(&policy, ask(own + Duration::from_nanos(1))).rule, rule);
            assert_eq!(denied(&policy, ask(Duration::MAX)).rule, rule);
        }

        let memory = |v| RequestedLimits {
            memory_bytes: Some(v),
            ..NONE
        };
        assert_eq!(allowed(&policy, memory(1 << 30)), policy.limits);
        assert_eq!(allowed(&policy, memory(1)).memory_bytes, Some(1));
        assert_eq!(denied(&policy, memory((1 << 30) + 1)).rule, "limits.memory");

        let processes = |v| RequestedLimits {
            processes: Some(v),
            ..NONE
        };
        assert_eq!(allowed(&policy, processes(100)), policy.limits);
        assert_eq!(allowed(&policy, processes(99)).processes, Some(99));
        assert_eq!(denied(&policy, processes(101)).rule, "limits.processes");

        let output = |v| RequestedLimits {
            output_bytes: Some(v),
            ..NONE
        };
        assert_eq!(allowed(&policy, output(1 << 20)), policy.limits);
        assert_eq!(allowed(&policy, output(7)).output_bytes, Some(7));
        assert_eq!(denied(&policy, output((1 << 20) + 1)).rule, "limits.output");

        let disk = |v| RequestedLimits {
            disk_bytes: Some(v),
            ..NONE
        };
        assert_eq!(allowed(&policy, disk(1 << 31)), policy.limits);
        assert_eq!(allowed(&policy, disk(7)).disk_bytes, Some(7));
        assert_eq!(denied(&policy, disk((1 << 31) + 1)).rule, "limits.disk");

        let files = |v| RequestedLimits { files: Some(v), ..NONE };
        assert_eq!(allowed(&policy, files(5000)), policy.limits);
        assert_eq!(allowed(&policy, files(7)).files, Some(7));
        assert_eq!(denied(&policy, files(5001)).rule, "limits.files");
    }

    #[test]
    fn under_an_unlimited_bound_any_is_tighter() {
        let policy = policy("version = 1\nname = \"x\"\n[limits]\nwall = \"unlimited\"\nmemory = \"unlimited\"");
        let asked = RequestedLimits {
            wall: secs(1 << 40),
            memory_bytes: Some(u64::MAX),
            ..Default::default()
        };
        let limits = allowed(&policy, asked);
        assert_eq!((limits.wall, limits.memory_bytes), (secs(1 << 40), Some(u64::MAX)));
    }

    #[test]
    fn a_denial_says_what_which_and_how_to_mend_it() {
        let denial = denied(
            &policy(LIMITS),
            RequestedLimits {
                wall: secs(1200),
                ..Default::default()
            },
        );
        assert_eq!(denial.rule, "limits.wall");
        assert_eq!(
            denial.explanation,
            "the request asks 20m, policy `bounded` allows 10m; ask for at most 10m or raise limits.wall in the policy"
        );
    }

    #[test]
    fn all_looser_bounds_are_explained_and_the_first_is_the_rule() {
        let asked = RequestedLimits {
            wall: secs(601),
            memory_bytes: Some(4 << 30),
            ..Default::default()
        };
        let denial = denied(&policy(LIMITS), asked);
        assert_eq!(denial.rule, "limits.wall");
        assert!(denial.explanation.contains("asks 601s"), "{}", denial.explanation);
        assert!(
            denial.explanation.contains("; the request asks 4GiB"),
            "{}",
            denial.explanation
        );
    }

    #[test]
    fn the_grants_are_the_policys_and_the_environment_is_built() {
        let (_, policy) = crate::builtin("default").unwrap();
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let caller = [
            pair("PATH", "/bin"),
            pair("LD_PRELOAD", "/x.so"),
            pair("GH_TOKEN", "t"),
            pair("PAGER", "less"),
        ];
        let own = [pair("X", "1"), pair("PAGER", "more")];
        let asked = Request {
            caller_env: &caller,
            env: &own,
            ..request(RequestedLimits::default())
        };
        let Decision::Allowed(grants) = policy.decide(&asked) else {
            panic!("denied")
        };
        assert_eq!(grants.filesystem, policy.filesystem);
        assert_eq!(grants.required, policy.protections.required);
        let value = |name: &str| grants.env.get(name.as_bytes()).map(|value| value.as_slice());
        assert_eq!(value("PATH"), Some(b"/bin".as_slice()));
        assert_eq!(value("LD_PRELOAD"), None);
        assert_eq!(value("GH_TOKEN"), None);
        assert_eq!(value("PAGER"), Some(b"more".as_slice()));
        assert_eq!(value("GIT_PAGER"), Some(b"cat".as_slice()));
        assert_eq!(value("X"), Some(b"1".as_slice()));
    }

    #[test]
    fn bounds_are_shown_as_a_policy_writes_them() {
        let shown = [
            (0, "0s"),
            (1, "1ms"),
            (1500, "1500ms"),
            (90_000, "90s"),
            (600_000, "10m"),
            (7_200_000, "2h"),
        ];
        for (millis, text) in shown {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration(Duration::from_nanos(1_000_000_001)), "1.000000001s");
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1023, "1023B"),
            (1 << 10, "1KiB"),
            (3 << 29, "1536MiB"),
            (1 << 42, "4TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
