//! Reads and writes the rows of read models, and checkpoints.
//!
//! Statements on a read model's table cannot be constants, because they name the table, its columns and their types.
//! They are files of `sql/` with placeholders. Code writes only what has a length of its own: lists of columns, and the
//! conditions and the order of a query. The names are constants of the program and are quoted; values are always bound.

use std::collections::HashMap;

use eventstore_core::{
    Changes, Checkpoint, Column, Comparison, Filter, Kind, Position, Rows, Select, Shard, SortKey, Step, StoreError,
    Table, engine::SHADOW,
};
use serde_json::{Value as Json, value::RawValue};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, Row, postgres::PgArguments, query::QueryAs};
use uuid::Uuid;

use crate::{
    error, read,
    sql::{Sql, quoted},
};

/// Returns the type of a column in PostgreSQL.
fn sql_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Integer => "bigint",
        Kind::Real => "double precision",
        Kind::Bool => "boolean",
        Kind::Uuid => "uuid",
        Kind::Time => "timestamp with time zone",
        _ => "jsonb",
    }
}

/// Puts the quoted name of a table and other parts into a statement of `sql/`.
fn statement(template: &str, sql: &Sql, table: &Table, parts: &[(&str, String)]) -> AssertSqlSafe<String> {
    let text = template.replace("{table}", &name(sql, table));
    AssertSqlSafe(parts.iter().fold(text, |text, (name, part)| text.replace(name, part)))
}

/// Returns the quoted name of a table with its schema.
fn name(sql: &Sql, table: &Table) -> String {
    format!("{}.{}", quoted(sql.tables()), quoted(&table.to_string()))
}

/// Returns a piece for each quoted column, separated by commas.
fn list(columns: &[Column], piece: impl Fn(&str) -> String) -> String {
    columns.iter().map(|column| piece(&quoted(column.name))).collect::<Vec<_>>().join(", ")
}

/// Returns the columns that a table lacks and that can be added to it; `None` if there is no such table. A table with
/// other columns is [`StoreError::Columns`].
pub(crate) async fn missing_columns(
    connection: &mut PgConnection,
    sql: &Sql,
    table: &Table,
) -> Result<Option<Vec<&'static Column>>, StoreError> {
    let existing = read_columns(connection, sql, table).await?;
    let existing = (!existing.is_empty()).then_some(existing);
    existing
        .map(|existing| missing_columns_among(sql, table, existing.iter().map(|(name, kind, _)| (&**name, &**kind))))
        .transpose()
}

/// Checks, without the table lock, whether the table exists with the right columns (the common case). Must run outside
/// the transaction of [`create`], where a failed look-up of the name would be cached.
pub(crate) async fn is_built(connection: &mut PgConnection, sql: &Sql, table: &Table) -> Result<bool, StoreError> {
    Ok(missing_columns(connection, sql, table).await?.is_some_and(|lacking| lacking.is_empty()))
}

/// Creates a table, or adds the columns that it lacks. Runs in the caller's transaction.
pub(crate) async fn create(connection: &mut PgConnection, sql: &Sql, table: &Table) -> Result<(), StoreError> {
    sqlx::query(sql.lock_tables()).execute(&mut *connection).await.map_err(error::store)?;
    let define = |column: &Column| {
        let collation = if column.kind == Kind::Text { " COLLATE \"C\"" } else { "" };
        format!("{} {}{collation}", quoted(column.name), sql_type(column.kind))
    };
    if let Some(lacking) = missing_columns(&mut *connection, sql, table).await? {
        for column in lacking {
            let column = ("{column}", define(column));
            let add = sqlx::query(statement(include_str!("../sql/add_column.sql"), sql, table, &[column]));
            add.execute(&mut *connection).await.map_err(error::store)?;
        }
        return Ok(());
    }
    let columns = ("{columns}", table.columns.iter().map(define).collect::<Vec<_>>().join(", "));
    let create = sqlx::query(statement(include_str!("../sql/create_table.sql"), sql, table, &[columns]));
    create.execute(&mut *connection).await.map(drop).map_err(error::store)
}

/// Returns the columns of a table that lack their index.
pub(crate) async fn columns_without_index<'a>(
    connection: &mut PgConnection,
    sql: &Sql,
    table: &'a Table,
) -> Result<Vec<&'a Column>, StoreError> {
    let existing = read_columns(connection, sql, table).await?;
    check_columns(sql, table, existing.iter().map(|(name, kind, _)| (&**name, &**kind)))?;
    let indexed = |column: &&Column| existing.iter().any(|(name, _, indexed)| *indexed && name == column.name);
    Ok(table.columns.iter().filter(|column| column.index && !indexed(column)).collect())
}

