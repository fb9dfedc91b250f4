//! Machines that lack something: each feature is taken away, as far as that can be done on one that has it. What requires it says how
//! to get it and does not run; what does not require it runs and says what is missing.

use fumehood_tests::{House, Who, is_root};

use super::builder;

/// Runs `check` in a daemon without `feature`, of whoever runs the tests and of an ordinary user.
fn without(feature: &str, check: impl Fn(&House)) {
    let who: &[Who] = if is_root() {
        &[Who::Me, Who::Ordinary]
    } else {
        &[Who::Me]
    };
    for who in who {
        let house = builder().who(*who).without(feature).build();
        check(&house);
        house.end();
    }
}

/// A policy that requires this beside what `default` requires, or nothing.
fn requiring(house: &House, protections: &str) -> String {
    let text = format!(
        "version = 1\nname = \"requiring\"\n[filesystem]\nworkspace = \"write\"\n\
         execute = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/etc\"]\n[protections]\nrequired = [{protections}]\n"
    );
    house.write("requiring.toml", text).display().to_string()
}

/// The state of a protection in the result of a run that went well, with its text.
fn state(house: &House, policy: &str, protection: &str) -> (String, String) {
    let ended = house.run_with(&["--json", "--policy", policy], &["true"]).finish();
    let events = ended.json();
    let started = events
        .iter()
        .find(|event| event["type"] == "started")
        .unwrap_or_else(|| panic!("it did not run: {}", ended.err()));
    let entries = started["enforcement"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["protection"] == protection).unwrap();
    let text = |key: &str| entry[key].as_str().unwrap().to_owned();
    (text("state"), text("detail"))
}

/// Expects that a run does not start, and that what it says holds all of `says`.
fn refused(house: &House, policy: &str, says: &[&str]) {
    let ended = house.run_with(&["--policy", policy], &["touch", "ran"]).finish();
    ended.expect(125);
    for text in says {
        assert!(ended.err().contains(text), "{text}: {}", ended.err());
    }
    assert!(!house.workspace().join("ran").exists());
}

#[test]
fn without_landlock() {
    without("landlock", |house| {
        let policy = requiring(house, "\"filesystem-view\"");
        let (state, detail) = state(house, &policy, "filesystem_rights");
        assert_eq!(state, "off", "{detail}");
        house.run(&["true"]).expect(0);
        refused(house, "locked", &["filesystem-rights", "landlock", "lsm="]);
        // The view holds by itself.
        let ended = house.sh("echo x > /usr/x; ls /root/.ssh; mkdir .vscode; true");
        assert!(ended.err().contains("Read-only file system") && !house.workspace().join(".vscode").exists());
    });
}

#[test]
fn without_calls_that_wait() {
    without("waiting-calls", |house| {
        let policy = requiring(house, "");
        let (state, detail) = state(house, &policy, "protected_paths");
        assert_eq!(state, "off", "{detail}");
        let ended = house.run_with(&["--policy", &policy], &["touch", "plain"]).finish();
        ended.expect(0);
        refused(house, "default", &["protected-paths", "Linux 5.14"]);
        let (state, _) = self::state(house, "locked", "protected_paths");
        assert_eq!(state, "active", "nothing is writable under it");
    });
}

#[test]
fn without_namespaces() {
    without("namespaces", |house| {
        refused(house, "default", &["namespaces"]);
        let ended = house.cli().args(["doctor"]).finish();
        assert!(
            ended.code() != 0 && ended.out().contains("namespaces"),
            "{}",
            ended.out()
        );
    });
}

#[test]
fn without_mounts() {
    without("mounts", |house| {
        refused(house, "default", &["filesystem", "mount"]);
        assert_ne!(house.cli().args(["doctor"]).finish().code(), 0);
    });
}
