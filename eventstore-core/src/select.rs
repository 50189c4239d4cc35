//! A query on the table of a read model: comparisons, an order, and where in it a page begins.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value as Json, value::RawValue};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    error::StoreError,
    invalid::Invalid,
    limits,
    table::{Column, Order, Rows, Table},
};

/// A query on a table: see [`Tables::select`](crate::Tables::select).
#[derive(Clone, Debug)]
pub struct Select {
    /// The table.
    pub table: Table,
    /// The filters; a row must pass all of them.
    pub filters: Vec<Filter>,
    /// The order of the rows. `skip` counts rows that pass the filters and are past `after`.
    pub order: Order,
    /// Only rows past this one in the order.
    pub after: Option<SortKey>,
    /// The most rows to return.
    pub limit: Option<usize>,
}

/// A comparison of one column.
#[derive(Clone, Debug)]
pub struct Filter {
    /// A column of the table; not `jsonb`.
    pub column: &'static Column,
    /// The comparison.
    pub comparison: Comparison,
}

/// How a column is compared. Each value has the type of the column and the form in which a row stores it. Null equals
/// null, and is neither less nor greater than any value. Text is compared byte by byte, in UTF-8; -0.0 equals 0.0.
#[derive(Clone, Debug)]
pub enum Comparison {
    /// Equal to the value.
    Equal(Json),
    /// Equal to one of the values; no row passes an empty list.
    In(Vec<Json>),
    /// Less than the value, which is not null.
    Less(Json),
    /// Less than or equal to the value, which is not null.
    LessOrEqual(Json),
    /// Greater than the value, which is not null.
    Greater(Json),
    /// Greater than or equal to the value, which is not null.
    GreaterOrEqual(Json),
}

/// The place of a row in an [`Order`]. The row itself need not exist any more.
#[derive(Clone, Debug, PartialEq)]
pub struct SortKey {
    /// The value of the column that orders the rows; null if the rows are ordered by key.
    pub value: Json,
    /// The key of the row.
    pub key: String,
}

impl Filter {
    /// Whether a row passes.
    pub fn passes(&self, row: &RawValue) -> bool {
        let Some(there) = self.column.value(row) else { return false };
        let compared = |value: &Json| match there.is_null() || value.is_null() {
            true => None,
            false => Some(self.column.compare(&Some(there.clone()), &Some(value.clone()), false)),
        };
        match &self.comparison {
            Comparison::Equal(value) => there == *value,
            Comparison::In(values) => values.contains(&there),
            Comparison::Less(value) => compared(value) == Some(Ordering::Less),
            Comparison::LessOrEqual(value) => matches!(compared(value), Some(Ordering::Less | Ordering::Equal)),
            Comparison::Greater(value) => compared(value) == Some(Ordering::Greater),
            Comparison::GreaterOrEqual(value) => matches!(compared(value), Some(Ordering::Greater | Ordering::Equal)),
        }
    }

    /// Returns the number of values that the column is compared with.
    pub(crate) fn values(&self) -> usize {
        if let Comparison::In(values) = &self.comparison { values.len() } else { 1 }
    }

    /// Returns the filter as text, which is the same for filters that pass the same rows by the same comparison.
    fn canonical(&self) -> String {
        let (sign, values) = match &self.comparison {
            Comparison::Equal(value) => ("=", std::slice::from_ref(value)),
            Comparison::In(values) => ("in", &values[..]),
            Comparison::Less(value) => ("<", std::slice::from_ref(value)),
            Comparison::LessOrEqual(value) => ("<=", std::slice::from_ref(value)),
            Comparison::Greater(value) => (">", std::slice::from_ref(value)),
            Comparison::GreaterOrEqual(value) => (">=", std::slice::from_ref(value)),
        };
        let mut values: Vec<_> = values.iter().map(Json::to_string).collect();
        values.sort_unstable();
        values.dedup();
        serde_json::json!([self.column.name, sign, values]).to_string()
    }
}

impl Select {
    /// Returns a query for [`Tables::rows`](crate::Tables::rows) that returns at least the rows of this query, in its
    /// order.
    pub(crate) fn rows(&self) -> Rows {
        let equal = self.filters.iter().filter_map(|filter| match &filter.comparison {
            Comparison::Equal(value) => Some((filter.column, value.clone())),
            _ => None,
        });
        let equal = equal.collect();
        match self.is_equality() {
            true => Rows::Where { table: self.table, equal, order: self.order, limit: self.limit },
            false => Rows::Where { table: self.table, equal, order: Order { skip: 0, ..self.order }, limit: None },
        }
    }

    /// Returns the rows of this query among those of [`rows`](Self::rows).
    pub(crate) fn among(&self, rows: Vec<(String, Box<RawValue>)>) -> Vec<(String, Box<RawValue>)> {
        if self.is_equality() { rows } else { self.take(rows) }
    }

