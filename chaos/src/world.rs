//! What all processes of a run know, and dice.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, profile::Log};

/// What all processes of a run know: `world.json` in its folder.
#[derive(Clone, Serialize, Deserialize)]
pub struct World {
    pub folder: PathBuf,
    pub store: Log,
    /// Where the workers find it: through the proxy.
    pub url: String,
    pub schema: String,
    pub seed: u64,
    /// Of the clock of the run.
    pub clock: u64,
    /// How long a worker may be silent.
    pub lease_ms: u64,
    /// How many clients a worker has.
    pub clients: usize,
    /// How many events a second a client appends at most.
    pub rate: f64,
}

impl World {
    pub fn read(folder: &Path) -> Result<Self, Error> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join("world.json"))?)?)
    }

    pub fn write(&self) -> Result<(), Error> {
        Ok(std::fs::write(self.folder.join("world.json"), serde_json::to_vec_pretty(self)?)?)
    }

    /// A table of the run's own.
    pub fn table(&self, name: &str) -> String {
        match self.store {
            Log::Postgres => format!("{}.{name}", self.schema),
            Log::Sqlite => name.into(),
        }
    }

    /// How many connections a worker may have. The second one has to get on with one for everything.
    pub fn connections_of(worker: &str) -> u32 {
        if worker == "w2" { 1 } else { 8 }
    }

    /// Clients begin nothing new once it is there.
    pub fn quiet(&self) -> PathBuf {
        self.folder.join("quiet")
    }

    /// A worker says that its clients have ended.
    pub fn quiet_of(&self, worker: &str) -> PathBuf {
        self.folder.join("workers").join(format!("{worker}.quiet"))
    }
}

/// SplitMix64: what is done, and in which order, follows from the seed.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// Others for each name.
    pub fn named(seed: u64, name: &str) -> Self {
        Self(
            name.bytes()
                .fold(seed ^ 0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)),
        )
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }
}
