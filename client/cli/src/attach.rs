//! `fumehood attach` and `fumehood logs`: what a run writes, for whoever comes later.
//!
//! Unlike `fumehood run`, this program does not stand in for the run: it may leave without harm. So a signal, or a reader that went away, ends
//! the following and nothing else, unless signals are asked to be passed on. Of a run with a terminal, a person at a terminal gets keyboard and
//! screen, as with `run --tty`.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};

use bytes::Bytes;
use fumehood_client::proto::v1::{
    Finished, OutputStream, RunEvent, RunInfo, SignalScope, StreamOffsets, run_event::Event,
};
use fumehood_client::{Client, Error, Position, Run, RunStdin};
use nix::sys::signal::{Signal, raise};

use crate::args::{AttachArgs, ConnectArgs, LogsArgs};
use crate::failure::{EXIT_FAILURE, Failure};
use crate::ids::resolve;
use crate::run::{Escapes, Pump, ending_signal, exit_of, output_broken};
use crate::signals::Signals;
use crate::start::{self, Connected};
use crate::stdio::{Broken, Reader, Stdin, Stream, Writers, stdin_kind};
use crate::tail::{Held, Tail};
use crate::{approve, json, render, tell, tty};

/// `attach`.
pub async fn attach(args: AttachArgs) -> Result<u8, Failure> {
    let (client, info) = find(&args.connect, &args.run_id).await?;
    let over = info.finished.is_some();
    // Both ends are terminals: this one is the run's as long as this program follows it.
    let at_terminal = info.terminal.is_some() && !over && !args.json && tty::is_there() && io::stdout().is_terminal();
    let (signals, writers) = streams(at_terminal)?;
    let input = (args.input || at_terminal) && !over;
    let position = match (args.from_start, args.tail) {
        (true, _) => Position::Start,
        (false, Some(tail)) => tail_of(&info, tail),
        (false, None) => Position::Now,
    };
    let attach = client.attach(info.run_id.as_str()).from(position);
    let mut run = if input { attach.input() } else { attach }.start().await?;
    let (escapes_to, escapes) = tokio::sync::mpsc::channel(1);
    let mut keyboard = None;
    let pump = match run.stdin.take() {
        Some(stdin) if at_terminal => {
            keyboard = Some((stdin, escapes_to));
            None
        }
        Some(stdin) if stdin_kind() == Stdin::Readable => {
            let reader = Reader::start().map_err(|source| Failure::System {
                action: "start the reader of the input",
                source,
            })?;
            Some(Pump::start(reader, stdin))
        }
        Some(stdin) => {
            // `/dev/null`: nothing, and then the end.
            let _ = stdin.close().await;
            None
        }
        None => None,
    };
    if !args.quiet && !args.json && !over {
        let id = &info.run_id;
        if at_terminal {
            tell(&format!(
                "attached to the terminal of {id}; `Enter ~ .` lets go of it, and it goes on"
            ));
        } else if args.signals {
            tell(&format!(
                "attached to {id}; signals go to the command, `fumehood kill {id}` ends the run"
            ));
        } else {
            tell(&format!("attached to {id}; Ctrl-C lets go of it, and it goes on"));
        }
    }
    let show = Show {
        until: None,
        held: args.tail.map(|tail| Held::new(tail, info.last_seq)),
        json: args.json,
        pass_signals: args.signals,
        stands_in: true,
        keyboard,
        escapes,
        raw: None,
        sizes: tty::Resizes::of(client, info.run_id.clone()),
        started: info.started_at.is_some(),
    };
    let end = show.follow(run, writers, signals, pump).await;
    match end? {
        End::Over(finished) => {
            if !args.json {
                let program = info.argv.first().map(|program| program.to_vec()).unwrap_or_default();
                let ending = finished.ending.as_ref();
                if let Some(notice) = ending.and_then(|ending| render::notice(ending, &program)) {
                    tell(&notice);
                }
            }
            Ok(u8::try_from(finished.shell_code).unwrap_or(EXIT_FAILURE))
        }
        End::LetGo => {
            if !args.quiet && !args.json {
                tell(&format!(
                    "let go of it; `fumehood attach {}` finds it again",
                    info.run_id
                ));
            }
            Ok(0)
        }
        End::Code(code) => Ok(code),
    }
}

/// `logs`.
pub async fn logs(args: LogsArgs) -> Result<u8, Failure> {
    let (client, info) = find(&args.connect, &args.run_id).await?;
    let (signals, writers) = streams(false)?;
    let position = args.tail.map_or(Position::Start, |tail| tail_of(&info, tail));
    let run = client.attach(info.run_id.as_str()).from(position).start().await?;
    let show = Show {
        until: (!args.follow).then_some(info.last_seq),
        held: args.tail.map(|tail| Held::new(tail, info.last_seq)),
        json: args.json,
        pass_signals: false,
        stands_in: false,
        keyboard: None,
        escapes: tokio::sync::mpsc::channel(1).1,
        raw: None,
        sizes: tty::Resizes::of(client, info.run_id.clone()),
        started: false,
    };
    match show.follow(run, writers, signals, None).await? {
        End::Over(_) | End::LetGo => Ok(0),
        End::Code(code) => Ok(code),
    }
}

