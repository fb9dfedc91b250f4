//! What is read out of command lines, and what rules say about them.

use fumehood_policies::command::{CommandRules, Reading, Rule, SimpleCommand, Verdict, Word, read, read_line};
use fumehood_policies::{Decision, Policy, Request, RequestedLimits, Tool};
use proptest::prelude::*;

fn shown(command: &SimpleCommand) -> String {
    command.show(200)
}

fn runs(reading: &Reading) -> Vec<String> {
    reading
        .commands
        .iter()
        .filter(|command| !command.transparent)
        .map(shown)
        .collect()
}

/// A line, and the commands in it that are more than wrappers, joined with ` | `; a `?` at the end: and something unreadable.
const READ: &[(&str, &str)] = &[
    // Lists and compounds.
    ("rm -rf /", "rm -rf /"),
    ("a; b && c || d & e | f", "a | b | c | d | e | f"),
    ("a\nb", "a | b"),
    ("(a; b)", "a | b"),
    ("{ a; b; }", "a | b"),
    ("if a; then b; elif c; then d; else e; fi", "a | b | c | d | e"),
    ("for x in 1 2; do rm y; done", "rm y"),
    ("while a; do b; done; until c; do d; done", "a | b | c | d"),
    ("case x in a) b;; *) c;; esac", "b | c"),
    ("f() { rm x; }; f", "rm x | f"),
    ("! a", "a"),
    ("time -p rm x", "rm x"),
    ("coproc rm x", "rm x"),
    ("!(rm x)", "rm x"),
    ("a & # rm x", "a"),
    ("[[ $(a) == x && -f y ]] && b", "a | b"),
    ("((x = $(a))); b", "a | b?"),
    // Quoting.
    ("r\"m\" x", "rm x"),
    ("\\rm x", "rm x"),
    ("'r'm x", "rm x"),
    ("$'\\x72m' x", "rm x"),
    ("$'\\162\\u006d' x", "rm x"),
    ("r\\\nm x", "rm x"),
    ("$\"rm\" x", "rm x"),
    ("echo 'a;rm b'", "echo 'a;rm b'"),
    ("echo \"a;rm b\"", "echo 'a;rm b'"),
    ("echo ''", "echo ''"),
    // Expansion.
    ("rm$IFS-rf$IFS/", "…?"),
    ("$x y", "… y?"),
    ("echo \"a$x\"", "echo a…"),
    ("echo *.c", "echo ….c"),
    ("echo ~/x", "echo …/x"),
    ("{rm,-rf,/}", "…?"),
    ("echo {a}", "echo '{a}'"),
    ("echo $(rm x)", "rm x | echo …"),
    ("echo `rm x`", "rm x | echo …"),
    ("echo \"$(rm \"x y\")\"", "rm 'x y' | echo …"),
    ("echo ${x:-$(rm y)}", "rm y | echo …"),
    ("echo $((1 + $(rm x)))", "rm x | echo …?"),
    ("echo $[1+$(rm x)]", "rm x | echo …?"),
    ("a[$(rm x)]=1", "rm x?"),
    ("x=$(rm y)", "rm y"),
    ("x=$(rm y) z", "rm y | z"),
    ("a=(1 $(rm x))", "rm x"),
    ("echo <(rm x)", "rm x | echo /dev/fd/…"),
    ("tee >(rm x)", "rm x | tee /dev/fd/…"),
    ("cat < $(rm x)", "rm x | cat"),
    ("echo x > \"$(rm y)\"", "rm y | echo x"),
    ("cat <<EOF\n$(rm x)\nEOF\n", "rm x | cat"),
    ("cat <<'EOF'\n$(rm x)\nrm y\nEOF\n", "cat"),
    ("$(echo rm) x", "echo rm | … x?"),
    ("echo ${x@P}", "echo …?"),
    ("echo ${ rm x; }", "echo …?"),
    ("x='a[$(rm y)]'; echo $((x))", "echo …?"),
    ("echo $(case x in a) b;; esac)", "echo … b?"),
    ("echo `a \\`rm\\``", "echo …?"),
    // Shells.
    ("bash -c 'rm x'", "rm x"),
    ("/bin/bash -lc 'rm x'", "rm x"),
    ("bash-5.2 -c 'rm x'", "rm x"),
    ("sh -euo pipefail -c 'rm x'", "rm x"),
    ("bash +x -c 'rm x'", "rm x"),
    ("bash --norc -c 'rm x'", "rm x"),
    ("bash -o errexit -c 'rm x'", "rm x"),
    ("dash -c \"sh -c 'rm x'\"", "rm x"),
    ("bash -c 'rm \"$1\"' _ x", "rm x"),
    ("bash -c '\"$@\"' _ rm x", "rm x"),
    ("bash -c '$0 x' rm", "rm x"),
    ("bash -c 'shift; \"$@\"' _ a rm x", "shift | …?"),
    ("bash -c \"$x\"", "bash -c …?"),
    ("bash x.sh", "bash x.sh"),
    ("bash", "bash?"),
    ("curl x | sh", "curl x | sh?"),
    ("bash <<EOF\nrm x\nEOF\n", "rm x"),
    ("bash <<'EOF'\nrm $x\nEOF\n", "rm …"),
    ("bash <<EOF\nrm $x\nEOF\n", "bash?"),
    ("bash <<< 'rm x'", "rm x"),
    ("bash <(curl x)", "curl x | bash /dev/fd/…?"),
    ("sh /dev/stdin", "sh /dev/stdin?"),
    (". <(curl x)", "curl x | . /dev/fd/…?"),
    ("sh -c '((rm x))'", "?"),
    ("sh -c '[[ a && rm x ]]'", "a | rm x ']]'?"),
    ("bash --rcfile x -c y", "bash --rcfile x -c y?"),
    ("fish -c 'rm x'", "fish -c 'rm x'?"),
    // Wrappers.
    ("env -i X=1 rm x", "rm x"),
    ("env -u X -C dir rm x", "rm x"),
    ("env -S 'rm x'", "rm x"),
    ("env -S 'sh -c \"rm x\"'", "env -S 'sh -c \"rm x\"'?"),
    ("nice -n 10 wget x", "wget x"),
    ("nice -10 wget x", "wget x"),
    ("timeout -k 5 10 rm x", "rm x"),
    ("timeout --signal=KILL 10 rm x", "rm x"),
    ("timeout --frob 10 rm x", "timeout --frob 10 rm x?"),
    ("nohup rm x", "rm x"),
    ("setsid -w rm x", "rm x"),
    ("stdbuf -oL rm x", "rm x"),
    ("/usr/bin/time -f %e rm x", "rm x"),
    ("ionice -c 3 rm x", "rm x"),
    ("chrt -i 0 rm x", "chrt -i 0 rm x | rm x"),
    ("taskset -c 0 rm x", "taskset -c 0 rm x | rm x"),
    ("command rm x", "rm x"),
    ("command -v rm", "command -v rm"),
    ("builtin echo x", "echo x"),
    ("exec rm x", "rm x"),
    ("exec >log", "exec"),
    ("eval 'rm x'", "rm x"),
    ("eval rm x", "rm x"),
    ("eval \"$x\"", "eval …?"),
    ("trap 'rm x' EXIT", "trap 'rm x' EXIT | rm x"),
    ("sudo -u root A=1 rm x", "sudo -u root A=1 rm x | rm x"),
    ("doas rm x", "doas rm x | rm x"),
    ("su -c 'rm x' root", "su -c 'rm x' root | rm x"),
    ("su root -c 'rm x'", "su root -c 'rm x' | rm x"),
    ("su", "su?"),
    ("xargs -I{} -n1 rm {}", "xargs '-I{}' -n1 rm '{}' | rm …"),
    ("xargs rm", "xargs rm | rm …"),
    ("xargs sh -c 'rm \"$1\"' _", "xargs sh -c 'rm \"$1\"' _ | rm …"),
    ("parallel rm {} ::: a b", "parallel rm '{}' ::: a b | rm … …"),
    ("parallel ::: 'rm x'", "parallel ::: 'rm x'?"),
    ("find . -exec rm {} \\;", "find . -exec rm '{}' ';' | rm …"),
    (
        "find . -name x -execdir sh -c 'rm x' \\; -ok mv {} y +",
        "find . -name x -execdir sh -c 'rm x' ';' -ok mv '{}' y + | rm x?",
    ),
    ("find . -exec rm {} +", "find . -exec rm '{}' + | rm …"),
    ("find . -delete", "find . -delete"),
    ("watch -n 1 'rm x'", "watch -n 1 'rm x' | rm x"),
    ("watch -x rm x", "watch -x rm x | rm x"),
    ("strace -f -o log rm x", "strace -f -o log rm x | rm x"),
    ("flock lock rm x", "flock lock rm x | rm x"),
    ("flock lock -c 'rm x'", "flock lock -c 'rm x' | rm x"),
    ("script -c 'rm x' log", "script -c 'rm x' log | rm x"),
    ("script log", "script log?"),
    ("ssh host rm x", "ssh host rm x"),
    ("unshare -r rm x", "unshare -r rm x | rm x"),
    ("chroot /x rm y", "chroot /x rm y | rm y"),
    ("busybox rm x", "busybox rm x | rm x"),
    ("busybox sh -c 'rm x'", "busybox sh -c 'rm x' | rm x"),
    (
        "/lib64/ld-linux-x86-64.so.2 /bin/rm x",
        "/lib64/ld-linux-x86-64.so.2 /bin/rm x | /bin/rm x",
    ),
    ("git -c alias.x='!rm y' x", "git -c 'alias.x=!rm y' x | rm y"),
    ("git -c core.pager=x log", "git -c core.pager=x log?"),
    ("git bisect run rm x", "git bisect run rm x | rm x"),
    ("git rebase -x 'rm x' main", "git rebase -x 'rm x' main | rm x"),
    ("git rebase --exec='rm x'", "git rebase '--exec=rm x' | rm x"),
    ("git submodule foreach 'rm x'", "git submodule foreach 'rm x' | rm x"),
    ("npx -y rm x", "npx -y rm x | rm x"),
    ("npm exec -c 'rm x'", "npm exec -c 'rm x' | rm x"),
    ("alias ls=rm; ls x", "alias ls=rm | ls x?"),
    ("systemd-run rm x", "systemd-run rm x?"),
    ("PATH=/evil:$PATH cat <<EOF\nx\nEOF\n", "cat"),
    // What is no script.
    ("if a", "a?"),
    ("a (", "a?"),
    ("echo 'a", "?"),
];

