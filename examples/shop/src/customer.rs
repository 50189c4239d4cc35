//! The customer service. It carries the state of customers to others in its messages.

use axum::{
    Router,
    extract::{Path, State},
    routing::put,
};
use eventstore::{BoxError, prelude::*};
use eventstore_axum::{AtPosition, CommandId, Problem};
use serde::Deserialize;

use crate::{
    body::Body,
    contracts::CustomerMessage,
    service::{Place, Service},
};

#[derive(Event, Clone, Debug, PartialEq)]
pub enum CustomerEvent {
    Registered { name: String },
    Renamed { name: String },
}

/// A customer.
#[derive(Aggregate)]
pub struct Customer {
    name: Option<String>,
}

impl Evolve for Customer {
    type Event = CustomerEvent;

    fn evolve(&mut self, event: CustomerEvent) {
        match event {
            CustomerEvent::Registered { name } | CustomerEvent::Renamed { name } => self.name = Some(name),
        }
    }
}

#[derive(Deserialize, Clone, Debug, PartialEq)]
pub struct Save {
    name: String,
}

impl Decide<Save> for Customer {
    fn decide(&self, Save { name }: Save) -> Decision<Self> {
        ensure!(!name.trim().is_empty(), "a customer has a name");
        Ok(match &self.name {
            None => vec![CustomerEvent::Registered { name }],
            Some(old) if *old != name => vec![CustomerEvent::Renamed { name }],
            Some(_) => vec![],
        })
    }
}

impl Publish for CustomerMessage {
    type From = CustomerEvent;

    fn publish(event: &Recorded<CustomerEvent>) -> Vec<Self> {
        match event.data.clone() {
            CustomerEvent::Registered { name } => vec![Self::Registered { name }],
            CustomerEvent::Renamed { name } => vec![Self::Changed { name }],
        }
    }
}

/// `PUT /customers/c1`: registers a customer, or changes the name.
async fn save(
    State(store): State<Store>,
    Path(customer): Path<Id<Customer>>,
    key: CommandId,
    Body(save): Body<Save>,
) -> Result<AtPosition, Problem> {
    let done = store.execute(&customer, save).command_id(key.scoped("customers")).await?;
    Ok(AtPosition(store.token(done.position).await?))
}

/// Starts the service.
pub async fn start(place: &Place) -> Result<Service, BoxError> {
    let (store, bus) = place.open("customer").await?;
    let running = place.runner(&store).relay::<CustomerMessage>(&bus).start();
    let router = Router::new().route("/customers/{id}", put(save)).with_state(store.clone());
    Service::new("customer", store, running).serve(place.addresses.customer, router).await
}
