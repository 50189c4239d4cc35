//! A log of many events, and a table of balances made of it: declared, in SQL of one's own, and by hand.

use std::{collections::HashMap, time::Instant};

use eventstore::{BoxError, ImportEvent, PgStore, Position, StoreError, StreamId, prelude::*, sqlx::AssertSqlSafe};
use futures::stream;
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::domain::{AccountEvent, Outcome, deposited};

/// How many accounts there are.
const ACCOUNTS: u64 = 10_000;

/// The declared read model: one row an account.
#[derive(ReadModel, Default, Serialize, Deserialize)]
pub struct Balance {
    pub balance: i64,
    pub deposits: i64,
    pub last: String,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        let AccountEvent::Deposited { amount, reference, .. } = &event.data;
        row.balance += amount;
        row.deposits += 1;
        row.last.clone_from(reference);
    }
}

/// A log in a schema of its own, and what is made of it.
pub struct Books {
    pub url: String,
    pub schema: String,
    pub store: Store,
    /// How many events there are.
    pub events: u64,
}

impl Books {
    /// A log of so many events, each of some account: the choice looks random, and is the same each time.
    pub async fn of(url: &str, schema: &str, events: u64) -> Outcome<Self> {
        let books = Self::open(url, schema).await?;
        let missing = (books.events + 1..=events).map(|n| {
            let key = account(n).to_string();
            ImportEvent::new(StreamId::new("account", &key), Uuid::now_v7(), &deposited(10))
        });
        books.store.import(stream::iter(missing)).await?;
        sqlx::raw_sql("VACUUM (ANALYZE) events").execute(&mut books.connect().await?).await?;
        Ok(Self { events: books.store.head().await?.0, ..books })
    }

    /// The log as it is, with a store of its own, as another process would have.
    pub async fn open(url: &str, schema: &str) -> Outcome<Self> {
        let store = Store::from(PgStore::options().schema(schema).connect(&within(url, schema)).await?);
        let events = store.head().await?.0;
        Ok(Self { url: url.into(), schema: schema.into(), store, events })
    }

    pub async fn connect(&self) -> Outcome<PgConnection> {
        Ok(PgConnection::connect(&within(&self.url, &self.schema)).await?)
    }

    /// Takes away whatever was made of the log, and makes the tables to fill by hand.
    pub async fn clear(&self) -> Outcome<()> {
        sqlx::raw_sql(include_str!("books.sql")).execute(&mut self.connect().await?).await?;
        Ok(())
    }

    /// Refuses a table in which not every event was counted once.
    async fn check(&self, table: &'static str) -> Outcome<()> {
        let sum = AssertSqlSafe(format!("SELECT sum(deposits)::bigint FROM {table}"));
        let counted: i64 = sqlx::query_scalar(sum).fetch_one(&mut self.connect().await?).await?;
        assert_eq!(counted.unsigned_abs(), self.events);
        Ok(())
    }

    /// Lets a runner come to the end of the log, and its rows into this table; how many events a second.
    pub async fn catch_up(&self, runner: impl Fn(Runner) -> Runner, table: &'static str) -> Outcome<f64> {
        self.clear().await?;
        let begin = Instant::now();
        let running = runner(Runner::new(&self.store)).start();
        // It waits for half a minute, and there may be more to do.
        while let Err(error) = running.until(Position(self.events)).await {
            if !matches!(error, StoreError::Behind { .. }) {
                return Err(error.into());
            }
        }
        let rate = self.events as f64 / begin.elapsed().as_secs_f64();
        running.stop().await;
        self.check(table).await?;
        Ok(rate)
    }

    /// The same by hand, read on one connection and written on another.
    pub async fn by_hand(&self, how: ByHand) -> Outcome<f64> {
        self.clear().await?;
        let (mut reader, mut writer) = (self.connect().await?, self.connect().await?);
        let begin = Instant::now();
        let (mut at, mut count) = (0, 0);
        let mut page = page(&mut reader, at, how).await?;
        while let Some(last) = page.last() {
            at = last.get(0);
            // The next page is read while this one is written. One SELECT for all would have the server keep each row
            // that was ever replaced.
            let next = self::page(&mut reader, at, how);
            let (next, written) = futures::join!(next, how.write(&page, &mut writer));
            written?;
            count += page.len();
            page = next?;
        }
        let rate = count as f64 / begin.elapsed().as_secs_f64();
        self.check("by_hand").await?;
        Ok(rate)
    }
}

/// A URL whose connections look for tables in this schema.
fn within(url: &str, schema: &str) -> String {
    format!("{url}&options=-csearch_path%3D{schema}")
}

/// As many events as are taken in together.
async fn page(reader: &mut PgConnection, after: i64, how: ByHand) -> Outcome<Vec<PgRow>> {
    let (ByHand::Upserts { batch } | ByHand::Folded { batch }) = how;
    let select = "SELECT position, stream, payload FROM events WHERE position > $1 ORDER BY position LIMIT $2";
    Ok(sqlx::query(select).bind(after).bind(batch as i64).fetch_all(reader).await?)
}

