//! What a person is told about a run: why it ended as it did, and with `--verbose` what it took and what was enforced.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use fumehood_client::proto::convert::{duration_to_std, signal_name};
use fumehood_client::proto::v1::{
    self as wire, CancelCause, Denial, Ending, Enforcement, EnforcementEntry, Finished, Gap, Protection,
    ProtectionState, Requirement, SandboxFailed, SpawnFailed, Started, TimeLimit, Usage, UsageSource, ending::Kind,
};
use nix::errno::Errno;

use crate::duration::show;
use crate::json::hex;

/// Hexadecimal digits of a policy's digest that are shown: enough to tell one's policies apart.
const DIGEST_DIGITS: usize = 12;

/// Processes left behind that are named; further ones are counted.
const LEFTOVERS_NAMED: usize = 8;

/// Why a run ended as it did, where the command itself will not have said so; none for an ordinary end.
#[must_use]
pub fn notice(ending: &Ending, program: &[u8]) -> Option<String> {
    Some(match ending.kind.as_ref()? {
        Kind::Exited(_) => return None,
        Kind::Signaled(signaled) if signaled.signal == nix::libc::SIGSYS => {
            "ended by SIGSYS: the command made a system call that the sandbox refuses".to_owned()
        }
        Kind::Signaled(_) => return None,
        Kind::TimedOut(timed_out) => {
            let limit = match TimeLimit::try_from(timed_out.limit) {
                Ok(TimeLimit::Idle) => "without output",
                Ok(TimeLimit::Cpu) => "of CPU time",
                _ => "of elapsed time",
            };
            format!(
                "ended at its time limit: {} {limit}",
                duration(timed_out.after.as_ref())
            )
        }
        Kind::Cancelled(cancelled) => {
            let by = if cancelled.by.is_empty() {
                String::new()
            } else {
                format!(" by {}", cancelled.by)
            };
            let reason = if cancelled.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", cancelled.reason)
            };
            match CancelCause::try_from(cancelled.cause) {
                Ok(CancelCause::Drain) => format!("ended because the daemon shuts down{reason}"),
                Ok(CancelCause::Disconnect) => format!("ended because its connection was lost{reason}"),
                Ok(CancelCause::Session) => format!("ended with its session{by}{reason}"),
                _ => format!("killed{by}{reason}"),
            }
        }
        Kind::OutOfMemory(out) => format!("ended at its memory limit: {}", bytes(out.limit_bytes)),
        Kind::OutputLimit(limit) => {
            let stream = match wire::OutputStream::try_from(limit.stream) {
                Ok(wire::OutputStream::Stderr) => "standard error",
                _ => "standard output",
            };
            format!(
                "ended at its output limit: {} (passed on {stream})",
                bytes(limit.limit_bytes)
            )
        }
        Kind::DiskLimit(limit) => match wire::DiskResource::try_from(limit.resource) {
            Ok(wire::DiskResource::Files) => format!(
                "ended at its limit of files: {} (limits.files), {} were made",
                limit.limit, limit.used
            ),
            _ => format!(
                "ended at its disk limit: {} (limits.disk), {} were taken",
                bytes(limit.limit),
                bytes(limit.used)
            ),
        },
        Kind::Denied(denied) => format!("refused by the policy ({}): {}", denied.rule, denied.explanation),
        Kind::SpawnFailed(failed) => spawn_failed(failed, program),
        Kind::SandboxFailed(failed) => sandbox_failed(failed),
        Kind::Lost(lost) => format!("the run was lost: {}; its processes are gone", lost.why),
    })
}

