//! PgBouncer between the store and its server: each transaction may be in another session.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use eventstore::{
    EventStore, Expected, Id, PgStore, RunReadModels, Runner, Store, StoreError,
    doctor::Severity,
    sqlx::{self, AssertSqlSafe, postgres::PgConnectOptions},
};
use futures::{TryStreamExt, future::join_all};
use tempfile::TempDir;

use crate::{
    account::{Account, *},
    cases::{World, balances::Balance, campus::*, golden},
    ledger::Ledger,
    server,
};

type Any = Box<dyn std::error::Error>;

/// A PgBouncer before the server of the tests, on a socket in a folder of its own, until it is dropped.
pub struct Bouncer {
    process: Child,
    folder: TempDir,
}

impl Bouncer {
    /// With these lines in its configuration.
    fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let options: PgConnectOptions = server::url().parse().unwrap();
        let host = options.get_socket().map_or(options.get_host().to_owned(), |folder| folder.display().to_string());
        let (port, user) = (options.get_port(), options.get_username());
        let database = options.get_database().unwrap_or(user);
        let configuration = format!(
            "[databases]\npooled = host={host} port={port} dbname={database} user={user}{}\n[pgbouncer]\n\
             listen_port = 6432\nunix_socket_dir = {}\nauth_type = any\nmax_client_conn = 500\n{settings}\n",
            password().map(|password| format!(" password='{password}'")).unwrap_or_default(),
            path.display(),
        );
        std::fs::write(path.join("pgbouncer.ini"), configuration).unwrap();
        let log = std::fs::File::create(path.join("log")).unwrap();
        let mut program = Command::new(server::script("pgbouncer", &[]));
        // It refuses to run as root.
        if path.metadata().unwrap().uid() == 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
            program.args(["--user", "nobody"]);
        }
        let process = program.arg(path.join("pgbouncer.ini")).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut bouncer = Self { process, folder };
        while std::os::unix::net::UnixStream::connect(bouncer.folder.path().join(".s.PGSQL.6432")).is_err() {
            assert!(bouncer.process.try_wait().unwrap().is_none(), "{}", bouncer.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        bouncer
    }

    /// As Debian's is configured, but for the mode, and for few sessions: so that they must be shared.
    pub fn transactions() -> Self {
        Self::start("pool_mode = transaction\ndefault_pool_size = 4")
    }

    pub fn url(&self) -> String {
        format!("postgres://somebody@localhost/pooled?host={}&port=6432", self.folder.path().display())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    async fn open(&self, schema: &str) -> Result<PgStore, StoreError> {
        PgStore::options().schema(schema).max_connections(5).connect(&self.url()).await
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The password in the URL of the tests, if there is one.
fn password() -> Option<String> {
    let (user, _) = server::url().split_once("://")?.1.split_once('@')?;
    let password = user.split_once(':')?.1;
    Some(percent_encoding::percent_decode_str(password).decode_utf8_lossy().replace('\'', "''"))
}

/// What every store must do, through the pooler.
mod suite {
    use super::*;

    async fn fresh() -> (Arc<dyn EventStore>, Bouncer) {
        let bouncer = Bouncer::transactions();
        let store = bouncer.open(&server::schema()).await.unwrap();
        (Arc::new(store), bouncer)
    }

    eventstore_core::conformance!(fresh);
}

#[tokio::test]
async fn a_statement_is_found_by_the_name_it_has_at_the_server() -> Result<(), Any> {
    // A PgBouncer that looks after statements gives them names of its own.
    let look = include_str!("../../eventstore-postgres/sql/session_statements.sql");
    for (pattern, is_ours) in [("sqlx%", true), ("PGBOUNCER%", false)] {
        let look = sqlx::query_scalar(look).bind(pattern).fetch_optional(&mut server::connection().await).await?;
        assert_eq!(look, Some(is_ours));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a9_many_programs_share_few_sessions_of_a_pooler() -> Result<(), Any> {
    let bouncer = Bouncer::transactions();
    let (schema, table) = (server::schema(), format!("ledger_{}", server::schema()));
    let stores: Vec<Store> =
        join_all((0..4).map(|_| bouncer.open(&schema))).await.into_iter().map(|store| store.unwrap().into()).collect();
    let report = stores[0].doctor().await?;
    let pooler = report.get("pooler").expect("looked for");
    assert!(pooler.severity == Severity::Warning && pooler.found.contains("keeps no prepared"), "{report}");

    let rust = Id::<Course>::from("rust");
    stores[0].execute(&rust, OpenCourse { seats: 100 }).await?;
    let runners: Vec<_> = stores
        .iter()
        .map(|store| Runner::new(store).read_model::<Balance>().projection(Ledger::new(&table)).start())
        .collect();
    let work = (0..12).map(|n| {
        let (store, rust) = (stores[n % stores.len()].clone(), rust.clone());
        tokio::spawn(async move {
            let (account, student) = (Id::<Account>::from(format!("A{n}")), Id::<Student>::from(format!("S{n}")));
            store.execute(&account, Open { owner: "x".into() }).await.unwrap();
            store.execute(&student, Join).await.unwrap();
            store.execute((&rust, &student), Enrol).retries(100).await.unwrap();
            store.append(&account, Expected::Any, [AccountEvent::Deposited { amount: 5 }]).await.unwrap();
            let done = store.execute(&account, Withdraw { amount: 2 }).await.unwrap();
            assert_eq!(store.load(&account).await.unwrap().balance, 3);
            assert_eq!(store.history(&account).try_collect::<Vec<_>>().await.unwrap().len(), 3);
            let row = store.read_model::<Balance>().get(&account).after(done.position).await.unwrap();
            assert_eq!(row.map(|row| row.balance), Some(3));
            done.position
        })
    });
    let positions: Vec<_> = join_all(work).await.into_iter().map(|done| done.unwrap()).collect();
    let last = positions.into_iter().max().expect("twelve");
    for runner in runners {
        runner.until(last).await?;
        runner.stop().await;
    }
    assert_eq!(stores[1].load(&rust).await?.free(), 88);
    assert_eq!(stores[2].head().await?.0, 1 + 12 * 5);

    let mut connection = server::connection().await;
    let sums = format!("SELECT count(*), sum(cents)::bigint FROM {table}");
    let sums: (i64, i64) = sqlx::query_as(AssertSqlSafe(sums)).fetch_one(&mut connection).await?;
    assert_eq!(sums, (12, 36), "each event once");
    sqlx::query(AssertSqlSafe(format!("DROP TABLE {table}"))).execute(&mut connection).await?;
    Ok(())
}

#[tokio::test]
async fn a10_what_comes_through_a_pooler_is_what_was_sent() -> Result<(), Any> {
    let ignoring = "ignore_startup_parameters = extra_float_digits,options\npool_mode = ";
    for settings in ["pool_mode = transaction", &format!("{ignoring}transaction"), &format!("{ignoring}session")] {
        // As many sessions as the store has connections: in the last mode, each takes one for good.
        let bouncer = Bouncer::start(&format!("{settings}\ndefault_pool_size = 5"));
        let store: Arc<dyn EventStore> = Arc::new(bouncer.open(&server::schema()).await?);
        let report = store.doctor().await?;
        assert_eq!(report.get("pooler").map(|pooler| pooler.severity), Some(Severity::Warning), "{report}");
        let world = World::new(store, None, ());
        golden::write(&world).await?;
        golden::read(&world).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_a_dropped_call_leaves_no_session_of_the_pooler_in_a_transaction() -> Result<(), Any> {
    // One session: whoever kept it would stop everybody.
    let bouncer = Bouncer::start("pool_mode = transaction\ndefault_pool_size = 1");
    let store = bouncer.open(&server::schema()).await?;
    let (store, ann) = (Store::from(store), Id::<Account>::from("ann"));
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    for n in 0..40 {
        let pause = Duration::from_micros(n * 50);
        let _ = tokio::time::timeout(pause, store.load(&ann).into_future()).await;
        let _ = tokio::time::timeout(pause, store.execute(&ann, Deposit { amount: 1 }).into_future()).await;
    }
    let done = tokio::time::timeout(Duration::from_secs(10), store.execute(&ann, Deposit { amount: 1 }).into_future());
    let done = done.await.expect("nobody holds the session")?;
    assert_eq!(store.load(&ann).await?.version.0, done.position.0);
    Ok(())
}
