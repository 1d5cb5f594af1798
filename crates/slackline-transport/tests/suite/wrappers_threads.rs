//! The wrappers around a transport in real time: the program that runs in the simulation runs here, too.

use std::thread;

use crate::traffic::{micros, shape, traffic};
use slackline_transport::delay::DelaySchedule;
use slackline_transport::{Checked, Delayed, Endpoint, Lane, threads};

#[test]
fn clean_traffic_passes_over_threads() {
    let schedule = DelaySchedule::new(&"spikes:0.05x1".parse().unwrap(), 1, 3, micros(200)).unwrap();
    let counts = thread::scope(|scope| {
        let start = |endpoint| {
            let schedule = schedule.clone();
            scope.spawn(move || {
                let endpoint = Checked::new(Delayed::new(endpoint, schedule, Lane(0)));
                let seen = traffic(&endpoint, 40, micros(0)).unwrap();
                endpoint.detach();
                seen.len()
            })
        };
        let threads: Vec<_> = threads::group(&shape(3, 2, 3, 100)).unwrap().into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(counts, [240; 3]);
}
