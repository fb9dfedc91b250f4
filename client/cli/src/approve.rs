//! `fumehood approve` and `deny`: answers to runs that wait for one, and what a run tells while it waits.
//!
//! What is shown here was written by whoever asks to be let pass: nothing of it reaches a terminal but printable characters, none of
//! which changes the order of others.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use fumehood_client::proto::convert::timestamp_to_system;
use fumehood_client::proto::v1::watch_approvals_response::Change;
use fumehood_client::proto::v1::{
    ApprovalAnswer, ApprovalMeans, ApprovalRequested, ApprovalResolved, ApprovalRule, PendingApproval,
};
use fumehood_client::{Client, Error};

use crate::args::{ApproveArgs, ConnectArgs, DenyArgs};
use crate::duration::show;
use crate::failure::{Failure, chain};
use crate::render::safe;
use crate::start::{self, Connected};
use crate::{json, print, render, table, tell};

/// The exit code when an answer was not taken.
const REFUSED: u8 = 1;

/// `approve`.
pub async fn approve(args: ApproveArgs) -> Result<u8, Failure> {
    let client = connect(&args.connect).await?;
    if let Some(id) = &args.approval_id {
        let answer = match (args.session, args.always) {
            (true, _) => ApprovalAnswer::AllowSession,
            (_, true) => ApprovalAnswer::AllowAlways,
            _ => ApprovalAnswer::AllowOnce,
        };
        return resolve(&client, id, answer, &args.reason).await;
    }
    if let Some(rule) = &args.forget {
        return match client.remove_approval_rule(rule.as_str()).await {
            Ok(()) => print(&format!("{}: taken back\n", safe(rule))).map(|()| 0),
            Err(error) => refused(error),
        };
    }
    if args.list {
        list(&client, args.json).await
    } else if args.rules {
        rules(&client, args.json).await
    } else if args.watch {
        watch(&client, args.json).await
    } else {
        ask(&client).await
    }
}

/// `deny`.
pub async fn deny(args: DenyArgs) -> Result<u8, Failure> {
    let client = connect(&args.connect).await?;
    resolve(&client, &args.approval_id, ApprovalAnswer::Deny, &args.reason).await
}

async fn connect(args: &ConnectArgs) -> Result<Client, Failure> {
    match start::connect_existing(args).await? {
        Ok(Connected { client, .. }) => Ok(client),
        Err(socket) => Err(Failure::NoDaemon(socket)),
    }
}

async fn resolve(client: &Client, id: &str, answer: ApprovalAnswer, reason: &str) -> Result<u8, Failure> {
    match client.resolve_approval(id, answer, reason).await {
        Ok(rule) => {
            let kept = rule.map_or_else(String::new, |rule| {
                format!(" (`fumehood approve --forget {}` takes it back)", safe(&rule.rule_id))
            });
            print(&format!("{}: {}{kept}\n", safe(id), did(answer)))?;
            Ok(0)
        }
        Err(error) => refused(error),
    }
}

/// An answer that the daemon does not take is no failure of this program.
fn refused(error: Error) -> Result<u8, Failure> {
    match error {
        Error::NotFound { .. } | Error::Precondition { .. } | Error::Denied { .. } | Error::Exhausted { .. } => {
            tell(&safe(&chain(&error)));
            Ok(REFUSED)
        }
        error => Err(error.into()),
    }
}

