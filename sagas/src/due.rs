//! Finds the rows of a table that are due by the clock of the database, the earliest first.

use std::time::Duration;

use eventstore_core::{Column, Comparison, EventStore, Filter, Order, Select, SortKey, StoreError, Table, Timestamp};
use serde_json::value::RawValue;

/// How many rows are handled together, and read together.
pub const TOGETHER: usize = 500;
/// The longest time until the next look: a clock that jumps is noticed by then, and what another process has stored.
pub const LOOK: Duration = Duration::from_secs(1);

/// A look at a table.
pub struct Look {
    pub table: Table,
    /// The column with the instant, in microseconds since 1970.
    pub due: &'static Column,
    /// What else the rows have in common.
    pub filters: Vec<Filter>,
    pub now: Timestamp,
    /// How far beyond the next look rows are read, to find among them what another node has begun.
    pub beyond: Option<Duration>,
}

/// What is done with a row.
pub enum Row {
    /// It is handled now.
    Now,
    /// It is handled once it is due.
    Later,
    /// It is passed over.
    Pass,
}

/// What a look has found.
pub struct Due {
    /// The keys of the rows that are handled now, the earliest first.
    pub keys: Vec<String>,
    /// When the next one is due, if that is known.
    next: Option<Timestamp>,
    now: Timestamp,
}

impl Due {
    /// Returns how long it is until the next look.
    pub fn pause(&self) -> Duration {
        self.next.map_or(LOOK, |due| until(self.now, due)).clamp(Duration::from_millis(1), LOOK)
    }
}

/// Returns how long it is until an instant.
pub fn until(now: Timestamp, due: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(due.as_micros().saturating_sub(now.as_micros())).unwrap_or(0))
}

impl Look {
    /// Whether a row is handled now. A table that does not exist has none.
    pub async fn any(
        self,
        store: &dyn EventStore,
        what: impl Fn(&str, &RawValue, Timestamp) -> Row + Send,
    ) -> Result<bool, StoreError> {
        match self.run(store, what).await {
            Err(StoreError::NotBuilt { .. }) => Ok(false),
            found => Ok(!found?.keys.is_empty()),
        }
    }

    /// Looks at the rows page by page, however many of them are passed over, until 500 are found. Fails with
    /// [`StoreError::Row`] if a row has no instant.
    pub async fn run(
        self,
        store: &dyn EventStore,
        what: impl Fn(&str, &RawValue, Timestamp) -> Row + Send,
    ) -> Result<Due, StoreError> {
        let Self { table, due: column, filters, now, beyond } = self;
        let soon = Comparison::LessOrEqual((now + LOOK + beyond.unwrap_or_default()).as_micros().into());
        let filters: Vec<_> = filters.into_iter().chain([Filter { column, comparison: soon }]).collect();
        let (mut found, mut after) = (Due { keys: vec![], next: None, now }, None);
        loop {
            let order = Order { by: Some(column), ..Order::default() };
            let (filters, limit) = (filters.clone(), Some(TOGETHER));
            let rows = store.select(Select { table, filters, order, after: after.take(), limit }).await?;
            let full = rows.len() == TOGETHER;
            for (key, row) in rows {
                let due = instant(&table, column, &row)?;
                after = Some(SortKey { key: key.clone(), value: due.as_micros().into() });
                match what(&key, &row, due) {
                    Row::Pass => {}
                    Row::Now => found.keys.push(key),
                    Row::Later => found.next = found.next.or(Some(due)),
                }
                if found.keys.len() == TOGETHER || (found.next.is_some() && beyond.is_none()) {
                    return Ok(found);
                }
            }
            if !full {
                return Ok(found);
            }
        }
    }
}

/// Returns the instant of a row, which it has since it was selected by it.
fn instant(table: &Table, column: &Column, row: &RawValue) -> Result<Timestamp, StoreError> {
    let refused = |reason| StoreError::Row { table: table.to_string(), reason };
    let row: serde_json::Value = serde_json::from_str(row.get()).map_err(|error| refused(error.into()))?;
    let micros = row[column.name].as_i64().ok_or_else(|| refused(format!("no instant in `{}`", column.name).into()))?;
    Ok(Timestamp::from_micros(micros))
}
