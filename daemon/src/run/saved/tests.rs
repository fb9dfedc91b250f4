use std::sync::Arc;
use std::time::UNIX_EPOCH;

use fumehood_sandbox::event::{DiskResource, Leftover};
use fumehood_sandbox::spec::{Protection, State};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::approvals::{Answer, Means, Resolution};
use crate::peer::Identity;
use crate::run::model::{
    CancelCause, Denial, Denials, Ending, Enforcement, Evidence, Finished, Operation, Question, Requirement, Started,
    Stream, Subject, TimeLimit, Usage,
};

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn endings() -> Vec<Ending> {
    let text = || "x".to_owned();
    vec![
        Ending::Exited { code: 3 },
        Ending::Signaled { signal: 9, core: true },
        Ending::TimedOut {
            limit: TimeLimit::Idle,
            after: Duration::from_millis(5),
        },
        Ending::Cancelled {
            cause: CancelCause::Disconnect,
            by: text(),
            reason: text(),
        },
        Ending::OutOfMemory { limit_bytes: 7 },
        Ending::OutputLimit {
            stream: Stream::Stderr,
            limit_bytes: 8,
        },
        Ending::DiskLimit {
            resource: DiskResource::Files,
            limit: 9,
            used: 10,
        },
        Ending::Denied {
            rule: text(),
            explanation: text(),
        },
        Ending::SpawnFailed {
            stage: text(),
            errno: 2,
            path: vec![0xff],
        },
        Ending::SandboxFailed {
            protection: Some(Protection::Network),
            stage: text(),
            errno: 1,
            path: Vec::new(),
            hint: text(),
        },
        Ending::Lost { why: text() },
    ]
}

fn events() -> Vec<Event> {
    let denial = Denial {
        protection: Protection::SystemCalls,
        operation: Operation::Call,
        subject: Subject::SystemCall("mount".to_owned()),
        rule: "r".to_owned(),
        remedy: String::new(),
        evidence: Evidence::Inferred,
    };
    let mut events = vec![
        Event::Accepted { queue_position: 2 },
        Event::ApprovalRequested(Question {
            approval_id: "q".to_owned(),
            commands: vec!["git push".to_owned()],
            rule: "commands.rules[3]".to_owned(),
            reason: "why".to_owned(),
            expires_at: time(60),
        }),
        Event::ApprovalResolved {
            approval_id: "q".to_owned(),
            resolution: Resolution {
                answer: Answer::AllowSession,
                means: Means::Terminal,
                by: "uid:0".to_owned(),
                reason: String::new(),
                rule_ids: vec!["1".to_owned()],
            },
        },
        Event::Started(Arc::new(Started {
            enforcement: vec![Enforcement {
                protection: Protection::Resources,
                state: State::Degraded("d".to_owned()),
                requirement: Requirement::Preferred,
            }],
            policy_name: "default".to_owned(),
            policy_digest: [4; 32],
            pid: 2,
            limits: fumehood_policies::builtin("default").unwrap().1.limits,
            layers: vec!["default".to_owned()],
            not_given: vec!["network".to_owned()],
        })),
    ];
    events.extend([
        Event::Denial(denial.clone()),
        Event::Closed {
            stream: Stream::Stderr,
            total_bytes: 5,
            end_of_file: true,
        },
    ]);
    events.extend(endings().into_iter().map(|status| Event::Exited {
        status,
        leftovers: vec![Leftover {
            pid: 7,
            comm: b"sleep".to_vec(),
        }],
        leftover_count: 1,
    }));
    events.push(Event::Finished(Arc::new(Finished {
        ending: Ending::Exited { code: 0 },
        usage: Usage {
            wall: Duration::from_micros(1),
            fork_failures: Some(4),
            from_cgroup: Some(true),
            output_bytes: [1, 2],
            ..Usage::default()
        },
        denials: Denials {
            list: vec![denial],
            count: 3,
        },
        not_carried: String::new(),
        recorded: None,
    })));
    events
}

