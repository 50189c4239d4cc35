//! Invoices are numbered 1, 2, 3, …: no number is missing, and none is there twice.

use InvoiceEvent::*;
use eventstore::{prelude::*, testing::*};

use super::{super::world, at_once, log, rivals};

#[rustfmt::skip]
#[derive(Event, Clone, Debug, PartialEq)]
pub enum InvoiceEvent {
    Issued { #[event(tag)] series: Id<Series>, number: u64, cents: i64 },
    Cancelled, // keeps its number
}

/// One invoice, made of its own stream.
#[derive(Aggregate, Debug)]
pub struct Invoice {
    number: Option<u64>,
    cancelled: bool,
}

/// What is numbered in one go, `2026` or `shop-7`: made of the invoices issued in it.
#[derive(Aggregate, Debug)]
#[aggregate(by_tag)]
pub struct Series {
    #[aggregate(id)]
    id: Id<Series>,
    last: u64,
}

impl Evolve for Invoice {
    type Event = InvoiceEvent;

    fn evolve(&mut self, event: InvoiceEvent) {
        match event {
            Issued { number, .. } => self.number = Some(number),
            Cancelled => self.cancelled = true,
        }
    }
}

impl Evolve for Series {
    type Event = InvoiceEvent;

    fn evolve(&mut self, event: InvoiceEvent) {
        if let Issued { number, .. } = event {
            self.last = number;
        }
    }
}

#[derive(Clone)]
pub struct Issue {
    pub cents: i64,
}

impl Decide<Issue> for (Invoice, Series) {
    fn decide(&self, Issue { cents }: Issue) -> Decision<Invoice> {
        let (invoice, series) = self;
        ensure!(invoice.number.is_none(), "it is issued already");
        ensure!(cents > 0, "there is nothing to pay");
        Ok(vec![Issued { series: series.id.clone(), number: series.last + 1, cents }])
    }
}

#[derive(Clone)]
pub struct Cancel;

impl Decide<Cancel> for Invoice {
    fn decide(&self, Cancel: Cancel) -> Decision<Self> {
        ensure!(self.number.is_some(), "it is not issued");
        Ok(if self.cancelled { vec![] } else { vec![Cancelled] })
    }
}

#[test]
fn each_series_counts_for_itself_and_a_refusal_takes_no_number() {
    let (this, next) = (Id::<Series>::from("2026"), Id::<Series>::from("2027"));
    let (one, two, three) = (Id::<Invoice>::from("one"), Id::<Invoice>::from("two"), Id::<Invoice>::from("three"));
    let issued = |series: &Id<Series>, number| [Issued { series: series.clone(), number, cents: 5 }];
    given(&one, issued(&this, 1))
        .when(&one, Cancel)
        .then([Cancelled])
        .when((&two, &this), Issue { cents: 0 })
        .then_rejected("there is nothing to pay")
        .when((&two, &this), Issue { cents: 5 })
        .then(issued(&this, 2))
        .when((&two, &this), Issue { cents: 5 })
        .then_rejected("it is issued already")
        .when((&three, &next), Issue { cents: 5 })
        .then(issued(&next, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_invoice_numbers_have_no_gap_and_no_double() {
    let world = world().await;
    let series = Id::<Series>::from("2026");
    let clerks = rivals(&world, 8).into_iter().map(|store| {
        let series = series.clone();
        async move {
            for cents in 1..=5 {
                let invoice = Id::<Invoice>::new();
                store.execute((&invoice, &series), Issue { cents }).retries(500).await.unwrap();
                // Refused and lost attempts take no number, nor does a cancelled invoice give it back.
                let nothing = store.execute((Id::<Invoice>::new(), &series), Issue { cents: 0 }).await;
                assert!(matches!(nothing, Err(CommandError::Rejected(_))));
                let lost = store.execute((Id::<Invoice>::new(), &series), Issue { cents }).retries(0).await;
                assert!(matches!(lost, Ok(_) | Err(CommandError::Conflict(_))), "{lost:?}");
                store.execute(&invoice, Cancel).await.unwrap();
            }
        }
    });
    at_once(clerks.map(Box::pin)).await;
    let issued = log(&world).await.into_iter();
    let numbers: Vec<u64> =
        issued.filter_map(|event| if let Issued { number, .. } = event { Some(number) } else { None }).collect();
    assert!(numbers.len() >= 40);
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "in the order of the log");
    assert_eq!(world.store.load(&series).await.unwrap().last, numbers.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_series_do_not_disturb_one_another() {
    let world = world().await;
    let issues = rivals(&world, 8)
        .into_iter()
        .map(|store| store.execute((Id::<Invoice>::new(), Id::<Series>::new()), Issue { cents: 5 }).retries(0));
    let answers = at_once(issues).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().state.1.last == 1));
}
