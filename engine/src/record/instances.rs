//! Where the instances of a process are stored, so that they can be removed by a program without its code.

use eventstore_core::{Changes, StoreError, Table, Transaction, engine::interned};

/// Where the instances of a process are stored.
#[derive(Clone, Debug)]
pub enum InstanceStorage {
    /// In a table of their own.
    Table(Table),
    /// In one row of a table that others use too, under a key.
    Row(Table, String),
}

impl InstanceStorage {
    /// Returns it as it is stored in the row of the processor. No name of a table has a space.
    pub(crate) fn stored(&self) -> String {
        match self {
            Self::Table(table) => table.to_string(),
            Self::Row(table, key) => format!("{table} {key}"),
        }
    }
}

/// Removes the instances of a process, given where they are as it is [stored](InstanceStorage::stored).
pub(crate) async fn remove(transaction: &mut dyn Transaction, stored: &str) -> Result<(), StoreError> {
    let Some((table, key)) = stored.split_once(' ') else { return transaction.remove(stored).await };
    let table = Table { name: interned(table.into()), version: 0, columns: &[], shadow: false };
    // Others change such a table under this lock alone.
    transaction.hold(vec![], None).await?;
    transaction.write(Changes { table, upserts: vec![], deletes: vec![key.into()] }).await
}
