//! Reads and changes the row of a schedule, while no other caller or node changes it.
//!
//! All who write to the table keep others from appending meanwhile: callers by this lock alone, nodes by the lock of
//! their shard and then by this one, which is the order in which all locks are taken. So a caller can change a row in a
//! transaction of its own that has appended already.

use eventstore_core::{Changes, EventStore, Rows, Store, StoreError, Transaction, Tx};

use super::table::{Row, TABLE};

/// Where a schedule is changed.
#[derive(Clone)]
pub enum Place<'a> {
    /// In a transaction of its own.
    Store(Store),
    /// In a transaction of the caller.
    Tx(&'a Tx),
}

impl Place<'_> {
    /// Returns the store without what is kept up to date with each append; in a transaction, that of the transaction.
    pub fn store(&self) -> &Store {
        match self {
            Self::Store(store) => store,
            Self::Tx(tx) => tx,
        }
    }

    /// Changes the row of a schedule: `change` gets it as it is and returns the row to be written, if there is one, and
    /// what this call returns. Fails with [`StoreError::NotBuilt`] if there is no table yet.
    pub async fn change<T>(
        &self,
        id: &str,
        change: impl FnOnce(Option<Row>) -> Result<(Option<Row>, T), StoreError> + Send,
    ) -> Result<T, StoreError> {
        match self {
            Self::Store(store) => {
                let mut transaction = store.as_ref().begin().await?;
                match changed(&mut *transaction, id, change).await {
                    Ok((true, done)) => {
                        transaction.commit().await?;
                        Ok(done)
                    }
                    Ok((false, done)) => {
                        transaction.rollback().await?;
                        Ok(done)
                    }
                    Err(error) => {
                        // Dropping it would roll it back too, a moment later.
                        let _ = transaction.rollback().await;
                        Err(error)
                    }
                }
            }
            Self::Tx(tx) => {
                tx.hold().await?;
                let (row, done) = change(read(tx.as_ref().rows(wanted(id)).await?)?)?;
                if let Some(row) = row {
                    tx.write(written(vec![(id.into(), row)])?).await?;
                }
                Ok(done)
            }
        }
    }
}

/// As [`Place::change`], in a transaction that was just begun. Returns also whether anything was written.
async fn changed<T>(
    transaction: &mut dyn Transaction,
    id: &str,
    change: impl FnOnce(Option<Row>) -> Result<(Option<Row>, T), StoreError> + Send,
) -> Result<(bool, T), StoreError> {
    transaction.hold(vec![], None).await?;
    let (row, done) = change(read(transaction.rows(wanted(id)).await?)?)?;
    let Some(row) = row else { return Ok((false, done)) };
    transaction.write(written(vec![(id.into(), row)])?).await?;
    Ok((true, done))
}

/// Returns a request for the row of a schedule.
pub fn wanted(id: &str) -> Rows {
    Rows::Keys { table: TABLE, keys: vec![id.into()] }
}

/// Reads the one row that was asked for.
pub fn read(rows: Vec<(String, Box<serde_json::value::RawValue>)>) -> Result<Option<Row>, StoreError> {
    rows.first().map(|(_, row)| Row::read(row)).transpose()
}

/// Returns the changes that write rows.
pub fn written(rows: Vec<(String, Row)>) -> Result<Changes, StoreError> {
    let upserts = rows.into_iter().map(|(id, row)| Ok((id, row.written()?)));
    Ok(Changes { table: TABLE, upserts: upserts.collect::<Result<_, StoreError>>()?, deletes: vec![] })
}

/// Makes the table, unless it is there.
pub async fn prepare(store: &dyn EventStore) -> Result<(), StoreError> {
    store.create(&TABLE).await?;
    store.index(&TABLE).await
}
