//! A log that has lost its end: a backup was restored, or a replica took over that lacked the last events.

use std::error::Error;

use eventstore::{
    Bus, Expected, Id, Inline, LogBus, Position, Relay, RunMessaging, RunReadModels, Runner, State, StoreError,
    StreamId,
};

use crate::{
    account::{AccountEvent::*, *},
    cases::{
        World,
        balances::Balance,
        messages::{OrderMessage, PurchaseEvent},
    },
};

/// That what follows it stops, says why, and writes nothing. `lose` takes the events after a position away.
pub async fn a_log_that_lost_its_end_stops_what_follows_it(
    world: World,
    lose: impl AsyncFn(Position),
) -> Result<(), Box<dyn Error>> {
    let store = &world.store;
    let ids = ["ann", "bob", "cem"].map(Id::<Account>::from);
    for (grown, running) in [(false, false), (true, false), (false, true), (true, true)] {
        let base = store.head().await?;
        for id in &ids {
            store.append(id, Expected::Any, [Opened { owner: "x".into() }, Deposited { amount: 1 }]).await?;
        }
        let runner = Runner::new(store).read_model::<Balance>().start();
        let head = store.head().await?;
        runner.until(head).await?;
        let rows = store.read_model::<Balance>().list().await?;
        let checkpoint = world.inner.shards(Some("balance@1")).await?[0].1;
        assert_eq!((checkpoint.position, checkpoint.event.is_some()), (head, true));
        let runner = match running {
            true => runner,
            false => {
                runner.stop().await;
                lose(Position(head.0 - 2)).await;
                Runner::new(store).read_model::<Balance>().start()
            }
        };
        if running {
            lose(Position(head.0 - 2)).await;
        }
        if grown {
            // Others go on, as if nothing had been: the log is soon as long as it was, and longer.
            for amount in 10..15 {
                store.append(&ids[0], Expected::Any, [Deposited { amount }]).await?;
            }
        }
        let stopped = runner.until(Position(head.0 + 1)).await;
        let Err(error @ StoreError::Stopped { .. }) = stopped else { panic!("{stopped:?}") };
        assert!(error.to_string().starts_with("`balance@1` cannot run: "), "{error}");
        let fork = error.reason().and_then(|reason| reason.downcast_ref::<StoreError>());
        let Some(StoreError::Forked { position, event }) = fork else { panic!("{error}") };
        assert_eq!((*position, *event), (head, checkpoint.event), "grown: {grown}, running: {running}");
        let why = format!(
            "`balance@1` cannot run: the log is not the one it has followed: event {} is not at",
            event.unwrap()
        );
        let waiting = store.read_model::<Balance>().get(&ids[1]).after(Position(head.0 + 1)).await;
        assert!(waiting.is_err_and(|error| error.to_string().starts_with(&why)), "whoever waits is told");
        assert_eq!(store.read_model::<Balance>().list().await?, rows, "no row is written");
        assert_eq!(runner.status()[0].state, State::Failed);
        runner.stop().await;
        let now = world.inner.shards(Some("balance@1")).await?[0].1;
        assert_eq!((now.position, now.event), (checkpoint.position, checkpoint.event));
        anew(&world, "balance@1").await?;
        lose(base).await;
    }
    inline(&world, lose).await
}

/// A backup of a publisher was restored, its relay's checkpoint with it: the topic has messages of events that are not in
/// the log, and other events have their positions.
pub async fn a_relay_whose_log_lost_its_end_stops(
    world: World,
    lose: impl AsyncFn(Position),
) -> Result<(), Box<dyn Error>> {
    let bus: Bus = LogBus::new(&eventstore::connect("memory:").await?).into();
    let orders = world.store.clone().with_source("orders");
    let relay = || Runner::new(&orders).relay::<OrderMessage>(&bus).start();
    let place = async |cents| {
        let events = [PurchaseEvent::Placed { cents }];
        orders.append(StreamId::new("purchase", "o1"), Expected::Any, events).await
    };
    for cents in 1..=3 {
        place(cents).await?;
    }
    let running = relay();
    running.settle().await?;
    running.stop().await;
    let published = world.inner.checkpoint("relay:orders").await?;
    lose(Position(published.0 - 2)).await;
    anew(&world, "relay:orders").await?;
    for cents in 10..13 {
        place(cents).await?;
    }
    let running = relay();
    let stopped = running.until(Position(published.0 + 1)).await;
    let Err(error @ StoreError::Stopped { .. }) = stopped else { panic!("{stopped:?}") };
    let fork = error.reason().and_then(|reason| reason.downcast_ref::<StoreError>());
    let Some(StoreError::Forked { position, event: Some(_) }) = fork else { panic!("{error}") };
    assert_eq!(*position, published, "the last event that was published");
    running.stop().await;
    assert_eq!(world.inner.checkpoint("relay:orders").await?, Position(0), "nothing is published on such a log");
    // A relay of another name publishes what is in the log now.
    let running = Runner::new(&orders).relay(Relay::<OrderMessage>::new(&bus).name("orders.restored")).start();
    running.settle().await?;
    running.stop().await;
    Ok(())
}

/// As if nobody had followed the log yet.
async fn anew(world: &World, name: &str) -> Result<(), StoreError> {
    let mut transaction = world.inner.begin().await?;
    transaction.lock_projection(name).await?;
    transaction.put_shards(name, vec![]).await?;
    transaction.commit().await
}

/// Rows that are kept with each append: none is recorded on a log that they have not followed.
async fn inline(world: &World, lose: impl AsyncFn(Position)) -> Result<(), Box<dyn Error>> {
    let ann = Id::<Account>::from("ann");
    let store = world.store.clone().with_inline::<Balance>();
    for (grown, restarted) in [(false, false), (true, false), (false, true), (true, true)] {
        store.append(&ann, Expected::Any, [Deposited { amount: 1 }, Deposited { amount: 2 }]).await?;
        let (head, rows) = (store.head().await?, store.read_model::<Balance>().list().await?);
        lose(Position(head.0 - 1)).await;
        if grown {
            world.store.append(&ann, Expected::Any, [Deposited { amount: 10 }, Deposited { amount: 20 }]).await?;
        }
        let left = world.store.head().await?;
        let store = match restarted {
            true => world.store.clone().with_inline::<Balance>(),
            false => store.clone(),
        };
        let refused = store.append(&ann, Expected::Any, [Deposited { amount: 100 }]).await;
        let Err(error @ StoreError::Stopped { .. }) = refused else { panic!("{refused:?}") };
        assert!(error.to_string().starts_with("`balance@1` cannot run: "), "{error}");
        let fork = error.reason().and_then(|reason| reason.downcast_ref::<StoreError>());
        assert!(matches!(fork, Some(StoreError::Forked { position, .. }) if *position == head), "{error}");
        assert_eq!(world.store.head().await?, left, "nothing is recorded");
        assert_eq!(world.store.read_model::<Balance>().list().await?, rows, "no row is written");
        anew(world, "balance@1").await?;
    }
    Ok(())
}
