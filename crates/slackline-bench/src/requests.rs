//! Requests and answers on streams, between ranks of which one is late every time it looks.
//!
//! Every rank asks every other on one lane, at most one request under way to each, and answers on another lane as requests
//! arrive, from the request where it landed into the room where it will be read. The late rank sleeps before each look at what
//! has come. A rank that is asked by it, or that waits for its answer, goes on with the others meanwhile.
//!
//! The time of an answer counts from when its request was due, so that a rank that is late in asking hides nothing. Every answer
//! is compared byte by byte with what that rank has to answer.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slackline_collective::{Group, GroupOptions, LaneOptions};
use slackline_transport::{Endpoint, Lane, cores, threads};

use crate::ranks::{self, Transport};
use crate::{BenchError, table};

/// What to measure.
#[derive(Clone, Debug)]
pub struct RequestsOptions {
    /// Ranks of the group, at least 3: two that are prompt, and the late one.
    pub ranks: usize,
    /// The late rank.
    pub late: usize,
    /// How long it sleeps before each look.
    pub delay: Duration,
    /// Bytes of a request and of its answer, at least 1.
    pub bytes: usize,
    /// From one request to the next to the same rank, at least; the next one also waits for the answer to the last.
    pub every: Duration,
    /// For how long requests are sent.
    pub time: Duration,
    /// How ranks are run.
    pub transport: Transport,
}

/// The times of some answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AnswerTimes {
    /// How many there were.
    pub answers: usize,
    /// Half came sooner.
    pub median_us: f64,
    /// 99 of 100 came sooner.
    pub p99_us: f64,
    /// The last to come.
    pub largest_us: f64,
}

/// The result of a run, all answers of which were right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Requests {
    /// Ranks of the group.
    pub ranks: usize,
    /// Cores that the ranks share.
    pub cores: usize,
    /// `shm`, `threads` or `mpi`.
    pub transport: String,
    /// The late rank.
    pub late: usize,
    /// Milliseconds that it sleeps before each look.
    pub late_ms: f64,
    /// Bytes of a request and of its answer.
    pub bytes: usize,
    /// Microseconds from one request to the next.
    pub every_us: f64,
    /// Answers of prompt ranks to prompt ranks.
    pub prompt: AnswerTimes,
    /// Answers of the late rank to prompt ranks.
    pub of_late: AnswerTimes,
}

/// What a rank is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RequestsTask {
    late: usize,
    delay: Duration,
    bytes: usize,
    every: Duration,
    time: Duration,
    /// The rank that answers one wrong byte, to test that the check finds it.
    flip: Option<usize>,
}

/// The nanoseconds of every answer to a rank, in one list for each rank that answered.
type Record = Vec<Vec<u64>>;

/// The command of a rank process.
const RANK_COMMAND: &str = "requests-rank";

const REQUESTS: Lane = Lane(0);
const ANSWERS: Lane = Lane(1);

/// Measures.
///
/// # Errors
///
/// [`BenchError::Rank`] if a rank failed, also for a wrong answer, which the rank has reported; [`BenchError::WrongContent`] for
/// a wrong answer where ranks are threads or those of a job; [`BenchError::Settings`], and those of the transport.
pub fn requests(options: &RequestsOptions) -> Result<Requests, BenchError> {
    let &RequestsOptions { ranks, late, delay, bytes, every, time, .. } = options;
    measure(options, &RequestsTask { late, delay, bytes, every, time, flip: None }).map(|records| {
        let prompt = || (0..ranks).filter(|rank| *rank != late);
        let among = prompt().flat_map(|asker| prompt().map(move |asked| (asker, asked)));
        let (among, of_late) = (times(&records, among), times(&records, prompt().map(|asker| (asker, late))));
        Requests {
            ranks,
            cores: cores::count(),
            transport: options.transport.name().to_owned(),
            late,
            late_ms: delay.as_secs_f64() * 1e3,
            bytes,
            every_us: every.as_secs_f64() * 1e6,
            prompt: among,
            of_late,
        }
    })
}

/// The whole life of a rank process of [`requests`]: it finds its group in the environment and its task in `folder`.
///
/// # Errors
///
/// Whatever went wrong; the launcher then knows which rank failed.
pub fn rank(folder: &Path) -> Result<(), BenchError> {
    ranks::work(folder, |endpoint, task: &RequestsTask| ask_and_answer(endpoint, task))
}

