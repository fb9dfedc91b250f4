//! `Policies.Check` and `Policies.Explain`: what is said about policies, in the form of the wire.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fumehood_policies::{Access, Facts, LayerReason, LayeredAnswer, Line, Lint, Reason, Stack, lint};
use fumehood_proto::v1;
use fumehood_proto::v1::policy_question::About;
use tonic::Status;

use super::request::{MAX_NOT_GIVEN, check_workspace, policy_reference};
use super::status;
use crate::peer::Peer;
use crate::policy::{Asking, Explained, Layer, Policies, PolicyStore, Reference, Refusal, StoreError};
use crate::run::{Asked, Host};

/// The most questions of one call.
const MAX_QUESTIONS: usize = 256;
/// How a file that comes with a call is named in findings.
const REQUEST: &str = "request";
/// Where nothing is.
const NOWHERE: &str = "/nonexistent";

/// Checks a file.
pub(super) fn check(store: &PolicyStore, request: &v1::CheckPolicyRequest) -> v1::CheckPolicyResponse {
    let v1::CheckPolicyRequest { toml } = request;
    match store.check(toml, REQUEST) {
        Ok((file, resolved)) => v1::CheckPolicyResponse {
            errors: Vec::new(),
            lints: lint(&file, &resolved).iter().map(finding).collect(),
        },
        Err(StoreError::Parse(errors)) => {
            let one = |(origin, error): (&str, &fumehood_policies::ParseError)| v1::PolicyFinding {
                level: "error".to_owned(),
                origin: origin.to_owned(),
                line: error.line,
                column: error.column,
                key: error.path.clone(),
                message: error.message.clone(),
                help: error.help.clone().unwrap_or_default(),
            };
            v1::CheckPolicyResponse {
                errors: errors.all().into_iter().map(one).collect(),
                lints: Vec::new(),
            }
        }
        Err(other) => v1::CheckPolicyResponse {
            errors: vec![v1::PolicyFinding {
                level: "error".to_owned(),
                origin: REQUEST.to_owned(),
                line: 1,
                column: 1,
                message: other.to_string(),
                ..v1::PolicyFinding::default()
            }],
            lints: Vec::new(),
        },
    }
}

fn finding(lint: &Lint) -> v1::PolicyFinding {
    let (line, column) = lint.place.position();
    v1::PolicyFinding {
        level: lint.level.name().to_owned(),
        origin: lint.place.origin().to_owned(),
        line,
        column,
        key: lint.key.clone(),
        message: lint.message.clone(),
        help: lint.help.clone(),
    }
}

/// Explains what would hold for a run of this peer. Blocks: the workspace is looked at, as for a run.
pub(super) fn explain(
    policies: &Policies,
    private: &Arc<[PathBuf]>,
    peer: &Peer,
    request: v1::ExplainPolicyRequest,
) -> Result<v1::ExplainPolicyResponse, Status> {
    let v1::ExplainPolicyRequest {
        policy,
        workspace,
        home,
        questions,
        labels,
    } = request;
    if questions.len() > MAX_QUESTIONS {
        let what = format!(
            "{} questions, at most {MAX_QUESTIONS} are answered at once",
            questions.len()
        );
        return Err(status::invalid_field("questions", what));
    }
    let reference = policy_reference(policy.as_ref()).map_err(|(field, what)| status::invalid_field(field, what))?;
    let place = Place::find(peer, private, &workspace, &home)?;
    let labels = labels.into_iter().collect();
    let asking = Asking {
        peer,
        labels: &labels,
        workspace: place.workspace.as_ref().map(|(path, uid)| (path.as_path(), *uid)),
    };
    let explained = policies.explain(asking, reference).map_err(|refusal| {
        let field = match (&refusal, reference) {
            (Refusal::Project(_), _) => "workspace",
            (Refusal::NoSuchPolicy { .. }, Reference::Inline(_)) => "policy.inline.under",
            (_, Reference::Inline(_)) => "policy.inline",
            _ => "policy.name",
        };
        status::invalid_field(field, refusal.to_string())
    })?;
    let Explained {
        choice,
        layers,
        refusal,
    } = explained;
    let uid = policies.current().uid();
    let shows = Shows {
        // Who may not read the workspace's files by themselves does not read them here.
        project: peer.is_user(0) || peer.is_user(uid),
        layers: &layers,
    };
    let refusal = refusal.map(|refusal| v1::PolicyRefusal {
        reason: status::refused_for(&refusal).to_owned(),
        message: refusal.to_string(),
    });
    let mut told = v1::ExplainPolicyResponse {
        refusal: refusal.or(place.refusal),
        ..v1::ExplainPolicyResponse::default()
    };
    let Some(choice) = choice else {
        return Ok(told);
    };
    told.name = choice.own.name.clone();
    told.digest = choice.policy.digest.0.to_vec().into();
    told.not_given = match shows.hides(&layers) {
        true if !choice.not_given.is_empty() => vec!["some of what the project's own file states".to_owned()],
        _ => status::widenings(&choice.not_given, MAX_NOT_GIVEN),
    };
    told.lines = shows.lines();
    told.layers = choice.layers;
    let named = layers.iter().map(|layer| fumehood_policies::Layer {
        name: &layer.name,
        resolved: &layer.resolved,
    });
    let stack = Stack::new(named.collect(), (*choice.policy).clone());
    let facts = match (questions.is_empty(), &place.facts) {
        (true, _) => return Ok(told),
        (false, None) => return Err(status::invalid_field("workspace", "missing; paths are meant in one")),
        (false, Some((home, workspace))) => Facts { home, workspace },
    };
    for (index, question) in questions.iter().enumerate() {
        let answer = answered(&stack, question, &format!("questions[{index}]"), facts)?;
        told.answers.push(shows.answer(answer));
    }
    Ok(told)
}

