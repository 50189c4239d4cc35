//! Rows of read models, and checkpoints.

use std::{borrow::Cow, collections::HashMap};

use eventstore_core::{
    __private::SHADOW, Changes, Checkpoint, Column, Comparison, Filter, Kind, Order, Position, Rows, Select, Shard,
    SortKey, StoreError, Table, Timestamp,
};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, value::RawValue};
use sqlx::{
    AssertSqlSafe, Row, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};
use uuid::Uuid;

use crate::{error, read};

type Statement = Query<'static, Sqlite, SqliteArguments>;

/// The type of a column in the file. Its last word is what SQLite goes by, the first is for us: a column of another
/// kind is seen.
fn sql_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::Integer => "INTEGER",
        Kind::Real => "REAL",
        Kind::Bool => "BOOLEAN INTEGER",
        Kind::Uuid => "UUID TEXT",
        Kind::Time => "TIMESTAMPTZ TEXT",
        _ => "JSON TEXT",
    }
}

/// The name of a table in the file.
fn name(table: &Table) -> String {
    in_file(&table.to_string())
}

/// A name of the contract as the file has it. A read model's, `balance@1`, is the user's to read; those of the engine,
/// `nodes`, have the prefix of this library.
fn in_file(name: &str) -> String {
    if name.contains('@') { name.to_owned() } else { format!("eventstore_{name}") }
}

/// A statement of `sql/`, with the names of a table put in. They come from constants of the program and are quoted.
fn statement(template: &str, table: &Table, parts: &[(&str, String)]) -> String {
    let sql = template.replace("{table}", &quoted(&name(table)));
    parts.iter().fold(sql, |sql, (name, part)| sql.replace(name, part))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn list(columns: &[Column], piece: impl Fn(usize, &Column) -> String) -> String {
    columns.iter().enumerate().map(|(n, column)| piece(n, column)).collect::<Vec<_>>().join(", ")
}

fn names(columns: &[Column]) -> String {
    list(columns, |_, column| quoted(column.name))
}

/// Runs in a transaction of the caller's.
pub(crate) async fn create(connection: &mut SqliteConnection, table: &Table) -> Result<(), StoreError> {
    let define = |column: &Column| format!("{} {}", quoted(column.name), sql_type(column.kind));
    match lacks(connection, table).await {
        Err(StoreError::NotBuilt { .. }) => {
            let columns = ("{columns}", list(table.columns, |_, column| define(column)));
            run(connection, statement(include_str!("../sql/create_table.sql"), table, &[columns])).await
        }
        lacking => {
            for column in lacking? {
                let column = ("{column}", define(column));
                run(connection, statement(include_str!("../sql/add_column.sql"), table, &[column])).await?;
            }
            Ok(())
        }
    }
}

/// Runs in a transaction of the caller's.
pub(crate) async fn index(connection: &mut SqliteConnection, table: &Table) -> Result<(), StoreError> {
    built(connection, table).await?;
    let there = sqlx::query_scalar(include_str!("../sql/indexed.sql")).bind(name(table));
    let there: Vec<String> = there.fetch_all(&mut *connection).await.map_err(error::store)?;
    let lacking = |column: &&Column| column.index && !there.iter().any(|name| name == column.name);
    for column in table.columns.iter().filter(lacking) {
        // A table that is renamed keeps the names of its indexes, so they say nothing of a version.
        let prefix = name(&Table { shadow: false, ..*table });
        let prefix = prefix.split('@').next().unwrap_or_default();
        let index = ("{index}", quoted(&format!("{prefix}.{}.{}", column.name, Uuid::now_v7().simple())));
        let column = ("{column}", quoted(column.name));
        run(connection, statement(include_str!("../sql/create_index.sql"), table, &[index, column])).await?;
    }
    Ok(())
}

async fn run(connection: &mut SqliteConnection, sql: String) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(error::store)
}

