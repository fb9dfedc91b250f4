//! `fumehood run`: start a command and stand in for it, from its input to its exit code.
//!
//! One loop waits for everything at once: events, signals, a reader that went away. While output waits for a slow
//! reader, no further events are taken, which in turn holds the command back; signals are heard all the same.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use fumehood_client::proto::v1::{
    Accepted, Ending, OutputStream, ProcessExited, RunEvent, SignalScope, StartRequest, Started, run_event::Event,
};
use fumehood_client::{Client, Error, Reconnect, Run, RunStdin};
use nix::sys::signal::{Signal, raise};
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::RunArgs;
use crate::failure::{EXIT_FAILURE, Failure};
use crate::request::{self, Surroundings};
use crate::signals::Signals;
use crate::start::{self, Connected};
use crate::stdio::{Broken, Reader, Stdin, Stream, Writers, stdin_kind};
use crate::{approve, ids, json, print, render, tell, tty};

/// A second SIGINT within this time kills the run.
const IMPATIENCE: Duration = Duration::from_secs(2);
/// A run that is still there so long after SIGTERM or SIGHUP is killed.
const END_GRACE: Duration = Duration::from_secs(10);
/// After the kill for such a reason, this program ends so much later in any case.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// A daemon that took a request says so within this time, whether or not the command can start yet.
const FIRST_EVENT_PATIENCE: Duration = Duration::from_secs(30);
/// From SIGTERM to SIGKILL for a command whose output nobody reads any more.
const UNREAD_GRACE: Duration = Duration::from_secs(2);
/// After such a command was to be ended, this program ends so much later in any case.
const UNREAD_PATIENCE: Duration = Duration::from_secs(5);
/// A daemon that does not take the stop of Ctrl-Z within this time does not keep this program from stopping.
pub const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// As a shell tells of a process that wrote to a pipe nobody reads.
const EXIT_SIGPIPE: u8 = 128 + 13;

/// Runs the command; gives the exit code.
pub async fn run(args: RunArgs) -> Result<u8, Failure> {
    let surroundings = Surroundings {
        directory: std::env::current_dir().or_else(|error| match &args.workspace {
            Some(workspace) if workspace.is_absolute() => Ok(workspace.clone()),
            _ => Err(Failure::CurrentDirectory(error)),
        })?,
        environment: std::env::vars_os().collect(),
        input: match args.detach {
            true => args.interactive,
            false => !args.no_stdin && stdin_kind() == Stdin::Readable,
        },
    };
    let mut request = request::build(&args, surroundings)?;
    let workspace = request
        .spec
        .as_ref()
        .map(|spec| spec.workspace.to_vec())
        .unwrap_or_default();

    let asked = request.spec.as_ref().and_then(|spec| spec.terminal.as_ref()?.size);
    let asked_size = asked.map(|size| (size.rows, size.columns));
    if args.tty && !args.detach && !tty::is_there() {
        return Err(Failure::NoTty);
    }
    let connected = match &args.session {
        None => start::connect(&args.connect).await?,
        // One that is started now has no sessions.
        Some(session) => match start::connect_existing(&args.connect).await? {
            Ok(connected) => {
                let session = ids::resolve_session(&connected.client, session).await?;
                request.spec.get_or_insert_default().session = session;
                connected
            }
            Err(socket) => return Err(Failure::NoDaemon(socket)),
        },
    };
    if args.detach {
        return detach(&args, connected, request).await;
    }
    let system = |action| move |source| Failure::System { action, source };
    // From here on a signal is the run's.
    let signals = Signals::listen().map_err(system("listen for signals"))?;
    let writers = Writers::start(args.tty).map_err(system("start the writers of the output"))?;
    let (Connected { client, socket, .. }, mut run) = begin(&args, connected, request).await?;
    let (escapes_to, escapes) = tokio::sync::mpsc::channel(1);
    let mut keyboard = None;
    let pump = match run.stdin.take() {
        Some(stdin) if args.tty => {
            keyboard = Some((stdin, escapes_to));
            None
        }
        Some(stdin) => {
            let reader = Reader::start().map_err(system("start the reader of the input"))?;
            Some(Pump::start(reader, stdin))
        }
        None => None,
    };

    let program = program(&args);
    let follower = Follower {
        client,
        socket,
        json: args.json,
        verbose: args.verbose,
        quiet: args.quiet,
        in_session: args.session.is_some(),
        program,
        workspace,
        named_socket: args.connect.socket.clone(),
        tty: args.tty,
        keyboard,
        escapes,
        raw: None,
        asked_size,
        sizes: None,
        lingers: args.linger.is_some(),
        run: None,
        started: None,
        notices: Vec::new(),
    };
    follower.follow(run, writers, signals, pump).await
}

