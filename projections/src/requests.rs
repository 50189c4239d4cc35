//! What can be asked of a node from anywhere, and needs the code of a projection: the node that runs the shard of the key
//! does it, and writes the answer down.

use std::{collections::HashSet, sync::Arc, time::Duration};

use eventstore_core::{
    __private::{Brief, LETTERS},
    Changes, Checkpoint, Column, DeadLetter, EventStore, Invalid, Kind, ParkedKeys, Position, Raw, Read, Recorded,
    Rows, Shard, Store, StoreError, Table, Timestamp, Transaction,
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::{
    control,
    failed::Failed,
    follower::{Follower, Part},
    letters::{self, Parked, Queue},
    operate::{PATIENCE, Projections, there},
    stretch::Stretch,
};

/// How many events are read together while others wait.
const PAGE: usize = 1_000;
/// How long it may take until a node that has just begun is known.
const SOON: Duration = Duration::from_secs(2);
/// How many questions a node answers at the same time: its shards need connections, too.
pub(crate) const ANSWERING: usize = 2;
/// How long an answer waits for whoever has asked.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// The table of what is asked, by a key of its own.
pub(crate) const REQUESTS: Table = Table {
    name: "requests",
    version: 0,
    columns: &[
        Column::new("projection", Kind::Text),
        Column::new("of", Kind::Text),
        Column::new("what", Kind::Json),
        Column::new("asked_at", Kind::Time),
        Column::new("answer", Kind::Json),
        Column::new("error", Kind::Text),
    ],
    shadow: false,
};

/// Something asked of whoever runs a projection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) projection: String,
    /// The key it is about.
    pub(crate) of: String,
    /// A [`What`], if this program knows it.
    what: Json,
    asked_at: Timestamp,
    answer: Option<Json>,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Rebuild,
    Try,
}

/// What would happen if the events a key waits for were tried now: see
/// [`DeadLetters::try_run`](crate::DeadLetters::try_run).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TryRun {
    /// How many events wait.
    pub waiting: usize,
    /// How many of them could be taken in, one after the other.
    pub taken: usize,
    /// Why the next one could not be.
    pub error: Option<String>,
    /// The row as it is; none if there is none, or if it is a projection in SQL of one's own.
    pub before: Option<Json>,
    /// The row as it would be.
    pub after: Option<Json>,
}

impl Request {
    pub(crate) fn is_open(&self) -> bool {
        self.answer.is_none() && self.error.is_none()
    }

    fn what(&self) -> Option<What> {
        serde_json::from_value(self.what.clone()).ok()
    }
}

