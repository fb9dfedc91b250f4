//! Refusals are explained: which protection, what, which rule, what would allow it.

use fumehood_client::proto::v1::{Denial, Evidence, Protection, denial::Subject};
use fumehood_tests::{House, Told, inline, named_policy, send};

use super::{for_both, house};

/// A policy without a guard: init still hears of refused calls.
const UNGUARDED: &str = "version = 1\nname = \"unguarded\"\n[filesystem]\nworkspace = \"write\"\n\
                         execute = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/etc\"]\nprotect = []\ngit = \"open\"\n";

#[track_caller]
fn only(told: &Told) -> &Denial {
    let finished = told.finished();
    assert_eq!(finished.denials.len(), 1, "{:#?} {}", finished.denials, told.err());
    assert_eq!(told.denials(), [&finished.denials[0]], "the events tell the same");
    assert!(finished.denial_count >= 1);
    &finished.denials[0]
}

fn python(house: &House, script: &str) -> String {
    let path = house.write("work/probe.py", script);
    format!("python3 {}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_protected_path_names_the_rule_and_the_key() {
    let house = house();
    let client = house.client().await;
    let told = send(
        &client,
        house.script("mkdir -p .vscode 2>/dev/null; git init -q r && echo x > r/.git/hooks/pre-commit; exit 1"),
    )
    .await;
    let denials = &told.finished().denials;
    let of = |end: &str| {
        let at =
            |denial: &&Denial| matches!(&denial.subject, Some(Subject::Path(path)) if path.ends_with(end.as_bytes()));
        denials.iter().find(at).unwrap_or_else(|| panic!("{end}: {denials:#?}"))
    };
    let settings = of("/.vscode");
    assert_eq!(
        (settings.protection(), settings.operation.as_str(), settings.evidence()),
        (Protection::ProtectedPaths, "change", Evidence::Observed)
    );
    assert_eq!(settings.remedy, "filesystem.protect without .vscode");
    assert_eq!(of("/r/.git/hooks/pre-commit").remedy, "filesystem.git = \"open\"");
    house.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_system_call_is_named_under_every_policy() {
    let house = house();
    let client = house.client().await;
    let script = "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                  print(libc.unshare(0x10000000), ctypes.get_errno()); sys.exit(3)\n";
    let command = python(&house, script);
    for policy in [named_policy("default"), inline(UNGUARDED)] {
        let mut spec = house.script(&command);
        spec.policy = policy;
        let told = send(&client, spec).await;
        assert_eq!(told.out(), format!("-1 {}\n", nix::libc::EPERM), "{}", told.err());
        let denial = only(&told);
        assert_eq!(denial.subject, Some(Subject::SystemCall("unshare".to_owned())));
        assert_eq!(
            (denial.protection(), denial.evidence()),
            (Protection::SystemCalls, Evidence::Observed)
        );
        assert_eq!(denial.rule, "the profile default refuses creating a namespace");
        assert_eq!(denial.remedy, "");
    }
    house.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_other_profile_allows_says_so() {
    let house = house();
    let client = house.client().await;
    let command = python(
        &house,
        "import ctypes, sys\nctypes.CDLL(None).ptrace(16, 1, 0, 0); sys.exit(1)\n",
    );
    let mut spec = house.script(&command);
    spec.policy = inline(&format!("{UNGUARDED}[syscalls]\nprofile = \"strict\"\n"));
    let told = send(&client, spec).await;
    let denial = only(&told);
    assert_eq!(denial.subject, Some(Subject::SystemCall("ptrace".to_owned())));
    assert_eq!(denial.remedy, "syscalls.profile = \"default\"");
    house.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_programs_probe_are_no_denials() {
    let house = house();
    let client = house.client().await;
    // clone3 by the C library, openat2 and io_uring_setup as if by a runtime.
    let script = "import ctypes, sys, threading\nlibc = ctypes.CDLL(None)\n\
                  t = threading.Thread(target=print); t.start(); t.join()\n\
                  [libc.syscall(n, 0, 0, 0, 0) for n in (437, 425)]; sys.exit(1)\n";
    let told = send(&client, house.script(&python(&house, script))).await;
    assert!(told.finished().denials.is_empty(), "{:#?}", told.finished().denials);
    house.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_the_proxy_was_asked_for_is_named() {
    let house = house();
    let client = house.client().await;
    let script = "import urllib.request\nurllib.request.urlopen('https://registry.npmjs.org/x', timeout=5)\n";
    let told = send(&client, house.script(&python(&house, script))).await;
    let denial = only(&told);
    assert_eq!(
        denial.subject,
        Some(Subject::Address("registry.npmjs.org:443".to_owned()))
    );
    assert_eq!(
        (denial.protection(), denial.evidence()),
        (Protection::Network, Evidence::Observed)
    );
    assert_eq!(denial.remedy, "network.mode = \"host-without-isolation\"");
    house.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_command_complains_about_is_inferred_and_marked() {
    let house = house();
    let client = house.client().await;
    house.make_directory("home/.ssh", 0o700);
    house.write("home/.ssh/id", "key");
    let cases = [
        ("cat ~/.ssh/id", "read", "filesystem.hide without ${home}/.ssh"),
        ("echo x > /usr/fumehood-x", "write", "filesystem.write with this path"),
        ("cat /srv/nothing-here", "read", "filesystem.read with this path"),
    ];
    for (script, operation, remedy) in cases {
        let told = send(&client, house.script(script)).await;
        let denial = only(&told);
        assert_eq!(
            (denial.operation.as_str(), denial.remedy.as_str(), denial.evidence()),
            (operation, remedy, Evidence::Inferred),
            "{script}: {}",
            told.err()
        );
    }
    let script = "import socket\nsocket.create_connection(('192.0.2.1', 443))\n";
    let told = send(&client, house.script(&python(&house, script))).await;
    let denial = only(&told);
    assert_eq!(
        (denial.protection(), denial.evidence()),
        (Protection::Network, Evidence::Inferred)
    );
    // The same complaint of a command that succeeds, or about what is only missing, concludes nothing.
    for script in [
        "cat ~/.ssh/id || true",
        "cat nothing",
        "cat ~/nothing",
        "cat /usr/nothing",
    ] {
        let told = send(&client, house.script(script)).await;
        assert!(
            told.finished().denials.is_empty(),
            "{script}: {:#?}",
            told.finished().denials
        );
    }
    house.end();
}

#[test]
fn the_command_line_tells_of_denials_after_a_failure_only() {
    for_both(|house| {
        let ended = house.sh("mkdir .vscode .idea .zed .fleet 2>/dev/null; exit 7");
        ended.expect(7);
        let err = ended.err();
        let denied: Vec<_> = err.lines().filter(|line| line.contains("denied: change ")).collect();
        assert_eq!(denied.len(), 3, "{err}");
        assert!(
            denied[0].contains("/.vscode (protected-paths: filesystem.protect: .vscode); allowed by: filesystem.protect without .vscode in the policy"),
            "{err}"
        );
        assert!(err.contains("and 1 more denials"), "{err}");
        let ended = house.sh("mkdir .vscode 2>/dev/null; true");
        assert!(ended.err().is_empty(), "{}", ended.err());
        let ended = house
            .run_with(&["-v"], &["sh", "-c", "mkdir .vscode 2>/dev/null; true"])
            .finish();
        assert!(ended.err().contains("denied: change"), "{}", ended.err());
    });
}

#[test]
fn the_audit_log_has_the_denials_without_secrets() {
    let house = house();
    let secret = "ghp_0123456789abcdefghijklmnop";
    house
        .sh(&format!("mkdir -p .vscode/{secret} .idea 2>/dev/null; exit 1"))
        .expect(1);
    let records = house.records();
    let end = records.last().unwrap();
    assert!(end["denial_count"].as_u64().unwrap() >= 2, "{end}");
    let denials = end["denials"].as_array().unwrap();
    let first = denials
        .iter()
        .find(|denial| denial["subject"].as_str().unwrap().contains(".vscode"))
        .unwrap();
    assert_eq!(
        (&first["protection"], &first["inferred"]),
        (&"protected-paths".into(), &false.into())
    );
    assert!(!end.to_string().contains(secret), "{end}");
    house.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_is_counted_and_holds_nothing_up() {
    let house = house();
    let client = house.client().await;
    let script = "import ctypes, os, sys\nlibc = ctypes.CDLL(None)\n\
                  for n in range(20000): libc.unshare(0x10000000)\n\
                  for n in range(2000):\n try: os.mkdir(f'.vscode{n}' if n % 2 else '.vscode')\n except PermissionError: pass\n\
                  for n in range(200):\n os.makedirs(f'r{n}', exist_ok=True)\n try: os.symlink('x', f'r{n}/.git')\n except PermissionError: pass\n\
                  print('through'); sys.exit(1)\n";
    let told = send(&client, house.script(&python(&house, script))).await;
    assert_eq!(told.out(), "through\n", "{}", told.err());
    let finished = told.finished();
    assert!(finished.denials.len() <= 32, "{}", finished.denials.len());
    assert_eq!(told.denials().len(), finished.denials.len());
    assert!(finished.denial_count >= 21_000, "{}", finished.denial_count);
    house.end();
}
