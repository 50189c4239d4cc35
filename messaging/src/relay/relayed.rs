//! How far a relay had come when it published a message: the attribute `relayed`.

use std::{fmt, str::FromStr};

use eventstore_core::{Identity, Position};
use uuid::Uuid;

/// How far a relay had come in a partition when it published a message.
///
/// `{log id}.{log epoch}.{relay}/{position}/{event id}`: up to this message of that event. `/all` at its end: up to that
/// event, all its messages included. So it is with a message that had waited as a dead letter and came late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The log, its epoch, and the relay.
    pub of: String,
    /// The position of the event.
    pub position: Position,
    /// The id of the event.
    pub event: Uuid,
    /// Whether all messages of the event are published.
    pub all: bool,
}

impl Relayed {
    /// Returns the log, its epoch and the relay, as the attribute has them.
    pub fn of(log: &Identity, relay: &str) -> String {
        format!("{}.{}.{relay}", log.id, log.epoch)
    }
}

impl fmt::Display for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, position, event, all } = self;
        write!(f, "{of}/{position}/{event}{}", if *all { "/all" } else { "" })
    }
}

impl FromStr for Relayed {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (text, all) = text.strip_suffix("/all").map_or((text, false), |text| (text, true));
        let mut parts = text.rsplitn(3, '/');
        let (event, position, of) = (parts.next().ok_or(())?, parts.next().ok_or(())?, parts.next().ok_or(())?);
        let position = Position(position.parse().map_err(|_| ())?);
        Ok(Self { of: of.into(), position, event: Uuid::try_parse(event).map_err(|_| ())?, all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r4_what_says_how_far_a_relay_came_is_read_as_it_is_written() {
        let event = Uuid::from_u128(7);
        for all in [false, true] {
            let relayed = Relayed { of: "log.1.relay:a/b".into(), position: Position(42), event, all };
            assert_eq!(relayed.to_string().parse(), Ok(relayed));
        }
        for text in ["", "a", "a/1", "a/b/c", "a/-1/00000000-0000-0000-0000-000000000007"] {
            assert_eq!(text.parse::<Relayed>(), Err(()), "{text}");
        }
    }
}
