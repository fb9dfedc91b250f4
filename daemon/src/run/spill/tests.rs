use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;

use super::adopt::LOCK;
use super::*;
use crate::peer::{Identity, Peer};
use crate::run::journal::Sealing;
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
    let (store, left) = SpillStore::open(&directory.path().join("output"), "one", bounds, &keeper()).unwrap();
    assert!(left.is_empty());
    Place { store, directory }
}

fn keeper() -> Keeper {
    Keeper {
        socket: "/run/one.sock".into(),
        retain_for: Duration::from_secs(600),
    }
}

fn described(number: u64, whole: bool) -> Described {
    let identity = Identity::Unix {
        uid: 7,
        gid: 8,
        pid: Some(9),
    };
    Described {
        id: format!("run-{number}"),
        peer: Peer {
            identity,
            allowed: true,
        },
        digest: [number as u8; 32],
        argv: vec![b"a\xff".to_vec(), b"".to_vec()],
        workspace: Path::new("/w").into(),
        cwd: Path::new("/w/c").into(),
        policy_name: "default".to_owned(),
        policy_digest: [3; 32],
        labels: [("team".to_owned(), "web".to_owned())].into(),
        accepted_at: std::time::SystemTime::now(),
        order: number,
        whole,
        session: None,
        terminal: None,
    }
}

const SEALING: Sealing = Sealing {
    input_bytes: 5,
    terminal: None,
};

impl Place {
    fn journal(&self, number: u64) -> Arc<Journal> {
        self.journal_of(number, true)
    }

    fn journal_of(&self, number: u64, whole: bool) -> Arc<Journal> {
        let file = self.store.file(described(number, whole));
        Journal::new(MIN_KEEP_BYTES, To::File(self.store.clone(), file))
    }

