//! What can go wrong with a call, as types.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::connect::ConnectError;
use crate::files::FileError;

/// The domain of the daemon's own error details.
const DOMAIN: &str = "fumehood";

/// The reason of a daemon that another one takes over from.
const RESTARTING: &str = "RESTARTING";

/// Why a call did not do what it says. How a *command* ended is never here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is malformed (`INVALID_ARGUMENT`, `OUT_OF_RANGE`).
    #[error("invalid request: {}", Listed(message, violations))]
    Invalid {
        /// The daemon's summary.
        message: String,
        /// Each field that is wrong; may be empty.
        violations: Vec<FieldViolation>,
    },
    /// This peer may not do that (`PERMISSION_DENIED`, `UNAUTHENTICATED`).
    #[error("permission denied: {message}")]
    Denied {
        /// Why, for people.
        message: String,
        /// Why, for programs: `POLICY_WIDENS`, `NO_ACCESS`; empty where the daemon gives none.
        reason: String,
        /// For `POLICY_WIDENS`, what is too much; else empty.
        violations: Vec<FieldViolation>,
    },
    /// No such thing, or not one of this peer's (`NOT_FOUND`).
    #[error("{message}")]
    NotFound {
        /// What was not found.
        message: String,
    },
    /// The run id is taken by a run with another request (`ALREADY_EXISTS`).
    #[error("{message}")]
    AlreadyExists {
        /// What exists.
        message: String,
    },
    /// Too many runs, or a message over its bound (`RESOURCE_EXHAUSTED`).
    #[error("{message}{}", Retry(*retry_after))]
    Exhausted {
        /// What is exhausted.
        message: String,
        /// When to try again; unset when trying again does not help.
        retry_after: Option<Duration>,
    },
    /// The run is not in a state for this call (`FAILED_PRECONDITION`, `ABORTED`).
    #[error("{}", Listed(message, violations))]
    Precondition {
        /// The daemon's summary.
        message: String,
        /// Each condition that does not hold; may be empty.
        violations: Vec<PreconditionViolation>,
    },
    /// The daemon is there and takes no requests, because it drains (`UNAVAILABLE` said by the daemon).
    #[error("the daemon takes no requests: {message}")]
    Unavailable {
        /// Why.
        message: String,
        /// When to try again, when the daemon says so.
        retry_after: Option<Duration>,
    },
    /// The daemon is older than this client and does not know the call (`UNIMPLEMENTED`).
    #[error("the daemon does not know this call, it is probably older than this client: restart it")]
    Unsupported,
    /// The call's deadline passed (`DEADLINE_EXCEEDED`).
    #[error("no answer in time: {message}")]
    Deadline {
        /// What was waited for.
        message: String,
    },
    /// The connection broke, or could not be made again.
    #[error("the connection to the daemon broke")]
    Transport {
        /// What was noticed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The events of a run ended before `finished`: the daemon ended without ceremony.
    #[error("the daemon ended the stream of events before the run was over")]
    Interrupted,
    /// The events of this run, or its input, are closed: the run is over.
    #[error("the run takes no more input")]
    InputClosed,
    /// The connection broke, and could not be made again for as long as [`crate::Reconnect`] says.
    #[error("the connection to the daemon broke and could not be made again (tried {attempts} times)")]
    GivenUp {
        /// How often it was tried.
        attempts: u32,
        /// Why it did not work the last time.
        source: Box<Error>,
    },
    /// The connection broke, and when it was made again the daemon knew nothing of the run: it was restarted without it, or the run was
    /// over and has been forgotten.
    #[error("the daemon no longer knows the run {run_id}: it ended while the connection was broken")]
    RunLost {
        /// Which.
        run_id: String,
    },
    /// There is no connection in the first place. Calls never say so: it is for `?` where connections are made too.
    #[error(transparent)]
    Connect(Box<ConnectError>),
    /// Something is wrong with a file that was to be worked on.
    #[error("{}", .0.message)]
    File(Box<FileError>),
    /// What was to be written could not be read; nothing was written.
    #[error("cannot read what is to be written")]
    Contents {
        /// Why.
        source: std::io::Error,
    },
    /// The workspace cannot be found from here.
    #[error("cannot find the workspace {}", path.display())]
    Workspace {
        /// As it was given.
        path: std::path::PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The daemon failed, or answered what it must not.
    #[error("the daemon failed ({code:?}): {message}")]
    Internal {
        /// The gRPC status.
        code: Code,
        /// What the daemon says.
        message: String,
    },
}

/// A field of a request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path in the request, `spec.argv`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub description: String,
}

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreconditionViolation {
    /// What kind of condition, in capitals.
    pub kind: String,
    /// What it is about, `run:ID`.
    pub subject: String,
    /// What is wrong, and what would mend it.
    pub description: String,
}

