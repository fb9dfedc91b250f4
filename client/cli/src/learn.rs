//! `fumehood policy learn`: watch a command, propose a policy for it, and prove the proposal by running the command under it.
//!
//! Each run is an ordinary one of the daemon's, whose changes vanish. The proposal is the daemon's as well: it knows what its policies show
//! and hide. Here is only what goes around: up to [`ROUNDS`] proofs, each widening the next proposal by what it missed.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fumehood_client::Client;
use fumehood_client::proto::v1::{
    Ending, Finished, InlinePolicy, LearnOptions, PolicyReference, ProposeRequest, ProposeResponse, Purpose,
    StartRequest, ending::Kind, policy_reference::Reference, run_event::Event,
};

use crate::args::{LearnArgs, RunArgs};
use crate::failure::Failure;
use crate::request::{self, Surroundings};
use crate::start::{self, Connected};
use crate::{print, render, tell};

/// How often a proposal is tried, at most.
const ROUNDS: usize = 3;

/// The exit code for a proposal under which the command ended otherwise.
const EXIT_UNPROVED: u8 = 1;

/// Bytes of the end of an unsuccessful proof's output that are shown.
const TAIL_BYTES: usize = 4096;

/// Watches, proposes, proves; gives the exit code.
pub async fn run(args: LearnArgs) -> Result<u8, Failure> {
    // Before anything is run for nothing.
    if let Some(path) = &args.output
        && !args.force
        && path.symlink_metadata().is_ok()
    {
        return Err(Failure::Exists(path.clone()));
    }
    if let Some(path) = &args.output {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        directory.metadata().map_err(|source| Failure::File {
            action: "write into",
            path: directory.to_owned(),
            source,
        })?;
    }
    let request = request(&args)?;
    let Connected { client, .. } = start::connect(&args.connect).await?;
    let mut runs = Runs {
        client,
        ids: Vec::new(),
    };
    let done = learn(&args, request, &mut runs).await;
    // What was recorded is of no further use to anybody.
    for id in &runs.ids {
        let _ = runs.client.release(id.as_str()).await;
    }
    done
}

/// The runs that were made.
struct Runs {
    client: Client,
    ids: Vec<String>,
}

/// How a run ended.
struct Ended {
    id: String,
    finished: Finished,
    /// What the policy states and the run was not given.
    not_given: Vec<String>,
    /// The end of what it wrote.
    tail: Vec<u8>,
}

async fn learn(args: &LearnArgs, request: StartRequest, runs: &mut Runs) -> Result<u8, Failure> {
    let command: Vec<_> = args.command.iter().map(|argument| argument.to_string_lossy()).collect();
    let command = render::text(command.join(" ").as_bytes());
    tell(&format!("watching `{command}`; all of its changes vanish"));
    let first = runs.run(request.clone(), true).await?;
    if first.finished.usage.is_none() || !was_started(&first.finished) {
        return Err(Failure::NothingLearnt(how(&first.finished)));
    }
    if args.observations {
        return observations(&runs.client, &first.id).await;
    }
    if first.finished.shell_code != 0 {
        tell(&format!(
            "the command {}: the proposal lets it do that again, which may not be what is wanted",
            how(&first.finished)
        ));
    }
    let mut proofs: Vec<String> = Vec::new();
    loop {
        let asked = ProposeRequest {
            run_id: first.id.clone(),
            proof_ids: proofs.clone(),
            name: args.name.clone(),
        };
        let proposal = runs.client.propose(asked).await?;
        if !proposal.news {
            tell("nothing that was asked for would widen the proposal: it is not proved");
            return finish(args, &proposal, false);
        }
        tell(&format!("proposal {}: running the command under it", proofs.len() + 1));
        let mut under = request.clone();
        if let Some(spec) = &mut under.spec {
            spec.policy = Some(PolicyReference {
                reference: Some(Reference::Inline(InlinePolicy {
                    toml: proposal.toml.clone().into_bytes().into(),
                    origin: "the proposal".to_owned(),
                    under: learnt_under(&request),
                    cut: true,
                })),
            });
        }
        let proof = runs.run(under, false).await?;
        for cut in &proof.not_given {
            tell(&format!(
                "the proposal is run without what its policy does not give: {}",
                render::text(cut.as_bytes())
            ));
        }
        if same(&first.finished, &proof.finished) {
            tell(&format!(
                "proved: under the proposal the command {} as well",
                how(&proof.finished)
            ));
            return finish(args, &proposal, true);
        }
        tell(&format!(
            "under the proposal the command {} instead of: {}",
            how(&proof.finished),
            how(&first.finished)
        ));
        for denial in &proof.finished.denials {
            tell(&render::text(
                format!("refused: {} ({})", subject(denial), denial.rule).as_bytes(),
            ));
        }
        show_tail(&proof.tail);
        if proofs.len() + 1 == ROUNDS {
            tell(&format!(
                "not proved after {} proposals; the last one follows",
                proofs.len() + 1
            ));
            return finish(args, &proposal, false);
        }
        proofs.push(proof.id);
    }
}

