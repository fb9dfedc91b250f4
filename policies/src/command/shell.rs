//! Shells, and git where it starts programs.

use super::options::Options;
use super::read::{Context, Dialect, Input, Reading, SimpleCommand};
use super::word::Word;

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
            let (long, cluster) = (text.strip_prefix("--"), text.strip_prefix(['-', '+']));
            match (long, cluster) {
                (Some(""), _) | (_, Some("")) => {
                    at += 1;
                    break;
                }
                (Some("norc" | "noprofile" | "posix" | "login" | "restricted" | "verbose" | "noediting"), _) => {}
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
                    script |= letters.contains('c') && text.starts_with('-');
                    stdin |= letters.contains('s');
                    // Each takes the next word as its value.
                    at += letters.matches(['o', 'O']).count();
                }
                (None, None) => break,
            }
            at += 1;
        }
        let rest = args.get(at..).unwrap_or_default();
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
            self.changed_environment |= command.assignments.iter().any(|one| !super::read::harmless(&one.name))
                || command.redirects.iter().any(super::read::Redirect::changes_something);
            self.script(&inner(known.then_some(parameters)), text);
            return true;
        }
        if !stdin && let Some(file) = rest.first() {
            self.sourced(std::slice::from_ref(file));
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
            "clone" | "fetch" | "push" | "pull" | "ls-remote" => self.git_option(
                context,
                "git --upload-pack",
                rest,
                &["-u", "--upload-pack", "--receive-pack", "--exec"],
            ),
            "grep" => self.git_option(context, "git grep -O", rest, &["--open-files-in-pager"]),
            _ => {}
        }
    }

    /// Options whose value is a shell's script.
    fn git_option(&mut self, context: &Context, via: &str, args: &[Word], names: &[&str]) {
        for (at, word) in args.iter().enumerate() {
            let Some(text) = word.text() else { continue };
            if names.contains(&text) {
                if via == "git --upload-pack" && text == "-u" {
                    // Of `push` it is `--set-upstream`.
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
    fn git_setting(&mut self, context: &Context, setting: &Word) {
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
        let Some(text) = setting.text() else {
            self.cannot(setting.show(), "a setting of git that is not known may run a program");
            return;
        };
        let (key, value) = text.split_once('=').unwrap_or((text, "true"));
        let key = key.to_ascii_lowercase();
        if key.starts_with("alias.") {
            match value.strip_prefix('!') {
                Some(script) => self.git_script(context, "git alias", &Word::known(script)),
                None => self.cannot(text, "an alias gives git's commands other meanings"),
            }
        } else if !HARMLESS.iter().any(|harmless| key.starts_with(harmless)) {
            self.cannot(text, "this setting may make git run a program");
        }
    }
}

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
