//! Sessions: sandboxes that live on between commands.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use fumehood_proto::convert::duration_from_std;
use fumehood_proto::v1::{
    CloseSessionRequest, CreateSessionRequest, CreateSessionResponse, DescribeSessionRequest, DescribeSessionResponse,
    ListSessionsRequest, ListSessionsResponse, RequestedLimits, ResetSessionRequest, SessionInfo, SessionSpec,
};

use crate::client::Client;
use crate::command::{self, Command};
use crate::error::Error;
use crate::files::{Files, FilesView};

impl Client {
    /// A session to be made. See [`NewSession`].
    pub fn session(&self) -> NewSession {
        NewSession {
            client: self.clone(),
            request: CreateSessionRequest::default(),
            workspace: None,
            cwd: None,
            inherit: true,
        }
    }

    /// A session that is there, whoever of this user created it. Nothing is asked: what is called on it says whether there is one.
    #[must_use]
    pub fn in_session(&self, id: impl Into<String>) -> Session {
        Session {
            client: self.clone(),
            id: id.into(),
        }
    }

    /// Makes a session, with the messages of the wire.
    ///
    /// # Errors
    /// When the request was not taken, or there can be no sandbox for it.
    pub async fn create_session(&self, request: CreateSessionRequest) -> Result<CreateSessionResponse, Error> {
        Ok(self.sessions.clone().create(request).await?.into_inner())
    }

    /// A page of sessions, newest first.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn list_sessions(&self, request: ListSessionsRequest) -> Result<ListSessionsResponse, Error> {
        Ok(self.sessions.clone().list(request).await?.into_inner())
    }
}

/// A session to be made, put together as a [`Command`] is. What is not said is as there: the workspace is
/// [`current_dir`](Self::current_dir) when that is absolute, else this process's current directory; the policy chooses from this process's
/// environment.
#[derive(Debug, Clone)]
#[must_use = "a session is not there before `create`"]
pub struct NewSession {
    client: Client,
    request: CreateSessionRequest,
    workspace: Option<PathBuf>,
    cwd: Option<PathBuf>,
    inherit: bool,
}

impl NewSession {
    fn spec(&mut self) -> &mut SessionSpec {
        self.request.spec.get_or_insert_default()
    }

    /// The session's id: 1 to 128 of A-Z a-z 0-9 . _ : -. Unset: one of its own. With an id, the same request is the same session.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.request.session_id = id.into();
        self
    }

    /// The directory that its commands may work in.
    pub fn workspace(mut self, directory: impl Into<PathBuf>) -> Self {
        self.workspace = Some(directory.into());
        self
    }

    /// The directory of its first command: absolute, or relative to the workspace.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// Sets a variable of all its commands, whatever the policy passes on. Of two with the same name the last counts.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let variable = command::variable(name, value);
        let env = &mut self.spec().env;
        env.retain(|known| known.name != variable.name);
        env.push(variable);
        self
    }

    /// Sends nothing of this process's environment to the daemon, which the policy would choose from, and forgets what was set.
    pub fn env_clear(mut self) -> Self {
        self.inherit = false;
        self.spec().env.clear();
        self
    }

    /// The policy that decides, by the name under which the daemon knows it.
    pub fn policy(mut self, name: impl Into<String>) -> Self {
        self.spec().policy = Some(command::named_policy(name.into()));
        self
    }

    /// Notes something about the session and its runs, for lists and the audit log.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec().labels.insert(key.into(), value.into());
        self
    }

    /// Bounds tighter than the policy's: of memory, processes and disk for all that is in the session together, of time and output for
    /// each command that says none.
    pub fn limits(mut self, limits: RequestedLimits) -> Self {
        self.spec().limits = Some(limits);
        self
    }

    /// Closes it when for so long no command was in it, 1 second to 7 days. Unset: 30 minutes.
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.spec().idle_timeout = Some(duration_from_std(idle));
        self
    }

    /// Closes it so long after it was made, whatever goes on in it, 1 second to 7 days. Unset: 24 hours.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.spec().lifetime = Some(duration_from_std(lifetime));
        self
    }

    /// The request as the wire has it, for what has no method here.
    pub fn spec_mut(&mut self) -> &mut SessionSpec {
        self.spec()
    }

    /// The request as it will be sent.
    ///
    /// # Errors
    /// [`Error::Workspace`] when there is no such directory here.
    pub fn request(&self) -> Result<CreateSessionRequest, Error> {
        let mut request = self.request.clone();
        let spec = request.spec.get_or_insert_default();
        if spec.workspace.is_empty() {
            let (workspace, cwd) = command::places(self.workspace.as_deref(), self.cwd.as_deref())?;
            spec.workspace = workspace;
            if spec.cwd.is_empty() {
                spec.cwd = cwd;
            }
        }
        if self.inherit && spec.caller_env.is_empty() {
            spec.caller_env = command::own_environment();
        }
        Ok(request)
    }

    /// Makes the session. It belongs to the daemon: dropping the value leaves it alone.
    ///
    /// # Errors
    /// [`Error::Workspace`]; the refusals of a call; [`Error::Precondition`] when there can be no sandbox for it.
    pub async fn create(&self) -> Result<Session, Error> {
        let created = self.client.create_session(self.request()?).await?;
        Ok(self.client.in_session(present(created.session)?.session_id))
    }
}

