//! Programs that start other programs: what they start.
//!
//! A table for those of the form `program [options] [operands] command`, and a function for each that has a way of its own.
//! Options that are in no table are not passed over: then the command is unreadable. The list cannot be complete (`tar`, `rsync`,
//! `vim`, any interpreter start programs too): rules guide, the sandbox is the boundary.

use super::options::{Options, Parsed};
use super::read::{Assignment, Context, Dialect, Input, Reading, SimpleCommand};
use super::word::Word;

/// A program whose command follows its options.
struct Wrapper {
    names: &'static [&'static str],
    options: Options,
    /// Operands before the command.
    skip: usize,
    /// Whether `NAME=value` may stand before the command.
    assignments: bool,
    /// Options with which no command is run, or one need not be there.
    without: &'static [&'static str],
    /// Whether it starts its command as that would be started without it.
    transparent: bool,
}

const fn wrapper(names: &'static [&'static str], short: &'static str, long: &'static [&'static str]) -> Wrapper {
    Wrapper {
        names,
        options: Options { short, long },
        skip: 0,
        assignments: false,
        without: &["help", "version"],
        transparent: false,
    }
}

/// From the manual pages of coreutils 9, util-linux 2.41, procps 4, sudo 1.9, strace 6 and bash 5.3.
const WRAPPERS: &[Wrapper] = &[
    Wrapper {
        transparent: true,
        ..wrapper(&["nice"], "n:0123456789", &["adjustment=", "help", "version"])
    },
    Wrapper {
        transparent: true,
        without: &["p", "P", "u", "pid", "pgid", "uid", "h", "V", "help", "version"],
        ..wrapper(
            &["ionice"],
            "c:n:p:P:tu:hV",
            &[
                "class=",
                "classdata=",
                "pid=",
                "pgid=",
                "ignore",
                "uid=",
                "help",
                "version",
            ],
        )
    },
    Wrapper {
        transparent: true,
        skip: 1,
        ..wrapper(
            &["timeout"],
            "k:s:vpf",
            &[
                "kill-after=",
                "signal=",
                "verbose",
                "foreground",
                "preserve-status",
                "help",
                "version",
            ],
        )
    },
    Wrapper {
        transparent: true,
        ..wrapper(&["nohup"], "", &["help", "version"])
    },
    Wrapper {
        transparent: true,
        ..wrapper(&["setsid"], "cfwhV", &["ctty", "fork", "wait", "help", "version"])
    },
    Wrapper {
        transparent: true,
        ..wrapper(
            &["stdbuf"],
            "i:o:e:",
            &["input=", "output=", "error=", "help", "version"],
        )
    },
    Wrapper {
        transparent: true,
        ..wrapper(
            &["time"],
            "pvaqVf:o:",
            &[
                "portability",
                "verbose",
                "append",
                "quiet",
                "version",
                "format=",
                "output=",
                "help",
            ],
        )
    },
    Wrapper {
        transparent: true,
        without: &["v", "V"],
        ..wrapper(&["command"], "pvV", &[])
    },
    Wrapper {
        transparent: true,
        ..wrapper(&["builtin"], "", &[])
    },
    Wrapper {
        transparent: true,
        // `exec >log` changes where a script writes.
        without: &[""],
        ..wrapper(&["exec"], "cla:", &[])
    },
    Wrapper {
        skip: 1,
        without: &["p", "pid", "m", "max", "h", "V", "help", "version"],
        ..wrapper(
            &["chrt"],
            "abfimorRvT:P:D:pdhV",
            &[
                "all-tasks",
                "batch",
                "fifo",
                "idle",
                "max",
                "other",
                "rr",
                "reset-on-fork",
                "verbose",
                "pid",
                "help",
            ],
        )
    },
    Wrapper {
        skip: 1,
        without: &["p", "pid", "h", "V", "help", "version"],
        ..wrapper(
            &["taskset"],
            "acphV",
            &["all-tasks", "cpu-list", "pid", "help", "version"],
        )
    },
    Wrapper {
        assignments: true,
        without: &[
            "l",
            "list",
            "v",
            "validate",
            "V",
            "version",
            "K",
            "remove-timestamp",
            "k",
            "reset-timestamp",
            "h",
            "help",
        ],
        ..wrapper(
            &["sudo"],
            "AbBC:D:EeHiKklNnPp:R:r:SsT:t:U:u:g:vVh",
            &[
                "askpass",
                "background",
                "bell",
                "close-from=",
                "chdir=",
                "preserve-env?",
                "set-home",
                "login",
                "non-interactive",
                "preserve-groups",
                "prompt=",
                "chroot=",
                "role=",
                "stdin",
                "shell",
                "type=",
                "command-timeout=",
                "other-user=",
                "user=",
                "group=",
                "host=",
                "list",
                "validate",
                "version",
                "help",
                "reset-timestamp",
                "remove-timestamp",
            ],
        )
    },
    wrapper(&["doas"], "nsLu:C:a:", &[]),
    Wrapper {
        without: &["p", "attach", "h", "V", "help", "version"],
        ..wrapper(
            &["strace", "ltrace"],
            "a:b:cCdDe:E:fFhiI:kl:nNo:O:p:P:qrs:S:tTu:U:vVwxX:yYzZA:L",
            &[
                "follow-forks",
                "output=",
                "trace=",
                "expr=",
                "env=",
                "attach=",
                "string-limit=",
                "summary-only",
                "summary",
                "help",
                "version",
                "quiet?",
                "seccomp-bpf",
                "absolute-timestamps?",
                "relative-timestamps?",
            ],
        )
    },
    wrapper(
        &["unshare"],
        "mnpuUCTfrciw:R:S:G:hV",
        &[
            "mount?",
            "net?",
            "pid?",
            "uts?",
            "user?",
            "ipc?",
            "cgroup?",
            "time?",
            "fork",
            "map-root-user",
            "map-current-user",
            "keep-caps",
            "kill-child?",
            "mount-proc?",
            "root=",
            "wd=",
            "setuid=",
            "setgid=",
            "propagation=",
            "setgroups=",
            "map-user=",
            "map-group=",
        ],
    ),
    wrapper(
        &["nsenter"],
        "at:m;n;p;u;U;C;T;i;r;w;S:G:FZeh",
        &[
            "all",
            "target=",
            "mount?",
            "net?",
            "pid?",
            "uts?",
            "user?",
            "ipc?",
            "cgroup?",
            "time?",
            "root?",
            "wd?",
            "setuid=",
            "setgid=",
            "no-fork",
            "preserve-credentials",
        ],
    ),
    Wrapper {
        without: &["p", "pid", "h", "V", "help", "version"],
        ..wrapper(&["choom"], "n:p:hV", &["adjust=", "pid=", "help", "version"])
    },
    Wrapper {
        without: &["p", "pid", "s", "system", "h", "V", "help", "version"],
        ..wrapper(
            &["uclampset"],
            "m:M:ap:sRvhV",
            &[
                "util-min=",
                "util-max=",
                "all-tasks",
                "pid=",
                "system",
                "reset-on-fork",
                "verbose",
                "help",
                "version",
            ],
        )
    },
    Wrapper {
        without: &["g", "get", "n", "fd", "f", "file", "h", "V", "help", "version"],
        ..wrapper(
            &["pipesz"],
            "gs:f:n:ioecqvhV",
            &[
                "get", "set=", "file=", "fd=", "stdin", "stdout", "stderr", "check", "quiet", "verbose", "help",
                "version",
            ],
        )
    },
    Wrapper {
        without: &["l", "list", "m", "h", "V", "help", "version"],
        ..wrapper(
            &["enosys"],
            "s:i:lmd;hV",
            &["syscall=", "ioctl=", "list", "list-ioctl", "dump?", "help", "version"],
        )
    },
    Wrapper {
        skip: 1,
        ..wrapper(
            &["chroot"],
            "",
            &["userspec=", "groups=", "skip-chdir", "help", "version"],
        )
    },
];

