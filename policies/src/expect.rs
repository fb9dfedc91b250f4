//! Expectations: whether a policy is what it is said to be for.

use crate::allows::Facts;
use crate::error::ParseErrors;
use crate::explain::Answer;
use crate::file::{Expectation, Expected};
use crate::parse;
use crate::resolve::Resolved;

/// An expectation that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    /// What was expected.
    pub expected: Expected,
    /// What the policy says, and why.
    pub answer: Answer,
    /// Where the expectation stands: `file:line`.
    pub place: String,
}

impl Tried {
    /// Whether it is as expected.
    pub fn holds(&self) -> bool {
        self.expected == self.answer.verdict
    }
}

impl Resolved {
    /// Tries expectations in their order. A command is allowed, asked about or denied; for everything else a person is never asked.
    pub fn try_all(&self, tests: &[Expectation], facts: Facts<'_>) -> Vec<Tried> {
        let tried = |test: &Expectation| Tried {
            expected: test.expected,
            answer: self.explain(&test.subject, facts),
            place: test.place.to_string(),
        };
        tests.iter().map(tried).collect()
    }
}

/// Reads the expectations of a file `NAME.test.toml`: `version = 1` and `[[tests]]`, nothing else.
///
/// # Errors
///
/// As [`PolicyFile::parse`](crate::PolicyFile::parse).
pub fn parse_tests(bytes: &[u8], origin: &str) -> Result<Vec<Expectation>, ParseErrors> {
    parse::parse_tests(bytes, origin)
}
