//! Sagas with steps: forward, back, in time and too late.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{LampEvent, Off, On, event, hours, lamp};
use crate::{
    Commands, End, Plan, Recorded, SagaStatus, Steps, Timestamp,
    process::{Change, Delivery, Item, Sending, StepStatus, Stepping, StoredInstance, Terms, Todo, Told, Turn},
    send, step,
};

/// Switches lamps by a plan; by `SwitchedOn` the step `wait` is done, by `Broke` it has failed.
#[derive(eventstore::Saga, Serialize, Deserialize, Clone, Debug)]
#[saga(crate = crate, steps, stream)]
struct Show {
    plan: String,
    heard: u32,
}

impl Steps for Show {
    type Event = LampEvent;

    fn begin(event: &Recorded<LampEvent>) -> Option<Self> {
        match &event.data {
            LampEvent::Broke { reason } => Some(Self { plan: reason.clone(), heard: 0 }),
            _ => None,
        }
    }

    fn hear(&mut self, _: &LampEvent) {
        self.heard += 1;
    }

    fn steps(&self) -> Plan<LampEvent> {
        let on = |name: &str| send(lamp(name), On(self.heard));
        let off = |name: &str| send(lamp(name), Off);
        let waits = |name: &'static str| {
            step(name, on(name))
                .done(|event| *event == LampEvent::SwitchedOn)
                .failed(|event| matches!(event, LampEvent::Broke { .. }))
                .undo(off(name))
        };
        match &*self.plan {
            "one" => Plan::new().step("one", on("one")),
            "three" => Plan::new()
                .step("one", on("one"))
                .undo(off("one"))
                .all([waits("two").within(hours(1)), step("three", on("three")).undo(off("three"))])
                .deadline(hours(5)),
            "both" => Plan::new().step("one", on("one").and(on("two"))).undo(off("one").and(off("two"))),
            "pivot" => Plan::new().step("one", on("one")).undo(off("one")).pivot().all([
                step("two", on("two")),
                step("wait", on("wait"))
                    .done(|event| *event == LampEvent::SwitchedOn)
                    .failed(|event| matches!(event, LampEvent::Broke { .. }))
                    .within(hours(2)),
            ]),
            "reminder" => Plan::new()
                .step("ask", on("ask").and(on("reminder").after(hours(1)).named("reminder")))
                .done(|event| *event == LampEvent::SwitchedOn),
            "twice" => Plan::new().step("one", on("one")).step("one", on("two")),
            "early" => Plan::new().undo(on("one")),
            "empty" => Plan::new(),
            "name" => Plan::new().step("Not so", on("one")),
            "within" => Plan::new().step("one", on("one")).within(hours(1)),
            "failed" => Plan::new().step("one", on("one")).failed(|_| Some("no".to_owned())),
            "undone" => Plan::new().pivot().step("one", on("one")).undo(off("one")),
            _ => Plan::new().step("other", on("one")),
        }
    }

    fn ended(&self, end: &End) -> Commands {
        match end {
            End::Done => send(lamp("done"), On(self.heard)),
            End::Undone { .. } => send(lamp("undone"), On(self.heard)),
        }
    }
}

fn at(hours: u64) -> Timestamp {
    Timestamp::default() + super::hours(hours)
}

/// An instance, driven from row to row.
#[derive(Default)]
struct Instance {
    row: Option<StoredInstance>,
    position: u64,
    /// The places of the commands sent since the last check; with `!` if refused.
    sent: Vec<String>,
    ids: Vec<(String, uuid::Uuid)>,
    refuse: Vec<&'static str>,
}

impl Instance {
    fn begun(plan: &str) -> Self {
        Self::default().refusing(&[]).hears(LampEvent::Broke { reason: plan.into() })
    }

