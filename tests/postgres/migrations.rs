//! Migrations: looked at, applied, printed for psql, or left to somebody else.

use std::process::Command;

use eventstore::{
    Id, PgStore, Store, StoreError,
    sqlx::{self, AssertSqlSafe},
};
use futures::future::join_all;

use crate::{
    account::{Account, *},
    server,
};

type Any = Box<dyn std::error::Error>;

/// Runs a script as an operator would.
fn psql(script: &str) -> Result<std::process::Output, Any> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("script.sql");
    std::fs::write(&file, script)?;
    let psql = Command::new(server::program("psql"))
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", server::url(), "--file"])
        .arg(file)
        .output()?;
    Ok(psql)
}

async fn works(pg: PgStore) -> Result<(), Any> {
    Store::from(pg).execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    Ok(())
}

#[tokio::test]
async fn o1_a_node_that_may_not_migrate_says_what_is_missing() -> Result<(), Any> {
    let options = PgStore::options().schema(server::schema());
    let migrations = options.migrations(server::url()).await?;
    let missing: Vec<String> = migrations.missing().iter().map(|step| format!("migration {}", step.name)).collect();
    assert_eq!(migrations.missing().len(), migrations.steps.len());
    assert!(migrations.to_string().starts_with("missing  001_log"), "{migrations}");

    let refused = options.clone().migrate(false).connect(server::url()).await.err();
    let Some(StoreError::Unmigrated { missing: named }) = &refused else { panic!("{refused:?}") };
    assert_eq!(named, &missing);
    assert!(refused.is_some_and(|error| error.to_string().contains("lacks migration 001_log")));

    migrations.apply().await?;
    let migrations = options.migrations(server::url()).await?;
    assert!(migrations.missing().is_empty() && migrations.script().is_empty(), "{migrations}");
    assert!(migrations.to_string().starts_with("applied  001_log  2"), "{migrations}");
    let rows = options.clone().tables_schema(server::schema());
    let refused = rows.migrate(false).connect(server::url()).await.err();
    assert!(matches!(refused, Some(StoreError::Unmigrated { .. })), "{refused:?}");
    works(options.migrate(false).connect(server::url()).await?).await
}

#[tokio::test]
async fn o1_a_role_that_cannot_migrate_says_what_is_missing() -> Result<(), Any> {
    let (schema, mut admin) = (server::schema(), server::connection().await);
    let role = format!("{schema}_nobody");
    let make = format!("CREATE ROLE {role} LOGIN PASSWORD 'only_for_this_test'");
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut admin).await?;
    let refused = PgStore::options().schema(schema).connect(&server::url_as(&role, "only_for_this_test")).await.err();
    assert!(matches!(refused, Some(StoreError::Unmigrated { .. })), "{refused:?}");
    sqlx::raw_sql(AssertSqlSafe(format!("DROP ROLE {role}"))).execute(&mut admin).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o1_many_may_apply_migrations_at_once() -> Result<(), Any> {
    let options = PgStore::options().schema(server::schema()).max_connections(1);
    let all = (0..6).map(|_| {
        let options = options.clone();
        tokio::spawn(async move { options.migrations(server::url()).await.unwrap().apply().await.unwrap() })
    });
    join_all(all).await.into_iter().for_each(|applied| applied.unwrap());
    works(options.migrate(false).connect(server::url()).await?).await
}

#[tokio::test]
async fn o1_the_printed_script_is_applied_by_psql_once_and_taken_as_up_to_date() -> Result<(), Any> {
    let schema = server::schema();
    let rows = format!("{schema}_rows");
    let options = PgStore::options().schema(schema.clone()).tables_schema(rows);
    let script = options.schema_sql()?;
    assert_eq!(script, options.migrations(server::url()).await?.script(), "from nothing, both are the same");
    let applied = psql(&script)?;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let pg = options.clone().migrate(false).connect(server::url()).await?;
    assert_eq!(pg.doctor().await?.get("migrations").map(|finding| &*finding.found), Some("all are applied"));

    // Once more: nothing happens, and it says so.
    let again = psql(&script)?;
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && said.contains("not at migration 0: print the script again"), "{said}");

    // The same tables, functions, triggers and rights as those a store makes itself.
    let made = PgStore::options().schema(server::schema()).connect(server::url()).await?;
    assert_eq!(dump(&schema)?, dump(made.schema())?);
    works(pg).await
}

/// What pg_dump says of a schema, whatever its name is.
fn dump(schema: &str) -> Result<String, Any> {
    let arguments = ["--schema-only", "--no-owner", "--schema", schema, "--dbname", server::url()];
    let dump = Command::new(server::program("pg_dump")).args(arguments).output()?;
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let dump = String::from_utf8(dump.stdout)?.replace(schema, "schema");
    // A key that is new in each dump.
    Ok(dump.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n"))
}
