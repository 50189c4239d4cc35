//! A server that crashes while many append.

use std::{
    any::Any,
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use eventstore::{
    Append, Condition, Durability, EventStore, Expected, ImportEvent, Item, PgStore, Position, Query, Read,
    RunReadModels, StreamId, Tag, Write, event_id,
    prelude::{Event, Project, ReadModel, Recorded, Row, Runner, Store},
    sqlx::{self, PgConnection},
};
use futures::{TryStreamExt, future::join_all, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{cases::raw, server::Own};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_what_was_acknowledged_survives_a_crash_of_the_server() {
    let (server, url) = Own::start();
    for durability in [Durability::Strict, Durability::Pipelined] {
        let options = || PgStore::options().schema(format!("{durability:?}").to_lowercase()).durability(durability);
        let store = options().connect(&url).await.unwrap();
        let (count, over) = (watch::Sender::new(0), Arc::new(AtomicBool::new(false)));
        let writers: Vec<_> = (0..32)
            .map(|_| {
                let (store, count, over) = (store.clone(), count.clone(), over.clone());
                tokio::spawn(async move {
                    let mut acknowledged = vec![];
                    while !over.load(Ordering::SeqCst) {
                        let event = raw("opened", b"{}");
                        let (id, stream) = (event.id, StreamId::new("account", &Uuid::now_v7().to_string()));
                        let write = Write { stream, expected: Expected::Any, events: vec![event] };
                        match store.append(Append { writes: vec![write], ..Append::default() }).await {
                            Ok(written) => {
                                acknowledged.push((id, written.first));
                                count.send_modify(|count| *count += 1);
                            }
                            Err(error) if error.is_retryable() => {}
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        count.subscribe().wait_for(|count| *count > 1_000).await.unwrap();
        server.script(&["crash"]);
        // Those who were cut off may find the server again, and go on: they are to end with what was acknowledged.
        over.store(true, Ordering::SeqCst);
        let acknowledged: Vec<_> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
        let store = options().connect(&url).await.unwrap();
        let log = store.read(Read { query: Query::all(), ..Read::default() }).await.unwrap().events;
        let log: Vec<_> = log.try_collect().await.unwrap();
        let recorded: HashSet<(Uuid, Position)> = log.iter().map(|event| (event.id, event.position)).collect();
        let lost = acknowledged.iter().filter(|place| !recorded.contains(place)).count();
        assert_eq!(lost, 0, "of {} acknowledged, {durability:?}", acknowledged.len());
        assert_eq!(log.last().map(|last| last.position), Some(Position(log.len() as u64)));
    }
}

/// Whoever is told that an append was recorded before is told so of something on disk, whoever recorded it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_first_result_that_is_given_again_survives_a_crash_too() {
    let (server, url) = Own::start();
    let append = |key: &str| {
        let write = Write {
            stream: StreamId::new("account", key),
            expected: Expected::Any,
            events: vec![raw("opened", b"{}")],
        };
        Append { writes: vec![write], ..Append::default() }
    };
    for durability in [Durability::Strict, Durability::Pipelined] {
        for again in ["plain", "with a condition", "by its command"] {
            let store = PgStore::options().durability(durability).connect(&url).await.unwrap();
            // The event type is known from here on, so an append takes the short way.
            store.append(append("warm")).await.unwrap();
            let (mut append, command) = (append(&format!("{again} {durability:?}")), Uuid::now_v7());
            append.writes[0].events[0].id = event_id(command, 0);
            if again == "with a condition" {
                let query = Query::from(Item { tags: vec![Tag::new("never", "was")], ..Item::default() });
                append.condition = Some(Condition { query, after: Position(0) });
            }
            // Recorded by somebody who did not wait for the disk.
            let mut open = EventStore::begin(&store).await.unwrap();
            open.append(append.clone()).await.unwrap();
            let connection: &mut dyn Any = open.connection().unwrap();
            let connection = connection.downcast_mut::<PgConnection>().unwrap();
            sqlx::raw_sql("SET LOCAL synchronous_commit = off").execute(connection).await.unwrap();
            open.commit().await.unwrap();
            if again == "by its command" {
                assert_eq!(store.find(command).await.unwrap().len(), 1);
            } else {
                assert!(store.append(append).await.unwrap().replayed);
            }
            server.script(&["crash"]);
            let store = PgStore::connect(&url).await.unwrap();
            assert_eq!(store.find(command).await.unwrap().len(), 1, "{again}, {durability:?}");
        }
    }
}

/// What was seen and is not on disk yet is, before anybody outside hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_what_is_flushed_before_it_is_handed_over_survives_a_crash() {
    let (server, url) = Own::start();
    let store = PgStore::options().durability(Durability::Pipelined).connect(&url).await.unwrap();
    let write =
        Write { stream: StreamId::new("account", "x"), expected: Expected::Any, events: vec![raw("opened", b"{}")] };
    let mut open = EventStore::begin(&store).await.unwrap();
    open.append(Append { writes: vec![write], ..Append::default() }).await.unwrap();
    let connection: &mut dyn Any = open.connection().unwrap();
    let connection = connection.downcast_mut::<PgConnection>().unwrap();
    sqlx::raw_sql("SET LOCAL synchronous_commit = off").execute(connection).await.unwrap();
    open.commit().await.unwrap();
    let everything = || Read { query: Query::all(), ..Read::default() };
    let seen = store.read(everything()).await.unwrap().events.try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(seen.len(), 1);
    store.flushed(seen[0].id).await.unwrap();
    server.script(&["crash"]);
    let store = PgStore::connect(&url).await.unwrap();
    let left = store.read(everything()).await.unwrap().events.try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(left, seen);
}

/// What a read model writes while it is behind need not be on disk at once: what a crash takes of it, rows and checkpoint
/// together, is made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_each_event_counts_once_through_a_crash_while_a_read_model_catches_up() {
    const EVENTS: u64 = 20_000;
    let (server, url) = Own::start();
    let store: Store = PgStore::connect(&url).await.unwrap().into();
    let events = (0..EVENTS).map(|n| {
        let stream = StreamId::new("account", &(n % 100).to_string());
        ImportEvent::new(stream, Uuid::now_v7(), &Counted::Once { with: n.to_string() })
    });
    store.import(stream::iter(events)).await.unwrap();
    let running = Runner::new(&store).read_model::<Count>().batch(20).start();
    while running.status()[0].position < Position(EVENTS / 4) {
        tokio::task::yield_now().await;
    }
    server.script(&["crash"]);
    running.until(Position(EVENTS)).await.unwrap();
    let counts = store.read_model::<Count>().list().await.unwrap();
    assert_eq!(counts.len(), 100);
    for (key, row) in counts {
        assert_eq!(row.events, EVENTS / 100, "{key}");
    }
    running.stop().await;
}

#[derive(Event, Clone)]
enum Counted {
    Once { with: String },
}

#[derive(ReadModel, Default, Serialize, Deserialize)]
struct Count {
    events: u64,
}

impl Project for Count {
    type Event = Counted;

    fn project(row: &mut Row<Self>, event: &Recorded<Counted>) {
        let Counted::Once { with } = &event.data;
        row.events += u64::from(!with.is_empty());
    }
}
