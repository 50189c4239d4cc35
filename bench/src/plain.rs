//! The yardstick: a table of the same layout with the same indexes, positions from a sequence, and hand-written SQL.

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::domain::{self, Outcome};

/// A connection for each writer, and the table.
pub async fn connections(url: &str, writers: usize) -> Outcome<Vec<PgConnection>> {
    let mut connections = vec![];
    for _ in 0..writers {
        connections.push(PgConnection::connect(url).await?);
    }
    sqlx::raw_sql(include_str!("plain.sql")).execute(&mut connections[0]).await?;
    Ok(connections)
}

/// One event into a stream of its own: no lock, no check, one statement.
pub async fn insert(mut connection: PgConnection) -> Outcome<PgConnection> {
    let stream = format!("account-{}", Uuid::now_v7());
    sqlx::query(
        "INSERT INTO plain.events (version, recorded_at, occurred_at, event_id, type_key, schema, stream, tags, metadata, payload)
         VALUES (1, now(), now(), $1, 1, 1, $2, '{}', $3, $4)",
    )
    .bind(Uuid::now_v7())
    .bind(stream)
    .bind(&b"{}"[..])
    .bind(domain::body(&domain::deposited(10))?)
    .execute(&mut connection)
    .await?;
    Ok(connection)
}
