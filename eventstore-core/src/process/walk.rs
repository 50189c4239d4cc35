//! Finds the next command of an answer, given the results of the commands sent so far.
//!
//! A place is the way from the root to a node: the numbers of the branches, joined by dots. Walking is pure: with the
//! same results known it returns the same, on every node and after every crash.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Write},
    time::Duration,
};

use crate::process::{
    commands::{Commands, Later, Node, When},
    sending::Sending,
};

/// The result of a command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The command recorded events, or there was nothing to do.
    Accepted,
    /// A rule refused the command, in these words.
    Refused(String),
}

/// The known results, by place.
pub type Known = BTreeMap<String, Answer>;

/// A change of an instance's timers. Changes are applied in the order of the answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TimerChange {
    Arm(Arm),
    Cancel(Cow<'static, str>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arm {
    pub(super) place: String,
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) when: When,
    /// The text of the commands it will send, for people.
    pub(super) was: String,
    /// The places of messages: once all are answered, the timer is removed.
    pub(super) awaits: Vec<String>,
}

/// The next command to be sent.
#[derive(Debug)]
pub(super) struct Pending<'a> {
    pub(super) sending: &'a Sending,
    pub(super) place: String,
    /// Whether other commands depend on its result.
    pub(super) guarded: bool,
    /// How long after the event a message expires.
    pub(super) within: Option<Duration>,
}

/// A walk over one tree.
pub(super) struct Walk<'a> {
    known: &'a Known,
    place: String,
    within: Option<Duration>,
    /// The messages that were accepted.
    messages: Vec<String>,
    /// The nodes with a time bound, and their messages, until an alternative of theirs is found.
    bounded: Vec<(String, Duration, Vec<String>)>,
    /// The timer changes in the branches that are taken.
    pub(super) timers: Vec<TimerChange>,
    /// The words of the last refusal that has no alternative.
    pub(super) refused: Option<String>,
}

impl<'a> Walk<'a> {
    /// Returns a walk over a tree whose root is at a place.
    pub(super) fn new(known: &'a Known, root: impl Into<String>) -> Self {
        let (place, within) = (root.into(), None);
        Self { known, place, within, messages: vec![], bounded: vec![], timers: vec![], refused: None }
    }

