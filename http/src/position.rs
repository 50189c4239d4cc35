//! Positions of the log: `ES-Position`.

use std::convert::Infallible;

use axum_core::{
    extract::FromRequestParts,
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use eventstore_core::{Position, Store, StoreError, Token};
use http::{HeaderName, HeaderValue, StatusCode, request::Parts};

use crate::{header::single, problem::Problem};

const ES_POSITION: HeaderName = HeaderName::from_static("es-position");

/// The header `ES-Position` of a response: a position of the log that includes what the request has done. A client that
/// sends it with the next request, to any node, reads its own writes.
///
/// Part of a response: `(AtPosition(store.token(done.position).await?), Json(view))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtPosition(pub Token);

impl IntoResponseParts for AtPosition {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        if let Ok(value) = HeaderValue::try_from(self.0.to_string()) {
            response.headers_mut().insert(ES_POSITION, value);
        }
        Ok(response)
    }
}

/// A response without a body.
impl IntoResponse for AtPosition {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

/// The header `ES-Position` of a request: a read waits until its rows include that position.
///
/// | the request has | answer of the extractor |
/// |---|---|
/// | no such header | no position: the read waits for nothing |
/// | a [`Token`] | the token |
/// | anything else, or the header twice | 400 |
///
/// ```
/// # use eventstore_axum::{AfterPosition, Problem};
/// # use eventstore::prelude::*;
/// # #[derive(Event, Clone, Debug)]
/// # enum AccountEvent { Opened }
/// # #[derive(ReadModel, serde::Serialize, serde::Deserialize, Default)]
/// # struct Accounts { opened: i64 }
/// # impl Project for Accounts {
/// #     type Event = AccountEvent;
/// #     fn project(row: &mut Row<Self>, _: &Recorded<AccountEvent>) { row.opened += 1; }
/// # }
/// async fn list(store: Store, seen: AfterPosition) -> Result<Vec<(String, Accounts)>, Problem> {
///     Ok(store.read_model::<Accounts>().list().after(seen.position(&store).await?).await?)
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AfterPosition(pub Option<Token>);

impl AfterPosition {
    /// Returns the position, for `.after(…)`; 0 if the request has none.
    ///
    /// # Errors
    /// 412 if the token is of another log, or of a history of this log that was lost: the client reads again without
    /// it; 503 or 500 if the store cannot tell.
    pub async fn position(self, store: &Store) -> Result<Position, Problem> {
        let Some(token) = self.0 else { return Ok(Position(0)) };
        store.position_of(&token).await.map_err(|error| match error {
            StoreError::Forked { .. } => Problem::new(StatusCode::PRECONDITION_FAILED)
                .detail("`ES-Position` is not a position of this log: read again without it"),
            error => error.into(),
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AfterPosition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(text) = single(&parts.headers, &ES_POSITION)? else { return Ok(Self(None)) };
        text.parse()
            .map(|token| Self(Some(token)))
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST).detail("`ES-Position` is not a position token"))
    }
}
