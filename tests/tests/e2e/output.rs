//! Output without loss: attaching from anywhere, readers of any speed, the file with the whole of it, input that is repeated.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fumehood_client::proto::v1::attach_start::Position;
use fumehood_client::proto::v1::{
    AttachRequest, AttachStart, CancelCause, InputMode, OnDisconnect, OutputLayout, OutputOptions, OutputSpill,
    OutputStream, ReadRequest, RunSpec, RunState, StartRequest, Stdin, StreamOffsets, TerminalSize, attach_request,
    ending::Kind, run_event::Event, runs_client::RunsClient,
};
use fumehood_client::{Client, Error, Input, RunHandle};
use fumehood_tests::{DEADLINE, House, Told, eventually, is_root, send, within};

use super::{builder, house};

/// The smallest memory for output: everything else comes from the file.
const LITTLE: u64 = 64 * 1024;

fn start(id: &str, spec: RunSpec) -> StartRequest {
    StartRequest {
        run_id: id.to_owned(),
        spec: Some(spec),
    }
}

/// A script whose output is kept in little memory.
fn little(house: &House, script: &str) -> RunSpec {
    RunSpec {
        output: Some(OutputOptions {
            keep_bytes: Some(LITTLE),
            ..OutputOptions::default()
        }),
        ..house.script(script)
    }
}

async fn attach_at(client: &Client, id: &str, position: Position) -> Result<RunHandle, Error> {
    let start = AttachStart {
        run_id: id.to_owned(),
        from_seq: 0,
        position: Some(position),
        tail_end: None,
    };
    within("attach", client.attach_at(start)).await
}

fn offsets(stdout: u64, stderr: u64) -> Position {
    Position::Offsets(StreamOffsets { stdout, stderr })
}

async fn info(client: &Client, id: &str) -> fumehood_client::proto::v1::RunInfo {
    within("the state", client.get(id)).await.expect("a run")
}

/// Waits until a run's state is such.
async fn until(
    client: &Client,
    id: &str,
    what: &str,
    is: impl Fn(&fumehood_client::proto::v1::RunInfo) -> bool,
) -> fumehood_client::proto::v1::RunInfo {
    let gave_up = Instant::now() + DEADLINE;
    loop {
        let run = info(client, id).await;
        if is(&run) {
            return run;
        }
        assert!(Instant::now() < gave_up, "{what} does not come about: {run:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The daemon's highest memory use so far, in bytes.
fn peak(house: &House) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", house.daemon().pid)).expect("the daemon's status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    let kibibytes: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("a number");
    kibibytes * 1024
}

fn sha256(data: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum");
    child.stdin.take().expect("its input").write_all(data).expect("write");
    let told = child.wait_with_output().expect("its end").stdout;
    String::from_utf8_lossy(&told[..64]).into_owned()
}

/// The directory of a daemon's files of output, and what is in it.
fn spill_files(house: &House) -> Vec<PathBuf> {
    let instances = fs::read_dir(house.path("state/output")).into_iter().flatten().flatten();
    let files = instances.flat_map(|instance| fs::read_dir(instance.path()).into_iter().flatten().flatten());
    files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "out"))
        .collect()
}

