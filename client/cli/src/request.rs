//! From the command line to the request.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fumehood_client::proto::convert::duration_from_std;
use fumehood_client::proto::v1::{
    CreateSessionRequest, EnvironmentVariable, FlowControl, InlinePolicy, InputMode, OnDisconnect, OutputLayout,
    OutputOptions, PolicyReference, RequestedLimits, RunSpec, SessionSpec, ShellCarry, ShellLine, StartRequest,
    TerminalOptions, TerminalSize, policy_reference::Reference,
};

use crate::args::{Carry, RunArgs, SessionCreateArgs, Variable};
use crate::failure::Failure;

/// The longest policy file the wire takes, in bytes.
const MAX_POLICY_BYTES: u64 = 1_048_576;

/// What of this process enters a request.
pub struct Surroundings {
    /// The current directory.
    pub directory: PathBuf,
    /// The whole environment: the policy chooses from it.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether there is any input to pass on.
    pub input: bool,
}

/// The request that `args` ask for. The workspace and a policy file are looked at; the rest is the daemon's to judge.
///
/// # Errors
/// When the workspace is no directory, the policy file cannot be read, or `-e NAME` names no variable.
pub fn build(args: &RunArgs, surroundings: Surroundings) -> Result<StartRequest, Failure> {
    let Surroundings {
        directory,
        environment,
        input,
    } = surroundings;
    // In a session, these are the session's; a directory that is named may be one that only its commands see.
    let (workspace, cwd, caller_env) = match (&args.session, &args.cwd) {
        (Some(_), cwd) => (Bytes::new(), cwd.as_ref().map(|cwd| bytes(cwd.as_os_str())), Vec::new()),
        (None, cwd) => {
            let (workspace, cwd) = places(args.workspace.as_deref(), cwd.as_deref(), directory)?;
            (workspace, Some(cwd), all(&environment))
        }
    };
    let spec = RunSpec {
        argv: args.command.iter().map(|argument| bytes(argument)).collect(),
        shell: args.shell.as_ref().map(|line| ShellLine {
            line: bytes(line),
            carry: match args.carry {
                None => ShellCarry::Unspecified,
                Some(Carry::Nothing) => ShellCarry::Nothing,
                Some(Carry::Environment) => ShellCarry::Environment,
                Some(Carry::Everything) => ShellCarry::Everything,
            }
            .into(),
        }),
        session: args.session.clone().unwrap_or_default(),
        env: variables(&args.env, &environment)?,
        caller_env,
        workspace,
        cwd: cwd.unwrap_or_default(),
        policy: args.policy.as_deref().map(policy).transpose()?,
        limits: args.timeout.map(|wall| RequestedLimits {
            wall: Some(duration_from_std(wall)),
            ..RequestedLimits::default()
        }),
        input: if input { InputMode::Stream } else { InputMode::None }.into(),
        // As behind a shell's pipe: a slow reader holds the command back, and nothing is lost.
        output: Some(OutputOptions {
            flow: FlowControl::Block.into(),
            layout: if args.merged {
                OutputLayout::Merged
            } else {
                OutputLayout::Separate
            }
            .into(),
            ..OutputOptions::default()
        }),
        on_disconnect: match args.linger {
            _ if args.detach => OnDisconnect::Keep,
            Some(_) => OnDisconnect::Linger,
            None => OnDisconnect::Kill,
        }
        .into(),
        labels: args.labels.iter().cloned().collect(),
        // In a session, the session's.
        umask: umask().filter(|_| args.session.is_none()),
        terminal: args.tty.then(|| TerminalOptions {
            size: crate::tty::size().map(|(rows, columns)| TerminalSize { rows, columns }),
            // Empty: the daemon's default.
            term: std::env::var("TERM")
                .ok()
                .filter(|term| crate::tty::is_term(term))
                .unwrap_or_default(),
        }),
        linger: args.linger.map(duration_from_std),
        learn: None,
    };
    Ok(StartRequest {
        run_id: String::new(),
        spec: Some(spec),
    })
}

/// The session that `args` ask for.
///
/// # Errors
/// As [`build`].
pub fn session(args: &SessionCreateArgs, surroundings: Surroundings) -> Result<CreateSessionRequest, Failure> {
    let Surroundings {
        directory, environment, ..
    } = surroundings;
    let (workspace, cwd) = places(args.workspace.as_deref(), args.cwd.as_deref(), directory)?;
    let spec = SessionSpec {
        workspace,
        cwd,
        policy: args.policy.as_deref().map(policy).transpose()?,
        caller_env: all(&environment),
        env: variables(&args.env, &environment)?,
        limits: None,
        labels: args.labels.iter().cloned().collect(),
        umask: umask(),
        idle_timeout: args.idle_timeout.map(duration_from_std),
        lifetime: args.lifetime.map(duration_from_std),
    };
    Ok(CreateSessionRequest {
        session_id: args.id.clone().unwrap_or_default(),
        spec: Some(spec),
    })
}

