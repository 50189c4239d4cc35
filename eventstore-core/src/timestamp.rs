//! When: instants to the microsecond.

use std::{
    fmt,
    ops::Add,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant, to the microsecond, as PostgreSQL keeps it. RFC 3339 in text and JSON.
///
/// Converts from and to [`SystemTime`], so wherever an instant is asked for, one of chrono, jiff or time will do
/// as well. Instants before the year −4712 (4713 BC) or after 9999, which not every database can keep,
/// become the nearest that can be kept.
///
/// ```
/// # use eventstore_core::Timestamp;
/// let noon: Timestamp = "2026-11-21T12:00:00+01:00".parse()?;
/// assert_eq!(noon.to_string(), "2026-11-21T11:00:00Z");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant.
    pub const MIN: Self = Self(-210_863_520_000_000_000);
    /// The first instant that every database reads as it is written in text.
    pub(crate) const YEAR_ONE: Self = Self(-62_135_596_800_000_000);
    /// The latest instant.
    pub const MAX: Self = Self(253_402_207_200_000_000);

    /// So many microseconds after the start of 1970, UTC.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros).clamp(Self::MIN, Self::MAX)
    }

    /// Microseconds since the start of 1970, UTC.
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
        let instant: jiff::Timestamp = text.parse().map_err(|_| TimestampError(text.into()))?;
        Ok(Self::from_micros(instant.as_microsecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = jiff::Timestamp::from_microsecond(self.0).expect("made within the range of jiff");
        fmt::Display::fmt(&instant, f)
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
            // Rounded down like those after 1970, so that an instant never moves forward.
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
        assert_eq!(Timestamp::MAX.to_string().parse(), Ok(Timestamp::MAX));
        assert_eq!(Timestamp::MIN.to_string(), "-004712-01-01T00:00:00Z");
        assert_eq!("-008000-01-01T00:00:00Z".parse(), Ok(Timestamp::MIN));
    }
}
