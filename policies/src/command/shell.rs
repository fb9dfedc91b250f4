//! Shells, and git where it starts programs.

use super::options::Options;
use super::read::{Assignment, Context, Dialect, Input, Reading, SimpleCommand, harmless, substitutes};
use super::word::Word;

/// Long options of bash's after which it goes on as before.
const LONG: &[&str] = &[
    "norc",
    "noprofile",
    "posix",
    "login",
    "restricted",
    "verbose",
    "noediting",
];

/// The shell that a program's name names, with or without a version: `bash-5.2`.
pub(super) fn dialect(name: &str) -> Option<Dialect> {
    let base = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    match base.trim_start_matches('-') {
        "bash" | "rbash" => Some(Dialect::Bash),
        "sh" | "dash" | "ash" | "ksh" | "mksh" | "pdksh" | "oksh" | "posh" | "yash" | "hush" | "lksh" => {
            Some(Dialect::Posix)
        }
        "zsh" | "rzsh" => Some(Dialect::Zsh),
        _ => None,
    }
}

impl Reading {
    pub(super) fn shell(
        &mut self,
        context: &Context,
        name: &str,
        dialect: Dialect,
        command: &SimpleCommand,
        input: Input,
    ) -> bool {
        let args = &command.args;
        let (mut at, mut script, mut stdin) = (0, false, false);
        let mut startup = dialect == Dialect::Zsh || name.starts_with('-');
        while let Some(word) = args.get(at) {
            let Some(text) = word.text() else {
                // The script itself, of which the begin is known.
                if let Word::Dynamic {
                    prefix, many: false, ..
                } = word
                    && prefix.first().is_some_and(|byte| !b"-+".contains(byte))
                {
                    break;
                }
                self.cannot(
                    word.show(),
                    format!("this argument of `{name}` is not known before it runs"),
                );
                return false;
            };
            let (mut long, cluster) = (text.strip_prefix("--"), text.strip_prefix(['-', '+']));
            // bash takes its long options with one dash too.
            if let Some(one) = text.strip_prefix('-')
                && (LONG.contains(&one) || matches!(one, "init-file" | "rcfile" | "help" | "version"))
            {
                if dialect != Dialect::Bash {
                    self.cannot(text, format!("this option of `{name}` is not understood"));
                    return false;
                }
                long = Some(one);
            }
            match (long, cluster) {
                (Some(""), _) | (_, Some("")) => {
                    at += 1;
                    break;
                }
                (Some(long), _) if LONG.contains(&long) => startup |= long == "login",
                (Some("help" | "version"), _) => return false,
                (Some(_), _) => {
                    self.cannot(text, format!("this option of `{name}` is not understood"));
                    return false;
                }
                (None, Some(letters)) => {
                    if !letters.bytes().all(|letter| letter.is_ascii_alphabetic()) {
                        self.cannot(text, format!("this option of `{name}` is not understood"));
                        return false;
                    }
                    // `+c` is `-c` to them.
                    script |= letters.contains('c');
                    startup |= letters.contains(['i', 'l']);
                    stdin |= letters.contains('s');
                    // Each takes the next word as its value.
                    at += letters.matches(['o', 'O']).count();
                }
                (None, None) => break,
            }
            at += 1;
        }
        let startup_set = |one: &Assignment| super::variables::STARTUP.contains(&one.name.as_str());
        if startup && (self.startup || command.assignments.iter().any(startup_set)) {
            self.cannot(
                command.show(160),
                "a shell that first reads what `ENV`, `HOME` or `ZDOTDIR` names, which the line sets",
            );
        }
        let rest = args.get(at..).unwrap_or_default();
        for word in rest.iter().skip(usize::from(script)) {
            self.values.hold("@", &word.origin());
        }
        let inner = |positional| Context {
            dialect,
            positional,
            ..context.inside(&format!("{name}{}", if script { " -c" } else { "" }))
        };
        if script {
            let Some(text) = rest.first().and_then(Word::text) else {
                let what = rest.first().map(Word::show).unwrap_or_default();
                self.cannot(what, format!("what `{name} -c` is given is not known before it runs"));
                // What surely is in it may be forbidden.
                if let Some(Word::Dynamic { prefix, .. }) = rest.first()
                    && let Ok(text) = std::str::from_utf8(prefix)
                {
                    self.script(&inner(None), text);
                }
                return false;
            };
            // What changes the parameters, or has its own.
            let changes = ["set", "shift", "source", ". ", "eval", "()", "function", "getopts"];
            let mut parameters = rest[1..].to_vec();
            if parameters.is_empty() {
                parameters.push(Word::known(name));
            }
            let known = !changes.iter().any(|word| text.contains(word)) && !parameters.iter().any(Word::is_many);
            for parameter in parameters.iter().filter(|word| word.bytes().is_some_and(substitutes)) {
                self.cannot(
                    parameter.show(),
                    "a parameter that holds a substitution, which arithmetic may run",
                );
            }
            for one in command.assignments.iter().filter(|one| !harmless(&one.name)) {
                self.sets(&one.name);
            }
            self.changed_environment |= command.redirects.iter().any(super::read::Redirect::changes_something);
            self.script(&inner(known.then_some(parameters)), text);
            return true;
        }
        if !stdin && let Some(file) = rest.first() {
            self.sourced(std::slice::from_ref(file), false);
            return false;
        }
        match input {
            Input::Text(text) => {
                self.script(&inner(None), &text);
                true
            }
            Input::Unknown => {
                self.cannot(command.show(160), super::input::SHELL_READS_INPUT);
                false
            }
        }
    }

