//! Files as a sandbox shows them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use fumehood_proto::v1::write_file_request::Message;
use fumehood_proto::v1::{
    FileInfo, FilesView as WireView, ListDirectoryRequest, ListDirectoryResponse, MakeDirectoryRequest,
    MakeDirectoryResponse, PolicyReference, ReadFileRequest, ReadFileResponse, RemoveRequest, RenameRequest,
    StatRequest, WorkspaceView, WriteFileEnd, WriteFileRequest, WriteFileResponse, WriteFileStart, WriteMode,
    files_view::View,
};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::Streaming;

use crate::client::Client;
use crate::command;
use crate::error::Error;

/// Most bytes of contents in one message.
const DATA_BYTES: usize = 256 * 1024;

/// Messages of contents that wait for the connection; beyond it, writers wait.
const WRITE_QUEUE: usize = 2;

/// Entries that are asked for at once.
const PAGE: u32 = 1000;

/// Variables of this process that say what a run's view depends on.
const VIEW_VARIABLES: [&str; 2] = ["HOME", "XDG_CONFIG_HOME"];

impl Client {
    /// Files as a sandbox shows them: what a command could do to them, without a command.
    ///
    /// ```no_run
    /// use fumehood_client::{Client, FilesView};
    ///
    /// # async fn example(client: Client) -> Result<(), fumehood_client::Error> {
    /// let files = client.files(FilesView::workspace("/home/me/project"));
    /// files.write("notes/today.md", "buy milk\n").parents().await?;
    /// for file in files.list("notes").await? {
    ///     println!("{} {}", file.size, String::from_utf8_lossy(&file.name));
    /// }
    /// let text = files.read("notes/today.md").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// What is wrong with a file is [`Error::File`]:
    ///
    /// ```no_run
    /// # use fumehood_client::{Client, Error, FilesView};
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// # let files = client.files(FilesView::workspace("/home/me/project"));
    /// match files.read(".env").await {
    ///     Err(Error::File(error)) if error.kind() == std::io::ErrorKind::NotFound => println!("there is none"),
    ///     result => println!("{} bytes", result?.len()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn files(&self, view: FilesView) -> Files {
        Files {
            client: self.clone(),
            view,
        }
    }
}

/// In which sandbox files are seen.
#[derive(Debug, Clone)]
pub struct FilesView(Seen);

#[derive(Debug, Clone)]
enum Seen {
    Session(String),
    Workspace {
        directory: PathBuf,
        policy: Option<PolicyReference>,
    },
}

impl FilesView {
    /// In a session: also what its runs left in `/tmp` and the home directory. Relative paths begin where its next shell line does.
    pub fn session(id: impl Into<String>) -> FilesView {
        FilesView(Seen::Session(id.into()))
    }

    /// As a run with this workspace would, in a sandbox made for each call. Relative paths begin there.
    pub fn workspace(directory: impl Into<PathBuf>) -> FilesView {
        FilesView(Seen::Workspace {
            directory: directory.into(),
            policy: None,
        })
    }

    /// The policy of such a run, by the name under which the daemon knows it; of a session it is the session's own.
    #[must_use]
    pub fn policy(self, name: impl Into<String>) -> FilesView {
        self.policy_reference(command::named_policy(name.into()))
    }

    /// The same, as the wire has it.
    #[must_use]
    pub fn policy_reference(mut self, reference: PolicyReference) -> FilesView {
        if let Seen::Workspace { policy, .. } = &mut self.0 {
            *policy = Some(reference);
        }
        self
    }

    fn to_wire(&self) -> Result<Option<WireView>, Error> {
        let view = match &self.0 {
            Seen::Session(id) => View::Session(id.clone()),
            Seen::Workspace { directory, policy } => {
                let (workspace, _) = command::places(Some(directory), None)?;
                let own = VIEW_VARIABLES.into_iter();
                View::Workspace(WorkspaceView {
                    workspace,
                    policy: policy.clone(),
                    caller_env: own
                        .filter_map(|name| Some(command::variable(name, std::env::var_os(name)?)))
                        .collect(),
                })
            }
        };
        Ok(Some(WireView { view: Some(view) }))
    }
}

