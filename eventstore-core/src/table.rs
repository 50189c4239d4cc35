//! The table of a read model: its columns, rows and order.

use std::{cmp::Ordering, fmt};

use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value as Json, value::RawValue};

use crate::{
    error::{BoxError, StoreError},
    invalid::Invalid,
    limits,
    timestamp::Timestamp,
};

/// A table of rows: what a read model needs of a store.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The name of the read model.
    pub name: &'static str,
    /// The version of the read model; 0 for a table of the framework.
    pub version: u32,
    /// The columns besides the key.
    pub columns: &'static [Column],
    /// Whether this is the shadow of the table of that name: built while the table is read, or kept for a rollback.
    pub shadow: bool,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            0 => f.write_str(self.name)?,
            version => write!(f, "{}@{version}", self.name)?,
        }
        f.write_str(if self.shadow { SHADOW } else { "" })
    }
}

/// How JSON writes U+0000.
const NUL: &str = "\\u0000";

/// The suffix of a shadow's name.
#[doc(hidden)]
pub const SHADOW: &str = "~shadow";

/// A column of a read model, as the derive sees the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name of the field, as it is serialized.
    pub name: &'static str,
    /// The type of its values.
    pub kind: Kind,
    /// Whether it has an index.
    pub index: bool,
    /// Whether a row may lack it: an `Option`. Such a column may be added to an existing table.
    pub optional: bool,
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

/// As in the attribute `#[read_model(column = "…")]`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Text => "text",
            Kind::Integer => "bigint",
            Kind::Real => "double precision",
            Kind::Bool => "boolean",
            Kind::Uuid => "uuid",
            Kind::Time => "timestamptz",
            Kind::Json => "jsonb",
        })
    }
}

impl Kind {
    /// Returns a value in the form in which a column of this kind is compared; fails with the value if such a column
    /// cannot hold it or has no order.
    pub(crate) fn compared(self, value: Json) -> Result<Json, Json> {
        match (self, value) {
            (Kind::Json, value) => Err(value),
            (_, Json::Null) => Ok(Json::Null),
            (Kind::Text, Json::String(text)) if !text.contains('\0') => Ok(Json::String(text)),
            (Kind::Bool, value @ Json::Bool(_)) => Ok(value),
            (Kind::Integer, value) if value.is_i64() => Ok(value),
            (Kind::Real, value) => value.as_f64().map(Json::from).ok_or(value),
            (Kind::Uuid, Json::String(text)) => match text.parse::<uuid::Uuid>() {
                Ok(uuid) => Ok(uuid.to_string().into()),
                Err(_) => Err(text.into()),
            },
            (Kind::Time, Json::String(text)) => match text.parse::<Timestamp>() {
                // PostgreSQL writes years before the year 1 in another form.
                Ok(time) if time >= Timestamp::YEAR_ONE => Ok(time.to_string().into()),
                _ => Err(text.into()),
            },
            (_, value) => Err(value),
        }
    }

    /// Whether the text of JSON alone shows that the value is of this kind. `false` does not mean that it is not.
    fn plainly_holds(self, json: &str) -> bool {
        match self {
            _ if json == "null" => true,
            Self::Text => json.starts_with('"') && !json.contains(NUL),
            Self::Integer => json.parse::<i64>().is_ok_and(|number| number != 0 || json == "0"),
            Self::Bool => json == "true" || json == "false",
            Self::Json => !json.contains(NUL),
            Self::Real | Self::Uuid | Self::Time => false,
        }
    }
}

