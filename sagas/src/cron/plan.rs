//! The instants of a cron expression in a time zone, or of a period. No input, no output.
//!
//! A cron expression is matched against civil time, as if there were no time zones, and each match becomes an instant:
//! one in a gap becomes the first instant after the gap, one in a fold the earlier instant. So the instants never go
//! back, and matches that become the same instant are one tick.

use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, Timelike, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds},
};
use eventstore_core::{Invalid, Timestamp};
use jiff::{
    SignedDuration, civil,
    tz::{AmbiguousOffset, TimeZone},
};

const MICROSECOND: Duration = Duration::from_micros(1);

/// What begins an expression that is a period: `@every 5m`.
const EVERY: &str = "@every ";

/// The instants of a schedule.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Those of a cron expression in a time zone.
    Cron(Box<Cron>, TimeZone),
    /// The whole multiples of a period since 1970, in microseconds: the same on every node, whenever it has started.
    Every(i64),
}

impl Plan {
    /// Reads an expression and finds a time zone. Fails with [`Invalid::Schedule`] if there is none, or if the expression
    /// never matches.
    pub fn new(name: &str, expression: &str, zone: &str) -> Result<Self, Invalid> {
        let invalid = |reason: String| Invalid::Schedule { name: name.into(), reason };
        let found = if zone == "UTC" { Ok(TimeZone::UTC) } else { TimeZone::get(zone) };
        let zone = found.map_err(|error| invalid(format!("has the time zone `{zone}`: {error}")))?;
        if let Some(period) = expression.strip_prefix(EVERY) {
            return every(period)
                .map(Self::Every)
                .map_err(|error| invalid(format!("has the expression `{expression}`: {error}")));
        }
        let parsed = CronParser::builder().seconds(Seconds::Optional).build().parse(expression);
        let cron = parsed.map_err(|error| invalid(format!("has the expression `{expression}`: {error}")))?;
        let plan = Self::Cron(Box::new(cron), zone);
        match plan.next(Timestamp::from_micros(0)) {
            Some(_) => Ok(plan),
            None => Err(invalid(format!("has the expression `{expression}`, which never matches"))),
        }
    }

    /// Returns the first instant after another; `None` if there is none.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let (cron, zone) = match self {
            Self::Cron(cron, zone) => (cron, zone),
            Self::Every(period) => {
                let next = after.as_micros().div_euclid(*period).checked_add(1)?.checked_mul(*period)?;
                // At the end of time there is no next one.
                return Some(Timestamp::from_micros(next)).filter(|next| *next > after);
            }
        };
        let from = jiff::Timestamp::from_microsecond(after.as_micros()).ok()?;
        let mut civil = in_croner(zone.to_datetime(from))?;
        loop {
            civil = cron.find_next_occurrence(&civil, false).ok()?;
            let instant = instant(zone, civil)?;
            // In the second pass of a fold, matches of the first one are past.
            if instant > after {
                return Some(instant);
            }
        }
    }

    /// Returns the last instant from one on and up to another; `None` if there is none.
    pub fn last(&self, from: Timestamp, until: Timestamp) -> Option<Timestamp> {
        if let Self::Every(period) = self {
            let last = Timestamp::from_micros(until.as_micros().div_euclid(*period).checked_mul(*period)?);
            return Some(last).filter(|last| *last >= from);
        }
        let mut span = Duration::from_secs(60);
        loop {
            let begin = (from - MICROSECOND).max(until - span);
            let found = self.next(begin).filter(|first| *first <= until);
            if let Some(mut last) = found {
                while let Some(next) = self.next(last).filter(|next| *next <= until) {
                    last = next;
                }
                return Some(last);
            }
            if begin <= from {
                return None;
            }
            span *= 2;
        }
    }
}

/// Reads a period, in microseconds. Fails with the reason if it is none, or shorter than a second.
fn every(period: &str) -> Result<i64, String> {
    let period: SignedDuration = period.trim().parse().map_err(|error: jiff::Error| error.to_string())?;
    match i64::try_from(period.as_micros()) {
        Ok(micros) if micros >= 1_000_000 => Ok(micros),
        _ => Err("a period has at least a second".into()),
    }
}