/// Files as a sandbox shows them. Paths are absolute or relative to the view's directory; no call but those that read and write
/// contents takes longer than a command would, and each is made once.
#[derive(Debug, Clone)]
pub struct Files {
    client: Client,
    view: FilesView,
}

impl Files {
    /// What a path leads to.
    ///
    /// # Errors
    /// [`Error::File`], and the refusals of a call; so of all calls here.
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<FileInfo, Error> {
        self.stat_as(path.as_ref(), true).await
    }

    /// What a path is: of a symbolic link at its end, the link.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn stat_link(&self, path: impl AsRef<Path>) -> Result<FileInfo, Error> {
        self.stat_as(path.as_ref(), false).await
    }

    async fn stat_as(&self, path: &Path, follow: bool) -> Result<FileInfo, Error> {
        let request = StatRequest {
            view: self.view.to_wire()?,
            path: command::bytes(path),
            follow,
        };
        let answer = self.client.files.clone().stat(request).await?.into_inner();
        Ok(answer.file.unwrap_or_default())
    }

    /// What is in a directory, in the order of names as bytes. All of it: a directory of a million files is some 100 MB;
    /// [`list_page`](Self::list_page) gives parts.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn list(&self, path: impl AsRef<Path>) -> Result<Vec<FileInfo>, Error> {
        let mut all = Vec::new();
        let mut token = Bytes::new();
        loop {
            let page = self.list_page(path.as_ref(), PAGE, token).await?;
            all.extend(page.entries);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            token = page.next_page_token;
        }
    }

    /// A page of a directory: at most `size` entries (0: 1,000), behind the page that gave `token` (empty: the first).
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn list_page(
        &self,
        path: impl AsRef<Path>,
        size: u32,
        token: Bytes,
    ) -> Result<ListDirectoryResponse, Error> {
        let request = ListDirectoryRequest {
            view: self.view.to_wire()?,
            path: command::bytes(path.as_ref()),
            page_size: size,
            page_token: token,
        };
        Ok(self.client.files.clone().list_directory(request).await?.into_inner())
    }

    /// The whole contents of a file, in memory.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        let mut reader = self.open(path).await?;
        let mut contents = Vec::new();
        while let Some(data) = reader.next().await? {
            contents.extend_from_slice(&data);
        }
        Ok(contents)
    }

    /// A file to be read bit by bit.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn open(&self, path: impl AsRef<Path>) -> Result<FileReader, Error> {
        self.open_at(path, 0, None).await
    }

    /// The same from byte `offset` on, and at most `length` bytes.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn open_at(&self, path: impl AsRef<Path>, offset: u64, length: Option<u64>) -> Result<FileReader, Error> {
        let request = ReadFileRequest {
            view: self.view.to_wire()?,
            path: command::bytes(path.as_ref()),
            offset,
            length,
        };
        let mut parts = self.client.files.clone().read_file(request).await?.into_inner();
        let first = parts.message().await?.unwrap_or_default();
        Ok(FileReader {
            info: first.file.unwrap_or_default(),
            parts,
            data: first.data,
        })
    }

    /// A file with these contents: awaited, it makes the file, or puts it atomically in the place of the one that is there. See [`Writing`].
    pub fn write(&self, path: impl AsRef<Path>, contents: impl Into<Bytes>) -> Writing {
        let mut writing = self.writer(path);
        writing.contents = contents.into();
        writing
    }

    /// The same with contents that come bit by bit: see [`Writing::start`] and [`Writing::copy_from`].
    pub fn writer(&self, path: impl AsRef<Path>) -> Writing {
        Writing {
            files: self.clone(),
            start: WriteFileStart {
                view: None,
                path: command::bytes(path.as_ref()),
                mode: WriteMode::Replace.into(),
                permissions: None,
                parents: false,
                sync: false,
            },
            contents: Bytes::new(),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn make_directory(&self, path: impl AsRef<Path>) -> Result<MakeDirectoryResponse, Error> {
        self.make(path.as_ref(), None, false).await
    }

    /// Makes a directory and those above it that are missing; one that is there is no error.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn make_directories(&self, path: impl AsRef<Path>) -> Result<MakeDirectoryResponse, Error> {
        self.make(path.as_ref(), None, true).await
    }

    /// As the wire has it: with permission bits, 0 to 0o777.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn make(
        &self,
        path: &Path,
        permissions: Option<u32>,
        parents: bool,
    ) -> Result<MakeDirectoryResponse, Error> {
        let request = MakeDirectoryRequest {
            view: self.view.to_wire()?,
            path: command::bytes(path),
            permissions,
            parents,
        };
        Ok(self.client.files.clone().make_directory(request).await?.into_inner())
    }

    /// Removes a file, a symbolic link or an empty directory.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn remove(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.remove_as(path.as_ref(), false).await.map(drop)
    }

    /// Removes a directory with all that is in it, or a file. How many went.
    ///
    /// # Errors
    /// As [`stat`](Self::stat); [`FileError::removed`] says how many had gone by then.
    pub async fn remove_all(&self, path: impl AsRef<Path>) -> Result<u64, Error> {
        self.remove_as(path.as_ref(), true).await
    }

    async fn remove_as(&self, path: &Path, recursive: bool) -> Result<u64, Error> {
        let request = RemoveRequest {
            view: self.view.to_wire()?,
            path: command::bytes(path),
            recursive,
        };
        Ok(self.client.files.clone().remove(request).await?.into_inner().removed)
    }

    /// Gives a file or directory another name; what has that is replaced.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), Error> {
        self.rename_as(from.as_ref(), to.as_ref(), false).await
    }

    /// Gives a file or directory a name that nothing has yet.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub async fn rename_new(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), Error> {
        self.rename_as(from.as_ref(), to.as_ref(), true).await
    }

    async fn rename_as(&self, from: &Path, to: &Path, keep_existing: bool) -> Result<(), Error> {
        let request = RenameRequest {
            view: self.view.to_wire()?,
            from: command::bytes(from),
            to: command::bytes(to),
            keep_existing,
        };
        self.client.files.clone().rename(request).await?;
        Ok(())
    }
}

