//! The derives of [eventstore](https://docs.rs/eventstore): [`Event`], [`Aggregate`], [`ReadModel`], [`Saga`],
//! [`Command`]. Use them through the facade.
//!
//! Derives add names, never rules: rules are written by hand, in `Evolve`, `Decide`, `Project`, `React` and `Steps`.
//! Every derive takes `crate = path::to::eventstore`, for a facade that is not at `::eventstore`.

mod aggregate;
mod attr;
mod body;
mod command;
mod event;
mod event_attributes;
mod fallback;
mod names;
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

/// Makes an enum an `Event`. Each variant is one kind of event.
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
/// The name is stored with the body. It is the name of the enum without `Event`, a dot, and the name of the variant, in
/// snake case. The enum needs `Clone`, and no serde; its fields need serde's `Serialize` and `Deserialize`, which the
/// types of std have.
///
/// # Names
///
/// Stored names stay in the log for ever. When a variant is renamed, `name` or `alias` must keep its stored name.
///
/// | key | on | says |
/// |---|---|---|
/// | `prefix = "bank.account"` | enum | the beginning of all names |
/// | `retired("account.flagged")` | enum | stored names that mean nothing any more: their events are skipped |
/// | `name = "account.opened"` | variant | the whole name |
/// | `alias = "account.created"` | variant | an earlier name, still read; can be repeated |
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
/// Serde's attributes for fields work: `rename`, `alias`, `default`, `with`, `skip_serializing_if`, `flatten` and the
/// others. Its attributes for enums and variants are refused. Fields of a body that the variant does not have are
/// ignored.
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
/// `#[event(rename_all = "camelCase")]` on the enum renames the fields of all variants in the body, by serde's rules for
/// names.
///
/// # Messages
///
/// `#[event(topic = "orders")]` on the enum makes it a published language: it is a [`Message`](trait.Message.html), which a relay publishes
/// and an inbox of another service records. Its stored names begin with the topic and a colon, so that no message is
/// taken for an event of the service's own that has the same name. On the bus, the type is the name without them.
///
/// ```
/// use eventstore::{Message, prelude::*};
///
/// #[derive(Event, Clone)]
/// #[event(prefix = "order", topic = "orders", rename_all = "camelCase")]
/// enum OrderMessage {
///     Placed { order_id: String, total_cents: i64 },
/// }
///
/// let placed = OrderMessage::Placed { order_id: "o7".into(), total_cents: 100 };
/// assert_eq!((OrderMessage::TOPIC, placed.name()), ("orders", "orders:order.placed"));
/// assert_eq!(placed.encode()?, br#"{"orderId":"o7","totalCents":100}"#);
/// # Ok::<(), eventstore::EventError>(())
/// ```
///
/// # Tags
///
/// Tags name what an event concerns besides its stream. `#[aggregate(by_tag)]` and `#[read_model(tag = "…")]` select
/// events by tag.
///
/// | key | on | says |
/// |---|---|---|
/// | `tag` | field | a tag for the `Id<_>`, or each in an `Option` or `Vec`, by the name of its aggregate |
/// | `tag = "invoice"` | field | a tag by this name, for anything that is `Display`, or each in an `Option` or `Vec` |
/// | `tag = buyer.id` | field | a tag for what is in the field, at this path: an `Id<_>`, or an `Option` or `Vec` of one |
/// | `tag("city", buyer.city)` | field | a tag by this name, for what is in the field and is `Display` |
///
/// A field can have several tags. In an `Option` or `Vec`, a path begins at the item.
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
/// A state by tag, or over every event, may name only some of the events of a category. An event with its tag, in a
/// category of which it names events, under a name that it does not know is an error: it may come from a newer program
/// and matter. `others` lists event types of this program whose further events do not matter:
///
/// | key | on | says |
/// |---|---|---|
/// | `others(CourseEvent)` | enum | event types of this program whose events do not matter here, unless this enum names them |
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
/// with a function that converts it to the present event. Each earlier form is converted directly, so all of them are
/// listed. The function returns the event, an `Option` if some events are dropped, or a `Vec` if one became several.
///
/// | key | on | says |
/// |---|---|---|
/// | `version = 2` | variant | the version of the present form; the default is 1 |
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
/// `#[event(transparent)]` on an enum of other events delegates to them, for a reader of all of them. The derive
/// implements `From` for each of these events.
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

