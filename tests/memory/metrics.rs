//! What is measured of projections, as a recorder of metrics hears it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use eventstore::{Id, Runner, prelude::*};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use serde::{Deserialize, Serialize};

use crate::{
    account::{AccountEvent::*, *},
    cases::world,
};

/// The values of each metric of one projection.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<BTreeMap<String, Vec<f64>>>>);

struct One(Heard, String);

impl One {
    fn hear(&self, value: f64) {
        self.0.0.lock().unwrap().entry(self.1.clone()).or_default().push(value);
    }
}

impl CounterFn for One {
    fn increment(&self, value: u64) {
        self.hear(value as f64);
    }
    fn absolute(&self, value: u64) {
        self.hear(value as f64);
    }
}

impl GaugeFn for One {
    fn increment(&self, value: f64) {
        self.hear(value);
    }
    fn decrement(&self, value: f64) {
        self.hear(-value);
    }
    fn set(&self, value: f64) {
        self.hear(value);
    }
}

impl HistogramFn for One {
    fn record(&self, value: f64) {
        self.hear(value);
    }
}

impl Heard {
    fn of(&self, key: &Key) -> Arc<One> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(One(self.clone(), format!("{} {}", key.name(), labels.join(","))))
    }
}

impl Recorder for Heard {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.of(key))
    }
}

#[derive(ReadModel, Serialize, Deserialize, Default)]
struct Measured {
    ratio: f64,
}

impl Project for Measured {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        if let Deposited { amount } = event.data {
            row.ratio += 1.0 / amount as f64;
        }
    }
}

#[tokio::test]
async fn projections_are_measured_once_a_batch() -> Result<(), Box<dyn std::error::Error>> {
    let heard = Heard::default();
    metrics::set_global_recorder(heard.clone()).map_err(|_| "another recorder")?;
    let world = world().await;
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let more = (0..10).map(|_| Deposited { amount: 2 });
    world.store.append(&ann, eventstore::Expected::Any, more).await?;
    let runner = Runner::new(&world.store).read_model::<Measured>().start();
    runner.until(world.store.head().await?).await?;
    // No row can hold it, and it is parked.
    let bad = world.store.append(&bob, eventstore::Expected::Any, [Deposited { amount: 0 }]).await?;
    crate::cases::parked::reached(&runner, bad.last).await?;
    runner.stop().await;
    let heard = heard.0.lock().unwrap();
    let of = |name: &str| heard[&format!("eventstore.projection.{name} projection=measured@1")].clone();
    assert_eq!(of("events"), [10.0, 1.0]);
    assert_eq!(of("failures"), [1.0]);
    assert!(of("batch.duration").len() == 2 && of("batch.duration").iter().all(|took| (0.0..10.0).contains(took)));
    assert_eq!(of("position").last(), Some(&11.0));
    assert_eq!((of("lag").last(), of("parked").last()), (Some(&0.0), Some(&1.0)));
    Ok(())
}
