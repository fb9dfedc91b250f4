//! A request to run something, checked field by field. What comes out is valid; everything wrong with it is said at once.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fumehood_policies::RequestedLimits;
use fumehood_proto::convert::duration_to_std;
use fumehood_proto::v1;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use super::place::Place;
use super::status;
use crate::audit::{AuditLog, RequestRefused};
use crate::files::View;
use crate::peer::Peer;
use crate::policy::{Asking, Brought, Choice, MAX_POLICY_BYTES, Policies, Reference, Refusal};
use crate::run::{Asked, Host, Learn, Line, Request, RunTable, Terminal, TerminalSize};
use crate::session::{Carry, SessionTable};
use crate::telemetry;

/// Bounds of a request; the wire documents them.
const MAX_ID_BYTES: usize = 128;
const MAX_ARGUMENT_BYTES: usize = 131_071;
const MAX_VALUE_BYTES: usize = 131_072;
const MAX_LINE_BYTES: usize = 131_000;
const MAX_NAME_BYTES: usize = 4096;
const MAX_ARGUMENTS_TOTAL_BYTES: usize = 2_097_152;
const MAX_PATH_BYTES: usize = 4095;
const MAX_LABELS: usize = 16;
const MAX_TERM_BYTES: usize = 64;

/// What terminals begin with; the wire documents it.
const DEFAULT_SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// Entries of `Started.not_given`.
pub(super) const MAX_NOT_GIVEN: usize = 16;

/// How long a run lingers when the request does not say, and the most it may ask for; the wire documents them.
const LINGER: Duration = Duration::from_secs(60);
const MAX_LINGER: Duration = Duration::from_secs(24 * 3600);

/// What shells start with.
pub(super) const DEFAULT_UMASK: u32 = 0o022;
/// The label of runs to learn from; the wire documents it.
const LEARNING_LABEL: &str = "fumehood.learning";
const MAX_LABEL_KEY_BYTES: usize = 64;
const MAX_LABEL_VALUE_BYTES: usize = 256;

/// What the door needs to know.
#[derive(Clone, Debug)]
pub struct Door {
    /// The policies, and which of them decides.
    pub policies: Policies,
    /// Places of the daemon's own; see [`Host::private`].
    pub private: Arc<[PathBuf]>,
    /// Output kept when a request does not say.
    pub keep_bytes: u64,
    /// Output kept at most.
    pub max_keep_bytes: u64,
    /// Whether output is written to a file when a request does not say.
    pub spill: bool,
    /// Where it is written down that a request gets no policy.
    pub audit: Option<AuditLog>,
    /// The sessions that runs may be in; `None`: there are none here.
    pub sessions: Option<SessionTable>,
}

/// A checked request with what concerns its connection only.
#[derive(Debug)]
pub(super) struct Checked {
    pub request: Request,
    /// A slow reader of the Run stream holds the command back.
    pub block: bool,
    /// What becomes of the run when the Run stream ends early.
    pub on_disconnect: OnDisconnect,
}

/// What becomes of a run whose Run stream ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDisconnect {
    /// It is ended.
    Kill,
    /// It goes on.
    Keep,
    /// It goes on until nobody has followed it for so long.
    Linger(Duration),
}

/// How output is kept.
struct Kept {
    keep_bytes: usize,
    block: bool,
    merged: bool,
    spill: bool,
}

/// What is wrong so far.
#[derive(Default)]
pub(super) struct Violations(pub(super) Vec<(String, String)>);

impl Violations {
    /// # Errors
    /// What is wrong, if anything is.
    pub(super) fn none(self) -> Result<(), Status> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(self.into_status()),
        }
    }

    pub(super) fn into_status(self) -> Status {
        status::invalid(self.0)
    }

    pub(super) fn add(&mut self, field: impl Into<String>, what: impl Into<String>) {
        self.0.push((field.into(), what.into()));
    }

    /// The value of a check, or its default with the violation noted.
    pub(super) fn take<T: Default>(&mut self, field: &str, result: Result<T, String>) -> T {
        result.unwrap_or_else(|what| {
            self.add(field, what);
            T::default()
        })
    }
}

