//! Methods of [`Runner`] for read models and projections in SQL.

use eventstore_core::ReadModel;
use eventstore_engine::Runner;

use crate::{
    projection::{Projection, Sql},
    read_model::Folded,
};

/// Read models and projections in SQL, as methods of [`Runner`].
pub trait RunReadModels {
    /// Keeps the rows of a read model. Its table is made if there is none.
    fn read_model<M: ReadModel>(self) -> Self;

    /// Runs a projection in the store's own database.
    fn projection<P: Projection>(self, projection: P) -> Self;
}

impl RunReadModels for Runner {
    fn read_model<M: ReadModel>(self) -> Self {
        self.with(Folded::<M>::default())
    }

    fn projection<P: Projection>(self, projection: P) -> Self {
        self.with(Sql(projection))
    }
}
