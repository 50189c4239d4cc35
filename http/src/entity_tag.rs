//! Entity tags: `ETag`, `If-Match` and `If-None-Match`.

use std::{convert::Infallible, fmt};

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use eventstore_core::{Position, Store, StoreError, Token, Version};
use http::{
    HeaderValue, StatusCode,
    header::{ETAG, IF_MATCH, IF_NONE_MATCH},
    request::Parts,
};

use crate::{header::single, problem::Problem};

/// The header `ETag` of a state. It changes with each event of the state, and with no other event.
///
/// | the state | tag | the precondition of a command |
/// |---|---|---|
/// | of one stream | its version, `"3"` | `.expecting(version)` |
/// | by tag, `every`, or several | the token of [`changed`](eventstore_core::Loaded::changed), `"{log id}.{epoch}.1840"` | `.expecting_position(position)` |
///
/// Part of a response: `(EntityTag::from(loaded.version), Json(view))`, or
/// `(EntityTag::from(store.token(loaded.changed).await?), Json(view))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntityTag {
    /// The version of one stream.
    Version(Version),
    /// The position of the last event of a state of several streams.
    Position(Token),
}

impl EntityTag {
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('"')?.strip_suffix('"')?;
        // Only the exact form that `Display` writes: no sign, no leading zero.
        let number = |text: &str| text.parse().ok().filter(|number: &u64| number.to_string() == text);
        match text.contains('.') {
            true => text.parse().ok().filter(|token: &Token| token.to_string() == text).map(Self::Position),
            false => number(text).map(|version| Self::Version(Version(version))),
        }
    }
}

impl From<Version> for EntityTag {
    fn from(version: Version) -> Self {
        Self::Version(version)
    }
}

impl From<Token> for EntityTag {
    fn from(token: Token) -> Self {
        Self::Position(token)
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "\"{version}\""),
            Self::Position(token) => write!(f, "\"{token}\""),
        }
    }
}

impl IntoResponseParts for EntityTag {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            response.headers_mut().insert(ETAG, value);
        }
        Ok(response)
    }
}

/// A response without a body.
impl IntoResponse for EntityTag {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

/// The header `If-Match`: the version of the state that the client has seen.
///
/// | the request has | answer of the extractor |
/// |---|---|
/// | no such header | 428; `None` for `Option<IfMatch>` |
/// | one strong tag of the form of [`EntityTag`] | the tag |
/// | a weak tag, another service's tag, `*` | 412: no state has it |
/// | several tags, or the header twice | 400 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IfMatch(pub EntityTag);

impl IfMatch {
    /// Returns the version, for `.expecting(…)`.
    ///
    /// # Errors
    /// 412 if the client has sent the tag of another kind of state.
    pub fn version(self) -> Result<Version, Problem> {
        match self.0 {
            EntityTag::Version(version) => Ok(version),
            EntityTag::Position(_) => Err(precondition_failed()),
        }
    }

    /// Returns the position, for `.expecting_position(…)`.
    ///
    /// # Errors
    /// 412 if the client has sent the tag of another kind of state, of another log, or of a history that was lost; 503
    /// or 500 if the store cannot tell.
    pub async fn position(self, store: &Store) -> Result<Position, Problem> {
        let EntityTag::Position(token) = self.0 else { return Err(precondition_failed()) };
        store.position_of(&token).await.map_err(|error| match error {
            StoreError::Forked { .. } => precondition_failed(),
            error => error.into(),
        })
    }

    fn read(parts: &Parts) -> Result<Option<Self>, Problem> {
        let Some(text) = single(&parts.headers, &IF_MATCH)? else { return Ok(None) };
        if text.contains(',') {
            return Err(Problem::new(StatusCode::BAD_REQUEST).detail("`If-Match` must name one entity tag"));
        }
        EntityTag::parse(text).map(|tag| Some(Self(tag))).ok_or_else(precondition_failed)
    }
}

fn precondition_failed() -> Problem {
    Problem::new(StatusCode::PRECONDITION_FAILED).detail("`If-Match` is not an entity tag of this resource")
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::read(parts)?.ok_or_else(|| {
            Problem::new(StatusCode::PRECONDITION_REQUIRED).detail("this request needs the header `If-Match`")
        })
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Problem> {
        Self::read(parts)
    }
}

/// The header `If-None-Match`: the states that the client has. It is never refused: a tag that cannot be parsed matches
/// no state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IfNoneMatch {
    any: bool,
    tags: Vec<EntityTag>,
}

impl IfNoneMatch {
    /// Whether the client has this state, so that the answer is 304 without a body. Weak tags count, as RFC 9110 says.
    pub fn matches(&self, tag: EntityTag) -> bool {
        self.any || self.tags.contains(&tag)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let mut seen = Self::default();
        for text in parts.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()) {
            for tag in text.split(',').map(str::trim) {
                seen.any |= tag == "*";
                seen.tags.extend(EntityTag::parse(tag.strip_prefix("W/").unwrap_or(tag)));
            }
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_one_form() {
        assert_eq!(EntityTag::parse("\"3\""), Some(EntityTag::Version(Version(3))));
        assert_eq!(EntityTag::parse("\"0\""), Some(EntityTag::Version(Version(0))));
        for other in ["3", "\"3", "\"\"", "\"+3\"", "\"03\"", "\" 3\"", "\"-3\"", "\"3.\"", "\"18446744073709551616\""]
        {
            assert_eq!(EntityTag::parse(other), None, "{other}");
        }
    }
}
