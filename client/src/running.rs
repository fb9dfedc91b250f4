//! A run that somebody has in hand: its events, its input, its end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use fumehood_proto::v1::attach_start::Position as WirePosition;
use fumehood_proto::v1::run_event::Event;
use fumehood_proto::v1::{
    AttachStart, Finished, FlowControl, InputMode, OnDisconnect, OutputStream, RunEvent, RunInfo, SignalScope,
    StartRequest, Stdin, StreamOffsets, TerminalSize,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::Stream;

use crate::client::Client;
use crate::error::Error;
use crate::outcome::{Capture, ExitStatus, Output};
use crate::readers::{Readers, Reading};
use crate::resume::{Driver, Kept, Says, retry};
use crate::run::{Input, MAX_STDIN_BYTES, last_seq_of};

/// Events that wait for whoever has the run, beside the one in the hand of the task that takes them from the connection. With the largest
/// output of 256 KiB, little more than a MiB.
const EVENTS: usize = 4;
/// Pieces of input that wait for that task.
const PIECES: usize = 2;
/// Sizes of the terminal that wait for it.
const SIZES: usize = 4;

/// Where following a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Position {
    /// With the first event that is still kept.
    #[default]
    Start,
    /// With the event of this number, from 1.
    Seq(u64),
    /// With what happens from now on.
    Now,
    /// With these bytes of each stream.
    Offsets {
        /// Of stdout, or of the terminal.
        stdout: u64,
        /// Of stderr.
        stderr: u64,
    },
    /// With the last so many bytes of output, of both streams together, as they are when it is attached; all that comes then follows, also
    /// through broken connections.
    Tail(u64),
    /// The same of the output that there was when each stream was this long, as [`RunInfo::output_bytes`] told it.
    TailOf {
        /// So many bytes, of both streams together.
        bytes: u64,
        /// The length of stdout, or of the terminal's output.
        stdout: u64,
        /// The length of stderr.
        stderr: u64,
    },
}

impl Client {
    /// Starts a run and follows it, through broken connections; a request without an id gets one. [`Client::command`] makes requests.
    ///
    /// A run whose request says `ON_DISCONNECT_KILL` (or nothing) is killed by the daemon when the connection breaks; what is found when
    /// it is made again is that end.
    ///
    /// # Errors
    /// When the request was not taken, [`Error::GivenUp`] when the connection could not be made.
    pub async fn spawn(&self, request: StartRequest) -> Result<Run, Error> {
        self.spawn_with(request, None, false).await
    }

    pub(crate) async fn spawn_with(
        &self,
        mut request: StartRequest,
        input: Option<Bytes>,
        kill_on_drop: bool,
    ) -> Result<Run, Error> {
        if request.run_id.is_empty() {
            // Chosen here, so that a request that is repeated because nobody knows whether it arrived is the same run.
            request.run_id = uuid::Uuid::now_v7().to_string();
        }
        let run_id = request.run_id.clone();
        let (mode, disconnect) = request.spec.as_ref().map_or_else(Default::default, |spec| {
            // A terminal's input is always there.
            let mode = if spec.terminal.is_some() {
                InputMode::Stream
            } else {
                spec.input()
            };
            (mode, spec.on_disconnect())
        });
        let output = request.spec.as_ref().and_then(|spec| spec.output.as_ref());
        let holds_back = output.is_some_and(|output| output.flow() == FlowControl::Block);
        let handle = retry(self.reconnect, || self.run(request.clone())).await?;
        let mut driver = Driver::new(self.clone(), start(run_id, 0, None), handle);
        driver.kept = Kept::from(0, true);
        driver.holds_back = holds_back;
        let mut pipe = mode == InputMode::Stream;
        if let Some(input) = input {
            driver.give(input);
            pipe = false;
        }
        Ok(Run::launch(driver, pipe, true, Some(disconnect), kill_on_drop))
    }

    /// Follows a run that exists, whoever of this user started it, through broken connections: from its beginning, unless told otherwise.
    ///
    /// ```no_run
    /// # async fn example(client: fumehood_client::Client) -> Result<(), fumehood_client::Error> {
    /// use fumehood_client::Position;
    ///
    /// let mut run = client.attach("01a2045a-60cb-77de-9479-351b05a5efea").from(Position::Tail(4096)).start().await?;
    /// println!("it {}", run.wait().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn attach(&self, run_id: impl Into<String>) -> Attach {
        Attach {
            client: self.clone(),
            run_id: run_id.into(),
            position: Position::Start,
            input: false,
        }
    }
}

