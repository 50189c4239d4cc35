//! Reads and writes the rows of read models, and checkpoints.
//!
//! Statements on a read model's table cannot be constants, because they name the table, its columns and their types.
//! They are files of `sql/` with placeholders. Code writes only what has a length of its own: lists of columns, and the
//! conditions and the order of a query. The names are constants of the program and are quoted; values are always bound.

use std::{borrow::Cow, collections::HashMap};

use eventstore_core::{
    Changes, Checkpoint, Column, Comparison, Filter, Kind, Order, Position, Rows, Select, Shard, SortKey, StoreError,
    Table, Timestamp, engine::SHADOW,
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

/// Returns the declared type of a column. SQLite uses its last word; the first word tells kinds apart that SQLite
/// stores alike.
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

/// Returns the name of a table in the file.
fn name(table: &Table) -> String {
    in_file(&table.to_string())
}

/// Returns a table name of the contract as the file has it. Read models, `balance@1`, keep their names, since users
/// read them; tables of the engine, `nodes`, get the prefix of this library.
fn in_file(name: &str) -> String {
    if name.contains('@') { name.to_owned() } else { format!("eventstore_{name}") }
}

/// Puts the quoted name of a table and other parts into a statement of `sql/`.
fn statement(template: &str, table: &Table, parts: &[(&str, String)]) -> String {
    let sql = template.replace("{table}", &quoted(&name(table)));
    parts.iter().fold(sql, |sql, (name, part)| sql.replace(name, part))
}

/// Quotes a name for a statement.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a piece for each column and its number from 0, separated by commas.
fn list(columns: &[Column], piece: impl Fn(usize, &Column) -> String) -> String {
    columns.iter().enumerate().map(|(n, column)| piece(n, column)).collect::<Vec<_>>().join(", ")
}

fn names(columns: &[Column]) -> String {
    list(columns, |_, column| quoted(column.name))
}

/// Creates a table, or adds the columns that it lacks. Runs in the caller's transaction.
pub(crate) async fn create(connection: &mut SqliteConnection, table: &Table) -> Result<(), StoreError> {
    let define = |column: &Column| format!("{} {}", quoted(column.name), sql_type(column.kind));
    match missing_columns(connection, table).await {
        Err(StoreError::NotBuilt { .. }) => {
            let columns = ("{columns}", list(table.columns, |_, column| define(column)));
            execute(connection, statement(include_str!("../sql/create_table.sql"), table, &[columns])).await
        }
        lacking => {
            for column in lacking? {
                let column = ("{column}", define(column));
                execute(connection, statement(include_str!("../sql/add_column.sql"), table, &[column])).await?;
            }
            Ok(())
        }
    }
}

/// Creates the missing indexes of a table. Runs in the caller's transaction.
pub(crate) async fn index(connection: &mut SqliteConnection, table: &Table) -> Result<(), StoreError> {
    check_columns(connection, table).await?;
    let existing = sqlx::query_scalar(include_str!("../sql/indexed.sql")).bind(name(table));
    let existing: Vec<String> = existing.fetch_all(&mut *connection).await.map_err(error::store)?;
    let lacking = |column: &&Column| column.index && !existing.iter().any(|name| name == column.name);
    for column in table.columns.iter().filter(lacking) {
        // A renamed table keeps the names of its indexes, so the names must not contain a version.
        let prefix = name(&Table { shadow: false, ..*table });
        let prefix = prefix.split('@').next().unwrap_or_default();
        let index = ("{index}", quoted(&format!("{prefix}.{}.{}", column.name, Uuid::now_v7().simple())));
        let column = ("{column}", quoted(column.name));
        execute(connection, statement(include_str!("../sql/create_index.sql"), table, &[index, column])).await?;
    }
    Ok(())
}

async fn execute(connection: &mut SqliteConnection, sql: String) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(error::store)
}

