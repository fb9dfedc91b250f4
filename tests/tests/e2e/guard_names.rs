//! Protected paths: names that come to mean something by several steps, and runs that share a workspace. Judged from outside.

use std::path::Path;

use fumehood_tests::House;

use super::guard::{PYTHON, ordinary, outside_ok, tried, with_repository};

/// The lines of a script's output, which are names of what should not be there.
#[track_caller]
fn none(house: &House, script: &str) {
    assert_eq!(outside_ok(house, script), "");
}

#[test]
fn a_name_of_several_parts_is_protected_before_it_is_there() {
    let house = ordinary();
    with_repository(&house);
    outside_ok(
        &house,
        "git config core.hooksPath .config/husky && git init -q n && git -C n commit -q --allow-empty -m n",
    );
    let marker = house.path("marker");
    let plants = r#"
for d in . n; do
  mkdir -p $d/gh/hooks && echo x > $d/gh/hooks/h.json && mv $d/gh $d/.github; mv -T $d/gh $d/.github
  mkdir $d/e && mv -T --exchange $d/gh $d/e && mv $d/e $d/.github; ln -s gh $d/.github
done
mkdir -p c/husky && printf '#!/bin/sh\ntouch MARKER\n' > c/husky/pre-commit && chmod +x c/husky/pre-commit
mv c .config; ln -s c .config; cp -r c .config; mkdir d && ln -s ../c/husky d/husky && mv d .config
mkdir -p .github/workflows .config/other && echo fine > .github/workflows/ci.yml && echo fine > .config/other/x
"#;
    tried(&house, &plants.replace("MARKER", &marker.display().to_string()));
    outside_ok(&house, "git commit -q --allow-empty -m x");
    assert!(!marker.exists());
    none(
        &house,
        "ls -d .github/hooks n/.github/hooks .config/husky 2>/dev/null || true",
    );
    assert_eq!(
        outside_ok(&house, "cat .github/workflows/ci.yml .config/other/x"),
        "fine\nfine\n"
    );
    house.end();
}

#[test]
fn what_was_a_repositorys_root_keeps_its_names_and_a_new_one_is_looked_through() {
    let house = ordinary();
    with_repository(&house);
    outside_ok(
        &house,
        "git init -q src && git -C src commit -q --allow-empty -m s && git submodule --quiet add $PWD/src sm && git init -q real && mkdir later
         git -C sm status > /dev/null && git init -q moved",
    );
    // A run that is not told apart from what there was before needs a file system that knows when things were made.
    let out = tried(
        &house,
        r#"
plant() { mkdir $1/.vscode 2>/dev/null && echo x > $1/.vscode/tasks.json; }
g=$(cat sm/.git); rm sm/.git; plant sm; mkdir x x/.vscode && echo x > x/.vscode/tasks.json && mv x/.vscode sm; echo "$g" > sm/.git; plant sm
cp -r real/.git kept; rm -rf real/.git; plant real; cp -r kept real/.git; plant real
mv moved away; mkdir moved; plant moved; mkdir y y/.vscode; mv y moved2; rmdir moved; mv moved2 moved; plant away
mkdir later/.vscode && echo x > later/.vscode/tasks.json
mkdir app app/.vscode && echo x > app/.vscode/extensions.json && git init -q app && echo made
git init -q with && mkdir with/.vscode && echo x > with/.vscode/s && git clone -q with cloned && echo cloned
"#,
    );
    assert!(out.contains("made\n") && out.contains("cloned\n"), "{out}");
    tried(
        &house,
        "git init -q later; mkdir later/.git; echo gitdir: ../kept > later/.git",
    );
    none(
        &house,
        "ls -d sm/.vscode real/.vscode moved/.vscode away/.vscode later/.git 2>/dev/null || true",
    );
    house.end();
}

/// Makes what the other takes for its chance, for some seconds; tells how often it made it, and in the last second.
const RACER: &str = "import os, sys, time
name, other, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
end = time.monotonic() + seconds
made = late = 0
while time.monotonic() < end:
    try: os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o755))
    except OSError: continue
    made += 1
    late += end - time.monotonic() < 1
    if os.path.exists(other):
        time.sleep(0.005)
        if os.path.exists(other) and os.path.exists(name): print('won'); sys.exit(1)
    os.unlink(name)
print(made > 100, late > 50)
";

#[test]
fn runs_in_one_workspace_make_one_change_at_a_time_and_both_get_on() {
    let house = ordinary();
    house.write("work/race.py", RACER);
    outside_ok(&house, "mkdir -p R/objects R/refs R/hooks");
    let (whole, part) = (house.workspace(), house.workspace().join("R"));
    outside_ok(&house, "cp race.py R");
    let racer = |directory: &Path, limit: &str, name: &str, other: &str, seconds: &str| {
        let workspace = directory.display().to_string();
        house
            .run_with(
                &["--workspace", &workspace, "--timeout", limit],
                &[PYTHON, "race.py", name, other, seconds],
            )
            .current_dir(directory)
            .start()
    };
    let hook = racer(&whole, "60s", "R/hooks/post-checkout", "R/HEAD", "4");
    // In a part of the other's workspace.
    let head = racer(&part, "60s", "HEAD", "hooks/post-checkout", "4");
    // It is killed amid its changes.
    let killed = racer(&whole, "2s", "k", "none", "9");
    for racer in [hook, head] {
        let ended = racer.finish();
        assert_eq!(ended.out(), "True True\n", "{}", ended.err());
    }
    assert_eq!(killed.finish().code(), 124);
    house.end();
}

