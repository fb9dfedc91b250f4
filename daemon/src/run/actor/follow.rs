//! Following a command: from exec to the moment nothing of it exists any more.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fumehood_policies::{Grants, Limits};
use fumehood_sandbox::event::{self as sandbox_event, DiskResource, ExitStatus, SignalScope};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::terminal::{self, Terminal};
use super::{
    Actor, Command, Ending, Enforcement, Event, InSession, Outcome, Phase, Started, Stream, hex, sandbox_failed,
};
use crate::launch::Tree;
use crate::run::denials::Collecting;
use crate::run::input::Piece;
use crate::run::journal::Journal;
use crate::run::learn::{self, Recording};
use crate::run::model::{CancelCause, TimeLimit, Usage};
use crate::session::{Carry, NotLeft, StateFile};

/// How long the pipes of a command whose main process has ended may stay open before what holds them is ended.
const DRAIN_GRACE: Duration = Duration::from_millis(200);

/// Most bytes read at once; the bound of `Output.data` on the wire.
const CHUNK_BYTES: usize = 256 * 1024;

/// Size asked for the pipes. More than the kernel's 64 KiB saves switches; an ordinary user's quota may refuse it.
const PIPE_BYTES: i32 = 256 * 1024;

/// How often CPU time is looked at where it is limited.
const CPU_PERIOD: Duration = Duration::from_millis(500);

/// SIGTERM, what an end begins with.
const STOP_SIGNAL: i32 = 15;

/// SIGHUP, for the end of a terminal as well: interactive shells ignore SIGTERM.
const HANG_UP_SIGNAL: i32 = 1;

/// SIGKILL, what the kernel ends a process with for its memory.
const KILL_SIGNAL: i32 = 9;

/// SIGCONT, which follows it.
const CONTINUE_SIGNAL: i32 = 18;

/// One output stream while it is open.
pub(super) struct Output {
    stream: Stream,
    pipe: Option<Source>,
    /// The main process has ended.
    ended: bool,
    buffer: BytesMut,
    offset: u64,
    digest: Sha256,
    /// Bytes that were taken without waiting.
    taken_now: i32,
}

/// Where output comes from.
enum Source {
    Pipe(pipe::Receiver),
    Terminal(Terminal),
}

/// What happened to an output pipe.
enum Read {
    Data(Bytes),
    /// End of file, or nothing more to come (`false`).
    Closed(bool),
}

impl Output {
    /// The stream's reading end here, its writing end for the command.
    fn new(stream: Stream) -> std::io::Result<(Output, OwnedFd)> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        let pipe = Some(Source::Pipe(pipe::Receiver::from_owned_fd(reader)?));
        Ok((
            Output {
                stream,
                pipe,
                ended: false,
                buffer: BytesMut::new(),
                offset: 0,
                digest: Sha256::new(),
                taken_now: 0,
            },
            writer,
        ))
    }

    /// A stream that the command does not have.
    fn absent(stream: Stream) -> Output {
        Output {
            stream,
            pipe: None,
            ended: false,
            buffer: BytesMut::new(),
            offset: 0,
            digest: Sha256::new(),
            taken_now: 0,
        }
    }

    /// What is there without waiting. `None`: nothing more now, or as much as a pipe can hold was taken.
    fn take_now(&mut self) -> Option<Bytes> {
        let Some(Source::Pipe(pipe)) = &self.pipe else {
            return None;
        };
        let most = CHUNK_BYTES.min(usize::try_from(PIPE_BYTES.saturating_sub(self.taken_now)).unwrap_or(0));
        let mut buffer = vec![0; most];
        match pipe.try_read(&mut buffer) {
            Ok(read @ 1..) => {
                self.taken_now += read as i32;
                buffer.truncate(read);
                Some(buffer.into())
            }
            _ => None,
        }
    }

    /// Waits for output, once the journal has room for it. With `gone`, nobody is left to write: what the pipe still holds is taken
    /// without waiting for any reader, and a pipe that neither has data nor ends is given up. Never resolves for a closed stream.
    async fn read(&mut self, journal: &Journal, gone: bool) -> Read {
        let Some(pipe) = &self.pipe else {
            return std::future::pending().await;
        };
        if !gone {
            journal.room(CHUNK_BYTES.min(journal.chunk_bytes())).await;
        }
        let pipe = match pipe {
            Source::Pipe(pipe) => pipe,
            Source::Terminal(terminal) => {
                let read = terminal.read(gone || self.ended);
                let read = match gone {
                    true => match tokio::time::timeout(DRAIN_GRACE, read).await {
                        Ok(read) => read,
                        Err(_) => return Read::Closed(false),
                    },
                    false => read.await,
                };
                return match read {
                    Ok(data) if data.is_empty() => Read::Closed(true),
                    Ok(data) => Read::Data(data),
                    Err(_) => Read::Closed(false),
                };
            }
        };
        loop {
            if gone {
                match tokio::time::timeout(DRAIN_GRACE, pipe.readable()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return Read::Closed(false),
                }
            } else if pipe.readable().await.is_err() {
                return Read::Closed(false);
            }
            let most = CHUNK_BYTES.min(journal.chunk_bytes());
            if self.buffer.capacity() < most {
                self.buffer.reserve(most);
            }
            let mut limited = bytes::BufMut::limit(&mut self.buffer, most);
            match pipe.try_read_buf(&mut limited) {
                Ok(0) => return Read::Closed(true),
                // A little data is copied, so that it does not keep a large buffer alive.
                Ok(read) if read < most / 4 => {
                    let data = Bytes::copy_from_slice(&self.buffer);
                    self.buffer.clear();
                    return Read::Data(data);
                }
                Ok(_) => return Read::Data(self.buffer.split().freeze()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return Read::Closed(false),
            }
        }
    }
}

