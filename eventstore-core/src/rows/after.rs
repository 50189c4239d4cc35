//! Reads of the table of a read model that wait until it has come to a position.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use crate::{
    engine::dead_letters,
    error::{BoxError, StoreError},
    known::Run,
    read_model::ReadModel,
    store::Store,
    stream::Position,
    table::Rows,
};

/// How long a read waits for its read model to come to a position, unless told otherwise.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a read waits before it checks that the table exists. The position is mostly reached before that, and the
/// check is saved.
const SOON: Duration = Duration::from_millis(20);

/// Reads from the table of a read model. With a position, it waits until the rows, or the row of a key, have every
/// event up to it. Without one, it fails with [`StoreError::Building`] if the table is not whole.
pub(super) async fn read_after<'a, M: ReadModel, T>(
    store: &Store,
    after: Option<Position>,
    patience: Duration,
    key: Option<&str>,
    read: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match after {
        Some(after) => {
            wait::<M>(store, after, patience, key).await?;
            dead_letters::complete(store.inner(), &M::TABLE, after, key).await?;
            read().await
        }
        None => store.read_whole(&M::TABLE, read).await,
    }
}

/// Returns when a read model, or a row of it, has come to a position. Fails with [`StoreError::Behind`] after
/// `patience`, with [`StoreError::Stopped`] if this process has given the read model up, with [`StoreError::NotBuilt`]
/// if there is no table, and with [`StoreError::Forked`] if the log ends before the position.
async fn wait<M: ReadModel>(
    store: &Store,
    until: Position,
    patience: Duration,
    key: Option<&str>,
) -> Result<(), StoreError> {
    let projection = M::TABLE.to_string();
    let (start, mut built, mut in_log) = (Instant::now(), false, false);
    loop {
        let shards = store.inner().shards(Some(&projection)).await?;
        let never = shards.is_empty();
        let shards = shards.iter().filter(|(shard, _)| key.is_none_or(|key| shard.has(key)));
        let at = shards.map(|(_, at)| at.position).min().unwrap_or_default();
        if at >= until {
            return Ok(());
        }
        let run = store.run(&projection);
        if run.is_none() && !built && (never || start.elapsed() > SOON.min(patience)) {
            // This process does not run the read model. Unless another process has built the table, the wait would be
            // in vain.
            store.inner().rows(Rows::Keys { table: M::TABLE, keys: vec![] }).await?;
            built = true;
        }
        let Run { reason, stopped } = run.unwrap_or_default();
        let reason = match reason.map(BoxError::from) {
            Some(reason) if stopped => return Err(StoreError::Stopped { projection, reason }),
            reason => reason,
        };
        if !in_log {
            in_log = store.reached(until).await?;
        }
        if start.elapsed() >= patience {
            return Err(StoreError::Behind { projection, at, until, reason });
        }
        // The pauses make the wait an eighth longer than necessary.
        let pause = (start.elapsed() / 8).clamp(Duration::from_millis(1), Duration::from_millis(20));
        sleep(pause.min(patience.saturating_sub(start.elapsed()))).await;
    }
}
