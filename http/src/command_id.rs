//! The header `Idempotency-Key` as a command id.

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use http::{HeaderName, StatusCode, request::Parts};
use uuid::Uuid;

use crate::{header::single, problem::Problem};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The namespace of command ids. It must never change, since the ids of recorded commands depend on it.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1d_0a53_2a4f_5d0e_9d5e_4c8b_11a7_3e20);

/// The longest key, in bytes.
const LONGEST: usize = 255;

/// The header `Idempotency-Key`: the client chooses a key for each operation, and repeats it with each attempt.
///
/// A command with its [`scoped`](Self::scoped) id is recorded once. A repeated request gets the first answer, from any
/// process. The key is text of 1 to 255 printable ASCII characters, with or without the quotes that
/// [the draft](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/) asks for.
///
/// A request without the header, with an empty one or with two is refused with 400. `Option<CommandId>` accepts a
/// request without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandId {
    key: String,
}

impl CommandId {
    /// Returns the command id of this key within a scope. The scope is the authenticated caller, and the operation if a
    /// caller may use one key for several: `"user-7/withdraw"`.
    ///
    /// Without a scope, one caller could get the answer to another's command by repeating its key.
    pub fn scoped(&self, scope: &str) -> Uuid {
        // The length keeps scope and key apart.
        Uuid::new_v5(&NAMESPACE, format!("{}:{scope}{}", scope.len(), self.key).as_bytes())
    }

    /// Returns the key itself, if it is a UUID, for callers that trust each other.
    pub fn uuid(&self) -> Option<Uuid> {
        self.key.parse().ok()
    }

    fn read(parts: &Parts) -> Result<Option<Self>, Problem> {
        let Some(text) = single(&parts.headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
        let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        if key.is_empty() || key.len() > LONGEST || key.contains('"') {
            let wrong = format!("`Idempotency-Key` must have 1 to {LONGEST} printable ASCII characters");
            return Err(Problem::new(StatusCode::BAD_REQUEST).detail(wrong));
        }
        Ok(Some(Self { key: key.into() }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for CommandId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::read(parts)?.ok_or_else(|| {
            Problem::new(StatusCode::BAD_REQUEST).detail("this request needs the header `Idempotency-Key`")
        })
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for CommandId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Problem> {
        Self::read(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(scope: &str, key: &str) -> String {
        CommandId { key: key.into() }.scoped(scope).to_string()
    }

    #[test]
    fn the_id_of_a_key_never_changes() {
        assert_eq!(id("ann", "k1"), "17cb69f6-9671-5ff5-9ddc-9a8aaf84568b");
        assert_eq!(id("", "k1"), "3b449313-776a-5d5e-861e-51d38e73db16");
    }

    #[test]
    fn scope_and_key_are_kept_apart() {
        assert_eq!(id("an", "nk1"), "c8e2d7eb-3628-5a3b-9b55-303f9ca380f2");
        assert_ne!(id("ann", "k1"), id("an", "nk1"));
    }
}
