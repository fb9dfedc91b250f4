//! A run that is followed: its events and its input.

use bytes::Bytes;
use fumehood_proto::v1::attach_request::Message as AttachMessage;
use fumehood_proto::v1::run_event::Event;
use fumehood_proto::v1::run_request::Message as RunMessage;
use fumehood_proto::v1::{AttachRequest, RunEvent, RunRequest, SignalInput, SignalScope, Stdin, TerminalSize};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::error::Error;

/// Bytes of input that go into one message; longer input is cut into several. The wire allows 1,048,576.
pub const MAX_STDIN_BYTES: usize = 256 * 1024;

/// A run that is followed. Use it whole, or [`split`](Self::split) it between two tasks.
#[derive(Debug)]
pub struct RunHandle {
    input: RunInput,
    events: RunEvents,
}

impl RunHandle {
    pub(crate) fn new(input: RunInput, events: RunEvents) -> Self {
        Self { input, events }
    }

    /// The events, to be asked for one after the other.
    pub fn events(&mut self) -> &mut RunEvents {
        &mut self.events
    }

    /// The input.
    #[must_use]
    pub fn input(&self) -> &RunInput {
        &self.input
    }

    /// Both halves, for two tasks. Dropping the input leaves the command's input open; dropping the events ends the
    /// stream, which for a run started by [`crate::Client::run`] does what its request said.
    #[must_use]
    pub fn split(self) -> (RunInput, RunEvents) {
        (self.input, self.events)
    }
}

/// The events of a run.
#[derive(Debug)]
pub struct RunEvents {
    stream: Streaming<RunEvent>,
    /// Keeps the request side of the stream open as long as events are wanted: its end would be no message of ours.
    input: Option<RunInput>,
    last_seq: u64,
    finished: bool,
}

impl RunEvents {
    pub(crate) fn new(stream: Streaming<RunEvent>, input: RunInput) -> Self {
        Self {
            stream,
            input: Some(input),
            last_seq: 0,
            finished: false,
        }
    }

    /// The next event; none after `finished`, which comes exactly once and last.
    ///
    /// May be dropped while it waits (in `tokio::select!`) without losing an event.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the stream ended before `finished`, [`Error::Transport`] when the connection broke, and
    /// what the daemon says otherwise. A run that was started with an id can be found again by
    /// [`crate::Client::attach_stream`] from [`last_seq`](Self::last_seq)` + 1`.
    pub async fn next(&mut self) -> Result<Option<RunEvent>, Error> {
        if self.finished {
            return Ok(None);
        }
        let event = self.stream.message().await?.ok_or(Error::Interrupted)?;
        self.last_seq = last_seq_of(&event);
        if let Some(Event::Finished(_)) = event.event {
            self.finished = true;
            self.input = None;
        }
        Ok(Some(event))
    }

    /// The number of the last event taken, or that a gap stood for; 0 before the first.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }
}

/// The number of the last event that `event` tells: of a gap, the last that it stands for.
pub(crate) fn last_seq_of(event: &RunEvent) -> u64 {
    match &event.event {
        Some(Event::Gap(gap)) => gap.next_seq.saturating_sub(1).max(event.seq),
        _ => event.seq,
    }
}

/// The input of a run. Clones write to the same input.
#[derive(Debug, Clone)]
pub struct RunInput {
    queue: Queue,
}

/// The request side of the call the run is followed by.
#[derive(Debug, Clone)]
enum Queue {
    Run(mpsc::Sender<RunRequest>),
    Attach(mpsc::Sender<AttachRequest>),
}

/// What can be sent to a run, before it is wrapped for either call.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Bytes for the command's input, and whether it ends with them.
    Stdin(Stdin),
    /// A signal.
    Signal(SignalInput),
    /// The terminal's new size.
    Resize(TerminalSize),
}

impl RunInput {
    pub(crate) fn to_run(sender: mpsc::Sender<RunRequest>) -> Self {
        Self {
            queue: Queue::Run(sender),
        }
    }

    pub(crate) fn to_attachment(sender: mpsc::Sender<AttachRequest>) -> Self {
        Self {
            queue: Queue::Attach(sender),
        }
    }

    /// Sends bytes to the command's input, waiting while the daemon does not take them. More than [`MAX_STDIN_BYTES`] go as
    /// several messages; dropping the future between them sends only the first ones.
    ///
    /// # Errors
    /// [`Error::InputClosed`] when the run is over or its events were dropped.
    pub async fn send_stdin(&self, mut data: Bytes) -> Result<(), Error> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_STDIN_BYTES));
            self.send(Input::Stdin(Stdin {
                data: piece,
                eof: false,
                offset: None,
            }))
            .await?;
        }
        Ok(())
    }

    /// Closes the command's input: it reads the end of file after what was sent.
    ///
    /// # Errors
    /// As [`send_stdin`](Self::send_stdin).
    pub async fn close_stdin(&self) -> Result<(), Error> {
        self.send(Input::Stdin(Stdin {
            data: Bytes::new(),
            eof: true,
            offset: None,
        }))
        .await
    }

    /// Sends a signal, 1 to 64. It goes the way of the input and after it: while a command does not read, use
    /// [`crate::Client::signal`], which overtakes.
    ///
    /// # Errors
    /// As [`send_stdin`](Self::send_stdin).
    pub async fn signal(&self, signal: i32, scope: SignalScope) -> Result<(), Error> {
        self.send(Input::Signal(SignalInput {
            signal,
            scope: scope.into(),
        }))
        .await
    }

    /// Tells the run's terminal that it has a new size.
    ///
    /// # Errors
    /// As [`send_stdin`](Self::send_stdin).
    pub async fn resize(&self, rows: u32, columns: u32) -> Result<(), Error> {
        self.send(Input::Resize(TerminalSize { rows, columns })).await
    }

    /// Sends one message.
    ///
    /// # Errors
    /// As [`send_stdin`](Self::send_stdin).
    pub async fn send(&self, input: Input) -> Result<(), Error> {
        let sent = match &self.queue {
            Queue::Run(sender) => {
                let message = match input {
                    Input::Stdin(stdin) => RunMessage::Stdin(stdin),
                    Input::Signal(signal) => RunMessage::Signal(signal),
                    Input::Resize(size) => RunMessage::Resize(size),
                };
                sender.send(RunRequest { message: Some(message) }).await.is_ok()
            }
            Queue::Attach(sender) => {
                let message = match input {
                    Input::Stdin(stdin) => AttachMessage::Stdin(stdin),
                    Input::Signal(signal) => AttachMessage::Signal(signal),
                    Input::Resize(size) => AttachMessage::Resize(size),
                };
                sender.send(AttachRequest { message: Some(message) }).await.is_ok()
            }
        };
        if sent { Ok(()) } else { Err(Error::InputClosed) }
    }
}
