//! The commands beside `run`: doctor, ps, kill, policy, version.

use super::{for_both, house};

#[test]
fn doctor_says_what_this_machine_can_enforce_by_having_tried_it() {
    for_both(|house| {
        let ended = house.cli().args(["doctor", "--json"]).finish();
        let found: serde_json::Value = serde_json::from_str(&ended.out()).expect("one JSON document");
        assert_eq!(found["ok"], ended.code() == 0, "{}", ended.out());
        let capabilities = found["capabilities"].as_array().unwrap();
        for protection in [
            "filesystem_view",
            "filesystem_rights",
            "processes",
            "network",
            "system_calls",
            "privileges",
            "resources",
        ] {
            let of = capabilities
                .iter()
                .filter(|capability| capability["protection"] == protection);
            let states: Vec<_> = of.map(|capability| capability["state"].as_str().unwrap()).collect();
            assert!(!states.is_empty(), "nothing of {protection}: {}", ended.out());
        }
        // What is not in force says why, and every one that can be mended says how.
        for capability in capabilities.iter().filter(|capability| capability["state"] != "active") {
            assert!(!capability["detail"].as_str().unwrap().is_empty(), "{capability}");
        }
        ended.expect(0);
        let told = house.cli().args(["doctor"]).finish();
        told.expect(0);
        assert!(
            told.out().contains("network") && told.out().contains("active"),
            "{}",
            told.out()
        );
    });
}

#[test]
fn a_run_is_listed_while_it_runs_and_killed_by_its_id() {
    for_both(|house| {
        let mut run = house
            .run_with(&["--label", "what=test"], &["sh", "-c", "echo ready; exec sleep 86400"])
            .start();
        run.wait_for("ready");
        let listed = house.cli().args(["ps"]).finish();
        listed.expect(0);
        let line = listed.out().lines().nth(1).expect("a line of a run").to_owned();
        assert!(
            line.contains("running") && line.contains("sleep 86400"),
            "{}",
            listed.out()
        );
        let id = line.split_whitespace().next().unwrap();
        house
            .cli()
            .args(["kill", "--grace", "0s", "--reason", "enough", id])
            .finish()
            .expect(0);
        let ended = run.finish();
        ended.expect(137);
        assert!(ended.err().contains("enough"), "{}", ended.err());
        assert_eq!(
            house
                .cli()
                .args(["ps"])
                .finish()
                .out()
                .lines()
                .filter(|line| line.contains(id))
                .count(),
            0
        );
        assert!(house.cli().args(["ps", "--all"]).finish().out().contains(id));
    });
}

#[test]
fn policies_are_listed_and_shown() {
    let house = house();
    let listed = house.cli().args(["policy", "list"]).finish();
    listed.expect(0);
    let default = listed
        .out()
        .lines()
        .find(|line| line.contains('*'))
        .expect("a default")
        .to_owned();
    assert!(
        default.contains("default") && listed.out().contains("locked"),
        "{}",
        listed.out()
    );
    let shown = house.cli().args(["policy", "show", "locked"]).finish();
    shown.expect(0);
    assert!(shown.out().contains("name = \"locked\""), "{}", shown.out());
    let ended = house.cli().args(["policy", "show", "nobody"]).finish();
    ended.expect(125);
    assert!(
        ended.err().contains("nobody") && ended.err().contains("locked"),
        "{}",
        ended.err()
    );
}

#[test]
fn version_tells_of_the_program_and_the_daemon() {
    let house = house();
    let ended = house.cli().args(["version"]).finish();
    ended.expect(0);
    assert!(ended.out().contains(env!("CARGO_PKG_VERSION")), "{}", ended.out());
    assert!(ended.out().contains(&house.daemon().pid.to_string()), "{}", ended.out());
}
