//! The yardstick for loads and commands: hand-written SQL on the table that plain appends go into.

use eventstore::{Event, Evolve};
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    domain::{Account, AccountEvent, Outcome, body, deposited},
    peer::{Ids, Worker},
    plain,
};

pub async fn connect(url: &str) -> Outcome<PgConnection> {
    Ok(PgConnection::connect(url).await?)
}

/// All tables, so that nobody's plans depend on when autovacuum came by.
pub async fn analyze(url: &str) -> Outcome<()> {
    sqlx::query("ANALYZE").execute(&mut connect(url).await?).await?;
    Ok(())
}

/// Accounts of so many events each.
pub async fn accounts(url: &str, accounts: usize, events: usize) -> Outcome<Ids> {
    let mut connection = plain::connections(url, 1).await?.remove(0);
    let ids: Vec<_> = (0..accounts).map(|_| Uuid::now_v7()).collect();
    let mut transaction = connection.begin().await?;
    for id in &ids {
        for version in 1..=events {
            insert(&mut transaction, *id, version as i64).await?;
        }
    }
    transaction.commit().await?;
    Ok(Ids(ids.into()))
}

/// An event at a version; a version that is taken is an error.
async fn insert(connection: &mut PgConnection, id: Uuid, version: i64) -> Outcome<()> {
    sqlx::query(
        "INSERT INTO plain.events (version, recorded_at, occurred_at, event_id, type_key, schema, stream, tags, metadata, payload)
         VALUES ($1, now(), now(), $2, 1, 1, $3, '{}', $4, $5)",
    )
    .bind(version)
    .bind(Uuid::now_v7())
    .bind(format!("account-{id}"))
    .bind(&b"{}"[..])
    .bind(body(&deposited(1))?)
    .execute(connection)
    .await?;
    Ok(())
}

/// The account and its version.
async fn fold(connection: &mut PgConnection, id: Uuid) -> Outcome<(Account, i64)> {
    let select = "SELECT version, payload FROM plain.events WHERE stream = $1 ORDER BY version";
    let rows = sqlx::query(select).bind(format!("account-{id}")).fetch_all(connection).await?;
    let (mut account, mut version) = (Account { balance: 0 }, 0);
    for row in rows {
        AccountEvent::decode("account.deposited", 1, row.get(1), &mut |event| account.evolve(event))?;
        version = row.get(0);
    }
    Ok((account, version))
}

pub async fn load(mut worker: Worker<PgConnection>) -> Outcome<Worker<PgConnection>> {
    let id = worker.id();
    let (account, _) = fold(&mut worker.by, id).await?;
    assert_eq!(account.balance, 100);
    Ok(worker)
}

pub async fn deposit(mut worker: Worker<PgConnection>) -> Outcome<Worker<PgConnection>> {
    let id = worker.id();
    let (account, version) = fold(&mut worker.by, id).await?;
    assert!(account.balance > 0);
    insert(&mut worker.by, id, version + 1).await?;
    Ok(worker)
}
