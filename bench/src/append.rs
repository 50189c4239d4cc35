//! Appends of one event to a new stream each: version checked, acknowledged when durable.

use eventstore::{Durability, Expected, Inline, PgStore, Store, StreamId, Version};
use uuid::Uuid;

use crate::{
    books::Balance,
    domain::{Outcome, deposited},
    measure::{Bench, rate},
    plain,
};

/// As many connections as a server may be expected to give a yardstick.
const CONNECTIONS: usize = 64;

async fn append(store: Store) -> Outcome<Store> {
    let stream = StreamId::new("account", &Uuid::now_v7().to_string());
    store.append(stream, Expected::Version(Version(0)), [deposited(10)]).await?;
    Ok(store)
}

pub async fn run(bench: &mut Bench, url: &str, writers: &[usize], durability: Durability) -> Outcome<()> {
    let options = PgStore::options().schema(format!("{durability:?}").to_lowercase()).durability(durability);
    let store = Store::from(options.connect(url).await?);
    let kind = match durability {
        Durability::Strict => "",
        Durability::Pipelined => "pipelined, ",
    };
    let seconds = bench.seconds;
    for &writers in writers {
        let connections = writers.min(CONNECTIONS);
        let case = match writers {
            1 => format!("{kind}1 writer"),
            _ if writers > connections => format!("{kind}{writers} writers (plain: {connections})"),
            _ => format!("{kind}{writers} writers"),
        };
        let ours = async || rate(vec![store.clone(); writers], seconds, append).await;
        let yardstick = async || rate(plain::connections(url, connections).await?, seconds, plain::insert).await;
        bench.pair(case, "appends/s", ours, yardstick).await?;
    }
    Ok(())
}

/// Appends that keep the rows of a read model in their own transaction, against those that do not.
pub async fn run_inline(bench: &mut Bench, url: &str, writers: &[usize]) -> Outcome<()> {
    let store = Store::from(PgStore::options().schema("inline").connect(url).await?);
    let inline = store.clone().with_inline::<Balance>();
    let seconds = bench.seconds;
    for &writers in writers {
        // What the yardstick appends is made up for by the first append of ours, before it is measured.
        let ours = async || rate(vec![append(inline.clone()).await?; writers], seconds, append).await;
        let yardstick = async || rate(vec![store.clone(); writers], seconds, append).await;
        bench.pair(format!("{writers} at once, against none inline"), "appends/s", ours, yardstick).await?;
    }
    Ok(())
}
