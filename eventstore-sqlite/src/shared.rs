//! What a store, its clones and its transactions have in common: above all the one connection that writes.

use std::{sync::Arc, time::Duration};

use eventstore_core::{Position, StoreError, testing::Clock};
use sqlx::{SqliteConnection, SqlitePool};
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};

use crate::error;

/// How often to ask for the write lock of the file again, after the busy time-out.
const ATTEMPTS: u32 = 4;

pub(crate) struct Shared {
    pub(crate) writer: Arc<Mutex<Writer>>,
    pub(crate) readers: SqlitePool,
    /// The last position known to be recorded.
    pub(crate) head: watch::Sender<Position>,
    pub(crate) clock: Clock,
}

/// The one connection that writes.
pub(crate) struct Writer {
    pub(crate) connection: SqliteConnection,
    /// Whether a transaction may be open on it.
    pub(crate) open: bool,
}

impl Writer {
    async fn run(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut self.connection).await.map(drop)
    }

    pub(crate) async fn rollback(&mut self) {
        // An error says that there is no transaction: it is gone already, as it shall be.
        let _ = self.run("ROLLBACK").await;
        self.open = false;
    }

    pub(crate) async fn begin(&mut self) -> Result<(), StoreError> {
        if self.open {
            self.rollback().await;
        }
        self.open = true;
        let mut attempt = 0;
        loop {
            // IMMEDIATE: a read that becomes a write could fail half-way.
            match self.run("BEGIN IMMEDIATE").await {
                Err(error) if error::busy(&error) && attempt < ATTEMPTS => attempt += 1,
                result => return result.map_err(error::store),
            }
            // Other processes wait for the same file: a little apart, so that they do not meet again.
            sleep(Duration::from_millis(u64::from(std::process::id() % 16 + attempt))).await;
        }
    }

    pub(crate) async fn commit(&mut self) -> Result<(), StoreError> {
        let result = self.run("COMMIT").await;
        if result.is_err() {
            self.rollback().await;
        }
        self.open = false;
        result.map_err(error::store)
    }
}
