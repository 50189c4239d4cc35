//! Handing events to something outside: each at least once, before the checkpoint passes it, and in order.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventstore::{BoxError, Expected, Id, Position, Runner, Running, StartFrom, StoreError, prelude::*};
use futures::FutureExt;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    account::{AccountEvent::*, *},
    world,
};

type Any = Box<dyn std::error::Error>;

/// Something outside: what it got, and what it does not like.
#[derive(Clone)]
pub struct Outside {
    got: Arc<Mutex<Vec<(Uuid, Position)>>>,
    /// Takes nothing while it has no permit.
    gate: Arc<Semaphore>,
    /// How often something was handed to it.
    calls: Arc<AtomicUsize>,
    /// How often it fails on a deposit of 13; panics, if of 14.
    failures: Arc<Mutex<u32>>,
}

impl Outside {
    pub fn failing(failures: u32) -> Self {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { got: Arc::default(), gate, calls: Arc::default(), failures: Arc::new(Mutex::new(failures)) }
    }

    pub fn positions(&self) -> Vec<u64> {
        self.got.lock().unwrap().iter().map(|(_, position)| position.0).collect()
    }
}

impl Subscription for Outside {
    const NAME: &'static str = "outside";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let _permit = self.gate.acquire().await?;
        for event in events {
            if let Deposited { amount: amount @ (13 | 14) } = event.data {
                let mut failures = self.failures.lock().unwrap();
                if let Some(left) = failures.checked_sub(1) {
                    *failures = left;
                    drop(failures);
                    assert!(amount == 13, "fourteen");
                    return Err("thirteen".into());
                }
            }
            self.got.lock().unwrap().push((event.id, event.position));
        }
        Ok(())
    }
}

#[tokio::test]
async fn every_event_is_handed_over_in_order_and_again_only_after_a_failure() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let outside = Outside::failing(0);
    for n in 0..3 {
        let runner = Runner::new(store).subscription(outside.clone()).start();
        store.append(&ann, Expected::Any, (0..5).map(|amount| Deposited { amount })).await?;
        runner.until(Position(n * 5 + 5)).await?;
        runner.stop().await;
        assert_eq!(world.inner.checkpoint("outside").await?, Position(n * 5 + 5));
    }
    assert_eq!(outside.positions(), (1..=15).collect::<Vec<_>>());

    // Twice it fails, by an error and by a panic: what was with it comes again, with the same ids, and nothing is left out.
    for amount in [13, 14] {
        *outside.failures.lock().unwrap() = 2;
        store.append(&ann, Expected::Any, [1, 2, amount, 4].map(|amount| Deposited { amount })).await?;
        let runner = Runner::new(store).subscription(outside.clone()).start();
        let head = runner.settle().await?;
        runner.stop().await;
        let mut first: Vec<(Uuid, Position)> = vec![];
        for (id, position) in outside.got.lock().unwrap().iter() {
            if first.iter().all(|(there, _)| there != id) {
                first.push((*id, *position));
            }
        }
        let positions: Vec<_> = first.iter().map(|(_, position)| position.0).collect();
        assert_eq!(positions, (1..=head.0).collect::<Vec<_>>(), "by its id, each is there once");
    }
    Ok(())
}

#[tokio::test]
async fn o3_events_are_handed_over_before_the_checkpoint_passes_them_and_a_stop_waits() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let mut outside = Outside::failing(0);
    outside.gate = Arc::new(Semaphore::new(0));
    let runner = Runner::new(store).subscription(outside.clone()).start();
    let written = store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    while outside.calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.inner.checkpoint("outside").await?, Position(0));
    let mut stop = Box::pin(runner.stop());
    tokio::select! {
        () = &mut stop => panic!("it has not waited"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    assert!((&mut stop).now_or_never().is_none());
    outside.gate.add_permits(1);
    stop.await;
    assert_eq!(outside.positions(), [1]);
    assert_eq!(world.inner.checkpoint("outside").await?, written.last);
    Ok(())
}

/// Lets time pass until nothing waits any more: a minute at once, or what it takes where the clock cannot be moved.
async fn settled(world: &super::World, runner: &Running) -> Result<Position, StoreError> {
    loop {
        world.noon().await;
        match runner.settle().await {
            Err(StoreError::Parked { .. }) => {}
            settled => return settled,
        }
    }
}

#[tokio::test]
async fn p3_what_cannot_be_handed_over_waits_and_is_tried_again_when_it_is_due() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, bob) = (&world.store, Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let outside = Outside::failing(u32::MAX);
    let runner = Runner::new(store).subscription(outside.clone()).start();
    let deposits = store.append(&ann, Expected::Any, [1, 13, 3].map(|amount| Deposited { amount }));
    deposits.and(&bob, Expected::Any, [Deposited { amount: 4 }]).await?;
    let parked = runner.settle().await;
    let Err(StoreError::Parked { projection, key, reason }) = parked else { panic!("{parked:?}") };
    assert_eq!((&*projection, &*key), ("outside", "account-ann"));
    assert_eq!(reason, "event 2 of stream account-ann (`account.deposited`, position 2): thirteen");
    let mut got = outside.positions();
    got.dedup();
    assert!(got.ends_with(&[4]) && !got.contains(&3), "{got:?}");
    assert_eq!(world.inner.checkpoint("outside").await?, Position(4), "others go on");

    // Once more it fails; and then it is over.
    *outside.failures.lock().unwrap() = 1;
    assert_eq!(settled(&world, &runner).await?, Position(4));
    assert!(outside.positions().ends_with(&[2, 3]), "{:?}", outside.positions());
    assert_eq!(runner.dead_letters("outside").list().await?, []);
    runner.stop().await;
    Ok(())
}
