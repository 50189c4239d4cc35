//! The identity of a log, and positions that name their log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::{invalid::Invalid, stream::Position, timestamp::Timestamp};

/// The identity of a log. It is made with the log; a backup and a log restored from it keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The id of the log.
    pub id: Uuid,
    /// Which history of the log, from 1: raised when an operator accepts that the end of the log was lost.
    pub epoch: u64,
    /// When the log was made.
    pub since: Timestamp,
}

impl Identity {
    /// Returns the identity that a store keeps.
    pub fn new(id: Uuid, epoch: u64, since: Timestamp) -> Self {
        Self { id, epoch, since }
    }
}

/// A position that names its log, to be sent to other programs: in an HTTP header, a message, a file. As text and in
/// JSON it is `{log id}.{epoch}.{position}`.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use eventstore::{StoreError, Token};
///
/// let store = eventstore::connect("memory:").await?;
/// let header = store.token(store.head().await?).await?.to_string();
/// assert_eq!(store.position_of(&header.parse::<Token>()?).await?, store.head().await?);
///
/// let other = eventstore::connect("memory:").await?;
/// assert!(matches!(other.position_of(&header.parse()?).await, Err(StoreError::Forked { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The id of the log.
    pub log: Uuid,
    /// The epoch of the log when the token was made.
    pub epoch: u64,
    /// The position.
    pub position: Position,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, epoch, position } = self;
        write!(f, "{log}.{epoch}.{position}")
    }
}

impl FromStr for Token {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        let parts = || {
            let [log, epoch, position] = text.split('.').collect::<Vec<_>>()[..] else { return None };
            let log = Uuid::try_parse(log).ok()?;
            Some(Self { log, epoch: digits(epoch)?, position: Position(digits(position)?) })
        };
        parts().ok_or_else(|| Invalid::name("token", text, "is not `{log id}.{epoch}.{position}`"))
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written_and_nothing_else_is() {
        let log = "0192a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";
        let token = Token { log: log.parse().expect("a UUID"), epoch: 2, position: Position(42) };
        assert_eq!(token.to_string(), format!("{log}.2.42"));
        assert_eq!(token.to_string().parse(), Ok(token));
        let json = serde_json::to_string(&token).expect("JSON");
        assert_eq!(json, format!("\"{log}.2.42\""));
        assert_eq!(serde_json::from_str::<Token>(&json).expect("a token"), token);
        for text in ["", "42", "a.2.42", &format!("{log}.2"), &format!("{log}.2.42.1"), &format!("{log}.+2.42")] {
            assert!(matches!(text.parse::<Token>(), Err(Invalid::Name { what: "token", .. })), "{text}");
        }
        for text in [format!("{log}.2."), format!("{log}.2.-1"), format!("{log}.2.18446744073709551616")] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}
