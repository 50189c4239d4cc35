//! What goes wrong in the middle: statements that fail, transactions that end otherwise, connections that are cut.

use std::time::{Duration, Instant};

use eventstore::{
    Append, Changes, Event, EventStore, Expected, Id, PgStore, Position, Store, StoreError, StreamId, Table, Version,
    Write,
    sqlx::{self, AssertSqlSafe, PgConnection},
};
use futures::TryStreamExt;
use tokio::{
    io::copy,
    net::{UnixListener, UnixStream},
    sync::watch,
};

use crate::{
    account::{Account, AccountEvent},
    cases::raw,
    server,
};

type Any = Box<dyn std::error::Error>;

#[tokio::test]
async fn a2_a_commit_after_an_error_is_an_error() -> Result<(), Any> {
    let store = server::fresh().await;
    let mut transaction = store.begin().await?;
    transaction.append(opened("ann")).await?;
    let table = Table { name: "nobodys", version: 1, columns: &[], shadow: false };
    let missing = transaction.write(Changes { table, upserts: vec![], deletes: vec!["a".into()] }).await;
    assert!(matches!(missing, Err(StoreError::NotBuilt { .. })), "{missing:?}");
    // The server has given up the transaction, and would answer a COMMIT without a word.
    transaction.commit().await.expect_err("nothing was committed");
    assert_eq!(Store::from(store.clone()).head().await?, Position(0));
    let written = store.append(opened("ann")).await?;
    assert_eq!((written.replayed, written.first), (false, Position(1)));
    Ok(())
}

