//! Protected paths, judged from outside: what a command leaves in a workspace makes no program run there, and what it may do works as it
//! does without a sandbox.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use fumehood_tests::{House, Who};

use super::{builder, for_both, house};

mod programs;

/// The system's own: others may lie where the test's user cannot go.
pub(super) const PYTHON: &str = "/usr/bin/python3";

pub(super) fn ordinary() -> House {
    builder().who(Who::Ordinary).build()
}

/// A program outside, as the daemon's user, in a directory of the house.
fn outside(house: &House, directory: &Path, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", house.home())
        .env("GIT_EDITOR", "true");
    if fumehood_tests::is_root() {
        command.uid(house.uid()).gid(house.uid());
    }
    command.output().expect("a program of the system")
}

/// A shell script outside that must succeed.
pub(super) fn outside_ok(house: &House, script: &str) -> String {
    let output = outside(house, &house.workspace(), "/bin/sh", &["-ec", script]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A repository with one commit and a remote, in the workspace; git knows its user.
pub(super) fn with_repository(house: &House) {
    house.write(
        "home/.gitconfig",
        "[user]\n\tname = N\n\temail = e@e\n[init]\n\tdefaultBranch = main\n[safe]\n\tdirectory = *\n[advice]\n\tdetachedHead = false\n\
         [protocol \"file\"]\n\tallow = always\n",
    );
    outside_ok(
        house,
        "git init -q && echo a > a && git add a && git commit -qm a && git remote add origin https://h.example/a.git",
    );
}

/// Runs a script in which every line is tried, whatever becomes of those before.
pub(super) fn tried(house: &House, script: &str) -> String {
    let ended = house.sh(&format!("exec 2>&1\n{script}\ntrue"));
    assert_eq!(ended.code(), 0, "{} {}", ended.out(), ended.err());
    ended.out()
}

/// What people and their prompts do in a repository.
fn use_git_outside(house: &House, directory: &Path) {
    for line in [
        "status",
        "diff",
        "log -1",
        "add -A",
        "commit -q --allow-empty -m x",
        "checkout -q -b new-branch",
        "stash",
        "rebase --continue",
        "gc -q",
        "fetch -q",
        "worktree list",
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        outside(house, directory, "git", &arguments);
    }
}

#[test]
fn nothing_that_a_command_plants_runs_when_git_is_used_outside() {
    let plants = r#"
hook() { printf '#!/bin/sh\ntouch MARKER\n' > "$1" && chmod +x "$1"; }
CONF='[core]
	repositoryformatversion = 0
	fsmonitor = touch MARKER; false
	sshCommand = touch MARKER'
# Where it is.
for h in pre-commit post-checkout post-index-change post-commit reference-transaction; do hook .git/hooks/$h; done
echo "$CONF" >> .git/config; echo "$CONF" > .git/config; echo "$CONF" > .git/config.worktree
git config core.fsmonitor 'touch MARKER'; git config core.hooksPath h; git config alias.status '!touch MARKER'
echo "$CONF" > c && { mv c .git/config; ln -f c .git/config; cp c .git/config; mv -T --exchange c .git/config; }
mv .git g; mv .git/hooks .git/h2; rm -rf .git/hooks; ln -s ../x .git/hooks; rm .git/config
# By descriptors: opened to read, then a second time to write.
/usr/bin/python3 - <<'P'
import ctypes, os
C = ctypes.CDLL(None)
for flags in (os.O_RDONLY, os.O_RDONLY | os.O_CREAT, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW):
    for way in (b'/proc/self/fd/%d', b'/dev/fd/%d', b'/proc/thread-self/fd/%d', b'/proc/%d/fd/%%d' % os.getpid()):
        fd = os.open('.git/config', flags)
        new = C.open(way % fd, os.O_WRONLY | os.O_APPEND)
        if new >= 0:
            os.write(new, b'[core]\n\tfsmonitor = touch MARKER\n')
            os.close(new)
        C.truncate(way % fd, 0)
        C.fchmod(fd, 0o777)
# A directory that becomes a repository while descriptors into it are kept.
os.makedirs('later/hooks'); os.mkdir('later/refs')
hooks = os.open('later/hooks', os.O_RDONLY)
config = os.open('later/config', os.O_WRONLY | os.O_CREAT)
os.write(config, b'[core]\nrepositoryformatversion = 0\n')
open('later/HEAD', 'w').write('ref: refs/heads/main\n')
os.mkdir('later/objects')
os.write(config, b'\tfsmonitor = touch MARKER\n')
try:
    fd = os.open('pre-commit', os.O_WRONLY | os.O_CREAT, 0o777, dir_fd=hooks)
    os.write(fd, b'#!/bin/sh\ntouch MARKER\n')
except OSError: pass
# A file without a name gets one.
fd = os.open('.git', os.O_TMPFILE | os.O_RDWR, 0o755)
os.write(fd, b'#!/bin/sh\ntouch MARKER\n')
C.linkat(fd, b'', -100, b'.git/hooks/pre-commit', 0x1000)
C.linkat(-100, b'/proc/self/fd/%d' % fd, -100, b'.git/hooks/post-commit', 0x400)
P
# Repositories by shape, in several orders.
for first in HEAD objects refs hooks config; do
  d=shape-$first; mkdir $d
  part() { case $1 in HEAD) echo 'ref: refs/heads/main' > $d/HEAD;; hooks) mkdir -p $d/hooks; hook $d/hooks/post-checkout;; config) echo "$CONF" > $d/config;; *) mkdir -p $d/$1;; esac; }
  part $first; for p in config hooks HEAD refs objects; do [ $p = $first ] || part $p; done
