//! What a projection does with the events it gets: the part that differs from one to another.

use std::{collections::HashMap, ops::Range, sync::Arc};

use async_trait::async_trait;
use eventstore_core::{Changes, EventStore, Position, Query, Raw, Recorded, Shard, StoreError, Table, Transaction};
use serde_json::value::RawValue;

use crate::{
    failure::Failure,
    record::{self, queue::Queue, reads::Reads},
    run::{page::DecodedPage, parked::Parked},
};

/// What processes events.
#[async_trait]
pub trait Processor: Send + Sync {
    /// The name of the checkpoint.
    fn name(&self) -> String;

    /// What it wants to hear of.
    fn query(&self) -> Query;

    /// The same, with the newest version of each event that it reads.
    fn reads(&self) -> Reads;

    /// Where it begins when it runs for the first time.
    fn begins(&self) -> Begins {
        Begins::Always
    }

    /// The table it keeps, if it is a declared read model.
    fn table(&self) -> Option<Table> {
        None
    }

    /// The same for the shadow of its table, if it can be built again.
    fn shadow(&self) -> Option<Arc<dyn Processor>> {
        None
    }

    /// Rows, to be made anew from their events, if it keeps rows of its own: in one reading of those events, or in one for
    /// each key, whichever reads less.
    fn anew(&self, keys: Vec<String>) -> Vec<Box<dyn RowsAnew>> {
        let _ = keys;
        vec![]
    }

    /// The keys of the rows that an event concerns, if it keeps rows of its own.
    fn keys(&self, event: &Recorded<Raw>) -> Result<Vec<String>, Failure> {
        let _ = event;
        Ok(vec![])
    }

    /// Empties what it has made, so that it can begin again with the first event.
    async fn clear(&self, transaction: &mut dyn Transaction) -> Result<(), Failure> {
        let _ = transaction;
        Ok(())
    }

    /// Comes before the first batch.
    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failure>;

    /// It has come to where the log ended when it began. Returns why what it has made is not used yet, if that is so: the
    /// next look calls this again. A declared read model sends readers to its table, of a new version only if `promote`
    /// says so.
    async fn built(&self, store: &dyn EventStore, promote: bool) -> Result<Option<StoreError>, StoreError> {
        let _ = promote;
        record::mark_built(store, &self.name()).await.map(|()| None)
    }

    /// Decodes events ahead of their turn. What cannot be decoded is told when it is processed.
    fn decode(&self, page: &DecodedPage, places: Range<usize>);

    /// Does what happens outside of the transaction, before it is opened: it may happen again.
    async fn deliver(&self, store: &dyn EventStore, part: &Part<'_>) -> Result<(), Failure> {
        let _ = (store, part);
        Ok(())
    }

    /// Processes a part; the caller moves the checkpoint and commits. Gives the events that must wait, and where. Rows that
    /// are remembered need not be read; what is remembered of a transaction that was not committed must be forgotten.
    async fn process(
        &self,
        transaction: &mut dyn Transaction,
        part: &Part<'_>,
        remembered: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure>;

    /// Returns what [`process`](Self::process) would write, if that is rows and no more, and none of the events must wait. Runs
    /// without a lock: another node may move the shard meanwhile, so an error here is not evidence against an event.
    async fn fold(
        &self,
        store: &dyn EventStore,
        part: &Part<'_>,
        remembered: Option<&mut Remembered>,
    ) -> Result<Option<Changes>, Failure> {
        let _ = (store, part, remembered);
        Ok(None)
    }
}

/// Rows a shard has written while it catches up, as they are in the table: no other node writes them, unless it moves the
/// checkpoint or changes the epoch.
#[derive(Default)]
pub struct Remembered {
    rows: HashMap<String, Box<RawValue>>,
    bytes: usize,
}

impl Remembered {
    /// How much is remembered at most, as JSON.
    const MOST: usize = 8 << 20;

    pub fn take(&mut self, key: &str) -> Option<Box<RawValue>> {
        let row = self.rows.remove(key)?;
        self.bytes -= key.len() + row.get().len();
        Some(row)
    }