/// Creates the missing indexes of a table. Runs in the caller's transaction.
pub(crate) async fn index(connection: &mut PgConnection, sql: &Sql, table: &Table) -> Result<(), StoreError> {
    sqlx::query(sql.lock_tables()).execute(&mut *connection).await.map_err(error::store)?;
    for column in columns_without_index(&mut *connection, sql, table).await? {
        let column = ("{column}", quoted(column.name));
        let create = sqlx::query(statement(include_str!("../sql/create_index.sql"), sql, table, &[column]));
        create.execute(&mut *connection).await.map_err(error::store)?;
    }
    Ok(())
}

/// Returns the columns of a table, each with its type and whether an index begins with it; none if there is no such
/// table.
async fn read_columns(
    connection: &mut PgConnection,
    sql: &Sql,
    table: &Table,
) -> Result<Vec<(String, String, bool)>, StoreError> {
    let columns = sqlx::query_as(sql.table()).bind(name(sql, table));
    columns.fetch_all(connection).await.map_err(error::store)
}

/// Returns the columns that a table with these `existing` columns lacks, each by name and type. No columns at all is
/// [`StoreError::NotBuilt`]; columns of another type, or a missing one that is not optional, is
/// [`StoreError::Columns`].
fn missing_columns_among<'a>(
    sql: &Sql,
    table: &Table,
    existing: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<&'static Column>, StoreError> {
    let (keys, existing): (Vec<_>, Vec<_>) = existing.partition(|(name, _)| *name == "key");
    match keys[..] {
        [] if existing.is_empty() => return Err(StoreError::NotBuilt { table: table.to_string() }),
        [(_, "text")] => {}
        _ => return Err(columns_error(sql, table)),
    }
    let wanted = |name: &str| table.columns.iter().find(|column| column.name == name);
    let same = |(name, kind): (&'a str, &str)| (name, wanted(name).is_none_or(|column| sql_type(column.kind) == kind));
    let existing = existing.into_iter().map(same).collect::<Vec<_>>();
    table.lacks(&table.to_string(), &existing).map_err(|_| columns_error(sql, table))
}

/// The error for a table with other columns. A table of the engine is named with its schema, since the user may have
/// tables of that name.
fn columns_error(sql: &Sql, table: &Table) -> StoreError {
    match table.version {
        0 => table.misfit(&format!("{}.{table}", sql.tables())),
        _ => table.misfit(&table.to_string()),
    }
}

/// Refuses a table that does not exist, or does not have the right columns.
fn check_columns<'a>(
    sql: &Sql,
    table: &Table,
    existing: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), StoreError> {
    match missing_columns_among(sql, table, existing)?[..] {
        [] => Ok(()),
        _ => Err(columns_error(sql, table)),
    }
}

/// The row of a shard and its checkpoint.
type ShardRow = (String, i32, i32, i64, Option<Uuid>, i64, Option<Uuid>);

fn shard((projection, from, to, position, event, epoch, owner): ShardRow) -> Result<(Shard, Checkpoint), StoreError> {
    let slot = |slot: i32| u16::try_from(slot).map_err(error::damaged);
    let shard = Shard::new(projection, slot(from)?..slot(to)?);
    Ok((shard, Checkpoint { position: read::position(position)?, event, epoch: epoch.unsigned_abs(), owner }))
}

/// Returns the shards of a projection, or of all, with their checkpoints.
pub(crate) async fn shards(
    connection: &mut PgConnection,
    sql: &Sql,
    projection: Option<&str>,
) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
    let shards = sqlx::query_as(sql.shards()).bind(projection).fetch_all(connection).await;
    shards.map_err(error::store)?.into_iter().map(shard).collect()
}

/// Locks a shard until the end of the caller's transaction. Returns its checkpoint, if there is such a shard.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    sql: &Sql,
    Shard { projection, from_slot, to_slot, .. }: &Shard,
) -> Result<Option<Checkpoint>, StoreError> {
    let lock = sqlx::query(sql.lock_shard()).bind(projection).bind(i32::from(*from_slot)).bind(i32::from(*to_slot));
    let locked = lock.fetch_optional(connection).await.map_err(error::store)?;
    let stored = locked.as_ref().map(ShardRow::from_row).transpose().map_err(error::store)?;
    Ok(stored.map(shard).transpose()?.map(|(_, checkpoint)| checkpoint))
}

/// Locks a projection and its shards until the end of the caller's transaction. Returns the shards.
pub(crate) async fn lock_projection(
    connection: &mut PgConnection,
    sql: &Sql,
    projection: &str,
) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
    let lock = sqlx::query(sql.lock_projection()).bind(projection);
    lock.execute(&mut *connection).await.map_err(error::store)?;
    let shards = sqlx::query_as(sql.lock_shards()).bind(projection).fetch_all(connection).await;
    shards.map_err(error::store)?.into_iter().map(shard).collect()
}

