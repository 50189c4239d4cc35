//! A query for the rows that match, a page of them, their number, or whether there are any.

use std::{marker::PhantomData, time::Duration};

use futures::future::BoxFuture;
use serde_json::{Value as Json, value::RawValue};

use super::{
    after::{PATIENCE, read_after},
    replay::Replay,
};
use crate::{
    error::StoreError,
    invalid::Invalid,
    limits,
    load::{Until, bound},
    read_model::{self, ReadModel, read_row, write_row},
    select::{Comparison, Cursor, Filter, Select},
    store::Store,
    stream::Position,
    table::Order,
};

/// Rows about to be read.
#[must_use = "nothing is read until it is awaited"]
pub struct List<M> {
    store: Store,
    until: Until,
    filters: Vec<(&'static str, Wanted)>,
    by: Option<&'static str>,
    order: Order,
    limit: Option<usize>,
    cursor: Option<Cursor>,
    after: Option<Position>,
    patience: Duration,
    of: PhantomData<fn() -> M>,
}

/// A comparison whose values have not been checked against the column.
enum Wanted {
    Equal(Json),
    In(Vec<Json>),
    Ordered(fn(Json) -> Comparison, Json),
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RowPage<M> {
    /// The rows, each with its key, in the order of the list.
    pub rows: Vec<(String, M)>,
    /// Where the next page begins. `None` if there was no further row when this page was read.
    pub next: Option<Cursor>,
}

/// The rows of a page without a [`List::limit`].
const ROWS_OF_A_PAGE: usize = 100;

impl<M: ReadModel> List<M> {
    pub(super) fn new(store: Store, until: Until) -> Self {
        Self {
            store,
            until,
            filters: vec![],
            by: None,
            order: Order::default(),
            limit: None,
            cursor: None,
            after: None,
            patience: PATIENCE,
            of: PhantomData,
        }
    }

    fn wanted(mut self, column: &'static str, wanted: Wanted) -> Self {
        self.filters.push((column, wanted));
        self
    }

    /// Only rows whose column equals the value. Null is a value: `Json::Null`, or `None::<i64>`. NaN and the infinities
    /// are null in JSON, and so find the rows that have null.
    ///
    /// Filters add up: a row must pass all of them. The await fails with [`Invalid::Request`] if there is no such
    /// column, if it is `jsonb`, or if it cannot hold the value, and with [`Invalid::TooLarge`] if the list has more
    /// than [`FILTERS`](limits::FILTERS) filters or compares with more than
    /// [`COMPARED_VALUES`](limits::COMPARED_VALUES) values. An instant and a UUID are given as text; a value for a
    /// column of `f32` is given as `f64`, as its shortest decimal text reads: `0.1`, not `0.1_f32`.
    pub fn filter(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Equal(value.into()))
    }

    /// Only rows whose column equals one of the values; no row if there are no values. Null among the values finds
    /// null. Errors as of [`filter`](Self::filter).
    pub fn is_in<T: Into<Json>>(self, column: &'static str, values: impl IntoIterator<Item = T>) -> Self {
        self.wanted(column, Wanted::In(values.into_iter().map(Into::into).collect()))
    }

    /// Only rows whose column is less than the value. A row with null in the column is in no such list. Every store
    /// compares alike: text byte by byte in UTF-8, without regard to language or case; `false` before `true`; UUIDs
    /// byte by byte; -0.0 equals 0.0.
    ///
    /// Errors as of [`filter`](Self::filter), and [`Invalid::Request`] if the value is null, which NaN and the
    /// infinities are in JSON.
    pub fn lt(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Ordered(Comparison::Less, value.into()))
    }