fn measure(options: &RequestsOptions, task: &RequestsTask) -> Result<Vec<Record>, BenchError> {
    let wrong = |why: &str| Err(BenchError::Settings(why.to_owned()));
    if options.ranks < 3 {
        return wrong("requests need at least 3 ranks: two that are prompt, and one that is late");
    }
    if options.late >= options.ranks {
        return wrong(&format!("rank {} cannot be late in a group of {}", options.late, options.ranks));
    }
    if options.bytes == 0 || options.time.is_zero() {
        return wrong("a request has at least one byte, and the run takes longer than no time");
    }
    let shape = lanes().shape(options.ranks, options.bytes);
    match &options.transport {
        Transport::Shm => {
            let folder = tempfile::tempdir().map_err(BenchError::file("creating a folder in", std::env::temp_dir()))?;
            ranks::launch(RANK_COMMAND, shape, task, false, folder.path())
        }
        Transport::Threads => ranks::on_threads(threads::group(&shape)?, |endpoint| ask_and_answer(endpoint, task)),
        #[cfg(feature = "mpi")]
        Transport::Mpi(job) => job.on_all(&shape, |endpoint| ask_and_answer(endpoint, task)),
    }
}

fn lanes() -> GroupOptions {
    GroupOptions::new([LaneOptions::lag(0), LaneOptions::lag(0)]).deadline(Duration::from_secs(60))
}

/// Byte `at` of request `number` of one rank to another; the answer is [`answered`].
fn asked(number: u64, from: usize, to: usize, at: usize) -> u8 {
    (number as usize * 31 + from * 7 + to * 13 + at * 3 + at / 251) as u8
}

/// What a rank makes of a byte that it was asked.
fn answered(byte: u8, by: usize) -> u8 {
    byte.rotate_left(3) ^ (by as u8 + 1)
}

/// One peer, as the rank that asks it sees it.
#[derive(Clone, Default)]
struct Asked {
    /// Requests sent.
    count: u64,
    /// The last one has no answer yet.
    under_way: bool,
    /// When that one was due, or the next one is.
    due: Duration,
    times: Vec<u64>,
}

/// One rank's part: asks for as long as the run takes, answers until nobody asks any more.
fn ask_and_answer<E: Endpoint>(endpoint: E, task: &RequestsTask) -> Result<Record, BenchError> {
    let group = Group::new(endpoint, lanes())?;
    let (own, ranks) = (group.rank(), group.ranks());
    let (requests, answers) = (group.streams(REQUESTS), group.streams(ANSWERS));
    let now = || group.endpoint().now();
    let end = now() + task.time;
    let peers = || (0..ranks).filter(|peer| *peer != own);
    // Not all at once.
    let first = |peer: usize| now() + task.every * ((peer + ranks - own) % ranks) as u32 / ranks as u32;
    let mut asks: Vec<Asked> = (0..ranks).map(|peer| Asked { due: first(peer), ..Asked::default() }).collect();
    let mut left = false;
    loop {
        if own == task.late {
            group.endpoint().sleep(task.delay);
        }
        while let Some(request) = requests.next()? {
            // There is room: whoever asks has read the last answer.
            let mut room = answers.send(request.from(), request.len())?;
            for (out, byte) in room.iter_mut().zip(request.iter()) {
                *out = answered(*byte, own);
            }
            if task.flip == Some(own) {
                room[0] ^= 1;
            }
            room.publish();
        }
        while let Some(answer) = answers.next()? {
            let (from, came) = (answer.from(), now());
            let Asked { count, under_way, due, times } = &mut asks[from];
            let number = *count - 1;
            let right = |(at, byte): (usize, &u8)| *byte == answered(asked(number, own, from, at), from);
            if answer.len() != task.bytes || !answer.iter().enumerate().all(right) {
                return Err(BenchError::WrongContent { rank: own, from, round: number });
            }
            times.push((came - *due).as_nanos() as u64);
            *under_way = false;
            *due = came.max(*due + task.every);
        }
        let mut next = end;
        for to in peers() {
            let Asked { count, under_way, due, .. } = &mut asks[to];
            if *under_way || *due >= end || now() >= end {
                continue;
            }
            if *due > now() {
                next = next.min(*due);
                continue;
            }
            let mut room = requests.send(to, task.bytes)?;
            room.iter_mut().enumerate().for_each(|(at, byte)| *byte = asked(*count, own, to, at));
            room.publish();
            *count += 1;
            *under_way = true;
        }
        if !left && now() >= end && !asks.iter().any(|ask| ask.under_way) {
            left = true;
            requests.leave()?;
        }
        // A farewell comes behind the last request, and those that have come were answered above.
        if left && peers().all(|peer| requests.has_left(peer)) {
            break;
        }
        group.wait(if now() < end { next } else { Duration::MAX })?;
    }
    group.finish()?;
    Ok(asks.into_iter().map(|ask| ask.times).collect())
}