/// Which limits a failed command met that its ending does not name; each with the policy's key.
#[must_use]
pub fn limits_met(started: Option<&Started>, finished: &Finished) -> Vec<String> {
    let (Some(limits), Some(usage)) = (
        started.and_then(|started| started.limits.as_ref()),
        finished.usage.as_ref(),
    ) else {
        return Vec::new();
    };
    let kind = finished.ending.as_ref().and_then(|ending| ending.kind.as_ref());
    let mut met = Vec::new();
    if usage.oom_kills > 0 {
        let (count, noun) = counted(usage.oom_kills, "process", "processes");
        let limit = limits
            .memory_bytes
            .map_or_else(String::new, |limit| format!(" of {}", bytes(limit)));
        met.push(format!(
            "the kernel killed {count} {noun} at the memory limit{limit} (limits.memory)"
        ));
    }
    if finished.shell_code == 0 {
        return met;
    }
    if let (Some(failures @ 1..), Some(limit)) = (usage.fork_failures, limits.processes) {
        let (count, noun) = counted(failures, "time", "times");
        met.push(format!(
            "the limit of {limit} processes and threads was reached {count} {noun} (limits.processes)"
        ));
    }
    if let (Some(Kind::Signaled(signaled)), Some(limit)) = (kind, limits.file_bytes)
        && signaled.signal == nix::libc::SIGXFSZ
    {
        met.push(format!(
            "a file would have passed the limit of {} (limits.file-size)",
            bytes(limit)
        ));
    }
    let throttled = usage
        .throttled
        .as_ref()
        .filter(|held| held.seconds > 0 || held.nanos >= 100_000_000);
    if let (Some(Kind::TimedOut(_)), Some(held), Some(millis)) = (kind, throttled, limits.cpu_millis) {
        met.push(format!(
            "the limit of {} processors held it back for {} (limits.cpus)",
            f64::from(millis) / 1000.0,
            duration(Some(held))
        ));
    }
    met
}

fn counted(count: u64, one: &'static str, many: &'static str) -> (u64, &'static str) {
    (count, if count == 1 { one } else { many })
}

fn spawn_failed(failed: &SpawnFailed, program: &[u8]) -> String {
    let SpawnFailed {
        stage,
        errno,
        errno_name,
        path,
    } = failed;
    let path = if path.is_empty() { text(program) } else { text(path) };
    let errno_value = Errno::from_raw(*errno);
    match (stage.as_str(), errno_value) {
        ("search", Errno::ENOENT) => format!("{}: command not found", text(program)),
        ("cwd", _) => format!(
            "cannot enter the working directory {path}: {}",
            reason(*errno, errno_name)
        ),
        ("exec", Errno::ENOENT) if path == text(program) => {
            format!("{path}: no such file in the sandbox, or its interpreter is missing there")
        }
        (_, Errno::ENOEXEC) => {
            format!("{path}: cannot be executed: not a program, and no `#!` line says which one to use")
        }
        ("search" | "exec", _) => format!("{path}: cannot be executed: {}", reason(*errno, errno_name)),
        _ => format!("{path}: {stage}: {}", reason(*errno, errno_name)),
    }
}

fn sandbox_failed(failed: &SandboxFailed) -> String {
    let SandboxFailed {
        protection,
        stage,
        errno,
        errno_name,
        path,
        hint,
    } = failed;
    let mut told = format!("the sandbox could not be built, nothing was run: {stage}");
    if !path.is_empty() {
        let _ = write!(told, " {}", text(path));
    }
    if *errno != 0 {
        let _ = write!(told, ": {}", reason(*errno, errno_name));
    }
    if let Ok(protection) = Protection::try_from(*protection)
        && protection != Protection::Unspecified
    {
        let _ = write!(told, " ({})", protection_words(protection));
    }
    if !hint.is_empty() {
        let _ = write!(told, "; {hint}");
    }
    told
}

/// `no such file or directory (ENOENT)`.
fn reason(errno: i32, name: &str) -> String {
    let described = match Errno::from_raw(errno) {
        Errno::UnknownErrno => format!("error {errno}"),
        known => known.desc().to_lowercase(),
    };
    if name.is_empty() {
        described
    } else {
        format!("{described} ({name})")
    }
}

