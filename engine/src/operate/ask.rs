//! Asks the node that runs the shard of a key, and waits for its answer.

use std::time::Duration;

use eventstore_core::{Invalid, ParkedKeys, StoreError, engine::LETTERS};
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    operate::processors::{PATIENCE, Processors},
    record::{
        self,
        requests::{REQUESTS, Request, What},
    },
};

/// How long a node that has just begun may take to show itself.
const SOON: Duration = Duration::from_secs(2);
impl Processors {
    /// Asks the node that runs the shard of a key, and returns its answer. [`StoreError::Parked`] if the node answers
    /// with an error. [`StoreError::Behind`] if none answers within 30 seconds, or if no node has the code after 2
    /// seconds.
    pub async fn ask(&self, name: &str, of: &str, what: What) -> Result<Json, StoreError> {
        let store = self.store.as_ref();
        for table in [REQUESTS, LETTERS] {
            store.create(&table).await?;
        }
        let (projection, of, asked_at) = (name.to_owned(), of.to_owned(), store.now());
        let what = serde_json::to_value(what).map_err(|error| StoreError::Damaged(error.into()))?;
        let request = Request { projection, of, what, asked_at, answer: None, error: None };
        let id = Uuid::now_v7().to_string();
        record::write(store, &REQUESTS, &id, &request).await?;
        self.wake_node();
        let (start, mut pause) = (Instant::now(), Duration::from_millis(2));
        let answer = loop {
            match record::first(&REQUESTS, store.rows(record::key(&REQUESTS, &id)).await?)? {
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
        record::change(store, record::delete(&REQUESTS, &id)).await?;
        answer
    }

    /// Makes one row of a read model anew from all events of its key: a row that was spoiled, or one that waits behind
    /// an event which can now be processed. Events that were skipped stay skipped. Returns when the row is written.
    ///
    /// [`StoreError::Parked`] if the node answers with an error, such as an event that cannot be processed; the row
    /// then stays as it was. [`StoreError::Behind`] if no node answers within 30 seconds. [`Invalid::Request`] if the
    /// name is not that of a read model.
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
