//! Clients that mean ill, or are broken: they flood, stall, stay silent, never read. Each is still there when the daemon is asked to
//! work for somebody else, and when its memory is looked at.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fumehood_client::Error;
use fumehood_client::proto::convert::duration_from_std;
use fumehood_client::proto::v1::{ListRequest, RequestedLimits, RunState, StartRequest, ending::Kind};
use fumehood_tests::{House, eventually, within};

use super::{builder, house};

/// How much one flood may add to the daemon's resident memory.
const MEMORY_BOUND: u64 = 64 << 20;

/// Within this time somebody else is served, also in a debug build on a busy machine.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types of RFC 9113, section 6.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A call's headers, without compression (RFC 7541, section 6.2.2; the first bytes are entries of its static table).
fn headers() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (&[0x04][..], "/fumehood.v1.Runs/Start"),
        (&[0x01], "localhost"),
        (&[0x0f, 0x10], "application/grpc"),
        (&[0x00, 2, b't', b'e'], "trailers"),
    ] {
        block.extend(name);
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    block
}

fn memory(house: &House) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", house.daemon().pid)).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Open descriptors of the daemon, which only root can count: the daemon lets nobody else look into it.
fn descriptors(house: &House) -> usize {
    match std::fs::read_dir(format!("/proc/{}/fd", house.daemon().pid)) {
        Ok(entries) => entries.count(),
        Err(error) => {
            assert!(!fumehood_tests::is_root(), "{error}");
            0
        }
    }
}

/// What must hold while the flood's connections are still held.
fn still_serves(house: &House, before: u64, what: &str) {
    let started = Instant::now();
    house.sh("true").expect(0);
    assert!(started.elapsed() < SERVED_WITHIN, "{what}: {:?}", started.elapsed());
    let now = memory(house);
    assert!(
        now < before + MEMORY_BOUND,
        "{what}: {} MiB before, {} MiB after",
        before >> 20,
        now >> 20
    );
    assert!(!house.log().contains("panicked"), "{what}: {}", house.log());
}

/// A connection that has said what HTTP/2 wants first.
fn connect(house: &House) -> UnixStream {
    let mut stream = UnixStream::connect(house.socket()).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    stream
}

/// Writes until the daemon has had enough (closes, or takes no more because nobody reads its answers) or `most` pieces are written. True when
/// it had enough.
fn flood(stream: &mut UnixStream, most: u32, mut piece: impl FnMut(u32) -> Vec<u8>) -> bool {
    for batch in 0..most / 100 {
        let bytes: Vec<u8> = (0..100).flat_map(|n| piece(batch * 100 + n)).collect();
        if stream.write_all(&bytes).is_err() {
            return true;
        }
    }
    false
}

/// Whether the daemon closes the connection, whatever it says before.
fn is_closed(stream: &mut UnixStream) -> bool {
    let mut bytes = [0; 16 * 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
            }
        }
    }
}

#[test]
fn thousands_of_connections_that_say_nothing_keep_nobody_out() {
    let house = house();
    house.sh("true").expect(0);
    let before = memory(&house);
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let count = 10_000.min(hard.saturating_sub(500) as usize);
    // Some say nothing at all, some begin the preface and stop.
    let held: Vec<_> = (0..count)
        .map(|n| {
            let mut stream = UnixStream::connect(house.socket()).unwrap();
            let _ = stream.write_all(&PREFACE[..n % PREFACE.len()]);
            stream
        })
        .collect();
    still_serves(&house, before, "silent connections");
    assert!(descriptors(&house) < 1000, "{}", descriptors(&house));
    drop(held);
}

#[test]
fn connections_that_never_make_a_call_give_way_to_those_that_do() {
    let house = house();
    house.sh("true").expect(0);
    let before = memory(&house);
    let held: Vec<_> = (0..1500).map(|_| connect(&house)).collect();
    still_serves(&house, before, "idle connections");
    assert!(descriptors(&house) < 1000, "{}", descriptors(&house));
    drop(held);
}

