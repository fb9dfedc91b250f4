//! The words for each kind of record.
//!
//! What a record holds was in part written by whoever asked for a run. So a line has nothing in it that moves a terminal's cursor, every
//! value in its middle is one word, quoted where it holds anything but plain characters, and free text comes last and is cut.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fumehood_client::proto::convert::{errno_name, signal_name};
use serde_json::Value;

use crate::daemon::Heading;
use crate::duration::show;
use crate::listing::shell_word;
use crate::render;
use crate::render::safe;

/// Most characters of a line.
pub const LINE_CHARS: usize = 800;
/// Most characters of a name.
pub const NAME_CHARS: usize = 60;
/// Most characters of a command, of a path and of free text.
const TEXT_CHARS: usize = 200;
/// Hexadecimal digits of a policy's digest, as elsewhere.
const DIGEST_DIGITS: usize = 12;

/// A record in one line: when, who, what.
#[must_use]
pub fn line(heading: &Heading, record: &Value) -> String {
    let run_peer = heading.run_id.as_deref().and_then(|id| Some(id.split_once('@')?.1));
    let who = match heading.kind.as_str() {
        "approval_resolved" | "approval_rule_removed" | "session_reset" => name(&record["by"]),
        "session_closed" if !text(&record["by"]).is_empty() => name(&record["by"]),
        _ if record["peer"].is_null() => word(run_peer.unwrap_or("daemon").as_bytes(), NAME_CHARS),
        _ => name(&record["peer"]),
    };
    // To the second.
    let time = match heading.time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => heading.time.clone(),
    };
    let told = told(heading, record);
    cut(&format!("{}  {who:8}  {told}", word(time.as_bytes(), 24)), LINE_CHARS)
}

