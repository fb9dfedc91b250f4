//! `fumehood policy learn`: what a command asks for becomes a policy under which it passes, and nothing of learning stays.

use fumehood_tests::{Cli, Ended, House, not_run};

use super::{for_both, house};

fn learn(house: &House, options: &[&str], command: &[&str]) -> Cli {
    let options = options.iter().copied();
    house.cli().current_dir(&house.workspace()).args(
        ["policy", "learn"]
            .into_iter()
            .chain(options)
            .chain(["--"])
            .chain(command.iter().copied()),
    )
}

fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The keys of a proposal.
fn proposal(ended: &Ended) -> toml::Table {
    ended
        .out()
        .parse()
        .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", ended.out(), ended.err()))
}

#[test]
fn a_command_is_watched_proposed_for_and_proved_and_nothing_of_it_stays() {
    for_both(|house| {
        house.write("work/input", "x");
        let before = names(&house.workspace());
        let script = "cat input > output; mktemp > /dev/null; mkdir -p ~/made && echo y > ~/made/file; cat ~/.ssh/id 2>/dev/null; ls ~/settings";
        house.make_directory("home/settings", 0o755);
        house.write("home/settings/tool.conf", "z");
        let ended = learn(house, &["--name", "small"], &["sh", "-c", script]).finish();
        ended.expect(0);
        assert!(ended.err().contains("proved: under the proposal"), "{}", ended.err());
        assert!(
            ended.err().contains("${home}/.ssh/id (cat): a secret"),
            "{}",
            ended.err()
        );
        let proposal = proposal(&ended);
        assert_eq!(proposal["name"].as_str(), Some("small"));
        let filesystem = proposal["filesystem"].as_table().unwrap();
        assert_eq!(filesystem["workspace"].as_str(), Some("write"));
        assert_eq!(filesystem["home"].as_str(), Some("empty"));
        assert_eq!(filesystem["tmp"].as_bool(), Some(true));
        assert_eq!(proposal["network"]["mode"].as_str(), Some("none"));
        let list = |key: &str| -> Vec<_> {
            let paths = filesystem[key].as_array().unwrap().iter();
            paths.map(|path| path.as_str().unwrap().to_owned()).collect()
        };
        let (read, execute) = (list("read"), list("execute"));
        assert!(read.contains(&"${home}/settings".to_owned()), "{read:?}");
        assert!(execute.contains(&"/usr".to_owned()), "{execute:?}");
        assert!(
            !read
                .iter()
                .chain(&execute)
                .any(|path| path.contains(".ssh") || path == "${home}"),
            "{read:?} {execute:?}"
        );
        assert_eq!(
            names(&house.workspace()),
            before,
            "learning leaves nothing in the workspace"
        );
        assert!(!house.home().join("made").exists());
        // Both runs are in the log, marked.
        let learning = house
            .records()
            .into_iter()
            .filter(|record| record.to_string().contains("fumehood.learning"))
            .count();
        assert!(learning >= 2, "{:?}", house.records());
    });
}

