//! The property suite over threads, raw and under the rule checker.

use crate::common::{bounded_lag, on_threads, oracle, specs};
use proptest::prelude::*;
use slackline_transport::{Checked, threads};

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_round_is_exactly_what_was_sent(spec in specs(8, 12, 300)) {
        let shape = spec.shape();
        let expected = on_threads(threads::group(&shape).unwrap(), |endpoint| oracle(endpoint, &spec));
        let came = on_threads(threads::group(&shape).unwrap(), |endpoint| bounded_lag(endpoint, &spec).unwrap().0);
        prop_assert_eq!(came, expected);
    }

    #[test]
    fn the_rules_of_the_transport_are_kept(spec in specs(5, 12, 100)) {
        let endpoints = threads::group(&spec.shape()).unwrap().into_iter().map(Checked::new).collect();
        on_threads(endpoints, |endpoint| bounded_lag(endpoint, &spec).unwrap());
    }
}
