//! The shards of a processor: each has a range of its keys, and a checkpoint.

use std::{fmt, ops::Range};

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::stream::Position;

/// The number of slots that the keys of a processor are spread over.
pub const SLOTS: u16 = 1024;

/// Returns the slot of a key: XXH3 of its bytes, modulo [`SLOTS`]. Fixed for ever: stored shards depend on it.
pub fn slot(key: &str) -> u16 {
    (xxh3_64(key.as_bytes()) % u64::from(SLOTS)) as u16
}

/// A part of a processor: those of its keys whose slots are in a range. A small processor has one shard with all slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard {
    /// The name of the processor, `balance@1`.
    pub projection: String,
    /// The first slot.
    pub from_slot: u16,
    /// The slot after the last one.
    pub to_slot: u16,
}

impl Shard {
    /// Returns the shard of a processor with all slots.
    pub fn whole(projection: impl Into<String>) -> Self {
        Self::new(projection, 0..SLOTS)
    }

    /// Returns the shard of a processor with these slots.
    pub fn new(projection: impl Into<String>, slots: Range<u16>) -> Self {
        Self { projection: projection.into(), from_slot: slots.start, to_slot: slots.end }
    }

    /// Whether it has all slots.
    pub fn is_whole(&self) -> bool {
        (self.from_slot, self.to_slot) == (0, SLOTS)
    }

    /// Whether a key belongs to it.
    pub fn has(&self, key: &str) -> bool {
        self.is_whole() || (self.from_slot..self.to_slot).contains(&slot(key))
    }

    /// Returns shards with all slots together: `parts` of them, at least one and at most [`SLOTS`], which differ by one
    /// slot at most.
    pub fn parts(projection: &str, parts: u16) -> Vec<Self> {
        let parts = u32::from(parts.clamp(1, SLOTS));
        let start = |n: u32| (n * u32::from(SLOTS) / parts) as u16;
        (0..parts).map(|n| Self::new(projection, start(n)..start(n + 1))).collect()
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_whole() {
            true => f.write_str(&self.projection),
            false => write!(f, "{}[{}..{}]", self.projection, self.from_slot, self.to_slot),
        }
    }
}

/// The position that a shard has reached, and the node that may advance it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Every event up to this position is processed.
    pub position: Position,
    /// The event at that position, by which a node notices a log that has lost its end; none at the start.
    pub event: Option<Uuid>,
    /// A number that is raised each time another node takes the shard over, and never used twice. The node that took it
    /// over may write as long as the number stays.
    pub epoch: u64,
    /// The node that runs it, if any does.
    pub owner: Option<Uuid>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p6_a_key_stays_in_its_slot_for_ever() {
        let slots = ["", "a", "ann", "account-ann", "ACC-42", "ß"].map(slot);
        assert_eq!(slots, [194, 543, 712, 750, 414, 340]);
    }

    #[test]
    fn p6_every_slot_is_in_one_part() {
        for parts in [0, 1, 2, 3, 7, 8, 1000, 1024, 5000] {
            let shards = Shard::parts("p", parts);
            assert_eq!(shards.len(), usize::from(parts.clamp(1, SLOTS)));
            let ends = shards.iter().map(|shard| shard.to_slot);
            let starts = shards.iter().map(|shard| shard.from_slot).skip(1).chain([SLOTS]);
            assert!(shards[0].from_slot == 0 && ends.eq(starts));
            assert!(shards.iter().all(|shard| shard.from_slot < shard.to_slot));
        }
    }
}
