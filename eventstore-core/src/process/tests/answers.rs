//! Trees of commands, with every combination of results.

use std::{collections::BTreeMap, time::Duration};

use super::{Book, Off, On, answering, event, hours, lamp};
use crate::{
    Commands, Invalid, Timestamp, ask, cancel,
    process::{
        Answer, Answering, Known, Outcome, Script, Todo, Told, Trigger,
        commands::Node,
        walk::{Arm, TimerChange},
    },
    send,
};

/// The simplest model of an answer: the result of each command is known at once.
struct Spoken<'a> {
    answers: &'a dyn Fn(&str) -> bool,
    sent: Vec<String>,
    timers: Vec<String>,
}

impl Spoken<'_> {
    /// Returns whether a command was refused.
    fn speak(&mut self, node: &Node, place: &str) -> bool {
        let child = |n: usize| if place.is_empty() { n.to_string() } else { format!("{place}.{n}") };
        match node {
            Node::Nothing => false,
            Node::Send(_) => {
                self.sent.push(place.into());
                !(self.answers)(place)
            }
            Node::All(nodes) => {
                let refused: Vec<_> = nodes.iter().enumerate().map(|(n, node)| self.speak(node, &child(n))).collect();
                refused.contains(&true)
            }
            Node::Else(nodes) => nodes.iter().enumerate().all(|(n, node)| self.speak(node, &child(n))),
            Node::Then(nodes) => nodes.iter().enumerate().any(|(n, node)| self.speak(node, &child(n))),
            Node::Later(_) => {
                self.timers.push(format!("arm {place}"));
                false
            }
            Node::Cancel(name) => {
                self.timers.push(format!("cancel {name}"));
                false
            }
            Node::Within(_, node) => self.speak(node, place),
        }
    }
}

fn spoken(commands: &Commands, answers: &dyn Fn(&str) -> bool) -> (Vec<String>, Vec<String>, bool) {
    let mut spoken = Spoken { answers, sent: vec![], timers: vec![] };
    let refused = spoken.speak(&commands.0, "");
    (spoken.sent, spoken.timers, refused)
}

fn timers(outcome: &Outcome) -> Vec<String> {
    let change = |change: &TimerChange| match change {
        TimerChange::Arm(Arm { place, .. }) => format!("arm {place}"),
        TimerChange::Cancel(name) => format!("cancel {name}"),
    };
    outcome.timers.iter().map(change).collect()
}

/// Returns all trees of up to four leaves, as users build them.
fn trees() -> Vec<Commands> {
    let leaves = || [send(lamp("a"), On(1)), send(lamp("b"), On(2)).after(hours(1)), cancel("x")];
    let joined = |trees: &[Commands]| {
        let mut all = vec![];
        for first in trees {
            for second in trees {
                all.push(first.clone().and(second.clone()));
                all.push(first.clone().or(second.clone()));
                all.push(first.clone().then(second.clone()));
            }
        }
        all
    };
    let mut trees = leaves().to_vec();
    trees.extend(joined(&leaves()));
    let mut all = trees.clone();
    all.extend(joined(&trees));
    all
}

/// Completes an answer, with a new `Answering` made of the known results for each command. Returns the places in order.
fn drive(commands: &Commands, answers: &dyn Fn(&str) -> bool) -> (Vec<(String, bool)>, Outcome) {
    let mut known = Known::new();
    let mut sent = vec![];
    loop {
        let mut answering = answering(commands.clone()).with(known);
        let Some(todo) = answering.todo() else {
            return (sent, answering.outcome().expect("all is answered"));
        };
        let Todo::Send(_, delivery) = todo else { panic!("a mark without a refusal") };
        assert!(answering.outcome().is_none());
        let place = delivery.place.clone();
        answering.told(if answers(&place) { Told::Recorded } else { Told::Refused(format!("no {place}")) });
        let guarded = match answering.todo() {
            Some(Todo::Mark(mark, marked)) => {
                assert_eq!((mark.place.as_str(), marked.id), (place.as_str(), delivery.id));
                answering.told(Told::Recorded);
                true
            }
            _ => false,
        };
        sent.push((place, guarded));
        known = answering.known().clone();
    }
}