/// The columns to be added to a table, if it is there and that makes it fit.
async fn lacks(connection: &mut SqliteConnection, table: &Table) -> Result<Vec<&'static Column>, StoreError> {
    let name = name(table);
    let there = columns(connection, &name).await?;
    let (keys, there): (Vec<_>, Vec<_>) = there.iter().partition(|(name, _)| name == "key");
    match keys[..] {
        [] if there.is_empty() => return Err(StoreError::NotBuilt { table: name }),
        [(_, kind)] if kind == "TEXT" => {}
        _ => return Err(table.misfit(&name)),
    }
    let wanted = |name: &str| table.columns.iter().find(|column| column.name == name);
    let same = |(name, kind): &'_ (String, String)| wanted(name).is_none_or(|column| sql_type(column.kind) == *kind);
    table.lacks(&name, &there.into_iter().map(|column| (&*column.0, same(column))).collect::<Vec<_>>())
}

/// Refuses a table that is not there, or has other columns.
async fn built(connection: &mut SqliteConnection, table: &Table) -> Result<(), StoreError> {
    match lacks(connection, table).await?[..] {
        [] => Ok(()),
        _ => Err(table.misfit(&name(table))),
    }
}

/// The columns of a table, each with its type; none if there is no such table.
pub(crate) async fn columns(
    connection: &mut SqliteConnection,
    table: &str,
) -> Result<Vec<(String, String)>, StoreError> {
    let columns = sqlx::query_as(include_str!("../sql/table.sql")).bind(table.to_owned());
    columns.fetch_all(connection).await.map_err(error::store)
}

/// What rows are read from: a table, or one with columns it lacks.
fn with_nulls(table: &Table, lacking: &[&Column]) -> String {
    if lacking.is_empty() {
        return quoted(&name(table));
    }
    let nulls = lacking.iter().map(|column| format!("NULL AS {}", quoted(column.name))).collect::<Vec<_>>().join(", ");
    format!("({})", statement(include_str!("../sql/with_nulls.sql"), table, &[("{nulls}", nulls)]))
}

pub(crate) async fn shards(
    connection: &mut SqliteConnection,
    projection: Option<&str>,
) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
    let shards = sqlx::query(include_str!("../sql/shards.sql")).bind(projection.map(str::to_owned));
    shards.fetch_all(connection).await.map_err(error::store)?.iter().map(shard).collect()
}

pub(crate) async fn lock(connection: &mut SqliteConnection, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
    let lock = named(include_str!("../sql/lock_shard.sql"), shard).fetch_optional(connection).await;
    Ok(lock.map_err(error::store)?.as_ref().map(self::shard).transpose()?.map(|(_, checkpoint)| checkpoint))
}

pub(crate) async fn put_shards(
    connection: &mut SqliteConnection,
    projection: &str,
    shards: Vec<(Shard, Checkpoint)>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let remove = sqlx::query(include_str!("../sql/remove_shards.sql")).bind(projection.to_owned());
    remove.execute(&mut *connection).await.map_err(error::store)?;
    for (shard, Checkpoint { position, event, epoch, owner }) in shards {
        let put = named(include_str!("../sql/put_shard.sql"), &shard).bind(read::signed(position.0)).bind(event);
        let put = put.bind(read::signed(epoch)).bind(owner).bind(now.as_micros());
        put.execute(&mut *connection).await.map_err(error::store)?;
    }
    Ok(())
}

pub(crate) async fn advance(
    connection: &mut SqliteConnection,
    shard: &Shard,
    to: Position,
    event: Option<Uuid>,
    now: Timestamp,
) -> Result<(), StoreError> {
    if let Some(event) = event {
        let there = sqlx::query_scalar(include_str!("../sql/is_in_log.sql")).bind(read::signed(to.0)).bind(event);
        if !there.fetch_one(&mut *connection).await.map_err(error::store)? {
            return Err(StoreError::Forked { position: to, event: Some(event) });
        }
    }
    let advance = named(include_str!("../sql/advance.sql"), shard).bind(read::signed(to.0)).bind(event);
    advance.bind(now.as_micros()).execute(connection).await.map(drop).map_err(error::store)
}