done
mkdir s2 s2/refs s2/objects && echo 'ref: refs/heads/main' > s2/H && hook s2/hooks && { mv s2/H s2/HEAD; hook s2/hooks/x; }
# A linked worktree's files, moved to where another directory is their repository.
git init -q r && git -C r commit -q --allow-empty -m x && git -C r worktree add -q ../w
mkdir -p a2/b a2/hooks && cp -r r/.git/objects r/.git/refs a2/ && hook a2/hooks/pre-commit && echo "$CONF" > a2/config
mv r/.git/worktrees/w a2/b/w; cp -r r/.git/worktrees/w a2/b/w; mv r/.git/worktrees a2/b; rm -f w/.git; echo 'gitdir: ../a2/b/w' > w/.git
git clone -q --bare r q.git && git -C q.git worktree add -q ../w2 && rm q.git/HEAD; hook q.git/hooks/pre-commit; echo "$CONF" > q.git/config
# What a rebase would do next, and what would be written through links.
mkdir -p .git/rebase-merge && printf 'exec touch MARKER\n' > .git/rebase-merge/git-rebase-todo
printf '  x touch MARKER\n' > t && mv t .git/rebase-merge/git-rebase-todo
for f in head-name onto orig-head; do git rev-parse HEAD > .git/rebase-merge/$f; done; echo 1 > .git/rebase-merge/interactive
mkdir other && printf 'exec touch MARKER\n' > other/git-rebase-todo; mv other .git/rebase-merge2
rm -rf .git/logs && ln -s ../../home .git/logs; mkdir l && ln -s ../../home/.profile l/HEAD && mv l .git/logs
ln -s ../../home/.profile e && { mv e .git/COMMIT_EDITMSG; ln e .git/ORIG_HEAD; }
ls -d .git/hooks/pre-commit a2/b/w/commondir .git/logs/HEAD 2>/dev/null
"#;
    for_both(|house| {
        with_repository(house);
        house.write("home/.profile", "untouched\n");
        let marker = house.path("marker");
        let config = fs::read(house.workspace().join(".git/config")).unwrap();
        tried(house, &plants.replace("MARKER", &marker.display().to_string()));
        assert_eq!(fs::read(house.workspace().join(".git/config")).unwrap(), config);
        let todo = house.workspace().join(".git/rebase-merge/git-rebase-todo");
        assert!(!todo.exists(), "{}", fs::read_to_string(todo).unwrap());
        for place in ["", "later", "r", "w", "w2", "q.git", "s2", "a2", "a2/b/w"]
            .into_iter()
            .chain([
                "shape-HEAD",
                "shape-objects",
                "shape-refs",
                "shape-hooks",
                "shape-config",
            ])
        {
            let directory = house.workspace().join(place);
            if directory.is_dir() {
                use_git_outside(house, &directory);
                assert!(!marker.exists(), "something ran in `{place}`");
            }
        }
        assert_eq!(
            fs::read_to_string(house.home().join(".profile")).unwrap(),
            "untouched\n"
        );
    });
}

