//! Counter-based random numbers: each a function of what it is for, so that the order of draws does not matter.

/// The increment of SplitMix64: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// 64 random bits that belong to these words and their order.
pub(crate) fn draw(words: &[u64]) -> u64 {
    words.iter().fold(GOLDEN, |bits, &word| mix(bits.wrapping_add(GOLDEN) ^ mix(word.wrapping_add(GOLDEN))))
}

/// A number in `0 .. 1` from the upper 53 bits.
pub(crate) fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// A number in `low ..= high`.
pub(crate) fn pick(bits: u64, low: u64, high: u64) -> u64 {
    let values = u128::from(high - low) + 1;
    low + ((u128::from(bits) * values) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_number_of_words_matter() {
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[1]), draw(&[1, 0]));
        assert_ne!(draw(&[0, 0]), draw(&[0, 1]));
    }

    #[test]
    fn picks_and_fractions_cover_their_range_and_no_more() {
        assert_eq!(pick(0, 3, 5), 3);
        assert_eq!(pick(u64::MAX, 3, 5), 5);
        assert_eq!(pick(u64::MAX, 0, u64::MAX), u64::MAX);
        assert_eq!(fraction(0), 0.0);
        assert!(fraction(u64::MAX) < 1.0);
    }

    #[test]
    fn every_bit_is_set_about_half_of_the_time() {
        let draws = 4096;
        for bit in 0..64 {
            let set = (0..draws).filter(|&counter| draw(&[7, 1, counter]) >> bit & 1 == 1).count();
            assert!((1800..2300).contains(&set), "bit {bit} is set in {set} of {draws} draws");
        }
    }
}
