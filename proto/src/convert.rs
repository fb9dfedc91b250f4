//! Conversions of leaves: durations, timestamps, names of signals and of error numbers.
//!
//! The tables are those of the generic Linux ABI, which x86-64 and AArch64 share. They are here, not taken from a libc
//! crate, because the wire means the daemon's machine and a client need not run on Linux.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest duration protobuf allows, in seconds: about 10,000 years either way.
pub const MAX_DURATION_SECONDS: i64 = 315_576_000_000;

/// The first and last second a protobuf timestamp may name: 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// Why a duration or timestamp from the wire has no meaning here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConvertError {
    /// A duration below zero, where only lengths of time make sense.
    Negative,
    /// `nanos` outside of 0 to 999,999,999.
    Nanos(i32),
    /// `seconds` outside of what protobuf allows.
    Seconds(i64),
}

impl std::fmt::Display for ConvertError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Negative => write!(f, "must not be negative"),
            Self::Nanos(nanos) => write!(f, "nanos must be within 0 to 999999999, not {nanos}"),
            Self::Seconds(seconds) => write!(f, "seconds are out of range: {seconds}"),
        }
    }
}

impl std::error::Error for ConvertError {}

/// A duration from the wire.
///
/// # Errors
/// When it is negative, or a part of it is out of the range protobuf allows.
pub fn duration_to_std(duration: &prost_types::Duration) -> Result<Duration, ConvertError> {
    let prost_types::Duration { seconds, nanos } = *duration;
    if seconds < 0 || (seconds == 0 && nanos < 0) {
        return Err(ConvertError::Negative);
    }
    if seconds > MAX_DURATION_SECONDS {
        return Err(ConvertError::Seconds(seconds));
    }
    Ok(Duration::new(seconds.unsigned_abs(), checked_nanos(nanos)?))
}

/// A duration for the wire; what is longer than [`MAX_DURATION_SECONDS`] is cut to it.
#[must_use]
pub fn duration_from_std(duration: Duration) -> prost_types::Duration {
    match i64::try_from(duration.as_secs()) {
        // Below one second's nanoseconds, so it fits.
        Ok(seconds) if seconds < MAX_DURATION_SECONDS => prost_types::Duration {
            seconds,
            nanos: duration.subsec_nanos() as i32,
        },
        _ => prost_types::Duration {
            seconds: MAX_DURATION_SECONDS,
            nanos: 0,
        },
    }
}

/// A point in time from the wire; it may lie before 1970.
///
/// # Errors
/// When a part of it is out of the range protobuf allows.
pub fn timestamp_to_system(timestamp: &prost_types::Timestamp) -> Result<SystemTime, ConvertError> {
    let prost_types::Timestamp { seconds, nanos } = *timestamp;
    if !TIMESTAMP_SECONDS.contains(&seconds) {
        return Err(ConvertError::Seconds(seconds));
    }
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let at_second = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    let fraction = Duration::new(0, checked_nanos(nanos)?);
    at_second
        .and_then(|at| at.checked_add(fraction))
        .ok_or(ConvertError::Seconds(seconds))
}

/// A point in time for the wire; what protobuf cannot name becomes its first or last moment.
#[must_use]
pub fn timestamp_from_system(time: SystemTime) -> prost_types::Timestamp {
    let (seconds, nanos) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(error) => {
            // Nanoseconds count forwards from the second, before 1970 as well.
            let before = error.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds.saturating_sub(1), NANOS_PER_SECOND - nanos),
            }
        }
    };
    let (first, last) = (*TIMESTAMP_SECONDS.start(), *TIMESTAMP_SECONDS.end());
    if seconds < first {
        prost_types::Timestamp {
            seconds: first,
            nanos: 0,
        }
    } else if seconds > last {
        prost_types::Timestamp {
            seconds: last,
            nanos: 999_999_999,
        }
    } else {
        prost_types::Timestamp {
            seconds,
            nanos: nanos as i32,
        }
    }
}

