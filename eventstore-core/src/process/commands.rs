//! Commands as a value: the answer of a process to an event.

use std::{fmt, time::Duration};

use crate::{
    aggregate::Decide,
    event::Event,
    invalid::Invalid,
    limits,
    process::{command::Command, sending::Sending},
    stream::StreamId,
    target::Target,
    timestamp::Timestamp,
};

/// The answer of a saga or a reactor to an event: commands, alternatives and timers.
///
/// A plain value: made without a store, compared and printed in tests.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
/// use std::time::Duration;
///
/// # fn main() {
/// let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
/// let said = send(&ann, Withdraw { amount: 70 })
///     .or(send(&bob, Deposit { amount: 1 }))
///     .and(send(&bob, Deposit { amount: 2 }).after(Duration::from_secs(60)));
/// assert_eq!(
///     format!("{said:?}"),
///     "send(account-ann, Withdraw { amount: 70 }).or(send(account-bob, Deposit { amount: 1 }))\
///      .and(send(account-bob, Deposit { amount: 2 }).after(60s))"
/// );
/// # }
/// ```
///
/// A refused command without an alternative has no effect on the others. A command with an alternative or a successor
/// is decided once, in the log: only one of the two branches is ever recorded.
#[derive(Clone, Default, PartialEq)]
#[must_use = "commands are sent only if they are returned"]
pub struct Commands(pub(super) Node);

#[derive(Clone, Default, PartialEq)]
pub(super) enum Node {
    #[default]
    Nothing,
    Send(Sending),
    /// All of them, regardless of refusals.
    All(Vec<Node>),
    /// The next node, if a command of the node before is refused.
    Else(Vec<Node>),
    /// The next node, once all commands of the node before are accepted.
    Then(Vec<Node>),
    Later(Box<Later>),
    Within(Duration, Box<Node>),
    Cancel(&'static str),
}

/// A node that waits for an instant.
#[derive(Clone, PartialEq)]
pub(super) struct Later {
    pub(super) when: When,
    pub(super) name: Option<&'static str>,
    pub(super) what: Node,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum When {
    After(Duration),
    At(Timestamp),
}

/// Returns the sending of a command to an aggregate of this store; see [`Commands`].
pub fn send<T: Target, C>(target: T, command: C) -> Commands
where
    T::State: Decide<C>,
    C: Clone + fmt::Debug + PartialEq + Send + Sync + 'static,
{
    Commands(Node::Send(Sending::execute::<T::State, C>(target.boundary(), command)))
}

/// Asks another service, by a message, which is accepted once it is recorded.
///
/// The other service answers with an event that has the message's id as its causation. [`within`](Commands::within)
/// with [`or`](Commands::or) gives the alternative if no answer comes in time.
pub fn ask<C: Command>(service: &'static str, command: C) -> Commands {
    Commands(Node::Send(Sending::ask(service, command)))
}

/// Appends an event to a stream, once: an event of its own for other programs.
pub fn publish<E>(stream: impl Into<StreamId>, event: E) -> Commands
where
    E: Event + fmt::Debug + PartialEq,
{
    Commands(Node::Send(Sending::publish(stream.into(), event)))
}

/// Cancels the timer of this name, if the instance has one that has not fired.
pub fn cancel(timer: &'static str) -> Commands {
    Commands(Node::Cancel(timer))
}

impl Commands {
    /// Returns no commands.
    pub fn none() -> Self {
        Self::default()
    }

    /// Sends both, even if the first is refused.
    pub fn and(self, other: Self) -> Self {
        Self(match (self.0, other.0) {
            (Node::Nothing, node) | (node, Node::Nothing) => node,
            (Node::All(all), other) => Node::All(joined(all, other, of_all)),
            (first, other) => Node::All(joined(vec![first], other, of_all)),
        })
    }

    /// Sends `other` if a command in this is refused. For a timer, `a.after(t).or(b)` is `a.or(b).after(t)`. A timer
    /// that is only a part of this counts as accepted.
    pub fn or(self, other: Self) -> Self {
        Self(match (self.0, other.0) {
            (Node::Nothing, _) => Node::Nothing,
            (Node::Later(later), other) => later.with(|what| Self(what).or(Self(other))),
            (Node::Else(all), other) => Node::Else(joined(all, other, of_else)),
            (first, other) => Node::Else(joined(vec![first], other, of_else)),
        })
    }

    /// Sends `other` once all commands in this are accepted. For a timer, `a.after(t).then(b)` is `a.then(b).after(t)`.
    /// A timer that is only a part of this counts as accepted.
    pub fn then(self, other: Self) -> Self {
        Self(match (self.0, other.0) {
            (Node::Nothing, node) | (node, Node::Nothing) => node,
            (Node::Later(later), other) => later.with(|what| Self(what).then(Self(other))),
            (Node::Then(all), other) => Node::Then(joined(all, other, of_then)),
            (first, other) => Node::Then(joined(vec![first], other, of_then)),
        })
    }

    /// Sends this a time after the event was recorded; inside a timer, a time after that timer is due.
    pub fn after(self, time: Duration) -> Self {
        self.later(When::After(time))
    }

    /// Sends this at an instant: a `Timestamp`, `SystemTime`, or one of chrono, jiff or time. At once, if the instant
    /// is past.
    pub fn at(self, time: impl Into<std::time::SystemTime>) -> Self {
        self.later(When::At(time.into().into()))
    }