/// That processes were left behind and ended, or kept in a session; none when there were none.
#[must_use]
pub fn leftovers(exited: &wire::ProcessExited, kept: bool) -> Option<String> {
    let count = exited
        .leftover_count
        .max(u32::try_from(exited.leftovers.len()).unwrap_or(u32::MAX));
    if count == 0 {
        return None;
    }
    let mut names: Vec<_> = exited
        .leftovers
        .iter()
        .take(LEFTOVERS_NAMED)
        .map(|left| format!("{} ({})", text(&left.comm), left.pid))
        .collect();
    let unnamed = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(names.len());
    if unnamed > 0 {
        names.push(format!("{unnamed} more"));
    }
    let noun = if count == 1 { "process was" } else { "processes were" };
    let fate = if kept { "kept in the session" } else { "killed" };
    Some(format!(
        "{count} background {noun} still there when the command ended, and {fate}: {}",
        names.join(", ")
    ))
}

/// What a shell line did not leave for the next one of its session.
#[must_use]
pub fn not_carried(finished: &Finished) -> Option<String> {
    let why = text(finished.not_carried.as_bytes());
    (!why.is_empty()).then(|| format!("not carried to the next line of the session: {why}"))
}

/// That output is missing.
#[must_use]
pub fn gap(gap: &Gap) -> String {
    format!(
        "{} of standard output and {} of standard error are lost",
        bytes(gap.stdout_bytes),
        bytes(gap.stderr_bytes)
    )
}

/// Denials told of a failed command, each in a line.
const DENIALS_TOLD: usize = 3;

/// What a denial says that a command was not told of: what it had written was dropped after it had closed the file.
const UNTOLD: &str = "keep";

/// What the sandbox refused, in lines that say what would allow it: the first ones for a command that failed, those that it was not told of for any
/// other, all with `verbose`.
#[must_use]
pub fn denials(finished: &Finished, verbose: bool) -> Vec<String> {
    let told = if verbose { usize::MAX } else { DENIALS_TOLD };
    let concerns = |denial: &&Denial| verbose || finished.shell_code != 0 || denial.operation == UNTOLD;
    let concerned: Vec<&Denial> = finished.denials.iter().filter(concerns).collect();
    let mut lines: Vec<String> = concerned.iter().take(told).map(|known| denial(known)).collect();
    let more = concerned.len().saturating_sub(told);
    if more > 0 {
        lines.push(format!(
            "and {more} more denials: `fumehood run -v` shows all of them, `--json` as data"
        ));
    }
    lines
}

fn denial(denial: &Denial) -> String {
    use wire::denial::Subject;
    let Denial {
        protection,
        operation,
        subject,
        rule,
        remedy,
        evidence,
    } = denial;
    let how = match wire::Evidence::try_from(*evidence) {
        Ok(wire::Evidence::Inferred) => "probably denied",
        _ => "denied",
    };
    let what = match subject {
        Some(Subject::Path(path)) => format!("{operation} {}", text(path)),
        Some(Subject::SystemCall(name)) => format!("system call {}", text(name.as_bytes())),
        Some(Subject::Address(address)) if address.is_empty() => "connect to a host outside".to_owned(),
        Some(Subject::Address(address)) => {
            let preposition = if operation == "listen" { "on" } else { "to" };
            format!("{operation} {preposition} {}", text(address.as_bytes()))
        }
        None => operation.clone(),
    };
    let protection = self::protection(*protection).replace(' ', "-");
    let allowed = match remedy.as_str() {
        "" => "no policy allows it".to_owned(),
        remedy => format!("allowed by: {} in the policy", text(remedy.as_bytes())),
    };
    format!("{how}: {what} ({protection}: {}); {allowed}", text(rule.as_bytes()))
}

