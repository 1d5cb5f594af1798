//! What comes from outside as lookups is checked once, whatever it is.

use proptest::collection::vec;
use proptest::prelude::*;
use slackline_embedding::{BagError, Bags, Indices};

/// Checks the same lookups in all combinations of widths; all must give the same answer.
fn check(rows: u64, indices: &[i64], offsets: &[i64], weights: Option<&[f32]>) -> Result<(usize, usize), BagError> {
    let narrow = |values: &[i64]| values.iter().map(|&value| i32::try_from(value).ok()).collect::<Option<Vec<_>>>();
    let (narrow_indices, narrow_offsets) = (narrow(indices), narrow(offsets));
    let wide = [Some(Indices::I64(indices)), narrow_indices.as_ref().map(Indices::from)];
    let mut answers = Vec::new();
    for indices in wide.into_iter().flatten() {
        for offsets in [Some(Indices::I64(offsets)), narrow_offsets.as_ref().map(Indices::from)].into_iter().flatten() {
            let bags = Bags::new("t", rows, indices, offsets, weights);
            answers.push(bags.map(|bags| (bags.len(), bags.lookups())));
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "the widths differ: {answers:?}");
    answers.swap_remove(0)
}

#[track_caller]
fn refused(rows: u64, indices: &[i64], offsets: &[i64], message: &str) {
    assert_eq!(check(rows, indices, offsets, None).unwrap_err().to_string(), message);
}

#[test]
fn sound_lookups_pass() {
    assert_eq!(check(5, &[0, 4, 4], &[0, 1, 1, 3], None), Ok((3, 3)));
    assert_eq!(check(5, &[0, 4, 4], &[0, 1, 1, 3], Some(&[f32::NAN; 3])), Ok((3, 3)));
    assert_eq!(check(0, &[], &[0], None), Ok((0, 0)), "no samples");
    assert_eq!(check(0, &[], &[0, 0, 0], None), Ok((2, 0)), "empty bags in a table without rows");
    assert_eq!(
        check(u64::MAX, &[i64::MAX, i32::MAX.into()], &[0, 2], None),
        Ok((1, 2)),
        "more rows than indices can name"
    );
    assert_eq!(check(1 << 31, &[(1 << 31) - 1], &[0, 1], None), Ok((1, 1)));
}

#[test]
fn an_index_at_or_past_the_end_is_named_with_its_sample() {
    refused(
        5,
        &[0, 5],
        &[0, 1, 2],
        "table t, sample 1: index 5 (number 0 of its bag) is outside of the table's 5 rows",
    );
    refused(0, &[0], &[0, 0, 1], "table t, sample 1: index 0 (number 0 of its bag) is outside of the table's 0 rows");
    let far = "table t, sample 0: index 9223372036854775807 (number 0 of its bag) is outside of the table's 9223372036854775807 rows";
    refused(i64::MAX as u64, &[i64::MAX], &[0, 1], far);
    let narrow = "table t, sample 0: index 2147483647 (number 0 of its bag) is outside of the table's 2147483647 rows";
    refused(i32::MAX as u64, &[i32::MAX.into()], &[0, 1], narrow);
}

#[test]
fn a_negative_index_is_named_with_its_sample() {
    refused(5, &[1, 2, -1], &[0, 0, 3], "table t, sample 1: index -1 (number 2 of its bag) is negative");
    refused(
        u64::MAX,
        &[i64::MIN],
        &[0, 1],
        "table t, sample 0: index -9223372036854775808 (number 0 of its bag) is negative",
    );
    refused(
        1 << 40,
        &[i32::MIN.into()],
        &[0, 1],
        "table t, sample 0: index -2147483648 (number 0 of its bag) is negative",
    );
}

#[test]
fn offsets_that_are_no_bags_are_refused() {
    refused(5, &[1], &[], "table t: offsets are empty; there must be one more than samples");
    refused(5, &[1], &[1, 1], "table t, sample 0: the first offset is 1, it must be 0");
    refused(5, &[1], &[-1, 1], "table t, sample 0: the first offset is -1, it must be 0");
    refused(5, &[1, 1], &[0, 2, 1, 2], "table t, sample 1: the bag begins at offset 2 and ends before it, at 1");
    refused(5, &[1, 1], &[0, 1, -3, 2], "table t, sample 1: the bag ends at offset -3, which is negative");
    refused(5, &[1, 1], &[0, 1, 3], "table t, sample 1: the bag ends at offset 3, past the 2 indices");
    refused(5, &[1, 1], &[0, 3, 2], "table t, sample 0: the bag ends at offset 3, past the 2 indices");
    refused(5, &[1, 1], &[0, 1, 1], "table t: the last of 2 samples ends at offset 1, but there are 2 indices");
    refused(5, &[1, 1], &[0], "table t: the last of 0 samples ends at offset 0, but there are 2 indices");
    // Differences that wrap around in the width they are computed in: from 3 up, over the edge, and on to 1.
    for smallest in [i64::MIN, i32::MIN.into()] {
        let past = "table t, sample 0: the bag ends at offset 3, past the 1 indices";
        refused(5, &[1], &[0, 3, smallest + 2, 1], past);
    }
    // Differences that do not fit into the width they are computed in.
    refused(
        5,
        &[1],
        &[0, 1, i64::MIN, 1],
        "table t, sample 1: the bag ends at offset -9223372036854775808, which is negative",
    );
    refused(
        5,
        &[1],
        &[0, i32::MAX.into(), i32::MIN.into(), 1],
        "table t, sample 0: the bag ends at offset 2147483647, past the 1 indices",
    );
}

#[test]
fn weights_must_be_as_many_as_indices() {
    let error = check(5, &[1, 2], &[0, 2], Some(&[1.0])).unwrap_err();
    assert_eq!(error.to_string(), "table t: 1 weights for 2 indices");
    assert!(check(5, &[], &[0, 0], Some(&[1.0])).is_err());
    assert!(check(5, &[], &[0, 0], Some(&[])).is_ok());
}

#[test]
#[should_panic(expected = "samples 1..4 of bags that have 3 samples")]
fn a_run_past_the_last_sample_is_a_callers_mistake() {
    let _ = Bags::new("t", 5, &[0i64], &[0i64, 0, 0, 1], None).unwrap().samples(1..4);
}

/// What `Bags::new` promises, read off its documentation.
fn sound(rows: u64, indices: &[i64], offsets: &[i64]) -> bool {
    offsets.first() == Some(&0)
        && offsets.is_sorted()
        && offsets.last() == Some(&(indices.len() as i64))
        && indices.iter().all(|&index| u64::try_from(index).is_ok_and(|index| index < rows))
}

fn hostile() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => 0..6i64,
        1 => -3..0i64,
        1 => prop::sample::select(vec![i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1]),
        1 => prop::sample::select(vec![i32::MIN, i32::MIN + 1, i32::MAX, i32::MAX - 1]).prop_map(i64::from),
        1 => any::<i64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn exactly_the_sound_lookups_pass(
        rows in prop_oneof![4 => 0..8u64, 1 => any::<u64>(), 1 => Just(1 << 31)],
        indices in vec(hostile(), 0..9),
        mut offsets in vec(hostile(), 0..6),
        mend in any::<bool>(),
    ) {
        if mend {
            // Otherwise hardly any case would reach the check of the indices.
            offsets.iter_mut().for_each(|offset| *offset = (*offset).clamp(0, indices.len() as i64));
            offsets.sort();
            offsets.insert(0, 0);
            offsets.push(indices.len() as i64);
        }
        let answer = check(rows, &indices, &offsets, None);
        prop_assert_eq!(answer.is_ok(), sound(rows, &indices, &offsets), "{:?}", answer);
        if let Ok((samples, lookups)) = answer {
            prop_assert_eq!((samples, lookups), (offsets.len() - 1, indices.len()));
        }
    }
}
