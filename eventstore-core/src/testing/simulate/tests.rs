//! Simulations of correct processes, and of planted bugs, which every seed must find.

use std::{mem::take, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Effort, Explored, Simulation, SimulationFailure, World, plants::Plant};
use crate::{
    Commands, Decide, Decision, End, Evolve, Id, Plan, React, Reacting, Reactor, Recorded, Stepping, Steps, StreamId,
    cancel, ensure,
    process::{Process, Stateless},
    send,
};

#[derive(eventstore::Event, Clone, Debug, PartialEq)]
#[event(crate = crate)]
enum AccountEvent {
    Deposited { amount: i64 },
    Withdrawn { amount: i64 },
    Closed,
}

#[derive(eventstore::Aggregate)]
#[aggregate(crate = crate)]
struct Account {
    balance: i64,
    closed: bool,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Deposited { amount } => self.balance += amount,
            AccountEvent::Withdrawn { amount } => self.balance -= amount,
            AccountEvent::Closed => self.closed = true,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Deposit(i64);
#[derive(Clone, Debug, PartialEq)]
struct Withdraw(i64);
#[derive(Clone, Debug, PartialEq)]
struct Close;

impl Decide<Deposit> for Account {
    fn decide(&self, Deposit(amount): Deposit) -> Decision<Self> {
        ensure!(!self.closed, "closed");
        Ok(vec![AccountEvent::Deposited { amount }])
    }
}

impl Decide<Withdraw> for Account {
    fn decide(&self, Withdraw(amount): Withdraw) -> Decision<Self> {
        ensure!(amount <= self.balance, "only {} left", self.balance);
        Ok(vec![AccountEvent::Withdrawn { amount }])
    }
}

impl Decide<Close> for Account {
    fn decide(&self, Close: Close) -> Decision<Self> {
        Ok(vec![AccountEvent::Closed])
    }
}

#[derive(eventstore::Event, Clone, Debug, PartialEq)]
#[event(crate = crate)]
enum TransferEvent {
    Requested,
    Completed,
    Refused,
    Expired,
}

#[derive(eventstore::Aggregate)]
#[aggregate(crate = crate)]
struct Transfer {
    end: Option<TransferEvent>,
}

impl Evolve for Transfer {
    type Event = TransferEvent;

    fn evolve(&mut self, event: TransferEvent) {
        self.end = Some(event).filter(|event| *event != TransferEvent::Requested);
    }
}

impl Decide<TransferEvent> for Transfer {
    fn decide(&self, event: TransferEvent) -> Decision<Self> {
        ensure!(self.end.is_none(), "over");
        Ok(vec![event])
    }
}

#[derive(eventstore::Event, Clone, Debug, PartialEq)]
#[event(crate = crate, transparent)]
enum BankEvent {
    Account(AccountEvent),
    Transfer(TransferEvent),
}

/// Moves 70 from ann to bob.
#[derive(eventstore::Saga, Serialize, Deserialize, Clone, Debug, Default)]
#[saga(crate = crate)]
enum MoneyTransfer {
    #[default]
    Idle,
    Taking,
    Giving,
    #[saga(end)]
    Settled,
}

impl Evolve for MoneyTransfer {
    type Event = BankEvent;

