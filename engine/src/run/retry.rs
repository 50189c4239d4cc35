//! Parked keys of a shard: parks one behind an event that cannot be processed, and tries its events again.

use std::collections::HashSet;

use eventstore_core::{
    DeadLetter, Position, Read, Rows, Transaction,
    engine::{Brief, LETTERS, Sweep, swept, swept_within},
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

/// How many events that came while others were tried are processed with these.
const MEANWHILE: usize = 64;

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

    /// Makes a dead letter for each event that must wait. Fails if one is to wait for a key that is not parked: its
    /// letter would be tried at no time.
    pub(super) fn letters(
        &self,
        parked: &Parked,
        page: &DecodedPage,
        waiting: &[(Queue, usize)],
    ) -> Result<Vec<DeadLetter>, Failure> {
        let now = self.store.as_ref().now();
        let mut first = HashSet::new();
        let letter = |(queue, at): &(Queue, usize)| {
            let event = &page.events[*at];
            let Some(of) = parked.get(queue) else {
                let why = format!("its processor has it wait for `{}`, which is not parked", queue.key());
                return Err(Failure::program(why).at(event));
            };
            let mut letter = queue.letter(&self.shard, event, &of.error, now);
            // The first event of a key failed; the others wait behind it.
            match of.first && first.insert(queue.clone()) {
                true => letter.retry_at = of.retry_at,
                false => letter.error = dead_letters::BEHIND.into(),
            }
            Ok(letter)
        };
        waiting.iter().map(letter).collect()
    }

    /// Tries the events of a parked key or stream again, in their order.
    pub(super) async fn retry(&self, cursor: &mut LogCursor, queue: &Queue) -> Result<(), Halt> {
        const TOGETHER: usize = 1_000;
        let store = self.store.as_ref();
        let waiting = swept(store, Sweep::all_of(&self.shard.projection, queue.key(), TOGETHER)).await?.into_iter();
        let waiting = waiting.filter(|letter| Queue::of(letter) == *queue);
        let mut letters: Vec<_> = waiting.take(TOGETHER).collect();
        let events = store.recorded(letters.iter().map(|letter| letter.event).collect()).await?;
        let page = DecodedPage::new(Position(0), Position(u64::MAX), None, events);
        let (mut end, mut newer) = (letters.len(), letters.len() < TOGETHER);
        while !letters.is_empty() {
            let first = page.events.len() - letters.len();
            let takes = newer && end == letters.len();
            let mut left = takes;
            match self.retry_page(cursor, &page, first..first + end, queue, &letters[..end], &mut left).await {
                Ok(true) => {
                    letters.drain(..end);
                    end = letters.len();
                }
                Ok(false) => return self.reload_parked(cursor).await,
                Err(Halt::Failed(failed)) if matches!(failed.fault, Fault::Event | Fault::Later | Fault::Row) => {
                    if takes && !left {
                        // One of the events that came meanwhile has failed: they are tried by themselves.
                        newer = false;
                        continue;
                    }
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
        // More may wait than were tried together, and an append that keeps rows inline may have added letters.
        self.reload_parked(cursor).await
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
    /// to wait on, for one of its keys. The first event that is left in the queue is due at once: whichever node has
    /// the shard next goes on with it. Returns whether the dead letters were still there.
    ///
    /// `newer`: these are all dead letters of the queue that were there. Letters that came meanwhile were written by
    /// appends that keep rows inline. Their events are processed in the same transaction, which such appends wait for:
    /// else a key of many appends would always have one more event. Becomes `false` once these are tried.
    async fn retry_page(
        &self,
        cursor: &mut LogCursor,
        page: &DecodedPage,
        places: std::ops::Range<usize>,
        queue: &Queue,
        letters: &[DeadLetter],
        newer: &mut bool,
    ) -> Result<bool, Halt> {
        let (held, outputs) = (self.held(cursor), Outputs::default());
        let (shard, parked, only) = (&self.shard, &cursor.parked, Some(queue));
        let part = Part { page, places, shard, parked, only, held: Some(&held), outputs: &outputs };
        self.deliver(&part).await?;
        let Some(mut transaction) = self.open_for(letters).await? else { return Ok(false) };
        let mut put = match self.take(&mut transaction, &cursor.parked, &part).await {
            Ok(put) => put,
            Err(failed) => {
                transaction.rollback().await?;
                return Err(failed.into());
            }
        };
        let done: HashSet<_> = letters.iter().map(|letter| letter.event).collect();
        let sweep = Sweep::all_of(&self.shard.projection, queue.key(), letters.len() + MEANWHILE);
        let left = swept_within(&mut *transaction, sweep).await?.into_iter();
        let mut left = left.filter(|left| Queue::of(left) == *queue && !done.contains(&left.event)).peekable();
        let mut remove = letters.to_vec();
        if *newer && left.peek().is_some() {
            *newer = false;
            let came: Vec<_> = left.by_ref().take(MEANWHILE).collect();
            let mut events = vec![];
            for letter in &came {
                events.extend(transaction.read(Read::at(letter.position)).await?.events.pop());
            }
            let page = &DecodedPage::new(Position(0), Position(u64::MAX), None, events);
            let (places, outputs) = (0..page.events.len(), &Outputs::default());
            let part = Part { page, places, shard, parked: &cursor.parked, only, held: Some(&held), outputs };
            match self.take(&mut transaction, &cursor.parked, &part).await {
                Ok(waiting) => put.extend(waiting),
                Err(failed) => {
                    transaction.rollback().await?;
                    return Err(failed.into());
                }
            }
            remove.extend(came);
        }
        if let Some(mut next) = left.next() {
            next.retry_at = Some(self.store.as_ref().now());
            put.push(next);
        }
        transaction.write(dead_letters::changes(&put, &remove)?).await?;
        transaction.commit().await?;
        cursor.wake_in(outputs.due());
        Ok(true)
    }

    /// Processes events that are tried again. Returns letters for those that must wait on.
    async fn take(
        &self,
        transaction: &mut Box<dyn Transaction>,
        parked: &Parked,
        part: &Part<'_>,
    ) -> Result<Vec<DeadLetter>, Failure> {
        let waiting = self.process(transaction, part, None).await?;
        part.same_keys()?;
        self.letters(parked, part.page, &waiting)
    }
}
