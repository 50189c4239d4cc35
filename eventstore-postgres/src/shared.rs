//! What a store and its clones have in common.

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

    /// The schema of the log.
    pub(crate) fn schema(&self) -> &str {
        self.db.sql.schema()
    }

    /// A connection for single statements. Behind a pooler that forgets them, what they write is rolled back.
    pub(crate) async fn connection(&self) -> Result<Session, StoreError> {
        Session::free(&self.db, &self.notify).await
    }

    /// A transaction whose connection is not lent.
    pub(crate) async fn transaction(&self) -> Result<PgTransaction, StoreError> {
        PgTransaction::begin(&self.db, &self.notify).await
    }
}
