//! `fumehood policy reload`, `trust`, `untrust` and `trusted`: what the user has decided about files.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use fumehood_client::proto::v1::ExaminePolicyResponse;

use crate::args::ConnectArgs;
use crate::failure::Failure;
use crate::json::hex;
use crate::start::{self, Connected};
use crate::{print, render, table};

/// The project's own file.
const PROJECT_FILE: &str = ".fumehood.toml";

/// `policy reload`.
pub async fn reload(connect: &ConnectArgs) -> Result<(), Failure> {
    let Connected { client, .. } = start::connect(connect).await?;
    let now = client.reload_policies().await?;
    let mut lines = String::new();
    for (what, names) in [("new", now.added), ("changed", now.changed), ("gone", now.removed)] {
        if !names.is_empty() {
            lines += &format!("{what}: {}\n", names.join(", "));
        }
    }
    if lines.is_empty() {
        lines = "the policies are as they were\n".to_owned();
    }
    for file in now.ignored {
        let (path, reason) = (render::text(file.path.as_bytes()), render::text(file.reason.as_bytes()));
        lines += &format!("without effect: {path}: {reason}\n");
    }
    print(&lines)
}

/// `policy trust`: shows what it gives, asks, and trusts what was shown.
pub async fn trust(path: &Path, yes: bool, connect: &ConnectArgs) -> Result<u8, Failure> {
    let path = file(path)?;
    let Connected { client, .. } = start::connect(connect).await?;
    let examined = client.examine_policy(path.as_os_str().as_bytes().to_vec()).await?;
    print(&shown(&examined))?;
    if examined.trusted {
        return Ok(0);
    }
    if !yes && !asked()? {
        return Ok(1);
    }
    client.trust_policy(&examined).await?;
    print("trusted, until the file is changed\n")?;
    Ok(0)
}

/// `policy untrust`.
pub async fn untrust(path: &Path, connect: &ConnectArgs) -> Result<(), Failure> {
    // The file may be gone, and its directory too.
    let path = file(path).or_else(|_| std::path::absolute(path).map_err(unreadable(path)))?;
    let Connected { client, .. } = start::connect(connect).await?;
    client.untrust_policy(path.as_os_str().as_bytes().to_vec()).await?;
    print(&format!(
        "{}: not trusted any more\n",
        render::text(path.as_os_str().as_bytes())
    ))
}

/// `policy trusted`.
pub async fn trusted(connect: &ConnectArgs) -> Result<(), Failure> {
    let Connected { client, .. } = start::connect(connect).await?;
    let mut rows = vec![
        ["FILE", "POLICY", "DIGEST", "STATE", "SINCE", "BY"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for file in client.trusted_policies().await? {
        let state = if file.current { "trusted" } else { "changed" };
        let digest = hex(&file.policy_digest);
        rows.push(vec![
            render::text(&file.path),
            file.name,
            digest.get(..12).unwrap_or(&digest).to_owned(),
            state.to_owned(),
            file.at,
            file.by,
        ]);
    }
    print(&(table::lines(&rows).join("\n") + "\n"))
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::File {
        action: "find",
        path: path.to_owned(),
        source,
    }
}

/// The file that is meant, without links in its directories.
fn file(path: &Path) -> Result<PathBuf, Failure> {
    let path = if path.is_dir() {
        path.join(PROJECT_FILE)
    } else {
        path.to_owned()
    };
    let name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let real = directory.canonicalize().map_err(unreadable(directory))?;
    Ok(real.join(name))
}

/// What trusting a file means, in words.
fn shown(examined: &ExaminePolicyResponse) -> String {
    let digest = hex(&examined.policy_digest);
    let digest = digest.get(..12).unwrap_or(&digest);
    let mut text = format!(
        "{}: policy `{}` {digest}\n",
        render::text(&examined.path),
        examined.name
    );
    if examined.trusted {
        text += "it is trusted as it is\n";
    }
    if examined.changed {
        text += "it was trusted before, and has changed since\n";
    }
    let ceilings = match examined.ceilings.as_slice() {
        [] => String::new(),
        some => format!(", under {}", some.join(", ")),
    };
    match examined.widenings.as_slice() {
        [] => text += &format!("it gives nothing that `{}` does not{ceilings}\n", examined.base),
        some => {
            text += &format!("trusted, it gives beyond `{}`{ceilings}:\n", examined.base);
            for widening in some {
                text += &format!("  {}\n", render::text(widening.as_bytes()));
            }
        }
    }
    text
}

/// Asks on the terminal.
fn asked() -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::NobodyToAsk);
    }
    let failed = |source| Failure::System {
        action: "ask on the terminal",
        source,
    };
    let mut stderr = io::stderr();
    write!(stderr, "Trust it? [y/N] ")
        .and_then(|()| stderr.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_its_file_and_links_are_resolved() {
        let place = tempfile::tempdir().unwrap();
        let real = place.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("work")).unwrap();
        std::os::unix::fs::symlink(real.join("work"), real.join("link")).unwrap();
        assert_eq!(file(&real.join("link")).unwrap(), real.join("work/.fumehood.toml"));
        assert_eq!(file(&real.join("link/ci.toml")).unwrap(), real.join("work/ci.toml"));
        assert!(file(&real.join("gone/ci.toml")).is_err());
    }

    #[test]
    fn what_trusting_gives_is_said_with_what_holds_over_it() {
        let mut examined = ExaminePolicyResponse {
            path: "/w/.fumehood.toml".into(),
            name: "shop".to_owned(),
            policy_digest: vec![0xab; 32].into(),
            base: "default".to_owned(),
            widenings: vec!["filesystem.write gives \"/srv\"".to_owned()],
            ceilings: vec!["org (system)".to_owned()],
            ..ExaminePolicyResponse::default()
        };
        assert_eq!(
            shown(&examined),
            "/w/.fumehood.toml: policy `shop` abababababab\ntrusted, it gives beyond `default`, under org (system):\n  \
             filesystem.write gives \"/srv\"\n"
        );
        examined.widenings.clear();
        examined.changed = true;
        assert!(
            shown(&examined).contains("changed since\nit gives nothing that `default` does not, under org (system)\n")
        );
    }
}
