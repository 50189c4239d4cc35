//! What has been loaded in a transaction, and is checked before it ends.

use std::sync::{self, PoisonError};

use crate::{
    contract::{Condition, Transaction},
    error::StoreError,
    stream::{StreamId, Version},
};

/// What a state was made of, so that it can be seen whether it still is.
#[derive(Clone, Debug)]
pub(crate) struct Basis {
    pub(crate) unchanged: Vec<(StreamId, Version)>,
    pub(crate) condition: Option<Condition>,
}

/// What has been loaded in a transaction.
#[derive(Default)]
pub(crate) struct Reads(sync::Mutex<Loads>);

#[derive(Default)]
struct Loads {
    /// Whether all others are kept from appending, and nothing that was loaded has changed before that.
    held: bool,
    /// Whether a caller has had the connection, who may roll back to a savepoint, and so let others append again.
    lent: bool,
    loads: Vec<Basis>,
}

impl Reads {
    fn loads(&self) -> sync::MutexGuard<'_, Loads> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what a state was made of, if it may still change.
    pub(crate) fn remember(&self, basis: impl FnOnce() -> Basis) {
        if self.loads().may_change() {
            let basis = basis();
            self.loads().loads.push(basis);
        }
    }

    /// Checks what has been loaded. From then on nothing of it changes, unless a caller rolls back to a savepoint.
    pub(crate) async fn hold(&self, transaction: &mut dyn Transaction) -> Result<(), StoreError> {
        let (held, may_change) = {
            let loads = self.loads();
            (loads.held, loads.may_change() && !loads.loads.is_empty())
        };
        if !may_change || held && transaction.holds().await? {
            return Ok(());
        }
        let loads = {
            let mut loads = self.loads();
            loads.held = false;
            loads.loads.clone()
        };
        let (unchanged, conditions): (Vec<_>, Vec<_>) =
            loads.into_iter().map(|Basis { unchanged, condition }| (unchanged, condition)).unzip();
        let mut conditions = conditions.into_iter().flatten();
        transaction.hold(unchanged.into_iter().flatten().collect(), conditions.next()).await?;
        for condition in conditions {
            transaction.hold(vec![], Some(condition)).await?;
        }
        // Only now: what is stale, or was not checked to the end, is checked again.
        self.held();
        Ok(())
    }

    /// A caller has the connection from now on.
    pub(crate) fn lent(&self) {
        self.loads().lent = true;
    }

    /// All others are kept from appending from now on. What was loaded before that is checked.
    pub(crate) fn held(&self) {
        let mut loads = self.loads();
        loads.held = true;
        if !loads.may_change() {
            loads.loads = vec![];
        }
    }
}

impl Loads {
    fn may_change(&self) -> bool {
        !self.held || self.lent
    }
}
