//! The states loaded in a transaction, which are checked before it ends.

use std::sync::{self, PoisonError};

use crate::{
    contract::{Condition, Transaction},
    error::StoreError,
    stream::{StreamId, Version},
};

/// The streams and queries a state is made of, to check whether it has changed.
#[derive(Clone, Debug)]
pub(crate) struct Basis {
    pub(crate) unchanged: Vec<(StreamId, Version)>,
    pub(crate) condition: Option<Condition>,
}

/// The states loaded in a transaction.
#[derive(Default)]
pub(crate) struct Reads(sync::Mutex<Loads>);

#[derive(Default)]
struct Loads {
    /// Whether the transaction keeps all others from appending, and no loaded state had changed before that.
    held: bool,
    /// Whether a caller has had the connection: it may roll back to a savepoint, and so let others append again.
    lent: bool,
    loads: Vec<Basis>,
}

impl Reads {
    fn loads(&self) -> sync::MutexGuard<'_, Loads> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the basis of a state, if it may still change.
    pub(crate) fn remember(&self, basis: impl FnOnce() -> Basis) {
        if self.loads().may_change() {
            let basis = basis();
            self.loads().loads.push(basis);
        }
    }

    /// Checks the loaded states. From then on none of them changes, unless a caller rolls back to a savepoint. Fails
    /// with [`StoreError::Conflict`] if a state has changed.
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
        // Set only after all checks, so that after an error the states are checked again.
        self.held();
        Ok(())
    }

    /// Notes that a caller has had the connection.
    pub(crate) fn lent(&self) {
        self.loads().lent = true;
    }

    /// Notes that the transaction keeps all others from appending. The loaded states have been checked before.
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
