//! Imports: in order, each event once, wherever an earlier one ended.

use eventstore::{
    Expected, Id, ImportEvent, Imported, MemoryStore, Position, Raw, Recorded, Store, StoreError, StreamId, Timestamp,
    Version,
};
use futures::{
    StreamExt, TryStreamExt,
    future::join,
    stream::{self, Stream},
};
use uuid::Uuid;

use super::{
    account::{AccountEvent::*, *},
    world,
};

type Any = Box<dyn std::error::Error + Send + Sync>;

/// The n-th event of a ledger that was kept elsewhere: of one account after the other, in turns.
fn entry(n: i64) -> Result<ImportEvent, StoreError> {
    let (account, day) = (Id::<Account>::from(format!("A{}", n % 7)), Timestamp::from_micros(n * 86_400_000_000));
    let deposited = ImportEvent::new(&account, id(n), &Deposited { amount: n })?;
    Ok(deposited.occurred_at(day).by("ledger").metadata("line", n))
}

fn id(n: i64) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &n.to_be_bytes())
}

fn entries(from: i64, to: i64) -> impl Stream<Item = Result<ImportEvent, StoreError>> {
    stream::iter((from..to).map(entry))
}

fn imported(imported: Imported) -> (u64, u64, Position) {
    (imported.recorded, imported.known, imported.last)
}

async fn log(store: &Store) -> Result<Vec<Recorded<Raw>>, StoreError> {
    store.read().raw().try_collect().await
}

#[tokio::test]
async fn an_import_keeps_order_ids_and_instants() -> Result<(), Any> {
    let world = world().await;
    let store = world.store.clone().with_source("old bank");
    assert_eq!(imported(store.import(entries(0, 0)).await?), (0, 0, Position(0)));
    assert_eq!(imported(store.import(entries(0, 2_500)).await?), (2_500, 0, Position(2_500)));
    for (event, n) in log(&store).await?.into_iter().zip(0_i64..) {
        assert_eq!((event.position, event.id), (Position(n as u64 + 1), id(n)));
        assert_eq!((event.stream.key(), event.version), (&*format!("A{}", n % 7), Version(n as u64 / 7 + 1)));
        assert_eq!(event.occurred_at, Timestamp::from_micros(n * 86_400_000_000));
        let metadata = &event.metadata;
        assert_eq!((metadata.actor.as_deref(), metadata.source.as_deref()), (Some("ledger"), Some("old bank")));
        assert_eq!((metadata.extra["line"].as_i64(), metadata.command_id), (Some(n), id(n)));
    }
    Ok(())
}