impl Projections {
    /// Asks whoever runs the shard of a key, and waits for the answer.
    pub(crate) async fn ask(&self, name: &str, of: &str, what: What) -> Result<Json, StoreError> {
        let store = self.store.as_ref();
        for table in [REQUESTS, LETTERS] {
            store.create(&table).await?;
        }
        let (projection, of, asked_at) = (name.to_owned(), of.to_owned(), store.now());
        let what = serde_json::to_value(what).map_err(|error| StoreError::Damaged(error.into()))?;
        let request = Request { projection, of, what, asked_at, answer: None, error: None };
        let id = Uuid::now_v7().to_string();
        control::write(store, &REQUESTS, &id, &request).await?;
        self.poke();
        let (start, mut pause) = (Instant::now(), Duration::from_millis(2));
        let answer = loop {
            match control::first(&REQUESTS, store.rows(control::key(&REQUESTS, &id)).await?)? {
                Some(Request { error: Some(error), .. }) => {
                    let keys = ParkedKeys::of([&*request.of]);
                    break Err(StoreError::Parked { projection: name.into(), keys, reason: error });
                }
                Some(Request { answer: Some(answer), .. }) => break Ok(answer),
                _ if start.elapsed() > PATIENCE || start.elapsed() > SOON && !self.lives(name).await? => {
                    let (at, until) = (store.checkpoint(name).await?, self.store.head().await?);
                    let reason = Some("no node that runs it has answered".into());
                    break Err(StoreError::Behind { projection: name.into(), at, until, reason });
                }
                _ => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        };
        control::change(store, control::delete(&REQUESTS, &id)).await?;
        answer
    }

    /// Makes one row of a read model anew, from all events of its key: one that somebody has spoiled, or that waits behind
    /// an event which can now be taken in. What was skipped stays so. Returns when it is done; an event that cannot be
    /// taken in is [`StoreError::Parked`], and the row is as it was.
    pub async fn rebuild_key(&self, name: &str, key: &str) -> Result<(), StoreError> {
        let name = self.name(name).await?;
        if !name.contains('@') {
            return Err(
                Invalid::Request(format!("`{name}` is no declared read model: it has no rows of its own")).into()
            );
        }
        self.ask(&name, key, What::Rebuild).await.map(drop)
    }
}

/// What is asked and not yet answered, of what this program knows to answer. What nobody has taken note of for an hour is
/// forgotten, also what a newer program has asked in a form of its own.
pub(crate) async fn open(store: &dyn EventStore) -> Result<Vec<(String, Request)>, StoreError> {
    let now = store.now();
    let (mut open, mut forgotten) = (vec![], vec![]);
    for (id, row) in control::all(store, &REQUESTS).await? {
        let request = serde_json::from_str::<Request>(row.get()).ok();
        let asked_at = request.as_ref().map(|request| request.asked_at).or_else(|| asked_at(&id));
        match request {
            _ if asked_at.is_some_and(|asked_at| asked_at + FORGOTTEN < now) => forgotten.push(id),
            Some(request) if request.is_open() && request.what().is_some() => open.push((id, request)),
            _ => {}
        }
    }
    if !forgotten.is_empty() {
        control::change(store, Changes { table: REQUESTS, upserts: vec![], deletes: forgotten }).await?;
    }
    Ok(open)
}

/// When something was asked that cannot be read: its key, a UUID of version 7, says so.
fn asked_at(id: &str) -> Option<Timestamp> {
    let (seconds, nanos) = id.parse::<Uuid>().ok()?.get_timestamp()?.to_unix();
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1_000))?;
    Some(Timestamp::from_micros(micros))
}

/// Does what was asked, and writes the answer down.
pub(crate) async fn answer(
    store: Store,
    follower: Arc<dyn Follower>,
    id: String,
    mut request: Request,
    answering: Arc<Semaphore>,
) {
    let Ok(_turn) = answering.acquire().await else { return };
    let Some(what) = request.what() else { return };
    let done = match what {
        What::Rebuild => rebuild_key(&store, &*follower, &request.of).await.map(|()| Json::Bool(true)),
        What::Try => match try_run(&store, &*follower, &request.of).await {
            Ok(tried) => serde_json::to_value(tried).map_err(|error| StoreError::Damaged(error.into()).into()),
            Err(failed) => Err(failed),
        },
    };
    match done {
        Ok(answer) => request.answer = Some(answer),
        Err(failed) => request.error = Some(failed.to_string().replace('\0', "\\0")),
    }
    if let Err(error) = control::write(store.as_ref(), &REQUESTS, &id, &request).await {
        tracing::warn!(projection = request.projection, error = %Brief(&error), "what was asked could not be answered");
    }
}

/// The shard of a key, and how far it is.
fn shard_of(shards: Vec<(Shard, Checkpoint)>, key: &str) -> Result<(Shard, Position), Failed> {
    let shard = shards.into_iter().find(|(shard, _)| shard.has(key));
    shard.map(|(shard, at)| (shard, at.position)).ok_or_else(|| Failed::program("it has no shards"))
}

async fn letters_of(transaction: &mut dyn Transaction, name: &str, key: &str) -> Result<Vec<DeadLetter>, StoreError> {
    letters::read(transaction.rows(letters::wanted(name, Some(key), None)).await?)
}

