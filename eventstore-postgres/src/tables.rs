//! Rows of read models, and checkpoints.

use std::collections::HashMap;

use eventstore_core::{
    __private::SHADOW, Changes, Checkpoint, Column, Comparison, Filter, Kind, Position, Rows, Select, Shard, SortKey,
    Step, StoreError, Table,
};
use serde_json::{Value as Json, value::RawValue};
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, Row, postgres::PgArguments, query::QueryAs};
use uuid::Uuid;

use crate::{
    error, read,
    sql::{Sql, quoted},
};

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

/// A statement of `sql/`, with the names of a table put in. They come from constants of the program and are quoted.
fn statement(template: &str, sql: &Sql, table: &Table, parts: &[(&str, String)]) -> AssertSqlSafe<String> {
    let text = template.replace("{table}", &name(sql, table));
    AssertSqlSafe(parts.iter().fold(text, |text, (name, part)| text.replace(name, part)))
}

fn name(sql: &Sql, table: &Table) -> String {
    format!("{}.{}", quoted(sql.tables()), quoted(&table.to_string()))
}

fn list(columns: &[Column], piece: impl Fn(&str) -> String) -> String {
    columns.iter().map(|column| piece(&quoted(column.name))).collect::<Vec<_>>().join(", ")
}

/// The columns to be added to a table; none if there is no such table.
pub(crate) async fn to_add(
    connection: &mut PgConnection,
    sql: &Sql,
    table: &Table,
) -> Result<Option<Vec<&'static Column>>, StoreError> {
    let there = columns(connection, sql, table).await?;
    let there = (!there.is_empty()).then_some(there);
    there.map(|there| lacks(sql, table, there.iter().map(|(name, kind, _)| (&**name, &**kind)))).transpose()
}

/// Whether a table is there and fits: the common case, in which no caller waits for the table lock. Not in the transaction of
/// [`create`]: a name that was not found is remembered, and would not be found in it after another session made the table.
pub(crate) async fn is_built(connection: &mut PgConnection, sql: &Sql, table: &Table) -> Result<bool, StoreError> {
    Ok(to_add(connection, sql, table).await?.is_some_and(|lacking| lacking.is_empty()))
}

/// Runs in a transaction of the caller's.
pub(crate) async fn create(connection: &mut PgConnection, sql: &Sql, table: &Table) -> Result<(), StoreError> {
    sqlx::query(sql.lock_tables()).execute(&mut *connection).await.map_err(error::store)?;
    let define = |column: &Column| {
        let collation = if column.kind == Kind::Text { " COLLATE \"C\"" } else { "" };
        format!("{} {}{collation}", quoted(column.name), sql_type(column.kind))
    };
    if let Some(lacking) = to_add(&mut *connection, sql, table).await? {
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

/// The columns that lack an index.
pub(crate) async fn lacking<'a>(
    connection: &mut PgConnection,
    sql: &Sql,
    table: &'a Table,
) -> Result<Vec<&'a Column>, StoreError> {
    let there = columns(connection, sql, table).await?;
    fits(sql, table, there.iter().map(|(name, kind, _)| (&**name, &**kind)))?;
    let indexed = |column: &&Column| there.iter().any(|(name, _, indexed)| *indexed && name == column.name);
    Ok(table.columns.iter().filter(|column| column.index && !indexed(column)).collect())
}

/// Runs in a transaction of the caller's.
pub(crate) async fn index(connection: &mut PgConnection, sql: &Sql, table: &Table) -> Result<(), StoreError> {
    sqlx::query(sql.lock_tables()).execute(&mut *connection).await.map_err(error::store)?;
    for column in lacking(&mut *connection, sql, table).await? {
        let column = ("{column}", quoted(column.name));
        let create = sqlx::query(statement(include_str!("../sql/create_index.sql"), sql, table, &[column]));
        create.execute(&mut *connection).await.map_err(error::store)?;
    }
    Ok(())
}

