//! Commands, put together as with `tokio::process::Command`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use fumehood_proto::convert::duration_from_std;
use fumehood_proto::v1::{
    EnvironmentVariable, FlowControl, InlinePolicy, InputMode, OnDisconnect, OutputLayout, OutputOptions, OutputSpill,
    PolicyReference, RequestedLimits, RunSpec, ShellCarry, ShellLine, StartRequest, TerminalOptions, TerminalSize,
    policy_reference::Reference,
};

use crate::client::Client;
use crate::error::Error;
use crate::outcome::{ExitStatus, Output};
use crate::running::Run;

/// What [`Command::output`] keeps of each stream unless told otherwise, in bytes.
pub const CAPTURE_BYTES: usize = 16 * 1024 * 1024;

impl Client {
    /// A command to be run in a sandbox: `program` is looked up in the sandbox's `PATH`. See [`Command`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(
            self,
            RunSpec {
                argv: vec![bytes(program)],
                ..RunSpec::default()
            },
        )
    }

    /// A line for a shell to be run in a sandbox: bash where there is one, else sh. In a [`Session`](crate::Session) the next line begins in
    /// the directory, and with the exported variables, that this one leaves; see [`Command::carry`].
    ///
    /// ```no_run
    /// # async fn example(client: fumehood_client::Client) -> Result<(), fumehood_client::Error> {
    /// let output = client.shell("git log --oneline | head -3").workspace("/home/me/project").output().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn shell(&self, line: impl AsRef<OsStr>) -> Command {
        Command::new(
            self,
            RunSpec {
                shell: Some(ShellLine {
                    line: bytes(line),
                    ..ShellLine::default()
                }),
                ..RunSpec::default()
            },
        )
    }
}

/// A command to be run in a sandbox.
///
/// As with `tokio::process::Command`, nothing happens before [`spawn`](Self::spawn), [`output`](Self::output) or
/// [`status`](Self::status), and one value can start several runs. What is not said:
///
/// | | |
/// |---|---|
/// | workspace | [`current_dir`](Self::current_dir) when that is absolute, else this process's current directory |
/// | environment | what the policy passes on of this process's; see [`env_clear`](Self::env_clear) |
/// | input | none: reading gives the end of file |
/// | policy | the project's, or the daemon's default |
/// | a lost connection, a dropped [`Run`] | the run goes on for 60 seconds, and is then killed unless somebody follows it |
///
/// ```no_run
/// use std::time::Duration;
/// use fumehood_client::Client;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect().await?;
/// let output = client
///     .command("cargo")
///     .arg("test")
///     .args(["--workspace", "--offline"])
///     .current_dir("/home/me/project")
///     .env("RUST_BACKTRACE", "1")
///     .label("task", "4711")
///     .timeout(Duration::from_secs(600))
///     .output()
///     .await?;
/// println!("it {}; {} bytes", output.status, output.stdout.len());
/// for denial in &output.denials {
///     println!("refused by {}; {}", denial.rule, denial.remedy);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a command does nothing before `spawn`, `output` or `status`"]
pub struct Command {
    client: Client,
    run_id: String,
    spec: RunSpec,
    workspace: Option<PathBuf>,
    cwd: Option<PathBuf>,
    inherit: bool,
    input: Option<Bytes>,
    kill_on_drop: bool,
    capture: usize,
}

impl Command {
    fn new(client: &Client, spec: RunSpec) -> Self {
        Command {
            client: client.clone(),
            run_id: String::new(),
            spec: RunSpec {
                on_disconnect: OnDisconnect::Linger.into(),
                ..spec
            },
            workspace: None,
            cwd: None,
            inherit: true,
            input: None,
            kill_on_drop: false,
            capture: CAPTURE_BYTES,
        }
    }

    /// Runs it in this session, whose workspace, policy and environment hold then.
    pub fn session(mut self, id: impl Into<String>) -> Self {
        self.spec.session = id.into();
        self
    }

    /// What of the shell's state the next line of the session finds. Of commands that are no shell lines nothing is kept, and this says
    /// nothing.
    pub fn carry(mut self, what: ShellCarry) -> Self {
        if let Some(shell) = &mut self.spec.shell {
            shell.carry = what.into();
        }
        self
    }

