//! The names of scheduled commands, and the rules for them.

use eventstore_core::{Invalid, limits};

/// The name of the built-in processors of scheduled commands, and the beginning of their streams.
pub const NAME: &str = "scheduled";
/// What begins the key of a row of a cron schedule.
pub const CRON: &str = "cron:";
/// The key in the metadata of the events, with the instant of the schedule.
pub const SCHEDULED_FOR: &str = "scheduledFor";

/// Fails with [`Invalid::Name`] unless an id of a schedule has 1 to 512 bytes and no control characters.
pub fn check_id(id: &str) -> Result<(), Invalid> {
    limits::name("schedule id", id)
}

/// Fails with [`Invalid::Name`] at the id of a cron schedule, which the program that runs it declares.
pub fn check_not_cron(id: &str) -> Result<(), Invalid> {
    match id.starts_with(CRON) {
        true => Err(Invalid::name("schedule id", id, "begins with `cron:`, like those of cron schedules")),
        false => Ok(()),
    }
}
