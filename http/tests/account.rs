//! An account over HTTP: each line of the tables in the documentation, sent by a client.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Path, State},
    http::{HeaderMap, Method, Request, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use eventstore::{StoreError, Version, prelude::*};
use eventstore_axum::{AfterPosition, AtPosition, CommandId, EntityTag, IfMatch, IfNoneMatch, Problem};
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

#[derive(Event, Clone, Debug, PartialEq)]
enum AccountEvent {
    Deposited { amount: u64 },
    Withdrawn { amount: u64 },
}

#[derive(Aggregate)]
struct Account {
    balance: u64,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Deposited { amount } => self.balance += amount,
            AccountEvent::Withdrawn { amount } => self.balance -= amount,
        }
    }
}

#[derive(Clone, Deserialize)]
struct Deposit {
    amount: u64,
}

#[derive(Clone, Deserialize)]
struct Withdraw {
    amount: u64,
}

impl Decide<Deposit> for Account {
    fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> {
        Ok(vec![AccountEvent::Deposited { amount }])
    }
}

impl Decide<Withdraw> for Account {
    fn decide(&self, Withdraw { amount }: Withdraw) -> Decision<Self> {
        ensure!(amount <= self.balance, "only {} left", self.balance);
        Ok(vec![AccountEvent::Withdrawn { amount }])
    }
}

#[derive(Serialize)]
struct View {
    balance: u64,
}

async fn show(State(store): State<Store>, Path(id): Path<Id<Account>>, seen: IfNoneMatch) -> Result<Response, Problem> {
    let account = store.load(&id).await?;
    if account.version == Version(0) {
        return Err(Problem::not_found("no such account"));
    }
    let tag = EntityTag::from(account.version);
    if seen.matches(tag) {
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    Ok((tag, Json(View { balance: account.balance })).into_response())
}

/// Needs a key, since a deposit may be sent twice.
async fn deposit(
    State(store): State<Store>,
    Path(id): Path<Id<Account>>,
    command: CommandId,
    Json(deposit): Json<Deposit>,
) -> Result<(EntityTag, Json<View>), Problem> {
    let done = store.execute(&id, deposit).command_id(command.scoped("ann/deposit")).await?;
    Ok((done.version.into(), Json(View { balance: done.state.balance })))
}

/// Needs the version that the client has seen.
async fn withdraw(
    State(store): State<Store>,
    Path(id): Path<Id<Account>>,
    seen: IfMatch,
    Json(withdraw): Json<Withdraw>,
) -> Result<EntityTag, Problem> {
    let done = store.execute(&id, withdraw).expecting(seen.version()?).await.map_err(Problem::precondition)?;
    Ok(done.version.into())
}

/// Up to where the client has seen the log; the answer says how far it goes.
async fn after(State(store): State<Store>, seen: AfterPosition) -> Result<(AtPosition, String), Problem> {
    let position = seen.position(&store).await?;
    Ok((AtPosition(store.token(store.head().await?).await?), position.to_string()))
}

/// Needs the token of a state by its last own event.
async fn changed(State(store): State<Store>, seen: IfMatch) -> Result<String, Problem> {
    Ok(seen.position(&store).await?.to_string())
}

/// The optional forms.
async fn optional(command: Option<CommandId>, seen: Option<IfMatch>) -> String {
    format!("{} {}", command.is_some(), seen.is_some())
}

async fn service() -> Router {
    let store = eventstore::connect("memory:").await.unwrap();
    Router::new()
        .route("/accounts/{id}", get(show).post(deposit).delete(withdraw))
        .route("/optional", get(optional))
        .route("/after", get(after))
        .route("/changed", get(changed))
        .with_state(store)
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn member(&self, name: &str) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&self.body).unwrap()[name].clone()
    }
}

