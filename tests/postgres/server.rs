//! A real PostgreSQL: the one the environment names, or a throwaway one.

use std::{process::Command, sync::OnceLock};

use eventstore::{
    PgStore,
    sqlx::{Connection, PgConnection},
};
use uuid::Uuid;

/// The URL of a database where tests may make schemas.
pub fn url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        if let Ok(url) = std::env::var("EVENTSTORE_TEST_DATABASE_URL") {
            return url;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres");
        let started = Command::new(script).output().unwrap_or_else(|error| panic!("cannot run {script}: {error}"));
        let (url, why) = (String::from_utf8_lossy(&started.stdout), String::from_utf8_lossy(&started.stderr));
        assert!(started.status.success(), "these tests need a PostgreSQL.\n{why}");
        url.trim().to_owned()
    })
}

/// The same, with one more parameter.
pub fn url_with(parameter: &str) -> String {
    let separator = if url().contains('?') { '&' } else { '?' };
    format!("{}{separator}{parameter}", url())
}

/// The name of a schema nobody has.
pub fn schema() -> String {
    format!("test_{}", Uuid::now_v7().simple())
}

/// An empty log in a schema of its own.
pub async fn fresh() -> PgStore {
    PgStore::options().schema(schema()).max_connections(5).connect(url()).await.unwrap()
}

/// A connection that is none of the store's.
pub async fn connection() -> PgConnection {
    PgConnection::connect(url()).await.unwrap()
}
