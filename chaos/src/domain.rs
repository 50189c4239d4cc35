//! Accounts and courses: events, rules, and what is made of them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use AccountEvent::*;
use eventstore::{
    BoxError,
    prelude::*,
    sqlx::{self, AssertSqlSafe, PgConnection, Postgres, Sqlite, SqliteConnection},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

/// How many seats a course has.
pub const SEATS: usize = 7;

#[derive(Event, Clone, Debug, PartialEq)]
pub enum AccountEvent {
    Opened {
        owner: String,
    },
    Deposited {
        amount: i64,
    },
    Withdrawn {
        amount: i64,
    },
    Closed,
    /// A deposit that nothing can take in while there is poison.
    Poisoned {
        amount: i64,
    },
}

impl AccountEvent {
    /// Its stored name and body, as the log of a client has them: written by hand, to be compared.
    pub fn planned(&self) -> (&'static str, Json) {
        match self {
            Opened { owner } => ("account.opened", json!({ "owner": owner })),
            Deposited { amount } => ("account.deposited", json!({ "amount": amount })),
            Withdrawn { amount } => ("account.withdrawn", json!({ "amount": amount })),
            Closed => ("account.closed", json!({})),
            Poisoned { amount } => ("account.poisoned", json!({ "amount": amount })),
        }
    }

    /// Back from there.
    pub fn from_planned(name: &str, data: &Json) -> Option<Self> {
        let amount = data["amount"].as_i64();
        Some(match name {
            "account.opened" => Opened { owner: data["owner"].as_str()?.into() },
            "account.deposited" => Deposited { amount: amount? },
            "account.withdrawn" => Withdrawn { amount: amount? },
            "account.closed" => Closed,
            "account.poisoned" => Poisoned { amount: amount? },
            _ => return None,
        })
    }

    /// What it adds to a balance.
    fn sum(&self) -> i64 {
        match self {
            Deposited { amount } | Poisoned { amount } => *amount,
            Withdrawn { amount } => -amount,
            Opened { .. } | Closed => 0,
        }
    }
}

/// The same state twice: with snapshots and without.
macro_rules! accounts {
    ($($(#[$attribute:meta])* $Account:ident)*) => {
        $(
            #[derive(Aggregate, Serialize, Deserialize, Clone, Debug, PartialEq)]
            $(#[$attribute])*
            pub struct $Account {
                pub open: bool,
                pub owner: Option<String>,
                pub balance: i64,
                /// How many events made it.
                pub events: u64,
            }

            impl Evolve for $Account {
                type Event = AccountEvent;

                fn evolve(&mut self, event: AccountEvent) {
                    self.events += 1;
                    self.balance += event.sum();
                    match event {
                        Opened { owner } => (self.open, self.owner) = (true, Some(owner)),
                        Closed => (self.open, self.owner) = (false, None),
                        Deposited { .. } | Withdrawn { .. } | Poisoned { .. } => {}
                    }
                }
            }
        )*
    };
}
accounts! {
    #[aggregate(snapshot = 20)] Account
    #[aggregate(name = "account")] PlainAccount
}

#[derive(Clone)]
pub struct Deposit {
    pub amount: i64,
}

impl Decide<Deposit> for Account {
    fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> {
        Ok(vec![Deposited { amount }])
    }
}

#[derive(Clone)]
pub struct Withdraw {
    pub amount: i64,
}

impl Decide<Withdraw> for Account {
    /// What is paid in meanwhile only makes it easier.
    const UNAFFECTED_BY: &'static [&'static str] = &["account.opened", "account.deposited", "account.poisoned"];

    fn decide(&self, Withdraw { amount }: Withdraw) -> Decision<Self> {
        ensure!(amount <= self.balance, "only {} left", self.balance);
        Ok(vec![Withdrawn { amount }])
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum CourseEvent {
    Reserved {
        #[event(tag)]
        course: Id<Course>,
        #[event(tag)]
        student: Id<Student>,
    },
}

/// The events of a newer release: the rules of this one do not know them.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "course")]
pub enum NewerCourseEvent {
    Closed {
        #[event(tag = "course")]
        course: String,
    },
}

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(by_tag, snapshot(every = 3))]
pub struct Course {
    #[aggregate(id)]
    id: Id<Course>,
    students: Vec<String>,
}

#[derive(Aggregate)]
#[aggregate(by_tag)]
pub struct Student {
    #[aggregate(id)]
    id: Id<Student>,
    courses: BTreeSet<String>,
}

impl Evolve for Course {
    type Event = CourseEvent;

    fn evolve(&mut self, CourseEvent::Reserved { student, .. }: CourseEvent) {
        self.students.push(student.key().into());
    }
}

impl Evolve for Student {
    type Event = CourseEvent;

    fn evolve(&mut self, CourseEvent::Reserved { course, .. }: CourseEvent) {
        self.courses.insert(course.key().into());
    }
}

#[derive(Clone)]
pub struct Reserve;

impl Decide<Reserve> for (Course, Student) {
    fn decide(&self, Reserve: Reserve) -> Decision<Self> {
        let (course, student) = self;
        ensure!(course.students.len() < SEATS, "{} is full", course.id);
        ensure!(!student.courses.contains(course.id.key()), "{} has a seat", student.id);
        Ok(vec![CourseEvent::Reserved { course: course.id.clone(), student: student.id.clone() }])
    }
}

/// Takes as much from an account as the course has students, and one more: the amount shows the state it was decided on.
#[derive(Clone)]
pub struct Sponsor;

impl Decide<Sponsor> for (Account, Course) {
    fn decide(&self, Sponsor: Sponsor) -> Decision<Self> {
        let (account, course) = self;
        let amount = course.students.len() as i64 + 1;
        ensure!(amount <= account.balance, "only {} left", account.balance);
        Ok(vec![Withdrawn { amount }])
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum TicketEvent {
    Issued { number: u64 },
}

/// How many tickets there are, in whichever stream.
#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(name = "ticket", snapshot = 50)]
pub struct Tickets {
    issued: u64,
}

impl Evolve for Tickets {
    type Event = TicketEvent;

    fn evolve(&mut self, TicketEvent::Issued { .. }: TicketEvent) {
        self.issued += 1;
    }
}

#[derive(Clone)]
pub struct Issue;

impl Decide<Issue> for Tickets {
    fn decide(&self, Issue: Issue) -> Decision<Self> {
        Ok(vec![TicketEvent::Issued { number: self.issued + 1 }])
    }
}

static FLAG: OnceLock<PathBuf> = OnceLock::new();

/// The file that says that there is poison, in the folder of a run.
pub fn poison(folder: &Path) -> PathBuf {
    folder.join("poison")
}

/// From now on this process looks for poison in the folder of its run.
pub fn poisoned_in(folder: &Path) {
    let _ = FLAG.set(poison(folder));
}

fn taste(event: &AccountEvent) -> Result<(), BoxError> {
    let poison = matches!(event, Poisoned { .. }) && FLAG.get().is_some_and(|flag| flag.exists());
    if poison { Err("poison: nobody can take this in".into()) } else { Ok(()) }
}

/// One row an account, as long as it is open.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Balance {
    pub owner: Option<String>,
    pub balance: i64,
    pub events: i64,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.events += 1;
        row.balance += event.data.sum();
        match &event.data {
            Opened { owner } => row.owner = Some(owner.clone()),
            Closed => row.delete(),
            _ => taste(&event.data).expect("it panics, as code does"),
        }
    }
}

/// One row an account, for ever. Programs of two releases keep it side by side: the later one reads all events.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Activity {
    pub events: i64,
    pub sum: i64,
}

impl Project for Activity {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.events += 1;
        row.sum += event.data.sum();
    }
}

/// The release before.
pub mod earlier {
    use super::*;

    /// It does not know that accounts are opened and closed, nor that there is poison.
    #[derive(Event, Clone, Debug, PartialEq)]
    #[event(prefix = "account")]
    pub enum AccountEvent {
        Deposited { amount: i64 },
        Withdrawn { amount: i64 },
    }

    #[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
    pub struct Activity {
        pub events: i64,
        pub sum: i64,
    }

    impl Project for Activity {
        type Event = AccountEvent;

        fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
            row.events += 1;
            match event.data {
                AccountEvent::Deposited { amount } => row.sum += amount,
                AccountEvent::Withdrawn { amount } => row.sum -= amount,
            }
        }
    }
}

/// Many streams in one row, and several rows an event.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(keys = spread)]
pub struct Turnover {
    pub events: i64,
    pub sum: i64,
}

/// By the last two characters of the account and by the amount: `account-17`, which may be a stream, and `amount-42`.
fn spread(event: &Recorded<AccountEvent>) -> Vec<String> {
    let amount = match &event.data {
        Deposited { amount } | Withdrawn { amount } | Poisoned { amount } => amount,
        Opened { .. } | Closed => return vec![],
    };
    let account = event.stream.key();
    let last = &account[account.len().saturating_sub(2)..];
    vec![format!("account-{last}"), format!("amount-{}", amount.rem_euclid(97))]
}

impl Project for Turnover {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.events += 1;
        row.sum += event.data.sum();
        taste(&event.data).expect("it panics, as code does");
    }
}

