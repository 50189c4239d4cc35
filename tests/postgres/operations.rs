//! The schema: made by many at once, guarded, shown to people, and written by an earlier release.

use std::{process::Command, sync::Arc, time::Duration};

use eventstore::{
    Append, Column, EventStore, Expected, Id, Inline, Kind, PgStore, RunReadModels, Runner, Store, StoreError,
    StreamId, Table, Tables, Transaction, Write,
    doctor::Severity,
    sqlx::{self, AssertSqlSafe, PgConnection},
};
use futures::{TryStreamExt, future::join_all};
use uuid::Uuid;

use crate::{
    account::{Account, *},
    cases::{World, balances::Balance, golden, raw},
    ledger::Ledger,
    server,
};

type Any = Box<dyn std::error::Error>;

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o1_many_nodes_may_start_at_once() -> Result<(), Any> {
    let schema = server::schema();
    let nodes = (0..12).map(|_| {
        let options = PgStore::options().schema(schema.clone()).max_connections(1);
        tokio::spawn(options.connect(server::url()))
    });
    let stores: Vec<_> = join_all(nodes).await.into_iter().map(|store| store.unwrap().unwrap()).collect();
    let ann = Id::<Account>::from("ann");
    for store in stores {
        let deposit = AccountEvent::Deposited { amount: 1 };
        Store::from(store).append(&ann, Expected::Any, [deposit]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_one_connection_is_enough_for_everything_at_once() -> Result<(), Any> {
    let (schema, mut admin) = (server::schema(), server::connection().await);
    let role = format!("{schema}_one");
    let make = "CREATE ROLE {r} LOGIN PASSWORD 'only_for_this_test' CONNECTION LIMIT 1;
                CREATE SCHEMA {s} AUTHORIZATION {r}; CREATE SCHEMA {s}_rows AUTHORIZATION {r}";
    run(&mut admin, make.replace("{r}", &role).replace("{s}", &schema)).await?;
    let options = PgStore::options().schema(schema.clone()).tables_schema(format!("{schema}_rows")).max_connections(1);
    let pg = options.connect(&server::url_as(&role, "only_for_this_test")).await?;
    let store = Store::from(pg);
    let ledger = format!("{schema}_rows.ledger");
    let runner = Arc::new(Runner::new(&store).read_model::<Balance>().projection(Ledger::new(&ledger)).start());
    // Streams that somebody has begun to read and goes on with later.
    let many = Id::<Account>::from("many");
    store.append(&many, Expected::Any, (0..2_500).map(|_| AccountEvent::Deposited { amount: 1 })).await?;
    let (mut log, mut history) = (store.read().raw(), store.history(&many));
    assert!(log.try_next().await?.is_some() && history.try_next().await?.is_some());

    let work = (0..8).map(|n| {
        let (store, runner, many) = (store.clone(), runner.clone(), many.clone());
        tokio::spawn(async move {
            let ann = Id::<Account>::from(format!("A{n}"));
            let opened = store.execute(&ann, Open { owner: "x".into() }).await.unwrap();
            runner.until(opened.position).await.unwrap();
            let done = store.execute(&ann, Deposit { amount: n }).command_id(Uuid::now_v7()).await.unwrap();
            let row = store.read_model::<Balance>().get(&ann).after(done.position).await.unwrap();
            assert_eq!(row.map(|row| row.balance), Some(n));
            assert_eq!(store.load(&ann).as_of(done.events[0].recorded_at).await.unwrap().balance, n);
            assert_eq!(store.read().stream(&many).raw().try_collect::<Vec<_>>().await.unwrap().len(), 2_500);
            assert_eq!(store.read_model::<Balance>().list().await.unwrap().len(), 9);
            assert!(store.doctor().await.unwrap().get("rights").is_some());
        })
    });
    let all = tokio::time::timeout(Duration::from_secs(60), join_all(work)).await.expect("nobody waits for itself");
    all.into_iter().for_each(|one| one.unwrap());
    assert_eq!(log.try_collect::<Vec<_>>().await?.len(), 2_499);
    assert_eq!(history.try_collect::<Vec<_>>().await?.len(), 2_499);
    Arc::into_inner(runner).expect("nobody else has it").stop().await;
    run(&mut admin, format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await?;
    Ok(())
}

#[tokio::test]
async fn a1_an_append_waits_for_its_flush_in_any_session() -> Result<(), Any> {
    let url = server::url_with("options=-c%20synchronous_commit%3Doff");
    let store = PgStore::options().schema(server::schema()).connect(&url).await?;
    let show = async |transaction: &mut dyn Transaction| -> Result<String, Any> {
        let connection = transaction.connection().and_then(|connection| connection.downcast_mut::<PgConnection>());
        let show = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(connection.expect("PostgreSQL"));
        Ok(show.await?)
    };
    let mut transaction = store.begin().await?;
    assert_eq!(show(&mut *transaction).await?, "off");
    let event = raw("account.deposited", b"{}");
    let write = Write { stream: StreamId::new("account", "ann"), expected: Expected::Any, events: vec![event] };
    transaction.append(Append { writes: vec![write], ..Append::default() }).await?;
    // It is the commit that waits, or does not.
    assert_eq!(show(&mut *transaction).await?, "on");
    transaction.commit().await?;
    Ok(())
}

#[tokio::test]
async fn a_database_of_a_newer_program_or_another_history_is_refused() -> Result<(), Any> {
    let mut connection = server::connection().await;
    for change in [
        "INSERT INTO {schema}.migrations (version, checksum, works_from) VALUES (99, gen_random_uuid(), '99.0.0')",
        "INSERT INTO {schema}.migrations (version, checksum, works_from) VALUES (99, gen_random_uuid(), 'whatever')",
        "UPDATE {schema}.migrations SET checksum = gen_random_uuid()",
    ] {
        let store = server::fresh().await;
        let schema = store.schema().to_owned();
        run(&mut connection, change.replace("{schema}", &schema)).await?;
        let refused = PgStore::options().schema(schema).connect(server::url()).await.err();
        assert!(matches!(refused, Some(StoreError::Schema(_))), "{refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn o1_a_migration_of_a_later_release_that_this_one_works_with_is_left_as_it_is() -> Result<(), Any> {
    let store = server::fresh().await;
    let schema = store.schema().to_owned();
    let later =
        "INSERT INTO {schema}.migrations (version, checksum, works_from) VALUES (99, gen_random_uuid(), '0.1.0')";
    let mut connection = server::connection().await;
    run(&mut connection, later.replace("{schema}", &schema)).await?;
    let options = PgStore::options().schema(&schema);
    let store = options.clone().migrate(false).connect(server::url()).await?;
    // The later release may have replaced a function: what it is now, this one does not know.
    run(
        &mut connection,
        format!(
            "CREATE OR REPLACE FUNCTION {schema}.json(p_bytes bytea) RETURNS jsonb
                                  LANGUAGE plpgsql IMMUTABLE STRICT AS $$ BEGIN RETURN NULL; END $$"
        ),
    )
    .await?;
    let report = store.doctor().await?;
    assert!(report.get("functions").is_some_and(|found| found.severity == Severity::Ok), "{report}");
    assert!(report.get("migrations").is_some_and(|found| found.severity == Severity::Ok), "{report}");
    Store::from(store).execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    let migrations = options.migrations(server::url()).await?;
    assert!(migrations.missing().is_empty() && migrations.script().is_empty(), "{migrations}");
    migrations.apply().await?;
    Ok(())
}

#[tokio::test]
async fn x3_events_cannot_be_changed_deleted_or_truncated() -> Result<(), Any> {
    let store = server::fresh().await;
    let schema = store.schema().to_owned();
    let ann = Id::<Account>::from("ann");
    Store::from(store.clone()).execute(&ann, Open { owner: "Ann".into() }).await?;
    // As the owner and superuser, and with triggers switched to replication, too.
    let mut connection = server::connection().await;
    for session in ["SET session_replication_role = origin", "SET session_replication_role = replica"] {
        run(&mut connection, session.into()).await?;
        for sql in [
            "UPDATE {s}.events SET version = 2",
            "DELETE FROM {s}.events",
            "TRUNCATE {s}.events",
            "TRUNCATE {s}.event_types, {s}.events",
        ] {
            let refused = run(&mut connection, sql.replace("{s}", &schema)).await.expect_err("refused");
            let code = refused.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
            assert_eq!(code.as_deref(), Some("ES010"), "{sql}");
        }
    }
    assert_eq!(Store::from(store).load(&ann).await?.version.0, 1);
    Ok(())
}

#[tokio::test]
async fn an_index_that_is_asked_for_later_is_made() -> Result<(), Any> {
    let store = server::fresh().await;
    let columns = |index| &*vec![Column { name: "owner", kind: Kind::Text, index, optional: false }].leak();
    for (index, indexes) in [(false, 1), (true, 2), (true, 2), (false, 2)] {
        let table = Table { name: "owners", version: 1, columns: columns(index), shadow: false };
        store.create(&table).await?;
        store.index(&table).await?;
        let count = "SELECT count(*) FROM pg_indexes WHERE schemaname = $1 AND tablename = 'owners@1'";
        let count: i64 =
            sqlx::query_scalar(count).bind(store.schema()).fetch_one(&mut server::connection().await).await?;
        assert_eq!(count, indexes, "with that of the key");
    }
    Ok(())
}

#[tokio::test]
async fn dead_letters_have_an_index_from_the_first_node_on() -> Result<(), Any> {
    for inline in [false, true] {
        let store = server::fresh().await;
        let schema = store.schema().to_owned();
        let store = Store::from(store);
        if inline {
            store.clone().with_inline::<Balance>().read_model::<Balance>().list().await?;
        } else {
            let running = Runner::new(&store).read_model::<Balance>().start();
            running.until(store.head().await?).await?;
            running.stop().await;
        }
        let count = "SELECT count(*) FROM pg_indexes WHERE schemaname = $1 AND tablename = 'dead_letters'
                     AND indexdef LIKE '%(projection%'";
        let count: i64 = sqlx::query_scalar(count).bind(schema).fetch_one(&mut server::connection().await).await?;
        assert_eq!(count, 1, "inline: {inline}");
    }
    Ok(())
}

#[tokio::test]
async fn the_log_is_shown_to_people_as_json_whatever_is_in_it() -> Result<(), Any> {
    let pg = server::fresh().await;
    let schema = pg.schema().to_owned();
    let world = World::new(Arc::new(pg), None, ());
    golden::write(&world).await?;
    let shown = format!("SELECT stream, event, data::text, metadata->>'$actor' FROM {schema}.log ORDER BY position");
    let shown: Vec<(String, String, Option<String>, Option<String>)> =
        sqlx::query_as(AssertSqlSafe(shown)).fetch_all(&mut server::connection().await).await?;
    assert_eq!(shown.len(), 9);
    assert_eq!(shown[2].2.as_deref(), Some(r#"{"amount": 5}"#));
    assert_eq!(shown[2].3.as_deref(), Some("importer"));
    assert_eq!((&*shown[7].1, &shown[7].2), ("it's odd", &None));
    assert_eq!((&*shown[8].1, &shown[8].2), ("nul", &None), "jsonb cannot say \\u0000");
    Ok(())
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/postgres-1.sql");
/// The schema the golden dump was taken from.
const DUMPED: &str = "eventstore_golden";

#[tokio::test]
async fn a_schema_of_the_first_release_is_read_and_goes_on() -> Result<(), Any> {
    let mut connection = server::connection().await;
    if std::env::var_os("EVENTSTORE_WRITE_GOLDEN").is_some() {
        run(&mut connection, format!("DROP SCHEMA IF EXISTS {DUMPED} CASCADE")).await?;
        let pg = PgStore::options().schema(DUMPED).connect(server::url()).await?;
        golden::write(&World::new(Arc::new(pg), None, ())).await?;
        let arguments = ["--inserts", "--no-owner", "--no-privileges", "--schema", DUMPED, "--dbname", server::url()];
        let dump = Command::new("pg_dump").args(arguments).output()?;
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        // Commands of psql are not for us.
        let dump = String::from_utf8(dump.stdout)?;
        let dump: String = dump.lines().filter(|line| !line.starts_with('\\')).flat_map(|line| [line, "\n"]).collect();
        std::fs::write(GOLDEN, dump)?;
    }
    let schema = server::schema();
    let dump = std::fs::read_to_string(GOLDEN)?.replace(DUMPED, &schema);
    run(&mut connection, dump).await?;
    let pg: Arc<dyn EventStore> = Arc::new(PgStore::options().schema(schema).connect(server::url()).await?);
    golden::read(&World::new(pg, None, ())).await
}

const SHADOWS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/postgres-1-shadows.sql");

#[tokio::test]
async fn names_of_the_first_release_become_those_of_this_one() -> Result<(), Any> {
    let schema = server::schema();
    let dump = std::fs::read_to_string(SHADOWS)?.replace(DUMPED, &schema);
    run(&mut server::connection().await, dump).await?;
    let options = PgStore::options().schema(&schema);
    // Several nodes start at once.
    let stores = (0..4).map(|_| options.clone().connect(server::url()));
    let stores: Vec<_> = join_all(stores).await.into_iter().collect::<Result<_, _>>()?;
    let [first, ..] = &stores[..] else { panic!("four were opened") };
    crate::names::shadows_are_renamed(&World::new(Arc::new(first.clone()), None, stores)).await
}

#[tokio::test]
async fn a_table_with_a_name_of_the_engine_stops_what_runs_and_is_named() -> Result<(), Any> {
    let schema = server::schema();
    let mut connection = server::connection().await;
    let pg = PgStore::options().schema(&schema).connect(server::url()).await?;
    run(&mut connection, format!("CREATE TABLE {schema}.nodes (id bigint)")).await?;
    let store = Store::from(pg);
    let opened = store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    let runner = Runner::new(&store).read_model::<Balance>().start();
    let stopped = tokio::time::timeout(Duration::from_secs(10), runner.until(opened.position)).await?;
    let Err(error @ StoreError::Stopped { .. }) = stopped else { panic!("{stopped:?}") };
    assert!(error.to_string().contains(&format!("`{schema}.nodes`")), "{error}");
    run(&mut connection, format!("ALTER TABLE {schema}.nodes RENAME TO theirs")).await?;
    let built = async {
        while store.read_model::<Balance>().get("ann").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), built).await?;
    runner.stop().await;
    Ok(())
}
