//! What every bus must do, on a log in PostgreSQL.

use eventstore::{Bus, LogBus, Store};
use eventstore_messaging::conformance::Faults;

use crate::server;

async fn fresh() -> (Bus, Faults, ()) {
    (LogBus::new(&Store::from(server::fresh().await)).into(), Faults::default(), ())
}

eventstore_messaging::conformance!(fresh);
