//! Numbers: durations, sizes, counts.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeInteger, DeValue};

use super::Problem;
use crate::error::quoted;

const UNLIMITED: &str = "unlimited";
const MS_PER_DAY: u64 = 24 * 3_600_000;

/// A number and a unit in one string: `"10m"`, `"4GiB"`.
struct Measure {
    /// With its article.
    what: &'static str,
    example: &'static str,
    /// Units and how much of the smallest each is.
    units: &'static [(&'static str, u64)],
    max: u64,
    /// `max` as it is said.
    max_text: &'static str,
}

/// In milliseconds. A year is longer than any run and far from where adding it to a clock overflows.
const DURATION: Measure = Measure {
    what: "a duration",
    example: "10m",
    units: &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)],
    max: 365 * MS_PER_DAY,
    max_text: "8760h",
};

/// In bytes. The kernel's file offsets are signed, and some of its interfaces take all ones for unlimited.
const SIZE: Measure = Measure {
    what: "a size",
    example: "4GiB",
    units: &[
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ],
    max: i64::MAX as u64,
    max_text: "9223372036854775807B",
};

/// Whether zero, which must never be taken for unlimited, may be said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    Allowed,
    /// Where `"unlimited"` may be said, so that its help can name it.
    RefusedForUnlimited,
    Refused,
}

impl Measure {
    fn read(&self, value: &DeValue<'_>, zero: Zero) -> Result<u64, Problem> {
        let Self { what, example, .. } = self;
        let DeValue::String(text) = value else {
            let help = format!("write a number and a unit in quotes: \"{example}\"");
            return Err(Problem::expected(what, value, help));
        };
        let text: &str = text;
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if digits == 0 {
            let mut problem = self.no_number(text);
            if zero == Zero::RefusedForUnlimited {
                problem.help = meant_unlimited(text).or(problem.help);
            }
            return Err(problem);
        }
        let Some((_, factor)) = self.units.iter().find(|(name, _)| *name == unit) else {
            return Err(self.no_unit(number, unit));
        };
        let amount = number.parse().ok().and_then(|number: u64| number.checked_mul(*factor));
        match amount.filter(|amount| *amount <= self.max) {
            None => Err(Problem::new(
                format!("`{}` is too large", quoted(text)),
                format!("at most {}", self.max_text),
            )),
            Some(0) if zero == Zero::RefusedForUnlimited => Err(Problem::new(
                "zero is not unlimited",
                format!("write \"{UNLIMITED}\" for no bound, or \"{example}\""),
            )),
            Some(0) if zero == Zero::Refused => Err(Problem::new(
                "zero is not possible here",
                format!("write {what} such as \"{example}\""),
            )),
            Some(amount) => Ok(amount),
        }
    }

    fn no_number(&self, text: &str) -> Problem {
        let Self { what, example, .. } = self;
        if text == UNLIMITED {
            return Problem::new(
                format!("\"{UNLIMITED}\" is not possible here"),
                format!("write {what}: \"{example}\""),
            );
        }
        let what_is = match text.strip_prefix('-') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => "is negative".to_owned(),
            _ => format!("is not {what}"),
        };
        let help = format!("write a number and a unit: \"{example}\"; {}", self.units_text());
        Problem::new(format!("`{}` {what_is}", quoted(text)), help)
    }

    fn no_unit(&self, number: &str, unit: &str) -> Problem {
        if unit.is_empty() {
            return Problem::new("the unit is missing", self.units_text());
        }
        if unit.starts_with(['.', ',']) {
            return Problem::new("fractions are not understood", "write a whole number of a smaller unit");
        }
        if unit.starts_with(|c: char| c.is_ascii_digit() || c.is_whitespace() || c == '_') {
            return Problem::new(
                format!("`{}` is not a unit", quoted(unit)),
                format!("write number and unit without a space: \"{}\"", self.example),
            );
        }
        // `4G`, `4gib`, `10M` for minutes: named where it is clear what was meant.
        let near = self.units.iter().find(|(name, _)| {
            name.eq_ignore_ascii_case(unit)
                || name
                    .strip_suffix("iB")
                    .is_some_and(|short| short.eq_ignore_ascii_case(unit))
        });
        let help = match near {
            Some((name, _)) => format!("did you mean \"{}{name}\"? {}", quoted(number), self.units_text()),
            None => self.units_text(),
        };
        Problem::new(format!("`{}` is not a unit of {}", quoted(unit), self.what), help)
    }

    fn units_text(&self) -> String {
        let names: Vec<_> = self.units.iter().map(|(name, _)| *name).collect();
        format!("the units are {}", names.join(", "))
    }
}

