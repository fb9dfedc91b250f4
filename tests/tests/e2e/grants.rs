//! Each grant and restriction of the policy language on the real kernel, beside its twin in which it is the other way.

use std::fs;

use fumehood_tests::{Ended, House, Who, as_root_only};

use super::{builder, for_both};

/// What any program needs, and a name.
const PROGRAMS: &str = "execute = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/etc\"";

/// A policy file with these lines of `[filesystem]` and what follows them; `execute` lists are begun by [`PROGRAMS`].
fn policy(house: &House, filesystem: &str, rest: &str) -> String {
    let text = format!("version = 1\nname = \"grants\"\n[filesystem]\n{filesystem}\n{rest}");
    house.write("grants.toml", text).display().to_string()
}

fn sh(house: &House, policy: &str, script: &str) -> Ended {
    house
        .run_with(&["--policy", policy], &["/bin/sh", "-c", script])
        .finish()
}

/// A directory outside the workspace and the home, with a program, a script and a file in it.
fn place(house: &House) -> String {
    let place = house.make_directory("srv", 0o755);
    fs::copy("/bin/true", place.join("program")).unwrap();
    house.write("srv/script", "#!/bin/sh\necho ran\n");
    house.write("srv/file", "before");
    for name in ["program", "script"] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(place.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    place.display().to_string()
}

/// Tries to map a file as code; says how that went.
fn map_as_code(path: &str) -> String {
    format!(
        "python3 -c \"import mmap, os\nfd = os.open('{path}', os.O_RDONLY)\ntry: mmap.mmap(fd, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC); print('mapped')\nexcept OSError as e: print('refused')\""
    )
}

#[test]
fn what_is_read_is_not_executed_and_what_is_executed_is() {
    for_both(|house| {
        let srv = place(house);
        let script = format!(
            "cat {srv}/file; echo; {srv}/script || echo $?; {srv}/program && echo ok || echo $?; {}",
            map_as_code(&format!("{srv}/program"))
        );
        let read = policy(house, &format!("{PROGRAMS}]\nread = [\"{srv}\"]"), "");
        let ended = sh(house, &read, &script);
        assert_eq!(ended.out(), "before\n126\n126\nrefused\n", "{}", ended.err());
        // The dynamic loader maps the program as code: no way round.
        let loader = format!(
            "for l in /lib64/ld-linux-x86-64.so.2 /lib/ld-linux-aarch64.so.1; do test -e $l && $l {srv}/program; done"
        );
        assert_ne!(sh(house, &read, &loader).code(), 0);
        let execute = policy(house, &format!("{PROGRAMS}, \"{srv}\"]"), "");
        let ended = sh(house, &execute, &script);
        assert_eq!(ended.out(), "before\nran\nok\nmapped\n", "{}", ended.err());
        assert_ne!(sh(house, &execute, &format!("echo x > {srv}/file")).code(), 0);
    });
}

#[test]
fn what_is_written_is_not_executed_unless_that_is_said() {
    for_both(|house| {
        let srv = place(house);
        let opened = fs::metadata(&srv).unwrap();
        use std::os::unix::fs::{PermissionsExt, chown};
        chown(&srv, Some(house.uid()), None).unwrap();
        assert_eq!(opened.permissions().mode() & 0o777, 0o755);
        let script = format!("cp /bin/true {srv}/new && chmod 755 {srv}/new && {srv}/new && echo ran || echo $?");
        let write = policy(house, &format!("{PROGRAMS}]\nwrite = [\"{srv}\"]"), "");
        let ended = sh(house, &write, &script);
        assert_eq!(ended.out(), "126\n", "{}", ended.err());
        assert!(fs::metadata(format!("{srv}/new")).is_ok(), "it was written for good");
        let both = policy(house, &format!("{PROGRAMS}, \"{srv}\"]\nwrite = [\"{srv}\"]"), "");
        let ended = sh(house, &both, &script);
        assert_eq!(ended.out(), "ran\n", "{}", ended.err());
    });
}

#[test]
fn what_is_copied_on_write_changes_inside_and_not_outside() {
    for_both(|house| {
        let srv = place(house);
        use std::os::unix::fs::chown;
        for path in [srv.clone(), format!("{srv}/file")] {
            chown(path, Some(house.uid()), None).unwrap();
        }
        let script = format!("echo after > {srv}/file && echo x > {srv}/new && cat {srv}/file {srv}/new");
        let copied = policy(house, &format!("{PROGRAMS}]\ncopy-on-write = [\"{srv}\"]"), "");
        let ended = sh(house, &copied, &script);
        assert_eq!(ended.out(), "after\nx\n", "{}", ended.err());
        assert_eq!(fs::read_to_string(format!("{srv}/file")).unwrap(), "before");
        assert!(fs::metadata(format!("{srv}/new")).is_err());
        let write = policy(house, &format!("{PROGRAMS}]\nwrite = [\"{srv}\"]"), "");
        sh(house, &write, &script).expect(0);
        assert_eq!(fs::read_to_string(format!("{srv}/file")).unwrap(), "after\n");
    });
}

#[test]
fn what_is_read_only_in_the_workspace_stays_as_it_is_and_git_works_beside_it() {
    for_both(|house| {
        house.make_directory("work/sql", 0o755);
        house.write("work/sql/a", "before");
        let tries = "n=0; for c in 'echo x > sql/a' 'echo x > sql/b' 'mkdir sql/d' 'mv sql/a c' 'mv sql moved' 'rm -f sql/a' 'ln sql/a l' 'chmod 600 sql/a' 'truncate -s 0 sql/a' 'rm -rf sql'; \
                     do sh -c \"$c\" 2> /dev/null && echo \"$c\"; done; cat sql/a";
        let git = "export HOME=/tmp; git init -q repo && cd repo && echo x > f && git add f && git -c user.name=a -c user.email=a@b commit -qm x && git log --oneline | wc -l";
        let held = format!("{PROGRAMS}]\nworkspace = \"write\"\ntmp = true\n");
        let kept = policy(house, &format!("{held}read-only = [\"${{workspace}}/sql\"]"), "");
        let ended = sh(house, &kept, tries);
        assert_eq!(ended.out(), "before", "{}", ended.err());
        let ended = sh(house, &kept, git);
        assert_eq!(ended.out().trim(), "1", "{}", ended.err());
        assert_eq!(fs::read_to_string(house.workspace().join("sql/a")).unwrap(), "before");
        let open = policy(house, &held, "");
        sh(
            house,
            &open,
            "echo x > sql/a && mv sql/a c && mv sql moved && rm -r moved",
        )
        .expect(0);
    });
}

#[test]
fn patterns_hide_and_grant_what_they_find() {
    for_both(|house| {
        let script = "test -s /etc/ld.so.conf && echo conf; test -s /etc/ld.so.cache && echo cache; test -e /usr/lib && echo lib";
        let hidden = policy(house, &format!("{PROGRAMS}]\nhide = [\"/etc/ld.so.con?\"]"), "");
        let ended = sh(house, &hidden, script);
        assert_eq!(ended.out(), "cache\nlib\n", "{}", ended.err());
        let shown = policy(house, &format!("{PROGRAMS}]"), "");
        assert_eq!(sh(house, &shown, script).out(), "conf\ncache\nlib\n");
        let programs = "execute = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\"]\nread = [\"/etc/ld.so.cach?\"]";
        let granted = policy(house, programs, "");
        let ended = sh(house, &granted, script);
        assert_eq!(ended.out(), "cache\nlib\n", "{}", ended.err());
    });
}

/// The daemon's own walls keep it from listing most directories. A pattern there must not hide nothing in silence.
#[test]
fn patterns_are_looked_for_where_the_daemon_itself_may_list_nothing() {
    for_both(|house| {
        for name in ["a", "b"] {
            house.make_directory(&format!("home/.secret-{name}"), 0o755);
            house.write(&format!("home/.secret-{name}/x"), "hunter2\n");
        }
        let home = format!("{PROGRAMS}]\nhome = \"copy-on-write\"\n");
        let patterns = policy(house, &format!("{home}hide = [\"${{home}}/.secret-*\"]"), "");
        let ended = sh(house, &patterns, "cat ~/.secret-a/x ~/.secret-b/x || echo gone");
        assert_eq!(ended.out(), "gone\n", "{}", ended.err());
        let plain = policy(house, &home, "");
        assert_eq!(sh(house, &plain, "cat ~/.secret-a/x").out(), "hunter2\n");
        let granted = format!("{PROGRAMS}, \"${{home}}/.secret-?\"]\nhome = \"empty\"\n");
        let granted = policy(house, &granted, "");
        assert_eq!(sh(house, &granted, "cat ~/.secret-b/x").out(), "hunter2\n");
    });
}

/// What a restriction stands for has to be known; what a grant of something closed would give is nothing.
#[test]
fn a_pattern_for_what_the_user_may_not_list_refuses_the_run_where_it_restricts() {
    if !as_root_only("directories that are closed to a user") {
        return;
    }
    let house = builder().who(Who::Ordinary).build();
    // Root's own, below the user's.
    house.make_directory("home/closed", 0o755);
    let closed = house.home().join("closed");
    std::os::unix::fs::chown(&closed, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let home = format!("{PROGRAMS}]\nhome = \"copy-on-write\"\n");
    let hides = policy(&house, &format!("{home}hide = [\"${{home}}/closed/*\"]"), "");
    let ended = sh(&house, &hides, "true");
    assert_eq!((ended.code(), ended.out().as_str()), (125, ""), "{}", ended.err());
    let told = ended.err();
    assert!(
        told.contains("filesystem.hide") && told.contains("cannot list") && told.contains("Permission denied"),
        "{told}"
    );
    let grants = policy(&house, &format!("{PROGRAMS}, \"${{home}}/closed/*\"]\n"), "");
    sh(&house, &grants, "true").expect(0);
}

#[test]
fn a_list_of_restrictions_does_not_give_the_secrets_of_default_away() {
    for_both(|house| {
        house.make_directory("home/.ssh", 0o755);
        house.write("home/.ssh/key", "hunter2\n");
        let home = format!("{PROGRAMS}]\nhome = \"copy-on-write\"\n");
        let stated = policy(house, &format!("{home}hide = [\"/opt/nothing\"]"), "");
        assert_eq!(sh(house, &stated, "cat ~/.ssh/key").out(), "");
        let none = policy(house, &format!("{home}hide = []"), "");
        assert_eq!(sh(house, &none, "cat ~/.ssh/key").out(), "hunter2\n");
    });
}

#[test]
fn system_calls_are_denied_and_allowed_by_name() {
    for_both(|house| {
        let script = "python3 -c 'import ctypes; print(ctypes.CDLL(None).ptrace(0, 0, 0, 0))'";
        let tried = |syscalls: &str| {
            let policy = policy(house, &format!("{PROGRAMS}]"), &format!("[syscalls]\n{syscalls}"));
            sh(house, &policy, script).out()
        };
        assert_eq!(tried(""), "0\n");
        assert_eq!(tried("deny = [\"ptrace\"]\n"), "-1\n");
        assert_eq!(tried("profile = \"strict\"\n"), "-1\n");
        assert_eq!(tried("profile = \"strict\"\nallow = [\"ptrace\"]\n"), "0\n");
        assert_eq!(
            tried("profile = \"strict\"\nallow = [\"ptrace\"]\ndeny = [\"ptrace\"]\n"),
            "-1\n"
        );
    });
}

#[test]
fn what_is_removed_from_the_environment_no_command_has() {
    for_both(|house| {
        let held = format!("{PROGRAMS}]");
        let environment = "[environment]\npass = [\"PLAIN\", \"GONE\"]\nset = { GONE_TOO = \"x\", KEPT = \"y\" }\n";
        let run = |rest: &str, options: &[&str]| {
            let policy = policy(house, &held, rest);
            let options = [&["--policy", policy.as_str()], options].concat();
            let cli = house.run_with(&options, &["/bin/sh", "-c", "echo $PLAIN,$GONE,$GONE_TOO,$KEPT,$ASKED"]);
            cli.env("PLAIN", "p").env("GONE", "g").finish()
        };
        let removing = format!("{environment}remove = [\"gone*\"]\n");
        assert_eq!(run(environment, &["--env", "GONE=asked"]).out(), "p,asked,x,y,\n");
        assert_eq!(run(&removing, &["--env", "ASKED=z"]).out(), "p,,,y,z\n");
        let refused = run(&removing, &["--env", "GONE=asked"]);
        assert!(
            refused.err().contains("environment.remove") && refused.out().is_empty(),
            "{}",
            refused.err()
        );
    });
}

#[test]
fn a_policy_without_the_shell_runs_no_command_line() {
    for_both(|house| {
        let held = format!("{PROGRAMS}]");
        let refused = sh(house, &policy_of_tools(house, &held, "[\"test\", \"git\"]"), "echo ran");
        assert_eq!((refused.code(), refused.out().as_str()), (125, ""), "{}", refused.err());
        assert!(refused.err().contains("the tool `shell`"), "{}", refused.err());
        assert_eq!(
            sh(house, &policy_of_tools(house, &held, "[\"shell\"]"), "echo ran").out(),
            "ran\n"
        );
    });
}

fn policy_of_tools(house: &House, filesystem: &str, tools: &str) -> String {
    let text = format!("version = 1\nname = \"grants\"\ntools = {tools}\n[filesystem]\n{filesystem}\n");
    house.write("tools.toml", text).display().to_string()
}

#[test]
fn rules_about_commands_hold_through_a_shell() {
    for_both(|house| {
        let rules =
            "[[commands.rules]]\nprogram = \"rm\"\ndecision = \"deny\"\nreason = \"Nothing is removed here.\"\n";
        let ruled = policy(house, &format!("{PROGRAMS}]"), rules);
        let refused = sh(house, &ruled, "true; rm x");
        assert_eq!(refused.code(), 125);
        assert!(refused.err().contains("Nothing is removed here."), "{}", refused.err());
        sh(house, &ruled, "true; echo rm x").expect(0);
    });
}

#[test]
fn the_audit_log_keeps_of_a_command_line_what_the_policy_says() {
    for_both(|house| {
        let kept = |arguments: &str| {
            let audit = format!("[audit]\narguments = \"{arguments}\"\n");
            let policy = policy(house, &format!("{PROGRAMS}]"), &audit);
            house
                .run_with(&["--policy", &policy], &["/bin/echo", "a-word"])
                .finish()
                .expect(0);
            let records = house.records();
            let intent = records.iter().rev().find(|record| record["kind"] == "intent").unwrap();
            intent["argv"]
                .as_array()
                .unwrap()
                .iter()
                .map(|word| word.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(kept("full"), ["/bin/echo", "a-word"]);
        assert_eq!(kept("program"), ["/bin/echo", "[1 arguments not kept]"]);
        let digest = kept("digest");
        assert!(digest.len() == 1 && digest[0].starts_with("sha256:"), "{digest:?}");
        let log = fs::read_to_string(house.audit()).unwrap();
        assert_eq!(log.matches("a-word").count(), 1, "only where all is kept");
    });
}

#[test]
fn a_preferred_protection_that_is_missing_is_told_in_one_line() {
    let house = super::builder().without("landlock").build();
    let held = format!("{PROGRAMS}]");
    let preferring = policy(&house, &held, "[protections]\npreferred = [\"filesystem-rights\"]\n");
    let run = |options: &[&str], policy: &str| {
        let options = [&["--policy", policy], options].concat();
        house.run_with(&options, &["/bin/echo", "ran"]).finish()
    };
    let told = run(&[], &preferring);
    assert_eq!(told.out(), "ran\n");
    assert!(
        told.err()
            .contains("runs without what policy grants prefers: filesystem rights ("),
        "{}",
        told.err()
    );
    assert_eq!(told.err().lines().count(), 1, "{}", told.err());
    assert_eq!(run(&["-q"], &preferring).err(), "");
    assert!(run(&["-v"], &preferring).err().contains(", preferred"));
    let silent = policy(&house, &held, "");
    assert_eq!(run(&[], &silent).err(), "");
    house.end();
}

/// What is hidden in a tree that is written: the one who makes changes there sees what the mask covers.
#[test]
fn what_is_hidden_in_a_written_place_is_neither_read_nor_changed_nor_brought_elsewhere() {
    for_both(|house| {
        let place = house.make_directory("data", 0o755);
        house.make_directory("data/sub/keys", 0o755);
        for name in ["data/key", "data/sub/token", "data/sub/keys/id", "data/plain"] {
            house.write(name, "hunter2\n");
        }
        std::os::unix::fs::symlink("sub", place.join("link")).unwrap();
        let place = place.display();
        let tries = r#"
import ctypes, os, sys
root = sys.argv[1]
def attempt(what, call):
    try: print(what, call())
    except OSError as error: print(what, "refused")
read = lambda path, flags: os.read(os.open(root + path, flags), 20)
for name in ["/key", "/sub/token", "/link/token", "/sub/keys/id"]:
    attempt("read", lambda: read(name, os.O_RDONLY))
    attempt("open", lambda: read(name, os.O_RDWR))
    attempt("append", lambda: os.write(os.open(root + name, os.O_WRONLY | os.O_APPEND), b"x"))
    attempt("create", lambda: read(name, os.O_RDWR | os.O_CREAT))
    attempt("truncate", lambda: os.truncate(root + name, 0))
    attempt("link", lambda: (os.link(root + name, root + "/second"), read("/second", os.O_RDONLY)))
    attempt("rename", lambda: (os.rename(root + name, root + "/second"), read("/second", os.O_RDONLY)))
    attempt("chmod", lambda: os.chmod(root + name, 0o777))
    attempt("remove", lambda: os.unlink(root + name))
    attempt("replace", lambda: os.rename(root + "/plain", root + name))
attempt("move", lambda: (os.rename(root + "/sub", root + "/moved"), read("/moved/token", os.O_RDWR)))
swap = lambda: ctypes.CDLL(None, use_errno=True).renameat2(-100, (root + "/sub").encode(), -100, (root + "/plain").encode(), 2)
print("swap", "refused" if swap() != 0 else read("/plain/token", os.O_RDWR))
print("ok", read("/plain", os.O_RDWR))
"#;
        house.write("work/tries.py", tries);
        let hides = format!("hide = [\"{place}/key\", \"{place}/link/token\", \"{place}/sub/keys\", \"{place}/new\"]");
        for unguarded in ["", "\ngit = \"open\"\nprotect = []"] {
            let written = format!("{PROGRAMS}]\nworkspace = \"write\"\nwrite = [\"{place}\"]\n{hides}{unguarded}");
            let policy = policy(house, &written, "");
            let script = format!("python3 tries.py {place}; echo made > {place}/new || echo not made");
            let ended = sh(house, &policy, &script);
            ended.expect(0);
            let told = ended.out();
            let got: Vec<_> = told.lines().filter(|line| !line.ends_with(" refused")).collect();
            assert_eq!(got, ["ok b'hunter2\\n'", "not made"], "{told}{}", ended.err());
            for name in ["key", "sub/token", "sub/keys/id", "plain"] {
                let kept = fs::read_to_string(house.path(&format!("data/{name}"))).unwrap();
                assert_eq!(kept, "hunter2\n", "{name}");
            }
            assert!(!house.path("data/new").exists() && !house.path("data/second").exists());
        }
        // A place that is hidden as a whole gives nothing of what is written in it.
        let whole = format!("{PROGRAMS}]\nworkspace = \"write\"\nwrite = [\"{place}/sub\"]\nhide = [\"{place}\"]");
        let whole = policy(house, &whole, "");
        let ended = sh(house, &whole, &format!("python3 tries.py {place} | grep -v refused"));
        assert_eq!(ended.out(), "", "{}", ended.err());
    });
}
