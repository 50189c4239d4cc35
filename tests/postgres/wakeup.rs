//! Those who follow the log in another process: another store here. A notification wakes them; without one they look.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use eventstore::{
    Append, EventStore, Expected, PgStore, Position, Store, StreamId, Write,
    doctor::Policy,
    sqlx::{self, AssertSqlSafe, PgConnection, postgres::PgListener},
};
use futures::{
    StreamExt,
    future::{join, join_all},
};
use tokio::{runtime::Handle, time::timeout};

use crate::{cases::raw, pooler::Bouncer, server};

type Any = Box<dyn std::error::Error>;

/// Longer than anything takes, on any machine.
const LONG: Duration = Duration::from_secs(30);

/// One of the pool, one of the store's own, and one that listens.
const CONNECTIONS: u32 = 3;

/// A log, two stores of it, and the name of the second one's sessions.
struct Two {
    here: PgStore,
    there: PgStore,
    name: String,
}

impl Two {
    async fn open(url: &str) -> Self {
        let name = server::schema();
        let here = PgStore::options().schema(&name).connect(url).await.unwrap();
        let there = format!("{url}{}application_name={name}", if url.contains('?') { '&' } else { '?' });
        let there = PgStore::options().schema(&name).max_connections(CONNECTIONS).connect(&there).await.unwrap();
        Self { here, there, name }
    }

    /// Appends so often here, each time there was woken: how long that took.
    async fn noticed(&self, times: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..times {
            let head = Store::from(self.here.clone()).head().await.unwrap();
            let (_, written) = join(woken(&self.there, head), self.here.append(append(1))).await;
            assert_eq!(written.unwrap().first, Position(head.0 + 1));
        }
        start.elapsed()
    }
}

/// By news, not by the time.
async fn woken(store: &PgStore, after: Position) {
    let waiting = async {
        loop {
            store.appended(after).await;
            if Store::from(store.clone()).head().await.is_ok_and(|head| head > after) {
                return;
            }
        }
    };
    timeout(LONG, waiting).await.expect("woken, or looked");
}

fn append(events: usize) -> Append {
    let stream = StreamId::new("account", "ann");
    let events = (0..events).map(|_| raw("opened", b"{}")).collect();
    Append { writes: vec![Write { stream, expected: Expected::Any, events }], ..Append::default() }
}

/// Follows a log until this is dropped.
struct Follower(tokio::task::JoinHandle<()>);

impl Follower {
    fn of(store: &PgStore) -> Self {
        let store = store.clone();
        Self(tokio::spawn(async move {
            let mut after = Position(0);
            loop {
                store.appended(after).await;
                after = Store::from(store.clone()).head().await.unwrap_or(after);
            }
        }))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for a condition.
async fn until(what: &str, condition: impl AsyncFn(&mut PgConnection) -> bool) {
    let mut connection = server::connection().await;
    let waiting = async { while !condition(&mut connection).await {} };
    timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("not within {LONG:?}: {what}"));
}

/// The sessions of this name.
async fn sessions(connection: &mut PgConnection, name: &str) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1").bind(name);
    count.fetch_one(connection).await.unwrap()
}

/// The session of this name that listens, and has looked at the head since; the other one that may have is that of the
/// pool, which was the first.
async fn listening(connection: &mut PgConnection, name: &str) -> Option<i32> {
    let listening = "SELECT max(pid) FROM pg_stat_activity
                      WHERE application_name = $1 AND query LIKE '%-- The last position.%'
                        AND backend_start > (SELECT min(backend_start) FROM pg_stat_activity WHERE application_name = $1)
                     HAVING count(*) = 1";
    let pid: Option<Option<i32>> = sqlx::query_scalar(listening).bind(name).fetch_optional(connection).await.unwrap();
    pid.flatten()
}

/// When a session of this name has last looked at the head.
async fn last_look(connection: &mut PgConnection, name: &str) -> Option<String> {
    let last = "SELECT max(state_change)::text FROM pg_stat_activity
                 WHERE application_name = $1 AND query LIKE '%-- The last position.%'";
    sqlx::query_scalar(last).bind(name).fetch_one(connection).await.unwrap()
}

async fn until_listening(name: &str) {
    until("somebody listens", async |connection| listening(connection, name).await.is_some()).await;
}

