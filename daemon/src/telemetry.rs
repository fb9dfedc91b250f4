//! The daemon's own log: `tracing`, to stderr, for people or as JSON lines.
//!
//! The rule for every event in the daemon: at `info` and above no command line, no environment value, no output and no
//! content of a file; ids, counts, peers, paths of the daemon's own files, and causes only.

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// A log filter that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{filter}` is not a log filter ({reason}); write a level (error, warn, info, debug, trace) or target=level,..."
)]
pub struct FilterError {
    filter: String,
    reason: String,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The process already has a log.
    #[error("the process already has a log")]
    AlreadySet(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Whether `filter` is one.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), FilterError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    let fail = |reason: String| FilterError {
        filter: filter.escape_debug().to_string(),
        reason,
    };
    if filter.trim().is_empty() {
        return Err(fail("it is empty".to_owned()));
    }
    // A misspelt level is a valid directive to EnvFilter: a target that never occurs, and so silence.
    let words: Vec<&str> = filter.split(',').map(str::trim).collect();
    for word in &words {
        let level = word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        if !level && !word.contains(['=', ':', '[']) && !word.starts_with("fumehood") {
            return Err(fail(format!("{word} is no level")));
        }
    }
    EnvFilter::builder()
        .parse(words.join(","))
        .map_err(|error| fail(error.to_string()))
}

/// Sets the process's log up; once.
///
/// # Errors
/// When the filter is none, or the process already has a log.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse(&log.filter)?)
        .with_writer(std::io::stderr)
        .with_target(true);
    let done = match log.format {
        LogFormat::Human => builder
            .with_ansi(nix::unistd::isatty(std::io::stderr()).unwrap_or(false))
            .try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    };
    done.map_err(TelemetryError::AlreadySet)
}

/// An error and all that caused it, in one line: for the edge, where errors become text.
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_filters() {
        for filter in [
            "info",
            "WARN",
            "off",
            "info,fumehoodd=debug",
            "fumehoodd::audit=trace",
            "fumehoodd",
            "info, h2=off",
        ] {
            check_filter(filter).unwrap();
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_with_a_remedy() {
        for filter in ["", "  ", "inof", "info,verbos", "a=b=c", "fumehoodd=loud"] {
            let error = check_filter(filter).unwrap_err().to_string();
            assert!(error.contains("write a level"), "{error}");
        }
    }
}