fn told(heading: &Heading, record: &Value) -> String {
    let run = heading.run_id.as_deref().map_or_else(|| "run ?".to_owned(), run);
    let rule = || name(&record["rule"]);
    let policy = || {
        let digest = record["policy_digest"].as_str().unwrap_or_default();
        let digest: String = digest.chars().take(DIGEST_DIGITS).collect();
        let digest = if digest.is_empty() {
            digest
        } else {
            format!(" {}", word(digest.as_bytes(), DIGEST_DIGITS))
        };
        format!("policy {}{digest}", name(&record["policy_name"]))
    };
    let command = || {
        let carried = last(", with what earlier lines left: ", &record["carried"]);
        let session = match record["session"].as_str() {
            Some(id) if !id.is_empty() => format!("in {} ", session(id)),
            _ => String::new(),
        };
        format!(
            "{session}in {}: {}{carried}",
            path(&record["cwd"]),
            words(&record["argv"])
        )
    };
    let of_session = || session(record["session_id"].as_str().unwrap_or_default());
    let question = || format!("question {} of {run}", name(&record["approval_id"]));
    let reason = || last(": ", &record["reason"]);
    match heading.kind.as_str() {
        "log_opened" => log_opened(record),
        "log_continued" => {
            let of = |value: &Value| short(value.as_str().unwrap_or_default());
            format!(
                "version {} took over (instance {}); {} goes on with its own runs",
                name(&record["version"]),
                of(&record["instance"]),
                list(&record["goes_on"]).iter().map(of).collect::<Vec<_>>().join(", ")
            )
        }
        "intent" => format!("{run} allowed by {} ({}) {}", rule(), policy(), command()),
        "denied" => format!(
            "{run} denied by {} ({}) {}{}",
            rule(),
            policy(),
            command(),
            last("; ", &record["reason"])
        ),
        "end" => format!("{run} {}", end(record)),
        "session_created" => {
            let time = |key: &str| {
                record[key]
                    .as_u64()
                    .map_or_else(|| "?".to_owned(), |ms| show(Duration::from_millis(ms)))
            };
            format!(
                "{} created ({}) in {}, for {}, {} without a run",
                of_session(),
                policy(),
                path(&record["cwd"]),
                time("lifetime_ms"),
                time("idle_timeout_ms")
            )
        }
        "session_reset" => format!("{} reset", of_session()),
        "session_interrupted" => format!(
            "{} interrupted: its daemon was gone before it was closed (it was created in record {})",
            of_session(),
            number(&record["created_seq"])
        ),
        "session_closed" => format!(
            "{} closed ({}) after {} runs{}",
            of_session(),
            name(&record["end"]),
            number(&record["runs"]),
            last(": ", &record["detail"])
        ),
        "interrupted" => {
            let intent = number(&record["intent_seq"]);
            format!("{run} interrupted: its daemon was gone before it ended (its intent is record {intent})")
        }
        "run_attached" => format!("{run} attached to{}", times(record)),
        "run_input" => {
            let from = match record["count"].as_u64() {
                Some(attachments @ 2..) => format!(" from {attachments} attachments"),
                _ => String::new(),
            };
            let bytes = record["bytes"].as_u64().map_or_else(|| "?".to_owned(), render::bytes);
            format!("{run} got {bytes} of input{from}")
        }
        "run_signalled" => {
            let called = |signal: &Value| {
                let value = signal.as_i64().and_then(|value| i32::try_from(value).ok());
                value
                    .and_then(signal_name)
                    .map_or_else(|| number(signal), str::to_owned)
            };
            let signals: Vec<_> = list(&record["signals"]).iter().take(64).map(called).collect();
            format!("{run} got {}{}", signals.join(" "), times(record))
        }
        "run_killed" => format!("{run} asked to end{}", times(record)),
        "run_released" => format!("{run} removed, and its output with it"),
        "approval_requested" => format!(
            "{} asked by {} ({}), to be answered by {}: {}{}",
            question(),
            rule(),
            policy(),
            word(text(&record["expires_at"]).get(..19).unwrap_or_default(), 24),
            words(&record["commands"]),
            last("; ", &record["reason"])
        ),
        "approval_resolved" => {
            let means = match record["means"].as_str() {
                Some("terminal") => ", by who asked, from a terminal",
                Some("self") => ", by who asked",
                _ => "",
            };
            format!("{} {}{means}{}{}", question(), answer(record), rules(record), reason())
        }
        "approval_applied" => format!(
            "{run} needs no new answer: {} earlier by {}{}{}",
            answer(record),
            name(&record["by"]),
            rules(record),
            reason()
        ),
        "approval_expired" => format!("{} denied: nobody answered in time", question()),
        "approval_withdrawn" => format!("{} withdrawn: the run ended before it was answered", question()),
        "approval_interrupted" => {
            let request = number(&record["request_seq"]);
            format!(
                "{} never answered: its daemon was gone before (it was asked in record {request})",
                question()
            )
        }
        "approval_rule_removed" => format!(
            "answer {} taken back: it let runs of {} pass under {}",
            name(&record["rule_id"]),
            name(&record["peer"]),
            policy()
        ),
        "peer_denied" => {
            let more = match record["suppressed"].as_u64() {
                None | Some(0) => String::new(),
                Some(more) => format!(" (and {more} more before, not recorded one by one)"),
            };
            format!("connection to {} refused{more}{}", name(&record["listener"]), reason())
        }
        "request_refused" => format!("request refused before any policy decided{}", reason()),
        "policy_trusted" => {
            let gives = match list(&record["widenings"]) {
                [] => "; it gives nothing more".to_owned(),
                [one] => last("; it gives more: ", one),
                [first, more @ ..] => last(&format!("; it gives more in {} ways: ", more.len() + 1), first),
            };
            format!("trusted {} as {}{gives}", path(&record["path"]), policy())
        }
        "policy_untrusted" => format!("trusts {} no more", path(&record["path"])),
        "policies_reloaded" if !record["error"].is_null() => {
            format!(
                "reloaded the policies in vain, what was there stays{}",
                last(": ", &record["error"])
            )
        }
        "policies_reloaded" => {
            let changes = ["added", "removed", "changed"].map(|change| match list(&record[change]) {
                [] => String::new(),
                _ => format!(", {change}: {}", words(&record[change])),
            });
            let changes = changes.concat();
            let nothing = if changes.is_empty() { ", nothing changed" } else { "" };
            format!("reloaded the policies{nothing}{changes}")
        }
        "file" => file(record, &policy()),
        // A newer daemon's.
        kind => {
            let about = heading
                .run_id
                .as_ref()
                .map_or_else(String::new, |_| format!(" about {run}"));
            let kind = word(kind.as_bytes(), NAME_CHARS);
            format!(
                "{kind}{about}: no words for this kind here, --json shows it (record {})",
                heading.seq
            )
        }
    }
}

