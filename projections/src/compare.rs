//! Compares a table that was built with the one that readers are sent to.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::Duration,
};

use eventstore_core::{EventStore, Invalid, Rows, StoreError, engine::SHADOW};
use eventstore_engine::{
    Processors,
    operate::rebuild::UNHELD,
    record::{dead_letters, list},
};
use serde_json::{Map, Value as Json, value::RawValue};
use tokio::time::{Instant, sleep};

use crate::promote::{PAUSE, check_built, counterpart};

/// How long both tables are held at one position, for the rows whose shards did not meet at one by themselves.
const LONGEST_HELD: Duration = Duration::from_secs(10);
/// How many rows are compared in one transaction.
const PAGE: usize = 1_000;
/// How many rows that differ are compared again at one position.
const LOOKED_AT: usize = 10_000;
/// How many rows that differ are returned.
const SHOWN: usize = 100;

/// Compares the table that was built with the one that readers are sent to.
pub(crate) async fn compare(processors: &Processors, name: &str) -> Result<Comparison, StoreError> {
    let rows = processors.known().await?;
    let (current, other) = counterpart(&rows, name)?;
    let live = other.strip_suffix(SHADOW).map(str::to_owned).or(current);
    let live = live.ok_or_else(|| Invalid::Request(format!("`{name}` has no current version to compare with")))?;
    check_built(processors, &rows, &other).await?;
    let mut comparison = Comparison { live, other, ..Comparison::default() };
    let mut differ = comparison.all(processors.store().as_ref()).await?;
    let more = differ.split_off(differ.len().min(LOOKED_AT));
    comparison.different += more.len() as u64;
    let mut moving = comparison.settle(processors.store().as_ref(), differ, UNHELD).await?;
    if !moving.is_empty() {
        // Events come so fast that the two never meet at one position by themselves.
        let (live, other) = (comparison.live.clone(), comparison.other.clone());
        let settle = comparison.settle(processors.store().as_ref(), moving, LONGEST_HELD);
        moving = processors.held(&[&live, &other], settle).await?;
    }
    comparison.moving = moving.len() as u64;
    Ok(comparison)
}

/// How two tables of a read model differ: see [`compare`](crate::ReadModelVersions::compare).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Comparison {
    /// The full name of the table that is read.
    pub live: String,
    /// The full name of the table that was built.
    pub other: String,
    /// How many rows are the same.
    pub same: u64,
    /// How many differ. Of rows that differ when first read, 10,000 are compared again at one position; the others
    /// count at once.
    pub different: u64,
    /// How many rows could not be compared, because no node brought both tables to one position.
    pub moving: u64,
    /// The first hundred rows that differ.
    pub differences: Vec<Difference>,
    /// Columns that only one of the two tables has; they are not compared.
    pub columns: Vec<String>,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// The key.
    pub key: String,
    /// The row of the table that is read; `None` if it has none.
    pub live: Option<Json>,
    /// The row of the table that was built; `None` if it has none.
    pub other: Option<Json>,
    /// The error of an event that one of the two could not process, if its key is parked. Else their code differs, or a
    /// row was changed by hand.
    pub reason: Option<String>,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { live, other, same, different, moving, .. } = self;
        write!(f, "{live}, which is read, and {other}, which was built: {same} rows the same, {different} different")?;
        if *moving > 0 {
            write!(f, ", {moving} in motion")?;
        }
        if !self.columns.is_empty() {
            write!(f, "; only one has {}", list(&self.columns))?;
        }
        for Difference { key, live, other, reason } in &self.differences {
            let shown = |row: &Option<Json>| row.as_ref().map_or("no row".into(), Json::to_string);
            write!(f, "\n{key}: read {}, built {}", shown(live), shown(other))?;
            reason.iter().try_for_each(|reason| write!(f, " ({reason})"))?;
        }
        Ok(())
    }
}

/// Rows of a table, page by page.
struct Paged<'a> {
    store: &'a dyn EventStore,
    table: &'a str,
    page: VecDeque<(String, Map<String, Json>)>,
    after: Option<String>,
}

impl Paged<'_> {
    async fn first(&mut self) -> Result<Option<&str>, StoreError> {
        if self.page.is_empty()
            && let Some(after) = self.after.take()
        {
            let rows = Rows::Whole { table: self.table.into(), keys: vec![], after, limit: PAGE };
            self.page = read(self.store.rows(rows).await?)?;
            self.after = self.page.back().filter(|_| self.page.len() == PAGE).map(|(key, _)| key.clone());
        }
        Ok(self.page.front().map(|(key, _)| &**key))
    }
}

fn read<C: FromIterator<(String, Map<String, Json>)>>(rows: Vec<(String, Box<RawValue>)>) -> Result<C, StoreError> {
    let read = |(key, row): (String, Box<RawValue>)| Ok((key, serde_json::from_str(row.get())?));
    let rows: Result<C, serde_json::Error> = rows.into_iter().map(read).collect();
    rows.map_err(|error| StoreError::Damaged(error.into()))
}

