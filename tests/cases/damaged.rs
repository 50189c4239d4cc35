//! Events that break the rules of a log.

use eventstore::{EventError, Expected, Id, Metadata, Position, RunReadModels, Runner, StoreError, StreamId, Version};
use futures::{StreamExt, TryStreamExt};

use crate::{
    account::{AccountEvent::*, *},
    cases::{World, balances::Balance},
};

type Any = Box<dyn std::error::Error>;

/// Events that something else than the library has written. `insert` puts one behind the log: in a stream, of the type with
/// a name (none: of a type that is not there), with tags as the store has them, and with metadata.
pub async fn events_that_break_the_rules<E: std::error::Error + 'static>(
    world: &World,
    insert: impl AsyncFn(&str, Option<&str>, &str, &[u8]) -> Result<(), E>,
) -> Result<(), Any> {
    let store = &world.store;
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    store.append(&ann, Expected::Any, [Opened { owner: "Ann".into() }, Deposited { amount: 5 }]).await?;
    let metadata = Metadata::default().to_json()?;
    let deposited = Some("account.deposited");
    insert("account-ann", deposited, "", b"no JSON").await?;
    insert("dashless", deposited, "", &metadata).await?;
    insert("account-cem", deposited, "colonless", &metadata).await?;
    insert("account-dee", None, "", &metadata).await?;
    let last = store.append(&bob, Expected::Any, [Opened { owner: "Bob".into() }, Deposited { amount: 7 }]).await?;
    assert_eq!(last.last, Position(8));

    // All of it is read raw, in its place.
    let log: Vec<_> = store.read().raw().try_collect().await?;
    let seen: Vec<_> = log.iter().map(|event| (event.stream.as_str(), event.position.0)).collect();
    let streams = ["account-ann"; 3].into_iter().chain(["?-dashless", "account-cem", "account-dee"]);
    assert_eq!(seen, streams.chain(["account-bob"; 2]).zip(1..).collect::<Vec<_>>());
    assert_eq!((log[4].data.tags.len(), &*log[5].data.name), (1, "?999"));
    // To decode it names the event, and the rule.
    for (event, rule) in log[2..6].iter().zip([
        "its metadata cannot be read",
        "has no dash",
        "has no colon",
        "its type is not in the log",
    ]) {
        let Err(EventError::Damaged(why)) = event.decode::<AccountEvent>() else { panic!("{event:?}") };
        assert!(why.contains(rule), "{why}");
    }
    let typed: Vec<_> = store.read().names(["account.deposited"]).events::<AccountEvent>().collect().await;
    assert_eq!(typed.iter().filter(|event| event.is_ok()).count(), 2);
    assert!(typed.iter().any(
        |event| matches!(event, Err(StoreError::Unreadable { stream, version: Version(1), .. }) if *stream == StreamId::new("?", "dashless"))
    ));
    // What hears of none of them goes on; what hears of one is told which.
    assert_eq!(store.load(&bob).await?.balance, 7);
    assert_eq!(store.position_at(log[7].recorded_at).await?, Position(8));
    let loaded = store.load(Id::<Account>::from("dee")).await;
    assert!(matches!(&loaded, Err(StoreError::Unreadable { version: Version(1), .. })), "{loaded:?}");
    let runner = Runner::new(store).read_model::<Balance>().start();
    let stopped = runner.until(last.last).await.expect_err("it hears of one");
    assert!(stopped.to_string().contains("event 3 of stream account-ann"), "{stopped}");
    runner.stop().await;
    let runner = Runner::new(store).read_model::<Balance>().park_unreadable().start();
    let incomplete = runner.until(last.last).await;
    let waiting = matches!(&incomplete, Err(StoreError::Parked { keys, .. }) if keys.count == 3);
    assert!(waiting, "{incomplete:?}");
    let mut parked: Vec<_> =
        runner.dead_letters("balance").list().await?.into_iter().map(|letter| letter.position.0).collect();
    parked.sort_unstable();
    assert_eq!(parked, [3, 4, 5]);
    runner.stop().await;
    let rows: Vec<_> = store.read_model::<Balance>().list().await?;
    assert_eq!(rows.iter().map(|(key, row)| (&**key, row.balance)).collect::<Vec<_>>(), [("ann", 5), ("bob", 7)]);
    Ok(())
}