/// An operation on files.
fn file(record: &Value, policy: &str) -> String {
    let to = match &record["to"] {
        Value::Null => String::new(),
        to => format!(" to {}", path(to)),
    };
    let bytes = record["bytes"]
        .as_u64()
        .map_or_else(String::new, |count| format!(", {}", render::bytes(count)));
    let outcome = match record["outcome"].as_str() {
        Some("done") => String::new(),
        _ => format!(": {}{}", name(&record["outcome"]), last(" by ", &record["rule"])),
    };
    let view = match record["session"].as_str() {
        None | Some("") => format!("in {}", path(&record["workspace"])),
        Some(_) => format!("in session {}", name(&record["session"])),
    };
    let reason = last(": ", &record["reason"]);
    format!(
        "file {} {}{to} {view} ({policy}){bytes}{outcome}{reason}",
        name(&record["operation"]),
        path(&record["path"])
    )
}

fn log_opened(record: &Value) -> String {
    let version = name(&record["version"]);
    let instance = short(record["instance"].as_str().unwrap_or_default());
    let mut told = format!("version {version} opened the log (instance {instance})");
    if let Some(runs @ 1..) = record["interrupted"].as_u64() {
        told += &format!(", closed {runs} interrupted runs");
    }
    if let Some(bytes @ 1..) = record["dropped_bytes"].as_u64() {
        told += &format!(", cut off {bytes} bytes of a half-written line");
    }
    if let [first, last] = list(&record["missing_seq"]) {
        told += &format!(", MISSING at the end: record {} to {}", number(first), number(last));
    }
    if record["head_missing"] == true {
        told += ", WITHOUT audit.head: whether records were missing at the end cannot be told";
    }
    told
}

/// How a run ended.
fn end(record: &Value) -> String {
    let detail = |key: &str| &record["details"][key];
    let size = |key: &str| detail(key).as_u64().map_or_else(|| "?".to_owned(), render::bytes);
    let called = |key: &str, named: fn(i32) -> Option<&'static str>| {
        let value = detail(key).as_i64().and_then(|value| i32::try_from(value).ok());
        value.and_then(named).map_or_else(|| number(detail(key)), str::to_owned)
    };
    let millis = |key: &str| detail(key).as_u64().map(Duration::from_millis);
    let (how, why) = match record["outcome"].as_str().unwrap_or_default() {
        "exited" => (format!("ended: exit code {}", number(detail("code"))), String::new()),
        "signaled" => {
            let core = if detail("core") == true { ", core dumped" } else { "" };
            (
                format!("ended by {}{core}", called("signal", signal_name)),
                String::new(),
            )
        }
        "timed_out" => {
            let after = millis("after_ms").map_or_else(|| "?".to_owned(), show);
            (format!("timed out: {after} ({})", name(detail("limit"))), String::new())
        }
        "cancelled" => {
            let by = match text(detail("by")).is_empty() {
                true => String::new(),
                false => format!(" by {}", name(detail("by"))),
            };
            (
                format!("cancelled{by} ({})", name(detail("cause"))),
                last(": ", detail("reason")),
            )
        }
        "out_of_memory" => (
            format!("ended at its memory limit of {}", size("limit_bytes")),
            String::new(),
        ),
        "output_limit" => {
            let stream = name(detail("stream"));
            (
                format!("ended at its output limit of {} ({stream})", size("limit_bytes")),
                String::new(),
            )
        }
        "disk_limit" if detail("resource") == "files" => {
            let (limit, used) = (number(detail("limit")), number(detail("used")));
            (
                format!("ended at its limit of {limit} files ({used} were made)"),
                String::new(),
            )
        }
        "disk_limit" => {
            let (limit, used) = (size("limit"), size("used"));
            (
                format!("ended at its disk limit of {limit} ({used} were taken)"),
                String::new(),
            )
        }
        "denied" => (
            format!("denied by {}", name(detail("rule"))),
            last(": ", detail("explanation")),
        ),
        "spawn_failed" => {
            let (stage, errno) = (name(detail("stage")), called("errno", errno_name));
            (
                format!("could not be executed ({stage}: {errno})"),
                last(": ", detail("path")),
            )
        }
        "sandbox_failed" => {
            let errno = Some(called("errno", errno_name)).filter(|errno| errno != "0");
            let parts = ["protection", "stage", "path"].map(|key| Some(path(detail(key))).filter(|part| part != "''"));
            let parts: Vec<_> = parts.into_iter().chain([errno]).flatten().collect();
            (
                format!("got no sandbox ({})", parts.join(" ")),
                last(": ", detail("hint")),
            )
        }
        "lost" => ("lost".to_owned(), last(": ", detail("why"))),
        other => (format!("ended: {}", word(other.as_bytes(), NAME_CHARS)), String::new()),
    };
    let mut told = how;
    if record["outcome"] != "exited"
        && let Some(code) = record["shell_code"].as_i64()
    {
        told += &format!(", exit code {code}");
    }
    if let Some(wall @ 1..) = record["usage"]["wall_us"].as_u64() {
        told += &format!(", after {}", show(Duration::from_micros(wall)));
    }
    if let Some(count @ 1..) = record["denial_count"].as_u64() {
        let noun = if count == 1 { "denial" } else { "denials" };
        told += &format!(", {count} {noun}");
        if let [first, ..] = list(&record["denials"]) {
            let (operation, subject) = (name(&first["operation"]), path(&first["subject"]));
            told += &format!(" (first: {operation} {subject}, {})", name(&first["protection"]));
        }
    }
    let weak = list(&record["enforcement"])
        .iter()
        .filter(|entry| entry["state"] != "active");
    let weak: Vec<_> = weak
        .map(|entry| format!("{} {}", name(&entry["protection"]), name(&entry["state"])))
        .collect();
    if !weak.is_empty() {
        told += &format!(", {}", cut(&weak.join(", "), TEXT_CHARS));
    }
    told + &why
}