/// What is executed, for messages about it.
fn program(args: &RunArgs) -> Vec<u8> {
    match args.command.first() {
        Some(program) => program.as_encoded_bytes().to_vec(),
        None => b"the shell".to_vec(),
    }
}

/// Sends the request; once more to a new daemon when this one just began to drain.
async fn begin(args: &RunArgs, connected: Connected, request: StartRequest) -> Result<(Connected, Run), Failure> {
    // A run that is killed with its connection is not worth a wait for another one.
    let policy = match args.linger {
        Some(_) => Reconnect::default(),
        None => Reconnect::never(),
    };
    let spawn = async |connected: &Connected| {
        connected
            .client
            .clone()
            .with_reconnect(policy)
            .spawn(request.clone())
            .await
    };
    let connected = match spawn(&connected).await {
        Ok(handle) => {
            if let Some(notice) = start::version_notice(&connected).filter(|_| args.verbose) {
                tell(&notice);
            }
            return Ok((connected, handle));
        }
        Err(Error::Unavailable { .. }) => start::connect(&args.connect).await?,
        Err(error) => return Err(error.into()),
    };
    let handle = spawn(&connected).await?;
    Ok((connected, handle))
}

/// Starts the command and tells the run's id. Waits until the command runs, so that what keeps it from running is told here; not for a place
/// or a person.
async fn detach(args: &RunArgs, connected: Connected, request: StartRequest) -> Result<u8, Failure> {
    let program = program(args);
    let (connected, started) = match connected.client.start(request.clone()).await {
        Err(Error::Unavailable { .. }) => {
            let connected = start::connect(&args.connect).await?;
            let started = connected.client.start(request).await?;
            (connected, started)
        }
        started => (connected, started?),
    };
    let id = started.run.map(|run| run.run_id).unwrap_or_default();
    print(&if args.json {
        format!("{}\n", serde_json::json!({ "run_id": id }))
    } else {
        format!("{id}\n")
    })?;
    let mut run = connected.client.attach(id).start().await?;
    let look = async {
        while let Some(event) = run.next().await? {
            match event.event {
                Some(Event::Accepted(Accepted { queue_position })) if queue_position > 0 => {
                    tell(&format!("waiting behind {queue_position} other runs"));
                    break;
                }
                Some(Event::ApprovalRequested(asked)) => {
                    approve::asked(&asked, args.connect.socket.as_deref())
                        .iter()
                        .for_each(|line| tell(line));
                    break;
                }
                Some(Event::Started(started)) => {
                    if let Some(line) = render::preferred_missing(&started).filter(|_| !args.quiet) {
                        tell(&line);
                    }
                    break;
                }
                Some(Event::Finished(finished)) => {
                    let notice = finished
                        .ending
                        .as_ref()
                        .and_then(|ending| render::notice(ending, &program));
                    if let Some(notice) = notice {
                        tell(&notice);
                    }
                    return Ok(u8::try_from(finished.shell_code).unwrap_or(EXIT_FAILURE));
                }
                _ => {}
            }
        }
        Ok(0)
    };
    // What takes longer, `ps` and `wait` tell.
    timeout(FIRST_EVENT_PATIENCE, look).await.unwrap_or(Ok(0))
}

