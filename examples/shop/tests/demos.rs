//! The demonstrations end as promised, in memory and on SQLite files.

use shop::{Addresses, Place, demo};

type Any = Box<dyn std::error::Error + Send + Sync>;

async fn in_memory(name: &str) -> Result<(), Any> {
    demo(name, &Place::new("memory:", "memory:", Addresses::free().await?)).await
}

async fn in_files(name: &str) -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    demo(name, &Place::folder(folder.path(), Addresses::free().await?)).await
}

macro_rules! demos {
    ($($name:ident: $run:ident $demo:literal;)+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() -> Result<(), Any> {
            $run($demo).await
        }
    )+};
}

demos! {
    refused_in_memory: in_memory "refused";
    refused_in_files: in_files "refused";
    outage_in_memory: in_memory "outage";
    outage_in_files: in_files "outage";
    twice_in_memory: in_memory "twice";
    twice_in_files: in_files "twice";
    poison_in_memory: in_memory "poison";
    poison_in_files: in_files "poison";
    unpaid_in_memory: in_memory "unpaid";
}