fn start(run_id: String, from_seq: u64, position: Option<WirePosition>) -> AttachStart {
    AttachStart {
        run_id,
        from_seq,
        position,
        tail_end: None,
    }
}

/// The last bytes before an end that is the same whenever this is said again. A daemon that does not tell an end counts from where it is.
fn tail(run_id: String, bytes: u64, end: Option<StreamOffsets>) -> AttachStart {
    AttachStart {
        tail_end: end,
        ..start(run_id, 0, Some(WirePosition::TailBytes(bytes)))
    }
}

/// How to follow a run that exists.
#[derive(Debug, Clone)]
#[must_use = "nothing is attached before `start`"]
pub struct Attach {
    client: Client,
    run_id: String,
    position: Position,
    input: bool,
}

impl Attach {
    /// Where to begin.
    pub fn from(mut self, position: Position) -> Self {
        self.position = position;
        self
    }

    /// Also writes the run's input: [`Run::stdin`] is there. The end of input is said by [`RunStdin::close`], and by [`Run::wait`] and
    /// [`Run::wait_with_output`] where nobody took it out; not by dropping it.
    ///
    /// Whoever writes to the input at the same time has its bytes between these. A repetition after a broken connection is exact as long as
    /// only one writes.
    pub fn input(mut self) -> Self {
        self.input = true;
        self
    }

    /// Attaches.
    ///
    /// # Errors
    /// [`Error::NotFound`] and the other refusals of a call; [`Error::Invalid`] for a number of an event that is yet to come by more than one.
    pub async fn start(self) -> Result<Run, Error> {
        let Self {
            client,
            run_id,
            position,
            input,
        } = self;
        let info = retry(client.reconnect, || client.get(run_id.as_str())).await?;
        let begin = match position {
            Position::Start => start(run_id, 0, None),
            Position::Seq(seq) => start(run_id, seq, None),
            // By its number, so that a broken connection before the first event passes nothing over.
            Position::Now => start(run_id, info.last_seq + 1, None),
            Position::Offsets { stdout, stderr } => {
                start(run_id, 0, Some(WirePosition::Offsets(StreamOffsets { stdout, stderr })))
            }
            Position::Tail(bytes) => tail(run_id, bytes, info.output_bytes),
            Position::TailOf { bytes, stdout, stderr } => tail(run_id, bytes, Some(StreamOffsets { stdout, stderr })),
        };
        if position == Position::Now && info.finished.is_some() {
            // Nothing happens from now on but the end, which is told.
            return Self::follow(client, start(begin.run_id, info.last_seq, None), &info, false).await;
        }
        Self::follow(client, begin, &info, input).await
    }

    async fn follow(client: Client, begin: AttachStart, info: &RunInfo, input: bool) -> Result<Run, Error> {
        let handle = retry(client.reconnect, || client.attach_at(begin.clone())).await?;
        let mut driver = Driver::new(client, begin, handle);
        driver.kept = Kept::from(info.input_bytes, info.output_bytes.is_some());
        Ok(Run::launch(driver, input, false, None, false))
    }
}

/// A run in hand. Its events are taken one after the other; nothing is lost while nobody takes them but what the daemon does not keep, and
/// that is told by a gap.
///
/// Dropping it ends the following. What becomes of a run that was started by this handle then, [`crate::Command::on_disconnect`] and
/// [`crate::Command::kill_on_drop`] say; a run that was attached to goes on.
#[derive(Debug)]
pub struct Run {
    id: String,
    client: Client,
    // Before the input: who drops all of it wants no end of input said.
    events: mpsc::Receiver<Result<RunEvent, Error>>,
    /// The command's input, when it has one: to be taken by whoever writes it. Of a run started here, dropping it is the end of input.
    pub stdin: Option<RunStdin>,
    control: mpsc::Sender<Input>,
    kill_on_drop: Arc<AtomicBool>,
    readers: Arc<Readers>,
    /// Of a run that was started here.
    on_disconnect: Option<OnDisconnect>,
    finished: Option<Finished>,
    last_seq: u64,
    failed: bool,
}