impl Comparison {
    /// Returns whether every row is the same, and none was counted as moving.
    pub fn is_same(&self) -> bool {
        self.different == 0 && self.moving == 0
    }

    /// Returns whether two rows are the same in the columns they both have.
    fn equal(&self, a: &Map<String, Json>, b: &Map<String, Json>) -> bool {
        a.iter().all(|(column, value)| b.get(column).is_none_or(|other| other == value))
    }

    /// Compares all rows as they are found. Returns the keys of those that differ.
    async fn all(&mut self, store: &dyn EventStore) -> Result<Vec<String>, StoreError> {
        let (live, other) = (self.live.clone(), self.other.clone());
        let paged = |table| Paged { store, table, page: VecDeque::new(), after: Some(String::new()) };
        let [mut live, mut other] = [&*live, &*other].map(paged);
        // Rows of one version all have the same columns: the first row that both have says which only one has.
        let (mut differ, mut compared) = (vec![], false);
        loop {
            let (a, b) = (live.first().await?.map(str::to_owned), other.first().await?.map(str::to_owned));
            let key = match (a, b) {
                (None, None) => break Ok(differ),
                (a, None) => a,
                (None, b) => b,
                (a, b) => a.min(b),
            };
            let next = |rows: &mut Paged<'_>| rows.page.pop_front_if(|(there, _)| Some(&*there) == key.as_ref());
            match (next(&mut live), next(&mut other)) {
                (Some((_, a)), Some((_, b))) => {
                    if !std::mem::replace(&mut compared, true) {
                        let lacks = |a: &Map<String, Json>, b: &Map<String, Json>| {
                            a.keys().filter(|column| !b.contains_key(*column)).cloned().collect::<Vec<_>>()
                        };
                        self.columns = [lacks(&a, &b), lacks(&b, &a)].concat();
                    }
                    match self.equal(&a, &b) {
                        true => self.same += 1,
                        false => differ.extend(key),
                    }
                }
                _ => differ.extend(key),
            }
        }
    }

    /// Compares rows again, with both tables at one position. Returns the keys of those whose tables were not at one
    /// position within `patience`.
    async fn settle(
        &mut self,
        store: &dyn EventStore,
        mut keys: Vec<String>,
        patience: Duration,
    ) -> Result<Vec<String>, StoreError> {
        let start = Instant::now();
        while !keys.is_empty() {
            let page: Vec<_> = keys.drain(..keys.len().min(PAGE)).collect();
            let mut transaction = store.begin().await?;
            let (mut names, mut shards) = ([&*self.live, &*self.other], BTreeMap::new());
            names.sort_unstable();
            for name in names {
                shards.insert(name, transaction.lock_projection(name).await?);
            }
            let at = |name: &str, key: &str| {
                shards[name].iter().find(|(shard, _)| shard.has(key)).map(|(_, at)| at.position)
            };
            let still = |key: &String| at(&self.live, key) == at(&self.other, key);
            let (page, moving): (Vec<_>, Vec<_>) = page.into_iter().partition(still);
            let mut rows = vec![];
            for table in [&self.live, &self.other] {
                let wanted =
                    Rows::Whole { table: table.clone(), keys: page.clone(), after: String::new(), limit: PAGE };
                let found = if page.is_empty() { vec![] } else { transaction.rows(wanted).await? };
                rows.push(read::<BTreeMap<_, _>>(found)?);
            }
            let mut reasons = BTreeMap::new();
            for name in [&self.live, &self.other] {
                let letters = dead_letters::first_within(&mut *transaction, name).await?;
                // A dead letter that waits with its whole stream has the stream for a key, which is no row's.
                for letter in letters.into_iter().filter(|letter| !letter.whole_stream) {
                    reasons.entry(letter.key).or_insert(letter.error);
                }
            }
            transaction.rollback().await?;
            for key in page {
                let [live, other] = [0, 1].map(|table: usize| rows[table].remove(&key));
                let same = match (&live, &other) {
                    (Some(live), Some(other)) => self.equal(live, other),
                    (None, None) => continue,
                    _ => false,
                };
                if same {
                    self.same += 1;
                    continue;
                }
                self.different += 1;
                if self.differences.len() < SHOWN {
                    let (live, other) = (live.map(Json::Object), other.map(Json::Object));
                    let reason = reasons.get(&key).cloned();
                    self.differences.push(Difference { key, live, other, reason });
                }
            }
            let wait = !moving.is_empty();
            keys.extend(moving);
            if start.elapsed() > patience {
                break;
            }
            if wait {
                sleep(PAUSE).await;
            }
        }
        Ok(keys)
    }
}
