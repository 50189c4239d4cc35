//! Lets a runner execute scheduled commands.

use eventstore_core::Aggregate;
use eventstore_engine::Runner;

use super::{executed::ExecutedBy, firing::ScheduledProcessor};

/// Scheduled commands, as methods of [`Runner`].
pub trait RunScheduled {
    /// Executes the [scheduled](crate::ScheduleCommands::schedule) commands of these types to aggregates of a type: a
    /// tuple of up to eight, `(Close, Remind)`. Each is executed once, whatever crashes, on any number of nodes; the
    /// earliest first, and none before it is due by the clock of the store. Several calls add up.
    ///
    /// The commands to a category have one processor, `scheduled:account`. Of programs that execute different commands
    /// to one category, the one with more of them runs it and the others stand aside, as with releases that read
    /// different events. A command that no living program executes stays due, and keeps no other waiting.
    ///
    /// If two types of commands have one stored name, nothing of the category is executed:
    /// [`StoreError::Stopped`](eventstore_core::StoreError::Stopped).
    fn executes<A: Aggregate, C: ExecutedBy<A>>(self) -> Self;
}

impl RunScheduled for Runner {
    fn executes<A: Aggregate, C: ExecutedBy<A>>(mut self) -> Self {
        let known = self.again(&ScheduledProcessor::name_of(A::NAME));
        let known = known.as_deref().and_then(|known| known.as_any()?.downcast_ref::<ScheduledProcessor>());
        if let Some(known) = known {
            known.with_commands(C::add);
            return self;
        }
        let new = ScheduledProcessor::new(A::NAME, self.store().clone());
        new.with_commands(C::add);
        self.with(new)
    }
}
