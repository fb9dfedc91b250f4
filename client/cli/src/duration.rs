//! Durations as people write and read them.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing, or no number where one must be.
    #[error("must be numbers with units, such as 500ms, 10s, 1.5m or 1h30m")]
    Malformed,
    /// A number without unit could mean anything.
    #[error("needs a unit: `{0}s` for seconds, `{0}m` for minutes")]
    NoUnit(String),
    /// None of ours.
    #[error("`{0}` is no unit: use ms, s, m, h or d")]
    Unit(String),
    /// More than 10,000 years.
    #[error("is too long")]
    TooLong,
}

/// Parses `500ms`, `10s`, `1.5m`, `1h30m`, `2d`.
///
/// # Errors
/// When a number or its unit is missing or unknown, or the whole is longer than the wire can say.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(DurationError::Malformed);
    }
    while !rest.is_empty() {
        let number_ends = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_ends);
        let value: f64 = number.parse().map_err(|_| DurationError::Malformed)?;
        let unit_ends = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_ends);
        let seconds = match unit.trim() {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            "" => return Err(DurationError::NoUnit(number.to_owned())),
            other => return Err(DurationError::Unit(other.to_owned())),
        };
        // Whole numbers, the usual case, exactly; a fraction as near as nanoseconds are.
        let part = Duration::try_from_secs_f64(value * seconds).map_err(|_| DurationError::TooLong)?;
        total = total.checked_add(part).ok_or(DurationError::TooLong)?;
        rest = after;
    }
    if total.as_secs() >= fumehood_client::proto::convert::MAX_DURATION_SECONDS.unsigned_abs() {
        return Err(DurationError::TooLong);
    }
    Ok(total)
}

/// Writes a duration for people: three significant figures below a minute, whole seconds above.
#[must_use]
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if duration.is_zero() {
        return "0s".to_owned();
    }
    let figures = |value: f64, unit: &str| {
        let decimals = if value >= 99.95 {
            0
        } else if value >= 9.995 {
            1
        } else {
            2
        };
        let text = format!("{value:.decimals$}");
        let text = if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            &text
        };
        format!("{text}{unit}")
    };
    if seconds < 0.000_999_5 {
        return figures(seconds * 1e6, "us");
    }
    if seconds < 0.999_5 {
        return figures(seconds * 1e3, "ms");
    }
    if seconds < 59.95 {
        return figures(seconds, "s");
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60);
    [(days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")]
        .iter()
        .filter(|(value, _)| *value > 0)
        .map(|(value, unit)| format!("{value}{unit}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        let cases = [
            ("500ms", 500),
            ("10s", 10_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("1.5s", 1_500),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            (" 1m 30s ", 90_000),
            ("0s", 0),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        assert_eq!(parse("10"), Err(DurationError::NoUnit("10".to_owned())));
        assert_eq!(parse("1h30"), Err(DurationError::NoUnit("30".to_owned())));
        assert_eq!(parse("10 parsecs"), Err(DurationError::Unit("parsecs".to_owned())));
        for text in ["", " ", "s", "-1s", "1.2.3s", ".s", "inf", "1e400s"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("99999999999999999999d"), Err(DurationError::TooLong));
        assert_eq!(parse("4000000d"), Err(DurationError::TooLong));
    }

    #[test]
    fn durations_are_shown_shortly() {
        let cases = [
            (0, "0s"),
            (1_500, "1.5us"),
            (2_000_000, "2ms"),
            (12_345_678, "12.3ms"),
            (999_900_000, "1s"),
            (1_000_000_000, "1s"),
            (1_234_000_000, "1.23s"),
            (59_990_000_000, "1m"),
            (90_000_000_000, "1m30s"),
            (5_400_000_000_000, "1h30m"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(show(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
