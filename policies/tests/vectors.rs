//! Lines by which policies of other programs were got round, under a policy as somebody careful but not paranoid would write it:
//! some readers, three things never, the rest with a question.

use fumehood_policies::Policy;
use fumehood_policies::command::{CommandRules, Verdict};

const READERS: &str = r#"
version = 1
name = "readers"
[commands]
default = "ask"
unreadable = "ask"
[[commands.rules]]
program = ["cat", "ls", "rg", "grep", "sed", "echo", "pwd", "head", "tail", "wc", "sort", "find", "true", "cd"]
decision = "allow"
[[commands.rules]]
program = "git"
args = [["status", "log", "diff", "show"]]
decision = "allow"
[[commands.rules]]
program = "git"
args = ["push"]
decision = "deny"
[[commands.rules]]
program = "rm"
has = ["-r", "-R", "--recursive"]
decision = "deny"
[[commands.rules]]
program = ["curl", "wget"]
decision = "deny"
"#;

fn readers() -> CommandRules {
    Policy::parse(READERS.as_bytes(), "test")
        .unwrap_or_else(|errors| panic!("{errors}"))
        .commands
        .own
}

fn gets(rules: &CommandRules, line: &str) -> (Verdict, String) {
    let argv: Vec<Vec<u8>> = ["bash", "-c", line].map(|word| word.as_bytes().to_vec()).to_vec();
    let judgement = rules.judge(&argv);
    (judgement.verdict, format!("{:?}", judgement.decisive()))
}

fn fits(expected: &str, verdict: Verdict) -> bool {
    match expected {
        "not-allow" => verdict != Verdict::Allow,
        name => verdict.name() == name,
    }
}

/// One line of the file: `{"id": …, "cmd": …, "expect": …}`, which is TOML's inline table but for its colons, so it is cut by hand.
fn field(line: &str, name: &str) -> String {
    let start = line.find(&format!("\"{name}\": \"")).expect("the field") + name.len() + 5;
    let mut text = String::new();
    let mut units = line[start..].chars();
    while let Some(c) = units.next() {
        match c {
            '"' => return text,
            '\\' => match units.next().expect("an escape") {
                'n' => text.push('\n'),
                'r' => text.push('\r'),
                't' => text.push('\t'),
                'u' => {
                    let digits: String = units.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&digits, 16).expect("four digits");
                    text.push(char::from_u32(code).expect("no surrogates"));
                }
                c => text.push(c),
            },
            c => text.push(c),
        }
    }
    panic!("a string is not closed: {line}")
}