    /// Walks over all commands. Returns whether a command was refused, or as the error the next command to send.
    pub(super) fn commands<'t>(&mut self, commands: &'t Commands, guarded: bool) -> Result<bool, Pending<'t>> {
        self.node(&commands.0, guarded)
    }

    /// Walks over the part of a tree that is sent once a timer in it is due. Returns as [`commands`](Self::commands).
    pub(super) fn due<'t>(&mut self, due: &Due<'t>) -> Result<bool, Pending<'t>> {
        match due {
            Due::Later(node) => self.node(node, false),
            Due::Alternatives(nodes, from) => self.alternatives(nodes, *from, false),
        }
    }

    fn child<'t>(&mut self, n: usize, node: &'t Node, guarded: bool) -> Result<bool, Pending<'t>> {
        let length = self.place.len();
        push(&mut self.place, n);
        let refused = self.node(node, guarded);
        self.place.truncate(length);
        refused
    }

    fn node<'t>(&mut self, node: &'t Node, guarded: bool) -> Result<bool, Pending<'t>> {
        match node {
            Node::Nothing => Ok(false),
            Node::Cancel(name) => {
                self.timers.push(TimerChange::Cancel(Cow::Borrowed(name)));
                Ok(false)
            }
            Node::Send(sending) => match self.known.get(&self.place) {
                None => Err(Pending { sending, place: self.place.clone(), guarded, within: self.within }),
                Some(Answer::Accepted) => {
                    if sending.service().is_some() {
                        self.messages.push(self.place.clone());
                    }
                    Ok(false)
                }
                Some(Answer::Refused(words)) => {
                    self.refused = Some(words.clone());
                    Ok(true)
                }
            },
            Node::All(nodes) => {
                let mut refused = false;
                for (n, node) in nodes.iter().enumerate() {
                    refused |= self.child(n, node, guarded)?;
                }
                Ok(refused)
            }
            Node::Else(nodes) => self.alternatives(nodes, 0, guarded),
            Node::Then(nodes) => {
                for (n, node) in nodes.iter().enumerate() {
                    if self.child(n, node, guarded || n + 1 < nodes.len())? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::Later(later) => {
                self.arm(later);
                Ok(false)
            }
            Node::Within(time, node) => {
                let (within, before) = (self.within, self.messages.len());
                self.within = Some(within.map_or(*time, |within| within.min(*time)));
                let refused = self.node(node, guarded);
                self.within = within;
                let refused = refused?;
                let messages = self.messages[before..].to_vec();
                if !messages.is_empty() {
                    self.bounded.push((self.place.clone(), *time, messages));
                }
                Ok(refused)
            }
        }
    }

    fn alternatives<'t>(&mut self, nodes: &'t [Node], from: usize, guarded: bool) -> Result<bool, Pending<'t>> {
        for (n, node) in nodes.iter().enumerate().skip(from) {
            let last = n + 1 == nodes.len();
            let (before, bounded) = (self.refused.clone(), self.bounded.len());
            if self.child(n, node, guarded || !last)? {
                if !last {
                    self.refused = before;
                    self.bounded.truncate(bounded);
                    continue;
                }
                return Ok(true);
            }
            if !last {
                let was = Due::Alternatives(nodes, n + 1).to_string();
                for (place, time, awaits) in self.bounded.split_off(bounded) {
                    let place = format!("{place}{}{LATE}", if place.is_empty() { "" } else { "." });
                    let (when, was) = (When::After(time), was.clone());
                    self.timers.push(TimerChange::Arm(Arm { place, name: None, when, was, awaits }));
                }
            }
            break;
        }
        Ok(false)
    }

    fn arm(&mut self, later: &Later) {
        let (place, name) = (self.place.clone(), later.name.map(Cow::Borrowed));
        let was = Commands(later.what.clone());
        let arm = Arm { place, name, when: later.when, was: format!("{was:?}"), awaits: vec![] };
        self.timers.push(TimerChange::Arm(arm));
    }
}

/// The last part of the place of a timer that bounds the wait for answers to messages.
const LATE: &str = "late";

fn push(place: &mut String, n: usize) {
    let dot = if place.is_empty() { "" } else { "." };
    write!(place, "{dot}{n}").expect("a string takes all text");
}

/// The commands that are sent once a timer is due.
#[derive(Clone, Copy)]
pub(super) enum Due<'a> {
    /// The node that waited for the instant.
    Later(&'a Node),
    /// The alternatives from this index on: messages were not answered in time.
    Alternatives(&'a [Node], usize),
}

impl fmt::Display for Due<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.commands())
    }
}

impl Due<'_> {
    /// Returns the same as commands.
    fn commands(&self) -> Commands {
        match self {
            Self::Later(node) => Commands((*node).clone()),
            Self::Alternatives(nodes, from) => match &nodes[*from..] {
                [one] => Commands(one.clone()),
                some => Commands(Node::Else(some.to_vec())),
            },
        }
    }

    /// Returns the commands still to be sent, given some results and the place of the root; for tests.
    pub(super) fn rest(&self, mut root: String, known: &Known) -> Commands {
        Commands(match self {
            Self::Later(node) => rest(node, &mut root, known).0,
            Self::Alternatives(nodes, from) => rest_of(nodes, *from, true, &mut root, known).0,
        })
    }
}

