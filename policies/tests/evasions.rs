//! Lines that were allowed though they run what a rule forbids, and lines beside them that stay allowed. And the request's own variables.

use fumehood_policies::command::{Commands, Verdict};
use fumehood_policies::{Decision, Policy, Request, RequestedLimits, Tool};

const RULES: &str = r#"
version = 1
name = "rules"
[commands]
default = "allow"
unreadable = "ask"
[[commands.rules]]
program = "rm"
decision = "deny"
[[commands.rules]]
program = "git"
args = ["push"]
decision = "ask"
"#;

const STRICT: &str = r#"
version = 1
name = "strict"
[commands]
default = "deny"
unreadable = "deny"
[[commands.rules]]
program = ["ls", "git", "bash"]
decision = "allow"
"#;

fn policy(text: &str) -> Policy {
    Policy::parse(text.as_bytes(), "test").unwrap_or_else(|errors| panic!("{errors}"))
}

/// Read, and denied for the `rm` in them.
const DENIED: &[&str] = &[
    // Options of shells.
    "bash +c 'rm x'",
    "sh +c 'rm x'",
    "dash +c 'rm x'",
    "bash -posix -c 'rm x'",
    "bash -login -c 'rm x'",
    "bash -noprofile -norc -c 'rm x'",
    "bash -o posix +ec 'rm x'",
    // Redirections.
    "bash -c '{fd}>f rm x'",
    "{fd}>f rm x",
    "rm {fd}>f x",
    "exec {fd}>f; {fd}>&1 rm x",
    // Builtins.
    "mapfile -C 'rm x;:' -c 1 <<< f",
    "mapfile -C'rm x;:' -c 1 <<< f",
    "readarray -t -C 'rm x;:' -c 1 <<< f",
    "compgen -C 'rm x'",
    "compgen -W '$(rm x)'",
    "compgen -W '`rm x`' -- a",
    "complete -C 'rm x' y",
    "[[ -v 'a[$(rm x)]' ]]",
    "[[ 'a[$(rm x)]' -eq 1 ]]",
    "echo $((a[$(rm x)]))",
    "a[$(rm x)]=1",
    "((a[$(rm x)]++))",
    "test -v 'a[$(rm x)]'",
    "[ -v 'a[$(rm x)]' ]",
    "printf -v 'a[$(rm x)]' y",
    "printf '-va[$(rm x)]' y",
    "read 'a[$(rm x)]' <<< y",
    "unset 'a[$(rm x)]'",
    "let 'a[$(rm x)]=1'",
    "wait -n -p 'a[$(rm x)]'",
    "getopts a 'b[$(rm x)]' -a",
    "mapfile 'a[$(rm x)]' <<< y",
    "trap 'rm x' EXIT",
    "trap -- 'rm x' 0",
    "builtin eval 'rm x'",
    "command eval 'rm x'",
    "f() { rm x; }; f",
    "coproc rm x",
    "coproc C { rm x; }",
    // Wrappers.
    "choom -n 0 -- rm x",
    "choom -n 0 rm x",
    "strace -o '|rm x' true",
    "strace -o '!rm x' true",
    "strace --output='|rm x' true",
    "uclampset -m 0 rm x",
    "pipesz -g true; pipesz -s 4096 rm x",
    "enosys -s read rm x",
    "ip netns exec X rm x",
    "ip net ex X rm x",
    "ip -4 netns e X rm x",
    "ip -all netns exec rm x",
    "ip vrf exec X rm x",
    "chrt -o 0 rm x",
    "chrt 1 rm x",
    "taskset 1 rm x",
    "taskset -c 0 rm x",
    "ionice -c3 rm x",
    "setsid rm x",
    "stdbuf -o0 rm x",
    "unshare -rm rm x",
    "nsenter -t 1 -m rm x",
    "flock f rm x",
    "flock f -c 'rm x'",
    "watch rm x",
    "parallel rm ::: x",
    "script -c 'rm x'",
    "script -qc 'rm x' /dev/null",
    "busybox rm x",
    "busybox sh -c 'rm x'",
    "coreutils rm x",
    // Variables.
    "GIT_EDITOR='rm x' git commit",
    "env GIT_SSH_COMMAND='rm x' git fetch",
    "export PAGER='rm x'; man ls",
    "EDITOR='sh -c \"rm x\"' git commit",
    // git.
    "git config alias.p '!rm x'",
    "git config --global set alias.p '!rm x'",
    "git config set alias.p '!rm x'",
    "git -c alias.p='!rm x' p",
    "git merge-index rm -a",
    "git clone -u 'rm x' a b",
    "git clone '-urm x' a b",
    "git send-email --sendmail-cmd='rm x'",
    "git-bisect run rm x",
    "/usr/lib/git-core/git-submodule foreach 'rm x'",
];