/// How many times, where a record stands for several.
fn times(record: &Value) -> String {
    match record["count"].as_u64() {
        Some(count @ 2..) => format!(", {count} times"),
        _ => String::new(),
    }
}

/// `allowed for always`.
fn answer(record: &Value) -> String {
    let session = text(&record["session"]);
    match record["answer"].as_str().unwrap_or_default() {
        "deny" => "denied".to_owned(),
        "allow-once" => "allowed once".to_owned(),
        "allow-session" if session.is_empty() => "allowed for the session".to_owned(),
        "allow-session" => format!("allowed for the session {}", word(&session, NAME_CHARS)),
        "allow-always" => "allowed for always".to_owned(),
        other => format!("answered {}", word(other.as_bytes(), NAME_CHARS)),
    }
}

/// The kept answers that an answer made, or that were applied.
fn rules(record: &Value) -> String {
    match list(&record["rule_ids"]) {
        [] => String::new(),
        _ => format!(" (kept as {})", words(&record["rule_ids"])),
    }
}

/// A run by the end of its id, which --run takes: the beginning is the time, and nearly the same for all of a day.
fn run(recorded: &str) -> String {
    format!("run {}", short(recorded.split_once('@').map_or(recorded, |(id, _)| id)))
}

/// A session; people choose such ids to be read.
fn session(recorded: &str) -> String {
    let id = recorded.split_once('@').map_or(recorded, |(id, _)| id);
    format!("session {}", short(id))
}

fn short(id: &str) -> String {
    let parts: Vec<_> = id.split('-').map(str::len).collect();
    match (parts.as_slice(), id.rsplit_once('-')) {
        ([8, 4, 4, 4, 12], Some((_, end))) => word(end.as_bytes(), NAME_CHARS),
        _ => word(id.as_bytes(), NAME_CHARS),
    }
}