/// A statement that begins with the name of a shard.
fn named(sql: &'static str, Shard { projection, from_slot, to_slot, .. }: &Shard) -> Statement {
    sqlx::query(sql).bind(projection.clone()).bind(*from_slot).bind(*to_slot)
}

fn shard(row: &SqliteRow) -> Result<(Shard, Checkpoint), StoreError> {
    let shard = || Ok(Shard::new(row.try_get::<String, _>(0)?, row.try_get(1)?..row.try_get(2)?));
    let rest = || Ok((row.try_get(3)?, row.try_get(4)?, row.try_get::<i64, _>(5)?, row.try_get(6)?));
    let (position, event, epoch, owner) = rest().map_err(error::store)?;
    let (position, epoch) = (read::position(position)?, epoch.unsigned_abs());
    Ok((shard().map_err(error::store)?, Checkpoint { position, event, epoch, owner }))
}

pub(crate) async fn rows(
    connection: &mut SqliteConnection,
    rows: Rows,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let table = match rows {
        Rows::Keys { table, .. } | Rows::Where { table, .. } => table,
        Rows::Whole { table, keys, after, limit } => return whole(connection, table, keys, after, limit).await,
    };
    let from = ("{from}", with_nulls(&table, &lacks(connection, &table).await?));
    let columns = ("{columns}", names(table.columns));
    let found = match rows {
        Rows::Keys { keys, .. } => {
            let sql = statement(include_str!("../sql/rows_by_key.sql"), &table, &[columns, from]);
            sqlx::query(AssertSqlSafe(sql)).bind(serde_json::json!(keys).to_string()).fetch_all(connection).await
        }
        Rows::Where { equal, order, limit, .. } => {
            let equal = equal.into_iter().map(|(column, value)| (column, Comparison::Equal(value)));
            let filters = equal.map(|(column, comparison)| Filter { column, comparison }).collect();
            let select = Select { table, filters, order, after: None, limit };
            return self::select(connection, select).await;
        }
        Rows::Whole { .. } => return Ok(vec![]),
    };
    let columns: Vec<_> = table.columns.iter().map(|column| (column.name, column.kind)).collect();
    found.map_err(error::store)?.iter().map(|row| object(&table.to_string(), &columns, row)).collect()
}

/// The rows of a query, in order.
pub(crate) async fn select(
    connection: &mut SqliteConnection,
    select: Select,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let Select { table, order, limit, .. } = select;
    let from = with_nulls(&table, &lacks(connection, &table).await?);
    let columns = ("{columns}", names(table.columns));
    let mut values = Values { bound: vec![], before: 2 };
    let conditions = conditions(&select.filters, &mut values);
    let (from, conditions) = match order.by {
        Some(column) if limit.is_some() && order.skip == 0 => {
            let (valued, null) = parts_past(column, order.descending, &select.after, &mut values);
            let direction = if order.descending { "DESC" } else { "ASC" };
            let by = format!("{} {direction}, key", in_order(&quoted(column.name), column.kind));
            let parts = [
                columns.clone(),
                ("{conditions}", conditions),
                ("{valued}", valued),
                ("{null}", null),
                ("{by}", by),
                ("{from}", from),
            ];
            (statement(include_str!("../sql/rows_page.sql"), &table, &parts), "TRUE".into())
        }
        by => {
            let past = match (by, &select.after) {
                (_, None) => "TRUE".into(),
                (None, Some(after)) => {
                    let sign = if order.descending { "<" } else { ">" };
                    format!("key {sign} {}", values.push(Kind::Text, &after.key.clone().into()))
                }
                (Some(column), after) => {
                    let (valued, null) = parts_past(column, order.descending, after, &mut values);
                    format!("({valued} OR {null})")
                }
            };
            (from, format!("{conditions} AND {past}"))
        }
    };
    let parts = [columns, ("{conditions}", conditions), ("{order}", order_by(order)), ("{from}", from)];
    let sql = statement(include_str!("../sql/rows_where.sql"), &table, &parts);
    let limit = limit.map_or(-1, |limit| read::signed(limit as u64));
    let query = sqlx::query(AssertSqlSafe(sql)).bind(limit).bind(read::signed(order.skip as u64));
    let found = values.bind(query, &table)?.fetch_all(connection).await.map_err(error::store)?;
    let columns: Vec<_> = table.columns.iter().map(|column| (column.name, column.kind)).collect();
    found.iter().map(|row| object(&table.to_string(), &columns, row)).collect()
}

