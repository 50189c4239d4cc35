//! Read models: one row for each key, folded from events.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value as Json, value::RawValue};

use crate::{
    contract::{Changes, Item, Query},
    error::{BoxError, StoreError},
    event::{Event, Raw, Recorded, Tag},
    invalid::Invalid,
    json,
    table::{Column, Kind, Table},
};

/// The effect of events on a row.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what events do to its rows",
    label = "no `impl Project for {Self}`"
)]
pub trait Project: Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The events of the read model.
    type Event: Event;

    /// Applies an event to one row it concerns. Pure: the same events make the same rows.
    fn project(row: &mut Row<Self>, event: &Recorded<Self::Event>);
}

/// A table of rows, kept in step with the log by a `Runner`. Derive it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a read model",
    label = "not a read model",
    note = "add `#[derive(ReadModel)]` to `{Self}`"
)]
pub trait ReadModel: Project {
    /// The name of the table and of the checkpoint: with the version, `balance@1`.
    const NAME: &'static str;
    /// Raise it when all rows must be made anew; the new table is built beside the old one.
    const VERSION: u32 = 1;
    /// Which rows an event concerns.
    const KEYS: Keys<Self::Event> = Keys::Stream;
    /// The columns, besides the key.
    const COLUMNS: &'static [Column];
    /// The table of this version.
    const TABLE: Table = Table { name: Self::NAME, version: Self::VERSION, columns: Self::COLUMNS, shadow: false };
}

fn column<M: ReadModel>(name: &str) -> Result<&'static Column, Invalid> {
    let column = M::COLUMNS.iter().find(|column| column.name == name);
    column.ok_or_else(|| Invalid::Request(format!("`{}` has no column `{name}`", M::NAME)))
}

/// Returns a column to order rows by. Fails with [`Invalid::Request`] if there is no such column, or if it has no
/// order.
pub(crate) fn ordered<M: ReadModel>(name: &str) -> Result<&'static Column, Invalid> {
    let refused = || Invalid::Request(format!("column `{name}` of `{}` is jsonb and has no order", M::NAME));
    Some(column::<M>(name)?).filter(|column| column.kind != Kind::Json).ok_or_else(refused)
}

/// Returns a column and a value to compare it with. Fails with [`Invalid::Request`] if there is no such column, or if
/// it cannot hold the value.
pub(crate) fn equal<M: ReadModel>(name: &str, value: Json) -> Result<(&'static Column, Json), Invalid> {
    let column = column::<M>(name)?;
    // Without the value, which may be personal data.
    let refused = |value: Json| {
        let (kind, value) = (column.kind, json_type(&value));
        Invalid::Request(format!(
            "column `{name}` of `{}` is {kind} and cannot hold the {value} it is compared with",
            M::NAME
        ))
    };
    Ok((column, column.kind.compared(value).map_err(refused)?))
}

fn json_type(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "text",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// Returns a column with an order, and a value to compare it with. Fails with [`Invalid::Request`] as [`ordered`] and
/// [`equal`], and if the value is null.
pub(crate) fn compared<M: ReadModel>(name: &str, value: Json) -> Result<(&'static Column, Json), Invalid> {
    ordered::<M>(name)?;
    let (column, value) = equal::<M>(name, value)?;
    match value.is_null() {
        true => Err(Invalid::Request(format!("column `{name}` of `{}` cannot be less or greater than null", M::NAME))),
        false => Ok((column, value)),
    }
}

/// Which rows an event concerns.
pub enum Keys<E: 'static> {
    /// The row with the key of the event's stream. The default; all events must be in streams of one category.
    Stream,
    /// One row for each tag of this name: `#[read_model(tag = "student")]`.
    Tag(&'static str),
    /// The rows whose keys a function returns: `#[read_model(keys = per_day)]`.
    By(fn(&Recorded<E>) -> Vec<String>),
}

/// A row that may not exist yet. Reading it then reads `Default`; writing to it makes the row.
#[derive(Clone, Debug)]
pub struct Row<M> {
    key: String,
    row: M,
    there: bool,
    /// Whether the table has it.
    stored: bool,
    changed: bool,
}

impl<M: Default> Row<M> {
    fn new(key: String, row: Option<M>) -> Self {
        let there = row.is_some();
        Self { key, row: row.unwrap_or_default(), there, stored: there, changed: false }
    }

    /// The key of the row.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether the row exists.
    pub fn exists(&self) -> bool {
        self.there
    }

    /// Removes the row. Writing to it afterwards makes a new one.
    pub fn delete(&mut self) {
        (self.row, self.there, self.changed) = (M::default(), false, true);
    }

    fn get(&self) -> Option<&M> {
        self.there.then_some(&self.row)
    }
}

impl<M> Deref for Row<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.row
    }
}

