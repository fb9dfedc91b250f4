//! The words for each kind of record.
//!
//! What a record holds was in part written by whoever asked for a run. So a line has nothing in it that moves a terminal's cursor, every
//! value in its middle is one word, quoted where it holds anything but plain characters, and free text comes last and is cut.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::time::Duration;

use fumehood_client::proto::convert::{errno_name, signal_name};

use crate::approve::safe;
use crate::daemon::Heading;
use crate::duration::show;
use crate::listing::shell_word;
use crate::render;

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
        "approval_resolved" | "approval_rule_removed" => name(&record["by"]),
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
    let command = || format!("in {}: {}", path(&record["cwd"]), words(&record["argv"]));
    let question = || format!("question {} of {run}", name(&record["approval_id"]));
    let reason = || last(": ", &record["reason"]);
    match heading.kind.as_str() {
        "log_opened" => log_opened(record),
        "intent" => format!("{run} allowed by {} ({}) {}", rule(), policy(), command()),
        "denied" => format!(
            "{run} denied by {} ({}) {}{}",
            rule(),
            policy(),
            command(),
            last("; ", &record["reason"])
        ),
        "end" => format!("{run} {}", end(record)),
        "interrupted" => {
            let intent = number(&record["intent_seq"]);
            format!("{run} interrupted: its daemon was gone before it ended (its intent is record {intent})")
        }
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

fn log_opened(record: &Value) -> String {
    let version = name(&record["version"]);
    let instance = short(record["instance"].as_str().unwrap_or_default());
    let mut told = format!("daemon {version} opened the log (instance {instance})");
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
            let (stage, errno) = (name(detail("stage")), called("errno", errno_name));
            let (protection, place) = (name(detail("protection")), path(detail("path")));
            (
                format!("got no sandbox ({protection}, {stage} {place}: {errno})"),
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
    if let Some(wall) = record["usage"]["wall_us"].as_u64() {
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

fn name(value: &Value) -> String {
    word(&text(value), NAME_CHARS)
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