/// Numbers that differ enough from each other; xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_two_hundred_times_has_every_byte_in_the_end() {
    let house = house();
    let script = "(for i in $(seq 1 400); do seq $i 7 $((i+20000)); sleep 0.01; done) | tee copy; sha256sum < copy >&2";
    let mut spec = little(&house, script);
    spec.on_disconnect = OnDisconnect::Keep.into();
    let client = house.client().await;
    let mut first = within("the run", client.run(start("killed-often", spec)))
        .await
        .unwrap();
    let _ = within("an event", first.events().next()).await.unwrap();
    drop((first, client));

    let seed = u64::from(std::process::id()) << 20 | 1;
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    let mut got = [Vec::new(), Vec::new()];
    let (mut last_seq, mut kills, mut while_it_ran) = (0, 0, 0);
    loop {
        let client = house.client().await;
        // By number and by offset in turn.
        let mut attached = match kills % 2 {
            0 => within("attach", client.attach_stream("killed-often", last_seq + 1))
                .await
                .unwrap(),
            _ => attach_at(
                &client,
                "killed-often",
                offsets(got[0].len() as u64, got[1].len() as u64),
            )
            .await
            .unwrap(),
        };
        let mut left = match kills {
            200 => u64::MAX,
            _ => random.below(6),
        };
        let mut finished = false;
        while left > 0 && !finished {
            let Some(event) = within("an event", attached.events().next()).await.unwrap() else {
                break;
            };
            left -= 1;
            match event.event.unwrap() {
                Event::Output(output) => {
                    let stream = &mut got[usize::from(output.stream() == OutputStream::Stderr)];
                    assert_eq!(output.offset, stream.len() as u64, "after {kills} kills");
                    stream.extend_from_slice(&output.data);
                    last_seq = event.seq;
                }
                Event::Gap(gap) => panic!("{gap:?}"),
                Event::Finished(_) => finished = true,
                _ => {}
            }
        }
        // Neither side says goodbye.
        drop((attached, client));
        if kills == 200 {
            break;
        }
        kills += 1;
        while_it_ran += u32::from(!finished);
    }
    assert!(while_it_ran > 100, "{while_it_ran} kills before the end was told");
    let [out, err] = got;
    assert!(out.len() > 4_000_000, "{}", out.len());
    assert_eq!(String::from_utf8_lossy(&err), format!("{}  -\n", sha256(&out)));
    assert!(out == fs::read(house.workspace().join("copy")).unwrap());
}

