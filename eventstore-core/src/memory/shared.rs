//! What the clones of a store in memory, and its transactions, share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedMutexGuard, watch},
    time::timeout,
};
use uuid::Uuid;

use super::{log::Log, tables::MemoryTables};
use crate::{
    clock::Clock,
    contract::StoredSnapshot,
    engine::shard::{Checkpoint, Shard},
    error::StoreError,
    event::{Raw, Recorded},
    identity::Identity,
    stream::Position,
};

/// How long an append waits for an open transaction: the caller may await the append within that transaction.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A store in memory, which is lost when the program ends. Its clones share the log and the tables.
#[derive(Clone)]
pub struct MemoryStore {
    pub(super) identity: Identity,
    pub(super) inner: Arc<Mutex<Inner>>,
    /// Held by the open append or transaction, while readers see what is committed.
    pub(super) writer: Arc<tokio::sync::Mutex<()>>,
    pub(super) head: Arc<watch::Sender<Position>>,
    pub(super) clock: Clock,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) log: Log,
    pub(super) tables: MemoryTables,
    pub(super) checkpoints: BTreeMap<Shard, Checkpoint>,
    /// The snapshots, by boundary and kind.
    pub(super) snapshots: HashMap<(String, String), StoredSnapshot>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(&Clock::new())
    }
}

impl MemoryStore {
    /// Returns a store with an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a store with an empty log, whose time is that of a clock.
    pub fn with_clock(clock: &Clock) -> Self {
        let (inner, writer, head) = (Arc::default(), Arc::default(), Arc::default());
        let identity = Identity::new(Uuid::now_v7(), 1, clock.now());
        Self { identity, inner, writer, head, clock: clock.clone() }
    }

    /// Returns a store with a copy of the committed log, for simulations.
    pub(crate) fn fork(&self, clock: &Clock) -> Self {
        let fork = Self::with_clock(clock);
        fork.inner().log = self.inner().log.fork();
        fork
    }

    /// Calls a function with the committed log, without a copy.
    pub(crate) fn with_log<T>(&self, read: impl FnOnce(&[Recorded<Raw>]) -> T) -> T {
        let inner = self.inner();
        read(&inner.log.events[..inner.log.committed])
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic under this lock is a bug of this module. The state is still whole: each operation changes it last.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn writer(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        // A simulation has no runtime for the timeout, and no other transaction.
        if let Ok(writer) = self.writer.clone().try_lock_owned() {
            return Ok(writer);
        }
        let writer = timeout(PATIENCE, self.writer.clone().lock_owned()).await;
        writer.map_err(|_| StoreError::Busy("another transaction is open".into()))
    }

    pub(super) fn commit(&self) {
        let mut inner = self.inner();
        inner.log.committed = inner.log.events.len();
        self.head.send_replace(inner.log.head());
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, TryStreamExt};

    use super::*;
    use crate::{
        contract::{Append, EventStore, Item, Read, Write},
        event::NewEvent,
        stream::{Expected, StreamId},
    };

    /// A simulation decides on forks: a name that its program does not know must fail the read there, too.
    #[test]
    fn c5_a_fork_finds_the_names_that_are_not_named() {
        let store = MemoryStore::new();
        for name in ["opened", "moved"] {
            let data = Raw { name: name.into(), tags: vec![], body: b"{}".to_vec() };
            let event =
                NewEvent { id: Uuid::now_v7(), schema: 1, occurred_at: None, metadata: Default::default(), data };
            let write = Write { stream: StreamId::new("course", "x"), expected: Expected::Any, events: vec![event] };
            let append = Append { writes: vec![write], ..Append::default() };
            store.append(append).now_or_never().expect("no wait in memory").expect("recorded");
        }
        let fork = store.fork(&Clock::default());
        let item = Item { names: vec!["opened".into()], except: Some(vec![&["closed"]]), ..Item::default() };
        let read = Read { query: item.into(), ..Read::default() };
        let names = async {
            let events: Vec<_> = fork.read(read).await?.events.try_collect().await?;
            Ok::<_, StoreError>(events.into_iter().map(|event| event.data.name.to_string()).collect::<Vec<_>>())
        };
        let names = names.now_or_never().expect("no wait in memory").expect("read");
        assert_eq!(names, ["opened", "moved"]);
    }
}