    fn later(self, when: When) -> Self {
        match self.0 {
            Node::Nothing => Self::none(),
            what => Self(Node::Later(Box::new(Later { when, name: None, what }))),
        }
    }

    /// Names a timer: after [`after`](Self::after) or [`at`](Self::at). Arming another timer of this name replaces it;
    /// [`cancel`] removes it. No effect on commands that are no timer.
    pub fn named(self, timer: &'static str) -> Self {
        match self.0 {
            Node::Later(later) => Self(Node::Later(Box::new(Later { name: Some(timer), ..*later }))),
            other => Self(other),
        }
    }

    /// How long the process waits for the answers to the messages in this. After that the alternative
    /// ([`or`](Self::or)) is sent, as if a message had been refused, and the receivers pass the messages over. No
    /// effect on commands to this store, which are answered at once.
    pub fn within(self, time: Duration) -> Self {
        match self.0 {
            Node::Nothing => Self::none(),
            node => Self(Node::Within(time, Box::new(node))),
        }
    }

    /// For an engine: whether a timer is armed or cancelled in this.
    #[doc(hidden)]
    pub fn has_timers(&self) -> bool {
        self.0.has_timers()
    }

    /// Fails with [`Invalid`] at more than 10,000 commands and timers, at parts nested more than 64 deep, and at names
    /// of timers and services with anything but a-z, 0-9, `_` and `.`.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let mut count = 0;
        self.0.check(0, &mut count)?;
        limits::size("the commands and timers of one answer", count, limits::COMMANDS)
    }
}

/// Returns the parts of a node followed by `other`, whose parts are taken if it is a node of the same kind.
fn joined(mut parts: Vec<Node>, other: Node, of: impl Fn(Node) -> Result<Vec<Node>, Node>) -> Vec<Node> {
    match of(other) {
        Ok(others) => parts.extend(others),
        Err(other) => parts.push(other),
    }
    parts
}

fn of_all(node: Node) -> Result<Vec<Node>, Node> {
    if let Node::All(parts) = node { Ok(parts) } else { Err(node) }
}

fn of_else(node: Node) -> Result<Vec<Node>, Node> {
    if let Node::Else(parts) = node { Ok(parts) } else { Err(node) }
}

fn of_then(node: Node) -> Result<Vec<Node>, Node> {
    if let Node::Then(parts) = node { Ok(parts) } else { Err(node) }
}

impl Later {
    fn with(mut self: Box<Self>, change: impl FnOnce(Node) -> Commands) -> Node {
        self.what = change(self.what).0;
        Node::Later(self)
    }
}

impl Node {
    fn check(&self, depth: usize, count: &mut usize) -> Result<(), Invalid> {
        limits::size("the depth of an answer", depth, limits::DEPTH)?;
        match self {
            Self::Nothing => Ok(()),
            Self::Send(sending) => {
                *count += 1;
                sending.check()
            }
            Self::All(nodes) | Self::Else(nodes) | Self::Then(nodes) => {
                nodes.iter().try_for_each(|node| node.check(depth + 1, count))
            }
            Self::Later(later) => {
                *count += 1;
                later.name.map_or(Ok(()), |name| limits::plain("timer", name))?;
                later.what.check(depth + 1, count)
            }
            Self::Within(_, node) => node.check(depth + 1, count),
            Self::Cancel(name) => limits::plain("timer", name),
        }
    }

    fn has_timers(&self) -> bool {
        match self {
            Self::Nothing | Self::Send(_) => false,
            Self::All(nodes) | Self::Else(nodes) | Self::Then(nodes) => nodes.iter().any(Self::has_timers),
            Self::Later(_) | Self::Cancel(_) => true,
            Self::Within(_, node) => node.has_timers(),
        }
    }

    /// Writes the node on one line, or with one part a line.
    fn text(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>| match f.alternate() {
            true => write!(f, "\n{:width$}", "", width = indent + 4),
            false => Ok(()),
        };
        match self {
            Self::Nothing => f.write_str("none()"),
            Self::Send(sending) => write!(f, "{sending:?}"),
            Self::Cancel(name) => write!(f, "cancel({name:?})"),
            Self::All(nodes) | Self::Else(nodes) | Self::Then(nodes) => {
                let word = match self {
                    Self::All(_) => "and",
                    Self::Else(_) => "or",
                    _ => "then",
                };
                for (node, n) in nodes.iter().zip(0..) {
                    if n == 0 {
                        node.text(f, indent)?;
                        continue;
                    }
                    line(f)?;
                    write!(f, ".{word}(")?;
                    node.text(f, indent + 4)?;
                    f.write_str(")")?;
                }
                Ok(())
            }
            Self::Later(later) => {
                later.what.text(f, indent)?;
                match later.when {
                    When::After(time) => write!(f, ".after({time:?})")?,
                    When::At(time) => write!(f, ".at({time})")?,
                }
                later.name.map_or(Ok(()), |name| write!(f, ".named({name:?})"))
            }
            Self::Within(time, node) => {
                node.text(f, indent)?;
                write!(f, ".within({time:?})")
            }
        }
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.text(f, 0)
    }
}

impl Extend<Commands> for Commands {
    fn extend<I: IntoIterator<Item = Commands>>(&mut self, others: I) {
        for other in others {
            *self = std::mem::take(self).and(other);
        }
    }
}

impl FromIterator<Commands> for Commands {
    fn from_iter<I: IntoIterator<Item = Commands>>(all: I) -> Self {
        let mut commands = Self::none();
        commands.extend(all);
        commands
    }
}
