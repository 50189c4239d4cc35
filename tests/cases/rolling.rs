//! Two releases of a program over one database, each a process: `examples/rolling_deploy`.

use std::path::PathBuf;

use uuid::Uuid;

#[path = "../../examples/rolling_deploy/scenario.rs"]
#[allow(dead_code, reason = "the example builds the programs itself")]
mod scenario;

use scenario::Deployment;

/// A deployment over a store, whose letters are in a folder.
fn deployment(store: String, folder: &tempfile::TempDir) -> Deployment {
    let releases = [env!("CARGO_BIN_EXE_release-one"), env!("CARGO_BIN_EXE_release-two")].map(PathBuf::from);
    let (schema, letters) = (format!("test_{}", Uuid::now_v7().simple()), folder.path().join("letters"));
    Deployment { releases, store, schema, letters }
}

#[test]
fn e5_two_releases_run_side_by_side_when_nodes_are_deployed_before_writers() {
    let folder = tempfile::tempdir().unwrap();
    scenario::nodes_first(&deployment(crate::store_for_processes(&folder), &folder)).unwrap();
}

#[test]
fn e5_two_releases_run_side_by_side_when_writers_are_deployed_before_nodes() {
    let folder = tempfile::tempdir().unwrap();
    scenario::writers_first(&deployment(crate::store_for_processes(&folder), &folder)).unwrap();
}
