//! What a look, a wait or a call that keeps up must not hide from another: one program each, over the simulation.

use std::time::Duration;

use slackline_collective::synchronous::{self, Synchronous};
use slackline_collective::{Collective, CollectiveError, Group, GroupOptions, LaneOptions, OpenRound};
use slackline_transport::sim::{self, SimConfig};
use slackline_transport::{Checked, Endpoint, Lane};

/// A program of few ranks over the simulation, where a wait without end is an error.
fn simulated(ranks: usize, lanes: &[LaneOptions], program: impl Fn(Group<Box<dyn Endpoint>>) + Send + Sync) {
    let options = GroupOptions::new(lanes);
    let config = SimConfig::new(options.shape(ranks, 64), 1);
    let run =
        |endpoint| program(Group::new(Box::new(Checked::new(endpoint)) as Box<dyn Endpoint>, options.clone()).unwrap());
    sim::run(&config, run).unwrap().values().unwrap();
}

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn looking_for_one_peer_does_not_hide_what_has_come_from_another() {
    simulated(2, &[LaneOptions::lag(0)], |group| {
        let lane = group.streams(Lane(0));
        if group.rank() == 1 {
            lane.send(0, 3).unwrap().publish();
            assert!(lane.receive(0).unwrap().is_some());
        } else {
            assert!(lane.next_from(1).unwrap().is_none());
            group.endpoint().sleep(MILLISECOND);
            assert!(lane.next_from(0).unwrap().is_none());
            group.wait(Duration::MAX).unwrap();
            assert!(lane.next_from(1).unwrap().is_some());
            lane.send(1, 3).unwrap().publish();
        }
        group.finish().unwrap();
    });
}

#[test]
fn room_towards_one_peer_does_not_hide_room_towards_another() {
    simulated(3, &[LaneOptions::lag(0)], |group| {
        let lane = group.streams(Lane(0));
        if group.rank() == 0 {
            for to in [1, 2] {
                while let Some(room) = lane.room(to, 1).unwrap() {
                    room.publish();
                }
            }
            group.wait(Duration::MAX).unwrap();
            lane.room(1, 1).unwrap().expect("the first that has read").publish();
            group.wait(Duration::MAX).unwrap();
            assert!(group.endpoint().now() < 5 * MILLISECOND);
            lane.room(2, 1).unwrap().expect("the second").publish();
        } else {
            group.endpoint().sleep(MILLISECOND * group.rank() as u32);
            for _ in 0..3 {
                assert!(lane.receive(0).unwrap().is_some());
            }
            // A farewell would be news.
            group.endpoint().sleep(10 * MILLISECOND);
        }
        group.finish().unwrap();
    });
}

#[test]
fn a_call_does_not_wait_for_a_round_that_keeping_up_took() {
    simulated(2, &[LaneOptions::lag(0), LaneOptions::lag(2)], |group| {
        for lane in [Lane(0), Lane(1)] {
            let rounds = group.lane(lane);
            rounds.keep_up(true);
            for _ in 0..10 {
                match rounds.begin(&[0; 2]) {
                    Ok(round) => round.publish().unwrap(),
                    Err(error) => assert!(matches!(error, CollectiveError::TakeFirst { .. }), "{error}"),
                }
                while rounds.take().unwrap().is_some() {}
            }
            while rounds.flush().unwrap().is_some() {}
        }
        assert!(group.endpoint().now() < Duration::from_secs(1));
        group.finish().unwrap();
    });
}

#[test]
fn a_peer_that_waits_for_the_slots_of_a_held_round_is_told_when_they_come_back() {
    simulated(2, &[LaneOptions::lag(0)], |group| {
        let rounds = group.lane(Lane(0));
        let send = || rounds.begin(&[1; 2]).unwrap().publish().unwrap();
        send();
        let held = rounds.take().unwrap().unwrap();
        if group.rank() == 0 {
            send();
            group.endpoint().sleep(MILLISECOND);
            // The peer has both, and waits for a slot for its next.
            drop(rounds.take().unwrap().unwrap());
            drop(held);
            group.wait(Duration::MAX).unwrap();
        } else {
            drop(held);
            send();
            drop(rounds.take().unwrap().unwrap());
        }
        send();
        assert_eq!(rounds.take().unwrap().unwrap().number(), 2);
        assert!(group.endpoint().now() < Duration::from_secs(1));
        group.finish().unwrap();
    });
}

