//! The tables in memory, and the shards.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::value::{RawValue, to_raw_value};

use crate::{
    engine::shard::{Checkpoint, Shard},
    error::StoreError,
    table::{Column, Rows, Table},
};

/// The tables, by name.
#[derive(Default)]
pub(super) struct MemoryTables(pub(super) HashMap<String, MemoryTable>);

impl MemoryTables {
    pub(super) fn named(&self, table: &str) -> Result<&MemoryTable, StoreError> {
        self.0.get(table).ok_or_else(|| StoreError::NotBuilt { table: table.into() })
    }

    pub(super) fn table(&self, wanted: &Table) -> Result<&MemoryTable, StoreError> {
        let table = wanted.to_string();
        match self.0.get(&table) {
            Some(there) => match there.lacks(wanted)?[..] {
                [] => Ok(there),
                _ => Err(wanted.misfit(&table)),
            },
            None => Err(StoreError::NotBuilt { table }),
        }
    }

    /// Returns rows as they are committed, with the changes of an open transaction on top.
    pub(super) fn rows(&self, rows: &Rows, changed: &Changed) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let (name, stored) = match rows {
            Rows::Keys { table, .. } | Rows::Where { table, .. } => {
                let there = self.named(&table.to_string())?;
                // A column that the table lacks is null in every row.
                there.lacks(table)?;
                (table.to_string(), there)
            }
            Rows::Whole { table, .. } => (table.clone(), self.named(table)?),
        };
        let (stored, changed) = (&stored.rows, changed.get(&name));
        let row = |key: &String| match changed.and_then(|changed| changed.get(key)) {
            Some(row) => row.as_ref(),
            None => stored.get(key),
        };
        let found = |key: &String| row(key).map(|row| (key.clone(), row.clone()));
        Ok(match rows {
            Rows::Keys { keys, .. } => keys.iter().collect::<BTreeSet<_>>().into_iter().filter_map(found).collect(),
            Rows::Where { equal, order, limit, .. } => {
                let keys: BTreeSet<_> = stored.keys().chain(changed.into_iter().flat_map(BTreeMap::keys)).collect();
                let wanted = |(_, row): &(_, Box<RawValue>)| equal.iter().all(|(column, value)| column.has(row, value));
                let found = keys.into_iter().filter_map(found).filter(wanted).collect();
                let sorted = order.sort(found, |(_, row)| Ok(row.clone()))?;
                sorted.into_iter().skip(order.skip).take(limit.unwrap_or(usize::MAX)).collect()
            }
            Rows::Whole { keys: only, after, limit, .. } => {
                let keys: BTreeSet<_> = stored.keys().chain(changed.into_iter().flat_map(BTreeMap::keys)).collect();
                let wanted = |key: &&String| *key > after && (only.is_empty() || only.contains(key));
                keys.into_iter().filter(wanted).filter_map(found).take(*limit).collect()
            }
        })
    }
}

pub(super) struct MemoryTable {
    pub(super) columns: &'static [Column],
    pub(super) rows: BTreeMap<String, Box<RawValue>>,
}

impl MemoryTable {
    /// Returns the columns that the table lacks. Fails with [`StoreError::Columns`] if adding them does not make it
    /// fit.
    pub(super) fn lacks(&self, table: &Table) -> Result<Vec<&'static Column>, StoreError> {
        let wanted = |name| table.columns.iter().find(|column| column.name == name);
        let same = |old: &Column| wanted(old.name).is_none_or(|column| column.kind == old.kind);
        table.lacks(&table.to_string(), &self.columns.iter().map(|old| (old.name, same(old))).collect::<Vec<_>>())
    }

    /// Returns a row with the values of the columns that the program which writes it does not know, from the row
    /// before.
    pub(super) fn with_others(
        &self,
        table: &Table,
        before: Option<&RawValue>,
        row: Box<RawValue>,
    ) -> Result<Box<RawValue>, StoreError> {
        let is_other = |name: &str| table.columns.iter().all(|column| column.name != name);
        let Some(before) = before.filter(|_| self.columns.iter().any(|column| is_other(column.name))) else {
            return Ok(row);
        };
        let merged = || {
            let mut merged: BTreeMap<&str, &RawValue> = serde_json::from_str(before.get())?;
            merged.retain(|name, _| is_other(name));
            merged.extend(serde_json::from_str::<BTreeMap<&str, &RawValue>>(row.get())?);
            to_raw_value(&merged)
        };
        merged().map_err(|reason| StoreError::Row { table: table.to_string(), reason: reason.into() })
    }
}

/// The rows that a transaction has written, by table and key; `None`: deleted.
pub(super) type Changed = HashMap<String, BTreeMap<String, Option<Box<RawValue>>>>;

pub(super) fn shards(all: &BTreeMap<Shard, Checkpoint>, projection: Option<&str>) -> Vec<(Shard, Checkpoint)> {
    let wanted = all.iter().filter(|(shard, _)| projection.is_none_or(|projection| projection == shard.projection));
    wanted.map(|(shard, checkpoint)| (shard.clone(), *checkpoint)).collect()
}
