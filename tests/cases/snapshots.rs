//! Snapshots: never seen in an answer, never in the way of a command.

use std::{fmt::Debug, sync::Arc};

use eventstore::{
    CommandError, Decider, Expected, Load, Loaded, Position, StoreError, StoredSnapshot, Target, Timestamp, Version,
    prelude::*,
};
use futures::{FutureExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{Between, World, world};

type Any = Box<dyn std::error::Error>;

#[derive(Event, Clone, Debug, PartialEq)]
pub enum TallyEvent {
    Added {
        amount: i64,
        #[event(tag)]
        club: Option<Id<Club>>,
    },
    Doubled,
}
use TallyEvent::*;

/// States that depend on every event, and on their order: each type that has snapshots, and one that has none.
macro_rules! states {
    ($($(#[$attribute:meta])* $State:ident)*) => {
        $(
            #[derive(Aggregate, Serialize, Deserialize, Clone, Debug, PartialEq)]
            $(#[$attribute])*
            pub struct $State {
                sum: i64,
                trail: Vec<i64>,
            }

            impl Evolve for $State {
                type Event = TallyEvent;

                fn evolve(&mut self, event: TallyEvent) {
                    match event {
                        Added { amount, .. } => self.sum = self.sum.wrapping_add(amount),
                        Doubled => self.sum = self.sum.wrapping_mul(2),
                    }
                    self.trail.push(self.sum);
                }
            }

            impl Trail for $State {
                type Seen = (i64, Vec<i64>);

                fn trail(&self) -> Self::Seen {
                    (self.sum, self.trail.clone())
                }
            }

            impl Decide<Add> for $State {
                fn decide(&self, Add { amount, club }: Add) -> Decision<Self> {
                    ensure!(amount != 13, "{} is enough", self.sum);
                    let amount = amount.wrapping_add(self.sum);
                    Ok((0..amount.rem_euclid(3)).map(|_| Added { amount, club: club.clone() }).collect())
                }
            }
        )*
    };
}
states! {
    #[aggregate(snapshot = 3)] Tally
    #[aggregate(name = "tally")] PlainTally
    #[aggregate(name = "tally", snapshot(slow = "0ms"))] SlowTally
    #[aggregate(name = "tally", snapshot(by_hand, version = 2))] HandTally
    #[aggregate(by_tag, snapshot(every = 3))] Club
    #[aggregate(by_tag, name = "club")] PlainClub
}

pub trait Trail {
    type Seen: Debug + PartialEq;

    fn trail(&self) -> Self::Seen;
}

impl<A: Trail, B: Trail> Trail for (A, B) {
    type Seen = (A::Seen, B::Seen);

    fn trail(&self) -> Self::Seen {
        (self.0.trail(), self.1.trail())
    }
}

impl<A: Trail, B: Trail, C: Trail> Trail for (A, B, C) {
    type Seen = (A::Seen, B::Seen, C::Seen);

    fn trail(&self) -> Self::Seen {
        (self.0.trail(), self.1.trail(), self.2.trail())
    }
}

/// The tally decides, by what both have come to.
impl Decide<Add> for (Tally, Club) {
    fn decide(&self, Add { amount, club }: Add) -> Decision<Self> {
        self.0.decide(Add { amount: amount.wrapping_add(self.1.sum), club })
    }
}

/// Two clubs, of which the first decides.
impl Decide<Add> for (Club, Club) {
    fn decide(&self, Add { amount, club }: Add) -> Decision<Self> {
        self.0.decide(Add { amount: amount.wrapping_add(self.1.sum), club })
    }
}

#[derive(Clone, Debug)]
pub struct Add {
    pub amount: i64,
    pub club: Option<Id<Club>>,
}

fn add(amount: i64) -> Add {
    Add { amount, club: None }
}

fn added(amount: i64) -> TallyEvent {
    Added { amount, club: None }
}

async fn with_three(store: &Store) -> Id<Tally> {
    let id = Id::<Tally>::from("t");
    store.append(&id, Expected::Any, (1..=3).map(added)).await.unwrap();
    store.load(&id).await.unwrap();
    store.finish_snapshots().await;
    id
}

async fn stored(world: &World, boundary: &str) -> StoredSnapshot {
    world.inner.snapshot(boundary, "Tally").await.unwrap().expect("a snapshot")
}

/// Puts a snapshot in the place of another, whatever that is.
async fn replace(world: &World, mut snapshot: StoredSnapshot, sum: bool) {
    let old = world.inner.snapshot(&snapshot.boundary, &snapshot.kind).await.unwrap();
    if sum {
        snapshot.checksum = snapshot.sum();
    }
    assert!(world.inner.keep_snapshot(snapshot, old.map(|old| old.checksum)).await.unwrap());
}

/// What a load gave, of a state with snapshots or without.
type Seen<S> = (<S as Trail>::Seen, Version, Position);

async fn seen<S: Trail>(load: impl IntoFuture<Output = Result<Loaded<S>, StoreError>>) -> Seen<S> {
    let loaded = load.await.unwrap();
    (loaded.trail(), loaded.version, loaded.position)
}

/// Compares loads up to every moment there is, with snapshots and without.
struct Moments<'a> {
    store: &'a Store,
    times: Vec<Timestamp>,
}

impl<'a> Moments<'a> {
    async fn of(store: &'a Store) -> Self {
        let times = store.read().raw().map_ok(|event| event.recorded_at).try_collect().await.unwrap();
        Self { store, times }
    }

    async fn agree<K, P>(&self, kept: impl Target<State = K>, plain: impl Target<State = P>)
    where
        K: Decider + Trail,
        P: Decider + Trail<Seen = K::Seen>,
    {
        let loads = || (self.store.load(&kept), self.store.load(&plain));
        let both = async |until: &dyn Fn(Load<K>) -> Load<K>, same: &dyn Fn(Load<P>) -> Load<P>| {
            let (kept, plain) = loads();
            assert_eq!(seen(until(kept)).await, seen(same(plain)).await);
        };
        both(&|load| load, &|load| load).await;
        for position in (0..=self.times.len() as u64 + 1).map(Position) {
            both(&|load| load.at_position(position), &|load| load.at_position(position)).await;
        }
        for &time in &self.times {
            both(&|load| load.as_of(time), &|load| load.as_of(time)).await;
            both(&|load| load.occurred_by(time), &|load| load.occurred_by(time)).await;
        }
    }
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Puts something in the place of snapshots that must not be used, with a state that would show if it was.
async fn spoil(world: &World, dice: &mut Dice) {
    for kind in ["Tally", "Club"] {
        for boundary in world.inner.snapshots(kind, 10).await.unwrap() {
            let old = world.inner.snapshot(&boundary, kind).await.unwrap().expect("it was listed");
            let wrong = StoredSnapshot { state: br#"{"sum":-77,"trail":[-77]}"#.to_vec(), ..old.clone() };
            // Whether the checksum is that of the wrong state.
            let (bad, sum) = match dice.below(12) {
                0 => (wrong, false),
                1 => (StoredSnapshot { version: Version(old.version.0 + 1), ..wrong }, false),
                2 => (StoredSnapshot { state: br#"{"sum":"many"}"#.to_vec(), ..old }, true),
                3 => (StoredSnapshot { shape: old.shape.wrapping_add(1), ..wrong }, true),
                4 => (StoredSnapshot { position: Position(old.position.0 + 1), ..wrong }, true),
                5 => {
                    let (version, position) = (Version(old.version.0 + 5), Position(old.position.0 + 5));
                    (StoredSnapshot { version, position, ..wrong }, true)
                }
                6 => (StoredSnapshot { event: Uuid::from_u128(old.event.as_u128() ^ 1), ..wrong }, true),
                7 => {
                    let recorded_at = Timestamp::from_micros(old.recorded_at.as_micros() - 1);
                    (StoredSnapshot { recorded_at, ..wrong }, true)
                }
                _ => continue,
            };
            replace(world, bad, sum).await;
        }
    }
}

#[tokio::test]
async fn n1_a_load_gives_the_same_with_snapshots_and_without() -> Result<(), Any> {
    let mut ignored = 0;
    for seed in 1..=3 {
        let (world, mut dice) = (world().await, Dice(seed));
        let store = &world.store;
        let tallies = ["a", "b"].map(|key| (Id::<Tally>::from(key), Id::<PlainTally>::from(key)));
        let clubs = ["x", "y"].map(|key| (Id::<Club>::from(key), Id::<PlainClub>::from(key)));
        for _ in 0..20 {
            let (tally, plain) = &tallies[dice.below(2) as usize];
            let club = (dice.below(3) > 0).then(|| clubs[dice.below(2) as usize].0.clone());
            let amount = dice.below(100) as i64;
            match dice.below(9) {
                0 => _ = store.append(tally, Expected::Any, [Doubled]).await?,
                1 => _ = store.append(tally, Expected::Any, [Added { amount, club }, added(amount)]).await?,
                2 => {
                    // What is decided, and what is given back, is the same as without.
                    let before = seen(store.load(plain)).await;
                    let done = store.execute(tally, Add { amount, club }).await?;
                    let (after, version, _) = seen(store.load(plain)).await;
                    assert_eq!((done.state.sum, done.version), (after.0, version));
                    assert_eq!(done.events.len() as u64, version.0 - before.1.0);
                }
                3 => {
                    let (club, plain) = &clubs[dice.below(2) as usize];
                    let done = store.execute(club, Add { amount, club: Some(club.clone()) }).await?;
                    let (after, version, _) = seen(store.load(plain)).await;
                    assert_eq!((done.state.sum, done.version), (after.0, version));
                }
                4 => {
                    let (other, plain_other) = &clubs[dice.below(2) as usize];
                    let done = store.execute((tally, other), Add { amount, club }).await?;
                    let (after, version, _) = seen(store.load((plain, plain_other))).await;
                    assert_eq!((done.state.trail(), done.version), (after, version));
                }
                5 => {
                    let [(one, plain_one), (two, plain_two)] = &clubs;
                    let done = store.execute((two, one), Add { amount, club }).await?;
                    let (after, version, _) = seen(store.load((plain_two, plain_one))).await;
                    assert_eq!((done.state.trail(), done.version), (after, version));
                }
                6 => {
                    store.snapshot(every::<Tally>()).await?;
                    store.snapshot(&clubs[0].0).await?;
                }
                _ => spoil(&world, &mut dice).await,
            }
            store.finish_snapshots().await;
            assert_eq!(seen(store.load(tally)).await, seen(store.load(plain)).await);
        }
        // What is kept is what loads begin at, up to every moment; then what is spoiled is not.
        store.load((&tallies[0].0, &tallies[1].0, &clubs[0].0, &clubs[1].0)).await?;
        store.load(every::<Tally>()).await?;
        store.finish_snapshots().await;
        for spoiled in [false, true] {
            let moments = Moments::of(store).await;
            let [(a, plain_a), (b, plain_b)] = &tallies;
            let [(x, plain_x), (y, plain_y)] = &clubs;
            moments.agree((x, a, every::<Tally>()), (plain_x, plain_a, every::<PlainTally>())).await;
            moments.agree((b, y), (plain_b, plain_y)).await;
            moments.agree((y, plain_x), (plain_y, plain_x)).await;
            if spoiled {
                // Loads of now have replaced what was spoiled: once more, for what follows.
                store.finish_snapshots().await;
                spoil(&world, &mut dice).await;
            }
            for (kept, plain) in &tallies {
                moments.agree(kept, plain).await;
                for version in (0..=seen(store.load(plain)).await.1.0 + 1).map(Version) {
                    assert_eq!(seen(store.load(kept).at(version)).await, seen(store.load(plain).at(version)).await);
                }
            }
            for (kept, plain) in &clubs {
                moments.agree(kept, plain).await;
            }
            moments.agree(every::<Tally>(), every::<PlainTally>()).await;
            store.finish_snapshots().await;
            spoil(&world, &mut dice).await;
        }
        let counts = store.snapshot_counts();
        assert!(counts.used > 50 && counts.taken > 5 && counts.failed == 0, "{counts:?}");
        ignored += counts.ignored;
    }
    assert!(ignored > 10, "{ignored}");
    Ok(())
}

#[tokio::test]
async fn n1_what_does_not_fit_is_ignored_counted_and_replaced() -> Result<(), Any> {
    type Spoil = fn(StoredSnapshot) -> StoredSnapshot;
    let all: [(&str, bool, Spoil); 7] = [
        ("damaged", false, |old| old),
        ("not decodable", true, |old| StoredSnapshot { state: b"{}".to_vec(), ..old }),
        ("ahead of the log", true, |old| StoredSnapshot { version: Version(9), position: Position(9), ..old }),
        ("ahead of the stream", true, |old| StoredSnapshot { version: Version(4), ..old }),
        ("another event", true, |old| StoredSnapshot { event: Uuid::from_u128(1), ..old }),
        ("the same event, recorded again", true, |old| {
            let recorded_at = Timestamp::from_micros(old.recorded_at.as_micros() - 1);
            StoredSnapshot { recorded_at, ..old }
        }),
        ("another shape", true, |old| StoredSnapshot { shape: 1, ..old }),
    ];
    for (what, sum, spoil) in &all {
        let world = world().await;
        let store = &world.store;
        let id = with_three(store).await;
        let good = stored(&world, "tally-t").await;
        assert!((good.version, good.position, good.is_whole()) == (Version(3), Position(3), true));
        let wrong = StoredSnapshot { state: br#"{"sum":-77,"trail":[-77]}"#.to_vec(), ..good.clone() };
        replace(&world, spoil(wrong), *sum).await;
        assert_eq!(seen(store.load(&id)).await, ((6, vec![1, 3, 6]), Version(3), Position(3)), "{what}");
        assert_eq!((store.snapshot_counts().ignored, store.snapshot_counts().used), (1, 0), "{what}");
        store.finish_snapshots().await;
        assert_eq!(stored(&world, "tally-t").await, good, "{what}");
        store.load(&id).await?;
        assert_eq!((store.snapshot_counts().ignored, store.snapshot_counts().used), (1, 1), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn n1_a_moment_before_the_snapshot_is_no_fault_of_it() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let id = with_three(store).await;
    assert_eq!(store.load(&id).at(Version(2)).await?.sum, 3);
    assert_eq!(store.load(&id).at_position(Position(1)).await?.sum, 1);
    assert_eq!(store.load(&id).as_of(Timestamp::MIN).await?.sum, 0);
    let counts = store.snapshot_counts();
    assert_eq!((counts.used, counts.ignored), (0, 0));
    assert_eq!(store.load(&id).at(Version(3)).await?.sum, 6);
    assert_eq!(store.load(&id).at_position(Position(3)).await?.sum, 6);
    assert_eq!(store.snapshot_counts().used, 2);
    Ok(())
}

#[tokio::test]
async fn n1_histories_and_what_had_occurred_are_made_of_events_only() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let id = with_three(store).await;
    let now = world.noon().await;
    assert_eq!(store.load(&id).occurred_by(now).await?.sum, 6);
    assert_eq!(store.load((&id, Id::<Tally>::from("u"))).occurred_by(now).await?.state.0.sum, 6);
    let history: Vec<_> = store.history(&id).map_ok(|(_, tally)| tally.sum).try_collect().await?;
    assert_eq!(history, [1, 3, 6]);
    assert_eq!((store.snapshot_counts().used, store.snapshot_counts().taken), (0, 1));
    Ok(())
}

/// A tally and two clubs, of which one has a snapshot ahead of the other: (1 + 2 + 3), (1 + 2), (10 + 20 + 30).
async fn tally_and_clubs(world: &World) -> (Id<Tally>, Id<Club>, Id<Club>) {
    let store = &world.store;
    let (tally, x, y) = (with_three(store).await, Id::<Club>::from("x"), Id::<Club>::from("y"));
    for (club, amounts) in [(&x, [1, 2].as_slice()), (&y, &[10, 20, 30])] {
        let added = amounts.iter().map(|&amount| Added { amount, club: Some(club.clone()) });
        store.append(Id::<Tally>::from("clubs"), Expected::Any, added).await.unwrap();
        store.snapshot(club).await.unwrap();
    }
    (tally, x, y)
}

#[tokio::test]
async fn n1_each_part_of_a_tuple_begins_at_its_own_snapshot() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (tally, x, y) = tally_and_clubs(&world).await;
    let used = || store.snapshot_counts().used;
    let plain = (Id::<PlainTally>::from("t"), Id::<PlainClub>::from("x"), Id::<PlainClub>::from("y"));
    let all = seen(store.load((&tally, &x, &y))).await;
    assert_eq!((&all, used()), (&seen(store.load(&plain)).await, 3));
    assert_eq!((all.1, all.2), (Version(8), Position(8)));
    // A part that has none is read with the others that have none.
    store.load((&plain.0, &y, &plain.1)).await?;
    assert_eq!(used(), 4);
    // Up to a moment before one of them was taken.
    let early = seen(store.load((&tally, &x, &y)).at_position(Position(6))).await;
    assert_eq!((&early, used()), (&seen(store.load(&plain).at_position(Position(6))).await, 6));
    // An event in two parts counts for each.
    let both = Added { amount: 5, club: Some(y.clone()) };
    store.append(&tally, Expected::Any, [both]).await?;
    assert_eq!(store.load((&tally, &y)).await?.version, Version(8));
    assert_eq!(store.load((&plain.0, &plain.2)).await?.version, Version(8));

    // One that is spoiled is ignored, counted, and replaced; the other is used.
    store.finish_snapshots().await;
    let before = store.snapshot_counts();
    let good = stored(&world, "tally-t").await;
    replace(&world, StoredSnapshot { state: b"{}".to_vec(), ..good.clone() }, true).await;
    let again = seen(store.load((&y, &tally))).await;
    assert_eq!(again, seen(store.load((&plain.2, &plain.0))).await);
    let counts = store.snapshot_counts();
    assert_eq!((counts.used - before.used, counts.ignored - before.ignored), (1, 1));
    store.finish_snapshots().await;
    store.load(&tally).await?;
    assert_eq!(store.snapshot_counts().ignored, counts.ignored, "it was replaced");
    Ok(())
}

#[tokio::test]
async fn n1_the_parts_of_a_tuple_are_read_up_to_the_same_position() -> Result<(), Any> {
    let world = world().await;
    let (tally, x, y) = tally_and_clubs(&world).await;
    let intruding = || {
        let (x, y) = (x.clone(), y.clone());
        Store::from(Between::new(&world.inner).let_in_after_read(move |store| async move {
            let both = [x, y].map(|club| Added { amount: 1_000, club: Some(club) });
            store.append(Id::<Tally>::from("t"), Expected::Any, both).await.unwrap();
        }))
    };
    // What came after the first part was read, no part has seen.
    let head = world.store.head().await?;
    let clubs = seen(intruding().load((&x, &y))).await;
    assert_eq!(clubs, (((3, vec![1, 3]), (60, vec![10, 30, 60])), Version(5), head));
    let head = world.store.head().await?;
    let three = seen(intruding().load((&tally, &x, Id::<PlainClub>::from("y")))).await;
    assert_eq!((three.0.0.0, three.0.1.0, three.0.2.0, three.2), (2_006, 1_003, 1_060, head));

    // So whoever decides on it is told.
    let add = |club: &Id<Club>| Add { amount: 1, club: Some(club.clone()) };
    let late = intruding().execute((&x, &y), add(&x)).retries(0).await;
    let Err(CommandError::Conflict(conflict)) = late else { panic!("{late:?}") };
    assert_eq!((conflict.stream.as_str(), conflict.between), ("tally-t", vec!["tally.added".into()]));
    let late = intruding().execute((&tally, &y), add(&y)).retries(0).await;
    assert!(matches!(late, Err(CommandError::Conflict(_))), "{late:?}");
    let done = intruding().execute((&tally, &y), add(&y)).await?;
    let plain = (Id::<PlainTally>::from("t"), Id::<PlainClub>::from("y"));
    assert_eq!((done.state.trail(), done.version), {
        let (trail, version, _) = seen(world.store.load(plain)).await;
        (trail, version)
    });
    Ok(())
}

#[tokio::test]
async fn n1_whoever_began_at_a_snapshot_loses_the_same_races() -> Result<(), Any> {
    let world = world().await;
    let tally = with_three(&world.store).await;
    let club = Id::<Club>::from("x");
    let in_club = move |amount| Added { amount, club: Some("x".into()) };
    world.store.append(Id::<Tally>::from("other"), Expected::Any, (1..=3).map(in_club)).await?;
    world.store.snapshot(&club).await?;

    // The stream has moved on since it was read.
    let store: Store = Between::new(&world.inner)
        .let_in(
            |store| async move { _ = store.append(Id::<Tally>::from("t"), Expected::Any, [added(4)]).await.unwrap() },
        )
        .into();
    let late = store.execute(&tally, add(1)).retries(0).await;
    let Err(CommandError::Conflict(conflict)) = late else { panic!("{late:?}") };
    assert_eq!((conflict.expected, conflict.actual), (Expected::Version(Version(3)), Version(4)));
    let again = store.execute(&tally, add(1)).await?;
    assert_eq!((again.state.trail[3], again.version), (10, Version(6)));
    let stale = store.execute(&tally, add(1)).expecting(Version(3)).await;
    assert!(matches!(stale, Err(CommandError::Conflict(_))), "{stale:?}");

    // Something with the tag has come since it was read.
    let store: Store = Between::new(&world.inner)
        .let_in(move |store| async move {
            _ = store.append(Id::<Tally>::from("far"), Expected::Any, [in_club(4)]).await.unwrap()
        })
        .into();
    let join = || Add { amount: 1, club: Some("x".into()) };
    let late = store.execute(&club, join()).retries(0).await;
    let Err(CommandError::Conflict(conflict)) = late else { panic!("{late:?}") };
    assert_eq!((conflict.stream.as_str(), conflict.actual), ("tally-far", Version(1)));
    assert_eq!(store.execute(&club, join()).await?.version, Version(6));
    assert!(store.snapshot_counts().used >= 2);
    Ok(())
}

#[tokio::test]
async fn n1_a_state_given_back_is_made_of_its_own_events_only() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let club = Id::<Club>::from("x");
    // It decides what does not concern it: those are no events of its own, nor of its snapshot.
    for n in 0..3 {
        let done = store.execute(&club, add(2)).command_id(Uuid::from_u128(n)).await?;
        assert_eq!((done.events.len(), done.state.sum, done.version), (2, 0, Version(0)));
        let again = store.execute(&club, add(2)).command_id(Uuid::from_u128(n)).await?;
        assert_eq!((again.events.len(), again.state.sum, again.version), (2, 0, Version(0)));
    }
    store.finish_snapshots().await;
    assert_eq!(world.inner.snapshots("Club", 9).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn snapshots_are_taken_when_the_aggregate_says() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let taken = async || {
        store.finish_snapshots().await;
        store.snapshot_counts().taken
    };
    let id = Id::<Tally>::from("t");
    store.append(&id, Expected::Any, [added(1), added(1)]).await?;
    store.load(&id).await?;
    assert_eq!(taken().await, 0);
    store.execute(&id, add(2)).await?;
    assert_eq!((taken().await, stored(&world, "tally-t").await.version), (1, Version(3)));
    store.append(&id, Expected::Any, [Doubled, Doubled]).await?;
    store.load(&id).await?;
    assert_eq!(taken().await, 1, "two have come since");
    store.append(&id, Expected::Any, [Doubled]).await?;
    store.load(&id).at(Version(6)).await?;
    assert_eq!(taken().await, 1, "a look back takes none");
    assert!(store.execute(&id, add(13)).await.is_err());
    assert_eq!((taken().await, stored(&world, "tally-t").await.version), (2, Version(6)), "a refusal has loaded, too");

    store.load(Id::<SlowTally>::from("t")).await?;
    assert_eq!(taken().await, 3);
    store.load(Id::<SlowTally>::from("t")).await?;
    assert_eq!(taken().await, 3, "nothing has come since");

    let by_hand = Id::<HandTally>::from("t");
    store.load(&by_hand).await?;
    assert_eq!(taken().await, 3);
    let kept = store.snapshot(&by_hand).await?;
    assert_eq!((kept.sum, kept.version, taken().await), (store.load(&id).await?.sum, Version(6), 4));
    store.snapshot(&by_hand).await?;
    store.snapshot(Id::<HandTally>::from("nothing")).await?;
    assert_eq!(taken().await, 4, "it is there already; and there is nothing to keep");

    store.snapshot(every::<Tally>()).await?;
    assert_eq!(world.inner.snapshots("Tally", 9).await?, ["tally*", "tally-t"]);
    Ok(())
}

#[tokio::test]
async fn a_command_over_a_tuple_takes_the_snapshots_of_its_parts() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (tally, club) = (Id::<Tally>::from("t"), Id::<Club>::from("x"));
    let in_club = |amount| Added { amount, club: Some("x".into()) };
    store.append(&tally, Expected::Any, [added(1), in_club(1), in_club(1)]).await?;
    let done = store.execute((&tally, &club), Add { amount: 0, club: Some(club.clone()) }).await?;
    assert_eq!((done.events.len(), done.version), (2, Version(9)));
    store.finish_snapshots().await;
    let last = done.events[1].id;
    for (boundary, kind, version) in [("tally-t", "Tally", 5), ("club:x", "Club", 4)] {
        let kept = world.inner.snapshot(boundary, kind).await?.expect("a snapshot");
        assert_eq!((kept.version, kept.position, kept.event), (Version(version), Position(5), last), "{boundary}");
    }
    store.load((&tally, &club)).await?;
    let counts = store.snapshot_counts();
    assert_eq!((counts.used, counts.taken, counts.ignored, counts.failed), (2, 2, 0, 0));
    Ok(())
}

#[tokio::test]
async fn n2_snapshots_that_fail_never_fail_a_command() -> Result<(), Any> {
    let world = world().await;
    let gate = Arc::new(Semaphore::new(0));
    gate.close();
    let store: Store = Between::new(&world.inner).gated(&gate).into();
    let id = Id::<Tally>::from("t");
    store.append(&id, Expected::Any, [added(1), added(1)]).await?;
    assert_eq!(store.execute(&id, add(2)).await?.version, Version(3));
    store.finish_snapshots().await;
    assert_eq!(store.load(&id).await?.version, Version(3));
    store.finish_snapshots().await;
    let counts = store.snapshot_counts();
    assert_eq!((counts.failed, counts.ignored, counts.taken, counts.used), (2, 2, 0, 0));
    let by_hand = store.snapshot(&id).await;
    assert!(matches!(by_hand, Err(StoreError::Unavailable(_))), "who asks is told");
    Ok(())
}

#[tokio::test]
async fn n2_a_snapshot_is_written_though_nobody_waits_for_it() -> Result<(), Any> {
    let world = world().await;
    let gate = Arc::new(Semaphore::new(0));
    let store: Store = Between::new(&world.inner).gated(&gate).into();
    let id = Id::<Tally>::from("t");
    store.append(&id, Expected::Any, [added(1), added(1)]).await?;
    // The answer is there before the snapshot is, and its future is gone.
    store.execute(&id, add(2)).await?;
    assert!(store.finish_snapshots().now_or_never().is_none());
    assert_eq!(world.inner.snapshot("tally-t", "Tally").await?, None);
    // Meanwhile others go on; one snapshot is on its way, and that is enough.
    for _ in 0..3 {
        assert_eq!(store.load(&id).await?.sum, 6);
    }
    gate.add_permits(9);
    store.finish_snapshots().await;
    assert_eq!(stored(&world, "tally-t").await.version, Version(3));
    assert_eq!(store.snapshot_counts().taken, 1);
    Ok(())
}

#[tokio::test]
async fn n2_an_older_snapshot_that_comes_late_changes_nothing() -> Result<(), Any> {
    let world = world().await;
    let gate = Arc::new(Semaphore::new(0));
    let slow: Store = Between::new(&world.inner).gated(&gate).into();
    let id = Id::<Tally>::from("t");
    world.store.append(&id, Expected::Any, (1..=3).map(added)).await?;
    slow.load(&id).await?;
    world.store.append(&id, Expected::Any, [Doubled]).await?;
    world.store.snapshot(&id).await?;
    gate.add_permits(9);
    slow.finish_snapshots().await;
    assert_eq!(stored(&world, "tally-t").await.version, Version(4));
    assert_eq!((slow.snapshot_counts().taken, slow.snapshot_counts().failed), (0, 0));
    assert_eq!(slow.load(&id).await?.sum, 12);
    Ok(())
}

#[tokio::test]
async fn n2_commands_dropped_at_any_moment_leave_nothing_wrong() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let id = Id::<Tally>::from("t");
    for polls in 0..60 {
        // Of three amounts two record something, whatever the sum is.
        let mut command = Box::pin(store.execute(&id, add(polls % 3)).into_future());
        for _ in 0..polls {
            if (&mut command).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    for amount in 0..12 {
        store.execute(&id, add(amount)).await?;
        // While one is on its way, no other is taken.
        store.finish_snapshots().await;
    }
    let taken = store.snapshot_counts().taken;
    assert!(taken > 0, "of a dozen commands that were not dropped, none has kept a snapshot");
    assert_eq!(seen(store.load(&id)).await, seen(store.load(Id::<PlainTally>::from("t"))).await);
    let kept = stored(&world, "tally-t").await;
    assert!(store.load(&id).await?.version.0 - kept.version.0 < 3, "the last of them is not kept: {:?}", kept.version);
    let counts = store.snapshot_counts();
    assert!(counts.used >= 2, "no load has begun at a snapshot: {counts:?}");
    assert_eq!((counts.failed, counts.ignored), (0, 0));
    Ok(())
}

#[tokio::test]
async fn snapshots_that_are_not_what_their_events_make_are_found() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    for key in ["a", "b", "c", "d"] {
        store.append(Id::<Tally>::from(key), Expected::Any, (1..=3).map(added)).await?;
        store.snapshot(Id::<Tally>::from(key)).await?;
    }
    store.snapshot(every::<Tally>()).await?;
    let verified = store.verify_snapshots::<Tally>(10).await?;
    assert_eq!((verified.compared, verified.unfit, &verified.differences[..]), (5, 0, &[][..]));

    // `evolve` was another one when it was taken: nothing but the state shows it.
    let state = br#"{"sum":7,"trail":[1,3,7]}"#.to_vec();
    replace(&world, StoredSnapshot { state, ..stored(&world, "tally-b").await }, true).await;
    replace(&world, StoredSnapshot { state: vec![], ..stored(&world, "tally-c").await }, false).await;
    replace(&world, StoredSnapshot { event: Uuid::nil(), ..stored(&world, "tally-d").await }, true).await;
    let verified = store.verify_snapshots::<Tally>(10).await?;
    assert_eq!((verified.compared, verified.unfit), (3, 2));
    let [difference] = &verified.differences[..] else { panic!("{verified:?}") };
    assert_eq!((&*difference.boundary, difference.version, difference.position), ("tally-b", Version(3), Position(6)));
    assert_eq!(difference.kept, r#"{"sum":7,"trail":[1,3,7]}"#);
    assert_eq!(difference.refolded, r#"{"sum":6,"trail":[1,3,6]}"#);
    assert_eq!(store.verify_snapshots::<Tally>(2).await?.differences, [], "only the latest");
    assert_eq!(store.verify_snapshots::<PlainTally>(10).await?.compared, 0);
    Ok(())
}

#[derive(Aggregate, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[aggregate(name = "tally", snapshot = 1)]
struct Unwritable {
    ratio: f64,
}

impl Evolve for Unwritable {
    type Event = TallyEvent;
    fn evolve(&mut self, _: TallyEvent) {
        self.ratio = f64::NAN;
    }
}

#[derive(Aggregate, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[aggregate(name = "tally", snapshot = 1)]
struct OneWay {
    #[serde(skip_serializing_if = "Vec::is_empty")] // and no default
    trail: Vec<i64>,
}

impl Evolve for OneWay {
    type Event = TallyEvent;
    fn evolve(&mut self, _: TallyEvent) {}
}

/// Keeps a snapshot without being asked and begins at it, whatever the store is like otherwise.
pub async fn kept_and_used(store: &Store) -> Result<(), Any> {
    let id = with_three(store).await;
    assert_eq!(store.load(&id).await?.sum, 6);
    let counts = store.snapshot_counts();
    assert_eq!((counts.taken, counts.used, counts.failed), (1, 1, 0));
    assert_eq!(store.verify_snapshots::<Tally>(9).await?.compared, 1);
    Ok(())
}

#[tokio::test]
async fn a_snapshot_is_kept_and_used() -> Result<(), Any> {
    kept_and_used(&world().await.store).await
}

#[tokio::test]
async fn n2_a_state_that_cannot_be_written_or_read_back_is_not_kept() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let id = Id::<Unwritable>::from("t");
    store.append(&id, Expected::Any, [Doubled]).await?;
    assert!(store.load(&id).await?.ratio.is_nan());
    store.finish_snapshots().await;
    assert_eq!(store.snapshot_counts().failed, 1);
    assert!(matches!(store.snapshot(&id).await, Err(StoreError::Snapshot { kind, .. }) if kind == "Unwritable"));
    assert_eq!(world.inner.snapshots("Unwritable", 9).await?, [""; 0]);
    store.load(Id::<OneWay>::from("t")).await?;
    store.finish_snapshots().await;
    assert_eq!((store.snapshot_counts().failed, store.snapshot_counts().taken), (2, 0));
    assert_eq!(world.inner.snapshots("OneWay", 9).await?, [""; 0]);
    Ok(())
}

#[test]
fn n1_rules_are_tried_with_a_snapshot_after_every_event() {
    Tally::survives_snapshots([added(1), Doubled, added(-5)]);
}

#[derive(Aggregate, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[aggregate(name = "tally", snapshot = 1)]
struct Forgetful {
    last: Last,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
struct Last {
    #[serde(skip)]
    doubled: bool,
}

impl Evolve for Forgetful {
    type Event = TallyEvent;
    fn evolve(&mut self, event: TallyEvent) {
        self.last.doubled = event == Doubled;
    }
}

#[test]
#[should_panic(expected = "after event 2")]
fn n1_a_state_that_forgets_is_found() {
    Forgetful::survives_snapshots([added(1), Doubled]);
}
