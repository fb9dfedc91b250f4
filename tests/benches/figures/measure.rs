//! Samples and chance.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Measured values: seconds, or whatever was pushed.
#[derive(Default)]
pub struct Samples {
    values: Vec<f64>,
}

impl Samples {
    pub fn push(&mut self, time: Duration) {
        self.push_number(time.as_secs_f64());
    }

    pub fn push_number(&mut self, value: f64) {
        self.values.push(value);
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// The smallest value that at least `percent` of all do not exceed; NaN without values.
    pub fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }
}

/// Xorshift64: the order of samples needs no better chance, and a seed that can be printed.
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    pub fn seeded() -> Random {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = now.as_nanos() as u64 | 1;
        Random { seed, state: seed }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            items.swap(last, (self.state % (last as u64 + 1)) as usize);
        }
    }
}