    /// The files as they would be found if the daemon died now, in a directory beside those of living daemons.
    fn dead(&self, name: &str) -> PathBuf {
        let dead = self.directory.path().join("output").join(name);
        std::fs::create_dir(&dead).unwrap();
        for entry in std::fs::read_dir(self.directory.path().join("output/one")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dead.join(entry.file_name())).unwrap();
        }
        dead
    }

    /// What the next daemon of the socket takes over.
    fn next(&self, instance: &str) -> (SpillStore, Vec<Adopted>) {
        SpillStore::open(&self.directory.path().join("output"), instance, BOUNDS, &keeper()).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path().join("output/one")).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|end| end == "out"));
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
        not_carried: String::new(),
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
async fn a_finished_run_is_read_from_its_file_alone() {
    let place = place(BOUNDS);
    let journal = place.journal(1);
    journal.append(Event::Accepted { queue_position: 0 });
    fill(&journal, 1_000_000).await;
    journal.trim();
    assert!(journal.memory_bytes() > MIN_KEEP_BYTES / 2, "not while it lives");
    journal.append(finished());
    until("it is written", || journal.spilled().unwrap().bytes == 1_000_000).await;
    journal.trim();
    assert!(journal.memory_bytes() < 8192, "{}", journal.memory_bytes());
    let ends = journal.output_bytes();
    let got = drain(journal.reader(0), [0; 2]).await;
    assert_eq!((got.read, got.gaps, got.marks), (ends, 0, 2));
    for bytes in [0, 1, 20_000, 999_999] {
        let mut reader = journal.reader_at(Position::Tail(bytes)).await;
        let mut read = 0;
        while let Some(item) = reader.next().await {
            if let Item::Event(Entry {
                event: Event::Output { data, .. },
                ..
            }) = item
            {
                read += data.len() as u64;
            }
        }
        assert_eq!(read, bytes);
    }
    let slice = journal.read(Stream::Stderr, 3, 10, Duration::ZERO).await;
    assert_eq!((slice.offset, slice.data.len(), slice.lost_bytes), (3, 10, 0));
    journal.discard();
    let got = drain(journal.reader(0), [0; 2]).await;
    assert_eq!((got.read, got.lost, got.gaps), ([0; 2], ends, 1));
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
    assert!(place.store.used_bytes() <= 1_000_000 + 1000);
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
        journal.seal(SEALING);
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

/// A journal of a run that is over, with this much output, all of which is written.
async fn ended(place: &Place, number: u64, whole: bool, bytes: u64) -> Arc<Journal> {
    let journal = place.journal_of(number, whole);
    journal.append(Event::Accepted { queue_position: 0 });
    fill(&journal, bytes).await;
    journal.append(finished());
    journal.seal(SEALING);
    until("the seal", || matches!(journal.rests(), Rest::Now)).await;
    journal
}

fn restored(store: &SpillStore, adopted: Adopted) -> Arc<Journal> {
    Journal::restored(store.clone(), adopted.file, adopted.saved, adopted.found)
}

async fn items(journal: &Arc<Journal>, position: Position) -> Vec<String> {
    let mut reader = journal.reader_at(position).await;
    let mut items = Vec::new();
    while let Some(item) = reader.next().await {
        items.push(format!("{item:?}"));
    }
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_over_is_read_after_a_restart_as_before_it() {
    let place = place(BOUNDS);
    let bounded = SpillBounds {
        run_bytes: 1_000_000,
        ..BOUNDS
    };
    let other = self::place(bounded);
    // All in the file; kept in memory only; the beginning in the file and the end in memory; nothing at all.
    let cases = [
        (&place, ended(&place, 1, true, 3_000_000).await),
        (&place, ended(&place, 2, false, 3_000_000).await),
        (&other, ended(&other, 3, true, 3_000_000).await),
        (&place, ended(&place, 4, false, 0).await),
    ];
    for place in [&place, &other] {
        place.dead("dead");
    }
    let (next, mut left) = place.next("two");
    let (far, more) = other.next("two");
    left.extend(more);
    assert_eq!(
        left.iter().map(|run| run.saved.described.order).collect::<Vec<_>>(),
        [1, 2, 4, 3]
    );
    for adopted in left {
        let order = adopted.saved.described.order;
        let before = &cases[order as usize - 1].1;
        let after = restored(if order == 3 { &far } else { &next }, adopted);
        assert_eq!(after.last_seq(), before.last_seq());
        assert_eq!(after.output_bytes(), before.output_bytes());
        assert_eq!(after.spilled(), before.spilled(), "{order}");
        let ends = before.output_bytes();
        let total: u64 = ends.iter().sum();
        let mut positions = vec![Position::Seq(0), Position::Now];
        for step in 0..30 {
            positions.push(Position::Seq(1 + before.last_seq() * step / 30));
            positions.push(Position::Tail(total * step / 29));
            positions.push(Position::Offsets([ends[0] * step / 29, ends[1] * (29 - step) / 29]));
        }
        for position in positions {
            let (is, was) = (items(&after, position).await, items(before, position).await);
            assert_eq!(is.len(), was.len(), "{order} from {position:?}");
            let differ = is.iter().zip(&was).find(|(is, was)| is != was);
            assert_eq!(differ, None, "{order} from {position:?}");
        }
        assert!(after.memory_bytes() < 64 * 1024, "{}", after.memory_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_daemon_was_killed_has_what_was_written_wherever_that_was_cut_off() {
    let place = place(BOUNDS);
    let journal = place.journal(1);
    journal.append(Event::Accepted { queue_position: 0 });
    fill(&journal, 6_000_000).await;
    until("it is written", || journal.spilled().unwrap().bytes == 6_000_000).await;
    let dead = place.dead("dead");
    let (state, output) = (dead.join("0.run"), dead.join("0.out"));
    let (state_bytes, output_bytes) = (std::fs::read(&state).unwrap(), std::fs::read(&output).unwrap());
    let whole = output_bytes.len();
    for (cut, flipped) in [
        (whole, None),
        (whole - 1, None),
        (whole, Some(whole - 5)),
        (whole, Some(whole - 3_000_000)),
        (whole, Some(100)),
        (4_500_000, None),
        (44, None),
        (3, None),
        (0, None),
    ] {
        let mut bytes = output_bytes[..cut].to_vec();
        if let Some(at) = flipped {
            bytes[at] ^= 0x10;
        }
        std::fs::create_dir_all(&dead).unwrap();
        std::fs::write(&output, bytes).unwrap();
        std::fs::write(&state, &state_bytes).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        std::fs::write(
            dead.join("daemon"),
            serde_json::to_vec(&serde_json::json!({
                "form": 1, "socket": "/run/one.sock", "retain_secs": 600
            }))
            .unwrap(),
        )
        .unwrap();
        let (store, mut left) = place.next(&format!("after {cut} {flipped:?}"));
        assert_eq!(left.len(), 1);
        let after = restored(&store, left.remove(0));
        after.append(finished());
        let ends = after.output_bytes();
        let got = drain(after.reader(0), [0; 2]).await;
        assert_eq!(
            [0, 1].map(|index| got.read[index] + got.lost[index]),
            ends,
            "{cut} {flipped:?}"
        );
        assert_eq!(got.marks, 2);
        let read: u64 = got.read.iter().sum();
        let wanted = flipped.unwrap_or(cut) as u64;
        match flipped {
            // What is damaged far from the end is found when it is read.
            Some(100) => assert!(read < 100, "{read}"),
            _ => assert!(
                read <= wanted && wanted - read < wanted / 20 + 50_000,
                "{cut} {flipped:?}: {read}"
            ),
        }
        after.seal(SEALING);
        until("the seal", || matches!(after.rests(), Rest::Now)).await;
        store.close();
        // And the next one after that has the same, with its end.
        drop((after, store));
        let (store, mut left) = place.next(&format!("later {cut} {flipped:?}"));
        let again = restored(&store, left.remove(0));
        assert!(again.finished().is_some());
        assert_eq!(again.output_bytes(), ends);
        assert_eq!(drain(again.reader(0), [0; 2]).await, got);
        again.discard();
        store.close();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_this_daemons_is_neither_taken_nor_removed_before_its_time() {
    let place = place(BOUNDS);
    ended(&place, 1, true, 10_000).await;
    // Of a daemon that lives: the lock is held.
    let (second, left) = place.next("two");
    assert!(left.is_empty());
    // Of another socket.
    let foreign = place.dead("foreign");
    let told = std::fs::read_to_string(foreign.join("daemon")).unwrap();
    std::fs::write(foreign.join("daemon"), told.replace("one.sock", "other.sock")).unwrap();
    // Of a version that kept nothing, and one that nobody finished making.
    let old = place.dead("old");
    std::fs::remove_file(old.join("daemon")).unwrap();
    std::fs::create_dir(place.directory.path().join("output/.making")).unwrap();
    let (third, left) = place.next("three");
    assert!(left.is_empty());
    let exists = |name: &str| place.directory.path().join("output").join(name).exists();
    assert!(exists("foreign") && exists("one") && exists(".making") && !exists("old"));
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!(mode(&place.files()[0]), 0o600);
    assert_eq!(mode(&place.directory.path().join("output")), 0o700);
    second.close();
    third.close();
    assert!(!exists("two") && !exists("three"), "nothing was in them");
    // Nobody would want it any more.
    std::fs::write(
        foreign.join("daemon"),
        told.replace("one.sock", "other.sock").replace("600", "0"),
    )
    .unwrap();
    std::thread::sleep(Duration::from_millis(5));
    drop(place.next("four"));
    assert!(!exists("foreign"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_could_have_put_there_is_not_trusted() {
    let place = place(BOUNDS);
    for number in 1..=6 {
        ended(&place, number, true, 100_000).await;
    }
    let dead = place.dead("dead");
    let elsewhere = place.directory.path().join("elsewhere");
    std::fs::rename(dead.join("0.run"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, dead.join("0.run")).unwrap();
    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(dead.join("1.run"), open).unwrap();
    std::fs::hard_link(dead.join("2.run"), place.directory.path().join("hard")).unwrap();
    let other_version = {
        let mut bytes = std::fs::read(dead.join("3.run")).unwrap();
        bytes[7] += 1;
        bytes
    };
    std::fs::write(dead.join("3.run"), other_version).unwrap();
    std::fs::write(dead.join("4.run"), "").unwrap();
    nix::unistd::mkfifo(&dead.join("6.run"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    // The output of a whole one is a link to a file of somebody's.
    std::fs::write(place.directory.path().join("secret"), vec![b's'; 200_000]).unwrap();
    std::fs::remove_file(dead.join("5.out")).unwrap();
    std::os::unix::fs::symlink(place.directory.path().join("secret"), dead.join("5.out")).unwrap();
    let (store, mut left) = place.next("two");
    assert_eq!(
        left.iter().map(|run| run.saved.described.order).collect::<Vec<_>>(),
        [6]
    );
    let after = restored(&store, left.remove(0));
    let got = drain(after.reader(0), [0; 2]).await;
    assert_eq!((got.read, got.lost.iter().sum::<u64>()), ([0; 2], 100_000));
    assert!(elsewhere.exists() && place.directory.path().join("secret").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_taken_over_no_more_is_kept_than_may_be() {
    let place = place(BOUNDS);
    for number in 1..=5 {
        ended(&place, number, true, 500_000).await;
    }
    let of = |left: &[Adopted]| left.iter().map(|run| run.saved.described.order).collect::<Vec<_>>();
    let open = |instance: &str, bounds: SpillBounds, retain_for: Duration| {
        let keeper = Keeper { retain_for, ..keeper() };
        SpillStore::open(&place.directory.path().join("output"), instance, bounds, &keeper).unwrap()
    };
    place.dead("dead");
    let less = SpillBounds {
        total_bytes: 1_200_000,
        ..BOUNDS
    };
    let (store, left) = open("two", less, Duration::from_secs(600));
    assert_eq!(of(&left), [4, 5]);
    assert!((1_000_000..1_200_000).contains(&store.used_bytes()));
    // A new run takes the place of the oldest of them.
    let journal = Journal::new(MIN_KEEP_BYTES, To::File(store.clone(), store.file(described(9, true))));
    fill(&journal, 500_000).await;
    until("it is written", || journal.spilled().unwrap().bytes == 500_000).await;
    assert!(left[0].file.is_removed() && !left[1].file.is_removed());
    drop((store, left, journal));
    place.dead("old");
    let (_, left) = open("three", BOUNDS, Duration::ZERO);
    assert_eq!(of(&left).len(), 0, "too long over");
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let refused = SpillStore::open(directory.path(), "one", BOUNDS, &keeper()).unwrap_err();
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
