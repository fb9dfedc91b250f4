//! Which policy decides: the project's file and trust in it, ceilings, files that count, and what commands can do about any of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use fumehood_client::Error;
use fumehood_client::proto::v1::StartRequest;
use fumehood_tests::{DEADLINE, House, Who, eventually, inline};

use super::builder;

const SHOP: &str = "version = 1\nname = \"shop\"\nextends = [\"default\"]\n[limits]\nwall = \"1m\"\n\
                    [environment]\npass = [\"SHOP_MODE\"]\n";

fn for_both(config: &str, check: impl Fn(&House)) {
    let whos: &[Who] = if fumehood_tests::is_root() {
        &[Who::Me, Who::Ordinary]
    } else {
        &[Who::Me]
    };
    for who in whos {
        let house = builder().who(*who).policies().config(config).build();
        check(&house);
        house.end();
    }
}

/// What the command sees of `SHOP_MODE`, with what the program said.
fn shop_mode(house: &House) -> (String, String) {
    let ended = house
        .run_with(&["-v"], &["sh", "-c", "echo \"<$SHOP_MODE>\""])
        .env("SHOP_MODE", "test")
        .finish();
    ended.expect(0);
    (ended.out().trim().to_owned(), ended.err())
}

fn policy(house: &House, arguments: &[&str]) -> fumehood_tests::Ended {
    house.cli().args(["policy"]).args(arguments).finish()
}

