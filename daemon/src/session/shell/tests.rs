//! With the shells of this machine: bash and dash, which is `sh` on Debian.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use super::*;

type Variables = BTreeMap<Vec<u8>, Vec<u8>>;

fn bash() -> Shell {
    let shell = Shell::choose(|_| true);
    assert!(shell.bash, "these tests need bash");
    shell
}

fn dash() -> Shell {
    let path = PathBuf::from("/bin/dash");
    assert!(path.exists(), "these tests need dash");
    Shell { path, bash: false }
}

fn both() -> [Shell; 2] {
    [bash(), dash()]
}

fn base() -> Variables {
    let pairs = [
        ("PATH", "/usr/bin:/bin"),
        ("HOME", "/"),
        ("KEPT", "as it was"),
        ("PWD", "/usr"),
    ];
    pairs.map(|(name, value)| (name.into(), value.into())).into()
}

/// Runs a line as a session does, and gives what the next one finds.
fn run_as(shell: &Shell, begin: &Carried, line: &[u8], carry: Carry, own: &[(&str, &str)]) -> (Output, Carried) {
    let (output, _, after) = run_and_leave(shell, begin, line, carry, own);
    (output, after)
}

/// As [`run_as`], with what the shell left.
fn run_and_leave(
    shell: &Shell,
    begin: &Carried,
    line: &[u8],
    carry: Carry,
    own: &[(&str, &str)],
) -> (Output, Result<Left, NotLeft>, Carried) {
    let mut given = base();
    if let Some(cwd) = &begin.cwd {
        given.insert(b"PWD".to_vec(), cwd.as_os_str().as_bytes().to_vec());
    }
    for (name, value) in &begin.variables {
        match value {
            Some(value) => given.insert(name.clone(), value.clone()),
            None => given.remove(name),
        };
    }
    given.extend(
        own.iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())),
    );
    let file = StateFile::new(&begin.text).unwrap();
    let argv = shell.within(line, begin, begin.cwd.as_deref(), carry);
    // Another shell puts the descriptor in its place: what starts programs here cannot.
    let output = Command::new("/bin/bash")
        .args(["-c", "exec 63<&0 0</dev/null; exec \"$@\"", "bash"])
        .args(argv.iter().map(|argument| OsStr::from_bytes(argument)))
        .env_clear()
        .envs(
            given
                .iter()
                .map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))),
        )
        .current_dir("/usr")
        .stdin(Stdio::from(file.for_shell().unwrap()))
        .output()
        .unwrap();
    let left = file.left();
    let taken = left
        .clone()
        .ok()
        .filter(|_| output.status.code().is_some() && carry != Carry::Nothing);
    let after = match taken {
        Some(left) => begin.after(left, &given, &base(), |name| name == b"FORBIDDEN"),
        None => begin.clone(),
    };
    (output, left, after)
}

