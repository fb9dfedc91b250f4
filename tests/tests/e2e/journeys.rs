//! The three journeys of the README, with the files as it has them, and its run that is left and found again.

use std::fs;

use fumehood_tests::{DEADLINE, Ended, House, Who, eventually, not_run};
use nix::sys::signal::Signal;

use super::approvals::{at_a_terminal, id, question};
use super::builder;

const README: &str = include_str!("../../../README.md");

/// The block of the README that begins with a comment that names its file.
fn file(name: &str) -> &'static str {
    let begin = format!("```toml\n# {name}\n");
    let (_, block) = README
        .split_once(&begin)
        .unwrap_or_else(|| panic!("the README has no {name}"));
    block.split_once("```").unwrap().0
}

fn for_both(check: impl Fn(House)) {
    let whos: &[Who] = if fumehood_tests::is_root() {
        &[Who::Me, Who::Ordinary]
    } else {
        &[Who::Me]
    };
    for who in whos {
        check(builder().who(*who).policies().not_started().build());
    }
}

fn policy(house: &House, arguments: &[&str]) -> Ended {
    let cli = house.cli().current_dir(&house.workspace()).args(["policy"]);
    cli.args(arguments).finish()
}

/// Every text of the README's outputs that is looked for here stands in it: who changes one sees the other.
fn says(told: &str, words: &str) {
    assert!(README.contains(words), "the README does not say {words:?}");
    assert!(told.contains(words), "{words:?}: {told}");
}

#[test]
fn an_administrator_sets_a_ceiling_and_an_auditor_reads_what_holds() {
    for_both(|mut house| {
        house.write("system/org.toml", file("/etc/fumehood/policies/org.toml"));
        house.start_daemon();
        let asked = ["explain", "--read", "/opt/licences/key", "--", "git", "push", "--force"];
        let told = policy(&house, &asked);
        let told = told.expect(0).out();
        for words in [
            "policy default under org (system) (digest ",
            "read /opt/licences/key: deny\n",
            "takes it away  filesystem.hide = \"/opt/licences\"",
            "command git push --force: deny\n",
            "A forced push rewrites what others have. Push a new branch instead.",
        ] {
            says(&told, words);
        }
        let refused = house.run_with(&[], &["git", "push", "-f"]).finish();
        refused.expect(125);
        says(
            &refused.err(),
            "fumehood: refused by the policy (commands.ceilings[0].rules[0]): policy `default` denies `git push -f`",
        );
        says(&refused.err(), "this policy stands under org (system)");
        house.end();
    });
}

#[test]
fn a_developer_learns_a_policy_and_a_colleague_trusts_it() {
    if !["/usr/bin/npm", "/usr/bin/node"]
        .iter()
        .all(|program| std::path::Path::new(program).exists())
    {
        return not_run("learning of npm", "npm or node is not on this machine");
    }
    for_both(|mut house| {
        house.start_daemon();
        house.write(
            "work/package.json",
            "{ \"name\": \"shop\", \"version\": \"1.0.0\", \"scripts\": { \"test\": \"node --test\" } }",
        );
        house.make_directory("work/test", 0o755);
        house.write(
            "work/test/price.test.js",
            "const test = require('node:test');\nconst http = require('node:http');\nconst fs = require('node:fs');\n\
             test('a price is served', (t, done) => {\n  fs.writeFileSync('/tmp/price', '3');\n\
               const server = http.createServer((q, r) => r.end(fs.readFileSync('/tmp/price')));\n\
               server.listen(0, '127.0.0.1', () => http.get({ port: server.address().port, host: '127.0.0.1' }, (r) => {\n\
                 r.resume(); r.on('end', () => server.close(done)); }));\n});\n",
        );
        let learnt = policy(&house, &["learn", "-o", ".fumehood.toml", "--", "npm", "test"]);
        learnt.expect(0);
        says(
            &learnt.err(),
            "fumehood: proved: under the proposal the command ended with code 0 as well",
        );
        says(
            &learnt.err(),
            "fumehood: wrote .fumehood.toml: read it before it is used",
        );
        let path = house.workspace().join(".fumehood.toml");
        let text = fs::read_to_string(&path).unwrap();
        for words in [
            "workspace = \"read\" # nothing in it was written",
            "home = \"empty\"",
            "tmp = true # node",
        ] {
            says(&text, words);
        }
        assert!(text.contains("mode = \"loopback\""), "{text}");
        // It holds as it is, because it only narrows.
        let ended = house.run_with(&["-v"], &["npm", "test"]).finish();
        assert!(ended.expect(0).err().contains("learnt"), "{}", ended.err());

        let more = text
            .replace("pass = [", "pass = [\n    \"SHOP_DATABASE\",")
            .replace("\"learnt\"", "\"shop\"");
        fs::write(&path, &more).unwrap();
        let database = || {
            let cli = house.run_with(&[], &["sh", "-c", "echo \"<$SHOP_DATABASE>\""]);
            let ended = cli.env("SHOP_DATABASE", "test").finish();
            ended.expect(0);
            (ended.out(), ended.err())
        };
        let (seen, told) = database();
        assert_eq!(seen, "<>\n");
        says(
            &told,
            "fumehood: the project's .fumehood.toml is not trusted and only narrows; not given: environment.pass gives \"SHOP_DATABASE\"",
        );
        let trusted = at_a_terminal(&house, &format!("policy trust {}", house.workspace().display()), "y\n").finish();
        for words in [
            "trusted, it gives beyond `default`:",
            "Trust it? [y/N]",
            "trusted, until the file is changed",
        ] {
            says(&trusted.expect(0).out(), words);
        }
        assert_eq!(database().0, "<test>\n");
        fs::write(&path, more + "# changed\n").unwrap();
        assert_eq!(database().0, "<>\n");
        house.end();
    });
}