#[test]
fn calls_that_no_file_system_outside_would_show_are_answered_all_the_same() {
    let house = ordinary();
    let script = "import ctypes, os
C = ctypes.CDLL(None, use_errno=True)
open('a', 'w').close()
print(C.renameat2(-100, b'a', -100, b'zz', 4), ctypes.get_errno(), os.listdir('.'))
for n in range(60):
    name = chr(97 + n % 26) * 100
    os.mkdir(name); os.chdir(name)
with open('deep', 'w') as file: file.write('x')
os.rename('deep', 'down'); os.chmod('down', 0o600); print(open('down').read())
os.mkdir('.git'); os.mkdir('.git/hooks')
try: open('.git/hooks/pre-commit', 'w').close()
except OSError as error: print(error.errno)
";
    house.write("work/deep.py", script);
    let ended = house.run(&[PYTHON, "deep.py"]);
    assert_eq!(
        ended.out(),
        "-1 22 ['a', 'deep.py']\nx\n1\n".replace("'a', 'deep.py'", &listed(&ended.out())),
        "{}",
        ended.err()
    );
    let ended = house.sh("rm -rf aaaa* && ls");
    assert_eq!(
        (ended.code(), ended.out().as_str()),
        (0, "a\ndeep.py\n"),
        "{}",
        ended.err()
    );
    house.end();
}

/// The two names in whichever order the directory has them.
fn listed(out: &str) -> String {
    match out.contains("['deep.py', 'a']") {
        true => "'deep.py', 'a'".to_owned(),
        false => "'a', 'deep.py'".to_owned(),
    }
}

#[test]
fn what_was_dropped_or_could_not_be_written_is_told() {
    let house = ordinary();
    with_repository(&house);
    let ended = house.sh("printf '[alias]\\n\\tst = !x\\n' >> .git/config");
    assert_eq!(ended.code(), 0);
    let told = ended.err();
    assert!(
        told.contains("denied: keep ") && told.contains("what was written is dropped"),
        "{told}"
    );
    let ended = house.run_with(&["--policy", "locked"], &["touch", "x"]).finish();
    let path = house.workspace().join("x");
    let told = ended.err();
    assert!(
        told.contains(&format!("probably denied: write {}", path.display())),
        "{told}"
    );
    let ended = house.sh("rm .git/config; false");
    assert!(!ended.err().contains("can only be a file"), "{}", ended.err());
    house.end();
}

#[test]
fn neither_an_index_nor_a_resolution_leads_git_to_its_own_files() {
    let house = ordinary();
    with_repository(&house);
    // Git adds no such name, but believes an index that has one, and writes it at the next checkout.
    let hook = "mkdir -p zgit/hooks && printf '#!/bin/sh\\ntouch planted\\n' > zgit/hooks/post-checkout && chmod +x zgit/hooks/post-checkout\n\
                git add zgit && LC_ALL=C sed 's,zgit/hooks,.git/hooks,' .git/index > evil && git rm -rqf zgit\n";
    let out = tried(
        &house,
        &format!(
            "{hook}mv evil .git/index; cp evil copied; cat copied > .git/index\n\
             git init -q inner && cp copied inner/.git/i; mv inner/.git/i inner/.git/index\n\
             mkdir shape shape/objects shape/refs; cp copied shape/index; echo ref: refs/heads/x > shape/HEAD"
        ),
    );
    assert!(out.contains("Operation not permitted"), "{out}");
    // The next commit would write what was resolved before, to wherever the list says.
    let id = "0123456789012345678901234567890123456789";
    let out = tried(
        &house,
        &format!(
            "mkdir -p .git/rr-cache/{id}; cp .git/config .git/rr-cache/{id}/preimage\n\
             (cat .git/config; printf '[core]\\n\\tfsmonitor = ./evil\\n') > .git/rr-cache/{id}/postimage\n\
             printf '{id}.-1\\t.git/config\\0' > n; mv n .git/MERGE_RR; printf '{id}\\t.git/config\\0' > .git/MERGE_RR"
        ),
    );
    assert!(out.contains("Operation not permitted"), "{out}");
    outside_ok(
        &house,
        "test ! -e inner/.git/index; test ! -e shape/HEAD; rm -rf copied evil n inner shape; git checkout -q .; git checkout -q -b other; \
         git add -A; git commit -q --allow-empty -m x; git status; \
         test ! -e planted; test ! -e .git/hooks/post-checkout; ! grep fsmonitor .git/config",
    );
    // What git writes itself it still writes.
    let ended = house.sh(
        "git switch -q -c one && echo 1 > a && git commit -qam 1 && git switch -q -c two HEAD~ && echo 2 > a && git commit -qam 2\n\
         git config rerere.enabled true; git merge -q one; echo 12 > a && git add a && git commit -qm m && git status --short && git stash list\n\
         git update-index --split-index && echo 3 > b && git add b && git commit -qm b && git status --short",
    );
    assert_eq!(ended.code(), 0, "{} {}", ended.out(), ended.err());
    outside_ok(&house, "git fsck --no-dangling; test -z \"$(git status --short)\"");
    house.end();
}
