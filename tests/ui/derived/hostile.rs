//! Names that stand in the way of whoever is not careful, and lints that are easily tripped.

#![deny(warnings, missing_docs, unreachable_pub, unused_qualifications, unused_lifetimes, single_use_lifetimes)]
#![deny(clippy::all, clippy::pedantic)]
#![expect(non_camel_case_types, non_snake_case, dead_code, clippy::upper_case_acronyms, reason = "hostile")]

use ::eventstore::Event as _;

use crate::is_stored_as;

/// Modules that are called like crates.
mod core {}
mod std {}
mod serde {}
mod eventstore {}

type Result = ();
type Error = ();
struct Box;
struct Vec;
struct Id;
struct Tag;
struct Upcast;
trait Event {}
trait Tagged {}
trait From {}
trait Into {}
trait Default {}
trait Serialize {}
trait Deserialize {}

fn encode() {}
fn decode() {}

#[expect(unused_macros, reason = "hostile")]
macro_rules! assert {
    () => {};
}
#[expect(unused_macros, reason = "hostile")]
macro_rules! unreachable {
    () => {};
}

/// Not the one of the prelude.
#[derive(::serde::Serialize, ::serde::Deserialize, Clone, Debug, PartialEq, Default)]
enum Option {
    #[default]
    Neither,
}

/// Not the one of the prelude.
#[derive(::serde::Serialize, ::serde::Deserialize, Clone, Debug, PartialEq, Default)]
struct String {
    letters: i64,
}

/// Not the one that is derived.
#[derive(::serde::Serialize, ::serde::Deserialize, Clone, Debug, PartialEq)]
struct Body(u8);

use HostileEvent::*;

#[derive(::eventstore::Event, Clone, Debug, PartialEq)]
#[event(retired("hostile.gone"))]
enum HostileEvent {
    Ok(Option),
    Err {
        name: String,
        schema: u32,
        body: Body,
        push: i64,
        event: bool,
        tags: u8,
        r#fn: char,
        owner: u8,
    },
    #[event(alias = "hostile.a", version = 2, upcast(1 => some_v1))]
    Some(#[event(tag = "body")] i64, Body),
    None,
    NAMES,
    TAGS {
        #[event(tag = "name")]
        name: ::std::option::Option<i64>,
        #[event(tag)]
        tags: ::std::vec::Vec<::eventstore::Id<State>>,
    },
    Name,
    lower_case {
        __Name: u8,
    },
    #[deprecated]
    Old(u8),
}

fn some_v1(old: i64) -> HostileEvent {
    Some(old, Body(0))
}

#[derive(::eventstore::Event, Clone, Debug, PartialEq)]
#[event(transparent)]
enum Both {
    Some(HostileEvent),
}

#[derive(::eventstore::Aggregate)]
#[aggregate(by_tag)]
struct State {
    event: Option,
    name: String,
    #[aggregate(id)]
    id: ::eventstore::Id<State>,
}

impl ::eventstore::Evolve for State {
    type Event = HostileEvent;

    fn evolve(&mut self, _: HostileEvent) {}
}

#[derive(::eventstore::ReadModel, ::serde::Serialize, ::serde::Deserialize, ::core::default::Default)]
#[read_model(tag = "name")]
struct Model {
    name: String,
    event: Option,
}

impl ::eventstore::Project for Model {
    type Event = Both;

    fn project(_: &mut ::eventstore::Row<Self>, _: &::eventstore::Recorded<Both>) {}
}

#[derive(::eventstore::Saga, ::serde::Serialize, ::serde::Deserialize, Clone, ::core::default::Default)]
#[saga(tag = "name", version = 2, upcast(1 => saga_v1), from = "now")]
enum Process {
    #[default]
    Ok,
    #[saga(end)]
    Err { state: Option },
    #[saga(end)]
    None(String),
}

fn saga_v1(old: Option) -> Process {
    Process::Err { state: old }
}

impl ::eventstore::Evolve for Process {
    type Event = Both;

    fn evolve(&mut self, _: Both) {}
}

impl ::eventstore::React for Process {
    fn react(&self, _: &::eventstore::Recorded<Both>) -> ::eventstore::Commands {
        ::eventstore::Commands::none()
    }
}

#[derive(::eventstore::Saga, ::serde::Serialize, ::serde::Deserialize, Clone)]
#[saga(steps, stream)]
struct Steps {
    REACTS: bool,
}

impl ::eventstore::Steps for Steps {
    type Event = Both;

    fn begin(_: &::eventstore::Recorded<Both>) -> ::std::option::Option<Self> {
        ::core::option::Option::None
    }

    fn steps(&self) -> ::eventstore::Plan<Both> {
        ::eventstore::Plan::new()
    }

