//! Which slots of a slab nobody has, and which of them lie next to each other.

/// Slots of a slab, by number, that nobody has.
#[derive(Debug)]
pub(crate) struct Unowned {
    /// For each slot, whether nobody has it.
    free: Vec<bool>,
    count: usize,
}

/// Slots that lie next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) slots: usize,
}

impl Unowned {
    /// All of `slots`.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            free: vec![true; slots],
            count: slots,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Takes the first run of `wanted` slots; where there is none, the longest one.
    pub(crate) fn take(&mut self, wanted: usize) -> Option<Run> {
        let mut best = Run { first: 0, slots: 0 };
        let mut here = best;
        for (number, free) in self.free.iter().enumerate() {
            here = match free {
                true if here.slots > 0 => Run {
                    slots: here.slots + 1,
                    ..here
                },
                true => Run {
                    first: number,
                    slots: 1,
                },
                false => Run { first: 0, slots: 0 },
            };
            if here.slots > best.slots {
                best = here;
            }
            if best.slots >= wanted {
                break;
            }
        }
        if best.slots == 0 || wanted == 0 {
            return None;
        }
        self.free[best.first..best.first + best.slots].fill(false);
        self.count -= best.slots;
        Some(best)
    }

    /// Gives back what was taken.
    pub(crate) fn give(&mut self, run: Run) {
        self.free[run.first..run.first + run.slots].fill(true);
        self.count += run.slots;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_is_taken_where_none_is_long_enough() {
        let mut slots = Unowned::new(8);
        let taken: Vec<Run> = std::iter::from_fn(|| slots.take(1)).collect();
        assert_eq!((taken.len(), slots.len()), (8, 0));
        for number in [0, 2, 3, 4, 6] {
            slots.give(taken[number]);
        }
        let run = |first, slots| Some(Run { first, slots });
        assert_eq!(slots.take(2), run(2, 2));
        assert_eq!(slots.take(4), run(0, 1));
        assert_eq!(slots.take(0), None);
        assert_eq!(slots.take(usize::MAX), run(4, 1));
    }

    proptest! {
        #[test]
        fn a_slot_is_in_one_run_only(
            slots in 1usize..40,
            moves in prop::collection::vec((0usize..8, 0usize..8), 0..100),
        ) {
            let mut unowned = Unowned::new(slots);
            let mut runs: Vec<Run> = Vec::new();
            for (wanted, which) in moves {
                match unowned.take(wanted) {
                    Some(run) => {
                        prop_assert!((1..=wanted).contains(&run.slots));
                        prop_assert!(run.first + run.slots <= slots);
                        let apart = |other: &Run| {
                            other.first + other.slots <= run.first
                                || run.first + run.slots <= other.first
                        };
                        prop_assert!(runs.iter().all(apart));
                        runs.push(run);
                    }
                    None => prop_assert!(wanted == 0 || unowned.len() == 0),
                }
                if which < runs.len() {
                    unowned.give(runs.swap_remove(which));
                }
                let all: usize = runs.iter().map(|run| run.slots).sum();
                prop_assert_eq!(all + unowned.len(), slots);
            }
        }
    }
}
