//! The order service over HTTP. Clients reach it through the gateway.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use eventstore::{Version, prelude::*};
use eventstore_axum::{AfterPosition, AtPosition, CommandId, EntityTag, IfMatch, IfNoneMatch, Problem};
use serde_json::json;

use super::{
    domain::{Cancel, Order, PlaceOrder},
    view::{CustomerRow, OrderRow},
};
use crate::body::Body;

pub(super) fn router(store: Store) -> Router {
    Router::new().route("/orders", post(place)).route("/orders/{id}", get(order).delete(cancel)).with_state(store)
}

/// The id of the order is made of the key, so a request that is repeated has the same answer. Another request with the
/// same key is refused.
async fn place(State(store): State<Store>, key: CommandId, Body(place): Body<PlaceOrder>) -> Result<Response, Problem> {
    let command = key.scoped("orders");
    let id = command.simple().to_string();
    let done = store.execute(Id::<Order>::from(&*id), place.clone()).command_id(command).await?;
    if !done.events.iter().all(|event| place.is_of(&event.data)) {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY).detail("the key is of another order"));
    }
    let at = AtPosition(store.token(done.position).await?);
    let body = Json(json!({ "orderId": id, "totalCents": done.state.total_cents }));
    Ok((StatusCode::ACCEPTED, [(LOCATION, format!("/orders/{id}"))], at, body).into_response())
}

async fn order(
    State(store): State<Store>,
    Path(id): Path<Id<Order>>,
    known: IfNoneMatch,
    seen: AfterPosition,
) -> Result<Response, Problem> {
    let row = store.read_model::<OrderRow>().get(id.key()).after(seen.position(&store).await?).await?;
    let row = row.ok_or_else(|| Problem::not_found("there is no such order"))?;
    let tag = EntityTag::from(Version(row.version.unsigned_abs()));
    if known.matches(tag) {
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    let customer = store.read_model::<CustomerRow>().get(&row.customer_id).await?;
    let body = json!({
        "orderId": id.key(),
        "customerId": row.customer_id,
        "customerName": customer.map(|customer| customer.name),
        "items": row.items,
        "totalCents": row.total_cents,
        "status": row.status,
        "reason": row.reason,
        "tracking": row.tracking,
    });
    Ok((tag, Json(body)).into_response())
}

/// Cancels the order that the client has seen.
async fn cancel(
    State(store): State<Store>,
    Path(id): Path<Id<Order>>,
    seen: IfMatch,
) -> Result<(EntityTag, AtPosition), Problem> {
    let command = store.execute(&id, Cancel { reason: "customer".into() }).expecting(seen.version()?);
    let done = command.await.map_err(Problem::precondition)?;
    Ok((done.version.into(), AtPosition(store.token(done.position).await?)))
}
