//! Random histories: what a store answers is what the model in memory answers, whoever else writes.

use std::{collections::HashMap, sync::Arc};

use eventstore::{
    Append, Condition, EventStore, Events, Expected, Item, MemoryStore, NewEvent, Position, Query, Raw, Read, Recorded,
    StoreError, StreamId, Tag, Version, Write, Written,
};
use futures::{TryStreamExt, future::join_all};
use uuid::Uuid;

use crate::cases::{raw, world};

/// Numbers that look random and are the same for the same seed. <https://prng.di.unimi.it/splitmix64.c>
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    fn tag(&mut self) -> Tag {
        Tag::new("seat", self.one(&["a", "b", "c", "d"]))
    }

    fn event(&mut self) -> NewEvent {
        let mut event = raw(self.one(&["taken", "left", "noted"]), b"{}");
        event.id = Uuid::from_u64_pair(self.next(), self.next());
        event.data.tags = (0..self.below(3)).map(|_| self.tag()).collect();
        event.data.tags.dedup();
        event
    }

    fn stream(&mut self) -> StreamId {
        StreamId::new(self.one(&["hall", "room"]), self.one(&["1", "2", "3"]))
    }

    /// Something to append, by somebody who has seen the log up to here.
    fn append(&mut self, seen: Position, versions: &HashMap<StreamId, Version>) -> Append {
        let mut append = Append::default();
        for _ in 0..=self.below(3) / 2 {
            let stream = self.stream();
            if append.writes.iter().any(|write| write.stream == stream) {
                continue;
            }
            let version = versions.get(&stream).copied().unwrap_or_default();
            let expected = match self.below(8) {
                0..3 => Expected::Any,
                3 => Expected::Exists,
                4 => Expected::Version(Version(self.below(4))),
                _ => Expected::Version(version),
            };
            let events = (0..=self.below(3)).map(|_| self.event()).collect();
            append.writes.push(Write { stream, expected, events });
        }
        if self.below(4) == 0 {
            let stream = self.stream();
            append.unchanged.push((stream.clone(), versions.get(&stream).copied().unwrap_or_default()));
        }
        if self.below(3) == 0 {
            let mut items = vec![];
            for _ in 0..=self.below(2) {
                let names =
                    if self.below(2) == 0 { vec![] } else { vec![self.one(&["taken", "left", "never"]).into()] };
                let tags = (0..self.below(3)).map(|_| self.tag()).collect();
                items.push(Item { names, tags, ..Item::default() });
            }
            let after = Position(seen.0.saturating_sub(self.below(5)));
            append.condition = Some(Condition { query: Query { items }, after });
        }
        append
    }
}

/// The outcome, but for the time.
fn told(outcome: Result<Written, StoreError>) -> String {
    match outcome {
        Ok(Written { streams, first, last, replayed, .. }) => format!("{streams:?} {first:?} {last:?} {replayed}"),
        Err(error) => format!("{error:?}"),
    }
}

async fn whole(store: &dyn EventStore) -> Vec<Recorded<Raw>> {
    let Events { events, .. } = store.read(Read { query: Query::all(), ..Read::default() }).await.unwrap();
    events.try_collect().await.unwrap()
}

fn note(versions: &mut HashMap<StreamId, Version>, written: &Written) {
    versions.extend(written.streams.iter().cloned());
}

