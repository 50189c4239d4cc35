//! Which rows of a table are asked for, by more than equality; and where in their order to go on.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, value::RawValue};

use crate::{
    error::StoreError,
    invalid::Invalid,
    store::{Order, Rows},
    table::{Column, Table},
};

/// Rows of a table that match, in an order: see [`Tables::select`](crate::Tables::select).
#[derive(Clone, Debug)]
pub struct Select {
    /// The table.
    pub table: Table,
    /// What a row must fulfil: all of it.
    pub matches: Vec<Match>,
    /// Which come first.
    pub order: Order,
    /// Only rows behind this place in the order.
    pub after: Option<Place>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// What a column must hold.
#[derive(Clone, Debug)]
pub struct Match {
    /// A column of the table; not `jsonb`.
    pub column: &'static Column,
    /// What it is compared with.
    pub test: Test,
}

/// How a column is compared. Values are those that the column can hold, in the form it stores them. Null is equal to null, and
/// neither less nor greater than anything.
#[derive(Clone, Debug)]
pub enum Test {
    /// Equal.
    Is(Json),
    /// Equal to one of these.
    In(Vec<Json>),
    /// Less than a value that is not null.
    Less(Json),
    /// Less than or equal to a value that is not null.
    AtMost(Json),
    /// Greater than a value that is not null.
    Greater(Json),
    /// Greater than or equal to a value that is not null.
    AtLeast(Json),
}

/// A place in an order of rows: that of one row, which need not be there any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// What the column of the order holds; null where rows are in the order of their keys.
    pub value: Json,
    /// The key.
    pub key: String,
}

impl Match {
    /// Whether a row matches.
    pub fn holds(&self, row: &RawValue) -> bool {
        let Some(there) = self.column.value(row) else { return false };
        let compared = |value: &Json| match there.is_null() || value.is_null() {
            true => None,
            false => Some(self.column.compare(&Some(there.clone()), &Some(value.clone()), false)),
        };
        match &self.test {
            Test::Is(value) => there == *value,
            Test::In(values) => values.contains(&there),
            Test::Less(value) => compared(value) == Some(Ordering::Less),
            Test::AtMost(value) => matches!(compared(value), Some(Ordering::Less | Ordering::Equal)),
            Test::Greater(value) => compared(value) == Some(Ordering::Greater),
            Test::AtLeast(value) => matches!(compared(value), Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

impl Select {
    /// What can be asked for by equality alone, of the rest all: [`among`](Self::among) leaves out what does not match.
    pub(crate) fn rows(&self) -> Rows {
        let equal = self.matches.iter().filter_map(|one| match &one.test {
            Test::Is(value) => Some((one.column, value.clone())),
            _ => None,
        });
        let equal: Vec<_> = equal.collect();
        match equal.len() == self.matches.len() && self.after.is_none() {
            true => Rows::Where { table: self.table, equal, order: self.order, limit: self.limit },
            false => Rows::Where { table: self.table, equal, order: Order { skip: 0, ..self.order }, limit: None },
        }
    }

    /// The rows asked for, among those of [`rows`](Self::rows).
    pub(crate) fn among(&self, rows: Vec<(String, Box<RawValue>)>) -> Vec<(String, Box<RawValue>)> {
        let all_equal = self.matches.iter().all(|one| matches!(one.test, Test::Is(_)));
        if all_equal && self.after.is_none() {
            return rows;
        }
        self.take(rows, |(key, row)| (key, row))
    }

    /// The same of any rows, in any form, that come in the order asked for.
    pub(crate) fn take<T>(&self, rows: Vec<T>, row: impl Fn(&T) -> (&String, &RawValue)) -> Vec<T> {
        let wanted = |one: &T| {
            let (key, json) = row(one);
            self.matches.iter().all(|one| one.holds(json)) && self.is_behind(key, json)
        };
        rows.into_iter().filter(wanted).skip(self.order.skip).take(self.limit.unwrap_or(usize::MAX)).collect()
    }

    fn is_behind(&self, key: &String, row: &RawValue) -> bool {
        let Some(Place { value, key: place }) = &self.after else { return true };
        match (self.order.by, self.order.descending) {
            (None, false) => key > place,
            (None, true) => key < place,
            (Some(column), descending) => {
                let order = column.compare(&column.value(row), &Some(value.clone()), descending);
                order.then_with(|| key.cmp(place)) == Ordering::Greater
            }
        }
    }
}

/// Where a list goes on: behind the last row of a page, whatever was recorded since. A client may keep it as text.
///
/// The text is opaque, and has the value and the key of that row in it: not for logs where those are not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    by: Option<String>,
    descending: bool,
    value: Json,
    key: String,
}

impl Cursor {
    /// Behind a row, in an order.
    pub(crate) fn behind(order: &Order, key: &str, row: &RawValue) -> Self {
        let value = order.by.and_then(|column| column.value(row)).unwrap_or_default();
        Self { by: order.by.map(|column| column.name.into()), descending: order.descending, value, key: key.into() }
    }

    /// The place in an order: that of another one is refused.
    pub(crate) fn place(self, order: &Order) -> Result<Place, StoreError> {
        let by = order.by.map(|column| column.name);
        let refused = |why: &str| Invalid::Request(format!("a cursor {why}"));
        if (self.by.as_deref(), self.descending) != (by, order.descending) {
            return Err(refused("is of a list in another order").into());
        }
        let value = match order.by {
            Some(column) => column.kind.compared(self.value).map_err(|_| refused("is of another column"))?,
            None => Json::Null,
        };
        Ok(Place { value, key: self.key })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        json.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Cursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let digits = text.len() % 2 == 0 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bytes: Option<Vec<u8>> = digits.then(|| text.as_bytes().chunks(2).map(byte).collect()).flatten();
        let cursor = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        cursor.ok_or_else(|| Invalid::name("cursor", text, "is not one that a page gave"))
    }
}
