//! The derives of [eventstore](https://docs.rs/eventstore): [`Event`], [`Aggregate`], [`ReadModel`], [`Saga`],
//! [`Command`]. Use them through the facade.
//!
//! Derives add names, never rules: what happens when is written by hand, in `Evolve`, `Decide`, `Project`,
//! `React` and `Steps`. All take `crate = path::to::eventstore`, for when it is found elsewhere than at `::eventstore`.

mod aggregate;
mod attr;
mod body;
mod command;
mod event;
mod fallback;
mod names;
mod places;
mod read_model;
mod saga;
mod shape;
mod snapshot;
mod tags;
mod transparent;
mod types;
mod versions;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes an enum an `Event`: one variant is one kind of thing that can happen.
///
/// ```
/// use eventstore::prelude::*;
///
/// #[derive(Event, Clone, Debug, PartialEq)]
/// enum AccountEvent {
///     Opened { owner: String }, // account.opened     {"owner":"Ann"}
///     Deposited(i64),           // account.deposited  100
///     Moved(i64, String),       // account.moved      [100,"savings"]
///     Closed,                   // account.closed     null
/// }
///
/// let opened = AccountEvent::Opened { owner: "Ann".into() };
/// assert_eq!(opened.name(), "account.opened");
/// assert_eq!(opened.encode()?, br#"{"owner":"Ann"}"#);
/// # Ok::<(), eventstore::EventError>(())
/// ```
///
/// The name is stored beside the body. It is the name of the enum without `Event`, a dot, and the name of the variant,
/// in snake case. The enum needs `Clone`, and no serde; its fields need serde's `Serialize` and `Deserialize`, which
/// the types of std have.
///
/// # Names
///
/// What is stored stays, so a variant can be renamed only together with a word about its stored name.
///
/// | key | on | says |
/// |---|---|---|
/// | `prefix = "bank.account"` | enum | what the names begin with |
/// | `retired("account.flagged")` | enum | names still in the log that mean nothing any more: they are read as nothing |
/// | `name = "account.opened"` | variant | the whole name |
/// | `alias = "account.created"` | variant | an earlier name, still read; can be said more than once |
///
/// ```
/// # use eventstore::prelude::*;
/// #[derive(Event, Clone)]
/// #[event(prefix = "bank.account", retired("bank.account.flagged"))]
/// enum AccountEvent {
///     #[event(alias = "bank.account.created")]
///     Opened { owner: String }, // bank.account.opened
///     #[event(name = "account closed")]
///     Closed, // account closed
/// }
/// ```
///
/// # Fields
///
/// Serde's attributes for fields hold: `rename`, `alias`, `default`, `with`, `skip_serializing_if`, `flatten` and the
/// others. Its attributes for enums and variants do not, and are refused. A body may have more fields than are read.
///
/// ```
/// # use eventstore::prelude::*;
/// #[derive(Event, Clone)]
/// enum AccountEvent {
///     Opened {
///         #[serde(rename = "name")]
///         owner: String,
///         #[serde(default, skip_serializing_if = "Option::is_none")]
///         limit: Option<i64>, // added later: older events have none
///     },
/// }
/// ```
///
/// # Tags
///
/// Tags say whom an event concerns, besides its stream: they are what `#[aggregate(by_tag)]` and
/// `#[read_model(tag = "…")]` go by.
///
/// | key | on | says |
/// |---|---|---|
/// | `tag` | field | a tag for the `Id<_>`, or each in an `Option` or `Vec`, by the name of its aggregate |
/// | `tag = "invoice"` | field | a tag by this name, for anything that is `Display`, or each in an `Option` or `Vec` |
/// | `tag = buyer.id` | field | a tag for what is in the field, at this path: an `Id<_>`, or an `Option` or `Vec` of one |
/// | `tag("city", buyer.city)` | field | a tag by this name, for what is in the field and is `Display` |
///
/// A field can have several tags. Where the field is an `Option` or `Vec`, a path begins at what is in that.
///
/// ```
/// # use eventstore::prelude::*;
/// # #[derive(Aggregate)]
/// # struct Course;
/// # impl Evolve for Course {
/// #     type Event = CampusEvent;
/// #     fn evolve(&mut self, _: CampusEvent) {}
/// # }
/// #[derive(Event, Clone)]
/// enum CampusEvent {
///     Billed {
///         #[event(tag)]
///         courses: Vec<Id<Course>>, // course:rust course:go
///         #[event(tag = "invoice")]
///         invoice: u64, // invoice:7
///     },
/// }
/// assert_eq!(CampusEvent::TAGS, ["course", "invoice"]);
///
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize, Clone)]
/// struct Booking {
///     course: Id<Course>,
///     room: u32,
/// }
///
/// #[derive(Event, Clone)]
/// enum CalendarEvent {
///     Booked(#[event(tag = course, tag("room", room))] Vec<Booking>),
/// }
/// let booked = CalendarEvent::Booked(vec![Booking { course: "rust".into(), room: 7 }]);
/// assert_eq!(booked.tags().iter().map(ToString::to_string).collect::<Vec<_>>(), ["course:rust", "room:7"]);
/// ```
///
/// # Some of the events of a category
///
/// A state by tag, or over every event, that knows only some of the events there are must not take an event of a newer
/// program for one that does not matter. So an event of the same tag, in a category where it knows events, under a name it
/// does not know is an error. What the program knows elsewhere and does not matter here is said with `others`:
///
/// | key | on | says |
/// |---|---|---|
/// | `others(CourseEvent)` | enum | event types of this program: those of their events that this enum does not name do not matter to it |
///
/// ```
/// # use eventstore::prelude::*;
/// # #[derive(Event, Clone)] enum CourseEvent { Opened, Moved, Full }
/// #[derive(Event, Clone)]
/// #[event(prefix = "course", others(CourseEvent))]
/// enum SeatEvent { // what a rule about seats reads, of all that happens to a course
///     Opened,
///     Full,
/// }
/// ```
///
/// # Versions
///
/// When a body changes in a way that serde's attributes cannot bridge, raise the version, and keep the earlier form
/// with a function that makes today's event of it. Each earlier form goes straight to today's, so all of them are
/// listed. The function gives the event; an `Option` if some are to be forgotten, a `Vec` if one became several.
///
/// | key | on | says |
/// |---|---|---|
/// | `version = 2` | variant | the version it is written in from now on; 1 if not said |
/// | `upcast(1 => from_v1)` | variant | how each earlier version is read |
///
/// ```
/// # use eventstore::prelude::*;
/// # use serde::Deserialize;
/// #[derive(Event, Clone, Debug, PartialEq)]
/// enum AccountEvent {
///     #[event(version = 2, upcast(1 => deposited_v1))]
///     Deposited { cents: i64 },
/// }
///
/// #[derive(Deserialize)]
/// struct DepositedV1 {
///     euros: i64,
/// }
///
/// fn deposited_v1(DepositedV1 { euros }: DepositedV1) -> AccountEvent {
///     AccountEvent::Deposited { cents: euros * 100 }
/// }
///
/// AccountEvent::decode("account.deposited", 1, br#"{"euros":5}"#, &mut |event| {
///     assert_eq!(event, AccountEvent::Deposited { cents: 500 });
/// })?;
/// # Ok::<(), eventstore::EventError>(())
/// ```
///
/// # Events of several kinds
///
/// `#[event(transparent)]` on an enum of other events passes on what they say, for a reader of them all.
/// Each variant can be made `From` its event.
///
/// ```
/// # use eventstore::prelude::*;
/// # #[derive(Event, Clone)] enum AccountEvent { Opened }
/// # #[derive(Event, Clone)] enum TransferEvent { Requested }
/// #[derive(Event, Clone)]
/// #[event(transparent)]
/// enum BankEvent {
///     Account(AccountEvent),
///     Transfer(TransferEvent),
/// }
/// assert_eq!(BankEvent::NAMES, ["account.opened", "transfer.requested"]);
/// assert_eq!(BankEvent::from(AccountEvent::Opened).name(), "account.opened");
/// ```
#[proc_macro_derive(Event, attributes(event, serde))]
pub fn event(input: TokenStream) -> TokenStream {
    event::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes a state an `Aggregate`: says what it is called, and what it is before its first event.
///
/// ```
/// use eventstore::prelude::*;
///
/// #[derive(Aggregate)]
/// struct Wallet {
///     balance: i64,
/// }
/// # #[derive(Event, Clone)]
/// # enum Money { Deposited(i64), Withdrawn(i64) }
///
/// impl Evolve for Wallet {
///     type Event = Money;
///
///     fn evolve(&mut self, event: Money) {
///         match event {
///             Money::Deposited(amount) => self.balance += amount,
///             Money::Withdrawn(amount) => self.balance -= amount,
///         }
///     }
/// }
///
/// assert_eq!(Id::<Wallet>::from("mine").stream().to_string(), "wallet-mine");
/// ```
///
/// Before the first event every field has its `Default`, and an enum is its own; the aggregate need not be `Default`
/// itself, and knows its id where a field is marked.
///
/// | key | on | says |
/// |---|---|---|
/// | `name = "account"` | type | the name, which is stored: the category of its streams, and of its tags. If not said, that of the type in snake case |
/// | `error = AccountError` | type | why a command may be refused. If not said, a `Refusal` in words |
/// | `by_tag` | type | it is made of the events tagged with its id, in whatever stream, instead of those in its stream |
/// | `snapshot = 100` | type | a snapshot is taken every 100 events; the state needs serde's `Serialize` and `Deserialize` |
/// | `snapshot(every = 100, version = 2)` | type | the same; raise the version when `evolve` changes what it makes of old events |
/// | `snapshot(slow = "5ms")` | type | a snapshot is taken after a load that took longer |
/// | `snapshot(by_hand)` | type | a snapshot is taken by `store.snapshot(&id)` only |
/// | `id` | field | this is its id: an `Id<Self>` |
///
/// ```
/// use eventstore::prelude::*;
///
/// #[derive(Event, Clone)]
/// enum CampusEvent {
///     CourseOpened { #[event(tag)] course: Id<Course>, seats: u32 },
/// }
///
/// #[derive(Aggregate)]
/// #[aggregate(by_tag)]
/// struct Course {
///     #[aggregate(id)]
///     id: Id<Course>,
///     free: u32,
/// }
/// # impl Evolve for Course {
/// #     type Event = CampusEvent;
/// #     fn evolve(&mut self, CampusEvent::CourseOpened { seats, .. }: CampusEvent) { self.free = seats; }
/// # }
///
/// # #[derive(Clone)]
/// # struct Open { seats: u32 }
/// impl Decide<Open> for Course {
///     fn decide(&self, Open { seats }: Open) -> Decision<Self> {
///         ensure!(self.free == 0, "{} is open already", self.id);
///         Ok(vec![CampusEvent::CourseOpened { course: self.id.clone(), seats }])
///     }
/// }
/// ```
///
/// # Snapshots
///
/// A state that has many events is kept now and then, so that a load begins there. Nothing else changes: what is
/// written in another form, damaged or not of this log is not used. What is kept is JSON, so serde must know the state.
///
/// ```
/// use eventstore::prelude::*;
/// use serde::{Deserialize, Serialize};
/// # #[derive(Event, Clone)]
/// # enum Money { Deposited(i64) }
///
/// #[derive(Aggregate, Serialize, Deserialize)]
/// #[aggregate(snapshot = 100)]
/// struct Wallet {
///     balance: i64,
/// }
/// # impl Evolve for Wallet {
/// #     type Event = Money;
/// #     fn evolve(&mut self, Money::Deposited(amount): Money) { self.balance += amount; }
/// # }
/// ```
///
/// The form is the fields, their types and serde's attributes as they are written, where the type is and what it is
/// called, and the names and versions of its events. It does not show when `evolve` changes, or what a field's type is
/// made of: then raise `version`.
///
/// # By tag
///
/// A state by tag is no single stream, so it has no version to be loaded at. This does not compile:
///
/// ```compile_fail,E0080
/// # use eventstore::prelude::*;
/// # #[derive(Event, Clone)]
/// # enum CampusEvent { CourseOpened { #[event(tag)] course: Id<Course> } }
/// # #[derive(Aggregate)]
/// # #[aggregate(by_tag)]
/// # struct Course;
/// # impl Evolve for Course {
/// #     type Event = CampusEvent;
/// #     fn evolve(&mut self, _: CampusEvent) {}
/// # }
/// # fn load(store: &Store, course: &Id<Course>) {
/// let _ = store.load(course).at(eventstore::Version(3));
/// # }
/// # load(&eventstore::MemoryStore::new().into(), &"rust".into());
/// ```
#[proc_macro_derive(Aggregate, attributes(aggregate))]
pub fn aggregate(input: TokenStream) -> TokenStream {
    aggregate::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes a row a `ReadModel`: a table with a column for each field.
///
/// ```
/// use eventstore::prelude::*;
/// use serde::{Deserialize, Serialize};
/// # #[derive(Event, Clone)]
/// # enum AccountEvent { Opened { owner: String }, Deposited { amount: i64 }, Closed }
///
/// #[derive(ReadModel, Serialize, Deserialize, Default)]
/// struct Balance {
///     #[read_model(index)]
///     owner: String,
///     balance: i64,
/// }
///
/// impl Project for Balance {
///     type Event = AccountEvent;
///
///     fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
///         match &event.data {
///             AccountEvent::Opened { owner } => row.owner = owner.clone(),
///             AccountEvent::Deposited { amount } => row.balance += amount,
///             AccountEvent::Closed => row.delete(),
///         }
///     }
/// }
/// ```
///
/// | key | on | says |
/// |---|---|---|
/// | `name = "balances"` | struct | the name of the table: a-z, 0-9 and `_`. If not said, that of the struct in snake case |
/// | `version = 2` | struct | raise it when the rows must be made again |
/// | `tag = "student"` | struct | an event concerns the rows of its tags of this name, instead of the row of its stream |
/// | `keys = per_day` | struct | an event concerns the rows that this function names: `fn per_day(event: &Recorded<AccountEvent>) -> Vec<String>` |
/// | `index` | field | rows are looked for by this column |
/// | `column = "bigint"` | field | the type of the column, where the type of the field does not tell |
///
/// The type of a column comes from what the type of its field is called, with or without `Option`:
///
/// | field | column |
/// |---|---|
/// | `String`, `char`, `Id<_>`, `Box<str>`, `Cow<str>` | `text` |
/// | integers up to 64 bits | `bigint` |
/// | `f32`, `f64` | `double precision` |
/// | `bool` | `boolean` |
/// | `Uuid` | `uuid` |
/// | `Timestamp` | `timestamptz` |
/// | everything else | `jsonb`, which cannot be looked up by |
///
/// A column is called what serde calls its field: `#[serde(rename = "…")]` holds. Whatever else would change which
/// columns there are is refused; `skip` too, for a row is written and read back between events. The row's key is
/// `row.key()`, so there is no field for it.
///
/// ```
/// # use eventstore::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Event, Clone)]
/// # enum AccountEvent { Deposited { amount: i64 } }
/// # #[derive(Serialize, Deserialize, Default)]
/// # struct Cents(i64);
/// #[derive(ReadModel, Serialize, Deserialize, Default)]
/// #[read_model(version = 2, keys = per_day)]
/// struct Turnover {
///     #[read_model(column = "bigint")]
///     total: Cents,
/// }
///
/// fn per_day(event: &Recorded<AccountEvent>) -> Vec<String> {
///     vec![event.occurred_at.to_string()[..10].into()]
/// }
/// # impl Project for Turnover {
/// #     type Event = AccountEvent;
/// #     fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
/// #         let AccountEvent::Deposited { amount } = event.data;
/// #         row.total.0 += amount;
/// #     }
/// # }
/// assert_eq!(Turnover::TABLE.to_string(), "turnover@2");
/// ```
#[proc_macro_derive(ReadModel, attributes(read_model, serde))]
pub fn read_model(input: TokenStream) -> TokenStream {
    read_model::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes a state a `Saga`: a process with a memory, which hears events and sends commands.
///
/// ```
/// use eventstore::prelude::*;
/// use serde::{Deserialize, Serialize};
/// # #[derive(Event, Clone, Debug, PartialEq)]
/// # enum TicketEvent { Opened, Answered, Closed }
/// # #[derive(Aggregate)]
/// # struct Ticket;
/// # impl Evolve for Ticket {
/// #     type Event = TicketEvent;
/// #     fn evolve(&mut self, _: TicketEvent) {}
/// # }
/// # #[derive(Clone, Debug, PartialEq)]
/// # struct Close;
/// # impl Decide<Close> for Ticket {
/// #     fn decide(&self, _: Close) -> Decision<Self> { Ok(vec![TicketEvent::Closed]) }
/// # }
///
/// /// A ticket without an answer within a week is closed.
/// #[derive(Saga, Serialize, Deserialize, Clone, Default)]
/// #[saga(stream)]
/// enum Forgotten {
///     #[default]
///     Waiting,
///     #[saga(end)]
///     Answered,
/// }
///
/// impl Evolve for Forgotten {
///     type Event = TicketEvent;
///
///     fn evolve(&mut self, event: TicketEvent) {
///         if let TicketEvent::Answered | TicketEvent::Closed = event {
///             *self = Self::Answered;
///         }
///     }
/// }
///
/// impl React for Forgotten {
///     fn react(&self, event: &Recorded<TicketEvent>) -> Commands {
///         let ticket = Id::<Ticket>::from(event.stream.key());
///         match event.data {
///             TicketEvent::Opened => send(&ticket, Close).after(std::time::Duration::from_secs(7 * 86_400)),
///             _ => Commands::none(),
///         }
///     }
/// }
///
/// # fn main() {
/// Forgotten::when(&Id::<Ticket>::from("t1"), TicketEvent::Opened)
///     .then(send(&Id::<Ticket>::from("t1"), Close).after(std::time::Duration::from_secs(7 * 86_400)));
/// # }
/// ```
///
/// | key | on | says |
/// |---|---|---|
/// | `name = "money_transfer"` | type | the name, which is stored and part of ids: a-z, 0-9 and `_`. If not said, that of the type in snake case |
/// | `stream` | type | an instance for each key of a stream |
/// | `tag = "order"` | type | an instance for each tag of this name |
/// | `key = order_of` | type | the instance that this function names: `fn order_of(event: &Recorded<ShopEvent>) -> Option<String>` |
/// | `end` | variant | an instance in this state is over |
/// | `end = is_settled` | type | the same for other states: `fn is_settled(state: &MoneyTransfer) -> bool` |
/// | `steps` | type | it declares `Steps` instead of `React` |
/// | `from = "beginning"` | type | where it begins when it runs for the first time: `beginning` or `now` |
/// | `version = 2` | type | the version its state is written in from now on; 1 if not said |
/// | `upcast(1 => from_v1)` | type | how a state of each earlier version is read: `fn from_v1(state: StateV1) -> Self` |
///
/// Without `stream`, `tag` or `key`, an instance is a conversation: the commands of a saga carry on the conversation of the
/// event they answer.
///
/// The state needs `Clone` and serde's `Serialize` and `Deserialize`; without `steps` also `Default`, which is what an
/// instance is before its first event.
#[proc_macro_derive(Saga, attributes(saga, serde))]
pub fn saga(input: TokenStream) -> TokenStream {
    saga::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes a command a `Command`: one with a stored name, which another service can be asked, or which is scheduled.
///
/// ```
/// use eventstore::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
/// #[command(name = "payments.charge")]
/// struct Charge {
///     order: String,
///     cents: i64,
/// }
///
/// let said = ask("payments", Charge { order: "o7".into(), cents: 500 });
/// assert_eq!(format!("{said:?}"), r#"ask("payments", Charge { order: "o7", cents: 500 })"#);
/// ```
///
/// | key | on | says |
/// |---|---|---|
/// | `name = "payments.charge"` | type | the stored name: a-z, 0-9, `_` and `.`. If not said, that of the type in snake case |
/// | `version = 2` | type | the version it is written in from now on; 1 if not said |
/// | `upcast(1 => from_v1)` | type | how each earlier version is read: `fn from_v1(command: ChargeV1) -> Self` |
#[proc_macro_derive(Command, attributes(command, serde))]
pub fn command(input: TokenStream) -> TokenStream {
    command::derive(&parse_macro_input!(input as DeriveInput)).into()
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::{aggregate, command, event, read_model, saga};

    #[test]
    fn the_facade_is_where_it_is_said_to_be() {
        let good = [
            event::derive(&parse_quote! {
                #[event(crate = elsewhere)]
                enum AccountEvent {
                    #[event(version = 2, upcast(1 => opened_v1))]
                    Opened { #[event(tag)] owner: Id<Owner>, #[event(tag = "nick")] nick: String },
                }
            }),
            event::derive(&parse_quote! {
                #[event(crate = elsewhere, transparent)]
                enum BankEvent {
                    Account(AccountEvent),
                    Transfer(TransferEvent),
                }
            }),
            aggregate::derive(&parse_quote! {
                #[aggregate(crate = elsewhere, by_tag, snapshot(slow = "5ms"))]
                struct Account { #[aggregate(id)] id: Id<Account>, balance: i64 }
            }),
            read_model::derive(&parse_quote! {
                #[read_model(crate = elsewhere, tag = "account")]
                struct Balance { owner: String }
            }),
            saga::derive(&parse_quote! {
                #[saga(crate = elsewhere, tag = "order", from = "now", version = 2, upcast(1 => from_v1))]
                enum Transfer { Idle, #[saga(end)] Settled }
            }),
            saga::derive(&parse_quote!(
                #[saga(crate = elsewhere, steps, key = order_of)]
                struct Fulfilment {}
            )),
            command::derive(&parse_quote! {
                #[command(crate = elsewhere, version = 2, upcast(1 => from_v1))]
                struct Charge { cents: i64 }
            }),
        ];
        let bad = [
            event::derive(&parse_quote!(
                #[event(crate = elsewhere)]
                struct NoEnum;
            )),
            aggregate::derive(&parse_quote!(#[aggregate(crate = elsewhere)] union Union { one: u8 })),
            read_model::derive(&parse_quote!(
                #[read_model(crate = elsewhere)]
                struct Unnamed(u8);
            )),
            saga::derive(&parse_quote!(#[saga(crate = elsewhere)] union Union { one: u8 })),
            command::derive(&parse_quote!(#[command(crate = elsewhere)] union Union { one: u8 })),
        ];
        for emitted in good.iter().chain(&bad).map(ToString::to_string) {
            assert!(emitted.contains("impl elsewhere ::"), "{emitted}");
            assert!(!emitted.contains("eventstore"), "{emitted}");
        }
        assert!(bad.iter().all(|emitted| emitted.to_string().contains("compile_error")));
        assert!(!good.iter().any(|emitted| emitted.to_string().contains("compile_error")));
    }
}