impl Error {
    /// Whether the connection is at fault, and not what was said on it: the same call may succeed on another.
    #[must_use]
    pub fn is_broken_connection(&self) -> bool {
        matches!(self, Self::Transport { .. } | Self::Interrupted)
    }

    /// The same for those who expect an error of input and output, with its kind where there is one.
    #[must_use]
    pub fn into_io(self) -> std::io::Error {
        let kind = match &self {
            Self::File(error) => error.kind(),
            Self::Denied { .. } => std::io::ErrorKind::PermissionDenied,
            Self::Deadline { .. } => std::io::ErrorKind::TimedOut,
            Self::Transport { .. } => std::io::ErrorKind::BrokenPipe,
            _ => std::io::ErrorKind::Other,
        };
        std::io::Error::new(kind, self)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let ours = details.error_info().is_some_and(|info| info.domain == DOMAIN);
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        let message = status.message().to_owned();
        if let Some(file) = details
            .error_info()
            .filter(|_| ours)
            .and_then(|info| FileError::of(&message, info))
        {
            return Self::File(Box::new(file));
        }
        let fields = || {
            let fields = details
                .bad_request()
                .map(|bad| bad.field_violations.as_slice())
                .unwrap_or_default();
            let field = |violation: &tonic_types::FieldViolation| FieldViolation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            };
            fields.iter().map(field).collect()
        };
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid {
                message,
                violations: fields(),
            },
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied {
                message,
                reason: details
                    .error_info()
                    .map_or_else(String::new, |info| info.reason.clone()),
                violations: fields(),
            },
            Code::NotFound => Self::NotFound { message },
            Code::AlreadyExists => Self::AlreadyExists { message },
            Code::ResourceExhausted => Self::Exhausted { message, retry_after },
            Code::FailedPrecondition | Code::Aborted => {
                let conditions = details
                    .precondition_failure()
                    .map(|all| all.violations.as_slice())
                    .unwrap_or_default();
                let violations = conditions
                    .iter()
                    .map(|violation| PreconditionViolation {
                        kind: violation.r#type.clone(),
                        subject: violation.subject.clone(),
                        description: violation.description.clone(),
                    })
                    .collect();
                Self::Precondition { message, violations }
            }
            // Between two daemons: the next one knows, and is reached by the same call.
            Code::Unavailable if ours && details.error_info().is_some_and(|info| info.reason == RESTARTING) => {
                Self::Transport { source: message.into() }
            }
            Code::Unavailable if ours => Self::Unavailable { message, retry_after },
            Code::Unimplemented => Self::Unsupported,
            Code::DeadlineExceeded => Self::Deadline { message },
            // A status with a source was made on this side, out of a connection that broke. One of UNAVAILABLE without the
            // daemon's details is the transport's as well.
            Code::Unavailable => Self::Transport {
                source: innermost(&status, status.message()),
            },
            // What the generated client says when the connection could not be made again.
            Code::Unknown if message.starts_with("Service was not ready") => Self::Transport {
                source: innermost(&status, status.message()),
            },
            _ if status.source().is_some() => Self::Transport {
                source: innermost(&status, status.message()),
            },
            code => Self::Internal { code, message },
        }
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Box::new(error))
    }
}

impl From<tonic::transport::Error> for Error {
    fn from(error: tonic::transport::Error) -> Self {
        Self::Transport {
            source: innermost(&error, ""),
        }
    }
}

