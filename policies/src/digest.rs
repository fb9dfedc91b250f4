//! The digest of a policy: what an audit record and a run's result name it by.

use std::fmt;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::command::{ArgPattern, CommandRules, Pattern, Rule};
use crate::model::{
    Environment, Filesystem, GitAccess, Home, Limits, Network, PathPattern, Policy, Ports, Protections, SyscallProfile,
    WorkspaceAccess,
};

/// Begins the canonical form. A change of the form or of the meaning of a field is a new version.
const FORMAT: &str = "fumehood-policy-3";

/// SHA-256 of the canonical form of a policy. Displayed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Digest {
    /// The digest of everything in the policy but its `digest` field.
    ///
    /// Taken of the model, not of the file: comments, order, spelling (`60s`, `1m`) and keys that repeat a default make
    /// no difference.
    pub(crate) fn of(policy: &Policy) -> Self {
        // Every field is named here and below, so that a new one cannot be forgotten.
        let Policy {
            name,
            description,
            filesystem,
            network,
            syscalls,
            limits,
            environment,
            protections,
            commands,
            digest: _,
        } = policy;
        let mut form = Canonical(Sha256::new());
        form.text(FORMAT);
        form.text(name);
        form.text(description);
        form.filesystem(filesystem);
        form.text(match network {
            Network::None => "none",
            Network::Loopback => "loopback",
            Network::LoopbackSilent => "loopback-silent",
            Network::Host(_) => "host-without-isolation",
        });
        if let Network::Host(Ports { connect, bind }) = network {
            for ports in [connect, bind] {
                form.number(ports.is_some().into());
                form.sorted(ports.as_deref().unwrap_or_default(), |form, port| {
                    form.number((*port).into())
                });
            }
        }
        form.text(match syscalls {
            SyscallProfile::Default => "default",
            SyscallProfile::Strict => "strict",
        });
        form.limits(limits);
        form.environment(environment);
        let Protections { required } = protections;
        form.sorted(required, |form, protection| form.text(protection.name()));
        form.commands(commands);
        Self(form.0.finalize().into())
    }
}

/// Fields in a fixed order; every text and list carries its length, so that no two models have one form.
struct Canonical(Sha256);

impl Canonical {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    /// The order in which a list was written means nothing.
    fn sorted<T: Ord>(&mut self, list: &[T], mut each: impl FnMut(&mut Self, &T)) {
        let mut list: Vec<&T> = list.iter().collect();
        list.sort();
        self.number(list.len() as u64);
        list.into_iter().for_each(|item| each(self, item));
    }

    fn optional<T>(&mut self, value: Option<T>, each: impl FnOnce(&mut Self, T)) {
        self.number(value.is_some().into());
        if let Some(value) = value {
            each(self, value);
        }
    }

    fn duration(&mut self, duration: Duration) {
        self.number(duration.as_secs());
        self.number(duration.subsec_nanos().into());
    }

    fn path(&mut self, path: &PathPattern) {
        let (base, rest) = match path {
            PathPattern::Absolute(rest) => ("root", rest),
            PathPattern::Home(rest) => ("home", rest),
            PathPattern::Workspace(rest) => ("workspace", rest),
        };
        self.text(base);
        self.text(rest);
    }

    fn filesystem(&mut self, filesystem: &Filesystem) {
        let Filesystem {
            workspace,
            home,
            read,
            write,
            hide_in_home,
            hide,
            protect,
            git,
            tmp,
            shm_bytes,
        } = filesystem;
        self.text(match workspace {
            WorkspaceAccess::Read => "read",
            WorkspaceAccess::Write => "write",
        });
        self.text(match home {
            Home::Empty => "empty",
            Home::CopyOnWrite => "copy-on-write",
        });
        self.sorted(read, Self::path);
        self.sorted(write, Self::path);
        self.sorted(hide_in_home, |form, path| form.text(path));
        self.sorted(hide, Self::path);
        self.sorted(protect, |form, path| form.text(path));
        self.text(match git {
            GitAccess::Guarded => "guarded",
            GitAccess::Open => "open",
        });
        self.number((*tmp).into());
        self.number(*shm_bytes);
    }

    fn limits(&mut self, limits: &Limits) {
        let Limits {
            wall,
            idle,
            cpu_time,
            grace,
            memory_bytes,
            processes,
            cpu_millis,
            open_files_soft,
            open_files_hard,
            file_bytes,
            disk_bytes,
            files,
            output_bytes,
        } = *limits;
        self.optional(wall, Self::duration);
        self.optional(idle, Self::duration);
        self.optional(cpu_time, Self::duration);
        self.duration(grace);
        self.optional(memory_bytes, Self::number);
        self.optional(processes.map(u64::from), Self::number);
        self.optional(cpu_millis.map(u64::from), Self::number);
        self.number(open_files_soft);
        self.number(open_files_hard);
        self.optional(file_bytes, Self::number);
        self.optional(disk_bytes, Self::number);
        self.optional(files, Self::number);
        self.optional(output_bytes, Self::number);
    }

    fn commands(&mut self, commands: &CommandRules) {
        let CommandRules {
            default,
            unreadable,
            rules,
        } = commands;
        self.text(default.name());
        self.text(unreadable.name());
        // In their order: a denial names a rule by its place.
        self.number(rules.len() as u64);
        for rule in rules {
            let Rule {
                program,
                args,
                exact,
                has,
                decision,
                reason,
                // Checked when the file was read; they decide nothing.
                matches: _,
                no_match: _,
            } = rule;
            let pattern = |form: &mut Self, Pattern(text): &Pattern| form.text(text);
            self.sorted(program, pattern);
            self.number(args.len() as u64);
            for ArgPattern(alternatives) in args {
                self.sorted(alternatives, pattern);
            }
            self.number((*exact).into());
            self.sorted(has, pattern);
            self.text(decision.name());
            self.text(reason);
        }
    }

    fn environment(&mut self, environment: &Environment) {
        let Environment { pass, never, set } = environment;
        self.sorted(pass, |form, name| form.text(name));
        self.sorted(never, |form, name| form.text(name));
        self.number(set.len() as u64);
        for (name, value) in set {
            self.text(name);
            self.text(value);
        }
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