#[test]
fn a_proposal_carries_the_work_it_was_learnt_from() {
    let missing = ["make", "cc", "python3"].into_iter().find(|program| {
        !["/usr/bin", "/usr/local/bin", "/bin"]
            .iter()
            .any(|directory| std::path::Path::new(directory).join(program).exists())
    });
    if let Some(program) = missing {
        return not_run("learning of make and python", &format!("there is no {program}"));
    }
    for_both(|house| {
        house.write(
            "work/Makefile",
            "all: main\n\t./main\n\tpython3 -m unittest -q\nmain: main.c\n\tcc -o $@ $<\n",
        );
        house.write("work/main.c", "int main(void) { return 0; }\n");
        house.write(
            "work/test_it.py",
            "import socket, unittest\nclass T(unittest.TestCase):\n    def test(self):\n        s = socket.create_server(('127.0.0.1', 0))\n        socket.create_connection(s.getsockname()).close()\n        s.close()\n",
        );
        let file = house.make_directory("proposals", 0o755).join("learnt.toml");
        let output = file.to_str().unwrap();
        learn(house, &["-o", output], &["make", "-s"]).finish().expect(0);
        assert!(!house.workspace().join("main").exists());
        let text = std::fs::read_to_string(&file).expect("the proposal");
        assert!(text.contains("mode = \"loopback\" # python3"), "{text}");
        // An ordinary run under it, whose changes stay.
        house
            .run_with(&["--policy", output], &["make", "-s"])
            .finish()
            .expect(0);
        assert!(house.workspace().join("main").exists());
        // And the file is not replaced unasked.
        let again = learn(house, &["-o", output], &["true"]).finish();
        again.expect(125);
        assert!(again.err().contains("--force"), "{}", again.err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        learn(house, &["-o", output, "--force"], &["true"]).finish().expect(0);
        assert_ne!(std::fs::read_to_string(&file).unwrap(), text);
    });
}

/// A policy that gives more than `default` and judges commands: the proof is run under it, and the proposal keeps its judgements.
const TEAM: &str = "version = 1\nname = \"team\"\nextends = [\"default\"]\n[environment]\npass = [\"CARGO_TEAM\"]\n\
                    [commands]\ndefault = \"allow\"\n[[commands.rules]]\nprogram = \"git\"\n\
                    args = [\"push\"]\ndecision = \"deny\"\nreason = \"a person pushes\"\n";

#[test]
fn a_proposal_stands_under_the_policy_that_it_was_learnt_under_and_keeps_its_rules() {
    let house = super::builder().policies().not_started().build();
    house.write("policies/team.toml", TEAM);
    let mut house = house;
    house.start_daemon();
    let script = "test \"$CARGO_TEAM\" = blue && printenv CARGO_TEAM";
    let file = house.make_directory("proposals", 0o755).join("learnt.toml");
    let output = file.to_str().unwrap();
    house.write("work/cargo", format!("#!/bin/sh\n{script}\n"));
    let command = ["sh", "-c", "chmod +x cargo; ./cargo"];
    let ended = learn(&house, &["-p", "team", "-o", output], &command)
        .env("CARGO_TEAM", "blue")
        .finish();
    ended.expect(0);
    assert!(ended.err().contains("proved: under the proposal"), "{}", ended.err());
    assert!(!ended.err().contains("is run without"), "{}", ended.err());
    let text = std::fs::read_to_string(&file).unwrap();
    for line in ["a person pushes", "\"CARGO_TEAM\""] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let pushes = house
        .cli()
        .args(["policy", "explain", "-p", output, "--", "git", "push"])
        .finish();
    assert!(
        pushes.out().contains("a person pushes"),
        "{}{}",
        pushes.out(),
        pushes.err()
    );
    house.end();
}

#[test]
fn what_was_asked_for_is_shown_and_guards_hold_while_learning() {
    let house = house();
    house.write("work/script", "#!/bin/cat\n");
    let script = "cat script > /dev/null; chmod +x script; ./script > /dev/null; mkdir .vscode";
    let ended = learn(&house, &["--observations"], &["sh", "-c", script]).finish();
    ended.expect(0);
    let out = ended.out();
    let workspace = house.workspace();
    let has = |line: String| assert!(out.lines().any(|seen| seen.starts_with(&line)), "{line}: {out}");
    has(format!("read\tthere\t{}/script\tcat", workspace.display()));
    has(format!("execute\tthere\t{}/script\tsh", workspace.display()).replace("\tsh", "\t"));
    has("execute\tthere\t/bin/cat\t".to_owned());
    has(format!("write\tmissing\t{}/.vscode\tmkdir", workspace.display()));
    assert!(ended.err().contains("Operation not permitted"), "{}", ended.err());
    assert!(!workspace.join(".vscode").exists());
    house.end();
}
