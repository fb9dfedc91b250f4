//! Every gRPC status there is, each with details that a program can act on.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::approvals::{RemoveError, ResolveError};
use crate::files::{FileFailure, FilesError, printable};
use crate::peer::PeerError;
use crate::policy::Refusal;
use crate::run::StartError;
use crate::session::CreateError;

/// `ErrorInfo.domain` of everything this daemon refuses.
const DOMAIN: &str = "fumehood";

/// When a client that was refused for want of a place should come again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A status travels in headers, which clients bound (8 KiB in gRPC's C core, where the details count a third more and the message up to three
/// times): most bytes of its message, and of all descriptions together.
const MAX_MESSAGE_BYTES: usize = 1000;
const MAX_DESCRIPTIONS_BYTES: usize = 2400;

/// Longest words for something that a policy gives beyond another.
const MAX_WIDENING_BYTES: usize = 240;

/// Most fields that are named in one status.
const MAX_VIOLATIONS: usize = 24;

/// Cuts a text that holds what a client sent, at a character's boundary.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

fn status(code: Code, reason: &str, message: String, details: ErrorDetails) -> Status {
    status_about(code, reason, message, details, &[])
}

/// A status whose reason has particulars; values are cut to 128 bytes.
fn status_about(
    code: Code,
    reason: &str,
    message: String,
    mut details: ErrorDetails,
    about: &[(&str, &str)],
) -> Status {
    let message = cut(message, MAX_MESSAGE_BYTES);
    let about = about
        .iter()
        .map(|(key, value)| ((*key).to_owned(), cut((*value).to_owned(), 128)));
    details.set_error_info(reason, DOMAIN, about.collect::<std::collections::HashMap<_, _>>());
    Status::with_error_details(code, message, details)
}

/// The request is wrong; each field that is.
pub(super) fn invalid(mut violations: Vec<(String, String)>) -> Status {
    let more = violations.len().saturating_sub(MAX_VIOLATIONS);
    violations.truncate(MAX_VIOLATIONS);
    let each = MAX_DESCRIPTIONS_BYTES / violations.len().max(1);
    for (_, what) in &mut violations {
        *what = cut(std::mem::take(what), each);
    }
    if more > 0 {
        violations.push(("...".to_owned(), format!("and {more} more")));
    }
    let message = violations
        .iter()
        .map(|(field, what)| format!("{field}: {what}"))
        .collect::<Vec<_>>()
        .join("; ");
    let violations = violations
        .into_iter()
        .map(|(field, what)| FieldViolation::new(field, what))
        .collect::<Vec<_>>();
    let mut details = ErrorDetails::new();
    details.set_bad_request(violations);
    status(Code::InvalidArgument, "INVALID_REQUEST", message, details)
}

/// One field is wrong.
pub(super) fn invalid_field(field: &str, what: impl Into<String>) -> Status {
    invalid(vec![(field.to_owned(), what.into())])
}

/// There is no such run, or it is somebody else's: the same answer for both.
pub(super) fn no_such_run(id: &str) -> Status {
    let message = format!("there is no run {id:?}: it never was, was released, or was forgotten by age");
    status(Code::NotFound, "NO_SUCH_RUN", message, ErrorDetails::new())
}

/// There is no such session, or it is somebody else's: the same answer for both.
pub(super) fn no_such_session(id: &str) -> Status {
    let message =
        format!("there is no session {id:?}: it never was, or it was closed and forgotten by age; create one");
    status(Code::NotFound, "NO_SUCH_SESSION", message, ErrorDetails::new())
}

/// The session is not in a state for this.
pub(super) fn session_precondition(reason: &str, session: &str, what: impl Into<String>) -> Status {
    let what = cut(what.into(), MAX_MESSAGE_BYTES);
    let mut details = ErrorDetails::new();
    details.add_precondition_failure_violation(reason, format!("session/{session}"), what.clone());
    status(Code::FailedPrecondition, reason, what, details)
}

