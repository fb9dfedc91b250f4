//! What the sandbox refused to a command: what its parts told, and what a failed command's messages let one conclude.

mod infer;

use fumehood_policies::{Grants, Network};
use fumehood_sandbox::event as sandbox_event;
use fumehood_sandbox::spec::Protection;

use super::host::Host;
use super::model::{Denial, Denials, Evidence, Operation, Subject};
use crate::lower;

/// The remedy for a call that the profile `default` has.
pub(super) const OF_PROFILE: &str = "syscalls.profile = \"default\"";

/// Denials kept of a run, at most; further ones are counted.
const MAX_DENIALS: usize = 32;

/// End of standard error that is looked through, in bytes: room for a trace and the message after it.
const TAIL_BYTES: usize = 16 * 1024;

/// Longest rule or remedy, in bytes: names that a command chose stand in some.
const MAX_WORDS_BYTES: usize = 1024;

/// Why no host is reached, and what would change it.
const NO_NETWORK: &str = "network.mode: no host outside the sandbox is reached";
const NETWORK_REMEDY: &str = "network.mode = \"host-without-isolation\"";

/// Collects what is refused in one run.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    kept: Vec<Denial>,
    /// Beside what init counts.
    count: u64,
    told_by_init: u64,
    counted_by_init: u64,
    /// The newest bytes of standard error.
    tail: Vec<u8>,
}

impl Collecting {
    /// Takes what init told; returns it if it is news.
    pub fn refused(&mut self, denial: sandbox_event::Denial) -> Option<Denial> {
        self.told_by_init += 1;
        self.keep(of_init(denial))
    }

    /// Takes init's own count.
    pub fn counted(&mut self, refusals: u64) {
        self.counted_by_init = refusals;
    }

    /// Takes a host that the refusing proxy was asked for; returns the denial if it is news.
    pub fn refused_host(&mut self, address: String) -> Option<Denial> {
        self.count += 1;
        self.keep(connect(address, Evidence::Observed))
    }

    /// Takes what the command wrote to standard error.
    pub fn heard(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(TAIL_BYTES)..];
        // Moved rarely: each byte once in the length of the tail.
        if self.tail.len() + data.len() > 2 * TAIL_BYTES {
            let left = TAIL_BYTES - data.len();
            self.tail.drain(..self.tail.len().saturating_sub(left));
        }
        self.tail.extend_from_slice(data);
    }

    /// Concludes from what a failed command wrote; returns what is news.
    pub fn infer(&mut self, grants: &Grants, host: &Host) -> Vec<Denial> {
        let tail = &self.tail[self.tail.len().saturating_sub(TAIL_BYTES)..];
        let isolated = !matches!(grants.network, Network::Host(_));
        let inferred = infer::infer(tail, isolated, &host.cwd, |path| lower::reach(path, grants, host));
        let mut news = Vec::new();
        for denial in inferred {
            if !self.is_told(&denial)
                && let Some(denial) = self.keep(denial)
            {
                self.count += 1;
                news.push(denial);
            }
        }
        news
    }

    /// What was collected.
    pub fn into_denials(self) -> Denials {
        Denials {
            count: self.count + self.counted_by_init.max(self.told_by_init),
            list: self.kept,
        }
    }

    /// Whether something better than a conclusion says it already.
    fn is_told(&self, inferred: &Denial) -> bool {
        self.kept.iter().any(|kept| match (&kept.subject, &inferred.subject) {
            (Subject::Address(known), Subject::Address(host)) => {
                let port = known.strip_prefix(host.as_str());
                host.is_empty() || port.is_some_and(|port| port.is_empty() || port.starts_with(':'))
            }
            (Subject::Path(known), Subject::Path(path)) => known == path,
            _ => false,
        })
    }

    fn keep(&mut self, mut denial: Denial) -> Option<Denial> {
        for words in [&mut denial.rule, &mut denial.remedy] {
            // `str::floor_char_boundary` is younger than the compilers this is built with.
            let cut = (0..=MAX_WORDS_BYTES.min(words.len()))
                .rev()
                .find(|&at| words.is_char_boundary(at));
            words.truncate(cut.unwrap_or(0));
        }
        if self.kept.len() >= MAX_DENIALS || self.kept.contains(&denial) {
            return None;
        }
        self.kept.push(denial.clone());
        Some(denial)
    }
}

