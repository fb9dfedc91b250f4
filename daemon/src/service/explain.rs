//! `Policies.Check` and `Policies.Explain`: what is said about policies, in the form of the wire.

use fumehood_policies::{Access, Answer, Facts, Line, Lint, Reason, Resolved, lint};
use fumehood_proto::v1;
use fumehood_proto::v1::policy_question::About;
use tonic::Status;

use super::status;
use crate::policy::{PolicyStore, StoreError};

/// The most questions of one call.
const MAX_QUESTIONS: usize = 256;
/// How a file that comes with a call is named in findings.
const REQUEST: &str = "request";

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

/// Explains a policy, without its summary.
pub(super) fn explain(
    resolved: &Resolved,
    request: &v1::ExplainPolicyRequest,
) -> Result<v1::ExplainPolicyResponse, Status> {
    let v1::ExplainPolicyRequest {
        name: _,
        workspace,
        home,
        questions,
    } = request;
    if questions.len() > MAX_QUESTIONS {
        let what = format!(
            "{} questions, at most {MAX_QUESTIONS} are answered at once",
            questions.len()
        );
        return Err(status::invalid_field("questions", what));
    }
    let (workspace, home) = match questions.is_empty() {
        // Nobody asks about a path.
        true => ("/", "/"),
        false => (absolute("workspace", workspace)?, absolute("home", home)?),
    };
    let facts = Facts { home, workspace };
    let answers: Result<Vec<_>, Status> = questions
        .iter()
        .enumerate()
        .map(|(index, question)| answered(resolved, question, &format!("questions[{index}]"), facts))
        .collect();
    Ok(v1::ExplainPolicyResponse {
        summary: None,
        lines: resolved.lines().into_iter().map(line).collect(),
        answers: answers?,
    })
}

fn answered(
    resolved: &Resolved,
    question: &v1::PolicyQuestion,
    field: &str,
    facts: Facts<'_>,
) -> Result<v1::PolicyAnswer, Status> {
    let ask = |access| resolved.explain_access(access, facts);
    let answer = match &question.about {
        Some(About::Read(path)) => ask(Access::Read(absolute(field, path.as_bytes())?)),
        Some(About::Write(path)) => ask(Access::Write(absolute(field, path.as_bytes())?)),
        Some(About::Execute(path)) => ask(Access::Execute(absolute(field, path.as_bytes())?)),
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
            resolved.explain_command(&argv)
        }
        None => return Err(status::invalid_field(field, "asks nothing")),
    };
    Ok(told(answer))
}

/// A path as policies name it.
fn absolute<'a>(field: &str, path: &'a [u8]) -> Result<&'a str, Status> {
    let text = std::str::from_utf8(path).ok().filter(|text| text.starts_with('/'));
    let plain = |text: &&str| !text.split('/').any(|name| matches!(name, "." | ".."));
    text.filter(plain)
        .ok_or_else(|| status::invalid_field(field, "must be an absolute path in UTF-8 without . and .."))
}

fn told(answer: Answer) -> v1::PolicyAnswer {
    let Answer {
        question,
        verdict,
        reasons,
        help,
    } = answer;
    v1::PolicyAnswer {
        question,
        verdict: verdict.name().to_owned(),
        reasons: reasons.into_iter().map(reason).collect(),
        help,
    }
}

fn reason(reason: Reason) -> v1::PolicyReason {
    let Reason {
        verdict,
        text,
        line: of,
    } = reason;
    v1::PolicyReason {
        verdict: verdict.name().to_owned(),
        text,
        line: of.map(line),
    }
}

fn line(line: Line) -> v1::PolicyLine {
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
    }
}