fn meant_unlimited(text: &str) -> Option<String> {
    let near = super::text::nearest(text, std::iter::once(UNLIMITED));
    near.map(|near| format!("did you mean \"{near}\"?"))
}

fn is_unlimited(value: &DeValue<'_>) -> bool {
    matches!(value, DeValue::String(text) if text == UNLIMITED)
}

pub(super) fn duration_or_unlimited(value: &DeValue<'_>) -> Result<Option<Duration>, Problem> {
    if is_unlimited(value) {
        return Ok(None);
    }
    DURATION
        .read(value, Zero::RefusedForUnlimited)
        .map(|ms| Some(Duration::from_millis(ms)))
}

/// The one bound that may be zero, and may not be unlimited.
pub(super) fn grace(value: &DeValue<'_>) -> Result<Duration, Problem> {
    DURATION.read(value, Zero::Allowed).map(Duration::from_millis)
}

/// A duration that is neither zero nor unlimited.
pub(super) fn wait(value: &DeValue<'_>) -> Result<Duration, Problem> {
    DURATION.read(value, Zero::Refused).map(Duration::from_millis)
}

pub(super) fn size_or_unlimited(value: &DeValue<'_>) -> Result<Option<u64>, Problem> {
    if is_unlimited(value) {
        return Ok(None);
    }
    SIZE.read(value, Zero::RefusedForUnlimited).map(Some)
}

pub(super) fn size(value: &DeValue<'_>) -> Result<u64, Problem> {
    SIZE.read(value, Zero::Refused)
}

/// A whole number within a range, its bounds included.
pub(super) fn integer(value: &DeValue<'_>, range: RangeInclusive<u64>, example: &str) -> Result<u64, Problem> {
    let DeValue::Integer(integer) = value else {
        let quotes = if matches!(value, DeValue::String(_)) {
            " without quotes"
        } else {
            ""
        };
        return Err(Problem::expected(
            "a whole number",
            value,
            format!("write a number{quotes}: {example}"),
        ));
    };
    match parsed(integer) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => {
            let range = match *range.end() {
                u64::MAX => format!("it is at least {}", range.start()),
                end => format!("it is from {} to {end}", range.start()),
            };
            Err(Problem::new(
                format!("{} is out of range", quoted(&integer.to_string())),
                range,
            ))
        }
    }
}

/// `None`: negative, or larger than 64 bits hold.
fn parsed(integer: &DeInteger<'_>) -> Option<u64> {
    let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok()?;
    u64::try_from(number).ok()
}

pub(super) fn processes(value: &DeValue<'_>) -> Result<Option<u32>, Problem> {
    if is_unlimited(value) {
        return Ok(None);
    }
    // PID_MAX_LIMIT of a 64-bit kernel.
    let number = or_unlimited(integer(value, 1..=4_194_304, "2048"), value)?;
    Ok(u32::try_from(number).ok())
}

/// A number of files, of any size a file system has.
pub(super) fn files(value: &DeValue<'_>) -> Result<Option<u64>, Problem> {
    if is_unlimited(value) {
        return Ok(None);
    }
    or_unlimited(integer(value, 1..=1 << 40, "100000"), value).map(Some)
}

/// A TCP port.
pub(super) fn port(value: &DeValue<'_>) -> Result<u16, Problem> {
    integer(value, 1..=u16::MAX.into(), "443").map(|port| port as u16)
}

