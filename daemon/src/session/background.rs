//! What processes write to the output of runs that are over.
//!
//! A background process keeps the pipes of the run that started it. Nobody may close their other ends, or it would die of SIGPIPE; nobody
//! may leave them unread, or it would stand still. So they are read for as long as somebody can write, and the last of it is kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::unix::pipe;

use crate::run::Stream;

/// Bytes kept of a stream; the wire documents it.
const TAIL_BYTES: usize = 64 << 10;

/// Streams that are kept; the wire documents it.
const MAX_STREAMS: usize = 64;

/// Most bytes read at once.
const READ_BYTES: usize = 16 << 10;

/// The background output of a session.
#[derive(Debug, Default)]
pub struct Backgrounds {
    /// The oldest first.
    streams: Mutex<VecDeque<Arc<Kept>>>,
}

/// One stream of a run that is over.
#[derive(Debug)]
struct Kept {
    run: String,
    stream: Stream,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    total: u64,
    tail: VecDeque<u8>,
}

/// What was written to one stream since its run was over.
#[derive(Clone, Debug)]
pub struct Background {
    /// The run.
    pub run: String,
    /// Which stream.
    pub stream: Stream,
    /// How many bytes.
    pub total_bytes: u64,
    /// The last of them, at most 65,536.
    pub tail: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backgrounds {
    /// Reads a pipe until nobody can write to it any more.
    pub fn take(&self, run: &str, stream: Stream, pipe: pipe::Receiver) {
        let kept = Arc::new(Kept {
            run: run.to_owned(),
            stream,
            written: Mutex::default(),
        });
        let mut streams = lock(&self.streams);
        if streams.len() == MAX_STREAMS {
            // It is read on, and not shown.
            streams.pop_front();
        }
        streams.push_back(Arc::clone(&kept));
        drop(streams);
        tokio::spawn(read(pipe, kept));
    }

    /// What was written, the newest runs' first; streams to which nothing was written are left out.
    pub fn all(&self) -> Vec<Background> {
        let streams: Vec<_> = lock(&self.streams).iter().rev().cloned().collect();
        let shown = |kept: Arc<Kept>| {
            let written = lock(&kept.written);
            (written.total > 0).then(|| Background {
                run: kept.run.clone(),
                stream: kept.stream,
                total_bytes: written.total,
                tail: written.tail.iter().copied().collect(),
            })
        };
        streams.into_iter().filter_map(shown).collect()
    }

    /// Forgets what was written.
    pub fn clear(&self) {
        lock(&self.streams).clear();
    }
}

async fn read(pipe: pipe::Receiver, kept: Arc<Kept>) {
    let mut buffer = vec![0; READ_BYTES];
    while pipe.readable().await.is_ok() {
        match pipe.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                let mut written = lock(&kept.written);
                written.total += read as u64;
                let over = (written.tail.len() + read).saturating_sub(TAIL_BYTES);
                written.tail.drain(..over);
                written.tail.extend(&buffer[..read]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_writer_is_never_held_up_and_the_last_bytes_are_kept() {
        let all = Backgrounds::default();
        let (mut writer, reader) = pipe::pipe().unwrap();
        all.take("a", Stream::Stdout, reader);
        assert!(all.all().is_empty(), "nothing was written");
        let mut bytes: Vec<u8> = vec![b'x'; 300 << 10];
        bytes.extend_from_slice(b"the end");
        tokio::time::timeout(Duration::from_secs(5), writer.write_all(&bytes))
            .await
            .unwrap()
            .unwrap();
        while all
            .all()
            .first()
            .is_none_or(|kept| kept.total_bytes < bytes.len() as u64)
        {
            tokio::task::yield_now().await;
        }
        let [kept] = &all.all()[..] else { panic!() };
        assert_eq!((kept.tail.len(), kept.run.as_str()), (TAIL_BYTES, "a"));
        assert!(kept.tail.ends_with(b"xthe end"));
    }

    #[tokio::test]
    async fn of_many_streams_the_newest_are_shown_and_all_are_read() {
        let all = Backgrounds::default();
        let mut writers = Vec::new();
        for number in 0..MAX_STREAMS + 2 {
            let (mut writer, reader) = pipe::pipe().unwrap();
            all.take(&number.to_string(), Stream::Stderr, reader);
            writer.write_all(b"y").await.unwrap();
            writers.push(writer);
        }
        while all.all().len() < MAX_STREAMS {
            tokio::task::yield_now().await;
        }
        assert_eq!(all.all()[0].run, (MAX_STREAMS + 1).to_string());
        // More than a pipe holds, to one that is not shown.
        let more = vec![0; 200 << 10];
        tokio::time::timeout(Duration::from_secs(5), writers[0].write_all(&more))
            .await
            .unwrap()
            .unwrap();
    }
}
