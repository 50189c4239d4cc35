//! Requests from any process to a node that has the code of a processor: `ask.rs` asks, and the node that runs the
//! shard of the key answers (`answer.rs`).

use std::time::Duration;

use eventstore_core::{Changes, Column, EventStore, Kind, StoreError, Table, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::record;

/// How long a request is kept, answered or not.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// The table of requests, each under a UUID of version 7.
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

/// A request to the node that runs a processor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    pub projection: String,
    /// The key it is about.
    pub of: String,
    /// A [`What`], if this program knows it.
    pub what: Json,
    pub(crate) asked_at: Timestamp,
    pub answer: Option<Json>,
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Rebuild,
    Try,
}

/// What would happen if the events that a key waits for were tried now: see
/// [`DeadLetters::try_run`](crate::DeadLetters::try_run).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TryRun {
    /// How many events wait.
    pub waiting: usize,
    /// How many of them could be processed, one after the other.
    pub taken: usize,
    /// Why the next event could not be processed.
    pub error: Option<String>,
    /// The row as it is; `None` if there is none, or if the processor keeps no table of a read model.
    pub before: Option<Json>,
    /// The row as it would be after the events that could be processed.
    pub after: Option<Json>,
}

impl Request {
    pub(crate) fn is_open(&self) -> bool {
        self.answer.is_none() && self.error.is_none()
    }

    pub fn what(&self) -> Option<What> {
        serde_json::from_value(self.what.clone()).ok()
    }
}

/// Returns the open requests that this program can answer. Removes requests that are more than an hour old, including
/// those that a newer program has made in a form of its own.
pub async fn open(store: &dyn EventStore) -> Result<Vec<(String, Request)>, StoreError> {
    let now = store.now();
    let (mut open, mut forgotten) = (vec![], vec![]);
    for (id, row) in record::all(store, &REQUESTS).await? {
        let request = serde_json::from_str::<Request>(row.get()).ok();
        let asked_at = request.as_ref().map(|request| request.asked_at).or_else(|| asked_at(&id));
        match request {
            _ if asked_at.is_some_and(|asked_at| asked_at + FORGOTTEN < now) => forgotten.push(id),
            Some(request) if request.is_open() && request.what().is_some() => open.push((id, request)),
            _ => {}
        }
    }
    if !forgotten.is_empty() {
        record::change(store, Changes { table: REQUESTS, upserts: vec![], deletes: forgotten }).await?;
    }
    Ok(open)
}

/// Returns when a request was made that cannot be read: its key, a UUID of version 7, tells.
fn asked_at(id: &str) -> Option<Timestamp> {
    let (seconds, nanos) = id.parse::<Uuid>().ok()?.get_timestamp()?.to_unix();
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1_000))?;
    Some(Timestamp::from_micros(micros))
}
