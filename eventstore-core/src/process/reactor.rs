//! Reactors: processes without a state.

use crate::{
    error::EventError,
    event::{Event, Raw, Recorded},
    invalid::Invalid,
    process::{
        commands::Commands,
        instance::{StoredInstance, Timer},
        mark::Mark,
        outcome::Outcome,
        progress::SagaStatus,
        rules::{Process, Unanswerable},
        saga::StartFrom,
        script::Script,
    },
    timestamp::Timestamp,
};

/// A process without a state: it answers each event with commands.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
/// # fn main() {}
/// /// An owner who pays something in gets a bonus of one.
/// struct Bonus;
///
/// impl Reactor for Bonus {
///     const NAME: &'static str = "bonus";
///     type Event = AccountEvent;
///
///     fn react(&self, event: &Recorded<AccountEvent>) -> Commands {
///         let account = Id::<Account>::from(event.stream.key());
///         match event.data {
///             Deposited { amount } if amount > 100 => send(&account, Deposit { amount: 1 }),
///             _ => Commands::none(),
///         }
///     }
/// }
/// ```
pub trait Reactor: Send + Sync + 'static {
    /// The name of its checkpoint, and a part of the id of every command, of a-z, 0-9 and `_`. It never changes.
    const NAME: &'static str;
    /// Where the process begins when it runs for the first time. `None`: the program that starts it must give the
    /// start.
    const FROM: Option<StartFrom> = None;
    /// The events it reads.
    type Event: Event;

    /// Returns the answer to an event. Pure: called again after a crash, or when a timer is due, it returns the same.
    fn react(&self, event: &Recorded<Self::Event>) -> Commands;

    /// Returns the key of an event: events with the same key are answered one after the other. By default the stream.
    fn key(event: &Recorded<Self::Event>) -> String {
        event.stream.to_string()
    }
}

/// The process of a reactor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stateless<R>(pub R);

/// A reactor that sends nothing, used where a process type is required and there is none yet.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Reactor for Nothing {
    const NAME: &'static str = "nothing";
    type Event = Mark;

    fn react(&self, _: &Recorded<Mark>) -> Commands {
        Commands::none()
    }
}

impl<R: Reactor> Process for Stateless<R> {
    type Event = R::Event;
    type State = ();

    fn name(&self) -> &'static str {
        R::NAME
    }

    fn keys(&self, event: &Recorded<R::Event>) -> Vec<String> {
        vec![R::key(event)]
    }

    fn keys_unread(&self, _: &Recorded<Raw>) -> Option<Vec<String>> {
        None
    }

    fn may_be_over(&self, _: &Recorded<R::Event>) -> bool {
        // An instance of a reactor is never over.
        false
    }

    fn blank(&self) {}

    fn open(&self, _: &StoredInstance) -> Result<(), EventError> {
        Ok(())
    }

    fn save(&self, (): &(), row: &mut StoredInstance) -> Result<(), EventError> {
        (row.state, row.version) = ("null".into(), 1);
        Ok(())
    }

    fn status(&self, (): &()) -> SagaStatus {
        SagaStatus::Running
    }

    fn answer(&self, (): &(), event: &Recorded<R::Event>, _: u32, _: Timestamp) -> Result<Script, Invalid> {
        Ok(Script::commands(self.0.react(event)))
    }

    fn evolve(&self, (): (), _: &Recorded<R::Event>, _: &Outcome) {}

    fn fire(
        &self,
        (): &(),
        timer: &Timer,
        event: Option<&Recorded<R::Event>>,
        _: Timestamp,
    ) -> Result<Option<Script>, Unanswerable> {
        let event = event.ok_or(Unanswerable::Event)?;
        Ok(Script::due(self.0.react(event), &timer.place))
    }

    fn fired(&self, (): (), _: &Outcome) {}
}
