//! `fumehood policy`: what policies say, read from files by this program itself, or had from a daemon by name.
//!
//! Nothing is run, and of the paths that are asked about none is looked at: a link may lead elsewhere.

mod source;
mod told;

use std::path::{Component, Path, PathBuf};

use fumehood_policies::{
    Access, Answer, Diff, Expectation, Facts, Level, Lint, Policy, Resolved, Tried, lint, parse_tests, resolve,
};
use serde_json::{Value, json};

use self::source::{Source, Wrong};
use self::told::safe;
use crate::args::{ExplainArgs, PolicyCommand};
use crate::failure::{Failure, chain};
use crate::json::hex;
use crate::start::{self, Connected};
use crate::{learn, listing, print, tell, trust};

/// The exit code when something was found that is not right.
const FOUND: u8 = 1;

/// Does what a subcommand of `policy` asks.
pub async fn run(command: PolicyCommand) -> Result<u8, Failure> {
    match command {
        PolicyCommand::List { connect } => listing::policies(connect).await,
        PolicyCommand::Reload { connect } => trust::reload(&connect).await.map(|()| 0),
        PolicyCommand::Trust { path, yes, connect } => trust::trust(&path, yes, &connect).await,
        PolicyCommand::Untrust { path, connect } => trust::untrust(&path, &connect).await.map(|()| 0),
        PolicyCommand::Trusted { connect } => trust::trusted(&connect).await.map(|()| 0),
        PolicyCommand::Show {
            name,
            resolved,
            connect,
        } => {
            let name = name.unwrap_or_default();
            if !resolved && !source::is_file(&name) {
                let Connected { client, .. } = start::connect(&connect).await?;
                let policy = client.policy(name).await?;
                let end = if policy.toml.ends_with('\n') { "" } else { "\n" };
                print(&format!("{}{end}", policy.toml))?;
                return Ok(0);
            }
            with(Source::find(&name, &connect).await?, |source| {
                let text = match resolved {
                    true => source.resolved.policy.to_toml(),
                    false => source.file.text().to_owned(),
                };
                print(&text)?;
                Ok(0)
            })
        }
        PolicyCommand::Check {
            files,
            deny_warnings,
            json,
        } => check(&files, deny_warnings, json),
        PolicyCommand::Explain(args) => explain(*args).await,
        PolicyCommand::Learn(args) => learn::run(*args).await,
        PolicyCommand::Test { files, json } => test(&files, json),
        PolicyCommand::Diff {
            a,
            b,
            workspace,
            json,
            connect,
        } => {
            let place = Place::of(workspace.as_deref())?;
            let (a, b) = (Source::find(&a, &connect).await?, Source::find(&b, &connect).await?);
            match (a, b) {
                (Ok(a), Ok(b)) => {
                    let diff = Diff::of(&a.resolved.policy, &b.resolved.policy, place.facts());
                    let text = match json {
                        true => line(told::diff_json(&a, &b, &diff)),
                        false => told::diff(&a, &b, &diff),
                    };
                    print(&text)?;
                    Ok(0)
                }
                (a, b) => {
                    for wrong in [a.err(), b.err()].into_iter().flatten() {
                        tell(&safe(&wrong.to_string()));
                    }
                    Ok(FOUND)
                }
            }
        }
        PolicyCommand::Schema => {
            print(include_str!("../../../policies/schema/policy.schema.json"))?;
            Ok(0)
        }
    }
}

/// Goes on with a policy, or says what is wrong with it.
fn with(source: Result<Source, Wrong>, go_on: impl FnOnce(Source) -> Result<u8, Failure>) -> Result<u8, Failure> {
    match source {
        Ok(source) => go_on(source),
        Err(wrong) => {
            tell(&safe(&wrong.to_string()));
            Ok(FOUND)
        }
    }
}

fn line(value: Value) -> String {
    format!("{value}\n")
}

