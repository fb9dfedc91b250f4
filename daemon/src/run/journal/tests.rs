use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::run::model::{Denials, Ending, Finished, Usage};

fn output(offset: u64, bytes: usize) -> Event {
    Event::Output {
        stream: Stream::Stdout,
        offset,
        data: Bytes::from(vec![b'x'; bytes]),
    }
}

fn finished() -> Event {
    Event::Finished(Arc::new(Finished {
        ending: Ending::Exited { code: 0 },
        usage: Usage::default(),
        denials: Denials::default(),
        not_carried: String::new(),
        recorded: None,
    }))
}

/// Reads everything; returns bytes read and bytes declared lost.
async fn drain(mut reader: Reader) -> (u64, u64) {
    let (mut read, mut lost, mut next) = (0, 0, None);
    while let Some(item) = reader.next().await {
        match item {
            Item::Event(entry) => {
                assert!(next.is_none_or(|next| next == entry.seq), "numbers have no holes");
                next = Some(entry.seq + 1);
                if let Event::Output { offset, data, .. } = entry.event {
                    assert_eq!(offset, read + lost);
                    read += data.len() as u64;
                }
            }
            Item::Gap {
                seq,
                next_seq,
                lost_bytes,
                ..
            } => {
                assert!(seq < next_seq);
                lost += lost_bytes[0];
                next = Some(next_seq);
            }
        }
    }
    (read, lost)
}

#[tokio::test]
async fn a_late_reader_sees_beginning_gap_and_end() {
    let journal = Journal::new(MIN_KEEP_BYTES, To::Memory);
    for index in 0..1000 {
        journal.append(output(index * 1000, 1000));
    }
    journal.append(finished());
    let (read, lost) = drain(journal.reader(0)).await;
    assert_eq!(read + lost, 1_000_000);
    assert!(lost > 900_000 && read > 50_000, "read {read}, lost {lost}");
}

#[tokio::test]
async fn a_reader_that_keeps_up_loses_nothing() {
    let journal = Journal::new(MIN_KEEP_BYTES, To::Memory);
    let mut reader = journal.reader(0);
    for index in 0..1000u64 {
        journal.append(output(index * 1000, 1000));
        assert!(matches!(reader.try_next(), Ok(Some(Item::Event(entry))) if entry.seq == index + 1));
    }
}

#[tokio::test]
async fn the_writer_waits_for_its_owner_and_only_for_it() {
    let journal = Journal::new(MIN_KEEP_BYTES, To::Memory);
    let owner = journal.owner();
    let _idle = journal.reader(0);
    let writer = tokio::spawn({
        let journal = Arc::clone(&journal);
        async move {
            for index in 0..5000 {
                journal.room(1000).await;
                journal.append(output(index * 1000, 1000));
            }
            journal.append(finished());
        }
    });
    assert_eq!(drain(owner).await, (5_000_000, 0));
    writer.await.unwrap();
}

#[tokio::test]
async fn what_the_owner_has_not_taken_is_kept_even_past_the_bound() {
    let journal = Journal::new(MIN_KEEP_BYTES, To::Memory);
    let owner = journal.owner();
    for index in 0..500 {
        journal.append(output(index * 1000, 1000));
    }
    journal.append(finished());
    assert_eq!(drain(owner).await, (500_000, 0));
    // Nobody is owed anything any more; what is appended next brings it back into its bound.
    journal.append(output(500_000, 1000));
    assert!(journal.memory_bytes() <= MIN_KEEP_BYTES + 2 * (1000 + EVENT_OVERHEAD));
}

#[tokio::test]
async fn an_owner_that_leaves_lets_the_writer_go() {
    let journal = Journal::new(MIN_KEEP_BYTES, To::Memory);
    let owner = journal.owner();
    for index in 0..100 {
        journal.append(output(index * 1000, 1000));
    }
    let waiting = tokio::time::timeout(Duration::from_millis(20), journal.room(1000)).await;
    assert!(waiting.is_err(), "it should have waited");
    drop(owner);
    journal.room(1000).await;
}

#[tokio::test]
async fn many_small_events_are_bounded_too() {
    let journal = Journal::new(MIN_KEEP_BYTES, To::Memory);
    for index in 0..100_000 {
        journal.append(output(index, 1));
    }
    let inner = journal.lock();
    let kept = inner.head.len() + inner.tail.len();
    assert!(kept <= MIN_KEEP_BYTES / EVENT_OVERHEAD + 1, "{kept} events kept");
}

#[tokio::test]
async fn a_reader_may_start_in_the_middle_and_after_the_end() {
    let journal = Journal::new(MIN_KEEP_BYTES, To::Memory);
    for index in 0..10 {
        journal.append(output(index * 10, 10));
    }
    journal.append(finished());
    let mut reader = journal.reader(6);
    assert!(matches!(reader.next().await, Some(Item::Event(entry)) if entry.seq == 6));
    assert!(journal.reader(100).next().await.is_none());
}
