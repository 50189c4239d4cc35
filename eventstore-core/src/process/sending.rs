//! One command of an answer, of any type, and how it is sent to a store.

use std::{any::Any, fmt, marker::PhantomData, sync::Arc};

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::{
    aggregate::{Decide, Decider},
    append::AppendEvents,
    boundary::Boundary,
    encode::Stored,
    error::{CommandError, EventError, StoreError},
    event::{Event, Raw, Recorded},
    execute::Execute,
    invalid::Invalid,
    limits,
    process::{
        command::Command,
        mark::{Mark, stream_of},
    },
    store::Store,
    stream::{Expected, StreamId},
    timestamp::Timestamp,
};

/// A command to an aggregate, a message to a service, or an event to be published. Cheap to clone.
#[derive(Clone)]
pub struct Sending(Arc<dyn Erased>);

/// The id, the cause and the metadata that a command is sent with.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The command's id.
    pub id: Uuid,
    /// The name of the process.
    pub process: &'static str,
    /// The key of its instance.
    pub key: Arc<str>,
    /// The place of the command in the answer.
    pub place: String,
    /// The event that is answered.
    pub event: Recorded<()>,
    /// When a message expires.
    pub expires: Option<Timestamp>,
    /// The step that the command belongs to, in a saga with steps.
    pub step: Option<String>,
}

impl Delivery {
    /// Returns the stream of the instance's own events.
    pub fn marks(&self) -> StreamId {
        stream_of(self.process, &self.key)
    }

    /// Returns the actor of the command.
    pub(super) fn actor(&self) -> String {
        format!("saga:{}", self.process)
    }

    /// Returns the metadata of the events besides their cause.
    fn extra(&self) -> Vec<(&'static str, String)> {
        let expires = self.expires.map(|expires| ("expires", expires.to_string()));
        let step = self.step.iter().flat_map(|step| {
            [("saga", self.process.to_owned()), ("instance", self.key.to_string()), ("step", step.clone())]
        });
        expires.into_iter().chain(step).collect()
    }
}

/// The result of a command or a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The command or the mark is recorded, now or before.
    Recorded,
    /// There was nothing to do.
    Nothing,
    /// A rule refused the command, in these words.
    Refused(String),
    /// A mark is recorded under the command's id: the command was refused in these words, or there was nothing to do.
    Marked(Option<String>),
    /// The id of a mark is taken, by the command or by a mark with other words: send the command again.
    Taken,
    /// Whether the instance was over.
    Over(bool),
}

trait Erased: Any + fmt::Debug + Send + Sync {
    fn same(&self, other: &dyn Any) -> bool;

    /// Returns the stream it writes to; `None` for a message, whose stream depends on the instance.
    fn stream(&self) -> Option<&StreamId>;

    fn service(&self) -> Option<&'static str> {
        None
    }

    fn send(&self, store: &Store, delivery: &Delivery) -> BoxFuture<'static, Result<Told, StoreError>>;

    /// Whether an event recorded under its id is one it would record, judged by stream and name, not by the body.
    fn recorded(&self, event: &Recorded<Raw>, delivery: &Delivery) -> bool;
}

impl Sending {
    pub(super) fn execute<S, C>(boundary: Boundary, command: C) -> Self
    where
        S: Decide<C>,
        C: Clone + fmt::Debug + PartialEq + Send + Sync + 'static,
    {
        Self(Arc::new(Executed::<S, C> { boundary, command, of: PhantomData }))
    }

    pub(super) fn ask<C: Command>(service: &'static str, command: C) -> Self {
        Self(Arc::new(Asked { service, command }))
    }

    pub(super) fn publish<E: Event + fmt::Debug + PartialEq>(stream: StreamId, event: E) -> Self {
        Self(Arc::new(Published { stream, event }))
    }

    /// Returns the stream it writes to. `None` for a message: its stream depends on the instance.
    pub fn stream(&self) -> Option<&StreamId> {
        self.0.stream()
    }

    /// Returns the service of a message.
    pub fn service(&self) -> Option<&'static str> {
        self.0.service()
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        self.service().map_or(Ok(()), |service| limits::plain("service", service))
    }

    /// Sends the command to a store under the id of the delivery. If events are recorded under that id already, they
    /// are the result. Fails with [`StoreError::Reused`] or [`StoreError::Duplicate`] if they are of another command.
    pub async fn send(&self, store: &Store, delivery: &Delivery) -> Result<Told, StoreError> {
        let error = match self.0.send(store, delivery).await {
            Err(error @ (StoreError::Reused { .. } | StoreError::Duplicate { .. })) => error,
            told => return told,
        };
        let found = store.inner().find(delivery.id).await?;
        let Some(first) = found.first() else { return Err(error) };
        if first.stream == delivery.marks() {
            let marks = first.decode::<Mark>().map_err(|source| StoreError::unreadable(first, source))?;
            return Ok(Told::Marked(marks.into_iter().next().and_then(|mark| mark.data.refused)));
        }
        if self.0.recorded(first, delivery) {
            return Ok(Told::Recorded);
        }
        Err(StoreError::Reused { command: delivery.id, stream: first.stream.clone() })
    }
}

impl PartialEq for Sending {
    fn eq(&self, other: &Self) -> bool {
        self.0.same(&*other.0 as &dyn Any)
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Always on one line: an answer is printed with one command a line.
        write!(f, "{:?}", self.0)
    }
}

