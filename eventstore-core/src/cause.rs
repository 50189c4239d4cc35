//! The cause of a command or a plain append: who asks, why, and in which conversation.

use uuid::Uuid;

use crate::{metadata::Metadata, timestamp::Timestamp};

#[derive(Clone, Debug, Default)]
pub(crate) struct Cause {
    /// The id, if the caller gave one: the command must then be recorded once.
    pub(crate) command_id: Option<Uuid>,
    pub(crate) correlation: Option<Uuid>,
    pub(crate) occurred_at: Option<Timestamp>,
    pub(crate) metadata: Metadata,
}

impl Cause {
    pub(crate) fn new(source: Option<String>) -> Self {
        Self { metadata: Metadata { source, ..Metadata::default() }, ..Self::default() }
    }

    /// Returns the metadata of the events, with the command's id.
    pub(crate) fn metadata(&self) -> Metadata {
        let command_id = self.command_id.unwrap_or_else(Uuid::now_v7);
        Metadata { command_id, correlation_id: self.correlation.unwrap_or(command_id), ..self.metadata.clone() }
    }
}

/// Returns the id of the n-th event of a command. Its first half is the command's, so that ids keep the order of time;
/// the second half is that of the UUIDv5 of the number, as four big-endian bytes, in the namespace of the command.
pub fn event_id(command: Uuid, n: u32) -> Uuid {
    let tail = Uuid::new_v5(&command, &n.to_be_bytes());
    let mut bytes = *command.as_bytes();
    bytes[8..].copy_from_slice(&tail.as_bytes()[8..]);
    Uuid::from_bytes(bytes)
}

/// Returns the fingerprint of a command with an id of the caller's: a UUIDv8 over the id and the boundaries of its
/// targets.
///
/// Release 0.1 stored a UUIDv5 that also covers the name of the command's type, which may change with the compiler.
pub(crate) fn request(command_id: Uuid, targets: impl Iterator<Item = String>) -> Uuid {
    // No name has a line break in it.
    let targets = targets.fold(String::new(), |all, one| all + "\n" + &one);
    uuid::Builder::from_custom_bytes(*Uuid::new_v5(&command_id, targets.as_bytes()).as_bytes()).into_uuid()
}

/// Whether a recorded request may be the same as this one. For a request of release 0.1 only the stream can be
/// compared, which the caller does.
pub(crate) fn same_request(recorded: Option<Uuid>, request: Option<Uuid>) -> bool {
    const OF_0_1: usize = 5;
    recorded == request || recorded.is_some_and(|recorded| recorded.get_version_num() == OF_0_1)
}

/// The builder methods over a field `cause`.
macro_rules! cause_methods {
    () => {
        /// Who asks.
        pub fn by(mut self, actor: impl ToString) -> Self {
            self.cause.metadata.actor = Some(actor.to_string());
            self
        }

        /// The conversation the events belong to; by default they start one.
        pub fn correlation(mut self, id: ::uuid::Uuid) -> Self {
            self.cause.correlation = Some(id);
            self
        }

        /// The event that this call answers; the new events continue its conversation.
        pub fn caused_by<T>(mut self, event: &$crate::event::Recorded<T>) -> Self {
            self.cause.metadata.causation_id = Some(event.id);
            self.cause.correlation = Some(event.metadata.correlation_id);
            self
        }

        /// For an engine: the id of the event that this call answers, where the event itself is not at hand.
        #[doc(hidden)]
        pub fn causation(mut self, event: ::uuid::Uuid) -> Self {
            self.cause.metadata.causation_id = Some(event);
            self
        }

        /// Records the events once: if the id is recorded already, by any process, the call returns the first result
        /// again.
        ///
        /// A command must be for the same ids, all of them in a tuple or list; else it fails with
        /// [`Reused`]($crate::StoreError::Reused). The command itself is not compared: it may hold the time of day, and
        /// its type may be renamed between a call and its retry. So of two commands under one id for the same ids, the
        /// first recorded counts: use a new id for each request. A plain append must have the same events for the same
        /// streams; else it fails with [`Duplicate`]($crate::StoreError::Duplicate).
        ///
        /// A command that recorded nothing leaves no trace: after a refusal, or a decision without events, a repeated
        /// call decides again, and may record events then.
        ///
        /// A UUIDv7 keeps the index of event ids small.
        pub fn command_id(mut self, id: ::uuid::Uuid) -> Self {
            self.cause.command_id = Some(id);
            self
        }

        /// When the events happened, if that is not now: a `Timestamp`, `SystemTime`, or one of chrono, jiff or time.
        pub fn occurred_at(mut self, time: impl Into<::std::time::SystemTime>) -> Self {
            self.cause.occurred_at = Some(time.into().into());
            self
        }

        /// Adds a value to the metadata of the events. The call fails with [`Invalid`]($crate::StoreError::Invalid) if
        /// the key begins with `$`. JSON has no NaN and no infinity: such a number becomes `null`.
        pub fn metadata(mut self, key: impl ToString, value: impl Into<::serde_json::Value>) -> Self {
            self.cause.metadata.extra.insert(key.to_string(), value.into());
            self
        }
    };
}
pub(crate) use cause_methods;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_a_request_is_known_again_by_every_later_release() {
        let asked = |targets: &[&str]| {
            let targets = targets.iter().map(|&one| one.to_owned());
            request(Uuid::from_u128(1), targets)
        };
        let both = asked(&["course:rust", "student:ann"]);
        assert_eq!(both.to_string(), "9ffb2a32-126d-8c54-8ff5-634102d35c0d");
        assert_ne!(asked(&["course:rust", "student:bob"]), both);
        assert_ne!(asked(&["course:rust"]), both);
        assert_ne!(asked(&["student:ann", "course:rust"]), both);

        // Of `campus::rules::Enrol` for the same two, by release 0.1.
        let of_0_1: Uuid = "726c7294-40ba-5605-864a-e443fa2fc5d4".parse().expect("a UUID");
        assert!(same_request(Some(of_0_1), Some(both)) && same_request(Some(both), Some(both)));
        assert!(!same_request(Some(asked(&["course:rust"])), Some(both)));
        assert!(!same_request(None, Some(both)), "a plain append");
    }

    #[test]
    fn event_ids_are_what_they_have_always_been() {
        let command = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);
        assert_eq!(event_id(command, 0).to_string(), "01920000-0000-7000-98d4-da122034fe5a");
        assert_ne!(event_id(command, 0), event_id(command, 1));
    }
}
