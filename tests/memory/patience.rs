//! How long is waited, on a clock that need not be waited for.

use eventstore::{BoxError, Expected, Id, Position, Runner, StartFrom, StoreError, prelude::*};

use crate::{
    account::{Account, AccountEvent},
    cases::world,
};

/// Never comes back.
struct Silent;

impl Subscription for Silent {
    const NAME: &'static str = "silent";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = AccountEvent;

    async fn handle(&self, _: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_in_vain_is_told_for_what_and_how_far_it_is() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let runner = Runner::new(&world.store).subscription(Silent).start();
    let events = [1, 2, 3].map(|amount| AccountEvent::Deposited { amount });
    let written = world.store.append(Id::<Account>::from("ann"), Expected::Any, events).await?;
    for behind in [runner.until(written.last).await.err(), runner.settle().await.err()] {
        let Some(StoreError::Behind { projection, at, until, .. }) = behind else { panic!("{behind:?}") };
        assert_eq!((&*projection, at, until), ("silent", Position(0), Position(3)));
    }
    let [status] = &runner.status()[..] else { panic!("one") };
    assert_eq!(status.lag(), 3);
    Ok(())
}
