//! Paths are bytes; keys of streams are text.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use sha2::{Digest, Sha256};

/// What stands in a key as it is, besides letters and digits.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// The longest key a store keeps.
const LONGEST: usize = 512;

/// What a key begins with that is a hash. The colon is always escaped, so no path has such a key.
const HASH: &str = "sha256:";

/// The path, percent-encoded; where that is too long for a key, its SHA-256, marked as such.
pub fn key(path: &[u8]) -> String {
    let encoded = encoded(path);
    if encoded.len() <= LONGEST {
        return encoded;
    }
    let hash = Sha256::digest(path);
    hash.iter().fold(HASH.to_owned(), |key, byte| key + &format!("{byte:02x}"))
}

/// What an event must remember of a path, because its key does not.
pub fn remembered(path: &[u8]) -> Option<String> {
    Some(encoded(path)).filter(|encoded| encoded.len() > LONGEST)
}

fn encoded(path: &[u8]) -> String {
    percent_encode(path, ESCAPED).to_string()
}

/// The path again, from its key or from what an event remembered.
pub fn of(key: &str, remembered: Option<&str>) -> Vec<u8> {
    percent_decode_str(remembered.unwrap_or(key)).collect()
}

/// The path as git prints it with `core.quotePath=off`: in quotes, with C escapes, if something in it needs them.
pub fn quoted(path: &[u8]) -> Vec<u8> {
    let special = |byte: u8| byte < 0x20 || matches!(byte, b'"' | b'\\' | 0x7f);
    if !path.iter().copied().any(special) {
        return path.to_vec();
    }
    let mut text = vec![b'"'];
    for &byte in path {
        match byte {
            0x07 => text.extend(b"\\a"),
            0x08 => text.extend(b"\\b"),
            b'\t' => text.extend(b"\\t"),
            b'\n' => text.extend(b"\\n"),
            0x0b => text.extend(b"\\v"),
            0x0c => text.extend(b"\\f"),
            b'\r' => text.extend(b"\\r"),
            b'"' | b'\\' => text.extend([b'\\', byte]),
            _ if special(byte) => text.extend(format!("\\{byte:03o}").bytes()),
            _ => text.push(byte),
        }
    }
    text.push(b'"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_looks_like_the_hash_of_another_has_a_key_of_its_own() {
        let long = "x/".repeat(LONGEST).into_bytes();
        let key_of_long = key(&long);
        let hash = key_of_long.strip_prefix(HASH).expect("a hash");
        for name in [hash, &key_of_long] {
            assert_ne!(key(name.as_bytes()), key_of_long);
            assert_eq!(of(&key(name.as_bytes()), None), name.as_bytes());
        }
        assert_eq!(of(&key_of_long, remembered(&long).as_deref()), long);
    }
}
