//! Pages of orders as server-sent events. The id of an event is a position of the gateway's log: a browser that
//! reconnects sends the last one, and goes on there.

use axum::{
    extract::State,
    http::HeaderMap,
    response::sse::{Event as ServerSent, KeepAlive, Sse},
};
use eventstore::{StoreError, prelude::*};
use eventstore_axum::{AfterPosition, Problem};
use futures::{Stream, StreamExt, TryStreamExt};
use serde_json::json;

use super::page::{OrderPage, PageEvent};

/// `GET /orders/events`: one event for each message, with the page of its order after it. Without `Last-Event-ID`, from
/// now on; 412 for one that is not of this log. A page that waits behind a message that cannot be read is shown as it is.
pub(super) async fn follow(
    State(store): State<Store>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<ServerSent, StoreError>>>, Problem> {
    let after = match headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default()) {
        Some(id) => AfterPosition(Some(id.parse().map_err(StoreError::from)?)).position(&store).await?,
        None => store.head().await?,
    };
    let messages = store.read().names(PageEvent::NAMES.iter().copied()).after(after).following().raw();
    let pages = messages.and_then(move |message| {
        let store = store.clone();
        async move {
            let order = message.stream.key();
            let pages = store.read_model::<OrderPage>();
            let page = match pages.get(order).after(message.position).await {
                Err(StoreError::Parked { .. }) => pages.get(order).await?,
                page => page?,
            };
            let page = page.unwrap_or_default();
            let id = store.token(message.position).await?.to_string();
            let data = json!({ "orderId": order, "totalCents": page.total_cents, "steps": page.steps }).to_string();
            Ok(ServerSent::default().event("order").id(id).data(data))
        }
    });
    let pages = pages.inspect_err(|error| tracing::warn!(%error, "the events of a client have ended"));
    Ok(Sse::new(pages.boxed()).keep_alive(KeepAlive::default()))
}