/// The first cause, in its own words: each layer of the transport only wraps it in words about itself. `summary` when there
/// is no cause.
fn innermost(error: &(dyn std::error::Error + 'static), summary: &str) -> Box<dyn std::error::Error + Send + Sync> {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    if error.source().is_none() && !summary.is_empty() {
        summary.into()
    } else {
        cause.to_string().into()
    }
}

/// A summary and what it summarizes: each violation on a line of its own.
struct Listed<'a, V>(&'a str, &'a [V]);

impl<V: fmt::Display> fmt::Display for Listed<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(message, violations) = self;
        match violations {
            [] => f.write_str(message),
            // The summary of a single violation would say the same twice.
            [only] => only.fmt(f),
            all => {
                f.write_str(message)?;
                all.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
            }
        }
    }
}

impl fmt::Display for FieldViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}

impl fmt::Display for PreconditionViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.description)
    }
}

/// When to try again.
struct Retry(Option<Duration>);

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |after| write!(f, " (try again in {after:?})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    fn ours(mut details: ErrorDetails) -> ErrorDetails {
        details.set_error_info("REASON", DOMAIN, std::collections::HashMap::new());
        details
    }

    #[test]
    fn each_violation_of_a_bad_request_is_told() {
        let mut details = ErrorDetails::with_bad_request_violation("spec.argv", "must not be empty");
        details.add_bad_request_violation("spec.workspace", "must be absolute");
        let error = Error::from(Status::with_error_details(
            Code::InvalidArgument,
            "2 fields are wrong",
            ours(details),
        ));
        assert_eq!(
            error.to_string(),
            "invalid request: 2 fields are wrong\n  spec.argv: must not be empty\n  spec.workspace: must be absolute"
        );
    }

    #[test]
    fn where_there_is_no_connection_the_reason_is_told_once() {
        let connect = || -> Result<(), Error> {
            Err(ConnectError::NotRunning {
                path: "/s".into(),
                source: std::io::ErrorKind::NotFound.into(),
            })?
        };
        let error = connect().unwrap_err();
        assert_eq!(error.to_string(), "no daemon listens on /s");
        assert!(
            error.source().is_some_and(|cause| cause.is::<std::io::Error>()),
            "{error:?}"
        );
    }

    #[test]
    fn a_single_violation_stands_for_the_summary() {
        let details = ErrorDetails::with_precondition_failure_violation("NOT_FINISHED", "run:7", "kill it first");
        let error = Error::from(Status::with_error_details(
            Code::FailedPrecondition,
            "still running",
            details,
        ));
        assert_eq!(error.to_string(), "run:7: kill it first");
    }

    #[test]
    fn an_exhausted_daemon_says_when_to_try_again() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(2)));
        let error = Error::from(Status::with_error_details(
            Code::ResourceExhausted,
            "the queue is full",
            ours(details),
        ));
        assert_eq!(error.to_string(), "the queue is full (try again in 2s)");
    }

    #[test]
    fn a_draining_daemon_is_told_from_a_broken_connection() {
        let drains = Status::with_error_details(Code::Unavailable, "it drains", ours(ErrorDetails::new()));
        assert!(matches!(Error::from(drains), Error::Unavailable { .. }));
        assert!(matches!(
            Error::from(Status::unavailable("tcp connect error")),
            Error::Transport { .. }
        ));
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(matches!(
            Error::from(Status::from_error(Box::new(reset))),
            Error::Transport { .. }
        ));
    }

    #[test]
    fn a_daemon_that_is_being_followed_by_another_is_as_a_broken_connection() {
        let mut details = ErrorDetails::new();
        details.set_error_info(RESTARTING, DOMAIN, std::collections::HashMap::new());
        let restarting = Status::with_error_details(Code::Unavailable, "ask again", details);
        let error = Error::from(restarting);
        assert!(error.is_broken_connection(), "{error:?}");
    }

    #[test]
    fn what_the_daemon_must_not_say_is_its_failure() {
        assert!(matches!(
            Error::from(Status::internal("oops")),
            Error::Internal {
                code: Code::Internal,
                ..
            }
        ));
        assert!(matches!(Error::from(Status::unimplemented("")), Error::Unsupported));
    }
}
