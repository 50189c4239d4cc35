//! Ids that follow from other ids.

use uuid::Uuid;

use crate::timestamp::Timestamp;

/// Returns an id that follows from another id and some parts: the same in every process, at any time.
///
/// Bytes 0–7 are those of `from`, so that ids keep the order of time and the index of event ids stays small. Bytes 8–15
/// are those of the UUIDv5, in the namespace `from`, of the parts of `what`, each preceded by its length in bytes (64
/// bits, big endian). Stored data depends on this form.
///
/// ```
/// # use eventstore_core::derived_id;
/// # use uuid::Uuid;
/// let event = Uuid::now_v7();
/// let invoice = derived_id(event, ["invoice", "1"]);
/// assert_eq!(invoice, derived_id(event, ["invoice", "1"]));
/// assert_ne!(invoice, derived_id(event, ["invoice1", ""]));
/// assert_eq!(invoice.as_bytes()[..8], event.as_bytes()[..8]);
/// ```
pub fn derived_id<P: AsRef<[u8]>>(from: Uuid, what: impl IntoIterator<Item = P>) -> Uuid {
    let mut name = vec![];
    for part in what {
        let part = part.as_ref();
        name.extend((part.len() as u64).to_be_bytes());
        name.extend(part);
    }
    let tail = Uuid::new_v5(&from, &name);
    let mut bytes = *from.as_bytes();
    bytes[8..].copy_from_slice(&tail.as_bytes()[8..]);
    Uuid::from_bytes(bytes)
}

/// Returns the id with an instant in its first six bytes, in milliseconds since 1970 as in a UUIDv7, so that commands
/// long after an event get ids that sort by their own time.
pub(crate) fn at(id: Uuid, instant: Timestamp) -> Uuid {
    let millis = u64::try_from(instant.as_micros() / 1_000).unwrap_or(0);
    let mut bytes = *id.as_bytes();
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);

    /// The expected ids come from another implementation (SHA-1 of Python's hashlib).
    #[test]
    fn g1_derived_ids_are_the_same_in_every_release() {
        let id = |what: &[&str]| derived_id(EVENT, what).to_string();
        assert_eq!(id(&["saga", "money_transfer", "t1", "0", "0.1"]), "01920000-0000-7000-9169-23f572657e0b");
        assert_eq!(id(&[]), "01920000-0000-7000-91ba-d10fed4ede5f");
        assert_eq!(id(&["ä", "\0"]), "01920000-0000-7000-b839-2dccfb92d6bb");
    }

    #[test]
    fn g1_a_part_never_runs_into_the_next() {
        let ids = [&["ab", "c"][..], &["a", "bc"], &["abc"], &["abc", ""], &["", "abc"]];
        let ids: std::collections::BTreeSet<_> = ids.iter().map(|what| derived_id(EVENT, *what)).collect();
        assert_eq!(ids.len(), 5);
        let bytes: [&[u8]; 1] = [b"abc"];
        assert!(ids.contains(&derived_id(EVENT, bytes)), "text is its bytes");
    }

    #[test]
    fn m1_the_id_of_a_timer_sorts_by_when_it_is_due() {
        let due = at(EVENT, Timestamp::from_micros(1_700_000_000_123_999));
        assert_eq!(due.to_string(), "018bcfe5-687b-7000-8000-000000000001");
        let command = derived_id(due, ["saga", "money_transfer", "t1", "0", "0.1"]);
        assert_eq!(command.to_string(), "018bcfe5-687b-7000-902c-e444e15804b8");
        assert_eq!(at(EVENT, Timestamp::MIN).as_bytes()[..6], [0; 6], "before 1970 there is no such id");
    }
}
