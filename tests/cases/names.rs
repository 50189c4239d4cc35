//! The names that release 0.1 gave to what it stored.

use eventstore::{Id, Processors, ReadModelVersions, RunReadModels, Runner};

use crate::cases::{World, account::*, balances::*, projections::Enrolled};

type Any = Box<dyn std::error::Error>;

/// Reads a log whose shadows are named as release 0.1 named them, `~beside`, and goes on: `balance` has a table that is kept
/// for a rollback, and `enrolled` one that waits to be promoted.
pub async fn shadows_are_renamed(world: &World) -> Result<(), Any> {
    let store = &world.store;
    let projections = Processors::new(store);
    let names: Vec<_> = projections.status().await?.into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["balance@1", "balance@1~shadow", "enrolled@1", "enrolled@1~shadow"]);
    let letters = async |name: &str| {
        let letters = projections.dead_letters(name).list().await?;
        Ok::<_, Any>(letters.into_iter().map(|letter| (letter.position.0, letter.key)).collect::<Vec<_>>())
    };
    assert_eq!(letters("balance@1~shadow").await?, [(3, "bob".to_owned())]);

    let runner = Runner::new(store).read_model::<Balance>().read_model::<Enrolled>().start();
    store.execute(Id::<Account>::from("ann"), Deposit { amount: 1 }).await?;
    runner.rollback_anyway("balance").await?;
    runner.promote("enrolled").await?;
    assert_eq!(letters("balance@1").await?.into_iter().map(|(_, key)| key).collect::<Vec<_>>(), ["bob"]);
    assert_eq!(letters("balance@1~shadow").await?.into_iter().map(|(_, key)| key).collect::<Vec<_>>(), ["zoe"]);
    let position = store.head().await?;
    let ann = store.read_model::<Balance>().get("ann").after(position).await?;
    assert_eq!(ann.map(|row| row.balance), Some(101));
    assert_eq!(store.read_model::<Enrolled>().get("ann").after(position).await?.map(|row| row.courses), Some(1));
    runner.discard("balance@1~shadow").await?;
    runner.discard("enrolled@1~shadow").await?;
    let names: Vec<_> = projections.status().await?.into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["balance@1", "enrolled@1"]);
    runner.stop().await;
    Ok(())
}
