//! The body of a request.

use axum::{
    Json,
    extract::{FromRequest, Request},
};
use eventstore_axum::Problem;
use serde::de::DeserializeOwned;

/// A body in JSON. One that is not what the handler expects is answered by a problem.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(Problem::new(rejection.status()).detail(rejection.body_text())),
        }
    }
}
