//! Carries out requests for processors that this node runs, and writes the answers.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use eventstore_core::{
    Checkpoint, DeadLetter, Position, Raw, Read, Recorded, Rows, Shard, Store, StoreError, Transaction, engine::Brief,
};
use futures::{FutureExt, TryStreamExt};
use serde_json::Value as Json;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::{
    failure::{Failure, Fault},
    record::{
        self, dead_letters, if_built,
        queue::Queue,
        requests::{REQUESTS, Request, TryRun, What},
    },
    run::{
        page::DecodedPage,
        parked::Parked,
        processor::{Outputs, Part, Processor, process},
    },
};

/// How many events are read at a time while the processor is locked.
const PAGE: usize = 1_000;
/// How many requests a node answers at the same time; its shards need connections, too.
pub(crate) const ANSWERING: usize = 2;
/// How long a request is tried again while the store cannot be used.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a first failure of the store; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Carries out a request and writes the answer.
pub async fn answer(
    store: Store,
    processor: Arc<dyn Processor>,
    id: String,
    mut request: Request,
    answering: Arc<Semaphore>,
) {
    let Ok(_turn) = answering.acquire().await else { return };
    let Some(what) = request.what() else { return };
    let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
    let done = loop {
        let attempt = carry_out(&store, &*processor, what, &request.of);
        // The operator that asked waits for an answer, also where the code of a processor panics.
        let done = AssertUnwindSafe(attempt).catch_unwind().await;
        let done = done.unwrap_or_else(|panic| Err(Failure::panicked(&*panic)));
        // Nothing is known of the key then. It is tried again for as long as the operator waits.
        if !matches!(&done, Err(failed) if failed.fault == Fault::World) || start.elapsed() > PATIENCE {
            break done;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    match done {
        Ok(answer) => request.answer = Some(answer),
        Err(failed) => request.error = Some(failed.to_string().replace('\0', "\\0")),
    }
    if let Err(error) = record::write(store.as_ref(), &REQUESTS, &id, &request).await {
        tracing::warn!(projection = request.projection, error = %Brief(&error), "what was asked could not be answered");
    }
}

async fn carry_out(store: &Store, processor: &dyn Processor, what: What, key: &str) -> Result<Json, Failure> {
    match what {
        What::Rebuild => rebuild_key(store, processor, key).await.map(|()| Json::Bool(true)),
        What::Try => {
            let tried = try_run(store, processor, key).await?;
            serde_json::to_value(tried).map_err(|error| StoreError::Damaged(error.into()).into())
        }
    }
}

/// Returns the shard of a key, and its position.
fn shard_of(shards: Vec<(Shard, Checkpoint)>, key: &str) -> Result<(Shard, Position), Failure> {
    let shard = shards.into_iter().find(|(shard, _)| shard.has(key));
    shard.map(|(shard, at)| (shard, at.position)).ok_or_else(|| Failure::program("it has no shards"))
}

async fn letters_of(transaction: &mut dyn Transaction, name: &str, key: &str) -> Result<Vec<DeadLetter>, StoreError> {
    dead_letters::read(transaction.rows(dead_letters::wanted(name, Some(key))).await?)
}

async fn rebuild_key(store: &Store, processor: &dyn Processor, key: &str) -> Result<(), Failure> {
    let (name, store) = (processor.name(), store.as_ref());
    let Some(mut row) = processor.refold(vec![key.into()]).pop() else {
        return Err(Failure::program("it has no rows of its own"));
    };
    let skipped: Vec<_> = if_built(store.rows(dead_letters::wanted(&name, None)).await)?;
    // An event that waits with its whole stream is left out here; the shard processes it when the stream goes on.
    let left_out = |letter: &DeadLetter| match letter.whole_stream {
        true => letter.skipped.is_none(),
        false => letter.skipped.is_some() && letter.key == key,
    };
    let skipped: Vec<_> = dead_letters::read(skipped)?.into_iter().filter(left_out).collect();
    // Most events are folded without a lock; the rest while no node can move the shard.
    let (_, at) = shard_of(store.shards(Some(&name)).await?, key)?;
    let skips = |event: &Recorded<Raw>| skipped.iter().any(|letter| letter.event == event.id);
    let read = Read { query: row.query(), until: Some(at), ..Read::default() };
    let mut events = store.read(read).await?.events;
    while let Some(event) = events.try_next().await? {
        if !skips(&event) {
            row.apply(&event)?;
        }
    }
    let mut transaction = store.begin().await?;
    let shards = record::begin_again(&mut *transaction, &name, |shard| shard.has(key)).await?;
    let (_, until) = shard_of(shards, key)?;
    if until < at {
        return Err(StoreError::Busy("it was begun anew meanwhile".into()).into());
    }
    let mut after = at;
    loop {
        let read = Read { query: row.query(), after, until: Some(until), limit: Some(PAGE), ..Read::default() };
        let events = transaction.read(read).await?.events;
        events.iter().filter(|event| !skips(event)).try_for_each(|event| row.apply(event))?;
        match events.last() {
            Some(last) if events.len() == PAGE => after = last.position,
            _ => break,
        }
    }
    transaction.write(row.changes()?).await?;
    let done = letters_of(&mut *transaction, &name, key).await?;
    let done: Vec<_> = done.into_iter().filter(|letter| letter.skipped.is_none() && !letter.whole_stream).collect();
    if !done.is_empty() {
        transaction.write(dead_letters::changes(&[], &done)?).await?;
    }
    Ok(transaction.commit().await?)
}

async fn try_run(store: &Store, processor: &dyn Processor, key: &str) -> Result<TryRun, Failure> {
    let (name, store) = (processor.name(), store.as_ref());
    // Read before the shards are locked. A caller in a transaction must not ask for a second connection.
    let waiting = if_built(store.rows(dead_letters::wanted(&name, Some(key))).await)?;
    let events = dead_letters::read(waiting)?.into_iter().map(|letter| letter.event).collect();
    let events = store.recorded(events).await?;
    let mut transaction = store.begin().await?;
    let (shard, _) = shard_of(transaction.lock_projection(&name).await?, key)?;
    let mut waiting = letters_of(&mut *transaction, &name, key).await?;
    // Dead letters written since then wait behind the ones that were read.
    let read: HashSet<_> = events.iter().map(|event| event.id).collect();
    waiting.retain(|letter| letter.skipped.is_none() && read.contains(&letter.event));
    let before = row(&mut *transaction, processor, key).await?;
    let page = DecodedPage::new(Position(0), Position(u64::MAX), None, events);
    let (mut taken, mut error) = (0, None);
    for letter in &waiting {
        let Ok(place) = page.events.binary_search_by_key(&letter.position, |event| event.position) else { continue };
        let (places, parked, queue) = (place..place + 1, Parked::default(), Queue::of(letter));
        let (only, outputs) = (Some(&queue), &Outputs::default());
        let part = Part { page: &page, places, shard: &shard, parked: &parked, only, held: None, outputs };
        let processed = process(processor, &mut *transaction, &part, None).await;
        match processed.and_then(|_| part.same_keys()) {
            Ok(()) => taken += 1,
            // That says nothing of the event: it is tried again.
            Err(failed) if failed.fault == Fault::World => return Err(failed),
            Err(failed) => {
                error = Some(failed.to_string());
                break;
            }
        }
    }
    // After an error of the database the transaction cannot read any more.
    let after = row(&mut *transaction, processor, key).await.unwrap_or_default();
    transaction.rollback().await?;
    Ok(TryRun { waiting: waiting.len(), taken, error, before, after })
}

async fn row(
    transaction: &mut dyn Transaction,
    processor: &dyn Processor,
    key: &str,
) -> Result<Option<Json>, StoreError> {
    let Some(table) = processor.table() else { return Ok(None) };
    let rows = transaction.rows(Rows::Keys { table, keys: vec![key.into()] }).await?;
    Ok(rows.first().and_then(|(_, row)| serde_json::from_str(row.get()).ok()))
}
