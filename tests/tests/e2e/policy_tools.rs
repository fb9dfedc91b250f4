//! `fumehood policy check`, `explain`, `test`, `diff`, `show` and `schema`: what people ask of policies, through the program. And the presets
//! by what they are for: a small project of each toolchain that is on the machine is built and tested with nothing else granted.

use std::path::Path;

use fumehood_tests::not_run;

use super::{builder, for_both, house};

const CEILING: &str = "version = 1\nname = \"ceiling\"\nextends = [\"default\"]\n[filesystem]\nhide = [\"/opt/licences\"]\n[limits]\nwall = \"30m\"\n\
     [commands]\n[[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\nhas = [\"--force\", \"-f\"]\ndecision = \"deny\"\nreason = \"It rewrites what others have.\"\n\
     [[tests]]\nread = \"/opt/licences/key\"\nexpect = \"deny\"\n";

/// The program without any daemon: it must not start one.
fn alone(arguments: &[&str]) -> fumehood_tests::Ended {
    let house = builder().not_started().build();
    let mut all = vec!["policy"];
    all.extend(arguments);
    let ended = house.cli().args(all).finish();
    assert!(!house.socket().exists(), "a daemon was started: {arguments:?}");
    house.end();
    ended
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn files_are_checked_with_every_error_and_lint() {
    let house = house();
    let good = house.write("ceiling.toml", CEILING);
    let wrong = house.write("wrong.toml", "version = 1\nnmae = \"x\"\n[limits]\nwall = 5\n");
    let risky = house.write(
        "risky.toml",
        "version = 1\nname = \"risky\"\n[limits]\nmemory = \"unlimited\"\n",
    );
    let ended = alone(&["check", text(&good)]);
    ended.expect(0);
    assert!(
        ended.out().contains("policy `ceiling` can be used: 0 warnings"),
        "{}",
        ended.out()
    );
    let ended = alone(&[
        "check",
        text(&wrong),
        text(&risky),
        "/nonexistent/x.toml",
        text(&house.workspace()),
    ]);
    ended.expect(1);
    for part in [
        "wrong.toml:2:1: nmae: unknown key",
        "wrong.toml:4:8: limits.wall",
        "risky.toml:4:10: warning: limits.memory: a command may take all memory",
        "/nonexistent/x.toml: cannot be read: No such file",
        "it is a directory; name the files in it",
    ] {
        assert!(ended.out().contains(part), "{part}:\n{}", ended.out());
    }
    alone(&["check", text(&risky)]).expect(0);
    alone(&["check", "--deny-warnings", text(&risky)]).expect(1);
    let json = alone(&["check", "--json", text(&wrong), text(&risky)]);
    json.expect(1);
    let found = &json.json()[0]["files"];
    assert_eq!(
        (&found[0]["ok"], &found[0]["errors"][1]["line"]),
        (&false.into(), &2.into()),
        "{found}"
    );
    assert_eq!(found[1]["lints"][0]["key"], "limits.memory", "{found}");
    house.end();
}

#[test]
fn bad_input_is_told_and_never_waited_for() {
    let house = house();
    let bytes = house.write("bytes.toml", b"version = 1\nname = \"\xff\"\n");
    let one = house.write("one.toml", "version = 1\nname = \"one\"\nextends = [\"./two.toml\"]\n");
    house.write("two.toml", "version = 1\nname = \"two\"\nextends = [\"./one.toml\"]\n");
    let lost = house.write("lost.toml", "version = 1\nname = \"lost\"\nextends = [\"nobody\"]\n");
    let escape = house.write("escape.toml", "version = 1\n\"\\u001b[31m\\u202e\" = 1\n");
    let pipe = house.path("pipe.toml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    for (file, says) in [
        (&bytes, "not UTF-8"),
        (&one, "it extends itself"),
        (&lost, "there is no policy `nobody`"),
        (&pipe, "it is no regular file"),
    ] {
        for command in ["check", "test"] {
            let ended = alone(&[command, text(file)]);
            ended.expect(1);
            assert!(ended.out().contains(says), "{command} {says}: {}", ended.out());
        }
        let ended = house.cli().args(["policy", "explain", "-p", text(file)]).finish();
        ended.expect(1);
        // As of a run: what comes with a request reads no other files.
        let says_explain = match says {
            "it extends itself" => "extends others by name only",
            says => says,
        };
        assert!(ended.err().contains(says_explain), "{says}: {}", ended.err());
        let ended = alone(&["diff", "default", text(file)]);
        ended.expect(1);
        assert!(ended.err().contains(says), "{says}: {}", ended.err());
    }
    let ended = alone(&["check", text(&escape)]);
    ended.expect(1);
    assert!(!ended.out().contains(['\u{1b}', '\u{202e}']), "{:?}", ended.out());
    let unknown = house.cli().args(["policy", "explain", "--policy", "nobody"]).finish();
    unknown.expect(1);
    assert!(
        unknown.err().contains("nobody") && unknown.err().contains("locked"),
        "{}",
        unknown.err()
    );
    alone(&["explain", "--policy", "default", "--host", "nowhere"]).expect(2);
    house.end();
}

#[test]
fn a_policy_is_explained_line_by_line_and_by_question() {
    let house = house();
    let ceiling = house.write("ceiling.toml", CEILING);
    let explain = |more: &[&str]| {
        let ended = house.cli().args(["policy", "explain"]).args(more).finish();
        ended.expect(0);
        ended.out()
    };
    let whole = explain(&["--all", "--policy", text(&ceiling)]);
    let line = |key: &str| whole.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    assert!(
        line("limits.wall").contains("\"30m\"") && line("limits.wall").contains("ceiling.toml:7"),
        "{whole}"
    );
    assert!(line("limits.memory").contains("built-in policy default:"), "{whole}");
    // What nobody wrote here is folded.
    let stated = explain(&["-p", text(&ceiling)]);
    let lines: Vec<_> = stated.lines().collect();
    assert!(lines[0].starts_with("policy ceiling (request) (digest "), "{stated}");
    assert!(lines.len() < 20, "{stated}");
    let after = lines.iter().position(|line| *line == "[limits]").unwrap();
    assert!(lines[after + 1].trim_start().starts_with("wall"), "{stated}");
    assert!(
        lines.last().unwrap().contains(" of the built-in policy default") && stated.ends_with("--all shows them\n"),
        "{stated}"
    );
    let asked = explain(&[
        "--policy",
        text(&ceiling),
        "--read",
        "/opt/licences/key",
        "--host",
        "example.org:443",
        "--env",
        "GITHUB_TOKEN",
        "--",
        "sh",
        "-c",
        "git push -f",
    ]);
    for part in [
        "read /opt/licences/key: deny",
        "ceiling.toml:5",
        "to allow it: take \"/opt/licences\" out of filesystem.hide",
        "connect to example.org:443: deny",
        "pass GITHUB_TOKEN on from the caller: deny",
        "command sh -c git push -f: deny",
        "It rewrites what others have.",
    ] {
        assert!(asked.contains(part), "{part}:\n{asked}");
    }
    let json = explain(&["--json", "--policy", "locked", "--write", "${workspace}/x"]);
    let told: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(told["answers"][0]["verdict"], "deny", "{told}");
    assert_eq!(told["layers"], serde_json::json!(["locked"]), "{told}");
    assert!(told["lines"].as_array().unwrap().len() > 50);
    house.end();
}

#[test]
fn the_daemons_policies_are_explained_by_name() {
    for_both(|house| {
        // What names none is the daemon's default.
        let told = house
            .cli()
            .args(["policy", "explain", "--read", "/etc/shadow"])
            .finish();
        told.expect(0);
        assert!(told.out().contains("read /etc/shadow: deny"), "{}", told.out());
        let shown = house.cli().args(["policy", "show", "--resolved", "locked"]).finish();
        shown.expect(0);
        assert!(
            shown.out().contains("name = \"locked\"") && !shown.out().contains('#'),
            "{}",
            shown.out()
        );
    });
}

#[test]
fn expectations_are_tried_in_the_file_and_beside_it() {
    let house = house();
    let ceiling = house.write("ceiling.toml", CEILING);
    let ended = alone(&["test", text(&ceiling)]);
    ended.expect(0);
    assert!(ended.out().contains("1 of 1 expectation hold"), "{}", ended.out());
    house.write(
        "ceiling.test.toml",
        "version = 1\n[[tests]]\nhost = \"example.org:443\"\nexpect = \"allow\"\n",
    );
    let ended = alone(&["test", text(&ceiling)]);
    ended.expect(1);
    for part in [
        "ceiling.test.toml:3: expected allow",
        "connect to example.org:443: deny",
        "1 of 2 expectations hold",
    ] {
        assert!(ended.out().contains(part), "{part}:\n{}", ended.out());
    }
    house.end();
}

#[test]
fn two_policies_are_compared_in_words() {
    let house = house();
    let ceiling = house.write("ceiling.toml", CEILING);
    let ended = alone(&["diff", "default", text(&ceiling)]);
    ended.expect(0);
    for part in [
        "built-in policy default lets through what ",
        "read and execute /opt/licences",
        "wall: 1h instead of 30m",
        "`git push --force`: allow instead of deny",
    ] {
        assert!(ended.out().contains(part), "{part}:\n{}", ended.out());
    }
    let same = alone(&["diff", "default", "default"]);
    assert!(same.out().starts_with("Neither "), "{}", same.out());
    let json = alone(&["diff", "--json", "locked", "default"]);
    assert!(json.json()[0]["wider"].as_array().unwrap().len() > 5);
    house.end();
}

#[test]
fn the_schema_is_printed() {
    let ended = alone(&["schema"]);
    ended.expect(0);
    assert!(serde_json::from_str::<serde_json::Value>(&ended.out()).unwrap()["properties"]["version"].is_object());
}

/// A small project of a toolchain, built and tested.
struct Project {
    preset: &'static str,
    needs: &'static [&'static str],
    script: &'static str,
}