/// The columns there are, each with its type and whether it is indexed.
async fn columns(
    connection: &mut PgConnection,
    sql: &Sql,
    table: &Table,
) -> Result<Vec<(String, String, bool)>, StoreError> {
    let columns = sqlx::query_as(sql.table()).bind(name(sql, table));
    columns.fetch_all(connection).await.map_err(error::store)
}

/// The columns to be added to a table, if it is there and that makes it fit.
fn lacks<'a>(
    sql: &Sql,
    table: &Table,
    there: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<&'static Column>, StoreError> {
    let (keys, there): (Vec<_>, Vec<_>) = there.partition(|(name, _)| *name == "key");
    match keys[..] {
        [] if there.is_empty() => return Err(StoreError::NotBuilt { table: table.to_string() }),
        [(_, "text")] => {}
        _ => return Err(misfit(sql, table)),
    }
    let wanted = |name: &str| table.columns.iter().find(|column| column.name == name);
    let same = |(name, kind): (&'a str, &str)| (name, wanted(name).is_none_or(|column| sql_type(column.kind) == kind));
    let there = there.into_iter().map(same).collect::<Vec<_>>();
    table.lacks(&table.to_string(), &there).map_err(|_| misfit(sql, table))
}

/// The error for a table whose columns do not fit. One of the engine's is named with its schema, where the user has tables.
fn misfit(sql: &Sql, table: &Table) -> StoreError {
    match table.version {
        0 => table.misfit(&format!("{}.{table}", sql.tables())),
        _ => table.misfit(&table.to_string()),
    }
}

/// Refuses a table that is not there, or has other columns.
fn fits<'a>(sql: &Sql, table: &Table, there: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), StoreError> {
    match lacks(sql, table, there)?[..] {
        [] => Ok(()),
        _ => Err(misfit(sql, table)),
    }
}

/// A shard and its checkpoint, as a row.
type Stored = (String, i32, i32, i64, Option<Uuid>, i64, Option<Uuid>);

fn shard((projection, from, to, position, event, epoch, owner): Stored) -> Result<(Shard, Checkpoint), StoreError> {
    let slot = |slot: i32| u16::try_from(slot).map_err(error::damaged);
    let shard = Shard::new(projection, slot(from)?..slot(to)?);
    Ok((shard, Checkpoint { position: read::position(position)?, event, epoch: epoch.unsigned_abs(), owner }))
}

pub(crate) async fn shards(
    connection: &mut PgConnection,
    sql: &Sql,
    projection: Option<&str>,
) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
    let shards = sqlx::query_as(sql.shards()).bind(projection).fetch_all(connection).await;
    shards.map_err(error::store)?.into_iter().map(shard).collect()
}

/// Locks a shard until the end of the caller's transaction.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    sql: &Sql,
    Shard { projection, from_slot, to_slot, .. }: &Shard,
) -> Result<Option<Checkpoint>, StoreError> {
    let lock = sqlx::query(sql.lock_shard()).bind(projection).bind(i32::from(*from_slot)).bind(i32::from(*to_slot));
    let locked = lock.fetch_optional(connection).await.map_err(error::store)?;
    let stored = locked.as_ref().map(Stored::from_row).transpose().map_err(error::store)?;
    Ok(stored.map(shard).transpose()?.map(|(_, checkpoint)| checkpoint))
}

/// Locks a projection until the end of the caller's transaction.
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

