//! The table of scheduled commands, `"scheduled.commands"`: one row a schedule, and how a row goes from one status to the
//! next. No input, no output.

use std::time::Duration;

use eventstore_core::{Column, Kind, Position, StoreError, StreamId, Table, Timestamp, derived_id};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use uuid::{Builder, Uuid};

/// How long a row is kept once its command was executed or cancelled.
pub const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// How often a command is tried that fails.
pub const TRIES: u32 = 8;
/// The pause after a try that failed since the store could not be used.
pub const OUTAGE: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(3_600);
/// The longest text of an error that is kept, in characters.
const WORDS: usize = 2_000;

/// The table. The name has a dot, so that no read model can be called so.
pub const TABLE: Table = Table { name: "scheduled.commands", version: 0, columns: COLUMNS, shadow: false };

/// The category of the target.
pub const CATEGORY: &Column = &COLUMNS[1];
/// The stream of the target.
pub const TARGET: &Column = &COLUMNS[2];
/// When something is to be done with a row: microseconds since 1970.
pub const DUE: &Column = &COLUMNS[9];
/// How a row stands.
pub const STATUS: &Column = &COLUMNS[10];

const COLUMNS: &[Column] = &[
    Column::new("slot", Kind::Integer),
    Column::new("category", Kind::Text),
    Column { index: true, ..Column::new("target", Kind::Text) },
    Column::new("command", Kind::Text),
    Column::new("version", Kind::Integer),
    Column::new("command_id", Kind::Uuid),
    // As it was written, to the byte: `jsonb` would lose digits.
    Column::new("body", Kind::Text),
    Column::new("at", Kind::Integer),
    Column::optional("delay", Kind::Integer),
    Column { index: true, ..Column::optional("due", Kind::Integer) },
    Column { index: true, ..Column::new("status", Kind::Text) },
    Column::new("claimed", Kind::Bool),
    Column::new("attempts", Kind::Integer),
    Column::optional("actor", Kind::Text),
    Column::optional("correlation", Kind::Uuid),
    Column::optional("causation", Kind::Uuid),
    Column::new("asked_at", Kind::Integer),
    Column::new("changed_at", Kind::Integer),
    Column::optional("position", Kind::Integer),
    Column::optional("error", Kind::Text),
    Column::optional("cron", Kind::Text),
];

/// How a scheduled command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScheduledStatus {
    /// It is not due yet, or it has failed and is tried again.
    Waiting,
    /// A node executes it.
    Firing,
    /// It was executed. Its events are recorded, unless there was nothing to do.
    Fired,
    /// A rule has refused it.
    Refused,
    /// It has failed eight times, and waits for [`retry`](crate::ScheduledCommands::retry).
    Parked,
    /// It was cancelled.
    Cancelled,
}

impl ScheduledStatus {
    /// The statuses in which a command may yet be executed.
    pub const OPEN: [Self; 3] = [Self::Waiting, Self::Firing, Self::Parked];

    /// Whether the command is not executed any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Fired | Self::Refused | Self::Cancelled)
    }

    /// Returns the status as it is stored.
    pub fn stored(self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// A row as it is stored, without its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub slot: u16,
    pub category: String,
    pub target: String,
    pub command: String,
    pub version: u32,
    /// The id of the command: the same whichever node executes it, however often. What replaces a schedule has another
    /// one, since the command before it may have been executed.
    pub command_id: Uuid,
    pub body: String,
    /// The instant of the schedule.
    pub at: i64,
    /// The time that was asked for, if it was asked for as a time from then on; microseconds.
    pub delay: Option<i64>,
    /// When something is done with the row next: the command is executed or tried again, or the row is deleted.
    pub due: Option<i64>,
    pub status: ScheduledStatus,
    /// Whether a node may have executed the command.
    pub claimed: bool,
    /// How often it has failed.
    pub attempts: u32,
    pub actor: Option<String>,
    pub correlation: Option<Uuid>,
    pub causation: Option<Uuid>,
    pub asked_at: i64,
    pub changed_at: i64,
    /// The position of its last event.
    pub position: Option<u64>,
    /// The words of the refusal, or of the last failure.
    pub error: Option<String>,
    /// The expression, in a row of a cron schedule.
    pub cron: Option<String>,
}

/// A command that a node executes.
pub struct Claimed {
    pub id: String,
    pub row: Row,
    /// Whether a node had claimed it before, and may execute it yet.
    pub before: bool,
}

/// What came of executing a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Its events are recorded, the last one at a position; none if there was nothing to do.
    Done(Option<Position>),
    /// A rule refused it, in these words.
    Refused(String),
    /// Something other than it is recorded under its id: it was cancelled.
    Cancelled,
    /// The store could not be used.
    Outage(String),
    /// It failed.
    Failed(String),
}

impl Row {
    /// Reads a row. Fails with [`StoreError::Row`] if only a later release can read it.
    pub fn read(row: &RawValue) -> Result<Self, StoreError> {
        serde_json::from_str(row.get()).map_err(unreadable)
    }

    /// Returns the row as it is stored.
    pub fn written(&self) -> Result<Box<RawValue>, StoreError> {
        to_raw_value(self).map_err(unreadable)
    }

    /// Returns the instant of the schedule.
    pub fn at(&self) -> Timestamp {
        Timestamp::from_micros(self.at)
    }

    /// Returns the stream of the target; that of a cron schedule is `$cron-interest`, which is none. `None` if a later
    /// release has written something else.
    pub fn stream(&self) -> Option<StreamId> {
        self.target.split_once('-').map(|(category, key)| StreamId::new(category, key))
    }

