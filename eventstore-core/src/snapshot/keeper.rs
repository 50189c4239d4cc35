//! The snapshots that a store is writing, and counts of earlier ones.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use super::policy::{Begun, Unfit};
use crate::{
    contract::StoredSnapshot,
    error::{Brief, StoreError},
};

/// Counts of the snapshots of a store and of its clones, since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SnapshotCounts {
    /// Snapshots that a load, or a part of a load, began at.
    pub used: u64,
    /// Snapshots that were written.
    pub taken: u64,
    /// Snapshots that could not be used: of another shape, damaged, unreadable, or of another log. The state was folded
    /// from all its events instead.
    pub ignored: u64,
    /// Snapshots that could not be written.
    pub failed: u64,
}

/// How many snapshots may wait to be written. A snapshot beyond that is dropped: the next load takes another.
const WAITING: usize = 64;

/// The snapshots that a store is writing, and counts of earlier ones.
pub(crate) struct Snapshots {
    pub(crate) used: AtomicU64,
    pub(crate) taken: AtomicU64,
    pub(crate) ignored: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// The boundary and kind of the snapshots that are not written yet.
    writing: Mutex<HashSet<(String, String)>>,
    pub(crate) left: watch::Sender<usize>,
    /// Snapshots are written one at a time, to leave the other connections to commands.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl Default for Snapshots {
    fn default() -> Self {
        let (used, taken, ignored, failed) = Default::default();
        let (writing, left, turn) = (Mutex::default(), watch::Sender::new(0), tokio::sync::Mutex::default());
        Self { used, taken, ignored, failed, writing, left, turn }
    }
}

impl Snapshots {
    pub(crate) fn used(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a snapshot exists and is not used.
    pub(crate) fn ignore(&self, begun: &mut Begun, stored: &StoredSnapshot, why: &Unfit) {
        begun.unfit = Some(stored.checksum);
        begun.broken = !matches!(why, Unfit::Shape);
        self.ignored(&stored.boundary, &stored.kind, why);
    }

    pub(crate) fn ignored(&self, boundary: &str, kind: &str, why: &Unfit) {
        self.ignored.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(boundary, kind, %why, "a snapshot is not used");
    }

    pub(crate) fn failed(&self, error: &StoreError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(error = %Brief(error), "a snapshot was not written");
    }

    /// Notes that a snapshot is being written. Returns `None` if another of its boundary and kind is, or if too many
    /// wait.
    pub(crate) fn begin(self: &Arc<Self>, snapshot: &StoredSnapshot) -> Option<Writing> {
        let key = (snapshot.boundary.clone(), snapshot.kind.clone());
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.len() >= WAITING || !writing.insert(key.clone()) {
            return None;
        }
        self.left.send_replace(writing.len());
        Some(Writing { snapshots: self.clone(), key })
    }
}

/// A snapshot that is being written, until this is dropped, by success, an error or a panic.
pub(crate) struct Writing {
    pub(crate) snapshots: Arc<Snapshots>,
    key: (String, String),
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut writing = self.snapshots.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.remove(&self.key);
        self.snapshots.left.send_replace(writing.len());
    }
}