impl Run {
    fn launch(
        mut driver: Driver,
        input: bool,
        end_is_eof: bool,
        on_disconnect: Option<OnDisconnect>,
        kill_on_drop: bool,
    ) -> Self {
        let (events_to, events) = mpsc::channel(EVENTS);
        let (control, control_from) = mpsc::channel(SIZES);
        let (stdin, stdin_from) = input
            .then(|| mpsc::channel(PIECES))
            .map_or((None, None), |(to, from)| (Some(RunStdin::to(to)), Some(from)));
        let kill_on_drop = Arc::new(AtomicBool::new(kill_on_drop));
        driver.kill_on_drop = Arc::clone(&kill_on_drop);
        let run = Self {
            id: driver.run_id.clone(),
            client: driver.client.clone(),
            events,
            stdin,
            control,
            kill_on_drop,
            readers: Arc::clone(&driver.readers),
            on_disconnect,
            finished: None,
            last_seq: 0,
            failed: false,
        };
        let says = Says {
            stdin: stdin_from,
            end_is_eof,
            control: control_from,
        };
        tokio::spawn(driver.drive(says, events_to));
        run
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next event; none after `finished`, which comes exactly once and last, and none after an error.
    ///
    /// May be dropped while it waits (in `tokio::select!`) without losing an event.
    ///
    /// # Errors
    /// [`Error::GivenUp`] when the connection broke and could not be made again, [`Error::RunLost`] when it could and the run was gone;
    /// what the daemon says otherwise. With [`crate::Reconnect::never`], the break itself.
    pub async fn next(&mut self) -> Result<Option<RunEvent>, Error> {
        let event = self.events.recv().await;
        self.note(event)
    }

    fn note(&mut self, event: Option<Result<RunEvent, Error>>) -> Result<Option<RunEvent>, Error> {
        match event {
            Some(Ok(event)) => {
                self.last_seq = last_seq_of(&event);
                if let Some(Event::Finished(finished)) = &event.event {
                    self.finished = Some(finished.clone());
                }
                Ok(Some(event))
            }
            Some(Err(error)) => {
                self.failed = true;
                Err(error)
            }
            None if self.finished.is_some() || self.failed => Ok(None),
            // The task ended without a word: its runtime is being shut down.
            None => Err(Error::Interrupted),
        }
    }

    /// The number of the last event taken, or that a gap stood for; 0 before the first.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// What the last event says, once it was taken: usage, denials, ending.
    #[must_use]
    pub fn finished(&self) -> Option<&Finished> {
        self.finished.as_ref()
    }

    /// Takes events to the last one and tells how the run ended. Its output is passed over: to have it, use
    /// [`wait_with_output`](Self::wait_with_output), or read [`stdout`](Self::stdout) before or meanwhile. Input that was not taken out of
    /// [`stdin`](Self::stdin) is closed first, so that a command does not wait for it.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn wait(&mut self) -> Result<ExitStatus, Error> {
        self.close_stdin();
        while self.next().await?.is_some() {}
        self.finished.as_ref().map(ExitStatus::of).ok_or(Error::Interrupted)
    }

    /// Says the end of input that nobody took out.
    fn close_stdin(&mut self) {
        match self.stdin.take() {
            // Here it must be said, behind what waits before it; and that goes only as the events are taken.
            Some(stdin) if self.on_disconnect.is_none() => drop(tokio::spawn(stdin.close())),
            dropped => drop(dropped),
        }
    }

