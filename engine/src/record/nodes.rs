//! The table of nodes: each node counts its beats in its row.

use std::{collections::BTreeMap, time::Duration};

use eventstore_core::{Column, Kind, Store, Table, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use uuid::Uuid;

use crate::record;

/// The table of nodes.
pub(crate) const NODES: Table = Table {
    shadow: false,
    name: "nodes",
    version: 0,
    columns: &[
        Column::new("beat", Kind::Integer),
        Column::new("beat_at", Kind::Time),
        Column::new("started_at", Kind::Time),
        Column::new("process", Kind::Text),
        Column::new("projections", Kind::Json),
        Column::optional("reads", Kind::Json),
        Column::optional("cannot", Kind::Json),
    ],
};

/// A node, as it describes itself.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub beat: i64,
    /// When it last beat, by its own clock. Operators take a node for gone 10 seconds later, by their clock.
    pub(crate) beat_at: Timestamp,
    pub(crate) started_at: Timestamp,
    /// The host and the process id, for people.
    pub process: String,
    #[serde(default, deserialize_with = "record::lenient")]
    pub projections: Vec<String>,
    /// The fingerprints of the sets of events that its processors read, by processor. `None`: a node of release 0.1.
    #[serde(default)]
    pub reads: Option<Json>,
    /// Why it cannot run some of its processors, by processor.
    #[serde(default, deserialize_with = "record::lenient")]
    pub cannot: BTreeMap<String, String>,
}

impl Beat {
    pub fn reads(&self, processor: &str) -> Option<&str> {
        self.reads.as_ref()?.get(processor)?.as_str()
    }

    /// Returns whether the node has the code of a processor, and does not say that it cannot run it.
    pub(crate) fn can_run(&self, processor: &str) -> bool {
        self.projections.iter().any(|name| name == processor) && !self.cannot.contains_key(processor)
    }
}

/// Beats until the task is aborted.
pub(crate) async fn beat(
    store: Store,
    node: Uuid,
    mut beat: Beat,
    cannot: watch::Receiver<BTreeMap<String, String>>,
    every: Duration,
) {
    let mut beats = interval(every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        beat.beat += 1;
        beat.beat_at = store.as_ref().now();
        beat.cannot = cannot.borrow().clone();
        // The table may not exist yet. If the store cannot be reached, everything else of the node reports that.
        if let Err(error) = record::write(store.as_ref(), &NODES, &node.to_string(), &beat).await {
            tracing::debug!(%error, "a node could not say that it lives");
        }
    }
}