    fn ended(&self, _: &::eventstore::End) -> ::eventstore::Commands {
        ::eventstore::Commands::none()
    }
}

#[derive(::eventstore::Command, ::serde::Serialize, ::serde::Deserialize, Clone, Debug, PartialEq)]
#[command(version = 2, upcast(1 => command_v1))]
struct Command {
    body: Option,
}

fn command_v1(body: Option) -> Command {
    Command { body }
}

#[test]
fn no_name_of_the_users_is_taken_for_another() {
    let (process, command) = (<Process as ::eventstore::Saga>::decode, <Command as ::eventstore::Command>::decode);
    ::core::assert!(::eventstore::Saga::is_over(&process(1, br#""Neither""#).expect("version 1")));
    ::core::assert!(!::eventstore::Saga::is_over(&process(2, br#""Ok""#).expect("version 2")));
    ::core::assert_eq!(command(1, br#""Neither""#).expect("version 1"), Command { body: Option::Neither });
    ::core::assert_eq!(<Steps as ::eventstore::Saga>::NAME, "steps");
    is_stored_as(Ok(Option::Neither), "hostile.ok", r#""Neither""#);
    is_stored_as(
        Err {
            name: String { letters: 3 },
            schema: 1,
            body: Body(2),
            push: 3,
            event: true,
            tags: 4,
            r#fn: 'x',
            owner: 5,
        },
        "hostile.err",
        r#"{"name":{"letters":3},"schema":1,"body":2,"push":3,"event":true,"tags":4,"fn":"x","owner":5}"#,
    );
    is_stored_as(Some(5, Body(6)), "hostile.some", "[5,6]");
    is_stored_as(None, "hostile.none", "null");
    let tagged = TAGS { name: ::core::option::Option::Some(7), tags: ["x".into()].into() };
    ::core::assert_eq!(tagged.tags().len(), 2);
    is_stored_as(tagged, "hostile.tags", r#"{"name":7,"tags":["x"]}"#);
    is_stored_as(lower_case { __Name: 8 }, "hostile.lower_case", r#"{"__Name":8}"#);
    is_stored_as(Both::Some(NAMES), "hostile.names", "null");
    ::core::assert_eq!(<Model as ::eventstore::ReadModel>::COLUMNS.len(), 2);
}

/// The facade by another path, with no more in it than the derives need.
mod facade {
    pub(super) use ::eventstore::{
        Command, Event, EventError, EventOf, Instances, Reacting, Saga, StartFrom, Tag, Tagged, Upcast,
    };

    pub(super) mod __private {
        pub(crate) use ::eventstore::__private::*;
    }
}

/// Types, fields, names and functions come from elsewhere than the rest.
macro_rules! made {
    ($event:ident, $state:ident, $to:ident: $ty:ty, $name:literal, $id:ty, $upcast:path) => {
        #[derive(::eventstore::Event, Clone, Debug, PartialEq)]
        #[event(crate = $crate::hostile::facade)]
        enum $event {
            #[event(name = $name, version = 2, upcast(1 => $upcast))]
            Happened {
                #[event(tag = "to")]
                $to: $ty,
                #[event(tag)]
                of: $id,
            },
        }

        #[derive(::eventstore::Aggregate)]
        struct $state {
            #[aggregate(id)]
            id: $id,
            $to: $ty,
        }
    };
}
made!(MadeEvent, Made, to: ::std::option::Option<i64>, "made.happened", ::eventstore::Id<Made>, happened_v1);

fn happened_v1(to: i64) -> MadeEvent {
    MadeEvent::Happened { to: ::core::option::Option::Some(to), of: "x".into() }
}

impl ::eventstore::Evolve for Made {
    type Event = MadeEvent;

    fn evolve(&mut self, MadeEvent::Happened { to, of }: MadeEvent) {
        (self.to, self.id) = (to, of);
    }
}

#[test]
fn the_facade_may_have_another_path() {
    #[derive(::eventstore::Event, Clone, Debug, PartialEq)]
    #[event(crate = facade)]
    enum LocalEvent {
        Happened { to: i64 },
    }
    is_stored_as(LocalEvent::Happened { to: 1 }, "local.happened", r#"{"to":1}"#);
    ::core::assert_eq!(<Local as ::eventstore::Saga>::NAME, "local");
    ::core::assert_eq!(<Ask as ::eventstore::Command>::NAME, "ask");
    is_stored_as(happened_v1(1), "made.happened", r#"{"to":1,"of":"x"}"#);
}

#[derive(::eventstore::Saga, ::serde::Serialize, ::serde::Deserialize, Clone, ::core::default::Default)]
#[saga(crate = facade, stream, from = "beginning", version = 2, upcast(1 => local_v1), end = Local::is_over)]
struct Local {
    name: String,
}

impl Local {
    fn is_over(&self) -> bool {
        self.name.letters > 0
    }
}

fn local_v1(name: String) -> Local {
    Local { name }
}

impl ::eventstore::Evolve for Local {
    type Event = Both;

    fn evolve(&mut self, _: Both) {}
}

impl ::eventstore::React for Local {
    fn react(&self, _: &::eventstore::Recorded<Both>) -> ::eventstore::Commands {
        ::eventstore::Commands::none()
    }
}

#[derive(::eventstore::Command, ::serde::Serialize, ::serde::Deserialize, Clone, Debug, PartialEq)]
#[command(crate = facade)]
struct Ask {
    name: Option,
}

/// Nothing is in scope that was not asked for.
mod bare {
    #![no_implicit_prelude]

    #[derive(::eventstore::Event, ::core::clone::Clone, ::core::fmt::Debug, ::core::cmp::PartialEq)]
    pub(super) enum BareEvent {
        #[event(version = 2, upcast(1 => happened_v1))]
        Happened {
            #[event(tag = "to")]
            to: ::std::string::String,
        },
        Ended,
    }

    fn happened_v1(_: ()) -> BareEvent {
        BareEvent::Ended
    }
}

#[test]
fn the_prelude_is_not_needed() {
    is_stored_as(bare::BareEvent::Happened { to: "x".into() }, "bare.happened", r#"{"to":"x"}"#);
}