const PROJECTS: &[Project] = &[
    Project {
        preset: "rust",
        needs: &["cargo", "cc"],
        script: "mkdir -p src; printf '[package]\nname=\"h\"\nversion=\"0.1.0\"\nedition=\"2021\"\n' > Cargo.toml; \
                 echo 'pub fn f() -> u8 { 1 } #[test] fn t() { assert_eq!(f(), 1) }' > src/lib.rs; cargo test --offline -q",
    },
    Project {
        preset: "node",
        needs: &["node", "npm"],
        script: "echo '{\"name\":\"h\",\"version\":\"1.0.0\",\"scripts\":{\"test\":\"node --test\"}}' > package.json; \
                 echo \"require('node:test')('t', () => require('assert')(1))\" > a.test.js; npm test; npm ls",
    },
    Project {
        preset: "python",
        needs: &["python3"],
        script: "printf 'import unittest, ssl, tempfile, sqlite3\nclass T(unittest.TestCase):\n  def test_a(self):\n    \
                 self.assertTrue(tempfile.mkdtemp())\n' > test_a.py; python3 -m unittest -q; python3 -m venv --without-pip v; v/bin/python -c pass",
    },
    Project {
        preset: "c",
        needs: &["cc", "make"],
        script: "printf '#include <stdio.h>\nint main(void){puts(\"hi\");return 0;}\n' > a.c; \
                 printf 'test: a\n\t./a | grep hi\na: a.c\n\tcc -O1 -o a a.c\n' > Makefile; make test",
    },
    Project {
        preset: "go",
        needs: &["go"],
        script: "printf 'module h\n\ngo 1.20\n' > go.mod; printf 'package h\nimport \"testing\"\nfunc TestA(t *testing.T) {}\n' > a_test.go; go test ./...",
    },
    Project {
        preset: "java",
        needs: &["javac", "java", "jar"],
        script: "echo 'public class A { public static void main(String[] a) { System.out.println(\"hi\"); } }' > A.java; \
                 javac A.java; java A | grep hi; jar cf a.jar A.class",
    },
    Project {
        preset: "git",
        needs: &["git"],
        script: "git init -q .; git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m first; git log --oneline | grep first; git status",
    },
];