/// Makes a state an `Aggregate`, with a name and a value before its first event.
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
/// | `name = "account"` | type | the stored name: the category of its streams, and the name of its tags. The default is the name of the type in snake case |
/// | `error = AccountError` | type | why a command may be refused. The default is a `Refusal`, a text |
/// | `by_tag` | type | its events are those tagged with its id, in any stream, instead of those in its stream |
/// | `snapshot = 100` | type | a snapshot is taken every 100 events; the state needs serde's `Serialize` and `Deserialize` |
/// | `snapshot(every = 100, version = 2)` | type | the same; raise the version when `evolve` treats old events differently |
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
/// A snapshot stores a state with many events, so that a load begins there. Nothing else changes: a snapshot that has
/// another form, is damaged or belongs to another log is not used. Snapshots are JSON, so the state needs serde.
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
/// The form consists of the fields, their types and serde's attributes as they are written, the path of the type, and
/// the names and versions of its events. It does not show a change of `evolve`, or inside the type of a field: then
/// raise `version`.
///
/// # By tag
///
/// A state by tag has no stream, and so no version to load it at. This does not compile:
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
/// | `name = "balances"` | struct | the name of the table: a-z, 0-9 and `_`. The default is the name of the struct in snake case |
/// | `version = 2` | struct | raise it when the rows must be built again |
/// | `tag = "student"` | struct | an event concerns the rows of its tags of this name, instead of the row of its stream |
/// | `keys = per_day` | struct | an event concerns the rows that this function names: `fn per_day(event: &Recorded<AccountEvent>) -> Vec<String>` |
/// | `index` | field | rows are looked up by this column |
/// | `column = "bigint"` | field | the type of the column, where the type of the field does not show it |
///
/// The type of a column follows from the name of its field's type, with or without `Option`:
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
/// A column has the name that serde gives its field: `#[serde(rename = "…")]` works. Other attributes that would change
/// the columns are refused, `skip` among them, because a row is written and read back between events. The key of the
/// row is `row.key()`, so it has no field.
///
/// An integer field with a `double precision` column must stay below 10^15: a larger number is read back with an
/// exponent, which serde refuses for an integer.
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

/// Makes a state a `Saga`: a process with a state, which reacts to events with commands.
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
/// | `name = "money_transfer"` | type | the name, which is stored and part of ids: a-z, 0-9 and `_`. The default is the name of the type in snake case |
/// | `stream` | type | an instance for each key of a stream |
/// | `tag = "order"` | type | an instance for each tag of this name |
/// | `key = order_of` | type | the instance that this function names: `fn order_of(event: &Recorded<ShopEvent>) -> Option<String>` |
/// | `end` | variant | an instance in this state has ended |
/// | `end = is_settled` | type | the same for other states: `fn is_settled(state: &MoneyTransfer) -> bool` |
/// | `steps` | type | it declares `Steps` instead of `React` |
/// | `from = "beginning"` | type | where it begins when it runs for the first time: `beginning` or `now` |
/// | `version = 2` | type | the version of the present form of its state; the default is 1 |
/// | `upcast(1 => from_v1)` | type | how a state of each earlier version is read: `fn from_v1(state: StateV1) -> Self` |
///
/// Without `stream`, `tag` or `key`, there is an instance for each conversation: the commands of a saga continue the
/// conversation of the event that caused them.
///
/// The state needs `Clone` and serde's `Serialize` and `Deserialize`; without `steps` also `Default`, which is what an
/// instance is before its first event.
#[proc_macro_derive(Saga, attributes(saga, serde))]
pub fn saga(input: TokenStream) -> TokenStream {
    saga::derive(&parse_macro_input!(input as DeriveInput)).into()
}

/// Makes a command a `Command`, with a stored name, so that it can be sent to another service or be scheduled.
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
/// | `name = "payments.charge"` | type | the stored name: a-z, 0-9, `_` and `.`. The default is the name of the type in snake case |
/// | `version = 2` | type | the version of the present form; the default is 1 |
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
