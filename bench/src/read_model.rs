//! Catching up with a whole log: events read, decoded, folded into 10,000 rows and written, with the checkpoint.

use eventstore::{RunReadModels, Runner};

use crate::{
    books::{Balance, Batches, Books, ByHand, Upserts},
    domain::Outcome,
    measure::Bench,
};

/// What row by row gets done in a few seconds.
const FEW: u64 = 30_000;

/// A declared read model, against row upserts and against what it does itself, by hand.
pub async fn run(bench: &mut Bench, url: &str, events: u64) -> Outcome<()> {
    let (books, few) = (Books::of(url, "books", events).await?, Books::of(url, "few", events.min(FEW)).await?);
    let ours = async |shards, batch| {
        let runner = |runner: Runner| runner.read_model::<Balance>().shards(shards).batch(batch);
        books.catch_up(runner, "\"balance@1\"").await
    };
    let upserts = async || few.by_hand(ByHand::Upserts { batch: 500 }).await;
    bench.pair("against row upserts", "events/s", async || ours(1, 1_000).await, upserts).await?;
    // The last is what it does if nothing is said.
    for (shards, batch) in [(1, 1_000), (1, 5_000), (2, 5_000), (1, 10_000)] {
        let folded = async || books.by_hand(ByHand::Folded { batch }).await;
        let case = format!("{shards} shards, batches of {batch}, against folded by hand");
        bench.pair(case, "events/s", async || ours(shards, batch).await, folded).await?;
    }
    Ok(())
}

/// Processors in SQL of one's own, against row upserts.
pub async fn run_projection(bench: &mut Bench, url: &str, events: u64) -> Outcome<()> {
    let few = Books::of(url, "few", events.min(FEW)).await?;
    let upserts = async || few.by_hand(ByHand::Upserts { batch: 500 }).await;
    let ours = async || few.catch_up(|runner| runner.projection(Upserts).batch(500), "by_hand").await;
    bench.pair("one statement an event", "events/s", ours, upserts).await?;
    let ours = async || few.catch_up(|runner| runner.projection(Batches), "by_hand").await;
    bench.pair("one statement a batch", "events/s", ours, upserts).await
}