/// Workspace and working directory.
fn places(named: Option<&Path>, cwd: Option<&Path>, directory: PathBuf) -> Result<(Bytes, Bytes), Failure> {
    let workspace = workspace(named, &directory)?;
    let cwd = match cwd {
        Some(cwd) => bytes(cwd.as_os_str()),
        None if directory.starts_with(&workspace) => bytes(directory.as_os_str()),
        None => Bytes::new(),
    };
    Ok((bytes(workspace.as_os_str()), cwd))
}

/// The caller's whole environment, for the policy to choose from.
fn all(environment: &[(OsString, OsString)]) -> Vec<EnvironmentVariable> {
    distinct(
        environment
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str())),
    )
}

/// This process's umask, so that files come out as under the caller's shell. `None` where the kernel does not tell (before 4.7).
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let octal = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(octal.trim(), 8).ok()
}

fn workspace(named: Option<&Path>, directory: &Path) -> Result<PathBuf, Failure> {
    let named = named.map_or_else(|| directory.to_owned(), |named| directory.join(named));
    let real = named.canonicalize().map_err(|source| Failure::File {
        action: "find the workspace",
        path: named.clone(),
        source,
    })?;
    if real.is_dir() {
        Ok(real)
    } else {
        Err(Failure::WorkspaceNotDirectory(named))
    }
}

/// The variables of `-e`; of two with the same name the last counts.
fn variables(asked: &[Variable], environment: &[(OsString, OsString)]) -> Result<Vec<EnvironmentVariable>, Failure> {
    let mut pairs = Vec::with_capacity(asked.len());
    for variable in asked {
        pairs.push(match variable {
            Variable::Set(name, value) => (name.as_os_str(), value.as_os_str()),
            Variable::Pass(name) => environment
                .iter()
                .find(|(known, _)| known == name)
                .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
                .ok_or_else(|| Failure::NoVariable(name.to_string_lossy().into_owned()))?,
        });
    }
    let mut variables = distinct(pairs.into_iter().rev());
    variables.reverse();
    Ok(variables)
}

/// The first of each name: the wire wants a name at most once, an environment is a mere list.
fn distinct<'a>(pairs: impl Iterator<Item = (&'a OsStr, &'a OsStr)>) -> Vec<EnvironmentVariable> {
    let mut names = std::collections::HashSet::new();
    pairs
        .filter(|(name, _)| names.insert(*name))
        .map(|(name, value)| EnvironmentVariable {
            name: bytes(name),
            value: bytes(value),
        })
        .collect()
}