/// The number of rows that pass the filters of a query.
pub(crate) async fn count(connection: &mut SqliteConnection, select: Select) -> Result<u64, StoreError> {
    let table = select.table;
    let from = ("{from}", with_nulls(&table, &lacks(connection, &table).await?));
    let mut values = Values { bound: vec![], before: 0 };
    let conditions = ("{conditions}", conditions(&select.filters, &mut values));
    let sql = statement(include_str!("../sql/rows_count.sql"), &table, &[conditions, from]);
    let query = values.bind(sqlx::query(AssertSqlSafe(sql)), &table)?;
    let count: i64 = query.fetch_one(connection).await.and_then(|row| row.try_get(0)).map_err(error::store)?;
    Ok(count.unsigned_abs())
}

/// The values of a statement, numbered after those that are bound before them.
struct Values {
    bound: Vec<(Kind, Json)>,
    before: usize,
}

impl Values {
    fn push(&mut self, kind: Kind, value: &Json) -> String {
        self.bound.push((kind, value.clone()));
        format!("?{}", self.bound.len() + self.before)
    }

    fn bind(self, query: Statement, table: &Table) -> Result<Statement, StoreError> {
        self.bound.into_iter().try_fold(query, |query, (kind, value)| {
            let value = serde_json::value::to_raw_value(&value).map_err(|error| refused(table, error))?;
            bind(query, kind, &value).map_err(|error| refused(table, error))
        })
    }
}

/// The filters, as a condition.
fn conditions(filters: &[Filter], values: &mut Values) -> String {
    let mut conditions = vec!["TRUE".to_owned()];
    for Filter { column, comparison } in filters {
        let (name, kind) = (quoted(column.name), column.kind);
        let mut ordered = |sign: &str, value: &Json| {
            let value = in_order(&values.push(kind, value), kind);
            format!("{} {sign} {value}", in_order(&name, kind))
        };
        conditions.push(match comparison {
            Comparison::Less(value) => ordered("<", value),
            Comparison::LessOrEqual(value) => ordered("<=", value),
            Comparison::Greater(value) => ordered(">", value),
            Comparison::GreaterOrEqual(value) => ordered(">=", value),
            Comparison::Equal(value) => format!("{name} IS {}", values.push(kind, value)),
            // A list, since a chain of `OR` may be 1,000 deep at most.
            Comparison::In(given) => {
                let some = given.iter().filter(|value| !value.is_null());
                let some = some.map(|value| values.push(kind, value)).collect::<Vec<_>>().join(", ");
                let or_null = if given.contains(&Json::Null) { format!("{name} IS NULL") } else { "FALSE".into() };
                format!("({name} IN ({some}) OR {or_null})")
            }
        });
    }
    conditions.join(" AND ")
}

/// The conditions for rows past a row in the order of a column: for those with a value, which come first, and for those
/// with null.
fn parts_past(column: &Column, descending: bool, after: &Option<SortKey>, values: &mut Values) -> (String, String) {
    let name = quoted(column.name);
    let null = format!("{name} IS NULL");
    let Some(SortKey { value, key }) = after else {
        return (format!("{name} IS NOT NULL"), null);
    };
    let key = values.push(Kind::Text, &key.clone().into());
    if value.is_null() {
        return ("FALSE".into(), format!("({null} AND key > {key})"));
    }
    let there = in_order(&values.push(column.kind, value), column.kind);
    let here = in_order(&name, column.kind);
    let sign = if descending { "<" } else { ">" };
    // The first comparison is what an index is searched by.
    (format!("({here} {sign}= {there} AND ({here} {sign} {there} OR key > {key}))"), null)
}

