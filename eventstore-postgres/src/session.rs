//! Connections of the pool for single statements.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use eventstore_core::StoreError;
use sqlx::{PgConnection, Postgres, pool::PoolConnection};
use tokio::runtime::Handle;

use crate::{db::Db, error, notify::Notify, pooler::Pooler, transaction::PgTransaction};

/// A connection for single statements. Where a statement is prepared in one session and run in another, it is in a
/// transaction, which holds the session; it is rolled back when this is dropped, so nothing is to be written by it.
pub(crate) enum Session {
    Plain(PoolConnection<Postgres>, u64),
    Held(Option<PgTransaction>),
}

impl Session {
    pub(crate) async fn free(db: &Arc<Db>, notify: &Arc<Notify>) -> Result<Self, StoreError> {
        if db.pooler == Pooler::Forgetful {
            return Ok(Self::Held(Some(PgTransaction::begin(db, notify).await?)));
        }
        let (connection, server) = db.pooled().await.map_err(error::store)?;
        Ok(Self::Plain(connection, server))
    }

    /// Which server it leads to.
    pub(crate) fn server(&self) -> u64 {
        match self {
            Self::Plain(_, server) => *server,
            Self::Held(transaction) => transaction.as_ref().map_or(0, PgTransaction::server),
        }
    }

    /// Not for another operation: the defaults of its session are not what they should be.
    pub(crate) fn close(&mut self) {
        if let Self::Plain(connection, _) = self {
            connection.close_on_drop();
        }
    }
}

const HELD: &str = "there until it is dropped";

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Plain(connection, _) => connection,
            Self::Held(transaction) => transaction.as_ref().expect(HELD),
        }
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Plain(connection, _) => connection,
            Self::Held(transaction) => transaction.as_mut().expect(HELD).connection(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Self::Held(transaction) = self else { return };
        // No caller waits for it. Without a runtime, or if it fails, the connection is closed.
        if let (Some(transaction), Ok(runtime)) = (transaction.take(), Handle::try_current()) {
            runtime.spawn(transaction.rollback());
        }
    }
}