/// What the daemon may take for a child that prints without end and readers that do not keep up: itself, and for each reader a block
/// of the file and what HTTP/2 lets it send ahead.
const MEMORY: u64 = 128 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_any_speed_hold_nobody_up_and_take_little_memory() {
    const BYTES: u64 = 1 << 30;
    let house = house();
    let client = house.client().await;
    let mut spec = house.spec(&["head", "-c", &BYTES.to_string(), "/dev/zero"]);
    spec.output = Some(OutputOptions::default());
    let before = peak(&house);
    let id = client.start(start("fast", spec)).await.unwrap().run.unwrap().run_id;
    // One that never reads, one that takes a little now and then, one that reads what it can.
    let other = house.client().await;
    let stuck = within("attach", other.attach_stream(&id, 0)).await.unwrap();
    let third = house.client().await;
    let mut slow = within("attach", third.attach_stream(&id, 0)).await.unwrap();
    let fast = tokio::spawn({
        let client = house.client().await;
        let id = id.clone();
        async move {
            let mut fast = client.attach_stream(&id, 0).await.unwrap();
            let mut bytes = 0;
            while let Some(event) = within("an event", fast.events().next()).await.unwrap() {
                match event.event.unwrap() {
                    Event::Output(output) => bytes += output.data.len() as u64,
                    Event::Gap(gap) => panic!("{gap:?}"),
                    _ => {}
                }
            }
            bytes
        }
    });
    let began = Instant::now();
    let mut slowly = 0;
    while info(&client, &id).await.finished.is_none() {
        assert!(began.elapsed() < 4 * DEADLINE, "the child is held up");
        if let Some(Event::Output(output)) = within("an event", slow.events().next()).await.unwrap().unwrap().event {
            slowly += output.data.len() as u64;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    assert!(slowly < BYTES / 4, "{slowly} is not slow");
    assert_eq!(fast.await.unwrap(), BYTES);
    // The slow one still gets all of it.
    while let Some(event) = within("an event", slow.events().next()).await.unwrap() {
        match event.event.unwrap() {
            Event::Output(output) => slowly += output.data.len() as u64,
            Event::Gap(gap) => panic!("{gap:?}"),
            _ => {}
        }
    }
    assert_eq!(slowly, BYTES);
    drop(stuck);
    let peak = peak(&house);
    println!(
        "1 GiB printed in {took:?} beside slow readers: daemon {} MiB before, {} MiB at most",
        before >> 20,
        peak >> 20
    );
    assert!(peak < MEMORY, "{peak} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_begins_where_it_is_told_to() {
    let house = house();
    let client = house.client().await;
    let mut spec = little(&house, "seq 1 200000; echo done >&2; read line; echo last $line");
    spec.input = InputMode::Stream.into();
    client.start(start("anywhere", spec)).await.unwrap();
    let run = until(&client, "anywhere", "its output", |run| {
        run.output_bytes.as_ref().is_some_and(|bytes| bytes.stderr == 5)
    })
    .await;
    let length = run.output_bytes.unwrap().stdout;
    let whole: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(length, whole.len() as u64);
    let mut now = attach_at(&client, "anywhere", Position::Now(true)).await.unwrap();
    until(&client, "anywhere", "a follower", |run| run.followers == 1).await;
    now.input().send_stdin(Bytes::from_static(b"words\n")).await.unwrap();
    let told = Told::all(now.events()).await;
    assert_eq!(told.order()[..2], ["accepted", "started"]);
    assert_eq!(told.output(OutputStream::Stderr), b"");
    let last = told.events.iter().find_map(|event| match &event.event {
        Some(Event::Output(output)) => Some((output.offset, output.data.clone())),
        _ => None,
    });
    assert_eq!(last, Some((length, Bytes::from_static(b"last words\n"))));
    until(&client, "anywhere", "nobody", |run| run.followers == 0).await;

    let whole = whole + "last words\n";
    for from in [0, 1, 31_000, 32_768, 500_000, 1_000_000, whole.len() - 1, whole.len()] {
        let mut attached = attach_at(&client, "anywhere", offsets(from as u64, 5)).await.unwrap();
        let told = Told::all(attached.events()).await;
        let mut next = from;
        for event in &told.events {
            match event.event.as_ref().unwrap() {
                Event::Output(output) => {
                    assert_eq!((output.stream(), output.offset), (OutputStream::Stdout, next as u64));
                    assert_eq!(output.data, whole.as_bytes()[next..next + output.data.len()]);
                    next += output.data.len();
                }
                Event::Gap(gap) => panic!("{gap:?}"),
                _ => {}
            }
        }
        assert_eq!(next, whole.len(), "from {from}");
    }
    for tail in [0, 1, 10, 50_000, 1_000_000, u64::MAX] {
        let mut attached = attach_at(&client, "anywhere", Position::TailBytes(tail)).await.unwrap();
        let told = Told::all(attached.events()).await;
        assert!(told.gaps().is_empty());
        let got: u64 = told
            .events
            .iter()
            .map(|event| match &event.event {
                Some(Event::Output(output)) => output.data.len() as u64,
                _ => 0,
            })
            .sum();
        assert_eq!(got, tail.min(whole.len() as u64 + 5));
    }
    for (position, field) in [(offsets(u64::MAX, 0), "stdout"), (offsets(0, 6), "stderr")] {
        let refused = attach_at(&client, "anywhere", position).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Invalid { .. }) && refused.to_string().contains(field),
            "{refused:?}"
        );
    }
    let both = AttachStart {
        run_id: "anywhere".to_owned(),
        from_seq: 2,
        position: Some(Position::TailBytes(1)),
        tail_end: None,
    };
    assert!(matches!(client.attach_at(both).await, Err(Error::Invalid { .. })));
    for (position, stdout) in [(Position::TailBytes(1), u64::MAX), (Position::Now(true), 0)] {
        let wrong = AttachStart {
            run_id: "anywhere".to_owned(),
            from_seq: 0,
            position: Some(position),
            tail_end: Some(StreamOffsets { stdout, stderr: 0 }),
        };
        let refused = client.attach_at(wrong).await.unwrap_err();
        assert!(refused.to_string().contains("attach.tail_end"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_by_offset_waits_for_what_is_not_there_yet() {
    let house = house();
    let client = house.client().await;
    let mut spec = little(&house, "seq 1 100000; read go; echo more; echo other >&2");
    spec.input = InputMode::Stream.into();
    client.start(start("read-me", spec)).await.unwrap();
    let read = |stream: OutputStream, offset: u64, seconds: u64| {
        let request = ReadRequest {
            run_id: "read-me".to_owned(),
            stream: stream.into(),
            offset,
            max_bytes: 100_000,
            wait: Some(fumehood_client::proto::convert::duration_from_std(Duration::from_secs(
                seconds,
            ))),
        };
        let client = client.clone();
        async move { within("the bytes", client.read(request)).await }
    };
    let whole: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    let mut got = Vec::new();
    while got.len() < whole.len() {
        let part = read(OutputStream::Stdout, got.len() as u64, 20).await.unwrap();
        assert_eq!((part.offset, part.lost_bytes, part.end), (got.len() as u64, 0, false));
        assert!(!part.data.is_empty() && part.data.len() <= 100_000);
        got.extend_from_slice(&part.data);
    }
    assert!(got == whole.as_bytes());
    let at = got.len() as u64;
    let nothing = read(OutputStream::Stdout, at, 0).await.unwrap();
    assert_eq!((nothing.data.len(), nothing.end, nothing.total_bytes), (0, false, at));
    let (waited, ()) = tokio::join!(read(OutputStream::Stdout, at, 20), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let attached = client.attach_stream("read-me", 0).await.unwrap();
        attached.input().send_stdin(Bytes::from_static(b"go\n")).await.unwrap();
        until(&client, "read-me", "its end", |run| run.state() == RunState::Finished).await;
    });
    assert_eq!(waited.unwrap().data, "more\n");
    let end = read(OutputStream::Stdout, at + 5, 20).await.unwrap();
    assert_eq!((end.data.len(), end.end), (0, true));
    let other = read(OutputStream::Stderr, 2, 20).await.unwrap();
    assert_eq!(
        (&other.data[..], other.end, other.total_bytes),
        (&b"her\n"[..], true, 6)
    );
    for (stream, offset, seconds) in [
        (OutputStream::Stdout, at + 6, 0),
        (OutputStream::Unspecified, 0, 0),
        (OutputStream::Stdout, 0, 61),
    ] {
        let refused = read(stream, offset, seconds).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_output_is_in_the_order_in_which_it_was_written() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("for i in $(seq 1 2000); do echo out $i; echo err $i >&2; done; exit 3");
    spec.output = Some(OutputOptions {
        layout: OutputLayout::Merged.into(),
        ..OutputOptions::default()
    });
    let told = send(&client, spec).await;
    let expected: String = (1..=2000).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert_eq!(told.out(), expected);
    assert_eq!(told.err(), "");
    assert_eq!(
        *told.ending(),
        Kind::Exited(fumehood_client::proto::v1::Exited { code: 3 })
    );
    let closed = told.closed();
    assert_eq!(closed.len(), 1, "there is one stream: {closed:?}");
    assert_eq!(
        (closed[0].stream(), closed[0].total_bytes),
        (OutputStream::Stdout, expected.len() as u64)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_repeated_is_written_once_and_a_gap_is_refused() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("cat");
    spec.input = InputMode::Stream.into();
    client.start(start("echo", spec)).await.unwrap();
    let stdin = |offset: u64, data: &'static str, eof: bool| {
        Input::Stdin(Stdin {
            data: Bytes::from_static(data.as_bytes()),
            eof,
            offset: Some(offset),
        })
    };
    let first = within("attach", client.attach_stream("echo", 0)).await.unwrap();
    first.input().send(stdin(0, "one two ", false)).await.unwrap();
    until(&client, "echo", "its input", |run| run.input_bytes == 8).await;
    drop(first);
    // Begins anew, as somebody who does not know what arrived.
    let again = within("attach", client.attach_stream("echo", 0)).await.unwrap();
    again.input().send(stdin(0, "one two ", false)).await.unwrap();
    again.input().send(stdin(4, "two three", false)).await.unwrap();
    until(&client, "echo", "its input", |run| run.input_bytes == 13).await;
    let mut wrong = within("attach", client.attach_stream("echo", 0)).await.unwrap();
    wrong.input().send(stdin(20, "x", false)).await.unwrap();
    let refused = loop {
        match within("the refusal", wrong.events().next()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended in order"),
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("from byte 13"), "{refused}");
    let mut last = within("attach", client.attach_stream("echo", 0)).await.unwrap();
    last.input().send(stdin(13, " four\n", true)).await.unwrap();
    last.input().send(stdin(13, " four\n", true)).await.unwrap();
    last.input().close_stdin().await.unwrap();
    let told = Told::all(last.events()).await;
    assert_eq!(told.out(), "one two three four\n");
    assert_eq!(info(&client, "echo").await.input_bytes, 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_lingers_for_as_long_as_it_was_told_and_while_somebody_follows() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("sleep 100");
    spec.on_disconnect = OnDisconnect::Linger.into();
    spec.linger = Some(fumehood_client::proto::convert::duration_from_std(
        Duration::from_millis(700),
    ));
    let started = |event: &Event| matches!(event, Event::Started(_));
    let mut first = within("the run", client.run(start("lingers", spec.clone())))
        .await
        .unwrap();
    Told::until(first.events(), started).await;
    drop(first);
    let mut second = within("attach", client.attach_stream("lingers", 0)).await.unwrap();
    Told::until(second.events(), started).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let run = info(&client, "lingers").await;
    assert_eq!(
        (run.state(), run.followers),
        (RunState::Running, 1),
        "somebody follows it"
    );
    let left = Instant::now();
    drop(second);
    let run = within("the end", client.wait("lingers", None)).await.unwrap();
    assert!(left.elapsed() >= Duration::from_millis(650), "{:?}", left.elapsed());
    let ending = run.finished.unwrap().ending.unwrap().kind.unwrap();
    assert!(
        matches!(&ending, Kind::Cancelled(cancelled) if cancelled.cause() == CancelCause::Disconnect),
        "{ending:?}"
    );
    for (on_disconnect, seconds) in [
        (OnDisconnect::Kill, 1),
        (OnDisconnect::Linger, 0),
        (OnDisconnect::Linger, 86_401),
    ] {
        let mut wrong = spec.clone();
        wrong.on_disconnect = on_disconnect.into();
        wrong.linger = Some(fumehood_client::proto::convert::duration_from_std(Duration::from_secs(
            seconds,
        )));
        let refused = client.start(start("", wrong)).await.unwrap_err();
        assert!(refused.to_string().contains("spec.linger"), "{refused}");
    }
}

/// What a run says whose file could not take everything: all that was written is accounted for.
async fn with_a_gap(client: &Client, id: &str, bytes: u64) {
    let mut late = within("attach", client.attach_stream(id, 0)).await.unwrap();
    let told = Told::all(late.events()).await;
    assert_eq!(
        *told.ending(),
        Kind::Exited(fumehood_client::proto::v1::Exited { code: 0 })
    );
    let lost: u64 = told.gaps().iter().map(|gap| gap.stdout_bytes).sum();
    assert!(lost > 0);
    assert_eq!(told.output(OutputStream::Stdout).len() as u64 + lost, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_bounds_of_files_a_run_goes_on_and_says_so() {
    let mut house = builder()
        .config("[output]\nrun_bytes = \"1 MiB\"\nreserve_bytes = \"0 B\"")
        .build();
    let client = house.client().await;
    client
        .start(start("bound", little(&house, "head -c 5000000 /dev/zero")))
        .await
        .unwrap();
    let run = within("the end", client.wait("bound", None)).await.unwrap();
    let spill = run.spill.unwrap();
    assert_eq!(spill.stopped, "limit");
    // With what memory kept of the end, which is written when the run is over.
    assert!(spill.bytes <= (1 << 20) + LITTLE && spill.bytes > 500_000, "{spill:?}");
    with_a_gap(&client, "bound", 5_000_000).await;
    let mut none = little(&house, "echo nothing");
    none.output.as_mut().unwrap().spill = OutputSpill::No.into();
    let told = send(&client, none).await;
    assert_eq!(info(&client, told.id()).await.spill, None);
    drop(client);
    house.stop();
}

/// A file system of its own, of so many MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mebibytes: u32) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let options = format!("size={mebibytes}m,mode=700");
        disk.call(&["mount", "-t", "tmpfs", "-o", &options, "none"]);
        disk
    }

    fn call(&self, arguments: &[&str]) {
        let done = Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(self.0.path())
            .status();
        assert!(done.expect("mount").success(), "{arguments:?}");
    }

    /// Of the daemon's configuration.
    fn section(&self, reserve: &str) -> String {
        format!("[output]\ndir = {:?}\nreserve_bytes = {reserve:?}", self.0.path())
    }

    fn free(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(self.0.path()).unwrap();
        found.blocks_available() * found.fragment_size()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.call(&["umount", "-l"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reserved_on_the_disk_stays_free() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new(16);
    let mut house = builder().config(&disk.section("6 MiB")).build();
    let client = house.client().await;
    client
        .start(start("greedy", little(&house, "head -c 30000000 /dev/zero")))
        .await
        .unwrap();
    within("the end", client.wait("greedy", None)).await.unwrap();
    // Its end, which memory has, is written then as far as there is room.
    let run = until(&client, "greedy", "its end in the file", |_| disk.free() < 8 << 20).await;
    let spill = run.spill.unwrap();
    assert_eq!(spill.stopped, "disk_full");
    assert!(spill.bytes > 8_000_000, "{spill:?}");
    assert!(disk.free() >= 6 << 20, "{} bytes are free", disk.free());
    drop(client);
    house.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_the_oldest_output_makes_room_for_the_newest() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new(16);
    let mut house = builder().config(&disk.section("1 MiB")).build();
    let client = house.client().await;
    for id in ["one", "two", "three"] {
        client
            .start(start(id, little(&house, "head -c 6000000 /dev/zero")))
            .await
            .unwrap();
        within("the end", client.wait(id, None)).await.unwrap();
        let run = until(&client, id, "its file", |run| {
            run.spill.as_ref().unwrap().bytes == 6_000_000
        })
        .await;
        assert_eq!(run.spill.unwrap().stopped, "", "{id}");
    }
    let stopped = async |id| info(&client, id).await.spill.unwrap().stopped;
    assert_eq!(
        (stopped("one").await, stopped("two").await),
        ("removed".to_owned(), String::new())
    );
    // What is too much for it all the same takes as much as there is.
    client
        .start(start("four", little(&house, "head -c 30000000 /dev/zero")))
        .await
        .unwrap();
    within("the end", client.wait("four", None)).await.unwrap();
    let spill = info(&client, "four").await.spill.unwrap();
    assert_eq!(spill.stopped, "disk_full");
    assert!(spill.bytes > 12_000_000, "{spill:?}");
    drop(client);
    house.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_does_not_end_a_run() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new(2);
    let config = disk.section("0 B");
    let mut house = builder().config(&config).build();
    let client = house.client().await;
    client
        .start(start("full", little(&house, "head -c 9000000 /dev/zero")))
        .await
        .unwrap();
    let run = within("the end", client.wait("full", None)).await.unwrap();
    let spill = run.spill.unwrap();
    assert_eq!(spill.stopped, "disk_full");
    assert!(spill.bytes > 1_000_000, "{spill:?}");
    with_a_gap(&client, "full", 9_000_000).await;
    // With room again, the next run has its file.
    client.release("full").await.unwrap();
    client
        .start(start("next", little(&house, "head -c 1000000 /dev/zero")))
        .await
        .unwrap();
    within("the end", client.wait("next", None)).await.unwrap();
    let run = until(&client, "next", "its file", |run| {
        run.spill.as_ref().unwrap().bytes == 1_000_000
    })
    .await;
    assert_eq!(run.spill.unwrap().stopped, "");
    drop(client);
    house.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_output_go_in_time_though_nobody_asks() {
    let mut house = builder().config("retain_for = \"2s\"").build();
    let client = house.client().await;
    send(&client, house.script("echo kept")).await;
    drop(client);
    let written = eventually(DEADLINE, "a file", || {
        Some(spill_files(&house)).filter(|files| !files.is_empty())
    });
    let state = written[0].with_extension("run");
    eventually(DEADLINE, "their end", || {
        (!written[0].exists() && !state.exists()).then_some(())
    });
    house.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_output_go_with_their_runs_and_outlive_their_daemons() {
    let mut house = house();
    let client = house.client().await;
    let told = send(&client, house.script("echo kept")).await;
    let id = told.id().to_owned();
    let files = eventually(DEADLINE, "a file", || {
        Some(spill_files(&house)).filter(|files| !files.is_empty())
    });
    assert_eq!(files.len(), 1);
    // Commands cannot reach it, whatever they try.
    let path = files[0].to_str().unwrap();
    let tried = send(
        &client,
        house.script(&format!("cat {path} || ls -R {}", house.path("state").display())),
    )
    .await;
    assert!(
        !tried.out().contains("kept") && !tried.out().contains(".out"),
        "{}",
        tried.out()
    );
    client.release(&id).await.unwrap();
    eventually(DEADLINE, "the file's end", || (!files[0].exists()).then_some(()));
    send(&client, house.script("echo left")).await;
    eventually(DEADLINE, "a file", || {
        Some(spill_files(&house)).filter(|files| !files.is_empty())
    });
    drop(client);
    house.kill_daemon();
    let left = spill_files(&house);
    assert!(!left.is_empty(), "nobody was there to remove it");
    house.start_daemon();
    assert!(left.iter().any(|file| file.exists()), "{left:?}");
    let client = house.client().await;
    for run in client.list(Default::default()).await.unwrap().runs {
        client.release(run.run_id).await.unwrap();
    }
    drop(client);
    house.stop();
    let empty = fs::read_dir(house.path("state/output")).unwrap().next().is_none();
    assert!(empty, "a daemon without runs leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_terminal_is_not_resized() {
    let house = house();
    let client = house.client().await;
    client.start(start("plain", house.script("sleep 100"))).await.unwrap();
    let uri = format!("unix://{}", house.socket().display());
    let channel = tonic::transport::Endpoint::from_shared(uri)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let messages = [
        attach_request::Message::Attach(AttachStart {
            run_id: "plain".to_owned(),
            ..AttachStart::default()
        }),
        attach_request::Message::Resize(TerminalSize { rows: 30, columns: 90 }),
    ];
    let messages = messages.map(|message| AttachRequest { message: Some(message) });
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    for message in messages {
        sender.send(message).await.unwrap();
    }
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut events = RunsClient::new(channel).attach(stream).await.unwrap().into_inner();
    let refused = loop {
        match within("the refusal", events.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended in order"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    within("the end", client.kill("plain", Some(Duration::ZERO), "done"))
        .await
        .unwrap();
}
