//! What is to be done with the row of a cron schedule. No input, no output.

use std::time::Duration;

use eventstore_core::{Timestamp, slot};
use uuid::Uuid;

use super::{plan::Plan, schedule::Missed};
use crate::scheduled::table::{Answer, Row, ScheduledStatus};

/// How late a tick may be that is not missed.
const IN_TIME: Duration = Duration::from_secs(60);

/// What a node does next with a schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing before an instant; `None` if that is not known.
    Wait(Option<Timestamp>),
    /// Plan a tick, at an instant if there is one.
    Plan(Option<Timestamp>),
    /// Run the tick of an instant.
    Run(Timestamp),
}

/// Decides what is done next. `cron` is the expression and the time zone of this program.
pub fn step(row: Option<&Row>, plan: &Plan, cron: &str, missed: Missed, now: Timestamp) -> Step {
    let Some(row) = row else { return Step::Plan(plan.next(now)) };
    if row.status == ScheduledStatus::Parked {
        return Step::Wait(None);
    }
    // A tick that was begun is completed before anything else, whatever the expression says by now.
    if !row.claimed && row.cron.as_deref() != Some(cron) {
        return Step::Plan(plan.next(now));
    }
    let Some(due) = row.due.map(Timestamp::from_micros) else { return Step::Wait(None) };
    if due > now {
        return Step::Wait(Some(due));
    }
    if row.claimed {
        return Step::Run(row.at());
    }
    let last = || plan.last(row.at(), now).unwrap_or(row.at());
    match missed {
        Missed::All => Step::Run(row.at()),
        Missed::Once => Step::Run(last()),
        Missed::Skip => match last() {
            last if now - last <= IN_TIME => Step::Run(last),
            last => Step::Plan(plan.next(last)),
        },
    }
}

/// Returns the row of a schedule whose next tick is at an instant, if there is one.
pub fn planned(key: &str, name: &str, cron: &str, at: Option<Timestamp>, now: Timestamp) -> Row {
    Row {
        slot: slot(key),
        // No category is called so.
        category: "$cron".into(),
        target: format!("$cron-{name}"),
        command: name.into(),
        version: 1,
        // The commands of a tick have ids of their own.
        command_id: Uuid::nil(),
        body: String::new(),
        at: at.unwrap_or(now).as_micros(),
        delay: None,
        due: at.map(Timestamp::as_micros),
        status: ScheduledStatus::Waiting,
        claimed: false,
        attempts: 0,
        actor: None,
        correlation: None,
        causation: None,
        asked_at: now.as_micros(),
        changed_at: now.as_micros(),
        position: None,
        error: None,
        cron: Some(cron.into()),
    }
}

/// Stores what came of a tick in its row. The next tick is the one after this one, not the one after now.
pub fn answered(row: &mut Row, answer: Answer, plan: &Plan, cron: &str, now: Timestamp) {
    let error = match answer {
        Answer::Done(_) | Answer::Cancelled => None,
        Answer::Refused(words) => Some(crate::scheduled::table::told(&words)),
        answer => return row.answered(answer, now),
    };
    let next = plan.next(row.at());
    (row.at, row.due) = (next.map_or(row.at, Timestamp::as_micros), next.map(Timestamp::as_micros));
    (row.status, row.claimed, row.attempts) = (ScheduledStatus::Waiting, false, 0);
    (row.error, row.changed_at, row.cron) = (error, now.as_micros(), Some(cron.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURLY: &str = "0 * * * * UTC";

    fn at(text: &str) -> Timestamp {
        format!("2026-06-15T{text}Z").parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn hourly() -> Plan {
        Plan::new("hourly", "0 * * * *", "UTC").unwrap_or_else(|error| panic!("{error}"))
    }

    fn row(next: &str) -> Row {
        planned("cron:hourly", "hourly", HOURLY, Some(at(next)), at("00:00:00"))
    }

    #[test]
    fn m4_the_next_tick_is_planned_from_the_last_one_and_not_from_now() {
        let mut row = row("03:00:00");
        row.claim(at("06:30:00"));
        answered(&mut row, Answer::Done(None), &hourly(), HOURLY, at("06:30:00"));
        assert_eq!((row.at(), row.status, row.claimed), (at("04:00:00"), ScheduledStatus::Waiting, false));
        // A clock that goes back runs nothing again.
        for now in ["03:30:00", "00:00:00"] {
            let step = step(Some(&row), &hourly(), HOURLY, Missed::All, at(now));
            assert_eq!(step, Step::Wait(Some(at("04:00:00"))));
        }
    }

    #[test]
    fn m6_missed_ticks_are_run_by_the_policy() {
        let row = row("03:00:00");
        let step = |missed, now: &str| step(Some(&row), &hourly(), HOURLY, missed, at(now));
        assert_eq!(step(Missed::All, "06:30:00"), Step::Run(at("03:00:00")));
        assert_eq!(step(Missed::Once, "06:30:00"), Step::Run(at("06:00:00")));
        assert_eq!(step(Missed::Skip, "06:30:00"), Step::Plan(Some(at("07:00:00"))));
        assert_eq!(step(Missed::Skip, "06:01:00"), Step::Run(at("06:00:00")));
        for missed in [Missed::All, Missed::Once, Missed::Skip] {
            assert_eq!(step(missed, "03:00:00.000001"), Step::Run(at("03:00:00")));
            assert_eq!(step(missed, "02:59:59.999999"), Step::Wait(Some(at("03:00:00"))));
        }
    }

    #[test]
    fn m4_a_tick_that_was_begun_is_completed_before_another_begins() {
        let mut row = row("03:00:00");
        row.claim(at("03:00:00"));
        for missed in [Missed::All, Missed::Once, Missed::Skip] {
            let step = step(Some(&row), &hourly(), "*/5 * * * * UTC", missed, at("09:30:00"));
            assert_eq!(step, Step::Run(at("03:00:00")), "{missed:?}");
        }
        answered(&mut row, Answer::Refused("no".into()), &hourly(), HOURLY, at("09:30:00"));
        assert_eq!((row.error.as_deref(), row.at()), (Some("no"), at("04:00:00")));
    }

    #[test]
    fn m6_another_expression_plans_anew_from_now() {
        let (before, plan) = (row("03:00:00"), hourly());
        let step = |row: Option<&Row>| step(row, &plan, "0 * * * * Europe/Berlin", Missed::All, at("06:30:00"));
        assert_eq!(step(Some(&before)), Step::Plan(Some(at("07:00:00"))));
        assert_eq!(step(None), Step::Plan(Some(at("07:00:00"))));
        let mut parked = before;
        for _ in 0..8 {
            parked.claim(at("03:00:00"));
            answered(&mut parked, Answer::Failed("why".into()), &plan, HOURLY, at("03:00:00"));
        }
        assert_eq!((parked.status, parked.at()), (ScheduledStatus::Parked, at("03:00:00")));
        assert_eq!(step(Some(&parked)), Step::Wait(None));
    }
}