impl Door {
    /// Checks a request to start a run, where blocking is allowed: directories and the user database are looked at.
    pub(super) async fn check(&self, peer: &Peer, start: v1::StartRequest) -> Result<Checked, Status> {
        self.blocking(peer, move |door, peer| door.check_blocking(peer, start))
            .await
    }

    /// Checks something about a peer where blocking is allowed.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        peer: &Peer,
        check: impl FnOnce(&Door, &Peer) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let (door, asking) = (self.clone(), peer.clone());
        let checked = match tokio::task::spawn_blocking(move || check(&door, &asking)).await {
            Ok(result) => result,
            Err(error) => Err(Status::internal(format!("the check of the request failed: {error}"))),
        };
        self.note_refusal(peer, checked).await
    }

    /// Checks in which view files are to be worked on, as [`Self::check`] does. `wrong` is what else is wrong with the request.
    pub(super) async fn files_view(
        &self,
        peer: &Peer,
        named: v1::WorkspaceView,
        wrong: Violations,
    ) -> Result<View, Status> {
        self.blocking(peer, move |door, peer| door.view_blocking(peer, named, wrong))
            .await
    }

    fn view_blocking(&self, peer: &Peer, named: v1::WorkspaceView, mut wrong: Violations) -> Result<View, Status> {
        let v1::WorkspaceView {
            workspace,
            policy,
            caller_env,
        } = named;
        let caller_env: Vec<(Vec<u8>, Vec<u8>)> = caller_env
            .into_iter()
            .filter(|variable| variable_problem(variable).is_none())
            .map(|variable| (variable.name.to_vec(), variable.value.to_vec()))
            .collect();
        let host = self.host(peer, &workspace, Path::new(""), &caller_env);
        let host = wrong.take("view.workspace.workspace", host.map(Some));
        let labels = BTreeMap::new();
        let choice = self.policy(&mut wrong, "view.workspace", peer, &labels, host.as_ref(), policy)?;
        match (wrong.0.is_empty(), choice, host) {
            (true, Some(choice), Some(host)) => Ok(View {
                peer: peer.clone(),
                host,
                policy: choice.policy,
                layers: choice.layers,
                session: None,
            }),
            _ => Err(wrong.into_status()),
        }
    }

    /// What a peer may not have at all is its policy, and nothing else tells of it.
    pub(super) async fn note_refusal<T>(&self, peer: &Peer, checked: Result<T, Status>) -> Result<T, Status> {
        if let (Err(status), Some(audit)) = (&checked, &self.audit)
            && status.code() == Code::PermissionDenied
        {
            let refused = RequestRefused {
                peer: peer.to_string(),
                peer_pid: peer.pid(),
                reason: status.message().to_owned(),
            };
            if let Err(error) = audit.request_refused(&refused).await {
                tracing::warn!(%peer, error = %telemetry::chain(&error), "a refused request is not in the audit log");
            }
        }
        checked
    }

    /// What a sandbox is made from; or what is wrong with the workspace.
    pub(super) fn host(
        &self,
        peer: &Peer,
        workspace: &[u8],
        cwd: &Path,
        caller_env: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Host, String> {
        let workspace = check_workspace(workspace)?;
        let asked = Asked {
            peer,
            workspace: &workspace,
            cwd,
            caller_env,
            private: &self.private,
        };
        Host::look_up(asked).map_err(|error| error.to_string())
    }

    fn check_blocking(&self, peer: &Peer, start: v1::StartRequest) -> Result<Checked, Status> {
        // The same request gives the same digest whatever a client's encoder does: it is taken over our own encoding.
        // The caller's environment is no part of it: what the policy does not pass is not looked at.
        let mut asked = start.clone();
        if let Some(spec) = &mut asked.spec {
            spec.caller_env.clear();
        }
        let digest: [u8; 32] = Sha256::digest(asked.encode_to_vec()).into();
        let v1::StartRequest { run_id, spec } = start;
        let Some(spec) = spec else {
            return Err(status::invalid_field("spec", "missing; it says what to run"));
        };
        // Every field is named: one that is added to the wire and forgotten here does not compile.
        let v1::RunSpec {
            session,
            shell,
            argv,
            env,
            caller_env,
            workspace,
            cwd,
            policy,
            limits,
            input,
            output,
            on_disconnect,
            mut labels,
            umask,
            terminal,
            linger,
            learn,
        } = spec;
        let mut wrong = Violations::default();
        let id = wrong.take("run_id", check_id(run_id));
        let session = match session.as_str() {
            "" => None,
            id => {
                let sessions = self.sessions.as_ref();
                let found = sessions.and_then(|sessions| sessions.get(peer, id));
                Some(found.ok_or_else(|| status::no_such_session(id))?)
            }
        };
        let line = shell.and_then(|shell| check_line(&mut wrong, shell));
        match &line {
            None => check_argv(&mut wrong, &argv),
            Some(_) if argv.is_empty() => {}
            Some(_) => wrong.add("spec.argv", "given together with `shell`; give one of both"),
        }
        // As execve counts: each string with its closing NUL and its pointer.
        let string = |bytes: usize| bytes + 1 + size_of::<usize>();
        let variables = |env: &[v1::EnvironmentVariable]| -> usize {
            env.iter()
                .map(|variable| string(variable.name.len() + 1 + variable.value.len()))
                .sum()
        };
        let line_bytes = line.as_ref().map_or(0, |(line, _)| string(line.len()));
        let total = argv.iter().map(|argument| string(argument.len())).sum::<usize>() + line_bytes + variables(&env);
        if total > MAX_ARGUMENTS_TOTAL_BYTES {
            let what = format!(
                "argv and env take {total} bytes together, more than {MAX_ARGUMENTS_TOTAL_BYTES}; use a file or stdin"
            );
            return Err(status::invalid_field("spec.argv", what));
        }
        if variables(&caller_env) > MAX_ARGUMENTS_TOTAL_BYTES {
            let what = format!("takes more than {MAX_ARGUMENTS_TOTAL_BYTES} bytes");
            return Err(status::invalid_field("spec.caller_env", what));
        }
        let env = check_env(&mut wrong, env);
        let limits = check_limits(&mut wrong, limits);
        let cwd = wrong.take("spec.cwd", check_path(&cwd));
        let place = match session {
            None => self.place(&mut wrong, peer, &workspace, &cwd, caller_env, &labels, policy)?,
            Some(session) => {
                let of_the_session = [
                    ("spec.workspace", workspace.is_empty()),
                    ("spec.policy", policy.is_none()),
                    ("spec.caller_env", caller_env.is_empty()),
                    ("spec.learn", learn.is_none()),
                    ("spec.limits.memory_bytes", limits.memory_bytes.is_none()),
                    ("spec.limits.processes", limits.processes.is_none()),
                    ("spec.limits.disk_bytes", limits.disk_bytes.is_none()),
                    ("spec.limits.files", limits.files.is_none()),
                ];
                for (field, _) in of_the_session.into_iter().filter(|(_, absent)| !absent) {
                    wrong.add(
                        field,
                        "given together with `session`; it is the session's, leave it out here",
                    );
                }
                Some(Place::within(session, &cwd))
            }
        };
        let input = match v1::InputMode::try_from(input) {
            Ok(v1::InputMode::Unspecified | v1::InputMode::None) => false,
            Ok(v1::InputMode::Stream) => true,
            Err(_) => {
                wrong.add("spec.input", format!("{input} is no InputMode"));
                false
            }
        };
        let Kept {
            keep_bytes,
            block,
            merged,
            spill,
        } = self.output(&mut wrong, output);
        let on_disconnect = check_on_disconnect(&mut wrong, on_disconnect, linger);
        let terminal = terminal.map(|options| check_terminal(&mut wrong, options));
        // Its keyboard is there whatever was said of input.
        let input = input || terminal.is_some();
        check_labels(&mut wrong, &labels);
        // Ours, whatever the caller said: lists and the audit log tell these runs from others.
        labels.remove(LEARNING_LABEL);
        if learn.is_some() {
            labels.insert(LEARNING_LABEL.to_owned(), "true".to_owned());
        }
        check_umask(&mut wrong, umask);
        match place {
            Some(mut place) if wrong.0.is_empty() => {
                if let (Some((text, _)), Some(session)) = (&line, &mut place.session) {
                    (session.begin, session.dropped) = session.begin.before(text);
                }
                let line = line.map(|(text, carry)| Line {
                    shell: place.shell(),
                    text,
                    carry,
                });
                let argv = match &line {
                    Some(line) => line.shell.argv(&line.text),
                    None => argv.into_iter().map(Vec::from).collect(),
                };
                let of_session = place.session.as_ref().map(|place| &place.session.request);
                let labels = match of_session {
                    Some(session) => session.labels.clone().into_iter().chain(labels).collect(),
                    None => labels,
                };
                let limits = of_session.map_or(limits, |session| limits.or(&session.limits));
                let usual = of_session.map_or(DEFAULT_UMASK, |session| session.umask);
                let request = Request {
                    id,
                    digest,
                    peer: peer.clone(),
                    argv,
                    line,
                    env,
                    caller_env: place.caller_env,
                    host: place.host,
                    policy: place.policy,
                    layers: place.layers,
                    not_given: place.not_given,
                    limits,
                    input,
                    keep_bytes,
                    merged,
                    spill,
                    labels,
                    umask: umask.unwrap_or(usual),
                    terminal,
                    learn: learn.map(|v1::LearnOptions { network }| Learn {
                        network,
                        own: place.own,
                    }),
                    session: place.session,
                };
                Ok(Checked {
                    request,
                    block,
                    on_disconnect,
                })
            }
            _ => Err(status::invalid(wrong.0)),
        }
    }

    /// The policy that decides, about a request that names it at `at`. What is wrong with what the request says is noted; what this peer may not have is a status of its own.
    pub(super) fn policy(
        &self,
        wrong: &mut Violations,
        at: &str,
        peer: &Peer,
        labels: &BTreeMap<String, String>,
        host: Option<&Host>,
        reference: Option<v1::PolicyReference>,
    ) -> Result<Option<Choice>, Status> {
        let reference = match policy_reference(reference.as_ref()) {
            Ok(reference) => reference,
            Err((field, what)) => {
                wrong.add(format!("{at}.{field}"), what);
                return Ok(None);
            }
        };
        let asking = Asking {
            peer,
            labels,
            workspace: host.map(|host| (host.workspace.as_path(), host.identity.outside_uid)),
        };
        match self.policies.choose(asking, reference) {
            Ok(choice) => return Ok(Some(choice)),
            Err(refusal @ Refusal::NoSuchPolicy { .. }) => {
                let field = match reference {
                    Reference::Inline(_) => "policy.inline.under",
                    Reference::Name(_) | Reference::None => "policy.name",
                };
                wrong.add(format!("{at}.{field}"), refusal.to_string());
            }
            Err(refusal @ Refusal::Inline(_)) => wrong.add(format!("{at}.policy.inline"), refusal.to_string()),
            Err(refusal @ Refusal::Project(_)) => wrong.add(format!("{at}.workspace"), refusal.to_string()),
            Err(refusal) => return Err(status::refused_policy(&refusal)),
        }
        Ok(None)
    }

    fn output(&self, wrong: &mut Violations, options: Option<v1::OutputOptions>) -> Kept {
        let v1::OutputOptions {
            keep_bytes,
            flow,
            layout,
            spill,
        } = options.unwrap_or_default();
        let keep = keep_bytes.unwrap_or(self.keep_bytes);
        if keep > self.max_keep_bytes {
            wrong.add(
                "spec.output.keep_bytes",
                format!("{keep} is more than {}", self.max_keep_bytes),
            );
        }
        let block = match v1::FlowControl::try_from(flow) {
            Ok(v1::FlowControl::Unspecified | v1::FlowControl::Drop) => false,
            Ok(v1::FlowControl::Block) => true,
            Err(_) => {
                wrong.add("spec.output.flow", format!("{flow} is no FlowControl"));
                false
            }
        };
        let merged = match v1::OutputLayout::try_from(layout) {
            Ok(v1::OutputLayout::Unspecified | v1::OutputLayout::Separate) => false,
            Ok(v1::OutputLayout::Merged) => true,
            Err(_) => {
                wrong.add("spec.output.layout", format!("{layout} is no OutputLayout"));
                false
            }
        };
        let spill = match v1::OutputSpill::try_from(spill) {
            Ok(v1::OutputSpill::Unspecified) => self.spill,
            Ok(v1::OutputSpill::No) => false,
            Ok(v1::OutputSpill::Yes) => true,
            Err(_) => {
                wrong.add("spec.output.spill", format!("{spill} is no OutputSpill"));
                false
            }
        };
        Kept {
            keep_bytes: keep as usize,
            block,
            merged,
            spill,
        }
    }
}

