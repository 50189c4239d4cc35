//! The built-in processor of the scheduled commands to one category. It follows no events: all it does, it does by the
//! clock.

use std::{any::Any, ops::Range, time::Duration};

use async_trait::async_trait;
use eventstore_core::{EventStore, Query, StoreError, Transaction};
use eventstore_engine::{DecodedPage, Failure, Halt, Parked, Part, Processor, Queue, Reads, Remembered, Tick};

use super::{
    change::prepare,
    firing::{ScheduledProcessor, fire, is_due},
    names::NAME,
};

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
        fire(self, tick).await
    }

    async fn is_due(&self, _: &Parked) -> Result<bool, StoreError> {
        is_due(self).await
    }
}
