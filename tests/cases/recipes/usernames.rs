//! A name that one user has at a time: claimed, changed, freed, claimed by another.

use std::collections::HashMap;

use UserEvent::*;
use eventstore::{prelude::*, testing::*};

use super::{super::world, at_once, log, rivals};

#[rustfmt::skip]
#[derive(Event, Clone, Debug, PartialEq)]
pub enum UserEvent {
    NameClaimed { user: Id<User>, #[event(tag)] name: Id<Username>, #[event(tag)] instead_of: Option<Id<Username>> },
    NameFreed { #[event(tag)] name: Id<Username> },
}

/// The user, made of its own stream.
#[derive(Aggregate)]
pub struct User {
    #[aggregate(id)]
    id: Id<User>,
    name: Option<Id<Username>>,
}

/// The name, made of what happened to it, in whosever stream.
#[derive(Aggregate)]
#[aggregate(by_tag)]
pub struct Username {
    #[aggregate(id)]
    id: Id<Username>,
    holder: Option<Id<User>>,
}

impl Evolve for User {
    type Event = UserEvent;

    fn evolve(&mut self, event: UserEvent) {
        self.name = match event {
            NameClaimed { name, .. } => Some(name),
            NameFreed { .. } => None,
        }
    }
}

impl Evolve for Username {
    type Event = UserEvent;

    fn evolve(&mut self, event: UserEvent) {
        self.holder = match event {
            NameClaimed { name, user, .. } if name == self.id => Some(user),
            NameClaimed { .. } | NameFreed { .. } => None, // given up, for another name or for none
        }
    }
}

#[derive(Clone)]
pub struct Claim;

impl Decide<Claim> for (User, Username) {
    fn decide(&self, Claim: Claim) -> Decision<User> {
        let (User { id: user, name: old }, Username { id: name, holder }) = self;
        if holder.as_ref() == Some(user) {
            return Ok(vec![]); // it has it already
        }
        ensure!(holder.is_none(), "{name} is taken");
        Ok(vec![NameClaimed { user: user.clone(), name: name.clone(), instead_of: old.clone() }])
    }
}

#[derive(Clone)]
pub struct Free;

impl Decide<Free> for User {
    fn decide(&self, Free: Free) -> Decision<Self> {
        Ok(self.name.iter().map(|name| NameFreed { name: name.clone() }).collect())
    }
}

/// What counts as the same name is the same id.
pub fn username(written: &str) -> Id<Username> {
    written.trim().to_lowercase().into()
}

#[test]
fn a_name_is_claimed_freed_and_claimed_again() {
    let (ann, bob) = (Id::<User>::from("ann"), Id::<User>::from("bob"));
    let (neo, trinity) = (username(" Neo "), username("Trinity"));
    let claimed = |user: &Id<User>, name: &Id<Username>, old: Option<&Id<Username>>| {
        [NameClaimed { user: user.clone(), name: name.clone(), instead_of: old.cloned() }]
    };
    given(&ann, claimed(&ann, &neo, None))
        .when((&bob, username("NEO")), Claim)
        .then_rejected("neo is taken")
        .when((&ann, &neo), Claim)
        .then([])
        .when((&ann, &trinity), Claim)
        .then(claimed(&ann, &trinity, Some(&neo)))
        .when((&bob, &neo), Claim)
        .then(claimed(&bob, &neo, None))
        .when(&bob, Free)
        .then([NameFreed { name: neo.clone() }])
        .when(&bob, Free)
        .then([])
        .when((&ann, &neo), Claim)
        .then(claimed(&ann, &neo, Some(&trinity)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_of_eight_who_claim_a_name_at_once_one_gets_it() {
    let world = world().await;
    let names = ["neo", "trinity", "morpheus"].map(username);
    let claims = rivals(&world, 24).into_iter().zip(names.iter().cycle());
    let answers =
        at_once(claims.map(|(store, name)| store.execute((Id::<User>::new(), name), Claim).retries(100))).await;
    let won = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = answers.iter().filter(|answer| matches!(answer, Err(CommandError::Rejected(_)))).count();
    assert_eq!((won, refused), (3, 21));
    for name in &names {
        let claimed =
            log(&world).await.into_iter().filter(|event| matches!(event, NameClaimed { name: n, .. } if n == name));
        assert_eq!(claimed.count(), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_no_name_ever_has_two_holders_however_they_change_hands() {
    let world = world().await;
    let users: Vec<_> = (0..8).map(|_| Id::<User>::new()).collect();
    let stores = rivals(&world, 8);
    let tours = stores.into_iter().zip(&users).zip(0..).map(|((store, user), start)| {
        let user = user.clone();
        async move {
            for step in start..start + 12 {
                let name = username(["neo", "trinity", "morpheus"][step % 3]);
                let claimed = store.execute((&user, name), Claim).retries(500).await;
                assert!(matches!(claimed, Ok(_) | Err(CommandError::Rejected(_))));
                if step % 4 == 3 {
                    store.execute(&user, Free).retries(500).await.unwrap();
                }
            }
        }
    });
    at_once(tours.map(Box::pin)).await;
    let mut holders = HashMap::new();
    for event in log(&world).await {
        match event {
            NameClaimed { user, name, instead_of } => {
                let freed = instead_of.map(|old| holders.remove(&old));
                assert!(freed.is_none_or(|holder| holder.as_ref() == Some(&user)), "freed what another has");
                assert_eq!(holders.insert(name, user), None, "two holders");
            }
            NameFreed { name } => assert!(holders.remove(&name).is_some(), "freed twice"),
        }
    }
    for user in &users {
        let name = world.store.load(user).await.unwrap().state.name;
        let held = holders.iter().find(|(_, holder)| *holder == user);
        assert_eq!(name.as_ref(), held.map(|(name, _)| name));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_claims_of_different_names_do_not_disturb_one_another() {
    let world = world().await;
    let claims = rivals(&world, 8).into_iter().enumerate();
    let claims =
        claims.map(|(n, store)| store.execute((Id::<User>::new(), username(&format!("u{n}"))), Claim).retries(0));
    assert!(at_once(claims).await.iter().all(Result::is_ok));
}
