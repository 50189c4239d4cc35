//! Events that happened elsewhere, with the ids and the instants they had there; against `INSERT … SELECT FROM UNNEST`
//! by hand.

use std::time::Instant;

use eventstore::{ImportEvent, PgStore, Store, StoreError, StreamId, Timestamp};
use futures::stream;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    domain::{Outcome, body, deposited},
    measure::Bench,
    plain,
};

/// In which stream the nth event is, and at which version.
type Place = fn(usize) -> (usize, i64);

/// Where an event comes from.
struct Source {
    stream: String,
    version: i64,
    id: Uuid,
    occurred_at: Timestamp,
    amount: i64,
}

/// So many events of streams that are new.
fn source(events: usize, place: Place) -> impl Iterator<Item = Source> + Send {
    let run = Uuid::now_v7();
    (0..events).map(move |n| {
        let (stream, version) = place(n);
        Source {
            stream: format!("{run}-{stream}"),
            version,
            id: Uuid::now_v7(),
            occurred_at: Timestamp::from_micros(1_600_000_000_000_000 + n as i64),
            amount: 10,
        }
    })
}

async fn import(store: &Store, events: usize, place: Place) -> Outcome<f64> {
    let start = Instant::now();
    let source = source(events, place).map(|Source { stream, id, occurred_at, amount, .. }| {
        let event = ImportEvent::new(StreamId::new("account", &stream), id, &deposited(amount))?;
        Ok::<_, StoreError>(event.occurred_at(occurred_at))
    });
    let imported = store.import(stream::iter(source)).await?;
    assert_eq!((imported.recorded, imported.known), (events as u64, 0));
    Ok(events as f64 / start.elapsed().as_secs_f64())
}

async fn by_hand(url: &str, events: usize, place: Place) -> Outcome<f64> {
    let mut connection = PgConnection::connect(url).await?;
    let start = Instant::now();
    let mut source = source(events, place).peekable();
    while source.peek().is_some() {
        let (mut versions, mut instants, mut ids, mut streams, mut bodies) = (vec![], vec![], vec![], vec![], vec![]);
        for Source { stream, version, id, occurred_at, amount } in source.by_ref().take(1_000) {
            versions.push(version);
            instants.push(occurred_at.as_micros());
            ids.push(id);
            streams.push(format!("account-{stream}"));
            bodies.push(body(&deposited(amount))?);
        }
        sqlx::query(
            "INSERT INTO plain.events (version, recorded_at, occurred_at, event_id, type_key, schema, stream, tags, metadata, payload)
             SELECT version, now(), 'epoch'::timestamptz + micros * interval '1 microsecond', event_id, 1, 1, stream, '{}', '{}', payload
               FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::text[], $5::bytea[]) AS e (version, micros, event_id, stream, payload)",
        )
        .bind(versions)
        .bind(instants)
        .bind(ids)
        .bind(streams)
        .bind(bodies)
        .execute(&mut connection)
        .await?;
    }
    Ok(events as f64 / start.elapsed().as_secs_f64())
}

pub async fn run(bench: &mut Bench, url: &str, events: usize) -> Outcome<()> {
    let store: Store = PgStore::options().schema("import").connect(url).await?.into();
    plain::connections(url, 1).await?;
    let orders: [(&str, Place); 2] = [
        ("100 events a stream, one stream after another", |n| (n / 100, n as i64 % 100 + 1)),
        ("1000 streams, alternately", |n| (n % 1_000, n as i64 / 1_000 + 1)),
    ];
    for (case, place) in orders {
        let ours = async || import(&store, events, place).await;
        let yardstick = async || by_hand(url, events, place).await;
        bench.pair(case, "events/s", ours, yardstick).await?;
    }
    Ok(())
}