/// What a request says about its policy; or the field that is wrong, and how.
pub(super) fn policy_reference(
    reference: Option<&v1::PolicyReference>,
) -> Result<Reference<'_>, (&'static str, String)> {
    use v1::policy_reference::Reference as Wire;
    let v1::InlinePolicy {
        toml,
        origin,
        under,
        cut,
    } = match reference.and_then(|reference| reference.reference.as_ref()) {
        None => return Ok(Reference::None),
        Some(Wire::Name(name)) => return Ok(Reference::Name(name)),
        Some(Wire::Inline(inline)) => inline,
    };
    if origin.len() > MAX_NAME_BYTES || origin.contains(|c: char| c.is_control()) {
        let what = format!("longer than {MAX_NAME_BYTES} bytes, or not one printable line");
        return Err(("policy.inline.origin", what));
    }
    if toml.len() as u64 > MAX_POLICY_BYTES {
        return Err(("policy.inline", format!("longer than {MAX_POLICY_BYTES} bytes")));
    }
    Ok(Reference::Inline(Brought {
        toml,
        origin: if origin.is_empty() { "policy" } else { origin },
        under,
        cut: *cut,
    }))
}

fn check_terminal(wrong: &mut Violations, options: v1::TerminalOptions) -> Terminal {
    let v1::TerminalOptions { size, term } = options;
    let size = wrong.take("spec.terminal.size", check_size(size.unwrap_or_default()).map(Some));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    if term.len() > MAX_TERM_BYTES || !term.bytes().all(allowed) {
        let what = format!("not 1 to {MAX_TERM_BYTES} of A-Z a-z 0-9 . _ + -");
        wrong.add("spec.terminal.term", what);
    }
    Terminal {
        size: size.unwrap_or(DEFAULT_SIZE),
        term,
    }
}