#[test]
fn g2_every_small_tree_in_every_way_of_being_answered() {
    let (mut driven, mut most) = (0, 0);
    for tree in trees() {
        let (all, ..) = spoken(&tree, &|_| true);
        let mut ways = vec![BTreeMap::new()];
        // The places reached differ between the ways: at the first place without a result, the way is split in two.
        while let Some(way) = ways.pop() {
            let way: BTreeMap<String, bool> = way;
            let missing = std::cell::RefCell::new(None);
            let answers = |place: &str| {
                way.get(place).copied().unwrap_or_else(|| {
                    missing.borrow_mut().get_or_insert_with(|| place.to_owned());
                    true
                })
            };
            let (sent, armed, refused) = spoken(&tree, &answers);
            if let Some(place) = missing.into_inner() {
                for answer in [true, false] {
                    let mut way = way.clone();
                    way.insert(place.clone(), answer);
                    ways.push(way);
                }
                continue;
            }
            driven += 1;
            most = most.max(sent.len());
            let answers = |place: &str| way[place];
            let (places, outcome) = drive(&tree, &answers);
            assert_eq!(places.iter().map(|(place, _)| place.clone()).collect::<Vec<_>>(), sent, "{tree:?}");
            assert_eq!(timers(&outcome), armed, "{tree:?}");
            assert_eq!(outcome.refused.is_some(), refused, "{tree:?}");
            // A refusal must be recorded by a mark if another result would change the rest of the answer.
            for (place, guarded) in places.iter().filter(|(place, _)| !way[place]) {
                let otherwise =
                    |other: &str| if other == place { true } else { way.get(other).copied().unwrap_or(true) };
                let (other_sent, other_armed, _) = spoken(&tree, &otherwise);
                assert!(*guarded || (other_sent == sent && other_armed == armed), "{place} of {tree:?}");
            }
        }
        assert!(all.len() <= 4);
    }
    assert!(driven > 5_000 && most == 4, "{driven} ways, up to {most} commands");
}

/// Tells the results one after the other.
fn after(commands: Commands, told: &[Told]) -> Answering {
    let mut answering = answering(commands);
    told.iter().for_each(|told| answering.told(told.clone()));
    answering
}

#[test]
fn g2_the_log_decides_between_a_command_and_its_mark() {
    let either = || send(lamp("a"), On(1)).or(send(lamp("b"), On(2)));
    let refused = || Told::Refused("no".into());
    let place = |answering: &Answering| match answering.todo() {
        Some(Todo::Send(_, delivery)) => format!("send {}", delivery.place),
        Some(Todo::Mark(mark, _)) => format!("mark {}", mark.place),
        Some(Todo::LookUp(_)) | None => String::new(),
    };
    assert_eq!(place(&after(either(), &[refused()])), "mark 0");
    assert_eq!(place(&after(either(), &[refused(), Told::Recorded])), "send 1");
    // Another node was first: with the command, or with a mark of other words.
    assert_eq!(place(&after(either(), &[refused(), Told::Taken])), "send 0");
    assert_eq!(place(&after(either(), &[refused(), Told::Taken, Told::Recorded])), "");
    let marked = after(either(), &[refused(), Told::Taken, Told::Marked(Some("full".into()))]);
    assert_eq!((place(&marked), marked.known()["0"].clone()), ("send 1".into(), Answer::Refused("full".into())));
    // There was nothing to do: a mark records that if other commands depend on it.
    assert_eq!(place(&after(either(), &[Told::Nothing])), "mark 0");
    assert_eq!(place(&after(either(), &[Told::Nothing, Told::Recorded])), "");
    assert_eq!(place(&after(either(), &[Told::Marked(None)])), "");
    let alone = after(send(lamp("a"), On(1)), &[Told::Nothing]);
    assert_eq!((place(&alone), alone.known().len()), (String::new(), 1));
    let told = after(send(lamp("a"), On(1)), &[refused()]);
    assert_eq!((place(&told), told.outcome().and_then(|outcome| outcome.refused)), (String::new(), Some("no".into())));
}

