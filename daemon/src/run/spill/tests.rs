use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;

use super::*;
use crate::run::journal::{Item, MIN_KEEP_BYTES, Position, Reader, To};
use crate::run::model::{Denials, Ending, Finished, Stream, Usage};

const BOUNDS: SpillBounds = SpillBounds {
    run_bytes: 1 << 30,
    total_bytes: 1 << 30,
    reserve_bytes: 0,
};

struct Place {
    store: SpillStore,
    directory: tempfile::TempDir,
}

fn place(bounds: SpillBounds) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let store = SpillStore::open(&directory.path().join("output"), "one", bounds).unwrap();
    Place { store, directory }
}

impl Place {
    fn journal(&self, number: u64) -> Arc<Journal> {
        Journal::new(MIN_KEEP_BYTES, To::File(self.store.clone(), self.store.file(number)))
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path().join("output/one")).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.file_name().unwrap() != LOCK);
        files.sort();
        files
    }
}

/// The byte of a stream at an offset: a pattern that no shift of less than 251 maps to itself.
fn byte(stream: Stream, offset: u64) -> u8 {
    (offset % 251) as u8 ^ (stream.index() as u8 * 0x80)
}

fn finished() -> Event {
    Event::Finished(Arc::new(Finished {
        ending: Ending::Exited { code: 0 },
        usage: Usage::default(),
        denials: Denials::default(),
        recorded: None,
    }))
}

/// Appends output in pieces of different sizes, every third one to stderr, waiting as the actor does.
async fn fill(journal: &Arc<Journal>, bytes: u64) {
    let mut ends = journal.output_bytes();
    let (mut done, mut piece) = (0, 1u64);
    while done < bytes {
        piece = (piece * 7 + 3) % 6007 + 1;
        let length = piece.min(bytes - done);
        let stream = if piece.is_multiple_of(3) {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        let offset = ends[stream.index()];
        let data: Vec<u8> = (offset..offset + length).map(|at| byte(stream, at)).collect();
        journal.room(data.len()).await;
        let data = Bytes::from(data);
        journal.append(Event::Output { stream, offset, data });
        ends[stream.index()] += length;
        done += length;
    }
}

/// What a reader got, checked byte by byte against the pattern.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    read: [u64; 2],
    lost: [u64; 2],
    gaps: usize,
    marks: usize,
}

