//! A payment with the bank's reference is recorded once, by whichever way and however often it is heard of.

use PaymentEvent::*;
use eventstore::{StoreError, prelude::*, testing::*};
use uuid::Uuid;

use super::{super::world, at_once, log, rivals};

#[rustfmt::skip]
#[derive(Event, Clone, Debug, PartialEq)]
pub enum PaymentEvent {
    Received { customer: Id<Customer>, #[event(tag)] payment: Id<Payment>, cents: i64 },
}

/// The customer, made of its own stream.
#[derive(Aggregate, Debug)]
pub struct Customer {
    #[aggregate(id)]
    id: Id<Customer>,
    paid: i64,
}

/// The bank's reference, made of what was recorded for it, whoever's payment it was said to be.
#[derive(Aggregate, Debug)]
#[aggregate(by_tag)]
pub struct Payment {
    #[aggregate(id)]
    id: Id<Payment>,
    recorded: Option<PaymentEvent>,
}

impl Evolve for Customer {
    type Event = PaymentEvent;

    fn evolve(&mut self, Received { cents, .. }: PaymentEvent) {
        self.paid += cents;
    }
}

impl Evolve for Payment {
    type Event = PaymentEvent;

    fn evolve(&mut self, event: PaymentEvent) {
        self.recorded = Some(event);
    }
}

#[derive(Clone)]
pub struct Receive {
    pub cents: i64,
}

impl Decide<Receive> for (Customer, Payment) {
    fn decide(&self, Receive { cents }: Receive) -> Decision<Customer> {
        let (customer, payment) = self;
        let received = Received { customer: customer.id.clone(), payment: payment.id.clone(), cents };
        match &payment.recorded {
            None => Ok(vec![received]),
            Some(before) if *before == received => Ok(vec![]), // heard of it before
            Some(_) => Err(format!("{} is recorded already, with other data", payment.id).into()),
        }
    }
}

/// The other way: without the reference in the events.
impl Decide<Receive> for Customer {
    fn decide(&self, Receive { cents }: Receive) -> Decision<Self> {
        Ok(vec![Received { customer: self.id.clone(), payment: Id::new(), cents }])
    }
}

/// The id of a command, made of a reference: the same reference, the same id.
pub fn command_id(reference: &str) -> Uuid {
    const BANK: Uuid = Uuid::from_u128(0x0194_1f29_7c00_7aaa_8aaa_2a6b_1d3c_5e7f); // made once, for this one purpose
    Uuid::new_v5(&BANK, reference.as_bytes())
}

#[test]
fn a_payment_heard_of_again_is_nothing_new_and_another_with_its_reference_is_refused() {
    let (ann, bob, payment) = (Id::<Customer>::from("ann"), Id::<Customer>::from("bob"), Id::<Payment>::from("B-7"));
    given(&ann, [Received { customer: ann.clone(), payment: payment.clone(), cents: 5 }])
        .when((&ann, &payment), Receive { cents: 5 })
        .then([])
        .when((&ann, &payment), Receive { cents: 6 })
        .then_rejected("B-7 is recorded already, with other data")
        .when((&bob, &payment), Receive { cents: 5 })
        .then_rejected("B-7 is recorded already, with other data");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_a_payment_heard_of_eight_times_at_once_is_recorded_once() {
    let world = world().await;
    let (ann, payment) = (Id::<Customer>::from("ann"), Id::<Payment>::from("B-7"));
    let heard = rivals(&world, 8).into_iter();
    let heard = heard.map(|store| store.execute((&ann, &payment), Receive { cents: 5 }).retries(100));
    let answers: Vec<_> = at_once(heard).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().map(|answer| answer.events.len()).sum::<usize>(), 1);
    assert!(answers.iter().all(|answer| answer.state.0.paid == 5), "everybody is told the same");
    assert_eq!(log::<PaymentEvent>(&world).await, [Received { customer: ann, payment, cents: 5 }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_a_reference_is_never_recorded_for_two_customers() {
    let world = world().await;
    let payment = Id::<Payment>::from("B-7");
    let heard = rivals(&world, 8).into_iter();
    let heard = heard.map(|store| store.execute((Id::<Customer>::new(), &payment), Receive { cents: 5 }).retries(100));
    let answers = at_once(heard).await;
    let refused = answers.iter().filter(|answer| matches!(answer, Err(CommandError::Rejected(_)))).count();
    assert_eq!((refused, log::<PaymentEvent>(&world).await.len()), (7, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c1_with_a_command_id_made_of_the_reference_the_first_answer_is_given_again() {
    let world = world().await;
    let ann = Id::<Customer>::from("ann");
    let heard = rivals(&world, 8).into_iter();
    let heard = heard.map(|store| store.execute(&ann, Receive { cents: 5 }).command_id(command_id("B-7")).retries(100));
    let answers: Vec<_> = at_once(heard).await.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.events == answers[0].events && answer.state.paid == 5));
    assert_eq!(log::<PaymentEvent>(&world).await.len(), 1);

    // It is the same command, whatever is in it; and it cannot be for somebody else.
    let other = world.store.execute(&ann, Receive { cents: 6 }).command_id(command_id("B-7")).await.unwrap();
    assert_eq!(other.events, answers[0].events);
    let elsewhere = world.store.execute(Id::<Customer>::from("bob"), Receive { cents: 5 });
    let elsewhere = elsewhere.command_id(command_id("B-7")).await;
    assert!(matches!(elsewhere, Err(CommandError::Store(StoreError::Reused { .. }))), "{elsewhere:?}");
}
