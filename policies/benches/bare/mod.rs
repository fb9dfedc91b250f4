//! What a decision is compared with: starting a program that does nothing, and waiting for its end.

use std::process::Command;
use std::time::{Duration, Instant};

/// The median of so many starts of /bin/true; printed as well.
pub fn start(times: usize) -> Duration {
    let mut found: Vec<Duration> = (0..times.max(1))
        .map(|_| {
            let started = Instant::now();
            let ended = Command::new("/bin/true").status();
            assert!(ended.is_ok_and(|status| status.success()), "/bin/true cannot be run");
            started.elapsed()
        })
        .collect();
    found.sort();
    let median = found[found.len() / 2];
    println!("fork and exec of /bin/true: {:.1} us", median.as_secs_f64() * 1e6);
    median
}