/// A terminal's size; zeroes stand for the usual one.
pub(super) fn check_size(v1::TerminalSize { rows, columns }: v1::TerminalSize) -> Result<TerminalSize, String> {
    let one = |what: &str, value: u32, usual: u16| match u16::try_from(value) {
        Ok(0) => Ok(usual),
        Ok(value) => Ok(value),
        Err(_) => Err(format!("{value} {what}, more than {}", u16::MAX)),
    };
    Ok(TerminalSize {
        rows: one("rows", rows, DEFAULT_SIZE.rows)?,
        columns: one("columns", columns, DEFAULT_SIZE.columns)?,
    })
}

pub(super) fn check_id(id: String) -> Result<String, String> {
    if id.is_empty() {
        return Ok(RunTable::new_id());
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if id.len() > MAX_ID_BYTES || !id.bytes().all(valid) {
        return Err(format!("not 1 to {MAX_ID_BYTES} of A-Z a-z 0-9 . _ : -"));
    }
    Ok(id)
}

/// A line for a shell, and what is carried of it.
fn check_line(wrong: &mut Violations, shell: v1::ShellLine) -> Option<(Vec<u8>, Carry)> {
    let v1::ShellLine { line, carry } = shell;
    match line.len() {
        0 => wrong.add("spec.shell.line", "empty; write a command"),
        length if length > MAX_LINE_BYTES => {
            let what = format!("{length} bytes, more than {MAX_LINE_BYTES}; put it into a file and run that");
            wrong.add("spec.shell.line", what);
        }
        _ if line.contains(&0) => wrong.add("spec.shell.line", "holds a NUL byte, which no shell reads"),
        _ => {}
    }
    let carry = match v1::ShellCarry::try_from(carry) {
        Ok(v1::ShellCarry::Unspecified | v1::ShellCarry::Environment) => Carry::Environment,
        Ok(v1::ShellCarry::Nothing) => Carry::Nothing,
        Ok(v1::ShellCarry::Everything) => Carry::Everything,
        Err(_) => {
            wrong.add("spec.shell.carry", format!("{carry} is no ShellCarry"));
            Carry::Nothing
        }
    };
    Some((line.to_vec(), carry))
}

pub(super) fn check_umask(wrong: &mut Violations, umask: Option<u32>) {
    if let Some(umask) = umask.filter(|umask| *umask > 0o777) {
        wrong.add("spec.umask", format!("{umask:#o} is more than 0o777"));
    }
}

fn check_argv(wrong: &mut Violations, argv: &[Bytes]) {
    match argv.first() {
        None => wrong.add("spec.argv", "empty; name at least a program"),
        Some(program) if program.is_empty() => wrong.add("spec.argv[0]", "empty; name a program"),
        Some(_) => {}
    }
    for (index, argument) in argv.iter().enumerate() {
        let field = || format!("spec.argv[{index}]");
        if argument.contains(&0) {
            wrong.add(field(), "holds a NUL byte, which no argument can");
        } else if argument.len() > MAX_ARGUMENT_BYTES {
            wrong.add(
                field(),
                format!("{} bytes, more than {MAX_ARGUMENT_BYTES}", argument.len()),
            );
        }
        // One report of a kind is enough for a list that may have a million entries.
        if wrong.0.len() > 16 {
            return;
        }
    }
}

/// Why a variable cannot be one.
pub(super) fn variable_problem(variable: &v1::EnvironmentVariable) -> Option<String> {
    let v1::EnvironmentVariable { name, value } = variable;
    if name.is_empty() {
        return Some("the name is empty".to_owned());
    }
    if name.len() > MAX_NAME_BYTES {
        return Some(format!("the name has {} bytes, more than {MAX_NAME_BYTES}", name.len()));
    }
    if name.contains(&b'=') || name.contains(&0) {
        return Some("the name holds '=' or NUL".to_owned());
    }
    if value.contains(&0) {
        return Some("the value holds NUL".to_owned());
    }
    // The kernel counts name, '=', value and the closing NUL as one string.
    if name.len() + value.len() + 2 > MAX_VALUE_BYTES {
        return Some(format!(
            "name and value have {} bytes, more than {MAX_VALUE_BYTES}",
            name.len() + value.len()
        ));
    }
    None
}

/// The kernel takes any name, shells none with blanks: whoever asks for one has made a mistake. What a caller merely happens to have is
/// its own affair.
fn blank_problem(name: &[u8]) -> Option<String> {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || byte.is_ascii_control();
    name.iter()
        .any(blank)
        .then(|| "the name holds a blank or a control character".to_owned())
}

pub(super) fn check_env(wrong: &mut Violations, env: Vec<v1::EnvironmentVariable>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = HashSet::new();
    for (index, variable) in env.iter().enumerate() {
        let again = || Some("the name is given twice".to_owned());
        if let Some(problem) = variable_problem(variable)
            .or_else(|| blank_problem(&variable.name))
            .or_else(|| if names.insert(&variable.name) { None } else { again() })
        {
            wrong.add(format!("spec.env[{index}]"), problem);
        }
        if wrong.0.len() > 16 {
            break;
        }
    }
    env.into_iter()
        .map(|variable| (variable.name.to_vec(), variable.value.to_vec()))
        .collect()
}

pub(super) fn check_path(path: &[u8]) -> Result<PathBuf, String> {
    if path.contains(&0) {
        return Err("holds a NUL byte, which no path can".to_owned());
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("{} bytes, more than {MAX_PATH_BYTES}", path.len()));
    }
    Ok(Path::new(OsStr::from_bytes(path)).to_owned())
}