    /// Only rows whose column is less than or equal to the value; see [`lt`](Self::lt).
    pub fn le(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Ordered(Comparison::LessOrEqual, value.into()))
    }

    /// Only rows whose column is greater than the value; see [`lt`](Self::lt).
    pub fn gt(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Ordered(Comparison::Greater, value.into()))
    }

    /// Only rows whose column is greater than or equal to the value; see [`lt`](Self::lt).
    pub fn ge(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Ordered(Comparison::GreaterOrEqual, value.into()))
    }

    /// Only rows whose column is at least `least` and at most `most`; no row if `least` is greater. See
    /// [`lt`](Self::lt).
    pub fn between(self, column: &'static str, least: impl Into<Json>, most: impl Into<Json>) -> Self {
        self.ge(column, least).le(column, most)
    }

    /// Orders the rows by a column, null last; rows with the same value by key. An index on the column makes it fast.
    pub fn order_by(mut self, column: &'static str) -> Self {
        self.by = Some(column);
        self
    }

    /// Orders the largest first, null still last.
    pub fn descending(mut self) -> Self {
        self.order.descending = true;
        self
    }

    /// Leaves out the first rows. The database reads them all the same, and an event between two reads moves rows
    /// across the border, so that a row is seen twice or not at all: to read on, take [`page`](Self::page).
    pub fn skip(mut self, rows: usize) -> Self {
        self.order.skip = rows;
        self
    }

    /// Returns at most this many rows.
    pub fn limit(mut self, rows: usize) -> Self {
        bound(&mut self.limit, rows);
        self
    }

    /// Begins after the last row of a page; for [`page`](Self::page) and for the rows themselves.
    ///
    /// A row that does not change between two pages is in exactly one of them, even if other rows change. A row that
    /// changes may move past the cursor or before it, and so be in two pages or in none, unless it keeps its value in
    /// the column of the order. Pages of one moment of the past ([`at_position`](crate::ReadModels::at_position)) have
    /// no such rows.
    ///
    /// The await fails with [`Invalid::Request`] if the cursor is of another read model, version, order or set of
    /// filters, if it was changed, or if the list has a [`skip`](Self::skip).
    pub fn from_cursor(mut self, cursor: Cursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Waits until the rows have every event up to the position, so that a caller reads its own writes. Fails with
    /// [`StoreError::Behind`] after ten seconds, or [the time given](Self::within); and at once with
    /// [`StoreError::Forked`] if the log ends before the position, with [`StoreError::NotBuilt`] if nothing has built
    /// the table, and with [`StoreError::Stopped`] if this process has given the read model up.
    ///
    /// Fails with [`StoreError::Parked`], which names the keys, if rows lack an event up to the position, because their
    /// keys wait behind an event that could not be processed. A list without this call returns such rows as they are:
    /// [`incomplete`](crate::ReadModels::incomplete) returns their keys.
    pub fn after(mut self, position: Position) -> Self {
        self.after = Some(position);
        self
    }

    /// How long [`after`](Self::after) waits; ten seconds unless told otherwise. With zero, the read checks once.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Returns one page, of [`limit`](Self::limit) rows (100 without it), and the cursor for
    /// [`from_cursor`](Self::from_cursor) of the same list. A page costs the same at any depth if the column of
    /// [`order_by`](Self::order_by) has an index; of the past, and of [`live`](crate::ReadModels::live), each page
    /// folds the log again, and in a transaction each page reads all rows that pass the filters by equality.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// # for name in ["ann", "bob", "cem"] {
    /// #     store.execute(Id::<Account>::from(name), Deposit { amount: 100 }).await?;
    /// # }
    /// let balances = store.read_model::<Balance>().live();
    /// let mut page = balances.list().ge("balance", 50).limit(2).page().await?;
    /// assert_eq!(page.rows.len(), 2);
    /// while let Some(cursor) = page.next {
    ///     page = balances.list().ge("balance", 50).limit(2).from_cursor(cursor).page().await?;
    /// }
    /// assert_eq!(page.rows.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Fails with [`Invalid::Request`] if the limit is zero; otherwise as the list does.
    pub async fn page(self) -> Result<RowPage<M>, StoreError> {
        let limit = self.limit.unwrap_or(ROWS_OF_A_PAGE);
        if limit == 0 {
            return Err(Invalid::Request("a page of zero rows would have no end".into()).into());
        }
        // One more row shows whether there is another page.
        let select = Select { limit: Some(limit.saturating_add(1)), ..self.select()? };
        let mut found = self.found(select.clone()).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(key, row)| Cursor::after(&select, key, row));
        Ok(RowPage { rows: read_rows(found)?, next })
    }

    /// Returns the number of rows that pass the filters, regardless of the order, the limit, the skip and the cursor.
    /// The database counts; of the past, of [`live`](crate::ReadModels::live) and in a transaction, the rows are read.
    /// Fails as the list does.
    pub async fn count(self) -> Result<u64, StoreError> {
        let select = Select { order: Order::default(), after: None, limit: None, ..self.select()? };
        if self.until != Until::default() {
            return Ok(self.found(select).await?.len() as u64);
        }
        let count = || self.store.inner().count_rows(select.clone());
        read_after::<M, _>(&self.store, self.after, self.patience, None, count).await
    }

    /// Returns whether any row passes the filters, regardless of the order, the limit, the skip and the cursor. Fails
    /// as the list does.
    pub async fn exists(self) -> Result<bool, StoreError> {
        let select = Select { order: Order::default(), after: None, limit: Some(1), ..self.select()? };
        Ok(!self.found(select).await?.is_empty())
    }

    /// Returns the query. Fails with [`Invalid`] unless the columns exist, can hold the values, and the cursor is of
    /// the query.
    fn select(&self) -> Result<Select, StoreError> {
        let filter = |(name, wanted): &(&'static str, Wanted)| {
            let (column, comparison) = match wanted {
                Wanted::Equal(value) => {
                    let (column, value) = read_model::equal::<M>(name, value.clone())?;
                    (column, Comparison::Equal(value))
                }
                Wanted::In(values) => {
                    let (column, _) = read_model::equal::<M>(name, Json::Null)?;
                    let values = values.iter().map(|value| Ok(read_model::equal::<M>(name, value.clone())?.1));
                    (column, Comparison::In(values.collect::<Result<_, StoreError>>()?))
                }
                Wanted::Ordered(comparison, value) => {
                    let (column, value) = read_model::compared::<M>(name, value.clone())?;
                    (column, comparison(value))
                }
            };
            Ok(Filter { column, comparison })
        };
        let filters = self.filters.iter().map(filter).collect::<Result<Vec<_>, StoreError>>()?;
        limits::size("the filters of a list", filters.len(), limits::FILTERS)?;
        let values = filters.iter().map(Filter::values).sum();
        limits::size("the values a list is compared with", values, limits::COMPARED_VALUES)?;
        let order = Order { by: self.by.map(read_model::ordered::<M>).transpose()?, ..self.order };
        let mut select = Select { table: M::TABLE, filters, order, after: None, limit: self.limit };
        select.after = self.cursor.clone().map(|cursor| cursor.sort_key(&select)).transpose()?;
        Ok(select)
    }

    async fn found(&self, select: Select) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        if self.until == Until::default() {
            let rows = || self.store.inner().select(select.clone());
            return read_after::<M, _>(&self.store, self.after, self.patience, None, rows).await;
        }
        let mut replay = Replay::<M>::new(self.store.clone(), self.until);
        replay.finish().await?;
        let mut folded = replay.into_rows();
        let mut rows = vec![];
        for key in folded.keys_in_order() {
            if let Some(row) = folded.take(&key) {
                rows.push((key, write_row(&row)?));
            }
        }
        Ok(select.take(select.order.sort(rows, |(_, row)| Ok(row.clone()))?))
    }

    async fn run(self) -> Result<Vec<(String, M)>, StoreError> {
        let select = self.select()?;
        read_rows(self.found(select).await?)
    }
}

fn read_rows<M: ReadModel>(rows: Vec<(String, Box<RawValue>)>) -> Result<Vec<(String, M)>, StoreError> {
    rows.into_iter().map(|(key, row)| Ok((key, read_row(&row)?))).collect()
}

impl<M: ReadModel> IntoFuture for List<M> {
    type Output = Result<Vec<(String, M)>, StoreError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