    fn evolve(&mut self, event: BankEvent) {
        use {AccountEvent::*, BankEvent::*, MoneyTransfer::*, TransferEvent::*};
        *self = match (take(self), event) {
            (Idle, Transfer(Requested)) => Taking,
            (Taking, Account(Withdrawn { .. })) => Giving,
            (_, Transfer(Completed | Refused | Expired)) => Settled,
            (unchanged, _) => unchanged,
        }
    }
}

impl React for MoneyTransfer {
    fn react(&self, event: &Recorded<BankEvent>) -> Commands {
        use {AccountEvent::*, BankEvent::*, MoneyTransfer::*, TransferEvent::*};
        match (self, &event.data) {
            (Idle, Transfer(Requested)) => send(ann(), Withdraw(70))
                .or(send(t1(), Refused))
                .and(send(t1(), Expired).after(Duration::from_secs(3_600)).named("expiry")),
            (Taking, Account(Withdrawn { amount })) => {
                send(bob(), Deposit(*amount)).or(send(ann(), Deposit(*amount)).and(send(t1(), Refused)))
            }
            (Giving, Account(Deposited { .. })) if event.stream == bob() => send(t1(), Completed),
            _ => Commands::none(),
        }
    }
}

fn ann() -> Id<Account> {
    "ann".into()
}

fn bob() -> Id<Account> {
    "bob".into()
}

fn t1() -> Id<Transfer> {
    "t1".into()
}

/// Ann has 60 and may get 40 more, bob may close his account: either 70 go from ann to bob, or nothing.
fn transfer() -> Simulation<Reacting<MoneyTransfer>> {
    Simulation::of::<MoneyTransfer>()
        .given(ann(), Deposit(60))
        .given(t1(), TransferEvent::Requested)
        .meanwhile(ann(), Deposit(40))
        .meanwhile(bob(), Close)
        .always(|world| {
            ensure!(world.load(ann()).balance >= 0, "ann owes");
            Ok(())
        })
        .finally(|world| {
            let (ann, bob, end) = (world.load(ann()).balance, world.load(bob()).balance, world.load(t1()).end);
            let paid_in = if ann + bob > 60 { 100 } else { 60 };
            ensure!(ann + bob == paid_in, "ann has {ann}, bob {bob}");
            ensure!(end.is_some(), "it hangs");
            // A transfer that expires while the money is on its way is over, and the money arrives.
            ensure!(bob == 70 || end != Some(TransferEvent::Completed), "bob has {bob}, and it is {end:?}");
            ensure!(bob == 0 || end != Some(TransferEvent::Refused), "bob has {bob}, and it is {end:?}");
            Ok(())
        })
}

/// At the second deposit of an account, the account `bonus` gets one.
#[derive(eventstore::Saga, Serialize, Deserialize, Clone, Default)]
#[saga(crate = crate, key = but_for_the_bonus)]
struct Loyalty {
    deposits: u32,
}

impl Evolve for Loyalty {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {
        self.deposits += 1;
    }
}

impl React for Loyalty {
    fn react(&self, _: &Recorded<AccountEvent>) -> Commands {
        if self.deposits == 1 { send(Id::<Account>::from("bonus"), Deposit(1)) } else { Commands::none() }
    }
}

fn but_for_the_bonus(event: &Recorded<AccountEvent>) -> Option<String> {
    Some(event.stream.key().to_owned()).filter(|key| key != "bonus")
}

fn loyalty() -> Simulation<Reacting<Loyalty>> {
    Simulation::of::<Loyalty>().given(ann(), Deposit(1)).given(ann(), Deposit(2)).given(ann(), Deposit(3)).finally(
        |world| {
            let bonus = world.load(Id::<Account>::from("bonus")).balance;
            ensure!(bonus == 1, "{bonus} bonuses");
            Ok(())
        },
    )
}

/// Boxes came with several pieces once; today a piece is an event.
#[derive(eventstore::Event, Clone, Debug, PartialEq)]
#[event(crate = crate, prefix = "box")]
enum OldBox {
    Arrived { pieces: Vec<i64> },
}

#[derive(eventstore::Event, Clone, Debug, PartialEq)]
#[event(crate = crate)]
enum BoxEvent {
    #[event(version = 2, upcast(1 => piece_by_piece))]
    Arrived { piece: i64 },
}

#[derive(Deserialize)]
struct Pieces {
    pieces: Vec<i64>,
}

fn piece_by_piece(Pieces { pieces }: Pieces) -> Vec<BoxEvent> {
    pieces.into_iter().map(|piece| BoxEvent::Arrived { piece }).collect()
}

struct Count;

impl Reactor for Count {
    const NAME: &'static str = "count";
    type Event = BoxEvent;