impl Column {
    /// Returns a column that every row has, without an index.
    pub const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, index: false, optional: false }
    }

    /// Returns a column that a row may lack.
    pub const fn optional(name: &'static str, kind: Kind) -> Self {
        Self { optional: true, ..Self::new(name, kind) }
    }

    /// Whether a row has a value, in the form of [`Kind::compared`], in this column.
    pub(crate) fn has(&self, row: &RawValue, value: &Json) -> bool {
        self.value(row) == Some(value.clone())
    }

    /// Returns the value of a row in this column, in the form of [`Kind::compared`]; `None` if the value has no such
    /// form.
    pub(crate) fn value(&self, row: &RawValue) -> Option<Json> {
        let mut row: Json = serde_json::from_str(row.get()).unwrap_or_default();
        self.kind.compared(row.get_mut(self.name).map(Json::take).unwrap_or_default()).ok()
    }

    /// Compares two values; null is last in both directions.
    pub(crate) fn compare(&self, a: &Option<Json>, b: &Option<Json>, descending: bool) -> Ordering {
        let there = |value: &Option<Json>| value.clone().filter(|value| !value.is_null());
        let (a, b) = match (there(a), there(b)) {
            (Some(a), Some(b)) => (a, b),
            (a, b) => return a.is_none().cmp(&b.is_none()),
        };
        let order = match self.kind {
            Kind::Integer => a.as_i64().cmp(&b.as_i64()),
            Kind::Real => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
            Kind::Bool => a.as_bool().cmp(&b.as_bool()),
            Kind::Time => {
                let time = |value: &Json| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
                time(&a).cmp(&time(&b))
            }
            _ => a.as_str().cmp(&b.as_str()),
        };
        if descending { order.reverse() } else { order }
    }
}

impl Table {
    /// Returns the error for a table that has this name in the database and other columns.
    #[doc(hidden)]
    pub fn misfit(&self, name: &str) -> StoreError {
        match self.version {
            0 => StoreError::Schema(format!(
                "table `{name}` has other columns than the table of this library with that name: rename it if it is not \
                 of this library"
            )),
            _ => StoreError::Columns { table: name.into() },
        }
    }

    /// Returns the columns that a table with the columns `there` lacks and that may be added to it. Fails with
    /// [`misfit`](Self::misfit) if a column that is not optional is missing, if one has another type, or if a column is
    /// missing while the table has another one, since it may have been renamed. `name` is the table's in the database.
    #[doc(hidden)]
    pub fn lacks(&self, name: &str, there: &[(&str, bool)]) -> Result<Vec<&'static Column>, StoreError> {
        let found = |column: &&Column| there.iter().find(|(name, _)| *name == column.name);
        let (had, lacking): (Vec<_>, Vec<_>) = self.columns.iter().partition(|column| found(column).is_some());
        let fit = had.iter().all(|column| found(column).is_some_and(|(_, same)| *same));
        let addable = lacking.iter().all(|column| column.optional) && (lacking.is_empty() || had.len() == there.len());
        match fit && addable {
            true => Ok(lacking),
            false => Err(self.misfit(name)),
        }
    }

    /// Fails with [`StoreError::Row`] if a key breaks the rules for keys.
    #[doc(hidden)]
    pub fn check_key(&self, key: &str) -> Result<(), StoreError> {
        let refused = |reason: Invalid| StoreError::Row { table: self.to_string(), reason: reason.into() };
        limits::name("row key", key).map_err(refused)
    }

    /// Fails with [`StoreError::Row`] if a row does not fit the columns, or if no database could hold it.
    pub(crate) fn check(&self, key: &str, row: &RawValue) -> Result<(), StoreError> {
        self.check_key(key)?;
        if serde_json::Deserializer::from_str(row.get()).deserialize_map(Fields(self)).unwrap_or(false) {
            return Ok(());
        }
        let refused = |reason: BoxError| StoreError::Row { table: self.to_string(), reason };
        let mut row: Json = serde_json::from_str(row.get()).map_err(|error| refused(error.into()))?;
        for Column { name, kind, .. } in self.columns {
            let value = row.get_mut(name).map(Json::take).unwrap_or_default();
            let bad = match kind {
                _ if has_nul(&value) => "U+0000".into(),
                Kind::Json => continue,
                kind => match kind.compared(value) {
                    Ok(_) => continue,
                    Err(value) => value.to_string(),
                },
            };
            return Err(refused(format!("column `{name}` of row `{key}` is {kind} and cannot hold {bad}").into()));
        }
        Ok(())
    }
}

