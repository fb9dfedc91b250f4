//! The narrow rule that "always" adds for a command that somebody approved.

use super::read::{harmless, read};
use super::rules::{ArgPattern, CommandRules, Pattern, Rule, Verdict, first_operand};
use super::shell::{GIT, dialect, is_git_command};

/// Why a command line has no narrow rule. Each says what is wrong with it, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotNarrow {
    /// Some of it was not understood.
    Unreadable(String),
    /// It runs more than one command, or none.
    NotOne(usize),
    /// Some word is not known, or it redirects to a file, or sets variables.
    NotExact(String),
    /// The program runs whatever its arguments or input say.
    RunsAnything(String),
    /// The arguments leave open what will be done.
    OpenArguments(String),
    /// Too long for a rule, or holds what a rule cannot say.
    NotSayable(String),
}

impl std::fmt::Display for NotNarrow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "the command line cannot be read: {why}"),
            Self::NotOne(count) => write!(f, "the line runs {count} commands, and a rule is about one"),
            Self::NotExact(what) => write!(f, "what will run is not exactly known: {what}"),
            Self::RunsAnything(program) => write!(f, "`{program}` runs whatever it is told"),
            Self::OpenArguments(what) => write!(f, "{what}"),
            Self::NotSayable(what) => write!(f, "{what}"),
        }
    }
}

impl std::error::Error for NotNarrow {}

/// Programs that run, or can be told to run, anything; and those whose every use is worth a question.
const RUN_ANYTHING: &[&str] = &[
    // Interpreters.
    "python",
    "pypy",
    "ipython",
    "node",
    "nodejs",
    "deno",
    "bun",
    "tsx",
    "ts-node",
    "perl",
    "ruby",
    "irb",
    "php",
    "lua",
    "luajit",
    "awk",
    "gawk",
    "mawk",
    "nawk",
    "tclsh",
    "wish",
    "Rscript",
    "R",
    "julia",
    "java",
    "jshell",
    "groovy",
    "scala",
    "kotlin",
    "ghci",
    "runghc",
    "elixir",
    "iex",
    "erl",
    "guile",
    "sbcl",
    "emacs",
    "osascript",
    "powershell",
    "pwsh",
    "sqlite",
    "psql",
    "mysql",
    "gdb",
    "lldb",
    "bc",
    "dc",
    "m4",
    "jq",
    // Start what they are told.
    "env",
    "sudo",
    "doas",
    "su",
    "xargs",
    "parallel",
    "find",
    "watch",
    "strace",
    "ltrace",
    "flock",
    "script",
    "ssh",
    "unshare",
    "nsenter",
    "chroot",
    "busybox",
    "toybox",
    "nice",
    "ionice",
    "chrt",
    "taskset",
    "timeout",
    "nohup",
    "setsid",
    "stdbuf",
    "time",
    "command",
    "exec",
    "builtin",
    "eval",
    "trap",
    "source",
    ".",
    "npx",
    "bunx",
    "uvx",
    "pipx",
    "docker",
    "podman",
    "kubectl",
    "systemd-run",
    "tmux",
    "screen",
    "at",
    "crontab",
    "make",
    "gmake",
    "ninja",
    "just",
    "rake",
    "ant",
    "gradle",
    "mvn",
    "entr",
    // Editors and pagers.
    "vi",
    "vim",
    "nvim",
    "nano",
    "ed",
    "ex",
    "sed",
    "less",
    "more",
    "man",
    "code",
    "view",
    // Take options that run programs.
    "tar",
    "rsync",
    "zip",
    "unzip",
    "curl",
    "wget",
    "scp",
    "sftp",
    "nc",
    "ncat",
    "socat",
    "openssl",
    "gcc",
    "g++",
    "cc",
    "clang",
    "ld",
];

