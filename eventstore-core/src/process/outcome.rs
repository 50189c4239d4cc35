//! What is next in an answer, and what follows from one that is complete.

use std::time::Duration;

use crate::process::{
    progress::Progress,
    sending::Sending,
    walk::{Pending, TimerChange},
};

/// What is next.
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

/// What follows from an answer that is complete.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub(super) timers: Vec<TimerChange>,
    pub(super) plan: Option<Progress>,
    /// The words of the last refusal for which there is no alternative.
    pub refused: Option<String>,
}