#[test]
fn what_the_configuration_names_is_protected_wherever_it_leads() {
    for_both(|house| {
        with_repository(house);
        outside_ok(
            house,
            "mkdir -p tools scripts .husky/_ editor && for f in tools/real scripts/hook .husky/pre-commit more editor/tasks.json; do echo old > $f; done
             ln -s tools/real fsm && ln -s ../../scripts/hook .git/hooks/post-merge && ln -s editor .vscode
             git config core.fsmonitor ./fsm && git config core.hooksPath .husky/_ && git config include.path ../more
             git config filter.x.clean './tools/missing %f'",
        );
        tried(
            house,
            "for f in fsm tools/real scripts/hook .husky/pre-commit .husky/new .husky/_/pre-commit more editor/tasks.json .vscode/new; do
               echo new > $f; echo new > n; mv n $f; rm -f $f; done
             mv tools t; mv scripts s; mv editor e; mv .husky h; rm -rf .vscode .husky; ln -sfn x .vscode; echo fine > tools/other",
        );
        let read = |name: &str| fs::read_to_string(house.workspace().join(name)).unwrap_or_default();
        for name in ["fsm", "scripts/hook", ".husky/pre-commit", "more", ".vscode/tasks.json"] {
            assert_eq!(read(name), "old\n", "{name}");
        }
        assert!(
            read(".husky/new").is_empty() && read(".husky/_/pre-commit").is_empty() && read("editor/new").is_empty()
        );
        assert_eq!(read("tools/other"), "fine\n");
    });
}

#[test]
fn two_runs_in_a_row_turn_no_push_away() {
    let house = ordinary();
    with_repository(&house);
    tried(
        &house,
        "git remote remove origin; git remote rename origin old; git config --unset remote.origin.url",
    );
    tried(
        &house,
        "git remote add origin https://evil.example/a.git; git remote set-url origin https://evil.example/a.git",
    );
    assert_eq!(
        outside_ok(&house, "git remote get-url --push origin"),
        "https://h.example/a.git\n"
    );
    // What a run adds it can rename and remove.
    let out = tried(
        &house,
        "git remote add x https://h.example/x.git && git remote rename x y && git remote remove y && echo done",
    );
    assert!(out.contains("done"), "{out}");
    house.end();
}

#[test]
fn git_works_in_a_guarded_workspace() {
    for_both(|house| {
        with_repository(house);
        let script = "set -e
            git switch -qc topic && echo b > b && git add b && git commit -qm b && git tag -m t v1 && git notes add -m n
            git switch -q main && echo c > c && git add c && git commit -qm c && git rebase -q main topic && git switch -q main
            git merge -q topic && echo d >> a && git stash -q && git stash pop -q && git checkout -q a
            git clone -q . ../$(basename $PWD)/copy && cp -a copy copied && git -C copied status --short
            git init -q --bare remote.git && git remote add local remote.git && git push -qu local main && git switch -qc tracking local/main
            git switch -q main && git branch -D tracking -q && git branch -d topic -q
            git worktree add -q -b side wt && echo s > wt/s && git -C wt add s && git -C wt commit -qm s && git worktree remove wt
            git -c protocol.file.allow=always submodule --quiet add $PWD/copy sub && git commit -qm sub && git submodule status >/dev/null
            git bisect start -q HEAD HEAD~2 >/dev/null && git bisect reset 2>&1 | cat && git config user.name M
            GIT_SEQUENCE_EDITOR=true git rebase -q -i HEAD~1 && git rebase -q --onto HEAD~1 HEAD~1
            git sparse-checkout set --cone x && git sparse-checkout disable && git gc -q && git repack -qad && git fsck --no-progress
            printf '[user]\\n\\temail = direct@e\\n' >> .git/config && test \"$(sleep 0.2; git config user.email)\" = direct@e
            rm -rf copied copy remote.git && echo done";
        // Each command on its own line, so that the first to fail is the last.
        let ended = house.sh(&script.replace(" && ", "\n"));
        assert!(ended.out().ends_with("done\n"), "{} {}", ended.out(), ended.err());
        let status = outside_ok(house, "git fsck --no-progress 2>&1 && git status --short");
        assert_eq!(status, "");
        // Nothing was left that the script did not make.
        let names = outside_ok(
            house,
            "ls -A . .git/hooks .git/rebase-merge 2>/dev/null | grep -v sample | tr '\\n' ' '",
        );
        assert!(names.contains(".gitmodules a b c sub"), "{names}");
    });
}