/// Package managers whose subcommand runs what a file of the project says, or anything.
const RUN_SCRIPTS: &[(&str, &[&str])] = &[
    ("npm", &["exec", "x", "run", "run-script", "explore", "create", "init"]),
    ("pnpm", &["exec", "dlx", "run", "create"]),
    ("yarn", &["exec", "dlx", "run", "create"]),
    ("cargo", &["run", "r"]),
    ("go", &["run", "generate"]),
    ("uv", &["run", "tool"]),
    ("poetry", &["run", "shell"]),
    ("pipenv", &["run", "shell"]),
    ("bundle", &["exec"]),
];

/// What git does that runs nothing it is told to, given to a rule with all its arguments.
const GIT_PLAIN: &[&str] = &[
    "status",
    "add",
    "commit",
    "log",
    "diff",
    "show",
    "branch",
    "tag",
    "fetch",
    "pull",
    "push",
    "switch",
    "checkout",
    "restore",
    "stash",
    "merge",
    "reset",
    "rev-parse",
    "describe",
    "ls-files",
    "remote",
    "mv",
    "rm",
    "init",
    "blame",
    "cherry-pick",
    "revert",
];

/// Whether a program, by its name, is a shell, an interpreter or another that runs what it is told.
pub(crate) fn runs_anything(name: &str) -> bool {
    let base = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    dialect(name).is_some() || RUN_ANYTHING.contains(&base) || RUN_ANYTHING.contains(&name)
}

impl CommandRules {
    /// The narrow rule that allows a command line and no other: its program as it was named, its arguments and nothing after them. Pure: these rules are not looked at, for what is
    /// narrow is the same under all.
    ///
    /// # Errors
    /// Why there is none. `npm run x` and `make x` are refused: what they run is a file of the project, which the command can change.
    pub fn rule_for(argv: &[Vec<u8>]) -> Result<Rule, NotNarrow> {
        let program = argv
            .first()
            .map(|program| String::from_utf8_lossy(program).into_owned())
            .unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
        if runs_anything(&name) {
            return Err(NotNarrow::RunsAnything(name));
        }
        if name.strip_prefix("git-").is_some_and(is_git_command) {
            return Err(NotNarrow::OpenArguments(format!(
                "`{name}` is a part of git; as `git {}` it may have a rule",
                &name[4..]
            )));
        }
        if name.starts_with("ld-linux") || name.starts_with("ld-musl") {
            return Err(NotNarrow::RunsAnything(name));
        }
        let reading = read(argv);
        if let Some(part) = reading.unreadable.first() {
            return Err(NotNarrow::Unreadable(part.why.clone()));
        }
        let [command] = reading.commands.as_slice() else {
            return Err(NotNarrow::NotOne(reading.commands.len()));
        };
        if command.assignments.iter().any(|assignment| !harmless(&assignment.name)) || reading.changed_environment {
            return Err(NotNarrow::NotExact("it sets variables".to_owned()));
        }
        let scripts = RUN_SCRIPTS.iter().find(|(program, _)| *program == name);
        if let Some((_, subcommands)) = scripts {
            let run = argv[1..]
                .iter()
                .find(|word| !word.starts_with(b"-") && !word.starts_with(b"+"));
            let run = run.map(|word| String::from_utf8_lossy(word).into_owned());
            match run {
                None => {
                    return Err(NotNarrow::OpenArguments(format!(
                        "`{name}` alone leaves open what it does"
                    )));
                }
                Some(run) if subcommands.contains(&run.as_str()) => {
                    return Err(NotNarrow::RunsAnything(format!("{name} {run}")));
                }
                Some(_)
                    if argv[1].starts_with(b"-")
                        || argv[1].starts_with(b"+")
                        || argv[1..].iter().any(|word| word.starts_with(b"--config")) =>
                {
                    return Err(NotNarrow::OpenArguments(format!(
                        "options of `{name}` may change what it runs"
                    )));
                }
                Some(_) => {}
            }
        }
        if name == "git" {
            git(command)?;
        }
        let mut args = Vec::new();
        for word in &argv[1..] {
            let text = std::str::from_utf8(word)
                .ok()
                .filter(|text| Pattern::is_sayable(text) && !text.contains('*'));
            let Some(text) = text else {
                return Err(NotNarrow::NotSayable(
                    "an argument is empty, long or holds `*` or what is no text, which a rule cannot say".to_owned(),
                ));
            };
            args.push(ArgPattern(vec![Pattern(text.to_owned())]));
        }
        if args.len() > 32 {
            return Err(NotNarrow::NotSayable(format!(
                "{} arguments, and a rule names at most 32",
                args.len()
            )));
        }
        let is_text = argv.first().is_some_and(|program| std::str::from_utf8(program).is_ok());
        if !is_text || !Pattern::is_sayable(&program) || program.contains('*') || program.starts_with('.') {
            return Err(NotNarrow::NotSayable(
                "the program's name depends on the directory, or cannot be said".to_owned(),
            ));
        }
        Ok(Rule {
            program: vec![Pattern(program)],
            args,
            exact: true,
            has: Vec::new(),
            decision: Verdict::Allow,
            reason: String::new(),
            matches: Vec::new(),
            no_match: Vec::new(),
        })
    }

