//! Bags: accepted when and only when the plainest reading of the rules accepts them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slackline_embedding::{Bags, EmbeddingTable, HeapTable, Pooling};
use slackline_fuzz::{Bytes, seed};

fn seeds() -> Vec<Vec<u8>> {
    vec![vec![9, 3, 4, 0, 0, 2, 4, 1, 8, 3, 3], vec![200, 40, 20, 1], vec![1, 1, 0, 1, 0]]
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        let mut data = Bytes(data);
        let (rows, offsets, indices, weights) =
            (u64::from(data.byte()), data.byte() as usize, data.byte() as usize, data.byte());
        // Small numbers, of which some are negative, and a few that are huge.
        let mut number = || match data.byte() as i8 {
            i8::MIN => i64::MIN,
            i8::MAX => i64::MAX,
            small => i64::from(small),
        };
        let offsets: Vec<i64> = (0..offsets).map(|_| number()).collect();
        let indices: Vec<i64> = (0..indices).map(|_| number()).collect();
        let weights = (weights % 4 != 0).then(|| vec![0.5; indices.len() + usize::from(weights == 255)]);

        let sound = offsets.first() == Some(&0)
            && offsets.last() == Some(&(indices.len() as i64))
            && offsets.windows(2).all(|pair| pair[0] <= pair[1])
            && indices.iter().all(|&index| 0 <= index && (index as u64) < rows)
            && weights.as_ref().is_none_or(|weights| weights.len() == indices.len());
        let narrow = |wide: &[i64]| wide.iter().map(|&number| i32::try_from(number)).collect::<Result<Vec<_>, _>>();
        if let (Ok(offsets), Ok(indices)) = (narrow(&offsets), narrow(&indices)) {
            assert_eq!(Bags::new("t", rows, &indices, &offsets, weights.as_deref()).is_ok(), sound);
        }
        let bags = Bags::new("t", rows, &indices, &offsets, weights.as_deref());
        assert_eq!(bags.is_ok(), sound);
        let Ok(bags) = bags else { return };
        let table = HeapTable::from_fn("t", rows, 1, |row, _| row as f32);
        let mut out = vec![f32::NAN; bags.len()];
        table.pool(&bags, Pooling::Sum, &mut out).expect("one value a bag");
        let weight = if weights.is_some() { 0.5 } else { 1.0 };
        for (sample, found) in out.iter().enumerate() {
            assert_eq!(*found, indices[bags.bag(sample)].iter().map(|&index| index as f32 * weight).sum::<f32>());
        }
    }
);
