//! Sagas: an event, a command, a row; against the same commands, executed by clients. And timers: those that are due, and
//! a look among many that are not.

use std::time::{Duration, Instant};

use eventstore::{Changes, Expected, Order, PgStore, Position, Running, Select, StreamId, prelude::*};
use eventstore_core::{Comparison, Filter};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use uuid::Uuid;

use crate::{
    domain::{Account, AccountEvent, Deposit, Outcome},
    measure::Bench,
};

/// How many commands are sent at once, by a saga and by clients.
const AT_ONCE: usize = 64;

#[derive(Event, Clone, Debug, PartialEq)]
pub enum AskEvent {
    /// So many deposits, one after the other.
    Asked { times: i64 },
    /// A deposit, at an instant in microseconds.
    AskedAt { due: i64 },
}

/// What is asked, and what comes of it.
#[derive(Event, Clone, Debug)]
#[event(transparent)]
pub enum PayEvent {
    Ask(AskEvent),
    Account(AccountEvent),
}

/// Deposits what is asked for: the next time once the last one is recorded.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, Default)]
#[saga(from = "beginning", stream)]
struct Pay {
    left: i64,
}

impl Evolve for Pay {
    type Event = PayEvent;

    fn evolve(&mut self, event: PayEvent) {
        match event {
            PayEvent::Ask(AskEvent::Asked { times }) => self.left = times,
            PayEvent::Ask(AskEvent::AskedAt { .. }) => {}
            PayEvent::Account(_) => self.left -= 1,
        }
    }
}

impl React for Pay {
    fn react(&self, event: &Recorded<PayEvent>) -> Commands {
        let deposit = || send(Id::<Account>::from(event.stream.key()), Deposit(1));
        match event.data {
            PayEvent::Account(_) if self.left > 1 => deposit(),
            PayEvent::Ask(AskEvent::Asked { .. }) => deposit(),
            PayEvent::Ask(AskEvent::AskedAt { due }) => {
                deposit().at(std::time::UNIX_EPOCH + Duration::from_micros(due.unsigned_abs()))
            }
            PayEvent::Account(_) => Commands::none(),
        }
    }
}

/// A log of its own.
async fn open(url: &str) -> Outcome<Store> {
    let schema = format!("saga_{}", Uuid::now_v7().simple());
    Ok(PgStore::options().schema(schema).max_connections(AT_ONCE as u32).connect(url).await?.into())
}

/// Appends what is asked, to so many streams.
async fn ask(store: &Store, streams: usize, event: AskEvent) -> Outcome<Position> {
    for part in (0..streams).collect::<Vec<_>>().chunks(1_000) {
        let (first, rest) = part.split_first().ok_or("no streams")?;
        let stream = |n: &usize| StreamId::new("ask", &n.to_string());
        let append = store.append(stream(first), Expected::Any, [event.clone()]);
        rest.iter().fold(append, |append, n| append.and(stream(n), Expected::Any, [event.clone()])).await?;
    }
    Ok(store.head().await?)
}

/// Waits until the log has come to a position, and all have processed it.
async fn come_to(store: &Store, running: &Running, position: Position) -> Outcome<()> {
    while store.head().await? < position {
        store.as_ref().appended(Position(position.0 - 1)).await;
    }
    Ok(running.until(position).await?)
}

/// How many deposits a second a saga makes of what is asked.
async fn by_saga(url: &str, streams: usize, times: i64) -> Outcome<f64> {
    let store = open(url).await?;
    let asked = ask(&store, streams, AskEvent::Asked { times }).await?;
    let commands = streams as u64 * times.unsigned_abs();
    let begin = Instant::now();
    let running = Runner::new(&store).saga::<Pay>().start();
    come_to(&store, &running, Position(asked.0 + commands)).await?;
    let took = begin.elapsed().as_secs_f64();
    running.stop().await;
    Ok(commands as f64 / took)
}

/// How many a second clients make.
async fn by_clients(url: &str, streams: usize, times: usize) -> Outcome<f64> {
    let store = open(url).await?;
    let begin = Instant::now();
    let deposits = |n: usize| {
        let store = store.clone();
        async move {
            for _ in 0..times {
                store.execute(&Id::<Account>::from(n.to_string()), Deposit(1)).await?;
            }
            Outcome::Ok(())
        }
    };
    stream::iter(0..streams).map(deposits).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok((streams * times) as f64 / begin.elapsed().as_secs_f64())
}