    fn react(&self, event: &Recorded<BoxEvent>) -> Commands {
        let BoxEvent::Arrived { piece } = event.data;
        send(Id::<Account>::from("pieces"), Deposit(piece))
    }
}

fn parts() -> Simulation<Stateless<Count>> {
    let old = OldBox::Arrived { pieces: vec![1, 10, 100] };
    Simulation::of_reactor(Count).given_event(StreamId::new("box", "b1"), old).finally(|world| {
        let pieces = world.load(Id::<Account>::from("pieces")).balance;
        ensure!(pieces == 111, "{pieces} pieces");
        Ok(())
    })
}

#[derive(eventstore::Event, Clone, Debug, PartialEq)]
#[event(crate = crate)]
enum TicketEvent {
    Opened,
    Answered,
    Reopened,
    Reminded,
    Noted,
}

#[derive(eventstore::Aggregate)]
#[aggregate(crate = crate)]
struct Ticket;

impl Evolve for Ticket {
    type Event = TicketEvent;

    fn evolve(&mut self, _: TicketEvent) {}
}

impl Decide<TicketEvent> for Ticket {
    fn decide(&self, event: TicketEvent) -> Decision<Self> {
        Ok(vec![event])
    }
}

/// Each time a ticket is opened and not answered within an hour, there is a reminder.
#[derive(eventstore::Saga, Serialize, Deserialize, Clone, Default)]
#[saga(crate = crate, key = but_for_the_log, end = Self::is_answered)]
struct Reminder {
    answered: bool,
}

impl Evolve for Reminder {
    type Event = TicketEvent;

    fn evolve(&mut self, event: TicketEvent) {
        self.answered |= event == TicketEvent::Answered;
    }
}

impl React for Reminder {
    fn react(&self, event: &Recorded<TicketEvent>) -> Commands {
        let log = Id::<Ticket>::from("log");
        match event.data {
            TicketEvent::Opened | TicketEvent::Reopened => {
                send(log, TicketEvent::Reminded).after(Duration::from_secs(3_600)).named("reminder")
            }
            TicketEvent::Answered => send(log, TicketEvent::Noted),
            _ => Commands::none(),
        }
    }
}

impl Reminder {
    fn is_answered(&self) -> bool {
        self.answered
    }
}

fn but_for_the_log(event: &Recorded<TicketEvent>) -> Option<String> {
    Some(event.stream.key().to_owned()).filter(|key| key != "log")
}

/// A ticket is answered within an hour, or not: exactly one of the two is recorded.
#[derive(eventstore::Saga, Serialize, Deserialize, Clone)]
#[saga(crate = crate, steps, key = but_for_the_log)]
struct Promise {}

impl Steps for Promise {
    type Event = TicketEvent;

    fn begin(event: &Recorded<TicketEvent>) -> Option<Self> {
        (event.data == TicketEvent::Opened).then_some(Self {})
    }

    fn steps(&self) -> Plan<TicketEvent> {
        let log = || Id::<Ticket>::from("log");
        Plan::new()
            .step("note", send(log(), TicketEvent::Noted))
            .undo(send(log(), TicketEvent::Reminded))
            .step("answer", Commands::none())
            .done(|event| *event == TicketEvent::Answered)
            .deadline(Duration::from_secs(3_600))
    }

