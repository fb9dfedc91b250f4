//! Everything at once, for a while: many runs and sessions, clients that vanish, cancels, floods and time limits. At the end nothing is left,
//! memory is where it was, every run's story is in the audit log, and no byte of output is missing: digests are made inside the sandbox.
//!
//! `FUMEHOOD_SOAK_SECONDS` says for how long, `FUMEHOOD_SOAK_WORKERS` for how many runs at once, `FUMEHOOD_SOAK_SESSIONS` for how many sessions
//! (a tenth of that); without them, a short one. The numbers that a failure prints begin with the seed; `FUMEHOOD_SOAK_SEED` repeats what was asked for, not when it
//! happened.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fumehood_client::proto::v1::attach_start::Position;
use fumehood_client::proto::v1::ending::Kind;
use fumehood_client::proto::v1::run_event::Event;
use fumehood_client::proto::v1::{
    AttachStart, FlowControl, InputMode, ListRequest, ListSessionsRequest, OnDisconnect, OutputOptions, OutputStream,
    RequestedLimits, RunInfo, RunSpec, RunState, SessionState, StartRequest, StreamOffsets, TimeLimit,
};
use fumehood_client::{Client, Session};
use fumehood_tests::{DEADLINE, House, argv, eventually};
use sha2::{Digest, Sha256};

use super::builder;

/// Without other orders.
const SECONDS: u64 = 8;
const WORKERS: u64 = 40;

/// How long a single step may take, with all the others at work on few processors.
const STEP: Duration = Duration::from_secs(120);

/// Connections that those at work share for their calls: a daemon does not take hundreds of handshakes at once. Those who read and vanish have
/// their own.
const CONNECTIONS: u64 = 16;

/// What retained runs and the allocator may make of a difference, in KiB; sanitised or unoptimised builds included.
const SLACK_KIB: u64 = 16 * 1024;

fn ordered(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |value| value.parse().expect(variable))
}