#[test]
fn g1_ids_depend_on_all_that_tells_one_command_from_another() {
    let id = |process: &'static str, key: &str, part: u32, due: Option<Timestamp>, place: &str| {
        let trigger = Trigger { event: event(1, super::LampEvent::SwitchedOn).with(()), part, due };
        let script = Script::commands(Commands::none());
        Answering::new(process, key.into(), trigger, script).expect("an answer").command_id(place)
    };
    let first = id("lamps", "l1", 0, None, "0");
    assert_eq!(first, id("lamps", "l1", 0, None, "0"));
    let due = Some(Timestamp::from_micros(5_000));
    let others = [
        id("lamp", "l1", 0, None, "0"),
        id("lamps", "l2", 0, None, "0"),
        id("lamps", "l1", 1, None, "0"),
        id("lamps", "l1", 0, None, "1"),
        id("lamps", "l1", 0, due, "0"),
    ];
    assert!(!others.contains(&first));
}

#[test]
fn a_delayed_command_keeps_its_alternative_and_its_successor() {
    let (a, b) = (|| send(lamp("a"), On(1)), || send(lamp("b"), On(2)));
    assert_eq!(a().after(hours(1)).or(b()), a().or(b()).after(hours(1)));
    assert_eq!(a().after(hours(1)).named("x").then(b()), a().then(b()).after(hours(1)).named("x"));
    assert_ne!(a().after(hours(1)).and(b()), a().and(b()).after(hours(1)));
    // Joined lists become one list, regardless of the order of joining.
    assert_eq!(a().and(b()).and(a()), a().and(b().and(a())));
    assert_eq!(a().or(b()).or(a()), a().or(b().or(a())));
    assert_eq!([a(), b(), a()].into_iter().collect::<Commands>(), a().and(b()).and(a()));
    // Empty commands stay empty.
    let none = Commands::none;
    assert_eq!((none().and(a()), a().and(none())), (a(), a()));
    assert_eq!((none().or(a()), none().then(a()), a().then(none())), (none(), a(), a()));
    assert_eq!((none().after(hours(1)), none().within(hours(1)), a().named("x")), (none(), none(), a()));
    assert_ne!(a(), send(lamp("a"), On(2)));
    assert_ne!(a(), send(lamp("b"), On(1)));
    assert_ne!(send(lamp("a"), Off), send(lamp("b"), Off));
}

#[test]
fn commands_are_printed_as_they_are_written() {
    let said = send((lamp("a"), lamp("b")), On(1))
        .or(ask("grid", Book { watts: 60 }).within(hours(1)).then(send(lamp("c"), Off)))
        .and(send(lamp("d"), On(2)).at(Timestamp::from_micros(0)).named("night"))
        .and(cancel("day"))
        .and(crate::publish(crate::StreamId::new("out", "1"), super::LampEvent::SwitchedOff));
    assert_eq!(
        format!("{said:?}"),
        "send((lamp-a, lamp-b), On(1)).or(ask(\"grid\", Book { watts: 60 }).within(3600s).then(send(lamp-c, Off)))\
         .and(send(lamp-d, On(2)).at(1970-01-01T00:00:00Z).named(\"night\")).and(cancel(\"day\"))\
         .and(publish(out-1, SwitchedOff))"
    );
    assert_eq!(
        format!("{:#?}", send(lamp("a"), On(1)).or(send(lamp("b"), On(2)).and(send(lamp("c"), Off)))),
        "send(lamp-a, On(1))\n    .or(send(lamp-b, On(2))\n        .and(send(lamp-c, Off)))"
    );
    assert_eq!(format!("{:?}", Commands::none()), "none()");
}