async fn list(client: &Client, json: bool) -> Result<u8, Failure> {
    let pending = client.pending_approvals().await?;
    if json {
        let lines = pending
            .iter()
            .map(|pending| format!("{}\n", json::pending_approval(pending)));
        return print(&lines.collect::<String>()).map(|()| 0);
    }
    let mut rows = vec![
        ["APPROVAL ID", "LEFT", "BY", "POLICY", "WORKSPACE", "COMMAND"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(pending.iter().map(|pending| row(pending, SystemTime::now())));
    print(&(table::lines(&rows).join("\n") + "\n")).map(|()| 0)
}

fn row(pending: &PendingApproval, now: SystemTime) -> Vec<String> {
    let question = pending.question.clone().unwrap_or_default();
    vec![
        safe(&question.approval_id),
        left(&question, now),
        safe(&pending.peer),
        safe(&pending.policy_name),
        safe_bytes(&pending.workspace),
        safe(&question.commands.join("; ")),
    ]
}

async fn rules(client: &Client, json: bool) -> Result<u8, Failure> {
    let rules = client.approval_rules().await?;
    if json {
        let lines = rules.iter().map(|rule| format!("{}\n", json::approval_rule(rule)));
        return print(&lines.collect::<String>()).map(|()| 0);
    }
    let mut rows = vec![
        [
            "RULE ID",
            "FOR",
            "WHOSE",
            "POLICY",
            "WORKSPACE",
            "ALLOWED BY",
            "COMMAND",
            "REASON",
            "NOT APPLIED",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(rules.iter().map(rule_row));
    print(&(table::lines(&rows).join("\n") + "\n")).map(|()| 0)
}

fn rule_row(rule: &ApprovalRule) -> Vec<String> {
    let lasting = match (rule.answer(), rule.session.as_str()) {
        (ApprovalAnswer::AllowAlways, _) => "always".to_owned(),
        (_, "") => "session".to_owned(),
        (_, session) => format!("session {}", safe(session)),
    };
    vec![
        safe(&rule.rule_id),
        lasting,
        safe(&rule.peer),
        safe(&rule.policy_name),
        safe_bytes(&rule.workspace),
        safe(&rule.by),
        safe(&rule.commands.join("; ")),
        safe(&rule.reason),
        safe(&rule.not_applied),
    ]
}

/// Tells what waits and what changes, until the daemon ends; one that takes over from it is followed in turn.
async fn watch(client: &Client, json: bool) -> Result<u8, Failure> {
    let mut changes = client.watch_approvals().await?;
    loop {
        let change = match changes.next().await {
            Ok(Some(change)) => change,
            Ok(None) => return Ok(0),
            Err(error) if error.is_broken_connection() => {
                // What waits is told again.
                changes = client.watch_approvals().await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if json {
            let (kind, mut value) = match &change {
                Change::Pending(pending) => ("pending", json::pending_approval(pending)),
                Change::Resolved(resolved) => ("resolved", json::approval_resolved(resolved)),
                Change::CaughtUp(_) => ("caught_up", serde_json::json!({})),
                Change::Gap(gap) => ("gap", serde_json::json!({ "lost": gap.lost })),
            };
            value["type"] = serde_json::json!(kind);
            print(&format!("{value}\n"))?;
            continue;
        }
        match &change {
            Change::Pending(pending) => print(&(row(pending, SystemTime::now()).join("  ") + "\n"))?,
            Change::Resolved(resolved) => print(&format!("{}  {}\n", safe(&resolved.approval_id), outcome(resolved)))?,
            Change::CaughtUp(_) => {}
            Change::Gap(gap) => tell(&format!("{} changes were lost; what waits is told again", gap.lost)),
        }
    }
}

/// Asks a person at a terminal about each question that waits.
async fn ask(client: &Client) -> Result<u8, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    let pending = client.pending_approvals().await?;
    let (mine, others): (Vec<_>, Vec<_>) = pending.into_iter().partition(|pending| pending.not_yours.is_empty());
    for pending in &others {
        let question = pending.question.clone().unwrap_or_default();
        print(&format!(
            "{}: not yours to answer: {}\n",
            safe(&question.approval_id),
            safe(&pending.not_yours)
        ))?;
    }
    if mine.is_empty() {
        print("no question waits for your answer\n")?;
        return Ok(0);
    }
    let (count, mut code) = (mine.len(), 0);
    for (index, pending) in mine.iter().enumerate() {
        print(&format!(
            "\n[{} of {count}] {}",
            index + 1,
            describe(pending, SystemTime::now())
        ))?;
        let Some(answer) = ask_one(pending)? else {
            return Ok(code);
        };
        let id = pending
            .question
            .as_ref()
            .map_or("", |question| question.approval_id.as_str());
        match answer {
            Choice::Answer(answer) => {
                let reason = prompt("reason (may be empty): ")?.unwrap_or_default();
                code = code.max(resolve(client, id, answer, &reason).await?);
            }
            Choice::Later => {}
        }
    }
    Ok(code)
}

/// What a person chose.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Answer(ApprovalAnswer),
    Later,
}

/// The answer to one question; none when the person ended.
fn ask_one(pending: &PendingApproval) -> Result<Option<Choice>, Failure> {
    let (later, always) = (pending.once_only.is_empty(), pending.not_narrow.is_empty());
    loop {
        let offered = match (later, always) {
            (true, true) => "[o]nce, [s]ession, [a]lways, [d]eny, [l]ater? ",
            (true, false) => "[o]nce, [s]ession, [d]eny, [l]ater? ",
            (false, _) => "[o]nce, [d]eny, [l]ater? ",
        };
        let Some(line) = prompt(offered)? else { return Ok(None) };
        match choice(&line) {
            Some(Choice::Answer(ApprovalAnswer::AllowSession | ApprovalAnswer::AllowAlways)) if !later => {
                print(&format!("can be allowed once only: {}\n", safe(&pending.once_only)))?;
            }
            Some(Choice::Answer(ApprovalAnswer::AllowAlways)) if !always => {
                print(&format!(
                    "cannot be allowed for always: {}\n",
                    safe(&pending.not_narrow)
                ))?;
            }
            Some(choice) => return Ok(Some(choice)),
            None => {}
        }
    }
}

/// What a line says; nothing by default, so that a key pressed too often allows nothing.
fn choice(line: &str) -> Option<Choice> {
    Some(match line.trim().to_lowercase().as_str() {
        "o" | "once" => Choice::Answer(ApprovalAnswer::AllowOnce),
        "s" | "session" => Choice::Answer(ApprovalAnswer::AllowSession),
        "a" | "always" => Choice::Answer(ApprovalAnswer::AllowAlways),
        "d" | "deny" => Choice::Answer(ApprovalAnswer::Deny),
        "l" | "later" => Choice::Later,
        _ => return None,
    })
}

/// A line from the terminal; none at its end of file.
fn prompt(text: &str) -> Result<Option<String>, Failure> {
    let failed = |source| Failure::System {
        action: "ask on the terminal",
        source,
    };
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(failed)?;
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line.trim().to_owned())),
        Err(error) => Err(failed(error)),
    }
}

/// What is asked, by whom, where and why.
fn describe(pending: &PendingApproval, now: SystemTime) -> String {
    let question = pending.question.clone().unwrap_or_default();
    let mut lines = vec![format!("{} asks to run:", safe(&pending.peer))];
    lines.extend(question.commands.iter().map(|command| format!("    {}", safe(command))));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("  {name:10} {value}"));
        }
    };
    line("in", safe_bytes(&pending.cwd));
    line("workspace", safe_bytes(&pending.workspace));
    line("session", safe(&pending.session));
    let names: Vec<_> = pending.env_names.iter().map(|name| safe_bytes(name)).collect();
    line("variables", names.join(" "));
    line("why", safe(&question.reason));
    line(
        "rule",
        format!("{} of policy {}", safe(&question.rule), safe(&pending.policy_name)),
    );
    line("run", safe(&pending.run_id));
    line("left", format!("{}, then it is denied", left(&question, now)));
    for earlier in &pending.earlier {
        line("earlier", safe(earlier));
    }
    if !pending.once_only.is_empty() {
        line("once only", safe(&pending.once_only));
    } else if !pending.not_narrow.is_empty() {
        line("always", format!("no: {}", safe(&pending.not_narrow)));
    }
    lines.join("\n") + "\n"
}