    /// These rules and one more.
    #[must_use]
    pub fn with(&self, rule: Rule) -> Self {
        let mut rules = self.clone();
        rules.rules.push(rule);
        rules
    }
}

fn git(command: &super::SimpleCommand) -> Result<(), NotNarrow> {
    let at = first_operand(&GIT, &command.args).filter(|at| *at == 0);
    let Some(sub) = at.and_then(|at| command.args.get(at)).and_then(|word| word.text()) else {
        return Err(NotNarrow::OpenArguments(
            "git with options before its subcommand, or without one, may run programs".to_owned(),
        ));
    };
    let runs = |text: &str| {
        let names = [
            "--ext-diff",
            "--textconv",
            "--output",
            "--upload-pack",
            "--receive-pack",
            "--exec",
            "--open-files-in-pager",
            "--template",
            "--separate-git-dir",
            "--edit",
            "--interactive",
            "--patch",
        ];
        // An abbreviation of `--exec` is `--exe`.
        names.iter().any(|name| {
            let stem = text.split('=').next().unwrap_or_default();
            stem.len() > 3 && name.starts_with(stem)
        })
    };
    if !GIT_PLAIN.contains(&sub) {
        return Err(NotNarrow::OpenArguments(format!("`git {sub}` may run programs")));
    }
    if command
        .args
        .iter()
        .filter_map(|word| word.text())
        .any(|text| runs(text) || text.starts_with("ext::"))
    {
        return Err(NotNarrow::OpenArguments(
            "an option of git's may run programs".to_owned(),
        ));
    }
    Ok(())
}

impl Pattern {
    /// Whether a rule can hold this text: 1 to 256 bytes, no control characters.
    pub fn is_sayable(text: &str) -> bool {
        !text.is_empty() && text.len() <= 256 && !text.chars().any(char::is_control)
    }
}

impl Rule {
    /// The rule as a table of a policy file, to be appended to it.
    pub fn to_toml(&self) -> String {
        let string = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let strings = |texts: Vec<String>| format!("[{}]", texts.join(", "));
        let patterns = |patterns: &[Pattern]| strings(patterns.iter().map(|pattern| string(&pattern.0)).collect());
        let mut text = format!("[[commands.rules]]\nprogram = {}\n", patterns(&self.program));
        if !self.args.is_empty() {
            let args = self.args.iter().map(|arg| match arg.0.as_slice() {
                [one] => string(&one.0),
                several => patterns(several),
            });
            text.push_str(&format!("args = {}\n", strings(args.collect())));
        }
        if self.exact {
            text.push_str("exact = true\n");
        }
        if !self.has.is_empty() {
            text.push_str(&format!("has = {}\n", patterns(&self.has)));
        }
        text.push_str(&format!("decision = \"{}\"\n", self.decision));
        if !self.reason.is_empty() {
            text.push_str(&format!("reason = {}\n", string(&self.reason)));
        }
        for (key, lines) in [("match", &self.matches), ("no-match", &self.no_match)] {
            if !lines.is_empty() {
                text.push_str(&format!(
                    "{key} = {}\n",
                    strings(lines.iter().map(|line| string(line)).collect())
                ));
            }
        }
        text
    }
}