fn account(n: u64) -> u64 {
    let mixed = (n ^ (n >> 7)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) % ACCOUNTS
}

/// Position, account and event of a row.
pub fn taken(row: &PgRow) -> Outcome<(i64, &str, AccountEvent)> {
    let (position, stream, payload): (i64, &str, &[u8]) = (row.get(0), row.get(1), row.get(2));
    let mut decoded = None;
    AccountEvent::decode("account.deposited", 1, payload, &mut |event| decoded = Some(event))?;
    let (_, key) = stream.split_once('-').ok_or("a stream without a category")?;
    Ok((position, key, decoded.ok_or("an event that is none")?))
}

/// How balances are kept by hand.
#[derive(Clone, Copy)]
pub enum ByHand {
    /// One statement an event, so many in a transaction.
    Upserts { batch: usize },
    /// So many events folded in memory, and written in one statement with the checkpoint.
    Folded { batch: usize },
}

impl ByHand {
    async fn write(self, page: &[PgRow], writer: &mut PgConnection) -> Outcome<()> {
        let Some(last) = page.last() else { return Ok(()) };
        match self {
            Self::Folded { .. } => {
                let mut folded = Folded::default();
                for row in page {
                    let (_, key, event) = taken(row)?;
                    folded.take(key, &event);
                }
                folded.write(writer, Some(last.get(0))).await?;
            }
            Self::Upserts { .. } => {
                sqlx::raw_sql("BEGIN").execute(&mut *writer).await?;
                for row in page {
                    let (_, key, event) = taken(row)?;
                    upsert(key, &event, writer).await?;
                }
                let checkpoint = sqlx::query("UPDATE by_hand_checkpoint SET position = $1").bind(last.get::<i64, _>(0));
                checkpoint.execute(&mut *writer).await?;
                sqlx::raw_sql("COMMIT").execute(writer).await?;
            }
        }
        Ok(())
    }
}

/// Balances by SQL of one's own, into the table that is filled by hand too.
pub struct Upserts;

const UPSERT: &str = "INSERT INTO by_hand AS b (key, balance, deposits, last) VALUES ($1, $2, 1, $3)
    ON CONFLICT (key) DO UPDATE SET balance = b.balance + excluded.balance, deposits = b.deposits + 1, last = excluded.last";

async fn upsert(key: &str, event: &AccountEvent, db: &mut PgConnection) -> Result<(), sqlx::Error> {
    let AccountEvent::Deposited { amount, reference, .. } = event;
    sqlx::query(UPSERT).bind(key).bind(amount).bind(reference).execute(db).await.map(drop)
}

impl Projection for Upserts {
    const NAME: &'static str = "upserts";
    type Event = AccountEvent;
    type Db = sqlx::Postgres;

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
        Ok(upsert(event.stream.key(), &event.data, db).await?)
    }
}

/// The same, a batch in one statement.
pub struct Batches;

impl Projection for Batches {
    const NAME: &'static str = "batches";
    type Event = AccountEvent;
    type Db = sqlx::Postgres;

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
        self.project_batch(&[event], db).await
    }

    async fn project_batch(&self, events: &[&Recorded<AccountEvent>], db: &mut PgConnection) -> Result<(), BoxError> {
        let mut folded = Folded::default();
        for event in events {
            folded.take(event.stream.key(), &event.data);
        }
        Ok(folded.write(db, None).await?)
    }
}

/// What a batch adds to each row.
#[derive(Default)]
pub struct Folded(HashMap<String, (i64, i64, String)>);

impl Folded {
    pub fn take(&mut self, key: &str, AccountEvent::Deposited { amount, reference, .. }: &AccountEvent) {
        if !self.0.contains_key(key) {
            self.0.insert(key.into(), Default::default());
        }
        if let Some((balance, deposits, last)) = self.0.get_mut(key) {
            *balance += amount;
            *deposits += 1;
            last.clone_from(reference);
        }
    }

    /// One statement, and the checkpoint in it.
    pub async fn write(&mut self, db: &mut PgConnection, position: Option<i64>) -> Result<(), sqlx::Error> {
        let (mut keys, mut balances, mut deposits, mut lasts) = (vec![], vec![], vec![], vec![]);
        for (key, (balance, count, last)) in self.0.drain() {
            keys.push(key);
            balances.push(balance);
            deposits.push(count);
            lasts.push(last);
        }
        sqlx::query(
            "WITH checkpoint AS (UPDATE by_hand_checkpoint SET position = $1 WHERE $1 IS NOT NULL)
             INSERT INTO by_hand AS b (key, balance, deposits, last)
             SELECT * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[])
                 ON CONFLICT (key) DO UPDATE
                SET balance = b.balance + excluded.balance, deposits = b.deposits + excluded.deposits, last = excluded.last",
        )
        .bind(position)
        .bind(keys)
        .bind(balances)
        .bind(deposits)
        .bind(lasts)
        .execute(db)
        .await
        .map(drop)
    }
}
