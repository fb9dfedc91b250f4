//! A client nobody here wrote: Python's grpcio, which learns the API from reflection alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use fumehood_tests::{declared_absent, not_run};

use super::house;

const PACKAGES: [&str; 3] = ["grpcio", "grpcio-reflection", "protobuf"];

const TEST: &str = "a client that knows the API only from reflection";

fn has_grpc(python: &Path) -> bool {
    let found = Command::new(python)
        .args(["-c", "import grpc, grpc_reflection"])
        .output();
    found.is_ok_and(|output| output.status.success())
}

/// A Python with what the client needs: the named one, the system's, or one made for the tests.
fn python() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("FUMEHOOD_TEST_PYTHON") {
        let named = PathBuf::from(named);
        return if has_grpc(&named) {
            Ok(named)
        } else {
            panic!("{} lacks {PACKAGES:?}", named.display())
        };
    }
    if has_grpc(Path::new("python3")) {
        return Ok("python3".into());
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = venv.join("bin/python");
    let step = |program: &Path, arguments: &[&str]| -> Result<(), String> {
        match Command::new(program).args(arguments).output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("{}: {error}", program.display())),
        }
    };
    if !has_grpc(&python) {
        step(Path::new("python3"), &["-m", "venv", &venv.to_string_lossy()])?;
        let mut install = vec!["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        install.extend(PACKAGES);
        step(&python, &install)?;
    }
    Ok(python)
}

#[test]
fn a_client_that_knows_the_api_only_from_reflection_runs_a_command() {
    if declared_absent("PYTHON") {
        not_run(TEST, "the environment declares Python's grpcio absent");
        return;
    }
    let python = match python() {
        Ok(python) => python,
        Err(error) => {
            let packages = PACKAGES.join(" ");
            let how = format!(
                "there is no Python with grpcio, and none could be made ({error}). To run it: python3 -m venv DIR && \
                 DIR/bin/pip install {packages} && FUMEHOOD_TEST_PYTHON=DIR/bin/python cargo test -p fumehood-tests python"
            );
            not_run(TEST, &how);
            return;
        }
    };
    let house = house();
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/reflection_client.py");
    let output = Command::new(python)
        .arg(client)
        .arg(house.socket())
        .arg(house.workspace())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.ends_with("all as documented\n"), "{out}");
}
