//! One run: a server, processes, faults for a while, then peace, and the checker.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;

use crate::Error;

/// What to run, and for how long.
#[derive(clap::Args, Clone)]
pub struct Options {
    /// Which faults come, and in which order, follows from it; by the clock unless said.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long there are faults, in minutes.
    #[arg(long, conflicts_with = "seconds")]
    pub minutes: Option<u64>,
    /// How long there are faults, in seconds.
    #[arg(long)]
    pub seconds: Option<u64>,
    #[arg(long, value_enum, default_value_t = Log::Postgres)]
    pub store: Log,
    #[arg(long, value_enum, default_value_t = Profile::Smoke)]
    pub profile: Profile,
    /// A folder, not there yet, for everything the run leaves; else it is removed if nothing was found.
    #[arg(long)]
    pub keep: Option<PathBuf>,
    /// How many worker processes.
    #[arg(long)]
    pub workers: Option<usize>,
    /// The program the workers are, if not this one: one with a bug planted.
    #[arg(long, hide = true)]
    pub worker: Option<PathBuf>,
    /// The name of the bug that is planted in it.
    #[arg(long, hide = true)]
    pub mutant: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Log {
    Postgres,
    Sqlite,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Profile {
    /// A minute in all.
    Smoke,
    /// Ten minutes: at least 300 faults and 300,000 acknowledged events.
    Gate,
    /// Until told otherwise (ctrl-c).
    Soak,
}

impl Options {
    /// How long there are faults; none: until told otherwise.
    pub fn length(&self) -> Option<Duration> {
        let said = self.seconds.or(self.minutes.map(|minutes| 60 * minutes));
        said.map(Duration::from_secs).or(match self.profile {
            Profile::Smoke => Some(Duration::from_secs(35)),
            Profile::Gate => Some(Duration::from_secs(600)),
            Profile::Soak => None,
        })
    }
}

/// Whether nothing was found.
pub async fn run(options: &Options) -> Result<bool, Error> {
    Err(format!("not yet: {:?}", options.length()).into())
}

/// Whether nothing is found in what a run has left.
pub async fn check(folder: &Path) -> Result<bool, Error> {
    Err(format!("not yet: {}", folder.display()).into())
}
