//! What the table of a read model is like.

use std::fmt;

use serde_json::{Value as Json, value::RawValue};

use crate::{
    error::{BoxError, StoreError},
    timestamp::Timestamp,
};

/// A table of rows: what a read model needs of a store.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The name of the read model.
    pub name: &'static str,
    /// The version of the read model.
    pub version: u32,
    /// The columns besides the key.
    pub columns: &'static [Column],
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// A column of a read model, as the derive sees the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name of the field, as it is serialized.
    pub name: &'static str,
    /// What is in it.
    pub kind: Kind,
    /// Whether rows are looked for by it.
    pub index: bool,
}

/// The type of a column. Any of them may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// `text`; SQLite `TEXT`.
    Text,
    /// `bigint`; SQLite `INTEGER`.
    Integer,
    /// `double precision`; SQLite `REAL`.
    Real,
    /// `boolean`; SQLite `BOOLEAN INTEGER`, 0 or 1.
    Bool,
    /// `uuid`; SQLite `UUID TEXT`.
    Uuid,
    /// `timestamptz`; SQLite `TIMESTAMPTZ TEXT`, RFC 3339.
    Time,
    /// `jsonb`; SQLite `JSON TEXT`.
    Json,
}

impl Kind {
    /// The value in the form in which a column of this kind is compared.
    pub(crate) fn compared(self, value: Json) -> Result<Json, Json> {
        match (self, value) {
            (Kind::Json, value) => Err(value),
            (_, Json::Null) => Ok(Json::Null),
            (Kind::Text, value @ Json::String(_)) | (Kind::Bool, value @ Json::Bool(_)) => Ok(value),
            (Kind::Integer, value) if value.is_i64() => Ok(value),
            (Kind::Real, value) => value.as_f64().map(Json::from).ok_or(value),
            (Kind::Uuid, Json::String(text)) => match text.parse::<uuid::Uuid>() {
                Ok(uuid) => Ok(uuid.to_string().into()),
                Err(_) => Err(text.into()),
            },
            (Kind::Time, Json::String(text)) => match text.parse::<Timestamp>() {
                Ok(time) => Ok(time.to_string().into()),
                Err(_) => Err(text.into()),
            },
            (_, value) => Err(value),
        }
    }
}

impl Column {
    /// Whether a row has a value, in the form of [`Kind::compared`], in this column.
    pub(crate) fn has(&self, row: &RawValue, value: &Json) -> bool {
        let row: Json = serde_json::from_str(row.get()).unwrap_or_default();
        let found = row.get(self.name).cloned().unwrap_or_default();
        self.kind.compared(found).is_ok_and(|found| found == *value)
    }
}

impl Table {
    /// Refuses a row that does not fit the columns.
    pub(crate) fn check(&self, row: &RawValue) -> Result<(), StoreError> {
        let refused = |source: BoxError| StoreError::Row { table: self.to_string(), source };
        let row: Json = serde_json::from_str(row.get()).map_err(|error| refused(error.into()))?;
        for column in self.columns.iter().filter(|column| column.kind != Kind::Json) {
            let value = row.get(column.name).cloned().unwrap_or_default();
            column.kind.compared(value).map_err(|value| {
                refused(format!("column `{}` is {:?} and cannot hold {value}", column.name, column.kind).into())
            })?;
        }
        Ok(())
    }
}
