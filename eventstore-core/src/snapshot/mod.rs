//! Snapshots: states that are kept, so that a load need not begin at the first event. No load needs one.

mod fingerprint;
mod keeper;
mod policy;

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Handle;

pub use self::{
    fingerprint::shape,
    keeper::SnapshotCounts,
    policy::{Policy, Snapshot, SnapshotPolicy},
};
pub(crate) use self::{
    keeper::Snapshots,
    policy::{Begun, Last, Unfit},
};
use crate::{
    aggregate::{Aggregate, Decider},
    boundary::Boundary,
    contract::StoredSnapshot,
    error::{EventError, StoreError},
    load::{Fold, Loaded, Stand, Until},
    store::Store,
    stream::{Id, Position, Version},
    target::{Target, every},
};

/// The result of [`Store::verify_snapshots`].
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct VerifiedSnapshots {
    /// The number of snapshots compared with the state that all events make.
    pub compared: usize,
    /// The number of snapshots that no load would use: of another shape, damaged, or of another log.
    pub unfit: usize,
    /// The snapshots that differ from the state of their events.
    pub differences: Vec<SnapshotDifference>,
}

/// A snapshot that is not the state its events make.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SnapshotDifference {
    /// The events it is made of: those of `account-ann`, `course:rust`, `account*`.
    pub boundary: String,
    /// The number of events it was made of.
    pub version: Version,
    /// The position of the last of these events.
    pub position: Position,
    /// The kept state, in its written form.
    pub kept: String,
    /// The state that the events make today, in its written form.
    pub refolded: String,
}

impl Store {
    /// Takes a snapshot of the current state, regardless of the policy of `#[aggregate(snapshot …)]`, and returns the
    /// state. An existing snapshot stays if it is as new. Fails with [`StoreError::Snapshot`] if the state cannot be
    /// written or read back.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// #[derive(Aggregate, serde::Serialize, serde::Deserialize)]
    /// #[aggregate(name = "account", snapshot(by_hand))]
    /// struct Turnover {
    ///     total: i64,
    /// }
    /// # impl Evolve for Turnover {
    /// #     type Event = AccountEvent;
    /// #     fn evolve(&mut self, event: AccountEvent) {
    /// #         if let Deposited { amount } = event { self.total += amount }
    /// #     }
    /// # }
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// # let ann = Id::<Turnover>::from("ann");
    /// # store.append(&ann, eventstore::Expected::Any, [Deposited { amount: 5 }]).await?;
    ///
    /// store.snapshot(&ann).await?;
    /// assert_eq!(store.load(&ann).await?.total, 5); // read from the snapshot, and from what has come since
    /// assert_eq!(store.snapshot_counts().used, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn snapshot<A: Aggregate>(&self, target: impl Target<State = A>) -> Result<Loaded<A>, StoreError> {
        const { assert!(A::SNAPSHOT.is_some(), "add `#[aggregate(snapshot(by_hand))]` to keep snapshots of this state") }
        let boundary = target.boundary();
        let fold = Fold::<A>::read(self, &boundary, Until::default()).await?;
        if let Some(new) = New::of(&fold, &boundary, 0)? {
            new.write(self).await?;
        }
        Ok(fold.loaded)
    }

    /// Waits until all snapshots that are being written are written or have failed; for the end of a program or a test.
    pub async fn finish_snapshots(&self) {
        let mut writing = self.snapshots().left.subscribe();
        // The sender is in `self`.
        let _ = writing.wait_for(|left| *left == 0).await;
    }

    /// Returns counts of the snapshots of this store and of its clones.
    pub fn snapshot_counts(&self) -> SnapshotCounts {
        let Snapshots { used, taken, ignored, failed, .. } = &**self.snapshots();
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SnapshotCounts { used: count(used), taken: count(taken), ignored: count(ignored), failed: count(failed) }
    }

    /// Compares snapshots of `A`, the latest first and at most `most`, with the states that all their events make.
    ///
    /// A difference means that `evolve`, or something else that the fingerprint does not cover, has changed since:
    /// raise `version` in `#[aggregate(snapshot(…, version = 2))]`. The written form of a `HashSet` differs each time:
    /// use a `BTreeSet`.
    pub async fn verify_snapshots<A: Aggregate>(&self, most: usize) -> Result<VerifiedSnapshots, StoreError> {
        let mut verified = VerifiedSnapshots::default();
        let Some(policy) = A::SNAPSHOT else { return Ok(verified) };
        for text in self.inner().snapshots(policy.kind, most).await? {
            let Some(boundary) = boundary_of::<A>(&text) else { continue };
            let Some(stored) = self.inner().snapshot(&text, policy.kind).await? else { continue };
            let fits = boundary.parts[0].policy(policy.into()).fits(&stored);
            let Ok(state) = fits.and_then(|()| policy.open(&stored)) else {
                verified.unfit += 1;
                continue;
            };
            let refold = Fold::<A>::read_all(self, &boundary, Until::position(stored.position)).await?;
            if refold.stands[0].last.is_none_or(|last| !last.ends(&stored)) {
                verified.unfit += 1;
                continue;
            }
            let written = |state| (policy.save)(state).map_err(|source| unkept(policy.kind, source));
            let (kept, refolded) = (written(&state)?, written(&refold.loaded.state)?);
            verified.compared += 1;
            if stored.version != refold.loaded.version || !same(&kept, &refolded) {
                let words = |bytes| String::from_utf8_lossy(bytes).into_owned();
                let (kept, refolded) = (words(&kept), words(&refolded));
                let StoredSnapshot { boundary, version, position, .. } = stored;
                verified.differences.push(SnapshotDifference { boundary, version, position, kept, refolded });
            }
        }
        Ok(verified)
    }
}