/// What rows are read from: a table, or one with columns it lacks.
fn with_nulls(sql: &Sql, table: &Table, lacking: &[&'static Column]) -> String {
    if lacking.is_empty() {
        return name(sql, table);
    }
    let null = |column: &&Column| format!("NULL::{} AS {}", sql_type(column.kind), quoted(column.name));
    let nulls = lacking.iter().map(null).collect::<Vec<_>>().join(", ");
    format!("({})", statement(include_str!("../sql/with_nulls.sql"), sql, table, &[("{nulls}", nulls)]).0)
}

/// Reads rows of a table that lacks these columns; without them, of one that has all.
pub(crate) async fn rows(
    connection: &mut PgConnection,
    sql: &Sql,
    rows: Rows,
    lacking: &[&'static Column],
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let table = match rows {
        Rows::Keys { table, .. } | Rows::Where { table, .. } => table,
        Rows::Whole { table, keys, after, limit } => return whole(connection, sql, table, keys, after, limit).await,
    };
    let columns = ("{columns}", list(table.columns, |column| format!("t.{column}")));
    let from = ("{from}", with_nulls(sql, &table, lacking));
    // What there is besides is for the order only.
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
    as_asked(sql, &table, found, lacking)
}

/// The rows of a query, in order, of a table that lacks these columns.
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
    as_asked(sql, &table, found, lacking)
}

/// The number of rows that pass the filters of a query, of a table that lacks these columns.
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
        StoreError::Columns { .. } => misfit(sql, &table),
        error => error,
    })?;
    as_it_is(sql, &table, &types.unwrap_or_default(), lacking)?;
    Ok(count.unsigned_abs())
}

/// The values of a statement, numbered after those that are bound before them.
struct Values {
    bound: Vec<Bound>,
    before: usize,
}

enum Bound {
    One(String),
    Many(Vec<String>),
}

impl Values {
    fn push(&mut self, value: Bound) -> usize {
        self.bound.push(value);
        self.bound.len() + self.before
    }

    /// A value that is not null.
    fn one(&mut self, kind: Kind, value: &Json) -> Option<String> {
        let text = text(value.clone())?;
        Some(format!("CAST(${}::text AS {})", self.push(Bound::One(text)), sql_type(kind)))
    }

    fn key(&mut self, key: &str) -> String {
        format!("${}::text COLLATE \"C\"", self.push(Bound::One(key.into())))
    }

    fn bind<'a, T>(self, query: QueryAs<'a, Postgres, T, PgArguments>) -> QueryAs<'a, Postgres, T, PgArguments> {
        self.bound.into_iter().fold(query, |query, value| match value {
            Bound::One(value) => query.bind(value),
            Bound::Many(values) => query.bind(values),
        })
    }
}

