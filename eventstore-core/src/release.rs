//! The release of this library.

/// Whether this release is the named release, `0.2.0`, or a later one. A migration names the oldest release that works
/// with a database that has it; a name that cannot be parsed is taken for a later release.
pub fn is_at_least(release: &str) -> bool {
    is_later_or(env!("CARGO_PKG_VERSION"), release)
}

fn is_later_or(this: &str, other: &str) -> bool {
    numbers(other).is_some_and(|other| numbers(this) >= Some(other))
}

/// Returns the numbers of a release, without the part behind a hyphen: a pre-release of 0.2.0 is taken for 0.2.0.
fn numbers(release: &str) -> Option<[u64; 3]> {
    let numbers: Result<Vec<u64>, _> = release.split('-').next()?.split('.').map(str::parse).collect();
    numbers.ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        for (this, other) in [("0.2.0", "0.1.9"), ("0.2.0", "0.2.0"), ("0.10.0", "0.9.0"), ("1.0.0-rc.1", "1.0.0")] {
            assert!(is_later_or(this, other), "{this} {other}");
        }
        for (this, other) in
            [("0.2.0", "0.2.1"), ("0.9.0", "0.10.0"), ("0.2.0", "1.0.0"), ("9.9.9", "next"), ("9.9.9", "")]
        {
            assert!(!is_later_or(this, other), "{this} {other}");
        }
        assert!(is_at_least("0.1.0"));
    }
}
