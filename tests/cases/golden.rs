//! A database as an earlier release wrote it: every later one must read it, and go on with it.

use eventstore::{
    Append, Expected, Id, NewEvent, Position, Query, Read, RunReadModels, Runner, Tag, Timestamp, Version, Write,
};
use futures::TryStreamExt;
use serde_json::json;
use uuid::Uuid;

use super::{
    World,
    account::{AccountEvent::*, *},
    balances::*,
    campus::*,
    projections::Enrolled,
    raw,
};

type Any = Box<dyn std::error::Error>;

/// Everything there is to store, once. Run when the stored form changes, and never on a database that was released.
pub async fn write(world: &World) -> Result<(), Any> {
    let store = world.store.clone().with_source("golden");
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let then: Timestamp = "2001-09-09T01:46:40.000001Z".parse()?;
    let ids = |n: u128| Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000 + n);
    store
        .append(&ann, Expected::Version(Version(0)), [Opened { owner: "Ann \"ß\"".into() }])
        .and(&bob, Expected::Version(Version(0)), [Opened { owner: "Bob".into() }, Deposited { amount: 5 }])
        .command_id(ids(1))
        .correlation(ids(2))
        .by("importer")
        .metadata("list", json!([1, null, { "deep": 0.1 }]))
        .occurred_at(then)
        .await?;
    store.execute(&ann, Deposit { amount: 100 }).command_id(ids(3)).await?;
    store.execute(Id::<Course>::from("rust"), OpenCourse { seats: 2 }).command_id(ids(4)).await?;
    store.execute(Id::<Student>::from("ann"), Join).command_id(ids(5)).await?;
    let both = (Id::<Course>::from("rust"), Id::<Student>::from("ann"));
    store.execute(both, Enrol).command_id(ids(6)).await?;
    let odd = NewEvent { id: ids(7), schema: 7, ..raw("it's odd", &[0, 0xff, b'"', b'\\', b'\'']) };
    let odd = with_tags(odd);
    let nul = NewEvent { id: ids(8), ..raw("nul", br#"{"nul":"\u0000"}"#) };
    let write = Write { stream: "odd-it's/\"here\"".parse()?, expected: Expected::Any, events: vec![odd, nul] };
    world.inner.append(Append { writes: vec![write], ..Append::default() }).await?;
    let runner = Runner::new(&store).read_model::<Balance>().read_model::<Enrolled>().start();
    runner.until(store.head().await?).await?;
    runner.stop().await;
    Ok(())
}

fn with_tags(mut event: NewEvent) -> NewEvent {
    event.data.tags = vec![Tag::new("about", "{x,\"y\"\\}"), Tag::new("second", "ключ")];
    event
}

/// Reads all of it, and goes on.
pub async fn read(world: &World) -> Result<(), Any> {
    let store = &world.store;
    let log: Vec<_> =
        world.inner.read(Read { query: Query::all(), ..Read::default() }).await?.events.try_collect().await?;
    let seen: Vec<_> = log.iter().map(|event| (event.stream.as_str(), event.version.0, &*event.data.name)).collect();
    let expected = [
        ("account-ann", 1, "account.opened"),
        ("account-bob", 1, "account.opened"),
        ("account-bob", 2, "account.deposited"),
        ("account-ann", 2, "account.deposited"),
        ("course-rust", 1, "campus.course_opened"),
        ("student-ann", 1, "campus.student_joined"),
        ("course-rust", 2, "campus.enrolled"),
        ("odd-it's/\"here\"", 1, "it's odd"),
        ("odd-it's/\"here\"", 2, "nul"),
    ];
    assert_eq!(seen, expected);
    let first = &log[0];
    assert_eq!(first.id.to_string(), "01920000-0000-7000-98d4-da122034fe5a");
    assert_eq!(first.occurred_at.to_string(), "2001-09-09T01:46:40.000001Z");
    assert_eq!(first.data.body, r#"{"owner":"Ann \"ß\""}"#.as_bytes());
    let metadata = &first.metadata;
    assert_eq!(metadata.correlation_id.as_u128() & 0xff, 2);
    assert_eq!((metadata.actor.as_deref(), metadata.source.as_deref()), (Some("importer"), Some("golden")));
    assert_eq!(metadata.extra["list"], json!([1, null, { "deep": 0.1 }]));
    assert_eq!(log[6].data.tags, [Tag::new("course", "rust"), Tag::new("student", "ann")]);
    let odd = with_tags(raw("it's odd", &[0, 0xff, b'"', b'\\', b'\'']));
    assert_eq!((log[7].schema, &log[7].data), (7, &odd.data));
    assert_eq!(log[8].data.body, br#"{"nul":"\u0000"}"#);

    // By stream, by tag, by type, by command, by instant.
    assert_eq!(store.load(Id::<Account>::from("ann")).await?.balance, 100);
    assert_eq!(store.load(Id::<Course>::from("rust")).await?.free(), 1);
    let opened = store.read().names(["account.opened"]).raw().try_collect::<Vec<_>>().await?;
    assert_eq!(opened.len(), 2);
    assert_eq!(world.inner.find(first.metadata.command_id).await?.len(), 3);
    assert_eq!(store.position_at(log[8].recorded_at).await?, Position(9));

    // The tables, and on from their checkpoints: nothing is counted twice.
    let balances = store.read_model::<Balance>();
    assert_eq!(balances.get("bob").await?, Some(Balance { owner: "Bob".into(), balance: 5 }));
    let enrolled = store.read_model::<Enrolled>().get("ann").await?.expect("a row");
    assert_eq!((enrolled.courses, enrolled.at), (1, Some(log[6].occurred_at)));
    assert_eq!(world.inner.checkpoint("balance@1").await?, Position(9));
    let runner = Runner::new(store).read_model::<Balance>().read_model::<Enrolled>().start();
    let next = store.execute(Id::<Account>::from("bob"), Deposit { amount: 1 }).await?;
    assert_eq!((next.position, next.version), (Position(10), Version(3)));
    runner.until(next.position).await?;
    runner.stop().await;
    assert_eq!(balances.get("bob").await?.map(|row| row.balance), Some(6));
    assert_eq!(store.read_model::<Enrolled>().get("ann").await?, Some(enrolled));
    Ok(())
}

#[tokio::test]
async fn what_was_written_is_read_and_goes_on() -> Result<(), Any> {
    let world = super::world().await;
    write(&world).await?;
    read(&world).await
}