/// What a run tells when it waits: what for, and which commands answer it.
#[must_use]
pub fn asked(question: &ApprovalRequested, socket: Option<&Path>) -> Vec<String> {
    let id = safe(&question.approval_id);
    let socket = socket.map_or_else(String::new, |socket| format!(" --socket {}", socket.display()));
    vec![
        format!("waits for an approval: {}", safe(&question.reason)),
        format!(
            "`fumehood approve {id}{socket}` allows it, `fumehood deny {id}{socket}` does not; without an answer it is denied in {}",
            left(question, SystemTime::now())
        ),
    ]
}

/// What a run tells when it has its answer; a denial is told at its end.
#[must_use]
pub fn answered(resolved: &ApprovalResolved, verbose: bool) -> Option<String> {
    match (resolved.answer(), resolved.means()) {
        (ApprovalAnswer::Deny, _) => None,
        (_, ApprovalMeans::Earlier) if !verbose => None,
        _ => Some(outcome(resolved)),
    }
}

/// `allowed once by uid:0: REASON`.
fn outcome(resolved: &ApprovalResolved) -> String {
    let ApprovalResolved { by, reason, .. } = resolved;
    let why = match reason.as_str() {
        "" => String::new(),
        reason => format!(": {}", safe(reason)),
    };
    match resolved.means() {
        ApprovalMeans::Expired => "denied: nobody answered in time".to_owned(),
        ApprovalMeans::Withdrawn => "withdrawn: the run ended".to_owned(),
        ApprovalMeans::Earlier => format!("{} earlier by {}{why}", did(resolved.answer()), safe(by)),
        _ => format!("{} by {}{why}", did(resolved.answer()), safe(by)),
    }
}