/// Where paths lie.
struct Place {
    /// The workspace as a run would have it, and as which user its command would run.
    workspace: Option<(PathBuf, u32)>,
    /// Home and workspace. `None`: no workspace was named.
    facts: Option<(String, String)>,
    /// Why no run can have that workspace.
    refusal: Option<v1::PolicyRefusal>,
}

impl Place {
    fn find(peer: &Peer, private: &Arc<[PathBuf]>, workspace: &[u8], home: &[u8]) -> Result<Place, Status> {
        let mut place = Place {
            workspace: None,
            facts: None,
            refusal: None,
        };
        if workspace.is_empty() {
            return Ok(place);
        }
        let named = check_workspace(workspace).map_err(|what| status::invalid_field("workspace", what))?;
        let caller_env = [(b"HOME".to_vec(), home.to_vec())];
        let asked = Asked {
            peer,
            workspace: &named,
            cwd: Path::new(""),
            caller_env: if home.is_empty() { &[] } else { &caller_env },
            private,
        };
        let text = |path: &Path, field| -> Result<String, Status> {
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| status::invalid_field(field, "not UTF-8, as paths of policies are"))
        };
        match Host::look_up(asked) {
            Ok(host) => {
                place.facts = Some((text(&host.home, "home")?, text(&host.workspace, "workspace")?));
                place.workspace = Some((host.workspace, host.identity.outside_uid));
            }
            Err(error) => {
                let home = match absolute("home", home) {
                    Ok(home) => home.to_owned(),
                    Err(_) => NOWHERE.to_owned(),
                };
                // What is no workspace gives nothing of what lies in it.
                place.facts = Some((home, format!("{NOWHERE}/workspace")));
                place.refusal = Some(v1::PolicyRefusal {
                    reason: "INVALID_WORKSPACE".to_owned(),
                    message: error.to_string(),
                });
            }
        }
        Ok(place)
    }
}

/// What a peer is shown.
struct Shows<'a> {
    /// Whether that is what the project's own file says, word by word.
    project: bool,
    layers: &'a [Layer],
}

impl Shows<'_> {
    fn hides<'l>(&self, layers: impl IntoIterator<Item = &'l Layer>) -> bool {
        !self.project && layers.into_iter().any(|layer| layer.project)
    }

    fn lines(&self) -> Vec<v1::PolicyLine> {
        let shown = self.layers.iter().filter(|layer| !self.hides([*layer]));
        let lines = shown.flat_map(|layer| layer.resolved.lines().into_iter().map(|found| line(found, &layer.name)));
        lines.collect()
    }

    fn answer(&self, answer: LayeredAnswer) -> v1::PolicyAnswer {
        let hidden = |name: &str| self.hides(self.layers.iter().filter(|layer| layer.name == name));
        let LayeredAnswer {
            question,
            verdict,
            mut reasons,
            mut help,
        } = answer;
        if reasons.iter().any(|reason| hidden(&reason.layer)) {
            help.clear();
        }
        for LayerReason { layer, reason } in &mut reasons {
            if hidden(layer) {
                reason.text = "says so".to_owned();
                reason.line = None;
            }
        }
        v1::PolicyAnswer {
            question,
            verdict: verdict.name().to_owned(),
            reasons: reasons.into_iter().map(reason).collect(),
            help,
        }
    }
}

