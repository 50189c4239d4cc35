//! When snapshots are taken, and the fingerprint of what they are.

use std::{collections::HashSet, time::Duration};

use eventstore::{Aggregate, Event, Evolve, SnapshotPolicy};
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
#[event(prefix = "door", retired("door.painted"))]
enum DoorEvent {
    #[event(version = 3, alias = "door.unlocked", upcast(1 => from_v1, 2 => from_v1))]
    Opened {
        wide: bool,
    },
    Shut,
}

#[derive(Event, Clone)]
#[event(transparent)]
enum HouseEvent {
    Door(DoorEvent),
}

#[derive(Deserialize)]
struct V1 {}

fn from_v1(V1 {}: V1) -> DoorEvent {
    DoorEvent::Opened { wide: false }
}

#[test]
fn an_event_says_in_which_version_each_name_is_written() {
    assert_eq!(DoorEvent::NAMES, ["door.opened", "door.unlocked", "door.shut", "door.painted"]);
    assert_eq!(DoorEvent::SCHEMAS, [3, 3, 1, 0]);
    assert_eq!((HouseEvent::NAMES, HouseEvent::SCHEMAS), (DoorEvent::NAMES, DoorEvent::SCHEMAS));
}

/// The same state each time, but for one thing.
macro_rules! doors {
    ($($module:ident: $event:ty, $(#[$attribute:meta])* { $($fields:tt)* })*) => {
        $(mod $module {
            use super::*;

            #[derive(Aggregate, Serialize, Deserialize)]
            $(#[$attribute])*
            pub(super) struct Door {
                $($fields)*
            }

            impl Evolve for Door {
                type Event = $event;

                fn evolve(&mut self, _: $event) {}
            }
        })*
    };
}
doors! {
    first: DoorEvent, #[aggregate(snapshot = 100)] { open: bool, width: Option<u32> }
    // From here on each has a fingerprint of its own.
    other_field: DoorEvent, #[aggregate(snapshot = 100)] { opened: bool, width: Option<u32> }
    other_type: DoorEvent, #[aggregate(snapshot = 100)] { open: bool, width: Option<u64> }
    other_version: DoorEvent, #[aggregate(snapshot(every = 100, version = 2))] { open: bool, width: Option<u32> }
    other_serde: DoorEvent, #[aggregate(snapshot = 100)] { open: bool, #[serde(default)] width: Option<u32> }
    slow: DoorEvent, #[aggregate(snapshot(slow = "5ms"))] { open: bool, width: Option<u32> }
    by_hand: DoorEvent, #[aggregate(snapshot(by_hand,))] { open: bool, width: Option<u32> }
    never: DoorEvent, { open: bool }
}

fn take<A: Aggregate>() -> Option<SnapshotPolicy> {
    A::SNAPSHOT.map(|snapshot| snapshot.take)
}

fn shape<A: Aggregate>() -> u64 {
    A::SNAPSHOT.expect("snapshots").shape
}

#[test]
fn snapshots_are_taken_when_it_says() {
    assert_eq!(take::<first::Door>(), Some(SnapshotPolicy::Every(100)));
    assert_eq!(take::<other_version::Door>(), Some(SnapshotPolicy::Every(100)));
    assert_eq!(take::<slow::Door>(), Some(SnapshotPolicy::Slow(Duration::from_millis(5))));
    assert_eq!(take::<by_hand::Door>(), Some(SnapshotPolicy::ByHand));
    assert_eq!(take::<never::Door>(), None);
    assert_eq!(first::Door::SNAPSHOT.map(|snapshot| snapshot.kind), Some("Door"));
}

#[test]
fn n1_a_fingerprint_is_the_same_on_every_compiler() {
    assert_eq!(shape::<first::Door>(), 0xc7f0_87da_34f9_44c4);
}

#[test]
fn n1_a_fingerprint_sees_fields_types_attributes_version_and_place() {
    let shapes = [
        shape::<first::Door>(),
        shape::<other_field::Door>(),
        shape::<other_type::Door>(),
        shape::<other_version::Door>(),
        shape::<other_serde::Door>(),
        shape::<slow::Door>(),
    ];
    assert_eq!(HashSet::from(shapes).len(), shapes.len());
}

#[test]
fn a_state_is_kept_as_json() {
    let snapshot = first::Door::SNAPSHOT.expect("snapshots");
    let written = br#"{"open":true,"width":null}"#;
    let door = (snapshot.load)(written).expect("it can be read");
    assert_eq!((snapshot.save)(&door).expect("it can be written"), written);
    assert!((snapshot.load)(b"{}").is_err());
}