/// A value in a form that has its order: as text, a fraction of a second would come before the Z it is without.
fn in_order(value: &str, kind: Kind) -> String {
    if kind == Kind::Time { format!("rtrim({value}, 'Z')") } else { value.to_owned() }
}

/// What is written after `ORDER BY`.
fn order_by(Order { by, descending, .. }: Order) -> String {
    let direction = if descending { "DESC" } else { "ASC" };
    let Some(column) = by else { return format!("key {direction}") };
    let value = in_order(&quoted(column.name), column.kind);
    format!("{value} {direction} NULLS LAST, key")
}

async fn whole(
    connection: &mut SqliteConnection,
    table: String,
    keys: Vec<String>,
    after: String,
    limit: usize,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let table = in_file(&table);
    let there = self::columns(&mut *connection, &table).await?;
    if there.is_empty() {
        return Err(StoreError::NotBuilt { table });
    }
    let columns = there.iter().filter(|(name, _)| name != "key");
    let columns: Vec<_> = columns.map(|(name, declared)| (&**name, kind(declared))).collect();
    let names = columns.iter().map(|(name, _)| quoted(name)).collect::<Vec<_>>().join(", ");
    let sql = include_str!("../sql/rows_whole.sql").replace("{table}", &quoted(&table)).replace("{columns}", &names);
    let keys = (!keys.is_empty()).then(|| serde_json::json!(keys).to_string());
    let all = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(keys).bind(read::signed(limit as u64));
    let all = all.fetch_all(connection).await.map_err(error::store)?;
    all.iter().map(|row| object(&table, &columns, row)).collect()
}

fn kind(declared: &str) -> Kind {
    let kinds = [Kind::Text, Kind::Integer, Kind::Real, Kind::Bool, Kind::Uuid, Kind::Time];
    kinds.into_iter().find(|kind| sql_type(*kind) == declared).unwrap_or(Kind::Json)
}

/// Runs statements of `sql/`, with names put in, quoted.
pub(crate) async fn named_tables(
    connection: &mut SqliteConnection,
    template: &str,
    names: &[(&str, &str)],
) -> Result<(), StoreError> {
    let sql = names.iter().fold(template.to_owned(), |sql, (name, put)| sql.replace(name, &quoted(put)));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(error::store)
}

/// A table and its shadow exchange their names.
pub(crate) async fn swap(connection: &mut SqliteConnection, table: &str) -> Result<(), StoreError> {
    let table = in_file(table);
    let (shadow, aside) = (format!("{table}{SHADOW}"), format!("{table}~aside"));
    for table in [&table, &shadow] {
        if columns(connection, table).await?.is_empty() {
            return Err(StoreError::NotBuilt { table: table.into() });
        }
    }
    let names = [("{table}", &*table), ("{shadow}", &*shadow), ("{aside}", &*aside)];
    named_tables(connection, include_str!("../sql/swap.sql"), &names).await
}

/// Shows a table under a name.
pub(crate) async fn publish(connection: &mut SqliteConnection, view: &str, table: &str) -> Result<(), StoreError> {
    let (view, table) = (in_file(view), in_file(table));
    named_tables(connection, include_str!("../sql/publish.sql"), &[("{view}", &view), ("{table}", &table)]).await
}

pub(crate) async fn remove(connection: &mut SqliteConnection, table: &str) -> Result<(), StoreError> {
    named_tables(connection, include_str!("../sql/remove_table.sql"), &[("{table}", &in_file(table))]).await
}

fn refused(table: impl ToString, error: serde_json::Error) -> StoreError {
    StoreError::Row { table: table.to_string(), reason: error.into() }
}