/// Asked about: `git push`, under another name, or what is not read.
const ASKED: &[&str] = &[
    "declare 'a[$(rm x)]=1'",
    "declare \"a[\\$(rm x)]=1\"",
    "typeset 'a[$(rm x)]=1'",
    "local 'a[$(rm x)]=1'",
    "export 'a[$(rm x)]=1'",
    "readonly 'a[`rm x`]=1'",
    "declare 'a[$(rm x)]'",
    "declare -n 'r=a[$(rm x)]'",
    "declare -i 'x=a[$(rm x)]'",
    "echo $((a[\\$(rm x)]))",
    "a[b[\"\\$(rm x)\"]]=1",
    "set -- 'a[$(rm x)]'; echo $(($1))",
    "f() { echo $(($1)); }; f 'a[$(rm x)]'",
    "bash -c 'echo $(($1))' _ 'a[$(rm x)]'",
    "mapfile -C \"$x\" <<< y",
    "alias ls=rm",
    "enable -f ./x.so y",
    "hash -p /bin/rm ls",
    ". ./f",
    "source f",
    "source -- f",
    "fc -s",
    "fc -e 'rm x'",
    "bind -x '\"a\":rm x'",
    // Programs whose way of starting others is not read.
    "i386 rm x",
    "x86_64 rm x",
    "linux32 rm x",
    "linux64 rm x",
    "uname26 rm x",
    "setarch -R rm x",
    "prlimit --nofile=1 rm x",
    "strace -o \"$x\" true",
    "ip -batch f",
    "bash -rcfile f -ic true",
    "bash -init-file f -i",
    // make.
    "make --eval='$(shell rm x)'",
    "make --ev='$(shell rm x)'",
    "make --eval '$(shell rm x)'",
    "make -E '$(shell rm x)'",
    "make SHELL=./x",
    "make -s .SHELLFLAGS='-c rm' all",
    "make 'CC=$(shell rm x)'",
    "make 'CC=true; rm x;'",
    "make -f - <<< x",
    "make -f /dev/stdin",
    "make -f <(echo x)",
    "MAKEFLAGS='--eval=$(shell$(IFS)rm)' make",
    // Variables.
    "BASH_ENV=f bash -c true",
    "BASH_ENV=f make",
    "export BASH_ENV=f; bash -c true",
    "env BASH_ENV=f bash -c true",
    "ENV=f sh -i",
    "ENV=f sh -ic true",
    "export ENV=f; sh -ic true",
    "HOME=. bash -lc true",
    "ZDOTDIR=. zsh -c true",
    "env 'BASH_FUNC_ls%%=() { rm x; }' bash -c ls",
    "LD_PRELOAD=./x.so ls",
    "strace -E LD_PRELOAD=./x.so ls",
    "GIT_PAGER=\"$x\" git log",
    "NODE_OPTIONS='--require ./x.js' node y",
    "NODE_OPTIONS='--max-old-space-size=1 -r ./x.js' node y",
    "GIT_CONFIG_GLOBAL=f git status",
    "GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=core.pager GIT_CONFIG_VALUE_0=x git log",
    "GIT_CONFIG_COUNT=1 GIT_CONFIG_VALUE_0=x git log",
    // git.
    "git push",
    "git-push",
    "/usr/lib/git-core/git-push origin",
    "git send-pack origin",
    "git -C x send-pack origin",
    "git-send-pack origin",
    "git http-push x",
    "git config alias.p push",
    "git config --global alias.p push",
    "git config --add core.fsmonitor ./x",
    "git config \"$x\" \"$y\"",
    "git p",
    "git -C x p",
    "/usr/bin/git p",
    "git for-each-repo --config=x push",
    "git for-each-repo --config x -- push",
    "git -c alias.p=push p",
    "git clone -c core.fsmonitor=./x y",
    "git clone --config=core.fsmonitor=./x y",
    "git shell -c x",
    "git clone 'ext::rm x' y",
    "read BASH_ENV <<< f; export BASH_ENV; bash -c true",
    "printf -v BASH_ENV f; export BASH_ENV; bash -c true",
    "printf -vBASH_ENV f; bash -c true",
    ": ${BASH_ENV:=f}; bash -c true",
    "for BASH_ENV in f; do bash -c true; done",
    "export $x",
    "export PAGER=$x",
    "set -k; ls BASH_ENV=f",
    "set -o keyword",
];