fn run(shell: &Shell, begin: &Carried, line: &str) -> (Output, Carried) {
    run_as(shell, begin, line.as_bytes(), Carry::Environment, &[])
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(carried: &Carried) -> Vec<&str> {
    carried
        .variables
        .keys()
        .map(|name| std::str::from_utf8(name).unwrap())
        .collect()
}

#[test]
fn the_working_directory_and_exported_variables_are_found_by_the_next_line() {
    for shell in both() {
        let value = b"a\nb 'c' \"d\" \\ $e `f` \xff\xfe;";
        let mut line = b"cd /usr/bin; export ODD=".to_vec();
        quote(value, &mut line);
        line.extend_from_slice(b"; unset KEPT; plain=1");
        let (output, carried) = run_as(&shell, &Carried::default(), &line, Carry::Environment, &[]);
        assert!(output.status.success(), "{}", err(&output));
        assert_eq!(carried.cwd.as_deref(), Some(Path::new("/usr/bin")));
        assert_eq!(carried.variables[b"ODD".as_slice()].as_deref(), Some(value.as_slice()));
        assert_eq!(carried.variables[b"KEPT".as_slice()], None);
        assert_eq!(names(&carried), ["KEPT", "ODD"]);
        let (output, again) = run(
            &shell,
            &carried,
            "printf %s \"$ODD\"; echo \"|$PWD|${KEPT-gone}|${plain-none}\"",
        );
        assert_eq!(
            output.stdout,
            [value.as_slice(), b"|/usr/bin|gone|none\n"].concat(),
            "{}",
            err(&output)
        );
        assert_eq!(again, carried, "what nothing changed stays");
        let (output, back) = run(
            &shell,
            &again,
            "cd - >/dev/null; pwd; unset ODD; export KEPT='as it was'",
        );
        assert_eq!(out(&output), "/usr\n");
        assert_eq!(names(&back), Vec::<&str>::new(), "as at first");
    }
}

#[test]
fn however_a_line_ends_by_itself_what_it_had_is_left() {
    for shell in both() {
        for (line, code) in [
            ("export A=1; exit 3", 3),
            ("export A=1; false", 1),
            ("set -e; export A=1; false; echo no", 1),
            ("export A=1; set -u; echo $nope", if shell.bash { 127 } else { 2 }),
            ("export A=1; (exit 9)", 9),
            ("export A=1; /bin/true", 0),
            ("export A=1; alias printf=false declare=false command=false; true", 0),
            ("export A=1; exec 1>&- 2>&-", 0),
            ("export A=1; set -x; set -f; IFS=0n", 0),
            ("export A=1; PATH=/nowhere; set -C", 0),
            ("eval 'export A=1; return 0' 2>/dev/null; true", 0),
        ] {
            let (output, carried) = run(&shell, &Carried::default(), line);
            assert_eq!(output.status.code(), Some(code), "{line}: {}", err(&output));
            assert_eq!(
                carried.variables.get(b"A".as_slice()),
                Some(&Some(b"1".to_vec())),
                "{line}"
            );
        }
        let (output, _) = run(&shell, &Carried::default(), "trap 'echo mine' EXIT; echo first");
        assert_eq!(out(&output), "first\nmine\n");
    }
}

#[test]
fn a_shell_that_cannot_say_leaves_what_was_there() {
    for shell in both() {
        let (_, begin) = run(&shell, &Carried::default(), "export A=before; cd /usr/bin");
        for line in [
            "export A=2; exec true",
            "export A=2; kill -9 $$",
            "export A=2; kill -TERM $$",
            "trap : EXIT; export A=2; exit 0",
            "export A=2; trap 'echo mine' EXIT",
            "export A=2; printf 'fumehood-2\\0d' 1<>/proc/self/fd/63; kill -9 $$",
        ] {
            let (output, after) = run(&shell, &begin, line);
            assert_eq!(after, begin, "{line}: {:?}", output.status.signal());
        }
        let (_, after) = run_as(&shell, &begin, b"export A=2; cd /", Carry::Nothing, &[]);
        assert_eq!(after, begin);
    }
}

#[test]
fn what_is_written_to_the_descriptor_by_others_is_no_more_than_a_line_can_say() {
    let forge = |bytes: &str| format!("printf '{bytes}' 1<>/proc/self/fd/63; exec true");
    for (bytes, forged) in [
        ("nonsense", false),
        ("fumehood-2\\0e\\0A=1\\0\\0end\\0", true),
        ("fumehood-2\\0ddeclare -x A=\\\"1\\\"\\n\\0end\\0", true),
        ("fumehood-2\\0e\\0A=1\\0", false),
        ("fumehood-2\\0e\\0no assignment\\0\\0end\\0", false),
        ("fumehood-2\\0e\\0A=1\\0\\0zwhat\\0end\\0", false),
        ("fumehood-2\\0ddeclare -x A=\\\"$(id)\\\"\\n\\0end\\0", false),
        ("fumehood-1\\0e\\0A=1\\0\\0end\\0", false),
    ] {
        let (_, carried) = run(&bash(), &Carried::default(), &forge(bytes));
        assert_eq!(carried != Carried::default(), forged, "{bytes}");
    }
    let (_, carried) = run(
        &bash(),
        &Carried::default(),
        &forge("fumehood-2\\0e\\0A B=1\\0__fumehood_x=1\\0FORBIDDEN=1\\0_=x\\0PWD=relative\\0\\0end\\0"),
    );
    assert_eq!(carried.cwd, None, "no absolute path");
    // It says too that what it was given is gone, which any line could bring about.
    assert_eq!(names(&carried), ["HOME", "KEPT", "PATH"]);
    assert!(carried.variables.values().all(Option::is_none), "{carried:?}");
}

#[test]
fn a_line_that_only_unsets_is_started_without_those_variables() {
    let carried = Arc::new(Carried {
        variables: ["A", "B", "C"]
            .map(|name| (name.into(), (name != "C").then(|| b"x".to_vec())))
            .into(),
        ..Carried::default()
    });
    for (line, expected) in [
        ("unset A", &["A"][..]),
        (" unset  -v\tA B C D\n", &["A", "B"]),
        ("unset", &[]),
        ("unset -f A", &[]),
        ("unset A; id", &[]),
        ("unset A\nid", &[]),
        ("unset A $B", &[]),
        ("unset 'A'", &[]),
        ("unset A[1]", &[]),
        ("unset A # B", &[]),
        ("x=1 unset A", &[]),
        ("unsetA", &[]),
        ("export A", &[]),
    ] {
        let (begin, dropped) = carried.before(line.as_bytes());
        let expected: Vec<Vec<u8>> = expected.iter().map(|name| name.as_bytes().to_vec()).collect();
        assert_eq!(dropped, expected, "{line:?}");
        let set = |name: &&Vec<u8>| begin.variables[*name].is_some();
        let left = carried.variables.keys().filter(set).count();
        assert_eq!(left, 2 - expected.len(), "{line:?}");
    }
    // They are gone when it has ended, as if it had been given them.
    let (begin, dropped) = carried.before(b"unset A");
    let (output, _) = run(&bash(), &begin, "unset A; env");
    assert!(!out(&output).contains("A=x"), "{}", out(&output));
    let mut given = base();
    given.extend(dropped.into_iter().map(|name| (name, Vec::new())));
    let left = Left {
        variables: base(),
        ..Left::default()
    };
    let after = carried.after(left, &given, &base(), |_| false);
    assert_eq!(names(&after), ["B", "C"]);
}

#[test]
fn who_is_refused_for_what_was_left_is_told_how_to_drop_it() {
    let carried = Carried {
        variables: [
            (b"MSG".to_vec(), Some(b"x".to_vec())),
            (b"N".to_vec(), Some(b"x".to_vec())),
        ]
        .into(),
        ..Carried::default()
    };
    let told = carried.how_to_drop("s", "cannot be read: `MSG` here");
    assert!(
        told.contains("`unset MSG`") && told.contains("`fumehood session reset s`"),
        "{told}"
    );
    let told = carried.how_to_drop("s", "no curl");
    assert!(
        told.contains("earlier lines") && told.contains("session reset s"),
        "{told}"
    );
}

#[test]
fn any_bytes_are_a_state_or_none() {
    let whole = b"fumehood-2\0e\0PWD=/a\0A=1\0\0ddeclare -i n=\"1\"\ndeclare -ar l=([0]=\"1\")\n\0f\0a\0end\0";
    assert!(Left::parse(whole).is_ok());
    for cut in 0..whole.len() {
        assert!(Left::parse(&whole[..cut]).is_err(), "{cut}");
    }
    for at in 0..whole.len() {
        for byte in [0, b'=', b'\n', 0xff] {
            let mut changed = whole.to_vec();
            changed[at] = byte;
            let _ = Left::parse(&changed);
        }
    }
}

#[test]
fn a_lines_own_variables_are_not_carried_unless_it_changes_them() {
    for shell in both() {
        let own = [("OWN", "1"), ("CHANGED", "1"), ("KEPT", "for this line")];
        let line = b"export CHANGED=2";
        let (_, carried) = run_as(&shell, &Carried::default(), line, Carry::Environment, &own);
        assert_eq!(names(&carried), ["CHANGED"]);
    }
}

#[test]
fn a_line_sees_an_ordinary_shell() {
    for shell in both() {
        let carried = Carried {
            text: b"shopt -s nullglob\n".to_vec(),
            ..Carried::default()
        };
        let begin = if shell.bash { &carried } else { &Carried::default() };
        let (output, _) = run(&shell, begin, "env; echo \"$0 $# $?\"; trap 1>&2");
        let told = out(&output);
        assert!(told.ends_with(&format!("{} 0 0\n", shell.name())), "{told}");
        assert!(!told.contains("fumehood"), "{told}");
        assert_eq!(told.lines().filter(|line| line.starts_with("KEPT=")).count(), 1);
        for (line, words) in [("echo 'x", "nterminated|unexpected EOF"), ("if", "yntax error")] {
            let (output, after) = run(&shell, begin, line);
            assert_eq!(output.status.code(), Some(2), "{line}");
            let said = err(&output);
            assert!(words.split('|').any(|word| said.contains(word)), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert_eq!(&after, begin);
        }
    }
    let (output, _) = run(
        &bash(),
        &Carried::default(),
        "echo $LINENO\necho $LINENO; nosuchcommand",
    );
    assert_eq!(out(&output), "1\n2\n");
    assert!(
        err(&output).contains("line 2: nosuchcommand: command not found"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_directory_that_is_gone_is_an_empty_one_until_the_line_leaves_it() {
    for shell in both() {
        let begin = Carried {
            cwd: Some("/nonexistent/directory".into()),
            ..Carried::default()
        };
        let (output, after) = run(&shell, &begin, "ls -A; echo $PWD");
        assert_eq!(out(&output), "/nonexistent/directory\n");
        assert!(
            err(&output).contains("/nonexistent/directory cannot be entered"),
            "{}",
            err(&output)
        );
        assert_eq!(after.cwd, begin.cwd, "still there");
        let (_, after) = run(&shell, &begin, "cd /usr");
        assert_eq!(after.cwd.as_deref(), Some(Path::new("/usr")));
        assert!(after.previous_cwd.is_none_or(|path| !path.starts_with("/tmp")));
    }
}

#[test]
fn bash_carries_everything_when_it_is_asked_to() {
    let line = b"greet() { echo \"hello $1 $word\"; }; alias say='echo said'; shopt -s expand_aliases extglob; set -o pipefail
        word='it'\\''s'; list=(1 '2 3'); declare -A map=([k]='v w'); declare -i number=3; readonly fixed=9; export OUT=1";
    let (output, carried) = run_as(&bash(), &Carried::default(), line, Carry::Everything, &[]);
    assert_eq!(err(&output), "");
    let line =
        "greet you; say this; echo ${#list[@]} \"${list[1]}\" \"${map[k]}\" $number $fixed $OUT; false | true; echo $?
        number=2+2; echo $number; shopt extglob; [[ aab == +(a)b ]] && echo glob; fixed=1";
    let (output, again) = run_as(&bash(), &carried, line.as_bytes(), Carry::Everything, &[]);
    let expected = "hello you it's\nsaid this\n2 2 3 v w 3 9 1\n1\n4\nextglob        \ton\nglob\n";
    assert_eq!(out(&output), expected, "{}", err(&output));
    assert!(err(&output).contains("readonly"), "{}", err(&output));
    // What lines with less to say leave is added to that.
    let (_, after) = run(&bash(), &again, "export MORE=1; greet() { echo other; }");
    assert_eq!(after.text, again.text);
    assert!(after.variables.contains_key(b"MORE".as_slice()));
    // An option that was switched off is off.
    let (_, off) = run_as(
        &bash(),
        &after,
        b"shopt -u extglob; set +o pipefail; unset -f greet",
        Carry::Everything,
        &[],
    );
    let (output, _) = run(
        &bash(),
        &off,
        "shopt -q extglob || echo off; false | true && echo fine; greet 2>/dev/null || echo none",
    );
    assert_eq!(out(&output), "off\nfine\nnone\n");
    // Of sh, only the environment, which is said.
    for shell in both() {
        let (_, left, _) = run_and_leave(&shell, &Carried::default(), b"x=1", Carry::Everything, &[]);
        let missing = (!shell.bash).then_some(NotLeft::OnlyEnvironment);
        let mut left = left.unwrap();
        assert_eq!(left.keep(Carry::Everything), missing);
        assert_eq!(left.keep(Carry::Environment), None, "it was not wanted");
        assert_eq!(left.text, None);
    }
    let (_, plain) = run_as(
        &dash(),
        &Carried::default(),
        b"f() { :; }; x=1; export Y=1",
        Carry::Everything,
        &[],
    );
    assert_eq!((plain.text.as_slice(), names(&plain)), (b"".as_slice(), vec!["Y"]));
}

#[test]
fn functions_that_bash_prints_but_does_not_read_are_carried_with_all_others() {
    let names = [
        "a=b", "a+=b", "a[1]=c", "a[b", "[[", "!", "if", "~", "1x", "-x", "{fd}", "f-g", "*", "[", "x@",
    ];
    let mut line: String = names
        .iter()
        .map(|name| format!("function {name} {{ echo {name}; }}\n"))
        .collect();
    line.push_str("z() { function a=b { echo a=b; }; echo z; }; x=1; unset -f [");
    let (_, carried) = run_as(&bash(), &Carried::default(), line.as_bytes(), Carry::Everything, &[]);
    let (output, again) = run_as(
        &bash(),
        &carried,
        b"a''=b; echo $x; f-g; declare -F | wc -l; z",
        Carry::Everything,
        &[],
    );
    let count = names.len();
    assert_eq!(out(&output), format!("a=b\n1\nf-g\n{count}\nz\n"), "{}", err(&output));
    assert_eq!(
        String::from_utf8_lossy(&again.text),
        String::from_utf8_lossy(&carried.text)
    );
    assert!(
        carried.summary().contains("functions !, *, -x, 1x, [[, a+=b, a=b,"),
        "{}",
        carried.summary()
    );
    // What bash cannot read all the same is not lost without a word.
    let begin = Carried {
        text: b"a=b () { :; }\nx=1\n".to_vec(),
        ..Carried::default()
    };
    let (output, _) = run(&bash(), &begin, "echo $? $x");
    assert_eq!(out(&output), "0\n");
    assert!(err(&output).contains("not all functions"), "{}", err(&output));
    // As a script under rules about commands, too.
    for name in names {
        let (_, left) = run_as(
            &bash(),
            &Carried::default(),
            format!("function {name} {{ :; }}").as_bytes(),
            Carry::Everything,
            &[],
        );
        let text = std::str::from_utf8(&left.text).unwrap();
        assert!(fumehood_policies::command::stands_alone(text), "{text}");
    }
}

#[test]
fn an_exported_ifs_is_carried_with_everything() {
    let (_, carried) = run_as(&bash(), &Carried::default(), b"export IFS=:", Carry::Everything, &[]);
    for carry in [Carry::Environment, Carry::Everything] {
        let line = b"set -- a:b; printf '%s|' $*; v=a:b; printf '%s|' $v; unset v; env | grep -c IFS=:";
        let (output, after) = run_as(&bash(), &carried, line, carry, &[]);
        assert_eq!(out(&output), "a|b|a|b|1\n", "{}", err(&output));
        assert_eq!(after, carried);
    }
    let (_, plain) = run_as(&bash(), &carried, b"unset IFS", Carry::Everything, &[]);
    let (output, _) = run(&bash(), &plain, "v=a:b; printf '%s|' $v");
    assert_eq!(out(&output), "a:b|");
}

#[test]
fn options_that_a_line_sets_do_not_disturb_the_next() {
    let (_, strict) = run_as(
        &bash(),
        &Carried::default(),
        b"set -euo pipefail; f() { echo f; }",
        Carry::Everything,
        &[],
    );
    let (output, _) = run(&bash(), &strict, "f; echo $nope; echo no");
    assert_eq!(out(&output), "f\n");
    let (output, after) = run_as(&bash(), &strict, b"export A=1; false; echo no", Carry::Everything, &[]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), ""));
    assert!(after.variables.contains_key(b"A".as_slice()));
}

#[test]
fn of_what_surrounds_a_line_nothing_is_shown_where_it_shows_what_it_does() {
    for shell in both() {
        for carry in [Carry::Environment, Carry::Everything] {
            for (line, shown) in [
                ("set -x; export A=1", "+ export A=1\n+ A=1\n"),
                ("set -ex; A=1; export A; false", "+ A=1\n+ export A\n+ false\n"),
                ("PS4=; set -x; export A=1; exit 0", "export A=1\nA=1\nexit 0\n"),
            ] {
                let (output, after) = run_as(&shell, &Carried::default(), line.as_bytes(), carry, &[]);
                // Each shell traces in a way of its own, none the other's.
                let told: String = err(&output)
                    .lines()
                    .map(|line| line.replace("++ ", "+ ") + "\n")
                    .filter(|line| shell.bash || !line.ends_with("A=1\n"))
                    .collect();
                let shown: String = shown
                    .lines()
                    .map(|line| format!("{line}\n"))
                    .filter(|line| shell.bash || !line.ends_with("A=1\n"))
                    .collect();
                assert_eq!(told, shown, "{line}");
                assert!(after.variables.contains_key(b"A".as_slice()), "{line}");
            }
        }
    }
    // What shows it is carried itself.
    let (_, traced) = run_as(&bash(), &Carried::default(), b"set -xu; v=1", Carry::Everything, &[]);
    for carry in [Carry::Nothing, Carry::Environment, Carry::Everything] {
        let (output, after) = run_as(&bash(), &traced, b"echo $v $LINENO\ntrue", carry, &[]);
        assert_eq!(
            (out(&output).as_str(), err(&output).as_str()),
            ("1 1\n", "++ echo 1 1\n++ true\n")
        );
        assert_eq!(after.text, traced.text);
    }
    let (_, off) = run_as(&bash(), &traced, b"set +x", Carry::Everything, &[]);
    let (output, _) = run(&bash(), &off, "echo $v");
    assert_eq!(err(&output), "");
    let (_, both) = run_as(&bash(), &Carried::default(), b"set -xv", Carry::Everything, &[]);
    let (output, _) = run_as(&bash(), &both, b"echo a\necho b", Carry::Nothing, &[]);
    assert_eq!(err(&output), "++ echo a\necho b\n++ echo b\n");
    // What is run after other lines needs no process: where there may be none more, bash would end with another code.
    for (line, subshell) in [
        ("set -eux", true),
        ("set -e", false),
        ("npm test", false),
        ("shopt -so xtrace", true),
    ] {
        let script = bash().within(line.as_bytes(), &Carried::default(), None, Carry::Environment);
        assert_eq!(find(&script[2], b"trap '(").is_some(), subshell, "{line}");
    }
    // Nor do traps of the line's own see the end of one that leaves nothing.
    for line in ["set -E; trap 'echo seen' ERR", "set -m; trap 'echo seen' CHLD"] {
        let (output, _) = run(&bash(), &Carried::default(), &format!("{line}; exec 63>&-"));
        assert_eq!(out(&output), "", "{line}");
    }
}

#[test]
fn too_much_is_not_carried() {
    let line = b"export A=1; for n in 1 2 3 4 5 6 7 8 9 10 11 12; do export BIG$n=$(head -c 100000 /dev/zero | tr '\\0' x); done";
    for shell in both() {
        for carry in [Carry::Environment, Carry::Everything] {
            let (_, left, carried) = run_and_leave(&shell, &Carried::default(), line, carry, &[]);
            assert_eq!((left.unwrap_err(), carried), (NotLeft::TooLong, Carried::default()));
        }
    }
    // Also where it is one variable, which is not exported.
    let line = b"big=$(head -c 3000000 /dev/zero | tr '\\0' x)";
    let (_, left, _) = run_and_leave(&bash(), &Carried::default(), line, Carry::Everything, &[]);
    assert_eq!(left.unwrap_err(), NotLeft::TooLong);
    // What is not too long is not called so.
    for (state, why) in [
        ("fumehood-2\0dnonsense\0end\0", NotLeft::Unreadable),
        ("", NotLeft::Nothing),
        ("fumehood-2\0\0\0", NotLeft::Unreadable),
    ] {
        assert_eq!(Left::parse(state.as_bytes()).unwrap_err(), why, "{state:?}");
    }
    assert!(StateFile::new(&vec![b'x'; MAX_STATE_BYTES]).is_err());
}

#[test]
fn a_file_that_a_line_opened_in_place_of_the_descriptor_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("own");
    std::fs::write(&path, "mine").unwrap();
    let line = format!("exec 63<>{}; export A=1", path.display());
    let (output, carried) = run(&bash(), &Carried::default(), &line);
    assert!(output.status.success());
    assert_eq!(
        (carried, std::fs::read(&path).unwrap()),
        (Carried::default(), b"mine".to_vec())
    );
}

#[test]
fn a_command_line_of_ours_is_shown_as_what_it_stands_for() {
    let argv = bash().within(b"npm start", &Carried::default(), None, Carry::Everything);
    let mut shown = argv.join(&0);
    shown.push(0);
    assert_eq!(plain_command_line(&shown), b"bash\0-c\0npm start\0");
    for text in ["x='1'\n", "set -o xtrace\n", "set -o verbose\nset -o xtrace\n"] {
        let begin = Carried {
            text: text.into(),
            ..Carried::default()
        };
        let argv = bash().within(b"echo 'a b'", &begin, None, Carry::Nothing);
        assert_eq!(plain_command_line(&argv.join(&0)), b"bash\0-c\0echo 'a b'\0", "{text}");
    }
    assert_eq!(plain_command_line(b"sleep\x0010\0"), b"sleep\x0010\0");
    assert_eq!(plain_command_line(b""), b"");
}

/// What rules about commands take for data must not be run by what surrounds the line.
#[test]
fn no_variable_of_a_line_is_run_by_what_surrounds_it() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    let touch = format!("touch {}", mark.display());
    let number = format!("x[$({touch})]");
    let mut lines = vec![
        format!("declare -n PWD='{number}'"),
        format!("declare -n OLDPWD='{number}'"),
        format!("export A='{number}'; declare -i A 2>/dev/null; export A"),
        format!("PS4='$({touch})'"),
    ];
    for name in [
        "__fumehood_left",
        "__fumehood_line",
        "__fumehood_n",
        "__fumehood_b",
        "__fumehood_o",
        "__fumehood_done",
        "__fumehood_status",
        "__fumehood_mode",
        "__fumehood_names",
        "REPLY",
        "BASH_EXECUTION_STRING",
        "BASHOPTS",
    ] {
        lines.push(format!("{name}='{touch}'"));
        lines.push(format!("declare -n {name}='{number}'"));
        lines.push(format!("declare -n alias=v; declare -n v={name}; alias='{touch}'"));
        lines.push(format!("printf -v {name} %s '{touch}'"));
        lines.push(format!("set -- '{touch}'; export {name}='{touch}'"));
    }
    for word in [
        "{", "}", "if", "test", "exec", "printf", "declare", "builtin", "trap", "[[", "fi", "export",
    ] {
        lines.push(format!("shopt -s expand_aliases; alias {word}='{touch}; {word}'"));
    }
    for line in &lines {
        for carry in [Carry::Nothing, Carry::Environment, Carry::Everything] {
            let (_, after) = run_as(&bash(), &Carried::default(), line.as_bytes(), carry, &[]);
            assert!(!mark.exists(), "{line} ({carry:?}) was run");
            let text = String::from_utf8_lossy(&after.text).into_owned();
            run_as(&bash(), &after, b"true", carry, &[]);
            assert!(!mark.exists(), "{line} ({carry:?}) was run by the next line, of {text}");
        }
        run(&dash(), &Carried::default(), line);
        assert!(!mark.exists(), "{line} was run by sh");
    }
}

/// Whoever can write to the descriptor can say no more than a line can.
#[test]
fn what_is_forged_runs_nothing_that_is_not_in_the_text() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    let touch = format!("touch {}", mark.display());
    for name in ["__fumehood_line", "__fumehood_n", "__fumehood_b", "BASH_ENV", "REPLY"] {
        let forged = format!(
            "fumehood-2\0ddeclare -- {name}=\"{touch}\"\ndeclare -i n=\"x[\\$({touch})]\"\ndeclare -n r=\"x[\\$({touch})]\"\n\0f\0a\0end\0"
        );
        let left = Left::parse(forged.as_bytes()).unwrap();
        let carried = Carried::default().after(left, &base(), &base(), |_| false);
        let (output, _) = run_as(&bash(), &carried, b"echo innocent", Carry::Everything, &[]);
        assert_eq!(out(&output), "innocent\n", "{}", err(&output));
        assert!(!mark.exists(), "{name}: {}", String::from_utf8_lossy(&carried.text));
    }
    // Text that is no script by itself would be read together with the line by whoever judges both.
    for (text, whole) in [
        ("f () \n{ \n    echo f\n}\n", true),
        ("cat <<X\n", false),
        ("echo 'x\n", false),
        ("echo \\", false),
        ("if true; then\n", false),
        ("a=b () { :; }\n", false),
        ("a= () { :; }\n", false),
        ("f () \n{ \n    a[b () { :; }\n}\n", false),
        ("function a=b () \n{ \n    :\n}\n", true),
        ("a=()\nb+=()\ndeclare -a c=()\na-b () { :; }\n", true),
        ("# a comment", true),
        ("", true),
    ] {
        let bytes = ["fumehood-2\0d\0f", text, "\0a\0end\0"].concat();
        assert_eq!(
            Left::parse(bytes.as_bytes()).unwrap().is_understood(),
            whole,
            "{text:?}"
        );
    }
}

#[test]
fn thousands_of_variables_take_no_time() {
    let begun = std::time::Instant::now();
    let line = b"for i in $(seq 20000); do export w$i=; done";
    let (_, after) = run_as(&bash(), &Carried::default(), line, Carry::Everything, &[]);
    assert_eq!(after.variables.len(), 20_000);
    // The test is that it ends: with a look at each variable's name among all, it took minutes.
    println!("{:?}", begun.elapsed());
}