impl Runs {
    /// Runs to the end. What the command writes goes to standard error where it is `shown`.
    async fn run(&mut self, request: StartRequest, shown: bool) -> Result<Ended, Failure> {
        let mut handle = self.client.run(request).await?;
        let mut tail = Vec::new();
        let mut id = None;
        let mut not_given = Vec::new();
        while let Some(event) = handle.events().next().await? {
            if id.is_none() {
                id = Some(event.run_id.clone());
                self.ids.push(event.run_id.clone());
            }
            match event.event {
                Some(Event::Output(output)) => {
                    if shown {
                        // Whether anybody listens is not for us to mind.
                        let _ = io::stderr().write_all(&output.data);
                    }
                    tail.extend_from_slice(&output.data);
                    if tail.len() > 2 * TAIL_BYTES {
                        tail.drain(..tail.len() - TAIL_BYTES);
                    }
                }
                Some(Event::Started(started)) => not_given = started.not_given,
                Some(Event::Finished(finished)) => {
                    return Ok(Ended {
                        id: event.run_id,
                        finished,
                        not_given,
                        tail,
                    });
                }
                _ => {}
            }
        }
        Err(fumehood_client::Error::Interrupted.into())
    }
}

/// The name of the policy that the first run was under, where the request names one.
fn learnt_under(request: &StartRequest) -> String {
    let policy = request.spec.as_ref().and_then(|spec| spec.policy.as_ref());
    match policy.and_then(|policy| policy.reference.as_ref()) {
        Some(Reference::Name(name)) => name.clone(),
        Some(Reference::Inline(_)) | None => String::new(),
    }
}

/// The request of the first run: that of `fumehood run`, without input, to learn from.
fn request(args: &LearnArgs) -> Result<StartRequest, Failure> {
    let run = RunArgs {
        session: None,
        shell: None,
        carry: None,
        tty: false,
        quiet: true,
        policy: args.policy.clone(),
        workspace: args.workspace.clone(),
        cwd: None,
        env: args.env.clone(),
        timeout: None,
        json: false,
        verbose: false,
        labels: Vec::new(),
        no_stdin: true,
        detach: false,
        interactive: false,
        linger: None,
        merged: false,
        connect: args.connect.clone(),
        command: args.command.clone(),
    };
    let surroundings = Surroundings {
        directory: std::env::current_dir().map_err(Failure::CurrentDirectory)?,
        environment: std::env::vars_os().collect(),
        input: false,
    };
    let mut request = request::build(&run, surroundings)?;
    if let Some(spec) = &mut request.spec {
        spec.learn = Some(LearnOptions { network: args.network });
    }
    Ok(request)
}

/// Writes what was asked for, a line each: what for, whether it was there, what, who.
async fn observations(client: &Client, run: &str) -> Result<u8, Failure> {
    let (observations, lost) = client.observations(run).await?;
    let mut lines = String::new();
    for observation in &observations {
        let purpose = match observation.purpose() {
            Purpose::Look => "look",
            Purpose::Read => "read",
            Purpose::List => "list",
            Purpose::Execute => "execute",
            Purpose::Write => "write",
            Purpose::Connect => "connect",
            Purpose::Bind => "bind",
            Purpose::Unspecified => "?",
        };
        let there = match (observation.existed, observation.directory) {
            (false, _) => "missing",
            (true, true) => "directory",
            (true, false) => "there",
        };
        let (target, program) = (render::text(&observation.target), render::text(&observation.program));
        lines.push_str(&format!("{purpose}\t{there}\t{target}\t{program}\n"));
    }
    print(&lines)?;
    if lost > 0 {
        tell(&format!(
            "{lost} more were asked for than are kept, or cannot be written down"
        ));
    }
    Ok(0)
}