pub(super) fn open_files(value: &DeValue<'_>) -> Result<u64, Problem> {
    integer(value, 1..=1 << 30, "4096")
}

/// Processors, `1.5`, as thousandths.
pub(super) fn cpus(value: &DeValue<'_>) -> Result<Option<u32>, Problem> {
    if is_unlimited(value) {
        return Ok(None);
    }
    let cpus: f64 = match value {
        DeValue::Integer(integer) => parsed(integer).map_or(f64::NAN, |number| number as f64),
        DeValue::Float(float) => float.as_str().parse().unwrap_or(f64::NAN),
        other => {
            let help = format!("write a number, 2 or 1.5, or \"{UNLIMITED}\"");
            return Err(Problem::expected("a number of processors", other, help));
        }
    };
    // Not a number is in no range.
    if !(0.01..=1024.0).contains(&cpus) {
        let zero = if cpus == 0.0 {
            format!("; write \"{UNLIMITED}\" for no bound")
        } else {
            String::new()
        };
        return Err(Problem::new(
            "not a possible number of processors",
            format!("it is from 0.01 to 1024{zero}"),
        ));
    }
    let millis = (cpus * 1000.0).round();
    if (cpus * 1000.0 - millis).abs() > 1e-6 {
        return Err(Problem::new(
            "finer than a thousandth of a processor",
            "write at most three digits after the point",
        ));
    }
    Ok(Some(millis as u32))
}

