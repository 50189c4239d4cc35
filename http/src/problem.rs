//! Errors as `application/problem+json`.

use std::{error::Error, fmt, time::Duration};

use axum_core::response::{IntoResponse, Response};
use eventstore_core::{CommandError, Conflict, StoreError};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::{Map, Value as Json};

/// How long a client waits before it repeats a request that may succeed later.
const PAUSE: Duration = Duration::from_secs(1);

/// An error as a client sees it: problem details of [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457).
///
/// The error type of a handler: `?` turns a [`CommandError`] or a [`StoreError`] into one.
///
/// | error | status | members |
/// |---|---|---|
/// | [`CommandError::Rejected`] | 422 | `detail`: the words of the rule |
/// | [`CommandError::Conflict`] | 409; 412 through [`Problem::precondition`] | `version`, `between` |
/// | [`StoreError::Reused`], [`StoreError::Duplicate`] | 422 | |
/// | [`StoreError::Invalid`] | 400 | `detail`: what is wrong with the request |
/// | [`StoreError::Behind`] | 504, with `Retry-After` | |
/// | [retryable](StoreError::is_retryable) | 503, with `Retry-After` | |
/// | every other | 500 | |
///
/// A problem of 500 or above does not name its reason. The reason is logged by `tracing` at level error.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    detail: Option<String>,
    members: Map<String, Json>,
    retry_after: Option<Duration>,
}

impl Problem {
    /// Returns a problem with the title of its status.
    pub fn new(status: StatusCode) -> Self {
        Self { status, detail: None, members: Map::new(), retry_after: None }
    }

    /// Returns a problem with status 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND).detail(detail)
    }

    /// Sets `detail`, which explains this occurrence to a person.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a member. It does not replace `type`, `title`, `status` or `detail`.
    pub fn with(mut self, member: impl Into<String>, value: impl Into<Json>) -> Self {
        self.members.insert(member.into(), value.into());
        self
    }

    /// Sets `Retry-After`, when the request may be repeated. It is rounded up to seconds.
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Converts the error of a command with an `If-Match`: a conflict is 412, because the client has named the version
    /// it had seen. Every other error is converted as by `From`.
    ///
    /// ```
    /// # use eventstore_axum::{IfMatch, Problem};
    /// # use eventstore::{prelude::*, Version};
    /// # #[derive(Event, Clone, Debug)]
    /// # enum AccountEvent { Closed }
    /// # #[derive(Aggregate)]
    /// # struct Account;
    /// # impl Evolve for Account { type Event = AccountEvent; fn evolve(&mut self, _: AccountEvent) {} }
    /// # #[derive(Clone)]
    /// # struct Close;
    /// # impl Decide<Close> for Account { fn decide(&self, _: Close) -> Decision<Self> { Ok(vec![AccountEvent::Closed]) } }
    /// async fn close(store: Store, id: Id<Account>, seen: IfMatch) -> Result<(), Problem> {
    ///     store.execute(&id, Close).expecting(seen.version()?).await.map_err(Problem::precondition)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn precondition<R: Error>(error: CommandError<R>) -> Self {
        let mut problem = Self::from(error);
        if problem.status == StatusCode::CONFLICT {
            problem.status = StatusCode::PRECONDITION_FAILED;
        }
        problem
    }

    /// Returns a problem without the reason, and logs the reason.
    fn server(status: StatusCode, error: &StoreError) -> Self {
        tracing::error!(status = status.as_u16(), error = error as &dyn Error, "a request failed");
        Self::new(status).detail("the server could not answer; its log has the reason")
    }
}

impl<R: Error> From<CommandError<R>> for Problem {
    fn from(error: CommandError<R>) -> Self {
        match error {
            CommandError::Rejected(refusal) => Self::new(StatusCode::UNPROCESSABLE_ENTITY).detail(refusal.to_string()),
            CommandError::Conflict(conflict) => conflict.into(),
            CommandError::Store(error) => error.into(),
        }
    }
}

impl From<Conflict> for Problem {
    fn from(conflict: Conflict) -> Self {
        let between: Vec<Json> = conflict.between.iter().map(|name| (&**name).into()).collect();
        Self::new(StatusCode::CONFLICT)
            .detail(conflict.to_string())
            .with("version", conflict.actual.0)
            .with("between", between)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Conflict(conflict) => conflict.clone().into(),
            StoreError::Reused { .. } | StoreError::Duplicate { .. } => Self::new(StatusCode::UNPROCESSABLE_ENTITY)
                .detail("the idempotency key was used before, for another request"),
            StoreError::Invalid(invalid) => Self::new(StatusCode::BAD_REQUEST).detail(invalid.to_string()),
            StoreError::Behind { .. } => Self::server(StatusCode::GATEWAY_TIMEOUT, &error).retry_after(PAUSE),
            error if error.is_retryable() => Self::server(StatusCode::SERVICE_UNAVAILABLE, error).retry_after(PAUSE),
            error => Self::server(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        self.detail.iter().try_for_each(|detail| write!(f, ": {detail}"))
    }
}

impl Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail, members: mut body, retry_after } = self;
        body.insert("type".into(), "about:blank".into());
        body.insert("title".into(), status.canonical_reason().unwrap_or("error").into());
        body.insert("status".into(), status.as_u16().into());
        if let Some(detail) = detail {
            body.insert("detail".into(), detail.into());
        }
        let mut response = (status, Json::Object(body).to_string()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(pause) = retry_after {
            let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