#[test]
fn configuration_that_a_program_writes_itself_is_judged_when_it_is_closed() {
    let house = ordinary();
    with_repository(&house);
    let config = house.workspace().join(".git/config");
    let ended = house.sh("printf '[pull]\\n\\trebase = true\\n' >> .git/config");
    ended.expect(0);
    assert!(
        fs::read_to_string(&config)
            .unwrap()
            .ends_with("[pull]\n\trebase = true\n")
    );
    let before = fs::read(&config).unwrap();
    let ended =
        house.sh("printf '[core]\\n\\tpager = x\\n' >> .git/config; : > .git/config; echo '[' > .git/config; true");
    ended.expect(0);
    assert_eq!(fs::read(&config).unwrap(), before);
    // A writer that closes it and then changes something finds it judged.
    let script = "import os\nfor i in range(200):\n\
        \x20fd = os.open('.git/config', os.O_WRONLY | os.O_APPEND); os.write(fd, b'[user]\\n\\tname = n%d\\n' % i); os.close(fd)\n\
        \x20os.utime('a')\n\
        \x20assert b'name = n%d' % i in open('.git/config', 'rb').read(), i\nprint('done')\n";
    house.write("work/writer.py", script);
    let ended = house.run(&[PYTHON, "writer.py"]);
    assert_eq!(ended.out(), "done\n", "{}", ended.err());
    // As many as one likes, up to a bound that says so.
    let script = "import os\nfds = []\ntry:\n while len(fds) < 1000: fds.append(os.open('.git/config', os.O_WRONLY | os.O_APPEND))\n\
        except OSError as e: print(len(fds), e.errno)\nopen('still', 'w').write('x')\nfor fd in fds: os.close(fd)\nos.close(os.open('.git/config', os.O_WRONLY))\nprint('done')\n";
    house.write("work/many.py", script);
    let ended = house.run(&[PYTHON, "many.py"]);
    assert_eq!(
        ended.out(),
        format!("64 {}\ndone\n", nix::libc::ENFILE),
        "{}",
        ended.err()
    );
    house.end();
}

#[test]
fn who_looks_from_outside_meanwhile_never_sees_a_hook_or_a_program() {
    let house = ordinary();
    with_repository(&house);
    let over = AtomicBool::new(false);
    let git = house.workspace().join(".git");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Between two renames there may be a moment without a file, never one with half of it.
                if let Ok(config) = fs::read_to_string(git.join("config")) {
                    assert!(
                        !config.contains("fsmonitor") && config.contains("[remote \"origin\"]"),
                        "{config}"
                    );
                }
                assert!(!git.join("hooks/pre-commit").exists() && !house.workspace().join(".vscode").exists());
            }
        });
        let script = "for i in $(seq 100); do
            cp .git/config c; printf '[core]\\n\\tfsmonitor = x\\n' >> c; mv -f c .git/config; cat c > .git/config
            echo x > .git/hooks/pre-commit; mv c .git/hooks/pre-commit; mkdir .vscode; ln -s . .vscode; git config user.name n$i; done";
        // Whatever becomes of it, the one who looks is not to go on for ever.
        let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            tried(&house, &format!("{{ {script}; }} > /dev/null 2>&1"))
        }));
        over.store(true, Ordering::Relaxed);
        assert_eq!(tried.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), "");
    });
    assert!(fs::read_to_string(git.join("config")).unwrap().contains("name = n100"));
    house.end();
}

#[test]
fn changes_of_files_answer_and_leave_what_they_do_outside() {
    let house = ordinary();
    let program = include_str!("guard/same_as_outside.py");
    house.write("work/program.py", program);
    house.make_directory("native", 0o755);
    house.write("native/program.py", program);
    for seed in ["1", "2", "3", "4"] {
        let arguments = ["-B", "program.py", seed, "700"];
        let native = outside(&house, &house.path("native"), PYTHON, &arguments);
        let native_out = String::from_utf8_lossy(&native.stdout).into_owned();
        assert!(native.status.success(), "{}", String::from_utf8_lossy(&native.stderr));
        let mut command = vec![PYTHON];
        command.extend(arguments);
        let ended = house.run(&command);
        ended.expect(0);
        for (line, (ours, theirs)) in ended.out().lines().zip(native_out.lines()).enumerate() {
            assert_eq!(ours, theirs, "seed {seed}, line {}", line + 1);
        }
        assert_eq!(ended.out().lines().count(), native_out.lines().count());
        outside_ok(
            &house,
            "chmod -R u+rwx . ../native; rm -rf top* b ../native/top* ../native/b",
        );
    }
    house.end();
}

