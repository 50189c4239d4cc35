//! What the gateway says to clients, over HTTP.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::{Body, BodyDataStream, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use eventstore::{Envelope, Uuid};
use futures::StreamExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value as Json, json};
use shop::{Addresses, Place, SERVICES, Shop};
use tokio::time::{sleep, timeout};

type Any = Box<dyn std::error::Error + Send + Sync>;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Json,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

struct Browser {
    gateway: SocketAddr,
    client: Client<HttpConnector, Body>,
}

impl Browser {
    fn new(gateway: SocketAddr) -> Self {
        Self { gateway, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Result<Request<Body>, Any> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.gateway));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(request.header("Content-Type", "application/json").body(body)?)
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Json) -> Result<Answer, Any> {
        let body = if body.is_null() { Body::empty() } else { body.to_string().into() };
        let response = self.client.request(self.request(method, path, headers, body)?).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = to_bytes(Body::new(response.into_body()), 1 << 20).await?;
        Ok(Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or_default() })
    }

    async fn order(&self, key: &str, product: &str) -> Result<Answer, Any> {
        let order = json!({ "customerId": "c1", "items": [{ "productId": product, "quantity": 2 }] });
        self.send("POST", "/orders", &[("Idempotency-Key", key)], &order).await
    }

    /// Reads an order, after what an answer has done.
    async fn see(&self, placed: &Answer) -> Result<Answer, Any> {
        let at = [("ES-Position", placed.header("es-position"))];
        self.send("GET", placed.header("location"), &at, &Json::Null).await
    }

    /// Reads an order until it is shipped or cancelled.
    async fn end_of(&self, placed: &Answer) -> Result<Answer, Any> {
        let ended = async {
            loop {
                let seen = self.see(placed).await?;
                if seen.body["status"] == "completed" || seen.body["status"] == "cancelled" {
                    return Ok::<_, Any>(seen);
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), ended).await?
    }

    /// Reads a page until it contains a text.
    async fn becomes(&self, path: &str, text: &str) -> Result<Json, Any> {
        let read = async {
            loop {
                let seen = self.send("GET", path, &[], &Json::Null).await?.body;
                if seen.to_string().contains(text) {
                    return Ok::<_, Any>(seen);
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), read).await?
    }

    /// Opens the server-sent events. Once this returns, no later one is missed.
    async fn follow(&self, headers: &[(&str, &str)]) -> Result<BodyDataStream, Any> {
        let response = self.client.request(self.request("GET", "/orders/events", headers, Body::empty())?).await?;
        Ok(Body::new(response.into_body()).into_data_stream())
    }
}

/// Reads server-sent events until the data of one contains a text; returns all that has arrived.
async fn read_until(mut events: BodyDataStream, until: &str) -> Result<String, Any> {
    let mut text = String::new();
    let read = async {
        while !text.contains(until) {
            let bytes = events.next().await.ok_or("the events have ended")??;
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        Ok::<_, Any>(())
    };
    timeout(Duration::from_secs(20), read).await??;
    Ok(text)
}

async fn shop(services: &[&str]) -> Result<(Shop, Browser), Any> {
    let place = Place::new("memory:", "memory:", Addresses::free().await?);
    let shop = Shop::start(services, &place).await?;
    Ok((shop, Browser::new(place.addresses.gateway)))
}

#[tokio::test]
async fn an_order_is_accepted_and_shipped() -> Result<(), Any> {
    let (shop, browser) = shop(&SERVICES).await?;
    let named = json!({ "name": "Ann" });
    browser.send("PUT", "/customers/c1", &[("Idempotency-Key", "ann")], &named).await?;
    let placed = browser.order("one", "prod-123").await?;
    assert_eq!(placed.status, StatusCode::ACCEPTED);
    let order = placed.body["orderId"].as_str().unwrap_or_default();
    assert_eq!(placed.header("location"), format!("/orders/{order}"));
    assert_eq!(placed.header("es-position").split('.').count(), 3);
    let end = browser.end_of(&placed).await?.body;
    assert_eq!((&end["status"], &end["totalCents"]), (&json!("completed"), &json!(3_998)));
    assert_eq!(end["customerName"], "Ann");
    let eve = json!({ "name": "Eve" });
    browser.send("PUT", "/customers/c1", &[("Idempotency-Key", "eve")], &eve).await?;
    browser.becomes(placed.header("location"), "Eve").await?;
    // Messages of different services arrive in any order.
    let pages = browser.becomes("/orders/pages", "mail: shipped").await?;
    let mut steps: Vec<&str> = pages[0][1]["steps"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    steps.sort_unstable();
    let all = ["confirmed", "created", "mail: created", "mail: shipped", "paid", "reserved", "shipped"];
    assert_eq!((&pages[0][0], &*steps), (&json!(order), &all[..]));
    shop.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_saga_leads_orders_to_their_end() -> Result<(), Any> {
    let mut place = Place::new("memory:", "memory:", Addresses::free().await?);
    place.orchestrated = true;
    let shop = Shop::start(&SERVICES, &place).await?;
    let browser = Browser::new(place.addresses.gateway);
    // Ten pieces of the last product are there, and an order has two.
    let shipped = browser.order("shipped", "prod-123").await?;
    let mut scarce = vec![];
    for n in 0..6 {
        scarce.push(browser.order(&format!("scarce {n}"), "prod-scarce").await?);
    }
    assert_eq!(browser.end_of(&shipped).await?.body["status"], "completed");
    let mut reasons = vec![];
    for order in &scarce {
        let end = browser.end_of(order).await?.body;
        if end["status"] == "cancelled" {
            reasons.push(end["reason"].as_str().unwrap_or_default().to_owned());
        }
    }
    assert_eq!(reasons, ["inventory: prod-scarce is out of stock"]);
    shop.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_repeated_key_has_the_same_answer() -> Result<(), Any> {
    let (shop, browser) = shop(&["order", "gateway"]).await?;
    let (first, again) = (browser.order("one", "prod-123").await?, browser.order("one", "prod-123").await?);
    assert_eq!((again.status, &again.body), (StatusCode::ACCEPTED, &first.body));
    assert_eq!(again.header("es-position"), first.header("es-position"));
    let other = browser.order("two", "prod-123").await?;
    assert_ne!(other.body["orderId"], first.body["orderId"]);
    let same_key = browser.order("two", "prod-456").await?;
    assert_eq!(same_key.status, StatusCode::UNPROCESSABLE_ENTITY);
    // Without a key, a repetition could not be told from a second order.
    let without = browser.send("POST", "/orders", &[], &json!({ "customerId": "c1", "items": [] })).await?;
    assert_eq!(without.status, StatusCode::BAD_REQUEST);
    shop.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_order_that_has_not_changed_is_304() -> Result<(), Any> {
    let (shop, browser) = shop(&["order", "gateway"]).await?;
    let placed = browser.order("one", "prod-123").await?;
    let seen = browser.see(&placed).await?;
    assert_eq!((seen.status, seen.header("etag")), (StatusCode::OK, "\"1\""));
    let known = [("If-None-Match", "\"1\"")];
    let again = browser.send("GET", placed.header("location"), &known, &Json::Null).await?;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);
    let nothing = browser.send("GET", "/orders/none", &[], &Json::Null).await?;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
    shop.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_order_is_cancelled_as_it_was_seen() -> Result<(), Any> {
    let (shop, browser) = shop(&["order", "gateway"]).await?;
    let placed = browser.order("one", "prod-123").await?;
    let order = placed.header("location");
    let without = browser.send("DELETE", order, &[], &Json::Null).await?;
    assert_eq!(without.status, StatusCode::PRECONDITION_REQUIRED);
    let other = browser.send("DELETE", order, &[("If-Match", "\"3\"")], &Json::Null).await?;
    assert_eq!(other.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(other.header("content-type"), "application/problem+json");
    let seen = browser.send("DELETE", order, &[("If-Match", "\"1\"")], &Json::Null).await?;
    assert_eq!((seen.status, seen.header("etag")), (StatusCode::OK, "\"2\""));
    // The version is right, and the rule says no.
    let again = browser.send("DELETE", order, &[("If-Match", "\"2\"")], &Json::Null).await?;
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    shop.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_is_refused_is_a_problem() -> Result<(), Any> {
    let (mut shop, browser) = shop(&["order", "gateway"]).await?;
    let refused = browser.order("one", "prod-of-no-shop").await?;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    assert_eq!(refused.body["detail"], "there is no product prod-of-no-shop");
    let nameless = json!({ "customerId": "a\nb", "items": [{ "productId": "prod-123", "quantity": 1 }] });
    let refused = browser.send("POST", "/orders", &[("Idempotency-Key", "two")], &nameless).await?;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let refused = browser.send("POST", "/orders", &[("Idempotency-Key", "three")], &json!({ "items": -1 })).await?;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    shop.stop_one("order").await;
    let away = browser.order("one", "prod-123").await?;
    assert_eq!((away.status, away.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert_eq!(away.header("content-type"), "application/problem+json");
    shop.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_read_waits_for_a_position_and_not_for_ever() -> Result<(), Any> {
    let place = Place::new("memory:", "memory:", Addresses::free().await?);
    let shop = Shop::start(&["order", "gateway"], &place).await?;
    let browser = Browser::new(place.addresses.gateway);
    let placed = browser.order("one", "prod-123").await?;
    assert_eq!(browser.see(&placed).await?.body["status"], "created");
    // A read model that an operator has paused does not come further, once its node has heard of it.
    eventstore::Processors::new(&place.store("order").await?).pause("orders@1").await?;
    let mut late = browser.see(&placed).await?;
    for n in 0..100 {
        let other = browser.order(&format!("late {n}"), "prod-123").await?;
        late = browser.see(&other).await?;
        if late.status != StatusCode::OK {
            break;
        }
    }
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(!late.header("retry-after").is_empty());
    shop.stop().await;
    Ok(())
}

#[tokio::test]
async fn events_go_on_where_a_browser_was() -> Result<(), Any> {
    let (shop, browser) = shop(&SERVICES).await?;
    let events = browser.follow(&[]).await?;
    let placed = browser.order("one", "prod-123").await?;
    let events = read_until(events, "mail: shipped").await?;
    assert!(events.contains(placed.body["orderId"].as_str().ok_or("an order has an id")?));
    let ids: Vec<&str> = events.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert!(ids.len() >= 6, "{events}");
    // From the second id on, all that came after it comes again, and nothing else.
    let rest = read_until(browser.follow(&[("Last-Event-ID", ids[1])]).await?, ids[ids.len() - 1]).await?;
    let again: Vec<&str> = rest.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(again[..ids.len() - 2], ids[2..]);
    let foreign = [("Last-Event-ID", &*format!("{}.1.1", Uuid::nil().simple()))];
    let foreign = browser.send("GET", "/orders/events", &foreign, &Json::Null).await?;
    assert!(foreign.status.is_client_error(), "{}", foreign.status);
    shop.stop().await;
    Ok(())
}

#[tokio::test]
async fn events_go_on_behind_a_message_that_cannot_be_read() -> Result<(), Any> {
    let place = Place::new("memory:", "memory:", Addresses::free().await?);
    let shop = Shop::start(&SERVICES, &place).await?;
    let browser = Browser::new(place.addresses.gateway);
    let events = browser.follow(&[]).await?;
    let poison = Envelope::new(Uuid::now_v7(), "another program", "payment.completed", "poisoned", b"{}".to_vec());
    place.bus().await?.publisher.publish("payments", &[poison]).await;
    let placed = browser.order("one", "prod-123").await?;
    let events = read_until(events, "mail: shipped").await?;
    assert!(events.contains("poisoned") && events.contains(placed.body["orderId"].as_str().ok_or("it has an id")?));
    shop.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_way_that_orders_are_led_is_fixed_for_good() -> Result<(), Any> {
    let mut place = Place::new("memory:", "memory:", Addresses::free().await?);
    Shop::start(&SERVICES, &place).await?.stop().await;
    place.orchestrated = true;
    for service in SERVICES {
        let refused = Shop::start(&[service], &place).await.err().ok_or("it is refused")?;
        assert!(refused.to_string().contains("without `--saga orchestrated`"), "{refused}");
    }
    place.orchestrated = false;
    Shop::start(&SERVICES, &place).await?.stop().await;
    Ok(())
}
