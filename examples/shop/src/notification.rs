//! The notification service: one mail for each step that a customer hears of.

use std::time::Duration;

use eventstore::{BoxError, StartFrom, prelude::*};
use serde::{Deserialize, Serialize};

use crate::{
    contracts::{NotificationMessage, OrderMessage, PaymentMessage, ShippingMessage},
    service::{Place, Service},
};

#[derive(Event, Clone, Debug, PartialEq)]
pub enum NotificationEvent {
    Sent { order: String, about: String },
}

/// One mail; its id is made of the order and what the mail is about.
#[derive(Aggregate)]
pub struct Notification {
    sent: bool,
}

impl Evolve for Notification {
    type Event = NotificationEvent;

    fn evolve(&mut self, _: NotificationEvent) {
        self.sent = true;
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Send {
    order: String,
    about: &'static str,
}

impl Decide<Send> for Notification {
    fn decide(&self, Send { order, about }: Send) -> Decision<Self> {
        ensure!(!self.sent, "the mail is sent already");
        Ok(vec![NotificationEvent::Sent { order, about: about.into() }])
    }
}

impl Publish for NotificationMessage {
    type From = NotificationEvent;

    fn publish(event: &Recorded<NotificationEvent>) -> Vec<Self> {
        let NotificationEvent::Sent { about, .. } = event.data.clone();
        vec![Self::Sent { about }]
    }

    fn key(&self, event: &Recorded<NotificationEvent>) -> String {
        let NotificationEvent::Sent { order, .. } = &event.data;
        order.clone()
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
enum News {
    Order(OrderMessage),
    Payment(PaymentMessage),
    Shipping(ShippingMessage),
}

/// Tells the customer of an order what has become of it.
struct Notify;

impl Reactor for Notify {
    const NAME: &'static str = "notify";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = News;

    fn react(&self, event: &Recorded<News>) -> Commands {
        let about = match &event.data {
            News::Order(OrderMessage::Created { .. }) => "created",
            News::Shipping(ShippingMessage::Shipped { .. }) => "shipped",
            News::Payment(PaymentMessage::Failed { .. }) => "payment_failed",
            News::Order(_) | News::Payment(_) => return Commands::none(),
        };
        let order = event.stream.key().to_owned();
        send(Id::<Notification>::from(format!("{order}.{about}")), Send { order, about })
    }
}

/// How long an order may wait for its payment until the customer is reminded.
pub const REMIND_AFTER: Duration = Duration::from_secs(15 * 60);

/// Reminds the customer of an order that is not paid, once.
#[derive(Saga, Serialize, Deserialize, Clone, Default, Debug)]
#[saga(key = order_of, from = "beginning")]
enum PaymentReminder {
    #[default]
    Waiting,
    #[saga(end)]
    Over,
}

fn order_of(event: &Recorded<News>) -> Option<String> {
    Some(event.stream.key().to_owned())
}

impl Evolve for PaymentReminder {
    type Event = News;

    fn evolve(&mut self, event: News) {
        if matches!(event, News::Payment(_) | News::Order(OrderMessage::Cancelled { .. })) {
            *self = Self::Over;
        }
    }
}

impl React for PaymentReminder {
    fn react(&self, event: &Recorded<News>) -> Commands {
        let News::Order(OrderMessage::Created { .. }) = &event.data else { return Commands::none() };
        let order = event.stream.key().to_owned();
        let mail = Id::<Notification>::from(format!("{order}.unpaid"));
        send(mail, Send { order, about: "unpaid" }).after(REMIND_AFTER)
    }
}

/// The mails that were sent.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, Clone, PartialEq)]
#[read_model(name = "outbox_of_mail")]
pub struct Mail {
    /// The order.
    #[read_model(index)]
    pub order: String,
    /// What the mail is about.
    pub about: String,
}

impl Project for Mail {
    type Event = NotificationEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<NotificationEvent>) {
        let NotificationEvent::Sent { order, about } = event.data.clone();
        **row = Mail { order, about };
    }
}

/// Starts the service.
pub async fn start(place: &Place) -> Result<Service, BoxError> {
    let (store, bus) = place.open("notification").await?;
    let running = place
        .runner(&store)
        .inbox::<OrderMessage>(&bus)
        .inbox::<PaymentMessage>(&bus)
        .inbox::<ShippingMessage>(&bus)
        .reactor(Notify)
        .park_unreadable()
        .saga::<PaymentReminder>()
        .park_unreadable()
        .relay::<NotificationMessage>(&bus)
        .read_model::<Mail>()
        .start();
    Ok(Service::new("notification", store, running))
}
