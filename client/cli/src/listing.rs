//! `fumehood ps`, `wait`, `kill`, `rm`, `policy list` and `version`: what the daemon has, and an end to it.

use std::time::{Duration, Instant, SystemTime};

use fumehood_client::Client;
use fumehood_client::proto::convert::{signal_name, timestamp_to_system};
use fumehood_client::proto::v1::{IgnoredPolicy, ListRequest, RunInfo, RunState, ending::Kind};

use crate::args::{ConnectArgs, KillArgs, PsArgs, RmArgs, WaitArgs};
use crate::duration::show;
use crate::failure::{EXIT_FAILURE, Failure, chain};
use crate::ids::resolve;
use crate::json::{self, hex};
use crate::render::safe;
use crate::start::{self, Connected};
use crate::{print, render, table, tell};

/// Runs asked for at once.
const PAGE: u32 = 200;
/// The exit code when a time was over first, as of `timeout`.
const EXIT_TIMEOUT: u8 = 124;
/// Characters of a command that a line shows.
const COMMAND_CHARS: usize = 60;

/// `ps`. Without a daemon there are no runs; one that was named and is not there is another matter.
pub async fn ps(args: PsArgs) -> Result<u8, Failure> {
    let client = match start::connect_existing(&args.connect).await? {
        Ok(Connected { client, .. }) => client,
        Err(socket) if args.connect.socket.is_some() || args.connect.no_start => {
            tell(&chain(&Failure::NoDaemon(socket)));
            return Ok(1);
        }
        Err(_) if args.json => return Ok(0),
        Err(_) => {
            tell("no daemon is running, and so no run");
            return Ok(0);
        }
    };
    let live = [
        RunState::AwaitingApproval,
        RunState::Queued,
        RunState::Starting,
        RunState::Running,
        RunState::Ending,
    ];
    let states = if args.all { vec![] } else { live.map(i32::from).to_vec() };
    let mut rows = vec![
        ["RUN ID", "STATE", "AGE", "FOLLOWERS", "POLICY", "COMMAND"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut page_token = String::new();
    loop {
        let page = client
            .list(ListRequest {
                states: states.clone(),
                page_size: PAGE,
                page_token,
            })
            .await?;
        if args.json {
            page.runs.iter().try_for_each(|run| print(&line(run)))?;
        } else {
            rows.extend(page.runs.iter().map(|run| row(run, SystemTime::now())));
        }
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    if !args.json {
        print(&(table::lines(&rows).join("\n") + "\n"))?;
    }
    Ok(0)
}

/// A run on one line of JSON.
fn line(run: &RunInfo) -> String {
    format!("{}\n", json::run(run))
}

fn row(run: &RunInfo, now: SystemTime) -> Vec<String> {
    let accepted = run.accepted_at.as_ref().and_then(|at| timestamp_to_system(at).ok());
    let age = accepted.map(|at| now.duration_since(at).unwrap_or_default());
    // Shorter than a second is of no interest here.
    let age = age.map_or_else(|| "?".to_owned(), |age| show(Duration::from_secs(age.as_secs())));
    let command = run
        .argv
        .iter()
        .map(|argument| shell_word(argument))
        .collect::<Vec<_>>()
        .join(" ");
    let command = match command.char_indices().nth(COMMAND_CHARS) {
        Some((end, _)) => format!("{}...", &command[..end]),
        None => command,
    };
    vec![
        run.run_id.clone(),
        state(run),
        age,
        run.followers.to_string(),
        run.policy_name.clone(),
        command,
    ]
}

/// `running`, or how it ended.
fn state(run: &RunInfo) -> String {
    let kind = run
        .finished
        .as_ref()
        .and_then(|finished| finished.ending.as_ref()?.kind.as_ref());
    match kind {
        Some(Kind::Exited(exited)) => format!("exited {}", exited.code),
        Some(Kind::Signaled(signaled)) => {
            signal_name(signaled.signal).map_or_else(|| format!("signal {}", signaled.signal), str::to_owned)
        }
        Some(Kind::TimedOut(_)) => "timed out".to_owned(),
        Some(Kind::Cancelled(_)) => "cancelled".to_owned(),
        Some(Kind::OutOfMemory(_)) => "out of memory".to_owned(),
        Some(Kind::OutputLimit(_)) => "output limit".to_owned(),
        Some(Kind::DiskLimit(_)) => "disk limit".to_owned(),
        Some(Kind::Denied(_)) => "denied".to_owned(),
        Some(Kind::SpawnFailed(_)) => "not executable".to_owned(),
        Some(Kind::SandboxFailed(_)) => "no sandbox".to_owned(),
        Some(Kind::Lost(_)) => "lost".to_owned(),
        None => match run.state() {
            RunState::AwaitingApproval => format!("awaiting approval {}", run.approval_id),
            RunState::Queued => "queued".to_owned(),
            RunState::Starting => "starting".to_owned(),
            RunState::Running => "running".to_owned(),
            RunState::Ending => "ending".to_owned(),
            RunState::Finished => "finished".to_owned(),
            RunState::Unspecified => "unknown".to_owned(),
        },
    }
}

/// An argument as one would type it.
pub fn shell_word(argument: &[u8]) -> String {
    let text = render::text(argument);
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// The daemon that has the runs: none is started, because it would have none.
pub async fn existing(connect: &ConnectArgs) -> Result<Client, Failure> {
    match start::connect_existing(connect).await? {
        Ok(Connected { client, .. }) => Ok(client),
        Err(socket) => Err(Failure::NoDaemon(socket)),
    }
}

/// `kill`: each run in turn; 1 when one could not be ended.
pub async fn kill(args: KillArgs) -> Result<u8, Failure> {
    let client = existing(&args.connect).await?;
    let mut code = 0;
    for wanted in args.run_ids {
        let killed = async {
            let run_id = resolve(&client, &wanted).await?;
            Ok(client.kill(run_id, args.grace, args.reason.as_str()).await?)
        };
        code |= told(&wanted, killed.await, args.json)?;
    }
    Ok(code)
}

/// Prints a run as it is now; 1 when that is an error.
fn told(wanted: &str, run: Result<RunInfo, Failure>, json: bool) -> Result<u8, Failure> {
    match run {
        Ok(run) if json => print(&line(&run))?,
        Ok(run) => print(&format!("{}: {}\n", run.run_id, state(&run)))?,
        Err(error) => {
            tell(&format!("{}: {}", safe(wanted), chain(&error)));
            return Ok(1);
        }
    }
    Ok(0)
}

/// `wait`: for each run in turn; the last one's code.
pub async fn wait(args: WaitArgs) -> Result<u8, Failure> {
    let client = existing(&args.connect).await?;
    let give_up = args.timeout.map(|timeout| Instant::now() + timeout);
    // Whether there are all of them is said before the first is waited for.
    let mut ids = Vec::with_capacity(args.run_ids.len());
    for wanted in &args.run_ids {
        ids.push(resolve(&client, wanted).await?);
    }
    let mut code = 0;
    for id in ids {
        let left = give_up.map(|give_up| give_up.saturating_duration_since(Instant::now()));
        let run = client.wait(id.as_str(), left).await?;
        told(&id, Ok(run.clone()), args.json)?;
        match run.finished {
            Some(finished) => code = u8::try_from(finished.shell_code).unwrap_or(EXIT_FAILURE),
            None => return Ok(EXIT_TIMEOUT),
        }
    }
    Ok(code)
}

/// `rm`: each run in turn; 1 when one is still there.
pub async fn rm(args: RmArgs) -> Result<u8, Failure> {
    let client = existing(&args.connect).await?;
    let mut code = 0;
    for wanted in args.run_ids {
        let forgotten = async {
            let run_id = resolve(&client, &wanted).await?;
            if args.force {
                client.kill(run_id.as_str(), None, "removed").await?;
            }
            client.release(run_id.as_str()).await?;
            Ok::<_, Failure>(run_id)
        };
        match forgotten.await {
            Ok(run_id) if args.json => print(&format!("{}\n", serde_json::json!({ "run_id": run_id })))?,
            Ok(run_id) => print(&format!("{run_id}\n"))?,
            Err(error) => {
                let running = matches!(&error, Failure::Call(fumehood_client::Error::Precondition { .. }));
                let how = if running { "; --force kills it first" } else { "" };
                tell(&format!("{}: {}{how}", safe(&wanted), chain(&error)));
                code = 1;
            }
        }
    }
    Ok(code)
}

fn plain(text: &str) -> String {
    render::text(text.as_bytes())
}

/// `policy list`.
pub async fn policies(connect: ConnectArgs) -> Result<u8, Failure> {
    let Connected { client, .. } = start::connect(&connect).await?;
    let mut rows = vec![
        ["", "NAME", "DIGEST", "FROM", "DESCRIPTION"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for policy in client.policies().await? {
        let mark = match (policy.is_default, policy.ceiling) {
            (true, true) => "*^",
            (true, false) => "*",
            (false, true) => "^",
            (false, false) => "",
        };
        let from = if policy.builtin {
            "built in".to_owned()
        } else {
            policy.origin
        };
        let digest = hex(&policy.digest);
        let digest = digest.get(..12).unwrap_or(&digest).to_owned();
        rows.push(vec![mark.to_owned(), policy.name, digest, from, policy.description]);
    }
    print(&(table::lines(&rows).join("\n") + "\n"))?;
    let ignored = client.ignored_policies().await?;
    if !ignored.is_empty() {
        let line = |file: &IgnoredPolicy| format!("{}: {}", plain(&file.path), plain(&file.reason));
        let lines: Vec<_> = ignored.iter().map(line).collect();
        print(&format!("\nwithout effect:\n{}\n", lines.join("\n")))?;
    }
    Ok(0)
}

/// `version`.
pub async fn version(args: ConnectArgs) -> Result<u8, Failure> {
    print(&format!("fumehood {}\n", env!("CARGO_PKG_VERSION")))?;
    match start::connect_existing(&args).await? {
        Err(socket) => {
            print(&format!("daemon   not running on {}\n", socket.display()))?;
            // Nobody starts one here; but who says that there is to be one asks for more than this program's version.
            return Ok(u8::from(args.no_start || args.socket.is_some()));
        }
        Ok(connected) => {
            let version = &connected.version;
            let since = version
                .started_at
                .as_ref()
                .map_or(String::new(), |at| format!(", since {at}"));
            let idle = version
                .idle_exit
                .as_ref()
                .and_then(|idle| fumehood_client::proto::convert::duration_to_std(idle).ok());
            let idle = idle.map_or(String::new(), |idle| format!(", ends after {} idle", show(idle)));
            let draining = if version.draining { ", draining" } else { "" };
            let (number, api, pid) = (&version.version, &version.api, version.pid);
            print(&format!(
                "daemon   {number} ({api}, process {pid}{since}{idle}{draining})\n"
            ))?;
            print(&format!("socket   {}\n", connected.socket.display()))?;
            if let Some(notice) = start::version_notice(&connected) {
                tell(&notice);
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_client::proto::v1::{Ending, Exited, Finished};

    #[test]
    fn a_run_is_one_line_with_its_command_as_typed() {
        let run = RunInfo {
            run_id: "r1".to_owned(),
            state: RunState::Running.into(),
            argv: vec!["sh".into(), "-c".into(), "echo 'a'\n".into(), "".into()],
            policy_name: "default".to_owned(),
            accepted_at: Some(prost_types::Timestamp { seconds: 100, nanos: 0 }),
            ..RunInfo::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(190_500);
        assert_eq!(
            row(&run, now),
            [
                "r1",
                "running",
                "1m30s",
                "0",
                "default",
                "sh -c 'echo '\\''a'\\''\\n' ''"
            ]
        );
    }

    #[test]
    fn a_long_command_is_cut_at_a_character() {
        let run = RunInfo {
            argv: vec!["\u{e9}".repeat(200).into()],
            ..RunInfo::default()
        };
        let command = row(&run, SystemTime::now()).pop().unwrap();
        assert_eq!(command.chars().count(), COMMAND_CHARS + 3);
    }

    #[test]
    fn a_finished_run_shows_how_it_ended() {
        let ending = Some(Ending {
            kind: Some(Kind::Exited(Exited { code: 3 })),
        });
        let finished = Some(Finished {
            ending,
            shell_code: 3,
            usage: None,
            ..Finished::default()
        });
        assert_eq!(
            state(&RunInfo {
                state: RunState::Finished.into(),
                finished,
                ..RunInfo::default()
            }),
            "exited 3"
        );
    }
}