/// `send(&ann, Withdraw { amount: 70 })`
struct Executed<S, C> {
    boundary: Boundary,
    command: C,
    of: PhantomData<fn() -> S>,
}

impl<S: Decide<C>, C: Clone + fmt::Debug + PartialEq + Send + Sync + 'static> Erased for Executed<S, C> {
    fn same(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<Self>().is_some_and(|other| {
            self.boundary.stream == other.boundary.stream
                && self.boundary.names().eq(other.boundary.names())
                && self.command == other.command
        })
    }

    fn stream(&self) -> Option<&StreamId> {
        Some(&self.boundary.stream)
    }

    fn send(&self, store: &Store, delivery: &Delivery) -> BoxFuture<'static, Result<Told, StoreError>> {
        let execute = Execute::<S>::new(store.clone(), self.boundary.clone(), self.command.clone());
        let execute = execute.command_id(delivery.id).caused_by(&delivery.event).by(delivery.actor());
        let execute = delivery.extra().into_iter().fold(execute, |execute, (key, value)| execute.metadata(key, value));
        Box::pin(async move {
            match execute.send().await {
                Ok(0) => Ok(Told::Nothing),
                Ok(_) => Ok(Told::Recorded),
                Err(CommandError::Rejected(reason)) => Ok(Told::Refused(reason.to_string())),
                Err(CommandError::Conflict(conflict)) => Err(conflict.into()),
                Err(CommandError::Store(error)) => Err(error),
            }
        })
    }

    /// A repeated command returns its first result without an error, so this is not reached for it.
    fn recorded(&self, _: &Recorded<Raw>, _: &Delivery) -> bool {
        false
    }
}

impl<S: Decider, C: fmt::Debug> fmt::Debug for Executed<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let consulted: Vec<_> = self.boundary.names().skip(1).collect();
        match &consulted[..] {
            [] => write!(f, "send({}, {:?})", self.boundary.stream, self.command),
            others => write!(f, "send(({}, {}), {:?})", self.boundary.stream, others.join(", "), self.command),
        }
    }
}

/// `ask("payments", Charge { … })`
struct Asked<C> {
    service: &'static str,
    command: C,
}

impl<C: Command> Asked<C> {
    /// Returns the stored name of its event: `command.payments.charge`.
    fn event_name() -> String {
        format!("command.{}", C::NAME)
    }

    fn stream(&self, delivery: &Delivery) -> StreamId {
        StreamId::new(&format!("service.{}", self.service), &delivery.key)
    }

    /// Returns its stored form. Fails with [`EventError`] if the command cannot be written or read back.
    fn stored(&self) -> Result<Stored, EventError> {
        let body = self.command.encode()?;
        C::decode(C::VERSION, &body).map_err(|error| EventError::OneWay(error.to_string()))?;
        Ok(Stored { schema: C::VERSION, data: Raw { name: Self::event_name().into(), tags: vec![], body } })
    }
}

impl<C: Command> Erased for Asked<C> {
    fn same(&self, other: &dyn Any) -> bool {
        let other = other.downcast_ref::<Self>();
        other.is_some_and(|other| (self.service, &self.command) == (other.service, &other.command))
    }

    fn stream(&self) -> Option<&StreamId> {
        None
    }

    fn service(&self) -> Option<&'static str> {
        Some(self.service)
    }

    fn send(&self, store: &Store, delivery: &Delivery) -> BoxFuture<'static, Result<Told, StoreError>> {
        let unwritable = |reason| StoreError::Unwritable { name: Self::event_name(), reason };
        let stored = self.stored().map_err(unwritable).map(|stored| vec![stored]);
        append(AppendEvents::new(store.clone()).and_stored(self.stream(delivery), stored), delivery)
    }

    fn recorded(&self, event: &Recorded<Raw>, delivery: &Delivery) -> bool {
        event.stream == self.stream(delivery) && *event.data.name == *Self::event_name()
    }
}

impl<C: fmt::Debug> fmt::Debug for Asked<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ask({:?}, {:?})", self.service, self.command)
    }
}

/// `publish(stream, CustomerMoved { … })`
struct Published<E> {
    stream: StreamId,
    event: E,
}

impl<E: Event + fmt::Debug + PartialEq> Erased for Published<E> {
    fn same(&self, other: &dyn Any) -> bool {
        let other = other.downcast_ref::<Self>();
        other.is_some_and(|other| (&self.stream, &self.event) == (&other.stream, &other.event))
    }

    fn stream(&self) -> Option<&StreamId> {
        Some(&self.stream)
    }

    fn send(&self, store: &Store, delivery: &Delivery) -> BoxFuture<'static, Result<Told, StoreError>> {
        append(store.append(&self.stream, Expected::Any, [self.event.clone()]), delivery)
    }

    fn recorded(&self, event: &Recorded<Raw>, _: &Delivery) -> bool {
        event.stream == self.stream && *event.data.name == *self.event.name()
    }
}

impl<E: fmt::Debug> fmt::Debug for Published<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "publish({}, {:?})", self.stream, self.event)
    }
}

/// Appends under the id of the delivery. No rule is asked, so the append is never refused.
fn append(append: AppendEvents, delivery: &Delivery) -> BoxFuture<'static, Result<Told, StoreError>> {
    let append = append.command_id(delivery.id).caused_by(&delivery.event).by(delivery.actor());
    let append = delivery.extra().into_iter().fold(append, |append, (key, value)| append.metadata(key, value));
    Box::pin(async move {
        append.await?;
        Ok(Told::Recorded)
    })
}