/// The policy gives no such session; the rule that says so.
pub(super) fn denied(rule: &str, explanation: String) -> Status {
    let details = ErrorDetails::new();
    status_about(
        Code::PermissionDenied,
        "POLICY_DENIES",
        explanation,
        details,
        &[("rule", rule)],
    )
}

/// There is no such policy.
pub(super) fn no_such_policy(name: &str, known: &str) -> Status {
    let message = format!("there is no policy {name:?}; there are: {known}");
    status(Code::NotFound, "NO_SUCH_POLICY", message, ErrorDetails::new())
}

/// An answer to a question is not taken.
impl From<ResolveError> for Refused {
    fn from(error: ResolveError) -> Self {
        let message = cut(error.to_string(), MAX_MESSAGE_BYTES);
        let details = ErrorDetails::new;
        let failed = |reason: &str, what: String| {
            let mut details = ErrorDetails::new();
            details.add_precondition_failure_violation(reason, "approval", what.clone());
            status(Code::FailedPrecondition, reason, what, details)
        };
        Refused(match error {
            ResolveError::Unknown(_) => status(Code::NotFound, "NO_SUCH_APPROVAL", message, details()),
            ResolveError::AlreadyResolved { .. } => failed("ALREADY_RESOLVED", message),
            ResolveError::NotNarrow(_) => failed("NOT_NARROW", message),
            ResolveError::OnceOnly(_) => failed("ONCE_ONLY", message),
            ResolveError::NotYours { .. } => permission("NOT_YOURS_TO_RESOLVE", message),
            ResolveError::TooManyRules => status(Code::ResourceExhausted, "TOO_MANY_RULES", message, details()),
            ResolveError::Kept(_) => status(Code::Internal, "ANSWER_NOT_KEPT", message, details()),
            ResolveError::Audit(_) => status(Code::Internal, "NOT_RECORDED", message, details()),
        })
    }
}

impl From<RemoveError> for Refused {
    fn from(error: RemoveError) -> Self {
        let message = cut(error.to_string(), MAX_MESSAGE_BYTES);
        let (code, reason) = match error {
            RemoveError::Unknown(_) => (Code::NotFound, "NO_SUCH_RULE"),
            RemoveError::Kept(_) => (Code::Internal, "ANSWER_NOT_KEPT"),
            RemoveError::Audit(_) => (Code::Internal, "NOT_RECORDED"),
        };
        Refused(status(code, reason, message, ErrorDetails::new()))
    }
}

/// The run is not in a state for this.
pub(super) fn precondition(reason: &str, run: &str, what: impl Into<String>) -> Status {
    let what = cut(what.into(), MAX_MESSAGE_BYTES);
    let mut details = ErrorDetails::new();
    details.add_precondition_failure_violation(reason, format!("run/{run}"), what.clone());
    status(Code::FailedPrecondition, reason, what, details)
}

/// Input begins beyond what was taken before it.
pub(super) fn input_gap(what: String) -> Status {
    let mut details = ErrorDetails::new();
    details.set_bad_request(vec![FieldViolation::new("stdin.offset", &what)]);
    status(Code::OutOfRange, "INPUT_GAP", what, details)
}

/// What this peer sends at once is more than is held for one peer.
pub(super) fn too_much(what: &'static str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(RETRY_AFTER));
    status(Code::ResourceExhausted, "TOO_MUCH_AT_ONCE", what.to_owned(), details)
}

/// A message began and did not come to its end, or none came at all.
pub(super) fn too_slow(within: Duration) -> Status {
    let message = format!("the message did not arrive within {} s", within.as_secs());
    status(Code::DeadlineExceeded, "MESSAGE_TOO_SLOW", message, ErrorDetails::new())
}

/// What tonic says about a message before this house sees it, in this house's words: a message that is too long or is none is a wrong
/// request, with details. Everything else stays as it is.
pub(super) fn of_message(refused: Status) -> Status {
    let text = refused.message();
    let reason = match refused.code() {
        _ if !refused.details().is_empty() => return refused,
        Code::OutOfRange => "MESSAGE_TOO_LARGE",
        Code::Internal
            if text.starts_with("failed to decode") || text.starts_with("protocol error: received message") =>
        {
            "NOT_A_MESSAGE"
        }
        _ => return refused,
    };
    let message = text.to_owned();
    let mut details = ErrorDetails::new();
    details.set_bad_request(vec![FieldViolation::new("message", &message)]);
    status(Code::InvalidArgument, reason, message, details)
}

