//! The state that a store and its clones share.

use std::sync::Arc;

use eventstore_core::StoreError;

use crate::{
    connections::Connections, db::Db, listen::Listener, notify::Notify, session::Session, sql::Sql,
    transaction::PgTransaction, writer::Writer,
};

pub(crate) struct Shared {
    pub(crate) db: Arc<Db>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) notify: Arc<Notify>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) writer: Arc<Writer>,
}

impl Shared {
    pub(crate) fn sql(&self) -> &Sql {
        &self.db.sql
    }

    /// Returns the schema of the log.
    pub(crate) fn schema(&self) -> &str {
        self.db.sql.schema()
    }

    /// Returns a connection for single statements. Behind a forgetful pooler, what they write is rolled back.
    pub(crate) async fn connection(&self) -> Result<Session, StoreError> {
        Session::acquire(&self.db, &self.notify).await
    }

    /// Begins a transaction whose connection is not lent.
    pub(crate) async fn transaction(&self) -> Result<PgTransaction, StoreError> {
        PgTransaction::begin(&self.db, &self.notify).await
    }
}