async fn send(service: &Router, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = service.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = String::from_utf8(to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn deposited(service: &Router, key: &str, amount: u64) -> Answer {
    let body = format!(r#"{{"amount":{amount}}}"#);
    send(service, Method::POST, "/accounts/ann", &[("idempotency-key", key)], &body).await
}

#[tokio::test]
async fn a_repeated_key_is_one_deposit_with_one_answer() {
    let service = service().await;
    for key in ["\"7f3c\"", "7f3c", " 7f3c "] {
        let answer = deposited(&service, key, 100).await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, r#"{"balance":100}"#), "{key}");
        assert_eq!(answer.header("etag"), "\"1\"");
    }
    assert_eq!(deposited(&service, "another", 5).await.body, r#"{"balance":105}"#);
    // The first answer is for the first request, also when the state has changed since.
    assert_eq!(deposited(&service, "7f3c", 100).await.header("etag"), "\"1\"");
}

#[tokio::test]
async fn a_key_that_is_none_is_400() {
    let service = service().await;
    let long = "x".repeat(256);
    for key in ["", "\"\"", "a\"b", &long] {
        let answer = deposited(&service, key, 1).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{key}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.member("title"), "Bad Request");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
    let answer = send(&service, Method::POST, "/accounts/ann", &twice, r#"{"amount":1}"#).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let none = send(&service, Method::POST, "/accounts/ann", &[], r#"{"amount":1}"#).await;
    assert_eq!(none.status, StatusCode::BAD_REQUEST);
    assert_eq!(send(&service, Method::GET, "/accounts/ann", &[], "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_key_of_another_caller_is_another_command() {
    async fn answer(command: CommandId) -> String {
        format!("{} {} {}", command.scoped("ann"), command.scoped("bob"), command.scoped("an"))
    }
    let service = Router::new().route("/", get(answer));
    let ids = |key: &'static str| {
        let service = service.clone();
        async move { send(&service, Method::GET, "/", &[("idempotency-key", key)], "").await.body }
    };
    let (ids, shifted) = (ids("k").await, ids("nk").await);
    let (ids, shifted): (Vec<_>, Vec<_>) = (ids.split(' ').collect(), shifted.split(' ').collect());
    assert_ne!(ids[0], ids[1]);
    assert_ne!(ids[0], shifted[2], "scope and key are kept apart");
    // Ids are stored: they stay the same for ever.
    assert_eq!(ids[0], "4bedda79-830a-5d3c-adb7-7c4ca8e8fd53");
}

#[tokio::test]
async fn a_change_needs_the_version_that_was_seen() {
    let service = service().await;
    deposited(&service, "1", 100).await;
    let withdraw = async |tag: &[(&str, &str)], amount: u64| {
        send(&service, Method::DELETE, "/accounts/ann", tag, &format!(r#"{{"amount":{amount}}}"#)).await
    };
    assert_eq!(withdraw(&[], 10).await.status, StatusCode::PRECONDITION_REQUIRED);
    let done = withdraw(&[("if-match", "\"1\"")], 10).await;
    assert_eq!((done.status, done.header("etag")), (StatusCode::OK, "\"2\""));
    let late = withdraw(&[("if-match", "\"1\"")], 10).await;
    assert_eq!(late.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(late.member("version"), 2);
    assert_eq!(late.member("between"), serde_json::json!(["account.withdrawn"]));
    for never in ["W/\"2\"", "*", "\"02\"", "\"+2\"", "\"@2\"", "\"x\"", "2"] {
        assert_eq!(withdraw(&[("if-match", never)], 10).await.status, StatusCode::PRECONDITION_FAILED, "{never}");
    }
    assert_eq!(withdraw(&[("if-match", "\"1\", \"2\"")], 10).await.status, StatusCode::BAD_REQUEST);
    let refused = withdraw(&[("if-match", "\"2\"")], 1_000).await;
    assert_eq!((refused.status, refused.member("detail")), (StatusCode::UNPROCESSABLE_ENTITY, "only 90 left".into()));
}

#[tokio::test]
async fn what_the_client_has_already_is_304() {
    let service = service().await;
    deposited(&service, "1", 100).await;
    let show = async |seen: &str| send(&service, Method::GET, "/accounts/ann", &[("if-none-match", seen)], "").await;
    for same in ["\"1\"", "W/\"1\"", "\"7\", \"1\"", "*"] {
        let answer = show(same).await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::NOT_MODIFIED, ""), "{same}");
        assert_eq!(answer.header("etag"), "\"1\"");
    }
    for other in ["\"2\"", "garbage", ""] {
        assert_eq!(show(other).await.body, r#"{"balance":100}"#, "{other}");
    }
}

#[tokio::test]
async fn both_may_be_optional() {
    let service = service().await;
    let answer = async |headers: &[(&str, &str)]| send(&service, Method::GET, "/optional", headers, "").await.body;
    assert_eq!(answer(&[]).await, "false false");
    assert_eq!(answer(&[("idempotency-key", "k"), ("if-match", "\"3\"")]).await, "true true");
}

#[tokio::test]
async fn a_position_is_sent_back_and_one_of_another_log_is_refused() {
    let (service, other) = (service().await, self::service().await);
    let after = async |headers: &[(&str, &str)]| send(&service, Method::GET, "/after", headers, "").await;
    assert_eq!(after(&[]).await.body, "0");
    deposited(&service, "1", 100).await;
    let token = after(&[]).await.header("es-position").to_owned();
    assert!(token.ends_with(".1.1"), "{token}");
    assert_eq!(after(&[("es-position", &token)]).await.body, "1");

    deposited(&other, "1", 100).await;
    let foreign = send(&other, Method::GET, "/after", &[], "").await.header("es-position").to_owned();
    let beyond = token.replace(".1.1", ".1.7");
    let lost = token.replace(".1.1", ".2.1");
    for refused in [&foreign, &beyond, &lost] {
        assert_eq!(after(&[("es-position", refused)]).await.status, StatusCode::PRECONDITION_FAILED, "{refused}");
        let tag = format!("\"{refused}\"");
        let changed = send(&service, Method::GET, "/changed", &[("if-match", &tag)], "").await;
        assert_eq!(changed.status, StatusCode::PRECONDITION_FAILED, "{refused}");
    }
    let tag = format!("\"{token}\"");
    assert_eq!(send(&service, Method::GET, "/changed", &[("if-match", &tag)], "").await.body, "1");
    assert_eq!(
        send(&service, Method::GET, "/changed", &[("if-match", "\"1\"")], "").await.status,
        StatusCode::PRECONDITION_FAILED,
        "a version is no position"
    );
    for garbage in ["1", "x.1.1", &format!("{token}0x"), ""] {
        assert_eq!(after(&[("es-position", garbage)]).await.status, StatusCode::BAD_REQUEST, "{garbage}");
    }
    let twice = after(&[("es-position", &token), ("es-position", &token)]).await;
    assert_eq!(twice.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_failure_of_the_server_keeps_its_reason_from_the_client() {
    let secret = || Box::<dyn std::error::Error + Send + Sync>::from("password of db-7");
    let cases = [
        (StoreError::Busy(secret()), 503, "1"),
        (StoreError::Unavailable(secret()), 503, "1"),
        (StoreError::Unknown(secret()), 503, "1"),
        (StoreError::Damaged(secret()), 500, ""),
        (StoreError::Denied(secret()), 500, ""),
        (StoreError::Database(secret()), 500, ""),
    ];
    for (error, status, retry) in cases {
        let response = Problem::from(error).into_response();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers().get("retry-after").map_or("", |value| value.to_str().unwrap()), retry);
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("db-7"));
    }
}

#[tokio::test]
async fn members_are_added_and_those_of_the_standard_stay() {
    let problem = Problem::new(StatusCode::FORBIDDEN).with("status", 200).with("limit", 3);
    let response = problem.retry_after(Duration::from_millis(1_200)).into_response();
    assert_eq!(response.headers()["retry-after"], "2");
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body, serde_json::json!({ "type": "about:blank", "title": "Forbidden", "status": 403, "limit": 3 }));
}
