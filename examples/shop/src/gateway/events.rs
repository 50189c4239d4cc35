//! Pages of orders as server-sent events. The id of an event is a position of the gateway's log: a browser that
//! reconnects sends the last one, and goes on there.

use axum::{
    extract::State,
    http::HeaderMap,
    response::sse::{Event as ServerSent, KeepAlive, Sse},
};
use eventstore::{StoreError, Token, prelude::*};
use eventstore_axum::Problem;
use futures::{Stream, StreamExt, TryStreamExt};
use serde_json::json;

use super::page::{OrderPage, PageEvent};

/// `GET /orders/events`: one event for each message, with the page of its order after it. Without `Last-Event-ID`, from now on.
pub(super) async fn follow(
    State(store): State<Store>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<ServerSent, StoreError>>>, Problem> {
    let after = match headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default()) {
        Some(id) => store.position_of(&id.parse::<Token>().map_err(StoreError::from)?).await?,
        None => store.head().await?,
    };
    let messages = store.read().after(after).following().events::<PageEvent>();
    let pages = messages.and_then(move |message| {
        let store = store.clone();
        async move {
            let order = message.stream.key();
            let page = store.read_model::<OrderPage>().get(order).after(message.position).await?.unwrap_or_default();
            let id = store.token(message.position).await?.to_string();
            let data = json!({ "orderId": order, "totalCents": page.total_cents, "steps": page.steps }).to_string();
            Ok(ServerSent::default().event("order").id(id).data(data))
        }
    });
    Ok(Sse::new(pages.boxed()).keep_alive(KeepAlive::default()))
}
