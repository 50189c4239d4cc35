//! Imports events that happened elsewhere: very many, each once.

use std::{collections::HashMap, pin::pin, time::SystemTime};

use futures::{Stream, TryStreamExt, future::join};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{
    contract::Append,
    encode,
    error::StoreError,
    event::{Event, NewEvent, Raw, Recorded},
    metadata::Metadata,
    store::Store,
    stream::{Position, StreamId},
};

/// The limits of one append: large enough for its flush to cost little, small enough for other appends not to wait
/// long.
const BATCH_EVENTS: usize = 4_000;
const BATCH_BYTES: usize = 4 << 20;

impl Store {
    /// Records events of another system, a file or another store, with the ids and the instants they had there, in the
    /// order of the source across all streams.
    ///
    /// Each id is recorded once. An event that is recorded already, with the same stream, name and body, is counted and
    /// left as it is; so an interrupted import is simply started again, and two at once do no harm. Fails with
    /// [`Duplicate`](StoreError::Duplicate) if an id is recorded with another stream, name or body.
    ///
    /// An append has up to 4,000 events, or about 4 MiB of bodies; the next is read while one is written, so memory
    /// stays bounded. An error of the source or of the store ends the import; events before it may have been recorded.
    /// To show progress, [`inspect`](futures::StreamExt::inspect) the source.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// # use eventstore::{ImportEvent, StoreError, StreamId, Timestamp};
    /// use futures::stream;
    /// # use uuid::Uuid;
    ///
    /// fn event(line: &str) -> Result<ImportEvent, Box<dyn std::error::Error + Send + Sync>> {
    ///     let [account, day, amount] = line.split(' ').collect::<Vec<_>>()[..] else { return Err("a short line".into()) };
    ///     // Made of what the event is known by where it comes from, so it is the same the next time.
    ///     let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, line.as_bytes());
    ///     let deposited = Deposited { amount: amount.parse()? };
    ///     Ok(ImportEvent::new(Id::<Account>::from(account), id, &deposited)?.occurred_at(day.parse::<Timestamp>()?))
    /// }
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// let ledger = "ann 2019-02-01T00:00:00Z 100\nbob 2019-02-02T00:00:00Z 5\nann 2019-02-03T00:00:00Z 7";
    /// let imported = store.import(stream::iter(ledger.lines().map(event))).await?;
    /// assert_eq!((imported.recorded, imported.known), (3, 0));
    /// let again = store.import(stream::iter(ledger.lines().map(event))).await?;
    /// assert_eq!((again.recorded, again.known), (0, 3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// All of another store, its order kept:
    ///
    /// ```
    /// use eventstore::{ImportEvent, Store, StoreError};
    /// use futures::TryStreamExt;
    ///
    /// async fn copy(from: &Store, to: &Store) -> Result<(), StoreError> {
    ///     to.import(from.read().raw().map_ok(ImportEvent::from)).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn import<E>(&self, events: impl Stream<Item = Result<ImportEvent, E>> + Send) -> Result<Imported, E>
    where
        E: From<StoreError> + Send,
    {
        let mut events = pin!(events);
        let mut imported = Imported::default();
        let mut batch = next(&mut events).await?;
        while !batch.is_empty() {
            let (recorded, following) = join(self.record(batch, &mut imported), next(&mut events)).await;
            recorded?;
            batch = following?;
        }
        Ok(imported)
    }

    /// Appends the events of a batch that are not recorded yet. Fails with [`StoreError::Duplicate`] as
    /// [`import`](Self::import).
    async fn record(&self, batch: Vec<ImportEvent>, imported: &mut Imported) -> Result<(), StoreError> {
        let asked = batch.len();
        let mut batch = once(batch)?;
        imported.known += (asked - batch.len()) as u64;
        // If all events so far were known, these may be too: then a look-up costs less than a refused append.
        let mut ask = imported.known > 0 && imported.recorded == 0;
        loop {
            if ask {
                self.leave_out_known(&mut batch, imported).await?;
            }
            if batch.is_empty() {
                return Ok(());
            }
            match self.append_in_span(self.append_of(batch.clone())).await {
                Ok(written) => {
                    let count = batch.len() as u64;
                    imported.known += if written.replayed { count } else { 0 };
                    imported.recorded += if written.replayed { 0 } else { count };
                    imported.last = written.last.max(imported.last);
                    return Ok(());
                }
                // Some of them are recorded, perhaps by another import since the look-up: look them up again.
                Err(StoreError::Duplicate { .. }) => ask = true,
                Err(error) => return Err(error),
            }
        }
    }

