//! Classifies each SQLSTATE: who is to act, which error the caller gets, and whether something may have been recorded.
//!
//! The table here and the one in `docs/errors.md` are equal, which a test checks. No message of the server is ever
//! parsed.

use eventstore_core::Blame::{self, Caller, Program, Row, Server};

/// The error that the caller of a statement gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    /// `StoreError::Busy`: nothing is recorded; try again.
    Busy,
    /// `StoreError::Unavailable`: nothing is recorded; try again when the server is available.
    Unavailable,
    /// The connection broke, perhaps during a commit: `StoreError::Unknown` where something may be
    /// recorded, else `StoreError::Unavailable`.
    Lost,
    /// `StoreError::Denied`: mend the URL or the rights.
    Denied,
    /// `StoreError::Damaged`: restore the database.
    Damaged,
    /// `StoreError::Database`; `StoreError::Row` where the statement wrote rows of a read model.
    Rejected,
}

use ErrorClass::{Busy, Damaged, Denied, Lost, Rejected, Unavailable};

/// A code of five characters, or a class of two; a code comes before its class.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
const STATES: &[(&str, Blame, ErrorClass)] = &[
    // Connection exceptions.
    ("08", Server, Lost),
    // A plan that is out of date, because a view was replaced; or a feature that this server lacks.
    ("0A", Server, Rejected),
    // Cardinality violation: two rows of a batch for one key, a subquery with two rows.
    ("21", Row, Rejected),
    // Data exceptions and violated constraints.
    ("22", Row, Rejected),
    ("23", Row, Rejected),
    // A transaction in the wrong state, except where it is read-only, has failed, or was ended for its age.
    ("25", Program, Rejected),
    ("25006", Server, Unavailable),
    ("25P02", Caller, Rejected),
    ("25P03", Server, Unavailable),
    ("25P04", Server, Lost),
    // A prepared statement that a pooler has lost, or that has this name for another client.
    ("26000", Server, Unavailable),
    ("42P05", Server, Unavailable),
    // Authorization, password, database.
    ("28", Server, Denied),
    ("3D000", Server, Denied),
    // Serialization failure, deadlock; a violated constraint and an unknown completion are of the same class.
    ("40", Server, Busy),
    ("40002", Row, Rejected),
    ("40003", Server, Lost),
    // Syntax, names and types; a missing right is for the operator.
    ("42", Program, Rejected),
    ("42501", Server, Denied),
    ("44", Row, Rejected),
    // Disk full, out of memory, too many connections, a configured limit.
    ("53", Server, Unavailable),
    // A value too large for an index; also a server that protects itself from wraparound.
    ("54", Row, Rejected),
    // An object in the wrong state; in use; locked.
    ("55", Program, Rejected),
    ("55006", Server, Busy),
    ("55P03", Server, Busy),
    // Cancelled by a time-out or an operator; shutting down; starting up; ended while it was idle.
    ("57", Server, Lost),
    ("57014", Server, Busy),
    ("57P03", Server, Unavailable),
    ("57P05", Server, Unavailable),
    // An error of the operating system.
    ("58", Server, Unavailable),
    ("72", Server, Busy),
    ("F0", Server, Rejected),
    // A foreign server.
    ("HV", Server, Unavailable),
    // Raised by a function.
    ("P0", Row, Rejected),
    // Savepoints and transactions that a statement must not touch; errors of routines in other languages.
    ("0B", Program, Rejected),
    ("2D", Program, Rejected),
    ("3B", Program, Rejected),
    ("38", Program, Rejected),
    ("39", Program, Rejected),
    ("3F", Program, Rejected),
    // Internal errors and damage.
    ("XX", Server, Rejected),
    ("XX001", Server, Damaged),
    ("XX002", Server, Damaged),
    // Raised by the functions of the log: an attempt to change an event; an append at another isolation level (ES001);
    // event types that have changed (ES002).
    ("ES", Program, Rejected),
    ("ES001", Server, Unavailable),
    ("ES002", Server, Busy),
];

/// Returns who is to act, and the class of the error. A code that is not listed was raised by user code, for a row.
pub(crate) fn classify(state: &str) -> (Blame, ErrorClass) {
    let find =
        |code: &str| STATES.iter().find(|(listed, ..)| *listed == code).map(|(_, blame, class)| (*blame, *class));
    find(state).or_else(|| find(state.get(..2)?)).unwrap_or((Row, Rejected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_comes_before_its_class_and_what_is_unknown_was_raised_for_a_row() {
        assert_eq!(classify("40P01"), (Server, Busy));
        assert_eq!(classify("40002"), (Row, Rejected));
        assert_eq!(classify("25P03"), (Server, Unavailable));
        assert_eq!(classify("57P01"), (Server, Lost));
        assert_eq!(classify("U0001"), (Row, Rejected));
        assert_eq!(classify("ü"), (Row, Rejected));
    }

    /// The table in the docs and the one in the code are equal.
    #[test]
    fn the_page_says_what_the_code_does() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
        let page = std::fs::read_to_string(page).expect("the page is there");
        let table = page.lines().skip_while(|line| !line.starts_with("| SQLSTATE |")).skip(2);
        let mut rows: Vec<_> = table
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let cells: Vec<_> = line.split('|').map(str::trim).collect();
                (cells[1].trim_matches('`').to_owned(), cells[3].to_owned(), cells[4].trim_matches('`').to_owned())
            })
            .collect();
        let mut states: Vec<_> = STATES
            .iter()
            .map(|(state, blame, class)| {
                let class = match class {
                    Lost => "Unknown` or `Unavailable".into(),
                    Rejected => "Database".into(),
                    class => format!("{class:?}"),
                };
                ((*state).to_owned(), format!("{blame:?}").to_lowercase(), class)
            })
            .collect();
        rows.sort();
        states.sort();
        assert_eq!(rows, states);
    }
}
