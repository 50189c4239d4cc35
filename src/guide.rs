//! The guides of the repository, in reading order.
//!
//! Links to other files of the repository lead nowhere here: <https://github.com/eventstore-rs/eventstore>.

/// Where the links of a guide lead.
macro_rules! links {
    () => {
        concat!(
            "[aggregates-errors-and-retries]: crate::guide::aggregates#errors-and-retries\n",
            "[backup]: crate::guide::backup\n",
            "[brokers-nats]: https://github.com/eventstore-rs/eventstore/blob/main/docs/brokers/nats.md\n",
            "[brokers-rabbitmq]: https://github.com/eventstore-rs/eventstore/blob/main/docs/brokers/rabbitmq.md\n",
            "[errors]: crate::guide::errors\n",
            "[guarantees]: crate::guide::guarantees\n",
            "[http]: crate::guide::http\n",
            "[operating-projections]: crate::guide::operating_projections\n",
            "[operating-projections-a-new-version]: crate::guide::operating_projections#a-new-version\n",
            "[operating-projections-the-same-version-again]: crate::guide::operating_projections#the-same-version-again\n",
            "[operating-projections-when-an-event-cannot-be-processed]: crate::guide::operating_projections#when-an-event-cannot-be-processed\n",
            "[operations-roles]: crate::guide::operations#roles\n",
            "[examples-order-fulfilment]: https://github.com/eventstore-rs/eventstore/blob/main/examples/order_fulfilment.rs\n",
            "[examples-reminders]: https://github.com/eventstore-rs/eventstore/blob/main/examples/reminders.rs\n",
            "[examples-transfer]: https://github.com/eventstore-rs/eventstore/blob/main/examples/transfer.rs\n",
            "[performance]: crate::guide::performance\n",
            "[processes]: crate::guide::processes\n",
            "[proof]: https://github.com/eventstore-rs/eventstore/blob/main/docs/proof.md\n",
            "[read-models-sql-of-your-own]: crate::guide::read_models#sql-of-your-own\n",
            "[recipes-a-rule-that-depends-on-less-than-it-reads]: crate::guide::recipes#a-rule-that-depends-on-less-than-it-reads\n",
            "[snapshots]: crate::guide::snapshots\n",
            "[timers]: crate::guide::timers\n",
            "\n"
        )
    };
}

macro_rules! guides {
    ($($about:literal $name:ident $file:literal)*) => {$(
        #[allow(rustdoc::invalid_rust_codeblocks, reason = "what is left out is `…`")]
        #[doc = $about]
        #[doc = ""]
        #[doc = links!()]
        #[cfg_attr(all(doc, not(doctest)), doc = include_str!(concat!("../docs/", $file, ".md")))]
        pub mod $name {}
    )*};
}

guides! {
    "Rules over several aggregates, errors and retries, events that change shape." aggregates "aggregates"
    "Rows, queries, projections in SQL, subscriptions." read_models "read-models"
    "States, rows and whole tables of the past." time "time"
    "Sagas, reactors and timers." processes "processes"
    "Timers, scheduled commands, cron." timers "timers"
    "A published language, relays, inboxes, the bus." messages "messages"
    "Unique names, seats, numbers without gaps, tokens, payments, prices." recipes "recipes"
    "Repeated requests, entity tags, position tokens, problem details." http "http"
    "What each error and each code of a database means." errors "errors"
    "Running it: roles, doctor, metrics, wake-ups, the end of a program." operations "operations"
    "Rebuilds, new versions, dead letters, deployments." operating_projections "operating-projections"
    "Backup, restore, moves." backup "backup"
    "States that are kept." snapshots "snapshots"
    "Speed, measured." performance "performance"
    "Every promise, and the test of it." guarantees "guarantees"
    "A store of your own." store "store"
}