pub(super) fn check_workspace(path: &[u8]) -> Result<PathBuf, String> {
    let path = check_path(path)?;
    match path.is_absolute() {
        // Its directories are of processes, and a sandbox has its own.
        true if path.starts_with("/proc") => {
            Err("in /proc, of which every sandbox has one of its own; name a directory on disk".to_owned())
        }
        true => Ok(path),
        false => Err("not an absolute path; name the project's directory".to_owned()),
    }
}

pub(super) fn check_limits(wrong: &mut Violations, limits: Option<v1::RequestedLimits>) -> RequestedLimits {
    let v1::RequestedLimits {
        wall,
        idle,
        cpu_time,
        memory_bytes,
        processes,
        output_bytes,
        grace,
        disk_bytes,
        files,
    } = limits.unwrap_or_default();
    let mut duration = |field: &str, value: Option<prost_types::Duration>, zero: bool| -> Option<Duration> {
        let field = format!("spec.limits.{field}");
        match duration_to_std(&value?) {
            Ok(duration) if duration.is_zero() && !zero => wrong.add(field, "zero; leave it out for the policy's own"),
            Ok(duration) => return Some(duration),
            Err(error) => wrong.add(field, error.to_string()),
        }
        None
    };
    let (wall, idle) = (duration("wall", wall, false), duration("idle", idle, false));
    let (cpu_time, grace) = (duration("cpu_time", cpu_time, false), duration("grace", grace, true));
    for (field, zero) in [
        ("memory_bytes", memory_bytes == Some(0)),
        ("processes", processes == Some(0)),
        ("output_bytes", output_bytes == Some(0)),
        ("disk_bytes", disk_bytes == Some(0)),
        ("files", files == Some(0)),
    ] {
        if zero {
            wrong.add(
                format!("spec.limits.{field}"),
                "zero; leave it out for the policy's own",
            );
        }
    }
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
}