#[test]
fn lines_are_read_as_a_shell_would_run_them() {
    let mut wrong = Vec::new();
    for (line, expected) in READ {
        let reading = read_line(line);
        let mark = if reading.is_complete() { "" } else { "?" };
        let found = format!("{}{mark}", runs(&reading).join(" | "));
        if found != *expected {
            wrong.push(format!(
                "{line:?}\n  expected {expected}\n  found    {found}\n  {:?}",
                reading.unreadable
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        READ.len(),
        wrong.join("\n")
    );
}

const RULES: &str = r#"
version = 1
name = "rules"
[commands]
default = "allow"
unreadable = "ask"
[[commands.rules]]
program = ["git"]
args = ["push"]
has = ["--force", "-f"]
decision = "deny"
reason = "A forced push rewrites what others have."
match = ["git push --force origin main", "bash -c 'git push -f'", "git -C x push -uf"]
no-match = ["git push origin main"]
[[commands.rules]]
program = "rm"
decision = "ask"
reason = "Files go."
[[commands.rules]]
program = ["/opt/tool", "mkfs*"]
decision = "deny"
[[commands.rules]]
program = "npm"
args = [["publish", "unpublish"]]
decision = "ask"
"#;

const STRICT: &str = r#"
version = 1
name = "strict"
[commands]
default = "deny"
[[commands.rules]]
program = "cargo"
args = [["test", "build"]]
decision = "allow"
[[commands.rules]]
program = ["ls", "cat"]
decision = "allow"
[[commands.rules]]
program = "make"
args = ["check"]
exact = true
decision = "allow"
"#;

fn policy(text: &str) -> Policy {
    Policy::parse(text.as_bytes(), "test").unwrap_or_else(|errors| panic!("{errors}"))
}

/// A line, what it gets by `RULES`, what by `STRICT`.
const JUDGED: &[(&str, Verdict, Verdict)] = {
    use Verdict::{Allow, Ask, Deny};
    &[
        ("ls", Allow, Allow),
        ("ls -l x", Allow, Allow),
        ("rm x", Ask, Deny),
        ("/bin/rm x", Ask, Deny),
        ("./rm x", Ask, Deny),
        ("../../usr/bin/rm x", Ask, Deny),
        ("/opt/tool", Deny, Deny),
        ("tool", Allow, Deny),
        ("mkfs.ext4 x", Deny, Deny),
        ("git push", Allow, Deny),
        ("git push --force", Deny, Deny),
        ("git push --force=x", Deny, Deny),
        ("git push --forc", Deny, Deny),
        ("git push -uf origin", Deny, Deny),
        ("git push \"$x\"", Deny, Deny),
        ("git $x", Deny, Deny),
        ("git push origin/$x", Deny, Deny),
        ("git push \"origin/$x\"", Allow, Deny),
        ("git --no-pager -C dir push -f", Deny, Deny),
        ("git -c user.name=x push -f", Deny, Deny),
        ("npm publish", Ask, Deny),
        ("npm test", Allow, Deny),
        ("$x", Deny, Deny),
        ("\"$x/rm\"", Ask, Deny),
        ("\"$x/tool\"", Deny, Deny),
        ("\"$x/ls\"", Ask, Deny),
        ("cargo test", Allow, Allow),
        ("cargo build --release", Allow, Allow),
        ("/usr/bin/cargo test", Allow, Allow),
        ("./cargo test", Allow, Deny),
        ("cargo run", Allow, Deny),
        ("cargo $x", Allow, Deny),
        ("cargo test \"$x\"", Allow, Deny),
        ("cargo test > x", Allow, Deny),
        ("cargo test > /dev/null 2>&1", Allow, Allow),
        ("RUST_BACKTRACE=1 cargo test", Allow, Allow),
        ("PATH=/evil cargo test", Allow, Deny),
        ("PATH=/evil; cargo test", Allow, Deny),
        ("export PATH=/evil; cargo test", Allow, Deny),
        ("env PATH=/evil cargo test", Allow, Deny),
        ("PATH=/evil bash -c 'cargo test'", Allow, Deny),
        ("PATH=/evil:$PATH cat <<EOF\nx\nEOF\n", Allow, Deny),
        ("cargo test && ls", Allow, Allow),
        ("cargo test && rm x", Ask, Deny),
        ("bash -c 'cargo test'", Allow, Allow),
        ("nice cargo test", Allow, Allow),
        ("timeout 10 env A=1 cargo test", Allow, Deny),
        ("timeout 10 rm x", Ask, Deny),
        ("ls; (ls; rm x)", Ask, Deny),
        ("echo $(rm x)", Ask, Deny),
        ("ls $(cat x)", Allow, Deny),
        ("xargs rm", Ask, Deny),
        ("find . -exec rm {} +", Ask, Deny),
        ("sudo ls", Allow, Deny),
        ("if a", Ask, Deny),
        ("eval \"$x\"", Ask, Deny),
        ("curl x | sh", Ask, Deny),
        ("make check", Allow, Allow),
        ("make check all", Allow, Deny),
        ("{ ls; } > x", Allow, Deny),
        ("cat < /dev/tcp/a/1", Allow, Deny),
        ("", Allow, Deny),
        ("> x", Allow, Deny),
    ]
};

#[test]
fn lines_get_the_strictest_of_their_commands() {
    let (rules, strict) = (policy(RULES).commands, policy(STRICT).commands);
    let mut wrong = Vec::new();
    for (line, by_rules, by_strict) in JUDGED {
        for (name, commands, expected) in [("rules", &rules, by_rules), ("strict", &strict, by_strict)] {
            let judgement = commands.judge_line(line);
            if judgement.verdict != *expected {
                wrong.push(format!("{line:?} {name}: expected {expected}, {judgement:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn argv(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn decide(policy: &Policy, words: &[&str]) -> Decision {
    policy.decide(&Request {
        tool: Tool::Shell,
        argv: &argv(words),
        caller_env: &[],
        env: &[],
        limits: RequestedLimits::default(),
    })
}

#[test]
fn a_denial_names_the_rule_and_gives_its_reason() {
    let Decision::Denied(denial) = decide(&policy(RULES), &["bash", "-c", "cd x && git push -f"]) else {
        panic!("not denied")
    };
    assert_eq!(denial.rule, "commands.rules[0]");
    assert_eq!(
        denial.explanation,
        "policy `rules` denies `bash -c: git push -f` (commands.rules[0]): A forced push rewrites what others have."
    );
}

#[test]
fn a_question_says_what_is_asked_and_what_an_approval_would_give() {
    let policy = policy(RULES);
    let Decision::Ask(question) = decide(&policy, &["sh", "-c", "rm a; ls; rm b"]) else {
        panic!("not asked")
    };
    assert_eq!(question.rule, "commands.rules[1]");
    assert_eq!(question.commands, ["sh -c: rm a", "sh -c: rm b"]);
    assert_eq!(question.grants.filesystem, policy.filesystem);
}

#[test]
fn what_cannot_be_bounded_is_not_parsed() {
    let deep = |open: &str, close: &str, n: usize| format!("{}a{}", open.repeat(n), close.repeat(n));
    let hostile = [
        "( ".repeat(10_000),
        deep("( ", " )", 10_000),
        deep("if a; then ", "; fi", 1_000),
        "if a; then ".repeat(40),
        "case a in b) ".repeat(40),
        "((".repeat(40),
        "$(".repeat(10_000),
        "${a:-".repeat(10_000),
        "echo \"$(${a".repeat(30),
        format!("echo {}", deep("\"$(", ")\"", 90)),
        format!("echo {}", deep("${a:-", "}", 90)),
        format!("echo {}", deep("`", "`", 500)),
        "$((".repeat(90),
        "<<a ".repeat(5_000),
        "x=1 ".repeat(8_000),
        "a;".repeat(16_000),
        "a|".repeat(16_000),
        "{ ".repeat(10_000),
        "[[ ( ".repeat(5_000),
        "f() ".repeat(5_000),
        "\\".repeat(30_000),
        "a".repeat(10 << 20),
    ];
    for text in hostile {
        let started = std::time::Instant::now();
        let reading = read(&argv(&["sh", "-c", &text]));
        let elapsed = started.elapsed();
        // Without optimisation and on a busy machine; what doubles with each level would be far beyond.
        assert!(elapsed.as_secs() < 10, "{elapsed:?}: {}", &text[..40]);
        assert!(reading.commands.len() <= 512 && reading.unreadable.len() <= 64);
    }
    let mut nested = "rm x".to_owned();
    for _ in 0..6 {
        nested = format!("sh -c '{}'", nested.replace('\'', "'\\''"));
    }
    assert_eq!(runs(&read_line(&nested)), ["rm x"]);
    let wrapped: Vec<&str> = std::iter::repeat_n("nice", 1000).chain(["rm"]).collect();
    assert!(!read(&argv(&wrapped)).is_complete());
}

#[test]
fn bytes_that_are_no_text_are_read_where_no_shell_is_asked() {
    let reading = read(&[b"rm".to_vec(), vec![0xff, b'x']]);
    assert!(reading.is_complete());
    assert_eq!(reading.commands[0].args, [Word::Known(vec![0xff, b'x'])]);
    assert!(!read(&[b"sh".to_vec(), b"-c".to_vec(), vec![b'r', 0xff]]).is_complete());
    assert!(read(&[]).commands.is_empty());
}

#[test]
fn without_rules_nothing_is_read() {
    let policy = policy("version = 1\nname = \"x\"");
    let judgement = policy.commands.judge(&argv(&["sh", "-c", "( ( ("]));
    assert_eq!((judgement.verdict, judgement.findings.len()), (Verdict::Allow, 0));
}

#[test]
fn a_line_without_a_command_is_refused_with_a_reason() {
    let by = |default: &str, line: &[&str]| {
        let text = format!("version = 1\nname = \"x\"\n[commands]\ndefault = \"{default}\"\nunreadable = \"deny\"\n");
        decide(&policy(&text), line)
    };
    for line in [
        &["bash", "-c", "X=1"][..],
        &["bash", "-c", "# nothing"],
        &["sh", "-c", ""],
        &[],
    ] {
        let Decision::Denied(denial) = by("deny", line) else {
            panic!("{line:?} is not denied");
        };
        assert_eq!(denial.rule, "commands.default", "{line:?}");
        let says = |part: &str| denial.explanation.contains(part);
        assert!(
            says("policy `x` denies") && says("no command is found in it") && says("(commands.default)"),
            "{line:?}: {}",
            denial.explanation
        );
        let Decision::Ask(question) = by("ask", line) else {
            panic!("{line:?} is not asked about");
        };
        assert_eq!(
            (question.rule.as_str(), question.commands.len()),
            ("commands.default", 1),
            "{line:?}"
        );
        assert!(matches!(by("allow", line), Decision::Allowed(_)), "{line:?}");
    }
}

#[test]
fn every_error_of_the_section_is_told_at_its_place() {
    let text = r#"version = 1
name = "x"
[commands]
default = "ask"
unreadable = "allow"
rule = 1
[[commands.rules]]
program = []
decision = "denny"
[[commands.rules]]
progam = "x"
args = [[]]
match = [""]
[[commands.rules]]
program = ["a", 1]
exact = "yes"
decision = "deny"
"#;
    let errors = Policy::parse(text.as_bytes(), "p").unwrap_err();
    let found: Vec<String> = errors
        .errors()
        .iter()
        .map(|error| {
            format!(
                "{} {}: {} / {}",
                error.line,
                error.path,
                error.message,
                error.help.as_deref().unwrap_or("")
            )
        })
        .collect();
    let expected = [
        "5 commands.unreadable: \"allow\" is laxer than `default = \"ask\"`",
        "6 commands.rule: unknown key / did you mean `rules`?",
        "8 commands.rules[0].program: missing",
        "9 commands.rules[0].decision: `denny` is not possible here / did you mean `deny`?",
        "10 commands.rules[1].program: missing",
        "10 commands.rules[1].decision: missing",
        "11 commands.rules[1].progam: unknown key / did you mean `program`?",
        "12 commands.rules[1].args[0]: no alternative is listed",
        "13 commands.rules[1].match[0]: a line has",
        "15 commands.rules[2].program[1]: expected a string",
        "16 commands.rules[2].exact: expected true or false",
    ];
    for expected in expected {
        assert!(
            found.iter().any(|found| found.starts_with(expected)),
            "{expected}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn an_example_that_fails_is_an_error_that_says_what_the_line_gets() {
    let text = RULES.replace(
        "no-match = [\"git push origin main\"]",
        "no-match = [\"git push origin main\", \"git push -f\"]",
    );
    let errors = Policy::parse(text.as_bytes(), "p").unwrap_err();
    let [error] = errors.errors() else { panic!("{errors}") };
    assert_eq!(error.path, "commands.rules[0].no-match[1]");
    assert_eq!(error.message, "this rule matches this line");
    assert_eq!(
        error.help.as_deref(),
        Some("the line gets \"deny\" by commands.rules[0] for `git push -f`")
    );
}

#[test]
fn rules_that_make_no_difference_are_found() {
    let text = "version = 1\nname = \"x\"\n[commands]\n\
        [[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\ndecision = \"allow\"\n\
        [[commands.rules]]\nprogram = \"g*\"\ndecision = \"deny\"\n\
        [[commands.rules]]\nprogram = \"ls\"\ndecision = \"ask\"\n";
    let never = policy(text).commands.own.never_matching();
    assert_eq!(
        never
            .iter()
            .map(|never| (never.rule, never.hidden_by))
            .collect::<Vec<_>>(),
        [(0, 1)]
    );
}

#[test]
fn always_is_a_rule_for_one_command_line_and_no_other() {
    for words in [
        &["cargo", "test", "--release"][..],
        &["/usr/bin/ls", "-l", "a b\"\\"],
        &["git", "status"],
        &["git", "push", "origin", "main"],
        &["npm", "test"],
        &["true"],
    ] {
        let rule = CommandRules::rule_for(&argv(words)).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let text = format!(
            "version = 1\nname = \"x\"\n[commands]\ndefault = \"ask\"\n{}",
            rule.to_toml()
        );
        let read = policy(&text).commands.own;
        let decides = Rule {
            matches: Vec::new(),
            no_match: Vec::new(),
            ..rule.clone()
        };
        assert_eq!(read.rules, [decides], "{text}");
        assert_eq!(read.judge(&argv(words)).verdict, Verdict::Allow, "{words:?}");
        let more = [words, &["more"]].concat();
        assert_eq!(read.judge(&argv(&more)).verdict, Verdict::Ask, "{more:?}");
        let ask = CommandRules {
            default: Verdict::Ask,
            unreadable: Verdict::Ask,
            rules: Vec::new(),
        };
        assert_eq!(ask.with(rule).judge(&argv(words)).verdict, Verdict::Allow);
    }
}

#[test]
fn always_is_refused_where_a_rule_would_allow_anything() {
    for line in [
        "bash -c ls",
        "sh x.sh",
        "/bin/dash",
        "python3 x.py",
        "python3.12 -c 1",
        "node -e 1",
        "perl x",
        "deno run x",
        "env ls",
        "sudo ls",
        "nice ls",
        "timeout 1 ls",
        "xargs rm",
        "find . -exec rm x ;",
        "find .",
        "make",
        "npm run x",
        "npm",
        "npx x",
        "cargo run",
        "cargo --config x test",
        "cargo test --config x",
        "git -c a=b status",
        "git -C x status",
        "git bisect run x",
        "git log --ext-diff",
        "git-push origin",
        "git p",
        "git diff --output=x",
        "git clone x",
        "vim x",
        "./x",
        "ls *",
        "busybox ls",
        "/lib64/ld-linux-x86-64.so.2 ls",
        "docker run x",
        "tmux",
        "systemd-run x",
        "git",
        "go run x",
        "",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let refused = CommandRules::rule_for(&argv(&words));
        assert!(refused.is_err(), "{line}: {refused:?}");
    }
}

/// As a careful shell script would write it.
fn shell_quote(word: &[u8]) -> String {
    format!("'{}'", String::from_utf8_lossy(word).replace('\'', "'\\''"))
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "(rm|git|push|--force|-f|-uf|cargo|test|ls|npm|publish|cat|x|make|check)",
        "[ -~]{0,6}",
        "[a-z\\n'\"$`\\\\(){}*;&|<> é]{1,8}",
    ]
}

fn line() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![
            word(),
            "( |;|&&|\\||\n|\\$\\(|\\)|`|\"|'|\\{|\\}|<<EOF\n|\nEOF\n|if |then |fi|for |do |done|case |in |esac|\\$\\{|\\(\\(|\\)\\)|\\[\\[ | \\]\\]|eval |env |xargs |bash -c |find . -exec |;;)"
        ],
        0..24,
    )
    .prop_map(|parts| parts.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_line_is_read(line in line()) {
        let reading = read_line(&line);
        prop_assert!(reading.commands.len() <= 512);
        prop_assert_eq!(&reading, &read_line(&line));
        for rules in [RULES, STRICT] {
            let judgement = policy(rules).commands.judge_reading(&reading);
            prop_assert!(judgement.findings.iter().all(|finding| finding.verdict <= judgement.verdict));
            prop_assert!(judgement.findings.iter().all(|finding| !finding.command.chars().any(char::is_control)));
        }
    }

    #[test]
    fn quoting_and_a_shell_change_nothing(words in proptest::collection::vec(word(), 1..5)) {
        // A name of a builtin or a reserved word is not quoted away; names from the list above are programs only.
        let argv: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let script = argv.iter().map(|word| shell_quote(word)).collect::<Vec<_>>().join(" ");
        let wrapped: Vec<Vec<u8>> = ["bash", "-c", &script].iter().map(|word| word.as_bytes().to_vec()).collect();
        for rules in [RULES, STRICT] {
            let commands = policy(rules).commands;
            prop_assert_eq!(commands.judge(&argv).verdict, commands.judge(&wrapped).verdict, "{}", script);
        }
    }

    #[test]
    fn wrapping_never_makes_it_laxer(line in line()) {
        let plain = ["sh", "-c", &line];
        for rules in [RULES, STRICT] {
            let commands = policy(rules).commands;
            let own = commands.judge(&argv(&plain)).verdict;
            for wrapper in [&["env", "A=1"][..], &["nice", "-n", "5"], &["timeout", "-k", "1", "10"], &["nohup"], &["sudo"], &["xargs"]] {
                let wrapped = [wrapper, &plain].concat();
                prop_assert!(commands.judge(&argv(&wrapped)).verdict >= own, "{:?}", wrapped);
            }
        }
    }
}