pub async fn run(bench: &mut Bench, url: &str) -> Outcome<()> {
    let few = if bench.pairs > 1 { 1 } else { 10 };
    let (streams, times) = (4_000 / few, 500 / few);
    let ours = async || by_saga(url, streams, 1).await;
    let yardstick = async || by_clients(url, streams, 1).await;
    bench.pair(format!("a command of each of {streams} instances"), "commands/s", ours, yardstick).await?;
    let ours = async || by_saga(url, 1, times as i64).await;
    let yardstick = async || by_clients(url, 1, times).await;
    bench.pair(format!("{times} steps of one instance"), "commands/s", ours, yardstick).await
}

/// How many timers a second fire that are due at once, each with a command.
async fn fire(url: &str, timers: usize) -> Outcome<f64> {
    let store = open(url).await?;
    let arms = Duration::from_secs(2 + timers as u64 / 2_000);
    let due = (store.as_ref().time().await? + arms).as_micros();
    let asked = ask(&store, timers, AskEvent::AskedAt { due }).await?;
    let running = Runner::new(&store).saga::<Pay>().start();
    running.until(asked).await?;
    let early = due - store.as_ref().time().await?.as_micros();
    let early = u64::try_from(early).map_err(|_| "the timers were due before all were armed")?;
    tokio::time::sleep(Duration::from_micros(early)).await;
    let begin = Instant::now();
    come_to(&store, &running, Position(asked.0 + timers as u64)).await?;
    let took = begin.elapsed().as_secs_f64();
    running.stop().await;
    Ok(timers as f64 / took)
}

/// How many milliseconds a look takes with so many timers pending and none due.
async fn look(store: &Store) -> Outcome<f64> {
    const LOOKS: u32 = 200;
    let begin = Instant::now();
    for _ in 0..LOOKS {
        let due = Comparison::LessOrEqual((store.as_ref().time().await?.as_micros()).into());
        let select = Select {
            table: eventstore_sagas::table::table("pay"),
            filters: vec![Filter { column: eventstore_sagas::table::DUE, comparison: due }],
            order: Order { by: Some(eventstore_sagas::table::DUE), ..Order::default() },
            after: None,
            limit: Some(500),
        };
        assert!(store.as_ref().select(select).await?.is_empty());
    }
    Ok(begin.elapsed().as_secs_f64() * 1e3 / f64::from(LOOKS))
}

/// A log with so many timers that are due in a year.
async fn pending(url: &str, timers: usize) -> Outcome<Store> {
    let store = open(url).await?;
    let table = eventstore_sagas::table::table("pay");
    store.as_ref().create(&table).await?;
    store.as_ref().index(&table).await?;
    let due = (store.as_ref().time().await? + Duration::from_secs(365 * 86_400)).as_micros();
    for part in (0..timers).collect::<Vec<_>>().chunks(10_000) {
        let row = |n: &usize| {
            let row = serde_json::json!({
                "slot": n % 1_024, "state": "{\"left\":1}", "version": 1, "status": "running", "due": due + *n as i64,
                "timers": "[]", "heard": "[1]", "plan": null, "started_at": 0, "changed_at": 0, "position": 1,
                "error": null,
            });
            Outcome::Ok((n.to_string(), to_raw_value(&row)?))
        };
        let upserts = part.iter().map(row).collect::<Outcome<_>>()?;
        let mut transaction = store.as_ref().begin().await?;
        transaction.write(Changes { table, upserts, deletes: vec![] }).await?;
        transaction.commit().await?;
    }
    Ok(store)
}

pub async fn run_timers(bench: &mut Bench, url: &str) -> Outcome<()> {
    let few = if bench.pairs > 1 { 1 } else { 10 };
    let (timers, many) = (5_000 / few, 1_000_000 / few);
    let ours = async || fire(url, timers).await;
    let yardstick = async || by_clients(url, timers, 1).await;
    bench.pair(format!("{timers} timers that are due at once"), "commands/s", ours, yardstick).await?;
    let (large, small) = (pending(url, many).await?, pending(url, 1_000).await?);
    let (ours, yardstick) = (async || look(&large).await, async || look(&small).await);
    bench.pair(format!("a look, {many} pending, against 1,000"), "ms", ours, yardstick).await
}
