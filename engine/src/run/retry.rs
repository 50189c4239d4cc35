//! Parked keys of a shard: parks one behind an event that cannot be processed, and tries its events again.

use std::collections::HashSet;

use eventstore_core::{
    DeadLetter, Position, Rows, Transaction,
    engine::{Brief, LETTERS, Sweep, swept},
};

use crate::{
    failure::{Failure, Fault, Halt},
    record::{dead_letters, queue::Queue},
    run::{
        metrics,
        page::DecodedPage,
        parked::{self, Parked, Waiting, retry_at},
        processor::{Outputs, Part},
        shard::{LogCursor, ShardRunner},
    },
};

impl ShardRunner {
    /// Parks a key or stream: its events wait from now on. Fails if `max_parked` keys of the shard are parked already.
    pub(super) fn park(&self, cursor: &mut LogCursor, queue: Queue, failed: Failure) -> Result<(), Failure> {
        if cursor.parked.len() >= self.options.max_parked {
            let failed = failed.for_certain();
            let why = format!("{} keys are parked already, and more would be: {failed}", cursor.parked.len());
            return Err(Failure { reason: why.into(), event: None, ..failed });
        }
        let now = self.store.as_ref().now();
        let (shard, event) = (self.shard.to_string(), failed.event.as_ref().map(tracing::field::display));
        tracing::error!(projection = shard, event, error = %Brief(&*failed.reason), "an event and those behind it are parked");
        metrics::failed(&self.shard.projection);
        let certain = failed.fault == Fault::Row;
        let waiting = Waiting { error: failed.to_string(), retry_at: retry_at(0, certain, now), first: true };
        cursor.parked.park(queue, waiting);
        Ok(())
    }

    /// Makes a dead letter for each event that must wait.
    pub(super) fn letters(
        &self,
        cursor: &mut LogCursor,
        page: &DecodedPage,
        waiting: &[(Queue, usize)],
    ) -> Vec<DeadLetter> {
        let now = self.store.as_ref().now();
        let mut first = HashSet::new();
        let letter = |(queue, at): &(Queue, usize)| {
            let of = cursor.parked.get_mut(queue)?;
            let mut letter = queue.letter(&self.shard, &page.events[*at], &of.error, now);
            // The first event of a key failed; the others wait behind it.
            match of.first && first.insert(queue.clone()) {
                true => letter.retry_at = of.retry_at,
                false => letter.error = dead_letters::BEHIND.into(),
            }
            Some(letter)
        };
        waiting.iter().filter_map(letter).collect()
    }

    /// Tries the events of a parked key or stream again, in their order.
    pub(super) async fn retry(&self, cursor: &mut LogCursor, queue: &Queue) -> Result<(), Halt> {
        const TOGETHER: usize = 1_000;
        let store = self.store.as_ref();
        let sweep = Sweep::all_of(&self.shard.projection, queue.key(), TOGETHER + 1);
        let waiting = swept(store, sweep).await?.into_iter();
        let waiting: Vec<_> = waiting.filter(|letter| Queue::of(letter) == *queue).collect();
        let more = waiting.len() > TOGETHER;
        let mut letters: Vec<_> = waiting.into_iter().take(TOGETHER).collect();
        let events = store.recorded(letters.iter().map(|letter| letter.event).collect()).await?;
        let page = DecodedPage::new(Position(0), Position(u64::MAX), None, events);
        let mut end = letters.len();
        while !letters.is_empty() {
            let first = page.events.len() - letters.len();
            match self.retry_page(cursor, &page, first..first + end, queue, &letters[..end]).await {
                Ok(true) => {
                    letters.drain(..end);
                    end = letters.len();
                }
                Ok(false) => return self.reload_parked(cursor).await,
                Err(Halt::Failed(failed)) if matches!(failed.fault, Fault::Event | Fault::Later | Fault::Row) => {
                    if end > 1 {
                        let bad = failed.position().map(|bad| page.place_after(bad).saturating_sub(first + 1));
                        end = bad.filter(|bad| *bad > 0).unwrap_or(end / 2).clamp(1, end - 1);
                        continue;
                    }
                    let now = store.now();
                    let letter = &mut letters[0];
                    parked::failed(letter, &failed, now);
                    let retry_at = letter.retry_at;
                    let letter = std::slice::from_ref(&*letter);
                    let Some(mut transaction) = self.open_for(letter).await? else {
                        return self.reload_parked(cursor).await;
                    };
                    transaction.write(dead_letters::changes(letter, &[])?).await?;
                    transaction.commit().await?;
                    if let Some(waiting) = cursor.parked.get_mut(queue) {
                        (waiting.retry_at, waiting.error) = (retry_at, failed.to_string());
                    }
                    return Ok(());
                }
                Err(halt) => return Err(halt),
            }
        }
        if !more {
            cursor.parked.free(queue);
            self.report.send_modify(|status| status.parked = cursor.parked.len());
        }
        Ok(())
    }

    /// Opens a transaction that has locked the shard, if these dead letters are still there. Else returns `None`: a
    /// commit whose answer was lost may have succeeded after all, and have processed their events.
    async fn open_for(&self, letters: &[DeadLetter]) -> Result<Option<Box<dyn Transaction>>, Halt> {
        let (mut transaction, _) = self.open(false).await?;
        let there = Rows::Keys { table: LETTERS, keys: letters.iter().map(DeadLetter::row).collect() };
        if transaction.rows(there).await?.len() == letters.len() {
            return Ok(Some(transaction));
        }
        transaction.rollback().await?;
        Ok(None)
    }

    /// Reads again what is parked.
    pub(super) async fn reload_parked(&self, cursor: &mut LogCursor) -> Result<(), Halt> {
        cursor.parked = Parked::load(self.store.as_ref(), &self.shard).await?;
        self.report.send_modify(|status| status.parked = cursor.parked.len());
        Ok(())
    }

    /// Processes events that waited and removes their dead letters, or changes nothing. An event of a stream may have
    /// to wait on, for one of its keys. Returns whether the dead letters were still there.
    async fn retry_page(
        &self,
        cursor: &mut LogCursor,
        page: &DecodedPage,
        places: std::ops::Range<usize>,
        queue: &Queue,
        letters: &[DeadLetter],
    ) -> Result<bool, Halt> {
        let (held, outputs) = (self.held(cursor), Outputs::default());
        let (shard, parked, only) = (&self.shard, &cursor.parked, Some(queue));
        let part = Part { page, places, shard, parked, only, held: Some(&held), outputs: &outputs };
        self.deliver(&part).await?;
        let Some(mut transaction) = self.open_for(letters).await? else { return Ok(false) };
        let waiting = match self.process(&mut transaction, &part, None).await {
            Ok(waiting) => waiting,
            Err(failed) => {
                transaction.rollback().await?;
                return Err(failed.into());
            }
        };
        let waiting = self.letters(cursor, page, &waiting);
        transaction.write(dead_letters::changes(&waiting, letters)?).await?;
        transaction.commit().await?;
        cursor.wake_in(outputs.due());
        Ok(true)
    }
}
