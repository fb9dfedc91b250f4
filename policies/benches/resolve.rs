//! How long it takes to read and resolve policies, to decide by one and to narrow one. Prints medians, 99th percentiles and
//! the median as a part of starting /bin/true in the same run; fails nothing.

mod bare;

use std::hint::black_box;
use std::time::{Duration, Instant};

use fumehood_policies::{Decision, Policy, PolicyFile, Request, RequestedLimits, Tool, builtin, builtin_file, resolve};

/// Of so many calls.
const CALLS: usize = 300;

/// The median and the 99th percentile.
fn measured(mut call: impl FnMut()) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..CALLS)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed()
        })
        .collect();
    times.sort();
    (times[CALLS / 2], times[CALLS * 99 / 100])
}

fn main() {
    let (text, default) = builtin("default").expect("built in");
    let file = builtin_file("default").expect("built in");
    let extending = "version = 1\nname = \"x\"\nextends = [\"default\", \"rust\", \"node\"]\n";
    let argv = [b"cargo".to_vec(), b"test".to_vec()];
    let caller_env: Vec<_> = std::env::vars()
        .map(|(name, value)| (name.into_bytes(), value.into_bytes()))
        .collect();
    let request = Request {
        tool: Tool::Shell,
        argv: &argv,
        caller_env: &caller_env,
        env: &[],
        limits: RequestedLimits::default(),
    };
    let (_, rust) = builtin("rust").expect("built in");
    let none = |reference: &fumehood_policies::Reference| -> Result<PolicyFile, fumehood_policies::LoadError> {
        panic!("nothing is read here: {reference}")
    };
    let bare = bare::start(CALLS);
    println!("{:42} {:>8} {:>12} {:>16}", "", "median", "p99", "of fork+exec");
    let report = |what: &str, (median, late): (Duration, Duration)| {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let part = 100.0 * us(median) / us(bare);
        println!("{what:42} {:>8.1} us {:>9.1} us {part:>14.2} %", us(median), us(late));
    };
    report(
        "default: parse the file",
        measured(|| drop(black_box(PolicyFile::parse(text.as_bytes(), "default")))),
    );
    report("default: resolve", measured(|| drop(black_box(resolve(file, &none)))));
    report(
        "default: parse and resolve (goal: 1000)",
        measured(|| drop(black_box(Policy::parse(text.as_bytes(), "default")))),
    );
    report(
        "default + rust + node: parse and resolve",
        measured(|| drop(black_box(Policy::parse(extending.as_bytes(), "x")))),
    );
    report("default: print", measured(|| drop(black_box(default.to_toml()))));
    report(
        "rust narrowed by default",
        measured(|| drop(black_box(rust.narrowed_by(&default)))),
    );
    report(
        "default: decide (goal: 50)",
        measured(|| match black_box(default.decide(&request)) {
            Decision::Allowed(_) => {}
            other => panic!("{other:?}"),
        }),
    );
}
