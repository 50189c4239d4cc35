//! When snapshots are taken, and whether a snapshot fits.

use std::{fmt, time::Duration};

use uuid::Uuid;

use crate::{
    contract::StoredSnapshot,
    error::{Brief, EventError, StoreError},
    event::{Raw, Recorded},
    stream::{Position, Version},
    timestamp::Timestamp,
};

/// When snapshots of an aggregate are taken, and how they are written and read. Derived with
/// `#[aggregate(snapshot = 100)]`.
pub struct Snapshot<A> {
    /// The name of the type: a program that folds the same events into another type has its own snapshots.
    pub kind: &'static str,
    /// When a snapshot is taken.
    pub take: SnapshotPolicy,
    /// A fingerprint of everything the written form depends on. A snapshot of another shape is not read.
    pub shape: u64,
    /// Writes the state.
    pub save: fn(&A) -> Result<Vec<u8>, EventError>,
    /// Reads the state back.
    pub load: fn(&[u8]) -> Result<A, EventError>,
}

impl<A> Clone for Snapshot<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Snapshot<A> {}

impl<A> fmt::Debug for Snapshot<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, take, shape, .. } = self;
        f.debug_struct("Snapshot").field("kind", kind).field("take", take).field("shape", shape).finish_non_exhaustive()
    }
}

/// When a snapshot is taken that no caller has asked for: after a load or a command, never during it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum SnapshotPolicy {
    /// When this many events have been recorded since the last snapshot.
    Every(u64),
    /// When a load took at least this long.
    Slow(Duration),
    /// Only by [`Store::snapshot`](crate::Store::snapshot).
    ByHand,
}

/// The snapshots of an aggregate, and when they are taken.
#[derive(Clone, Copy)]
pub struct Policy {
    pub(crate) kind: &'static str,
    pub(crate) take: SnapshotPolicy,
    pub(crate) shape: u64,
}

impl<A> From<Snapshot<A>> for Policy {
    fn from(Snapshot { kind, take, shape, .. }: Snapshot<A>) -> Self {
        Self { kind, take, shape }
    }
}

/// Distinguishes the shapes of states by tag and over every event from those of release 0.1, whose states may lack
/// events that the program did not know.
const WITH_UNKNOWN_EVENTS: u64 = 0x9e37_79b9_7f4a_7c15;

impl Policy {
    /// Returns the policy for a state by tag, or over every event.
    pub(crate) fn of_query(self) -> Self {
        Self { shape: self.shape ^ WITH_UNKNOWN_EVENTS, ..self }
    }

    /// Fails with [`Unfit`] if a snapshot is damaged or of another shape.
    pub(crate) fn fits(&self, stored: &StoredSnapshot) -> Result<(), Unfit> {
        if stored.shape != self.shape {
            return Err(Unfit::Shape);
        }
        if stored.is_whole() { Ok(()) } else { Err(Unfit::Damaged) }
    }
}

/// Why an existing snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it is of another shape")]
    Shape,
    #[error("it is damaged")]
    Damaged,
    #[error("it cannot be decoded")]
    Undecodable,
    #[error("it is ahead of the log, or of another history")]
    OtherHistory,
    #[error("it cannot be read: {}", Brief(.0))]
    Unreadable(StoreError),
}

impl<A> Snapshot<A> {
    /// Returns the state in a snapshot that fits. The caller has yet to check that the log has its events.
    pub(crate) fn open(&self, stored: &StoredSnapshot) -> Result<A, Unfit> {
        (self.load)(&stored.state).map_err(|_| Unfit::Undecodable)
    }
}

/// The last event in a state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub(crate) id: Uuid,
    pub(crate) position: Position,
    pub(crate) recorded_at: Timestamp,
}

impl Last {
    pub(crate) fn of(event: &Recorded<Raw>) -> Self {
        Self { id: event.id, position: event.position, recorded_at: event.recorded_at }
    }

    /// Whether this is the last event of a snapshot. The instant tells an event from the same event recorded again
    /// after the log was restored from a backup.
    pub(crate) fn ends(&self, stored: &StoredSnapshot) -> bool {
        (self.id, self.position, self.recorded_at) == (stored.event, stored.position, stored.recorded_at)
    }
}

/// The snapshot a part of a load began with, which decides whether a new one is worth keeping.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Begun {
    /// The version of the snapshot the part began at.
    pub(crate) version: Version,
    /// The checksum of a snapshot that did not fit.
    pub(crate) unfit: Option<u64>,
    /// Whether that snapshot would be in the way for ever if it is not replaced.
    pub(crate) broken: bool,
}

impl Begun {
    pub(crate) fn worth_keeping(&self, take: SnapshotPolicy, version: Version, took: Duration) -> bool {
        let new = version.0.saturating_sub(self.version.0);
        let asked = match take {
            SnapshotPolicy::Every(events) => new >= events.max(1),
            SnapshotPolicy::Slow(limit) => took >= limit,
            SnapshotPolicy::ByHand => return false,
        };
        new > 0 && (asked || self.broken)
    }
}
