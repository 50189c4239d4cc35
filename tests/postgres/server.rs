//! A real PostgreSQL: the one the environment names, or a throwaway one.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use eventstore::{
    PgStore,
    sqlx::{self, Connection, PgConnection},
};
use uuid::Uuid;

/// The URL of a database where tests may make schemas.
pub fn url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        if let Ok(url) = std::env::var("EVENTSTORE_TEST_DATABASE_URL") {
            return url;
        }
        script("postgres", &[])
    })
}

/// The same, with one more parameter.
pub fn url_with(parameter: &str) -> String {
    let separator = if url().contains('?') { '&' } else { '?' };
    format!("{}{separator}{parameter}", url())
}

/// The same, for another role.
pub fn url_as(role: &str, password: &str) -> String {
    let (scheme, rest) = url().split_once("://").expect("a URL");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
    format!("{scheme}://{role}:{password}@{host}{}", &rest[end..])
}

/// The same, for another database.
pub fn url_of(database: &str) -> String {
    let (scheme, rest) = url().split_once("://").expect("a URL");
    let (server, parameters) = rest.split_once('?').map_or((rest, String::new()), |(s, p)| (s, format!("?{p}")));
    let host = server.split_once('/').map_or(server, |(host, _)| host);
    format!("{scheme}://{host}/{database}{parameters}")
}

/// A program of PostgreSQL's: in the path, or where `scripts/postgres` finds them.
pub fn program(name: &str) -> PathBuf {
    if Command::new(name).arg("--version").output().is_ok() {
        return name.into();
    }
    PathBuf::from(script("postgres", &["bin"])).join(name)
}

/// What a script says.
pub fn script(name: &str, arguments: &[&str]) -> String {
    let script = format!("{}/../scripts/{name}", env!("CARGO_MANIFEST_DIR"));
    let run = Command::new(&script).args(arguments).output();
    let run = run.unwrap_or_else(|error| panic!("cannot run {script}: {error}"));
    let (said, why) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{script} failed.\n{why}");
    said.trim().to_owned()
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

/// Comes back when so many sessions wait for the append lock of a log.
pub async fn waiting_for_the_lock(schema: &str, sessions: i64) {
    let mut connection = connection().await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass($1)";
    let lock = format!("{schema}.append_lock");
    while sqlx::query_scalar::<_, i64>(waiting).bind(&lock).fetch_one(&mut connection).await.unwrap() < sessions {}
}

/// A server of the test's own, which may be crashed, stopped, restored from, or have a standby.
pub struct Own {
    folder: tempfile::TempDir,
    options: &'static str,
}

impl Own {
    /// The server, and its URL. Its log writer does not get round to what a commit did not wait for.
    pub fn start() -> (Self, String) {
        Self::with("-c fsync=on -c wal_writer_delay=10s")
    }

    /// The same, with further options of the server.
    pub fn with(options: &'static str) -> (Self, String) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let server = Self { folder, options };
        let url = server.script(&["for", &std::process::id().to_string()]);
        (server, url)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/postgres");
        let mut command = Command::new(script);
        command.env("TMPDIR", self.folder.path()).env("POSTGRES_OPTIONS", self.options);
        command.args(arguments);
        command
    }

    /// What the script of the server says.
    pub fn script(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.command(&["stop"]).status();
    }
}
