//! Service `Sessions`.

use std::collections::HashSet;
use std::sync::Arc;

use fumehood_proto::convert::{duration_from_std, timestamp_from_system};
use fumehood_proto::v1;
use fumehood_proto::v1::sessions_server::Sessions;
use fumehood_sandbox::description::{Description, Listening, Process, Protocol, TemporaryFile};
use prost::Message;
use tonic::{Request, Response, Status};

use super::convert;
use super::forward::{EARLIER, Forward, ROOM_BYTES, Successors};
use super::place::session_digest;
use super::request::Door;
use super::runs::{MAX_PAGE, MAX_PAGE_BYTES, MAX_REASON_BYTES, PAGE, duration, peer};
use super::status::{self, Refused};
use crate::peer::Peer;
use crate::run::Surroundings;
use crate::session::{
    Background, Close, Ended, FILES_NUMBER, Session, SessionEnd, SessionPhase, SessionSnapshot, SessionTable,
    plain_command_line,
};

/// Bytes of background output and command lines in one answer, at most: clients take messages of 4 MiB by default.
const MAX_TAILS_BYTES: usize = 2 << 20;
const MAX_COMMAND_LINES_BYTES: usize = 1 << 20;

/// The service.
#[derive(Clone, Debug)]
pub struct SessionsService {
    /// The sessions.
    pub sessions: SessionTable,
    /// What checks requests.
    pub door: Door,
    /// What sessions have in common with runs.
    pub surroundings: Surroundings,
    /// Sessions of the daemon before this one.
    pub forward: Forward,
}