/// A value with a `/` or ending in `.toml` is a file, which is sent along; any other is a name the daemon knows.
pub fn policy(value: &Path) -> Result<PolicyReference, Failure> {
    let raw = value.as_os_str().as_bytes();
    if !raw.contains(&b'/') && !raw.ends_with(b".toml") {
        let name = value.to_str().ok_or(Failure::PolicyName)?.to_owned();
        return Ok(PolicyReference {
            reference: Some(Reference::Name(name)),
        });
    }
    let path = value.to_owned();
    let read = || {
        let mut text = Vec::new();
        File::open(value)?.take(MAX_POLICY_BYTES + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    let toml = read().map_err(|source| Failure::File {
        action: "read the policy",
        path: path.clone(),
        source,
    })?;
    if toml.len() as u64 > MAX_POLICY_BYTES {
        return Err(Failure::PolicyTooLong {
            path,
            limit: MAX_POLICY_BYTES,
        });
    }
    let origin = path.to_string_lossy().into_owned();
    Ok(PolicyReference {
        reference: Some(Reference::Inline(InlinePolicy {
            toml: toml.into(),
            origin,
            ..InlinePolicy::default()
        })),
    })
}

fn bytes(text: &OsStr) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn built(arguments: &[&str], directory: &Path) -> Result<RunSpec, Failure> {
        let all = ["fumehood", "run"].iter().chain(arguments).chain(&["--", "true"]);
        let crate::args::Command::Run(args) = crate::args::Cli::parse_from(all).command else {
            panic!()
        };
        let pairs = [("A", "1"), ("B", "2"), ("A", "shadowed")];
        let environment = pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
        build(
            &args,
            Surroundings {
                directory: directory.to_owned(),
                environment,
                input: true,
            },
        )
        .map(|request| request.spec.unwrap())
    }

    fn pairs(variables: &[EnvironmentVariable]) -> Vec<(&[u8], &[u8])> {
        variables
            .iter()
            .map(|variable| (&variable.name[..], &variable.value[..]))
            .collect()
    }

    #[test]
    fn the_current_directory_is_the_workspace_and_the_working_directory() {
        let here = tempfile::tempdir().unwrap();
        let here = here.path().canonicalize().unwrap();
        let spec = built(&[], &here).unwrap();
        assert_eq!(
            (&spec.workspace[..], &spec.cwd[..]),
            (here.as_os_str().as_bytes(), here.as_os_str().as_bytes())
        );
        assert_eq!(spec.output.unwrap().flow(), FlowControl::Block);
        assert_eq!(spec.policy, None);
    }

    #[test]
    fn in_a_session_nothing_is_said_that_is_the_sessions() {
        let here = tempfile::tempdir().unwrap();
        let all = [
            "fumehood", "run", "-s", "dev", "-C", "/tmp/x", "-e", "X=1", "-c", "make",
        ];
        let crate::args::Command::Run(args) = crate::args::Cli::parse_from(all).command else {
            panic!()
        };
        let surroundings = Surroundings {
            directory: here.path().to_owned(),
            environment: vec![("A".into(), "1".into())],
            input: false,
        };
        let spec = build(&args, surroundings).unwrap().spec.unwrap();
        assert_eq!((spec.session.as_str(), &spec.cwd[..]), ("dev", &b"/tmp/x"[..]));
        assert_eq!(spec.shell.unwrap().line, "make");
        assert_eq!(pairs(&spec.env), [(&b"X"[..], &b"1"[..])]);
        assert!(spec.workspace.is_empty() && spec.caller_env.is_empty() && spec.argv.is_empty());
        assert_eq!((spec.umask, spec.policy), (None, None));
    }

    #[test]
    fn a_workspace_around_the_current_directory_keeps_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (inner, other) = (root.join("inner"), root.join("other"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::create_dir(&other).unwrap();
        let spec = built(&["--workspace", ".."], &inner).unwrap();
        assert_eq!(
            (&spec.workspace[..], &spec.cwd[..]),
            (root.as_os_str().as_bytes(), inner.as_os_str().as_bytes())
        );
        let spec = built(&["--workspace", "../other"], &inner).unwrap();
        assert_eq!(
            (&spec.workspace[..], &spec.cwd[..]),
            (other.as_os_str().as_bytes(), &b""[..])
        );
        let spec = built(&["--cwd", "sub"], &inner).unwrap();
        assert_eq!(&spec.cwd[..], b"sub");
    }

    #[test]
    fn a_workspace_that_is_none_is_refused() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("file"), "").unwrap();
        assert!(matches!(
            built(&["-w", "missing"], here.path()),
            Err(Failure::File { .. })
        ));
        assert!(matches!(
            built(&["-w", "file"], here.path()),
            Err(Failure::WorkspaceNotDirectory(_))
        ));
    }

    #[test]
    fn variables_are_set_passed_on_and_named_once() {
        let here = tempfile::tempdir().unwrap();
        let spec = built(&["-e", "X=1", "-e", "B", "-e", "X=2"], here.path()).unwrap();
        assert_eq!(pairs(&spec.env), [(&b"B"[..], &b"2"[..]), (b"X", b"2")]);
        assert_eq!(pairs(&spec.caller_env), [(&b"A"[..], &b"1"[..]), (b"B", b"2")]);
        assert!(matches!(
            built(&["-e", "MISSING"], here.path()),
            Err(Failure::NoVariable(_))
        ));
    }

    #[test]
    fn a_policy_is_a_name_or_a_file() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("ci.toml");
        std::fs::write(&file, "version = 1").unwrap();
        let reference =
            |value: &str| built(&["--policy", value], here.path()).map(|spec| spec.policy.unwrap().reference.unwrap());
        assert_eq!(reference("locked").unwrap(), Reference::Name("locked".to_owned()));
        let Reference::Inline(inline) = reference(file.to_str().unwrap()).unwrap() else {
            panic!()
        };
        assert_eq!(
            (&inline.toml[..], inline.origin.as_str()),
            (&b"version = 1"[..], file.to_str().unwrap())
        );
        assert!(matches!(reference("./missing"), Err(Failure::File { .. })));
        assert!(matches!(reference("/"), Err(Failure::File { .. })));

        std::fs::write(&file, vec![b' '; 1_048_577]).unwrap();
        assert!(matches!(
            reference(file.to_str().unwrap()),
            Err(Failure::PolicyTooLong { .. })
        ));
    }
}
