//! The payment service. The bank is a fake with rules: an amount that ends in .13 is refused, one that ends in .66 is
//! answered after 30 seconds, everything else is paid.

use std::time::Duration;

use eventstore::{BoxError, Message, StartFrom, prelude::*};

use crate::{
    contracts::{Item, OrderMessage, PaymentCommand, PaymentMessage},
    service::{Place, Service},
};

#[derive(Event, Clone, Debug, PartialEq)]
pub enum PaymentEvent {
    Completed {
        items: Vec<Item>,
        cents: i64,
    },
    Failed {
        reason: String,
    },
    Refunded {
        cents: i64,
    },
    /// The order was cancelled before the bank has answered: it is never charged.
    Withdrawn,
}

/// The payment of one order; its id is that of the order.
#[derive(Aggregate)]
pub struct Payment {
    paid_cents: i64,
    decided: bool,
}

impl Evolve for Payment {
    type Event = PaymentEvent;

    fn evolve(&mut self, event: PaymentEvent) {
        self.decided = true;
        self.paid_cents = if let PaymentEvent::Completed { cents, .. } = event { cents } else { 0 };
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Charge {
    items: Vec<Item>,
    cents: i64,
}

#[derive(Clone, Debug, PartialEq)]
struct Refund;

impl Decide<Charge> for Payment {
    fn decide(&self, Charge { items, cents }: Charge) -> Decision<Self> {
        ensure!(!self.decided, "the payment is decided already");
        Ok(vec![match cents % 100 {
            13 => PaymentEvent::Failed { reason: "insufficient_funds".into() },
            _ => PaymentEvent::Completed { items, cents },
        }])
    }
}

impl Decide<Refund> for Payment {
    fn decide(&self, Refund: Refund) -> Decision<Self> {
        Ok(match self {
            Self { decided: false, .. } => vec![PaymentEvent::Withdrawn],
            Self { paid_cents: 0, .. } => vec![],
            Self { paid_cents: cents, .. } => vec![PaymentEvent::Refunded { cents: *cents }],
        })
    }
}

impl Publish for PaymentMessage {
    type From = PaymentEvent;

    fn publish(event: &Recorded<PaymentEvent>) -> Vec<Self> {
        match event.data.clone() {
            PaymentEvent::Completed { items, cents } => vec![Self::Completed { items, cents }],
            PaymentEvent::Failed { reason } => vec![Self::Failed { reason }],
            PaymentEvent::Refunded { cents } => vec![Self::Refunded { cents }],
            PaymentEvent::Withdrawn => vec![], // private
        }
    }
}

/// What payment reads of an order.
pub enum Wish {
    /// To be paid.
    Pay(Vec<Item>, i64),
    /// To be paid back.
    PayBack,
    /// Nothing.
    Nothing,
}

/// Messages that this service is asked by, in the form that a release of it reads.
pub trait Orders: Message {
    fn wish(&self) -> Wish;
}

impl Orders for OrderMessage {
    fn wish(&self) -> Wish {
        match self {
            Self::Created { items, total_cents, .. } => Wish::Pay(items.clone(), *total_cents),
            Self::Cancelled { .. } => Wish::PayBack,
            Self::Confirmed => Wish::Nothing,
        }
    }
}

impl Orders for PaymentCommand {
    fn wish(&self) -> Wish {
        match self {
            Self::ProcessPayment { items, cents } => Wish::Pay(items.clone(), *cents),
            Self::RefundPayment {} => Wish::PayBack,
        }
    }
}

/// Charges orders that are created, and refunds those that are cancelled.
struct PayOrders<M>(std::marker::PhantomData<fn() -> M>);

impl<M: Orders> Reactor for PayOrders<M> {
    const NAME: &'static str = "pay_orders";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = M;

    fn react(&self, event: &Recorded<M>) -> Commands {
        let payment = Id::<Payment>::from(event.stream.key());
        match event.data.wish() {
            Wish::Pay(items, cents) if cents % 100 == 66 => {
                send(payment, Charge { items, cents }).after(Duration::from_secs(30))
            }
            Wish::Pay(items, cents) => send(payment, Charge { items, cents }),
            Wish::PayBack => send(payment, Refund),
            Wish::Nothing => Commands::none(),
        }
    }
}

/// Starts the service.
pub async fn start(place: &Place) -> Result<Service, BoxError> {
    if place.orchestrated {
        start_with::<PaymentCommand, PaymentCommand>(place).await
    } else {
        start_reading::<OrderMessage>(place).await
    }
}

/// Starts a release of the service that reads orders in the form `M`.
pub async fn start_reading<M: Orders>(place: &Place) -> Result<Service, BoxError> {
    start_with::<OrderMessage, M>(place).await
}

async fn start_with<I: Message, M: Orders>(place: &Place) -> Result<Service, BoxError> {
    let (store, bus) = place.open("payment").await?;
    let running = place
        .runner(&store)
        .inbox::<I>(&bus)
        .reactor(PayOrders::<M>(std::marker::PhantomData))
        .park_unreadable()
        .relay::<PaymentMessage>(&bus)
        .start();
    Ok(Service::new("payment", store, running))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_was_cancelled_first_is_never_charged() {
        let charge = || Charge { items: vec![], cents: 500 };
        let decided = "the payment is decided already";
        Payment::given([]).when(Refund).then([PaymentEvent::Withdrawn]).when(charge()).then_rejected(decided);
        Payment::given([])
            .when(charge())
            .then([PaymentEvent::Completed { items: vec![], cents: 500 }])
            .when(charge())
            .then_rejected(decided);
    }
}