#[tonic::async_trait]
impl Sessions for SessionsService {
    async fn create(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::CreateSessionResponse>, Status> {
        let peer = peer(&request)?;
        let create = request.into_inner();
        // Before the machine is looked at for it.
        let known = match create.session_id.as_str() {
            "" => None,
            id => {
                let known = self.sessions.look(&peer, id, &session_digest(&create));
                known.map_err(Refused::from)?
            }
        };
        let (session, existed) = match known {
            Some(known) => (known, true),
            None => {
                let launching = &self.surroundings.launching;
                let request = self.door.check_session(&peer, launching, create).await?;
                let made = self.sessions.create(request, self.surroundings.clone());
                made.map_err(Refused::from)?
            }
        };
        session.settled().await;
        if let Some(ended) = session.snapshot().ended {
            return Err(not_open(&session, &ended));
        }
        Ok(Response::new(v1::CreateSessionResponse {
            session: Some(info(&session)),
            existed,
        }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeSessionRequest>,
    ) -> Result<Response<v1::DescribeSessionResponse>, Status> {
        let peer = peer(&request)?;
        let claimed = matches!(request.extensions().get(), Some(Successors { claim: true }));
        let v1::DescribeSessionRequest { session_id } = request.into_inner();
        if claimed {
            // It is only to be known whether there is one.
            let known = self.sessions.claim(&peer, &session_id);
            let session = known.ok_or_else(|| status::no_such_session(&session_id))?;
            return Ok(Response::new(v1::DescribeSessionResponse {
                session: Some(info(&session)),
                contents: None,
            }));
        }
        let session = self.find(&peer, &session_id)?;
        let contents = session
            .describe()
            .await
            .map(|description| contents(&session, description));
        Ok(Response::new(v1::DescribeSessionResponse {
            session: Some(info(&session)),
            contents,
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let peer = peer(&request)?;
        let v1::ListSessionsRequest {
            states,
            page_size,
            page_token,
        } = request.into_inner();
        // Sessions that the daemon before this one keeps come after its own: they are older.
        let earlier = |page_size, page_token: &str| v1::ListSessionsRequest {
            states: states.clone(),
            page_size,
            page_token: page_token.to_owned(),
        };
        let size = if page_size == 0 { PAGE } else { page_size.min(MAX_PAGE) };
        if let Some(token) = page_token.strip_prefix(EARLIER) {
            return Ok(Response::new(self.forward.sessions(&peer, earlier(size, token)).await));
        }
        let wanted: HashSet<i32> = states.iter().copied().collect();
        let before: u64 = match page_token.as_str() {
            "" => u64::MAX,
            token => {
                let number = token.parse();
                number.map_err(|_| status::invalid_field("page_token", "not one that List gave"))?
            }
        };
        let size = size as usize;
        let mut page: Vec<v1::SessionInfo> = Vec::new();
        let (mut bytes, mut last, mut more) = (0, 0, false);
        for session in self.sessions.list(&peer) {
            if session.number >= before {
                continue;
            }
            let info = info(&session);
            if !wanted.is_empty() && !wanted.contains(&info.state) {
                continue;
            }
            bytes += info.encoded_len();
            more = page.len() == size || (bytes > MAX_PAGE_BYTES && !page.is_empty());
            if more {
                break;
            }
            last = session.number;
            page.push(info);
        }
        let mut next_page_token = if more { last.to_string() } else { String::new() };
        if !more && self.forward.is_living() {
            let room = if bytes < ROOM_BYTES { size - page.len() } else { 0 };
            if room == 0 {
                next_page_token = EARLIER.to_owned();
            } else {
                let there = self.forward.sessions(&peer, earlier(room as u32, "")).await;
                page.extend(there.sessions);
                next_page_token = there.next_page_token;
            }
        }
        Ok(Response::new(v1::ListSessionsResponse {
            sessions: page,
            next_page_token,
        }))
    }

    async fn reset(
        &self,
        request: Request<v1::ResetSessionRequest>,
    ) -> Result<Response<v1::ResetSessionResponse>, Status> {
        let peer = peer(&request)?;
        let v1::ResetSessionRequest { session_id } = request.into_inner();
        let session = self.find(&peer, &session_id)?;
        // It goes on when this call is given up.
        let resetting = Arc::clone(&session);
        let done = tokio::spawn(async move { resetting.reset(peer.to_string(), peer.pid()).await }).await;
        match done {
            Ok(Ok(())) => Ok(Response::new(v1::ResetSessionResponse {
                session: Some(info(&session)),
            })),
            Ok(Err(why)) => Err(status::session_precondition("SESSION_CLOSED", &session_id, why)),
            Err(error) => Err(Status::internal(format!("the reset failed: {error}"))),
        }
    }

    async fn close(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        let peer = peer(&request)?;
        let v1::CloseSessionRequest {
            session_id,
            grace,
            reason,
        } = request.into_inner();
        let grace = duration("grace", grace)?.unwrap_or_default();
        if reason.len() > MAX_REASON_BYTES {
            let what = format!("longer than {MAX_REASON_BYTES} bytes");
            return Err(status::invalid_field("reason", what));
        }
        let session = self.find(&peer, &session_id)?;
        let detail = match reason.as_str() {
            "" => format!("{peer} closed it"),
            reason => format!("{peer} closed it: {reason}"),
        };
        session.ask_to_close(Close {
            ended: Ended {
                end: SessionEnd::Closed,
                by: peer.to_string(),
                detail,
            },
            grace,
        });
        session.closed().await;
        Ok(Response::new(v1::CloseSessionResponse {
            session: Some(info(&session)),
        }))
    }
}

impl SessionsService {
    fn find(&self, peer: &Peer, id: &str) -> Result<Arc<Session>, Status> {
        self.sessions.get(peer, id).ok_or_else(|| status::no_such_session(id))
    }
}

/// A session that was to be made is over already.
fn not_open(session: &Session, ended: &Ended) -> Status {
    let (reason, what) = match ended.end {
        SessionEnd::Lost => ("SANDBOX_FAILED", ended.detail.clone()),
        end => (
            "SESSION_CLOSED",
            format!("the session was closed ({}): {}", end.name(), ended.detail),
        ),
    };
    status::session_precondition(reason, session.id(), what)
}

fn info(session: &Session) -> v1::SessionInfo {
    use std::os::unix::ffi::OsStrExt;
    let SessionSnapshot {
        phase,
        ended,
        closed_at,
        enforcement,
        resets,
    } = session.snapshot();
    let activity = session.activity();
    let request = &session.request;
    let state = match phase {
        SessionPhase::Starting => v1::SessionState::Starting,
        SessionPhase::Open => v1::SessionState::Open,
        SessionPhase::Closing => v1::SessionState::Closing,
        SessionPhase::Closed => v1::SessionState::Closed,
    };
    let end = ended
        .as_ref()
        .map_or(v1::SessionEnd::Unspecified, |ended| match ended.end {
            SessionEnd::Closed => v1::SessionEnd::Closed,
            SessionEnd::Idle => v1::SessionEnd::Idle,
            SessionEnd::Lifetime => v1::SessionEnd::Lifetime,
            SessionEnd::Limit => v1::SessionEnd::Limit,
            SessionEnd::Drain => v1::SessionEnd::Drain,
            SessionEnd::Lost => v1::SessionEnd::Lost,
        });
    let carried = session.carried();
    let cwd = carried.cwd.as_ref().unwrap_or(&request.host.cwd);
    v1::SessionInfo {
        session_id: session.id().to_owned(),
        state: state.into(),
        end: end.into(),
        closes_at: ended.is_none().then(|| timestamp_from_system(session.closes_at())),
        end_detail: ended.map(|ended| ended.detail).unwrap_or_default(),
        workspace: request.host.workspace.as_os_str().as_bytes().to_vec().into(),
        cwd: cwd.as_os_str().as_bytes().to_vec().into(),
        peer: request.peer.to_string(),
        policy_name: request.policy.name.clone(),
        policy_digest: request.policy.digest.0.to_vec().into(),
        created_at: Some(timestamp_from_system(session.created_at)),
        used_at: Some(timestamp_from_system(activity.used_at)),
        closed_at: closed_at.map(timestamp_from_system),
        idle_timeout: Some(duration_from_std(request.idle_timeout)),
        lifetime: Some(duration_from_std(request.lifetime)),
        labels: request.labels.clone(),
        enforcement: (!enforcement.is_empty()).then(|| convert::enforcement(&enforcement)),
        limits: Some(convert::effective_limits(&request.grants.limits)),
        active_runs: activity.active,
        total_runs: activity.total,
        resets,
    }
}

fn contents(session: &Session, description: Description) -> v1::SessionContents {
    let Description {
        processes,
        process_count,
        listening,
        memory_bytes,
        temporary_files,
        temporary_file_count,
    } = description;
    // Those of this program's own that work on files.
    let all = processes.len();
    let of_runs = |process: &Process| process.run.is_none_or(|number| number & FILES_NUMBER == 0);
    let processes: Vec<_> = processes.into_iter().filter(of_runs).collect();
    let process_count = process_count - (all - processes.len()) as u32;
    let mut left = MAX_TAILS_BYTES;
    let background = session
        .background()
        .into_iter()
        .map(|one| background(one, &mut left))
        .collect();
    let mut left = MAX_COMMAND_LINES_BYTES;
    v1::SessionContents {
        processes: processes
            .into_iter()
            .map(|one| process(session, one, &mut left))
            .collect(),
        process_count,
        listening: listening.into_iter().map(socket).collect(),
        memory_bytes,
        temporary_files: temporary_files.into_iter().map(file).collect(),
        temporary_file_count,
        background,
    }
}

fn process(session: &Session, process: Process, left: &mut usize) -> v1::SessionProcess {
    let Process {
        pid,
        parent_pid,
        run,
        background,
        command_line,
        name,
        state,
        cpu_us,
        memory_bytes,
        age_us,
    } = process;
    let mut command = plain_command_line(&command_line);
    command.truncate(*left);
    *left -= command.len();
    let micros = |micros| Some(duration_from_std(std::time::Duration::from_micros(micros)));
    v1::SessionProcess {
        pid,
        parent_pid,
        run_id: run.and_then(|number| session.run_id(number)).unwrap_or_default(),
        background,
        command: command.into(),
        name: name.into(),
        state: state.to_string(),
        cpu_time: micros(cpu_us),
        memory_bytes,
        age: micros(age_us),
    }
}

fn socket(Listening { protocol, address, pid }: Listening) -> v1::ListeningSocket {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    v1::ListeningSocket {
        protocol: protocol.to_owned(),
        address: address.ip().to_string(),
        port: address.port().into(),
        pid,
    }
}

fn file(file: TemporaryFile) -> v1::TemporaryFile {
    let TemporaryFile {
        path,
        size_bytes,
        directory,
    } = file;
    v1::TemporaryFile {
        path: path.into(),
        size: size_bytes,
        directory,
    }
}

fn background(background: Background, left: &mut usize) -> v1::BackgroundOutput {
    let Background {
        run,
        stream,
        total_bytes,
        tail,
    } = background;
    let shown = tail.len().min(*left);
    *left -= shown;
    v1::BackgroundOutput {
        run_id: run,
        stream: convert::output_stream(stream).into(),
        total_bytes,
        tail: tail[tail.len() - shown..].to_vec().into(),
    }
}
