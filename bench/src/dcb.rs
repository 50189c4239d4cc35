//! Appends with a condition on a tag of their own each, against appends of the same events without one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use eventstore::{
    Append, Condition, EventStore, Expected, Item, NewEvent, PgStore, Position, Query, Raw, StreamId, Tag, Write,
};
use uuid::Uuid;

use crate::{
    domain::{self, Outcome},
    measure::{Bench, rate},
};

const DECISIONS: usize = 64;

#[derive(Clone)]
struct Worker {
    store: PgStore,
    /// Where a decision made now would have read up to.
    head: Arc<AtomicU64>,
    conditional: bool,
}

async fn decide(worker: Worker) -> Outcome<Worker> {
    let tag = Tag::new("seat", Uuid::now_v7().to_string());
    let data =
        Raw { name: "account.deposited".into(), tags: vec![tag.clone()], body: domain::body(&domain::deposited(10))? };
    let event = NewEvent { id: Uuid::now_v7(), schema: 1, occurred_at: None, metadata: Default::default(), data };
    let stream = StreamId::new("seat", &tag.key);
    let after = Position(worker.head.load(Ordering::Relaxed));
    let query = Query::from(Item { tags: vec![tag], ..Item::default() });
    let append = Append {
        writes: vec![Write { stream, expected: Expected::Any, events: vec![event] }],
        condition: worker.conditional.then_some(Condition { query, after }),
        ..Append::default()
    };
    let written = worker.store.append(append).await?;
    worker.head.fetch_max(written.last.0, Ordering::Relaxed);
    Ok(worker)
}

pub async fn run(bench: &mut Bench, url: &str) -> Outcome<()> {
    let store = PgStore::options().schema("dcb").connect(url).await?;
    let (seconds, head) = (bench.seconds, Arc::<AtomicU64>::default());
    let worker = |conditional| Worker { store: store.clone(), head: head.clone(), conditional };
    for decisions in [1, DECISIONS] {
        let ours = async || rate(vec![worker(true); decisions], seconds, decide).await;
        let yardstick = async || rate(vec![worker(false); decisions], seconds, decide).await;
        bench.pair(format!("{decisions} at once, against no condition"), "appends/s", ours, yardstick).await?;
    }
    Ok(())
}