fn check_on_disconnect(
    wrong: &mut Violations,
    on_disconnect: i32,
    linger: Option<prost_types::Duration>,
) -> OnDisconnect {
    let asked = match v1::OnDisconnect::try_from(on_disconnect) {
        Ok(v1::OnDisconnect::Unspecified | v1::OnDisconnect::Kill) => OnDisconnect::Kill,
        Ok(v1::OnDisconnect::Keep) => OnDisconnect::Keep,
        Ok(v1::OnDisconnect::Linger) => OnDisconnect::Linger(LINGER),
        Err(_) => {
            wrong.add("spec.on_disconnect", format!("{on_disconnect} is no OnDisconnect"));
            OnDisconnect::Kill
        }
    };
    let Some(linger) = linger else { return asked };
    if !matches!(asked, OnDisconnect::Linger(_)) {
        wrong.add("spec.linger", "given without `on_disconnect` LINGER; give both or none");
    }
    match duration_to_std(&linger) {
        Ok(linger) if linger.is_zero() => {
            wrong.add(
                "spec.linger",
                "zero; choose `on_disconnect` KILL to end the run at once",
            );
        }
        Ok(linger) if linger > MAX_LINGER => {
            wrong.add(
                "spec.linger",
                "more than 24 hours; choose `on_disconnect` KEEP to keep the run",
            );
        }
        Ok(linger) => return OnDisconnect::Linger(linger),
        Err(error) => wrong.add("spec.linger", error.to_string()),
    }
    asked
}

