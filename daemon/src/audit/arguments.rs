//! How much of a command line a policy lets the log keep.

use fumehood_policies::Arguments;
use sha2::{Digest, Sha256};

/// The argument vector as it is recorded; what looks like a secret is taken out of it later.
///
/// `program` keeps the first argument and says how many followed. `digest` keeps SHA-256 of the whole, each argument after its length as
/// eight bytes, the most significant first: who knows a command line can tell that it was this one.
pub fn kept_arguments(argv: &[Vec<u8>], kept: Arguments) -> Vec<Vec<u8>> {
    match kept {
        Arguments::Full => argv.to_vec(),
        Arguments::Program => {
            let more = argv.len().saturating_sub(1);
            let more = (more > 0).then(|| format!("[{more} arguments not kept]").into_bytes());
            argv.first().cloned().into_iter().chain(more).collect()
        }
        Arguments::Digest => {
            let mut digest = Sha256::new();
            for argument in argv {
                digest.update((argument.len() as u64).to_be_bytes());
                digest.update(argument);
            }
            let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            vec![format!("sha256:{hex}").into_bytes()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_kept_as_the_policy_says() {
        let argv = |list: &[&str]| list.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
        let full = argv(&["git", "push", "origin"]);
        assert_eq!(kept_arguments(&full, Arguments::Full), full);
        assert_eq!(
            kept_arguments(&full, Arguments::Program),
            argv(&["git", "[2 arguments not kept]"])
        );
        assert_eq!(kept_arguments(&argv(&["ls"]), Arguments::Program), argv(&["ls"]));
        let digest = kept_arguments(&full, Arguments::Digest);
        assert!(digest.len() == 1 && digest[0].starts_with(b"sha256:") && digest[0].len() == 71);
        let other = kept_arguments(&argv(&["git", "pushorigin"]), Arguments::Digest);
        assert_ne!(digest, other);
        assert_ne!(other, kept_arguments(&argv(&["gitpush", "origin"]), Arguments::Digest));
    }
}
