//! Between the model and the values of its keys: how a policy is made of statements, and what it would state.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::command::{CommandRules, Commands, Rule, Verdict};
use crate::digest::Digest;
use crate::model::{
    Approvals, Arguments, Audit, Environment, Filesystem, GitAccess, Home, Limits, Network, NetworkMode, PathPattern,
    Policy, Ports, Protection, Protections, SelfApproval, SyscallProfile, Syscalls, Tool, WorkspaceAccess,
};
use crate::statement::{Statements, Value};

impl Statements {
    fn word<T: Default>(&self, key: &str, of: fn(&str) -> Option<T>) -> T {
        match self.one(key) {
            Some(Value::Word(word)) => of(word).unwrap_or_default(),
            _ => T::default(),
        }
    }

    fn words<T: Ord>(&self, key: &str, of: fn(&str) -> Option<T>) -> Vec<T> {
        let word = |value: &Value| match value {
            Value::Word(word) => of(word),
            _ => None,
        };
        sorted(self.values(key).filter_map(word).collect())
    }

    fn text(&self, key: &str) -> String {
        match self.one(key) {
            Some(Value::Text(text)) => text.clone(),
            _ => String::new(),
        }
    }

    fn texts(&self, key: &str) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        sorted(self.values(key).filter_map(text).collect())
    }

    fn paths(&self, key: &str) -> Vec<PathPattern> {
        let path = |value: &Value| match value {
            Value::Path(path) => Some(path.clone()),
            _ => None,
        };
        sorted(self.values(key).filter_map(path).collect())
    }

    /// `None`: unlimited.
    fn amount(&self, key: &str) -> Option<u64> {
        match self.one(key) {
            Some(Value::Amount(amount)) => *amount,
            _ => Some(0),
        }
    }

    fn duration(&self, key: &str) -> Option<Duration> {
        self.amount(key).map(Duration::from_millis)
    }

    fn count(&self, key: &str) -> Option<u32> {
        self.amount(key).map(|count| u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn ports(&self, key: &str) -> Option<Vec<u16>> {
        let port = |value: &Value| match value {
            Value::Port(port) => Some(*port),
            _ => None,
        };
        self.get(key)?;
        Some(sorted(self.values(key).filter_map(port).collect()))
    }

    fn commands(&self) -> Commands {
        let stated = |key: &str| match self.one(key) {
            Some(Value::Word(word)) => Verdict::of(word),
            _ => None,
        };
        let rule = |value: &Value| match value {
            Value::Rule(rule) => Some(rule.deciding()),
            _ => None,
        };
        let ceiling = |value: &Value| match value {
            Value::Rules(set) => Some(CommandRules {
                rules: set.rules.iter().map(Rule::deciding).collect(),
                ..**set
            }),
            _ => None,
        };
        let is_there = ["default", "unreadable", "rules"]
            .iter()
            .any(|key| self.get(&format!("commands.{key}")).is_some());
        Commands {
            own: match is_there {
                true => CommandRules::of(
                    stated("commands.default"),
                    stated("commands.unreadable"),
                    self.values("commands.rules").filter_map(rule).collect(),
                ),
                false => CommandRules::default(),
            },
            ceilings: self.values("commands.ceilings").filter_map(ceiling).collect(),
        }
    }
}

impl CommandRules {
    /// What a section states. What cannot be read may be anything: it is never treated better than what no rule is about.
    pub(crate) fn of(default: Option<Verdict>, unreadable: Option<Verdict>, rules: Vec<Rule>) -> CommandRules {
        let default = default.unwrap_or_default();
        CommandRules {
            default,
            unreadable: unreadable.unwrap_or(Verdict::Ask).max(default),
            rules,
        }
    }
}

impl Rule {
    /// What of it decides anything, in one form.
    fn deciding(&self) -> Rule {
        let mut rule = Rule {
            matches: Vec::new(),
            no_match: Vec::new(),
            ..self.clone()
        };
        let alternatives = rule.args.iter_mut().map(|arg| &mut arg.0);
        for list in alternatives.chain([&mut rule.program, &mut rule.has]) {
            list.sort();
            list.dedup();
        }
        rule
    }
}

impl Commands {
    /// Nothing, where everything is allowed and nothing is said.
    fn stated(&self) -> Vec<(&'static str, Vec<Value>)> {
        if *self == Commands::default() {
            return Vec::new();
        }
        let Commands {
            own:
                CommandRules {
                    default,
                    unreadable,
                    rules,
                },
            ceilings,
        } = self;
        let rule = |rule: &Rule| Value::Rule(Box::new(rule.clone()));
        let set = |set: &CommandRules| Value::Rules(Box::new(set.clone()));
        vec![
            ("commands.default", vec![Value::Word(default.name())]),
            ("commands.unreadable", vec![Value::Word(unreadable.name())]),
            ("commands.rules", rules.iter().map(rule).collect()),
            ("commands.ceilings", ceilings.iter().map(set).collect()),
        ]
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list.dedup();
    list
}

impl Policy {
    /// The policy that complete statements make: every restriction is among them.
    pub(crate) fn of_statements(s: &Statements) -> Policy {
        let (open_files_soft, open_files_hard) = match s.one("limits.open-files") {
            Some(Value::SoftHard(soft, hard)) => (*soft, *hard),
            _ => (1, 1),
        };
        let variable = |value: &Value| match value {
            Value::Variable(name, value) => Some((name.clone(), value.clone())),
            _ => None,
        };
        let policy = Policy {
            name: s.text("name"),
            description: s.text("description"),
            tools: s.words("tools", Tool::of),
            filesystem: Filesystem {
                workspace: s.word("filesystem.workspace", WorkspaceAccess::of),
                home: s.word("filesystem.home", Home::of),
                execute: s.paths("filesystem.execute"),
                read: s.paths("filesystem.read"),
                write: s.paths("filesystem.write"),
                copy_on_write: s.paths("filesystem.copy-on-write"),
                tmp: s.one("filesystem.tmp") == Some(&Value::Flag(true)),
                hide: s.paths("filesystem.hide"),
                read_only: s.paths("filesystem.read-only"),
                protect: s.texts("filesystem.protect"),
                git: s.word("filesystem.git", GitAccess::of),
                shm_bytes: s.amount("filesystem.shm").unwrap_or(u64::MAX),
            },
            network: match s.word("network.mode", NetworkMode::of) {
                NetworkMode::None => Network::None,
                NetworkMode::LoopbackSilent => Network::LoopbackSilent,
                NetworkMode::Loopback => Network::Loopback,
                NetworkMode::Host => Network::Host(Ports {
                    connect: s.ports("network.tcp-connect"),
                    bind: s.ports("network.tcp-bind"),
                }),
            },
            syscalls: Syscalls {
                profile: s.word("syscalls.profile", SyscallProfile::of),
                allow: s.texts("syscalls.allow"),
                deny: s.texts("syscalls.deny"),
            },
            limits: Limits {
                wall: s.duration("limits.wall"),
                idle: s.duration("limits.idle"),
                cpu_time: s.duration("limits.cpu-time"),
                grace: s.duration("limits.grace").unwrap_or_default(),
                memory_bytes: s.amount("limits.memory"),
                processes: s.count("limits.processes"),
                cpu_millis: s.count("limits.cpus"),
                open_files_soft,
                open_files_hard,
                file_bytes: s.amount("limits.file-size"),
                disk_bytes: s.amount("limits.disk"),
                files: s.amount("limits.files"),
                output_bytes: s.amount("limits.output"),
            },
            environment: Environment {
                pass: s.texts("environment.pass"),
                never: s.texts("environment.never"),
                remove: s.texts("environment.remove"),
                set: s.values("environment.set").filter_map(variable).collect(),
            },
            protections: Protections {
                required: s.words("protections.required", Protection::of),
                preferred: s.words("protections.preferred", Protection::of),
            },
            commands: s.commands(),
            approvals: Approvals {
                wait: s.duration("approvals.wait").unwrap_or_default(),
                own: s.word("approvals.self", SelfApproval::of),
            },
            audit: Audit {
                arguments: s.word("audit.arguments", Arguments::of),
            },
            digest: Digest([0; 32]),
        };
        policy.with_digest()
    }

    /// Every key's value by its path, but that of `version`, `extends` and `tests`. A key that has no value to be printed is missing: ports
    /// that are not restricted.
    pub(crate) fn stated(&self) -> BTreeMap<&'static str, Vec<Value>> {
        // Every field is named here and below, so that a new one cannot be forgotten.
        let Policy {
            name,
            description,
            tools,
            filesystem,
            network,
            syscalls: Syscalls { profile, allow, deny },
            limits,
            environment:
                Environment {
                    pass,
                    never,
                    remove,
                    set,
                },
            protections: Protections { required, preferred },
            commands,
            approvals: Approvals { wait, own },
            audit: Audit { arguments },
            digest: _,
        } = self;
        let mut all = BTreeMap::from([
            ("name", vec![Value::Text(name.clone())]),
            ("description", vec![Value::Text(description.clone())]),
            ("tools", tools.iter().map(|tool| Value::Word(tool.name())).collect()),
            ("network.mode", vec![Value::Word(network.mode().name())]),
            ("syscalls.profile", vec![Value::Word(profile.name())]),
            ("syscalls.allow", texts(allow)),
            ("syscalls.deny", texts(deny)),
            ("environment.pass", texts(pass)),
            ("environment.never", texts(never)),
            ("environment.remove", texts(remove)),
            (
                "environment.set",
                set.iter()
                    .map(|(name, value)| Value::Variable(name.clone(), value.clone()))
                    .collect(),
            ),
            (
                "protections.required",
                required.iter().map(|p| Value::Word(p.name())).collect(),
            ),
            (
                "protections.preferred",
                preferred.iter().map(|p| Value::Word(p.name())).collect(),
            ),
            ("approvals.wait", vec![Value::Amount(Some(ms(*wait)))]),
            ("approvals.self", vec![Value::Word(own.name())]),
            ("audit.arguments", vec![Value::Word(arguments.name())]),
        ]);
        if let Network::Host(Ports { connect, bind }) = network {
            for (key, ports) in [("network.tcp-connect", connect), ("network.tcp-bind", bind)] {
                if let Some(ports) = ports {
                    all.insert(key, ports.iter().copied().map(Value::Port).collect());
                }
            }
        }
        all.extend(commands.stated());
        all.extend(filesystem.stated());
        all.extend(limits.stated());
        all
    }
}

impl Filesystem {
    /// Takes out what another list says already: joined lists may grant a path twice, or grant and hide it. A single file may not.
    pub(crate) fn without_repetition(&mut self) {
        let Filesystem {
            execute,
            read,
            write,
            copy_on_write,
            hide,
            ..
        } = self;
        for granted in [&mut *execute, &mut *write, &mut *copy_on_write, &mut *read] {
            granted.retain(|path| hide.binary_search(path).is_err());
        }
        copy_on_write.retain(|path| write.binary_search(path).is_err());
        for more in [&*execute, &*write, &*copy_on_write] {
            read.retain(|path| more.binary_search(path).is_err());
        }
    }

    fn stated(&self) -> Vec<(&'static str, Vec<Value>)> {
        let Filesystem {
            workspace,
            home,
            execute,
            read,
            write,
            copy_on_write,
            tmp,
            hide,
            read_only,
            protect,
            git,
            shm_bytes,
        } = self;
        let paths = |list: &[PathPattern]| list.iter().cloned().map(Value::Path).collect();
        vec![
            ("filesystem.workspace", vec![Value::Word(workspace.name())]),
            ("filesystem.home", vec![Value::Word(home.name())]),
            ("filesystem.execute", paths(execute)),
            ("filesystem.read", paths(read)),
            ("filesystem.write", paths(write)),
            ("filesystem.copy-on-write", paths(copy_on_write)),
            ("filesystem.tmp", vec![Value::Flag(*tmp)]),
            ("filesystem.hide", paths(hide)),
            ("filesystem.read-only", paths(read_only)),
            ("filesystem.protect", texts(protect)),
            ("filesystem.git", vec![Value::Word(git.name())]),
            ("filesystem.shm", vec![Value::Amount(Some(*shm_bytes))]),
        ]
    }
}

impl Limits {
    /// Every bound but that of open files by its key, as a number of its smallest unit: milliseconds, bytes, thousandths of a processor.
    /// `None` is unlimited.
    pub fn amounts(&self) -> [(&'static str, Option<u64>); 11] {
        let Limits {
            wall,
            idle,
            cpu_time,
            grace,
            memory_bytes,
            processes,
            cpu_millis,
            open_files_soft: _,
            open_files_hard: _,
            file_bytes,
            disk_bytes,
            files,
            output_bytes,
        } = *self;
        [
            ("limits.wall", wall.map(ms)),
            ("limits.idle", idle.map(ms)),
            ("limits.cpu-time", cpu_time.map(ms)),
            ("limits.grace", Some(ms(grace))),
            ("limits.memory", memory_bytes),
            ("limits.processes", processes.map(u64::from)),
            ("limits.cpus", cpu_millis.map(u64::from)),
            ("limits.file-size", file_bytes),
            ("limits.disk", disk_bytes),
            ("limits.files", files),
            ("limits.output", output_bytes),
        ]
    }

    fn stated(&self) -> Vec<(&'static str, Vec<Value>)> {
        let amounts = self
            .amounts()
            .into_iter()
            .map(|(key, amount)| (key, vec![Value::Amount(amount)]));
        let open_files = Value::SoftHard(self.open_files_soft, self.open_files_hard);
        amounts.chain([("limits.open-files", vec![open_files])]).collect()
    }
}

fn texts(list: &[String]) -> Vec<Value> {
    list.iter().cloned().map(Value::Text).collect()
}

/// Durations of a policy are whole milliseconds.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
