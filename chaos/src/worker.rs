//! A worker process: clients that append and read, projections, those who follow the log. It may be killed at any time.

mod client;
mod follow;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use eventstore::{PgStore, RunProcesses, RunReadModels, Runner, SqliteStore, Store, StoreError};
use tokio::io::AsyncReadExt;
use tracing::{Event as Said, Level, Metadata, field::Visit, span};

use crate::{
    Error,
    domain::{self, Balance, FileLedger, Ledger, Turnover},
    profile::Log,
    transfers::{Moves, Stepped},
    world::World,
};

/// Which worker it is.
#[derive(clap::Args)]
pub struct Options {
    folder: PathBuf,
    name: String,
    /// How often it was started before.
    run: u64,
}

/// Runs until its standard input ends.
pub async fn work(Options { folder, name, run }: &Options) -> Result<bool, Error> {
    let world = World::read(folder)?;
    crate::log::set_offset(world.clock);
    domain::poisoned_in(folder);
    let _ = tracing::subscriber::set_global_default(Ears);
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        if !text.contains("poison") {
            eprintln!("{text}");
        }
    }));
    let store = open(&world, name).await?;
    let runner = Runner::new(&store).lease(Duration::from_millis(world.lease_ms));
    let runner = runner.read_model::<Balance>().shards(3).max_parked(1_000_000);
    let runner = runner.read_model::<Turnover>().shards(2).max_parked(1_000_000);
    let runner = match is_earlier(name, *run) {
        true => runner.read_model::<domain::earlier::Activity>(),
        false => runner.read_model::<domain::Activity>(),
    };
    let runner = runner.shards(2);
    let ledger = Ledger { table: world.table("ledger") };
    let runner = match world.store {
        Log::Postgres => runner.projection(ledger),
        Log::Sqlite => runner.projection(FileLedger(ledger)),
    };
    let runner = runner.shards(2).max_parked(1_000_000).batch(500);
    let runner = runner.saga::<Moves>().shards(2).saga::<Stepped>().shards(2);
    let running = runner.subscription(follow::Mailbox::open(&world, name, *run)?).shards(2).from_beginning().start();
    let running = Arc::new(running);
    follow::follow(&store, folder, name, *run)?;

    let mut clients = tokio::task::JoinSet::new();
    for n in 0..world.clients {
        clients.spawn(client::Client::open(&world, &store, &format!("{name}-c{n}"), *run)?.run());
    }
    clients.spawn(client::Client::open(&world, &store, &format!("{name}-twin"), *run)?.twin());
    clients.spawn(client::Client::open(&world, &store, &format!("{name}-reader"), *run)?.read());
    let until = client::Client::open(&world, &store, &format!("{name}-until"), *run)?.until(running.clone());
    let until = tokio::spawn(until);
    let (quiet, who) = (world.quiet_of(name), name.clone());
    tokio::spawn(async move {
        while let Some(ended) = clients.join_next().await {
            if let Err(error) = ended {
                eprintln!("{who}: a client has panicked: {error}");
                std::process::abort();
            }
        }
        let _ = std::fs::write(quiet, "");
    });
    let mut nothing = [0];
    while tokio::io::stdin().read(&mut nothing).await? > 0 {}
    until.abort();
    let _ = until.await;
    if let Some(running) = Arc::into_inner(running) {
        running.stop().await;
    }
    Ok(true)
}

/// Whether a worker is a program of the earlier release: the first one, each second time that it is started.
fn is_earlier(name: &str, run: u64) -> bool {
    name == "w1" && run.is_multiple_of(2)
}

/// Opens the store, however long that takes.
async fn open(world: &World, name: &str) -> Result<Store, StoreError> {
    loop {
        let opened = match world.store {
            Log::Postgres => {
                let url = format!("{}&application_name={name}", world.url);
                let options = PgStore::options().schema(&world.schema).max_connections(World::connections_of(name));
                let store = options.connect(&url).await;
                store.map(Store::from)
            }
            Log::Sqlite => SqliteStore::open(Path::new(&world.url)).await.map(Store::from),
        };
        match opened {
            Err(error) if error.is_retryable() => {
                eprintln!("not open yet: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => return opened.map(|store| store.with_source(name)),
        }
    }
}

/// Writes down what the library warns of.
struct Ears;

struct Heard(String);

impl Visit for Heard {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Ears {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO && metadata.target().starts_with("eventstore")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Said<'_>) {
        let mut heard = Heard(String::new());
        event.record(&mut heard);
        eprintln!("{} {} {}", crate::log::now(), event.metadata().level(), heard.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
