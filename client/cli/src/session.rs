//! `fumehood session`: sandboxes that live on between commands.

use std::time::{Duration, SystemTime};

use fumehood_client::proto::convert::{duration_to_std, timestamp_to_system};
use fumehood_client::proto::v1::{
    BackgroundOutput, DescribeSessionResponse, ListSessionsRequest, ListeningSocket, OutputStream, SessionContents,
    SessionEnd, SessionInfo, SessionProcess, SessionState, TemporaryFile,
};
use fumehood_client::{Client, Error};

use crate::args::{ConnectArgs, SessionCommand, SessionCreateArgs};
use crate::duration::show;
use crate::failure::{Failure, chain};
use crate::ids::resolve_session;
use crate::json;
use crate::listing::existing;
use crate::render::{self, safe, text};
use crate::request::{self, Surroundings};
use crate::start::{self, Connected};
use crate::{print, table, tell};

/// Sessions asked for at once.
const PAGE: u32 = 200;
/// Lines of a background process's output that are shown.
const TAIL_LINES: usize = 10;
/// Characters of a process's command line that are shown.
const COMMAND_CHARS: usize = 60;
/// Characters of a run's id that are shown beside a process: enough for `logs` and others.
const RUN_CHARS: usize = 12;

/// What `fumehood session` is asked to do.
pub async fn run(command: SessionCommand) -> Result<u8, Failure> {
    match command {
        SessionCommand::Create(args) => create(*args).await,
        SessionCommand::Ls { all, json, connect } => list(all, json, &connect).await,
        SessionCommand::Show { session, json, connect } => describe(&session, json, &connect).await,
        SessionCommand::Reset { session, connect } => {
            let client = existing(&connect).await?;
            let id = resolve_session(&client, &session).await?;
            let info = client.in_session(id).reset().await?;
            print(&format!("{}: {}\n", info.session_id, state(&info)))?;
            Ok(0)
        }
        SessionCommand::Close {
            sessions,
            grace,
            reason,
            connect,
        } => close(&sessions, grace, &reason, &connect).await,
    }
}

async fn create(args: SessionCreateArgs) -> Result<u8, Failure> {
    let surroundings = Surroundings {
        directory: std::env::current_dir().or_else(|error| match &args.workspace {
            Some(workspace) if workspace.is_absolute() => Ok(workspace.clone()),
            _ => Err(Failure::CurrentDirectory(error)),
        })?,
        environment: std::env::vars_os().collect(),
        input: false,
    };
    let request = request::session(&args, surroundings)?;
    let Connected { client, .. } = start::connect(&args.connect).await?;
    let created = match client.create_session(request.clone()).await {
        // It just began to drain.
        Err(Error::Unavailable { .. }) => {
            let Connected { client, .. } = start::connect(&args.connect).await?;
            client.create_session(request).await?
        }
        created => created?,
    };
    let session = created.session.unwrap_or_default();
    print(&if args.json {
        format!("{}\n", json::session(&session))
    } else {
        format!("{}\n", session.session_id)
    })?;
    Ok(0)
}

