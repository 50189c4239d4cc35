//! Migrates the schema to this release: all missing migrations in one transaction of the node that comes first.

use std::{fmt, sync::Arc};

use eventstore_core::{StoreError, Timestamp, engine::is_at_least};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::{error, shared::Shared, sql::Sql, types::Instant};

/// A migration as it is in `migrations/`, with the placeholder `{schema}` in its text.
pub(crate) struct MigrationSource {
    name: &'static str,
    pub(crate) sql: &'static str,
    /// The oldest release that works with a database that has this migration.
    works_from: &'static str,
}

macro_rules! step {
    ($name:literal, $works_from:literal) => {
        MigrationSource {
            name: $name,
            sql: include_str!(concat!("../migrations/", $name, ".sql")),
            works_from: $works_from,
        }
    };
}

/// All migrations ever released, in order. Migrations are added, never edited.
pub(crate) const SOURCES: &[MigrationSource] = &[
    step!("001_log", "0.1.0"),
    step!("002_snapshots", "0.1.0"),
    step!("003_trust", "0.2.0"),
    step!("004_engine", "0.2.0"),
    step!("006_retag", "0.2.0"),
];

impl MigrationSource {
    fn checksum(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, self.sql.as_bytes())
    }

    fn text(&self, sql: &Sql) -> String {
        self.sql.replace("{schema}", &sql.quoted_schema())
    }
}

/// The migrations of a log, applied and missing. Returned by [`PgOptions::migrations`](crate::PgOptions::migrations);
/// `Display` prints one line for each.
#[must_use = "nothing is applied until `apply`"]
pub struct Migrations {
    /// Every migration this release knows, in order.
    pub steps: Vec<Migration>,
    shared: Arc<Shared>,
}

/// One migration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Migration {
    /// Its name: `001_log`.
    pub name: &'static str,
    /// When it was applied; `None` if it is missing.
    pub applied_at: Option<Timestamp>,
    /// Its SQL, with the name of the schema.
    pub sql: String,
}

impl Migrations {
    pub(crate) async fn of(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let sql = shared.sql();
        let applied = applied(&mut *shared.connection().await?, sql).await?;
        let applied_at = applied.into_iter().map(Some).chain(std::iter::repeat(None));
        let step =
            |(step, applied_at): (&MigrationSource, _)| Migration { name: step.name, applied_at, sql: step.text(sql) };
        Ok(Self { steps: SOURCES.iter().zip(applied_at).map(step).collect(), shared })
    }

    /// Returns the missing migrations, in order.
    pub fn missing(&self) -> &[Migration] {
        let applied = self.steps.iter().take_while(|step| step.applied_at.is_some()).count();
        &self.steps[applied..]
    }

    /// Returns the script that does what [`apply`](Self::apply) would, for an operator to read and to run with `psql`.
    /// It fails without a change if another node has migrated meanwhile. It is empty if no migration is missing.
    pub fn script(&self) -> String {
        script(self.shared.sql(), self.steps.len() - self.missing().len())
    }

    /// Applies all missing migrations, or none. Several nodes may do it at once: one applies them, the others wait.
    ///
    /// # Errors
    /// [`StoreError::Denied`] if the role may not create the tables; [`StoreError::Schema`] if the migrations in the
    /// database are not those of this release; [`StoreError::Busy`] if another session holds the lock for too long;
    /// [`StoreError::Unavailable`] if the server cannot be reached, [`StoreError::Unknown`] if the connection breaks
    /// during the commit (apply again to learn the outcome).
    pub async fn apply(self) -> Result<(), StoreError> {
        apply(&self.shared).await
    }
}

impl fmt::Debug for Migrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|step| (step.name, step.applied_at))).finish()
    }
}

impl fmt::Display for Migrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.steps.iter().enumerate() {
            let line_end = if n > 0 { "\n" } else { "" };
            match step.applied_at {
                Some(at) => write!(f, "{line_end}applied  {}  {at}", step.name)?,
                None => write!(f, "{line_end}missing  {}", step.name)?,
            }
        }
        Ok(())
    }
}

/// Returns the script that applies the migrations after the first `applied`; empty if there are none.
///
/// The statements are files of `sql/`, whose parameters are replaced by constants, because `psql` binds none.
pub(crate) fn script(sql: &Sql, applied: usize) -> String {
    if applied >= SOURCES.len() {
        return String::new();
    }
    let tables = (sql.tables() != sql.schema()).then(|| sql.create_tables_schema().0);
    let quoted = |text: &str| format!("'{text}'");
    let with_numbers =
        |text: &str| text.replace("{from}", &applied.to_string()).replace("{to}", &SOURCES.len().to_string());
    let mut script = with_numbers(&sql.migrations_begin().0);
    let mut add = |text: &str| {
        script.push('\n');
        script.push_str(text.trim_end());
        script.push_str(";\n");
    };
    add(&sql.lock_migrations().0.replace("$1", &quoted(sql.schema())));
    add(&sql.create_schema().0);
    add(&sql.migrations().0);
    add(&sql.add_works_from().0);
    add(&with_numbers(&sql.migrations_check().0));
    for (step, version) in SOURCES.iter().zip(1..).skip(applied) {
        add(step.text(sql).trim_end().trim_end_matches(';'));
        let apply = sql.apply().0.replace("$1", &version.to_string());
        let apply = apply.replace("$2", &quoted(&step.checksum().to_string())).replace("$3", &quoted(step.works_from));
        add(&apply);
    }
    tables.iter().for_each(|create| add(create));
    add(&sql.migrations_commit().0);
    script
}

