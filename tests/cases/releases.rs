//! Two releases of one program over one log: each can be started and stopped while the other runs.

use std::time::Duration;

use eventstore::{Expected, Id, Inline, Runner, Running, State, prelude::*};
use serde::{Deserialize, Serialize};

use super::{
    account::{
        Account,
        AccountEvent::{self, *},
    },
    world,
};

type Any = Box<dyn std::error::Error>;

const LEASE: Duration = Duration::from_millis(300);

/// A row with a column that the release before did not have.
mod noted {
    use super::*;

    #[derive(ReadModel, Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
    #[read_model(name = "holding")]
    pub struct Before {
        pub owner: String,
        pub balance: i64,
    }

    impl Project for Before {
        type Event = AccountEvent;

        fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
            match &event.data {
                Opened { owner } => row.owner = owner.clone(),
                Deposited { amount } => row.balance += amount,
                Withdrawn { amount } => row.balance -= amount,
                Closed => row.delete(),
            }
        }
    }

    #[derive(ReadModel, Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
    #[read_model(name = "holding")]
    pub struct After {
        pub owner: String,
        pub balance: i64,
        #[read_model(index)]
        pub note: Option<String>,
    }

    impl Project for After {
        type Event = AccountEvent;

        fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
            match &event.data {
                Opened { owner } => row.owner = owner.clone(),
                Deposited { amount } => {
                    row.balance += amount;
                    row.note = Some(format!("deposit of {amount}"));
                }
                Withdrawn { amount } => row.balance -= amount,
                Closed => row.delete(),
            }
        }
    }
}

fn none_has_stopped(running: &[&Running]) {
    for status in running.iter().flat_map(|running| running.status()) {
        assert!(!status.stopped && status.error.is_none() && status.state != State::Failed, "{status:?}");
    }
}

#[tokio::test]
async fn p4_an_optional_column_is_added_while_programs_without_it_run() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let old = Runner::new(store).lease(LEASE).read_model::<noted::Before>().start();
    let first = store.append(&ann, Expected::Any, [Opened { owner: "Ann".into() }, Deposited { amount: 5 }]).await?;
    old.until(first.last).await?;
    let before = async || store.read_model::<noted::Before>().get(&ann).await;
    let after = async || store.read_model::<noted::After>().get(&ann).await;
    let row = noted::After { owner: "Ann".into(), balance: 5, note: None };
    // A program that reads may be there before the one that adds the column.
    assert_eq!(after().await?, Some(row.clone()));
    let noted = store.read_model::<noted::After>().list().filter("note", "deposit of 5");
    assert_eq!(noted.await?, []);

    let new = Runner::new(store).lease(LEASE).read_model::<noted::After>().start();
    new.until(first.last).await?;
    assert_eq!(after().await?, Some(row));
    for amount in 1..=5 {
        let written = store.append(&ann, Expected::Any, [Deposited { amount }]).await?;
        old.until(written.last).await?;
        new.until(written.last).await?;
    }
    none_has_stopped(&[&old, &new]);
    old.stop().await;
    let written = store.append(&ann, Expected::Any, [Deposited { amount: 6 }]).await?;
    new.until(written.last).await?;
    let row = noted::After { owner: "Ann".into(), balance: 26, note: Some("deposit of 6".into()) };
    assert_eq!(store.read_model::<noted::After>().list().filter("note", "deposit of 6").await?.len(), 1);

    // The release before is started once more, and knows nothing of the column.
    let old = Runner::new(store).lease(LEASE).read_model::<noted::Before>().start();
    let written = store.append(&ann, Expected::Any, [Withdrawn { amount: 1 }]).await?;
    old.until(written.last).await?;
    new.until(written.last).await?;
    assert_eq!(after().await?, Some(noted::After { balance: 25, ..row }));
    assert_eq!(before().await?, Some(noted::Before { owner: "Ann".into(), balance: 25 }));
    none_has_stopped(&[&old, &new]);
    new.stop().await;
    old.stop().await;
    Ok(())
}

#[tokio::test]
async fn p4_an_optional_column_is_added_to_an_inline_model() -> Result<(), Any> {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    let old = world.store.clone().with_inline::<noted::Before>();
    old.append(&ann, Expected::Any, [Opened { owner: "Ann".into() }, Deposited { amount: 5 }]).await?;
    let new = world.store.clone().with_inline::<noted::After>();
    let get = async || new.read_model::<noted::After>().get(&ann).await;
    assert_eq!(get().await?, Some(noted::After { owner: "Ann".into(), balance: 5, note: None }));
    for store in [&new, &old, &new] {
        store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    }
    assert_eq!(get().await?, Some(noted::After { owner: "Ann".into(), balance: 8, note: Some("deposit of 1".into()) }));
    assert_eq!(old.read_model::<noted::Before>().get(&ann).await?.map(|row| row.balance), Some(8));
    Ok(())
}