#[test]
fn a_peer_whose_fragments_are_behind_a_held_round_is_told_when_their_slots_come_back() {
    simulated(2, &[LaneOptions::lag(0)], |group| {
        let rounds = group.lane(Lane(0));
        rounds.begin(&[1; 2]).unwrap().publish().unwrap();
        let held = rounds.take().unwrap().unwrap();
        if group.rank() == 0 {
            group.endpoint().sleep(MILLISECOND);
            // What has come of the next round.
            group.wait(Duration::MAX).unwrap();
            drop(held);
            group.wait(Duration::MAX).unwrap();
        } else {
            drop(held);
        }
        rounds.begin(&[500; 2]).unwrap().publish().unwrap();
        assert_eq!(rounds.take().unwrap().unwrap().message(1).len(), 500);
        assert!(group.endpoint().now() < Duration::from_secs(1));
        group.finish().unwrap();
    });
}

#[test]
fn keeping_up_tells_a_peer_that_its_slot_came_back() {
    let options = GroupOptions::new([LaneOptions::lag(0), LaneOptions::lag(0)]);
    let mut shape = options.shape(2, 64);
    shape.lanes[0].slots = 1;
    let report = sim::run(&SimConfig::new(shape, 1), |endpoint| {
        let group = Group::new(Checked::new(endpoint), options.clone()).unwrap();
        let (rounds, signal) = (group.lane(Lane(0)), group.streams(Lane(1)));
        if group.rank() == 1 {
            rounds.keep_up(true);
            while signal.next().unwrap().is_none() {
                group.wait(Duration::MAX).unwrap();
            }
        } else {
            for _ in 0..100 {
                rounds.begin(&[0; 2]).unwrap().publish().unwrap();
                while rounds.take().unwrap().is_some() {}
            }
            signal.send(1, 0).unwrap().publish();
        }
        assert!(group.endpoint().now() < Duration::from_secs(1));
        group.finish().unwrap();
    });
    report.unwrap().values().unwrap();
}

#[test]
fn keeping_up_sends_nothing_on_a_lane_of_streams() {
    simulated(2, &[LaneOptions::lag(0)], |group| {
        group.lane(Lane(0)).keep_up(true);
        let lane = group.streams(Lane(0));
        if group.rank() == 1 {
            lane.send(0, 3).unwrap().publish();
            group.endpoint().sleep(MILLISECOND);
        } else {
            assert!(lane.receive(1).unwrap().is_some());
            group.progress().unwrap();
        }
        let mut came = Vec::new();
        while let Some(message) = lane.drain().unwrap() {
            came.push(message.to_vec());
        }
        assert_eq!(came, [[0; 0]; 0]);
        group.finish().unwrap();
    });
}

#[test]
fn the_oracle_has_one_story_of_a_size_that_nobody_expected() {
    let options = GroupOptions::new([LaneOptions::lag(0)]);
    for seed in 0..50 {
        let report = sim::run(&SimConfig::new(options.shape(4, 64), seed), |endpoint| {
            let rank = endpoint.rank();
            let mut rounds = synchronous::Rounds::new(Synchronous::new(endpoint, Lane(0), Duration::from_secs(9)));
            loop {
                let number = rounds.oracle_round(rank == 2);
                if let Err(error) = number {
                    return error.to_string();
                }
            }
        });
        let stories = report.unwrap().values().unwrap();
        assert!(stories.iter().all(|story| *story == stories[0]), "seed {seed}: {stories:#?}");
        assert!(stories[0].starts_with("rank 2 sent 5 bytes to rank 0 in round"), "{}", stories[0]);
    }
}

trait OracleRound {
    /// Eight bytes to all; in round 3, if `wrong`, five to rank 0.
    fn oracle_round(&mut self, wrong: bool) -> Result<(), CollectiveError>;
}

impl<C: Collective> OracleRound for C {
    fn oracle_round(&mut self, wrong: bool) -> Result<(), CollectiveError> {
        let mut sizes = [8; 4];
        let round = self.begin(&sizes, &[8; 4])?;
        let third = round.number() == 3;
        drop(round);
        sizes[0] = if wrong && third { 5 } else { 8 };
        self.begin(&sizes, &[8; 4])?.publish()?;
        while self.take()?.is_some() {}
        Ok(())
    }
}