    fn ended(&self, end: &End) -> Commands {
        let said = if *end == End::Done { "kept" } else { "broken" };
        send(Id::<Ticket>::from(said), TicketEvent::Noted)
    }
}

fn promise() -> Simulation<Stepping<Promise>> {
    let said = |world: &World<Stepping<Promise>>| {
        let said = |key: &str| world.events::<TicketEvent>(Id::<Ticket>::from(key)).len();
        (said("kept"), said("broken"), said("log"))
    };
    Simulation::of::<Promise>()
        .given(ticket(), TicketEvent::Opened)
        .meanwhile(ticket(), TicketEvent::Answered)
        .always(move |world| {
            let (kept, broken, _) = said(world);
            ensure!(kept + broken <= 1, "kept {kept} times, broken {broken} times");
            Ok(())
        })
        .finally(move |world| {
            ensure!([(1, 0, 1), (0, 1, 2)].contains(&said(world)), "{:?}", said(world));
            Ok(())
        })
}

fn ticket() -> Id<Ticket> {
    "t1".into()
}

fn reminder() -> Simulation<Reacting<Reminder>> {
    Simulation::of::<Reminder>()
        .given(ticket(), TicketEvent::Opened)
        .meanwhile(ticket(), TicketEvent::Answered)
        .meanwhile(ticket(), TicketEvent::Reopened)
}

/// One node without interruptions: then the order of the log is the order of its operations.
fn undisturbed() -> Simulation<Reacting<Reminder>> {
    reminder().crashes(0).take_overs(0).lost_answers(0).conflicts(0).always(|world| {
        let log = world.events::<TicketEvent>(Id::<Ticket>::from("log"));
        let noted = log.iter().position(|event| *event == TicketEvent::Noted);
        ensure!(noted.is_none_or(|noted| noted + 1 == log.len()), "reminded of what is over: {log:?}");
        Ok(())
    })
}

fn explore<P: Process>(
    simulation: &Simulation<P>,
    runs: u64,
    dice: u64,
    seed: u64,
) -> Result<Explored, SimulationFailure> {
    simulation.explore(&Effort { runs, dice, seed, choices: None })
}

/// Tries all orders, and expects no failure.
fn every_order<P: Process>(simulation: Simulation<P>) -> Explored {
    match explore(&simulation, 50_000, 0, 0) {
        Ok(explored) if explored.complete => explored,
        Ok(explored) => panic!("not through after {explored:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

/// Expects each of twenty seeds to find the bug within 2,000 random runs, and no failure in 200 random runs without it.
fn is_found<P: Process>(plant: Plant, simulation: impl Fn() -> Simulation<P>) {
    let mut runs = 0;
    for seed in 0..20 {
        let planted = Simulation { plant: Some(plant), ..simulation() };
        match explore(&planted, 0, 2_000, seed) {
            Ok(explored) => panic!("{plant:?} is not found by seed {seed} in {explored:?}"),
            Err(failure) => {
                if seed == 0 {
                    println!("{failure}\n");
                }
                runs += failure.run;
            }
        }
    }
    println!("{plant:?}: found after {} runs on average", runs / 20);
    if let Err(failure) = explore(&simulation(), 0, 200, 0) {
        panic!("without the bug: {failure}");
    }
}

#[test]
fn g12_a_transfer_with_all_that_can_go_wrong_by_dice() {
    if let Err(failure) = explore(&transfer().crashes(2).take_overs(2), 0, 1_000, 1) {
        panic!("{failure}");
    }
}

#[test]
fn g12_a_transfer_with_one_crash_in_every_order() {
    let explored = every_order(transfer().take_overs(0).lost_answers(0).conflicts(0));
    println!("{explored:?}");
}

#[test]
fn g12_a_transfer_with_one_take_over_in_every_order() {
    let explored = every_order(transfer().crashes(0).lost_answers(0).conflicts(0));
    println!("{explored:?}");
}

#[test]
fn g12_a_transfer_with_a_lost_answer_and_a_conflict_in_every_order() {
    println!("{:?}", every_order(transfer().crashes(0).take_overs(0).conflicts(0)));
    println!("{:?}", every_order(transfer().crashes(0).take_overs(0).lost_answers(0)));
}

#[test]
fn g12_a_counting_saga_in_every_order() {
    println!("{:?}", every_order(loyalty()));
}

#[test]
fn g12_parts_and_timers_in_every_order() {
    println!("{:?}", every_order(parts()));
    println!("{:?}", every_order(reminder().take_overs(0).lost_answers(0).conflicts(0)));
    println!("{:?}", every_order(reminder().crashes(0).lost_answers(0).conflicts(0)));
    println!("{:?}", every_order(undisturbed()));
}

#[test]
fn g1_a_new_id_for_each_attempt_is_found() {
    is_found(Plant::FreshIds, transfer);
}

#[test]
fn g2_an_alternative_without_a_mark_is_found() {
    is_found(Plant::NoMark, transfer);
}

#[test]
fn g3_a_checkpoint_before_the_state_is_found() {
    is_found(Plant::CheckpointFirst, transfer);
}

#[test]
fn g3_a_state_before_its_commands_is_found() {
    is_found(Plant::StateBeforeSend, transfer);
}

#[test]
fn g4_a_read_without_a_look_at_the_epoch_is_found() {
    is_found(Plant::UnfencedRead, loyalty);
}

#[test]
fn e7_ids_without_the_part_are_found() {
    is_found(Plant::IdsWithoutPart, parts);
}

#[test]
fn g2_timers_before_what_is_half_answered_are_found() {
    is_found(Plant::TimersFirst, promise);
}

#[test]
fn g12_a_saga_with_steps_in_every_order() {
    println!("{:?}", every_order(promise().take_overs(0).lost_answers(0)));
    println!("{:?}", every_order(promise().crashes(0).lost_answers(0).conflicts(0)));
}

#[test]
fn g10_timers_that_outlive_their_instance_are_found() {
    is_found(Plant::TimersOutlive, undisturbed);
}

#[test]
fn m2_a_timer_that_is_armed_again_or_cancelled_fires_once_or_not_at_all() {
    struct Cancelling;

    impl Reactor for Cancelling {
        const NAME: &'static str = "cancelling";
        type Event = TicketEvent;

        fn react(&self, event: &Recorded<TicketEvent>) -> Commands {
            match event.data {
                TicketEvent::Opened | TicketEvent::Reopened => send(Id::<Ticket>::from("log"), TicketEvent::Reminded)
                    .after(Duration::from_secs(3_600))
                    .named("reminder"),
                TicketEvent::Answered => cancel("reminder"),
                _ => Commands::none(),
            }
        }
    }
    let explored = every_order(
        Simulation::of_reactor(Cancelling)
            .given(ticket(), TicketEvent::Opened)
            .meanwhile(ticket(), TicketEvent::Reopened)
            .meanwhile(ticket(), TicketEvent::Answered)
            .conflicts(0)
            .lost_answers(0)
            .finally(|world| {
                let opened = world.events::<TicketEvent>(ticket());
                let reminded = world.events::<TicketEvent>(Id::<Ticket>::from("log")).len();
                let answered = opened.contains(&TicketEvent::Answered);
                let openings = opened.iter().filter(|event| **event != TicketEvent::Answered).count();
                ensure!(reminded <= openings, "{reminded} reminders for {opened:?}");
                ensure!(reminded > 0 || answered, "no reminder for {opened:?}");
                Ok(())
            }),
    );
    println!("{explored:?}");
}

#[test]
fn a_failure_is_told_as_a_story_that_can_be_run_again() {
    let planted = || Simulation { plant: Some(Plant::NoMark), ..transfer() };
    let failure = explore(&planted(), 0, 2_000, 1).expect_err("a failure");
    let told = failure.to_string();
    assert!(told.starts_with("money_transfer: "), "{told}");
    assert!(told.contains("send(account-ann, Withdraw(70)): refused, only 60 left"), "{told}");
    assert!(failure.choices.len() <= 12, "{told}");
    let again = planted().explore(&Effort { choices: Some(failure.choices.clone()), ..Effort::default() });
    let again = again.expect_err("the same failure");
    assert_eq!((again.reason, again.story), (failure.reason, failure.story));
    assert!(told.contains("again: EVENTSTORE_SIMULATE=choices="), "{told}");
}

#[test]
fn what_never_ends_and_what_panics_is_told() {
    struct Endless;

    impl Reactor for Endless {
        const NAME: &'static str = "endless";
        type Event = TicketEvent;

        fn react(&self, _: &Recorded<TicketEvent>) -> Commands {
            send(ticket(), TicketEvent::Reminded).after(Duration::from_secs(60))
        }
    }
    let endless = || Simulation::of_reactor(Endless).given(ticket(), TicketEvent::Opened);
    let failure = explore(&endless(), 1, 0, 0).expect_err("no end");
    assert!(failure.reason.contains("has not come to an end"), "{failure}");
    explore(&endless().lasting(Duration::from_secs(600)), 1, 0, 0).expect("ten minutes have an end");

    struct Panics;

    impl Reactor for Panics {
        const NAME: &'static str = "panics";
        type Event = TicketEvent;

        fn react(&self, _: &Recorded<TicketEvent>) -> Commands {
            panic!("no rule for that")
        }
    }
    let panics = Simulation::of_reactor(Panics).given(ticket(), TicketEvent::Opened);
    let failure = explore(&panics, 1, 0, 0).expect_err("a panic");
    assert_eq!(failure.reason, "ticket-t1 is parked: it panicked: no rule for that");
}
