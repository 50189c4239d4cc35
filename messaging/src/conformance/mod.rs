//! What every bus must do, as tests: bytes, order, groups, starts, and what holds when something fails.
//!
//! The tests of an adapter call [`conformance!`](crate::conformance!):
//!
//! ```no_run
//! use eventstore_core::{MemoryStore, Store};
//! use eventstore_messaging::{Bus, LogBus, conformance::Faults};
//!
//! async fn fresh() -> (Bus, Faults, ()) {
//!     let store = Store::from(MemoryStore::new());
//!     (LogBus::new(&store).into(), Faults::default(), ())
//! }
//!
//! eventstore_messaging::conformance!(fresh);
//! ```
//!
//! Each function here is one promise; its name begins with the id of the promise. It gets a bus and what can be broken
//! of it, makes topics of its own, and panics if the promise is broken. A promise that needs what a bus or its
//! [`Faults`] do not have is left out, and says so.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests: the name is the sentence they prove, and they panic")]

mod broken;
mod order;
mod readers;
mod support;

use futures::future::BoxFuture;

use crate::bus::Bus;

pub use broken::*;
pub use order::*;
pub use readers::*;

/// Does something to the server of a topic.
pub type Act = Box<dyn Fn(String) -> BoxFuture<'static, ()> + Send + Sync>;

/// Returns an [`Act`].
pub fn act<F: Future<Output = ()> + Send + 'static>(act: impl Fn(String) -> F + Send + Sync + 'static) -> Act {
    Box::new(move |topic| Box::pin(act(topic)))
}

/// A fault that lasts.
pub struct Fault {
    /// Begins it.
    pub begin: Act,
    /// Ends it.
    pub end: Act,
}

/// Makes another connection.
pub type Another = Box<dyn Fn() -> BoxFuture<'static, Bus> + Send + Sync>;

/// What the tests of a bus can break. A fault that a bus does not have is left out.
#[derive(Default)]
pub struct Faults {
    /// From its begin, the server gets what it is sent, and its answers are lost; at its end, all connections are closed,
    /// and new ones work.
    pub cut: Option<Fault>,
    /// From its begin, the server itself refuses messages of the topic with more than 10,000 bytes; the adapter does not
    /// know.
    pub refuse: Option<Fault>,
    /// Kills the server as a crash would, and starts it again with what it has on its disk.
    pub restart: Option<Act>,
    /// Removes the first messages of each partition of the topic, and keeps the last one.
    pub trim: Option<Act>,
    /// Removes the topic with all its messages.
    pub remake: Option<Act>,
    /// Returns the same bus through a connection of its own, as another program has it.
    pub another: Option<Another>,
}

/// Prints what a bus or its tests cannot do.
fn left_out(what: &str) {
    println!("left out: {what}");
}

/// Makes a test of every promise: `conformance!(fresh)`, where `fresh` is an async function that returns a
/// [`Bus`](crate::Bus), its [`Faults`](crate::conformance::Faults), and a value that is dropped when the test is over.
#[macro_export]
macro_rules! conformance {
    ($fresh:path) => {
        $crate::conformance! { $fresh:
            b1_a_topic_and_a_group_are_made_once_and_are_no_others
            b1_every_group_gets_every_message
            b3_a_group_begins_where_it_wants
            b3_a_reader_at_the_end_gets_what_comes
            b3_a_reader_reads_on_after_its_offset
            b4_a_reading_that_is_dropped_leaves_nothing_locked
            b4_the_lag_is_what_a_group_has_not_read
            i2_what_is_not_done_comes_again
            i7_an_offset_of_a_topic_that_was_made_anew_is_trimmed
            i7_an_offset_whose_next_messages_were_removed_is_trimmed
            l1_bytes_and_attributes_in_are_bytes_and_attributes_out
            r1_a_server_that_crashes_loses_nothing_it_has_confirmed
            r1_connections_that_are_cut_lose_nothing_and_change_no_order
            r1_what_was_not_confirmed_is_unavailable_and_never_done
            r2_a_publish_that_is_dropped_leaves_nothing_locked
            r2_messages_of_a_key_are_in_the_order_they_were_published_in
            r2_nothing_of_its_key_is_published_behind_one_that_was_refused
            r2_several_publishers_at_once_keep_the_order_of_keys
            r4_a_batch_that_is_published_again_is_known
            r4_the_last_message_is_the_one_that_is_there
            r6_a_name_that_no_topic_can_have_is_refused
            r6_what_is_too_large_is_refused
        }
    };
    ($fresh:path: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (bus, faults, _kept) = $fresh().await;
                let case = $crate::conformance::$case(bus, faults);
                // Servers that are killed and started again take their time on a busy machine.
                let limit = ::std::time::Duration::from_secs(120);
                assert!(tokio::time::timeout(limit, case).await.is_ok(), "it did not end within two minutes");
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use eventstore_core::{MemoryStore, Store};

    use super::{Another, Faults};
    use crate::{Bus, LogBus};

    async fn fresh() -> (Bus, Faults, ()) {
        let store = Store::from(MemoryStore::new());
        let bus: Bus = LogBus::new(&store).into();
        let another: Another = Box::new(move || {
            let bus = LogBus::new(&store).into();
            Box::pin(async { bus })
        });
        (bus, Faults { another: Some(another), ..Faults::default() }, ())
    }

    crate::conformance!(fresh);

    mod sqlite {
        use super::*;

        async fn fresh() -> (Bus, Faults, tempfile::TempDir) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("bus.db");
            let open = async |path: PathBuf| -> Bus {
                LogBus::new(&eventstore::SqliteStore::open(path).await.unwrap().into()).into()
            };
            let bus = open(path.clone()).await;
            let another: Another = Box::new(move || Box::pin(open(path.clone())));
            (bus, Faults { another: Some(another), ..Faults::default() }, folder)
        }

        crate::conformance!(fresh);
    }

    /// Reads the files of this folder, so that a new one is not forgotten.
    #[test]
    fn every_promise_of_this_folder_is_in_the_macro() {
        let this = include_str!("mod.rs");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/conformance");
        let files = fs::read_dir(folder).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
        let mut promises = 0;
        for file in files {
            for promise in file.lines().filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next()) {
                assert!(this.lines().any(|line| line.trim() == promise), "{promise} is not run");
                promises += 1;
            }
        }
        assert!(promises >= 22, "{promises}");
    }
}