/// Ordinary lines.
const ALLOWED: &[&str] = &[
    "bash -c 'ls | wc -l'",
    "bash -lc 'git status'",
    "bash -euo pipefail -c 'make test'",
    "bash +x -c ls",
    "bash x.sh",
    "sh x.sh a b",
    "make",
    "make test",
    "make -j4 -C x CC=gcc V=1",
    "make PREFIX=/usr/local install",
    "make -f x.mk",
    "make -O all",
    "git status",
    "git commit -m 'x $(y) `z`'",
    "git --no-pager log -3",
    "git config user.name x",
    "git config --get alias.p",
    "git config get alias.p",
    "git config --list",
    "git config core.pager",
    "git config --unset alias.p",
    "git clone x",
    "git-lfs ls-files",
    "git-status",
    "declare x=1",
    "declare -a x=(1 2)",
    "export A=b",
    "local x=$1",
    "readonly X=1",
    "ENV=production npm start",
    "HOME=x ls",
    "NODE_OPTIONS=--max-old-space-size=4096 npm test",
    "MAKEFLAGS=-j4 make",
    "GIT_PAGER=cat git log",
    "GIT_EDITOR=true git rebase --continue",
    "GIT_CONFIG_GLOBAL=/dev/null git status",
    "GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' git status",
    "LD_PRELOAD= ls",
    "PATH=x:$PATH ls",
    "mapfile -t lines < f",
    "readarray -t a < f",
    "compgen -A function",
    "compgen -W 'a b' -- a",
    "read -r line",
    "echo {a,b} > f",
    "echo '{' > f",
    "test -v x",
    "[ -f x ] && ls",
    "if [ \"$x\" = y ]; then ls; fi",
    "[[ -v x && $x -eq 1 ]]",
    "echo $((x + 1))",
    "printf '%s' x",
    "rg '$(x)' src",
    "f() { echo \"$1\"; }; f x",
    "set -euo pipefail; ls",
    "set -- a b; ls",
    "export A",
    "export A=$x",
    "export -f f",
    "ip addr show",
    "ip netns list",
    "ip link set eth0 netns x",
    "strace -f -o log ls",
    "choom -p 1",
    "trap - EXIT",
];

fn judged(commands: &Commands, line: &str) -> (Verdict, String) {
    let judgement = commands.judge_line(line);
    (judgement.verdict, format!("{:?}", judgement.findings))
}