    fn refusing(mut self, places: &[&'static str]) -> Self {
        self.refuse = places.to_vec();
        self
    }

    fn hears(mut self, data: LampEvent) -> Self {
        self.position += 1;
        let heard = event(self.position, data);
        self.goes(Item::Event(heard, 0))
    }

    /// Fires the timers that are due by this hour, one after the other.
    fn waits(mut self, hour: u64) -> Self {
        let mut row = self.row.clone().expect("a row");
        for timer in row.claim(at(hour)) {
            self.row = Some(row.clone());
            self = self.goes(Item::Timer(timer, None));
            row = self.row.clone().expect("a row");
        }
        self
    }

    fn told_to_go_on(self) -> Self {
        self.goes(Item::Retry(event(1, LampEvent::SwitchedOn)))
    }

    fn goes(mut self, item: Item<LampEvent>) -> Self {
        let process = Arc::<Stepping<Show>>::default();
        let terms = Terms { now: at(100), keep_finished: None };
        let mut turn = Turn::new(&process, "l1", self.row.clone(), [item], false, terms);
        let mut refused = 0;
        while let Some(todo) = turn.todo() {
            turn.told(match &todo {
                Todo::LookUp(_) => Told::Over(false),
                Todo::Mark(..) => Told::Recorded,
                Todo::Send(sending, delivery) => {
                    let told = self.answer(sending, delivery);
                    refused += usize::from(matches!(told, Told::Refused(_)));
                    told
                }
            });
        }
        let result = turn.result();
        assert_eq!((result.parked, result.waiting.len()), (None, 0));
        if let Change::Put(row) = result.change {
            self.row = Some(*row);
        }
        assert!(refused <= 2, "it stops where it is refused");
        self
    }

    fn answer(&mut self, sending: &Sending, delivery: &Delivery) -> Told {
        assert!(sending.stream().is_some_and(|stream| stream.category() == "lamp"));
        self.ids.push((delivery.place.clone(), delivery.id));
        let no = self.refuse.contains(&&*delivery.place);
        self.sent.push(format!("{}{}", delivery.place, if no { "!" } else { "" }));
        if no { Told::Refused("no".into()) } else { Told::Recorded }
    }

    #[track_caller]
    fn stands(self, status: SagaStatus, steps: &[StepStatus], sent: &[&str]) -> Self {
        let row = self.row.as_ref().expect("a row");
        let plan = row.plan.as_ref().expect("a plan");
        assert_eq!(plan.steps.iter().map(|step| step.status).collect::<Vec<_>>(), steps, "{:?}", self.sent);
        assert_eq!((row.status, &self.sent[..]), (status, &sent.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..]));
        Self { sent: vec![], ..self }
    }

    fn timers(&self) -> Vec<(String, Timestamp)> {
        let row = self.row.as_ref().expect("a row");
        row.timers.iter().map(|timer| (timer.place.clone(), timer.due)).collect()
    }

    fn error(&self) -> Option<&str> {
        self.row.as_ref()?.error.as_deref()
    }
}

use SagaStatus::{Compensated, Compensating, Finished, Parked, Running};
use StepStatus::{Done, Failed, Parked as Stuck, Retrying, Sent, Undoing, Undone, Unknown, Waiting};

