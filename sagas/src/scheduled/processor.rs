//! The built-in processor of the scheduled commands to one category. It follows no events: all it does, it does by the
//! clock.

use std::{
    any::Any,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use eventstore_core::{EventStore, Query, Store, Transaction};
use eventstore_engine::{DecodedPage, Failure, Halt, Part, Processor, Queue, Reads, Remembered, Tick};

use super::{change::prepare, executes::Executed, firing, unschedule::NAME};

/// The processor of the scheduled commands to one category.
pub struct ScheduledProcessor {
    pub category: &'static str,
    pub store: Store,
    commands: Mutex<Executed>,
}

impl ScheduledProcessor {
    pub fn new(category: &'static str, store: Store) -> Self {
        Self { category, store, commands: Mutex::default() }
    }

    /// Returns the name of the processor of a category.
    pub fn name_of(category: &str) -> String {
        format!("{NAME}:{category}")
    }

    pub fn with_commands(&self, add: impl FnOnce(&mut Executed)) {
        add(&mut self.commands());
    }

    /// Returns the commands that this program executes.
    pub fn commands(&self) -> MutexGuard<'_, Executed> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Processor for ScheduledProcessor {
    fn name(&self) -> String {
        Self::name_of(self.category)
    }

    fn query(&self) -> Query {
        Query::default()
    }

    /// The commands take the place of events: a node that executes fewer of them than another one stands aside. No
    /// event has such a name, since names that begin with `$` are reserved.
    fn reads(&self) -> Reads {
        self.commands().versions().map(|(name, version)| (format!("${NAME} {name}"), version)).collect()
    }

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failure> {
        if let Some(name) = self.commands().twice() {
            return Err(Failure::program(format!("two types of commands to `{}` are called `{name}`", self.category)));
        }
        Ok(prepare(store).await?)
    }

    fn decode(&self, _: &DecodedPage, _: Range<usize>) {}

    async fn process(
        &self,
        _: &mut dyn Transaction,
        _: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        Ok(vec![])
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn ticks(&self) -> bool {
        true
    }

    async fn tick(&self, tick: &Tick<'_>) -> Result<Duration, Halt> {
        firing::fire(self, tick).await
    }
}
