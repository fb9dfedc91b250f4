//! What clients give to a command's standard input.
//!
//! Any number of clients may write. Each message is taken whole, one after the other in the order in which they arrive: bytes of two
//! messages are never mixed. A message may say where it begins in the whole input. What was taken already is passed over then, so a
//! client that repeats itself after a broken connection, or two that send the same, write nothing twice; a message that begins beyond
//! what was taken is refused. One without an offset goes right behind what was taken last.
//!
//! Taken is what waits for the command here or was given to it. At most [`WAITING`] messages wait; more make their senders wait. What comes after
//! the command closed its input or ended is dropped and counts as taken, as a pipe's writer would find out only afterwards.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

/// Messages that may wait for a command that does not read.
const WAITING: usize = 4;

/// A message of input on its way to the command.
#[derive(Debug)]
pub(super) struct Piece {
    pub data: Bytes,
    /// The input is closed behind it.
    pub eof: bool,
}

/// Why input is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// The request said so.
    #[error("the run takes no input: it was started with input NONE")]
    NotTaken,
    /// End of file was sent.
    #[error("the run's input is closed: end of file was sent after {0} bytes")]
    Closed(u64),
    /// Bytes before it are missing.
    #[error("the input begins at byte {offset}, and {taken} bytes were taken so far; send from byte {taken} on")]
    Missing {
        /// Where the message begins.
        offset: u64,
        /// How much was taken.
        taken: u64,
    },
}

/// The clients' end of a command's input.
#[derive(Debug)]
pub(super) struct Input {
    state: Mutex<State>,
    /// `None` for a run without input.
    sender: Option<mpsc::Sender<Piece>>,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    closed: bool,
}

impl Input {
    /// Both ends. Nothing ever comes out for a run without input.
    pub(super) fn new(takes: bool) -> (Input, mpsc::Receiver<Piece>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let input = Input {
            state: Mutex::default(),
            sender: takes.then_some(sender),
        };
        (input, receiver)
    }

    /// That of a run that is over, which took so much.
    pub(super) fn of_ended(taken: u64) -> Input {
        let (sender, _) = mpsc::channel(1);
        Input {
            state: Mutex::new(State { taken, closed: false }),
            sender: Some(sender),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that were taken.
    pub(super) fn taken(&self) -> u64 {
        self.lock().taken
    }

    /// Takes a message; waits while too many wait.
    pub(super) async fn take(&self, mut data: Bytes, eof: bool, offset: Option<u64>) -> Result<(), InputError> {
        let sender = self.sender.as_ref().ok_or(InputError::NotTaken)?;
        // A place first, then the look at the offset: nothing comes between that and the message's going. An error: nobody reads
        // any more.
        let place = sender.reserve().await.ok();
        let mut state = self.lock();
        if let Some(offset) = offset {
            let Some(repeated) = state.taken.checked_sub(offset) else {
                let taken = state.taken;
                return Err(InputError::Missing { offset, taken });
            };
            data.advance(data.len().min(usize::try_from(repeated).unwrap_or(usize::MAX)));
        }
        match (state.closed, data.is_empty()) {
            // Also an end of file that is said again.
            (_, true) if state.closed || !eof => return Ok(()),
            (true, _) => return Err(InputError::Closed(state.taken)),
            (false, _) => {}
        }
        state.taken += data.len() as u64;
        state.closed = eof;
        if let Some(place) = place {
            place.send(Piece { data, eof });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(input: &Input, data: &'static str, eof: bool, offset: Option<u64>) -> Result<(), InputError> {
        input.take(Bytes::from_static(data.as_bytes()), eof, offset).await
    }

    /// What came out, and whether its end was said.
    fn given(receiver: &mut mpsc::Receiver<Piece>) -> (String, bool) {
        let (mut all, mut ended) = (String::new(), false);
        while let Ok(Piece { data, eof }) = receiver.try_recv() {
            assert!(!ended, "nothing follows the end of file");
            all.push_str(std::str::from_utf8(&data).unwrap());
            ended = eof;
        }
        (all, ended)
    }

    #[tokio::test]
    async fn what_is_repeated_is_written_once() {
        let (input, mut receiver) = Input::new(true);
        take(&input, "hello ", false, Some(0)).await.unwrap();
        take(&input, "hello ", false, Some(0)).await.unwrap();
        take(&input, "lo world", false, Some(3)).await.unwrap();
        assert_eq!(input.taken(), 11);
        take(&input, "!", true, None).await.unwrap();
        take(&input, "world!", true, Some(6)).await.unwrap();
        assert_eq!(given(&mut receiver), ("hello world!".to_owned(), true));
    }

    #[tokio::test]
    async fn a_gap_is_refused_and_says_where_to_go_on() {
        let (input, mut receiver) = Input::new(true);
        take(&input, "ab", false, None).await.unwrap();
        let refused = take(&input, "x", false, Some(3)).await.unwrap_err();
        assert_eq!(refused, InputError::Missing { offset: 3, taken: 2 });
        take(&input, "c", true, Some(2)).await.unwrap();
        assert_eq!(given(&mut receiver), ("abc".to_owned(), true));
    }

    #[tokio::test]
    async fn the_end_of_file_may_be_said_again_but_nothing_follows_it() {
        let (input, _receiver) = Input::new(true);
        take(&input, "ab", true, None).await.unwrap();
        take(&input, "", true, None).await.unwrap();
        take(&input, "", true, Some(2)).await.unwrap();
        take(&input, "ab", true, Some(0)).await.unwrap();
        assert_eq!(take(&input, "c", false, None).await, Err(InputError::Closed(2)));
        assert_eq!(take(&input, "abc", true, Some(0)).await, Err(InputError::Closed(2)));
        let (none, _) = Input::new(false);
        assert_eq!(take(&none, "", true, None).await, Err(InputError::NotTaken));
    }

    #[tokio::test]
    async fn input_for_nobody_is_dropped_and_counted() {
        let (input, receiver) = Input::new(true);
        drop(receiver);
        for _ in 0..2 * WAITING {
            take(&input, "x", false, None).await.unwrap();
        }
        assert_eq!(input.taken(), 2 * WAITING as u64);
    }
}