/// The end of what was there when the run was looked up.
fn tail_of(info: &RunInfo, tail: Tail) -> Position {
    let bytes = tail.bytes();
    match info.output_bytes {
        Some(StreamOffsets { stdout, stderr }) => Position::TailOf { bytes, stdout, stderr },
        None => Position::Tail(bytes),
    }
}

/// The run that is meant, of a daemon that is there: none is started, because it would have no runs.
async fn find(connect: &ConnectArgs, wanted: &str) -> Result<(Client, RunInfo), Failure> {
    let client = match start::connect_existing(connect).await? {
        Ok(Connected { client, .. }) => client,
        Err(socket) => return Err(Failure::NoDaemon(socket)),
    };
    let id = resolve(&client, wanted).await?;
    let info = client.get(id).await?;
    Ok((client, info))
}

fn streams(at_terminal: bool) -> Result<(Signals, Writers), Failure> {
    let system = |action| move |source| Failure::System { action, source };
    let signals = Signals::listen().map_err(system("listen for signals"))?;
    let writers = Writers::start(at_terminal).map_err(system("start the writers of the output"))?;
    Ok((signals, writers))
}

/// Why the following ended.
enum End {
    /// The run is over.
    Over(Box<Finished>),
    /// It is not, or not looked at.
    LetGo,
    /// This program is to end with this code.
    Code(u8),
}

/// What is shown, and how far.
struct Show {
    /// The number of the last event to be shown, where not all are.
    until: Option<u64>,
    /// Events up to the newest when this began, of which only the end is wanted.
    held: Option<Held>,
    json: bool,
    /// Whether signals are the command's.
    pass_signals: bool,
    /// Whether this program tells what `run` would tell.
    stands_in: bool,
    /// Where keys go, once the command has started, and who is told those that are for this program; where the run has a terminal and
    /// this program is at one.
    keyboard: Option<(RunStdin, Escapes)>,
    escapes: tokio::sync::mpsc::Receiver<tty::Typed>,
    /// This program's terminal while the command has it.
    raw: Option<tty::Raw>,
    sizes: tty::Resizes,
    /// Whether the command has started.
    started: bool,
}

/// What the loop woke up for.
#[allow(clippy::large_enum_variant)] // One at a time, on the stack.
enum Turn {
    Event(Result<Option<RunEvent>, Error>),
    Signal(Signal),
    Broken(Broken),
    Written,
    TerminalChanged,
    Escape(tty::Typed),
}

