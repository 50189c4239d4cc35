//! What a node reads of the partitions of a shard: one stream for all of them, and what has arrived and is not recorded
//! yet.

use std::collections::BTreeMap;

use futures::{
    FutureExt, StreamExt,
    stream::{BoxStream, SelectAll, select_all},
};

use crate::bus::{Abilities, BusError, Delivery, Offset};

/// The most messages that are recorded at once, and about the most bytes.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;

/// A delivery, and its partition.
pub type Arrival = (u16, Delivery);
type Arrivals = BoxStream<'static, Result<Arrival, BusError>>;

/// Reads the partitions of a shard.
pub struct Reader {
    pub abilities: Abilities,
    /// What is recorded: the offset of each partition, as this reader wrote or read it.
    pub at: BTreeMap<u16, Option<Offset>>,
    stream: SelectAll<Arrivals>,
    buffer: Vec<Arrival>,
    failed: Option<BusError>,
}

impl Reader {
    /// Returns a reader of these streams.
    pub fn new(
        abilities: Abilities,
        at: BTreeMap<u16, Option<Offset>>,
        streams: Vec<(u16, BoxStream<'static, Result<Delivery, BusError>>)>,
    ) -> Self {
        let streams = streams.into_iter().map(|(partition, stream)| {
            let stream = stream.map(move |delivery| delivery.map(|delivery| (partition, delivery)));
            // The end of a stream is a failure, and is told last.
            let ended = async { Err(BusError::unavailable("the bus has ended a reading")) };
            stream.chain(ended.into_stream()).boxed()
        });
        Self { abilities, at, stream: select_all(streams), buffer: vec![], failed: None }
    }

    /// Returns when something has arrived. Nothing is lost if it is dropped.
    pub async fn arrived(&mut self) {
        if self.buffer.is_empty() && self.failed.is_none() {
            let next = self.stream.next().await;
            self.keep(next);
        }
    }

    fn keep(&mut self, next: Option<Result<Arrival, BusError>>) {
        match next {
            Some(Ok(arrival)) => self.buffer.push(arrival),
            Some(Err(error)) => self.failed = Some(error),
            None => self.failed = Some(BusError::unavailable("the bus has ended a reading")),
        }
    }

    /// Returns what has arrived, in the order of each partition; empty if nothing has. Fails if the bus did, once
    /// everything that arrived before was returned.
    pub fn batch(&mut self) -> Result<Vec<Arrival>, BusError> {
        let mut bytes: usize = self.buffer.iter().map(size).sum();
        while self.failed.is_none() && self.buffer.len() < BATCH && bytes < BATCH_BYTES {
            let Some(next) = self.stream.next().now_or_never() else { break };
            self.keep(next);
            bytes += self.buffer.last().map_or(0, size);
        }
        match self.failed.take_if(|_| self.buffer.is_empty()) {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut self.buffer)),
        }
    }
}

fn size((_, delivery): &Arrival) -> usize {
    match &delivery.message {
        Ok(message) => message.data.len(),
        Err(unread) => unread.body.len(),
    }
}
