//! A whole read model in memory, moved forward along the log.

use futures::TryStreamExt;

use crate::{
    contract::{Query, Read},
    error::StoreError,
    event::Event,
    invalid::Invalid,
    load::Until,
    read_model::{ReadModel, RowFold},
    store::Store,
    stream::Position,
};

/// A whole read model in memory, moved forward along the log.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = eventstore::connect("memory:").await?;
/// # store.execute(Id::<Account>::from("ann"), Deposit { amount: 100 }).await?;
/// # let fridays = [std::time::UNIX_EPOCH, std::time::SystemTime::now()];
/// let mut balances = store.read_model::<Balance>().replay();
/// for friday in fridays {
///     balances.until(store.position_at(friday).await?).await?;
///     println!("{friday:?}: {}", balances.iter().map(|(_, row)| row.balance).sum::<i64>());
/// }
/// # Ok(())
/// # }
/// ```
pub struct Replay<M> {
    store: Store,
    until: Until,
    rows: RowFold<M>,
    position: Position,
}

impl<M: ReadModel> Replay<M> {
    pub(super) fn new(store: Store, until: Until) -> Self {
        Self { store, until, rows: RowFold::default(), position: Position(0) }
    }

    pub(super) fn into_rows(self) -> RowFold<M> {
        self.rows
    }

    /// Processes the events up to a position; a moment named before still bounds them. Fails with [`Invalid::Request`]
    /// if the replay is past the position already: start another replay.
    pub async fn until(&mut self, position: Position) -> Result<(), StoreError> {
        if position < self.position {
            let why = format!("a replay at {} cannot go back to {position}", self.position);
            return Err(Invalid::Request(why).into());
        }
        let last = self.until.last(&self.store).await?;
        self.run(Some(last.map_or(position, |last| last.min(position)))).await
    }

    /// Processes all events up to the moment named before, or to the end of the log.
    pub async fn finish(&mut self) -> Result<(), StoreError> {
        let last = self.until.last(&self.store).await?;
        self.run(last).await
    }

    async fn run(&mut self, until: Option<Position>) -> Result<(), StoreError> {
        let read = Read { query: Query::names(M::Event::NAMES), after: self.position, until, ..Read::default() };
        let mut read = self.store.inner().read(read).await?;
        while let Some(raw) = read.events.try_next().await? {
            if self.until.takes(&raw) {
                self.rows.apply(&raw, |_, _| {})?;
            }
            // Event by event: a caller that drops this future and goes on later processes no event twice.
            self.position = raw.position;
        }
        self.position = self.position.max(read.head);
        Ok(())
    }

    /// Returns the position the replay has reached.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns the row of a key.
    pub fn get(&self, key: impl AsRef<str>) -> Option<&M> {
        self.rows.get(key.as_ref())
    }

    /// Returns all rows with their keys, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &M)> {
        self.rows.iter()
    }
}
