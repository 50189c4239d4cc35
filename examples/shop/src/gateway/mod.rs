//! The gateway: clients speak to it alone. It hands requests to the services, and has a page of each order made of the
//! messages of all services.

mod events;
mod page;
mod proxy;

pub use page::OrderPage;

use axum::{
    Json, Router,
    extract::State,
    routing::{any, get},
};
use eventstore::{BoxError, prelude::*};
use eventstore_axum::Problem;

use crate::{
    contracts::{InventoryMessage, NotificationMessage, OrderMessage, PaymentMessage, ShippingMessage},
    service::{Place, Service},
};

/// The 50 orders that changed last.
async fn pages(State(store): State<Store>) -> Result<Json<Vec<(String, OrderPage)>>, Problem> {
    Ok(Json(store.read_model::<OrderPage>().list().order_by("changed").descending().limit(50).await?))
}

/// Starts the service.
pub async fn start(place: &Place) -> Result<Service, BoxError> {
    let (store, bus) = place.open("gateway").await?;
    let running = place
        .runner(&store)
        .inbox::<OrderMessage>(&bus)
        .inbox::<PaymentMessage>(&bus)
        .inbox::<InventoryMessage>(&bus)
        .inbox::<ShippingMessage>(&bus)
        .inbox::<NotificationMessage>(&bus)
        .read_model::<OrderPage>()
        .park_unreadable()
        .start();
    let own = Router::new()
        .route("/orders/events", get(events::follow))
        .route("/orders/pages", get(pages))
        .with_state(store.clone());
    let order = any(proxy::forward).with_state(proxy::Upstream::new(place.addresses.order));
    let customer = any(proxy::forward).with_state(proxy::Upstream::new(place.addresses.customer));
    let router = own.route("/orders", order.clone()).route("/orders/{id}", order).route("/customers/{id}", customer);
    Service::new("gateway", store, running).serve(place.addresses.gateway, router).await
}