/// So many things of one kind are told one by one.
const MAX_OF_A_KIND: usize = 6;

/// Something that a policy gives beyond another, in words that fit a list.
pub(super) fn widening(widening: &fumehood_policies::Widening) -> String {
    cut(widening.to_string(), MAX_WIDENING_BYTES)
}

/// What a policy gives beyond another, in at most `most` lines that fit a list: of many of one kind, the first and how many more.
pub(super) fn widenings(widenings: &[fumehood_policies::Widening], most: usize) -> Vec<String> {
    use fumehood_policies::More;
    let alike = |a: &fumehood_policies::Widening, b: &fumehood_policies::Widening| {
        a.key == b.key && a.more == b.more && matches!(a.more, More::Given | More::Unrestricted)
    };
    let mut lines = Vec::new();
    for kind in widenings.chunk_by(alike) {
        let shown = if kind.len() > MAX_OF_A_KIND {
            MAX_OF_A_KIND - 1
        } else {
            kind.len()
        };
        lines.extend(kind[..shown].iter().map(widening));
        if let (Some(first), more @ 1..) = (kind.first(), kind.len() - shown) {
            let does = if first.more == More::Given { "gives" } else { "lacks" };
            lines.push(format!("{} {does} {more} more", first.key));
        }
    }
    if lines.len() > most {
        let more = lines.len() + 1 - most;
        lines.truncate(most.saturating_sub(1));
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Why no policy of this peer's choice decides.
pub(super) fn refused_policy(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    let reason = refused_for(refusal);
    match refusal {
        Refusal::NoAccess(..) | Refusal::NotYours { .. } | Refusal::NoDefault { .. } | Refusal::NoInline(_) => {
            status(Code::PermissionDenied, reason, message, ErrorDetails::new())
        }
        Refusal::Widens {
            name,
            base,
            digest,
            widenings,
        } => {
            let mut details = ErrorDetails::new();
            let shown = widenings.len().min(MAX_VIOLATIONS);
            let each = MAX_DESCRIPTIONS_BYTES / (shown + 1);
            let mut violations: Vec<_> = widenings[..shown]
                .iter()
                .map(|widening| FieldViolation::new("spec.policy.inline", cut(widening.to_string(), each)))
                .collect();
            if widenings.len() > shown {
                let more = format!("and {} more", widenings.len() - shown);
                violations.push(FieldViolation::new("spec.policy.inline", more));
            }
            details.set_bad_request(violations);
            let about = [
                ("policy", name.as_str()),
                ("base", base.as_str()),
                ("policy_digest", digest.as_str()),
            ];
            status_about(Code::PermissionDenied, reason, message, details, &about)
        }
        Refusal::NoSuchPolicy { .. } => invalid_field("policy", message),
        Refusal::Inline(_) | Refusal::Project(_) => invalid_field("path", message),
    }
}

/// The reason for programs; empty where the request is simply wrong.
pub(super) fn refused_for(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NoAccess(..) => "NO_ACCESS",
        Refusal::NotYours { .. } | Refusal::NoDefault { .. } => "POLICY_NOT_ALLOWED",
        Refusal::NoInline(_) => "INLINE_POLICY_REFUSED",
        Refusal::Widens { .. } => "POLICY_WIDENS",
        Refusal::NoSuchPolicy { .. } | Refusal::Inline(_) | Refusal::Project(_) => "",
    }
}

/// Something about a policy file is not as it must be for this call.
pub(super) fn policy_precondition(reason: &str, subject: &str, what: impl Into<String>) -> Status {
    let what = cut(what.into(), MAX_MESSAGE_BYTES);
    let mut details = ErrorDetails::new();
    details.add_precondition_failure_violation(reason, cut(subject.to_owned(), 256), what.clone());
    status(Code::FailedPrecondition, reason, what, details)
}

/// The file is not trusted.
pub(super) fn not_trusted(path: &str) -> Status {
    let message = format!("{path} is not trusted; `fumehood policy trusted` lists what is");
    status(Code::NotFound, "NOT_TRUSTED", message, ErrorDetails::new())
}

/// It cannot be done now, for a reason of this machine's.
pub(super) fn unavailable(reason: &str, message: String) -> Status {
    status(Code::Unavailable, reason, message, ErrorDetails::new())
}

/// The daemon that knows is being followed by another, which will.
pub(super) fn restarting(message: impl Into<String>) -> Status {
    again("RESTARTING", message.into())
}

/// It cannot be done now, and soon it can.
fn again(reason: &str, message: String) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(Some(RETRY_AFTER));
    status(Code::Unavailable, reason, message, details)
}