/// Replaces the shards of a projection. The caller has locked the projection.
pub(crate) async fn put_shards(
    connection: &mut PgConnection,
    sql: &Sql,
    projection: &str,
    shards: Vec<(Shard, Checkpoint)>,
) -> Result<(), StoreError> {
    let from: Vec<_> = shards.iter().map(|(shard, _)| i32::from(shard.from_slot)).collect();
    let to: Vec<_> = shards.iter().map(|(shard, _)| i32::from(shard.to_slot)).collect();
    let positions: Vec<_> = shards.iter().map(|(_, at)| read::signed(at.position.0)).collect();
    let events: Vec<_> = shards.iter().map(|(_, at)| at.event).collect();
    let epochs: Vec<_> = shards.iter().map(|(_, at)| read::signed(at.epoch)).collect();
    let owners: Vec<_> = shards.iter().map(|(_, at)| at.owner).collect();
    let remove = sqlx::query(sql.remove_shards()).bind(projection).bind(&from);
    remove.execute(&mut *connection).await.map_err(error::store)?;
    let put = sqlx::query(sql.put_shards()).bind(projection).bind(from).bind(to).bind(positions);
    let put = put.bind(events).bind(epochs).bind(owners);
    put.execute(connection).await.map(drop).map_err(error::store)
}

/// Advances the checkpoint of a shard. An `event` that is not in the log at position `to` is [`StoreError::Forked`].
pub(crate) async fn advance(
    connection: &mut PgConnection,
    sql: &Sql,
    Shard { projection, from_slot, to_slot, .. }: &Shard,
    to: Position,
    event: Option<Uuid>,
) -> Result<(), StoreError> {
    let advance = sqlx::query(sql.advance()).bind(projection).bind(i32::from(*from_slot)).bind(i32::from(*to_slot));
    let advance = advance.bind(read::signed(to.0)).bind(event);
    match (advance.fetch_one(connection).await.and_then(|row| row.try_get(0)).map_err(error::store)?, event) {
        (false, event @ Some(_)) => Err(StoreError::Forked { position: to, event }),
        _ => Ok(()),
    }
}

