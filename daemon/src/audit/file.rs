//! The log as a file: opened and locked, its tail verified and mended, records appended and made durable.

use std::borrow::Cow;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::chain::{Broken, Expect};
use super::head;
use super::record::{
    ApprovalInterrupted, Entry, Interrupted, LogContinued, LogOpened, MAX_LINE_BYTES, RecordRef, SessionInterrupted,
    now,
};
use super::verify::{Scan, Stop};

/// How long opening waits for the lock: `audit verify` asks for it for a moment.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Why the log could not be opened. The daemon does not start without its log when the configuration requires one.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is no absolute path of a file.
    #[error("{} is not the absolute path of a file", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The directory can be changed by others.
    #[error("the directory {} belongs to uid {uid} and has mode {mode:04o}: others could replace the log; make it yours with mode 0700", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// The path is a FIFO, a device, a directory, a symbolic link, another user's file, or has another name too.
    #[error("{} is {what}; the audit log must be a regular file of the daemon's own with one name", path.display())]
    NotALog {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Another daemon writes this log.
    #[error("another daemon writes {}; give this one an audit.path of its own", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The log is not what was written.
    #[error("{0}; keep the file as evidence: move it and its .head away, and a new log is begun")]
    Broken(Broken),
    /// The first records could not be written.
    #[error("the audit log cannot be written")]
    Append(#[source] AuditError),
}

/// Why a record was not written. Whatever the reason, nothing of it is in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// The disk is full, a quota or file size limit is reached, or writing failed otherwise. Tried anew with the next record.
    #[error("cannot write the audit log {}", path.display())]
    Write {
        /// The log.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The file at the path is no longer the log that is open.
    #[error("the audit log {} was removed, renamed or replaced; put it back, or restart the daemon to begin a new one", path.display())]
    Replaced {
        /// The log.
        path: PathBuf,
    },
    /// Something else than this daemon changed the file.
    #[error("the audit log {} was changed by someone else: {what}", path.display())]
    Changed {
        /// The log.
        path: PathBuf,
        /// What changed.
        what: String,
    },
    /// The disk could not make the data durable, or a failed write could not be taken back: what the file holds is unknown.
    #[error("the audit log {} can no longer be trusted to reach the disk; check the disk and restart the daemon", path.display())]
    Unsafe {
        /// The log.
        path: PathBuf,
        /// What failed.
        source: Arc<io::Error>,
    },
    /// The record is longer than a line may be.
    #[error("the record is {bytes} bytes long; a record has at most {MAX_LINE_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A value has no JSON form.
    #[error("the record cannot be encoded: {0}")]
    Encode(String),
    /// The writer has ended: the log was closed.
    #[error("the audit log is closed")]
    Closed,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The runs of an earlier daemon that were closed as `interrupted`.
    pub interrupted: Vec<String>,
    /// Bytes of a half-written last line that were cut off.
    pub dropped_bytes: u64,
    /// First and last record that are missing at the end, when `audit.head` knew more than the file holds.
    pub missing_seq: Option<[u64; 2]>,
}

/// The open log.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    head: File,
    path: PathBuf,
    /// This life of the daemon.
    instance: String,
    /// The instance that opened or continued the log last: records without an instance are its own.
    latest: String,
    /// Whether other daemons write to it too: each adds to what is there then.
    shared: bool,
    /// What is to be written before anything else.
    first: Option<Entry>,
    /// Length of the records that are durable, in bytes.
    len: u64,
    expect: Expect,
    /// Set when the file's content is unknown: nothing is written any more.
    failed: Option<AuditError>,
}