impl Commands {
    /// Returns the part that the timer at a place of this tree sends, and the place of its root; `None` if there is no
    /// such timer.
    pub(super) fn due(&self, place: &str) -> Option<(Due<'_>, String)> {
        let (way, late) = match place.strip_suffix(LATE) {
            Some(way) => (way.strip_suffix('.').unwrap_or(way), true),
            None => (place, false),
        };
        let mut node = &self.0;
        let mut alternatives: Option<(&[Node], usize, String)> = None;
        let mut at = String::new();
        for part in way.split('.').filter(|part| !part.is_empty()) {
            let n: usize = part.parse().ok()?;
            node = match within(node) {
                Node::Else(nodes) => {
                    if n + 1 < nodes.len() {
                        alternatives = Some((nodes, n + 1, at.clone()));
                    }
                    nodes.get(n)?
                }
                Node::All(nodes) | Node::Then(nodes) => nodes.get(n)?,
                // The commands in a timer are one place deeper, and belong to another answer.
                Node::Later(later) if n == 0 => {
                    alternatives = None;
                    &later.what
                }
                _ => return None,
            };
            push(&mut at, n);
        }
        match node {
            Node::Within(..) if late => {
                let (nodes, from, root) = alternatives?;
                Some((Due::Alternatives(nodes, from), root))
            }
            _ if late => None,
            node => match within(node) {
                Node::Later(later) => {
                    push(&mut at, 0);
                    Some((Due::Later(&later.what), at))
                }
                _ => None,
            },
        }
    }

    /// Returns the commands still to be sent, given some results; for tests.
    pub(super) fn rest(&self, known: &Known) -> Self {
        Self(rest(&self.0, &mut String::new(), known).0)
    }
}

/// Returns the node inside its time bounds, which have no places of their own.
fn within(mut node: &Node) -> &Node {
    while let Node::Within(_, inner) = node {
        node = inner;
    }
    node
}

enum Progress {
    Pending,
    Done { refused: bool },
}

fn rest_of_child(n: usize, node: &Node, place: &mut String, known: &Known) -> (Node, Progress) {
    let length = place.len();
    push(place, n);
    let rest = rest(node, place, known);
    place.truncate(length);
    rest
}

fn all(nodes: Vec<Node>) -> Node {
    nodes.into_iter().map(Commands).collect::<Commands>().0
}

/// Returns the rest of alternatives (`on_refusal`) or successors from an index on.
fn rest_of(nodes: &[Node], from: usize, on_refusal: bool, place: &mut String, known: &Known) -> (Node, Progress) {
    let mut left = vec![];
    for (n, node) in nodes.iter().enumerate().skip(from) {
        let (first, progress) = rest_of_child(n, node, place, known);
        let refused = match progress {
            Progress::Pending => {
                let others = nodes[n + 1..].iter().cloned().map(Commands);
                let rest = others.fold(Commands(first), if on_refusal { Commands::or } else { Commands::then });
                left.push(rest.0);
                return (all(left), Progress::Pending);
            }
            Progress::Done { refused } => refused,
        };
        left.push(first);
        if refused != on_refusal {
            return (all(left), Progress::Done { refused });
        }
    }
    (all(left), Progress::Done { refused: on_refusal })
}

fn rest(node: &Node, place: &mut String, known: &Known) -> (Node, Progress) {
    let done = |refused| Progress::Done { refused };
    match node {
        Node::Nothing | Node::Cancel(_) | Node::Later(_) => (node.clone(), done(false)),
        Node::Send(_) => match known.get(&*place) {
            None => (node.clone(), Progress::Pending),
            Some(answer) => (Node::Nothing, done(*answer != Answer::Accepted)),
        },
        Node::All(nodes) => {
            let (mut left, mut pending, mut refused) = (vec![], false, false);
            for (n, node) in nodes.iter().enumerate() {
                let (node, progress) = rest_of_child(n, node, place, known);
                left.push(node);
                match progress {
                    Progress::Pending => pending = true,
                    Progress::Done { refused: no } => refused |= no,
                }
            }
            (all(left), if pending { Progress::Pending } else { done(refused) })
        }
        Node::Else(nodes) => rest_of(nodes, 0, true, place, known),
        Node::Then(nodes) => rest_of(nodes, 0, false, place, known),
        Node::Within(time, node) => match rest(node, place, known) {
            (node, Progress::Pending) => (Node::Within(*time, Box::new(node)), Progress::Pending),
            done => done,
        },
    }
}
