//! What happens later: a timer of a saga reminds of an invoice, a scheduled command writes it off, a cron schedule reports
//! each month. The clock is moved, and the program checks that each was done once and none too early.
//!
//! ```sh
//! cargo run --features cron --example reminders
//! ```

use std::{error::Error, time::Duration};

use eventstore::{MemoryStore, Missed, Tick, Timestamp, Unscheduled, prelude::*, testing::Clock};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

type Any = Box<dyn Error>;

const DAY: Duration = Duration::from_secs(86_400);

// An invoice, and its rules.

#[derive(Event, Clone, Debug, PartialEq)]
enum InvoiceEvent {
    Issued { invoice: Id<Invoice> },
    Reminded,
    Paid,
    WrittenOff,
}

#[derive(Aggregate)]
struct Invoice {
    #[aggregate(id)]
    id: Id<Invoice>,
    paid: bool,
}

impl Evolve for Invoice {
    type Event = InvoiceEvent;

    fn evolve(&mut self, event: InvoiceEvent) {
        self.paid |= event == InvoiceEvent::Paid;
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Issue;

#[derive(Clone, Debug, PartialEq)]
struct Pay;

#[derive(Clone, Debug, PartialEq)]
struct Remind;

/// It is stored until it is due, so it has a stored name.
#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "invoice.write_off")]
struct WriteOff {}

impl Decide<Issue> for Invoice {
    fn decide(&self, Issue: Issue) -> Decision<Self> {
        Ok(vec![InvoiceEvent::Issued { invoice: self.id.clone() }])
    }
}

impl Decide<Pay> for Invoice {
    fn decide(&self, Pay: Pay) -> Decision<Self> {
        Ok(vec![InvoiceEvent::Paid])
    }
}

impl Decide<Remind> for Invoice {
    fn decide(&self, Remind: Remind) -> Decision<Self> {
        Ok(vec![InvoiceEvent::Reminded])
    }
}

impl Decide<WriteOff> for Invoice {
    fn decide(&self, _: WriteOff) -> Decision<Self> {
        ensure!(!self.paid, "the invoice is paid");
        Ok(vec![InvoiceEvent::WrittenOff])
    }
}

// A timer of a saga: it goes with the instance, which ends when the invoice is paid.

#[derive(Saga, Serialize, Deserialize, Clone, Default, Debug)]
#[saga(from = "beginning", stream)]
enum Reminder {
    #[default]
    Open,
    #[saga(end)]
    Over,
}

impl Evolve for Reminder {
    type Event = InvoiceEvent;

    fn evolve(&mut self, event: InvoiceEvent) {
        if matches!(event, InvoiceEvent::Paid | InvoiceEvent::WrittenOff) {
            *self = Self::Over;
        }
    }
}

impl React for Reminder {
    fn react(&self, event: &Recorded<InvoiceEvent>) -> Commands {
        match &event.data {
            InvoiceEvent::Issued { invoice } => send(invoice, Remind).after(14 * DAY),
            _ => Commands::none(),
        }
    }
}

// A cron schedule: a report on the first of each month, at eight in the morning in Berlin.

#[derive(Event, Clone, Debug)]
enum OfficeEvent {
    Reported { at: Timestamp },
}

#[derive(Aggregate)]
struct Office {
    reports: Vec<Timestamp>,
}

impl Evolve for Office {
    type Event = OfficeEvent;

    fn evolve(&mut self, OfficeEvent::Reported { at }: OfficeEvent) {
        self.reports.push(at);
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Report {
    at: Timestamp,
}

impl Decide<Report> for Office {
    fn decide(&self, Report { at }: Report) -> Decision<Self> {
        Ok(vec![OfficeEvent::Reported { at }])
    }
}

struct Monthly;

impl Schedule for Monthly {
    const NAME: &'static str = "monthly_report";
    const CRON: &'static str = "0 8 1 * *";
    const ZONE: &'static str = "Europe/Berlin";
    const MISSED: Missed = Missed::All;

    fn tick(&self, tick: &Tick) -> Commands {
        send(Id::<Office>::from("berlin"), Report { at: tick.at })
    }
}

/// What has happened to an invoice, and when.
async fn history(store: &Store, invoice: &Id<Invoice>) -> Result<Vec<(InvoiceEvent, Timestamp)>, Any> {
    let events: Vec<Recorded<InvoiceEvent>> = store.read().stream(invoice).events().try_collect().await?;
    Ok(events.into_iter().map(|event| (event.data, event.recorded_at)).collect())
}

#[tokio::main]
async fn main() -> Result<(), Any> {
    let noon: Timestamp = "2026-03-15T12:00:00Z".parse()?;
    let clock = Clock::stopped_at(noon);
    let store = Store::from(MemoryStore::with_clock(&clock));
    store.scheduled().prepare().await?;
    let runner = Runner::new(&store).saga::<Reminder>().executes::<Invoice, (WriteOff,)>().schedule(Monthly).start();
    let (late, paid) = (Id::<Invoice>::from("i1"), Id::<Invoice>::from("i2"));
    let berlin = Id::<Office>::from("berlin");

    // The invoice and the command that writes it off are recorded together, or neither.
    for invoice in [&late, &paid] {
        let tx = store.begin().await?;
        let issued = tx.execute(invoice, Issue).await?;
        let write_off = tx.schedule(invoice, WriteOff {}).at(noon + 60 * DAY).id(format!("write-off-{invoice}"));
        let scheduled = write_off.by("office").caused_by(&issued.events[0]).await?;
        tx.commit().await?;
        println!("{invoice} is issued; unless it is paid, it is written off at {}", scheduled.due);
    }
    // The timers are armed, and the first report is planned.
    runner.settle().await?;

    clock.advance(10 * DAY);
    store.execute(&paid, Pay).await?;
    runner.settle().await?;
    let cancelled = store.unschedule("write-off-i2").await?;
    println!("i2 is paid; to write it off is {cancelled:?}");

    clock.advance(5 * DAY);
    runner.settle().await?;
    println!("i1 is reminded: {}", history(&store, &late).await?.len() == 2);

    clock.advance(50 * DAY);
    runner.settle().await?;
    let fired = store.unschedule("write-off-i1").await?;
    println!("i1 is written off: {fired:?}");
    runner.stop().await;

    let (of_late, of_paid) = (history(&store, &late).await?, history(&store, &paid).await?);
    let kinds =
        |history: &[(InvoiceEvent, Timestamp)]| history.iter().map(|(event, _)| event.clone()).collect::<Vec<_>>();
    let issued = |invoice: &Id<Invoice>| InvoiceEvent::Issued { invoice: invoice.clone() };
    let once = kinds(&of_late) == [issued(&late), InvoiceEvent::Reminded, InvoiceEvent::WrittenOff]
        && kinds(&of_paid) == [issued(&paid), InvoiceEvent::Paid];
    let in_time = of_late[1].1 >= noon + 14 * DAY && of_late[2].1 >= noon + 60 * DAY;
    // Summer time has begun on 29 March.
    let firsts: [Timestamp; 2] = ["2026-04-01T06:00:00Z".parse()?, "2026-05-01T06:00:00Z".parse()?];
    let reports = store.load(&berlin).await?.state.reports;
    let told = cancelled == Unscheduled::Cancelled && matches!(fired, Unscheduled::Fired { position: Some(_), .. });
    if !once || !in_time || !told || reports != firsts {
        return Err(format!("something is amiss: {of_late:?}, {of_paid:?}, {reports:?}").into());
    }
    println!("each was done once, and none too early");
    Ok(())
}