#[test]
fn a_preset_is_enough_for_a_project_of_its_toolchain_with_an_empty_home() {
    for_both(|house| {
        for project in PROJECTS {
            let Project { preset, needs, script } = project;
            // Whether whoever runs the command finds it, in a place that the preset gives.
            let find = "for p; do w=$(command -v \"$p\") || exit 1; test -r \"$w\" || exit 1; done";
            let mut arguments = vec!["-c", find, "sh"];
            arguments.extend(*needs);
            let there = house.run_with(&[], &[&["sh"], &arguments[..]].concat()).finish();
            if there.code() != 0 {
                not_run(
                    "presets",
                    &format!("{preset}: {} is not on this machine", needs.join(" or ")),
                );
                continue;
            }
            let policy = house.write(
                &format!("with-{preset}.toml"),
                format!(
                    "version = 1\nname = \"with-{preset}\"\nextends = [\"{preset}\"]\n[filesystem]\nworkspace = \"write\"\nhome = \"empty\"\n"
                ),
            );
            let script = format!("mkdir {preset}; cd {preset}; {script}");
            let ended = house
                .run_with(&["--policy", policy.to_str().unwrap()], &["sh", "-ec", &script])
                .finish();
            ended.expect(0);
        }
    });
}

#[tokio::test]
async fn the_daemon_checks_and_explains_for_every_client() {
    use fumehood_client::proto::v1::{
        ExplainPolicyRequest, PolicyQuestion, PolicyReference, policy_question::About, policy_reference::Reference,
    };
    let house = house();
    let client = house.client().await;
    let checked = client.check_policy("version = 1\nnmae = \"x\"\n").await.unwrap();
    assert_eq!((checked.errors.len(), checked.errors[1].line), (2, 2), "{checked:?}");
    let risky = "version = 1\nname = \"x\"\n[limits]\nmemory = \"unlimited\"\n";
    let checked = client.check_policy(risky).await.unwrap();
    assert!(
        checked.errors.is_empty() && checked.lints[0].key == "limits.memory",
        "{checked:?}"
    );
    let ask = |about| PolicyQuestion { about: Some(about) };
    let workspace = house.workspace().canonicalize().unwrap();
    let request = |questions| ExplainPolicyRequest {
        policy: Some(PolicyReference {
            reference: Some(Reference::Name("locked".to_owned())),
        }),
        workspace: text(&workspace).to_owned().into(),
        questions,
        ..ExplainPolicyRequest::default()
    };
    let about = vec![
        ask(About::Write(format!("{}/x", workspace.display()))),
        ask(About::Read("/usr/bin/env".to_owned())),
        ask(About::Host("example.org:443".to_owned())),
    ];
    let told = client.explain_policy(request(about)).await.unwrap();
    let verdicts: Vec<_> = told.answers.iter().map(|answer| answer.verdict.as_str()).collect();
    assert_eq!(verdicts, ["deny", "allow", "deny"]);
    assert!(
        told.lines
            .iter()
            .any(|line| line.key == "limits.wall" && line.place.starts_with("built-in policy locked:"))
    );
    // What is no workspace is said to be none; without one nothing can be asked.
    let mut nowhere = request(vec![ask(About::Read("${workspace}/x".to_owned()))]);
    nowhere.workspace = "/".into();
    let told = client.explain_policy(nowhere.clone()).await.unwrap();
    assert_eq!(told.refusal.unwrap().reason, "INVALID_WORKSPACE");
    assert_eq!(told.layers, ["locked"]);
    nowhere.workspace.clear();
    assert!(client.explain_policy(nowhere).await.is_err());
    for wrong in [
        About::Read("x".to_owned()),
        About::Read("/a/../b".to_owned()),
        About::Host("nowhere".to_owned()),
    ] {
        let refused = client.explain_policy(request(vec![ask(wrong)])).await.unwrap_err();
        assert!(refused.to_string().contains("questions[0]"), "{refused}");
    }
    assert!(
        client
            .explain_policy(request(vec![PolicyQuestion { about: None }; 257]))
            .await
            .is_err()
    );
}