impl LogFile {
    /// Opens or creates the log, cuts off a torn last line, closes the runs of a daemon that died, and notes the opening.
    pub fn open(path: &Path, instance: &str) -> Result<(LogFile, Opened), OpenError> {
        if !path.is_absolute() || path.file_name().is_none() || path == head::path_of(path) {
            return Err(OpenError::Path { path: path.to_owned() });
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        private_directory(directory)?;
        let file = open_file(path)?;
        lock(&file, path)?;
        LogFile::begin(file, path, instance, None)
    }

    /// Goes on with a log that a living daemon, of instance `before`, writes to as well and has handed over: the `file` is the one that it has
    /// open, with its lock. Nobody's runs are closed, and nothing is written yet: the first record will be preceded by one that says so, and
    /// may come only when the other daemon shares the log.
    pub fn take_over(file: File, path: &Path, instance: &str, before: &str) -> Result<(LogFile, Opened), OpenError> {
        LogFile::begin(file, path, instance, Some(before))
    }

    fn begin(file: File, path: &Path, instance: &str, before: Option<&str>) -> Result<(LogFile, Opened), OpenError> {
        let io = |what| {
            move |source| OpenError::Io {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        // The daemon that held the lock may have been told to use another file since this one was opened.
        if !is_same_file(&file, path).map_err(io("look at"))? {
            return Err(OpenError::NotALog {
                path: path.to_owned(),
                what: "being replaced",
            });
        }
        let head_path = head::path_of(path);
        let head_error = |what| {
            let path = head_path.clone();
            move |source| OpenError::Io { what, path, source }
        };
        let known = head::read(path).map_err(head_error("read"))?;
        let head = head::open(path).map_err(head_error("open"))?;

        let size = file.metadata().map_err(io("look at"))?.len();
        let len = end_of_last_line(&file, size).map_err(io("read"))?;
        let start = start_of_segment(&file, len).map_err(io("read"))?;
        let mut scan = match start {
            0 => Scan::new(path, known.as_ref()),
            _ => Scan::from_middle(path, known.as_ref()),
        };
        let reader = At { file: &file, at: start }.take(len - start);
        scan.run(&mut BufReader::new(reader), false)
            .map_err(|stop| match stop {
                Stop::Read(source) => OpenError::Io {
                    what: "read",
                    path: path.to_owned(),
                    source,
                },
                Stop::Broken(broken) => {
                    let line = broken.line + lines_before(&file, start).unwrap_or(0);
                    OpenError::Broken(Broken { line, ..broken })
                }
            })?;
        // A living daemon may be in the middle of a line.
        if len < size && before.is_none() {
            file.set_len(len).map_err(io("cut the torn last line off"))?;
        }
        let expect = scan.expect.take().unwrap_or_else(Expect::first);
        let missing_seq = known
            .as_ref()
            .filter(|known| known.seq >= expect.seq)
            .map(|known| [expect.seq, known.seq]);
        let head_missing = known.is_none() && len > 0;
        let mut log = LogFile {
            file,
            head,
            path: path.to_owned(),
            instance: instance.to_owned(),
            latest: instance.to_owned(),
            shared: before.is_some(),
            first: None,
            len,
            expect,
            failed: None,
        };
        if let Some(before) = before {
            let continued = LogContinued {
                instance,
                version: env!("CARGO_PKG_VERSION"),
                goes_on: &[before],
            };
            let entry = Entry::new("log_continued", &continued);
            log.first = Some(entry.map_err(|error| OpenError::Append(AuditError::Encode(error.to_string())))?);
            return Ok((log, Opened::default()));
        }

        let (mut entries, open) =
            closing(scan, None).map_err(|error| OpenError::Append(AuditError::Encode(error.to_string())))?;
        // The opening comes last: the next opening looks for open runs only after it, so it must not be there without
        // the interrupted records.
        let opening = LogOpened {
            instance,
            version: env!("CARGO_PKG_VERSION"),
            interrupted: open.len() as u64,
            dropped_bytes: size - len,
            missing_seq,
            head_missing,
        };
        let opening = Entry::new("log_opened", &opening);
        entries.push(opening.map_err(|error| OpenError::Append(AuditError::Encode(error.to_string())))?);
        log.append(&entries.iter().collect::<Vec<_>>())
            .map_err(OpenError::Append)?;
        // A new file's name must be durable as well.
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io("make durable"))?;
        Ok((
            log,
            Opened {
                interrupted: open,
                dropped_bytes: size - len,
                missing_seq,
            },
        ))
    }

    /// Appends records and returns when they are durable; all of them, or none.
    pub fn append(&mut self, entries: &[&Entry]) -> Result<Vec<RecordRef>, AuditError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if !self.shared {
            return self.write(entries);
        }
        let io = |source| AuditError::Write {
            path: head::path_of(&self.path),
            source: Arc::new(source),
        };
        self.head = head::turn(&self.path, self.head.try_clone().ok()).map_err(io)?;
        let written = self.catch_up().and_then(|()| self.write_shared(entries));
        let _ = self.head.unlock();
        written
    }

    /// To be called when it is this one's turn, with all that others wrote taken in.
    fn write_shared(&mut self, entries: &[&Entry]) -> Result<Vec<RecordRef>, AuditError> {
        let first = self.first.clone();
        let latest = first.is_some() || self.latest == self.instance;
        let entries = entries.iter().map(|entry| match latest {
            true => Cow::Borrowed(*entry),
            false => Cow::Owned(entry.of_instance(&self.instance)),
        });
        let entries: Vec<_> = first.iter().map(Cow::Borrowed).chain(entries).collect();
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut records = self.write(&entries.iter().map(|entry| &**entry).collect::<Vec<_>>())?;
        if self.first.take().is_some() {
            self.latest = self.instance.clone();
            records.remove(0);
        }
        Ok(records)
    }

    /// The open file, which keeps the log locked for as long as anybody has it.
    pub fn lend(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// From here on another daemon, to which the file was lent, writes to the log as well.
    pub fn share(&mut self) {
        self.shared = true;
    }

    /// Closes what a daemon left open that wrote to this log too and has died.
    pub fn interrupt(&mut self, dead: &str) -> Result<Vec<RecordRef>, AuditError> {
        let path = self.path.clone();
        let io = move |source| AuditError::Write {
            path: path.clone(),
            source: Arc::new(source),
        };
        self.head = head::turn(&self.path, self.head.try_clone().ok()).map_err(&io)?;
        let entries = self.left_open(dead, io);
        let _ = self.head.unlock();
        let entries = entries?;
        match entries.is_empty() {
            true => Ok(Vec::new()),
            false => self.append(&entries.iter().collect::<Vec<_>>()),
        }
    }

    /// The records that close what a dead instance left open. To be called when it is this one's turn.
    fn left_open(&mut self, dead: &str, io: impl Fn(io::Error) -> AuditError) -> Result<Vec<Entry>, AuditError> {
        self.catch_up()?;
        let start = start_of_segment(&self.file, self.len).map_err(&io)?;
        let mut scan = Scan::from_middle(&self.path, None);
        let records = At {
            file: &self.file,
            at: start,
        };
        scan.run(&mut BufReader::new(records.take(self.len - start)), false)
            .map_err(|stop| self.someone_else(stop))?;
        let (entries, _) = closing(scan, Some(dead)).map_err(|error| AuditError::Encode(error.to_string()))?;
        Ok(entries)
    }

    /// Takes in what other daemons have written since. To be called when it is this one's turn.
    fn catch_up(&mut self) -> Result<(), AuditError> {
        let look = |source| AuditError::Write {
            path: self.path.clone(),
            source: Arc::new(source),
        };
        let size = self.file.metadata().map_err(look)?.len();
        if size <= self.len {
            return Ok(());
        }
        let len = end_of_last_line(&self.file, size).map_err(look)?.max(self.len);
        let mut scan = Scan::from_middle(&self.path, None);
        scan.expect = Some(self.expect.clone());
        let new = At {
            file: &self.file,
            at: self.len,
        }
        .take(len - self.len);
        scan.run(&mut BufReader::new(new), false)
            .map_err(|stop| self.someone_else(stop))?;
        if len < size {
            // Who wrote it died in the middle of a line: it is nobody else's turn.
            self.file.set_len(len).map_err(look)?;
        }
        if let Some(latest) = scan.latest() {
            self.latest = latest.to_owned();
        }
        self.expect = scan.expect.take().unwrap_or_else(Expect::first);
        self.len = len;
        Ok(())
    }

    fn someone_else(&self, stop: Stop) -> AuditError {
        match stop {
            Stop::Read(source) => AuditError::Write {
                path: self.path.clone(),
                source: Arc::new(source),
            },
            Stop::Broken(broken) => AuditError::Changed {
                path: self.path.clone(),
                what: format!("what was added is no record of a daemon's: {}", broken.fault),
            },
        }
    }

    fn write(&mut self, entries: &[&Entry]) -> Result<Vec<RecordRef>, AuditError> {
        self.unchanged()?;
        let time = now();
        let mut expect = self.expect.clone();
        let mut lines = Vec::new();
        let mut records = Vec::with_capacity(entries.len());
        for entry in entries {
            let (line, hash) = entry.seal(expect.seq, &time, &expect.prev);
            lines.extend_from_slice(&line);
            records.push(RecordRef {
                seq: expect.seq,
                hash: hash.clone(),
            });
            expect = Expect {
                seq: expect.seq + 1,
                prev: hash,
            };
        }
        if let Err(source) = self.file.write_all(&lines) {
            let source = Arc::new(source);
            if let Err(undo) = self.file.set_len(self.len).and_then(|()| self.file.sync_data()) {
                return Err(self.fail(undo));
            }
            return Err(AuditError::Write {
                path: self.path.clone(),
                source,
            });
        }
        // After a failed sync the kernel may have dropped the pages and forgotten the error: no second try can be believed.
        self.file.sync_data().map_err(|source| self.fail(source))?;
        self.len += lines.len() as u64;
        self.expect = expect;
        if let Some(last) = records.last()
            && let Err(error) = head::write(&self.head, last)
        {
            tracing::warn!(path = %head::path_of(&self.path).display(), %error, "cannot write the head of the audit log");
        }
        Ok(records)
    }

    fn fail(&mut self, source: io::Error) -> AuditError {
        let error = AuditError::Unsafe {
            path: self.path.clone(),
            source: Arc::new(source),
        };
        self.failed = Some(error.clone());
        error
    }

    /// Whether the file at the path is still the one that is open, as it was left.
    fn unchanged(&self) -> Result<(), AuditError> {
        let changed = |what| {
            Err(AuditError::Changed {
                path: self.path.clone(),
                what,
            })
        };
        let look = |source| AuditError::Write {
            path: self.path.clone(),
            source: Arc::new(source),
        };
        if !is_same_file(&self.file, &self.path).map_err(look)? {
            return Err(AuditError::Replaced {
                path: self.path.clone(),
            });
        }
        let now = self.file.metadata().map_err(look)?;
        if now.len() != self.len {
            return changed(format!(
                "it is {} bytes long instead of {}; restart the daemon",
                now.len(),
                self.len
            ));
        }
        if now.mode() & 0o7777 != 0o600 {
            let mode = now.mode() & 0o7777;
            return changed(format!(
                "its mode is {mode:04o}; chmod 600 {} mends it",
                self.path.display()
            ));
        }
        Ok(())
    }
}

/// The records that close what a scan found open, of one instance or of all, and the ids of the runs.
fn closing(scan: Scan<'_>, of: Option<&str>) -> Result<(Vec<Entry>, Vec<String>), serde_json::Error> {
    let counts = |instance: &str| of.is_none_or(|of| of == instance);
    let mut open: Vec<_> = scan.open.into_iter().filter(|(_, run)| counts(&run.instance)).collect();
    open.sort_by_key(|(_, run)| run.intent_seq);
    let mut entries = Vec::with_capacity(open.len() + 1);
    for (run_id, run) in &open {
        let interrupted = Interrupted {
            run_id,
            instance: &run.instance,
            intent_seq: run.intent_seq,
        };
        entries.push(Entry::new("interrupted", &interrupted)?);
    }
    let mut questions: Vec<_> = scan.questions.into_iter().collect();
    questions.retain(|(_, question)| counts(&question.instance));
    questions.sort_by_key(|(_, question)| question.request_seq);
    for (approval_id, question) in &questions {
        let interrupted = ApprovalInterrupted {
            approval_id,
            run_id: &question.run_id,
            instance: &question.instance,
            request_seq: question.request_seq,
        };
        entries.push(Entry::new("approval_interrupted", &interrupted)?);
    }
    let mut sessions: Vec<_> = scan.sessions.into_iter().collect();
    sessions.retain(|(_, session)| counts(&session.instance));
    sessions.sort_by_key(|(_, session)| session.created_seq);
    for (session_id, session) in &sessions {
        let interrupted = SessionInterrupted {
            session_id,
            instance: &session.instance,
            created_seq: session.created_seq,
        };
        entries.push(Entry::new("session_interrupted", &interrupted)?);
    }
    Ok((entries, open.into_iter().map(|(run_id, _)| run_id).collect()))
}

/// Reads from a place of its own: daemons that share a log share its position.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Makes the directory with mode 0700, or checks that nobody but the daemon's user and root can rename what is in it.
fn private_directory(path: &Path) -> Result<(), OpenError> {
    let io = |what| {
        move |source| OpenError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io("make the directory"))?;
    let found = std::fs::metadata(path).map_err(io("look at"))?;
    let own = nix::unistd::geteuid().as_raw();
    // In a sticky directory such as /tmp others cannot rename what is not theirs.
    let shared = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
    if (found.uid() != own && found.uid() != 0) || shared {
        return Err(OpenError::Directory {
            path: path.to_owned(),
            uid: found.uid(),
            mode: found.mode() & 0o7777,
        });
    }
    Ok(())
}

/// Opens the log for appending, and never a thing that only looks like one. `O_NONBLOCK` is for a FIFO put in its place.
fn open_file(path: &Path) -> Result<File, OpenError> {
    let not_a_log = |what| OpenError::NotALog {
        path: path.to_owned(),
        what,
    };
    let io = |what| {
        move |source| OpenError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC | nix::libc::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(nix::libc::ELOOP) => not_a_log("a symbolic link"),
            Some(nix::libc::EISDIR) => not_a_log("a directory"),
            _ => io("open")(source),
        })?;
    let found = file.metadata().map_err(io("look at"))?;
    if !found.is_file() {
        return Err(not_a_log("no regular file"));
    }
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(not_a_log("another user's file"));
    }
    if found.nlink() != 1 {
        return Err(not_a_log("a file with more than one name"));
    }
    if found.mode() & 0o7777 != 0o600 {
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(io("set the mode of"))?;
    }
    Ok(file)
}