/// Returns the columns that a table lacks and that can be added to it. A missing table is [`StoreError::NotBuilt`], one
/// with other columns [`StoreError::Columns`].
async fn missing_columns(connection: &mut SqliteConnection, table: &Table) -> Result<Vec<&'static Column>, StoreError> {
    let name = name(table);
    let existing = read_columns(connection, &name).await?;
    let (keys, existing): (Vec<_>, Vec<_>) = existing.iter().partition(|(name, _)| name == "key");
    match keys[..] {
        [] if existing.is_empty() => return Err(StoreError::NotBuilt { table: name }),
        [(_, kind)] if kind == "TEXT" => {}
        _ => return Err(table.misfit(&name)),
    }
    let wanted = |name: &str| table.columns.iter().find(|column| column.name == name);
    let same = |(name, kind): &'_ (String, String)| wanted(name).is_none_or(|column| sql_type(column.kind) == *kind);
    table.lacks(&name, &existing.into_iter().map(|column| (&*column.0, same(column))).collect::<Vec<_>>())
}

/// Refuses a table that does not exist, or does not have the right columns.
async fn check_columns(connection: &mut SqliteConnection, table: &Table) -> Result<(), StoreError> {
    match missing_columns(connection, table).await?[..] {
        [] => Ok(()),
        _ => Err(table.misfit(&name(table))),
    }
}

/// Returns the columns of a table, each with its declared type; none if there is no such table.
pub(crate) async fn read_columns(
    connection: &mut SqliteConnection,
    table: &str,
) -> Result<Vec<(String, String)>, StoreError> {
    let columns = sqlx::query_as(include_str!("../sql/table.sql")).bind(table.to_owned());
    columns.fetch_all(connection).await.map_err(error::store)
}

/// Returns what a statement reads from: the table, or a subquery that adds the columns it lacks as nulls.
fn with_nulls(table: &Table, lacking: &[&Column]) -> String {
    if lacking.is_empty() {
        return quoted(&name(table));
    }
    let nulls = lacking.iter().map(|column| format!("NULL AS {}", quoted(column.name))).collect::<Vec<_>>().join(", ");
    format!("({})", statement(include_str!("../sql/with_nulls.sql"), table, &[("{nulls}", nulls)]))
}

/// Returns the shards of a projection, or of all, with their checkpoints.
pub(crate) async fn shards(
    connection: &mut SqliteConnection,
    projection: Option<&str>,
) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
    let shards = sqlx::query(include_str!("../sql/shards.sql")).bind(projection.map(str::to_owned));
    shards.fetch_all(connection).await.map_err(error::store)?.iter().map(shard).collect()
}

/// Returns the checkpoint of a shard, if there is such a shard. The transaction's lock of the file locks it.
pub(crate) async fn lock(connection: &mut SqliteConnection, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
    let lock = of_shard(include_str!("../sql/lock_shard.sql"), shard).fetch_optional(connection).await;
    Ok(lock.map_err(error::store)?.as_ref().map(self::shard).transpose()?.map(|(_, checkpoint)| checkpoint))
}

/// Replaces the shards of a projection.
pub(crate) async fn put_shards(
    connection: &mut SqliteConnection,
    projection: &str,
    shards: Vec<(Shard, Checkpoint)>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let remove = sqlx::query(include_str!("../sql/remove_shards.sql")).bind(projection.to_owned());
    remove.execute(&mut *connection).await.map_err(error::store)?;
    for (shard, Checkpoint { position, event, epoch, owner }) in shards {
        let put = of_shard(include_str!("../sql/put_shard.sql"), &shard).bind(read::signed(position.0)).bind(event);
        let put = put.bind(read::signed(epoch)).bind(owner).bind(now.as_micros());
        put.execute(&mut *connection).await.map_err(error::store)?;
    }
    Ok(())
}

/// Advances the checkpoint of a shard. An `event` that is not in the log at position `to` is [`StoreError::Forked`].
pub(crate) async fn advance(
    connection: &mut SqliteConnection,
    shard: &Shard,
    to: Position,
    event: Option<Uuid>,
    now: Timestamp,
) -> Result<(), StoreError> {
    if let Some(event) = event {
        let recorded = sqlx::query_scalar(include_str!("../sql/is_in_log.sql")).bind(read::signed(to.0)).bind(event);
        if !recorded.fetch_one(&mut *connection).await.map_err(error::store)? {
            return Err(StoreError::Forked { position: to, event: Some(event) });
        }
    }
    let advance = of_shard(include_str!("../sql/advance.sql"), shard).bind(read::signed(to.0)).bind(event);
    advance.bind(now.as_micros()).execute(connection).await.map(drop).map_err(error::store)
}