/// What the project's own file did not give for want of trust, and what to do about it.
#[must_use]
pub fn not_given(started: &Started, workspace: &[u8]) -> Option<String> {
    if started.not_given.is_empty() {
        return None;
    }
    let words: Vec<_> = started.not_given.iter().map(|words| text(words.as_bytes())).collect();
    Some(format!(
        "the project's .fumehood.toml is not trusted and only narrows; not given: {}\n\
         fumehood: to see it and trust it: fumehood policy trust {}",
        words.join("; "),
        text(workspace)
    ))
}

/// The lines of `--verbose`.
#[must_use]
pub fn summary(started: Option<&Started>, finished: &Finished) -> Vec<String> {
    let mut lines = vec![outcome(finished)];
    if let Some(usage) = &finished.usage {
        lines.extend(consumed(usage, started.is_some()));
    }
    if let Some(Started {
        enforcement,
        policy_name,
        policy_digest,
        layers,
        ..
    }) = started
    {
        let digest = hex(policy_digest);
        // A policy by itself is its only layer.
        let layers = match layers.as_slice() {
            [] => String::new(),
            [one] if one == policy_name => String::new(),
            layers => format!(": {}", text(layers.join(", under ").as_bytes())),
        };
        lines.push(format!(
            "policy: {policy_name} {}{layers}",
            digest.get(..DIGEST_DIGITS).unwrap_or(&digest)
        ));
        lines.extend(enforcement.as_ref().into_iter().flat_map(enforced));
    }
    lines
}

fn outcome(finished: &Finished) -> String {
    let wall = finished.usage.as_ref().and_then(|usage| usage.wall.as_ref());
    let after = wall.map_or(String::new(), |wall| format!(" after {}", duration(Some(wall))));
    let how = match finished.ending.as_ref().and_then(|ending| ending.kind.as_ref()) {
        Some(Kind::Exited(exited)) => format!("exited with code {}", exited.code),
        Some(Kind::Signaled(signaled)) => {
            let name = Some(signaled.name.as_str())
                .filter(|name| !name.is_empty())
                .or_else(|| signal_name(signaled.signal));
            let core = if signaled.core_dumped { ", core dumped" } else { "" };
            format!(
                "ended by {}{core}",
                name.map_or_else(|| format!("signal {}", signaled.signal), str::to_owned)
            )
        }
        Some(Kind::TimedOut(_)) => "timed out".to_owned(),
        Some(Kind::Cancelled(_)) => "cancelled".to_owned(),
        Some(Kind::OutOfMemory(_)) => "out of memory".to_owned(),
        Some(Kind::OutputLimit(_)) => "over its output limit".to_owned(),
        Some(Kind::DiskLimit(_)) => "over its disk limit".to_owned(),
        Some(Kind::Denied(_)) => return "not started: denied".to_owned(),
        Some(Kind::SpawnFailed(_)) => return "not started: cannot be executed".to_owned(),
        Some(Kind::SandboxFailed(_)) => return "not started: no sandbox".to_owned(),
        Some(Kind::Lost(_)) => "lost".to_owned(),
        None => "ended in a way this program does not know".to_owned(),
    };
    format!("{how}{after}")
}

fn consumed(usage: &Usage, started: bool) -> Vec<String> {
    let queued = duration(usage.queued.as_ref());
    let setup = duration(usage.setup.as_ref());
    if !started {
        return vec![format!("time: {queued} queued, {setup} set-up")];
    }
    let source = match UsageSource::try_from(usage.source) {
        Ok(UsageSource::Cgroup) => "whole tree, with page cache",
        Ok(UsageSource::Rusage) => "largest process",
        _ => "source unknown",
    };
    vec![
        format!(
            "time: {} wall, {} CPU (user), {} CPU (system); {queued} queued, {setup} set-up",
            duration(usage.wall.as_ref()),
            duration(usage.cpu_user.as_ref()),
            duration(usage.cpu_system.as_ref()),
        ),
        format!("memory: {} peak ({source})", bytes(usage.memory_peak_bytes)),
        format!(
            "output: {} on stdout, {} on stderr",
            bytes(usage.stdout_bytes),
            bytes(usage.stderr_bytes)
        ),
    ]
}

