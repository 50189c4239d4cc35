//! The most memory a process ever has while a read model catches up with a long log; against a log of a tenth.

use std::process::{Command, Stdio};

use crate::{
    books::{Balance, Books},
    domain::Outcome,
    measure::Bench,
};

/// What a process of its own does, which is measured: catches up with the log in this schema, and prints the megabytes.
pub async fn catch_up(url: &str, schema: &str) -> Outcome<()> {
    let books = Books::open(url, schema).await?;
    books.catch_up(|runner| runner.read_model::<Balance>(), "\"balance@1\"").await?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the system does not tell its peak")?;
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse()?;
    println!("{}", kib * 1024.0 / 1e6);
    Ok(())
}

async fn peak(books: &Books) -> Outcome<f64> {
    let mut process = Command::new(std::env::current_exe()?);
    process.args(["memory", "--catch-up", &books.url, &books.schema]).stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || process.output()).await??;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

pub async fn run(bench: &mut Bench, url: &str, events: u64) -> Outcome<()> {
    let (long, short) = (Books::of(url, "books", events).await?, Books::of(url, "tenth", events / 10).await?);
    let case = format!("{} events, against a tenth", long.events);
    bench.pair(case, "MB", async || peak(&long).await, async || peak(&short).await).await
}
use eventstore::RunReadModels;