#[test]
fn a_run_ends_in_time_whatever_waits_for_its_init() {
    let house = ordinary();
    let flood = "import os, threading\n\
        def go(n):\n\
        \x20while True:\n\
        \x20 try: os.close(os.open('f%d' % n, os.O_CREAT | os.O_WRONLY)); os.unlink('f%d' % n); os.rename('x', 'y')\n\
        \x20 except OSError: pass\n\
        for i in range(20):\n\
        \x20if os.fork() == 0:\n\
        \x20 for n in range(4): threading.Thread(target=go, args=(i * 4 + n,)).start()\n\
        \x20 break\n\
        else:\n\
        \x20go(-1)\n";
    house.write("work/flood.py", flood);
    let ended = house
        .run_with(&["--timeout", "2s"], &[PYTHON, "flood.py"])
        .start()
        .finish_within(std::time::Duration::from_secs(30));
    assert_eq!(ended.code(), 124, "{}", ended.err());
    // A lease would make init wait for its holder.
    let lease = "import fcntl, os\nopen('l', 'w').close()\nfd = os.open('l', os.O_RDONLY)\n\
        try: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK); print('taken')\nexcept PermissionError: print('refused')\n";
    house.write("work/lease.py", lease);
    assert_eq!(house.run(&[PYTHON, "lease.py"]).out(), "refused\n");
    house.end();
}

#[test]
fn the_limit_of_a_files_size_holds_for_what_init_makes_long() {
    let house = house();
    let policy = "version = 1\nname = \"small\"\n[filesystem]\nworkspace = \"write\"\nexecute = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\"]\n\
                  [limits]\nfile-size = \"1MiB\"\n";
    house.write("small.toml", policy);
    let path = house.path("small.toml");
    let script = "import os\nopen('f', 'w').close()\n\
        try: os.truncate('f', 1 << 30); print('made')\nexcept OSError as e: print(e.errno)\nos.truncate('f', 1000); print('done')\n";
    house.write("work/long.py", script);
    let ended = house
        .run_with(&["--policy", &path.display().to_string()], &[PYTHON, "long.py"])
        .finish();
    assert_eq!(ended.out(), format!("{}\ndone\n", nix::libc::EFBIG), "{}", ended.err());
    house.end();
}

#[test]
fn a_tree_of_hundreds_of_levels_is_made_and_removed() {
    let house = house();
    let make = "import os\nfor _ in range(500):\n    os.mkdir('d'); os.chdir('d')\nopen('last', 'w').close()\n";
    house.run(&[PYTHON, "-c", make]).expect(0);
    house.sh("rm -r d").expect(0);
    assert!(!house.workspace().join("d").exists());
    house.run(&[PYTHON, "-c", make]).expect(0);
    house.cli().args(["files", "rm", "-r", "d"]).finish().expect(0);
    assert!(!house.workspace().join("d").exists());
    house.end();
}

#[test]
fn what_becomes_a_repository_is_not_taken_for_one_that_had_its_number() {
    for_both(|house| {
        with_repository(house);
        // File systems give the number of what was removed to the next one, as ext4 does here.
        let script = "set -e; git worktree add -q -b side wt; N=$(stat -c %i .git/worktrees/wt); git worktree remove wt
            i=0; while [ $i -lt 300 ]; do i=$((i+1)); mkdir .git/x$i; [ $(stat -c %i .git/x$i) != $N ] || break; done
            git init -q --bare .git/x$i; git -C .git/x$i remote add o https://h.example/b.git; echo done";
        let ended = house.sh(script);
        assert!(ended.out().ends_with("done\n"), "{} {}", ended.out(), ended.err());
    });
}

#[test]
fn a_protected_file_is_not_written_by_a_name_that_it_had_before() {
    for_both(|house| {
        with_repository(house);
        outside_ok(
            house,
            "mkdir .vscode && printf '{}' > .vscode/tasks.json && echo old > plain \
             && ln .git/config one && ln .vscode/tasks.json two && ln plain three",
        );
        let workspace = house.workspace();
        let before = std::fs::read(workspace.join(".git/config")).unwrap();
        let script = "for f in one two; do echo evil > $f; echo evil >> $f; chmod 755 $f; ln $f $f-more; truncate -s 0 $f; done
            [ -w one ] || echo not writable; ln one other && echo evil >> other; echo new > three; cat plain; git config user.name me && git config user.name";
        let ended = house.run_with(&["-v"], &["sh", "-c", script]).finish();
        assert_eq!(ended.out(), "not writable\nnew\nme\n", "{}", ended.err());
        assert!(ended.err().contains("another name of .git/config"), "{}", ended.err());
        assert_eq!(std::fs::read(workspace.join("one")).unwrap(), before);
        assert_eq!(std::fs::read_to_string(workspace.join("two")).unwrap(), "{}");
        // The names themselves are nothing to protect.
        house.sh("rm one two").expect(0);
    });
}
