//! Who reads a run's output beside its events.
//!
//! With flow control the daemon holds the command back until the stream that started the run has taken what it wrote. Who reads
//! [`crate::Run::stdout`] and nothing else would never take that, and wait for output that the command cannot write. So the task that follows the
//! run passes over output that its readers have had, and holds the command back for what they have not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fumehood_proto::v1::run_event::Event;
use fumehood_proto::v1::{Gap, OutputStream, RunEvent};
use tokio::sync::Notify;

/// The readers of one run.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    /// How far each has come in its stream.
    places: Mutex<HashMap<u64, (OutputStream, u64)>>,
    /// Told whenever one moves, comes or goes.
    moved: Notify,
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (OutputStream, u64)>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a reader until what this gives is dropped.
    pub(crate) fn enter(self: &Arc<Self>, stream: OutputStream) -> Reading {
        let mut places = self.lock();
        let id = places.keys().max().map_or(0, |last| last + 1);
        places.insert(id, (stream, 0));
        drop(places);
        self.moved.notify_waiters();
        Reading {
            readers: Arc::clone(self),
            id,
        }
    }

    /// Whether there are any, and none that still wants this. Of a stream without a reader, nobody does.
    pub(crate) fn have_had(&self, event: &RunEvent) -> bool {
        let Some(Event::Output(output)) = &event.event else {
            return false;
        };
        let end = output.offset + output.data.len() as u64;
        let places = self.lock();
        !places.is_empty()
            && places
                .values()
                .all(|(of, place)| *of != output.stream() || *place >= end)
    }

    /// Whether there are any.
    pub(crate) fn are_there(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Waits until all of them have had this output; for ever where it is none.
    pub(crate) async fn past(&self, event: Option<&RunEvent>) {
        let Some(event) = event.filter(|event| matches!(event.event, Some(Event::Output(_)))) else {
            return std::future::pending().await;
        };
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // Registered before the look, so that no move in between is missed.
            moved.as_mut().enable();
            if self.have_had(event) {
                return;
            }
            moved.await;
        }
    }
}

/// One reader.
#[derive(Debug)]
pub(crate) struct Reading {
    readers: Arc<Readers>,
    id: u64,
}

impl Reading {
    /// It has read all before this byte.
    pub(crate) fn moved_to(&self, place: u64) {
        if let Some((_, known)) = self.readers.lock().get_mut(&self.id) {
            *known = place;
        }
        self.readers.moved.notify_waiters();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.readers.lock().remove(&self.id);
        self.readers.moved.notify_waiters();
    }
}

/// What stands for output that is passed over, behind what stands for the output right before it.
pub(crate) fn passed_over(event: &RunEvent, before: Option<RunEvent>) -> RunEvent {
    let (stdout, stderr) = match &event.event {
        Some(Event::Output(output)) if output.stream() == OutputStream::Stderr => (0, output.data.len() as u64),
        Some(Event::Output(output)) => (output.data.len() as u64, 0),
        _ => (0, 0),
    };
    let mut stands = before.unwrap_or_else(|| RunEvent {
        event: Some(Event::Gap(Gap::default())),
        ..event.clone()
    });
    if let Some(Event::Gap(gap)) = &mut stands.event {
        gap.next_seq = event.seq + 1;
        gap.stdout_bytes += stdout;
        gap.stderr_bytes += stderr;
    }
    stands
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_proto::v1::Output;

    fn output(seq: u64, stream: OutputStream, offset: u64, data: &'static [u8]) -> RunEvent {
        RunEvent {
            seq,
            event: Some(Event::Output(Output {
                stream: stream.into(),
                offset,
                data: data.into(),
            })),
            ..RunEvent::default()
        }
    }

    #[test]
    fn only_what_every_reader_of_the_stream_has_had_is_passed_over() {
        let readers = Arc::new(Readers::default());
        let event = output(4, OutputStream::Stdout, 10, b"abc");
        let other = output(5, OutputStream::Stderr, 0, b"abc");
        assert!(!readers.have_had(&event), "nobody reads");
        let (one, two) = (readers.enter(OutputStream::Stdout), readers.enter(OutputStream::Stdout));
        one.moved_to(13);
        two.moved_to(12);
        assert!(!readers.have_had(&event) && readers.have_had(&other));
        two.moved_to(13);
        assert!(readers.have_had(&event));
        let three = readers.enter(OutputStream::Stdout);
        assert!(!readers.have_had(&event));
        drop(three);
        assert!(readers.have_had(&event));
        drop((one, two));
        assert!(!readers.are_there() && !readers.have_had(&event));
    }

    #[test]
    fn one_gap_stands_for_all_that_was_passed_over_in_a_row() {
        let first = passed_over(&output(4, OutputStream::Stdout, 10, b"abc"), None);
        let both = passed_over(&output(5, OutputStream::Stderr, 0, b"de"), Some(first));
        let Some(Event::Gap(gap)) = &both.event else {
            panic!("{both:?}")
        };
        assert_eq!(
            (both.seq, gap.next_seq, gap.stdout_bytes, gap.stderr_bytes),
            (4, 6, 3, 2)
        );
    }
}
