//! Appends of one event to a new stream each: version checked, acknowledged when durable.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use eventstore::{Durability, Expected, PgStore, Store, StreamId, Version};
use uuid::Uuid;

use crate::{
    domain::{Outcome, deposited},
    measure::Bench,
    plain,
};

/// As many connections as a server may be expected to give a yardstick.
const CONNECTIONS: usize = 64;

/// How often a second these get something done, all at once, each one time after the other.
pub async fn rate<W, F>(workers: Vec<W>, seconds: f64, work: fn(W) -> F) -> Outcome<f64>
where
    W: Send + 'static,
    F: Future<Output = Outcome<W>> + Send + 'static,
{
    let over = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let workers: Vec<_> = workers
        .into_iter()
        .map(|mut worker| {
            let over = over.clone();
            tokio::spawn(async move {
                let mut done = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    worker = work(worker).await?;
                    done += 1;
                }
                Outcome::Ok(done)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    over.store(true, Ordering::Relaxed);
    let mut done = 0;
    for worker in workers {
        done += worker.await??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

async fn append(store: Store) -> Outcome<Store> {
    let stream = StreamId::new("account", &Uuid::now_v7().to_string());
    store.append(stream, Expected::Version(Version(0)), [deposited(10)]).await?;
    Ok(store)
}

pub async fn run(bench: &mut Bench, url: &str, writers: &[usize], durability: Durability) -> Outcome<()> {
    let options = PgStore::options().schema(format!("{durability:?}").to_lowercase()).durability(durability);
    let store = Store::from(options.connect(url).await?);
    let kind = match durability {
        Durability::Strict => "",
        Durability::Pipelined => "pipelined, ",
    };
    let seconds = bench.seconds;
    for &writers in writers {
        let connections = writers.min(CONNECTIONS);
        let case = match writers {
            1 => format!("{kind}1 writer"),
            _ if writers > connections => format!("{kind}{writers} writers (plain: {connections})"),
            _ => format!("{kind}{writers} writers"),
        };
        let ours = async || rate(vec![store.clone(); writers], seconds, append).await;
        let yardstick = async || rate(plain::connections(url, connections).await?, seconds, plain::insert).await;
        bench.pair(case, "appends/s", ours, yardstick).await?;
    }
    Ok(())
}