async fn rebuild_key(store: &Store, follower: &dyn Follower, key: &str) -> Result<(), Failed> {
    let (name, store) = (follower.name(), store.as_ref());
    let Some(mut row) = follower.anew(vec![key.into()]).pop() else {
        return Err(Failed::program("it has no rows of its own"));
    };
    let skipped: Vec<_> = there(store.rows(letters::wanted(&name, None, None)).await)?;
    // What waits with its whole stream is processed when that goes on, not before.
    let left_out = |letter: &DeadLetter| match letter.whole_stream {
        true => letter.skipped.is_none(),
        false => letter.skipped.is_some() && letter.key == key,
    };
    let skipped: Vec<_> = letters::read(skipped)?.into_iter().filter(left_out).collect();
    // Most of it while nobody waits; the rest while nobody else can take anything in.
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
    let shards = control::begin_again(&mut *transaction, &name, |shard| shard.has(key)).await?;
    let (_, until) = shard_of(shards, key)?;
    if until < at {
        return Err(StoreError::Busy("it was begun anew meanwhile".into()).into());
    }
    let mut after = at;
    loop {
        let read = Read { query: row.query(), after, until: Some(until), limit: Some(PAGE), ..Read::default() };
        let page = transaction.read(read).await?.events;
        page.iter().filter(|event| !skips(event)).try_for_each(|event| row.apply(event))?;
        match page.last() {
            Some(last) if page.len() == PAGE => after = last.position,
            _ => break,
        }
    }
    transaction.write(row.changes()?).await?;
    let done = letters_of(&mut *transaction, &name, key).await?;
    let done: Vec<_> = done.into_iter().filter(|letter| letter.skipped.is_none() && !letter.whole_stream).collect();
    if !done.is_empty() {
        transaction.write(letters::changes(&[], &done)?).await?;
    }
    Ok(transaction.commit().await?)
}

async fn try_run(store: &Store, follower: &dyn Follower, key: &str) -> Result<TryRun, Failed> {
    let (name, store) = (follower.name(), store.as_ref());
    // Read before anybody is held up: whoever is in a transaction asks for no other connection.
    let waiting = there(store.rows(letters::wanted(&name, Some(key), None)).await)?;
    let events = letters::read(waiting)?.into_iter().map(|letter| letter.event).collect();
    let events = store.recorded(events).await?;
    let mut transaction = store.begin().await?;
    let (shard, _) = shard_of(transaction.lock_projection(&name).await?, key)?;
    let mut waiting = letters_of(&mut *transaction, &name, key).await?;
    // What has come since is behind those that were there.
    let read: HashSet<_> = events.iter().map(|event| event.id).collect();
    waiting.retain(|letter| letter.skipped.is_none() && read.contains(&letter.event));
    let before = row(&mut *transaction, follower, key).await?;
    let stretch = Stretch::new(Position(0), Position(u64::MAX), None, events);
    let (mut taken, mut error) = (0, None);
    for letter in &waiting {
        let Ok(place) = stretch.events.binary_search_by_key(&letter.position, |event| event.position) else { continue };
        let (places, parked, queue) = (place..place + 1, Parked::default(), Queue::of(letter));
        let part = Part { stretch: &stretch, places, shard: &shard, parked: &parked, only: Some(&queue) };
        match follower.take(&mut *transaction, &part, None).await {
            Ok(_) => taken += 1,
            Err(failed) => {
                error = Some(failed.to_string());
                break;
            }
        }
    }
    // After an error of the database nothing can be read any more.
    let after = row(&mut *transaction, follower, key).await.unwrap_or_default();
    transaction.rollback().await?;
    Ok(TryRun { waiting: waiting.len(), taken, error, before, after })
}

async fn row(
    transaction: &mut dyn Transaction,
    follower: &dyn Follower,
    key: &str,
) -> Result<Option<Json>, StoreError> {
    let Some(table) = follower.table() else { return Ok(None) };
    let rows = transaction.rows(Rows::Keys { table, keys: vec![key.into()] }).await?;
    Ok(rows.first().and_then(|(_, row)| serde_json::from_str(row.get()).ok()))
}