/// Our ends of a command's output, what fills its input, and the command's ends.
type Pipes = ([Output; 2], Option<AbortHandle>, Option<[OwnedFd; 3]>);

/// Where following stands.
struct Following {
    started: Option<Instant>,
    exited: Option<Ending>,
    /// Ends of streams that are still to be announced.
    closed: Vec<Event>,
    wall: Option<Duration>,
    /// Why we end it, once we do.
    cause: Option<Ending>,
    /// When what is left is killed.
    kill_at: Option<Instant>,
    last_output: Instant,
    /// Set once no process exists any more, or nobody can say.
    gone: bool,
    /// What is left in a session goes its way now.
    left: bool,
    usage: sandbox_event::Usage,
    measured: bool,
    /// How init ended: its exit code, or minus the signal.
    init_status: i32,
    limits: Limits,
    /// Whether the command has a terminal.
    terminal: bool,
    next_cpu_check: Instant,
    collecting: Collecting,
    recording: Recording,
    /// What the next line of the session does not find of this one.
    not_carried: Option<NotLeft>,
}

/// The deadline that comes next.
enum Deadline {
    Kill,
    Wall(Duration),
    Idle(Duration),
    Cpu,
}

impl Following {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Following {
            started: None,
            exited: None,
            closed: Vec::new(),
            wall: None,
            cause: None,
            kill_at: None,
            last_output: now,
            gone: false,
            left: false,
            usage: sandbox_event::Usage::default(),
            measured: false,
            init_status: 0,
            limits,
            terminal: false,
            next_cpu_check: now + CPU_PERIOD,
            collecting: Collecting::default(),
            recording: Recording::default(),
            not_carried: None,
        }
    }

    fn next_deadline(&self) -> Option<(Instant, Deadline)> {
        let running = self.started.filter(|_| self.exited.is_none() && self.cause.is_none());
        let wall = running
            .zip(self.limits.wall)
            .map(|(started, wall)| (started + wall, Deadline::Wall(wall)));
        let idle = running
            .zip(self.limits.idle)
            .map(|(_, idle)| (self.last_output + idle, Deadline::Idle(idle)));
        let cpu = running
            .zip(self.limits.cpu_time)
            .map(|_| (self.next_cpu_check, Deadline::Cpu));
        let kill = self.kill_at.map(|at| (at, Deadline::Kill));
        [kill, wall, idle, cpu].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Begins to end the run: the stop signal to the whole tree, and SIGKILL when the grace is over.
    fn end(&mut self, tree: &Tree, cause: Ending, grace: Duration) {
        self.cause.get_or_insert(cause);
        if grace.is_zero() || self.started.is_none() {
            let _ = tree.kill();
        } else {
            if self.kill_at.is_none() {
                let _ = tree.signal(STOP_SIGNAL, SignalScope::Tree);
                if self.terminal {
                    let _ = tree.signal(HANG_UP_SIGNAL, SignalScope::Tree);
                }
                // What is stopped takes the signal only once it continues.
                let _ = tree.signal(CONTINUE_SIGNAL, SignalScope::Tree);
            }
            self.kill_by(Instant::now() + grace);
        }
    }

    fn kill_by(&mut self, at: Instant) {
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    /// How the run ended, once it is gone.
    fn ending(self) -> Ending {
        // The kernel kills the largest process, seldom the main one. A main process that succeeds all the same has coped with it.
        let failed = !matches!(self.exited, Some(Ending::Exited { code: 0 }) | None);
        match (self.cause, self.exited) {
            (Some(cause), _) => cause,
            (None, Some(_)) if failed && self.usage.oom_kills > 0 => Ending::OutOfMemory {
                limit_bytes: self.limits.memory_bytes.unwrap_or(0),
            },
            (None, Some(exited)) => exited,
            // Memory that no process has mapped (memory files, pipes, sockets) makes nobody large: the kernel may choose init.
            (None, None) if self.measured && self.init_status == -KILL_SIGNAL && self.usage.oom_kills > 0 => {
                Ending::OutOfMemory {
                    limit_bytes: self.limits.memory_bytes.unwrap_or(0),
                }
            }
            (None, None) if self.measured => Ending::Lost {
                why: match self.init_status {
                    status @ ..0 => format!("init was killed by signal {}", -status),
                    status => format!("init ended with code {status} before the command did"),
                },
            },
            (None, None) => Ending::Lost {
                why: "the launcher died".to_owned(),
            },
        }
    }
}

/// A command that was sent, and what is at our ends of it.
pub(super) struct Sent {
    /// Its processes.
    pub tree: Tree,
    /// Its output.
    pub outputs: [Output; 2],
    /// What fills its input.
    pub feeder: Option<AbortHandle>,
    /// The state of every protection.
    pub enforcement: Vec<Enforcement>,
    /// When setting up began.
    pub starting: Instant,
    /// Hosts that the refusing proxy is asked for.
    pub refused_hosts: mpsc::Receiver<String>,
    /// Where a shell leaves what the next line finds.
    pub carrying: Option<Carrying>,
    /// In which of its session's sandboxes it is.
    pub generation: Option<u32>,
}

/// What becomes of what a shell leaves.
pub(super) struct Carrying {
    /// Where it runs.
    pub place: InSession,
    /// Where it is written.
    pub file: StateFile,
    /// What of it is wanted.
    pub carry: Carry,
    /// The environment that it was given.
    pub given: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Carrying {
    /// Takes what was left, if it is whole, and says what is missing. What the line did not change stays as lines beside it have made it.
    fn take(&self, generation: u32) -> Result<(), NotLeft> {
        let session = &self.place.session;
        let mut left = self.file.left()?;
        let lacking = left.keep(self.carry);
        if !session.request.policy.commands.is_open() && !left.is_understood() {
            return Err(NotLeft::NotUnderstood);
        }
        let removed = |name: &[u8]| session.request.grants.removes(name);
        session.carry(generation, |now| {
            now.after(left, &self.given, &session.base_env, removed)
        });
        lacking.map_or(Ok(()), Err)
    }
}

impl Actor {
    pub(super) async fn follow(&mut self, sent: Sent, grants: &Grants) -> Outcome {
        let Sent {
            mut tree,
            outputs: [mut stdout, mut stderr],
            mut feeder,
            enforcement,
            starting,
            mut refused_hosts,
            carrying,
            generation,
        } = sent;
        let mut state = Following::new(grants.limits);
        state.terminal = self.request.terminal.is_some();
        let mut setup = Duration::ZERO;
        while !(state.gone && stdout.pipe.is_none() && stderr.pipe.is_none()) {
            let deadline = state.next_deadline();
            let sleep = async {
                match &deadline {
                    Some((at, _)) => tokio::time::sleep_until((*at).into()).await,
                    None => std::future::pending().await,
                }
            };
            let gone = state.gone;
            let readable = gone || state.started.is_some();
            tokio::select! {
                event = tree.receive(), if !gone => match event {
                    Ok(Some((event, fds))) => {
                        if let sandbox_event::Event::Started { pid } = event {
                            state.started = Some(Instant::now());
                            state.last_output = Instant::now();
                            setup = starting.elapsed();
                            feeder = self.take_terminal(&mut stdout, fds).or(feeder);
                            self.announce_start(Started {
                                enforcement: enforcement.clone(),
                                policy_name: self.request.policy.name.clone(),
                                policy_digest: self.request.policy.digest.0,
                                layers: self.request.layers.clone(),
                                not_given: self.request.not_given.clone(),
                                pid,
                                limits: grants.limits,
                            });
                        } else {
                            let before = state.exited.is_some();
                            self.sandbox_event(&mut state, &tree, event);
                            stdout.ended = state.exited.is_some();
                            if let (false, Some(exited)) = (before, &state.exited)
                                && let (Some(carrying), Some(generation)) = (&carrying, generation)
                            {
                                state.not_carried = match (exited, &state.cause) {
                                    (Ending::Exited { .. }, None) => carrying.take(generation).err(),
                                    // No line will miss it.
                                    (_, Some(Ending::Cancelled { cause: CancelCause::Session, .. })) => None,
                                    // One that was ended leaves nothing, nor does one that a signal killed.
                                    _ => Some(NotLeft::Killed),
                                };
                            }
                        }
                    }
                    // The launcher died, and every sandbox with it; or the session's was ended, which the session knows more of.
                    Ok(None) | Err(_) => {
                        if let (Some(place), None) = (&self.request.session, &state.exited) {
                            state.cause.get_or_insert(place.session.verdict(generation).await);
                        }
                        state.gone = true;
                    }
                },
                // What the command writes may be here before the word that it started: `started` still comes first.
                read = stdout.read(&self.journal, gone), if readable => self.output(&mut state, &tree, &mut stdout, read),
                read = stderr.read(&self.journal, gone), if readable => self.output(&mut state, &tree, &mut stderr, read),
                Some(host) = refused_hosts.recv(), if !gone => self.refused_host(&mut state, host),
                Some(command) = self.commands.recv() => if let Command::Resize(size) = command {
                    self.resize(size);
                    if let Some(Source::Terminal(terminal)) = &stdout.pipe {
                        terminal.resize(size);
                    }
                } else {
                    self.command(&mut state, &tree, command);
                },
                () = sleep => if let Some((_, deadline)) = deadline {
                    self.deadline(&mut state, &tree, deadline);
                },
            }
            // What is left of a tree whose main process has ended and that nobody reads from any more is ended now.
            if state.exited.is_some() && !state.gone && stdout.pipe.is_none() && stderr.pipe.is_none() {
                let _ = tree.let_go();
            }
            if state.left {
                state.left = false;
                for output in [&mut stdout, &mut stderr] {
                    self.hand_over(&mut state, &tree, output);
                }
            }
        }
        // Nobody is left to read; clients may still hold the other end.
        if let Some(feeder) = feeder {
            feeder.abort();
        }
        while let Ok(host) = refused_hosts.try_recv() {
            self.refused_host(&mut state, host);
        }
        // The tree is gone without a word of its main process's end.
        self.announce_closed(&mut state);
        let usage = Usage {
            wall: state
                .wall
                .or_else(|| state.started.map(|started| started.elapsed()))
                .unwrap_or_default(),
            cpu_user: Duration::from_micros(state.usage.cpu_user_us),
            cpu_system: Duration::from_micros(state.usage.cpu_system_us),
            memory_peak_bytes: state.usage.memory_peak_bytes,
            oom_kills: state.usage.oom_kills,
            fork_failures: state.usage.fork_failures,
            throttled: state.usage.throttled_us.map(Duration::from_micros),
            from_cgroup: state.measured.then_some(state.usage.from_cgroup),
            output_bytes: [stdout.offset, stderr.offset],
            queued: Duration::ZERO,
            setup,
        };
        let digests = [stdout.digest, stderr.digest].map(|digest| Some(hex(&digest.finalize())));
        let mut collecting = std::mem::take(&mut state.collecting);
        let recording = std::mem::take(&mut state.recording);
        let not_carried = state.not_carried.map(|why| why.to_string()).unwrap_or_default();
        let ending = state.ending();
        if ending.shell_code() != 0 {
            let inferred = collecting.infer(grants, &self.request.host);
            inferred
                .into_iter()
                .for_each(|denial| self.journal.append(Event::Denial(denial)));
        }
        let denials = collecting.into_denials();
        let passed = std::mem::take(&mut self.passed);
        let recorded = self.request.learn.as_ref().map(|learn| {
            let facts = learn::facts(&learn.own, grants, &self.request, passed);
            Arc::new(recording.finish(facts, &usage, &denials))
        });
        Outcome {
            ending: Some(ending),
            usage,
            enforcement,
            digests,
            denials,
            not_carried,
            recorded,
        }
    }

    fn refused_host(&self, state: &mut Following, host: String) {
        if let Some(denial) = state.collecting.refused_host(host) {
            self.journal.append(Event::Denial(denial));
        }
    }

    /// Makes the pipes: our ends, the task that fills the input where there is one, and the command's ends; none of a terminal, which
    /// init makes.
    pub(super) fn pipes(&mut self) -> std::io::Result<Pipes> {
        if self.request.terminal.is_some() {
            return Ok((Stream::ALL.map(Output::absent), None, None));
        }
        let (stdout, stdout_writer) = Output::new(Stream::Stdout)?;
        let (stderr, stderr_writer) = match self.request.merged {
            // As `2>&1` does it: one pipe under two descriptors, so that every byte is where it was written.
            true => (Output::absent(Stream::Stderr), stdout_writer.try_clone()?),
            false => Output::new(Stream::Stderr)?,
        };
        let mut feeder = None;
        let stdin = if self.request.input {
            let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            let writer = pipe::Sender::from_owned_fd(writer)?;
            // A receiver that never gets anything takes the place of the one that moves.
            let (_, nothing) = mpsc::channel(1);
            let feeding = tokio::spawn(feed(writer, std::mem::replace(&mut self.input, nothing)));
            feeder = Some(feeding.abort_handle());
            reader
        } else {
            std::fs::File::open("/dev/null")?.into()
        };
        Ok(([stdout, stderr], feeder, Some([stdin, stdout_writer, stderr_writer])))
    }

    /// Takes what a stream of a session holds now, and leaves what may still come to the session.
    fn hand_over(&self, state: &mut Following, tree: &Tree, output: &mut Output) {
        while let Some(data) = output.take_now() {
            self.output(state, tree, output, Read::Data(data));
        }
        let Some(source) = output.pipe.take() else { return };
        if let (Source::Pipe(pipe), Some(place)) = (source, &self.request.session) {
            place.session.keep_output(&self.request.id, output.stream, pipe);
        }
        self.output(state, tree, output, Read::Closed(false));
    }

    /// Takes the terminal's master, if the command has one: its output is `stdout`, and a task types what clients send.
    fn take_terminal(&mut self, stdout: &mut Output, mut fds: Vec<OwnedFd>) -> Option<AbortHandle> {
        let size = self.request.terminal.as_ref()?.size;
        match Terminal::new(fds.pop()?) {
            Ok((terminal, keyboard)) => {
                // It may have been changed since the command was sent.
                terminal.resize(size);
                stdout.pipe = Some(Source::Terminal(terminal));
                let (_, nothing) = mpsc::channel(1);
                let input = std::mem::replace(&mut self.input, nothing);
                Some(tokio::spawn(terminal::feed(keyboard, input)).abort_handle())
            }
            Err(error) => {
                tracing::error!(%error, "a terminal cannot be watched; its command is hung up");
                None
            }
        }
    }

    fn sandbox_event(&self, state: &mut Following, tree: &Tree, event: sandbox_event::Event) {
        use sandbox_event::Event::{
            CpuTime, Created, Described, DiskExceeded, Exited, Failed, Gone, MemoryExceeded, Ready, Recorded, Refused,
            SelfTest, SpawnFailed, Started,
        };
        match event {
            SpawnFailed {
                stage,
                errno,
                path,
                protection,
            } => {
                state.cause.get_or_insert(match protection {
                    None => Ending::SpawnFailed { stage, errno, path },
                    Some(_) => sandbox_failed(
                        sandbox_event::Failure {
                            protection,
                            stage,
                            errno,
                            path,
                        },
                        &self.surroundings.launching,
                    ),
                });
                let _ = tree.kill();
            }
            Exited {
                status,
                leftovers,
                leftover_count,
                refusals,
            } => {
                state.collecting.counted(refusals);
                let status = match status {
                    ExitStatus::Exited(code) => Ending::Exited { code },
                    ExitStatus::Signaled { signal, core } => Ending::Signaled { signal, core },
                };
                state.wall = state.started.map(|started| started.elapsed());
                state.exited = Some(status.clone());
                // With nobody left, init ends by itself.
                if leftover_count > 0 {
                    state.kill_by(Instant::now() + DRAIN_GRACE);
                }
                self.set_phase(Phase::Ending);
                self.journal.append(Event::Exited {
                    status,
                    leftovers,
                    leftover_count,
                });
                self.announce_closed(state);
            }
            MemoryExceeded { .. } => {
                let limit_bytes = state.limits.memory_bytes.unwrap_or(0);
                state.cause.get_or_insert(Ending::OutOfMemory { limit_bytes });
            }
            DiskExceeded { resource, used } => {
                let limit = match resource {
                    DiskResource::Space => state.limits.disk_bytes,
                    DiskResource::Files => state.limits.files,
                };
                let limit = limit.unwrap_or(0);
                state.cause.get_or_insert(Ending::DiskLimit { resource, limit, used });
            }
            CpuTime { micros } => {
                let limit = state
                    .limits
                    .cpu_time
                    .filter(|limit| Duration::from_micros(micros) >= *limit);
                if let (Some(after), None) = (limit, &state.exited) {
                    self.set_phase(Phase::Ending);
                    state.end(
                        tree,
                        Ending::TimedOut {
                            limit: TimeLimit::Cpu,
                            after,
                        },
                        state.limits.grace,
                    );
                }
            }
            Failed(failure) => {
                state
                    .cause
                    .get_or_insert(sandbox_failed(failure, &self.surroundings.launching));
            }
            Gone { usage, init_status } => {
                state.init_status = init_status;
                state.gone = true;
                state.usage = usage;
                state.measured = true;
            }
            Refused(denial) => {
                if let Some(denial) = state.collecting.refused(denial) {
                    self.journal.append(Event::Denial(denial));
                }
            }
            Recorded {
                observations,
                lost,
                tasks,
            } => state.recording.take(observations, lost, tasks),
            Created | Described | Ready { .. } | Started { .. } | SelfTest { .. } => {}
        }
    }

    fn output(&self, state: &mut Following, tree: &Tree, output: &mut Output, read: Read) {
        match read {
            Read::Data(data) => {
                state.last_output = Instant::now();
                output.digest.update(&data);
                if output.stream == Stream::Stderr || self.request.merged || self.request.terminal.is_some() {
                    state.collecting.heard(&data);
                }
                let offset = output.offset;
                output.offset += data.len() as u64;
                let stream = output.stream;
                // What comes after the limit is read, so that the command does not block while it is being ended, and counted, but
                // given to nobody.
                let given: u64 = self.journal.output_bytes().iter().sum();
                let left = state
                    .limits
                    .output_bytes
                    .map_or(u64::MAX, |limit| limit.saturating_sub(given));
                let kept = data.slice(..data.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                let over = kept.len() < data.len();
                if !kept.is_empty() {
                    self.journal.append(Event::Output {
                        stream,
                        offset,
                        data: kept,
                    });
                }
                if let (true, Some(limit_bytes), None) = (over, state.limits.output_bytes, &state.cause) {
                    self.set_phase(Phase::Ending);
                    state.end(tree, Ending::OutputLimit { stream, limit_bytes }, state.limits.grace);
                }
            }
            Read::Closed(end_of_file) => {
                output.pipe = None;
                output.buffer = BytesMut::new();
                let (stream, total_bytes) = (output.stream, output.offset);
                state.closed.push(Event::Closed {
                    stream,
                    total_bytes,
                    end_of_file,
                });
                if state.exited.is_some() || state.gone {
                    self.announce_closed(state);
                }
            }
        }
    }

    /// Says which streams have ended: after `exited`, which a stream's end can overtake.
    fn announce_closed(&self, state: &mut Following) {
        state.closed.drain(..).for_each(|closed| self.journal.append(closed));
    }

    fn command(&self, state: &mut Following, tree: &Tree, command: Command) {
        match command {
            // Taken where the terminal is.
            Command::Resize(_) => {}
            Command::Signal { signal, scope } => {
                let _ = tree.signal(signal, scope);
            }
            Command::Kill(kill) if state.exited.is_none() => {
                self.set_phase(Phase::Ending);
                state.end(tree, kill.ending(), kill.grace.unwrap_or(state.limits.grace));
            }
            // It has ended by itself; what is left of it goes now.
            Command::Kill(_) => {
                let _ = tree.kill();
            }
        }
    }

    fn deadline(&self, state: &mut Following, tree: &Tree, deadline: Deadline) {
        match deadline {
            Deadline::Kill => {
                state.kill_at = None;
                // In a session, what a run leaves behind by itself is kept.
                state.left = tree.is_in_session() && state.exited.is_some() && state.cause.is_none();
                let _ = if state.left { tree.let_go() } else { tree.kill() };
            }
            Deadline::Wall(after) => {
                self.set_phase(Phase::Ending);
                state.end(
                    tree,
                    Ending::TimedOut {
                        limit: TimeLimit::Wall,
                        after,
                    },
                    state.limits.grace,
                );
            }
            // A command that waits for its reader or for the disk is not idle.
            Deadline::Idle(_) if !self.journal.has_room(CHUNK_BYTES) => state.last_output = Instant::now(),
            Deadline::Idle(after) => {
                self.set_phase(Phase::Ending);
                state.end(
                    tree,
                    Ending::TimedOut {
                        limit: TimeLimit::Idle,
                        after,
                    },
                    state.limits.grace,
                );
            }
            Deadline::Cpu => {
                state.next_cpu_check = Instant::now() + CPU_PERIOD;
                let _ = tree.ask_cpu_time();
            }
        }
    }
}

/// Fills the command's input until end of file, or until nobody reads it any more.
async fn feed(mut pipe: pipe::Sender, mut input: mpsc::Receiver<Piece>) {
    while let Some(Piece { data, eof }) = input.recv().await {
        // EPIPE: the command closed its input. What clients still send is dropped, as under a shell.
        if pipe.write_all(&data).await.is_err() || eof {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(init_status: i32, oom_kills: u64) -> Ending {
        let mut state = Following::new(Limits {
            wall: None,
            idle: None,
            cpu_time: None,
            grace: Duration::ZERO,
            memory_bytes: Some(64),
            processes: None,
            cpu_millis: None,
            open_files_soft: 1,
            open_files_hard: 1,
            file_bytes: None,
            disk_bytes: None,
            files: None,
            output_bytes: None,
        });
        state.measured = true;
        state.init_status = init_status;
        state.usage.oom_kills = oom_kills;
        state.ending()
    }

    #[test]
    fn an_init_that_the_kernel_killed_for_memory_was_out_of_memory() {
        assert_eq!(ending(-9, 2), Ending::OutOfMemory { limit_bytes: 64 });
        for (status, kills) in [(-9, 0), (-11, 2), (1, 2)] {
            assert!(matches!(ending(status, kills), Ending::Lost { .. }), "{status} {kills}");
        }
    }
}