fn kinds(house: &House) -> Vec<String> {
    house
        .records()
        .iter()
        .map(|record| record["kind"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_projects_file_narrows_until_it_is_trusted_and_again_when_it_is_changed() {
    for_both("", |house| {
        house.write("work/.fumehood.toml", SHOP);
        let (seen, told) = shop_mode(house);
        assert_eq!(seen, "<>");
        assert!(
            told.contains("not given: environment.pass gives \"SHOP_MODE\""),
            "{told}"
        );
        let workspace = house.workspace().canonicalize().unwrap();
        assert!(
            told.contains(&format!("fumehood policy trust {}", workspace.display())),
            "{told}"
        );
        assert!(
            told.contains("shop (.fumehood.toml, untrusted), under default"),
            "{told}"
        );

        let ended = policy(house, &["trust"]);
        ended.expect(125);
        assert!(
            ended.err().contains("say --yes"),
            "nobody can be asked: {}",
            ended.err()
        );
        assert_eq!(shop_mode(house).0, "<>");
        let ended = policy(house, &["trust", "--yes"]);
        ended.expect(0);
        assert!(
            ended
                .out()
                .contains("gives beyond `default`:\n  environment.pass gives \"SHOP_MODE\""),
            "{}",
            ended.out()
        );
        let (seen, told) = shop_mode(house);
        assert_eq!(seen, "<test>");
        assert!(
            told.contains("shop (.fumehood.toml, trusted)") && !told.contains("not given"),
            "{told}"
        );
        let listed = policy(house, &["trusted"]).out();
        assert!(listed.contains("shop") && listed.contains("trusted"), "{listed}");

        house.write("work/.fumehood.toml", format!("{SHOP}# a comment\n"));
        assert_eq!(shop_mode(house).0, "<>", "what was trusted is another content");
        assert!(policy(house, &["trusted"]).out().contains("changed"));
        assert!(policy(house, &["trust", "--yes"]).out().contains("has changed since"));
        assert_eq!(shop_mode(house).0, "<test>");
        policy(house, &["untrust"]).expect(0);
        assert_eq!(shop_mode(house).0, "<>");
        let again = policy(house, &["untrust"]);
        again.expect(125);
        assert!(again.err().contains("is not trusted"), "{}", again.err());

        let records = house.records();
        let trusted = records
            .iter()
            .find(|record| record["kind"] == "policy_trusted")
            .unwrap();
        assert_eq!(trusted["peer"], format!("uid:{}", house.uid()));
        assert_eq!(trusted["widenings"][0], "environment.pass gives \"SHOP_MODE\"");
        assert_eq!(
            kinds(house).iter().filter(|kind| *kind == "policy_untrusted").count(),
            1
        );
        let layers = records.iter().filter(|record| record["kind"] == "intent");
        let layers: Vec<_> = layers
            .map(|record| record["policy_layers"][0].as_str().unwrap())
            .collect();
        assert_eq!(layers[0], "shop (.fumehood.toml, untrusted)");
        assert!(layers.contains(&"shop (.fumehood.toml, trusted)"));
    });
}

/// The command tries everything by which it could get more at its next run.
#[test]
fn what_a_command_writes_about_policies_has_no_effect() {
    for_both("", |house| {
        house.write("work/.fumehood.toml", SHOP);
        policy(house, &["trust", "--yes"]).expect(0);
        let trusted = fs::read(house.path("state/trusted.json")).unwrap();
        let wider = SHOP.replace("SHOP_MODE", "SHOP_MODE\", \"MORE");
        let script = format!(
            "echo '{}' > .fumehood.toml; for f in {r}/policies/x.toml {r}/system/x.toml {r}/state/trusted.json; do\n\
             cat $f; echo '{}' > $f; rm -f $f; done; {r}/fumehood policy trust --yes --socket {r}/run/fumehood.sock; true",
            wider,
            wider,
            r = house.path("").display()
        );
        let ended = house.sh(&script);
        assert!(
            !ended.out().contains("policy_digest"),
            "it read the list: {}",
            ended.out()
        );
        assert_eq!(fs::read(house.path("state/trusted.json")).unwrap(), trusted);
        assert!(fs::read_dir(house.path("policies")).unwrap().next().is_none());
        assert!(fs::read_dir(house.path("system")).unwrap().next().is_none());
        assert_eq!(kinds(house).iter().filter(|kind| *kind == "policy_trusted").count(), 1);
        // If it could change the project's file, that is untrusted now; if it could not, it gives what it gave.
        let ended = house
            .run_with(&[], &["sh", "-c", "echo \"<$MORE>\""])
            .env("MORE", "x")
            .finish();
        assert_eq!(ended.out().trim(), "<>");
    });
}

#[test]
fn a_ceiling_holds_and_what_does_not_count_is_listed() {
    for_both("", |house| {
        let ceiling =
            "version = 1\nname = \"org\"\nceiling = true\nextends = [\"default\"]\n[limits]\nwall = \"30s\"\n";
        house.write("system/org.toml", ceiling);
        house.write(
            "policies/ci.toml",
            "version = 1\nname = \"ci\"\nextends = [\"default\"]\n",
        );
        let loose = house.write("policies/loose.toml", "version = 1\nname = \"loose\"\n");
        fs::set_permissions(&loose, Permissions::from_mode(0o666)).unwrap();
        house.hang_up();
        eventually(DEADLINE, "the policies to be read again", || {
            kinds(house).contains(&"policies_reloaded".to_owned()).then_some(())
        });
        let listed = policy(house, &["list"]).out();
        assert!(
            listed.lines().any(|line| line.starts_with('^') && line.contains("org")),
            "{listed}"
        );
        assert!(
            listed.contains("without effect:\n") && listed.contains("loose.toml: others can write to"),
            "{listed}"
        );
        for options in [&["-v"][..], &["-v", "-p", "ci"], &["-v", "-p", "./own.toml"]] {
            house.write("work/own.toml", SHOP);
            let ended = house.run_with(options, &["true"]).finish();
            ended.expect(0);
            assert!(
                ended.err().contains("under org (system)"),
                "{options:?}: {}",
                ended.err()
            );
            let ended = house
                .run_with(&[options, &["--timeout", "40s"]].concat(), &["true"])
                .finish();
            ended.expect(125);
        }
        let ended = house.run_with(&["-p", "loose"], &["true"]).finish();
        ended.expect(125);
        assert!(ended.err().contains("there is no policy"), "{}", ended.err());

        // With an error in a file that counts, what was there stays.
        house.write(
            "policies/bad.toml",
            "version = 1\nname = \"bad\"\n[limits]\nwal = \"1s\"\n",
        );
        house.write("system/org.toml", ceiling.replace("30s", "60s"));
        let ended = policy(house, &["reload"]);
        ended.expect(125);
        assert!(
            ended.err().contains("bad.toml:4:1") && ended.err().contains("stay"),
            "{}",
            ended.err()
        );
        house.run_with(&["--timeout", "40s"], &["true"]).finish().expect(125);
        fs::remove_file(house.path("policies/bad.toml")).unwrap();
        let ended = policy(house, &["reload"]);
        ended.expect(0);
        assert_eq!(ended.out().lines().next(), Some("changed: org"));
        house.run_with(&["--timeout", "40s"], &["true"]).finish().expect(0);
    });
}

#[test]
fn a_run_keeps_the_policy_that_it_started_with() {
    let house = builder().policies().build();
    house.write(
        "policies/ci.toml",
        "version = 1\nname = \"ci\"\nextends = [\"default\"]\n",
    );
    policy(&house, &["reload"]).expect(0);
    let script = "touch started; while [ ! -e go ]; do sleep 0.05; done; touch written";
    std::thread::scope(|scope| {
        let run = scope.spawn(|| house.run_with(&["-p", "ci"], &["sh", "-c", script]).finish());
        eventually(DEADLINE, "the run", || {
            house.path("work/started").exists().then_some(())
        });
        house.write("policies/ci.toml", "version = 1\nname = \"ci\"\n");
        policy(&house, &["reload"]).expect(0);
        house.write("work/go", "");
        run.join().unwrap().expect(0);
    });
    assert!(house.path("work/written").exists());
    let ended = house.run_with(&["-p", "ci"], &["touch", "again"]).finish();
    assert_ne!(ended.out(), "again");
    assert!(!house.path("work/again").exists(), "the next run has the new one");
}

#[test]
fn a_wrong_projects_file_refuses_the_run_with_its_place() {
    let house = builder().build();
    house.write(
        "work/.fumehood.toml",
        "version = 1\nname = \"shop\"\ndenied_patths = []\n",
    );
    let ended = house.run(&["touch", "ran"]);
    ended.expect(125);
    assert!(ended.err().contains(".fumehood.toml:3:1"), "{}", ended.err());
    assert!(!house.path("work/ran").exists());
    house.run_with(&["-p", "default"], &["true"]).finish().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_widens_is_refused_as_a_type_until_it_is_trusted() {
    let house = builder().config("inline_policies = \"narrow\"").build();
    let client = house.client().await;
    let request = |text: &str| {
        let mut spec = house.spec(&["true"]);
        spec.policy = inline(text);
        StartRequest {
            run_id: String::new(),
            spec: Some(spec),
        }
    };
    let narrower = "version = 1\nname = \"less\"\nextends = [\"default\"]\n[network]\nmode = \"none\"\n";
    client.start(request(narrower)).await.unwrap();
    let refused = client.start(request(SHOP)).await.unwrap_err();
    let Error::Denied {
        reason,
        violations,
        message,
    } = &refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(reason, "POLICY_WIDENS");
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!(violations[0].description, "environment.pass gives \"SHOP_MODE\"");
    assert!(message.contains("fumehood policy trust"), "{message}");
    let records = house.records();
    let refused = records.iter().find(|record| record["kind"] == "request_refused");
    let reason = refused.unwrap_or_else(|| panic!("{records:?}"))["reason"].to_string();
    assert!(reason.contains("environment.pass"), "{reason}");
    house.write("work/own.toml", SHOP);
    policy(&house, &["trust", "--yes", "own.toml"]).expect(0);
    client.start(request(SHOP)).await.unwrap();
}

#[test]
fn who_may_use_a_few_policies_sees_no_others() {
    if !fumehood_tests::as_root_only("another user looks at the policies of root's daemon") {
        return;
    }
    const FEW: u32 = 54_323;
    const NONE: u32 = 54_324;
    let config = format!(
        "allowed_uids = [0, {FEW}, {NONE}]\n[[access]]\nuid = [0, {FEW}]\npolicies = [\"locked\"]\ndefault = \"locked\"\nceiling = \"git\"\n"
    );
    let house = builder().config(&config).build();
    fs::set_permissions(house.path("run"), Permissions::from_mode(0o755)).unwrap();
    let theirs = |uid: u32, arguments: &[&str]| {
        let cli = fumehood_tests::Cli::new(house.program(), Some(uid)).env("FUMEHOOD_SOCKET", house.socket());
        cli.current_dir("/".as_ref())
            .env("HOME", "/nonexistent")
            .args(["policy"])
            .args(arguments)
            .finish()
    };
    let listed = theirs(FEW, &["list"]);
    let names: Vec<_> = listed
        .expect(0)
        .out()
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["git", "locked"], "{}", listed.out());
    theirs(FEW, &["show", "locked"]).expect(0);
    let hidden = theirs(FEW, &["show", "rust"]);
    assert!(
        hidden.code() != 0 && hidden.err().contains("git, locked"),
        "{}",
        hidden.err()
    );
    for arguments in [&["list"][..], &["show", "locked"], &["show", "none"]] {
        let refused = theirs(NONE, arguments);
        assert!(
            refused.code() != 0 && refused.err().contains("no access rule is about uid:54324"),
            "{}",
            refused.err()
        );
    }
    let all = policy(&house, &["list"]);
    assert!(all.expect(0).out().contains("rust"), "{}", all.out());
    house.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn access_rules_say_who_may_use_what() {
    let me = nix::unistd::geteuid().as_raw();
    let rules = format!(
        "[[access]]\nuid = {me}\npolicies = [\"locked\"]\ndefault = \"locked\"\ninline = \"none\"\n\
         [[access]]\nuid = {me}\nlabel = {{ team = \"web\" }}\nceiling = \"git\"\n"
    );
    let house = builder().config(&rules).build();
    let ended = house.run_with(&["-v"], &["true"]).finish();
    assert!(ended.err().contains("policy: locked"), "{}", ended.err());
    let ended = house.run_with(&["-p", "default"], &["true"]).finish();
    ended.expect(125);
    assert!(ended.err().contains("it may name: locked"), "{}", ended.err());
    let ended = house.run_with(&["-v", "--label", "team=web"], &["true"]).finish();
    assert!(ended.err().contains("under git (access)"), "{}", ended.err());
    let client = house.client().await;
    let mut spec = house.spec(&["true"]);
    spec.policy = inline("version = 1\nname = \"x\"\n");
    let refused = client
        .start(StartRequest {
            run_id: String::new(),
            spec: Some(spec),
        })
        .await;
    assert!(matches!(refused, Err(Error::Denied { reason, .. }) if reason == "INLINE_POLICY_REFUSED"));

    let house = builder().config("[[access]]\nuid = 54399\n").build();
    let ended = house.run(&["true"]);
    ended.expect(125);
    assert!(ended.err().contains("no access rule is about"), "{}", ended.err());
}

/// What `policy explain` answers to questions, in their order, with what it prints before.
fn explained(house: &House, options: &[&str], command: &[&str]) -> (Vec<String>, String) {
    let ended = house
        .cli()
        .args(["policy", "explain"])
        .args(options)
        .args(["--"])
        .args(command)
        .finish();
    ended.expect(0);
    let told = ended.out();
    let verdict = |line: &str| {
        let (_, verdict) = line.rsplit_once(": ").filter(|_| !line.starts_with(' '))?;
        ["allow", "ask", "deny"].contains(&verdict).then(|| verdict.to_owned())
    };
    (told.lines().filter_map(verdict).collect(), told)
}

#[test]
fn what_is_explained_under_a_ceiling_is_what_a_run_does() {
    // What every machine has one of, and what the sandbox makes none of its own of.
    let files = ["/etc/profile", "/etc/fstab", "/etc/services", "/etc/shells"];
    let file = files
        .iter()
        .find(|file| fs::metadata(file).is_ok_and(|found| found.len() > 0));
    let file = *file.expect("a file in /etc");
    for_both("", |house| {
        house.write(
            "work/own.toml",
            "version = 1\nname = \"own\"\nextends = [\"default\"]\n",
        );
        let connects = "import socket; s = socket.create_server((\"127.0.0.1\", 0)); \
                        socket.create_connection(s.getsockname())";
        for ceiling in [false, true] {
            if ceiling {
                house.write(
                    "system/org.toml",
                    format!(
"version = 1\nname = \"org\"\nceiling = true\nextends = [\"default\"]\n[filesystem]\nhide = [\"{file}\"]\n\
                     [network]\nmode = \"none\"\n[limits]\nwall = \"7m\"\n[[commands.rules]]\nprogram = \"git\"\nargs = [\"push\"]\n\
                     decision = \"deny\"\nreason = \"a person pushes\"\n[commands]\ndefault = \"allow\"\n"),
                );
                policy(house, &["reload"]).expect(0);
            }
            for named in [&[][..], &["-p", "default"], &["-p", "./own.toml"]] {
                let asked = [named, &["--read", file, "--host", "127.0.0.1:80"]].concat();
                let (verdicts, told) = explained(house, &asked, &["git", "push"]);
                let expected = if ceiling { "deny" } else { "allow" };
                assert_eq!(verdicts, [expected; 3], "{named:?} {told}");
                let first = told.lines().next().unwrap();
                assert_eq!(first.contains(" under org (system)"), ceiling, "{first}");
                assert_eq!(told.contains("to allow it: in org (system): "), ceiling, "{told}");

                let read = house.run_with(named, &["cat", file]).finish();
                assert_eq!(
                    read.code() == 0 && !read.out().is_empty(),
                    !ceiling,
                    "{named:?} {}",
                    read.err()
                );
                let connected = house.run_with(named, &["python3", "-c", connects]).finish();
                assert_eq!(connected.code() == 0, !ceiling, "{named:?} {}", connected.err());
                let pushed = house.run_with(named, &["git", "push"]).finish();
                assert_eq!(
                    pushed.err().contains("a person pushes"),
                    ceiling,
                    "{named:?} {}",
                    pushed.err()
                );
                let long = house
                    .run_with(&[named, &["--timeout", "30m"]].concat(), &["true"])
                    .finish();
                assert_eq!(long.code() == 0, !ceiling, "{named:?} {}", long.err());
                if ceiling {
                    assert!(long.err().contains("org (system)"), "{}", long.err());
                }
            }
        }
        let listed = policy(house, &["explain", "-p", "default"]).out();
        let wall = listed.lines().find(|line| line.contains("\"7m\"")).unwrap_or_default();
        assert!(
            wall.contains("org (system)") && wall.contains("org.toml:10"),
            "{listed}"
        );
        assert!(!listed.contains("\"1h\""), "what it says nobody wrote: {listed}");
    });
}

#[test]
fn what_is_explained_in_a_project_is_what_a_run_there_does() {
    for_both("", |house| {
        let asks = |project: &str| {
            let (verdicts, told) = explained(house, &["--env", "SHOP_MODE", "--write", "${workspace}/x"], &["true"]);
            assert!(told.starts_with(project), "{told}");
            let (seen, _) = shop_mode(house);
            assert_eq!(verdicts[1] == "allow", seen == "<test>", "{told}");
            let written = house.run(&["touch", "x"]);
            assert_eq!(verdicts[0] == "allow", written.code() == 0, "{told}");
            (verdicts, told)
        };
        let (before, _) = asks("policy default (digest");
        assert_eq!(before, ["allow", "deny", "allow"]);
        house.write(
            "work/.fumehood.toml",
            format!("{SHOP}[filesystem]\nworkspace = \"read\"\n"),
        );
        let (untrusted, told) = asks("policy shop (.fumehood.toml, untrusted) under default (digest");
        assert_eq!(untrusted, ["deny", "deny", "allow"]);
        let not_given = "not given: environment.pass gives \"SHOP_MODE\"";
        assert_eq!(told.lines().nth(1), Some(not_given), "{told}");
        let listed = policy(house, &["explain"]).out();
        assert!(
            listed.contains(not_given) && listed.contains(".fumehood.toml:5"),
            "{listed}"
        );
        policy(house, &["trust", "--yes"]).expect(0);
        let (trusted, told) = asks("policy shop (.fumehood.toml, trusted) (digest");
        assert_eq!(trusted, ["deny", "allow", "allow"]);
        assert!(!told.contains("not given"), "{told}");
        // From anywhere: the workspace says which project.
        let elsewhere = house
            .cli()
            .args(["policy", "explain", "-w"])
            .args([house.workspace()])
            .current_dir(&house.home())
            .finish();
        assert!(elsewhere.out().starts_with("policy shop "), "{}", elsewhere.err());
    });
}

#[test]
fn what_would_refuse_a_run_is_explained() {
    for_both("inline_policies = \"narrow\"", |house| {
        house.write("work/own.toml", SHOP);
        let (verdicts, told) = explained(house, &["-p", "own.toml", "--env", "SHOP_MODE"], &["true"]);
        assert_eq!(verdicts, ["deny", "allow"], "{told}");
        for part in [
            "policy shop (request) under default (digest",
            "a run would be refused (POLICY_WIDENS): the policy `shop` gives more than `default`",
            "not given: environment.pass gives \"SHOP_MODE\"",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        house.run_with(&["-p", "own.toml"], &["true"]).finish().expect(125);
        policy(house, &["trust", "--yes", "own.toml"]).expect(0);
        let (verdicts, told) = explained(house, &["-p", "own.toml", "--env", "SHOP_MODE"], &["true"]);
        assert_eq!(verdicts, ["allow", "allow"], "{told}");
        assert!(!told.contains("refused"), "{told}");
        house.run_with(&["-p", "own.toml"], &["true"]).finish().expect(0);
    });
    let me = nix::unistd::geteuid().as_raw();
    let rules = format!(
        "[[access]]\nuid = {me}\npolicies = [\"locked\"]\ndefault = \"locked\"\ninline = \"none\"\n\
         [[access]]\nuid = {me}\nlabel = {{ team = \"web\" }}\nceiling = \"git\"\n"
    );
    let house = builder().config(&rules).build();
    let (_, told) = explained(&house, &["-p", "default"], &["true"]);
    let words = "no policy\na run would be refused (POLICY_NOT_ALLOWED): ";
    assert!(told.starts_with(words), "{told}");
    let (_, told) = explained(&house, &["--label", "team=web"], &["true"]);
    assert!(told.starts_with("policy locked under git (access) (digest"), "{told}");
    house.end();
}