/// The filters, as a condition.
fn conditions(filters: &[Filter], values: &mut Values) -> String {
    let mut conditions = vec!["true".to_owned()];
    for Filter { column, comparison } in filters {
        let name = format!("t.{}", quoted(column.name));
        let null = format!("{name} IS NULL");
        // Nothing is less or greater than null.
        let mut ordered = |sign: &str, value: &Json| {
            values.one(column.kind, value).map_or("false".into(), |value| format!("{name} {sign} {value}"))
        };
        conditions.push(match comparison {
            Comparison::Equal(Json::Null) => null,
            Comparison::Equal(value) => ordered("=", value),
            Comparison::In(given) => {
                let each: Vec<_> = given.iter().cloned().filter_map(text).collect();
                let or_null = if each.len() < given.len() { null } else { "false".into() };
                // One parameter for any number of values: PostgreSQL takes 65,535 parameters.
                let each = values.push(Bound::Many(each));
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

/// The conditions for rows past a row in the order of a column: for those with a value, which come first, and for those
/// with null.
fn parts_past(column: &Column, descending: bool, after: &Option<SortKey>, values: &mut Values) -> (String, String) {
    let here = format!("t.{}", quoted(column.name));
    let Some(SortKey { value, key }) = after else {
        return (format!("{here} IS NOT NULL"), format!("{here} IS NULL"));
    };
    let key = values.key(key);
    let sign = if descending { "<" } else { ">" };
    match values.one(column.kind, value) {
        // The first comparison is what an index is searched by.
        Some(there) => (
            format!("({here} {sign}= {there} AND ({here} {sign} {there} OR t.key > {key}))"),
            format!("{here} IS NULL"),
        ),
        None => ("false".into(), format!("({here} IS NULL AND t.key > {key})")),
    }
}

/// The rows found, if the table lacks just these columns; the last row has the types of its columns.
fn as_asked(
    sql: &Sql,
    table: &Table,
    found: Result<Vec<(Option<String>, String)>, sqlx::Error>,
    lacking: &[&'static Column],
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let mut found = found.map_err(|error| match error::row(&table.to_string(), error) {
        StoreError::Columns { .. } => misfit(sql, table),
        error => error,
    })?;
    let refused = |error: serde_json::Error| StoreError::Row { table: table.to_string(), reason: error.into() };
    as_it_is(sql, table, &found.pop().map(|(_, types)| types).unwrap_or_default(), lacking)?;
    let rows = found.into_iter().filter_map(|(key, row)| Some((key?, row)));
    rows.map(|(key, row)| Ok((key, RawValue::from_string(row).map_err(refused)?))).collect()
}

/// Refuses a table whose columns differ from those of the program other than by the ones it lacks.
fn as_it_is(sql: &Sql, table: &Table, types: &str, lacking: &[&'static Column]) -> Result<(), StoreError> {
    let refused = |error: serde_json::Error| StoreError::Row { table: table.to_string(), reason: error.into() };
    let types: HashMap<String, String> = serde_json::from_str(types).map_err(refused)?;
    match lacks(sql, table, types.iter().map(|(name, kind)| (&**name, &**kind)))? == lacking {
        true => Ok(()),
        false => Err(misfit(sql, table)),
    }
}

async fn whole(
    connection: &mut PgConnection,
    sql: &Sql,
    table: String,
    keys: Vec<String>,
    after: String,
    limit: usize,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let refused = |error: serde_json::Error| StoreError::Row { table: table.clone(), reason: error.into() };
    let all = sqlx::query_as(named(include_str!("../sql/rows_whole.sql"), sql, &[("{table}", &table)]));
    let all = all.bind(after).bind((!keys.is_empty()).then_some(keys)).bind(read::signed(limit as u64));
    let all: Vec<(String, String)> = all.fetch_all(connection).await.map_err(|error| error::row(&table, error))?;
    all.into_iter().map(|(key, row)| Ok((key, RawValue::from_string(row).map_err(refused)?))).collect()
}

/// A statement of `sql/`, with names put in, quoted.
fn named(template: &str, sql: &Sql, names: &[(&str, &str)]) -> AssertSqlSafe<String> {
    let text = template.replace("{tables}", &quoted(sql.tables()));
    AssertSqlSafe(names.iter().fold(text, |text, (name, put)| text.replace(name, &quoted(put))))
}

/// Runs statements of `sql/`.
async fn run(
    connection: &mut PgConnection,
    sql: &Sql,
    template: &str,
    names: &[(&str, &str)],
    table: &str,
) -> Result<(), StoreError> {
    let run = sqlx::raw_sql(named(template, sql, names)).execute(connection).await;
    run.map(drop).map_err(|error| error::row(table, error))
}

/// A table and its shadow exchange their names.
pub(crate) async fn swap(connection: &mut PgConnection, sql: &Sql, table: &str) -> Result<(), StoreError> {
    let (shadow, aside) = (format!("{table}{SHADOW}"), format!("{table}~aside"));
    grant(connection, sql, table, &shadow).await?;
    let names = [("{table}", table), ("{shadow}", &shadow), ("{aside}", &aside)];
    run(connection, sql, include_str!("../sql/swap.sql"), &names, table).await
}

/// Gives the shadows of release 0.1, `balance@1~beside`, the names of this one. Runs in a transaction of the caller's.
pub(crate) async fn rename_shadows(connection: &mut PgConnection, sql: &Sql) -> Result<(), StoreError> {
    sqlx::query(sql.lock_tables()).execute(&mut *connection).await.map_err(error::store)?;
    for old in old_shadows(connection, sql).await? {
        let new = old.replace("~beside", SHADOW);
        let names = [("{old}", &*old), ("{new}", &*new)];
        run(connection, sql, include_str!("../sql/rename_shadow.sql"), &names, &old).await?;
        for statement in [sql.rename_shadow_checkpoints(), sql.rename_shadow_letters(), sql.rename_shadow_row()] {
            let rename = sqlx::query(statement).bind(&old).bind(&new);
            rename.execute(&mut *connection).await.map_err(error::store)?;
        }
    }
    Ok(())
}

/// The shadows that have the name release 0.1 gave them. They are the program's, like all rows of read models, so no
/// migration of the owner's could rename them.
pub(crate) async fn old_shadows(connection: &mut PgConnection, sql: &Sql) -> Result<Vec<String>, StoreError> {
    match sqlx::query_scalar(sql.old_shadows()).fetch_all(connection).await {
        // No processor has run, the table is of another program, or this role may not read it.
        Err(error) if error::is(&error, &["42P01", "42703", "42501"]) => Ok(vec![]),
        shadows => shadows.map_err(error::store),
    }
}

/// Shows a table under a name.
pub(crate) async fn publish(
    connection: &mut PgConnection,
    sql: &Sql,
    view: &str,
    table: &str,
) -> Result<(), StoreError> {
    let grants = grants(connection, sql, view, view).await?;
    let names = [("{view}", view), ("{table}", table)];
    run(connection, sql, include_str!("../sql/publish.sql"), &names, table).await?;
    give(connection, grants).await
}

pub(crate) async fn remove(connection: &mut PgConnection, sql: &Sql, table: &str) -> Result<(), StoreError> {
    run(connection, sql, include_str!("../sql/remove_table.sql"), &[("{table}", table)], table).await
}

/// The statements that give the rights others have on one table on another.
async fn grants(connection: &mut PgConnection, sql: &Sql, of: &str, on: &str) -> Result<Vec<String>, StoreError> {
    let [of, on] = [of, on].map(|name| format!("{}.{}", quoted(sql.tables()), quoted(name)));
    let grants = sqlx::query_scalar(include_str!("../sql/grants.sql")).bind(of).bind(on);
    grants.fetch_all(connection).await.map_err(error::store)
}

async fn give(connection: &mut PgConnection, grants: Vec<String>) -> Result<(), StoreError> {
    for grant in grants {
        sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut *connection).await.map_err(error::store)?;
    }
    Ok(())
}

async fn grant(connection: &mut PgConnection, sql: &Sql, of: &str, on: &str) -> Result<(), StoreError> {
    let grants = grants(connection, sql, of, on).await?;
    give(connection, grants).await
}

/// A value as PostgreSQL reads it from text; none for null.
fn text(value: Json) -> Option<String> {
    match value {
        Json::Null => None,
        Json::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// Looks whether the table has the columns the program knows: for [`write`], unless [`rows`] has seen it in the same
/// transaction.
pub(crate) async fn check(connection: &mut PgConnection, sql: &Sql, table: &Table) -> Result<(), StoreError> {
    let there = columns(connection, sql, table).await?;
    fits(sql, table, there.iter().map(|(name, kind, _)| (&**name, &**kind)))
}

/// What a statement that writes rows of a table has in its places.
fn parts(table: &Table) -> [(&'static str, String); 3] {
    let types = table.columns.iter().map(|column| format!("{} {}", quoted(column.name), sql_type(column.kind)));
    [
        ("{columns}", list(table.columns, str::to_owned)),
        ("{types}", types.collect::<Vec<_>>().join(", ")),
        ("{updates}", list(table.columns, |column| format!("{column} = excluded.{column}"))),
    ]
}

/// Keys, and a JSON array of their rows.
fn keys_and_rows(upserts: Vec<(String, Box<RawValue>)>) -> (Vec<String>, String) {
    let rows = upserts.iter().map(|(_, row)| row.get()).collect::<Vec<_>>().join(",");
    (upserts.into_iter().map(|(key, _)| key).collect(), format!("[{rows}]"))
}

/// Makes a step of a shard, if it can be done at once.
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