/// This peer may not.
pub(super) fn permission(reason: &str, message: impl Into<String>) -> Status {
    status(Code::PermissionDenied, reason, message.into(), ErrorDetails::new())
}

/// Most bytes of a path in a status: with what else there is it must fit the headers.
const MAX_TOLD_PATH_BYTES: usize = 2000;

/// Why an operation on files was not carried out.
pub(super) fn files(error: &FilesError) -> Status {
    let message = error.to_string();
    let (code, reason) = match error {
        FilesError::File(failure) => return file(failure, message),
        FilesError::Denied { rule, .. } => {
            let about = [("rule", rule.as_str())];
            return status_about(
                Code::PermissionDenied,
                "DENIED_BY_POLICY",
                message,
                ErrorDetails::new(),
                &about,
            );
        }
        FilesError::Closed { session, .. } => return session_precondition("SESSION_CLOSED", session, message),
        FilesError::NoView(_) => (Code::FailedPrecondition, "SANDBOX_FAILED"),
        FilesError::Limit { what: "limits.memory" } => (Code::ResourceExhausted, "MEMORY_LIMIT"),
        FilesError::Limit { what: "limits.wall" } => (Code::DeadlineExceeded, "WALL_LIMIT"),
        FilesError::Limit { .. } => (Code::ResourceExhausted, "DISK_LIMIT"),
        FilesError::Busy => {
            let mut details = ErrorDetails::new();
            details.set_retry_info(Some(RETRY_AFTER));
            return status(Code::ResourceExhausted, "TOO_MANY_CALLS", message, details);
        }
        FilesError::Draining => return again("DRAINING", message),
        FilesError::Stalled => (Code::DeadlineExceeded, "CLIENT_STALLED"),
        FilesError::Unanswered => (Code::DeadlineExceeded, "FILE_SYSTEM_SILENT"),
        FilesError::Cancelled => (Code::Cancelled, "BROKEN_OFF"),
        FilesError::Lost(_) => (Code::Internal, "SANDBOX_LOST"),
        FilesError::NotRecorded(_) => (Code::Internal, "NOT_RECORDED"),
    };
    status(code, reason, message, ErrorDetails::new())
}

