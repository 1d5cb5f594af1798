//! Ranks that would compute different things say so and predict nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Place, Run};

/// Ends the other thread.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_model_that_is_replaced_while_ranks_start_gives_one_models_predictions_or_an_error() {
    let place = Place::new(400);
    place.succeed(&["init", "--config", "config.json", "--seed", "4", "--output", "other", "--shards", "2"]);
    let predict = |model: &str, words: &[&str]| -> Run {
        let _ = fs::remove_file(place.path("out.csv"));
        place.run(&[&["infer", model, "--input", "rows.csv", "--output", "out.csv"], words].concat())
    };
    let expected = ["model", "other"].map(|model| {
        assert_eq!(predict(model, &[]).code, Some(0));
        place.read("out.csv")
    });
    assert_ne!(expected[0], expected[1]);
    symlink("model", place.path("current")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                symlink(["other", "model"][turn % 2], place.path("next")).unwrap();
                fs::rename(place.path("next"), place.path("current")).unwrap();
                std::thread::sleep(Duration::from_micros(300 * (turn as u64 % 7)));
            }
        });
        // Also when an assertion fails.
        let _stop = Stop(&done);
        for _ in 0..10 {
            let run = predict("current", &["--ranks", "4", "--transport", "shm"]);
            if run.code == Some(0) {
                let came = place.read("out.csv");
                assert!(expected.contains(&came), "predictions of no model");
            } else {
                // Ranks that opened different models, or a directory that was switched while it was opened.
                let reasons =
                    ["the ranks differ: the model (digest) is ", "leads out of the model directory", "has changed"];
                assert!(reasons.iter().any(|reason| run.stderr.contains(reason)), "{}", run.stderr);
                assert!(!place.path("out.csv").exists());
            }
        }
    });
}