/// `check`: every error and every lint of every file.
fn check(files: &[PathBuf], deny_warnings: bool, json: bool) -> Result<u8, Failure> {
    let mut text = String::new();
    let mut all = Vec::new();
    let (mut errors, mut warnings) = (0, 0);
    for path in files {
        let shown = path.display().to_string();
        match Source::file(path) {
            Err(wrong) => {
                errors += 1;
                text += &format!("{wrong}\n\n");
                all.push(told::wrong_json(&shown, &wrong));
            }
            Ok(source) => {
                let found = lint(&source.file, &source.resolved);
                let count = found.iter().filter(|lint| lint.level == Level::Warning).count();
                warnings += count;
                for lint in &found {
                    text += &told::lint(lint);
                    text.push('\n');
                }
                let Policy { name, digest, .. } = &source.resolved.policy;
                let notes = found.len() - count;
                text += &format!(
                    "{shown}: policy `{name}` can be used: {}, {} (digest {})\n",
                    told::counted(count, "warning"),
                    told::counted(notes, "note"),
                    hex(&digest.0).get(..12).unwrap_or_default(),
                );
                all.push(json!({
                    "file": shown, "ok": true, "name": name, "digest": hex(&digest.0), "errors": [],
                    "lints": found.iter().map(lint_json).collect::<Vec<_>>(),
                }));
            }
        }
    }
    print(&match json {
        true => line(json!({ "files": all })),
        false => safe(&text),
    })?;
    Ok(if errors > 0 || (deny_warnings && warnings > 0) {
        FOUND
    } else {
        0
    })
}

fn lint_json(lint: &Lint) -> Value {
    let (line, column) = lint.place.position();
    json!({
        "level": lint.level.name(), "key": lint.key, "file": lint.place.origin(), "line": line, "column": column,
        "message": lint.message, "help": lint.help,
    })
}

/// `test`: the expectations of files, and of `NAME.test.toml` beside them.
fn test(files: &[PathBuf], json: bool) -> Result<u8, Failure> {
    let project = [PathBuf::from(".fumehood.toml")];
    let files = if files.is_empty() { &project[..] } else { files };
    let (mut text, mut all) = (String::new(), Vec::new());
    let (mut held, mut failed, mut wrong) = (0, 0, 0);
    // The places of expectations do not depend on who asks.
    let facts = Facts {
        home: "/home/user",
        workspace: "/home/user/workspace",
    };
    for path in files {
        let tried = Source::file(path).and_then(|source| {
            let mut tests: Vec<Expectation> = source.file.tests().to_vec();
            let beside = path.with_extension("test.toml");
            if beside.exists() {
                let bytes = source::read(&beside)?;
                tests.extend(parse_tests(&bytes, &beside.display().to_string()).map_err(Wrong::Parse)?);
            }
            Ok(source.resolved.try_all(&tests, facts))
        });
        let shown = path.display().to_string();
        match tried {
            Err(error) => {
                wrong += 1;
                text += &format!("{error}\n\n");
                all.push(told::wrong_json(&shown, &error));
            }
            Ok(tried) => {
                if tried.is_empty() {
                    text += &format!(
                        "{shown}: no expectations; write [[tests]] in it, or in {}\n",
                        path.with_extension("test.toml").display()
                    );
                }
                held += tried.iter().filter(|tried| tried.holds()).count();
                for tried in tried.iter().filter(|tried| !tried.holds()) {
                    failed += 1;
                    text += &told::failed(tried);
                }
                let tests: Vec<_> = tried.iter().map(tried_json).collect();
                all.push(json!({ "file": shown, "ok": tried.iter().all(Tried::holds), "tests": tests }));
            }
        }
    }
    text += &match wrong {
        0 => format!("{held} of {} hold\n", told::counted(held + failed, "expectation")),
        _ => format!(
            "{held} of {} hold; {} could not be read\n",
            told::counted(held + failed, "expectation"),
            told::counted(wrong, "file")
        ),
    };
    print(&match json {
        true => line(json!({ "held": held, "failed": failed, "files": all })),
        false => safe(&text),
    })?;
    Ok(if failed + wrong > 0 { FOUND } else { 0 })
}

fn tried_json(tried: &Tried) -> Value {
    json!({
        "place": tried.place, "holds": tried.holds(), "expected": tried.expected.name(),
        "answer": told::answer_json(&tried.answer),
    })
}