#[test]
fn steps_go_forward_one_after_the_other_and_side_by_side() {
    let shown = Instance::begun("three").stands(Running, &[Done, Sent, Done], &["step:one", "step:two", "step:three"]);
    assert_eq!(shown.timers(), [("timeout".into(), at(6)), ("timeout:two".into(), at(2))]);
    let shown = shown.hears(LampEvent::SwitchedOff).stands(Running, &[Done, Sent, Done], &[]);
    let shown = shown.hears(LampEvent::SwitchedOn).stands(Finished, &[Done, Done, Done], &["end"]);
    assert_eq!(shown.timers(), []);
    let row = shown.row.clone().expect("a row");
    assert_eq!((&*row.state, row.heard.len()), (r#"{"plan":"three","heard":2}"#, 3));
    shown.hears(LampEvent::SwitchedOn).stands(Finished, &[Done, Done, Done], &[]);
    Instance::begun("one").stands(Finished, &[Done], &["step:one", "end"]);
}

#[test]
fn g7_what_is_done_is_undone_in_the_reverse_order_of_becoming_done() {
    // `three` is done before `two`, and `two` fails.
    Instance::begun("three").hears(LampEvent::Broke { reason: "wire".into() }).stands(
        Compensated,
        &[Undone, Failed, Undone],
        &["step:one", "step:two", "step:three", "undo:three", "undo:one", "end"],
    );
    // After the first failure in a group no further step of it begins, and the plan waits for the steps that have
    // begun.
    Instance::default()
        .refusing(&["step:three"])
        .hears(LampEvent::Broke { reason: "three".into() })
        .stands(Compensating, &[Done, Sent, Failed], &["step:one", "step:two", "step:three!"])
        .hears(LampEvent::SwitchedOn)
        .stands(Compensated, &[Undone, Undone, Failed], &["undo:two", "undo:one", "end"]);
    Instance::default().refusing(&["step:two"]).hears(LampEvent::Broke { reason: "three".into() }).stands(
        Compensated,
        &[Undone, Failed, Waiting],
        &["step:one", "step:two!", "undo:one", "end"],
    );
}

#[test]
fn g7_what_may_be_done_is_undone_too() {
    // A step of two commands: the first is accepted, the second refused.
    let both = Instance::default().refusing(&["step:one.1"]).hears(LampEvent::Broke { reason: "both".into() });
    let sent = ["step:one.0", "step:one.1!", "undo:one.0", "undo:one.1", "end"];
    both.stands(Compensated, &[Undone], &sent);
    let first = Instance::default().refusing(&["step:one.0"]).hears(LampEvent::Broke { reason: "both".into() });
    let sent = ["step:one.0!", "step:one.1", "undo:one.0", "undo:one.1", "end"];
    first.stands(Compensated, &[Undone], &sent);
    let neither = Instance::default().refusing(&["step:one.0", "step:one.1"]);
    let neither = neither.hears(LampEvent::Broke { reason: "both".into() });
    neither.stands(Compensated, &[Failed], &["step:one.0!", "step:one.1!", "end"]);
    // The undo of a late step is sent; the event by which it is done after all changes nothing.
    let late = Instance::begun("three").refusing(&["undo:two"]).waits(2);
    let late = late.stands(Parked, &[Done, Undoing, Done], &["step:one", "step:two", "step:three", "undo:two!"]);
    assert_eq!(late.error(), Some("step `two` cannot be undone: no"));
    let late = late.hears(LampEvent::SwitchedOn).stands(Parked, &[Done, Undoing, Done], &[]);
    let undone = ["undo:two", "undo:three", "undo:one", "end"];
    late.refusing(&[]).told_to_go_on().stands(Compensated, &[Undone, Undone, Undone], &undone);
}

#[test]
fn g7_an_undoing_that_is_refused_stops_there_until_an_operator_goes_on() {
    let stuck = Instance::begun("three").refusing(&["undo:three"]).hears(LampEvent::Broke { reason: "wire".into() });
    let sent = ["step:one", "step:two", "step:three", "undo:three!"];
    let stuck = stuck.stands(Parked, &[Done, Failed, Undoing], &sent);
    assert_eq!(stuck.error(), Some("step `three` cannot be undone: no"));
    let stuck = stuck.hears(LampEvent::SwitchedOff).stands(Parked, &[Done, Failed, Undoing], &[]);
    let stuck = stuck.told_to_go_on().stands(Parked, &[Done, Failed, Undoing], &["undo:three!"]);
    let ids: Vec<_> = stuck.ids.iter().filter(|(place, _)| place == "undo:three").collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "the same command, so it is recorded once");
    let done = stuck.refusing(&[]).told_to_go_on();
    let done = done.stands(Compensated, &[Undone, Failed, Undone], &["undo:three", "undo:one", "end"]);
    assert_eq!(done.error(), None);
}

#[test]
fn the_steps_up_to_the_pivot_have_a_deadline() {
    let late = Instance::begun("three").waits(6);
    // Both timers are due: the step is late first, and then the deadline of the plan changes nothing.
    let undone = ["step:one", "step:two", "step:three", "undo:two", "undo:three", "undo:one", "end"];
    let late = late.stands(Compensated, &[Undone, Undone, Undone], &undone);
    assert_eq!(late.timers(), []);
}

#[test]
fn behind_the_pivot_a_step_is_tried_again_and_never_undone() {
    let mut tried = Instance::begun("pivot").refusing(&["step:two"]);
    tried = Instance { sent: vec![], ..tried };
    assert_eq!(tried.row.as_ref().map(|row| row.status), Some(Running));
    let begun = Instance::default().refusing(&["step:two"]).hears(LampEvent::Broke { reason: "pivot".into() });
    let mut tried = begun.stands(Running, &[Done, Retrying, Sent], &["step:one", "step:two!", "step:wait"]);
    let mut pauses = vec![];
    for _ in 0..7 {
        let (_, due) = tried.timers().into_iter().find(|(place, _)| place == "retry:two").expect("another try");
        pauses.push((due.as_micros() - at(100).as_micros()) / 1_000_000);
        let mut row = tried.row.take().expect("a row");
        row.timers.iter_mut().filter(|timer| timer.place == "retry:two").for_each(|timer| timer.next = Some(at(0)));
        row.timers.iter_mut().filter(|timer| timer.place != "retry:two").for_each(|timer| timer.next = Some(at(999)));
        tried.row = Some(row);
        tried = tried.waits(0);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64]);
    let stuck = tried.stands(Parked, &[Done, Stuck, Sent], &["step:two!"; 7]);
    assert_eq!(stuck.error(), Some("step `two`: no"));
    let ids: std::collections::HashSet<_> = stuck.ids.iter().filter(|(place, _)| place == "step:two").collect();
    assert_eq!(ids.len(), 1, "one command, however often it is sent");
    // The other steps go on; and an operator can retry the parked step.
    let stuck = stuck.hears(LampEvent::SwitchedOn).stands(Parked, &[Done, Stuck, Done], &[]);
    let done = stuck.refusing(&[]).told_to_go_on();
    done.stands(Finished, &[Done, Done, Done], &["step:two", "end"]);
}