pub(super) fn check_labels(wrong: &mut Violations, labels: &BTreeMap<String, String>) {
    let long = |(key, value): (&String, &String)| {
        key.is_empty() || key.len() > MAX_LABEL_KEY_BYTES || value.len() > MAX_LABEL_VALUE_BYTES
    };
    if labels.len() > MAX_LABELS {
        wrong.add("spec.labels", format!("{} pairs, more than {MAX_LABELS}", labels.len()));
    } else if labels.iter().any(long) {
        wrong.add(
            "spec.labels",
            format!("keys have 1 to {MAX_LABEL_KEY_BYTES} bytes, values up to {MAX_LABEL_VALUE_BYTES}"),
        );
    }
}

/// Takes bytes for what clients send, checks them as the services do, and says what a request to start a run is answered. For
/// fuzzing.
#[doc(hidden)]
pub fn try_request(door: &Door, peer: &Peer, bytes: &[u8]) -> Option<Result<(), Status>> {
    let _ = v1::RunRequest::decode(bytes);
    let _ = v1::AttachRequest::decode(bytes);
    let _ = v1::ListRequest::decode(bytes);
    let _ = v1::ReadRequest::decode(bytes);
    let _ = v1::SignalRequest::decode(bytes);
    if let Ok(v1::KillRequest { grace: Some(grace), .. }) = v1::KillRequest::decode(bytes) {
        let _ = fumehood_proto::convert::duration_to_std(&grace);
    }
    if let Ok(create) = v1::CreateSessionRequest::decode(bytes) {
        let _ = door.check_session_blocking(peer, create);
    }
    let start = v1::StartRequest::decode(bytes).ok()?;
    Some(door.check_blocking(peer, start).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(rows: u32, columns: u32, term: &str) -> (Terminal, Vec<String>) {
        let mut wrong = Violations::default();
        let options = v1::TerminalOptions {
            size: Some(v1::TerminalSize { rows, columns }),
            term: term.to_owned(),
        };
        let terminal = check_terminal(&mut wrong, options);
        (terminal, wrong.0.into_iter().map(|(field, _)| field).collect())
    }

    #[test]
    fn a_terminal_may_have_any_size_that_terminals_have_and_the_usual_one_where_none_is_said() {
        for (rows, columns, expected) in [
            (0, 0, (24, 80)),
            (1, 65_535, (1, 65_535)),
            (0, 132, (24, 132)),
            (50, 0, (50, 80)),
        ] {
            let (terminal, wrong) = checked(rows, columns, "");
            assert_eq!((terminal.size.rows, terminal.size.columns), expected);
            assert!(wrong.is_empty(), "{wrong:?}");
        }
        assert_eq!(checked(65_536, 1, "").1, ["spec.terminal.size"]);
        assert_eq!(checked(1, u32::MAX, "").1, ["spec.terminal.size"]);
        let mut wrong = Violations::default();
        let unsized_one = check_terminal(&mut wrong, v1::TerminalOptions::default());
        assert_eq!((unsized_one.size.rows, unsized_one.size.columns), (24, 80));
    }

    #[test]
    fn the_kind_of_a_terminal_is_a_name_and_no_path() {
        let longest = "x".repeat(MAX_TERM_BYTES);
        for term in ["", "xterm-256color", "screen.xterm+new_1", &longest] {
            let (terminal, wrong) = checked(1, 1, term);
            assert_eq!(terminal.term, term);
            assert!(wrong.is_empty(), "{wrong:?}");
        }
        let long = "x".repeat(MAX_TERM_BYTES + 1);
        for term in ["../x", "x y", "x\n", "x\0", "x=1", "\u{e9}", &long] {
            assert_eq!(checked(1, 1, term).1, ["spec.terminal.term"], "{term:?}");
        }
        // Everything wrong at once.
        assert_eq!(checked(70_000, 1, "/").1, ["spec.terminal.size", "spec.terminal.term"]);
    }
}