fn answered(
    stack: &Stack<'_>,
    question: &v1::PolicyQuestion,
    field: &str,
    facts: Facts<'_>,
) -> Result<LayeredAnswer, Status> {
    let ask = |access| stack.explain_access(access, facts);
    let path = |path: &str| -> Result<String, Status> {
        let path = placed(path, facts);
        absolute(field, path.as_bytes())?;
        Ok(match path.trim_end_matches('/') {
            "" => "/".to_owned(),
            path => path.to_owned(),
        })
    };
    Ok(match &question.about {
        Some(About::Read(at)) => ask(Access::Read(&path(at)?)),
        Some(About::Write(at)) => ask(Access::Write(&path(at)?)),
        Some(About::Execute(at)) => ask(Access::Execute(&path(at)?)),
        Some(About::Host(text)) => {
            let parts = text
                .rsplit_once(':')
                .and_then(|(host, port)| Some((host, port.parse().ok()?)));
            let Some((host, port)) = parts.filter(|(host, port)| !host.is_empty() && *port > 0) else {
                return Err(status::invalid_field(field, "must be HOST:PORT, as example.org:443"));
            };
            let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
            ask(Access::Connect(&host, port))
        }
        Some(About::Environment(name)) => ask(Access::Environment(name)),
        Some(About::Command(v1::PolicyCommand { argv })) => {
            if argv.is_empty() {
                return Err(status::invalid_field(field, "the command is empty"));
            }
            let argv: Vec<Vec<u8>> = argv.iter().map(|word| word.to_vec()).collect();
            stack.explain_command(&argv)
        }
        None => return Err(status::invalid_field(field, "asks nothing")),
    })
}

/// A path without the variable that it begins with.
fn placed(path: &str, facts: Facts<'_>) -> String {
    let cache = format!("{}/.cache", facts.home);
    let variables = [
        ("${home}", facts.home),
        ("${workspace}", facts.workspace),
        ("${cache}", cache.as_str()),
        ("${tmp}", "/tmp"),
    ];
    let at = |(variable, base): &(&str, &str)| Some(format!("{base}{}", path.strip_prefix(variable)?));
    variables.iter().find_map(at).unwrap_or_else(|| path.to_owned())
}

/// A path as policies name it.
fn absolute<'a>(field: &str, path: &'a [u8]) -> Result<&'a str, Status> {
    let text = std::str::from_utf8(path).ok().filter(|text| text.starts_with('/'));
    let plain = |text: &&str| !text.split('/').any(|name| matches!(name, "." | ".."));
    text.filter(plain)
        .ok_or_else(|| status::invalid_field(field, "must be an absolute path in UTF-8 without . and .."))
}

fn reason(reason: LayerReason) -> v1::PolicyReason {
    let LayerReason {
        layer,
        reason: Reason {
            verdict,
            text,
            line: of,
        },
    } = reason;
    v1::PolicyReason {
        verdict: verdict.name().to_owned(),
        text,
        line: of.map(|of| line(of, &layer)),
        layer,
    }
}

fn line(line: Line, layer: &str) -> v1::PolicyLine {
    let Line {
        key,
        value,
        place,
        by_default,
    } = line;
    v1::PolicyLine {
        key,
        value,
        place,
        by_default,
        layer: layer.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Identity;
    use crate::policy::{Inline, Sources, TrustStore};

    #[test]
    fn a_stranger_is_not_shown_the_words_of_a_projects_file() {
        let place = tempfile::tempdir().unwrap();
        let workspace = place.path().canonicalize().unwrap().join("work");
        std::fs::create_dir(&workspace).unwrap();
        let file = "version = 1\nname = \"shop\"\nextends = [\"default\"]\n[environment]\npass = [\"SECRET_PLAN\"]\n\
                    [[commands.rules]]\nprogram = \"make\"\ndecision = \"deny\"\nreason = \"secret plan\"\n";
        std::fs::write(workspace.join(".fumehood.toml"), file).unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let sources = Sources {
            system: Vec::new(),
            user: Vec::new(),
            default: "default".to_owned(),
            uid,
        };
        let trust = TrustStore::beside(&place.path().join("audit.jsonl"));
        let policies = Policies::load(sources, Vec::new(), Inline::Narrow, trust).unwrap();
        let told = |uid: u32| {
            let peer = Peer {
                identity: Identity::Unix {
                    uid,
                    gid: uid,
                    pid: None,
                },
                allowed: true,
            };
            let argv = vec!["make".into()];
            let request = v1::ExplainPolicyRequest {
                workspace: workspace.to_str().unwrap().to_owned().into(),
                questions: vec![v1::PolicyQuestion {
                    about: Some(About::Command(v1::PolicyCommand { argv })),
                }],
                ..v1::ExplainPolicyRequest::default()
            };
            explain(&policies, &Arc::from([]), &peer, request).unwrap()
        };
        let (own, strange) = (told(uid), told(54_399));
        assert!(format!("{own:?}").contains("SECRET_PLAN") && format!("{own:?}").contains("secret plan"));
        let words = format!("{strange:?}").to_lowercase();
        assert!(
            !words.contains("secret_plan") && !words.contains("secret plan"),
            "{words}"
        );
        assert_eq!(strange.layers, ["shop (.fumehood.toml, untrusted)", "default"]);
        assert_eq!(
            (strange.answers[0].verdict.as_str(), strange.not_given.len()),
            ("deny", 1)
        );
    }
}