#[test]
fn what_a_rule_forbids_is_found_wherever_the_line_says_it() {
    let commands = policy(RULES).commands;
    let mut wrong = Vec::new();
    for (expected, lines) in [
        (Verdict::Deny, DENIED),
        (Verdict::Ask, ASKED),
        (Verdict::Allow, ALLOWED),
    ] {
        for line in lines {
            let (verdict, why) = judged(&commands, line);
            if verdict != expected {
                wrong.push(format!("{line:?}: expected {expected}, is {verdict}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

fn decide(policy: &Policy, env: &[(&str, &str)], argv: &[&str]) -> Decision {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let argv: Vec<Vec<u8>> = argv.iter().map(|word| bytes(word)).collect();
    let env: Vec<_> = env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
    policy.decide(&Request {
        tool: Tool::Shell,
        argv: &argv,
        caller_env: &[(bytes("PATH"), bytes("/opt")), (bytes("BASH_ENV"), bytes("f"))],
        env: &env,
        limits: RequestedLimits::default(),
    })
}

type Variables = &'static [(&'static str, &'static str)];

/// Variables of a request, its command, what it gets by `STRICT`, what by `RULES`.
const REQUESTS: &[(Variables, &[&str], Verdict, Verdict)] = {
    use Verdict::{Allow, Ask, Deny};
    &[
        (&[], &["ls"], Allow, Allow),
        (&[], &["bash", "-c", "ls"], Allow, Allow),
        (&[("LANG", "C"), ("NO_COLOR", "1")], &["ls"], Allow, Allow),
        (&[("PATH", "x:/usr/bin")], &["ls"], Deny, Allow),
        (&[("A", "1")], &["ls"], Deny, Allow),
        (&[("PATH", "x")], &["bash", "-c", "ls"], Deny, Allow),
        (&[("PATH", "x")], &["nice", "ls"], Deny, Allow),
        (&[("LD_PRELOAD", "./x.so")], &["ls"], Deny, Ask),
        (&[("BASH_ENV", "f")], &["bash", "-c", "ls"], Deny, Ask),
        (&[("BASH_FUNC_ls%%", "() { rm x; }")], &["bash", "-c", "ls"], Deny, Ask),
        (&[("GIT_EDITOR", "rm x")], &["git", "commit"], Deny, Deny),
        (&[("GIT_EDITOR", "true")], &["git", "commit"], Deny, Allow),
        (
            &[
                ("GIT_CONFIG_COUNT", "1"),
                ("GIT_CONFIG_KEY_0", "alias.z"),
                ("GIT_CONFIG_VALUE_0", "!echo"),
            ],
            &["git", "z"],
            Deny,
            Ask,
        ),
        (
            &[
                ("GIT_CONFIG_VALUE_0", "!rm x"),
                ("GIT_CONFIG_KEY_0", "alias.status"),
                ("GIT_CONFIG_COUNT", "1"),
            ],
            &["git", "status"],
            Deny,
            Deny,
        ),
        // Nobody evaluates it, or a shell does.
        (&[("X", "a[$(rm x)]")], &["ls"], Deny, Allow),
        (&[("X", "a[$(rm x)]")], &["bash", "-c", "echo \"$X\""], Deny, Allow),
        (&[("X", "a[$(rm x)]")], &["bash", "-c", "((X))"], Deny, Ask),
        (&[("PATH", "x")], &["rm", "y"], Deny, Deny),
    ]
};

#[test]
fn a_requests_variables_count_as_if_they_were_written_before_its_command() {
    let (strict, rules) = (policy(STRICT), policy(RULES));
    for (env, argv, by_strict, by_rules) in REQUESTS {
        for (policy, expected) in [(&strict, by_strict), (&rules, by_rules)] {
            let decision = decide(policy, env, argv);
            let verdict = match &decision {
                Decision::Allowed(_) => Verdict::Allow,
                Decision::Ask(_) => Verdict::Ask,
                Decision::Denied(_) => Verdict::Deny,
            };
            assert_eq!(verdict, *expected, "{env:?} {argv:?} {decision:?}");
            // The same, told to env and to a shell.
            let set: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let mut line = vec!["env"];
            line.extend(set.iter().map(String::as_str));
            line.extend_from_slice(argv);
            let line: Vec<Vec<u8>> = line.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(policy.commands.judge(&line).verdict, *expected, "{line:?}");
        }
    }
}

#[test]
fn who_is_refused_for_a_variable_is_told_its_name_and_not_its_value() {
    let Decision::Denied(denial) = decide(&policy(STRICT), &[("PATH", "secret")], &["ls", "-l"]) else {
        panic!("not denied")
    };
    assert_eq!(
        denial.explanation,
        "policy `strict` denies `PATH=… ls -l` (commands.default): no rule is about this command; one that allows does not \
         hold where these are set: PATH"
    );
    let Decision::Denied(denial) = decide(&policy(STRICT), &[("PATH", "secret")], &["bash", "-c", "ls"]) else {
        panic!("not denied")
    };
    assert!(denial.explanation.contains("PATH"), "{}", denial.explanation);

    let rules = policy(&RULES.replace("default = \"allow\"", "default = \"ask\""));
    let many: Vec<String> = (0..100).map(|number| format!("N{number}\n")).collect();
    let env: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "secret")).collect();
    let Decision::Ask(question) = decide(&rules, &env, &["ls"]) else {
        panic!("not asked")
    };
    let [shown] = &question.commands[..] else {
        panic!("{:?}", question.commands)
    };
    assert!(
        shown.starts_with("N0\\n=… N1\\n=… ") && shown.ends_with(" … ls"),
        "{shown}"
    );
    let Decision::Ask(question) = decide(&rules, &[("LD_PRELOAD", "secret")], &["ls"]) else {
        panic!("not asked")
    };
    assert_eq!(question.commands, ["LD_PRELOAD=… ls", "LD_PRELOAD=…"]);
}

/// What changes where programs are found, by arithmetic or by taking a variable away: a rule that allows a program does not hold after it.
#[test]
fn a_variable_that_arithmetic_sets_keeps_a_rule_that_allows_from_holding() {
    let commands = policy(STRICT).commands;
    let mut wrong = Vec::new();
    for set in [
        "((PATH=1))",
        "((i=0, PATH++))",
        "let PATH=1",
        "unset PATH",
        "unset -v PATH",
        "echo $((PATH=1))",
        "echo $[PATH=1]",
        "a[PATH=1]=2",
        "for((PATH=1;0;)); do :; done",
        ": ${x[PATH=1]}",
        "[[ PATH=1 -eq 1 ]]",
        "echo ${HOME:PATH=1}",
        "echo ${HOME:$((PATH=1))}",
        "x=PATH=1; ((x))",
        "coproc PATH { :; }",
        "jobs -x id",
    ] {
        let line = format!("bash -c '{set}; ls'");
        let (verdict, why) = judged(&commands, &line);
        if verdict == Verdict::Allow {
            wrong.push(format!("{line}: {why}"));
        }
    }
    for harmless in [
        "i=0; ((i++)); ls",
        "n=3; for((i=0;i<n;i++)); do ls; done",
        "[[ $# -eq 1 ]] && ls",
    ] {
        let line = format!("bash -c '{harmless}'");
        let (verdict, why) = judged(&commands, &line);
        if verdict != Verdict::Allow {
            wrong.push(format!("{line}: is {verdict}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn more_variables_that_hold_what_runs() {
    let rules = policy(RULES);
    for (name, value) in [
        ("TAR_OPTIONS", "--checkpoint-action=exec=rm"),
        ("RUSTC_WRAPPER", "rm"),
        ("CC", "rm x"),
        ("GOFLAGS", "-toolexec=rm"),
        ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "rm"),
        ("npm_config_script_shell", "rm"),
        ("GCONV_PATH", "."),
    ] {
        let decision = decide(&rules, &[(name, value)], &["ls"]);
        assert!(!matches!(decision, Decision::Allowed(_)), "{name}");
    }
    for (name, value) in [
        ("CC", "gcc"),
        ("GOFLAGS", "-mod=vendor"),
        ("CARGO_TARGET_DIR", "/tmp/t"),
    ] {
        let decision = decide(&rules, &[(name, value)], &["ls"]);
        assert!(matches!(decision, Decision::Allowed(_)), "{name}");
    }
}