/// The task that passes input on; it ends with this.
pub struct Pump(tokio::task::JoinHandle<()>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Who is told what was typed for this program.
pub type Escapes = tokio::sync::mpsc::Sender<tty::Typed>;

/// Pieces of keys that wait for a daemon that does not take them: looking for the keys to leave goes on meanwhile.
const KEYS_WAITING: usize = 4096;

impl Pump {
    /// Passes keys on; those that are for this program it tells. The input is never closed: that its terminal is gone, this program learns
    /// from a signal.
    pub fn keyboard(mut reader: Reader, mut input: RunStdin, escapes: Escapes) -> Self {
        let (queue, mut queued) = tokio::sync::mpsc::channel::<Bytes>(KEYS_WAITING);
        Self(tokio::spawn(async move {
            let sends = async {
                while let Some(piece) = queued.recv().await {
                    if input.send(piece).await.is_err() {
                        return;
                    }
                }
            };
            let reads = async move {
                let mut keys = tty::Keys::default();
                while let Some(piece) = reader.next().await {
                    for typed in keys.take(&piece) {
                        let passed = match typed {
                            tty::Typed::Keys(passed) => queue.send(passed.into()).await.is_ok(),
                            // Nothing more is read: it is for whoever reads the terminal next.
                            tty::Typed::Leave => {
                                let _ = escapes.send(typed).await;
                                return;
                            }
                            tty::Typed::Stop => escapes.send(typed).await.is_ok(),
                        };
                        if !passed {
                            return;
                        }
                    }
                }
            };
            tokio::join!(sends, reads);
            // Dropping it would be its end.
            std::future::pending::<()>().await;
            drop(input);
        }))
    }

    /// Passes on what the reader gives, and its end.
    pub fn start(mut reader: Reader, mut input: RunStdin) -> Self {
        Self(tokio::spawn(async move {
            while let Some(piece) = reader.next().await {
                // The run is over: its end is told by its events.
                if input.send(piece).await.is_err() {
                    return;
                }
            }
            let _ = input.close().await;
        }))
    }
}

/// What this program knows of the run it stands in for.
struct Follower {
    client: Client,
    socket: PathBuf,
    json: bool,
    verbose: bool,
    quiet: bool,
    in_session: bool,
    program: Vec<u8>,
    workspace: Vec<u8>,
    /// The socket that the command line named, for the commands that it is told.
    named_socket: Option<PathBuf>,
    /// Whether the command has a terminal.
    tty: bool,
    /// Where keys go, until the command has started; and who is told those that are for this program.
    keyboard: Option<(RunStdin, Escapes)>,
    escapes: tokio::sync::mpsc::Receiver<tty::Typed>,
    /// This program's terminal while the command has it.
    raw: Option<tty::Raw>,
    /// Its size when the run was asked for.
    asked_size: Option<(u32, u32)>,
    sizes: Option<tty::Resizes>,
    /// Whether the run goes on for a while without this program.
    lingers: bool,
    /// The run's id, once it was told.
    run: Option<String>,
    started: Option<Started>,
    /// What is to be told when all output is written.
    notices: Vec<String>,
}

/// What the loop woke up for.
#[allow(clippy::large_enum_variant)] // One at a time, on the stack: a box for each event would cost more.
enum Turn {
    Event(Result<Option<RunEvent>, Error>),
    Signal(Signal),
    Written,
    Broken(Broken),
    Due,
    TerminalChanged,
    Escape(tty::Typed),
}

/// When the loop wakes up by itself, and what for.
enum Alarm {
    /// No event has come yet.
    FirstEvent,
    /// This signal, which asks for the end, has been passed on.
    Kill(Signal),
    /// The run was killed because of this signal.
    GiveUp(Signal),
}

impl Follower {
    async fn follow(
        mut self,
        mut events: Run,
        mut writers: Writers,
        mut signals: Signals,
        mut pump: Option<Pump>,
    ) -> Result<u8, Failure> {
        let mut pending: Option<(Stream, Bytes)> = None;
        let mut alarm = Some((Instant::now() + FIRST_EVENT_PATIENCE, Alarm::FirstEvent));
        let mut interrupted: Option<Instant> = None;

        let mut changes = tty::Changes::listen().map_err(|source| Failure::System {
            action: "listen for signals",
            source,
        })?;
        let finished = loop {
            let queue = pending.as_ref().map(|(stream, _)| writers.queue(*stream).clone());
            let turn = tokio::select! {
                biased;
                signal = signals.next() => Turn::Signal(signal),
                Some(escape) = self.escapes.recv() => Turn::Escape(escape),
                () = changes.next(), if self.raw.is_some() => Turn::TerminalChanged,
                broken = writers.broken() => Turn::Broken(broken),
                () = sleep_until(alarm.as_ref().map_or_else(Instant::now, |(at, _)| *at)), if alarm.is_some() => Turn::Due,
                room = async { queue.as_ref().expect("guarded by the condition").reserve().await }, if queue.is_some() => {
                    match (room, pending.take()) {
                        (Ok(room), Some(chunk)) => {
                            room.send(chunk);
                            Turn::Written
                        }
                        // A writer says why before it goes; one that went without a word failed in itself.
                        (_, chunk) => {
                            let stream = chunk.map_or(Stream::Stdout, |(stream, _)| stream);
                            Turn::Broken(Broken { stream, error: io::Error::other("the writer ended") })
                        }
                    }
                }
                event = events.next(), if queue.is_none() => Turn::Event(event),
            };
            match turn {
                Turn::Written => {}
                Turn::Escape(tty::Typed::Keys(_)) => {}
                Turn::Escape(tty::Typed::Stop) => self.stop_and_go().await,
                Turn::Escape(tty::Typed::Leave) if self.lingers => {
                    self.raw = None;
                    let run = events.id().to_owned();
                    // The driver of the run takes its leave; without this, an input that ends.
                    let _ = events.detach();
                    tell(&format!("left it; `fumehood attach {run}` finds it again"));
                    return Ok(0);
                }
                Turn::Escape(tty::Typed::Leave) => return Err(Failure::Left),
                Turn::TerminalChanged => {
                    if let Some(raw) = &self.raw {
                        raw.again();
                    }
                    self.resize();
                }
                Turn::Event(Ok(Some(event))) => {
                    if let Some((_, Alarm::FirstEvent)) = alarm {
                        alarm = None;
                    }
                    if let Some(Event::Exited(_)) = event.event {
                        // Nobody is left to read: what comes now is for the next reader of this program's input.
                        pump = None;
                    }
                    pending = self.take(&event);
                    if let Some(Event::Started(_)) = event.event
                        && let Some((stdin, escapes)) = self.keyboard.take()
                    {
                        let system = |action| move |source| Failure::System { action, source };
                        self.raw = Some(tty::Raw::enter().map_err(system("take over the terminal"))?);
                        let reader = Reader::start().map_err(system("start the reader of the input"))?;
                        pump = Some(Pump::keyboard(reader, stdin, escapes));
                        if tty::size() != self.asked_size {
                            self.resize();
                        }
                    }
                    if let Some(Event::Finished(finished)) = event.event {
                        break finished;
                    }
                }
                Turn::Event(Ok(None)) => return Err(Error::Interrupted.into()),
                Turn::Event(Err(error)) => {
                    // What came before the break is still told, but not waited for longer than a signal lets us.
                    tokio::select! {
                        _ = writers.finish() => {}
                        signal = ending_signal(&mut signals) => return Ok(exit_of(signal)),
                    }
                    return Err(match error {
                        Error::Transport { .. } | Error::Interrupted | Error::RunLost { .. } => Failure::Lost {
                            socket: self.socket,
                            source: error,
                        },
                        refusal => refusal.into(),
                    });
                }
                Turn::Broken(broken) => return self.unread(broken).await,
                Turn::Due => match alarm.take().map(|(_, what)| what) {
                    Some(Alarm::FirstEvent) => return Err(Failure::Silent(self.socket)),
                    Some(Alarm::Kill(signal)) => {
                        alarm = Some((Instant::now() + KILL_PATIENCE, Alarm::GiveUp(signal)));
                        self.kill("the command did not end after SIGTERM or SIGHUP");
                    }
                    // Killed it is; what keeps us is output that nobody takes, or a daemon that is stuck.
                    Some(Alarm::GiveUp(signal)) => return Ok(exit_of(signal)),
                    None => {}
                },
                Turn::Signal(Signal::SIGTSTP) => self.stop_and_go().await,
                Turn::Signal(signal) => {
                    let Some(run) = self.run.clone().filter(|_| self.started.is_some()) else {
                        if matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2) {
                            continue;
                        }
                        // Nothing runs yet: the daemon drops the request with the connection.
                        if self.lingers {
                            let killed = self.client.kill(events.id(), Some(Duration::ZERO), "interrupted");
                            let _ = timeout(KILL_PATIENCE, killed).await;
                        }
                        return Ok(exit_of(signal));
                    };
                    if self.tty && matches!(signal, Signal::SIGTERM | Signal::SIGHUP) {
                        // As when a terminal is closed. Shells on terminals ignore SIGTERM.
                        self.raw = None;
                        if self.lingers {
                            let _ = events.detach();
                            return Ok(exit_of(signal));
                        }
                        let ended = self
                            .client
                            .kill(run, Some(UNREAD_GRACE), "the terminal's program was ended");
                        let _ = timeout(UNREAD_PATIENCE, ended).await;
                        return Ok(exit_of(signal));
                    }
                    if signal == Signal::SIGINT {
                        if let Some((_, Alarm::GiveUp(_))) = alarm {
                            // Even the kill takes too long for them.
                            return Ok(exit_of(signal));
                        }
                        if interrupted.is_some_and(|before| before.elapsed() < IMPATIENCE) {
                            alarm = Some((Instant::now() + KILL_PATIENCE, Alarm::GiveUp(signal)));
                            self.kill("interrupted twice");
                            continue;
                        }
                        interrupted = Some(Instant::now());
                    }
                    if matches!(signal, Signal::SIGTERM | Signal::SIGHUP) && alarm.is_none() {
                        alarm = Some((Instant::now() + END_GRACE, Alarm::Kill(signal)));
                    }
                    let client = self.client.clone();
                    // Not through the stream, where it would wait behind input that the command does not read. A refusal
                    // means that the command has ended by itself.
                    tokio::spawn(async move { client.signal(run, signal as i32, SignalScope::Group).await });
                }
            }
        };
        drop(pump);

        // The last line of JSON.
        if let Some((stream, bytes)) = pending
            && writers.queue(stream).send((stream, bytes)).await.is_err()
        {
            // The writer said why; `finish` tells it.
        }
        let written = tokio::select! {
            written = writers.finish() => written,
            signal = ending_signal(&mut signals) => return Ok(exit_of(signal)),
        };
        match written {
            Ok(()) => {}
            Err(broken) => return output_broken(broken),
        }
        self.raw = None;
        if let Some(notice) = finished
            .ending
            .as_ref()
            .and_then(|ending: &Ending| render::notice(ending, &self.program))
        {
            self.notices.push(notice);
        }
        self.notices
            .extend(render::limits_met(self.started.as_ref(), &finished));
        self.notices.extend(render::denials(&finished, self.verbose));
        self.notices.extend(render::not_carried(&finished));
        if self.verbose {
            self.notices.extend(render::summary(self.started.as_ref(), &finished));
        }
        self.notices.iter().for_each(|notice| tell(notice));
        Ok(u8::try_from(finished.shell_code).unwrap_or(EXIT_FAILURE))
    }

    /// Notes what an event says; gives what is to be written for it.
    fn take(&mut self, event: &RunEvent) -> Option<(Stream, Bytes)> {
        if self.run.is_none() {
            self.run = Some(event.run_id.clone());
        }
        let mut output = None;
        match &event.event {
            Some(Event::Accepted(Accepted { queue_position })) if *queue_position > 0 && self.verbose => {
                tell(&format!("waiting behind {queue_position} other runs"));
            }
            Some(Event::ApprovalRequested(asked)) => {
                approve::asked(asked, self.named_socket.as_deref())
                    .iter()
                    .for_each(|line| tell(line));
            }
            Some(Event::ApprovalResolved(resolved)) => {
                if let Some(line) = approve::answered(resolved, self.verbose) {
                    tell(&line);
                }
            }
            Some(Event::Started(started)) => {
                // Nothing of the command was written yet, so this stands before it.
                if let (false, false, Some(line)) = (self.json, self.quiet, render::preferred_missing(started)) {
                    tell(&line);
                }
                self.notices.extend(render::not_given(started, &self.workspace));
                self.started = Some(started.clone());
            }
            Some(Event::Output(piece)) => {
                let stream = if piece.stream() == OutputStream::Stderr {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                };
                output = Some((stream, piece.data.clone()));
            }
            Some(Event::Gap(gap)) => self.notices.push(render::gap(gap)),
            // In a session, that is what one wants.
            Some(Event::Exited(exited)) if !self.in_session || self.verbose => {
                let left = render::leftovers(exited as &ProcessExited, self.in_session);
                self.notices.extend(left);
            }
            Some(Event::Exited(_)) => {}
            Some(Event::Accepted(_) | Event::Closed(_) | Event::Denial(_) | Event::Finished(_)) | None => {}
        }
        if self.json {
            let mut line = json::event(event);
            line.push('\n');
            output = Some((Stream::Stdout, line.into()));
        }
        output
    }

    /// Tells the command's terminal the size of this one, without waiting.
    fn resize(&mut self) {
        if let (Some(run), true) = (&self.run, self.tty) {
            let sizes = || tty::Resizes::of(self.client.clone(), run.clone());
            self.sizes.get_or_insert_with(sizes).tell(false);
        }
    }

    /// Kills the run, without waiting: its end comes as an event.
    fn kill(&self, reason: &'static str) {
        if let Some(run) = self.run.clone() {
            let client = self.client.clone();
            tokio::spawn(async move { client.kill(run, Some(Duration::ZERO), reason).await });
        }
    }

    /// Ctrl-Z: the command stops, then this program; when this one is resumed, so is the command. One with a terminal of its own goes on: a
    /// shell on it would take what is stopped for a job of its own.
    async fn stop_and_go(&mut self) {
        if let Some(raw) = &self.raw {
            raw.stop();
            return self.resize();
        }
        let signal = async |signal: Signal| {
            if let Some(run) = &self.run {
                let _ = timeout(
                    STOP_PATIENCE,
                    self.client.signal(run.as_str(), signal as i32, SignalScope::Group),
                )
                .await;
            }
        };
        // SIGSTOP, because SIGTSTP does nothing to a group without a shell of its own (an orphaned one).
        signal(Signal::SIGSTOP).await;
        let _ = raise(Signal::SIGSTOP);
        signal(Signal::SIGCONT).await;
    }

    /// Nobody reads this program's output any more: neither should the command write on.
    async fn unread(&self, broken: Broken) -> Result<u8, Failure> {
        if let Some(run) = &self.run {
            let ended = self
                .client
                .kill(run.as_str(), Some(UNREAD_GRACE), "nobody reads its output any more");
            let _ = timeout(UNREAD_PATIENCE, ended).await;
        }
        output_broken(broken)
    }
}