#[tokio::test]
async fn a10_an_event_type_that_was_rolled_back_is_registered_again() -> Result<(), Any> {
    let store = server::fresh().await;
    let mut transaction = store.begin().await?;
    let first = opened("ann");
    transaction.append(first.clone()).await?;
    // Read back by the transaction that wrote it, and nobody else may see it.
    assert!(transaction.append(first).await?.replayed);
    transaction.rollback().await?;
    store.append(opened("ann")).await?;
    let another = PgStore::options().schema(store.schema()).connect(server::url()).await?;
    let log: Vec<_> = Store::from(another).read().names(["account.opened"]).raw().try_collect().await?;
    assert_eq!(log.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_event_types_that_appear_while_the_log_is_read_are_no_damage() -> Result<(), Any> {
    const TYPES: u64 = 300;
    let store = server::fresh().await;
    let stream = StreamId::new("account", "ann");
    // Each has its own knowledge of event types, and none has appended.
    let mut readers = vec![];
    for _ in 0..3 {
        let reader = PgStore::options().schema(store.schema()).max_connections(2).connect(server::url()).await?;
        readers.push(tokio::spawn(async move {
            let reader = Store::from(reader);
            loop {
                let log: Vec<_> = reader.read().raw().try_collect().await?;
                let names: Vec<_> = log.iter().map(|event| event.data.name.to_string()).collect();
                assert_eq!(names, (0..log.len()).map(|n| format!("new.{n}")).collect::<Vec<_>>());
                if log.len() as u64 == TYPES {
                    return Ok::<_, StoreError>(());
                }
            }
        }));
    }
    for n in 0..TYPES {
        let events = vec![raw(&format!("new.{n}"), b"{}")];
        let write = Write { stream: stream.clone(), expected: Expected::Any, events };
        store.append(Append { writes: vec![write], ..Append::default() }).await?;
    }
    for reader in readers {
        reader.await??;
    }
    Ok(())
}

#[tokio::test]
async fn p8_an_event_of_a_type_that_is_gone_is_told_by_itself() -> Result<(), Any> {
    let store = server::fresh().await;
    store.append(opened("ann")).await?;
    let schema = store.schema();
    let lose = format!(
        "ALTER TABLE {schema}.event_types DISABLE TRIGGER USER;
         DELETE FROM {schema}.event_types;"
    );
    sqlx::raw_sql(AssertSqlSafe(lose)).execute(&mut server::connection().await).await?;
    let another = Store::from(PgStore::options().schema(schema).connect(server::url()).await?);
    let read = another.read().raw().try_collect::<Vec<_>>().await?;
    assert_eq!(read.iter().map(|event| &*event.data.name).collect::<Vec<_>>(), ["?1"]);
    let loaded = another.load(Id::<Account>::from("ann")).await;
    assert!(matches!(&loaded, Err(StoreError::Unreadable { version: Version(1), .. })), "{loaded:?}");
    // What is appended now has a type, and is read.
    let opened = AccountEvent::Opened { owner: "Bob".into() };
    another.append(Id::<Account>::from("bob"), Expected::Any, [opened]).await?;
    assert!(another.load(Id::<Account>::from("bob")).await?.open);
    Ok(())
}

#[tokio::test]
async fn a10_an_event_type_that_became_another_is_noticed() -> Result<(), Any> {
    let store = server::fresh().await;
    store.append(opened("ann")).await?;
    // As after a failover to a server that had not heard of the last event types.
    let schema = store.schema();
    let swap = format!(
        "SET session_replication_role = replica;
         ALTER TABLE {schema}.event_types DISABLE TRIGGER USER;
         UPDATE {schema}.event_types SET name = 'account.another'"
    );
    sqlx::raw_sql(AssertSqlSafe(swap)).execute(&mut server::connection().await).await?;
    for stream in ["bob", "cem"] {
        store.append(opened(stream)).await?;
    }
    let another = PgStore::options().schema(schema).connect(server::url()).await?;
    let names: Vec<_> = Store::from(another).read().raw().map_ok(|event| event.data.name).try_collect().await?;
    assert_eq!(
        names.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["account.another", "account.opened", "account.opened"]
    );
    Ok(())
}

#[tokio::test]
async fn a9_a_schema_may_have_any_name() -> Result<(), Any> {
    // A reserved word; whichever test database it is, this test is the only one that has it.
    let mut connection = server::connection().await;
    sqlx::raw_sql(r#"DROP SCHEMA IF EXISTS "user" CASCADE"#).execute(&mut connection).await?;
    let store = PgStore::options().schema("user").connect(server::url()).await?;
    store.append(opened("ann")).await?;
    assert_eq!(Store::from(store).head().await?, Position(1));
    sqlx::raw_sql(r#"DROP SCHEMA "user" CASCADE"#).execute(&mut connection).await?;
    Ok(())
}

fn opened(key: &str) -> Append {
    let write = Write {
        stream: StreamId::new("account", key),
        expected: Expected::Any,
        events: vec![raw("account.opened", b"{}")],
    };
    Append { writes: vec![write], ..Append::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_after_a_cut_connection_only_what_is_sure_is_said() -> Result<(), Any> {
    let Some((_, host)) = server::url().split_once("host=") else { panic!("this test needs a server on a socket") };
    let store = server::fresh().await;
    store.append(opened("first")).await?;
    // Somebody in between, who can cut a client off without the server hearing of it.
    let folder = tempfile::tempdir()?;
    let between = UnixListener::bind(folder.path().join(".s.PGSQL.5432"))?;
    let (cut, is_cut) = watch::channel(false);
    let real = format!("{host}/.s.PGSQL.5432");
    tokio::spawn(async move {
        while let Ok((client, _)) = between.accept().await {
            let (server, mut is_cut) = (UnixStream::connect(&real).await.unwrap(), is_cut.clone());
            is_cut.mark_unchanged();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::select! {
                    _ = copy(&mut from_client, &mut to_server) => {}
                    _ = copy(&mut from_server, &mut to_client) => {}
                    _ = is_cut.changed() => {
                        drop((from_client, to_client));
                        std::future::pending::<()>().await;
                    }
                }
            });
        }
    });
    let url = format!(
        "postgres://postgres@localhost/postgres?host={}&options=-c%20lock_timeout=500",
        folder.path().display()
    );
    let cut_off = PgStore::options().schema(store.schema()).connect(&url).await?;
    cut_off.append(opened("warm")).await?;
    let mut open = store.begin().await?;
    open.append(opened("open")).await?;
    let lost = opened("lost");
    let asked = tokio::spawn({
        let (cut_off, lost) = (cut_off.clone(), lost.clone());
        async move { cut_off.append(lost).await }
    });
    server::waiting_for_the_lock(store.schema(), 1).await;
    cut.send_replace(true);
    // Sent again, it waits for the lock in vain. But the first attempt may have been recorded for all that is known.
    let outcome = asked.await?;
    assert!(matches!(outcome, Err(StoreError::Unknown(_))), "{outcome:?}");
    open.commit().await?;
    // The same ids again settle it.
    cut_off.append(lost).await?;
    let log: Vec<_> = Store::from(store).read().stream(StreamId::new("account", "lost")).raw().try_collect().await?;
    assert_eq!(log.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a2_tables_of_ones_own_and_events_are_there_together() -> Result<(), Any> {
    let pg = server::fresh().await;
    let (schema, store) = (pg.schema().to_owned(), Store::from(pg.clone()));
    let run = |sql: String| AssertSqlSafe(sql.replace("{schema}", &schema));
    sqlx::raw_sql(run("CREATE TABLE {schema}.receipts (account text)".into()))
        .execute(&mut server::connection().await)
        .await?;
    let receipts = async || -> Result<i64, Any> {
        let count = sqlx::query_scalar(run("SELECT count(*) FROM {schema}.receipts".into()));
        Ok(count.fetch_one(&mut server::connection().await).await?)
    };
    for commit in [false, true] {
        let tx = store.begin().await?;
        let insert = sqlx::query(run("INSERT INTO {schema}.receipts VALUES ('ann')".into()));
        insert.execute(&mut *tx.connection::<PgConnection>().await?).await?;
        tx.append(StreamId::new("account", "ann"), Expected::Any, [Opened::Opened]).await?;
        if commit {
            tx.commit().await?
        } else {
            tx.rollback().await?
        }
        assert_eq!((receipts().await?, store.head().await?), (i64::from(commit), Position(u64::from(commit))));
    }
    // After an error of one's own SQL the server has given the transaction up.
    let tx = store.begin().await?;
    tx.append(StreamId::new("account", "ann"), Expected::Any, [Opened::Opened]).await?;
    sqlx::raw_sql("SELECT nonsense").execute(&mut *tx.connection::<PgConnection>().await?).await.unwrap_err();
    tx.commit().await.expect_err("nothing was committed");
    assert_eq!(store.head().await?, Position(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a9_who_waits_for_itself_is_told() -> Result<(), Any> {
    let store = Store::from(server::fresh().await);
    let tx = store.begin().await?;
    tx.append(StreamId::new("account", "ann"), Expected::Any, [Opened::Opened]).await?;
    let start = Instant::now();
    let busy = store.append(StreamId::new("account", "bob"), Expected::Any, [Opened::Opened]).await;
    assert!(matches!(&busy, Err(error @ StoreError::Busy(_)) if error.is_retryable()), "{busy:?}");
    assert!(start.elapsed() > Duration::from_secs(9));
    tx.commit().await?;
    store.append(StreamId::new("account", "bob"), Expected::Any, [Opened::Opened]).await?;
    assert_eq!(store.head().await?, Position(2));
    Ok(())
}

#[derive(Event, Clone, Debug)]
enum Opened {
    Opened,
}