fn unkept(kind: &str, reason: EventError) -> StoreError {
    StoreError::Snapshot { kind: kind.into(), reason }
}

/// Compared as JSON too, because the order of a `HashMap` has no meaning.
fn same(a: &[u8], b: &[u8]) -> bool {
    let json = |bytes| serde_json::from_slice::<serde_json::Value>(bytes);
    a == b || matches!((json(a), json(b)), (Ok(a), Ok(b)) if a == b)
}

/// Returns the boundary of a snapshot of `A`; `None` if the text names none.
fn boundary_of<A: Aggregate>(text: &str) -> Option<Boundary> {
    let rest = text.strip_prefix(A::NAME)?;
    let boundary = match rest.strip_prefix(['-', ':']) {
        Some(key) => Id::<A>::from(key).boundary(),
        None => every::<A>().boundary(),
    };
    (boundary.parts[0].name() == text).then_some(boundary)
}

/// A part of a state that is about to be kept.
struct New<S> {
    snapshot: StoredSnapshot,
    instead_of: Option<u64>,
    /// The state before the first event, into whose part the snapshot is read back.
    blank: S,
    part: usize,
}

impl<S: Decider> New<S> {
    /// Returns the snapshot of a part; `None` if it has no snapshots or no events. Fails with [`StoreError::Snapshot`]
    /// if the part cannot be written.
    fn of(fold: &Fold<S>, boundary: &Boundary, part: usize) -> Result<Option<Self>, StoreError> {
        let Stand { events, last, begun, .. } = fold.stands[part];
        let kept = (fold.loaded.state.snapshots(part), fold.loaded.state.save(part), last);
        let (Some(policy), Some(state), Some(last)) = kept else { return Ok(None) };
        let policy = boundary.parts[part].policy(policy);
        let mut snapshot = StoredSnapshot {
            boundary: boundary.parts[part].name(),
            kind: policy.kind.into(),
            shape: policy.shape,
            version: events,
            position: last.position,
            event: last.id,
            recorded_at: last.recorded_at,
            checksum: 0,
            state: state.map_err(|source| unkept(policy.kind, source))?,
        };
        snapshot.checksum = snapshot.sum();
        Ok(Some(Self { snapshot, instead_of: begun.unfit, blank: S::blank(boundary), part }))
    }

    /// Reads the snapshot back, then keeps it. Fails with [`StoreError::Snapshot`] if it cannot be read back.
    async fn write(self, store: &Store) -> Result<(), StoreError> {
        let Self { snapshot, instead_of, mut blank, part } = self;
        if let Some(Err(error)) = blank.open(part, &snapshot.state) {
            return Err(unkept(&snapshot.kind, EventError::OneWay(error.to_string())));
        }
        if store.inner().keep_snapshot(snapshot, instead_of).await? {
            store.snapshots().taken.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl<S: Decider> Fold<S> {
    /// Keeps the parts of the current state whose policy asks for it, in a task that outlives the call.
    pub(crate) fn keep(&self, store: &Store, boundary: &Boundary) {
        for (stand, part) in self.stands.iter().zip(0..) {
            let worth = |policy: Policy| stand.begun.worth_keeping(policy.take, stand.events, self.took);
            if !self.loaded.state.snapshots(part).is_some_and(worth) {
                continue;
            }
            match New::of(self, boundary, part) {
                Ok(Some(new)) => store.spawn(new),
                Ok(None) => {}
                Err(error) => store.snapshots().failed(&error),
            }
        }
    }
}

impl Store {
    fn spawn<S: Decider>(&self, new: New<S>) {
        // Without a tokio runtime there is no task to write it in.
        let Ok(runtime) = Handle::try_current() else { return };
        let Some(writing) = self.snapshots().begin(&new.snapshot) else { return };
        let store = self.clone();
        runtime.spawn(async move {
            let _turn = writing.snapshots.turn.lock().await;
            if let Err(error) = new.write(&store).await {
                writing.snapshots.failed(&error);
            }
        });
    }
}
