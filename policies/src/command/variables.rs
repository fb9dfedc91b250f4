//! Variables by which a program is told what to run: those of a line, and those of the request.
//!
//! Any variable that is not known to be harmless keeps a rule that allows from holding ([`harmless`](super::read::harmless)). The few named here say
//! more: a command that a program gives to a shell is read as one, and what names code that is not read makes the line unreadable.

use super::read::{Assignment, Context, Dialect, Reading};
use super::word::Word;

/// Values that are commands: from the manual pages of git 2.47, bash 5.3, man-db 2.13, less 685, sudo 1.9, rsync 3.4 and environ(7), and the
/// reference of cargo 1.90, Mercurial, fzf and npm.
const COMMANDS: &[&str] = &[
    "EDITOR",
    "VISUAL",
    "FCEDIT",
    "SUDO_EDITOR",
    "PAGER",
    "MANPAGER",
    "SYSTEMD_PAGER",
    "BROWSER",
    "SUDO_ASKPASS",
    "SSH_ASKPASS",
    "GIT_ASKPASS",
    "GIT_EDITOR",
    "GIT_SEQUENCE_EDITOR",
    "GIT_PAGER",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_EXTERNAL_DIFF",
    "GIT_PROXY_COMMAND",
    "RSYNC_RSH",
    "CVS_RSH",
    "SVN_SSH",
    "PROMPT_COMMAND",
    "CC",
    "CXX",
    "RUSTC",
    "RUSTDOC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "HGEDITOR",
    "FZF_DEFAULT_COMMAND",
    "npm_config_script_shell",
    "NPM_CONFIG_SCRIPT_SHELL",
];

/// Values that name code, or hold it in a way that is not read here. One that ends with `*` stands for all that begin so.
const CODE: &[&str] = &[
    "BASH_ENV",
    "BASH_FUNC_*",
    "LD_PRELOAD",
    "LD_AUDIT",
    "LESSOPEN",
    "LESSCLOSE",
    "PERL5OPT",
    "PERL5DB",
    "RUBYOPT",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "GIT_EXEC_PATH",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "MAKEFILES",
    "TAR_OPTIONS",
    "GCONV_PATH",
    "GIT_TEMPLATE_DIR",
    "LUA_INIT*",
    "RIPGREP_CONFIG_PATH",
];

/// Prompts: bash expands their values when it shows them, PS4 before each command of a line that is traced.
const PROMPTS: &[&str] = &["PS0", "PS1", "PS2", "PS4"];

/// Where shells look for what they read when they start as an interactive one or for a login.
pub(super) const STARTUP: &[&str] = &["ENV", "HOME", "ZDOTDIR"];

impl Reading {
    /// Looks at what the variables of a command, or those that it exports, run by themselves.
    pub(super) fn look_at_variables(&mut self, context: &Context, assignments: &[Assignment]) {
        for assignment in assignments {
            let Assignment { name, value } = assignment;
            // What a wrapper hands on was looked at with the wrapper.
            if value.bytes().is_some_and(<[u8]>::is_empty) || self.looked_at.contains(assignment) {
                continue;
            }
            let prompt = PROMPTS.contains(&name.as_str());
            if !is_code(name, value)
                && !COMMANDS.contains(&name.as_str())
                && !name.starts_with("GIT_CONFIG_")
                && !prompt
            {
                continue;
            }
            self.looked_at.push(assignment.clone());
            if prompt {
                self.prompt(context, name, value);
            } else if let Some(number) = name.strip_prefix("GIT_CONFIG_KEY_") {
                let of = format!("GIT_CONFIG_VALUE_{number}");
                let set = assignments.iter().rev().find(|other| other.name == of);
                self.git_setting_of(context, value, set.map(|set| &set.value));
            } else if let Some(number) = name.strip_prefix("GIT_CONFIG_VALUE_") {
                let of = format!("GIT_CONFIG_KEY_{number}");
                if !assignments.iter().any(|other| other.name == of) {
                    self.cannot(
                        format!("{name}=…"),
                        "the setting of git that this is a value of is not known",
                    );
                }
            } else if is_code(name, value) {
                self.cannot(format!("{name}=…"), "this variable makes programs run what is not read");
            } else if COMMANDS.contains(&name.as_str()) {
                let inner = Context {
                    dialect: Dialect::Posix,
                    positional: None,
                    ..context.inside(name)
                };
                match value.text() {
                    Some(text) => self.script(&inner, text),
                    None => self.cannot(format!("{name}=…"), "the command that this variable holds is not known"),
                }
            }
        }
    }

    fn prompt(&mut self, context: &Context, name: &str, value: &Word) {
        let inner = context.inside(name);
        match value.text() {
            // A character by its number may be any.
            Some(text)
                if !text
                    .split('\\')
                    .skip(1)
                    .any(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit())) =>
            {
                if self.may_parse(&inner, text) {
                    self.substitutions(&inner, text);
                }
            }
            _ => self.look_at_name(name),
        }
    }

    /// Looks at a variable that is given a value which is not known: read, printed or counted into it.
    pub(super) fn look_at_name(&mut self, name: &str) {
        if PROMPTS.contains(&name) {
            self.cannot(
                format!("{name}=…"),
                "a shell expands this variable, and its value is not known",
            );
        }
        if is_code(name, &Word::anything()) || COMMANDS.contains(&name) || name.starts_with("GIT_CONFIG_") {
            self.cannot(format!("{name}=…"), "the command that this variable holds is not known");
        }
    }

    /// A name of git's settings with its value, as `git -c` takes them.
    pub(super) fn git_setting_of(&mut self, context: &Context, key: &Word, value: Option<&Word>) {
        let setting = match (key.bytes(), value.map(Word::bytes)) {
            (Some(key), Some(Some(value))) => Word::Known([key, b"=", value].concat()),
            (Some(key), _) => Word::Dynamic {
                prefix: [key, b"="].concat(),
                suffix: Vec::new(),
                many: false,
                origin: super::values::Origin::unknown(),
            },
            (None, _) => Word::anything(),
        };
        self.git_setting(context, &setting);
    }
}

fn is_code(name: &str, value: &Word) -> bool {
    let text = value.text();
    match name {
        "GIT_CONFIG_GLOBAL" | "GIT_CONFIG_SYSTEM" if text == Some("/dev/null") => false,
        // Bounds to memory and what is to be warned about are what it mostly holds.
        "NODE_OPTIONS" => text.is_none_or(|text| {
            !text.split_whitespace().all(|option| {
                [
                    "--max-",
                    "--no-warnings",
                    "--trace-",
                    "--enable-source-maps",
                    "--unhandled-rejections=",
                ]
                .iter()
                .any(|known| option.starts_with(known))
            })
        }),
        "MAKEFLAGS" | "GNUMAKEFLAGS" | "MFLAGS" => text.is_none_or(|text| {
            !text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || b" -jklns".contains(&byte))
        }),
        name if name.starts_with("CARGO_TARGET_") => name.ends_with("_RUNNER") || name.ends_with("_LINKER"),
        "GOFLAGS" => text.is_none_or(|text| text.contains("exec")),
        name => CODE.iter().any(|code| match code.strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => *code == name,
        }),
    }
}
