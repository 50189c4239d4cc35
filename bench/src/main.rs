//! Measures eventstore against hand-written SQL on the same server, in the same process, alternately.
//!
//! `cargo run --release -p bench -- all`

mod append;
mod books;
mod dcb;
mod domain;
mod import;
mod latency;
mod measure;
mod memory;
mod messages;
mod plain;
mod read_model;
mod replay;
mod report;
mod saga;
mod server;
mod snapshot;
mod streams;
mod visible;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use eventstore::Durability;

use crate::{domain::Outcome, measure::Bench, report::Part, server::Server};

/// Measures eventstore against hand-written SQL on a PostgreSQL of its own.
#[derive(Parser)]
struct Args {
    /// What to measure.
    what: What,
    /// How many write at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    writers: Vec<usize>,
    /// How many events there are in a log that is read from its begin to its end.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Emulate a disk on which a flush takes a millisecond.
    #[arg(long)]
    slow_disk: bool,
    /// How often each is measured, alternately with its yardstick.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Few and short measurements: whether it runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// One JSON object a row.
    #[arg(long)]
    json: bool,
    /// Put the tables into this page, between its marks, and the chart beside it.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Be the process whose memory is measured: catch up with a log at this URL.
    #[arg(long, hide = true, value_names = ["URL", "SCHEMA"], num_args = 2)]
    catch_up: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    /// Appends of one event.
    Append,
    /// Appends with a condition.
    Dcb,
    /// A command on an aggregate of ten events.
    Execute,
    /// Loads of an aggregate.
    Load,
    /// Aggregates with snapshots.
    Snapshot,
    /// The whole log, decoded.
    Replay,
    /// Events that happened elsewhere.
    Import,
    /// Appends that keep a read model inline.
    Inline,
    /// From an append to somebody who follows the log from another process.
    Latency,
    /// From an append to the row of a read model that another process keeps.
    Visible,
    /// A declared read model that catches up with the whole log.
    ReadModel,
    /// Processors in SQL of one's own.
    Projection,
    /// A saga that sends commands.
    Saga,
    /// Timers of instances that fire, and a look among many.
    Timers,
    /// A relay that publishes a log to a bus.
    Relay,
    /// An inbox that records a topic.
    Inbox,
    /// The most memory it takes to catch up with a long log.
    Memory,
    /// Everything.
    All,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::parse();
    if let [url, schema] = &args.catch_up[..] {
        return memory::catch_up(url, schema).await;
    }
    let server = Server::start(args.slow_disk).map_err(|error| error.to_string())?;
    let (pairs, seconds) = if args.quick { (1, 0.3) } else { (args.pairs.max(1), 2.0) };
    let (url, events) = (&*server.url, if args.quick { args.events.min(20_000) } else { args.events });
    let circumstances = report::circumstances(url).await?;
    eprintln!("{circumstances}");
    let mut rows = vec![];
    for what in What::value_variants().iter().filter(|what| **what != What::All) {
        if args.what != *what && args.what != What::All {
            continue;
        }
        let mut bench = Bench { name: what.name(), pairs, seconds, rows: vec![] };
        match what {
            What::Append => {
                append::run(&mut bench, url, &args.writers, Durability::Strict).await?;
                append::run(&mut bench, url, &args.writers, Durability::Pipelined).await?;
            }
            What::Dcb => dcb::run(&mut bench, url).await?,
            What::Execute => streams::run_execute(&mut bench, url).await?,
            What::Load => streams::run_load(&mut bench, url).await?,
            What::Snapshot => snapshot::run(&mut bench, url).await?,
            What::Replay => replay::run(&mut bench, url, events as usize).await?,
            What::Import => import::run(&mut bench, url, events as usize / 5).await?,
            What::Inline => append::run_inline(&mut bench, url, &args.writers).await?,
            What::Latency => latency::run(&mut bench, url).await?,
            What::Visible => visible::run(&mut bench, url).await?,
            What::ReadModel => read_model::run(&mut bench, url, events).await?,
            What::Projection => read_model::run_projection(&mut bench, url, events).await?,
            What::Saga => saga::run(&mut bench, url).await?,
            What::Timers => saga::run_timers(&mut bench, url).await?,
            What::Relay => messages::run_relay(&mut bench, url, events as usize / 5).await?,
            What::Inbox => messages::run_inbox(&mut bench, url, events as usize / 5).await?,
            What::Memory => memory::run(&mut bench, url, events).await?,
            What::All => {}
        }
        rows.extend(bench.rows);
    }
    if let Some(page) = &args.write {
        let name = if args.slow_disk { "slow-disk" } else { "performance" };
        let part = Part { name, measured: "ours", yardstick: "yardstick" };
        report::write(page, &part, &circumstances, &rows)?;
    }
    if args.json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
    }
    Ok(())
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Dcb => "dcb",
            Self::Execute => "execute",
            Self::Load => "load",
            Self::Snapshot => "snapshot",
            Self::Replay => "replay",
            Self::Import => "import",
            Self::Inline => "inline",
            Self::Latency => "latency",
            Self::Visible => "visible",
            Self::ReadModel => "read model",
            Self::Projection => "projection",
            Self::Saga => "saga",
            Self::Timers => "timers",
            Self::Relay => "relay",
            Self::Inbox => "inbox",
            Self::Memory => "memory",
            Self::All => "all",
        }
    }
}