/// A file that is read. Also an [`AsyncRead`], whose errors carry an [`Error`].
#[derive(Debug)]
pub struct FileReader {
    info: FileInfo,
    parts: Streaming<ReadFileResponse>,
    data: Bytes,
}

impl FileReader {
    /// What the file is.
    #[must_use]
    pub fn info(&self) -> &FileInfo {
        &self.info
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`Error::File`], and what can go wrong with a call. What came before it is part of the file.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.data.is_empty() {
            match self.parts.message().await? {
                Some(part) => self.data = part.data,
                None => return Ok(None),
            }
        }
        Ok(Some(std::mem::take(&mut self.data)))
    }
}

impl AsyncRead for FileReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.data.is_empty() {
            match ready!(Pin::new(&mut this.parts).poll_next(cx)) {
                Some(Ok(part)) => this.data = part.data,
                Some(Err(status)) => return Poll::Ready(Err(Error::from(status).into_io())),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = this.data.len().min(buffer.remaining());
        buffer.put_slice(&this.data[..length]);
        this.data.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// How a file is to be written. Awaiting it writes what [`Files::write`] was given.
#[derive(Debug, Clone)]
#[must_use = "nothing is written before it is awaited, or `start` or `copy_from` is called"]
pub struct Writing {
    files: Files,
    start: WriteFileStart,
    contents: Bytes,
}

impl Writing {
    /// Only where nothing is yet.
    pub fn create_new(mut self) -> Self {
        self.start.mode = WriteMode::Create.into();
        self
    }

    /// Behind what is there, once all of it has come; up to 4 MiB in one go, so that nobody else's comes between. Where the disk is full before
    /// its end, [`FileError::appended`] says how much of it is there.
    pub fn append(mut self) -> Self {
        self.start.mode = WriteMode::Append.into();
        self
    }

    /// Permission bits of a new file, 0 to 0o777. Unset: 0o644.
    pub fn permissions(mut self, bits: u32) -> Self {
        self.start.permissions = Some(bits);
        self
    }

    /// Makes missing directories above it.
    pub fn parents(mut self) -> Self {
        self.start.parents = true;
        self
    }

    /// Has it on disk before the call returns.
    pub fn sync(mut self) -> Self {
        self.start.sync = true;
        self
    }

    /// Begins: contents are given to the writer, and [`FileWriter::finish`] makes a file of them.
    ///
    /// # Errors
    /// [`Error::Workspace`]. What the daemon refuses is said later.
    pub fn start(self) -> Result<FileWriter, Error> {
        let mut start = self.start;
        start.view = self.files.view.to_wire()?;
        let (sender, receiver) = mpsc::channel(WRITE_QUEUE);
        let first = Message::Write(start);
        let messages = Messages {
            first: Some(first),
            receiver,
            sent: Some(0),
        };
        let mut client = self.files.client.files.clone();
        let answer = tokio::spawn(async move { Ok(client.write_file(messages).await?.into_inner()) });
        Ok(FileWriter {
            sender,
            answer: Some(answer),
        })
    }

    /// Writes all that a reader gives.
    ///
    /// # Errors
    /// As of [`Files::stat`]; [`Error::Contents`] when reading fails: then nothing is written.
    pub async fn copy_from(self, reader: &mut (impl AsyncRead + Unpin)) -> Result<WriteFileResponse, Error> {
        let mut writer = self.start()?;
        let mut buffer = bytes::BytesMut::new();
        loop {
            buffer.reserve(DATA_BYTES);
            match reader.read_buf(&mut buffer).await {
                Ok(0) => return writer.finish().await,
                Ok(_) => writer.send(buffer.split().freeze()).await?,
                Err(source) => return Err(Error::Contents { source }),
            }
        }
    }
}

impl IntoFuture for Writing {
    type Output = Result<WriteFileResponse, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let contents = std::mem::take(&mut self.contents);
            let mut writer = self.start()?;
            writer.send(contents).await?;
            writer.finish().await
        })
    }
}