    /// How the run ended, if it is over; asks the daemon, and takes no events.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn try_wait(&self) -> Result<Option<ExitStatus>, Error> {
        let finished = match &self.finished {
            Some(finished) => Some(finished.clone()),
            None => self.info().await?.finished,
        };
        Ok(finished.as_ref().map(ExitStatus::of))
    }

    /// Takes everything to the end. Of each stream at most `limit` bytes are kept, half from its beginning and half from its end; how many
    /// there were between is told.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn wait_with_output(mut self, limit: usize) -> Result<Output, Error> {
        self.close_stdin();
        let mut stdout = Capture::new(limit);
        let mut stderr = Capture::new(limit);
        while let Some(event) = self.next().await? {
            match event.event {
                Some(Event::Output(output)) if output.stream() == OutputStream::Stderr => {
                    stderr.push(output.offset, &output.data);
                }
                Some(Event::Output(output)) => stdout.push(output.offset, &output.data),
                Some(Event::Closed(closed)) if closed.stream() == OutputStream::Stderr => {
                    stderr.end(closed.total_bytes)
                }
                Some(Event::Closed(closed)) => stdout.end(closed.total_bytes),
                _ => {}
            }
        }
        let finished = self.finished.take().ok_or(Error::Interrupted)?;
        Ok(Output::of(finished, stdout, stderr))
    }

    /// Its state, as the daemon knows it.
    ///
    /// # Errors
    /// The refusals of a call.
    pub async fn info(&self) -> Result<RunInfo, Error> {
        self.client.get(self.id.as_str()).await
    }

    /// Ends the run with SIGKILL, all of its processes, and returns when none is left. For a gentler end, [`Client::kill`].
    ///
    /// # Errors
    /// The refusals of a call. That it had ended by itself is none.
    pub async fn kill(&mut self) -> Result<ExitStatus, Error> {
        let info = self.client.kill(self.id.as_str(), Some(Duration::ZERO), "").await?;
        info.finished.as_ref().map(ExitStatus::of).ok_or(Error::Interrupted)
    }

    /// Sends a signal, 1 to 64. It overtakes input that the command has not read.
    ///
    /// # Errors
    /// [`Error::Precondition`] when the command is not running.
    pub async fn signal(&self, signal: i32, scope: SignalScope) -> Result<(), Error> {
        self.client.signal(self.id.as_str(), signal, scope).await
    }

    /// Tells the terminal that it has a new size, of characters; for a run with a terminal. A refusal comes with the events.
    ///
    /// # Errors
    /// [`Error::InputClosed`] when the run is over.
    pub async fn resize(&self, rows: u32, columns: u32) -> Result<(), Error> {
        let size = Input::Resize(TerminalSize { rows, columns });
        self.control.send(size).await.map_err(|_| Error::InputClosed)
    }

    /// Lets go of the run, which goes on: with [`OnDisconnect::Keep`] until it ends by itself, with [`OnDisconnect::Linger`] until nobody
    /// has followed it for so long. Its input stays open. Gives the id, by which [`Client::attach`] finds it.
    ///
    /// # Errors
    /// The run itself, where it was started to be killed when its starter lets go: it is still followed.
    pub fn detach(mut self) -> Result<String, Box<Self>> {
        if let Some(OnDisconnect::Kill | OnDisconnect::Unspecified) = self.on_disconnect
            && self.finished.is_none()
        {
            return Err(Box::new(self));
        }
        self.kill_on_drop.store(false, Ordering::Relaxed);
        self.events.close();
        Ok(self.id)
    }

    /// Reads its standard output from the beginning, independently of the events and of other readers: over an attachment of its own.
    ///
    /// With [`FlowControl::Block`] a reader holds the command back as the events do, and nobody has to take these meanwhile: output that
    /// all readers of its stream have had, and that of a stream without one, waits for [`next`](Self::next) no longer than there is
    /// room (some MiB). Where it is passed over, a gap stands for it in the events.
    ///
    /// # Errors
    /// As attaching.
    pub async fn stdout(&self) -> Result<OutputReader, Error> {
        self.reader(OutputStream::Stdout).await
    }

    /// Reads its standard error, as [`stdout`](Self::stdout).
    ///
    /// # Errors
    /// As attaching.
    pub async fn stderr(&self) -> Result<OutputReader, Error> {
        self.reader(OutputStream::Stderr).await
    }

    async fn reader(&self, stream: OutputStream) -> Result<OutputReader, Error> {
        let reading = self.readers.enter(stream);
        Ok(OutputReader {
            run: self.client.attach(self.id.as_str()).start().await?,
            stream,
            offset: 0,
            piece: Bytes::new(),
            ended: false,
            reading,
        })
    }
}

impl Stream for Run {
    type Item = Result<RunEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.events.poll_recv(context));
        Poll::Ready(self.note(event).transpose())
    }
}

type Room = Pin<Box<dyn Future<Output = Option<mpsc::OwnedPermit<Stdin>>> + Send + Sync>>;

/// The input of a run. It takes no more than a MiB ahead of what the daemon has taken.
pub struct RunStdin {
    to: Option<mpsc::Sender<Stdin>>,
    room: Option<Room>,
}

impl std::fmt::Debug for RunStdin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunStdin")
            .field("open", &self.to.is_some())
            .finish_non_exhaustive()
    }
}

impl RunStdin {
    fn to(to: mpsc::Sender<Stdin>) -> Self {
        Self {
            to: Some(to),
            room: None,
        }
    }

    /// Writes all of it, waiting while the daemon does not take it. Dropping the future may leave the last part unwritten.
    ///
    /// # Errors
    /// [`Error::InputClosed`] when the run takes no more; its events say why.
    pub async fn send(&mut self, data: impl Into<Bytes>) -> Result<(), Error> {
        let mut data: Bytes = data.into();
        let to = self.to.as_ref().ok_or(Error::InputClosed)?;
        while !data.is_empty() {
            let piece = Stdin {
                data: data.split_to(data.len().min(MAX_STDIN_BYTES)),
                ..Stdin::default()
            };
            to.send(piece).await.map_err(|_| Error::InputClosed)?;
        }
        Ok(())
    }

