//! What every store must do, as tests: all promises of append, read, order, ids and rows that need no crash.
//!
//! The tests of a store call [`conformance!`](crate::conformance!):
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use eventstore_core::{EventStore, MemoryStore as MyStore};
//! async fn fresh() -> (Arc<dyn EventStore>, tempfile::TempDir) {
//!     let folder = tempfile::tempdir().unwrap();
//!     (Arc::new(MyStore::new()), folder)
//! }
//!
//! eventstore_core::conformance!(fresh);
//! ```
//!
//! Each function here is one promise; its name begins with the id of the promise in `docs/guarantees.md`. It gets an
//! empty store and panics if the promise is broken.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests: the name is the sentence they prove, and they panic")]

mod append;
mod checkpoints;
mod conditions;
mod data;
mod ids;
mod limits;
mod readers;
mod reads;
mod retag;
mod rows;
mod snapshots;
mod streams;
mod support;
mod tables;
mod time;
mod transactions;

pub use append::*;
pub use checkpoints::*;
pub use conditions::*;
pub use data::*;
pub use ids::*;
pub use limits::*;
pub use readers::*;
pub use reads::*;
pub use retag::*;
pub use rows::*;
pub use snapshots::*;
pub use streams::*;
pub use tables::*;
pub use time::*;
pub use transactions::*;

/// Makes a test of every promise: `conformance!(fresh)`, where `fresh` is an async function that returns an empty
/// store, as an `Arc<dyn EventStore>`, and a value that is dropped when the test is over.
#[macro_export]
macro_rules! conformance {
    ($fresh:path) => {
        $crate::conformance! { $fresh:
            a2_an_append_to_several_streams_is_all_or_nothing
            a3_versions_and_positions_have_no_gap_whoever_writes
            a3_a_stream_may_come_again_in_one_append
            a4_a_conflict_names_stream_expected_and_actual_and_writes_nothing
            a4_every_expectation_is_checked
            a4_a_stream_that_must_be_unchanged_is_checked
            a4_a_conflict_names_the_events_in_between
            a4_a_read_of_a_table_that_is_not_there_is_no_failure_of_a_transaction
            a5_a_retry_with_the_same_ids_gives_the_first_result
            a5_the_same_append_at_once_is_recorded_once
            a5_an_id_with_other_data_is_a_duplicate
            a5_what_is_recorded_is_found_by_its_ids
            a7_who_began_later_comes_later
            a8_a_dropped_append_leaves_nothing_open
            a8_a_dropped_transaction_leaves_nothing
            a8_an_operation_dropped_in_a_transaction_is_never_half_recorded
            a2_an_operation_that_failed_in_a_transaction_is_never_half_recorded
            a10_bytes_in_are_bytes_out
            a10_names_in_are_names_out
            a10_metadata_in_is_metadata_out
            a11_what_is_over_a_limit_is_refused_before_anything_is_written
            a11_a_hundred_thousand_events_fit_in_one_append
            a11_a_log_has_a_bounded_number_of_event_types
            a14_a_condition_beyond_the_end_of_the_log_is_refused
            a14_a_log_has_an_identity
            a13_a_condition_sees_names_and_tags
            a13_a_condition_sees_the_events_of_a_stream
            a13_of_decisions_that_exclude_each_other_one_wins
            c5_names_that_are_not_named_are_asked_for
            c5_a_condition_asks_for_types_that_were_added_after_the_read
            c6_a_transaction_that_holds_the_log_is_refused_what_has_changed
            s1_a_reader_sees_every_event_once_in_order
            s1_an_open_append_is_never_skipped
            s2_a_rolled_back_append_leaves_no_hole
            s5_a_checkpoint_never_goes_back
            s6_a_checkpoint_moves_only_to_what_is_in_the_log
            p6_shards_are_split_joined_and_moved_one_by_one
            t1_an_instant_is_a_prefix_of_the_log
            t3_an_instant_that_is_over_has_one_answer_whatever_is_open
            c1_a_command_is_found_again
            n1_a_snapshot_is_read_as_it_was_kept
            n1_a_snapshot_that_did_not_fit_is_replaced
            n1_a_stream_is_read_from_its_snapshot_on
            n2_an_older_snapshot_never_replaces_a_newer_one
            n2_of_snapshots_kept_at_once_the_newest_stays
            the_latest_snapshots_of_a_kind_come_first
            p1_rows_checkpoint_and_events_commit_together
            p1_one_at_a_time_moves_a_checkpoint
            p2_a_step_is_made_from_where_the_shard_is_or_not_at_all
            g4_rows_are_read_together_with_their_shard_or_not_at_all
            m1_timers_are_due_by_the_clock_that_stamps_events
            p2_of_steps_from_the_same_place_one_is_made
            a_log_is_read_by_stream_category_key_name_and_tag
            events_are_counted
            x3_an_event_gets_other_tags_and_stays_what_it_is
            a_read_is_bounded_by_its_head
            a_long_read_comes_in_pages_and_stops_at_its_limit
            a_stream_is_read_after_a_version
            a_log_is_read_backwards
            events_of_some_types_are_read_however_far_apart_they_are
            a_bare_read_has_all_that_a_state_is_made_of
            the_streams_of_a_category_come_in_the_order_of_their_keys
            streams_are_listed_page_by_page_each_once
            s10_whoever_reads_slowly_keeps_nobody_waiting
            an_append_wakes_those_who_wait
            rows_are_what_was_written
            rows_no_database_can_hold_are_refused
            rows_are_found_by_their_columns
            rows_are_selected_by_comparison_and_from_a_place
            a_table_is_built_once
            p4_a_table_and_its_shadow_change_names_at_once
            a_table_with_other_columns_is_refused_wherever_it_is_used
        }
    };
    ($fresh:path: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _kept) = $fresh().await;
                $crate::conformance::$case(store).await;
            }
        )*
    };
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use crate::{EventStore, MemoryStore};

    async fn fresh() -> (Arc<dyn EventStore>, ()) {
        (Arc::new(MemoryStore::new()), ())
    }

    crate::conformance!(fresh);

    /// Reads the files of this folder, so that a new one is not forgotten.
    #[test]
    fn every_promise_of_this_file_is_in_the_macro() {
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
        assert!(promises >= 70, "{promises}");
    }
}
