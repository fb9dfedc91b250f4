//! The digest of a policy: what an audit record and a run's result name it by.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::model::Policy;

/// Stands before the canonical form. A change of the form or of the meaning of a key is a new version.
const FORMAT: &str = "fumehood-policy-3\n";

/// SHA-256 of the canonical form of a policy. Displayed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Policy {
    /// The policy with the digest of everything else in it.
    ///
    /// Taken of [`Policy::to_toml`], not of the file: comments, order, spelling (`60s`, `1m`), keys that repeat a default, and which file
    /// said what make no difference. As what is printed reads as the same policy, no two policies have one form.
    #[must_use]
    pub(crate) fn with_digest(mut self) -> Self {
        self.filesystem.without_repetition();
        let form = Sha256::new().chain_update(FORMAT).chain_update(self.to_toml());
        self.digest = Digest(form.finalize().into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_shown_in_hexadecimal() {
        let mut bytes = [0; 32];
        bytes[0] = 0xab;
        bytes[31] = 0x01;
        let shown = Digest(bytes).to_string();
        assert_eq!(shown.len(), 64);
        assert!(shown.starts_with("ab00") && shown.ends_with("0001"));
    }
}