    /// Closes the input: the command reads the end of file after what was written.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn close(self) -> Result<(), Error> {
        let to = self.to.as_ref().ok_or(Error::InputClosed)?;
        let end = Stdin {
            eof: true,
            ..Stdin::default()
        };
        to.send(end).await.map_err(|_| Error::InputClosed)
    }

    fn poll_say(&mut self, context: &mut Context<'_>, stdin: impl FnOnce() -> Stdin) -> Poll<io::Result<()>> {
        let Some(to) = &self.to else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let room = self.room.get_or_insert_with(|| {
            let to = to.clone();
            Box::pin(async move { to.reserve_owned().await.ok() })
        });
        let permit = ready!(room.as_mut().poll(context));
        self.room = None;
        match permit {
            Some(permit) => {
                permit.send(stdin());
                Poll::Ready(Ok(()))
            }
            None => {
                self.to = None;
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
        }
    }
}

impl AsyncWrite for RunStdin {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let piece = bytes.get(..bytes.len().min(MAX_STDIN_BYTES)).unwrap_or(bytes);
        if piece.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let said = self.poll_say(context, || Stdin {
            data: Bytes::copy_from_slice(piece),
            ..Stdin::default()
        });
        said.map_ok(|()| piece.len())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.to.is_none() {
            return Poll::Ready(Ok(()));
        }
        let said = ready!(self.poll_say(context, || Stdin {
            eof: true,
            ..Stdin::default()
        }));
        self.to = None;
        Poll::Ready(said)
    }
}

/// Bytes of a stream that its reader came too late for: they are no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes of the output, from byte {offset} on, are no longer kept")]
pub struct LostOutput {
    /// Where the first of them was.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
}

/// A piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, and the number of bytes before them.
    Data(u64, Bytes),
    /// What is not there any more.
    Lost(LostOutput),
}

/// Reads one output stream of a run, to its end. Bytes that are no longer kept are an error of [`AsyncRead`] whose inner error is
/// [`LostOutput`]; reading on goes on behind them.
#[derive(Debug)]
pub struct OutputReader {
    run: Run,
    stream: OutputStream,
    offset: u64,
    piece: Bytes,
    ended: bool,
    reading: Reading,
}

impl OutputReader {
    /// The next piece; none at the end of the stream.
    ///
    /// # Errors
    /// As [`Run::next`].
    pub async fn next(&mut self) -> Result<Option<Piece>, Error> {
        std::future::poll_fn(|context| self.poll_piece(context)).await
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Piece>, Error>> {
        loop {
            if !self.piece.is_empty() {
                let data = std::mem::take(&mut self.piece);
                let at = self.offset;
                self.offset += data.len() as u64;
                self.reading.moved_to(self.offset);
                return Poll::Ready(Ok(Some(Piece::Data(at, data))));
            }
            if self.ended {
                self.reading.moved_to(u64::MAX);
                return Poll::Ready(Ok(None));
            }
            let next = ready!(Pin::new(&mut self.run).poll_next(context)).transpose()?;
            let begins = match next.and_then(|event| event.event) {
                Some(Event::Output(output)) if output.stream() == self.stream => {
                    self.piece = output.data;
                    output.offset
                }
                Some(Event::Closed(closed)) if closed.stream() == self.stream => {
                    self.ended = true;
                    closed.total_bytes
                }
                Some(Event::Finished(_)) | None => {
                    self.ended = true;
                    continue;
                }
                Some(_) => continue,
            };
            if begins > self.offset {
                let lost = LostOutput {
                    offset: self.offset,
                    bytes: begins - self.offset,
                };
                self.offset = begins;
                self.reading.moved_to(begins);
                return Poll::Ready(Ok(Some(Piece::Lost(lost))));
            }
        }
    }
}

impl AsyncRead for OutputReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_piece(context)).map_err(io::Error::other)? {
            None => Poll::Ready(Ok(())),
            Some(Piece::Lost(lost)) => Poll::Ready(Err(io::Error::other(lost))),
            Some(Piece::Data(at, mut data)) => {
                let part = data.len().min(buffer.remaining());
                buffer.put_slice(data.get(..part).unwrap_or_default());
                data.advance(part);
                self.offset = at + part as u64;
                self.piece = data;
                Poll::Ready(Ok(()))
            }
        }
    }
}
