//! What a daemon that was taken over from leaves to its successor.
//!
//! For a moment both take requests: the old one over connections that it has accepted, the new one over others. A client that repeats a request
//! over a new connection, under the same id, must not have it twice. So the new daemon asks the old one before it begins anything under an
//! id that a client chose, and the old one begins nothing under it from then on.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// After this time no old connection brings anything new: they were told to end after two seconds, and what does not answer is cut by the keep-alive
/// (40 seconds).
const PERIOD: Duration = Duration::from_secs(60);

/// Ids that are kept, at most: more than are asked for in that time.
const MAX_IDS: usize = 100_000;

/// The ids that are the successor's.
#[derive(Debug)]
pub struct Claims {
    since: Instant,
    ids: HashSet<String>,
    /// There were too many.
    full: bool,
}

impl Claims {
    /// From `now` on.
    pub fn new(now: Instant) -> Claims {
        Claims {
            since: now,
            ids: HashSet::new(),
            full: false,
        }
    }

    /// Leaves an id to the successor.
    pub fn leave(&mut self, id: String, now: Instant) {
        self.full |= self.ids.len() >= MAX_IDS;
        match self.is_past(now) {
            true => self.ids = HashSet::new(),
            false => drop(self.ids.insert(id)),
        }
    }

    /// Whether nothing new may begin here under an id.
    pub fn forbids(&self, id: &str, now: Instant) -> bool {
        self.is_past(now) || self.ids.contains(id)
    }

    fn is_past(&self, now: Instant) -> bool {
        self.full || now.duration_since(self.since) >= PERIOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_the_successors_begins_nothing_and_after_a_minute_none_does() {
        let start = Instant::now();
        let mut claims = Claims::new(start);
        claims.leave("a".to_owned(), start);
        assert!(claims.forbids("a", start) && !claims.forbids("b", start));
        let late = start + PERIOD;
        assert!(claims.forbids("b", late));
        claims.leave("c".to_owned(), late);
        assert!(claims.ids.is_empty(), "nothing is kept that is not needed");
        assert!(claims.forbids("a", late));
    }

    #[test]
    fn too_many_ids_end_the_time_early() {
        let start = Instant::now();
        let mut claims = Claims::new(start);
        (0..=MAX_IDS).for_each(|number| claims.leave(number.to_string(), start));
        assert!(claims.forbids("another", start) && claims.ids.is_empty());
    }
}
