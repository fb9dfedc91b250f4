//! Whether what a line runs comes from its standard input, which whoever approves the line has not seen.
//!
//! `bash` without a script, `python3 -`, `xargs rm`, `sh -c "$(cat)"`: an answer for such a line that holds for later runs would hold for
//! anything. In doubt the answer is yes: an option that is not known may take the word behind it, so that no script is left. What a program that
//! was named does with its input (`python3 x.py`) is its own affair, as what it does with files is.

use super::read::{Reading, SimpleCommand, read};
use super::shell::dialect;
use super::word::Word;

/// Why a shell that is given no script is unreadable.
pub(super) const SHELL_READS_INPUT: &str = "a shell that reads its commands from standard input";

/// Names of standard input among files.
const STANDARD_INPUT: &[&[u8]] = &[
    b"/dev/stdin",
    b"/dev/fd/0",
    b"/proc/self/fd/0",
    b"/proc/thread-self/fd/0",
];

/// An interpreter that reads its program from standard input unless an argument names it.
struct Interpreter {
    names: &'static [&'static str],
    /// Letters and names by which the program is given: text, file or module.
    program: (&'static str, &'static [&'static str]),
    /// Letters that take no value and leave the program where it is.
    flags: &'static str,
    /// Letters and names that take a value.
    valued: (&'static str, &'static [&'static str]),
}

/// From the manual pages of CPython 3.13, Node.js 22, Perl 5.40, Ruby 3.4, PHP 8.4 and Lua 5.4.
const INTERPRETERS: &[Interpreter] = &[
    Interpreter {
        names: &["python", "pypy"],
        program: ("cm", &[]),
        flags: "bBdEIOPqsSuvVx",
        valued: ("WX", &[]),
    },
    Interpreter {
        names: &["node", "nodejs"],
        program: ("ep", &["eval", "print", "test"]),
        flags: "",
        valued: ("rC", &["require", "import", "conditions", "env-file"]),
    },
    Interpreter {
        names: &["perl"],
        program: ("eE", &[]),
        flags: "acfnpswWtTuUvX",
        valued: ("I", &[]),
    },
    Interpreter {
        names: &["ruby"],
        program: ("e", &[]),
        flags: "alnpsvwW",
        valued: ("Ir", &["require"]),
    },
    Interpreter {
        names: &["php"],
        program: ("rf", &["run", "file"]),
        flags: "nqe",
        valued: ("dc", &["define", "php-ini"]),
    },
    Interpreter {
        names: &["lua", "luajit"],
        program: ("e", &[]),
        flags: "EvW",
        valued: ("l", &[]),
    },
];

/// Programs whose input is commands, whatever else they are told.
const ALWAYS: &[&str] = &[
    "sqlite",
    "psql",
    "mysql",
    "mariadb",
    "bc",
    "dc",
    "gdb",
    "lldb",
    "ed",
    "ex",
    "vi",
    "vim",
    "nvim",
    "R",
    "tclsh",
    "wish",
    "ghci",
    "irb",
    "iex",
    "erl",
    "guile",
    "sbcl",
    "jshell",
    "scala",
    "groovy",
    "julia",
    "ipython",
    "fish",
    "csh",
    "tcsh",
    "pwsh",
    "powershell",
    "osascript",
    "ssh",
    "m4",
    "su",
    "at",
    "batch",
    "docker",
    "podman",
    "kubectl",
    "nc",
    "ncat",
    "socat",
    "telnet",
];

/// Programs with an option that names a file of commands, for which `-` stands for standard input.
const WITH_FILE: &[&str] = &[
    "sed", "awk", "gawk", "mawk", "nawk", "make", "gmake", "just", "ninja", "jq", "curl", "wget", "crontab", "deno",
    "bun", "tsx", "ts-node", "Rscript", "source", ".",
];

/// Commands of which no output depends on standard input.
const DEAF: &[&str] = &[
    "cd", "echo", "printf", "date", "pwd", "git", "ls", "basename", "dirname", "realpath", "readlink", "uname",
    "whoami", "id", "nproc", "hostname", "which", "mktemp", "seq", "true", "false", "test", "[", "touch", "mkdir",
    "rm", "cp", "mv", "export", "set", "exit",
];

/// The program, as it was named, that takes what it runs from the standard input of an argument vector; `None` where there is none.
pub fn reads_program_from_input(argv: &[Vec<u8>]) -> Option<String> {
    let reading = read(argv);
    let found = reading.commands.iter().find(|command| takes_its_program(command));
    let shell = || reading.unreadable.iter().any(|part| reads_commands(&part.why));
    let named = |command: &SimpleCommand| command.program.show();
    match found {
        Some(command) => Some(named(command)),
        None if shell() || script_uses_input(&reading, argv) => reading.commands.first().map(named),
        None => None,
    }
}

/// A shell, or a program that starts one when it is told no command: `chroot /x`.
fn reads_commands(why: &str) -> bool {
    why == SHELL_READS_INPUT || why.ends_with("without a command, or with one from elsewhere")
}

fn name_of(command: &SimpleCommand) -> Option<&str> {
    let path = command.program.text()?;
    path.rsplit('/').next()
}

fn takes_its_program(command: &SimpleCommand) -> bool {
    let Some(name) = name_of(command) else { return false };
    let base = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let is = |names: &[&str]| names.contains(&name) || names.contains(&base);
    let args = &command.args;
    let has = |word: &[u8]| args.iter().any(|arg| arg.bytes() == Some(word));
    let from_input = || has(b"-") || STANDARD_INPUT.iter().any(|path| has(path));
    if let Some(interpreter) = INTERPRETERS.iter().find(|known| is(known.names)) {
        return from_input() || interpreter.is_given_none(args);
    }
    if dialect(name).is_some() {
        return STANDARD_INPUT.iter().any(|path| has(path));
    }
    match name {
        "xargs" => !args.iter().any(|arg| {
            let text = arg.text().unwrap_or_default();
            text.starts_with("-a") || text.starts_with("--arg-file")
        }),
        "parallel" => !args
            .iter()
            .any(|arg| arg.text().is_some_and(|text| text.starts_with(":::"))),
        "sudo" | "doas" => [&b"-s"[..], b"-i", b"--shell", b"--login"].into_iter().any(has),
        _ if is(ALWAYS) => true,
        _ if is(WITH_FILE) => {
            from_input()
                || args
                    .iter()
                    .any(|arg| matches!(arg.text(), Some("-f-" | "--file=-" | "--makefile=-" | "-K-")))
        }
        _ => false,
    }
}

impl Interpreter {
    /// Whether no argument gives it a program, or that is not sure.
    fn is_given_none(&self, args: &[Word]) -> bool {
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let Some(text) = word.text() else { return true };
            if let Some(long) = text.strip_prefix("--") {
                let (name, attached) = match long.split_once('=') {
                    Some((name, _)) => (name, true),
                    None => (long, false),
                };
                match name {
                    "" => return words.next().is_none(),
                    "help" | "version" => return false,
                    _ if self.program.1.contains(&name) => return false,
                    _ if self.valued.1.contains(&name) => {
                        if !attached {
                            words.next();
                        }
                    }
                    _ => return true,
                }
                continue;
            }
            let Some(letters) = text.strip_prefix('-') else {
                return false;
            };
            for (at, letter) in letters.char_indices() {
                if self.program.0.contains(letter) {
                    return false;
                }
                if self.valued.0.contains(letter) {
                    if at + letter.len_utf8() == letters.len() {
                        words.next();
                    }
                    break;
                }
                if !self.flags.contains(letter) {
                    return true;
                }
            }
        }
        true
    }
}

/// Whether a shell's script may put what it reads into the words of its commands: `$(cat)`, `read x; $x`.
fn script_uses_input(reading: &Reading, argv: &[Vec<u8>]) -> bool {
    let unknown = |word: &Word| word.bytes().is_none();
    let open = !reading.unreadable.is_empty()
        || reading
            .commands
            .iter()
            .any(|command| unknown(&command.program) || command.args.iter().any(unknown));
    let script =
        |command: &SimpleCommand| name_of(command).is_some_and(|name| dialect(name).is_some() || name == "eval");
    if !open || !reading.commands.iter().any(script) {
        return false;
    }
    let named = |names: &[&str]| {
        let known = |command: &SimpleCommand| name_of(command).is_some_and(|name| names.contains(&name));
        reading.commands.iter().any(known)
    };
    if named(&["read", "mapfile", "readarray"]) {
        return true;
    }
    let substitutes = argv
        .iter()
        .any(|word| word.contains(&b'`') || word.windows(2).any(|two| two == b"$(" || two == b"<("));
    let deaf = |command: &SimpleCommand| script(command) || name_of(command).is_some_and(|name| DEAF.contains(&name));
    substitutes && !reading.commands.iter().all(deaf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(words: &[&str]) -> Option<String> {
        let argv: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        reads_program_from_input(&argv)
    }

    #[test]
    fn a_program_that_comes_from_standard_input_is_found() {
        for (words, program) in [
            (&["bash"][..], "bash"),
            (&["sh", "-s", "x"], "sh"),
            (&["/bin/bash", "-x"], "/bin/bash"),
            (&["bash", "/dev/stdin"], "bash"),
            (&["timeout", "5", "bash"], "timeout"),
            (&["python3"], "python3"),
            (&["python3", "-"], "python3"),
            (&["python3", "-u", "-W", "ignore"], "python3"),
            (&["python3", "-i", "x.py"], "python3"),
            (&["python3", "--unknown", "x.py"], "python3"),
            (&["env", "-i", "python3.12", "/dev/stdin"], "python3.12"),
            (&["node"], "node"),
            (&["node", "--require", "x.js"], "node"),
            (&["perl", "-w"], "perl"),
            (&["ruby", "-I", "lib"], "ruby"),
            (&["xargs", "git", "push"], "xargs"),
            (&["xargs", "-n1", "rm"], "xargs"),
            (&["psql", "shop"], "psql"),
            (&["ssh", "host"], "ssh"),
            (&["make", "-f", "-"], "make"),
            (&["sudo", "-s"], "sudo"),
            (&["bash", "-c", "python3 -"], "python3"),
            (&["bash", "-c", "git push $(cat)"], "bash"),
            (&["bash", "-c", "read x; $x"], "bash"),
            (&["bash", "-c", "eval \"$(cat)\""], "bash"),
            (&["bash", "-c", "git push `head -1`"], "bash"),
            (&["bash", "-c", ". /dev/stdin"], "."),
        ] {
            assert_eq!(reads(words).as_deref(), Some(program), "{words:?}");
        }
    }

    #[test]
    fn a_program_that_is_named_or_written_out_is_seen() {
        for words in [
            &["git", "push", "origin", "main"][..],
            &["bash", "x.sh"],
            &["bash", "-c", "touch made; ls"],
            &["bash", "-c", "git push origin $x"],
            &["bash", "-c", "git commit -m \"$(date)\""],
            &["python3", "x.py"],
            &["python3", "-u", "-W", "ignore", "x.py"],
            &["python3", "-c", "print(1)"],
            &["python3", "-m", "http.server"],
            &["node", "--eval", "1"],
            &["node", "x.js", "--flag"],
            &["perl", "-ne", "print"],
            &["perl", "-Ilib", "x.pl"],
            &["xargs", "-a", "list", "rm"],
            &["parallel", "ls", ":::", "a"],
            &["tar", "-x", "-f", "-"],
            &["cat", "-"],
        ] {
            assert_eq!(reads(words), None, "{words:?}");
        }
    }
}
