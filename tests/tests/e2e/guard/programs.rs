//! What configuration makes git run outside, wherever that configuration is and whatever is not there yet.

use std::fs;

use super::{ordinary, outside, outside_ok, tried, with_repository};
use crate::for_both;

/// A script that notes that it ran.
const EVIL: &str =
    "evil() { mkdir -p \"$(dirname \"$1\")\"; printf '#!/bin/sh\\ntouch MARKER\\n' > \"$1\"; chmod +x \"$1\"; }\n";

#[test]
fn nothing_runs_by_configuration_of_other_repositories_or_of_the_user() {
    for_both(|house| {
        with_repository(house);
        let marker = house.path("marker");
        let script = |text: &str| format!("{EVIL}{text}").replace("MARKER", &marker.display().to_string());
        // Hooks kept in the project, a nested repository, a submodule, an existing worktree, and programs that are not there yet.
        outside_ok(
            house,
            "hook() { mkdir -p $1; printf '#!/bin/sh\\n' > $1/pre-commit; chmod +x $1/pre-commit; }
             hook .husky; git add -A; git commit -qm husky; git config core.hooksPath .husky
             git config core.fsmonitor ./tools/fsm.sh
             git worktree add -q -b f .wt/f; git -c core.hooksPath= clone -q . sub; hook sub/.husky; git -C sub config core.hooksPath .husky
             git -c core.hooksPath= clone -q . ../home/lib; git -c core.hooksPath= submodule --quiet add $PWD/../home/lib sm; git -c core.hooksPath= commit -qm sm
             git -C sm config core.hooksPath .myhooks; git -C sm config alias.x '!./tools/x'",
        );
        outside_ok(house, "mkdir -p ../home/.config/git");
        house.write(
            "home/.config/git/config",
            "[core]\n\thooksPath = .userhooks\n[diff]\n\texternal = ./ext/diff\n",
        );
        tried(
            house,
            &script(
                "git config core.worktree $PWD/moved; git -C sub config core.worktree $PWD/moved; git -C sm config core.worktree ../../../moved
                 git config core.bare true; git -C sm config core.bare true
                 evil moved/.husky/pre-commit; evil moved/.myhooks/pre-commit; cp sm/.git moved/.git; git config -f .git/modules/sm/config core.worktree ../../../moved
                 for d in . .wt/f sub sm; do evil $d/.husky/pre-commit; evil $d/.userhooks/pre-commit; evil $d/.myhooks/pre-commit; evil $d/tools/fsm.sh
                   evil $d/ext/diff; evil n; mv -f n $d/.userhooks; done
                 g=$(cat sm/.git); rm sm/.git; evil sm/.myhooks/pre-commit; evil sm/tools/x; echo $g > sm/.git
                 mv sub sub2; evil sub2/.husky/pre-commit; mv sub2 sub
                 evil q/.husky/pre-commit; rm -rf sub/.husky; mv q/.husky sub/.husky; ln -s ../q/.husky sub/.husky",
            ),
        );
        for directory in ["", ".wt/f", "sub", "sm"] {
            let directory = house.workspace().join(directory);
            for line in ["status", "commit -q --allow-empty -m x", "diff HEAD", "x"] {
                outside(house, &directory, "git", &line.split(' ').collect::<Vec<_>>());
                assert!(!marker.exists(), "git {line} in {}", directory.display());
            }
            // It is still a working tree.
            let status = outside(house, &directory, "git", &["rev-parse", "--is-inside-work-tree"]);
            assert_eq!(
                String::from_utf8_lossy(&status.stdout),
                "true\n",
                "{}",
                directory.display()
            );
        }
        // Work goes on there, and what was met can be removed.
        let work =
            "echo w > .wt/f/w && git -C .wt/f add w && git -C .wt/f commit -qm w && git worktree remove --force .wt/f
            echo s > sub/s && git -C sub add s && rm -rf sub && git clone -q . sub && echo done";
        let ended = house.sh(&work.replace('\n', " && "));
        assert!(ended.out().ends_with("done\n"), "{} {}", ended.out(), ended.err());
    });
}

#[test]
fn a_workspace_below_its_repositorys_root_holds_no_program_of_it() {
    let house = ordinary();
    with_repository(&house);
    let marker = house.path("marker");
    outside_ok(
        &house,
        "mkdir -p frontend/.husky && printf '#!/bin/sh\\n' > frontend/.husky/pre-commit && chmod +x frontend/.husky/pre-commit
         git add -A && git commit -qm h && git config core.hooksPath frontend/.husky && git config core.fsmonitor frontend/tools/fsm",
    );
    let frontend = house.workspace().join("frontend");
    let evil = format!("{EVIL}evil .husky/pre-commit; evil tools/fsm; echo fine > other; true")
        .replace("MARKER", &marker.display().to_string());
    let command = house.run_with(
        &["--workspace", &frontend.display().to_string()],
        &["/bin/sh", "-c", &evil],
    );
    command.finish().expect(0);
    for line in ["status", "commit -q --allow-empty -m x"] {
        outside(&house, &frontend, "git", &line.split(' ').collect::<Vec<_>>());
    }
    assert!(!marker.exists());
    assert!(frontend.join("other").exists() && !frontend.join("tools/fsm").exists());
    house.end();
}