#[test]
fn floods_of_frames_end_their_connection_and_cost_little() {
    let house = house();
    house.sh("true").expect(0);
    let before = memory(&house);
    let mut held = Vec::new();
    type Piece = fn(u32) -> Vec<u8>;
    // Client's streams have odd numbers.
    let reset: Piece = |n| {
        let call = frame(HEADERS, END_HEADERS, 2 * n + 1, &headers());
        [call, frame(RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes())].concat()
    };
    let block: Piece = |n| match n {
        0 => frame(HEADERS, 0, 1, &headers()),
        _ => frame(CONTINUATION, 0, 1, &[0x00, 1, b'x', 1, b'y'].repeat(200)),
    };
    let pings: Piece = |_| frame(PING, 0, 0, &[0; 8]);
    let settings: Piece = |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
    let nothing: Piece = |_| frame(WINDOW_UPDATE, 0, 0, &0u32.to_be_bytes());
    let away: Piece = |_| frame(GOAWAY, 0, 0, &[0; 8]);
    let garbage: Piece = |n| frame(n as u8, n as u8, n, &[0xff; 64]);
    // A call each, with nothing behind it: more than may be open on one connection.
    let calls: Piece = |n| frame(HEADERS, END_HEADERS, 2 * n + 1, &headers());
    for (what, piece, most, must_end) in [
        ("rapid reset", reset, 50_000, true),
        ("endless headers", block, 5_000, true),
        ("pings", pings, 200_000, true),
        ("settings", settings, 200_000, true),
        ("empty window updates", nothing, 1_000, true),
        ("garbage", garbage, 1_000, true),
        ("goodbyes", away, 1_000, false),
        ("calls without a message", calls, 20_000, false),
    ] {
        let mut stream = connect(&house);
        let ended = flood(&mut stream, most, piece);
        assert!(
            !must_end || ended || is_closed(&mut stream),
            "{what}: nothing stopped it"
        );
        still_serves(&house, before, what);
        held.push(stream);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_end_are_held_within_one_budget() {
    const MESSAGE: u32 = 8 << 20;
    let house = house();
    house.sh("true").expect(0);
    let before = memory(&house);
    let mut tasks = tokio::task::JoinSet::new();
    let mut connections = Vec::new();
    // One to a connection: on a shared one, those that wait for budget use its window up.
    for _ in 0..48 {
        let stream = tokio::net::UnixStream::connect(house.socket()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        connections.push(tokio::spawn(connection));
        let request = http::Request::post("http://localhost/fumehood.v1.Runs/Start")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        client = client.ready().await.unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        tasks.spawn(async move {
            let prefix = [&[0][..], &MESSAGE.to_be_bytes()].concat();
            body.send_data(prefix.into(), false).unwrap();
            // All but the end, as fast as the daemon takes it.
            let mut left = MESSAGE as usize - 1;
            while left > 0 {
                body.reserve_capacity(left.min(64 * 1024));
                let Some(Ok(granted)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else {
                    break;
                };
                let sent = granted.min(left);
                if sent > 0 && body.send_data(Bytes::from(vec![0; sent]), false).is_err() {
                    break;
                }
                left -= sent;
            }
            let _body = body;
            drop(response.await);
        });
    }
    // 48 messages of 8 MiB are 384 MiB; 64 MiB may be here, and on each connection what flow control lets run ahead.
    let patience = Instant::now() + Duration::from_secs(4);
    let mut most = 0;
    while Instant::now() < patience {
        most = most.max(memory(&house));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A buffer grows by doubling, so twice the budget for a moment.
    assert!(most < before + 3 * (64 << 20), "{} MiB", (most - before) >> 20);
    assert!(most > before + (16 << 20), "the test sends too little to show anything");
    // Another of the same user's clients with a small message waits for no budget.
    within("a list", house.client().await.list(ListRequest::default()))
        .await
        .unwrap();
    tasks.abort_all();
    connections.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_or_none_is_refused_with_details() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("true");
    spec.argv.extend((0..90).map(|_| Bytes::from(vec![b'x'; 100_000])));
    let request = StartRequest {
        run_id: String::new(),
        spec: Some(spec),
    };
    let refused = [
        client.start(request.clone()).await.map(drop).unwrap_err(),
        match client.run(request).await {
            Err(error) => error,
            Ok(mut run) => run.events().next().await.map(drop).unwrap_err(),
        },
    ];
    for error in refused {
        let Error::Invalid { message, violations } = error else {
            panic!("{error:?}")
        };
        assert_eq!(violations[0].field, "message", "{message}");
        assert!(message.contains("8388608"), "{message}");
    }
    let stream = tokio::net::UnixStream::connect(house.socket()).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for (what, bytes, code) in [
        ("no message of ours", &b"\0\0\0\0\x03\xff\xff\xff"[..], "3"),
        ("an unknown flag", b"\x09\0\0\0\0", "3"),
        ("half a prefix", b"\0\0", "13"),
    ] {
        let request = http::Request::post("http://localhost/fumehood.v1.Runs/Start")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, mut body) = client.clone().send_request(request, false).unwrap();
        body.send_data(Bytes::copy_from_slice(bytes), true).unwrap();
        let response = within(what, response).await.unwrap();
        let status = response
            .headers()
            .get("grpc-status")
            .map(|code| code.to_str().unwrap().to_owned());
        assert_eq!(status.as_deref(), Some(code), "{what}: {:?}", response.headers());
        assert_eq!(
            code == "3",
            response.headers().contains_key("grpc-status-details-bin"),
            "{what}"
        );
    }
    connection.abort();
    house.sh("true").expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_holds_neither_memory_nor_the_deadline() {
    let house = house();
    let client = house.client().await;
    within("a run", house.client().await.list(ListRequest::default()))
        .await
        .unwrap();
    let before = memory(&house);
    let mut runs = Vec::new();
    for n in 0..4 {
        let mut spec = house.script("yes");
        spec.limits = Some(RequestedLimits {
            wall: Some(duration_from_std(Duration::from_secs(2))),
            ..Default::default()
        });
        let request = StartRequest {
            run_id: format!("unread-{n}"),
            spec: Some(spec),
        };
        runs.push(client.run(request).await.unwrap());
    }
    let other = house.client().await;
    for n in 0..4 {
        let run = within("its deadline", other.wait(format!("unread-{n}"), None))
            .await
            .unwrap();
        let ending = run.finished.unwrap().ending.unwrap().kind;
        assert!(matches!(ending, Some(Kind::TimedOut(_))), "{ending:?}");
    }
    let now = memory(&house);
    assert!(now < before + MEMORY_BOUND, "{} MiB", (now - before) >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_be_given_up_at_any_moment() {
    let house = builder().config("max_runs = 4").build();
    let client = house.client().await;
    let mut given_up = Vec::new();
    for n in 0..40u64 {
        let request = StartRequest {
            run_id: format!("given-up-{n}"),
            spec: Some(house.script("setsid sleep 86400 & sleep 86400")),
        };
        let (client, delay) = (client.clone(), Duration::from_micros(n * n * 60));
        given_up.push(tokio::spawn(async move {
            // In the call, in the queue, while the sandbox is made, while the command runs.
            let _ = tokio::time::timeout(delay, async {
                // A connection on which many streams are given up at once may be ended; what it started is given up as well.
                if let Ok(mut run) = client.run(request).await {
                    while run.events().next().await.is_ok_and(|event| event.is_some()) {}
                }
            })
            .await;
        }));
    }
    for task in given_up {
        task.await.unwrap();
    }
    let gave_up = Instant::now() + Duration::from_secs(20);
    loop {
        let all = client.list(ListRequest::default()).await.unwrap().runs;
        if all.iter().all(|run| run.state() == RunState::Finished) {
            break;
        }
        assert!(Instant::now() < gave_up, "{all:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually(Duration::from_secs(5), "the end of every process", || {
        let left = fumehood_tests::holding(&house.workspace());
        (!left.iter().any(|process| process.comm == "sleep")).then_some(())
    });
    house.sh("true").expect(0);
}
