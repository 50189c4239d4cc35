//! From the acknowledgement of an append to the row it changed, read, while eight others append and another process
//! keeps the read model; against a reader that looks every ten milliseconds, and asks every millisecond.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use eventstore::{Expected, Position, RunReadModels, Runner, Store, StreamId};
use sqlx::PgConnection;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    books::{Balance, Books, Folded, taken},
    domain::{Outcome, deposited},
    measure::Bench,
};

const BACKGROUND: usize = 8;
const PAGE: usize = 1_000;
const LOOK_EVERY: Duration = Duration::from_millis(10);
const ASK_EVERY: Duration = Duration::from_millis(1);

/// Reads the row of an account as soon as it has seen a position.
trait See {
    async fn see(&mut self, key: &str, position: Position) -> Outcome<()>;
}

impl See for Store {
    async fn see(&mut self, key: &str, position: Position) -> Outcome<()> {
        let row = self.read_model::<Balance>().get(key).after(position).await?;
        assert_eq!(row.ok_or("no row")?.deposits, 1);
        Ok(())
    }
}

impl See for PgConnection {
    async fn see(&mut self, key: &str, position: Position) -> Outcome<()> {
        let position = i64::try_from(position.0)?;
        loop {
            let select =
                "SELECT deposits FROM by_hand WHERE key = $1 AND $2 <= (SELECT position FROM by_hand_checkpoint)";
            let row: Option<i64> =
                sqlx::query_scalar(select).bind(key).bind(position).fetch_optional(&mut *self).await?;
            if row == Some(1) {
                return Ok(());
            }
            sleep(ASK_EVERY).await;
        }
    }
}

async fn append(store: &Store, key: &str) -> Outcome<Position> {
    Ok(store.append(StreamId::new("account", key), Expected::Any, [deposited(10)]).await?.last)
}

/// How many milliseconds it takes, at this part of all, the fastest first, while others append, each with a pause after
/// each append.
async fn visible(store: &Store, reader: &mut impl See, pause: Duration, part: f64, seconds: f64) -> Outcome<f64> {
    let over = Arc::<AtomicBool>::default();
    let background = |_| {
        let (store, over) = (store.clone(), over.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                append(&store, &Uuid::now_v7().to_string()).await?;
                if !pause.is_zero() {
                    sleep(pause).await;
                }
            }
            Outcome::Ok(())
        })
    };
    let writers: Vec<_> = (0..BACKGROUND).map(background).collect();
    let (begin, mut took) = (Instant::now(), vec![]);
    while begin.elapsed().as_secs_f64() < seconds {
        let key = Uuid::now_v7().to_string();
        let position = append(store, &key).await?;
        let acknowledged = Instant::now();
        reader.see(&key, position).await?;
        took.push(acknowledged.elapsed().as_secs_f64() * 1e3);
    }
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await??;
    }
    took.sort_unstable_by(f64::total_cmp);
    Ok(*took.get((took.len() as f64 * part) as usize).ok_or("nothing was seen")?)
}

/// Keeps the rows by hand, from the end of the log on, until it is over.
async fn keep(books: &Books, from: Position, over: &AtomicBool) -> Outcome<()> {
    let (mut connection, mut at) = (books.connect().await?, i64::try_from(from.0)?);
    while !over.load(Ordering::Relaxed) {
        let select = "SELECT position, stream, payload FROM events WHERE position > $1 ORDER BY position LIMIT 1000";
        let rows = sqlx::query(select).bind(at).fetch_all(&mut connection).await?;
        let mut folded = Folded::default();
        for row in &rows {
            let (position, key, event) = taken(row)?;
            folded.take(key, &event);
            at = position;
        }
        if !rows.is_empty() {
            folded.write(&mut connection, Some(at)).await?;
        }
        if rows.len() < PAGE {
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

pub async fn run(bench: &mut Bench, url: &str) -> Outcome<()> {
    let (books, seconds) = (Books::open(url, "visible").await?, bench.seconds);
    let busy = [(Duration::from_millis(10), "about 700 a second"), (Duration::ZERO, "as fast as they can")];
    let cases = busy.iter().flat_map(|busy| [("p50", 0.5, busy), ("p99", 0.99, busy)]);
    for (case, part, &(pause, how)) in cases {
        let ours = async || {
            // A process that keeps the rows, and one that reads them.
            let (keeper, mut reader) = (Books::open(url, "visible").await?, Books::open(url, "visible").await?.store);
            let running = Runner::new(&keeper.store).read_model::<Balance>().start();
            running.until(append(&books.store, "first").await?).await?;
            let took = visible(&books.store, &mut reader, pause, part, seconds).await;
            running.stop().await;
            took
        };
        let yardstick = async || {
            books.clear().await?;
            let (from, over) = (books.store.head().await?, AtomicBool::new(false));
            let mut reader = books.connect().await?;
            let see = async {
                let took = visible(&books.store, &mut reader, pause, part, seconds).await;
                over.store(true, Ordering::Relaxed);
                took
            };
            let (took, kept) = futures::join!(see, keep(&books, from, &over));
            kept.and(took)
        };
        bench.pair(format!("{case}, {BACKGROUND} others append, {how}"), "ms", ours, yardstick).await?;
    }
    Ok(())
}