/// The next signal that asks this program to end.
pub async fn ending_signal(signals: &mut Signals) -> Signal {
    loop {
        match signals.next().await {
            Signal::SIGTSTP => {
                let _ = raise(Signal::SIGSTOP);
            }
            Signal::SIGUSR1 | Signal::SIGUSR2 => {}
            signal => return signal,
        }
    }
}

/// A pipe without a reader is SIGPIPE to any other program.
pub fn output_broken(broken: Broken) -> Result<u8, Failure> {
    let Broken { stream, error } = broken;
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(EXIT_SIGPIPE);
    }
    let stream = match stream {
        Stream::Stdout => "output",
        Stream::Stderr => "error",
    };
    Err(Failure::Output { stream, source: error })
}

/// 128+n.
pub fn exit_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(EXIT_FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_become_exit_codes_as_in_a_shell() {
        assert_eq!(exit_of(Signal::SIGINT), 130);
        assert_eq!(exit_of(Signal::SIGTERM), 143);
        let broken = |kind| {
            output_broken(Broken {
                stream: Stream::Stdout,
                error: io::Error::from(kind),
            })
        };
        assert_eq!(broken(io::ErrorKind::BrokenPipe).unwrap(), 141);
        assert!(matches!(
            broken(io::ErrorKind::StorageFull),
            Err(Failure::Output { stream: "output", .. })
        ));
    }
}
