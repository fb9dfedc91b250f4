//! Who may speak to a daemon.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use fumehood_tests::{Cli, House, as_root_only};

use super::{builder, house};

const STRANGER: u32 = 54_322;

/// A command line of another user's at a socket that file modes would let anybody reach.
fn stranger(house: &House) -> Cli {
    fs::set_permissions(house.path("run"), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(house.socket(), Permissions::from_mode(0o666)).unwrap();
    Cli::new(house.program(), Some(STRANGER))
        .env("HOME", "/nonexistent")
        .env("FUMEHOOD_SOCKET", house.socket())
        .current_dir("/".as_ref())
}

#[test]
fn the_socket_is_for_its_owner_alone() {
    let house = house();
    assert_eq!(
        fs::metadata(house.socket()).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn another_user_is_denied_every_call() {
    if !as_root_only("another user is denied") {
        return;
    }
    let house = house();
    for arguments in [
        &["ps"][..],
        &["policy", "list"],
        &["kill", "x"],
        &["run", "--workspace", "/usr/share", "--", "true"],
    ] {
        let ended = stranger(&house).args(arguments).finish();
        ended.expect(125);
        assert!(
            ended.err().contains("permission denied") && ended.err().contains("uid:54322"),
            "{arguments:?}: {}",
            ended.err()
        );
        assert!(
            ended.err().contains("allowed_uids"),
            "it says what would allow it: {}",
            ended.err()
        );
    }
    assert!(house.records().iter().all(|record| record["kind"] != "intent"));
}

#[test]
fn a_user_whom_the_configuration_names_may_run_commands_as_themselves_and_sees_no_others() {
    if !as_root_only("a named user is allowed") {
        return;
    }
    let house = builder().config(&format!("allowed_uids = [0, {STRANGER}]")).build();
    house.sh("true").expect(0);
    let theirs = house.make_directory("theirs", 0o755);
    std::os::unix::fs::chown(&theirs, Some(STRANGER), Some(STRANGER)).unwrap();
    let ended = stranger(&house)
        .args(["run", "--workspace"])
        .args([&theirs])
        .args(["--", "sh", "-c", "id -u; touch made"])
        .finish();
    ended.expect(0);
    assert_eq!(ended.out(), format!("{STRANGER}\n"));
    let list = |cli: Cli| cli.args(["ps", "--all"]).finish().out().lines().count();
    // A line of headings, and their own.
    assert_eq!(list(stranger(&house)), 2);
    assert_eq!(list(house.cli()), 3, "root sees all of them");
}

#[test]
fn a_client_trusts_no_other_users_daemon() {
    if !as_root_only("a client trusts no other user's daemon") {
        return;
    }
    // The daemon is an ordinary user's, and a third one is asked to trust it.
    let house = builder().who(fumehood_tests::Who::Ordinary).build();
    let ended = stranger(&house).args(["ps"]).finish();
    ended.expect(125);
    assert!(
        ended.err().contains(&format!("runs as user id {}", house.uid())),
        "{}",
        ended.err()
    );
}