/// What is wrong with a file; the wire documents which error is which code.
fn file(failure: &FileFailure, message: String) -> Status {
    use nix::errno::Errno;
    let FileFailure {
        operation,
        errno,
        path,
        rule,
        // The message says it.
        found: _,
        removed,
        appended,
    } = failure;
    let code = match errno {
        Errno::ENOENT => Code::NotFound,
        Errno::EEXIST => Code::AlreadyExists,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => Code::PermissionDenied,
        Errno::ENOSPC | Errno::EDQUOT | Errno::EMFILE | Errno::ENFILE | Errno::EFBIG | Errno::ENOMEM => {
            Code::ResourceExhausted
        }
        Errno::ENAMETOOLONG | Errno::EINVAL => Code::InvalidArgument,
        Errno::ENOTDIR
        | Errno::EISDIR
        | Errno::ENOTEMPTY
        | Errno::ELOOP
        | Errno::EXDEV
        | Errno::EBUSY
        | Errno::ETXTBSY
        | Errno::EOPNOTSUPP
        | Errno::EMLINK
        | Errno::ESTALE
        | Errno::ENXIO => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    let mut about = std::collections::HashMap::from([
        ("errno".to_owned(), (*errno as i32).to_string()),
        ("operation".to_owned(), cut(operation.clone(), 64)),
        ("path".to_owned(), cut_front(printable(path), MAX_TOLD_PATH_BYTES)),
    ]);
    if let Some(rule) = rule {
        about.insert("rule".to_owned(), cut(rule.clone(), 512));
    }
    if *removed > 0 {
        about.insert("removed".to_owned(), removed.to_string());
    }
    if *appended > 0 {
        about.insert("appended".to_owned(), appended.to_string());
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(format!("{errno:?}"), DOMAIN, about);
    // The end of what is told says what is wrong.
    Status::with_error_details(code, cut_front(message, MAX_MESSAGE_BYTES), details)
}

/// Cuts a text at its beginning, at a character's boundary.
fn cut_front(text: String, most: usize) -> String {
    let Some(over) = text.len().checked_sub(most).filter(|over| *over > 0) else {
        return text;
    };
    let start = (over..).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    format!("...{}", &text[start..])
}

impl From<PeerError> for Refused {
    fn from(error: PeerError) -> Self {
        Refused(permission("PEER_NOT_ALLOWED", error.to_string()))
    }
}

impl From<StartError> for Refused {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        Refused(match error {
            StartError::Draining => again("DRAINING", message),
            StartError::Elsewhere => restarting(message),
            StartError::Full { .. } => {
                let mut details = ErrorDetails::new();
                details.set_retry_info(Some(RETRY_AFTER));
                status(Code::ResourceExhausted, "TOO_MANY_RUNS", message, details)
            }
            StartError::Exists(_) => status(Code::AlreadyExists, "RUN_ID_TAKEN", message, ErrorDetails::new()),
            StartError::SessionClosed { id, .. } => session_precondition("SESSION_CLOSED", &id, message),
        })
    }
}

impl From<CreateError> for Refused {
    fn from(error: CreateError) -> Self {
        let message = error.to_string();
        Refused(match error {
            CreateError::Draining => again("DRAINING", message),
            CreateError::Elsewhere => restarting(message),
            CreateError::Full(_) | CreateError::FullOfOne(_) => {
                let mut details = ErrorDetails::new();
                details.set_retry_info(Some(RETRY_AFTER));
                status(Code::ResourceExhausted, "TOO_MANY_SESSIONS", message, details)
            }
            CreateError::Exists(_) => status(Code::AlreadyExists, "SESSION_ID_TAKEN", message, ErrorDetails::new()),
        })
    }
}

/// A status on its way out; lets `?` turn the errors of this house into one.
#[derive(Debug)]
pub(super) struct Refused(pub(super) Status);

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Refused(status)
    }
}

impl From<Refused> for Status {
    fn from(Refused(status): Refused) -> Self {
        status
    }
}

#[cfg(test)]
mod tests {
    use fumehood_policies::{More, Widening};

    use super::widenings;

    #[test]
    fn many_of_a_kind_are_counted() {
        let one = |key, value: usize, more: More| Widening {
            key,
            value: format!("\"{value}\""),
            more,
        };
        let mut list: Vec<_> = (0..9).map(|n| one("filesystem.hide", n, More::Unrestricted)).collect();
        list.push(one("filesystem.read", 1, More::Given));
        let lines = widenings(&list, 16);
        assert_eq!(lines.len(), 7, "{lines:?}");
        assert_eq!(
            lines[4..],
            [
                "filesystem.hide lacks \"4\"",
                "filesystem.hide lacks 4 more",
                "filesystem.read gives \"1\""
            ]
        );
        assert_eq!(widenings(&list, 3)[2], "and 5 more");
        assert_eq!(widenings(&list[..6], 16).len(), 6);
        assert!(widenings(&[], 3).is_empty());
    }
}