#[tokio::test]
async fn a5_an_import_that_is_started_again_records_nothing_twice() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    // It ended somewhere, and others went on: what was recorded is not together, and no batch begins where one did.
    store.import(entries(300, 1_450)).await?;
    store.append(Id::<Account>::from("A1"), Expected::Any, [Closed]).await?;
    store.import(entries(1_450, 1_460)).await?;
    let before = log(store).await?;
    assert_eq!(imported(store.import(entries(300, 1_460)).await?), (0, 1_160, Position(1_161)));
    assert_eq!(log(store).await?, before);
    assert_eq!(imported(store.import(entries(0, 3_000)).await?), (1_840, 1_160, Position(3_001)));
    assert_eq!(imported(store.import(entries(0, 3_000)).await?), (0, 3_000, Position(3_001)));
    let log = log(store).await?;
    assert_eq!(log.len(), 3_001);
    assert_eq!(log[..before.len()], before);
    assert_eq!(
        log[1_161..].iter().map(|event| event.id).collect::<Vec<_>>(),
        (0..300).chain(1_460..3_000).map(id).collect::<Vec<_>>()
    );

    // The same twice in one batch is the same twice.
    let twice = entries(5_000, 5_002).chain(entries(5_000, 5_003));
    assert_eq!(imported(store.import(twice).await?), (3, 2, Position(3_004)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_two_imports_at_once_record_each_event_once() -> Result<(), Any> {
    let world = world().await;
    let (first, second) = join(world.store.import(entries(0, 4_000)), world.store.import(entries(500, 4_500))).await;
    let (first, second) = (first?, second?);
    assert_eq!((first.recorded + second.recorded, first.known + second.known), (4_500, 3_500));
    let mut ids: Vec<_> = log(&world.store).await?.into_iter().map(|event| event.id).collect();
    let mut all: Vec<_> = (0..4_500).map(id).collect();
    ids.sort_unstable();
    all.sort_unstable();
    assert_eq!(ids, all);
    Ok(())
}

#[tokio::test]
async fn a5_an_import_of_something_else_under_a_known_id_is_a_duplicate() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    store.import(entries(0, 10)).await?;
    let mut other_stream = entry(3)?;
    other_stream.stream = StreamId::new("account", "other");
    let mut other_body = entry(3)?;
    other_body.event.data.body = b"{}".to_vec();
    for other in [other_stream, other_body] {
        for before in [0, 8] {
            let events = entries(before, 12).chain(stream::iter([Ok(other.clone())]));
            match store.import(events).await {
                Err(StoreError::Duplicate { event, command }) => assert_eq!((event, command), (id(3), id(3))),
                result => panic!("{result:?}"),
            }
        }
    }
    // In one batch, too.
    let mut other = entry(100)?;
    other.event.data.name = "account.other".into();
    let result = store.import(stream::iter([entry(100), Ok(other)])).await;
    assert!(matches!(result, Err(StoreError::Duplicate { event, .. }) if event == id(100)), "{result:?}");
    assert_eq!(log(store).await?.len(), 10, "nothing of those batches");
    Ok(())
}

#[tokio::test]
async fn an_import_ends_with_the_error_of_its_source() -> Result<(), Any> {
    #[derive(Debug)]
    enum Failed {
        Line(i64),
        Store(#[expect(dead_code, reason = "shown by the test that fails")] StoreError),
    }
    impl From<StoreError> for Failed {
        fn from(error: StoreError) -> Self {
            Self::Store(error)
        }
    }
    let world = world().await;
    let lines = (0..8_000).map(|n| if n == 6_700 { Err(Failed::Line(n)) } else { Ok(entry(n)?) });
    let result = world.store.import(stream::iter(lines)).await;
    assert!(matches!(result, Err(Failed::Line(6_700))), "{result:?}");
    assert_eq!(log(&world.store).await?.len(), 4_000, "a batch that was on its way is recorded");
    // And started again without that line.
    let result = world.store.import(entries(0, 8_000)).await?;
    assert_eq!((result.recorded, result.known), (4_000, 4_000));
    Ok(())
}

#[tokio::test]
async fn a11_an_import_of_what_no_store_keeps_is_refused() -> Result<(), Any> {
    let world = world().await;
    let mut bad = entry(5)?;
    bad.stream = StreamId::new("account", "\u{0}");
    let result = world.store.import(stream::iter([entry(1), Ok(bad)])).await;
    assert!(matches!(result, Err(StoreError::Invalid(_))), "{result:?}");
    assert!(log(&world.store).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_log_is_copied_from_store_to_store() -> Result<(), Any> {
    let world = world().await;
    let old: Store = MemoryStore::new().into();
    old.import(entries(0, 1_500)).await?;
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    old.execute(&ann, Open { owner: "Ann".into() }).by("teller").await?;
    old.append(&bob, Expected::Any, [Opened { owner: "Bob".into() }]).and(&ann, Expected::Any, [Closed]).await?;
    world.store.import(old.read().raw().map_ok(ImportEvent::from)).await?;
    let (from, to) = (log(&old).await?, log(&world.store).await?);
    let kept = |event: &Recorded<Raw>| {
        let event = event.clone();
        (event.id, event.stream, event.version, event.position, event.occurred_at, event.metadata, event.data)
    };
    assert!(from.iter().map(kept).eq(to.iter().map(kept)));
    Ok(())
}
