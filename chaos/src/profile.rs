//! Where a run keeps its log, and how long and how hard it is.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// Failovers that lose the end of the log, and no other faults.
    Fork,
}
