//! The whole log, read and decoded, and nothing done with it; against a SELECT of what one needs, by hand.

use std::time::Instant;

use eventstore::{Event, Expected, PgStore, Store, StreamId};
use futures::TryStreamExt;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    domain::{AccountEvent, Outcome, deposited},
    measure::Bench,
};

async fn replay(store: &Store) -> Outcome<f64> {
    let (start, mut events) = (Instant::now(), store.read().events::<AccountEvent>());
    let (mut count, mut sum) = (0_u64, 0);
    while let Some(event) = events.try_next().await? {
        let AccountEvent::Deposited { amount, .. } = event.data;
        sum += amount;
        count += 1;
    }
    assert!(sum > 0);
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

async fn by_hand(url: &str) -> Outcome<f64> {
    let mut connection = PgConnection::connect(url).await?;
    let start = Instant::now();
    let select = "SELECT position, version, recorded_at, occurred_at, event_id, type_key, schema, stream, tags, metadata, payload
                    FROM replay.events ORDER BY position";
    let mut rows = sqlx::query(select).fetch(&mut connection);
    let (mut count, mut sum) = (0_u64, 0);
    while let Some(row) = rows.try_next().await? {
        let (position, version, event_id): (i64, i64, Uuid) = (row.get(0), row.get(1), row.get(4));
        let (type_key, schema, stream): (i32, i32, String) = (row.get(5), row.get(6), row.get(7));
        let (tags, metadata): (Vec<String>, &[u8]) = (row.get(8), row.get(9));
        assert!(position > 0 && version > 0 && type_key > 0 && schema == 1 && !event_id.is_nil());
        assert!(tags.is_empty() && !metadata.is_empty() && !stream.is_empty());
        AccountEvent::decode(
            "account.deposited",
            1,
            row.get(10),
            &mut |AccountEvent::Deposited { amount, .. }| {
                sum += amount;
            },
        )?;
        count += 1;
    }
    assert!(sum > 0);
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

pub async fn run(bench: &mut Bench, url: &str, events: usize) -> Outcome<()> {
    let store: Store = PgStore::options().schema("replay").connect(url).await?.into();
    for n in 0..events / 1_000 {
        let stream = StreamId::new("account", &n.to_string());
        store.append(stream, Expected::Any, (1..=1_000).map(deposited)).await?;
    }
    let ours = async || replay(&store).await;
    let yardstick = async || by_hand(url).await;
    bench.pair(format!("{events} events"), "events/s", ours, yardstick).await
}
