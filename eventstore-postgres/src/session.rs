//! Connections of the pool for single statements.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use eventstore_core::StoreError;
use sqlx::{PgConnection, Postgres, pool::PoolConnection};
use tokio::runtime::Handle;

use crate::{db::Db, error, notify::Notify, pooler::Pooler, transaction::PgTransaction};

/// A connection for single statements. Behind a pooler that may prepare a statement in one session and run it in
/// another, the connection is in a transaction, which keeps the session. The transaction is rolled back when this is
/// dropped, so the statements must not write.
pub(crate) enum Session {
    Plain(PoolConnection<Postgres>, u64),
    Held(Option<PgTransaction>),
}

impl Session {
    pub(crate) async fn acquire(db: &Arc<Db>, notify: &Arc<Notify>) -> Result<Self, StoreError> {
        if db.pooler == Pooler::Forgetful {
            return Ok(Self::Held(Some(PgTransaction::begin(db, notify).await?)));
        }
        let (connection, server) = db.pooled().await.map_err(error::store)?;
        Ok(Self::Plain(connection, server))
    }

    /// Returns the server that the connection leads to.
    pub(crate) fn server(&self) -> u64 {
        match self {
            Self::Plain(_, server) => *server,
            Self::Held(transaction) => transaction.as_ref().map_or(0, PgTransaction::server),
        }
    }

    /// Closes the connection when this is dropped, because its session has unsuitable defaults.
    pub(crate) fn close(&mut self) {
        if let Self::Plain(connection, _) = self {
            connection.close_on_drop();
        }
    }
}

const HELD: &str = "the transaction is taken only by drop";

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
        // No caller waits for the rollback. Without a runtime, or if it fails, the connection is closed.
        if let (Some(transaction), Ok(runtime)) = (transaction.take(), Handle::try_current()) {
            runtime.spawn(transaction.rollback());
        }
    }
}