fn did(answer: ApprovalAnswer) -> &'static str {
    match answer {
        ApprovalAnswer::AllowOnce => "allowed once",
        ApprovalAnswer::AllowSession => "allowed for the session",
        ApprovalAnswer::AllowAlways => "allowed for always",
        ApprovalAnswer::Deny => "denied",
        ApprovalAnswer::Unspecified => "answered",
    }
}

/// How long until the default answer.
fn left(question: &ApprovalRequested, now: SystemTime) -> String {
    let expires_at = question.expires_at.as_ref().and_then(|at| timestamp_to_system(at).ok());
    let left = expires_at.map(|at| at.duration_since(now).unwrap_or_default());
    // Rounded, because the question took a moment to come here.
    left.map_or_else(
        || "?".to_owned(),
        |left| show(Duration::from_secs((left.as_millis() as u64 + 500) / 1000)),
    )
}

fn safe_bytes(bytes: &[u8]) -> String {
    safe(&render::text(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_that_was_meant_is_an_answer() {
        for (line, expected) in [
            ("o", Some(Choice::Answer(ApprovalAnswer::AllowOnce))),
            (" S ", Some(Choice::Answer(ApprovalAnswer::AllowSession))),
            ("always", Some(Choice::Answer(ApprovalAnswer::AllowAlways))),
            ("d", Some(Choice::Answer(ApprovalAnswer::Deny))),
            ("l", Some(Choice::Later)),
            ("", None),
            ("y", None),
            ("oo", None),
        ] {
            assert_eq!(choice(line), expected, "{line:?}");
        }
    }

    #[test]
    fn what_asks_cannot_write_to_the_terminal() {
        let question = ApprovalRequested {
            approval_id: "1f0c3a9e".to_owned(),
            commands: vec!["rm \u{1b}]52;c;x\u{7} \u{202e}fr".to_owned()],
            reason: "a\nb".to_owned(),
            rule: "commands.rules[0]".to_owned(),
            ..ApprovalRequested::default()
        };
        let pending = PendingApproval {
            question: Some(question.clone()),
            peer: "uid:1001".to_owned(),
            cwd: "/w\u{1b}[2J".into(),
            ..PendingApproval::default()
        };
        let shown = describe(&pending, SystemTime::now());
        for unfit in ['\u{1b}', '\u{7}', '\u{202e}'] {
            assert!(!shown.contains(unfit), "{shown:?}");
        }
        assert!(
            shown.contains("\\u{202e}fr") && shown.contains("why        a\\nb"),
            "{shown}"
        );
        assert!(asked(&question, None)[0].ends_with("a\\nb"));
    }
}
