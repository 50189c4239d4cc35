//! Instances: their rows, their timers, and events that cannot be answered.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Book, Lamp, LampEvent, Off, On, event, hours, lamp};
use crate::{
    Commands, Evolve, Id, React, Reacting, Reactor, Recorded, SagaStatus, Timestamp, ask, cancel, limits,
    process::{
        Change, FIRING, Item, Parked, Process, Stateless, StoredInstance, Terms, Todo, Told, Turn, TurnResult, heard_in,
    },
    send,
};

/// A lamp that burns for three hours is switched off; a broken lamp is given up.
#[derive(eventstore::Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(crate = crate, stream, end = is_broken, version = 2, upcast(1 => from_v1))]
struct Night {
    burning: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
}

fn is_broken(night: &Night) -> bool {
    night.broken.is_some()
}

#[derive(Deserialize)]
struct NightV1 {
    on: u8,
}

fn from_v1(NightV1 { on }: NightV1) -> Night {
    assert!(on < 2, "the first version had no other state");
    Night { burning: on == 1, broken: None }
}

impl Evolve for Night {
    type Event = LampEvent;

    fn evolve(&mut self, event: LampEvent) {
        match event {
            LampEvent::SwitchedOn => self.burning = true,
            LampEvent::SwitchedOff => self.burning = false,
            LampEvent::Broke { reason } => self.broken = Some(reason),
        }
    }
}

impl React for Night {
    fn react(&self, event: &Recorded<LampEvent>) -> Commands {
        let lamp = Id::<Lamp>::from(event.stream.key());
        match &event.data {
            LampEvent::SwitchedOn => send(&lamp, Off).after(hours(3)).named("off"),
            LampEvent::SwitchedOff => cancel("off"),
            LampEvent::Broke { reason } if reason == "panic" => panic!("no rule for that"),
            LampEvent::Broke { .. } => send(super::lamp("spare"), On(1)).or(send(super::lamp("other"), On(2))),
        }
    }
}

fn process() -> Arc<Reacting<Night>> {
    Arc::default()
}

fn terms(hours: u64) -> Terms {
    Terms { now: at(hours), keep_finished: Some(super::hours(24)) }
}

fn at(hours: u64) -> Timestamp {
    Timestamp::default() + super::hours(hours)
}

fn turn(row: Option<StoredInstance>, events: impl IntoIterator<Item = Recorded<LampEvent>>) -> Turn<Reacting<Night>> {
    let items = events.into_iter().map(|event| Item::Event(event, 0));
    let mut turn = Turn::new(&process(), "l1", row, items, false, terms(0));
    if let Some(Todo::LookUp(_)) = turn.todo() {
        turn.told(Told::Over(false));
    }
    turn
}

/// Completes a turn whose commands are all accepted.
fn accepted<P: Process>(mut turn: Turn<P>) -> TurnResult<P::Event> {
    while turn.todo().is_some() {
        turn.told(Told::Recorded);
    }
    turn.result()
}

fn put<E>(result: TurnResult<E>) -> StoredInstance {
    let Change::Put(row) = result.change else { panic!("{:?}", result.change) };
    assert!(result.waiting.is_empty(), "{:?}", result.parked);
    *row
}

fn on(position: u64) -> Recorded<LampEvent> {
    event(position, LampEvent::SwitchedOn)
}

fn off(position: u64) -> Recorded<LampEvent> {
    event(position, LampEvent::SwitchedOff)
}

fn broke(position: u64, reason: &str) -> Recorded<LampEvent> {
    event(position, LampEvent::Broke { reason: reason.into() })
}

