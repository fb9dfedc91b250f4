//! Programs that read, and the options by which they do more: run another program, or write a file.
//!
//! A rule that allows `rg` does not mean `rg --pre ./x`. What runs a program that is not read here makes the line unreadable; what writes a
//! file, or runs a script out of one, is noted in [`SimpleCommand::doors`](super::SimpleCommand), and a rule that allows has to name it.
//! Options are looked for in every word, behind `--` too, for that may be the value of an option. The table cannot be complete.

use super::read::{Reading, SimpleCommand};
use super::word::Word;

struct Doors {
    names: &'static [&'static str],
    /// Letters that take a value: behind one a cluster ends.
    valued: &'static str,
    /// Letters and names that run a program. Names stand for their abbreviations too; those of one dash are written with it.
    run: (&'static str, &'static [&'static str]),
    /// Letters and names that write a file.
    write: (&'static str, &'static [&'static str]),
}

const fn doors(
    names: &'static [&'static str],
    valued: &'static str,
    run: (&'static str, &'static [&'static str]),
    write: (&'static str, &'static [&'static str]),
) -> Doors {
    Doors {
        names,
        valued,
        run,
        write,
    }
}

/// From the manual pages of ripgrep 15, coreutils 9, findutils 4.10, tar 1.35, rsync 3.4, OpenSSH 10, less 685, man-db 2.13, vim 9.
const DOORS: &[Doors] = &[
    doors(
        &["rg"],
        "ABCEMTdefgjmrt",
        ("z", &["--pre", "--hostname-bin", "--search-zip"]),
        ("", &[]),
    ),
    doors(
        &["ack", "ag", "bat", "batcat", "delta"],
        "",
        ("", &["--pager"]),
        ("", &[]),
    ),
    doors(
        &["sort", "gsort"],
        "kStT",
        ("", &["--compress-program"]),
        ("oT", &["--output", "--temporary-directory"]),
    ),
    doors(&["shuf", "tree", "iconv", "sdiff"], "", ("", &[]), ("o", &["--output"])),
    doors(&["split", "csplit"], "abClnt", ("", &["--filter"]), ("", &[])),
    doors(
        &["yq", "perltidy", "clang-format"],
        "",
        ("", &[]),
        ("i", &["--inplace", "--in-place"]),
    ),
    doors(&["date"], "drf", ("", &[]), ("s", &["--set"])),
    doors(&["file"], "eFmPp", ("", &[]), ("C", &["--compile"])),
    doors(
        &["find", "gfind"],
        "",
        ("", &[]),
        ("", &["-delete", "-fprint", "-fprint0", "-fprintf", "-fls"]),
    ),
    doors(
        &["tar", "gtar", "bsdtar"],
        "bCfgHKLNTVX",
        (
            "IF",
            &[
                "--checkpoint-action",
                "--to-command",
                "--use-compress-program",
                "--info-script",
                "--new-volume-script",
                "--rsh-command",
                "--rmt-command",
            ],
        ),
        ("", &[]),
    ),
    doors(&["rsync"], "fBMT", ("e", &["--rsh", "--rsync-path"]), ("", &[])),
    doors(&["scp", "sftp"], "cFiJlPX", ("SD", &[]), ("", &[])),
    doors(&["zip"], "", ("", &["-TT", "--unzip-command"]), ("", &[])),
    doors(
        &["less"],
        "bhjpPtxyz#",
        ("k", &["--lesskey-file", "--lesskey-src", "--lesskey-content"]),
        ("oO", &["--log-file", "--LOG-FILE"]),
    ),
    doors(
        &["man", "apropos", "whatis"],
        "LmMRrsSeEp",
        (
            "PHCX",
            &["--pager", "--html", "--gxditview", "--config-file", "--preprocessor"],
        ),
        ("", &[]),
    ),
    doors(
        &[
            "vi",
            "vim",
            "nvim",
            "view",
            "ex",
            "gvim",
            "vimdiff",
            "rvim",
            "emacs",
            "emacsclient",
        ],
        "tTiqr",
        (
            "cSsul",
            &["--cmd", "--eval", "--execute", "--load", "--funcall", "--batch"],
        ),
        ("wW", &[]),
    ),
    doors(&["go"], "", ("", &["-exec", "-toolexec", "-vettool"]), ("", &[])),
    doors(&["cargo"], "", ("", &["--config"]), ("", &[])),
    doors(
        &["gcc", "g++", "cc", "c++"],
        "oILlDUxTu",
        ("", &["-wrapper", "-B", "-fplugin"]),
        ("", &[]),
    ),
    doors(&["tcpdump"], "BcCFGijmMrTVwWy", ("z", &[]), ("", &[])),
    doors(&["npm", "pnpm", "yarn"], "", ("", &["--script-shell"]), ("", &[])),
    doors(&["make", "gmake"], "CfIjloWO", ("E", &["--eval"]), ("", &[])),
    doors(&["wget"], "", ("", &["--use-askpass"]), ("", &[])),
    doors(
        &["git"],
        "",
        (
            "",
            &[
                "--ext-diff",
                "--textconv",
                "--open-files-in-pager",
                "--upload-pack",
                "--receive-pack",
                "--extcmd",
                "--filters",
            ],
        ),
        ("", &["--output", "--output-directory"]),
    ),
];

impl Reading {
    /// What the arguments of a program open beyond what its name says.
    pub(super) fn look_at_doors(&mut self, name: &str, command: &SimpleCommand) -> Vec<usize> {
        let mut found = match name {
            "sed" | "gsed" => self.sed(&command.args),
            "awk" | "gawk" | "mawk" | "nawk" => self.awk(&command.args),
            "ssh" | "scp" | "sftp" => {
                self.ssh(&command.args);
                Vec::new()
            }
            // The second operand is written.
            "uniq" | "xxd" => operands(&command.args, "fswclos").into_iter().skip(1).collect(),
            "dd" => positions(&command.args, |text| text.starts_with("of=")),
            _ => Vec::new(),
        };
        if matches!(name, "vi" | "vim" | "nvim" | "view" | "ex" | "less" | "more") {
            let plus =
                |text: &str| text.len() > 1 && text.starts_with('+') && !text[1..].bytes().all(|b| b.is_ascii_digit());
            for at in positions(&command.args, plus) {
                self.cannot(
                    command.args[at].show(),
                    format!("`{name}` runs a command of its own, which may start a program"),
                );
            }
        }
        let is_grep = || command.args.iter().any(|word| word.bytes() == Some(b"grep"));
        if name == "git" && is_grep() {
            for at in positions(&command.args, |text| text.starts_with("-O")) {
                self.cannot(command.args[at].show(), "this option of `git` runs a program");
            }
        }
        for doors in DOORS.iter().filter(|doors| doors.names.contains(&name)) {
            for (at, word) in command.args.iter().enumerate() {
                let Some(text) = word.text() else { continue };
                if opens(text, doors.valued, doors.run) {
                    self.cannot(
                        format!("{name} {}", word.show()),
                        format!("this option of `{name}` runs a program"),
                    );
                }
                if opens(text, doors.valued, doors.write) {
                    found.push(at);
                }
            }
        }
        found
    }

    fn sed(&mut self, args: &[Word]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut scripts = Vec::new();
        let mut file = false;
        let mut at = 0;
        let mut first = None;
        while let Some(word) = args.get(at) {
            let own = at;
            at += 1;
            let Some(text) = word.text() else { continue };
            let next = |at: &mut usize| {
                *at += 1;
                args.get(*at - 1).cloned()
            };
            if let Some(long) = text.strip_prefix("--") {
                let (stem, value) = long
                    .split_once('=')
                    .map_or((long, None), |(stem, value)| (stem, Some(value)));
                let is = |name: &str| !stem.is_empty() && name.starts_with(stem);
                if is("in-place") {
                    found.push(own);
                } else if is("expression") {
                    scripts.extend(value.map(Word::known).or_else(|| next(&mut at)));
                } else if is("file") {
                    file = true;
                    found.push(own);
                    at += usize::from(value.is_none());
                } else if is("line-length") {
                    at += usize::from(value.is_none());
                }
            } else if let Some(cluster) = text.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
                for (index, letter) in cluster.char_indices() {
                    let rest = &cluster[index + letter.len_utf8()..];
                    match letter {
                        'i' | 'I' => {
                            found.push(own);
                            break;
                        }
                        'e' if rest.is_empty() => scripts.extend(next(&mut at)),
                        'e' => scripts.push(Word::known(rest)),
                        'f' => {
                            file = true;
                            found.push(own);
                            at += usize::from(rest.is_empty());
                        }
                        'l' => at += usize::from(rest.is_empty()),
                        _ => continue,
                    }
                    if matches!(letter, 'e' | 'f' | 'l') {
                        break;
                    }
                }
            } else if first.is_none() {
                first = Some(own);
            }
        }
        if scripts.is_empty() && !file {
            scripts.extend(first.map(|at| args[at].clone()));
        }
        let place = first.unwrap_or(0);
        for script in &scripts {
            match script.text().map(sed_script) {
                None | Some(Sed::Reads) => {}
                Some(Sed::Writes) => found.push(args.iter().position(|word| word == script).unwrap_or(place)),
                Some(Sed::Unclear) => self.cannot(script.show(), "this script of `sed` may run a program"),
            }
        }
        found
    }

    fn awk(&mut self, args: &[Word]) -> Vec<usize> {
        let mut found = Vec::new();
        for (at, word) in args.iter().enumerate() {
            let Some(text) = word.text() else { continue };
            let option = text.starts_with('-') && text.len() > 1;
            if option && (text.starts_with("-f") || text.starts_with("-E") || "--file".starts_with(text)) {
                found.push(at);
            } else if option
                && (text.starts_with("-i")
                    || text.starts_with("-l")
                    || text.starts_with("--l")
                    || text.starts_with("--i"))
            {
                self.cannot(text, "this option of `awk` loads what may run a program");
            } else if !text.starts_with("-F") || text.len() > 3 {
                // Calls by a name that a variable holds begin with `@`.
                let pipes = text.replace("||", "");
                let separator = at > 0 && matches!(args[at - 1].bytes(), Some(b"-F"));
                if text.contains("system") || text.contains('@') || (pipes.contains('|') && !separator) {
                    self.cannot(text, "this script of `awk` may run a program");
                }
                if text.contains('>') {
                    found.push(at);
                }
            }
        }
        found
    }

    /// Settings of ssh's that run a program here.
    fn ssh(&mut self, args: &[Word]) {
        const RUN: &[&str] = &[
            "proxycommand",
            "localcommand",
            "permitlocalcommand",
            "knownhostscommand",
            "pkcs11provider",
            "securitykeyprovider",
            "xauthlocation",
            "match",
            "include",
        ];
        for (at, word) in args.iter().enumerate() {
            let Some(text) = word.text() else { continue };
            let value = match text.split_once('o') {
                Some((dash, "")) if dash.starts_with('-') => args.get(at + 1).and_then(Word::text),
                Some((dash, value)) if dash.starts_with('-') => Some(value),
                _ => None,
            };
            let value = value.unwrap_or_default().trim_start().to_ascii_lowercase();
            let file = text.starts_with("-F") && text != "-F/dev/null";
            if file || RUN.iter().any(|name| value.starts_with(name)) {
                self.cannot(text, "this setting of ssh may run a program here");
            }
        }
    }
}

fn positions(args: &[Word], is: impl Fn(&str) -> bool) -> Vec<usize> {
    let texts = args.iter().map(|word| word.text().unwrap_or_default());
    texts
        .enumerate()
        .filter(|(_, text)| is(text))
        .map(|(at, _)| at)
        .collect()
}

/// Indices of what is no option and not the value of one.
fn operands(args: &[Word], valued: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(word) = args.get(at) {
        match word.text() {
            Some(text) if text.len() == 2 && text.starts_with('-') && valued.contains(&text[1..]) => {
                // Of a flag that is none the next one may be an operand: counted too.
                if args
                    .get(at + 1)
                    .and_then(Word::text)
                    .is_some_and(|next| next.bytes().all(|b| b.is_ascii_digit()))
                {
                    at += 1;
                }
            }
            Some(text) if text.starts_with('-') && text.len() > 1 => {}
            _ => found.push(at),
        }
        at += 1;
    }
    found
}

fn opens(text: &str, valued: &str, (letters, names): (&str, &[&str])) -> bool {
    let stem = text.split('=').next().unwrap_or_default();
    let named = names.iter().any(|name| {
        stem == *name || (stem.len() > 2 && stem.starts_with("--") && name.starts_with(stem))
            // `-Bdir` of a compiler.
            || (name.len() == 2 && text.starts_with(name))
    });
    let cluster = text.strip_prefix('-').filter(|cluster| !cluster.starts_with('-'));
    named
        || cluster.is_some_and(|cluster| {
            for letter in cluster.chars() {
                if letters.contains(letter) {
                    return true;
                }
                if valued.contains(letter) {
                    return false;
                }
            }
            false
        })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sed {
    Reads,
    Writes,
    /// Runs a program, or is not understood.
    Unclear,
}

/// What a script of sed's does: `e` and `s///e` run, `w` and `s///w` write.
fn sed_script(script: &str) -> Sed {
    let bytes = script.as_bytes();
    let mut at = 0;
    let mut does = Sed::Reads;
    // Past the closing delimiter.
    let past = |mut at: usize, delimiter: u8| {
        let mut class = false;
        loop {
            match *bytes.get(at)? {
                b'\\' => at += 1,
                b'[' if !class => class = true,
                b']' => class = false,
                // In a class a delimiter ends it all the same in POSIX and does not in GNU: not worth getting wrong.
                byte if byte == delimiter => return (!class).then_some(at + 1),
                b'\n' => return None,
                _ => {}
            }
            at += 1;
        }
    };
    let line_end = |at: usize| {
        bytes[at.min(bytes.len())..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(bytes.len(), |end| at + end)
    };
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b' ' | b'\t' | b'\n' | b';' | b'{' | b'}' | b'0'..=b'9' | b'$' | b',' | b'!' | b'~' | b'+' => {}
            b'p' | b'P' | b'd' | b'D' | b'n' | b'N' | b'g' | b'G' | b'h' | b'H' | b'x' | b'=' | b'z' | b'F' | b'q'
            | b'Q' | b'l' => {}
            b'/' => match past(at, b'/') {
                Some(end) => {
                    at = end
                        + bytes[end..]
                            .iter()
                            .take_while(|byte| matches!(byte, b'I' | b'M'))
                            .count()
                }
                None => return Sed::Unclear,
            },
            b's' | b'y' => {
                let Some(&delimiter) = bytes
                    .get(at)
                    .filter(|byte| byte.is_ascii_punctuation() && **byte != b'\\')
                else {
                    return Sed::Unclear;
                };
                // The second part knows no classes: a bracket in it makes this unclear at worst.
                let Some(end) = past(at + 1, delimiter).and_then(|middle| past(middle, delimiter)) else {
                    return Sed::Unclear;
                };
                at = end;
                while byte == b's' && bytes.get(at).is_some_and(|flag| b"gpiImM0123456789".contains(flag)) {
                    at += 1;
                }
                match bytes.get(at) {
                    Some(b'w') if byte == b's' => {
                        does = Sed::Writes;
                        at = line_end(at);
                    }
                    None | Some(b';' | b'\n' | b'}' | b' ' | b'#') => {}
                    Some(_) => return Sed::Unclear,
                }
            }
            b'w' | b'W' => {
                does = Sed::Writes;
                at = line_end(at);
            }
            // Text ends with the line unless a backslash goes on: then what follows is not text that is looked at as commands, at worst.
            b'a' | b'i' | b'c' | b'r' | b'R' | b'#' => at = line_end(at),
            b':' | b'b' | b't' | b'T' => {
                at += bytes[at..]
                    .iter()
                    .take_while(|byte| !matches!(byte, b';' | b'\n' | b'}'))
                    .count();
            }
            _ => return Sed::Unclear,
        }
    }
    does
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_of_sed_are_told_apart() {
        for script in [
            "1,5p",
            "s/a/b/",
            "s/a/b/g;s,x,y,",
            "/a/d",
            "$!N",
            "s/write/e/",
            "/x/,/y/{p;d}",
            "y/abc/xyz/",
            "1q",
            "s|/e|/w|2p",
            "a text w x",
            "s/[0-9]*//",
            ":a;N;ba",
        ] {
            assert_eq!(sed_script(script), Sed::Reads, "{script}");
        }
        for script in [
            "w /etc/x",
            "1w x",
            "s/a/b/w x",
            "s/a/b/gpw x",
            "/a/w x",
            "p;w x",
            "1{w x\n}",
        ] {
            assert_eq!(sed_script(script), Sed::Writes, "{script}");
        }
        for script in [
            "e",
            "1e rm x",
            "s/a/b/e",
            "s/a/b/ge",
            "p;e id",
            "s/a",
            "sxaxbxe",
            "{e id\n}",
            "v",
            "s/[/]/x/e",
            "a\\\nx\\\ny\ne id",
        ] {
            assert_eq!(sed_script(script), Sed::Unclear, "{script}");
        }
    }
}