#[test]
fn an_agent_asks_a_person_answers_and_the_log_tells() {
    if !std::path::Path::new("/usr/bin/make").exists() {
        return not_run("an approval of make", "there is no make");
    }
    for_both(|mut house| {
        house.write("policies/team.toml", file("~/.config/fumehood/policies/team.toml"));
        house.write("work/Makefile", "release:\n\t@echo released\n");
        house.start_daemon();
        let denied = house.run_with(&["-p", "team"], &["npm", "publish"]).finish();
        denied.expect(125);
        says(
            &denied.err(),
            "fumehood: refused by the policy (commands.rules[1]): policy `team` denies `npm publish` (commands.rules[1]): Packages are published by CI.",
        );
        let asks = house.run_with(&["-p", "team"], &["make", "release"]).start();
        let id = id(&question(|| house.cli(), "make release"));
        let line = format!("approve {id} --session --reason 'looked at the diff'");
        let answered = at_a_terminal(&house, &line, "").finish();
        says(
            &answered.expect(0).out(),
            ": allowed for the session (`fumehood approve --forget ",
        );
        let ended = asks.finish();
        assert_eq!(ended.expect(0).out(), "released\n");
        says(
            &ended.err(),
            "waits for an approval: policy `team` asks about `make release` (commands.rules[0]): A person looks at what is released.",
        );
        // Of the same session nobody is asked again.
        let again = house.run_with(&["-p", "team"], &["make", "release"]).finish();
        assert_eq!(again.expect(0).out(), "released\n");
        let told = house
            .cli()
            .args(["audit", "show", house.audit().to_str().unwrap()])
            .finish();
        let told = told.expect(0).out();
        for words in [
            "denied by commands.rules[1] (policy team ",
            "asked by commands.rules[0] (policy team), to be answered by ",
            "allowed for the session, by who asked, from a terminal (kept as ",
            ": looked at the diff",
            "allowed by commands.rules[0] (policy team ",
            "ended: exit code 0",
        ] {
            says(&told, words);
        }
        assert!(told.contains("needs no new answer"), "{told}");
        house.end();
    });
}

/// The words of the README between these two.
fn between(before: &str, after: &str) -> &'static str {
    let (_, rest) = README
        .split_once(before)
        .unwrap_or_else(|| panic!("the README does not say {before:?}"));
    rest.split_once(after).unwrap().0
}

#[test]
fn a_run_is_left_to_itself_found_again_waited_for_and_forgotten() {
    for_both(|mut house| {
        house.start_daemon();
        let script = between("$ fumehood run --detach -- sh -c '", "'\n");
        let started = house.run_with(&["--detach"], &["sh", "-c", script]).finish();
        let id = started.expect(0).out().trim().to_owned();
        // As long a part of it as the README gives.
        let part = between("$ fumehood logs --tail 2 ", "\n");
        let end = &id[id.len() - part.len()..];
        assert!(README.contains(&format!("$ fumehood attach {part}\n")));
        eventually(DEADLINE, "the lines of the README", || {
            let logs = house.cli().args(["logs", "--tail", "2", end]).finish();
            (logs.expect(0).out() == "request 2\nrequest 3\n").then_some(())
        });
        let mut attached = house.cli().args(["attach", end]).start();
        attached.wait_for("request ");
        attached.signal(Signal::SIGINT);
        let attached = attached.finish();
        says(&attached.expect(0).err(), "; Ctrl-C lets go of it, and it goes on\n");
        says(&attached.err(), "fumehood: let go of it; `fumehood attach ");
        assert!(
            !attached.out().contains("request 1\n"),
            "from now on: {}",
            attached.out()
        );
        let waited = house.cli().args(["wait", end]).finish();
        says(&waited.expect(3).out(), ": exited 3\n");
        assert_eq!(waited.out(), format!("{id}: exited 3\n"));
        assert_eq!(
            house.cli().args(["rm", end]).finish().expect(0).out(),
            format!("{id}\n")
        );
        house.cli().args(["logs", end]).finish().expect(125);
        assert!(README.contains(&format!("$ fumehood audit show --run {part} ")));
        let told = house
            .cli()
            .args(["audit", "show", "--run", end])
            .args([house.audit()])
            .finish();
        let told = told.expect(0).out();
        for words in [
            " attached to\n",
            " ended: exit code 3, after ",
            " removed, and its output with it\n",
        ] {
            says(&told, words);
        }
        house.end();
    });
}