/// `explain`: the whole policy, or one question.
async fn explain(args: ExplainArgs) -> Result<u8, Failure> {
    let place = Place::of(args.workspace.as_deref())?;
    let name = args.policy.clone().unwrap_or_default();
    let source = Source::find(&name.to_string_lossy(), &args.connect).await?;
    with(source, |source| {
        let answers = answers(&args, &source.resolved, &place)?;
        let text = match (args.json, answers.is_empty()) {
            (true, _) => line(told::explained_json(&source, &answers)),
            (false, true) => told::policy(&source),
            (false, false) => answers.iter().map(told::answer).collect(),
        };
        print(&text)?;
        Ok(0)
    })
}

fn answers(args: &ExplainArgs, resolved: &Resolved, place: &Place) -> Result<Vec<Answer>, Failure> {
    type Ask = for<'a> fn(&'a str) -> Access<'a>;
    let kinds: [(&[PathBuf], Ask); 3] = [
        (&args.read, |path| Access::Read(path)),
        (&args.write, |path| Access::Write(path)),
        (&args.execute, |path| Access::Execute(path)),
    ];
    let facts = place.facts();
    let mut answers = Vec::new();
    for (paths, ask) in kinds {
        for path in paths {
            let path = place.absolute(path)?;
            answers.push(resolved.explain_access(ask(&path), facts));
        }
    }
    for (host, port) in &args.host {
        answers.push(resolved.explain_access(Access::Connect(host, *port), facts));
    }
    for name in &args.env {
        answers.push(resolved.explain_access(Access::Environment(name), facts));
    }
    if !args.command.is_empty() {
        use std::os::unix::ffi::OsStrExt;
        let argv: Vec<Vec<u8>> = args.command.iter().map(|word| word.as_bytes().to_vec()).collect();
        answers.push(resolved.explain_command(&argv));
    }
    Ok(answers)
}

/// Where the paths of policies lie for whoever asks.
struct Place {
    home: String,
    workspace: String,
    current: PathBuf,
}

impl Place {
    fn of(workspace: Option<&Path>) -> Result<Place, Failure> {
        let current = std::env::current_dir().map_err(Failure::CurrentDirectory)?;
        let workspace = workspace.unwrap_or(&current);
        let workspace = workspace.canonicalize().map_err(|source| Failure::File {
            action: "find the workspace",
            path: workspace.to_owned(),
            source,
        })?;
        if !workspace.is_dir() {
            return Err(Failure::WorkspaceNotDirectory(workspace));
        }
        // As the daemon: the account's, not what a variable says.
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
        let home = user.map_or_else(|| "/nonexistent".to_owned(), |user| user.dir.display().to_string());
        Ok(Place {
            home,
            workspace: workspace.display().to_string(),
            current,
        })
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            home: &self.home,
            workspace: &self.workspace,
        }
    }

    /// A path as one types it: relative to the current directory, or with a variable of policies.
    fn absolute(&self, path: &Path) -> Result<String, Failure> {
        let Some(text) = path.to_str() else {
            return Err(Failure::PathNotText(path.to_owned()));
        };
        let variables = [
            ("${home}", self.home.as_str()),
            ("${workspace}", self.workspace.as_str()),
            ("${tmp}", "/tmp"),
        ];
        let mut text = text.to_owned();
        for (variable, base) in variables {
            if let Some(rest) = text.strip_prefix(variable) {
                text = format!("{base}{rest}");
            }
        }
        if let Some(rest) = text.strip_prefix("${cache}") {
            text = format!("{}/.cache{rest}", self.home);
        }
        let mut names: Vec<String> = Vec::new();
        for part in self.current.join(&text).components() {
            match part {
                Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
                Component::ParentDir => drop(names.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(format!("/{}", names.join("/")))
    }
}

/// Puts a file together with what it extends.
fn put_together(file: fumehood_policies::PolicyFile, load: fumehood_policies::Load<'_>) -> Result<Source, Wrong> {
    let resolved = resolve(&file, load).map_err(Wrong::Parse)?;
    Ok(Source { file, resolved })
}

/// What is wrong, with its causes.
fn why(error: &dyn std::error::Error) -> String {
    chain(error)
}