#[tokio::test]
async fn a4_one_after_the_other_every_answer_is_that_of_the_model() {
    let (world, model) = (world().await, MemoryStore::new());
    let mut dice = Dice(2026);
    let mut versions = HashMap::new();
    let mut recorded: Vec<Append> = vec![];
    let (mut kept, mut refused) = (0, 0);
    for _ in 0..400 {
        let seen = Position(whole(&model).await.len() as u64);
        let append = match dice.below(10) {
            0 if !recorded.is_empty() => recorded[usize::try_from(dice.below(recorded.len() as u64)).unwrap()].clone(),
            1 if !recorded.is_empty() => {
                let mut twisted = recorded[usize::try_from(dice.below(recorded.len() as u64)).unwrap()].clone();
                twisted.writes[0].events[0].data.body = b"[]".to_vec();
                twisted
            }
            _ => dice.append(seen, &versions),
        };
        if dice.below(12) == 0 {
            let mut transaction = world.inner.begin().await.unwrap();
            let _ = transaction.append(append).await;
            transaction.rollback().await.unwrap();
            continue;
        }
        let ours = world.inner.append(append.clone()).await;
        let theirs = model.append(append.clone()).await;
        match &theirs {
            Ok(written) => {
                note(&mut versions, written);
                recorded.push(append.clone());
                kept += 1;
            }
            Err(_) => refused += 1,
        }
        assert_eq!(told(ours), told(theirs), "{append:?}");
    }
    assert!(kept > 100 && refused > 50, "{kept} kept, {refused} refused: the dice are loaded");
    let places = |log: Vec<Recorded<Raw>>| {
        log.into_iter().map(|event| (event.id, event.stream, event.version, event.position)).collect::<Vec<_>>()
    };
    assert_eq!(places(whole(&*world.inner).await), places(whole(&model).await));
}

/// Whoever writes at once with others: what the log says is what the model says if it is told in that order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_all_at_once_every_answer_is_right_at_its_place() {
    let world = world().await;
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = tokio::spawn({
        let (store, over) = (world.inner.clone(), over.clone());
        async move {
            let mut seen = Position(0);
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let read = Read { query: Query::all(), after: seen, ..Read::default() };
                let mut events = store.read(read).await.unwrap().events;
                while let Some(event) = events.try_next().await.unwrap() {
                    assert_eq!(event.position.0, seen.0 + 1, "no event is skipped, none comes twice");
                    seen = event.position;
                }
                tokio::task::yield_now().await;
            }
        }
    });
    let writers = (0..8).map(|writer| {
        let store = world.inner.clone();
        tokio::spawn(async move {
            let mut dice = Dice(writer);
            let mut versions = HashMap::new();
            let mut told: Vec<(Append, Option<Result<Written, StoreError>>)> = vec![];
            for _ in 0..60 {
                let seen = store.read(Read { query: Query::all(), limit: Some(0), ..Read::default() }).await.unwrap();
                let append = match told.last() {
                    Some((again, _)) if dice.below(8) == 0 => again.clone(),
                    _ => dice.append(seen.head, &versions),
                };
                if dice.below(10) == 0 {
                    let patience = std::time::Duration::from_micros(dice.below(2_000));
                    let outcome = tokio::time::timeout(patience, store.append(append.clone())).await.ok();
                    told.push((append, outcome));
                    continue;
                }
                let outcome = store.append(append.clone()).await;
                match &outcome {
                    Ok(written) => note(&mut versions, written),
                    Err(StoreError::Conflict(conflict)) => {
                        versions.insert(conflict.stream.clone(), conflict.actual);
                    }
                    Err(_) => {}
                }
                told.push((append, Some(outcome)));
            }
            told
        })
    });
    let told: Vec<_> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    reader.await.unwrap();

    let log = whole(&*world.inner).await;
    let places: HashMap<Uuid, usize> = log.iter().enumerate().map(|(place, event)| (event.id, place)).collect();
    let mut by_place = HashMap::new();
    for (append, outcome) in &told {
        let first = append.events().next().unwrap().1.id;
        let place = places.get(&first);
        let at = place.and_then(|&place| append.replay(&log[place..]));
        match outcome {
            Some(Ok(written)) => {
                let at = at.as_ref().expect("what was acknowledged is in the log, whole");
                assert_eq!((&written.streams, written.first, written.last), (&at.streams, at.first, at.last));
            }
            Some(Err(StoreError::Conflict(_))) | None => {}
            Some(Err(error)) => panic!("{error:?}"),
        }
        if let Some(at) = at {
            by_place.insert(at.first, append.clone());
        }
    }
    let model = MemoryStore::new();
    let mut next = Position(1);
    while next.0 <= log.len() as u64 {
        let append = by_place.remove(&next).expect("every event in the log was asked for, with all of its append");
        let written =
            model.append(append.clone()).await.unwrap_or_else(|error| panic!("{error:?} at {next:?}: {append:?}"));
        assert_eq!(written.first, next);
        next = Position(written.last.0 + 1);
    }
    assert!(log.len() > 100, "{} events: the dice are loaded", log.len());
}