impl<M> DerefMut for Row<M> {
    fn deref_mut(&mut self) -> &mut M {
        (self.there, self.changed) = (true, true);
        &mut self.row
    }
}

/// Folds events into rows, for processors, queries of the past and tests.
pub struct RowFold<M> {
    /// The table that the changes are written to.
    table: Table,
    rows: HashMap<String, Row<M>>,
    /// If set, only the row of this key is kept.
    only: Option<String>,
    /// The category of the first event, which all events must be of if keys come from the stream.
    category: Option<String>,
}

impl<M: ReadModel> Default for RowFold<M> {
    fn default() -> Self {
        Self { table: M::TABLE, rows: HashMap::new(), only: None, category: None }
    }
}

impl<M: ReadModel> RowFold<M> {
    /// Returns a fold whose changes go to this table.
    pub fn of(table: Table) -> Self {
        Self { table, ..Self::default() }
    }

    /// Folds one row and forgets the others.
    pub fn only(key: &str) -> Self {
        Self { only: Some(key.into()), ..Self::default() }
    }

    /// Returns a query for the events that may concern a row: by the stream or the tag if keys come from there, else
    /// all events.
    pub fn events_of(key: &str) -> Query {
        let mut item = Item::names(M::Event::NAMES);
        match M::KEYS {
            Keys::Stream => item.key = Some(key.into()),
            Keys::Tag(name) => item.tags = vec![Tag::new(name, key)],
            Keys::By(_) => {}
        }
        item.into()
    }

    /// Applies an event to the rows it concerns. Calls `each` with every event it is decoded as that concerns a row.
    /// Fails with [`StoreError::Unreadable`] if the event cannot be decoded, and as [`keys`](Self::keys).
    pub fn apply(
        &mut self,
        raw: &Recorded<Raw>,
        mut each: impl FnMut(&Self, Recorded<M::Event>),
    ) -> Result<(), StoreError> {
        let events = raw.decode().map_err(|source| StoreError::unreadable(raw, source))?;
        let keys = events.iter().map(|event| self.keys(raw, event)).collect::<Result<Vec<_>, _>>()?;
        for (event, keys) in events.into_iter().zip(keys).filter(|(_, keys)| !keys.is_empty()) {
            keys.iter().for_each(|key| self.project(key, &event));
            each(self, event);
        }
        Ok(())
    }

