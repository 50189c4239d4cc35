//! Measures eventstore against hand-written SQL on the same server, in the same process, by turns.
//!
//! `cargo run --release -p bench -- all`

mod append;
mod domain;
mod measure;
mod plain;
mod server;

use clap::{Parser, ValueEnum};

use crate::{domain::Outcome, measure::Bench, server::Server};

/// Measures eventstore against hand-written SQL on a PostgreSQL of its own.
#[derive(Parser)]
struct Args {
    /// What to measure.
    what: What,
    /// How many write at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    writers: Vec<usize>,
    /// Emulate a disk on which a flush takes a millisecond.
    #[arg(long)]
    slow_disk: bool,
    /// Few and short measurements: whether it runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// One JSON object a row.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum What {
    /// Appends of one event.
    Append,
    /// Everything.
    All,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::parse();
    let server = Server::start(args.slow_disk).map_err(|error| error.to_string())?;
    let (pairs, seconds) = if args.quick { (1, 0.3) } else { (5, 2.0) };
    let mut bench = Bench { name: "append", pairs, seconds, rows: vec![] };
    if matches!(args.what, What::Append | What::All) {
        append::run(&mut bench, &server.url, &args.writers).await?;
    }
    if args.json {
        for row in &bench.rows {
            println!("{}", serde_json::to_string(row)?);
        }
    }
    Ok(())
}