/// The file is not part of this repository: who has it puts it beside the checkout, or names it in `FUMEHOOD_POLICY_VECTORS`.
#[test]
fn lines_of_the_shared_file_get_what_it_says() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/attacks/policy-vectors.jsonl");
    let path = std::env::var("FUMEHOOD_POLICY_VECTORS").unwrap_or_else(|_| beside.to_owned());
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("no vectors at {path}: only the table of this file was tried");
        return;
    };
    let rules = readers();
    let mut wrong = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (id, cmd, expected) = (field(line, "id"), field(line, "cmd"), field(line, "expect"));
        let (verdict, why) = gets(&rules, &cmd);
        if !fits(&expected, verdict) {
            let shown: String = cmd.chars().take(100).collect();
            wrong.push(format!("{id} {shown:?}: expected {expected}, is {verdict}: {why:.200}"));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Of our own, by kinds. `not-allow` is either of the other two.
const LINES: &[(&str, &[&str])] = &[
    (
        "allow",
        &[
            "ls # git push",
            "echo 'git push; rm -rf /'",
            "echo \"rm -rf\"",
            "git log --grep=push",
            "git log -- push",
            "git --no-pager log -3",
            "git show HEAD:src/a.rs",
            "git diff HEAD~1 --stat",
            "git show stash@{0}",
            "cat a 2>/dev/null | wc -l",
            "cat a 2>&1 | head -5",
            "cd x && ls -la",
            "sed -n '1,5p' a",
            "sed 's/write/e/g' a",
            "sed -E -e '/x/d' -e 's|a|b|' a",
            "sort -k2 -t, a",
            "find . -name x -type f",
            "rg -e 'rm -rf' src",
            "rg -uu --pretty x",
            "(ls; pwd)",
            "if true; then ls; fi",
            "LC_ALL=C sort a",
            "bash -lc 'git status'",
            "timeout 5 git status",
            "/usr/bin/git status",
            "cat <<'E'\ngit push\nE",
            "git \\\n  status",
        ],
    ),
    (
        "deny",
        &[
            "git push;",
            "git push&",
            ">x git push",
            "<x 2>&1 git push",
            "X=1 git push",
            "! git push",
            "git\tpush",
            "git pu\\sh",
            "git pu\\\nsh",
            "g''it \"push\"",
            "$'git' $'\\160ush'",
            "command -p git push",
            "command -- git push",
            "\\command git push",
            "builtin eval git push",
            "exec git push",
            "exec -a x git push",
            "coproc x { git push; }",
            "function f { git push; }; f",
            "f() ( git push ); f",
            "while git push; do :; done",
            "until false; do git push; done",
            "for i in 1; do git push; done",
            "for ((;;)); do git push; done",
            "case x in *) git push;; esac",
            "select x in 1; do git push; done",
            "[[ $(git push) ]]",
            "[[ -n x ]] && git push",
            "ls ${x:-$(git push)}",
            "echo \"${x:-`git push`}\"",
            "echo $((1+$(git push)))",
            "x=$(git push)",
            "x[$(git push)]=1",
            "cat <(git push)",
            "ls > >(git push)",
            "cat <<E\n$(git push)\nE",
            "cat <<< $(git push)",
            "trap 'git push' EXIT",
            "bash -c \"bash -c 'git push'\"",
            "bash -c '$0 $1' git push",
            "bash <<'E'\ngit push\nE",
            "sh <<< 'git push'",
            "/bin/sh -ec 'git push'",
            "env git push",
            "env -S 'git push'",
            "env -i PATH=/x git push",
            "env - git push",
            "nohup git push",
            "setsid -f git push",
            "time -p git push",
            "timeout -s KILL 5 git push",
            "nice -n5 git push",
            "ionice -c3 git push",
            "stdbuf -o0 git push",
            "sudo -u x git push",
            "watch -n1 git push",
            "script -qc 'git push' /dev/null",
            "xargs git push < a",
            "sh -c \"git push $x\"",
            "select x in 1; do git push; done > y",
            "git push |",
            "if true; then git push",
            "find . -exec git push \\;",
            "parallel git push ::: x",
            "flock x git push",
            "git -C x -c user.name=x push",
            "git --git-dir x --work-tree=y push",
            "git -c alias.x='!git push' x",
            "git rebase -x 'git push' main",
            "git bisect run git push",
            "git submodule foreach 'git push'",
            "ls\rx\r\ngit push",
            "ls && \u{200b}ls; git push",
            "rm -r x",
            "rm -f -R x",
            "rm --recursiv x",
            "rm -- x -rf",
            "xargs rm -rf",
            "busybox rm -rf x",
            "find . -exec rm -rf {} +",
            "/usr/bin/curl x",
            "./curl x",
            "cu\"\"rl x",
            "fd x -x git push",
            "fd -e c --exec-batch git push",
            "chroot / git push",
            "npx -c 'git push'",
            "true || git push",
            "{ { git push; } }",
            "echo a | while read x; do git push; done",
            "echo ${x:=y} $(git push)",
            "git --no-page push",
            "eval 'eval \"git push\"'",
            "unshare -n git push",
            "strace -f git push",
        ],
    ),
    (
        "not-allow",
        &[
            "",
            "#",
            "> x",
            ">> ~/.bashrc",
            "> x; ls",
            "ls >| x",
            "ls &> x",
            "ls >& x",
            "ls <> x",
            "exec 3> x",
            "exec > x; ls",
            "cat < /dev/tcp/a/1",
            "git$IFS$9push",
            "{git,push}",
            "g{i,}t pus{h,}",
            "/usr/bin/gi? push",
            "$(echo git) push",
            "~/bin/git status",
            "bin/ls",
            "./git status",
            "/tmp/ls",
            "ls\\ x",
            "'ls '",
            "l\u{455} x",
            "git\u{200b} status",
            "git status\u{202e}",
            "cat \u{2066}a",
            "ls \u{1b}[2K",
            "ls \u{8}\u{8}rm",
            "git\u{b}push",
            "ls 'a",
            "ls \"a",
            "ls (",
            "ls )",
            "ls ;; ls",
            "ls &&",
            "echo $(ls",
            "cat <<E",
            "if true",
            "PATH=. ls",
            "PATH=.; ls",
            "PATH+=:. ; ls",
            "export PATH=.; ls",
            "declare -x PATH=.; ls",
            "typeset -x LD_PRELOAD=x; ls",
            "readonly PATH=.; ls",
            "for PATH in .; do ls; done",
            "read PATH < x; ls",
            "read -r GIT_PAGER < x; git log",
            "printf -v PATH .; ls",
            "mapfile -t PATH < x; ls",
            ": ${PATH:=.}; ls",
            "echo ${GIT_PAGER=./x}; git log",
            "getopts a PATH; ls",
            "let 'a[$(id)]'",
            "test -v 'a[$(id)]'",
            "[ -v 'a[$(id)]' ]",
            "unset 'a[$(id)]'",
            "printf -v 'a[$(id)]' x",
            "read 'a[$(id)]'",
            "x='a[$(id)]'; echo $((x))",
            "echo ${x@P}",
            "echo ${!x}",
            "echo ${x/a/$(id)}",
            "set -- 'a'; eval \"$1\"",
            "hash -p ./x ls; ls",
            "enable -f ./x.so ls; ls",
            "alias ls=rm; ls",
            "unalias -a; ls",
            "shopt -s expand_aliases; ls",
            "set -o history; ls",
            "source x",
            ". ./x",
            "bash x.sh",
            "bash -i",
            "bash --rcfile x -ic ls",
            "bash --init-file x",
            "BASH_ENV=x bash -c ls",
            "ENV=x sh -c ls",
            "bash -O extglob -c 'ls !(a)'",
            "zsh -c '=ls'",
            "GIT_PAGER=x git log",
            "PAGER=x git log",
            "GIT_EXTERNAL_DIFF=x git diff",
            "GIT_CONFIG_COUNT=1 git status",
            "GIT_DIR=x git status",
            "git -p log",
            "git --exec-path=. status",
            "git --git-dir=x status",
            "git -C x status",
            "git -c core.fsmonitor=./x status",
            "git -c core.pager=./x log",
            "git --config-env=core.pager=X log",
            "git diff --ext",
            "git diff --outp=x",
            "git log --output x",
            "git show --textc",
            "git diff -- --output=x",
            "git grep -O./x a",
            "git grep --open-files=./x a",
            "git archive --output=x HEAD",
            "git config alias.x '!id'",
            "git fetch --upload-pack=./x",
            "git clone ext::x",
            "git-push",
            "/usr/lib/git-core/git-push",
            "git send-pack x",
            "git remote add x y",
            "git x",
            "git",
            "rg --pre=./x a",
            "rg -e -- --pre ./x a",
            "rg -z a",
            "rg -iz a",
            "rg --search-zip a",
            "sort -o x a",
            "sort -uo x a",
            "sort -ox a",
            "sort --outp=x a",
            "sort -S1 --compress-prog=x a",
            "sed -i.bak s/a/b/ a",
            "sed -ni p a",
            "sed --in-place=.x p a",
            "sed --in-pl p a",
            "sed 'w x' a",
            "sed 's/a/b/w x' a",
            "sed 's/a/id/e' a",
            "sed '1e id' a",
            "sed -n -e p -e '1e id' a",
            "sed --expr='1e id' a",
            "sed -f x a",
            "sed -nf x a",
            "sed p a -i",
            "find . -fls x",
            "find . -fprint x",
            "find . -fprint0 x",
            "find . -ok rm {} \\;",
            "find . -okdir x \\;",
            "find . -execdir ./x {} +",
            "awk 'BEGIN{system(\"id\")}'",
            "less +!id a",
            "man -P ./x ls",
            "vim -c '!id'",
            "tar -xf a --to-command=x",
            "tar cf a b --checkpoint=1 --checkpoint-action=exec=x",
            "rsync -e ./x a b:",
            "ssh -o ProxyCommand=x h",
            "python3 -c 'x'",
            "perl -e x",
            "make",
            "xargs -I{} sh -c 'git push {}'",
            "xargs ls",
            "cat a | xargs -n1 sh -c",
            "cat a | sh",
            "cat a | bash -s",
            "echo x | tee y",
            "ls; history -s x",
            "fc -s ls",
            "env -S 'l\\x73'",
            "env --split-string='ls' --frob",
            "env -C x ls -o; env -u",
            "command_not_found_handle() { id; }; x",
            "dd if=a of=b",
            "ls() { id; }; ls",
            "cd x; ./ls",
            "[[ -v 'a[$(id)]' ]]",
            "[[ 'a[$(id)]' -eq 1 ]]",
            "(( 'a[$(id)]' ))",
            "echo ${a['$(id)']}",
            "wait -p PATH; ls",
            "printf '%s' x > y",
            "declare -n r=PATH; r=.; ls",
            "declare -i x='a[$(id)]'",
            "export -f ls; ls",
            "kill 1",
            "exit 0",
            "head -c 5 /dev/zero > x",
        ],
    ),
];

#[test]
fn lines_of_each_kind_get_what_a_reader_would_expect() {
    let rules = readers();
    let mut wrong = Vec::new();
    for (expected, lines) in LINES {
        for line in *lines {
            let (verdict, why) = gets(&rules, line);
            if !fits(expected, verdict) {
                wrong.push(format!("{line:?}: expected {expected}, is {verdict}: {why:.200}"));
            }
        }
    }
    let long = format!("echo {}; git push", "a".repeat(30_000));
    let many = format!("{}git push", "true && ".repeat(400));
    for line in [&long, &many] {
        assert_eq!(gets(&rules, line).0, Verdict::Deny);
    }
    let longer = format!("echo {}", "a".repeat(40_000));
    assert_eq!(gets(&rules, &longer).0, Verdict::Ask);
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}
