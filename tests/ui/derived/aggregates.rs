//! States before their first event.

use std::collections::BTreeMap;

use eventstore::{Aggregate, Event, Evolve, Id, Refusal};

#[derive(Event, Clone)]
enum DoorEvent {
    Opened {
        #[event(tag = "garden_gate")]
        gate: String,
    },
}

macro_rules! evolve {
    ($($state:ty)*) => {
        $(impl Evolve for $state {
            type Event = DoorEvent;

            fn evolve(&mut self, DoorEvent::Opened { .. }: DoorEvent) {}
        })*
    };
}
evolve!(BackDoor Pair Nothing Light Gate Alone r#Loop);

#[derive(Aggregate, Debug, PartialEq)]
struct BackDoor {
    open: bool,
    #[aggregate(id)]
    id: Id<Self>,
    by_name: BTreeMap<String, Vec<u8>>,
}

#[derive(Aggregate, Debug, PartialEq)]
#[aggregate(name = "two.things_2", error = std::num::ParseIntError)]
struct Pair(u8, #[aggregate(id)] Id<Pair>);

#[derive(Aggregate, Debug, PartialEq)]
struct Nothing;

#[derive(Aggregate, Default, Debug, PartialEq)]
enum Light {
    On,
    #[default]
    Off,
}

#[derive(Aggregate, Debug, PartialEq)]
#[aggregate(by_tag, name = "garden_gate")]
struct Gate {}

#[derive(Aggregate, Debug, PartialEq)]
struct Alone(#[aggregate(id)] Id<Alone>);

#[derive(Aggregate, Debug, PartialEq)]
struct r#Loop {
    r#type: u8,
}

/// Whether an error is what the derive says.
fn refuses_with<A: Aggregate<Error = E>, E>() {}

#[test]
fn every_field_has_its_default_and_the_id_is_the_id() {
    let back = BackDoor { open: false, id: "d1".into(), by_name: BTreeMap::new() };
    assert_eq!(BackDoor::blank(&"d1".into()), back);
    assert_eq!(Pair::blank(&"p1".into()), Pair(0, "p1".into()));
    assert_eq!(Nothing::blank(&"n1".into()), Nothing);
    assert_eq!(Light::blank(&"l1".into()), Light::Off);
    assert_eq!(Gate::blank(&"g1".into()), Gate {});
    assert_eq!(Alone::blank(&"a1".into()), Alone("a1".into()));
    assert_eq!(r#Loop::blank(&"o1".into()), r#Loop { r#type: 0 });
    assert_ne!(Light::On, Light::Off);
}

#[test]
fn an_aggregate_is_called_by_its_type_unless_it_says_otherwise() {
    assert_eq!((BackDoor::NAME, Nothing::NAME, r#Loop::NAME), ("back_door", "nothing", "loop"));
    assert_eq!((Pair::NAME, Gate::NAME), ("two.things_2", "garden_gate"));
    assert_eq!(Id::<BackDoor>::from("d1").stream().as_str(), "back_door-d1");
}

#[test]
fn an_aggregate_is_made_of_its_stream_unless_it_says_by_tag() {
    assert_eq!((BackDoor::BY_TAG, Gate::BY_TAG), (false, true));
}

#[test]
fn an_aggregate_refuses_in_words_unless_it_names_an_error() {
    refuses_with::<BackDoor, Refusal>();
    refuses_with::<Pair, std::num::ParseIntError>();
}
