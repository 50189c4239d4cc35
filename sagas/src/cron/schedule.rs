//! What a cron schedule is.

use std::time::Duration;

use eventstore_core::{Commands, Timestamp};

/// Commands that are sent at the instants of a cron expression: `0 3 1 * *` at three in the morning on the first of each
/// month.
///
/// ```
/// use eventstore::{Missed, Tick, prelude::*};
///
/// # #[derive(Event, Clone)]
/// # enum BankEvent { Credited { at: eventstore::Timestamp } }
/// # #[derive(Aggregate)]
/// # struct Bank;
/// # impl Evolve for Bank { type Event = BankEvent; fn evolve(&mut self, _: BankEvent) {} }
/// # #[derive(Clone, Debug, PartialEq)]
/// # struct CreditInterest { at: eventstore::Timestamp }
/// # impl Decide<CreditInterest> for Bank {
/// #     fn decide(&self, c: CreditInterest) -> Decision<Self> { Ok(vec![BankEvent::Credited { at: c.at }]) }
/// # }
/// struct Interest;
///
/// impl Schedule for Interest {
///     const NAME: &'static str = "interest";
///     const CRON: &'static str = "0 3 1 * *";
///     const ZONE: &'static str = "Europe/Berlin";
///     const MISSED: Missed = Missed::All;
///
///     fn tick(&self, tick: &Tick) -> Commands {
///         send(Id::<Bank>::from("main"), CreditInterest { at: tick.at })
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = eventstore::connect("memory:").await?;
/// let runner = Runner::new(&store).schedule(Interest).start();
/// # runner.stop().await;
/// # Ok(())
/// # }
/// ```
pub trait Schedule: Send + Sync + 'static {
    /// The name of the schedule, of a-z, 0-9, `_` and `.`. It never changes: it is a part of the ids of the commands.
    const NAME: &'static str;
    /// The expression: minute, hour, day of the month, month and day of the week; or six fields with the second first.
    /// Or a period of at least a second, `@every 5m` or `@every 1h 30m`: a tick is at each whole multiple of it since
    /// 1970, UTC. If the expression changes, the next tick is the first one of the new one.
    const CRON: &'static str;
    /// The time zone in which the expression is meant, as the IANA calls it. In an hour that daylight saving skips, a
    /// tick is at the first instant after it; in one that comes twice, it is in the first of them only.
    const ZONE: &'static str = "UTC";
    /// What becomes of ticks that no node has run in time.
    const MISSED: Missed = Missed::Once;

    /// Returns the commands of a tick. Pure: called again after a crash it returns the same, so it does not depend on
    /// [`Tick::late`]. Each command is recorded once for each tick. Timers ([`Commands::after`]) are an error.
    fn tick(&self, tick: &Tick) -> Commands;
}

/// What becomes of ticks that are due while no node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// The last of them is run, and the others are not.
    Once,
    /// All of them are run, one after the other.
    All,
    /// None of them is run that is more than a minute late.
    Skip,
}

/// An instant of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tick {
    /// The instant of the expression.
    pub at: Timestamp,
    /// How long ago that is.
    pub late: Duration,
}

impl Tick {
    /// Returns a tick that is not late, for tests.
    pub fn new(at: Timestamp) -> Self {
        Self { at, late: Duration::ZERO }
    }
}