/// Numbers that look random and are the same again for the same seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64, worker: u64) -> Self {
        let mut dice = Dice(seed.wrapping_add(worker.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// What happened, for the record at the end.
#[derive(Default)]
struct Tally {
    counts: [AtomicU64; 8],
}

#[derive(Clone, Copy)]
enum What {
    Intact,
    Cut,
    Cancelled,
    Flooded,
    TimedOut,
    Vanished,
    Lines,
    Resets,
}

impl Tally {
    fn add(&self, what: What) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn told(&self) -> String {
        let names = [
            "digests",
            "cut attachments",
            "cancels",
            "floods",
            "time limits",
            "vanished clients",
            "session lines",
            "resets",
        ];
        let each = names.iter().zip(&self.counts);
        let each: Vec<_> = each
            .map(|(name, count)| format!("{} {name}", count.load(Ordering::Relaxed)))
            .collect();
        each.join(", ")
    }
}

async fn step<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(STEP, future).await {
        Ok(value) => value,
        Err(_) => panic!("no end of it: {what}"),
    }
}

fn kind(run: &RunInfo) -> &Kind {
    let finished = run.finished.as_ref().expect("it is over");
    finished
        .ending
        .as_ref()
        .and_then(|ending| ending.kind.as_ref())
        .expect("an ending")
}

/// One of those who work at the same time.
struct Worker {
    /// Connections for calls; those that are to vanish make their own.
    client: Client,
    socket: std::path::PathBuf,
    workspace: RunSpec,
    dice: Dice,
    tally: Arc<Tally>,
    number: u64,
    /// Runs that were started.
    started: Vec<String>,
}

impl Worker {
    fn spec(&self, script: &str) -> RunSpec {
        RunSpec {
            argv: argv(&["sh", "-c", script]),
            ..self.workspace.clone()
        }
    }

    fn request(&mut self, spec: RunSpec) -> StartRequest {
        let run_id = format!("soak-{}-{}", self.number, self.started.len());
        self.started.push(run_id.clone());
        StartRequest {
            run_id,
            spec: Some(spec),
        }
    }

    async fn start(&mut self, spec: RunSpec) -> String {
        let request = self.request(spec);
        let id = request.run_id.clone();
        step("start", self.client.start(request)).await.expect("start");
        id
    }

    async fn over(&self, id: &str) -> RunInfo {
        step(id, self.client.wait(id, None)).await.expect("wait")
    }

    async fn work(mut self, until: Instant) -> Vec<String> {
        while Instant::now() < until {
            match self.dice.below(10) {
                0..4 => self.intact().await,
                4..6 => self.cancelled().await,
                6 => self.flooded().await,
                7 => self.timed_out().await,
                _ => self.vanished().await,
            }
            // Nobody else's run is forgotten for it.
            let id = self.started.last().expect("a run");
            step("release", self.client.release(id)).await.expect("release");
        }
        self.started
    }

    /// What several clients get in turn, each killed in the middle, is what the command wrote.
    async fn intact(&mut self) {
        let bytes = self.dice.below(1 << 20);
        let script = format!("head -c {bytes} /dev/urandom > /tmp/b; sha256sum < /tmp/b >&2; cat /tmp/b");
        let id = self.start(self.spec(&script)).await;
        let digest = self.joined(&id, bytes).await;
        let run = self.over(&id).await;
        assert!(
            matches!(kind(&run), Kind::Exited(exited) if exited.code == 0),
            "{run:?}"
        );
        assert_eq!(digest.0, digest.1, "of {bytes} bytes of {id}");
        self.tally.add(What::Intact);
    }

    /// The digest of a run's output, and the one that it wrote itself.
    async fn joined(&mut self, id: &str, bytes: u64) -> (String, String) {
        let mut seen = [Vec::new(), Vec::new()];
        loop {
            let client = step("connect", Client::connect_unix(&self.socket))
                .await
                .expect("connect");
            let start = AttachStart {
                run_id: id.to_owned(),
                from_seq: 0,
                position: Some(Position::Offsets(StreamOffsets {
                    stdout: seen[0].len() as u64,
                    stderr: seen[1].len() as u64,
                })),
                tail_end: None,
            };
            let mut run = step("attach", client.attach_at(start)).await.expect("attach");
            let enough = self.dice.below(bytes + 1);
            let mut got = 0;
            loop {
                let Some(event) = step("an event", run.events().next()).await.expect("events") else {
                    let digest = |data: &[u8]| {
                        let digest: [u8; 32] = Sha256::digest(data).into();
                        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
                    };
                    assert_eq!(seen[0].len() as u64, bytes, "{id}");
                    let own = String::from_utf8_lossy(&seen[1]);
                    return (
                        digest(&seen[0]),
                        own.split_whitespace().next().unwrap_or_default().to_owned(),
                    );
                };
                match event.event {
                    Some(Event::Output(output)) => {
                        let index = usize::from(output.stream() == OutputStream::Stderr);
                        assert_eq!(output.offset, seen[index].len() as u64, "{id}");
                        seen[index].extend_from_slice(&output.data);
                        got += output.data.len() as u64;
                    }
                    Some(Event::Gap(gap)) => panic!("{id} lost output: {gap:?}"),
                    _ => {}
                }
                // Its connection is gone as if it had been killed: nothing is said.
                if got > enough {
                    self.tally.add(What::Cut);
                    break;
                }
            }
        }
    }

    async fn cancelled(&mut self) {
        let id = self
            .start(self.spec("setsid sleep 1000 & sleep 1000 & trap '' TERM; sleep 1000; wait"))
            .await;
        tokio::time::sleep(self.dice.millis(300)).await;
        let grace = [Some(Duration::ZERO), Some(Duration::from_millis(50))][self.dice.below(2) as usize];
        let run = step("kill", self.client.kill(id.as_str(), grace, "soak"))
            .await
            .expect("kill");
        assert!(matches!(kind(&run), Kind::Cancelled(_)), "{run:?}");
        self.tally.add(What::Cancelled);
    }

    /// More than is kept, and nobody reads it.
    async fn flooded(&mut self) {
        let bytes = 4 << 20;
        let mut spec = self.spec(&format!("head -c {bytes} /dev/zero"));
        spec.output = Some(OutputOptions {
            keep_bytes: Some(64 * 1024),
            ..OutputOptions::default()
        });
        let id = self.start(spec).await;
        let run = self.over(&id).await;
        let usage = run.finished.as_ref().and_then(|finished| finished.usage.as_ref());
        assert_eq!(usage.map(|usage| usage.stdout_bytes), Some(bytes), "{run:?}");
        self.tally.add(What::Flooded);
    }

    async fn timed_out(&mut self) {
        let mut spec = self.spec("echo begun; sleep 1000 & sleep 1000");
        // From the command's start on.
        spec.limits = Some(RequestedLimits {
            wall: Some(prost_types::Duration {
                seconds: 0,
                nanos: 300_000_000,
            }),
            grace: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
            ..RequestedLimits::default()
        });
        let id = self.start(spec).await;
        let run = self.over(&id).await;
        assert!(
            matches!(kind(&run), Kind::TimedOut(limit) if limit.limit() == TimeLimit::Wall),
            "{run:?}"
        );
        self.tally.add(What::TimedOut);
    }

    /// A client that is gone with its connection, and a run that ends with it.
    async fn vanished(&mut self) {
        let mut spec = self.spec("cat; sleep 1000");
        spec.input = InputMode::Stream.into();
        spec.on_disconnect = OnDisconnect::Kill.into();
        spec.output = Some(OutputOptions {
            flow: FlowControl::Block.into(),
            ..OutputOptions::default()
        });
        let request = self.request(spec);
        let id = request.run_id.clone();
        let client = step("connect", Client::connect_unix(&self.socket))
            .await
            .expect("connect");
        let run = step("run", client.run(request)).await.expect("run");
        tokio::time::sleep(self.dice.millis(300)).await;
        drop((run, client));
        let run = self.over(&id).await;
        assert!(matches!(kind(&run), Kind::Cancelled(_)), "{run:?}");
        self.tally.add(What::Vanished);
    }
}

/// Who works in a session of its own: lines that count in a variable of the shell, bytes with digests, servers that stay.
struct Resident {
    client: Client,
    house: std::path::PathBuf,
    dice: Dice,
    tally: Arc<Tally>,
    number: u64,
    lines: u64,
    started: Vec<String>,
}

impl Resident {
    async fn work(mut self, until: Instant) -> Vec<String> {
        let mut generation = 0;
        while Instant::now() < until {
            generation += 1;
            let session = self.client.session().id(format!("soak-{}-{generation}", self.number));
            let session = step("create", session.workspace(&self.house).create())
                .await
                .expect("create");
            let lines = 1 + self.dice.below(40);
            self.live(&session, lines, until).await;
            let closed = step("close", session.close()).await.expect("close");
            assert_eq!(closed.state(), SessionState::Closed, "{closed:?}");
        }
        self.started
    }

    async fn live(&mut self, session: &Session, lines: u64, until: Instant) {
        let mut count = 0;
        let mut servers = 0;
        for _ in 0..lines {
            if Instant::now() >= until {
                return;
            }
            count += 1;
            let server = self.dice.below(4) == 0;
            let line = format!(
                "export COUNT=$((COUNT+1)); echo $COUNT $(cat /tmp/servers 2>/dev/null | wc -l); {}",
                if server {
                    "sleep 1000 & echo $! >> /tmp/servers"
                } else {
                    "cd /tmp && cd -P ."
                }
            );
            let out = self.line(session, &line).await;
            assert_eq!(out, format!("{count} {servers}\n"), "{line:?} in {}", session.id());
            servers += u64::from(server);
            match self.dice.below(12) {
                0 => {
                    let reset = step("reset", session.reset()).await.expect("reset");
                    assert_eq!(reset.state(), SessionState::Open, "{reset:?}");
                    (count, servers) = (0, 0);
                    self.tally.add(What::Resets);
                }
                1 => {
                    let alive = "for pid in $(cat /tmp/servers 2>/dev/null); do kill -0 $pid || echo $pid is gone; done; echo ok";
                    assert_eq!(self.line(session, alive).await, "ok\n", "{}", session.id());
                }
                2 => self.bytes(session).await,
                3 => self.killed(session).await,
                _ => {}
            }
        }
    }

    fn id(&mut self) -> String {
        self.lines += 1;
        let id = format!("resident-{}-{}", self.number, self.lines);
        self.started.push(id.clone());
        id
    }

    async fn line(&mut self, session: &Session, line: &str) -> String {
        let command = session.shell(line).id(self.id());
        let output = step(line, command.output()).await.expect("output");
        assert!(output.status.success(), "{line:?} {output:?}");
        self.tally.add(What::Lines);
        String::from_utf8(output.stdout).expect("text")
    }

    async fn bytes(&mut self, session: &Session) {
        let bytes = self.dice.below(1 << 20);
        let script = format!("head -c {bytes} /dev/urandom > /tmp/b; sha256sum < /tmp/b >&2; cat /tmp/b");
        let command = session.command("sh").args(["-c", &script]).id(self.id());
        let output = step("bytes", command.output()).await.expect("output");
        let digest: [u8; 32] = Sha256::digest(&output.stdout).into();
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let own = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(own.split_whitespace().next(), Some(digest.as_str()), "{bytes} bytes");
        self.tally.add(What::Intact);
    }

    /// The end of one run is not that of the others.
    async fn killed(&mut self, session: &Session) {
        let id = self.id();
        let request = session
            .shell("(setsid sleep 1000 &) ; sleep 1000")
            .id(&id)
            .request()
            .expect("a request");
        step("start", self.client.start(request)).await.expect("start");
        tokio::time::sleep(self.dice.millis(200)).await;
        let run = step("kill", self.client.kill(id, Some(Duration::ZERO), "soak"))
            .await
            .expect("kill");
        assert!(matches!(kind(&run), Kind::Cancelled(_)), "{run:?}");
        self.tally.add(What::Cancelled);
    }
}

/// Resident memory in KiB, and open descriptors, of a process.
fn held(pid: i32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    let kib = line.trim().trim_end_matches(" kB").parse().expect("a number");
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count();
    (kib, descriptors)
}

/// Everybody works until the time is over; gives the runs that were started.
async fn phase(house: &House, seed: u64, round: u64, time: Duration, tally: &Arc<Tally>) -> Vec<String> {
    let workers = ordered("FUMEHOOD_SOAK_WORKERS", WORKERS);
    let until = Instant::now() + time;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(house.client().await);
    }
    let client = |number: u64| clients[(number % CONNECTIONS) as usize].clone();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..workers {
        let number = round * 10_000 + worker;
        let worker = Worker {
            client: client(worker),
            socket: house.socket(),
            workspace: house.spec(&[]),
            dice: Dice::new(seed, number),
            tally: Arc::clone(tally),
            number,
            started: Vec::new(),
        };
        tasks.spawn(worker.work(until));
    }
    for resident in 0..ordered("FUMEHOOD_SOAK_SESSIONS", workers / 10) {
        let number = round * 10_000 + 5_000 + resident;
        let resident = Resident {
            client: client(resident),
            house: house.workspace(),
            dice: Dice::new(seed, number),
            tally: Arc::clone(tally),
            number,
            lines: 0,
            started: Vec::new(),
        };
        tasks.spawn(resident.work(until));
    }
    let mut started = Vec::new();
    while let Some(done) = tasks.join_next().await {
        started.extend(done.expect("nobody failed"));
    }
    started
}

