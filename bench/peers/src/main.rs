//! Measures eventstore and other crates for event sourcing against hand-written SQL, on one server, in one run, by turns.
//!
//! `cargo run --release --manifest-path bench/peers/Cargo.toml`

mod by_hand;
mod cqrs_es;
mod disintegrate;
#[path = "../../src/domain.rs"]
mod domain;
mod es_entity;
mod esrs;
#[path = "../../src/measure.rs"]
mod measure;
mod ours;
mod peer;
#[path = "../../src/plain.rs"]
mod plain;
#[path = "../../src/report.rs"]
mod report;
#[path = "../../src/server.rs"]
mod server;

use std::path::PathBuf;

use clap::Parser;

use crate::{domain::Outcome, measure::Bench, peer::Peer, report::Part, server::Server};

/// Measures eventstore and its peers against hand-written SQL on a PostgreSQL of its own.
#[derive(Parser)]
struct Args {
    /// Few and short measurements: whether it runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// One JSON object a row.
    #[arg(long)]
    json: bool,
    /// Put the tables into this page, between its marks, and the chart beside it.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// What is measured of each.
struct Benches {
    one_writer: Bench,
    writers: Bench,
    load: Bench,
    execute: Bench,
    url: String,
    /// How many aggregates are executed commands on.
    accounts: usize,
}

const WRITERS: usize = 16;

impl Benches {
    async fn run<P: Peer>(&mut self, peer: P) -> Outcome<()> {
        let (name, seconds) = (peer.name(), self.load.seconds);
        let url = &*self.url;
        for (bench, writers) in [(&mut self.one_writer, 1), (&mut self.writers, WRITERS)] {
            let theirs = async || measure::rate(vec![peer.clone(); writers], seconds, peer::append).await;
            let by_hand = async || measure::rate(plain::connections(url, writers).await?, seconds, plain::insert).await;
            bench.pair(&*name, "appends/s", theirs, by_hand).await?;
        }

        let ids = peer::accounts(&peer, self.accounts.min(100), 100).await?;
        let ids_by_hand = by_hand::accounts(url, self.accounts.min(100), 100).await?;
        by_hand::analyze(url).await?;
        let theirs = async || measure::rate(ids.worker(peer.clone()), seconds, peer::load).await;
        let by_hand = async || {
            let connections = ids_by_hand.worker(by_hand::connect(url).await?);
            measure::rate(connections, seconds, by_hand::load).await
        };
        self.load.pair(&*name, "loads/s", theirs, by_hand).await?;

        let ids = peer::accounts(&peer, self.accounts, 10).await?;
        let ids_by_hand = by_hand::accounts(url, self.accounts, 10).await?;
        by_hand::analyze(url).await?;
        let theirs = async || measure::rate(ids.worker(peer.clone()), seconds, peer::deposit).await;
        let by_hand = async || {
            let connections = ids_by_hand.worker(by_hand::connect(url).await?);
            measure::rate(connections, seconds, by_hand::deposit).await
        };
        self.execute.pair(&*name, "commands/s", theirs, by_hand).await
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let args = Args::parse();
    let server = Server::start(false).map_err(|error| error.to_string())?;
    let (pairs, seconds, accounts) = if args.quick { (1, 0.3, 50) } else { (5, 2.0, 2_000) };
    let url = &*server.url;
    let circumstances = report::circumstances(url).await?;
    eprintln!("{circumstances}");
    let bench = |name| Bench { name, pairs, seconds, rows: vec![] };
    let mut benches = Benches {
        one_writer: bench("append, 1 writer"),
        writers: bench("append, 16 writers"),
        load: bench("load, 100 events"),
        execute: bench("command, 10 events"),
        url: url.into(),
        accounts,
    };
    benches.run(ours::Ours::connect(url).await?).await?;
    benches.run(esrs::Esrs::connect(url).await?).await?;
    benches.run(cqrs_es::CqrsEs::connect(url).await?).await?;
    benches.run(es_entity::Accounts::connect(url).await?).await?;
    benches.run(disintegrate::Disintegrate::connect(url).await?).await?;

    let Benches { one_writer, writers, load, execute, .. } = benches;
    let rows: Vec<_> = [one_writer, writers, load, execute].into_iter().flat_map(|bench| bench.rows).collect();
    if let Some(page) = &args.write {
        let part = Part { name: "peers", measured: "median", yardstick: "by hand" };
        report::write(page, &part, &circumstances, &rows)?;
    }
    if args.json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
    }
    Ok(())
}