/// A row as the JSON object it was written as.
fn object(table: &str, columns: &[(&str, Kind)], row: &SqliteRow) -> Result<(String, Box<RawValue>), StoreError> {
    let key = row.try_get(0).map_err(error::store)?;
    let mut object = String::from("{");
    for ((name, kind), n) in columns.iter().zip(1..) {
        let value = value(row, n, *kind)?;
        let comma = if n > 1 { "," } else { "" };
        object.push_str(&format!("{comma}{}:{}", serde_json::json!(name), value.as_deref().unwrap_or("null")));
    }
    object.push('}');
    RawValue::from_string(object).map(|row| (key, row)).map_err(|error| refused(table, error))
}

fn value(row: &SqliteRow, n: usize, kind: Kind) -> Result<Option<String>, StoreError> {
    let integer = || row.try_get::<Option<i64>, _>(n).map_err(error::store);
    let text = || row.try_get::<Option<&str>, _>(n).map_err(error::store);
    Ok(match kind {
        Kind::Integer => integer()?.map(|number| number.to_string()),
        Kind::Bool => integer()?.map(|number| (number != 0).to_string()),
        Kind::Real => {
            let number = row.try_get::<Option<f64>, _>(n).map_err(error::store)?;
            number.map(|number| serde_json::json!(number).to_string())
        }
        Kind::Json => text()?.map(str::to_owned),
        _ => text()?.map(|text| serde_json::json!(text).to_string()),
    })
}

pub(crate) async fn write(connection: &mut SqliteConnection, changes: Changes) -> Result<(), StoreError> {
    built(connection, &changes.table).await?;
    changes.check()?;
    let Changes { table, upserts, deletes } = changes;
    let columns = ("{columns}", names(table.columns));
    let values = ("{values}", list(table.columns, |n, _| format!("?{}", n + 2)));
    let updates = list(table.columns, |_, column| format!("{0} = excluded.{0}", quoted(column.name)));
    let sql = statement(include_str!("../sql/upsert.sql"), &table, &[columns, values, ("{updates}", updates)]);
    let sql: std::sync::Arc<str> = sql.into();
    for (key, row) in upserts {
        let upsert = upsert(sqlx::query(AssertSqlSafe(sql.clone())).bind(key), &table, &row);
        let upsert = upsert.map_err(|error| refused(table, error))?;
        upsert.execute(&mut *connection).await.map_err(|error| error::row(&table.to_string(), error))?;
    }
    if !deletes.is_empty() {
        let sql = statement(include_str!("../sql/delete.sql"), &table, &[]);
        let delete = sqlx::query(AssertSqlSafe(sql)).bind(serde_json::json!(deletes).to_string());
        delete.execute(connection).await.map_err(error::store)?;
    }
    Ok(())
}

fn upsert(mut query: Statement, table: &Table, row: &RawValue) -> Result<Statement, serde_json::Error> {
    let row: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(row.get())?;
    for column in table.columns {
        query = bind(query, column.kind, row.get(column.name).copied().unwrap_or(RawValue::NULL))?;
    }
    Ok(query)
}

/// Binds a value in the form its column has.
fn bind(query: Statement, kind: Kind, value: &RawValue) -> Result<Statement, serde_json::Error> {
    fn read<T: DeserializeOwned>(value: &RawValue) -> Result<Option<T>, serde_json::Error> {
        serde_json::from_str(value.get())
    }
    Ok(match kind {
        Kind::Text => query.bind(read::<String>(value)?),
        Kind::Integer => query.bind(read::<i64>(value)?),
        Kind::Real => query.bind(read::<f64>(value)?),
        Kind::Bool => query.bind(read::<bool>(value)?),
        Kind::Uuid => query.bind(read::<Uuid>(value)?.map(|uuid| uuid.to_string())),
        Kind::Time => query.bind(read::<Timestamp>(value)?.map(|time| time.to_string())),
        _ => query.bind(read::<Json>(value)?.map(|_| value.get().to_owned())),
    })
}