#[test]
fn g3_a_row_has_state_timers_and_what_was_heard() {
    let row = put(accepted(turn(None, [on(1)])));
    assert_eq!((&*row.state, row.version, row.status), (r#"{"burning":true}"#, 2, SagaStatus::Running));
    assert_eq!((row.position.0, row.heard.len(), row.started_at, row.changed_at), (1, 1, at(1), at(1)));
    assert_eq!((row.due, &*row.timers[0].was, row.timers[0].fired), (Some(at(4)), "send(lamp-l1, Off)", 0));
    assert_eq!(row.timers[0].state, None, "the state every instance begins with");
    // Arming the timer again replaces the one of this name, and keeps the state before the event.
    let row = put(accepted(turn(Some(row), [on(2)])));
    assert_eq!((row.timers.len(), row.due), (1, Some(at(5))));
    assert_eq!(row.timers[0].state, Some((2, r#"{"burning":true}"#.into())));
    // An instance in the state of one without events has no row.
    assert_eq!(accepted(turn(Some(row.clone()), [off(3)])).change, Change::Delete);
    // An event that changes nothing and has an empty answer writes nothing.
    struct Deaf;

    impl Reactor for Deaf {
        const NAME: &'static str = "deaf";
        type Event = LampEvent;

        fn react(&self, _: &Recorded<LampEvent>) -> Commands {
            Commands::none()
        }
    }
    let deaf = Turn::new(&Arc::new(Stateless(Deaf)), "l1", None, [Item::Event(on(1), 0)], false, terms(0));
    assert!(deaf.is_over());
    assert_eq!(deaf.result().change, Change::None);
    assert_eq!(accepted(turn(None, [on(1), off(2)])).change, Change::None, "in one batch it is as if it never was");
}

#[test]
fn g10_what_is_over_hears_nothing_and_has_no_timers() {
    let row = put(accepted(turn(None, [on(1), broke(2, "glass")])));
    assert_eq!((row.status, row.timers.len()), (SagaStatus::Finished, 0));
    assert_eq!(row.due, Some(at(26)), "it is forgotten a day after");
    assert!(!row.is_forgotten(at(25)) && row.is_forgotten(at(26)));
    // It has no timer to be claimed, and is forgotten all the same by a node that looks for one first.
    let mut claimed = row.clone();
    assert_eq!((claimed.claim(at(26)).len(), claimed.is_forgotten(at(26))), (0, true));
    let deaf = turn(Some(row.clone()), [on(3), broke(4, "wire")]);
    assert!(deaf.is_over());
    assert_eq!(deaf.result().change, Change::None);
    // A timer that has fired before the end is answered.
    let mut row = put(accepted(turn(None, [on(1)])));
    let claimed = row.claim(at(4));
    let row = put(accepted(turn(Some(row), [broke(2, "glass")])));
    assert_eq!((row.status, row.timers.len(), row.due), (SagaStatus::Finished, 1, Some(at(4) + FIRING)));
    let items = [Item::Timer(claimed[0].clone(), Some(on(1)))];
    let mut fired = Turn::new(&process(), "l1", Some(row), items, false, terms(5));
    let Some(Todo::Send(sending, _)) = fired.todo() else { panic!("{:?}", fired.todo()) };
    assert_eq!(format!("{sending:?}"), "send(lamp-l1, Off)");
    fired.told(Told::Recorded);
    let row = put(fired.result());
    assert_eq!((row.timers.len(), row.due), (0, Some(at(5) + hours(24))));
}

#[test]
fn g10_a_key_whose_instance_was_over_and_is_forgotten_does_not_begin_again() {
    let new = || Turn::new(&process(), "l1", None, [Item::Event(on(1), 0), Item::Event(on(2), 0)], false, terms(0));
    let mut turn = new();
    assert!(matches!(turn.todo(), Some(Todo::LookUp(_))));
    turn.told(Told::Over(true));
    assert!(turn.is_over());
    assert_eq!(turn.result().change, Change::None);
    let mut turn = new();
    turn.told(Told::Over(false));
    assert_eq!(put(accepted(turn)).heard.len(), 2, "and it is looked up once");
    // If the key is a conversation, it never comes back.
    struct Once;

    impl Reactor for Once {
        const NAME: &'static str = "once";
        type Event = LampEvent;

        fn react(&self, _: &Recorded<LampEvent>) -> Commands {
            send(lamp("l1"), Off)
        }
    }
    let once = Turn::new(&Arc::new(Stateless(Once)), "l1", None, [Item::Event(on(1), 0)], false, terms(0));
    assert!(matches!(once.todo(), Some(Todo::Send(..))));
}

#[test]
fn m2_of_cancel_and_fire_one_wins() {
    let armed = put(accepted(turn(None, [on(1)])));
    // If the timer is cancelled first, there is nothing to fire.
    let mut cancelled = put(accepted(turn(Some(armed.clone()), [off(2), broke(3, "")])));
    assert_eq!(cancelled.claim(at(9)), []);
    // If the timer fires first, nothing cancels it, neither its name nor arming it again.
    let mut fired = armed;
    let claimed = fired.claim(at(4));
    assert_eq!((claimed.len(), fired.timers[0].fired, fired.timers[0].due), (1, 1, at(4)), "the due instant stays");
    let row = put(accepted(turn(Some(fired.clone()), [off(2)])));
    assert_eq!(row.timers.len(), 1);
    let row = put(accepted(turn(Some(fired.clone()), [on(2)])));
    assert_eq!(row.timers.iter().map(|timer| timer.fired).collect::<Vec<_>>(), [1, 0]);
    // The timer does not fire before it is due, and fires again a minute after it was claimed, if it was not answered.
    assert_eq!(fired.clone().claim(at(4) + Duration::from_secs(59)), []);
    assert_eq!(fired.claim(at(4) + FIRING), claimed);
}

#[test]
fn m1_a_timer_is_answered_with_the_state_before_its_event_and_under_ids_of_its_own() {
    let mut row = put(accepted(turn(None, [on(1)])));
    let claimed = row.claim(at(4));
    let fire = |row: &StoredInstance| {
        Turn::new(&process(), "l1", Some(row.clone()), [Item::Timer(claimed[0].clone(), Some(on(1)))], false, terms(5))
    };
    let (Some(Todo::Send(_, first)), Some(Todo::Send(_, again))) = (fire(&row).todo(), fire(&row).todo()) else {
        panic!("nothing is sent")
    };
    assert_eq!((first.id, &*first.place, first.event.id), (again.id, "0", on(1).id));
    assert_eq!(first.id.as_bytes()[..6], (at(4).as_micros() as u64 / 1_000).to_be_bytes()[2..]);
    let done = put(accepted(fire(&row)));
    assert_eq!((done.timers.len(), done.due, &*done.state), (0, None, r#"{"burning":true}"#));
    // A timer that was removed meanwhile sends nothing.
    let gone = StoredInstance { timers: vec![], ..row.clone() };
    assert!(fire(&gone).is_over());
    // If the code has no timer at that place any more, the timer is parked, with the text of its commands.
    row.timers[0].place = "3".into();
    let mut moved = row.clone();
    let claimed = {
        moved.timers[0].next = Some(at(4));
        moved.claim(at(4))
    };
    let parked =
        Turn::new(&process(), "l1", Some(moved), [Item::Timer(claimed[0].clone(), Some(on(1)))], false, terms(5));
    let parked = put(parked.result());
    assert_eq!((parked.status, parked.due), (SagaStatus::Parked, None));
    assert!(parked.error.is_some_and(|error| error.contains("send(lamp-l1, Off)")));
}

#[test]
fn g6_what_cannot_be_answered_waits_with_what_is_behind_it() {
    let row = put(accepted(turn(None, [on(1)])));
    let result = accepted(turn(Some(row.clone()), [broke(2, "panic"), off(3)]));
    let parked = Parked { reason: "it panicked: no rule for that".into(), later: false };
    assert_eq!(result.parked, Some(parked));
    assert_eq!(result.waiting.iter().map(|(event, _)| event.position.0).collect::<Vec<_>>(), [2, 3]);
    let Change::Put(waits) = result.change else { panic!("{:?}", result.change) };
    assert_eq!(
        (waits.status, &waits.state, waits.timers.len()),
        (SagaStatus::Parked, &row.state, 1),
        "as it was before"
    );
    // Later events wait without being answered.
    let items = [Item::Event(off(4), 0)];
    let behind = Turn::new(&process(), "l1", Some(*waits.clone()), items.clone(), true, terms(0));
    assert!(behind.is_over());
    let behind = behind.result();
    assert_eq!((behind.waiting.len(), behind.parked, behind.change), (1, None, Change::None));
    // Once the event can be answered, the status follows from the state again.
    assert_eq!(accepted(turn(Some(*waits), [off(3)])).change, Change::Delete);
}

#[test]
fn g6_a_conflict_waits_and_what_was_answered_is_not_lost() {
    let mut turn = turn(None, [on(1), broke(2, "glass")]);
    assert!(matches!(turn.todo(), Some(Todo::Send(..))));
    let later = Parked { reason: "others were faster".into(), later: true };
    turn.failed(later.clone());
    assert!(turn.is_over());
    let result = turn.result();
    assert_eq!((result.parked, result.waiting.len()), (Some(later), 1));
    let Change::Put(row) = result.change else { panic!("{:?}", result.change) };
    assert_eq!((&*row.state, row.heard.len(), row.timers.len()), (r#"{"burning":true}"#, 1, 1));
    // A timer that fails waits alone, longer each time, and holds up nothing else.
    let mut row = put(accepted(self::turn(None, [on(1)])));
    let claimed = row.claim(at(4));
    for (fired, pause) in [(1, 1), (2, 2), (3, 4), (20, 300)] {
        row.timers[0].fired = fired;
        let items = [Item::Timer(claimed[0].clone(), Some(on(1))), Item::Event(off(2), 0)];
        let mut turn = Turn::new(&process(), "l1", Some(row.clone()), items, false, terms(5));
        turn.failed(Parked { reason: "others were faster".into(), later: true });
        let row = put(accepted(turn));
        assert_eq!((row.timers[0].next, row.position.0), (Some(at(5) + Duration::from_secs(pause)), 2));
    }
}

#[test]
fn g9_a_state_of_an_earlier_version_is_read_and_one_of_a_later_version_waits() {
    let old = StoredInstance { state: r#"{"on":1}"#.into(), ..StoredInstance::new("l1") };
    let row = put(accepted(turn(Some(old.clone()), [on(2)])));
    assert_eq!((&*row.state, row.version), (r#"{"burning":true}"#, 2));
    assert_eq!(row.timers[0].state, Some((1, r#"{"on":1}"#.into())), "as it was written");
    let reason = |row: StoredInstance| {
        let result = turn(Some(row.clone()), [on(2)]).result();
        let Change::Put(parked) = result.change else { panic!("{:?}", result.change) };
        assert_eq!((parked.status, parked.state), (SagaStatus::Parked, row.state));
        result.parked.expect("parked").reason
    };
    let newer = StoredInstance { version: 3, ..old.clone() };
    assert!(reason(newer).contains("version 3 of `night` is newer than this program"));
    assert!(reason(StoredInstance { state: "{}".into(), ..old.clone() }).contains("missing field `on`"));
    assert!(reason(StoredInstance { state: r#"{"on":2}"#.into(), ..old }).contains("it panicked"));
}

#[test]
fn e7_an_event_that_is_several_is_heard_part_by_part() {
    struct Keys;

    impl Reactor for Keys {
        const NAME: &'static str = "keys";
        type Event = LampEvent;

        fn react(&self, _: &Recorded<LampEvent>) -> Commands {
            send(lamp("x"), Off)
        }
    }
    let ids: Vec<_> = (0..3)
        .map(|part| {
            let turn = Turn::new(&Arc::new(Stateless(Keys)), "l1", None, [Item::Event(on(1), part)], false, terms(0));
            let Some(Todo::Send(_, delivery)) = turn.todo() else { panic!("nothing is sent") };
            delivery.id
        })
        .collect();
    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 3);
    let raw = crate::encode::stored(&LampEvent::SwitchedOn).expect("written").0;
    let raw = raw.stamp(Uuid::from_u128(1), &crate::Metadata::default(), None);
    let raw = raw.recorded(crate::StreamId::new("lamp", "l7"), crate::Version(1), crate::Position(1), at(1));
    let all = heard_in(&*process(), &raw).expect("read");
    assert_eq!(all.iter().map(|heard| (&*heard.key, heard.part)).collect::<Vec<_>>(), [("l7", 0)]);
    assert_eq!(process().keys_unread(&raw), Some(vec!["l7".into()]));
    // Where what has the key is damaged, no instance is named: a made-up one would be passed over without a word.
    use crate::process::Instances;
    let damaged = || raw.clone().damaged("tags");
    assert_eq!(Instances::<LampEvent>::Tag("lamp").keys_unread(&damaged()), None);
    assert_eq!(Instances::<LampEvent>::Correlation.keys_unread(&damaged()), None);
    assert_eq!(Instances::<LampEvent>::Stream.keys_unread(&damaged()), Some(vec!["l7".into()]));
    let mut nowhere = raw.clone();
    nowhere.stream = crate::StreamId::new("?", "l7");
    assert_eq!(Instances::<LampEvent>::Stream.keys_unread(&nowhere), None);
    let turns = Turn::all(&process(), all, HashMap::new(), |_| false, terms(0));
    assert_eq!(turns.iter().map(Turn::key).collect::<Vec<_>>(), ["l7"]);
}

#[test]
fn a_message_that_is_answered_needs_no_alternative() {
    struct Books;

    impl Reactor for Books {
        const NAME: &'static str = "books";
        type Event = LampEvent;

        fn react(&self, event: &Recorded<LampEvent>) -> Commands {
            match event.data {
                LampEvent::SwitchedOn => {
                    let both = ask("grid", Book { watts: 1 }).and(ask("grid", Book { watts: 2 }));
                    both.within(hours(1)).or(send(lamp("l1"), Off))
                }
                _ => Commands::none(),
            }
        }
    }
    let process = Arc::new(Stateless(Books));
    let turn = |row, event| Turn::new(&process, "l1", row, [Item::Event(event, 0)], false, terms(0));
    let row = put(accepted(turn(None, on(1))));
    let [first, second] = row.timers[0].awaits[..] else { panic!("{:?}", row.timers) };
    let answer = |cause| {
        let mut event = off(2);
        event.metadata.causation_id = Some(cause);
        event
    };
    let row = put(accepted(turn(Some(row), answer(first))));
    assert_eq!(row.timers[0].awaits, [second], "the other one is still waited for");
    assert!(turn(Some(row.clone()), answer(first)).result().change == Change::None, "once is enough");
    // The answer names the event of the message in this log.
    assert_eq!(accepted(turn(Some(row), answer(crate::event_id(second, 0)))).change, Change::Delete);
}

#[test]
fn a11_an_instance_has_so_many_timers_and_so_large_a_state() {
    struct Arms;

    impl Reactor for Arms {
        const NAME: &'static str = "arms";
        type Event = LampEvent;

        fn react(&self, event: &Recorded<LampEvent>) -> Commands {
            (0..400).map(|n| send(lamp("l1"), On(n)).after(hours(event.position.0))).collect()
        }
    }
    let events = (1..=4).map(|position| Item::Event(on(position), 0));
    let result = Turn::new(&Arc::new(Stateless(Arms)), "l1", None, events, false, terms(0)).result();
    assert_eq!(result.waiting.iter().map(|(event, _)| event.position.0).collect::<Vec<_>>(), [3, 4]);
    assert!(result.parked.is_some_and(|parked| parked.reason.contains("1200, and the limit is 1000")));
    let large = broke(1, &"x".repeat(limits::INSTANCE_BYTES));
    let result = accepted(turn(None, [large]));
    assert!(result.parked.is_some_and(|parked| parked.reason.contains("the state and the timers of an instance")));
    // The number of remembered positions is limited.
    let row = put(accepted(turn(None, (1..=1_200).map(on))));
    assert_eq!((row.heard.len(), row.heard[0].0, row.started_at), (1_000, 201, at(1)));
}
