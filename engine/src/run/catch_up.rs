//! Reads and decodes the log for one shard that is behind the pages the node has in memory. The reading is ahead of the
//! processing.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

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

/// How many events are processed together, of the pages that the node reads for all processors.
pub const BATCH: usize = 1_000;
/// How many events are processed together while a shard catches up.
pub(crate) const LARGE_BATCH: usize = 10_000;
/// How many bytes of bodies a page has before it is cut; its last event may exceed that.
const LARGE_BYTES: usize = 8 << 20;
/// How many events are decoded before the task yields to others.
const DECODED: usize = 250;

/// A shard's own reading of the log, up to where the log ended when the reading began.
pub(crate) struct CatchUp {
    pub head: Position,
    pages: mpsc::Receiver<Result<DecodedPage, StoreError>>,
    /// The rows written last. Only a shard that catches up remembers rows: at the end of the log they are read each
    /// time, so that a row changed by hand is processed as it is.
    pub remembered: Remembered,
}

/// Limits on the number of events in a page.
pub(crate) struct Limits {
    /// Set after a larger batch failed.
    pub(crate) most: Option<usize>,
    /// Set by the runner.
    pub batch: Option<usize>,
}

impl CatchUp {
    /// Begins to read after a position, in a task of its own that stays one page ahead.
    pub async fn begin(
        store: Store,
        processor: Arc<dyn Processor>,
        report: watch::Sender<Status>,
        pace: watch::Receiver<Option<u64>>,
        limits: Limits,
        from: Position,
    ) -> Result<Self, StoreError> {
        // After a failure the read is limited as well, because reading may be what took too long. It then ends after
        // one page.
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

    /// Returns the next page; `None` at the end of the reading.
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
    /// Returns the next page, and whether more follow.
    async fn next(&mut self, after: Position) -> Result<(DecodedPage, bool), StoreError> {
        // At most a second's worth of events.
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
            let places = first..end.min(first + DECODED);
            // An event that makes it panic does so again when it is processed, where the panic is a failure of the event.
            let _ = catch_unwind(AssertUnwindSafe(|| self.processor.decode(&page, places)));
            yield_now().await;
        }
        Ok((page, full))
    }
}

/// Returns how many events a second one shard may process: an equal part of the processor's limit. `None` if there is
/// none.
pub(crate) fn pace(report: &watch::Sender<Status>, pace: &watch::Receiver<Option<u64>>) -> Option<f64> {
    let shards = report.borrow().shards.len().max(1);
    pace.borrow().map(|pace| (pace as f64 / shards as f64).max(1.0))
}