/// Returns a statement whose first parameters are the name of a shard.
fn of_shard(sql: &'static str, Shard { projection, from_slot, to_slot, .. }: &Shard) -> Statement {
    sqlx::query(sql).bind(projection.clone()).bind(*from_slot).bind(*to_slot)
}

/// Decodes the row of a shard and its checkpoint.
fn shard(row: &SqliteRow) -> Result<(Shard, Checkpoint), StoreError> {
    let shard = || Ok(Shard::new(row.try_get::<String, _>(0)?, row.try_get(1)?..row.try_get(2)?));
    let rest = || Ok((row.try_get(3)?, row.try_get(4)?, row.try_get::<i64, _>(5)?, row.try_get(6)?));
    let (position, event, epoch, owner) = rest().map_err(error::store)?;
    let (position, epoch) = (read::position(position)?, epoch.unsigned_abs());
    Ok((shard().map_err(error::store)?, Checkpoint { position, event, epoch, owner }))
}

/// Reads rows. Columns that the table lacks are null.
pub(crate) async fn rows(
    connection: &mut SqliteConnection,
    rows: Rows,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let table = match rows {
        Rows::Keys { table, .. } | Rows::Where { table, .. } => table,
        Rows::Whole { table, keys, after, limit } => {
            return rows_of_whole_table(connection, table, keys, after, limit).await;
        }
    };
    let from = ("{from}", with_nulls(&table, &missing_columns(connection, &table).await?));
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

/// Returns the rows of a query, in order.
pub(crate) async fn select(
    connection: &mut SqliteConnection,
    select: Select,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let Select { table, order, limit, .. } = select;
    let from = with_nulls(&table, &missing_columns(connection, &table).await?);
    let columns = ("{columns}", names(table.columns));
    let mut values = Values { bound: vec![], before: 2 };
    let conditions = conditions(&select.filters, &mut values);
    let (from, conditions) = match order.by {
        Some(column) if limit.is_some() && order.skip == 0 => {
            let (valued, null) = parts_past(column, order.descending, &select.after, &mut values);
            let direction = if order.descending { "DESC" } else { "ASC" };
            let by = format!("{} {direction}, key", sortable(&quoted(column.name), column.kind));
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

/// Returns the number of rows that pass the filters of a query.
pub(crate) async fn count(connection: &mut SqliteConnection, select: Select) -> Result<u64, StoreError> {
    let table = select.table;
    let from = ("{from}", with_nulls(&table, &missing_columns(connection, &table).await?));
    let mut values = Values { bound: vec![], before: 0 };
    let conditions = ("{conditions}", conditions(&select.filters, &mut values));
    let sql = statement(include_str!("../sql/rows_count.sql"), &table, &[conditions, from]);
    let query = values.bind(sqlx::query(AssertSqlSafe(sql)), &table)?;
    let count: i64 = query.fetch_one(connection).await.and_then(|row| row.try_get(0)).map_err(error::store)?;
    Ok(count.unsigned_abs())
}

/// The values of a statement's conditions. Their numbers follow those of the parameters that are bound before them.
struct Values {
    bound: Vec<(Kind, Json)>,
    before: usize,
}

impl Values {
    /// Adds a value and returns its placeholder.
    fn push(&mut self, kind: Kind, value: &Json) -> String {
        self.bound.push((kind, value.clone()));
        format!("?{}", self.bound.len() + self.before)
    }

    fn bind(self, query: Statement, table: &Table) -> Result<Statement, StoreError> {
        self.bound.into_iter().try_fold(query, |query, (kind, value)| {
            let value = serde_json::value::to_raw_value(&value).map_err(|error| row_error(table, error))?;
            bind(query, kind, &value).map_err(|error| row_error(table, error))
        })
    }
}

/// Returns the filters as one condition.
fn conditions(filters: &[Filter], values: &mut Values) -> String {
    let mut conditions = vec!["TRUE".to_owned()];
    for Filter { column, comparison } in filters {
        let (name, kind) = (quoted(column.name), column.kind);
        let mut ordered = |sign: &str, value: &Json| {
            let value = sortable(&values.push(kind, value), kind);
            format!("{} {sign} {value}", sortable(&name, kind))
        };
        conditions.push(match comparison {
            Comparison::Less(value) => ordered("<", value),
            Comparison::LessOrEqual(value) => ordered("<=", value),
            Comparison::Greater(value) => ordered(">", value),
            Comparison::GreaterOrEqual(value) => ordered(">=", value),
            Comparison::Equal(value) => format!("{name} IS {}", values.push(kind, value)),
            // A list, because a chain of `OR` may be at most 1,000 deep.
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

/// Returns two conditions for the rows after a row in the order of a column: for rows with a value, which come first,
/// and for rows with null.
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
    let past = sortable(&values.push(column.kind, value), column.kind);
    let here = sortable(&name, column.kind);
    let sign = if descending { "<" } else { ">" };
    // The index is searched by the first comparison.
    (format!("({here} {sign}= {past} AND ({here} {sign} {past} OR key > {key}))"), null)
}

/// Returns an expression that sorts as the value does. Times are text, in which `12.5Z` would sort before `12Z`.
fn sortable(value: &str, kind: Kind) -> String {
    if kind == Kind::Time { format!("rtrim({value}, 'Z')") } else { value.to_owned() }
}

/// Returns the terms of `ORDER BY`.
fn order_by(Order { by, descending, .. }: Order) -> String {
    let direction = if descending { "DESC" } else { "ASC" };
    let Some(column) = by else { return format!("key {direction}") };
    let value = sortable(&quoted(column.name), column.kind);
    format!("{value} {direction} NULLS LAST, key")
}

/// Reads rows of a table by its name, with all columns it has.
async fn rows_of_whole_table(
    connection: &mut SqliteConnection,
    table: String,
    keys: Vec<String>,
    after: String,
    limit: usize,
) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    let table = in_file(&table);
    let existing = self::read_columns(&mut *connection, &table).await?;
    if existing.is_empty() {
        return Err(StoreError::NotBuilt { table });
    }
    let columns = existing.iter().filter(|(name, _)| name != "key");
    let columns: Vec<_> = columns.map(|(name, declared)| (&**name, kind_of(declared))).collect();
    let names = columns.iter().map(|(name, _)| quoted(name)).collect::<Vec<_>>().join(", ");
    let sql = include_str!("../sql/rows_whole.sql").replace("{table}", &quoted(&table)).replace("{columns}", &names);
    let keys = (!keys.is_empty()).then(|| serde_json::json!(keys).to_string());
    let all = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(keys).bind(read::signed(limit as u64));
    let all = all.fetch_all(connection).await.map_err(error::store)?;
    all.iter().map(|row| object(&table, &columns, row)).collect()
}

/// Returns the kind of a column by its declared type. One of another program is read as JSON text.
fn kind_of(declared: &str) -> Kind {
    let kinds = [Kind::Text, Kind::Integer, Kind::Real, Kind::Bool, Kind::Uuid, Kind::Time];
    kinds.into_iter().find(|kind| sql_type(*kind) == declared).unwrap_or(Kind::Json)
}

/// Runs statements of `sql/` with quoted names put in.
pub(crate) async fn execute_named(
    connection: &mut SqliteConnection,
    template: &str,
    names: &[(&str, &str)],
) -> Result<(), StoreError> {
    let sql = names.iter().fold(template.to_owned(), |sql, (name, put)| sql.replace(name, &quoted(put)));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(error::store)
}

/// Swaps the names of a table and its shadow.
pub(crate) async fn swap(connection: &mut SqliteConnection, table: &str) -> Result<(), StoreError> {
    let table = in_file(table);
    let (shadow, aside) = (format!("{table}{SHADOW}"), format!("{table}~aside"));
    for table in [&table, &shadow] {
        if read_columns(connection, table).await?.is_empty() {
            return Err(StoreError::NotBuilt { table: table.into() });
        }
    }
    let names = [("{table}", &*table), ("{shadow}", &*shadow), ("{aside}", &*aside)];
    execute_named(connection, include_str!("../sql/swap.sql"), &names).await
}

/// Creates the view of this name on a table.
pub(crate) async fn publish(connection: &mut SqliteConnection, view: &str, table: &str) -> Result<(), StoreError> {
    let (view, table) = (in_file(view), in_file(table));
    execute_named(connection, include_str!("../sql/publish.sql"), &[("{view}", &view), ("{table}", &table)]).await
}

/// Drops a table, if it exists.
pub(crate) async fn remove(connection: &mut SqliteConnection, table: &str) -> Result<(), StoreError> {
    execute_named(connection, include_str!("../sql/remove_table.sql"), &[("{table}", &in_file(table))]).await
}

fn row_error(table: impl ToString, error: serde_json::Error) -> StoreError {
    StoreError::Row { table: table.to_string(), reason: error.into() }
}

/// Returns the key of a row, and the row as the JSON object it was written as.
fn object(table: &str, columns: &[(&str, Kind)], row: &SqliteRow) -> Result<(String, Box<RawValue>), StoreError> {
    let key = row.try_get(0).map_err(error::store)?;
    let mut object = String::from("{");
    for ((name, kind), n) in columns.iter().zip(1..) {
        let value = json_value(row, n, *kind)?;
        let comma = if n > 1 { "," } else { "" };
        object.push_str(&format!("{comma}{}:{}", serde_json::json!(name), value.as_deref().unwrap_or("null")));
    }
    object.push('}');
    RawValue::from_string(object).map(|row| (key, row)).map_err(|error| row_error(table, error))
}

/// Returns a column of a row as JSON; `None` for null.
fn json_value(row: &SqliteRow, n: usize, kind: Kind) -> Result<Option<String>, StoreError> {
    let integer = || row.try_get::<Option<i64>, _>(n).map_err(error::store);
    let text = || row.try_get::<Option<&str>, _>(n).map_err(error::store);
    Ok(match kind {
        Kind::Integer => integer()?.map(|number| number.to_string()),
        Kind::Bool => integer()?.map(|number| (number != 0).to_string()),
        Kind::Real => {
            let number = row.try_get::<Option<f64>, _>(n).map_err(error::store)?;
            number.map(real_json)
        }
        Kind::Json => text()?.map(str::to_owned),
        _ => text()?.map(|text| serde_json::json!(text).to_string()),
    })
}

/// Returns a real number as JSON, as PostgreSQL writes it: a whole number below 10^15 has no fraction. An integer field
/// could not be read back from one with a fraction.
fn real_json(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        format!("{number:.0}")
    } else {
        serde_json::json!(number).to_string()
    }
}

/// Writes rows. A row that its table does not take is [`StoreError::Row`].
pub(crate) async fn write(connection: &mut SqliteConnection, changes: Changes) -> Result<(), StoreError> {
    check_columns(connection, &changes.table).await?;
    changes.check()?;
    let Changes { table, upserts, deletes } = changes;
    let columns = ("{columns}", names(table.columns));
    let values = ("{values}", list(table.columns, |n, _| format!("?{}", n + 2)));
    let updates = list(table.columns, |_, column| format!("{0} = excluded.{0}", quoted(column.name)));
    let sql = statement(include_str!("../sql/upsert.sql"), &table, &[columns, values, ("{updates}", updates)]);
    let sql: std::sync::Arc<str> = sql.into();
    for (key, row) in upserts {
        let upsert = upsert(sqlx::query(AssertSqlSafe(sql.clone())).bind(key), &table, &row);
        let upsert = upsert.map_err(|error| row_error(table, error))?;
        upsert.execute(&mut *connection).await.map_err(|error| error::row(&table.to_string(), error))?;
    }
    if !deletes.is_empty() {
        let sql = statement(include_str!("../sql/delete.sql"), &table, &[]);
        let delete = sqlx::query(AssertSqlSafe(sql)).bind(serde_json::json!(deletes).to_string());
        delete.execute(connection).await.map_err(error::store)?;
    }
    Ok(())
}

/// Binds the columns of a row.
fn upsert(mut query: Statement, table: &Table, row: &RawValue) -> Result<Statement, serde_json::Error> {
    let row: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(row.get())?;
    for column in table.columns {
        query = bind(query, column.kind, row.get(column.name).copied().unwrap_or(RawValue::NULL))?;
    }
    Ok(query)
}

/// Binds a value in the form that its column stores.
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

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNT: Column = Column::new("amount", Kind::Integer);

    #[test]
    fn a_table_of_the_engine_has_the_prefix_of_this_library_and_a_read_model_has_not() {
        assert_eq!(in_file("nodes"), "eventstore_nodes");
        assert_eq!(in_file("balance@1"), "balance@1");
        assert_eq!(in_file("balance@current"), "balance@current");
    }

    #[test]
    fn kinds_that_sqlite_stores_alike_are_told_apart() {
        let kinds = [Kind::Text, Kind::Integer, Kind::Real, Kind::Bool, Kind::Uuid, Kind::Time, Kind::Json];
        for kind in kinds {
            assert_eq!(kind_of(sql_type(kind)), kind);
        }
        assert_eq!(kind_of("VARCHAR(30)"), Kind::Json, "it is not of this library");
    }

    #[test]
    fn a_time_with_a_fraction_sorts_after_the_second_it_is_in() {
        let (whole, later) = ("2026-01-01T00:00:12Z", "2026-01-01T00:00:12.5Z");
        assert!(later < whole, "as texts");
        assert!(later.trim_end_matches('Z') > whole.trim_end_matches('Z'), "as the statement compares them");
        assert_eq!(sortable("\"at\"", Kind::Time), "rtrim(\"at\", 'Z')");
        assert_eq!(sortable("\"owner\"", Kind::Text), "\"owner\"");
    }

    #[test]
    fn a_whole_number_has_no_fraction_and_every_number_is_read_back_as_it_was() {
        let texts = [
            (5.0, "5"),
            (-3.0, "-3"),
            (0.0, "0"),
            (-0.0, "-0"),
            (0.5, "0.5"),
            (999_999_999_999_999.0, "999999999999999"),
        ];
        for (number, text) in texts {
            assert_eq!(real_json(number), text);
        }
        for number in
            [5.0, -0.0, 0.1, 1e14, 1e15, -1e15, 1e16, 123_456_789_012_345.6, 1e-300, f64::MAX, f64::MIN_POSITIVE]
        {
            let read: f64 = serde_json::from_str(&real_json(number)).expect("it is a number");
            assert_eq!(read.to_bits(), number.to_bits(), "{number}");
        }
    }

    #[test]
    fn values_are_numbered_after_those_that_are_bound_before_them() {
        let among = vec![Json::from(1), Json::Null, Json::from(2)];
        let filters = [
            Filter { column: &AMOUNT, comparison: Comparison::Equal(Json::Null) },
            Filter { column: &AMOUNT, comparison: Comparison::In(among) },
        ];
        let mut values = Values { bound: vec![], before: 2 };
        let found = conditions(&filters, &mut values);
        // `IS` also compares null, which `=` does not.
        let expected = "TRUE AND \"amount\" IS ?3 AND (\"amount\" IN (?4, ?5) OR \"amount\" IS NULL)";
        assert_eq!(found, expected);
        assert_eq!(values.bound.len(), 3);
    }

    #[test]
    fn past_a_row_without_a_value_only_rows_without_a_value_follow() {
        let mut values = Values { bound: vec![], before: 0 };
        let after = Some(SortKey { value: Json::Null, key: "bob".into() });
        let (valued, null) = parts_past(&AMOUNT, false, &after, &mut values);
        assert_eq!((&*valued, &*null), ("FALSE", "(\"amount\" IS NULL AND key > ?1)"));
        let after = Some(SortKey { value: 7.into(), key: "bob".into() });
        let (valued, null) = parts_past(&AMOUNT, true, &after, &mut values);
        assert_eq!(valued, "(\"amount\" <= ?3 AND (\"amount\" < ?3 OR key > ?2))");
        assert_eq!(null, "\"amount\" IS NULL");
    }
}
