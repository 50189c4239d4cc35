//! Reads and decodes the log for one shard that is behind what the node has in memory, ahead of what it processes.

use std::sync::Arc;

use eventstore_core::{Events, Position, Raw, Read, Recorded, Store, StoreError};
use futures::{TryStreamExt, stream::BoxStream};
use tokio::{
    sync::{mpsc, watch},
    task::yield_now,
};

use crate::{
    run::{
        page::DecodedPage,
        processor::{Processor, Remembered},
    },
    status::Status,
};

/// How many events are processed together, of those that are read for all.
pub const BATCH: usize = 1_000;
/// How many events are processed together while there is much to catch up with.
pub const LARGE_BATCH: usize = 10_000;
/// How many bytes of bodies a page has at most, but for its last event.
const LARGE_BYTES: usize = 8 << 20;
/// How many events are decoded before other tasks have their turn.
const DECODED: usize = 250;

/// A shard's own reading of the log, up to where the log ended when the reading began.
pub struct CatchUp {
    pub head: Position,
    pages: mpsc::Receiver<Result<DecodedPage, StoreError>>,
    /// The rows written last. At the end of the log rows are read each time, so that a row that was changed by hand is
    /// processed as it is.
    pub remembered: Remembered,
}

/// How many events a page may have.
pub struct Limits {
    /// Since more of them have failed.
    pub most: Option<usize>,
    /// Since the runner says so.
    pub batch: Option<usize>,
}

impl CatchUp {
    /// Begins to read behind a position, in a task of its own that is one page ahead.
    pub async fn begin(
        store: Store,
        processor: Arc<dyn Processor>,
        report: watch::Sender<Status>,
        pace: watch::Receiver<Option<u64>>,
        limits: Limits,
        from: Position,
    ) -> Result<Self, StoreError> {
        // Where fewer are to be processed together, fewer are read: that may be what has taken too long.
        let limit = limits.most.filter(|most| *most < BATCH);
        let read = Read { query: processor.query(), after: from, limit, ..Read::default() };
        let Events { head, events, .. } = store.as_ref().read(read).await?;
        let most = limit.unwrap_or_else(|| limits.batch.unwrap_or(LARGE_BATCH));
        let mut prefetch = Prefetch { store, processor, report, pace, most, head, events };
        let (send, pages) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut after = Some(from);
            while let Some(from) = after {
                let next = tokio::select! {
                    next = prefetch.next(from) => next,
                    () = send.closed() => return,
                };
                let more = |(page, full): &(DecodedPage, bool)| (*full && limit.is_none()).then_some(page.until);
                after = next.as_ref().ok().and_then(more);
                if send.send(next.map(|(page, _)| page)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { head, pages, remembered: Remembered::default() })
    }

    /// Returns the next page; none at the end of the reading.
    pub async fn next(&mut self) -> Result<Option<DecodedPage>, StoreError> {
        self.pages.recv().await.transpose()
    }
}

/// Reads and decodes pages.
struct Prefetch {
    store: Store,
    processor: Arc<dyn Processor>,
    report: watch::Sender<Status>,
    pace: watch::Receiver<Option<u64>>,
    most: usize,
    head: Position,
    events: BoxStream<'static, Result<Recorded<Raw>, StoreError>>,
}

impl Prefetch {
    /// Returns the next page, and whether there is more.
    async fn next(&mut self, after: Position) -> Result<(DecodedPage, bool), StoreError> {
        // A second's worth at most.
        let size = pace(&self.report, &self.pace).map_or(self.most, |pace| self.most.min(pace as usize));
        let (mut batch, mut bytes) = (Vec::with_capacity(size.min(BATCH)), 0);
        while batch.len() < size
            && bytes < LARGE_BYTES
            && let Some(event) = self.events.try_next().await?
        {
            bytes += event.data.body.len();
            batch.push(event);
        }
        let full = batch.len() == size || bytes >= LARGE_BYTES;
        let page = DecodedPage::read(self.store.as_ref(), after, self.head, full, batch).await?;
        let end = page.events.len();
        for first in (0..end).step_by(DECODED) {
            self.processor.decode(&page, first..end.min(first + DECODED));
            yield_now().await;
        }
        Ok((page, full))
    }
}

/// How many events one shard may process in a second: its part of what the processor may. None: as many as it can.
pub fn pace(report: &watch::Sender<Status>, pace: &watch::Receiver<Option<u64>>) -> Option<f64> {
    let shards = report.borrow().shards.len().max(1);
    pace.borrow().map(|pace| (pace as f64 / shards as f64).max(1.0))
}