/// Says that there is a word for no bound, of zero and of a word that is nearly that.
fn or_unlimited(read: Result<u64, Problem>, value: &DeValue<'_>) -> Result<u64, Problem> {
    read.map_err(|mut problem| {
        if matches!(value, DeValue::Integer(integer) if parsed(integer) == Some(0)) {
            problem.message = "zero is not unlimited".to_owned();
            problem.help = Some(format!("write \"{UNLIMITED}\" for no bound, or a number such as 2048"));
        }
        if let DeValue::String(text) = value
            && let Some(help) = meant_unlimited(text)
        {
            problem.help = Some(help);
        }
        problem
    })
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Problem> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        other => Err(Problem::expected(
            "true or false",
            other,
            "write true or false, without quotes",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(text: &str, read: fn(&DeValue<'_>) -> Result<T, Problem>) -> Result<T, String> {
        let value = DeValue::parse(text).unwrap();
        read(value.get_ref()).map_err(|problem| format!("{} ({})", problem.message, problem.help.unwrap_or_default()))
    }

    #[test]
    fn durations() {
        let ms = |text: &str| with(&format!("\"{text}\""), duration_or_unlimited).map(|d| d.map(|d| d.as_millis()));
        for (text, expected) in [
            ("1ms", 1),
            ("500ms", 500),
            ("10s", 10_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("010s", 10_000),
            ("8760h", 31_536_000_000),
        ] {
            assert_eq!(ms(text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(ms("unlimited"), Ok(None));
        for (text, expected) in [
            ("", "`` is not a duration"),
            ("10", "the unit is missing"),
            ("m", "`m` is not a duration"),
            ("0s", "zero is not unlimited"),
            ("0ms", "zero is not unlimited"),
            ("-1s", "`-1s` is negative"),
            ("+1s", "`+1s` is not a duration"),
            ("1.5h", "fractions are not understood"),
            ("10 m", "` m` is not a unit"),
            (" 10m", "` 10m` is not a duration"),
            ("10m ", "`m ` is not a unit of a duration"),
            ("1_000s", "`_000s` is not a unit"),
            ("10M", "did you mean \"10m\"?"),
            ("1h30m", "`h30m` is not a unit"),
            ("10d", "the units are ms, s, m, h"),
            ("１０m", "is not a duration"),
            ("1１m", "is not a unit"),
            ("1e3s", "`e3s` is not a unit"),
            ("8761h", "too large (at most 8760h)"),
            ("18446744073709551615h", "too large"),
            ("99999999999999999999999999s", "too large"),
            ("Unlimited", "is not a duration"),
            ("infinity", "is not a duration"),
        ] {
            let error = ms(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn grace_may_be_zero_and_not_unlimited() {
        assert_eq!(with("\"0s\"", grace), Ok(Duration::ZERO));
        assert_eq!(with("\"5s\"", grace), Ok(Duration::from_secs(5)));
        assert!(with("\"unlimited\"", grace).unwrap_err().contains("not possible here"));
        assert!(with("\"0\"", grace).unwrap_err().contains("the unit is missing"));
    }

    #[test]
    fn sizes() {
        let bytes = |text: &str| with(&format!("\"{text}\""), size_or_unlimited);
        for (text, expected) in [
            ("1B", 1),
            ("2KiB", 2048),
            ("2KB", 2000),
            ("3MiB", 3 << 20),
            ("3MB", 3_000_000),
            ("4GiB", 4 << 30),
            ("4GB", 4_000_000_000),
            ("5TiB", 5 << 40),
            ("5TB", 5_000_000_000_000),
            ("9223372036854775807B", i64::MAX as u64),
        ] {
            assert_eq!(bytes(text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(bytes("unlimited"), Ok(None));
        for (text, expected) in [
            ("0B", "zero is not unlimited"),
            ("0GiB", "zero is not unlimited"),
            ("4096", "the unit is missing"),
            ("4G", "did you mean \"4GiB\"?"),
            ("4gib", "did you mean \"4GiB\"?"),
            ("4kb", "did you mean \"4KB\"?"),
            ("4 GiB", "without a space"),
            ("-4GiB", "is negative"),
            ("9223372036854775808B", "too large"),
            ("8388608TiB", "too large"),
            ("16777216TiB", "too large"),
        ] {
            let error = bytes(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        for text in ["4096", "1e400", "nan", "inf", "true", "[]", "{}", "1979-05-27"] {
            assert!(
                with(text, size_or_unlimited)
                    .unwrap_err()
                    .starts_with("expected a size, found a"),
                "{text}"
            );
        }
        assert!(
            with("\"0B\"", size)
                .unwrap_err()
                .starts_with("zero is not possible here")
        );
        assert!(with("\"unlimited\"", size).unwrap_err().contains("not possible here"));
    }

    #[test]
    fn counts() {
        assert_eq!(with("2048", processes), Ok(Some(2048)));
        assert_eq!(with("0x10", processes), Ok(Some(16)));
        assert_eq!(with("1_000", processes), Ok(Some(1000)));
        assert_eq!(with("\"unlimited\"", processes), Ok(None));
        for (text, expected) in [
            ("0", "zero is not unlimited"),
            ("-0", "zero is not unlimited"),
            ("-1", "-1 is out of range"),
            ("4194305", "4194305 is out of range"),
            ("99999999999999999999999999999999999999999999", "is out of range"),
            ("\"2048\"", "without quotes"),
            ("2048.0", "expected a whole number, found a float"),
        ] {
            let error = with(text, processes).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!(with("1073741824", open_files), Ok(1 << 30));
        assert!(with("0", open_files).is_err());
        assert!(with("\"unlimited\"", open_files).is_err());
    }

    #[test]
    fn processors() {
        for (text, expected) in [
            ("1", 1000),
            ("1.5", 1500),
            ("0.01", 10),
            ("0.333", 333),
            ("2e0", 2000),
            ("1024", 1_024_000),
        ] {
            assert_eq!(with(text, cpus), Ok(Some(expected)), "{text}");
        }
        assert_eq!(with("\"unlimited\"", cpus), Ok(None));
        for text in [
            "0", "0.0", "0.009", "-1", "-1.5", "1025", "1e400", "nan", "inf", "-inf", "1.2345", "\"1.5\"", "true",
        ] {
            assert!(with(text, cpus).is_err(), "{text}");
        }
        assert!(with("0", cpus).unwrap_err().contains("\"unlimited\""));
    }
}
