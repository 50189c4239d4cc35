//! The choices of a run, as a list of numbers.

use std::env;

/// The choices of one run: each a number below the number of possible moves. 0 is the move without a fault.
pub(super) struct Choices<'a> {
    given: &'a [u32],
    dice: Option<u64>,
    /// The choices taken so far.
    taken: Vec<u32>,
}

impl<'a> Choices<'a> {
    /// Returns these choices, followed by zeros.
    pub(super) fn straight(given: &'a [u32]) -> Self {
        Self { given, dice: None, taken: vec![] }
    }

    /// Returns random choices.
    pub(super) fn dice(seed: u64, run: u64) -> Self {
        let mut state = seed ^ run.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        roll(&mut state);
        Self { given: &[], dice: Some(state), taken: vec![] }
    }

    pub(super) fn choose(&mut self, of: usize) -> usize {
        let of = u32::try_from(of).unwrap_or(u32::MAX);
        if of <= 1 {
            return 0;
        }
        let choice = match (self.given.get(self.taken.len()), &mut self.dice) {
            (Some(given), _) => given % of,
            (None, Some(dice)) => (roll(dice) % u64::from(of)) as u32,
            (None, None) => 0,
        };
        self.taken.push(choice);
        choice as usize
    }

    /// Returns the choices taken, without the zeros at the end.
    pub(super) fn list(&self) -> Vec<u32> {
        trim(self.taken.clone())
    }
}

/// SplitMix64.
fn roll(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn trim(mut choices: Vec<u32>) -> Vec<u32> {
    while choices.last() == Some(&0) {
        choices.pop();
    }
    choices
}

/// Returns lists like a failing one, but shorter or lower, in the order in which they are tried.
pub(super) fn simpler(choices: &[u32]) -> impl Iterator<Item = Vec<u32>> {
    let shorter = [8, 4, 2, 1].into_iter().flat_map(move |size| {
        (0..(choices.len() + 1).saturating_sub(size)).map(move |start| {
            let mut shorter = choices.to_vec();
            shorter.drain(start..start + size);
            shorter
        })
    });
    let lower = (0..choices.len()).flat_map(move |at| {
        (0..choices[at]).map(move |value| {
            let mut lower = choices.to_vec();
            lower[at] = value;
            lower
        })
    });
    shorter.chain(lower).map(trim)
}

/// The runs to try.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Effort {
    /// The largest number of lists tried one after the other.
    pub(super) runs: u64,
    /// The number of random runs, if not all lists were tried.
    pub(super) dice: u64,
    pub(super) seed: u64,
    /// If set, only this list is run.
    pub(super) choices: Option<Vec<u32>>,
}

impl Default for Effort {
    fn default() -> Self {
        Self { runs: 20_000, dice: 2_000, seed: 0, choices: None }
    }
}

/// The environment variable that changes the effort.
pub(super) const VARIABLE: &str = "EVENTSTORE_SIMULATE";

impl Effort {
    /// Returns the effort that the environment variable asks for. Panics if it cannot be parsed.
    pub(super) fn from_env() -> Self {
        match env::var(VARIABLE) {
            Ok(said) => Self::parse(&said).unwrap_or_else(|reason| panic!("{VARIABLE}=`{said}`: {reason}")),
            Err(_) => Self::default(),
        }
    }

    /// Parses `runs=1000000,dice=5000,seed=7`, or `choices=0,2,1`, which comes last. Fails with the mistake in words.
    pub(super) fn parse(said: &str) -> Result<Self, String> {
        let mut effort = Self::default();
        let (rest, choices) = match said.split_once("choices=") {
            Some((rest, choices)) => (rest, Some(choices)),
            None => (said, None),
        };
        for part in rest.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number = value.parse().map_err(|_| format!("`{part}` is not `{key}=` and a number"))?;
            match key {
                "runs" => effort.runs = number,
                "dice" => effort.dice = number,
                "seed" => effort.seed = number,
                _ => return Err(format!("`{key}` is none of `runs`, `dice`, `seed`, `choices`")),
            }
        }
        if let Some(choices) = choices {
            let numbers = choices.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::parse);
            let numbers = numbers.collect::<Result<_, _>>();
            effort.choices =
                Some(numbers.map_err(|_| "`choices=` is followed by numbers, separated by commas".to_owned())?);
        }
        Ok(effort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_the_same_for_a_seed_and_a_run() {
        let roll = |seed, run| {
            let mut choices = Choices::dice(seed, run);
            (0..20).map(|_| choices.choose(10)).collect::<Vec<_>>()
        };
        assert_eq!(roll(1, 2), roll(1, 2));
        assert_ne!(roll(1, 2), roll(1, 3));
        assert_ne!(roll(1, 2), roll(2, 2));
        assert!(
            (0..10).all(|choice| roll(7, 7).into_iter().chain(roll(8, 8)).chain(roll(9, 9)).any(|got| got == choice))
        );
    }

    #[test]
    fn what_is_tried_can_be_said_in_the_environment() {
        let parse = |said: &str| Effort::parse(said);
        assert_eq!(parse(""), Ok(Effort::default()));
        assert_eq!(parse("runs=5, seed=7"), Ok(Effort { runs: 5, seed: 7, ..Effort::default() }));
        let choices = Some(vec![0, 2, 1]);
        assert_eq!(parse("seed=1,choices=0,2,1"), Ok(Effort { seed: 1, choices, ..Effort::default() }));
        assert_eq!(parse("choices="), Ok(Effort { choices: Some(vec![]), ..Effort::default() }));
        for wrong in ["runs", "runs=x", "run=5", "choices=1,x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_is_made_simpler_piece_by_piece() {
        let all: Vec<_> = simpler(&[1, 0, 2]).collect();
        assert_eq!(all, [vec![2], vec![1], vec![0, 2], vec![1, 2], vec![1], vec![0, 0, 2], vec![1], vec![1, 0, 1]]);
    }
}
