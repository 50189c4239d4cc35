//! The log of a store: [`EventStore`], with the tags and the snapshots that belong to it.

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use futures::stream::TryStreamExt;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    append::{Append, Written},
    query::Query,
    read::{Events, Prefix, Read},
    tables::{Step, Tables},
    transaction::Transaction,
};
use crate::{
    doctor::Report,
    engine::shard::{Checkpoint, Shard},
    error::StoreError,
    event::{Raw, Recorded, Tag},
    identity::Identity,
    invalid::Invalid,
    limits,
    stream::{Position, StreamHead, StreamId, Version},
    table::{Rows, Table},
    timestamp::Timestamp,
};

/// An ordered, append-only log. Implemented by stores, used through [`Store`](crate::Store).
#[async_trait]
pub trait EventStore: Tables + Any {
    /// Returns the matching events, oldest first; newest first if [`backwards`](Read::backwards) is set.
    async fn read(&self, read: Read) -> Result<Events, StoreError>;

    /// Appends all events, or none; and only if every expectation and the condition hold, else
    /// [`Conflict`](StoreError::Conflict).
    ///
    /// If all event ids are recorded already, in this order, with the same streams, names and bodies, it writes nothing
    /// and returns the first result again, [`replayed`](Written::replayed). If an id is recorded otherwise, it fails
    /// with [`Duplicate`](StoreError::Duplicate). Both are checked before any conflict. An append of only the first
    /// events of a recorded one is answered, too: the log does not keep where an append ended.
    async fn append(&self, append: Append) -> Result<Written, StoreError>;

    /// Returns the events of a command, in the order of the log: the adjacent ones with the ids
    /// [`event_id`](crate::event_id) of 0, 1, …; none if the command is not recorded.
    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError>;

    /// Returns the recorded events among those with these ids, in the order of the log.
    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError>;

    /// Returns the streams of a category whose keys are greater than `after`, in the order of their keys, byte by byte;
    /// at most `limit`.
    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError>;

    /// Returns the rows with these keys as [`Tables::rows`](super::Tables::rows) does, in one snapshot with the
    /// checkpoint of a shard; `None` if the shard is not at `from`, by position, event, epoch and owner. A node that was
    /// frozen must not decide on rows that another node has written since. The default locks the shard in a transaction
    /// that is rolled back.
    async fn rows_of(
        &self,
        shard: &Shard,
        from: &Checkpoint,
        table: Table,
        keys: Vec<String>,
    ) -> Result<Option<Vec<(String, Box<RawValue>)>>, StoreError> {
        let mut transaction = self.begin().await?;
        let at = transaction.lock(shard).await?;
        let rows = match at {
            Some(at) if at == *from => Some(transaction.rows(Rows::Keys { table, keys }).await?),
            _ => None,
        };
        transaction.rollback().await?;
        Ok(rows)
    }

    /// Returns the time by the clock that stamps events. A timer is due by this clock. The default is
    /// [`now`](Self::now), for a store in this process.
    async fn time(&self) -> Result<Timestamp, StoreError> {
        Ok(self.now())
    }

    /// Returns the store that this one is a layer over, if it does more with each append than that one. The engine runs
    /// processors on the store below: it must not wait for what the layer keeps up to date. The default is no layer.
    fn beneath(&self) -> Option<Arc<dyn EventStore>> {
        None
    }

