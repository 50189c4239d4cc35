//! Sagas and commands by derive.

use eventstore::{
    Command, Commands, Event, EventError, Evolve, Instances, Plan, React, Recorded, Saga, StartFrom, Steps,
    process::Process, step,
};
use serde::{Deserialize, Serialize};

#[derive(Event, Clone, Debug, PartialEq)]
enum DoorEvent {
    Opened {
        #[event(tag = "guest")]
        guest: String,
    },
    Shut,
}

macro_rules! reacts {
    ($($state:ty)*) => {
        $(
            impl Evolve for $state {
                type Event = DoorEvent;

                fn evolve(&mut self, _: DoorEvent) {}
            }

            impl React for $state {
                fn react(&self, _: &Recorded<DoorEvent>) -> Commands {
                    Commands::none()
                }
            }
        )*
    };
}
reacts!(Watch Guest Door Counted r#Loop);

#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
struct Watch;

#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(name = "guests_2", tag = "guest", from = "beginning", version = 3, upcast(1 => guest_v1, 2 => Self::from_v2))]
enum Guest {
    #[default]
    Away,
    Inside {
        since: u32,
    },
    #[saga(end)]
    Gone(u8),
    #[saga(end)]
    Banned,
}

fn guest_v1(inside: bool) -> Guest {
    if inside { Guest::Inside { since: 1 } } else { Guest::Away }
}

impl Guest {
    fn from_v2(since: u32) -> Self {
        Self::Inside { since }
    }
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(stream, from = "now")]
struct Door {
    shut: bool,
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(key = parity, end = Counted::is_full)]
struct Counted {
    count: u32,
}

impl Counted {
    fn is_full(&self) -> bool {
        self.count > 9
    }
}

fn parity(event: &Recorded<DoorEvent>) -> Option<String> {
    (event.position.0 > 1).then(|| (event.position.0 % 2).to_string())
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
struct r#Loop {
    r#type: u8,
}

#[derive(Saga, Serialize, Deserialize, Clone)]
#[saga(steps, stream, version = 2, upcast(1 => tour_v1))]
struct Tour {
    guest: String,
}

fn tour_v1(guest: String) -> Tour {
    Tour { guest }
}

impl Steps for Tour {
    type Event = DoorEvent;

    fn begin(event: &Recorded<DoorEvent>) -> Option<Self> {
        match &event.data {
            DoorEvent::Opened { guest } => Some(Self { guest: guest.clone() }),
            DoorEvent::Shut => None,
        }
    }

    fn steps(&self) -> Plan<DoorEvent> {
        Plan::new().all([step("look", Commands::none())])
    }

    fn ended(&self, _: &eventstore::End) -> Commands {
        Commands::none()
    }
}

#[test]
fn a_saga_is_called_by_its_type_unless_it_says_otherwise() {
    assert_eq!((Watch::NAME, Guest::NAME, r#Loop::NAME, Tour::NAME), ("watch", "guests_2", "loop", "tour"));
    assert_eq!((Watch::VERSION, Guest::VERSION, Tour::VERSION), (1, 3, 2));
    assert_eq!((Watch::FROM, Guest::FROM, Door::FROM), (None, Some(StartFrom::Beginning), Some(StartFrom::Now)));
}

#[test]
fn a_saga_says_which_instances_there_are() {
    assert!(matches!(Watch::KEYS, Instances::Correlation));
    assert!(matches!(Guest::KEYS, Instances::Tag("guest")));
    assert!(matches!((Door::KEYS, Tour::KEYS), (Instances::Stream, Instances::Stream)));
    let Instances::By(function) = Counted::KEYS else { panic!("a function") };
    assert!(std::ptr::fn_addr_eq(function, parity as fn(&Recorded<DoorEvent>) -> Option<String>));
}

#[test]
fn a_saga_says_when_it_is_over() {
    let ends = [Guest::Away, Guest::Inside { since: 1 }, Guest::Gone(1), Guest::Banned].map(|guest| guest.is_over());
    assert_eq!(ends, [false, false, true, true]);
    assert_eq!([9, 10].map(|count| Counted { count }.is_over()), [false, true]);
    assert!(!Watch.is_over());
}

#[test]
fn g9_states_of_earlier_versions_are_read() {
    let read = |version, state: &str| Guest::decode(version, state.as_bytes());
    assert_eq!(read(1, "true").expect("version 1"), Guest::Inside { since: 1 });
    assert_eq!(read(2, "7").expect("version 2"), Guest::Inside { since: 7 });
    assert_eq!(read(3, r#"{"Gone":3}"#).expect("version 3"), Guest::Gone(3));
    assert!(matches!(read(4, "0"), Err(EventError::Schema(name, 4)) if name == "guests_2"));
    assert!(matches!(read(1, "7"), Err(EventError::Body(_))));
    assert!(matches!(Watch::decode(2, b"null"), Err(EventError::Schema(..))));
    assert_eq!(Tour::decode(1, br#""ann""#).expect("version 1").guest, "ann");
}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct OpenDoor {
    guest: String,
}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "house.ring", version = 2, upcast(1 => ring_v1))]
enum Ring {
    Once,
    Often(u8),
}

fn ring_v1(times: u8) -> Ring {
    if times < 2 { Ring::Once } else { Ring::Often(times) }
}

#[test]
fn a_command_has_a_stored_name_and_its_earlier_versions_are_read() {
    assert_eq!((OpenDoor::NAME, OpenDoor::VERSION, Ring::NAME, Ring::VERSION), ("open_door", 1, "house.ring", 2));
    assert_eq!(Ring::decode(1, b"3").expect("version 1"), Ring::Often(3));
    assert_eq!(Ring::decode(2, br#""Once""#).expect("version 2"), Ring::Once);
    assert!(matches!(Ring::decode(3, b"0"), Err(EventError::Schema(name, 3)) if name == "house.ring"));
    assert!(OpenDoor::decode(1, b"{}").is_err());
}

#[test]
fn an_event_concerns_the_instances_that_its_saga_says() {
    use eventstore::testing::When;
    let door = eventstore::StreamId::new("door", "d1");
    let opened = || DoorEvent::Opened { guest: "ann".into() };
    Watch::when(&door, opened()).then_nothing();
    assert_eq!(<Guest as Saga>::Process::default().name(), "guests_2");
}