/// The bytes of a value: a string, or what stands for one that is long or no text.
fn text(value: &Value) -> Vec<u8> {
    let mut bytes = match (value.as_str(), value["text"].as_str(), value["base64"].as_str()) {
        (Some(text), _, _) | (None, Some(text), _) => text.as_bytes().to_vec(),
        (None, None, Some(encoded)) => STANDARD.decode(encoded).unwrap_or_default(),
        (None, None, None) => Vec::new(),
    };
    if !value["omitted_bytes"].is_null() {
        bytes.extend_from_slice(b"...");
    }
    bytes
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> String {
    value
        .as_i64()
        .map_or_else(|| "?".to_owned(), |number| number.to_string())
}

/// A name; `commands.rules[0]` needs no quotes.
fn name(value: &Value) -> String {
    match value.as_str() {
        Some(name)
            if name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_[]".contains(&byte))
                && !name.is_empty() =>
        {
            cut(name, NAME_CHARS)
        }
        _ => word(&text(value), NAME_CHARS),
    }
}

fn path(value: &Value) -> String {
    word(&text(value), TEXT_CHARS)
}

/// One word, as a shell would take it.
fn word(bytes: &[u8], chars: usize) -> String {
    // A character has at most four bytes, so that what is cut off here would be cut off anyway.
    let start = bytes.get(..4 * chars + 4).unwrap_or(bytes);
    cut(&safe(&shell_word(start)), chars)
}

/// Words with blanks between them; a list that was cut says by how many.
fn words(value: &Value) -> String {
    let items = list(value);
    let mut told = String::new();
    for item in items.iter().take(TEXT_CHARS) {
        let word = match item["omitted_items"].as_u64() {
            Some(more) => format!("[{more} more]"),
            None => path(item),
        };
        told = if told.is_empty() { word } else { told + " " + &word };
    }
    cut(&told, TEXT_CHARS)
}

/// Free text, which is the last of a line; nothing where there is none.
fn last(before: &str, value: &Value) -> String {
    match text(value) {
        none if none.is_empty() => String::new(),
        bytes => format!("{before}{}", cut(&safe(&render::text(&bytes)), TEXT_CHARS)),
    }
}

/// At most so many characters of a text.
#[must_use]
pub fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RUN: &str = "01a20627-101c-77f4-8db5-b7f87798714a@uid:1001";

    fn told(kind: &str, payload: Value) -> String {
        let heading = Heading {
            seq: 7,
            time: "2026-11-23T02:05:49.510001Z".to_owned(),
            kind: kind.to_owned(),
            run_id: payload["run_id"].as_str().map(str::to_owned),
        };
        line(&heading, &payload)
    }

    /// A payload with what most records have.
    fn with(more: Value) -> Value {
        let mut payload = json!({
            "run_id": RUN, "approval_id": "754426ba", "peer": "uid:1001", "policy_name": "team", "session": "",
            "policy_digest": "1a2b3c4d5e6f7081", "rule": "commands.rules[2]", "cwd": "/w", "reason": "",
            "argv": ["git", "push", "a b"], "commands": ["git push 'a b'"], "rule_ids": [], "by": "uid:0",
        });
        for (key, value) in more.as_object().unwrap() {
            payload[key] = value.clone();
        }
        payload
    }

    #[test]
    fn every_kind_has_its_words() {
        let rule = "commands.rules[2] (policy team 1a2b3c4d5e6f)";
        for (kind, payload, expected) in [
            ("intent", with(json!({})), format!("uid:1001  run b7f87798714a allowed by {rule} in /w: git push 'a b'")),
            (
                "denied",
                with(json!({"reason": "not here"})),
                format!("uid:1001  run b7f87798714a denied by {rule} in /w: git push 'a b'; not here"),
            ),
            (
                "intent",
                with(json!({"session": "dev@uid:1001"})),
                format!("uid:1001  run b7f87798714a allowed by {rule} in session dev in /w: git push 'a b'"),
            ),
            (
                "session_created",
                with(json!({"session_id": "dev", "lifetime_ms": 3_600_000, "idle_timeout_ms": 60_000})),
                "uid:1001  session dev created (policy team 1a2b3c4d5e6f) in /w, for 1h, 1m without a run".to_owned(),
            ),
            (
                "session_interrupted",
                json!({"session_id": "dev@uid:1001", "instance": "i", "created_seq": 3}),
                "daemon    session dev interrupted: its daemon was gone before it was closed (it was created in record 3)".to_owned(),
            ),
            ("session_reset", json!({"session_id": "dev", "by": "uid:0"}), "uid:0     session dev reset".to_owned()),
            (
                "session_closed",
                json!({"session_id": "dev", "by": "uid:0", "end": "closed", "runs": 3, "detail": "uid:0 closed it: done"}),
                "uid:0     session dev closed (closed) after 3 runs: uid:0 closed it: done".to_owned(),
            ),
            (
                "session_closed",
                json!({"session_id": "dev", "by": "", "end": "idle", "runs": 0, "detail": "no run was in it"}),
                "daemon    session dev closed (idle) after 0 runs: no run was in it".to_owned(),
            ),
            (
                "interrupted",
                json!({"run_id": RUN, "instance": "i", "intent_seq": 3}),
                "uid:1001  run b7f87798714a interrupted: its daemon was gone before it ended (its intent is record 3)".to_owned(),
            ),
            (
                "run_attached",
                json!({"run_id": RUN, "peer": "uid:0", "count": 1}),
                "uid:0     run b7f87798714a attached to".to_owned(),
            ),
            (
                "run_attached",
                json!({"run_id": RUN, "peer": "uid:0", "count": 90}),
                "uid:0     run b7f87798714a attached to, 90 times".to_owned(),
            ),
            (
                "run_input",
                json!({"run_id": RUN, "peer": "uid:0", "count": 2, "bytes": 2048}),
                "uid:0     run b7f87798714a got 2 KiB of input from 2 attachments".to_owned(),
            ),
            (
                "run_signalled",
                json!({"run_id": RUN, "peer": "uid:0", "count": 3, "signals": [2, 15, 60]}),
                "uid:0     run b7f87798714a got SIGINT SIGTERM 60, 3 times".to_owned(),
            ),
            (
                "run_killed",
                json!({"run_id": RUN, "peer": "uid:0", "count": 1}),
                "uid:0     run b7f87798714a asked to end".to_owned(),
            ),
            (
                "run_released",
                json!({"run_id": RUN, "peer": "uid:0", "count": 1}),
                "uid:0     run b7f87798714a removed, and its output with it".to_owned(),
            ),
            (
                "approval_requested",
                with(json!({"expires_at": "2026-11-23T02:06:13.056569Z", "reason": "a person looks", "commands": ["ls"]})),
                format!(
                    "uid:1001  question 754426ba of run b7f87798714a asked by {rule}, to be answered by 2026-11-23T02:06:13: ls; a person looks"
                ),
            ),
            (
                "approval_resolved",
                with(json!({"answer": "allow-always", "means": "other", "reason": "fine", "rule_ids": ["06df"]})),
                "uid:0     question 754426ba of run b7f87798714a allowed for always (kept as 06df): fine".to_owned(),
            ),
            (
                "approval_resolved",
                with(json!({"answer": "deny", "means": "terminal", "by": "uid:1001"})),
                "uid:1001  question 754426ba of run b7f87798714a denied, by who asked, from a terminal".to_owned(),
            ),
            (
                "approval_applied",
                with(json!({"answer": "allow-session", "session": "s", "rule_ids": ["06df"]})),
                "uid:1001  run b7f87798714a needs no new answer: allowed for the session s earlier by uid:0 (kept as 06df)".to_owned(),
            ),
            (
                "approval_expired",
                with(json!({})),
                "uid:1001  question 754426ba of run b7f87798714a denied: nobody answered in time".to_owned(),
            ),
            (
                "approval_withdrawn",
                with(json!({})),
                "uid:1001  question 754426ba of run b7f87798714a withdrawn: the run ended before it was answered".to_owned(),
            ),
            (
                "approval_interrupted",
                json!({"approval_id": "754426ba", "run_id": RUN, "instance": "i", "request_seq": 3}),
                "uid:1001  question 754426ba of run b7f87798714a never answered: its daemon was gone before (it was asked in record 3)".to_owned(),
            ),
            (
                "approval_rule_removed",
                json!({"rule_id": "06df", "peer": "uid:1001", "policy_name": "team", "by": "uid:0"}),
                "uid:0     answer 06df taken back: it let runs of uid:1001 pass under policy team".to_owned(),
            ),
            (
                "peer_denied",
                json!({"peer": "uid:5", "listener": "unix", "reason": "not allowed", "suppressed": 2}),
                "uid:5     connection to unix refused (and 2 more before, not recorded one by one): not allowed".to_owned(),
            ),
            (
                "request_refused",
                json!({"peer": "uid:5", "reason": "no access"}),
                "uid:5     request refused before any policy decided: no access".to_owned(),
            ),
            (
                "policy_trusted",
                json!({"peer": "uid:0", "path": "/p.toml", "policy_name": "p", "policy_digest": "1a2b", "widenings": ["x", "y"]}),
                "uid:0     trusted /p.toml as policy p 1a2b; it gives more in 2 ways: x".to_owned(),
            ),
            ("policy_untrusted", json!({"peer": "uid:0", "path": "/p.toml"}), "uid:0     trusts /p.toml no more".to_owned()),
            (
                "policies_reloaded",
                json!({"peer": "signal", "added": ["a", "b"], "removed": [], "changed": ["ci"]}),
                "signal    reloaded the policies, added: a b, changed: ci".to_owned(),
            ),
            (
                "policies_reloaded",
                json!({"peer": "uid:0", "added": [], "removed": [], "changed": [], "error": "line 3"}),
                "uid:0     reloaded the policies in vain, what was there stays: line 3".to_owned(),
            ),
            (
                "log_opened",
                json!({"instance": RUN.split_once('@').unwrap().0, "version": "0.1.0", "interrupted": 1, "dropped_bytes": 0,
                    "missing_seq": [3, 4]}),
                "daemon    version 0.1.0 opened the log (instance b7f87798714a), closed 1 interrupted runs, \
                 MISSING at the end: record 3 to 4"
                    .to_owned(),
            ),
            (
                "file",
                with(json!({"operation": "rename", "path": "a b", "to": "/w/c", "workspace": "/w", "outcome": "done"})),
                "uid:1001  file rename 'a b' to /w/c in /w (policy team 1a2b3c4d5e6f)".to_owned(),
            ),
            (
                "file",
                with(json!({"operation": "append", "path": ".git/config", "workspace": "/w", "bytes": 2048, "outcome": "EPERM",
                    "rule": "git: no", "reason": null})),
                "uid:1001  file append .git/config in /w (policy team 1a2b3c4d5e6f), 2 KiB: EPERM by git: no".to_owned(),
            ),
            (
                "of_tomorrow",
                json!({"run_id": "build"}),
                "daemon    of_tomorrow about run build: no words for this kind here, --json shows it (record 7)".to_owned(),
            ),
        ] {
            assert_eq!(told(kind, payload), format!("2026-11-23T02:05:49Z  {expected}"));
        }
    }

    #[test]
    fn every_end_has_its_words_and_the_decisive_facts() {
        for (outcome, details, expected) in [
            ("exited", json!({"code": 4}), "ended: exit code 4, after 10ms"),
            (
                "signaled",
                json!({"signal": 11, "core": true}),
                "ended by SIGSEGV, core dumped, exit code 9, after 10ms",
            ),
            (
                "timed_out",
                json!({"after_ms": 1000, "limit": "idle"}),
                "timed out: 1s (idle), exit code 9, after 10ms",
            ),
            (
                "cancelled",
                json!({"by": "uid:0", "cause": "kill", "reason": "enough"}),
                "cancelled by uid:0 (kill), exit code 9, after 10ms: enough",
            ),
            (
                "out_of_memory",
                json!({"limit_bytes": 1048576}),
                "ended at its memory limit of 1 MiB, exit code 9, after 10ms",
            ),
            (
                "output_limit",
                json!({"limit_bytes": 1024, "stream": "stdout"}),
                "ended at its output limit of 1 KiB (stdout), exit code 9, after 10ms",
            ),
            (
                "disk_limit",
                json!({"limit": 1024, "used": 2048, "resource": "space"}),
                "ended at its disk limit of 1 KiB (2 KiB were taken), exit code 9, after 10ms",
            ),
            (
                "disk_limit",
                json!({"limit": 20, "used": 48, "resource": "files"}),
                "ended at its limit of 20 files (48 were made), exit code 9, after 10ms",
            ),
            (
                "denied",
                json!({"rule": "r", "explanation": "no"}),
                "denied by r, exit code 9, after 10ms: no",
            ),
            (
                "spawn_failed",
                json!({"stage": "search", "errno": 2, "path": "nope"}),
                "could not be executed (search: ENOENT), exit code 9, after 10ms: nope",
            ),
            (
                "sandbox_failed",
                json!({"protection": "network", "stage": "mount", "errno": 1, "path": "/p", "hint": "h"}),
                "got no sandbox (network mount /p EPERM), exit code 9, after 10ms: h",
            ),
            (
                "sandbox_failed",
                json!({"protection": "", "stage": "spec.workspace", "errno": 0, "path": "", "hint": "h"}),
                "got no sandbox (spec.workspace), exit code 9, after 10ms: h",
            ),
            ("lost", json!({"why": "gone"}), "lost, exit code 9, after 10ms: gone"),
            ("melted", json!({}), "ended: melted, exit code 9, after 10ms"),
        ] {
            let payload = json!({
                "run_id": RUN, "outcome": outcome, "details": details, "shell_code": 9, "usage": {"wall_us": 10_000},
                "denials": [], "denial_count": 0, "enforcement": [{"protection": "ipc", "state": "active"}],
            });
            let line = told("end", payload);
            assert_eq!(
                line,
                format!("2026-11-23T02:05:49Z  uid:1001  run b7f87798714a {expected}")
            );
        }
        let line = told(
            "end",
            json!({
                "run_id": "build", "outcome": "exited", "details": {"code": 1}, "denial_count": 3,
                "denials": [{"protection": "network", "operation": "connect", "subject": "1.2.3.4:443", "rule": "r"}],
                "enforcement": [{"protection": "network", "state": "off"}, {"protection": "resources", "state": "degraded"}],
            }),
        );
        let expected = "daemon    run build ended: exit code 1, 3 denials (first: connect 1.2.3.4:443, network), \
                        network off, resources degraded";
        assert_eq!(line, format!("2026-11-23T02:05:49Z  {expected}"));
    }

    #[test]
    fn what_was_asked_can_neither_move_the_cursor_nor_look_like_our_words() {
        let argv = json!(["x;", "\u{1b}[2J\n", "\u{202e}", {"base64": "/w=="}, {"text": "y", "omitted_bytes": 9},
            {"omitted_items": 5}]);
        let line = told("denied", with(json!({"argv": argv, "reason": "a\u{7}b"})));
        assert!(
            line.ends_with(r"in /w: 'x;' '\u{1b}[2J\n' '\u{202e}' '\xff' y... [5 more]; a\u{7}b"),
            "{line}"
        );
    }

    #[test]
    fn a_line_is_bounded_whatever_it_tells() {
        let long = "\u{1f600}'".repeat(4000);
        let mut kinds: Vec<_> = [
            "intent",
            "denied",
            "end",
            "approval_requested",
            "approval_resolved",
            "run_signalled",
            "x",
            "policies_reloaded",
        ]
        .to_vec();
        kinds.push(&long);
        for kind in kinds {
            let mut payload = with(json!({"outcome": long, "added": vec![&long; 99], "answer": long, "shell_code": 1}));
            for key in [
                "rule",
                "policy_name",
                "cwd",
                "reason",
                "approval_id",
                "peer",
                "by",
                "policy_digest",
                "expires_at",
                "run_id",
            ] {
                payload[key] = json!(long);
            }
            payload["argv"] = json!(vec![&long; 99]);
            let line = told(kind, payload);
            assert!(line.chars().count() <= LINE_CHARS + 3 && !line.contains('\n'), "{line}");
        }
        // Nothing that should be there: no panic, and still a line.
        for kind in [
            "intent",
            "end",
            "log_opened",
            "approval_requested",
            "policy_trusted",
            "peer_denied",
        ] {
            assert!(told(kind, json!({})).starts_with("2026-11-23T02:05:49Z  daemon"));
        }
    }
}
