//! Looks at the scheduled commands, and has one that is parked tried again.

use eventstore_core::{
    Aggregate, Comparison, Filter, Id, Invalid, Order, Position, Select, Store, StoreError, StreamId, Timestamp,
};
use eventstore_engine::record::if_built;

use super::{
    change::{Place, prepare, read, wanted},
    names::check_id,
    table::{DUE, Row, STATUS, ScheduledStatus, TABLE, TARGET},
};

/// The scheduled commands of a store.
pub struct ScheduledCommands {
    store: Store,
    target: Option<StreamId>,
}

/// A scheduled command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduledCommand {
    /// The id of the schedule.
    pub id: String,
    /// The stream of the aggregate; `$cron-interest` for the next tick of the cron schedule `interest`.
    pub target: StreamId,
    /// The stored name of the command, or the name of the cron schedule.
    pub command: String,
    /// The version of its stored form.
    pub version: u32,
    /// Its body, JSON.
    pub body: String,
    /// The instant of the schedule.
    pub at: Timestamp,
    /// How it stands.
    pub status: ScheduledStatus,
    /// How often it has failed, not counting the times when the store could not be used.
    pub attempts: u32,
    /// When it is executed, or tried again; `None` if it is parked or over.
    pub due: Option<Timestamp>,
    /// Who asked.
    pub actor: Option<String>,
    /// When it was scheduled.
    pub asked_at: Timestamp,
    /// When its status has changed last.
    pub changed_at: Timestamp,
    /// The position of its last event, if it was executed and was not without events.
    pub position: Option<Position>,
    /// The words of the refusal, or of the last failure.
    pub error: Option<String>,
    /// The expression and the time zone of a cron schedule.
    pub cron: Option<String>,
}

impl ScheduledCommands {
    pub(super) fn new(store: Store) -> Self {
        Self { store, target: None }
    }

    /// Only the commands to this aggregate.
    pub fn of<A: Aggregate>(self, target: &Id<A>) -> Self {
        Self { target: Some(StreamId::new(A::NAME, target.key())), ..self }
    }

    /// Makes the table of scheduled commands, unless it is there. Only a program that schedules in a transaction before
    /// any other use needs it: a call outside of a transaction and a runner make the table themselves.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        prepare(self.store.as_ref()).await
    }

    /// Returns a scheduled command, or with `cron:interest` the next tick of a cron schedule; `None` if there is none, or
    /// if it was over more than seven days ago. [`StoreError::Row`] if only a later release can read it.
    pub async fn get(&self, id: &str) -> Result<Option<ScheduledCommand>, StoreError> {
        check_id(id)?;
        let row = read(if_built(self.store.as_ref().rows(wanted(id)).await)?)?;
        let row = row.filter(|row| self.target.as_ref().is_none_or(|target| target.as_str() == row.target));
        row.map(|row| command(id.into(), row)).transpose()
    }

    /// Returns the commands that are not over, at most `limit`: the earliest first, those that are parked last. Fails as
    /// [`get`](Self::get) does.
    pub async fn list(&self, limit: usize) -> Result<Vec<ScheduledCommand>, StoreError> {
        self.with(&ScheduledStatus::OPEN, limit).await
    }

    /// Returns the commands that are parked, at most `limit`. Fails as [`get`](Self::get) does.
    pub async fn parked(&self, limit: usize) -> Result<Vec<ScheduledCommand>, StoreError> {
        self.with(&[ScheduledStatus::Parked], limit).await
    }

    async fn with(&self, statuses: &[ScheduledStatus], limit: usize) -> Result<Vec<ScheduledCommand>, StoreError> {
        let statuses = statuses.iter().map(|status| status.stored()).collect();
        let mut filters = vec![Filter { column: STATUS, comparison: Comparison::In(statuses) }];
        if let Some(target) = &self.target {
            filters.push(Filter { column: TARGET, comparison: Comparison::Equal(target.as_str().into()) });
        }
        let order = Order { by: Some(DUE), ..Order::default() };
        let select = Select { table: TABLE, filters, order, after: None, limit: Some(limit) };
        let rows = if_built(self.store.as_ref().select(select).await)?;
        rows.into_iter().map(|(id, row)| command(id, Row::read(&row)?)).collect()
    }

    /// Has a command that is parked tried again, eight times at most. [`Invalid::Request`] if it is not parked.
    pub async fn retry(&self, id: &str) -> Result<(), StoreError> {
        check_id(id)?;
        let now = self.store.as_ref().time().await?;
        let refused = || Invalid::Request(format!("the scheduled command `{id}` is not parked"));
        let again = |there: Option<Row>| {
            let parked = there.filter(|there| there.status == ScheduledStatus::Parked);
            let mut row = parked.ok_or_else(refused)?;
            (row.status, row.attempts) = (ScheduledStatus::Waiting, 0);
            (row.due, row.changed_at) = (Some(now.as_micros()), now.as_micros());
            Ok((Some(row), ()))
        };
        match Place::Store(self.store.clone()).change(id, again).await {
            Err(StoreError::NotBuilt { .. }) => Err(refused().into()),
            done => done,
        }
    }
}

fn command(id: String, row: Row) -> Result<ScheduledCommand, StoreError> {
    let none = || StoreError::Row { table: TABLE.to_string(), reason: format!("`{}` is no stream", row.target).into() };
    let target = row.stream().ok_or_else(none)?;
    let due = row.due.filter(|_| !row.status.is_over()).map(Timestamp::from_micros);
    let at = row.at();
    Ok(ScheduledCommand {
        id,
        target,
        command: row.command,
        version: row.version,
        body: row.body,
        at,
        status: row.status,
        attempts: row.attempts,
        due,
        actor: row.actor,
        asked_at: Timestamp::from_micros(row.asked_at),
        changed_at: Timestamp::from_micros(row.changed_at),
        position: row.position.map(Position),
        error: row.error,
        cron: row.cron,
    })
}