    /// Adds an argument. A shell line takes none: the daemon refuses it.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.spec.argv.push(bytes(argument));
        self
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.spec.argv.extend(arguments.into_iter().map(bytes));
        self
    }

    /// The working directory: absolute, or relative to the workspace.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// The directory that the command may work in.
    pub fn workspace(mut self, directory: impl Into<PathBuf>) -> Self {
        self.workspace = Some(directory.into());
        self
    }

    /// Sets a variable of the command, whatever the policy passes on. Of two with the same name the last counts.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let name = bytes(name);
        self.spec.env.retain(|variable| variable.name != name);
        self.spec.env.push(variable(OsStr::from_bytes(&name), value));
        self
    }

    /// Sets variables.
    pub fn envs(self, variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Self {
        variables
            .into_iter()
            .fold(self, |command, (name, value)| command.env(name, value))
    }

    /// Sends nothing of this process's environment to the daemon, which the policy would choose from, and forgets what was set.
    pub fn env_clear(mut self) -> Self {
        self.inherit = false;
        self.spec.env.clear();
        self
    }

    /// The policy that decides, by the name under which the daemon knows it.
    pub fn policy(mut self, name: impl Into<String>) -> Self {
        self.spec.policy = Some(named_policy(name.into()));
        self
    }

    /// The policy that decides, by its text; `origin` says in messages where it is from. At most 1,048,576 bytes.
    pub fn policy_text(mut self, toml: impl Into<Bytes>, origin: impl Into<String>) -> Self {
        self.spec.policy = Some(PolicyReference {
            reference: Some(Reference::Inline(InlinePolicy {
                toml: toml.into(),
                origin: origin.into(),
                ..InlinePolicy::default()
            })),
        });
        self
    }

    /// Notes something about the run, for lists and the audit log.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.insert(key.into(), value.into());
        self
    }

    /// Ends the command after this time; at most what the policy allows.
    pub fn timeout(mut self, wall: Duration) -> Self {
        self.limits().wall = Some(duration_from_std(wall));
        self
    }

    /// Ends the command when it has written nothing for this time.
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.limits().idle = Some(duration_from_std(idle));
        self
    }

    fn limits(&mut self) -> &mut RequestedLimits {
        self.spec.limits.get_or_insert_default()
    }

    fn output_options(&mut self) -> &mut OutputOptions {
        self.spec.output.get_or_insert_default()
    }

    /// The command's whole input. It is kept in memory until the run has ended.
    pub fn input(mut self, data: impl Into<Bytes>) -> Self {
        self.input = Some(data.into());
        self.spec.input = InputMode::Stream.into();
        self
    }

    /// The command's input is written by [`Run::stdin`].
    pub fn pipe_stdin(mut self) -> Self {
        self.input = None;
        self.spec.input = InputMode::Stream.into();
        self
    }

    /// Whether stdout and stderr are told apart.
    pub fn layout(mut self, layout: OutputLayout) -> Self {
        self.output_options().layout = layout.into();
        self
    }

    /// Whether the whole output is written to a file, to be read from any offset.
    pub fn spill(mut self, spill: OutputSpill) -> Self {
        self.output_options().spill = spill.into();
        self
    }

    /// Whether a reader of [`Run::next`] that is slow holds the command back; while there are readers of [`Run::stdout`] or [`Run::stderr`], they
    /// do, and nobody has to take the events. Unless told so, none does; for
    /// [`output`](Self::output), which reads as fast as it comes, it is `BLOCK`.
    pub fn flow(mut self, flow: FlowControl) -> Self {
        self.output_options().flow = flow.into();
        self
    }

    /// Gives the command a terminal of this size, in characters, for input and output. Its output is one stream, stdout.
    pub fn terminal(mut self, rows: u32, columns: u32) -> Self {
        let size = Some(TerminalSize { rows, columns });
        self.spec.terminal = Some(TerminalOptions {
            size,
            ..TerminalOptions::default()
        });
        self.pipe_stdin()
    }

    /// Permission bits that new files do not get, 0 to 0o777. Unset: 0o022.
    pub fn umask(mut self, mask: u32) -> Self {
        self.spec.umask = Some(mask);
        self
    }

    /// What becomes of the run when the connection is lost, or the [`Run`] dropped: with `Keep` it goes on, with `Kill` it is killed at
    /// once, with `Linger` it goes on for a while. The last word counts: what is not `Linger` takes a time back that
    /// [`linger`](Self::linger) gave.
    pub fn on_disconnect(mut self, what: OnDisconnect) -> Self {
        self.spec.on_disconnect = what.into();
        if what != OnDisconnect::Linger {
            self.spec.linger = None;
        }
        self
    }

    /// `on_disconnect(Linger)` with a time of one's own, up to 24 hours.
    pub fn linger(mut self, time: Duration) -> Self {
        self.spec.linger = Some(duration_from_std(time));
        self.on_disconnect(OnDisconnect::Linger)
    }

    /// Kills the run when the [`Run`] is dropped before its end, or the future of [`output`](Self::output) or
    /// [`status`](Self::status). The kill is a task of the runtime; where that ends first, what holds is
    /// [`on_disconnect`](Self::on_disconnect).
    pub fn kill_on_drop(mut self, kill: bool) -> Self {
        self.kill_on_drop = kill;
        self
    }

    /// The run's id: 1 to 128 of A-Z a-z 0-9 . _ : -. Unset: one of its own for each run. With an id, the same request is the same run.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.run_id = id.into();
        self
    }

    /// How much [`output`](Self::output) keeps of each stream, in bytes: half from the beginning, half from the end. Unset:
    /// [`CAPTURE_BYTES`].
    pub fn capture(mut self, limit: usize) -> Self {
        self.capture = limit;
        self
    }

    /// The request as the wire has it, for what has no method here. Workspace, working directory and the environment of this process
    /// are filled in when it is sent, where they are empty.
    pub fn spec_mut(&mut self) -> &mut RunSpec {
        &mut self.spec
    }

    /// The request as it will be sent.
    ///
    /// # Errors
    /// [`Error::Workspace`] when there is no such directory here.
    pub fn request(&self) -> Result<StartRequest, Error> {
        let mut spec = self.spec.clone();
        if !spec.session.is_empty() {
            // Workspace and the caller's variables are the session's. What was named all the same, the daemon refuses.
            if let Some(workspace) = self.workspace.as_ref().filter(|_| spec.workspace.is_empty()) {
                spec.workspace = bytes(workspace);
            }
            if let Some(cwd) = self.cwd.as_ref().filter(|_| spec.cwd.is_empty()) {
                spec.cwd = bytes(cwd);
            }
            return Ok(StartRequest {
                run_id: self.run_id.clone(),
                spec: Some(spec),
            });
        }
        if spec.workspace.is_empty() {
            let (workspace, cwd) = places(self.workspace.as_deref(), self.cwd.as_deref())?;
            spec.workspace = workspace;
            if spec.cwd.is_empty() {
                spec.cwd = cwd;
            }
        }
        if self.inherit && spec.caller_env.is_empty() {
            spec.caller_env = own_environment();
        }
        Ok(StartRequest {
            run_id: self.run_id.clone(),
            spec: Some(spec),
        })
    }

    /// Starts the command.
    ///
    /// # Errors
    /// [`Error::Workspace`]; the refusals of a call; [`Error::GivenUp`] when the connection could not be made again.
    pub async fn spawn(&self) -> Result<Run, Error> {
        let request = self.request()?;
        self.client
            .spawn_with(request, self.input.clone(), self.kill_on_drop)
            .await
    }

    /// Runs the command to its end and gives what it wrote, in bounded memory: see [`capture`](Self::capture).
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn) and [`Run::next`]. That the command failed is no error.
    pub async fn output(&self) -> Result<Output, Error> {
        let mut command = self.clone();
        let options = command.output_options();
        if options.flow() == FlowControl::Unspecified {
            options.flow = FlowControl::Block.into();
        }
        command.spawn().await?.wait_with_output(self.capture).await
    }

    /// Runs the command to its end; what it writes is passed over.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub async fn status(&self) -> Result<ExitStatus, Error> {
        self.spawn().await?.wait().await
    }
}