/// A file that is being written. Dropped before it is [finished](Self::finish), nothing is.
#[derive(Debug)]
pub struct FileWriter {
    sender: mpsc::Sender<Piece>,
    /// `None` once it was told.
    answer: Option<JoinHandle<Result<WriteFileResponse, Error>>>,
}

/// What goes to the connection.
#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

impl FileWriter {
    /// Gives the next bytes. Waits while the daemon is behind.
    ///
    /// # Errors
    /// Why the daemon takes no more.
    pub async fn send(&mut self, data: impl Into<Bytes>) -> Result<(), Error> {
        let mut data = data.into();
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(DATA_BYTES));
            if self.sender.send(Piece::Data(piece)).await.is_err() {
                return self.answer().await.map(drop);
            }
        }
        Ok(())
    }

    /// Says that these were all, and waits until the file is there.
    ///
    /// # Errors
    /// As of [`Files::stat`].
    pub async fn finish(mut self) -> Result<WriteFileResponse, Error> {
        // Whether it was taken, the answer says.
        let _ = self.sender.send(Piece::End).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<WriteFileResponse, Error> {
        let failed = |message: String| Error::Internal {
            code: tonic::Code::Internal,
            message,
        };
        let Some(task) = &mut self.answer else {
            return Err(failed("the write has failed already".to_owned()));
        };
        let answer = task.await;
        self.answer = None;
        answer.unwrap_or_else(|error| Err(failed(error.to_string())))
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if let Some(task) = &self.answer {
            task.abort();
        }
    }
}