    /// `git-push` is `git push`, as are the other names under which git keeps its commands.
    pub(super) fn git_command(&mut self, context: &Context, name: &str, args: &[Word]) {
        if let Some(sub) = name.strip_prefix("git-").filter(|sub| is_git_command(sub)) {
            let words: Vec<Word> = std::iter::once(Word::known(sub)).chain(args.iter().cloned()).collect();
            self.git(context, &words);
        }
    }

    pub(super) fn git(&mut self, context: &Context, args: &[Word]) {
        let Ok(parsed) = GIT.parse(args) else {
            self.cannot("git", "this option of `git` is not understood");
            return;
        };
        for (name, value) in &parsed.options {
            match (name.as_str(), value) {
                ("c", Some(value)) => self.git_setting(context, value),
                ("exec-path", Some(_)) | ("config-env", _) => {
                    self.cannot(format!("git --{name}"), "git runs programs that this names");
                }
                _ => {}
            }
        }
        let rest = &args[parsed.operand..];
        let Some(sub) = rest.first().map(Word::text) else {
            return;
        };
        let Some(sub) = sub else {
            self.cannot("git", "what git is to do is not known before it runs");
            return;
        };
        let rest = &rest[1..];
        let run = |reading: &mut Self, via: &str, words: &[Word]| {
            if !words.is_empty() {
                reading.command(
                    &context.inside(via),
                    words.to_vec(),
                    Vec::new(),
                    Vec::new(),
                    Input::Unknown,
                );
            }
        };
        match sub {
            "bisect" if rest.first().and_then(Word::bytes) == Some(b"run") => run(self, "git bisect run", &rest[1..]),
            "submodule" => {
                let foreach = rest.iter().position(|word| word.bytes() == Some(b"foreach"));
                if let Some(at) = foreach {
                    let words: Vec<Word> = rest[at + 1..]
                        .iter()
                        .skip_while(|word| matches!(word.text(), Some("--recursive" | "--quiet" | "-q")))
                        .cloned()
                        .collect();
                    match words.as_slice() {
                        [one] if one.text().is_some() => self.git_script(context, "git submodule foreach", one),
                        words => run(self, "git submodule foreach", words),
                    }
                }
            }
            "rebase" => self.git_option(context, "git rebase --exec", rest, &["-x", "--exec"]),
            "difftool" | "mergetool" => self.git_option(context, "git difftool -x", rest, &["-x", "--extcmd"]),
            "filter-branch" => self.git_option(
                context,
                "git filter-branch",
                rest,
                &[
                    "--tree-filter",
                    "--index-filter",
                    "--msg-filter",
                    "--env-filter",
                    "--commit-filter",
                    "--parent-filter",
                    "--tag-name-filter",
                    "--setup",
                ],
            ),
            "clone" | "fetch" | "push" | "pull" | "ls-remote" | "send-pack" | "fetch-pack" | "archive" => self
                .git_option(
                    context,
                    "git --upload-pack",
                    rest,
                    &["-u", "--upload-pack", "--receive-pack", "--exec"],
                ),
            "grep" => self.git_option(context, "git grep -O", rest, &["--open-files-in-pager"]),
            "config" => self.git_config(context, rest),
            "send-email" => self.git_option(
                context,
                "git send-email",
                rest,
                &[
                    "--sendmail-cmd",
                    "--to-cmd",
                    "--cc-cmd",
                    "--header-cmd",
                    "--smtp-server",
                ],
            ),
            "daemon" => self.git_option(context, "git daemon", rest, &["--access-hook"]),
            "for-each-repo" => {
                let options = rest
                    .iter()
                    .take_while(|word| word.bytes().is_some_and(|bytes| bytes.starts_with(b"-")));
                // `--config x` is one option and two words.
                let mut at = options.count();
                if rest[..at].last().and_then(Word::bytes) == Some(b"--config") {
                    at += 1;
                }
                let words: Vec<Word> = std::iter::once(Word::known("git"))
                    .chain(
                        rest.iter()
                            .skip(at)
                            .skip_while(|word| word.bytes() == Some(b"--"))
                            .cloned(),
                    )
                    .collect();
                run(self, "git for-each-repo", &words);
            }
            "merge-index" => {
                let options = rest
                    .iter()
                    .take_while(|word| matches!(word.bytes(), Some(b"-o" | b"-q")));
                let at = options.count();
                run(self, "git merge-index", &rest[at..]);
            }
            "shell" | "remote-ext" | "remote-fd" | "web--browse" | "instaweb" | "cvsserver" => {
                self.cannot(
                    format!("git {sub}"),
                    "git starts programs with it in ways that are not read",
                );
            }
            _ => {}
        }
        let transport = |word: &&Word| word.bytes().is_some_and(|bytes| bytes.starts_with(b"ext::"));
        if let Some(word) = rest.iter().find(transport) {
            self.cannot(word.show(), "an address that is a command");
        }
        if sub == "clone" {
            for (at, word) in rest.iter().enumerate() {
                let Some(text) = word.text() else { continue };
                if let Some(script) = match text {
                    "-u" => rest.get(at + 1).cloned(),
                    _ => text.strip_prefix("-u").map(Word::known),
                } {
                    self.git_script(context, "git --upload-pack", &script);
                }
                let setting = match text {
                    "-c" | "--config" => rest.get(at + 1).cloned(),
                    _ => text
                        .strip_prefix("--config=")
                        .or_else(|| text.strip_prefix("-c"))
                        .map(Word::known),
                };
                if let Some(setting) = setting {
                    self.git_setting(context, &setting);
                }
            }
        }
    }

