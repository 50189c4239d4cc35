//! Messages: a relay that publishes a log to a bus, against an import of the same events; an inbox that records a topic,
//! against a reader by hand that inserts each message once, with its offset in the same transaction.

use std::time::{Duration, Instant};

use eventstore::{Bus, ImportEvent, LogBus, PgStore, Position, Running, StreamId, prelude::*};
use futures::{TryStreamExt, stream};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    domain::{AccountEvent, Outcome, deposited},
    measure::Bench,
};

/// How many streams the events are of, by turns.
const STREAMS: usize = 1_000;
/// How many messages the reader by hand inserts at once: as many as an inbox.
const BATCH: i64 = 1_000;

#[derive(Event, Clone, Debug)]
#[event(prefix = "account", topic = "accounts")]
enum AccountMessage {
    Deposited { amount: i64, currency: String, reference: String, note: String },
}

impl Publish for AccountMessage {
    type From = AccountEvent;

    fn publish(event: &Recorded<AccountEvent>) -> Vec<Self> {
        let AccountEvent::Deposited { amount, currency, reference, note } = event.data.clone();
        vec![Self::Deposited { amount, currency, reference, note }]
    }
}

/// A log of its own, and its schema.
async fn open(url: &str) -> Outcome<(Store, String)> {
    let schema = format!("messages_{}", Uuid::now_v7().simple());
    let store = PgStore::options().schema(&schema).connect(url).await?;
    Ok((Store::from(store).with_source("accounts"), schema))
}

/// A log with so many events.
async fn filled(url: &str, events: usize) -> Outcome<Store> {
    let (store, _) = open(url).await?;
    let event = |n: usize| {
        let stream = StreamId::new("account", &(n % STREAMS).to_string());
        ImportEvent::new(stream, Uuid::now_v7(), &deposited(n as i64 + 1))
    };
    store.import(stream::iter((0..events).map(event))).await?;
    Ok(store)
}

/// Waits until a relay has published everything, or an inbox has recorded it.
async fn done(running: Running, log: &Store, category: &str, events: usize) -> Outcome<()> {
    while log.read().category(category).count().await? < events as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.stop().await;
    Ok(())
}

/// How many messages a second a relay publishes.
async fn by_relay(url: &str, log: &Store, events: usize) -> Outcome<f64> {
    let (bus, _) = open(url).await?;
    // A name of its own: it begins with the first event.
    let relay = eventstore::Relay::<AccountMessage>::new(&LogBus::new(&bus).into()).name(&Uuid::now_v7().to_string());
    let start = Instant::now();
    let running = Runner::new(log).relay(relay).start();
    done(running, &bus, "accounts", events).await?;
    Ok(events as f64 / start.elapsed().as_secs_f64())
}

/// How many events a second are imported, as they are.
async fn by_import(url: &str, log: &Store, events: usize) -> Outcome<f64> {
    let (other, _) = open(url).await?;
    let start = Instant::now();
    let copied = log.read().category("account").raw().map_ok(|event| {
        let mut event = ImportEvent::from(event);
        event.stream = StreamId::new("accounts", event.stream.key());
        event
    });
    other.import(copied).await?;
    assert_eq!(other.head().await?, Position(events as u64));
    Ok(events as f64 / start.elapsed().as_secs_f64())
}

/// How many messages a second an inbox records.
async fn by_inbox(url: &str, bus: &Bus, events: usize) -> Outcome<f64> {
    let (store, _) = open(url).await?;
    let start = Instant::now();
    let running = Runner::new(&store).inbox::<AccountMessage>(bus).start();
    done(running, &store, "in.accounts", events).await?;
    Ok(events as f64 / start.elapsed().as_secs_f64())
}

/// How many a reader by hand inserts, each once, and moves its offset in the same transaction.
async fn by_hand(url: &str, bus: &str, events: usize) -> Outcome<f64> {
    let mut connection = PgConnection::connect(url).await?;
    let schema = format!("by_hand_{}", Uuid::now_v7().simple());
    let made = format!(
        "CREATE SCHEMA {schema};
         CREATE TABLE {schema}.messages (id uuid PRIMARY KEY, key text, recorded_at timestamptz DEFAULT now(), body bytea);
         CREATE TABLE {schema}.offsets (topic text PRIMARY KEY, position bigint);
         INSERT INTO {schema}.offsets VALUES ('accounts', 0)"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(made)).execute(&mut connection).await?;
    let (read, insert, moved) = (
        format!(
            "SELECT position, event_id, stream, payload FROM {bus}.events WHERE position > $1 ORDER BY position LIMIT $2"
        ),
        format!(
            "INSERT INTO {schema}.messages (id, key, body) SELECT * FROM unnest($1::uuid[], $2::text[], $3::bytea[]) ON CONFLICT DO NOTHING"
        ),
        format!("UPDATE {schema}.offsets SET position = $1 WHERE topic = 'accounts' AND position = $2"),
    );
    let (start, mut offset, mut count) = (Instant::now(), 0_i64, 0);
    while count < events {
        let rows: Vec<(i64, Uuid, String, Vec<u8>)> =
            sqlx::query_as(sqlx::AssertSqlSafe(&*read)).bind(offset).bind(BATCH).fetch_all(&mut connection).await?;
        let Some(last) = rows.last().map(|row| row.0) else { break };
        count += rows.len();
        let (mut ids, mut keys, mut bodies) = (vec![], vec![], vec![]);
        for (_, id, key, body) in rows {
            ids.push(id);
            keys.push(key);
            bodies.push(body);
        }
        let mut transaction = connection.begin().await?;
        let insert = sqlx::query(sqlx::AssertSqlSafe(&*insert)).bind(ids).bind(keys).bind(bodies);
        insert.execute(&mut *transaction).await?;
        let moved = sqlx::query(sqlx::AssertSqlSafe(&*moved)).bind(last).bind(offset);
        moved.execute(&mut *transaction).await?;
        transaction.commit().await?;
        offset = last;
    }
    assert_eq!(count, events);
    Ok(events as f64 / start.elapsed().as_secs_f64())
}

pub async fn run_relay(bench: &mut Bench, url: &str, events: usize) -> Outcome<()> {
    let log = filled(url, events).await?;
    let ours = async || by_relay(url, &log, events).await;
    let yardstick = async || by_import(url, &log, events).await;
    bench.pair("a log to a bus, 1,000 keys", "messages/s", ours, yardstick).await
}

pub async fn run_inbox(bench: &mut Bench, url: &str, events: usize) -> Outcome<()> {
    let log = filled(url, events).await?;
    let (store, schema) = open(url).await?;
    let bus: Bus = LogBus::new(&store).into();
    let running = Runner::new(&log).relay::<AccountMessage>(&bus).start();
    done(running, &store, "accounts", events).await?;
    let ours = async || by_inbox(url, &bus, events).await;
    let yardstick = async || by_hand(url, &schema, events).await;
    bench.pair("a topic into a log, 1,000 keys", "messages/s", ours, yardstick).await
}