/// In SQL of one's own, where to count twice is seen: one row an account, which stays when it is closed.
pub struct Ledger {
    /// The table, with its schema.
    pub table: String,
}

impl Ledger {
    fn create(&self) -> AssertSqlSafe<String> {
        AssertSqlSafe(format!(
            "CREATE TABLE IF NOT EXISTS {} (account text PRIMARY KEY, events bigint NOT NULL, sum bigint NOT NULL)",
            self.table
        ))
    }

    fn add(&self) -> AssertSqlSafe<String> {
        AssertSqlSafe(format!(
            "INSERT INTO {} AS l VALUES ($1, 1, $2)
             ON CONFLICT (account) DO UPDATE SET events = l.events + 1, sum = l.sum + excluded.sum",
            self.table
        ))
    }
}

impl Projection for Ledger {
    const NAME: &'static str = "ledger";
    type Event = AccountEvent;
    type Db = Postgres;

    async fn prepare(&self, db: &mut PgConnection) -> Result<(), BoxError> {
        sqlx::query(self.create()).execute(db).await?;
        Ok(())
    }

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
        sqlx::query(self.add()).bind(event.stream.key().to_owned()).bind(event.data.sum()).execute(db).await?;
        taste(&event.data)
    }

    async fn project_batch(&self, events: &[&Recorded<AccountEvent>], db: &mut PgConnection) -> Result<(), BoxError> {
        if events.len() < 20 {
            for event in events {
                self.project(event, db).await?;
            }
            return Ok(());
        }
        let accounts: Vec<String> = events.iter().map(|event| event.stream.key().to_owned()).collect();
        let sums: Vec<i64> = events.iter().map(|event| event.data.sum()).collect();
        let add = AssertSqlSafe(format!(
            "INSERT INTO {} AS l SELECT account, count(*), sum(sum)::bigint FROM unnest($1, $2) AS e (account, sum)
              GROUP BY account ORDER BY account
             ON CONFLICT (account) DO UPDATE SET events = l.events + excluded.events, sum = l.sum + excluded.sum",
            self.table
        ));
        sqlx::query(add).bind(accounts).bind(sums).execute(db).await?;
        events.iter().try_for_each(|event| taste(&event.data))
    }
}

/// The same on SQLite.
pub struct FileLedger(pub Ledger);

impl Projection for FileLedger {
    const NAME: &'static str = "ledger";
    type Event = AccountEvent;
    type Db = Sqlite;

    async fn prepare(&self, db: &mut SqliteConnection) -> Result<(), BoxError> {
        sqlx::query(self.0.create()).execute(db).await?;
        Ok(())
    }

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut SqliteConnection) -> Result<(), BoxError> {
        sqlx::query(self.0.add()).bind(event.stream.key().to_owned()).bind(event.data.sum()).execute(db).await?;
        taste(&event.data)
    }
}
