//! Instants, to the microsecond.

use std::{
    fmt,
    ops::{Add, Sub},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::{SignedDuration, civil, fmt::temporal::Pieces};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant, to the microsecond, as PostgreSQL keeps it. RFC 3339 in text and JSON.
///
/// Converts from and to [`SystemTime`], so a call that takes an instant takes those of chrono, jiff and time too.
/// Instants before the year −4712 (4713 BC) or after 9999, which not every database can keep, become the nearest
/// instant that can be kept.
///
/// ```
/// # use eventstore_core::Timestamp;
/// # use std::time::Duration;
/// let noon: Timestamp = "2026-11-21T12:00:00+01:00".parse()?;
/// assert_eq!(noon.to_string(), "2026-11-21T11:00:00Z");
/// let later = noon + Duration::from_secs(90);
/// assert_eq!((later - noon, later - Duration::from_secs(90)), (Duration::from_secs(90), noon));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant.
    pub const MIN: Self = Self(-210_863_520_000_000_000);
    /// The first instant that every database reads as it is written in text.
    pub(crate) const YEAR_ONE: Self = Self(-62_135_596_800_000_000);
    /// The latest instant: the last microsecond of the year 9999.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// Returns the current instant, by the clock of this machine. The rules (`decide`, `evolve`, `project`) must not
    /// call it: commands and events contain the instants that they need.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Returns the instant this many microseconds after the start of 1970, UTC.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros).clamp(Self::MIN, Self::MAX)
    }

    /// Returns the microseconds since the start of 1970, UTC.
    pub fn as_micros(self) -> i64 {
        self.0
    }
}

/// A text is not an RFC 3339 instant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an instant like 2026-11-21T12:00:00Z")]
pub struct TimestampError(String);

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let micros = match text.parse::<jiff::Timestamp>() {
            Ok(instant) => Some(instant.as_microsecond()),
            Err(_) => at_the_edge(text),
        };
        micros.map(Self::from_micros).ok_or_else(|| TimestampError(text.into()))
    }
}

/// The start of 1970 as jiff's `DateTime`, whose range is a day longer than that of its instants at both ends.
const START: civil::DateTime = civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// Returns the microseconds since 1970 of an instant beyond jiff's instants.
fn at_the_edge(text: &str) -> Option<i64> {
    let pieces = Pieces::parse(text).ok()?;
    if pieces.time_zone_annotation().is_some() {
        return None;
    }
    let time = pieces.date().to_datetime(pieces.time()?).duration_since(START);
    let offset = SignedDuration::from_secs(pieces.to_numeric_offset()?.seconds().into());
    i64::try_from(time.checked_sub(offset)?.as_micros()).ok()
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(instant) => fmt::Display::fmt(&instant, f),
            Err(_) => write!(f, "{}Z", START.saturating_add(SignedDuration::from_micros(self.0))),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let micros = |distance: Duration| i64::try_from(distance.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => micros(after),
            // Rounded down like instants after 1970, so that an instant never moves forward.
            Err(before) => -micros(before.duration() + Duration::from_nanos(999)),
        })
    }
}

impl From<Timestamp> for SystemTime {
    fn from(Timestamp(micros): Timestamp) -> Self {
        let distance = Duration::from_micros(micros.unsigned_abs());
        if micros < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// Returns the time since `earlier`; zero if `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0 - earlier.0).unwrap_or_default())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_instant_are_one() {
        for text in ["1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z", "2026-11-21T03:40:00.000001Z"] {
            let instant: Timestamp = text.parse().expect("an instant");
            assert_eq!(instant.to_string(), text);
            assert_eq!(Timestamp::from(SystemTime::from(instant)), instant);
            let json = serde_json::to_string(&instant).expect("JSON");
            assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("an instant"), instant);
        }
        assert_eq!("yesterday".parse::<Timestamp>(), Err(TimestampError("yesterday".into())));
    }

    #[test]
    fn the_range_is_kept() {
        assert_eq!(Timestamp::from_micros(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX + Duration::MAX, Timestamp::MAX);
        assert_eq!(Timestamp::MIN - Duration::MAX, Timestamp::MIN);
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp::MIN.to_string(), "-004712-01-01T00:00:00Z");
        assert_eq!("-008000-01-01T00:00:00Z".parse(), Ok(Timestamp::MIN));
    }

    #[test]
    fn the_last_days_of_9999_are_read_as_they_are_written() {
        let texts = [
            ("9999-12-30T22:00:00Z", "9999-12-30T22:00:00Z"),
            ("9999-12-31T00:00:00Z", "9999-12-31T00:00:00Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
            ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999999Z"),
            ("9999-12-31T23:59:59+01:00", "9999-12-31T22:59:59Z"),
            ("9999-12-31T23:59:59-05:00", "9999-12-31T23:59:59.999999Z"),
        ];
        for (text, instant) in texts {
            assert_eq!(text.parse::<Timestamp>().map(|read| read.to_string()), Ok(instant.to_owned()), "{text}");
        }
        for text in ["9999-12-31", "9999-12-31T23:59:59", "9999-12-31T23:59:59Z[Europe/Paris]", "9999-12-32T00:00:00Z"]
        {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn instants_are_subtracted() {
        let instant = |micros| Timestamp::from_micros(micros);
        assert_eq!(instant(5) - instant(3), Duration::from_micros(2));
        assert_eq!(instant(3) - instant(5), Duration::ZERO);
        assert_eq!(instant(3) - Duration::from_micros(5), instant(-2));
        assert_eq!(Timestamp::MAX - Timestamp::MIN, Duration::from_micros(464_265_820_799_999_999));
    }
}
