//! What both releases have in common: a node, a writer, and a check, each a process.
//!
//! ```text
//! node                    runs the read models and the subscription until its input ends; says what each does
//! write FROM TO [fees]    appends an event for each number
//! check [whole]           compares rows and letters with the log; fails if they differ. Columns that a row may be
//!                         without are compared if the read models were built again (`whole`).
//! rebuild                 builds the balances again, by the nodes that run
//! deliver                 has the letters handed over that were passed
//! ```
//!
//! The store is `$STORE`, on PostgreSQL its schema `$SCHEMA`; letters go to the file `$LETTERS`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error,
    fs::{self, OpenOptions},
    io::Write,
    marker::PhantomData,
    time::Duration,
};

use eventstore::{BoxError, Event, Expected, Processors, StreamId, prelude::*};
use futures::TryStreamExt;
use tokio::{
    io::{AsyncReadExt, stdin},
    time::{sleep, timeout},
};

type Any = Box<dyn Error>;

async fn store() -> Result<Store, Any> {
    let url = env::var("STORE")?;
    #[cfg(feature = "postgres")]
    if url.starts_with("postgres") {
        let options = eventstore::PgStore::options().schema(env::var("SCHEMA")?).max_connections(4);
        return Ok(options.connect(&url).await?.into());
    }
    Ok(eventstore::connect(&url).await?)
}

/// Writes a line for each event: stands for a mail.
struct Letters<E>(PhantomData<E>);

impl<E: Event> Subscription for Letters<E> {
    const NAME: &'static str = "letters";
    type Event = E;

    async fn handle(&self, events: &[&Recorded<E>]) -> Result<(), BoxError> {
        let lines: String = events.iter().map(|event| format!("{} {}\n", event.position, event.stream)).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(env::var("LETTERS")?)?;
        file.write_all(lines.as_bytes())?;
        Ok(())
    }
}

/// Does what the arguments say.
pub async fn run<E, B, N>(arguments: &[String], event: impl Fn(i64) -> E) -> Result<(), Any>
where
    E: Event,
    B: ReadModel<Event = E> + PartialEq + std::fmt::Debug,
    N: ReadModel<Event = E> + PartialEq + std::fmt::Debug,
{
    let words: Vec<_> = arguments.iter().map(|argument| &**argument).collect();
    match words[..] {
        ["node"] => node::<E, B, N>().await,
        ["write", from, to, ..] => {
            let store = store().await?;
            for n in from.parse()?..to.parse::<i64>()? {
                store.append(StreamId::new("account", &format!("a{}", n % 5)), Expected::Any, [event(n)]).await?;
            }
            Ok(())
        }
        ["check"] => check::<E, B, N>(false).await,
        ["check", "whole"] => check::<E, B, N>(true).await,
        ["rebuild"] => {
            let processors = Processors::new(&store().await?);
            processors.rebuild(B::NAME).await?.wait().await?;
            Ok(processors.promote(B::NAME).await?)
        }
        ["deliver"] => Ok(Processors::new(&store().await?).deliver_missed("letters").await?),
        _ => Err("node, write FROM TO [fees], check [whole], rebuild, or deliver".into()),
    }
}

async fn node<E: Event, B: ReadModel, N: ReadModel>() -> Result<(), Any> {
    let store = store().await?;
    let runner = Runner::new(&store).lease(Duration::from_millis(500)).read_model::<B>().read_model::<N>();
    let running = runner.subscription(Letters::<E>(PhantomData)).from_beginning().start();
    let mut said = BTreeMap::new();
    let watch = async {
        loop {
            for status in running.status() {
                let error = status.error.map(|error| format!(": {error}")).unwrap_or_default();
                let does = format!("{:?}{error}", status.state);
                if said.insert(status.name.clone(), does.clone()).as_ref() != Some(&does) {
                    println!("{} {does}", status.name);
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let mut input = vec![];
    let mut stdin = stdin();
    tokio::select! {
        () = watch => {}
        ended = stdin.read_to_end(&mut input) => { ended?; }
    }
    running.stop().await;
    Ok(())
}

async fn check<E, B, N>(whole: bool) -> Result<(), Any>
where
    E: Event,
    B: ReadModel<Event = E> + PartialEq + std::fmt::Debug,
    N: ReadModel<Event = E> + PartialEq + std::fmt::Debug,
{
    let store = store().await?;
    let head = store.head().await?;
    let caught_up = async {
        while Processors::new(&store)
            .status()
            .await?
            .iter()
            .any(|status| status.name == "letters" && status.position < head)
        {
            sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, Any>(())
    };
    timeout(Duration::from_secs(30), caught_up)
        .await
        .map_err(|_| "the letters do not come to the end of the log")??;
    let (balances, entries) = (store.read_model::<B>(), store.read_model::<N>());
    let (rows, folded) = (balances.list().after(head).await?, balances.live().list().await?);
    // A row that release 1 has written last lacks the column of release 2, until it is built again.
    let differ = if whole { rows != folded } else { without(&rows)? != without(&folded)? };
    if differ {
        return Err(format!("{}: the rows are not the fold of the log\n{rows:?}\n{folded:?}", B::NAME).into());
    }
    let (rows, folded) = (entries.list().after(head).await?, entries.live().list().await?);
    if rows != folded {
        return Err(format!("{}: the rows are not the fold of the log\n{rows:?}\n{folded:?}", N::NAME).into());
    }
    let log: BTreeSet<_> = store.read().events::<E>().map_ok(|event| event.position).try_collect().await?;
    let letters: BTreeSet<_> = fs::read_to_string(env::var("LETTERS")?)?
        .lines()
        .map(|line| Ok(line.split(' ').next().unwrap_or_default().parse()?))
        .collect::<Result<_, Any>>()?;
    if log != letters {
        let missing: Vec<_> = log.difference(&letters).collect();
        return Err(format!("{} events, {} letters; no letter of {missing:?}", log.len(), letters.len()).into());
    }
    println!("{} events: rows are the fold of the log, and each has its letter", log.len());
    Ok(())
}

/// Rows by their keys, without what a row may lack.
fn without<M: ReadModel>(rows: &[(String, M)]) -> Result<BTreeMap<String, String>, Any> {
    let optional: BTreeSet<_> = M::COLUMNS.iter().filter(|column| column.optional).map(|column| column.name).collect();
    let text = |(key, row): &(String, M)| {
        let row = eventstore::__private::serde_json::to_value(row)?;
        let columns = row.as_object().into_iter().flatten();
        let kept =
            columns.filter(|(name, _)| !optional.contains(&***name)).map(|(name, value)| format!("{name}={value}"));
        Ok((key.clone(), kept.collect::<Vec<_>>().join(" ")))
    };
    rows.iter().map(text).collect()
}
