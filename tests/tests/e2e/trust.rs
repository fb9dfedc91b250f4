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
            let ended = house.run_with(&[options, &["-t", "40s"]].concat(), &["true"]).finish();
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
        house.run_with(&["-t", "40s"], &["true"]).finish().expect(125);
        fs::remove_file(house.path("policies/bad.toml")).unwrap();
        let ended = policy(house, &["reload"]);
        ended.expect(0);
        assert_eq!(ended.out().lines().next(), Some("changed: org"));
        house.run_with(&["-t", "40s"], &["true"]).finish().expect(0);
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