/// What a policy prefers and this run does not have, in one line. `None`: nothing of that.
#[must_use]
pub fn preferred_missing(started: &Started) -> Option<String> {
    let entries = started
        .enforcement
        .as_ref()
        .map_or(&[][..], |enforcement| &enforcement.entries);
    let missing: Vec<_> = entries
        .iter()
        .filter(|entry| entry.requirement() == Requirement::Preferred && entry.state() != ProtectionState::Active)
        .map(|entry| {
            let detail = text(entry.detail.as_bytes());
            format!(
                "{} ({}: {detail})",
                protection(entry.protection),
                state_word(entry.state)
            )
        })
        .collect();
    (!missing.is_empty()).then(|| {
        let policy = text(started.policy_name.as_bytes());
        format!("runs without what policy {policy} prefers: {}", missing.join(", "))
    })
}

/// One line for each protection, the strongest state first left to the order of the protections.
fn enforced(enforcement: &Enforcement) -> Vec<String> {
    let width = enforcement
        .entries
        .iter()
        .map(|entry| protection(entry.protection).len())
        .max()
        .unwrap_or(0);
    let line = |entry: &EnforcementEntry| {
        let EnforcementEntry {
            protection: which,
            state,
            detail,
            requirement: _,
        } = entry;
        let required = match entry.requirement() {
            Requirement::Required => "",
            Requirement::Preferred => ", preferred",
            Requirement::None | Requirement::Unspecified => ", not required",
        };
        let detail = if detail.is_empty() {
            String::new()
        } else {
            format!("  {detail}")
        };
        format!(
            "enforced: {:width$}  {}{required}{detail}",
            protection(*which),
            state_word(*state)
        )
    };
    enforcement.entries.iter().map(line).collect()
}

/// `filesystem view`.
#[must_use]
pub fn protection(value: i32) -> Cow<'static, str> {
    match Protection::try_from(value) {
        Ok(known) => Cow::Owned(protection_words(known)),
        Err(_) => Cow::Owned(format!("protection {value}")),
    }
}

fn protection_words(protection: Protection) -> String {
    protection
        .as_str_name()
        .trim_start_matches("PROTECTION_")
        .to_lowercase()
        .replace('_', " ")
}

/// `active`.
#[must_use]
pub fn state_word(value: i32) -> &'static str {
    match ProtectionState::try_from(value) {
        Ok(ProtectionState::Active) => "active",
        Ok(ProtectionState::Degraded) => "degraded",
        Ok(ProtectionState::Off) => "off",
        _ => "unknown",
    }
}

/// A duration of the wire for people; one that is missing or makes no sense is `?`.
fn duration(duration: Option<&prost_types::Duration>) -> String {
    duration
        .and_then(|duration| duration_to_std(duration).ok())
        .map_or_else(|| "?".to_owned(), |d: Duration| show(d))
}

/// A number of bytes for people, in powers of 1024.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "";
    for next in UNITS {
        // What would be shown as 1024 is one of the next.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let number = format!("{value:.1}");
    format!("{} {unit}", number.strip_suffix(".0").unwrap_or(&number))
}

/// Bytes for a person's terminal: text, with what would move the cursor or is no text escaped.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                shown.extend(c.escape_default())
            } else {
                shown.push(c)
            }
        }
        shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    shown
}

/// A path on one line, as the daemon writes it in what it says of files: bytes of control characters and those that are no text as `\xNN`, a
/// backslash as two. So it can be told from every other path.
pub fn path(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => shown.push_str("\\\\"),
                c if c.is_control() => {
                    let bytes = c.encode_utf8(&mut [0; 4]).bytes().collect::<Vec<_>>();
                    shown.extend(bytes.iter().map(|byte| format!("\\x{byte:02x}")));
                }
                c => shown.push(c),
            }
        }
        shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    shown
}