/// The messages of a write. Without [`Piece::End`] they never end: the call is broken off then.
struct Messages {
    first: Option<Message>,
    receiver: mpsc::Receiver<Piece>,
    /// Bytes so far; `None` once the end was said.
    sent: Option<u64>,
}

impl Stream for Messages {
    type Item = WriteFileRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WriteFileRequest>> {
        let message = |message| Poll::Ready(Some(WriteFileRequest { message: Some(message) }));
        if let Some(first) = self.first.take() {
            return message(first);
        }
        let Some(sent) = self.sent else {
            return Poll::Ready(None);
        };
        match ready!(self.receiver.poll_recv(cx)) {
            Some(Piece::Data(data)) => {
                self.sent = Some(sent + data.len() as u64);
                message(Message::Data(data))
            }
            Some(Piece::End) => {
                self.sent = None;
                message(Message::End(WriteFileEnd { bytes: sent }))
            }
            None => Poll::Pending,
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// The daemon's words: path, operation and error.
    pub message: String,
    /// The kernel's error number, as [`std::io::Error::raw_os_error`] has it.
    pub errno: i32,
    /// The error's name: `ENOENT`.
    pub name: String,
    /// What was being done: `open`.
    pub operation: String,
    /// The path it is about, as it was given, with what lies below it; of one longer than some 2,000 bytes, the end.
    pub path: PathBuf,
    /// The rule that protects the path, where that is why.
    pub rule: Option<String>,
    /// How many files and directories had been removed by then.
    pub removed: u64,
    /// How many bytes had been appended by then.
    pub appended: u64,
}

impl FileError {
    /// What kind of error it is, as the standard library sorts them.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        io::Error::from_raw_os_error(self.errno).kind()
    }

    /// From the details of a status; `None` where they are not about a file.
    pub(crate) fn of(message: &str, info: &tonic_types::ErrorInfo) -> Option<FileError> {
        let about = |key: &str| info.metadata.get(key).cloned();
        let count = |key: &str| about(key).and_then(|count| count.parse().ok()).unwrap_or(0);
        Some(FileError {
            message: message.to_owned(),
            errno: about("errno")?.parse().ok()?,
            name: info.reason.clone(),
            operation: about("operation").unwrap_or_default(),
            path: unescaped(&about("path").unwrap_or_default()),
            rule: about("rule"),
            removed: count("removed"),
            appended: count("appended"),
        })
    }
}

/// The bytes of a path that was made printable: `\xNN` and `\\`.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let number = || {
            let digits = more.strip_prefix(b"x")?.get(..2)?;
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (byte, taken) = match (first, number()) {
            (b'\\', Some(byte)) => (byte, 4),
            (b'\\', None) if more.first() == Some(&b'\\') => (b'\\', 2),
            _ => (first, 1),
        };
        bytes.push(byte);
        rest = &rest[taken..];
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};

    #[test]
    fn what_is_wrong_with_a_file_is_typed() {
        let about = [("errno", "2"), ("operation", "open"), ("path", "/a\\\\b\\xffc")];
        let about = about.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let details = ErrorDetails::with_error_info("ENOENT", "fumehood", std::collections::HashMap::from(about));
        let status = Status::with_error_details(Code::NotFound, "/a: open: no", details);
        let Error::File(error) = Error::from(status) else {
            panic!("not a file's error")
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!((error.name.as_str(), error.operation.as_str()), ("ENOENT", "open"));
        assert_eq!(error.path.as_os_str().as_bytes(), b"/a\\b\xffc");
        assert_eq!(Error::File(error).into_io().kind(), io::ErrorKind::NotFound);
    }
}
