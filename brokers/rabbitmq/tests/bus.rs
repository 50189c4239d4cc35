//! The adapter against a real server: what every bus must do, and what only this one does.

#![allow(clippy::unwrap_used, reason = "tests: they panic")]

mod support;

use eventstore_messaging::{Bus, conformance::Faults};
use eventstore_rabbitmq::RabbitMqBus;

use support::{Kept, Server};

/// A topic has one partition.
mod one {
    use super::*;

    async fn fresh() -> (Bus, Faults, Kept) {
        support::bus(RabbitMqBus::options(), 1, support::url(), None).await
    }

    eventstore_messaging::conformance!(fresh);
}

/// A topic has three partitions.
mod three {
    use super::*;

    async fn fresh() -> (Bus, Faults, Kept) {
        support::bus(RabbitMqBus::options(), 3, support::url(), None).await
    }

    eventstore_messaging::conformance!(fresh);
}

/// The server is killed.
mod crashes {
    use super::*;

    async fn fresh() -> (Bus, Faults, Kept) {
        let server = Server::start().await;
        support::bus(RabbitMqBus::options(), 2, server.url.clone(), Some(server)).await
    }

    eventstore_messaging::conformance! { fresh: r1_a_server_that_crashes_loses_nothing_it_has_confirmed }
}
