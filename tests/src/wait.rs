//! Conditions with a deadline, for what gives no event to wait for.

use std::time::{Duration, Instant};

/// Longest time anything in these tests may take before it counts as hanging.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// First and longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Looks until there is a value.
///
/// # Panics
/// When there is none in time; `what` is what was waited for.
#[track_caller]
pub fn eventually<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let (gave_up, mut pause) = (Instant::now() + deadline, PAUSES.0);
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < gave_up, "not within {deadline:?}: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// The value of a future that must not hang.
///
/// # Panics
/// When it is not there within [`DEADLINE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}