/// Hands the proposal over.
fn finish(args: &LearnArgs, proposal: &ProposeResponse, proved: bool) -> Result<u8, Failure> {
    let notes: BTreeSet<_> = proposal.notes.iter().collect();
    for note in notes {
        tell(&render::text(note.as_bytes()));
    }
    match &args.output {
        Some(path) => {
            write(path, proposal.toml.as_bytes(), args.force)?;
            tell(&format!("wrote {}: read it before it is used", path.display()));
        }
        None => print(&proposal.toml)?,
    }
    Ok(if proved { 0 } else { EXIT_UNPROVED })
}

/// A whole file or none: with `force`, one that is there is replaced at once.
fn write(path: &Path, bytes: &[u8], force: bool) -> Result<(), Failure> {
    let failed = |source| Failure::File {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let fill = |mut file: File| file.write_all(bytes).and_then(|()| file.sync_all());
    if !force {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        return match file {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Failure::Exists(path.to_owned())),
            file => file.and_then(fill).map_err(failed),
        };
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&draft)
        .and_then(fill)
        .and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written.map_err(failed)
}

fn was_started(finished: &Finished) -> bool {
    let kind = finished.ending.as_ref().and_then(|ending| ending.kind.as_ref());
    !matches!(
        kind,
        None | Some(Kind::Denied(_) | Kind::SpawnFailed(_) | Kind::SandboxFailed(_) | Kind::Lost(_))
    )
}

/// Whether two runs ended the same way: the exit code, the signal.
fn same(first: &Finished, second: &Finished) -> bool {
    let kind = |finished: &Finished| finished.ending.as_ref().and_then(|ending: &Ending| ending.kind.clone());
    match (kind(first), kind(second)) {
        (Some(Kind::Exited(first)), Some(Kind::Exited(second))) => first.code == second.code,
        (Some(Kind::Signaled(first)), Some(Kind::Signaled(second))) => first.signal == second.signal,
        _ => false,
    }
}

/// How a run ended, in words that follow "the command".
fn how(finished: &Finished) -> String {
    match finished.ending.as_ref().and_then(|ending| ending.kind.as_ref()) {
        Some(Kind::Exited(exited)) => format!("ended with code {}", exited.code),
        Some(Kind::Denied(denied)) => format!("was denied: {}", denied.explanation),
        Some(Kind::SpawnFailed(failed)) => {
            format!("could not be executed: {}", render::text(&failed.path))
        }
        Some(Kind::SandboxFailed(failed)) => format!("got no sandbox: {}; {}", failed.stage, failed.hint),
        Some(Kind::TimedOut(_)) => "was ended by a time limit".to_owned(),
        Some(Kind::OutOfMemory(_)) => "ran out of memory".to_owned(),
        Some(Kind::OutputLimit(_)) => "was ended by the limit of output".to_owned(),
        Some(Kind::DiskLimit(_)) => "was ended by the limit of disk space".to_owned(),
        Some(Kind::Cancelled(_)) => "was cancelled".to_owned(),
        Some(Kind::Signaled(signaled)) => format!("was ended by signal {}", signaled.signal),
        Some(Kind::Lost(_)) | None => "was lost".to_owned(),
    }
}

fn subject(denial: &fumehood_client::proto::v1::Denial) -> String {
    use fumehood_client::proto::v1::denial::Subject;
    match &denial.subject {
        Some(Subject::Path(path)) => render::text(path),
        Some(Subject::SystemCall(name)) => name.clone(),
        Some(Subject::Address(address)) => address.clone(),
        None => String::new(),
    }
}

fn show_tail(tail: &[u8]) {
    let from = tail.len().saturating_sub(TAIL_BYTES);
    let _ = io::stderr().write_all(&tail[from..]);
    if tail.last().is_some_and(|last| *last != b'\n') {
        let _ = io::stderr().write_all(b"\n");
    }
}