fn of_init(sandbox_event::Denial { subject, rule }: sandbox_event::Denial) -> Denial {
    let dropped = matches!(subject, sandbox_event::Subject::Dropped(_));
    let (protection, operation, remedy, subject) = match subject {
        sandbox_event::Subject::Path(path) | sandbox_event::Subject::Dropped(path) => {
            let remedy = match rule.strip_prefix("filesystem.protect: ") {
                Some(name) => {
                    let name = name.strip_suffix(" of a repository").unwrap_or(name);
                    format!("filesystem.protect without {name}")
                }
                None if rule.starts_with("set-uid") => {
                    "filesystem.git = \"open\" and filesystem.protect = []".to_owned()
                }
                None => "filesystem.git = \"open\"".to_owned(),
            };
            let operation = if dropped { Operation::Keep } else { Operation::Change };
            let protection = Protection::ProtectedPaths;
            (protection, operation, remedy, Subject::Path(path))
        }
        sandbox_event::Subject::SystemCall { name, default_allows } => {
            let remedy = match default_allows {
                true => OF_PROFILE.to_owned(),
                false if rule.starts_with("syscalls.deny") => format!("syscalls.deny without {name}"),
                false => String::new(),
            };
            let (protection, operation) = (Protection::SystemCalls, Operation::Call);
            (protection, operation, remedy, Subject::SystemCall(name))
        }
        sandbox_event::Subject::Port { address, listens } => {
            let (operation, key) = match listens {
                true => (Operation::Listen, "bind"),
                false => (Operation::Connect, "connect"),
            };
            let remedy = format!("network.tcp-{key} with {}", address.port());
            (
                Protection::Network,
                operation,
                remedy,
                Subject::Address(address.to_string()),
            )
        }
    };
    Denial {
        protection,
        operation,
        subject,
        rule,
        remedy,
        evidence: Evidence::Observed,
    }
}

fn connect(address: String, evidence: Evidence) -> Denial {
    Denial {
        protection: Protection::Network,
        operation: Operation::Connect,
        subject: Subject::Address(address),
        rule: NO_NETWORK.to_owned(),
        remedy: NETWORK_REMEDY.to_owned(),
        evidence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str, rule: &str) -> sandbox_event::Denial {
        sandbox_event::Denial {
            subject: sandbox_event::Subject::Path(path.into()),
            rule: rule.to_owned(),
        }
    }

    #[test]
    fn each_denial_is_kept_once_and_a_flood_is_counted() {
        let mut collecting = Collecting::default();
        assert!(collecting.refused(path("/w/.git/hooks/x", "git: hooks")).is_some());
        assert!(collecting.refused(path("/w/.git/hooks/x", "git: hooks")).is_none());
        collecting.counted(500);
        for n in 0..100_000 {
            collecting.refused_host(format!("host-{}:443", n % 1000));
        }
        let denials = collecting.into_denials();
        assert_eq!((denials.list.len(), denials.count), (MAX_DENIALS, 100_500));
    }

    #[test]
    fn a_command_that_never_ended_by_itself_still_has_what_init_told() {
        let mut collecting = Collecting::default();
        collecting.refused(path("/w/.vscode", "filesystem.protect: .vscode"));
        assert_eq!(collecting.into_denials().count, 1);
    }

    #[test]
    fn the_remedy_names_the_key_that_decides() {
        let remedy = |denial| of_init(denial).remedy;
        assert_eq!(
            remedy(path("/w/.vscode/x", "filesystem.protect: .vscode")),
            "filesystem.protect without .vscode"
        );
        let nested = path("/w/n/.vscode", "filesystem.protect: .vscode of a repository");
        assert_eq!(remedy(nested), "filesystem.protect without .vscode");
        assert_eq!(
            remedy(path("/w/.git/config", "git configuration core.pager: x")),
            "filesystem.git = \"open\""
        );
        let call = |default_allows| sandbox_event::Denial {
            subject: sandbox_event::Subject::SystemCall {
                name: "ptrace".to_owned(),
                default_allows,
            },
            rule: String::new(),
        };
        assert_eq!(remedy(call(true)), "syscalls.profile = \"default\"");
        assert_eq!(remedy(call(false)), "");
        let denied = sandbox_event::Denial {
            rule: "syscalls.deny names it".to_owned(),
            ..call(false)
        };
        assert_eq!(remedy(denied), "syscalls.deny without ptrace");
    }

    #[test]
    fn the_tail_is_the_newest_bytes_and_bounded() {
        let mut collecting = Collecting::default();
        for n in 0..10_000u32 {
            collecting.heard(format!("line {n}\n").as_bytes());
            assert!(collecting.tail.len() <= 2 * TAIL_BYTES);
        }
        assert!(collecting.tail.ends_with(b"line 9998\nline 9999\n") && collecting.tail.len() >= TAIL_BYTES);
        collecting.heard(&vec![b'x'; 1 << 20]);
        assert!(collecting.tail.len() <= 2 * TAIL_BYTES && collecting.tail.ends_with(b"xxx"));
    }

    #[test]
    fn words_are_cut_at_a_character() {
        let mut collecting = Collecting::default();
        let kept = collecting.refused(path("/w/x", &"é".repeat(2000))).unwrap();
        assert_eq!(kept.rule.len(), MAX_WORDS_BYTES);
    }
}
