//! Pairs of measurements, one after the other in one process: only their ratio means anything on a machine that others
//! use too.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::domain::Outcome;

/// What a pair of measurements came to.
#[derive(Clone, Serialize)]
pub struct Row {
    pub bench: String,
    pub case: String,
    /// The median of ours.
    pub ours: f64,
    /// The median of the yardstick.
    pub yardstick: f64,
    /// The median of the ratios ours/yardstick of each pair.
    pub ratio: f64,
    /// The least and the greatest of these ratios.
    pub spread: (f64, f64),
    pub unit: String,
}

/// How to measure, and what has been measured.
pub struct Bench {
    pub name: &'static str,
    /// How many pairs.
    pub pairs: usize,
    /// How long one side of a pair takes, in seconds.
    pub seconds: f64,
    pub rows: Vec<Row>,
}

impl Bench {
    /// Measures both, alternately; the first measurement of each warms up and does not count.
    pub async fn pair<E>(
        &mut self,
        case: impl Into<String>,
        unit: &'static str,
        ours: impl AsyncFn() -> Result<f64, E>,
        yardstick: impl AsyncFn() -> Result<f64, E>,
    ) -> Result<(), E> {
        let case = case.into();
        let (mut mine, mut theirs, mut ratios) = (vec![], vec![], vec![]);
        for pair in 0..=self.pairs {
            if std::io::stderr().is_terminal() {
                eprint!("\r{} {case}: pair {pair} of {}  ", self.name, self.pairs);
                let _ = std::io::stderr().flush();
            }
            // By turns also within the pairs: whoever comes second finds the machine warmer.
            let (a, b) = if pair % 2 == 0 {
                let a = ours().await?;
                (a, yardstick().await?)
            } else {
                let b = yardstick().await?;
                (ours().await?, b)
            };
            if pair > 0 {
                mine.push(a);
                theirs.push(b);
                ratios.push(a / b);
            }
        }
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
        let spread = (min(&ratios), -min(&ratios.iter().map(|ratio| -ratio).collect::<Vec<_>>()));
        let row = Row {
            bench: self.name.into(),
            case,
            ours: median(mine),
            yardstick: median(theirs),
            ratio: median(ratios),
            spread,
            unit: unit.into(),
        };
        println!("{row}");
        self.rows.push(row);
        Ok(())
    }
}

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

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bench, case, ours, yardstick, ratio, spread, unit } = self;
        let number = |n: f64| if n >= 1_000.0 { format!("{n:.0}") } else { format!("{n:.3}") };
        let (name, ours, yardstick) = (format!("{bench}: {case}"), number(*ours), number(*yardstick));
        write!(
            f,
            "{name:<60} {ours:>9} against {yardstick:>9} {unit:<10} {ratio:>6.2} × ({:.2}–{:.2})",
            spread.0, spread.1
        )
    }
}

fn min(numbers: &[f64]) -> f64 {
    numbers.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 { numbers[middle] } else { (numbers[middle - 1] + numbers[middle]) / 2.0 }
}