impl Show {
    async fn follow(
        mut self,
        mut run: Run,
        mut writers: Writers,
        mut signals: Signals,
        mut pump: Option<Pump>,
    ) -> Result<End, Failure> {
        let mut pending: VecDeque<(Stream, Bytes)> = VecDeque::new();
        let mut lost = (0, 0);
        let system = |action| move |source| Failure::System { action, source };
        let mut changes = tty::Changes::listen().map_err(system("listen for signals"))?;
        // Nothing has happened yet that is to be shown.
        let mut end = (self.until == Some(0)).then_some(End::LetGo);
        while end.is_none() || !pending.is_empty() {
            if let Some((stdin, escapes)) = self.keyboard.take_if(|_| self.started) {
                self.raw = Some(tty::Raw::enter().map_err(system("take over the terminal"))?);
                let reader = Reader::start().map_err(system("start the reader of the input"))?;
                // The sizes go before the first key.
                for (rows, columns) in tty::sizes(true) {
                    let _ = run.resize(rows, columns).await;
                }
                pump = Some(Pump::keyboard(reader, stdin, escapes));
            }
            let queue = pending.front().map(|(stream, _)| writers.queue(*stream).clone());
            let turn = tokio::select! {
                biased;
                signal = signals.next() => Turn::Signal(signal),
                Some(escape) = self.escapes.recv() => Turn::Escape(escape),
                () = changes.next(), if self.raw.is_some() => Turn::TerminalChanged,
                broken = writers.broken() => Turn::Broken(broken),
                room = async { queue.as_ref().expect("guarded by the condition").reserve().await }, if queue.is_some() => {
                    match (room, pending.pop_front()) {
                        (Ok(room), Some(chunk)) => {
                            room.send(chunk);
                            Turn::Written
                        }
                        (_, chunk) => {
                            let stream = chunk.map_or(Stream::Stdout, |(stream, _)| stream);
                            Turn::Broken(Broken { stream, error: io::Error::other("the writer ended") })
                        }
                    }
                }
                event = run.next(), if queue.is_none() => Turn::Event(event),
            };
            match turn {
                Turn::Written => {}
                Turn::Broken(broken) => return output_broken(broken).map(End::Code),
                Turn::Escape(tty::Typed::Keys(_)) => {}
                Turn::Escape(tty::Typed::Leave) => {
                    end = Some(End::LetGo);
                    pending.clear();
                }
                Turn::TerminalChanged => {
                    if let Some(raw) = &self.raw {
                        raw.again();
                    }
                    self.sizes.tell(false);
                }
                Turn::Escape(tty::Typed::Stop) | Turn::Signal(Signal::SIGTSTP) if self.raw.is_some() => {
                    self.raw.iter().for_each(tty::Raw::stop);
                    self.sizes.tell(true);
                }
                Turn::Escape(tty::Typed::Stop) => {}
                Turn::Signal(Signal::SIGTSTP) => {
                    let _ = raise(Signal::SIGSTOP);
                }
                Turn::Signal(signal) if self.pass_signals => {
                    // A refusal means that the command has ended, or not begun.
                    let client = run.signal(signal as i32, SignalScope::Group);
                    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), client).await;
                }
                Turn::Signal(Signal::SIGUSR1 | Signal::SIGUSR2) => {}
                Turn::Signal(_) if self.stands_in => {
                    end = Some(End::LetGo);
                    pending.clear();
                }
                Turn::Signal(signal) => return Ok(End::Code(exit_of(signal))),
                Turn::Event(Ok(Some(event))) => {
                    if let Some(Event::Gap(gap)) = &event.event {
                        lost.0 += gap.stdout_bytes;
                        lost.1 += gap.stderr_bytes;
                    }
                    match event.event {
                        Some(Event::Exited(_)) => pump = None,
                        Some(Event::Started(_)) => self.started = true,
                        _ => {}
                    }
                    let finished = match &event.event {
                        Some(Event::Finished(finished)) => Some(finished.clone()),
                        _ => None,
                    };
                    let seq = run.last_seq();
                    // What came after this began is of no interest to who wants what was there before.
                    if self.until.is_none_or(|until| event.seq <= until) {
                        self.take(event, seq, finished.is_some(), &mut pending);
                    }
                    end = match finished {
                        Some(finished) => Some(End::Over(Box::new(finished))),
                        None if self.until.is_some_and(|until| seq >= until) => Some(End::LetGo),
                        None => None,
                    };
                }
                Turn::Event(Ok(None)) => return Err(Error::Interrupted.into()),
                Turn::Event(Err(error)) => {
                    tokio::select! {
                        _ = writers.finish() => {}
                        signal = ending_signal(&mut signals) => return Ok(End::Code(exit_of(signal))),
                    }
                    let no_input = matches!(&error, Error::Precondition { violations, .. } if violations.iter().any(|one| one.kind == "INPUT_NOT_TAKEN"));
                    return Err(if no_input { Failure::NoInput } else { error.into() });
                }
            }
        }
        if let Some(End::LetGo) = end {
            // First, so that the input does not end with its writer.
            let _ = run.detach();
        }
        drop(pump);
        let written = tokio::select! {
            written = writers.finish() => written,
            signal = ending_signal(&mut signals) => return Ok(End::Code(exit_of(signal))),
        };
        if let Err(broken) = written {
            return output_broken(broken).map(End::Code);
        }
        self.raw = None;
        if lost != (0, 0) && !self.json {
            tell(&format!(
                "{} of standard output and {} of standard error are no longer kept",
                render::bytes(lost.0),
                render::bytes(lost.1)
            ));
        }
        Ok(end.unwrap_or(End::LetGo))
    }

    /// Takes an event, the newest so far being `seq`; puts what is to be written into `pending`.
    fn take(&mut self, event: RunEvent, seq: u64, last: bool, pending: &mut VecDeque<(Stream, Bytes)>) {
        let shown = match &mut self.held {
            Some(held) => held.next(event, seq, last),
            None => VecDeque::from([event]),
        };
        pending.extend(shown.into_iter().filter_map(|event| self.rendered(event)));
    }

    fn rendered(&self, event: RunEvent) -> Option<(Stream, Bytes)> {
        if self.json {
            let mut line = json::event(&event);
            line.push('\n');
            return Some((Stream::Stdout, line.into()));
        }
        match event.event {
            Some(Event::Output(output)) if output.stream() == OutputStream::Stderr => {
                Some((Stream::Stderr, output.data))
            }
            Some(Event::Output(output)) => Some((Stream::Stdout, output.data)),
            Some(Event::ApprovalRequested(asked)) if self.stands_in => {
                approve::asked(&asked, None).iter().for_each(|line| tell(line));
                None
            }
            _ => None,
        }
    }
}