/// Returns what a statement reads from: the table, or a subquery that adds the columns it lacks as nulls.
fn with_nulls(sql: &Sql, table: &Table, lacking: &[&'static Column]) -> String {
    if lacking.is_empty() {
        return name(sql, table);
    }
    let null = |column: &&Column| format!("NULL::{} AS {}", sql_type(column.kind), quoted(column.name));
    let nulls = lacking.iter().map(null).collect::<Vec<_>>().join(", ");
    format!("({})", statement(include_str!("../sql/with_nulls.sql"), sql, table, &[("{nulls}", nulls)]).0)
}

/// Reads rows of a table that lacks these columns. If the table lacks others, the error is [`StoreError::Columns`] or,
/// for a table of the engine, [`StoreError::Schema`].
pub(crate) async fn rows(
    connection: &mut PgConnection,
    sql: &Sql,
    rows: Rows,
    lacking: &[&'static Column],
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let table = match rows {
        Rows::Keys { table, .. } | Rows::Where { table, .. } => table,
        Rows::Whole { table, keys, after, limit } => {
            return rows_of_whole_table(connection, sql, table, keys, after, limit).await;
        }
    };
    let columns = ("{columns}", list(table.columns, |column| format!("t.{column}")));
    let from = ("{from}", with_nulls(sql, &table, lacking));
    // The statements may return a further column, which only orders them.
    let found: Result<Vec<(Option<String>, String)>, _> = match rows {
        Rows::Keys { keys, .. } => {
            let statement = statement(include_str!("../sql/rows_by_key.sql"), sql, &table, &[columns, from]);
            sqlx::query_as(statement).bind(name(sql, &table)).bind(keys).fetch_all(connection).await
        }
        Rows::Where { equal, order, limit, .. } => {
            let equal = equal.into_iter().map(|(column, value)| (column, Comparison::Equal(value)));
            let filters = equal.map(|(column, comparison)| Filter { column, comparison }).collect();
            return select(connection, sql, Select { table, filters, order, after: None, limit }, lacking).await;
        }
        Rows::Whole { .. } => return Ok(vec![]),
    };
    checked_rows(sql, &table, found, lacking)
}

/// Returns the rows of a query, in order, of a table that lacks these columns.
pub(crate) async fn select(
    connection: &mut PgConnection,
    sql: &Sql,
    select: Select,
    lacking: &[&'static Column],
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let Select { table, order, limit, .. } = select;
    let mut values = Values { bound: vec![], before: 3 };
    let conditions = conditions(&select.filters, &mut values);
    let direction = if order.descending { "DESC" } else { "ASC" };
    let by = match order.by {
        Some(column) => format!("t.{} {direction} NULLS LAST, t.key", quoted(column.name)),
        None => format!("t.key {direction}"),
    };
    let from = with_nulls(sql, &table, lacking);
    let (from, conditions) = match order.by {
        Some(column) if limit.is_some() && order.skip == 0 => {
            let (valued, null) = parts_past(column, order.descending, &select.after, &mut values);
            let by = format!("t.{} {direction}, t.key", quoted(column.name));
            let parts =
                [("{conditions}", conditions), ("{valued}", valued), ("{null}", null), ("{by}", by), ("{from}", from)];
            (statement(include_str!("../sql/rows_page.sql"), sql, &table, &parts).0, "true".into())
        }
        by => {
            let past = match (by, &select.after) {
                (_, None) => "true".into(),
                (None, Some(after)) => {
                    let sign = if order.descending { "<" } else { ">" };
                    format!("t.key {sign} {}", values.key(&after.key))
                }
                (Some(column), after) => {
                    let (valued, null) = parts_past(column, order.descending, after, &mut values);
                    format!("({valued} OR {null})")
                }
            };
            (from, format!("{conditions} AND {past}"))
        }
    };
    let columns = ("{columns}", list(table.columns, |column| format!("t.{column}")));
    let parts = [columns, ("{conditions}", conditions), ("{order}", by), ("{from}", from)];
    let statement = statement(include_str!("../sql/rows_where.sql"), sql, &table, &parts);
    let limit: Option<i64> = limit.map(|limit| read::signed(limit as u64));
    let query = sqlx::query_as(statement).bind(name(sql, &table)).bind(limit).bind(read::signed(order.skip as u64));
    let found = values.bind(query).fetch_all(connection).await;
    checked_rows(sql, &table, found, lacking)
}

/// Returns the number of rows that pass the filters of a query, of a table that lacks these columns.
pub(crate) async fn count(
    connection: &mut PgConnection,
    sql: &Sql,
    select: Select,
    lacking: &[&'static Column],
) -> Result<u64, StoreError> {
    let table = select.table;
    let mut values = Values { bound: vec![], before: 1 };
    let conditions = ("{conditions}", conditions(&select.filters, &mut values));
    let parts = [conditions, ("{from}", with_nulls(sql, &table, lacking))];
    let statement = statement(include_str!("../sql/rows_count.sql"), sql, &table, &parts);
    let query = values.bind(sqlx::query_as(statement).bind(name(sql, &table)));
    let found: Result<(i64, Option<String>), _> = query.fetch_one(connection).await;
    let (count, types) = found.map_err(|error| match error::row(&table.to_string(), error) {
        StoreError::Columns { .. } => columns_error(sql, &table),
        error => error,
    })?;
    check_row_types(sql, &table, &types.unwrap_or_default(), lacking)?;
    Ok(count.unsigned_abs())
}

/// The values of a statement's conditions. Their numbers follow those of the parameters that are bound before them.
struct Values {
    bound: Vec<Value>,
    before: usize,
}

enum Value {
    One(String),
    Many(Vec<String>),
}

impl Values {
    fn push(&mut self, value: Value) -> usize {
        self.bound.push(value);
        self.bound.len() + self.before
    }

    /// Adds a value and returns its expression; `None` for null.
    fn one(&mut self, kind: Kind, value: &Json) -> Option<String> {
        let text = text_of(value.clone())?;
        Some(format!("CAST(${}::text AS {})", self.push(Value::One(text)), sql_type(kind)))
    }

    /// Adds a row key and returns its expression.
    fn key(&mut self, key: &str) -> String {
        format!("${}::text COLLATE \"C\"", self.push(Value::One(key.into())))
    }

    fn bind<'a, T>(self, query: QueryAs<'a, Postgres, T, PgArguments>) -> QueryAs<'a, Postgres, T, PgArguments> {
        self.bound.into_iter().fold(query, |query, value| match value {
            Value::One(value) => query.bind(value),
            Value::Many(values) => query.bind(values),
        })
    }
}

/// Returns the filters as one condition.
fn conditions(filters: &[Filter], values: &mut Values) -> String {
    let mut conditions = vec!["true".to_owned()];
    for Filter { column, comparison } in filters {
        let name = format!("t.{}", quoted(column.name));
        let null = format!("{name} IS NULL");
        // No value is less or greater than null.
        let mut ordered = |sign: &str, value: &Json| {
            values.one(column.kind, value).map_or("false".into(), |value| format!("{name} {sign} {value}"))
        };
        conditions.push(match comparison {
            Comparison::Equal(Json::Null) => null,
            Comparison::Equal(value) => ordered("=", value),
            Comparison::In(given) => {
                let each: Vec<_> = given.iter().cloned().filter_map(text_of).collect();
                let or_null = if each.len() < given.len() { null } else { "false".into() };
                // One array for any number of values, because PostgreSQL takes at most 65,535 parameters.
                let each = values.push(Value::Many(each));
                format!("({name} = ANY (CAST(${each}::text[] AS {}[])) OR {or_null})", sql_type(column.kind))
            }
            Comparison::Less(value) => ordered("<", value),
            Comparison::LessOrEqual(value) => ordered("<=", value),
            Comparison::Greater(value) => ordered(">", value),
            Comparison::GreaterOrEqual(value) => ordered(">=", value),
        });
    }
    conditions.join(" AND ")
}

/// Returns two conditions for the rows after a row in the order of a column: for rows with a value, which come first,
/// and for rows with null.
fn parts_past(column: &Column, descending: bool, after: &Option<SortKey>, values: &mut Values) -> (String, String) {
    let here = format!("t.{}", quoted(column.name));
    let Some(SortKey { value, key }) = after else {
        return (format!("{here} IS NOT NULL"), format!("{here} IS NULL"));
    };
    let key = values.key(key);
    let sign = if descending { "<" } else { ">" };
    match values.one(column.kind, value) {
        // The index is searched by the first comparison.
        Some(past) => {
            (format!("({here} {sign}= {past} AND ({here} {sign} {past} OR t.key > {key}))"), format!("{here} IS NULL"))
        }
        None => ("false".into(), format!("({here} IS NULL AND t.key > {key})")),
    }
}

/// Reads rows by their keys, in one snapshot with the checkpoint of a shard; `None` if the shard is not at `from`.
pub(crate) async fn rows_of(
    connection: &mut PgConnection,
    sql: &Sql,
    Shard { projection, from_slot, to_slot, .. }: &Shard,
    from: &Checkpoint,
    (table, keys): (Table, Vec<String>),
    lacking: &[&'static Column],
) -> Result<Option<Vec<(String, Box<RawValue>)>>, StoreError> {
    let columns = ("{columns}", list(table.columns, |column| format!("t.{column}")));
    let schema = ("{schema}", sql.quoted_schema());
    let parts = [columns, schema, ("{from}", with_nulls(sql, &table, lacking))];
    let asked = sqlx::query_as(statement(include_str!("../sql/rows_of.sql"), sql, &table, &parts));
    let asked = asked.bind(name(sql, &table)).bind(keys).bind(projection);
    let asked = asked.bind(i32::from(*from_slot)).bind(i32::from(*to_slot)).bind(read::signed(from.position.0));
    let asked = asked.bind(from.event).bind(read::signed(from.epoch)).bind(from.owner);
    let found: Result<Vec<(Option<String>, String, bool)>, _> = asked.fetch_all(connection).await;
    let held = found.as_ref().is_ok_and(|found| found.last().is_some_and(|(.., held)| *held));
    let found = found.map(|found| found.into_iter().map(|(key, row, _)| (key, row)).collect());
    let rows = checked_rows(sql, &table, found, lacking)?;
    Ok(held.then_some(rows))
}

/// Returns the rows found, if the table lacks just these columns. The last row found has the types of its columns.
fn checked_rows(
    sql: &Sql,
    table: &Table,
    found: Result<Vec<(Option<String>, String)>, sqlx::Error>,
    lacking: &[&'static Column],
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let mut found = found.map_err(|error| match error::row(&table.to_string(), error) {
        StoreError::Columns { .. } => columns_error(sql, table),
        error => error,
    })?;
    let refused = |error: serde_json::Error| StoreError::Row { table: table.to_string(), reason: error.into() };
    check_row_types(sql, table, &found.pop().map(|(_, types)| types).unwrap_or_default(), lacking)?;
    let rows = found.into_iter().filter_map(|(key, row)| Some((key?, row)));
    rows.map(|(key, row)| Ok((key, RawValue::from_string(row).map_err(refused)?))).collect()
}

/// Refuses a table whose columns differ from those of the program by more than these missing ones.
fn check_row_types(sql: &Sql, table: &Table, types: &str, lacking: &[&'static Column]) -> Result<(), StoreError> {
    let refused = |error: serde_json::Error| StoreError::Row { table: table.to_string(), reason: error.into() };
    let types: HashMap<String, String> = serde_json::from_str(types).map_err(refused)?;
    match missing_columns_among(sql, table, types.iter().map(|(name, kind)| (&**name, &**kind)))? == lacking {
        true => Ok(()),
        false => Err(columns_error(sql, table)),
    }
}

/// Reads rows of a table by its name, with all columns it has.
async fn rows_of_whole_table(
    connection: &mut PgConnection,
    sql: &Sql,
    table: String,
    keys: Vec<String>,
    after: String,
    limit: usize,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let refused = |error: serde_json::Error| StoreError::Row { table: table.clone(), reason: error.into() };
    let all = sqlx::query_as(with_names(include_str!("../sql/rows_whole.sql"), sql, &[("{table}", &table)]));
    let all = all.bind(after).bind((!keys.is_empty()).then_some(keys)).bind(read::signed(limit as u64));
    let all: Vec<(String, String)> = all.fetch_all(connection).await.map_err(|error| error::row(&table, error))?;
    all.into_iter().map(|(key, row)| Ok((key, RawValue::from_string(row).map_err(refused)?))).collect()
}

/// Puts quoted names into a statement of `sql/`.
fn with_names(template: &str, sql: &Sql, names: &[(&str, &str)]) -> AssertSqlSafe<String> {
    let text = template.replace("{tables}", &quoted(sql.tables()));
    AssertSqlSafe(names.iter().fold(text, |text, (name, put)| text.replace(name, &quoted(put))))
}

/// Runs statements of `sql/` with quoted names put in.
async fn execute_named(
    connection: &mut PgConnection,
    sql: &Sql,
    template: &str,
    names: &[(&str, &str)],
    table: &str,
) -> Result<(), StoreError> {
    let executed = sqlx::raw_sql(with_names(template, sql, names)).execute(connection).await;
    executed.map(drop).map_err(|error| error::row(table, error))
}

/// Swaps the names of a table and its shadow.
pub(crate) async fn swap(connection: &mut PgConnection, sql: &Sql, table: &str) -> Result<(), StoreError> {
    let (shadow, aside) = (format!("{table}{SHADOW}"), format!("{table}~aside"));
    copy_grants(connection, sql, table, &shadow).await?;
    let names = [("{table}", table), ("{shadow}", &shadow), ("{aside}", &aside)];
    execute_named(connection, sql, include_str!("../sql/swap.sql"), &names, table).await
}

/// Renames the shadows of release 0.1, `balance@1~beside`, to their present names. Runs in the caller's transaction.
pub(crate) async fn rename_shadows(connection: &mut PgConnection, sql: &Sql) -> Result<(), StoreError> {
    sqlx::query(sql.lock_tables()).execute(&mut *connection).await.map_err(error::store)?;
    for old in old_shadows(connection, sql).await? {
        let new = old.replace("~beside", SHADOW);
        let names = [("{old}", &*old), ("{new}", &*new)];
        execute_named(connection, sql, include_str!("../sql/rename_shadow.sql"), &names, &old).await?;
        for statement in [sql.rename_shadow_checkpoints(), sql.rename_shadow_letters(), sql.rename_shadow_row()] {
            let rename = sqlx::query(statement).bind(&old).bind(&new);
            rename.execute(&mut *connection).await.map_err(error::store)?;
        }
    }
    Ok(())
}

/// Returns the shadows with names of release 0.1. The program owns them, as it owns all rows of read models, so no
/// migration of the log's owner could rename them.
pub(crate) async fn old_shadows(connection: &mut PgConnection, sql: &Sql) -> Result<Vec<String>, StoreError> {
    match sqlx::query_scalar(sql.old_shadows()).fetch_all(connection).await {
        // No processor has run yet, the table belongs to another program, or the role may not read it.
        Err(error) if error::has_code(&error, &["42P01", "42703", "42501"]) => Ok(vec![]),
        shadows => shadows.map_err(error::store),
    }
}

/// Creates the view of this name on a table, with the rights that other roles had on the view before.
pub(crate) async fn publish(
    connection: &mut PgConnection,
    sql: &Sql,
    view: &str,
    table: &str,
) -> Result<(), StoreError> {
    let grants = grants(connection, sql, view, view).await?;
    let names = [("{view}", view), ("{table}", table)];
    execute_named(connection, sql, include_str!("../sql/publish.sql"), &names, table).await?;
    apply_grants(connection, grants).await
}

/// Drops a table, if it exists.
pub(crate) async fn remove(connection: &mut PgConnection, sql: &Sql, table: &str) -> Result<(), StoreError> {
    execute_named(connection, sql, include_str!("../sql/remove_table.sql"), &[("{table}", table)], table).await
}

/// Returns the statements that grant the rights of other roles on one table also on another. The server writes them,
/// since only it can quote its roles.
async fn grants(connection: &mut PgConnection, sql: &Sql, of: &str, on: &str) -> Result<Vec<String>, StoreError> {
    let [of, on] = [of, on].map(|name| format!("{}.{}", quoted(sql.tables()), quoted(name)));
    let grants = sqlx::query_scalar(include_str!("../sql/grants.sql")).bind(of).bind(on);
    grants.fetch_all(connection).await.map_err(error::store)
}

/// Runs the statements of [`grants`].
async fn apply_grants(connection: &mut PgConnection, grants: Vec<String>) -> Result<(), StoreError> {
    for grant in grants {
        sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut *connection).await.map_err(error::store)?;
    }
    Ok(())
}

/// Grants the rights of other roles on one table also on another.
async fn copy_grants(connection: &mut PgConnection, sql: &Sql, of: &str, on: &str) -> Result<(), StoreError> {
    let grants = grants(connection, sql, of, on).await?;
    apply_grants(connection, grants).await
}

/// Returns a value as text that PostgreSQL can cast; `None` for null.
fn text_of(value: Json) -> Option<String> {
    match value {
        Json::Null => None,
        Json::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// Refuses a table without the right columns. A caller of [`write`] runs it first, unless [`rows`] has read the table
/// in the same transaction.
pub(crate) async fn check_table(connection: &mut PgConnection, sql: &Sql, table: &Table) -> Result<(), StoreError> {
    let existing = read_columns(connection, sql, table).await?;
    check_columns(sql, table, existing.iter().map(|(name, kind, _)| (&**name, &**kind)))
}

/// Returns the parts of a statement that writes rows.
fn parts(table: &Table) -> [(&'static str, String); 3] {
    let types = table.columns.iter().map(|column| format!("{} {}", quoted(column.name), sql_type(column.kind)));
    [
        ("{columns}", list(table.columns, str::to_owned)),
        ("{types}", types.collect::<Vec<_>>().join(", ")),
        ("{updates}", list(table.columns, |column| format!("{column} = excluded.{column}"))),
    ]
}

/// Returns the keys, and one JSON array of the rows.
fn keys_and_rows(upserts: Vec<(String, Box<RawValue>)>) -> (Vec<String>, String) {
    let rows = upserts.iter().map(|(_, row)| row.get()).collect::<Vec<_>>().join(",");
    (upserts.into_iter().map(|(key, _)| key).collect(), format!("[{rows}]"))
}

/// Writes rows and advances the shard's checkpoint in one statement. Returns `false`, having changed nothing, if the
/// shard is not at `from` or a named event is not in the log.
pub(crate) async fn step(connection: &mut PgConnection, sql: &Sql, step: Step) -> Result<bool, StoreError> {
    step.changes.check()?;
    let Step { shard, from, to, changes: Changes { table, upserts, deletes }, lazy } = step;
    let mut changes = String::new();
    if !upserts.is_empty() {
        changes.push_str(include_str!("../sql/step_upsert.sql"));
    }
    if !deletes.is_empty() {
        changes.push_str(include_str!("../sql/step_delete.sql"));
    }
    let template = sql.step().0.replace("{changes}", &changes);
    let (keys, rows) = keys_and_rows(upserts);
    let step = sqlx::query(statement(&template, sql, &table, &parts(&table)))
        .bind(&shard.projection)
        .bind(i32::from(shard.from_slot))
        .bind(i32::from(shard.to_slot))
        .bind(read::signed(from.position.0))
        .bind(from.event)
        .bind(read::signed(from.epoch))
        .bind(from.owner)
        .bind(read::signed(to.0.0))
        .bind(to.1)
        .bind(lazy)
        .bind(keys)
        .bind(rows)
        .bind(deletes);
    step.fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| error::row(&table.to_string(), error))
}

/// Writes rows. A row that its table does not take is [`StoreError::Row`].
pub(crate) async fn write(connection: &mut PgConnection, sql: &Sql, changes: Changes) -> Result<(), StoreError> {
    changes.check()?;
    let Changes { table, upserts, deletes } = changes;
    let refused = |error| error::row(&table.to_string(), error);
    if !upserts.is_empty() {
        let (keys, rows) = keys_and_rows(upserts);
        let upsert = sqlx::query(statement(include_str!("../sql/upsert.sql"), sql, &table, &parts(&table)));
        upsert.bind(keys).bind(rows).execute(&mut *connection).await.map_err(refused)?;
    }
    if !deletes.is_empty() {
        let delete = sqlx::query(statement(include_str!("../sql/delete.sql"), sql, &table, &[]));
        delete.bind(deletes).execute(connection).await.map_err(refused)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: &[Column] =
        &[Column::new("owner", Kind::Text), Column::new("amount", Kind::Integer), Column::optional("note", Kind::Text)];
    const TABLE: Table = Table { name: "balance", version: 1, columns: COLUMNS, shadow: false };

    fn sql() -> Sql {
        Sql::new("bank", "bank_rows").expect("these are names")
    }

    fn missing(table: &Table, columns: &[(&str, &str)]) -> Result<Vec<&'static str>, StoreError> {
        let missing = missing_columns_among(&sql(), table, columns.iter().copied())?;
        Ok(missing.into_iter().map(|column| column.name).collect())
    }

    #[test]
    fn only_an_optional_column_may_be_missing() {
        let (key, owner, amount, note) = (("key", "text"), ("owner", "text"), ("amount", "bigint"), ("note", "text"));
        assert!(missing(&TABLE, &[note, amount, key, owner]).is_ok_and(|missing| missing.is_empty()), "in any order");
        assert!(missing(&TABLE, &[key, owner, amount]).is_ok_and(|missing| missing == ["note"]));
        let columns = |found: &[(&str, &str)]| matches!(missing(&TABLE, found), Err(StoreError::Columns { .. }));
        assert!(columns(&[key, owner, note]), "every row needs an amount");
        assert!(columns(&[key, owner, ("amount", "numeric"), note]), "it has another type");
        assert!(columns(&[key, owner, amount, ("remark", "text")]), "`note` may have been renamed");
        assert!(
            columns(&[owner, amount, note]) && columns(&[("key", "uuid"), owner, amount, note]),
            "no key, another key"
        );
        assert!(matches!(missing(&TABLE, &[]), Err(StoreError::NotBuilt { .. })));
    }

    #[test]
    fn a_table_of_the_engine_with_other_columns_is_named_with_its_schema() {
        let engine = Table { name: "nodes", version: 0, ..TABLE };
        let error = missing(&engine, &[("key", "text"), ("title", "text")]).expect_err("it belongs to another program");
        assert!(matches!(&error, StoreError::Schema(why) if why.contains("`bank_rows.nodes`")), "{error}");
    }

    #[test]
    fn values_are_numbered_after_those_that_are_bound_before_them() {
        let mut values = Values { bound: vec![], before: 3 };
        let equal = Filter { column: &COLUMNS[0], comparison: Comparison::Equal(json!("Ann")) };
        let among = Filter { column: &COLUMNS[1], comparison: Comparison::In(vec![json!(1), json!(2), json!(null)]) };
        let found = conditions(&[equal, among], &mut values);
        assert!(found.contains("t.\"owner\" = CAST($4::text AS text)"), "{found}");
        assert!(found.contains("ANY (CAST($5::text[] AS bigint[])) OR t.\"amount\" IS NULL"), "{found}");
        assert_eq!(values.bound.len(), 2, "a list is one parameter, whatever its length");
    }

    #[test]
    fn null_equals_null_and_is_neither_less_nor_greater() {
        let condition = |comparison| {
            let mut values = Values { bound: vec![], before: 0 };
            let found = conditions(&[Filter { column: &COLUMNS[1], comparison }], &mut values);
            assert!(values.bound.is_empty(), "a parameter that the statement does not have cannot be bound");
            found
        };
        assert_eq!(condition(Comparison::Equal(Json::Null)), "true AND t.\"amount\" IS NULL");
        assert_eq!(condition(Comparison::Less(Json::Null)), "true AND false");
        assert_eq!(condition(Comparison::GreaterOrEqual(Json::Null)), "true AND false");
    }

    #[test]
    fn past_a_row_without_a_value_only_rows_without_a_value_follow() {
        let mut values = Values { bound: vec![], before: 0 };
        let after = |value| Some(SortKey { value, key: "bob".into() });
        let (valued, null) = parts_past(&COLUMNS[1], false, &after(json!(null)), &mut values);
        assert_eq!((&*valued, &*null), ("false", "(t.\"amount\" IS NULL AND t.key > $1::text COLLATE \"C\")"));
        let (valued, null) = parts_past(&COLUMNS[1], true, &after(json!(7)), &mut values);
        assert!(valued.starts_with("(t.\"amount\" <= CAST($3::text AS bigint) AND"), "descending: {valued}");
        assert_eq!(null, "t.\"amount\" IS NULL", "all rows without a value follow");
    }

    #[test]
    fn a_name_is_quoted_wherever_a_statement_has_it() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        let shadow = Table { shadow: true, ..TABLE };
        assert_eq!(name(&sql(), &shadow), format!("\"bank_rows\".\"{shadow}\""));
    }
}