fn frames() -> Vec<Frame> {
    let described = Described {
        id: "build".to_owned(),
        peer: Peer {
            identity: Identity::Certificate {
                name: "ci.example".to_owned(),
            },
            allowed: true,
        },
        digest: [1; 32],
        argv: vec![b"sh\xff".to_vec()],
        workspace: Path::new("/w").into(),
        cwd: Path::new("/w").into(),
        policy_name: "default".to_owned(),
        policy_digest: [2; 32],
        labels: [("a".to_owned(), "b".to_owned())].into(),
        accepted_at: time(0),
        order: 1_700_000_000_000_000_000,
        whole: true,
        session: None,
        terminal: Some(TerminalSize { rows: 24, columns: 80 }),
    };
    let events = events();
    let count = events.len() as u64;
    let happened = events.into_iter().zip(1..).map(|(event, n)| Happened {
        seq: n * 2,
        time: time(n),
        before: [n, 0],
        event,
    });
    let sealed = Sealed {
        next_seq: count * 2 + 1,
        end: [count, 0],
        input_bytes: 6,
        terminal: None,
        output: Output {
            written_seq: 3,
            file_bytes: 100,
            output_bytes: 10,
            ends: [2, 0],
            stopped: Some("limit".to_owned()),
            hole: Some(Hole {
                seq: 1,
                before: [0, 0],
                next_seq: 3,
                next_before: [1, 0],
                time: time(3),
            }),
            places: vec![Place {
                at: 8,
                seq: 1,
                before: [0; 2],
            }],
        },
    };
    let mut frames = vec![Frame::Described(described)];
    frames.extend(happened.map(Frame::Happened));
    frames.push(Frame::Sealed(sealed));
    frames
}

fn file() -> (Vec<u8>, Vec<usize>) {
    let mut bytes = MAGIC.to_vec();
    let mut ends = Vec::new();
    for frame in frames() {
        bytes.extend(encode(&frame).unwrap());
        ends.push(bytes.len());
    }
    (bytes, ends)
}

#[test]
fn what_was_saved_is_read() {
    let (bytes, _) = file();
    let saved = read(&bytes).unwrap();
    assert_eq!(saved.bytes, bytes.len() as u64);
    let mut frames = frames().into_iter();
    let Some(Frame::Described(described)) = frames.next() else {
        panic!()
    };
    assert_eq!(saved.described, described);
    let Some(Frame::Sealed(sealed)) = frames.next_back() else {
        panic!()
    };
    assert_eq!(saved.sealed, Some(sealed));
    let happened: Vec<_> = frames.map(|frame| format!("{frame:?}")).collect();
    let read: Vec<_> = saved
        .happened
        .into_iter()
        .map(|event| format!("{:?}", Frame::Happened(event)))
        .collect();
    assert_eq!(read, happened);
}

/// A change of any type that is saved changes this, and has to change [`VERSION`] with it.
#[test]
fn the_form_is_that_of_its_version() {
    let (bytes, _) = file();
    let digest: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        (VERSION, digest.as_str()),
        (1, "67aa6ce1c049ef37893c9bb33ce540175d13f16fa545c3094e3b30aa04401a54")
    );
}

#[test]
fn a_file_that_is_cut_short_counts_up_to_its_last_whole_frame() {
    let (bytes, ends) = file();
    for cut in 0..bytes.len() {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        match read(&bytes[..cut]) {
            Ok(saved) => {
                assert_eq!(saved.happened.len() + 1, whole, "{cut}");
                assert_eq!(saved.bytes, ends[whole - 1] as u64);
                assert!(saved.sealed.is_none());
            }
            Err(error) => assert_eq!(whole, 0, "{cut}: {error}"),
        }
    }
}

#[test]
fn a_flipped_bit_ends_the_file_before_it() {
    let (bytes, ends) = file();
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let whole = ends.iter().filter(|end| **end <= at).count();
        match read(&bytes) {
            Ok(saved) => assert_eq!(saved.happened.len() + 1, whole, "{at}"),
            Err(_) => assert_eq!(whole, 0, "{at}"),
        }
    }
    let mut other = bytes.clone();
    other[7] = VERSION + 1;
    assert_eq!(read(&other).unwrap_err(), Unreadable::Version(VERSION + 1));
    assert_eq!(read(b"#!/bin/sh -x").unwrap_err(), Unreadable::Other);
}

#[test]
fn frames_in_another_order_than_they_can_come_are_not_taken() {
    let mut frames = frames();
    let seal = frames.pop().unwrap();
    let finished = frames.pop().unwrap();
    let described = frames.remove(0);
    let bytes = |frames: &[&Frame]| {
        let encoded = frames.iter().flat_map(|frame| encode(frame).unwrap());
        MAGIC.into_iter().chain(encoded).collect::<Vec<u8>>()
    };
    let read = |frames: &[&Frame]| read(&bytes(frames));
    assert_eq!(read(&[&frames[0]]).unwrap_err(), Unreadable::Undescribed);
    assert!(read(&[&described, &seal]).unwrap().sealed.is_none(), "not over");
    assert_eq!(read(&[&described, &frames[1], &frames[0]]).unwrap().happened.len(), 1);
    assert_eq!(read(&[&described, &finished, &frames[0]]).unwrap().happened.len(), 1);
    assert_eq!(read(&[&described, &described]).unwrap().happened.len(), 0);
    assert!(read(&[&described, &finished, &seal]).unwrap().sealed.is_some());
}