#[test]
fn behind_the_pivot_a_step_that_was_accepted_and_failed_is_sent_under_another_id() {
    let failed = Instance::begun("pivot").hears(LampEvent::Broke { reason: "wire".into() });
    let sent = ["step:one", "step:two", "step:wait"];
    let failed = failed.stands(Running, &[Done, Done, Retrying], &sent);
    assert_eq!(failed.timers().iter().map(|(place, _)| &**place).collect::<Vec<_>>(), ["retry:wait"]);
    let again = failed.waits(101).stands(Running, &[Done, Done, Sent], &["step:wait#1"]);
    // A late step is not sent again without an operator: whether it was done is unknown.
    let late = again.waits(200).stands(Parked, &[Done, Done, Stuck], &[]);
    assert_eq!(late.error(), Some("step `wait`: not done within 7200s"));
    late.hears(LampEvent::SwitchedOn).stands(Finished, &[Done, Done, Done], &["end"]);
}

#[test]
fn g9_an_instance_follows_the_plan_it_began_with() {
    // The current plan is another one, with the step `other` only.
    let begun = Instance::begun("three");
    let renamed = |mut instance: Instance| {
        let row = instance.row.as_mut().expect("a row");
        row.state = r#"{"plan":"renamed","heard":0}"#.into();
        instance
    };
    let gone = renamed(Instance { sent: vec![], ..begun }).waits(2);
    let gone = gone.stands(Parked, &[Done, Unknown, Done], &[]);
    assert_eq!(gone.error(), Some("step `two` cannot be undone: it is not in the plan any more"));
    // With code that has the steps again, the instance goes on.
    let mut back = gone;
    back.row.as_mut().expect("a row").state = r#"{"plan":"three","heard":0}"#.into();
    let back = back.told_to_go_on();
    back.stands(Compensated, &[Undone, Undone, Undone], &["undo:two", "undo:three", "undo:one", "end"]);
}

#[test]
fn a_timer_among_the_commands_of_a_step_is_answered_too() {
    let asked = Instance::begun("reminder").stands(Running, &[Sent], &["step:ask.0"]);
    assert_eq!(asked.timers(), [("step:ask.1".into(), at(2))]);
    let mut row = asked.row.clone().expect("a row");
    let timer = row.claim(at(2)).remove(0);
    let asked = Instance { row: Some(row), ..asked };
    let begin = event(1, LampEvent::Broke { reason: "reminder".into() });
    let reminded = asked.goes(Item::Timer(timer, Some(begin))).stands(Running, &[Sent], &["step:ask.1.0"]);
    reminded.hears(LampEvent::SwitchedOn).stands(Finished, &[Done], &["end"]);
}

#[test]
fn g7_the_ids_of_steps_depend_on_the_event_that_began_and_the_name_alone() {
    // The command is the same, regardless of why the step is undone.
    let late = Instance::begun("three").waits(2);
    let failed = Instance::begun("three").hears(LampEvent::Broke { reason: "wire".into() });
    let id = |instance: &Instance, place: &str| {
        let ids: Vec<_> = instance.ids.iter().filter(|(other, _)| other == place).collect();
        ids[0].1
    };
    assert_eq!(id(&late, "undo:one"), id(&failed, "undo:one"));
    assert_ne!(id(&late, "undo:one"), id(&late, "step:one"));
}

#[test]
fn a_plan_with_a_mistake_is_parked_with_the_reason() {
    let reason = |plan: &str| {
        let begin = event(1, LampEvent::Broke { reason: plan.into() });
        let process = Arc::<Stepping<Show>>::default();
        let terms = Terms { now: at(0), keep_finished: None };
        let turn = Turn::new(&process, "l1", None, [Item::Event(begin, 0)], false, terms);
        turn.result().parked.expect("a mistake").reason
    };
    assert_eq!(reason("twice"), "step `one` is in the plan twice");
    assert_eq!(reason("early"), "a plan says something about a step before there is one");
    assert_eq!(reason("empty"), "a plan has no steps");
    assert_eq!(reason("name"), "step `Not so` has a name that is not 1 to 48 of a-z, 0-9 and `_`");
    assert_eq!(reason("within"), "step `one` is done once it is accepted, so `within` says nothing: add `done`");
    assert_eq!(reason("failed"), "step `one` is done once it is accepted, so `failed` says nothing: add `done`");
    assert_eq!(reason("undone"), "step `one` comes behind the pivot, where nothing is undone: remove `undo`");
}