    /// Returns the number of events that match. The default reads them all.
    async fn count(&self, read: Read) -> Result<u64, StoreError> {
        let mut events = self.read(read).await?.events;
        let mut count = 0;
        while events.try_next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Returns the last position recorded at or before an instant. Waits for an open append that may be stamped by
    /// then, so that the answer for a past instant never changes. Fails with [`Busy`](StoreError::Busy) if one stays
    /// open for too long.
    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError>;

    /// Returns the same, and whether the answer is final. The default says that it is not.
    async fn prefix_at(&self, at: Timestamp) -> Result<Prefix, StoreError> {
        Ok(Prefix { position: self.position_at(at).await?, settled: false })
    }

    /// Returns which log it is. Fails with [`Invalid::Request`] in a store that does not keep it.
    async fn identity(&self) -> Result<Identity, StoreError> {
        Err(Invalid::Request("this store does not keep the identity of its log".into()).into())
    }

    /// Returns whether this is a replica, which may lack recorded events.
    async fn is_replica(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Returns when an event may have been recorded after a position. A hint: it may return early. It notices an event
    /// within about a second, and returns within some seconds in any case.
    async fn appended(&self, after: Position);

    /// Returns when an event is safe from a crash, which it must be before it leaves the database. The default returns
    /// at once, for a store that shows no event before it is safe. Fails if a crash has undone the event.
    async fn flushed(&self, event: Uuid) -> Result<(), StoreError> {
        let _ = event;
        Ok(())
    }

    /// Opens a transaction, for what must happen together with the step of a checkpoint. A dropped transaction is
    /// rolled back.
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// Writes rows and advances the checkpoint of a shard in one commit. Returns `false`, having changed nothing, if
    /// the shard is not at [`from`](Step::from) (position, event, epoch, owner) or a named event is not in the log. On
    /// any other error, the caller repeats the step in a transaction to learn the cause.
    async fn step(&self, step: Step) -> Result<bool, StoreError> {
        let Step { shard, from, to, changes, lazy } = step;
        let mut transaction = self.begin().await?;
        let mut stands = transaction.lock(&shard).await? == Some(from);
        for (position, event) in [(from.position, from.event), to] {
            if let (true, Some(event)) = (stands, event) {
                let there = transaction.read(Read::at(position)).await?.events;
                stands = there.first().is_some_and(|there| there.id == event);
            }
        }
        if !stands {
            transaction.rollback().await?;
            return Ok(false);
        }
        if !changes.is_empty() {
            transaction.write(changes).await?;
        }
        transaction.advance(&shard, to.0, to.1).await?;
        if lazy {
            transaction.lazy();
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Gives events other tags, all or none, and removes every snapshot of a tag, also if `events` is empty. This is
    /// the only change of a stored event: tags are an index. Returns the number of changed events. An event stays as it
    /// is if it is not at its position under its id, or if its tags are not those that were read. The default fails
    /// with [`Invalid::Request`].
    async fn retag(&self, events: Vec<NewTags>) -> Result<u64, StoreError> {
        let _ = events;
        Err(Invalid::Request("this store cannot change the tags of events".into()).into())
    }

    /// Returns what makes the database an unsafe or a slow place for a log. Changes nothing. May take long if it reads
    /// the whole log. The default returns an empty report.
    async fn doctor(&self) -> Result<Report, StoreError> {
        Ok(Report::default())
    }

    /// Waits for the operations that have begun, then closes the connections. The default is for a store without any.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns the snapshot of a kind kept for a boundary, as it was written. The caller checks whether it fits.
    async fn snapshot(&self, boundary: &str, kind: &str) -> Result<Option<StoredSnapshot>, StoreError>;

    /// Keeps a snapshot, one for each boundary and kind, and returns whether it did. It replaces none, one of another
    /// shape, one of an earlier position, or the one with the checksum `instead_of`. Any other stays.
    async fn keep_snapshot(&self, snapshot: StoredSnapshot, instead_of: Option<u64>) -> Result<bool, StoreError>;

    /// Returns the snapshot of a kind kept for a stream, as it was written, and the events of the stream from the last
    /// event of the snapshot on; all of them if there is no snapshot. The events and the head may be as incomplete as
    /// for [`bare`](Read::bare), except that the events have their ids, positions and instants of recording.
    async fn read_from_snapshot(
        &self,
        stream: &StreamId,
        kind: &str,
    ) -> Result<(Option<StoredSnapshot>, Events), StoreError> {
        let stored = self.snapshot(stream.as_str(), kind).await?;
        let after_version = Version(stored.as_ref().map_or(0, |stored| stored.version.0.saturating_sub(1)));
        let read = Read { query: Query::of(stream), after_version, ..Read::default() };
        Ok((stored, self.read(read).await?))
    }

    /// Returns the boundaries that have a snapshot of a kind, the latest position first; at most `limit`.
    async fn snapshots(&self, kind: &str, limit: usize) -> Result<Vec<String>, StoreError>;

    /// Returns the time of this process, to compare with instants of recording.
    fn now(&self) -> Timestamp;

    /// Returns the database, for projections in SQL: an `sqlx::Pool` of its kind.
    fn database(&self) -> &(dyn Any + Send + Sync);
}

/// Other tags for a stored event.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTags {
    /// Its position.
    pub position: Position,
    /// Its id.
    pub id: Uuid,
    /// All of its tags as they were read, in their order.
    pub was: Vec<Tag>,
    /// All of its tags from now on.
    pub tags: Vec<Tag>,
}

impl NewTags {
    /// Refuses what no store can keep. Every store calls it first.
    pub fn check(&self) -> Result<(), Invalid> {
        limits::size("the tags of an event", self.tags.len(), limits::TAGS)?;
        self.tags.iter().try_for_each(Tag::check)
    }
}

/// A state as it was kept, with the position of the last event in it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSnapshot {
    /// Whose events: of a stream, `account-ann`; of a tag, `course:rust`; every event of a kind, `account*`.
    pub boundary: String,
    /// Which type the state is.
    pub kind: String,
    /// The fingerprint of that type.
    pub shape: u64,
    /// The number of events the state is made of.
    pub version: Version,
    /// The position of the last of them.
    pub position: Position,
    /// Its id.
    pub event: Uuid,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// The state, as its type writes it.
    pub state: Vec<u8>,
    /// The [`sum`](Self::sum) it was kept with.
    pub checksum: u64,
}
