//! How long a policy of 50 rules takes to judge a command line. `cargo bench -p fumehood-policies` prints for each line the median and the 99th
//! percentile in microseconds, over rounds of 100 judgements, and the median as a part of starting /bin/true in the same run; it ends with 1
//! when the median of an ordinary line is more than 50.

mod bare;

use std::hint::black_box;
use std::time::{Duration, Instant};

use fumehood_policies::{Decision, Policy, Request, RequestedLimits, Tool};

/// Beyond this a decision would be seen next to the start of a process, about a millisecond.
const MOST: Duration = Duration::from_micros(50);
const ROUNDS: usize = 200;
const PER_ROUND: u32 = 100;

/// Ordinary command lines; the last one is not, and has no bound.
const LINES: &[(&str, &[&str])] = &[
    ("one program", &["cargo", "test", "--workspace", "--locked"]),
    (
        "git behind options",
        &["git", "-C", "x", "--no-pager", "push", "origin", "main"],
    ),
    ("bash -c, one command", &["bash", "-c", "rg -n TODO src"]),
    (
        "bash -c, a list",
        &["bash", "-lc", "cd x && git status | head -5 > /dev/null; echo done"],
    ),
    (
        "wrappers",
        &[
            "timeout",
            "10",
            "env",
            "A=1",
            "nice",
            "-n",
            "5",
            "bash",
            "-c",
            "make test",
        ],
    ),
    (
        "a script of 12 commands",
        &[
            "bash",
            "-euo",
            "pipefail",
            "-c",
            "for x in 1 2; do if [ -e a ]; then cp a b; else touch a; fi; done\nx=$(git rev-parse HEAD)\nls \"$x\" | \
             sort -u | wc -l && (cd y; cargo build) || { echo failed >&2; exit 1; }",
        ],
    ),
];

fn policy() -> Policy {
    let mut text = "version = 1\nname = \"fifty\"\n[commands]\ndefault = \"ask\"\n".to_owned();
    for number in 0..50 {
        let decision = ["allow", "ask", "deny"][number % 3];
        text += &format!(
            "[[commands.rules]]\nprogram = [\"tool{number}\", \"other{number}*\"]\nargs = [[\"push\", \"pull\"], \"x*\"]\n\
             has = [\"--force\", \"-f\"]\ndecision = \"{decision}\"\nreason = \"Number {number}.\"\n"
        );
    }
    // Rules that the lines above meet.
    text = text
        .replace("\"tool1\"", "\"git\"")
        .replace("\"tool2\"", "\"cargo\"")
        .replace("\"tool3\"", "\"rg\"");
    Policy::parse(text.as_bytes(), "bench").unwrap_or_else(|errors| panic!("{errors}"))
}

fn main() {
    // `cargo test --benches` asks for the same with `--test`: then once is enough.
    let rounds = if std::env::args().any(|arg| arg == "--test") {
        1
    } else {
        ROUNDS
    };
    let policy = policy();
    let bare = bare::start(rounds);
    println!("{:<26} {:>8} {:>12} {:>16}", "", "median", "p99", "of fork+exec");
    let mut slow = false;
    for (index, (name, line)) in LINES.iter().enumerate() {
        let argv: Vec<Vec<u8>> = line.iter().map(|word| word.as_bytes().to_vec()).collect();
        let request = Request {
            tool: Tool::Shell,
            argv: &argv,
            caller_env: &[],
            env: &[],
            limits: RequestedLimits::default(),
        };
        let mut times: Vec<Duration> = (0..rounds)
            .map(|_| {
                let started = Instant::now();
                for _ in 0..PER_ROUND {
                    let decision: Decision = black_box(&policy).decide(black_box(&request));
                    drop(black_box(decision));
                }
                started.elapsed() / PER_ROUND
            })
            .collect();
        times.sort();
        let median = times[times.len() / 2];
        let late = times[times.len() * 99 / 100];
        println!(
            "{name:<26} {:>8.1} us {:>9.1} us {:>14.2} %",
            median.as_secs_f64() * 1e6,
            late.as_secs_f64() * 1e6,
            100.0 * median.as_secs_f64() / bare.as_secs_f64(),
        );
        slow |= rounds > 1 && median > MOST && index + 1 < LINES.len();
    }
    if slow {
        eprintln!("an ordinary line took more than {} us", MOST.as_micros());
        std::process::exit(1);
    }
}
