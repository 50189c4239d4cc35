//! What a node reads of the partitions of a shard: one stream for all of them, and what has arrived and is not recorded
//! yet.

use std::{collections::BTreeMap, convert::Infallible, future::pending};

use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream, SelectAll, select_all},
};

use crate::bus::{Abilities, BusError, Delivery, Offset};

/// The most messages that are recorded at once, and about the most bytes.
const BATCH: usize = 4_000;
const BATCH_BYTES: usize = 4 << 20;

/// A delivery, and its partition.
pub type Arrival = (u16, Delivery);
type Arrivals = BoxStream<'static, Result<Arrival, BusError>>;

/// Reads the partitions of a shard.
pub struct Reader {
    pub place: Place,
    pub arriving: Arriving,
}

/// Where a reader is.
pub struct Place {
    pub abilities: Abilities,
    /// What is recorded: the offset of each partition, as this reader wrote or read it.
    pub at: BTreeMap<u16, Option<Offset>>,
    /// Whether the last batch had messages that were recorded already: then the next may have, too.
    pub known: bool,
}

/// What has arrived and is not recorded yet.
pub struct Arriving {
    stream: SelectAll<Arrivals>,
    buffer: Vec<Arrival>,
    bytes: usize,
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
        // A shard may have no partition, and then it waits.
        let streams = streams.chain([stream::pending().boxed()]);
        let arriving = Arriving { stream: select_all(streams), buffer: vec![], bytes: 0, failed: None };
        Self { place: Place { abilities, at, known: false }, arriving }
    }
}

impl Arriving {
    /// Returns when something has arrived. Nothing is lost if it is dropped.
    pub async fn arrived(&mut self) {
        if self.buffer.is_empty() && self.failed.is_none() {
            let next = self.stream.next().await;
            self.keep(next);
        }
    }

    /// Reads ahead, as much as fits into a batch, for as long as it is polled. Nothing is lost if it is dropped.
    pub async fn read_ahead(&mut self) -> Infallible {
        while self.has_room() {
            let next = self.stream.next().await;
            self.keep(next);
        }
        pending().await
    }

    fn has_room(&self) -> bool {
        self.failed.is_none() && self.buffer.len() < BATCH && self.bytes < BATCH_BYTES
    }

    fn keep(&mut self, next: Option<Result<Arrival, BusError>>) {
        match next {
            Some(Ok(arrival)) => {
                self.bytes += size(&arrival);
                self.buffer.push(arrival);
            }
            Some(Err(error)) => self.failed = Some(error),
            None => self.failed = Some(BusError::unavailable("the bus has ended a reading")),
        }
    }

    /// Returns what has arrived, in the order of each partition; empty if nothing has. Fails if the bus did, once
    /// everything that arrived before was returned.
    pub fn batch(&mut self) -> Result<Vec<Arrival>, BusError> {
        while self.has_room() {
            let Some(next) = self.stream.next().now_or_never() else { break };
            self.keep(next);
        }
        match self.failed.take_if(|_| self.buffer.is_empty()) {
            Some(error) => Err(error),
            None => {
                self.bytes = 0;
                Ok(std::mem::take(&mut self.buffer))
            }
        }
    }
}

fn size((_, delivery): &Arrival) -> usize {
    match &delivery.message {
        Ok(message) => message.bytes(),
        Err(unread) => unread.body.len(),
    }
}
