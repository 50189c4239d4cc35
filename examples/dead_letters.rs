//! An event that a read model cannot take in: it is parked with what is behind it for its key, everybody else goes on,
//! and once the code is mended it is taken in, in order.
//!
//! ```sh
//! cargo run --example dead_letters                                    # SQLite, in a temporary folder
//! DATABASE_URL=postgres://localhost/bank cargo run --features postgres --example dead_letters
//! ```

use std::{
    env,
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
};

use eventstore::{Expected, StoreError, prelude::*};
use serde::{Deserialize, Serialize};

#[derive(Event, Clone, Debug)]
enum AccountEvent {
    Deposited { cents: i64, parts: i64 },
}

#[derive(Aggregate, Clone)]
struct Account;

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

/// Stands for the next release.
static MENDED: AtomicBool = AtomicBool::new(false);

#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
struct Share {
    cents: i64,
}

impl Project for Share {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        let AccountEvent::Deposited { cents, parts } = event.data;
        let parts = if MENDED.load(Ordering::Relaxed) { parts.max(1) } else { parts };
        row.cents += cents / parts; // and if there are no parts?
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // What is expected to happen here need not be shown.
    std::panic::set_hook(Box::new(|_| {}));
    let folder = tempfile::tempdir()?;
    let file = format!("sqlite://{}", folder.path().join("bank.db").display());
    let store = eventstore::connect(&env::var("DATABASE_URL").unwrap_or(file)).await?;
    let (ann, bob) = (Id::<Account>::new(), Id::<Account>::new());
    let runner = Runner::new(&store).read_model::<Share>().start();

    let deposited = |cents, parts| [AccountEvent::Deposited { cents, parts }];
    store.append(&ann, Expected::Any, deposited(100, 2)).await?;
    store.append(&ann, Expected::Any, deposited(100, 0)).await?;
    let behind = store.append(&ann, Expected::Any, deposited(10, 1)).await?;
    let other = store.append(&bob, Expected::Any, deposited(60, 3)).await?;
    // The wait for all says which keys lack events.
    match runner.until(other.last).await {
        Err(StoreError::Parked { keys, .. }) => println!("processed, but for {keys}"),
        other => println!("not what was expected: {other:?}"),
    }

    let shares = store.read_model::<Share>();
    println!("Bob has {:?}: he is not held up by Ann", shares.get(&bob).after(other.last).await?);
    match shares.get(&ann).after(behind.last).await {
        Err(StoreError::Parked { reason, .. }) => println!("Ann's row is not up to date: {reason}"),
        other => println!("not what was expected: {other:?}"),
    }
    let letters = runner.dead_letters("share");
    for letter in letters.list().await? {
        println!(
            "waiting for {}: event {} of {}, tried {} times",
            letter.key, letter.version, letter.stream, letter.attempts
        );
    }
    let tried = letters.try_run(ann.key()).await?;
    println!("a retry would take in {} of {}: {}", tried.taken, tried.waiting, tried.error.unwrap_or_default());

    // The next release.
    MENDED.store(true, Ordering::Relaxed);
    let tried = letters.try_run(ann.key()).await?;
    println!(
        "a retry would take in {} of {}, and make {:?} of {:?}",
        tried.taken, tried.waiting, tried.after, tried.before
    );
    letters.retry(ann.key()).await?;
    assert_eq!(shares.get(&ann).after(behind.last).await?, Some(Share { cents: 160 }));
    assert!(letters.list().await?.is_empty());
    println!("Ann has {:?}", shares.get(&ann).await?);
    runner.stop().await;
    Ok(())
}
