//! The names of release 0.1 become those of this one: part of migration 3.

use eventstore_core::StoreError;
use sqlx::SqliteConnection;

use crate::{
    error,
    tables::{columns, named_tables},
};

type Columns = &'static [(&'static str, &'static str)];

/// The tables of the engine as release 0.1 made them, without a prefix.
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

/// Renames the tables of the engine and of shadows. A table with other columns is not of this library and stays; one that
/// has a name this library needs is [`StoreError::Schema`].
pub(crate) async fn rename(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    for (table, engine) in ENGINE {
        let name = format!("eventstore_{table}");
        if !columns(connection, &name).await?.is_empty() {
            return Err(StoreError::Schema(format!(
                "table `{name}` exists and is not of this library, which needs the name: rename it"
            )));
        }
        let there = columns(connection, table).await?;
        if there.iter().map(|(name, kind)| (&**name, &**kind)).ne(engine.iter().copied()) {
            continue;
        }
        named_tables(connection, include_str!("../sql/rename_table.sql"), &[("{table}", table), ("{to}", &name)])
            .await?;
        let indexes = sqlx::query_scalar(include_str!("../sql/named_indexes.sql")).bind(&name);
        let indexes: Vec<String> = indexes.fetch_all(&mut *connection).await.map_err(error::store)?;
        for index in indexes {
            // The engine makes it anew, with the prefix.
            named_tables(connection, include_str!("../sql/drop_index.sql"), &[("{index}", &index)]).await?;
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
        let new = old.replace("~beside", "~shadow");
        named_tables(connection, include_str!("../sql/rename_table.sql"), &[("{table}", &old), ("{to}", &new)]).await?;
    }
    Ok(())
}
