//! The kept inputs, and mutants of them that are the same every time. `FUMEHOOD_FUZZ_SECONDS=600` goes on with random ones for so long,
//! all targets together; `tests/fuzz/run` does that guided by coverage, which finds more.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use fumehood_fuzz::{TARGETS, Target, corpus};

/// Mutants of each kept input in an ordinary test.
const MUTANTS: u32 = 20;

/// Longest input tried.
const MAX_BYTES: usize = 64 * 1024;

/// xorshift64*: the same sequence for the same seed on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn kept(target: &Target) -> Vec<Vec<u8>> {
    let directory = corpus(target);
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// One to four changes of the kinds that parsers fall over.
fn mutate(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = [0, 0x7f, 0x80, 0xff, b'"', b'\n', b'[', b'.'][random.below(8)],
            3 => bytes.insert(at, random.next() as u8),
            4 if at < bytes.len() => drop(bytes.drain(at..(at + 1 + random.below(16)).min(bytes.len()))),
            5 => {
                let piece = &bytes[at..(at + 1 + random.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => {
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

/// Runs an input; one that breaks a promise is saved, and the test fails with its path.
fn try_input(target: &Target, input: &[u8]) {
    if std::panic::catch_unwind(|| (target.run)(input)).is_err() {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let sum = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let path = directory.join(format!("crash-{}-{sum:016x}", target.name));
        std::fs::write(&path, input).expect("save the input");
        panic!(
            "target {} broke on {} ({} bytes: {}); mend it and keep the input in {}",
            target.name,
            path.display(),
            input.len(),
            String::from_utf8_lossy(&input[..input.len().min(200)]).escape_debug(),
            corpus(target).display()
        );
    }
}

fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let inputs = kept(target);
    assert!(inputs.len() >= 3, "the corpus of {name} is gone");
    for input in &inputs {
        try_input(target, input);
    }
    let mut random = Random(0x5eed);
    for input in &inputs {
        for _ in 0..MUTANTS {
            let other = &inputs[random.below(inputs.len())];
            try_input(target, &mutate(input, other, &mut random));
        }
    }
    let seconds: u64 = match std::env::var("FUMEHOOD_FUZZ_SECONDS") {
        Ok(text) => text.parse().expect("FUMEHOOD_FUZZ_SECONDS is a number of seconds"),
        Err(_) => return,
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut random = Random(now.as_nanos() as u64 | 1);
    let end = Instant::now() + Duration::from_secs(seconds) / TARGETS.len() as u32;
    while Instant::now() < end {
        let (input, other) = (random.below(inputs.len()), random.below(inputs.len()));
        try_input(target, &mutate(&inputs[input], &inputs[other], &mut random));
    }
}

#[test]
fn any_policy_is_taken_or_refused_with_places() {
    replay("policy");
}

#[test]
fn any_command_line_is_read() {
    replay("command");
}

#[test]
fn any_configuration_is_taken_or_refused() {
    replay("config");
}

#[test]
fn any_request_is_taken_or_refused_with_details() {
    replay("request");
}

#[test]
fn any_message_between_the_processes_is_taken_or_refused() {
    replay("messages");
}

#[test]
fn any_change_of_git_configuration_is_refused_or_brings_no_program() {
    replay("git-config");
}

#[test]
fn any_state_of_a_run_is_read_up_to_what_is_whole() {
    replay("state");
}

#[test]
fn anything_that_a_shell_leaves_is_carried_within_bounds_or_not_at_all() {
    replay("shell-state");
}

#[test]
fn any_audit_log_is_verified_and_opened_or_refused() {
    replay("audit");
}

#[test]
fn every_target_is_replayed() {
    let here = include_str!("replay.rs");
    for target in TARGETS {
        assert!(
            here.contains(&format!("replay(\"{}\")", target.name)),
            "{}",
            target.name
        );
    }
}
