//! From the begin of an append to the event in the hand of somebody who follows the log with another store, as another
//! process would, while eight others append; against a reader that looks every ten milliseconds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use eventstore::{Event, Expected, PgStore, Position, Store, StreamId};
use futures::TryStreamExt;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    domain::{AccountEvent, Outcome, deposited},
    measure::Bench,
};

const BACKGROUND: usize = 8;
const PAGE: usize = 1_000;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is timed has a stream of this category, and the nanoseconds since this instant as its amount.
const TIMED: &str = "timed";

struct Clock(Instant);

impl Clock {
    fn now(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }
}

/// What follows the log until it is over, and gives the nanoseconds it took.
trait Follow {
    async fn follow(self, from: Position, clock: &Clock, over: &AtomicBool) -> Outcome<Vec<i64>>;
}

struct Woken(Store);

impl Follow for Woken {
    async fn follow(self, mut at: Position, clock: &Clock, over: &AtomicBool) -> Outcome<Vec<i64>> {
        let mut took = vec![];
        while !over.load(Ordering::Relaxed) {
            let mut events = self.0.read().after(at).limit(PAGE).events::<AccountEvent>();
            while let Some(event) = events.try_next().await? {
                at = event.position;
                let AccountEvent::Deposited { amount, .. } = event.data;
                if event.stream.category() == TIMED {
                    took.push(clock.now() - amount);
                }
            }
            self.0.as_ref().appended(at).await;
        }
        Ok(took)
    }
}

struct Looking(PgConnection);

impl Follow for Looking {
    async fn follow(mut self, from: Position, clock: &Clock, over: &AtomicBool) -> Outcome<Vec<i64>> {
        let (mut took, mut at) = (vec![], i64::try_from(from.0)?);
        while !over.load(Ordering::Relaxed) {
            let select =
                "SELECT position, stream, payload FROM latency.events WHERE position > $1 ORDER BY position LIMIT 1000";
            let rows = sqlx::query(select).bind(at).fetch_all(&mut self.0).await?;
            for row in &rows {
                at = row.get(0);
                let (stream, payload): (&str, &[u8]) = (row.get(1), row.get(2));
                AccountEvent::decode(
                    "account.deposited",
                    1,
                    payload,
                    &mut |AccountEvent::Deposited { amount, .. }| {
                        if stream.starts_with(TIMED) {
                            took.push(clock.now() - amount);
                        }
                    },
                )?;
            }
            if rows.len() < PAGE {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(took)
    }
}

/// How many milliseconds it takes, at this part of all, the fastest first.
async fn latency(store: &Store, follower: impl Follow, part: f64, seconds: f64) -> Outcome<f64> {
    let (clock, over) = (Arc::new(Clock(Instant::now())), Arc::new(AtomicBool::new(false)));
    let from = store.head().await?;
    let append = |category: &'static str| {
        let (store, clock, over) = (store.clone(), clock.clone(), over.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let stream = StreamId::new(category, &Uuid::now_v7().to_string());
                store.append(stream, Expected::Any, [deposited(clock.now())]).await?;
            }
            Outcome::Ok(())
        })
    };
    let mut writers: Vec<_> = (0..BACKGROUND).map(|_| append("account")).collect();
    writers.push(append(TIMED));
    let end = async {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        over.store(true, Ordering::Relaxed);
    };
    let (took, ()) = futures::join!(follower.follow(from, &clock, &over), end);
    for writer in writers {
        writer.await??;
    }
    let mut took = took?;
    took.sort_unstable();
    let at = (took.len() as f64 * part) as usize;
    let nanos = *took.get(at).ok_or("nothing was seen")?;
    Ok(nanos as f64 / 1e6)
}

pub async fn run(bench: &mut Bench, url: &str) -> Outcome<()> {
    let options = || PgStore::options().schema("latency");
    let store = Store::from(options().connect(url).await?);
    let seconds = bench.seconds;
    for (case, part) in [("p50", 0.5), ("p99", 0.99)] {
        let ours = async || latency(&store, Woken(options().connect(url).await?.into()), part, seconds).await;
        let yardstick = async || latency(&store, Looking(PgConnection::connect(url).await?), part, seconds).await;
        bench.pair(format!("{case}, {BACKGROUND} others append"), "ms", ours, yardstick).await?;
    }
    Ok(())
}
