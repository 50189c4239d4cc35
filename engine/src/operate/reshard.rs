//! Changes how many shards a processor has while it runs: records the request and waits until the nodes have done it.

use std::time::Duration;

use eventstore_core::{Invalid, SLOTS, Shard, StoreError};
use tokio::time::{Instant, sleep};

use crate::{
    operate::processors::{PATIENCE, Processors},
    record::holds::{RESHARDS, cancel, step},
    status::State,
};

/// How long a node that was just started may take to show itself, before the processor counts as run by none.
const STARTING: Duration = Duration::from_secs(1);

impl Processors {
    /// Changes how many shards a processor has, 1 to 1,024, while it runs: see
    /// [`Runner::shards`](crate::Runner::shards). Each event is still processed once. Returns when the processor has
    /// that many shards.
    ///
    /// Shards are split at once. To merge shards, their nodes first bring them to the position of the furthest one,
    /// which waits meanwhile. [`StoreError::Behind`] if that takes longer than 30 seconds, or if no node can do it
    /// because the processor is paused, has failed, or is run nowhere; the shards then stay as they are. A processor that
    /// its first node is about to begin has none, and is waited for.
    ///
    /// [`Invalid::Request`] if the number is out of range, if all of a stream waits and `shards` is not 1, or if
    /// another operator has changed the shards meanwhile.
    pub async fn reshard(&self, name: &str, shards: u16) -> Result<(), StoreError> {
        if !(1..=SLOTS).contains(&shards) {
            return Err(Invalid::Request(format!("{shards} shards: there can be 1 to {SLOTS}")).into());
        }
        let name = self.shown(name).await?;
        let store = self.store.as_ref();
        store.create(&RESHARDS).await?;
        self.begun(&name).await?;
        let (start, mut pause) = (Instant::now(), Duration::from_millis(2));
        let mut ended = step(store, &name, Some(shards)).await?;
        self.wake_node();
        while !ended {
            let status = self.status().await?.into_iter().find(|status| status.name == name);
            let Some(status) = status else { return Err(Self::otherwise(&name)) };
            let why = match status.state {
                State::Paused => "it is paused, and its shards are at different positions: resume it first".into(),
                State::Failed => match &status.error {
                    Some(error) => format!("it has failed, and its shards are at different positions: {error}"),
                    None => "it has failed, and its shards are at different positions".into(),
                },
                State::Detached if start.elapsed() > STARTING => {
                    "no node runs it, and its shards are at different positions: start one first".into()
                }
                _ if start.elapsed() > PATIENCE => "its shards have not come to one position in time".into(),
                _ => String::new(),
            };
            if !why.is_empty() {
                cancel(store, &name).await?;
                self.wake_node();
                let until = status.shards.iter().map(|(_, at)| at.position).max().unwrap_or_default();
                let reason = Some(why.into());
                return Err(StoreError::Behind { projection: name, at: status.position, until, reason });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
            ended = step(store, &name, None).await?;
        }
        self.wake_node();
        let there = store.shards(Some(&name)).await?;
        match there.iter().map(|(shard, _)| shard).eq(&Shard::parts(&name, shards)) {
            true => Ok(()),
            false => Err(Self::otherwise(&name)),
        }
    }

    /// As [`name`](Self::name), of a processor that a node which was just started may not have shown yet.
    async fn shown(&self, name: &str) -> Result<String, StoreError> {
        let (start, pause) = (Instant::now(), Duration::from_millis(20));
        loop {
            match self.name(name).await {
                Err(StoreError::Invalid(_)) if start.elapsed() < STARTING => sleep(pause).await,
                named => return named,
            }
        }
    }

    /// Returns once a processor has shards: a node makes them when it runs the processor for the first time.
    /// [`StoreError::Behind`] if that takes longer than 30 seconds, or if no node runs it.
    async fn begun(&self, name: &str) -> Result<(), StoreError> {
        let (store, start, mut pause) = (self.store.as_ref(), Instant::now(), Duration::from_millis(2));
        while store.shards(Some(name)).await?.is_empty() {
            let status = self.status().await?.into_iter().find(|status| status.name == name);
            let is_run = status.is_some_and(|status| !matches!(status.state, State::Detached | State::New));
            if start.elapsed() > if is_run { PATIENCE } else { STARTING } {
                let reason = Some("no node has begun to run it, so it has no shards: start one first".into());
                let (at, until) = Default::default();
                return Err(StoreError::Behind { projection: name.into(), at, until, reason });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    fn otherwise(name: &str) -> StoreError {
        Invalid::Request(format!("another operator has changed the shards of `{name}` meanwhile")).into()
    }
}