/// Workspace and working directory as the daemon is told them.
pub(crate) fn places(workspace: Option<&Path>, cwd: Option<&Path>) -> Result<(Bytes, Bytes), Error> {
    let absolute = cwd.filter(|cwd| cwd.is_absolute());
    let named = workspace.or(absolute).unwrap_or(Path::new("."));
    let real = named.canonicalize().map_err(|source| Error::Workspace {
        path: named.to_owned(),
        source,
    })?;
    let cwd = cwd.map(|cwd| bytes(inside(cwd, named, &real))).unwrap_or_default();
    Ok((bytes(&real), cwd))
}

/// This process's environment, each name once.
pub(crate) fn own_environment() -> Vec<EnvironmentVariable> {
    let mut names = std::collections::HashSet::new();
    let all = std::env::vars_os().map(|(name, value)| variable(name, value));
    all.filter(|variable| names.insert(variable.name.clone())).collect()
}

/// A working directory that was named by way of the workspace's name, by its real one.
fn inside(cwd: &Path, named: &Path, real: &Path) -> PathBuf {
    match cwd.strip_prefix(named) {
        Ok(rest) if cwd.is_absolute() => real.components().chain(rest.components()).collect(),
        _ => cwd.to_owned(),
    }
}

pub(crate) fn variable(name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> EnvironmentVariable {
    EnvironmentVariable {
        name: bytes(name),
        value: bytes(value),
    }
}

/// A policy by the name under which the daemon knows it.
pub(crate) fn named_policy(name: String) -> PolicyReference {
    PolicyReference {
        reference: Some(Reference::Name(name)),
    }
}

pub(crate) fn bytes(text: impl AsRef<OsStr>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::transport::Endpoint;

    fn command() -> Command {
        let channel = Endpoint::from_static("http://localhost").connect_lazy();
        Client::from_channel(channel).command("make")
    }

    fn spec(command: &Command) -> RunSpec {
        command.request().unwrap().spec.unwrap()
    }

    #[tokio::test]
    async fn what_is_said_is_in_the_request() {
        let here = tempfile::tempdir().unwrap();
        let command = command()
            .args(["-j", "4"])
            .arg("all")
            .workspace(here.path())
            .env_clear()
            .envs([("A", "1"), ("B", "2")])
            .env("A", "3")
            .policy("locked")
            .label("task", "7")
            .timeout(Duration::from_secs(3))
            .layout(OutputLayout::Merged)
            .input("x")
            .linger(Duration::from_secs(9))
            .id("mine");
        assert_eq!(command.request().unwrap().run_id, "mine");
        let spec = spec(&command);
        assert_eq!(spec.argv, ["make", "-j", "4", "all"]);
        assert_eq!(
            spec.workspace,
            here.path().canonicalize().unwrap().as_os_str().as_bytes()
        );
        let pairs: Vec<_> = spec.env.iter().map(|one| (&one.name[..], &one.value[..])).collect();
        assert_eq!(pairs, [(&b"B"[..], &b"2"[..]), (b"A", b"3")]);
        assert!(spec.caller_env.is_empty());
        assert_eq!(spec.limits.unwrap().wall.unwrap().seconds, 3);
        assert_eq!(spec.output.unwrap().layout(), OutputLayout::Merged);
        assert_eq!(
            (spec.input(), spec.on_disconnect()),
            (InputMode::Stream, OnDisconnect::Linger)
        );
        assert_eq!(spec.linger.unwrap().seconds, 9);
        let kept = command.clone().on_disconnect(OnDisconnect::Keep).request().unwrap();
        let kept = kept.spec.unwrap();
        assert_eq!((kept.on_disconnect(), kept.linger), (OnDisconnect::Keep, None));
    }

    #[tokio::test]
    async fn the_directory_of_the_command_is_the_workspace_where_none_is_named() {
        let here = tempfile::tempdir().unwrap();
        let (real, link) = (here.path().canonicalize().unwrap(), here.path().join("link"));
        std::fs::create_dir(real.join("project")).unwrap();
        std::os::unix::fs::symlink(real.join("project"), &link).unwrap();
        let path = |path: &Path| bytes(path);
        let alone = spec(&command().current_dir(&link));
        assert_eq!(
            (alone.workspace, alone.cwd),
            (path(&real.join("project")), path(&real.join("project")))
        );
        let within = spec(&command().workspace(&link).current_dir("src"));
        assert_eq!(
            (within.workspace, within.cwd),
            (path(&real.join("project")), bytes("src"))
        );
        let named = spec(&command().workspace(&link).current_dir(link.join("src")));
        assert_eq!(named.cwd, path(&real.join("project/src")));
        let missing = command().workspace(here.path().join("missing")).request();
        assert!(matches!(missing, Err(Error::Workspace { .. })), "{missing:?}");
    }

    #[tokio::test]
    async fn the_environment_is_sent_once_for_each_name_unless_cleared() {
        let sent = spec(&command()).caller_env;
        let names: std::collections::HashSet<_> = sent.iter().map(|one| one.name.clone()).collect();
        assert_eq!(names.len(), sent.len());
        assert!(names.contains(&b"PATH"[..]));
    }
}
