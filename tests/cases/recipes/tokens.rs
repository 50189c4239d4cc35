//! A link that is mailed to a subscriber: it works once, for a day, and until a newer one is asked for.

use std::time::Duration;

use OptInEvent::*;
use eventstore::{Timestamp, prelude::*, testing::*};

use super::{super::world, at_once, log, rivals};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[rustfmt::skip]
#[derive(Event, Clone, Debug, PartialEq)]
pub enum OptInEvent {
    LinkSent {
        #[event(tag)] subscriber: Id<Subscriber>,
        #[event(tag)] token: Id<Token>,
        #[event(tag)] instead_of: Option<Id<Token>>,
        until: Timestamp,
    },
    Confirmed { #[event(tag)] subscriber: Id<Subscriber>, #[event(tag)] token: Id<Token> },
}

#[derive(Aggregate)]
#[aggregate(by_tag)]
pub struct Subscriber {
    #[aggregate(id)]
    id: Id<Subscriber>,
    link: Option<Id<Token>>,
    confirmed: bool,
}

#[derive(Aggregate)]
#[aggregate(by_tag)]
pub struct Token {
    #[aggregate(id)]
    id: Id<Token>,
    good: Option<(Id<Subscriber>, Timestamp)>, // whom for, and until when
}

impl Evolve for Subscriber {
    type Event = OptInEvent;

    fn evolve(&mut self, event: OptInEvent) {
        match event {
            LinkSent { token, .. } => self.link = Some(token),
            Confirmed { .. } => self.confirmed = true,
        }
    }
}

impl Evolve for Token {
    type Event = OptInEvent;

    fn evolve(&mut self, event: OptInEvent) {
        self.good = match event {
            LinkSent { token, subscriber, until, .. } if token == self.id => Some((subscriber, until)),
            LinkSent { .. } | Confirmed { .. } => None, // replaced, or used
        }
    }
}

#[derive(Clone)]
pub struct SendLink {
    pub token: Id<Token>,
    pub now: Timestamp,
}

impl Decide<SendLink> for Subscriber {
    fn decide(&self, SendLink { token, now }: SendLink) -> Decision<Self> {
        ensure!(!self.confirmed, "{} is confirmed already", self.id);
        Ok(vec![LinkSent { subscriber: self.id.clone(), token, instead_of: self.link.clone(), until: now + DAY }])
    }
}

#[derive(Clone)]
pub struct Confirm {
    pub now: Timestamp,
}

impl Decide<Confirm> for Token {
    fn decide(&self, Confirm { now }: Confirm) -> Decision<Self> {
        let Some((subscriber, until)) = &self.good else { return Err("the link is not good any more".into()) };
        ensure!(now <= *until, "the link was good until {until}");
        Ok(vec![Confirmed { subscriber: subscriber.clone(), token: self.id.clone() }])
    }
}

const NOON: &str = "2026-11-21T12:00:00Z";

#[test]
fn a_link_works_once_for_a_day_and_until_there_is_a_newer_one() {
    let ann = Id::<Subscriber>::from("ann");
    let (first, second) = (Id::<Token>::from("first"), Id::<Token>::from("second"));
    let noon: Timestamp = NOON.parse().unwrap();
    let next_day = noon + DAY;
    let late = next_day + Duration::from_micros(1);
    let sent = |token: &Id<Token>, old: Option<&Id<Token>>, until| {
        [LinkSent { subscriber: ann.clone(), token: token.clone(), instead_of: old.cloned(), until }]
    };
    given(&ann, sent(&first, None, next_day))
        .when(&first, Confirm { now: late })
        .then_rejected("the link was good until 2026-11-22T12:00:00Z")
        .when(Id::<Token>::from("guessed"), Confirm { now: noon })
        .then_rejected("the link is not good any more")
        .when(&ann, SendLink { token: second.clone(), now: noon })
        .then(sent(&second, Some(&first), next_day))
        .when(&first, Confirm { now: noon })
        .then_rejected("the link is not good any more")
        .when(&second, Confirm { now: next_day })
        .then([Confirmed { subscriber: ann.clone(), token: second.clone() }])
        .when(&second, Confirm { now: noon })
        .then_rejected("the link is not good any more")
        .when(&ann, SendLink { token: first.clone(), now: noon })
        .then_rejected("ann is confirmed already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_a_token_is_used_once_however_often_it_is_clicked() {
    let world = world().await;
    let (ann, token, now) = (Id::<Subscriber>::from("ann"), Id::<Token>::new(), NOON.parse().unwrap());
    world.store.execute(&ann, SendLink { token: token.clone(), now }).await.unwrap();
    let clicks = rivals(&world, 8).into_iter().map(|store| store.execute(&token, Confirm { now }).retries(100));
    let answers = at_once(clicks).await;
    let refused = answers.iter().filter(|answer| matches!(answer, Err(CommandError::Rejected(_)))).count();
    assert_eq!(refused, 7);
    assert_eq!(log::<OptInEvent>(&world).await[1..], [Confirmed { subscriber: ann.clone(), token }]);
    assert!(world.store.load(&ann).await.unwrap().confirmed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_of_using_a_token_and_replacing_it_one_wins() {
    let world = world().await;
    let now = NOON.parse().unwrap();
    for _ in 0..5 {
        let (ann, token) = (Id::<Subscriber>::new(), Id::<Token>::new());
        world.store.execute(&ann, SendLink { token: token.clone(), now }).await.unwrap();
        let [one, two] = &rivals(&world, 2)[..] else { panic!("two") };
        let used = one.execute(&token, Confirm { now }).retries(100);
        let replaced = two.execute(&ann, SendLink { token: Id::new(), now }).retries(100);
        let (used, replaced) = (tokio::spawn(used.into_future()), tokio::spawn(replaced.into_future()));
        match (used.await.unwrap(), replaced.await.unwrap()) {
            (Ok(_), Err(CommandError::Rejected(_))) | (Err(CommandError::Rejected(_)), Ok(_)) => {}
            (used, replaced) => panic!("used {}, replaced {}", used.is_ok(), replaced.is_ok()),
        }
    }
}