    async fn leave_out_known(&self, batch: &mut Vec<ImportEvent>, imported: &mut Imported) -> Result<(), StoreError> {
        let known = self.inner().recorded(batch.iter().map(|new| new.event.id).collect()).await?;
        let known: HashMap<_, _> = known.iter().map(|old| (old.id, old)).collect();
        for new in &*batch {
            let Some(old) = known.get(&new.event.id) else { continue };
            if !new.is((&old.stream, &old.data)) {
                return Err(new.duplicate());
            }
            imported.last = old.position.max(imported.last);
        }
        imported.known += known.len() as u64;
        batch.retain(|new| !known.contains_key(&new.event.id));
        Ok(())
    }

    fn append_of(&self, batch: Vec<ImportEvent>) -> Append {
        let source = self.cause().metadata.source;
        Append::of(batch.into_iter().map(|ImportEvent { stream, mut event }| {
            if event.metadata.source.is_none() {
                event.metadata.source.clone_from(&source);
            }
            (stream, event)
        }))
    }
}

/// Returns the events of the next append; empty at the end of the source.
async fn next<E>(events: &mut (impl Stream<Item = Result<ImportEvent, E>> + Unpin)) -> Result<Vec<ImportEvent>, E> {
    let (mut batch, mut bytes) = (vec![], 0);
    while batch.len() < BATCH_EVENTS && bytes < BATCH_BYTES {
        let Some(event) = events.try_next().await? else { break };
        bytes += event.event.data.body.len();
        batch.push(event);
    }
    Ok(batch)
}

/// Removes repeated events of a batch. Fails with [`StoreError::Duplicate`] if an id is repeated with other data.
fn once(batch: Vec<ImportEvent>) -> Result<Vec<ImportEvent>, StoreError> {
    let mut places = HashMap::with_capacity(batch.len());
    let mut events: Vec<ImportEvent> = Vec::with_capacity(batch.len());
    for new in batch {
        match places.get(&new.event.id) {
            None => {
                places.insert(new.event.id, events.len());
                events.push(new);
            }
            Some(&place) => {
                let old: &ImportEvent = &events[place];
                if !new.is((&old.stream, &old.event.data)) {
                    return Err(new.duplicate());
                }
            }
        }
    }
    Ok(events)
}

/// An event to be imported: one of yours with [`new`](Self::new), one of another store with `from`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportEvent {
    /// The stream to append to.
    pub stream: StreamId,
    /// What happened, and when; who asked, and why.
    pub event: NewEvent,
}

impl ImportEvent {
    /// Returns an event to be recorded once under an id. A UUIDv7, or another id that begins with the time, keeps the
    /// index of event ids small.
    ///
    /// Its command id and its correlation id are its own id, unless the caller changes `event.metadata`. Fails with
    /// [`Unwritable`](StoreError::Unwritable) if the event could not be read back, and with
    /// [`Invalid`](StoreError::Invalid) if its body is too large.
    pub fn new<E: Event>(stream: impl Into<StreamId>, id: Uuid, event: &E) -> Result<Self, StoreError> {
        let (stored, _) = encode::stored(event)?;
        let metadata = Metadata { command_id: id, correlation_id: id, ..Metadata::default() };
        Ok(Self { stream: stream.into(), event: stored.stamp(id, &metadata, None) })
    }

    /// When it happened; by default, when it is recorded.
    pub fn occurred_at(mut self, time: impl Into<SystemTime>) -> Self {
        self.event.occurred_at = Some(time.into().into());
        self
    }

    /// Who asked.
    pub fn by(mut self, actor: impl ToString) -> Self {
        self.event.metadata.actor = Some(actor.to_string());
        self
    }

    /// Adds a value to the metadata. The import fails with [`Invalid`](StoreError::Invalid) if the key begins with `$`.
    pub fn metadata(mut self, key: impl ToString, value: impl Into<Json>) -> Self {
        self.event.metadata.extra.insert(key.to_string(), value.into());
        self
    }

    fn is(&self, (stream, data): (&StreamId, &Raw)) -> bool {
        (&self.stream, &self.event.data.name, &self.event.data.body) == (stream, &data.name, &data.body)
    }

    fn duplicate(&self) -> StoreError {
        StoreError::Duplicate { event: self.event.id, command: self.event.metadata.command_id }
    }
}

/// Keeps the id, the instant it happened at, the metadata and the tags; the version and the position will be others.
impl From<Recorded<Raw>> for ImportEvent {
    fn from(recorded: Recorded<Raw>) -> Self {
        let Recorded { id, stream, occurred_at, schema, metadata, data, .. } = recorded;
        Self { stream, event: NewEvent { id, schema, occurred_at: Some(occurred_at), metadata, data } }
    }
}

/// The result of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// How many events were recorded now.
    pub recorded: u64,
    /// How many had been recorded before.
    pub known: u64,
    /// The largest position of these events: a read that waits for it sees them all.
    pub last: Position,
}