/// Programs that start others in ways that are not read here.
const LAUNCHERS: &[&str] = &[
    "systemd-run",
    "dbus-run-session",
    "dbus-launch",
    "xvfb-run",
    "fakeroot",
    "proot",
    "setpriv",
    "prlimit",
    "numactl",
    "capsh",
    "firejail",
    "bwrap",
    "faketime",
    "unbuffer",
    "rlwrap",
    "valgrind",
    "perf",
    "gdb",
    "lldb",
    "torsocks",
    "proxychains",
    "proxychains4",
    "pkexec",
    "runuser",
    "at",
    "batch",
    "crontab",
    "screen",
    "tmux",
    "expect",
    "socat",
    "entr",
    "chpst",
    "setarch",
    "linux32",
    "linux64",
    "uname26",
    "i386",
    "i486",
    "i586",
    "i686",
    "x86_64",
    "athlon",
    "ia64",
    "arm",
    "armh",
    "aarch64",
    "alpha",
    "parisc",
    "parisc32",
    "parisc64",
    "ppc",
    "ppc32",
    "ppc64",
    "ppc64le",
    "s390",
    "s390x",
    "sparc",
    "sparc32",
    "sparc32bash",
    "sparc64",
    "mips",
    "mips32",
    "mips64",
    "riscv32",
    "riscv64",
    "ssh-agent",
    "scriptlive",
    "run-parts",
    "logsave",
    "eatmydata",
    "fakechroot",
    "schroot",
    "gosu",
    "su-exec",
    "tini",
    "dumb-init",
    "softlimit",
    "setlock",
    "envdir",
    "envuidgid",
    "setuidgid",
    "execlineb",
    "aa-exec",
    "cpulimit",
    "trickle",
    "tsocks",
    "torify",
    "hyperfine",
    "watchexec",
    "xterm",
    "openvt",
    "dtach",
    "abduco",
    "ifne",
    "pee",
    "mispipe",
    "lckdo",
    "sem",
    "env_parallel",
    "gdbserver",
    "rr",
    "heaptrack",
    "start-stop-daemon",
    "runcon",
    "sg",
    "newgrp",
    "catchsegv",
    "osascript",
    "cgexec",
    "daemonize",
    "chronic",
    "ts",
    "fish",
    "csh",
    "tcsh",
    "elvish",
    "nu",
    "pwsh",
    "xonsh",
];