/// Checks, without parsing the values, whether each value of a row plainly fits its column (the common case).
struct Fields<'a>(&'a Table);

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut row: A) -> Result<bool, A::Error> {
        while let Some((name, value)) = row.next_entry::<&str, &RawValue>()? {
            let Some(column) = self.0.columns.iter().find(|column| column.name == name) else { continue };
            if !column.kind.plainly_holds(value.get()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// PostgreSQL cannot store U+0000 in text.
fn has_nul(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains('\0'),
        Json::Array(values) => values.iter().any(has_nul),
        Json::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// A selection of rows of a table.
#[derive(Clone, Debug)]
pub enum Rows {
    /// The rows with these keys.
    Keys {
        /// The table.
        table: Table,
        /// The keys.
        keys: Vec<String>,
    },
    /// The rows with these values in these columns.
    Where {
        /// The table.
        table: Table,
        /// Columns of the table, and the value each must have.
        equal: Vec<(&'static Column, Json)>,
        /// The order of the rows.
        order: Order,
        /// At most this many rows.
        limit: Option<usize>,
    },
    /// The rows of any table, with all its columns, ordered by key.
    Whole {
        /// The name of the table, `balance@1`.
        table: String,
        /// Only the rows with these keys; empty for all rows.
        keys: Vec<String>,
        /// Only the rows after this key.
        after: String,
        /// At most this many rows.
        limit: usize,
    },
}

/// The order of rows, and where in it to begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    /// The column that orders the rows, which is not `jsonb`; null last in both directions, rows with the same value by
    /// ascending key. `None`: by key, byte by byte.
    pub by: Option<&'static Column>,
    /// Whether the largest comes first.
    pub descending: bool,
    /// How many of the first rows are left out.
    pub skip: usize,
}

impl Order {
    /// Sorts rows that are in the order of their keys into this order. Fails as `row` does.
    pub(crate) fn sort<T>(
        self,
        rows: Vec<T>,
        row: impl Fn(&T) -> Result<Box<RawValue>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let Some(column) = self.by else {
            return Ok(if self.descending { rows.into_iter().rev().collect() } else { rows });
        };
        let keyed = rows.into_iter().map(|one| Ok((column.value(&row(&one)?), one)));
        let mut keyed = keyed.collect::<Result<Vec<_>, StoreError>>()?;
        keyed.sort_by(|(a, _), (b, _)| column.compare(a, b, self.descending));
        Ok(keyed.into_iter().map(|(_, one)| one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_plainly_fits_fits() {
        let kinds = [Kind::Text, Kind::Integer, Kind::Real, Kind::Bool, Kind::Uuid, Kind::Time, Kind::Json];
        let values = [
            "null",
            "true",
            "0",
            "-0",
            "-1",
            "1.0",
            "1e3",
            "9223372036854775807",
            "9223372036854775808",
            "\"\"",
            "\"a\"",
            r#""\u0000""#,
            r#""\\u0000""#,
            r#"{"a":1}"#,
            r#"{"\u0000":1}"#,
            r#"["\u0000"]"#,
            "[]",
            "\"2025-01-01T00:00:00Z\"",
        ];
        let mut plain = 0;
        for kind in kinds {
            for value in values.iter().filter(|value| kind.plainly_holds(value)) {
                let read: Json = serde_json::from_str(value).unwrap();
                let fits = !has_nul(&read) && (kind == Kind::Json || kind.compared(read).is_ok());
                assert!(fits, "{kind}: {value}");
                plain += 1;
            }
        }
        assert_eq!(plain, 7 + 3 + 3 + 1 + 13, "of them null, text, bigint, boolean, jsonb");
    }
}