/// Text of somebody else's as a terminal may have it: escaped where it is a control character, or one that is not seen or changes the order
/// of what is.
pub fn safe(untrusted: &str) -> String {
    let unseen = |c: char| matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
    let mut shown = String::with_capacity(untrusted.len());
    for c in text(untrusted.as_bytes()).chars() {
        match unseen(c) {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: Kind) -> Option<String> {
        notice(&Ending { kind: Some(kind) }, b"prog")
    }

    fn spawn(stage: &str, errno: i32, path: &'static str) -> String {
        let errno_name = fumehood_client::proto::convert::errno_name(errno).unwrap().to_owned();
        told(Kind::SpawnFailed(SpawnFailed {
            stage: stage.to_owned(),
            errno,
            errno_name,
            path: path.into(),
        }))
        .unwrap()
    }

    #[test]
    fn a_path_is_told_as_the_daemon_tells_it() {
        assert_eq!(path("/ä b".as_bytes()), "/ä b");
        assert_eq!(path(b"a\nb\\\xff\x1b[m"), "a\\x0ab\\\\\\xff\\x1b[m");
        assert_eq!(path("\u{85}".as_bytes()), "\\xc2\\x85");
    }

    #[test]
    fn an_ordinary_end_needs_no_word() {
        assert_eq!(told(Kind::Exited(wire::Exited { code: 3 })), None);
        let signaled = |signal| {
            Kind::Signaled(wire::Signaled {
                signal,
                name: String::new(),
                core_dumped: false,
            })
        };
        assert_eq!(told(signaled(15)), None);
        assert!(told(signaled(31)).unwrap().contains("system call"));
    }

    #[test]
    fn a_command_that_cannot_be_executed_is_told_as_shells_do() {
        assert_eq!(spawn("search", 2, ""), "prog: command not found");
        assert_eq!(
            spawn("exec", 13, "/w/prog"),
            "/w/prog: cannot be executed: permission denied (EACCES)"
        );
        assert!(spawn("exec", 8, "/w/prog").contains("not a program"));
        assert!(spawn("cwd", 2, "/w/x").starts_with("cannot enter the working directory /w/x: no such file"));
    }

    #[test]
    fn each_bound_is_named_with_its_value() {
        let after = Some(prost_types::Duration { seconds: 90, nanos: 0 });
        assert_eq!(
            told(Kind::TimedOut(wire::TimedOut { limit: 1, after })).unwrap(),
            "ended at its time limit: 1m30s of elapsed time"
        );
        assert_eq!(
            told(Kind::OutOfMemory(wire::OutOfMemory { limit_bytes: 1 << 30 })).unwrap(),
            "ended at its memory limit: 1 GiB"
        );
        let limit = wire::OutputLimit {
            stream: 2,
            limit_bytes: 2048,
        };
        assert_eq!(
            told(Kind::OutputLimit(limit)).unwrap(),
            "ended at its output limit: 2 KiB (passed on standard error)"
        );
    }

    #[test]
    fn the_disk_limit_is_told_with_what_was_taken() {
        let limit = |resource: wire::DiskResource, limit, used| {
            let resource = resource.into();
            told(Kind::DiskLimit(wire::DiskLimit { resource, limit, used })).unwrap()
        };
        assert_eq!(
            limit(wire::DiskResource::Space, 1 << 20, 3 << 20),
            "ended at its disk limit: 1 MiB (limits.disk), 3 MiB were taken"
        );
        assert_eq!(
            limit(wire::DiskResource::Files, 100, 120),
            "ended at its limit of files: 100 (limits.files), 120 were made"
        );
    }

    #[test]
    fn only_what_is_preferred_and_missing_is_told() {
        let started = |requirement: Requirement, state: ProtectionState| {
            let entry = EnforcementEntry {
                protection: Protection::Resources.into(),
                state: state.into(),
                detail: "no cgroups".to_owned(),
                requirement: requirement.into(),
            };
            let enforcement = Some(Enforcement { entries: vec![entry] });
            preferred_missing(&Started {
                enforcement,
                policy_name: "ci".to_owned(),
                ..Started::default()
            })
        };
        assert_eq!(
            started(Requirement::Preferred, ProtectionState::Off).as_deref(),
            Some("runs without what policy ci prefers: resources (off: no cgroups)")
        );
        assert_eq!(started(Requirement::Preferred, ProtectionState::Active), None);
        assert_eq!(started(Requirement::None, ProtectionState::Off), None);
    }

    #[test]
    fn what_an_untrusted_file_did_not_give_is_told_with_the_command_that_helps() {
        assert_eq!(not_given(&Started::default(), b"/w"), None);
        let started = Started {
            not_given: vec!["network.mode = \"x\", where \"loopback\" is the most".to_owned()],
            ..Default::default()
        };
        let told = not_given(&started, b"/w").unwrap();
        assert!(
            told.contains("network.mode") && told.ends_with("fumehood policy trust /w"),
            "{told}"
        );
    }

    #[test]
    fn a_failed_command_is_told_which_limits_it_met() {
        let started = Started {
            limits: Some(wire::EffectiveLimits {
                memory_bytes: Some(1 << 30),
                processes: Some(128),
                cpu_millis: Some(1500),
                file_bytes: Some(4096),
                ..Default::default()
            }),
            ..Default::default()
        };
        let met = |kind, shell_code, usage| {
            let finished = Finished {
                ending: Some(Ending { kind: Some(kind) }),
                shell_code,
                usage: Some(usage),
                ..Default::default()
            };
            limits_met(Some(&started), &finished)
        };
        let exited = |code| Kind::Exited(wire::Exited { code });
        let forks = Usage {
            fork_failures: Some(37),
            ..Default::default()
        };
        assert_eq!(
            met(exited(1), 1, forks),
            ["the limit of 128 processes and threads was reached 37 times (limits.processes)"]
        );
        // Who succeeded has coped, but for processes that are dead.
        assert!(met(exited(0), 0, forks).is_empty());
        let killed = Usage {
            oom_kills: 1,
            ..Default::default()
        };
        assert_eq!(
            met(exited(0), 0, killed),
            ["the kernel killed 1 process at the memory limit of 1 GiB (limits.memory)"]
        );
        let signal = Kind::Signaled(wire::Signaled {
            signal: nix::libc::SIGXFSZ,
            ..Default::default()
        });
        assert_eq!(
            met(signal, 153, Usage::default()),
            ["a file would have passed the limit of 4 KiB (limits.file-size)"]
        );
        let throttled = Usage {
            throttled: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            ..Default::default()
        };
        let timed_out = Kind::TimedOut(wire::TimedOut::default());
        assert_eq!(
            met(timed_out, 124, throttled),
            ["the limit of 1.5 processors held it back for 2s (limits.cpus)"]
        );
        assert!(met(exited(1), 1, throttled).is_empty());
        assert!(met(exited(1), 1, Usage::default()).is_empty());
    }

    #[test]
    fn a_sandbox_that_fails_says_where_why_and_what_to_do() {
        let failed = SandboxFailed {
            protection: Protection::Network.into(),
            stage: "clone3".into(),
            errno: 1,
            errno_name: "EPERM".into(),
            path: "".into(),
            hint: "run `sysctl kernel.unprivileged_userns_clone=1`".into(),
        };
        assert_eq!(
            told(Kind::SandboxFailed(failed)).unwrap(),
            "the sandbox could not be built, nothing was run: clone3: operation not permitted (EPERM) (network); \
             run `sysctl kernel.unprivileged_userns_clone=1`"
        );
    }

    #[test]
    fn leftovers_are_named_and_counted() {
        let left = |pid| wire::Leftover {
            pid,
            comm: "sleep".into(),
        };
        let exited = |leftovers: Vec<_>, leftover_count| wire::ProcessExited {
            status: None,
            leftovers,
            leftover_count,
        };
        assert_eq!(leftovers(&exited(vec![], 0), false), None);
        assert_eq!(
            leftovers(&exited(vec![left(7)], 1), false).unwrap(),
            "1 background process was still there when the command ended, and killed: sleep (7)"
        );
        let many = leftovers(&exited((0..64).map(left).collect(), 100), false).unwrap();
        assert!(
            many.starts_with("100 background processes were") && many.ends_with("sleep (7), 92 more"),
            "{many}"
        );
    }

    #[test]
    fn a_denial_says_which_rule_and_what_would_allow_it() {
        use wire::denial::Subject;
        let hook = Denial {
            protection: Protection::ProtectedPaths.into(),
            operation: "change".into(),
            subject: Some(Subject::Path("/w/.git/hooks/x\n".into())),
            rule: "git: hooks run when git is used outside".into(),
            remedy: "filesystem.git = \"open\"".into(),
            evidence: wire::Evidence::Observed.into(),
        };
        let call = Denial {
            protection: Protection::SystemCalls.into(),
            operation: "call".into(),
            subject: Some(Subject::SystemCall("mount".into())),
            rule: "the profile default refuses it: it is for mounting".into(),
            ..Denial::default()
        };
        let host = |address: &str| Denial {
            protection: Protection::Network.into(),
            operation: "connect".into(),
            subject: Some(Subject::Address(address.into())),
            rule: "network.mode".into(),
            evidence: wire::Evidence::Inferred.into(),
            ..Denial::default()
        };
        let finished = |shell_code| Finished {
            shell_code,
            denials: vec![
                hook.clone(),
                call.clone(),
                host("example.com:443"),
                host(""),
                host("b.c"),
            ],
            ..Finished::default()
        };
        assert_eq!(
            denials(&finished(1), false),
            [
                "denied: change /w/.git/hooks/x\\n (protected-paths: git: hooks run when git is used outside); \
                 allowed by: filesystem.git = \"open\" in the policy",
                "denied: system call mount (system-calls: the profile default refuses it: it is for mounting); no policy allows it",
                "probably denied: connect to example.com:443 (network: network.mode); no policy allows it",
                "and 2 more denials: `fumehood run -v` shows all of them, `--json` as data",
            ]
        );
        assert_eq!(denials(&finished(0), false), Vec::<String>::new());
        // Whoever was not told cannot have minded.
        let mut dropped = finished(0);
        dropped.denials.push(Denial {
            operation: "keep".to_owned(),
            ..hook.clone()
        });
        let lines = denials(&dropped, false);
        assert!(
            lines.len() == 1 && lines[0].starts_with("denied: keep /w/.git/hooks/x"),
            "{lines:?}"
        );
        let all = denials(&finished(0), true);
        assert!(
            all.len() == 5 && all[3].contains("connect to a host outside"),
            "{all:?}"
        );
    }

    #[test]
    fn byte_counts_are_short() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(text(b"a\x1b[2Jb\xff\n"), "a\\u{1b}[2Jb\\xff\\n");
    }

    #[test]
    fn a_run_that_never_started_shows_no_figures_it_does_not_have() {
        let ending = Some(Ending {
            kind: Some(Kind::Denied(wire::Denied::default())),
        });
        let usage = Some(Usage::default());
        let lines = summary(
            None,
            &Finished {
                ending,
                shell_code: 125,
                usage,
                ..Finished::default()
            },
        );
        assert_eq!(lines, ["not started: denied", "time: ? queued, ? set-up"]);
    }
}