    /// `git config NAME VALUE`, `git config set NAME VALUE`: what later commands do.
    fn git_config(&mut self, context: &Context, args: &[Word]) {
        const VALUED: &[&str] = &[
            "-f",
            "--file",
            "--blob",
            "--type",
            "-t",
            "--default",
            "--comment",
            "--value",
            "--url",
        ];
        const READS: &[&str] = &[
            "--get",
            "--list",
            "-l",
            "--unset",
            "--remove-section",
            "--rename-section",
        ];
        let mut operands: Vec<&Word> = Vec::new();
        let mut at = 0;
        while let Some(word) = args.get(at) {
            at += 1;
            match word.text() {
                Some(text) if READS.iter().any(|reads| text.starts_with(reads)) => return,
                Some(text) if VALUED.contains(&text) => at += 1,
                Some(text) if text.starts_with('-') && operands.len() < 2 => {}
                _ => operands.push(word),
            }
        }
        match operands.first().and_then(|word| word.text()) {
            Some("get" | "list" | "unset" | "remove-section" | "rename-section" | "edit") => return,
            Some("set") => {
                operands.remove(0);
            }
            _ => {}
        }
        if let [key, value, ..] = operands[..] {
            self.git_setting_of(context, key, Some(value));
        } else if operands.iter().any(|word| word.is_many()) {
            self.cannot("git config", "a setting of git that is not known may run a program");
        }
    }