/// The times of the answers of some pairs, each of who asked and who answered.
fn times(records: &[Record], pairs: impl Iterator<Item = (usize, usize)>) -> AnswerTimes {
    let mut all: Vec<u64> = pairs.flat_map(|(asker, asked)| &records[asker][asked]).copied().collect();
    all.sort_unstable();
    // By nearest rank.
    let percentile = |percent: usize| {
        let rank = (all.len() * percent).div_ceil(100).max(1);
        all.get(rank - 1).map_or(0.0, |time| *time as f64 / 1e3)
    };
    AnswerTimes { answers: all.len(), median_us: percentile(50), p99_us: percentile(99), largest_us: percentile(100) }
}

/// The result, readable.
pub fn describe(result: &Requests) -> String {
    let Requests { ranks, cores, transport, late, late_ms, bytes, every_us, .. } = result;
    let share = if ranks > cores { format!(" share {cores} cores") } else { format!(" on {cores} cores") };
    let mut out = format!(
        "{ranks} ranks ({transport}){share}; rank {late} is late by {late_ms} ms every time it looks\n\
         requests of {}, at most one every {every_us} us from each rank to each other; times from when a request was due\n\n\
         {:<28} {:>9} {:>12} {:>12} {:>12}\n",
        table::bytes(*bytes),
        "answers",
        "number",
        "median",
        "p99",
        "largest"
    );
    for (name, times) in [("among the prompt ranks", &result.prompt), ("of the late rank", &result.of_late)] {
        let ms = |us: f64| format!("{:.3} ms", us / 1e3);
        let (median, p99, largest) = (ms(times.median_us), ms(times.p99_us), ms(times.largest_us));
        out.push_str(&format!("{name:<28} {:>9} {median:>12} {p99:>12} {largest:>12}\n", times.answers));
    }
    out.push_str("\nevery answer had the bytes that were due");
    if ranks > cores {
        out.push_str("; ranks that share a core also wait for each other's turns on it");
    }
    out + ".\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> RequestsOptions {
        RequestsOptions {
            ranks: 3,
            late: 1,
            delay: Duration::from_millis(20),
            bytes: 300,
            every: Duration::from_micros(500),
            time: Duration::from_millis(200),
            transport: Transport::Threads,
        }
    }

    #[test]
    fn prompt_and_late_ranks_answer_and_every_answer_counts_once() {
        let result = requests(&options()).unwrap();
        assert!(result.prompt.answers > 2 && result.of_late.answers > 2, "{result:?}");
        for times in [result.prompt, result.of_late] {
            assert!(times.median_us > 0.0 && times.median_us <= times.p99_us && times.p99_us <= times.largest_us);
        }
        let text = describe(&result);
        assert!(text.contains("rank 1 is late by 20 ms every time") && text.contains("300 B"), "{text}");
        assert!(text.contains(&format!("{:>9}", result.prompt.answers)), "{text}");
    }

    #[test]
    fn a_wrong_answer_has_no_time() {
        let task = RequestsTask {
            late: 1,
            delay: Duration::from_millis(1),
            bytes: 8,
            every: Duration::from_millis(1),
            time: Duration::from_millis(100),
            flip: Some(2),
        };
        // Whoever finds it ends; the others hear of that.
        match measure(&RequestsOptions { bytes: 8, ..options() }, &task) {
            Err(BenchError::WrongContent { from: 2, round: 0, .. } | BenchError::Collective(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |options: RequestsOptions, word: &str| {
            let error = requests(&options).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        refused(RequestsOptions { ranks: 2, ..options() }, "at least 3");
        refused(RequestsOptions { late: 3, ..options() }, "rank 3");
        refused(RequestsOptions { bytes: 0, ..options() }, "byte");
    }

    #[test]
    fn the_percentiles_are_those_of_the_pairs() {
        let records = vec![vec![vec![], vec![1000, 3000], vec![9000]], vec![vec![2000], vec![], vec![7000]], vec![]];
        let times = times(&records, [(0, 1), (1, 0)].into_iter());
        assert_eq!((times.answers, times.median_us, times.p99_us, times.largest_us), (3, 2.0, 3.0, 3.0));
    }
}