async fn drain(mut reader: Reader, from: [u64; 2]) -> Got {
    let mut got = Got::default();
    while let Some(item) = reader.next().await {
        match item {
            Item::Event(entry) => match entry.event {
                Event::Output { stream, offset, data } => {
                    let index = stream.index();
                    assert_eq!(offset, from[index] + got.read[index] + got.lost[index], "{stream:?}");
                    let right = data.iter().zip(offset..).all(|(is, at)| *is == byte(stream, at));
                    assert!(right, "{stream:?} from {offset}");
                    got.read[index] += data.len() as u64;
                }
                _ => got.marks += 1,
            },
            Item::Gap { lost_bytes, .. } => {
                got.gaps += 1;
                got.lost = [0, 1].map(|index| got.lost[index] + lost_bytes[index]);
            }
        }
    }
    got
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let gave_up = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < gave_up, "{what} does not come about");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_reader_gets_every_byte_and_event_from_the_file() {
    let place = place(BOUNDS);
    let journal = place.journal(1);
    journal.append(Event::Accepted { queue_position: 0 });
    fill(&journal, 5_000_000).await;
    journal.append(finished());
    let ends = journal.output_bytes();
    assert_eq!(ends.iter().sum::<u64>(), 5_000_000);
    let whole = Got {
        read: ends,
        marks: 2,
        ..Got::default()
    };
    assert_eq!(drain(journal.reader(0), [0; 2]).await, whole);
    let spilled = journal.spilled().unwrap();
    assert_eq!((spilled.bytes, spilled.stopped.as_str()), (5_000_000, ""));
    let memory = journal.memory_bytes();
    assert!(memory < MIN_KEEP_BYTES + 64 * 1024, "{memory}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_may_begin_at_any_event_offset_or_distance_from_the_end() {
    let place = place(BOUNDS);
    let journal = place.journal(1);
    journal.append(Event::Accepted { queue_position: 0 });
    fill(&journal, 3_000_000).await;
    journal.append(finished());
    let ends = journal.output_bytes();
    let total: u64 = ends.iter().sum();
    for step in 0..40 {
        let offsets = [ends[0] * step / 39, ends[1] * (39 - step) / 39];
        let got = drain(journal.reader_at(Position::Offsets(offsets)).await, offsets).await;
        let rest = [ends[0] - offsets[0], ends[1] - offsets[1]];
        assert_eq!((got.read, got.gaps, got.marks), (rest, 0, 2), "from {offsets:?}");

        let tail = total * step / 39;
        let mut reader = journal.reader_at(Position::Tail(tail)).await;
        let mut read = 0;
        while let Some(item) = reader.next().await {
            match item {
                Item::Event(Entry {
                    event: Event::Output { data, .. },
                    ..
                }) => read += data.len() as u64,
                Item::Event(_) => {}
                gap => panic!("{gap:?}"),
            }
        }
        assert_eq!(read, tail);

        let seq = 1 + journal.last_seq() * step / 40;
        let mut reader = journal.reader_at(Position::Seq(seq)).await;
        for wanted in seq..(seq + 50).min(journal.last_seq()) {
            let item = reader.next().await;
            assert!(
                matches!(&item, Some(Item::Event(entry)) if entry.seq == wanted),
                "{wanted}: {item:?}"
            );
        }
    }
    // With the next event: nothing but what was noticed before, and here that is all.
    let got = drain(journal.reader_at(Position::Now).await, ends).await;
    assert_eq!((got.read, got.marks), ([0; 2], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_of_a_stream_join_to_the_whole_and_wait_for_more() {
    let place = place(BOUNDS);
    let journal = place.journal(1);
    let writer = tokio::spawn({
        let journal = Arc::clone(&journal);
        async move {
            for _ in 0..20 {
                fill(&journal, 100_000).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            journal.append(finished());
        }
    });
    for stream in Stream::ALL {
        let mut at = 0;
        loop {
            let slice = journal.read(stream, at, 50_000, Duration::from_secs(20)).await;
            assert_eq!((slice.offset, slice.lost_bytes), (at, 0));
            assert!(slice.data.iter().zip(at..).all(|(is, at)| *is == byte(stream, at)));
            assert!(slice.end || !slice.data.is_empty(), "it waits");
            at += slice.data.len() as u64;
            if slice.end {
                break;
            }
        }
        assert_eq!(at, journal.output_bytes()[stream.index()]);
    }
    writer.await.unwrap();
    let nothing = journal.read(Stream::Stdout, 0, 10, Duration::ZERO).await;
    assert_eq!((nothing.data.len(), nothing.end), (10, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_bound_of_a_run_the_rest_is_a_gap_with_exact_counts() {
    let place = place(SpillBounds {
        run_bytes: 1_000_000,
        ..BOUNDS
    });
    let journal = place.journal(1);
    fill(&journal, 5_000_000).await;
    journal.append(finished());
    until("the end of writing", || journal.spilled().unwrap().stopped == "limit").await;
    let spilled = journal.spilled().unwrap();
    assert!((900_000..1_000_000).contains(&spilled.bytes), "{spilled:?}");
    let got = drain(journal.reader(0), [0; 2]).await;
    let ends = journal.output_bytes();
    assert_eq!([0, 1].map(|index| got.read[index] + got.lost[index]), ends);
    assert_eq!(got.gaps, 1);
    assert!(got.read.iter().sum::<u64>() > spilled.bytes, "the newest is in memory");
    assert!(place.store.used_bytes() <= 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn for_the_bound_of_all_the_oldest_finished_file_goes_and_no_living_one() {
    let place = place(SpillBounds {
        total_bytes: 2_500_000,
        ..BOUNDS
    });
    let journals: Vec<_> = (1..=3).map(|number| place.journal(number)).collect();
    for journal in &journals[..2] {
        fill(journal, 1_000_000).await;
        journal.append(finished());
        until("it is written", || journal.spilled().unwrap().bytes == 1_000_000).await;
    }
    fill(&journals[2], 1_000_000).await;
    until("it is written", || journals[2].spilled().unwrap().bytes == 1_000_000).await;
    assert_eq!(journals[0].spilled().unwrap().stopped, REMOVED);
    assert_eq!(journals[1].spilled().unwrap().stopped, "");
    assert_eq!(place.files().len(), 2);
    let got = drain(journals[0].reader(0), [0; 2]).await;
    assert_eq!(got.gaps, 1, "its beginning and end are in memory");
    assert_eq!(got.read.iter().chain(&got.lost).sum::<u64>(), 1_000_000);
    // Two files of living runs: the second finds nothing to remove.
    fill(&journals[2], 2_000_000).await;
    until("the bound", || journals[2].spilled().unwrap().stopped == "limit").await;
    assert!(place.store.used_bytes() <= 2_500_000);
    journals[2].append(finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_the_reserve_is_full_and_the_run_goes_on() {
    let place = place(SpillBounds {
        reserve_bytes: 1 << 50,
        ..BOUNDS
    });
    let journal = place.journal(1);
    fill(&journal, 1_000_000).await;
    until("the full disk", || journal.spilled().unwrap().stopped == "disk_full").await;
    assert_eq!(journal.output_bytes().iter().sum::<u64>(), 1_000_000);
    assert_eq!(journal.spilled().unwrap().bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_with_its_run_and_who_reads_it_reads_on() {
    let place = place(BOUNDS);
    let journal = place.journal(1);
    fill(&journal, 3_000_000).await;
    journal.append(finished());
    until("it is written", || journal.spilled().unwrap().bytes == 3_000_000).await;
    let mut reader = journal.reader_at(Position::Offsets([1_000_000, 500_000])).await;
    assert!(reader.next().await.is_some());
    journal.discard();
    until("the file's end", || place.files().is_empty()).await;
    assert_eq!(place.store.used_bytes(), 0);
    while let Some(item) = reader.next().await {
        assert!(matches!(item, Item::Event(_)), "{item:?}");
    }
    let late = drain(journal.reader(0), [0; 2]).await;
    assert_eq!(late.gaps, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_daemon_left_is_removed_and_what_a_living_one_has_stays() {
    let place = place(BOUNDS);
    let parent = place.directory.path().join("output");
    let dead = parent.join("dead");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join(LOCK), "").unwrap();
    std::fs::write(dead.join("7.out"), "secret").unwrap();
    let journal = place.journal(1);
    fill(&journal, 10_000).await;
    until("it is written", || place.files().len() == 1).await;
    let other = SpillStore::open(&parent, "two", BOUNDS).unwrap();
    assert!(!dead.exists());
    assert_eq!(place.files().len(), 1);
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!(mode(&place.files()[0]), 0o600);
    assert_eq!(mode(&parent), 0o700);
    other.close();
    assert!(!parent.join("two").exists() && parent.join("one").exists());
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let refused = SpillStore::open(directory.path(), "one", BOUNDS).unwrap_err();
    assert!(matches!(refused, SpillError::Open { mode: 0o777, .. }), "{refused}");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_holds_the_run_up_no_longer_than_may_be() {
    // A store whose thread has ended takes nothing.
    let place = place(BOUNDS);
    place.store.close();
    let journal = place.journal(1);
    let start = Instant::now();
    let filled = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(fill(&journal, 5_000_000));
        journal
    });
    let journal = filled.await.unwrap();
    assert!(start.elapsed() >= STALL, "it waited");
    assert_eq!(journal.spilled().unwrap().stopped, "stalled");
    assert!(journal.memory_bytes() < MIN_KEEP_BYTES + 64 * 1024);
}
