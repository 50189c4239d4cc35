//! Hands a request to a service, and its answer to the client.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{StatusCode, Uri, uri::PathAndQuery},
    response::{IntoResponse, Response},
};
use eventstore_axum::Problem;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

/// A service may take as long as a read that waits for a position, and a little longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A service that requests are handed to.
#[derive(Clone)]
pub(super) struct Upstream {
    address: SocketAddr,
    client: Client<HttpConnector, Body>,
}

impl Upstream {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, client: Client::builder(TokioExecutor::new()).build_http() }
    }
}

/// A service that is away is 503: the client repeats the request with the same key, which is safe.
pub(super) async fn forward(State(upstream): State<Upstream>, mut request: Request) -> Result<Response, Problem> {
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let uri = Uri::try_from(format!("http://{}{path}", upstream.address));
    *request.uri_mut() = uri.map_err(|error| Problem::new(StatusCode::BAD_REQUEST).detail(error.to_string()))?;
    match timeout(PATIENCE, upstream.client.request(request)).await {
        Ok(Ok(response)) => Ok(response.map(Body::new).into_response()),
        Ok(Err(_)) => Err(away(StatusCode::SERVICE_UNAVAILABLE)),
        Err(_) => Err(away(StatusCode::GATEWAY_TIMEOUT)),
    }
}

fn away(status: StatusCode) -> Problem {
    Problem::new(status).detail("the service does not answer").retry_after(Duration::from_secs(1))
}
