//! Decides which shards a node takes and gives back, from what a transaction has read. Does no input or output.

use std::collections::{HashMap, HashSet};

use eventstore_core::{Checkpoint, Shard};
use uuid::Uuid;

/// Returns a node's share of the shards, rounded up, where `runners` nodes may run their processor: at least 1.
pub(crate) fn share(shards: usize, runners: usize) -> usize {
    shards.max(1).div_ceil(runners.max(1))
}

/// Returns whether no living node owns a shard.
pub(crate) fn is_free(at: &Checkpoint, living: &HashSet<Uuid>) -> bool {
    at.owner.is_none_or(|owner| !living.contains(&owner))
}

/// Returns how many shards a node owns.
pub(crate) fn owned(shards: &[(Shard, Checkpoint)], node: Uuid) -> usize {
    shards.iter().filter(|(_, at)| at.owner == Some(node)).count()
}

/// Gives free shards to a node until it has its share. A shard that changes hands gets a new epoch, so that the
/// previous owner cannot commit what it has not committed yet.
pub(crate) fn take_free(shards: &mut [(Shard, Checkpoint)], node: Uuid, share: usize, living: &HashSet<Uuid>) {
    let mut own = owned(shards, node);
    for (_, at) in shards {
        if own < share && is_free(at, living) {
            (at.owner, at.epoch) = (Some(node), at.epoch + 1);
            own += 1;
        }
    }
}

/// Returns the shards that a node owns beyond its share.
pub(crate) fn surplus(shards: &[(Shard, Checkpoint)], node: Uuid, share: usize) -> HashSet<Shard> {
    let own = shards.iter().filter(|(_, at)| at.owner == Some(node));
    own.skip(share).map(|(shard, _)| shard.clone()).collect()
}

/// Takes shards away from a node: those it had at these epochs, or all it owns. A shard that another node has taken
/// over since, or that has begun anew, is not the node's to give back.
pub(crate) fn give_back(shards: &mut [(Shard, Checkpoint)], node: Uuid, released: Option<&HashMap<Shard, u64>>) {
    for (shard, at) in shards {
        let given = released.is_none_or(|released| released.get(shard) == Some(&at.epoch));
        if at.owner == Some(node) && given {
            (at.owner, at.epoch) = (None, at.epoch + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Uuid = Uuid::from_u128(1);
    const THERE: Uuid = Uuid::from_u128(2);
    const DEAD: Uuid = Uuid::from_u128(3);

    fn shards(owners: &[Option<Uuid>]) -> Vec<(Shard, Checkpoint)> {
        let parts = Shard::parts("p", owners.len() as u16).into_iter();
        let at = |owner| Checkpoint { owner, epoch: 10, ..Checkpoint::default() };
        parts.zip(owners).map(|(shard, owner)| (shard, at(*owner))).collect()
    }

    fn owners(shards: &[(Shard, Checkpoint)]) -> Vec<(Option<Uuid>, u64)> {
        shards.iter().map(|(_, at)| (at.owner, at.epoch)).collect()
    }

    #[test]
    fn p2_the_shares_of_all_nodes_are_all_shards() {
        for (count, runners) in [(1, 1), (1, 3), (4, 3), (1024, 7), (5, 5), (0, 2)] {
            let share = share(count, runners);
            assert!(share >= 1 && share * runners >= count, "{count} {runners}");
            assert!(
                share.saturating_sub(1) * runners < count.max(1),
                "{count} {runners}: one less would not be enough"
            );
        }
        assert_eq!(share(4, 0), 4, "a node that looks is one itself");
    }

    #[test]
    fn p2_a_shard_that_changes_hands_gets_a_new_epoch_and_no_other() {
        let living = HashSet::from([HERE, THERE]);
        let mut all = shards(&[Some(THERE), None, Some(DEAD), Some(HERE), None]);
        take_free(&mut all, HERE, 3, &living);
        let taken = [(Some(THERE), 10), (Some(HERE), 11), (Some(HERE), 11), (Some(HERE), 10), (None, 10)];
        assert_eq!(owners(&all), taken);
        // The node has its share and takes nothing more, though a shard is free.
        take_free(&mut all, HERE, 3, &living);
        assert_eq!(owners(&all), taken);
        assert_eq!(owned(&all, HERE), 3);
    }

    #[test]
    fn p2_only_what_is_beyond_its_share_is_given_back() {
        let all = shards(&[Some(HERE), Some(THERE), Some(HERE), Some(HERE)]);
        let given = surplus(&all, HERE, 1);
        assert_eq!(given, HashSet::from([all[2].0.clone(), all[3].0.clone()]));
        assert!(surplus(&all, HERE, 3).is_empty() && surplus(&all, DEAD, 0).is_empty());
    }

    #[test]
    fn p2_a_shard_that_was_taken_over_meanwhile_is_not_given_back() {
        let mut all = shards(&[Some(HERE), Some(HERE), Some(THERE)]);
        // The second shard was lost and taken again since, at another epoch.
        let released = HashMap::from([(all[0].0.clone(), 10), (all[1].0.clone(), 8), (all[2].0.clone(), 10)]);
        give_back(&mut all, HERE, Some(&released));
        assert_eq!(owners(&all), [(None, 11), (Some(HERE), 10), (Some(THERE), 10)]);
        give_back(&mut all, HERE, None);
        assert_eq!(owners(&all), [(None, 11), (None, 11), (Some(THERE), 10)]);
    }
}