    /// Returns the rows of this query among all rows of the table, which are in the order of the query.
    pub(crate) fn take(&self, rows: Vec<(String, Box<RawValue>)>) -> Vec<(String, Box<RawValue>)> {
        let wanted = |(key, row): &(String, Box<RawValue>)| {
            self.filters.iter().all(|filter| filter.passes(row)) && self.is_past(key, row)
        };
        rows.into_iter().filter(wanted).skip(self.order.skip).take(self.limit.unwrap_or(usize::MAX)).collect()
    }

    fn is_equality(&self) -> bool {
        self.after.is_none() && self.filters.iter().all(|filter| matches!(filter.comparison, Comparison::Equal(_)))
    }

    fn is_past(&self, key: &String, row: &RawValue) -> bool {
        let Some(after) = &self.after else { return true };
        match (self.order.by, self.order.descending) {
            (None, false) => *key > after.key,
            (None, true) => *key < after.key,
            (Some(column), descending) => {
                let order = column.compare(&column.value(row), &Some(after.value.clone()), descending);
                order.then_with(|| key.cmp(&after.key)) == Ordering::Greater
            }
        }
    }
}

/// Where the next page of a list begins: after the last row of the page before, even if that row has changed or was
/// deleted since.
///
/// A client keeps it as text ([`Display`](fmt::Display), [`FromStr`], serde). The text is opaque, but not secret: it
/// contains the key of that row and its value in the column of the order, and is about twice as long. It is not signed
/// either: a forged cursor moves the beginning of a page, and never shows a row that the filters of the list hide.
///
/// A cursor is of one read model, version, order and set of filters: any other list refuses it. It never expires.
#[derive(Clone, PartialEq)]
pub struct Cursor(Parts);

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Parts {
    table: String,
    by: Option<String>,
    descending: bool,
    value: Json,
    key: String,
    /// A checksum of the parts above and the filters.
    sum: u64,
}

impl Cursor {
    /// Returns the cursor after a row of a query.
    pub(crate) fn after(select: &Select, key: &str, row: &RawValue) -> Self {
        let Order { by, descending, .. } = select.order;
        let value = by.and_then(|column| column.value(row)).unwrap_or_default();
        let (table, by) = (select.table.to_string(), by.map(|column| column.name.into()));
        let mut parts = Parts { table, by, descending, value, key: key.into(), sum: 0 };
        parts.sum = parts.checksum(&select.filters);
        Self(parts)
    }

    /// Returns the sort key of the row. Fails with [`Invalid::Request`] if the cursor is of another query.
    pub(crate) fn sort_key(self, select: &Select) -> Result<SortKey, StoreError> {
        let parts = self.0;
        let refused = |why: &str| StoreError::from(Invalid::Request(format!("the cursor {why}")));
        let by = select.order.by.map(|column| column.name);
        if parts.table != select.table.to_string() {
            return Err(refused("is of another read model, or of another version of it"));
        }
        if (parts.by.as_deref(), parts.descending) != (by, select.order.descending) {
            return Err(refused("is of a list in another order"));
        }
        if parts.sum != parts.checksum(&select.filters) {
            return Err(refused("is of a list with other filters, or was changed"));
        }
        if select.order.skip > 0 {
            return Err(refused("and `skip` cannot both say where a page begins"));
        }
        // The checksum is no secret: what follows may have been forged.
        limits::name("row key", &parts.key).map_err(|_| refused("has no key of a row"))?;
        let value = match select.order.by {
            Some(column) => column.kind.compared(parts.value).map_err(|_| refused("has a value of another type"))?,
            None => Json::Null,
        };
        Ok(SortKey { value, key: parts.key })
    }
}

impl Parts {
    fn checksum(&self, filters: &[Filter]) -> u64 {
        let mut filters: Vec<_> = filters.iter().map(Filter::canonical).collect();
        filters.sort_unstable();
        filters.dedup();
        let Self { table, by, descending, value, key, sum: _ } = self;
        xxh3_64(serde_json::json!([table, by, descending, value, key, filters]).to_string().as_bytes())
    }
}

/// Without the key and the value, which may be personal data.
impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { table, by, descending, .. } = &self.0;
        let parts = (table, by, descending);
        f.debug_tuple("Cursor").field(&parts).finish()
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(&self.0).map_err(|_| fmt::Error)?;
        json.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Cursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let digits = text.len().is_multiple_of(2) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bytes: Option<Vec<u8>> = digits.then(|| text.as_bytes().chunks(2).map(byte).collect()).flatten();
        let parts = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        // The text is not repeated in the error: it may contain personal data.
        parts.map(Self).ok_or_else(|| Invalid::Request("the cursor is not one that a page returned".into()))
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