async fn kill(connection: &mut PgConnection, pid: i32) {
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(connection).await.unwrap();
}

/// Somebody of no store's who hears what a log tells.
async fn stranger(schema: &str) -> PgListener {
    let mut listener = PgListener::connect(server::url()).await.unwrap();
    listener.listen(&format!("eventstore:{schema}")).await.unwrap();
    listener
}

async fn told(listener: &mut PgListener) -> String {
    timeout(LONG, listener.recv()).await.expect("a notification").unwrap().payload().to_owned()
}

#[tokio::test]
async fn s8_an_append_of_another_process_wakes_by_a_notification() -> Result<(), Any> {
    let two = Two::open(server::url()).await;
    let follower = Follower::of(&two.there);
    until_listening(&two.name).await;
    let mut connection = server::connection().await;
    let before = listening(&mut connection, &two.name).await;
    // Looking, which happens a second after the last look, each would take a second.
    let took = two.noticed(20).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    until_listening(&two.name).await;
    assert_eq!(listening(&mut connection, &two.name).await, before, "it listened all the while");
    drop(follower);
    Ok(())
}

#[tokio::test]
async fn s8_what_nobody_was_told_of_is_found() -> Result<(), Any> {
    let two = Two::open(server::url()).await;
    two.here.append(append(1)).await?;
    let _follower = Follower::of(&two.there);
    until_listening(&two.name).await;
    // Recorded by somebody who tells nobody.
    let silent = format!(
        "INSERT INTO {}.events SELECT position + 1, version + 1, recorded_at, occurred_at, gen_random_uuid(), type_key,
                                      schema, stream, tags, metadata, payload
           FROM {}.events ORDER BY position DESC LIMIT 1",
        two.name, two.name
    );
    let start = Instant::now();
    for n in 1..=5 {
        let silent =
            async { sqlx::query(AssertSqlSafe(silent.clone())).execute(&mut server::connection().await).await };
        let ((), inserted) = join(woken(&two.there, Position(n)), silent).await;
        inserted?;
    }
    // A look a second; whoever waits only looks for itself after five.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s8_whoever_is_cut_off_while_it_listens_loses_nothing_and_listens_again() -> Result<(), Any> {
    let two = Two::open(server::url()).await;
    let _follower = Follower::of(&two.there);
    let mut connection = server::connection().await;
    let reader = tokio::spawn({
        let there = Store::from(two.there.clone());
        async move {
            let mut seen = 0;
            while seen < 100 {
                let mut events = there.read().after(Position(seen)).raw();
                while let Some(Ok(event)) = events.next().await {
                    seen += 1;
                    assert_eq!(event.position, Position(seen));
                }
                there.as_ref().appended(Position(seen)).await;
            }
        }
    });
    for _ in 0..10 {
        until_listening(&two.name).await;
        if let Some(pid) = listening(&mut connection, &two.name).await {
            kill(&mut connection, pid).await;
        }
        for _ in 0..10 {
            two.here.append(append(1)).await?;
        }
    }
    timeout(LONG, reader).await.expect("nothing is lost")?;
    until_listening(&two.name).await;
    let took = two.noticed(20).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn s8_a_notification_is_a_reason_to_look_and_is_not_believed() -> Result<(), Any> {
    let two = Two::open(server::url()).await;
    let _follower = Follower::of(&two.there);
    until_listening(&two.name).await;
    for lie in ["18446744073709551615", "99999999999999999999999", "-1", "", "garbage", "'; DROP SCHEMA public"] {
        let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(format!("eventstore:{}", two.name)).bind(lie);
        notify.execute(&mut server::connection().await).await?;
    }
    let took = two.noticed(5).await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    // There are five events, whatever it was told.
    timeout(Duration::from_millis(100), two.there.appended(Position(5))).await.expect_err("there is no sixth");
    Ok(())
}

#[tokio::test]
async fn s8_a_transaction_of_ones_own_tells_when_it_is_committed() -> Result<(), Any> {
    let two = Two::open(server::url()).await;
    let mut stranger = stranger(&two.name).await;
    for (events, commit) in [(2, false), (3, true)] {
        let mut transaction = two.here.begin().await?;
        transaction.append(append(events)).await?;
        if commit { transaction.commit().await? } else { transaction.rollback().await? }
    }
    assert_eq!(told(&mut stranger).await, "3", "and not of the two that were rolled back");
    two.here.append(append(1)).await?;
    assert_eq!(told(&mut stranger).await, "4");
    // Whoever follows is woken by it.
    let _follower = Follower::of(&two.there);
    until_listening(&two.name).await;
    let start = Instant::now();
    for n in 4..14 {
        let commit = async {
            let mut transaction = two.here.begin().await?;
            transaction.append(append(1)).await?;
            transaction.commit().await
        };
        let ((), committed) = join(woken(&two.there, Position(n)), commit).await;
        committed?;
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn s8_no_transaction_that_appends_tells_anybody() -> Result<(), Any> {
    let pg = server::fresh().await;
    let mut connection = server::connection().await;
    let functions: Vec<(String, String)> =
        sqlx::query_as("SELECT proname, prosrc FROM pg_proc WHERE pronamespace = $1::regnamespace")
            .bind(pg.schema())
            .fetch_all(&mut connection)
            .await?;
    assert!(functions.iter().any(|(name, _)| name == "append_batch"), "{functions:?}");
    for (name, source) in functions {
        assert!(!source.to_lowercase().contains("notify"), "{name}");
    }
    let statements = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../eventstore-postgres/sql"))?;
    let mut telling = vec![];
    for file in statements {
        let file = file?;
        if std::fs::read_to_string(file.path())?.to_lowercase().contains("notify") {
            telling.push(file.file_name());
        }
    }
    assert_eq!(telling, ["notify.sql"]);
    Ok(())
}

#[tokio::test]
async fn s8_behind_a_pooler_one_looks_and_tells() -> Result<(), Any> {
    let bouncer = Bouncer::transactions();
    let two = Two::open(&bouncer.url()).await;
    let mut stranger = stranger(&two.name).await;
    let took = two.noticed(20).await;
    assert!(took < LONG, "{took:?}");
    while told(&mut stranger).await != "20" {}
    // Whoever is connected to the server itself is woken by those who are not.
    let url = server::url_with(&format!("application_name={}_direct", two.name));
    let direct = PgStore::options().schema(&two.name).max_connections(CONNECTIONS).connect(&url).await?;
    let direct = Two { here: two.here.clone(), there: direct, name: format!("{}_direct", two.name) };
    let _follower = Follower::of(&direct.there);
    until_listening(&direct.name).await;
    let took = direct.noticed(20).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn s8_where_the_server_refuses_to_have_it_listen_a_store_looks_and_tries_again() -> Result<(), Any> {
    let mut two = Two::open(server::url()).await;
    let (role, mut connection) = (format!("{}_role", two.name), server::connection().await);
    let mut run = async |sql: String| sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await;
    // One for the pool and one of the store's own, which are open before anybody follows.
    run(format!("CREATE ROLE {role} LOGIN PASSWORD 'only_here' CONNECTION LIMIT 2 IN ROLE pg_read_all_data")).await?;
    let url = server::url_as(&role, "only_here");
    let url = format!("{url}{}application_name={role}", if url.contains('?') { '&' } else { '?' });
    let options = PgStore::options().schema(&two.name).max_connections(CONNECTIONS).doctor(Policy::Ignore);
    two.there = options.connect(&url).await?;
    assert_eq!(Store::from(two.there.clone()).head().await?, Position(0));
    let follower = Follower::of(&two.there);
    two.noticed(20).await;
    assert_eq!(listening(&mut server::connection().await, &role).await, None);
    run(format!("ALTER ROLE {role} CONNECTION LIMIT 3")).await?;
    until_listening(&role).await;
    let took = two.noticed(20).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop((follower, two));
    until("no session", async |connection| sessions(connection, &role).await == 0).await;
    run(format!("DROP ROLE {role}")).await?;
    Ok(())
}

#[tokio::test]
async fn s8_a_schema_may_have_a_long_and_strange_name() -> Result<(), Any> {
    let mut connection = server::connection().await;
    let tail: String = server::schema().replace('_', "").chars().take(30).collect();
    // Of 63 bytes, and different in the last one only.
    let names = ["1", "2"].map(|last| format!("_select_{}_{tail}{last}", "z".repeat(63 - 10 - tail.len())));
    let mut stores = vec![];
    for name in &names {
        assert_eq!(name.len(), 63);
        let url = server::url_with(&format!("application_name={}", &name[33..]));
        let there = PgStore::options().schema(name).max_connections(CONNECTIONS).connect(&url).await?;
        let here = PgStore::options().schema(name).connect(server::url()).await?;
        stores.push(Two { here, there, name: name[33..].to_owned() });
    }
    let _followers: Vec<_> = stores.iter().map(|two| Follower::of(&two.there)).collect();
    for two in &stores {
        until_listening(&two.name).await;
    }
    let took = stores[0].noticed(10).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let took = stores[1].noticed(10).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    for name in names {
        sqlx::query(AssertSqlSafe(format!("DROP SCHEMA {name} CASCADE"))).execute(&mut connection).await?;
    }
    Ok(())
}

#[tokio::test]
async fn o2_all_who_follow_share_a_connection_and_a_dropped_store_leaves_none() -> Result<(), Any> {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let two = Two::open(server::url()).await;
    two.here.append(append(1)).await?;
    two.there.append(append(1)).await?;
    let mut connection = server::connection().await;
    // Who only appends does not listen: no session looks at the head again by itself. One of the pool may have looked.
    let looked = last_look(&mut connection, &two.name).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let later = last_look(&mut connection, &two.name).await;
    assert!(later.is_none() || later == looked, "{looked:?}, then {later:?}");
    let followers: Vec<_> = (0..5)
        .map(|_| {
            tokio::spawn({
                let there = two.there.clone();
                async move { there.appended(Position(2)).await }
            })
        })
        .collect();
    until_listening(&two.name).await;
    assert!(sessions(&mut connection, &two.name).await <= i64::from(CONNECTIONS));
    two.here.append(append(1)).await?;
    for woken in join_all(followers).await {
        woken?;
    }
    // A waiting call is dropped, and so are the stores.
    assert!(timeout(Duration::from_millis(1), two.there.appended(Position(3))).await.is_err());
    until_listening(&two.name).await;
    let name = two.name.clone();
    drop(two);
    until("no session", async |connection| sessions(connection, &name).await == 0).await;
    // The tasks of the test itself have ended: those of the stores, and the driver's, do so too.
    until("no task", async |_| {
        tokio::task::yield_now().await;
        tasks() == before
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn o2_following_costs_a_look_a_second_and_its_connection_is_closed_when_nobody_does() -> Result<(), Any> {
    // In a database of its own, whose transactions are counted.
    let database = server::schema();
    let mut connection = server::connection().await;
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&mut connection).await?;
    let url = server::url_of(&database);
    let two = Two::open(&url).await;
    two.here.append(append(1)).await?;
    let waiting = tokio::spawn({
        let there = two.there.clone();
        async move { there.appended(Position(1)).await }
    });
    until_listening(&two.name).await;
    let count = async |connection: &mut PgConnection| -> Result<i64, sqlx::Error> {
        let count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
        sqlx::query_scalar(count).bind(&database).fetch_one(connection).await
    };
    let before = count(&mut connection).await?;
    // Nothing happens: it comes back to say so.
    waiting.await?;
    let queries = count(&mut connection).await? - before;
    assert!(queries <= 20, "{queries} in five seconds, and what was not yet counted before");
    // Nobody follows any more.
    until("nobody listens", async |connection| listening(connection, &two.name).await.is_none()).await;
    drop(two);
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE {database} WITH (FORCE)"))).execute(&mut connection).await?;
    Ok(())
}

#[test]
fn a8_a_runtime_that_ends_leaves_watching_to_the_next() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let two = Arc::new(second.block_on(Two::open(server::url())));
    let watching = first.block_on(async {
        let watching = Follower::of(&two.there);
        until_listening(&two.name).await;
        watching
    });
    // Somebody waits elsewhere for what is watched here.
    let waiting = second.spawn({
        let two = two.clone();
        async move { woken(&two.there, Position(0)).await }
    });
    first.shutdown_timeout(Duration::ZERO);
    drop(watching);
    second.block_on(async {
        let _follower = Follower::of(&two.there);
        until_listening(&two.name).await;
        let took = two.noticed(20).await;
        assert!(took < Duration::from_secs(10), "{took:?}");
        waiting.await.unwrap();
    });
    // Dropped where there is no runtime.
    drop(two);
}