fn lock(file: &File, path: &Path) -> Result<(), OpenError> {
    let until = std::time::Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if std::time::Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::Io {
                    what: "lock",
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino(), found.nlink()) == (open.dev(), open.ino(), 1)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where the last whole line ends: after the last newline, or at 0.
fn end_of_last_line(file: &File, size: u64) -> io::Result<u64> {
    let mut found = 0;
    backwards(file, size, |at, chunk, _| {
        match chunk.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => {
                found = at + newline as u64 + 1;
                true
            }
            None => false,
        }
    })?;
    Ok(found)
}

/// Where the last `log_opened` record starts, or 0: every run that was open before it is closed.
fn start_of_segment(file: &File, len: u64) -> io::Result<u64> {
    let mut found = 0;
    backwards(file, len, |at, chunk, after| {
        let newlines = chunk
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
            .map(|(index, _)| index + 1);
        for start in newlines.chain((at == 0).then_some(0)) {
            let prefix: Vec<u8> = chunk[start..].iter().chain(after).copied().take(PREFIX_BYTES).collect();
            // The fields before `prev` have no content from outside, so that no value can look like this.
            if prefix.starts_with(b"{\"seq\":") && prefix.windows(KIND.len()).any(|window| window == KIND) {
                found = at + start as u64;
                return true;
            }
        }
        false
    })?;
    Ok(found)
}