/// No run lives, no session, no process but the daemon's own.
async fn nothing_goes_on(house: &House) {
    let client = house.client().await;
    let live = [
        RunState::Queued,
        RunState::Starting,
        RunState::Running,
        RunState::Ending,
    ];
    let request = ListRequest {
        states: live.map(i32::from).to_vec(),
        ..ListRequest::default()
    };
    let listed = client.list(request).await.expect("list");
    assert!(listed.runs.is_empty(), "{:?}", listed.runs);
    let open = [SessionState::Starting, SessionState::Open, SessionState::Closing];
    let request = ListSessionsRequest {
        states: open.map(i32::from).to_vec(),
        ..ListSessionsRequest::default()
    };
    let listed = client.list_sessions(request).await.expect("list");
    assert!(listed.sessions.is_empty(), "{:?}", listed.sessions);
    eventually(DEADLINE, "an end of all processes", || {
        (house.below_daemon().len() == 2).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_much_of_everything_at_once_nothing_is_left_or_missing() {
    let seconds = ordered("FUMEHOOD_SOAK_SECONDS", SECONDS);
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock");
    let seed = ordered("FUMEHOOD_SOAK_SEED", clock.as_secs());
    println!("seed {seed}, {seconds} s");
    // Few runs are kept, so that the memory of those that are is soon as large as it gets, and enough for each worker to find its own when it
    // has its turn; all of them can run at once.
    let retained = (ordered("FUMEHOOD_SOAK_WORKERS", WORKERS) * 3).max(100);
    let house = builder()
        .config(&format!(
            "max_runs = 1000\nretained_runs = {retained}\nmax_sessions = 100"
        ))
        .build();
    let tally = Arc::new(Tally::default());
    // A first part, after which everything that grows once has grown.
    let warm_up = Duration::from_secs(seconds) / 3;
    let mut started = phase(&house, seed, 0, warm_up, &tally).await;
    nothing_goes_on(&house).await;
    let (daemon, launcher) = (house.daemon().pid, house.launcher().pid);
    let before = [held(daemon), held(launcher)];
    started.extend(phase(&house, seed, 1, Duration::from_secs(seconds) - warm_up, &tally).await);
    nothing_goes_on(&house).await;
    let after = [held(daemon), held(launcher)];
    println!("{} runs: {}", started.len(), tally.told());
    println!("memory in KiB and descriptors, daemon and launcher: {before:?}, then {after:?}");
    for ((memory, descriptors), (later, now)) in before.into_iter().zip(after) {
        assert!(
            later <= memory + memory / 4 + SLACK_KIB,
            "seed {seed}: {before:?} {after:?}"
        );
        assert!(now <= descriptors + 8, "seed {seed}: {before:?} {after:?}");
    }

    // Each run's story: one intent, one end.
    let mut told: HashMap<String, [u32; 2]> = HashMap::new();
    for record in house.records() {
        let index = match record["kind"].as_str() {
            Some("intent") => 0,
            Some("end") => 1,
            _ => continue,
        };
        told.entry(record["run_id"].as_str().expect("an id").to_owned())
            .or_default()[index] += 1;
    }
    for id in &started {
        let found = told.remove(id).unwrap_or_default();
        // What was cancelled before its sandbox was asked for was never allowed to start.
        assert!(
            found == [1, 1] || found == [0, 0],
            "seed {seed}: {id} has {found:?} records"
        );
        if found == [0, 0] {
            assert!(!id.starts_with("resident"), "seed {seed}: {id} is not in the log");
        }
    }
    assert!(told.is_empty(), "seed {seed}: nobody asked for {told:?}");
    let verified = house.cli().args(["audit", "verify"]).args([house.audit()]).finish();
    verified.expect(0);
    house.end();
}