/// `session ls`. Without a daemon there are no sessions.
async fn list(all: bool, as_json: bool, connect: &ConnectArgs) -> Result<u8, Failure> {
    let client = match start::connect_existing(connect).await? {
        Ok(Connected { client, .. }) => client,
        Err(socket) if connect.socket.is_some() || connect.no_start => return Err(Failure::NoDaemon(socket)),
        Err(_) if as_json => return Ok(0),
        Err(_) => {
            tell("no daemon is running, and so no session");
            return Ok(0);
        }
    };
    let live = [SessionState::Starting, SessionState::Open, SessionState::Closing];
    let mut request = ListSessionsRequest {
        states: if all { vec![] } else { live.map(i32::from).to_vec() },
        page_size: PAGE,
        page_token: String::new(),
    };
    let head = ["SESSION ID", "STATE", "AGE", "RUNS", "POLICY", "DIRECTORY"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    loop {
        let page = client.list_sessions(request.clone()).await?;
        if as_json {
            page.sessions
                .iter()
                .try_for_each(|session| print(&format!("{}\n", json::session(session))))?;
        } else {
            rows.extend(page.sessions.iter().map(|session| row(session, SystemTime::now())));
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if !as_json {
        print(&(table::lines(&rows).join("\n") + "\n"))?;
    }
    Ok(0)
}

fn row(session: &SessionInfo, now: SystemTime) -> Vec<String> {
    let runs = match session.active_runs {
        0 => session.total_runs.to_string(),
        active => format!("{} ({active} active)", session.total_runs),
    };
    vec![
        session.session_id.clone(),
        state(session),
        since(session.created_at.as_ref(), now).map_or_else(|| "?".to_owned(), |(age, _)| show(age)),
        runs,
        text(session.policy_name.as_bytes()),
        text(&session.cwd),
    ]
}

/// How far a time lies from now, in whole seconds, and whether it is still to come.
fn since(at: Option<&prost_types::Timestamp>, now: SystemTime) -> Option<(Duration, bool)> {
    let at = at.and_then(|at| timestamp_to_system(at).ok())?;
    let (apart, ahead) = match now.duration_since(at) {
        Ok(past) => (past, false),
        Err(ahead) => (ahead.duration(), true),
    };
    Some((Duration::from_secs(apart.as_secs()), ahead))
}

/// `open`, or why it is closed.
fn state(session: &SessionInfo) -> String {
    let why = match session.end() {
        SessionEnd::Unspecified => None,
        SessionEnd::Closed => Some("by request"),
        SessionEnd::Idle => Some("not used"),
        SessionEnd::Lifetime => Some("its time was over"),
        SessionEnd::Limit => Some("over its limit"),
        SessionEnd::Drain => Some("the daemon ended"),
        SessionEnd::Lost => Some("lost"),
    };
    let state = match session.state() {
        SessionState::Starting => "starting",
        SessionState::Open => "open",
        SessionState::Closing => "closing",
        SessionState::Closed => "closed",
        SessionState::Unspecified => "unknown",
    };
    match why {
        Some(why) => format!("{state} ({why})"),
        None => state.to_owned(),
    }
}

async fn describe(wanted: &str, as_json: bool, connect: &ConnectArgs) -> Result<u8, Failure> {
    let client = existing(connect).await?;
    let id = resolve_session(&client, wanted).await?;
    let described = client.in_session(id).describe().await?;
    print(&if as_json {
        format!("{:#}\n", json::described_session(&described))
    } else {
        shown(&described, SystemTime::now()).join("\n") + "\n"
    })?;
    Ok(0)
}

/// A session and what is in it, for people.
fn shown(described: &DescribeSessionResponse, now: SystemTime) -> Vec<String> {
    let Some(session) = &described.session else {
        return Vec::new();
    };
    let mut facts = vec![
        ("session", session.session_id.clone()),
        ("state", state(session)),
        ("workspace", text(&session.workspace)),
        ("directory", text(&session.cwd)),
        ("policy", text(session.policy_name.as_bytes())),
        ("created by", text(session.peer.as_bytes())),
    ];
    if !session.end_detail.is_empty() {
        facts.push(("closed", text(session.end_detail.as_bytes())));
    }
    if let Some((age, false)) = since(session.created_at.as_ref(), now) {
        facts.push(("age", show(age)));
    }
    if let Some((left, true)) = since(session.closes_at.as_ref(), now) {
        facts.push(("closes", format!("in {} at the latest", show(left))));
    }
    facts.push((
        "runs",
        format!("{}, {} of them active", session.total_runs, session.active_runs),
    ));
    if session.resets > 0 {
        facts.push(("resets", session.resets.to_string()));
    }
    for (key, value) in &session.labels {
        facts.push(("label", format!("{}={}", safe(key), safe(value))));
    }
    if let Some(contents) = &described.contents {
        facts.push(("memory", render::bytes(contents.memory_bytes)));
    }
    let rows: Vec<_> = facts
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    let mut lines = table::lines(&rows);
    if let Some(contents) = &described.contents {
        lines.extend(inside(contents));
    }
    lines
}

fn inside(contents: &SessionContents) -> Vec<String> {
    let SessionContents {
        processes,
        process_count,
        listening,
        memory_bytes: _,
        temporary_files,
        temporary_file_count,
        background,
    } = contents;
    let mut lines = Vec::new();
    let processes: Vec<_> = processes.iter().map(process).collect();
    let head = ["PID", "RUN", "STATE", "CPU", "MEMORY", "AGE", "COMMAND"];
    lines.extend(part(&head, processes, *process_count, "processes"));
    let sockets: Vec<_> = listening.iter().map(socket).collect();
    let count = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
    lines.extend(part(&["LISTENS ON", "PID"], sockets, count, "sockets"));
    let files: Vec<_> = temporary_files.iter().map(file).collect();
    lines.extend(part(&["SIZE", "FILE"], files, *temporary_file_count, "files"));
    for output in background {
        lines.extend(written(output));
    }
    lines
}

/// A table with an empty line before it; nothing of nothing.
fn part(head: &[&str], rows: Vec<Vec<String>>, count: u32, what: &str) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let more = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(rows.len());
    let mut all = vec![head.iter().map(|&name| name.to_owned()).collect()];
    all.extend(rows);
    let mut lines = vec![String::new()];
    lines.extend(table::lines(&all));
    if more > 0 {
        lines.push(format!("... and {more} more {what}"));
    }
    lines
}

fn process(process: &SessionProcess) -> Vec<String> {
    let time = |duration: &Option<prost_types::Duration>| {
        duration.as_ref().and_then(|duration| duration_to_std(duration).ok())
    };
    let run: String = process.run_id.chars().take(RUN_CHARS).collect();
    let command = process.command.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    let command: Vec<_> = command.map(text).collect();
    let command = match command.is_empty() {
        // A kernel's or a dead one's, which has none.
        true => format!("[{}]", text(&process.name)),
        false => command.join(" "),
    };
    vec![
        process.pid.to_string(),
        match (run.as_str(), process.background) {
            ("", _) => "-".to_owned(),
            (run, true) => format!("{run} (over)"),
            (run, false) => run.to_owned(),
        },
        text(process.state.as_bytes()),
        time(&process.cpu_time).map_or_else(String::new, show),
        render::bytes(process.memory_bytes),
        time(&process.age).map_or_else(String::new, |age| show(Duration::from_secs(age.as_secs()))),
        crate::audit::cut(&command, COMMAND_CHARS),
    ]
}

fn socket(socket: &ListeningSocket) -> Vec<String> {
    let address = match socket.address.contains(':') {
        true => format!("[{}]", socket.address),
        false => socket.address.clone(),
    };
    vec![
        format!("{} {}:{}", safe(&socket.protocol), safe(&address), socket.port),
        match socket.pid {
            0 => "?".to_owned(),
            pid => pid.to_string(),
        },
    ]
}

fn file(file: &TemporaryFile) -> Vec<String> {
    match file.directory {
        true => vec!["-".to_owned(), text(&file.path) + "/"],
        false => vec![render::bytes(file.size), text(&file.path)],
    }
}

/// What a background process wrote, its last lines.
fn written(output: &BackgroundOutput) -> Vec<String> {
    let stream = match output.stream() {
        OutputStream::Stderr => "stderr",
        OutputStream::Stdout | OutputStream::Unspecified => "stdout",
    };
    let run: String = output.run_id.chars().take(RUN_CHARS).collect();
    let tail = String::from_utf8_lossy(&output.tail);
    let all: Vec<_> = tail.lines().collect();
    let last = &all[all.len().saturating_sub(TAIL_LINES)..];
    let mut lines = vec![
        String::new(),
        format!(
            "{run} wrote {} to {stream} since it was over{}",
            render::bytes(output.total_bytes),
            if last.is_empty() { "" } else { "; the end of it:" }
        ),
    ];
    lines.extend(last.iter().map(|line| format!("  {}", safe(line))));
    lines
}

/// `session close`: each in turn; 1 when one could not be closed.
async fn close(wanted: &[String], grace: Option<Duration>, reason: &str, connect: &ConnectArgs) -> Result<u8, Failure> {
    let client = existing(connect).await?;
    let one = async |client: &Client, wanted: &str| {
        let id = resolve_session(client, wanted).await?;
        Ok::<_, Failure>(client.in_session(id).close_with(grace, reason).await?)
    };
    let mut code = 0;
    for wanted in wanted {
        match one(&client, wanted).await {
            Ok(session) => print(&format!("{}: {}\n", session.session_id, state(&session)))?,
            Err(error) => {
                tell(&format!("{}: {}", safe(wanted), chain(&error)));
                code = 1;
            }
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_shown_with_what_is_in_it() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let session = SessionInfo {
            session_id: "dev".to_owned(),
            state: SessionState::Open.into(),
            workspace: "/w".into(),
            cwd: "/w/web".into(),
            peer: "uid:1000".to_owned(),
            policy_name: "default".to_owned(),
            created_at: at(1000),
            closes_at: at(4600),
            total_runs: 3,
            active_runs: 1,
            ..SessionInfo::default()
        };
        let contents = SessionContents {
            processes: vec![SessionProcess {
                pid: 7,
                run_id: "0123456789abcdef".to_owned(),
                background: true,
                command: b"node\0server.js\0"[..].into(),
                name: "node".into(),
                state: "S".to_owned(),
                cpu_time: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
                memory_bytes: 1 << 20,
                age: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
                ..SessionProcess::default()
            }],
            process_count: 3,
            listening: vec![ListeningSocket {
                protocol: "tcp".to_owned(),
                address: "::1".to_owned(),
                port: 3000,
                pid: 7,
            }],
            memory_bytes: 2 << 20,
            temporary_files: vec![TemporaryFile {
                path: "/tmp/x\x1b[31m".into(),
                size: 5,
                directory: false,
            }],
            temporary_file_count: 1,
            background: vec![BackgroundOutput {
                run_id: "0123456789abcdef".to_owned(),
                stream: OutputStream::Stdout.into(),
                total_bytes: 6,
                tail: "ready\n".into(),
            }],
        };
        let described = DescribeSessionResponse {
            session: Some(session.clone()),
            contents: Some(contents),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1060);
        let lines = shown(&described, now).join("\n");
        for expected in [
            "directory   /w/web",
            "age         1m",
            "closes      in 59m at the latest",
            "7    0123456789ab (over)  S",
            "node server.js",
            "... and 2 more processes",
            "tcp [::1]:3000  7",
            "since it was over; the end of it:\n  ready",
        ] {
            assert!(lines.contains(expected), "{expected:?} is missing in\n{lines}");
        }
        assert!(!lines.contains('\x1b'), "{lines}");
        assert_eq!(
            row(&session, now),
            ["dev", "open", "1m", "3 (1 active)", "default", "/w/web"]
        );
    }
}
