//! Every statement, with the name of the schema put in once.

use std::sync::Arc;

use eventstore_core::Invalid;
use sqlx::AssertSqlSafe;

macro_rules! statements {
    ($($name:ident)*) => {
        pub(crate) struct Sql {
            schema: String,
            $($name: Arc<str>,)*
        }

        impl Sql {
            /// The name of the schema stands in statements, so it is no more than `[a-z_][a-z0-9_]*`.
            pub(crate) fn new(schema: &str) -> Result<Self, Invalid> {
                let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
                if schema.is_empty() || schema.len() > 63 || !schema.bytes().all(plain) || schema.as_bytes()[0].is_ascii_digit() {
                    return Err(Invalid::name("schema", schema, "is not 1 to 63 of a-z, 0-9 and `_`, a digit not first"));
                }
                let put = |template: &str| template.replace("{schema}", schema).into();
                Ok(Self {
                    schema: schema.into(),
                    $($name: put(include_str!(concat!("../sql/", stringify!($name), ".sql"))),)*
                })
            }

            $(pub(crate) fn $name(&self) -> AssertSqlSafe<Arc<str>> {
                AssertSqlSafe(self.$name.clone())
            })*
        }
    };
}

statements! {
    append types type_keys head events events_of_stream events_matching events_of_command events_of_ids position_at
    events_backwards events_of_stream_backwards events_matching_backwards
    checkpoint lock_checkpoint add_checkpoint advance
    table lock_tables
    create_schema lock_migrations migrations migrated applied apply
}

impl Sql {
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }
}