/// Returns the instant of a civil time in a time zone.
fn instant(zone: &TimeZone, civil: DateTime<Utc>) -> Option<Timestamp> {
    let there = zone.to_ambiguous_timestamp(in_jiff(civil)?);
    let instant = match there.offset() {
        AmbiguousOffset::Gap { .. } => {
            let inside = there.later().ok()?;
            // The end of the gap is the transition before the instant that the offset from before the gap gives.
            let mut before = zone.preceding(inside + SignedDuration::from_micros(1));
            before.next()?.timestamp()
        }
        _ => there.earlier().ok()?,
    };
    Some(Timestamp::from_micros(instant.as_microsecond()))
}

/// Returns a civil time without its fraction of a second, as croner takes it.
fn in_croner(civil: civil::DateTime) -> Option<DateTime<Utc>> {
    let part = |part: i8| u32::try_from(part).ok();
    let date = NaiveDate::from_ymd_opt(civil.year().into(), part(civil.month())?, part(civil.day())?)?;
    Some(date.and_hms_opt(part(civil.hour())?, part(civil.minute())?, part(civil.second())?)?.and_utc())
}

fn in_jiff(civil: DateTime<Utc>) -> Option<civil::DateTime> {
    let part = |part: u32| i8::try_from(part).ok();
    let (year, month, day) = (i16::try_from(civil.year()).ok()?, part(civil.month())?, part(civil.day())?);
    let (hour, minute, second) = (part(civil.hour())?, part(civil.minute())?, part(civil.second())?);
    civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN: &str = "Europe/Berlin";

    fn instant(text: &str) -> Timestamp {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn m4_a_period_has_the_same_instants_on_every_node() {
        let plan = plan("@every 1h 30m", BERLIN);
        let next = |after| plan.next(instant(after));
        assert_eq!(next("2026-06-15T00:00:00Z"), Some(instant("2026-06-15T01:30:00Z")));
        assert_eq!(next("2026-06-15T01:29:59.999999Z"), Some(instant("2026-06-15T01:30:00Z")));
        assert_eq!(next("2026-06-15T01:30:00Z"), Some(instant("2026-06-15T03:00:00Z")));
        assert_eq!(next("1969-12-31T23:59:59Z"), Some(Timestamp::from_micros(0)));
        let last = |from, until| plan.last(instant(from), instant(until));
        assert_eq!(last("2026-06-15T01:30:00Z", "2026-06-16T02:59:59Z"), Some(instant("2026-06-16T01:30:00Z")));
        assert_eq!(last("2026-06-15T01:30:00Z", "2026-06-15T01:30:00Z"), Some(instant("2026-06-15T01:30:00Z")));
        assert_eq!(last("2026-06-15T01:30:01Z", "2026-06-15T02:59:59Z"), None);
        assert_eq!(plan.next(Timestamp::from_micros(i64::MAX)), None);
        for wrong in
            ["@every", "@every ", "@every 5", "@every 0s", "@every -5m", "@every 999ms", "@every 1mo", "@every x"]
        {
            let refused = Plan::new("test", wrong, "UTC");
            assert!(matches!(refused, Err(Invalid::Schedule { .. })), "{wrong}: {refused:?}");
        }
        assert!(Plan::new("test", "@every 5m", "No/Where").is_err(), "a mistake in the zone is told, too");
        assert_eq!(
            self::plan("@every 5m", "UTC").next(instant("2026-06-15T00:04:00Z")),
            Some(instant("2026-06-15T00:05:00Z"))
        );
    }

    fn plan(expression: &str, zone: &str) -> Plan {
        Plan::new("test", expression, zone).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The first instants after another.
    fn ticks(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let plan = plan(expression, zone);
        let next = |at: &Timestamp| plan.next(*at);
        std::iter::successors(next(&instant(after)), next).take(count).map(|at| at.to_string()).collect()
    }

    /// In Berlin the clocks go from 2:00 to 3:00 on 29 March 2026, at 1:00 UTC.
    #[test]
    fn m6_hours_that_daylight_saving_skips_run_at_the_first_instant_after() {
        let daily = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        assert_eq!(ticks("30 2 * * *", BERLIN, "2026-03-27T12:00:00Z", 3), daily);
        let at_two = ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"];
        assert_eq!(ticks("0 2 * * *", BERLIN, "2026-03-28T12:00:00Z", 2), at_two);
        // 2:00, 2:20, 2:40 and 3:00 are one instant.
        let often = ["2026-03-29T00:40:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z"];
        assert_eq!(ticks("*/20 * * * *", BERLIN, "2026-03-29T00:20:00Z", 3), often);
        // A whole day is skipped: in Apia there was no 30 December 2011.
        let apia = ["2011-12-29T13:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T13:00:00Z"];
        assert_eq!(ticks("0 3 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", 3), apia);
    }

    /// In Berlin the clocks go back from 3:00 to 2:00 on 25 October 2026, at 1:00 UTC.
    #[test]
    fn m6_hours_that_come_twice_run_once_the_first_time() {
        let daily = ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        assert_eq!(ticks("30 2 * * *", BERLIN, "2026-10-23T12:00:00Z", 3), daily);
        let often = ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z"];
        assert_eq!(ticks("*/30 * * * *", BERLIN, "2026-10-24T23:30:00Z", 3), often);
        // From the second pass on.
        assert_eq!(ticks("*/30 * * * *", BERLIN, "2026-10-25T01:10:00Z", 1), ["2026-10-25T02:00:00Z"]);
    }

    #[test]
    fn m6_instants_are_whole_seconds_and_never_go_back() {
        let seconds = ["2026-10-25T00:59:59Z", "2026-10-25T02:00:00Z", "2026-10-25T02:00:01Z"];
        assert_eq!(ticks("* * * * * *", BERLIN, "2026-10-25T00:59:58.999999Z", 3), seconds);
        assert_eq!(ticks("* * * * * *", "UTC", "2026-10-25T00:59:58.5Z", 1), ["2026-10-25T00:59:59Z"]);
        for expression in ["*/7 * * * *", "0 */5 * * *", "13 2 * * *", "0 0 * * SUN"] {
            for zone in [BERLIN, "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "UTC"] {
                let plan = plan(expression, zone);
                let mut at = instant("2026-03-07T00:00:00Z");
                for _ in 0..400 {
                    let next = plan.next(at).unwrap_or_else(|| panic!("{expression} {zone} after {at}"));
                    assert!(next > at, "{expression} {zone}: {next} after {at}");
                    at = next;
                }
            }
        }
    }

    #[test]
    fn m6_the_last_of_the_ticks_that_were_missed_is_found_without_all_of_them() {
        let last = |expression: &str, from: &str, until: &str| {
            plan(expression, "UTC").last(instant(from), instant(until)).map(|at| at.to_string())
        };
        let (from, until) = ("2000-01-01T00:00:00Z", "2026-06-15T12:34:56.7Z");
        assert_eq!(last("* * * * * *", from, until).as_deref(), Some("2026-06-15T12:34:56Z"));
        assert_eq!(last("0 3 1 * *", from, until).as_deref(), Some("2026-06-01T03:00:00Z"));
        assert_eq!(last("0 0 29 2 *", from, until).as_deref(), Some("2024-02-29T00:00:00Z"));
        assert_eq!(last("0 3 1 * *", "2026-06-01T03:00:00Z", until).as_deref(), Some("2026-06-01T03:00:00Z"));
        assert_eq!(last("0 3 1 * *", "2026-06-01T03:00:00.000001Z", until), None);
    }

    #[test]
    fn m6_what_is_no_expression_and_no_time_zone_is_a_typed_error() {
        for (expression, zone) in [("", "UTC"), ("a b c", "UTC"), ("61 * * * *", "UTC"), ("0 0 30 2 *", "UTC")] {
            let error = Plan::new("test", expression, zone).err();
            assert!(matches!(error, Some(Invalid::Schedule { .. })), "`{expression}`: {error:?}");
        }
        let error = Plan::new("test", "* * * * *", "Europe/Atlantis").err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("`Europe/Atlantis`")), "{error:?}");
    }
}
