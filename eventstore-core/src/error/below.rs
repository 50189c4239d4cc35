//! Finds the error below an error, and whether a chain of errors says that another system is away.

use std::{error::Error, iter::successors, sync::Arc};

use super::{
    BoxError,
    command::{CommandError, Refusal},
    store::StoreError,
};

/// Marks an error of another system that is away, or refuses every call for a while. If the error of a processor's
/// handler is an `Unavailable`, or has one anywhere below it ([`source`](Error::source)), the node tries the handler
/// again until it succeeds, with pauses of up to 5 seconds, and blames no event. `Busy`, `Unavailable` and `Unknown` of
/// a store or of a command need no mark, unless the command has a refusal type of its own, or the error is in an enum
/// under `#[error(transparent)]`, which hides it from `source`: give it a text, and `#[from]`.
///
/// ```
/// # use eventstore_core::{BoxError, Unavailable};
/// # struct Client;
/// # impl Client { fn send(&self) -> Result<(), std::io::Error> { Ok(()) } }
/// fn deliver(client: &Client) -> Result<(), BoxError> {
///     client.send().map_err(Unavailable::new)?;
///     Ok(())
/// }
/// # deliver(&Client).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[error("unavailable")]
pub struct Unavailable(#[source] BoxError);

impl Unavailable {
    /// Wraps any error.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }

    /// Whether an error, or one anywhere below it, is `Unavailable`, or is `Busy`, `Unavailable` or `Unknown` of a
    /// store. A conflict is not, nor is a read model that no node builds: such an error may last.
    pub fn is_in(error: &(dyn Error + 'static)) -> bool {
        let away = |error: &StoreError| {
            matches!(error, StoreError::Busy(_) | StoreError::Unavailable(_) | StoreError::Unknown(_))
        };
        successors(Some(error), |error| below(*error))
            .any(|error| error.is::<Self>() || error.downcast_ref().is_some_and(away))
    }
}

/// Returns the error below another: of a [`StoreError`] its [`reason`](StoreError::reason), of a [`CommandError`] the
/// error of the store, of an [`Arc`] or an `io::Error` the error it wraps.
#[doc(hidden)]
pub fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(CommandError::Store(error)) = error.downcast_ref::<CommandError<Refusal>>() {
        return Some(error);
    }
    // The `source` of a wrapper is that of the wrapped error, and would skip the wrapped error.
    if let Some(shared) = error.downcast_ref::<Arc<StoreError>>() {
        return Some(&**shared);
    }
    if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**shared);
    }
    if let Some(wrapped) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return Some(wrapped);
    }
    error.downcast_ref().map_or_else(|| error.source(), StoreError::reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_an_error_of_a_store_is_found() {
        let away = || Unavailable::new("away");
        let stopped = StoreError::Stopped { projection: "sum@1".into(), reason: away().into() };
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(away());
        for error in [away().into(), BoxError::from(stopped), StoreError::Busy(shared.into()).into()] {
            assert!(Unavailable::is_in(&*error), "{error}");
        }
        assert!(!Unavailable::is_in(&StoreError::Damaged(std::io::Error::other("full").into())));
    }
}