/// Returns the missing migrations. Takes no lock, so that a role that may not create tables can open the store.
pub(crate) async fn missing(connection: &mut PgConnection, sql: &Sql) -> Result<Vec<String>, StoreError> {
    let applied = applied(connection, sql).await?.len();
    Ok(SOURCES.iter().skip(applied).map(|step| format!("migration {}", step.name)).collect())
}

/// Whether the applied migrations are exactly those of this release.
pub(crate) async fn is_of_this_release(connection: &mut PgConnection, sql: &Sql) -> Result<bool, StoreError> {
    Ok(applied(connection, sql).await?.len() == SOURCES.len())
}

/// Applies all missing migrations, or none.
pub(crate) async fn apply(shared: &Shared) -> Result<(), StoreError> {
    let mut transaction = shared.transaction().await?;
    migrate(transaction.connection(), shared.sql()).await?;
    transaction.commit().await
}

/// Runs in the caller's transaction, which the caller rolls back if a migration fails.
async fn migrate(connection: &mut PgConnection, sql: &Sql) -> Result<(), StoreError> {
    let lock = sqlx::query(sql.lock_migrations()).bind(sql.schema());
    lock.execute(&mut *connection).await.map_err(error::store)?;
    // Checked first: a role that may not create schemas may not use `CREATE SCHEMA IF NOT EXISTS` either.
    if !exists(connection, sql.schema()).await? {
        sqlx::query(sql.create_schema()).execute(&mut *connection).await.map_err(error::store)?;
    }
    sqlx::query(sql.migrations()).execute(&mut *connection).await.map_err(error::store)?;
    sqlx::query(sql.add_works_from()).execute(&mut *connection).await.map_err(error::store)?;
    let applied = applied(connection, sql).await?.len();
    for (step, version) in SOURCES.iter().zip(1_i32..).skip(applied) {
        sqlx::raw_sql(AssertSqlSafe(step.text(sql))).execute(&mut *connection).await.map_err(error::store)?;
        let apply = sqlx::query(sql.apply()).bind(version).bind(step.checksum()).bind(step.works_from);
        apply.execute(&mut *connection).await.map_err(error::store)?;
    }
    if !exists(connection, sql.tables()).await? {
        sqlx::query(sql.create_tables_schema()).execute(&mut *connection).await.map_err(error::store)?;
    }
    Ok(())
}

/// Whether a schema exists.
pub(crate) async fn exists(connection: &mut PgConnection, schema: &str) -> Result<bool, StoreError> {
    let exists = sqlx::query_scalar(include_str!("../sql/schema_exists.sql")).bind(schema);
    exists.fetch_one(connection).await.map_err(error::store)
}

/// Returns when each migration was applied. An unknown migration that does not say it works with this release, or one
/// with another checksum, is [`StoreError::Schema`].
async fn applied(connection: &mut PgConnection, sql: &Sql) -> Result<Vec<Timestamp>, StoreError> {
    let migrated: bool = sqlx::query_scalar(sql.migrated()).fetch_one(&mut *connection).await.map_err(error::store)?;
    if !migrated {
        return Ok(vec![]);
    }
    let applied: Vec<(i32, Uuid, Instant, Option<String>)> =
        sqlx::query_as(sql.applied()).fetch_all(connection).await.map_err(error::store)?;
    for ((version, checksum, _, works_from), expected) in applied.iter().zip(1..) {
        match SOURCES.get(expected - 1) {
            Some(step) if usize::try_from(*version) == Ok(expected) && *checksum == step.checksum() => {}
            Some(_) => {
                return Err(StoreError::Schema(format!(
                    "migration {version} has another checksum than in this release"
                )));
            }
            None if works_from.as_deref().is_some_and(is_at_least) => {}
            None => {
                let from = works_from.as_deref().unwrap_or("a later release");
                let why = format!("it has migration {version}, which this release does not know: it needs {from}");
                return Err(StoreError::Schema(why));
            }
        }
    }
    Ok(applied.into_iter().map(|(_, _, at, _)| at.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_steps_are_never_edited() {
        let checksums: Vec<_> = SOURCES.iter().map(|step| step.checksum().to_string()).collect();
        assert_eq!(checksums[..2], ["e2ba06d2-ba27-577b-863e-03d3a1585d1f", "7f8637a8-f4b4-5db7-9381-e628fd968e67"]);
    }
}