const KIND: &[u8] = b",\"kind\":\"log_opened\",\"prev\":\"";

/// `{"seq":` with 20 digits, `,"time":` with 29 characters, and the kind.
const PREFIX_BYTES: usize = 7 + 20 + 8 + 29 + KIND.len();

/// Gives chunks from `end` to the file's start, each with its offset and the bytes after it, until `look` returns true.
fn backwards(file: &File, end: u64, mut look: impl FnMut(u64, &[u8], &[u8]) -> bool) -> io::Result<()> {
    const CHUNK: u64 = 64 * 1024;
    let (mut at, mut after) = (end, Vec::new());
    while at > 0 {
        let start = at.saturating_sub(CHUNK);
        let mut chunk = vec![0; usize::try_from(at - start).unwrap_or_default()];
        file.read_exact_at(&mut chunk, start)?;
        if look(start, &chunk, &after) {
            break;
        }
        chunk.truncate(PREFIX_BYTES);
        (at, after) = (start, chunk);
    }
    Ok(())
}

fn lines_before(file: &File, offset: u64) -> io::Result<u64> {
    let mut lines = 0;
    backwards(file, offset, |_, chunk, _| {
        lines += chunk.iter().filter(|&&byte| byte == b'\n').count() as u64;
        false
    })?;
    Ok(lines)
}