fn checked_nanos(nanos: i32) -> Result<u32, ConvertError> {
    u32::try_from(nanos)
        .ok()
        .filter(|nanos| *nanos < NANOS_PER_SECOND)
        .ok_or(ConvertError::Nanos(nanos))
}

/// The name of a signal, `SIGTERM` for 15; none for real-time signals (32 to 64) and for what is no signal.
#[must_use]
pub fn signal_name(number: i32) -> Option<&'static str> {
    named(&SIGNALS, number)
}

/// The number of a signal given as `SIGTERM`, `TERM`, `term` or `15`; 1 to 64.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let index = SIGNALS
        .iter()
        .position(|name| name.strip_prefix("SIG") == Some(short))?;
    i32::try_from(index + 1).ok()
}

/// The name of an error number, `ENOENT` for 2; none for a number without one.
#[must_use]
pub fn errno_name(number: i32) -> Option<&'static str> {
    named(&ERRNOS, number)
}

/// The name at `number` in a table that begins with the name of 1.
fn named(table: &[&'static str], number: i32) -> Option<&'static str> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    table.get(index).copied().filter(|name| !name.is_empty())
}

/// `include/uapi/asm-generic/signal.h`, from 1.
#[rustfmt::skip]
const SIGNALS: [&str; 31] = [
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1",
    "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP",
    "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR",
    "SIGSYS",
];

/// `include/uapi/asm-generic/errno-base.h` and `errno.h`, from 1; 41 and 58 are aliases there and have no name.
#[rustfmt::skip]
const ERRNOS: [&str; 133] = [
    "EPERM", "ENOENT", "ESRCH", "EINTR", "EIO", "ENXIO", "E2BIG", "ENOEXEC", "EBADF", "ECHILD",
    "EAGAIN", "ENOMEM", "EACCES", "EFAULT", "ENOTBLK", "EBUSY", "EEXIST", "EXDEV", "ENODEV", "ENOTDIR",
    "EISDIR", "EINVAL", "ENFILE", "EMFILE", "ENOTTY", "ETXTBSY", "EFBIG", "ENOSPC", "ESPIPE", "EROFS",
    "EMLINK", "EPIPE", "EDOM", "ERANGE", "EDEADLK", "ENAMETOOLONG", "ENOLCK", "ENOSYS", "ENOTEMPTY", "ELOOP",
    "", "ENOMSG", "EIDRM", "ECHRNG", "EL2NSYNC", "EL3HLT", "EL3RST", "ELNRNG", "EUNATCH", "ENOCSI",
    "EL2HLT", "EBADE", "EBADR", "EXFULL", "ENOANO", "EBADRQC", "EBADSLT", "", "EBFONT", "ENOSTR",
    "ENODATA", "ETIME", "ENOSR", "ENONET", "ENOPKG", "EREMOTE", "ENOLINK", "EADV", "ESRMNT", "ECOMM",
    "EPROTO", "EMULTIHOP", "EDOTDOT", "EBADMSG", "EOVERFLOW", "ENOTUNIQ", "EBADFD", "EREMCHG", "ELIBACC", "ELIBBAD",
    "ELIBSCN", "ELIBMAX", "ELIBEXEC", "EILSEQ", "ERESTART", "ESTRPIPE", "EUSERS", "ENOTSOCK", "EDESTADDRREQ", "EMSGSIZE",
    "EPROTOTYPE", "ENOPROTOOPT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EOPNOTSUPP", "EPFNOSUPPORT", "EAFNOSUPPORT", "EADDRINUSE", "EADDRNOTAVAIL", "ENETDOWN",
    "ENETUNREACH", "ENETRESET", "ECONNABORTED", "ECONNRESET", "ENOBUFS", "EISCONN", "ENOTCONN", "ESHUTDOWN", "ETOOMANYREFS", "ETIMEDOUT",
    "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "EALREADY", "EINPROGRESS", "ESTALE", "EUCLEAN", "ENOTNAM", "ENAVAIL", "EISNAM",
    "EREMOTEIO", "EDQUOT", "ENOMEDIUM", "EMEDIUMTYPE", "ECANCELED", "ENOKEY", "EKEYEXPIRED", "EKEYREVOKED", "EKEYREJECTED", "EOWNERDEAD",
    "ENOTRECOVERABLE", "ERFKILL", "EHWPOISON",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_the_round_trip() {
        for duration in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::new(3, 999_999_999),
            Duration::from_secs(86_400),
        ] {
            assert_eq!(duration_to_std(&duration_from_std(duration)), Ok(duration));
        }
    }

    #[test]
    fn a_duration_too_long_for_the_wire_is_cut_to_its_longest() {
        let longest = prost_types::Duration {
            seconds: MAX_DURATION_SECONDS,
            nanos: 0,
        };
        assert_eq!(duration_from_std(Duration::MAX), longest);
        assert!(duration_to_std(&longest).is_ok());
    }

    #[test]
    fn durations_without_meaning_are_refused() {
        let refused = |seconds, nanos| duration_to_std(&prost_types::Duration { seconds, nanos }).unwrap_err();
        assert_eq!(refused(-1, 0), ConvertError::Negative);
        assert_eq!(refused(0, -1), ConvertError::Negative);
        assert_eq!(refused(1, -1), ConvertError::Nanos(-1));
        assert_eq!(refused(0, 1_000_000_000), ConvertError::Nanos(1_000_000_000));
        assert_eq!(refused(i64::MAX, 0), ConvertError::Seconds(i64::MAX));
    }

    #[test]
    fn timestamps_survive_the_round_trip_on_both_sides_of_1970() {
        let moments = [
            UNIX_EPOCH,
            UNIX_EPOCH + Duration::new(1_700_000_000, 5),
            UNIX_EPOCH - Duration::from_nanos(1),
            UNIX_EPOCH - Duration::new(86_400, 500_000_000),
        ];
        for moment in moments {
            assert_eq!(timestamp_to_system(&timestamp_from_system(moment)), Ok(moment));
        }
    }

    #[test]
    fn timestamps_out_of_range_are_refused() {
        let of = |seconds, nanos| timestamp_to_system(&prost_types::Timestamp { seconds, nanos });
        assert_eq!(of(i64::MIN, 0), Err(ConvertError::Seconds(i64::MIN)));
        assert_eq!(of(253_402_300_800, 0), Err(ConvertError::Seconds(253_402_300_800)));
        assert_eq!(of(0, -1), Err(ConvertError::Nanos(-1)));
    }

    #[test]
    fn signals_have_their_names_and_numbers() {
        assert_eq!(signal_name(9), Some("SIGKILL"));
        assert_eq!(signal_name(31), Some("SIGSYS"));
        for nameless in [0, -1, 32, 64, i32::MAX] {
            assert_eq!(signal_name(nameless), None);
        }
        for text in ["15", "TERM", "SIGTERM", "sigterm"] {
            assert_eq!(signal_number(text), Some(15));
        }
        for nonsense in ["", "0", "65", "SIG", "NOSUCH", "-9"] {
            assert_eq!(signal_number(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn errors_have_their_names() {
        // One number from each line of the table: a slip would move all that follow.
        let known = [
            (1, "EPERM"),
            (11, "EAGAIN"),
            (28, "ENOSPC"),
            (38, "ENOSYS"),
            (42, "ENOMSG"),
            (61, "ENODATA"),
            (71, "EPROTO"),
            (84, "EILSEQ"),
            (95, "EOPNOTSUPP"),
            (101, "ENETUNREACH"),
            (111, "ECONNREFUSED"),
            (122, "EDQUOT"),
            (133, "EHWPOISON"),
        ];
        for (number, name) in known {
            assert_eq!(errno_name(number), Some(name));
        }
        for nameless in [0, -1, 41, 58, 134, i32::MIN] {
            assert_eq!(errno_name(nameless), None);
        }
    }
}