    /// Stores that a node executes the command from now on.
    pub fn claim(&mut self, now: Timestamp) {
        (self.status, self.claimed, self.changed_at) = (ScheduledStatus::Firing, true, now.as_micros());
    }

    /// Stores what came of it, if a node executes it still.
    pub fn answered(&mut self, answer: Answer, now: Timestamp) {
        if self.status != ScheduledStatus::Firing {
            return;
        }
        self.changed_at = now.as_micros();
        match answer {
            Answer::Done(position) => {
                (self.position, self.error) = (position.map(|position| position.0), None);
                self.end(ScheduledStatus::Fired, now);
            }
            Answer::Refused(words) => {
                self.error = Some(told(&words));
                self.end(ScheduledStatus::Refused, now);
            }
            Answer::Cancelled => self.end(ScheduledStatus::Cancelled, now),
            Answer::Outage(words) => self.wait(words, Some(now + OUTAGE)),
            Answer::Failed(words) => {
                self.attempts += 1;
                let again = (self.attempts < TRIES).then(|| now + pause(self.attempts));
                self.wait(words, again);
            }
        }
    }

    fn wait(&mut self, words: String, again: Option<Timestamp>) {
        self.error = Some(told(&words));
        self.status = if again.is_some() { ScheduledStatus::Waiting } else { ScheduledStatus::Parked };
        self.due = again.map(Timestamp::as_micros);
    }

    /// Stores that the command is not executed any more. The row is kept for seven days.
    pub fn end(&mut self, status: ScheduledStatus, now: Timestamp) {
        (self.status, self.changed_at) = (status, now.as_micros());
        self.due = Some((now + KEPT).as_micros());
    }

    /// Whether the row was kept long enough.
    pub fn is_kept_no_longer(&self, now: Timestamp) -> bool {
        self.status.is_over() && self.due.is_some_and(|due| due <= now.as_micros())
    }
}

/// Returns an id for a command that is due at an instant. It sorts by that instant, as the events do.
pub fn command_id(at: Timestamp) -> Uuid {
    let millis = u64::try_from(at.as_micros().div_euclid(1_000)).unwrap_or(0);
    let from = Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid();
    derived_id(from, ["scheduled", &Uuid::now_v7().to_string()])
}

/// Returns the pause after the n-th failure: 1 s, 4 s, 16 s, …, at most an hour.
fn pause(attempts: u32) -> Duration {
    let seconds = 4_u64.saturating_pow(attempts.saturating_sub(1));
    Duration::from_secs(seconds).min(LONGEST)
}

/// Returns the words in a form that every database can hold.
pub fn told(words: &str) -> String {
    words.chars().take(WORDS).collect::<String>().replace('\0', "\\0")
}

fn unreadable(reason: serde_json::Error) -> StoreError {
    StoreError::Row { table: TABLE.to_string(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::MIN;

    fn row() -> Row {
        Row {
            slot: 1,
            category: "account".into(),
            target: "account-ann".into(),
            command: "close".into(),
            version: 1,
            command_id: Uuid::nil(),
            body: "null".into(),
            at: 1_700_000_000_123_999,
            delay: None,
            due: Some(1_700_000_000_123_999),
            status: ScheduledStatus::Waiting,
            claimed: false,
            attempts: 0,
            actor: None,
            correlation: None,
            causation: None,
            asked_at: 0,
            changed_at: 0,
            position: None,
            error: None,
            cron: None,
        }
    }

    #[test]
    fn the_columns_that_are_compared_are_those() {
        let names = [CATEGORY, TARGET, DUE, STATUS].map(|column| column.name);
        assert_eq!(names, ["category", "target", "due", "status"]);
        let stored = serde_json::to_value(row()).unwrap_or_default();
        let fields: Vec<_> = stored.as_object().map(|row| row.keys().cloned().collect()).unwrap_or_default();
        let mut columns: Vec<_> = COLUMNS.iter().map(|column| column.name.to_owned()).collect();
        columns.sort_unstable();
        assert_eq!(fields, columns, "each column is a field of the row");
    }

    #[test]
    fn a_command_that_fails_is_tried_eight_times_and_then_parked() {
        let (mut row, mut pauses) = (row(), vec![]);
        while row.status != ScheduledStatus::Parked {
            row.claim(NOON);
            row.answered(Answer::Failed("it fails".into()), NOON);
            pauses.extend(row.due.map(|due| (Timestamp::from_micros(due) - NOON).as_secs()));
        }
        assert_eq!(pauses, [1, 4, 16, 64, 256, 1_024, 3_600]);
        assert_eq!((row.attempts, row.due, row.error.as_deref()), (TRIES, None, Some("it fails")));
    }

    #[test]
    fn an_outage_is_no_try_and_is_waited_out() {
        let mut row = row();
        for _ in 0..100 {
            row.claim(NOON);
            row.answered(Answer::Outage("away".into()), NOON);
        }
        assert_eq!((row.status, row.attempts), (ScheduledStatus::Waiting, 0));
        assert_eq!(row.due, Some((NOON + OUTAGE).as_micros()));
    }

    #[test]
    fn m2_what_was_cancelled_takes_no_answer() {
        let mut row = row();
        row.claim(NOON);
        row.end(ScheduledStatus::Cancelled, NOON);
        let cancelled = row.clone();
        row.answered(Answer::Done(Some(Position(7))), NOON);
        assert_eq!(row, cancelled);
        assert!(!row.is_kept_no_longer(NOON + KEPT - Duration::from_micros(1)) && row.is_kept_no_longer(NOON + KEPT));
    }
}