/// A session: a sandbox that lives on. Clones are the same session; dropping the last leaves it alone: it is closed by
/// [`close`](Self::close), or by its times.
#[derive(Debug, Clone)]
pub struct Session {
    client: Client,
    id: String,
}

impl Session {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A command to be run in it: as [`Client::command`], but workspace, policy and the caller's environment are the session's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.client.command(program).session(&self.id)
    }

    /// A line for a shell to be run in it, which begins in the directory and with the variables that the last one left.
    pub fn shell(&self, line: impl AsRef<OsStr>) -> Command {
        self.client.shell(line).session(&self.id)
    }

    /// Files as it shows them.
    pub fn files(&self) -> Files {
        self.client.files(FilesView::session(&self.id))
    }

    /// Its state, and what is in it now: processes, what they listen on, memory, temporary files.
    ///
    /// # Errors
    /// [`Error::NotFound`] and the other refusals of a call.
    pub async fn describe(&self) -> Result<DescribeSessionResponse, Error> {
        let session_id = self.id.clone();
        let request = DescribeSessionRequest { session_id };
        Ok(self.client.sessions.clone().describe(request).await?.into_inner())
    }

    /// Ends everything in it and begins it anew: an empty `/tmp`, the first directory and variables.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Precondition`] when it is closed.
    pub async fn reset(&self) -> Result<SessionInfo, Error> {
        let session_id = self.id.clone();
        let request = ResetSessionRequest { session_id };
        present(self.client.sessions.clone().reset(request).await?.into_inner().session)
    }

    /// Ends it and everything in it, at once. Returns when no process of it is left.
    ///
    /// # Errors
    /// [`Error::NotFound`]. Closing a closed one is no error.
    pub async fn close(&self) -> Result<SessionInfo, Error> {
        self.close_with(None, "").await
    }

    /// As [`close`](Self::close), with a time from SIGTERM to SIGKILL, and a reason for the record, at most 1,024 bytes.
    ///
    /// # Errors
    /// As there.
    pub async fn close_with(&self, grace: Option<Duration>, reason: impl Into<String>) -> Result<SessionInfo, Error> {
        let request = CloseSessionRequest {
            session_id: self.id.clone(),
            grace: grace.map(duration_from_std),
            reason: reason.into(),
        };
        present(self.client.sessions.clone().close(request).await?.into_inner().session)
    }
}

/// A message that the daemon always sends.
fn present(session: Option<SessionInfo>) -> Result<SessionInfo, Error> {
    session.ok_or_else(|| Error::Internal {
        code: tonic::Code::Internal,
        message: "the answer holds no session".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::transport::Endpoint;

    fn client() -> Client {
        Client::from_channel(Endpoint::from_static("http://localhost").connect_lazy())
    }

    #[tokio::test]
    async fn a_session_is_asked_for_as_it_was_put_together() {
        let here = tempfile::tempdir().unwrap();
        let real = here.path().canonicalize().unwrap();
        let session = client()
            .session()
            .id("work")
            .workspace(here.path())
            .current_dir("web")
            .env_clear()
            .env("A", "1")
            .env("A", "2")
            .policy("locked")
            .label("task", "7")
            .idle_timeout(Duration::from_secs(60))
            .lifetime(Duration::from_secs(3600));
        let request = session.request().unwrap();
        assert_eq!(request.session_id, "work");
        let spec = request.spec.unwrap();
        assert_eq!(
            (spec.workspace, spec.cwd),
            (command::bytes(&real), command::bytes("web"))
        );
        assert_eq!(spec.env, [command::variable("A", "2")]);
        assert!(spec.caller_env.is_empty());
        assert_eq!(spec.policy, Some(command::named_policy("locked".to_owned())));
        assert_eq!(spec.labels["task"], "7");
        assert_eq!(spec.idle_timeout.unwrap().seconds, 60);
        assert_eq!(spec.lifetime.unwrap().seconds, 3600);
        let missing = client().session().workspace(here.path().join("missing")).request();
        assert!(matches!(missing, Err(Error::Workspace { .. })), "{missing:?}");
    }

    #[tokio::test]
    async fn a_command_of_a_session_says_nothing_that_is_the_sessions() {
        let session = client().in_session("work");
        let line = session
            .shell("make")
            .current_dir("sub")
            .env("A", "1")
            .request()
            .unwrap();
        let spec = line.spec.unwrap();
        assert_eq!((spec.session.as_str(), &spec.cwd[..]), ("work", &b"sub"[..]));
        assert_eq!(spec.shell.unwrap().line, "make");
        assert!(spec.argv.is_empty() && spec.workspace.is_empty() && spec.caller_env.is_empty());
        assert_eq!(spec.env, [command::variable("A", "1")]);
        let command = session.command("make").arg("all").request().unwrap().spec.unwrap();
        assert_eq!(command.argv, ["make", "all"]);
    }
}
