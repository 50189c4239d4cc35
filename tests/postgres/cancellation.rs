//! Dropping any call at any await, on a pool of one connection: after each drop no session of the store is in a
//! transaction or holds a lock, and there is no second one. What is swept on every store, and how, is in
//! `tests/cases/cancellation.rs`; here, what only PostgreSQL has: opening a log, migrations, own SQL in a transaction.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use eventstore::{
    Expected, Id, PgStore, StoreError, Version,
    doctor::Policy,
    sqlx::{self, AssertSqlSafe, PgConnection, postgres::PgConnectOptions},
};
use futures::FutureExt;
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpStream, UnixListener, UnixStream},
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::{
    account::{Account, AccountEvent::*},
    cases::{
        World,
        cancellation::{Sweep, next, polled},
    },
    server,
};

/// How long a dropped call may keep anything open.
const SOON: Duration = Duration::from_secs(5);

/// Looks at the sessions of a name, and stands between them and the server: a server on the same machine may answer before
/// a call has to wait for it, but not through somebody who must be polled first.
#[derive(Clone)]
struct Watch {
    name: String,
    connection: Arc<Mutex<PgConnection>>,
    between: Arc<TempDir>,
}

impl Watch {
    async fn new(name: &str) -> Self {
        let options: PgConnectOptions = server::url().parse().unwrap();
        let port = options.get_port();
        let host = options.get_socket().map_or(options.get_host().to_owned(), |folder| folder.display().to_string());
        let between = tempfile::tempdir().unwrap();
        let clients = UnixListener::bind(between.path().join(format!(".s.PGSQL.{port}"))).unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = clients.accept().await {
                let host = host.clone();
                tokio::spawn(async move {
                    // Whoever ends first is the end of both.
                    if host.starts_with('/') {
                        let mut server = UnixStream::connect(format!("{host}/.s.PGSQL.{port}")).await.unwrap();
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    } else {
                        let mut server = TcpStream::connect((host, port)).await.unwrap();
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        let connection = Arc::new(Mutex::new(server::connection().await));
        Self { name: name.into(), connection, between: Arc::new(between) }
    }

    /// A URL whose sessions have the name.
    fn url(&self) -> String {
        server::url_with(&format!("host={}&application_name={}", self.between.path().display(), self.name))
    }

    /// Comes back when no session is in a transaction, works, or holds a lock, and there is one at most.
    async fn nothing_open(self) {
        let (start, mut connection) = (Instant::now(), self.connection.lock().await);
        let open = "SELECT a.state || ': ' || a.query, (SELECT count(*) FROM pg_locks AS l WHERE l.pid = a.pid)
                      FROM pg_stat_activity AS a WHERE a.application_name = $1";
        loop {
            let open = sqlx::query_as(open).bind(&self.name).fetch_all(&mut *connection).await;
            let open: Vec<(Option<String>, i64)> = open.unwrap();
            let quiet = |(state, locks): &(Option<String>, i64)| {
                *locks == 0 && state.as_ref().is_none_or(|state| state.starts_with("idle: "))
            };
            if open.len() <= 1 && open.iter().all(quiet) {
                return;
            }
            assert!(start.elapsed() < SOON, "left open: {open:?}");
            sleep(Duration::from_micros(200)).await;
        }
    }
}

/// A store of one connection, and another one of more over the same log.
pub async fn sweep() -> Sweep {
    let schema = server::schema();
    let watch = Watch::new(&format!("sweep_{schema}")).await;
    let options = PgStore::options().schema(&schema).doctor(Policy::Ignore);
    let one = options.clone().max_connections(1).connect(&watch.url()).await.unwrap();
    let other = options.max_connections(8).connect(server::url()).await.unwrap();
    let world = World::new(Arc::new(one), None, ());
    Sweep::new(world, other.into(), Box::new(move || watch.clone().nothing_open().boxed()))
}

#[tokio::test]
async fn a8_o1_opening_a_log_dropped_at_any_await_leaves_it_to_the_next() {
    let watch = Watch::new(&format!("sweep_{}", server::schema())).await;
    let mut schema = server::schema();
    let mut times = 1;
    loop {
        let options = PgStore::options().schema(&schema).max_connections(1);
        let opened = polled(times, options.clone().connect(&watch.url())).await.map(Result::unwrap);
        let done = opened.is_some();
        drop(opened);
        watch.clone().nothing_open().await;
        // All of it is there, or nothing.
        let exists = "SELECT count(*) FROM pg_tables WHERE schemaname = $1";
        let tables: i64 =
            sqlx::query_scalar(exists).bind(&schema).fetch_one(&mut server::connection().await).await.unwrap();
        assert!(tables == 0 || tables == 8, "{tables} tables after {times} polls");
        if done {
            println!("connect: {times} polls");
            break;
        }
        let url = watch.url();
        let missing =
            polled(times, options.migrations(&url)).await.map(|migrations| migrations.unwrap().missing().len());
        assert!(missing.is_none_or(|missing| (missing == 0) == (tables > 0)));
        watch.clone().nothing_open().await;
        let next_one = timeout(SOON, options.connect(&watch.url())).await.expect("nobody holds a lock").unwrap();
        drop(next_one);
        watch.clone().nothing_open().await;
        (schema, times) = (server::schema(), next(times, 1_000));
    }
}

#[tokio::test]
async fn a8_o1_migrating_dropped_at_any_await_is_done_whole_or_not_at_all() {
    let watch = Watch::new(&format!("sweep_{}", server::schema())).await;
    let mut times = 1;
    loop {
        let options = PgStore::options().schema(server::schema()).max_connections(1);
        let migrations = options.migrations(&watch.url()).await.unwrap();
        let all = migrations.missing().len();
        let done = polled(times, migrations.apply()).await.map(Result::unwrap).is_some();
        watch.clone().nothing_open().await;
        let migrations = options.migrations(&watch.url()).await.unwrap();
        let missing = migrations.missing().len();
        assert!(missing == 0 || missing == all && !done, "{missing} of {all} missing after {times} polls");
        timeout(SOON, migrations.apply()).await.expect("nobody holds a lock").unwrap();
        watch.clone().nothing_open().await;
        if done {
            println!("apply: {times} polls");
            break;
        }
        times = next(times, 1_000);
    }
}

#[tokio::test]
async fn a8_own_sql_dropped_at_any_await_is_there_with_the_events_or_not_at_all() {
    let sweep = sweep().await;
    let store = &sweep.world.store;
    let table = format!("receipts_{}", server::schema());
    let mut connection = server::connection().await;
    let make = format!("CREATE TABLE {table} (account text)");
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut connection).await.unwrap();
    let mut times = 1;
    loop {
        let ann = Id::<Account>::from(format!("ann-{times}"));
        let call = async {
            let tx = store.begin().await?;
            let insert = format!("INSERT INTO {table} VALUES ('{ann}')");
            let mut own = tx.connection::<PgConnection>().await?;
            sqlx::query(AssertSqlSafe(insert)).execute(&mut *own).await.unwrap();
            drop(own);
            tx.append(&ann, Expected::Version(Version(0)), [Deposited { amount: 1 }]).await?;
            tx.commit().await
        };
        let done = polled(times, call).await.map(Result::<(), StoreError>::unwrap).is_some();
        sweep.over("own SQL in a transaction", times).await;
        let rows = format!("SELECT count(*) FROM {table} WHERE account = '{ann}'");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_one(&mut connection).await.unwrap();
        let events = store.load(&ann).await.unwrap().version.0;
        assert_eq!(events, rows as u64, "after {times} polls");
        assert!(!done || rows == 1);
        if done {
            println!("own SQL in a transaction: {times} polls");
            break;
        }
        times = next(times, 1_000);
    }
    sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE {table}"))).execute(&mut connection).await.unwrap();
}