    /// Options whose value is a shell's script.
    fn git_option(&mut self, context: &Context, via: &str, args: &[Word], names: &[&str]) {
        for (at, word) in args.iter().enumerate() {
            let Some(text) = word.text() else { continue };
            if names.contains(&text) {
                if via == "git --upload-pack" && text == "-u" {
                    // Of `push` it is `--set-upstream`, of `fetch` `--update-head-ok`; of `clone` it is looked at there.
                    continue;
                }
                if let Some(script) = args.get(at + 1) {
                    self.git_script(context, via, &script.clone());
                }
            } else if let Some((name, value)) = text.split_once('=')
                && names.contains(&name)
            {
                self.git_script(context, via, &Word::known(value));
            } else if via == "git rebase --exec" && text.starts_with("-x") {
                self.git_script(context, via, &Word::known(&text[2..]));
            }
        }
    }

    fn git_script(&mut self, context: &Context, via: &str, script: &Word) {
        let inner = Context {
            dialect: Dialect::Posix,
            positional: None,
            ..context.inside(via)
        };
        match script.text() {
            Some(text) => self.script(&inner, text),
            None => self.cannot(via, "what git gives to a shell is not known before it runs"),
        }
    }

    /// `-c key=value`: most keys of git's are harmless, and a list of the others could not be complete.
    pub(super) fn git_setting(&mut self, context: &Context, setting: &Word) {
        const HARMLESS: &[&str] = &[
            "user.",
            "author.",
            "committer.",
            "color.",
            "advice.",
            "init.defaultbranch",
            "core.quotepath",
            "core.autocrlf",
            "core.eol",
            "core.filemode",
            "core.symlinks",
            "core.longpaths",
            "core.abbrev",
            "core.bare",
            "core.ignorecase",
            "core.precomposeunicode",
            "core.logallrefupdates",
            "commit.gpgsign",
            "tag.gpgsign",
            "gc.auto",
            "http.postbuffer",
            "http.lowspeed",
            "fetch.prune",
            "fetch.parallel",
            "pull.rebase",
            "pull.ff",
            "push.default",
            "merge.conflictstyle",
            "merge.ff",
            "diff.renames",
            "diff.renamelimit",
            "diff.algorithm",
            "log.",
            "status.",
            "branch.sort",
            "safe.directory",
            "index.",
            "pack.",
            "feature.",
            "rebase.autostash",
            "rebase.autosquash",
            "protocol.version",
            "maintenance.auto",
        ];
        let harmless = |key: &str| HARMLESS.iter().any(|harmless| key.starts_with(harmless));
        let Some(text) = setting.text() else {
            let known = match setting {
                Word::Dynamic {
                    prefix, many: false, ..
                } => std::str::from_utf8(prefix).ok(),
                _ => None,
            };
            let key = known
                .and_then(|known| known.split_once('='))
                .map(|(key, _)| key.to_ascii_lowercase());
            if !key.is_some_and(|key| harmless(&key)) {
                self.cannot(setting.show(), "a setting of git that is not known may run a program");
            }
            return;
        };
        let (key, value) = text.split_once('=').unwrap_or((text, "true"));
        let key = key.to_ascii_lowercase();
        if key.starts_with("alias.") {
            match value.strip_prefix('!') {
                Some(script) => self.git_script(context, "git alias", &Word::known(script)),
                None => self.cannot(text, "an alias gives git's commands other meanings"),
            }
        } else if !harmless(&key) {
            // Not its value, which may be a secret.
            self.cannot(format!("{key}=…"), "this setting may make git run a program");
        }
    }
}

