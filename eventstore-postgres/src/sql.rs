//! The statements of `sql/` that name a schema, with the name put in once. Statements that name a table of a read model
//! are made in `tables.rs`.

use std::sync::Arc;

use eventstore_core::Invalid;
use sqlx::AssertSqlSafe;

macro_rules! statements {
    ($($name:ident)*) => {
        pub(crate) struct Sql {
            schema: String,
            tables: String,
            $($name: Arc<str>,)*
        }

        impl Sql {
            /// Puts the names of the two schemas into all statements. A name that is not `[a-z_][a-z0-9_]*`, of 1 to 63
            /// bytes, is [`Invalid::Name`](eventstore_core::Invalid).
            pub(crate) fn new(schema: &str, tables: &str) -> Result<Self, Invalid> {
                plain(schema)?;
                plain(tables)?;
                let put = |template: &str| {
                    template.replace("{schema}", &quoted(schema)).replace("{tables}", &quoted(tables)).into()
                };
                Ok(Self {
                    schema: schema.into(),
                    tables: tables.into(),
                    $($name: put(include_str!(concat!("../sql/", stringify!($name), ".sql"))),)*
                })
            }

            $(pub(crate) fn $name(&self) -> AssertSqlSafe<Arc<str>> {
                AssertSqlSafe(self.$name.clone())
            })*
        }
    };
}

fn plain(schema: &str) -> Result<(), Invalid> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if schema.is_empty() || schema.len() > 63 || !schema.bytes().all(plain) || schema.as_bytes()[0].is_ascii_digit() {
        return Err(Invalid::name("schema", schema, "is not 1 to 63 of a-z, 0-9 and `_`, a digit not first"));
    }
    Ok(())
}

statements! {
    append append_still append_one append_batch append_batch_still hold holds changed flush flushed taken types type_keys head
    check is_replica time
    events events_bare events_from_snapshot events_of_stream events_of_types events_matching events_of_command events_of_ids
    streams count count_of_stream retag
    position_at identity events_backwards events_of_stream_backwards events_matching_backwards
    shards lock_shard lock_projection lock_shards remove_shards put_shards advance step
    table lock_tables
    old_shadows rename_shadow_row rename_shadow_letters rename_shadow_checkpoints
    snapshot keep snapshots
    create_schema create_tables_schema lock_migrations migrations add_works_from migrated applied apply
    migrations_begin migrations_check migrations_commit functions
    foreign_functions tables_of note create_note put_note lock_note
    doctor_server doctor_log doctor_guard doctor_functions doctor_grants doctor_sample doctor_stamps
    roles
}

impl Sql {
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// Returns the schema of the rows of read models.
    pub(crate) fn tables(&self) -> &str {
        &self.tables
    }

    /// Returns the schema of the log as statements name it, in quotes.
    pub(crate) fn quoted_schema(&self) -> String {
        quoted(&self.schema)
    }
}

/// Quotes a name for a statement.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