#[test]
fn a11_an_answer_over_a_limit_is_refused_before_anything_is_sent() {
    let refused = |commands: Commands| {
        let trigger = Trigger { event: event(1, super::LampEvent::SwitchedOn).with(()), part: 0, due: None };
        Answering::new("lamps", "l1".into(), trigger, Script::commands(commands)).err()
    };
    let many = |n: u32| (0..n).map(|n| send(lamp("a"), On(n))).collect::<Commands>();
    assert_eq!(refused(many(10_000)), None);
    assert!(matches!(refused(many(10_001)), Some(Invalid::TooLarge { size: 10_001, limit: 10_000, .. })));
    let deep = |n: u32| {
        let next = |deep: Commands, n: u32| match n % 2 {
            0 => deep.or(send(lamp("a"), On(n))),
            _ => deep.then(send(lamp("a"), On(n))),
        };
        (0..n).fold(send(lamp("a"), On(0)), next)
    };
    assert_eq!(refused(deep(64)), None);
    assert!(matches!(refused(deep(65)), Some(Invalid::TooLarge { what: "the depth of an answer", .. })));
    let name = |commands: Commands| matches!(refused(commands), Some(Invalid::Name { .. }));
    assert!(name(send(lamp("a"), Off).after(hours(1)).named("at night")));
    assert!(name(cancel("")));
    assert!(name(ask("The Grid", Book { watts: 1 })));
    assert!(!name(ask("the.grid_2", Book { watts: 1 }).within(Duration::ZERO)));
}

#[test]
fn what_a_timer_says_is_found_by_its_place() {
    let said = |commands: &Commands, place: &str| commands.due(place).map(|(due, root)| (due.to_string(), root));
    let (a, b) = (|| send(lamp("a"), On(1)), || send(lamp("b"), On(2)));
    let found = |text: &str, root: &str| Some((text.to_owned(), root.to_owned()));
    let one = a().after(hours(1));
    assert_eq!(said(&one, ""), found("send(lamp-a, On(1))", "0"));
    let inner = a().and(b().after(hours(2))).after(hours(1));
    assert_eq!(said(&inner, "0.1"), found("send(lamp-b, On(2))", "0.1.0"));
    let branches = a().or(b().after(hours(1))).and(b());
    assert_eq!(said(&branches, "0.1"), found("send(lamp-b, On(2))", "0.1.0"));
    for nowhere in ["0", "1", "0.0", "0.2", "7", "x", "0.1.0", "late", "0.late"] {
        assert_eq!(said(&branches, nowhere), None, "{nowhere}");
    }
    // If a message is not answered in time, the alternatives are those of the nearest `or`.
    let late = ask("grid", Book { watts: 1 }).within(hours(1)).or(a()).or(b());
    assert_eq!(said(&late, "0.late"), found("send(lamp-a, On(1)).or(send(lamp-b, On(2)))", ""));
    let nested = ask("grid", Book { watts: 1 }).within(hours(1)).and(b()).or(a()).then(b());
    assert_eq!(said(&nested, "0.0.0.late"), found("send(lamp-a, On(1))", "0"));
    assert_eq!(said(&ask("grid", Book { watts: 1 }).within(hours(1)), "late"), None, "there is no alternative");
}

#[test]
fn a_message_that_is_not_answered_in_time_has_an_alternative() {
    let late = ask("grid", Book { watts: 1 }).within(hours(1)).or(send(lamp("a"), On(1)));
    let todo = answering(late.clone()).todo();
    let Some(Todo::Send(_, delivery)) = todo else { panic!("{todo:?}") };
    assert_eq!(delivery.expires, Some(Timestamp::default() + hours(2)), "an hour after the event");
    let outcome = after(late.clone(), &[Told::Recorded]).outcome().expect("answered");
    let [TimerChange::Arm(arm)] = &outcome.timers[..] else { panic!("{:?}", outcome.timers) };
    assert_eq!((&*arm.place, &arm.awaits[..], &*arm.was), ("0.late", &["0".to_owned()][..], "send(lamp-a, On(1))"));
    // The command sent then has the place, and so the id, that it has after a refusal.
    let trigger = Trigger { event: event(1, super::LampEvent::SwitchedOn).with(()), part: 0, due: None };
    let fired = Answering::new("lamps", "l1".into(), trigger, Script::due(late, "0.late").expect("a timer"));
    let Some(Todo::Send(_, fired)) = fired.expect("an answer").todo() else { panic!("nothing is sent") };
    assert_eq!(fired.place, "1");
}