/// Whether git itself has a command of this name; any other is an alias, or a program `git-NAME`.
pub(super) fn is_git_command(name: &str) -> bool {
    GIT_COMMANDS.split_ascii_whitespace().any(|known| known == name)
}

/// What asks about the right one asks about the left one.
pub(super) const GIT_SAME: &[(&str, &str)] = &[
    ("send-pack", "push"),
    ("http-push", "push"),
    ("fetch-pack", "fetch"),
    ("http-fetch", "fetch"),
    ("init-db", "init"),
    ("stage", "add"),
    ("submodule--helper", "submodule"),
    ("fsck-objects", "fsck"),
];

/// `git --list-cmds=main` of 2.47, and what newer ones and its own extensions add.
const GIT_COMMANDS: &str = "add am annotate apply archimport archive backfill bisect blame branch bugreport bundle cat-file check-attr \
    check-ignore check-mailmap check-ref-format checkout checkout--worker checkout-index cherry cherry-pick citool clean clone column commit \
    commit-graph commit-tree config count-objects credential credential-cache credential-cache--daemon credential-store cvsexportcommit \
    cvsimport cvsserver daemon describe diagnose diff diff-files diff-index diff-pairs diff-tree difftool difftool--helper fast-export \
    fast-import fetch fetch-pack filter-branch fmt-merge-msg for-each-ref for-each-repo format-patch fsck fsck-objects fsmonitor--daemon gc \
    get-tar-commit-id grep gui hash-object help hook http-backend http-fetch http-push imap-send index-pack init init-db instaweb \
    interpret-trailers last-modified log ls-files ls-remote ls-tree mailinfo mailsplit maintenance merge merge-base merge-file merge-index \
    merge-octopus merge-one-file merge-ours merge-recursive merge-recursive-ours merge-recursive-theirs merge-resolve merge-subtree merge-tree \
    mergetool mktag mktree multi-pack-index mv name-rev notes p4 pack-objects pack-redundant pack-refs patch-id pickaxe prune prune-packed \
    pull push quiltimport range-diff read-tree rebase receive-pack reflog refs remote remote-ext remote-fd remote-ftp remote-ftps remote-http \
    remote-https repack replace replay repo request-pull rerere reset restore rev-list rev-parse revert rm send-email send-pack \
    sh-i18n--envsubst shell shortlog show show-branch show-index show-ref sparse-checkout stage stash status stripspace submodule \
    submodule--helper svn switch symbolic-ref tag unpack-file unpack-objects update-index update-ref update-server-info upload-archive \
    upload-archive--writer upload-pack var verify-commit verify-pack verify-tag version web--browse whatchanged worktree write-tree gitk scalar";

/// git's options before its subcommand.
pub(super) const GIT: Options = Options {
    short: "C:c:pPvh",
    long: &[
        "git-dir=",
        "work-tree=",
        "namespace=",
        "super-prefix=",
        "config-env=",
        "exec-path?",
        "html-path",
        "man-path",
        "info-path",
        "paginate",
        "no-pager",
        "no-replace-objects",
        "no-lazy-fetch",
        "no-optional-locks",
        "no-advice",
        "bare",
        "literal-pathspecs",
        "glob-pathspecs",
        "noglob-pathspecs",
        "icase-pathspecs",
        "attr-source=",
        "list-cmds=",
        "version",
        "help",
    ],
};
