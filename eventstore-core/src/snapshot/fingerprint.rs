//! Fingerprints of what snapshots depend on, and of snapshots: the same on every compiler and machine, for ever.

use crate::contract::StoredSnapshot;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a: the same on every compiler and machine, for ever.
const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(PRIME);
        i += 1;
    }
    hash
}

/// Hashes texts one after the other, separated by a byte that is in no text.
const fn texts(mut hash: u64, texts: &[&str]) -> u64 {
    let mut i = 0;
    while i < texts.len() {
        hash = fnv(fnv(hash, texts[i].as_bytes()), &[0xff]);
        i += 1;
    }
    fnv(hash, &[0xff])
}

/// Returns a fingerprint of the written form of a state, and of the events that make it.
pub const fn shape(state: &[&str], names: &[&str], schemas: &[u32], version: u32) -> u64 {
    let mut hash = texts(texts(OFFSET, state), names);
    let mut i = 0;
    while i < schemas.len() {
        hash = fnv(hash, &schemas[i].to_le_bytes());
        i += 1;
    }
    fnv(fnv(hash, &[0xff]), &version.to_le_bytes())
}

impl StoredSnapshot {
    /// Returns the checksum of all its other fields.
    pub fn sum(&self) -> u64 {
        let Self { boundary, kind, shape, version, position, event, recorded_at, state, checksum: _ } = self;
        let mut hash = texts(OFFSET, &[boundary, kind]);
        for number in [*shape, version.0, position.0, recorded_at.as_micros().cast_unsigned()] {
            hash = fnv(hash, &number.to_le_bytes());
        }
        fnv(fnv(hash, event.as_bytes()), state)
    }

    /// Whether a boundary is that of a tag, `course:rust`: neither a stream nor every event of a kind.
    pub fn is_of_tag(boundary: &str) -> bool {
        boundary.find([':', '-', '*']).is_some_and(|end| boundary[end..].starts_with(':'))
    }

    /// Whether the snapshot has its checksum, and so is as it was taken.
    pub fn is_whole(&self) -> bool {
        self.checksum == self.sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_fingerprint_is_the_same_for_ever() {
        // The test vectors of FNV-1a.
        assert_eq!(fnv(OFFSET, b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(OFFSET, b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv(OFFSET, b"foobar"), 0x8594_4171_f739_67e8);
        let golden = shape(&["bank::Account", "open : bool"], &["account.opened", "account.closed"], &[1, 2], 3);
        assert_eq!(golden, 0x18fb_08ba_0498_e8a0);
    }

    #[test]
    fn a_fingerprint_sees_where_one_thing_ends_and_another_begins() {
        let all = [
            shape(&["ab"], &[], &[], 1),
            shape(&["a", "b"], &[], &[], 1),
            shape(&["a"], &["b"], &[], 1),
            shape(&["b", "a"], &[], &[], 1),
            shape(&["ab"], &[], &[1], 1),
            shape(&["ab"], &[], &[], 2),
        ];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