impl Reading {
    /// Reads on in what a program starts. Whether it is transparent: see [`SimpleCommand::transparent`].
    pub(super) fn unwrap(&mut self, context: &Context, name: &[u8], command: &SimpleCommand, input: Input) -> bool {
        let Ok(name) = std::str::from_utf8(name) else {
            return false;
        };
        if let Some(dialect) = super::shell::dialect(name) {
            return self.shell(context, name, dialect, command, input);
        }
        if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&name)) {
            return self.wrapper(context, name, wrapper, command, input);
        }
        if name.starts_with("ld-linux") || name.starts_with("ld-musl") || name == "ld.so" {
            const LOADER: Wrapper = wrapper(
                &[],
                "",
                &[
                    "library-path=",
                    "preload=",
                    "argv0=",
                    "audit=",
                    "inhibit-cache",
                    "inhibit-rpath=",
                    "verify",
                    "list",
                ],
            );
            return self.wrapper(context, name, &LOADER, command, input);
        }
        let args = &command.args;
        match name {
            "env" => return self.env(context, command, input),
            "eval" => return self.eval(context, args),
            "xargs" => self.xargs(context, args),
            "find" | "gfind" => self.find(context, args),
            "fd" | "fdfind" => self.fd(context, args),
            "mapfile" | "readarray" => self.mapfile(context, name, args),
            "jobs"
                if args.iter().any(|word| {
                    word.text()
                        .is_none_or(|text| text.starts_with('-') && text.contains('x'))
                }) =>
            {
                self.cannot("jobs -x", "it runs what follows");
            }
            "read" | "getopts" | "wait" | "let" | "test" | "[" | "unset" => {
                self.builtin_names(context, name, args);
            }
            "printf"
                if args
                    .iter()
                    .any(|word| word.text().is_none_or(|text| text.starts_with("-v"))) =>
            {
                self.builtin_names(context, name, args);
            }
            "watch" => self.watch(context, args),
            "flock" => self.flock(context, args),
            "script" => self.script_program(context, args),
            "su" => self.su(context, args),
            "parallel" => self.parallel(context, args),
            "trap" => self.trap(context, args),
            "busybox" | "toybox" | "coreutils" => self.applet(context, name, args, input),
            "git" => self.git(context, args),
            name if name.starts_with("git-") => self.git_command(context, name, args),
            "compgen" | "complete" | "compopt" => self.completion(context, name, args),
            "bind" | "fc" if !args.is_empty() => {
                self.cannot(command.show(160), format!("`{name}` may run what is not read"));
            }
            "ip" => self.ip(context, args),
            "make" | "gmake" => self.make(name, args),
            "npx" => self.npx(context, "npx", args),
            "npm"
                if args
                    .first()
                    .and_then(Word::text)
                    .is_some_and(|sub| matches!(sub, "exec" | "x")) =>
            {
                self.npx(context, "npm exec", &args[1..]);
            }
            "." | "source" => self.sourced(args, true),
            "alias" if !args.is_empty() => self.cannot(command.show(160), "an alias gives names other meanings"),
            "enable" | "hash" if !args.is_empty() => {
                self.cannot(command.show(160), "this gives names other meanings");
            }
            name if super::script::is_declaration(name) => self.declared(context, args),
            name if LAUNCHERS.contains(&name) => {
                self.cannot(
                    command.show(160),
                    format!("`{name}` starts programs in ways that are not read"),
                );
            }
            _ => {}
        }
        false
    }

    fn wrapper(
        &mut self,
        context: &Context,
        name: &str,
        wrapper: &Wrapper,
        command: &SimpleCommand,
        input: Input,
    ) -> bool {
        let args = &command.args;
        let Some(parsed) = self.options(name, &wrapper.options, args) else {
            return false;
        };
        let without = parsed.has(wrapper.without);
        let mut at = parsed.operand;
        for _ in 0..wrapper.skip {
            // `chrt -o` and its like may be told no priority.
            let number = |word: &Word| {
                word.text()
                    .is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            };
            if name != "chrt" || args.get(at).is_some_and(number) {
                at += 1;
            }
        }
        if without {
            return false;
        }
        if args[..at.min(args.len())].iter().any(Word::is_many) {
            self.cannot(
                command.show(160),
                format!("where the command of `{name}` begins is not known"),
            );
            return false;
        }
        let mut rest = args.get(at..).unwrap_or_default();
        let mut assignments = command.assignments.clone();
        if name == "strace" {
            self.strace_options(context, &parsed, &mut assignments);
        }
        if wrapper.assignments {
            while let Some((name, value)) = rest.first().and_then(assigned) {
                assignments.push(Assignment { name, value });
                rest = &rest[1..];
            }
        }
        if rest.is_empty() {
            if !wrapper.without.contains(&"") {
                self.cannot(
                    command.show(160),
                    format!("`{name}` without a command, or with one from elsewhere"),
                );
            }
            return false;
        }
        self.command(
            &context.inside(name),
            rest.to_vec(),
            assignments,
            command.redirects.clone(),
            input,
        );
        wrapper.transparent
    }

    /// A file for its output that begins with `|` or `!` is a command, and it sets variables.
    fn strace_options(&mut self, context: &Context, parsed: &Parsed, assignments: &mut Vec<Assignment>) {
        for (option, value) in &parsed.options {
            let Some(value) = value else { continue };
            match option.as_str() {
                "o" | "output" => {
                    let command = value.text().and_then(|text| text.strip_prefix(['|', '!']));
                    if let Some(command) = command {
                        self.joined(context, "strace -o", &[Word::known(command)]);
                    } else if matches!(value, Word::Dynamic { prefix, .. } if prefix.is_empty() || b"|!".contains(&prefix[0]))
                    {
                        self.cannot(value.show(), "what `strace -o` is given may be a command");
                    }
                }
                "E" | "env" => assignments.extend(assigned(value).map(|(name, value)| Assignment { name, value })),
                _ => {}
            }
        }
    }

    /// `None`: not understood, and that was noted.
    pub(super) fn options(&mut self, name: &str, options: &Options, args: &[Word]) -> Option<Parsed> {
        match options.parse(args) {
            Ok(parsed) => Some(parsed),
            Err(word) => {
                self.cannot(
                    format!("{name} {}", word.show()),
                    format!("this option of `{name}` is not understood"),
                );
                None
            }
        }
    }

    fn env(&mut self, context: &Context, command: &SimpleCommand, input: Input) -> bool {
        const ENV: Options = Options {
            short: "i0vu:C:S:a:",
            long: &[
                "ignore-environment",
                "null",
                "debug",
                "unset=",
                "chdir=",
                "split-string=",
                "argv0=",
                "default-signal?",
                "ignore-signal?",
                "block-signal?",
                "list-signal-handling",
                "help",
                "version",
            ],
        };
        let mut args = command.args.clone();
        // Each `-S` is cut into words in its place, which may hold options again.
        for _ in 0..4 {
            let Some(parsed) = self.options("env", &ENV, &args) else {
                return false;
            };
            let Some(split) = parsed.value(&["S", "split-string"]) else {
                let mut rest = &args[parsed.operand..];
                let mut assignments = command.assignments.clone();
                if let Some((_, value)) = parsed.options.iter().find(|(name, _)| name == "argv0" || name == "a") {
                    let value = value.clone().unwrap_or_else(Word::anything);
                    assignments.push(Assignment {
                        name: "argv0".to_owned(),
                        value,
                    });
                }
                if rest.first().and_then(Word::bytes) == Some(b"-") {
                    rest = &rest[1..];
                }
                while let Some((name, value)) = rest.first().and_then(assigned) {
                    assignments.push(Assignment { name, value });
                    rest = &rest[1..];
                }
                if rest.is_empty() {
                    return false;
                }
                self.command(
                    &context.inside("env"),
                    rest.to_vec(),
                    assignments,
                    command.redirects.clone(),
                    input,
                );
                return true;
            };
            let Some(text) = split.text().filter(|text| !text.contains(['\\', '\'', '"', '$', '#'])) else {
                self.cannot(split.show(), "quotes and expansions of `env -S` are not understood");
                return false;
            };
            let before = &parsed.options[..parsed.options.len() - 1];
            if before.iter().any(|(name, _)| name == "S" || name == "split-string") {
                self.cannot(command.show(160), "`env -S` more than once");
                return false;
            }
            let words: Vec<Word> = text.split_whitespace().map(Word::known).collect();
            args.splice(..parsed.operand, words);
        }
        self.cannot(command.show(160), "`env -S` in itself");
        false
    }

    fn eval(&mut self, context: &Context, args: &[Word]) -> bool {
        let texts: Option<Vec<&str>> = args.iter().map(Word::text).collect();
        match texts {
            Some(texts) => {
                let texts = texts.strip_prefix(&["--"]).unwrap_or(&texts);
                self.script(&context.inside("eval"), &texts.join(" "));
                true
            }
            None => {
                self.cannot("eval", "what `eval` is given is not known before it runs");
                false
            }
        }
    }

    fn trap(&mut self, context: &Context, args: &[Word]) {
        let args = match args.first().and_then(Word::text) {
            Some("--") => &args[1..],
            Some("-l" | "-p" | "-P" | "-") | None if args.first().is_none_or(|word| word.text().is_some()) => return,
            _ => args,
        };
        match args.first().map(Word::text) {
            None => {}
            Some(Some(text)) if args.len() > 1 => self.script(&context.inside("trap"), text),
            Some(Some(_)) => {}
            Some(None) => self.cannot("trap", "what `trap` is given is not known before it runs"),
        }
    }

    fn xargs(&mut self, context: &Context, args: &[Word]) {
        const XARGS: Options = Options {
            short: "0a:d:E:e;I:i;L:l;n:oP:prs:tx",
            long: &[
                "null",
                "arg-file=",
                "delimiter=",
                "eof?",
                "replace?",
                "max-lines?",
                "max-args=",
                "open-tty",
                "max-procs=",
                "interactive",
                "no-run-if-empty",
                "max-chars=",
                "verbose",
                "exit",
                "show-limits",
                "process-slot-var=",
                "help",
                "version",
            ],
        };
        let Some(parsed) = self.options("xargs", &XARGS, args) else {
            return;
        };
        let mut words = args[parsed.operand..].to_vec();
        if words.is_empty() {
            return;
        }
        if parsed.has(&["I", "i", "replace"]) {
            let marker = parsed
                .value(&["I", "i", "replace"])
                .map_or(Some(b"{}".to_vec()), |word| word.bytes().map(<[u8]>::to_vec));
            let Some(marker) = marker.filter(|marker| !marker.is_empty()) else {
                self.cannot("xargs -I", "what `xargs` replaces is not known");
                return;
            };
            words = words.into_iter().map(|word| word.without(&marker, false)).collect();
        } else {
            words.push(Word::anything());
        }
        self.command(&context.inside("xargs"), words, Vec::new(), Vec::new(), Input::Unknown);
    }

    fn find(&mut self, context: &Context, args: &[Word]) {
        if args.iter().any(Word::is_many) {
            // A pattern can become paths only where it begins as one; anything else may become `-exec`.
            let path = |word: &Word| match word {
                Word::Dynamic { prefix, many: true, .. } => prefix.first().is_some_and(|byte| *byte != b'-'),
                _ => true,
            };
            if !args.iter().all(path) {
                self.cannot("find", "arguments that are not known may run a command");
            }
        }
        let mut at = 0;
        while at < args.len() {
            let action = args[at].text().unwrap_or_default().to_owned();
            at += 1;
            if !matches!(action.as_str(), "-exec" | "-execdir" | "-ok" | "-okdir") {
                continue;
            }
            let rest = &args[at..];
            let plus =
                |index: usize| rest[index].bytes() == Some(b"+") && index > 0 && rest[index - 1].bytes() == Some(b"{}");
            let end = (0..rest.len()).find(|index| rest[*index].bytes() == Some(b";") || plus(*index));
            let Some(end) = end else {
                self.cannot(format!("find {action}"), "the command of `find` has no end");
                return;
            };
            let many = plus(end);
            let words: Vec<Word> = rest[..end]
                .iter()
                .map(|word| word.clone().without(b"{}", many))
                .collect();
            self.command(
                &context.inside(&format!("find {action}")),
                words,
                Vec::new(),
                Vec::new(),
                Input::Unknown,
            );
            at += end + 1;
        }
    }

    fn fd(&mut self, context: &Context, args: &[Word]) {
        for (at, word) in args.iter().enumerate() {
            let Some(text) = word.text() else { continue };
            let (name, attached) = text.split_once('=').map_or((text, false), |(name, _)| (name, true));
            let long = name.len() > 3 && "--exec-batch".starts_with(name);
            let short = !text.starts_with("--") && text.starts_with('-') && text.contains(['x', 'X']);
            if attached && long || short && !text.ends_with(['x', 'X']) {
                self.cannot(word.show(), "this option of `fd` may run a program");
            } else if long || short {
                let rest = &args[at + 1..];
                let end = rest.iter().position(|word| word.bytes() == Some(b";"));
                let mut words = rest[..end.unwrap_or(rest.len())].to_vec();
                let plain = |word: &Word| word.bytes().is_some_and(|bytes| !bytes.contains(&b'{'));
                for word in words.iter_mut().filter(|word| !plain(word)) {
                    *word = Word::anything();
                }
                words.push(Word::anything());
                self.command(
                    &context.inside("fd --exec"),
                    words,
                    Vec::new(),
                    Vec::new(),
                    Input::Unknown,
                );
            }
        }
    }

    /// What takes names of variables: an index in one is run, and a variable of the environment changes what comes after.
    pub(super) fn builtin_names(&mut self, context: &Context, name: &str, args: &[Word]) {
        for word in args {
            let Some(text) = word.text() else { continue };
            if text.contains("$(") || text.contains('`') {
                self.cannot(
                    word.show(),
                    format!("`{name}` may run a substitution in the name of a variable"),
                );
            }
        }
        let sets = !matches!(name, "test" | "[" | "unset");
        // Without it a shell looks for programs where it is.
        if name == "unset" && args.iter().any(|word| word.text().is_none_or(|text| text == "PATH")) {
            self.sets("PATH");
        }
        let named = |word: &Word| match word.text() {
            Some(text) => !text.starts_with('-') && !super::read::is_local(text),
            None => true,
        };
        if sets {
            for text in args.iter().filter_map(Word::text) {
                self.look_at_name(text.strip_prefix("-v").unwrap_or(text));
            }
        }
        self.changed_environment |= sets && args.iter().any(named);
        self.builtin_evaluates(context, name, args);
    }

    /// Words that a program joins and gives to `sh -c`.
    fn joined(&mut self, context: &Context, via: &str, words: &[Word]) {
        let texts: Option<Vec<&str>> = words.iter().map(Word::text).collect();
        match texts {
            Some(texts) => {
                let inner = Context {
                    dialect: Dialect::Posix,
                    positional: None,
                    ..context.inside(via)
                };
                self.script(&inner, &texts.join(" "));
            }
            None => self.cannot(via, "what it gives to a shell is not known before it runs"),
        }
    }

    fn watch(&mut self, context: &Context, args: &[Word]) {
        const WATCH: Options = Options {
            short: "bcCd;efgn:pq:rs:twxhv",
            long: &[
                "beep",
                "color",
                "no-color",
                "differences?",
                "errexit",
                "chgexit",
                "interval=",
                "precise",
                "equexit=",
                "no-rerun",
                "no-title",
                "no-wrap",
                "exec",
                "follow",
                "help",
                "version",
            ],
        };
        let Some(parsed) = self.options("watch", &WATCH, args) else {
            return;
        };
        let rest = &args[parsed.operand..];
        if parsed.has(&["x", "exec"]) && !rest.is_empty() {
            self.command(
                &context.inside("watch"),
                rest.to_vec(),
                Vec::new(),
                Vec::new(),
                Input::Unknown,
            );
        } else if !rest.is_empty() {
            self.joined(context, "watch", rest);
        }
    }

    fn flock(&mut self, context: &Context, args: &[Word]) {
        const FLOCK: Options = Options {
            short: "sxeunoFvw:E:c:hV",
            long: &[
                "shared",
                "exclusive",
                "unlock",
                "nonblock",
                "nb",
                "close",
                "no-fork",
                "verbose",
                "timeout=",
                "wait=",
                "conflict-exit-code=",
                "command=",
                "fcntl",
                "help",
                "version",
            ],
        };
        let Some(parsed) = self.options("flock", &FLOCK, args) else {
            return;
        };
        let rest = args.get(parsed.operand + 1..).unwrap_or_default();
        match rest.first().map(Word::bytes) {
            None => {}
            Some(Some(b"-c" | b"--command")) => self.joined(context, "flock -c", &rest[1..]),
            Some(_) => self.command(
                &context.inside("flock"),
                rest.to_vec(),
                Vec::new(),
                Vec::new(),
                Input::Unknown,
            ),
        }
    }

    fn script_program(&mut self, context: &Context, args: &[Word]) {
        const SCRIPT: Options = Options {
            short: "aefqt;c:E:I:O:B:T:m:o:hV",
            long: &[
                "append",
                "return",
                "flush",
                "force",
                "quiet",
                "timing?",
                "command=",
                "echo=",
                "log-in=",
                "log-out=",
                "log-io=",
                "log-timing=",
                "logging-format=",
                "output-limit=",
                "help",
                "version",
            ],
        };
        let Some(parsed) = self.options("script", &SCRIPT, args) else {
            return;
        };
        let operands = args.len() - parsed.operand;
        match parsed.value(&["c", "command"]).cloned() {
            Some(command) if operands <= 1 => self.joined(context, "script -c", &[command]),
            _ => self.cannot("script", "`script` runs a shell that reads its commands from elsewhere"),
        }
    }

    fn su(&mut self, context: &Context, args: &[Word]) {
        const SU: Options = Options {
            short: "c:fg:G:lmpPs:T:w:hV",
            long: &[
                "command=",
                "session-command=",
                "fast",
                "group=",
                "supp-group=",
                "login",
                "preserve-environment",
                "pty",
                "shell=",
                "whitelist-environment=",
                "help",
                "version",
            ],
        };
        // Options may stand behind the user's name here.
        let mut command = None;
        let mut operands = 0;
        let mut rest = args;
        while !rest.is_empty() {
            let Some(parsed) = self.options("su", &SU, rest) else {
                return;
            };
            if let Some(value) = parsed.value(&["c", "command", "session-command"]) {
                command = Some(value.clone());
            }
            rest = &rest[parsed.operand..];
            if let Some(operand) = rest.first() {
                operands += usize::from(operand.bytes() != Some(b"-"));
                rest = &rest[1..];
            }
        }
        match command {
            Some(command) if operands <= 1 => self.joined(context, "su -c", &[command]),
            _ => self.cannot("su", "`su` runs a shell that reads its commands from elsewhere"),
        }
    }

    fn parallel(&mut self, context: &Context, args: &[Word]) {
        const PARALLEL: Options = Options {
            short: "k0uXmrtj:n:N:L:C:d:a:qP:",
            long: &[
                "keep-order",
                "null",
                "ungroup",
                "xargs",
                "no-run-if-empty",
                "verbose",
                "bar",
                "progress",
                "eta",
                "dry-run",
                "will-cite",
                "jobs=",
                "max-args=",
                "colsep=",
                "delimiter=",
                "arg-file=",
                "timeout=",
                "joblog=",
                "halt=",
                "delay=",
                "retries=",
                "tag",
                "line-buffer",
            ],
        };
        let Some(parsed) = self.options("parallel", &PARALLEL, args) else {
            return;
        };
        let rest = &args[parsed.operand..];
        let end = rest
            .iter()
            .position(|word| word.bytes().is_some_and(|bytes| bytes.starts_with(b":::")));
        let template = &rest[..end.unwrap_or(rest.len())];
        let simple = |word: &Word| {
            word.text().is_some_and(|text| {
                text.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b" _-./=:,@%+^{}".contains(&byte))
            })
        };
        if template.is_empty() || !template.iter().all(simple) {
            self.cannot(
                "parallel",
                "what `parallel` gives to a shell is not known before it runs",
            );
            return;
        }
        let words = template
            .iter()
            .filter_map(Word::text)
            .flat_map(|text| text.split(' '))
            .filter(|text| !text.is_empty());
        let mut words: Vec<Word> = words
            .map(|text| {
                if text.contains('{') {
                    Word::anything()
                } else {
                    Word::known(text)
                }
            })
            .collect();
        words.push(Word::anything());
        self.command(
            &context.inside("parallel"),
            words,
            Vec::new(),
            Vec::new(),
            Input::Unknown,
        );
    }

    fn applet(&mut self, context: &Context, name: &str, args: &[Word], input: Input) {
        match args.first() {
            None => {}
            Some(word) if matches!(word.text(), Some("--list" | "--help" | "--list-full")) => {}
            Some(word) if word.bytes().is_none_or(|bytes| bytes.starts_with(b"-")) => self.cannot(
                format!("{name} {}", word.show()),
                format!("this option of `{name}` is not understood"),
            ),
            Some(_) => self.command(&context.inside(name), args.to_vec(), Vec::new(), Vec::new(), input),
        }
    }

    fn npx(&mut self, context: &Context, via: &str, args: &[Word]) {
        const NPX: Options = Options {
            short: "yqp:c:w:",
            long: &[
                "yes",
                "no",
                "no-install",
                "quiet",
                "package=",
                "call=",
                "workspace=",
                "workspaces",
                "prefer-offline",
                "offline",
                "ignore-existing",
                "help",
                "version",
            ],
        };
        let Some(parsed) = self.options(via, &NPX, args) else {
            return;
        };
        if let Some(call) = parsed.value(&["c", "call"]).cloned() {
            self.joined(context, &format!("{via} -c"), &[call]);
            return;
        }
        let rest = &args[parsed.operand..];
        if !rest.is_empty() {
            self.command(
                &context.inside(via),
                rest.to_vec(),
                Vec::new(),
                Vec::new(),
                Input::Unknown,
            );
        }
    }

    /// A script that another shell runs is that one's, as any program. What this shell sources changes what its commands mean.
    pub(super) fn sourced(&mut self, args: &[Word], here: bool) {
        let Some(file) = args.iter().find(|word| word.bytes() != Some(b"--")) else {
            return;
        };
        if here {
            self.cannot(file.show(), "a file that is sourced may give names other meanings");
        } else if file.bytes().is_none_or(is_stream) {
            self.cannot(file.show(), "a script whose place is not known, or that is no file");
        }
    }

    fn declared(&mut self, context: &Context, args: &[Word]) {
        let assignments: Vec<Assignment> = args
            .iter()
            .filter_map(assigned)
            .map(|(name, value)| Assignment { name, value })
            .collect();
        self.look_at_values(&assignments);
        self.look_at_variables(context, &assignments);
        self.declares(args);
        for word in args {
            let known = match word {
                Word::Known(bytes) => bytes.as_slice(),
                Word::Dynamic { prefix, .. } => prefix,
            };
            let name = known.split(|byte| *byte == b'=').next().unwrap_or_default();
            if super::read::substitutes(name) {
                self.cannot(name, "a substitution in the name of a variable, which is run");
            }
        }
        let dynamic = args
            .iter()
            .any(|word| word.bytes().is_none() && assigned(word).is_none());
        let environment = |assignment: &Assignment| !super::read::harmless(&assignment.name);
        self.changed_environment |= dynamic;
        if dynamic {
            self.cannot("…", "which variables are set is not known before it runs");
        }
        for assignment in assignments.iter().filter(|assignment| environment(assignment)) {
            self.sets(&assignment.name);
        }
    }
}

pub(super) fn is_stream(path: &[u8]) -> bool {
    path.starts_with(b"/dev/") || path.starts_with(b"/proc/")
}

/// `NAME=value` as a word.
pub(super) fn assigned(word: &Word) -> Option<(String, Word)> {
    let start = match word {
        Word::Known(bytes) => bytes,
        Word::Dynamic { prefix, .. } => prefix,
    };
    let at = start.iter().position(|byte| *byte == b'=')?;
    let name = String::from_utf8_lossy(&start[..at]).into_owned();
    let value = match word {
        Word::Known(bytes) => Word::known(&bytes[at + 1..]),
        Word::Dynamic {
            prefix,
            suffix,
            many,
            origin,
        } => Word::Dynamic {
            prefix: prefix[at + 1..].to_vec(),
            suffix: suffix.clone(),
            many: *many,
            origin: origin.clone(),
        },
    };
    Some((name, value))
}