#[test]
fn what_is_unfinished_runs_nothing_when_it_is_continued_and_removed_configuration_is_remembered() {
    let house = ordinary();
    with_repository(&house);
    let marker = house.path("marker");
    outside_ok(
        &house,
        "echo b > a && git commit -qam b && git checkout -q -b side HEAD~1 && echo c > a && git commit -qam c
         git clone -q . ../home/lib && git submodule --quiet add $PWD/../home/lib sm && git commit -qm sm && git -C sm remote set-url origin https://good.example/s.git",
    );
    let plant = format!(
        "{EVIL}evil evil; mkdir -p git-merge-x
         git cherry-pick main; mkdir -p .git/sequencer; printf '[options]\\n\\tstrategy = x/../evil\\n' > .git/sequencer/opts
         git rev-parse HEAD > .git/sequencer/head; git log -1 --format='pick %H x' main > .git/sequencer/todo
         printf '[options]\\n\\tstrategy = x/../evil\\n' > o; mv o .git/sequencer/opts; mkdir s; cp .git/sequencer/* s; echo '[options] strategy = x/../evil' > s/opts
         rm -rf .git/sequencer; mv s .git/sequencer
         config=.git/modules/sm/config; sed s/good/evil/ $config > n; rm -f $config; cp n $config; cp $config c || true"
    );
    tried(&house, &plant.replace("MARKER", &marker.display().to_string()));
    // What the first run left, the second uses.
    tried(
        &house,
        "git -C sm remote add origin https://evil.example/s.git; cp n .git/modules/sm/config; git config -f .git/modules/sm/config remote.origin.url https://evil.example/s.git",
    );
    let config = fs::read_to_string(house.workspace().join(".git/modules/sm/config")).unwrap_or_default();
    assert!(!config.contains("evil.example"), "{config}");
    tried(
        &house,
        "cd .git/modules/sm; mv HEAD h; rm -f config; cp ../../../n config; mv h HEAD",
    );
    outside(&house, &house.workspace(), "git", &["cherry-pick", "--continue"]);
    outside_ok(&house, "git cherry-pick --quit; git checkout -q -f side");
    tried(
        &house,
        "git rebase main; echo x/../evil > .git/rebase-merge/strategy; echo x/../evil > n; mv n .git/rebase-merge/strategy
         echo \"'--build-fake-ancestor=$PWD/planted'\" > .git/rebase-merge/apply-opt",
    );
    outside_ok(&house, "echo m > a && git add a");
    outside(&house, &house.workspace(), "git", &["rebase", "--continue"]);
    assert!(!marker.exists());
    // A directory without HEAD is nobody's repository, whatever lies in it.
    let remotes = outside(&house, &house.workspace().join("sm"), "git", &["remote", "-v"]);
    assert!(!String::from_utf8_lossy(&remotes.stdout).contains("evil.example"));
    house.end();
}

#[test]
fn shared_repositories_strategies_and_scalar_work_and_a_refused_exec_says_what_to_do() {
    let house = ordinary();
    with_repository(&house);
    let ended = house.sh(
        "set -e
         git init -q --shared made; git init -q --bare --shared=group made.git; git clone -q --bare . bare/.git
         git init -q --separate-git-dir=apart tree; git -C tree status --short
         git switch -qc topic; echo t > t; git add t; git commit -qm t; git switch -q main; echo u > u; git add u; git commit -qm u
         git rebase -q -s ort -X ours main topic; git rebase -q --apply --whitespace=nowarn HEAD~1; git rebase -q -s recursive -X theirs HEAD~1
         git switch -q main; git cherry-pick --strategy=ort -X theirs topic
         git clone -q . copy; git -c protocol.file.allow=always submodule --quiet add $PWD/copy sub
         git commit -qm sub; git mv sub sub2; git commit -qm mv; git submodule --quiet deinit -f sub2
         git submodule --quiet update --init; git -C sub2 sparse-checkout set x; git -C sub2 sparse-checkout disable; git -C sub2 status --short; echo done",
    );
    assert!(ended.out().ends_with("done\n"), "{} {}", ended.out(), ended.err());
    let scalar = house.sh("scalar register .");
    assert!(!scalar.err().contains("could not configure"), "{}", scalar.err());
    assert_eq!(outside_ok(&house, "git config gui.gcwarning"), "false\n");
    let refused = house.sh("git config core.sharedRepository group");
    assert_ne!(refused.code(), 0, "{}", refused.out());
    let exec = house.sh("git rebase -x true HEAD~1");
    house.sh("git rebase --abort").expect(0);
    assert!(exec.err().contains("rebase --abort"), "{}", exec.err());
    outside_ok(&house, "test ! -e .git/rebase-merge");
    house.end();
}