    /// Returns the keys of the rows an event concerns, each once, in order. Fails with [`StoreError::Row`] if a key
    /// breaks the rules for keys, and as [`known`](Self::known).
    pub fn keys(&mut self, raw: &Recorded<Raw>, event: &Recorded<M::Event>) -> Result<Vec<String>, StoreError> {
        let mut keys = match (self.known(raw)?, M::KEYS) {
            (Some(keys), _) => keys,
            (None, Keys::By(keys)) => keys(event),
            (None, _) => vec![],
        };
        keys.iter().try_for_each(|key| M::TABLE.check_key(key))?;
        if let Some(only) = &self.only {
            keys.retain(|key| key == only);
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// Returns the keys of the rows an event concerns if they are known before it is decoded: `None` if a function
    /// returns them, or if the stream or the tags are damaged. Fails with [`StoreError::Stopped`] if the keys are those
    /// of streams of more than one category.
    pub fn known(&mut self, raw: &Recorded<Raw>) -> Result<Option<Vec<String>>, StoreError> {
        Ok(match M::KEYS {
            // The stream or the tags that the keys come from cannot be read.
            Keys::Stream if !raw.stream.is_whole() => None,
            Keys::Tag(_) if raw.is_damaged() => None,
            Keys::Stream => {
                let category = raw.stream.category();
                let first = self.category.get_or_insert_with(|| category.into());
                if first != category {
                    let reason =
                        format!("its events are in streams of `{first}` and of `{category}`: say `keys` or `tag`");
                    return Err(StoreError::Stopped { projection: M::TABLE.to_string(), reason: reason.into() });
                }
                Some(vec![raw.stream.key().into()])
            }
            Keys::Tag(name) => {
                let tags = raw.data.tags.iter().filter(|tag| tag.name == name);
                Some(tags.map(|tag| tag.key.clone()).collect())
            }
            Keys::By(_) => None,
        })
    }

    /// Adds a row of the table. Fails with [`StoreError::Row`] if it cannot be read.
    pub fn load(&mut self, key: String, row: &RawValue) -> Result<(), StoreError> {
        let row = read_row::<M>(row)?;
        self.rows.insert(key.clone(), Row::new(key, Some(row)));
        Ok(())
    }

    /// Applies an event to one of the rows it concerns.
    pub fn project(&mut self, key: &str, event: &Recorded<M::Event>) {
        if !self.rows.contains_key(key) {
            self.rows.insert(key.into(), Row::new(key.into(), None));
        }
        let row = self.rows.get_mut(key).expect("put in a moment ago");
        M::project(row, event);
        if !row.there && !row.stored {
            self.rows.remove(key);
        }
    }

    /// Fails with [`StoreError::Row`] if a row has changed into one that the table cannot hold.
    pub fn check(&self, key: &str) -> Result<(), StoreError> {
        match self.rows.get(key).filter(|row| row.changed).and_then(Row::get) {
            Some(row) => M::TABLE.check(key, &write_row(row)?),
            None => Ok(()),
        }
    }

    /// Returns the changes that bring the table up to date, ordered by key, and removes all rows from memory. Fails
    /// with [`StoreError::Row`] if the table cannot hold a row.
    pub fn changes(&mut self) -> Result<Changes, StoreError> {
        let mut rows: Vec<_> = self.rows.drain().map(|(_, row)| row).filter(|row| row.changed).collect();
        rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut changes = Changes { table: self.table, upserts: vec![], deletes: vec![] };
        for row in rows {
            match row.get() {
                Some(_) => changes.upserts.push((row.key, write_row(&row.row)?)),
                None => changes.deletes.push(row.key),
            }
        }
        changes.check()?;
        Ok(changes)
    }

    /// Returns the row of a key.
    pub fn get(&self, key: &str) -> Option<&M> {
        self.rows.get(key).and_then(Row::get)
    }

    /// Returns all rows with their keys, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &M)> {
        self.rows.values().filter_map(|row| Some((row.key(), row.get()?)))
    }

    pub(crate) fn keys_in_order(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.rows.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<M> {
        self.rows.remove(key).filter(|row| row.there).map(|row| row.row)
    }
}

fn row_error<M: ReadModel>(reason: impl Into<BoxError>) -> StoreError {
    StoreError::Row { table: M::TABLE.to_string(), reason: reason.into() }
}

pub(crate) fn read_row<M: ReadModel>(row: &RawValue) -> Result<M, StoreError> {
    serde_json::from_str(row.get()).map_err(row_error::<M>)
}

pub(crate) fn write_row<M: ReadModel>(row: &M) -> Result<Box<RawValue>, StoreError> {
    json::encode_raw(row).map_err(row_error::<M>)
}
