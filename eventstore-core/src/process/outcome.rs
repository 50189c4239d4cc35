//! The next command of an answer, and the outcome of a complete answer.

use std::time::Duration;

use crate::process::{
    progress::Progress,
    sending::Sending,
    walk::{Pending, TimerChange},
};

/// The next command of an answer, or its outcome.
pub(super) enum Next {
    Send(Send),
    Done(Box<Outcome>),
}

pub(super) struct Send {
    pub(super) sending: Sending,
    pub(super) place: String,
    pub(super) guarded: bool,
    pub(super) within: Option<Duration>,
}

impl From<Pending<'_>> for Send {
    fn from(Pending { sending, place, guarded, within }: Pending<'_>) -> Self {
        Self { sending: sending.clone(), place, guarded, within }
    }
}

/// The outcome of a complete answer.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub(super) timers: Vec<TimerChange>,
    pub(super) plan: Option<Progress>,
    /// The words of the last refusal that has no alternative.
    pub refused: Option<String>,
}
