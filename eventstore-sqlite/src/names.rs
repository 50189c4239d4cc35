//! Renames the tables that have names of release 0.1. Part of migration 3.

use eventstore_core::{StoreError, engine::SHADOW};
use sqlx::SqliteConnection;

use crate::{
    error,
    tables::{execute_named, read_columns},
};

type Columns = &'static [(&'static str, &'static str)];

/// The tables of the engine as release 0.1 created them, without a prefix.
const ENGINE: &[(&str, Columns)] = &[
    (
        "nodes",
        &[
            ("key", "TEXT"),
            ("beat", "INTEGER"),
            ("beat_at", "TIMESTAMPTZ TEXT"),
            ("started_at", "TIMESTAMPTZ TEXT"),
            ("process", "TEXT"),
            ("projections", "JSON TEXT"),
        ],
    ),
    (
        "projections",
        &[
            ("key", "TEXT"),
            ("state", "TEXT"),
            ("reason", "TEXT"),
            ("since", "TIMESTAMPTZ TEXT"),
            ("target", "INTEGER"),
            ("built_at", "TIMESTAMPTZ TEXT"),
            ("promoted_at", "TIMESTAMPTZ TEXT"),
            ("pace", "INTEGER"),
        ],
    ),
    (
        "dead_letters",
        &[
            ("key", "TEXT"),
            ("projection", "TEXT"),
            ("of", "TEXT"),
            ("whole_stream", "BOOLEAN INTEGER"),
            ("position", "INTEGER"),
            ("event", "UUID TEXT"),
            ("stream", "TEXT"),
            ("version", "INTEGER"),
            ("name", "TEXT"),
            ("error", "TEXT"),
            ("attempts", "INTEGER"),
            ("parked_at", "TIMESTAMPTZ TEXT"),
            ("retry_at", "TIMESTAMPTZ TEXT"),
            ("skipped", "TEXT"),
        ],
    ),
    (
        "requests",
        &[
            ("key", "TEXT"),
            ("projection", "TEXT"),
            ("of", "TEXT"),
            ("what", "JSON TEXT"),
            ("asked_at", "TIMESTAMPTZ TEXT"),
            ("answer", "JSON TEXT"),
            ("error", "TEXT"),
        ],
    ),
    ("reshards", &[("key", "TEXT"), ("shards", "INTEGER"), ("until", "INTEGER"), ("asked_at", "TIMESTAMPTZ TEXT")]),
];

/// Renames the tables of the engine and of shadows. A table with other columns is not of this library and stays. A
/// table with a name that this library needs is [`StoreError::Schema`].
pub(crate) async fn rename(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    for (table, engine) in ENGINE {
        let name = format!("eventstore_{table}");
        if !read_columns(connection, &name).await?.is_empty() {
            return Err(StoreError::Schema(format!(
                "table `{name}` exists and is not of this library, which needs the name: rename it"
            )));
        }
        let existing = read_columns(connection, table).await?;
        if !is_of_engine(&existing, engine) {
            continue;
        }
        execute_named(connection, include_str!("../sql/rename_table.sql"), &[("{table}", table), ("{to}", &name)])
            .await?;
        let indexes = sqlx::query_scalar(include_str!("../sql/named_indexes.sql")).bind(&name);
        let indexes: Vec<String> = indexes.fetch_all(&mut *connection).await.map_err(error::store)?;
        for index in indexes {
            // The engine creates it again, with the prefix.
            execute_named(connection, include_str!("../sql/drop_index.sql"), &[("{index}", &index)]).await?;
        }
        let shadows = match *table {
            "projections" => include_str!("../sql/rename_shadow_rows.sql"),
            "dead_letters" => include_str!("../sql/rename_shadow_letters.sql"),
            _ => continue,
        };
        sqlx::query(shadows).execute(&mut *connection).await.map_err(error::store)?;
    }
    let shadows: Vec<String> = sqlx::query_scalar(include_str!("../sql/old_shadows.sql"))
        .fetch_all(&mut *connection)
        .await
        .map_err(error::store)?;
    for old in shadows {
        let new = present_name(&old);
        execute_named(connection, include_str!("../sql/rename_table.sql"), &[("{table}", &old), ("{to}", &new)])
            .await?;
    }
    Ok(())
}

/// Whether a table with these columns is the one that release 0.1 created: the same columns, types and order.
fn is_of_engine(existing: &[(String, String)], engine: Columns) -> bool {
    existing.iter().map(|(name, kind)| (&**name, &**kind)).eq(engine.iter().copied())
}

/// Returns the present name of a shadow of release 0.1.
fn present_name(shadow: &str) -> String {
    shadow.replace("~beside", SHADOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_the_user_with_a_name_of_the_engine_is_left_alone() {
        let (_, nodes) = ENGINE.iter().find(|(table, _)| *table == "nodes").expect("it is listed");
        let table = |columns: &[(&str, &str)]| -> Vec<_> {
            columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
        };
        assert!(is_of_engine(&table(nodes), nodes));
        assert!(!is_of_engine(&[], nodes), "there is no such table");
        assert!(!is_of_engine(&table(&nodes[1..]), nodes), "it lacks a column");
        let more = [*nodes, &[("title", "TEXT")]].concat();
        assert!(!is_of_engine(&table(&more), nodes), "it has one more");
        let mut other = table(nodes);
        other[1].1 = "TEXT".into();
        assert!(!is_of_engine(&other, nodes), "a column has another type");
    }

    #[test]
    fn the_columns_of_the_engine_begin_with_the_key() {
        assert!(ENGINE.iter().all(|(_, columns)| columns[0] == ("key", "TEXT")));
    }

    #[test]
    fn a_shadow_keeps_the_rest_of_its_name() {
        assert_eq!(present_name("balance@1~beside"), "balance@1~shadow");
    }
}
