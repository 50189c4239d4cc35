//! Publishes messages so that those of a key are in the topic in their order, whatever fails.
//!
//! A bus that keeps a prefix gets all messages at once. Any other gets waves: at most one message of a key is on its way,
//! so that none overtakes one that is refused or lost.

use std::collections::HashSet;

use crate::{
    bus::{Order, Outcome, Publisher},
    envelope::Envelope,
};

/// The most messages of a wave, and the most bytes.
const WAVE: usize = 256;
const WAVE_BYTES: usize = 1 << 20;

/// Publishes messages; returns one outcome for each.
pub async fn publish(bus: &dyn Publisher, topic: &str, order: Order, messages: &[Envelope]) -> Vec<Outcome> {
    match order {
        Order::Prefix => whole(bus.publish(topic, messages).await, messages.len()),
        Order::Key => waves(bus, topic, messages).await,
        Order::None => {
            let mut outcomes = vec![];
            for some in messages.chunks(WAVE) {
                outcomes.extend(whole(bus.publish(topic, some).await, some.len()));
            }
            outcomes
        }
    }
}

async fn waves(bus: &dyn Publisher, topic: &str, messages: &[Envelope]) -> Vec<Outcome> {
    let mut outcomes: Vec<_> = messages.iter().map(|_| None).collect();
    // The keys of which a message failed: those behind it are not tried.
    let mut blocked: HashSet<&str> = HashSet::new();
    let mut left: Vec<usize> = (0..messages.len()).collect();
    while !left.is_empty() {
        let (mut wave, mut later, mut keys, mut bytes) = (vec![], vec![], HashSet::new(), 0);
        for place in left {
            let message = &messages[place];
            if blocked.contains(&*message.key) {
                continue;
            }
            let fits = wave.is_empty() || wave.len() < WAVE && bytes + message.bytes() <= WAVE_BYTES;
            // A key whose first message does not fit waits with all its messages.
            if keys.insert(&*message.key) && fits {
                bytes += message.bytes();
                wave.push(place);
            } else {
                later.push(place);
            }
        }
        let sent: Vec<_> = wave.iter().map(|place| messages[*place].clone()).collect();
        if sent.is_empty() {
            break;
        }
        for (place, outcome) in wave.iter().zip(whole(bus.publish(topic, &sent).await, sent.len())) {
            if !matches!(outcome, Outcome::Done) {
                blocked.insert(&messages[*place].key);
            }
            outcomes[*place] = Some(outcome);
        }
        left = later;
    }
    outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::NotTried)).collect()
}

/// An adapter that returns fewer outcomes than there are messages has not confirmed the others.
fn whole(mut outcomes: Vec<Outcome>, messages: usize) -> Vec<Outcome> {
    outcomes.resize_with(messages, || Outcome::NotTried);
    outcomes
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::bus::{Abilities, BusError, Kind};

    /// Confirms everything but some ids; notes each call.
    struct Refusing(Vec<&'static str>, Mutex<Vec<Vec<String>>>);

    #[async_trait]
    impl Publisher for Refusing {
        async fn topic(&self, _: &str) -> Result<Abilities, BusError> {
            Ok(Abilities::new(Order::Key, Kind::Queue))
        }

        async fn publish(&self, _: &str, messages: &[Envelope]) -> Vec<Outcome> {
            self.1.lock().unwrap().push(messages.iter().map(|message| message.id.clone()).collect());
            let refused = |message: &Envelope| self.0.contains(&&*message.id);
            let outcome = |message| match refused(message) {
                true => Outcome::Failed(BusError::Refused("no".into())),
                false => Outcome::Done,
            };
            messages.iter().map(outcome).collect()
        }
    }

    fn messages(keys: &[&str]) -> Vec<Envelope> {
        let new = |(n, key): (usize, &&str)| Envelope::new(format!("{key}{n}"), "s", "k", key, vec![]);
        keys.iter().enumerate().map(new).collect()
    }

    #[tokio::test]
    async fn r2_no_two_messages_of_a_key_are_on_their_way_at_once() {
        let bus = Refusing(vec![], Mutex::default());
        let outcomes = publish(&bus, "t", Order::Key, &messages(&["a", "a", "b", "a", "c"])).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done)));
        assert_eq!(*bus.1.lock().unwrap(), [vec!["a0", "b2", "c4"], vec!["a1"], vec!["a3"]]);
    }

    #[tokio::test]
    async fn r2_what_is_behind_a_refused_message_of_its_key_is_not_tried() {
        let bus = Refusing(vec!["a1"], Mutex::default());
        let outcomes = publish(&bus, "t", Order::Key, &messages(&["a", "a", "b", "a", "b"])).await;
        let done: Vec<_> = outcomes.iter().map(|outcome| matches!(outcome, Outcome::Done)).collect();
        assert_eq!(done, [true, false, true, false, true]);
        assert!(matches!(outcomes[3], Outcome::NotTried));
        assert_eq!(*bus.1.lock().unwrap(), [vec!["a0", "b2"], vec!["a1", "b4"]]);
    }

    #[tokio::test]
    async fn r2_a_wave_that_is_full_keeps_the_order_of_a_key() {
        let bus = Refusing(vec![], Mutex::default());
        let mut all = messages(&["a", "b", "b", "c"]);
        all[0].data = vec![0; WAVE_BYTES];
        // It does not fit into the first wave, and the one behind it is small.
        all[1].data = vec![0; 100];
        publish(&bus, "t", Order::Key, &all).await;
        let sent: Vec<_> = bus.1.lock().unwrap().concat();
        let place = |id: &str| sent.iter().position(|sent| sent == id).unwrap();
        assert!(place("b1") < place("b2"));
        assert_eq!(sent.len(), 4);
    }
}
