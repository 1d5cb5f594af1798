//! Configurations by the reference's arguments, and what they come to when they are written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slackline_dlrm::ModelConfig;
use slackline_fuzz::{golden, seed};

fn seeds() -> Vec<Vec<u8>> {
    ["dot", "cat", "hashed", "md", "qr_add", "qr_concat", "one_hot_clamped"]
        .map(|name| golden(&format!("slackline-dlrm/tests/golden/{name}.json")))
        .into()
}

fuzz_target!(
    init: seed(seeds),
    |data: &[u8]| {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let Ok(parsed) = ModelConfig::from_json(text) else { return };
        // Written out in full, which is not always as it was given; a decimal fraction may lose its last digit.
        let written = |config: &ModelConfig| {
            let mut json = config.to_json();
            json["loss_threshold"] = 0.into();
            json
        };
        let again = ModelConfig::from_json(&parsed.config.to_json().to_string()).expect("what was written");
        assert_eq!(written(&again.config), written(&parsed.config));
    }
);
