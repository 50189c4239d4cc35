//! States that were kept, so that a load need not begin at the first event: a shortcut, and never more.

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

/// What [`Store::verify_snapshots`] found.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct VerifiedSnapshots {
    /// How many were compared with the state that all events make.
    pub compared: usize,
    /// How many no load would use: of another shape, damaged, or not of this log.
    pub unfit: usize,
    /// Those that are not what they should be.
    pub differences: Vec<SnapshotDifference>,
}

/// A snapshot that is not the state its events make.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SnapshotDifference {
    /// Whose events: `account-ann`, `course:rust`, `account*`.
    pub boundary: String,
    /// How many events it says it is made of.
    pub version: Version,
    /// The place of the last of them.
    pub position: Position,
    /// The state that was kept, as it is written.
    pub kept: String,
    /// The state that the events make today, as it is written.
    pub refolded: String,
}

impl Store {
    /// Takes a snapshot of a state as it is now, whatever `#[aggregate(snapshot …)]` says about when. One that is there
    /// already stays, if it is as new.
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

    /// Waits until the snapshots that are being written are written, or have failed: at the end of a program or a test.
    pub async fn finish_snapshots(&self) {
        let mut writing = self.snapshots().left.subscribe();
        // The sender is in `self`.
        let _ = writing.wait_for(|left| *left == 0).await;
    }

    /// What became of the snapshots of this store and of its clones.
    pub fn snapshot_counts(&self) -> SnapshotCounts {
        let Snapshots { used, taken, ignored, failed, .. } = &**self.snapshots();
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SnapshotCounts { used: count(used), taken: count(taken), ignored: count(ignored), failed: count(failed) }
    }

    /// Compares snapshots of `A`, the latest first and at most so many, with the states that all their events make.
    ///
    /// A difference says that `evolve`, or something else a fingerprint cannot see, has changed since: raise
    /// `version` in `#[aggregate(snapshot(…, version = 2))]`. What a `HashSet` is written as differs each time: use a
    /// `BTreeSet`.
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

/// The order of a `HashMap` says nothing.
fn same(a: &[u8], b: &[u8]) -> bool {
    let json = |bytes| serde_json::from_slice::<serde_json::Value>(bytes);
    a == b || matches!((json(a), json(b)), (Ok(a), Ok(b)) if a == b)
}

/// The boundary a snapshot of `A` was kept under, if the text names one.
fn boundary_of<A: Aggregate>(text: &str) -> Option<Boundary> {
    let rest = text.strip_prefix(A::NAME)?;
    let boundary = match rest.strip_prefix(['-', ':']) {
        Some(key) => Id::<A>::from(key).boundary(),
        None => every::<A>().boundary(),
    };
    (boundary.parts[0].name() == text).then_some(boundary)
}

/// A part of a state on its way to be kept.
struct New<S> {
    snapshot: StoredSnapshot,
    instead_of: Option<u64>,
    /// The state before the first event, and the part of it: to see whether it can be read back.
    blank: S,
    part: usize,
}

impl<S: Decider> New<S> {
    /// What to keep of a part, if it has snapshots, and events.
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

    /// Read back first, as events are: one that cannot be read is of no use.
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
    /// Keeps those parts of the state of now whose policy says so: begun here, done while the caller goes on, or is
    /// gone.
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
        // Without a runtime of tokio's nothing goes on behind the caller's back.
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