    /// Remembers a row. If that would be too much, all others are forgotten.
    pub fn put(&mut self, key: String, row: Box<RawValue>) {
        self.take(&key);
        let bytes = key.len() + row.get().len();
        if self.bytes + bytes > Self::MOST {
            *self = Self::default();
        }
        if bytes <= Self::MOST {
            self.rows.insert(key, row);
            self.bytes += bytes;
        }
    }
}

/// Where a subscription or projection begins that runs for the first time. Kept with its checkpoint: later it is no matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartFrom {
    /// With the first event there is.
    Beginning,
    /// With the first event recorded from then on.
    Now,
    /// With the first event after a position.
    After(Position),
}

/// Where a processor begins that runs for the first time.
#[derive(Clone, Copy)]
pub enum Begins {
    /// With the first event there is: its rows are a fold of all.
    Always,
    /// As the runner or its type says, else with the first event.
    Anywhere(Option<StartFrom>),
    /// As the runner or its type says; one of them must, unless the log is empty.
    AsSaid(Option<StartFrom>),
}

/// Rows that are made anew.
pub trait RowsAnew: Send + Sync {
    /// Their keys.
    fn keys(&self) -> &[String];

    /// The events that may concern them.
    fn query(&self) -> Query;

    /// Processes the next of them. What fails says the key.
    fn apply(&mut self, event: &Recorded<Raw>) -> Result<(), Failure>;

    /// Whether the rows are fit for their table, as they are now.
    fn check(&self) -> Result<(), Failure>;

    /// What is to be written.
    fn changes(&mut self) -> Result<Changes, Failure>;
}

/// Events to be processed together, and which of their keys.
pub struct Part<'a> {
    pub page: &'a DecodedPage,
    /// Their places in the page.
    pub places: Range<usize>,
    pub shard: &'a Shard,
    pub parked: &'a Parked,
    /// Only what waits here.
    pub only: Option<&'a Queue>,
}

/// What is to be done for a key.
#[derive(Clone, Copy, PartialEq)]
pub enum Turn {
    /// The event is processed.
    Now,
    /// The event waits behind others of the key.
    Waits,
    /// Another node does it.
    NotHere,
}

impl Part<'_> {
    /// The stream of an event, if all of it waits behind an event of that stream that could not be read.
    pub fn stream_waits(&self, event: &Recorded<Raw>) -> Option<Queue> {
        let stream = event.stream.as_str();
        (self.only.is_none() && self.parked.has_stream(stream)).then(|| Queue::Stream(stream.into()))
    }

    pub fn turn(&self, event: &Recorded<Raw>, key: &str) -> Turn {
        match self.only {
            Some(Queue::Key(only)) if only == key => Turn::Now,
            Some(Queue::Key(_)) => Turn::NotHere,
            // A stream that waited waited with all keys of its events.
            Some(Queue::Stream(only)) if only != event.stream.as_str() => Turn::NotHere,
            _ if !self.shard.has(key) => Turn::NotHere,
            _ if self.parked.has_key(key) => Turn::Waits,
            _ => Turn::Now,
        }
    }

    /// An event that cannot be read, and the keys it is known to concern: those whose turn it is not yet wait; of another,
    /// it is told. None: they are unknown, and its stream stands for them.
    pub fn unreadable(
        &self,
        event: &Recorded<Raw>,
        keys: Option<Vec<String>>,
        failed: Failure,
    ) -> Result<Vec<Queue>, Failure> {
        let Some(keys) = keys else {
            return Err(match self.shard.is_whole() {
                true => failed.in_queue(Queue::Stream(event.stream.to_string())),
                // Another shard may have keys of it, too: then there is no order to wait in.
                false => failed,
            });
        };
        let mut waiting = vec![];
        for key in keys {
            match self.turn(event, &key) {
                Turn::Now => return Err(failed.of(&key)),
                Turn::Waits => waiting.push(Queue::Key(key)),
                Turn::NotHere => {}
            }
        }
        Ok(waiting)
    }
}
